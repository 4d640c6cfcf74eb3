"""Learning on a task small enough to be understood: a mass that is pushed to where it should be."""

from __future__ import annotations

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_task import Push

from nms_gym.envs.task import play_score
from nms_gym.errors import InputError
from nms_gym.files.policy import answer, load_policy
from nms_gym.training.analytic import SHAPE, Analytic, AnalyticSettings
from nms_gym.training.checkpoint import load_checkpoint, save_checkpoint
from nms_gym.training.judging import CHOICE_SEED, Judge, Score, paired_difference
from nms_gym.training.run import train

SETTINGS = {"episodes": 32, "window": 20, "hidden": [16], "learning_rate": 1e-2, "discount": 0.9}
STEPS = 32 * 40 * 60


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return train(Push(), settings=SETTINGS, steps=STEPS, points=6, seed=1, out=folder), folder


def test_it_learns_and_beats_doing_nothing(trained):
    result, _ = trained
    scores = result.policy.scores
    assert scores["trained"]["success"] > 0.9
    assert scores["zero"]["success"] < 0.3
    assert scores["trained"]["return"] > scores["zero"]["return"] + 1.0
    assert set(scores) == {"trained", "zero", "random"}  # the task has no baseline
    assert result.curve[0].score["success"] < 0.5
    assert all(np.isfinite(list(p.numbers.values())).all() for p in result.curve)
    assert result.curve[-1].numbers["value_error"] < result.curve[1].numbers["value_error"]
    assert result.curve[-1].numbers["skipped"] == 0


