"""A skeleton at one state, as components: what the sweeps of dynamics need of coordinates, joints and bodies.

Every slide and turn of a joint is an elementary joint with displacement s = g(q): a coordinate, or a function of it
(the splines of a knee, a patella coupled to the knee angle), with s' = G q', s'' = G q'' + c, c = q' dG/dq q'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from nms_gym._pytree import pytree, static
from nms_gym.errors import InputError, listed
from nms_gym.skeleton.components import (
    NOWHERE,
    ZERO,
    Rotation,
    Symmetric,
    Vector,
    add,
    add_symmetric,
    apply,
    apply_back,
    apply_symmetric,
    cross,
    dot,
    join,
    matrix,
    on_axis,
    parallel_axis,
    scale,
    split,
    sub,
    symmetric,
    times,
    transposed,
    turn,
    unit,
    vector,
)
from nms_gym.skeleton.functions import as_dtype, derivatives
from nms_gym.skeleton.skeleton import Displacement, Link, Skeleton

# Links up to which a sweep may become one loop, and the derivative of a sweep.
_SMALL_TREE, _SMALL_TREE_DIFFERENTIATED = 8, 2

T = TypeVar("T")


@pytree
class BaseMotion:
    """Motion of the prescribed coordinates: q, qd, qdd (..., P), rad and m."""

    q: Any
    qd: Any
    qdd: Any


@pytree
class ExternalForces:
    """N forces on bodies, in ground axes: force (..., N, 3) N at point (..., N, 3) m, and torque (..., N, 3) N m."""

    force: Any
    point: Any
    torque: Any
    bodies: tuple[str, ...] = static()


class Signal(NamedTuple):
    """A scalar of the motion: s, its gains ds/dq by coordinate, s' and the part c of s'' that is not G q''."""

    value: Any
    gains: dict[int, Any]
    rate: Any
    curvature: Any


class Slide(NamedTuple):
    """Motion along ``direction``, in the axes of the link's parent turned by the link's rotation."""

    direction: Vector
    signal: Signal


class Turn(NamedTuple):
    """A fixed rotation, then one about coordinate axis ``axis``."""

    rotation: Rotation
    axis: int
    cosine: Any
    sine: Any
    signal: Signal

    def outward(self, a: Vector) -> Vector:
        """Components after the turn of a vector given by those before."""
        return turn(self.axis, self.cosine, -self.sine, apply_back(self.rotation, a))

    def inward(self, a: Vector) -> Vector:
        """Components before the turn of a vector given by those after."""
        return apply(self.rotation, turn(self.axis, self.cosine, self.sine, a))


class Moved(NamedTuple):
    """A link in its present place: a rotation and then an offset from its parent (-1: the ground), slides, turns."""

    parent: int
    rotation: Rotation
    offset: Vector
    slides: list[Slide]
    turns: list[Turn]


class Inertia(NamedTuple):
    """Mass, its first moment m c and its second moment (inertia) about the link's origin."""

    mass: Any
    first: Vector
    second: Symmetric

    def plus(self, other: Inertia) -> Inertia:
        """Both together."""
        return Inertia(self.mass + other.mass, add(self.first, other.first), add_symmetric(self.second, other.second))


class Pose(NamedTuple):
    """A link in ground: the columns of its rotation, and its origin."""

    columns: tuple[Vector, Vector, Vector]
    origin: Vector

    def to_ground(self, a: Vector) -> Vector:
        """Components in ground of a vector given in the link's axes."""
        x, y, z = (scale(value, column) for value, column in zip(a, self.columns, strict=True))
        return add(add(x, y), z)

    def from_ground(self, a: Vector) -> Vector:
        """Components in the link's axes of a vector given in ground."""
        return tuple(dot(column, a) for column in self.columns)  # type: ignore[return-value]


