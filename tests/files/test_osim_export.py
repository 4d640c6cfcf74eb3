"""A person's muscles in an OpenSim model: of the person's own class, so that OpenSim moves them alike."""

from __future__ import annotations

import numpy as np
import pytest

from nms_gym.errors import InputError
from nms_gym.files.osim_write import export_osim
from nms_gym.model.parameters import make_params
from nms_gym.model.structure import NmsModel, Settings
from nms_gym.muscle.curves import DeGrooteFregly2016
from nms_gym.muscle.meyer_fregly import MeyerFregly2017
from nms_gym.muscle.millard import Millard2012
from nms_gym.muscle.tendon import rigid_fiber
from nms_gym.recording.osim import read_osim

MUSCLE = """<{kind} name="{name}"><GeometryPath><PathPointSet><objects>
<PathPoint name="a"><socket_parent_frame>/ground</socket_parent_frame><location>{a}</location></PathPoint>
<PathPoint name="b"><socket_parent_frame>/bodyset/b</socket_parent_frame><location>{b}</location></PathPoint>
</objects></PathPointSet></GeometryPath><max_isometric_force>900</max_isometric_force>
<optimal_fiber_length>0.15</optimal_fiber_length><tendon_slack_length>0.16</tendon_slack_length>
<pennation_angle_at_optimal>0.2</pennation_angle_at_optimal>{own}</{kind}>"""
MODEL = """<?xml version="1.0" encoding="UTF-8" ?>
<OpenSimDocument Version="40000"><Model name="m">
<BodySet><objects><Body name="b"><mass>1</mass><mass_center>0 0 0</mass_center><inertia>1 1 1 0 0 0</inertia></Body>
</objects></BodySet><JointSet><objects><PinJoint name="j"><socket_parent_frame>/ground</socket_parent_frame>
<socket_child_frame>/bodyset/b</socket_child_frame><coordinates><Coordinate name="q" /></coordinates></PinJoint>
</objects></JointSet><ForceSet><objects>
{muscles}
</objects></ForceSet></Model></OpenSimDocument>
"""
OWN = {
    "Thelen2003Muscle": "<FmaxTendonStrain>0.033</FmaxTendonStrain><KshapeActive>0.5</KshapeActive><Flen>1.8</Flen>",
    "Millard2012EquilibriumMuscle": '<fiber_damping>0.2</fiber_damping><TendonForceLengthCurve name="x">'
    "<strain_at_one_norm_force>0.06</strain_at_one_norm_force></TendonForceLengthCurve>",
    "DeGrooteFregly2016Muscle": "<active_force_width_scale>1.5</active_force_width_scale>"
    "<ignore_tendon_compliance>false</ignore_tendon_compliance>",
}
POINTS = {"flexor": ("-0.02 0.2 0", "-0.04 -0.13 0"), "extensor": ("0.03 0.2 0.01", "0.05 -0.12 0")}


def written(folder, kind):
    path = folder / "original.osim"
    blocks = [MUSCLE.format(kind=kind, name=name, a=a, b=b, own=OWN[kind]) for name, (a, b) in POINTS.items()]
    path.write_text(MODEL.format(muscles="\n".join(blocks)))
    return path


def person(curves):
    model = NmsModel(tuple(POINTS), ("q",), ("x",), Settings(tendon="rigid", curves=curves), np.ones((2, 1)))  # type: ignore[arg-type]
    values = {
        "max_isometric_force": [1000.0, 700.0],
        "optimal_fiber_length": [0.14, 0.17],
        "tendon_slack_length": [0.18, 0.15],
        "pennation_at_optimal": [0.1, 0.3],
        "passive_fiber_strain_at_one_norm_force": [0.6, 0.65],
        "tendon_strain_at_one_norm_force": [0.049, 0.055],
    }
    return model, make_params(model, values)


