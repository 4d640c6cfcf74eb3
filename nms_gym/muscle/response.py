"""How the end of a muscle step answers to motion that the step did not foresee.

A step takes the musculotendon length and velocity at its end. When the skeleton moves because of the muscle, both are
known only after the force. ``step_response`` gives the derivative of the step's end with respect to a change ``d`` of
the musculotendon velocity during the step (so that velocity becomes ``v + d`` and length ``l + dt d``), with which a
rollout solves muscle and skeleton together, linearly implicitly, and stays stable where a stiff tendon moves a light
segment.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nms_gym._pytree import pytree, replace
from nms_gym.muscle import hill
from nms_gym.muscle.curves import Curves
from nms_gym.muscle.hill import MuscleParams
from nms_gym.muscle.tendon import VELOCITY_WEIGHTS, FiberState, Integrator, TendonKind, rigid_fiber

Output = Any
"""``FiberOutput`` or ``NmsOutput``: what holds tendon force, fiber length, fiber velocity and tendon strain"""


@pytree
class StepResponse:
    """Derivatives with respect to the musculotendon velocity, m/s, during a step; every leaf ``(M,)``."""

    tendon_force: Array
    """N s/m; a damping, nearly always positive"""
    along_tendon: Array
    """of the fiber length along the tendon over optimal fiber length, s/m"""
    fiber_length: Array
    """of the normalised fiber length, s/m"""
    fiber_velocity: Array
    """of the normalised fiber velocity, s/m"""
    tendon_strain: Array
    """s/m"""


def step_response(
    tendon: TendonKind | tuple[TendonKind, ...],
    integrator: Integrator,
    curves: Curves,
    params: MuscleParams,
    activation: Array,
    fiber: FiberState,
    output: Any,
    musculotendon_length: Array,
    musculotendon_velocity: Array,
    dt: Array | float,
) -> StepResponse:
    """The response of a step that ``fiber_step`` took.

    With an elastic tendon, fiber and tendon are springs in series: along the tendon the fiber's slope ``g`` per
    optimal length is that of active, passive and damping force at the velocity that the integrator's formula gives,
    the tendon's ``k`` per slack length that of its curve, and ``dw/dl = k / (g lts + k lopt)`` from the derivative of
    their equilibrium.

    Args:
        tendon: as given to ``fiber_step``.
        integrator: as given to ``fiber_step``.
        curves: the muscle family.
        params: ``(M,)`` leaves.
        activation: ``(M,)`` at the end of the step.
        fiber: state after the step.
        output: of the step.
        musculotendon_length: ``(M,)`` m, as given to the step.
        musculotendon_velocity: ``(M,)`` m/s, as given to the step.
        dt: s.
    """
    arguments = (curves, params, activation, fiber, output, musculotendon_length, musculotendon_velocity, dt)
    if tendon == "rigid":
        return _rigid(*arguments)
    if tendon == "elastic":
        return _elastic(integrator, *arguments)
    rigid = jnp.asarray([kind == "rigid" for kind in tendon])
    both = _rigid(*arguments), _elastic(integrator, *arguments)
    return jax.tree.map(lambda r, e: jnp.where(rigid, r, e), *both)


def _elastic(
    integrator: Integrator,
    curves: Curves,
    params: MuscleParams,
    activation: Array,
    fiber: FiberState,
    output: Any,
    musculotendon_length: Array,
    _: Array,
    dt: Array | float,
) -> StepResponse:
    # dv/dx of the formula that made a velocity out of fiber lengths.
    per_length = VELOCITY_WEIGHTS[integrator][0] / (dt * params.max_contraction_velocity)
    w = fiber.along_tendon
    strain = params.tendon_strain_at_one_norm_force

    def fiber_pull(w: Array) -> Array:
        x = hill.fiber_length(params, w)
        v = output.fiber_velocity + per_length * (x - output.fiber_length)
        return hill.force_along_tendon(curves, params, activation, w, x, v)

    def tendon_pull(length: Array) -> Array:
        return curves.tendon_force(length, strain)

    lt = hill.tendon_length(params, musculotendon_length, w)
    g = jax.jvp(fiber_pull, (w,), (jnp.ones_like(w),))[1]
    k = jax.jvp(tendon_pull, (lt,), (jnp.ones_like(lt),))[1]
    w_rate = dt * k / _away_from_zero(g * params.tendon_slack_length + k * params.optimal_fiber_length)
    x_rate = w_rate * w / fiber.length
    strain_rate = (dt - params.optimal_fiber_length * w_rate) / params.tendon_slack_length
    return StepResponse(
        tendon_force=params.max_isometric_force * k * strain_rate,
        along_tendon=w_rate,
        fiber_length=x_rate,
        fiber_velocity=per_length * x_rate,
        tendon_strain=strain_rate,
    )


def _away_from_zero(slope: Array) -> Array:
    """The sum of both slopes is positive at a stable equilibrium; elsewhere it must not divide by nothing."""
    return jnp.where(slope > 1e-6, slope, 1e-6)


def _rigid(
    curves: Curves,
    params: MuscleParams,
    activation: Array,
    _: FiberState,
    __: Any,
    musculotendon_length: Array,
    musculotendon_velocity: Array,
    dt: Array | float,
) -> StepResponse:
    def end(length: Array, velocity: Array) -> tuple[Array, Array, Array, Array]:
        return rigid_fiber(curves, params, activation, length, velocity)

    one = jnp.ones_like(musculotendon_length)
    force, w, x, v = jax.jvp(end, (musculotendon_length, musculotendon_velocity), (dt * one, one))[1]
    return StepResponse(force, w, x, v, jnp.zeros_like(force))


def respond(fiber: FiberState, output: Output, response: StepResponse, change: Array) -> tuple[FiberState, Output]:
    """State and output of a step whose musculotendon velocity ``(M,)`` came out larger by ``change``, m/s."""
    fiber = replace(
        fiber,
        along_tendon=fiber.along_tendon + response.along_tendon * change,
        length=fiber.length + response.fiber_length * change,
    )
    output = replace(
        output,
        tendon_force=output.tendon_force + response.tendon_force * change,
        fiber_length=output.fiber_length + response.fiber_length * change,
        fiber_velocity=output.fiber_velocity + response.fiber_velocity * change,
        tendon_strain=output.tendon_strain + response.tendon_strain * change,
    )
    return fiber, output
