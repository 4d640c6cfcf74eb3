"""Train a policy on an id and show its learning curve beside simple policies:

    python examples/train.py ElbowReach-v0 --algorithm apg --out build/reach
    python examples/train.py ElbowAssist-v0 --algorithm ppo --steps 500000
    python examples/train.py KneeExtension-v0 --algorithm sb3-ppo

``apg`` is the analytic policy gradient: the return is differentiated through muscles and skeleton, and Adam follows it.
``ppo`` is brax's (``pip install "nms-gym[brax]"``), ``sb3-ppo`` that of Stable-Baselines3
(``pip install stable-baselines3``) on ``NmsVectorEnv``.

All policies are judged on the same held-out episodes, without noise in their actions. Returns are sums of rewards over
an episode; success is the task's own, at the end of the episode.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nms_gym.envs import TASKS, make_task
from nms_gym.envs.task import as_dtype, episode_key, episode_seeds, play_score
from nms_gym.recording.storage import atomic_path

HELD_OUT = 1_000_000
"""seeds from here on are for judging; training uses others"""
STEPS = {"apg": 1_000_000, "ppo": 800_000, "sb3-ppo": 500_000}
POINTS = 12
"""of the learning curve"""
HIDDEN = 64


# --- judging ----------------------------------------------------------------


def episodes(task, act, keys):
    """Return and success ``(N,)`` of one episode per key; ``act(observation, key) -> action``. Differentiable."""
    return jax.vmap(lambda key: play_score(task, act, key))(keys)


def held_out_keys(count):
    """Keys of the episodes that ``NmsEnv.reset(seed=HELD_OUT + i)`` starts."""
    seeds = [episode_seeds(HELD_OUT + i, 1)[0] for i in range(count)]
    return jax.vmap(episode_key)(jnp.array(seeds, jnp.uint32))


def summary(returns, successes):
    returns, successes = np.asarray(returns, float), np.asarray(successes, float)
    return {"return": returns.mean(), "sd": returns.std(), "success": successes.mean()}


class Judge:
    """Judges policies while they learn, and keeps the curve; its own time does not count."""

    def __init__(self, task, count):
        self.task, self.keys, self.count = task, held_out_keys(count), count
        self.curve, self._programs, self._paused, self._start = [], {}, 0.0, time.process_time()

    def cpu_seconds(self):
        return time.process_time() - self._start - self._paused

    def of(self, act, params=()):
        """``act(params, observation, key) -> action``; the same ``act`` is compiled once."""
        if act not in self._programs:
            run = lambda params, keys: episodes(self.task, functools.partial(act, params), keys)  # noqa: E731
            self._programs[act] = jax.jit(run)
        return summary(*self._programs[act](params, self.keys))

    def note(self, steps, judged):
        """Add a point to the curve; ``judged()`` gives the summary."""
        seconds, begun = self.cpu_seconds(), time.process_time()
        point = {"steps": int(steps), "cpu_seconds": seconds, **judged()}
        self.curve.append(point)
        print(
            f"{point['steps']:>9,} steps {seconds:6.1f} CPU s   return {point['return']:8.2f}"
            f"   success {point['success']:4.0%}",
            flush=True,
        )
        self._paused += time.process_time() - begun


def in_box(task, symmetric):
    """An action of the task from one in [-1, 1]."""
    low, high = task.action_bounds
    return low + 0.5 * (symmetric + 1.0) * (high - low)


def simple_policies(task, judge):
    low, high = (jnp.asarray(bound) for bound in task.action_bounds)
    return {
        "random": judge.of(lambda _, o, key: jax.random.uniform(key, low.shape, minval=low, maxval=high)),
        # No excitation, no torque, no current.
        "nothing": judge.of(lambda _, o, key: jnp.zeros_like(low)),
        "scripted": judge.of(lambda _, o, key: jnp.clip(task.baseline(o), low, high)),
    }


# --- analytic policy gradient -------------------------------------------------


def train_apg(task, steps, seed, judge, batch=64, learning_rate=3e-3):
    """Adam on the return's own gradient, through whole episodes."""
    key, init = jax.random.split(jax.random.key(seed))
    sizes = [len(task.observation_names), HIDDEN, HIDDEN, len(task.action_names)]
    keys = jax.random.split(init, len(sizes) - 1)
    layers = [
        (jax.random.normal(k, (n, m)) / math.sqrt(n), jnp.zeros(m))
        for k, n, m in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]
    # Little at first, so that the first gradients are those of quiet motion: no torque, or low excitation.
    quiet = jnp.where(task.action_bounds[0] < 0, 0.0, -1.0)
    layers[-1] = (0.1 * layers[-1][0], layers[-1][1] + quiet)

    def act(layers, observation, _):
        for weights, bias in layers[:-1]:
            observation = jnp.tanh(observation @ weights + bias)
        return in_box(task, jnp.tanh(observation @ layers[-1][0] + layers[-1][1]))

    iterations = max(steps // (batch * task.horizon), POINTS)
    schedule = optax.cosine_decay_schedule(learning_rate, iterations)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    def loss(layers, key):
        returns, _ = episodes(task, functools.partial(act, layers), jax.random.split(key, batch))
        return -jnp.mean(returns) / task.horizon

    @jax.jit
    def improve(layers, memory, key):
        updates, memory = optimizer.update(jax.grad(loss)(layers, key), memory)
        return optax.apply_updates(layers, updates), memory

    memory = optimizer.init(layers)
    marks = set(np.linspace(0, iterations, POINTS).astype(int).tolist())
    for i in range(iterations + 1):
        if i in marks:
            jax.block_until_ready(layers)
            judge.note(i * batch * task.horizon, lambda layers=layers: judge.of(act, layers))
        if i < iterations:
            layers, memory = improve(layers, memory, jax.random.fold_in(key, i))


# --- brax's PPO ---------------------------------------------------------------


def train_ppo(task, steps, seed, judge):
    from brax.training.agents.ppo import networks
    from brax.training.agents.ppo import train as ppo

    from nms_gym.envs.brax_env import BraxEnv, train

    policies = []

    def note(step, make_policy, params):
        if not policies:
            policies.append(lambda params, o, key: in_box(task, make_policy(params, deterministic=True)(o, key)[0]))
        judge.note(step, lambda: judge.of(policies[0], params))

    train(
        ppo.train,
        BraxEnv(task),
        num_timesteps=steps,
        num_envs=256,
        unroll_length=10,
        batch_size=64,
        num_minibatches=16,
        num_updates_per_batch=8,
        learning_rate=1e-3,
        entropy_cost=1e-3,
        discounting=0.97,
        normalize_observations=True,
        network_factory=functools.partial(
            networks.make_ppo_networks,
            policy_hidden_layer_sizes=(HIDDEN, HIDDEN),
            value_hidden_layer_sizes=(HIDDEN, HIDDEN),
        ),
        num_evals=POINTS,
        run_evals=False,
        policy_params_fn=note,
        seed=seed,
    )


# --- Stable-Baselines3's PPO ----------------------------------------------------


def sb3_vec_env(name, count, seed):
    """``NmsVectorEnv`` as Stable-Baselines3 wants it: actions in [-1, 1], and a ``terminal_observation``."""
    from gymnasium import spaces
    from stable_baselines3.common.vec_env import VecEnv

    from nms_gym.envs.vector_env import NmsVectorEnv

    class Adapter(VecEnv):
        def __init__(self):
            self.inner = NmsVectorEnv(count, name, autoreset_mode="SameStep")
            box = self.inner.single_action_space
            super().__init__(count, self.inner.single_observation_space, spaces.Box(-1.0, 1.0, box.shape, np.float32))
            self.first_seed: Any = seed

        def reset(self):
            observations, _ = self.inner.reset(seed=self.first_seed)
            self.first_seed = None
            return observations

        def step_async(self, actions):
            self.actions = in_box(self.inner.task, actions)

        def step_wait(self):
            observations, rewards, terminated, truncated, infos = self.inner.step(self.actions)
            done = terminated | truncated
            each: list[dict] = [{} for _ in range(self.num_envs)]
            for i in np.flatnonzero(done):
                each[i]["terminal_observation"] = infos["final_obs"][i]
                each[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
                each[i]["is_success"] = bool(infos["final_info"]["success"][i])
            return observations, rewards.astype(np.float32), done, each

        def seed(self, seed=None):
            self.first_seed = seed
            return [seed] * self.num_envs

        def close(self):
            self.inner.close()

        def get_attr(self, attr_name, indices=None):
            return [getattr(self.inner, attr_name)] * len(list(self._get_indices(indices)))

        def set_attr(self, attr_name, value, indices=None):
            raise AttributeError("environments that are compiled together have no attributes of their own")

        def env_method(self, method_name, *args, indices=None, **kwargs):
            raise AttributeError("environments that are compiled together have no methods of their own")

        def env_is_wrapped(self, wrapper_class, indices=None):
            return [False] * len(list(self._get_indices(indices)))

    return Adapter()


def train_sb3(task, steps, seed, judge, name):
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(1)
    count, length = 64, 32
    env = VecNormalize(sb3_vec_env(name, count, seed), norm_reward=False)
    model = PPO(
        "MlpPolicy", env, n_steps=length, batch_size=512, n_epochs=4, learning_rate=1e-3, gamma=0.97, ent_coef=1e-3,
        policy_kwargs={"net_arch": [HIDDEN, HIDDEN], "log_std_init": -0.5}, seed=seed, device="cpu",
    )  # fmt: skip

    def judged():
        """In NumPy, on the episodes of ``held_out_keys``."""
        held_out = sb3_vec_env(name, judge.count, HELD_OUT)
        observations, on = held_out.reset(), np.ones(judge.count, bool)
        returns, successes = np.zeros(judge.count), np.zeros(judge.count, bool)
        while on.any():
            actions, _ = model.predict(env.normalize_obs(observations), deterministic=True)
            observations, rewards, done, infos = held_out.step(actions)
            returns[on] += rewards[on]
            for i in np.flatnonzero(on & done):
                successes[i] = infos[i]["is_success"]
            on &= ~done
        return summary(returns, successes)

    class Note(BaseCallback):
        def _on_rollout_start(self):
            if self.num_timesteps >= len(judge.curve) * steps / (POINTS - 1):
                judge.note(self.num_timesteps, judged)

        def _on_step(self):
            return True

    model.learn(steps, callback=Note())
    judge.note(model.num_timesteps, judged)


# --- what is shown ------------------------------------------------------------


def draw_curve(path, name, algorithm, curve, policies):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axis, what in zip(axes, ("return", "success"), strict=True):
        axis.plot([point["steps"] for point in curve], [point[what] for point in curve], "o-", ms=3, label=algorithm)
        for i, (policy, values) in enumerate(policies.items()):
            axis.axhline(values[what], color=f"C{i + 1}", ls="--", lw=1, label=policy)
        axis.set(xlabel="environment steps", ylabel=what)
    axes[1].set_ylim(-0.03, 1.03)
    axes[0].legend(fontsize=8)
    figure.suptitle(name)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="ID", choices=list(TASKS), help=", ".join(TASKS))
    parser.add_argument("--algorithm", choices=list(STEPS), default="apg")
    parser.add_argument("--steps", type=int, help=f"environment steps; by default {STEPS}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=64, help="held-out episodes to judge on")
    parser.add_argument("--out", type=Path, help="folder for curve.png and result.json")
    given = parser.parse_args()
    steps = given.steps or STEPS[given.algorithm]

    task = as_dtype(make_task(given.name), jnp.float32)
    policies = simple_policies(task, Judge(task, given.episodes))
    for policy, values in policies.items():
        print(f"{policy:>16}: return {values['return']:8.2f}   success {values['success']:4.0%}", flush=True)
    judge = Judge(task, given.episodes)
    if given.algorithm == "apg":
        train_apg(task, steps, given.seed, judge)
    elif given.algorithm == "ppo":
        train_ppo(task, steps, given.seed, judge)
    else:
        train_sb3(task, steps, given.seed, judge, given.name)

    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        draw_curve(given.out / "curve.png", given.name, given.algorithm, judge.curve, policies)
        result = {"id": given.name, "algorithm": given.algorithm, "seed": given.seed, "episodes": given.episodes}
        result |= {"horizon": task.horizon, "policies": policies, "curve": judge.curve}
        with atomic_path(given.out / "result.json") as temporary:
            temporary.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
