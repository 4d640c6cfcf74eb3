"""Curves through points: OpenSim's splines of the same kind, the tendon's inverse, scaling, derivatives, the solver."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import muscles

from nms_gym.errors import InputError
from nms_gym.muscle import tabulated
from nms_gym.muscle.tabulated import Tabulated
from nms_gym.muscle.tendon import fiber_step, initial_fiber

CURVES = Tabulated()
PASSIVE = CURVES.defaults["passive_fiber_strain_at_one_norm_force"]
TENDON = CURVES.defaults["tendon_strain_at_one_norm_force"]
# A tendon as users of CEINMS write it: it starts at zero strain, flat, and ends where a strong muscle may get to.
STRAINS = np.arange(0.0, 0.101, 0.005)
TOE = Tabulated(tendon_force_points=(tuple(STRAINS), tuple(1480 * STRAINS**2 / (1 + 20 * STRAINS))))

FUNCTIONS = {
    "active_force_length": CURVES.active_force_length,
    "force_velocity": CURVES.force_velocity,
    "passive_force_length": lambda x: CURVES.passive_force_length(x, PASSIVE),
    "tendon_force": lambda x: CURVES.tendon_force(x, TENDON),
    "tendon_length": lambda f: CURVES.tendon_length(f, TENDON),
}

# SimmSpline.calcValue of OpenSim 4.6 (the same kind of spline) through the default points: argument, value.
# fmt: off
OPENSIM = {
    "active_force_length": (
        (-3, 0.0008759259312657561), (0.2, -0.00011259957821807972), (0.4033, -2.0134891924975294e-06),
        (0.5, 0.1391780235973987), (0.6, 0.5249532354408603), (0.7, 0.8258283340395594), (0.9, 0.9667718306028625),
        (1, 1.0001979005693975), (1.1, 0.9538902693204443), (1.3, 0.5835798117924391), (1.5, 0.12011250946596808),
        (1.9, -0.00010009085602573241), (4, 0.0002738636806515889),
    ),
    "passive_force_length": (
        (-2, -0.0005025348820750046), (0.5, -0.00015304014253985317), (0.9993, -2.46346521580145e-07),
        (1.05, 0.009490495275649737), (1.15, 0.07272348626099673), (1.25, 0.17774055968036298),
        (1.35, 0.3819392750175515), (1.45, 0.7845023402494329), (1.55, 1.7075513639847175),
        (1.6005, 2.000013908877525), (3, 2.0101714379466076),
    ),
    "force_velocity": (
        (-0.95, 0.006584755704989422), (-0.8, 0.03303950168569645), (-0.45, 0.1250680430594726),
        (-0.2, 0.2991777634543923), (-0.05, 0.7620108580337974), (0.05, 1.222900932724612), (0.2, 1.5683071659278753),
        (0.45, 1.6436148004359061), (0.7, 1.728551099673243), (0.9, 1.7677169085409723), (0.99, 1.7811043724486415),
    ),
    "tendon_force": (
        (1.0005, 0.002972920788416485), (1.002, 0.017602982779042473), (1.0035, 0.03339969218599802),
        (1.005, 0.05296250447696546), (1.0065, 0.07670414510614014), (1.008, 0.10523939669847397),
        (1.0095, 0.13975674398368787), (1.011, 0.18130929246703226), (1.012, 0.2154565975525573),
        (1.02, 0.5255827072822168), (1.0322, 0.9995858005800837), (1.06, 2.0839005722563257), (1.2, 7.631586805748238),
    ),
}
# fmt: on


@pytest.mark.parametrize("curve", OPENSIM)
def test_inside_the_points_they_are_opensims_splines(curve):
    x, expected = np.asarray(OPENSIM[curve]).T
    np.testing.assert_allclose(FUNCTIONS[curve](x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("curve", OPENSIM)
def test_curves_pass_through_their_points(curve):
    x, y = map(np.asarray, getattr(CURVES, f"{curve}_points"))
    inside = {
        "force_velocity": np.abs(x) <= 1,
        "tendon_force": (x >= 0) & (y <= tabulated.MAX_TENDON_FORCE),
    }.get(curve, x < np.inf)
    shift = 1.0 if curve == "tendon_force" else 0.0
    np.testing.assert_allclose(FUNCTIONS[curve](shift + x[inside]), y[inside], rtol=0, atol=1e-12)


def test_single_precision():
    for curve, values in OPENSIM.items():
        x, expected = np.asarray(values).T
        found = FUNCTIONS[curve](jnp.asarray(x, jnp.float32))
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=6e-6)
    assert CURVES.tendon_length(jnp.asarray(0.5, jnp.float32), jnp.asarray(TENDON, jnp.float32)).dtype == jnp.float32


def test_outside_they_settle_at_ceinms_constants():
    """CEINMS holds the last value, and the velocity within -1 .. 1."""
    far = jnp.asarray([-30.0, 30.0])
    for curve, ends in (("active_force_length", (-5.0, 5.0)), ("passive_force_length", (-5.0, 5.0))):
        np.testing.assert_allclose(FUNCTIONS[curve](far), FUNCTIONS[curve](jnp.asarray(ends)), rtol=0, atol=2e-4)
    beyond = FUNCTIONS["force_velocity"](jnp.asarray([-3.0, -1.1, -1.0, 1.0, 1.1, 3.0]))
    at_one = 1.75 + 0.2 * (0.19240 + 0.2 * (-0.15382 + 0.2 * 0.01438))  # the cubic that starts at 0.8
    np.testing.assert_allclose(beyond, [0.0, 0.0, 0.0, at_one, at_one, at_one], rtol=0, atol=1.5e-3)


# ---- the tendon ----


@pytest.mark.parametrize("curves", [CURVES, TOE], ids=["default", "toe"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float64, 1e-13), (jnp.float32, 1e-5)])
def test_tendon_length_inverts_tendon_force(curves, dtype, tolerance):
    strain = jnp.asarray(1.3 * curves.defaults["tendon_strain_at_one_norm_force"], dtype)
    forces = jnp.concatenate([jnp.linspace(-0.005, 0.1, 2001), jnp.linspace(0.1, 25.0, 2001)]).astype(dtype)
    lengths = curves.tendon_length(forces, strain)
    error = jnp.abs(curves.tendon_force(lengths, strain) - forces)
    # A length has the precision of 1, and the tendon is stiff.
    assert float(jnp.max(error / (1.0 + forces))) < tolerance
    assert lengths.dtype == dtype


@pytest.mark.parametrize("curves", [CURVES, TOE], ids=["default", "toe"])
def test_tendon_increases_and_does_not_push(curves):
    strain = curves.defaults["tendon_strain_at_one_norm_force"]
    forces = curves.tendon_force(jnp.linspace(0.98, 1.6, 60001), strain)
    assert np.diff(forces).min() > 0
    lengths = curves.tendon_length(jnp.linspace(-2.0, 40.0, 60001), strain)
    assert np.diff(lengths).min() > 0
    assert float(curves.tendon_force(jnp.asarray(0.2), strain)) >= -tabulated.SLACK_PUSH


def test_a_tendon_that_ends_goes_on_along_its_tangent():
    """CEINMS's tendon would yield at the last point."""
    strain = TOE.defaults["tendon_strain_at_one_norm_force"]
    at_end, beyond = TOE.tendon_force(jnp.asarray([1.1, 1.2]), strain)
    assert float(at_end) == pytest.approx(1480 * 0.01 / 3, rel=1e-6)
    assert float(beyond - at_end) == pytest.approx(0.1 * 1480 * (0.2 + 20 * 0.01) / 9, rel=2e-3)


