"""Track measured joint moments while a recorded motion is replayed: the task as pure functions.

There are no skeleton dynamics: joint motion is what was recorded. Recorded EMG channels drive their muscles with the
subject's gain and delay; synergies, where the subject has them, drive theirs with commands found from the recording, or
given by the action; the action drives chosen muscles that nothing else does, and the rest are passive. One step of the
task is one ``neuromuscular_step`` of the model, so an episode whose action is 0 (or that repeats the recording's
commands) reproduces ``predict_moments`` on the recording.

``info["success"]`` says whether the root mean square error of the episode so far, over the standard deviation of the
measured moments, is below ``TOLERANCE``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import pytree, replace, static
from nms_gym.conditions import conditions_from_spec
from nms_gym.envs.limb import pack_params, unpack_params
from nms_gym.envs.person import ACTION_PREFIX, drive_of, each_of, load_person, stacked_params, with_sources
from nms_gym.envs.rendering.scene import Scene, moment_strip
from nms_gym.envs.scripted import excitations_for
from nms_gym.envs.task import (
    SPEED_UNIT,
    Step,
    as_numpy,
    bounds_of,
    checked_flag,
    draw_index,
    equal_bounds,
    indices_of,
    observe,
)
from nms_gym.errors import InputError, listed, near
from nms_gym.files.subject import Subject, resolve_trial
from nms_gym.model.condition import Condition
from nms_gym.model.forward import Kinematics, NmsOutput, NmsState, initial_state, neuromuscular_step, output_at_rest
from nms_gym.model.parameters import NEUTRAL_CHANNEL, NmsParams
from nms_gym.model.replay import Replay, make_segment
from nms_gym.model.structure import NmsModel
from nms_gym.recording.storage import require_unique
from nms_gym.recording.trial import Trial, load_trial

PREVIEW = (0.0, 0.025, 0.050)
"""s ahead of the next sample, at which the observation shows the measured moments."""

EFFORT_WEIGHT = 0.01
"""Of the mean squared excitation that the action asks for, beside a tracking error of order 1."""

TOLERANCE = 0.5
"""of the moments' standard deviation"""

SMALLEST_SCALE = 0.1
"""N·m; a measured moment that hardly varies is not scaled by less."""


