"""How an action moves a limb: through its own muscles, by a motor at its joints, or by stimulating its muscles.

Each is a part of a task, a pytree with the same members (``Actuation``), so that a task does not ask which it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import Leaf, pytree, static
from nms_gym.envs.device import Actuator, MotorOptions, StimulationOptions, Stimulator, make_actuator, make_stimulator
from nms_gym.envs.limb import Limb, LimbOutput
from nms_gym.envs.options import flag, number
from nms_gym.envs.rendering.scene import Strip, stimulation_strip, torque_strip
from nms_gym.envs.scripted import excitations_for
from nms_gym.envs.sources import ActionOptions
from nms_gym.errors import InputError


@dataclass(frozen=True, kw_only=True)
class MuscleOptions(ActionOptions):
    """Actions that excite muscles."""

    effort_weight: float = number(0.1, "of the mean squared excitation in the reward", 0.0, 1000.0)
    symmetric_action: bool = flag(False, "actions from -1 (no excitation) to 1 (full) instead of from 0 to 1")


@pytree
class Effect:
    """What an action does during a control step."""

    command: Array
    """(A,) of full excitation, of the largest torque, or of the largest pulse width"""
    channels: Array
    """what is put on synergy commands and on the muscles of the policy"""
    torque: Array | None
    """(D,) N·m, of a device"""
    cost: Array
    """the reward's negative part"""
    share: Array
    """mean part of the most that it could do"""
    info: dict[str, Array]


class Actuation(Protocol):
    """The members of an actuation."""

    source: ClassVar[str]
    """what is said to drive the muscles that the action excites"""

    @property
    def action_names(self) -> tuple[str, ...]:
        """One per entry of the action."""
        ...

    @property
    def action_units(self) -> str:
        """What an action is, in words."""
        ...

    @property
    def lowest_action(self) -> Array:
        """The highest is 1."""
        ...

    @property
    def observation_names(self) -> tuple[str, ...]:
        """Of what ``observed`` gives, ``group:name``."""
        ...

    def start(self) -> tuple[Any, Effect]:
        """State before an episode, and the effect of no action."""
        ...

    def act(self, state: Any, action: Array, speed: Array, dt: float) -> tuple[Any, Effect]:
        """State after a control step of ``dt`` s, and what the action does during it at joint speeds (D,) rad/s."""
        ...

    def observed(self, effect: Effect, out: LimbOutput) -> dict[str, Array]:
        """Values by group of the observation."""
        ...

    def action_for(self, moment: Array) -> Array:
        """The action that comes nearest to a moment (D,) N·m, for scripted policies."""
        ...

    def strips(self) -> list[Strip]:
        """Curves for pictures."""
        ...

    def body(self) -> dict[str, Any]:
        """Fields of ``rendering.scene.Body``."""
        ...


# --- own muscles ------------------------------------------------------------


@pytree
class Muscles:
    """The action excites muscles, and gives synergy commands; the reward pays for the mean squared excitation."""

    source: ClassVar[str] = "action"
    strength: Leaf
    """(D, A) N·m at full force of the muscles that the action excites"""
    effort_weight: Leaf
    lowest_action: Array
    """the action that excites nothing: 0 or -1"""
    muscles: tuple[str, ...] = static()
    """A that the action excites"""
    commands: tuple[str, ...] = static()
    """synergy commands that it gives"""
    observed_muscles: tuple[str, ...] = static()
    action_units: str = static(default="excitation")
    """one of ``sources.ACTION_UNITS``"""

    @property
    def action_names(self) -> tuple[str, ...]:
        """Muscles, then synergy commands."""
        return self.muscles + self.commands

    @property
    def observation_names(self) -> tuple[str, ...]:
        """Activation and normalised fiber length."""
        return tuple(f"{group}:{m}" for group in ("activation", "fiber_length") for m in self.observed_muscles)

    def start(self) -> tuple[tuple[()], Effect]:
        """Silence."""
        zero = jnp.zeros_like(self.effort_weight)
        silence = jnp.zeros(len(self.action_names), zero.dtype)
        return (), Effect(silence, silence, None, zero, zero, {})

    def act(self, state: tuple[()], action: Array, speed: Array, dt: float) -> tuple[tuple[()], Effect]:
        """Excitations, held during the step."""
        command = excitation_of(action, self.lowest_action)
        muscles, commands = jnp.split(command, [len(self.muscles)])
        cost = -self.effort_weight * jnp.mean(command**2) if self.action_names else jnp.zeros_like(self.effort_weight)
        return (), Effect(command, jnp.concatenate([commands, muscles]), None, cost, jnp.mean(command), {})

    def observed(self, effect: Effect, out: LimbOutput) -> dict[str, Array]:
        """What one feels of one's own muscles."""
        return {"activation": out.activation, "fiber_length": out.fiber_length}

    def action_for(self, moment: Array) -> Array:
        """By the muscles that pull that way; no synergy commands."""
        asked = excitations_for(self.strength, moment)
        asked = jnp.concatenate([asked, jnp.zeros(len(self.commands), asked.dtype)])
        return action_of(asked, self.lowest_action)

    def strips(self) -> list[Strip]:
        """None: excitations have their own panel."""
        return []

    def body(self) -> dict[str, Any]:
        """Nothing besides the limb."""
        return {}


