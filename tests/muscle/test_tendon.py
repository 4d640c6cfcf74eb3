"""Rigid and elastic fibers against OpenSim 4.6, their order of accuracy, robustness and derivatives."""

from __future__ import annotations

import dataclasses
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest
from helpers import load_arrays
from jax.flatten_util import ravel_pytree
from models import opensim_table

from nms_gym._pytree import pytree
from nms_gym.errors import InputError
from nms_gym.excitation import activation as act
from nms_gym.muscle import hill
from nms_gym.muscle.curves import DeGrooteFregly2016
from nms_gym.muscle.tendon import (
    FiberState,
    equilibrium_velocity,
    fiber_step,
    initial_fiber,
    rigid_by_rule,
    unsolved,
    unsolved_report,
)

CURVES = DeGrooteFregly2016()
PROFILES = ("step", "ramp", "bursts")
muscles = partial(models.muscles, fiber_damping=0.01)
SIMULATED = ("vasmed_like", "soleus_like", "gasmed_like", "bflh_like", "bicep_long_like")


def traced(params, activation, lengths, velocities, dt, *, tendon="elastic", integrator="bdf2", iterations=12):
    """Every output of a motion (T, M), from rest in equilibrium at its first sample; (T - 1, M) leaves."""

    def step(state, sample):
        return fiber_step(tendon, integrator, iterations, CURVES, params, state, *sample, dt)

    start = initial_fiber(tendon, CURVES, params, activation[0], lengths[0])
    return jax.lax.scan(step, start, (activation[1:], lengths[1:], velocities[1:]))[1]


compiled = jax.jit(traced, static_argnames=("tendon", "integrator"))


def simulate(*args, **kwargs):
    """``traced``, compiled, with NumPy leaves."""
    return jax.tree.map(np.asarray, compiled(*args, **kwargs))


@partial(jax.jit, static_argnames="tendon")
def first_step(tendon, params, activation, lengths, velocities):
    """Output of one step from rest in equilibrium, at the same activation and length."""
    state = initial_fiber(tendon, CURVES, params, activation, lengths)
    return fiber_step(tendon, "bdf2", 5, CURVES, params, state, activation, lengths, velocities, 0.005)[1]


# ---- against OpenSim ----


