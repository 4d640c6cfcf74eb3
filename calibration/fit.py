"""Solve a calibration problem: several starts in one batch, progress while it runs, and a result that says how it went."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calibration import gradient_descent, levenberg_marquardt
from calibration.problem import Layout, Problem, params_at
from calibration.residuals import make_objective
from nms_gym.errors import InputError, listed
from nms_gym.model import NmsParams

SOLVERS = ("lm", *gradient_descent.OPTIMIZERS)


class Status(enum.Enum):
    """How a calibration ended; the value says what to do next."""

    CONVERGED = "converged"
    MAX_ITERATIONS = "stopped at the iteration limit: raise max_iterations, or accept if the cost has levelled off"
    INTERRUPTED = "interrupted: these are the best parameters so far"
    NOT_FINITE = "no start has a finite cost: check lengths, moment arms and units of the trial and the start values"


@dataclass(frozen=True)
class Progress:
    """What a progress callback is told."""

    iteration: int
    max_iterations: int
    cost: float
    """of the best start so far"""
    seconds: float


@dataclass(frozen=True)
class CalibrationResult:
    """Outcome of ``fit``. Arrays are NumPy, float64."""

    params: NmsParams
    status: Status
    solver: str
    cost: float
    """half the sum of squares at ``z``"""
    start_cost: float
    """the same at the uncalibrated parameters"""
    z: np.ndarray
    """(P,) prior standard deviations from the start"""
    layout: Layout
    costs: np.ndarray
    """(starts,) final cost of every start"""
    all_z: np.ndarray
    """(starts, P) where every start ended"""
    history: np.ndarray
    """(iterations + 1, starts) cost by iteration"""
    iterations: int
    compile_seconds: float
    run_seconds: float

    @property
    def at_bounds(self) -> tuple[str, ...]:
        """Names of the parameters that ended on a bound: the data ask for more than was allowed."""
        span = 1e-6 * (self.layout.high - self.layout.low)
        at = (self.z <= self.layout.low + span) | (self.z >= self.layout.high - span)
        return tuple(n for n, a in zip(self.layout.names, at, strict=True) if a)


def starting_points(layout: Layout, starts: int, seed: int) -> np.ndarray:
    """``(starts, P)``: the uncalibrated person first, then draws from the prior inside the bounds."""
    draws = np.random.default_rng(seed).standard_normal((starts, layout.size))
    draws[0] = 0.0
    return np.clip(draws, 0.9 * layout.low, 0.9 * layout.high)


def fit(
    problem: Problem,
    *,
    solver: str = "lm",
    starts: int = 4,
    max_iterations: int | None = None,
    learning_rate: float = 0.05,
    tolerance: float = 1e-4,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> CalibrationResult:
    """Calibrate. Runs in float64 whatever JAX's global setting, which it leaves alone.

    Args:
        problem: what to fit to what.
        solver: "lm" (Levenberg-Marquardt; the fast one) or an optax optimizer: "adam", "adabelief", "lion", "rmsprop".
        starts: solutions sought side by side, from different draws of the prior; the lowest cost wins.
        max_iterations: per start; by default 60 for "lm" and 1000 for the others.
        learning_rate: of the optax solvers, in prior standard deviations.
        tolerance: relative decrease of the cost below which a start is done.
        seed: of the starts.
        progress: called every few iterations. A ``KeyboardInterrupt`` ends the search with the best parameters so far.

    Raises:
        InputError: unknown solver, or no start at all.
    """
    if solver not in SOLVERS:
        raise InputError(f"no solver {solver!r}; there are {listed(SOLVERS)}")
    if starts < 1:
        raise InputError(f"starts is {starts}; at least 1 is needed")
    limit = max_iterations or (60 if solver == "lm" else 1000)
    chunk = 4 if solver == "lm" else 25
    with jax.enable_x64(True):
        began = time.perf_counter()
        layout, data, cost, quadratic = make_objective(problem)
        data, start = jax.tree.map(jnp.asarray, (data, problem.start))
        low, high = jnp.asarray(layout.low), jnp.asarray(layout.high)
        z0 = jnp.asarray(starting_points(layout, starts, seed))

        if solver == "lm":

            def begin(data: Any, start: Any, z: Any) -> Any:
                return levenberg_marquardt.begin(lambda z: quadratic(data, start, z), z)

            def iterate(data: Any, start: Any, search: Any) -> Any:
                return levenberg_marquardt.iterate(lambda z: quadratic(data, start, z), low, high, tolerance, search)

        else:
            optimizer = gradient_descent.make_optimizer(solver, learning_rate, limit)

            def begin(data: Any, start: Any, z: Any) -> Any:
                return gradient_descent.begin(lambda z: cost(data, start, z), optimizer, z)

            def iterate(data: Any, start: Any, search: Any) -> Any:
                return gradient_descent.iterate(
                    lambda z: cost(data, start, z), optimizer, low, high, tolerance, search
                )

        batch = (None, None, 0)
        first = jax.jit(jax.vmap(begin, in_axes=batch)).lower(data, start, z0).compile()
        search = first(data, start, z0)

        def several(data: Any, start: Any, search: Any) -> Any:
            def one(search: Any, _: None) -> Any:
                search = jax.vmap(iterate, in_axes=batch)(data, start, search)
                return search, _cost_of(search)

            return jax.lax.scan(one, search, None, length=chunk)

        advance = jax.jit(several).lower(data, start, search).compile()
        compiled = time.perf_counter()

        history = [np.asarray(_cost_of(search))[None]]
        start_cost = float(history[0][0, 0])
        status = Status.MAX_ITERATIONS
        try:
            while sum(len(h) for h in history) - 1 < limit:
                search, costs = advance(data, start, search)
                history.append(np.asarray(costs))
                if progress is not None:
                    best = float(np.nanmin(_best_cost(search)))
                    count = sum(len(h) for h in history) - 1
                    progress(Progress(count, limit, best, time.perf_counter() - compiled))
                if bool(np.all(np.asarray(search.done))):
                    status = Status.CONVERGED
                    break
        except KeyboardInterrupt:
            status = Status.INTERRUPTED
        final = _best_cost(search)
        all_z = np.asarray(search.z if solver == "lm" else search.best_z)
        if not np.isfinite(final).any():
            status, winner = Status.NOT_FINITE, 0
        else:
            winner = int(np.nanargmin(np.where(np.isfinite(final), final, np.nan)))
        params = jax.tree.map(np.asarray, params_at(layout, start, jnp.asarray(all_z[winner])))
        return CalibrationResult(
            params=params,
            status=status,
            solver=solver,
            cost=float(final[winner]),
            start_cost=start_cost,
            z=all_z[winner],
            layout=layout,
            costs=final,
            all_z=all_z,
            history=np.concatenate(history),
            iterations=int(np.asarray(search.iterations)[winner]),
            compile_seconds=compiled - began,
            run_seconds=time.perf_counter() - compiled,
        )


def _cost_of(search: Any) -> Any:
    return search.at.cost if isinstance(search, levenberg_marquardt.Search) else search.cost


def _best_cost(search: Any) -> np.ndarray:
    return np.asarray(search.at.cost if isinstance(search, levenberg_marquardt.Search) else search.best_cost)
