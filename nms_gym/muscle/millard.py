"""Muscle curves of Millard et al. 2013 (OpenSim's Millard2012EquilibriumMuscle), smooth and invertible."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym.muscle.bezier import QuinticSpline, corner, evaluate, quintic_spline

# Intervals of every spline: within 1e-5 of the Bézier curves, see tests/test_millard.py.
INTERVALS = 128
# The tendon follows OpenSim's toe down to this force. Below, its force decays exponentially with its length, and the
# inverse goes on along its tangent. A smaller value would make the tangent steeper, and the solution for the fiber
# slower: at 1e-4, Newton's method takes 10 iterations where it takes 6 at 1e-3.
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
      decays exponentially below ``TAIL_FORCE``, to 6e-6 at slack length and to nothing beyond. It never pushes.
      ``tendon_length`` goes on along its tangent below that force, where no normal length gives it.

    As in OpenSim, active force and its derivative vanish outside the active lengths 0.4441 to 1.8123, and the
    force-velocity curve is flat beyond maximum velocity, where the damping carries on.

    Raises:
        InputError: constants of which no smooth curve can be made.
    """

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
        return _splines(self).active(jnp.asarray(length))

    def force_velocity(self, velocity: Array) -> Array:
        """0 up to -1, 1 at 0, ``max_eccentric_force`` from 1."""
        return _splines(self).velocity(jnp.asarray(velocity))

    def passive_force_length(self, length: Array, strain: Array) -> Array:
        """0 up to 1, 1 at ``1 + strain``, straight from there."""
        z = (jnp.asarray(length) - 1.0) / strain
        return _splines(self).passive(z) + self.passive_stiffness_at_one * self.passive_strain * jnp.maximum(z - 1, 0)

    def tendon_force(self, length: Array, strain: Array) -> Array:
        """6e-6 at 1 and decaying exponentially below, 1 at ``1 + strain``, straight from ``toe_force`` on."""
        s = _splines(self)
        z = (jnp.asarray(length) - 1.0) / strain
        toe = jnp.clip(z, s.tail_strain, s.toe_strain)
        # A first guess of the logarithm of force, within 3e-3, and two Newton steps on the inverse, which is exact.
        log_force = s.log_force(toe)
        for _ in range(2):
            strain_there, slope = jax.jvp(s.toe, (log_force,), (jnp.ones_like(log_force),))
            log_force = log_force - (strain_there - toe) / slope
        # A logistic curve joins with the toe's slope and without curvature at its middle.
        tail = 2.0 * jax.nn.sigmoid(2.0 * jnp.minimum(z - s.tail_strain, 0.0) / s.tail_decay)
        straight = jnp.maximum(z - s.toe_strain, 0.0)
        return jnp.exp(log_force) * tail + self.tendon_stiffness_at_one * straight

    def tendon_length(self, force: Array, strain: Array) -> Array:
        """Inverse of ``tendon_force``; below ``TAIL_FORCE`` it goes on along its tangent."""
        s = _splines(self)
        force = jnp.asarray(force)
        # Three pieces that join with equal slopes and add up: each is constant where another takes over.
        toe = s.toe(jnp.log(jnp.clip(force, TAIL_FORCE, self.toe_force)))
        slack = jnp.minimum(force - TAIL_FORCE, 0.0) * (s.tail_decay / TAIL_FORCE)
        straight = jnp.maximum(force - self.toe_force, 0.0) / self.tendon_stiffness_at_one
        return 1.0 + strain * (toe + slack + straight)


class _Splines(NamedTuple):
    """What traced code evaluates; strains are over the strain at one norm force."""

    active: QuinticSpline
    velocity: QuinticSpline
    passive: QuinticSpline
    toe: QuinticSpline
    """tendon strain as a function of the logarithm of force"""
    log_force: QuinticSpline
    """its inverse, nearly"""
    tail_strain: float
    tail_decay: float
    """``TAIL_FORCE`` over the slope there"""
    toe_strain: float


@functools.lru_cache(maxsize=16)
def _splines(c: Millard2012) -> _Splines:
    tendon = _tendon_corners(c)
    toe_strain = float(tendon[-1][0][-1])
    # Knots uniform in the logarithm of force, and strain over them: the Bézier curves with x and y exchanged.
    log_force = np.linspace(np.log(TAIL_FORCE), np.log(c.toe_force), INTERVALS + 1)
    force = np.exp(log_force)
    strain, slope, curvature = evaluate([(ys, xs) for xs, ys in tendon], force)
    curvature[0] = 0.0  # joins the tangent; the other end has none already
    knots = np.stack([strain, slope * force, (slope + curvature * force) * force])
    toe = quintic_spline(log_force[0], log_force[-1], knots)
    # The other way round.
    value, first, second = evaluate(tendon, np.linspace(strain[0], toe_strain, INTERVALS + 1))
    inverse = np.stack([np.log(value), first / value, second / value - (first / value) ** 2])
    return _Splines(
        active=_spline(_active_corners(c)),
        velocity=_spline(_velocity_corners(c)),
        passive=_spline(_passive_corners(c)),
        toe=toe,
        log_force=quintic_spline(strain[0], toe_strain, inverse),
        tail_strain=float(strain[0]),
        tail_decay=float(slope[0] * force[0]),
        toe_strain=toe_strain,
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
