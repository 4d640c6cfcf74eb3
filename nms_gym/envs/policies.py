"""Policies that need no training, and how well they do: what a page shows and what training is compared with."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym.envs.rendering import Film, record
from nms_gym.envs.task import Task, as_dtype, episode_key, play_score
from nms_gym.errors import InputError, listed, near

POLICIES = {
    "baseline": "the task's own scripted policy",
    "random": "actions drawn anew at every step",
    "lowest": "the lowest action: no excitation, or all of a device's torque in one direction",
    "zero": "an action of 0",
}


def policy(task: Task, name: str) -> Callable[[Array, Array], Array]:
    """A policy by name: (observation, key) -> action.

    Raises:
        InputError: no such policy, or a task without ``baseline`` is asked for it.
    """
    low, high = (jnp.asarray(bound) for bound in task.action_bounds)
    found: dict[str, Callable[[Array, Array], Array]] = {
        "baseline": lambda observation, key: task.baseline(observation),  # type: ignore[attr-defined]
        "random": lambda observation, key: jax.random.uniform(key, low.shape, jnp.float32, low, high),
        "lowest": lambda observation, key: low,
        "zero": lambda observation, key: jnp.clip(jnp.zeros_like(low), low, high),
    }
    if name not in found:
        raise InputError(f"no policy {name!r}; {near(name, found)}")
    if name == "baseline" and not hasattr(task, "baseline"):
        raise InputError(f"task {type(task).__name__} has no baseline; use one of {listed(list(POLICIES)[1:])}")
    return found[name]


@dataclass(frozen=True)
class Score:
    """Episodes with one policy.

    Attributes:
        returns: (n,) sums of rewards.
        success: fraction of episodes that end in success.
    """

    returns: np.ndarray
    success: float


def score(task: Task, act: Callable[[Array, Array], Array], episodes: int = 64, seed: int = 0) -> Score:
    """Play episodes side by side in float32, each to its own end, from seeds ``seed``, ``seed + 1``, ...

    Args:
        task: any task.
        act: (observation, key) -> action.
        episodes: how many.
        seed: of the first.
    """

    def one(task: Any, seed: Array) -> tuple[Array, Array]:
        return play_score(task, act, episode_key(seed))

    with jax.enable_x64(False):
        seeds = seed + np.arange(episodes, dtype=np.uint32)
        returns, success = jax.jit(jax.vmap(one, in_axes=(None, 0)))(as_dtype(task, jnp.float32), seeds)
    return Score(np.asarray(returns, float), float(np.mean(np.asarray(success))))


def film(env: Any, path: str | os.PathLike[str], name: str = "baseline", seed: int = 0, fps: float = 25.0) -> Film:
    """Play one episode with a policy by name and film it, as ``rendering.record``.

    Args:
        env: an ``NmsEnv`` made with ``render_mode="rgb_array"``, wrapped or not.
        path: ending in ``.gif`` or ``.mp4``.
        name: one of ``POLICIES``.
        seed: of the episode, and of the policy's random draws.
        fps: frames per second, in real time.

    Raises:
        InputError: no such policy, or the film cannot be written.
    """
    act = jax.jit(policy(env.get_wrapper_attr("task"), name))
    keys = map(jax.random.key, itertools.count(seed))
    return record(env, lambda observation: np.asarray(act(observation, next(keys))), path, seed=seed, fps=fps)
