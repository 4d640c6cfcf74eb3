"""The numbers behind a report, collected once: predictions before and after, metrics, fitted values, fibers, leaks."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from calibration.fitting import CalibrationResult
from calibration.problem import DEFAULT_FREE, Penalties
from calibration.uncertainty.analysis import Analysis
from calibration.validation import Metrics, compare, predict_segment
from nms_gym.errors import InputError
from nms_gym.files.subject import Subject
from nms_gym.model.forward import NmsOutput
from nms_gym.model.parameters import PARAMETER_KINDS, NmsParams, entries
from nms_gym.model.replay import Segment
from nms_gym.model.structure import NmsModel
from nms_gym.model.trained_range import Departures, departures, saturation

TRAINING = "training windows"
"""label of the training windows, as ``validation.tabulate`` has it"""

SHORTEST_SERIES = 3
"""windows that it takes to average them over their duration"""
DURATION_RATIO = 1.5
"""longest over shortest window up to which they are averaged: strides of one speed are, a stride and a trial are not"""
MAX_LAG = 0.1
"""s; how far apart prediction and measurement are looked for"""


@dataclass(frozen=True)
class Run:
    """One window under both parameter sets; only the samples that count."""

    name: str
    coordinates: tuple[str, ...]
    time: np.ndarray
    """(T,) s"""
    measured: np.ndarray | None
    """(T, K) N·m"""
    moment_arms: np.ndarray
    """(T, K, M) m"""
    before: NmsOutput | None
    """None for a subject that was never calibrated"""
    after: NmsOutput
    """with the subject's parameters"""

    @property
    def duration(self) -> float:
        """s."""
        return float(self.time[-1] - self.time[0])


