"""NMS Gym's side of ``physics.py``: the skeleton alone, and the closed loop with rigid and elastic tendons."""

from __future__ import annotations

import functools
import time
from typing import Any

import physics_timing as timing

timing.one_core()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import physics_arm as arm  # noqa: E402

from nms_gym import anatomy as osim  # noqa: E402
from nms_gym.model.parameters import NmsParams, make_params  # noqa: E402
from nms_gym.model.rollout import initial_motion, rollout  # noqa: E402
from nms_gym.model.structure import NmsModel, Settings  # noqa: E402
from nms_gym.muscle.geometry import paths_from_polynomials  # noqa: E402
from nms_gym.recording.function_based_paths import PlainPolynomial  # noqa: E402
from nms_gym.skeleton.dynamics import Skeleton, forward_dynamics, make_skeleton  # noqa: E402
from nms_gym.skeleton.integrate import semi_implicit_euler  # noqa: E402


def multibody() -> osim.Multibody:
    """The arm as bodies and joints: two hinges about z."""

    def frame(body: str, x: float = 0.0) -> osim.Frame:
        return osim.Frame(body, np.eye(3), np.array([x, 0.0, 0.0]))

    def hinge(coordinate: str, parent: osim.Frame, child: str) -> osim.Joint:
        turns = [osim.TransformAxis(axis, (), osim.ZERO) for axis in np.eye(3)]
        turns[2] = osim.TransformAxis(np.array([0.0, 0.0, 1.0]), (coordinate,), osim.IDENTITY)
        slides = [osim.TransformAxis(axis, (), osim.ZERO) for axis in np.eye(3)]
        return osim.Joint(coordinate, "PinJoint", parent, frame(child), (coordinate,), (*turns, *slides))

    bodies = tuple(
        osim.Body(name, mass, np.array([center, 0.0, 0.0]), inertia * np.eye(3))
        for name, mass, center, inertia in zip(
            ("upper_arm", "forearm"), arm.MASSES, arm.MASS_CENTERS, arm.INERTIAS, strict=True
        )
    )
    coordinates = tuple(
        osim.Coordinate(name, name, "rotational", tuple(span), start, False, None)
        for name, span, start in zip(arm.COORDINATES, arm.RANGE.tolist(), timing.START, strict=True)
    )
    joints = (
        hinge("shoulder", frame("ground"), "upper_arm"),
        hinge("elbow", frame("upper_arm", arm.LENGTHS[0]), "forearm"),
    )
    return osim.Multibody("arm", "benchmark arm", np.zeros(3), bodies, joints, coordinates, ())


def model_and_params(tendon: Any, skeleton: Skeleton, **settings: Any) -> tuple[NmsModel, NmsParams]:
    """The arm with six muscles of one kind of tendon; each muscle has its own channel, without delay."""
    polynomials = []
    for m, muscle in enumerate(arm.MUSCLES):
        terms = {(0, 0): arm.PATH_CONSTANT[tendon][m]}
        for k in range(2):
            a, b, c = arm.PATH_LINEAR[k, m], arm.PATH_QUADRATIC[k, m], arm.PATH_REFERENCE[k]
            power = [(n if k == 0 else 0, n if k == 1 else 0) for n in range(3)]
            for key, value in zip(power, (b * c * c - a * c, a - 2 * b * c, b), strict=True):
                terms[key] = terms.get(key, 0.0) + value
        terms = {key: value for key, value in terms.items() if value}
        used = [k for k in range(2) if any(key[k] for key in terms)]
        exponents = np.array([[key[k] for k in used] for key in terms])
        names = tuple(arm.COORDINATES[k] for k in used)
        polynomials.append(PlainPolynomial(muscle, names, exponents, np.array(list(terms.values()))))
    chosen = {"tendon": tendon, "integrator": "backward_euler", "activation": "first_order", "max_delay": 0.01}
    model = NmsModel(
        muscles=arm.MUSCLES,
        coordinates=arm.COORDINATES,
        channels=arm.MUSCLES,
        settings=Settings(**{**chosen, **settings}),
        channel_weights=np.eye(6),  # type: ignore[arg-type]
        paths=paths_from_polynomials(polynomials, arm.COORDINATES, arm.RANGE),
        skeleton=skeleton,
    )
    values = {
        "max_isometric_force": arm.MAX_ISOMETRIC_FORCE,
        "optimal_fiber_length": arm.OPTIMAL_FIBER_LENGTH,
        "tendon_slack_length": arm.TENDON_SLACK_LENGTH[tendon],
        "tendon_strain_at_one_norm_force": 0.04,
        "activation_time_constant": arm.ACTIVATION,
        "deactivation_time_constant": arm.DEACTIVATION,
        "shape_factor": 0.0,
        "electromechanical_delay": 0.0,
    }
    return model, make_params(model, values)


