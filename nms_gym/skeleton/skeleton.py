"""The skeleton that dynamics runs on: an OpenSim joint tree cut down to what the chosen coordinates can move.

Every joint becomes one link: a fixed rotation and offset from the link before, slides along the axes of that frame,
then turns about coordinate axes, each turn after a fixed rotation that brings its axis there. Axes that no chosen
coordinate moves are folded into the fixed parts and bodies without a joint of their own into the link that carries
them. What makes terms vanish (which coordinate drives which axis, along which coordinate axis, and rotations that are
the identity) is static structure, so it survives ``jit`` and ``vmap`` with the skeleton as an argument. Every number
(mass, centre, inertia, offset, rotation, gravity, coefficient of a function) is a leaf to differentiate or to batch.

Sources: the joint's order of motions is that of Simbody's MobilizedBody::FunctionBased, as in ``skeleton/tree.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nms_gym import anatomy as read
from nms_gym._pytree import pytree, static
from nms_gym.errors import InputError, listed, near
from nms_gym.skeleton.functions import JointFunction, LinearFunction, MultivariateFunction, build_function, derivatives
from nms_gym.skeleton.tree import coordinate_columns, ordered_couplers

_SAME = 1e-14  # rotations closer to the identity than this are the identity: rounding of frames multiplied together


@pytree
class Displacement:
    """``sign * function(signals)`` in rad or m; no function: the one signal itself.

    Signals are the free coordinates, the prescribed ones, then the dependent ones in the order of ``couplers``.
    """

    function: JointFunction | None
    signals: tuple[int, ...] = static()
    sign: float = static(default=1.0)


@pytree
class Slide:
    """Motion along ``direction`` (3,), or along coordinate axis ``axis`` where there is none."""

    direction: Any
    displacement: Displacement
    axis: int = static()


@pytree
class Turn:
    """After the fixed ``rotation`` (3, 3), None for none, a rotation about coordinate axis ``axis``."""

    rotation: Any
    displacement: Displacement
    axis: int = static()


@pytree
class Link:
    """One moving frame: ``rotation`` (3, 3) or None, ``translation`` (3,) m in the rotated frame, slides, turns."""

    rotation: Any
    translation: Any
    slides: tuple[Slide, ...]
    turns: tuple[Turn, ...]
    parent: int = static()  # -1 is the ground


@pytree
class Placement:
    """A body fixed in a link: ``x_link = rotation @ x_body + translation``."""

    rotation: Any
    translation: Any
    link: int = static()


@pytree
class Skeleton:
    """Links, and B bodies fixed in them; ``coordinates`` are the D free ones, ``prescribed`` the P given ones.

    Leaves: mass (B,) kg; mass_center (B, 3) m in the body's frame; inertia (B, 3, 3) kg m^2 about the centre of mass
    in body axes (the upper triangle is read); gravity (3,) m/s^2; the numbers in ``links``, ``couplers``, placements.
    ``replace(skeleton, mass=...)`` changes a number; rotations must stay rotations. Bodies that nothing moves ride on
    link -1, the ground.
    """

    mass: Any
    mass_center: Any
    inertia: Any
    gravity: Any
    links: tuple[Link, ...]
    couplers: tuple[Displacement, ...]
    placements: tuple[Placement, ...]
    bodies: tuple[str, ...] = static()
    coordinates: tuple[str, ...] = static()
    prescribed: tuple[str, ...] = static()

    def placement(self, body: str) -> Placement:
        """Where ``body`` sits; InputError listing near names when there is none. The ground is a body here."""
        if body == "ground":
            return Placement(None, np.zeros(3), -1)
        if body not in self.bodies:
            raise InputError(f"the skeleton has no body {body!r}; {near(body, self.bodies)}")
        return self.placements[self.bodies.index(body)]


def make_skeleton(
    multibody: read.Multibody,
    coordinates: Sequence[str],
    *,
    prescribed: Sequence[str] = (),
    locked: Mapping[str, float] | None = None,
) -> Skeleton:
    """The skeleton of ``multibody`` that moves with ``coordinates``, in this order, and ``prescribed``.

    Every other independent coordinate stays at its value in ``locked`` (rad or m), else at its default. Leaves are
    NumPy float64; every function brings them to the dtype of the coordinates it is given.

    Raises InputError for a coordinate that is unknown, named twice or made dependent by a constraint, for a free
    coordinate that moves no body with mass, and for locked values that are not finite.
    """
    return _Builder(multibody, tuple(coordinates), tuple(prescribed), dict(locked or {})).skeleton()


class _Builder:
    """Holds what is known while the links are made: the constant coordinates, and where each body sits."""

    def __init__(
        self, multibody: read.Multibody, free: tuple[str, ...], prescribed: tuple[str, ...], locked: dict[str, float]
    ):
        self.multibody, self.free, self.prescribed = multibody, free, prescribed
        if not free:
            raise InputError(f"{multibody.path}: no coordinates chosen; name at least one that is free to move")
        coordinate_columns(multibody, (*free, *prescribed, *locked))
        for name, value in locked.items():
            if not math.isfinite(value):
                raise InputError(f"{multibody.path}: coordinate {name!r} is locked at {value}; give a finite value")
        self.signals = {name: i for i, name in enumerate((*free, *prescribed))}
        self.constant = {
            c.name: float(locked.get(c.name, c.default)) for c in multibody.coordinates if c.name not in self.signals
        }
        self.couplers: list[Displacement] = []
        for coupler in ordered_couplers(multibody):
            found = self.displacement(coupler.function, coupler.independent)
            if not isinstance(found, Displacement):
                self.constant[coupler.dependent] = found
                continue
            del self.constant[coupler.dependent]
            if found.function is None and found.sign == 1.0:
                self.signals[coupler.dependent] = found.signals[0]
            else:
                self.signals[coupler.dependent] = len(free) + len(prescribed) + len(self.couplers)
                self.couplers.append(found)
        self.links: list[Link] = []
        self.frames: dict[str, tuple[int, np.ndarray, np.ndarray]] = {"ground": (-1, np.eye(3), np.zeros(3))}

    def skeleton(self) -> Skeleton:
        for joint in self.multibody.joints:
            self.joint(joint)
        bodies = self.multibody.bodies
        skeleton = Skeleton(
            mass=np.array([body.mass for body in bodies]),
            mass_center=np.array([body.mass_center for body in bodies]),
            inertia=np.array([body.inertia for body in bodies]),
            gravity=np.array(self.multibody.gravity),
            links=tuple(self.links),
            couplers=tuple(self.couplers),
            placements=tuple(
                Placement(_rotation(rotation), translation, link)
                for link, rotation, translation in (self.frames[body.name] for body in bodies)
            ),
            bodies=tuple(body.name for body in bodies),
            coordinates=self.free,
            prescribed=self.prescribed,
        )
        self.check_masses(skeleton)
        return skeleton

    def displacement(self, function: read.Function, names: Sequence[str]) -> Displacement | float:
        """``function`` of the coordinates ``names``; a float when nothing moves it."""
        built = build_function(function)
        values = [self.constant.get(name) for name in names]
        if isinstance(built, LinearFunction):
            # Constant arguments and those without influence join the intercept. A Constant has no slopes at all.
            slopes = built.slopes if built.slopes.size else np.zeros(len(names))
            moving = [i for i, value in enumerate(values) if value is None and slopes[i] != 0.0]
            fixed = sum(slopes[i] * v for i, v in enumerate(values) if v is not None)
            intercept = float(built.intercept + fixed)
            if not moving:
                return intercept
            signals = tuple(self.signals[names[i]] for i in moving)
            if len(moving) == 1 and intercept == 0.0 and abs(slopes[moving[0]]) == 1.0:
                return Displacement(None, signals, float(slopes[moving[0]]))
            return Displacement(LinearFunction(slopes[np.array(moving)], np.array(intercept)), signals)
        if isinstance(built, MultivariateFunction):
            built = _partial(built, values)
            left = [name for name, value in zip(names, values, strict=True) if value is None]
            if not left or not any(any(term) for term in built.exponents):
                return float(sum(built.coefficients))
            return Displacement(built, tuple(self.signals[name] for name in left))
        if values[0] is not None:
            return float(derivatives(built, [np.float64(values[0])], np)[0])
        return Displacement(built, (self.signals[names[0]],))

    def joint(self, joint: read.Joint) -> None:
        """Add the joint's link, if it moves, and place its child."""
        if joint.problem:
            raise InputError(joint.problem)
        parent, rotation, translation = self.frames[joint.parent.body]
        translation = translation + rotation @ joint.parent.translation
        rotation = rotation @ joint.parent.rotation
        slides: list[Slide] = []
        for axis in joint.axes[3:]:
            moved = self.displacement(axis.function, axis.coordinates)
            if not isinstance(moved, Displacement):
                translation = translation + rotation @ (moved * axis.axis)
                continue
            index, sign, aligned = _align(axis.axis)
            if aligned is None:
                slides.append(Slide(None, _signed(moved, sign), index))
            else:
                slides.append(Slide(np.array(axis.axis), moved, index))
        turns: list[Turn] = []
        before = np.eye(3)  # from the frame of the next turn's axis to that of the last turn
        for axis in joint.axes[:3]:
            moved = self.displacement(axis.function, axis.coordinates)
            if not isinstance(moved, Displacement):
                before = before @ _about(axis.axis, moved)
                continue
            index, sign, aligned = _align(axis.axis)
            before = before if aligned is None else before @ aligned
            if not turns and not slides:
                rotation, before = rotation @ before, np.eye(3)
            turns.append(Turn(_rotation(before), _signed(moved, sign), index))
            before = np.eye(3) if aligned is None else aligned.T
        child = before @ joint.child.rotation.T
        offset = -child @ joint.child.translation
        if slides or turns:
            self.links.append(Link(_rotation(rotation), rotation.T @ translation, tuple(slides), tuple(turns), parent))
            self.frames[joint.child.body] = (len(self.links) - 1, child, offset)
        else:
            self.frames[joint.child.body] = (parent, rotation @ child, translation + rotation @ offset)

    def check_masses(self, skeleton: Skeleton) -> None:
        """Every free coordinate must move a body with mass: without one its acceleration is not determined."""
        depends = [{i} for i in range(len(self.free) + len(self.prescribed))]
        for coupler in self.couplers:
            depends.append(set().union(*(depends[i] for i in coupler.signals)))
        carried: list[set[int]] = []
        for link in self.links:
            own = (part.displacement.signals for part in (*link.slides, *link.turns))
            above = carried[link.parent] if link.parent >= 0 else set()
            carried.append(above.union(*(depends[i] for signals in own for i in signals)))
        moved: set[int] = set()
        for body, placement in zip(self.multibody.bodies, skeleton.placements, strict=True):
            if body.problem and placement.link >= 0:
                raise InputError(body.problem)
            if body.mass > 0.0 and placement.link >= 0:
                moved |= carried[placement.link]
        idle = [name for i, name in enumerate(self.free) if i not in moved]
        if idle:
            raise InputError(
                f"{self.multibody.path}: coordinate {listed(idle)} moves no body with mass, so it has no dynamics; "
                "leave it out (it is then locked) or give its bodies mass"
            )


