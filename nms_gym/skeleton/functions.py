"""The functions of OpenSim's joints and couplings in JAX: linear, polynomial, SIMM spline, piecewise linear.

Sources: OpenSim's Common/{SimmSpline,PolynomialFunction,LinearFunction,PiecewiseLinearFunction,MultiplierFunction}.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from nms_gym import anatomy as read
from nms_gym._pytree import pytree, static
from nms_gym.errors import InputError

T = TypeVar("T")


def as_dtype(tree: T, dtype: Any) -> T:
    """``tree`` with its floating-point leaves as JAX arrays of ``dtype``; integers and booleans as they are."""

    def cast(leaf: Any) -> jax.Array:
        floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jnp.asarray(leaf, dtype if floating else None)

    return jax.tree.map(cast, tree)


@pytree
class LinearFunction:
    """``slopes @ x + intercept``."""

    slopes: Any  # (n,)
    intercept: Any  # ()


@pytree
class PolynomialFunction:
    """Coefficients (n,) from the highest power down."""

    coefficients: Any


@pytree
class SplineFunction:
    """Knots x (n,) and the cubics ``y + b h + c h^2 + d h^3``, ``h = x - x_k``; straight outside the knots.

    A PiecewiseLinearFunction is the same with c = d = 0.
    """

    x: Any
    y: Any
    b: Any
    c: Any
    d: Any


@pytree
class MultivariateFunction:
    """``sum_p coefficients[p] prod_k x_k ** exponents[p][k]``."""

    coefficients: Any  # (P,)
    exponents: tuple[tuple[int, ...], ...] = static()


JointFunction = LinearFunction | PolynomialFunction | SplineFunction | MultivariateFunction


def build_function(function: read.Function, scale: float = 1.0) -> JointFunction:
    """Leaves of ``scale * function``, as NumPy float64. InputError for one that cannot be computed."""
    if isinstance(function, read.Unknown):
        raise InputError(function.problem)
    if isinstance(function, read.Scaled):
        return build_function(function.function, scale * function.scale)
    if isinstance(function, read.Linear):
        *slopes, intercept = function.coefficients
        return LinearFunction(scale * np.array(slopes), np.array(scale * intercept))
    if isinstance(function, read.Polynomial):
        return PolynomialFunction(scale * np.array(function.coefficients))
    if isinstance(function, read.Multivariate):
        return MultivariateFunction(scale * np.array(function.coefficients), function.exponents)
    x, y = np.array(function.x), np.array(function.y)
    if isinstance(function, read.SimmSpline):
        b, c, d = simm_spline(x, y)
    else:
        slope = np.diff(y) / np.diff(x)
        b, c, d = np.append(slope, slope[-1]), np.zeros_like(x), np.zeros_like(x)
    return SplineFunction(x, scale * y, scale * b, scale * c, scale * d)


def simm_spline(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients b, c, d (n,) of the cubic spline of Forsythe, Malcolm and Moler (1977, ``SPLINE``).

    OpenSim's SimmSpline uses it: second derivatives are continuous and the third derivative at each end is that of
    the cubic through the four points there. (A natural spline would set the second derivative to zero instead, so
    OpenSim's other name for it, NaturalCubicSpline, misleads.) With two knots it is a straight line, with three the
    end cubics' third derivatives are zero.
    """
    n = x.size
    h = np.diff(x)
    slope = np.diff(y) / h
    if n == 2:
        return np.full(2, slope[0]), np.zeros(2), np.zeros(2)
    # Unknowns sigma_k = (second derivative at k) / 6.
    matrix, right = np.zeros((n, n)), np.zeros(n)
    inner = np.arange(1, n - 1)
    matrix[inner, inner - 1], matrix[inner, inner], matrix[inner, inner + 1] = (
        h[:-1],
        2 * (h[:-1] + h[1:]),
        h[1:],
    )
    right[1:-1] = np.diff(slope)
    matrix[0, 0], matrix[0, 1] = -h[0], h[0]
    matrix[-1, -1], matrix[-1, -2] = -h[-1], h[-1]
    if n > 3:
        second = np.diff(slope) / (x[2:] - x[:-2])
        third = np.diff(second) / (x[3:] - x[:-3])
        right[0], right[-1] = third[0] * h[0] ** 2, -third[-1] * h[-1] ** 2
    sigma = np.linalg.solve(matrix, right)
    b = np.append(slope - h * (sigma[1:] + 2 * sigma[:-1]), slope[-1] + h[-1] * (sigma[-2] + 2 * sigma[-1]))
    d = np.append(np.diff(sigma) / h, 0.0)
    return b, 3 * sigma, d


