"""How a calibration does on recordings that it was not given, and how strong its prior should be.

Leave-one-out by stride, by trial or by speed. The folds differ from each other only in which segments count, and the
prior strengths only in a factor on the prior's precision, so that all of them, and the fits to everything, are one
batch. Moments are weighed by the spread of all segments of their recording in every fold, so that folds are comparable;
the left-out moments enter in no other way.

The strength is chosen by the one-standard-error rule (Breiman et al. 1984; Hastie, Tibshirani & Friedman 2009, 7.10):
the strongest prior whose error is within one standard error of the least.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np

from calibration.fitting import starting_points
from calibration.problem import Layout, Penalties, Problem, params_at
from calibration.residuals import Data, Quadratic, make_objective, predict_stack
from calibration.solvers.batch import Precision, cast, make_advance, make_batches, solve
from nms_gym._compilation import fast_compilation
from nms_gym.errors import InputError, listed
from nms_gym.model.parameters import NmsParams
from nms_gym.model.replay import Segment
from nms_gym.model.structure import NmsModel

STRENGTHS = (0.25, 1.0, 4.0, 16.0)


@dataclass(frozen=True)
class Fold:
    """Errors of one fit, of one joint; N·m."""

    left_out: str
    strength: float
    coordinate: str
    train: float
    """RMSE on the segments that were fitted"""
    held_out: float
    """RMSE on those left out"""
    uncalibrated: float
    """RMSE of the uncalibrated person on those left out"""


@dataclass(frozen=True)
class Choice:
    """How one prior strength did."""

    strength: float
    error: float
    """mean over folds of the held-out error: squared over the variance of the measured moments, mean over joints"""
    standard_error: float
    train: float
    """the same of the fitted segments"""
    chosen: bool


@dataclass(frozen=True)
class CrossValidation:
    """Outcome of ``cross_validate``."""

    folds: tuple[Fold, ...]
    choices: tuple[Choice, ...]
    """by prior strength, weakest first"""
    uncalibrated: float
    """held-out error of the uncalibrated person, in the unit of ``Choice.error``"""
    converged: int
    """fits that converged, of ``fits``"""
    fits: int
    seconds: float
    """to solve, compiling included"""

    @property
    def strength(self) -> float:
        """The chosen one."""
        return next(c.strength for c in self.choices if c.chosen)

    def rows(self) -> list[dict[str, Any]]:
        """One flat row per fold, strength and joint, for tables and JSON."""
        return [asdict(f) for f in self.folds]

    def choice_rows(self) -> list[dict[str, Any]]:
        """One flat row per strength."""
        return [asdict(c) for c in self.choices]


def by_stride(segments: Sequence[Segment]) -> tuple[str, ...]:
    """Labels that leave out one segment at a time."""
    return tuple(s.name for s in segments)


def by_trial(segments: Sequence[Segment]) -> tuple[str, ...]:
    """Labels that leave out one recording at a time: segment names without their window."""
    return tuple(s.recording for s in segments)


def by_speed(segments: Sequence[Segment], speeds: Mapping[str, str]) -> tuple[str, ...]:
    """Labels that leave out all recordings of one speed (or task) at a time.

    Args:
        segments: of the problem.
        speeds: recording -> label.

    Raises:
        InputError: a recording has no label.
    """
    trials = by_trial(segments)
    missing = sorted({t for t in trials if t not in speeds})
    if missing:
        raise InputError(f"no speed given for {listed(missing)}; there are {listed(speeds)}")
    return tuple(speeds[t] for t in trials)


def with_prior_strength(problem: Problem, strength: float) -> Problem:
    """The same problem with the prior's precision multiplied: every prior standard deviation over its square root."""
    factor = 1.0 / np.sqrt(strength)
    free = tuple(
        dataclasses.replace(f, prior_sd=f.prior_sd * factor, own_sd=tuple((name, sd * factor) for name, sd in f.own_sd))
        for f in problem.free
    )
    return dataclasses.replace(problem, free=free)


