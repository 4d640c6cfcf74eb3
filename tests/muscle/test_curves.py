"""Curves against OpenSim's DeGrooteFregly2016Muscle; key points, derivatives and records of every family."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import load_arrays

from nms_gym.errors import InputError
from nms_gym.muscle.curves import DeGrooteFregly2016
from nms_gym.muscle.families import FAMILIES, curves_from_record, curves_to_record
from nms_gym.muscle.hill import MuscleParams
from nms_gym.muscle.meyer_fregly import MeyerFregly2017, nmsm_1_4
from nms_gym.muscle.millard import Millard2012
from nms_gym.muscle.tabulated import Tabulated

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
    truth = load_arrays(data("truth_muscle") / "curves.npz")
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


# ---- every family ----

FAMILY = {"DeGrooteFregly2016": CURVES, "Millard2012": Millard2012(), "MeyerFregly2017": MeyerFregly2017()}
METHODS = ("active_force_length", "force_velocity", "passive_force_length", "tendon_force", "tendon_length")
# Where formulas meet: derivatives are checked there as well.
SEAMS = {
    "active_force_length": (0.4441, 1.0, 1.8123),
    "force_velocity": (-1.0, 0.0, 1.0),
    "passive_force_length": (1.0, 1.7),
    "tendon_force": (1.0, 1.0 + 0.049 * 0.0188094824, 1.0 + 0.049 * (1 - 1 / (3 * 1.375))),
    "tendon_length": (0.0, 1e-3, 2 / 3),
}


def of(family, method):
    """The curve as a function of its first argument, at the family's own strain, and the arguments met in use."""
    curves = FAMILY[family]
    curve = getattr(curves, method)
    if method in ("active_force_length", "force_velocity"):
        return curve, FUNCTIONS[method][1]
    kind = "passive_fiber" if method == "passive_force_length" else "tendon"
    strain = curves.defaults[f"{kind}_strain_at_one_norm_force"]
    return lambda x: curve(x, strain), FUNCTIONS[method][1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILY)
def test_derivatives_match_finite_differences(family, method):
    """Forward and reverse, over the domain, outside it and at the seams."""
    curve, (low, high) = of(family, method)
    x = np.concatenate([np.linspace(low, high, 501), SEAMS[method]])
    if method == "active_force_length":
        # The second Gaussian's width passes zero near 0.15; there the curve is checked for NaN below.
        x = x[np.abs(x - 0.1480) > 0.02]
    if method == "tendon_length" and family != "Millard2012":
        # Second derivative jumps at the seam.
        x = x[np.abs(x + 0.18) > 1e-4]
    h = 1e-6
    up, down = jax.jit(curve)(x + h), jax.jit(curve)(x - h)
    differences = (np.asarray(up) - np.asarray(down)) / (2 * h)
    forward = jax.jit(lambda x: jax.jvp(curve, (x,), (jnp.ones_like(x),))[1])(x)
    reverse = jax.jit(jax.vmap(jax.grad(curve)))(x)
    scale = np.maximum(np.abs(differences), 1.0)
    # Millard's third derivatives jump within splines and at seams.
    assert np.max(np.abs(forward - differences) / scale) < (2e-6 if family == "Millard2012" else 1e-7)
    np.testing.assert_allclose(reverse, forward, rtol=1e-12, atol=1e-12)
    if method.startswith("tendon") or method == "passive_force_length":
        assert np.all(differences > -1e-9)


@pytest.mark.parametrize("method", METHODS[2:])
@pytest.mark.parametrize("family", FAMILY)
def test_derivatives_with_respect_to_strain(family, method):
    at, x = (PASSIVE, 1.3) if method == "passive_force_length" else (TENDON, 1.02)
    curve = getattr(FAMILY[family], method)
    h = 1e-7
    differences = (float(curve(x, at + h)) - float(curve(x, at - h))) / (2 * h)
    assert float(jax.jit(jax.grad(curve, argnums=1))(x, at)) == pytest.approx(differences, rel=1e-6)
    assert differences != 0


