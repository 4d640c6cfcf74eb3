"""Environments say at every step how much of EMG and motion is outside what a person's calibration has seen."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nms_gym.envs import make_task
from nms_gym.envs.task import as_dtype, play_actions
from nms_gym.envs.trained import trained_limits
from nms_gym.files.subject import load_subject, resolve_subject, resolve_trial, save_subject
from nms_gym.model.trained_range import Range, TrainedRange
from nms_gym.recording.trial import load_trial

KEY = "outside_trained_range"
QUICK = {"xla_backend_optimization_level": 0}


@pytest.fixture(scope="module")
def arm():
    return load_subject(resolve_subject())


def outside(trained, shown) -> np.ndarray:
    """Fraction outside, ``(T,)``, of series by (quantity, name)."""
    limits = {key: trained.limits(*key) for key in shown}
    return np.mean([(x < limits[key][0]) | (x > limits[key][1]) for key, x in shown.items()], axis=0)


def test_a_device_shows_how_much_of_emg_and_motion_is_outside(arm):
    task = as_dtype(make_task("ElbowAssist-v0", trial="lift_1", random_start=False), jnp.float64)
    # A motor that pushes as hard as it can soon moves the elbow beyond anything that was trained on.
    infos = jax.jit(
        lambda task, actions: {k: play_actions(task, actions)[1][k] for k in (KEY, "emg", "q", "qd")},
        compiler_options=QUICK,
    )(task, jnp.ones((60, 1)))
    emg, q, qd = (np.asarray(infos[k]) for k in ("emg", "q", "qd"))
    (elbow,) = task.coordinates
    shown = {("emg", c): emg[:, i] for i, c in enumerate(task.limb.recorded)}
    shown |= {("angle", elbow): q[:, 0], ("speed", elbow): qd[:, 0]}
    expected = outside(arm.trained, shown)
    np.testing.assert_allclose(infos[KEY], expected, atol=1e-12)
    assert 0.0 <= expected.min() < expected.max()


def test_a_replayed_recording_shows_it_too(arm):
    task = make_task("MomentTracking-v0", trial="reach_3")
    trial = load_trial(resolve_trial("reach_3"))
    on_grid = [np.interp(trial.time, trial.emg_time, trial.emg[:, trial.channels.index(c)]) for c in arm.model.channels]
    shown = {("emg", c): x for c, x in zip(arm.model.channels, on_grid, strict=True)}
    for i, c in enumerate(trial.coordinates):
        shown |= {("angle", c): trial.q[:, i], ("speed", c): trial.qd[:, i]}
    np.testing.assert_allclose(task.outside, outside(arm.trained, shown), atol=1e-12)
    _, step = jax.eval_shape(task.reset, jax.random.key(0))
    assert step.info[KEY].shape == ()


def test_where_nobody_knows_or_no_emg_drives_there_is_none(arm, tmp_path):
    save_subject(tmp_path / "old.json", dataclasses.replace(arm, trained=None))
    for name, options in (
        ("ElbowAssist-v0", {"subject": str(tmp_path / "old.json")}),
        ("MomentTracking-v0", {"subject": str(tmp_path / "old.json")}),
        ("AnkleExo-v0", {}),  # the shipped leg was never calibrated
        ("ElbowReach-v0", {}),  # the policy drives the muscles
    ):
        _, step = jax.eval_shape(as_dtype(make_task(name, **options), jnp.float32).reset, jax.random.key(0))
        assert KEY not in step.info, name


def test_names_without_a_range_do_not_count_and_no_gradient_goes_through():
    trained = TrainedRange({"b": Range(0.0, 0.5, 0.0, 0.5)}, {"knee": Range(-1.0, 1.0, -1.0, 1.0)}, {})
    limits = trained_limits(trained, ("a", "b"), ("hip", "knee"))
    assert limits is not None
    still = jnp.zeros(2)
    for emg, q, expected in (
        ((9.0, 0.5), (9.0, 1.05), 0.0),
        ((9.0, 0.6), (9.0, 1.05), 0.5),
        ((0.0, 0.0), (0.0, -1.2), 0.5),
        ((0.0, 9.0), (0.0, 9.0), 1.0),
    ):
        assert float(limits.outside(jnp.array(emg), jnp.array(q), still)) == expected
    slope = jax.grad(lambda q: jnp.sum(q) * limits.outside(jnp.array([9.0, 9.0]), q, still))(jnp.array([1.0, 0.0]))
    np.testing.assert_array_equal(slope, 0.5)
    assert trained_limits(trained, ("a",), ("knee",)) is None
    assert trained_limits(None, ("b",), ("knee",)) is None
