"""Forces, powers, work, stiffness and co-contraction against OpenSim, equilibrium, hand computation and differences."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import REFERENCE
from jax.flatten_util import ravel_pytree
from models import muscles

from nms_gym.errors import InputError
from nms_gym.muscle import derived
from nms_gym.muscle.curves import DeGrooteFregly2016
from nms_gym.muscle.geometry import PlainPolynomial, lengths_and_moment_arms, paths_from_polynomials
from nms_gym.muscle.tendon import fiber_step, initial_fiber

CURVES = DeGrooteFregly2016()
TABLES = json.loads((REFERENCE / "metabolics.json").read_text(encoding="utf-8"))


class Result(NamedTuple):
    """What the functions read of an output."""

    tendon_force: jax.Array
    fiber_length: jax.Array
    fiber_velocity: jax.Array
    tendon_strain: jax.Array


ROWS = [(3000.0, 0.10, 0.20, 0.08, 10.0), (3549.0, 0.05, 0.25, 0.436, 8.0), (600.0, 0.12, 0.22, 0.0, 12.0)]


def result(x, v, strain, force):
    force, x, v, strain = (jnp.asarray(a, dtype=float) for a in (force, x, v, strain))
    return Result(force, x, v, strain)


derive = jax.jit(derived.derive, static_argnums=(0, 1))
stiffness = jax.jit(derived.stiffness, static_argnums=(0, 1))


@jax.jit
def at_rest(params, activation, lengths):
    """Elastic fibers in equilibrium."""
    state = initial_fiber("elastic", CURVES, params, activation, lengths)
    still = jnp.zeros_like(lengths)
    return fiber_step("elastic", "bdf2", 20, CURVES, params, state, activation, lengths, still, 1.0)[1]


# ---- against OpenSim ----


def opensim(kind):
    """OpenSim's table, parameters of its rows, and its state as one of our outputs."""
    table = {k: np.asarray(v) for k, v in TABLES[kind].items()}
    rows = [list(TABLES["muscles"][name].values())[:5] for name in table["muscle"]]
    out = result(*(table[k] for k in ("fiber_length", "fiber_velocity", "tendon_strain", "tendon_force")))
    return table, muscles(rows, fiber_damping=0.1 if kind == "rigid" else 0.0), out


@pytest.mark.parametrize("kind", ["rigid", "elastic"])
def test_every_quantity_is_opensims(kind):
    truth, params, out = opensim(kind)
    ours = derive(kind, CURVES, params, truth["activation"], out, truth["musculotendon_velocity"])
    forces, powers, stiff = ours.forces, ours.powers, ours.stiffness
    damping_power = -forces.damping * out.fiber_velocity * params.max_contraction_velocity * params.optimal_fiber_length
    pairs = {
        "pennation": ours.pennation,
        "active_force": forces.active,
        "passive_force": forces.passive + forces.damping,
        "active_power": powers.active + damping_power,
        "passive_power": powers.fiber - powers.active - damping_power,
        "tendon_power": powers.tendon,
        "musculotendon_power": powers.musculotendon,
        "fiber_stiffness": stiff.fiber,
        "fiber_stiffness_along_tendon": stiff.fiber_along_tendon,
        "musculotendon_stiffness": stiff.musculotendon,
        "tendon_energy": ours.tendon_energy,
    }
    if kind == "elastic":
        pairs["tendon_stiffness"] = stiff.tendon
        assert np.ptp(truth["tendon_energy"]) > 1.0
    else:
        assert np.all(np.isinf(stiff.tendon))
    for name, value in pairs.items():
        scale = max(np.abs(truth[name]).max(), 1.0)
        np.testing.assert_allclose(value / scale, truth[name] / scale, rtol=0, atol=1e-8, err_msg=name)
    assert len(truth["activation"]) == 60
    np.testing.assert_allclose(forces.total, truth["active_force"] + truth["passive_force"], rtol=1e-9, atol=1e-7)


# ---- energy ----


