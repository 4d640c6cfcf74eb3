"""Track measured joint moments while a recorded motion is replayed: the task as pure functions.

There are no skeleton dynamics: joint motion is what was recorded. Recorded EMG channels drive their muscles with the
subject's gain and delay; synergies, where the subject has them, drive theirs with commands found from the recording, or
given by the action; the action drives chosen muscles that nothing else does, and the rest are passive. One step of the
task is one ``replay_step`` of the model, so an episode whose action is 0 (or that repeats the recording's commands)
reproduces ``predict_moments`` on the recording.

``reset`` and ``step`` can be jitted, mapped over a batch and differentiated with respect to actions and every
parameter (leaves of ``task.params``). The environments of Gymnasium are thin shells around them.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import pytree, replace, static
from nms_gym.errors import InputError, listed, near
from nms_gym.excitation import activation as act
from nms_gym.model import CHANNEL_PARAMETERS, NmsModel, NmsParams, NmsState, Replay, initial_state, replay_step
from nms_gym.muscle import hill
from nms_gym.muscle.moments import joint_moments
from nms_gym.recording.storage import require_unique
from nms_gym.recording.trial import Trial, load_trial
from nms_gym.replay import make_segment
from nms_gym.subject import Subject, load_subject, resolve_subject, resolve_trial

ACTION_PREFIX = "action:"
"""Channels that the action drives are named ``action:<muscle>``."""

PREVIEW = (0.0, 0.025, 0.050)
"""s ahead of the next sample, at which the observation shows the measured moments."""

EFFORT_WEIGHT = 0.01
"""Of the mean squared excitation that the action asks for, beside a tracking error of order 1."""

SMALLEST_SCALE = 0.1
"""N·m; a measured moment that hardly varies is not scaled by less."""

# Bounds of the observation by group; values are clipped to them. Far beyond what people do, so that clipping means that
# something is wrong, and finite, as normalising wrappers and learners want.
OBSERVATION_BOUNDS: dict[str, tuple[float, float]] = {
    "phase": (0.0, 1.0),
    "angle": (-10.0, 10.0),
    "speed": (-10.0, 10.0),
    "target": (-20.0, 20.0),
    "moment": (-100.0, 100.0),
    "activation": (0.0, 2.0),
    "fiber_length": (0.0, 3.0),
}
SPEED_UNIT = 10.0
"""rad/s"""


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
    model: NmsModel
    """with a channel for every actuated muscle, after the recorded ones"""
    params: NmsParams
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
    effort_weight: Array
    last_start: Array
    """int32; episodes start at a sample from 0 to this one"""
    command_scale: Array
    """(S,) the command that an action of 1 gives: the largest one of the recording, at least 1"""
    lowest_action: Array
    """the action that excites nothing: 0 or -1; full excitation is 1"""

    @property
    def samples(self) -> int:
        """T, the length of the longest episode."""
        return self.replay.lengths.shape[0]

    @property
    def coordinates(self) -> tuple[str, ...]:
        """K joints whose moments are tracked."""
        return self.replay.coordinates

    @property
    def replayed_channels(self) -> tuple[str, ...]:
        """Channels of ``replay``: recorded ones and synergy commands."""
        return self.model.channels[: len(self.model.channels) - len(self.actuated)]

    @property
    def action_names(self) -> tuple[str, ...]:
        """One name per entry of the action: muscles, then synergy commands."""
        return self.actuated + self.commanded

    @property
    def drive(self) -> dict[str, str]:
        """What drives each muscle: ``"recorded: <channels>"``, ``"synergy: <commands>"``, both joined by ``" + "``,
        ``"action"``, ``"action by synergy: <commands>"`` or ``"passive"``."""
        sources = {}
        for muscle in self.model.muscles:
            names = self.model.sources(muscle)
            commands = [c for c in names if c in self.model.commands]
            recorded = [c for c in names if c in self.replayed_channels and c not in commands]
            parts = (
                [f"recorded: {', '.join(recorded)}"] if recorded else ["action"] if len(names) > len(commands) else []
            )
            if commands:
                parts.append(f"{'action by synergy' if self.commanded else 'synergy'}: {', '.join(commands)}")
            sources[muscle] = " + ".join(parts) or "passive"
        return sources

    @property
    def observation_names(self) -> tuple[str, ...]:
        """One name per entry of the observation, ``group:name``; the group sets its unit and bounds.

        ``phase``: the next sample over T. ``angle`` (rad) and ``speed`` (10 rad/s): recorded motion at the next
        sample. ``target``: measured moment there and a little later, over ``scale``. ``moment``: produced by the last
        step, over ``scale``. ``activation`` and normalised ``fiber_length``: of every muscle after the last step.
        """
        dt = float(self.replay.dt)
        ahead = ["" if n == 0 else f"+{1000 * n * dt:.0f}ms" for n in self.preview]
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
        bounds = [OBSERVATION_BOUNDS[name.split(":")[0]] for name in self.observation_names]
        low, high = np.asarray(bounds, dtype=np.float32).T
        return low, high


@pytree
class TaskState:
    """What evolves during an episode."""

    muscles: NmsState
    sample: Array
    """int32; the sample that the next step produces"""


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

    fixed = dict(zip(CHANNEL_PARAMETERS, (1.0, 0.0), strict=True))
    return replace(params, **{kind: extended(getattr(params, kind), value) for kind, value in fixed.items()})


def make_task(
    subject: Subject,
    trial: Trial,
    *,
    actuated: Sequence[str] | None = None,
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
        actuated: muscles that the action drives; by default all that nothing else does. May be empty here (the
            recording drives all that moves).
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
    model, params = with_action_channels(subject.model, subject.params, muscles)
    dt = float(segment.replay.dt)
    first = int(np.searchsorted(trial.time, segment.time[0] - 0.5 * dt))
    rows = slice(first, first + len(segment.time))
    observed = tuple(c for c in model.coordinates if c in trial.coordinates)
    columns = [trial.coordinates.index(c) for c in observed]
    task = MomentTracking(
        actuated=muscles,
        commanded=commanded,
        observed=observed,
        preview=tuple(round(ahead / dt) for ahead in PREVIEW),
        # The recording brings lengths and moment arms, so the paths would only be carried along.
        model=replace(model, paths=None),
        params=params,
        replay=segment.replay,
        time=segment.time - segment.time[0],
        q=trial.q[rows][:, columns],  # type: ignore[arg-type]
        qd=trial.qd[rows][:, columns],  # type: ignore[arg-type]
        measured=segment.measured,  # type: ignore[arg-type]
        scale=np.maximum(np.std(segment.measured, axis=0), SMALLEST_SCALE),  # type: ignore[arg-type]
        effort_weight=np.asarray(effort_weight),  # type: ignore[arg-type]
        last_start=np.asarray((len(segment.time) - 1) // 2 if random_start else 0, np.int32),  # type: ignore[arg-type]
        command_scale=np.maximum(segment.replay.excitations[:, _columns(model, commanded)].max(axis=0), 1.0),  # type: ignore[arg-type]
        lowest_action=np.asarray(-1.0 if symmetric_action else 0.0),  # type: ignore[arg-type]
    )
    return jax.tree.map(lambda leaf: _cast(np.asarray(leaf), np.float64), task)


def _columns(model: NmsModel, commands: Sequence[str]) -> list[int]:
    """Where commands stand among the model's channels."""
    return [model.channels.index(c) for c in commands]


