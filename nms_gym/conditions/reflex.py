"""Spasticity: a stretch reflex whose threshold falls with the speed of stretch.

The threshold control of Feldman (lambda model; Levin & Feldman 1994, Brain Res 657:23-30; Jobin & Levin 2000, Dev Med
Child Neurol 42:531-540): a motoneuron pool answers to what the muscle's length ``x`` exceeds a threshold by, and the
threshold falls with the velocity of stretch, ``lambda(v) = lambda - mu v``. At rest ``lambda`` is the tonic stretch
reflex threshold: beyond the joint's range in healthy people, within it where a muscle is spastic. A fast stretch
crosses it early, and lets go when it stops: the catch. Being a loop with a delay, it can oscillate (clonus) when the
gain or ``mu`` is large.

    extra drive(t) = severity * gain * [x + mu v - lambda]+ (t - delay)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import softplus

from nms_gym._pytree import pytree, static
from nms_gym.conditions.common import cast, checked, severity_of, traced
from nms_gym.conditions.drive import add_drive
from nms_gym.errors import InputError
from nms_gym.excitation.activation import delayed
from nms_gym.model.condition import Condition
from nms_gym.model.structure import NmsModel

# Optimal fiber lengths over which the reflex sets in. It is rounded by 0.7 times this at the threshold.
THRESHOLD_WIDTH = 0.01
# s; longest reflex delay that the history holds. Long-latency responses end at about 100 ms.
MAX_REFLEX_DELAY = 0.1


@pytree
class Spasticity(Condition):
    """Stretch reflex; its state is the history ``(H, M)`` of ``x + mu v``, newest first."""

    severity: Array
    """``(M,)``"""
    gain: Any
    """extra drive per optimal fiber length beyond the threshold"""
    threshold: Any
    """lambda, optimal fiber lengths"""
    velocity_sensitivity: Any
    """mu, optimal fiber lengths per maximum contraction velocity"""
    delay: Any
    """s, from stretch to excitation"""
    max_delay: float = static(default=MAX_REFLEX_DELAY)

    def init(self, fiber_length: Array, dt: float) -> Array:
        """A history of standing still.

        Raises:
            InputError: a step longer than the delay: the reflex would have to come before its stretch is known.
        """
        if not traced(self.delay) and np.min(np.asarray(self.delay)) < dt - 1e-9:
            raise InputError(
                f"delay of spasticity is {float(np.min(np.asarray(self.delay))):g} s, shorter than the step of "
                f"{dt:g} s; use a delay of at least one step"
            )
        length = max(math.ceil(self.max_delay / dt - 1e-9) + 3, 4)
        fiber_length = jnp.asarray(fiber_length)
        return jnp.broadcast_to(fiber_length[None, :], (length, *fiber_length.shape))

    def step(
        self, state: Array, excitation: Array, fiber_length: Array, fiber_velocity: Array, dt: Array | float
    ) -> tuple[Array, Array]:
        """The excitation with the reflex."""
        c, dt = cast((self, dt), excitation.dtype)
        stretch = fiber_length + c.velocity_sensitivity * fiber_velocity
        history = jnp.concatenate([stretch[None, :], state[:-1]])
        # The newest entry is one step old already.
        felt = delayed(history, jnp.broadcast_to(c.delay - dt, stretch.shape), dt)
        beyond = THRESHOLD_WIDTH * softplus((felt - c.threshold) / THRESHOLD_WIDTH)
        return history, add_drive(excitation, c.severity * c.gain * beyond)


def spasticity(
    model: NmsModel,
    *,
    severity: Any = 1.0,
    muscles: Sequence[str] | None = None,
    gain: Any = 5.0,
    threshold: Any = 1.1,
    velocity_sensitivity: Any = 1.0,
    delay: Any = 0.030,
) -> Spasticity:
    """Velocity-dependent stretch reflex of spastic muscles.

    Severity scales the gain, since after stroke reflex stiffness explains most (74 %) of the resistance's dependence on
    velocity, and the threshold 15 % (McPherson et al. 2018, 10.1007/s00221-018-5389-x). The delay is the 30 ms of
    Falisse et al. 2018 (10.1371/journal.pone.0208811). Gain and threshold are fitted to each person in the literature
    (van der Krogt et al. 2016, 10.1186/s12984-016-0170-5; Falisse et al. 2018), and we know of no population values in
    units of fibers, so the defaults are our choice: a tonic threshold a little beyond optimal length; lowered by 0.1
    optimal lengths at a tenth of the maximum contraction velocity (``mu`` is 0.1 s at 10 optimal lengths per second);
    0.1 beyond it excites to 0.4.
    ``velocity_sensitivity=0`` leaves a purely tonic reflex. Departure from the linear reflex: it saturates, as
    ``drive.add_drive`` says, and the threshold is rounded.

    Args:
        model: whose muscles are meant.
        severity: 0 to 1.
        muscles: names; None for all.
        gain: extra drive per optimal fiber length beyond the threshold, 0 to 100.
        threshold: of the tonic stretch reflex, optimal fiber lengths, 0.2 to 2.
        velocity_sensitivity: mu, optimal fiber lengths per maximum contraction velocity, 0 to 20.
        delay: s, 0 to ``MAX_REFLEX_DELAY``, and at least one step.

    Raises:
        InputError: a number out of range, or a muscle that the model does not have.
    """
    return Spasticity(
        severity_of(severity, muscles, model.muscles, "muscle"),
        checked(gain, "gain", 0.0, 100.0),
        checked(threshold, "threshold", 0.2, 2.0),
        checked(velocity_sensitivity, "velocity_sensitivity", 0.0, 20.0),
        checked(delay, "delay of spasticity (s)", 0.0, MAX_REFLEX_DELAY),
    )
