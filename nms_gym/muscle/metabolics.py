"""Metabolic rate of muscles: heat and work in their parts, W.

Two published models behind one function, ``metabolic_rate``: ``Bhargava2004`` (the default: it tells activation from
maintenance heat) and ``Umberger2010``. Both are the variants that OpenSim's probes have by default
(``Bhargava2004MuscleMetabolicsProbe.cpp``, ``Umberger2010MuscleMetabolicsProbe.cpp``), and both switch between cases.
Here every switch is rounded: ``max(x, 0)`` is ``log(1 + exp(k x)) / k``, at most ``0.69 / k`` too large and that only
at the switch; ``k`` is a constant of the model. Without the rounding (``k`` to infinity) the rates are OpenSim's.

A muscle's rate is the sum of its parts,

    activation + maintenance + shortening_lengthening + mechanical_work + floor,

where ``floor`` is the heat that both models add so that the rate is never negative (a lengthening muscle would
otherwise store the work done on it) and the heat is at least 1 W/kg (Umberger et al. 2003, 10.1080/1025584031000091678,
page 104). The rate of a whole body adds its ``basal_rate``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import Leaf, pytree
from nms_gym.errors import InputError, near
from nms_gym.muscle import derived
from nms_gym.muscle.curves import Curves
from nms_gym.muscle.derived import FiberResult
from nms_gym.muscle.hill import MuscleParams


@pytree
class MetabolicParams:
    """What the metabolic models know of a muscle besides its ``MuscleParams``; every leaf ``(M,)``."""

    fast_twitch_fraction: Leaf
    """share of fast-twitch fibers, 0 to 1"""
    specific_tension: Leaf
    """maximum isometric force over physiological cross section, N/m^2"""
    density: Leaf
    """kg/m^3"""


# OpenSim's defaults for mammalian muscle; limits that a value must keep. Specific tension decides the mass of a muscle
# of given strength, so it belongs to the model whose strengths they are (``NmsModel.specific_tension``).
DEFAULTS: dict[str, float] = {"fast_twitch_fraction": 0.5, "specific_tension": 0.25e6, "density": 1059.7}
UNITS: dict[str, str] = {"fast_twitch_fraction": "1", "specific_tension": "N/m^2", "density": "kg/m^3"}
LIMITS: dict[str, tuple[float, float]] = {
    "fast_twitch_fraction": (0.0, 1.0),
    "specific_tension": (1e4, 1e7),
    "density": (500.0, 2000.0),
}

MINIMUM_HEAT = 1.0
"""W/kg, of a muscle at rest (Umberger et al. 2003, page 104)"""


@pytree
class MetabolicRate:
    """Metabolic rate of each muscle by part; every leaf ``(..., M)`` W."""

    activation: Array
    """activation heat; with ``Umberger2010``, which does not tell them apart, maintenance heat too"""
    maintenance: Array
    """maintenance heat; 0 with ``Umberger2010``"""
    shortening_lengthening: Array
    """heat of shortening and lengthening"""
    mechanical_work: Array
    """power of the active fiber force, negative while the fiber lengthens"""
    floor: Array
    """heat added so that the rate is not negative and the heat at least 1 W/kg"""

    @property
    def heat(self) -> Array:
        """Heat rate, W."""
        return self.activation + self.maintenance + self.shortening_lengthening + self.floor

    @property
    def total(self) -> Array:
        """Metabolic rate of each muscle, W; sum over the last axis for all of them."""
        return self.heat + self.mechanical_work


@pytree
class Contraction:
    """What the heat of a muscle depends on; every leaf ``(..., M)``."""

    mass: Array
    """kg"""
    fast: Array
    """share of fast-twitch fibers"""
    excitation: Array
    activation: Array
    length: Array
    """over optimal fiber length"""
    velocity: Array
    """over maximum contraction velocity"""
    max_speed: Array
    """maximum contraction velocity, m/s"""
    isometric: Array
    """active force multiplier at this length"""
    isometric_force: Array
    """active force at this activation and length and zero velocity, N"""
    force: Array
    """of the fiber, N"""


class HeatModel(Protocol):
    """A metabolic model: heat before the floor, and how sharply the floor is kept."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def heat_sharpness(self) -> float:
        """Sharpness of the floor, per W/kg."""
        ...

    def heat(self, c: Contraction) -> tuple[Array, Array, Array]:
        """Heat of activation, of maintenance, and of shortening and lengthening, W."""
        ...


