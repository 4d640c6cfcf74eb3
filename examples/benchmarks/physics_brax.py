"""brax's and MJX's side of ``physics.py``: ``python physics_brax.py '{"engine": "brax" | "MJX"}'``.

The skeleton driven by two torques, for brax refuses muscles and neither has a tendon with a fiber in series: that is
far less work than the closed loop beside it, and flatters them. MJX also runs six MuJoCo muscles (rigid tendon,
constant moment arms). One solver iteration; without joint limits there is nothing to solve.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import physics_timing as timing

timing.one_core()

import brax.generalized.pipeline  # noqa: E402
import brax.io.mjcf  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import mujoco  # noqa: E402
import numpy as np  # noqa: E402
import physics_arm as arm  # noqa: E402
from mujoco import mjx  # noqa: E402

Step = Callable[[Any, Any], Any]


def brax_engine(xml: str) -> tuple[Callable[[], Any], Step, Callable[[Any], Any]]:
    system: Any = brax.io.mjcf.loads(xml).tree_replace({"solver_iterations": 1})
    pipeline = brax.generalized.pipeline

    def start() -> Any:
        return pipeline.init(system, jnp.array(timing.START, jnp.float32), jnp.zeros(2, jnp.float32))

    return start, lambda state, act: pipeline.step(system, state, act), lambda state: state.q


def mjx_engine(xml: str) -> tuple[Callable[[], Any], Step, Callable[[Any], Any]]:
    models: Any = mujoco
    model = mjx.put_model(models.MjModel.from_xml_string(xml))

    def start() -> Any:
        return mjx.make_data(model).replace(qpos=jnp.array(timing.START, jnp.float32))

    return start, lambda state, act: mjx.step(model, state.replace(ctrl=act)), lambda state: state.qpos


def run(
    engine: str, xml: str, width: int, steps: int, batch: int, repetitions: int, backward: bool, checkpoint: bool
) -> dict[str, Any]:
    start, step, angles = (brax_engine if engine == "brax" else mjx_engine)(xml)
    begin = jax.jit(lambda: jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, *jnp.shape(x))), start()))()

    def simulate(begin: Any, drive: Any) -> Any:
        def control_step(state: Any, act: Any) -> Any:
            state = jax.vmap(step)(state, act)
            return state, angles(state)

        if checkpoint:
            control_step = jax.checkpoint(control_step, prevent_cse=False)
        return jax.lax.scan(control_step, begin, drive)[1]

    def loss(drive: Any, begin: Any) -> Any:
        return jnp.mean(jnp.sum((simulate(begin, drive) - jnp.array(timing.TARGET)) ** 2, -1))

    drive = jnp.asarray(arm.drive(steps, batch, width))
    began, used = time.perf_counter(), time.process_time()
    if backward:
        program = jax.jit(jax.value_and_grad(loss)).lower(drive, begin).compile()
        arguments = (drive, begin)
    else:
        program = jax.jit(simulate).lower(begin, drive).compile()
        arguments = (begin, drive)
    compiled = {"compile_s": time.perf_counter() - began, "compile_cpu_s": time.process_time() - used}
    measured = timing.measure(lambda: jax.block_until_ready(program(*arguments)), repetitions)
    finite = all(bool(np.isfinite(x).all()) for x in jax.tree.leaves(program(*arguments)))
    return {**measured, **compiled, "steps": steps, "finite": finite, "checkpoint": checkpoint, "threads": 1}


def main() -> None:
    asked = timing.options()
    engine = asked.get("engine", "brax")
    variants = [
        ("torques, no limits", {}, 2),
        ("torques, joint limits", {"limits": True}, 2),
        ("six MuJoCo muscles, no limits", {"muscles": True}, 6),
    ]
    for variant, options, width in variants:
        xml = arm.mjcf(timing.DT, **options)
        for batch in asked["batches"]:
            for backward in (False, True):
                # Recomputing each step on the way back keeps memory flat; at batch 1 memory is no concern.
                checkpoint = backward and batch > 1
                steps = timing.STEPS
                case = {
                    "engine": engine,
                    "variant": variant,
                    "tendon": "none" if width == 2 else "rigid",
                    "batch": batch,
                    "direction": "backward" if backward else "forward",
                }
                timing.attempt(
                    case,
                    lambda x=xml, n=width, s=steps, b=batch, w=backward, c=checkpoint: run(
                        engine, x, n, s, b, asked["repetitions"], w, c
                    ),
                )


if __name__ == "__main__":
    main()