def derivatives(function: JointFunction, x: Sequence[Any], xp: Any = jnp) -> tuple[Any, tuple[Any, ...], Any]:
    """Value, slope in every argument, and second derivative: linear functions have none, those of one argument a
    number, a multivariate polynomial the rows of a symmetric matrix.

    Arguments have any one shape, values follow it; ``xp=np`` with floats computes in NumPy. Slope and curvature are
    the closed forms, so that what is differentiated once more (an inertial force) is right at the knots too. There a
    cubic spline's third derivative jumps and so does its second at the end knots, where OpenSim's continues straight.
    """
    if isinstance(function, LinearFunction):
        constant = function.slopes.shape[0] == 0  # whatever its arguments
        slopes = tuple(0.0 if constant else function.slopes[i] for i in range(len(x)))
        return sum((s * v for s, v in zip(slopes, x, strict=True)), function.intercept), slopes, None
    if isinstance(function, MultivariateFunction):
        return _multivariate(function, x)
    (at,) = x
    if isinstance(function, PolynomialFunction):
        # Horner's rule for the value, its slope and half its curvature at once.
        value, slope, half = function.coefficients[0], 0.0, 0.0
        for i in range(1, function.coefficients.shape[0]):
            half = half * at + slope
            slope = slope * at + value
            value = value * at + function.coefficients[i]
        return value, (slope,), 2.0 * half
    knots = function.x
    n = knots.shape[0]
    # Not clip: it halves the derivative at the end knots themselves.
    inside = xp.where(at < knots[0], knots[0], xp.where(at > knots[n - 1], knots[n - 1], at))
    k = sum(((inside >= knots[i]).astype(np.int32) for i in range(1, n - 1)), xp.zeros(xp.shape(at), np.int32))
    y, start, b, c, d = (_take(a, k, xp) for a in (function.y, knots, function.b, function.c, function.d))
    h = inside - start
    slope = b + h * (2.0 * c + h * (3.0 * d))
    value = y + h * (b + h * (c + h * d)) + slope * (at - inside)
    outside = (at < knots[0]) | (at > knots[n - 1])
    return value, (slope,), xp.where(outside, 0.0, 2.0 * c + h * (6.0 * d))


def _multivariate(function: MultivariateFunction, x: Sequence[Any]) -> tuple[Any, tuple[Any, ...], Any]:
    highest = max((max(term, default=0) for term in function.exponents), default=0)
    powers = [[1.0] for _ in x]
    for row, at in zip(powers, x, strict=True):
        for _ in range(highest):
            row.append(row[-1] * at)

    def derivative(*by: int) -> Any:
        """Of order ``len(by)``, in these variables."""
        total: Any = 0.0
        for p, term in enumerate(function.exponents):
            left, factor = list(term), 1.0
            for k in by:
                factor *= left[k]
                left[k] -= 1
            if factor:
                product = factor * function.coefficients[p]
                for row, power in zip(powers, left, strict=True):
                    product = product * row[power] if power else product
                total = total + product
        return total

    count = range(len(x))
    upper = {(i, j): derivative(i, j) for i in count for j in count if i <= j}
    second = tuple(tuple(upper[min(i, j), max(i, j)] for j in count) for i in count)
    return derivative(), tuple(derivative(i) for i in count), second


def _take(array: Any, index: Any, xp: Any) -> Any:
    """``array[index]`` for an index known to be inside, without JAX's check of it."""
    return array[index] if xp is np else jnp.asarray(array).at[index].get(mode="promise_in_bounds")


def function_value(function: JointFunction, x: jax.Array) -> jax.Array:
    """Value () of ``function`` at x (n,), in the dtype of x."""
    x = jnp.asarray(x)
    return derivatives(as_dtype(function, x.dtype), [x[i] for i in range(x.shape[0])])[0]
