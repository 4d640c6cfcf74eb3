"""Forward kinematics against OpenSim's own transforms, and against hand-computed values."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import REFERENCE
from scipy.interpolate import CubicSpline

from nms_gym import anatomy
from nms_gym.errors import InputError
from nms_gym.files.skeleton import skeleton_from_json, skeleton_to_json
from nms_gym.recording.osim import read_osim
from nms_gym.skeleton.functions import derivatives
from nms_gym.skeleton.skeleton import _partial, make_skeleton
from nms_gym.skeleton.tree import (
    SplineFunction,
    about,
    build_function,
    build_tree,
    coordinate_columns,
    forward_kinematics,
    full_pose,
    function_value,
    resolve_couplings,
    simm_spline,
)


@pytest.fixture(scope="module")
def geometry():
    return read_osim(REFERENCE / "geometry.osim")


def assert_transforms(model, poses, tolerance):
    tree = build_tree(model)
    kinematics = jax.jit(lambda pose: forward_kinematics(tree, resolve_couplings(tree, pose)))
    for entry in poses:
        pose = np.array(tree.default)
        for name, value in entry["pose"].items():
            pose[tree.coordinates.index(name)] = value
        rotation, translation = kinematics(pose)
        assert set(entry["bodies"]) == set(tree.bodies[1:])
        for name, expected in entry["bodies"].items():
            i = tree.bodies.index(name)
            np.testing.assert_allclose(rotation[i], expected["rotation"], atol=tolerance, err_msg=name)
            np.testing.assert_allclose(translation[i], expected["translation"], atol=tolerance, err_msg=name)


def test_every_joint_and_function_class_moves_as_in_opensim(geometry):
    # OpenSim solves the coupling to 1e-9 only; everything before it in the chain agrees to rounding.
    assert_transforms(geometry, json.loads((REFERENCE / "geometry.json").read_text())["poses"], 5e-9)


@pytest.mark.parametrize(
    "file",
    ["rajagopal_walk/original/subject_walk_scaled.osim", "ceinms_rt_lowerlimb/gait2392_scaled_estimate_subj06.osim"],
)
def test_published_models_move_as_in_opensim(data, file):
    folder, _, name = file.partition("/")
    model = read_osim(data(folder) / name)
    reference = json.loads((REFERENCE / "transforms.json").read_text())["models"][model.name]
    assert_transforms(model, reference, 5e-8)  # OpenSim's patella follows the knee to its assembly tolerance


def test_coupling_follows_its_polynomial(geometry):
    tree = build_tree(geometry)
    pose = full_pose(tree, coordinate_columns(geometry, ["bend"]), jnp.array([0.4]))
    expected = 0.5 * 0.4**2 + 0.3 * 0.4 + 0.1
    assert pose[tree.coordinates.index("follows")] == pytest.approx(expected, rel=1e-14)
    slope = jax.grad(lambda q: full_pose(tree, (tree.coordinates.index("bend"),), q[None])[-2])(0.4)
    assert tree.coordinates[-2] == "follows"
    assert slope == pytest.approx(2 * 0.5 * 0.4 + 0.3, rel=1e-14)


def test_rotation_about_an_axis_by_hand():
    c, s = np.cos(0.3), np.sin(0.3)
    np.testing.assert_allclose(
        about(jnp.array([0.0, 0.0, 1.0]), jnp.asarray(0.3)), [[c, -s, 0], [s, c, 0], [0, 0, 1]], atol=1e-15
    )
    np.testing.assert_allclose(
        about(jnp.array([0.0, 1.0, 0.0]), jnp.asarray(0.3)), [[c, 0, s], [0, 1, 0], [-s, 0, c]], atol=1e-15
    )


def test_spline_reproduces_a_cubic_which_a_natural_spline_would_not():
    # Its end conditions take the third derivative of the data, so a cubic comes back exactly.
    x = np.array([-1.0, -0.3, 0.2, 0.9, 1.4])
    y = 0.7 * x**3 - x**2 + 0.2 * x - 0.4
    function = build_function(anatomy.SimmSpline(tuple(x), tuple(y)))
    at = np.linspace(-1, 1.4, 25)
    values = jax.vmap(lambda v: function_value(function, v[None]))(at)
    np.testing.assert_allclose(values, 0.7 * at**3 - at**2 + 0.2 * at - 0.4, atol=1e-14)
    natural = CubicSpline(x, y, bc_type="natural")
    assert np.max(np.abs(natural(at) - values)) > 1e-2


def test_spline_is_twice_continuous_and_straight_outside():
    x, y = np.array([0.0, 0.5, 0.7, 1.5, 2.0, 2.2]), np.array([0.0, 1.0, 0.2, 0.4, -1.0, 0.0])
    b, c, d = simm_spline(x, y)
    h = np.diff(x)
    np.testing.assert_allclose(y[:-1] + h * (b[:-1] + h * (c[:-1] + h * d[:-1])), y[1:], atol=1e-14)
    np.testing.assert_allclose(b[:-1] + h * (2 * c[:-1] + h * 3 * d[:-1]), b[1:], atol=1e-13)
    np.testing.assert_allclose(2 * c[:-1] + 6 * d[:-1] * h, 2 * c[1:], atol=1e-12)
    function = SplineFunction(x, y, b, c, d)

    def value(v):
        return function_value(function, jnp.asarray(v)[None])

    assert value(-1.0) == pytest.approx(y[0] - b[0])
    assert value(3.2) == pytest.approx(y[-1] + b[-1])
    # At the end knots too the derivative is the spline's, not half of it.
    for at, slope in ((0.0, b[0]), (2.2, b[-1]), (0.7, b[2]), (-1.0, b[0]), (5.0, b[-1])):
        assert jax.grad(value)(at) == pytest.approx(slope, rel=1e-12), at


@pytest.mark.parametrize(
    ("function", "at", "expected"),
    [
        (anatomy.Linear((2.0, -1.0, 0.5)), (3.0, 4.0), 2.5),
        (anatomy.Linear((0.7,)), (), 0.7),
        (anatomy.Polynomial((2.0, 0.0, -1.0)), (3.0,), 17.0),
        (anatomy.PiecewiseLinear((0.0, 1.0, 3.0), (0.0, 2.0, 0.0)), (2.0,), 1.0),
        (anatomy.PiecewiseLinear((0.0, 1.0, 3.0), (0.0, 2.0, 0.0)), (5.0,), -2.0),
        (anatomy.PiecewiseLinear((0.0, 1.0, 3.0), (0.0, 2.0, 0.0)), (-1.0,), -2.0),
        (anatomy.Scaled(3.0, anatomy.Scaled(2.0, anatomy.Polynomial((1.0, 1.0)))), (1.0,), 12.0),
        (anatomy.SimmSpline((0.0, 2.0), (1.0, 5.0)), (0.5,), 2.0),
    ],
)
def test_functions_by_hand(function, at, expected):
    assert function_value(build_function(function), jnp.array(at, dtype=float)) == pytest.approx(expected, rel=1e-15)


def test_derivatives_match_finite_differences(geometry):
    tree = build_tree(geometry)
    pose = np.random.default_rng(3).uniform(-0.4, 0.4, len(tree.coordinates))

    @jax.jit
    def positions(pose):
        return forward_kinematics(tree, resolve_couplings(tree, pose))[1]

    forward = jax.jit(jax.jacfwd(positions))(pose)
    weights = np.random.default_rng(4).normal(size=forward.shape[:2])
    reverse = jax.jit(jax.grad(lambda pose: jnp.sum(weights * positions(pose))))(pose)
    np.testing.assert_allclose(reverse, np.einsum("bi,bij->j", weights, forward), atol=1e-13)
    step = 1e-6  # truncation ~ step^2, rounding ~ 1e-16 / step: both near 1e-10
    for i in range(len(pose)):
        shift = np.zeros_like(pose)
        shift[i] = step
        difference = (positions(pose + shift) - positions(pose - shift)) / (2 * step)
        np.testing.assert_allclose(forward[:, :, i], difference, atol=2e-9)
    assert np.count_nonzero(np.abs(forward).max(axis=(0, 1)) > 1e-3) >= 20


def test_part_of_the_tree_and_its_masses(geometry):
    part = build_tree(geometry, ["after_gimbal"])
    assert part.bodies == ("ground", "after_free", "after_ball", "after_gimbal")
    assert part.coordinates == build_tree(geometry).coordinates
    np.testing.assert_array_equal(part.mass, [0.0, 1.5, 1.5, 1.5])
    whole = build_tree(geometry)
    pose = np.linspace(-0.5, 0.5, len(whole.coordinates))
    rows = [whole.bodies.index(name) for name in part.bodies]
    for mine, all_ in zip(forward_kinematics(part, pose), forward_kinematics(whole, pose), strict=True):
        np.testing.assert_allclose(mine, all_[np.array(rows)], atol=1e-15)
    np.testing.assert_array_equal(part.inertia[1], geometry.body("after_free").inertia)


def test_dtype_follows_the_pose(geometry):
    tree = build_tree(geometry)
    pose = jnp.zeros(len(tree.coordinates), jnp.float32)
    assert [x.dtype for x in forward_kinematics(tree, resolve_couplings(tree, pose))] == [jnp.float32] * 2
    assert full_pose(tree, (0,), jnp.zeros(1, jnp.float32)).dtype == jnp.float32


def test_refusals(geometry, tmp_path):
    with pytest.raises(InputError, match=r"'follows' follows 'bend'.*use 'bend'"):
        coordinate_columns(geometry, ["follows"])
    with pytest.raises(InputError, match="twice"):
        coordinate_columns(geometry, ["bend", "bend"])
    with pytest.raises(InputError, match=r"no coordinate 'bent'; did you mean 'bend'"):
        coordinate_columns(geometry, ["bent"])
    with pytest.raises(InputError, match="no body 'tail'"):
        build_tree(geometry, ["tail"])
    text = (REFERENCE / "geometry.osim").read_text()
    start = text.index("<CoordinateCouplerConstraint")
    end = text.index("</CoordinateCouplerConstraint>") + len("</CoordinateCouplerConstraint>")
    other = text[start:end].replace("couple", "back", 1).replace("bend", "XX").replace("follows", "bend")
    other = other.replace("XX", "follows").replace('name="couple"', 'name="back"')
    path = tmp_path / "circle.osim"
    path.write_text(text[:end] + other + text[end:])
    with pytest.raises(InputError, match=r"circle\.osim.*couple their coordinates in a circle"):
        build_tree(read_osim(path))


def test_a_polynomial_of_several_coordinates_has_its_derivatives_and_its_restrictions():
    exponents = anatomy.monomial_order(3, 3)
    assert exponents[:5] == ((0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 1, 0))
    coefficients = tuple(np.random.default_rng(0).normal(size=len(exponents)).tolist())
    built = build_function(anatomy.Scaled(2.0, anatomy.Multivariate(coefficients, exponents)))
    at = np.array([0.3, -0.7, 1.1])

    def plain(x):
        return 2.0 * sum(c * jnp.prod(x ** jnp.array(e)) for c, e in zip(coefficients, exponents, strict=True))

    with jax.enable_x64(True):
        expected = plain(at), jax.grad(plain)(jnp.array(at)), jax.hessian(plain)(jnp.array(at))
    value, slopes, second = derivatives(built, list(at), np)
    assert value == pytest.approx(float(expected[0]), rel=1e-12)
    assert np.array(slopes) == pytest.approx(np.asarray(expected[1]), rel=1e-10)
    assert np.array(second) == pytest.approx(np.asarray(expected[2]), rel=1e-10)
    left = _partial(built, [None, float(at[1]), None])
    assert derivatives(left, [at[0], at[2]], np)[0] == pytest.approx(value, rel=1e-12)
    assert derivatives(left, [at[0], at[2]], np)[1] == pytest.approx((slopes[0], slopes[2]), rel=1e-12)


def test_a_coupler_of_two_coordinates_survives_json_and_moves_the_skeleton():
    model = read_osim(REFERENCE / "multivariate_coupler.osim")
    again = skeleton_from_json(json.loads(json.dumps(skeleton_to_json(model))), "here")
    assert again.couplers == model.couplers
    both = make_skeleton(again, ["hip_flex", "knee_flex"])
    (coupled,) = both.couplers
    assert derivatives(coupled.function, [0.5, -1.0], np)[0] == pytest.approx(-0.2, abs=1e-12)
    one = make_skeleton(again, ["knee_flex"], locked={"hip_flex": 0.5})
    (coupled_to_one,) = one.couplers
    assert derivatives(coupled_to_one.function, [-1.0], np)[0] == pytest.approx(
        derivatives(coupled.function, [0.5, -1.0], np)[0], abs=1e-12
    )
