"""Many people in one call: calibrations side by side in one program, spread over devices and machines.

Subjects with the same muscles, channels, settings, penalties and free parameters share one compiled program, however
many there are; where numbers of samples or strides differ they are padded. Subjects that differ in structure form
batches of their own, solved one after the other.

Several devices share the subjects between them (``jax.shard_map``), each looping for its own only. On one machine,
``devices=jax.devices()`` is all it takes; ``XLA_FLAGS=--xla_force_host_platform_device_count=4`` makes virtual CPUs.
Across machines, every process runs the same script on the same list of subjects::

    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # CPUs only; GPUs bring their own
    jax.distributed.initialize("first-machine:1234", num_processes=2, process_id=...)
    results = fit_cohort(problems, devices=jax.devices())

and every process gets all results (``examples/cohort_two_processes.py`` tries it on one machine).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from calibration.fitting import CalibrationResult, Status, starting_points
from calibration.problem import Layout, Penalties, Problem, params_at
from calibration.residuals import make_objective
from calibration.solvers.batch import Batch, Precision, Solved, make_advance, make_batches, solve
from calibration.validation import float64
from nms_gym.errors import InputError


def fit_cohort(
    problems: Sequence[Problem],
    *,
    starts: int = 1,
    precision: Precision = "float32",
    devices: Sequence[Any] | None = None,
    max_iterations: int = 60,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> list[CalibrationResult]:
    """Calibrate many subjects by Levenberg-Marquardt, as ``fit`` would each, in one batch per structure.

    Args:
        problems: one per subject.
        starts: solutions sought per subject, from the same draws of the prior for all; the lowest cost wins.
        precision: "float32" is about twice as fast; where it converges, its solutions agree with "float64" to
            less than a tenth of a prior standard deviation.
        devices: that share the subjects; by default JAX's default device alone.
        max_iterations: evaluations of the model per start, rounded up to a multiple of 4.
        tolerance: relative decrease of the cost below which a start is done.
        seed: of the starts.

    Returns:
        One result per problem, in their order. ``compile_seconds`` and ``run_seconds`` are those of its whole batch. An
        interrupt ends the search with the best parameters so far, batches not begun at their uncalibrated start.

    Raises:
        InputError: no problem, no start or iteration, or an unknown precision.
    """
    if not problems:
        raise InputError("no subject to calibrate; give at least one problem")
    if precision not in ("float32", "float64"):
        raise InputError(f"precision is {precision!r}; use 'float32' or 'float64'")
    for name, value in (("starts", starts), ("max_iterations", max_iterations)):
        if value < 1:
            raise InputError(f"{name} is {value}; at least 1 is needed")
    mesh = None if devices is None else Mesh(np.array(devices), ("subjects",))
    results: dict[int, CalibrationResult] = {}
    interrupted = False
    for batch in make_batches(problems):
        z0 = np.array([starting_points(layout, starts, seed) for layout in batch.layouts])
        solved = solve(
            _advance(batch.shared_layout, batch.penalties, tolerance, mesh),
            (),
            (batch.model, batch.data, batch.start),
            batch.low,
            batch.high,
            z0,
            precision=precision,
            max_iterations=0 if interrupted else max_iterations,
            mesh=mesh,
        )
        interrupted |= solved.interrupted
        results.update(zip(batch.indices, _results(batch, solved, interrupted), strict=True))
    return [results[i] for i in range(len(problems))]


@functools.lru_cache(maxsize=32)
def _advance(layout: Layout, penalties: Penalties, tolerance: float, mesh: Mesh | None) -> Any:
    objective = make_objective(layout, penalties)

    def quadratic(_: Any, item: Any, z: jax.Array) -> Any:
        model, data, start = item
        return objective.quadratic(model, data, start, z)

    return make_advance(quadratic, tolerance, mesh)


@functools.lru_cache(maxsize=32)
def _people(layout: Layout) -> Any:
    return jax.jit(jax.vmap(functools.partial(params_at, layout)))


def _results(batch: Batch, solved: Solved, interrupted: bool) -> list[CalibrationResult]:
    # Bounds that were rounded to 32 bits may be a hair outside.
    points = np.clip(solved.z, batch.low[:, None], batch.high[:, None])
    winners = np.argmin(np.where(np.isfinite(solved.costs), solved.costs, np.inf), axis=1)
    with jax.enable_x64(True):
        best = points[np.arange(len(points)), winners]
        people = jax.tree.map(np.asarray, _people(batch.shared_layout)(float64(batch.start), best))
    results = []
    for i, layout in enumerate(batch.layouts):
        costs, winner, all_z = solved.costs[i], int(winners[i]), points[i]
        if interrupted:
            status = Status.INTERRUPTED
        elif not np.isfinite(costs[winner]):
            status = Status.NOT_FINITE
        else:
            status = Status.CONVERGED if solved.done[i, winner] else Status.MAX_ITERATIONS
        results.append(
            CalibrationResult(
                params=jax.tree.map(lambda leaf, i=i: leaf[i], people),
                status=status,
                solver="lm",
                cost=float(costs[winner]),
                start_cost=float(solved.history[i][0, 0]) if len(solved.history[i]) else float("nan"),
                z=all_z[winner],
                layout=layout,
                costs=costs,
                all_z=all_z,
                history=solved.history[i],
                iterations=int(solved.iterations[i, winner]),
                compile_seconds=solved.compile_seconds,
                run_seconds=solved.run_seconds,
            )
        )
    return results
