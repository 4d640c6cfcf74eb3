"""What scripted policies are made of: moments that pull a joint to where it should be, and muscles that give them.

They need no learning and know no model but the muscles' strengths: a floor that training has to beat.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

ITERATIONS = 60


def spring(error: Array, speed: Array, stiffness: Array | float, damping: Array | float) -> Array:
    """Moment ``(D,)`` N·m of a spring and damper; error (D,) rad is target minus angle, speed (D,) rad/s."""
    return stiffness * error - damping * speed


def excitations_for(strength: Array, moment: Array, effort: float = 0.005) -> Array:
    """Excitations ``(M,)`` in [0, 1] whose moments come closest to ``moment``, with little effort.

    Minimises ``|strength u - moment|^2 / s + effort |u|^2``, ``s`` the squared strength of all, by a fixed number of
    accelerated projected gradients (FISTA, Beck & Teboulle 2009, 10.1137/080716542).

    Args:
        strength: ``(D, M)`` N·m at full force, signed.
        moment: ``(D,)`` N·m wanted.
        effort: weight of the squared excitations.
    """
    size = jnp.maximum(jnp.sum(strength**2), 1e-12)

    def improve(carry: tuple[Array, Array], k: Array) -> tuple[tuple[Array, Array], None]:
        u, ahead = carry
        gradient = strength.T @ (strength @ ahead - moment) / size + effort * ahead
        new = jnp.clip(ahead - gradient / (1.0 + effort), 0.0, 1.0)
        return (new, new + k / (k + 3.0) * (new - u)), None

    start = jnp.zeros(strength.shape[1], moment.dtype)
    steps = jnp.arange(ITERATIONS, dtype=moment.dtype)
    return jax.lax.scan(improve, (start, start), steps)[0][0]
