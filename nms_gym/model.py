"""The neuromusculoskeletal model: what it is made of, and the forward functions.

Three kinds of pytree, never mixed: ``NmsModel`` (structure), ``NmsParams`` (what can be fitted: one leaf per kind, one
entry per muscle or channel) and ``NmsState`` (what evolves). One step reads like the path of a signal::

    channels -> gain, delay -> muscle excitation -> activation -> fiber and tendon -> force -> joint moments

``musculotendon_step`` is that step with the musculotendon kinematics given; ``neuromuscular_step`` computes them from
joint angles first; ``predict_moments`` scans the step over a recording. Simulation, environments and calibration all
call these.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import pytree, static
from nms_gym.errors import InputError, listed
from nms_gym.excitation import activation as act
from nms_gym.excitation.activation import ActivationKind
from nms_gym.excitation.synergies import SynergyBasis, synthesised, with_synergies
from nms_gym.muscle.curves import Curves, DeGrooteFregly2016
from nms_gym.muscle.geometry import PolynomialPaths, lengths_and_moment_arms, musculotendon_velocities
from nms_gym.muscle.hill import MuscleParams
from nms_gym.muscle.moments import joint_moments
from nms_gym.muscle.tendon import FiberState, Integrator, TendonKind, fiber_step, initial_fiber
from nms_gym.skeleton.skeleton import Skeleton


@dataclass(frozen=True)
class Settings:
    """How the equations are solved. Part of a subject: parameters fitted with one choice do not suit another."""

    tendon: Literal["rigid", "elastic", "mixed"] = "elastic"
    """"mixed": rigid for ``NmsModel.rigid_tendons``, elastic for the others"""
    integrator: Integrator = "bdf2"
    tendon_iterations: int = 12
    """at most so many for an elastic tendon; usually two or three do, and ``examples/benchmarks/stress.py`` never needs
    more than this"""
    activation: ActivationKind = "second_order"
    max_delay: float = 0.15
    """s; the longest electromechanical delay that the excitation history can hold"""
    curves: Curves = dataclasses.field(default_factory=DeGrooteFregly2016)

    def __post_init__(self) -> None:
        allowed = {
            "tendon": ("rigid", "elastic", "mixed"),
            "integrator": ("bdf2", "backward_euler"),
            "activation": ("second_order", "first_order"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise InputError(f"{name} is {getattr(self, name)!r}; use one of {listed(values)}")
        if not 1 <= self.tendon_iterations <= 50:
            raise InputError(f"tendon_iterations is {self.tendon_iterations}; use 1 to 50 (default 12)")
        if not 0 < self.max_delay <= 1:
            raise InputError(f"max_delay is {self.max_delay} s; use more than 0 and at most 1 s")

    def history_length(self, dt: float) -> int:
        """Samples of excitation to keep so that ``max_delay`` can be interpolated at step ``dt``."""
        return max(math.ceil(self.max_delay / dt - 1e-9) + 3, 4)


@pytree
class NmsModel:
    """Structure: names, settings, who drives whom, and muscle paths where joint angles are to be used."""

    muscles: tuple[str, ...] = static()
    coordinates: tuple[str, ...] = static()
    """joints whose moments are computed; with ``paths``, also the joints whose angles ``neuromuscular_step`` takes"""
    channels: tuple[str, ...] = static()
    settings: Settings = static()
    channel_weights: Array
    """(M, C); what each channel contributes to each muscle's excitation; a row of zeros is a passive muscle"""
    paths: PolynomialPaths | None = None
    skeleton: Skeleton | None = None
    """what moves when moments act; needed by ``rollout`` only"""
    rigid_tendons: tuple[str, ...] = static(default=())
    """muscles whose tendon is rigid when ``settings.tendon`` is "mixed" (``tendon.rigid_by_rule`` chooses them)"""
    synergies: SynergyBasis | None = None
    """turns recorded envelopes into commands; its commands are channels too, next to one another"""
    synergy_pairs: tuple[tuple[str, str], ...] = static(default=())
    """(muscle, command) for every weight of ``NmsParams.synergy_weight``; a muscle that also has a recorded channel
    gets a residual excitation this way, which may be negative"""

    @property
    def tendons(self) -> TendonKind | tuple[TendonKind, ...]:
        """The kind of all tendons, or of each muscle's where they differ."""
        kind = self.settings.tendon
        if kind != "mixed":
            return kind
        kinds: list[TendonKind] = ["rigid" if muscle in self.rigid_tendons else "elastic" for muscle in self.muscles]
        return tuple(kinds)

    @property
    def commands(self) -> tuple[str, ...]:
        """Channels that are synergy commands."""
        return () if self.synergies is None else self.synergies.command_names

    @property
    def recorded_channels(self) -> tuple[str, ...]:
        """Channels that a recording must have: those that drive a muscle, and those that commands are found from."""
        return tuple(c for c in self.channels if c not in self.commands)

    @property
    def recorded_muscles(self) -> tuple[str, ...]:
        """Muscles that a channel drives directly."""
        driven = np.any(np.asarray(self.channel_weights) != 0, axis=1)
        return tuple(m for m, d in zip(self.muscles, driven, strict=True) if d)

    @property
    def synergy_muscles(self) -> tuple[str, ...]:
        """Muscles that synergies excite, in the model's order."""
        paired = {muscle for muscle, _ in self.synergy_pairs}
        return tuple(m for m in self.muscles if m in paired)

    def sources(self, muscle: str) -> tuple[str, ...]:
        """Channels and synergy commands that excite a muscle."""
        row = np.asarray(self.channel_weights)[self.muscles.index(muscle)]
        channels = tuple(c for c, w in zip(self.channels, row, strict=True) if w != 0)
        return channels + tuple(c for m, c in self.synergy_pairs if m == muscle)

    @property
    def passive_muscles(self) -> tuple[str, ...]:
        """Muscles that nothing drives."""
        driven = {*self.recorded_muscles, *self.synergy_muscles}
        return tuple(m for m in self.muscles if m not in driven)