@jax.jit
def simulate(params, activation, lengths, dt):
    """Elastic fibers driven from rest; outputs with a time axis."""

    def step(state, sample):
        return fiber_step("elastic", "bdf2", 10, CURVES, params, state, *sample, jnp.zeros_like(sample[1]), dt)

    start = initial_fiber("elastic", CURVES, params, activation[0], lengths[0])
    return jax.lax.scan(step, start, (activation[1:], lengths[1:]))[1]


def motion(dt, params):
    t = np.arange(round(0.6 / dt) + 1)[:, None] * dt
    rest = params.tendon_slack_length * 1.02 + params.optimal_fiber_length * np.cos(params.pennation_at_optimal)
    swing, rate = 0.15 * params.optimal_fiber_length, 2 * np.pi * 1.7
    activation = 0.1 + 0.7 * np.sin(2 * np.pi * 1.2 * t + 0 * rest[None]) ** 2
    lengths = rest[None] + swing[None] * np.sin(rate * t) ** 2
    return activation, lengths, swing[None] * rate * np.sin(2 * rate * t)


def test_energy_balance_of_an_elastic_simulation():
    """Fiber work minus what the tendon stores is the musculotendon's work; at every sample, powers balance."""
    params = muscles(ROWS, fiber_damping=0.05)
    errors = []
    for dt in (0.01, 0.005):
        activation, lengths, velocities = motion(dt, params)
        out = simulate(params, activation, lengths, jnp.asarray(dt))
        d = derive("elastic", CURVES, params, activation[1:], out, velocities[1:])
        p = d.powers
        np.testing.assert_allclose(p.fiber + p.tendon, p.musculotendon, rtol=0, atol=1e-6 * np.abs(p.fiber).max())
        # The tendon's energy knows nothing of velocities.
        released = d.tendon_energy[0] - d.tendon_energy[-1]
        fiber, both = (derived.work(power, dt) for power in (p.fiber, p.musculotendon))
        np.testing.assert_allclose(fiber.total, fiber.positive + fiber.negative, rtol=1e-12)
        np.testing.assert_allclose(fiber.net, fiber.positive - fiber.negative, rtol=0, atol=1e-9)
        errors.append(np.abs(np.asarray(fiber.net + released - both.net)) / np.asarray(fiber.total))
        assert np.asarray(fiber.total).min() > 1.0
        assert np.abs(released / fiber.total).min() > 1e-3
    assert errors[1].max() < 2e-3
    assert (errors[1] < 0.5 * errors[0]).all()


def test_tendon_energy_is_the_integral_of_force():
    params = muscles(ROWS)
    strain = jnp.asarray([[0.0, 0.02, 0.049], [0.08, -0.01, 0.005]])
    k = np.log(6.0) / 0.049  # c1 exp(k s) - c3, integrated by hand
    by_hand = 0.2 * (np.expm1(k * strain) / k - strain) * params.max_isometric_force[None]
    energy = derived.tendon_energy(CURVES, params, strain)
    np.testing.assert_allclose(energy, by_hand * params.tendon_slack_length[None], rtol=1e-10, atol=1e-15)


def test_work_of_a_sine():
    t = np.linspace(0, 1, 2001)[:, None]
    done = derived.work(np.array([50.0, -3.0]) * np.sin(2 * np.pi * t) + np.array([0.0, 1.0]), t[1, 0])
    np.testing.assert_allclose(done.net, [0.0, 1.0], atol=1e-9)
    np.testing.assert_allclose(done.positive[0], 50 / np.pi, rtol=1e-4)
    np.testing.assert_allclose(done.negative[0], 50 / np.pi, rtol=1e-4)
    # Rest costs at most half the smoothing.
    np.testing.assert_allclose(derived.work(np.zeros((5, 1)), 0.25).positive, 0.5 * derived.POWER_SMOOTHING)


# ---- stiffness ----


