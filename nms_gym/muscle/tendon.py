"""One step of the fiber: rigid and elastic tendons behind one signature.

A step takes the muscle's state, the new activation and musculotendon length and velocity, and returns the new state and
the tendon force. With an elastic tendon the new fiber length solves force equilibrium implicitly, so steps of 5 to 10
ms are stable whatever the stiffness. The equation is written as a difference of normalised tendon lengths,

    tendon_length(force along the tendon of the fiber)  -  (l_MT - l_opt w) / l_slack  =  0,

the inverse tendon curve being a logarithm: the residual is well scaled in slack and taut tendons alike, and grows with
``w`` on any step short enough. Newton's method does not meet the derivatives; one last step, whose denominator is held
constant, carries the implicit-function derivative and leaves the value where it was.

The tendon curve is OpenSim's, -0.2 in the limit of a slack tendon: a fiber that shortens fast into a slack tendon gives
a small push (to 0.03 of its maximum force in stress tests), and a musculotendon too short for its slack tendon and
shortest fiber, which is a wrong parameter rather than a state, up to 0.2, with a residual that tells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from nms_gym._pytree import pytree
from nms_gym.muscle import hill
from nms_gym.muscle.curves import Curves
from nms_gym.muscle.hill import MuscleParams

TendonKind = Literal["rigid", "elastic"]
Integrator = Literal["bdf2", "backward_euler"]

# Halvings that find the initial equilibrium; 48 reach the last bit of a bracket a few fiber lengths wide.
BISECTIONS = 48


@pytree
class FiberState:
    """What a fiber remembers; every leaf ``(M,)``, normalised by optimal fiber length."""

    along_tendon: Array
    """fiber length along the tendon, ``w``; the next step's first guess"""
    length: Array
    """fiber length, ``x``"""
    previous_length: Array
    """fiber length one step earlier (BDF2)"""


@pytree
class FiberOutput:
    """Result of one fiber step; every leaf ``(M,)``."""

    tendon_force: Array
    """N"""
    fiber_length: Array
    """over ``optimal_fiber_length``"""
    fiber_velocity: Array
    """over ``max_contraction_velocity * optimal_fiber_length``, positive lengthening"""
    tendon_strain: Array
    residual: Array
    """what the implicit equation missed by, in tendon slack lengths; zero for a rigid tendon"""


# An implicit equation for ``w``, with everything else it depends on passed apart so that it can be frozen.
Residual = Callable[[Array, Any], Array]


@pytree
class Inputs:
    """All that the equilibrium of a fiber depends on, besides its own unknown length."""

    params: MuscleParams
    state: FiberState | None
    activation: Array
    musculotendon_length: Array
    dt: Array | float


def _value_and_slope(residual: Residual, inputs: Any, w: Array) -> tuple[Array, Array]:
    """Residual at ``w`` and its derivative with respect to ``w``."""
    return jax.jvp(lambda w: residual(w, inputs), (w,), (jnp.ones_like(w),))


def _with_implicit_derivative(residual: Residual, inputs: Any, w: Array, slope: Array) -> tuple[Array, Array]:
    """``w``, now with the derivative of the root with respect to ``inputs``, and the residual there."""
    w, slope = jax.lax.stop_gradient((w, slope))
    r = residual(w, inputs)
    return w - (r - jax.lax.stop_gradient(r)) / _positive(slope), r


def _positive(slope: Array) -> Array:
    """A slope fit to divide by: the residual's is positive near a root of a stable step."""
    return jnp.where(jnp.abs(slope) > 1e-6, slope, 1e-6)


def _bracketed_newton(
    residual: Residual, inputs: Any, guess: Array, low: Array, high: Array, iterations: int
) -> tuple[Array, Array]:
    """Root of an increasing ``residual`` by Newton's method, halving the bracket where a step leaves it.

    Also returns the slope at the last iterate but one, which at convergence is the slope at the root.
    """
    # Once converged, rounding can put the iterate one ulp outside its own bracket, and halving would throw it far away.
    slack = 32 * float(jnp.finfo(guess.dtype).eps)

    def improve(_: int, search: tuple[Array, ...]) -> tuple[Array, ...]:
        w, low, high = search[:3]
        r, slope = _value_and_slope(residual, inputs, w)
        high = jnp.where(r > 0, w, high)
        low = jnp.where(r > 0, low, w)
        step = w - r / _positive(slope)
        inside = (step > low - slack) & (step < high + slack)
        return jnp.where(inside, step, 0.5 * (low + high)), low, high, slope

    # A loop rather than a list of iterations: as fast, and a third of the compile time.
    start = (jnp.clip(guess, low, high), low, high, jnp.ones_like(guess))
    w, _, _, slope = jax.lax.fori_loop(0, iterations, improve, start)
    return w, slope


