"""Closed loop: muscles move the skeleton, and the skeleton stretches the muscles.

One ``motion_step`` goes from channels to the motion one control step later. It is ``neuromuscular_step`` at joint
angles foreseen from the present speed, the skeleton's accelerations under the joint moments that come out, and a
correction of both for what was not foreseen. The correction is linearly implicit: with ``C`` the derivative of joint
moments with respect to the change of joint speed during the step (stiffness of tendon and fiber, damping,
force-velocity, passive joints),

    (M + dt C) dqd  =  dt (moments at the foreseen motion  -  bias),      qd' = qd + dqd,      q' = q + dt qd'.

It is semi-implicit Euler where ``C`` is nothing, first order in ``dt``, and stable at 5 to 10 ms for a stiff tendon on
a light segment, where explicit steps need a tenth of that (a Rosenbrock method of one stage with an approximate
Jacobian: Hairer & Wanner, Solving Ordinary Differential Equations II, 1996, section IV.7, 10.1007/978-3-642-05221-7).
The muscles are moved along by the same derivatives, so that their state belongs to the motion.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import pytree, replace
from nms_gym.errors import InputError, listed
from nms_gym.excitation import activation as act
from nms_gym.model.condition import HEALTHY, Condition
from nms_gym.model.forward import NmsOutput, NmsState, initial_state, kinematics_at, neuromuscular_step
from nms_gym.model.parameters import NmsParams
from nms_gym.model.structure import NmsModel
from nms_gym.muscle.geometry import PolynomialPaths, lengths_and_moment_arms
from nms_gym.muscle.moments import muscle_moments
from nms_gym.muscle.response import respond, step_response
from nms_gym.skeleton.dynamics import (
    BaseMotion,
    ExternalForces,
    Skeleton,
    forward_dynamics,
)
from nms_gym.skeleton.passive import PassiveMoments, passive_moments


@pytree
class MotionState:
    """What evolves from step to step."""

    muscles: NmsState
    q: Array
    """(D,) rad or m, of ``skeleton.coordinates``"""
    qd: Array
    """(D,) rad/s or m/s"""


@pytree
class MotionOutput:
    """Result of a step, or with a leading time axis of a rollout; everything at the end of the step."""

    q: Array
    """(D,)"""
    qd: Array
    """(D,)"""
    qdd: Array
    """(D,) mean acceleration of the step"""
    moments: Array
    """(D,) N·m, of the muscles"""
    passive_moments: Array
    """(D,) N·m, of limits and passive joints"""
    muscles: NmsOutput
    """its ``moments`` are those on the model's coordinates"""


@pytree
class Surroundings:
    """What acts on the skeleton besides its muscles; arrays of one step, or with a leading time axis in ``rollout``."""

    torque: Array | None = None
    """(D,) N·m, of a device or a disturbance, added to the muscles' moments"""
    external: ExternalForces | None = None
    base: BaseMotion | None = None
    """motion of ``skeleton.prescribed`` at the end of the step"""


NOTHING = Surroundings()
"""no torque, no external force, no prescribed motion"""


def require_body(model: NmsModel) -> tuple[PolynomialPaths, Skeleton]:
    """Paths and skeleton of a model that can move.

    Raises:
        InputError: no paths, no skeleton, or a coordinate of the paths that the skeleton neither frees nor prescribes.
    """
    if model.paths is None or model.skeleton is None:
        missing = "muscle paths" if model.paths is None else "skeleton"
        raise InputError(f"this model has no {missing}, so nothing can move it; build it with moving_model")
    known = (*model.skeleton.coordinates, *model.skeleton.prescribed)
    strange = [name for name in model.coordinates if name not in known]
    if strange:
        raise InputError(
            f"the muscle paths take {listed(strange)}, which the skeleton neither frees nor prescribes; it has "
            f"{listed(known)}: name them in make_skeleton, or hold them in the paths (ModelFile.select, held_at)"
        )
    return model.paths, model.skeleton


