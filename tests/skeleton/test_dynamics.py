"""Skeleton dynamics against MuJoCo's C engine, OpenSim, Lagrange's equations and finite differences."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from helpers import REFERENCE

from nms_gym._pytree import replace
from nms_gym.anatomy import (
    IDENTITY,
    ZERO,
    Body,
    Coordinate,
    Coupler,
    Frame,
    Joint,
    Linear,
    Multibody,
    PiecewiseLinear,
    Polynomial,
    SimmSpline,
    TransformAxis,
    body_fixed_xyz,
)
from nms_gym.errors import InputError
from nms_gym.recording.osim import read_osim
from nms_gym.skeleton.components import ZERO as NOTHING
from nms_gym.skeleton.components import join, split
from nms_gym.skeleton.dynamics import (
    BaseMotion,
    ExternalForces,
    bias_forces,
    forward_dynamics,
    inverse_dynamics,
    kinetic_energy,
    make_skeleton,
    mass_matrix,
    point_positions,
    potential_energy,
)
from nms_gym.skeleton.functions import build_function, derivatives
from nms_gym.skeleton.tree import build_tree, coordinate_columns, forward_kinematics, full_pose

ARM = ("r_shoulder_elev", "r_elbow_flex")
LEG = ("hip_flexion_r", "hip_adduction_r", "hip_rotation_r", "knee_angle_r", "ankle_angle_r", "mtp_angle_r")
PELVIS = ("pelvis_tilt", "pelvis_list", "pelvis_rotation", "pelvis_tx", "pelvis_ty", "pelvis_tz")
KNOT = 0.698132  # of the patella's splines


@pytest.fixture(scope="module")
def arm(data):
    return read_osim(data("arm26_elbow") / "original/arm26.osim")


@pytest.fixture(scope="module")
def walker(data):
    return read_osim(data("rajagopal_walk") / "original/subject_walk_scaled.osim")


def states(dof, seed=0, count=5):
    return np.random.default_rng(seed).normal(size=(3, count, dof))


# ---- models ----


def still(axis):
    return TransformAxis(np.array(axis, float), (), ZERO)


def multibody(bodies, joints, couplers=()):
    """A model of bodies and joints whose coordinates are named in the joints."""
    names = [name for joint in joints for name in joint.coordinates]
    followers = {coupler.dependent: coupler.independent[0] for coupler in couplers}
    coordinates = tuple(
        Coordinate(name, "", "rotational", (-3.0, 3.0), 0.0, False, followers.get(name)) for name in names
    )
    gravity = np.array([0.7, -9.6, 1.1])
    return Multibody("made", "made.osim", gravity, tuple(bodies), tuple(joints), coordinates, tuple(couplers))


def random_body(rng, name):
    points = rng.normal(size=(6, 3)) * 0.1
    masses = rng.uniform(0.2, 1.0, 6)
    center = masses @ points / masses.sum()
    arms = points - center
    inertia = sum(m * (r @ r * np.eye(3) - np.outer(r, r)) for m, r in zip(masses, arms, strict=True))
    return Body(name, float(masses.sum()), center, inertia)


def random_tree(dof, seed):
    """A tree of ``dof`` hinges and slides, one to four per body, at random axes in random frames."""
    rng = np.random.default_rng(seed)
    bodies, joints, left = [], [], dof
    while left:
        count = min(left, int(rng.integers(1, 4)))
        slide = count > 1 and rng.uniform() < 0.4
        name, parent = f"b{len(bodies)}", f"b{rng.integers(len(bodies))}" if bodies else "ground"
        names = tuple(f"q{dof - left + i}" for i in range(count))
        basis = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(2)]
        if rng.uniform() < 0.3:
            basis[0] = np.eye(3)[rng.permutation(3)] * -1.0
        axes = [still(axis) for axis in (*basis[0], *basis[1])]
        places = ([3] if slide else []) + [0, 1, 2]
        for place, coordinate in zip(places, names, strict=False):
            axes[place] = TransformAxis(axes[place].axis, (coordinate,), IDENTITY)
        frames = [Frame(b, body_fixed_xyz(rng.normal(size=3)), rng.normal(size=3) * 0.2) for b in (parent, name)]
        joints.append(Joint(f"j{name}", "CustomJoint", *frames, names, tuple(axes)))
        bodies.append(random_body(rng, name))
        left -= count
    return multibody(bodies, joints)


def mujoco_model(model, coordinates):
    """MuJoCo's version of the part of ``model`` that hangs from the ground: every moving axis a hinge or a slide.

    A weld of one body in another makes a jointless body. Coordinates that are not listed do not move.
    """

    def text(values):
        return " ".join(repr(float(v)) for v in np.ravel(values))

    def element(joint):
        body = model.body(joint.child.body)
        rotation = joint.parent.rotation @ joint.child.rotation.T
        position = joint.parent.translation - rotation @ joint.child.translation
        quaternion = np.zeros(4)
        mujoco.mju_mat2Quat(quaternion, rotation.ravel())
        parts = [f'<body name="{body.name}" pos="{text(position)}" quat="{text(quaternion)}">']
        for axis in (*joint.axes[3:], *joint.axes[:3]):
            if axis.coordinates and axis.coordinates[0] in coordinates:
                assert axis.function == IDENTITY
                kind = "hinge" if any(axis is turn for turn in joint.axes[:3]) else "slide"
                direction = joint.child.rotation @ axis.axis
                parts.append(
                    f'<joint name="{axis.coordinates[0]}" type="{kind}" axis="{text(direction)}" '
                    f'pos="{text(joint.child.translation)}"/>'
                )
        if body.mass:
            i = body.inertia
            numbers = (i[0, 0], i[1, 1], i[2, 2], i[0, 1], i[0, 2], i[1, 2])
            parts.append(
                f'<inertial pos="{text(body.mass_center)}" mass="{body.mass!r}" fullinertia="{text(numbers)}"/>'
            )
        parts += [element(other) for other in model.joints if other.parent.body == body.name]
        return "".join([*parts, "</body>"])

    roots = "".join(element(joint) for joint in model.joints if joint.parent.body == "ground")
    option = f'<option gravity="{text(model.gravity)}"/><compiler angle="radian" boundmass="0"/>'
    return mujoco.MjModel.from_xml_string(f"<mujoco>{option}<worldbody>{roots}</worldbody></mujoco>")


def assert_like_mujoco(model, coordinates, q, qd, third, tolerance=1e-8):
    """Mass matrix, inverse dynamics (third = accelerations), accelerations (third = forces), kinetic energy."""
    skeleton = make_skeleton(model, coordinates)
    engine = mujoco_model(model, coordinates)
    data = mujoco.MjData(engine)
    order = [engine.joint(name).dofadr[0] for name in coordinates]
    assert engine.nv == len(coordinates)
    expected = {"mass": [], "inverse": [], "forward": [], "energy": []}
    for row in range(len(q)):
        data.qpos[order], data.qvel[order], data.qacc[order] = q[row], qd[row], third[row]
        mujoco.mj_inverse(engine, data)
        expected["inverse"].append(data.qfrc_inverse[order])
        data.qfrc_applied[order] = third[row]
        mujoco.mj_forward(engine, data)
        expected["forward"].append(data.qacc[order])
        full = np.zeros((engine.nv, engine.nv))
        mujoco.mj_fullM(engine, data, full)
        expected["mass"].append(full[np.ix_(order, order)])
        mujoco.mj_energyVel(engine, data)
        expected["energy"].append(data.energy[1])
    found = {
        "mass": mass_matrix(skeleton, q),
        "inverse": inverse_dynamics(skeleton, q, qd, third),
        "forward": forward_dynamics(skeleton, q, qd, third),
        "energy": kinetic_energy(skeleton, q, qd),
    }
    for name, value in found.items():
        # Accelerations of light bodies reach thousands: relative there, absolute below one.
        np.testing.assert_allclose(value, expected[name], rtol=tolerance, atol=tolerance, err_msg=name)


# ---- MuJoCo ----


@pytest.mark.parametrize("dof", range(1, 9))
def test_random_trees_move_as_in_mujoco(dof):
    model = random_tree(dof, seed=dof)
    assert_like_mujoco(model, [c.name for c in model.coordinates], *states(dof, seed=dof))


def test_a_large_tree_moves_as_in_mujoco():
    # Past the sizes that are factorised by components and swept in one loop.
    model = random_tree(18, seed=1)
    names = [c.name for c in model.coordinates]
    assert len(model.joints) > 8
    assert_like_mujoco(model, names[::-1], *states(18, count=2))


def test_the_arm_moves_as_in_mujoco(arm):
    assert_like_mujoco(arm, ARM, *states(2))


def test_the_leg_with_a_hinge_knee_moves_as_in_mujoco(walker):
    chain = ("pelvis", "femur_r", "tibia_r", "talus_r", "calcn_r", "toes_r")
    joints = []
    for joint in walker.joints:
        if joint.child.body == "tibia_r":
            axes = [
                TransformAxis(axis.axis, ("knee_angle_r",), IDENTITY) if i == 0 else still(axis.axis)
                for i, axis in enumerate(joint.axes)
            ]
            joint = dataclasses.replace(joint, axes=tuple(axes))
        elif joint.child.body == "pelvis":
            joint = dataclasses.replace(joint, axes=tuple(still(axis.axis) for axis in joint.axes), coordinates=())
        if joint.child.body in chain:
            joints.append(joint)
    leg = dataclasses.replace(
        walker, joints=tuple(joints), couplers=(), bodies=tuple(b for b in walker.bodies if b.name in chain)
    )
    assert_like_mujoco(leg, LEG, *states(6))


# ---- OpenSim ----


def without_third_rotation(model, name):
    def changed(joint):
        if joint.name != name:
            return joint
        return dataclasses.replace(joint, axes=(*joint.axes[:2], still(joint.axes[2].axis), *joint.axes[3:]))

    return dataclasses.replace(model, joints=tuple(changed(joint) for joint in model.joints))


@pytest.mark.parametrize("name", ["arm", "leg", "two_rotations"])
def test_spline_knee_patella_and_moving_pelvis_are_opensims(data, name):
    case = json.loads((REFERENCE / "dynamics.json").read_text())["cases"][name]
    folder, _, file = case["file"].partition("/")
    model = read_osim(data(folder) / file)
    if name == "two_rotations":
        model = without_third_rotation(model, "walker_knee_r")
    skeleton = make_skeleton(model, case["coordinates"], prescribed=case["prescribed"])
    table = {key: np.array([state[key] for state in case["states"]]) for key in case["states"][0]}
    q, qd, qdd = table["q"], table["qd"], table["qdd"]
    base = BaseMotion(*(table[f"base_{key}"] for key in ("q", "qd", "qdd"))) if case["prescribed"] else None
    moments = inverse_dynamics(skeleton, q, qd, qdd, base=base)
    found = forward_dynamics(skeleton, q, qd, table["torque"], base=base)
    np.testing.assert_allclose(mass_matrix(skeleton, q, base=base), table["mass_matrix"], rtol=1e-12, atol=1e-13)
    # Differentiated numerically, which is less exact at the knot where the first state is.
    np.testing.assert_allclose(moments[1:], table["lagrange"][1:], rtol=1e-8, atol=1e-8)
    exact = slice(0, 1) if name == "leg" else slice(None)
    np.testing.assert_allclose(moments[exact], table["simbody"][exact], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found[exact], table["acceleration"][exact], rtol=1e-9, atol=1e-9)
    # Where Simbody loses a term (make_dynamics.py says which) the difference stays small.
    np.testing.assert_allclose(moments, table["simbody"], atol=0.3)


def lagrange(model, names, q, qd, qdd):
    """Inverse dynamics of one state by Lagrange's equations from forward kinematics, which is verified elsewhere.

    Mass matrix from the Jacobians of the bodies; it and the potential energy differentiated numerically.
    """
    tree, columns = build_tree(model), coordinate_columns(model, names)

    def frames(q):
        return forward_kinematics(tree, full_pose(tree, columns, q))

    def matrix_and_potential(q):
        rotation, origin = frames(q)
        turning, speed = jax.jacfwd(frames)(q)
        moving = speed + jnp.einsum("bijd,bj->bid", turning, tree.mass_center)
        spin = jnp.einsum("bji,bjkd->bikd", rotation, turning)  # skew matrices of angular velocities, body axes
        omega = jnp.stack([spin[:, 2, 1], spin[:, 0, 2], spin[:, 1, 0]], axis=1)
        mass = jnp.einsum("b,bid,bie->de", tree.mass, moving, moving)
        mass = mass + jnp.einsum("bij,bid,bje->de", tree.inertia, omega, omega)
        centers = origin + jnp.einsum("bij,bj->bi", rotation, tree.mass_center)
        return mass, -tree.mass @ (centers @ tree.gravity)

    h, steps = 2e-3, np.array([0, 1, -1, 2, -2])
    at = q + h * steps[:, None, None] * np.eye(len(q))
    many = jax.jit(jax.vmap(jax.vmap(matrix_and_potential)))
    mass, potential = (np.asarray(x) for x in many(at))
    slopes, gravity = ((8 * (x[1] - x[2]) - (x[3] - x[4])) / (12 * h) for x in (mass, potential))
    change = np.einsum("kij,k,j->i", slopes, qd, qd) - 0.5 * np.einsum("kij,i,j->k", slopes, qd, qd)
    return mass[0, 0] @ qdd + change + gravity


def test_every_joint_and_function_class_obeys_lagrange():
    model = read_osim(REFERENCE / "geometry.osim")
    names = [c.name for c in model.coordinates if c.coupled_to is None]
    q, qd, qdd = states(len(names), count=1)[:, 0] * 0.6
    skeleton = make_skeleton(model, names)
    expected = lagrange(model, names, q, qd, qdd)
    np.testing.assert_allclose(inverse_dynamics(skeleton, q, qd, qdd), expected, rtol=1e-8, atol=1e-7)
    tree, columns = build_tree(model), coordinate_columns(model, names)
    rotation, origin = forward_kinematics(tree, full_pose(tree, columns, q))
    for name in ("ground", *skeleton.bodies):
        i, point = tree.bodies.index(name), np.array([0.1, -0.2, 0.3])
        found = point_positions(skeleton, q, name, point)
        np.testing.assert_allclose(found, rotation[i] @ point + origin[i], atol=1e-12, err_msg=name)


def test_functions_of_several_coordinates_and_chains_of_couplings_obey_lagrange():
    rng = np.random.default_rng(3)
    sum_of_two = TransformAxis(np.eye(3)[0], ("a", "b"), Linear((0.7, -1.3, 0.2)))
    wave = TransformAxis(
        np.array([0.6, 0.0, 0.8]), ("b",), SimmSpline((-2.0, -0.5, 0.3, 1.1, 2.0), (0.3, -0.1, 0.4, 0.2, 0.6))
    )
    bent = TransformAxis(np.eye(3)[1], ("a",), PiecewiseLinear((-1.0, 0.0, 1.0), (0.2, 0.0, 0.5)))
    first = Joint(
        "j0",
        "CustomJoint",
        Frame("ground", np.eye(3), np.zeros(3)),
        Frame("b0", np.eye(3), np.zeros(3)),
        ("a", "b"),
        (sum_of_two, bent, still([0, 0, 1]), wave, still([0, 1, 0]), still([0, 0, 1])),
    )
    follow = TransformAxis(np.array([0.0, -1.0, 0.0]), ("d",), Polynomial((0.4, 1.0, 0.1)))
    frames = [Frame(b, body_fixed_xyz(rng.normal(size=3)), rng.normal(size=3)) for b in ("b0", "b1")]
    second = Joint(
        "j1",
        "CustomJoint",
        *frames,
        ("c", "d"),
        (
            still([1, 0, 0]),
            follow,
            still([0, 0, 1]),
            TransformAxis(np.eye(3)[0], ("c",), IDENTITY),
            still([0, 1, 0]),
            still([0, 0, 1]),
        ),
    )
    couplers = (
        Coupler("last", "d", ("c", "a"), Linear((1.5, -0.5, 0.1))),
        Coupler("early", "c", ("b",), Polynomial((0.3, -0.2, 1.1, 0.0))),
    )
    model = multibody([random_body(rng, "b0"), random_body(rng, "b1")], (first, second), couplers)
    q, qd, qdd = states(2, count=1)[:, 0]
    found = inverse_dynamics(make_skeleton(model, ["b", "a"]), q, qd, qdd)
    np.testing.assert_allclose(found, lagrange(model, ["b", "a"], q, qd, qdd), rtol=1e-8, atol=1e-8)


# ---- consistency ----


def test_parts_fit_together_and_power_is_balanced(walker):
    skeleton = make_skeleton(walker, LEG, prescribed=PELVIS)
    q, qd, qdd = states(6) * 0.5
    base = BaseMotion(*states(6, seed=1) * 0.5)
    matrix, bias = mass_matrix(skeleton, q, base=base), bias_forces(skeleton, q, qd, base=base)
    moments = inverse_dynamics(skeleton, q, qd, qdd, base=base)
    np.testing.assert_allclose(jnp.einsum("bij,bj->bi", matrix, qdd) + bias, moments, rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(forward_dynamics(skeleton, q, qd, moments, base=base), qdd, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(matrix, matrix.swapaxes(1, 2), rtol=0, atol=0)
    assert np.linalg.eigvalsh(matrix).min() > 1e-4

    # The energy of everything that moves grows by the power of all joints, the base's included.
    whole = make_skeleton(walker, (*LEG, *PELVIS))
    q, qd, qdd = (np.concatenate(pair, axis=1) for pair in ((q, base.q), (qd, base.qd), (qdd, base.qdd)))
    power = jnp.sum(qd * inverse_dynamics(whole, q, qd, qdd), axis=1)

    def energy(q, qd):
        return kinetic_energy(whole, q, qd) + potential_energy(whole, q)

    np.testing.assert_allclose(jax.jvp(energy, (q, qd), (qd, qdd))[1], power, rtol=1e-10)
    np.testing.assert_allclose(inverse_dynamics(whole, q, qd, qdd)[:, :6], moments, rtol=1e-11, atol=1e-11)
    prescribed = make_skeleton(walker, LEG, prescribed=PELVIS)
    np.testing.assert_allclose(
        kinetic_energy(prescribed, q[:, :6], qd[:, :6], base=base), kinetic_energy(whole, q, qd), rtol=1e-12
    )


def test_external_forces_do_the_work_of_their_points(walker):
    skeleton = make_skeleton(walker, LEG)
    q, qd, qdd = (x[0] for x in states(6) * 0.5)
    rng = np.random.default_rng(5)
    force, torque, local = rng.normal(size=(3, 2, 3)) * [[[50]], [[5]], [[0.1]]]
    bodies = ("calcn_r", "patella_r")
    points = jnp.stack([point_positions(skeleton, q, b, p) for b, p in zip(bodies, local, strict=True)])
    external = ExternalForces(force, points, torque, (*bodies,))
    work = 0.0
    for body, f, t, p in zip(bodies, force, torque, local, strict=True):
        jacobian = jax.jacfwd(lambda q, b=body, p=p: point_positions(skeleton, q, b, p))(q)
        axes = [jax.jacfwd(lambda q, b=body, e=e: point_positions(skeleton, q, b, e))(q) for e in np.eye(3)]
        origin = jax.jacfwd(lambda q, b=body: point_positions(skeleton, q, b, np.zeros(3)))(q)
        frame = np.stack(
            [point_positions(skeleton, q, body, e) - point_positions(skeleton, q, body, np.zeros(3)) for e in np.eye(3)]
        )
        spin = 0.5 * sum(np.cross(frame[k], axes[k] - origin, axisb=0, axisc=0) for k in range(3))
        work = work + jacobian.T @ f + spin.T @ t
    free = inverse_dynamics(skeleton, q, qd, qdd)
    np.testing.assert_allclose(inverse_dynamics(skeleton, q, qd, qdd, external=external), free - work, rtol=1e-10)
    np.testing.assert_allclose(
        forward_dynamics(skeleton, q, qd, free - work, external=external), qdd, rtol=1e-8, atol=1e-8
    )
    on_ground = replace(external, bodies=("pelvis", "ground"))
    np.testing.assert_array_equal(inverse_dynamics(skeleton, q, qd, qdd, external=on_ground), free)


def test_added_inertia_is_added_to_the_mass_matrix(walker):
    for coordinates in (LEG[:2], LEG):
        skeleton, n = make_skeleton(walker, coordinates), len(coordinates)
        q, qd, torque = states(n) * 0.5
        half = np.random.default_rng(2).normal(size=(5, n, n))
        added = half @ half.swapaxes(1, 2)
        right = torque - bias_forces(skeleton, q, qd)
        expected = np.linalg.solve(mass_matrix(skeleton, q) + added, right[..., None])[..., 0]
        found = forward_dynamics(skeleton, q, qd, torque, added_inertia=added)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_locked_coordinates_hold_their_values(walker):
    names = [c.name for c in walker.coordinates if c.coupled_to is None]
    held = {"pelvis_tilt": 0.3, "knee_angle_r": 0.9, "mtp_angle_r": -0.2}
    part = make_skeleton(walker, ["ankle_angle_r", "hip_flexion_r"], locked=held)
    whole = make_skeleton(walker, names)
    q, qd, qdd = np.zeros((3, 1, len(names)))
    for name, value in held.items():
        q[0, names.index(name)] = value
    q[0, names.index("pelvis_ty")] = walker.coordinate("pelvis_ty").default
    columns = [names.index("ankle_angle_r"), names.index("hip_flexion_r")]
    q[0, columns], qd[0, columns], qdd[0, columns] = states(2, count=1)[:, 0]
    found = inverse_dynamics(part, *(x[:, columns] for x in (q, qd, qdd)))
    np.testing.assert_allclose(found, inverse_dynamics(whole, q, qd, qdd)[:, columns], rtol=1e-11, atol=1e-11)
    at = point_positions(part, q[:, columns], "toes_r", np.ones(3))
    np.testing.assert_allclose(at, point_positions(whole, q, "toes_r", np.ones(3)), atol=1e-13)


# ---- as JAX functions ----


def test_compiled_batched_and_as_an_argument(walker):
    skeleton = make_skeleton(walker, LEG)
    q, qd, torque = states(6) * 0.5
    expected = forward_dynamics(skeleton, q, qd, torque)
    compiled = jax.jit(forward_dynamics)
    np.testing.assert_allclose(compiled(skeleton, q, qd, torque), expected, rtol=1e-9)
    # A cohort: one skeleton per row, of other masses.
    scales = np.linspace(0.8, 1.2, 5)
    cohort = jax.tree.map(lambda leaf: jnp.stack([leaf] * 5), skeleton)
    cohort = replace(cohort, mass=cohort.mass * scales[:, None])
    found = jax.jit(jax.vmap(forward_dynamics))(cohort, q, qd, torque)
    for row in (0, 2, 4):
        one = forward_dynamics(replace(skeleton, mass=skeleton.mass * scales[row]), q[row], qd[row], torque[row])
        np.testing.assert_allclose(found[row], one, rtol=1e-9)
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-9)
    for leaf in jax.tree.leaves(skeleton):  # every number is a leaf, in double precision whatever JAX is set to
        assert leaf.dtype == np.float64


def test_results_follow_the_precision_of_the_coordinates(arm):
    skeleton = make_skeleton(arm, ARM)
    single = [x.astype(np.float32) for x in states(2)]
    double = forward_dynamics(skeleton, *(x.astype(np.float64) for x in single))
    found = forward_dynamics(skeleton, *single)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, double, rtol=1e-4)
    for value in (
        mass_matrix(skeleton, single[0]),
        kinetic_energy(skeleton, *single[:2]),
        bias_forces(skeleton, *single[:2]),
    ):
        assert value.dtype == np.float32


FUNCTIONS = {
    "inverse_dynamics": lambda s, q, qd, x, base, ext: inverse_dynamics(s, q, qd, x, base=base, external=ext),
    "forward_dynamics": lambda s, q, qd, x, base, ext: forward_dynamics(
        s, q, qd, x, base=base, external=ext, added_inertia=0.1 * jnp.outer(x, x)
    ),
    "bias_forces": lambda s, q, qd, x, base, ext: bias_forces(s, q, qd, base=base, external=ext),
    "mass_matrix": lambda s, q, qd, x, base, ext: mass_matrix(s, q, base=base),
    "kinetic_energy": lambda s, q, qd, x, base, ext: kinetic_energy(s, q, qd, base=base),
    "potential_energy": lambda s, q, qd, x, base, ext: potential_energy(s, q, base=base),
    "point_positions": lambda s, q, qd, x, base, ext: point_positions(s, q, "toes_r", np.ones(3), base=base),
}
FELT = {  # whose derivative cannot vanish: mass, mass_center, inertia, gravity, q, qd, x, base
    "inverse_dynamics": "mass mass_center inertia gravity q qd x base",
    "forward_dynamics": "mass mass_center inertia gravity q qd x base",
    "bias_forces": "mass mass_center inertia gravity q qd base",
    "mass_matrix": "mass mass_center inertia q",
    "kinetic_energy": "mass mass_center inertia q qd base",
    "potential_energy": "mass mass_center gravity q base",
    "point_positions": "q base",
}


def both_ways(function, arguments, way, steps=(1e-4, 2e-4)):
    """Forward, reverse and central-difference derivative of ``function`` () along ``way``, and its gradient."""

    def moved(step):
        return function(*jax.tree.map(lambda x, d: x + step * d, arguments, way))

    forward = jax.jvp(function, arguments, way)[1]
    gradient = jax.grad(function, argnums=tuple(range(len(arguments))))(*arguments)
    reverse = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(way), strict=True))
    # Of fourth order: the truncation error of the second is large beside the tolerance.
    near, far = ((moved(h) - moved(-h)) / (2 * h) for h in steps)
    return forward, reverse, (4 * near - far) / 3, gradient


# Forward dynamics, whose derivative goes through inverse dynamics', stays among the quick ones.
SLOW = ("inverse_dynamics", "mass_matrix")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in FUNCTIONS])
def test_derivatives_are_those_of_finite_differences(walker, name):
    """In every argument and every number of the skeleton; then, in the arguments, on a knot of the patella's splines.

    On the knot the knee does not turn: with a speed, a force there has the spline's third derivative, which jumps.
    """
    knee = name in ("inverse_dynamics", "forward_dynamics", "mass_matrix")
    coordinates = ("hip_flexion_r", "knee_angle_r") if knee else ("ankle_angle_r", "mtp_angle_r")
    skeleton = make_skeleton(walker, coordinates, prescribed=("hip_adduction_r",))
    rng = np.random.default_rng(7)
    base = BaseMotion(*rng.normal(size=(3, 1)) * 0.5)
    external = ExternalForces(*rng.normal(size=(3, 1, 3)) * 5, ("calcn_r",))
    q, qd, x = np.array([0.4, 1.23]), np.array([1.5, -2.5]), np.array([3.0, 4.0])
    arguments = jax.tree.map(jnp.asarray, (skeleton, q, qd, x, base, external))

    def direction(leaf):
        turned = leaf.shape == (3, 3) and np.allclose(leaf @ leaf.T, np.eye(3))  # a rotation must stay one
        return jnp.asarray(
            np.cross(leaf, rng.normal(size=3)) if turned else rng.normal(size=leaf.shape) * (0.1 + np.abs(leaf))
        )

    way = jax.tree.map(direction, arguments)
    weights = rng.normal(size=jax.eval_shape(FUNCTIONS[name], *arguments).shape)

    def weighted(*arguments):
        return jnp.sum(weights * FUNCTIONS[name](*arguments))

    forward, reverse, difference, gradient = both_ways(weighted, arguments, way)
    np.testing.assert_allclose([forward, reverse], difference, rtol=1e-7)
    felt = dict(zip(("skeleton", "q", "qd", "x", "base"), gradient, strict=False)) | vars(gradient[0])
    for part in FELT[name].split():
        assert max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(felt[part])) > 1e-3, part

    if knee:
        on_knot = (jnp.array([0.4, KNOT]), jnp.array([1.5, 0.0]), *arguments[3:])
        forward, reverse, difference, _ = both_ways(lambda *rest: weighted(skeleton, *rest), on_knot, way[1:])
        np.testing.assert_allclose([forward, reverse], difference, rtol=1e-5)


def test_second_derivatives_of_forward_dynamics(arm):
    # Its derivative is written by hand; differentiating that must be right too.
    skeleton = make_skeleton(arm, ARM)
    q, qd, torque = (jnp.asarray(a[0]) for a in states(2))

    def along(q):
        return jnp.sum(jax.jvp(lambda q: forward_dynamics(skeleton, q, qd, torque), (q,), (qd,))[1])

    forward, reverse, difference, _ = both_ways(along, (q,), (torque,))
    np.testing.assert_allclose([forward, reverse], difference, rtol=1e-7)


def test_batches_differentiate_like_their_rows(arm):
    skeleton = make_skeleton(arm, ARM)
    q, qd, torque = (jnp.asarray(a) for a in states(2))

    def total(mass, q, qd, torque):
        return jnp.sum(forward_dynamics(replace(skeleton, mass=mass), q, qd, torque) ** 2)

    gradient = jax.grad(total, argnums=(0, 1))
    mass = jnp.asarray(skeleton.mass)
    masses, rows = gradient(mass, q, qd, torque)
    by_row, found = jax.vmap(gradient, in_axes=(None, 0, 0, 0))(mass, q, qd, torque)
    np.testing.assert_allclose(rows, found, rtol=1e-10)
    np.testing.assert_allclose(masses, jnp.sum(by_row, axis=0), rtol=1e-10)


def test_split_and_join_are_each_others_transposes():
    x = jnp.arange(12.0).reshape(2, 6)
    for i, part in enumerate(split(x)):
        np.testing.assert_array_equal(part, x[:, i])
    np.testing.assert_array_equal(join([x[:, 0], NOTHING, 2.0], (2,), x.dtype), [[0, 0, 2], [6, 0, 2]])
    np.testing.assert_array_equal(join([NOTHING], (2,), x.dtype), np.zeros((2, 1)))

    def some(x):
        a, b, *_, last = split(x)
        return join([a * b, NOTHING, last**2, 3.0], a.shape, a.dtype)

    def plain(x):
        zero = 0 * x[..., 0]
        return jnp.stack([x[..., 0] * x[..., 1], zero, x[..., -1] ** 2, zero + 3.0], axis=-1)

    for function in (jax.jacfwd, jax.jacrev, jax.hessian):
        np.testing.assert_array_equal(function(some)(x[1]), function(plain)(x[1]))
        np.testing.assert_array_equal(jax.jit(jax.vmap(function(some), in_axes=1))(x.T), jax.vmap(function(plain))(x))


@pytest.mark.parametrize(
    "function",
    [
        Polynomial((0.3, -1.2, 0.4, 2.0)),
        SimmSpline((-1.0, -0.3, 0.2, 0.9, 1.4), (0.0, 1.0, 0.2, 0.4, -1.0)),
        PiecewiseLinear((-1.0, 0.0, 0.5), (0.0, 1.0, -0.4)),
    ],
)
def test_slopes_and_curvatures_of_functions(function):
    built = build_function(function)
    at = np.array([-1.7, -0.8, -0.3 + 1e-9, 0.1, 0.7, 1.9])
    value, (slope,), curvature = derivatives(built, [jnp.asarray(at)])

    def plain(x):
        return derivatives(built, [x])[0]

    np.testing.assert_allclose(slope, jax.vmap(jax.grad(plain))(at), rtol=1e-12)
    second = (plain(at + 1e-4) - 2 * value + plain(at - 1e-4)) / 1e-8
    np.testing.assert_allclose(jnp.broadcast_to(curvature, at.shape), second, atol=2e-3)
    for x in at:  # without JAX, for coordinates that are locked
        single = derivatives(built, [np.float64(x)], np)
        np.testing.assert_allclose(single[0], plain(jnp.asarray(x)), rtol=1e-14)
        assert not isinstance(single[0], jax.Array)


def test_a_spline_is_smooth_on_its_knots_and_straight_beyond():
    x = (-1.0, -0.3, 0.2, 0.9, 1.4)
    built = build_function(SimmSpline(x, (0.0, 1.0, 0.2, 0.4, -1.0)))

    def all_three(at):
        value, (slope,), curvature = derivatives(built, [jnp.asarray(at)])
        return value, slope, curvature

    for knot in x[1:-1]:
        below, on, above = (all_three(knot + step) for step in (-1e-9, 0.0, 1e-9))
        for k in range(3):
            np.testing.assert_allclose([below[k], above[k]], on[k], atol=1e-6)
        assert jax.grad(lambda at: all_three(at)[1])(knot) == pytest.approx(float(on[2]), rel=1e-12)
    for end, outside in ((x[0], x[0] - 0.5), (x[-1], x[-1] + 0.5)):
        assert abs(all_three(end)[2]) > 1.0
        assert all_three(outside)[2] == 0.0
        assert all_three(outside)[1] == pytest.approx(float(all_three(end)[1]), rel=1e-12)


# ---- bad input ----


def test_what_cannot_be_is_refused_by_name(arm, walker):
    with pytest.raises(InputError, match="no coordinate 'r_elbow'; did you mean 'r_elbow_flex'"):
        make_skeleton(arm, ["r_elbow"])
    with pytest.raises(InputError, match="named twice"):
        make_skeleton(arm, ["r_elbow_flex"], prescribed=["r_elbow_flex"])
    with pytest.raises(InputError, match="follows 'knee_angle_r'"):
        make_skeleton(walker, ["knee_angle_r_beta"])
    with pytest.raises(InputError, match="no coordinate 'elbow'"):
        make_skeleton(arm, ARM[:1], locked={"elbow": 0.0})
    with pytest.raises(InputError, match="'r_elbow_flex' is locked at nan"):
        make_skeleton(arm, ARM[:1], locked={"r_elbow_flex": float("nan")})
    with pytest.raises(InputError, match="no coordinates"):
        make_skeleton(arm, [])
    light = dataclasses.replace(
        arm, bodies=tuple(dataclasses.replace(b, mass=b.mass * (b.name == "r_humerus")) for b in arm.bodies)
    )
    with pytest.raises(InputError, match="'r_elbow_flex' moves no body with mass"):
        make_skeleton(light, ARM)

    skeleton = make_skeleton(arm, ARM)
    q = np.zeros(2)
    with pytest.raises(InputError, match=r"qd has shape \(3,\); expected \(..., 2\) for 'r_shoulder_elev'"):
        inverse_dynamics(skeleton, q, np.zeros(3), q)
    with pytest.raises(InputError, match="no prescribed coordinates"):
        mass_matrix(skeleton, q, base=BaseMotion(q, q, q))
    with pytest.raises(InputError, match="no body 'r_ulna'"):
        point_positions(skeleton, q, "r_ulna", np.zeros(3))
    moving = make_skeleton(arm, ARM[1:], prescribed=ARM[:1])
    with pytest.raises(InputError, match="'r_shoulder_elev' is missing; pass base="):
        forward_dynamics(moving, q[:1], q[:1], q[:1])
