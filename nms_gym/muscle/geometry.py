"""Musculotendon lengths and moment arms as polynomial surfaces over the joint coordinates.

A path is ``l(q) = sum_e c_e x^e`` with ``x`` the coordinates it spans, scaled from the domain to [-1, 1], and
total degree ``|e| <= n``. Moment arms are ``r = -dl/dq`` of the *same* coefficients, so that virtual work holds
to rounding: a joint moment computed with ``r`` and a tendon velocity computed with ``l`` agree (the principle of
An et al. 1984, J Biomech Eng 106:280-282; polynomial surfaces as in Sobolev 2019 and in OpenSim's
``FunctionBasedPath``). Muscles that span the same coordinates with the same degree form a group and share their
monomials, which is what makes a pose cheap.

Outside the domain a polynomial explodes. There we continue it by its tangent plane at the nearest point ``qc`` of
the domain, ``l(qc) + dl/dq(qc) . (q - qc)``: once continuously differentiable, finite for every finite pose, and
``r`` stays the exact negative gradient of that length. Whoever feeds recorded poses calls ``check_domain`` first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nms_gym._pytree import pytree, static
from nms_gym.errors import InputError, listed
from nms_gym.recording.function_based_paths import PlainPolynomial

# On GPUs the default float32 product rounds its inputs to 10 bits, a per mille of a moment arm.
_PRECISE = jax.lax.Precision.HIGHEST


@dataclass(frozen=True)
class SpanGroup:
    """Muscles that share their monomials.

    Attributes:
        muscles: indices into ``PolynomialPaths.muscles``.
        coordinates: increasing indices into ``PolynomialPaths.coordinates``; empty for constant lengths.
        degree: total degree of the polynomials.
    """

    muscles: tuple[int, ...]
    coordinates: tuple[int, ...]
    degree: int


@pytree
class PolynomialPaths:
    """Paths of M muscles over D coordinates.

    Attributes:
        coefficients: one array (muscles of the group, monomials) per group, in m, for coordinates scaled to
            [-1, 1]; columns in the order of ``monomials``.
        domain: (D, 2) rad, lowest and highest value for which the surfaces were fitted.
        muscles: M names.
        coordinates: D names.
        groups: which muscles and coordinates the arrays belong to; every muscle in exactly one group.
    """

    coefficients: tuple[Any, ...]
    domain: Any
    muscles: tuple[str, ...] = static()
    coordinates: tuple[str, ...] = static()
    groups: tuple[SpanGroup, ...] = static()

    def span(self, muscle: str) -> tuple[str, ...]:
        """Coordinates that ``muscle`` spans."""
        index = _index(self.muscles, muscle, "muscle")
        group = next(group for group in self.groups if index in group.muscles)
        return tuple(self.coordinates[k] for k in group.coordinates)


@lru_cache(maxsize=256)
def monomials(variables: int, degree: int) -> np.ndarray:
    """Exponents (P, variables) of all monomials up to ``degree``, in the order in which they are computed.

    Graded: all monomials of total degree 0, then 1, and so on, so that those up to a lower degree come first.
    """
    rows = [np.zeros((1, variables), dtype=int)]
    starts = [0] * variables
    for _ in range(degree if variables else 0):
        blocks, sizes = [], []
        for k in range(variables):
            block = rows[-1][starts[k] :].copy()
            block[:, k] += 1
            blocks.append(block)
            sizes.append(len(block))
        rows.append(np.concatenate(blocks))
        starts = [sum(sizes[:k]) for k in range(variables)]
    exponents = np.concatenate(rows)
    exponents.flags.writeable = False
    return exponents


def _halves(term: tuple) -> tuple[tuple, tuple]:
    middle = (len(term) + 1) // 2
    return term[:middle], term[middle:]


@lru_cache(maxsize=64)
def _product_tree(variables: int, degree: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """How to build all monomials by products of pairs: per level, where the left and right factors stand.

    The leaves are ``1, x_1 .. x_d, x_1^2 .. x_d^2, ...``; each level multiplies entries of the one before.
    """
    # A monomial is a tuple of (variable, power), split in halves until only single powers are left.
    tiers = [
        [tuple((k, power) for k, power in enumerate(row) if power) for row in monomials(variables, degree).tolist()]
    ]
    while len(tiers) == 1 or any(len(term) > 1 for term in tiers[-1]):
        tiers.append(sorted({half for term in tiers[-1] for half in _halves(term)}))
    position: dict[tuple, int] = {(): 0}
    for power in range(1, degree + 1):
        position.update({((k, power),): 1 + variables * (power - 1) + k for k in range(variables)})
    levels = []
    for tier in reversed(tiers[:-1]):
        pairs = [_halves(term) for term in tier]
        levels.append((np.array([position[a] for a, _ in pairs]), np.array([position[b] for _, b in pairs])))
        position = {term: place for place, term in enumerate(tier)}
    return tuple(levels)


def monomial_values(x: jax.Array, degree: int) -> jax.Array:
    """Values (P,) of ``monomials(len(x), degree)`` at ``x``.

    A few gathers and products: building degree by degree from slices is as fast to run but takes the compiler
    three to five times as long.
    """
    if not x.shape[0] or not degree:
        return jnp.ones((1,), x.dtype)
    powers = [jnp.ones((1,), x.dtype), x]
    for _ in range(degree - 1):
        powers.append(powers[-1] * x)
    values = jnp.concatenate(powers)
    for left, right in _product_tree(x.shape[0], degree):
        values = _take(values, left) * _take(values, right)
    return values


def _take(values: jax.Array, index: np.ndarray, axis: int = 0) -> jax.Array:
    # JAX 0.10 remembers the width of a 64-bit index from its first trace and fails in a later one of the other
    # precision (float32 environment, float64 calibration); 32-bit indices have one width.
    place = (slice(None),) * axis + (index.astype(np.int32),)
    return values.at[place].get(mode="promise_in_bounds")


@lru_cache(maxsize=256)
def _derivative_columns(variables: int, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and factors (variables, P') that turn coefficients into those of the partial derivatives.

    ``d/dx_k sum_e c_e x^e = sum_e' (e'_k + 1) c_{e' + 1_k} x^e'`` with ``|e'| < degree``.
    """
    position = {tuple(row): p for p, row in enumerate(monomials(variables, degree).tolist())}
    lower = monomials(variables, degree - 1)
    columns = np.empty((variables, len(lower)), dtype=int)
    factors = np.empty((variables, len(lower)))
    for k in range(variables):
        for p, row in enumerate(lower.tolist()):
            row[k] += 1
            columns[k, p] = position[tuple(row)]
            factors[k, p] = row[k]
    return columns, factors


