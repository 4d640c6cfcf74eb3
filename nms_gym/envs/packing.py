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

from nms_gym.envs.task import Step, built, episode_key, require_same

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
    """name -> place, shape and kind of number: "f", "i", "u" or "b\""""

    @staticmethod
    def of(out: Step) -> StepLayout:
        """The layout that ``packed`` produces for a step, given by its arrays or their shapes."""
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
    parts = [out.observation, out.reward, out.terminated, out.truncated, *(out.info[key] for key in sorted(out.info))]
    return jnp.concatenate([jnp.ravel(part).astype(_widest()) for part in parts])


def _widest() -> Any:
    """The float of the precision in which JAX works now."""
    return jnp.result_type(float)


@dataclass(frozen=True)
class Packing:
    """How a pytree becomes one flat array and a few large ones. Equal for equal structures, so programs are shared."""

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    keys: tuple[str, ...]
    """the random generator of a leaf that is a key of ``jax.random``, "" for a number"""
    large: int

    @staticmethod
    def of(tree: Any, large: int = LARGE) -> Packing:
        """The packing of trees like this one (arrays or their shapes)."""
        leaves, structure = jax.tree.flatten(tree)
        keys = [""] * len(leaves)

        def numbers(places: list[int], leaves: list[Array]) -> list[Array]:
            for place, leaf in zip(places, leaves, strict=True):
                keys[place] = str(jax.random.key_impl(leaf))
            return [jax.random.key_data(leaf) for leaf in leaves]

        places = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
        found = jax.eval_shape(functools.partial(numbers, places), [leaves[i] for i in places])
        for place, shape in zip(places, found, strict=True):
            leaves[place] = shape
        return Packing(
            structure, tuple(x.shape for x in leaves), tuple(x.dtype.name for x in leaves), tuple(keys), large
        )

    def like(self) -> Any:
        """A tree of this packing without keys, of shapes and types instead of numbers."""
        return jax.tree.unflatten(
            self.structure, list(map(jax.ShapeDtypeStruct, self.shapes, map(np.dtype, self.dtypes)))
        )

    @property
    def size(self) -> int:
        """Numbers in the flat array."""
        return sum(math.prod(shape) for shape in self.shapes if not self._apart(shape))

    def _apart(self, shape: tuple[int, ...]) -> bool:
        return math.prod(shape) >= self.large

    def pack(self, tree: Any) -> tuple[Array, ...]:
        """The flat array, then the large ones. Nothing is lost: integers as wide as the float lend it their bits."""
        leaves = [jax.random.key_data(x) if key else x for x, key in zip(jax.tree.leaves(tree), self.keys, strict=True)]
        small = [_as_float(jnp.ravel(x)) for x in leaves if not self._apart(x.shape)]
        flat = jnp.concatenate(small) if small else jnp.zeros(0, _widest())
        return flat, *(x for x in leaves if self._apart(x.shape))

    def unpack(self, parts: tuple[Array, ...]) -> Any:
        """The inverse of ``pack``."""
        flat, large = parts[0], iter(parts[1:])
        leaves, position = [], 0
        for shape, dtype, key in zip(self.shapes, self.dtypes, self.keys, strict=True):
            if self._apart(shape):
                leaf = next(large)
            else:
                size = math.prod(shape)
                leaf = _from_float(flat[position : position + size], np.dtype(dtype)).reshape(shape)
                position += size
            leaves.append(jax.random.wrap_key_data(leaf, impl=key) if key else leaf)
        return jax.tree.unflatten(self.structure, leaves)


def _lends_bits(dtype: Any) -> bool:
    """Whether an integer is too wide for its value to survive as a float: 32 bits beside float32."""
    return dtype.kind in "iu" and dtype.itemsize == np.dtype(_widest()).itemsize


def _as_float(x: Array) -> Array:
    if _lends_bits(x.dtype):
        return jax.lax.bitcast_convert_type(x, _widest())
    return x.astype(_widest())


def _from_float(x: Array, dtype: Any) -> Array:
    return jax.lax.bitcast_convert_type(x, dtype) if _lends_bits(dtype) else x.astype(dtype)


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
    first = jax.eval_shape(lambda task: task.reset(episode_key(0)), packing.like())
    states = Packing.of(first[0], large=1 << 62)

    def joined(state: Any, out: Step) -> Array:
        return jnp.concatenate([*states.pack(state), packed(out)])

    def run_reset(parts: tuple[Array, ...], seed: Array) -> Array:
        return joined(*packing.unpack(parts).reset(episode_key(seed)))

    def run_step(parts: tuple[Array, ...], state_and_action: Array) -> Array:
        task = packing.unpack(parts)
        after = task.step(states.unpack((state_and_action[: states.size],)), state_and_action[states.size :])
        require_same(task, built(first), built(after))
        return joined(*after)

    return SinglePrograms(StepLayout.of(first[1]), states.size, jax.jit(run_reset), jax.jit(run_step))
