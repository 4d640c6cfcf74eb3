"""Track measured joint moments while a recorded motion is replayed: the task as pure functions.

There are no skeleton dynamics: joint motion is what was recorded. Recorded EMG channels drive their muscles with the
subject's gain and delay; synergies, where the subject has them, drive theirs with commands found from the recording, or
given by the action; the action drives chosen muscles that nothing else does, and the rest are passive. One step of the
task is one ``neuromuscular_step`` of the model, so an episode whose action is 0 (or that repeats the recording's
commands) reproduces ``predict_moments`` on the recording.

``info["success"]`` says whether the root mean square error of the episode so far, over the standard deviation of the
measured moments, is below ``TOLERANCE``. ``info["outside_trained_range"]``, of a calibrated person, is the fraction of
recorded channels, angles and speeds of the sample that are outside what the calibration has seen
(``nms_gym.departures``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import Leaf, pytree, replace, static
from nms_gym.conditions import conditions_from_spec
from nms_gym.envs.actuation import MuscleOptions, Muscles, make_muscles
from nms_gym.envs.limb import pack_params, unpack_params
from nms_gym.envs.options import Options, builds, option
from nms_gym.envs.person import (
    Conditions,
    PersonOptions,
    action_channels,
    each_of,
    load_person,
    stacked_params,
    warn_of_strength,
)
from nms_gym.envs.recordings import RecordingOptions
from nms_gym.envs.rendering.scene import Scene, moment_strip
from nms_gym.envs.sources import (
    NEUTRAL,
    OWN,
    ActionChannels,
    SourceOptions,
    chosen_sources,
    driven_model,
    params_for,
    sources_in_words,
    with_action_channels,
)
from nms_gym.envs.task import (
    SPEED_UNIT,
    Step,
    as_numpy,
    bounds_of,
    draw_index,
    equal_bounds,
    indices_of,
    observe,
)
from nms_gym.envs.trained import trained_limits
from nms_gym.errors import InputError, listed
from nms_gym.files.subject import Subject, resolve_trial
from nms_gym.model.condition import Condition
from nms_gym.model.forward import Kinematics, NmsOutput, NmsState, initial_state, neuromuscular_step, output_at_rest
from nms_gym.model.parameters import NEUTRAL_CHANNEL, NmsParams
from nms_gym.model.replay import Replay, make_segment
from nms_gym.model.structure import NmsModel
from nms_gym.recording.trial import Trial, load_trial

EFFORT_WEIGHT = 0.01
"""Of the mean squared excitation, beside a tracking error of order 1."""

PREVIEW = (0.0, 0.025, 0.050)
"""s ahead of the next sample, at which the observation shows the measured moments."""

TOLERANCE = 0.5
"""of the moments' standard deviation"""

SMALLEST_SCALE = 0.1
"""N·m; a measured moment that hardly varies is not scaled by less."""


