"""The cost of a calibration and its exact first-order model.

The cost is half a sum of squares, the negative logarithm of a posterior. It is made of named blocks, each in its own
tolerance (``Penalties``):

=====================  ===================================================================================
moments                errors of the measured joint moments
passive_moments        errors of passive moments, muscles relaxed
maximal_moments        errors of moments by a dynamometer, muscles at their strongest
fiber_range            normalised fiber lengths beyond their working range
tendon_strain          tendon strains beyond theirs
effort                 activation of muscles that only synergies drive
emg_tracking           residual excitation: recorded muscles that synergies drive too, against their EMG
synergy_reconstruction recorded muscles that synergies drive alone (mode synergy_only), against their EMG
target_QUANTITY        errors of what was measured of single muscles (``Target``), a block per quantity
group_similarity       differences within groups of muscles or channels
prior                  distance of the parameters from the uncalibrated person
=====================  ===================================================================================

Given the kinematics, a parameter moves only the muscles it
belongs to, and the moments depend on the muscles linearly; so one forward derivative pass per *color* of parameters (7
to 12, however many there are) gives the exact Jacobian.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from calibration.problem import Layout, MaximalMoments, Penalties, Problem, group_rows, make_layout, params_at
from nms_gym._pytree import Leaf, pytree
from nms_gym.model.forward import Kinematics, NmsOutput, channel_excitation, steady_force
from nms_gym.model.parameters import NmsParams
from nms_gym.model.quantities import MUSCLE_OUTPUTS
from nms_gym.model.replay import Replay, Segment, delayed_channels, padded, predict_moments
from nms_gym.model.structure import NmsModel
from nms_gym.muscle.derived import spread

# What emg_tolerance and passive_tolerance are where they have an effect and nobody says.
EMG_TOLERANCE, PASSIVE_TOLERANCE = 0.1, 5.0
# What a passive trial counts for.
PASSIVE_POSES = 10


@pytree
class Stack:
    """Stretches side by side: shorter ones are padded with their last sample, which then does not count."""

    replay: Replay
    """leaves (S, ...)"""
    measured: Leaf
    """(S, T, K) N·m, zero where not counted"""
    weight: Leaf
    """(S, T, K) 1/(N·m): square root of what each squared error counts"""


@pytree
class MeasuredMuscles:
    """A quantity of muscles as measured, on the samples of a ``Stack``."""

    values: Leaf
    """(S, T, M) in its unit, zero where not measured"""
    weight: Leaf
    """(S, T, M) one over the tolerance, zero where not measured"""


@pytree
class Maximal:
    """Maximal contractions: R of them, of one joint each."""

    level: Leaf
    """(R, M)"""
    kinematics: Kinematics
    """leaves (R, M); moment arms of the joint"""
    measured: Leaf
    """(R,) N·m"""
    whitening: Leaf
    """(R, R) 1/(N·m), makes errors independent and of size 1; zero where not counted"""


@pytree
class Data:
    """What a calibration is fitted to."""

    train: Stack
    counted: Leaf
    """(S, T) square root of what each sample counts in the terms per muscle"""
    passive: Stack | None
    tracked: Leaf
    """(M, C) channels that excitations are compared with; rows of zeros where they are not"""
    similar: Leaf
    """(R, P) differences within groups, in tolerances; no rows where that is off"""
    targets: dict[str, MeasuredMuscles]
    """by quantity"""
    maximal: Maximal | None = None


@pytree
class Forces:
    """What the cost depends on beside the parameters. A parameter moves only its own muscles' columns."""

    tendon_force: Array
    """(S, T, M) N"""
    terms: dict[str, Array]
    """(S, T, M) what each block per muscle is made of, in tolerances"""
    passive: Array | None
    """(S', T', M) N"""
    maximal: Array | None
    """(R, M) N"""


@pytree
class Quadratic:
    """Cost, gradient and Gauss-Newton matrix at a point."""

    cost: Array
    gradient: Array
    matrix: Array


