"""One forward step, from excitation channels to joint moments; everything that simulates calls it.

    channels -> delay -> gain, saturation, mixing -> muscle excitation       ``excitations_now``, ``muscle_excitation``
        -> condition -> activation -> fiber and tendon -> force -> joint moments                     ``excited_step``

``neuromuscular_step`` is both. Replay (``predict_moments``), closed loop (``rollout``), environments and calibration
scan or map these; where the channels of all samples are known beforehand, the first line, which depends on no state, is
taken for all of them at once.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import Leaf, pytree
from nms_gym.errors import InputError
from nms_gym.excitation import activation as act
from nms_gym.excitation.synergies import synthesised, with_synergies
from nms_gym.model.condition import HEALTHY, Condition
from nms_gym.model.parameters import NmsParams
from nms_gym.model.structure import NmsModel
from nms_gym.muscle import hill
from nms_gym.muscle.geometry import lengths_and_moment_arms, musculotendon_velocities
from nms_gym.muscle.moments import muscle_moments
from nms_gym.muscle.tendon import FiberState, fiber_step, initial_fiber, steady_fiber


@pytree
class NmsState:
    """What evolves from step to step."""

    excitation_history: Leaf
    """(H, C), newest first, before gain; (0, C) where channels are delayed before they come"""
    filtered: Leaf
    """(M,), output of the activation dynamics"""
    filter_memory: Leaf
    """(M,), what second-order activation dynamics remember besides; see ``activation.second_order_step``"""
    fiber: FiberState
    condition: Any = ()
    """what the condition remembers"""


@pytree
class NmsOutput:
    """Result of a step, or with a leading time axis of a prediction."""

    moments: Array
    """(K,) N·m, positive along the coordinate"""
    tendon_force: Array
    """(M,) N"""
    excitation: Array
    """(M,) as it reaches the muscle: after gain, delay, mixing and condition"""
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
class Kinematics:
    """Musculotendon kinematics, of one sample or with a leading time axis."""

    lengths: Array
    """(M,) m"""
    velocities: Array
    """(M,) m/s; only a rigid tendon uses them"""
    moment_arms: Array
    """(K, M) m"""


def kinematics_at(model: NmsModel, q: Array, qd: Array) -> Kinematics:
    """Musculotendon kinematics of a pose, by the model's muscle paths.

    Args:
        model: structure, with ``paths``.
        q: ``(K,)`` rad, in the order of ``model.coordinates``.
        qd: ``(K,)`` rad/s.

    Raises:
        InputError: the model has no paths (raised while tracing).
    """
    if model.paths is None:
        raise InputError(
            "this model has no muscle paths, so joint angles cannot be used; build it from a model with paths, or give "
            "Kinematics with lengths and moment arms"
        )
    lengths, arms = lengths_and_moment_arms(model.paths, q)
    return Kinematics(lengths, musculotendon_velocities(arms, qd), arms)


# --- from channels to the excitation of every muscle ----------------------------------------------------------------


def channel_excitation(params: NmsParams, delayed_channels: Array) -> Array:
    """Excitation that each delayed channel stands for, ``(..., C)``: gain, saturation at 1."""
    return act.saturate(_gained(params, delayed_channels))


def _gained(params: NmsParams, channels: Array) -> Array:
    return jnp.broadcast_to(params.emg_gain, channels.shape) * channels


def muscle_excitation(model: NmsModel, params: NmsParams, delayed_channels: Array) -> Array:
    """Excitation of every muscle ``(..., M)`` from delayed channels ``(..., C)``: gain, saturation at 1, mixing,
    and what synergies excite."""
    weights = jnp.asarray(model.channel_weights, delayed_channels.dtype)
    recorded = channel_excitation(params, delayed_channels) @ weights.T
    if model.synergies is None or not model.synergy_pairs:
        return recorded
    # 32-bit indices: wider ones make a program traced in one precision unusable in the other (JAX 0.10).
    muscles = np.array([model.muscles.index(muscle) for muscle, _ in model.synergy_pairs], np.int32)
    columns = np.array([model.commands.index(command) for _, command in model.synergy_pairs], np.int32)
    first = model.channels.index(model.commands[0])
    commands = _gained(params, delayed_channels)[..., first : first + len(model.commands)]
    added = synthesised(commands, params.synergy_weight, muscles, columns, len(model.muscles))
    driven = jnp.any(weights != 0, axis=1)
    paired = jnp.asarray(np.isin(model.muscles, model.synergy_muscles))
    return with_synergies(recorded, added, paired & ~driven, paired & driven, model.synergies.signed)


def excitations_now(
    model: NmsModel, params: NmsParams, state: NmsState, channels: Array, dt: Array | float
) -> tuple[NmsState, Array]:
    """Push this sample's channels ``(C,)`` into the history, and excite the muscles ``(M,)`` with what is due now.

    A state without a history (``excitation_history`` of no rows) takes the channels as delayed already.
    """
    if not state.excitation_history.shape[0]:
        return state, muscle_excitation(model, params, channels)
    history = jnp.concatenate([channels[None, :], state.excitation_history[:-1]])
    delayed = act.delayed(history, params.electromechanical_delay, dt)
    return dataclasses.replace(state, excitation_history=history), muscle_excitation(model, params, delayed)


# --- from the excitation of every muscle to joint moments -----------------------------------------------------------


def muscle_activation(params: NmsParams, filtered: Array) -> Array:
    """Activation ``(M,)`` from the output of the activation dynamics: shape factor and minimum activation.

    ``a = a_min + (1 - a_min) shaped(u)``. OpenSim's muscles clip at their ``minimum_activation`` instead, and a clip
    has no gradient below.
    """
    return _above_minimum(params, act.shaped(filtered, params.shape_factor))


def _above_minimum(params: NmsParams, level: Array) -> Array:
    least = params.minimum_activation
    return least + (1.0 - least) * level


def initial_state(
    model: NmsModel,
    params: NmsParams,
    history: Array,
    lengths: Array,
    dt: Array | float,
    *,
    condition: Condition = HEALTHY,
) -> NmsState:
    """State at rest: activation settled at the delayed excitation, fibers in equilibrium at zero velocity.

    Args:
        model: structure.
        params: parameters.
        history: ``(H, C)`` channels, newest first; the newest belongs to the instant of ``lengths``.
        lengths: ``(M,)`` musculotendon lengths, m.
        dt: s, between the samples of ``history``; a plain number where the condition needs one.
        condition: as given to the steps.
    """
    channels = act.delayed(history, params.electromechanical_delay, dt)
    settled = muscle_excitation(model, params, channels)
    s = model.settings
    fiber = initial_fiber(model.tendons, s.curves, params, muscle_activation(params, settled), lengths)
    return NmsState(history, settled, settled, fiber, condition.init(fiber.length, dt))  # type: ignore[arg-type]


def output_at_rest(model: NmsModel, params: NmsParams, state: NmsState, kinematics: Kinematics) -> NmsOutput:
    """What a state from ``initial_state`` puts out before any step: nothing moves."""
    activation, fiber = muscle_activation(params, state.filtered), state.fiber
    still = jnp.zeros_like(fiber.length)
    curves = model.settings.curves
    force = hill.force_along_tendon(curves, params, activation, fiber.along_tendon, fiber.length, still)
    force = params.max_isometric_force * force
    return NmsOutput(
        moments=muscle_moments(kinematics.moment_arms, force),
        tendon_force=force,
        excitation=state.filtered,
        activation=activation,
        fiber_length=fiber.length,
        fiber_velocity=still,
        tendon_strain=hill.tendon_length(params, kinematics.lengths, fiber.along_tendon) - 1.0,
        residual=still,
    )


def steady_force(model: NmsModel, params: NmsParams, level: Array, kinematics: Kinematics) -> Array:
    """Tendon force ``(M,)`` N of muscles held at an activation, in a contraction that is isometric or isokinetic.

    Args:
        model: structure.
        params: parameters.
        level: ``(M,)`` activation, 0 (the muscle's minimum) to 1 (full); shape factor and filter have no part in it.
        kinematics: of the pose; the fibers take all of the velocity, see ``tendon.steady_fiber``.
    """
    activation = _above_minimum(params, level)
    given = (activation, kinematics.lengths, kinematics.velocities)
    return steady_fiber(model.tendons, model.settings.curves, params, *given).tendon_force


def activation_step(
    model: NmsModel, params: NmsParams, state: NmsState, excitation: Array, dt: Array | float
) -> tuple[Array, Array, Array]:
    """Output of the activation dynamics ``(M,)`` after a step at ``excitation (M,)``, their memory, and the activation
    ``(M,)``."""
    kind, filtered = model.settings.activation, state.filtered
    if kind == "first_order":
        memory = filtered
        filtered = act.first_order_step(
            excitation, filtered, params.activation_time_constant, params.deactivation_time_constant, dt
        )
    else:
        given = (excitation, filtered, state.filter_memory)
        constants = (params.filter_time_constant_1, params.filter_time_constant_2, dt)
        if kind == "second_order":
            filtered, memory = act.second_order_step(*given, *constants)
        else:
            filtered, memory = act.recursive_step(*given, *constants), filtered
    return filtered, memory, muscle_activation(params, filtered)


def excited_step(
    model: NmsModel,
    params: NmsParams,
    state: NmsState,
    excitation: Array,
    kinematics: Kinematics,
    dt: Array | float,
    *,
    condition: Condition = HEALTHY,
) -> tuple[NmsState, NmsOutput]:
    """``neuromuscular_step`` from the excitation ``(M,)`` of every muscle on; the history is passed on untouched."""
    fiber = state.fiber
    speed = (fiber.length - fiber.previous_length) / (dt * params.max_contraction_velocity)
    memory, excitation = condition.step(state.condition, excitation, fiber.length, speed, dt)
    filtered, filter_memory, activation = activation_step(model, params, state, excitation, dt)
    s = model.settings
    fiber, out = fiber_step(
        model.tendons,
        s.integrator,
        s.tendon_iterations,
        s.curves,
        params,
        fiber,
        activation,
        kinematics.lengths,
        kinematics.velocities,
        dt,
    )
    output = NmsOutput(
        moments=muscle_moments(kinematics.moment_arms, out.tendon_force),
        tendon_force=out.tendon_force,
        excitation=excitation,
        activation=activation,
        fiber_length=out.fiber_length,
        fiber_velocity=out.fiber_velocity,
        tendon_strain=out.tendon_strain,
        residual=out.residual,
    )
    return NmsState(state.excitation_history, filtered, filter_memory, fiber, memory), output


def neuromuscular_step(
    model: NmsModel,
    params: NmsParams,
    state: NmsState,
    channels: Array,
    kinematics: Kinematics,
    dt: Array | float,
    *,
    condition: Condition = HEALTHY,
) -> tuple[NmsState, NmsOutput]:
    """One sample from excitation channels and musculotendon kinematics, at the end of the step, to joint moments.

    Args:
        model: structure.
        params: parameters.
        state: from ``initial_state`` or the last step.
        channels: ``(C,)`` in the order of ``model.channels``, before gain, and before the delay unless the state has no
            history.
        kinematics: given, or of a pose by ``kinematics_at``.
        dt: s.
        condition: what alters excitations (``conditions.compose`` for several); its ``prepare`` has been called.
    """
    state, excitation = excitations_now(model, params, state, channels, dt)
    return excited_step(model, params, state, excitation, kinematics, dt, condition=condition)
