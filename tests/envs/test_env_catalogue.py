"""Every id: Gymnasium's rules, documented spaces, no NaN whatever the policy, the same numbers in every adapter."""

from __future__ import annotations

import json
import pickle
from types import SimpleNamespace

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

import nms_gym  # noqa: F401 (registers the environments)
from nms_gym.envs import TASKS, make_task
from nms_gym.envs.gymnasium_env import NmsEnv
from nms_gym.envs.task import as_dtype, episode_key, episode_seeds
from nms_gym.envs.vector_env import NmsVectorEnv

SEED = 11
STEPS = 100_000
# Numbers only, so that what is compiled for the defaults serves here too.
OPTIONS = {
    "MomentTracking-v0": {"effort_weight": 0.5},
    "ElbowReach-v0": {"effort_weight": 0.5, "shoulder": 0.3},
    "ArmReach-v0": {"effort_weight": 0.5},
    "KneeExtension-v0": {"effort_weight": 0.5, "hip": 1.0},
    "AnkleTracking-v0": {"effort_weight": 0.5, "knee": 0.8},
    "LegSwing-v0": {"effort_weight": 0.5, "trial": ["swing_fast", "swing_slow", "swing_normal"]},
    "ElbowAssist-v0": {"help_weight": 0.1, "max_torque": 5.0, "shoulder": 0.2},
    "AnkleExo-v0": {"help_weight": 0.1, "max_power": 30.0, "trial": ["foot_3", "foot_2", "foot_1"]},
    "FesElbow-v0": {"charge_weight": 0.1, "current": 0.05, "pulse_rate": 40.0},
}
# What float32 may differ from float64 over an episode of the baseline's actions, replayed: largest joint angle (rad;
# moments over their scale for MomentTracking) and return. The dynamics are damped, so rounding does not grow.
DIVERGENCE = {"angle": 1e-3, "return": 0.02}
# rad beyond the joint's limits that all muscles and the fastest swing can push a joint, against 600 N·m/rad.
BEYOND = 0.5


# Tens of seconds to compile.
HEAVY = ("ArmReach-v0", "KneeExtension-v0", "AnkleTracking-v0", "LegSwing-v0", "AnkleExo-v0")


@pytest.fixture(scope="module", params=[pytest.param(n, marks=pytest.mark.slow if n in HEAVY else ()) for n in TASKS])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def made(name):
    return make_task(name)


@pytest.fixture(scope="module")
def single(name):
    """The default: float32."""
    return NmsEnv(task=name)


@pytest.fixture(scope="module")
def double(name):
    return NmsEnv(task=name, precision="float64")


@pytest.fixture(scope="module")
def many(name):
    return {
        mode: NmsVectorEnv(2, task=name, precision="float64", autoreset_mode=mode, info="all")
        for mode in ("NextStep", "SameStep")
    }


@pytest.fixture(scope="module")
def pure(made):
    """First steps of three episodes, and the first of them played by the scripted policy: actions and steps."""

    @jax.jit
    def played(task, key, others):
        state, first = task.reset(key)

        def advance(carry, _):
            action = task.baseline(carry[1])
            state, out = task.step(carry[0], action)
            return (state, out.observation), (action, out)

        actions, steps = jax.lax.scan(advance, (state, first.observation), length=task.horizon)[1]
        return first, actions, steps, jax.vmap(lambda key: task.reset(key)[1])(others)

    seeds = np.array([episode_seeds(SEED + i, 3) for i in range(2)], np.uint32)
    keys = jax.vmap(episode_key)(seeds.ravel())
    first, actions, steps, starts = jax.tree.map(np.asarray, played(as_dtype(made, jnp.float64), keys[0], keys))
    length = int(np.argmax(steps.truncated)) + 1
    assert steps.truncated[length - 1]
    steps = jax.tree.map(lambda leaf: leaf[:length], steps)
    return SimpleNamespace(first=first, actions=actions[:length], steps=steps, starts=starts.info, length=length)


