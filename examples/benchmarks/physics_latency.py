"""Latency of one neuromuscular step of the right leg (40 muscles, elastic tendons), one sample at a time.

From joint angles, joint speeds and excitations in one NumPy array to joint moments in another: kinematics, delay,
activation, tendon equilibrium and moments. As a single environment does it, the state travels in the same flat array,
the parameters stay on the device, and the program is compiled ahead of time.
"""

from __future__ import annotations

import time
from typing import Any

import physics_timing as timing

timing.one_core()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from nms_gym._assets import asset_path  # noqa: E402
from nms_gym.envs.packing import Packing  # noqa: E402
from nms_gym.files.model_file import read_model_file  # noqa: E402
from nms_gym.model.forward import initial_state, kinematics_at, neuromuscular_step  # noqa: E402
from nms_gym.model.parameters import make_params  # noqa: E402
from nms_gym.model.structure import NmsModel, Settings  # noqa: E402
from nms_gym.muscle.geometry import lengths_and_moment_arms  # noqa: E402

jax.config.update("jax_cpu_enable_async_dispatch", False)

VARIANTS = {
    "as calibrated: BDF2, second-order filter, 150 ms of delay": Settings(),
    "as for learning: backward Euler, first-order activation, no delay": Settings(
        integrator="backward_euler", activation="first_order", max_delay=timing.DT
    ),
}


def run(settings: Settings, dtype: Any, calls: int) -> dict[str, Any]:
    file = read_model_file(asset_path("right_leg/model.json"))
    assert file.paths is not None
    count, size = len(file.muscles), len(file.coordinates)
    model = NmsModel(
        muscles=file.muscles,
        coordinates=file.coordinates,
        channels=file.muscles,
        settings=settings,
        channel_weights=np.eye(count, dtype=dtype),  # type: ignore[arg-type]
        paths=file.paths,
    )
    delay = 0.03 if settings.max_delay > 0.03 else 0.0
    params = make_params(model, {**file.parameters, "electromechanical_delay": delay}, dtype)
    middle, half = np.asarray(file.coordinate_range).mean(axis=1), np.ptp(file.coordinate_range, axis=1) / 2
    history = jnp.zeros((settings.history_length(timing.DT), count), dtype)
    start = initial_state(
        model, params, history, lengths_and_moment_arms(file.paths, middle.astype(dtype))[0], timing.DT
    )
    states, constants = Packing.of(start, large=1 << 62), Packing.of(params, large=1 << 62)
    width = sum(x.size for x in jax.tree.leaves(start))

    def step(fixed: Any, flat: jax.Array) -> jax.Array:
        state, rest = states.unpack((flat[:width],)), flat[width:]
        excitation, q, qd = rest[:count], rest[count : count + size], rest[count + size :]
        state, out = neuromuscular_step(
            model, constants.unpack(fixed), state, excitation, kinematics_at(model, q, qd), timing.DT
        )
        return jnp.concatenate([*states.pack(state), out.moments])

    fixed = constants.pack(params)
    flat = np.zeros(width + count + 2 * size, dtype)
    flat[:width] = states.pack(start)[0]
    began = time.perf_counter()
    compiled = jax.jit(step).lower(fixed, flat).compile()
    apart = time.perf_counter() - began
    phase = 2 * np.pi * timing.DT * np.arange(calls)[:, None] + np.arange(size)
    q, qd = middle + 0.5 * half * np.sin(phase), np.pi * half * np.cos(phase)
    excitation = np.random.default_rng(0).random((calls, count)) * 0.5
    inputs = np.concatenate([excitation, q, qd], axis=1).astype(dtype)
    # On a shared machine the last percentiles of wall time are other processes' turns: CPU time is counted beside it.
    wall, cpu = np.empty(calls), np.empty(calls)
    for i in range(calls):
        at, used = time.perf_counter_ns(), time.process_time_ns()
        flat[width:] = inputs[i]
        result = np.asarray(compiled(fixed, flat))
        flat[:width] = result[:width]
        cpu[i], wall[i] = time.process_time_ns() - used, time.perf_counter_ns() - at
    settled = slice(calls // 10, None)
    return {
        "steps": calls,
        "cpu_s": 1e-9 * float(cpu.sum()),
        "wall_s": 1e-9 * float(wall.sum()),
        "compile_s": apart,
        "wall_us": [1e-3 * float(np.percentile(wall[settled], p)) for p in (50, 99)],
        "cpu_us": [1e-3 * float(np.percentile(cpu[settled], p)) for p in (50, 99)],
        "finite": bool(np.isfinite(result).all()),
        "threads": 1,
    }


def main() -> None:
    asked = timing.options()
    for variant, settings in VARIANTS.items():
        for dtype in ("float32", "float64"):
            case = {
                "engine": "NMS Gym",
                "variant": variant,
                "tendon": "elastic",
                "batch": 1,
                "direction": "latency",
                "dtype": dtype,
            }
            with jax.enable_x64(dtype == "float64"):
                timing.attempt(case, lambda s=settings, d=dtype: run(s, np.dtype(d), asked.get("calls", 4000)))


if __name__ == "__main__":
    main()
