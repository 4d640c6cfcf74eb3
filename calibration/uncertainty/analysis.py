"""What a calibration can and cannot say, worked out after the fit: cost by block, posterior, bands, identifiability."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from calibration.excitations.synergies import without_residuals
from calibration.fitting import CalibrationResult, cost_by_block
from calibration.problem import Problem
from calibration.uncertainty.bands import Band, Interval, bands, intervals
from calibration.uncertainty.discrepancy import (
    Corrections,
    evaluate_corrected,
    fit_discrepancy,
    make_corrections,
)
from calibration.uncertainty.draws import Trust, checked_sample, params_batch
from calibration.uncertainty.identifiability import Identifiability, identifiability
from calibration.uncertainty.posterior import Noise, Posterior, laplace
from calibration.validation import Metrics, evaluate
from nms_gym.errors import InputError
from nms_gym.model.parameters import NmsParams
from nms_gym.model.replay import Segment
from nms_gym.model.structure import NmsModel

T = TypeVar("T")
CORRECTED = "calibrated, with discrepancy"
"""label of the rows of model and discrepancy together"""
LEVEL = 0.9
"""probability inside intervals and bands"""


@dataclass(frozen=True)
class BandSet:
    """Bands of one set of windows, and how much of the measurement lies inside."""

    label: str
    held_out: bool
    bands: tuple[Band, ...]
    measured: tuple[np.ndarray | None, ...]
    coverage: Mapping[str, float]
    """joint -> fraction of the counted samples inside; without unmeasured windows"""
    half_width: Mapping[str, float]
    """joint -> half of the band's mean width, N·m"""
    windows: int
    """that were looked at; a few of them are drawn"""

    def rows(self) -> list[dict[str, Any]]:
        """For ``metrics.json``: by joint, the level, the fraction of measured samples inside (None where nothing is
        measured), half the band's mean width in N·m, and how many windows were looked at."""
        return [
            {
                "split": "held-out" if self.held_out else "train",
                "segment": self.label,
                "coordinate": c,
                "level": self.bands[0].level,
                "coverage": self.coverage.get(c),
                "half_width": self.half_width[c],
                "windows": self.windows,
            }
            for c in self.half_width
        ]


@dataclass(frozen=True)
class Analysis:
    """What ``analyse`` works out."""

    blocks: Mapping[str, tuple[float, float]]
    """cost by block, before and after"""
    posterior: Posterior
    draws: np.ndarray
    """(n, P) people that fit about as well, in prior standard deviations"""
    trust: Trust
    """how far the posterior's quadratic model was from the draws' true cost"""
    people: NmsParams
    """the same as parameters, leaves ``(n, ...)``"""
    intervals: tuple[Interval, ...]
    identifiability: Identifiability
    bands: tuple[BandSet, ...]
    corrections: Corrections | None
    """what the model leaves unexplained, for the fit and everyone drawn; None where recordings lack the motion of a
    joint"""
    corrected: tuple[dict[str, Any], ...]
    """metrics rows of the calibrated person with the discrepancy added"""
    without_residuals: tuple[dict[str, Any], ...]
    """metrics rows of the calibrated person with the residual excitations taken away; none where there are none"""