def excitation_of(action: Array, lowest: Array) -> Array:
    """From 0 at the lowest action to 1 at an action of 1."""
    return (action - lowest) / (1.0 - lowest)


def action_of(excitation: Array, lowest: Array) -> Array:
    """The inverse of ``excitation_of``."""
    return lowest + (1.0 - lowest) * excitation


def make_muscles(
    strength: np.ndarray,
    options: MuscleOptions,
    *,
    muscles: Sequence[str],
    commands: Sequence[str],
    observed: Sequence[str],
) -> Muscles:
    """Actions on ``muscles`` of strengths ``(D, A)`` N·m and on synergy ``commands``."""
    leaves: Any = (strength, np.asarray(options.effort_weight), _lowest(options.symmetric_action))
    return Muscles(
        *leaves,
        muscles=tuple(muscles),
        commands=tuple(commands),
        observed_muscles=tuple(observed),
        action_units=options.action_units,
    )


def muscles_of(limb: Limb, options: MuscleOptions, q: np.ndarray | None = None) -> Muscles:
    """Actions on a limb; at angles ``q`` (D,) rad, by default the middle of the joints' ranges, the scripted policy
    knows its strength.

    Raises:
        InputError: the policy drives no muscle.
    """
    if not (limb.actuated or limb.commanded):
        raise InputError("no muscle is driven by the policy; give at least one the source 'policy'")
    strength = limb.strength(q)[:, [limb.muscles.index(m) for m in limb.actuated]]
    return make_muscles(strength, options, muscles=limb.actuated, commands=limb.commanded, observed=limb.muscles)


def _lowest(symmetric: bool) -> Any:
    return np.asarray(-1.0 if symmetric else 0.0)


# --- a motor ----------------------------------------------------------------


@pytree
class Motor:
    """The action is the torque of an actuator at every joint, of its largest; the reward pays for its mean square."""

    source: ClassVar[str] = "action"
    actuator: Actuator
    help_weight: Leaf
    lowest_action: Array
    """-1"""
    joints: tuple[str, ...] = static()

    @property
    def action_units(self) -> str:
        """Of the device."""
        return "torque, part of the device's largest"

    @property
    def action_names(self) -> tuple[str, ...]:
        """One per joint."""
        return tuple(f"torque:{c}" for c in self.joints)

    @property
    def observation_names(self) -> tuple[str, ...]:
        """Torque over the largest: outside, nobody measures muscles."""
        return self.action_names

    def start(self) -> tuple[Any, Effect]:
        """No torque."""
        still = jnp.zeros_like(self.actuator.max_torque)
        zero = jnp.zeros_like(self.help_weight)
        info = {"device_torque": still, "device_power": zero}
        return self.actuator.start(), Effect(still, still[:0], still, zero, zero, info)

    def act(self, state: Any, action: Array, speed: Array, dt: float) -> tuple[Any, Effect]:
        """The motor holds its command during a control step and is integrated in one piece."""
        state, torque = self.actuator.step(state, action, speed, dt)
        load = torque / self.actuator.max_torque
        cost, share = -self.help_weight * jnp.mean(load**2), jnp.mean(jnp.abs(load))
        info = {"device_torque": torque, "device_power": jnp.sum(torque * speed)}
        return state, Effect(action, action[:0], torque, cost, share, info)

    def observed(self, effect: Effect, out: LimbOutput) -> dict[str, Array]:
        """What the device knows of itself."""
        return {"torque": effect.info["device_torque"] / self.actuator.max_torque}

    def action_for(self, moment: Array) -> Array:
        """That moment, as far as the motor can."""
        return jnp.clip(moment / self.actuator.max_torque, -1.0, 1.0)

    def strips(self) -> list[Strip]:
        """Moment at every joint."""
        most = 1.5 * self._largest
        return [torque_strip(f"{c} moment", i, (-most, most)) for i, c in enumerate(self.joints)]

    def body(self) -> dict[str, Any]:
        """The longest arrow."""
        return {"largest_torque": self._largest}

    @property
    def _largest(self) -> float:
        return float(np.max(self.actuator.max_torque))


