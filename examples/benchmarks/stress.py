"""Elastic tendons under stress: random muscles, activation that jumps, musculotendons at their fastest.

    python examples/benchmarks/stress.py [--json FILE] [--quick]

Residuals in tendon slack lengths against the number of iterations allowed, gradients through all steps against central
differences, and nothing but numbers anywhere. The default of ``tendon_iterations`` is taken from the first table.
"""

from __future__ import annotations

import functools
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym.muscle.curves import Curves, DeGrooteFregly2016
from nms_gym.muscle.hill import MuscleParams
from nms_gym.muscle.millard import Millard2012
from nms_gym.muscle.tendon import FiberOutput, Integrator, fiber_step, initial_fiber

FAMILIES: tuple[Curves, ...] = (DeGrooteFregly2016(), Millard2012())
INTEGRATORS: tuple[Integrator, ...] = ("bdf2", "backward_euler")
STEPS_S = (0.001, 0.005, 0.01)
ITERATIONS = (2, 3, 4, 5, 6, 8, 10, 12)

Motion = tuple[MuscleParams, Array, Array, Array]
"""parameters (M,), and activation, musculotendon length (m) and velocity (m/s), each (T, M)"""


def stress_set(seed: int, dt: float, count: int, steps: int, passive_strain: float, dtype: Any = np.float64) -> Motion:
    """Short to long tendons (0.2 to 8 fibers), pennation to 30 degrees, damping 0.01 or 0.1, square-wave activation.

    Musculotendons swing with peak speeds of 0.5 to 10 optimal fiber lengths per second, the last being maximum
    contraction velocity, at 0.5 to 6 Hz, by at most 0.4 optimal fiber lengths.
    """
    rng = np.random.default_rng(seed)
    same = np.ones(count)
    lopt = rng.uniform(0.02, 0.2, count)
    slack = lopt * np.exp(rng.uniform(np.log(0.2), np.log(8.0), count))
    pennation = np.radians(rng.uniform(0, 30, count))
    leaves = {
        "max_isometric_force": rng.uniform(100, 5000, count),
        "optimal_fiber_length": lopt,
        "tendon_slack_length": slack,
        "pennation_at_optimal": pennation,
        "max_contraction_velocity": 10.0 * same,
        "fiber_damping": rng.choice([0.01, 0.1], count),
        "passive_fiber_strain_at_one_norm_force": passive_strain * same,
        "tendon_strain_at_one_norm_force": 0.049 * same,
        "optimal_fiber_length_change": 0.0 * same,
    }
    params = MuscleParams(**{name: jnp.asarray(leaf, dtype) for name, leaf in leaves.items()})
    t = np.arange(steps + 1)[:, None] * dt
    rate = 2 * np.pi * np.exp(rng.uniform(np.log(0.5), np.log(6.0), count))
    swing = np.minimum(rng.uniform(0.5, 10.0, count) / rate, 0.4) * lopt
    phase = rng.uniform(0, 2 * np.pi, count)
    middle = 1.01 * slack + lopt * np.cos(pennation) * rng.uniform(0.8, 1.2, count)
    lengths, velocities = middle + swing * np.sin(rate * t + phase), swing * rate * np.cos(rate * t + phase)
    half = rng.uniform(0.02, 0.15, count)
    activation = np.where(((t + rng.uniform(0, 0.3, count)) // half) % 2 == 0, 1.0, 0.01)
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, activation, lengths, velocities))


def passive_strain(curves: Curves) -> float:
    """The family's own, so that its curves are what they are in OpenSim."""
    return dict(getattr(curves, "defaults", {})).get("passive_fiber_strain_at_one_norm_force", 0.6)


def simulate(curves: Curves, integrator: Integrator, iterations: int, motion: Motion, dt: Array | float) -> FiberOutput:
    """Every output, (T - 1, M) leaves, from rest in equilibrium."""
    params, activation, lengths, velocities = motion

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def step(state: Any, sample: tuple[Array, Array, Array]) -> Any:
        return fiber_step("elastic", integrator, iterations, curves, params, state, *sample, dt)

    start = initial_fiber("elastic", curves, params, activation[0], lengths[0])
    return jax.lax.scan(step, start, (activation[1:], lengths[1:], velocities[1:]))[1]


