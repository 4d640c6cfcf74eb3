"""Policies that need no training, and how well they do: what a page shows and what training is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym.envs.task import Task, as_dtype, episode_key
from nms_gym.errors import InputError, near

POLICIES = {
    "baseline": "the task's own scripted policy",
    "random": "actions drawn anew at every step",
    "lowest": "the lowest action: no excitation, or all of a device's torque in one direction",
    "zero": "an action of 0",
}


def policy(task: Task, name: str) -> Callable[[Array, Array], Array]:
    """A policy by name: (observation, key) -> action.

    Raises:
        InputError: no such policy.
    """
    low, high = (jnp.asarray(bound) for bound in task.action_bounds)
    found: dict[str, Callable[[Array, Array], Array]] = {
        "baseline": lambda observation, key: task.baseline(observation),
        "random": lambda observation, key: jax.random.uniform(key, low.shape, jnp.float32, low, high),
        "lowest": lambda observation, key: low,
        "zero": lambda observation, key: jnp.clip(jnp.zeros_like(low), low, high),
    }
    if name not in found:
        raise InputError(f"no policy {name!r}; {near(name, found)}")
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
    """Play episodes side by side in float32, each to its own end, from seeds ``seed``, ``seed + 1``, ..."""

    def one(task: Any, seed: Array) -> tuple[Array, Array]:
        key = episode_key(seed)
        state, first = task.reset(key)

        def advance(carry: Any, k: Array) -> tuple[Any, None]:
            state, observation, total, success, over = carry
            state, out = task.step(state, act(observation, jax.random.fold_in(key, k)))
            total = total + jnp.where(over, 0.0, out.reward)
            success = jnp.where(over, success, out.info["success"])
            return (state, out.observation, total, success, over | out.terminated | out.truncated), None

        start = (state, first.observation, jnp.zeros_like(first.reward), jnp.bool_(False), jnp.bool_(False))
        end, _ = jax.lax.scan(advance, start, jnp.arange(task.horizon, dtype=jnp.int32))
        return end[2], end[3]

    with jax.enable_x64(False):
        seeds = seed + np.arange(episodes, dtype=np.uint32)
        returns, success = jax.jit(jax.vmap(one, in_axes=(None, 0)))(as_dtype(task, jnp.float32), seeds)
    return Score(np.asarray(returns, float), float(np.mean(np.asarray(success))))
