"""Muscle curves of Millard et al. 2013 (OpenSim's Millard2012EquilibriumMuscle), smooth and invertible."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym.muscle.bezier import QuinticSpline, corner, evaluate, parts, quintic_spline

# Intervals of every spline: within 1e-5 of the Bézier curves, see tests/test_millard.py.
INTERVALS = 128
# The tendon follows OpenSim's toe down to this force. Below, its force decays exponentially with its length, and the
# inverse goes on nearly straight. With a smaller value that line would be steeper, and the solution for the fiber
# slower: 1e-4 takes almost twice the iterations.
TAIL_FORCE = 1e-3


@dataclass(frozen=True)
class Millard2012:
    """Curves of Millard et al. 2013 (10.1115/1.4023390), as OpenSim 4.6 has them; use with ``fiber_damping`` 0.1.

    Each curve is a chain of quintic Bézier corners through points and slopes given by the constants below, the
    defaults of OpenSim's ``ActiveForceLengthCurve``, ``ForceVelocityCurve``, ``FiberForceLengthCurve`` and
    ``TendonForceLengthCurve``; how the constants place the points follows its ``SmoothSegmentedFunctionFactory``. In
    traced code they are quintic splines that match the value, slope and curvature of the Bézier curves at their knots.

    Departures from OpenSim:

    * ``minimum_active_force`` is 0: OpenSim's own 0.1 serves its undamped elastic muscle only, and it sets 0 for a
      damped or rigid one.
    * The strain parameters stretch the passive and the tendon curve horizontally. For the tendon that *is* OpenSim's
      curve at another strain. OpenSim's passive curve keeps its low stiffness at 0.2 per optimal length while the
      rest stretches, which differs by 1.5e-3 at strain 0.6.
    * OpenSim's tendon is slack, without force or slope, below its slack length, so it has no inverse. Here the force
      decays exponentially below ``TAIL_FORCE``, to 2e-5 at slack length and to nothing beyond. It never pushes.
      ``tendon_length`` goes on nearly straight below that force, through 0, to where no length gives the force.

    As in OpenSim, damping beside a rigid tendon takes away no more than the fiber pulls (``hill.rigid_fiber_force``);
    active force and its derivative vanish outside the active lengths 0.4441 to 1.8123, and the
    force-velocity curve is flat beyond maximum velocity, where the damping carries on.

    Raises:
        InputError: constants of which no smooth curve can be made.
    """

    saturates_damping: ClassVar[bool] = True
    name: str = "Millard2012"
    # Active force-length, in optimal fiber lengths.
    min_active_length: float = 0.4441
    transition_length: float = 0.73
    max_active_length: float = 1.8123
    shallow_ascending_slope: float = 0.8616
    minimum_active_force: float = 0.0
    # Force-velocity.
    concentric_slope_at_vmax: float = 0.0
    concentric_slope_near_vmax: float = 0.25
    isometric_slope: float = 5.0
    eccentric_slope_at_vmax: float = 0.0
    eccentric_slope_near_vmax: float = 0.15
    max_eccentric_force: float = 1.4
    concentric_curviness: float = 0.6
    eccentric_curviness: float = 0.9
    # Passive force-length, for a strain of 0.7 at one norm force; stiffness per optimal length.
    passive_strain: float = 0.7
    passive_stiffness_at_low_force: float = 0.2
    passive_stiffness_at_one: float = 2.0 / 0.7
    passive_curviness: float = 0.75
    # Tendon, over its strain at one norm force.
    tendon_stiffness_at_one: float = 1.375
    toe_force: float = 2.0 / 3.0
    tendon_curviness: float = 0.5

    def __post_init__(self) -> None:
        _splines(self)

    @property
    def defaults(self) -> Mapping[str, float]:
        """Parameters that OpenSim's muscle has unless a model says otherwise."""
        return {
            "fiber_damping": 0.1,
            "passive_fiber_strain_at_one_norm_force": self.passive_strain,
            "tendon_strain_at_one_norm_force": 0.049,
        }

    def active_force_length(self, length: Array) -> Array:
        """1 at 1, ``minimum_active_force`` outside the active lengths."""
        s = _splines(self).active
        return s(parts(jnp.asarray(length), s.low, s.high)[1])

    def force_velocity(self, velocity: Array) -> Array:
        """0 up to -1, 1 at 0, ``max_eccentric_force`` from 1."""
        s = _splines(self).velocity
        return s(parts(jnp.asarray(velocity), s.low, s.high)[1])

    def passive_force_length(self, length: Array, strain: Array) -> Array:
        """0 up to 1, 1 at ``1 + strain``, straight from there."""
        _, inside, straight = parts((jnp.asarray(length) - 1.0) / strain, 0.0, 1.0)
        return _splines(self).passive(inside) + self.passive_stiffness_at_one * self.passive_strain * straight

    def tendon_force(self, length: Array, strain: Array) -> Array:
        """2e-5 at 1 and decaying exponentially below, 1 at ``1 + strain``, straight from ``toe_force`` on."""
        s = _splines(self)
        slack, toe, straight = parts((jnp.asarray(length) - 1.0) / strain, s.log_force.low, s.log_force.high)
        # A first guess of the logarithm of force, good to 1e-4, and one Newton step on the inverse, which is exact.
        guess = s.log_force(toe)
        strain_there, slope = jax.jvp(s.toe, (guess,), (jnp.ones_like(guess),))
        log_force = guess - (strain_there - toe) / slope
        # A logistic curve that joins with the toe's slope and curvature.
        tail = (1.0 + s.tail_shape) * jax.nn.sigmoid(slack / s.tail_width - math.log(s.tail_shape))
        return jnp.exp(log_force) * tail + self.tendon_stiffness_at_one * straight

    def tendon_length(self, force: Array, strain: Array) -> Array:
        """Inverse of ``tendon_force``; below ``TAIL_FORCE`` it goes on with little curvature, through force 0."""
        s = _splines(self)
        slack, toe, straight = parts(jnp.asarray(force), TAIL_FORCE, self.toe_force)
        slack = s.tail_slope * slack + s.tail_bend * (jnp.expm1(slack / TAIL_FORCE) - slack / TAIL_FORCE)
        return 1.0 + strain * (s.toe(jnp.log(toe)) + slack + straight / self.tendon_stiffness_at_one)


