"""What the recordings say about the parameters and what they leave to the prior, in words that name the parameters.

Eigenvalues of the data's share of the precision are relative to the prior's, so they read directly: a direction with
eigenvalue 1 is known from the data as well as from the prior, 99 means ten times better than before, 0.01 that the
recordings could not care less. In such a direction parameters trade off: a stronger muscle with a smaller gain gives
the same moments.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy.linalg

from calibration.problem import Layout, Problem
from calibration.uncertainty.posterior import Posterior

# Entries of a direction below this part of its largest one are left out of its description.
LEAST_COEFFICIENT = 0.3
# A combination is known where the data removed this part of its prior variance, or where so little is left of it that
# nobody needs them to (in logarithms).
HELD, LITTLE = 0.5, 0.1
# How near to a bound, as a part of the range, counts as on it.
AT_BOUND = 1e-6


@dataclass(frozen=True)
class Knowledge:
    """One entry of ``z``."""

    name: str
    informed: float
    """part of the prior variance that the data removed, 0 to 1"""
    sd: float
    """posterior over prior standard deviation"""
    estimate: float
    """prior standard deviations from the start"""
    at_bound: str
    """"lower", "upper" or "" """


@dataclass(frozen=True)
class Direction:
    """A combination of entries of ``z`` and what the data say about it."""

    eigenvalue: float
    """of the data's precision; the prior's is 1"""
    sd: float
    """posterior over prior standard deviation along it"""
    coefficients: tuple[tuple[str, float], ...]
    """(name, coefficient), largest first; small ones left out"""

    @property
    def text(self) -> str:
        """As a sum, ``0.71 emg_gain:biceps - 0.70 max_isometric_force:BRA``."""
        words = [f"{'-' if c < 0 else '+'} {abs(c):.2f} {name}" for name, c in self.coefficients]
        return " ".join(words).removeprefix("+ ")


@dataclass(frozen=True)
class Pair:
    """Two entries that the recordings hardly tell apart."""

    first: str
    second: str
    correlation: float
    """in the posterior"""


@dataclass(frozen=True)
class Combination:
    """A combination of entries that has a meaning of its own, and what the data say about it."""

    name: str
    """"strength against gain", or "balance of antagonists" with the joint"""
    prior_sd: float
    """before the fit, in logarithms: 0.2 is about 20 %"""
    sd: float
    """after it"""

    @property
    def informed(self) -> float:
        """Part of the prior variance that the data removed, 0 to 1."""
        return float(np.clip(1.0 - (self.sd / self.prior_sd) ** 2, 0.0, 1.0))

    @property
    def held(self) -> bool:
        """Whether it is known: better than before the fit, or well enough anyway."""
        return self.informed > HELD or self.sd < LITTLE


@dataclass(frozen=True)
class Identifiability:
    """What the recordings determine."""

    parameters: tuple[Knowledge, ...]
    directions: tuple[Direction, ...]
    """from the best to the worst determined; P of them"""
    pairs: tuple[Pair, ...]
    """strongest first"""
    determined: int
    """directions that the data know better than the prior"""
    effective: float
    """parameters' worth of information in the data: sum of eigenvalue / (1 + eigenvalue)"""
    combinations: tuple[Combination, ...] = ()
    """strength against gain, and balances of antagonists; none where the problem is not given, or they are not free"""

    @property
    def at_bounds(self) -> tuple[str, ...]:
        """Names of entries on a bound: the data ask for more than was allowed."""
        return tuple(k.name for k in self.parameters if k.at_bound)

    @property
    def worst(self) -> tuple[Direction, ...]:
        """Directions that the data leave to the prior, worst first."""
        return tuple(d for d in reversed(self.directions) if d.eigenvalue < 1)

    def rows(self) -> list[dict[str, Any]]:
        """One flat row per parameter, for tables and JSON."""
        return [asdict(k) for k in self.parameters]

    def direction_rows(self) -> list[dict[str, Any]]:
        """One flat row per direction, for tables and JSON."""
        return [{"eigenvalue": d.eigenvalue, "sd": d.sd, "combination": d.text} for d in self.directions]

    def pair_rows(self) -> list[dict[str, Any]]:
        """One flat row per pair, for tables and JSON."""
        return [asdict(p) for p in self.pairs]

    def to_record(self) -> dict[str, Any]:
        """Everything, as plain JSON."""
        return {
            "determined": self.determined,
            "effective": self.effective,
            "parameters": self.rows(),
            "directions": self.direction_rows(),
            "pairs": self.pair_rows(),
            "combinations": self.combination_rows(),
        }

    def combination_rows(self) -> list[dict[str, Any]]:
        """One flat row per combination, for tables and JSON."""
        return [asdict(c) | {"informed": c.informed, "held": c.held} for c in self.combinations]