def _positive(x: Array, sharpness: float) -> Array:
    """Smooth ``max(x, 0)``: at most ``0.69 / sharpness`` too large."""
    return jnp.logaddexp(0.0, sharpness * x) / sharpness


@dataclass(frozen=True)
class Bhargava2004:
    """Bhargava et al. 2004 (10.1016/S0021-9290(03)00239-2), as OpenSim's Bhargava2004MuscleMetabolicsProbe has it.

    OpenSim departs from the paper: activation heat does not decay with time since onset (after Anderson & Pandy 1999),
    and the heat of shortening is ``0.25 F`` per metre and that of lengthening zero (Anderson 1999);
    ``force_dependent_shortening`` brings back the paper's ``0.16 F_iso + 0.18 F`` and ``0.157 F``. ``F`` is the whole
    fiber force, damping included.

    Rounded: the switch of shortening heat at zero velocity (speed wrong by at most 0.0007 of the maximum, at zero) and
    the three corners of the maintenance heat's dependence on length (at most 0.005, at optimal length). On a grid
    through all switches the rate changes by at most 0.65 W/kg, of up to 540 (``tests/test_metabolics.py``).
    """

    name: str = "Bhargava2004"
    # Heat at full excitation of slow and fast fibers, W/kg.
    activation_slow: float = 40.0
    activation_fast: float = 133.0
    maintenance_slow: float = 74.0
    maintenance_fast: float = 111.0
    # Shortening heat per fiber force and speed.
    shortening: float = 0.25
    force_dependent_shortening: bool = False
    # Sharpness of the rounding: per normalised velocity, per normalised length, per W/kg.
    velocity_sharpness: float = 1000.0
    length_sharpness: float = 400.0
    heat_sharpness: float = 10.0

    def maintenance_length_dependence(self, length: Array) -> Array:
        """0.5 up to length 0.5, rising to 1 at 1, falling to 0 at 1.5 and beyond: OpenSim's piecewise line."""

        def corner(at: float) -> Array:
            return _positive(length - at, self.length_sharpness)

        return 0.5 + corner(0.5) - 3.0 * corner(1.0) + 2.0 * corner(1.5)

    def heat(self, c: Contraction) -> tuple[Array, Array, Array]:
        """Heats from ``sin(pi u / 2)`` of the slow and ``1 - cos(pi u / 2)`` of the fast fibers recruited, W."""
        slow = (1.0 - c.fast) * jnp.sin(0.5 * math.pi * c.excitation)
        fast = c.fast * (1.0 - jnp.cos(0.5 * math.pi * c.excitation))
        activation = c.mass * (self.activation_slow * slow + self.activation_fast * fast)
        maintenance = c.mass * (self.maintenance_slow * slow + self.maintenance_fast * fast)
        shortening = c.max_speed * _positive(-c.velocity, self.velocity_sharpness)
        lengthening = c.max_speed * _positive(c.velocity, self.velocity_sharpness)
        if self.force_dependent_shortening:
            moving = (0.16 * c.isometric_force + 0.18 * c.force) * shortening - 0.157 * c.force * lengthening
        else:
            moving = self.shortening * c.force * shortening
        return activation, maintenance * self.maintenance_length_dependence(c.length), moving