def episode(env, actions, seed=SEED):
    results = [env.reset(seed=seed)]
    results += [env.step(action) for action in actions]
    assert results[-1][3]
    return results


def same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, (tuple, list)):
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        np.testing.assert_array_equal(a, b)


# --- Gymnasium's rules and what is documented --------------------------------


def test_gymnasium_has_nothing_to_complain_about(single):
    check_env(single, skip_render_check=True)  # warnings are errors here


def test_names_bounds_and_drive(made, single):
    names, (low, high) = made.observation_names, made.observation_bounds
    assert len(set(names)) == len(names) == len(low) == len(high) == single.observation_space.shape[0]
    assert np.isfinite(low).all()
    assert np.isfinite(high).all()
    assert (low < high).all()
    actions = made.action_names
    assert len(set(actions)) == len(actions) == single.action_space.shape[0] > 0
    assert set(made.drive) == set(made.muscles)
    assert all(made.drive.values())
    driven = [m for m, source in made.drive.items() if source == "action"]
    assert set(driven) <= set(actions)
    assert made.horizon * made.dt <= 10
    assert single.dt == made.dt


def test_info_is_what_is_documented(single):
    _, first = single.reset(seed=1)
    _, reward, _, _, info = single.step(single.action_space.sample())
    assert first.pop("drive") == single.drive
    assert first.keys() == info.keys() >= {"time", "success", "person", "moments", "excitation", "activation"}
    assert any(key.startswith("reward_") for key in info)
    for shown in (first, info):
        for key, value in shown.items():
            if isinstance(value, np.ndarray):
                assert value.dtype == np.float32, key
                assert value.flags.owndata, key
                assert not np.shares_memory(value, single._state), key
            else:
                kinds = {"success": bool, "person": int, "trial": int, "sample": int}
                assert type(value) is kinds.get(key, float), key
    assert first["time"] == 0.0 or "measured" in first  # MomentTracking's time is that of the sample shown
    parts = sum(value for key, value in info.items() if key.startswith("reward_"))
    assert reward == pytest.approx(parts, abs=1e-6)
    for key, size in (("q", len(single.coordinates)), ("excitation", len(single.muscles))):
        assert key not in info or info[key].shape == (size,)


def test_spec_survives_json(name):
    env = gymnasium.make(f"nms_gym/{name}", **OPTIONS[name])
    assert env.spec is not None
    text = env.spec.to_json()
    for key, value in OPTIONS[name].items():
        assert json.loads(text)["kwargs"][key] == value
    again = gymnasium.make(EnvSpec.from_json(text))
    actions = np.random.default_rng(0).uniform(0, 1, (20, env.action_space.shape[0])).astype(np.float32)  # type: ignore[index]
    results = [[e.reset(seed=3), *(e.step(a) for a in actions)] for e in (env, again)]
    same(*results)
    plain = gymnasium.make(f"nms_gym/{name}")
    assert [plain.reset(seed=3), *(plain.step(a) for a in actions)][-1][1] != results[0][-1][1]


def test_a_pickled_copy_goes_on_bit_for_bit(single, many):
    """What RL libraries do to send environments to other processes."""
    rng = np.random.default_rng(0)
    for env, shape in ((single, single.action_space.shape), (many["SameStep"], many["SameStep"].action_space.shape)):
        env.reset(seed=4)
        actions = rng.uniform(0, 1, (4, *shape)).astype(np.float32)
        env.step(actions[0])
        copied = pickle.loads(pickle.dumps(env))
        same([env.step(a) for a in actions], [copied.step(a) for a in actions])


# --- whatever the policy ------------------------------------------------------