@pytree
class MomentTracking:
    """The task: a model and a recording on its grid. Arrays are leaves; build it with ``make_task``.

    Samples run from 0 to T - 1; step number k of an episode that starts at sample s produces sample s + k.
    """

    actuated: tuple[str, ...] = static()
    """muscles that the action drives"""
    commanded: tuple[str, ...] = static()
    """synergy commands that the action gives, after the muscles; () when they come from the recording"""
    observed: tuple[str, ...] = static()
    """J coordinates whose motion is part of the observation"""
    preview: tuple[int, ...] = static()
    """steps ahead of the next sample"""
    dt: float = static()
    """s; a step is a sample of the recording"""
    drive_text: tuple[tuple[str, str], ...] = static()
    model: NmsModel
    """with a channel for every actuated muscle, after the recorded ones"""
    params: NmsParams
    people: Array | None
    """(N, P) parameters of those whom a reset draws from, packed; None for one person"""
    condition: Condition
    replay: Replay
    """``excitations`` of the recorded channels and synergy commands only"""
    time: Array
    """(T,) s since the first sample"""
    q: Array
    """(T, J) rad"""
    qd: Array
    """(T, J) rad/s"""
    measured: Array
    """(T, K) N·m"""
    scale: Array
    """(K,) N·m; standard deviation of the measured moments"""
    strength: Array
    """(K, A) N·m of the actuated muscles at full force, on average, for the scripted policy"""
    effort_weight: Array
    last_start: Array
    """int32; episodes start at a sample from 0 to this one"""
    command_scale: Array
    """(S,) the command that an action of 1 gives: the largest one of the recording, at least 1"""
    lowest_action: Array
    """the action that excites nothing: 0 or -1; full excitation is 1"""

    @property
    def horizon(self) -> int:
        """T, the length of the longest episode."""
        return self.replay.lengths.shape[0]

    @property
    def coordinates(self) -> tuple[str, ...]:
        """K joints whose moments are tracked."""
        return self.replay.coordinates

    @property
    def muscles(self) -> tuple[str, ...]:
        """All muscles of the subject."""
        return self.model.muscles

    @property
    def replayed_channels(self) -> tuple[str, ...]:
        """Channels of ``replay``: recorded ones and synergy commands."""
        return self.model.channels[: len(self.model.channels) - len(self.actuated)]

    @property
    def action_names(self) -> tuple[str, ...]:
        """One name per entry of the action: muscles, then synergy commands."""
        return self.actuated + self.commanded

    @property
    def action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """[0, 1] or [-1, 1]."""
        return equal_bounds(float(self.lowest_action), 1.0, len(self.action_names))

    @property
    def drive(self) -> dict[str, str]:
        """What drives each muscle, as ``person.drive_of`` says."""
        return dict(self.drive_text)

    @property
    def observation_names(self) -> tuple[str, ...]:
        """One name per entry of the observation, ``group:name``; the group sets its unit and bounds.

        ``phase``: the next sample over T. ``angle`` (rad) and ``speed`` (10 rad/s): recorded motion at the next
        sample. ``target``: measured moment there and a little later, over ``scale``. ``moment``: produced by the last
        step, over ``scale``. ``activation`` and normalised ``fiber_length``: of every muscle after the last step.
        """
        ahead = ["" if n == 0 else f"+{1000 * n * self.dt:.0f}ms" for n in self.preview]
        return (
            "phase",
            *(f"angle:{c}" for c in self.observed),
            *(f"speed:{c}" for c in self.observed),
            *(f"target:{c}{later}" for later in ahead for c in self.coordinates),
            *(f"moment:{c}" for c in self.coordinates),
            *(f"activation:{m}" for m in self.model.muscles),
            *(f"fiber_length:{m}" for m in self.model.muscles),
        )

    @property
    def observation_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest observation, float32."""
        return bounds_of(self.observation_names)

    # --- an episode --------------------------------------------------------

    def reset(self, key: Array) -> tuple[TrackingState, Step]:
        """Start an episode: a random person of several, and with ``random_start`` a random sample."""
        who, when = jax.random.split(key)
        person = draw_index(who, 1 if self.people is None else self.people.shape[0])
        return self.reset_at(jax.random.randint(when, (), 0, self.last_start + 1, jnp.int32), person)

    def reset_at(self, sample: Array, person: Array) -> tuple[TrackingState, Step]:
        """Start an episode of a person whose first step produces ``sample`` (both int32), muscles at rest there."""
        model, params = self.model, self._params(person)
        replayed = len(self.replayed_channels)
        length = self.replay.excitations.shape[0] - self.horizon + 1
        past = jax.lax.dynamic_slice(self.replay.excitations, (sample, jnp.zeros_like(sample)), (length, replayed))
        silent = jnp.zeros((length, len(self.actuated)), past.dtype)
        history = jnp.concatenate([past, silent], axis=1)[::-1]
        kinematics = self._kinematics(sample)
        muscles = initial_state(model, params, history, kinematics.lengths, self.dt, condition=self.condition)
        rest = output_at_rest(model, params, muscles, kinematics)
        # The first step pushes this sample's excitation; until then the newest one is the sample before.
        muscles = replace(muscles, excitation_history=jnp.concatenate([history[1:], history[-1:]]))
        zero = jnp.zeros((), rest.moments.dtype)
        state = TrackingState(muscles, sample, person, jnp.int32(0), zero)
        info = self._info(state, sample, rest, zero, zero, zero)
        observation = self._observe(sample, rest)
        return state, Step(observation, zero, jnp.bool_(False), jnp.bool_(False), info)

    def step(self, state: TrackingState, action: Array) -> tuple[TrackingState, Step]:
        """Produce one sample of moments; not after a truncation.

        The reward is ``-mean_k(((moment_k - measured_k) / scale_k)^2) - effort_weight mean_a(excitation_a^2)``, with
        the excitations that the action asks for; it is 0 at best. An episode is truncated after the last sample.

        Info, of the sample that was produced: ``time`` (s since the window's start), ``sample``, ``moments``,
        ``measured`` and ``error`` ``(K,)`` N·m, ``excitation`` and ``activation`` ``(M,)``, ``residual`` (largest miss
        of the implicit fiber equation, in tendon slack lengths), ``reward_tracking`` and ``reward_effort``.
        """
        k, model, params = state.sample, self.model, self._params(state.person)
        length = self.replay.excitations.shape[0] - self.horizon
        drive = (action - self.lowest_action) / (1.0 - self.lowest_action)
        muscles, commands = jnp.split(drive, [len(self.actuated)])
        replayed = _row(self.replay.excitations, k + length)
        if self.commanded:
            columns = np.array([model.channels.index(c) for c in self.commanded], np.int32)
            replayed = replayed.at[columns].set(self.command_scale * commands)
        channels = jnp.concatenate([replayed, muscles])
        moved, out = neuromuscular_step(
            model, params, state.muscles, channels, self._kinematics(k), self.replay.dt, condition=self.condition
        )
        error = (out.moments - _row(self.measured, k)) / self.scale
        squared = jnp.mean(error**2)
        effort = -self.effort_weight * jnp.mean(drive**2) if self.action_names else jnp.zeros_like(squared)
        residual = jnp.max(jnp.abs(out.residual))
        following = k + 1
        state = TrackingState(moved, following, state.person, state.steps + 1, state.squares + squared)
        info = self._info(state, k, out, residual, -squared, effort)
        observation = self._observe(following, out)
        return state, Step(observation, effort - squared, jnp.bool_(False), following >= self.horizon, info)

    def baseline(self, observation: Array) -> Array:
        """Muscles that lack in the last moment, in proportion to what is missing now."""
        names, joints = self.observation_names, len(self.coordinates)
        target = observation[indices_of(names, "target")][:joints]
        missing = (target - observation[indices_of(names, "moment")]) * self.scale
        asked = excitations_for(self.strength, missing)
        asked = jnp.concatenate([asked, jnp.zeros(len(self.commanded), asked.dtype)])
        return self.lowest_action + (1.0 - self.lowest_action) * asked

    def scene(self) -> Scene:
        """For pictures."""
        time, measured = np.asarray(self.time, float), np.asarray(self.measured, float)
        strips = [moment_strip(c, i, time, measured[:, i]) for i, c in enumerate(self.coordinates)]
        span = (float(time[0]), float(time[-1]))
        return Scene("MomentTracking", self.muscles, self.drive, tuple(strips), span)

    # --- parts of a step ---------------------------------------------------

    def _params(self, person: Array) -> NmsParams:
        return self.params if self.people is None else unpack_params(self.model, self.people[person])

    def _kinematics(self, sample: Array) -> Kinematics:
        return jax.tree.map(lambda series: _row(series, sample), self.replay.kinematics)

    def _observe(self, sample: Array, out: NmsOutput) -> Array:
        """Observation before the step that produces ``sample``; the layout of ``observation_names``."""
        return observe(
            {
                "phase": (sample.astype(out.moments.dtype) / self.horizon)[None],
                "angle": _row(self.q, sample),
                "speed": _row(self.qd, sample) / SPEED_UNIT,
                "target": jnp.concatenate([_row(self.measured, sample + n) / self.scale for n in self.preview]),
                "moment": out.moments / self.scale,
                "activation": out.activation,
                "fiber_length": out.fiber_length,
            }
        )

    def _info(
        self,
        state: TrackingState,
        sample: Array,
        out: NmsOutput,
        residual: Array,
        tracking: Array,
        effort: Array,
    ) -> dict[str, Array]:
        measured = _row(self.measured, sample)
        steps = jnp.maximum(state.steps, 1).astype(out.moments.dtype)
        return {
            "time": _row(self.time, sample),
            "success": (state.squares < TOLERANCE**2 * steps) & (state.steps > 0),
            "sample": sample,
            "person": state.person,
            "moments": out.moments,
            "measured": measured,
            "error": out.moments - measured,
            "excitation": out.excitation,
            "activation": out.activation,
            "residual": residual,
            "reward_tracking": tracking,
            "reward_effort": effort,
        }


@pytree
class TrackingState:
    """What evolves during an episode."""

    muscles: NmsState
    sample: Array
    """int32; the sample that the next step produces"""
    person: Array
    """int32"""
    steps: Array
    """int32"""
    squares: Array
    """sum of the mean squared scaled errors"""


def _row(series: Array, index: Array) -> Array:
    """One row of a series; the last one beyond its end."""
    return jax.lax.dynamic_index_in_dim(series, index, keepdims=False)


# --- building it ------------------------------------------------------------


def with_action_channels(model: NmsModel, params: NmsParams, muscles: Sequence[str]) -> tuple[NmsModel, NmsParams]:
    """The model with one more channel per muscle: weight 1, gain 1, no delay, named ``action:<muscle>``.

    Raises:
        InputError: a muscle is unknown, named twice, or already driven by a channel.
    """
    require_unique(muscles, "actuated muscles", "actuated")
    for muscle in muscles:
        if muscle not in model.muscles:
            raise InputError(f"actuated names {muscle!r}, which the subject has not; {near(muscle, model.muscles)}")
    weights = np.asarray(model.channel_weights)
    for muscle in muscles:
        taken = model.sources(muscle)
        if taken:
            raise InputError(
                f"actuated names {muscle!r}, which recorded channels or synergies already drive ({listed(taken)}); "
                f"choose among the muscles without a channel: {listed(model.passive_muscles, 50)}"
            )
    columns = np.zeros((len(model.muscles), len(muscles)), weights.dtype)
    for column, muscle in enumerate(muscles):
        columns[model.muscles.index(muscle), column] = 1.0
    extended = replace(
        model,
        channels=(*model.channels, *(ACTION_PREFIX + m for m in muscles)),
        channel_weights=np.concatenate([weights, columns], axis=1),
    )
    return extended, with_action_params(params, len(muscles))


def with_action_params(params: NmsParams, actions: int) -> NmsParams:
    """Parameters with the gain (1) and delay (0) of that many action channels; can be traced."""

    def extended(leaf: Any, value: float) -> Any:
        if isinstance(leaf, np.ndarray):
            return np.concatenate([leaf, np.full(actions, value, leaf.dtype)])
        return jnp.concatenate([leaf, jnp.full(actions, value, leaf.dtype)])

    return replace(params, **{kind: extended(getattr(params, kind), v) for kind, v in NEUTRAL_CHANNEL.items()})


def make_task(
    subject: Subject,
    trial: Trial,
    *,
    people: NmsParams | None = None,
    condition: Sequence[Mapping[str, Any] | str] | None = None,
    actuated: Sequence[str] | None = None,
    sources: Mapping[str, str] | str | None = None,
    synergies: Literal["recorded", "action"] = "recorded",
    coordinates: Sequence[str] | None = None,
    start: float | None = None,
    stop: float | None = None,
    random_start: bool = False,
    effort_weight: float = EFFORT_WEIGHT,
    symmetric_action: bool = False,
) -> MomentTracking:
    """Build the task, with NumPy float64 leaves.

    Args:
        subject: whose muscles.
        trial: the recording to replay; with measured moments.
        people: parameters ``(N, ...)`` of those whom a reset draws from; None for the subject alone.
        condition: what ails the person, as ``conditions_from_spec`` takes it.
        actuated: muscles that the action drives; by default all that nothing else does. May be empty here (the
            recording drives all that moves).
        sources: instead of ``actuated``: muscle -> "recorded", "synergy", "policy" or "passive", or one of them for
            all; muscles not named keep what the subject has.
        synergies: who gives the commands of a subject with synergies: the recording (found from its EMG), or the
            action.
        coordinates: joints whose moments are tracked; by default the measured ones that the model has.
        start: s, in the recording's time; by default its first sample.
        stop: s; by default its last sample.
        random_start: episodes start anywhere in the first half of the recording instead of at its first sample.
        effort_weight: of the mean squared excitation in the reward.
        symmetric_action: actions run from -1 (no excitation) to 1 (full) instead of from 0 to 1.

    Raises:
        InputError: an unknown muscle, coordinate or channel; a muscle that has a channel; no measured moments; an empty
            window; a negative weight.
    """
    if sources is not None:
        if actuated is not None:
            raise InputError("give actuated or sources, not both: sources = {muscle: 'policy'} actuates a muscle")
        subject, people, actuated = with_sources(subject, people, sources)
    if isinstance(actuated, str):
        raise InputError(f"actuated is {actuated!r}; give a list of muscle names")
    if synergies not in ("recorded", "action"):
        raise InputError(f"synergies is {synergies!r}; use 'recorded' or 'action'")
    commanded = subject.model.commands if synergies == "action" else ()
    if synergies == "action" and not commanded:
        raise InputError(
            f"subject {subject.name!r} has no synergies that the action could command; calibrate one with mode "
            "'synergy_hybrid', or leave synergies = 'recorded'"
        )
    checked_flag(random_start, "random_start")
    checked_flag(symmetric_action, "symmetric_action")
    if not (math.isfinite(effort_weight) and effort_weight >= 0):
        raise InputError(f"effort_weight is {effort_weight!r}; use 0 or more (default {EFFORT_WEIGHT})")
    segment = make_segment(subject.model, trial, coordinates=coordinates, start=start, stop=stop, lead_in=0.0)
    if segment.measured is None:
        raise InputError(
            f"trial {trial.name!r} has no measured moments of {listed(segment.coordinates)}, so there is nothing to "
            f"track (it has {listed(trial.moment_coordinates) if trial.moments is not None else 'none'}); "
            "add inverse-dynamics moments to the trial, or choose other coordinates"
        )
    muscles = subject.model.passive_muscles if actuated is None else tuple(actuated)
    conditions = conditions_from_spec(condition, subject.model)
    everyone = [subject.params] if people is None else each_of(people)
    prepared = [conditions.prepare(subject.model, one)[1] for one in everyone]
    model, params = with_action_channels(subject.model, prepared[0], muscles)
    crowd = stacked_params([with_action_params(one, len(muscles)) for one in prepared])
    dt = float(segment.replay.dt)
    first = int(np.searchsorted(trial.time, segment.time[0] - 0.5 * dt))
    rows = slice(first, first + len(segment.time))
    observed = tuple(c for c in model.coordinates if c in trial.coordinates)
    columns = [trial.coordinates.index(c) for c in observed]
    given = [model.channels.index(c) for c in commanded]
    driven = [model.muscles.index(m) for m in muscles]
    arms = np.mean(segment.replay.moment_arms, axis=0)[:, driven]
    task: Any = MomentTracking(
        actuated=muscles,
        commanded=commanded,
        observed=observed,
        preview=tuple(round(ahead / dt) for ahead in PREVIEW),
        dt=dt,
        drive_text=tuple(drive_of(model, synergies).items()),
        # The recording brings lengths and moment arms, so the paths would only be carried along.
        model=replace(model, paths=None),
        params=params,
        people=None if people is None else pack_params(crowd),  # type: ignore[arg-type]
        condition=conditions,
        replay=segment.replay,
        time=segment.time - segment.time[0],
        q=trial.q[rows][:, columns],  # type: ignore[arg-type]
        qd=trial.qd[rows][:, columns],  # type: ignore[arg-type]
        measured=segment.measured,  # type: ignore[arg-type]
        scale=np.maximum(np.std(segment.measured, axis=0), SMALLEST_SCALE),  # type: ignore[arg-type]
        strength=arms * np.asarray(params.max_isometric_force)[driven],  # type: ignore[arg-type]
        effort_weight=np.asarray(effort_weight),  # type: ignore[arg-type]
        last_start=np.asarray((len(segment.time) - 1) // 2 if random_start else 0, np.int32),  # type: ignore[arg-type]
        command_scale=np.maximum(segment.replay.excitations[:, given].max(axis=0), 1.0),  # type: ignore[arg-type]
        lowest_action=np.asarray(-1.0 if symmetric_action else 0.0),  # type: ignore[arg-type]
    )
    return as_numpy(task)


def make_moment_tracking(
    trial: str | os.PathLike[str] | None = None,
    subject: str | os.PathLike[str] | None = None,
    posterior: bool | str | os.PathLike[str] = False,
    condition: Sequence[Mapping[str, Any] | str] | None = None,
    actuated: Sequence[str] | None = None,
    sources: Mapping[str, str] | str | None = None,
    synergies: Literal["recorded", "action"] = "recorded",
    coordinates: Sequence[str] | None = None,
    start: float | None = None,
    stop: float | None = None,
    random_start: bool = False,
    effort_weight: float = EFFORT_WEIGHT,
    symmetric_action: bool = False,
) -> MomentTracking:
    """Track measured joint moments by exciting the muscles that were not recorded.

    Args:
        trial: path of a trial, or name of a shipped demo trial; by default the first of those.
        subject: path of a subject file; by default the shipped demo subject.
        posterior: True, or a path, to draw a person of the calibration's posterior at every reset.
        condition: what ails the person, for example ``[{"name": "electrode_loss", "channels": ["soleus"]}]``.
        actuated: muscles that the action drives; by default all that neither channels nor synergies drive.
        sources: instead of ``actuated``, to take muscles from their channels: muscle -> "recorded", "synergy", "policy"
            or "passive", or one of them for all; muscles not named keep what the subject has.
        synergies: "recorded": commands of the subject's synergies are found from the recorded EMG; "action": the
            action gives them.
        coordinates: joints whose moments are tracked; by default the measured ones that the subject has.
        start: s, first sample of the episode; by default the recording's first.
        stop: s, last sample of the episode; by default the recording's last.
        random_start: start anywhere in the first half of the recording.
        effort_weight: of the mean squared excitation in the reward.
        symmetric_action: actions from -1 to 1 instead of from 0 to 1.

    Raises:
        InputError: a file, name or option cannot be used, or nothing is actuated.
    """
    person, people = load_person(subject, "demo_arm", posterior)
    task = make_task(
        person,
        load_trial(resolve_trial(trial)),
        people=people,
        condition=condition,
        actuated=actuated,
        sources=sources,
        synergies=synergies,
        coordinates=coordinates,
        start=start,
        stop=stop,
        random_start=random_start,
        effort_weight=effort_weight,
        symmetric_action=symmetric_action,
    )
    if not task.action_names:
        raise InputError(
            "no muscle is actuated, and an environment needs an action: name at least one muscle without a channel in "
            f"actuated (there are {listed(m for m, drive in task.drive.items() if drive == 'passive')}), let the "
            "action command a subject's synergies (synergies='action'), or use "
            "nms_gym.envs.moment_tracking.make_task, which allows none"
        )
    return task


def with_params(task: MomentTracking, params: NmsParams) -> MomentTracking:
    """The same task for a subject with other parameters (those of the subject's own channels)."""
    return replace(task, params=with_action_params(params, len(task.actuated)))