@dataclass(frozen=True)
class Umberger2010:
    """Umberger 2010 (10.1098/rsif.2010.0084) after Umberger et al. 2003, as Umberger2010MuscleMetabolicsProbe has it.

    OpenSim's defaults depart from the paper of 2010: slow and fast fibers are recruited as in Bhargava et al. 2004,
    and negative work counts, with 4.0 (not 0.3) as the factor of lengthening heat, as in the paper of 2003.
    Beyond maximum shortening velocity, where a family's active force may be negative, OpenSim takes it for zero; here
    it stays as it is.

    Rounded: the switches at zero velocity and where the heat of slow fibers saturates (at most 0.0007 of the maximum
    velocity), at excitation equal to activation (at most 0.0004) and at optimal length; and excitation's power 0.6,
    whose slope is infinite at 0. On a grid through all switches the rate changes by at most 1.3 W/kg, of up to 1,330
    (``tests/test_metabolics.py``).
    """

    name: str = "Umberger2010"
    aerobic_factor: float = 1.5
    # Activation and maintenance heat, W/kg.
    heat_slow: float = 25.0
    heat_fast_more: float = 128.0
    # Shortening heat at maximum velocity of slow fibers (100 W/kg at their own, 2.5 times lower) and fast, W/kg.
    shortening_slow: float = 250.0
    shortening_slow_limit: float = 100.0
    shortening_fast: float = 153.0
    lengthening_factor: float = 4.0
    # Sharpness of the rounding: per normalised velocity, per normalised length, per excitation, per W/kg.
    velocity_sharpness: float = 1000.0
    length_sharpness: float = 400.0
    excitation_sharpness: float = 1000.0
    heat_sharpness: float = 10.0
    smallest_excitation: float = 1e-4

    def recruited_slow_fraction(self, excitation: Array, fast: Array) -> Array:
        """Share of slow fibers among the recruited: ``r sin / (r sin + (1 - r) (1 - cos))`` of ``pi u / 2``.

        Written with half angles, where the common factor that vanishes with ``u`` cancels. The small constant is for
        a muscle of fast fibers alone that is not excited, where the share is undefined.
        """
        half = 0.25 * math.pi * excitation
        slow = (1.0 - fast) * jnp.cos(half)
        return slow / (slow + fast * jnp.sin(half) + self.smallest_excitation)

    def heat(self, c: Contraction) -> tuple[Array, Array, Array]:
        """Heats from the effort ``A``: excitation, or its mean with activation where that is higher; W."""
        k = self.velocity_sharpness
        slow = self.recruited_slow_fraction(c.excitation, c.fast)
        difference = c.excitation - c.activation
        effort = c.activation + 0.5 * (difference + _positive(difference, self.excitation_sharpness))
        # Above optimal length, heat follows the isometric force; both factors are 1 at optimal length.
        long = 0.5 * (1.0 + jnp.tanh(0.5 * self.length_sharpness * (c.length - 1.0)))
        lost = long * (1.0 - c.isometric)
        root = 0.5 * (effort + jnp.sqrt(effort**2 + 4.0 * self.smallest_excitation**2))
        scale = self.aerobic_factor * c.mass
        steady = scale * root**0.6 * (self.heat_slow + self.heat_fast_more * (1.0 - slow)) * (1.0 - 0.6 * lost)
        shortening, lengthening = _positive(-c.velocity, k), _positive(c.velocity, k)
        saturates = self.shortening_slow_limit / self.shortening_slow
        of_slow = self.shortening_slow * (shortening - _positive(shortening - saturates, k))
        of_fast = self.shortening_fast * shortening
        concentric = effort**2 * (slow * of_slow + (1.0 - slow) * of_fast)
        eccentric = effort * self.lengthening_factor * self.shortening_slow * lengthening
        return steady, jnp.zeros_like(steady), scale * (concentric + eccentric) * (1.0 - lost)


METABOLIC_MODELS: dict[str, type[HeatModel]] = {"Bhargava2004": Bhargava2004, "Umberger2010": Umberger2010}


