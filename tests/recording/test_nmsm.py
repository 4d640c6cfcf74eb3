"""Muscle parameters of the NMSM Pipeline's ``.osimx`` files."""

from __future__ import annotations

import json

import pytest

from nms_gym.errors import InputError
from nms_gym.recording.nmsm import read_osimx

FILE = """<?xml version='1.0' encoding='utf-8'?>
<NMSMPipelineDocument Version="0.1.0"><OsimxModel name="m"><associated_osim_model>..\\a.osim</associated_osim_model>
<RCNLMuscleSet><RCNLMuscle name="a"><electromechanical_delay>0.5</electromechanical_delay>
<activation_time_constant>1.5</activation_time_constant><emg_scale_factor>0.25</emg_scale_factor>
</RCNLMuscle><RCNLMuscle name="b"><optimal_fiber_length>0.1</optimal_fiber_length></RCNLMuscle></RCNLMuscleSet>
<RCNLContactSurfaceSet /></OsimxModel></NMSMPipelineDocument>"""


def test_units_and_names(tmp_path):
    file = tmp_path / "a.osimx"
    file.write_text(FILE)
    result = read_osimx(file)
    assert (result.model, result.osim, result.other) == ("m", "..\\a.osim", ("RCNLContactSurfaceSet",))
    assert result.muscles["a"] == {
        "electromechanical_delay": 0.05,
        "activation_time_constant": 0.015,
        "deactivation_time_constant": 0.06,
        "emg_gain": 0.25,
    }
    assert result.parameter("optimal_fiber_length") == {"b": 0.1}
    with pytest.raises(InputError, match=r"no parameter 'emg_gian'; did you mean 'emg_gain'"):
        result.parameter("emg_gian")


def test_a_published_result(data):
    """Against the parameters that were read from the same file independently, in SI units."""
    folder = data("stroke_gait_left")
    result = read_osimx(folder / "original" / "nmsm_final.osimx")
    expected = json.loads((folder / "nmsm_result.json").read_text())["parameters"]
    names = {
        "max_isometric_force": "F0",
        "optimal_fiber_length": "lopt",
        "tendon_slack_length": "lts",
        "electromechanical_delay": "delay_s",
        "activation_time_constant": "tau_act_s",
        "deactivation_time_constant": "tau_deact_s",
        "activation_nonlinearity": "nonlinearity",
        "emg_gain": "emg_scale",
    }
    assert set(result.muscles) == set(expected)
    assert len(expected) == 43
    for muscle, values in result.muscles.items():
        assert set(values) == set(names)
        for ours, theirs in names.items():
            assert values[ours] == pytest.approx(expected[muscle][theirs], rel=1e-12, abs=1e-15), (muscle, ours)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.25", "much", "muscle 'a': <emg_scale_factor> is 'much'"),
        ("0.25", "nan", "muscle 'a': <emg_scale_factor> is 'nan'"),
        ('name="b"', 'name="a"', "muscle 'a': every RCNLMuscle needs a name"),
        ("emg_scale_factor>", "emg_scale>", "muscle 'a': <emg_scale>; did you mean 'emg_scale_factor'"),
        ("NMSMPipelineDocument", "OpenSimDocument", "the file is a <OpenSimDocument>"),
        ("RCNLMuscle ", "Muscle ", "not a usable XML file"),
        ("RCNLMuscleSet>", "MuscleSet>", "no <RCNLMuscle> in <RCNLMuscleSet>"),
    ],
)
def test_bad_files(tmp_path, old, new, message):
    file = tmp_path / "a.osimx"
    count = 1 if old in ("RCNLMuscle ", "0.25") else -1
    file.write_text(FILE.replace(old, new, count))
    with pytest.raises(InputError, match=message) as raised:
        read_osimx(file)
    assert "a.osimx" in str(raised.value)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        read_osimx(tmp_path / "none.osimx")