@pytest.mark.parametrize("strain", [0.5, 1.0, 2.0])
def test_strains_scale_the_points(strain):
    x = jnp.asarray([1.05, 1.2, 1.0 + PASSIVE, 1.55])
    scaled = CURVES.passive_force_length(1.0 + strain * (x - 1.0), strain * PASSIVE)
    np.testing.assert_allclose(scaled, FUNCTIONS["passive_force_length"](x), rtol=0, atol=1e-13)
    assert float(scaled[2]) == pytest.approx(1.0, abs=1e-12)
    assert float(CURVES.tendon_force(jnp.asarray(1.0 + strain * TENDON), strain * TENDON)) == pytest.approx(
        1, abs=1e-12
    )


def test_passive_points_that_never_reach_one_are_left_alone():
    curves = Tabulated(passive_force_length_points=((0.0, 1.0, 1.2, 1.6), (0.0, 0.0, 0.1, 0.4)))
    strain = curves.defaults["passive_fiber_strain_at_one_norm_force"]
    assert strain == 1.0
    assert float(curves.passive_force_length(jnp.asarray(1.2), strain)) == pytest.approx(0.1, abs=1e-12)


# ---- derivatives ----

# Between points, at points, at the ends and beyond them.
PLACES = {
    "active_force_length": (-7.0, -5.0, 0.3, 0.402, 0.6, 1.0, 1.045, 1.62, 5.0, 5.01),
    "force_velocity": (-1.02, -1.0, -0.5, -0.1, 0.0, 0.05, 0.8, 1.0, 1.01),
    "passive_force_length": (0.5, 1.0, 1.15, 1.2, 1.55, 1.6, 5.0, 5.01),
    "tendon_force": (0.99, 1.0, 1.0005, 1.00131, 1.02, 1.2587, 1.3),
    "tendon_length": (-0.5, -0.007, 0.0, 0.005, 0.0257, 0.5, 10.0, 12.0),
}


