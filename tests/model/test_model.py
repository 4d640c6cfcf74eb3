"""The forward functions: gradients of every parameter, single steps against the prediction, dtypes, bad parameters."""

from __future__ import annotations

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from models import ARM, arm_model

from nms_gym.errors import InputError
from nms_gym.excitation.activation import delayed
from nms_gym.model.forward import initial_state, kinematics_at, neuromuscular_step
from nms_gym.model.parameters import KINDS, PARAMETER_KINDS, NmsParams, entries, has_effect, make_params
from nms_gym.model.replay import Replay, predict_moments, replay_history, replay_initial_state
from nms_gym.model.structure import Settings
from nms_gym.muscle.geometry import lengths_and_moment_arms

DT, STEPS = 0.01, 40
# The brachialis has no channel; the medial head of the triceps takes the mean of two.
CHANNELS = {
    "TRI": {"TRIlong": 1.0, "TRImed": 0.5},
    "TRIlat": {"TRIlat": 1.0, "TRImed": 0.5},
    "BIC": {"BIClong": 1.0},
    "BICshort": {"BICshort": 1.0},
}
arm = partial(arm_model, CHANNELS)


def motion(steps=STEPS, dt=DT):
    """Shoulder and elbow angles and velocities (T, 2), from the middle of the range."""
    t = dt * np.arange(steps)[:, None]
    low, high = ARM.coordinate_range.T
    amplitude, rate, phase = 0.25 * (high - low), 2 * np.pi * np.array([0.7, 1.1]), np.array([0.3, 1.0])
    q = 0.5 * (low + high) + amplitude * np.sin(rate * t + phase)
    return q, amplitude * rate * np.cos(rate * t + phase)


def replay_of(model, excitations=None, steps=STEPS, dt=DT):
    q, qd = motion(steps, dt)
    lengths, arms = jax.jit(jax.vmap(lengths_and_moment_arms, (None, 0)))(model.paths, q)
    if excitations is None:
        t = dt * np.arange(model.settings.history_length(dt) - 1 + steps)[:, None]
        excitations = 0.35 + 0.3 * np.sin(2 * np.pi * np.array([1.0, 1.7, 2.3, 1.3]) * t + np.arange(4))
    return Replay(
        coordinates=model.coordinates,
        dt=jnp.asarray(dt),
        excitations=jnp.asarray(excitations),
        lengths=lengths,
        velocities=-jnp.einsum("tk,tkm->tm", qd, arms),
        moment_arms=arms,
    )


DEFAULTS = {name: kind.default for name, kind in KINDS.items() if kind.default is not None}


def person(model, **values):
    """Parameters in which no two muscles or channels are alike."""
    rng = np.random.default_rng(0)
    given = {kind: rng.uniform(0.9, 1.1, len(entries(model, kind))) * value for kind, value in DEFAULTS.items()}
    return make_params(model, {**given, **ARM.parameters, "emg_gain": [0.8, 0.9, 1.0, 0.7], **values})


predict = jax.jit(predict_moments)


# ---- gradients ----

ADDITIVE = ("shape_factor", "optimal_fiber_length_change", "minimum_activation")

CONFIGURATIONS = [(t, a) for t in ("elastic", "rigid") for a in ("second_order", "first_order")]


def special_excitations(length):
    """Channels that rest exactly at 0, jump to exactly 1, and rest at what activation has settled to."""
    e = np.zeros((length, 4))
    e[:, 0] = np.where(np.arange(length) < length - 30, 0.0, np.where(np.arange(length) < length - 15, 1.0, 0.0))
    e[:, 1] = np.where(np.arange(length) < length - 20, 1.0, 0.0)
    e[:, 2] = 0.5
    e[:, 3] = np.where(np.arange(length) < length - 10, 0.5, 1.0)
    return e