def cross_validate(
    problem: Problem,
    labels: Sequence[str] | None = None,
    *,
    strengths: Sequence[float] = STRENGTHS,
    precision: Precision = "float64",
    max_iterations: int = 60,
    tolerance: float = 1e-4,
) -> CrossValidation:
    """Leave every label's segments out in turn, at every prior strength.

    Args:
        problem: with all segments.
        labels: one per segment; segments that share one are left out together. By default ``by_stride``.
        strengths: factors on the prior's precision, 1 is the problem's own.
        precision: "float64" or "float32".
        max_iterations: of every fit.
        tolerance: see ``fit``.

    Raises:
        InputError: fewer than two labels, or not one per segment; strengths missing or not positive; no fit is finite.
    """
    labels = by_stride(problem.segments) if labels is None else tuple(labels)
    if len(labels) != len(problem.segments):
        raise InputError(f"{len(labels)} labels for {len(problem.segments)} segments; give one each")
    names = tuple(dict.fromkeys(labels))
    if len(names) < 2:
        raise InputError(f"all segments are {labels[0]!r}: nothing is left to fit without it; give at least two")
    factors = np.array(sorted(set(strengths)), float)
    if not len(factors) or not (factors > 0).all():
        raise InputError(f"prior strengths are {list(strengths)}; give at least one, all above 0")

    (batch,) = make_batches([problem])
    layout = batch.layouts[0]
    stacked: Any = (batch.model, batch.data, batch.start)
    shared = jax.tree.map(lambda leaf: leaf[0], stacked)
    keep = np.array([[label != name for label in labels] for name in names], float)  # (F, S)
    fold, level = (a.ravel() for a in np.meshgrid(range(len(names)), range(len(factors)), indexing="ij"))
    n = len(fold)
    solved = solve(
        _advance(batch.shared_layout, batch.penalties, tolerance),
        shared,
        (keep[fold], factors[level]),
        np.tile(layout.low, (n, 1)),
        np.tile(layout.high, (n, 1)),
        np.tile(starting_points(layout, 1, 0), (n, 1, 1)),
        precision=precision,
        max_iterations=max_iterations,
    )
    if not np.isfinite(solved.costs).all():
        raise InputError("a fit of the cross-validation has no finite cost; check the problem with a plain fit first")
    # Everyone on every segment, the uncalibrated person last.
    points = np.concatenate([solved.z[:, 0], np.zeros((1, layout.size))])
    with jax.enable_x64(precision == "float64"):
        squared = np.asarray(_squared_errors(batch.shared_layout)(*cast((*shared, points), precision)), float)
    train = batch.data.train
    scored = np.asarray(train.weight[0]).any(axis=2)  # (S, T)
    samples = scored.sum(axis=1)
    measured = np.asarray(train.measured[0])[scored]
    return _summary(problem, names, factors, fold, level, keep, squared, samples, measured.var(axis=0), solved)


@functools.lru_cache(maxsize=8)
def _advance(layout: Layout, penalties: Penalties, tolerance: float) -> Any:
    objective = make_objective(layout, penalties)

    def quadratic(shared: Any, item: Any, z: jax.Array) -> Quadratic:
        model, data, start = shared
        keep, strength = item
        train = data.train
        kept = dataclasses.replace(
            data,
            train=dataclasses.replace(train, weight=train.weight * keep[:, None, None]),
            counted=data.counted * keep[:, None],
        )
        at = objective.quadratic(model, kept, start, z)
        more = (strength - 1.0) * jax.numpy.asarray(layout.prior_precision, z.dtype)
        return Quadratic(
            cost=at.cost + 0.5 * z @ more @ z,
            gradient=at.gradient + more @ z,
            matrix=at.matrix + more,
        )

    return make_advance(quadratic, tolerance)


@functools.lru_cache(maxsize=8)
def _squared_errors(layout: Layout) -> Any:
    """Jitted: points ``(N, P)`` to sums of squared moment errors ``(N, S, K)``."""

    def of_one(model: NmsModel, data: Data, start: NmsParams, z: jax.Array) -> jax.Array:
        moments = predict_stack(model, params_at(layout, start, z), data.train.replay).moments
        errors = jax.numpy.where(data.train.weight > 0, moments - data.train.measured, 0.0)
        return jax.numpy.sum(errors**2, axis=1)

    return jax.jit(jax.vmap(of_one, in_axes=(None, None, None, 0)), compiler_options=fast_compilation())


def one_standard_error(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Mean and standard error over folds, and the last column whose mean is within one of the least.

    Args:
        errors: (folds, strengths), strengths rising.
    """
    mean, standard = errors.mean(axis=0), errors.std(axis=0, ddof=1) / np.sqrt(len(errors))
    best = int(np.argmin(mean))
    return mean, standard, int(np.flatnonzero(mean <= mean[best] + standard[best]).max())


def _summary(
    problem: Problem,
    names: tuple[str, ...],
    factors: np.ndarray,
    fold: np.ndarray,
    level: np.ndarray,
    keep: np.ndarray,
    squared: np.ndarray,
    samples: np.ndarray,
    variance: np.ndarray,
    solved: Any,
) -> CrossValidation:
    def mean_square(rows: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """(N, K) over the segments of the mask (N, S)."""
        return np.einsum("nsk,ns->nk", rows, mask) / (mask @ samples)[:, None]

    out = 1.0 - keep
    train, held_out = mean_square(squared[:-1], keep[fold]), mean_square(squared[:-1], out[fold])
    before = mean_square(np.repeat(squared[-1:], len(names), axis=0), out)
    folds = tuple(
        Fold(
            names[fold[i]],
            float(factors[level[i]]),
            c,
            *(float(np.sqrt(x)) for x in (train[i, k], held_out[i, k], before[fold[i], k])),
        )
        for i in range(len(fold))
        for k, c in enumerate(problem.coordinates)
    )
    shape = (len(names), len(factors))
    errors, fitted = ((x / variance).mean(axis=1).reshape(shape) for x in (held_out, train))
    mean, standard, chosen = one_standard_error(errors)
    return CrossValidation(
        folds=folds,
        choices=tuple(
            Choice(float(f), float(mean[j]), float(standard[j]), float(fitted[:, j].mean()), j == chosen)
            for j, f in enumerate(factors)
        ),
        uncalibrated=float((before / variance).mean()),
        converged=int(solved.done.sum()),
        fits=solved.done.size,
        seconds=solved.compile_seconds + solved.run_seconds,
    )
