"""Solve a calibration problem: several starts in one batch, progress, and a result that says how it went."""

from __future__ import annotations

import dataclasses
import enum
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from calibration.problem import Layout, Penalties, Problem, make_layout, params_at
from calibration.residuals import make_data, make_objective
from calibration.solvers import gradient_descent, levenberg_marquardt
from calibration.validation import float64
from nms_gym._compilation import fast_compilation
from nms_gym.errors import InputError, listed
from nms_gym.model.parameters import NmsParams

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
    """(iterations, starts) cost by iteration, the first at the start itself"""
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
    independent = np.random.default_rng(seed).standard_normal((starts, layout.size))
    # With P = L L', inv(L') times standard normals has covariance inv(P); the identity leaves them as they are.
    draws = np.linalg.solve(np.linalg.cholesky(layout.prior_precision).T, independent.T).T
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
    initial: np.ndarray | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> CalibrationResult:
    """Calibrate. Runs in float64 whatever JAX's global setting, which it leaves alone.

    Args:
        problem: what to fit to what.
        solver: "lm" (Levenberg-Marquardt; the fast one) or an optax optimizer: "adam", "adabelief", "lion", "rmsprop".
        starts: solutions sought side by side, from different draws of the prior; the lowest cost wins.
        max_iterations: evaluations of the model per start, the start itself included, rounded up to whole batches (of 4
            for "lm", 25 for the others); by default 60 and 1000.
        learning_rate: of the optax solvers, in prior standard deviations.
        tolerance: relative decrease of the cost below which a start is done.
        seed: of the starts.
        initial: (starts, P) points to start from instead; see ``polished`` for what it is good for.
        progress: called every few iterations. A ``KeyboardInterrupt`` ends the search with the best parameters so far.

    Raises:
        InputError: unknown solver, no start or iteration at all, or starting points of another problem.
    """
    if solver not in SOLVERS:
        raise InputError(f"no solver {solver!r}; there are {listed(SOLVERS)}")
    limit = (60 if solver == "lm" else 1000) if max_iterations is None else max_iterations
    for name, value in (("starts", starts), ("max_iterations", limit)):
        if value < 1:
            raise InputError(f"{name} is {value}; at least 1 is needed")
    with jax.enable_x64(True):
        began = time.perf_counter()
        layout = make_layout(problem)
        if initial is not None and np.shape(initial)[1:] != (layout.size,):
            raise InputError(f"initial has shape {np.shape(initial)}; expected (starts, {layout.size})")
        # Only the schedule of the optax solvers depends on rate and limit; for "lm" they must not compile anew.
        schedule = (0.0, 0) if solver == "lm" else (learning_rate, limit)
        loop = _make_loop(layout, problem.penalties, solver, tolerance, *schedule)
        model, data, start = jax.tree.map(jnp.asarray, float64((problem.model, make_data(problem), problem.start)))
        points = starting_points(layout, starts, seed) if initial is None else np.asarray(initial, float)
        z0 = jnp.asarray(np.clip(points, layout.low, layout.high))
        search = loop.begin(z0)
        # Compiles when no problem of this shape was solved before; nothing runs.
        advance = functools.partial(loop.advance, model, data, start)
        loop.advance.lower(model, data, start, search).compile()
        loop.finish.lower(start, z0[0]).compile()
        compiled = time.perf_counter()

        history: list[np.ndarray] = []
        status = Status.MAX_ITERATIONS
        try:
            while loop.chunk * len(history) < limit:
                search, costs = advance(search)
                history.append(np.asarray(costs))
                if progress is not None:
                    best = float(np.nanmin(_best_cost(search)))
                    progress(Progress(loop.chunk * len(history), limit, best, time.perf_counter() - compiled))
                if bool(np.all(np.asarray(search.done))):
                    break
        except KeyboardInterrupt:
            status = Status.INTERRUPTED
        final = _best_cost(search)
        all_z = np.asarray(search.z if solver == "lm" else search.best_z)
        winner = int(np.argmin(np.where(np.isfinite(final), final, np.inf)))
        if status is not Status.INTERRUPTED:
            if not np.isfinite(final[winner]):
                status = Status.NOT_FINITE
            elif bool(np.asarray(search.done)[winner]):
                status = Status.CONVERGED
        params = jax.tree.map(np.asarray, loop.finish(start, jnp.asarray(all_z[winner])))
        return CalibrationResult(
            params=params,
            status=status,
            solver=solver,
            cost=float(final[winner]),
            start_cost=float(history[0][0, 0]) if history else float("nan"),
            z=all_z[winner],
            layout=layout,
            costs=final,
            all_z=all_z,
            history=np.concatenate(history) if history else np.empty((0, starts)),
            iterations=int(np.asarray(search.iterations)[winner]),
            compile_seconds=compiled - began,
            run_seconds=time.perf_counter() - compiled,
        )


