"""Muscle paths straight from an OpenSim model: lengths and moment arms by direct geometry, no OpenSim needed.

A path runs in straight lines through its points (fixed, moving, or present only in a range of a coordinate) and over
cylinders. Lengths are differentiable, and moment arms are their derivatives, ``-d(length)/d(q)``, with coupled
coordinates (a patella) included.

Sources. Which segment a cylinder acts on, on which side, and when: OpenSim's Simulation/Wrap/WrapCylinder.cpp
(``wrapLine``) and Simulation/Model/GeometryPath.cpp (``applyWrapObjects``). Departures:

* The contact is the exact geodesic: two tangents and a helix are one straight line on the unrolled cylinder, so a
  wrapped segment has length ``sqrt((t1 + R theta + t2)^2 + dz^2)``. OpenSim places the contacts by a plane through
  an apex point; its lengths are up to 0.4 mm longer, and its moment arms (from forces at those points) differ from
  the derivative of its own lengths by up to 4.2 mm (glmax1 of the Rajagopal model). Ours are within 1.4 mm of that
  derivative at the same poses, and exactly the derivative of our own lengths.
* Several wraps on one muscle are iterated to convergence, where OpenSim stops once the length changes by less than
  0.5 mm. With the contacts of neighbouring wraps held fixed in their bodies the gradient is exact all the same: at
  the shortest path the length does not change to first order when a contact slides (envelope theorem).
* OpenSim 4.6's ``getLength`` with two active cylinders is shorter than the path it describes (gaslat of the Rajagopal
  model: 7 mm over the poses of the tests), and over a cylinder for more than half a turn on its constrained side it
  counts a wrong angle. Its moment arms are right in both cases, and ours agree with them.

Ellipsoids, spheres and tori are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nms_gym._pytree import pytree, static
from nms_gym.anatomy import Muscle, OsimModel, PathPoint, Wrap, body_fixed_xyz
from nms_gym.errors import InputError, listed
from nms_gym.skeleton.tree import (
    JointFunction,
    Tree,
    as_dtype,
    build_function,
    build_tree,
    coordinate_columns,
    forward_kinematics,
    full_pose,
    function_value,
)

_CONDITION_MARGIN = 1e-5  # rad; ConditionalPathPoint::isActive widens its range by this on both sides
_WRAP_SWEEPS = 12  # alternations between the wraps of one muscle; contacts then move by less than 1e-6 m
_CHUNK = 256  # poses per call of the compiled program: small enough to stay in cache


# ---------------------------------------------------------------------------------------------- structure


@pytree
class MovingPoint:
    """A path point that slides in its body: three functions of coordinates, in a frame fixed in the body."""

    functions: tuple[JointFunction, ...]
    rotation: Any  # (3, 3)
    translation: Any  # (3,)
    muscle: int = static()
    point: int = static()
    coordinates: tuple[int, ...] = static()


@pytree
class Cylinders:
    """W cylinders per muscle (M, W, ...): where they are, and between which points (indices) they act.

    The local z is the axis; ``constrained`` ones were turned so that paths must keep to the side x > 0.
    """

    body: Any  # (M, W) index into the tree's bodies
    rotation: Any  # (M, W, 3, 3)
    translation: Any  # (M, W, 3) m
    radius: Any  # (M, W) m
    half_length: Any  # (M, W) m
    constrained: Any  # (M, W) bool
    first: Any  # (M, W)
    last: Any  # (M, W)


@pytree
class PathGroup:
    """M muscles with the same number of wraps; their points padded to the longest path P."""

    body: Any  # (M, P) index into the tree's bodies
    location: Any  # (M, P, 3) m in the body
    present: Any  # (M, P) bool, False for padding
    condition: Any  # (M, P) coordinate index
    low: Any  # (M, P) rad, -inf for points that are always there
    high: Any  # (M, P) rad
    moving: tuple[MovingPoint, ...]
    cylinders: Cylinders
    wraps: int = static()
    conditional: bool = static()


@pytree
class DirectPaths:
    """Everything that lengths need. ``order`` brings the groups' muscles back to the order of ``muscles``."""

    tree: Tree
    groups: tuple[PathGroup, ...]
    muscles: tuple[str, ...] = static()
    coordinates: tuple[str, ...] = static()
    columns: tuple[int, ...] = static()
    order: tuple[int, ...] = static()


