"""What a task is: a pytree with a pure ``reset`` and ``step``; and what every task does the same way.

A task holds a person, a recording and the task's own numbers as leaves, so that all of them can be batched, drawn at
random and differentiated. There is no class to inherit from: whatever has the members of ``Task`` serves every adapter
(Gymnasium, vectorised Gymnasium, brax) and ``play_actions``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import pytree
from nms_gym.envs.rendering.scene import Scene
from nms_gym.errors import InputError

T = TypeVar("T")


@pytree
class Step:
    """What a step, or a reset, shows of a task."""

    observation: Array
    """(O,) within ``observation_bounds``"""
    reward: Array
    """scalar; 0 after a reset"""
    terminated: Array
    """bool; the task itself has ended"""
    truncated: Array
    """bool; time is up"""
    info: dict[str, Array]
    """by name, the same names in every step of a task: ``time`` (s, end of the step), ``success`` (bool, the task's
    metric is met), every ``reward_...`` that the reward is the sum of, and arrays that the task documents"""


class Task(Protocol):
    """The members of a task. It is a pytree."""

    @property
    def dt(self) -> float:
        """Seconds per step."""
        ...

    @property
    def horizon(self) -> int:
        """Steps of the longest episode."""
        ...

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Joints that the arrays of info speak of."""
        ...

    @property
    def muscles(self) -> tuple[str, ...]:
        """Muscles that the arrays of info speak of."""
        ...

    @property
    def action_names(self) -> tuple[str, ...]:
        """One name per entry of the action."""
        ...

    @property
    def action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest action, float32."""
        ...

    @property
    def observation_names(self) -> tuple[str, ...]:
        """One name per entry of the observation, ``group:name``."""
        ...

    @property
    def observation_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest observation, float32."""
        ...

    @property
    def drive(self) -> dict[str, str]:
        """Muscle -> what drives it."""
        ...

    def reset(self, key: Array) -> tuple[Any, Step]:
        """State and first observation of an episode; everything random comes from the key."""
        ...

    def step(self, state: Any, action: Array) -> tuple[Any, Step]:
        """One control step."""
        ...

    def baseline(self, observation: Array) -> Array:
        """Action of a simple scripted policy, for comparison."""
        ...

    def scene(self) -> Scene:
        """What pictures of an episode show."""
        ...


# --- observations -----------------------------------------------------------

# Bounds of observations by group; values are clipped to them. Far beyond what people do, so that clipping means that
# something is wrong, and finite, as normalising wrappers and learners want.
OBSERVATION_BOUNDS: dict[str, tuple[float, float]] = {
    "phase": (0.0, 1.0),
    "angle": (-10.0, 10.0),
    "speed": (-10.0, 10.0),
    "target": (-20.0, 20.0),
    "error": (-20.0, 20.0),
    "moment": (-100.0, 100.0),
    "activation": (0.0, 2.0),
    "fiber_length": (0.0, 3.0),
    "torque": (-2.0, 2.0),
    "stimulation": (0.0, 1.0),
    "emg": (0.0, 10.0),
    "position": (-20.0, 20.0),
    "fatigue": (0.0, 1.0),
}
SPEED_UNIT = 10.0
"""rad/s"""


def observe(groups: Mapping[str, Array]) -> Array:
    """Values by group, ``(n,)`` each, as one observation within the bounds of the groups."""
    return jnp.concatenate([jnp.clip(value, *OBSERVATION_BOUNDS[group]) for group, value in groups.items()])


