"""CEINMS files read, and refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from ceinms_files import EXAMPLE, EXCITATIONS, SUBJECT, TRIAL, load_example, read

from nms_gym.errors import InputError
from nms_gym.recording.ceinms import load_ceinms_trial, read_ceinms_subject


def test_subject(data):
    subject, excitations, trial = load_example(data(EXAMPLE))
    soleus = subject.muscles[0]
    assert len(subject.muscles) == 12
    assert soleus.name == "soleus_r"
    assert (soleus.c1, soleus.shape_factor, soleus.max_contraction_velocity) == (-0.5, -0.1, 10.0)
    assert (soleus.electromechanical_delay, soleus.optimal_fiber_length_change, soleus.fiber_damping) == (
        0.015,
        0.15,
        0.1,
    )
    assert soleus.pennation_at_optimal == 0.38142888
    assert tuple(subject.dofs) == ("knee_angle_r", "ankle_angle_r")
    assert subject.dofs["ankle_angle_r"] == ("soleus_r", "gasmed_r", "gaslat_r", "tibant_r")
    assert excitations.muscles["vasint_r"] == {"vastus_lateralis": 0.5, "vastus_medius": 0.5}
    assert trial.channels == excitations.channels
    assert trial.moments[0] == pytest.approx([36.05546826, -2.24963889])
    # A muscle has no moment arm about a joint it does not cross.
    assert not trial.moment_arms[:, 0, 0].any()
    assert trial.moment_arms[0, 1, 0] == -0.04707973469


def test_defaults_units_and_paths(tmp_path):
    subject, excitations = read(tmp_path, SUBJECT), read(tmp_path, EXCITATIONS)
    a, b = subject.muscles
    assert (a.pennation_at_optimal, b.pennation_at_optimal) == (pytest.approx(np.pi / 6), 0.1)
    assert (a.max_contraction_velocity, b.max_contraction_velocity) == (10.0, 8.0)
    assert excitations.muscles["b"] == {"x": 0.25}
    assert (a.max_isometric_force, a.strength_coefficient) == (100.0, 1.5)
    trial = read(tmp_path, TRIAL)
    assert trial.lengths == tmp_path / "in" / "lmt.sto"
    assert (trial.torques, trial.window) == (None, (0.5, 1.5))


@pytest.mark.parametrize(
    ("text", "old", "new", "message"),
    [
        (SUBJECT, "<subject>", "<subject", "not a usable XML file"),
        (SUBJECT, "subject>", "model>", "not a usable XML file"),
        (SUBJECT, "<c1>-0.5</c1>", "", "muscle 'a': no <c1>"),
        (SUBJECT, "<c2>-0.4</c2>", "<c2>fast</c2>", "muscle 'a': <c2> is 'fast'"),
        (SUBJECT, "<emDelay>0.02</emDelay>", "", "no <emDelay>"),
        (SUBJECT, "<name>b</name>", "<name>a</name>", "muscles named more than once: 'a'"),
        (SUBJECT, "a b", "a c", "joint 'knee': names 'c'"),
        (SUBJECT, "</mtuDefault>", "<curve><name>tendon</name></curve></mtuDefault>", "curve 'tendon'; "),
        (EXCITATIONS, '"0.25"', '"-0.25"', "excitation 'b': input 'x' with weight -0.25"),
        (EXCITATIONS, '"0.25"', '"much"', "weight of 'x' is 'much'"),
        (EXCITATIONS, ">y<", ">z<", "excitation 'b': names 'z'"),
        (EXCITATIONS, 'id="b"', 'id="a"', "excitation 'a': every excitation needs an id of its own"),
        (TRIAL, "0.5 1.5", "1.5 0.5", "startStopTime is"),
        (TRIAL, 'dofName="knee"', "", "give a dofName"),
        (TRIAL, "inputData><muscle", "inputDatum><muscle", "not a usable"),
    ],
)
def test_bad_files(tmp_path, text, old, new, message):
    with pytest.raises(InputError, match=message) as raised:
        read(tmp_path, text, old, new)
    assert "file.xml" in str(raised.value)


def test_another_kind_of_file(tmp_path):
    (tmp_path / "file.xml").write_text(TRIAL)
    with pytest.raises(InputError, match="the file is a <inputData>; expected CEINMS's <subject>"):
        read_ceinms_subject(tmp_path / "file.xml")
    with pytest.raises(InputError, match="cannot read"):
        read_ceinms_subject(tmp_path / "none.xml")


def test_a_missing_moment_arm_file(tmp_path):
    trial = read(tmp_path, TRIAL, 'dofName="knee"', 'dofName="ankle"')
    with pytest.raises(InputError, match="no moment arms about 'knee'"):
        load_ceinms_trial(trial, read(tmp_path, SUBJECT))