def build_paths(model: OsimModel, muscles: Sequence[str], coordinates: Sequence[str]) -> DirectPaths:
    """Prepare the paths of ``muscles`` as functions of ``coordinates``; the others stay at their defaults.

    Raises InputError for unknown, repeated or dependent names, and for muscles whose path is not one of points and
    cylinders (the message names muscle and wrap, and what to do).
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
    points = [point for muscle in chosen for point in muscle.points]
    used = {name for point in points for name in point.coordinates}
    tree = build_tree(model, [body for muscle in chosen for body in muscle.bodies], used)
    groups: dict[tuple[int, bool], list[int]] = {}
    for i, muscle in enumerate(chosen):
        wraps = sum(use.wrap.active for use in muscle.wraps)
        conditional = any(point.kind == "conditional" for point in muscle.points)
        groups.setdefault((wraps, conditional), []).append(i)
    placed = [i for members in groups.values() for i in members]
    return DirectPaths(
        tree=tree,
        groups=tuple(
            _group(tree, [chosen[i] for i in members], wraps, conditional)
            for (wraps, conditional), members in groups.items()
        ),
        muscles=tuple(muscles),
        coordinates=tuple(coordinates),
        columns=columns,
        order=tuple(int(i) for i in np.argsort(placed)),
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
        if wrap.kind != "cylinder":
            raise InputError(
                f"{model.path}: muscle {muscle.name!r} wraps over {wrap.name!r}, which is of kind {wrap.kind!r}; "
                f"direct geometry knows cylinders only: {advice}"
            )
        if wrap.quadrant in ("z", "-z"):
            raise InputError(
                f"{model.path}: muscle {muscle.name!r} wraps over cylinder {wrap.name!r} with quadrant "
                f"{wrap.quadrant!r}, along its axis; allowed are all, x, -x, y, -y: change the model, or {advice}"
            )


def _group(tree: Tree, muscles: list[Muscle], wraps: int, conditional: bool) -> PathGroup:
    count, size = len(muscles), max(len(muscle.points) for muscle in muscles)
    index = {name: i for i, name in enumerate(tree.bodies)}
    column = {name: i for i, name in enumerate(tree.coordinates)}
    body = np.zeros((count, size), int)
    location = np.zeros((count, size, 3))
    present = np.zeros((count, size), bool)
    condition = np.zeros((count, size), int)
    low, high = np.full((count, size), -np.inf), np.full((count, size), np.inf)
    moving = []
    for m, muscle in enumerate(muscles):
        for p, point in enumerate(muscle.points):
            body[m, p], location[m, p], present[m, p] = index[point.body], point.location, True
            if point.range is not None:
                condition[m, p] = column[point.coordinates[0]]
                low[m, p], high[m, p] = point.range[0] - _CONDITION_MARGIN, point.range[1] + _CONDITION_MARGIN
            if point.frame is not None:
                moving.append(_moving(point, m, p, column))
    return PathGroup(
        body,
        location,
        present,
        condition,
        low,
        high,
        tuple(moving),
        _cylinders(index, muscles, wraps),
        wraps,
        conditional,
    )


def _moving(point: PathPoint, muscle: int, place: int, column: dict[str, int]) -> MovingPoint:
    assert point.frame is not None
    return MovingPoint(
        functions=tuple(build_function(function) for function in point.functions),
        rotation=point.frame.rotation,
        translation=point.frame.translation,
        muscle=muscle,
        point=place,
        coordinates=tuple(column[name] for name in point.coordinates),
    )


def _cylinders(index: dict[str, int], muscles: list[Muscle], count: int) -> Cylinders:
    uses = [[use for use in muscle.wraps if use.wrap.active] for muscle in muscles]

    def table(value: Any, *shape: int, dtype: type = float) -> np.ndarray:
        values = [[value(use) for use in row] for row in uses]
        return np.array(values, dtype).reshape(len(muscles), count, *shape)

    return Cylinders(
        body=table(lambda use: index[use.wrap.body], dtype=int),
        rotation=table(lambda use: use.wrap.rotation @ _to_positive_x(use.wrap), 3, 3),
        translation=table(lambda use: use.wrap.translation, 3),
        radius=table(lambda use: use.wrap.radius),
        half_length=table(lambda use: use.wrap.length / 2),
        constrained=table(lambda use: use.wrap.quadrant != "all", dtype=bool),
        first=table(lambda use: use.first, dtype=int),
        last=table(lambda use: use.last, dtype=int),
    )


def _to_positive_x(wrap: Wrap) -> np.ndarray:
    """Turn about the axis that brings the side the path must keep to onto x > 0."""
    quarter = {"all": 0, "x": 0, "y": 1, "-x": 2, "-y": 3}[wrap.quadrant]
    return np.round(body_fixed_xyz(np.array([0.0, 0.0, quarter * np.pi / 2])))


# ---------------------------------------------------------------------------------------------- lengths


def path_lengths(paths: DirectPaths, q: jax.Array) -> jax.Array:
    """Lengths (M,) in m of the musculotendon paths at one pose q (D,) in rad; differentiable.

    The derivative is one-sided at a kink (a path touching or leaving a cylinder, a point switching on or off) and
    never NaN. A path that jumps there has no derivative in q at the jump.
    """
    pose = full_pose(paths.tree, paths.columns, q)
    bodies = forward_kinematics(paths.tree, pose)
    lengths = [_group_lengths(as_dtype(group, q.dtype), pose, bodies) for group in paths.groups]
    return jnp.concatenate(lengths)[np.array(paths.order)]


def lengths_and_moment_arms(paths: DirectPaths, q: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Lengths (M,) in m and moment arms (D, M) in m (m/m for a translation) at one pose q (D,).

    Moment arm = -d(length)/d(q), forward mode: the derivative of the very length that is returned.
    """

    def twice(q: jax.Array) -> tuple[jax.Array, jax.Array]:
        lengths = path_lengths(paths, q)
        return lengths, lengths

    jacobian, lengths = jax.jacfwd(twice, has_aux=True)(q)
    return lengths, -jacobian.T