def make_data(problem: Problem) -> Data:
    """Pad and stack the problem's segments, and weigh their samples."""
    p = problem.penalties
    replay, target, mask = _stacked(problem.segments)
    dt = float(problem.segments[0].replay.dt)
    sd = _spread_of_recordings(problem.segments, target, mask)
    # Samples of a low-passed moment are not independent: count them at twice its bandwidth.
    independent = min(1.0, 2.0 * p.moment_bandwidth * dt)
    weight = np.sqrt(independent) * mask[:, :, None] / (p.moment_tolerance * sd[:, None, :])
    passive = None
    if problem.passive:
        # A slow, smooth motion: its samples say no more than a handful of poses do.
        still, moments, counted = _stacked(problem.passive)
        known = np.isfinite(moments) & counted[:, :, None]
        few = np.sqrt(np.minimum(1.0, PASSIVE_POSES / np.maximum(known.sum(axis=1, keepdims=True), 1)))
        tolerance = p.passive_tolerance or PASSIVE_TOLERANCE
        passive = Stack(still, np.where(known, moments, 0.0), known * few / tolerance)
    rows = group_rows(problem, make_layout(problem)) / (p.group_tolerance or np.inf)
    return Data(
        train=Stack(replay, target * mask[:, :, None], weight),
        counted=np.sqrt(independent * mask),
        passive=passive,
        tracked=problem.tracked_weights,
        similar=rows if p.group_tolerance else rows[:0],
        targets=_measured_muscles(problem, mask.shape[1]),
        maximal=None if problem.maximal is None else make_maximal(problem.maximal),
    )


def make_maximal(given: MaximalMoments) -> Maximal:
    """Maximal contractions as arrays."""
    kinematics: Any = Kinematics(given.lengths, given.velocities, given.moment_arms)  # type: ignore[arg-type]
    whitening = np.linalg.inv(np.linalg.cholesky(given.covariance))
    return Maximal(given.level, kinematics, given.moments, whitening)


