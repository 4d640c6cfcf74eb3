"""A study's EMG: from what was recorded to envelopes, normalised together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from calibration.study.checks import is_kind
from nms_gym.errors import InputError, listed, near, seconds
from nms_gym.excitation.amplitude import Conditioning
from nms_gym.excitation.emg import AMPLITUDES, emg_conditioning, process_emg, remove_baseline
from nms_gym.recording.storage import Table, read_labels, read_table
from nms_gym.recording.trial import UNDERSHOOT

NORMALISATIONS = {
    "session": "largest value in the training windows",
    "all_trials": "largest value in all trials, held-out ones included",
    "trial": "largest value of each trial by itself",
    "mvc": "maximum voluntary contraction",
    "none": "none",
}
"""``[emg] normalise`` -> what counts as full excitation, in words"""
MVC_GAIN_SD = 0.15
"""prior standard deviation of a gain, in logarithms, where EMG is over its maximum: maximal EMG is repeated to 10 to 15
% from one contraction to the next, and no effort is quite maximal"""
MVC_GAIN_CORRELATION = 0.5
"""between these gains: who tries less does so with all muscles"""
SAVED_REFERENCE = "that of the saved person"
"""the same where a person's own values are used in place of the recordings'"""


@dataclass(frozen=True)
class EmgReference:
    """What became 1 in a study's envelopes."""

    kind: str
    """in words, see ``NORMALISATIONS``"""
    values: Mapping[str, float]
    """channel -> value in the recording's unit; empty where every trial has its own"""


FILTERS: Mapping[str, Any] = {
    "high_pass": 30.0,
    "low_pass": 6.0,
    "order": 4,
    "zero_lag": True,
    "notch": None,
    "amplitude": "rectified",
    "whiten": False,
    "noise_floor": False,
}
"""how raw EMG is filtered where a recipe does not say"""


# Mean over mean magnitude: 0 for EMG that was never rectified, 1 for what is never negative.
_RECTIFIED = 0.5
Times = Sequence[tuple[float, float]] | None
"""windows of a trial, s; None for all of it"""


@dataclass(frozen=True)
class EmgRecipe:
    """How a study's EMG becomes envelopes; ``nms_gym.excitation.emg`` describes the steps.

    Raises:
        InputError: unknown kind or normalisation, filters of envelopes, or a reference that is not above 0.
    """

    kind: str = "envelope"
    """"raw" or "envelope" """
    high_pass: float | None = None
    """Hz; this and the next seven are for raw EMG, by default ``FILTERS``"""
    low_pass: float | None = None
    """Hz"""
    order: int | None = None
    zero_lag: bool | None = None
    notch: float | None = None
    """Hz"""
    amplitude: str | None = None
    """one of ``AMPLITUDES``"""
    whiten: bool | None = None
    noise_floor: bool | None = None
    rest: Mapping[str, bool | Sequence[tuple[float, float]]] = field(default_factory=dict)
    """trial -> windows [(start, stop), ...] in s, or True for all of it, in which every recorded muscle is relaxed:
    where noise is measured, for whitening and noise floor"""
    normalise: str = ""
    """what becomes 1, one of ``NORMALISATIONS``; by default "session" for raw EMG and "none" for envelopes"""
    mvc: Mapping[str, float] = field(default_factory=dict)
    """channel -> reference value, for normalise = "mvc" """
    mvc_trials: Sequence[str | Path] = ()
    """maximal contractions, for normalise = "mvc": trials by name, or files of EMG alone; a channel's reference is the
    largest of all that have it, and a value in ``mvc`` goes before"""
    mvc_window: float = 0.5
    """s; the reference is the largest mean of the envelope over so long: its largest sample is one of chance"""
    limit_trials: Sequence[str] = ()
    """trials, by name, whose EMG stands for excitations up to 1: it bounds the gains, see ``gains.limit_gains``; their
    moments are not used, and need not be known"""
    baseline: float | None = None
    """quantile taken for each channel's resting level in each trial and subtracted; off when absent"""
    clip: bool = False
    """whether what a filter left of an envelope below zero becomes zero; unrectified EMG is refused all the same"""

    def __post_init__(self) -> None:
        if self.kind not in ("raw", "envelope"):
            raise InputError(f"kind is {self.kind!r}; use 'raw' or 'envelope'")
        given = [name for name in FILTERS if getattr(self, name) is not None]
        if self.kind == "envelope" and given:
            raise InputError(f"{listed(given)} filters raw EMG only, but kind is 'envelope'; remove it")
        if self.kind == "raw" and self.clip:
            raise InputError("clip is of envelopes; the amplitude of raw EMG does not undershoot: remove it")
        if self.amplitude is not None and self.amplitude not in AMPLITUDES:
            raise InputError(f"amplitude is {self.amplitude!r}; use one of {listed(AMPLITUDES)}")
        if self.rest and not (self.whiten or self.noise_floor):
            raise InputError("rest is given, but neither whiten nor noise_floor is true: it has no effect; remove it")
        if not self.normalise:
            object.__setattr__(self, "normalise", "session" if self.kind == "raw" else "none")
        if self.normalise not in NORMALISATIONS:
            raise InputError(f"normalise is {self.normalise!r}; use one of {listed(NORMALISATIONS)}")
        if self.mvc and self.normalise != "mvc":
            raise InputError(f"mvc is given, but normalise is {self.normalise!r}; use normalise = 'mvc'")
        if self.mvc_trials and self.normalise != "mvc":
            raise InputError(f"mvc_trials is given, but normalise is {self.normalise!r}; use normalise = 'mvc'")
        if not (np.isfinite(self.mvc_window) and self.mvc_window > 0):
            raise InputError(f"mvc_window is {self.mvc_window:g} s; expected a time above 0")
        for channel, value in self.mvc.items():
            if not is_kind(value, float) or value <= 0:
                raise InputError(f"mvc of {channel!r} is {value!r}; expected a number above 0")

    @property
    def filters(self) -> dict[str, Any]:
        """As ``process_emg`` takes them."""
        return {name: value if (given := getattr(self, name)) is None else given for name, value in FILTERS.items()}