def lengths_and_moment_arms(paths: PolynomialPaths, q: Any) -> tuple[jax.Array, jax.Array]:
    """Musculotendon lengths and moment arms in one pose; ``vmap`` over ``q`` for more.

    Args:
        paths: the surfaces.
        q: (D,) rad, in the order of ``paths.coordinates``; its dtype is that of the results.

    Returns:
        lengths (M,) in m, and moment arms (D, M) in m with ``moment_arm = -d length / d q``.
    """
    q = jnp.asarray(q)
    if not jnp.issubdtype(q.dtype, jnp.floating):
        q = q.astype(jnp.result_type(float))
    dtype = q.dtype
    low, high = (jnp.asarray(paths.domain[:, side], dtype) for side in (0, 1))
    center, half = 0.5 * (low + high), 0.5 * (high - low)
    # Not jnp.clip: on the boundary its gradient is one half.
    nearest = jnp.where(q < low, low, jnp.where(q > high, high, q))
    excess = (q - nearest) / half
    inside = excess == 0
    x = (nearest - center) / half

    size = len(paths.coordinates)
    lengths, arms = [], []
    for group, coefficients in zip(paths.groups, paths.coefficients, strict=True):
        coefficients = jnp.asarray(coefficients, dtype)
        at_foot, change = jax.jvp(
            lambda x, degree=group.degree: monomial_values(x, degree),
            (jnp.stack([x[k] for k in group.coordinates]) if group.coordinates else x[:0],),
            (jnp.stack([excess[k] for k in group.coordinates]) if group.coordinates else x[:0],),
        )
        continued = at_foot + change
        lengths.append(jnp.matmul(coefficients, continued, precision=_PRECISE))
        rows = [jnp.zeros((len(group.muscles),), dtype)] * size
        if group.degree:
            columns, factors = _derivative_columns(len(group.coordinates), group.degree)
            slopes = _take(coefficients, columns, axis=1) * jnp.asarray(factors[None], dtype)
            slopes = jnp.moveaxis(slopes, 1, 0).reshape(-1, columns.shape[1])
            foot, moved = (
                jnp.matmul(slopes, values[: columns.shape[1]], precision=_PRECISE).reshape(-1, len(group.muscles))
                for values in (at_foot, continued)
            )
            for place, k in enumerate(group.coordinates):
                # Along a coordinate that is outside, the tangent plane has the slope at its foot; along one that
                # is inside, the slope itself varies as the foot moves.
                rows[k] = -jnp.where(inside[k], moved[place], foot[place]) / half[k]
        arms.append(jnp.stack(rows))

    # From the order of the groups to that of the names.
    order = np.argsort(np.concatenate([np.array(group.muscles, dtype=int) for group in paths.groups]))
    length, arm = jnp.concatenate(lengths), jnp.concatenate(arms, axis=1)
    if np.array_equal(order, np.arange(len(order))):
        return length, arm
    return _take(length, order), _take(arm, order, axis=1)


