"""Follow moving target angles: with one's own muscles, with the help of a device, or by electrical stimulation.

``Follow`` is the task behind ``KneeExtension``, ``AnkleTracking``, ``LegSwing``, ``ElbowAssist``, ``AnkleExo`` and
``FesElbow``, whose own files say what moves, what the action is and where the target comes from. They share:

* The target is a recorded motion, or a wave that the reset draws. An episode starts on the target, at its speed.
* The reward of a step is the mean closeness of the joints to their targets (1 on it, 1/2 at ``width``), minus
  ``effort_weight`` times the mean squared excitation, or minus ``help_weight`` times the mean squared torque over its
  maximum, or minus ``charge_weight`` times the stimulation's charge over the largest possible.
* ``info["success"]`` says whether the root mean square error of the episode so far is within ``tolerance``;
  ``rms_error`` (rad) and ``mean_help`` (of the device's or stimulator's most) are means of the episode so far.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import pytree, static
from nms_gym.envs.device import Actuator, Stimulator
from nms_gym.envs.limb import Limb, LimbState, limb_scene
from nms_gym.envs.recordings import Recordings
from nms_gym.envs.rendering.scene import Scene, angle_strip, stimulation_strip, torque_strip
from nms_gym.envs.scripted import excitations_for, spring
from nms_gym.envs.targets import Waves
from nms_gym.envs.task import (
    SPEED_UNIT,
    Step,
    bounds_of,
    closeness,
    draw_index,
    equal_bounds,
    indices_of,
    observe,
)
from nms_gym.model.forward import muscle_activation
from nms_gym.model.rollout import Surroundings

PREVIEW = (0.0, 0.1)
"""s ahead, at which the observation shows how far the target is"""


@pytree
class Follow:
    """The task; every id that uses it has a function that builds it."""

    limb: Limb
    recordings: Recordings | None
    """EMG to replay, motion to follow"""
    waves: Waves | None
    """targets where no motion is followed"""
    device: Actuator | None
    stimulator: Stimulator | None
    strength: Array
    """(D, M) N·m of all muscles, for the scripted policy"""
    stiffness: Array
    """(D,) N·m/rad, and"""
    damping: Array
    """(D,) N·m·s/rad of the scripted policy"""
    width: Array
    """rad, where closeness is 1/2"""
    tolerance: Array
    """rad"""
    effort_weight: Array
    help_weight: Array
    charge_weight: Array
    emg_noise: Array
    """relative standard deviation of recorded channels, drawn anew at every sample"""
    lowest_action: Array
    """of a device -1; else the action that excites nothing, 0 or -1"""
    last_start: Array
    """(R,) int32; an episode on a recording starts at a sample from 0 to this one"""
    title: str = static()
    """name of the id, for pictures"""
    preview: tuple[int, ...] = static()
    """physical steps ahead"""
    horizon: int = static()
    electrodes: tuple[str, ...] = static()
    noisy: bool = static()

    @property
    def dt(self) -> float:
        """Seconds per step."""
        return self.limb.control_dt

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Joints that are free to move."""
        return self.limb.coordinates

    @property
    def muscles(self) -> tuple[str, ...]:
        """Muscles that span a free joint."""
        return self.limb.muscles

    @property
    def action_names(self) -> tuple[str, ...]:
        """Joints of a device, electrodes, or muscles and then synergy commands."""
        if self.device is not None:
            return tuple(f"torque:{c}" for c in self.limb.coordinates)
        if self.stimulator is not None:
            return tuple(f"stimulation:{e}" for e in self.electrodes)
        return self.limb.actuated + self.limb.commanded

    @property
    def action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """[-1, 1] for a device, else [0, 1] or [-1, 1]."""
        return equal_bounds(float(self.lowest_action), 1.0, len(self.action_names))

    @property
    def drive(self) -> dict[str, str]:
        """Muscle -> what drives it."""
        found = dict(self.limb.sources)
        if self.stimulator is not None:
            found |= {m: "stimulation" if source == "action" else source for m, source in found.items()}
        return found

    @property
    def observation_names(self) -> tuple[str, ...]:
        """``phase``: of the longest episode. ``angle`` (rad), ``speed`` (10 rad/s). ``error``: target minus angle, now
        and a little later (rad). ``emg``: recorded channels, now. Of a device ``torque``, over its maximum; of a
        stimulator the last ``stimulation``. Where muscles act ``activation`` and normalised ``fiber_length``: nobody
        measures those outside, so that device and stimulator do not see them."""
        joints = self.limb.coordinates
        ahead = ["" if n == 0 else f"+{1000 * n * self.limb.dt:.0f}ms" for n in self.preview]
        if self.device is not None:
            own: tuple[str, ...] = tuple(f"torque:{c}" for c in joints)
        elif self.stimulator is not None:
            own = tuple(f"stimulation:{e}" for e in self.electrodes)
        else:
            own = tuple(f"{group}:{m}" for group in ("activation", "fiber_length") for m in self.limb.muscles)
        return (
            "phase",
            *(f"angle:{c}" for c in joints),
            *(f"speed:{c}" for c in joints),
            *(f"error:{c}{later}" for later in ahead for c in joints),
            *(f"emg:{c}" for c in self.limb.recorded),
            *own,
        )

    @property
    def observation_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """By group."""
        return bounds_of(self.observation_names)

    # --- an episode --------------------------------------------------------

    def reset(self, key: Array) -> tuple[FollowState, Step]:
        """A random person, trial and start, or wave; on the target."""
        who, which, when, what, noise = jax.random.split(key, 5)
        person = draw_index(who, self.limb.people_count)
        trial = first = jnp.int32(0)
        wave: Any = ()
        if self.recordings is not None:
            trial = self.recordings.draw(which)
            first = jax.random.randint(when, (), 0, self.last_start[trial] + 1, jnp.int32)
        if self.waves is not None:
            wave = self.waves.draw(what)
        # Below 2^24, so that the number survives a float32 array.
        noise = jax.random.randint(noise, (), 0, 1 << 24, jnp.int32)
        episode = Episode(trial, first, wave, noise)
        q, qd = self._target(episode, first)
        channels = jnp.concatenate([self._recorded(episode, first), jnp.zeros(self._own_channels(), q.dtype)])
        base = None if self.recordings is None else self.recordings.base_at(trial, first)
        limb = self.limb.start(person, q, qd, channels, base)
        device: Any = () if self.device is None else self.device.start()
        command = jnp.zeros(len(self.action_names), q.dtype)
        zero = jnp.zeros((), q.dtype)
        state = FollowState(limb, jnp.int32(0), episode, device, command, zero, zero)
        muscles = limb.motion.muscles
        activation = muscle_activation(self.limb.params_of(person), muscles.filtered)
        quiet = jnp.zeros_like(q)
        shown = (muscles.filtered, activation, muscles.fiber.length, quiet, quiet)
        return state, self._shown(state, *shown, goal=zero, cost=zero, reset=True)

    def step(self, state: FollowState, action: Array) -> tuple[FollowState, Step]:
        """One control step."""
        asked = action if self.device is not None else (action - self.lowest_action) / (1.0 - self.lowest_action)
        first = state.episode.first + state.step * self.limb.frame_skip + 1
        device, torque, power = state.device, jnp.zeros_like(state.limb.motion.q), jnp.zeros_like(state.squares)
        if self.device is not None:
            # The motor holds its command during a control step and is integrated in one piece.
            speed = state.limb.motion.qd
            device, torque = self.device.step(state.device, asked, speed, self.dt)
            power = jnp.sum(torque * speed)

        def at(i: Array) -> tuple[Array, Surroundings]:
            channels = jnp.concatenate([self._recorded(state.episode, first + i), self._excited(asked)])
            base = None if self.recordings is None else self.recordings.base_at(state.episode.trial, first + i)
            return channels, Surroundings(torque=None if self.device is None else torque, base=base)

        limb, out = self.limb.advance(state.limb, at)
        step = state.step + 1
        sample = state.episode.first + step * self.limb.frame_skip
        error = self._target(state.episode, sample)[0] - out.q
        goal = jnp.mean(closeness(error, self.width))
        cost, part = self._cost(asked, torque)
        state = FollowState(
            limb, step, state.episode, device, asked, state.squares + jnp.mean(error**2), state.help + part
        )
        m = out.muscles
        shown = (m.excitation, m.activation, m.fiber_length, out.moments, torque)
        return state, self._shown(state, *shown, goal=goal, cost=cost, power=power)

    def baseline(self, observation: Array) -> Array:
        """A spring from the joint to its target a little later, by motor, muscles or electrodes."""
        n, names = len(self.limb.coordinates), self.observation_names
        speed = observation[indices_of(names, "speed")] * SPEED_UNIT
        ahead = observation[indices_of(names, "error")][-n:]
        moment = spring(ahead, speed, self.stiffness, self.damping)
        if self.device is not None:
            return jnp.clip(moment / self.device.max_torque, -1.0, 1.0)
        if self.stimulator is not None:
            s = self.stimulator
            asked = excitations_for(self.strength @ s.weights, moment)
            width = jnp.where(asked > 0.02, s.threshold + asked * (s.saturation - s.threshold), 0.0)
            asked = jnp.clip(width / s.max_width, 0.0, 1.0)
        else:
            order = [self.limb.muscles.index(m) for m in self.limb.actuated]
            asked = excitations_for(self.strength[:, np.array(order, np.int32)], moment)
            asked = jnp.concatenate([asked, jnp.zeros(len(self.limb.commanded), asked.dtype)])
        return self.lowest_action + (1.0 - self.lowest_action) * asked

    def scene(self) -> Scene:
        """For pictures."""
        strips = [angle_strip(c, i, limits) for i, (c, limits) in enumerate(self.limb.shown_ranges().items())]
        largest = 10.0
        if self.device is not None:
            largest = float(np.max(self.device.max_torque))
            joints = enumerate(self.limb.coordinates)
            strips += [torque_strip(f"{c} moment", i, (-1.5 * largest, 1.5 * largest)) for i, c in joints]
        groups: tuple[tuple[str, ...], ...] = ()
        if self.stimulator is not None:
            strips.append(stimulation_strip(self.electrodes))
            fields = np.asarray(self.stimulator.weights).T > 0
            groups = tuple(tuple(m for m, on in zip(self.limb.muscles, row, strict=True) if on) for row in fields)
        seconds = self.horizon * self.dt
        return limb_scene(self.limb, self.title, self.drive, strips, seconds, largest_torque=largest, electrodes=groups)

    # --- parts of a step ---------------------------------------------------

    def _target(self, episode: Episode, sample: Array) -> tuple[Array, Array]:
        """Target angles and speeds ``(D,)`` at a physical sample."""
        if self.waves is not None:
            return episode.wave.at(sample * self.limb.dt)
        assert self.recordings is not None
        return self.recordings.motion_at(episode.trial, sample)

    def _recorded(self, episode: Episode, sample: Array) -> Array:
        """Recorded channels and commands at a physical sample, with noise."""
        if self.recordings is None:
            return jnp.zeros(0, self.width.dtype)
        values = self.recordings.channels_at(episode.trial, sample)
        if not self.noisy:
            return values
        key = jax.random.fold_in(jax.random.key(episode.noise), sample)
        draw = jax.random.normal(key, values.shape, jnp.float32).astype(values.dtype)
        # Log-normal: envelopes stay positive, keep their mean, and are noisier where they are larger.
        return values * jnp.exp(self.emg_noise * draw - 0.5 * self.emg_noise**2)

    def _own_channels(self) -> int:
        return len(self.limb.commanded) + len(self.limb.actuated)

    def _excited(self, asked: Array) -> Array:
        """What the action puts on synergy commands and on the muscles of the policy."""
        if self.device is not None:
            return jnp.zeros(0, asked.dtype)
        if self.stimulator is not None:
            order = np.array([self.limb.muscles.index(m) for m in self.limb.actuated], np.int32)
            return self.stimulator.recruited(asked)[order]
        muscles, commands = jnp.split(asked, [len(self.limb.actuated)])
        return jnp.concatenate([commands, muscles])

    def _cost(self, asked: Array, torque: Array) -> tuple[Array, Array]:
        """The reward's negative part, and the fraction of the most that device or stimulator could do."""
        if self.device is not None:
            load = torque / self.device.max_torque
            return -self.help_weight * jnp.mean(load**2), jnp.mean(jnp.abs(load))
        if self.stimulator is not None:
            s = self.stimulator
            part = s.charge(asked, 1.0) / s.charge(jnp.ones_like(asked), 1.0)
            return -self.charge_weight * part, part
        return -self.effort_weight * jnp.mean(asked**2), jnp.mean(asked)

    def _shown(
        self,
        state: FollowState,
        excitation: Array,
        activation: Array,
        fiber_length: Array,
        moments: Array,
        torque: Array,
        *,
        goal: Array,
        cost: Array,
        power: Array | None = None,
        reset: bool = False,
    ) -> Step:
        motion, episode = state.limb.motion, state.episode
        q, dtype = motion.q, motion.q.dtype
        sample = episode.first + state.step * self.limb.frame_skip
        targets = [self._target(episode, sample + n)[0] for n in self.preview]
        recorded = self._recorded(episode, sample)
        groups = {
            "phase": (state.step.astype(dtype) / self.horizon)[None],
            "angle": q,
            "speed": motion.qd / SPEED_UNIT,
            "error": jnp.concatenate([target - q for target in targets]),
            "emg": recorded,
        }
        if self.device is not None:
            groups["torque"] = torque / self.device.max_torque
        elif self.stimulator is not None:
            groups["stimulation"] = state.command
        else:
            groups |= {"activation": activation, "fiber_length": fiber_length}
        steps = jnp.maximum(state.step, 1).astype(dtype)
        rms = jnp.sqrt(state.squares / steps + 1e-12)
        info = {
            "time": state.step.astype(dtype) * self.dt,
            "success": (rms < self.tolerance) & (state.step > 0),
            "rms_error": rms,
            "mean_help": state.help / steps,
            "reward_goal": goal,
            "reward_cost": cost,
            "person": state.limb.person,
            "trial": episode.trial,
            "sample": sample,
            "q": q,
            "qd": motion.qd,
            "target": targets[0],
            "moments": moments,
            "excitation": excitation,
            "activation": activation,
            "fiber_length": fiber_length,
            "emg": recorded,
        }
        if self.device is not None:
            info |= {"device_torque": torque, "device_power": jnp.zeros_like(rms) if power is None else power}
        if self.stimulator is not None:
            info |= {"stimulation": state.command, "charge": self.stimulator.charge(state.command, self.dt)}
        last = state.step >= self.horizon
        if self.waves is None and self.recordings is not None:
            last = last | (sample + self.limb.frame_skip > self.recordings.lengths[episode.trial] - 1)
        return Step(observe(groups), goal + cost, jnp.bool_(False), last, info)


@pytree
class Episode:
    """What a reset has drawn."""

    trial: Array
    """int32"""
    first: Array
    """int32; physical sample of the recording at which the episode started"""
    wave: Any
    """``Wave``, or () where a recording is followed"""
    noise: Array
    """int32; seed of the EMG's noise"""


@pytree
class FollowState:
    """What evolves during an episode."""

    limb: LimbState
    step: Array
    """int32; control steps"""
    episode: Episode
    device: Any
    command: Array
    """(A,) of the last step"""
    squares: Array
    """rad^2; sum of mean squared errors"""
    help: Array
    """sum of the fractions of most help"""
