"""A task as a single Gymnasium environment: NumPy at the edge, one compiled call per step."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import jax
import numpy as np

from nms_gym.envs.adapter import RENDER_FPS, RENDER_MODES, TaskAdapter, checked_action, require_own_jax
from nms_gym.envs.packing import Packing, SinglePrograms, single_programs
from nms_gym.envs.rendering import draw


class NmsEnv(TaskAdapter, gymnasium.Env[np.ndarray, np.ndarray]):
    """One episode at a time of a shipped task, ``gymnasium.make("nms_gym/...")``, or of one's own: ``NmsEnv(task)``.

    ``nms_gym.envs.register_task`` gives an own task an id for ``gymnasium.make`` and ``gymnasium.make_vec``.

    Attributes:
        task: the pure task, in the environment's precision; its module documents observation, action, reward and info.
        drive: muscle -> what drives it.
        observation_names, action_names: what the entries of observation and action are.
        muscles, coordinates: what the entries of info's arrays are.
        dt: s per step.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": list(RENDER_MODES), "render_fps": RENDER_FPS}  # type: ignore[override]
    _programs: SinglePrograms

    def __init__(
        self,
        task: Any = "MomentTracking-v0",
        precision: str = "float32",
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        """Load the files and prepare the task; what is compiled is compiled at the first reset and step.

        Args:
            task: what ``nms_gym.envs.make_task`` takes: the name of an id, a task, or a function that builds one, also
                by name as "module:function" (which alone of the last two survives ``env.spec.to_json()``).
            precision: "float32" or "float64", of the computation; observations are float32.
            render_mode: None or "rgb_array".
            options: of the function that builds the task (``nms_gym.envs.builder(task)``).

        Raises:
            InputError: a file, name or option cannot be used, or the task lacks something.
        """
        made = self._prepare(task, precision, render_mode, options)
        self.observation_space = self._observation_box
        self.action_space = self._action_box
        self._state: np.ndarray | None = None
        self._history = None if render_mode is None else self._new_history(made)

    def _compiled(self, packing: Packing) -> SinglePrograms:
        programs = single_programs(packing)
        self._layout = programs.layout
        self._check_observation(programs.layout.observation.stop)
        return programs

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode. No options are used."""
        require_own_jax()
        super().reset(seed=seed)
        with jax.enable_x64(self._x64):
            flat = self._programs.reset(self._parts, self.np_random.integers(2**32, dtype=np.uint32))
            values = self._received(flat)
        info = self._layout.unpack_info(values)
        if self._history is not None:
            self._history.start(info)
        return self._observation(values), info | {"drive": dict(self.drive)}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One control step. Actions are clipped to the action space.

        Raises:
            InputError: the action is no numbers, has the wrong shape or is not finite.
            gymnasium.error.ResetNeeded: ``reset`` was not called, or the episode is over.
        """
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        space = self._action_box
        action = np.clip(checked_action(action, space.shape, self._dtype), space.low, space.high)
        with jax.enable_x64(self._x64):
            flat = self._programs.step(self._parts, np.concatenate([self._state, action]))
            values = self._received(flat)
        layout = self._layout
        terminated, truncated = bool(values[layout.terminated]), bool(values[layout.truncated])
        if terminated or truncated:
            self._state = None
        info = layout.unpack_info(values)
        if self._history is not None:
            self._history.add(info)
        return self._observation(values), float(values[layout.reward]), terminated, truncated, info

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The episode so far: ``(H, W, 3)`` uint8."""
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