@pytest.mark.parametrize("name", ["static_dgf_rigid", "dynamic_dgf_rigid"])
def test_rigid_forces_are_opensims(data, name):
    truth, sets = opensim_table(data, name)
    params = muscles(sets)
    lengths, velocities = truth["lmt"], truth.get("vmt", np.zeros(len(sets)))
    out = first_step("rigid", params, truth["activation"], lengths, velocities)
    np.testing.assert_allclose(out.tendon_force / sets[:, 0], truth["tendon_force"] / sets[:, 0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(out.fiber_length, truth["fiber_length"] / sets[:, 1], rtol=0, atol=1e-9)
    if name == "dynamic_dgf_rigid":
        expected = truth["fiber_velocity"] / (10 * sets[:, 1])
        np.testing.assert_allclose(out.fiber_velocity, expected, rtol=0, atol=1e-9)
    assert len(sets) >= 1600


def test_elastic_equilibria_are_opensims(data):
    """OpenSim solved to 2e-10 of F0."""
    truth, sets = opensim_table(data, "static_dgf_elastic")
    out = first_step("elastic", muscles(sets), truth["activation"], truth["lmt"], np.zeros(len(sets)))
    np.testing.assert_allclose(out.tendon_force / sets[:, 0], truth["tendon_force"] / sets[:, 0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(out.fiber_length, truth["fiber_length"] / sets[:, 1], rtol=0, atol=1e-9)
    np.testing.assert_allclose(out.tendon_strain, truth["tendon_strain"], rtol=0, atol=1e-9)
    # At rest it stays at rest.
    assert np.abs(out.fiber_velocity).max() < 1e-9
    assert len(sets) == 1600


@pytest.fixture(scope="module")
def forward_sims(data):
    """OpenSim's 15 elastic forward simulations as (T, 15) columns, and their parameters."""
    file = load_arrays(data("truth_muscle") / "forward_sims.npz")
    labels = [str(label) for label in file["param_labels"]]
    keys = [(label, profile) for label in SIMULATED for profile in PROFILES]
    stacked = np.stack([file[f"dgf__{label}__{profile}"] for label, profile in keys], axis=-1)
    columns = {str(c): stacked[:, i] for i, c in enumerate(file["columns"])}
    return columns, file["param_sets"][[labels.index(label) for label, _ in keys]]


@pytest.mark.parametrize(("integrator", "limit"), [("bdf2", 0.003), ("backward_euler", 0.004)])
def test_forward_simulations_are_opensims(forward_sims, integrator, limit):
    """Tendon force at 5 ms steps, from OpenSim's activation: RMS over each simulation, in F0."""
    truth, sets = forward_sims
    out = simulate(muscles(sets), truth["activation"], truth["lmt"], truth["vmt"], 0.005, integrator=integrator)
    error = (out.tendon_force - truth["tendon_force"][1:]) / sets[:, 0]
    rms = np.sqrt(np.mean(np.asarray(error) ** 2, axis=0))
    assert rms.shape == (15,)
    assert rms.max() < limit
    assert np.ptp(truth["tendon_force"], axis=0).min() > 100  # there is something to reproduce


def test_forward_simulations_from_excitation(forward_sims):
    """Activation dynamics and fiber together, at OpenSim's sharpness of 0.1."""
    truth, sets = forward_sims

    def step(a, e):
        a = act.first_order_step(e, a, 0.015, 0.060, 0.005, 0.1)
        return a, a

    ours = jax.lax.scan(step, truth["activation"][0], truth["excitation"][1:])[1]
    activation = jnp.concatenate([truth["activation"][:1], ours])
    out = simulate(muscles(sets), activation, truth["lmt"], truth["vmt"], 0.005)
    error = (out.tendon_force - truth["tendon_force"][1:]) / sets[:, 0]
    assert np.sqrt(np.mean(np.asarray(error) ** 2, axis=0)).max() < 0.006


# ---- order of accuracy ----

SETS = np.array([[3549.0, 0.05, 0.25, 0.436], [2000.0, 0.12, 0.10, 0.05], [600.0, 0.06, 0.39, 0.2]])


def smooth_motion(dt, sets=SETS):
    """A motion that starts at rest: (activation, lengths, velocities)."""
    t = np.arange(round(0.6 / dt) + 1)[:, None] * dt
    rest = sets[:, 2] * 1.02 + sets[:, 1] * np.cos(sets[:, 3])
    swing, rate = 0.1 * sets[:, 1], 2 * np.pi * 1.7
    lengths = rest + swing * np.sin(rate * t) ** 2
    activation = 0.1 + 0.7 * np.sin(2 * np.pi * 1.2 * t + 0 * rest) ** 2
    return activation, lengths, swing * rate * np.sin(2 * rate * t)


def test_order_of_the_integrators():
    """Halving the step divides the error by four (BDF2) or two (backward Euler)."""
    params = muscles(SETS, fiber_damping=0.05)

    def force(dt, integrator):
        out = simulate(params, *smooth_motion(dt), dt, integrator=integrator, iterations=10)
        every = round(0.02 / dt)
        return np.asarray(out.tendon_force)[every - 1 :: every] / SETS[:, 0]

    exact = force(0.02 / 64, "bdf2")
    for integrator, order in (("bdf2", 2), ("backward_euler", 1)):
        errors = [np.sqrt(np.mean((force(dt, integrator) - exact) ** 2)) for dt in (0.01, 0.005)]
        assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)
        assert errors[1] < (1e-3 if integrator == "bdf2" else 1e-2)


# ---- force balance and robustness ----


def stress_set(seed, dt, count=256, steps=160):
    """Random muscles, short to long tendons, pennate to 30 degrees, lightly and well damped, driven by square waves."""
    rng = np.random.default_rng(seed)
    lopt = rng.uniform(0.02, 0.2, count)
    lts = lopt * np.exp(rng.uniform(np.log(0.2), np.log(8.0), count))
    pennation = np.radians(rng.uniform(0, 30, count))
    sets = np.stack([rng.uniform(100, 5000, count), lopt, lts, pennation], axis=-1)
    params = muscles(sets, fiber_damping=rng.choice([0.01, 0.1], count))
    t = np.arange(steps)[:, None] * dt
    swing, rate = rng.uniform(0.05, 0.25, count) * lopt, 2 * np.pi * rng.uniform(0.5, 3.0, count)
    phase = rng.uniform(0, 2 * np.pi, count)
    middle = 1.01 * lts + lopt * np.cos(pennation) * rng.uniform(0.7, 1.2, count)
    lengths, velocities = middle + swing * np.sin(rate * t + phase), swing * rate * np.cos(rate * t + phase)
    activation = np.where(((t + rng.uniform(0, 0.2, count)) // 0.1) % 2 == 0, 1.0, 0.0)
    return params, activation, lengths, velocities


def numpy_balance(params, activation, out):
    """Fiber force along the tendon minus tendon force, over F0, from OpenSim's formulas written again in NumPy."""
    x, v = np.asarray(out.fiber_length), np.asarray(out.fiber_velocity)
    p = {k: np.asarray(value) for k, value in vars(params).items()}

    def gaussian(b1, b2, b3, b4):
        return b1 * np.exp(-0.5 * ((x - b2) / (b3 + b4 * x)) ** 2)

    active = (
        gaussian(0.8150671134243542, 1.055033428970575, 0.162384573599574, 0.063303448465465)
        + gaussian(0.433004984392647, 0.716775413397760, -0.029947116970696, 0.200356847296188)
        + gaussian(0.1, 1.0, 0.353553390593274, 0.0)
    )
    speed = -8.149 * v - 0.374
    force_velocity = -0.3211346127989808 * np.log(speed + np.sqrt(speed**2 + 1)) + 0.8825327733249912
    strain = p["passive_fiber_strain_at_one_norm_force"]
    offset = np.exp(4.0 * (0.2 - 1) / strain)
    passive = (np.exp(4.0 * (x - 1) / strain) - offset) / (np.exp(4.0) - offset)
    fiber = activation * active * force_velocity + passive + p["fiber_damping"] * v
    cosine = np.sqrt(1 - (np.sin(p["pennation_at_optimal"]) / x) ** 2)
    return fiber * cosine - np.asarray(out.tendon_force) / p["max_isometric_force"]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("dt", [0.005, 0.01])
@pytest.mark.parametrize("integrator", ["bdf2", "backward_euler"])
def test_default_iterations_converge_on_a_stress_set(integrator, dt, dtype):
    """The balance of forces is checked by formulas written again; ``test_tendon_stress.py`` has the large set."""
    motion = stress_set(0, dt)
    cast = jax.tree.map(lambda x: jnp.asarray(x, dtype), motion)
    # The step is traced, so that both share one program.
    out = simulate(*cast, jnp.asarray(dt, dtype), integrator=integrator)
    assert out.tendon_force.dtype == dtype
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(out))
    double = dtype == np.float64
    assert np.abs(out.residual).max() < (1e-8 if double else 1e-5)
    exact = simulate(*motion, jnp.asarray(dt), integrator=integrator, iterations=40)
    f0 = np.asarray(motion[0].max_isometric_force)
    assert np.abs((out.tendon_force - exact.tendon_force) / f0).max() < (1e-8 if double else 1e-4)
    if double:
        assert np.abs(numpy_balance(motion[0], motion[1][1:], out)).max() < 1e-6


@pytest.fixture(scope="module")
def gradients():
    """Compiled gradient of the sum of all tendon forces, over F0, with respect to parameters, activation and length."""

    def total(params, activation, lengths, velocities, dt, tendon):
        forces = traced(params, activation, lengths, velocities, dt, tendon=tendon).tendon_force
        return jnp.sum(forces / jnp.broadcast_to(params.max_isometric_force, forces.shape))

    return jax.jit(jax.grad(total, argnums=(0, 1, 2)), static_argnums=5)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_no_nan_in_gradients_of_the_stress_set(gradients, dtype):
    cast = jax.tree.map(lambda x: jnp.asarray(x, dtype), (*stress_set(1, 0.005, count=64, steps=60), 0.005))
    gradient = jax.tree.map(np.asarray, gradients(*cast, "elastic"))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    assert np.count_nonzero(gradient[0].tendon_slack_length) == 64
    assert np.count_nonzero(gradient[1]) > 0.9 * gradient[1].size


@pytest.mark.parametrize(("tendon", "dtype"), [("elastic", np.float64), ("elastic", np.float32), ("rigid", np.float32)])
def test_impossible_lengths_stay_finite(gradients, tendon, dtype):
    """Musculotendons far too short or long: finite forces and gradients, and no fiber below its shortest."""
    params, activation, lengths, velocities = stress_set(2, 0.005, count=64, steps=60)
    scale = np.repeat([0.5, 0.9, 1.3, 2.0], 16)
    motion = (params, activation, scale * lengths, scale * velocities, 0.005)
    cast = jax.tree.map(lambda x: jnp.asarray(x, dtype), motion)
    out = simulate(*cast, tendon=tendon)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((out, gradients(*cast, tendon))))
    assert out.fiber_length.min() > 0.2 - 1e-6
    assert out.fiber_length[:, scale < 1].min() < 0.3
    assert out.fiber_length[:, scale > 1].max() > 1.8


def test_state_carries_the_step():
    """BDF2 from two past lengths and backward Euler from one: the velocity returned is the difference formula's."""
    params = muscles(SETS)
    past = FiberState(*(jnp.asarray(x) for x in ([0.98, 1.0, 0.9], [1.01, 1.0, 0.93], [1.02, 0.99, 0.94])))
    activation, lengths = jnp.full(3, 0.4), jnp.asarray(SETS[:, 2] * 1.02 + SETS[:, 1])
    for integrator in ("bdf2", "backward_euler"):
        new, out = fiber_step("elastic", integrator, 20, CURVES, params, past, activation, lengths, jnp.zeros(3), 0.005)
        one, two = np.asarray(past.length), np.asarray(past.previous_length)
        x = np.asarray(out.fiber_length)
        change = 1.5 * x - 2 * one + 0.5 * two if integrator == "bdf2" else x - one
        np.testing.assert_allclose(out.fiber_velocity, change / 0.005 / 10.0, rtol=1e-12)
        np.testing.assert_allclose(new.previous_length, one, rtol=0)
        np.testing.assert_allclose(new.length, x, rtol=0)
        assert np.abs(numpy_balance(params, np.asarray(activation), out)).max() < 1e-9
        strain = (np.asarray(lengths) - SETS[:, 1] * np.sqrt(x**2 - np.sin(SETS[:, 3]) ** 2)) / SETS[:, 2] - 1
        np.testing.assert_allclose(out.tendon_strain, strain, rtol=0, atol=1e-10)


# ---- derivatives ----


def derivative_check(function, *like):
    """A check of forward and reverse against central differences with respect to everything, compiled once."""
    unravel = ravel_pytree(like)[1]

    def moved(r, flat):
        # Relative changes, so that all columns have one scale; zeros are moved by what they are.
        given = unravel(flat + jnp.where(flat == 0, 1.0, flat) * r)
        return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(function(*given))])

    def all_ways(flat):
        zero, steps = jnp.zeros_like(flat), 2e-6 * jnp.eye(len(flat))
        columns = [jax.vmap(moved, in_axes=(0, None))(side * steps, flat) for side in (1, -1)]
        return jax.jacfwd(moved)(zero, flat), jax.jacrev(moved)(zero, flat), (columns[0] - columns[1]).T / 4e-6

    compiled = jax.jit(all_ways)

    def check(*given, rtol=1e-6, smallest=1e-2):
        forward, reverse, differences = map(np.asarray, compiled(ravel_pytree(given)[0]))
        assert np.max(np.abs(forward - differences) / np.maximum(np.abs(differences), smallest)) < rtol
        np.testing.assert_allclose(reverse, forward, rtol=1e-10, atol=1e-11)
        return differences

    return check


PAST = FiberState(*(jnp.asarray(x) for x in ([0.98, 1.0, 0.9], [1.01, 1.0, 0.93], [1.02, 0.99, 0.94])))
ROOM = jnp.asarray(SETS[:, 2] * 1.02 + SETS[:, 1])
CASES = {
    "ordinary": (muscles(SETS), PAST, jnp.full(3, 0.4), ROOM),
    "activation off, faint and full": (muscles(SETS), PAST, jnp.asarray([0.0, 0.01, 1.0]), ROOM),
    "no pennation": (muscles(SETS * [1, 1, 1, 0]), PAST, jnp.full(3, 0.4), ROOM),
    "slack tendon": (muscles(SETS), PAST, jnp.full(3, 0.01), ROOM - 0.2 * SETS[:, 1]),
    "optimal length with activation": (
        muscles(SETS, optimal_fiber_length_change=np.full(3, 0.15)),
        PAST,
        jnp.asarray([0.0, 0.4, 1.0]),
        ROOM,
    ),
}


@pytest.mark.parametrize(
    "tendon", ["elastic", "rigid", pytest.param(("elastic", "rigid", "elastic"), marks=pytest.mark.slow)], ids=str
)
def test_derivatives_match_central_differences(tendon):
    """Of a step and of the initial equilibrium, with respect to all that they depend on, in every case."""

    def both(params, past, activation, lengths, velocities):
        state, out = fiber_step(tendon, "bdf2", 25, CURVES, params, past, activation, lengths, velocities, 0.005)
        start = initial_fiber(tendon, CURVES, params, activation, lengths)
        return out.tendon_force / 1000, out.fiber_length, out.fiber_velocity, state.along_tendon, start

    check = derivative_check(both, *CASES["ordinary"], jnp.full(3, 0.1))
    for case in CASES.values():
        assert np.linalg.matrix_rank(check(*case, jnp.full(3, 0.1))) >= 3


def test_derivatives_of_hill_functions():
    """Below, at and above the shortest fiber, relaxed and fully active."""
    params = muscles([[1000.0, 0.1, 0.2, 0.04], [1000.0, 0.1, 0.2, 0.3]], optimal_fiber_length_change=np.full(2, 0.15))

    def everything(params, w, x, activation, v, lmt):
        return (
            hill.fiber_length(params, w),
            hill.along_tendon(params, x),
            hill.tendon_length(params, lmt, w),
            hill.half_thickness(params),
            hill.fiber_force(CURVES, params, activation, x, v),
            hill.force_along_tendon(CURVES, params, activation, w, x, v),
        )

    def given(w):
        x = jnp.hypot(w, jnp.sin(params.pennation_at_optimal))
        return params, jnp.full(2, w), x, jnp.asarray([0.0, 1.0]), jnp.asarray([-0.3, 0.3]), jnp.full(2, 0.3)

    check = derivative_check(everything, *given(1.0))
    for w in (0.01, 0.05, 0.15, 0.19597, 0.3, 1.1):
        check(*given(w), rtol=2e-6)
    np.testing.assert_allclose(hill.along_tendon(params, given(0.3)[2]), 0.3, rtol=1e-8)
    assert hill.along_tendon(params, jnp.zeros(2)).min() >= hill.MIN_ALONG_TENDON


def test_optimal_length_of_active_force_depends_on_activation():
    """The active force of a fiber at ``1 + change (1 - a)`` optimal lengths is that of one at optimal length."""
    params = muscles([[1000.0, 0.1, 0.2, 0.0]], optimal_fiber_length_change=np.array([0.15]))
    a, still = jnp.array([0.4]), jnp.zeros(1)
    force = hill.fiber_force(CURVES, params, a, jnp.array([1.09]), still)
    passive = CURVES.passive_force_length(jnp.array([1.09]), params.passive_fiber_strain_at_one_norm_force)
    # OpenSim's curves are 1 at 1 to 1e-3 and 1 at rest to 1e-4.
    np.testing.assert_allclose(force - passive, 0.4, rtol=2e-3)

    def active(change):
        given = dataclasses.replace(params, optimal_fiber_length_change=change)
        return hill.fiber_force(CURVES, given, a, jnp.array([1.3]), still)[0]

    here, h = jnp.array([0.15]), 1e-6
    difference = (active(here + h) - active(here - h)) / (2 * h)
    assert difference > 0.1  # on the descending limb, a longer optimum means more force
    np.testing.assert_allclose(jax.grad(active)(here)[0], difference, rtol=1e-6)


# ---- equilibrium velocity ----


def equilibria(count=300):
    """Fibers and tendons of random length: (params, activation, fiber length, musculotendon length)."""
    rng = np.random.default_rng(5)
    params, *_ = stress_set(3, 0.005, count=count, steps=1)
    x = rng.uniform(0.6, 1.5, count)
    w = np.sqrt(x**2 - np.sin(np.asarray(params.pennation_at_optimal)) ** 2)
    taut = np.asarray(params.tendon_slack_length) * rng.uniform(0.98, 1.06, count)
    return (
        params,
        jnp.asarray(rng.choice([0.0, 0.01, 0.3, 1.0], count)),
        jnp.asarray(x),
        taut + w * np.asarray(params.optimal_fiber_length),
    )


def test_equilibrium_velocity_balances_fiber_and_tendon():
    params, activation, x, lengths = equilibria()
    v = np.asarray(jax.jit(equilibrium_velocity, static_argnums=0)(CURVES, params, activation, x, lengths))
    w = np.sqrt(np.asarray(x) ** 2 - np.sin(np.asarray(params.pennation_at_optimal)) ** 2)
    strain = (lengths - w * np.asarray(params.optimal_fiber_length)) / np.asarray(params.tendon_slack_length) - 1
    normal = 0.2 * np.exp(np.log(6.0) / 0.049 * strain) - 0.2
    out = SimpleNamespace(
        fiber_length=x, fiber_velocity=v, tendon_force=normal * np.asarray(params.max_isometric_force)
    )
    # The velocity is found to a ulp of its bracket, which is wide where damping is small.
    assert np.abs(numpy_balance(params, np.asarray(activation), out)).max() < 1e-9
    assert v.min() < -1
    assert v.max() > 1


def test_equilibrium_velocity_is_that_of_a_very_short_step():
    """Backward Euler over a nanosecond moves the fiber at its equilibrium velocity."""
    params, activation, x, lengths = equilibria(20)
    v = equilibrium_velocity(CURVES, params, activation, x, lengths)
    past = FiberState(hill.along_tendon(params, x), x, x)
    still = jnp.zeros_like(x)
    step = jax.jit(partial(fiber_step, "elastic", "backward_euler", 40, CURVES))
    out = step(params, past, activation, lengths, still, 1e-9)[1]
    np.testing.assert_allclose(out.fiber_velocity, v, rtol=1e-3, atol=1e-5)


def test_derivatives_of_the_equilibrium_velocity():
    params, activation, x, lengths = jax.tree.map(lambda leaf: leaf[:8], equilibria())
    given = (params, activation, x, jnp.asarray(lengths))
    check = derivative_check(partial(equilibrium_velocity, CURVES), *given)
    assert set(np.unique(activation)) >= {0.0, 0.01, 1.0}
    assert np.linalg.matrix_rank(check(*given, rtol=2e-5, smallest=1.0)) == 8


# ---- rigid and elastic together ----

MIXED = ("rigid", "elastic", "rigid", "rigid", "elastic")


@pytest.fixture(scope="module")
def five_muscles():
    sets = np.concatenate([SETS, SETS[:2] * [1.0, 1.1, 0.5, 1.0]])
    return muscles(sets), tuple(jnp.asarray(x) for x in smooth_motion(0.01, sets))


def test_mixed_tendons_are_what_each_would_be(five_muscles):
    params, motion = five_muscles
    mixed = simulate(params, *motion, 0.01, tendon=MIXED)
    for kind in ("rigid", "elastic"):
        alone = simulate(params, *motion, 0.01, tendon=kind)
        place = [i for i, k in enumerate(MIXED) if k == kind]
        for name in vars(mixed):
            np.testing.assert_allclose(getattr(mixed, name)[:, place], getattr(alone, name)[:, place], atol=1e-12)
    batch = jax.tree.map(lambda x: jnp.stack([x, x]), (params, *motion))
    batched = jax.jit(jax.vmap(lambda *m: traced(*m, 0.01, tendon=MIXED)))(*batch)
    np.testing.assert_allclose(batched.tendon_force[1], mixed.tendon_force, rtol=1e-10)
    # One kind for all, said per muscle, is that kind.
    np.testing.assert_array_equal(
        simulate(params, *motion, 0.01, tendon=("elastic",) * 5).tendon_force,
        simulate(params, *motion, 0.01).tendon_force,
    )


def test_mixed_tendons_take_larger_parameter_sets(five_muscles):
    """Leaves that follow something else than muscles stay out of the way."""

    @pytree
    class Larger(hill.MuscleParams):
        gain: jax.Array

    params, (activation, lengths, _) = five_muscles
    larger = Larger(**vars(params), gain=jnp.ones(2))
    start = jax.jit(partial(initial_fiber, MIXED, CURVES))
    lengths = [start(p, activation[0], lengths[0]).length for p in (larger, params)]
    np.testing.assert_array_equal(*lengths)


@pytest.mark.parametrize("tendon", [("rigid", "elastic"), ("rigid",) * 4 + ("stiff",)])
def test_mixed_tendons_must_fit_the_muscles(five_muscles, tendon):
    params, (activation, lengths, _) = five_muscles
    with pytest.raises(InputError, match="use 'rigid' or 'elastic' per muscle"):
        initial_fiber(tendon, CURVES, params, activation[0], lengths[0])


# ---- which tendons may be rigid ----


def test_the_stretch_tells_the_error_of_a_rigid_tendon():
    """RMS error of force in F0 over tendon stretch in optimal fiber lengths, on motions like OpenSim's simulations."""
    ratio, strain = (x.ravel() for x in np.meshgrid([0.2, 0.5, 1.0, 2.0], [0.033, 0.049, 0.1]))
    sets = np.stack([np.full(12, 1000.0), np.full(12, 0.1), 0.1 * ratio, np.full(12, 0.2)], axis=-1)
    params = muscles(sets, fiber_damping=0.1, tendon_strain_at_one_norm_force=strain)
    dt = 0.005
    t = np.arange(301)[:, None] * dt
    lengths = sets[:, 2] * 1.01 + sets[:, 1] * (np.cos(0.2) + 0.15 * np.sin(2 * np.pi * 1.5 * t))
    velocities = 0 * lengths + 0.015 * 2 * np.pi * 1.5 * np.cos(2 * np.pi * 1.5 * t)
    excitation = np.where((t > 0.2) & (t < 0.9), 1.0, 0.05) + np.zeros(12)
    late = jax.lax.scan(lambda a, e: 2 * (act.first_order_step(e, a, 0.015, 0.060, dt),), excitation[0], excitation)[1]
    motion = (late, lengths, velocities, dt)
    force = [simulate(params, *motion, tendon=kind).tendon_force / 1000.0 for kind in ("elastic", "rigid")]
    rms, stretch = np.sqrt(np.mean((force[0] - force[1]) ** 2, axis=0)), strain * ratio
    few = stretch <= 0.1
    assert few.sum() >= 9
    assert np.all(rms[few] / stretch[few] > 0.7)
    assert np.all(rms[few] / stretch[few] < 1.1)
    assert rms[~few].min() > rms[few].max()


def test_rule_for_rigid_tendons():
    sets = np.array([[1000.0, 0.1, 0.04, 0.0], [1000.0, 0.1, 0.06, 0.0], [1000.0, 0.05, 0.25, 0.0]])
    rule = rigid_by_rule(muscles(sets), ("short", "longer", "long"))
    assert rule.tendon == ("rigid", "elastic", "elastic")
    np.testing.assert_allclose(rule.stretch, [0.0196, 0.0294, 0.245])
    assert "at most 0.025 optimal fiber lengths" in rule.text
    assert "longer: slack-to-fiber ratio 0.60, stretch 0.029: elastic" in rule.text
    assert rigid_by_rule(muscles(sets), ("a", "b", "c"), 0.03).tendon == ("rigid", "rigid", "elastic")
    with pytest.raises(InputError, match="2 names for 3 muscles"):
        rigid_by_rule(muscles(sets), ("a", "b"))
    with pytest.raises(InputError, match="largest_stretch is -1"):
        rigid_by_rule(muscles(sets), ("a", "b", "c"), -1)


def test_unsolved_fibers_are_named():
    residual = np.array([[1e-9, 2e-3, np.nan], [0.0, 1e-9, 1e-9]])
    assert np.asarray(unsolved(jnp.asarray(residual))).tolist() == [[False, True, True], [False, False, False]]
    assert not np.asarray(unsolved(jnp.asarray(residual[:, :2]), 0.01)).any()
    report = unsolved_report(residual, ("a", "b", "c"))
    assert "b (1 of 2 steps, 2.0e-03), c (1 of 2 steps, nan)" in report
    assert unsolved_report(residual[:, :1], ("a",)) == ""
