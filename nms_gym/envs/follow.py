"""Follow moving target angles: with one's own muscles, with the help of a device, or by electrical stimulation.

``Follow`` is the task behind ``KneeExtension``, ``AnkleTracking``, ``LegSwing``, ``ElbowAssist``, ``AnkleExo`` and
``FesElbow``, whose own files say what moves, what the action is and where the target comes from. They share:

* The target is a recorded motion, or a wave that the reset draws. An episode starts on the target, at its speed.
* The reward of a step is the mean closeness of the joints to their targets (1 on it, 1/2 at ``width``), minus
  ``effort_weight`` times the mean squared excitation, or minus ``help_weight`` times the mean squared torque over its
  maximum, or minus ``charge_weight`` times the stimulation's charge over the largest possible.
* ``info["success"]`` says whether the root mean square error of the episode so far is within ``tolerance``;
  ``rms_error`` (rad) and ``mean_help`` (of the device's or stimulator's most) are means of the episode so far.
* ``info["outside_trained_range"]``, where EMG drives muscles of a calibrated person, is the fraction of channels,
  angles and speeds that are now outside what the calibration has seen (``nms_gym.departures``).
"""

from __future__ import annotations

import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import Leaf, pytree, static
from nms_gym.envs.actuation import Actuation, Effect, driven_by
from nms_gym.envs.limb import Limb, LimbOutput, LimbState, limb_scene
from nms_gym.envs.recordings import Recordings, ReplayOptions, load_trials, make_recordings
from nms_gym.envs.rendering.scene import Scene, angle_strip
from nms_gym.envs.scripted import spring
from nms_gym.envs.targets import Target, Waves
from nms_gym.envs.task import (
    SPEED_UNIT,
    Step,
    as_numpy,
    bounds_of,
    closeness,
    draw_index,
    equal_bounds,
    indices_of,
    observe,
    steps_of,
)
from nms_gym.errors import InputError, listed
from nms_gym.model.rollout import Surroundings

PREVIEW = (0.0, 0.1)
"""s ahead, at which the observation shows how far the target is"""


