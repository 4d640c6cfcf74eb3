"""Where bodies, joints and muscles are in the picture: a limb's poses projected on the plane of view.

In NumPy: what JAX would compute sooner it would have to compile first, and one picture is soon drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from nms_gym.anatomy import Joint
from nms_gym.envs.rendering.scene import Body
from nms_gym.muscle.geometry import PolynomialPaths, monomials
from nms_gym.skeleton.functions import JointFunction, derivatives
from nms_gym.skeleton.tree import JointAxis, Tree, build_tree, coordinate_columns

STEP = 1e-3
"""rad, of the difference quotients that find a joint's centre of rotation"""


@dataclass(frozen=True, eq=False)
class Pivot:
    """The centre (2,) m about which a coordinate turns its body in the picture, and by how much per rad (seen from
    the front, counterclockwise)."""

    centre: np.ndarray
    rate: float


@dataclass(frozen=True, eq=False)
class Pose:
    """Bodies in ground: rotation (B, 3, 3) and translation (B, 3) m, by name of ``bodies``."""

    bodies: Mapping[str, int]
    rotation: np.ndarray
    translation: np.ndarray
    view: np.ndarray

    def place(self, body: str, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) of a body in the picture, (..., 2) m."""
        i = self.bodies[body]
        return (points @ self.rotation[i].T + self.translation[i]) @ self.view[:2].T

    def depth(self, body: str, points: np.ndarray) -> np.ndarray:
        """How near to the viewer points (..., 3) of a body are, m."""
        i = self.bodies[body]
        return (points @ self.rotation[i].T + self.translation[i]) @ self.view[2]

    def joint(self, joint: Joint) -> np.ndarray:
        """Centre (2,) of a joint in the picture."""
        return self.place(joint.child.body, joint.child.translation)


class PosedBody:
    """Poses and moment arms of a body at given angles."""

    def __init__(self, body: Body) -> None:
        skeleton = body.skeleton
        self.body = body
        right, up = (np.asarray(v, float) / np.linalg.norm(v) for v in body.view)
        self.view = np.stack([right, up, np.cross(right, up)])
        self.tree = build_tree(skeleton)
        self.names = {name: i for i, name in enumerate(self.tree.bodies)}
        self.joints = {joint.child.body: joint for joint in skeleton.joints}
        self.columns = np.array(coordinate_columns(skeleton, body.coordinates), np.int32)
        self.rest = np.array([body.held.get(c.name, c.default) for c in skeleton.coordinates])
        everyone = [c.name for c in skeleton.coordinates]
        self.spanned = [] if body.paths is None else [everyone.index(name) for name in body.paths.coordinates]

    def poses(self, angles: np.ndarray) -> list[Pose]:
        """Poses at angles (n, D)."""
        rotations, translations = _transforms(self.tree, self._full(angles))
        return [Pose(self.names, r, t, self.view) for r, t in zip(rotations, translations, strict=True)]

    def _full(self, angles: np.ndarray) -> np.ndarray:
        full = np.tile(self.rest, (len(angles), 1))
        full[:, self.columns] = angles
        return full

    def around(self, angles: np.ndarray, target: np.ndarray | None) -> tuple[Pose, Pose, dict[str, Pivot]]:
        """The pose at angles (D,), that at the target, and the pivots of coordinates that turn in the picture."""
        count = len(angles)
        aim = angles if target is None else target
        rows = np.concatenate([angles[None], aim[None], angles + STEP * np.eye(count)])
        pose, ghost, *moved = self.poses(rows)
        pivots = {}
        for name, other in zip(self.body.coordinates, moved, strict=True):
            pivot = self._pivot(pose, other, name)
            if pivot is not None:
                pivots[name] = pivot
        return pose, ghost, pivots

    def _pivot(self, pose: Pose, moved: Pose, coordinate: str) -> Pivot | None:
        """v = w z x (o - c) of the body's origin o gives the centre c = o + z x v / w."""
        body = next(child for child, joint in self.joints.items() if coordinate in joint.coordinates)
        i = self.names[body]
        turn = (moved.rotation[i] @ pose.rotation[i].T - np.eye(3)) / STEP
        spin = 0.5 * np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
        rate = float(spin @ self.view[2])
        if abs(rate) < 0.7:  # it turns out of the picture's plane
            return None
        # At the joint's own origin, so that rounding has little to multiply.
        joint = self.joints[body]
        origin = pose.joint(joint)
        vx, vy = (moved.joint(joint) - origin) / STEP
        return Pivot(origin + np.array([-vy, vx]) / rate, rate)

    def moment_arms(self, angles: np.ndarray) -> dict[tuple[str, str], float]:
        """(coordinate, muscle) -> m, of the fitted paths; empty without."""
        paths = self.body.paths
        if paths is None:
            return {}
        arms = _moment_arms(paths, self._full(angles[None])[0, self.spanned])
        return {
            (coordinate, muscle): float(arms[i, j])
            for i, coordinate in enumerate(paths.coordinates)
            for j, muscle in enumerate(paths.muscles)
        }

    def chain(self, start: str, end: str) -> list[tuple[str, bool]]:
        """Child bodies of the joints between two bodies; True where the way goes away from the ground."""
        up, down = self._ancestors(start), self._ancestors(end)
        common = next((name for name in up if name in down), "ground")
        rising = [(name, False) for name in up[: up.index(common)]] if common in up else []
        return rising + [(name, True) for name in reversed(down[: down.index(common)])]

    def _ancestors(self, body: str) -> list[str]:
        names = [body]
        while names[-1] != "ground":
            names.append(self.joints[names[-1]].parent.body)
        return names

    def moving(self) -> set[str]:
        """Bodies that the coordinates move."""
        found: set[str] = set()
        for joint in self.body.skeleton.joints:  # parents come first
            names = joint.coordinates
            driven = {
                k.dependent for k in self.body.skeleton.couplers if set(k.independent) & set(self.body.coordinates)
            }
            if joint.parent.body in found or set(names) & {*self.body.coordinates, *driven}:
                found.add(joint.child.body)
        return found