def identifiability(
    posterior: Posterior, *, least_correlation: float = 0.5, problem: Problem | None = None
) -> Identifiability:
    """Report of the best solution, at the posterior's noise level; bounds are named, but not counted as knowledge.

    Args:
        posterior: from ``laplace``.
        least_correlation: weakest that makes a pair.
        problem: that was calibrated; with it strength is set against gain, and antagonists against each other.
    """
    mode, names, layout = posterior.best, posterior.layout.names, posterior.layout
    values, vectors = scipy.linalg.eigh(mode.data, layout.prior_precision)
    values, vectors = np.maximum(values, 0.0), vectors / np.linalg.norm(vectors, axis=0)
    variance = np.diag(mode.covariance)
    margin = AT_BOUND * (layout.high - layout.low)
    sides = np.where(mode.z <= layout.low + margin, "lower", np.where(mode.z >= layout.high - margin, "upper", ""))
    correlation = mode.covariance / np.sqrt(np.outer(variance, variance))
    upper = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    strong = sorted(
        (ij for ij in upper if abs(correlation[ij]) >= least_correlation), key=lambda ij: -abs(correlation[ij])
    )
    return Identifiability(
        parameters=tuple(
            Knowledge(n, float(np.clip(1.0 - v, 0.0, 1.0)), float(np.sqrt(v)), float(z), str(side))
            for n, v, z, side in zip(names, variance, mode.z, sides, strict=True)
        ),
        directions=tuple(_direction(names, values[i], vectors[:, i]) for i in range(len(values) - 1, -1, -1)),
        pairs=tuple(Pair(names[i], names[j], float(correlation[i, j])) for i, j in strong),
        determined=int(np.sum(values > 1.0)),
        effective=float(np.sum(values / (1.0 + values))),
        combinations=() if problem is None else combinations(posterior, problem),
    )


def combinations(posterior: Posterior, problem: Problem) -> tuple[Combination, ...]:
    """What EMG and moments of a joint are blind to: all muscles stronger and their gains smaller, and one side of a
    joint stronger where both work together. Of the best solution; bounds do not count as knowledge."""
    layout, model = posterior.layout, posterior.model
    strength = _of_entries(layout, "max_isometric_force", len(model.muscles))
    gain = _of_entries(layout, "emg_gain", len(model.channels))
    found: list[tuple[str, np.ndarray]] = []
    driven = np.abs(np.asarray(model.channel_weights, float))  # (M, C)
    both = (driven > 0) & (strength != 0).any(axis=1)[:, None] & (gain != 0).any(axis=1)
    if both.any():
        pulling, heard = both.any(axis=1), both.any(axis=0)
        found.append(("strength against gain", 0.5 * (strength[pulling].mean(axis=0) - gain[heard].mean(axis=0))))
    for k, coordinate in enumerate(problem.coordinates):
        arms = np.concatenate([np.asarray(s.replay.moment_arms)[s.scored, k] for s in problem.segments])
        share = arms.mean(axis=0) * np.asarray(posterior.start.max_isometric_force, float)
        along, against = np.maximum(share, 0.0), np.maximum(-share, 0.0)
        if (along[:, None] * strength).any() and (against[:, None] * strength).any():
            sides = (side @ strength / side.sum() for side in (along, against))
            found.append((f"balance of antagonists, {coordinate}", next(sides) - next(sides)))
    prior = np.linalg.inv(layout.prior_precision)
    return tuple(
        Combination(name, float(np.sqrt(c @ prior @ c)), float(np.sqrt(c @ posterior.best.covariance @ c)))
        for name, c in found
    )


def _of_entries(layout: Layout, kind: str, count: int) -> np.ndarray:
    """(entries, P) logarithm of each entry of a relative kind by ``z``; zeros where it is fixed."""
    rows = np.zeros((count, layout.size))
    if layout.relative.get(kind):
        for entry, column in enumerate(layout.index[kind]):
            if column < layout.size:
                rows[entry, column] = layout.sd[column]
    return rows


def _direction(names: tuple[str, ...], eigenvalue: float, vector: np.ndarray) -> Direction:
    order = np.argsort(-np.abs(vector))
    # The sign of an eigenvector means nothing; the largest entry is shown positive.
    vector = vector * np.sign(vector[order[0]])
    kept = [int(i) for i in order if abs(vector[i]) >= LEAST_COEFFICIENT * abs(vector[order[0]])]
    return Direction(
        float(eigenvalue), float(1.0 / np.sqrt(1.0 + eigenvalue)), tuple((names[i], float(vector[i])) for i in kept)
    )