@pytree
class Follow:
    """The task; every id that uses it has a function that builds it."""

    limb: Limb
    actuation: Actuation
    """what the action does"""
    target: Target
    recordings: Recordings
    """EMG to replay, beside the action; an empty one where there is none"""
    stiffness: Leaf
    """(D,) N·m/rad, and"""
    damping: Leaf
    """(D,) N·m·s/rad of the scripted policy"""
    width: Leaf
    """rad, where closeness is 1/2"""
    tolerance: Leaf
    """rad"""
    last_start: Leaf
    """(R,) int32; an episode on a recording starts at a sample from 0 to this one"""
    title: str = static()
    """name of the id, for pictures"""
    preview: tuple[int, ...] = static()
    """physical steps ahead"""
    horizon: int = static()

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
        return self.actuation.action_names

    @property
    def action_units(self) -> str:
        """What an action is."""
        return self.actuation.action_units

    @property
    def action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """[-1, 1] for a device, else [0, 1] or [-1, 1]."""
        return equal_bounds(float(self.actuation.lowest_action), 1.0, len(self.action_names))

    @property
    def drive(self) -> dict[str, str]:
        """Muscle -> what drives it."""
        return driven_by(self.actuation, dict(self.limb.sources))

    @property
    def observation_names(self) -> tuple[str, ...]:
        """``phase``: of the longest episode. ``angle`` (rad), ``speed`` (10 rad/s). ``error``: target minus angle, now
        and a little later (rad). ``emg``: recorded channels, now. Of a device ``torque``, over its maximum; of a
        stimulator the last ``stimulation``. Where muscles act ``activation`` and normalised ``fiber_length``: nobody
        measures those outside, so that device and stimulator do not see them."""
        joints = self.limb.coordinates
        ahead = ["" if n == 0 else f"+{1000 * n * self.limb.dt:.0f}ms" for n in self.preview]
        return (
            "phase",
            *(f"angle:{c}" for c in joints),
            *(f"speed:{c}" for c in joints),
            *(f"error:{c}{later}" for later in ahead for c in joints),
            *(f"emg:{c}" for c in self.limb.recorded),
            *self.actuation.observation_names,
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
        trial = self.recordings.draw(which)
        first = jax.random.randint(when, (), 0, self.last_start[trial] + 1, jnp.int32)
        # Below 2^24, so that the number survives a float32 array.
        seed = jax.random.randint(noise, (), 0, 1 << 24, jnp.int32)
        episode = Episode(trial, first, self.target.draw(what, trial), seed)
        q, qd = self._target(episode, first)
        actuation, effect = self.actuation.start()
        channels = jnp.concatenate([self._recorded(episode, first), effect.channels])
        limb, out = self.limb.start(person, q, qd, channels, self.recordings.base_at(trial, first))
        zero = jnp.zeros((), q.dtype)
        state = FollowState(limb, jnp.int32(0), episode, actuation, zero, zero)
        return state, self._result(state, out, effect, goal=zero)

    def step(self, state: FollowState, action: Array) -> tuple[FollowState, Step]:
        """One control step."""
        episode = state.episode
        following = self._sample(state) + 1
        actuation, effect = self.actuation.act(state.actuation, action, state.limb.motion.qd, self.dt)

        def at(i: Array) -> tuple[Array, Surroundings]:
            channels = jnp.concatenate([self._recorded(episode, following + i), effect.channels])
            base = self.recordings.base_at(episode.trial, following + i)
            return channels, Surroundings(torque=effect.torque, base=base)

        limb, out = self.limb.advance(state.limb, at)
        error = self._target(episode, self._sample(state, 1))[0] - limb.motion.q
        squares = state.squares + jnp.mean(error**2)
        state = FollowState(limb, state.step + 1, episode, actuation, squares, state.shares + effect.share)
        return state, self._result(state, out, effect, goal=jnp.mean(closeness(error, self.width)))

    def baseline(self, observation: Array) -> Array:
        """A spring from the joint to its target a little later, by motor, muscles or electrodes."""
        n, names = len(self.limb.coordinates), self.observation_names
        speed = observation[indices_of(names, "speed")] * SPEED_UNIT
        ahead = observation[indices_of(names, "error")][-n:]
        return self.actuation.action_for(spring(ahead, speed, self.stiffness, self.damping))

    def scene(self) -> Scene:
        """For pictures."""
        strips = [angle_strip(c, i, limits) for i, (c, limits) in enumerate(self.limb.shown_ranges().items())]
        strips += self.actuation.strips()
        seconds = self.horizon * self.dt
        return limb_scene(self.limb, self.title, self.drive, strips, seconds, **self.actuation.body())

    # --- parts of a step ---------------------------------------------------

    def _sample(self, state: FollowState, ahead: int = 0) -> Array:
        """Physical sample of the recording at the state, or some control steps later."""
        return state.episode.first + (state.step + ahead) * self.limb.frame_skip

    def _target(self, episode: Episode, sample: Array) -> tuple[Array, Array]:
        """Target angles and speeds ``(D,)`` at a physical sample."""
        return self.target.at(episode.target, sample, self.limb.dt)

    def _recorded(self, episode: Episode, sample: Array) -> Array:
        """Recorded channels and commands at a physical sample, with noise."""
        return self.recordings.channels_at(episode.trial, sample, episode.seed)

    def _result(self, state: FollowState, out: LimbOutput, effect: Effect, *, goal: Array) -> Step:
        motion, episode, sample = state.limb.motion, state.episode, self._sample(state)
        q, dtype = motion.q, motion.q.dtype
        targets = [self._target(episode, sample + n)[0] for n in self.preview]
        recorded = self._recorded(episode, sample)
        groups = {
            "phase": (state.step.astype(dtype) / self.horizon)[None],
            "angle": q,
            "speed": motion.qd / SPEED_UNIT,
            "error": jnp.concatenate([target - q for target in targets]),
            "emg": recorded,
        }
        steps = jnp.maximum(state.step, 1).astype(dtype)
        rms = jnp.sqrt(state.squares / steps + 1e-12)
        info = {
            "time": state.step.astype(dtype) * self.dt,
            "success": (rms < self.tolerance) & (state.step > 0),
            "rms_error": rms,
            "mean_help": state.shares / steps,
            "reward_goal": goal,
            "reward_cost": effect.cost,
            "person": state.limb.person,
            "trial": episode.trial,
            "sample": sample,
            "q": q,
            "qd": motion.qd,
            "target": targets[0],
            "emg": recorded,
        }
        info |= out.info() | effect.info
        if self.limb.trained is not None:
            info["outside_trained_range"] = self.limb.trained.outside(recorded, q, motion.qd)
        last = (state.step >= self.horizon) | self.target.over(episode.target, sample + self.limb.frame_skip)
        observation = observe(groups | self.actuation.observed(effect, out))
        return Step(observation, goal + effect.cost, jnp.bool_(False), last, info)


@pytree
class Episode:
    """What a reset has drawn."""

    trial: Array
    """int32"""
    first: Array
    """int32; physical sample of the recording at which the episode started"""
    target: Any
    """as ``Follow.target`` draws it"""
    seed: Array
    """int32; of the EMG's noise"""


@pytree
class FollowState:
    """What evolves during an episode."""

    limb: LimbState
    step: Array
    """int32; control steps"""
    episode: Episode
    actuation: Any
    squares: Array
    """rad^2; sum of mean squared errors"""
    shares: Array
    """sum of the parts of the most that the action could do"""


# --- building it ------------------------------------------------------------


def make_follow(
    title: str,
    limb: Limb,
    actuation: Actuation,
    *,
    replay: ReplayOptions = ReplayOptions(),
    waves: Waves | None = None,
    seconds: float | None,
    stiffness: float | tuple[float, ...],
    damping: float | tuple[float, ...],
    width: float,
    tolerance: float,
) -> Follow:
    """The task of an id, with NumPy float64 leaves.

    Args:
        title: of the id.
        limb: of the person.
        actuation: what the action does.
        replay: which recordings drive muscles, and are followed where there are no waves.
        waves: targets; None to follow what was recorded.
        seconds: of an episode; None for the whole recording.
        stiffness: N·m/rad, of every joint, for the scripted policy.
        damping: N·m·s/rad.
        width: degrees, where closeness is 1/2.
        tolerance: degrees.

    Raises:
        InputError: a trial or an option cannot be used.
    """
    if waves is not None and not limb.recorded and replay.used:
        raise InputError(
            f"{replay.used[0]} is of recorded EMG, but that drives no muscle; give some the source 'recorded'"
        )
    names: Any = replay.trial
    if names is None and limb.recorded:
        raise InputError(f"recorded channels drive muscles ({listed(limb.recorded)}): name a recording in trial")
    recordings, motion = make_recordings(limb, [] if names is None else load_trials(names), replay)
    horizon, last_start = _episode_lengths(limb, recordings, names, seconds, replay.random_start)
    joints = (len(limb.coordinates),)
    numbers: dict[str, Any] = {
        "stiffness": np.broadcast_to(stiffness, joints),
        "damping": np.broadcast_to(damping, joints),
        "width": math.radians(width),
        "tolerance": math.radians(tolerance),
        "last_start": last_start,
    }
    task = Follow(
        limb=limb,
        actuation=actuation,
        target=motion if waves is None else waves,
        recordings=recordings,
        title=title,
        preview=tuple(round(ahead / limb.dt) for ahead in PREVIEW),
        horizon=horizon,
        **numbers,
    )
    return as_numpy(task)


def _episode_lengths(
    limb: Limb, recordings: Recordings, names: Any, seconds: float | None, random_start: bool
) -> tuple[int, np.ndarray]:
    """Steps of the longest episode, and the last sample ``(R,)`` at which one starts."""
    control = limb.control_dt
    if names is None:
        return steps_of(seconds, control), np.zeros(1, np.int32)
    samples = np.asarray(recordings.lengths) - 1
    whole = samples // limb.frame_skip
    if whole.min() < 2:
        every = [names] if isinstance(names, (str, os.PathLike)) else names
        shortest = str(every[int(np.argmin(whole))])
        raise InputError(f"trial {shortest!r} is shorter than two control steps of {control:g} s; use a longer one")
    horizon = int(whole.max()) if seconds is None else steps_of(seconds, control)
    if horizon > whole.max():
        raise InputError(
            f"seconds is {seconds:g} s; the longest recording has {control * whole.max():g} s: shorten it, or use "
            "seconds=None for the whole recording"
        )
    spare = np.maximum(samples - horizon * limb.frame_skip, 0)
    return horizon, (spare if random_start else np.zeros_like(spare)).astype(np.int32)
