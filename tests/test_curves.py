"""Muscle curves against OpenSim's DeGrooteFregly2016Muscle, their key points, inverses and derivatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nms_gym.muscle.curves import DeGrooteFregly2016

CURVES = DeGrooteFregly2016()
PASSIVE, TENDON = 0.6, 0.049

# Every curve as a function of its first argument, and the range of that argument met in use.
FUNCTIONS = {
    "active_force_length": (CURVES.active_force_length, (0.0, 2.5)),
    "force_velocity": (CURVES.force_velocity, (-3.0, 3.0)),
    "passive_force_length": (lambda x: CURVES.passive_force_length(x, PASSIVE), (0.0, 2.5)),
    "tendon_force": (lambda x: CURVES.tendon_force(x, TENDON), (0.5, 1.15)),
    "tendon_length": (lambda x: CURVES.tendon_length(x, TENDON), (-3.0, 8.0)),
}


@pytest.mark.parametrize(
    ("ours", "argument", "table"),
    [
        ("active_force_length", "norm_fiber_length", "dgf_active_fl"),
        ("force_velocity", "norm_fiber_velocity", "dgf_fv"),
        ("passive_force_length", "norm_fiber_length", "dgf_passive_fl"),
        ("tendon_force", "norm_tendon_length", "dgf_tendon"),
    ],
)
def test_curves_are_opensims(data, ours, argument, table):
    truth = np.load(data("truth_muscle") / "curves.npz")
    np.testing.assert_allclose(FUNCTIONS[ours][0](truth[argument]), truth[table], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("curve", "x", "y"),
    [
        ("active_force_length", 1.0, 1.0),
        ("force_velocity", -1.0, 0.0),
        ("force_velocity", 0.0, 1.0),
        ("passive_force_length", 0.2, 0.0),
        ("passive_force_length", 1.0 + PASSIVE, 1.0),
        ("tendon_force", 1.0, 0.0),
        ("tendon_force", 1.0 + TENDON, 1.0),
        ("tendon_length", 0.0, 1.0),
        ("tendon_length", 1.0, 1.0 + TENDON),
    ],
)
def test_key_points(curve, x, y):
    assert float(FUNCTIONS[curve][0](jnp.asarray(x))) == pytest.approx(y, abs=1e-6)


@pytest.mark.parametrize("strain", [0.2, 0.6, 1.4])
def test_strain_moves_the_point_of_unit_force(strain):
    assert float(CURVES.passive_force_length(jnp.asarray(1.0 + strain), strain)) == pytest.approx(1.0, abs=1e-12)
    assert float(CURVES.tendon_force(jnp.asarray(1.0 + 0.1 * strain), 0.1 * strain)) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("strain", [0.025, TENDON, 0.1])
def test_tendon_length_inverts_tendon_force(strain):
    # Above the force where the inverse is continued, -0.18.
    force = np.linspace(-0.1799, 6.0, 400)
    length = CURVES.tendon_length(force, strain)
    np.testing.assert_allclose(CURVES.tendon_force(length, strain), force, rtol=1e-13, atol=1e-13)
    # And by a root finder's word: bisection on the curve itself.
    low, high = np.full(400, 0.5), np.full(400, 1.5)
    for _ in range(60):
        middle = 0.5 * (low + high)
        above = np.asarray(CURVES.tendon_force(middle, strain)) > force
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    np.testing.assert_allclose(length, low, rtol=0, atol=1e-12)


def test_tendon_length_continues_smoothly_where_no_length_gives_the_force():
    slope = jax.vmap(jax.grad(lambda f: CURVES.tendon_length(f, TENDON)))
    seam = -0.18
    sides = jnp.asarray([seam - 1e-9, seam + 1e-9])
    values, slopes = CURVES.tendon_length(sides, TENDON), slope(sides)
    assert abs(float(values[1] - values[0])) < 1e-8
    assert float(slopes[0]) == pytest.approx(float(slopes[1]), rel=1e-6)
    # The slope of the logarithm itself, 1 / (kT (f + c3)), at the seam and everywhere below it.
    stiffness = np.log(1.2 / 0.2) / TENDON
    np.testing.assert_allclose(slope(jnp.linspace(-50.0, seam, 40)), 1.0 / (stiffness * 0.02), rtol=1e-9)
    force = np.linspace(-50.0, 8.0, 20001)
    assert np.all(np.diff(CURVES.tendon_length(force, TENDON)) > 0)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_match_finite_differences(name):
    curve, (low, high) = FUNCTIONS[name]
    x = np.linspace(low, high, 501)
    if name == "active_force_length":
        # The second Gaussian's width passes zero near 0.15; there the curve is checked for NaN below.
        x = x[np.abs(x - 0.1495) > 0.02]
    if name == "tendon_length":
        # Second derivative jumps at the seam.
        x = x[np.abs(x + 0.18) > 1e-4]
    h = 1e-6
    differences = (np.asarray(curve(x + h)) - np.asarray(curve(x - h))) / (2 * h)
    forward = jax.jvp(curve, (jnp.asarray(x),), (jnp.ones(len(x)),))[1]
    reverse = jax.vmap(jax.grad(curve))(jnp.asarray(x))
    scale = np.maximum(np.abs(differences), 1.0)
    assert np.max(np.abs(forward - differences) / scale) < 1e-7
    np.testing.assert_allclose(reverse, forward, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("strain_of", ["passive_force_length", "tendon_force", "tendon_length"])
def test_derivatives_with_respect_to_strain(strain_of):
    at, x = (PASSIVE, 1.3) if strain_of == "passive_force_length" else (TENDON, 1.02)
    curve = getattr(CURVES, strain_of)
    h = 1e-7
    differences = (float(curve(x, at + h)) - float(curve(x, at - h))) / (2 * h)
    assert float(jax.grad(curve, argnums=1)(x, at)) == pytest.approx(differences, rel=1e-6)
    assert differences != 0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_nan_in_values_or_gradients(name, dtype):
    curve, (low, high) = FUNCTIONS[name]
    # The width of the second Gaussian is zero at 0.029947116970696 / 0.200356847296188 = 0.149468...
    zero = 0.029947116970696 / 0.200356847296188
    x = np.concatenate(
        [np.linspace(low, high, 4001), zero + np.linspace(-1e-3, 1e-3, 2001), zero + 1e-7 * np.arange(-9, 9)]
    )
    x = jnp.asarray(x, dtype)
    value, slope = jax.vmap(jax.value_and_grad(curve))(x)
    forward = jax.jvp(curve, (x,), (jnp.ones_like(x),))[1]
    assert value.dtype == slope.dtype == dtype
    for array in (value, slope, forward):
        assert np.all(np.isfinite(array))


def test_active_curve_is_flat_where_the_second_gaussian_vanishes():
    """Near length 0.15 the guard against 0 / 0 must not show: the curve there is the other two Gaussians."""
    x = np.linspace(0.13, 0.17, 4001)

    def gaussian(amplitude, center, width, growth):
        return amplitude * np.exp(-0.5 * ((x - center) / (width + growth * x)) ** 2)

    rest = gaussian(0.8150671134243542, 1.055033428970575, 0.162384573599574, 0.063303448465465)
    rest = rest + gaussian(0.1, 1.0, 0.353553390593274, 0.0)
    np.testing.assert_allclose(CURVES.active_force_length(x), rest, rtol=0, atol=1e-12)
