"""How sure a calibration is: a Laplace posterior around every solution found, draws from it, and bands on moments.

The cost is a negative log posterior in ``z`` with a standard normal prior, so its Gauss-Newton matrix at a solution is
a precision (MacKay 1992, 10.1162/neco.1992.4.3.448). Three things are added to the textbook form:

* *Bounds.* The quadratic model, gradient included, is taken inside the box: a solution on a bound keeps the tail that
  its slope leaves it, instead of half of a symmetric normal or none (``truncated_normal``).
* *Several optima.* Starts that ended at different solutions are a mixture, weighed by the posterior mass of each:
  height times volume times the part inside the box. Starts within two standard deviations of a better one count as the
  same solution (two equal normals have one peak up to that distance).
* *Noise.* ``moment_tolerance`` is an assumption. With ``noise="achieved"`` the moment errors themselves say how large
  and how correlated they are, per joint: their variance over the independent samples left when the parameters have
  taken theirs replaces the assumed one. Errors that a wrong model makes alike in every stride cannot be seen so.

How far off stretches are that were *not* fitted is another question, and bands are about those: errors of the EMG, say,
are fitted away as far as the parameters allow, and come back in the next recording. ``Noise.left_out`` is the size of
the errors of every block of a few tenths of a second if the others alone had been fitted: one Gauss-Newton step of that
fit, from the solution, parameters on bounds held.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from calibration.fitting import CalibrationResult
from calibration.problem import Layout, Penalties, Problem
from calibration.residuals import Data, Quadratic, make_objective
from calibration.solvers.batch import Precision, cast, make_batches
from calibration.uncertainty.truncated_normal import log_box_probability
from calibration.validation import float64
from nms_gym._compilation import fast_compilation
from nms_gym.errors import InputError
from nms_gym.model.parameters import NmsParams
from nms_gym.model.structure import NmsModel

NoiseKind = Literal["achieved", "assumed"]

# Normals further apart than this, in standard deviations, have two peaks.
SAME_SOLUTION = 2.0
# Parameters are taken to use up at most this part of the independent samples: beyond, a stretch is too short to say
# anything about its noise, and the division would blow up.
MOST_TAKEN = 0.75
# Blocks that are left out: at least so many in all, none shorter than so many seconds.
BLOCKS, SHORTEST_BLOCK = 8, 0.25


@dataclass(frozen=True)
class Noise:
    """What is known about the errors of one joint's moment."""

    coordinate: str
    sd: float
    """N·m, corrected for the degrees of freedom that the parameters took; of one sample"""
    samples: int
    independent: float
    """how many of them count as independent, from the errors' autocorrelation"""
    taken: float
    """how many the parameters fitted"""
    scale: float
    """error variance per independent sample over the one that the penalties assume; 1 is what was assumed"""
    left_out: float = math.nan
    """N·m, root mean square of the errors of blocks as if not fitted; people that were saved earlier have none"""

    @property
    def unseen(self) -> float:
        """N·m, of one sample of a stretch that was not fitted."""
        return self.left_out if math.isfinite(self.left_out) else self.sd

    @property
    def excess(self) -> float:
        """``unseen`` over the root mean square of the errors that were fitted."""
        fitted = self.sd * math.sqrt(max(1.0 - self.taken / self.independent, 1.0 - MOST_TAKEN))
        return max(self.unseen / fitted, 1.0) if fitted else 1.0


@dataclass(frozen=True)
class Mode:
    """One solution's normal, before the box is put on."""

    weight: float
    """posterior mass, of 1"""
    cost: float
    z: np.ndarray
    """(P,) where the solver ended"""
    center: np.ndarray
    """(P,) minimum of the quadratic model; outside the box where a bound holds the solution"""
    data: np.ndarray
    """(P, P) what the recordings contribute to the precision, at the noise used"""
    other: np.ndarray
    """(P, P) what the prior and the fiber penalties contribute"""

    @property
    def precision(self) -> np.ndarray:
        """(P, P)."""
        return self.data + self.other

    @functools.cached_property
    def covariance(self) -> np.ndarray:
        """(P, P), without the box."""
        inverse = np.linalg.inv(self.precision)
        return 0.5 * (inverse + inverse.T)