class State:
    """One call: its arguments as components of one dtype, and what the sweeps need of them.

    Coordinates are numbered with the D free ones first, then the P prescribed. Without qd, rates are ZERO.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        q: Any,
        qd: Any = None,
        qdd: Any = None,
        *,
        base: BaseMotion | None = None,
        external: ExternalForces | None = None,
        torque: Any = None,
        added: Any = None,
        in_parts: bool = False,
    ):
        q = jnp.asarray(q)
        self.dtype = q.dtype
        self.skeleton, given, self.external, added = as_dtype((skeleton, base, external, added), q.dtype)
        links = len(skeleton.links)
        self._storing = links > (_SMALL_TREE_DIFFERENTIATED if in_parts else _SMALL_TREE)
        names, others = skeleton.coordinates, skeleton.prescribed
        if others and base is None:
            raise InputError(f"the motion of {listed(others)} is missing; pass base=BaseMotion(q, qd, qdd)")
        if base is not None and not others:
            raise InputError("the skeleton has no prescribed coordinates; name them in make_skeleton(..., prescribed=)")
        self.free = len(names)
        vectors = [q, qd, qdd, torque, *jax.tree.leaves(given)]
        shapes = [jnp.shape(a)[:-1] for a in vectors if a is not None]
        shapes += [jnp.shape(a)[:-2] for a in jax.tree.leaves((self.external, added))]
        self.shape = jnp.broadcast_shapes(*shapes)
        prescribed = given or BaseMotion(None, None, None)
        self.q = self._split("q", q, names) + self._split("base.q", prescribed.q, others)
        self.qd = [ZERO] * len(self.q)
        self.qdd = [ZERO] * len(self.q)
        if qd is not None:  # a pose alone needs no rates
            self.qd = self._split("qd", qd, names) + self._split("base.qd", prescribed.qd, others)
            self.qdd = self._split("qdd", qdd, names) + self._split("base.qdd", prescribed.qdd, others)
        self.torque = self._split("torque", torque, names)
        self.added = None if added is None else split(added.reshape(*added.shape[:-2], self.free**2))
        self.gravity = vector(self.skeleton.gravity)
        self.signals = [
            Signal(s, {i: 1.0}, rate, ZERO) for i, (s, rate) in enumerate(zip(self.q, self.qd, strict=True))
        ]
        for coupler in self.skeleton.couplers:
            self.signals.append(_displace(coupler, self.signals))
        self.links = [self._move(link) for link in self.skeleton.links]
        self._poses: dict[int, Pose] = {-1: Pose((unit(0), unit(1), unit(2)), NOWHERE)}

    def _split(self, what: str, array: Any, names: Sequence[str]) -> list[Any]:
        if array is None:
            return [ZERO] * len(names)
        array = jnp.asarray(array, self.dtype)
        if array.ndim == 0 or array.shape[-1] != len(names):
            raise InputError(f"{what} has shape {array.shape}; expected (..., {len(names)}) for {listed(names)}")
        return list(split(array))

    def _move(self, link: Link) -> Moved:
        offset, slides, turns = vector(link.translation), [], []
        for slide in link.slides:
            direction = unit(slide.axis) if slide.direction is None else vector(slide.direction)
            signal = _displace(slide.displacement, self.signals)
            offset = add(offset, scale(signal.value, direction))
            slides.append(Slide(direction, signal))
        for item in link.turns:
            signal = _displace(item.displacement, self.signals)
            turns.append(Turn(matrix(item.rotation), item.axis, jnp.cos(signal.value), jnp.sin(signal.value), signal))
        return self.store(Moved(link.parent, matrix(link.rotation), offset, slides, turns))

    # -- arrays of results

    def stack(self, components: Sequence[Any]) -> jax.Array:
        """Array (..., n) of the batch shape."""
        return join(components, self.shape, self.dtype)

    def quotients(self, components: Sequence[Any], divisor: Any) -> jax.Array:
        """Array (..., n) of components over one divisor. XLA stores quotients instead of merging them into their uses.

        The divisor is written out once per component: division by a broadcast would become a product again.
        """
        return self.stack(components) / self.stack([divisor] * len(components))

    def store(self, values: T) -> T:
        """``values``, stored where the tree is large: a whole sweep would be a longer loop than XLA can take.

        Its loop emitter splits what has more than 2,000 operations into functions that call each other for every use.
        What varies over the batch is stored as one array, and so is, in reverse mode, its cotangent.
        """
        leaves, structure = jax.tree.flatten(values)
        own = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array) and leaf.shape == self.shape]
        if not self._storing or not own:
            return values
        one = jnp.exp(0.0 * jax.lax.stop_gradient(self.q[0]))  # not a constant to the compiler
        for i, value in zip(own, split(self.quotients([leaves[i] for i in own], one)), strict=True):
            leaves[i] = value
        return jax.tree.unflatten(structure, leaves)

    # -- links

    def active(self) -> list[bool]:
        """Links that some free coordinate moves, directly or through a link before."""
        found: list[bool] = []
        for link in self.links:
            own = any(i < self.free for part in (*link.slides, *link.turns) for i in part.signal.gains)
            found.append(own or (link.parent >= 0 and found[link.parent]))
        return found

    def acceleration(self, signal: Signal) -> Any:
        """s'' of a signal."""
        return sum((g * self.qdd[i] for i, g in signal.gains.items()), signal.curvature)

    def pose(self, link: int) -> Pose:
        """Where a link is in ground; -1 is the ground itself."""
        if link not in self._poses:
            moved = self.links[link]
            pose = _turned(self.pose(moved.parent), moved.rotation)
            pose = pose._replace(origin=add(pose.origin, pose.to_ground(moved.offset)))
            for item in moved.turns:
                pose = _turned(pose, item.rotation)
                i, j = (item.axis + 1) % 3, (item.axis + 2) % 3
                columns = list(pose.columns)
                columns[i] = add(scale(item.cosine, pose.columns[i]), scale(item.sine, pose.columns[j]))
                columns[j] = sub(scale(item.cosine, pose.columns[j]), scale(item.sine, pose.columns[i]))
                pose = pose._replace(columns=tuple(columns))
            self._poses[link] = self.store(pose)
        return self._poses[link]

    def velocities(self) -> list[tuple[Vector, Vector]]:
        """Angular velocity, and velocity of the origin, of each link in its own axes."""
        found: list[tuple[Vector, Vector]] = []
        for link in self.links:
            before = found[link.parent] if link.parent >= 0 else (NOWHERE, NOWHERE)
            spin, speed = (apply_back(link.rotation, a) for a in before)
            speed = add(speed, cross(spin, link.offset))
            for slide in link.slides:
                speed = add(speed, scale(slide.signal.rate, slide.direction))
            for item in link.turns:
                spin, speed = add(item.outward(spin), on_axis(item.axis, item.signal.rate)), item.outward(speed)
            found.append(self.store((spin, speed)))
        return found

    # -- bodies

    def inertias(self) -> list[Inertia]:
        """The bodies of each link as one."""
        found = [Inertia(ZERO, NOWHERE, (NOWHERE, NOWHERE))] * len(self.links)
        masses = split(self.skeleton.mass)
        for i, placement in enumerate(self.skeleton.placements):
            if placement.link >= 0:
                rotation = matrix(placement.rotation)
                center = apply(rotation, vector(self.skeleton.mass_center[i]))
                center = add(center, vector(placement.translation))
                first = scale(masses[i], center)
                second = apply_symmetric(rotation, symmetric(self.skeleton.inertia[i]))
                body = Inertia(masses[i], first, add_symmetric(second, parallel_axis(center, first)))
                found[placement.link] = found[placement.link].plus(body)
        return found

    def loads(self) -> list[tuple[Vector, Vector]]:
        """External force, and its moment about the origin, on each link in the link's axes."""
        loads = [(NOWHERE, NOWHERE)] * len(self.links)
        external = self.external
        if external is None:
            return loads
        for n, name in enumerate(external.bodies):
            link = self.skeleton.placement(name).link
            if link >= 0:
                pose = self.pose(link)
                force, point, torque = (vector(a[..., n, :]) for a in (external.force, external.point, external.torque))
                moment = add(torque, cross(sub(point, pose.origin), force))
                before = loads[link]
                loads[link] = add(before[0], pose.from_ground(force)), add(before[1], pose.from_ground(moment))
        return loads

    def kinetic_energy(self) -> Any:
        """J, of all links."""
        energy = ZERO
        for body, (spin, speed) in zip(self.inertias(), self.velocities(), strict=True):
            momentum = add(scale(body.mass, speed), scale(2.0, cross(spin, body.first)))
            energy = energy + 0.5 * (dot(speed, momentum) + dot(spin, times(body.second, spin)))
        return energy

    def potential_energy(self) -> Any:
        """J in gravity, of all links."""
        energy = ZERO
        for k, body in enumerate(self.inertias()):
            pose = self.pose(k)
            energy = energy - dot(self.gravity, add(scale(body.mass, pose.origin), pose.to_ground(body.first)))
        return energy