def motor_of(limb: Limb, options: MotorOptions) -> Motor:
    """A motor at every joint of a limb.

    Raises:
        InputError: the policy drives muscles.
    """
    if limb.actuated or limb.commanded:
        raise InputError(
            "the action is the device's torque, so that sources cannot give muscles to the policy; use 'recorded', "
            "'synergy' or 'passive'"
        )
    leaves: Any = (np.asarray(options.help_weight), np.asarray(-1.0))
    return Motor(make_actuator(len(limb.coordinates), options, limb.control_dt), *leaves, joints=limb.coordinates)


# --- electrical stimulation -------------------------------------------------


@pytree
class Stimulation:
    """The action is the pulse width of every electrode, of the largest; the reward pays for the charge, over the
    largest possible."""

    source: ClassVar[str] = "stimulation"
    stimulator: Stimulator
    strength: Leaf
    """(D, E) N·m of all that an electrode excites at full force"""
    charge_weight: Leaf
    lowest_action: Array
    """no pulses: 0 or -1"""
    electrodes: tuple[str, ...] = static()
    muscles: tuple[str, ...] = static()
    """all of the limb"""
    excited: tuple[str, ...] = static()
    """those of an electrode, in the order of the limb's channels"""

    @property
    def action_units(self) -> str:
        """Of the stimulator."""
        return "stimulation, part of the largest"

    @property
    def action_names(self) -> tuple[str, ...]:
        """One per electrode."""
        return tuple(f"stimulation:{e}" for e in self.electrodes)

    @property
    def observation_names(self) -> tuple[str, ...]:
        """The last stimulation: outside, nobody measures muscles."""
        return self.action_names

    def start(self) -> tuple[tuple[()], Effect]:
        """No pulses."""
        zero = jnp.zeros_like(self.charge_weight)
        command, silence = (jnp.zeros(len(names), zero.dtype) for names in (self.electrodes, self.excited))
        return (), Effect(command, silence, None, zero, zero, {"stimulation": command, "charge": zero})

    def act(self, state: tuple[()], action: Array, speed: Array, dt: float) -> tuple[tuple[()], Effect]:
        """Pulses of that width during the step."""
        s, command = self.stimulator, excitation_of(action, self.lowest_action)
        share = s.charge(command, 1.0) / s.charge(jnp.ones_like(command), 1.0)
        order = np.array([self.muscles.index(m) for m in self.excited], np.int32)
        info = {"stimulation": command, "charge": s.charge(command, dt)}
        return (), Effect(command, s.recruited(command)[order], None, -self.charge_weight * share, share, info)

    def observed(self, effect: Effect, out: LimbOutput) -> dict[str, Array]:
        """What the stimulator does."""
        return {"stimulation": effect.command}

    def action_for(self, moment: Array) -> Array:
        """Pulse widths on the straight rise of the recruitment curve."""
        s = self.stimulator
        asked = excitations_for(self.strength, moment)
        width = jnp.where(asked > 0.02, s.threshold + asked * (s.saturation - s.threshold), 0.0)
        return action_of(jnp.clip(width / s.max_width, 0.0, 1.0), self.lowest_action)

    def strips(self) -> list[Strip]:
        """Pulse widths."""
        return [stimulation_strip(self.electrodes)]

    def body(self) -> dict[str, Any]:
        """Which muscles each electrode reaches."""
        fields = np.asarray(self.stimulator.weights).T > 0
        return {"electrodes": tuple(tuple(m for m, on in zip(self.muscles, row, strict=True) if on) for row in fields)}


def stimulation_of(limb: Limb, options: StimulationOptions) -> Stimulation:
    """Electrodes on a limb whose policy drives the muscles under them.

    Raises:
        InputError: an electrode names a muscle that the limb has not.
    """
    stimulator = make_stimulator(limb.muscles, options)
    strength = limb.strength() @ np.asarray(stimulator.weights)
    leaves: Any = (strength, np.asarray(options.charge_weight), _lowest(options.symmetric_action))
    return Stimulation(
        stimulator, *leaves, electrodes=tuple(options.electrodes), muscles=limb.muscles, excited=limb.actuated
    )


def driven_by(actuation: Actuation, sources: Mapping[str, str]) -> dict[str, str]:
    """Muscle -> what drives it, by the name of what the action is."""
    return {m: actuation.source if source == "action" else source for m, source in sources.items()}