class _Splines(NamedTuple):
    """What traced code evaluates; strains are over the strain at one norm force."""

    active: QuinticSpline
    velocity: QuinticSpline
    passive: QuinticSpline
    toe: QuinticSpline
    """tendon strain as a function of the logarithm of force"""
    log_force: QuinticSpline
    """its inverse, nearly"""
    tail_shape: float
    tail_width: float
    """strain over which the force of a slack tendon decays by a factor e"""
    tail_slope: float
    """strain per force at ``TAIL_FORCE``"""
    tail_bend: float
    """its second derivative there, times ``TAIL_FORCE`` squared"""


@functools.lru_cache(maxsize=16)
def _splines(c: Millard2012) -> _Splines:
    tendon = _tendon_corners(c)
    toe_strain = float(tendon[-1][0][-1])
    # Knots uniform in the logarithm of force, and strain over them: the Bézier curves with x and y exchanged.
    log_force = np.linspace(np.log(TAIL_FORCE), np.log(c.toe_force), INTERVALS + 1)
    force = np.exp(log_force)
    strain, slope, curvature = evaluate([(ys, xs) for xs, ys in tendon], force)
    knots = np.stack([strain, slope * force, (slope + curvature * force) * force])
    toe = quintic_spline(float(log_force[0]), float(log_force[-1]), knots)
    # The other way round.
    value, first, second = evaluate(tendon, np.linspace(strain[0], toe_strain, INTERVALS + 1))
    inverse = np.stack([np.log(value), first / value, second / value - (first / value) ** 2])
    # The logistic curve (1 + b) / (1 + b exp(-x / w)) has slope b / (1 + b) / w and curvature (b - 1) / b slope^2 at 0.
    shape = float(1.0 / (1.0 - second[0] * TAIL_FORCE / first[0] ** 2))
    return _Splines(
        active=_spline(_active_corners(c)),
        velocity=_spline(_velocity_corners(c)),
        passive=_spline(_passive_corners(c)),
        toe=toe,
        log_force=quintic_spline(float(strain[0]), toe_strain, inverse),
        tail_shape=shape,
        tail_width=float(shape / (1.0 + shape) * TAIL_FORCE / first[0]),
        tail_slope=float(slope[0]),
        tail_bend=float(curvature[0] * TAIL_FORCE**2),
    )


