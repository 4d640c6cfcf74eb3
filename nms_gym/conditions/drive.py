"""Conditions of the descending drive: less of it, or more of it where it is not wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import softplus

from nms_gym._pytree import pytree
from nms_gym.conditions.common import cast, checked, require_names, severity_of
from nms_gym.errors import InputError
from nms_gym.model.condition import Condition
from nms_gym.model.structure import NmsModel

# Per unit of excitation: how sharp the bend at a ceiling is. It is rounded by at most 0.7 / CEILING_SHARPNESS.
CEILING_SHARPNESS = 500.0


def add_drive(excitation: Array, extra: Array) -> Array:
    """Excitation with ``extra >= 0`` of involuntary drive: it fills a share ``1 - exp(-extra)`` of what is left to 1.

    Equal to the sum where both are small, never above 1, and exactly ``excitation`` where ``extra`` is 0.
    """
    return excitation - (1.0 - excitation) * jnp.expm1(-extra)


def below_ceiling(excitation: Array, ceiling: Array) -> Array:
    """Smooth minimum of ``excitation`` and ``ceiling`` (both up to 1), exactly ``excitation`` with a ceiling of 1.

    The smooth minimum with 1 is what everybody has; only the difference to it is taken away.
    """
    k = CEILING_SHARPNESS
    return excitation - (softplus(k * (excitation - ceiling)) - softplus(k * (excitation - 1.0))) / k


@pytree
class Paresis(Condition):
    """Reduced drive: ``min((1 - severity gain_loss) e, 1 - severity ceiling_loss)``, smooth."""

    severity: Array
    """``(M,)``"""
    gain_loss: Any
    ceiling_loss: Any

    def step(
        self, state: Any, excitation: Array, fiber_length: Array, fiber_velocity: Array, dt: Array | float
    ) -> tuple[Any, Array]:
        """The drive that is left."""
        c = cast(self, excitation.dtype)
        reduced = (1.0 - c.severity * c.gain_loss) * excitation
        return state, below_ceiling(reduced, 1.0 - c.severity * c.ceiling_loss)


def paresis(
    model: NmsModel,
    *,
    severity: Any = 1.0,
    muscles: Sequence[str] | None = None,
    gain_loss: Any = 1.0,
    ceiling_loss: Any = 0.0,
) -> Paresis:
    """Muscles that the brain reaches less: full effort excites to ``1 - severity``.

    That is the voluntary (central) activation measured by burst superimposition, and what Knarr et al. 2014
    (10.1155/2014/321747) put into models of people after stroke as a limit on activation: ``gain_loss=0,
    ceiling_loss=1``. By default all drive is reduced in proportion, so that submaximal efforts suffer too.

    Args:
        model: whose muscles are meant.
        severity: 0 to 1; 1 is paralysis.
        muscles: names; None for all.
        gain_loss: relative loss of gain at severity 1, 0 to 1.
        ceiling_loss: lowering of the greatest excitation at severity 1, 0 to 1.

    Raises:
        InputError: a number outside 0 to 1, or a muscle that the model does not have.
    """
    return Paresis(
        severity_of(severity, muscles, model.muscles, "muscle"),
        checked(gain_loss, "gain_loss", 0.0, 1.0),
        checked(ceiling_loss, "ceiling_loss", 0.0, 1.0),
    )


@pytree
class CoContraction(Condition):
    """Drive that spills over to antagonists, and a floor under it."""

    severity: Any
    """scalar; fraction of the opposing drive"""
    spread: Any
    """``(M, M)``; the drive that each muscle (row) gets from each (column) at severity 1"""
    floor: Any
    """``(M,)``; excitation of a muscle meant to be silent, at severity 1"""

    def step(
        self, state: Any, excitation: Array, fiber_length: Array, fiber_velocity: Array, dt: Array | float
    ) -> tuple[Any, Array]:
        """Intended and unintended drive together."""
        c = cast(self, excitation.dtype)
        return state, add_drive(excitation, c.severity * (c.spread @ excitation + c.floor))


def cocontraction(
    model: NmsModel, *, groups: Sequence[Sequence[Sequence[str]]], severity: Any = 1.0, floor: Any = 0.0
) -> CoContraction:
    """Antagonists contract with their agonists: each muscle gets the opposing group's mean drive times ``severity``.

    No population value is assumed: severity *is* the fraction. The indices in the literature (Falconer & Winter 1985)
    compare the two groups' activity and can be computed from the result.

    Args:
        model: whose muscles are meant.
        groups: pairs of opposing groups, such as ``[[["BIClong", "BRA"], ["TRIlong"]]]``.
        severity: 0 to 1.
        floor: excitation, 0 to 1, added at severity 1 to all muscles of the groups, whatever is intended.

    Raises:
        InputError: a number outside 0 to 1, a muscle that the model does not have, or groups that are not pairs or
            share a muscle.
    """
    severity = checked(severity, "severity", 0.0, 1.0)
    count = len(model.muscles)
    spread, involved = np.zeros((count, count)), np.zeros(count)
    if isinstance(groups, str) or not isinstance(groups, Sequence) or not groups:
        raise InputError(f"groups is {groups!r}; give a list of pairs of opposing groups, each a list of muscles")
    for pair in groups:
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise InputError(f"groups: {pair!r} is not a pair of opposing groups, each a list of muscles")
        one, other = (require_names(group, model.muscles, "muscle") for group in pair)
        if shared := sorted(set(one) & set(other)):
            raise InputError(f"muscle {shared[0]!r} is in both opposing groups; it cannot oppose itself")
        for to, source in ((one, other), (other, one)):
            rows, columns = ([model.muscles.index(m) for m in group] for group in (to, source))
            spread[np.ix_(rows, columns)] += 1.0 / len(columns)
            involved[rows] = 1.0
    return CoContraction(severity, spread, involved * checked(floor, "floor", 0.0, 1.0))