def test_stiffness_is_the_slope_of_equilibrium_force():
    """Musculotendon stiffness against a change of length between equilibria; activation moves the optimal length."""
    params = muscles(ROWS, optimal_fiber_length_change=0.15)
    activation = jnp.asarray([0.3, 0.8, 0.5])
    lengths = params.tendon_slack_length * 1.02 + params.optimal_fiber_length * jnp.asarray([0.8, 0.9, 1.1])

    h = 1e-6
    forces = [at_rest(params, activation, lengths + e).tendon_force for e in (h, -h)]
    slope = (forces[0] - forces[1]) / (2 * h)
    ours = stiffness("elastic", CURVES, params, activation, at_rest(params, activation, lengths))
    np.testing.assert_allclose(ours.musculotendon, slope, rtol=1e-5)
    assert (np.asarray(ours.musculotendon) < np.asarray(ours.fiber_along_tendon)).all()


def test_short_range_stiffness_by_hand():
    """gamma F / lopt in series with the tendon; in a rigid tendon without pennation, just that."""
    params = muscles([ROWS[2]])
    out = result([1.0], [0.0], [0.049], [600.0])
    attached = 23.4 * 0.5 * 600.0 / 0.12
    tendon = 600.0 / 0.22 * 1.2 * np.log(6.0) / 0.049
    activation = jnp.asarray([0.5])
    elastic, rigid = (stiffness(k, CURVES, params, activation, out).short_range for k in ("elastic", "rigid"))
    np.testing.assert_allclose(rigid, attached, rtol=1e-6)
    np.testing.assert_allclose(elastic, attached * tendon / (attached + tendon), rtol=1e-6)


def test_tendon_kind_per_muscle():
    params, activation = muscles(ROWS), jnp.full((4, 3), 0.5)
    out = result(np.full((4, 3), 0.9), np.full((4, 3), -0.1), np.full((4, 3), 0.02), np.full((4, 3), 300.0))
    mixed = stiffness(("rigid", "elastic", "rigid"), CURVES, params, activation, out)
    for i, kind in enumerate(("rigid", "elastic", "rigid")):
        alone = stiffness(kind, CURVES, params, activation, out)
        for field in ("musculotendon", "tendon", "short_range"):
            np.testing.assert_array_equal(getattr(mixed, field)[:, i], getattr(alone, field)[:, i])


def test_series_stiffness_stays_finite_where_equilibrium_is_lost():
    scale = jnp.ones(4)
    series = derived._series(jnp.asarray([-1.0, 0.0, 1.0, -1.0 + 1e-7]), jnp.asarray([1.0, 0.0, 1.0, 1.0]), scale)
    assert np.all(np.isfinite(series))
    np.testing.assert_allclose(series[1:3], [0.0, 0.5], atol=1e-11)


# ---- joints ----

TERMS = {
    "flexor": {(0, 0): 0.33, (1, 0): -0.03, (2, 0): 0.008, (1, 1): 0.004, (0, 1): -0.02},
    "extensor": {(0, 0): 0.30, (1, 0): 0.025, (2, 0): -0.005, (3, 0): 0.002},
    "other": {(0, 0): 0.34, (0, 1): 0.03, (0, 2): -0.01, (1, 1): 0.003},
}
PATHS = paths_from_polynomials(
    [
        PlainPolynomial(name, ("a", "b"), np.array(list(terms)), np.array(list(terms.values())))
        for name, terms in TERMS.items()
    ],
    ("a", "b"),
    np.array([[-1.0, 2.0], [-1.0, 1.0]]),
)


def test_joint_stiffness_is_the_slope_of_equilibrium_moments():
    params = muscles(ROWS)
    activation = jnp.asarray([0.3, 0.4, 0.6])

    geometry = jax.jit(partial(lengths_and_moment_arms, PATHS))

    def moments(q):
        lengths, arms = geometry(q)
        return arms @ at_rest(params, activation, lengths).tendon_force

    q, h = jnp.asarray([0.4, -0.2]), 1e-6
    lengths, arms = geometry(q)
    out = at_rest(params, activation, lengths)
    k = stiffness("elastic", CURVES, params, activation, out).musculotendon
    slopes = jax.jit(partial(derived.moment_arm_slopes, PATHS))(q)
    matrix = derived.joint_stiffness(arms, slopes, out.tendon_force, k)
    differences = np.stack([-(moments(q + e) - moments(q - e)) / (2 * h) for e in h * np.eye(2)], axis=1)
    np.testing.assert_allclose(matrix, differences, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-12)
    # Both terms matter.
    geometric = np.einsum("m,kjm->kj", out.tendon_force, slopes)
    assert np.abs(geometric).max() > 0.05 * np.abs(matrix).max()
    # A leading axis is a batch.
    stacked = derived.joint_stiffness(*(jnp.stack([a, a]) for a in (arms, slopes, out.tendon_force, k)))
    np.testing.assert_allclose(stacked[1], matrix, rtol=1e-12)


