"""Millard 2012 curves and muscles against OpenSim 4.6's Millard2012EquilibriumMuscle."""

from __future__ import annotations

from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import load_arrays
from models import muscles, opensim_table

from nms_gym.errors import InputError
from nms_gym.muscle import hill, millard
from nms_gym.muscle.bezier import corner, evaluate
from nms_gym.muscle.derived import fiber_forces
from nms_gym.muscle.millard import TAIL_FORCE, Millard2012
from nms_gym.muscle.tendon import equilibrium_velocity, fiber_step, initial_fiber, rigid_fiber

CURVES = Millard2012()
DEFAULTS = dict(CURVES.defaults) | {"fiber_damping": 0.1}
PASSIVE, TENDON = 0.7, 0.049
TENDON_SEAMS = (millard._splines(CURVES).log_force.low, millard._splines(CURVES).log_force.high)


# ---- curves ----


@pytest.mark.parametrize(
    ("curve", "argument", "name", "value", "slope"),
    [
        (
            Millard2012(minimum_active_force=0.1).active_force_length,
            "norm_fiber_length",
            "millard_active_fl",
            2e-6,
            1e-3,
        ),
        (CURVES.force_velocity, "norm_fiber_velocity", "millard_fv", 2e-6, 1e-3),
        (lambda x: CURVES.passive_force_length(x, PASSIVE), "norm_fiber_length", "millard_passive_fl", 1e-6, 1e-3),
        # Below TAIL_FORCE, at strains under 0.1 %, the tendon is not OpenSim's.
        (lambda x: CURVES.tendon_force(x, TENDON), "norm_tendon_length", "millard_tendon", 3e-5, None),
    ],
)
def test_curves_are_opensims(data, curve, argument, name, value, slope):
    truth = load_arrays(data("truth_muscle") / "curves.npz")
    x = jnp.asarray(truth[argument])
    error = np.abs(jax.jit(curve)(x) - truth[name])
    print(f"{name}: largest error {error.max():.1e}")
    assert error.max() < value
    if name == "millard_tendon":
        assert error[truth[name] > TAIL_FORCE].max() < 1e-7
    elif f"{name}_deriv" in truth:
        assert np.abs(jax.jit(jax.vmap(jax.grad(curve)))(x) - truth[f"{name}_deriv"]).max() < slope


def quintic(points, u):
    """A quintic Bézier polynomial from its control points, by its powers of ``u``."""
    powers = [comb(5, k) * sum((-1) ** (k - j) * comb(k, j) * points[j] for j in range(k + 1)) for k in range(6)]
    return np.polynomial.polynomial.polyval(u, powers)


def toe(z):
    return CURVES.tendon_force(1 + TENDON * z, TENDON)


@pytest.mark.parametrize(
    ("corners", "curve"),
    [
        (millard._active_corners(CURVES), CURVES.active_force_length),
        (millard._velocity_corners(CURVES), CURVES.force_velocity),
        (millard._passive_corners(CURVES), lambda z: CURVES.passive_force_length(1 + PASSIVE * z, PASSIVE)),
        (millard._tendon_corners(CURVES), toe),
    ],
    ids=["active", "velocity", "passive", "tendon"],
)
def test_splines_are_the_bezier_curves(corners, curve):
    """Between the knots, against the Bézier curves in their own variable, which need no solution for it."""
    u = np.linspace(0, 1, 2001)
    x, y = (np.concatenate([quintic(points[axis], u) for points in corners]) for axis in (0, 1))
    error = np.abs(jax.jit(curve)(x) - y)[(y > TAIL_FORCE) | (curve != toe)]
    print(f"largest error {error.max():.1e}")
    assert error.max() < 1e-5


def test_corner_leaves_its_ends_straight():
    x, y, slope, curvature = [0.2, 1.3], [0.5, 2.0], [0.1, 3.0], 0.0
    points = corner((x[0], y[0], slope[0]), (x[1], y[1], slope[1]), 0.4)
    ends = evaluate([points], np.array(x))
    np.testing.assert_allclose(ends, [y, slope, [curvature] * 2], atol=1e-9)
    inner = np.linspace(0.3, 1.2, 7)
    h = 1e-4
    _, slopes, curvatures = evaluate([points], inner)
    up, here, down = (evaluate([points], inner + s * h)[0] for s in (1, 0, -1))
    np.testing.assert_allclose(slopes, (up - down) / (2 * h), rtol=1e-6)
    np.testing.assert_allclose(curvatures, (up - 2 * here + down) / h**2, rtol=1e-4)


