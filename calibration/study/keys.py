"""Reading a study's TOML: tables checked against the schema, paths, and messages that say where they come from."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.study.checks import is_kind, names_of
from calibration.study.schema import REQUIRED, TABLES, Key
from nms_gym._assets import asset_path
from nms_gym.errors import InputError, near, shown
from nms_gym.recording.named_files import usable_name

# What a key's value may be: whether it is, and what is taken from it.
_VALUES: Mapping[str, tuple[Callable[[Any], bool], Callable[[Any], Any]]] = {
    "text": (lambda v: is_kind(v, str), str),
    "number": (lambda v: is_kind(v, float), float),
    "whole number": (lambda v: is_kind(v, int), int),
    "true or false": (lambda v: is_kind(v, bool), bool),
    "names": (lambda v: True, lambda v: v),
    "text or names": (lambda v: is_kind(v, str) or isinstance(v, list), lambda v: v),
    "list": (lambda v: is_kind(v, list), list),
    "table": (lambda v: isinstance(v, Mapping), dict),
    "text or table": (lambda v: is_kind(v, str) or isinstance(v, Mapping), lambda v: v),
    "names or table": (lambda v: isinstance(v, list | Mapping), lambda v: v),
    "windows": (lambda v: isinstance(v, bool | list), lambda v: v),
}
_EXPECTED = {
    "text": "text in quotes",
    "number": "a finite number",
    "whole number": "a whole number",
    "true or false": "true or false",
    "text or names": "text in quotes, or a list of names",
    "list": "a list [...]",
    "table": "a table of keys",
    "text or table": "text in quotes or a table of keys",
    "names or table": "a table of keys or a list [...]",
    "windows": "true, or windows [[start, stop], ...] in s",
}


def read_keys(where: str, table: Any, name: str, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Every key of a TOML table by ``schema.TABLES[name]``: checked, or its default.

    Args:
        where: for messages.
        table: from the TOML file.
        name: of the table in the schema.
        given: defaults that differ from the schema's.

    Raises:
        InputError: a key is missing, unknown or of another type.
    """
    if not isinstance(table, Mapping):
        raise InputError(f"{where} is {table!r}; expected {_EXPECTED['table']}")
    known = TABLES[name].keys
    values: dict[str, Any] = {}
    for key in known:
        default = (given or {}).get(key.name, key.default)
        if key.name in table:
            values[key.name] = _value(where, key, table[key.name], default)
        elif default is REQUIRED:
            left = [k for k in table if k not in {other.name for other in known}]
            raise InputError(f"{where}: {key.name!r} is missing; it is required. {near(key.name, left)}")
        else:
            values[key.name] = default
    names = [key.name for key in known]
    for key in table:
        if key not in names:
            raise InputError(f"{where}: unknown key {key!r}; {near(key, names)}")
    return values


def _value(where: str, key: Key, value: Any, default: Any) -> Any:
    if key.kind == "names":
        return names_of(f"{where}: {key.name}", value)
    if key.kind == "numbers":
        return _numbers(where, key.name, value, default)
    fits, taken = _VALUES[key.kind]
    if not fits(value):
        raise InputError(f"{where}: {key.name} is {shown(value)}; expected {_EXPECTED[key.kind]}")
    return taken(value)


def _numbers(where: str, name: str, value: Any, like: tuple[float, ...]) -> tuple[float, ...]:
    """As many numbers as the default has."""
    if not isinstance(value, list) or len(value) != len(like) or not all(is_kind(v, float) for v in value):
        raise InputError(f"{where}: {name} is {shown(value)}; expected {len(like)} numbers, such as {list(like)}")
    return tuple(float(v) for v in value)


def study_path(path: str | os.PathLike[str]) -> Path:
    """Path of a study file; ``asset:demo/study.toml`` is the shipped one."""
    text = str(path)
    return asset_path(text.removeprefix("asset:")) if text.startswith("asset:") else Path(path)


def _expanded(text: str, what: str) -> Path:
    path = os.path.expandvars(text)
    if not usable_name(path):
        raise InputError(f"{what} is {shown(path)}; expected the path of a file or folder")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{what} is {text!r}: there is no such home folder; write the path out") from error


@dataclass(frozen=True)
class Folder:
    """Paths of a study: relative to its file, with environment variables and ``~``."""

    base: Path

    def path(self, text: str, what: str, *, must_exist: bool = True) -> Path:
        """A path written in the study; ``what`` names it in messages."""
        missing = [v for v in re.findall(r"\$\{?(\w+)\}?", text) if v not in os.environ]
        if missing:
            raise InputError(
                f"{what} is {text!r}: the environment variable {missing[0]} is not set; set it, or write the path out"
            )
        path = self.base / _expanded(text, what)
        if must_exist and not path.exists():
            raise InputError(
                f"{what}: no such file or folder: {path}; correct the path (it is relative to the study file)"
            )
        return path

    def optional(self, text: str | None, what: str) -> Path | None:
        """The path, or None where there is no text."""
        return None if text is None else self.path(text, what)
