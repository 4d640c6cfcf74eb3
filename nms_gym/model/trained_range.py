"""What a fit has seen: the range of envelopes, angles and speeds in its training windows, and how far others leave it.

A model is fitted where its training windows are. Beyond them nothing says how well it predicts, so that a prediction
should say how far beyond them it is. Everything is matched by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np

from nms_gym.errors import InputError
from nms_gym.model.parameters import NmsParams
from nms_gym.model.replay import Segment
from nms_gym.model.structure import NmsModel
from nms_gym.recording.trial import Trial

VERSION = 1

QuantityName = Literal["emg", "angle", "speed"]
QUANTITIES: tuple[QuantityName, ...] = ("emg", "angle", "speed")

MARGIN = 0.05
"""of the width between the percentiles, by which a sample may be beyond them without being outside"""
SMALLEST: Mapping[str, float] = {"emg": 0.01, "angle": math.radians(1.0), "speed": 0.1}
"""least margin, and least width that an excess is a multiple of: a joint that stood still has no width"""
OFTEN = 0.02
"""fraction of samples outside from which a recording leaves a range: training windows have that much beyond their own
percentiles"""


@dataclass(frozen=True)
class Range:
    """Of one channel's envelope (1, normalised), or of a coordinate's angle (rad) or speed (rad/s)."""

    low: float
    """1st percentile"""
    high: float
    """99th percentile"""
    least: float
    most: float


@dataclass(frozen=True)
class TrainedRange:
    """What the training windows of a calibration hold; the counted samples only."""

    emg: Mapping[str, Range]
    """channel or synergy command -> its envelope, before gain and delay"""
    angle: Mapping[str, Range]
    """coordinate -> rad"""
    speed: Mapping[str, Range]
    """coordinate -> rad/s"""

    def limits(self, quantity: QuantityName, name: str) -> tuple[float, float]:
        """Lowest and highest value that counts as inside: the percentiles, and a margin.

        A muscle at rest is always inside: an envelope has no lower limit above 0.
        """
        of: Range = getattr(self, quantity)[name]
        margin = max(MARGIN * (of.high - of.low), SMALLEST[quantity])
        low = of.low - margin
        return min(low, 0.0) if quantity == "emg" else low, of.high + margin


@dataclass(frozen=True)
class Departure:
    """How far one channel or coordinate leaves what the fit has seen."""

    quantity: QuantityName
    name: str
    outside: float
    """fraction of the samples outside ``TrainedRange.limits``"""
    excess: float
    """how far the farthest sample is beyond the least and most of training, over the most of an envelope, or over the
    width of a motion; 0 where no sample is"""

    @property
    def leaves(self) -> bool:
        """Whether more samples are outside than training windows have there themselves."""
        return self.outside > OFTEN


@dataclass(frozen=True)
class Departures:
    """How far a recording leaves what the fit has seen."""

    rows: tuple[Departure, ...]
    """of every name that both have"""
    not_recorded: tuple[str, ...]
    """channels and coordinates that the fit has seen, and the recording lacks"""
    not_trained: tuple[str, ...]
    """those that the recording has, and the fit has not seen"""

    @property
    def leaving(self) -> tuple[Departure, ...]:
        """The rows that leave the range, the most often outside first."""
        return tuple(sorted((row for row in self.rows if row.leaves), key=lambda row: -row.outside))


Values = Mapping[QuantityName, Mapping[str, np.ndarray]]


def trained_range(segments: Sequence[Segment]) -> TrainedRange:
    """The range of the counted samples of training windows, by channel and coordinate."""
    seen = _pooled(segments)
    return TrainedRange(
        **{quantity: {name: _range(values) for name, values in seen[quantity].items()} for quantity in QUANTITIES}
    )


def departures(trained: TrainedRange, recording: Trial | Segment | Sequence[Segment]) -> Departures:
    """How far a recording leaves what a fit has seen, by channel and coordinate.

    Args:
        trained: of the person, ``Subject.trained``.
        recording: a trial (all samples of its motion, and EMG of that time), or one or several segments (their
            counted samples, pooled). Envelopes are normalised as those of the calibration.
    """
    if isinstance(recording, Trial):
        found = _of_trial(recording)
    else:
        found = _pooled([recording] if isinstance(recording, Segment) else recording)
    rows, lacking, new = [], [], []
    for quantity in QUANTITIES:
        known, here = getattr(trained, quantity), found[quantity]
        rows += [_departure(trained, quantity, name, here[name]) for name in known if name in here]
        lacking += [name for name in known if name not in here]
        new += [name for name in here if name not in known]
    return Departures(tuple(rows), tuple(dict.fromkeys(lacking)), tuple(dict.fromkeys(new)))


def saturation(model: NmsModel, params: NmsParams, segments: Sequence[Segment]) -> dict[str, float]:
    """Fraction of the counted samples at which EMG asks for more than full excitation, by muscle.

    That is ``emg_gain`` times the envelope of a channel that drives the muscle, at least 1. What is above 1 is lost
    (``excitation.activation.saturate``). Muscles that no recorded channel drives are left out.

    Args:
        model: structure.
        params: parameters, leaves ``(M,)`` or ``(C,)``.
        segments: of that model.
    """
    shown = [np.asarray(s.replay.excitations)[-len(s.time) :][s.scored] for s in segments]
    full = np.concatenate(shown) * np.asarray(params.emg_gain) >= 1.0 if shown else np.zeros((1, len(model.channels)))
    drives = np.asarray(model.channel_weights) != 0
    return {m: float(np.mean(full[:, drives[model.muscles.index(m)]].any(axis=1))) for m in model.recorded_muscles}


def _range(values: np.ndarray) -> Range:
    low, high = np.quantile(values, (0.01, 0.99))
    return Range(float(low), float(high), float(values.min()), float(values.max()))


def _departure(trained: TrainedRange, quantity: QuantityName, name: str, values: np.ndarray) -> Departure:
    low, high = trained.limits(quantity, name)
    of: Range = getattr(trained, quantity)[name]
    least = min(of.least, 0.0) if quantity == "emg" else of.least
    width = max(of.most - least, SMALLEST[quantity])
    beyond = max(float(values.max()) - of.most, least - float(values.min()), 0.0)
    return Departure(quantity, name, float(np.mean((values < low) | (values > high))), beyond / width)


def _pooled(segments: Sequence[Segment]) -> Values:
    """Counted samples of several segments, of the names that all of them have."""
    each = [_of_segment(s) for s in segments]
    pooled: dict[QuantityName, dict[str, np.ndarray]] = {}
    for quantity in QUANTITIES:
        names = [n for n in (each[0][quantity] if each else ()) if all(n in one[quantity] for one in each)]
        pooled[quantity] = {name: np.concatenate([one[quantity][name] for one in each]) for name in names}
    return pooled


def _of_segment(segment: Segment) -> Values:
    rows = segment.scored
    emg = np.asarray(segment.replay.excitations)[-len(segment.time) :][rows]
    return {
        "emg": dict(zip(segment.channels, emg.T, strict=True)) if segment.channels else {},
        "angle": _columns(segment.moving, segment.q, rows),
        "speed": _columns(segment.moving, segment.qd, rows),
    }


def _of_trial(trial: Trial) -> Values:
    inside = (trial.emg_time >= trial.time[0]) & (trial.emg_time <= trial.time[-1])
    return {
        "emg": _columns(trial.channels, trial.emg, inside),
        "angle": _columns(trial.coordinates, trial.q, slice(None)),
        "speed": _columns(trial.coordinates, trial.qd, slice(None)),
    }


def _columns(names: Sequence[str], values: np.ndarray | None, rows: Any) -> dict[str, np.ndarray]:
    return {} if values is None else dict(zip(names, values[rows].T, strict=True))


# --- in a subject file ----------------------------------------------------------------------------------------------


def range_to_json(trained: TrainedRange) -> dict[str, Any]:
    """As plain JSON, with its version."""
    ranges = {q: {name: asdict(of) for name, of in getattr(trained, q).items()} for q in QUANTITIES}
    return {"version": VERSION, **ranges}


def range_from_json(record: Any, where: str) -> TrainedRange | None:
    """What ``range_to_json`` made; None for None, of a file from before there was one.

    Raises:
        InputError: of a newer version, incomplete, or a limit is no number.
    """
    if record is None:
        return None
    where = f"{where}: trained_range"
    if not isinstance(record, Mapping) or record.get("version") != VERSION:
        found = record.get("version") if isinstance(record, Mapping) else record
        raise InputError(f"{where}: version {found!r:.60}; this program reads version {VERSION}; update nms-gym")
    ranges = {}
    for quantity in QUANTITIES:
        rows = record.get(quantity)
        if not isinstance(rows, Mapping):
            raise InputError(f"{where}: {quantity!r} is {rows!r:.60}; expected a table by name; save the subject again")
        ranges[quantity] = {name: _range_from(row, f"{where}: {quantity} of {name!r}") for name, row in rows.items()}
    return TrainedRange(**ranges)


def _range_from(row: Any, where: str) -> Range:
    names = [f.name for f in fields(Range)]
    if not isinstance(row, Mapping) or not all(_finite(row.get(name)) for name in names):
        raise InputError(f"{where} is {row!r:.90}; expected finite {', '.join(names)}; save the subject again")
    return Range(**{name: float(row[name]) for name in names})


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
