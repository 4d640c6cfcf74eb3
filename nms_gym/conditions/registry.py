"""Conditions by name, from plain JSON: what environments and files can hold."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nms_gym.conditions.common import Composed, compose
from nms_gym.conditions.drive import cocontraction, paresis
from nms_gym.conditions.fatigue import fatigue
from nms_gym.conditions.parameters import (
    contracture,
    electrode_loss,
    electromechanical_delay,
    sarcopenia,
    tendon_compliance,
    weakness,
)
from nms_gym.conditions.reflex import spasticity
from nms_gym.conditions.surgery import tendon_transfer
from nms_gym.errors import InputError, listed, near
from nms_gym.model.condition import Condition
from nms_gym.model.structure import NmsModel

_FUNCTIONS: tuple[Callable[..., Condition], ...] = (
    weakness,
    sarcopenia,
    contracture,
    tendon_compliance,
    electromechanical_delay,
    electrode_loss,
    paresis,
    cocontraction,
    spasticity,
    fatigue,
    tendon_transfer,
)

CONDITIONS: dict[str, Callable[..., Condition]] = {function.__name__: function for function in _FUNCTIONS}
"""Name -> function of the model and keyword options. Their keywords are the keys of a specification."""


def make_condition(name: str, model: NmsModel, **options: Any) -> Condition:
    """A condition by name.

    Args:
        name: a key of ``CONDITIONS``.
        model: whose muscles and channels the options name.
        options: of that condition; see its function.

    Raises:
        InputError: an unknown name or option, a missing option, or a value that cannot be.
    """
    if name not in CONDITIONS:
        raise InputError(f"no condition {name!r}; {near(str(name), CONDITIONS)}")
    allowed = {k: p for k, p in inspect.signature(CONDITIONS[name]).parameters.items() if k != "model"}
    if unknown := [key for key in options if key not in allowed]:
        raise InputError(f"condition {name!r} has no option {listed(unknown)}; it has {listed(allowed)}")
    if missing := [key for key, p in allowed.items() if p.default is p.empty and key not in options]:
        raise InputError(f"condition {name!r} needs {listed(missing)}; its options are {listed(allowed)}")
    try:
        return CONDITIONS[name](model, **options)
    except InputError as error:
        raise InputError(f"condition {name!r}: {error}") from None


def conditions_from_spec(spec: Sequence[Mapping[str, Any] | str] | None, model: NmsModel) -> Composed:
    """Conditions from plain JSON, in order: a list of names, or of mappings with ``name`` and options.

    ``[{"name": "paresis", "severity": 0.6, "muscles": ["BIClong"]}]``; None or an empty list is the identity.

    Raises:
        InputError: not such a list, or what ``make_condition`` raises; the message gives the place in the list.
    """
    if spec is not None and (isinstance(spec, str | Mapping) or not isinstance(spec, Sequence)):
        raise InputError(f"conditions are {spec!r}; give a list such as [{{'name': 'weakness', 'severity': 0.5}}]")
    conditions = []
    for place, entry in enumerate(spec or ()):
        options = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(options, Mapping) or not all(isinstance(key, str) for key in options):
            raise InputError(f"conditions[{place}] is {entry!r}; give a name, or a mapping with 'name' and options")
        if "name" not in options:
            raise InputError(f"conditions[{place}] has no 'name'; there are {listed(CONDITIONS, 20)}")
        rest = {key: value for key, value in options.items() if key not in ("name", "model")}
        if "model" in options:
            raise InputError(f"conditions[{place}] has an option 'model'; the model is given apart")
        try:
            conditions.append(make_condition(options["name"], model, **rest))
        except InputError as error:
            raise InputError(f"conditions[{place}]: {error}") from None
    return compose(conditions)
