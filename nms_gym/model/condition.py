"""The protocol of what impairs a person: three functions, each the identity unless a condition says more.

    model, params = condition.prepare(model, params)                  once: surgery, changed parameters
    state = condition.init(fiber_length, dt)                          at rest
    state, excitation = condition.step(state, excitation, fiber_length, fiber_velocity, dt)         every sample

``step`` stands between the mixing of channels and activation dynamics. Its fiber length and velocity, normalised as in
``NmsOutput``, are those at the end of the previous step (the velocity is the change of length during it): a reflex
cannot know the muscle it is about to excite.

A condition is a pytree: a batch of severities is a ``vmap``, and derivatives are taken with respect to any leaf. With
severity 0 it returns what it was given, bit for bit. Implementations are in ``nms_gym.conditions``.
"""

from __future__ import annotations

from typing import Any, TypeVar

from jax import Array

from nms_gym._pytree import pytree
from nms_gym.model.structure import NmsModel
from nms_gym.muscle.hill import MuscleParams

Params = TypeVar("Params", bound=MuscleParams)


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


HEALTHY = Condition()
"""no impairment: excitations arrive as they were meant"""
