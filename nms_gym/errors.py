"""The one exception that bad input raises."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

# A word of a message, and a message, are cut beyond these: cells of a damaged file hold megabytes.
LONGEST_WORD, LONGEST_MESSAGE = 400, 4000
# Names among which near ones are sought.
SEARCHED = 2000


class InputError(ValueError):
    """Input from outside (a file, a name, a number, a setting) cannot be used.

    The message names the file, column or muscle, the value found, what was allowed and what to do. The command
    line turns it into one line on stderr and exit code 2. A message that repeats a huge value is cut, and
    it is a line: characters that cannot be printed are escaped.
    """

    def __init__(self, message: object = "") -> None:
        text = _cut(str(message), 100 * LONGEST_MESSAGE)
        text = re.sub(rf"\S{{{LONGEST_WORD + 1},}}", lambda found: _cut(found[0], LONGEST_WORD), text)
        text = _cut(text, LONGEST_MESSAGE)
        if not text.isprintable():
            # A line break or an escape code of a file would be taken for the program's own.
            text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
        super().__init__(_cut(text, LONGEST_MESSAGE))


def _cut(text: str, limit: int) -> str:
    """At most ``limit`` characters: the first ones, and a few of the last."""
    return text if len(text) <= limit else f"{text[: limit - 30]}...{text[-27:]}"


def shown(value: Any, limit: int = 60) -> str:
    """A value for an error message: quoted where it is text, cut in the middle when long."""
    if isinstance(value, str) and len(value) > 4 * limit:
        value = _cut(value, 4 * limit)
    return _cut(repr(value), limit)


def seconds(time: float, digits: int = 6) -> str:
    """A time in s: significant digits, and fractions of a second where a clock counts from 1970."""
    return f"{time:.{digits}g}" if abs(time) < 1e5 else f"{time:.4f}"


def listed(names: Iterable[str], limit: int = 12) -> str:
    """Names for an error message: quoted, comma separated, cut after ``limit``; long names are cut too."""
    names = list(names)
    text = ", ".join(shown(name, 120) for name in names[:limit])
    return text + (f" and {len(names) - limit} more" if len(names) > limit else "") if names else "none"


def near(name: str, names: Iterable[str]) -> str:
    """``did you mean ...? There are ...`` for a name that was not found."""
    names = list(names)
    # Comparing takes the product of the lengths.
    compared = [known for known in names[:SEARCHED] if isinstance(known, str) and len(known) <= LONGEST_WORD]
    close = difflib.get_close_matches(name[:LONGEST_WORD], compared, n=4, cutoff=0.6)
    hint = f"did you mean {listed(close)}? " if close else ""
    return f"{hint}There are {listed(names)}"