def _spread_of_recordings(segments: Sequence[Segment], moments: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(S, K) N·m, standard deviations of each segment's recording: what is slow or light counts as much as what is not,
    where one for all recordings would let running drown walking."""
    of = np.array([s.recording for s in segments])
    spread = {name: moments[of == name][mask[of == name]].std(axis=0) for name in dict.fromkeys(of)}
    return np.array([spread[name] for name in of])


def _measured_muscles(problem: Problem, steps: int) -> dict[str, MeasuredMuscles]:
    """The problem's targets by quantity, padded to ``steps``."""
    shape = (len(problem.segments), steps, len(problem.model.muscles))
    given = [(i, t) for i, targets in enumerate(problem.targets) for t in targets]
    found = {}
    for quantity in sorted({t.quantity for _, t in given}):
        values, weight = np.zeros(shape), np.zeros(shape)
        for i, t in given:
            if t.quantity == quantity:
                known = np.isfinite(t.values)
                at = i, slice(len(known)), problem.model.muscles.index(t.muscle)
                values[at], weight[at] = np.where(known, t.values, 0.0), known / t.tolerance
        found[quantity] = MeasuredMuscles(values, weight)
    return found


def _stacked(segments: Sequence[Segment]) -> tuple[Replay, np.ndarray, np.ndarray]:
    """Replays, measured moments and which samples count, all of one length."""
    steps = max(len(s.time) for s in segments)
    replays, measured, scored = [], [], []
    for s in segments:
        by = steps - len(s.time)
        replays.append(padded(s.replay, steps))
        measured.append(np.concatenate([s.measured, np.zeros((by, len(s.coordinates)))]))  # type: ignore[list-item]
        scored.append(np.concatenate([s.scored, np.zeros(by, bool)]))
    return jax.tree.map(lambda *x: np.stack(x), *replays), np.array(measured), np.array(scored)


def predict_stack(model: NmsModel, params: NmsParams, replay: Replay) -> NmsOutput:
    """``predict_moments`` over stacked segments ``(S, ...)``."""
    return jax.vmap(lambda r: predict_moments(model, params, r))(replay)


def predict_maximal(model: NmsModel, params: NmsParams, maximal: Maximal) -> Array:
    """Tendon forces ``(R, M)`` N of maximal contractions."""
    return jax.vmap(lambda level, k: steady_force(model, params, level, k))(maximal.level, maximal.kinematics)


def moments_of(maximal: Maximal, tendon_force: Array) -> Array:
    """Moments ``(R,)`` N·m of forces ``(R, M)``."""
    return jnp.sum(maximal.kinematics.moment_arms * tendon_force, axis=-1)


def recorded_excitation(params: NmsParams, tracked: Array, replay: Replay) -> Array:
    """What the EMG alone would excite, ``(S, T, M)``, of muscles that are compared with it."""

    def one(r: Replay) -> Array:
        return channel_excitation(params, delayed_channels(params, r)) @ tracked.T

    return jax.vmap(one)(replay)


class Objective(NamedTuple):
    """Pure functions of ``(model, data, start, z)``: jit, differentiate (cost) and batch them over ``z``."""

    cost: Callable[[NmsModel, Data, NmsParams, Array], Array]
    quadratic: Callable[[NmsModel, Data, NmsParams, Array], Quadratic]
    blocks: Callable[[NmsModel, Data, NmsParams, Array], dict[str, Array]]
    """the cost by block"""
    moments: Callable[[NmsModel, Data, NmsParams, Array], tuple[Array, Array]]
    """errors of the measured moments ``(S, T, K)`` N·m, and their derivatives ``(S, T, K, P)``"""


def make_objective(layout: Layout, penalties: Penalties) -> Objective:
    """Cost and first-order model for a layout of ``z``."""
    p = penalties
    low, high = p.fiber_length_range
    colors = np.arange(layout.colors.max() + 1)
    seeds = np.equal.outer(colors, layout.colors).astype(float)
    # (colors, M, P): picks from the derivatives by color and muscle those that belong to an entry of z.
    picks = np.einsum("cp,pm->cmp", seeds, layout.moves)

    def muscle_terms(model: NmsModel, data: Data, params: NmsParams, out: NmsOutput) -> dict[str, Array]:
        """Blocks whose residuals belong to one muscle each: (S, T, M)."""

        def beyond(x: Array, tolerance: float) -> Array:
            return jnp.logaddexp(0.0, x / tolerance)

        length = beyond(out.fiber_length - high, p.fiber_length_tolerance)
        terms = {
            "fiber_range": length + beyond(low - out.fiber_length, p.fiber_length_tolerance),
            "tendon_strain": beyond(out.tendon_strain - p.max_tendon_strain, p.tendon_strain_tolerance),
        }
        paired = np.isin(model.muscles, model.synergy_muscles)
        driven = jnp.any(jnp.asarray(model.channel_weights) != 0, axis=1)
        if p.effort_tolerance is not None:
            terms["effort"] = jnp.where(paired & ~driven, out.activation / p.effort_tolerance, 0.0)
        if model.synergy_pairs:
            recorded = recorded_excitation(params, data.tracked, data.train.replay)
            miss = (out.excitation - recorded) / (p.emg_tolerance or EMG_TOLERANCE)
            followed = jnp.any(data.tracked != 0, axis=1)
            terms["emg_tracking"] = jnp.where(followed & driven, miss, 0.0)
            terms["synergy_reconstruction"] = jnp.where(followed & ~driven, miss, 0.0)
        for quantity, measured in data.targets.items():
            miss = MUSCLE_OUTPUTS[quantity](spread(params, out.fiber_length), out) - measured.values
            terms[f"target_{quantity}"] = miss * measured.weight
        return {name: term * data.counted[:, :, None] for name, term in terms.items()}

    def forces(model: NmsModel, data: Data, start: NmsParams, z: Array) -> Forces:
        params = params_at(layout, start, z)
        out = predict_stack(model, params, data.train.replay)
        passive = None if data.passive is None else predict_stack(model, params, data.passive.replay).tendon_force
        maximal = None if data.maximal is None else predict_maximal(model, params, data.maximal)
        return Forces(out.tendon_force, muscle_terms(model, data, params, out), passive, maximal)

    def moment_residual(stack: Stack, tendon_force: Array) -> Array:
        moments = jnp.einsum("stkm,stm->stk", stack.replay.moment_arms, tendon_force)
        return (moments - stack.measured) * stack.weight

    def maximal_residual(maximal: Maximal, tendon_force: Array) -> Array:
        return maximal.whitening @ (moments_of(maximal, tendon_force) - maximal.measured)

    def prior(z: Array) -> Array:
        return jnp.asarray(layout.prior_precision, z.dtype)

    def half_squares(x: Array) -> Array:
        return 0.5 * jnp.sum(x**2)

    def stacked(terms: dict[str, Array], axis: int = 0) -> Array:
        return jnp.stack([*terms.values()], axis=axis)

    def outer_blocks(data: Data, f: Forces, z: Array) -> dict[str, Array]:
        """Blocks that are not per muscle."""
        blocks = {"moments": half_squares(moment_residual(data.train, f.tendon_force))}
        if data.passive is not None and f.passive is not None:
            blocks["passive_moments"] = half_squares(moment_residual(data.passive, f.passive))
        if data.maximal is not None and f.maximal is not None:
            blocks["maximal_moments"] = half_squares(maximal_residual(data.maximal, f.maximal))
        if len(data.similar):
            blocks["group_similarity"] = half_squares(data.similar @ z)
        return {**blocks, "prior": 0.5 * z @ prior(z) @ z}

    def total(data: Data, f: Forces, z: Array) -> Array:
        return sum(outer_blocks(data, f, z).values(), half_squares(stacked(f.terms)))

    def cost(model: NmsModel, data: Data, start: NmsParams, z: Array) -> Array:
        return total(data, forces(model, data, start, z), z)

    def blocks(model: NmsModel, data: Data, start: NmsParams, z: Array) -> dict[str, Array]:
        f = forces(model, data, start, z)
        return {**outer_blocks(data, f, z), **{name: half_squares(x) for name, x in f.terms.items()}}

    def by_color(of: Callable[[Array], Any], z: Array) -> tuple[Any, Any]:
        """A function of ``z``, and its derivative along every color."""

        def along(seed: Array) -> tuple[Any, Any]:
            return jax.jvp(of, (z,), (seed,))

        return jax.vmap(along, out_axes=(None, 0))(jnp.asarray(seeds, z.dtype))

    def of_entries(arms: Array, tendon_force: Array) -> Array:
        """Derivatives of moments ``(S, T, K, P)`` from those of forces by color."""
        pick = jnp.asarray(picks, arms.dtype)
        return jnp.einsum("stkm,cstm,cmp->stkp", arms, tendon_force, pick, optimize=[(0, 1), (0, 1)])

    def moments(model: NmsModel, data: Data, start: NmsParams, z: Array) -> tuple[Array, Array]:
        replay = data.train.replay
        f, df = by_color(lambda z: predict_stack(model, params_at(layout, start, z), replay).tendon_force, z)
        found = jnp.einsum("stkm,stm->stk", replay.moment_arms, f)
        return found - data.train.measured, of_entries(jnp.asarray(replay.moment_arms), df)

    def quadratic(model: NmsModel, data: Data, start: NmsParams, z: Array) -> Quadratic:
        f, df = by_color(lambda z: forces(model, data, start, z), z)
        pick = jnp.asarray(picks, z.dtype)

        def moment_jacobian(stack: Stack, tendon_force: Array) -> Array:
            return of_entries(stack.replay.moment_arms * stack.weight[..., None], tendon_force).reshape(-1, layout.size)

        jacobian = moment_jacobian(data.train, df.tendon_force)
        gradient = jacobian.T @ moment_residual(data.train, f.tendon_force).ravel() + prior(z) @ z
        matrix = jacobian.T @ jacobian + prior(z)
        if data.passive is not None and f.passive is not None and df.passive is not None:
            jacobian = moment_jacobian(data.passive, df.passive)
            gradient = gradient + jacobian.T @ moment_residual(data.passive, f.passive).ravel()
            matrix = matrix + jacobian.T @ jacobian
        if data.maximal is not None and f.maximal is not None and df.maximal is not None:
            arms = data.maximal.kinematics.moment_arms
            by_z = jnp.einsum("rm,crm,cmp->rp", arms, df.maximal, pick, optimize=[(0, 1), (0, 1)])
            jacobian = data.maximal.whitening @ by_z
            gradient = gradient + jacobian.T @ maximal_residual(data.maximal, f.maximal)
            matrix = matrix + jacobian.T @ jacobian
        similar = data.similar.T @ data.similar
        # A term of muscle m involves m's parameters only: sum over time first, per muscle and pair of colors.
        terms, d_terms = stacked(f.terms), stacked(df.terms, axis=1)
        slope = jnp.einsum("cbstm,bstm->cm", d_terms, terms)
        pairs = jnp.einsum("cbstm,dbstm->cdm", d_terms, d_terms)
        return Quadratic(
            cost=total(data, f, z),
            gradient=gradient + jnp.einsum("cm,cmp->p", slope, pick) + similar @ z,
            matrix=matrix + similar + jnp.einsum("cmp,cmq->pq", pick, jnp.einsum("cdm,dmq->cmq", pairs, pick)),
        )

    return Objective(cost, quadratic, blocks, moments)