def make_metabolic_params(muscles: Sequence[str], values: Mapping[str, Any] | None = None) -> MetabolicParams:
    """Metabolic parameters of ``muscles``; scalars are spread over all, names not given take the default.

    Args:
        muscles: names of the M muscles.
        values: kind -> scalar, or mapping muscle -> value.

    Raises:
        InputError: unknown kind or muscle, or a value that no muscle can have.
    """
    leaves: dict[str, np.ndarray] = {}
    for kind in values or {}:
        if kind not in DEFAULTS:
            raise InputError(f"no metabolic parameter {kind!r}; {near(kind, DEFAULTS)}")
    for kind, default in DEFAULTS.items():
        given = (values or {}).get(kind, default)
        by_name = given if isinstance(given, Mapping) else dict.fromkeys(muscles, given)
        for name in by_name:
            if name not in muscles:
                raise InputError(f"{kind}: no muscle {name!r}; {near(name, muscles)}")
        leaves[kind] = np.array([by_name.get(name, default) for name in muscles], dtype=float)
        low, high = LIMITS[kind]
        for name, value in zip(muscles, leaves[kind], strict=True):
            if not low <= value <= high:
                raise InputError(
                    f"{kind} of {name!r} is {value:g} {UNITS[kind]}; allowed {low:g} to {high:g}: check its unit (SI)"
                )
    return MetabolicParams(**leaves)


def muscle_mass(params: MuscleParams, metabolic: MetabolicParams) -> Array:
    """Mass of each muscle, ``(M,)`` kg: ``F0 / specific_tension * density * optimal_fiber_length`` (OpenSim)."""
    area = params.max_isometric_force / metabolic.specific_tension
    return jnp.asarray(area * metabolic.density * params.optimal_fiber_length)


def basal_rate(body_mass: Array | float, coefficient: float = 1.2, exponent: float = 1.0) -> Array | float:
    """Metabolic rate of a body of ``body_mass`` kg at rest, W: 1.2 W/kg standing (Umberger et al. 2003, page 105)."""
    return coefficient * body_mass**exponent


def metabolic_rate(
    model: HeatModel,
    curves: Curves,
    params: MuscleParams,
    metabolic: MetabolicParams,
    excitation: Array,
    activation: Array,
    out: FiberResult,
    tendon: str | Sequence[str] = "elastic",
) -> MetabolicRate:
    """Metabolic rate of every muscle, in parts.

    The optimal length of active force follows activation as in ``hill.fiber_force``; the length that heat depends on
    is the fiber's over ``optimal_fiber_length``.

    Args:
        model: ``Bhargava2004()`` or ``Umberger2010()``.
        curves: the muscle family.
        params: ``(M,)`` leaves.
        metabolic: ``(M,)`` leaves.
        excitation: ``(..., M)``, 0 to 1.
        activation: ``(..., M)``, 0 to 1.
        out: of a step or prediction, ``(..., M)``.
        tendon: "rigid" or "elastic", or one of them per muscle; see ``hill.rigid_fiber_force``.
    """
    x, v = jnp.asarray(out.fiber_length), jnp.asarray(out.fiber_velocity)
    p = derived.spread(params, x)
    forces = derived.fiber_forces(curves, params, activation, x, v, tendon)
    isometric = curves.active_force_length(x / (1.0 + p.optimal_fiber_length_change * (1.0 - activation)))
    mass, fast = (
        jnp.broadcast_to(jnp.asarray(leaf, x.dtype), x.shape)
        for leaf in (muscle_mass(params, metabolic), metabolic.fast_twitch_fraction)
    )
    max_speed = p.max_contraction_velocity * p.optimal_fiber_length
    contraction = Contraction(
        mass=mass,
        fast=fast,
        excitation=excitation,
        activation=activation,
        length=x,
        velocity=v,
        max_speed=max_speed,
        isometric=isometric,
        isometric_force=p.max_isometric_force * activation * isometric,
        force=forces.total,
    )
    parts = model.heat(contraction)
    work = -forces.active * v * max_speed
    heat = sum(parts) / mass
    # First no negative rate, then no heat below that of a resting muscle: OpenSim's order.
    raised = _positive(-(heat + work / mass), model.heat_sharpness)
    floor = raised + _positive(MINIMUM_HEAT - heat - raised, model.heat_sharpness)
    return MetabolicRate(*parts, mechanical_work=work, floor=mass * floor)
