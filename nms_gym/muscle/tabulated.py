"""Muscle curves given as points: CEINMS's cubic splines, fit for an elastic tendon and for gradients."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.optimize import brentq

from nms_gym.errors import InputError, listed
from nms_gym.muscle.splines import Points, Spline, at, chosen, cut, ends, evaluate, make_spline, parts

# CEINMS limits the normalised fiber velocity to this before it reads the force-velocity curve (MTU.cpp).
MAX_VELOCITY = 1.0
# The tendon follows its points while it carries less than this times the maximum isometric force, and while it is
# stiffer than this part of its stiffness at force 1; beyond, it goes on along its tangent.
MAX_TENDON_FORCE, MIN_STIFFNESS = 10.0, 0.02
# Force with which a slack tendon pushes, in the limit, and the part of it that is left where the inverse goes on along
# its tangent. A smaller part follows CEINMS closer (at 0.1 by 3 % of the difference in moments), but its corner
# costs the elastic fiber more iterations.
SLACK_PUSH = 0.01
SLACK_REST = 0.4
# Newton iterations that invert the tendon curve; its segments are halved until these reach the last bits.
ITERATIONS = 3

# The curves in CEINMS's manual (help/manual/xsd/subject.xsd.rst) and its example subjects.
# fmt: off
_ACTIVE = (
    (-5, 0, 0.401, 0.402, 0.4035, 0.52725, 0.62875, 0.71875, 0.86125, 1.045, 1.2175, 1.43875,
     1.61875, 1.62, 1.621, 2.2, 5),
    (0, 0, 0, 0, 0, 0.226667, 0.636667, 0.856667, 0.95, 0.993333, 0.77, 0.246667, 0, 0, 0, 0, 0),
)
_PASSIVE = (
    (-5, 0.998, 0.999, 1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.601, 1.602, 5),
    (0, 0, 0, 0, 0.035, 0.12, 0.26, 0.55, 1.17, 2, 2, 2, 2),
)
_VELOCITY = (
    (-10, -1, -0.6, -0.3, -0.1, 0, 0.1, 0.3, 0.6, 0.8, 10),
    (0, 0, 0.08, 0.2, 0.55, 1, 1.4, 1.6, 1.7, 1.75, 1.75),
)
_TENDON = (
    (-10, -0.002, -0.001, 0, 0.00131, 0.00281, 0.00431, 0.00581, 0.00731, 0.00881, 0.0103, 0.0118,
     0.0123, 9.2, 9.201, 9.202, 20),
    (0, 0, 0, 0, 0.0108, 0.0257, 0.0435, 0.0652, 0.0915, 0.123, 0.161, 0.208, 0.227, 345, 345, 345, 345),
)
# fmt: on


@dataclass(frozen=True)
class Tabulated:
    """Curves of CEINMS (Pizzolato et al. 2015, 10.1016/j.jbiomech.2015.09.021): cubic splines through points.

    The splines are those of Forsythe, Malcolm and Moler (1977), constant outside their points (CEINMS's
    ``Curve.cpp``); the defaults are the points in CEINMS's manual. Inside the points the values are CEINMS's, ripples
    between distant points included. Departures, all of them where CEINMS's curve has a corner or no inverse:

    * Beyond the last point, and for the force-velocity curve beyond a normalised velocity of 1, where CEINMS stops,
      a curve that arrives with a slope settles at CEINMS's constant over ``SETTLE`` instead of at once. It is off by
      at most the slope times ``SETTLE`` (0.0013 for the default force-velocity curve, 1e-4 for the others). CEINMS
      limits the velocity in the damping term as well; ``hill.fiber_force`` does not.
    * The tendon curve follows its points from where it last leaves force 0 up to ``MAX_TENDON_FORCE``. A slack tendon
      has CEINMS's spline push (0.05 at 10 % slack, by overshoot) and wiggle by 6e-4, so that it has no inverse; here it
      tends to ``-SLACK_PUSH``. Above, or above the last point, it goes on along its tangent and never yields.

    The strain parameters scale the abscissas about 1 (fiber) and slack length (tendon). They are relative to the
    strain at which the points themselves reach force 1 (``defaults``), so the defaults leave the curves untouched.

    Raises:
        InputError: points that are not finite, not increasing, or too few; a tendon that does not reach force 1.
    """

    saturates_damping: ClassVar[bool] = False
    name: str = "Tabulated"
    active_force_length_points: Points = _ACTIVE
    """over optimal fiber length"""
    passive_force_length_points: Points = _PASSIVE
    """over optimal fiber length"""
    force_velocity_points: Points = _VELOCITY
    """over maximum contraction velocity, positive lengthening"""
    tendon_force_points: Points = _TENDON
    """over tendon strain"""

    def __post_init__(self) -> None:
        for curve in CURVES:
            points = _checked(getattr(self, f"{curve}_points"), curve)
            object.__setattr__(self, f"{curve}_points", points)  # lists in, tuples kept: a family is hashable
        _ = self._tendon

    @property
    def defaults(self) -> Mapping[str, float]:
        """Strain parameters that leave the points untouched."""
        return {
            "passive_fiber_strain_at_one_norm_force": self._passive_strain,
            "tendon_strain_at_one_norm_force": self._tendon.strain_at_one,
        }

    def active_force_length(self, length: Array) -> Array:
        """Spline through ``active_force_length_points``."""
        return evaluate(self._active, jnp.asarray(length))

    def force_velocity(self, velocity: Array) -> Array:
        """Spline through ``force_velocity_points``, settling beyond velocity 1 either way."""
        return evaluate(self._velocity, jnp.asarray(velocity))

    def passive_force_length(self, length: Array, strain: Array) -> Array:
        """Spline through ``passive_force_length_points``; 1 at ``1 + strain``.

        Points that never reach force 1 count as reaching it at strain 1: with that strain they are as given.
        """
        return evaluate(self._passive, 1.0 + (jnp.asarray(length) - 1.0) * (self._passive_strain / strain))

    def tendon_force(self, length: Array, strain: Array) -> Array:
        """Spline through ``tendon_force_points`` while taut; 1 at ``1 + strain``, tending to -0.01 when slack."""
        t = self._tendon
        e = (jnp.asarray(length) - 1.0) * (t.strain_at_one / strain)
        return evaluate(t.spline, e)

    def tendon_length(self, force: Array, strain: Array) -> Array:
        """Inverse of ``tendon_force``; near its limit in a slack tendon the logarithm goes on along its tangent."""
        t = self._tendon
        before, inside, after = parts(jnp.asarray(force), t.low_force, t.high_force)
        y, y_min = 1.0 + before / SLACK_PUSH, SLACK_REST
        beyond, y, _ = parts(y, y_min, 1.0)
        e = _strain_inside(t.spline, inside) + t.spline.settle[0] * (jnp.log(y) + beyond / y_min) + after / t.high_slope
        return 1.0 + e * (strain / t.strain_at_one)

    def to_record(self) -> dict[str, Any]:
        """Plain JSON: the name and the points of every curve."""
        record: dict[str, Any] = {"name": self.name}
        for curve in CURVES:
            x, y = getattr(self, f"{curve}_points")
            record[curve] = {"x": list(x), "y": list(y)}
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any], where: str) -> Tabulated:
        """The curves of a record.

        Raises:
            InputError: a curve or its x or y is missing, another key, or points that cannot be used.
        """
        if not isinstance(record, Mapping) or set(record) != {"name", *CURVES} or record["name"] != "Tabulated":
            found = listed(record) if isinstance(record, Mapping) else repr(record)
            raise InputError(
                f"{where}: expected the keys {listed(('name', *CURVES))} of tabulated curves, found {found}"
            )
        points = {}
        for curve in CURVES:
            if not isinstance(record[curve], Mapping) or set(record[curve]) != {"x", "y"}:
                raise InputError(f"{where}: {curve} is {record[curve]!r}; expected an object with x and y")
            points[f"{curve}_points"] = (record[curve]["x"], record[curve]["y"])
        try:
            return cls(**points)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error

    # The splines follow from the points, so they are kept beside the fields and take no part in comparisons.

    @functools.cached_property
    def _active(self) -> Spline:
        return make_spline(self.active_force_length_points)

    @functools.cached_property
    def _passive(self) -> Spline:
        return make_spline(self.passive_force_length_points)

    @functools.cached_property
    def _velocity(self) -> Spline:
        return make_spline(self.force_velocity_points, -MAX_VELOCITY, MAX_VELOCITY)

    @functools.cached_property
    def _passive_strain(self) -> float:
        reached = _first_reaching_one(self._passive)
        return 1.0 if reached is None or reached <= 1.0 else reached - 1.0

    @functools.cached_property
    def _tendon(self) -> Tendon:
        return _tendon(make_spline(self.tendon_force_points))


CURVES = tuple(f.name.removesuffix("_points") for f in fields(Tabulated) if f.name.endswith("_points"))


def _checked(points: Any, curve: str) -> Points:
    try:
        x, y = (tuple(float(value) for value in values) for values in points)
    except (TypeError, ValueError) as error:
        raise InputError(f"{curve} is {points!r}; expected two lists of numbers, x and y") from error
    if len(x) != len(y) or len(x) < 2:
        raise InputError(f"{curve} has {len(x)} x and {len(y)} y; expected as many of both, at least 2")
    if not all(map(math.isfinite, x + y)):
        raise InputError(f"{curve} has a number that is not finite")
    drops = [b for a, b in itertools.pairwise(x) if b <= a]
    if drops:
        raise InputError(f"{curve}: x does not increase at {drops[0]:g}; order the points and drop repeated ones")
    return x, y


# ---------------------------------------------------------------------------------------------- the tendon


class Tendon(NamedTuple):
    """The increasing part of a tendon curve, over tendon strain."""

    spline: Spline
    low_force: float
    """where the slack tendon's continuation begins"""
    high_force: float
    """where the tangent begins"""
    high_slope: float
    strain_at_one: float


