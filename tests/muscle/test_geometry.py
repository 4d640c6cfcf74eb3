"""Polynomial paths against plain NumPy sums, finite differences and each other."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nms_gym._assets import asset_path
from nms_gym._pytree import replace
from nms_gym.errors import InputError
from nms_gym.files.model_file import read_model_file
from nms_gym.muscle.geometry import (
    PolynomialPaths,
    SpanGroup,
    check_domain,
    lengths_and_moment_arms,
    monomial_values,
    monomials,
    musculotendon_velocities,
    paths_from_polynomials,
    select_paths,
)
from nms_gym.recording.function_based_paths import PlainPolynomial

COORDINATES = ("hip", "knee", "ankle", "toe")
MUSCLES = ("m0", "m1", "m2", "m3", "m4", "m5")
DOMAIN = np.array([[-0.6, 1.3], [0.0, 2.0], [-0.7, 0.4], [-0.3, 0.3]])
# Shuffled owners, a muscle over all but one coordinate, one over a single one, one that nothing moves.
GROUPS = (
    SpanGroup((4, 1), (0, 1, 3), 4),
    SpanGroup((2,), (1,), 6),
    SpanGroup((0, 5), (1, 2), 5),
    SpanGroup((3,), (), 0),
)

evaluate = jax.jit(lengths_and_moment_arms)


@jax.jit
def jacobians(paths, q):
    """Derivatives of lengths and moment arms with respect to the pose, forward and reverse."""
    return tuple(mode(lambda q: lengths_and_moment_arms(paths, q))(q) for mode in (jax.jacfwd, jax.jacrev))


@pytest.fixture(scope="module")
def paths():
    rng = np.random.default_rng(1)
    arrays = []
    for group in GROUPS:
        array = 0.02 * rng.normal(size=(len(group.muscles), len(monomials(len(group.coordinates), group.degree))))
        array[:, 0] = 0.3
        arrays.append(array)
    return PolynomialPaths(tuple(arrays), DOMAIN, MUSCLES, COORDINATES, GROUPS)


def plain_lengths(paths, q):
    """Sums of monomials, written out; no continuation outside the domain."""
    center, half = DOMAIN.mean(axis=1), (DOMAIN[:, 1] - DOMAIN[:, 0]) / 2
    x = (q - center) / half
    lengths = np.zeros(len(MUSCLES))
    for group, array in zip(paths.groups, paths.coefficients, strict=True):
        for row, muscle in zip(array, group.muscles, strict=True):
            for value, exponent in zip(row, monomials(len(group.coordinates), group.degree), strict=True):
                lengths[muscle] += value * math.prod(
                    x[k] ** int(e) for k, e in zip(group.coordinates, exponent, strict=True)
                )
    return lengths


def plain_gradient(paths, q, step=1e-5):
    """d length / d q (D, M) by fourth-order central differences of the plain sums."""

    def along(k, h):
        return plain_lengths(paths, q + h * np.eye(len(q))[k])

    return np.stack(
        [
            (8 * (along(k, step) - along(k, -step)) - along(k, 2 * step) + along(k, -2 * step)) / (12 * step)
            for k in range(len(q))
        ]
    )


def poses(count=6, beyond=0.0):
    rng = np.random.default_rng(2)
    width = DOMAIN[:, 1] - DOMAIN[:, 0]
    return DOMAIN[:, 0] - beyond * width + (1 + 2 * beyond) * width * rng.uniform(size=(count, len(DOMAIN)))


OUTSIDE = [
    np.array([1.9, 1.0, -0.2, 0.1]),
    np.array([-1.0, 2.5, 0.1, 0.0]),
    np.array([-1.0, -0.4, 0.9, 0.5]),
    np.array([0.2, 1.0, -1.5, -0.9]),
]


# ------------------------------------------------------------------------------------------- monomials


@pytest.mark.parametrize(("variables", "degree"), [(1, 6), (2, 5), (3, 6), (4, 6), (5, 3), (0, 0)])
def test_monomials_are_complete_graded_and_evaluated_in_their_order(variables, degree):
    exponents = monomials(variables, degree)
    assert len(exponents) == math.comb(variables + degree, degree)
    assert len({tuple(row) for row in exponents.tolist()}) == len(exponents)
    totals = exponents.sum(axis=1)
    assert np.all(np.diff(totals) >= 0)
    assert totals.max(initial=0) == degree
    x = np.random.default_rng(0).uniform(-1, 1, variables)
    expected = np.prod(x**exponents, axis=1)
    np.testing.assert_allclose(monomial_values(jnp.asarray(x), degree), expected, rtol=1e-13, atol=1e-16)


# ------------------------------------------------------------------------------------------- inside


def test_lengths_and_moment_arms_inside_the_domain(paths):
    for q in poses():
        length, arm = evaluate(paths, jnp.asarray(q))
        assert length.shape == (6,)
        assert arm.shape == (4, 6)
        np.testing.assert_allclose(length, plain_lengths(paths, q), rtol=1e-13)
        np.testing.assert_allclose(arm, -plain_gradient(paths, q), atol=1e-10)
    assert np.all(arm[:, 3] == 0)
    assert np.all(arm[2, [1, 2, 4]] == 0)


def test_batch_is_vmap(paths):
    q = poses(5, beyond=0.3)
    lengths, arms = jax.jit(jax.vmap(lambda q: evaluate(paths, q)))(q)
    for i, pose in enumerate(q):
        length, arm = evaluate(paths, pose)
        np.testing.assert_allclose(lengths[i], length, rtol=1e-13)
        np.testing.assert_allclose(arms[i], arm, rtol=1e-12, atol=1e-14)


# ------------------------------------------------------------------------------------------- outside


@pytest.mark.parametrize("q", OUTSIDE)
def test_outside_the_domain_the_length_is_the_tangent_plane(paths, q):
    foot = np.clip(q, DOMAIN[:, 0], DOMAIN[:, 1])
    expected = plain_lengths(paths, foot) + plain_gradient(paths, foot).T @ (q - foot)
    length, _ = evaluate(paths, q)
    np.testing.assert_allclose(length, expected, atol=1e-10)


@pytest.mark.parametrize("q", OUTSIDE)
def test_outside_the_domain_moment_arms_are_minus_the_slope_of_the_length(paths, q):
    _, arm = evaluate(paths, q)
    step = 1e-5
    for k in range(4):
        e = step * np.eye(4)[k]
        slope = (evaluate(paths, q + e)[0] - evaluate(paths, q - e)[0]) / (2 * step)
        np.testing.assert_allclose(arm[k], -slope, atol=1e-9)


def test_lengths_and_moment_arms_are_continuous_across_the_edge(paths):
    for k in range(4):
        for side in (0, 1):
            q = poses(1)[0]
            q[k] = DOMAIN[k, side]
            e = 1e-8 * np.eye(4)[k]
            for a, b in zip(evaluate(paths, q - e), evaluate(paths, q + e), strict=True):
                np.testing.assert_allclose(a, b, atol=1e-7)


@pytest.mark.parametrize("value", [1e3, -1e6, 1e12])
def test_finite_for_any_pose_with_finite_gradients(paths, value):
    q = np.full(4, value)
    for part in jax.tree.leaves((evaluate(paths, q), jacobians(paths, q))):
        assert np.all(np.isfinite(part))


# ------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("q", [*poses(3), *OUTSIDE, DOMAIN[:, 0], DOMAIN[:, 1]])
def test_moment_arms_are_minus_the_automatic_derivative_of_the_lengths(paths, q):
    arm = evaluate(paths, q)[1]
    for length_slope, _ in jacobians(paths, q):
        np.testing.assert_allclose(arm, -length_slope.T, rtol=0, atol=1e-12)
    assert np.abs(arm).max() > 1e-3


@pytest.mark.parametrize("q", [*poses(2), *OUTSIDE[:2]])
def test_moment_arm_derivatives_match_finite_differences(paths, q):
    derivative, reverse = (np.asarray(arm_slope) for _, arm_slope in jacobians(paths, q))
    np.testing.assert_allclose(derivative, reverse, rtol=1e-10, atol=1e-12)
    step = 1e-6
    for k in range(4):
        e = step * np.eye(4)[k]
        difference = (evaluate(paths, q + e)[1] - evaluate(paths, q - e)[1]) / (2 * step)
        np.testing.assert_allclose(derivative[..., k], difference, atol=1e-7)
    assert np.abs(derivative).max() > 1e-3


@pytest.mark.parametrize("q", [poses(1)[0], OUTSIDE[2]])
def test_coefficient_derivatives_match_finite_differences(paths, q):
    @jax.jit
    def total(coefficients):
        length, arm = evaluate(replace(paths, coefficients=coefficients), q)
        return jnp.sum(jnp.sin(5 * length)) + jnp.sum(jnp.sin(20 * arm))

    coefficients = tuple(jnp.asarray(array) for array in paths.coefficients)
    gradient = jax.grad(total)(coefficients)
    rng = np.random.default_rng(3)
    direction = tuple(jnp.asarray(rng.normal(size=array.shape)) for array in coefficients)
    step = 1e-7
    ends = [total(tuple(c + s * step * d for c, d in zip(coefficients, direction, strict=True))) for s in (1, -1)]
    expected = (ends[0] - ends[1]) / (2 * step)
    found = sum(jnp.sum(g * d) for g, d in zip(gradient, direction, strict=True))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert all(np.abs(g).max() > 0 for g in gradient)


def test_velocity_is_the_rate_of_the_length_along_a_motion(paths):
    for q in (*poses(2), OUTSIDE[1]):
        qd = np.array([1.0, -2.0, 0.5, 3.0])
        _, rate = jax.jvp(lambda q: evaluate(paths, q)[0], (jnp.asarray(q),), (jnp.asarray(qd),))
        _, arm = evaluate(paths, q)
        np.testing.assert_allclose(musculotendon_velocities(arm, jnp.asarray(qd)), rate, atol=1e-13)
    assert np.abs(rate).max() > 1e-3


# ------------------------------------------------------------------------------------------- precision


def test_a_float32_pose_stays_float32_throughout():
    paths = read_model_file(asset_path("right_leg/model.json")).paths
    assert paths is not None
    q = jnp.asarray(np.array([0.4, -0.1, 0.05, 0.8, -0.2]), jnp.float32)
    program = str(jax.make_jaxpr(lambda q: lengths_and_moment_arms(paths, q))(q).jaxpr)
    # Stored coefficients enter as float64 constants and are cast before any arithmetic.
    for line in program.splitlines():
        if "f64" in line and "=" in line:
            assert "convert_element_type" in line or "pjit" in line, line
    length, arm = evaluate(paths, q)
    assert length.dtype == arm.dtype == jnp.float32
    exact_length, exact_arm = evaluate(paths, np.asarray(q, dtype=float))
    assert exact_length.dtype == jnp.float64
    np.testing.assert_allclose(length, exact_length, atol=1e-6)
    np.testing.assert_allclose(arm, exact_arm, atol=5e-6)


def test_whole_number_poses_are_taken(paths):
    length, _ = lengths_and_moment_arms(paths, [0, 1, 0, 0])
    np.testing.assert_allclose(length, plain_lengths(paths, np.array([0.0, 1.0, 0.0, 0.0])))


# ------------------------------------------------------------------------------------------- selection


def test_selecting_reorders_muscles_and_holds_coordinates_still(paths):
    part = select_paths(paths, ("m5", "m1", "m3", "m2"), ("toe", "knee"), {"hip": 0.7, "ankle": -0.2})
    assert part.coordinates == ("toe", "knee")
    for toe, knee in [(0.1, 0.5), (-0.25, 1.9), (0.0, 0.0)]:
        length, arm = evaluate(part, np.array([toe, knee]))
        whole_length, whole_arm = evaluate(paths, np.array([0.7, knee, -0.2, toe]))
        np.testing.assert_allclose(length, whole_length[jnp.array([5, 1, 3, 2])], rtol=1e-12)
        np.testing.assert_allclose(arm, whole_arm[jnp.array([[3], [1]]), jnp.array([[5, 1, 3, 2]])], atol=1e-13)
    assert part.span("m5") == ("knee",)
    assert paths.span("m1") == ("hip", "knee", "toe")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"muscles": ("m9",)}, "no muscle 'm9'"),
        ({"coordinates": ("elbow",)}, "no coordinate 'elbow'"),
        ({"muscles": ("m1", "m1")}, "repeats 'm1'"),
        ({"coordinates": ()}, "empty"),
        ({"coordinates": ("hip",), "held_at": {"knee": 2.5}}, "'knee' would be held at 143.2 deg"),
        ({"held_at": {"elbow": 0.0}}, "no coordinate 'elbow'"),
    ],
)
def test_selecting_what_is_not_there(paths, arguments, message):
    with pytest.raises(InputError, match=message):
        select_paths(paths, **arguments)


def test_plain_polynomials_become_the_same_surface():
    # l = 0.3 + 0.05 knee^3 - 0.02 hip knee^2 + 0.01 hip, given with its coordinates in another order.
    polynomial = PlainPolynomial(
        "m", ("knee", "hip"), np.array([[0, 0], [3, 0], [2, 1], [0, 1]]), np.array([0.3, 0.05, -0.02, 0.01])
    )
    paths = paths_from_polynomials([polynomial], ("hip", "knee"), [[-0.5, 1.0], [0.0, 2.0]])
    hip, knee = 0.3, 1.2
    length, arm = evaluate(paths, np.array([hip, knee]))
    np.testing.assert_allclose(length, [0.3 + 0.05 * knee**3 - 0.02 * hip * knee**2 + 0.01 * hip], rtol=1e-13)
    np.testing.assert_allclose(arm, [[-(0.01 - 0.02 * knee**2)], [-(0.15 * knee**2 - 0.04 * hip * knee)]], rtol=1e-12)
    with pytest.raises(InputError, match="no coordinate 'hip'"):
        paths_from_polynomials([polynomial], ("knee",), [[0.0, 2.0]])
    with pytest.raises(InputError, match="domain has shape"):
        paths_from_polynomials([polynomial], ("hip", "knee"), [[0.0, 2.0]])
    with pytest.raises(InputError, match="repeat"):
        paths_from_polynomials([polynomial, polynomial], ("hip", "knee"), [[-0.5, 1.0], [0.0, 2.0]])


# ------------------------------------------------------------------------------------------- door check


def test_check_domain_names_coordinate_value_and_range(paths):
    check_domain(paths, DOMAIN.T)
    check_domain(paths, np.array([1.35, 1.0, 0.0, 0.0]), margin=0.06)
    with pytest.raises(InputError, match=r"walk\.mot: coordinate 'knee' reaches 171\.9 deg.*0\.0 to 114\.6 deg"):
        check_domain(paths, np.array([[0.0, 1.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0]]), source="walk.mot")
    with pytest.raises(InputError, match="'hip' reaches -40"):
        check_domain(paths, np.array([-0.7, 1.0, 0.0, 0.0]))
    with pytest.raises(InputError, match="'ankle' has values that are not finite"):
        check_domain(paths, np.array([0.0, 1.0, np.nan, 0.0]))
    with pytest.raises(InputError, match=r"shape \(3,\)"):
        check_domain(paths, np.zeros(3))


def test_both_precisions_in_one_process(paths):
    # A calibration in float64 beside an environment in float32: neither trace may spoil the other.
    q = np.array([0.1, 0.5, 0.0, 0.0])
    for wide in (False, True, False, True):
        with jax.enable_x64(wide):
            length, _ = jax.jit(lambda q: lengths_and_moment_arms(paths, q))(q)
            assert length.dtype == (jnp.float64 if wide else jnp.float32)
            np.testing.assert_allclose(length, plain_lengths(paths, q), rtol=1e-12 if wide else 1e-5)
