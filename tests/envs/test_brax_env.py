"""The brax adapter: the same episodes as the pure task and Gymnasium, new ones after the end, gradients, training."""

from __future__ import annotations

import subprocess
import sys
import warnings

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nms_gym  # noqa: F401  (registers the ids)
from nms_gym._pytree import pytree, replace, static
from nms_gym.envs.task import Step, episode_key, episode_seeds, play_actions
from nms_gym.errors import InputError

with warnings.catch_warnings():
    # brax imports the unmaintained jaxopt, and some of its dependencies warn as well.
    warnings.simplefilter("ignore", DeprecationWarning)
    from brax.training.agents.ppo import networks as ppo_networks
    from brax.training.agents.ppo import train as ppo

    from nms_gym.envs.brax_env import BraxEnv, ResampleWrapper, brax_trainers, train, typed_key, wrap_for_training

QUICK = {"xla_backend_optimization_level": 0}
SEED = 3


@pytree
class Count:
    """A tiny task: one counts up to a random limit. ``slope`` can be randomised and differentiated."""

    slope: jax.Array
    horizon: int = static()
    dt = 0.1
    action_names = ("a",)
    observation_names = ("count", "limit")
    action_bounds = (np.zeros(1, np.float32), np.full(1, 2.0, np.float32))
    observation_bounds = (np.zeros(2, np.float32), np.full(2, 99.0, np.float32))

    def reset(self, key):
        limit = jax.random.randint(key, (), 3, 12, jnp.int32)
        return (jnp.int32(0), limit), self.shown(jnp.int32(0), limit, jnp.zeros_like(self.slope))

    def step(self, state, action):
        count, limit = state[0] + 1, state[1]
        return (count, limit), self.shown(count, limit, self.slope * action[0])

    def shown(self, count, limit, reward):
        observation = jnp.stack([count, limit]).astype(self.slope.dtype)
        info = {"success": count > 2, "two": jnp.zeros(2)}
        return Step(observation, reward, count >= limit, count >= self.horizon, info)


def count(horizon=8):
    return Count(np.asarray(0.5), horizon)


def played_with(env, state, actions):
    """The states after each action."""

    def advance(state, action):
        state = env.step(state, action)
        return state, state

    return jax.lax.scan(advance, state, actions)[1]


def test_name_and_precision_are_checked():
    with pytest.raises(InputError, match="ElbowReach"):
        BraxEnv("ElbowReech-v0")
    with pytest.raises(InputError, match="float32"):
        BraxEnv(count(), precision="half")
    with pytest.raises(InputError, match="seconds"):
        BraxEnv(count(), seconds=1.0)


def test_without_brax_the_error_names_the_extra():
    code = """
import sys
sys.modules["brax"] = None
try:
    import nms_gym.envs.brax_env
except ValueError as error:
    print(type(error).__name__, error)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("InputError")
    assert "nms-gym[brax]" in shown


def test_importing_the_adapter_changes_nothing_in_jax():
    code = """
import warnings
warnings.simplefilter("ignore")
import types, jax, brax.envs, brax.training.agents.ppo.train, nms_gym.envs.adapter
before, options = dict(vars(jax)), dict(jax.config.values)
import nms_gym.envs.brax_env as adapter
def same():
    now = {k: v for k, v in vars(jax).items() if not isinstance(v, types.ModuleType)}
    return now == {k: v for k, v in before.items() if not isinstance(v, types.ModuleType)}
assert same() and dict(jax.config.values) == options
with adapter.brax_trainers():
    with adapter.brax_trainers():
        assert hasattr(jax, "device_put_replicated")
    assert hasattr(jax, "device_put_replicated")
assert same()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_trainer_gets_what_it_needs_and_jax_is_restored_after_an_error():
    seen = {}

    def trainer(environment, **options):
        seen.update(options, environment=environment)
        copies = jax.device_put_replicated({"a": np.arange(3.0)}, jax.local_devices()[:1])  # type: ignore[attr-defined]
        np.testing.assert_array_equal(copies["a"], [[0.0, 1.0, 2.0]])
        raise RuntimeError("interrupted")

    before = dict(vars(jax))
    env = BraxEnv(count())
    with pytest.raises(RuntimeError, match="interrupted"):
        train(trainer, env, episode_length=5, seed=1)
    assert seen == {"environment": env, "episode_length": 5, "wrap_env_fn": wrap_for_training, "seed": 1}
    with brax_trainers():
        pass
    assert dict(vars(jax)) == before


