"""The cost of a calibration and its exact first-order model.

The cost is half a sum of squares, the negative logarithm of a posterior: moment errors in tolerances, fiber lengths and
tendon strains beyond their working range, and the prior. Given the kinematics, a parameter moves only the muscles it belongs
to, and the moments depend on the muscles linearly; so one forward derivative pass per *color* of parameters (7 to 12, however
many there are) gives the exact Jacobian.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from calibration.problem import Layout, Problem, make_layout, params_at
from nms_gym._pytree import pytree
from nms_gym.model import NmsModel, NmsParams, Replay, predict_moments


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
    """What the cost depends on; each (S, T, M). A parameter moves only its own muscles' columns."""

    tendon_force: Array
    length_excess: Array
    """normalised fiber length beyond its range, smooth, in tolerances"""
    strain_excess: Array
    """tendon strain beyond its maximum, smooth, in tolerances"""


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

    def pad(array: Any, by: int) -> np.ndarray:
        array = np.asarray(array)
        return np.concatenate([array, np.repeat(array[-1:], by, axis=0)])

    replays, measured, scored = [], [], []
    for s in segments:
        by, r = steps - len(s.time), s.replay
        replays.append([r.dt, *(pad(x, by) for x in (r.excitations, r.lengths, r.velocities, r.moment_arms))])
        measured.append(pad(s.measured, by))
        scored.append(np.concatenate([s.scored, np.zeros(by, bool)]))
    target, mask = np.array(measured), np.array(scored)
    dt = float(segments[0].replay.dt)
    sd = target[mask].std(axis=0)
    # Samples of a low-passed moment are not independent: count them at twice its bandwidth.
    independent = min(1.0, 2.0 * p.moment_bandwidth * dt)
    weight = np.sqrt(independent) * mask[:, :, None] / (p.moment_tolerance * sd)
    counted = np.sqrt(independent * mask)
    leaves = [np.stack(x) for x in zip(*replays, strict=True)]
    return Data(Replay(segments[0].coordinates, *leaves), target * mask[:, :, None], weight, counted)  # type: ignore[arg-type]


def predict(model: NmsModel, params: NmsParams, replay: Replay) -> Any:
    """``predict_moments`` over stacked segments ``(S, ...)``."""
    return jax.vmap(lambda r: predict_moments(model, params, r))(replay)


def make_objective(problem: Problem) -> tuple[Layout, Data, Callable[..., Array], Callable[..., Quadratic]]:
    """Cost and first-order model of a problem.

    Returns:
        The layout of ``z``, the stacked data, ``cost(data, start, z)`` and ``quadratic(data, start, z)``; the latter two are
        pure and can be jitted, differentiated (cost) and batched over ``z``.
    """
    model, layout, p = problem.model, make_layout(problem), problem.penalties
    low, high = p.fiber_length_range
    seeds = np.equal.outer(np.arange(layout.colors.max() + 1), layout.colors).astype(float)
    colors = range(len(seeds))
    members = [np.flatnonzero(layout.colors == c) for c in colors]
    order = np.argsort(np.concatenate(members))

    def forces(data: Data, start: NmsParams, z: Array) -> Forces:
        out = predict(model, params_at(layout, start, z), data.replay)

        def beyond(x: Array, tolerance: float) -> Array:
            return jnp.logaddexp(0.0, x / tolerance)

        return Forces(
            tendon_force=out.tendon_force,
            length_excess=beyond(out.fiber_length - high, p.fiber_length_tolerance)
            + beyond(low - out.fiber_length, p.fiber_length_tolerance),
            strain_excess=beyond(out.tendon_strain - p.max_tendon_strain, p.tendon_strain_tolerance),
        )

    def moment_residual(data: Data, f: Forces) -> Array:
        moments = jnp.einsum("stkm,stm->stk", data.replay.moment_arms, f.tendon_force)
        return (moments - data.measured) * data.weight

    def total(data: Data, f: Forces, z: Array) -> Array:
        fiber = sum(jnp.sum((x * data.counted[:, :, None]) ** 2) for x in (f.length_excess, f.strain_excess))
        return 0.5 * (jnp.sum(moment_residual(data, f) ** 2) + fiber + jnp.sum(z**2))

    def cost(data: Data, start: NmsParams, z: Array) -> Array:
        return total(data, forces(data, start, z), z)

    def quadratic(data: Data, start: NmsParams, z: Array) -> Quadratic:
        def along(seed: Array) -> tuple[Forces, Forces]:
            return jax.jvp(lambda z: forces(data, start, z), (z,), (seed,))

        f, df = jax.vmap(along, out_axes=(None, 0))(jnp.asarray(seeds, z.dtype))
        arms = data.replay.moment_arms * data.weight[..., None]
        columns = [
            (arms * df.tendon_force[c][:, :, None, :]) @ jnp.asarray(layout.moves[members[c]].T, z.dtype) for c in colors
        ]
        jacobian = jnp.concatenate(columns, axis=-1)[..., order].reshape(-1, layout.size)
        gradient = jacobian.T @ moment_residual(data, f).ravel() + z
        matrix = jacobian.T @ jacobian + jnp.eye(layout.size, dtype=z.dtype)
        # A fiber term of muscle m involves m's parameters only: sum over time first, per muscle and pair of colors.
        moves = jnp.asarray(layout.moves, z.dtype)
        for x, dx in ((f.length_excess, df.length_excess), (f.strain_excess, df.strain_excess)):
            w = data.counted[:, :, None] ** 2
            by_muscle = jnp.einsum("cstm,stm->cm", dx, x * w)
            pairs = jnp.einsum("cstm,dstm->cdm", dx * w[None], dx)
            gradient = gradient + jnp.sum(by_muscle[layout.colors] * moves, axis=1)
            matrix = matrix + jnp.einsum("ijm,im,jm->ij", pairs[layout.colors][:, layout.colors], moves, moves)
        return Quadratic(total(data, f, z), gradient, matrix)

    return layout, stack(problem), cost, quadratic
