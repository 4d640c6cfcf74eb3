"""What draws of a posterior say: intervals of parameters, bands on moments, and the record in a subject file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from calibration.uncertainty.discrepancy import Corrections
from calibration.uncertainty.draws import params_batch
from calibration.uncertainty.posterior import Noise, Posterior
from calibration.validation import predict_people
from nms_gym.errors import InputError, listed
from nms_gym.model.parameters import KINDS, NmsParams, entries
from nms_gym.model.replay import Segment
from nms_gym.model.structure import NmsModel


@dataclass(frozen=True)
class Interval:
    """What is known about one entry of the parameters, in its own unit."""

    kind: str
    name: str
    unit: str
    start: float
    prior_sd: float
    """to first order"""
    mean: float
    sd: float
    low: float
    high: float
    level: float
    """probability between ``low`` and ``high``"""


@dataclass(frozen=True)
class Band:
    """Where the moments of a stretch lie with probability ``level``, sample by sample; N·m, ``(T, K)``."""

    segment: str
    level: float
    coordinates: tuple[str, ...]
    time: np.ndarray
    median: np.ndarray
    low: np.ndarray
    high: np.ndarray
    model: np.ndarray
    """median of what the model says of the people, without noise or discrepancy"""
    model_sd: np.ndarray
    """its standard deviation over people"""
    predictive: bool
    """whether measurement noise and model error are inside (a band for measured moments), or parameters alone"""

    def coverage(self, moments: np.ndarray, scored: np.ndarray) -> np.ndarray:
        """``(K,)``: fraction of the counted samples of ``moments (T, K)`` that lie inside."""
        inside = (moments >= self.low) & (moments <= self.high)
        return inside[scored].mean(axis=0)


def intervals(posterior: Posterior, draws: np.ndarray, level: float = 0.9) -> list[Interval]:
    """Mean, standard deviation and central interval of every free entry, from draws ``(n, P)``."""
    people, layout = params_batch(posterior, draws), posterior.layout
    tails = (0.5 - 0.5 * level, 0.5 + 0.5 * level)
    rows = []
    for kind, index in layout.index.items():
        values, start = getattr(people, kind), np.asarray(getattr(posterior.start, kind), float)
        for j, name in enumerate(entries(posterior.model, kind)):
            if index[j] == layout.size:
                continue
            low, high = np.quantile(values[:, j], tails)
            prior_sd = layout.sd[index[j]] * (start[j] if layout.relative[kind] else 1.0)
            column = values[:, j]
            rows.append(
                Interval(
                    kind,
                    name,
                    KINDS[kind].unit,
                    float(start[j]),
                    float(prior_sd),
                    float(column.mean()),
                    float(column.std(ddof=1)) if len(column) > 1 else 0.0,
                    float(low),
                    float(high),
                    level,
                )
            )
    return rows


def bands(
    model: NmsModel,
    people: NmsParams,
    segments: Sequence[Segment],
    *,
    level: float = 0.9,
    noise: Sequence[Noise] | None = None,
    corrections: Corrections | None = None,
    seed: int = 0,
) -> list[Band]:
    """Bands on the moments of stretches, fitted or unseen.

    Args:
        model: structure.
        people: parameters with a leading axis ``(n, ...)``, from ``params_batch``.
        segments: stretches to predict.
        level: probability inside, at each sample.
        noise: ``Posterior.noise``, for bands that measured moments should lie in; without it the bands hold what the
            parameters leave open, and the model is taken to be right.
        corrections: what the model leaves unexplained, learned for each of these people: added to the moments with its
            own uncertainty; its noise then takes the place of ``noise``.
        seed: of the noise.
    """
    tails = (0.5 - 0.5 * level, 0.5, 0.5 + 0.5 * level)
    rng = np.random.default_rng(seed)
    sd = {n.coordinate: n.unseen for n in noise or ()}
    predictive = noise is not None or corrections is not None
    result = []
    for s in segments:
        alone = moments = predict_people(model, people, s)
        if corrections is not None:
            moments = corrections.drawn(model, s, moments, rng)
        elif noise is not None:
            unknown = [c for c in s.coordinates if c not in sd]
            if unknown:
                raise InputError(f"{s.name}: no noise level of {listed(unknown)}; there are {listed(sd)}")
            moments = moments + rng.standard_normal(moments.shape) * np.array([sd[c] for c in s.coordinates])
        low, median, high = np.quantile(moments, tails, axis=0)
        own = np.median(alone, axis=0), alone.std(axis=0)
        result.append(Band(s.name, level, s.coordinates, s.time, median, low, high, *own, predictive))
    return result


# --- for the record ----------------------------------------


def to_record(posterior: Posterior, draws: np.ndarray, *, level: float = 0.9) -> dict[str, Any]:
    """Everything a subject file should keep, as plain JSON: noise, solutions, intervals, and the draws by kind.

    ``samples[kind][i]`` is draw ``i`` in the order of ``names[kind]``; only kinds that were free.
    """
    people, kinds = params_batch(posterior, draws), tuple(posterior.layout.index)
    return {
        "level": level,
        "noise": [asdict(n) for n in posterior.noise],
        "solutions": [{"weight": m.weight, "cost": m.cost} for m in posterior.modes],
        "intervals": [asdict(i) for i in intervals(posterior, draws, level)],
        "names": {kind: list(entries(posterior.model, kind)) for kind in kinds},
        "samples": {kind: np.asarray(getattr(people, kind)).tolist() for kind in kinds},
    }


def by_name(rows: Sequence[Interval]) -> Mapping[tuple[str, str], Interval]:
    """Intervals by kind and name."""
    return {(row.kind, row.name): row for row in rows}