def make_envelopes(
    tables: Sequence[Table],
    recipe: EmgRecipe,
    where: str,
    *,
    train: Sequence[Times],
    rest: Sequence[Times] = (),
    known: Mapping[str, float] | None = None,
    maximal: Sequence[Table] = (),
) -> tuple[list[Table], EmgReference]:
    """Envelopes of all trials, normalised together where asked, and what they were divided by.

    Args:
        tables: EMG as recorded, one per trial.
        recipe: how it becomes envelopes.
        where: for messages.
        train: training windows of each trial; "session" looks for its largest values in these alone, and so do
            whitening and noise floor where there are any, so that nothing held out has a say in what the fit sees.
        rest: windows of each trial in which muscles are relaxed; nowhere by default.
        known: channel -> value to divide by instead of the largest one of these recordings.
        maximal: EMG of maximal contractions, each of some of the channels.
    """
    conditioning = _conditioning(tables, recipe, where, train, rest)
    made = [_envelope(t, recipe, conditioning) for t in tables]
    labels = made[0].labels
    kind = NORMALISATIONS[recipe.normalise]
    if recipe.normalise == "none":
        return made, EmgReference(kind, dict.fromkeys(labels, 1.0))
    if recipe.normalise == "trial":
        return [_scaled(t, t.data.max(axis=0)) for t in made], EmgReference(kind, {})
    if recipe.normalise == "mvc" or known:
        mvc = recipe.normalise == "mvc"
        given = {**_largest(maximal, recipe, conditioning), **recipe.mvc} if mvc else dict(known or {})
        kind = kind if recipe.normalise == "mvc" else SAVED_REFERENCE
        missing = [c for c in labels if c not in given]
        if missing:
            raise InputError(
                f"{where}: no {recipe.normalise} reference of channel {listed(missing)}; there are {listed(given)}"
            )
        values = np.array([float(given[c]) for c in labels])
    else:
        seen = [t.data for t in made]
        if recipe.normalise == "session":
            seen = _in_windows(made, train)
            if not seen:
                raise InputError(
                    f"{where}: normalise is 'session', but no trial has a training window to take the largest value "
                    "from; add one, or use normalise = 'mvc' or 'all_trials'"
                )
        values = np.max([data.max(axis=0) for data in seen], axis=0)
    return [_scaled(t, values, kind) for t in made], EmgReference(kind, dict(zip(labels, values.tolist(), strict=True)))


def _largest(tables: Sequence[Table], recipe: EmgRecipe, conditioning: Conditioning | None) -> dict[str, float]:
    """Channel -> largest mean of its envelope over ``mvc_window`` in recordings of maximal contractions."""
    found: dict[str, float] = {}
    for table in tables:
        # A baseline is a resting level, and here nobody rests for long.
        made = _envelope(table, dataclasses.replace(recipe, baseline=None), conditioning)
        step = float(np.median(np.diff(made.time))) if len(made.time) > 1 else math.inf
        count = max(round(recipe.mvc_window / step), 1)
        if count > len(made.time):
            length = seconds(float(np.ptp(made.time)))
            raise InputError(
                f"{table.path}: a maximal contraction of {length} s is shorter than mvc_window, "
                f"{recipe.mvc_window:g} s; shorten mvc_window, or leave the recording out"
            )
        total = np.cumsum(np.concatenate([np.zeros((1, made.data.shape[1])), made.data]), axis=0)
        means = (total[count:] - total[:-count]).max(axis=0) / count
        for name, value in zip(made.labels, means.tolist(), strict=True):
            found[name] = max(found.get(name, 0.0), value)
    return found


def read_maximal(file: str | Path, channels: Sequence[str]) -> Table:
    """Those of the channels that a file of EMG holds.

    Raises:
        InputError: it holds none of them; or see ``read_table``.
    """
    labels = Table(str(file), read_labels(file), np.empty(0), np.empty((0, 0)))
    held = [c for c in channels if labels.has(c)]
    if not held:
        raise InputError(f"{file}: no channel of {listed(channels)}; {near(channels[0], labels.labels)}")
    return read_table(file, columns=held).renamed(held)