# ---- co-contraction ----


def test_co_contraction_by_hand():
    a, b = jnp.asarray([0.2, 0.6, 0.4]), jnp.asarray([0.4, 0.2, 0.4])
    winter, rudolph = (derived.co_contraction(a, b, m) for m in ("falconer_winter", "rudolph"))
    assert winter == pytest.approx(2 * (0.2 + 0.2 + 0.4) / (1.2 + 1.0), abs=5e-4)
    assert rudolph == pytest.approx((0.5 * 0.6 + 0.2 / 0.6 * 0.8 + 1.0 * 0.8) / 3, abs=5e-4)
    # Alone, equal, silent.
    none = jnp.zeros(3)
    for method, most in (("falconer_winter", 1.0), ("rudolph", 0.8)):
        assert derived.co_contraction(a, none, method) == pytest.approx(0.0, abs=1e-3)
        assert derived.co_contraction(b[::2], b[::2], method) == pytest.approx(most, abs=1e-3)
        assert derived.co_contraction(none, none, method) == 0.0
    difference = np.linspace(-0.5, 0.5, 1001)
    error = derived.smaller(0.5 + difference, jnp.full(1001, 0.5)) - np.minimum(0.5 + difference, 0.5)
    assert error.min() > -1e-15
    assert error.max() <= 5e-5


def test_co_contraction_by_name():
    names = ("BIC", "TRI", "BRA")
    e = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (50, 3)))
    ours = derived.co_contraction_of(names, e, ["BRA", "BIC"], ["TRI"])
    assert ours == pytest.approx(float(derived.co_contraction(0.5 * (e[:, 0] + e[:, 2]), e[:, 1])), rel=1e-12)
    assert 0.3 < ours < 1
    for agonists, message in ((["BRAC"], "did you mean 'BRA'"), ([], "is empty"), (["BIC", "BIC"], "twice")):
        with pytest.raises(InputError, match=message):
            derived.co_contraction_of(names, e, agonists, ["TRI"])
    with pytest.raises(InputError, match="falconer_winter"):
        derived.co_contraction(e[:, 0], e[:, 1], "winter")  # type: ignore[arg-type]


# ---- derivatives ----


def differences(function, x, step):
    rows = [(function(x + e) - function(x - e)) / (2 * step) for e in step * np.eye(len(x))]
    return np.stack([np.asarray(r) for r in rows], axis=-1)


def compiled(function):
    """The function and its forward and reverse Jacobians."""
    kinds = (function, jax.jacfwd(function), jax.jacrev(function))
    return tuple(jax.jit(f) for f in kinds)


def check_gradients(functions, x, step=1e-6, tolerance=1e-5):
    """Forward and reverse Jacobians of a flat function against central differences; returns the Jacobian."""
    function, forward, reverse = functions
    forward, reverse = np.asarray(forward(x)), np.asarray(reverse(x))
    expected = differences(function, x, step)
    scale = 1.0 + np.abs(expected).max(axis=-1, keepdims=True) + np.abs(np.asarray(function(x)))[..., None]
    np.testing.assert_allclose(forward / scale, expected / scale, rtol=0, atol=tolerance)
    np.testing.assert_allclose(reverse / scale, forward / scale, rtol=0, atol=1e-10)
    return forward


