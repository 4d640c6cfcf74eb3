"""Compiled resets and steps with few and flat arguments.

A call costs a microsecond or two per argument, several times the arithmetic of a small model: what a step takes and
returns travels in one array each.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym.envs.task import Step, Task, episode_key

# Entries from which an array stays an argument of its own, because copying it out of the flat one would cost more.
LARGE = 4096


@dataclass(frozen=True)
class StepLayout:
    """Where everything a step returns stands in one flat array, which is one transfer instead of a dozen."""

    size: int
    observation: slice
    reward: int
    terminated: int
    truncated: int
    info: dict[str, tuple[slice, tuple[int, ...], str]]
    """name -> place, shape and kind of number: "f", "i" or "b\""""

    @staticmethod
    def of(task: Task) -> StepLayout:
        """The layout that ``packed`` produces for a task."""
        out: Step = jax.eval_shape(lambda task: task.reset(episode_key(0))[1], task)
        position = out.observation.size + 3
        places = {}
        for key, value in sorted(out.info.items()):
            places[key] = (slice(position, position + value.size), value.shape, np.dtype(value.dtype).kind)
            position += value.size
        n = out.observation.size
        return StepLayout(position, slice(0, n), n, n + 1, n + 2, places)

    def unpack_info(self, flat: np.ndarray) -> dict[str, Any]:
        """Info of one step from ``(size,)``, copied; numbers are Python's own."""
        info: dict[str, Any] = {}
        for key, (place, shape, kind) in self.info.items():
            if shape:
                info[key] = flat[place].reshape(shape).copy()
            else:
                value = flat[place.start]
                info[key] = float(value) if kind == "f" else bool(value) if kind == "b" else int(value)
        return info


def packed(out: Step) -> Array:
    """One flat array, laid out as ``StepLayout`` says."""
    dtype = out.observation.dtype
    parts = [out.observation, out.reward, out.terminated, out.truncated, *(out.info[key] for key in sorted(out.info))]
    return jnp.concatenate([jnp.ravel(part).astype(dtype) for part in parts])


@dataclass(frozen=True)
class Packing:
    """How a pytree becomes one flat array and a few large ones. Equal for equal structures, so programs are shared."""

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    large: int

    @staticmethod
    def of(tree: Any, large: int = LARGE) -> Packing:
        """The packing of trees like this one (arrays or their shapes)."""
        leaves, structure = jax.tree.flatten(tree)
        return Packing(structure, tuple(x.shape for x in leaves), tuple(x.dtype.name for x in leaves), large)

    def like(self) -> Any:
        """A tree of this packing, of shapes and types instead of numbers."""
        return jax.tree.unflatten(
            self.structure, list(map(jax.ShapeDtypeStruct, self.shapes, map(np.dtype, self.dtypes)))
        )

    def _apart(self, shape: tuple[int, ...]) -> bool:
        return math.prod(shape) >= self.large

    def pack(self, tree: Any) -> tuple[Array, ...]:
        """The flat array, then the large ones. Integers become floats, exact up to 2^24."""
        leaves = jax.tree.leaves(tree)
        dtype = next(x.dtype for x in leaves if jnp.issubdtype(x.dtype, jnp.floating))
        small = [jnp.ravel(x).astype(dtype) for x in leaves if not self._apart(x.shape)]
        return jnp.concatenate(small), *(x for x in leaves if self._apart(x.shape))

    def unpack(self, parts: tuple[Array, ...]) -> Any:
        """The inverse of ``pack``."""
        flat, large = parts[0], iter(parts[1:])
        leaves, position = [], 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            if self._apart(shape):
                leaves.append(next(large))
                continue
            size = math.prod(shape)
            leaves.append(flat[position : position + size].reshape(shape).astype(dtype))
            position += size
        return jax.tree.unflatten(self.structure, leaves)


@dataclass(frozen=True)
class SinglePrograms:
    """What a single environment runs. States are flat arrays; results are a state followed by what ``layout`` says."""

    layout: StepLayout
    state_size: int
    reset: Callable[[tuple[Array, ...], Any], Array]
    """(packed task, seed uint32) -> state and results"""
    step: Callable[[tuple[Array, ...], Any], Array]
    """(packed task, state and action) -> state and results"""


@functools.lru_cache(maxsize=16)
def single_programs(packing: Packing) -> SinglePrograms:
    """What runs tasks of one structure; environments of equal structure share what is compiled."""
    task = packing.like()
    state = jax.eval_shape(lambda task: task.reset(episode_key(0))[0], task)
    states = Packing.of(state, large=1 << 62)
    size = sum(math.prod(shape) for shape in states.shapes)

    def joined(state: Any, out: Step) -> Array:
        return jnp.concatenate([*states.pack(state), packed(out)])

    def run_reset(parts: tuple[Array, ...], seed: Array) -> Array:
        return joined(*packing.unpack(parts).reset(episode_key(seed)))

    def run_step(parts: tuple[Array, ...], state_and_action: Array) -> Array:
        state = states.unpack((state_and_action[:size],))
        return joined(*packing.unpack(parts).step(state, state_and_action[size:]))

    return SinglePrograms(StepLayout.of(task), size, jax.jit(run_reset), jax.jit(run_step))
