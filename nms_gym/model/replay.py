"""The model over recorded motion: arrays on one grid, made from a checked recording, and the scan over them."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array
from scipy.interpolate import PchipInterpolator

from nms_gym._pytree import Leaf, pytree, static
from nms_gym.errors import InputError, listed, seconds
from nms_gym.excitation import activation as act
from nms_gym.model.condition import HEALTHY, Condition
from nms_gym.model.forward import Kinematics, NmsOutput, NmsState, excited_step, initial_state, muscle_excitation
from nms_gym.model.parameters import NmsParams
from nms_gym.model.structure import NmsModel
from nms_gym.muscle.geometry import check_domain, lengths_and_moment_arms
from nms_gym.recording.trial import Trial

# Before a recording's first sample, muscles come from standstill to their velocity there with this time constant, s. A
# fiber forgets how it was started in about as long, and no muscle gets far in it.
SET_OUT = 0.03

_paths_over_time = jax.jit(jax.vmap(lengths_and_moment_arms, in_axes=(None, 0)))


@pytree
class Replay:
    """A recording on the model's time grid, ready for ``predict_moments``; ``make_segment`` makes one."""

    coordinates: tuple[str, ...] = static()
    """rows of ``moment_arms``"""
    dt: Leaf
    """s, scalar"""
    excitations: Leaf
    """(H - 1 + T, C) envelopes, the first H - 1 before the first sample of motion"""
    lengths: Leaf
    """(T, M) m"""
    velocities: Leaf
    """(T, M) m/s"""
    moment_arms: Leaf
    """(T, K, M) m"""

    @property
    def kinematics(self) -> Kinematics:
        """Of every sample."""
        return Kinematics(self.lengths, self.velocities, self.moment_arms)


# --- scans of the step --------------------------------------------------------------------------------------------


def replay_history(replay: Replay) -> Array:
    """Channels up to the first sample of motion, newest first: ``(H, C)``."""
    length = replay.excitations.shape[0] - replay.lengths.shape[0] + 1
    return replay.excitations[:length][::-1]


def replay_initial_state(
    model: NmsModel, params: NmsParams, replay: Replay, *, condition: Condition = HEALTHY, dt: float | None = None
) -> NmsState:
    """State at the first sample of a recording.

    Its history holds that sample already. Who goes on with ``neuromuscular_step`` from sample 0 shifts the history by
    one (``excitation_history[1:]``, its oldest repeated), or the first sample counts twice; ``predict_moments`` takes
    care.
    """
    step = replay.dt if dt is None else dt
    return initial_state(model, params, replay_history(replay), replay.lengths[0], step, condition=condition)


def delayed_channels(params: NmsParams, replay: Replay) -> Array:
    """A recording's channels and synergy commands as they arrive, ``(T, C)``: after the electromechanical delay."""
    length = replay.excitations.shape[0] - replay.lengths.shape[0] + 1
    return act.delayed_series(replay.excitations, params.electromechanical_delay, replay.dt, length)


def recorded_excitations(model: NmsModel, params: NmsParams, replay: Replay) -> Array:
    """Excitation of every muscle ``(T, M)`` from a recording's channels and synergy commands: delay, gain, mixing."""
    return muscle_excitation(model, params, delayed_channels(params, replay))


def predict_moments(
    model: NmsModel,
    params: NmsParams,
    replay: Replay,
    *,
    excitation: Array | None = None,
    condition: Condition = HEALTHY,
    dt: float | None = None,
) -> NmsOutput:
    """Run the model over a recording.

    The first sample is a step too, from rest at the first sample. The steps are those of ``neuromuscular_step``; only
    delay, gain and mixing, which depend on no state, are taken for all samples at once.

    Args:
        model: structure.
        params: parameters.
        replay: the recording.
        excitation: ``(T, M)`` of every muscle, instead of what the recording's channels excite.
        condition: what alters excitations (``conditions.compose`` for several); its ``prepare`` has been called.
        dt: s, the recording's step as a plain number, for conditions that need one where ``replay`` is traced.

    Returns:
        ``NmsOutput`` with a leading time axis ``(T, ...)``.
    """
    if excitation is None:
        excitation = recorded_excitations(model, params, replay)
    start = replay_initial_state(model, params, replay, condition=condition, dt=dt)
    # Nothing reads the history once excitations are known; an empty one keeps it out of the loop.
    start = dataclasses.replace(start, excitation_history=start.excitation_history[:0])

    # Recomputing each step in the backward pass costs no time here and keeps memory flat in the number of steps.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def step(state: NmsState, sample: tuple[Array, Kinematics]) -> tuple[NmsState, NmsOutput]:
        return excited_step(model, params, state, *sample, replay.dt, condition=condition)

    return jax.lax.scan(step, start, (excitation, replay.kinematics))[1]