@pytest.mark.parametrize(
    "change", [{"min_active_length": 0.8}, {"isometric_slope": 0.3}, {"tendon_stiffness_at_one": 0.5}]
)
def test_constants_without_a_curve_are_refused(change):
    with pytest.raises(InputError, match="no corner leads from"):
        Millard2012(**change)


@pytest.mark.parametrize("strain", [0.02, TENDON, 0.1])
def test_slack_tendon_never_pushes(strain):
    """Positive, increasing force everywhere; next to nothing at and below slack length."""
    length = jnp.linspace(1 - 2 * strain, 1 + 3 * strain, 20001)
    force = np.asarray(jax.jit(CURVES.tendon_force)(length, strain))
    assert np.all(force > 0)
    assert np.all(np.diff(force) > 0)
    assert force[length <= 1].max() < 3e-5


@pytest.mark.parametrize("strain", [0.02, TENDON, 0.1])
def test_tendon_length_inverts_tendon_force(strain):
    force = jnp.concatenate([jnp.geomspace(TAIL_FORCE, 6.0, 2000), jnp.asarray([2 / 3])])
    again = jax.jit(lambda force: CURVES.tendon_force(CURVES.tendon_length(force, strain), strain))(force)
    np.testing.assert_allclose(again, force, rtol=1e-10)


@pytest.mark.parametrize(
    ("curve", "seams"),
    [
        (CURVES.active_force_length, [0.4441, 1.0, 1.8123]),
        (CURVES.force_velocity, [-1.0, 0.0, 1.0]),
        (lambda x: CURVES.passive_force_length(x, PASSIVE), [1.0, 1.0 + PASSIVE]),
        (lambda x: CURVES.tendon_force(x, TENDON), [1 + TENDON * z for z in TENDON_SEAMS]),
        (lambda f: CURVES.tendon_length(f, TENDON), [TAIL_FORCE, 2 / 3]),
    ],
    ids=["active", "velocity", "passive", "tendon", "tendon_length"],
)
def test_slope_and_curvature_do_not_jump_where_formulas_meet(curve, seams):
    first = jax.grad(curve)
    derivatives = jax.jit(jax.vmap(lambda x: (first(x), jax.grad(first)(x))))
    step = 1e-10
    slope, curvature = derivatives(jnp.concatenate([jnp.asarray(seams) + side for side in (-step, 0.0, step)]))
    slope, curvature = (np.asarray(x).reshape(3, -1) for x in (slope, curvature))
    np.testing.assert_allclose(slope, slope[[1, 1, 1]], rtol=1e-6, atol=1e-6)
    # The largest curvature met is 2e4, in the tendon's toe; at the seam itself one-sided formulas may meet.
    np.testing.assert_allclose(curvature[0], curvature[2], rtol=0, atol=1.0)


# ---- muscles ----


@pytest.mark.parametrize("name", ["static_millard_rigid", "dynamic_millard_rigid", "static_millard_elastic"])
def test_forces_are_opensims(data, name):
    """OpenSim's static muscles are at rest; its dynamic ones have no damping."""
    truth, sets = opensim_table(data, name)
    params = muscles(sets, **(DEFAULTS | {"fiber_damping": 0.0 if name == "dynamic_millard_rigid" else 0.1}))
    tendon = name.rsplit("_", 1)[1]
    velocities = truth.get("vmt", np.zeros(len(sets)))

    def first_step(activation, lengths, velocities):
        state = initial_fiber(tendon, CURVES, params, activation, lengths)
        return fiber_step(tendon, "bdf2", 12, CURVES, params, state, activation, lengths, velocities, 0.005)[1]

    out = jax.jit(first_step)(truth["activation"], truth["lmt"], velocities)
    error = np.abs(out.tendon_force - truth["tendon_force"]) / sets[:, 0]
    print(f"{name}: 99th percentile {np.percentile(error, 99):.1e} F0, largest {error.max():.1e}")
    assert np.percentile(error, 99) < 1e-6
    assert error.max() < 1e-5


