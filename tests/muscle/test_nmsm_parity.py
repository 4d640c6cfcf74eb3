"""Every stage of the NMSM Pipeline's muscle model against its own unit-test numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import load_arrays
from models import muscles

from nms_gym.excitation import activation as act
from nms_gym.muscle.curves import DeGrooteFregly2016
from nms_gym.muscle.meyer_fregly import MeyerFregly2017, constant_pennation, nmsm_1_4
from nms_gym.muscle.moments import muscle_moments
from nms_gym.muscle.tendon import fiber_step, initial_fiber

CURVES = nmsm_1_4()


def parameters(fixture):
    rows = np.stack([fixture[key] for key in ("p_F0", "p_lopt", "p_lts", "p_penn")], axis=1)
    return muscles(rows, **CURVES.defaults)


@pytest.fixture(scope="module", params=["speed1_cycle1", "speed2_cycle1"])
def stages(request, data):
    """NMSM's inputs and expected values, and ours."""
    truth = dict(load_arrays(data("nmsm_multi_trial") / f"{request.param}_nmsm_unit_test.npz"))
    tau, dt = truth["p_tau_act"], float(np.mean(np.diff(truth["emg_time"])))

    def neural(state, e):
        a = act.nmsm_step(e, *state, tau, 4.0 * tau, dt)
        return (a, state[0]), a

    zero = jnp.zeros(len(tau))
    series = jax.lax.scan(neural, (zero, zero), truth["excitation"][2:])[1]
    # Two zeros to start with, 20 padding frames at both ends, and no negative result.
    u = np.maximum(np.concatenate([np.zeros((2, len(tau))), series])[20:-20], 0.0)
    activation = jax.vmap(act.nmsm_shaped, (0, None))(u, truth["p_nonlin"])

    params = constant_pennation(parameters(truth))

    def fiber(state, sample):
        return fiber_step("rigid", "bdf2", 5, CURVES, params, state, *sample, dt)

    start = initial_fiber("rigid", CURVES, params, activation[0], truth["lmt"][0])
    out = jax.lax.scan(fiber, start, (activation, truth["lmt"], truth["vmt"]))[1]
    strain = params.passive_fiber_strain_at_one_norm_force
    passive = jnp.stack([CURVES.passive_force_length(x, strain) for x in out.fiber_length])
    ours = {
        "neural_activation": u,
        "activation": activation,
        "norm_fibre_length": out.fiber_length,
        "norm_fibre_velocity": out.fiber_velocity,
        "passive_force": passive * jnp.broadcast_to(params.max_isometric_force, passive.shape),
        "moment": jax.vmap(muscle_moments)(truth["moment_arm"], out.tendon_force),
    }
    return truth, ours


@pytest.mark.parametrize(
    "stage",
    ["neural_activation", "activation", "norm_fibre_length", "norm_fibre_velocity", "passive_force", "moment"],
)
def test_stage_is_nmsms(stages, stage):
    """Within 1e-10, of the largest value where that is newtons (6,700 N of muscle) or newton metres."""
    truth, ours = stages
    assert ours[stage].shape == truth[stage].shape
    error, scale = np.abs(ours[stage] - truth[stage]).max(), max(np.abs(truth[stage]).max(), 1.0)
    print(f"{stage}: largest error {error:.1e}, largest value {scale:.3g}")
    assert error < 1e-10 * scale
    assert np.ptp(truth[stage]) > 0.1


def test_the_two_sets_of_constants_differ(stages):
    """What the later constants change, and that they are not the earlier ones."""
    x, v = np.linspace(0.4, 1.6, 200), np.linspace(-1, 1, 200)
    now = MeyerFregly2017()
    active = np.abs(now.active_force_length(x) - CURVES.active_force_length(x)).max()
    velocity = np.abs(now.force_velocity(v) - CURVES.force_velocity(v)).max()
    print(f"largest change of the constants: active {active:.4f}, force-velocity {velocity:.4f}")
    assert 1e-4 < active < 1e-3
    assert 1e-4 < velocity < 1e-3


def test_constant_pennation_projects_fibers_by_a_constant_cosine():
    """By hand: l = (l_MT - l_ts) / (l_opt cos), F = F0 cos (a fl fv + fp), NumPy on both sides."""
    truth = {"muscles": ["m"], "p_F0": [900.0], "p_lopt": [0.08], "p_lts": [0.2], "p_penn": [0.4]}
    params = constant_pennation(parameters({k: np.asarray(v) for k, v in truth.items()}))
    cosine, lengths, velocities, a = np.cos(0.4), np.asarray([0.28]), np.asarray([-0.1]), np.asarray([0.6])
    state = initial_fiber("rigid", CURVES, params, a, lengths)
    out = fiber_step("rigid", "bdf2", 5, CURVES, params, state, a, lengths, velocities, 0.01)[1]
    x, v = (0.28 - 0.2) / (0.08 * cosine), -0.1 / (10 * 0.08 * cosine)
    np.testing.assert_allclose([out.fiber_length[0], out.fiber_velocity[0]], [x, v], rtol=1e-11)
    passive = 0.232000797810576 * np.log(1 + np.exp(12.438535493526128 * (x - 1.329470475731338)))
    active = float(CURVES.active_force_length(jnp.asarray(x)) * CURVES.force_velocity(jnp.asarray(v)))
    assert float(out.tendon_force[0]) == pytest.approx(900 * cosine * (0.6 * active + passive), rel=1e-10)


@pytest.mark.parametrize("curves", [MeyerFregly2017(), CURVES])
def test_key_points(curves):
    assert float(curves.active_force_length(jnp.asarray(1.0))) == pytest.approx(1.0, abs=1e-3)
    np.testing.assert_allclose(curves.force_velocity(jnp.asarray([-1.0, 0.0])), [0.0, 1.0], atol=6e-4)
    strain = curves.defaults["passive_fiber_strain_at_one_norm_force"]
    for s in (strain, 0.4):
        assert float(curves.passive_force_length(jnp.asarray(1 + s), s)) == pytest.approx(1.0, abs=1e-12)
    assert float(curves.tendon_force(1.03, 0.049)) == float(DeGrooteFregly2016().tendon_force(1.03, 0.049))