@pytree
class NmsParams(MuscleParams):
    """Everything that calibration can fit. Muscle leaves ``(M,)``, channel leaves ``(C,)``."""

    filter_time_constant_1: Array
    """s, ``(M,)``; first pole of the second-order filter"""
    filter_time_constant_2: Array
    """s, ``(M,)``; second pole of the second-order filter"""
    activation_time_constant: Array
    """s, ``(M,)``; of first-order activation dynamics"""
    deactivation_time_constant: Array
    """s, ``(M,)``; of first-order activation dynamics"""
    shape_factor: Array
    """``(M,)``; the A of Lloyd & Besier, 0 is linear"""
    emg_gain: Array
    """``(C,)``; excitation per unit of the envelope"""
    electromechanical_delay: Array
    """s, ``(C,)``"""
    synergy_weight: Array
    """``(U,)``; excitation of a muscle per unit of a command, in the order of ``NmsModel.synergy_pairs``"""


# Field defaults for what an OpenSim model does not say. Damping: Millard et al. 2013. Strains: OpenSim's
# DeGrooteFregly2016Muscle. Filter: C1 = C2 = -0.5 at 1 kHz in CEINMS's examples is 1.4 ms, which is no filter at all;
# 20 ms and critically damped gives the twitch time of 20 to 40 ms that Lloyd & Besier's bounds allow. Delay: 30 ms, in
# the middle of the 10 to 100 ms that Buchanan et al. 2004 report. Shape factor: CEINMS's bounds -3..0, weakly curved.
DEFAULTS: dict[str, float] = {
    "fiber_damping": 0.1,
    "passive_fiber_strain_at_one_norm_force": 0.6,
    "tendon_strain_at_one_norm_force": 0.049,
    "optimal_fiber_length_change": 0.0,
    "max_contraction_velocity": 10.0,
    "pennation_at_optimal": 0.0,
    "filter_time_constant_1": 0.020,
    "filter_time_constant_2": 0.020,
    "activation_time_constant": 0.015,
    "deactivation_time_constant": 0.060,
    "shape_factor": -0.5,
    "emg_gain": 1.0,
    "electromechanical_delay": 0.030,
    "synergy_weight": 0.0,
}

