"""The one exception that bad input raises."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Input from outside (a file, a name, a number, a setting) cannot be used.

    The message names the file, column or muscle, the value found, what was allowed and what to do. The command
    line turns it into one line on stderr and exit code 2.
    """


def listed(names: Iterable[str], limit: int = 12) -> str:
    """Names for an error message: quoted, comma separated, cut after ``limit``."""
    names = list(names)
    text = ", ".join(repr(name) for name in names[:limit])
    return text + (f" and {len(names) - limit} more" if len(names) > limit else "") if names else "none"


def near(name: str, names: Iterable[str]) -> str:
    """``did you mean ...? There are ...`` for a name that was not found."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=4, cutoff=0.6)
    hint = f"did you mean {listed(close)}? " if close else ""
    return f"{hint}There are {listed(names)}"
