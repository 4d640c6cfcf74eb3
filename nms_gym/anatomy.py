"""What an OpenSim model is made of: functions, bodies, joints, coordinates, couplings, muscles and their paths.

``Multibody`` is the part that moves; ``OsimModel`` adds the muscles.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from nms_gym.errors import InputError, near

# ---------------------------------------------------------------------------------------------- functions


@dataclass(frozen=True)
class Linear:
    """``coefficients[:-1] @ x + coefficients[-1]``; no slopes at all makes it a constant."""

    coefficients: tuple[float, ...]


@dataclass(frozen=True)
class Polynomial:
    """Coefficients from the highest power down, as OpenSim's PolynomialFunction writes them."""

    coefficients: tuple[float, ...]


@dataclass(frozen=True)
class SimmSpline:
    """Knots of a SimmSpline (OpenSim also calls it NaturalCubicSpline): cubic, straight outside its knots."""

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class PiecewiseLinear:
    """Straight lines through the knots, the first and last continued outside."""

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Scaled:
    """``scale`` times another function (MultiplierFunction)."""

    scale: float
    function: Function


Function = Linear | Polynomial | SimmSpline | PiecewiseLinear | Scaled

ZERO = Linear((0.0,))
IDENTITY = Linear((1.0, 0.0))


# ---------------------------------------------------------------------------------------------- model parts


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame fixed in ``body``: ``x_body = rotation @ x_frame + translation``, (3, 3) and (3,) in m."""

    body: str
    rotation: np.ndarray
    translation: np.ndarray


@dataclass(frozen=True, eq=False)
class Body:
    """Mass in kg, centre of mass in m and inertia (3, 3) about it in kg m^2, both in the body's frame."""

    name: str
    mass: float
    mass_center: np.ndarray
    inertia: np.ndarray


@dataclass(frozen=True, eq=False)
class TransformAxis:
    """Displacement ``function(coordinates)`` about or along the unit vector ``axis``."""

    axis: np.ndarray
    coordinates: tuple[str, ...]
    function: Function


@dataclass(frozen=True, eq=False)
class Joint:
    """The child frame moves in the parent frame by three rotations, then three translations.

    ``axes`` holds six TransformAxis; every joint class is written this way (a PinJoint is one rotation about z).
    """

    name: str
    class_name: str
    parent: Frame
    child: Frame
    coordinates: tuple[str, ...]
    axes: tuple[TransformAxis, ...]


@dataclass(frozen=True)
class Coordinate:
    """A generalised coordinate: range and default in rad or m, as ``motion`` tells.

    ``motion`` is 'rotational' or 'translational' where the coordinate is itself an angle or a distance, 'coupled'
    where it only feeds functions (a patella). OpenSim converts degrees in files for rotational ones only.
    ``coupled_to`` names the independent coordinate when a constraint makes this one depend on it.
    """

    name: str
    joint: str
    motion: str
    range: tuple[float, float]
    default: float
    locked: bool
    coupled_to: str | None


@dataclass(frozen=True)
class Coupler:
    """``dependent = function(independent)``, from an enforced CoordinateCouplerConstraint."""

    name: str
    dependent: str
    independent: tuple[str, ...]
    function: Function


@dataclass(frozen=True, eq=False)
class PathPoint:
    """A point of a muscle's path, fixed in ``body`` at ``location`` (3,) in m.

    kind 'conditional': on the path only while ``coordinates[0]`` is inside ``range`` (rad).
    kind 'moving': ``location`` is unused; ``functions[k](coordinates[k])`` gives component k in ``frame``.
    """

    name: str
    body: str
    location: np.ndarray
    kind: str
    coordinates: tuple[str, ...] = ()
    range: tuple[float, float] | None = None
    functions: tuple[Function, ...] = ()
    frame: Frame | None = None


@dataclass(frozen=True, eq=False)
class Wrap:
    """A surface that paths slide over, at ``rotation`` (3, 3), ``translation`` (3,) in ``body``.

    kind 'cylinder': ``radius`` and ``length`` in m, axis along the local z. Other kinds keep their numbers in
    ``dimensions``: the semi-axes of an ellipsoid, the radius of a sphere, inner and outer radius of a torus.
    ``quadrant`` is 'all', or the side that paths must keep to: 'x', '-y', ...
    """

    name: str
    kind: str
    body: str
    rotation: np.ndarray
    translation: np.ndarray
    quadrant: str
    active: bool
    radius: float = 0.0
    length: float = 0.0
    dimensions: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class PathWrap:
    """A wrap used by one muscle, between path points ``first`` and ``last`` (indices from 0, inclusive)."""

    wrap: Wrap
    first: int
    last: int
    method: str


