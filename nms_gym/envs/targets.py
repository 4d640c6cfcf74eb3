"""Targets to follow: what a target is, and one that is drawn at random, an angle that moves as a sum of sinusoids."""

from __future__ import annotations

import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import Leaf, pytree
from nms_gym.envs.task import uniform


class Target(Protocol):
    """What ``Follow`` follows; a pytree. A recorded motion is another one (``nms_gym.envs.recordings``)."""

    def draw(self, key: Array, trial: Array) -> Any:
        """The target of an episode, of which ``trial`` (int32) is the recording."""
        ...

    def at(self, drawn: Any, sample: Array, dt: float) -> tuple[Array, Array]:
        """Angles and speeds ``(D,)`` at a physical sample of ``dt`` s."""
        ...

    def over(self, drawn: Any, sample: Array) -> Array | bool:
        """Whether the target has ended before a sample."""
        ...


@pytree
class Wave:
    """``center + sum_w amplitude_w sin(2 pi frequency_w t + phase_w)`` of each joint."""

    center: Leaf
    """(D,) rad"""
    amplitude: Leaf
    """(D, W) rad"""
    frequency: Leaf
    """(D, W) Hz"""
    phase: Leaf
    """(D, W) rad"""

    def at_time(self, time: Array) -> tuple[Array, Array]:
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

    def draw(self, key: Array, trial: Array) -> Wave:
        """One of them, whatever the recording."""
        keys = jax.random.split(key, 4)
        low, structure = jax.tree.flatten(self.lowest)
        high = jax.tree.leaves(self.highest)
        return jax.tree.unflatten(structure, [uniform(*each) for each in zip(keys, low, high, strict=True)])

    def at(self, drawn: Wave, sample: Array, dt: float) -> tuple[Array, Array]:
        """Angle and speed ``(D,)`` at a physical sample."""
        return drawn.at_time(sample * dt)

    def over(self, drawn: Wave, sample: Array) -> bool:
        """Never."""
        return False


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
            np.radians(row([center])[0]),
            np.radians(row(amplitudes)),
            row(frequencies),
            np.radians(row(phases)),
        )

    return Waves(end(0), end(1))