def _group_lengths(group: PathGroup, pose: jax.Array, bodies: tuple[jax.Array, jax.Array]) -> jax.Array:
    rotation, translation = bodies
    location = group.location
    for point in group.moving:
        x = [function_value(f, pose[i][None]) for f, i in zip(point.functions, point.coordinates, strict=True)]
        fixed = point.rotation @ jnp.stack(x) + point.translation
        location = location.at[point.muscle, point.point].set(fixed)
    points = jnp.einsum("mpij,mpj->mpi", rotation[group.body], location) + translation[group.body]
    present = group.present
    if group.conditional:
        value = pose[group.condition]
        present = present & (value >= group.low) & (value <= group.high)
    place = jnp.arange(present.shape[1], dtype=pose.dtype)
    keys = jnp.where(present, place[None, :], jnp.inf)
    if not group.wraps:
        return jax.vmap(_straight_length)(points, keys)
    cylinders = group.cylinders
    of_body = rotation[cylinders.body]
    frame = (
        jnp.einsum("mwij,mwjk->mwik", of_body, cylinders.rotation),
        jnp.einsum("mwij,mwj->mwi", of_body, cylinders.translation) + translation[cylinders.body],
    )
    return jax.vmap(_wrapped_length)(points, keys, cylinders, *frame)


def _straight_length(points: jax.Array, keys: jax.Array) -> jax.Array:
    """Length through the points (P, 3) whose key (P,) is finite, in the order of the keys."""
    order = jnp.argsort(keys)
    points, used = points[order], jnp.isfinite(keys[order])
    return jnp.sum(jnp.where(used[1:], _norm(points[1:] - points[:-1]), 0))


