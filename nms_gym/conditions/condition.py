"""One protocol for everything that impairs a person: three functions, each the identity unless a condition says more.

    model, params = condition.prepare(model, params)                  once: surgery, changed parameters
    state = condition.init(fiber_length, dt)                          at rest
    state, excitation = condition.step(state, excitation, fiber_length, fiber_velocity, dt)         every sample

``step`` stands between the mixing of channels and activation dynamics. Its fiber length and velocity, normalised as in
``NmsOutput``, are those at the end of the previous step: a reflex cannot know the muscle it is about to excite.

A condition is a pytree: a batch of severities is a ``vmap``, and derivatives are taken with respect to any leaf. With
severity 0 it returns what it was given, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import pytree
from nms_gym.errors import InputError, listed, near
from nms_gym.model import NmsModel
from nms_gym.muscle.hill import MuscleParams

Params = TypeVar("Params", bound=MuscleParams)
T = TypeVar("T")


@pytree
class Condition:
    """Nothing is wrong: the identity, and the defaults of every condition."""

    def prepare(self, model: NmsModel, params: Params) -> tuple[NmsModel, Params]:
        """Changed model and parameters. Call it once, before ``initial_state``.

        Raises:
            InputError: the changed parameters are impossible (checked only where they are not traced).
        """
        return model, params

    def init(self, fiber_length: Array, dt: float) -> Any:
        """State of a muscle that has been still at ``fiber_length (M,)``, over optimal length, for long.

        Args:
            fiber_length: ``(M,)``; its dtype is that of the state.
            dt: s, of the steps to come; a plain number, for it may decide shapes.

        Raises:
            InputError: a step for which the condition cannot be integrated.
        """
        return ()

    def step(
        self, state: Any, excitation: Array, fiber_length: Array, fiber_velocity: Array, dt: Array | float
    ) -> tuple[Any, Array]:
        """Excitation ``(M,)`` as it reaches the muscles.

        Args:
            state: from ``init`` or the last step.
            excitation: ``(M,)``, intended; 0 to 1.
            fiber_length: ``(M,)`` over optimal fiber length, one step ago.
            fiber_velocity: ``(M,)`` over maximum contraction velocity, one step ago, positive lengthening.
            dt: s.
        """
        return state, excitation


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
