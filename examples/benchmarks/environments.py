"""Environment steps per CPU-second and per second of wall time: ours by every way of driving them, and others'.

    python examples/benchmarks/environments.py [--json FILE] [--quick] [--peers DIR]

Everything runs on one core, after compiling, which is timed apart. Random actions, drawn in advance; episodes end and
start again as they do in training. A row is a median over repetitions of about a second. ``fused`` is a scan on the
pure task; ``VectorEnv`` and ``gymnasium.make`` take and give NumPy; ``backward`` is the gradient of the return of 100
steps with respect to all actions.

With ``--peers DIR``, the folder that ``environments_peers.sh DIR`` has filled, MyoSuite, MuJoCo's own batch and
MotorNet run in the same session, each in its own environment. What differs is in the columns: muscles, substeps per
step, milliseconds per step; ``muscles x substeps`` per CPU-second compares the work, roughly.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import physics_timing

physics_timing.one_core()

import common  # noqa: E402
import gymnasium  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import nms_gym  # noqa: E402, F401  registers the environments
from nms_gym.envs import make_task  # noqa: E402
from nms_gym.envs.task import as_dtype, episode_key, play_actions  # noqa: E402

SECONDS = 1.0
PEERS = {"myosuite": "myosuite", "mujoco": "myosuite", "motornet": "motornet"}
"""peer -> its environment in the folder"""


def timed(run: Callable[[], Any], steps: int, repetitions: int) -> dict[str, float]:
    """Steps per CPU-second and per second, medians; ``run`` makes ``steps`` steps and returns when they are done."""
    began = time.perf_counter()
    run()
    first = time.perf_counter() - began
    began = time.perf_counter()
    run()
    again = max(1, round(SECONDS / max(time.perf_counter() - began, 1e-6)))
    cpu, wall = [], []
    for _ in range(repetitions):
        used, at = time.process_time(), time.perf_counter()
        for _ in range(again):
            run()
        cpu.append(steps * again / (time.process_time() - used))
        wall.append(steps * again / (time.perf_counter() - at))
    return {
        "steps_per_cpu_s": statistics.median(cpu),
        "steps_per_s": statistics.median(wall),
        "slowest": min(cpu),
        "fastest": max(cpu),
        "compile_s": first,
    }


def fused(name: str, batch: int, repetitions: int, **options: Any) -> dict[str, float]:
    """A scan over whole episodes."""
    task = as_dtype(make_task(name, **options), jnp.float32)
    low, high = task.action_bounds
    steps = task.horizon

    @jax.jit
    def run(states: Any, actions: Any) -> Any:
        def advance(carry: Any, i: Any) -> Any:
            states, total = carry
            # Other actions at every step, from those drawn, at next to no cost.
            states, out = jax.vmap(task.step)(states, low + (high - low) * ((actions + 0.37 * i) % 1.0))
            return (states, total + out.reward + jnp.sum(out.observation, axis=-1)), None

        start = (states, jnp.zeros(batch, jnp.float32))
        return jax.lax.scan(advance, start, jnp.arange(steps, dtype=jnp.float32))[0][1]

    states = jax.jit(jax.vmap(lambda seed: task.reset(episode_key(seed))[0]))(jnp.arange(batch, dtype=jnp.uint32))
    actions = jax.random.uniform(jax.random.key(1), (batch, len(low)))
    return timed(lambda: jax.block_until_ready(run(states, actions)), batch * steps, repetitions)


def backward(name: str, batch: int, repetitions: int, **options: Any) -> dict[str, float]:
    """The gradient of returns."""
    task = as_dtype(make_task(name, **options), jnp.float32)
    low, high = task.action_bounds
    steps = min(100, task.horizon)
    actions = jax.random.uniform(jax.random.key(1), (batch, steps, len(low)), minval=low, maxval=high)
    keys = jax.vmap(episode_key)(jnp.arange(batch, dtype=jnp.uint32))
    gradient = jax.jit(jax.grad(lambda u: jnp.sum(jax.vmap(lambda u, k: play_actions(task, u, k)[0])(u, keys))))
    return timed(lambda: jax.block_until_ready(gradient(actions)), batch * steps, repetitions)


def vectorised(name: str, batch: int, repetitions: int, **options: Any) -> dict[str, float]:
    """Through Gymnasium's vector interface, resets included."""
    env = gymnasium.make_vec(f"nms_gym/{name}", batch, vectorization_mode="vector_entry_point", **options)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(16)]
    count = max(16, min(200, 100_000 // batch))

    def run() -> None:
        for i in range(count):
            env.step(actions[i % 16])

    return timed(run, batch * count, repetitions)


def single(name: str, repetitions: int, **options: Any) -> dict[str, float]:
    """Through ``gymnasium.make`` with its usual wrappers; also the latency of a step."""
    env = gymnasium.make(f"nms_gym/{name}", disable_env_checker=True, **options)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(64)]
    latencies: list[float] = []

    def run() -> None:
        for i in range(1000):
            at = time.perf_counter()
            *_, terminated, truncated, _ = env.step(actions[i % 64])
            latencies.append(time.perf_counter() - at)
            if terminated or truncated:
                env.reset()

    result = timed(run, 1000, repetitions)
    kept = latencies[1000:]
    return result | {"median_us": 1e6 * statistics.median(kept), "p99_us": 1e6 * float(np.percentile(kept, 99))}


def ours(quick: bool) -> list[dict[str, Any]]:
    """All our rows."""
    repetitions = 3 if quick else 7
    arm: list[tuple[str, dict[str, Any]]] = [("ElbowReach-v0", {"tendon": t}) for t in ("rigid", "elastic")]
    arm += [("ArmReach-v0", {"tendon": t}) for t in ("rigid", "elastic")]
    cases: list[tuple[str, str, dict[str, Any], int]] = []
    for name, options in arm[:2] if quick else arm:
        cases += [("fused", name, options, b) for b in ((256,) if quick else (256, 4096))]
    for name, options in arm[:2]:
        cases += [("VectorEnv", name, options, b) for b in ((256, 4096) if quick else (1, 16, 256, 4096))]
        cases += [("gymnasium.make", name, options, 1), ("backward", name, options, 256)]
    leg: dict[str, Any] = {"tendon": "elastic"}
    cases += [
        (way, "LegSwing-v0", leg, b) for way in ("fused", "VectorEnv") for b in ((256,) if quick else (256, 1024))
    ]
    cases += [("gymnasium.make", "LegSwing-v0", leg, 1)]
    if not quick:
        cases += [("backward", "LegSwing-v0", leg, 64)]
    ways: dict[str, Callable[..., dict[str, float]]] = {"fused": fused, "backward": backward, "VectorEnv": vectorised}
    rows = []
    for way, name, options, batch in cases:
        task = make_task(name, **options)
        if way == "gymnasium.make":
            found = single(name, repetitions, **options)
        else:
            found = ways[way](name, batch, repetitions, **options)
        rate, muscles, substeps = found["steps_per_cpu_s"], len(task.muscles), getattr(task, "limb").frame_skip  # noqa: B009
        rows.append(
            {
                "what": f"nms_gym {name.removesuffix('-v0')}, {options['tendon']}",
                "way": way,
                "muscles": muscles,
                "substeps": substeps,
                "ms": 1000 * task.dt,
                "batch": batch,
                **found,
                "simulated_s_per_cpu_s": rate * task.dt,
                "muscles_x_substeps_per_cpu_s": rate * muscles * substeps,
            }
        )
        print(f"{rows[-1]['what']}, {way}, {batch}: {rate:,.0f} steps per CPU-second", file=sys.stderr)
    return rows


def theirs(folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Rows of the peers, each from its own environment; a peer that does not run is an error."""
    rows = []
    for peer, environment in PEERS.items():
        script = Path(__file__).with_name("environments_peers.py")
        command = [str(folder / environment / "bin" / "python"), str(script), peer, *(["--quick"] if quick else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        for row in json.loads(done.stdout.splitlines()[-1]):
            rows.append(
                {
                    "what": f"{row['peer']} {row['version']}, {row['task']}",
                    "way": row["note"],
                    "muscles": row["muscles"],
                    "substeps": row["substeps"],
                    "ms": 1000 * row["dt"],
                    "batch": row["batch"],
                    "steps_per_cpu_s": row["env_steps_per_cpu_second"],
                    "steps_per_s": row["env_steps_per_wall_second"],
                    "simulated_s_per_cpu_s": row["simulated_seconds_per_cpu_second"],
                    "muscles_x_substeps_per_cpu_s": row["muscles_x_substeps_per_cpu_second"],
                }
            )
    return rows


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--peers", type=Path, help="folder that environments_peers.sh has filled")
    options = parser.parse_args()
    rows = ours(options.quick) + ([] if options.peers is None else theirs(options.peers, options.quick))
    columns = {
        "what": "what",
        "way": "way",
        "muscles": "muscles",
        "substeps": "substeps",
        "ms": "ms per step",
        "batch": "batch",
        "steps_per_cpu_s": "steps per CPU s",
        "steps_per_s": "steps per s",
        "simulated_s_per_cpu_s": "simulated s per CPU s",
        "muscles_x_substeps_per_cpu_s": "muscles x substeps per CPU s",
        "median_us": "median us",
        "p99_us": "p99 us",
        "compile_s": "first call s",
    }

    def shown(value: Any) -> Any:
        return f"{value:,.0f}" if isinstance(value, float) and value >= 1000 else value

    print(common.table(list(columns.values()), [[shown(row.get(key, "")) for key in columns] for row in rows]))
    print(common.machine())
    common.write(options.json, {"rows": rows})


if __name__ == "__main__":
    main()