@pytree
class MomentTracking:
    """The task: a model and a recording on its grid. Arrays are leaves; build it with ``moment_tracking_task``.

    Samples run from 0 to T - 1; step number k of an episode that starts at sample s produces sample s + k.
    """

    observed: tuple[str, ...] = static()
    """J coordinates whose motion is part of the observation"""
    preview: tuple[int, ...] = static()
    """steps ahead of the next sample"""
    dt: float = static()
    """s; a step is a sample of the recording"""
    sources: tuple[tuple[str, str], ...] = static()
    """muscle and what drives it, for people to read"""
    actuation: Muscles
    """excites muscles that nothing else does, and may give synergy commands"""
    model: NmsModel
    """with a channel for every actuated muscle, after the recorded ones"""
    params: NmsParams
    people: Array | None
    """(N, P) parameters of those whom a reset draws from, packed; None for one person"""
    condition: Condition
    replay: Replay
    """``excitations`` of the recorded channels and synergy commands only"""
    time: Leaf
    """(T,) s since the first sample"""
    q: Leaf
    """(T, J) rad"""
    qd: Leaf
    """(T, J) rad/s"""
    measured: Leaf
    """(T, K) N·m"""
    scale: Leaf
    """(K,) N·m; standard deviation of the measured moments"""
    last_start: Leaf
    """int32; episodes start at a sample from 0 to this one"""
    command_scale: Leaf
    """(S,) the command that an action of 1 gives: the largest one of the recording, at least 1"""
    action_channels: ActionChannels = static(default=NEUTRAL)
    """how actions reach the muscles"""
    outside: Array | None = None
    """(T,) fraction of the recording's channels, angles and speeds outside what the calibration has seen; None where
    nobody knows"""

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
        return self.model.channels[: len(self.model.channels) - len(self.actuation.muscles)]

    @property
    def action_names(self) -> tuple[str, ...]:
        """One name per entry of the action: muscles, then synergy commands."""
        return self.actuation.action_names

    @property
    def action_units(self) -> str:
        """What an action is."""
        return self.actuation.action_units

    @property
    def action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """[0, 1] or [-1, 1]."""
        return equal_bounds(float(self.actuation.lowest_action), 1.0, len(self.action_names))

    @property
    def drive(self) -> dict[str, str]:
        """What drives each muscle, as ``sources_in_words`` says."""
        return dict(self.sources)

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
            *self.actuation.observation_names,
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
        silent = jnp.zeros((length, len(self.actuation.muscles)), past.dtype)
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
        _, effect = self.actuation.act((), action, _row(self.qd, k), self.dt)
        commanded = self.actuation.commands
        commands, muscles = jnp.split(effect.channels, [len(commanded)])
        replayed = _row(self.replay.excitations, k + length)
        if commanded:
            columns = np.array([model.channels.index(c) for c in commanded], np.int32)
            replayed = replayed.at[columns].set(self.command_scale * commands)
        channels = jnp.concatenate([replayed, muscles])
        following, out = neuromuscular_step(
            model, params, state.muscles, channels, self._kinematics(k), self.replay.dt, condition=self.condition
        )
        error = (out.moments - _row(self.measured, k)) / self.scale
        squared = jnp.mean(error**2)
        residual = jnp.max(jnp.abs(out.residual))
        state = TrackingState(following, k + 1, state.person, state.steps + 1, state.squares + squared)
        info = self._info(state, k, out, residual, -squared, effect.cost)
        observation = self._observe(k + 1, out)
        return state, Step(observation, effect.cost - squared, jnp.bool_(False), k + 1 >= self.horizon, info)

    def baseline(self, observation: Array) -> Array:
        """Muscles that lack in the last moment, in proportion to what is missing now."""
        names, joints = self.observation_names, len(self.coordinates)
        target = observation[indices_of(names, "target")][:joints]
        missing = (target - observation[indices_of(names, "moment")]) * self.scale
        return self.actuation.action_for(missing)

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
        outside = {} if self.outside is None else {"outside_trained_range": _row(self.outside, sample)}
        return outside | {
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


@dataclass(frozen=True, kw_only=True)
class TrackingOptions(Options):
    """What is tracked, and with which muscles."""

    actuated: Sequence[str] | None = option(
        None,
        "muscles that the action drives; by default all that neither channels nor synergies do. Give ``sources`` "
        "instead to take muscles from their channels; muscles not named there keep what the subject has",
    )
    coordinates: Sequence[str] | None = option(
        None, "joints whose moments are tracked; by default the measured ones that the subject has"
    )


def moment_tracking_task(
    subject: Subject,
    trial: Trial,
    *,
    people: NmsParams | None = None,
    condition: Conditions | None = None,
    sources: SourceOptions = SourceOptions(),
    tracking: TrackingOptions = TrackingOptions(),
    window: RecordingOptions = RecordingOptions(),
    muscles: MuscleOptions = MuscleOptions(effort_weight=EFFORT_WEIGHT),
) -> MomentTracking:
    """Build the task, with NumPy float64 leaves.

    Args:
        subject: whose muscles.
        trial: the recording to replay; with measured moments.
        people: parameters ``(N, ...)`` of those whom a reset draws from; None for the subject alone.
        condition: what impairs the person, as ``conditions_from_spec`` takes it.
        sources: what drives which muscle, and who gives the commands of a subject's synergies.
        tracking: joints, and muscles that the action drives; none may be left here (the recording drives all that
            moves).
        window: start, stop and whether episodes start anywhere in the first half of it.
        muscles: what excitation costs, and from where actions run.

    Raises:
        InputError: an unknown muscle, coordinate or channel; a muscle that has a channel; no measured moments; an empty
            window.
    """
    actuated = tracking.actuated
    if isinstance(actuated, str):
        raise InputError(f"actuated is {actuated!r}; give a list of muscle names")
    if sources.sources is not None and actuated is not None:
        raise InputError("give actuated or sources, not both: sources = {muscle: 'policy'} actuates a muscle")
    base = subject.model
    if sources.sources is not None:
        chosen = chosen_sources(base, base.muscles, sources.sources, OWN)
        actuated = [muscle for muscle, source in chosen.items() if source == "policy"]
        base = driven_model(base, chosen | dict.fromkeys(actuated, "passive"), "recorded")
    commanded = base.commands if sources.synergies == "action" else ()
    if sources.synergies == "action" and not commanded:
        raise InputError(
            f"subject {subject.name!r} has no synergies that the action could command; calibrate one with mode "
            "'synergy_hybrid', or leave synergies = 'recorded'"
        )
    segment = make_segment(
        base, trial, coordinates=tracking.coordinates, start=window.start, stop=window.stop, lead_in=0.0
    )
    if segment.measured is None:
        raise InputError(
            f"trial {trial.name!r} has no measured moments of {listed(segment.coordinates)}, so there is nothing to "
            f"track (it has {listed(trial.moment_coordinates) if trial.moments is not None else 'none'}); "
            "add inverse-dynamics moments to the trial, or choose other coordinates"
        )
    actuated = base.passive_muscles if actuated is None else tuple(actuated)
    conditions = conditions_from_spec(condition, base)
    everyone = [subject.params] if people is None else each_of(people)
    model, how = with_action_channels(base, actuated), action_channels(subject, muscles)
    crowd = [
        _with_actions(model, base, conditions.prepare(base, params_for(base, subject.model, one))[1],
                      params_for(model, subject.model, one, how))
        for one in everyone
    ]  # fmt: skip
    dt = float(segment.replay.dt)
    first = int(np.searchsorted(trial.time, segment.time[0] - 0.5 * dt))
    rows = slice(first, first + len(segment.time))
    observed = tuple(c for c in model.coordinates if c in trial.coordinates)
    columns = [trial.coordinates.index(c) for c in observed]
    given = [model.channels.index(c) for c in commanded]
    driven = [model.muscles.index(m) for m in actuated]
    strength = np.mean(segment.replay.moment_arms, axis=0) * np.asarray(crowd[0].max_isometric_force)
    leaves: dict[str, Any] = {
        "people": None if people is None else pack_params(stacked_params(crowd)),
        "time": segment.time - segment.time[0],
        "q": trial.q[rows][:, columns],
        "qd": trial.qd[rows][:, columns],
        "measured": segment.measured,
        "scale": np.maximum(np.std(segment.measured, axis=0), SMALLEST_SCALE),
        "last_start": np.int32((len(segment.time) - 1) // 2 if window.random_start else 0),
        "command_scale": np.maximum(segment.replay.excitations[:, given].max(axis=0), 1.0),
    }
    replayed = [model.channels.index(c) for c in base.channels if c not in commanded]
    limits = trained_limits(subject.trained, [model.channels[i] for i in replayed], observed)
    if limits is not None:
        shown = np.asarray(segment.replay.excitations)[-len(segment.time) :, replayed]
        leaves["outside"] = limits.outside(shown, leaves["q"], leaves["qd"])
    task = MomentTracking(
        observed=observed,
        preview=tuple(round(ahead / dt) for ahead in PREVIEW),
        dt=dt,
        sources=tuple(sources_in_words(model, sources.synergies).items()),
        actuation=make_muscles(
            strength[:, driven], muscles, muscles=actuated, commands=commanded, observed=model.muscles
        ),
        # The recording brings lengths and moment arms, so the paths would only be carried along.
        model=replace(model, paths=None),
        params=crowd[0],
        condition=conditions,
        action_channels=how,
        replay=segment.replay,
        **leaves,
    )
    return as_numpy(task)


@builds("MomentTracking")
def make_moment_tracking(
    replay: RecordingOptions = RecordingOptions(),
    person: PersonOptions = PersonOptions(),
    tracking: TrackingOptions = TrackingOptions(),
    sources: SourceOptions = SourceOptions(),
    muscles: MuscleOptions = MuscleOptions(effort_weight=EFFORT_WEIGHT),
) -> MomentTracking:
    """Track measured joint moments by exciting the muscles that were not recorded."""
    if not (replay.trial is None or isinstance(replay.trial, (str, os.PathLike))):
        raise InputError(f"trial is {replay.trial!r}; this task replays one recording: give its path or name")
    subject, people = load_person(person)
    task = moment_tracking_task(
        subject,
        load_trial(resolve_trial(replay.trial)),
        people=people,
        condition=person.condition,
        sources=sources,
        tracking=tracking,
        window=replay,
        muscles=muscles,
    )
    warn_of_strength(person, subject, task.actuation.muscles, muscles)
    if not task.action_names:
        raise InputError(
            "no muscle is actuated, and an environment needs an action: name at least one muscle without a channel in "
            f"actuated (there are {listed(m for m, drive in task.drive.items() if drive == 'passive')}), let the "
            "action command a subject's synergies (synergies='action'), or use "
            "nms_gym.envs.moment_tracking.moment_tracking_task, which allows none"
        )
    return task


def with_params(task: MomentTracking, model: NmsModel, params: NmsParams) -> MomentTracking:
    """The same task for a person with other parameters, which are those of ``model``, a subject's."""
    return replace(task, params=params_for(task.model, model, params, task.action_channels))


def _with_actions(model: NmsModel, base: NmsModel, prepared: NmsParams, acting: NmsParams) -> NmsParams:
    """Parameters of ``model``: ``prepared``, of ``base``, and of the action's channels those of ``acting``."""
    found = params_for(model, base, prepared)
    old = len(base.channels)
    channels = {
        kind: np.concatenate([np.asarray(getattr(found, kind))[:old], np.asarray(getattr(acting, kind))[old:]])
        for kind in NEUTRAL_CHANNEL
    }
    return replace(found, **channels)
