"""Rigid and elastic fibers against OpenSim 4.6, their order of accuracy, robustness and derivatives."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from nms_gym.excitation import activation as act
from nms_gym.muscle.curves import DeGrooteFregly2016
from nms_gym.muscle.hill import MuscleParams
from nms_gym.muscle.tendon import FiberState, fiber_step, initial_fiber

CURVES = DeGrooteFregly2016()
# Compiled for one run only: optimising the machine code would take longer than running it.
QUICK = {"xla_backend_optimization_level": 0}
PROFILES = ("step", "ramp", "bursts")
SIMULATED = ("vasmed_like", "soleus_like", "gasmed_like", "bflh_like", "bicep_long_like")


def muscles(sets, damping=0.01, **changes):
    """Parameters of rows (F0, lopt, lts, pennation) of OpenSim's tables."""
    f0, lopt, lts, pennation = np.atleast_2d(sets).T
    same = np.ones(len(f0))
    params = MuscleParams(
        max_isometric_force=f0,
        optimal_fiber_length=lopt,
        tendon_slack_length=lts,
        pennation_at_optimal=pennation,
        max_contraction_velocity=10.0 * same,
        fiber_damping=damping * same,
        passive_fiber_strain_at_one_norm_force=0.6 * same,
        tendon_strain_at_one_norm_force=0.049 * same,
        optimal_fiber_length_change=0.0 * same,
    )
    return jax.tree.map(jnp.asarray, dataclasses.replace(params, **changes))


def traced(params, activation, lengths, velocities, dt, *, tendon="elastic", integrator="bdf2", iterations=5):
    """Every output of a motion (T, M), from rest in equilibrium at its first sample; (T - 1, M) leaves."""

    def step(state, sample):
        return fiber_step(tendon, integrator, iterations, CURVES, params, state, *sample, dt)

    start = initial_fiber(tendon, CURVES, params, activation[0], lengths[0])
    return jax.lax.scan(step, start, (activation[1:], lengths[1:], velocities[1:]))[1]


compiled = jax.jit(traced, static_argnames=("tendon", "integrator", "iterations"), compiler_options=QUICK)


def simulate(*args, **kwargs):
    """``traced``, compiled, with NumPy leaves."""
    return jax.tree.map(np.asarray, compiled(*args, **kwargs))


def table(data, name):
    """Columns of one of OpenSim's tables by name, and the parameters of every row."""
    file = np.load(data("truth_muscle") / f"{name}.npz")
    columns = dict(zip((str(c) for c in file["columns"]), file["data"].T, strict=True))
    return columns, file["param_sets"][columns["param_set"].astype(int)]


@partial(jax.jit, static_argnames="tendon")
def first_step(tendon, params, activation, lengths, velocities):
    """Output of one step from rest in equilibrium, at the same activation and length."""
    state = initial_fiber(tendon, CURVES, params, activation, lengths)
    return fiber_step(tendon, "bdf2", 5, CURVES, params, state, activation, lengths, velocities, 0.005)[1]


# ---- against OpenSim ----


@pytest.mark.parametrize("name", ["static_dgf_rigid", "dynamic_dgf_rigid"])
def test_rigid_forces_are_opensims(data, name):
    truth, sets = table(data, name)
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
    truth, sets = table(data, "static_dgf_elastic")
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
    file = np.load(data("truth_muscle") / "forward_sims.npz")
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
    params = muscles(SETS, damping=0.05)

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
    """Worst residual seen: 6e-6 slack lengths (BDF2), rounding (backward Euler); force within 3e-5 of F0."""
    motion = stress_set(0, dt)
    cast = jax.tree.map(lambda x: jnp.asarray(x, dtype), motion)
    # The step is traced, so that both share one program.
    out = simulate(*cast, jnp.asarray(dt, dtype), integrator=integrator)
    assert out.tendon_force.dtype == dtype
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(out))
    assert np.abs(out.residual).max() < 2e-5
    exact = simulate(*motion, jnp.asarray(dt), integrator=integrator, iterations=40)
    f0 = np.asarray(motion[0].max_isometric_force)
    assert np.abs((out.tendon_force - exact.tendon_force) / f0).max() < 1e-4
    if dtype == np.float64:
        assert np.abs(numpy_balance(motion[0], motion[1][1:], exact)).max() < 1e-9
        assert np.abs(numpy_balance(motion[0], motion[1][1:], out)).max() < 2e-3


@pytest.fixture(scope="module")
def gradients():
    """Compiled gradient of the sum of all tendon forces, over F0, with respect to parameters, activation and length."""

    def total(params, activation, lengths, velocities, dt, tendon):
        forces = traced(params, activation, lengths, velocities, dt, tendon=tendon).tendon_force
        return jnp.sum(forces / jnp.broadcast_to(params.max_isometric_force, forces.shape))

    return jax.jit(jax.grad(total, argnums=(0, 1, 2)), static_argnums=5, compiler_options=QUICK)


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


@pytest.fixture(scope="module")
def step_functions():
    """Every scalar that one step returns as a function of everything it is given, flattened, for both integrators."""
    params = muscles(SETS)
    past = FiberState(*(jnp.asarray(x) for x in ([0.98, 1.0, 0.9], [1.01, 1.0, 0.93], [1.02, 0.99, 0.94])))
    lengths = jnp.asarray(SETS[:, 2] * 1.02 + SETS[:, 1])
    given = (params, past, jnp.full(3, 0.4), lengths, jnp.full(3, 0.1))

    def flat_step(tendon, integrator, *arguments):
        params, past, activation, lengths, velocities = arguments
        state, out = fiber_step(tendon, integrator, 25, CURVES, params, past, activation, lengths, velocities, 0.005)
        return jnp.concatenate([out.tendon_force / 1000, out.fiber_length, out.fiber_velocity, state.along_tendon])

    def flat_start(tendon, _, *arguments):
        params, _, activation, lengths, _ = arguments
        state = initial_fiber(tendon, CURVES, params, activation, lengths)
        return jnp.concatenate([state.along_tendon, state.length])

    return given, {"step": flat_step, "start": flat_start}


@pytest.mark.parametrize(
    ("which", "tendon", "integrator"),
    [
        ("step", "elastic", "bdf2"),
        ("step", "rigid", "bdf2"),
        ("start", "elastic", "bdf2"),
        ("start", "rigid", "bdf2"),
    ],
)
def test_derivatives_match_central_differences(step_functions, which, tendon, integrator):
    """Forward and reverse, of a step and of the initial equilibrium, with respect to all that they depend on."""
    given, functions = step_functions
    flat, unravel = ravel_pytree(given)
    # Relative changes, so that all columns have one scale.

    def function(r):
        return functions[which](tendon, integrator, *unravel(flat * (1 + r)))

    zero = jnp.zeros_like(flat)
    quick = partial(jax.jit, compiler_options=QUICK)
    forward, reverse = quick(jax.jacfwd(function))(zero), quick(jax.jacrev(function))(zero)
    h = 2e-6
    moved = quick(jax.vmap(function))(h * jnp.concatenate([jnp.eye(len(flat)), -jnp.eye(len(flat))]))
    differences = np.asarray(moved[: len(flat)] - moved[len(flat) :]).T / (2 * h)
    scale = np.maximum(np.abs(differences), 1e-2)
    assert np.max(np.abs(forward - differences) / scale) < 1e-6
    np.testing.assert_allclose(reverse, forward, rtol=1e-10, atol=1e-12)
    assert np.linalg.matrix_rank(differences) >= 3
