"""One step of motion: semi-implicit Euler and classical Runge-Kutta."""

from __future__ import annotations

from collections.abc import Callable

import jax

Acceleration = Callable[[jax.Array, jax.Array], jax.Array]


def semi_implicit_euler(
    acceleration: Acceleration, q: jax.Array, qd: jax.Array, dt: float | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(q, qd) after ``dt`` s: velocity first, then position with the new velocity.

    First order, symplectic for forces of position alone: energy errors stay bounded where explicit Euler's grow
    (Hairer, Lubich, Wanner 2003, doi 10.1017/S0962492902000144). One call of ``acceleration(q, qd)``.
    """
    qd = qd + dt * acceleration(q, qd)
    return q + dt * qd, qd


def rk4(acceleration: Acceleration, q: jax.Array, qd: jax.Array, dt: float | jax.Array) -> tuple[jax.Array, jax.Array]:
    """(q, qd) after ``dt`` s by the classical fourth-order Runge-Kutta method; forces must not depend on time.

    Kutta 1901; Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, table 1.2. Four calls.
    """
    a1 = acceleration(q, qd)
    v2 = qd + 0.5 * dt * a1
    a2 = acceleration(q + 0.5 * dt * qd, v2)
    v3 = qd + 0.5 * dt * a2
    a3 = acceleration(q + 0.5 * dt * v2, v3)
    v4 = qd + dt * a3
    a4 = acceleration(q + dt * v3, v4)
    return q + dt / 6 * (qd + 2 * v2 + 2 * v3 + v4), qd + dt / 6 * (a1 + 2 * a2 + 2 * a3 + a4)