@dataclass(frozen=True, eq=False)
class Muscle:
    """A Hill muscle: N, m, rad, and optimal fiber lengths per second; its path, in order from the origin."""

    name: str
    class_name: str
    max_isometric_force: float
    optimal_fiber_length: float
    tendon_slack_length: float
    pennation_at_optimal: float
    max_contraction_velocity: float
    points: tuple[PathPoint, ...]
    wraps: tuple[PathWrap, ...]
    path_class: str = "GeometryPath"

    @property
    def bodies(self) -> tuple[str, ...]:
        """Every body that the path touches, wraps included, each once."""
        names = [point.body for point in self.points] + [use.wrap.body for use in self.wraps]
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True, eq=False)
class Multibody:
    """Bodies, and how coordinates move them; ``gravity`` (3,) in m/s^2. Joints come in order from the ground outwards.

    ``path`` is where it was read from, for messages.
    """

    name: str
    path: str
    gravity: np.ndarray
    bodies: tuple[Body, ...]
    joints: tuple[Joint, ...]
    coordinates: tuple[Coordinate, ...]
    couplers: tuple[Coupler, ...]

    def coordinate(self, name: str) -> Coordinate:
        """The coordinate called ``name``; InputError listing near names otherwise."""
        return _named(self.coordinates, name, "coordinate", self.path)

    def body(self, name: str) -> Body:
        """The body called ``name``; InputError listing near names otherwise."""
        return _named(self.bodies, name, "body", self.path)


@dataclass(frozen=True, eq=False)
class OsimModel(Multibody):
    """An OpenSim model as read."""

    credits: str
    publications: str
    wraps: tuple[Wrap, ...]
    muscles: tuple[Muscle, ...]
    skipped: tuple[str, ...] = ()

    def muscle(self, name: str) -> Muscle:
        """The muscle called ``name``; InputError listing near names otherwise."""
        return _named(self.muscles, name, "muscle", self.path)


_Part = TypeVar("_Part", Muscle, Coordinate, Body)


def _named(parts: tuple[_Part, ...], name: str, what: str, path: str) -> _Part:
    for part in parts:
        if part.name == name:
            return part
    raise InputError(f"{path}: no {what} {name!r}; {near(name, [part.name for part in parts])}")


def moving_part(model: Multibody, coordinates: Iterable[str]) -> Multibody:
    """The bodies that ``coordinates`` move, and every body between them and the ground.

    Coordinates of a joint that is kept are kept with it: those of the bodies between (a pelvis) can then be prescribed
    or locked at their defaults, without changing what the model is. A coordinate also moves what a coupling makes
    depend on it (a patella that hangs on the femur), and what a kept coordinate depends on is kept too.

    Raises:
        InputError: an unknown coordinate.
    """
    moving = {model.coordinate(name).name for name in coordinates}
    for _ in model.couplers:  # a chain of couplings is at most this long
        moving |= {coupler.dependent for coupler in model.couplers if moving & set(coupler.independent)}
    by_child = {joint.child.body: joint for joint in model.joints}
    kept: set[str] = set()
    for joint in model.joints:  # from the ground outwards: parents are decided before their children
        if moving & set(joint.coordinates) or joint.parent.body in kept:
            kept.add(joint.child.body)
    waiting = list(kept)
    while waiting:
        joint = by_child[waiting.pop()]
        needed = {c for k in model.couplers if k.dependent in joint.coordinates for c in k.independent}
        joints = {model.coordinate(name).joint for name in needed}
        names = {joint.parent.body, *(j.child.body for j in model.joints if j.name in joints)}
        new = names - kept - {"ground"}
        kept |= new
        waiting += new
    joints = tuple(joint for joint in model.joints if joint.child.body in kept)
    names = {name for joint in joints for name in joint.coordinates}
    return Multibody(
        name=model.name,
        path=model.path,
        gravity=model.gravity,
        bodies=tuple(body for body in model.bodies if body.name in kept),
        joints=joints,
        coordinates=tuple(coordinate for coordinate in model.coordinates if coordinate.name in names),
        couplers=tuple(coupler for coupler in model.couplers if coupler.dependent in names),
    )


def body_fixed_xyz(angles: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) ``Rx @ Ry @ Rz`` of body-fixed x-y-z angles in rad, OpenSim's orientation."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    rx = np.array([[1.0, 0.0, 0.0], [0.0, cx, -sx], [0.0, sx, cx]])
    ry = np.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
    rz = np.array([[cz, -sz, 0.0], [sz, cz, 0.0], [0.0, 0.0, 1.0]])
    return rx @ ry @ rz