PARAMETER_UNITS: dict[str, str] = {
    "max_isometric_force": "N",
    "optimal_fiber_length": "m",
    "tendon_slack_length": "m",
    "pennation_at_optimal": "rad",
    "max_contraction_velocity": "optimal_fiber_length/s",
    "fiber_damping": "1",
    "passive_fiber_strain_at_one_norm_force": "1",
    "tendon_strain_at_one_norm_force": "1",
    "optimal_fiber_length_change": "1",
    "filter_time_constant_1": "s",
    "filter_time_constant_2": "s",
    "activation_time_constant": "s",
    "deactivation_time_constant": "s",
    "shape_factor": "1",
    "emg_gain": "1",
    "electromechanical_delay": "s",
    "synergy_weight": "1",
}

CHANNEL_PARAMETERS = ("emg_gain", "electromechanical_delay")
PARAMETER_KINDS: tuple[str, ...] = tuple(f.name for f in dataclasses.fields(cast(Any, NmsParams)))

# Values outside these no muscle or channel can have, whatever a calibration allows.
LIMITS: dict[str, tuple[float, float]] = {
    "max_isometric_force": (1e-6, 1e6),
    "optimal_fiber_length": (1e-4, 2.0),
    "tendon_slack_length": (1e-5, 2.0),
    "pennation_at_optimal": (0.0, 1.4),
    "max_contraction_velocity": (0.1, 100.0),
    "fiber_damping": (0.0, 10.0),
    "passive_fiber_strain_at_one_norm_force": (0.1, 10.0),
    "tendon_strain_at_one_norm_force": (0.005, 1.0),
    "optimal_fiber_length_change": (0.0, 1.0),
    "filter_time_constant_1": (1e-5, 2.0),
    "filter_time_constant_2": (1e-5, 2.0),
    "activation_time_constant": (1e-4, 2.0),
    "deactivation_time_constant": (1e-4, 2.0),
    "shape_factor": (-20.0, 20.0),
    "emg_gain": (0.0, 1e6),
    "electromechanical_delay": (0.0, 1.0),
    "synergy_weight": (-10.0, 10.0),
}


def entries(model: NmsModel, kind: str) -> tuple[str, ...]:
    """Names of the entries of a parameter kind: muscles, channels, or pairs ``muscle:command``.

    Raises:
        InputError: no such kind.
    """
    if kind not in PARAMETER_KINDS:
        raise InputError(f"no parameter {kind!r}; there are {listed(PARAMETER_KINDS, 20)}")
    if kind == "synergy_weight":
        return tuple(f"{muscle}:{command}" for muscle, command in model.synergy_pairs)
    return model.channels if kind in CHANNEL_PARAMETERS else model.muscles


