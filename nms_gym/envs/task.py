"""What a task is: a pytree with a pure ``reset`` and ``step``; and what every task does the same way.

A task holds a person, a recording and the task's own numbers as leaves, so that all of them can be batched, drawn at
random and differentiated. There is no class to inherit from: whatever has the members of ``Task`` serves every adapter
(Gymnasium, vectorised Gymnasium, brax), ``play_actions`` and ``play_policy``. ``examples/07_own_task.py`` is one, in
one file.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import pytree as pytree  # the three are also what tasks of one's own are made with
from nms_gym._pytree import replace as replace
from nms_gym._pytree import static as static
from nms_gym.envs.rendering.scene import Scene
from nms_gym.errors import InputError, listed

T = TypeVar("T")


@pytree
class Step:
    """What a step, or a reset, returns besides the state."""

    observation: Array
    """(O,) within ``observation_bounds``"""
    reward: Array
    """scalar; 0 after a reset"""
    terminated: Array
    """bool; the task itself has ended"""
    truncated: Array
    """bool; time is up"""
    info: dict[str, Array] = field(default_factory=dict)
    """arrays by name, the same names and shapes in every step and reset of a task. Pictures and scores use some:
    ``time`` (s, end of the step), ``success`` (bool, the task's metric is met), every ``reward_...`` that the reward is
    the sum of. Integers pass through floats in Gymnasium's info: exact up to 2^24 in float32."""


class Task(Protocol):
    """What a task must have to run in every adapter. It is a pytree: the decorator ``pytree`` makes one of a class.

    Its leaves are numbers and arrays, which may be batched and differentiated; what is not (names, counts) is
    ``static()``, and hashable. State and observation have the same structure, shapes and types in reset and step.

    The other members of ``DescribedTask`` are used where a task has them, and only there: names that are missing become
    ``action_0``, ``observation_0`` ...; ``muscles``, ``coordinates`` and ``drive`` become empty; without ``scene``
    there are no pictures (``render_mode`` is refused), and without ``baseline`` no policy of that name.
    """

    @property
    def dt(self) -> float:
        """Seconds per step."""
        ...

    @property
    def horizon(self) -> int:
        """Steps of the longest episode: ``truncated`` is true after as many."""
        ...

    @property
    def action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest action, (A,) each and finite."""
        ...

    @property
    def observation_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest observation, (O,) each."""
        ...

    def reset(self, key: Array) -> tuple[Any, Step]:
        """State and first observation of an episode; everything random comes from the key.

        A task that draws while an episode runs keeps a key in its state.
        """
        ...

    def step(self, state: Any, action: Array) -> tuple[Any, Step]:
        """One control step; the action ``(A,)`` is within its bounds."""
        ...


class DescribedTask(Task, Protocol):
    """A task that also says what its numbers are, can be drawn, and has a simple policy: every shipped one."""

    @property
    def action_names(self) -> tuple[str, ...]:
        """One name per entry of the action."""
        ...

    @property
    def observation_names(self) -> tuple[str, ...]:
        """One name per entry of the observation, ``group:name``."""
        ...

    @property
    def muscles(self) -> tuple[str, ...]:
        """Muscles in the order of info's arrays."""
        ...

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Joints in the order of info's arrays."""
        ...

    @property
    def drive(self) -> dict[str, str]:
        """Muscle -> what drives it."""
        ...

    @property
    def action_units(self) -> str:
        """What an action is, in words: a trained policy asks for a task with the same."""
        ...

    def baseline(self, observation: Array) -> Array:
        """Action of a simple scripted policy, for comparison."""
        ...

    def scene(self) -> Scene:
        """What pictures of an episode show, filled by the infos of its steps (among them ``time``)."""
        ...


ESSENTIAL = ("dt", "horizon", "action_bounds", "observation_bounds", "reset", "step")


@dataclass(frozen=True)
class Description:
    """The names of a task, with those filled in that it does not give; see ``Task``."""

    action_names: tuple[str, ...]
    observation_names: tuple[str, ...]
    muscles: tuple[str, ...]
    coordinates: tuple[str, ...]
    drive: dict[str, str]
    action_units: str
    """what an action is, in words; "" where the task does not say"""


def describe(task: Task) -> Description:
    """What a task says of itself."""

    def names(what: str, bounds: tuple[np.ndarray, np.ndarray]) -> tuple[str, ...]:
        given = getattr(task, f"{what}_names", None)
        return tuple(f"{what}_{i}" for i in range(len(bounds[0]))) if given is None else tuple(given)

    return Description(
        names("action", task.action_bounds),
        names("observation", task.observation_bounds),
        tuple(getattr(task, "muscles", ())),
        tuple(getattr(task, "coordinates", ())),
        dict(getattr(task, "drive", {})),
        str(getattr(task, "action_units", "")),
    )


def checked_task(task: Any) -> Task:
    """A task that has what ``Task`` asks for.

    Raises:
        InputError: a member is missing, it is no pytree, or a leaf is no number.
    """
    kind = type(task).__name__
    missing = [name for name in ESSENTIAL if not hasattr(task, name)]
    if missing:
        raise InputError(f"task {kind} has no {listed(missing)}; a task has {listed(ESSENTIAL)}")
    leaves, structure = jax.tree_util.tree_flatten_with_path(task)
    if jax.tree_util.treedef_is_leaf(structure):
        raise InputError(f"task {kind} is no pytree; decorate its class with nms_gym.envs.task.pytree")
    for path, leaf in leaves:
        if np.asarray(leaf).dtype.kind not in "biuf":
            where = jax.tree_util.keystr(path)
            raise InputError(f"task {kind}: {where} is {leaf!r:.60}, no number; declare such a field as static()")
    for entry in getattr(task, "__dataclass_fields__", {}).values():
        if entry.metadata.get("static") and isinstance(getattr(task, entry.name), (np.ndarray, Array)):
            raise InputError(f"task {kind}: {entry.name} is an array and static; declare it without static()")
    for name in ("action", "observation"):
        bounds = getattr(task, f"{name}_bounds")
        low, high = (np.asarray(bound) for bound in bounds)
        names = getattr(task, f"{name}_names", None)
        if low.ndim != 1 or low.shape != high.shape or not np.all(low <= high):
            raise InputError(
                f"task {kind}: {name}_bounds are {bounds!r:.120}; give lowest and highest values, (n,) each"
            )
        if names is not None and len(names) != len(low):
            raise InputError(f"task {kind} has {len(names)} {name}_names for {len(low)} {name}_bounds; give as many")
    return task


def built(result: tuple[Any, Step]) -> dict[str, str]:
    """How what a reset or a step returns is built: type and shape of every array in it, by name."""
    found = {}
    for label, tree in zip(("state", "step"), result, strict=True):
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            shaped = leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)
            found[label + jax.tree_util.keystr(path)] = f"{shaped.dtype}{list(shaped.shape)}"
    return found


