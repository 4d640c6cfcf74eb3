"""Calibrated parameters in a copy of an OpenSim model: those numbers change, every other byte stays."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import REFERENCE

from nms_gym.errors import InputError
from nms_gym.files.osim_write import osim_values, write_osim
from nms_gym.model.parameters import make_params
from nms_gym.model.structure import NmsModel, Settings
from nms_gym.recording.osim import read_osim

MODEL = """<?xml version="1.0" encoding="UTF-8" ?>
<OpenSimDocument Version="40000">
	<Model name="m">
		<!-- the layout > of this file is its own -->
		<BodySet name="bodyset"><objects><Body name="b"><mass>1</mass><mass_center>0 0 0</mass_center>
	<inertia>1 1 1 0 0 0</inertia></Body></objects></BodySet>
		<JointSet name="jointset"><objects><PinJoint name="j">
	<socket_parent_frame>/ground</socket_parent_frame><socket_child_frame>/bodyset/b</socket_child_frame>
	<coordinates><Coordinate name="q" /></coordinates></PinJoint></objects></JointSet>
		<ForceSet name="forceset"><objects>
	<Millard2012EquilibriumMuscle name="mil">
		<GeometryPath name="geometrypath"><PathPointSet><objects>
	<PathPoint name="p1"><socket_parent_frame>/ground</socket_parent_frame>
	<location>0 1 0</location></PathPoint>
	<PathPoint name="p2"><socket_parent_frame>/bodyset/b</socket_parent_frame>
	<location>1 0 0</location></PathPoint>
		</objects></PathPointSet></GeometryPath>
		<max_isometric_force> 1000.50 </max_isometric_force>
	<optimal_fiber_length note="a>b">0.1</optimal_fiber_length>
		<!-- no slack length: the default -->
		<pennation_angle_at_optimal>0.2</pennation_angle_at_optimal>
		<TendonForceLengthCurve><strain_at_one_norm_force>0.05</strain_at_one_norm_force></TendonForceLengthCurve>
	</Millard2012EquilibriumMuscle>
	<DeGrooteFregly2016Muscle name="dgf">
		<GeometryPath name="geometrypath"><PathPointSet><objects>
	<PathPoint name="p1"><socket_parent_frame>/ground</socket_parent_frame>
	<location>0 1 0</location></PathPoint>
	<PathPoint name="p2"><socket_parent_frame>/bodyset/b</socket_parent_frame>
	<location>1 0 0</location></PathPoint>
		</objects></PathPointSet></GeometryPath>
		<max_isometric_force>500</max_isometric_force><optimal_fiber_length>0.2</optimal_fiber_length>
		<tendon_slack_length>0.3</tendon_slack_length><pennation_angle_at_optimal />
		<tendon_strain_at_one_norm_force>0.049</tendon_strain_at_one_norm_force>
	</DeGrooteFregly2016Muscle>
		</objects></ForceSet>
	</Model>