def test_no_policy_leaves_the_space(name, made):
    """Random, lowest, highest, zero and bang-bang actions, 10^5 steps in float32."""
    low, high = made.action_bounds
    count, horizon = len(low), made.horizon
    each = -(-STEPS // (5 * horizon))
    rng = np.random.default_rng(0)
    shape = (each, horizon, count)
    bang = rng.integers(0, 2, (each, -(-horizon // 7), count)).repeat(7, axis=1)[:, :horizon]
    policies = [
        rng.uniform(low, high, shape),
        np.broadcast_to(low, shape),
        np.broadcast_to(high, shape),
        np.zeros(shape),
        np.where(bang, high, low),
    ]
    actions = np.concatenate(policies).astype(np.float32)
    assert actions.shape[0] * horizon >= STEPS

    @jax.jit
    def played(task, seeds, actions):
        def one(seed, actions):
            state, first = task.reset(episode_key(seed))

            def advance(state, action):
                state, out = task.step(state, action)
                whole = sum(jnp.sum(jnp.abs(x)) for x in out.info.values()) + out.reward
                shown = {k: out.info[k] for k in ("q", "fiber_length") if k in out.info}
                return state, (out.observation, whole, shown)

            steps = jax.lax.scan(advance, state, actions)[1]
            return first.observation, steps

        return jax.vmap(one)(seeds, actions)

    with jax.enable_x64(False):
        seeds = np.arange(len(actions), dtype=np.uint32)
        first, (seen, whole, shown) = jax.tree.map(np.asarray, played(as_dtype(made, jnp.float32), seeds, actions))
    assert seen.dtype == np.float32
    assert np.isfinite(first).all()
    assert np.isfinite(seen).all()
    assert np.isfinite(whole).all()
    low, high = made.observation_bounds
    assert ((seen >= low) & (seen <= high)).all()
    assert ((first >= low) & (first <= high)).all()
    names = made.observation_names
    clipped = np.mean((seen == low) | (seen == high), axis=(0, 1))
    assert not [n for n, share in zip(names, clipped, strict=True) if share == 1.0]
    # These bounds are far beyond what a body does: to meet them is to have left it.
    strange = {
        n: float(share)
        for n, share in zip(names, clipped, strict=True)
        if share > 0
        and n.split(":")[0] in ("angle", "speed", "error", "position", "fiber_length", "moment", "emg")
        and not (n.startswith("emg") and share < 1)
    }
    assert not strange
    report = {"steps": actions.shape[0] * horizon}
    if "q" in shown:
        lower, upper = made.limb.limits()
        beyond = np.maximum(lower - shown["q"], shown["q"] - upper).max(axis=(0, 1))
        longest, shortest = shown["fiber_length"].max(axis=(0, 1)), shown["fiber_length"].min(axis=(0, 1))
        report |= {
            "beyond limits (rad)": np.round(beyond, 3).tolist(),
            "longest fiber": (made.muscles[int(longest.argmax())], round(float(longest.max()), 3)),
            "shortest fiber": (made.muscles[int(shortest.argmin())], round(float(shortest.min()), 3)),
            "fastest (10 rad/s)": round(float(np.abs(seen[..., [n.startswith("speed") for n in names]]).max()), 2),
        }
    print(name, report)
    if "q" in shown:
        assert beyond.max() < BEYOND
        assert longest.max() < 2.0
        assert shortest.min() > 0.0


# --- chance -------------------------------------------------------------------

DRAWN = ("person", "trial", "sample", "target", "goal", "q", "qd")


def test_single_environments_draw_the_same(single, double, pure):
    """Of every precision, and as the pure task does with the documented seeds."""
    found = {}
    for env in (single, double):
        first = [env.reset(seed=SEED), env.reset(), env.reset()]
        found[env] = first
        same(first, [env.reset(seed=SEED), env.reset(), env.reset()])
    for k in range(3):
        a, b = found[single][k][1], found[double][k][1]
        for key in DRAWN:
            if key in a:
                np.testing.assert_allclose(a[key], b[key], rtol=1e-5, atol=1e-5, err_msg=key)
                np.testing.assert_allclose(b[key], pure.starts[key][k], rtol=1e-12, atol=1e-12, err_msg=key)
    random = [key for key in ("trial", "target", "goal", "q") if key in a]
    differs = [np.ptp(pure.starts[key], axis=0).any() for key in random]
    assert any(differs) or not random  # MomentTracking starts at its first sample


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_vector_environments_draw_the_same(many, pure, mode):
    """The first three episodes of two environments, played to their ends."""
    env = many[mode]
    _, info = env.reset(seed=SEED)
    starts = [[{key: info[key][i] for key in DRAWN if key in info}] for i in range(2)]
    ended, k = np.zeros(2, bool), 0
    while min(map(len, starts)) < 3:
        action = pure.actions[k % pure.length].astype(np.float32)
        _, _, terminated, truncated, info = env.step(np.stack([action, action]))
        over = terminated | truncated
        for i in np.flatnonzero(ended if mode == "NextStep" else over):
            starts[i].append({key: info[key][i] for key in DRAWN if key in info})
        ended, k = over, k + 1
        assert k < 4 * env.task.horizon
    for i in range(2):
        for j in range(3):
            for key, value in starts[i][j].items():
                expected = pure.starts[key][3 * i + j]
                np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12, err_msg=f"{key} {i} {j}")


def test_seeds_reproduce_bitwise(single, many, pure):
    actions = pure.actions.astype(np.float32)
    same(episode(single, actions), episode(single, actions))
    pairs = np.stack([actions[:30], actions[:30]], axis=1)
    runs = [[env.reset(seed=SEED), *map(env.step, pairs)] for env in (many["NextStep"],) * 2]
    same(*runs)


# --- parity -------------------------------------------------------------------


def test_adapters_return_what_the_task_computes(double, many, pure):
    """A whole episode of the scripted policy, in float64."""
    vector = many["SameStep"]
    observation, info = double.reset(seed=SEED)
    np.testing.assert_allclose(observation, pure.first.observation, rtol=1e-6, atol=1e-6)
    observations, infos = vector.reset(seed=SEED)
    shown = [(observation, 0.0, info, observations[0], 0.0, infos)]
    for action in pure.actions:
        observation, reward, _, truncated, info = double.step(action)
        observations, rewards, _, ends, infos = vector.step(np.stack([action, action]))
        if ends[0]:
            assert truncated
            observations, infos = [infos["final_obs"][0]], infos["final_info"]
        shown.append((observation, reward, info, observations[0], rewards[0], infos))
    assert truncated
    assert ends[0]
    for k, (observation, reward, info, other, other_reward, infos) in enumerate(shown):
        step = pure.first if k == 0 else jax.tree.map(lambda leaf, k=k: leaf[k - 1], pure.steps)
        for found in (reward, other_reward):
            np.testing.assert_allclose(found, step.reward, rtol=1e-9, atol=1e-9)
        for found in (observation, other):
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, step.observation, rtol=1e-6, atol=1e-6)
        for key, expected in step.info.items():
            np.testing.assert_allclose(info[key], expected, rtol=1e-9, atol=1e-9, err_msg=f"{key} {k}")
            np.testing.assert_allclose(infos[key][0], expected, rtol=1e-9, atol=1e-9, err_msg=f"{key} {k}")


def test_float32_stays_near_float64(name, made, single, pure):
    """The scripted policy's actions of float64, replayed in float32."""
    results = episode(single, pure.actions)[1:]
    key = "q" if "q" in pure.steps.info else "moments"
    scale = 1.0 if key == "q" else made.scale
    found = np.array([result[4][key] for result in results])
    angle = float(np.abs((found - pure.steps.info[key]) / scale).max())
    returned = abs(sum(result[1] for result in results) - float(pure.steps.reward.sum()))
    print(f"{name:18s} {key:8s} {angle:.1e}  return {returned:.1e} of {float(pure.steps.reward.sum()):.2f}")
    assert 0 < angle < DIVERGENCE["angle"]
    assert returned < DIVERGENCE["return"]
