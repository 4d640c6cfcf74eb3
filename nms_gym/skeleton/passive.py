"""Passive joint moments: smooth limits of the range of motion, stiffness of ligaments, viscous damping.

Each moment acts on the coordinate, so that it is added to what muscles produce. Moments follow from a pytree of
parameters that can be fitted like any other.

Sources: OpenSim's Simulation/Model/CoordinateLimitForce.cpp (limits). Anderson FC (1999) A dynamic optimization
solution for a complete cycle of normal gait, PhD thesis, University of Texas at Austin, eq. 4.4 and table G.2 (hip and
knee); ankle and subtalar joint of the same model as tabulated with Falisse et al. (2019),
doi:10.1098/rsif.2019.0402 (3dpredictsim, PassiveMomentsData.m). Riener R, Edrich T (1999) J Biomech 32:539-544,
doi:10.1016/S0021-9290(99)00009-3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nms_gym._pytree import pytree, static
from nms_gym.anatomy import Coordinate, Multibody
from nms_gym.errors import InputError, listed, near
from nms_gym.skeleton.functions import as_dtype

# The double exponentials were measured up to some tens of N·m. Above this moment (N·m) each continues along its
# tangent: at a slope of 38 per rad a thrown limb would otherwise overflow, and no integrator could follow.
CEILING = 100.0
TRANSITION = math.radians(10)


@pytree
class JointLimits:
    """Springs and dampers that act beyond a range of motion. All leaves (D,).

    Leaves: lower, upper (rad or m); lower_stiffness, upper_stiffness (N·m/rad); damping (N·m·s/rad); transition (rad),
    over which stiffness and damping rise from nothing, from the limit outwards.
    """

    lower: Any
    upper: Any
    lower_stiffness: Any
    upper_stiffness: Any
    damping: Any
    transition: Any


@pytree
class ExponentialMoments:
    """``sign @ exp(offset + slope @ q) + constant``, the natural logarithm of N·m inside.

    Leaves: sign (D, K), slope (K, D) 1/rad, offset (K,), constant (D,) N·m.
    """

    sign: Any
    slope: Any
    offset: Any
    constant: Any


@pytree
class PassiveMoments:
    """Everything passive about D joints; ``damping`` (D,) N·m·s/rad acts over the whole range."""

    limits: JointLimits
    damping: Any
    exponential: ExponentialMoments | None
    coordinates: tuple[str, ...] = static()


# ---------------------------------------------------------------------------------------------- moments


def passive_moments(passive: PassiveMoments, q: jax.Array, qd: jax.Array) -> jax.Array:
    """Moments on the coordinates (..., D) N·m at q (..., D) rad and qd (..., D) rad/s, in the dtype of q."""
    q, qd = jnp.asarray(q), jnp.asarray(qd)
    passive = as_dtype(passive, q.dtype)
    moments = limit_moments(passive.limits, q, qd) - jnp.broadcast_to(passive.damping, q.shape) * qd
    return moments if passive.exponential is None else moments + exponential_moments(passive.exponential, q)


def limit_moments(limits: JointLimits, q: jax.Array, qd: jax.Array) -> jax.Array:
    """Moments (..., D) of the limits: exactly zero within the range, twice continuously differentiable.

    ``-K S(x / transition) x - c S(x / transition) qd`` at a depth x beyond a limit, where S is the quintic step. As
    OpenSim's CoordinateLimitForce, which takes degrees (and N·m per degree).
    """
    q, qd = jnp.asarray(q), jnp.asarray(qd)
    limits = _spread(limits, q)
    above, below = q - limits.upper, limits.lower - q
    up, down = _step(above / limits.transition), _step(below / limits.transition)
    spring = limits.lower_stiffness * down * below - limits.upper_stiffness * up * above
    return spring - limits.damping * (up + down) * qd


def limit_energy(limits: JointLimits, q: jax.Array) -> jax.Array:
    """Energy (..., D) in J stored in the springs of the limits at q (..., D): the integral of their moment."""
    q = jnp.asarray(q)
    limits = _spread(limits, q)

    def stored(depth: jax.Array) -> jax.Array:
        width = limits.transition
        x = jnp.clip(depth / width, 0, 1)
        beyond = jnp.maximum(depth, width)
        return width**2 * x**5 * (2 - 2.5 * x + 6 / 7 * x**2) + (beyond**2 - width**2) / 2

    return limits.upper_stiffness * stored(q - limits.upper) + limits.lower_stiffness * stored(limits.lower - q)


def exponential_moments(exponential: ExponentialMoments, q: jax.Array) -> jax.Array:
    """Moments (..., D) of the double exponentials at q (..., D), continued by tangents above ``CEILING``.

    Coupled ones (Riener and Edrich) fit each joint's moment by itself: they are not the gradient of an energy.
    """
    q = jnp.asarray(q)
    exponential = as_dtype(exponential, q.dtype)
    exponent = jnp.einsum("...d,kd->...k", q, exponential.slope)
    exponent = exponent + jnp.broadcast_to(exponential.offset, exponent.shape)
    held = jnp.where(exponent < math.log(CEILING), exponent, math.log(CEILING))
    moments = jnp.einsum("...k,dk->...d", jnp.exp(held) * (1 + exponent - held), exponential.sign)
    return moments + jnp.broadcast_to(exponential.constant, moments.shape)


def _spread(limits: JointLimits, q: jax.Array) -> JointLimits:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, q.shape), as_dtype(limits, q.dtype))


def _step(x: jax.Array) -> jax.Array:
    """0 below x = 0, 1 above x = 1, first and second derivative zero at both (Simbody's ``stepUp``)."""
    x = jnp.clip(x, 0, 1)
    return x**3 * (10 + x * (-15 + 6 * x))


# ---------------------------------------------------------------------------------------------- published constants

# Coordinate, without its side -> terms (moment N·m, slope 1/rad, angle rad): moment * exp(slope * (q - angle)).
# Hip flexion, adduction and internal rotation, knee flexion (the thesis counts extension), ankle dorsiflexion and
# subtalar inversion are positive. They stand for ligaments and sit beside muscles.
_ANDERSON: Mapping[str, tuple[tuple[float, float, float], ...]] = {
    "hip_flexion": ((-2.44, 5.05, 1.81), (1.51, -21.88, -0.47)),
    "hip_adduction": ((-0.03, 14.94, 0.50), (0.03, -14.94, -0.50)),
    "hip_rotation": ((-0.03, 14.94, 0.92), (0.03, -14.94, -0.92)),
    "knee_angle": ((6.09, -33.94, -0.13), (-11.03, 11.33, 2.40)),
    "ankle_angle": ((-2.03, 38.11, 0.52), (0.18, -12.12, -0.74)),
    "subtalar_angle": ((-60.21, 16.32, 0.65), (60.21, -16.32, -0.65)),
}
# Coordinate -> constant N·m and terms (sign, offset, slopes per degree): sign * exp(offset + sum of slope * angle).
# The paper counts plantarflexion and the moment towards it; here dorsiflexion is positive for both.
_RIENER: Mapping[str, tuple[float, tuple[tuple[float, float, Mapping[str, float]], ...]]] = {
    "hip_flexion": (
        8.072,
        (
            (1.0, 1.4655, {"knee_angle": -0.0034, "hip_flexion": -0.0750}),
            (-1.0, 1.3403, {"knee_angle": -0.0226, "hip_flexion": 0.0305}),
        ),
    ),
    "knee_angle": (
        -4.820,
        (
            (1.0, 1.800, {"ankle_angle": 0.0460, "knee_angle": -0.0352, "hip_flexion": 0.0217}),
            (-1.0, -3.971, {"ankle_angle": 0.0004, "knee_angle": 0.0495, "hip_flexion": -0.0128}),
            (1.0, 2.220, {"knee_angle": -0.150}),
        ),
    ),
    "ankle_angle": (
        1.792,
        (
            (-1.0, 2.1016, {"ankle_angle": 0.0843, "knee_angle": -0.0176}),
            (1.0, -7.9763, {"ankle_angle": -0.1949, "knee_angle": 0.0008}),
        ),
    ),
}
EXPONENTIALS = ("anderson1999", "riener_edrich1999")


# ---------------------------------------------------------------------------------------------- making them

Setting = float | Mapping[str, float]


def make_passive(
    model: Multibody,
    coordinates: Sequence[str],
    *,
    stiffness: Setting = 300.0,
    limit_damping: Setting = 1.0,
    transition: Setting = TRANSITION,
    damping: Setting = 0.1,
    exponential: str | None = None,
) -> PassiveMoments:
    """Passive moments of some coordinates: limits at the ends of their ranges, damping, and ligaments if asked for.

    The defaults hold a limb with an inertia of 0.015 kg m^2 (a foot about the ankle) stably at a semi-implicit step h
    of 10 ms, which needs ``stiffness h^2 + 2 damping h < 4 inertia``; strong joints that carry more can be given
    stiffer limits, smaller limbs need softer ones. They are choices of this package, not measurements.

    Args:
        model: where the ranges come from.
        coordinates: D names, in the order of q.
        stiffness: of the limits, N·m/rad; one number, or by name (others keep the default).
        limit_damping: of the limits, N·m·s/rad.
        transition: rad beyond a limit until stiffness and damping are complete.
        damping: over the whole range, N·m·s/rad.
        exponential: 'anderson1999': ligaments of hip, knee, ankle and subtalar joint, to be used beside muscles;
            'riener_edrich1999': all passive tissue, muscles included, with the coupling of hip, knee and ankle in the
            sagittal plane: for torque-driven models, as muscle models bring their own passive force. Coordinates are
            recognised by OpenSim's names (``knee_angle_r``); a knee whose range is mostly negative counts extension.
            A coupled coordinate that is not among ``coordinates`` stays at its default.

    Raises:
        InputError: an unknown coordinate or name of constants, a range that is no range, a setting that is not
            positive (damping may be zero), or ``exponential`` without a coordinate that has constants.
    """
    found = [model.coordinate(name) for name in coordinates]
    for c in found:
        if not (math.isfinite(c.range[0]) and math.isfinite(c.range[1]) and c.range[0] < c.range[1]):
            raise InputError(
                f"{model.path}: the range of coordinate {c.name!r} is {c.range[0]:g} to {c.range[1]:g}; a limit needs "
                "a finite range that is not empty"
            )

    def setting(what: str, value: Setting, default: float, positive: bool = True) -> np.ndarray:
        unknown = [name for name in value if name not in coordinates] if isinstance(value, Mapping) else []
        if unknown:
            raise InputError(f"{what} of {unknown[0]!r}: there is no such coordinate; {near(unknown[0], coordinates)}")
        numbers = [float(value.get(c, default)) if isinstance(value, Mapping) else float(value) for c in coordinates]
        for name, number in zip(coordinates, numbers, strict=True):
            if not math.isfinite(number) or number < 0 or (positive and number == 0):
                allowed = "above 0" if positive else "0 or above"
                raise InputError(f"{what} of {name!r} is {number:g}; it must be finite and {allowed}")
        return np.array(numbers)

    spring = setting("stiffness", stiffness, 300.0)
    return PassiveMoments(
        limits=JointLimits(
            lower=np.array([c.range[0] for c in found]),
            upper=np.array([c.range[1] for c in found]),
            lower_stiffness=spring,
            upper_stiffness=spring,
            damping=setting("limit_damping", limit_damping, 1.0, positive=False),
            transition=setting("transition", transition, TRANSITION),
        ),
        damping=setting("damping", damping, 0.1, positive=False),
        exponential=None if exponential is None else _exponentials(model, found, exponential),
        coordinates=tuple(coordinates),
    )


def _exponentials(model: Multibody, coordinates: Sequence[Coordinate], constants: str) -> ExponentialMoments:
    if constants not in EXPONENTIALS:
        raise InputError(f"passive moments {constants!r}: there are {listed(EXPONENTIALS)}")
    known = _ANDERSON if constants == "anderson1999" else _RIENER
    names = [c.name for c in coordinates]
    # Each term: row, sign, offset, slope by coordinate; all in the convention of the tables.
    terms: list[tuple[int, float, float, dict[str, float]]] = []
    constant = np.zeros(len(names))
    for row, c in enumerate(coordinates):
        role, side = _role(c.name)
        if role not in known:
            continue
        if constants == "anderson1999":
            for moment, slope, angle in _ANDERSON[role]:
                offset = math.log(abs(moment)) - slope * angle
                terms.append((row, math.copysign(1.0, moment), offset, {c.name: slope}))
        else:
            constant[row], table = _RIENER[role]
            for sign, offset, slopes in table:
                terms.append((row, sign, offset, {f"{r}{side}": math.degrees(s) for r, s in slopes.items()}))
    if not terms:
        raise InputError(
            f"{model.path}: passive moments {constants!r} know {listed(known)} (with _r or _l), none of {listed(names)}"
        )
    sign, slope = np.zeros((len(names), len(terms))), np.zeros((len(terms), len(names)))
    offset = np.zeros(len(terms))
    for k, (row, way, start, slopes) in enumerate(terms):
        sign[row, k], offset[k] = way, start
        for name, value in slopes.items():
            if name in names:
                slope[k, names.index(name)] = value
            else:
                other = model.coordinate(name)
                offset[k] += value * _flip(other) * other.default
    flip = np.array([_flip(c) for c in coordinates])
    return ExponentialMoments(sign * flip[:, None], slope * flip, offset, constant * flip)


def _role(name: str) -> tuple[str, str]:
    """``knee_angle_r`` is ('knee_angle', '_r')."""
    return (name[:-2], name[-2:]) if name.endswith(("_r", "_l")) else (name, "")


def _flip(coordinate: Coordinate) -> float:
    """-1 for a knee that counts extension, as in gait2392: its range is mostly negative."""
    extension = _role(coordinate.name)[0] == "knee_angle" and sum(coordinate.range) < 0
    return -1.0 if extension else 1.0