def make_params(model: NmsModel, values: Mapping[str, Any], dtype: Any = None) -> NmsParams:
    """Parameters from values per kind; scalars are spread over all entries, missing kinds take the muscle
    family's ``defaults`` or ``DEFAULTS``.

    Args:
        model: whose muscles and channels the entries follow.
        values: kind -> scalar, array in the model's order, or mapping by name (complete, or added to the default).
        dtype: of JAX leaves; by default they are NumPy's float64, and JAX takes them in the precision it runs in.

    Raises:
        InputError: unknown kind or name, wrong length, or a value that nothing can have (muscle and value named).
    """
    unknown = set(values) - set(PARAMETER_KINDS)
    if unknown:
        raise InputError(f"no parameter {listed(sorted(unknown))}; there are {listed(PARAMETER_KINDS, 20)}")
    leaves = {}
    for kind in PARAMETER_KINDS:
        names = entries(model, kind)
        default = model.settings.curves.defaults.get(kind, DEFAULTS.get(kind))
        given = values.get(kind, default)
        if isinstance(given, Mapping):
            strange = set(given) - set(names)
            missing = [n for n in names if n not in given] if kind not in DEFAULTS else []
            if strange or missing:
                raise InputError(
                    f"{kind}: {'no entry ' + listed(sorted(strange)) if strange else 'missing ' + listed(missing)}"
                    f"; the model has {listed(names, 50)}"
                )
            given = [given.get(n, default) for n in names]
        if given is None:
            raise InputError(f"{kind} is required: one value per muscle")
        array = np.asarray(given, dtype=float)
        if array.ndim == 0:
            array = np.full(len(names), float(array))
        if array.shape != (len(names),):
            raise InputError(f"{kind} has shape {array.shape}; expected ({len(names)},), one per {listed(names)}")
        low, high = LIMITS[kind]
        if kind == "electromechanical_delay":
            high = model.settings.max_delay  # an older sample is not in the history
        bad = ~((array >= low) & (array <= high))
        if bad.any():
            i = int(np.argmax(bad))
            hint = "raise max_delay" if kind == "electromechanical_delay" else "check its file and units (SI, radians)"
            raise InputError(
                f"{kind} of {names[i]!r} is {array[i]:g} {PARAMETER_UNITS[kind]}; allowed {low:g} to {high:g}: {hint}"
            )
        leaves[kind] = array if dtype is None else jnp.asarray(array, dtype=dtype)
    return NmsParams(**leaves)


@pytree
class NmsState:
    """What evolves from step to step."""

    excitation_history: Array
    """(H, C), newest first, before gain"""
    filtered: Array
    """(M,), output of the activation dynamics"""
    filtered_previous: Array
    """(M,), one step earlier"""
    fiber: FiberState


@pytree
class NmsOutput:
    """Result of a step, or with a leading time axis of a prediction."""

    moments: Array
    """(K,) N·m, positive along the coordinate"""
    tendon_force: Array
    """(M,) N"""
    excitation: Array
    """(M,) after gain and delay"""
    activation: Array
    """(M,)"""
    fiber_length: Array
    """(M,) over optimal fiber length"""
    fiber_velocity: Array
    """(M,) over maximum contraction velocity"""
    tendon_strain: Array
    """(M,); zero for a rigid tendon"""
    residual: Array
    """(M,) what the implicit fiber equation missed by, in tendon slack lengths"""


@pytree
class Replay:
    """A recording on the model's time grid, ready for ``predict_moments``; from ``nms_gym.replay.make_replay``."""

    coordinates: tuple[str, ...] = static()
    """rows of ``moment_arms``"""
    dt: Array
    """s, scalar"""
    excitations: Array
    """(H - 1 + T, C) envelopes, the first H - 1 before the first sample of motion"""
    lengths: Array
    """(T, M) m"""
    velocities: Array
    """(T, M) m/s"""
    moment_arms: Array
    """(T, K, M) m"""


def muscle_excitation(model: NmsModel, params: NmsParams, delayed_channels: Array) -> Array:
    """Excitation of every muscle ``(..., M)`` from delayed channels ``(..., C)``: gain, saturation at 1, mixing,
    and what synergies excite."""
    channels = jnp.broadcast_to(params.emg_gain, delayed_channels.shape) * delayed_channels
    weights = jnp.asarray(model.channel_weights, delayed_channels.dtype)
    recorded = act.saturate(channels) @ weights.T
    if model.synergies is None or not model.synergy_pairs:
        return recorded
    # 32-bit indices: wider ones make a program traced in one precision unusable in the other (JAX 0.10).
    muscles = np.array([model.muscles.index(muscle) for muscle, _ in model.synergy_pairs], np.int32)
    columns = np.array([model.commands.index(command) for _, command in model.synergy_pairs], np.int32)
    first = model.channels.index(model.commands[0])
    commands = channels[..., first : first + len(model.commands)]
    added = synthesised(commands, params.synergy_weight, muscles, columns, len(model.muscles))
    driven = jnp.any(weights != 0, axis=1)
    paired = jnp.asarray(np.isin(model.muscles, model.synergy_muscles))
    return with_synergies(recorded, added, paired & ~driven, paired & driven, model.synergies.signed)


