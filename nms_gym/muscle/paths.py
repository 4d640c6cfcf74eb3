"""Muscle paths straight from an OpenSim model: lengths and moment arms by direct geometry, no OpenSim needed.

A path runs in straight lines through its points (fixed, moving, or present only in a range of a coordinate) and over
cylinders, spheres, ellipsoids and tori (``nms_gym.muscle.wrapping`` says how over one of them). Moment arms are
``-d(length)/d(q)``, coupled coordinates (a patella) included, by central differences. Which points and surfaces are on
is held as it is at the pose itself, so that a difference never straddles a switch; contacts move. Everything is NumPy
over many poses at once: nothing has to be compiled, and a path is a matter of milliseconds.

Sources. Between which points a surface acts, and in which order surfaces are tried: OpenSim's
Simulation/Model/GeometryPath.cpp (``applyWrapObjects``). Departures:

* Over cylinders the contact is the exact geodesic. OpenSim places the contacts by a plane through an apex point; its
  lengths are up to 0.4 mm longer, and its moment arms (from forces at those points) differ from the derivative of its
  own lengths by up to 4.2 mm (glmax1 of the Rajagopal model). Ours are within 1.4 mm of that derivative at the same
  poses, and the derivative of our own lengths.
* Several surfaces on one muscle are iterated to convergence, where OpenSim stops once the length changes by less than
  0.5 mm.
* OpenSim 4.6's ``getLength`` with two active surfaces is often shorter than the path it describes (gaslat of the
  Rajagopal model: 7 mm over the poses of the tests; CORB of MoBL-ARMS: 45 mm), and over a cylinder for more than half a
  turn on its constrained side it counts a wrong angle. Its moment arms are right in both cases, and ours agree with
  them.
* A muscle that is forced around a torus in the wrong place can be metres long in OpenSim or have no length at all;
  ours follows the same rule, and the fit reports the jump.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nms_gym.anatomy import Muscle, OsimModel, PathPoint
from nms_gym.errors import InputError, listed
from nms_gym.muscle.wrapping import KINDS, METHODS, Surface, candidates, surface_of, wrap
from nms_gym.skeleton.functions import JointFunction, derivatives
from nms_gym.skeleton.tree import Tree, TreeJoint, build_function, build_tree, coordinate_columns

_CONDITION_MARGIN = 1e-5  # rad; ConditionalPathPoint::isActive widens its range by this on both sides
_SWEEPS, _SETTLED = 12, 1e-7  # alternations between the surfaces of one muscle, and the movement (m) that ends them
_AFTER_STEP = 3  # alternations after a step of the differences
_STEP = 1e-5  # rad, of the differences
_CHUNK = 1024  # poses at once: small enough to stay in cache

# Rotations (N, 3, 3) and translations (N, 3) to ground.
Transform = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class _Over:
    """One surface of a muscle: where it sits, and between which of the muscle's points it acts."""

    surface: Surface
    body: int
    rotation: np.ndarray
    translation: np.ndarray
    first: int
    last: int

    def frame(self, bodies: Sequence[Transform]) -> Transform:
        rotation, translation = bodies[self.body]
        return rotation @ self.rotation, rotation @ self.translation + translation


@dataclass(frozen=True, eq=False)
class _Course:
    """A muscle's points and surfaces, with indices into a tree's bodies and coordinates."""

    points: tuple[PathPoint, ...]
    bodies: tuple[int, ...]
    coordinates: tuple[tuple[int, ...], ...]
    functions: tuple[tuple[JointFunction, ...], ...]  # of moving points, else empty
    over: tuple[_Over, ...]


@dataclass(frozen=True, eq=False)
class _Placed:
    """A muscle's points (N, P, 3) and its surfaces' frames in ground."""

    points: np.ndarray
    frames: tuple[Transform, ...]


@dataclass
class _Wrapped:
    """Which surfaces are on, (N, W): the nodes before and after each, the contacts (N, W, 3) in its frame, and the
    length (N, W) in m between them.
    """

    order: np.ndarray  # (N, P + W) nodes in the order of the path: points first, then surfaces
    used: np.ndarray  # (N, P + W) bool, in that order
    on: np.ndarray
    before: np.ndarray
    after: np.ndarray
    entering: np.ndarray
    leaving: np.ndarray
    arc: np.ndarray

    def copy(self) -> _Wrapped:
        return replace(self, entering=self.entering.copy(), leaving=self.leaving.copy(), arc=self.arc.copy())


