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

from nms_gym.envs.moment_tracking import MomentTracking, TaskState, reset, reset_at, step

# Entries from which an array stays an argument of its own, because copying it out of the flat one would cost more.
LARGE = 4096


@dataclass(frozen=True)
class Layout:
    """Where everything a step returns stands in one flat array, which is one transfer instead of a dozen."""

    size: int
    observation: slice
    reward: int
    truncated: int
    info: dict[str, tuple[slice, tuple[int, ...]]]

    @staticmethod
    def of(task: MomentTracking) -> Layout:
        """The layout that ``packed`` produces for a task."""
        _, observation, info = jax.eval_shape(lambda task: reset_at(task, jnp.int32(0)), task)
        position = observation.size + 2
        places = {}
        for key, value in sorted(info.items()):
            places[key] = (slice(position, position + value.size), value.shape)
            position += value.size
        return Layout(position, slice(0, observation.size), observation.size, observation.size + 1, places)

    def unpack_info(self, flat: np.ndarray) -> dict[str, Any]:
        """Info from ``(..., size)``, copied; of a single step, numbers are Python's own."""
        batch = flat.shape[:-1]
        info: dict[str, Any] = {}
        for key, (place, shape) in self.info.items():
            if shape:
                info[key] = flat[..., place].reshape(*batch, *shape).copy()
            elif batch:
                value = flat[..., place.start]
                info[key] = value.astype(np.int64) if key == "sample" else value.copy()
            else:
                info[key] = int(flat[place.start]) if key == "sample" else float(flat[place.start])
        return info


def packed(observation: Array, reward: Array, truncated: Array, info: dict[str, Array]) -> Array:
    """One flat array, laid out as ``Layout`` says."""
    dtype = observation.dtype
    parts = [observation, reward, truncated, *(info[key] for key in sorted(info))]
    return jnp.concatenate([jnp.ravel(part).astype(dtype) for part in parts])


def packed_reset(task: MomentTracking, seed: Array) -> tuple[TaskState, Array]:
    """``reset`` with a seed (uint32) in and a flat array out."""
    state, observation, info = reset(task, jax.random.key(seed))
    return state, packed(observation, jnp.zeros(()), jnp.bool_(False), info)


def packed_step(task: MomentTracking, state: TaskState, action: Array) -> tuple[TaskState, Array]:
    """``step`` with a flat array out."""
    state, observation, reward, _, truncated, info = step(task, state, action)
    return state, packed(observation, reward, truncated, info)


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
class Programs:
    """What a single environment runs. States are flat arrays; results are a state followed by what ``layout`` says."""

    layout: Layout
    state_size: int
    reset: Callable[[tuple[Array, ...], Any], Array]
    """(packed task, seed uint32) -> state and results"""
    step: Callable[[tuple[Array, ...], Any], Array]
    """(packed task, state and action) -> state and results"""


@functools.lru_cache(maxsize=16)
def single_programs(packing: Packing) -> Programs:
    """Programs for tasks of one structure; environments of equal structure share what is compiled."""
    task = jax.tree.unflatten(
        packing.structure, list(map(jax.ShapeDtypeStruct, packing.shapes, map(np.dtype, packing.dtypes)))
    )
    state = jax.eval_shape(lambda task: reset_at(task, jnp.int32(0)), task)[0]
    states = Packing.of(state, large=1 << 62)
    size = sum(math.prod(shape) for shape in states.shapes)

    def joined(state: TaskState, results: Array) -> Array:
        return jnp.concatenate([*states.pack(state), results])

    def run_reset(parts: tuple[Array, ...], seed: Array) -> Array:
        return joined(*packed_reset(packing.unpack(parts), seed))

    def run_step(parts: tuple[Array, ...], state_and_action: Array) -> Array:
        state = states.unpack((state_and_action[:size],))
        return joined(*packed_step(packing.unpack(parts), state, state_and_action[size:]))

    return Programs(Layout.of(task), size, jax.jit(run_reset), jax.jit(run_step))