def _turned(pose: Pose, rotation: Rotation) -> Pose:
    if rotation is None:
        return pose
    return pose._replace(columns=tuple(pose.to_ground(column) for column in transposed(rotation)))


def _displace(displacement: Displacement, signals: Sequence[Signal]) -> Signal:
    """The displacement at the present motion: chain rule through its function."""
    sources = [signals[i] for i in displacement.signals]
    sign = displacement.sign
    if displacement.function is None:
        (source,) = sources
        if sign == 1.0:
            return source
        gains = {i: sign * g for i, g in source.gains.items()}
        return Signal(sign * source.value, gains, sign * source.rate, sign * source.curvature)
    value, slopes, second = derivatives(displacement.function, [source.value for source in sources])
    gains, rate, curvature = {}, ZERO, ZERO
    for source, slope in zip(sources, slopes, strict=True):
        slope = sign * slope
        for i, g in source.gains.items():
            gains[i] = gains[i] + slope * g if i in gains else slope * g
        rate = rate + slope * source.rate
        curvature = curvature + slope * source.curvature
    if isinstance(second, tuple):
        for i, a in enumerate(sources):
            for j, b in enumerate(sources):
                curvature = curvature + (sign * second[i][j]) * (a.rate * b.rate)
    elif second is not None:
        (source,) = sources
        curvature = curvature + (sign * second) * (source.rate * source.rate)
    return Signal(sign * value, gains, rate, curvature)
