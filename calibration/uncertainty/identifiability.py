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

from calibration.uncertainty.posterior import Posterior

# Entries of a direction below this part of its largest one are left out of its description.
LEAST_COEFFICIENT = 0.3
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
        }


def identifiability(posterior: Posterior, *, least_correlation: float = 0.5) -> Identifiability:
    """Report of the best solution, at the posterior's noise level; bounds are named, but not counted as knowledge.

    Args:
        posterior: from ``laplace``.
        least_correlation: weakest that makes a pair.
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
    )


def _direction(names: tuple[str, ...], eigenvalue: float, vector: np.ndarray) -> Direction:
    order = np.argsort(-np.abs(vector))
    # The sign of an eigenvector means nothing; the largest entry is shown positive.
    vector = vector * np.sign(vector[order[0]])
    kept = [int(i) for i in order if abs(vector[i]) >= LEAST_COEFFICIENT * abs(vector[order[0]])]
    return Direction(
        float(eigenvalue), float(1.0 / np.sqrt(1.0 + eigenvalue)), tuple((names[i], float(vector[i])) for i in kept)
    )