def _cast(leaf: Any, dtype: Any) -> Any:
    """Floats to one type; the sample index stays what it is."""
    return leaf.astype(dtype) if np.issubdtype(leaf.dtype, np.floating) else leaf


def load_task(
    trial: str | os.PathLike[str] | None = None, subject: str | os.PathLike[str] | None = None, **options: Any
) -> MomentTracking:
    """``make_task`` from files: paths, names of shipped demo trials, or None for the demo.

    Raises:
        InputError: as ``make_task``, ``load_trial`` and ``load_subject``.
    """
    return make_task(load_subject(resolve_subject(subject)), load_trial(resolve_trial(trial)), **options)


def with_params(task: MomentTracking, params: NmsParams) -> MomentTracking:
    """The same task for a subject with other parameters (those of the subject's own channels)."""
    return replace(task, params=with_action_params(params, len(task.actuated)))


def reset(task: MomentTracking, key: Array) -> tuple[TaskState, Array, dict[str, Array]]:
    """Start an episode.

    Args:
        task: from ``make_task``.
        key: of ``jax.random.key``; decides where, with ``random_start``.

    Returns:
        state, observation ``(O,)`` and info as ``step`` gives it, of the muscles at rest at the first sample.
    """
    return reset_at(task, jax.random.randint(key, (), 0, task.last_start + 1, jnp.int32))


