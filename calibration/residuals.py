"""The cost of a calibration and its exact first-order model.

The cost is half a sum of squares, the negative logarithm of a posterior: moment errors in tolerances, fiber lengths and
tendon strains beyond their working range, and the prior. Given the kinematics, a parameter moves only the muscles it
belongs to, and the moments depend on the muscles linearly; so one forward derivative pass per *color* of parameters (7
to 12, however many there are) gives the exact Jacobian.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from calibration.problem import Layout, Penalties, Problem, params_at
from nms_gym._pytree import pytree
from nms_gym.model import NmsModel, NmsParams, Replay, predict_moments
from nms_gym.replay import padded


@pytree
class Data:
    """Training stretches, stacked: shorter ones are padded with their last sample, which then does not count."""

    replay: Replay
    """leaves (S, ...)"""
    measured: Array
    """(S, T, K) N·m, zero where not counted"""
    weight: Array
    """(S, T, K) 1/(N·m): square root of what each squared error counts"""
    counted: Array
    """(S, T) square root of what each sample counts in the fiber terms"""


@pytree
class Forces:
    """What the cost depends on. A parameter moves only its own muscles' columns."""

    tendon_force: Array
    """(S, T, M) N"""
    excess: Array
    """(2, S, T, M) normalised fiber length and tendon strain beyond their ranges, smooth, in tolerances"""


@pytree
class Quadratic:
    """Cost, gradient and Gauss-Newton matrix at a point."""

    cost: Array
    gradient: Array
    matrix: Array


def stack(problem: Problem) -> Data:
    """Pad and stack the problem's segments, and weigh their samples."""
    segments = problem.segments
    steps = max(len(s.time) for s in segments)
    p = problem.penalties

    replays, measured, scored = [], [], []
    for s in segments:
        by = steps - len(s.time)
        replays.append(padded(s.replay, steps))
        measured.append(np.concatenate([s.measured, np.zeros((by, len(s.coordinates)))]))  # type: ignore[list-item]
        scored.append(np.concatenate([s.scored, np.zeros(by, bool)]))
    target, mask = np.array(measured), np.array(scored)
    dt = float(segments[0].replay.dt)
    sd = target[mask].std(axis=0)
    # Samples of a low-passed moment are not independent: count them at twice its bandwidth.
    independent = min(1.0, 2.0 * p.moment_bandwidth * dt)
    weight = np.sqrt(independent) * mask[:, :, None] / (p.moment_tolerance * sd)
    counted = np.sqrt(independent * mask)
    replay = jax.tree.map(lambda *x: np.stack(x), *replays)
    return Data(replay, target * mask[:, :, None], weight, counted)  # type: ignore[arg-type]


def predict(model: NmsModel, params: NmsParams, replay: Replay) -> Any:
    """``predict_moments`` over stacked segments ``(S, ...)``."""
    return jax.vmap(lambda r: predict_moments(model, params, r))(replay)


class Objective(NamedTuple):
    """Pure functions of ``(model, data, start, z)``: jit, differentiate (cost) and batch them over ``z``."""

    cost: Callable[[NmsModel, Data, NmsParams, Array], Array]
    quadratic: Callable[[NmsModel, Data, NmsParams, Array], Quadratic]


def make_objective(layout: Layout, penalties: Penalties) -> Objective:
    """Cost and first-order model for a layout of ``z``."""
    p = penalties
    low, high = p.fiber_length_range
    colors = np.arange(layout.colors.max() + 1)
    seeds = np.equal.outer(colors, layout.colors).astype(float)
    # (colors, M, P): picks from the derivatives by color and muscle those that belong to an entry of z.
    picks = np.einsum("cp,pm->cmp", seeds, layout.moves)

    def forces(model: NmsModel, data: Data, start: NmsParams, z: Array) -> Forces:
        out = predict(model, params_at(layout, start, z), data.replay)

        def beyond(x: Array, tolerance: float) -> Array:
            return jnp.logaddexp(0.0, x / tolerance)

        length = beyond(out.fiber_length - high, p.fiber_length_tolerance)
        length = length + beyond(low - out.fiber_length, p.fiber_length_tolerance)
        strain = beyond(out.tendon_strain - p.max_tendon_strain, p.tendon_strain_tolerance)
        return Forces(out.tendon_force, jnp.stack([length, strain]) * data.counted[None, :, :, None])

    def moment_residual(data: Data, f: Forces) -> Array:
        moments = jnp.einsum("stkm,stm->stk", data.replay.moment_arms, f.tendon_force)
        return (moments - data.measured) * data.weight

    def total(data: Data, f: Forces, z: Array) -> Array:
        return 0.5 * (jnp.sum(moment_residual(data, f) ** 2) + jnp.sum(f.excess**2) + jnp.sum(z**2))

    def cost(model: NmsModel, data: Data, start: NmsParams, z: Array) -> Array:
        return total(data, forces(model, data, start, z), z)

    def quadratic(model: NmsModel, data: Data, start: NmsParams, z: Array) -> Quadratic:
        def along(seed: Array) -> tuple[Forces, Forces]:
            return jax.jvp(lambda z: forces(model, data, start, z), (z,), (seed,))

        f, df = jax.vmap(along, out_axes=(None, 0))(jnp.asarray(seeds, z.dtype))
        pick = jnp.asarray(picks, z.dtype)
        arms = data.replay.moment_arms * data.weight[..., None]
        jacobian = jnp.einsum("stkm,cstm,cmp->stkp", arms, df.tendon_force, pick, optimize=[(0, 1), (0, 1)])
        jacobian = jacobian.reshape(-1, layout.size)
        # A fiber term of muscle m involves m's parameters only: sum over time first, per muscle and pair of colors.
        slope = jnp.einsum("cxstm,xstm->cm", df.excess, f.excess)
        pairs = jnp.einsum("cxstm,dxstm->cdm", df.excess, df.excess)
        fiber = jnp.einsum("cmp,cmq->pq", pick, jnp.einsum("cdm,dmq->cmq", pairs, pick))
        return Quadratic(
            cost=total(data, f, z),
            gradient=jacobian.T @ moment_residual(data, f).ravel() + jnp.einsum("cm,cmp->p", slope, pick) + z,
            matrix=jacobian.T @ jacobian + fiber + jnp.eye(layout.size, dtype=z.dtype),
        )

    return Objective(cost, quadratic)