@pytest.mark.parametrize("seed", [0, 7, 2**31 + 5, 2**32 - 1])
def test_both_formats_of_keys_are_one_key(seed):
    key = jax.random.key_data(episode_key(np.uint32(seed)))
    np.testing.assert_array_equal(jax.random.key_data(typed_key(jax.random.PRNGKey(seed))), key)
    np.testing.assert_array_equal(jax.random.key_data(typed_key(jax.random.key(seed))), key)


# --- parity ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["ElbowReach-v0", "ElbowAssist-v0", "MomentTracking-v0"])
def test_episodes_are_those_of_the_pure_task_and_of_gymnasium(name):
    env = BraxEnv(name, precision="float64")
    task, steps = env.task, env.episode_length
    low, high = task.action_bounds
    own = np.random.default_rng(1).uniform(-1.0, 1.0, (steps, env.action_size))
    actions = low + 0.5 * (own + 1.0) * (high - low)
    seed = episode_seeds(SEED, 1)[0]

    @jax.jit
    def through_brax(key):
        first = env.reset(key)
        return first, played_with(env, first, own)

    @jax.jit
    def pure(key):
        state, first = task.reset(key)
        return first, jax.lax.scan(task.step, state, actions)[1]

    first, states = through_brax.lower(jax.random.PRNGKey(seed)).compile(QUICK)(jax.random.PRNGKey(seed))
    start, out = pure.lower(episode_key(seed)).compile(QUICK)(episode_key(seed))
    assert first.obs.dtype == np.float64
    np.testing.assert_allclose(first.obs, start.observation, rtol=0, atol=1e-9)
    np.testing.assert_allclose(states.obs, out.observation, rtol=0, atol=1e-9)
    np.testing.assert_allclose(states.reward, out.reward, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(states.done, (out.terminated | out.truncated).astype(float))
    np.testing.assert_array_equal(states.info["truncation"], out.truncated.astype(float))
    scalars = {key for key, value in out.info.items() if value.ndim == 1}
    assert set(states.metrics) == scalars >= {"success", "time"}
    for key in scalars:
        np.testing.assert_allclose(states.metrics[key], out.info[key], rtol=0, atol=1e-9, err_msg=key)

    single = gymnasium.make(f"nms_gym/{name}", precision="float64", disable_env_checker=True)
    observation, _ = single.reset(seed=SEED)
    np.testing.assert_allclose(observation, first.obs, rtol=0, atol=1e-6)
    ended = False
    for k in range(steps):
        assert not ended
        observation, reward, terminated, truncated, info = single.step(actions[k])
        ended = terminated or truncated
        # Gymnasium's observations are float32.
        np.testing.assert_allclose(observation, states.obs[k], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(reward, states.reward[k], rtol=0, atol=1e-9)
        assert ended == bool(states.done[k])
        assert info["success"] == bool(states.metrics["success"][k])
    assert ended


def test_precision_is_that_of_the_environment_not_of_the_program():
    env = BraxEnv(count())
    state = jax.jit(env.step)(jax.jit(env.reset)(jax.random.PRNGKey(0)), np.zeros(1))
    assert {state.obs.dtype, state.reward.dtype, state.done.dtype} == {np.dtype(np.float32)}
    assert {value.dtype for value in state.metrics.values()} == {np.dtype(np.float32)}
    assert jnp.zeros(1).dtype == np.float64


def test_actions_are_mapped_from_the_symmetric_box_and_clipped():
    env = BraxEnv(count(), precision="float64")
    state = env.reset(jax.random.PRNGKey(0))
    rewards = [float(env.step(state, jnp.array([a])).reward) for a in (-5.0, -1.0, 0.0, 0.5, 1.0, 9.0)]
    np.testing.assert_allclose(rewards, [0.0, 0.0, 0.5, 0.75, 1.0, 1.0], atol=1e-12)


def test_a_gradient_through_steps_is_that_of_the_task():
    env = BraxEnv("ElbowReach-v0", precision="float64", tendon="rigid", seconds=0.06)
    own = np.random.default_rng(2).uniform(-0.9, 0.9, (env.episode_length, env.action_size))
    key = jax.random.PRNGKey(5)

    def total(own):
        return jnp.sum(played_with(env, env.reset(key), own).reward)

    def pure(own):
        return jnp.sum(play_actions(env.task, 0.5 * (own + 1.0), episode_key(5))[0])

    value, slope = jax.jit(jax.value_and_grad(total)).lower(own).compile(QUICK)(own)
    expected, expected_slope = jax.jit(jax.value_and_grad(pure)).lower(own).compile(QUICK)(own)
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(slope, expected_slope, rtol=0, atol=1e-9)
    assert np.abs(slope).max() > 1e-5


# --- batches --------------------------------------------------------------


def played(wrapped, keys, steps):
    """States of all steps of a wrapped environment, the first one before."""
    first = jax.jit(wrapped.reset)(keys)
    actions = jnp.zeros((steps, len(keys), 1))
    return first, jax.jit(lambda first: played_with(wrapped, first, actions))(first)


def test_only_what_ends_starts_anew_with_another_draw():
    env = BraxEnv(count(horizon=8), precision="float64")
    keys = jax.random.split(jax.random.PRNGKey(4), 32)
    first, states = played(wrap_for_training(env, env.episode_length), keys, 40)
    done, obs = np.asarray(states.done) > 0, np.concatenate([first.obs[None], states.obs])
    limits = obs[:, :, 1]
    # The limit changes at an end only, and the count starts from 0 there; both goals and lengths vary.
    assert np.all((limits[1:] == limits[:-1]) | done)
    np.testing.assert_array_equal(obs[1:, :, 0], np.where(done, 0, obs[:-1, :, 0] + 1))
    changed = (limits[1:] != limits[:-1])[done]
    assert 0.7 < changed.mean() < 1.0
    assert {3, 11} <= set(np.unique(limits))
    assert len(np.unique(limits[-1])) > 4
    # What ends by running out of time is told apart from what ends by itself.
    time_is_up = done & (limits[:-1] > 8)
    np.testing.assert_array_equal(np.asarray(states.info["truncation"]) > 0, time_is_up)
    assert time_is_up.any()
    assert (done & ~time_is_up).any()
    lengths = np.asarray(states.info["episode_metrics"]["length"])[done]
    np.testing.assert_array_equal(lengths, np.minimum(limits[:-1], 8)[done])
    # Episodes that go on at the end of the program are not all at the same count.
    assert len(np.unique(obs[-1, :, 0])) > 3


def test_new_episodes_come_from_a_chain_of_keys():
    env = BraxEnv(count(), precision="float64")
    key = jax.random.PRNGKey(9)
    first, states = played(wrap_for_training(env, env.episode_length), key[None], 60)
    starts = np.concatenate([[first.obs[0, 1]], np.asarray(states.obs)[np.asarray(states.done) > 0][:, 1]])
    expected, chain = [], jax.random.wrap_key_data(key)
    for _ in starts:
        expected.append(int(env.task.reset(chain)[0][1]))
        chain = jax.random.split(chain)[1]
    np.testing.assert_array_equal(starts, expected)
    assert len(starts) > 6


def test_steps_without_an_end_do_not_reset():
    env = wrap_for_training(BraxEnv(count(), precision="float64"), 8)
    state = env.reset(jax.random.split(jax.random.PRNGKey(0), 3))

    def names(jaxpr):
        return [equation.primitive.name for equation in jaxpr.eqns]

    jaxpr = jax.make_jaxpr(env.step)(state, jnp.zeros((3, 1))).jaxpr
    assert "cond" in names(jaxpr)
    assert "random_split" not in names(jaxpr)


def test_unknown_info_and_metrics_are_kept_and_nothing_is_changed_in_place():
    env = BraxEnv(count(), precision="float64")
    first = env.reset(jax.random.PRNGKey(0))
    first = replace(first, info=first.info | {"mine": jnp.arange(2)}, metrics=first.metrics | {"yours": jnp.ones(())})
    state = env.step(first, jnp.zeros(1))
    np.testing.assert_array_equal(state.info["mine"], [0, 1])
    assert state.metrics["yours"] == 1.0
    assert state.info.keys() == first.info.keys()
    assert state.metrics.keys() == first.metrics.keys()
    assert (first.pipeline_state[0], state.pipeline_state[0]) == (0, 1)

    wrapped = wrap_for_training(env, 4)
    batch = wrapped.reset(jax.random.split(jax.random.PRNGKey(0), 3))
    batch = replace(batch, info=batch.info | {"mine": jnp.arange(3)})
    states = played_with(wrapped, batch, jnp.zeros((9, 3, 1)))
    np.testing.assert_array_equal(states.info["mine"], np.tile(np.arange(3), (9, 1)))


def test_keys_of_the_new_format_serve_batches_too():
    wrapped = wrap_for_training(BraxEnv(count()), 8)
    old = wrapped.reset(jax.random.split(jax.random.PRNGKey(0), 3))
    new = wrapped.reset(jax.random.split(jax.random.key(0), 3))
    jax.tree.map(np.testing.assert_array_equal, old, new)


def test_brax_may_randomise_the_task():
    env = BraxEnv(count(), precision="float64")
    slopes = jnp.arange(1.0, 5.0)

    def randomised(task):
        axes = replace(jax.tree.map(lambda _: None, task), slope=0)
        return replace(task, slope=slopes), axes

    wrapped = wrap_for_training(env, 8, randomization_fn=randomised)
    _, states = played(wrapped, jax.random.split(jax.random.PRNGKey(0), 4), 12)
    np.testing.assert_allclose(states.reward, np.tile(slopes, (12, 1)))


def test_a_batch_is_as_many_single_episodes():
    env = BraxEnv("ElbowReach-v0", precision="float64", tendon="rigid", seconds=0.05)
    keys = jax.random.split(jax.random.PRNGKey(1), 2)
    actions = np.random.default_rng(3).uniform(-1.0, 1.0, (8, 2, env.action_size))
    wrapped = wrap_for_training(env, env.episode_length)
    assert isinstance(wrapped, ResampleWrapper)

    @jax.jit
    def batch(keys):
        first = wrapped.reset(keys)
        return first.obs, played_with(wrapped, first, actions)

    reset, step = (jax.jit(f) for f in (env.task.reset, env.task.step))
    first, states = batch.lower(keys).compile(QUICK)(keys)
    for i, key in enumerate(jax.random.wrap_key_data(keys)):
        state, out = reset(key)
        np.testing.assert_allclose(first[i], out.observation, rtol=0, atol=1e-9)
        for k in range(8):
            state, out = step(state, 0.5 * (actions[k, i] + 1.0))
            np.testing.assert_allclose(states.reward[k, i], out.reward, rtol=0, atol=1e-9)
            assert bool(states.done[k, i]) == (k == 4)
            if k == 4:
                key = jax.random.split(key)[1]
                state, out = reset(key)
            np.testing.assert_allclose(states.obs[k, i], out.observation, rtol=0, atol=1e-9)


# --- training -------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ppo_trains():
    env = BraxEnv("ElbowReach-v0", tendon="rigid", seconds=0.1)
    networks = lambda *args, **kwargs: ppo_networks.make_ppo_networks(  # noqa: E731
        *args, policy_hidden_layer_sizes=(16,), value_hidden_layer_sizes=(16,), **kwargs
    )
    seen = []
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        _, params, metrics = train(
            ppo.train,
            env,
            num_timesteps=4000,
            num_envs=16,
            batch_size=16,
            num_minibatches=2,
            unroll_length=10,
            num_evals=2,
            num_eval_envs=4,
            normalize_observations=True,
            network_factory=networks,
            progress_fn=lambda steps, _: seen.append(steps),
        )
    assert seen[-1] >= 4000
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(params))
    assert np.isfinite(metrics["eval/episode_reward"])
    assert 0.0 <= metrics["eval/episode_success"] <= env.episode_length