def sample_paths(
    model: OsimModel, muscles: Sequence[str], coordinates: Sequence[str], q: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lengths (N, M) in m and moment arms (N, D, M) at poses q (N, D), rad (m for translations); NumPy in and out.

    Coordinates that are not named keep their default values, dependent ones follow their constraints.

    Raises InputError for names that the model lacks, coordinates that depend on others, q of the wrong shape or not
    finite, and muscles whose path is not one of points and wraps.
    """
    return path_sampler(model, muscles, coordinates)(q)


def path_sampler(
    model: OsimModel, muscles: Sequence[str], coordinates: Sequence[str]
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """``sample_paths`` of these muscles as a function of q alone, prepared once.

    Raises:
        InputError: see ``sample_paths``; no muscle or coordinate; a muscle named twice.
    """
    columns = coordinate_columns(model, coordinates)
    chosen = [model.muscle(name) for name in muscles]
    if not chosen or not columns:
        missing = "coordinate" if chosen else "muscle"
        raise InputError(f"{model.path}: no {missing} was asked for; name at least one")
    if len(set(muscles)) != len(muscles):
        raise InputError(f"{model.path}: a muscle is named twice among {listed(muscles)}")
    for muscle in chosen:
        _check_supported(model, muscle)
    used = {name for muscle in chosen for point in muscle.points for name in point.coordinates}
    tree = build_tree(model, [body for muscle in chosen for body in muscle.bodies], used)
    courses = [_course(tree, muscle) for muscle in chosen]

    def sample(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q = np.asarray(q, dtype=np.float64)
        if q.ndim != 2 or q.shape[1] != len(coordinates):
            raise InputError(f"q has shape {q.shape}; expected (poses, {len(coordinates)}) for {listed(coordinates)}")
        if not np.all(np.isfinite(q)):
            row, column = (int(i) for i in np.argwhere(~np.isfinite(q))[0])
            raise InputError(
                f"q of {coordinates[column]!r} is {q[row, column]} in row {row}; all values must be finite"
            )
        lengths = np.empty((len(q), len(courses)))
        arms = np.zeros((len(q), len(columns), len(courses)))
        for start in range(0, len(q), _CHUNK):
            rows = slice(start, start + _CHUNK)
            lengths[rows], arms[rows] = _sample(tree, columns, courses, q[rows])
        return lengths, arms

    return sample


def _sample(
    tree: Tree, columns: Sequence[int], courses: Sequence[_Course], q: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lengths (N, M) and moment arms (N, D, M) at q (N, D)."""
    pose = _full_pose(tree, columns, q)
    bodies = _kinematics(tree, pose)
    beside = []
    for k in range(len(columns)):
        poses = [_full_pose(tree, columns, q + sign * _STEP * np.eye(len(columns))[k]) for sign in (1, -1)]
        beside.append([(moved, _kinematics(tree, moved)) for moved in poses])
    lengths = np.empty((len(q), len(courses)))
    arms = np.zeros((len(q), len(columns), len(courses)))
    for m, course in enumerate(courses):
        here = _placed(course, pose, bodies)
        if not course.over and not any(point.range for point in course.points):
            lengths[:, m] = _straight(here)
            for k, sides in enumerate(beside):
                moved = [_placed(course, *side) for side in sides]
                if not _still(here, moved[0]):
                    arms[:, k, m] = -(_straight(moved[0]) - _straight(moved[1])) / (2 * _STEP)
            continue
        state = _find(course, here, _keys(course, pose))
        lengths[:, m] = _length(here, state)
        for k, sides in enumerate(beside):
            moved = [_placed(course, *side) for side in sides]
            if _still(here, moved[0]) and _still(here, moved[1]):
                continue
            ends = []
            for there in moved:
                slid = state.copy()
                for _ in range(_AFTER_STEP if len(course.over) > 1 else len(course.over)):
                    _slide(course, there, slid)
                ends.append(_length(there, slid))
            arms[:, k, m] = -(ends[0] - ends[1]) / (2 * _STEP)
    return lengths, arms


def _course(tree: Tree, muscle: Muscle) -> _Course:
    index = {name: i for i, name in enumerate(tree.bodies)}
    column = {name: i for i, name in enumerate(tree.coordinates)}
    over = []
    for use in muscle.wraps:
        if use.wrap.active:
            surface, rotation = surface_of(use)
            over.append(_Over(surface, index[use.wrap.body], rotation, use.wrap.translation, use.first, use.last))
    return _Course(
        points=muscle.points,
        bodies=tuple(index[point.body] for point in muscle.points),
        coordinates=tuple(tuple(column[name] for name in point.coordinates) for point in muscle.points),
        functions=tuple(tuple(build_function(f) for f in point.functions) for point in muscle.points),
        over=tuple(over),
    )


def _check_supported(model: OsimModel, muscle: Muscle) -> None:
    advice = (
        "sample the paths with the real OpenSim (nms-gym fit-paths --sampler opensim, extra 'opensim') or give paths "
        "that were fitted before"
    )
    if muscle.path_problem:
        raise InputError(muscle.path_problem)
    if not muscle.points:
        raise InputError(
            f"{model.path}: muscle {muscle.name!r} has a {muscle.path_class} path, not a GeometryPath; {advice}"
        )
    for use in muscle.wraps:
        wrap = use.wrap
        if not wrap.active:
            continue
        if wrap.problem:
            raise InputError(wrap.problem)
        if wrap.kind not in KINDS:
            raise InputError(
                f"{model.path}: muscle {muscle.name!r} wraps over {wrap.name!r}, which is of kind {wrap.kind!r}; "
                f"direct geometry knows {listed(KINDS)}: {advice}"
            )
        if wrap.kind == "ellipsoid" and use.method not in METHODS:
            raise InputError(
                f"{model.path}: muscle {muscle.name!r} wraps over ellipsoid {wrap.name!r} by method {use.method!r}; "
                f"allowed are {listed(METHODS)}"
            )
        if wrap.kind == "cylinder" and wrap.quadrant in ("z", "-z"):
            raise InputError(
                f"{model.path}: muscle {muscle.name!r} wraps over cylinder {wrap.name!r} with quadrant "
                f"{wrap.quadrant!r}, along its axis; allowed are all, x, -x, y, -y: change the model, or {advice}"
            )


# ---------------------------------------------------------------------------------------------- where things are


def _full_pose(tree: Tree, columns: Sequence[int], q: np.ndarray) -> np.ndarray:
    """All coordinates (N, C); ``tree.full_pose`` in NumPy."""
    pose = np.repeat(np.asarray(tree.default, float)[None], len(q), axis=0)
    pose[:, list(columns)] = q
    for coupler in tree.couplers:
        pose[:, coupler.dependent] = derivatives(coupler.function, [pose[:, i] for i in coupler.independent], np)[0]
    return pose


def _kinematics(tree: Tree, pose: np.ndarray) -> list[Transform]:
    """Bodies in ground; ``tree.forward_kinematics`` in NumPy, for poses (N, C)."""
    count = len(pose)
    placed: list[Transform] = [(np.repeat(np.eye(3)[None], count, axis=0), np.zeros((count, 3)))] * len(tree.bodies)
    for joint in tree.joints:
        turn, shift = _joint(joint, pose)
        rotation, translation = placed[joint.parent]
        r = rotation @ joint.parent_rotation
        p = rotation @ joint.parent_translation + translation + np.einsum("nij,nj->ni", r, shift)
        r = r @ turn @ np.asarray(joint.child_rotation).T
        placed[joint.child] = (r, p - r @ joint.child_translation)
    return placed


def _joint(joint: TreeJoint, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    turn = np.repeat(np.eye(3)[None], len(pose), axis=0)
    for axis in joint.rotations:
        x, y, z = axis.direction
        skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        angle = _value(axis.function, pose, axis.coordinates)[:, None, None]
        turn = turn @ (np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * (skew @ skew))
    shift = np.zeros((len(pose), 3))
    for axis in joint.translations:
        shift = shift + _value(axis.function, pose, axis.coordinates)[:, None] * axis.direction
    return turn, shift


def _value(function: JointFunction, pose: np.ndarray, coordinates: Sequence[int]) -> np.ndarray:
    value = derivatives(function, [pose[:, i] for i in coordinates], np)[0]
    return np.broadcast_to(value, len(pose))


def _placed(course: _Course, pose: np.ndarray, bodies: Sequence[Transform]) -> _Placed:
    """Where a muscle's points and surfaces are."""
    points = np.empty((len(pose), len(course.points), 3))
    for i, (point, body, functions) in enumerate(zip(course.points, course.bodies, course.functions, strict=True)):
        rotation, translation = bodies[body]
        if point.frame is not None:
            x = [_value(f, pose, [k]) for f, k in zip(functions, course.coordinates[i], strict=True)]
            fixed = np.stack(x, axis=1) @ point.frame.rotation.T + point.frame.translation
            points[:, i] = np.einsum("nij,nj->ni", rotation, fixed) + translation
        else:
            points[:, i] = (rotation.reshape(-1, 3) @ point.location).reshape(-1, 3) + translation
    return _Placed(points, tuple(over.frame(bodies) for over in course.over))


def _keys(course: _Course, pose: np.ndarray) -> np.ndarray:
    """Place (N, P) of each point on the path; infinity while it is switched off."""
    keys = np.repeat(np.arange(len(course.points), dtype=float)[None], len(pose), axis=0)
    for i, (point, used) in enumerate(zip(course.points, course.coordinates, strict=True)):
        if point.range is not None:
            value = pose[:, used[0]]
            low, high = point.range[0] - _CONDITION_MARGIN, point.range[1] + _CONDITION_MARGIN
            keys[(value < low) | (value > high), i] = np.inf
    return keys


def _still(here: _Placed, there: _Placed) -> bool:
    """Whether nothing of a muscle has moved (by far less than a step would move it)."""
    near = 1e-12
    same = np.abs(here.points - there.points).max() < near
    return bool(same) and all(
        np.abs(a - b).max() < near
        for one, other in zip(here.frames, there.frames, strict=True)
        for a, b in zip(one, other, strict=True)
    )


# ---------------------------------------------------------------------------------------------- which surfaces are on


def _local(x: np.ndarray, frame: Transform) -> np.ndarray:
    return np.einsum("nji,nj->ni", frame[0], x - frame[1])


def _ground(x: np.ndarray, frame: Transform) -> np.ndarray:
    return np.einsum("nij,nj->ni", frame[0], x) + frame[1]


def _nodes(placed: _Placed, contacts: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Points, then surfaces' contacts (N, W, 3), in ground: (N, P + W, 3)."""
    moved = [_ground(contacts[rows, j], (r[rows], t[rows]))[:, None] for j, (r, t) in enumerate(placed.frames)]
    return np.concatenate([placed.points[rows], *moved], axis=1)


def _find(course: _Course, placed: _Placed, keys: np.ndarray) -> _Wrapped:
    """Which surfaces the path lies over: the alternation of GeometryPath::applyWrapObjects, to convergence."""
    count, size, surfaces = *keys.shape, len(course.over)
    place = np.full((count, surfaces), np.inf)
    arc = np.zeros((count, surfaces))
    entering, leaving = np.zeros((2, count, surfaces, 3))
    rows = np.arange(count)
    for _ in range(_SWEEPS if surfaces > 1 else surfaces):
        moved = np.zeros(len(rows))
        for i, over in enumerate(course.over):
            rotation, translation = (part[rows] for part in placed.frames[i])
            without = np.concatenate([keys[rows], place[rows]], axis=1)
            without[:, size + i] = np.inf
            order = np.argsort(without, axis=1, kind="stable")
            sorted_keys = np.take_along_axis(without, order, axis=1)
            # A segment starts where the path leaves one node and ends where it reaches the next.
            starts = np.take_along_axis(_nodes(placed, leaving, rows), order[:, :-1, None], axis=1)
            ends = np.take_along_axis(_nodes(placed, entering, rows), order[:, 1:, None], axis=1)
            segment = np.nonzero((sorted_keys[:, :-1] >= over.first) & (sorted_keys[:, 1:] <= over.last))
            frame = rotation[segment[0]], translation[segment[0]]
            on, must, longer = candidates(over.surface, _local(starts[segment], frame), _local(ends[segment], frame))
            # The first segment that cuts the surface must wrap; otherwise the one that becomes the least longer.
            score = np.full(starts.shape[:2], np.inf)
            score[segment] = np.where(on, np.where(must, segment[1] - 1e6, longer), np.inf)
            best = np.argmin(score, axis=1)
            wraps = np.flatnonzero(np.isfinite(score[np.arange(len(rows)), best]))
            at = best[wraps]
            frame = rotation[wraps], translation[wraps]
            length, into, out = wrap(over.surface, _local(starts[wraps, at], frame), _local(ends[wraps, at], frame))
            contacts = np.zeros((2, len(rows), 3))
            contacts[:, wraps] = into, out
            for old, new in zip((entering, leaving), contacts, strict=True):
                moved = np.maximum(moved, np.abs(new - old[rows, i]).max(axis=1))
                old[rows, i] = new
            arc[rows, i], place[rows, i] = 0.0, np.inf
            arc[rows[wraps], i] = length
            place[rows[wraps], i] = (sorted_keys[wraps, at] + sorted_keys[wraps, at + 1]) / 2
        rows = rows[moved > _SETTLED]
        if not len(rows):
            break
    every = np.concatenate([keys, place], axis=1)
    order = np.argsort(every, axis=1, kind="stable")
    rank = np.argsort(order, axis=1)[:, size:]
    before = np.take_along_axis(order, np.maximum(rank - 1, 0), axis=1)
    after = np.take_along_axis(order, np.minimum(rank + 1, order.shape[1] - 1), axis=1)
    used = np.isfinite(np.take_along_axis(every, order, axis=1))
    return _Wrapped(order, used, np.isfinite(place), before, after, entering, leaving, arc)


def _slide(course: _Course, placed: _Placed, state: _Wrapped) -> None:
    """Bring the contacts of each surface that is on, one after the other, to where the nodes around it want them."""
    for i, over in enumerate(course.over):
        rows = np.flatnonzero(state.on[:, i])
        frame = placed.frames[i][0][rows], placed.frames[i][1][rows]
        each = np.arange(len(rows))
        start = _nodes(placed, state.leaving, rows)[each, state.before[rows, i]]
        end = _nodes(placed, state.entering, rows)[each, state.after[rows, i]]
        state.arc[rows, i], state.entering[rows, i], state.leaving[rows, i] = wrap(
            over.surface, _local(start, frame), _local(end, frame)
        )


def _straight(placed: _Placed) -> np.ndarray:
    """Length (N,) through all points."""
    apart = placed.points[:, 1:] - placed.points[:, :-1]
    return np.sqrt(np.einsum("nki,nki->nk", apart, apart)).sum(axis=1)


def _length(placed: _Placed, state: _Wrapped) -> np.ndarray:
    """Length (N,) of the straight parts between the nodes, and of the arcs between each surface's contacts."""
    reached = np.take_along_axis(_nodes(placed, state.entering), state.order[..., None], axis=1)
    left = np.take_along_axis(_nodes(placed, state.leaving), state.order[..., None], axis=1)
    apart = reached[:, 1:] - left[:, :-1]
    straight = np.where(state.used[:, 1:], np.sqrt(np.einsum("nki,nki->nk", apart, apart)), 0.0)
    return straight.sum(axis=1) + state.arc.sum(axis=1)


# ---------------------------------------------------------------------------------------------- which muscles


def without_direct_path(model: OsimModel, muscles: Sequence[str], coordinates: Sequence[str]) -> dict[str, str]:
    """Muscles that ``path_sampler`` refuses, each with the reason; a wrong coordinate is an InputError all the same."""
    coordinate_columns(model, coordinates)
    found = {}
    for name in muscles:
        muscle = model.muscle(name)
        try:
            _check_supported(model, muscle)
            build_tree(model, muscle.bodies, {c for point in muscle.points for c in point.coordinates})
        except InputError as error:
            found[name] = str(error)
    return found


def muscles_crossing(model: OsimModel, coordinates: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Which muscles cross each coordinate, by topology: {coordinate: muscles in the model's order}.

    A muscle crosses a joint when its path (points and wraps) touches bodies on both sides of it. It crosses a
    coordinate when it crosses a joint that the coordinate drives, directly or through a constraint (the knee angle
    drives the patella), or when one of its points moves or switches with the coordinate.

    Raises InputError for unknown, repeated or dependent coordinates.
    """
    coordinate_columns(model, coordinates)
    parent = {joint.child.body: joint.parent.body for joint in model.joints}

    def chain(body: str) -> list[str]:
        return [body, *chain(parent[body])] if body in parent else [body]

    above = {body: set(chain(body)) for body in (*parent, "ground")}
    crossing = {}
    for name in coordinates:
        driven = {name}
        for _ in model.couplers:
            driven |= {c.dependent for c in model.couplers if driven & set(c.independent)}
        moved = [joint.child.body for joint in model.joints if driven & set(joint.coordinates)]
        crossing[name] = tuple(
            muscle.name
            for muscle in model.muscles
            if any(len({body in above[touched] for touched in muscle.bodies}) == 2 for body in moved)
            or any(driven & set(point.coordinates) for point in muscle.points)
        )
    return crossing
