"""Levenberg-Marquardt in a box, pure and batched: every start takes its own steps inside one compiled loop.

Damping follows Nielsen (1999, IMM-REP-1999-05). Bounds are kept by an active set (Nocedal & Wright 2006, section 16.5):
an entry at its bound whose gradient points out stays, an entry that the step takes out of the box is moved to its
bound, and the others are solved for again. Clipping alone ignores how they depend on each other and zigzags. A step
that does not lower the cost is refused and the damping raised.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from calibration.residuals import Quadratic
from nms_gym._pytree import pytree

INITIAL_DAMPING = 1e-2
# A damping this high moves nothing any more: the start is at a minimum to rounding, or its derivative is wrong.
MAX_DAMPING = 1e12
# How often a step is solved for again with more entries held at their bounds.
ACTIVE_SET_PASSES = 4


@pytree
class Search:
    """One start's progress."""

    z: Array
    at: Quadratic
    damping: Array
    growth: Array
    iterations: Array
    small_steps: Array
    """accepted steps in a row that hardly lowered the cost"""
    done: Array


def begin(z: Array) -> Search:
    """A search at ``z (P,)`` that has evaluated nothing: its infinite cost makes the first iteration stand still and
    accept.

    So one compiled function serves all iterations, the first included.
    """
    count = jnp.zeros((), jnp.int32)
    return Search(
        z=z,
        at=Quadratic(jnp.asarray(jnp.inf, z.dtype), jnp.zeros_like(z), jnp.eye(len(z), dtype=z.dtype)),
        damping=jnp.asarray(3 * INITIAL_DAMPING, z.dtype),
        growth=jnp.asarray(2.0, z.dtype),
        iterations=count,
        small_steps=count,
        done=jnp.zeros((), bool),
    )


def iterate(
    quadratic: Callable[[Array], Quadratic], low: Array, high: Array, tolerance: float, search: Search
) -> Search:
    """Try one step. A search that is done stays as it is."""
    z, at = search.z, search.at
    damped = at.matrix + jnp.diag(jnp.diag(at.matrix) * search.damping)

    def hold(_: int, step: tuple[Array, Array]) -> tuple[Array, Array]:
        """Least of the damped model with the held entries moved as given; entries that leave the box are held next."""
        moved, held = step
        pull = jnp.where(held, moved, -(at.gradient + damped @ jnp.where(held, moved, 0.0)))
        both_free = ~held[:, None] & ~held[None, :]
        matrix = jnp.where(both_free, damped, 0.0) + jnp.diag(jnp.where(held, 1.0, 0.0))
        moved = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix), pull)
        clipped = jnp.clip(z + moved, low, high) - z
        return clipped, held | (clipped != moved)

    stuck = ((z <= low) & (at.gradient > 0)) | ((z >= high) & (at.gradient < 0))
    moved, _ = jax.lax.fori_loop(0, ACTIVE_SET_PASSES, hold, (jnp.zeros_like(z), stuck))
    trial = jnp.clip(z + moved, low, high)  # the sum may round across a bound
    new = quadratic(trial)

    predicted = -(at.gradient @ moved + 0.5 * moved @ at.matrix @ moved)
    actual = at.cost - new.cost
    accept = jnp.isfinite(new.cost) & jnp.all(jnp.isfinite(new.gradient)) & (actual > 0)
    ratio = jnp.where(accept, actual, -1.0) / jnp.maximum(predicted, jnp.finfo(z.dtype).tiny)
    damping = jnp.where(
        accept,
        search.damping * jnp.maximum(1.0 / 3.0, 1.0 - (2.0 * jnp.minimum(ratio, 1.0) - 1.0) ** 3),
        search.damping * search.growth,
    )
    small = jnp.where(accept & (actual < tolerance * at.cost), search.small_steps + 1, 0)
    small = jnp.where(accept, small, search.small_steps)

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(accept, a, b)

    stepped = Search(
        z=pick(trial, z),
        at=jax.tree.map(pick, new, at),
        damping=jnp.maximum(damping, 1e-9),
        growth=jnp.where(accept, 2.0, 2.0 * search.growth),
        iterations=search.iterations + 1,
        small_steps=small,
        done=(small >= 2) | (damping > MAX_DAMPING),
    )
    return jax.tree.map(lambda new, old: jnp.where(search.done, old, new), stepped, search)