def reset_at(task: MomentTracking, sample: Array) -> tuple[TaskState, Array, dict[str, Array]]:
    """Start an episode whose first step produces ``sample`` (int32); returns what ``reset`` does."""
    model, params = task.model, task.params
    replayed = len(task.replayed_channels)
    length = task.replay.excitations.shape[0] - task.samples + 1
    past = jax.lax.dynamic_slice(task.replay.excitations, (sample, jnp.zeros_like(sample)), (length, replayed))
    silent = jnp.zeros((length, len(task.actuated)), past.dtype)
    history = jnp.concatenate([past, silent], axis=1)[::-1]
    lengths, _, arms = _kinematics(task, sample)
    muscles = initial_state(model, params, history, lengths, task.replay.dt)

    activation = act.shaped(muscles.filtered, params.shape_factor)
    w, x = muscles.fiber.along_tendon, muscles.fiber.length
    force = hill.force_along_tendon(model.settings.curves, params, activation, w, x, jnp.zeros_like(x))
    moments = joint_moments(arms, params.max_isometric_force * force)
    # The first step pushes this sample's excitation; until then the newest one is the sample before.
    muscles = replace(muscles, excitation_history=jnp.concatenate([history[1:], history[-1:]]))
    state = TaskState(muscles, sample)
    zero = jnp.zeros((), moments.dtype)
    info = _info(task, sample, moments, muscles.filtered, activation, zero, zero, zero)
    return state, _observe(task, sample, moments, activation, x), info


def step(
    task: MomentTracking, state: TaskState, action: Array
) -> tuple[TaskState, Array, Array, Array, Array, dict[str, Array]]:
    """Produce one sample of moments.

    The reward is ``-mean_k(((moment_k - measured_k) / scale_k)^2) - effort_weight mean_a(excitation_a^2)``, with the
    excitations that the action asks for; it is 0 at best.

    Args:
        task: from ``make_task``.
        state: from ``reset`` or the last step; not after a truncation.
        action: ``(A,)`` in the order of ``task.action_names``.

    Returns:
        state; observation ``(O,)`` (see ``MomentTracking.observation_names``); reward; terminated (never); truncated
        (after the last sample); info, of the sample that was produced: ``time`` (s since the window's start),
        ``sample``, ``moments``, ``measured`` and ``error`` ``(K,)`` N·m, ``excitation`` and ``activation`` ``(M,)``,
        ``residual`` (largest miss of the implicit fiber equation, in tendon slack lengths), ``reward_tracking`` and
        ``reward_effort``.
    """
    k = state.sample
    length = task.replay.excitations.shape[0] - task.samples
    drive = (action - task.lowest_action) / (1.0 - task.lowest_action)
    muscles, commands = jnp.split(drive, [len(task.actuated)])
    replayed = _row(task.replay.excitations, k + length)
    if task.commanded:
        columns = np.array(_columns(task.model, task.commanded), np.int32)
        replayed = replayed.at[columns].set(task.command_scale * commands)
    excitation = jnp.concatenate([replayed, muscles])
    moved, out = replay_step(task.model, task.params, state.muscles, excitation, _kinematics(task, k), task.replay.dt)
    error = (out.moments - _row(task.measured, k)) / task.scale
    tracking = -jnp.mean(error**2)
    effort = -task.effort_weight * jnp.mean(drive**2) if task.action_names else jnp.zeros_like(tracking)
    residual = jnp.max(jnp.abs(out.residual))
    info = _info(task, k, out.moments, out.excitation, out.activation, residual, tracking, effort)
    following = k + 1
    observation = _observe(task, following, out.moments, out.activation, out.fiber_length)
    state = TaskState(moved, following)
    return state, observation, tracking + effort, jnp.bool_(False), following >= task.samples, info


