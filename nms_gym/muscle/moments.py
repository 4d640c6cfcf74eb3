"""From tendon forces to joint moments: the sign convention, once.

A moment arm is ``r = -d(musculotendon length)/dq`` (OpenSim's), so a muscle that shortens as ``q`` grows has a positive
moment arm and a positive moment.
"""

from __future__ import annotations

from jax import Array


def muscle_moments(moment_arms: Array, tendon_force: Array) -> Array:
    """Moments ``(K,)`` N·m from moment arms ``(K, M)`` m and tendon forces ``(M,)`` N."""
    return moment_arms @ tendon_force
