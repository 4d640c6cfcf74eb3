"""A multivariate normal inside a box: exact draws, and how much of the normal the box holds.

Draws are by exact Hamiltonian motion (Pakman & Paninski 2014, 10.1080/10618600.2013.788448): a whitened particle moves
on a sinusoid and bounces off the walls, so strong correlations cost nothing, and where no wall is met a quarter period
is an independent draw. Every draw is its own particle; all move together. The box's probability is by sequential
conditioning (Geweke 1991; Hajivassiliou & McFadden 1998, 10.2307/2999576). NumPy: nothing here needs a gradient.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import log_ndtr, ndtr, ndtri

# Quarter periods that a particle moves. One is enough without walls; with them the memory of the start is gone after
# some ten (tests compare with rejection and with numerical integrals).
PERIODS = 16
# Bounces in one quarter period after which it ends where it is; only grazing a corner needs more than a few dozen.
MAX_BOUNCES = 500


def sample_box(
    mean: np.ndarray, precision: np.ndarray, low: np.ndarray, high: np.ndarray, n: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws ``(n, P)`` of the normal with ``mean (P,)`` and ``precision (P, P)`` inside ``low`` to ``high (P,)``.

    The mean may lie outside the box. Widths must be positive.
    """
    # Precision L L^T and z = mean + L^-T x make x a standard normal; walls are then rows of L^-T.
    lower = np.linalg.cholesky(precision)
    unwhiten = solve_triangular(lower, np.eye(len(mean)), lower=True).T
    inside = np.clip(mean, low + 1e-3 * (high - low), high - 1e-3 * (high - low))
    position = np.tile((inside - mean) @ lower, (n, 1))
    norms = np.linalg.norm(unwhiten, axis=1)
    walls = (unwhiten / norms[:, None]).T
    to_low, to_high = (mean - low) / norms, (high - mean) / norms
    for _ in range(PERIODS):
        velocity = rng.standard_normal(position.shape)
        left = np.full(n, 0.5 * np.pi)
        for _ in range(MAX_BOUNCES):
            moving = np.flatnonzero(left > 0)
            if not moving.size:
                break
            x, v = position[moving], velocity[moving]
            time, wall = _next_wall(x @ walls, v @ walls, to_low, to_high)
            step = np.minimum(time, left[moving])
            sine, cosine = np.sin(step)[:, None], np.cos(step)[:, None]
            x, v = v * sine + x * cosine, v * cosine - x * sine
            hit = time < left[moving]
            normal = walls[:, wall].T
            v -= np.where(hit, 2.0 * np.sum(v * normal, axis=1), 0.0)[:, None] * normal
            position[moving], velocity[moving] = x, v
            left[moving] = np.where(hit, left[moving] - step, 0.0)
    return np.clip(mean + position @ unwhiten.T, low, high)


def _next_wall(
    along: np.ndarray, speed: np.ndarray, to_low: np.ndarray, to_high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """When ``(n,)`` and at which wall's normal ``(n,)`` a particle next leaves the box.

    Seen along a normal the motion is ``u cos(t + phase)``. Only outgoing crossings count, which also keeps a particle
    that has just bounced from meeting the same wall at once.
    """
    reach = np.hypot(along, speed)
    times = []
    for sign, distance in ((1.0, to_high), (-1.0, to_low)):
        phase = np.arctan2(-sign * speed, sign * along)
        # Rising through +distance: at angle -arccos(distance / reach) of the cosine.
        meets = reach > np.abs(distance)
        angle = -np.arccos(np.where(meets, distance / np.maximum(reach, 1e-300), 0.0).clip(-1.0, 1.0))
        times.append(np.where(meets, np.mod(angle - phase, 2.0 * np.pi), np.inf))
    both = np.minimum(*times)
    wall = np.argmin(both, axis=1)
    return both[np.arange(len(wall)), wall], wall


def log_box_probability(
    mean: np.ndarray, precision: np.ndarray, low: np.ndarray, high: np.ndarray, rng: np.random.Generator, n: int = 4000
) -> float:
    """Logarithm of the probability that the normal lies inside the box; a Monte Carlo estimate from ``n`` draws."""
    # Entries with the most restrictive bounds first: less variance.
    sd = np.sqrt(np.diag(np.linalg.inv(precision)))
    order = np.argsort(np.maximum((low - mean) / sd, (mean - high) / sd))[::-1]
    covariance = np.linalg.inv(precision)[np.ix_(order, order)]
    factor = np.linalg.cholesky(0.5 * (covariance + covariance.T))
    below, above = (low - mean)[order], (high - mean)[order]
    x = np.zeros((n, len(mean)))
    log_weight = np.zeros(n)
    uniform = rng.uniform(size=x.shape)
    for i in range(len(mean)):
        shift = x[:, :i] @ factor[i, :i]
        a, b = (below[i] - shift) / factor[i, i], (above[i] - shift) / factor[i, i]
        # Mirror so that the interval's nearer end is in the lower tail, where the distribution function keeps digits.
        sign = np.where(a > 0, -1.0, 1.0)
        a, b = np.where(a > 0, -b, a), np.where(a > 0, -a, b)
        log_a, log_b = log_ndtr(a), log_ndtr(b)
        log_weight += log_b + np.log1p(-np.exp(np.minimum(log_a - log_b, -1e-16)))
        x[:, i] = sign * ndtri(np.clip(ndtr(a) + uniform[:, i] * (ndtr(b) - ndtr(a)), 1e-300, 1 - 1e-16))
    top = log_weight.max()
    return float(top + np.log(np.mean(np.exp(log_weight - top))))