@pytest.mark.parametrize("curve", PLACES)
def test_derivatives_are_the_finite_differences(curve):
    function, step = FUNCTIONS[curve], 1e-6
    slope = jax.vmap(jax.grad(function))

    @jax.jit
    def everything(x):
        off = x + 1e-4  # from the points, where the third derivative jumps
        return (
            slope(x),
            jax.vmap(jax.jacfwd(function))(x),
            (function(x + step) - function(x - step)) / (2 * step),
            jax.vmap(jax.grad(jax.grad(function)))(off),
            (slope(off + step) - slope(off - step)) / (2 * step),
        )

    reverse, forward, difference, second, second_difference = everything(jnp.asarray(PLACES[curve]))
    # Third derivatives of up to 3e6 make the difference quotient that far off.
    np.testing.assert_allclose(reverse, difference, rtol=1e-5, atol=6e-3 if curve.startswith("tendon") else 2e-5)
    np.testing.assert_allclose(forward, reverse, rtol=1e-13)
    np.testing.assert_allclose(second, second_difference, rtol=1e-3, atol=0.03)


def test_derivatives_with_respect_to_strain():
    @jax.jit
    def everything(strain):
        step = 1e-6
        difference = (total(strain + step) - total(strain - step)) / (2 * step)
        return jax.grad(total)(strain), jax.jacfwd(total)(strain), difference

    def total(strain):
        x = jnp.asarray([1.1, 1.3, 1.5])
        passive = CURVES.passive_force_length(x, strain)
        tendon = CURVES.tendon_force(1.0 + 0.01 * x, 0.1 * strain)
        return jnp.sum(passive + tendon + CURVES.tendon_length(x, 0.1 * strain))

    reverse, forward, difference = map(float, everything(0.4))
    assert reverse == pytest.approx(difference, rel=1e-7)
    assert forward == pytest.approx(difference, rel=1e-7)
    assert abs(difference) > 1


# ---- in the solver ----


def test_elastic_fibers_converge_and_have_gradients():
    """Random muscles, square-wave activation and fast stretches, slack tendons among them."""
    rng = np.random.default_rng(5)
    m, t, dt = 60, 60, 0.005
    fiber = rng.uniform(0.03, 0.15, m)
    slack = fiber * np.exp(rng.uniform(np.log(0.3), np.log(8), m))
    params = muscles(
        np.stack([np.full(m, 1000.0), fiber, slack, rng.uniform(0, 0.5, m)], axis=1),
        passive_fiber_strain_at_one_norm_force=PASSIVE,
        tendon_strain_at_one_norm_force=TENDON,
        optimal_fiber_length_change=0.15,
    )
    time = dt * np.arange(t)[:, None]
    phase, rate = rng.uniform(0, 6, m), rng.uniform(2, 20, m)
    lengths = slack + fiber * (1 + 0.3 * np.sin(rate * time + phase))
    activation = jnp.asarray((np.sin(3 * rate * time) > 0) * 0.9 + 0.02)

    def simulate(params):
        start = initial_fiber("elastic", CURVES, params, activation[0], lengths[0])

        def step(state, sample):
            return fiber_step("elastic", "bdf2", 8, CURVES, params, state, *sample, jnp.zeros(m), dt)

        return jax.lax.scan(step, start, (activation, jnp.asarray(lengths)))[1]

    def loss(params):
        out = simulate(params)
        return jnp.mean(out.tendon_force) / 1000, (out.tendon_strain, out.residual)

    (_, (strain, residual)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert float(strain.min()) < -0.02  # slack
    assert float(strain.max()) > 0.04  # and taut
    # A slack tendon under a jump of activation is these curves' sharpest corner; few steps stay there.
    assert float(jnp.mean(jnp.abs(residual) > 1e-6)) < 0.01
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))
    for kind in dataclasses.fields(gradient):
        assert float(jnp.abs(getattr(gradient, kind.name)).max()) > 0, kind.name


# ---- files and errors ----


def test_record_survives_json_and_families_are_hashable():
    record = json.loads(json.dumps(TOE.to_record()))
    again = Tabulated.from_record(record, "here")
    assert again == TOE
    assert hash(again) == hash(TOE)
    assert again != CURVES
    assert Tabulated(tendon_force_points=tuple(map(list, CURVES.tendon_force_points))) == CURVES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"active_force_length": None}, "active_force_length is None"),
        ({"active_force_length": {"x": [0, 1], "y": [0, "a"]}}, "two lists of numbers"),
        ({"force_velocity": {"x": [0, 1, 1], "y": [0, 1, 2]}}, "x does not increase at 1"),
        ({"force_velocity": {"x": [0, 1], "y": [0, 1, 2]}}, "2 x and 3 y"),
        ({"passive_force_length": {"x": [0, 1], "y": [0, float("nan")]}}, "not finite"),
        ({"tendon_force": {"x": [0, 0.1], "y": [0, 0.9]}}, "does not grow through force 1"),
        ({"more": 1}, "expected the keys"),
    ],
)
def test_bad_records(change, message):
    with pytest.raises(InputError, match=message) as raised:
        Tabulated.from_record({**CURVES.to_record(), **change}, "subject.json")
    assert str(raised.value).startswith("subject.json: ")