def _first_reaching_one(spline: Spline) -> float | None:
    """Where the spline first grows through 1, between points on either side of 1."""
    for row, end in zip(spline.rows, ends(spline), strict=True):
        if row[1] < 1.0 <= at(row, end)[0]:
            return float(brentq(lambda x, row=row: at(row, x)[0] - 1.0, row[0], end, xtol=1e-15, rtol=1e-15))  # type: ignore[arg-type]
    return None


def _solutions(spline: Spline, value: float, derivative: bool, low: float, high: float) -> list[float]:
    """Every x in ``low`` .. ``high`` where the spline (or its slope) has a value."""
    found = []
    for (start, y, b, c, d), end in zip(spline.rows, ends(spline), strict=True):
        roots = np.roots([3 * d, 2 * c, b - value] if derivative else [d, c, b, y - value])
        roots = start + roots.real[np.abs(roots.imag) < 1e-9 * (1.0 + np.abs(roots.real))]
        near = 1e-12  # a root at a knot must not fall between its two segments
        found += [min(max(float(x), low), high) for x in roots if max(low, start) - near <= x <= min(high, end) + near]
    return found


def _tendon(spline: Spline) -> Tendon:
    one = _first_reaching_one(spline)
    first, last = spline.rows[0][0], spline.end
    if one is None or one <= 0:
        raise InputError(
            "tendon_force does not grow through force 1 at a positive strain; it is needed to scale the tendon, "
            "and a muscle can pull as much: extend the points"
        )
    stiffness = at(cut(spline, one, last).rows[0], one)[1]
    if stiffness <= 0:
        raise InputError(f"tendon_force falls where it reaches force 1, at strain {one:g}; check its points there")
    soft = [_solutions(spline, MIN_STIFFNESS * stiffness, True, *side) for side in ((first, one), (one, last))]
    low = max([first, *soft[0], *_solutions(spline, 0.0, False, first, one)])
    high = min([last, *soft[1], *_solutions(spline, MAX_TENDON_FORCE, False, one, last)])
    part = _invertible(spline, low, high)
    high_force, high_slope = at(part.rows[-1], high)
    _, low_force, low_slope, _, _ = part.rows[0]
    part = part._replace(settle=(SLACK_PUSH / low_slope, math.inf))
    return Tendon(part, low_force, high_force, high_slope, one)