def bounds_of(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value, float32, of observations named ``group`` or ``group:name``."""
    bounds = [OBSERVATION_BOUNDS[name.split(":")[0]] for name in names]
    low, high = np.asarray(bounds, dtype=np.float32).reshape(-1, 2).T
    return low, high


def indices_of(names: Sequence[str], group: str) -> np.ndarray:
    """Where the entries of a group stand in an observation."""
    return np.array([i for i, name in enumerate(names) if name.split(":")[0] == group], np.int32)


# --- rewards ----------------------------------------------------------------


def closeness(error: Array, width: Array | float) -> Array:
    """1 where there is no error, 1/2 at ``width``, and never flat: far away it still tells where to go."""
    return 1.0 / (1.0 + (error / width) ** 2)


# --- chance -----------------------------------------------------------------


def episode_key(seed: int | Array) -> Array:
    """The key that ``reset`` gets for an episode with a seed below 2^32."""
    return jax.random.key(seed)


def episode_seeds(seed: int, episodes: int) -> list[int]:
    """Seeds of the episodes that a Gymnasium environment plays one after the other when reset with ``seed`` once."""
    from gymnasium.utils import seeding

    generator = seeding.np_random(seed)[0]
    return [int(generator.integers(2**32, dtype=np.uint32)) for _ in range(episodes)]


def uniform(key: Array, low: Array, high: Array) -> Array:
    """Uniform draws of the shape and dtype of ``low``; the same in every precision, up to rounding."""
    # The generator gives other numbers for other types.
    fraction = jax.random.uniform(key, jnp.shape(low), jnp.float32).astype(jnp.result_type(low))
    return low + fraction * (high - low)


def draw_index(key: Array, count: int) -> Array:
    """int32 from 0 to ``count - 1``."""
    return jax.random.randint(key, (), 0, count, jnp.int32)


# --- playing ----------------------------------------------------------------


def play_actions(task: Task, actions: Array, key: Array | None = None) -> tuple[Array, dict[str, Array]]:
    """Rewards ``(N,)``, 0 after the end, and infos, with a leading time axis, of an episode with actions ``(N, A)``.

    The sum of the rewards is the return; it can be differentiated with respect to ``actions`` and the leaves of
    ``task``.

    Args:
        task: any task.
        actions: at most ``task.horizon`` of them.
        key: of ``jax.random.key``; by default that of seed 0.
    """
    state, first = task.reset(episode_key(0) if key is None else key)
    return _played(task, state, first, actions, lambda action, _: action)


def play_policy(task: Task, policy: Any, key: Array, steps: int | None = None) -> tuple[Array, dict[str, Array]]:
    """``play_actions`` of a whole episode in which ``policy(observation) -> action`` acts."""
    state, first = task.reset(key)
    none = jnp.zeros((task.horizon if steps is None else steps, 0))
    return _played(task, state, first, none, lambda _, observation: policy(observation))


def _played(task: Task, state: Any, first: Step, given: Array, act: Any) -> tuple[Array, dict[str, Array]]:
    # Recomputing each step in the backward pass keeps memory flat in the number of steps and costs no time.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def advance(carry: Any, given: Array) -> tuple[Any, tuple[Array, dict[str, Array]]]:
        state, observation, over = carry
        state, out = task.step(state, act(given, observation))
        reward = jnp.where(over, jnp.zeros_like(out.reward), out.reward)
        return (state, out.observation, over | out.terminated | out.truncated), (reward, out.info)

    return jax.lax.scan(advance, (state, first.observation, jnp.bool_(False)), given)[1]


# --- precision --------------------------------------------------------------


def as_dtype(tree: T, dtype: Any) -> T:
    """Floats as JAX arrays of one type; call it inside ``jax.enable_x64(True)`` for float64. Integers stay."""
    return jax.tree.map(lambda leaf: jnp.asarray(cast(np.asarray(leaf), dtype)), tree)


def as_numpy(tree: T) -> T:
    """Leaves as NumPy arrays, floats in float64: nothing is lost before a precision is chosen."""
    return jax.tree.map(lambda leaf: cast(np.asarray(leaf), np.float64), tree)


def cast(leaf: np.ndarray, dtype: Any) -> np.ndarray:
    """A float array in another type; others stay what they are."""
    return leaf.astype(dtype) if np.issubdtype(leaf.dtype, np.floating) else leaf


# --- options ----------------------------------------------------------------


def checked_number(value: Any, name: str, low: float, high: float, unit: str = "") -> float:
    """A number from ``low`` to ``high``.

    Raises:
        InputError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        unit = f" {unit}" if unit else ""
        raise InputError(f"{name} is {value!r}{unit}; use a number from {low:g} to {high:g}{unit}")
    return float(value)


def checked_flag(value: Any, name: str) -> bool:
    """True or False.

    Raises:
        InputError: it is neither.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r}; use True or False")
    return value


def steps_of(seconds: Any, dt: float, name: str = "seconds") -> int:
    """Whole steps of an episode that long, at least one.

    Raises:
        InputError: not a positive number.
    """
    return max(math.ceil(checked_number(seconds, name, dt, 3600.0, "s") / dt - 1e-9), 1)


def equal_bounds(low: float, high: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The same bounds for every entry, float32."""
    return np.full(count, low, np.float32), np.full(count, high, np.float32)
