"""The course of muscles in the picture: straight between their points, bent round joints by their moment arms.

A straight line between two points can pass a joint on its wrong side, where the real muscle slides over bone. The
fitted paths know the moment arm; a line whose force has moment arm r about a joint touches the circle of radius r
round its centre. So a line that would come nearer is laid round that circle, like a string round a pulley, and one
that keeps too far away is drawn in to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nms_gym.envs.rendering.pose import Pivot, Pose, PosedBody

SLACK = 0.004
"""m, by which a line may keep further from a joint than its moment arm says: depth foreshortens it"""
SAMPLES = 32
"""points of a drawn muscle"""
_CORNER = 0.008
"""m, of a line's end that a rounded corner may take"""


@dataclass(frozen=True)
class Crossing:
    """A coordinate's joint between points ``segment`` and the next; ``outward`` when the next is on its far side."""

    segment: int
    coordinate: str
    outward: bool


@dataclass(frozen=True, eq=False)
class Course:
    """A muscle's points (P, 3) m with their bodies, and the joints that its straight pieces cross."""

    muscle: str
    bodies: tuple[str, ...]
    points: np.ndarray
    crossings: tuple[Crossing, ...]

    @property
    def places(self) -> list[tuple[str, np.ndarray]]:
        """Each point with its body."""
        return list(zip(self.bodies, self.points, strict=True))

    def line(self, pose: Pose, pivots: dict[str, Pivot], arms: dict[tuple[str, str], float]) -> np.ndarray:
        """Its corners (n, 2) m in the picture."""
        corners = np.array([pose.place(body, point) for body, point in self.places])
        depth = np.array([pose.depth(body, point) for body, point in self.places])
        pieces = [corners[:1]]
        for i in range(len(corners) - 1):
            start, end = corners[i], corners[i + 1]
            flat = float(np.linalg.norm(end - start))
            steep = flat / max(math.hypot(flat, depth[i + 1] - depth[i]), 1e-12)
            pulleys = []
            for crossing in self.crossings:
                arm, pivot = arms.get((crossing.coordinate, self.muscle)), pivots.get(crossing.coordinate)
                if crossing.segment == i and arm is not None and pivot is not None:
                    # Joints crossed towards the ground see the same force from the other end.
                    pulleys.append((pivot.centre, arm / pivot.rate * (1.0 if crossing.outward else -1.0)))
            pieces.append(_laid(start, end, pulleys, steep))
            pieces.append(corners[i + 1 : i + 2])
        return np.concatenate(pieces)


def courses(limb: PosedBody) -> list[Course]:
    """Courses of all muscles that have points."""
    return [_course(limb, muscle) for muscle in limb.body.muscle_points]


def _course(limb: PosedBody, muscle: str) -> Course:
    path = limb.body.muscle_points[muscle]
    bodies = tuple(body for body, _ in path)
    free = set(limb.body.coordinates)
    coupled = {coupler.dependent for coupler in limb.body.skeleton.couplers}
    crossings = []
    for i in range(len(path) - 1):
        chain = limb.chain(bodies[i], bodies[i + 1])
        # A patella is where it should be: a line from or to it needs no bending.
        if any(set(limb.joints[child].coordinates) & coupled for child, _ in chain):
            continue
        for child, outward in chain:
            names = [name for name in limb.joints[child].coordinates if name in free]
            crossings += [Crossing(i, name, outward) for name in names]
    return Course(muscle, bodies, np.array([place for _, place in path]), tuple(crossings))


def _laid(start: np.ndarray, end: np.ndarray, pulleys: Sequence[tuple[np.ndarray, float]], steep: float) -> np.ndarray:
    """Points (n, 2) between start and end round the pulleys (centre, moment arm); none for a straight line."""
    contacts = [np.empty((0, 2))] * len(pulleys)
    for _ in range(3 if len(pulleys) > 1 else 1):
        for k, (centre, arm) in enumerate(pulleys):
            before = next((c[-1] for c in reversed(contacts[:k]) if len(c)), start)
            after = next((c[0] for c in contacts[k + 1 :] if len(c)), end)
            contacts[k] = _round(before, after, centre, arm, steep)
    return np.concatenate([np.empty((0, 2)), *contacts])


def _round(start: np.ndarray, end: np.ndarray, centre: np.ndarray, arm: float, steep: float) -> np.ndarray:
    """Points of the arc, or the one point, that bring the line from start to end to its moment arm.

    A positive arm turns the far end counterclockwise: it pulls at ``end`` towards ``start``.
    """
    side = 1.0 if arm >= 0 else -1.0
    a, b = start - centre, end - centre
    near, far = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    radius = min(abs(arm), 0.97 * near, 0.97 * far)
    if radius < 1e-4:
        return np.empty((0, 2))
    angle_a, angle_b = math.atan2(a[1], a[0]), math.atan2(b[1], b[0])
    between = (side * (angle_a - angle_b)) % (2 * math.pi)
    if between > 1.6 * math.pi:  # both on one side of the joint: round the whole pulley is no way to go
        return np.empty((0, 2))
    lean_a, lean_b = math.acos(radius / near), math.acos(radius / far)
    sweep = between - lean_a - lean_b
    if sweep > 0:
        angles = angle_a - side * (lean_a + np.linspace(0.0, sweep, 2 + int(sweep / 0.15)))
        return centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # Straight: on the right side, and perhaps too far out.
    along = end - start
    length = float(np.linalg.norm(along))
    fraction = float(-(a @ along)) / max(length**2, 1e-12)
    if not 0.08 < fraction < 0.92:
        return np.empty((0, 2))
    foot = a + fraction * along
    distance = float(np.linalg.norm(foot))
    if distance * steep <= abs(arm) + SLACK:
        return np.empty((0, 2))
    return (centre + foot / distance * (abs(arm) + SLACK) / steep)[None]


# --- shape --------------------------------------------------------------------


def smoothed(corners: np.ndarray) -> np.ndarray:
    """Corners (n, 2) rounded off and spread evenly, (``SAMPLES``, 2)."""
    for share in (0.35, 0.3):
        steps = np.diff(corners, axis=0)
        lengths = np.linalg.norm(steps, axis=1, keepdims=True)
        cut = np.minimum(share, _CORNER / np.maximum(lengths, 1e-9)) * steps
        inner = np.stack([corners[1:-1] - cut[:-1], corners[1:-1] + cut[1:]], axis=1).reshape(-1, 2)
        corners = np.concatenate([corners[:1], inner, corners[-1:]])
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(corners, axis=0), axis=1))])
    at = np.linspace(0.0, along[-1], SAMPLES)
    return np.stack([np.interp(at, along, corners[:, 0]), np.interp(at, along, corners[:, 1])], axis=1)


_PHASE = np.linspace(0.0, 1.0, SAMPLES)
# Thin tendons at both ends, a belly between; the belly of most limb muscles sits nearer to the origin.
PROFILE = 0.24 + 0.76 * np.sin(np.pi * np.clip(_PHASE / 0.92, 0.0, 1.0) ** 0.85) ** 1.6


def spindle(line: np.ndarray, belly: float) -> np.ndarray:
    """Outline (2 ``SAMPLES``, 2) of a muscle along ``line`` whose belly is ``belly`` wide."""
    tangent = np.gradient(line, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-12)
    offset = (0.5 * belly * PROFILE)[:, None] * np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    return np.concatenate([line + offset, (line - offset)[::-1]])
