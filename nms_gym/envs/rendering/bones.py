"""Shapes of bones and of the limb around them, from joint centres, centres of mass and muscle attachments alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import ConvexHull, QhullError

from nms_gym.anatomy import Body as Segment
from nms_gym.envs.rendering.pose import Pose, PosedBody

FOOT = ("talus", "calcn", "toes")
FOOT_LENGTH = 0.1788
"""m from the heel to the joint of the toes, of the foot whose outline is below"""


@dataclass(frozen=True, eq=False)
class Shape:
    """A closed outline (n, 3) m fixed in a body. ``kind``: "bone", "flesh", or "root" for what the limb hangs on."""

    body: str
    outline: np.ndarray
    kind: str

    @property
    def root(self) -> bool:
        """Whether it is what the limb hangs on."""
        return self.kind == "root"


def shapes(limb: PosedBody, pose: Pose) -> list[Shape]:
    """Outlines of all segments, in the plane of view at ``pose``."""
    found: list[Shape] = []
    for segment in limb.body.skeleton.bodies:
        found += _of_segment(limb, pose, segment)
    return found


def _of_segment(limb: PosedBody, pose: Pose, segment: Segment) -> list[Shape]:
    name = segment.name
    joint = limb.joints[name]
    children = [j for j in limb.body.skeleton.joints if j.parent.body == name]
    if joint.parent.body == "ground" and not set(joint.coordinates) & set(limb.body.coordinates):
        return _root(limb, pose, name)
    draw = _Drawing(limb, pose, name)
    if name.startswith("patella"):
        centre = segment.mass_center
        return [
            draw.tapered(
                centre + np.array([0, 0.024, 0]), centre - np.array([0, 0.02, 0]), (0.011, 0.012, 0.008), "bone"
            )
        ]
    if name.startswith(FOOT):
        return draw.foot(segment, _foot_size(limb))
    start = joint.child.translation
    ends = [j.parent.translation for j in children if not j.child.body.startswith("patella")]
    if ends:
        end = max(ends, key=lambda e: float(np.linalg.norm(e - start)))
        return draw.long_bone(start, end)
    reach = segment.mass_center - start
    if float(np.linalg.norm(reach)) < 0.02:
        return []
    if "hand" in name:
        # The centre of mass of forearm and hand lies at 0.682 of the forearm; the hand's own length adds the rest
        # (Winter 2009, Biomechanics and Motor Control of Human Movement, table 4.1).
        wrist = start + reach / 0.682
        return [*draw.long_bone(start, wrist), *draw.hand(wrist, wrist + 0.66 * (wrist - start))]
    return draw.long_bone(start, start + 2.0 * reach)


class _Drawing:
    """Outlines in the plane of view, given in a body's own axes."""

    def __init__(self, limb: PosedBody, pose: Pose, body: str) -> None:
        self.body = body
        self.rotation = pose.rotation[pose.bodies[body]]
        self.normal = self.rotation.T @ limb.view[2]

    def _frame(self, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Unit vectors along and to the left of it (the front, hanging down) in the plane of view, and the length."""
        along = end - start
        along = along - (along @ self.normal) * self.normal
        length = float(np.linalg.norm(along))
        along = along / length
        return along, np.cross(self.normal, along), length

    def outline(self, start: np.ndarray, end: np.ndarray, along: np.ndarray, across: np.ndarray, kind: str) -> Shape:
        """``along`` (n,) in lengths of the segment, ``across`` (n,) m to the left of its direction."""
        axis, side, length = self._frame(start, end)
        return Shape(self.body, start + np.outer(along * length, axis) + np.outer(across, side), kind)

    def tapered(
        self, start: np.ndarray, end: np.ndarray, widths: tuple[float, ...], kind: str, caps: float = 1.0
    ) -> Shape:
        """Half widths (m) at equal distances from start to end, with round ends."""
        length = self._frame(start, end)[2]
        t = np.linspace(0.0, 1.0, 40)
        half = PchipInterpolator(np.linspace(0.0, 1.0, len(widths)), widths)(t)
        angle = np.linspace(-np.pi / 2, np.pi / 2, 10)[1:-1]
        # Down the left side, round the end, up the right side, round the start.
        last, first = widths[-1], widths[0]
        along = [t, 1 + caps * last * np.cos(angle) / length, t[::-1], -caps * first * np.cos(angle) / length]
        across = [half, -last * np.sin(angle), -half[::-1], first * np.sin(angle)]
        return self.outline(start, end, np.concatenate(along), np.concatenate(across), kind)

    def long_bone(self, start: np.ndarray, end: np.ndarray) -> list[Shape]:
        """A shaft with two heads, in a tapered limb."""
        size = self._frame(start, end)[2]
        bone = np.array([0.062, 0.05, 0.034, 0.03, 0.03, 0.036, 0.052, 0.062]) * size
        flesh = np.array([0.15, 0.175, 0.17, 0.15, 0.13, 0.115, 0.11]) * size
        return [
            self.tapered(start, end, tuple(flesh), "flesh"),
            self.tapered(start, end, tuple(bone), "bone", caps=0.8),
        ]

    def hand(self, wrist: np.ndarray, tip: np.ndarray) -> list[Shape]:
        """A loosely closed hand."""
        size = self._frame(wrist, tip)[2]
        flesh = np.array([0.16, 0.19, 0.23, 0.23, 0.2, 0.17, 0.14]) * size
        bone = np.array([0.1, 0.13, 0.17, 0.17, 0.14, 0.12, 0.09]) * size
        return [self.tapered(wrist, tip, tuple(flesh), "flesh"), self.tapered(wrist, tip, tuple(bone), "bone")]

    def foot(self, segment: Segment, size: float) -> list[Shape]:
        """Seen from its side: the talus a disc, the calcaneus with heel and instep, the toes a wedge.

        Drawn in OpenSim's axes (x forward from the heel, y up) for a foot with ``FOOT_LENGTH``; ``size`` times that.
        """
        if segment.name.startswith("talus"):
            round_ = np.linspace(0, 2 * np.pi, 20, endpoint=False)
            disc = 0.017 * np.stack([np.cos(round_), np.sin(round_), 0 * round_], axis=1) + [0.0, -0.016, 0.0]
            return [Shape(self.body, size * disc, "bone")]
        if segment.name.startswith("toes"):
            top = [(-0.012, 0.004), (-0.006, 0.017), (0.012, 0.019), (0.04, 0.011), (0.062, 0.002)]
            sole = [(0.066, -0.008), (0.055, -0.015), (0.02, -0.016), (-0.006, -0.013)]
            skin = [(-0.02, 0.03), (0.01, 0.027), (0.045, 0.018), (0.073, 0.004)]
            skin += [(0.078, -0.012), (0.06, -0.022), (0.02, -0.023), (-0.02, -0.021)]
        else:
            top = [(-0.006, 0.022), (0.006, 0.042), (0.03, 0.046), (0.052, 0.05), (0.085, 0.052), (0.12, 0.036)]
            top += [(0.16, 0.02), (0.184, 0.012)]
            sole = [(0.188, -0.006), (0.176, -0.013), (0.14, -0.002), (0.09, 0.012), (0.05, 0.01), (0.02, -0.008)]
            sole += [(0.0, -0.011), (-0.009, 0.0)]
            skin = [(-0.018, 0.025), (-0.004, 0.06), (0.02, 0.09), (0.05, 0.1), (0.085, 0.085), (0.13, 0.052)]
            skin += [(0.175, 0.031), (0.2, 0.02), (0.2, -0.02), (0.15, -0.021), (0.09, -0.012), (0.03, -0.021)]
            skin += [(0.0, -0.022), (-0.017, -0.008)]
        return [
            Shape(self.body, size * _rounded([(x, y, 0.0) for x, y in skin]), "flesh"),
            Shape(self.body, size * _rounded([(x, y, 0.0) for x, y in top + sole]), "bone"),
        ]


def _foot_size(limb: PosedBody) -> float:
    """How long the foot is, of the foot whose outline is drawn."""
    for joint in limb.body.skeleton.joints:
        if joint.child.body.startswith("toes"):
            return float(np.linalg.norm(joint.parent.translation)) / FOOT_LENGTH
    return 1.0


def _root(limb: PosedBody, pose: Pose, name: str) -> list[Shape]:
    """What the limb hangs on: the hull of its muscle attachments and joints, seen from the side."""
    rotation = pose.rotation[pose.bodies[name]]
    points = [place for path in limb.body.muscle_points.values() for body, place in path if body == name]
    joints = [j.parent.translation for j in limb.body.skeleton.joints if j.parent.body == name]
    if not joints:
        return []
    round_ = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    ring = np.stack([np.cos(round_), np.sin(round_), 0 * round_], axis=1)
    # A margin round every point; joints sit in the middle of bone, attachments on its surface.
    around = [np.asarray(j) + 0.026 * ring @ limb.view @ rotation for j in joints]
    around += [np.asarray(p) + 0.006 * ring @ limb.view @ rotation for p in points]
    segment = limb.body.skeleton.body(name)
    if segment.mass > 0:  # a pelvis is a pelvis, however few muscles are shown
        around.append(segment.mass_center + 0.065 * ring @ limb.view @ rotation)
    cloud = np.concatenate(around)
    flat = cloud @ rotation.T @ limb.view[:2].T
    try:
        hull = cloud[ConvexHull(flat).vertices]
    except QhullError:  # all on one line
        return []
    # In one plane, so that the outline stays simple when it is seen from aslant.
    normal = rotation.T @ limb.view[2]
    middle = hull.mean(axis=0)
    hull = hull - np.outer((hull - middle) @ normal, normal)
    return [Shape(name, _softened(hull), "root")]


def _softened(corners: np.ndarray) -> np.ndarray:
    """A closed polygon (n, 3) with an outline (90, 3) from which short waves have been taken."""
    closed = np.concatenate([corners, corners[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    at = np.linspace(0.0, along[-1], 90, endpoint=False)
    even = np.stack([np.interp(at, along, column) for column in closed.T], axis=1)
    return gaussian_filter1d(even, 3.0, axis=0, mode="wrap")


def _rounded(corners: object, times: int = 3) -> np.ndarray:
    """A closed polygon with its corners cut off again and again (Chaikin 1974)."""
    points = np.asarray(corners, float)
    for _ in range(times):
        after = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * after, 0.25 * points + 0.75 * after], axis=1).reshape(-1, 3)
    return points