def test_a_rigid_tendon_never_pushes():
    """Damping takes away no more than the fiber pulls: OpenSim's rule, rounded by at most 0.7 % of the damping force.

    ``Millard2012EquilibriumMuscle::calcMuscleDynamicsInfo`` sets a compressive fiber force to zero and the damping to
    minus the rest. The tables of rigid muscles have none: at rest, or without damping.
    """
    rng = np.random.default_rng(0)
    sets = np.tile([1000.0, 0.1, 0.2, 0.0], (4000, 1))
    params = muscles(sets, **DEFAULTS)
    activation = np.where(rng.uniform(size=4000) < 0.3, 0.0, rng.uniform(size=4000))
    w, v = rng.uniform(0.4, 1.6, 4000), rng.uniform(-1.5, 1.0, 4000)

    def forces(activation, w, v):
        return rigid_fiber(CURVES, params, activation, 0.2 + 0.1 * w, v)[0] / 1000.0

    force, slope = jax.jit(lambda *at: jax.jvp(forces, at, (0 * at[0], 0 * at[1], 1.0 + 0 * at[2])))(activation, w, v)
    exact = hill.fiber_force(CURVES, params, activation, w, v)
    error = force - np.maximum(exact, 0.0)
    print(f"pushes without the rule: {exact.min():.3f} F0; rounding at most {error.max():.1e} F0")
    assert exact.min() < -0.1
    assert np.mean(exact < 0) > 0.2
    assert force.min() >= 0
    assert np.all(np.abs(error) <= 0.0071 * 0.1 * np.maximum(-v, 0.0) + 2e-9)
    assert np.abs(error).max() > 1e-5  # rounded, not switched
    np.testing.assert_allclose(force[v >= 0], exact[v >= 0], rtol=0, atol=2e-9)
    h = 1e-6
    differences = (forces(activation, w, v + h) - forces(activation, w, v - h)) / (2 * h)
    np.testing.assert_allclose(slope, differences, rtol=0, atol=1e-5)
    assert np.isfinite(jax.grad(lambda v: jnp.sum(forces(0.0 * activation, w, v)))(0.0 * v)).all()


def test_parts_of_a_force_that_does_not_push():
    """The parts add up to the tendon's force; what is saturated is the damping."""
    params = muscles(np.tile([1000.0, 0.1, 0.2, 0.0], (3, 1)), **DEFAULTS)
    activation, w, v = jnp.asarray([0.0, 0.02, 0.5]), jnp.asarray([0.9, 1.0, 1.1]), jnp.asarray([-0.5, -0.4, -0.1])
    force = rigid_fiber(CURVES, params, activation, 0.2 + 0.1 * w, v)[0]
    parts = fiber_forces(CURVES, params, activation, w, v, "rigid")
    np.testing.assert_allclose(parts.total, force, rtol=0, atol=1e-5)
    free = fiber_forces(CURVES, params, activation, w, v)
    np.testing.assert_allclose(parts.active, free.active)
    assert float(free.total[0]) == pytest.approx(-50.0)
    assert float(parts.total[0]) == pytest.approx(0.0, abs=1e-5)
    assert float(parts.damping[2]) == pytest.approx(float(free.damping[2]), rel=1e-6)


def test_fiber_velocities_are_opensims(data):
    """In 4000 random states of elastic muscles: the same, but for one that goes slack within them."""
    truth, sets = opensim_table(data, "state_millard_elastic")
    x = jnp.asarray(truth["fiber_length"] / sets[:, 1])
    v = jax.jit(equilibrium_velocity, static_argnums=0)(
        CURVES, muscles(sets, **DEFAULTS), truth["activation"], x, truth["lmt"]
    )
    error = np.abs(v - truth["fiber_velocity"] / (10 * sets[:, 1]))
    print(f"fiber velocity: 95th percentile {np.percentile(error, 95):.1e} vmax, largest {error.max():.1e}")
    assert np.percentile(error, 95) < 1e-5
    assert error.max() < 0.01


@pytest.mark.parametrize(("integrator", "limit"), [("bdf2", 0.005), ("backward_euler", 0.005)])
def test_forward_simulations_are_opensims(data, integrator, limit):
    """15 elastic muscles, 1.5 s at 5 ms steps, from OpenSim's activation: RMS of tendon force in F0."""
    file = load_arrays(data("truth_muscle") / "forward_sims.npz")
    labels = [str(label) for label in file["param_labels"]]
    keys = [key for key in file if key.startswith("millard__")]
    stacked = np.stack([file[key] for key in keys], axis=-1)
    truth = {str(c): stacked[:, i] for i, c in enumerate(file["columns"])}
    sets = file["param_sets"][[labels.index(key.split("__")[1]) for key in keys]]
    params = muscles(sets, **DEFAULTS)

    def step(state, sample):
        return fiber_step("elastic", integrator, 8, CURVES, params, state, *sample, 0.005)

    def run(activation, lengths, velocities):
        start = initial_fiber("elastic", CURVES, params, activation[0], lengths[0])
        return jax.lax.scan(step, start, (activation[1:], lengths[1:], velocities[1:]))[1].tendon_force

    force = jax.jit(run)(truth["activation"], truth["lmt"], truth["vmt"])
    rms = np.sqrt(np.mean(((np.asarray(force) - truth["tendon_force"][1:]) / sets[:, 0]) ** 2, axis=0))
    print(f"{integrator}: median {np.median(rms):.1e} F0, largest {rms.max():.1e}")
    assert rms.shape == (15,)
    assert rms.max() < limit
