"""Recorded trials on the grid of a limb's steps: EMG to replay, motion to follow, motion that is given."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import Leaf, pytree, static
from nms_gym.envs.limb import Limb
from nms_gym.envs.options import EpisodeOptions, Options, flag, number, option
from nms_gym.envs.task import checked_number, draw_index
from nms_gym.errors import InputError, listed
from nms_gym.files.subject import resolve_trial
from nms_gym.model.replay import channels_at
from nms_gym.recording.trial import Trial, load_trial
from nms_gym.skeleton.kinematics import BaseMotion

Names = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def _checked_time(value: Any, name: str) -> None:
    if value is not None:
        checked_number(value, name, -1e6, 1e6, "s")


@dataclass(frozen=True, kw_only=True)
class RecordingOptions(Options):
    """Which recording, and what of it."""

    trial: Names | None = option(
        None,
        "path or name of a recording, or several of which a reset draws one: its EMG is what muscles with a recorded "
        "source get, its motion is the target where the task follows a recorded one",
    )
    start: float | None = option(None, "s, in the recording's time; by default its first sample", _checked_time)
    stop: float | None = option(None, "s; by default its last sample", _checked_time)
    random_start: bool = flag(False, "start anywhere in the recording that leaves room, instead of at its first sample")


@dataclass(frozen=True, kw_only=True)
class ReplayOptions(RecordingOptions):
    """A recording whose EMG may be disturbed."""

    emg_noise: float = number(0.0, "relative standard deviation of recorded EMG, drawn anew at every sample", 0.0, 3.0)

    @property
    def used(self) -> tuple[str, ...]:
        """Options that ask for something of a recording."""
        return tuple(name for name, default in vars(ReplayOptions()).items() if getattr(self, name) != default)


@dataclass(frozen=True, kw_only=True)
class RecordedEpisode(EpisodeOptions):
    """How long an episode that follows a recorded motion lasts."""

    seconds: float | None = option(None, "s, how long an episode lasts", none="the whole recording")


@pytree
class Recordings:
    """EMG and given motion of R trials, each repeated at its end to the length of the longest."""

    channels: Leaf
    """(R, T, C) envelopes and commands of ``Limb.recorded``, before gain and delay"""
    base: BaseMotion | None
    """(R, T, P) of the prescribed coordinates"""
    lengths: Leaf
    """(R,) int32 samples"""
    noise: Leaf
    """relative standard deviation of the channels"""
    noisy: bool = static()

    def draw(self, key: Array) -> Array:
        """int32; one of the trials."""
        return draw_index(key, self.lengths.shape[0])

    def channels_at(self, trial: Array, sample: Array, seed: Array) -> Array:
        """Channels ``(C,)``, with the noise that the seed of an episode gives this sample; the last ones beyond the
        end."""
        values = self.channels[trial, jnp.minimum(sample, self.lengths[trial] - 1)]
        if not self.noisy:
            return values
        key = jax.random.fold_in(jax.random.key(seed), sample)
        draw = jax.random.normal(key, values.shape, jnp.float32).astype(values.dtype)
        # Log-normal: envelopes stay positive, keep their mean, and are noisier where they are larger.
        return values * jnp.exp(self.noise * draw - 0.5 * self.noise**2)

    def base_at(self, trial: Array, sample: Array) -> BaseMotion | None:
        """Motion of the prescribed coordinates."""
        sample = jnp.minimum(sample, self.lengths[trial] - 1)
        return jax.tree.map(lambda leaf: leaf[trial, sample], self.base)


@pytree
class RecordedMotion:
    """A target: the motion of R trials, that of the trial whose EMG is replayed."""

    q: Leaf
    """(R, T, D) rad, of the free coordinates"""
    qd: Leaf
    """(R, T, D) rad/s"""
    lengths: Leaf
    """(R,) int32 samples"""

    def draw(self, key: Array, trial: Array) -> Array:
        """Which one: that of the trial."""
        return trial

    def at(self, drawn: Array, sample: Array, dt: float) -> tuple[Array, Array]:
        """Angles and speeds ``(D,)``; the last ones beyond the end."""
        sample = jnp.minimum(sample, self.lengths[drawn] - 1)
        return self.q[drawn, sample], self.qd[drawn, sample]

    def over(self, drawn: Array, sample: Array) -> Array:
        """bool; the recording has no such sample."""
        return sample > self.lengths[drawn] - 1


def load_trials(names: Names) -> list[Trial]:
    """Trials by path or name, one or several.

    Raises:
        InputError: a file is missing or no trial, or the list is empty.
    """
    several: list[Any] = list(names) if isinstance(names, (list, tuple)) else [names]
    if not several or not all(isinstance(one, (str, os.PathLike)) for one in several):
        raise InputError(f"trial is {names!r}; give a path or a name, or a list of them")
    return [load_trial(resolve_trial(one)) for one in several]


def make_recordings(
    limb: Limb, trials: Sequence[Trial], options: ReplayOptions, *, prescribed: Sequence[str] = ()
) -> tuple[Recordings, RecordedMotion]:
    """Trials at the limb's physical step: what they put in, and the motion that they show.

    Args:
        limb: whose recorded channels and free coordinates are wanted.
        trials: R of them; none for a task without, whose one empty recording gives nothing.
        options: window and noise; what it names in ``trial`` has been loaded.
        prescribed: coordinates that move as recorded.

    Raises:
        InputError: a coordinate or channel is missing, or a window is empty.
    """
    parts = [_of_one(limb, trial, tuple(prescribed), options) for trial in trials]
    if not parts:
        nothing = np.zeros((1, len(limb.coordinates)))
        parts = [(np.zeros((1, 0)), nothing, nothing, ())]
    longest = max(len(q) for _, q, _, _ in parts)

    def stacked(arrays: Sequence[np.ndarray]) -> Any:
        return np.stack([np.concatenate([a, np.repeat(a[-1:], longest - len(a), axis=0)]) for a in arrays])

    base = BaseMotion(*(stacked([part[3][i] for part in parts]) for i in range(3))) if prescribed else None
    channels, q, qd = (stacked(arrays) for arrays in list(zip(*parts, strict=True))[:3])
    lengths: Any = np.array([len(part[1]) for part in parts], np.int32)
    noise: Any = np.asarray(options.emg_noise)
    return Recordings(channels, base, lengths, noise, options.emg_noise > 0), RecordedMotion(q, qd, lengths)


def _of_one(
    limb: Limb, trial: Trial, prescribed: tuple[str, ...], options: RecordingOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    if options.start is not None or options.stop is not None:
        trial = trial.window(
            trial.time[0] if options.start is None else options.start,
            trial.time[-1] if options.stop is None else options.stop,
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
