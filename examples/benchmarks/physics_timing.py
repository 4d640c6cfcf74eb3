"""What the engines of ``physics.py`` share: one core, one way to time, one line of JSON per result.

Standard library only: MotorNet's environment has neither JAX nor this package.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

STEPS = 250
DT = 0.005
BATCHES = (1, 256, 4096)
START = (0.785, 1.571)
TARGET = (1.2, 0.9)


def one_core() -> None:
    """Keep this process on one core and tell the numeric libraries; call before importing them."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def measure(run: Callable[[], Any], repetitions: int, budget: float = 10.0) -> dict[str, float]:
    """Medians of process CPU time and wall time of ``run``, which must return when the work is done.

    Runs once more than it counts. A run under 20 ms is repeated within each count, so that the clock's grain does not
    matter; counting stops at ``repetitions`` or, after three, at ``budget`` seconds.
    """
    began = time.perf_counter()
    run()
    once = time.perf_counter() - began
    inner = max(1, min(1000, int(0.02 / max(once, 1e-6))))
    cpu, wall = [], []
    began = time.perf_counter()
    while len(cpu) < repetitions and (len(cpu) < 3 or time.perf_counter() - began < budget):
        used, at = time.process_time(), time.perf_counter()
        for _ in range(inner):
            run()
        cpu.append((time.process_time() - used) / inner)
        wall.append((time.perf_counter() - at) / inner)
        if once > budget:
            break
    return {"cpu_s": statistics.median(cpu), "wall_s": statistics.median(wall), "repetitions": len(cpu) * inner}


def report(**result: Any) -> None:
    """One result, or one reason why there is none, as a line that ``physics.py`` reads."""
    if "cpu_s" in result:
        result["steps_per_cpu_s"] = result["batch"] * result["steps"] / result["cpu_s"]
    result["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("RESULT " + json.dumps(result), flush=True)


def attempt(case: dict[str, Any], run: Callable[[], dict[str, Any]]) -> None:
    """Report a case, or the error that it ends with."""
    try:
        report(**case, **run())
    except Exception as error:
        text = " ".join(str(error).split())
        report(**case, why=f"{type(error).__name__}: {text[:200]}")


def options() -> dict[str, Any]:
    """What ``physics.py`` asks of an engine: the JSON in the first argument."""
    asked = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    return {"batches": BATCHES, "repetitions": 5, **asked}
