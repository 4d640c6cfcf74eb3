"""Forces of a Hill-type muscle from its fiber's state.

Symbols: ``w`` is the fiber length *along the tendon* over ``optimal_fiber_length``, ``h = sin(pennation_at_optimal)``
the constant half thickness over the same, ``x = sqrt(w^2 + h^2)`` the normalised fiber length, and ``w / x`` the cosine
of pennation (OpenSim's MuscleFixedWidthPennationModel). Working in ``w`` makes the tendon length linear in the unknown
and needs no guarded square root of a difference.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from nms_gym._parameter import parameter
from nms_gym._pytree import pytree
from nms_gym.anatomy import MUSCLE_LIMITS as _LIMITS
from nms_gym.muscle.curves import Curves

# Shortest normalised fiber length (OpenSim's DeGrooteFregly2016Muscle: 0.2) and smallest cosine of pennation.
MIN_FIBER_LENGTH = 0.2
MIN_ALONG_TENDON = 0.05
# How sharply damping saturates at what a fiber pulls, per unit of the two's quotient.
DAMPING_SHARPNESS = 100.0


@pytree
class MuscleParams:
    """What a Hill-type muscle is made of; every leaf ``(M,)``, SI units.

    Field defaults are for what an OpenSim model does not say. Damping: Millard et al. 2013 (10.1115/1.4023390).
    Strains: OpenSim's DeGrooteFregly2016Muscle. Calibration's bounds follow CEINMS's and NMSM's customary limits, with
    priors tighter than these; the tendon's is tight because a few percent of a long tendon are a third of a short
    fiber.
    """

    max_isometric_force: Array = parameter(
        "N",
        "Maximum isometric force",
        limits=_LIMITS["max_isometric_force"],
        bounds=(0.4, 2.5),
        prior_sd=0.3,
        share="groups",
        free=True,
    )
    """N"""
    optimal_fiber_length: Array = parameter(
        "m",
        "Optimal fiber length",
        limits=_LIMITS["optimal_fiber_length"],
        bounds=(0.75, 1.3),
        prior_sd=0.1,
        free=True,
    )
    """m"""
    tendon_slack_length: Array = parameter(
        "m",
        "Tendon slack length",
        limits=_LIMITS["tendon_slack_length"],
        bounds=(0.85, 1.15),
        prior_sd=0.04,
        free=True,
    )
    """m"""
    pennation_at_optimal: Array = parameter(
        "rad",
        "Pennation at optimal length",
        limits=_LIMITS["pennation_at_optimal"],
        default=0.0,
        bounds=(0.5, 1.5),
        prior_sd=0.1,
    )
    """rad"""
    max_contraction_velocity: Array = parameter(
        "optimal_fiber_length/s",
        "Maximum contraction velocity",
        limits=_LIMITS["max_contraction_velocity"],
        default=10.0,
        bounds=(0.5, 1.5),
        prior_sd=0.2,
        share="all",
    )
    """optimal fiber lengths per second"""
    fiber_damping: Array = parameter(
        "1", "Fiber damping", limits=(0.0, 10.0), default=0.1, bounds=(0.2, 3.0), prior_sd=0.5, share="all"
    )
    """force over ``max_isometric_force`` at normalised velocity 1"""
    passive_fiber_strain_at_one_norm_force: Array = parameter(
        "1", "Passive fiber strain at F0", limits=(0.1, 10.0), default=0.6, bounds=(0.5, 2.0), prior_sd=0.2
    )
    tendon_strain_at_one_norm_force: Array = parameter(
        "1",
        "Tendon strain at F0",
        limits=(0.005, 1.0),
        default=0.049,
        bounds=(0.5, 2.0),
        prior_sd=0.2,
        needs=("tendon", ("elastic", "mixed")),
    )
    optimal_fiber_length_change: Array = parameter(
        "1",
        "Optimal fiber length change with activation",
        limits=(0.0, 1.0),
        default=0.0,
        bounds=(0.0, 0.3),
        prior_sd=0.1,
        relative=False,
        share="all",
        free=True,
    )
    """fraction by which the optimal length of *active* force grows from full to no activation; 0 for none"""


def half_thickness(params: MuscleParams) -> Array:
    """``sin(pennation_at_optimal)``: half thickness over optimal fiber length."""
    return jnp.sin(params.pennation_at_optimal)


def fiber_length(params: MuscleParams, w: Array) -> Array:
    """Normalised fiber length ``x`` at along-tendon length ``w``."""
    h = half_thickness(params)
    # The constant stands in for h^2 in a muscle without pennation, where x = |w| has no slope at 0.
    return jnp.sqrt(w * w + h * h + 1e-12)


def shortest(params: MuscleParams) -> Array:
    """Smallest allowed ``w``: fiber length 0.2, or nearly perpendicular fibers in a strongly pennate muscle."""
    h = half_thickness(params)
    return jnp.sqrt(jnp.maximum(MIN_FIBER_LENGTH**2 - h * h, MIN_ALONG_TENDON**2))


def along_tendon(params: MuscleParams, x: Array) -> Array:
    """``w`` of a normalised fiber length, the inverse of ``fiber_length``.

    ``w^2`` is smoothly kept above the smallest allowed (exact to 1e-8 where it exceeds that by 0.02).
    """
    h = half_thickness(params)
    low, k = MIN_ALONG_TENDON**2, 800.0
    return jnp.sqrt(low + jnp.logaddexp(0.0, k * (x * x - h * h - 1e-12 - low)) / k)


def tendon_length(params: MuscleParams, musculotendon_length: Array, w: Array) -> Array:
    """Tendon length over ``tendon_slack_length``."""
    return (musculotendon_length - params.optimal_fiber_length * w) / params.tendon_slack_length


def fiber_force(curves: Curves, params: MuscleParams, activation: Array, x: Array, v: Array) -> Array:
    """Normalised force along the fiber: active, passive and damping (Millard et al. 2013, 10.1115/1.4023390, eq. 7).

    The optimal length of active force depends on activation, ``l_opt (1 + change (1 - a))`` (Huijing 1996,
    10.1016/0021-9290(95)00025-9; the form of Lloyd & Besier 2003 and of CEINMS, whose ``percentageChange`` is 0.15).
    Passive force and velocity keep their normalisation, as they do there.
    """
    return _undamped_force(curves, params, activation, x, v) + params.fiber_damping * v


def _undamped_force(curves: Curves, params: MuscleParams, activation: Array, x: Array, v: Array) -> Array:
    active_length = x / (1.0 + params.optimal_fiber_length_change * (1.0 - activation))
    active = activation * curves.active_force_length(active_length) * curves.force_velocity(v)
    return active + curves.passive_force_length(x, params.passive_fiber_strain_at_one_norm_force)


def rigid_fiber_force(curves: Curves, params: MuscleParams, activation: Array, x: Array, v: Array) -> Array:
    """``fiber_force`` beside a rigid tendon, which dictates the fiber's velocity, so that damping could make it push.

    Where a family ``saturates_damping``, damping takes away no more than the fiber pulls, as in OpenSim's
    Millard2012EquilibriumMuscle. Relative to the pull, rounded over 1 / ``DAMPING_SHARPNESS``: at most 0.7 % of the
    damping force too much, where it equals the pull; never negative; exact at rest and while the fiber lengthens.
    """
    if not curves.saturates_damping:
        return fiber_force(curves, params, activation, x, v)
    damping = params.fiber_damping * v
    # The constant stands in for the pull of a slack muscle, where the quotient has no value.
    pull = _undamped_force(curves, params, activation, x, v) + 1e-9
    left = 1.0 - jnp.maximum(-damping, 0.0) / pull
    return pull * jnp.logaddexp(0.0, DAMPING_SHARPNESS * left) / DAMPING_SHARPNESS + jnp.maximum(damping, 0.0)


def force_along_tendon(curves: Curves, params: MuscleParams, activation: Array, w: Array, x: Array, v: Array) -> Array:
    """Normalised fiber force times the cosine of pennation."""
    return fiber_force(curves, params, activation, x, v) * (w / x)