@pytest.mark.parametrize("family", FAMILY)
def test_key_points_of_every_family(family):
    curves = FAMILY[family]
    assert float(curves.active_force_length(jnp.asarray(1.0))) == pytest.approx(1.0, abs=1e-6)
    v = jnp.asarray([-1.0, 0.0, 1.0])
    np.testing.assert_allclose(curves.force_velocity(v)[:2], [0.0, 1.0], atol=1e-6)
    assert 1.3 < float(curves.force_velocity(v)[2]) < 1.9
    for strain in (0.5, curves.defaults["passive_fiber_strain_at_one_norm_force"]):
        assert float(curves.passive_force_length(jnp.asarray(1 + strain), strain)) == pytest.approx(1.0, abs=1e-9)
        tendon = 0.1 * strain
        assert float(curves.tendon_force(jnp.asarray(1 + tendon), tendon)) == pytest.approx(1.0, abs=1e-9)
        assert float(curves.tendon_length(jnp.asarray(1.0), tendon)) == pytest.approx(1 + tendon, abs=1e-9)
        assert abs(float(curves.tendon_force(jnp.asarray(1.0), tendon))) < 1e-4
    assert set(curves.defaults) <= {f.name for f in dataclasses.fields(MuscleParams)}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILY)
def test_no_nan_in_values_or_gradients(family, method, dtype):
    curve, (low, high) = of(family, method)
    # The width of the second Gaussian is zero at 0.029947116970696 / 0.200356847296188 = 0.149468...
    zero = 0.029947116970696 / 0.200356847296188
    far = [-1e3, -10.0, 10.0, 1e3] if method != "passive_force_length" else [-1e3, -10.0]
    if method == "tendon_force":
        far = far[:2]
    x = np.concatenate(
        [np.linspace(low, high, 4001), zero + np.linspace(-1e-3, 1e-3, 2001), zero + 1e-7 * np.arange(-9, 9)]
        + [np.nextafter(np.asarray(SEAMS[method], dtype), np.asarray(side, dtype)) for side in (-9, 9)]
        + [np.asarray(SEAMS[method]), np.asarray(far)]
    )
    x = jnp.asarray(x, dtype)
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(curve)))(x)
    forward = jax.jit(lambda x: jax.jvp(curve, (x,), (jnp.ones_like(x),))[1])(x)
    assert value.dtype == slope.dtype == dtype
    for array in (value, slope, forward):
        assert np.all(np.isfinite(array))


# ---- records ----


@pytest.mark.parametrize(
    "curves",
    [*FAMILY.values(), Tabulated(), nmsm_1_4(), Millard2012(max_active_length=1.6), DeGrooteFregly2016(c3=0.3)],
    ids=lambda curves: curves.name,
)
def test_record_round_trip(curves):
    record = json.loads(json.dumps(curves_to_record(curves)))
    again = curves_from_record(record, "file")
    assert again == curves
    assert hash(again) == hash(curves)
    assert isinstance(record, str) == (curves == type(curves)())


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("Thelen2003", "file: curves are 'Thelen2003'.*There are 'DeGrooteFregly2016', 'Millard2012'"),
        ("Milard2012", "did you mean 'Millard2012'"),
        (3, "curves are 3"),
        ({"family": "Millard2012"}, "curves are None"),
        ({"name": "Millard2012", "max_length": 1.6}, "no constant 'max_length'"),
        ({"name": "Millard2012", "max_active_length": "1.6"}, "max_active_length is '1.6'; expected a number"),
        ({"name": "Millard2012", "max_active_length": True}, "max_active_length is True"),
        ({"name": "Millard2012", "max_active_length": 0.9}, "file: no corner leads from"),
        ({"name": "MeyerFregly2017", "d": [1.0, 2.0]}, "expected 6 numbers"),
    ],
)
def test_unusable_records_are_refused(record, message):
    with pytest.raises(InputError, match=message):
        curves_from_record(record, "file")


def test_a_class_of_ones_own_cannot_be_named_in_a_file():
    class Own(DeGrooteFregly2016):
        pass

    with pytest.raises(InputError, match="no family that a file can name"):
        curves_to_record(Own())
    assert set(FAMILIES) == {*FAMILY, "Tabulated"}


def test_active_curve_is_flat_where_the_second_gaussian_vanishes():
    """Near length 0.15 the guard against 0 / 0 must not show: the curve there is the other two Gaussians."""
    x = np.linspace(0.13, 0.17, 4001)

    def gaussian(amplitude, center, width, growth):
        return amplitude * np.exp(-0.5 * ((x - center) / (width + growth * x)) ** 2)

    rest = gaussian(0.8150671134243542, 1.055033428970575, 0.162384573599574, 0.063303448465465)
    rest = rest + gaussian(0.1, 1.0, 0.353553390593274, 0.0)
    np.testing.assert_allclose(CURVES.active_force_length(x), rest, rtol=0, atol=1e-12)
