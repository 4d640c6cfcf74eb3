"""Several conditions as one, and what the implementations share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import pytree
from nms_gym.errors import InputError, listed, near
from nms_gym.model.condition import Condition, Params
from nms_gym.model.structure import NmsModel

T = TypeVar("T")


@pytree
class Composed(Condition):
    """Several conditions, the first of them nearest to the intention: its results are what the next one meets."""

    conditions: tuple[Condition, ...]

    def prepare(self, model: NmsModel, params: Params) -> tuple[NmsModel, Params]:
        """All of them, in order."""
        for condition in self.conditions:
            model, params = condition.prepare(model, params)
        return model, params

    def init(self, fiber_length: Array, dt: float) -> tuple[Any, ...]:
        """One state per condition."""
        return tuple(condition.init(fiber_length, dt) for condition in self.conditions)

    def step(
        self, state: tuple[Any, ...], excitation: Array, fiber_length: Array, fiber_velocity: Array, dt: Array | float
    ) -> tuple[tuple[Any, ...], Array]:
        """The excitation through all of them, in order."""
        new = []
        for condition, own in zip(self.conditions, state, strict=True):
            own, excitation = condition.step(own, excitation, fiber_length, fiber_velocity, dt)
            new.append(own)
        return tuple(new), excitation


def compose(conditions: Iterable[Condition]) -> Composed:
    """Conditions one after the other; none at all is the identity."""
    return Composed(tuple(conditions))


# --- for the conditions themselves --------------------------------------


def cast(tree: T, dtype: Any) -> T:
    """A condition in the precision of what it acts on, so that it changes nobody's."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def traced(value: Any) -> bool:
    """Whether JAX is transforming ``value``, whose number is then not known."""
    return isinstance(value, jax.core.Tracer)  # type: ignore[attr-defined]


def checked(value: Any, what: str, low: float, high: float) -> Any:
    """A number from ``low`` to ``high``; a traced one passes unchecked.

    Raises:
        InputError: not a number, or outside.
    """
    if traced(value):
        return value
    number = np.asarray(value)
    if number.dtype.kind not in "iuf" or number.ndim or not low <= number <= high:
        raise InputError(f"{what} is {value!r}; give one number from {low:g} to {high:g} (for a batch, use vmap)")
    return value


def severity_of(severity: Any, chosen: Sequence[str] | None, names: tuple[str, ...], what: str) -> Any:
    """Severity of every entry: the one given for those chosen (None for all), 0 for the others.

    Raises:
        InputError: severity outside 0 to 1, or names that are unknown, repeated or not a list.
    """
    severity = checked(severity, "severity", 0.0, 1.0)
    if chosen is not None:
        chosen = require_names(chosen, names, what)
    mask = np.array([chosen is None or name in chosen for name in names])
    where = jnp.where if isinstance(severity, jax.Array) else np.where
    return where(mask, severity, 0.0)


def require_names(chosen: Any, names: tuple[str, ...], what: str) -> tuple[str, ...]:
    """``chosen`` as a tuple of known and distinct names.

    Raises:
        InputError: it is empty, not a list, repeats a name or has an unknown one.
    """
    if isinstance(chosen, str) or not isinstance(chosen, Sequence) or not chosen:
        raise InputError(f"{what}s: {chosen!r} is not a list of names; there are {listed(names, 50)}")
    for name in chosen:
        if name not in names:
            raise InputError(f"no {what} {name!r}; {near(str(name), names)}")
        if list(chosen).count(name) > 1:
            raise InputError(f"{what} {name!r} is named twice")
    return tuple(chosen)