def musculotendon_velocities(moment_arms: jax.Array, qd: jax.Array) -> jax.Array:
    """Rate of change of the lengths, ``v = dl/dq . qd = -sum_k r_k qd_k``.

    Args:
        moment_arms: (D, M) m.
        qd: (D,) rad/s.

    Returns:
        (M,) m/s, positive when lengthening.
    """
    return -jnp.matmul(qd, moment_arms, precision=_PRECISE)


def check_domain(paths: PolynomialPaths, q: Any, *, margin: float = 0.0, source: str = "") -> None:
    """Refuse recorded poses for which the surfaces were not fitted. Not for traced code.

    Args:
        paths: the surfaces.
        q: (..., D) rad.
        margin: rad outside the domain still accepted (the tangent continuation is used there).
        source: file or trial name for the message.

    Raises:
        InputError: wrong number of coordinates, a value that is not finite, or one too far outside; names the
            coordinate and gives the value and the allowed range in degrees.
    """
    q = np.asarray(q, dtype=float)
    where = f"{source}: " if source else ""
    if q.ndim == 0 or q.shape[-1] != len(paths.coordinates):
        raise InputError(
            f"{where}poses have shape {q.shape}; the last axis must hold the {len(paths.coordinates)} coordinates "
            f"{listed(paths.coordinates)}"
        )
    domain = np.asarray(paths.domain, dtype=float)
    for k, name in enumerate(paths.coordinates):
        values = q[..., k].ravel()
        if not np.all(np.isfinite(values)):
            raise InputError(f"{where}coordinate {name!r} has values that are not finite")
        low, high = domain[k]
        distance = np.maximum(low - values, values - high)
        if values.size and distance.max() > margin + 1e-9:
            worst = values[np.argmax(distance)]
            raise InputError(
                f"{where}coordinate {name!r} reaches {math.degrees(worst):.1f} deg; the muscle paths are fitted for "
                f"{math.degrees(low):.1f} to {math.degrees(high):.1f} deg (margin {math.degrees(margin):.1f} deg). "
                "Check the sign and unit of the coordinate, or fit the paths over a wider range"
            )


def select_paths(
    paths: PolynomialPaths,
    muscles: Sequence[str] | None = None,
    coordinates: Sequence[str] | None = None,
    held_at: Mapping[str, float] | None = None,
) -> PolynomialPaths:
    """Paths of some muscles over some coordinates, in the order given.

    Coordinates left out are held still, at ``held_at[name]`` rad or 0; the polynomials are restricted exactly.

    Args:
        paths: the surfaces.
        muscles: names to keep; None keeps all.
        coordinates: names to keep; None keeps all.
        held_at: rad, for coordinates that are left out.

    Raises:
        InputError: an unknown or repeated name, or a held value outside the domain.
    """
    muscles = tuple(paths.muscles if muscles is None else muscles)
    coordinates = tuple(paths.coordinates if coordinates is None else coordinates)
    for kind, names in (("muscle", muscles), ("coordinate", coordinates)):
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated or not names:
            raise InputError(f"selection of {kind}s {'repeats ' + listed(repeated) if repeated else 'is empty'}")
    held = dict(held_at or {})
    for name in held:
        _index(paths.coordinates, name, "coordinate")
    domain = np.asarray(paths.domain, dtype=float)
    kept = {_index(paths.coordinates, name, "coordinate"): place for place, name in enumerate(coordinates)}

    rows: dict[tuple[tuple[int, ...], int], list[tuple[int, np.ndarray]]] = {}
    for place, name in enumerate(muscles):
        index = _index(paths.muscles, name, "muscle")
        group, array = next(
            (group, array)
            for group, array in zip(paths.groups, paths.coefficients, strict=True)
            if index in group.muscles
        )
        row = np.asarray(array, dtype=float)[group.muscles.index(index)]
        exponents = monomials(len(group.coordinates), group.degree)
        for variable, k in enumerate(group.coordinates):
            if k in kept:
                continue
            low, high = domain[k]
            value = float(held.get(paths.coordinates[k], 0.0))
            if not low <= value <= high:
                raise InputError(
                    f"coordinate {paths.coordinates[k]!r} would be held at {math.degrees(value):.1f} deg, outside "
                    f"{math.degrees(low):.1f} to {math.degrees(high):.1f} deg; give held_at a value inside"
                )
            row = row * ((2 * value - low - high) / (high - low)) ** exponents[:, variable]
        # New variables in the new order of the coordinates, as groups store them.
        variables = sorted((kept[k], v) for v, k in enumerate(group.coordinates) if k in kept)
        span = tuple(new for new, _ in variables)
        degree = group.degree if span else 0
        position = {tuple(e): p for p, e in enumerate(monomials(len(span), degree).tolist())}
        new_row = np.zeros(len(position))
        for value, exponent in zip(row, exponents.tolist(), strict=True):
            new_row[position[tuple(exponent[v] for _, v in variables)]] += value
        rows.setdefault((span, degree), []).append((place, new_row))

    kept_domain = np.stack([domain[_index(paths.coordinates, name, "coordinate")] for name in coordinates])
    return _from_rows(rows, kept_domain, muscles, coordinates)


