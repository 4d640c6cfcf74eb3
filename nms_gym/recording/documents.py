"""JSON and TOML from anywhere: whatever is in a file, a plain document or one clear error."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

from nms_gym.errors import InputError, shown

# Deeper than anything of ours; what walks a document calls itself once a level.
DEEPEST = 60
# Whole numbers that every array type holds.
MOST = 2**63 - 1


def read_json(path: str | os.PathLike[str], what: str = "JSON file") -> Any:
    """The content of a JSON file; ``what`` it should be, for messages.

    Raises:
        InputError: no such file, not JSON, nested too deep, or with a number that is none (NaN) or too large.
    """

    return json_of(_text(path, what, "JSON"), path)


def json_of(text: str, path: str | os.PathLike[str]) -> Any:
    """A JSON text out of the file ``path``; raises as ``read_json``."""

    def refuse(constant: str) -> float:
        raise InputError(f"{path}: it holds {constant}, which is no number; correct the value or save the file again")

    try:
        document = json.loads(text, parse_constant=refuse, parse_int=lambda digits: _whole(digits, path))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file: {_reason(error)}") from error
    return _checked(document, path)


def read_toml(path: str | os.PathLike[str], what: str = "the study") -> dict[str, Any]:
    """The content of a TOML file; ``what`` it should be, for messages.

    Raises:
        InputError: no such file, not TOML, nested too deep, or with a whole number that is too large.
    """
    try:
        document = tomllib.loads(_text(path, what, "TOML").replace("\r\n", "\n"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a TOML file: {_reason(error)}; correct it there") from error
    return _checked(document, path)


def _text(path: str | os.PathLike[str], what: str, kind: str) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        reason = "this is a folder; give a file" if Path(path).is_dir() else error.strerror or error
        raise InputError(f"{path}: cannot read {what}: {reason}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a {kind} file: no UTF-8 text ({error.reason}); save it as UTF-8") from error


def _reason(error: BaseException) -> str:
    return "it is nested too deep" if isinstance(error, RecursionError) else shown(str(error), 200).strip("'\"")


def _whole(text: str, path: str | os.PathLike[str]) -> int:
    if len(text) > 20 or abs(int(text)) > MOST:
        raise InputError(f"{path}: it holds {shown(text)}, a whole number that is too large; correct it there")
    return int(text)


def _checked(document: Any, path: str | os.PathLike[str]) -> Any:
    """The document, once no part of it is too deep, too large or no text."""
    level, depth = [document], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise InputError(f"{path}: it is nested deeper than {DEEPEST} levels; correct it or save it again")
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner.extend(value.keys())
                inner.extend(value.values())
            elif isinstance(value, list):
                inner.extend(value)
            elif isinstance(value, str):
                if not value.isascii():
                    _require_text(value, path)
            elif isinstance(value, int) and abs(value) > MOST:
                raise InputError(f"{path}: it holds a whole number of {value.bit_length()} bits; correct it there")
        level = inner
    return document


def _require_text(value: str, path: str | os.PathLike[str]) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: {shown(value)} holds half a character; correct it there") from error
