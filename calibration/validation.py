"""What parameters are worth on a stretch of recording: metrics per joint, the same in every row of every table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np

from calibration.problem import MaximalMoments, Target
from calibration.residuals import Maximal, make_maximal, moments_of, predict_maximal
from nms_gym.errors import InputError
from nms_gym.model.forward import NmsOutput
from nms_gym.model.parameters import NmsParams
from nms_gym.model.quantities import MUSCLE_OUTPUTS
from nms_gym.model.replay import Replay, Segment, padded, predict_moments
from nms_gym.model.structure import NmsModel


@dataclass(frozen=True)
class Metrics:
    """Agreement of one joint's moment with the measured one over the counted samples of one or more segments."""

    coordinate: str
    rmse: float
    """N·m"""
    nrmse: float
    """RMSE over the measured range"""
    r2: float
    """1 - squared error over variance; negative when worse than the mean"""
    r: float
    """Pearson's correlation; NaN when either is constant"""
    samples: int

    def row(self, **labels: Any) -> dict[str, Any]:
        """As a flat dictionary with ``labels`` first, for JSON and tables."""
        return {**labels, **asdict(self)}


def compare(coordinate: str, predicted: np.ndarray, measured: np.ndarray) -> Metrics:
    """Metrics of one joint, ``(N,)`` against ``(N,)`` N·m."""
    error = predicted - measured
    rmse = float(np.sqrt(np.mean(error**2)))
    deviation, spread = measured - measured.mean(), predicted - predicted.mean()
    scale = float(np.sqrt(np.sum(deviation**2) * np.sum(spread**2)))
    variance = float(np.mean(deviation**2))
    return Metrics(
        coordinate=coordinate,
        rmse=rmse,
        nrmse=rmse / float(np.ptp(measured)) if np.ptp(measured) > 0 else float("nan"),
        r2=1.0 - rmse**2 / variance if variance > 0 else float("nan"),
        r=float(np.sum(deviation * spread)) / scale if scale > 0 else float("nan"),
        samples=len(measured),
    )


@dataclass(frozen=True)
class TargetMetrics:
    """Agreement of a quantity of one muscle with what was measured, over the counted samples of all segments."""

    quantity: str
    muscle: str
    unit: str
    rmse: float
    tolerance: float
    """what the fit takes for its error; the largest where segments differ"""
    samples: int

    def row(self, **labels: Any) -> dict[str, Any]:
        """As a flat dictionary with ``labels`` first, for JSON and tables."""
        return {**labels, **asdict(self)}


# Windows are padded to multiples of this many samples, so that strides of unequal length compile once.
PADDING = 128

_run = jax.jit(predict_moments)