def paths_from_polynomials(
    polynomials: Sequence[PlainPolynomial], coordinates: Sequence[str], domain: Any
) -> PolynomialPaths:
    """Surfaces from polynomials in the unscaled coordinates, exactly.

    Args:
        polynomials: one per muscle, with distinct names.
        coordinates: D names, all that the polynomials depend on.
        domain: (D, 2) rad, outside which the surfaces are continued by their tangent plane.

    Raises:
        InputError: a coordinate that is not listed, a repeated muscle, or a bad domain.
    """
    coordinates = tuple(coordinates)
    domain = np.asarray(domain, dtype=float)
    if domain.shape != (len(coordinates), 2) or not np.all(domain[:, 0] < domain[:, 1]):
        raise InputError(
            f"domain has shape {domain.shape}; expected ({len(coordinates)}, 2), each row increasing, for "
            f"{listed(coordinates)}"
        )
    muscles = tuple(polynomial.muscle for polynomial in polynomials)
    if not muscles or len(set(muscles)) != len(muscles):
        raise InputError(f"muscle names are missing or repeat: {listed(muscles)}")
    rows: dict[tuple[tuple[int, ...], int], list[tuple[int, np.ndarray]]] = {}
    for place, polynomial in enumerate(polynomials):
        order = sorted(
            (_index(coordinates, name, "coordinate"), variable) for variable, name in enumerate(polynomial.coordinates)
        )
        span = tuple(k for k, _ in order)
        exponents = polynomial.exponents[:, [variable for _, variable in order]]
        degree = int(exponents.sum(axis=1).max(initial=0))
        # (center + half x)^n by the binomial theorem, one variable after the other.
        terms = {tuple(e): float(c) for e, c in zip(exponents.tolist(), polynomial.coefficients, strict=True) if c}
        for variable, k in enumerate(span):
            center, half = domain[k].mean(), 0.5 * (domain[k, 1] - domain[k, 0])
            scaled: dict[tuple[int, ...], float] = {}
            for exponent, value in terms.items():
                n = exponent[variable]
                for j in range(n + 1):
                    key = (*exponent[:variable], j, *exponent[variable + 1 :])
                    factor = math.comb(n, j) * center ** (n - j) * half**j
                    scaled[key] = scaled.get(key, 0.0) + value * factor
            terms = scaled
        row = np.array([terms.get(tuple(e), 0.0) for e in monomials(len(span), degree).tolist()])
        rows.setdefault((span, degree), []).append((place, row))
    return _from_rows(rows, domain, muscles, coordinates)


def _from_rows(
    rows: Mapping[tuple[tuple[int, ...], int], list[tuple[int, np.ndarray]]],
    domain: np.ndarray,
    muscles: tuple[str, ...],
    coordinates: tuple[str, ...],
) -> PolynomialPaths:
    """Paths from (span, degree) -> [(index of the muscle, coefficients)]."""
    return PolynomialPaths(
        coefficients=tuple(np.stack([row for _, row in members]) for members in rows.values()),
        domain=domain,
        muscles=muscles,
        coordinates=coordinates,
        groups=tuple(
            SpanGroup(tuple(place for place, _ in members), span, degree) for (span, degree), members in rows.items()
        ),
    )


def _index(names: tuple[str, ...], name: str, kind: str) -> int:
    if name not in names:
        raise InputError(f"no {kind} {name!r} in these paths; they have {listed(names, 50)}")
    return names.index(name)