# --- from a recording ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording ready to run, with what was measured and which samples count."""

    name: str
    replay: Replay
    time: np.ndarray
    """(T,) s, of the recording"""
    scored: np.ndarray
    """(T,) bool; False in the lead-in, where the model forgets how it was started, and where, before the recording's
    first sample of motion, ``measured`` and angles repeat their first row"""
    measured: np.ndarray | None
    """(T, K) N·m, rows of ``replay.coordinates``; None where the recording has no moments"""
    angles: np.ndarray | None = None
    """(T, D) rad, of the coordinates of the model's muscle paths; None where there are no paths, or the recording lacks
    one of them"""
    channels: tuple[str, ...] = ()
    """columns of ``replay.excitations``; none where nobody names them"""
    moving: tuple[str, ...] = ()
    """J coordinates of the model whose motion the recording has"""
    q: np.ndarray | None = None
    """(T, J) rad"""
    qd: np.ndarray | None = None
    """(T, J) rad/s"""

    @property
    def recording(self) -> str:
        """Name of the recording that it was cut from: its own without the window."""
        return re.sub(r" [-\d.]+-[-\d.]+ s$", "", self.name)

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Joints whose moments are compared."""
        return self.replay.coordinates

    def without_lead_in(self) -> Segment:
        """From the first sample that counts on. What came before is gone but for the EMG that a delay looks back to."""
        first = int(np.argmax(self.scored))
        replay = self.replay
        motion = {name: getattr(replay, name)[first:] for name in ("lengths", "velocities", "moment_arms")}
        over_time = {name: getattr(self, name) for name in ("time", "scored", "measured", "angles", "q", "qd")}
        return dataclasses.replace(
            self,
            replay=dataclasses.replace(replay, excitations=replay.excitations[first:], **motion),
            **{name: None if value is None else value[first:] for name, value in over_time.items()},
        )


def make_segment(
    model: NmsModel,
    trial: Trial,
    *,
    coordinates: Sequence[str] | None = None,
    start: float | None = None,
    stop: float | None = None,
    lead_in: float = 0.2,
    dt: float | None = None,
    name: str | None = None,
) -> Segment:
    """Cut ``[start, stop]`` out of a recording, with up to ``lead_in`` seconds before it to settle in.

    The lead-in reaches back as far as the EMG does, so that activation and fibers are not started from rest in the
    midst of a contraction. Before the first sample of motion, muscles are where it begins, set in motion over
    ``SET_OUT``.

    Musculotendon lengths and moment arms come from the recording's own tables where it has them, else from the model's
    paths. The excitation history reaches back before the motion as far as the EMG does, and holds its first sample
    before that. Channels are matched by name; a channel of the model that the recording lacks is an error.

    Args:
        model: whose muscles and channels are wanted.
        trial: the recording.
        coordinates: joints whose moments are wanted; by default the recording's measured ones that the model has.
        start: s, first sample that counts; by default the first.
        stop: s, last sample that counts; by default the last.
        lead_in: s.
        dt: s, step; by default the recording's own.
        name: of the segment; by default the recording's name and the window.

    Raises:
        InputError: window empty or outside the recording; channel, muscle or coordinate missing; joint angles outside
            the domain of the model's paths.
    """
    if dt is not None and abs(dt - trial.dt) > 1e-9:
        trial = trial.resampled(dt)
    dt = trial.dt
    first, last = float(trial.time[0]), float(trial.time[-1])
    begin = first if start is None else start
    end = last if stop is None else stop
    tolerance = 0.51 * dt
    if not (first - tolerance <= begin < end <= last + tolerance):
        raise InputError(
            f"trial {trial.name!r}: window {seconds(begin)} to {seconds(end)} s is empty or not inside the recording's "
            f"{seconds(first)} to {seconds(last)} s; choose start < stop within it"
        )
    i0 = int(np.clip(round((begin - first) / dt), 0, len(trial.time) - 1))
    i1 = int(np.clip(round((end - first) / dt), 0, len(trial.time) - 1))
    if i1 - i0 < 4:
        raise InputError(
            f"trial {trial.name!r}: window {seconds(begin)} to {seconds(end)} s holds {i1 - i0 + 1} "
            f"samples of {dt:g} s; "
            "at least 5 are needed: widen it"
        )
    settling = max(math.ceil(lead_in / dt - 1e-9), 0)
    i_lead = max(i0 - settling, 0)
    held = min(max(settling - i0, 0), max(math.floor((first - float(trial.emg_time[0])) / dt + 1e-6), 0))
    rows = np.concatenate([np.zeros(held, int), np.arange(i_lead, i1 + 1)])
    time = np.concatenate([first - dt * np.arange(held, 0, -1), trial.time[i_lead : i1 + 1]])

    chosen = _coordinates(model, trial, coordinates)
    lengths, velocities, arms = _kinematics(model, trial, chosen, rows)
    lengths, velocities = _set_in_motion(lengths, velocities, first - time[:held])
    measured = None
    if trial.moments is not None and set(chosen) <= set(trial.moment_coordinates):
        measured = trial.moments[rows][:, [trial.moment_coordinates.index(c) for c in chosen]]
    history = model.settings.history_length(dt)
    moving = tuple(c for c in model.coordinates if c in trial.coordinates)
    columns = [trial.coordinates.index(c) for c in moving]
    replay = Replay(
        coordinates=chosen,
        dt=np.asarray(dt),
        excitations=_excitations(model, trial, time, history, dt),
        lengths=lengths,
        velocities=velocities,
        moment_arms=arms,
    )
    return Segment(
        name=name or f"{trial.name} {begin:.2f}-{end:.2f} s",
        replay=replay,
        time=time,
        scored=time > trial.time[i0] - 0.5 * dt,
        measured=measured,
        angles=_angles(model, trial, rows),
        channels=model.channels,
        moving=moving,
        q=trial.q[rows][:, columns],
        qd=trial.qd[rows][:, columns],
    )


def _set_in_motion(lengths: np.ndarray, velocities: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths and velocities (T, M) whose first rows, copies of the first sample of motion, are ``before`` it, s."""
    held = len(before)
    fading = np.exp(-before / SET_OUT)[:, None]
    way = SET_OUT * (1.0 - fading) * velocities[:held]
    return (
        np.concatenate([lengths[:held] - way, lengths[held:]]),
        np.concatenate([velocities[:held] * fading, velocities[held:]]),
    )