def total(curves: Curves, integrator: Integrator, iterations: int, motion: Motion, dt: Array | float) -> Array:
    """Mean force of each muscle over its maximum, summed over the muscles: each parameter moves its own term."""
    out = simulate(curves, integrator, iterations, motion, dt)
    return jnp.sum(jnp.mean(out.tendon_force, axis=0) / motion[0].max_isometric_force)


def gradient_errors(
    curves: Curves, integrator: Integrator, iterations: int, motion: Motion, dt: float
) -> dict[str, np.ndarray]:
    """Relative error of the gradient per muscle: tendon slack length, optimal fiber length, and a scale of activation.

    Central differences are taken of a simulation with plenty of iterations. One muscle's parameters move only its own
    force, so all muscles are moved at once.
    """

    def forces(scales: Array, iterations: int) -> Array:
        params, activation, lengths, velocities = motion
        moved = MuscleParams(
            **{
                **vars(params),
                "tendon_slack_length": params.tendon_slack_length * scales[0],
                "optimal_fiber_length": params.optimal_fiber_length * scales[1],
            }
        )
        activation = activation * jnp.broadcast_to(scales[2], activation.shape)
        out = simulate(curves, integrator, iterations, (moved, activation, lengths, velocities), dt)
        return jnp.mean(out.tendon_force, axis=0) / params.max_isometric_force

    one = jnp.ones((3, motion[1].shape[1]))
    gradient = jax.jit(jax.grad(lambda s: jnp.sum(forces(s, iterations))))(one)
    moved = jax.jit(lambda s: forces(s, 50))
    h = 1e-6
    errors = {}
    for i, name in enumerate(("tendon_slack_length", "optimal_fiber_length", "activation")):
        difference = (moved(one.at[i].add(h)) - moved(one.at[i].add(-h))) / (2 * h)
        errors[name] = np.asarray(jnp.abs(gradient[i] - difference) / jnp.maximum(jnp.abs(difference), 0.01))
    return errors


def residuals(count: int, seconds: float) -> list[dict[str, Any]]:
    """Worst residual for every family, integrator, step, precision and number of iterations."""
    rows = []
    for dtype in (np.float64, np.float32):
        for curves in FAMILIES:
            for integrator in INTEGRATORS:
                run = jax.jit(functools.partial(simulate, curves, integrator), static_argnums=0)
                for dt in STEPS_S:
                    steps = round(seconds / dt)
                    motion = stress_set(0, dt, count, steps, passive_strain(curves), dtype)
                    worst = {}
                    for iterations in ITERATIONS if dtype == np.float64 else ITERATIONS[-1:]:
                        out = run(iterations, motion, jnp.asarray(dt, dtype))
                        assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(out))
                        worst[str(iterations)] = float(jnp.abs(out.residual).max())
                    rows.append(
                        {
                            "family": curves.name,
                            "integrator": integrator,
                            "dtype": np.dtype(dtype).name,
                            "dt": dt,
                            "muscles": count,
                            "steps": steps,
                            "worst": worst,
                        }
                    )
    return rows


def main() -> None:
    options = common.arguments(__doc__).parse_args()
    count, seconds = (128, 0.3) if options.quick else (1000, 1.0)
    with jax.enable_x64(True):
        rows = residuals(count, seconds)
        header = ["family", "integrator", "dtype", "dt", "muscles", "steps", *map(str, ITERATIONS)]
        lines = [[*list(row.values())[:6], *(row["worst"].get(str(k), "") for k in ITERATIONS)] for row in rows]
        print("worst residual, tendon slack lengths, by iterations allowed\n")
        print(common.table(header, lines) + "\n")
        gradients = []
        for curves in FAMILIES:
            for dt in STEPS_S:
                motion = stress_set(1, dt, 64, 60, passive_strain(curves))
                for iterations in (2, 3, 12):
                    errors = gradient_errors(curves, "bdf2", iterations, motion, dt)
                    gradients += [
                        [curves.name, dt, iterations, name, float(np.median(e)), float(e.max())]
                        for name, e in errors.items()
                    ]
        header = ["family", "dt", "iterations", "gradient of", "median", "worst relative error"]
        print(common.table(header, gradients))
    muscles = sum(row["muscles"] for row in rows)
    steps = sum(row["muscles"] * row["steps"] for row in rows)
    print(f"\n{len(rows)} cases, {muscles} muscles, {steps} muscle steps, none of them NaN")
    common.write(
        options.json,
        {"residuals": rows, "gradients": [dict(zip(header, row, strict=True)) for row in gradients]},
    )


if __name__ == "__main__":
    main()