def _invertible(spline: Spline, low: float, high: float) -> Spline:
    """The same cubics with segments halved until ``ITERATIONS`` of Newton's method invert every one."""
    extra: list[float] = []
    for _round in range(40):
        part = cut(spline, low, high, extra)
        more = []
        for (start, _, b, c, d), secant, end in zip(part.rows, _secants(part), ends(part), strict=True):
            h = (end - start) * np.linspace(0.0, 1.0, 33)
            found = _newton(h * (b + h * (c + h * d)), b, c, d, secant)
            if np.abs(found - h).max() > 1e-13 * (end - start) + 1e-16:
                more.append(0.5 * (start + end))
        if not more:
            return part
        extra += more
    raise InputError("tendon_force is too uneven to be inverted; smooth its points")


def _secants(spline: Spline) -> list[float]:
    """Strain per force over each segment."""
    return [(end - row[0]) / (at(row, end)[0] - row[1]) for row, end in zip(spline.rows, ends(spline), strict=True)]


def _newton(rise: Any, b: Any, c: Any, d: Any, secant: Any) -> Any:
    """``h`` where ``h (b + h (c + h d))`` is ``rise``, from a first guess along the secant."""
    h = rise * secant
    for _ in range(ITERATIONS):
        h = h - (h * (b + h * (c + h * d)) - rise) / (b + h * (2 * c + 3 * h * d))
    return h


def _by_force(spline: Spline, force: Array) -> list[Array]:
    """Start, force there, b, c, d and secant of the segment whose forces hold each ``force``."""
    rows = [(*row, secant) for row, secant in zip(spline.rows, _secants(spline), strict=True)]
    return [column[0] for column in chosen(force[None], [[row[1] for row in rows]], [rows])]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _strain_inside(spline: Spline, force: Array) -> Array:
    """Strain at a force between those of the spline's ends."""
    start, y, b, c, d, secant = _by_force(spline, force)
    return start + _newton(force - y, b, c, d, secant)


@_strain_inside.defjvp
def _strain_inside_jvp(spline: Spline, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # The derivative of the inverse, by itself: Newton's iterations need none, and second derivatives come out right.
    (force,), (change,) = primals, tangents
    strain = _strain_inside(spline, force)
    start, _, b, c, d, _ = _by_force(spline, force)
    h = strain - start
    return strain, change * (1.0 / (b + h * (2.0 * c + 3.0 * h * d)))