@dataclass(frozen=True)
class Posterior:
    """Mixture of normals inside the bounds, in prior standard deviations ``z``."""

    model: NmsModel
    start: NmsParams
    layout: Layout
    modes: tuple[Mode, ...]
    """best first"""
    noise: tuple[Noise, ...]
    """per joint"""
    noise_kind: NoiseKind = "achieved"
    """which of their sizes the solutions are at"""

    @property
    def best(self) -> Mode:
        """The solution of lowest cost."""
        return self.modes[0]


def laplace(problem: Problem, result: CalibrationResult, *, noise: NoiseKind = "achieved", seed: int = 0) -> Posterior:
    """Posterior around the solutions of a calibration.

    Args:
        problem: what was calibrated.
        result: from ``fit`` of that problem; all its starts count.
        noise: "achieved" takes each joint's error variance from the errors, "assumed" from the penalties.
        seed: of the Monte Carlo estimate of how much of each normal the bounds leave.

    Raises:
        InputError: no start has a finite cost, or the result belongs to another problem.
    """
    return laplace_cohort([problem], [result], noise=noise, seed=seed)[0]


def laplace_cohort(
    problems: Sequence[Problem],
    results: Sequence[CalibrationResult],
    *,
    noise: NoiseKind = "achieved",
    precision: Precision = "float64",
    seed: int = 0,
) -> list[Posterior]:
    """``laplace`` of many subjects, batched as ``fit_cohort`` does."""
    posteriors: dict[int, Posterior] = {}
    for batch in make_batches(problems):
        mine = [results[i] for i in batch.indices]
        points = np.array([_sorted_starts(r, layout) for r, layout in zip(mine, batch.layouts, strict=True)])
        weights = np.asarray(batch.data.train.weight)
        steps = [float(problems[i].segments[0].replay.dt) for i in batch.indices]
        blocks = np.array([make_blocks(w.any(axis=2), dt) for w, dt in zip(weights, steps, strict=True)])
        held = np.array([at_bounds(p[0], layout) for p, layout in zip(points, batch.layouts, strict=True)])
        with jax.enable_x64(precision == "float64"):
            arrays = cast((batch.model, batch.data, batch.start, points), precision)
            run = _expansions(batch.shared_layout, batch.penalties, int(blocks.max()) + 1)
            parts, errors, unseen = float64(run(*arrays, blocks, held))
        for row, i in enumerate(batch.indices):
            own = jax.tree.map(lambda leaf, row=row: leaf[row], parts)
            scored = weights[row].any(axis=2)
            series, out = (
                [e[mask] for e, mask in zip(every[row], scored, strict=True) if mask.any()]
                for every in (errors, unseen)
            )
            first = jax.tree.map(lambda leaf: leaf[0], own)
            per_segment = [w.max(axis=0) for w, mask in zip(weights[row], scored, strict=True) if mask.any()]
            levels = measure_noise(problems[i].coordinates, series, out, np.array(per_segment), first)
            scale = np.array([n.scale for n in levels]) if noise == "achieved" else np.ones(len(levels))
            modes = make_modes(batch.layouts[row], points[row], own, scale, np.random.default_rng(seed))
            posteriors[i] = Posterior(problems[i].model, problems[i].start, batch.layouts[row], modes, levels, noise)
    return [posteriors[i] for i in range(len(problems))]


def _sorted_starts(result: CalibrationResult, layout: Layout) -> np.ndarray:
    """``(starts, P)`` by cost; those without a finite one are replaced by the best."""
    if result.layout != layout:
        raise InputError("the result belongs to another problem: their free parameters or bounds differ")
    finite = np.isfinite(result.costs)
    if not finite.any():
        raise InputError("no start of this calibration has a finite cost, so it has no posterior; calibrate again")
    order = np.argsort(np.where(finite, result.costs, np.inf))
    return result.all_z[np.where(finite[order], order, order[0])]


def at_bounds(z: np.ndarray, layout: Layout) -> np.ndarray:
    """``(P,)`` whether a bound holds the parameter."""
    span = 1e-6 * (layout.high - layout.low)
    return (z <= layout.low + span) | (z >= layout.high - span)