def test_files_say_what_was_learned(trained):
    result, folder = trained
    assert {p.name for p in result.files} == {"policy.npz", "training.json", "curve.csv", "curve.png"}
    assert all(p.stat().st_size > 0 for p in result.files)
    policy = load_policy(folder / "policy.npz")
    seen = np.array([0.1, -0.2, 0.3], np.float32)
    np.testing.assert_array_equal(policy.act(seen), result.policy.act(seen))
    assert policy.observation_names == Push.observation_names
    assert policy.action_units == "torque, N·m" == Push.action_units
    with open(folder / "curve.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["steps"]) for r in rows] == [p.steps for p in result.curve]
    assert float(rows[-1]["return"]) == pytest.approx(result.curve[-1].score["return"])
    record = json.loads((folder / "training.json").read_text())
    assert record["algorithm"] == "apg"
    assert len(record["curve"]) == len(rows) == 7


def test_the_best_of_the_curve_is_kept_and_scored_on_other_episodes(trained):
    result, _ = trained
    best = max(result.curve, key=lambda p: p.score["return"])
    assert result.policy.training["steps"] == best.steps
    again = Judge(Push(), 64, CHOICE_SEED).policy(result.policy).row()
    assert again["return"] == pytest.approx(best.score["return"], rel=1e-6)
    score = result.policy.scores["trained"]
    assert Judge(Push(), 64).policy(result.policy).row()["return"] == pytest.approx(score["return"], rel=1e-6)
    assert score["return"] != best.score["return"]


def test_a_killed_training_goes_on_as_if_nothing_had_happened(trained, tmp_path):
    whole, _ = trained

    def killed(point, total):
        if point.steps > STEPS // 2:
            raise KeyboardInterrupt

    given = {"settings": SETTINGS, "steps": STEPS, "points": 6, "seed": 1, "out": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        train(Push(), progress=killed, **given)
    again = train(Push(), resume=True, **given)
    assert [p.steps for p in again.curve] == [p.steps for p in whole.curve]
    for one, other in zip(jax.tree.leaves(again.policy.weights), jax.tree.leaves(whole.policy.weights), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(InputError, match="another training"):
        train(Push(), resume=True, **{**given, "seed": 2})
    with pytest.raises(InputError, match="out"):
        train(Push(), resume=True)


def test_it_ends_early_when_asked():
    result = train(Push(), settings=SETTINGS, steps=STEPS, points=6, seed=1, success=0.9)
    assert result.curve[-1].steps < STEPS
    assert result.curve[-1].score["success"] >= 0.9
    stuck = train(Push(), settings={**SETTINGS, "learning_rate": 0.0}, steps=STEPS, points=6, patience=2)
    assert len(stuck.curve) == 3


def test_a_window_as_long_as_the_episode_has_the_gradient_of_the_return():
    """Against the derivative of played episodes, and that against finite differences."""
    task = Push()
    settings = AnalyticSettings(episodes=8, window=40, hidden=(8,), noise=0.0, discount=0.9999, largest_gradient=1e6)
    with jax.enable_x64(False):
        trainer = Analytic(settings, 10, task.horizon, (-1.0,), (1.0,))
        assert (trainer.windows, trainer.steps) == (1, 40)
        # All episodes at their beginning: their first window is the whole of them.
        learning = trainer.begin(task, 0)
        keys = jax.random.split(jax.random.split(jax.random.key(0))[1], 9)[1:]
        after, numbers = trainer.improve(task, learning)
        weights = trainer.weights(after)
        low, high = jnp.full(1, -1.0), jnp.full(1, 1.0)

        def mean_return(layers):
            def act(o, key):
                return answer(weights._replace(layers=layers), SHAPE, o, low, high)

            return jnp.mean(jax.vmap(lambda k: play_score(task, act, k)[0])(keys)) / task.horizon

        gradient = jax.grad(mean_return)(learning.actor)
        norm = np.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(gradient)))
        assert norm > 1e-3
        np.testing.assert_allclose(numbers["gradient_norm"], norm, rtol=0.01)
        bias = learning.actor[-1][1]

        def moved(by):
            return float(mean_return((*learning.actor[:-1], (learning.actor[-1][0], bias + by))))

        np.testing.assert_allclose(gradient[-1][1][0], (moved(0.02) - moved(-0.02)) / 0.04, rtol=0.02)


def test_episodes_start_at_different_phases():
    trainer = Analytic(AnalyticSettings(episodes=6, window=15), 10, 40, (-1.0,), (1.0,))
    assert (trainer.windows, trainer.steps) == (3, 14)
    learning = trainer.begin(Push(), 0)
    assert learning.windows_left.tolist() == [3, 2, 1, 3, 2, 1]
    improve = jax.jit(trainer.improve)
    for left in ([2, 1, 0, 2, 1, 0], [1, 0, 2, 1, 0, 2]):
        learning, _ = improve(Push(), learning)
        assert learning.windows_left.tolist() == left


def test_wrong_requests_are_refused():
    for given, message in (
        ({"algorithm": "pop"}, "ppo"),
        ({"settings": {"windows": 3}}, "window"),
        ({"settings": {"discount": 1.0}}, "discount"),
        ({"settings": {"hidden": []}}, "hidden"),
        ({"settings": {"hidden": 5}}, "hidden"),
        ({"settings": {"episodes": 8.5}}, "whole number"),
        ({"episodes": 0}, "episodes"),
        ({"tendon": "rigid"}, "already built"),
    ):
        with pytest.raises(InputError, match=message):
            train(Push(), **{"steps": 1, **given})


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    tree = {"a": np.zeros(3, np.float32), "b": (np.int32(4),)}
    save_checkpoint(tmp_path / "c.npz", tree, {"n": 1})
    read, record = load_checkpoint(tmp_path / "c.npz", tree)
    assert record["n"] == 1
    np.testing.assert_array_equal(read["b"][0], 4)
    with pytest.raises(InputError, match="another training"):
        load_checkpoint(tmp_path / "c.npz", {**tree, "a": np.zeros(4, np.float32)})
    np.savez(tmp_path / "d.npz", x=np.zeros(2))
    with pytest.raises(InputError, match="no checkpoint"):
        load_checkpoint(tmp_path / "d.npz", tree)


def test_paired_differences_see_what_is_the_same_in_every_episode():
    rng = np.random.default_rng(0)
    base = 100 * rng.standard_normal(200)
    a, b = (Score(base + shift + 0.1 * rng.standard_normal(200), base > 0) for shift in (1.0, 0.0))
    mean, low, high = paired_difference(a, b)
    assert low < mean < high
    assert mean == pytest.approx(1.0, abs=0.05)
    assert low > 0.9
    assert a.row()["success"] == pytest.approx(0.5, abs=0.1)
