"""Options of environments: declared, explained and checked once, in groups of one concern each.

A group is a frozen dataclass: the person, the recording, the motor of a device. The function that builds a task has
groups as arguments, and what is special about its id in their defaults. ``builds`` turns it into what the outside
calls, with the fields of all groups as flat keywords, which Gymnasium can write to JSON; signature, docstring and pages
of the id follow.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from nms_gym.envs.task import checked_flag, checked_number
from nms_gym.errors import InputError, listed, near

T = TypeVar("T")

# --- declaring them ---------------------------------------------------------


@dataclass(frozen=True)
class Option:
    """One keyword of an id."""

    default: Any
    meaning: str


class Options:
    """A group of options: a frozen dataclass whose fields are ``option``, ``number``, ``flag`` or ``choice``.

    Raises:
        InputError: a value that is not allowed.
    """

    def __post_init__(self) -> None:
        for field in _fields(self):
            field.metadata["check"](getattr(self, field.name), field.name)


def option(
    default: Any, meaning: str, check: Callable[[Any, str], Any] = lambda value, name: None, *, none: str = ""
) -> Any:
    """A field of a group.

    Args:
        default: its value where nothing else is given.
        meaning: for people, after which the unit is clear.
        check: of a value and the option's name, raising ``InputError``; by default the value is checked where it meets
            the person or file that it speaks of.
        none: what None means; "" where it stands for the default.
    """
    meaning = f"{meaning}; None for {none}" if none else meaning
    return dataclasses.field(default=default, metadata={"meaning": meaning, "check": check, "none": bool(none)})


def number(default: float, meaning: str, low: float, high: float, unit: str = "") -> Any:
    """A number from ``low`` to ``high``."""
    text = f"{unit}, {meaning}" if unit else meaning
    return option(default, text, lambda value, name: checked_number(value, name, low, high, unit))


def flag(default: bool, meaning: str) -> Any:
    """True or False."""
    return option(default, meaning, checked_flag)


def choice(default: str, meaning: str, allowed: Sequence[str]) -> Any:
    """One of several words."""

    def check(value: Any, name: str) -> None:
        if value not in allowed:
            raise InputError(f"{name} is {value!r}; use one of {listed(allowed)}")

    return option(default, meaning, check)


# --- building from them -----------------------------------------------------


class TaskBuilder(Generic[T]):
    """Builds a task from flat keywords.

    Attributes:
        title: name of the id, without its version.
        options: name -> default and meaning of every keyword.
    """

    def __init__(self, title: str, build: Callable[..., T]) -> None:
        self.title = title
        self.options: dict[str, Option] = {}
        self._build = build
        self._groups: dict[str, Options] = {n: p.default for n, p in inspect.signature(build).parameters.items()}
        for group in self._groups.values():
            for field in _fields(group):
                if field.name in self.options:
                    raise TypeError(f"{title}: {field.name!r} is an option of two groups")
                self.options[field.name] = Option(getattr(group, field.name), field.metadata["meaning"])
        functools.update_wrapper(self, build)
        keyword = inspect.Parameter.KEYWORD_ONLY
        self.__signature__ = inspect.Signature(
            [inspect.Parameter(name, keyword, default=o.default) for name, o in self.options.items()]
        )
        lines = [f"    {name}: {o.meaning}." for name, o in self.options.items()]
        raises = ["", "Raises:", "    InputError: a file, name or option cannot be used."]
        self.__doc__ = "\n".join([inspect.getdoc(build) or "", "", "Args:", *lines, *raises])

    def __call__(self, **options: Any) -> T:
        """The task; an option that is None has its default, unless it says what None means."""
        require_known(options, self.options, self.title)
        return self._build(**{key: _changed(group, options) for key, group in self._groups.items()})


def require_known(options: Iterable[str], allowed: Iterable[str], of: Any) -> None:
    """Refuse an option that something has not.

    Raises:
        InputError: with the name that was meant, if one is near.
    """
    allowed = list(allowed)
    for name in options:
        if name not in allowed:
            has = f"it has {listed(allowed, 30)}" if allowed else "it has none"
            raise InputError(f"{of} has no option {name!r}; {near(name, allowed)} ({has})")


def builds(title: str) -> Callable[[Callable[..., T]], TaskBuilder[T]]:
    """Decorate a function whose arguments are groups of options, with those of the id as defaults."""
    return lambda build: TaskBuilder(title, build)


def _changed(group: Any, options: Mapping[str, Any]) -> Any:
    """The group with those of the options that are its own."""
    own = {field.name: field.metadata["none"] for field in _fields(group)}
    given = {name: value for name, value in options.items() if name in own and (value is not None or own[name])}
    return dataclasses.replace(group, **given)


def _fields(group: Options) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(group)  # type: ignore[arg-type]


# --- groups that need nothing else ------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TimeOptions(Options):
    """How time passes."""

    dt: float = number(0.01, "of a physical step", 1e-3, 0.02, "s")
    frame_skip: int = option(1, "physical steps per control step", lambda value, name: _checked_count(value, name, 100))

    @property
    def control_dt(self) -> float:
        """s, of one control step."""
        return self.dt * self.frame_skip


@dataclass(frozen=True, kw_only=True)
class EpisodeOptions(Options):
    """How long an episode lasts."""

    seconds: float | None = option(2.0, "s, how long an episode lasts")


def _checked_count(value: Any, name: str, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InputError(f"{name} is {value!r}; use a whole number from 1 to {most}")


def _angle(default: float, meaning: str) -> Any:
    return number(default, meaning, -2 * math.pi, 2 * math.pi, "rad")


@dataclass(frozen=True, kw_only=True)
class HangingArm(Options):
    """Where the upper arm is held."""

    shoulder: float = _angle(0.0, "elevation at which the upper arm is held")

    def held(self) -> dict[str, float]:
        """Coordinate -> rad."""
        return {"r_shoulder_elev": self.shoulder}


@dataclass(frozen=True, kw_only=True)
class SeatedThigh(Options):
    """Where the thigh is held."""

    hip: float = _angle(1.22, "flexion at which the thigh is held")

    def held(self) -> dict[str, float]:
        """Coordinate -> rad."""
        return {"hip_flexion_r": self.hip}


@dataclass(frozen=True, kw_only=True)
class SeatedLeg(SeatedThigh):
    """Where thigh and shank are held."""

    knee: float = _angle(1.05, "flexion at which the shank is held")

    def held(self) -> dict[str, float]:
        """Coordinate -> rad."""
        return super().held() | {"knee_angle_r": self.knee}
