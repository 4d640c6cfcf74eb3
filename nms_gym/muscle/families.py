"""Muscle families by name, and how a file names one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from nms_gym.errors import InputError, listed, near
from nms_gym.muscle.curves import Curves, DeGrooteFregly2016
from nms_gym.muscle.meyer_fregly import MeyerFregly2017
from nms_gym.muscle.millard import Millard2012
from nms_gym.muscle.tabulated import Tabulated

FAMILIES: dict[str, type[Any]] = {
    family.__name__: family for family in (DeGrooteFregly2016, Millard2012, MeyerFregly2017, Tabulated)
}


def curves_to_record(curves: Curves) -> str | dict[str, Any]:
    """JSON for a file: the family's name, with the constants that differ from its own if any do.

    Raises:
        InputError: a class that is not among ``FAMILIES``.
    """
    if FAMILIES.get(curves.name) is not type(curves):
        raise InputError(f"curves {curves.name!r} are no family that a file can name; there are {listed(FAMILIES)}")
    standard = type(curves)()
    if curves == standard:
        return curves.name
    if isinstance(curves, Tabulated):
        return curves.to_record()
    values = {field.name: getattr(curves, field.name) for field in dataclasses.fields(curves)}  # type: ignore[arg-type]
    changed = {name: value for name, value in values.items() if value != getattr(standard, name)}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}
    return {"name": curves.name, **plain}


def curves_from_record(record: Any, where: str) -> Curves:
    """The curves that a record names.

    Args:
        record: what ``curves_to_record`` returned, read back from JSON.
        where: what to call it in an error message.

    Raises:
        InputError: an unknown family or constant, or a value of the wrong kind.
    """
    name = record.get("name") if isinstance(record, Mapping) else record
    if not isinstance(name, str) or name not in FAMILIES:
        hint = near(name, FAMILIES) if isinstance(name, str) else f"there are {listed(FAMILIES)}"
        raise InputError(f"{where}: curves are {name!r}, no family that this program has; {hint}")
    if isinstance(record, str):
        return FAMILIES[name]()
    if name == "Tabulated":
        return Tabulated.from_record(record, where)
    standard = FAMILIES[name]()
    allowed = [field.name for field in dataclasses.fields(standard) if field.name != "name"]
    constants = {key: value for key, value in record.items() if key != "name"}
    for key, value in constants.items():
        if key not in allowed:
            raise InputError(f"{where}: {name} has no constant {key!r}; {near(key, allowed)}")
        constants[key] = _like(value, getattr(standard, key), f"{where}: {key}")
    try:
        return FAMILIES[name](**constants)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _like(value: Any, standard: Any, where: str) -> Any:
    """``value`` as a number, or as a tuple of as many numbers as ``standard`` has."""
    count = len(standard) if isinstance(standard, tuple) else None
    values = value if count is not None else [value]
    numbers = isinstance(values, list) and all(type(x) in (int, float) and abs(x) < float("inf") for x in values)
    if not numbers or (count is not None and len(values) != count):
        raise InputError(f"{where} is {value!r}; expected {'a number' if count is None else f'{count} numbers'}")
    return float(value) if count is None else tuple(float(x) for x in value)
