"""One step everywhere: replay, single steps, closed loop, environment and calibration agree, conditions included."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import calibration
import nms_gym
from calibration.residuals import predict_stack
from nms_gym.conditions import conditions_from_spec
from nms_gym.envs.moment_tracking import moment_tracking_task
from nms_gym.envs.recordings import RecordingOptions
from nms_gym.envs.task import as_dtype, play_actions
from nms_gym.model.forward import excited_step, output_at_rest
from nms_gym.model.replay import recorded_excitations, replay_history, replay_initial_state

STOP = 0.6  # s; the whole recording says no more
# One that has a memory, one that looks at the fibers, and one that changes parameters.
CONDITIONS = [
    {"name": "spasticity", "severity": 0.7, "muscles": ["BIClong", "BICshort"]},
    {"name": "fatigue", "joint": "elbow"},
    {"name": "weakness", "severity": 0.3},
]


@pytest.fixture(scope="module")
def person():
    return nms_gym.load_subject(nms_gym.asset_path("demo/subject.json"))


@pytest.fixture(scope="module")
def trial():
    return nms_gym.load_trial(nms_gym.asset_path("demo/reach_3.npz"))


@pytest.fixture(scope="module", params=[[], CONDITIONS], ids=["healthy", "impaired"])
def case(request, person, trial):
    """Condition, the model and parameters that it makes, the recording, and the prediction over it."""
    condition = conditions_from_spec(request.param, person.model)
    model, params = condition.prepare(person.model, person.params)
    segment = nms_gym.make_segment(model, trial, stop=STOP, lead_in=0.0)
    dt = float(segment.replay.dt)
    predicted = jax.jit(lambda p: nms_gym.predict_moments(model, p, segment.replay, condition=condition, dt=dt))(params)
    return request.param, condition, model, params, segment, predicted


def assert_same(ours, theirs, **tolerance):
    for name in (f.name for f in dataclasses.fields(theirs)):
        a, b = np.asarray(getattr(ours, name)), np.asarray(getattr(theirs, name))
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * max(np.abs(b).max(), 1e-3), err_msg=name, **tolerance)


def test_single_steps_are_the_prediction(case):
    _, condition, model, params, segment, predicted = case
    replay, dt = segment.replay, float(segment.replay.dt)
    start = replay_initial_state(model, params, replay, condition=condition, dt=dt)
    history = replay_history(replay)
    # The first step pushes the first sample itself.
    start = dataclasses.replace(start, excitation_history=jnp.concatenate([history[1:], history[-1:]]))
    channels = jnp.asarray(replay.excitations[len(history) - 1 :])

    def step(state, sample):
        return nms_gym.neuromuscular_step(model, params, state, *sample, dt, condition=condition)

    assert_same(jax.jit(lambda: jax.lax.scan(step, start, (channels, replay.kinematics)))()[1], predicted)


def test_an_episode_of_moment_tracking_is_the_prediction(case, person, trial):
    spec, _, _, _, _, predicted = case
    with jax.enable_x64(True):
        task = as_dtype(
            moment_tracking_task(person, trial, condition=spec, window=RecordingOptions(stop=STOP)), jnp.float64
        )
        actions = jnp.zeros((task.horizon, len(task.action_names)))
        _, info = jax.jit(play_actions)(task, actions)
    for name in ("moments", "excitation", "activation"):
        np.testing.assert_allclose(info[name], getattr(predicted, name), rtol=1e-9, atol=1e-9, err_msg=name)


def test_calibration_sees_the_same(case):
    _, _, model, params, segment, _ = case
    predicted = nms_gym.predict_moments(model, params, segment.replay)  # a calibration knows no condition
    stack = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], segment.replay)
    assert_same(jax.tree.map(lambda leaf: leaf[0], predict_stack(model, params, stack)), predicted)
    fitted = calibration.Problem(model, params, (segment,))
    assert fitted.coordinates == segment.coordinates


def test_a_limb_that_cannot_move_is_the_prediction_at_rest(case):
    """Closed loop against replay: a skeleton too heavy to move, and a recording of the pose it stays in."""
    _, condition, model, params, _, _ = case
    file = nms_gym.read_model_file(nms_gym.asset_path("arm/model.json"))
    moving, _ = nms_gym.moving_model(file, model.coordinates)
    assert moving.skeleton is not None
    heavy = np.asarray(moving.skeleton.inertia) + 1e12 * np.eye(3)
    skeleton = dataclasses.replace(moving.skeleton, inertia=heavy, gravity=np.zeros(3))
    model = dataclasses.replace(model, skeleton=skeleton)
    dt, steps, rng = 0.01, 30, np.random.default_rng(0)
    channels = jnp.asarray(rng.uniform(0, 1, (steps, len(model.channels))))
    q = jnp.asarray([0.3, 0.9])
    start = nms_gym.initial_motion(model, params, q, jnp.zeros(2), dt, condition=condition)
    _, out = jax.jit(lambda: nms_gym.rollout(model, params, start, channels, dt, condition=condition))()
    still = nms_gym.kinematics_at(model, q, jnp.zeros(2))
    still = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (steps, *leaf.shape)), still)
    silence = jnp.zeros((model.settings.history_length(dt) - 1, len(model.channels)))
    replay = nms_gym.Replay(
        coordinates=model.coordinates,
        dt=jnp.asarray(dt),
        excitations=jnp.concatenate([silence, channels]),
        lengths=still.lengths,
        velocities=still.velocities,
        moment_arms=still.moment_arms,
    )
    # A replay starts settled at its first sample, a rollout at rest: start from the same.
    excitation = recorded_excitations(model, params, replay)

    def step(state, sample):
        return excited_step(model, params, state, *sample, dt, condition=condition)

    empty = dataclasses.replace(start.muscles, excitation_history=start.muscles.excitation_history[:0])
    expected = jax.jit(lambda: jax.lax.scan(step, empty, (excitation, still)))()[1]
    np.testing.assert_allclose(out.muscles.tendon_force, expected.tendon_force, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(out.muscles.activation, expected.activation, rtol=1e-9, atol=1e-12)


def test_rest_is_where_a_step_without_change_stays(case):
    _, condition, model, params, segment, _ = case
    replay, dt = segment.replay, float(segment.replay.dt)
    state = replay_initial_state(model, params, replay, condition=condition, dt=dt)
    still = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), replay.kinematics)
    still = dataclasses.replace(still, velocities=jnp.zeros_like(still.velocities))
    rest = output_at_rest(model, params, state, still)
    healthy = dataclasses.replace(state, condition=())
    _, after = excited_step(model, params, healthy, state.filtered, still, dt)
    assert_same(rest, dataclasses.replace(after, residual=rest.residual, tendon_strain=rest.tendon_strain))
    np.testing.assert_allclose(rest.tendon_strain, after.tendon_strain, rtol=0, atol=1e-8)


def test_the_minimum_activation_is_where_a_silent_muscle_rests(person, trial):
    """And it moves the moments, with a derivative."""
    model = person.model
    segment = nms_gym.make_segment(model, trial, stop=STOP, lead_in=0.0)

    def predict(least):
        params = dataclasses.replace(person.params, minimum_activation=jnp.full(len(model.muscles), least))
        return nms_gym.predict_moments(model, params, segment.replay)

    out = jax.jit(predict)(0.05)
    silent = model.muscles.index("BRA")
    np.testing.assert_allclose(out.activation[:, silent], 0.05, rtol=1e-12)
    assert np.all(np.asarray(out.activation) >= 0.05)
    total = jax.jit(lambda least: jnp.sum(predict(least).moments))
    slope, h = jax.jit(jax.grad(total))(0.05), 1e-5
    np.testing.assert_allclose(slope, (total(0.05 + h) - total(0.05 - h)) / (2 * h), rtol=1e-6)
    assert abs(slope) > 1