@dataclass(frozen=True)
class WindowSet:
    """Windows that are judged together: the training windows or one held-out set."""

    label: str
    held_out: bool
    runs: tuple[Run, ...]
    shared_with_training: float
    """share of the samples that the training windows contain too"""
    departures: Departures | None = None
    """how far they leave what the fit has seen; None where the subject does not say what that was"""
    saturated: Mapping[str, float] = field(default_factory=dict)
    """muscle -> share of the samples at which EMG asks for more than full excitation"""

    @property
    def split(self) -> str:
        """As in metrics rows."""
        return "held-out" if self.held_out else "train"

    @property
    def alike(self) -> bool:
        """Whether there are several windows of similar duration (strides), so that averaging them makes sense."""
        durations = [r.duration for r in self.runs]
        return len(durations) >= SHORTEST_SERIES and max(durations) <= DURATION_RATIO * min(durations)

    def paired(self, coordinate: str, after: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """(predicted, measured), each (N,) N·m, of one joint over all windows that have it measured; may be empty."""
        predicted, measured = [np.empty(0)], [np.empty(0)]
        for r in self.runs:
            out = r.after if after else r.before
            if r.measured is not None and out is not None and coordinate in r.coordinates:
                k = r.coordinates.index(coordinate)
                predicted.append(np.asarray(out.moments)[:, k])
                measured.append(r.measured[:, k])
        return np.concatenate(predicted), np.concatenate(measured)


@dataclass(frozen=True)
class Score:
    """Metrics of one joint on one set of windows, before and after."""

    windows: WindowSet
    coordinate: str
    before: Metrics | None
    after: Metrics
    offset: float
    """N·m; mean of predicted minus measured"""
    size: float
    """spread of the prediction over that of the measurement; 1 is right"""


@dataclass(frozen=True)
class Fitted:
    """One free value; positions are ratios to the start (relative kinds) or values in the kind's unit."""

    kind: str
    label: str
    members: tuple[str, ...]
    relative: bool
    start: np.ndarray
    """(members,) in the kind's unit"""
    value: np.ndarray
    """(members,)"""
    position: float
    origin: float
    low: float
    high: float
    prior: tuple[float, float] | None
    """one prior standard deviation to either side of the start"""
    sds: float | None
    """prior standard deviations between start and value"""
    at_bound: bool
    others: np.ndarray
    """where the other starts of the solver ended"""


@dataclass(frozen=True)
class Evidence:
    """All that verdict, figures and tables are made from."""

    subject: Subject
    result: CalibrationResult | None
    start: NmsParams | None
    sets: tuple[WindowSet, ...]
    """training windows first, if there are any"""
    scores: tuple[Score, ...]
    fitted: tuple[Fitted, ...]
    penalties: Penalties
    """whose limits of fiber length and tendon strain a muscle is held to"""
    analysis: Analysis | None = None
    """how sure the fit is"""
    maximal: tuple[Mapping[str, Any], ...] = ()
    """moments of maximal contractions, rows of ``validation.tabulate_maximal``"""

    @property
    def model(self) -> NmsModel:
        """The subject's."""
        return self.subject.model

    @property
    def calibrated(self) -> bool:
        """Whether there is a before to compare with."""
        return self.start is not None

    @functools.cached_property
    def coordinates(self) -> tuple[str, ...]:
        """Joints in order of appearance."""
        return tuple(dict.fromkeys(c for s in self.sets for r in s.runs for c in r.coordinates))

    @property
    def held_out(self) -> tuple[Score, ...]:
        """Scores on data that the fit never saw."""
        return tuple(s for s in self.scores if s.windows.held_out)

    def training_score(self, coordinate: str) -> Score | None:
        """The score on the training windows, if they have this joint measured."""
        found = [s for s in self.scores if not s.windows.held_out and s.coordinate == coordinate]
        return found[0] if found else None

    def pooled(self, name: str, after: bool = True) -> np.ndarray:
        """An output ``(N, M)`` over the samples of all windows."""
        outputs = [(r.after if after else r.before) for s in self.sets for r in s.runs]
        return np.concatenate([np.asarray(getattr(o, name)) for o in outputs if o is not None])

    def lag(self, coordinate: str) -> tuple[float, float]:
        """How late the prediction is, in s, and the gain in correlation from shifting it back; (0, 0) when unknown."""
        runs = [r for s in self.sets for r in s.runs if r.measured is not None and coordinate in r.coordinates]
        if not runs:
            return 0.0, 0.0
        dt = float(np.median(np.diff(runs[0].time)))
        reach = min(round(MAX_LAG / dt), min(len(r.time) for r in runs) // 4)
        best, best_r, r_now = 0, -np.inf, np.nan
        for shift in range(-reach, reach + 1):
            pairs = [_shifted(r, r.coordinates.index(coordinate), shift) for r in runs]
            p, m = (np.concatenate(x) for x in zip(*pairs, strict=True))
            r = compare(coordinate, p, m).r
            r_now = r if shift == 0 else r_now
            if r > best_r:
                best, best_r = shift, r
        gain = best_r - r_now
        return (best * dt, float(gain)) if np.isfinite(gain) else (0.0, 0.0)


def _shifted(run: Run, k: int, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Prediction ``shift`` samples later against measurement."""
    assert run.measured is not None
    p, m = np.asarray(run.after.moments)[:, k], run.measured[:, k]
    n = len(m) - abs(shift)
    return p[max(shift, 0) :][:n], m[max(-shift, 0) :][:n]


def collect(
    subject: Subject,
    train: Sequence[Segment],
    held_out: Mapping[str, Sequence[Segment]],
    result: CalibrationResult | None,
    penalties: Penalties | None = None,
    analysis: Analysis | None = None,
    maximal: Sequence[Mapping[str, Any]] = (),
) -> Evidence:
    """Predict every window and compute everything.

    Raises:
        InputError: there is no window at all, a window belongs to another model, or a set's name is taken.
    """
    if TRAINING in held_out:
        raise InputError(f"a held-out set is named {TRAINING!r}, which the report calls those of the fit; rename it")
    start = _start(subject, result)
    labelled = [(TRAINING, False, train), *((name, True, s) for name, s in held_out.items())]
    seen = {key for s in train for key in _fingerprint(s)}
    sets = tuple(
        WindowSet(
            label=label,
            held_out=held,
            runs=tuple(_run(subject, start, s) for s in segments),
            shared_with_training=_shared(segments, seen) if held else 1.0,
            departures=None if subject.trained is None else departures(subject.trained, segments),
            saturated=saturation(subject.model, subject.params, segments),
        )
        for label, held, segments in labelled
        if segments
    )
    if not sets:
        raise InputError(
            f"subject {subject.name!r}: nothing to report on; give at least one training or held-out window"
        )
    scores = [_score(s, c) for s in sets for c in dict.fromkeys(c for r in s.runs for c in r.coordinates)]
    return Evidence(
        subject=subject,
        result=result,
        start=start,
        sets=sets,
        scores=tuple(s for s in scores if s is not None),
        fitted=_from_result(subject, start, result)
        if result is not None and start is not None
        else _from_file(subject),
        penalties=penalties or Penalties(),
        analysis=analysis,
        maximal=tuple(maximal),
    )


def _start(subject: Subject, result: CalibrationResult | None) -> NmsParams | None:
    """Parameters before calibration; where nobody kept them, the solver's move is undone."""
    if subject.start is not None or result is None:
        return subject.start
    layout = result.layout
    move = np.append(result.z * layout.sd, 0.0)
    leaves: dict[str, Any] = {kind: np.asarray(getattr(result.params, kind), np.float64) for kind in PARAMETER_KINDS}
    for kind, rows in layout.index.items():
        leaves[kind] = leaves[kind] / np.exp(move[rows]) if layout.relative[kind] else leaves[kind] - move[rows]
    return NmsParams(**leaves)


def _run(subject: Subject, start: NmsParams | None, segment: Segment) -> Run:
    muscles = np.shape(segment.replay.lengths)[1]
    if muscles != len(subject.model.muscles):
        raise InputError(
            f"{segment.name} holds {muscles} muscles, subject {subject.name!r} {len(subject.model.muscles)}; "
            "cut the windows with the subject's own model"
        )

    def predicted(params: NmsParams) -> NmsOutput:
        out = predict_segment(subject.model, params, segment)
        return jax.tree.map(lambda x: x[segment.scored], out)

    return Run(
        name=segment.name,
        coordinates=segment.coordinates,
        time=segment.time[segment.scored],
        measured=None if segment.measured is None else segment.measured[segment.scored],
        moment_arms=np.asarray(segment.replay.moment_arms)[segment.scored],
        before=None if start is None else predicted(start),
        after=predicted(subject.params),
    )


def _fingerprint(segment: Segment) -> list[bytes]:
    """What identifies each counted sample of a recording: its time and muscle lengths."""
    rows = np.column_stack([segment.time, np.asarray(segment.replay.lengths)])[segment.scored]
    return [row.tobytes() for row in np.round(rows, 9)]


def _shared(segments: Sequence[Segment], seen: set[bytes]) -> float:
    keys = [key for s in segments for key in _fingerprint(s)]
    return sum(key in seen for key in keys) / len(keys)


def _score(windows: WindowSet, coordinate: str) -> Score | None:
    predicted, measured = windows.paired(coordinate)
    if not len(measured):
        return None
    before, same = windows.paired(coordinate, after=False)
    spread = float(np.std(measured))
    return Score(
        windows=windows,
        coordinate=coordinate,
        before=compare(coordinate, before, same) if len(same) else None,
        after=compare(coordinate, predicted, measured),
        offset=float(np.mean(predicted - measured)),
        size=float(np.std(predicted)) / spread if spread > 0 else float("nan"),
    )


def _from_result(subject: Subject, start: NmsParams, result: CalibrationResult) -> tuple[Fitted, ...]:
    """One entry per free value of the solver; values that entries share are shown once."""
    layout, fitted = result.layout, []
    at_bounds = set(result.at_bounds)
    winner = int(np.argmin(np.abs(result.all_z - result.z).sum(axis=1)))
    for i, name in enumerate(layout.names):
        kind = layout.kinds[i]
        rows = np.flatnonzero(layout.index[kind] == i)
        begin = np.asarray(getattr(start, kind), np.float64)[rows]
        sd, relative = layout.sd[i], layout.relative[kind]

        def place(z: Any, origin: float, sd: float = sd, relative: bool = relative) -> Any:
            return np.exp(sd * z) if relative else origin + sd * z

        # A shift is shared even where its starts differ: bounds then belong to the outermost of them.
        middle = float(begin.mean())
        fitted.append(
            Fitted(
                kind=kind,
                label=name.split(":", 1)[1],
                members=tuple(entries(subject.model, kind)[r] for r in rows),
                relative=relative,
                start=begin,
                value=np.asarray(getattr(subject.params, kind), np.float64)[rows],
                position=float(place(result.z[i], middle)),
                origin=1.0 if relative else middle,
                low=float(place(layout.low[i], float(begin.min()))),
                high=float(place(layout.high[i], float(begin.max()))),
                prior=(float(place(-1.0, middle)), float(place(1.0, middle))),
                sds=float(result.z[i]),
                at_bound=name in at_bounds,
                others=np.asarray(place(np.delete(result.all_z[:, i], winner), middle)),
            )
        )
    return tuple(fitted)


def _from_file(subject: Subject) -> tuple[Fitted, ...]:
    """From what the subject keeps: every entry by itself, bounds and prior in the kind's unit."""
    fitted = []
    if subject.start is None:
        return ()
    for kind, bounds in subject.bounds.items():
        names = entries(subject.model, kind)
        for name, (low, high) in bounds.items():
            i = names.index(name)
            begin = float(np.asarray(getattr(subject.start, kind))[i])
            value = float(np.asarray(getattr(subject.params, kind))[i])
            relative = kind in DEFAULT_FREE and DEFAULT_FREE[kind].relative and begin != 0
            unit = begin if relative else 1.0
            sd = subject.prior_sd.get(kind, {}).get(name)
            span = 1e-6 * (high - low)
            fitted.append(
                Fitted(
                    kind=kind,
                    label=name,
                    members=(name,),
                    relative=relative,
                    start=np.array([begin]),
                    value=np.array([value]),
                    position=value / unit,
                    origin=begin / unit,
                    low=low / unit,
                    high=high / unit,
                    prior=None if sd is None else ((begin - sd) / unit, (begin + sd) / unit),
                    sds=None if sd is None else (value - begin) / sd,
                    at_bound=not low + span < value < high - span,
                    others=np.empty(0),
                )
            )
    return tuple(fitted)