def initial_state(model: NmsModel, params: NmsParams, history: Array, lengths: Array, dt: Array | float) -> NmsState:
    """State at rest: activation settled at the delayed excitation, fibers in equilibrium at zero velocity.

    Args:
        model: structure.
        params: parameters.
        history: ``(H, C)`` channels, newest first; the newest belongs to the instant of ``lengths``.
        lengths: ``(M,)`` musculotendon lengths, m.
        dt: s, between the samples of ``history``.
    """
    channels = act.delayed(history, params.electromechanical_delay, dt)
    settled = muscle_excitation(model, params, channels)
    activation = act.shaped(settled, params.shape_factor)
    s = model.settings
    fiber = initial_fiber(model.tendons, s.curves, params, activation, lengths)
    return NmsState(history, settled, settled, fiber)


def activation_step(
    model: NmsModel, params: NmsParams, state: NmsState, excitation: Array, dt: Array | float
) -> tuple[Array, Array]:
    """Output of the activation dynamics ``(M,)`` after a step at ``excitation (M,)``, and the activation ``(M,)``."""
    if model.settings.activation == "second_order":
        filtered = act.second_order_step(
            excitation,
            state.filtered,
            state.filtered_previous,
            params.filter_time_constant_1,
            params.filter_time_constant_2,
            dt,
        )
    else:
        filtered = act.first_order_step(
            excitation, state.filtered, params.activation_time_constant, params.deactivation_time_constant, dt
        )
    return filtered, act.shaped(filtered, params.shape_factor)


def excited_step(
    model: NmsModel,
    params: NmsParams,
    state: NmsState,
    excitation: Array,
    lengths: Array,
    velocities: Array,
    moment_arms: Array,
    dt: Array | float,
) -> tuple[NmsState, NmsOutput]:
    """``musculotendon_step`` from the excitation ``(M,)`` of every muscle on."""
    s = model.settings
    filtered, activation = activation_step(model, params, state, excitation, dt)
    fiber, out = fiber_step(
        model.tendons,
        s.integrator,
        s.tendon_iterations,
        s.curves,
        params,
        state.fiber,
        activation,
        lengths,
        velocities,
        dt,
    )
    output = NmsOutput(
        moments=joint_moments(moment_arms, out.tendon_force),
        tendon_force=out.tendon_force,
        excitation=excitation,
        activation=activation,
        fiber_length=out.fiber_length,
        fiber_velocity=out.fiber_velocity,
        tendon_strain=out.tendon_strain,
        residual=out.residual,
    )
    return NmsState(state.excitation_history, filtered, state.filtered, fiber), output


def musculotendon_step(
    model: NmsModel,
    params: NmsParams,
    state: NmsState,
    delayed_channels: Array,
    lengths: Array,
    velocities: Array,
    moment_arms: Array,
    dt: Array | float,
) -> tuple[NmsState, NmsOutput]:
    """One step from delayed channels and musculotendon kinematics, all at the end of the step, to joint moments.

    Args:
        model: structure.
        params: parameters.
        state: from ``initial_state`` or the last step; its history is passed on untouched.
        delayed_channels: ``(C,)``, before gain.
        lengths: ``(M,)`` m.
        velocities: ``(M,)`` m/s; only a rigid tendon uses them.
        moment_arms: ``(K, M)`` m.
        dt: s.
    """
    excitation = muscle_excitation(model, params, delayed_channels)
    return excited_step(model, params, state, excitation, lengths, velocities, moment_arms, dt)


def excite(state: NmsState, excitation: Array) -> NmsState:
    """Push this sample's channels ``(C,)`` into the history."""
    history = jnp.concatenate([excitation[None, :], state.excitation_history[:-1]])
    return dataclasses.replace(state, excitation_history=history)