# At rest with slack tendons and optimal length; moving; at the slack length's other side and the velocity limits.
STATES = {
    "rest": ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
    "moving": ([0.7, 1.2, 0.9], [-0.4, 0.3, 0.1], [0.02, 0.04, 0.03], [-0.2, 0.1, 0.3]),
    "limits": ([0.3, 0.5, 1.7], [-1.0, 1.0, -1.0], [-0.01, 0.06, 0.0], [-1.0, 0.4, -1.4]),
}


@pytest.fixture(scope="module")
def everything():
    """Every leaf of ``derive`` as a flat function of parameters, activation and state, in units of order one."""
    params = muscles(ROWS, optimal_fiber_length_change=0.1)
    flat, unravel = ravel_pytree(params)
    units = jnp.where(flat == 0, 1.0, jnp.abs(flat))

    def function(z):
        p = unravel(flat + units * z[: len(flat)])
        a, x, v, strain, vmt = z[len(flat) :].reshape(5, 3)
        force = p.max_isometric_force * CURVES.tendon_force(1 + strain, p.tendon_strain_at_one_norm_force)
        out = Result(force, x, v, strain)
        d = derived.derive(("elastic", "elastic", "rigid"), CURVES, p, a, out, vmt)
        stiffness = dataclasses.replace(d.stiffness, tendon=d.stiffness.tendon[:2])
        return ravel_pytree(dataclasses.replace(d, stiffness=stiffness))[0]

    return compiled(function), len(flat)


@pytest.mark.parametrize("state", STATES)
def test_gradients_of_every_quantity(everything, state):
    functions, n = everything
    x, v, strain, vmt = STATES[state]
    z = jnp.asarray([*np.zeros(n), 0.0, 0.5, 1.0, *x, *v, *strain, *vmt])
    jacobian = check_gradients(functions, z)
    if state == "moving":  # every kind of input of every muscle moves something, but for the rigid tendon's strain
        reached = (np.abs(jacobian).max(axis=0) > 0).reshape(-1, 3)
        assert reached.all(axis=1).sum() == len(reached) - 1
        assert reached.any(axis=1).all()


def test_gradients_over_time_and_of_joints():
    rng = np.random.default_rng(2)
    arms, slopes = rng.normal(size=(2, 3)), rng.normal(size=(2, 2, 3))

    def over_time(z):
        power = z.reshape(4, 2)
        w = derived.work(power, 0.1)
        indices = [derived.co_contraction(power[:, 0], power[:, 1], m) for m in ("falconer_winter", "rudolph")]
        return jnp.concatenate([w.net, w.positive, w.negative, jnp.stack(indices)])

    # At zero power, silent groups and equal groups; the smoothing is 1e-4 wide.
    jacobian = check_gradients(compiled(over_time), jnp.asarray([0.0, 0.0, 0.3, 0.3, 0.1, 0.6, 0.5, 0.0]), step=1e-8)
    assert (np.abs(jacobian).max(axis=0) > 1e-3).all()

    def joints(z):
        k = derived.joint_stiffness(arms, slopes, z[:3], z[3:6])
        return jnp.concatenate([k.ravel(), derived.moment_arm_slopes(PATHS, z[6:]).ravel()])

    check_gradients(compiled(joints), jnp.asarray([10.0, 20.0, 0.0, 5.0, 0.0, 9.0, 0.3, 0.1]))


def test_precision_follows_the_arrays():
    params = jax.tree.map(np.asarray, muscles(ROWS))  # float64 leaves, as ``make_params`` gives
    out = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), result(*(np.full((2, 3), c) for c in (1, 0.1, 0.02, 9))))
    a = jnp.full((2, 3), 0.5, jnp.float32)
    d = derive("elastic", CURVES, params, a, out, jnp.zeros((2, 3), jnp.float32))
    assert all(leaf.dtype == jnp.float32 and leaf.shape == (2, 3) for leaf in jax.tree.leaves(d))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(derived.work(d.powers.fiber, 0.01)))
    # No pennation: the derivative of the angle is finite in float32 too.
    slope = jax.grad(lambda x: jnp.sum(derived.pennation(params, x)))(jnp.ones(3, jnp.float32))
    assert np.all(np.isfinite(slope))
    assert slope[1] < -0.1