</OpenSimDocument>
"""


@pytest.fixture
def original(tmp_path):
    path = tmp_path / "original.osim"
    path.write_bytes(MODEL.replace("\n", "\r\n").encode())
    return path


def test_numbers_change_and_nothing_else(original, tmp_path):
    value = 1234.567890123456789
    done = write_osim(
        tmp_path / "new.osim",
        original,
        {"mil": {"max_isometric_force": value, "optimal_fiber_length": 0.1, "pennation_at_optimal": 0.25}},
    )
    expected = MODEL.replace(" 1000.50 ", repr(value)).replace(
        "<pennation_angle_at_optimal>0.2<", "<pennation_angle_at_optimal>0.25<"
    )
    # The optimal length is already what was asked for, so its spelling stays.
    assert (tmp_path / "new.osim").read_bytes() == expected.replace("\n", "\r\n").encode()
    assert done.changed == {"mil": {"max_isometric_force": value, "pennation_at_optimal": 0.25}}
    assert done.left_out == {}
    assert read_osim(tmp_path / "new.osim").muscles[0].max_isometric_force == value


def test_defaults_become_values(original, tmp_path):
    done = write_osim(
        tmp_path / "new.osim",
        original,
        {
            "mil": {"tendon_slack_length": 0.37, "fiber_damping": 0.05, "optimal_fiber_length_change": 0.1},
            "dgf": {"pennation_at_optimal": 0.1, "tendon_strain_at_one_norm_force": 0.06},
        },
    )
    mil, dgf = read_osim(tmp_path / "new.osim").muscles
    assert (mil.tendon_slack_length, mil.max_isometric_force) == (0.37, 1000.5)
    assert dgf.pennation_at_optimal == 0.1
    text = (tmp_path / "new.osim").read_text()
    assert "<tendon_strain_at_one_norm_force>0.06<" in text
    # The strain inside Millard's curve object is another property.
    assert "<strain_at_one_norm_force>0.05<" in text
    assert "<fiber_damping>0.05<" in text
    assert done.left_out == {"mil": ("optimal_fiber_length_change",)}
    assert "pennation_at_optimal" in done.changed["dgf"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mill": {"optimal_fiber_length": 0.1}}, "no muscle 'mill'; did you mean 'mil'"),
        ({"mil": {"optimal_fiber_length": math.nan}}, "optimal_fiber_length of 'mil' is nan"),
        ({"mil": {"max_isometric_force": -1.0}}, "max_isometric_force of 'mil' is -1"),
    ],
)
def test_bad_values_leave_no_file(original, tmp_path, values, message):
    with pytest.raises(InputError, match=message):
        write_osim(tmp_path / "new.osim", original, values)
    assert [p.name for p in tmp_path.iterdir()] == ["original.osim"]


def test_bad_originals(original, tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        write_osim(tmp_path / "new.osim", tmp_path / "none.osim", {})
    entity = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e "1">]>'
    original.write_text(re.sub(r"<\?xml.*\?>", entity, MODEL))
    with pytest.raises(InputError, match="not a usable XML file"):
        write_osim(tmp_path / "new.osim", original, {})


def test_values_of_a_model():
    model = NmsModel(("a", "b"), ("q",), ("x",), Settings(), np.ones((2, 1)))  # type: ignore[arg-type]
    params = make_params(
        model,
        {
            "max_isometric_force": [100.0, 200.0],
            "optimal_fiber_length": [0.1, 0.2],
            "tendon_slack_length": [0.2, 0.3],
            "pennation_at_optimal": [0.0, 0.1],
        },
    )
    values = osim_values(model, params)
    assert values["b"]["max_isometric_force"] == 200.0
    # De Groote-Fregly curves, second-order activation.
    assert "tendon_strain_at_one_norm_force" in values["a"]
    assert "activation_time_constant" not in values["a"]


@pytest.mark.parametrize(
    "name", ["arm26_elbow/original/arm26.osim", "rajagopal_walk/original/subject_walk_scaled.osim"]
)
def test_published_models(data, tmp_path, name):
    folder, _, file = name.partition("/")
    original = Path(data(folder)) / file
    before = read_osim(original).muscles
    rng = np.random.default_rng(1)
    kinds = ("max_isometric_force", "optimal_fiber_length", "tendon_slack_length", "pennation_at_optimal")
    values = {m.name: {k: getattr(m, k) * rng.uniform(0.8, 1.2) for k in kinds} for m in before[::2]}
    write_osim(tmp_path / "new.osim", original, values)
    for old, new in zip(before, read_osim(tmp_path / "new.osim").muscles, strict=True):
        for kind in (*kinds, "max_contraction_velocity"):
            assert getattr(new, kind) == values.get(old.name, {}).get(kind, getattr(old, kind))
    # Writing the original numbers back gives the original, but for how they are spelled.
    write_osim(tmp_path / "same.osim", original, {m.name: {k: getattr(m, k) for k in kinds} for m in before})
    assert (tmp_path / "same.osim").read_bytes() == original.read_bytes()


def test_a_file_that_strict_parsers_refuse_is_copied_byte_by_byte(tmp_path):
    text = (REFERENCE / "two_link.osim").read_text()
    contact = "<HuntCrossleyForce name='heel'><HuntCrossleyForce::ContactParametersSet/></HuntCrossleyForce>"
    text = text.replace("<length_units>", "<credits>M\xfcller & S\xf6hne</credits><!-- a -- b --><length_units>", 1)
    text = text.replace(
        '<ForceSet name="forceset">\n\t\t\t<objects>', f'<ForceSet name="forceset"><objects>{contact}', 1
    )
    original = tmp_path / "two_link.osim"
    original.write_bytes(text.encode("cp1252"))
    written = write_osim(tmp_path / "new.osim", original, {"flexor": {"max_isometric_force": 912.0}})
    assert written.changed == {"flexor": {"max_isometric_force": 912.0}}
    before, after = original.read_bytes(), (tmp_path / "new.osim").read_bytes()
    assert after == before.replace(b"<max_isometric_force>800<", b"<max_isometric_force>912.0<", 1)
