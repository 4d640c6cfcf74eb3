"""Environment steps per second of the peers; runs in a peer's own environment, imports nothing of NMS Gym.

    environments_peers.sh FOLDER
    OMP_NUM_THREADS=1 taskset -c 1 FOLDER/myosuite/bin/python environments_peers.py myosuite|mujoco [--quick] [--json F]
    OMP_NUM_THREADS=1 taskset -c 1 FOLDER/motornet/bin/python environments_peers.py motornet [--quick] [--json F]

The last line on stdout is JSON, a list of rows. All actions are drawn before the clock starts; nothing renders. Rates
are medians over repetitions after a warm-up; CPU seconds are the whole process's, threads included.

- ``myosuite``: ``gymnasium.make`` of its registered tasks and their ``step``, with observation, reward and every reset
  that random actions cause. A substep is an Euler step of MuJoCo (Newton solver, contacts, wrapping tendons, MuJoCo's
  muscle: rigid tendon). Each control step runs one ``mj_forward`` more than its substeps.
- ``mujoco``: the same two models in ``mujoco.rollout`` on one thread, physics only: controls held for one control step,
  states written after every substep, no observation, reward or reset.
- ``motornet``: the six-muscle planar arm in its own ``RandomTargetReach``, eager PyTorch, float32, one thread, without
  gradients. Included: observation, its noise draws (of variance zero by default, yet drawn) and the reset of the whole
  batch every 1 s of simulation; it computes no reward. "effector alone" is the physics by itself. A substep is an
  Euler step, or one of Runge-Kutta 4 (four evaluations) for the compliant tendon.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402  reads the number of threads when imported

TASKS = ("myoElbowPose1D6MRandom-v0", "myoLegWalk-v0")


def measure(advance: Callable[[int], None], repetitions: int, seconds: float) -> tuple[float, float, str]:
    """Calls per CPU second and per wall second of ``advance``, whose argument counts the calls, and their spread."""
    advance(0)
    warm = time.perf_counter()
    calls = 1
    while time.perf_counter() - warm < seconds / 2:
        advance(calls)
        calls += 1
    each = (time.perf_counter() - warm) / max(1, calls - 1)
    calls = max(3, round(seconds / each))
    cpu, wall = [], []
    for _ in range(repetitions):
        began, used = time.perf_counter(), time.process_time()
        for i in range(calls):
            advance(i)
        cpu.append(calls / (time.process_time() - used))
        wall.append(calls / (time.perf_counter() - began))
    median = statistics.median(cpu)
    spread = f"repetitions {min(cpu) / median - 1:+.0%} to {max(cpu) / median - 1:+.0%}"
    return median, statistics.median(wall), spread


def row(
    peer: str, task: str, muscles: int, substeps: int, dt: float, batch: int, rates: tuple[float, float], note: str
) -> dict[str, Any]:
    """``rates``: environment steps, summed over the batch, per CPU second and per wall second."""
    print(f"{peer} {task} batch {batch}: {rates[0]:.4g} steps per CPU second", file=sys.stderr)
    return {
        "peer": peer,
        "version": version(peer),
        "task": task,
        "muscles": muscles,
        "substeps": substeps,
        "dt": dt,
        "batch": batch,
        "env_steps_per_cpu_second": rates[0],
        "env_steps_per_wall_second": rates[1],
        "simulated_seconds_per_cpu_second": rates[0] * dt,
        "muscles_x_substeps_per_cpu_second": rates[0] * muscles * substeps,
        "note": note,
    }


def myosuite_env(task: str) -> Any:
    import gymnasium
    import myosuite  # noqa: F401  # pyright: ignore[reportMissingImports]  registers the tasks

    return gymnasium.make(task)


def myosuite(repetitions: int, seconds: float) -> list[dict[str, Any]]:
    rows = []
    for task in TASKS:
        env = myosuite_env(task)
        env.reset(seed=0)
        env.action_space.seed(0)
        actions = [env.action_space.sample() for _ in range(1024)]
        steps = resets = 0

        def advance(i: int, env: Any = env, actions: list[Any] = actions) -> None:
            nonlocal steps, resets
            _, _, terminated, truncated, _ = env.step(actions[i % len(actions)])
            steps += 1
            if terminated or truncated:
                env.reset()
                resets += 1

        cpu, wall, spread = measure(advance, repetitions, seconds)
        began = time.perf_counter()
        for _ in range(20):
            env.reset()
        reset_ms = (time.perf_counter() - began) / 20 * 1e3
        inner = env.unwrapped
        note = (
            f"gymnasium.make with wrappers; resets of {reset_ms:.2g} ms every {steps / max(1, resets):.0f} steps "
            f"included; mujoco {version('mujoco')}, Euler {inner.model.opt.timestep * 1e3:g} ms, rigid tendon; {spread}"
        )
        rows.append(row("myosuite", task, inner.model.nu, inner.frame_skip, inner.dt, 1, (cpu, wall), note))
        env.close()
    return rows


def mujoco(repetitions: int, seconds: float) -> list[dict[str, Any]]:
    import mujoco  # pyright: ignore[reportMissingImports]
    from mujoco import rollout  # pyright: ignore[reportMissingImports]

    rows = []
    # As many control steps as an episode of random actions lasts: 100 is the elbow's limit, the leg has fallen by 40.
    for task, batch, controls in ((TASKS[0], 64, 100), (TASKS[1], 16, 40)):
        env = myosuite_env(task)
        starts, full = [], mujoco.mjtState.mjSTATE_FULLPHYSICS
        inner = env.unwrapped
        model, data, substeps = inner.model, inner.data, inner.frame_skip
        for seed in range(batch):
            env.reset(seed=seed)
            starts.append(np.empty(mujoco.mj_stateSize(model, full)))
            mujoco.mj_getState(model, data, starts[-1], full)
        start = np.array(starts)
        action = np.random.default_rng(0).uniform(
            env.action_space.low, env.action_space.high, (batch, controls, model.nu)
        )
        # MyoSuite's own map from [-1, 1] to excitations; the leg's actions are excitations already.
        excitation = 1 / (1 + np.exp(-5 * (action - 0.5))) if env.action_space.low.min() < 0 else action
        control = np.repeat(excitation, substeps, axis=1)
        state = np.empty((batch, controls * substeps, start.shape[1]))
        sensors = np.empty((batch, controls * substeps, model.nsensordata))
        worker = mujoco.MjData(model)
        with rollout.Rollout(nthread=1) as pool:

            def advance(
                _: int, pool: Any = pool, fixed: Any = (model, [worker], start, control), out: Any = (state, sensors)
            ) -> None:
                pool.rollout(*fixed, state=out[0], sensordata=out[1])

            cpu, wall, spread = measure(advance, repetitions, seconds)
        # A rollout that warns stops there and repeats its last state, which looks fast. A state begins with the time.
        if not np.allclose(state[:, -1, 0] - start[:, 0], controls * inner.dt):
            raise RuntimeError(f"{task}: a rollout ended early")
        count = batch * controls
        note = (
            f"physics only: mujoco.rollout, nthread=1, {controls} control steps per rollout, model of {task}, "
            f"Euler {model.opt.timestep * 1e3:g} ms, rigid tendon; every substep stored; no reset, no observation; "
            f"{spread}"
        )
        name = f"rollout of {task}"
        rows.append(row("mujoco", name, model.nu, substeps, inner.dt, batch, (cpu * count, wall * count), note))
        env.close()
    return rows


def motornet(repetitions: int, seconds: float) -> list[dict[str, Any]]:
    import motornet  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    dt = 0.01

    def rigid(muscle: Callable[[], Any]) -> Any:
        return motornet.effector.RigidTendonArm26(muscle=muscle(), timestep=dt)

    def compliant(substeps: int) -> Any:
        return motornet.effector.CompliantTendonArm26(timestep=dt, n_ministeps=substeps)

    sizes = (1, 256, 4096)
    # MotorNet's defaults, 10 ms for rigid and 0.2 ms for compliant tendons, and 1.25 ms, of 1.25, 2.5 and 5 ms the only
    # one that still simulates the compliant tendon: after 0.25 s of such actions in 64 arms, the 95th percentile of its
    # joint angle errors against 0.1 ms is 0.004 rad (at most 0.17), at 2.5 ms 1.1 rad. Rigid ones at 10 ms: 0.44 rad.
    cases: list[tuple[str, Callable[[], Any], tuple[int, ...], str]] = [
        ("ReluMuscle", lambda: rigid(motornet.muscle.ReluMuscle), sizes, "Euler 10 ms, no tendon"),
        ("RigidTendonHillMuscle", lambda: rigid(motornet.muscle.RigidTendonHillMuscle), sizes, "Euler 10 ms"),
        ("CompliantTendonHillMuscle", lambda: compliant(50), (256,), "Runge-Kutta 4 at 0.2 ms, its default"),
        ("CompliantTendonHillMuscle", lambda: compliant(8), (256,), "Runge-Kutta 4 at 1.25 ms"),
    ]
    rows = []
    for muscle, effector, batches, scheme in cases:
        for batch in batches:
            env = motornet.environment.RandomTargetReach(effector=effector(), max_ep_duration=1.0)
            env.reset(seed=0, options={"batch_size": batch})
            generator = torch.Generator().manual_seed(0)
            actions = torch.rand(32, batch, env.effector.n_muscles, generator=generator)
            arm = env.effector
            clock = {"steps": 0, "finite": True}

            def whole(i: int, env: Any = env, actions: Any = actions, batch: int = batch, clock: Any = clock) -> None:
                if env.step(actions[i % len(actions)])[2]:
                    clock["finite"] &= bool(torch.isfinite(env.states["joint"]).all())
                    env.reset(options={"batch_size": batch})

            def physics(i: int, arm: Any = arm, actions: Any = actions, batch: int = batch, clock: Any = clock) -> None:
                arm.step(actions[i % len(actions)])
                clock["steps"] += 1
                if clock["steps"] % 100 == 0:
                    clock["finite"] &= bool(torch.isfinite(arm.states["joint"]).all())
                    arm.reset(options={"batch_size": batch})

            for name, advance in (("RandomTargetReach", whole), ("effector alone", physics)):
                with torch.no_grad():
                    cpu, wall, spread = measure(advance, repetitions, seconds)
                clock["finite"] &= bool(torch.isfinite(arm.states["joint"]).all())
                note = (
                    ("physics only; " if advance is physics else "")
                    + f"{scheme}; torch {version('torch')}, eager, float32, no_grad; batch reset every 1 s, included; "
                    + spread
                    + ("" if clock["finite"] else "; NOT FINITE")
                )
                task = f"{name}, Arm26, {muscle}"
                rates = (cpu * batch, wall * batch)
                rows.append(row("motornet", task, arm.n_muscles, arm.n_ministeps, env.dt, batch, rates, note))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=("myosuite", "mujoco", "motornet"))
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter repetitions")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning, module="gymnasium")
    run = {"myosuite": myosuite, "mujoco": mujoco, "motornet": motornet}[options.peer]
    rows = run(3, 0.4) if options.quick else run(7, 2.0)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