def _wrapped_length(
    points: jax.Array, keys: jax.Array, cylinders: Cylinders, rotation: jax.Array, translation: jax.Array
) -> jax.Array:
    """Length of one muscle's path over W cylinders at ``rotation`` (W, 3, 3), ``translation`` (W, 3) in ground.

    First ``_find_wraps`` decides, without gradient, which cylinders are on, where in the path, turning which way, and
    where the path leaves each. Then each wrapped segment runs from the node before the cylinder (for a cylinder before
    it, the contact where the path leaves that, fixed to it) to the node after (for a cylinder after it, the contact
    where the path leaves this one, fixed to this one).
    """
    frozen = jax.lax.stop_gradient((points, keys, cylinders, rotation, translation))
    place, turn, leaving = _find_wraps(*frozen)
    count = points.shape[0]
    contacts = jnp.einsum("wij,wj->wi", rotation, leaving) + translation
    nodes = jnp.concatenate([points, contacts])
    node_keys = jnp.concatenate([keys, place])
    order = jnp.argsort(node_keys)
    used = jnp.isfinite(node_keys[order])
    is_wrap = order >= count
    straight = used[1:] & ~is_wrap[1:] & ~is_wrap[:-1]
    sorted_nodes = nodes[order]
    length = jnp.sum(jnp.where(straight, _norm(sorted_nodes[1:] - sorted_nodes[:-1]), 0))
    # The segment after a cylinder is measured from its leaving contact by the next cylinder, or within its own wrap.
    rank = jnp.argsort(order)[count:]
    before = sorted_nodes[jnp.clip(rank - 1, 0)]
    after_rank = jnp.clip(rank + 1, None, order.shape[0] - 1)
    start = jnp.einsum("wji,wj->wi", rotation, before - translation)
    end = jnp.einsum("wji,wj->wi", rotation, sorted_nodes[after_rank] - translation)
    end = jnp.where(is_wrap[after_rank][:, None], leaving, end)
    wrapped = jax.vmap(_geodesic)(start, end, cylinders.radius, turn)
    return length + jnp.sum(jnp.where(jnp.isfinite(place), wrapped, 0))