def _in_windows(tables: Sequence[Table], train: Sequence[Times]) -> list[np.ndarray]:
    """Samples inside the training windows of each trial that has some."""
    found = []
    for table, windows in zip(tables, train, strict=True):
        if windows is None:
            found.append(table.data)
            continue
        for start, stop in windows:
            inside = table.data[(table.time >= start) & (table.time <= stop)]
            # A window that is empty or outside the recording is reported with the trial, which knows what there is.
            found.append(inside if start < stop and len(inside) else table.data)
    return found


def _conditioning(
    tables: Sequence[Table], recipe: EmgRecipe, where: str, train: Sequence[Times], rest: Sequence[Times]
) -> Conditioning | None:
    """Whitening filters and noise floors of the training windows, or where there are none, of all recordings; noise
    where muscles are relaxed, if anywhere."""
    if recipe.kind != "raw" or not (recipe.filters["whiten"] or recipe.filters["noise_floor"]):
        return None
    inside = [_inside(t.time, windows) for t, windows in zip(tables, train, strict=True)]
    if not any(use.any() for use in inside):
        inside = [np.ones(len(t.time), bool) for t in tables]
    used = [(t, use) for t, use in zip(tables, inside, strict=True) if use.any()]
    labels = tables[0].labels
    still = [
        (t.time[use], np.stack([t.column(c) for c in labels], axis=1)[use])
        for t, windows in zip(tables, rest, strict=bool(rest))
        for use in _each(t, windows, f"{where}: rest")
    ]
    return emg_conditioning(
        [(t.time, np.stack([t.column(c) for c in labels], axis=1)) for t, _ in used],
        labels,
        counted=[use for _, use in used],
        rest=still,
        where=where,
        **{name: value for name, value in recipe.filters.items() if name != "amplitude"},
    )


def _each(table: Table, windows: Times, what: str) -> list[np.ndarray]:
    """Samples of each window, which must hold some."""
    found = []
    for window in (None,) if windows is None else windows:
        use = _inside(table.time, None if window is None else (window,))
        if not use.any():
            raise InputError(
                f"{what}: window {window} of {table.path} holds no sample; the EMG is from {seconds(table.time[0])} to "
                f"{seconds(table.time[-1])} s"
            )
        found.append(use)
    return found


def _inside(time: np.ndarray, windows: Times) -> np.ndarray:
    if windows is None:
        return np.ones(len(time), bool)
    return (
        np.any([(time >= a) & (time <= b) for a, b in windows], axis=0) if len(windows) else np.zeros(len(time), bool)
    )


def _envelope(table: Table, recipe: EmgRecipe, conditioning: Conditioning | None) -> Table:
    """As recorded, or filtered, with the resting level removed."""
    time, values = table.time, table.data
    if recipe.kind == "raw":
        envelope = process_emg(
            time,
            values,
            table.labels,
            **recipe.filters,
            conditioning=conditioning,
            normalise="none",
            step=0.005,
            where=table.path,
        ).table()
        time, values = envelope.time, envelope.data
    else:
        _check_envelope(table, recipe.clip)
        values = np.maximum(values, 0.0) if recipe.clip else values
    if recipe.baseline is not None:
        values = remove_baseline(values, recipe.baseline, table.path)
    return dataclasses.replace(table, time=time, data=values)


def _check_envelope(table: Table, clip: bool) -> None:
    """Before the baseline is taken off: a quantile hides both where a gap is and that a signal was never rectified.

    A signal that was never rectified has a mean near zero, an envelope that undershoots a mean near that of its
    magnitude.
    """
    for name, x in zip(table.labels, table.data.T, strict=True):
        if not np.isfinite(x).all():
            at = table.time[int(np.argmax(~np.isfinite(x)))]
            raise InputError(
                f"{table.path}: EMG channel {name!r} has no finite value at time {seconds(at)} s; fill the gap"
            )
        if x.min() >= -UNDERSHOOT * np.abs(x).max():
            continue
        below = f"{table.path}: EMG channel {name!r} goes down to {x.min():.4g}; an envelope is not negative"
        if x.mean() < _RECTIFIED * np.abs(x).mean():
            raise InputError(f"{below}: this looks unrectified; use kind = 'raw'")
        if not clip:
            raise InputError(f"{below}: its filter undershoots; set clip = true in [emg] to take that for 0")


def _scaled(table: Table, reference: np.ndarray, kind: str = "largest value") -> Table:
    # Not "<= 0": a reference taken from a recording with a gap is not a number, and the gap is reported with the trial.
    dead = [c for c, v in zip(table.labels, reference, strict=True) if v <= 0]
    if dead:
        raise InputError(f"{table.path}: EMG channel {listed(dead)} never rises above 0 ({kind}); leave it out")
    return dataclasses.replace(table, data=table.data / reference)