def require_same(task: Task, first: Mapping[str, str], later: Mapping[str, str]) -> None:
    """Refuse a step built unlike the reset, each as ``built`` says; call it while tracing, where it costs nothing.

    Raises:
        InputError: names, shapes or types differ.
    """
    names = [name for name in {**first, **later} if first.get(name) != later.get(name)]
    if names:
        shown = [f"{name}: {first.get(name, 'nothing')}, then {later.get(name, 'nothing')}" for name in names]
        raise InputError(
            f"task {type(task).__name__}: what step returns differs from what reset returned ({listed(shown)}); make "
            "structure, shapes and types the same"
        )


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
    """Values by group, ``(n,)`` each or one number, as one observation within the bounds of the groups."""
    return jnp.concatenate([jnp.clip(jnp.ravel(value), *OBSERVATION_BOUNDS[group]) for group, value in groups.items()])


def bounds_of(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value, float32, of observations named ``group`` or ``group:name``."""
    bounds = [OBSERVATION_BOUNDS[name.split(":")[0]] for name in names]
    low, high = np.asarray(bounds, dtype=np.float32).reshape(-1, 2).T
    return low, high


def indices_of(names: Sequence[str], group: str) -> np.ndarray:
    """Indices of a group's entries in an observation."""
    return np.array([i for i, name in enumerate(names) if name.split(":")[0] == group], np.int32)


# --- rewards ----------------------------------------------------------------


def closeness(error: Array, width: Array | float) -> Array:
    """1 where there is no error, 1/2 at ``width``, and never flat: it has a gradient far away too."""
    return 1.0 / (1.0 + (error / width) ** 2)


# --- random draws -----------------------------------------------------------------


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
    """Play an episode with given actions ``(N, A)``.

    The sum of the rewards is the return; it can be differentiated with respect to ``actions`` and the leaves of
    ``task``.

    Args:
        task: any task.
        actions: at most ``task.horizon`` of them.
        key: of ``jax.random.key``; by default that of seed 0.

    Returns:
        Rewards ``(N,)``, 0 after the end, and infos with a leading time axis.
    """
    key = episode_key(0) if key is None else key
    rewards, _, info = _played(task, key, actions, lambda _, action: action)
    return rewards, info


def play_policy(task: Task, act: Callable[[Array, Array], Array], key: Array) -> tuple[Array, dict[str, Array]]:
    """Play an episode of ``task.horizon`` steps in which ``act(observation, key) -> action``, with a key of each step.

    Returns and can be differentiated as ``play_actions``, with respect to what ``act`` closes over too.
    """
    rewards, _, info = _played(task, key, *_acting(task, act, key))
    return rewards, info


def play_score(task: Task, act: Callable[[Array, Array], Array], key: Array) -> tuple[Array, Array]:
    """Return, and success (bool) at the end, of an episode as ``play_policy`` plays it; differentiable.

    A task without ``success`` in its info never succeeds.
    """
    keep = lambda info: info.get("success", jnp.bool_(False))  # noqa: E731
    rewards, counted, success = _played(task, key, *_acting(task, act, key), keep=keep)
    return jnp.sum(rewards), success[jnp.sum(counted, dtype=jnp.int32) - 1]


def _acting(task: Task, act: Callable[[Array, Array], Array], key: Array) -> tuple[Array, Any]:
    steps = jnp.arange(task.horizon, dtype=jnp.int32)
    return steps, lambda observation, k: act(observation, jax.random.fold_in(key, k))


def _played(
    task: Task, key: Array, given: Array, act: Callable[[Array, Array], Array], keep: Any = lambda info: info
) -> tuple[Array, Array, Any]:
    """Rewards, whether each step belongs to the episode, and what is kept of the infos; ``act(observation, given)``."""
    state, first = task.reset(key)

    # Recomputing each step in the backward pass keeps memory flat in the number of steps and costs no time.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def advance(carry: Any, given: Array) -> tuple[Any, tuple[Array, Array, Any]]:
        state, observation, over = carry
        state, out = task.step(state, act(observation, given))
        reward = jnp.where(over, jnp.zeros_like(out.reward), out.reward)
        return (state, out.observation, over | out.terminated | out.truncated), (reward, ~over, keep(out.info))

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
