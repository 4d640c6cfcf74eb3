"""The points of muscle paths in our files, as JSON: ``muscle_points`` of model files and subjects."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from nms_gym.errors import InputError, near
from nms_gym.muscle.path_points import MusclePoints, Point

# m from the origin of a body; no body of anybody is so large, and millimetres are beyond it.
FARTHEST = 10.0


def points_to_json(points: MusclePoints) -> dict[str, list[list[Any]]]:
    """Each point as ``[body, x, y, z]``."""
    return {muscle: [[body, *map(float, place)] for body, place in path] for muscle, path in points.items()}


def points_from_json(entry: Any, where: str) -> dict[str, tuple[Point, ...]]:
    """What ``points_to_json`` wrote; None, of a file without points, is no points.

    Raises:
        InputError: not such a table.
    """
    if entry is None:
        return {}
    if not isinstance(entry, dict):
        raise InputError(f"{where}: muscle_points is {entry!r:.60}; expected a table of muscles")
    found = {}
    for muscle, rows in entry.items():
        what = f"{where}: muscle_points of {muscle!r}"
        if not isinstance(rows, list):
            raise InputError(f"{what} is {rows!r:.60}; expected a list of [body, x, y, z]")
        for row in rows:
            if not isinstance(row, list) or len(row) != 4 or not isinstance(row[0], str):
                raise InputError(f"{what}: {row!r:.60} is no point; expected [body, x, y, z]")
        found[muscle] = tuple((row[0], (row[1], row[2], row[3])) for row in rows)
    return found


def check_points(points: MusclePoints, muscles: Collection[str], bodies: Collection[str] | None, where: str) -> None:
    """Check names and numbers.

    Args:
        points: to check; muscles may be without.
        muscles: that there are.
        bodies: of the skeleton, None when there is none.
        where: begins every message.

    Raises:
        InputError: naming the muscle and what is wrong with its points.
    """
    for muscle, path in points.items():
        if muscle not in muscles:
            raise InputError(f"{where}: muscle_points names {muscle!r}, no muscle; {near(muscle, muscles)}")
        what = f"{where}: muscle_points of {muscle!r}"
        if len(path) < 2:
            raise InputError(f"{what}: a path has two points or more, this one has {len(path)}")
        for body, place in path:
            if bodies is not None and body != "ground" and body not in bodies:
                raise InputError(f"{what}: the skeleton has no body {body!r}; {near(body, bodies)}")
            numbers = [isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) <= FARTHEST for v in place]
            if len(numbers) != 3 or not all(numbers):
                raise InputError(
                    f"{what}: a point in {body!r} is at {place!r:.60}; expected three finite numbers, in m, within "
                    f"{FARTHEST:g}"
                )
