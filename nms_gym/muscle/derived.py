"""What follows from a muscle's state: forces in its parts, power, work, stiffness, co-contraction.

Pure functions of parameters and of what a step or a prediction returned (``FiberOutput``, ``NmsOutput``); normalised
fiber length and velocity and tendon strain are in those outputs already. Arrays are ``(..., M)``, muscles last, and a
leading time axis is just another batch axis; parameters are ``(M,)`` and follow the precision of the arrays.

Signs: lengthening velocities are positive, and a tensile force is positive, so **power is ``-force * velocity``:
positive where mechanical energy leaves the part** (a shortening fiber, a recoiling tendon), as in OpenSim's
``Muscle.cpp``. The power of fiber and tendon together is that of the musculotendon.

Stiffness is ``d force / d length``, positive where stretching raises the force. Joint stiffness is ``-dM/dq``, positive
where the moment opposes the displacement.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import Leaf, pytree
from nms_gym.errors import InputError, listed, near
from nms_gym.muscle import hill
from nms_gym.muscle.curves import Curves
from nms_gym.muscle.geometry import PolynomialPaths, lengths_and_moment_arms
from nms_gym.muscle.hill import MuscleParams

SHORT_RANGE_GAIN = 23.4
"""short-range stiffness over active force per optimal fiber length (Cui et al. 2008, 10.1016/j.jbiomech.2008.03.024)"""
POWER_SMOOTHING = 0.01
"""W; positive and negative power are rounded over this much, and overestimated by half of it where power is zero"""
EXCITATION_SMOOTHING = 1e-4
"""excitation over which the smaller of two is rounded; see ``smaller``"""
# Gauss-Legendre points that integrate tendon force: exact to rounding for analytic curves, to 1e-5 for splines.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)

CoContraction = Literal["falconer_winter", "rudolph"]


class FiberResult(Protocol):
    """What these functions read from a ``FiberOutput`` or ``NmsOutput``; every array ``(..., M)``."""

    @property
    def tendon_force(self) -> Array:
        """N"""
        ...

    @property
    def fiber_length(self) -> Array:
        """over ``optimal_fiber_length``"""
        ...

    @property
    def fiber_velocity(self) -> Array:
        """over ``max_contraction_velocity * optimal_fiber_length``"""
        ...

    @property
    def tendon_strain(self) -> Array:
        """zero for a rigid tendon"""
        ...


@pytree
class FiberForces:
    """Force along the fiber by origin; every leaf ``(..., M)`` N. Their sum is the fiber force."""

    active: Array
    passive: Array
    damping: Array

    @property
    def total(self) -> Array:
        """Fiber force, N."""
        return self.active + self.passive + self.damping


@pytree
class Powers:
    """Mechanical power that leaves each part; every leaf ``(..., M)`` W."""

    active: Array
    """of the active fiber force (OpenSim's DeGrooteFregly2016Muscle counts damping in here too)"""
    fiber: Array
    """of the whole fiber force"""
    tendon: Array
    musculotendon: Array


@pytree
class Stiffness:
    """Derivatives of force by length; every leaf ``(..., M)`` N/m."""

    fiber: Leaf
    """along the fiber, at constant activation and velocity"""
    fiber_along_tendon: Leaf
    tendon: Leaf
    """infinite where the tendon is rigid"""
    musculotendon: Leaf
    """fiber along the tendon and tendon in series"""
    short_range: Leaf
    """short-range stiffness of the fiber along the tendon and tendon in series"""


@pytree
class Derived:
    """Everything above for each muscle, from ``derive``."""

    pennation: Array
    """rad"""
    forces: FiberForces
    powers: Powers
    stiffness: Stiffness
    tendon_energy: Array
    """J, stored elastically"""


@pytree
class Work:
    """Work over the leading time axis, J."""

    net: Array
    positive: Array
    """done by the part"""
    negative: Array
    """done on the part, as a positive number"""

    @property
    def total(self) -> Array:
        """Positive plus negative: total mechanical work, J (Winter 1979, 10.1152/jappl.1979.46.1.79)."""
        return self.positive + self.negative


def spread(params: MuscleParams, like: Array) -> MuscleParams:
    """The muscle's own leaves of ``params`` in the shape ``(..., M)`` and precision of ``like``."""
    names = [f.name for f in dataclasses.fields(cast(Any, MuscleParams))]
    return MuscleParams(**{n: jnp.broadcast_to(jnp.asarray(getattr(params, n), like.dtype), like.shape) for n in names})


def cosine(params: MuscleParams, fiber_length: Array) -> Array:
    """Cosine of pennation ``w / x`` of a fiber of constant thickness (OpenSim's MuscleFixedWidthPennationModel)."""
    x = jnp.asarray(fiber_length)
    return hill.along_tendon(spread(params, x), x) / x


def pennation(params: MuscleParams, fiber_length: Array) -> Array:
    """Pennation, rad, of a fiber of constant thickness; by ``arctan2``, which has a derivative at zero too."""
    x = jnp.asarray(fiber_length)
    p = spread(params, x)
    return jnp.arctan2(hill.half_thickness(p), hill.along_tendon(p, x))


def fiber_forces(
    curves: Curves,
    params: MuscleParams,
    activation: Array,
    fiber_length: Array,
    fiber_velocity: Array,
    tendon: str | Sequence[str] = "elastic",
) -> FiberForces:
    """Force along the fiber by origin, the terms of ``hill.fiber_force`` (Millard et al. 2013, 10.1115/1.4023390).

    Args:
        curves: the muscle family.
        params: ``(M,)`` leaves.
        activation: ``(..., M)``.
        fiber_length: ``(..., M)`` over ``optimal_fiber_length``.
        fiber_velocity: ``(..., M)`` over ``max_contraction_velocity * optimal_fiber_length``.
        tendon: "rigid" or "elastic", or one of them per muscle; see ``hill.rigid_fiber_force``.
    """
    p = spread(params, jnp.asarray(fiber_length))
    return _forces(tendon, curves, p, activation, fiber_length, fiber_velocity)


def _forces(
    tendon: str | Sequence[str], curves: Curves, p: MuscleParams, activation: Array, x: Array, v: Array
) -> FiberForces:
    f0 = p.max_isometric_force
    passive = f0 * curves.passive_force_length(x, p.passive_fiber_strain_at_one_norm_force)
    damping = f0 * p.fiber_damping * v
    # The rest, so that the parts always add up to the one formula of the fiber force.
    active = f0 * hill.fiber_force(curves, p, activation, x, v) - passive - damping
    if curves.saturates_damping:
        damping = f0 * _fiber_force(tendon, curves, p, activation, x, v) - passive - active
    return FiberForces(active, passive, damping)


def _fiber_force(
    tendon: str | Sequence[str], curves: Curves, p: MuscleParams, activation: Array, x: Array, v: Array
) -> Array:
    force = hill.fiber_force(curves, p, activation, x, v)
    if not curves.saturates_damping:
        return force
    return jnp.where(_is_rigid(tendon, x), hill.rigid_fiber_force(curves, p, activation, x, v), force)


def _is_rigid(tendon: str | Sequence[str], like: Array) -> np.ndarray:
    kinds = [tendon] if isinstance(tendon, str) else tendon
    return np.broadcast_to(np.asarray([kind == "rigid" for kind in kinds]), like.shape)


def powers(params: MuscleParams, forces: FiberForces, out: FiberResult, musculotendon_velocity: Array) -> Powers:
    """Power of active force, fiber, tendon and musculotendon, ``-force * velocity`` (OpenSim's Muscle.cpp).

    The tendon lengthens by what the fiber along the tendon leaves of the musculotendon's velocity. Fiber and tendon
    power add up to musculotendon power as far as the forces are in equilibrium, that is to the step's residual.

    Args:
        params: ``(M,)`` leaves.
        forces: from ``fiber_forces``.
        out: of a step or prediction.
        musculotendon_velocity: ``(..., M)`` m/s.
    """
    p = spread(params, jnp.asarray(out.fiber_length))
    v = out.fiber_velocity * p.max_contraction_velocity * p.optimal_fiber_length
    along = v / cosine(params, out.fiber_length)
    return Powers(
        active=-forces.active * v,
        fiber=-forces.total * v,
        tendon=-out.tendon_force * (musculotendon_velocity - along),
        musculotendon=-out.tendon_force * musculotendon_velocity,
    )


def tendon_energy(curves: Curves, params: MuscleParams, tendon_strain: Array) -> Array:
    """Elastic energy of the tendon, J: its force integrated from slack length, by Gauss's quadrature with 16 points.

    Args:
        curves: the muscle family.
        params: ``(M,)`` leaves.
        tendon_strain: ``(..., M)``.
    """
    strain = jnp.asarray(tendon_strain)
    p = spread(params, strain)
    # The points in a leading axis: one call of the curve.
    shape = (-1, *(1,) * strain.ndim)
    nodes, weights = (jnp.asarray(a, strain.dtype).reshape(shape) for a in (0.5 * (_NODES + 1.0), 0.5 * _WEIGHTS))
    force = curves.tendon_force(1.0 + nodes * strain[None], p.tendon_strain_at_one_norm_force[None])
    return p.max_isometric_force * p.tendon_slack_length * strain * jnp.sum(weights * force, axis=0)


def _series(fiber: Array, tendon: Array, scale: Array) -> Array:
    """``fiber tendon / (fiber + tendon)``, 0 where both vanish.

    A fiber on its descending limb has negative stiffness, and the series is infinite where it cancels the tendon's,
    which is where equilibrium is lost. Rounded over 1e-6 of ``scale`` (stiffness of the muscle's size), so that
    the pole is finite and smooth; elsewhere the change is below 1e-10 of the value.
    """
    total = (fiber + tendon) / scale
    return fiber * (tendon / scale) * total / (total * total + 1e-12)


def stiffness(
    tendon: str | Sequence[str],
    curves: Curves,
    params: MuscleParams,
    activation: Array,
    out: FiberResult,
    *,
    short_range_gain: float = SHORT_RANGE_GAIN,
) -> Stiffness:
    """Stiffness of fiber, tendon and musculotendon from the derivatives of their curves, and short-range stiffness.

    Along the tendon a fiber of constant thickness has ``K cos^2(a) + F sin^2(a) / l``, and the musculotendon is that in
    series with the tendon (OpenSim's Millard2012EquilibriumMuscle and DeGrooteFregly2016Muscle, their
    ``getFiberStiffnessAlongTendon`` and ``getMuscleStiffness``). Stiffness is quasi-static: activation and fiber
    velocity stay as they are.

    Short-range stiffness, of the cross bridges that are attached, is ``gain * active force / optimal_fiber_length`` in
    series with the tendon (Cui et al. 2008, 10.1016/j.jbiomech.2008.03.024; gain 23.4). Departures: the fiber's part is
    turned into the direction of the tendon by ``cos^2`` (the paper treats fibers as parallel to it), and the tendon's
    stiffness is the slope of its curve at the present strain (the paper's is constant).

    Args:
        tendon: "rigid" or "elastic", or one of them per muscle.
        curves: the muscle family.
        params: ``(M,)`` leaves.
        activation: ``(..., M)``.
        out: of a step or prediction.
        short_range_gain: Cui's gamma.
    """
    x, v = jnp.asarray(out.fiber_length), jnp.asarray(out.fiber_velocity)
    p = spread(params, x)
    f0, per_length = p.max_isometric_force, p.max_isometric_force / p.optimal_fiber_length
    force, slope = jax.jvp(lambda x: _fiber_force(tendon, curves, p, activation, x, v), (x,), (jnp.ones_like(x),))
    c = cosine(params, x)
    fiber = per_length * slope
    along = fiber * c * c + per_length * force * (1.0 - c * c) / x
    taut = 1.0 + out.tendon_strain
    strain = p.tendon_strain_at_one_norm_force
    elastic = jax.jvp(lambda taut: curves.tendon_force(taut, strain), (taut,), (jnp.ones_like(taut),))[1]
    elastic = elastic * f0 / p.tendon_slack_length
    active = _forces(tendon, curves, p, activation, x, v).active
    attached = short_range_gain * active / p.optimal_fiber_length * c * c
    rigid = _is_rigid(tendon, x)
    return Stiffness(
        fiber=fiber,
        fiber_along_tendon=along,
        tendon=jnp.where(rigid, jnp.inf, elastic),
        musculotendon=jnp.where(rigid, along, _series(along, elastic, per_length)),
        short_range=jnp.where(rigid, attached, _series(attached, elastic, per_length)),
    )


def derive(
    tendon: str | Sequence[str],
    curves: Curves,
    params: MuscleParams,
    activation: Array,
    out: FiberResult,
    musculotendon_velocity: Array,
) -> Derived:
    """Pennation, forces, powers, stiffness and tendon energy of every muscle; arguments as in the functions above."""
    forces = fiber_forces(curves, params, activation, out.fiber_length, out.fiber_velocity, tendon)
    return Derived(
        pennation=pennation(params, out.fiber_length),
        forces=forces,
        powers=powers(params, forces, out, musculotendon_velocity),
        stiffness=stiffness(tendon, curves, params, activation, out),
        tendon_energy=tendon_energy(curves, params, out.tendon_strain),
    )


# ---- over time ----


def integrate(rate: Array, dt: Array | float) -> Array:
    """Integral of ``rate (T, ...)`` over its leading axis by the trapezoidal rule: power to work, W to J."""
    rate = jnp.asarray(rate)
    return dt * (jnp.sum(rate, axis=0) - 0.5 * (rate[0] + rate[-1]))


def work(power: Array, dt: Array | float) -> Work:
    """Net, positive and negative work of ``power (T, ...)`` W at steps of ``dt`` s.

    Positive power is ``(P + sqrt(P^2 + d^2)) / 2`` with ``d = POWER_SMOOTHING``, which has a derivative at ``P = 0``:
    at most ``d / 2`` too much.
    """
    power = jnp.asarray(power)
    size = jnp.sqrt(power**2 + POWER_SMOOTHING**2)
    return Work(
        net=integrate(power, dt),
        positive=integrate(0.5 * (size + power), dt),
        negative=integrate(0.5 * (size - power), dt),
    )


# ---- joints ----


def moment_arm_slopes(paths: PolynomialPaths, q: Array) -> Array:
    """Derivative of the moment arms in one pose ``q (D,)`` rad: ``[k, j, m] = dr_km / dq_j``, ``(D, D, M)`` m/rad.

    Symmetric in ``k`` and ``j``, since moment arms are slopes of one length. ``vmap`` over ``q`` for more poses.
    """
    return jnp.moveaxis(jax.jacfwd(lambda q: lengths_and_moment_arms(paths, q)[1])(jnp.asarray(q)), 1, 2)


def joint_stiffness(moment_arms: Array, slopes: Array, tendon_force: Array, muscle_stiffness: Array) -> Array:
    """Stiffness matrix ``-dM/dq (..., K, K)`` N·m/rad of the joints that muscles cross.

    ``sum_m r_m k_m r_m^T - sum_m F_m dr_m/dq`` with ``r = -dl/dq`` (Hogan 1990, in Winters & Woo, Multiple Muscle
    Systems, chapter 9).

    Args:
        moment_arms: ``(..., K, M)`` m.
        slopes: ``(..., K, K, M)`` m/rad, from ``moment_arm_slopes``.
        tendon_force: ``(..., M)`` N.
        muscle_stiffness: ``(..., M)`` N/m, ``musculotendon`` or ``short_range`` of ``stiffness``.
    """
    stretched = jnp.einsum("...km,...m,...jm->...kj", moment_arms, muscle_stiffness, moment_arms)
    return stretched - jnp.einsum("...m,...kjm->...kj", tendon_force, slopes)


# ---- co-contraction ----


def smaller(a: Array, b: Array) -> Array:
    """Smooth minimum of two excitations: never negative, exact where they are equal, else at most 5e-5 too large."""
    d = EXCITATION_SMOOTHING
    return 0.5 * (a + b + d - jnp.sqrt((a - b) ** 2 + d * d))


def group_means(muscles: Sequence[str], groups: Mapping[str, Iterable[str]]) -> np.ndarray:
    """Matrix ``(G, M)`` that averages muscles into groups by name, in the order of ``groups``.

    Raises:
        InputError: a group that is empty, names a muscle twice, or one that is not there.
    """
    rows = np.zeros((len(groups), len(muscles)))
    for row, (group, members) in zip(rows, groups.items(), strict=True):
        names = list(members)
        if not names or len(set(names)) != len(names):
            what = "is empty" if not names else "names a muscle twice: " + listed(names)
            raise InputError(f"muscle group {group!r} {what}; give each of its muscles once")
        for name in names:
            if name not in muscles:
                raise InputError(f"muscle group {group!r}: no muscle {name!r}; {near(name, muscles)}")
            row[list(muscles).index(name)] = 1.0 / len(names)
    return rows


def co_contraction(first: Array, second: Array, method: CoContraction = "falconer_winter") -> Array:
    """Co-contraction index of two opposing groups from their excitations ``(T, ...)``; time first.

    - "falconer_winter": twice the area common to both over the sum of their areas, 0 to 1 (Falconer & Winter 1985,
      Electromyogr Clin Neurophysiol 25:135-149, who give it in percent).
    - "rudolph": mean over time of ``lower / higher * (lower + higher)``, 0 to 2 (Rudolph et al. 2000,
      10.1007/s001670000130).

    Departures: the lower excitation is ``smaller``, and denominators are larger by ``EXCITATION_SMOOTHING``, so that
    the index has derivatives where the groups cross or are silent (it is 0 there).

    Args:
        first: excitation or activation of one group, ``(T, ...)``, 0 to 1; means from ``group_means`` for example.
        second: of the other group.
        method: which index.

    Raises:
        InputError: unknown method.
    """
    if method not in ("falconer_winter", "rudolph"):
        raise InputError(f"co-contraction method is {method!r}; use 'falconer_winter' or 'rudolph'")
    lower, total = smaller(first, second), first + second
    if method == "falconer_winter":
        return 2.0 * jnp.mean(lower, axis=0) / (jnp.mean(total, axis=0) + EXCITATION_SMOOTHING)
    return jnp.mean(lower / (total - lower + EXCITATION_SMOOTHING) * total, axis=0)


def co_contraction_of(
    muscles: Sequence[str],
    excitation: Array,
    agonists: Iterable[str],
    antagonists: Iterable[str],
    method: CoContraction = "falconer_winter",
) -> Array:
    """``co_contraction`` of two groups of muscles by name, each represented by the mean of its muscles.

    Args:
        muscles: names of the M muscles.
        excitation: ``(T, M)``, excitation or activation.
        agonists: names.
        antagonists: names.
        method: which index.

    Raises:
        InputError: an unknown or repeated muscle, an empty group, or an unknown method.
    """
    means = group_means(muscles, {"agonists": agonists, "antagonists": antagonists})
    signals = jnp.asarray(excitation) @ jnp.asarray(means.T, jnp.asarray(excitation).dtype)
    return co_contraction(signals[..., 0], signals[..., 1], method)