def _bracket(params: MuscleParams, musculotendon_length: Array) -> tuple[Array, Array]:
    """Bounds on ``w``: the shortest fiber, and a fiber so long that the tendon would be at half its slack length."""
    low = hill.shortest(params)
    high = (musculotendon_length - 0.5 * params.tendon_slack_length) / params.optimal_fiber_length
    return jnp.broadcast_to(low, high.shape), jnp.maximum(high, low + 0.01)


def initial_fiber(
    tendon: TendonKind, curves: Curves, params: MuscleParams, activation: Array, musculotendon_length: Array
) -> FiberState:
    """State of a fiber at rest (zero fiber velocity) in equilibrium with its tendon.

    Where the descending limb allows several equilibria, bisection picks one of them. A musculotendon shorter than its
    slack tendon and shortest fiber has none: the fiber starts at its shortest.
    """
    if tendon == "rigid":
        w = _rigid_along_tendon(params, musculotendon_length)
        x = hill.fiber_length(params, w)
        return FiberState(along_tendon=w, length=x, previous_length=x)

    def residual(w: Array, given: Inputs) -> Array:
        x = hill.fiber_length(given.params, w)
        return _mismatch(curves, given, w, x, jnp.zeros_like(x))

    inputs = Inputs(params, None, activation, musculotendon_length, 0.0)
    frozen = jax.lax.stop_gradient(inputs)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        above = residual(middle, frozen) > 0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    low, high = jax.lax.fori_loop(0, BISECTIONS, halve, _bracket(frozen.params, frozen.musculotendon_length))
    w = 0.5 * (low + high)
    w, _ = _with_implicit_derivative(residual, inputs, w, _value_and_slope(residual, frozen, w)[1])
    x = hill.fiber_length(params, w)
    return FiberState(along_tendon=w, length=x, previous_length=x)


def _mismatch(curves: Curves, given: Inputs, w: Array, x: Array, v: Array) -> Array:
    """Tendon length that would carry the fiber's force, minus the length the tendon has; in slack lengths."""
    force = hill.force_along_tendon(curves, given.params, given.activation, w, x, v)
    taut = curves.tendon_length(force, given.params.tendon_strain_at_one_norm_force)
    return taut - hill.tendon_length(given.params, given.musculotendon_length, w)


def _rigid_along_tendon(params: MuscleParams, musculotendon_length: Array) -> Array:
    """``w`` with the tendon at slack length, smoothly kept above the shortest fiber (exact to 1e-8 from 0.15 above)."""
    w = (musculotendon_length - params.tendon_slack_length) / params.optimal_fiber_length
    low, k = hill.shortest(params), 100.0
    return low + jnp.logaddexp(0.0, k * (w - low)) / k


