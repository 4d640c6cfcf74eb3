"""Skeletons as JSON: what is written is what is read, only what moves is kept, and damage is refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import REFERENCE

from nms_gym._assets import asset_path
from nms_gym.anatomy import Coordinate, Coupler, Frame, Joint, Linear, Multibody, Scaled, TransformAxis, moving_part
from nms_gym.errors import InputError
from nms_gym.files.model_file import read_model_file
from nms_gym.files.skeleton import skeleton_from_json, skeleton_to_json
from nms_gym.recording.osim import read_osim
from nms_gym.skeleton.dynamics import BaseMotion, inverse_dynamics, make_skeleton, mass_matrix, point_positions
from nms_gym.skeleton.tree import build_tree, forward_kinematics, resolve_couplings

LEG = ("hip_flexion_r", "hip_adduction_r", "hip_rotation_r", "knee_angle_r", "ankle_angle_r")
PELVIS = ("pelvis_tilt", "pelvis_list", "pelvis_rotation", "pelvis_tx", "pelvis_ty", "pelvis_tz")


@pytest.fixture(scope="module")
def geometry():
    return read_osim(REFERENCE / "geometry.osim")


@pytest.fixture(scope="module")
def leg():
    skeleton = read_model_file(asset_path("right_leg/model.json")).skeleton
    assert skeleton is not None
    return skeleton


def read_back(model):
    return skeleton_from_json(json.loads(json.dumps(skeleton_to_json(model), allow_nan=False)), "there.json")


def test_every_joint_and_function_class_comes_back_bit_for_bit(geometry):
    again = read_back(geometry)
    assert (again.name, again.path) == (geometry.name, "there.json")
    assert again.coordinates == geometry.coordinates
    assert again.couplers == geometry.couplers
    for mine, theirs in zip(again.bodies, geometry.bodies, strict=True):
        assert (mine.name, mine.mass) == (theirs.name, theirs.mass)
        np.testing.assert_array_equal(mine.inertia, theirs.inertia)
        np.testing.assert_array_equal(mine.mass_center, theirs.mass_center)
    for mine, theirs in zip(again.joints, geometry.joints, strict=True):
        assert (mine.name, mine.class_name, mine.coordinates) == (theirs.name, theirs.class_name, theirs.coordinates)
        for a, b in zip(mine.axes, theirs.axes, strict=True):
            assert (a.coordinates, a.function) == (b.coordinates, b.function)
    # And it moves as before, which says the same of every frame and axis.
    old, new = build_tree(geometry), build_tree(again)
    pose = resolve_couplings(old, np.linspace(-0.5, 0.5, len(old.coordinates)))
    for a, b in zip(forward_kinematics(new, pose), forward_kinematics(old, pose), strict=True):
        np.testing.assert_array_equal(a, b)


def test_part_keeps_what_moves_and_what_carries_it(geometry):
    kept = moving_part(geometry, ["pin_0"])
    assert [body.name for body in kept.bodies] == [body.name for body in geometry.bodies if body.name != "crank"]
    assert [body.name for body in moving_part(geometry, ["crank_angle"]).bodies] == ["crank"]
    with pytest.raises(InputError, match="no coordinate 'pin'; did you mean 'pin_0'"):
        moving_part(geometry, ["pin"])


def chain(coupler):
    """Bodies a, b, c, each on a hinge of its own to the ground."""
    eye, zero = np.eye(3), np.zeros(3)
    still = tuple(TransformAxis(eye[i % 3], (), Linear((0.0,))) for i in range(5))
    model = read_osim(REFERENCE / "geometry.osim")
    body = model.body("crank")
    names = "abc"
    return Multibody(
        name="chain",
        path="chain",
        gravity=zero,
        bodies=tuple(type(body)(n, 1.0, zero, eye) for n in names),
        joints=tuple(
            Joint(
                f"j{n}",
                "PinJoint",
                Frame("ground", eye, zero),
                Frame(n, eye, zero),
                (f"q{n}",),
                (TransformAxis(eye[0], (f"q{n}",), Linear((1.0, 0.0))), *still),
            )
            for n in names
        ),
        coordinates=tuple(Coordinate(f"q{n}", f"j{n}", "rotational", (-1.0, 1.0), 0.0, False, None) for n in names),
        couplers=(Coupler("k", f"q{coupler[1]}", (f"q{coupler[0]}",), Scaled(2.0, Linear((1.0, 0.1)))),),
    )


def test_couplings_carry_the_part_along():
    # a drives c: what a moves includes c, and c's own motion cannot be told without a.
    model = chain("ac")
    assert [body.name for body in moving_part(model, ["qa"]).bodies] == ["a", "c"]
    assert [body.name for body in moving_part(model, ["qc"]).bodies] == ["a", "c"]
    assert moving_part(model, ["qb"]).couplers == ()
    again = read_back(moving_part(model, ["qa"]))
    assert again.couplers == model.couplers
    assert [c.coupled_to for c in again.coordinates] == [None, "qa"]


def test_the_arm_has_the_published_numbers():
    arm = read_model_file(asset_path("arm/model.json")).skeleton
    assert arm is not None
    # arm26.osim, as published.
    assert [(body.name, body.mass) for body in arm.bodies] == [
        ("base", 0.0),
        ("r_humerus", 1.864572),
        ("r_ulna_radius_hand", 1.534315),
    ]
    assert arm.coordinate("r_elbow_flex").range == (0.0, 2.26892803)
    skeleton = make_skeleton(arm, ("r_shoulder_elev", "r_elbow_flex"))
    q = np.zeros(2)
    shoulder, elbow = (
        np.asarray(point_positions(skeleton, q, b, np.zeros(3))) for b in ("r_humerus", "r_ulna_radius_hand")
    )
    # Hanging straight down, gravity turns the arm about the shoulder by the offset of its masses alone.
    centers = [shoulder + np.array([0, -0.180496, 0]), elbow + np.array([0, -0.181479, 0])]
    moment = sum(
        np.cross(center - shoulder, [0, -9.8066 * mass, 0])
        for center, mass in zip(centers, (1.864572, 1.534315), strict=True)
    )
    axis = arm.joints[1].axes[0].axis
    torque = inverse_dynamics(skeleton, q, q, q)
    assert float(torque[0]) == pytest.approx(-float(moment @ axis), abs=1e-9)


def test_the_leg_is_the_published_one_from_the_pelvis_down(leg, data):
    published = read_osim(data("rajagopal_walk") / "original" / "subject_walk_scaled.osim")
    assert skeleton_to_json(moving_part(published, LEG)) == skeleton_to_json(leg)


def test_the_leg_with_a_given_pelvis(leg):
    assert [body.name for body in leg.bodies] == [
        "pelvis",
        "femur_r",
        "tibia_r",
        "patella_r",
        "talus_r",
        "calcn_r",
        "toes_r",
    ]
    skeleton = make_skeleton(leg, LEG, prescribed=PELVIS)
    assert (skeleton.coordinates, skeleton.prescribed) == (LEG, PELVIS)
    rng = np.random.default_rng(0)
    q, base_q = rng.uniform(0.1, 0.4, 5), rng.uniform(-0.2, 0.2, 6)
    base = BaseMotion(base_q, np.zeros(6), np.zeros(6))
    mass = np.asarray(mass_matrix(skeleton, q, base=base))
    np.testing.assert_allclose(mass, mass.T, atol=1e-12)
    assert np.linalg.eigvalsh(mass).min() > 1e-3
    # The inertia of foot and toes about the ankle: what the limits' default stiffness is chosen for.
    assert 0.01 < mass[4, 4] < 0.03
    # A freely falling pelvis takes the weight off the joints.
    falling = BaseMotion(base_q, np.zeros(6), np.array([0, 0, 0, 0, leg.gravity[1], 0.0]))
    zero = np.zeros(5)
    np.testing.assert_allclose(inverse_dynamics(skeleton, q, zero, zero, base=falling), 0, atol=1e-10)
    assert np.abs(np.asarray(inverse_dynamics(skeleton, q, zero, zero, base=base))).max() > 10


def test_knee_speed_gives_the_rate_of_momentum_of_opensim(leg):
    # With one coordinate moving at constant speed, the force on the pelvis beyond the weight is d(momentum)/dt.
    names = (*PELVIS, *LEG)
    skeleton = make_skeleton(leg, names)
    for entry in json.loads((REFERENCE / "inverse_dynamics.json").read_text())["momentum_rate"]:
        q = np.array([leg.coordinate(name).default for name in names])
        q[names.index("knee_angle_r")] = entry["knee_angle_r"]
        speed = np.zeros(len(names))
        speed[names.index("knee_angle_r")] = 6.0
        moving, still = (inverse_dynamics(skeleton, q, qd, 0 * q) for qd in (speed, 0 * q))
        np.testing.assert_allclose((moving - still)[3:6], entry["rate"], atol=1e-5)


def _edit(*keys, value=None, remove=False):
    def change(entry):
        for key in keys[:-1]:
            entry = entry[key]
        if remove:
            del entry[keys[-1]]
        else:
            entry[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_edit("version", value=2), "skeleton version 2; this nms-gym reads version 1"),
        (_edit("gravity", remove=True), "skeleton: entry 'gravity' is missing"),
        (_edit("gravity", value=[0, "down", 0]), "gravity is .*'down'.*expected numbers"),
        (_edit("bodies", 1, "mass", value=-1.0), "body 'femur_r': mass is -1 kg; it must not be negative"),
        (_edit("bodies", 1, "inertia", value=[1, 2, 3]), r"body 'femur_r': inertia .* shape \(6,\)"),
        (_edit("bodies", 1, "name", value="pelvis"), "body named more than once: 'pelvis'"),
        (_edit("bodies", 1, "name", value="thigh"), "joint 'hip_r': child body 'femur_r' does not exist"),
        (_edit("bodies", value=7), "skeleton: malformed entry"),
        (_edit("joints", 0, "parent", "body", value="sky"), "joint 'ground_pelvis': parent body 'sky' does not exist"),
        (_edit("joints", 0, "parent", "body", value="toes_r"), "hangs on 'toes_r', whose own joint must come before"),
        (_edit("joints", 1, "child", "body", value="pelvis"), "moves 'pelvis', which has a joint already"),
        (_edit("joints", 6, remove=True), "coordinate 'mtp_angle_r': joint 'mtp_r' does not exist|connects 'toes_r'"),
        (_edit("joints", 1, "rotations", 0, "axis", value=[1, 1, 0]), "axis has length 1.41421; a unit vector"),
        (_edit("joints", 1, "rotations", 0, "coordinates", value=["knee_angle_r"]), "coordinate 'knee_angle_r' does"),
        (_edit("joints", 1, "rotations", value=[]), "rotations: expected a list of 3"),
        (_edit("joints", 0, "parent", "rotation", value=[[1, 0, 0], [0, 1, 0], [0, 0, -1]]), "no rotation matrix"),
        (_edit("coordinates", 0, "range", value=[2, 1]), "'pelvis_tilt': range is 2 to 1"),
        (_edit("coordinates", 0, "motion", value="sideways"), "motion is 'sideways'; allowed are"),
        (_edit("coordinates", 0, "default", value=float("nan")), "'pelvis_tilt': default is nan; expected"),
        (_edit("couplers", 0, "independent", value=[]), "names no independent coordinate"),
        (_edit("couplers", 0, "dependent", value="knee"), "coordinate 'knee' does not exist"),
        (_edit("couplers", 0, "function", "kind", value="magic"), "function kind is 'magic'; known are 'linear'"),
        (_edit("couplers", 0, "function", value={"kind": "spline", "x": [0, 0], "y": [1, 2]}), "with x rising"),
    ],
)
def test_damage_is_refused(leg, change, message):
    entry = json.loads(json.dumps(skeleton_to_json(leg)))
    change(entry)
    with pytest.raises(InputError, match=f"^there.json.*({message})"):
        skeleton_from_json(entry, "there.json")
