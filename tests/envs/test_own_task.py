"""Own tasks: the example's, and one with nothing but the essentials, run in every adapter with equal numbers."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from helpers import EXAMPLES, REPOSITORY, TESTS

from nms_gym.envs import make_task, register_task
from nms_gym.envs.gymnasium_env import NmsEnv
from nms_gym.envs.policies import policy, score
from nms_gym.envs.task import (
    Step,
    as_dtype,
    describe,
    episode_key,
    episode_seeds,
    play_actions,
    play_policy,
    play_score,
    pytree,
    replace,
    static,
)
from nms_gym.envs.vector_env import NmsVectorEnv
from nms_gym.errors import InputError

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from nms_gym.envs.brax_env import BraxEnv

FILE = EXAMPLES / "07_own_task.py"
SEED = 5
LARGE = 2**30 + 1
"""a number that float32 cannot hold"""


@pytest.fixture(scope="module")
def example():
    """The example file as a module; it has no importable name, and pickling looks for one."""
    spec = importlib.util.spec_from_file_location("own_task_example", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]
    gymnasium.registry.pop("own/Pull-v0")


@pytree
class Walk:
    """A noisy walk: nothing but what a task must have, a random key and a large integer in its state."""

    pull: float
    horizon: int = static(default=12)
    dt = 0.1
    action_bounds = (np.full(1, -1.0), np.ones(1))
    observation_bounds = (np.full(2, -50.0), np.full(2, 50.0))

    def reset(self, key):
        x = jnp.zeros_like(self.pull)
        state = (x, key, jnp.int32(LARGE))
        return state, Step(jnp.stack([x, x]), x, jnp.bool_(False), jnp.bool_(False))

    def step(self, state, action):
        x, key, count = state
        key, now = jax.random.split(key)
        noise = jax.random.uniform(now, (), jnp.float32, -1.0, 1.0).astype(x.dtype)
        x, count = x + self.pull * action[0] + noise, count + 1
        seen = jnp.stack([x, (count - LARGE).astype(x.dtype)])
        return (x, key, count), Step(seen, -(x**2), jnp.abs(x) > 40.0, count - LARGE >= self.horizon)


def make_walk(pull: float = 0.5, horizon: int = 12) -> Walk:
    return Walk(pull, horizon)


def played_everywhere(task, precision):
    """Rewards of one episode of random actions in every adapter."""
    low, high = task.action_bounds
    symmetric = np.random.default_rng(0).uniform(-1, 1, (task.horizon, len(low))).astype(np.float32)
    actions = low + 0.5 * (symmetric + 1.0) * (high - low)
    single = NmsEnv(task, precision)
    many = NmsVectorEnv(2, task, precision)
    single.reset(seed=SEED)
    many.reset(seed=SEED)
    rewards = {"single": [], "vector": [], "brax": []}
    for action in actions:
        rewards["single"].append(single.step(action)[1])
        rewards["vector"].append(many.step(np.stack([action, action]))[1][0])
    key = episode_key(episode_seeds(SEED, 1)[0])
    brax = BraxEnv(task, precision)
    with jax.enable_x64(precision == "float64"):
        rewards["pure"] = jax.jit(play_actions)(single.task, jnp.asarray(actions, single._dtype), key)[0]
        start = jax.jit(brax.reset)(key)
        run = jax.jit(lambda start, own: jax.lax.scan(lambda s, a: ((n := brax.step(s, a)), n.reward), start, own)[1])
        rewards["brax"] = run(start, jnp.asarray(symmetric, single._dtype))
    return {name: np.array(values, float) for name, values in rewards.items()}


# --- the example --------------------------------------------------------------


def test_the_example_is_short():
    assert len(FILE.read_text(encoding="utf-8").splitlines()) < 80


def test_the_example_keeps_gymnasiums_rules(example):
    check_env(NmsEnv(example.make_pull), skip_render_check=True)
    env = gymnasium.make("own/Pull-v0", strongest=20.0)
    assert env.get_wrapper_attr("task").strongest == 20.0
    many = gymnasium.make_vec("own/Pull-v0", 3, degrees=30.0)
    assert isinstance(many, NmsVectorEnv)
    assert many.reset(seed=0)[0].shape == (3, 8)


def test_the_examples_numbers_are_the_same_in_every_adapter(example):
    task = replace(example.make_pull(), horizon=15)
    rewards = played_everywhere(task, "float64")
    assert np.ptp(rewards["pure"]) > 0.01
    for name, values in rewards.items():
        np.testing.assert_allclose(values, rewards["pure"], rtol=0, atol=1e-6, err_msg=name)


def test_the_examples_gradients_are_those_of_finite_differences(example):
    """Of the return, by actions and by the muscles' strengths."""
    task = as_dtype(replace(example.make_pull(), horizon=15), jnp.float64)
    actions = jnp.asarray(np.random.default_rng(1).uniform(0.2, 0.8, (15, 6)))

    @jax.jit
    def total(force, actions):
        params = replace(task.params, max_isometric_force=force)
        return play_actions(replace(task, params=params), actions)[0].sum()

    force = task.params.max_isometric_force
    by_force, by_actions = jax.jit(jax.grad(total, argnums=(0, 1)))(force, actions)
    assert float(jnp.abs(by_force).min()) > 0.0
    for k, m in ((0, 0), (7, 3), (14, 5)):
        high, low = (actions.at[k, m].add(s) for s in (1e-5, -1e-5))
        difference = (total(force, high) - total(force, low)) / 2e-5
        assert abs(float(difference)) > 1e-7
        np.testing.assert_allclose(by_actions[k, m], difference, rtol=1e-4)
    high, low = (force.at[2].multiply(1 + s) for s in (1e-5, -1e-5))
    difference = (total(high, actions) - total(low, actions)) / (2e-5 * force[2])
    np.testing.assert_allclose(by_force[2], difference, rtol=1e-4)


