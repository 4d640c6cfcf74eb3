"""What an OpenSim model is made of: functions, bodies, joints, coordinates, couplings, muscles and their paths.

``Multibody`` is the part that moves; ``OsimModel`` adds the muscles.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
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


@dataclass(frozen=True)
class Multivariate:
    """``sum_p coefficients[p] prod_k x_k ** exponents[p][k]`` (MultivariatePolynomialFunction)."""

    coefficients: tuple[float, ...]
    exponents: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Unknown:
    """A function that cannot be computed; ``problem`` says which and why. It is refused where it is needed."""

    problem: str


Function = Linear | Polynomial | SimmSpline | PiecewiseLinear | Scaled | Multivariate | Unknown

ZERO = Linear((0.0,))
IDENTITY = Linear((1.0, 0.0))


def monomial_order(dimension: int, order: int) -> tuple[tuple[int, ...], ...]:
    """Exponents of a multivariate polynomial in OpenSim's order: sums up to ``order``, the last variable fastest.

    ``MultivariatePolynomial::generateCombinations`` in OpenSim/Common/MultivariatePolynomialFunction.cpp.
    """
    found: list[tuple[int, ...]] = [()]
    for _ in range(dimension):
        found = [(*begun, power) for begun in found for power in range(order - sum(begun) + 1)]
    return tuple(found)


# Outside these no muscle can be: N, m, m, rad, optimal fiber lengths per second.
MUSCLE_LIMITS: Mapping[str, tuple[float, float]] = {
    "max_isometric_force": (1e-6, 1e6),
    "optimal_fiber_length": (1e-4, 2.0),
    "tendon_slack_length": (1e-5, 2.0),
    "pennation_at_optimal": (0.0, 1.4),
    "max_contraction_velocity": (0.1, 100.0),
}


# ---------------------------------------------------------------------------------------------- model parts


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame fixed in ``body``: ``x_body = rotation @ x_frame + translation``, (3, 3) and (3,) in m."""

    body: str
    rotation: np.ndarray
    translation: np.ndarray


@dataclass(frozen=True, eq=False)
class Body:
    """Mass in kg, centre of mass in m and inertia (3, 3) about it in kg m^2, both in the body's frame.

    ``problem`` says why the body has no dynamics (an impossible inertia); it still has a place.
    """

    name: str
    mass: float
    mass_center: np.ndarray
    inertia: np.ndarray
    problem: str = ""


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
    ``problem`` says why the joint's motion is not known; what hangs on it then has no place.
    """

    name: str
    class_name: str
    parent: Frame
    child: Frame
    coordinates: tuple[str, ...]
    axes: tuple[TransformAxis, ...]
    problem: str = ""


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
    ``quadrant`` is 'all', or the side that paths must keep to: 'x', '-y', ... ``problem`` says why it cannot be used.
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
    problem: str = ""


@dataclass(frozen=True, eq=False)
class PathWrap:
    """A wrap used by one muscle, between path points ``first`` and ``last`` (indices from 0, inclusive)."""

    wrap: Wrap
    first: int
    last: int
    method: str


@dataclass(frozen=True, eq=False)
class Muscle:
    """A Hill muscle: N, m, rad, and optimal fiber lengths per second; its path, in order from the origin.

    ``problem`` says why it makes no force (a parameter that no muscle can have), ``path_problem`` why it has no path.
    A ``tendon_slack_length`` of 0 is a muscle without tendon.
    """

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
    problem: str = ""
    path_problem: str = ""

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


@dataclass(frozen=True)
class Skipped:
    """A part of an OpenSim model that is not modelled here, and what it acts on as far as the file says.

    kind 'constraint', 'force' (neither a muscle nor an actuator), 'actuator', 'loop' (a joint that closes one), or
    'muscle class' (the muscle is read, but what its class has beside OpenSim's own properties is not).
    ``reason`` says more where there is more to say.
    """

    kind: str
    class_name: str
    name: str
    bodies: tuple[str, ...] = ()
    coordinates: tuple[str, ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        what = {"loop": "joint", "muscle class": "muscle"}.get(self.kind, self.kind)
        why = {
            "loop": "closes a loop and is not modelled",
            "muscle class": "is of a class that is not known here, and read as any other muscle",
        }.get(self.kind, "is not modelled")
        return f"{what} {self.name!r} ({self.class_name}) {why}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True, eq=False)
class OsimModel(Multibody):
    """An OpenSim model as read."""

    credits: str
    publications: str
    wraps: tuple[Wrap, ...]
    muscles: tuple[Muscle, ...]
    skipped: tuple[Skipped, ...] = ()

    def muscle(self, name: str) -> Muscle:
        """The muscle called ``name``; InputError listing near names otherwise."""
        return _named(self.muscles, name, "muscle", self.path)

    @property
    def problems(self) -> tuple[str, ...]:
        """Why some parts cannot be used, each beginning with the file."""
        found = [*part_problems(self), *(wrap.problem for wrap in self.wraps)]
        found += [problem for muscle in self.muscles for problem in (muscle.path_problem, muscle.problem)]
        return tuple(dict.fromkeys(problem for problem in found if problem))


def part_problems(model: Multibody) -> tuple[str, ...]:
    """Why bodies, joints and couplings cannot be used, in this order; empty when all can."""
    found = [body.problem for body in model.bodies] + [joint.problem for joint in model.joints]
    found += [coupler.function.problem for coupler in model.couplers if isinstance(coupler.function, Unknown)]
    return tuple(problem for problem in found if problem)


class NotModelledWarning(UserWarning):
    """Parts of an OpenSim model that matter for what is computed are left out."""


def warn_not_modelled(model: Multibody, coordinates: Iterable[str], kinds: Iterable[str]) -> None:
    """Warn of what ``not_modelled`` finds, by name.

    Warns:
        NotModelledWarning: there are such parts.
    """
    parts = not_modelled(model, coordinates, kinds) if isinstance(model, OsimModel) else ()
    if parts:
        text = "; ".join(str(part) for part in parts[:8])
        more = f"; and {len(parts) - 8} more, see nms-gym inspect" if len(parts) > 8 else ""
        warnings.warn(f"{model.path}: {text}{more}", NotModelledWarning, stacklevel=3)


def not_modelled(
    model: OsimModel, coordinates: Iterable[str], kinds: Iterable[str] = ("constraint", "loop")
) -> tuple[Skipped, ...]:
    """Parts of these kinds that are left out, and act on what ``coordinates`` move.

    A part of which the file does not say what it acts on is counted.
    """
    kinds = tuple(kinds)
    moving = {model.coordinate(name).name for name in coordinates}
    for _ in model.couplers:
        moving |= {coupler.dependent for coupler in model.couplers if moving & set(coupler.independent)}
    moved: set[str] = set()
    for joint in model.joints:
        if moving & set(joint.coordinates) or joint.parent.body in moved:
            moved.add(joint.child.body)
    return tuple(
        part
        for part in model.skipped
        if part.kind in kinds
        and (moved & set(part.bodies) or moving & set(part.coordinates) or not (part.bodies or part.coordinates))
    )


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