def analyse(
    problem: Problem,
    result: CalibrationResult,
    held_out: Mapping[str, Sequence[Segment]] | None = None,
    *,
    samples: int = 200,
    seed: int = 0,
) -> Analysis:
    """Work it all out; takes about as long as the fit, most of it compiling.

    Args:
        problem: that was fitted.
        result: of the fit.
        held_out: windows that the fit has not seen, by the label of their set; bands are worked out for them too.
        samples: people to draw from the posterior.
        seed: of the draws.

    Raises:
        InputError: fewer than 2 samples, or a result without a finite cost.
    """
    if samples < 2:
        raise InputError(f"samples is {samples}; at least 2 are needed for intervals")
    before, after = (cost_by_block(problem, z) for z in (np.zeros_like(result.z), result.z))
    posterior = laplace(problem, result)
    draws, trust = checked_sample(problem, posterior, samples, seed)
    people = params_batch(posterior, draws)
    sets = [("training windows", False, problem.segments), *((n, True, s) for n, s in (held_out or {}).items())]
    model = problem.model
    residual = set(model.recorded_muscles) & set(model.synergy_muscles)
    measured = [(label, unseen, s) for label, unseen, s in sets if all(x.measured is not None for x in s)]

    def rows(which: str, evaluated: Callable[[Sequence[Segment]], Sequence[Metrics]]) -> tuple[dict[str, Any], ...]:
        return tuple(
            metrics.row(set=which, split="held-out" if unseen else "train", segment=label)
            for label, unseen, segments in measured
            for metrics in evaluated(segments)
        )

    plain = without_residuals(model, result.params) if residual else None
    found = corrections = None
    if all(set(s.coordinates) <= set(s.moving) for _, _, segments in sets for s in segments):
        found = fit_discrepancy(
            model,
            result.params,
            problem.segments,
            moment_bandwidth=problem.penalties.moment_bandwidth,
            excess=[n.excess for n in posterior.noise],
        )
        corrections = make_corrections(found, model, result.params, people, problem.segments)
    return Analysis(
        blocks={name: (before[name], after[name]) for name in after},
        posterior=posterior,
        draws=draws,
        trust=trust,
        people=people,
        intervals=tuple(intervals(posterior, draws, LEVEL)),
        identifiability=identifiability(posterior, problem=problem),
        bands=tuple(band_set(model, people, posterior.noise, *s, corrections=corrections) for s in sets),
        corrections=corrections,
        corrected=()
        if found is None
        else rows(CORRECTED, lambda s: evaluate_corrected(model, result.params, found, s)),
        without_residuals=() if plain is None else rows("without residuals", lambda s: evaluate(model, plain, s)),
    )


# Windows per set that bands are worked out for, and those of them that are drawn; evenly spread.
MOST_WINDOWS, MOST_DRAWN = 8, 4


def _spread(items: Sequence[T], most: int) -> list[T]:
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, most).round().astype(int))]


def band_set(
    model: NmsModel,
    people: NmsParams,
    noise: Sequence[Noise],
    label: str,
    held_out: bool,
    segments: Sequence[Segment],
    *,
    corrections: Corrections | None = None,
) -> BandSet:
    """Bands of some of the windows of a set, as ``bands`` makes them of people ``(n, ...)`` and the moments' noise, or
    their corrections."""
    chosen = _spread(segments, MOST_WINDOWS)
    found = bands(model, people, chosen, level=LEVEL, noise=noise, corrections=corrections)
    inside: dict[str, list[float]] = {}
    width: dict[str, list[float]] = {}
    for band, s in zip(found, chosen, strict=True):
        for k, c in enumerate(band.coordinates):
            width.setdefault(c, []).append(float(np.mean((band.high - band.low)[s.scored, k])) / 2)
        if s.measured is not None:
            for c, part in zip(band.coordinates, band.coverage(s.measured, s.scored), strict=True):
                inside.setdefault(c, []).append(float(part))
    drawn = _spread(list(zip(found, chosen, strict=True)), MOST_DRAWN)
    return BandSet(
        label,
        held_out,
        tuple(_counted(band, s) for band, s in drawn),
        tuple(None if s.measured is None else s.measured[s.scored] for _, s in drawn),
        {c: float(np.mean(v)) for c, v in inside.items()},
        {c: float(np.mean(v)) for c, v in width.items()},
        len(chosen),
    )


def _counted(band: Band, segment: Segment) -> Band:
    """The band without the lead-in."""
    series = {
        name: getattr(band, name)[segment.scored] for name in ("time", "median", "low", "high", "model", "model_sd")
    }
    return dataclasses.replace(band, **series)