def fiber_step(
    tendon: TendonKind,
    integrator: Integrator,
    iterations: int,
    curves: Curves,
    params: MuscleParams,
    state: FiberState,
    activation: Array,
    musculotendon_length: Array,
    musculotendon_velocity: Array,
    dt: Array | float,
) -> tuple[FiberState, FiberOutput]:
    """Advance every fiber by ``dt``.

    Args:
        tendon: "rigid" (fiber length follows the musculotendon) or "elastic" (fiber length is solved for).
        integrator: of the elastic tendon: "bdf2" (second order; for calibration) or "backward_euler".
        iterations: Newton iterations of the elastic tendon.
        curves: the muscle family.
        params: ``(M,)`` leaves.
        state: from ``initial_fiber`` or the last step.
        activation: ``(M,)`` at the end of the step.
        musculotendon_length: ``(M,)`` m, at the end of the step.
        musculotendon_velocity: ``(M,)`` m/s; only the rigid tendon uses it.
        dt: s.

    Returns:
        The state and the output at the end of the step.
    """
    f0 = params.max_isometric_force
    if tendon == "rigid":
        w = _rigid_along_tendon(params, musculotendon_length)
        x = hill.fiber_length(params, w)
        # A fiber of constant thickness lengthens by cos(pennation) of what its projection does.
        v = (w / x) * musculotendon_velocity / (params.max_contraction_velocity * params.optimal_fiber_length)
        force = f0 * hill.force_along_tendon(curves, params, activation, w, x, v)
        new = FiberState(along_tendon=w, length=x, previous_length=state.length)
        return new, FiberOutput(force, x, v, jnp.zeros_like(x), jnp.zeros_like(x))

    def velocity(x: Array, given: Inputs) -> Array:
        past: FiberState = given.state  # type: ignore[assignment]
        if integrator == "bdf2":
            change = 1.5 * x - 2.0 * past.length + 0.5 * past.previous_length
        else:
            change = x - past.length
        return change / (given.dt * given.params.max_contraction_velocity)

    def residual(w: Array, given: Inputs) -> Array:
        x = hill.fiber_length(given.params, w)
        return _mismatch(curves, given, w, x, velocity(x, given))

    inputs = Inputs(params, state, activation, musculotendon_length, dt)
    frozen = jax.lax.stop_gradient(inputs)
    low, high = _bracket(frozen.params, frozen.musculotendon_length)
    guess = jax.lax.stop_gradient(state.along_tendon)
    w, slope = _bracketed_newton(residual, frozen, guess, low, high, iterations)
    w, miss = _with_implicit_derivative(residual, inputs, w, slope)
    x = hill.fiber_length(params, w)
    lt = hill.tendon_length(params, musculotendon_length, w)
    force = f0 * curves.tendon_force(lt, params.tendon_strain_at_one_norm_force)
    new = FiberState(along_tendon=w, length=x, previous_length=state.length)
    return new, FiberOutput(force, x, velocity(x, inputs), lt - 1.0, miss)


def equilibrium_velocity(
    curves: Curves, params: MuscleParams, activation: Array, fiber_length: Array, musculotendon_length: Array
) -> Array:
    """Fiber velocity at which a fiber of given length balances its tendon (Millard et al. 2013, 10.1115/1.4023390).

    Solves ``a fl(x) fv(v) + fp(x) + damping v = ft(l_T) / cos(pennation)`` for ``v``. The left side grows with ``v``
    wherever ``damping`` is positive, so there is one solution, between 0 and where damping alone would carry what is
    missing at rest. Derivatives are those of the implicit function.

    Args:
        curves: the muscle family.
        params: ``(M,)`` leaves; ``fiber_damping`` must be positive (a passive fiber without damping has no velocity).
        activation: ``(M,)``
        fiber_length: ``(M,)`` over ``optimal_fiber_length``.
        musculotendon_length: ``(M,)`` m.

    Returns:
        ``(M,)`` over ``max_contraction_velocity * optimal_fiber_length``, positive lengthening.
    """

    def residual(v: Array, given: tuple[MuscleParams, Array, Array, Array]) -> Array:
        params, activation, x, musculotendon_length = given
        w = hill.along_tendon(params, x)
        lt = hill.tendon_length(params, musculotendon_length, w)
        tendon = curves.tendon_force(lt, params.tendon_strain_at_one_norm_force)
        return hill.fiber_force(curves, params, activation, x, v) - tendon * (x / w)

    inputs = (params, activation, fiber_length, musculotendon_length)
    frozen = jax.lax.stop_gradient(inputs)
    still = jnp.zeros_like(fiber_length * musculotendon_length)
    missing = -residual(still, frozen) / jnp.maximum(frozen[0].fiber_damping, 1e-6)
    low, high = jnp.minimum(missing, 0.0), jnp.maximum(missing, 0.0)
    v, _ = _bracketed_newton(residual, frozen, still, low, high, BISECTIONS)
    return _with_implicit_derivative(residual, inputs, v, _value_and_slope(residual, frozen, v)[1])[0]
