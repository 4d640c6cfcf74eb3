"""Where the paths of muscles go, for pictures: points fixed in bodies, from origin to insertion.

Lengths and moment arms come from the fitted paths and not from here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from nms_gym.anatomy import Muscle, OsimModel, PathPoint
from nms_gym.skeleton.functions import build_function, derivatives

Point = tuple[str, tuple[float, float, float]]
"""a body, and where in it, in m"""

MusclePoints = Mapping[str, tuple[Point, ...]]
"""muscle -> its points in order"""

_DIGITS = 10  # as in model files: below an atom


def points_from_osim(
    osim: OsimModel, muscles: Collection[str], bodies: Collection[str]
) -> dict[str, tuple[Point, ...]]:
    """Path points that sit on ``bodies`` or the ground; moving ones where the default pose puts them.

    Conditional points count as always there. A muscle of which fewer than two points are left is left out.
    """
    defaults = {c.name: c.default for c in osim.coordinates}
    kept = {*bodies, "ground"}
    found = {m: _points(osim.muscle(m), kept, defaults) for m in muscles}
    return {muscle: points for muscle, points in found.items() if len(points) > 1}


def _points(muscle: Muscle, bodies: Collection[str], defaults: Mapping[str, float]) -> tuple[Point, ...]:
    return tuple((p.body, _location(p, defaults)) for p in muscle.points if p.body in bodies)


def _location(point: PathPoint, defaults: Mapping[str, float]) -> tuple[float, float, float]:
    location = point.location
    if point.kind == "moving":
        location = np.array(
            [
                derivatives(build_function(function), [defaults[name]], np)[0]
                for function, name in zip(point.functions, point.coordinates, strict=True)
            ]
        )
        if point.frame is not None:
            location = point.frame.rotation @ location + point.frame.translation
    x, y, z = (float(f"{value:.{_DIGITS}g}") for value in location)
    return x, y, z
