"""Targets that are drawn at random: an angle that moves as a sum of sinusoids."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import pytree
from nms_gym.envs.task import uniform


@pytree
class Wave:
    """``center + sum_w amplitude_w sin(2 pi frequency_w t + phase_w)`` of each joint."""

    center: Array
    """(D,) rad"""
    amplitude: Array
    """(D, W) rad"""
    frequency: Array
    """(D, W) Hz"""
    phase: Array
    """(D, W) rad"""

    def at(self, time: Array) -> tuple[Array, Array]:
        """Angle and speed ``(D,)`` at ``time`` (s)."""
        omega = 2.0 * math.pi * self.frequency
        angle = omega * time + self.phase
        q = self.center + jnp.sum(self.amplitude * jnp.sin(angle), axis=1)
        return q, jnp.sum(omega * self.amplitude * jnp.cos(angle), axis=1)


@pytree
class Waves:
    """Ranges from which a reset draws a wave."""

    lowest: Wave
    highest: Wave

    def draw(self, key: Array) -> Wave:
        """One of them."""
        keys = jax.random.split(key, 4)
        low, structure = jax.tree.flatten(self.lowest)
        high = jax.tree.leaves(self.highest)
        return jax.tree.unflatten(structure, [uniform(*each) for each in zip(keys, low, high, strict=True)])


def make_waves(
    center: tuple[float, float],
    amplitudes: list[tuple[float, float]],
    frequencies: list[tuple[float, float]],
    phases: list[tuple[float, float]],
) -> Waves:
    """Ranges for one joint: degrees, degrees, Hz, degrees; a pair of lowest and highest per sinusoid."""

    def end(i: int) -> Wave:
        def row(pairs: Any) -> Any:
            return np.array([[pair[i] for pair in pairs]])

        return Wave(
            np.radians([center[i]]),  # type: ignore[arg-type]
            np.radians(row(amplitudes)),
            row(frequencies),
            np.radians(row(phases)),
        )

    return Waves(end(0), end(1))