def replay_step(
    model: NmsModel,
    params: NmsParams,
    state: NmsState,
    excitation: Array,
    kinematics: tuple[Array, Array, Array],
    dt: Array | float,
) -> tuple[NmsState, NmsOutput]:
    """One sample of channels ``(C,)`` and ``(lengths, velocities, moment_arms)`` to moments; keeps the history."""
    state = excite(state, excitation)
    channels = act.delayed(state.excitation_history, params.electromechanical_delay, dt)
    return musculotendon_step(model, params, state, channels, *kinematics, dt)


def neuromuscular_step(
    model: NmsModel,
    params: NmsParams,
    state: NmsState,
    excitation: Array,
    q: Array,
    qd: Array,
    dt: Array | float,
) -> tuple[NmsState, NmsOutput]:
    """One sample from excitations and joint motion, at the end of the step, to joint moments.

    Args:
        model: structure, with ``paths``.
        params: parameters.
        state: from ``initial_state`` or the last step.
        excitation: ``(C,)`` channels in the order of ``model.channels``, before gain and delay.
        q: ``(D,)`` rad, in the order of ``model.coordinates``.
        qd: ``(D,)`` rad/s.
        dt: s.

    Raises:
        InputError: the model has no paths (raised while tracing).
    """
    if model.paths is None:
        raise InputError(
            "this model has no muscle paths, so joint angles cannot be used; build it from a model with paths, "
            "or use replay_step with lengths and moment arms"
        )
    lengths, arms = lengths_and_moment_arms(model.paths, q)
    return replay_step(model, params, state, excitation, (lengths, musculotendon_velocities(arms, qd), arms), dt)


def replay_history(replay: Replay) -> Array:
    """Channels up to the first sample of motion, newest first: ``(H, C)``."""
    length = replay.excitations.shape[0] - replay.lengths.shape[0] + 1
    return replay.excitations[:length][::-1]


def replay_initial_state(model: NmsModel, params: NmsParams, replay: Replay) -> NmsState:
    """State at the first sample of a recording.

    Its history holds that sample already. Who goes on with ``replay_step`` from sample 0 shifts the history by one
    (``excitation_history[1:]``, its oldest repeated), or the first sample counts twice; ``predict_moments`` takes care.
    """
    return initial_state(model, params, replay_history(replay), replay.lengths[0], replay.dt)


def predict_moments(model: NmsModel, params: NmsParams, replay: Replay) -> NmsOutput:
    """Run the model over a recording.

    The first sample is a step too, from rest at the first sample. The steps are those of ``replay_step``; only delay,
    gain and mixing, which depend on no state, are taken for all samples at once.

    Returns:
        ``NmsOutput`` with a leading time axis ``(T, ...)``.
    """
    return predict_excited(model, params, replay, recorded_excitations(model, params, replay))


def recorded_excitations(model: NmsModel, params: NmsParams, replay: Replay) -> Array:
    """Excitation of every muscle ``(T, M)`` from a recording's channels and synergy commands: delay, gain, mixing."""
    length = replay.excitations.shape[0] - replay.lengths.shape[0] + 1
    channels = act.delayed_series(replay.excitations, params.electromechanical_delay, replay.dt, length)
    return muscle_excitation(model, params, channels)


def predict_excited(model: NmsModel, params: NmsParams, replay: Replay, excitation: Array) -> NmsOutput:
    """``predict_moments`` with the excitation ``(T, M)`` of every muscle given; starts from what was recorded."""
    start = replay_initial_state(model, params, replay)
    # Nothing reads the history once excitations are known; an empty one keeps it out of the loop.
    start = dataclasses.replace(start, excitation_history=start.excitation_history[:0])

    # Recomputing each step in the backward pass costs no time here and keeps memory flat in the number of steps.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def step(state: NmsState, sample: tuple[Array, ...]) -> tuple[NmsState, NmsOutput]:
        u, lengths, velocities, moment_arms = sample
        return excited_step(model, params, state, u, lengths, velocities, moment_arms, replay.dt)

    samples = (excitation, replay.lengths, replay.velocities, replay.moment_arms)
    return jax.lax.scan(step, start, samples)[1]
