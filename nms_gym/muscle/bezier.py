"""Curves made of quintic Bézier corners, and the splines on uniform knots that stand for them in traced code.

A Bézier curve gives x and y as functions of a third variable, so evaluating y(x) means solving for that variable first.
We do so once, in NumPy, at the knots of a spline that traced code evaluates without any iteration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym.errors import InputError

# Halvings that solve for the Bézier variable to the last bit.
BISECTIONS = 60


# ---- Bézier corners ----


def corner(
    start: tuple[float, float, float], end: tuple[float, float, float], curviness: float
) -> tuple[np.ndarray, np.ndarray]:
    """Control points (x, y) of the quintic Bézier curve that rounds the corner between two straight lines.

    The two points beside each end lie together on the way to the lines' intersection (Millard et al. 2013,
    10.1115/1.4023390; OpenSim's ``SegmentedQuinticBezierToolkit``), so that the curve leaves both ends straight: value
    and slope are the given ones there, the second derivative is 0.

    Args:
        start: x, y and slope of the first line.
        end: x, y and slope of the second line, to the right of ``start``.
        curviness: 0 (rounded early, nearly a chord) to 1 (close to the corner).

    Raises:
        InputError: the lines do not meet between the points.
    """
    (x0, y0, slope0), (x1, y1, slope1) = start, end
    x = math.nan if slope0 == slope1 else (y1 - y0 - x1 * slope1 + x0 * slope0) / (slope0 - slope1)
    if not x0 < x < x1 or not 0 <= curviness <= 1:
        raise InputError(
            f"no corner leads from ({x0:g}, {y0:g}), slope {slope0:g}, to ({x1:g}, {y1:g}), slope {slope1:g}, with "
            f"curviness {curviness:g}; the lines through the points must meet between them, curviness is 0 to 1"
        )
    y = y1 + (x - x1) * slope1
    c = 0.1 + 0.8 * curviness
    xs = [x0, *[x0 + c * (x - x0)] * 2, *[x1 + c * (x - x1)] * 2, x1]
    ys = [y0, *[y0 + c * (y - y0)] * 2, *[y1 + c * (y - y1)] * 2, y1]
    return np.array(xs), np.array(ys)


def evaluate(corners: Sequence[tuple[np.ndarray, np.ndarray]], x: np.ndarray) -> np.ndarray:
    """Value, slope and second derivative ``(3, n)`` at ``x (n,)`` of corners that follow each other in x."""
    which = np.clip(np.searchsorted([points[0][0] for points in corners], x, side="right") - 1, 0, None)
    xs, ys = (np.stack([points[axis] for points in corners])[which] for axis in (0, 1))
    low, high = np.zeros(len(x)), np.ones(len(x))
    for _ in range(BISECTIONS):
        u = 0.5 * (low + high)
        beyond = _bernstein(xs, u) > x
        low, high = np.where(beyond, low, u), np.where(beyond, u, high)
    u = 0.5 * (low + high)
    dx, dy = (5 * np.diff(points) for points in (xs, ys))
    ddx, ddy = (_bernstein(4 * np.diff(points), u) for points in (dx, dy))
    dx, dy = _bernstein(dx, u), _bernstein(dy, u)
    return np.stack([_bernstein(ys, u), dy / dx, (ddy * dx - dy * ddx) / dx**3])


def _bernstein(points: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Bézier polynomials with control points ``(n, degree + 1)`` at ``u (n,)``."""
    degree = points.shape[1] - 1
    k = np.arange(degree + 1)
    binomials = np.array([math.comb(degree, j) for j in k], float)
    return np.sum(points * binomials * u[:, None] ** k * (1 - u[:, None]) ** (degree - k), axis=1)


# ---- splines ----

# Coefficients in the local variable 0..1 of the quintic with given (value, slope, second derivative) at both ends.
_QUINTIC = np.array(
    [
        [1, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 0, 0.5, 0, 0, 0],
        [-10, -6, -1.5, 10, -4, 0.5],
        [15, 8, 1.5, -15, 7, -1],
        [-6, -3, -0.5, 6, -3, 0.5],
    ]
)


@dataclass(frozen=True, eq=False)
class QuinticSpline:
    """Twice continuously differentiable spline on uniform knots; outside, its end polynomials go on.

    Attributes:
        low: first knot.
        high: last knot.
        coefficients: ``(intervals, 6)``, in the local variable 0..1 of each interval, constant first.
    """

    low: float
    high: float
    coefficients: np.ndarray

    def __call__(self, x: Array) -> Array:
        """Values at ``x``, in its shape and dtype."""
        count = len(self.coefficients)
        u = (x - self.low) * (count / (self.high - self.low))
        # Limited as integers, so that not even NaN reads outside the table.
        interval = jnp.clip(jax.lax.stop_gradient(u).astype(jnp.int32), 0, count - 1)
        u = u - interval.astype(u.dtype)
        # Six gathers of numbers are fused into the loop that uses them, and ten times as fast as one of whole rows.
        y = jnp.zeros_like(u)
        for column in self.coefficients.T[::-1]:
            y = y * u + jnp.asarray(column, u.dtype).at[interval].get(mode="promise_in_bounds")
        return y


def parts(x: Array, low: float, high: float) -> tuple[Array, Array, Array]:
    """How far ``x`` is below ``low`` (not positive), ``x`` held between, and how far it is above ``high``.

    Functions of the three add up to one whose slope is right at the ends as well, where minimum and maximum would take
    half of one side's and half of the other's.
    """
    below, above = x < low, x > high
    inside = jnp.where(below, low, jnp.where(above, high, x))
    return jnp.where(below, x - low, 0.0), inside, jnp.where(above, x - high, 0.0)


def quintic_spline(low: float, high: float, knots: np.ndarray) -> QuinticSpline:
    """Spline through ``knots (3, n)``: value, slope and second derivative at ``n`` uniform knots, low to high."""
    h = (high - low) / (knots.shape[1] - 1)
    scaled = knots * np.array([[1.0], [h], [h * h]])
    return QuinticSpline(low, high, (_QUINTIC @ np.concatenate([scaled[:, :-1], scaled[:, 1:]])).T)
