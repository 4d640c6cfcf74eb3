"""People of a posterior: draws inside the bounds, each held against its true cost."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calibration.problem import Layout, Penalties, Problem, params_at
from calibration.residuals import make_data, make_objective
from calibration.uncertainty.posterior import Mode, Posterior
from calibration.uncertainty.truncated_normal import sample_box
from calibration.validation import float64
from nms_gym._compilation import fast_compilation
from nms_gym.errors import InputError
from nms_gym.model.parameters import NmsParams

# A draw is believed up to this much more than the rise of the cost that the quadratic model says.
RISE_FACTOR, RISE = 1.0, 1.0
# Halvings of the line between a solution and a draw that does not fit.
BISECTIONS = 5
# Points whose cost is computed side by side.
COSTS_AT_ONCE = 25


def sample(posterior: Posterior, n: int, seed: int = 0) -> np.ndarray:
    """Independent draws ``(n, P)`` in ``z``, all inside the bounds; the same for the same seed.

    Raises:
        InputError: ``n`` below 1.
    """
    if n < 1:
        raise InputError(f"n is {n}; draw at least 1")
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n, [m.weight for m in posterior.modes])
    low, high = posterior.layout.low, posterior.layout.high
    drawn = [
        sample_box(m.center, m.precision, low, high, int(count), rng)
        for m, count in zip(posterior.modes, counts, strict=True)
        if count
    ]
    return rng.permutation(np.concatenate(drawn))


@dataclass(frozen=True)
class Trust:
    """How far the quadratic model of the cost can be trusted, from the true cost of draws."""

    effective: float
    """effective sample size of the draws as importance samples, of ``draws`` (Kong 1992)"""
    draws: int
    shortened: float
    """part of the draws that were taken back towards their solution"""
    step: float
    """median length that was left of those, 1 where there are none"""


def checked_sample(problem: Problem, posterior: Posterior, n: int, seed: int = 0) -> tuple[np.ndarray, Trust]:
    """``sample`` with every draw held against its true cost: ``(n, P)`` and how it went.

    Where muscles reach the end of their range within the posterior's width, the quadratic model says nothing of it, and
    draws along directions that the data hardly determine are people that do not fit at all. A draw whose cost has risen
    above what the quadratic model says is taken back along the line to its solution, to where the true cost has risen
    by that much: the random map of implicit sampling (Morzfeld, Tu, Atkins & Chorin 2012, 10.1016/j.jcp.2011.11.022)
    without its weights, which are those of one draw in high dimensions. Draws whose cost is lower than said stay.

    Raises:
        InputError: ``n`` below 1.
    """
    if n < 1:
        raise InputError(f"n is {n}; draw at least 1")
    rng = np.random.default_rng(seed)
    low, high = posterior.layout.low, posterior.layout.high
    counts = rng.multinomial(n, [m.weight for m in posterior.modes])
    drawn, solutions, said = [], [], []
    for m, count in zip(posterior.modes, counts, strict=True):
        if count:
            z = sample_box(m.center, m.precision, low, high, int(count), rng)
            drawn.append(z)
            solutions.append(np.broadcast_to(m.z, z.shape))
            said.append(_quadratic(m, z) - _quadratic(m, m.z[None]))
    z, solution, rise = np.concatenate(drawn), np.concatenate(solutions), np.concatenate(said)
    # A bound holds a solution where the quadratic model still falls.
    rise = np.maximum(rise, 0.0)
    cost = _costs(problem, posterior)
    bottom = cost(solution)
    true = cost(z) - bottom
    log_weight = np.where(np.isfinite(true), rise - true, -np.inf)
    weight = np.exp(log_weight - log_weight.max())
    limit = RISE_FACTOR * rise + RISE
    far = ~(true <= limit)
    shortest, longest = np.zeros(n), np.ones(n)
    if far.any():
        for _ in range(BISECTIONS):
            middle = 0.5 * (shortest + longest)
            over = ~(cost(solution + middle[:, None] * (z - solution)) - bottom <= limit)
            longest, shortest = np.where(over, middle, longest), np.where(over, shortest, middle)
    step = np.where(far, shortest, 1.0)
    trust = Trust(
        effective=float(weight.sum() ** 2 / np.sum(weight**2)),
        draws=n,
        shortened=float(far.mean()),
        step=float(np.median(step[far])) if far.any() else 1.0,
    )
    return rng.permutation(np.clip(solution + step[:, None] * (z - solution), low, high)), trust


def _quadratic(mode: Mode, z: np.ndarray) -> np.ndarray:
    away = z - mode.center
    return 0.5 * np.einsum("np,pq,nq->n", away, mode.precision, away)


def _costs(problem: Problem, posterior: Posterior) -> Callable[[np.ndarray], np.ndarray]:
    """True cost ``(n,)`` of points ``(n, P)`` at the posterior's noise."""
    data = make_data(problem)
    scale = np.array([n.scale if posterior.noise_kind == "achieved" else 1.0 for n in posterior.noise])
    data = dataclasses.replace(data, train=dataclasses.replace(data.train, weight=data.train.weight / np.sqrt(scale)))
    run = _cost_of_many(posterior.layout, problem.penalties)

    def cost(z: np.ndarray) -> np.ndarray:
        padded = np.concatenate([z, np.repeat(z[-1:], -len(z) % COSTS_AT_ONCE, axis=0)])
        with jax.enable_x64(True):
            arrays = float64((problem.model, data, problem.start))
            chunks = padded.reshape(-1, COSTS_AT_ONCE, z.shape[1])
            return np.concatenate([np.asarray(run(*arrays, chunk)) for chunk in chunks])[: len(z)]

    return cost


@functools.lru_cache(maxsize=8)
def _cost_of_many(layout: Layout, penalties: Penalties) -> Any:
    cost = make_objective(layout, penalties).cost
    return jax.jit(jax.vmap(cost, in_axes=(None, None, None, 0)), compiler_options=fast_compilation())


def params_batch(posterior: Posterior, draws: np.ndarray) -> NmsParams:
    """People of the draws ``(n, P)``: parameters with a leading axis, NumPy float64, ready for ``vmap``."""
    with jax.enable_x64(True):
        people = _people(posterior.layout)(float64(posterior.start), jnp.asarray(draws))
        return jax.tree.map(np.asarray, people)


@functools.lru_cache(maxsize=8)
def _people(layout: Layout) -> Any:
    return jax.jit(jax.vmap(functools.partial(params_at, layout), in_axes=(None, 0)))
