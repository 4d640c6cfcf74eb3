"""Integrators against exact motions, and the energy of a passive arm."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nms_gym.recording.osim import read_osim
from nms_gym.skeleton.dynamics import forward_dynamics, kinetic_energy, make_skeleton, potential_energy
from nms_gym.skeleton.integrate import rk4, semi_implicit_euler


def oscillate(step, dt, damping=0.0):
    """A unit oscillator for 2 s from q = 1; (q, qd)."""
    q, qd = jnp.ones(1), jnp.zeros(1)
    for _ in range(round(2.0 / dt)):
        q, qd = step(lambda q, qd: -q - damping * qd, q, qd, dt)
    return float(q[0]), float(qd[0])


def exact(damping):
    decay, turn = damping / 2, np.sqrt(1 - damping**2 / 4)
    q = np.exp(-2 * decay) * (np.cos(2 * turn) + decay / turn * np.sin(2 * turn))
    return q, -np.exp(-2 * decay) / turn * np.sin(2 * turn)


@pytest.mark.parametrize(("step", "order"), [(semi_implicit_euler, 1), (rk4, 4)])
def test_the_order_is_what_it_should_be(step, order):
    errors = [np.abs(np.subtract(oscillate(step, dt, 0.3), exact(0.3))).max() for dt in (0.1, 0.05, 0.025)]
    rates = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(rates, order, atol=0.15)
    assert errors[-1] < 0.05**order


def test_one_step_by_hand():
    q, qd = semi_implicit_euler(lambda q, qd: -4 * q, jnp.array([1.0]), jnp.array([0.5]), 0.1)
    np.testing.assert_allclose([q[0], qd[0]], [1.0 + 0.1 * 0.1, 0.1])
    # RK4 of q'' = -q is the Taylor polynomial of degree four.
    q, qd = rk4(lambda q, qd: -q, jnp.array([1.0]), jnp.array([0.0]), 0.5)
    np.testing.assert_allclose([q[0], qd[0]], [1 - 0.5**2 / 2 + 0.5**4 / 24, -0.5 + 0.5**3 / 6], rtol=1e-14)


@pytest.mark.parametrize("step", [semi_implicit_euler, rk4])
def test_derivatives_through_a_step(step):
    def end(q, qd, dt):
        return jnp.sum(jnp.stack(step(lambda q, qd: jnp.sin(q) - qd**2, q, qd, dt)) * jnp.array([[1.0], [2.0]]))

    at, way = (
        (jnp.array([0.3]), jnp.array([-0.7]), jnp.array(0.1)),
        (jnp.array([1.0]), jnp.array([0.4]), jnp.array(0.2)),
    )
    forward = jax.jvp(end, at, way)[1]
    reverse = sum(jnp.vdot(g, d) for g, d in zip(jax.grad(end, argnums=(0, 1, 2))(*at), way, strict=True))
    h = 1e-5
    difference = (
        end(*(a + h * d for a, d in zip(at, way, strict=True)))
        - end(*(a - h * d for a, d in zip(at, way, strict=True)))
    ) / (2 * h)
    np.testing.assert_allclose([forward, reverse], difference, rtol=1e-8)


def test_energy_of_the_passive_arm_drifts_less_than_a_thousandth_in_ten_seconds(data):
    skeleton = make_skeleton(
        read_osim(data("arm26_elbow") / "original/arm26.osim"), ("r_shoulder_elev", "r_elbow_flex")
    )

    def energy(q, qd):
        return kinetic_energy(skeleton, q, qd) + potential_energy(skeleton, q)

    @jax.jit
    def swing(q, qd):
        def step(state, _):
            state = rk4(lambda q, qd: forward_dynamics(skeleton, q, qd, jnp.zeros(2)), *state, 1e-3)
            return state, jnp.stack([energy(*state), kinetic_energy(skeleton, *state)])

        return jax.lax.scan(step, (q, qd), None, length=10_000)[1]

    total, moving = swing(jnp.array([2.0, 1.0]), jnp.zeros(2)).T
    assert moving.max() > 10.0  # it falls: the scale of the exchange, J
    drift = np.abs(total - total[0]).max() / moving.max()
    assert drift < 1e-3
    assert drift < 1e-7  # what it is
