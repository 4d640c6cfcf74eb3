"""Words for people: names of joints and parameters, numbers and lists as text."""

from __future__ import annotations

import math
from collections.abc import Sequence

_SIDES = {"r": "right", "l": "left"}


def joint_name(coordinate: str) -> str:
    """``knee_angle_r`` -> ``Knee (right)``; ``r_elbow_flex`` -> ``Elbow flexion (right)``."""
    words = [w for w in coordinate.replace("-", "_").split("_") if w]
    side = ""
    for end in (-1, 0):
        if len(words) > 1 and words[end].lower() in _SIDES and not side:
            side = f" ({_SIDES[words[end].lower()]})"
            words.pop(end)
    if len(words) > 1 and words[-1] == "angle":
        words.pop()
    words = ["flexion" if w == "flex" else w for w in words]
    text = " ".join(words) or coordinate
    return text[:1].upper() + text[1:] + side


def number(value: float | None, digits: int = 2) -> str:
    """Fixed number of decimals with a true minus; a dash when there is no number."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    return "−" + text[1:] if text.startswith("-") and float(text) != 0 else text.lstrip("-")


def significant(value: float | None, digits: int = 4) -> str:
    """A parameter's value to some significant digits."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}g}".replace("-", "−")


def percent(value: float | None, digits: int = 0) -> str:
    """A fraction in percent."""
    return "–" if value is None or not math.isfinite(value) else f"{number(100 * value, digits)} %"


def share(value: float) -> str:
    """A share of time or samples in percent; one that is not zero never reads as zero."""
    return "< 1 %" if 0 < value < 0.01 else percent(value)


def some(names: Sequence[str], limit: int = 8) -> str:
    """Names in a sentence, cut after ``limit``."""
    text = ", ".join(names[:limit])
    return text + (f" and {len(names) - limit} more" if len(names) > limit else "")


def plural(count: int, noun: str) -> str:
    """``1 window``, ``2 windows``."""
    return f"{count} {noun}" + ("" if count == 1 else "s")
