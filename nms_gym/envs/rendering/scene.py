"""What a picture of an episode shows: plain data that a task gives once, to be filled by the infos of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from nms_gym.anatomy import Multibody
from nms_gym.errors import InputError, listed
from nms_gym.muscle.geometry import PolynomialPaths
from nms_gym.muscle.path_points import MusclePoints
from nms_gym.skeleton.tree import coordinate_columns

STYLES = ("actual", "target", "measured", "model", "device", "stimulation", "other")


@dataclass(frozen=True, eq=False)
class Line:
    """One curve of a strip.

    Attributes:
        label: for the legend.
        style: one of ``STYLES``, its colour.
        key: entry of info that is plotted as it comes; "" for a curve known beforehand.
        index: which number of that entry; None when it is one number.
        scale: factor to the strip's unit, for example 180 / pi.
        time, values: (n,) s and (n,) in the strip's unit, of a curve known beforehand.
    """

    label: str
    style: str = "actual"
    key: str = ""
    index: int | None = None
    scale: float = 1.0
    time: np.ndarray | None = None
    values: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Strip:
    """Curves over time; ``limits`` of the vertical axis are widened where values leave them."""

    label: str
    lines: tuple[Line, ...]
    limits: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Body:
    """A limb seen from one side.

    Attributes:
        skeleton: bodies and joints.
        coordinates: D names, the order of ``info["q"]`` and of ``info["target"]`` and ``info["device_torque"]``.
        held: rad or m, of other independent coordinates; those not named are at their defaults.
        muscle_points: muscle -> points; muscles without are not drawn.
        strength: muscle -> N, how thick it is drawn; by default all alike.
        paths: of which drawn muscles get the moment arms, so that none cuts through a joint; None draws them straight.
        ranges: coordinate -> (low, high) rad that the picture must hold; by default the domain of ``paths``, else the
            coordinate's range.
        view: directions in ground that point right and up in the picture; by default a right limb seen from its side.
        tip: a body and a point in it, marked; for tasks whose info has a "goal" (3,) m.
        largest_torque: N·m of the device, the longest arrow.
        electrodes: (E,) muscles that each electrode stimulates, in the order of ``info["stimulation"]``.
    """

    skeleton: Multibody
    coordinates: tuple[str, ...]
    held: Mapping[str, float] = field(default_factory=dict)
    muscle_points: MusclePoints = field(default_factory=dict)
    strength: Mapping[str, float] = field(default_factory=dict)
    paths: PolynomialPaths | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    view: tuple[tuple[float, float, float], tuple[float, float, float]] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    tip: tuple[str, tuple[float, float, float]] | None = None
    largest_torque: float = 10.0
    electrodes: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        coordinate_columns(self.skeleton, (*self.coordinates, *self.held))


@dataclass(frozen=True, eq=False)
class Scene:
    """What ``draw`` shows.

    Attributes:
        title: of the picture.
        muscles: M names, the order of ``info["excitation"]`` and ``info["activation"]``.
        drive: muscle -> what drives it, as a task's ``drive``.
        strips: curves over time, from the top down.
        time: s, first and last of an episode; of ``info["time"]``.
        body: the limb that moves; None for tasks without.
    """

    title: str
    muscles: tuple[str, ...]
    drive: Mapping[str, str]
    strips: tuple[Strip, ...]
    time: tuple[float, float]
    body: Body | None = None

    def __post_init__(self) -> None:
        for strip in self.strips:
            for line in strip.lines:
                if line.style not in STYLES:
                    raise InputError(f"strip {strip.label!r}: style {line.style!r}; there are {listed(STYLES)}")
                if not line.key and (line.time is None or line.values is None):
                    raise InputError(f"strip {strip.label!r}: {line.label!r} has neither a key nor time and values")
        if not self.time[0] < self.time[1]:
            raise InputError(f"an episode from {self.time[0]} to {self.time[1]} s; the second time must be the later")


# --- strips that many tasks show --------------------------------------------


def angle_strip(label: str, index: int, limits: tuple[float, float], *, target: bool = True) -> Strip:
    """A joint angle and its target in degrees; ``limits`` in rad."""
    degrees = 180.0 / np.pi
    aim = (Line("target", "target", "target", index, degrees),) if target else ()
    low, high = np.degrees(limits)
    return Strip(f"{label} (°)", (*aim, Line("actual", "actual", "q", index, degrees)), (float(low), float(high)))


def torque_strip(label: str, index: int, limits: tuple[float, float], *, moments: bool = True) -> Strip:
    """Torque of a device and, by default, moment of the muscles, N·m."""
    muscles = (Line("muscles", "model", "moments", index),) if moments else ()
    return Strip(f"{label} (N·m)", (*muscles, Line("device", "device", "device_torque", index)), limits)


def moment_strip(label: str, index: int, time: np.ndarray, measured: np.ndarray) -> Strip:
    """A measured moment, known beforehand, and the one produced so far, N·m."""
    known = Line("measured", "measured", time=np.asarray(time, float), values=np.asarray(measured, float))
    return Strip(f"{label} (N·m)", (known, Line("model", "model", "moments", index)))


def stimulation_strip(electrodes: tuple[str, ...], limits: tuple[float, float] = (0.0, 1.0)) -> Strip:
    """Stimulation per electrode, of its largest."""
    styles = ("stimulation", "device", "model", "other")
    lines = [Line(name, styles[i % len(styles)], "stimulation", i) for i, name in enumerate(electrodes)]
    return Strip("stimulation", tuple(lines), limits)
