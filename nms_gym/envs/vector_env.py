"""A task as a vectorised Gymnasium environment: all episodes advance in one compiled call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jax import Array

from nms_gym.envs.adapter import RENDER_FPS, RENDER_MODES, TaskAdapter, checked_action, require_own_jax
from nms_gym.envs.packing import Packing
from nms_gym.envs.rendering import draw
from nms_gym.envs.task import Step, built, episode_key, require_same
from nms_gym.errors import InputError, listed, shown

AUTORESET_MODES = {mode.value: mode for mode in AutoresetMode}
INFOS = ("scalars", "all")


@dataclass(frozen=True)
class VectorPrograms:
    """Compiled for tasks of one structure; the task comes packed, for every argument costs a microsecond or two."""

    reset: Callable[[tuple[Array, ...], Any], tuple[Any, Step]]
    """(packed task, seeds (N,)) -> states, first steps"""
    restart: Callable[[tuple[Array, ...], Any, Any, Any], tuple[Any, Step]]
    """(packed task, states, indices, seeds) -> states, first steps of those; an index beyond the last is nobody"""
    step: Callable[[tuple[Array, ...], Any, Any, Any, Any], tuple[Any, Step]]
    """(packed task, states, actions, lowest and highest action) -> states, steps"""


@functools.lru_cache(maxsize=16)
def vector_programs(packing: Packing, info: str) -> VectorPrograms:
    """What runs tasks of one structure; environments of equal structure share what is compiled."""

    def returned(out: Step) -> Step:
        kept = {key: value for key, value in out.info.items() if info == "all" or value.ndim == 1}
        return Step(out.observation.astype(jnp.float32), out.reward, out.terminated, out.truncated, kept)

    # How a reset is built, noted while it is traced, which is before any step is.
    first: dict[str, str] = {}

    def start(parts: tuple[Array, ...], seeds: Array) -> tuple[Any, Step]:
        task = packing.unpack(parts)

        def one(seed: Array) -> tuple[Any, Step]:
            fresh = task.reset(episode_key(seed))
            first.update(built(fresh))
            return fresh

        states, out = jax.vmap(one)(seeds)
        return states, returned(out)

    def restart(parts: tuple[Array, ...], states: Any, indices: Array, seeds: Array) -> tuple[Any, Step]:
        fresh, out = start(parts, seeds)
        return jax.tree.map(lambda old, new: old.at[indices].set(new, mode="drop"), states, fresh), out

    def step(parts: tuple[Array, ...], states: Any, actions: Array, low: Array, high: Array) -> tuple[Any, Step]:
        task = packing.unpack(parts)

        def one(state: Any, action: Array) -> tuple[Any, Step]:
            after = task.step(state, jnp.clip(action, low, high))
            if first:
                require_same(task, first, built(after))
            return after

        states, out = jax.vmap(one)(states, actions)
        return states, returned(out)

    return VectorPrograms(jax.jit(start), jax.jit(restart, donate_argnums=1), jax.jit(step, donate_argnums=1))


class NmsVectorEnv(TaskAdapter, VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """``NmsEnv``, many at a time: the same numbers as as many single ones with the same seeds.

    Attributes:
        task, drive, observation_names, action_names, muscles, coordinates, dt: as those of ``NmsEnv``.
    """

    _programs: VectorPrograms

    def __init__(
        self,
        num_envs: int = 1,
        task: Any = "MomentTracking-v0",
        precision: str = "float32",
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        info: str | None = None,
        max_episode_steps: int | None = None,
        **options: Any,
    ) -> None:
        """Prepare ``num_envs`` episodes.

        Args:
            num_envs: how many.
            task: as that of ``NmsEnv``.
            precision: "float32" or "float64", of the computation; observations are float32.
            render_mode: None or "rgb_array".
            autoreset_mode: "NextStep" (the step after the last one resets; its action is not used and its reward is
                0), "SameStep" (the last step returns the next episode's first observation, and its own in
                ``infos["final_obs"]`` and ``infos["final_info"]``) or "Disabled" (episodes that ended are reset by
                ``reset(options={"reset_mask": ...})``).
            info: "scalars": infos have the numbers only, which is quicker; "all": the arrays (excitations, angles) too.
                By default "scalars", and "all" with a render mode.
            max_episode_steps: steps after which an episode is truncated at the latest, as ``gymnasium.make`` does for a
                single environment; None or -1 leaves that to the task.
            options: of the function that builds the task (``nms_gym.envs.builder(task)``).

        Raises:
            InputError: a file, name or option cannot be used, or the task lacks something.
        """
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
            raise InputError(f"num_envs is {num_envs!r}; use at least 1")
        name = autoreset_mode.value if isinstance(autoreset_mode, AutoresetMode) else autoreset_mode
        if name not in AUTORESET_MODES:
            raise InputError(f"autoreset_mode is {name!r}; use one of {listed(AUTORESET_MODES)}")
        if info not in (None, *INFOS) or (info == "scalars" and render_mode is not None):
            raise InputError(f"info is {info!r} with render_mode {render_mode!r}; use 'all', or 'scalars' without one")
        limit = None if max_episode_steps == -1 else max_episode_steps
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise InputError(
                f"max_episode_steps is {limit!r}; use at least 1, or None or -1 for no limit but the task's"
            )
        self._info = info or ("scalars" if render_mode is None else "all")
        made = self._prepare(task, precision, render_mode, options)
        self.num_envs = num_envs
        self.autoreset_mode = AUTORESET_MODES[name]
        self.metadata = {
            "render_modes": list(RENDER_MODES),
            "render_fps": RENDER_FPS,
            "autoreset_mode": self.autoreset_mode,
        }
        self.single_observation_space = self._observation_box
        self.single_action_space = self._action_box
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._bounds = tuple(bound.astype(self._dtype) for bound in (self._action_box.low, self._action_box.high))
        self._limit = limit
        self._steps = np.zeros(num_envs, dtype=int)
        self._shape = (num_envs, *self._action_box.shape)
        self._states: Any = None
        self._last: np.ndarray | None = None
        self._ended = np.zeros(num_envs, dtype=bool)
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._histories = [] if render_mode is None else [self._new_history(made) for _ in range(num_envs)]

    def _compiled(self, packing: Packing) -> VectorPrograms:
        return vector_programs(packing, self._info)

    def __getstate__(self) -> dict[str, Any]:
        # As NumPy, which keeps 64 bits whatever precision the process that reads them works in; keys have none.
        return super().__getstate__() | {"_states": jax.tree.map(_saved, self._states)}

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start episodes. An int seeds the environments with seed, seed + 1, ...; a list seeds each.

        Args:
            seed: of the generators that seed the episodes; None goes on with those there are.
            options: ``{"reset_mask": mask}``, bools (num_envs,), starts those environments only, and returns the last
                observations of the others; infos are of those that start. Nothing else is used.

        Raises:
            InputError: as many seeds as environments were expected, or the mask is none.
            gymnasium.error.ResetNeeded: some are to be started that never were all.
        """
        require_own_jax()
        mask = self._reset_mask(options)
        super().reset(seed=seed if isinstance(seed, int) else None)
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        if seeds is None:
            seeds = [None] * self.num_envs
        if len(seeds) != self.num_envs:
            raise InputError(f"{len(seeds)} seeds for {self.num_envs} environments; give as many")
        starting = np.flatnonzero(mask)
        for i in map(int, starting):
            one = seeds[i]
            if one is not None or self._generators[i] is None:
                self._generators[i] = seeding.np_random(one)[0]
        with jax.enable_x64(self._x64):
            out = self._restart(starting)
        self._check_observation(out.observation.shape[1])
        if self._last is not None and not mask.all():
            # What is not of those that start is zero in infos, and masked there.
            fresh, out = out, jax.tree.map(lambda new: np.zeros((self.num_envs, *new.shape[1:]), new.dtype), out)
            for all_rows, new in zip(jax.tree.leaves(out), jax.tree.leaves(fresh), strict=True):
                all_rows[starting] = new
            out.observation[~mask] = self._last[~mask]
        self._last = out.observation.copy()
        self._ended[mask] = False
        self._steps[mask] = 0
        infos = self._infos(out, mask)
        infos["drive"], infos["_drive"] = self._batched_drive(), mask.copy()
        for i, history in enumerate(self._histories):
            if mask[i]:
                history.start({key: value[i] for key, value in out.info.items()})
        return out.observation, infos

    def _reset_mask(self, options: dict[str, Any] | None) -> np.ndarray:
        """Which environments start, (num_envs,)."""
        if not options or "reset_mask" not in options:
            return np.ones(self.num_envs, dtype=bool)
        mask = options["reset_mask"]
        if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.shape != (self.num_envs,) or not mask.any():
            raise InputError(
                f"reset_mask is {shown(mask)}; expected a NumPy array of {self.num_envs} bools, not all False"
            )
        if self._states is None and not mask.all():
            raise gymnasium.error.ResetNeeded("call reset() for all environments before a reset of some")
        return mask.copy()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One control step in every environment. Actions are clipped to the action space.

        Raises:
            InputError: the actions are no numbers, have the wrong shape or are not finite.
            gymnasium.error.ResetNeeded: ``reset`` was not called, or not for an episode that is over where nothing else
                resets it.
        """
        if self._states is None:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        values = checked_action(actions, self._shape, self._dtype)
        disabled = self.autoreset_mode is AutoresetMode.DISABLED
        if disabled and self._ended.any():
            ended = listed(map(str, np.flatnonzero(self._ended)))
            raise gymnasium.error.ResetNeeded(
                f"the episodes of environments {ended} are over; call reset(options={{'reset_mask': mask}}) first"
            )
        next_step = self.autoreset_mode is AutoresetMode.NEXT_STEP
        with jax.enable_x64(self._x64):
            self._states, out = self._programs.step(self._parts, self._states, values, *self._bounds)
            final = out = jax.tree.map(np.array, out)
            if self._limit is not None:
                self._steps += 1
                np.logical_or(final.truncated, self._steps >= self._limit, out=final.truncated)
            # In next-step mode the environments that ended in the last step start now instead of stepping.
            over = final.terminated | final.truncated
            starting = np.flatnonzero(self._ended if next_step else over & (not disabled))
            if len(starting):
                fresh = self._restart(starting)
                self._steps[starting] = 0
                out = jax.tree.map(np.copy, final)
                for all_rows, new in zip(jax.tree.leaves(out), jax.tree.leaves(fresh), strict=True):
                    all_rows[starting] = new
        if next_step:
            final = out
            over = final.terminated | final.truncated
        self._ended, self._last = over, out.observation.copy()
        infos = self._infos(out)
        if not next_step and len(starting):
            self._add_final(infos, final, starting)
        for i, history in enumerate(self._histories):
            info = {key: value[i] for key, value in out.info.items()}
            history.start(info) if i in starting else history.add(info)
        return (
            out.observation,
            final.reward.astype(np.float64),
            final.terminated.copy(),
            final.truncated.copy(),
            infos,
        )

    def render(self) -> tuple[np.ndarray, ...] | None:  # type: ignore[override]
        """A picture of every episode, each ``(H, W, 3)`` uint8."""
        if self.render_mode is None:
            gymnasium.logger.warn('render() was called without a render mode; make the environment with "rgb_array"')
            return None
        return tuple(draw(history) for history in self._histories)

    def _restart(self, indices: np.ndarray) -> Any:
        """Start new episodes in some environments; returns their first steps as NumPy."""
        seeds = np.zeros(len(indices), dtype=np.uint32)
        for place, i in enumerate(indices):
            generator = self._generators[i]
            assert generator is not None
            seeds[place] = generator.integers(2**32, dtype=np.uint32)
        if len(indices) == self.num_envs:
            self._states, out = self._programs.reset(self._parts, seeds)
            return jax.tree.map(np.array, out)
        # Few at a time, and always as many, so that one program serves: starting costs more than a step.
        chunk = min(self.num_envs, max(8, self.num_envs // 4))
        rows = []
        for first in range(0, len(indices), chunk):
            some = slice(first, first + chunk)
            missing = chunk - len(indices[some])
            padded = np.pad(indices[some], (0, missing), constant_values=self.num_envs).astype(np.int32)
            padded_seeds = np.pad(seeds[some], (0, missing))
            self._states, out = self._programs.restart(self._parts, self._states, padded, padded_seeds)
            rows.append(jax.tree.map(lambda leaf, count=chunk - missing: np.asarray(leaf)[:count], out))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows)

    def _everyone(self) -> np.ndarray:
        return np.ones(self.num_envs, dtype=bool)

    def _infos(self, out: Any, mask: np.ndarray | None = None) -> dict[str, Any]:
        infos = dict(out.info)
        return infos | {f"_{key}": self._everyone() if mask is None else mask.copy() for key in infos}

    def _batched_drive(self) -> dict[str, Any]:
        batched: dict[str, Any] = {}
        for muscle, source in self.drive.items():
            batched[muscle] = np.full(self.num_envs, source, dtype=object)
            batched[f"_{muscle}"] = self._everyone()
        return batched

    def _add_final(self, infos: dict[str, Any], final: Any, ended: np.ndarray) -> None:
        """``final_obs`` and ``final_info`` as Gymnasium's vector environments lay them out."""
        mask = np.zeros(self.num_envs, dtype=bool)
        mask[ended] = True
        observations = np.full(self.num_envs, None, dtype=object)
        for i in ended:
            observations[i] = final.observation[i].copy()
        last: dict[str, Any] = {}
        for key, value in final.info.items():
            last[key] = np.zeros_like(value)
            last[key][ended] = value[ended]
        infos["final_obs"], infos["_final_obs"] = observations, mask
        infos["final_info"] = last | {f"_{key}": mask.copy() for key in last}
        infos["_final_info"] = mask.copy()


def _saved(leaf: Array) -> Any:
    return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf)