def _gathered(model: NmsModel, skeleton: Skeleton, free: Array, prescribed: Array | None) -> Array:
    """What the muscle paths take ``(K,)``, from the skeleton's free ``(D,)`` and prescribed ``(P,)`` values."""
    if skeleton.prescribed and prescribed is None:
        raise InputError(f"{listed(skeleton.prescribed)} are prescribed: give their motion as base=BaseMotion(...)")
    known = (*skeleton.coordinates, *skeleton.prescribed)
    values = free if prescribed is None else jnp.concatenate([free, jnp.asarray(prescribed, free.dtype)])
    return values[np.asarray([known.index(name) for name in model.coordinates], np.int32)]


def _rows(model: NmsModel, skeleton: Skeleton, arms: Array) -> Array:
    """Moment arms ``(D, M)`` about the skeleton's coordinates; zero about those that no path spans."""
    rows = [model.coordinates.index(name) if name in model.coordinates else -1 for name in skeleton.coordinates]
    padded = jnp.concatenate([arms, jnp.zeros_like(arms[:1])])
    return padded[np.asarray(rows, np.int32)]


def initial_motion(
    model: NmsModel,
    params: NmsParams,
    q: Array,
    qd: Array,
    dt: float,
    *,
    channels: Array | None = None,
    base: BaseMotion | None = None,
    condition: Condition = HEALTHY,
) -> MotionState:
    """A state to start from: activation settled, fibers in equilibrium at zero velocity.

    Args:
        model: structure, with ``paths`` and ``skeleton``.
        params: parameters.
        q: ``(D,)`` of ``skeleton.coordinates``.
        qd: ``(D,)``.
        dt: s, of the steps to come; a plain number, for it decides shapes.
        channels: ``(C,)`` that have long been there; None for rest.
        base: motion of the prescribed coordinates at the start.
        condition: as given to the steps.

    Raises:
        InputError: the model cannot move (raised while tracing).
    """
    paths, skeleton = require_body(model)
    q = jnp.asarray(q)
    if channels is None:
        channels = jnp.zeros(len(model.channels), q.dtype)
    history = jnp.broadcast_to(channels, (model.settings.history_length(dt), len(model.channels)))
    lengths, _ = lengths_and_moment_arms(paths, _gathered(model, skeleton, q, None if base is None else base.q))
    muscles = initial_state(model, params, history, lengths, dt, condition=condition)
    return MotionState(muscles, q, jnp.asarray(qd, q.dtype))