def _partial(function: MultivariateFunction, values: Sequence[float | None]) -> MultivariateFunction:
    """The polynomial in the variables that have no value."""
    terms: dict[tuple[int, ...], float] = {}
    for coefficient, term in zip(function.coefficients, function.exponents, strict=True):
        fixed = math.prod(v**e for v, e in zip(values, term, strict=True) if v is not None)
        left = tuple(e for v, e in zip(values, term, strict=True) if v is None)
        terms[left] = terms.get(left, 0.0) + float(coefficient) * fixed
    return MultivariateFunction(np.array(list(terms.values())), tuple(terms))


def _rotation(matrix: np.ndarray) -> np.ndarray | None:
    return None if np.max(np.abs(matrix - np.eye(3))) < _SAME else matrix


def _signed(displacement: Displacement, sign: float) -> Displacement:
    return Displacement(displacement.function, displacement.signals, sign * displacement.sign)


def _align(axis: np.ndarray) -> tuple[int, float, np.ndarray | None]:
    """The coordinate axis k nearest to a unit vector, its sign, and the rotation that takes ``sign * e_k`` to it.

    The rotation is None when they coincide, and the smallest one otherwise, so equal axes get equal rotations.
    """
    k = int(np.argmax(np.abs(axis)))
    sign = float(np.sign(axis[k]))
    target = sign * axis
    if abs(target[k]) == 1.0:
        return k, sign, None
    start = np.eye(3)[k]
    normal = np.cross(start, target)
    skew = np.array([[0, -normal[2], normal[1]], [normal[2], 0, -normal[0]], [-normal[1], normal[0], 0]])
    return k, sign, np.eye(3) + skew + skew @ skew / (1.0 + target[k])


def _about(axis: np.ndarray, angle: float) -> np.ndarray:
    x, y, z = axis
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * skew + (1.0 - math.cos(angle)) * skew @ skew