def make_blocks(counted: np.ndarray, dt: float) -> np.ndarray:
    """Which block every sample belongs to, ``(S, T)`` from 0; -1 where it does not count.

    Segments are divided evenly, so that there are ``BLOCKS`` in all or more, none shorter than ``SHORTEST_BLOCK``.
    """
    blocks = np.full(counted.shape, -1, np.int32)
    segments = np.flatnonzero(counted.any(axis=1))
    first = 0
    for s in segments:
        samples = np.flatnonzero(counted[s])
        count = int(np.clip(len(samples) * dt / SHORTEST_BLOCK, 1, math.ceil(BLOCKS / len(segments))))
        blocks[s, samples] = first + np.arange(len(samples)) * count // len(samples)
        first += count
    return blocks


@functools.lru_cache(maxsize=8)
def _expansions(layout: Layout, penalties: Penalties, count: int) -> Any:
    """Jitted: stacked subjects and their starts ``(N, starts, P)``, ``make_blocks`` with ``count`` blocks or fewer, and
    what bounds hold at the first start ``(N, P)``, to the parts of the cost ``(N, starts, K + 1)`` (see ``expand``),
    the moment errors at the first start ``(N, S, T, K)``, and those of each block left out.
    """
    objective = make_objective(layout, penalties)

    def of_one(
        model: NmsModel, data: Data, start: NmsParams, points: jax.Array, blocks: jax.Array, held: jax.Array
    ) -> Any:
        parts = jax.vmap(functools.partial(expand, layout, penalties, model, data, start))(points)
        errors, jacobian = objective.moments(model, data, start, points[0])
        matrix = parts.matrix[0].sum(axis=0)
        matrix = jnp.where(held[:, None] | held[None, :], jnp.eye(layout.size, dtype=matrix.dtype), matrix)
        unseen = left_out(errors, jnp.where(held, 0.0, jacobian), jnp.asarray(data.train.weight), matrix, blocks, count)
        return parts, errors, unseen

    return jax.jit(jax.vmap(of_one), compiler_options=fast_compilation())


def left_out(
    errors: jax.Array, jacobian: jax.Array, weight: jax.Array, matrix: jax.Array, blocks: jax.Array, count: int
) -> jax.Array:
    """Errors of every block after a Gauss-Newton step of the fit without it. Traced.

    The rest's precision is the whole one less the block's, and its gradient what the block's was, with the other sign.

    Args:
        errors: (S, T, K).
        jacobian: (S, T, K, P) of the errors.
        weight: (S, T, K) square root of what their squares count.
        matrix: (P, P) precision of the whole.
        blocks: (S, T) from ``make_blocks``.
        count: of blocks, or more.
    """

    def without(block: jax.Array) -> jax.Array:
        mine = (blocks == block)[..., None]
        slopes = (jacobian * (mine * weight)[..., None]).reshape(-1, jacobian.shape[-1])
        step = jnp.linalg.solve(matrix - slopes.T @ slopes, slopes.T @ (errors * mine * weight).ravel())
        return jnp.where(mine, errors + jacobian @ step, 0.0)

    return jax.lax.map(without, jnp.arange(count)).sum(axis=0)


def expand(
    layout: Layout, penalties: Penalties, model: NmsModel, data: Data, start: NmsParams, z: jax.Array
) -> Quadratic:
    """The cost at ``z (P,)`` and its first-order model, apart by where they come from: leading axis ``(K + 1,)``, each
    joint's moments first, everything else last; ``(K + 2,)`` where single muscles or maximal moments were measured,
    those before the last. Traced.
    """
    objective = make_objective(layout, penalties)
    train = data.train
    joints = train.weight.shape[-1]
    others = bool(data.targets) or data.maximal is not None
    sources = joints + others
    only = jnp.concatenate([jnp.eye(sources, dtype=z.dtype), jnp.zeros((1, sources), z.dtype)])

    def part(mask: jax.Array) -> Quadratic:
        masked = dataclasses.replace(train, weight=train.weight * jnp.broadcast_to(mask[:joints], train.weight.shape))
        targets = {q: dataclasses.replace(t, weight=t.weight * mask[-1]) for q, t in data.targets.items()}
        maximal = data.maximal and dataclasses.replace(data.maximal, whitening=data.maximal.whitening * mask[-1])
        some = dataclasses.replace(data, train=masked, targets=targets, maximal=maximal)
        return objective.quadratic(model, some, start, z)

    parts = jax.vmap(part)(only)
    return jax.tree.map(lambda x: jnp.concatenate([x[:-1] - x[-1:], x[-1:]]), parts)


