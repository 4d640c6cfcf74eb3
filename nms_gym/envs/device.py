"""What acts on a limb from outside: an exoskeleton's torque actuator, and electrical stimulation of muscles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import Leaf, pytree, static
from nms_gym.envs.options import Options, flag, number, option
from nms_gym.envs.task import checked_number
from nms_gym.errors import InputError, near
from nms_gym.excitation.activation import delayed

# The arctangent branches of the recruitment curve meet at its ends within this part of its rise.
RECRUITMENT_SHARPNESS = 30.0


# --- exoskeleton ------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MotorOptions(Options):
    """What a motor can, and what its help costs."""

    max_torque: float = number(8.0, "of the device at an action of 1", 0.01, 1000.0, "N·m")
    max_power: float = number(60.0, "mechanical, of the device", 0.1, 1e5, "W")
    bandwidth: float = number(8.0, "of the device's torque", 0.1, 1000.0, "Hz")
    delay: float = number(0.01, "from action to torque", 0.0, 0.5, "s")
    help_weight: float = number(0.5, "of the mean squared torque, over the largest, in the reward", 0.0, 1000.0)


@pytree
class Actuator:
    """A joint motor: what is asked for arrives late, slowly, and within torque and power.

    A command is delayed, passes a first-order lag of the given bandwidth, and is bounded smoothly by
    ``max_torque`` (through the command's range) and by ``max_power`` over the joint's speed.
    """

    max_torque: Array
    """(D,) N·m at a command of 1"""
    max_power: Array
    """(D,) W, mechanical, in either direction"""
    bandwidth: Array
    """(D,) Hz, where the torque has fallen to 0.7 of a sinusoidal command"""
    delay: Array
    """(D,) s, of transport: electronics, cable, controller"""
    memory: int = static()
    """commands kept"""

    def start(self) -> ActuatorState:
        """No torque."""
        torque = jnp.zeros_like(self.max_torque)
        return ActuatorState(torque, jnp.zeros((self.memory, torque.shape[0]), torque.dtype))

    def step(
        self, state: ActuatorState, command: Array, speed: Array, dt: Array | float
    ) -> tuple[ActuatorState, Array]:
        """Torque ``(D,)`` N·m during the step, for a command ``(D,)`` in [-1, 1] and the joint's speed ``(D,)`` rad/s.

        The lag is integrated exactly for a command that is constant over the step.
        """
        commands = jnp.concatenate([command[None, :], state.commands[:-1]])
        late = delayed(commands, self.delay, dt) if self.memory > 1 else command
        keep = jnp.exp(-2.0 * math.pi * self.bandwidth * dt)
        torque = keep * state.torque + (1.0 - keep) * self.max_torque * late
        # |torque speed| stays below the power; far below it the torque is untouched.
        load = torque * speed / self.max_power
        return ActuatorState(torque, commands), torque / (1.0 + load**8) ** 0.125


@pytree
class ActuatorState:
    """What an actuator remembers."""

    torque: Array
    """(D,) N·m, before the limit of power"""
    commands: Array
    """(H, D), newest first"""


def make_actuator(joints: int, options: MotorOptions, dt: float) -> Actuator:
    """An actuator per joint, all alike; ``dt`` (s) decides how many commands are kept."""
    delay = options.delay
    memory = 1 if delay == 0 else max(math.ceil(delay / dt - 1e-9) + 3, 4)
    values = (options.max_torque, options.max_power, options.bandwidth, delay)
    fields: list[Any] = [np.full(joints, value) for value in values]
    return Actuator(*fields, memory=memory)


# --- electrical stimulation -------------------------------------------------


def _checked_electrodes(value: Any, name: str) -> None:
    mapping = isinstance(value, Mapping) and bool(value)
    if not mapping or not all(isinstance(shares, Mapping) and shares for shares in value.values()):
        raise InputError(f"{name} is {value!r}; give a mapping such as {{'biceps': {{'BIClong': 1.0}}}}")


@dataclass(frozen=True, kw_only=True)
class StimulationOptions(Options):
    """Electrodes, their pulses, and what charge costs."""

    electrodes: Mapping[str, Mapping[str, float]] = option(
        None,
        "electrode -> muscle -> share of its field, 0 to 1; muscles of no electrode are passive",
        _checked_electrodes,
    )
    current: float = number(0.04, "of the pulses", 1e-4, 0.2, "A")
    pulse_rate: float = number(30.0, "of the pulses", 1.0, 200.0, "1/s")
    threshold: float = number(100e-6, "pulse width at which the first motor units answer", 0.0, 0.01, "s")
    saturation: float = number(300e-6, "pulse width at which all do", 0.0, 0.01, "s")
    max_width: float = number(400e-6, "pulse width at an action of 1", 0.0, 0.01, "s")
    charge_weight: float = number(0.3, "of the charge, over the largest possible, in the reward", 0.0, 1000.0)
    symmetric_action: bool = flag(False, "actions from -1 (no pulses) to 1 instead of from 0 to 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        threshold, saturation, width = self.threshold, self.saturation, self.max_width
        if not 0 < threshold < saturation <= width < 0.01:
            raise InputError(
                f"pulse widths: threshold {threshold:g} s, saturation {saturation:g} s, max_width {width:g} s; they "
                "must grow in this order, from above 0 to below 0.01 s"
            )


@pytree
class Stimulator:
    """Surface stimulation with pulses of constant current and rate, modulated in width.

    The recruitment curve gives the fraction of a muscle's motor units that pulses of a width excite,

        r(d) = c1 ((d - threshold) atan(k (d - threshold)) - (d - saturation) atan(k (d - saturation))) + c2

    with c1 and c2 such that it
    runs from 0 without a pulse to 1 far above saturation (the form of Levy, Mizrahi & Susak 1990 and Riener, Quintern &
    Schmidt 1996 as later work quotes it; thresholds are set by the user). It takes the place of voluntary excitation.
    """

    weights: Leaf
    """(M, E) share of each electrode's field in each muscle"""
    threshold: Leaf
    """(E,) s; pulses that excite the first motor units"""
    saturation: Leaf
    """(E,) s; pulses that excite all"""
    max_width: Leaf
    """(E,) s, at a command of 1"""
    current: Leaf
    """(E,) A"""
    rate: Leaf
    """(E,) pulses per s"""

    def recruited(self, command: Array) -> Array:
        """Excitation ``(M,)`` by commands ``(E,)`` in [0, 1]."""
        span = self.saturation - self.threshold
        low = (command * self.max_width - self.threshold) / span
        high = low - 1.0
        k = RECRUITMENT_SHARPNESS
        at_zero = (-self.threshold / span, -self.threshold / span - 1.0)

        def curve(a: Array, b: Array) -> Array:
            return (a * jnp.arctan(k * a) - b * jnp.arctan(k * b)) / math.pi + 0.5

        # No pulse excites nothing: the tail of the arctangent at zero width is taken off.
        rest = curve(*at_zero)
        return self.weights @ ((curve(low, high) - rest) / (1.0 - rest))

    def charge(self, command: Array, dt: Array | float) -> Array:
        """Charge (C) of all electrodes during a step."""
        return jnp.sum(self.current * self.rate * self.max_width * command) * dt


def make_stimulator(muscles: Sequence[str], options: StimulationOptions) -> Stimulator:
    """Electrodes over some of the muscles, all with the same pulses.

    Raises:
        InputError: an unknown muscle, or a share outside 0 to 1.
    """
    electrodes = options.electrodes
    weights = np.zeros((len(muscles), len(electrodes)))
    for column, (name, shares) in enumerate(electrodes.items()):
        for muscle, share in shares.items():
            if muscle not in muscles:
                raise InputError(f"electrode {name!r} names the muscle {muscle!r}; {near(muscle, muscles)}")
            weights[muscles.index(muscle), column] = checked_number(share, f"share of {muscle!r}", 0.0, 1.0)
    # Two electrodes on one muscle excite no more than all of it.
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1.0)
    values = (options.threshold, options.saturation, options.max_width, options.current, options.pulse_rate)
    fields: list[Any] = [weights, *(np.full(len(electrodes), value) for value in values)]
    return Stimulator(*fields)
