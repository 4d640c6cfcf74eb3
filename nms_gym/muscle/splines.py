"""Curves through points: cubic splines as tables of segments, looked up all at once, each with a rule for its ends."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym.skeleton.functions import simm_spline

Points = tuple[tuple[float, ...], tuple[float, ...]]
"""Abscissas, increasing, and ordinates."""

# A curve that ends with a slope settles at its last value over this distance, so that its derivative has no jump.
SETTLE = 0.01
# Or it stops at once, as CEINMS's do.
CONSTANT = (0.0, 0.0)


class Spline(NamedTuple):
    """Cubics ``y + h (b + h (c + h d))``, ``h = x - start``, one per segment, continued outside.

    A continuation leaves the end along its tangent and settles exponentially: at ``end value + slope * distance``, or
    never where the distance is infinite; where it is 0 the curve is constant, with a corner at the end.
    """

    rows: tuple[tuple[float, ...], ...]
    """start, y, b, c, d of each segment"""
    end: float
    """where the last segment ends"""
    settle: tuple[float, float] = (SETTLE, SETTLE)
    """distances over which the curve settles before the first segment and after the last"""


def make_spline(
    points: Points, low: float = -math.inf, high: float = math.inf, settle: tuple[float, float] = (SETTLE, SETTLE)
) -> Spline:
    """Spline of the whole table (``skeleton.functions.simm_spline``), cut to ``low`` .. ``high``."""
    x, y = map(np.asarray, points)
    b, c, d = simm_spline(x, y)
    rows = tuple(map(tuple, np.stack([x, y, b, c, d], axis=1)[:-1].tolist()))
    whole = Spline(rows, float(x[-1]), settle)
    if low <= rows[0][0] and high >= whole.end:
        return whole
    return cut(whole, max(low, rows[0][0]), min(high, whole.end))


def cut(spline: Spline, low: float, high: float, extra: Sequence[float] = ()) -> Spline:
    """The same cubics from ``low`` to ``high``, with more segments where ``extra`` asks for them."""
    starts = sorted({low, *(x for x in (*(row[0] for row in spline.rows), *extra) if low < x < high)})
    rows = []
    for start in starts:
        origin, y, b, c, d = next(row for row in reversed(spline.rows) if row[0] <= start)
        h = start - origin
        rows.append((start, y + h * (b + h * (c + h * d)), b + h * (2 * c + 3 * h * d), c + 3 * h * d, d))
    return Spline(tuple(rows), high, spline.settle)


def ends(spline: Spline) -> list[float]:
    """Where each segment ends."""
    return [*(row[0] for row in spline.rows[1:]), spline.end]


def at(row: Sequence[float], x: float) -> tuple[float, float]:
    """Value and slope at ``x`` of the cubic in a row."""
    start, y, b, c, d = row
    h = x - start
    return y + h * (b + h * (c + h * d)), b + h * (2 * c + 3 * h * d)


def parts(x: Array, low: Any, high: Any) -> tuple[Array, Array, Array]:
    """How far ``x`` is below ``low`` (<= 0), ``x`` held between, and how far it is above ``high``.

    Not by ``jnp.clip``, minimum and maximum: they halve the derivatives at the ends themselves.
    """
    below, above = x < low, x > high
    inside = jnp.where(below, low, jnp.where(above, high, x))
    return jnp.where(below, x - low, 0.0), inside, jnp.where(above, x - high, 0.0)


class _Table(NamedTuple):
    """Segments of several curves, one under the other."""

    edges: np.ndarray
    """(curves, N) starts of the segments after the first, padded with infinity"""
    first: np.ndarray
    """(curves,) int32 row of each curve's first segment"""
    rows: np.ndarray
    """(segments, ...) what is kept of each"""


def _stacked(starts: Sequence[Sequence[float]], rows: Sequence[Sequence[Sequence[float]]]) -> _Table:
    edges = np.full((len(starts), max(map(len, starts)) - 1), np.inf)
    for i, own in enumerate(starts):
        edges[i, : len(own) - 1] = own[1:]
    first = np.cumsum([0, *(len(own) for own in rows[:-1])])
    return _Table(edges, first.astype(np.int32), np.concatenate([np.asarray(own) for own in rows]))


def chosen(x: Array, starts: Sequence[Sequence[float]], rows: Sequence[Sequence[Sequence[float]]]) -> list[Array]:
    """Entries of the row in whose segment each ``x (curves, ...)`` lies; the curve's first row below every start.

    Args:
        x: where, of every curve.
        starts: of every curve's segments.
        rows: of every curve's segments.
    """
    table = _stacked(starts, rows)
    # Counting and gathering; a chain of selections compiles four times longer and runs back ten times slower.
    k = jnp.sum(x[..., None] >= _each(table.edges, x), axis=-1, dtype=jnp.int32)
    if len(starts) > 1:
        k = k + _each(table.first, x)
    columns = jnp.asarray(table.rows, x.dtype)
    return [columns[:, i].at[k].get(mode="promise_in_bounds") for i in range(columns.shape[1])]


def _each(values: np.ndarray, x: Array) -> Array:
    """Something of every curve ``(curves, ...)``, shaped to meet ``x (curves, ...)``."""
    dtype = values.dtype if values.dtype == np.int32 else x.dtype
    return jnp.asarray(values.reshape(values.shape[:1] + (1,) * (x.ndim - 1) + values.shape[1:]), dtype)


def value_and_slope(splines: tuple[Spline, ...], x: Array) -> tuple[Array, Array]:
    """Every spline and its derivative at its own ``x (curves, ...)``, also outside.

    One look-up serves all curves: in a loop over frames the number of operations is what costs. They settle alike.
    """
    (settle,) = {s.settle for s in splines}
    low, high = (np.array(v) for v in zip(*((s.rows[0][0], s.end) for s in splines), strict=True))
    before, inside, after = parts(x, _each(low, x), _each(high, x))
    starts, rows = [[row[0] for row in s.rows] for s in splines], [s.rows for s in splines]
    start, y, b, c, d = chosen(inside, starts, rows)
    h = inside - start
    value = y + h * (b + h * (c + h * d))
    slope = b + h * (2.0 * c + 3.0 * h * d)
    low_slope = np.array([s.rows[0][2] for s in splines])
    high_slope = np.array([at(s.rows[-1], s.end)[1] for s in splines])
    for distance, end_slope, over in ((before, low_slope, settle[0]), (-after, -high_slope, settle[1])):
        if over == 0:
            slope = jnp.where(distance == 0, slope, 0.0)
        elif over == math.inf:
            value = value + _each(end_slope, x) * distance
        else:
            rest = jnp.expm1(distance / over)  # 0 inside
            value = value + _each(end_slope, x) * (over * rest)
            slope = slope * (1.0 + rest)
    # A barrier, or the compiler repeats the look-up in every kernel that uses it.
    return jax.lax.optimization_barrier((value, slope))


def evaluate(spline: Spline, x: Array) -> Array:
    """The spline, also outside."""
    return evaluate_all((spline,), x[None])[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def evaluate_all(splines: tuple[Spline, ...], x: Array) -> Array:
    """Every spline at its own ``x (curves, ...)``, also outside."""
    return value_and_slope(splines, x)[0]


@evaluate_all.defjvp
def _evaluate_all_jvp(splines: Any, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # Reverse mode then keeps the slope instead of every coefficient: ten times faster.
    value, slope = value_and_slope(splines, primals[0])
    return value, slope * tangents[0]
