"""Conditions that are other parameters: weak, old, short, compliant, late.

Every relative change is ``parameter * (1 + severity * change)``. Where literature gives the change of a population it
is the default; where it does not, severity itself is the change, or the change has to be given.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import pytree, replace, static
from nms_gym.conditions.common import checked, severity_of, traced
from nms_gym.errors import InputError
from nms_gym.model.condition import Condition, Params
from nms_gym.model.structure import NmsModel


def _in_precision_of(leaf: Any, value: Any) -> Any:
    return jnp.asarray(value, leaf.dtype) if isinstance(leaf, jax.Array) else value


@pytree
class Scaling(Condition):
    """Parameters times ``1 + severity * change``."""

    kinds: tuple[str, ...] = static()
    """which parameters; those that a ``MuscleParams`` does not have are passed over"""
    severity: Array
    """``(M,)``, or ``(C,)`` for parameters of channels"""
    changes: tuple[Any, ...]
    """at severity 1, one per kind"""

    def prepare(self, model: NmsModel, params: Params) -> tuple[NmsModel, Params]:
        """The model as it is, and the scaled parameters."""
        present = {field.name for field in dataclasses.fields(params)}
        scaled = {}
        for kind, change in zip(self.kinds, self.changes, strict=True):
            if kind in present:
                leaf = getattr(params, kind)
                scaled[kind] = leaf * _in_precision_of(leaf, 1.0 + self.severity * change)
        return model, replace(params, **scaled)


def _scaling(severity: Any, changes: Mapping[str, Any]) -> Scaling:
    return Scaling(kinds=tuple(changes), severity=severity, changes=tuple(changes.values()))


def weakness(model: NmsModel, *, severity: Any = 1.0, muscles: Sequence[str] | None = None) -> Scaling:
    """Lost strength: ``max_isometric_force`` times ``1 - severity``.

    Args:
        model: whose muscles are meant.
        severity: fraction of strength lost, 0 to 1.
        muscles: names; None for all.

    Raises:
        InputError: severity outside 0 to 1, or a muscle that the model does not have.
    """
    return _scaling(severity_of(severity, muscles, model.muscles, "muscle"), {"max_isometric_force": -1.0})


def sarcopenia(
    model: NmsModel,
    *,
    severity: Any = 1.0,
    muscles: Sequence[str] | None = None,
    strength_loss: Any = 0.30,
    velocity_loss: Any = 0.20,
    passive_strain_loss: Any = 1.0 / 6.0,
    deactivation_gain: Any = 0.20,
) -> Scaling:
    """Aged muscle: weaker, slower, stiffer when stretched, slower to let go. Severity 1 is about 70 years.

    The changes are those from young to old adults in Thelen 2003 (10.1115/1.1531112), Table 1: maximum isometric force
    30 % less, maximum contraction velocity 8 instead of 10 optimal lengths per second, passive strain at maximum
    isometric force 0.5 instead of 0.6, deactivation time constant 60 instead of 50 ms; its activation time constant
    does not change. Departure: its greater force of lengthening muscle (1.8 instead of 1.4) is left out, as that is a
    constant of the curves here. The deactivation time constant is one of first-order activation; the second-order
    filter, which is symmetric, has none. MyoSuite's sarcopenia is half the strength and nothing else:
    ``weakness(severity=0.5)``.

    Args:
        model: whose muscles are meant.
        severity: 0 (young) to 1 (old).
        muscles: names; None for all.
        strength_loss: fraction of ``max_isometric_force`` lost at severity 1.
        velocity_loss: fraction of ``max_contraction_velocity`` lost at severity 1.
        passive_strain_loss: fraction of ``passive_fiber_strain_at_one_norm_force`` lost at severity 1.
        deactivation_gain: fraction by which ``deactivation_time_constant`` grows at severity 1.

    Raises:
        InputError: severity outside 0 to 1, a muscle that the model does not have, or an impossible change.
    """
    changes = {
        "max_isometric_force": -checked(strength_loss, "strength_loss", 0.0, 1.0),
        "max_contraction_velocity": -checked(velocity_loss, "velocity_loss", 0.0, 0.9),
        "passive_fiber_strain_at_one_norm_force": -checked(passive_strain_loss, "passive_strain_loss", 0.0, 0.8),
        "deactivation_time_constant": checked(deactivation_gain, "deactivation_gain", 0.0, 10.0),
    }
    return _scaling(severity_of(severity, muscles, model.muscles, "muscle"), changes)


def tendon_compliance(
    model: NmsModel, *, strain_change: Any, severity: Any = 1.0, muscles: Sequence[str] | None = None
) -> Scaling:
    """Tendons that give more (or less): ``tendon_strain_at_one_norm_force`` times ``1 + severity * strain_change``.

    Published changes differ in sign between tendons, ages and training, so there is no default: a tendon with half the
    stiffness has ``strain_change=1``, one with twice the stiffness ``-0.5``.

    Args:
        model: whose muscles are meant.
        strain_change: relative change of the strain at severity 1, -0.8 to 4.
        severity: 0 to 1.
        muscles: names; None for all.

    Raises:
        InputError: a number out of range, or a muscle that the model does not have.
    """
    change = {"tendon_strain_at_one_norm_force": checked(strain_change, "strain_change", -0.8, 4.0)}
    return _scaling(severity_of(severity, muscles, model.muscles, "muscle"), change)


def contracture(
    model: NmsModel,
    *,
    severity: Any,
    muscles: Sequence[str] | None = None,
    fiber_shortening: Any = 1.0,
    slack_shortening: Any = 0.0,
) -> Scaling:
    """A muscle too short for its joint: optimal fiber length and tendon slack length shrink.

    With fewer sarcomeres in series the same posture stretches each of them more: contracted muscles of children with
    cerebral palsy have short bellies and highly stretched sarcomeres (review: Mathewson & Lieber 2015,
    PMC4258234). How much differs between people, so severity is the shortening itself. A stiffer passive
    fiber, the contracture of van der Krogt et al. 2016 (10.1186/s12984-016-0170-5), is ``sarcopenia`` with
    ``passive_strain_loss`` alone.

    Args:
        model: whose muscles are meant.
        severity: fraction of the length lost, 0 to 0.5.
        muscles: names; None for all.
        fiber_shortening: share of ``severity`` by which ``optimal_fiber_length`` shrinks, 0 to 1.
        slack_shortening: share of ``severity`` by which ``tendon_slack_length`` shrinks, 0 to 1.

    Raises:
        InputError: a number out of range, or a muscle that the model does not have.
    """
    changes = {
        "optimal_fiber_length": -checked(fiber_shortening, "fiber_shortening", 0.0, 1.0),
        "tendon_slack_length": -checked(slack_shortening, "slack_shortening", 0.0, 1.0),
    }
    severity = checked(severity, "severity of contracture", 0.0, 0.5)
    return _scaling(severity_of(severity, muscles, model.muscles, "muscle"), changes)


def electrode_loss(model: NmsModel, *, severity: Any = 1.0, channels: Sequence[str]) -> Scaling:
    """Channels that fade: ``emg_gain`` times ``1 - severity``; at 1 the electrode is off.

    Args:
        model: whose channels are meant.
        severity: fraction of the signal lost, 0 to 1.
        channels: names.

    Raises:
        InputError: severity outside 0 to 1, or a channel that the model does not have.
    """
    return _scaling(severity_of(severity, channels, model.channels, "channel"), {"emg_gain": -1.0})


@pytree
class IncreasedDelay(Condition):
    """A longer electromechanical delay."""

    severity: Array
    """``(C,)``"""
    increase: Any
    """s, at severity 1"""

    def prepare(self, model: NmsModel, params: Params) -> tuple[NmsModel, Params]:
        """The model as it is, and parameters with the longer delay (none in a plain ``MuscleParams``).

        Raises:
            InputError: a delay that the history of excitations cannot hold.
        """
        delay = getattr(params, "electromechanical_delay", None)
        if delay is None:
            return model, params
        longer = delay + _in_precision_of(delay, self.severity * self.increase)
        longest = model.settings.max_delay
        if not traced(longer) and np.any(np.asarray(longer) > longest + 1e-6):
            i = int(np.argmax(np.asarray(longer)))
            raise InputError(
                f"electromechanical_delay of {model.channels[i]!r} becomes {float(longer[i]):g} s; the history holds "
                f"{longest:g} s: choose a smaller increase, or raise max_delay in the model's settings"
            )
        return model, replace(params, electromechanical_delay=longer)


def electromechanical_delay(
    model: NmsModel, *, increase: Any, severity: Any = 1.0, channels: Sequence[str] | None = None
) -> IncreasedDelay:
    """Muscles that answer later: ``electromechanical_delay`` plus ``severity * increase``.

    Healthy values are 10 to 100 ms (Buchanan et al. 2004, 10.1123/jab.20.4.367).

    Args:
        model: whose channels are meant.
        increase: s, at severity 1; 0 to ``max_delay`` of the model's settings.
        severity: 0 to 1.
        channels: names; None for all.

    Raises:
        InputError: a number out of range, or a channel that the model does not have.
    """
    increase = checked(increase, "increase of the electromechanical delay (s)", 0.0, model.settings.max_delay)
    return IncreasedDelay(severity_of(severity, channels, model.channels, "channel"), increase)