def _spline(corners: list) -> QuinticSpline:
    low, high = float(corners[0][0][0]), float(corners[-1][0][-1])
    return quintic_spline(low, high, evaluate(corners, np.linspace(low, high, INTERVALS + 1)))


def _chain(points: list[tuple[float, float, float]], curviness: list[float]) -> list:
    """Corners between consecutive (x, y, slope)."""
    return [corner(a, b, c) for a, b, c in zip(points, points[1:], curviness, strict=False)]


def _active_corners(c: Millard2012) -> list:
    """createFiberActiveForceLengthCurve: floor, steep and shallow ascending limb, peak, descending limb, floor."""
    shoulder = 0.05
    y1 = 1.0 - c.shallow_ascending_slope * (1.0 - shoulder - c.transition_length)
    rise = c.transition_length - c.min_active_length
    fall = c.max_active_length - (1.0 + shoulder)
    points = [
        (c.min_active_length, c.minimum_active_force, 0.0),
        (c.min_active_length + 0.5 * rise, 0.5 * y1, 1.25 * y1 / rise),
        (0.5 * (c.transition_length + 1.0 - shoulder), 0.5 * (y1 + 1.0), c.shallow_ascending_slope),
        (1.0, 1.0, 0.0),
        (1.0 + shoulder + 0.5 * fall, 0.5, -1.0 / (fall - shoulder)),
        (c.max_active_length, c.minimum_active_force, 0.0),
    ]
    return _chain(points, [1.0] * 5)


def _velocity_corners(c: Millard2012) -> list:
    """createFiberForceVelocityCurve: slopes near maximum velocity are those at 90 % of it."""
    near_concentric = 0.05 * (c.concentric_slope_near_vmax + c.concentric_slope_at_vmax)
    near_eccentric = c.max_eccentric_force - 0.05 * (c.eccentric_slope_near_vmax + c.eccentric_slope_at_vmax)
    points = [
        (-1.0, 0.0, c.concentric_slope_at_vmax),
        (-0.9, near_concentric, c.concentric_slope_near_vmax),
        (0.0, 1.0, c.isometric_slope),
        (0.9, near_eccentric, c.eccentric_slope_near_vmax),
        (1.0, c.max_eccentric_force, c.eccentric_slope_at_vmax),
    ]
    return _chain(points, [c.concentric_curviness] * 2 + [c.eccentric_curviness] * 2)


def _passive_corners(c: Millard2012) -> list:
    """createFiberForceLengthCurve, over its strain: a short foot, a low slope, then a corner to the stiff line."""
    low, iso = c.passive_stiffness_at_low_force * c.passive_strain, c.passive_stiffness_at_one * c.passive_strain
    foot = 0.1 * min(1.0 / iso, 1.0)
    return _chain([(0.0, 0.0, 0.0), (foot, 0.5 * foot * low, low), (1.0, 1.0, iso)], [c.passive_curviness] * 2)


def _tendon_corners(c: Millard2012) -> list:
    """createTendonForceLengthCurve, over its strain: two corners from slack to the line through (1, 1)."""
    toe = 1.0 + (c.toe_force - 1.0) / c.tendon_stiffness_at_one
    foot = toe / 10.0
    middle = 1.0 + (0.5 * c.toe_force - 1.0) / c.tendon_stiffness_at_one
    slope = 0.5 * c.toe_force / (middle - foot)
    x = 0.5 * (foot + middle)
    points = [(0.0, 0.0, 0.0), (x, slope * (x - foot), slope), (toe, c.toe_force, c.tendon_stiffness_at_one)]
    return _chain(points, [c.tendon_curviness] * 2)