def motion_step(
    model: NmsModel,
    params: NmsParams,
    state: MotionState,
    channels: Array,
    dt: Array | float,
    surroundings: Surroundings = NOTHING,
    *,
    passive: PassiveMoments | None = None,
    condition: Condition = HEALTHY,
) -> tuple[MotionState, MotionOutput]:
    """One control step from channels ``(C,)`` to the motion at its end.

    Args:
        model: structure, with ``paths`` and ``skeleton``.
        params: parameters.
        state: from ``initial_motion`` or the last step.
        channels: ``(C,)`` before gain, and before the delay unless the state has no history.
        dt: s; 5 to 10 ms is what the method is made for.
        surroundings: torques, external forces and prescribed motion at the end of the step.
        passive: joint limits and passive moments.
        condition: what alters excitations (``conditions.compose`` for several); its ``prepare`` has been called.

    Raises:
        InputError: the model cannot move, or a prescribed motion is missing (raised while tracing).
    """
    skeleton, base = require_body(model)[1], surroundings.base

    # The motion foreseen: at the present speed to the end of the step.
    q, qd = state.q + dt * state.qd, state.qd
    base_q, base_qd = (None, None) if base is None else (base.q, base.qd)
    foreseen = kinematics_at(model, _gathered(model, skeleton, q, base_q), _gathered(model, skeleton, qd, base_qd))
    muscles, out = neuromuscular_step(model, params, state.muscles, channels, foreseen, dt, condition=condition)
    free = _rows(model, skeleton, foreseen.moment_arms)
    s, fiber = model.settings, muscles.fiber
    response = step_response(
        model.tendons,
        s.integrator,
        s.curves,
        params,
        out.activation,
        fiber,
        out,
        foreseen.lengths,
        foreseen.velocities,
        dt,
    )

    # Only what opposes motion is implicit: it makes the step stable, and the rest is not stiff.
    damping = jnp.maximum(response.tendon_force, 0.0)
    matrix = (free * damping[None, :]) @ free.T
    force = muscle_moments(free, out.tendon_force)
    passive_now = slope = None
    if passive is not None:
        passive_now, slope = _passive(passive, q, qd, dt)
        force, matrix = force + passive_now, matrix + jnp.diag(slope)
    if surroundings.torque is not None:
        force = force + surroundings.torque
    acceleration = forward_dynamics(
        skeleton, state.q, state.qd, force, external=surroundings.external, base=base, added_inertia=dt * matrix
    )

    change = dt * acceleration
    qd = state.qd + change
    q = state.q + dt * qd
    fiber, out = respond(fiber, out, response, -(change @ free))
    out = replace(out, moments=muscle_moments(foreseen.moment_arms, out.tendon_force))
    passive_then = jnp.zeros_like(q) if passive_now is None or slope is None else passive_now - slope * change
    output = MotionOutput(q, qd, acceleration, muscle_moments(free, out.tendon_force), passive_then, out)
    return MotionState(replace(muscles, fiber=fiber), q, qd), output


def _passive(passive: PassiveMoments, q: Array, qd: Array, dt: Array | float) -> tuple[Array, Array]:
    """Passive moments ``(D,)``, and by how much each falls per change of the speeds during the step ``(D,)``."""
    one = jnp.ones_like(q)
    moments, rise = jax.jvp(lambda q, qd: passive_moments(passive, q, qd), (q, qd), (dt * one, one))
    return moments, jnp.maximum(-rise, 0.0)


def rollout(
    model: NmsModel,
    params: NmsParams,
    state: MotionState,
    channels: Array,
    dt: Array | float,
    surroundings: Surroundings = NOTHING,
    *,
    passive: PassiveMoments | None = None,
    condition: Condition = HEALTHY,
) -> tuple[MotionState, MotionOutput]:
    """``motion_step`` over given channels; the delay, which depends on no state, is taken for all steps at once.

    Args:
        model: structure, with ``paths`` and ``skeleton``.
        params: parameters.
        state: from ``initial_motion`` or an earlier rollout.
        channels: ``(T, C)``, one row per step.
        dt: s.
        surroundings: leaves with a leading time axis ``(T, ...)``.
        passive: joint limits and passive moments.
        condition: what alters excitations (``conditions.compose`` for several); its ``prepare`` has been called.

    Returns:
        The state after the last step, and the output of every step ``(T, ...)``.
    """
    history = state.muscles.excitation_history
    length = history.shape[0]
    series = jnp.concatenate([history[::-1], channels])
    delayed = act.delayed_series(series[1:], params.electromechanical_delay, dt, length)
    # Nothing reads the history once the delay is taken; an empty one keeps it out of the loop.
    state = replace(state, muscles=replace(state.muscles, excitation_history=history[:0]))

    # Recomputing each step in the backward pass keeps memory flat in what a step computes.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def step(state: MotionState, sample: tuple[Array, Surroundings]) -> tuple[MotionState, MotionOutput]:
        return motion_step(model, params, state, sample[0], dt, sample[1], passive=passive, condition=condition)

    state, output = jax.lax.scan(step, state, (delayed, surroundings))
    muscles = replace(state.muscles, excitation_history=series[::-1][:length])
    return replace(state, muscles=muscles), output
