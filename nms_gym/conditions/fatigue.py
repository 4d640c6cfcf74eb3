"""Fatigue: the three-compartment controller of Xia & Frey Law 2008 with the rest recovery of Looft et al. 2018.

Motor units of a muscle are resting, active or fatigued, ``MR + MA + MF = 1`` (10.1016/j.jbiomech.2008.07.013;
equations reprinted in the appendix of Frey-Law et al. 2012, 10.1016/j.jbiomech.2012.04.018)::

    dMA/dt = C - F MA,      dMF/dt = F MA - R r MF,      dMR/dt = R r MF - C

The controller ``C`` moves units between resting and active so that the active ones meet a target load ``TL``: ``L (TL -
MA)``, or ``L MR`` when fewer than are needed rest. Its three cases are ``L min(TL - MA, MR)``; the minimum is smooth
here. Recovery is ``r`` times faster while the target load is zero (Looft et al. 2018, 10.1016/j.jbiomech.2018.06.005).
The target load is the intended excitation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from nms_gym._pytree import pytree
from nms_gym.conditions.common import cast, checked, severity_of
from nms_gym.conditions.drive import CEILING_SHARPNESS, below_ceiling
from nms_gym.errors import InputError, near
from nms_gym.model.condition import Condition
from nms_gym.model.structure import NmsModel

FATIGUE_CONSTANTS: dict[str, tuple[float, float, float]] = {
    "ankle": (0.00589, 0.00058, 15.0),
    "knee": (0.01500, 0.00149, 15.0),
    "trunk": (0.00755, 0.00075, 15.0),
    "shoulder": (0.01820, 0.00168, 15.0),
    "elbow": (0.00912, 0.00094, 15.0),
    "grip": (0.00980, 0.00064, 30.0),
}
"""Joint -> fatigue rate F (1/s), recovery rate R (1/s) and rest multiplier r. F and R: Frey-Law et al. 2012, Table 1.
r: Looft et al. 2018, who fitted ankle, knee, elbow and grip; 15 for trunk and shoulder is their general value."""

# 1/s; the "arbitrary tracking factor" of both papers.
TRACKING = 10.0
# Target load at which the faster recovery of rest has fallen to a third. The paper's switch is at 0 exactly.
REST_LOAD = 0.02


@pytree
class FatigueState:
    """Fractions of a muscle's motor units; leaves ``(M,)``."""

    active: Array
    fatigued: Array

    @property
    def resting(self) -> Array:
        """The rest of them."""
        return 1.0 - self.active - self.fatigued


@pytree
class Fatigue(Condition):
    """Excitation bounded by the motor units that are not fatigued."""

    severity: Array
    """``(M,)``; share of the fatigue rate"""
    fatigue_rate: Any
    """F, 1/s"""
    recovery_rate: Any
    """R, 1/s"""
    rest_multiplier: Any
    """r"""
    initial: Any
    """fatigued fraction at the start, at severity 1"""

    def init(self, fiber_length: Array, dt: float) -> FatigueState:
        """No motor unit active.

        Raises:
            InputError: a step too long for the controller.
        """
        if not 0 < dt <= 1 / TRACKING:
            raise InputError(f"fatigue cannot be integrated with steps of {dt:g} s; use at most {1 / TRACKING:g} s")
        fiber_length = jnp.asarray(fiber_length)
        c = cast(self, fiber_length.dtype)
        zero = jnp.zeros_like(fiber_length)
        return FatigueState(active=zero, fatigued=zero + c.severity * c.initial)

    def step(
        self, state: FatigueState, excitation: Array, fiber_length: Array, fiber_velocity: Array, dt: Array | float
    ) -> tuple[FatigueState, Array]:
        """What the motor units that can still be active make of the excitation.

        Departure: the muscle gets ``min(TL, 1 - MF)``, which ``MA`` tends to, and not ``MA`` itself. The controller's
        lag of 0.1 s stands for the development of force, which activation dynamics and muscle already have.
        """
        c, dt = cast((self, dt), excitation.dtype)
        a1, f1 = c.rates(state.active, state.fatigued, excitation)
        a2, f2 = c.rates(state.active + dt * a1, state.fatigued + dt * f1, excitation)  # Heun's method
        new = FatigueState(state.active + 0.5 * dt * (a1 + a2), state.fatigued + 0.5 * dt * (f1 + f2))
        return new, below_ceiling(excitation, 1.0 - new.fatigued)

    def rates(self, active: Array, fatigued: Array, load: Array) -> tuple[Array, Array]:
        """``dMA/dt`` and ``dMF/dt``, 1/s, at a target load."""
        k = CEILING_SHARPNESS
        recruited = -TRACKING * jnp.logaddexp(-k * (load - active), -k * (1.0 - active - fatigued)) / k
        rest = jnp.exp(-((load / REST_LOAD) ** 2))
        fatigue = self.severity * self.fatigue_rate * active
        recovery = self.recovery_rate * (1.0 + (self.rest_multiplier - 1.0) * rest) * fatigued
        return recruited - fatigue, fatigue - recovery


def fatigue(
    model: NmsModel,
    *,
    joint: str,
    severity: Any = 1.0,
    muscles: Sequence[str] | None = None,
    initial: Any = 0.0,
    rate: Any = 1.0,
) -> Fatigue:
    """Muscles that tire under load and recover at rest.

    Args:
        model: whose muscles are meant.
        joint: a key of ``FATIGUE_CONSTANTS``; muscles of several joints take one condition each.
        severity: 0 to 1; the fatigue rate as a share of the published one.
        muscles: names; None for all.
        initial: fraction of motor units fatigued at the start (times severity), 0 to 0.9.
        rate: times the published fatigue rate, 0 to 50. Those are of voluntary contractions; electrical stimulation
            excites the same motor units at every pulse, and they tire several times faster.

    Raises:
        InputError: an unknown joint or muscle, or a number out of range.
    """
    if joint not in FATIGUE_CONSTANTS:
        raise InputError(f"no fatigue constants for joint {joint!r}; {near(str(joint), FATIGUE_CONSTANTS)}")
    severity = severity_of(severity, muscles, model.muscles, "muscle")
    tiring, recovery, rest = FATIGUE_CONSTANTS[joint]
    tiring = tiring * checked(rate, "rate", 0.0, 50.0)
    return Fatigue(severity, tiring, recovery, rest, checked(initial, "initial", 0.0, 0.9))
