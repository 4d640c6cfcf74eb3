"""How good policies are: all on the same episodes, which no training has seen, so that their returns can be paired."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._compilation import fast_compilation
from nms_gym.envs.policies import policy
from nms_gym.envs.task import Task, as_dtype, episode_key, play_score
from nms_gym.files.policy import Policy, Shape, Weights, answer

CHOICE_SEED, TEST_SEED = 1_000_000, 2_000_000
"""episodes from the first on choose the best policy of a training, those from the second on score it; training itself
draws others"""
SIMPLE = ("zero", "random", "baseline")
RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Score:
    """A policy on a set of episodes."""

    returns: np.ndarray
    """(n,) sums of rewards"""
    success: np.ndarray
    """(n,) bool, at the end of the episode; all False where the task has no success"""

    def row(self) -> dict[str, float]:
        """For tables and files."""
        return {
            "return": float(self.returns.mean()),
            "sd": float(self.returns.std()),
            "success": float(self.success.mean()),
            "episodes": len(self.returns),
        }


class Judge:
    """Scores policies on one task, always on the same episodes; float32, all episodes side by side."""

    def __init__(self, task: Task, episodes: int = 64, first_seed: int = TEST_SEED) -> None:
        """Prepare.

        Args:
            task: any task.
            episodes: how many.
            first_seed: of ``nms_gym.episode_key``; the others follow.
        """
        with jax.enable_x64(False):
            self._task = as_dtype(task, jnp.float32)
            self._seeds = jnp.asarray(first_seed + np.arange(episodes), jnp.uint32)

    def weights(self, weights: Weights, shape: Shape) -> Score:
        """Of a policy given by its numbers; compiled once per ``shape`` and sizes."""
        low, high = self._bounds
        return self._score(_of_weights(shape), weights, low, high)

    def policy(self, given: Policy) -> Score:
        """Of a trained policy."""
        return self.weights(given.weights, given.shape)

    def simple(self) -> dict[str, Score]:
        """Of the policies that need no training: doing nothing, at random, and the scripted one where there is one."""
        names = [n for n in SIMPLE if n != "baseline" or hasattr(self._task, "baseline")]
        return {name: self._score(_always(policy(self._task, name))) for name in names}

    @property
    def _bounds(self) -> tuple[Array, Array]:
        low, high = (jnp.asarray(bound, jnp.float32) for bound in self._task.action_bounds)
        return low, high

    def _score(self, make: Any, *given: Any) -> Score:
        with jax.enable_x64(False):
            given = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), given)
            returns, success = _episodes()(make, self._task, self._seeds, given)
        return Score(np.asarray(returns, float), np.asarray(success))


@functools.lru_cache(maxsize=16)
def _of_weights(shape: Shape) -> Any:
    def make(task: Task, weights: Weights, low: Array, high: Array) -> Any:
        return lambda observation, key: answer(weights, shape, observation, low, high)

    return make


def _always(act: Any) -> Any:
    return lambda task: act


@functools.cache
def _episodes() -> Any:
    """Jitted: what makes a policy, a task, seeds and what the policy is made of, to returns and successes."""

    def run(make: Any, task: Any, seeds: Array, given: tuple[Any, ...]) -> tuple[Array, Array]:
        act = make(task, *given)
        return jax.vmap(lambda seed: play_score(task, act, episode_key(seed)))(seeds)

    return jax.jit(run, static_argnums=0, compiler_options=fast_compilation())


def paired_difference(a: Score, b: Score, level: float = 0.95, seed: int = 0) -> tuple[float, float, float]:
    """Mean of ``a`` minus ``b`` in return over the same episodes, and its bootstrap interval (Efron 1979).

    Returns:
        Mean, low, high.
    """
    difference = a.returns - b.returns
    rows = np.random.default_rng(seed).integers(len(difference), size=(RESAMPLES, len(difference)))
    low, high = np.quantile(difference[rows].mean(axis=1), (0.5 - 0.5 * level, 0.5 + 0.5 * level))
    return float(difference.mean()), float(low), float(high)


def rows(scores: Mapping[str, Score]) -> dict[str, dict[str, float]]:
    """``Score.row`` of each."""
    return {name: score.row() for name, score in scores.items()}
