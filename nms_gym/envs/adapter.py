"""What the single and the vectorised Gymnasium environment do the same way."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from typing import Any

import jax
import numpy as np
from gymnasium import spaces

from nms_gym.envs import make_task
from nms_gym.envs.packing import Packing
from nms_gym.envs.rendering import History
from nms_gym.envs.task import Task, as_dtype, describe
from nms_gym.errors import InputError, listed, shown

PRECISIONS = {"float32": np.float32, "float64": np.float64}
RENDER_MODES = ("rgb_array",)
RENDER_FPS = 25


def checked_precision(precision: str) -> Any:
    """The NumPy type of a precision.

    Raises:
        InputError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision is {precision!r}; use one of {listed(PRECISIONS)}")
    return PRECISIONS[precision]


# Whether this process is the fork of one in which JAX ran: its threads are not here, and whoever asks them waits for
# ever.
_FORKED = [False]


def _note_fork() -> None:
    # JAX says in no public place whether it runs; without the private one nothing is refused.
    bridge = getattr(getattr(jax, "_src", None), "xla_bridge", None)
    running = getattr(bridge, "backends_are_initialized", None)
    _FORKED[0] = _FORKED[0] or bool(running and running())


if hasattr(os, "register_at_fork"):  # Windows has no forks
    os.register_at_fork(after_in_child=_note_fork)


def require_own_jax() -> None:
    """Say at once what would wait for ever.

    Raises:
        InputError: this process was forked from one in which JAX runs.
    """
    if _FORKED[0]:
        raise InputError(
            "this process is a fork of one in which JAX runs, and would wait for ever; let gymnasium.make_vec run all "
            "environments in one call (vectorization_mode='vector_entry_point', its default), or start new processes: "
            "AsyncVectorEnv(..., context='spawn'), or make_vec(..., vectorization_mode='async', "
            "vector_kwargs={'context': 'spawn'})"
        )


def checked_action(action: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """The numbers of an action, in the precision of an environment.

    Raises:
        InputError: not real numbers, of another shape, or not finite.
    """
    try:
        array = np.asarray(action)
        with np.errstate(over="ignore"):
            values = None if array.dtype.kind in "OUSMmc" else array.astype(dtype, copy=False)
    except (TypeError, ValueError):
        values = None
    if values is None:
        raise InputError(f"action is {shown(action)} ({type(action).__name__}); expected real numbers of shape {shape}")
    if values.shape != shape:
        raise InputError(f"action has shape {values.shape}; expected {shape}")
    # A sum is finite when all its terms are, and quicker than a look at each.
    if not math.isfinite(values.sum()):
        raise InputError("action holds a number that is not finite; check the policy")
    return values


def box(bounds: tuple[np.ndarray, np.ndarray]) -> spaces.Box:
    """Bounds as a float32 space."""
    low, high = (np.asarray(bound, np.float32) for bound in bounds)
    return spaces.Box(low, high, dtype=np.float32)


class TaskAdapter(ABC):
    """A task, its names and its compiled programs. A copy, or what was pickled, goes on bit for bit.

    Attributes:
        task: the pure task, in the environment's precision.
        drive: muscle -> what drives it.
        observation_names, action_names: what the entries of observation and action are.
        muscles, coordinates: what the entries of info's arrays are.
        dt: s per step.
    """

    task: Task

    def _prepare(self, task: Any, precision: str, render_mode: str | None, options: dict[str, Any]) -> Task:
        """Take over a task and return it as it was built; nothing is compiled before the first reset and step."""
        require_own_jax()
        self._dtype = checked_precision(precision)
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise InputError(f"render_mode is {render_mode!r}; use None or one of {listed(RENDER_MODES)}")
        made = make_task(task, **options)
        self._x64 = precision == "float64"
        self.render_mode = render_mode
        names = describe(made)
        self.drive = names.drive
        self.observation_names, self.action_names = names.observation_names, names.action_names
        self.muscles, self.coordinates = names.muscles, names.coordinates
        self.dt = made.dt
        self._observation_box, self._action_box = box(made.observation_bounds), box(made.action_bounds)
        self._load(made)
        return made

    def _load(self, task: Task) -> None:
        require_own_jax()
        with jax.enable_x64(self._x64):
            self.task = as_dtype(task, self._dtype)
            packing = Packing.of(self.task)
            self._parts = packing.pack(self.task)
            self._programs = self._compiled(packing)

    @abstractmethod
    def _compiled(self, packing: Packing) -> Any:
        """Programs for tasks of one structure."""

    def _new_history(self, made: Task) -> History:
        """What pictures are drawn from."""
        scene = getattr(made, "scene", None)
        if scene is None:
            kind = type(made).__name__
            raise InputError(f"task {kind} has no scene, so it cannot be drawn; make it with render_mode=None")
        return History(scene())

    def _check_observation(self, size: int) -> None:
        expected = self._observation_box.shape[0]
        if size != expected:
            kind = type(self.task).__name__
            raise InputError(f"task {kind} returns {size} observations for {expected} observation_bounds; give as many")

    def __getstate__(self) -> dict[str, Any]:
        # Programs cannot be pickled; those of an equal task are found again, or compiled.
        state = {key: value for key, value in self.__dict__.items() if key not in ("_programs", "_parts")}
        return state | {"task": jax.tree.map(np.asarray, self.task)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._load(state["task"])
