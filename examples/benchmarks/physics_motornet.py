"""MotorNet's side of ``physics.py``; runs in MotorNet's own environment, imports nothing of NMS Gym.

Its six-muscle arm (Nijhof & Kouwenhoven 2000) as shipped, in eager PyTorch, float32, on the CPU. Rigid tendons take one
Euler step per control step, MotorNet's default method. The compliant tendon is explicit and stiff: Runge-Kutta 4 at
0.2 ms is its default, 25 steps per control step. 2.5 ms is the longest step that still simulates it: joint angles are
within 0.005 rad of those at 0.1 ms after 0.25 s, where at 5 ms they are 0.36 rad off.
"""

from __future__ import annotations

from typing import Any

import physics_timing as timing

timing.one_core()

import motornet  # noqa: E402  # pyright: ignore[reportMissingImports]
import torch  # noqa: E402  # pyright: ignore[reportMissingImports]

torch.set_num_threads(1)


def effector(kind: str, ministeps: int) -> Any:
    if kind == "elastic":
        return motornet.effector.CompliantTendonArm26(timestep=timing.DT, n_ministeps=ministeps)
    muscle = motornet.muscle.ReluMuscle() if kind == "relu" else motornet.muscle.RigidTendonHillMuscle()
    return motornet.effector.RigidTendonArm26(muscle=muscle, timestep=timing.DT, n_ministeps=ministeps)


def simulate(arm: Any, excitation: torch.Tensor) -> torch.Tensor:
    """Joint angles (steps, batch, 2)."""
    start = torch.tensor([[*timing.START, 0.0, 0.0]]).repeat(excitation.shape[1], 1)
    arm.reset(options={"batch_size": len(start), "joint_state": start})
    angles = []
    for action in excitation:
        arm.step(action)
        angles.append(arm.states["joint"][:, :2])
    return torch.stack(angles)


def loss(arm: Any, excitation: torch.Tensor) -> torch.Tensor:
    return ((simulate(arm, excitation) - torch.tensor(timing.TARGET)) ** 2).sum(-1).mean()


def run(kind: str, ministeps: int, steps: int, batch: int, repetitions: int, backward: bool) -> dict[str, Any]:
    arm = effector(kind, ministeps)
    excitation = 0.02 + 0.2 * torch.rand(steps, batch, 6, generator=torch.Generator().manual_seed(0))
    finite = []

    def forward_only() -> None:
        with torch.no_grad():
            finite.append(bool(torch.isfinite(simulate(arm, excitation)).all()))

    def through_time() -> None:
        given = excitation.clone().requires_grad_(True)
        loss(arm, given).backward()
        finite.append(bool(torch.isfinite(given.grad).all()))

    measured = timing.measure(through_time if backward else forward_only, repetitions)
    return {**measured, "compile_s": 0.0, "steps": steps, "finite": all(finite), "threads": torch.get_num_threads()}


def main() -> None:
    asked = timing.options()
    variants = [
        ("ReluMuscle, Euler 5 ms", "none", "relu", 1),
        ("RigidTendonHillMuscle, Euler 5 ms", "rigid", "rigid", 1),
        ("CompliantTendonHillMuscle, RK4 0.2 ms", "elastic", "elastic", 25),
        ("CompliantTendonHillMuscle, RK4 2.5 ms", "elastic", "elastic", 2),
    ]
    for variant, tendon, kind, ministeps in variants:
        for batch in asked["batches"]:
            for backward in (False, True):
                # Time is linear in steps and memory is not endless: of a long simulation, a shorter stretch is timed.
                evaluations = ministeps * (4 if kind == "elastic" else 1)
                memory = 1_100_000 // (batch * evaluations) if backward else timing.STEPS
                steps = max(2, min(timing.STEPS, 2500 // evaluations, memory))
                case = {
                    "engine": "MotorNet",
                    "variant": variant,
                    "tendon": tendon,
                    "batch": batch,
                    "direction": "backward" if backward else "forward",
                }
                timing.attempt(
                    case,
                    lambda k=kind, m=ministeps, s=steps, b=batch, w=backward: run(k, m, s, b, asked["repetitions"], w),
                )


if __name__ == "__main__":
    main()