def test_the_example_is_pickled_and_goes_on(example):
    env = NmsEnv(example.make_pull)
    env.reset(seed=1)
    copied = pickle.loads(pickle.dumps(env))
    action = np.full(6, 0.4, np.float32)
    assert env.step(action)[1] == copied.step(action)[1]


# --- nothing but the essentials -------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_essentials_suffice_in_every_adapter(precision):
    rewards = played_everywhere(make_walk(), precision)
    assert np.ptp(rewards["pure"]) > 0.1
    for name, values in rewards.items():
        np.testing.assert_allclose(values, rewards["pure"], rtol=1e-5, atol=1e-6, err_msg=name)


def test_what_a_task_does_not_say_is_filled_in():
    names = describe(make_walk())
    assert names.action_names == ("action_0",)
    assert names.observation_names == ("observation_0", "observation_1")
    assert (names.muscles, names.coordinates, names.drive) == ((), (), {})
    check_env(NmsEnv(make_walk), skip_render_check=True)


def test_policies_and_scores_of_the_essentials():
    task = as_dtype(make_walk(), jnp.float64)
    act = policy(task, "random")
    rewards, info = play_policy(task, act, episode_key(3))
    assert info == {}
    total, success = play_score(task, act, episode_key(3))
    assert not success
    np.testing.assert_allclose(total, rewards.sum(), rtol=1e-12)
    assert score(task, act, episodes=3).success == 0.0
    with pytest.raises(InputError, match="no baseline"):
        policy(task, "baseline")


def test_a_score_counts_to_the_end_of_the_episode():
    """An end of its own after 3 of 12 steps, where success is read too."""

    @pytree
    class Short(Walk):
        def step(self, state, action):
            after, out = super().step(state, action)
            count = after[2] - LARGE
            info = {"success": count == 3}
            return after, replace(out, reward=jnp.ones_like(out.reward), terminated=count == 3, info=info)

    total, success = play_score(as_dtype(Short(0.5), jnp.float64), lambda o, key: jnp.zeros(1), episode_key(0))
    assert (float(total), bool(success)) == (3.0, True)


@pytest.mark.parametrize("task", [make_walk, Walk, "test_own_task_module:make_walk"], ids=["function", "class", "text"])
def test_a_task_may_be_given_by_what_builds_it(task, monkeypatch):
    monkeypatch.setitem(sys.modules, "test_own_task_module", sys.modules[__name__])
    assert make_task(task, pull=2.0).pull == 2.0
    assert NmsEnv(task, pull=2.0).task.pull == 2.0


def test_an_id_of_an_own_task_by_text_survives_json(monkeypatch):
    monkeypatch.setitem(sys.modules, "test_own_task_module", sys.modules[__name__])
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    register_task("own/Walk-v0", "test_own_task_module:make_walk")
    env = gymnasium.make("own/Walk-v0", pull=0.25)
    assert env.spec is not None
    text = env.spec.to_json()
    assert json.loads(text)["kwargs"] == {"task": "test_own_task_module:make_walk", "pull": 0.25}
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(text))
    for e in (env, again):
        e.reset(seed=2)
    assert env.step(np.ones(1))[1] == again.step(np.ones(1))[1]