@lru_cache(maxsize=8)
def posed_body(body: Body) -> PosedBody:
    """The limb of a body, shared by the pictures of a batch of environments."""
    return PosedBody(body)


# --- kinematics in NumPy ------------------------------------------------------


def _transforms(tree: Tree, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``tree.forward_kinematics`` of poses (n, C), couplings resolved: (n, B, 3, 3) and (n, B, 3) m."""
    for coupler in tree.couplers:
        pose[:, coupler.dependent] = _value(coupler.function, [pose[:, i] for i in coupler.independent])
    count = len(pose)
    rotation = np.tile(np.eye(3), (count, len(tree.bodies), 1, 1))
    translation = np.zeros((count, len(tree.bodies), 3))
    for joint in tree.joints:
        turn, shift = np.eye(3), np.zeros((count, 3))
        for axis in joint.rotations:
            turn = turn @ _about(axis.direction, _displacement(axis, pose))
        for axis in joint.translations:
            shift = shift + _displacement(axis, pose)[:, None] * axis.direction
        before = rotation[:, joint.parent]
        frame = before @ joint.parent_rotation
        place = translation[:, joint.parent] + before @ joint.parent_translation
        place = place + np.einsum("nij,nj->ni", frame, shift)
        own = frame @ turn @ joint.child_rotation.T
        rotation[:, joint.child] = own
        translation[:, joint.child] = place - own @ joint.child_translation
    return rotation, translation


def _value(function: JointFunction, arguments: list[np.ndarray]) -> np.ndarray:
    return derivatives(function, arguments, np)[0]


def _displacement(axis: JointAxis, pose: np.ndarray) -> np.ndarray:
    return np.broadcast_to(_value(axis.function, [pose[:, i] for i in axis.coordinates]), (len(pose),))


def _about(direction: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Rotations (n, 3, 3) by angles (n,) about a unit vector: Rodrigues' formula."""
    x, y, z = direction
    skew = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    angle = angle[:, None, None]
    return np.eye(3) + np.sin(angle) * skew + (1.0 - np.cos(angle)) * (skew @ skew)


def _moment_arms(paths: PolynomialPaths, q: np.ndarray) -> np.ndarray:
    """``geometry.lengths_and_moment_arms``' moment arms (D, M); outside the domain those at its edge."""
    low, high = np.asarray(paths.domain, float).T
    half = 0.5 * (high - low)
    x = np.clip((q - 0.5 * (low + high)) / half, -1.0, 1.0)
    arms = np.zeros((len(q), len(paths.muscles)))
    for group, coefficients in zip(paths.groups, paths.coefficients, strict=True):
        span = list(group.coordinates)
        exponents = monomials(len(span), group.degree)
        powers = x[span] ** exponents  # (P, V)
        for place, k in enumerate(span):
            own = exponents[:, place]
            slopes = own * x[k] ** np.maximum(own - 1, 0)
            others = np.prod(np.delete(powers, place, axis=1), axis=1)
            arms[k, list(group.muscles)] = -(np.asarray(coefficients, float) @ (slopes * others)) / half[k]
    return arms