@pytest.fixture(scope="module", params=CONFIGURATIONS, ids="-".join)
def gradient_case(request):
    """Model, and compiled: reverse derivative and central differences of a weighted sum of moments, per unit change.

    A unit change is a factor, or added for the kinds that may be 0 (``ADDITIVE``).
    """
    tendon, activation = request.param
    model = arm(tendon=tendon, activation=activation)
    params = person(model)
    flat, unravel = ravel_pytree(params)
    additive = ravel_pytree(
        NmsParams(**{k: jnp.full(len(entries(model, k)), float(k in ADDITIVE)) for k in PARAMETER_KINDS})
    )[0]
    weights = jnp.asarray(np.random.default_rng(1).standard_normal((STEPS, 2)))

    def total(change, replay):
        changed = unravel(jnp.where(additive > 0, flat + change, flat * (1 + change)))
        return jnp.sum(weights * predict_moments(model, changed, replay).moments)

    def differences(replay):
        h = 1e-5
        steps = jnp.concatenate([h * jnp.eye(len(flat)), -h * jnp.eye(len(flat))])
        values = jax.vmap(total, (0, None))(steps, replay)
        return (values[: len(flat)] - values[len(flat) :]) / (2 * h)

    gradient = jax.jit(lambda replay: jax.grad(total)(jnp.zeros_like(flat), replay))
    return model, unravel, gradient, jax.jit(differences)


@pytest.mark.parametrize("excitations", ["smooth", "special"])
def test_gradient_of_every_parameter_matches_central_differences(gradient_case, excitations):
    model, unravel, gradient, differences = gradient_case
    length = model.settings.history_length(DT) - 1 + STEPS
    replay = replay_of(model, None if excitations == "smooth" else special_excitations(length))
    ours, expected = vars(unravel(gradient(replay))), vars(unravel(differences(replay)))
    for kind in PARAMETER_KINDS:
        g, d = np.asarray(ours[kind]), np.asarray(expected[kind])
        assert np.all(np.isfinite(g)), kind
        if not has_effect(model, kind):
            np.testing.assert_array_equal(g, 0, err_msg=kind)
            continue
        assert np.abs(g).max() > 0, kind
        # 1e-5 relative; entries that hardly matter, relative to the largest of their kind.
        tolerance = 1e-5 * np.maximum(np.abs(d), 0.01 * np.abs(d).max())
        np.testing.assert_array_less(np.abs(g - d), tolerance + 1e-9, err_msg=kind)


# ---- the step and the prediction ----


@pytest.fixture(scope="module", params=["elastic", "rigid"])
def stepped(request):
    """A prediction, and the same by ``neuromuscular_step`` from joint angles."""
    model = arm(tendon=request.param)
    params, replay = person(model), replay_of(arm(tendon=request.param))
    q, qd = motion()
    history = model.settings.history_length(DT)

    @jax.jit
    def run(params, replay, q, qd):
        start = replay_initial_state(model, params, replay)
        # The first step pushes the first sample; before it, the history ends one sample earlier.
        before = jnp.concatenate([replay_history(replay)[1:], replay.excitations[:1]])
        start = dataclasses.replace(start, excitation_history=before)

        def body(state, sample):
            channels, q, qd = sample
            return neuromuscular_step(model, params, state, channels, kinematics_at(model, q, qd), replay.dt)

        return jax.lax.scan(body, start, (replay.excitations[history - 1 :], q, qd))

    return model, params, replay, predict(model, params, replay), run(params, replay, q, qd)


def test_step_by_step_from_joint_angles_is_the_prediction(stepped):
    _, _, _, expected, (_, out) = stepped
    for field in dataclasses.fields(expected):
        ours, theirs = getattr(out, field.name), getattr(expected, field.name)
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-11, err_msg=field.name)
    assert out.moments.shape == (STEPS, 2)