# --- copies ---------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["deep", "pickle"])
def test_copies_go_on_bit_for_bit(copied, precision):
    """Before a reset, within an episode, and into the next one."""
    single, many = NmsEnv(make_walk(), precision), NmsVectorEnv(3, make_walk(), precision)
    twins = copied(single), copied(many)
    for env, twin, actions in ((single, twins[0], np.full(1, 0.5)), (many, twins[1], np.full((3, 1), 0.5))):
        for a, b in zip(env.reset(seed=1), twin.reset(seed=1), strict=True):
            np.testing.assert_equal(a, b)
        env.step(actions)
        twin = copied(env)
        for _ in range(11):
            for a, b in zip(env.step(actions), twin.step(actions), strict=True):
                np.testing.assert_equal(a, b)
        for a, b in zip(env.reset(), twin.reset(), strict=True):
            np.testing.assert_equal(a, b)


# --- the length of episodes -------------------------------------------------------


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP], ids=lambda mode: mode.value)
def test_max_episode_steps_is_that_of_single_environments(mode, monkeypatch):
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    register_task("own/Walk-v0", make_walk)
    many = gymnasium.make_vec("own/Walk-v0", 2, autoreset_mode=mode, max_episode_steps=5)
    assert isinstance(many, NmsVectorEnv)
    singles = gymnasium.make_vec(
        "own/Walk-v0", 2, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, max_episode_steps=5
    )
    many.reset(seed=4)
    singles.reset(seed=4)
    ends = 0
    for k in range(16):
        a, b = (env.step(np.full((2, 1), 0.1 * (k % 7), np.float32)) for env in (many, singles))
        for x, y in zip(a[:4], b[:4], strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6)
        ends += int(a[3].all())
    assert ends == (3 if mode is AutoresetMode.SAME_STEP else 2)
    assert [bool(NmsVectorEnv(1, make_walk, max_episode_steps=n)._limit) for n in (None, -1, 3)] == [False, False, True]
    with pytest.raises(InputError, match="max_episode_steps is 0"):
        NmsVectorEnv(2, make_walk, max_episode_steps=0)


# --- what is refused ---------------------------------------------------------------


class NoTask:
    horizon = 3


class NoPytree:
    pull, horizon, dt = 0.5, 12, 0.1
    action_bounds, observation_bounds = Walk.action_bounds, Walk.observation_bounds
    reset, step = Walk.reset, Walk.step


@pytree
class Tabled(Walk):
    table: np.ndarray = static(default_factory=lambda: np.zeros(3))


@pytree
class Wide(Walk):
    observation_bounds = (np.zeros(3), np.ones(3))


@pytree
class Named(Walk):
    action_names = ("a", "b")


@pytree
class Unlike(Walk):
    def step(self, state, action):
        after, out = super().step(state, action)
        return after, replace(out, info={"more": out.reward})


