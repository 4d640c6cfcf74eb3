"""Checks of what a study says, and messages that say where in it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nms_gym.errors import InputError
from nms_gym.recording.storage import require_unique


def is_kind(value: Any, kind: type) -> bool:
    """Whether a TOML value is of a type; whole numbers are numbers, true and false are not."""
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, kind)


def names_of(where: str, names: Any) -> tuple[str, ...]:
    """Names, checked: a list of different words."""
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise InputError(f"{where} is {names!r}; expected a list of names, each in quotes")
    require_unique(names, "names", where)
    return tuple(names)


@contextmanager
def at(where: str) -> Iterator[None]:
    """Errors inside say where in the study they come from."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def require_file_name(name: str, where: str) -> None:
    """Raise ``InputError`` unless a trial or study of that name can be a file everywhere."""
    if not re.fullmatch(r'[^\\/:*?"<>|\x00-\x1f]+', name) or not name.strip(" ."):
        raise InputError(f"{where}: the name {name!r} cannot be that of a file; use letters, digits, '_' and '-'")