def test_history_and_delay(stepped):
    """The state holds the last samples, newest first, and the excitation is that of the delay read by hand."""
    model, params, replay, expected, (state, out) = stepped
    length = model.settings.history_length(DT)
    np.testing.assert_array_equal(state.excitation_history, replay.excitations[-length:][::-1])
    np.testing.assert_allclose(out.excitation, expected.excitation, rtol=0, atol=1e-12)
    # Delays of a whole number of samples, by indexing.
    whole = dataclasses.replace(params, electromechanical_delay=jnp.asarray([0.0, 0.03, 0.10, 0.15]))
    got = np.asarray(predict(model, whole, replay).excitation)
    channels = np.stack([replay.excitations[length - 1 - k :, i][:STEPS] for i, k in enumerate((0, 3, 10, 15))], -1)
    driven = channels * np.asarray(params.emg_gain)
    np.testing.assert_allclose(got, driven @ np.asarray(model.channel_weights).T, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["second_order", "recursive"])
def test_activation_is_the_recursion_by_hand(kind):
    """From the excitation that the model reports: CEINMS's recursion from rest, then Lloyd & Besier's exponential.

    Fed with the part ``r`` of the last sample that makes up for what the recursion is early by, or with none of it.
    """
    model = arm(activation=kind)
    params = person(model)
    expected = predict(model, params, replay_of(model))
    e, a = np.asarray(expected.excitation), np.asarray(params.shape_factor)
    taus = [np.asarray(t) for t in (params.filter_time_constant_1, params.filter_time_constant_2)]
    c1, c2 = (-np.exp(-DT / t) for t in taus)
    r = sum(t / DT + c / (1 + c) for t, c in zip(taus, (c1, c2), strict=True)) if kind == "second_order" else 0.0
    u1 = u2 = last = e[0]
    for now, activation in zip(e, np.asarray(expected.activation), strict=True):
        fed, last = (1 - r) * now + r * last, now
        u1, u2 = (1 + c1 + c2 + c1 * c2) * fed - (c1 + c2) * u1 - c1 * c2 * u2, u1
        np.testing.assert_allclose(activation, (np.exp(a * u1) - 1) / (np.exp(a) - 1), rtol=0, atol=1e-12)


def test_first_order_activation_by_hand():
    """From the excitation that the model reports: the exponential midpoint rule, then the exponential shape."""
    model = arm(activation="first_order")
    params = person(model)
    out = predict(model, params, replay_of(model))
    e, a = np.asarray(out.excitation), np.asarray(params.shape_factor)
    tau_a, tau_d = np.asarray(params.activation_time_constant), np.asarray(params.deactivation_time_constant)

    def rate(excitation, u):
        f, z = 0.5 * np.tanh(10.0 * (excitation - u)), 0.5 + 1.5 * u
        return (f + 0.5) / (tau_a * z) + (0.5 - f) * z / tau_d

    u = e[0]
    for now, activation in zip(e, np.asarray(out.activation), strict=True):
        middle = now + (u - now) * np.exp(-rate(now, u) * DT / 2)
        u = now + (u - now) * np.exp(-rate(now, middle) * DT)
        np.testing.assert_allclose(activation, (np.exp(a * u) - 1) / (np.exp(a) - 1), rtol=0, atol=1e-12)


def test_moments_are_virtual_work(stepped):
    """Power of the moments is minus that of the tendons: sum of moment * qd = - sum of force * velocity."""
    _, _, replay, expected, _ = stepped
    _, qd = motion()
    joint = np.einsum("tk,tk->t", expected.moments, qd)
    tendon = np.einsum("tm,tm->t", expected.tendon_force, replay.velocities)
    np.testing.assert_allclose(joint, -tendon, rtol=1e-10, atol=1e-10)
    # And the velocities are those of the lengths, by central differences in time.
    rate = np.gradient(np.asarray(replay.lengths), DT, axis=0)[1:-1]
    assert np.abs(rate - replay.velocities[1:-1]).max() < 0.02 * np.abs(rate).max()