def float64(tree: Any) -> Any:
    """Every array of a pytree in NumPy's float64."""
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def _in_whole_paddings(segment: Segment) -> Replay:
    return padded(segment.replay, PADDING * -(-len(segment.time) // PADDING))


def predict_segment(model: NmsModel, params: NmsParams, segment: Segment) -> NmsOutput:
    """``predict_moments`` in float64 on one segment; NumPy leaves ``(T, ...)``, lead-in included."""
    steps = len(segment.time)
    replay = _in_whole_paddings(segment)
    with jax.enable_x64(True):
        return jax.tree.map(lambda x: np.asarray(x)[:steps], _run(*float64((model, params, replay))))


def predict_people(model: NmsModel, people: NmsParams, segment: Segment) -> np.ndarray:
    """Moments ``(n, T, K)`` N·m of many people ``(n, ...)`` on one segment, lead-in included; float64."""
    steps = len(segment.time)
    replay = _in_whole_paddings(segment)
    with jax.enable_x64(True):
        return np.asarray(_moments(*float64((model, people, replay))))[:, :steps]


@jax.jit
def _moments(model: NmsModel, people: NmsParams, replay: Replay) -> jax.Array:
    return jax.vmap(lambda p: predict_moments(model, p, replay).moments)(people)


def evaluate(model: NmsModel, params: NmsParams, segments: Sequence[Segment]) -> list[Metrics]:
    """Metrics per joint over the counted samples of all segments together.

    Raises:
        InputError: no segment, or one without measured moments.
    """
    if not segments:
        raise InputError("no window to evaluate on")
    predicted, measured = [], []
    for s in segments:
        if s.measured is None:
            raise InputError(f"{s.name}: no measured moments to compare with")
        predicted.append(predict_segment(model, params, s).moments[s.scored])
        measured.append(s.measured[s.scored])
    p, m = np.concatenate(predicted), np.concatenate(measured)
    return [compare(c, p[:, k], m[:, k]) for k, c in enumerate(segments[0].coordinates)]


def tabulate(
    model: NmsModel,
    start: NmsParams,
    params: NmsParams,
    train: Sequence[Segment],
    held_out: Mapping[str, Sequence[Segment]],
) -> list[dict[str, Any]]:
    """Metrics rows before and after calibration, on the training windows and on each held-out set.

    Returns:
        Flat rows with ``set`` ("uncalibrated" or "calibrated"), ``split`` ("train" or "held-out"), ``segment`` (label
        of the set of windows), and the fields of ``Metrics``. Sets without measured moments are left out.
    """
    labelled = [("train", "training windows", train), *(("held-out", name, s) for name, s in held_out.items())]
    return [
        metrics.row(set=which, split=split, segment=name)
        for split, name, segments in labelled
        if segments and all(s.measured is not None for s in segments)
        for which, p in (("uncalibrated", start), ("calibrated", params))
        for metrics in evaluate(model, p, segments)
    ]


def evaluate_targets(
    model: NmsModel, params: NmsParams, segments: Sequence[Segment], targets: Sequence[Sequence[Target]]
) -> list[TargetMetrics]:
    """Metrics per quantity and muscle of what was measured on each of the segments; none where nothing was."""
    errors: dict[tuple[str, str], list[tuple[Target, np.ndarray]]] = {}
    for s, given in zip(segments, targets, strict=bool(targets)):
        if not given:
            continue
        out = predict_segment(model, params, s)
        for t in given:
            values = np.asarray(MUSCLE_OUTPUTS[t.quantity](float64(params), out))[:, model.muscles.index(t.muscle)]
            counts = s.scored & np.isfinite(t.values)
            errors.setdefault((t.quantity, t.muscle), []).append((t, (values - t.values)[counts]))
    return [
        TargetMetrics(
            quantity,
            muscle,
            found[0][0].unit,
            float(np.sqrt(np.mean(np.concatenate([e for _, e in found]) ** 2))),
            max(t.tolerance for t, _ in found),
            sum(len(e) for _, e in found),
        )
        for (quantity, muscle), found in errors.items()
    ]


def evaluate_maximal(model: NmsModel, params: NmsParams, maximal: MaximalMoments) -> np.ndarray:
    """Moments ``(R,)`` N·m of maximal contractions, float64."""
    bare = dataclasses.replace(model, paths=None, skeleton=None)
    with jax.enable_x64(True):
        return np.asarray(_maximal(*float64((bare, params, make_maximal(maximal)))))


@jax.jit
def _maximal(model: NmsModel, params: NmsParams, maximal: Maximal) -> jax.Array:
    return moments_of(maximal, predict_maximal(model, params, maximal))


def tabulate_maximal(
    model: NmsModel, start: NmsParams, params: NmsParams, maximal: MaximalMoments | None
) -> list[dict[str, Any]]:
    """A row per maximal contraction, N·m positive along the coordinate: as measured, with its tolerance, of the
    uncalibrated and of the calibrated person."""
    if maximal is None:
        return []
    before, after = (evaluate_maximal(model, p, maximal) for p in (start, params))
    return [
        {
            "coordinate": joint,
            "pose": label,
            "measured": float(maximal.moments[i]),
            "tolerance": float(maximal.tolerance[i]),
            "uncalibrated": float(before[i]),
            "calibrated": float(after[i]),
        }
        for i, (joint, label) in enumerate(zip(maximal.joints, maximal.labels, strict=True))
    ]


def tabulate_targets(
    model: NmsModel,
    start: NmsParams,
    params: NmsParams,
    train: tuple[Sequence[Segment], Sequence[Sequence[Target]]],
    held_out: Mapping[str, tuple[Sequence[Segment], Sequence[Sequence[Target]]]],
) -> list[dict[str, Any]]:
    """Rows of ``TargetMetrics`` before and after calibration, labelled as those of ``tabulate``.

    Args:
        model: structure.
        start: the uncalibrated person.
        params: the calibrated one.
        train: training windows, and what was measured of single muscles on each.
        held_out: the same by the label of the set.
    """
    labelled = [("train", "training windows", train), *(("held-out", name, s) for name, s in held_out.items())]
    return [
        metrics.row(set=which, split=split, segment=name)
        for split, name, (segments, targets) in labelled
        for which, p in (("uncalibrated", start), ("calibrated", params))
        for metrics in evaluate_targets(model, p, segments, targets)
    ]