def _find_wraps(
    points: jax.Array, keys: jax.Array, cylinders: Cylinders, rotation: jax.Array, translation: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where the W cylinders lie on the path: the alternation of GeometryPath::applyWrapObjects, to convergence.

    Returns place (W,), a key between those of the nodes around it (inf when the path misses the cylinder); turn (W,),
    +1 counter-clockwise about the axis, -1 clockwise; leaving (W, 3), the last contact in the cylinder's frame.
    """
    count = rotation.shape[0]

    def sweep(state: tuple[jax.Array, ...], i: int) -> tuple[jax.Array, ...]:
        place, turn, entering, leaving = state
        node_keys = jnp.concatenate([keys, place.at[i].set(jnp.inf)])
        order = jnp.argsort(node_keys)
        node_keys = node_keys[order]
        # A segment starts where the path leaves one node and ends where it reaches the next.
        starts = jnp.concatenate([points, _to_ground(leaving, rotation, translation)])[order][:-1]
        ends = jnp.concatenate([points, _to_ground(entering, rotation, translation)])[order][1:]
        allowed = (node_keys[:-1] >= cylinders.first[i]) & (node_keys[1:] <= cylinders.last[i])
        start = (starts - translation[i][None]) @ rotation[i]
        end = (ends - translation[i][None]) @ rotation[i]
        on, must, direction, into, out = jax.vmap(_wrap_segment, in_axes=(0, 0, None, None, None))(
            start, end, cylinders.radius[i], cylinders.half_length[i], cylinders.constrained[i]
        )
        on = on & allowed
        # The first segment that cuts the cylinder must wrap; otherwise the one that becomes the least longer.
        longer = jax.vmap(_geodesic, in_axes=(0, 0, None, 0))(start, end, cylinders.radius[i], direction)
        longer = longer - _norm(end - start)
        rank = jnp.arange(on.shape[0], dtype=longer.dtype)
        best = jnp.argmin(jnp.where(on, jnp.where(must, rank - 1e6, longer), jnp.inf))
        between = (node_keys[:-1][best] + node_keys[1:][best]) / 2
        return (
            place.at[i].set(jnp.where(jnp.any(on), between, jnp.inf)),
            turn.at[i].set(direction[best]),
            entering.at[i].set(into[best]),
            leaving.at[i].set(out[best]),
        )

    def sweeps(_: Any, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        for i in range(count):
            state = sweep(state, i)
        return state

    dtype = points.dtype
    state = (
        jnp.full(count, jnp.inf, dtype),
        jnp.ones(count, dtype),
        jnp.zeros((count, 3), dtype),
        jnp.zeros((count, 3), dtype),
    )
    state = sweeps(None, state) if count == 1 else jax.lax.fori_loop(0, _WRAP_SWEEPS, sweeps, state)
    place, turn, _, leaving = state
    return place, turn, leaving


def _to_ground(x: jax.Array, rotation: jax.Array, translation: jax.Array) -> jax.Array:
    return jnp.einsum("wij,wj->wi", rotation, x) + translation


# ---------------------------------------------------------------------------------------------- one cylinder


def _wrap_segment(
    start: jax.Array, end: jax.Array, radius: jax.Array, half_length: jax.Array, constrained: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Does the segment start-end, in the cylinder's frame, wrap? WrapCylinder.cpp, ``wrapLine``.

    Returns on () bool; must () bool, a straight line through the cylinder; turn (), +1 or -1; and the contacts (3,)
    where the path meets and leaves the surface.
    """
    a, b = start[:2], end[:2]
    outside = (jnp.sum(a * a) >= radius**2) & (jnp.sum(b * b) >= radius**2)
    line = b - a
    square = jnp.sum(line * line)
    # Nearest point of the line to the axis; a line along the axis has none and never cuts.
    along = -jnp.sum(a * line) / jnp.where(square > 0, square, 1)
    nearest = a + along * line
    cuts = (square > 0) & (along > 0) & (along < 1) & (jnp.sum(nearest * nearest) < radius**2)

    one_on_side = (a[0] >= 0) | (b[0] >= 0)
    must = cuts & (one_on_side | ~constrained)
    crosses_behind = ((a[0] >= 0) != (b[0] >= 0)) & (nearest[0] < 0)
    wraps = outside & jnp.where(constrained, ~one_on_side | cuts | crosses_behind, cuts)

    # Contacts for both senses of turning. Free: the shorter way round. Constrained: the contacts on the side x > 0.
    ccw, cw = jnp.ones_like(radius), -jnp.ones_like(radius)
    (a_ccw, b_ccw), (a_cw, b_cw) = _contacts(start, end, radius, ccw), _contacts(start, end, radius, cw)
    a_in, a_in_cw, b_in_cw, b_in = a_ccw[0] >= 0, a_cw[0] >= 0, b_cw[0] >= 0, b_ccw[0] >= 0
    wider = jnp.sum(a_ccw[:2] * b_ccw[:2]) < jnp.sum(a_cw[:2] * b_cw[:2])  # angle between contacts, alpha > beta
    neither = jnp.where(b_in_cw, False, jnp.where(b_in, True, wider))
    take_ccw = jnp.where(a_in & a_in_cw, ~b_in_cw, jnp.where(a_in, True, jnp.where(a_in_cw, False, neither)))
    shorter_ccw = a[0] * b[1] - a[1] * b[0] >= 0
    turn = jnp.where(jnp.where(constrained, take_ccw, shorter_ccw), ccw, cw)
    into, out = jnp.where(turn > 0, a_ccw, a_cw), jnp.where(turn > 0, b_ccw, b_cw)
    beyond = (jnp.abs(into[2]) > half_length) & (jnp.abs(out[2]) > half_length)
    return wraps & ~beyond, must, turn, into, out


def _unroll(
    start: jax.Array, end: jax.Array, radius: jax.Array, turn: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Tangent lengths of start and end seen along the axis, the angle between the contacts, and contact angles."""
    t1, t2 = (_root(jnp.sum(x[:2] * x[:2]) - radius**2) for x in (start, end))
    first = jnp.arctan2(start[1], start[0]) + turn * jnp.arctan2(t1, radius)
    second = jnp.arctan2(end[1], end[0]) - turn * jnp.arctan2(t2, radius)
    # In [0, 2 pi), except that rounding just below zero stays there instead of becoming a full turn.
    slack = 1e-4
    theta = jnp.mod(turn * (second - first) + slack, 2 * jnp.pi) - slack
    return t1, t2, theta, first, second


def _contacts(start: jax.Array, end: jax.Array, radius: jax.Array, turn: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the geodesic from start to end meets and leaves the cylinder, (3,) each."""
    t1, t2, theta, first, second = _unroll(start, end, radius, turn)
    total = t1 + radius * theta + t2
    slope = (end[2] - start[2]) / jnp.where(total > 0, total, 1)
    into = jnp.stack([radius * jnp.cos(first), radius * jnp.sin(first), start[2] + slope * t1])
    out = jnp.stack([radius * jnp.cos(second), radius * jnp.sin(second), end[2] - slope * t2])
    return into, out


def _geodesic(start: jax.Array, end: jax.Array, radius: jax.Array, turn: jax.Array) -> jax.Array:
    """Length () of tangent, helix and tangent: one straight line on the unrolled cylinder."""
    t1, t2, theta, _, _ = _unroll(start, end, radius, turn)
    return _norm(jnp.stack([t1 + radius * theta + t2, end[2] - start[2]]))


def _norm(x: jax.Array) -> jax.Array:
    return _root(jnp.sum(x * x, axis=-1))


def _root(x: jax.Array) -> jax.Array:
    """Square root, 0 with gradient 0 at and below zero (the guard inside keeps NaN out of the gradient)."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


# ---------------------------------------------------------------------------------------------- sampling


@jax.jit
def _many(paths: DirectPaths, q: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.vmap(lengths_and_moment_arms, in_axes=(None, 0))(paths, q)


def sample_paths(
    model: OsimModel, muscles: Sequence[str], coordinates: Sequence[str], q: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lengths (N, M) in m and moment arms (N, D, M) at poses q (N, D), rad (m for translations); NumPy in and out.

    Coordinates that are not named keep their default values, dependent ones follow their constraints. Computed in
    float64 whatever JAX's global setting, which is left alone.

    Raises InputError for names that the model lacks, coordinates that depend on others, q of the wrong shape or not
    finite, and muscles with wraps other than cylinders.
    """
    return path_sampler(model, muscles, coordinates)(q)


def path_sampler(
    model: OsimModel, muscles: Sequence[str], coordinates: Sequence[str]
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """``sample_paths`` of these muscles as a function of q alone, prepared once.

    Raises:
        InputError: see ``sample_paths``.
    """
    with jax.enable_x64(True):
        paths = as_dtype(build_paths(model, muscles, coordinates), jnp.float64)

    def sample(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q = np.asarray(q, dtype=np.float64)
        if q.ndim != 2 or q.shape[1] != len(coordinates):
            raise InputError(f"q has shape {q.shape}; expected (poses, {len(coordinates)}) for {listed(coordinates)}")
        if not np.all(np.isfinite(q)):
            row, column = (int(i) for i in np.argwhere(~np.isfinite(q))[0])
            raise InputError(
                f"q of {coordinates[column]!r} is {q[row, column]} in row {row}; all values must be finite"
            )
        lengths = np.empty((len(q), len(muscles)))
        arms = np.empty((len(q), len(coordinates), len(muscles)))
        with jax.enable_x64(True):
            for start in range(0, len(q), _CHUNK):
                rows = q[start : start + _CHUNK]
                # One shape, one compilation: the last chunk is filled up with its own first pose.
                filled = np.concatenate([rows, np.repeat(rows[:1], _CHUNK - len(rows), axis=0)])
                length, arm = _many(paths, jnp.asarray(filled))
                lengths[start : start + len(rows)] = np.asarray(length)[: len(rows)]
                arms[start : start + len(rows)] = np.asarray(arm)[: len(rows)]
        return lengths, arms

    return sample


def without_direct_path(model: OsimModel, muscles: Sequence[str], coordinates: Sequence[str]) -> dict[str, str]:
    """Muscles that ``build_paths`` refuses, each with the reason; a wrong coordinate is an InputError all the same."""
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
