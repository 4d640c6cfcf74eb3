"""Reading a study's TOML: keys taken one by one, paths, and messages that say where they come from."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nms_gym.errors import InputError, near
from nms_gym.recording.storage import require_unique

# What a study's author calls the types of TOML.
TYPE_NAMES = {
    str: "text in quotes",
    float: "a finite number",
    int: "a whole number",
    bool: "true or false",
    list: "a list [...]",
    dict: "a table of keys",
}


class Keys:
    """A TOML table whose keys are taken one by one; what is left over at the end was misspelt."""

    def __init__(self, where: str, table: Any) -> None:
        if not isinstance(table, Mapping):
            raise InputError(f"{where} is {table!r}; expected {TYPE_NAMES[dict]}")
        self.where, self._table, self._known = where, dict(table), []

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
        """The value of a key, checked; without a default the key is required."""
        self._known.append(key)
        if key not in self._table:
            if default is ...:
                raise InputError(f"{self.where}: {key!r} is missing; it is required. {near(key, list(self._table))}")
            return default
        value = self._table.pop(key)
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not any(is_kind(value, k) for k in kinds):
            expected = " or ".join(TYPE_NAMES[k] for k in kinds)
            raise InputError(f"{self.where}: {key} is {value!r}; expected {expected}")
        return float(value) if kinds == (float,) else value

    def names(self, key: str, default: Any = ...) -> tuple[str, ...]:
        """A list of names; empty where the default is None and the key absent."""
        names = self.take(key, list, default)
        if names is None:
            return ()
        return names_of(f"{self.where}: {key}", names)

    def table(self, key: str, default: Any = ...) -> Keys:
        """A table inside this one."""
        return Keys(f"{self.where} [{key}]", self.take(key, dict, default))

    def rest(self) -> dict[str, Any]:
        """All that was not taken yet."""
        taken, self._table = self._table, {}
        return taken

    def finish(self) -> None:
        """Refuse what was not taken."""
        if self._table:
            wrong = next(iter(self._table))
            raise InputError(f"{self.where}: unknown key {wrong!r}; {near(wrong, self._known)}")


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


def read_toml(file: Path) -> dict[str, Any]:
    """The content of a TOML file; InputError where there is none or it cannot be parsed."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot read the study: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not a TOML file: {error}; correct it there") from error


@dataclass(frozen=True)
class Folder:
    """Paths of a study: relative to its file, with environment variables."""

    base: Path

    def path(self, text: str, what: str, *, must_exist: bool = True) -> Path:
        """A path written in the study; ``what`` names it in messages."""
        missing = [v for v in re.findall(r"\$\{?(\w+)\}?", text) if v not in os.environ]
        if missing:
            raise InputError(
                f"{what} is {text!r}: the environment variable {missing[0]} is not set; set it, or write the path out"
            )
        path = self.base / os.path.expandvars(text)
        if must_exist and not path.exists():
            raise InputError(
                f"{what}: no such file or folder: {path}; correct the path (it is relative to the study file)"
            )
        return path

    def optional(self, keys: Keys, key: str) -> Path | None:
        """The path under a key, or None where the key is absent."""
        text = keys.take(key, str, None)
        return None if text is None else self.path(text, f"{keys.where}: {key}")


def from_table(cls: Any, keys: Keys, skip: tuple[str, ...] = ()) -> Any:
    """A dataclass of plain numbers, strings and tuples of numbers from a table of the same keys."""
    values = {}
    for f in dataclasses.fields(cls):
        if f.name in skip:
            continue
        if isinstance(f.default, tuple):
            values[f.name] = numbers(keys, f.name, f.default)
        else:
            # An option that is off by default is a number when given.
            kind = float if f.default is None else type(f.default)
            values[f.name] = keys.take(f.name, kind, f.default)
    keys.finish()
    with at(keys.where):
        return cls(**values)


def numbers(keys: Keys, key: str, default: Sequence[float]) -> tuple[float, ...]:
    """As many numbers as the default has."""
    given = keys.take(key, list, list(default))
    if len(given) != len(default) or not all(is_kind(v, float) for v in given):
        raise InputError(f"{keys.where}: {key} is {given!r}; expected {len(default)} numbers, such as {list(default)}")
    return tuple(float(v) for v in given)
