"""``nms_gym/MomentTracking-v0`` as a single Gymnasium environment: NumPy at the edge, one compiled call per step."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import gymnasium
import jax
import numpy as np
from gymnasium import spaces

from nms_gym.envs import moment_tracking as core
from nms_gym.envs.moment_tracking import EFFORT_WEIGHT, MomentTracking
from nms_gym.envs.packing import Packing, single_programs
from nms_gym.envs.rendering import History, draw
from nms_gym.errors import InputError, listed

PRECISIONS = {"float32": np.float32, "float64": np.float64}
RENDER_MODES = ("rgb_array",)


# --- shared by the single and the vectorised environment -----------------


def observation_space(task: MomentTracking) -> spaces.Box:
    """Bounded float32 box."""
    return spaces.Box(*task.observation_bounds, dtype=np.float32)


def action_space(task: MomentTracking) -> spaces.Box:
    """[0, 1] or [-1, 1] per actuated muscle and commanded synergy."""
    return spaces.Box(float(task.lowest_action), 1.0, (len(task.action_names),), dtype=np.float32)


def load_actuated_task(
    trial: str | os.PathLike[str] | None, subject: str | os.PathLike[str] | None, **options: Any
) -> MomentTracking:
    """``load_task``, refusing a task without an action.

    Raises:
        InputError: nothing is actuated.
    """
    task = core.load_task(trial, subject, **options)
    if not task.action_names:
        raise InputError(
            "no muscle is actuated, and an environment needs an action: name at least one muscle without a channel in "
            f"actuated (there are {listed(m for m, drive in task.drive.items() if drive == 'passive')}), let the "
            "action command a subject's synergies (synergies='action'), or use "
            "nms_gym.envs.moment_tracking.make_task, which allows none"
        )
    return task


def check_options(precision: str, render_mode: str | None) -> None:
    """Refuse a precision or a render mode that there is not."""
    if precision not in PRECISIONS:
        raise InputError(f"precision is {precision!r}; use one of {listed(PRECISIONS)}")
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise InputError(f"render_mode is {render_mode!r}; use None or one of {listed(RENDER_MODES)}")


def checked_action(action: Any, space: Any, dtype: Any) -> np.ndarray:
    """The action in the bounds of its ``Box``.

    Raises:
        InputError: wrong shape or not finite.
    """
    array = np.asarray(action, dtype=dtype)
    if array.shape != space.shape:
        raise InputError(f"action has shape {array.shape}; expected {space.shape}")
    # A sum is finite when all its terms are, and quicker than a look at each.
    if not math.isfinite(array.sum()):
        raise InputError("action holds a number that is not finite; check the policy")
    return np.clip(array, space.low, space.high)


# --- the environment ------------------------------------------------------


class MomentTrackingEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """Track measured joint moments by exciting the muscles that were not recorded.

    Attributes:
        task: the pure task; ``nms_gym.envs.moment_tracking`` documents observation, reward and info.
        drive: muscle -> what drives it, as ``MomentTracking.drive`` says.
        observation_names, action_names: what the entries of observation and action are.
        muscles, coordinates: what the entries of info's arrays are.
        dt: s per step; a step is a sample of the recording.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": list(RENDER_MODES), "render_fps": 25}

    def __init__(
        self,
        trial: str | os.PathLike[str] | None = None,
        subject: str | os.PathLike[str] | None = None,
        actuated: Sequence[str] | None = None,
        synergies: Literal["recorded", "action"] = "recorded",
        coordinates: Sequence[str] | None = None,
        start: float | None = None,
        stop: float | None = None,
        random_start: bool = False,
        effort_weight: float = EFFORT_WEIGHT,
        symmetric_action: bool = False,
        precision: str = "float32",
        render_mode: str | None = None,
    ) -> None:
        """Load the files and prepare the task; what is compiled is compiled at the first reset and step.

        Args:
            trial: path of a trial, or name of a shipped demo trial; by default the first of those.
            subject: path of a subject file; by default the shipped demo subject.
            actuated: muscles that the action drives; by default all that neither channels nor synergies drive.
            synergies: "recorded": commands of the subject's synergies are found from the recorded EMG; "action": the
                action gives them.
            coordinates: joints whose moments are tracked; by default the measured ones that the subject has.
            start: s, first sample of the episode; by default the recording's first.
            stop: s, last sample of the episode; by default the recording's last.
            random_start: start anywhere in the first half of the recording.
            effort_weight: of the mean squared excitation in the reward.
            symmetric_action: actions from -1 to 1 instead of from 0 to 1.
            precision: "float32" or "float64", of the computation; observations are float32.
            render_mode: None or "rgb_array".

        Raises:
            InputError: a file, name or option cannot be used.
        """
        check_options(precision, render_mode)
        task = load_actuated_task(
            trial,
            subject,
            actuated=actuated,
            synergies=synergies,
            coordinates=coordinates,
            start=start,
            stop=stop,
            random_start=random_start,
            effort_weight=effort_weight,
            symmetric_action=symmetric_action,
        )
        self._dtype = PRECISIONS[precision]
        self._x64 = precision == "float64"
        self.drive = task.drive
        self.observation_names = task.observation_names
        self.action_names = task.action_names
        self.muscles = task.model.muscles
        self.coordinates = task.coordinates
        self.dt = float(task.replay.dt)
        self.observation_space = observation_space(task)
        self.action_space = action_space(task)
        self.render_mode = render_mode
        with jax.enable_x64(self._x64):
            self.task = core.as_dtype(task, self._dtype)
            packing = Packing.of(self.task)
            self._parts = packing.pack(self.task)
            self._programs = single_programs(packing)
        self._layout = self._programs.layout
        self._state: np.ndarray | None = None
        self._history = History(task) if render_mode is not None else None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode, muscles at rest at its first sample. No options are used."""
        super().reset(seed=seed)
        with jax.enable_x64(self._x64):
            flat = self._programs.reset(self._parts, self.np_random.integers(2**32, dtype=np.uint32))
            values = self._received(flat)
        info = self._layout.unpack_info(values)
        if self._history is not None:
            self._history.start(info)
        return self._observation(values), info | {"drive": dict(self.drive)}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Produce one sample. Actions are clipped to the action space.

        Raises:
            InputError: the action has the wrong shape or is not finite.
            gymnasium.error.ResetNeeded: ``reset`` was not called, or the episode is over.
        """
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        action = checked_action(action, self.action_space, self._dtype)
        with jax.enable_x64(self._x64):
            flat = self._programs.step(self._parts, np.concatenate([self._state, action]))
            values = self._received(flat)
        layout = self._layout
        truncated = bool(values[layout.truncated])
        if truncated:
            self._state = None
        info = layout.unpack_info(values)
        if self._history is not None:
            self._history.add(info)
        return self._observation(values), float(values[layout.reward]), False, truncated, info

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """Measured and produced moments so far, and the muscles' excitations now: ``(H, W, 3)`` uint8."""
        if self._history is None:
            gymnasium.logger.warn('render() was called without a render mode; make the environment with "rgb_array"')
            return None
        return draw(self._history)

    def _received(self, flat: Any) -> np.ndarray:
        """Keep the state that comes first, hand on the rest."""
        values = np.asarray(flat)
        self._state = values[: self._programs.state_size]
        return values[self._programs.state_size :]

    def _observation(self, values: np.ndarray) -> np.ndarray:
        return values[self._layout.observation].astype(np.float32)