def test_rest_is_an_equilibrium():
    """Constant channels in a constant pose: nothing moves from the first sample on."""
    for tendon, activation in (CONFIGURATIONS[0], CONFIGURATIONS[3]):
        model = arm(tendon=tendon, activation=activation)
        replay = replay_of(model)
        still = dataclasses.replace(
            replay,
            excitations=jnp.full_like(replay.excitations, 0.4),
            lengths=jnp.broadcast_to(replay.lengths[0], replay.lengths.shape),
            velocities=jnp.zeros_like(replay.velocities),
        )
        out = predict(model, person(model), still)
        assert np.abs(np.asarray(out.fiber_velocity)).max() < 1e-10
        assert np.ptp(np.asarray(out.tendon_force), axis=0).max() < 1e-6
        assert np.ptp(np.asarray(out.activation), axis=0).max() < 1e-14


def test_twice_as_strong_is_twice_the_moment(stepped):
    model, params, replay, expected, _ = stepped
    strong = dataclasses.replace(params, max_isometric_force=2 * params.max_isometric_force)
    out = predict(model, strong, replay)
    np.testing.assert_allclose(out.moments, 2 * expected.moments, rtol=1e-12)
    np.testing.assert_allclose(out.fiber_length, expected.fiber_length, rtol=1e-12)


def test_passive_muscle():
    model = arm()
    assert model.passive_muscles == ("BRA",)
    out = predict(model, person(model), replay_of(model))
    i = model.muscles.index("BRA")
    assert np.abs(out.activation[:, i]).max() == 0
    assert all(np.asarray(out.activation)[:, k].max() > 0.1 for k in range(len(model.muscles)) if k != i)
    # The mean of two channels, after their gains and delays.
    tri, lat, med = (model.muscles.index(m) for m in ("TRIlong", "TRIlat", "TRImed"))
    mean = 0.5 * (out.excitation[:, tri] + out.excitation[:, lat])
    np.testing.assert_allclose(out.excitation[:, med], mean, rtol=1e-13)


def test_batches_equal_loops(stepped):
    model, params, replay, expected, _ = stepped
    factors = jnp.asarray([0.9, 1.0, 1.1])
    many = jax.tree.map(lambda leaf: factors[:, None] * leaf[None], params)
    batch = jax.jit(jax.vmap(predict_moments, (None, 0, None)))(model, many, replay).moments
    for i in range(3):
        one = predict(model, jax.tree.map(lambda leaf, i=i: leaf[i], many), replay).moments
        np.testing.assert_allclose(batch[i], one, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(batch[1], expected.moments, rtol=1e-9, atol=1e-9)
    assert np.abs(np.asarray(batch[0] - batch[2])).max() > 0.1


# ---- dtypes ----


@pytest.mark.parametrize(("tendon", "activation"), CONFIGURATIONS)
def test_no_constant_pulls_a_float32_program_up(tendon, activation):
    """Under x64, arrays of the traced program are all float32; its scalars may be Python's weakly typed numbers."""
    model = arm(tendon=tendon, activation=activation)
    single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (model, person(model), replay_of(model)))
    q, qd = (jnp.asarray(x[0], jnp.float32) for x in motion())

    def everything(model, params, replay, q, qd):
        out = predict_moments(model, params, replay)
        state = initial_state(model, params, replay_history(replay), replay.lengths[0], replay.dt)
        return out, neuromuscular_step(
            model, params, state, replay.excitations[-1], kinematics_at(model, q, qd), replay.dt
        )

    program, shapes = jax.make_jaxpr(everything, return_shape=True)(*single, q, qd)
    assert not set(re.findall(r"f64\[[^\]]+\]", str(program)))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype(np.float32)}


def test_without_x64_all_is_float32(stepped):
    """Tables and parameters that are float64 outside do not leak in, and the result is that of float64."""
    model, params, replay, expected, _ = stepped
    with jax.enable_x64(False):
        out = jax.jit(predict_moments)(*jax.tree.map(np.asarray, (model, params, replay)))
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {np.dtype(np.float32)}
    scale = np.abs(expected.moments).max()
    assert np.abs(np.asarray(out.moments, float) - np.asarray(expected.moments)).max() < 2e-4 * scale


# ---- parameters and settings from outside ----