@pytest.mark.parametrize("kind", list(OWN))
@pytest.mark.parametrize(
    ("curves", "expected"),
    [(DeGrooteFregly2016(), "DeGrooteFregly2016Muscle"), (Millard2012(), "Millard2012EquilibriumMuscle")],
)
def test_muscles_become_of_the_persons_class(tmp_path, kind, curves, expected):
    original = written(tmp_path, kind)
    model, params = person(curves)
    done = export_osim(tmp_path / "new.osim", original, model, params)
    after = read_osim(tmp_path / "new.osim")
    assert [muscle.class_name for muscle in after.muscles] == [expected] * 2
    assert [muscle.optimal_fiber_length for muscle in after.muscles] == [0.14, 0.17]
    assert [[p.location.tolist() for p in m.points] for m in after.muscles] == [
        [p.location.tolist() for p in m.points] for m in read_osim(original).muscles
    ]
    text = (tmp_path / "new.osim").read_text()
    assert text.count("<ignore_tendon_compliance>true<") == 2
    assert "ignore_tendon_compliance>false" not in text
    for gone in ("FmaxTendonStrain", "KshapeActive", "Flen>", "active_force_width_scale"):
        assert gone not in text
    assert done.turned == ({} if kind == expected else dict.fromkeys(POINTS, kind))
    if expected == "Millard2012EquilibriumMuscle":
        assert text.count("<strain_at_one_norm_force>") == 4
        assert "<strain_at_one_norm_force>0.055<" in text


def test_curves_that_opensim_lacks_are_refused(tmp_path):
    original = written(tmp_path, "Thelen2003Muscle")
    model, params = person(MeyerFregly2017())
    with pytest.raises(InputError, match=r"'MeyerFregly2017' curves, which no muscle class of OpenSim has"):
        export_osim(tmp_path / "new.osim", original, model, params)
    assert not (tmp_path / "new.osim").exists()


@pytest.mark.parametrize("kind", list(OWN))
@pytest.mark.parametrize("curves", [DeGrooteFregly2016(), Millard2012()])
def test_opensim_moves_the_copy_as_the_person(tmp_path, kind, curves):
    """Prescribed motion and activations: OpenSim's moments are ours within 2 % of their range."""
    opensim = pytest.importorskip("opensim")
    model, params = person(curves)
    export_osim(tmp_path / "new.osim", written(tmp_path, kind), model, params)
    opensim.Logger.setLevelString("off")
    theirs = opensim.Model(str(tmp_path / "new.osim"))
    state = theirs.initSystem()
    axis = theirs.getCoordinateSet().get("q")
    muscles = [theirs.getMuscles().get(name) for name in POINTS]
    time = np.linspace(0.0, 1.0, 41)
    activations = 0.05 + 0.9 * np.stack([np.sin(np.pi * time) ** 2, np.cos(np.pi * time) ** 2], axis=1)
    ours, moments = [], []
    for t, level in zip(time, activations, strict=True):
        axis.setValue(state, 0.5 * np.sin(2 * np.pi * t))
        axis.setSpeedValue(state, np.pi * np.cos(2 * np.pi * t))
        for muscle, a in zip(muscles, level, strict=True):
            muscle.setActivation(state, float(a))
        theirs.realizeVelocity(state)
        lengths = np.array([muscle.getLength(state) for muscle in muscles])
        speeds = np.array([muscle.getLengtheningSpeed(state) for muscle in muscles])
        arms = np.array([muscle.computeMomentArm(state, axis) for muscle in muscles])
        theirs.realizeDynamics(state)
        moments.append(arms @ [muscle.getTendonForce(state) for muscle in muscles])
        force, *_ = rigid_fiber(curves, params, level, lengths, speeds)  # type: ignore[arg-type]
        ours.append(arms @ np.asarray(force))
    error = np.abs(np.array(ours) - moments).max()
    assert error < 0.02 * np.ptp(ours)
    assert np.ptp(ours) > 20