def _angles(model: NmsModel, trial: Trial, rows: np.ndarray) -> np.ndarray | None:
    if model.paths is None or not set(model.paths.coordinates) <= set(trial.coordinates):
        return None
    return trial.q[rows][:, [trial.coordinates.index(c) for c in model.paths.coordinates]]


def _coordinates(model: NmsModel, trial: Trial, wanted: Sequence[str] | None) -> tuple[str, ...]:
    available = trial.moment_coordinates if _has_tables(trial) else model.coordinates
    if wanted is None:
        wanted = [c for c in model.coordinates if c in trial.moment_coordinates] or list(model.coordinates)
    unknown = [c for c in wanted if c not in model.coordinates or c not in available]
    if unknown or not wanted:
        raise InputError(
            f"trial {trial.name!r}: coordinates {listed(unknown)} cannot be computed; the model has "
            f"{listed(model.coordinates)}, the recording's moment arms {listed(available)}"
        )
    return tuple(wanted)


def _has_tables(trial: Trial) -> bool:
    return trial.lengths is not None and trial.moment_arms is not None and bool(trial.muscles)


def _kinematics(
    model: NmsModel, trial: Trial, coordinates: tuple[str, ...], rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths (T, M), velocities (T, M) and moment arms (T, K, M) of the rows."""
    if _has_tables(trial):
        missing = [m for m in model.muscles if m not in trial.muscles]
        if missing:
            raise InputError(
                f"trial {trial.name!r}: its muscle analysis lacks {listed(missing)}; it has {listed(trial.muscles, 50)}"
            )
        muscles = [trial.muscles.index(m) for m in model.muscles]
        joints = [trial.moment_coordinates.index(c) for c in coordinates]
        assert trial.lengths is not None
        assert trial.velocities is not None
        assert trial.moment_arms is not None
        return (
            trial.lengths[rows][:, muscles],
            trial.velocities[rows][:, muscles],
            trial.moment_arms[rows][:, joints][:, :, muscles],
        )
    if model.paths is None:
        raise InputError(
            f"trial {trial.name!r} has no muscle lengths and moment arms, and the model has no muscle paths; "
            "add a muscle analysis to the trial, or use a model with fitted paths (nms-gym fit-paths)"
        )
    missing = [c for c in model.paths.coordinates if c not in trial.coordinates]
    if missing:
        raise InputError(
            f"trial {trial.name!r}: its kinematics lack {listed(missing)}, which the muscle paths need; "
            f"it has {listed(trial.coordinates, 50)}"
        )
    order = [trial.coordinates.index(c) for c in model.paths.coordinates]
    q, qd = trial.q[rows][:, order], trial.qd[rows][:, order]
    check_domain(model.paths, q, source=f"trial {trial.name!r}")
    with jax.enable_x64(True):
        lengths, arms = _paths_over_time(model.paths, q)
        lengths, arms = np.asarray(lengths), np.asarray(arms)
    velocities = -np.einsum("td,tdm->tm", qd, arms)
    return lengths, velocities, arms[:, [model.paths.coordinates.index(c) for c in coordinates]]


def _excitations(model: NmsModel, trial: Trial, time: np.ndarray, history: int, dt: float) -> np.ndarray:
    """Envelopes and commands (H - 1 + T, C) on the grid, from before the first sample on."""
    return channels_at(model, trial, np.concatenate([time[0] + dt * np.arange(1 - history, 0), time]), model.channels)


def channels_at(model: NmsModel, trial: Trial, times: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Envelopes and synergy commands ``(T, C)`` of a recording at increasing times (s), by name.

    Before the EMG's first sample its value there holds.

    Raises:
        InputError: a channel is missing, or the EMG ends too early.
    """
    commands = [c for c in names if c in model.commands]
    wanted = {c for c in names if c not in commands}
    if commands and model.synergies is not None:
        wanted |= set(model.synergies.channels)
    missing = [c for c in model.channels if c in wanted and c not in trial.channels]
    if missing:
        raise InputError(f"trial {trial.name!r}: no EMG channel {listed(missing)}; it has {listed(trial.channels, 50)}")
    if not names:
        return np.zeros((len(times), 0))
    step = float(times[1] - times[0])
    if times[-1] > trial.emg_time[-1] + 0.51 * step:
        raise InputError(
            f"trial {trial.name!r}: EMG ends at {seconds(trial.emg_time[-1])} s, before the motion's "
            f"{seconds(times[-1])} s; "
            "shorten the window or supply longer EMG"
        )
    inside = np.clip(times, trial.emg_time[0], trial.emg_time[-1])
    # Only what the window needs, and the neighbours that its interpolation looks at: commands cost a solve per sample.
    first, last = np.searchsorted(trial.emg_time, (inside[0], inside[-1]))
    rows = slice(max(first - 3, 0), last + 4)
    recorded = {c: np.maximum(trial.emg[rows, trial.channels.index(c)], 0.0) for c in wanted}
    signed = False
    if commands and model.synergies is not None:
        envelopes = np.stack([recorded[c] for c in model.synergies.channels], axis=1)
        recorded |= zip(model.commands, model.synergies.commands(envelopes, trial.name).T, strict=True)
        signed = model.synergies.signed
    # Monotone between samples, so envelopes stay non-negative up to rounding.
    series = np.stack([recorded[c] for c in names], axis=1)
    values = PchipInterpolator(trial.emg_time[rows], series, axis=0)(inside)
    return np.maximum(values, [-np.inf if signed and c in commands else 0.0 for c in names])


def padded(replay: Replay, steps: int) -> Replay:
    """The recording with its last sample repeated up to ``steps``: recordings of one length share compiled code."""
    by = steps - len(replay.lengths)

    def pad(array: Any) -> Any:
        array = np.asarray(array)
        return np.concatenate([array, np.repeat(array[-1:], by, axis=0)])

    return dataclasses.replace(
        replay,
        excitations=pad(replay.excitations),
        lengths=pad(replay.lengths),
        velocities=pad(replay.velocities),
        moment_arms=pad(replay.moment_arms),
    )
