"""Steps per second of ``nms_gym/MomentTracking-v0``, single and vectorised, on the shipped demo (6 muscles, elastic
tendon).

    python examples/benchmarks/environment.py [--json FILE] [--quick]

Random actions through Gymnasium's own interface, NumPy in and out; the first step, which compiles, is timed apart.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import common
import gymnasium

import nms_gym  # noqa: F401  registers the environments

ID = "nms_gym/MomentTracking-v0"


def timed(env: Any, count: int, steps: int, repetitions: int) -> dict[str, float]:
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(64)]
    began = time.perf_counter()
    env.step(actions[0])
    first = time.perf_counter() - began
    rates, cpu = [], []
    for _ in range(repetitions):
        env.reset(seed=0)
        began, used = time.perf_counter(), time.process_time()
        for i in range(steps):
            env.step(actions[i % 64])
        rates.append(count * steps / (time.perf_counter() - began))
        cpu.append(count * steps / (time.process_time() - used))
    env.close()
    return {
        "environments": count,
        "first_step_s": first,
        "steps_per_s": statistics.median(rates),
        "steps_per_cpu_s": statistics.median(cpu),
    }


def main() -> None:
    options = common.arguments(__doc__).parse_args()
    repetitions = 3 if options.quick else 7
    rows = [timed(gymnasium.make(ID).unwrapped, 1, 400, repetitions)]
    for count in (256,) if options.quick else (64, 256, 1024):
        env = gymnasium.make_vec(ID, num_envs=count, vectorization_mode="vector_entry_point")
        rows.append(timed(env, count, 200, repetitions))
    print(common.table(list(rows[0]), [list(row.values()) for row in rows]))
    print(common.machine())
    common.write(options.json, {"id": ID, "rows": rows})


if __name__ == "__main__":
    main()
