"""``nms_gym/MomentTracking-v0`` as a vectorised Gymnasium environment: all episodes advance in one compiled call."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any, Literal

import gymnasium
import jax
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jax import Array

from nms_gym.envs import moment_tracking as core
from nms_gym.envs.gymnasium_env import (
    PRECISIONS,
    RENDER_MODES,
    action_space,
    check_options,
    checked_action,
    load_actuated_task,
    observation_space,
)
from nms_gym.envs.moment_tracking import EFFORT_WEIGHT, MomentTracking, TaskState
from nms_gym.envs.packing import Layout, packed_reset, packed_step
from nms_gym.envs.rendering import History, draw
from nms_gym.errors import InputError, listed

AUTORESET_MODES = {mode.value: mode for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP)}

_reset_all = jax.jit(jax.vmap(packed_reset, in_axes=(None, 0)))


@functools.partial(jax.jit, donate_argnums=1)
def _step(task: MomentTracking, states: TaskState, actions: Array) -> tuple[TaskState, Array]:
    return jax.vmap(packed_step, in_axes=(None, 0, 0))(task, states, actions)


@functools.partial(jax.jit, donate_argnums=1)
def _reset_some(task: MomentTracking, states: TaskState, indices: Array, seeds: Array) -> tuple[TaskState, Array]:
    """Restart the environments ``indices``; an index beyond the last is no environment, and does nothing."""
    fresh, flat = jax.vmap(packed_reset, in_axes=(None, 0))(task, seeds)
    return jax.tree.map(lambda old, new: old.at[indices].set(new, mode="drop"), states, fresh), flat


class MomentTrackingVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """``MomentTrackingEnv``, many at a time: the same numbers as as many single ones with the same seeds.

    Attributes:
        task, drive, observation_names, action_names, muscles, coordinates, dt: as those of ``MomentTrackingEnv``.
    """

    def __init__(
        self,
        num_envs: int = 1,
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
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        """Prepare ``num_envs`` episodes of one recording and subject; options as those of ``MomentTrackingEnv``.

        Args:
            num_envs: how many.
            trial, subject, actuated, synergies, coordinates, start, stop: see ``MomentTrackingEnv``.
            random_start, effort_weight, symmetric_action, precision, render_mode: see ``MomentTrackingEnv``.
            autoreset_mode: "NextStep" (the step after the last one resets; its action is not used and its reward is
                0) or "SameStep" (the last step returns the next episode's first observation, and its own in
                ``infos["final_obs"]`` and ``infos["final_info"]``).

        Raises:
            InputError: a file, name or option cannot be used.
        """
        check_options(precision, render_mode)
        if num_envs < 1:
            raise InputError(f"num_envs is {num_envs}; use at least 1")
        name = autoreset_mode.value if isinstance(autoreset_mode, AutoresetMode) else autoreset_mode
        if name not in AUTORESET_MODES:
            raise InputError(f"autoreset_mode is {name!r}; use one of {listed(AUTORESET_MODES)}")
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
        self.num_envs = num_envs
        self.autoreset_mode = AUTORESET_MODES[name]
        self.metadata = {"render_modes": list(RENDER_MODES), "render_fps": 25, "autoreset_mode": self.autoreset_mode}
        self.render_mode = render_mode
        self._dtype = PRECISIONS[precision]
        self._x64 = precision == "float64"
        self.drive = task.drive
        self.observation_names = task.observation_names
        self.action_names = task.action_names
        self.muscles = task.model.muscles
        self.coordinates = task.coordinates
        self.dt = float(task.replay.dt)
        self.single_observation_space = observation_space(task)
        self.single_action_space = action_space(task)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        with jax.enable_x64(self._x64):
            self.task = core.as_dtype(task, self._dtype)
            self._layout = Layout.of(self.task)
        self._states: TaskState | None = None
        self._ended = np.zeros(num_envs, dtype=bool)
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._histories = [History(task) for _ in range(num_envs)] if render_mode is not None else []

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start all episodes. An int seeds the environments with seed, seed + 1, ...; a list seeds each. No options.

        Raises:
            InputError: as many seeds as environments were expected.
        """
        super().reset(seed=seed if isinstance(seed, int) else None)
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        if seeds is None:
            seeds = [None] * self.num_envs
        if len(seeds) != self.num_envs:
            raise InputError(f"{len(seeds)} seeds for {self.num_envs} environments; give as many")
        for i, one in enumerate(seeds):
            if one is not None or self._generators[i] is None:
                self._generators[i] = seeding.np_random(one)[0]
        everyone = np.arange(self.num_envs)
        with jax.enable_x64(self._x64):
            flat = self._restart(everyone)
        self._ended = np.zeros(self.num_envs, dtype=bool)
        infos = self._infos(flat)
        infos["drive"], infos["_drive"] = self._batched_drive(), self._everyone()
        for i, history in enumerate(self._histories):
            history.start(self._layout.unpack_info(flat[i]))
        return self._observations(flat), infos

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Produce one sample in every environment. Actions are clipped to the action space.

        Raises:
            InputError: the actions have the wrong shape or are not finite.
            gymnasium.error.ResetNeeded: ``reset`` was not called.
        """
        if self._states is None:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        values = checked_action(actions, self.action_space, self._dtype)
        next_step = self.autoreset_mode is AutoresetMode.NEXT_STEP
        with jax.enable_x64(self._x64):
            self._states, flat = _step(self.task, self._states, values)
            flat = np.asarray(flat)
            # In next-step mode the environments that ended in the last step start now instead of stepping.
            truncated = flat[:, self._layout.truncated] > 0.5
            starting = np.flatnonzero(self._ended if next_step else truncated)
            final = flat
            if len(starting):
                flat = flat.copy()
                flat[starting] = self._restart(starting)
        if next_step:
            final = flat
            truncated[starting] = False
        self._ended = truncated
        infos = self._infos(flat)
        if not next_step and len(starting):
            self._add_final(infos, final, starting)
        for i, history in enumerate(self._histories):
            info = self._layout.unpack_info(flat[i])
            history.start(info) if i in starting else history.add(info)
        rewards = final[:, self._layout.reward].astype(np.float64)
        return self._observations(flat), rewards, np.zeros(self.num_envs, dtype=bool), truncated.copy(), infos

    def render(self) -> tuple[np.ndarray, ...] | None:  # type: ignore[override]
        """A picture of every episode, each ``(H, W, 3)`` uint8."""
        if self.render_mode is None:
            gymnasium.logger.warn('render() was called without a render mode; make the environment with "rgb_array"')
            return None
        return tuple(draw(history) for history in self._histories)

    def _restart(self, indices: np.ndarray) -> np.ndarray:
        """Start new episodes in some environments; returns their rows."""
        seeds = np.zeros(len(indices), dtype=np.uint32)
        for place, i in enumerate(indices):
            generator = self._generators[i]
            assert generator is not None
            seeds[place] = generator.integers(2**32, dtype=np.uint32)
        if len(indices) == self.num_envs:
            self._states, flat = _reset_all(self.task, seeds)
            return np.asarray(flat)
        # Few at a time, and always as many, so that one program serves: starting costs more than a step.
        chunk = min(self.num_envs, max(8, self.num_envs // 16))
        rows = []
        for first in range(0, len(indices), chunk):
            some = slice(first, first + chunk)
            missing = chunk - len(indices[some])
            padded = np.pad(indices[some], (0, missing), constant_values=self.num_envs).astype(np.int32)
            self._states, flat = _reset_some(self.task, self._states, padded, np.pad(seeds[some], (0, missing)))
            rows.append(np.asarray(flat)[: chunk - missing])
        return np.concatenate(rows)

    def _observations(self, flat: np.ndarray) -> np.ndarray:
        return flat[:, self._layout.observation].astype(np.float32)

    def _everyone(self) -> np.ndarray:
        return np.ones(self.num_envs, dtype=bool)

    def _infos(self, flat: np.ndarray) -> dict[str, Any]:
        infos = self._layout.unpack_info(flat)
        return infos | {f"_{key}": self._everyone() for key in infos}

    def _batched_drive(self) -> dict[str, Any]:
        batched: dict[str, Any] = {}
        for muscle, source in self.drive.items():
            batched[muscle] = np.full(self.num_envs, source, dtype=object)
            batched[f"_{muscle}"] = self._everyone()
        return batched

    def _add_final(self, infos: dict[str, Any], final: np.ndarray, ended: np.ndarray) -> None:
        """``final_obs`` and ``final_info`` as Gymnasium's vector environments lay them out."""
        mask = np.zeros(self.num_envs, dtype=bool)
        mask[ended] = True
        observations = np.full(self.num_envs, None, dtype=object)
        for i in ended:
            observations[i] = final[i, self._layout.observation].astype(np.float32)
        last = self._layout.unpack_info(np.where(mask[:, None], final, 0.0).astype(final.dtype))
        infos["final_obs"], infos["_final_obs"] = observations, mask
        infos["final_info"] = last | {f"_{key}": mask.copy() for key in last}
        infos["_final_info"] = mask.copy()