def test_parameters_by_name_and_by_order():
    model = arm()
    by_name = {m: 0.1 + 0.01 * i for i, m in enumerate(model.muscles)}
    shuffled = dict(reversed(by_name.items()))
    params = make_params(model, {**ARM.parameters, "optimal_fiber_length": shuffled, "emg_gain": {"BIC": 2.0}})
    np.testing.assert_array_equal(params.optimal_fiber_length, list(by_name.values()))
    np.testing.assert_array_equal(params.emg_gain, [1.0, 1.0, 2.0, 1.0])
    np.testing.assert_array_equal(params.fiber_damping, np.full(6, KINDS["fiber_damping"].default))
    assert params.emg_gain.shape == (4,)
    assert make_params(model, ARM.parameters, dtype=jnp.float32).fiber_damping.dtype == jnp.float32


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fibre_damping": 0.1}, r"'fibre_damping'; there are .*'fiber_damping'"),
        ({"optimal_fiber_length": {"BICEPS": 0.1}}, r"optimal_fiber_length: no entry 'BICEPS'.*'BIClong'"),
        ({"optimal_fiber_length": {"BRA": 0.1}}, r"optimal_fiber_length: missing .*'TRIlong'"),
        ({"tendon_slack_length": [0.1, 0.1, 0.1, -0.05, 0.1, 0.1]}, r"tendon_slack_length of 'BIClong' is -0.05 m"),
        ({"tendon_slack_length": [0.1, 0.0, 0.1, 0.1, 0.1, 0.1]}, r"tendon_slack_length of 'TRIlat' is 0 m"),
        ({"max_isometric_force": [1, 2, 3, 4, np.nan, 6]}, r"max_isometric_force of 'BICshort' is nan N"),
        ({"pennation_at_optimal": 12.0}, r"pennation_at_optimal of 'TRIlong' is 12 rad.*radians"),
        ({"emg_gain": {"BIC": -1.0}}, r"emg_gain of 'BIC' is -1"),
        ({"electromechanical_delay": {"BIC": 30.0}}, r"electromechanical_delay of 'BIC' is 30 s"),
        ({"emg_gain": [1.0, 1.0]}, r"emg_gain has shape \(2,\); expected \(4,\)"),
        ({"max_isometric_force": None}, r"max_isometric_force is required"),
    ],
)
def test_bad_parameters_are_named(values, message):
    with pytest.raises(InputError, match=message):
        make_params(arm(), {**ARM.parameters, **values})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tendon": "stiff"}, "tendon is 'stiff'.*'rigid', 'elastic'"),
        ({"integrator": "rk4"}, "integrator is 'rk4'"),
        ({"activation": "third_order"}, "activation is 'third_order'"),
        ({"tendon_iterations": 51}, "tendon_iterations is 51"),
        ({"max_delay": 0.0}, "max_delay is 0.0 s"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        Settings(**settings)


def test_no_such_kind():
    with pytest.raises(InputError, match="no parameter 'strength'"):
        entries(arm(), "strength")


def test_joint_angles_need_paths():
    model = dataclasses.replace(arm(), paths=None)
    with pytest.raises(InputError, match="no muscle paths"):
        kinematics_at(model, jnp.zeros(2), jnp.zeros(2))


def test_longest_delay_fits_the_history():
    """``max_delay`` itself can be read, at steps that divide it and steps that do not."""
    for dt in (0.004, 0.005, 0.02, 0.15, 0.4):
        length = Settings(max_delay=0.15).history_length(dt)
        ramp = -dt * np.arange(length)[:, None]
        assert float(delayed(jnp.asarray(ramp), jnp.asarray([0.15]), dt)[0]) == pytest.approx(-0.15, abs=1e-12)


def test_delay_longer_than_the_history_is_refused():
    with pytest.raises(InputError, match=r"electromechanical_delay of 'TRI' is 0\.3.*0\.15.*max_delay"):
        make_params(arm(), {**ARM.parameters, "electromechanical_delay": 0.3})