REFUSED = {
    "members": (NoTask(), "NoTask has no 'dt', 'action_bounds'"),
    "pytree": (NoPytree(), "NoPytree is no pytree; .*nms_gym.envs.task.pytree"),
    "text": (Walk("strong"), r"Walk: \.pull is 'strong'.*static"),
    "static": (Tabled(0.5), "Tabled: table is an array and static"),
    "names": (Named(0.5), "2 action_names for 1"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("kind", [NmsEnv, NmsVectorEnv, BraxEnv])
def test_an_unfit_task_is_refused_with_its_fault(name, kind):
    task, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        kind(task=task)


def test_what_cannot_be_done_with_a_task_is_said():
    with pytest.raises(InputError, match=r"Walk has no scene.*render_mode=None"):
        NmsEnv(make_walk, render_mode="rgb_array")
    with pytest.raises(InputError, match="already built"):
        NmsEnv(make_walk(), pull=1.0)
    with pytest.raises(InputError, match=r"make_walk has no option 'pul'; did you mean 'pull'"):
        NmsEnv(make_walk, pul=1.0)
    with pytest.raises(InputError, match="nowhere"):
        NmsEnv("nowhere:make")
    with pytest.raises(InputError, match=r"'module:function'"):
        NmsEnv("numpy:make_walk")
    with pytest.raises(InputError, match="2 observations for 3"):
        NmsEnv(Wide(0.5))
    with pytest.raises(InputError, match="2 observations for 3"):
        NmsVectorEnv(2, Wide(0.5)).reset(seed=0)


def test_a_step_unlike_the_reset_is_refused():
    for env, action in ((NmsEnv(Unlike(0.5)), np.zeros(1)), (NmsVectorEnv(2, Unlike(0.5)), np.zeros((2, 1)))):
        env.reset(seed=0)
        with pytest.raises(InputError, match=r"info\['more'\]: nothing, then"):
            env.step(action)


# --- some environments start anew ----------------------------------------------------


def test_a_reset_mask_starts_some_and_leaves_the_others(monkeypatch):
    """The same numbers as Gymnasium's own vector environment, which resets the single ones."""
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    register_task("own/Walk-v0", make_walk)
    mode = AutoresetMode.DISABLED
    many = gymnasium.make_vec("own/Walk-v0", 3, autoreset_mode=mode, max_episode_steps=4)
    singles = gymnasium.make_vec(
        "own/Walk-v0", 3, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, max_episode_steps=4
    )
    mask = np.array([True, False, True])
    actions = np.full((3, 1), 0.3, np.float32)
    with pytest.raises(gymnasium.error.ResetNeeded, match="for all environments"):
        many.reset(options={"reset_mask": mask})
    for env in (many, singles):
        env.reset(seed=4)
        env.step(actions)
        env.step(actions)
    resets = [env.reset(seed=9, options={"reset_mask": mask.copy()}) for env in (many, singles)]
    np.testing.assert_allclose(resets[0][0], resets[1][0], rtol=1e-6)
    for key, valid in resets[0][1].items():
        if key.startswith("_"):
            np.testing.assert_array_equal(valid, mask)
    for _ in range(2):
        a, b = (env.step(actions) for env in (many, singles))
        for x, y in zip(a[:4], b[:4], strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(a[3], ~mask)
    with pytest.raises(gymnasium.error.ResetNeeded, match="environments '1' are over"):
        many.step(actions)
    many.reset(options={"reset_mask": a[3]})
    assert not many.step(actions)[3][1]


@pytest.mark.parametrize(
    "mask", [[True, False], np.array([1, 0]), np.array([True]), np.array([False, False]), "all"], ids=str
)
def test_what_is_no_reset_mask(mask):
    env = NmsVectorEnv(2, make_walk)
    env.reset(seed=0)
    with pytest.raises(InputError, match="expected a NumPy array of 2 bools"):
        env.reset(options={"reset_mask": mask})


@pytest.mark.parametrize(
    "action",
    [
        None,
        "0.5",
        ["0.5"],
        {"a": 1},
        [[1], [1, 2]],
        1j,
        object(),
        np.zeros((2, 2, 2)),
        [np.nan],
        [1e300],
        [],
        "x" * 10**6,
    ],
    ids=lambda action: repr(action)[:20],
)
def test_every_unusable_action_gets_one_short_error(action):
    many, single = NmsVectorEnv(2, make_walk), NmsEnv(make_walk)
    for env in (many, single):
        env.reset(seed=0)
        with pytest.raises(InputError, match="action") as error:
            env.step(action)
        assert len(str(error.value)) < 300


FORK = """
import multiprocessing, os, sys, warnings
warnings.simplefilter("ignore")
from nms_gym.envs.gymnasium_env import NmsEnv
sys.path.insert(0, sys.argv[1])
from test_own_task import make_walk
env = NmsEnv(make_walk())
if sys.argv[2] == "copy":
    env.reset(seed=0)
def child():
    try:
        (env if sys.argv[2] == "copy" else NmsEnv(make_walk())).reset(seed=0)
    except ValueError as error:
        print(type(error).__name__, error, flush=True)
worker = multiprocessing.get_context("fork").Process(target=child)
worker.start()
worker.join(30)
print(worker.exitcode)
worker.kill()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no forks")
@pytest.mark.parametrize("which", ["new", "copy"])
def test_a_fork_says_what_to_do_instead_of_waiting_for_ever(which):
    command = [sys.executable, "-c", FORK, str(Path(__file__).parent), which]
    path = {"PYTHONPATH": f"{REPOSITORY}:{TESTS}"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=REPOSITORY, check=False, env={**os.environ, **path}
    )
    assert "InputError this process is a fork" in done.stdout, done.stderr
    assert "context='spawn'" in done.stdout
    assert done.stdout.splitlines()[-1] == "0"