def rollout(task: MomentTracking, actions: Array, key: Array | None = None) -> tuple[Array, dict[str, Array]]:
    """Rewards ``(N,)`` and infos, with a leading time axis, of an episode with given actions ``(N, A)``.

    The sum of the rewards is the return; it can be differentiated with respect to ``actions`` and ``task``.

    Args:
        task: from ``make_task``.
        actions: at most T of them.
        key: of ``jax.random.key``; where to start, with ``random_start``. Without it, at the first sample.
    """
    state = (reset_at(task, jnp.int32(0)) if key is None else reset(task, key))[0]

    # Recomputing each step in the backward pass keeps memory flat in the number of steps and costs no time.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def advance(state: TaskState, action: Array) -> tuple[TaskState, tuple[Array, dict[str, Array]]]:
        state, _, reward, _, _, info = step(task, state, action)
        return state, (reward, info)

    return jax.lax.scan(advance, state, actions)[1]


def as_dtype(task: MomentTracking, dtype: Any) -> MomentTracking:
    """The task as JAX arrays of one float type; call it inside ``jax.enable_x64(True)`` for float64."""
    return jax.tree.map(lambda leaf: jnp.asarray(_cast(leaf, dtype)), task)


def _row(series: Array, index: Array) -> Array:
    """One row of a series; the last one beyond its end."""
    return jax.lax.dynamic_index_in_dim(series, index, keepdims=False)


def _kinematics(task: MomentTracking, sample: Array) -> tuple[Array, Array, Array]:
    replay = task.replay
    return _row(replay.lengths, sample), _row(replay.velocities, sample), _row(replay.moment_arms, sample)


def _observe(task: MomentTracking, sample: Array, moments: Array, activation: Array, fiber_length: Array) -> Array:
    """Observation before the step that produces ``sample``; the layout of ``observation_names``."""
    dtype = moments.dtype
    groups: Mapping[str, Any] = {
        "phase": (sample.astype(dtype) / task.samples)[None],
        "angle": _row(task.q, sample),
        "speed": _row(task.qd, sample) / SPEED_UNIT,
        "target": jnp.concatenate([_row(task.measured, sample + n) / task.scale for n in task.preview]),
        "moment": moments / task.scale,
        "activation": activation,
        "fiber_length": fiber_length,
    }
    return jnp.concatenate([jnp.clip(value, *OBSERVATION_BOUNDS[group]) for group, value in groups.items()])


def _info(
    task: MomentTracking,
    sample: Array,
    moments: Array,
    excitation: Array,
    activation: Array,
    residual: Array,
    tracking: Array,
    effort: Array,
) -> dict[str, Array]:
    measured = _row(task.measured, sample)
    return {
        "time": _row(task.time, sample),
        "sample": sample,
        "moments": moments,
        "measured": measured,
        "error": moments - measured,
        "excitation": excitation,
        "activation": activation,
        "residual": residual,
        "reward_tracking": tracking,
        "reward_effort": effort,
    }