def measured(program: Any, arguments: tuple[Any, ...], repetitions: int) -> dict[str, Any]:
    """Compile apart, then time."""
    began, used = time.perf_counter(), time.process_time()
    compiled = jax.jit(program).lower(*arguments).compile()
    apart = {"compile_s": time.perf_counter() - began, "compile_cpu_s": time.process_time() - used}
    result = timing.measure(lambda: jax.block_until_ready(compiled(*arguments)), repetitions)
    finite = all(bool(np.isfinite(x).all()) for x in jax.tree.leaves(compiled(*arguments)))
    return {**result, **apart, "steps": timing.STEPS, "finite": finite, "threads": 1}


def distance(angles: jax.Array) -> jax.Array:
    return jnp.mean(jnp.sum((angles - jnp.array(timing.TARGET)) ** 2, -1))


def skeleton_alone(batch: int, repetitions: int, backward: bool) -> dict[str, Any]:
    """Two torques, semi-implicit Euler: what brax and MJX are given."""
    skeleton = make_skeleton(multibody(), arm.COORDINATES)
    start = jnp.broadcast_to(jnp.array(timing.START, jnp.float32), (batch, 2))

    def simulate(torques: jax.Array) -> jax.Array:
        def step(state: tuple[jax.Array, jax.Array], torque: jax.Array) -> Any:
            q, qd = semi_implicit_euler(lambda q, qd: forward_dynamics(skeleton, q, qd, torque), *state, timing.DT)
            return (q, qd), q

        return jax.lax.scan(step, (start, jnp.zeros_like(start)), torques)[1]

    program = jax.value_and_grad(lambda torques: distance(simulate(torques))) if backward else simulate
    return measured(program, (jnp.asarray(arm.drive(timing.STEPS, batch, 2)),), repetitions)


def closed_loop(tendon: str, batch: int, repetitions: int, backward: bool) -> dict[str, Any]:
    """Six muscles and the skeleton."""
    model, params = model_and_params(tendon, make_skeleton(multibody(), arm.COORDINATES))
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    start = initial_motion(model, params, jnp.array(timing.START, jnp.float32), jnp.zeros(2, jnp.float32), timing.DT)
    start = jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, *x.shape)), start)

    def simulate(excitation: jax.Array, start: Any) -> jax.Array:
        def one(start: Any, excitation: jax.Array) -> jax.Array:
            return rollout(model, params, start, excitation, timing.DT)[1].q

        return jax.vmap(one, in_axes=(0, 1), out_axes=1)(start, excitation)

    program = jax.value_and_grad(lambda *a: distance(simulate(*a))) if backward else simulate
    return measured(program, (jnp.asarray(arm.drive(timing.STEPS, batch, 6)), start), repetitions)


def main() -> None:
    asked = timing.options()
    variants = [
        ("skeleton, torques", "none", skeleton_alone),
        ("six muscles, rigid tendons", "rigid", functools.partial(closed_loop, "rigid")),
        ("six muscles, elastic tendons", "elastic", functools.partial(closed_loop, "elastic")),
    ]
    for variant, tendon, run in variants:
        for batch in asked["batches"]:
            for backward in (False, True):
                case = {
                    "engine": "NMS Gym",
                    "variant": variant,
                    "tendon": tendon,
                    "batch": batch,
                    "direction": "backward" if backward else "forward",
                }
                timing.attempt(case, lambda f=run, b=batch, w=backward: f(b, asked["repetitions"], w))


if __name__ == "__main__":
    main()
