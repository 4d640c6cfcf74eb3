"""Recorded trials on the grid of a limb's steps: EMG to replay, motion to follow, motion that is given."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import pytree, static
from nms_gym.envs.limb import Limb
from nms_gym.envs.task import checked_number, draw_index
from nms_gym.errors import InputError, listed
from nms_gym.files.subject import resolve_trial
from nms_gym.model.replay import channels_at
from nms_gym.recording.trial import Trial, load_trial
from nms_gym.skeleton.kinematics import BaseMotion

Names = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@pytree
class Recordings:
    """R trials, each repeated at its end to the length of the longest."""

    channels: Array
    """(R, T, C) envelopes and commands of ``Limb.recorded``, before gain and delay"""
    q: Array
    """(R, T, D) rad, of the free coordinates"""
    qd: Array
    """(R, T, D) rad/s"""
    base: BaseMotion | None
    """(R, T, P) of the prescribed coordinates"""
    lengths: Array
    """(R,) int32 samples"""
    names: tuple[str, ...] = static()

    @property
    def longest(self) -> int:
        """Samples of the longest trial."""
        return self.q.shape[1]

    def draw(self, key: Array) -> Array:
        """int32; one of the trials."""
        return draw_index(key, len(self.names))

    def motion_at(self, trial: Array, sample: Array) -> tuple[Array, Array]:
        """Angles and speeds ``(D,)``; the last ones beyond the end."""
        sample = jnp.minimum(sample, self.lengths[trial] - 1)
        return self.q[trial, sample], self.qd[trial, sample]

    def channels_at(self, trial: Array, sample: Array) -> Array:
        """Channels ``(C,)``; the last ones beyond the end."""
        return self.channels[trial, jnp.minimum(sample, self.lengths[trial] - 1)]

    def base_at(self, trial: Array, sample: Array) -> BaseMotion | None:
        """Motion of the prescribed coordinates."""
        sample = jnp.minimum(sample, self.lengths[trial] - 1)
        return jax.tree.map(lambda leaf: leaf[trial, sample], self.base)


def load_trials(trial: Names | None, default: Names) -> list[Trial]:
    """Trials by path or name, one or several.

    Raises:
        InputError: a file is missing or no trial, or the list is empty.
    """
    asked = default if trial is None else trial
    several: list[Any] = list(asked) if isinstance(asked, (list, tuple)) else [asked]
    if not several or not all(isinstance(one, (str, os.PathLike)) for one in several):
        raise InputError(f"trial is {asked!r}; give a path or a name, or a list of them")
    return [load_trial(resolve_trial(one)) for one in several]


def make_recordings(
    limb: Limb,
    trials: Sequence[Trial],
    *,
    prescribed: Sequence[str] = (),
    start: float | None = None,
    stop: float | None = None,
) -> Recordings:
    """Trials at the limb's physical step.

    Args:
        limb: whose recorded channels and free coordinates are wanted.
        trials: R of them.
        prescribed: coordinates that move as recorded.
        start: s, in the recordings' time; by default their first sample.
        stop: s; by default their last.

    Raises:
        InputError: a coordinate or channel is missing, or a window is empty.
    """
    parts = [_of_one(limb, trial, tuple(prescribed), start, stop) for trial in trials]
    longest = max(len(q) for _, q, _, _ in parts)

    def stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([np.concatenate([a, np.repeat(a[-1:], longest - len(a), axis=0)]) for a in arrays])

    base: Any = None
    if prescribed:
        base = BaseMotion(*(stacked([part[3][i] for part in parts]) for i in range(3)))
    channels, q, qd = (stacked([part[i] for part in parts]) for i in range(3))  # type: ignore[misc]
    lengths: Any = np.array([len(part[1]) for part in parts], np.int32)
    return Recordings(channels, q, qd, base, lengths, tuple(t.name for t in trials))  # type: ignore[arg-type]


def _of_one(
    limb: Limb, trial: Trial, prescribed: tuple[str, ...], start: float | None, stop: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    for name, value in (("start", start), ("stop", stop)):
        if value is not None:
            checked_number(value, name, -1e6, 1e6, "s")
    if start is not None or stop is not None:
        trial = trial.window(
            trial.time[0] if start is None else start,
            trial.time[-1] if stop is None else stop,
        )
    if abs(trial.dt - limb.dt) > 1e-9:
        trial = trial.resampled(limb.dt)
    missing = [c for c in (*limb.coordinates, *prescribed) if c not in trial.coordinates]
    if missing:
        raise InputError(
            f"trial {trial.name!r}: its kinematics lack {listed(missing)}, which this task needs; it has "
            f"{listed(trial.coordinates, 50)}"
        )
    free, given = ([trial.coordinates.index(c) for c in names] for names in (limb.coordinates, prescribed))
    acceleration = np.gradient(trial.qd[:, given], limb.dt, axis=0) if given else np.zeros((len(trial.time), 0))
    channels = channels_at(limb.model, trial, trial.time, limb.recorded)
    return channels, trial.q[:, free], trial.qd[:, free], (trial.q[:, given], trial.qd[:, given], acceleration)