def measure_noise(
    coordinates: Sequence[str],
    errors: Sequence[np.ndarray],
    unseen: Sequence[np.ndarray],
    weight: np.ndarray,
    at: Quadratic,
) -> tuple[Noise, ...]:
    """Size and independence of the moment errors at a solution.

    Args:
        coordinates: K names.
        errors: of each segment ``(T, K)`` N·m, counted samples only.
        unseen: the same if the stretch had been left out, from ``left_out``.
        weight: (S, K) 1/(N·m), square root of what one squared error of a segment counts in the cost.
        at: from ``expand`` at the solution.
    """
    covariance = np.linalg.inv(at.matrix.sum(axis=0))
    levels = []
    for k, coordinate in enumerate(coordinates):
        series = [e[:, k] for e in errors]
        samples = sum(len(s) for s in series)
        variance = sum(float(s @ s) for s in series) / samples
        independent = samples / correlation_time(series)
        taken = min(float(np.sum(covariance * at.matrix[k])), MOST_TAKEN * independent)
        free = independent / (independent - taken)
        weighed = sum(float(w) ** 2 * float(s @ s) for w, s in zip(weight[:, k], series, strict=True))
        scale = free * weighed / independent
        variance *= free
        out = float(np.sqrt(np.mean(np.concatenate([u[:, k] for u in unseen]) ** 2)))
        levels.append(Noise(coordinate, float(np.sqrt(variance)), samples, independent, taken, scale, out))
    return tuple(levels)


def correlation_time(series: Sequence[np.ndarray]) -> float:
    """Samples per independent sample, at least 1, of stretches of one process around zero.

    One plus twice the sum of the autocorrelations up to the first negative sum of two neighbours (Geyer 1992,
    10.1214/ss/1177011137, initial positive sequence).
    """
    power = sum(float(s @ s) for s in series)
    if power == 0:
        return 1.0
    total, longest = -1.0, max(len(s) for s in series)
    for lag in range(0, longest - 1, 2):
        pair = sum(float(s[: len(s) - i] @ s[i:]) for s in series for i in (lag, lag + 1) if len(s) > i) / power
        if pair <= 0:
            break
        total += 2.0 * pair
    return max(total, 1.0)


def make_modes(
    layout: Layout, points: np.ndarray, parts: Any, scale: np.ndarray, rng: np.random.Generator
) -> tuple[Mode, ...]:
    """Distinct solutions, best first, with their share of the posterior's mass.

    Args:
        layout: of ``z``.
        points: (N, P) where starts ended, lowest cost first.
        parts: from ``expand`` at the points, leading axes ``(N, K + 1)``, or one more with targets or maximal moments.
        scale: (K,) of the joints' error variances; what was measured of muscles stays at its tolerances.
        rng: for the box probabilities.
    """
    share = np.append(1.0 / scale, np.ones(parts.cost.shape[1] - len(scale)))
    cost = parts.cost @ share
    gradient = np.einsum("nkp,k->np", parts.gradient, share)
    data = np.einsum("nkpq,k->npq", parts.matrix[:, :-1], share[:-1])
    other = parts.matrix[:, -1]
    modes: list[Mode] = []
    log_mass: list[float] = []
    for i in np.argsort(cost, kind="stable"):
        away = [points[i] - m.z for m in modes]
        if any(d @ m.precision @ d < SAME_SOLUTION**2 for d, m in zip(away, modes, strict=True)):
            continue
        precision = data[i] + other[i]
        step = -np.linalg.solve(precision, gradient[i])
        mode = Mode(1.0, float(cost[i]), points[i], points[i] + step, data[i], other[i])
        modes.append(mode)
        inside = log_box_probability(mode.center, precision, layout.low, layout.high, rng)
        log_mass.append(inside - cost[i] - 0.5 * gradient[i] @ step - 0.5 * np.linalg.slogdet(precision)[1])
    mass = np.exp(np.array(log_mass) - max(log_mass))
    return tuple(dataclasses.replace(m, weight=float(w)) for m, w in zip(modes, mass / mass.sum(), strict=True))
