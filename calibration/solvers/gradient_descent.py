"""Adaptive gradient descent through ``optax``: the seed paper's kind of method, on the same cost, box and starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from nms_gym._pytree import pytree
from nms_gym.errors import InputError, listed

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adabelief": optax.adabelief,
    "lion": optax.lion,
    "rmsprop": optax.rmsprop,
}
# Steps without an improvement of ``tolerance`` after which a start is done.
PATIENCE = 50


@pytree
class Descent:
    """One start's progress."""

    z: Array
    optimizer_state: Any
    best_z: Array
    best_cost: Array
    cost: Array
    since_better: Array
    iterations: Array
    done: Array


def make_optimizer(name: str, learning_rate: float, steps: int) -> optax.GradientTransformation:
    """An optimizer by name, with a cosine schedule down to a tenth of ``learning_rate``.

    Raises:
        InputError: unknown name.
    """
    if name not in OPTIMIZERS:
        raise InputError(f"no optimizer {name!r}; there are {listed(OPTIMIZERS)}")
    schedule = optax.cosine_decay_schedule(learning_rate, steps, alpha=0.1)
    return OPTIMIZERS[name](schedule)


def begin(optimizer: optax.GradientTransformation, z: Array) -> Descent:
    """A search at ``z (P,)`` that has evaluated nothing."""
    value = jnp.asarray(jnp.inf, z.dtype)
    count = jnp.zeros((), jnp.int32)
    return Descent(z, optimizer.init(z), z, value, value, count, count, jnp.zeros((), bool))


def iterate(
    cost: Callable[[Array], Array],
    optimizer: optax.GradientTransformation,
    low: Array,
    high: Array,
    tolerance: float,
    search: Descent,
) -> Descent:
    """One step, projected onto the box. A search that is done stays as it is."""
    value, gradient = jax.value_and_grad(cost)(search.z)
    updates, state = optimizer.update(gradient, search.optimizer_state, search.z)
    z = jnp.clip(optax.apply_updates(search.z, updates), low, high)  # type: ignore[arg-type]
    better = value < search.best_cost
    much_better = value < search.best_cost * (1.0 - tolerance)
    since = jnp.where(much_better, 0, search.since_better + 1)
    stepped = Descent(
        z=z,
        optimizer_state=state,
        best_z=jnp.where(better, search.z, search.best_z),
        best_cost=jnp.where(better, value, search.best_cost),
        cost=value,
        since_better=since,
        iterations=search.iterations + 1,
        done=(since >= PATIENCE) | ~jnp.isfinite(value),
    )
    return jax.tree.map(lambda new, old: jnp.where(search.done, old, new), stepped, search)
