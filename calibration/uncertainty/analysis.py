"""What a calibration can and cannot say, worked out after the fit: cost by block, posterior, bands, identifiability."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibration.excitations.synergies import without_residuals
from calibration.fitting import CalibrationResult, cost_by_block
from calibration.problem import Problem
from calibration.uncertainty.identifiability import Identifiability, identifiability
from calibration.uncertainty.posterior import (
    Band,
    Interval,
    Noise,
    Posterior,
    bands,
    intervals,
    laplace,
    params_batch,
    sample,
)
from calibration.validation import evaluate
from nms_gym.errors import InputError
from nms_gym.model.parameters import NmsParams
from nms_gym.model.replay import Segment
from nms_gym.model.structure import NmsModel

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
                "half_width": float(np.mean(np.concatenate([0.5 * (b.high - b.low)[:, k] for b in self.bands]))),
                "windows": len(self.bands),
            }
            for k, c in enumerate(self.bands[0].coordinates if self.bands else ())
        ]


@dataclass(frozen=True)
class Analysis:
    """What ``analyse`` works out."""

    blocks: Mapping[str, tuple[float, float]]
    """cost by block, before and after"""
    posterior: Posterior
    draws: np.ndarray
    """(n, P) people that fit about as well, in prior standard deviations"""
    people: NmsParams
    """the same as parameters, leaves ``(n, ...)``"""
    intervals: tuple[Interval, ...]
    identifiability: Identifiability
    bands: tuple[BandSet, ...]
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
    draws = sample(posterior, samples, seed)
    people = params_batch(posterior, draws)
    sets = [("training windows", False, problem.segments), *((n, True, s) for n, s in (held_out or {}).items())]
    model = problem.model
    residual = set(model.recorded_muscles) & set(model.synergy_muscles)
    rows: list[dict[str, Any]] = []
    if residual:
        plain = without_residuals(model, result.params)
        for label, unseen, segments in sets:
            if all(s.measured is not None for s in segments):
                labels = {"set": "without residuals", "split": "held-out" if unseen else "train", "segment": label}
                rows += [m.row(**labels) for m in evaluate(model, plain, segments)]
    return Analysis(
        blocks={name: (before[name], after[name]) for name in after},
        posterior=posterior,
        draws=draws,
        people=people,
        intervals=tuple(intervals(posterior, draws, LEVEL)),
        identifiability=identifiability(posterior),
        bands=tuple(band_set(model, people, posterior.noise, *s) for s in sets),
        without_residuals=tuple(rows),
    )


# Windows per set that bands are worked out for; evenly spread, as in the report's figures.
MOST_WINDOWS = 4


def band_set(
    model: NmsModel,
    people: NmsParams,
    noise: Sequence[Noise],
    label: str,
    held_out: bool,
    segments: Sequence[Segment],
) -> BandSet:
    """Bands of some of the windows of a set, as ``bands`` makes them of people ``(n, ...)`` and the moments' noise."""
    chosen = [segments[i] for i in np.unique(np.linspace(0, len(segments) - 1, MOST_WINDOWS).round().astype(int))]
    found = bands(model, people, chosen, level=LEVEL, noise=noise)
    inside: dict[str, list[float]] = {}
    for band, s in zip(found, chosen, strict=True):
        if s.measured is not None:
            for c, part in zip(band.coordinates, band.coverage(s.measured, s.scored), strict=True):
                inside.setdefault(c, []).append(float(part))
    return BandSet(
        label,
        held_out,
        tuple(_counted(band, s) for band, s in zip(found, chosen, strict=True)),
        tuple(None if s.measured is None else s.measured[s.scored] for s in chosen),
        {c: float(np.mean(v)) for c, v in inside.items()},
    )


def _counted(band: Band, segment: Segment) -> Band:
    """The band without the lead-in."""
    series = {name: getattr(band, name)[segment.scored] for name in ("time", "median", "low", "high")}
    return dataclasses.replace(band, **series)