def polished(
    problem: Problem, result: CalibrationResult, *, progress: Callable[[Progress], None] | None = None
) -> CalibrationResult:
    """Levenberg-Marquardt from where every start of another solver ended: adaptive gradient descent finds the valley,
    this its bottom. History, iterations and times are those of both.

    Raises:
        InputError: ``result`` belongs to another problem.
    """
    if result.layout != make_layout(problem):
        raise InputError("the result belongs to another problem: their free parameters or bounds differ")
    end = fit(problem, solver="lm", initial=result.all_z, progress=progress)
    if not len(end.history):  # interrupted before it began
        return dataclasses.replace(result, status=end.status)
    return dataclasses.replace(
        end,
        solver=f"{result.solver}, lm",
        start_cost=result.start_cost,
        history=np.concatenate([result.history, end.history]),
        iterations=result.iterations + end.iterations,
        compile_seconds=result.compile_seconds + end.compile_seconds,
        run_seconds=result.run_seconds + end.run_seconds,
    )


def cost_by_block(problem: Problem, z: np.ndarray) -> dict[str, float]:
    """What each named block of the objective (``residuals``) contributes to the cost at ``z (P,)``."""
    with jax.enable_x64(True):
        blocks = _make_blocks(make_layout(problem), problem.penalties)
        found = blocks(*jax.tree.map(jnp.asarray, float64((problem.model, make_data(problem), problem.start))), z)
    return {name: float(value) for name, value in found.items()}


@functools.lru_cache(maxsize=8)
def _make_blocks(layout: Layout, penalties: Penalties) -> Any:
    return jax.jit(make_objective(layout, penalties).blocks)


class _Loop(NamedTuple):
    """A solver's compiled pieces, shared by all problems of one layout."""

    chunk: int
    begin: Any
    advance: Any
    finish: Any


@functools.lru_cache(maxsize=32)
def _make_loop(
    layout: Layout, penalties: Penalties, solver: str, tolerance: float, learning_rate: float, limit: int
) -> _Loop:
    objective = make_objective(layout, penalties)
    low, high = layout.low, layout.high
    if solver == "lm":
        chunk, begin = 4, levenberg_marquardt.begin

        def iterate(model: Any, data: Any, start: Any, search: Any) -> Any:
            def quadratic(z: Array) -> Any:
                return objective.quadratic(model, data, start, z)

            return levenberg_marquardt.iterate(quadratic, jnp.asarray(low), jnp.asarray(high), tolerance, search)

    else:
        optimizer = gradient_descent.make_optimizer(solver, learning_rate, limit)
        chunk, begin = 25, functools.partial(gradient_descent.begin, optimizer)

        def iterate(model: Any, data: Any, start: Any, search: Any) -> Any:
            def cost(z: Array) -> Array:
                return objective.cost(model, data, start, z)

            return gradient_descent.iterate(cost, optimizer, jnp.asarray(low), jnp.asarray(high), tolerance, search)

    def advance(model: Any, data: Any, start: Any, search: Any) -> Any:
        def one(search: Any, _: None) -> Any:
            search = jax.vmap(iterate, in_axes=(None, None, None, 0))(model, data, start, search)
            return search, _cost_of(search)

        return jax.lax.scan(one, search, None, length=chunk)

    # Its few iterations are worth less than what compiling them well takes: a third of a cold start.
    return _Loop(
        chunk=chunk,
        begin=jax.jit(jax.vmap(begin)),
        advance=jax.jit(advance, compiler_options=fast_compilation() if solver == "lm" else None),
        finish=jax.jit(lambda start, z: params_at(layout, start, z)),
    )


def _cost_of(search: Any) -> Any:
    return search.at.cost if isinstance(search, levenberg_marquardt.Search) else search.cost


def _best_cost(search: Any) -> np.ndarray:
    return np.asarray(search.at.cost if isinstance(search, levenberg_marquardt.Search) else search.best_cost)
