"""Inverse and forward dynamics of a skeleton, differentiable, unrolled into elementwise arithmetic on components.

Every slide and turn of a joint is an elementary joint with displacement s = g(q): a coordinate, or a function of it
(the splines of a knee, a patella coupled to the knee angle), with s' = G q', s'' = G q'' + c, c = q' dG/dq q'. Forces of
elementary joints project onto coordinates as G^T.

Sources. Inverse dynamics: recursive Newton-Euler (Luh, Walker, Paul 1980, doi 10.1115/1.3149599); mass matrix:
composite rigid bodies (Walker, Orin 1982, doi 10.1115/1.3139699); both as in Featherstone, Rigid Body Dynamics
Algorithms (2008, doi 10.1007/978-1-4899-7560-7), chapters 5 and 6, in link frames, about the origin of each link;
gravity as an acceleration of the ground (5.3 there). Factorisation from the tips to the root, which keeps the zeros
of branches (6.5 there). Departure: the composite-body sweep carries one force per coordinate instead of one per
elementary joint, which yields G^T M G directly and costs no more for a joint of six coupled axes than for a hinge.

All functions take arrays (..., D) in the order of ``skeleton.coordinates``, rad and m, with any leading axes, and
compute in the dtype of q. Generalised forces are N m for angles, N for distances.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nms_gym._pytree import pytree, static
from nms_gym.errors import InputError, listed
from nms_gym.skeleton.components import (
    NOWHERE,
    ZERO,
    Symmetric,
    Vector,
    add,
    add_symmetric,
    apply,
    apply_back,
    apply_symmetric,
    column,
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
    turn_symmetric,
    unit,
    vector,
)
from nms_gym.skeleton.functions import as_dtype, derivatives
from nms_gym.skeleton.skeleton import Displacement, Skeleton
from nms_gym.skeleton.skeleton import make_skeleton as make_skeleton

_UNROLLED = 12  # coordinates up to which the mass matrix is factorised component by component


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


# ---------------------------------------------------------------------------------------------- public functions


def inverse_dynamics(
    skeleton: Skeleton,
    q: jax.Array,
    qd: jax.Array,
    qdd: jax.Array,
    *,
    external: ExternalForces | None = None,
    base: BaseMotion | None = None,
) -> jax.Array:
    """Generalised forces (..., D) that the joints must produce for the motion, external forces accounted for."""
    state = _State(skeleton, q, qd, qdd, base=base, external=external)
    return state.stack(_newton_euler(state))


def bias_forces(
    skeleton: Skeleton,
    q: jax.Array,
    qd: jax.Array,
    *,
    external: ExternalForces | None = None,
    base: BaseMotion | None = None,
) -> jax.Array:
    """Generalised forces (..., D) at zero acceleration: velocity products, gravity, base motion, external forces."""
    state = _State(skeleton, q, qd, base=base, external=external)
    return state.stack(_newton_euler(state))


def mass_matrix(skeleton: Skeleton, q: jax.Array, *, base: BaseMotion | None = None) -> jax.Array:
    """Mass matrix (..., D, D), symmetric and positive definite."""
    state = _State(skeleton, q, base=base)
    return _matrix(state, _composite_bodies(state))


def forward_dynamics(
    skeleton: Skeleton,
    q: jax.Array,
    qd: jax.Array,
    torque: jax.Array,
    *,
    external: ExternalForces | None = None,
    base: BaseMotion | None = None,
) -> jax.Array:
    """Accelerations (..., D) under generalised forces ``torque`` (..., D), gravity and external forces."""
    q = jnp.asarray(q)
    return _accelerations(*as_dtype((skeleton, q, qd, torque, external, base), q.dtype))


@jax.custom_jvp
def _accelerations(skeleton: Skeleton, q: Any, qd: Any, torque: Any, external: Any, base: Any) -> jax.Array:
    state = _State(skeleton, q, qd, base=base, external=external, torque=torque)
    bias = _newton_euler(state)
    return _solve(state, [state.torque[i] - bias[i] for i in range(state.free)])


@_accelerations.defjvp
def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[jax.Array, jax.Array]:
    """Inverse dynamics of the result is the torque whatever the arguments, so M dqdd = dtorque - dID at constant qdd.

    This is the derivative of the solution without differentiating the mass matrix and its factorisation.
    """
    qdd = _accelerations(*primals)

    def excess(skeleton: Skeleton, q: Any, qd: Any, torque: Any, external: Any, base: Any) -> jax.Array:
        return torque - inverse_dynamics(skeleton, q, qd, qdd, external=external, base=base)

    _, change = jax.jvp(excess, primals, tangents)
    skeleton, q, _, _, _, base = primals
    state = _State(skeleton, q, base=base)
    state.shape = change.shape[:-1]
    return qdd, _solve(state, list(split(change)))


def kinetic_energy(skeleton: Skeleton, q: jax.Array, qd: jax.Array, *, base: BaseMotion | None = None) -> jax.Array:
    """Kinetic energy (...) in J of all moving bodies."""
    state = _State(skeleton, q, qd, base=base)
    energy = ZERO
    for body, (spin, speed) in zip(state.link_bodies(), _velocities(state), strict=True):
        momentum = add(scale(body.mass, speed), scale(2.0, cross(spin, body.first)))
        energy = energy + 0.5 * (dot(speed, momentum) + dot(spin, times(body.second, spin)))
    return state.scalar(energy)


def potential_energy(skeleton: Skeleton, q: jax.Array, *, base: BaseMotion | None = None) -> jax.Array:
    """Potential energy (...) in J of all moving bodies in gravity, zero at the ground's origin."""
    state = _State(skeleton, q, base=base)
    energy = ZERO
    for body, (rotation, origin) in zip(state.link_bodies(), state.poses(), strict=True):
        moment = add(scale(body.mass, origin), _to_ground(rotation, body.first))
        energy = energy - dot(state.gravity, moment)
    return state.scalar(energy)


def point_positions(
    skeleton: Skeleton, q: jax.Array, body: str, point: Any, *, base: BaseMotion | None = None
) -> jax.Array:
    """Position (..., 3) m in ground of ``point`` (3,) m fixed in ``body``; InputError for a body that is not there."""
    state = _State(skeleton, q, base=base)
    placement = as_dtype(skeleton.placement(body), state.dtype)
    local = apply(matrix(placement.rotation), vector(jnp.asarray(point, state.dtype)))
    rotation, origin = state.pose(placement.link)
    return state.stack(add(origin, _to_ground(rotation, add(local, vector(placement.translation)))))


# ---------------------------------------------------------------------------------------------- kinematics


class _Signal(NamedTuple):
    """A scalar of the motion: s, its gains ds/dq by coordinate, s' and the part of s'' that is not G q''."""

    value: Any
    gains: dict[int, Any]
    rate: Any
    curvature: Any


class _Moved(NamedTuple):
    """A link's motion at the present pose: offset from the link before, slides, turns with cosine and sine."""

    offset: Vector
    slides: list[_Signal]
    turns: list[tuple[Any, Any, _Signal]]


class _Inertia(NamedTuple):
    """Mass, its first moment m c and its second moment (inertia) about the link's origin."""

    mass: Any
    first: Vector
    second: Symmetric


class _State:
    """One call: arguments as components in one dtype, and what several sweeps need of the pose."""

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
    ):
        q = jnp.asarray(q)
        self.dtype = q.dtype
        self.skeleton = skeleton = as_dtype(skeleton, q.dtype)
        self.external = None if external is None else as_dtype(external, q.dtype)
        self.free = len(skeleton.coordinates)
        given = self._base(base)
        arrays = [q, qd, qdd, torque, *(() if given is None else (given.q, given.qd, given.qdd))]
        shapes = [jnp.shape(a)[:-1] for a in arrays if a is not None]
        if self.external is not None:
            shapes += [jnp.shape(a)[:-2] for a in (self.external.force, self.external.point, self.external.torque)]
        self.shape = jnp.broadcast_shapes(*shapes)
        names, others = skeleton.coordinates, skeleton.prescribed
        self.q = self._split("q", q, names) + self._split("base.q", None if given is None else given.q, others)
        self.qdd = self._split("qdd", qdd, names)
        self.torque = self._split("torque", torque, names)
        if qd is None:  # a pose alone: velocities are nobody's business
            self.qd = [ZERO] * len(self.q)
        else:
            self.qd = self._split("qd", qd, names) + self._split("base.qd", given and given.qd, others)
        self.qdd += [ZERO] * len(others) if qd is None else self._split("base.qdd", given and given.qdd, others)
        self.gravity = vector(skeleton.gravity)
        self.signals = self._signals()
        self.moved = [self._move(link) for link in skeleton.links]
        self._poses: dict[int, tuple[tuple[Vector, Vector, Vector], Vector]] = {}
        self._bodies: list[_Inertia] | None = None

    def _base(self, base: BaseMotion | None) -> BaseMotion | None:
        names = self.skeleton.prescribed
        if names and base is None:
            raise InputError(f"the motion of the prescribed {listed(names)} is missing; pass base=BaseMotion(q, qd, qdd)")
        if not names and base is not None:
            raise InputError("the skeleton has no prescribed coordinates; name them in make_skeleton(..., prescribed=)")
        return None if base is None else as_dtype(base, self.dtype)

    def _split(self, what: str, array: Any, names: Sequence[str]) -> list[Any]:
        if array is None:
            return [ZERO] * len(names)
        array = jnp.asarray(array, self.dtype)
        if array.ndim == 0 or array.shape[-1] != len(names):
            raise InputError(f"{what} has shape {array.shape}; expected (..., {len(names)}) for {listed(names)}")
        return list(split(array))

    def stack(self, components: Sequence[Any]) -> jax.Array:
        return join(components, self.shape, self.dtype)

    def scalar(self, component: Any) -> jax.Array:
        return self.stack([component])[..., 0]

    def _signals(self) -> list[_Signal]:
        signals = [
            _Signal(value, {i: 1.0}, rate, ZERO) for i, (value, rate) in enumerate(zip(self.q, self.qd, strict=True))
        ]
        for coupler in self.skeleton.couplers:
            signals.append(_displace(coupler, signals))
        return signals

    def _move(self, link: Any) -> _Moved:
        offset = vector(link.translation)
        slides = []
        for slide in link.slides:
            signal = _displace(slide.displacement, self.signals)
            offset = add(offset, scale(signal.value, _direction(slide)))
            slides.append(signal)
        turns = []
        for item in link.turns:
            signal = _displace(item.displacement, self.signals)
            turns.append((jnp.cos(signal.value), jnp.sin(signal.value), signal))
        return _Moved(offset, slides, turns)

    def active(self) -> list[bool]:
        """Links that some free coordinate moves, directly or through a link before."""
        found: list[bool] = []
        for link, moved in zip(self.skeleton.links, self.moved, strict=True):
            signals = [*moved.slides, *(signal for _, _, signal in moved.turns)]
            own = any(i < self.free for signal in signals for i in signal.gains)
            found.append(own or (link.parent >= 0 and found[link.parent]))
        return found

    def acceleration(self, signal: _Signal) -> Any:
        return sum((g * self.qdd[i] for i, g in signal.gains.items()), signal.curvature)

    def pose(self, link: int) -> tuple[tuple[Vector, Vector, Vector], Vector]:
        """Columns of the rotation to ground, and the origin in ground, of a link."""
        if link < 0:
            return (unit(0), unit(1), unit(2)), NOWHERE
        if link not in self._poses:
            item, moved = self.skeleton.links[link], self.moved[link]
            columns, origin = self.pose(item.parent)
            columns = _compose(columns, item.rotation)
            origin = add(origin, _to_ground(columns, moved.offset))
            for step, (cosine, sine, _) in zip(item.turns, moved.turns, strict=True):
                columns = _compose(columns, step.rotation)
                i, j = (step.axis + 1) % 3, (step.axis + 2) % 3
                turned = list(columns)
                turned[i] = add(scale(cosine, columns[i]), scale(sine, columns[j]))
                turned[j] = sub(scale(cosine, columns[j]), scale(sine, columns[i]))
                columns = tuple(turned)
            self._poses[link] = columns, origin  # type: ignore[assignment]
        return self._poses[link]

    def poses(self) -> list[tuple[tuple[Vector, Vector, Vector], Vector]]:
        return [self.pose(i) for i in range(len(self.skeleton.links))]

    def link_bodies(self) -> list[_Inertia]:
        """The bodies of each link as one."""
        if self._bodies is None:
            none = _Inertia(ZERO, NOWHERE, (NOWHERE, NOWHERE))
            self._bodies = [none] * len(self.skeleton.links)
            for i, placement in enumerate(self.skeleton.placements):
                if placement.link >= 0:
                    body = self._body(i)
                    self._bodies[placement.link] = _join(self._bodies[placement.link], body)
        return self._bodies

    def _body(self, i: int) -> _Inertia:
        placement, mass = self.skeleton.placements[i], self.skeleton.mass[i]
        center = apply(matrix(placement.rotation), vector(self.skeleton.mass_center[i]))
        center = add(center, vector(placement.translation))
        first = scale(mass, center)
        about_center = apply_symmetric(matrix(placement.rotation), symmetric(self.skeleton.inertia[i]))
        return _Inertia(mass, first, add_symmetric(about_center, parallel_axis(center, first)))

    def external_loads(self) -> list[tuple[Vector, Vector]]:
        """Force and moment about its origin on each link, in the link's axes."""
        loads = [(NOWHERE, NOWHERE)] * len(self.skeleton.links)
        if self.external is None:
            return loads
        for n, name in enumerate(self.external.bodies):
            link = self.skeleton.placement(name).link
            if link < 0:
                continue
            columns, origin = self.pose(link)
            force, point, torque = (
                vector(a[..., n, :]) for a in (self.external.force, self.external.point, self.external.torque)
            )
            moment = add(torque, cross(sub(point, origin), force))
            before = loads[link]
            loads[link] = add(before[0], _from_ground(columns, force)), add(before[1], _from_ground(columns, moment))
        return loads


def _displace(displacement: Displacement, signals: Sequence[_Signal]) -> _Signal:
    """The displacement at the present motion: chain rule through its function."""
    sources = [signals[i] for i in displacement.signals]
    sign = displacement.sign
    if displacement.function is None:
        (source,) = sources
        if sign == 1.0:
            return source
        gains = {i: sign * g for i, g in source.gains.items()}
        return _Signal(sign * source.value, gains, sign * source.rate, sign * source.curvature)
    value, slopes, second = derivatives(displacement.function, [source.value for source in sources])
    gains, rate, curvature = {}, ZERO, ZERO
    for source, slope in zip(sources, slopes, strict=True):
        slope = sign * slope
        for i, g in source.gains.items():
            gains[i] = gains[i] + slope * g if i in gains else slope * g
        rate = rate + slope * source.rate
        curvature = curvature + slope * source.curvature
    if second is not None:
        (source,) = sources
        curvature = curvature + (sign * second) * (source.rate * source.rate)
    return _Signal(sign * value, gains, rate, curvature)


def _direction(slide: Any) -> Vector:
    return unit(slide.axis) if slide.direction is None else vector(slide.direction)


def _compose(columns: Any, rotation: Any) -> Any:
    """Columns of ``R @ rotation``, R given by its columns."""
    if rotation is None:
        return columns
    return tuple(_to_ground(columns, column) for column in transposed(matrix(rotation)))


def _to_ground(columns: tuple[Vector, Vector, Vector], a: Vector) -> Vector:
    return add(add(scale(a[0], columns[0]), scale(a[1], columns[1])), scale(a[2], columns[2]))


def _from_ground(columns: tuple[Vector, Vector, Vector], a: Vector) -> Vector:
    return dot(columns[0], a), dot(columns[1], a), dot(columns[2], a)


def _velocities(state: _State) -> list[tuple[Vector, Vector]]:
    """Angular velocity, and velocity of the origin, of each link in its own axes."""
    found: list[tuple[Vector, Vector]] = []
    for link, moved in zip(state.skeleton.links, state.moved, strict=True):
        spin, speed = found[link.parent] if link.parent >= 0 else (NOWHERE, NOWHERE)
        spin, speed = apply_back(matrix(link.rotation), spin), apply_back(matrix(link.rotation), speed)
        speed = add(speed, cross(spin, moved.offset))
        for slide, signal in zip(link.slides, moved.slides, strict=True):
            speed = add(speed, scale(signal.rate, _direction(slide)))
        for item, (cosine, sine, signal) in zip(link.turns, moved.turns, strict=True):
            spin, speed = apply_back(matrix(item.rotation), spin), apply_back(matrix(item.rotation), speed)
            spin, speed = (turn(item.axis, cosine, -sine, a) for a in (spin, speed))
            spin = add(spin, on_axis(item.axis, signal.rate))
        found.append((spin, speed))
    return found


# ---------------------------------------------------------------------------------------------- Newton-Euler


def _newton_euler(state: _State) -> list[Any]:
    """Generalised forces, one component per free coordinate."""
    links, moved, bodies, active = state.skeleton.links, state.moved, state.link_bodies(), state.active()
    motion: list[tuple[Vector, Vector, Vector]] = []  # angular velocity and acceleration, acceleration of the origin
    for link, at in zip(links, moved, strict=True):
        if link.parent >= 0:
            w, dw, a = (apply_back(matrix(link.rotation), v) for v in motion[link.parent])
        else:
            w, dw, a = NOWHERE, NOWHERE, apply_back(matrix(link.rotation), sub(NOWHERE, state.gravity))
        a = add(a, add(cross(dw, at.offset), cross(w, cross(w, at.offset))))
        for slide, signal in zip(link.slides, at.slides, strict=True):
            direction = _direction(slide)
            a = add(a, scale(state.acceleration(signal), direction))
            a = add(a, cross(w, scale(2.0 * signal.rate, direction)))
        for item, (cosine, sine, signal) in zip(link.turns, at.turns, strict=True):
            w, dw, a = (turn(item.axis, cosine, -sine, apply_back(matrix(item.rotation), v)) for v in (w, dw, a))
            spin = on_axis(item.axis, signal.rate)
            dw = add(add(dw, on_axis(item.axis, state.acceleration(signal))), cross(w, spin))
            w = add(w, spin)
        motion.append((w, dw, a))
    result = [ZERO] * state.free
    loads = state.external_loads()
    forces = [(sub(NOWHERE, f), sub(NOWHERE, n)) for f, n in loads]
    for k in reversed(range(len(links))):
        if not active[k]:
            continue
        link, at, body, (w, dw, a) = links[k], moved[k], bodies[k], motion[k]
        f = add(scale(body.mass, a), add(cross(dw, body.first), cross(w, cross(w, body.first))))
        n = add(times(body.second, dw), add(cross(w, times(body.second, w)), cross(body.first, a)))
        f, n = add(forces[k][0], f), add(forces[k][1], n)
        for item, (cosine, sine, signal) in zip(reversed(link.turns), reversed(at.turns), strict=True):
            _project(result, signal, n[item.axis])
            f, n = (apply(matrix(item.rotation), turn(item.axis, cosine, sine, v)) for v in (f, n))
        for slide, signal in zip(link.slides, at.slides, strict=True):
            _project(result, signal, dot(f, _direction(slide)))
        if link.parent >= 0 and active[link.parent]:
            n = add(n, cross(at.offset, f))
            before = forces[link.parent]
            forces[link.parent] = add(before[0], apply(matrix(link.rotation), f)), add(before[1], apply(matrix(link.rotation), n))
    return result


def _project(result: list[Any], signal: _Signal, force: Any) -> None:
    for i, gain in signal.gains.items():
        if i < len(result):
            result[i] = result[i] + gain * force


# ---------------------------------------------------------------------------------------------- composite bodies


def _join(a: _Inertia, b: _Inertia) -> _Inertia:
    return _Inertia(a.mass + b.mass, add(a.first, b.first), add_symmetric(a.second, b.second))


def _composite_bodies(state: _State) -> list[list[Any]]:
    """Mass matrix as components; entries of coordinates on different branches are ZERO."""
    links, active, size = state.skeleton.links, state.active(), state.free
    mass = [[ZERO] * size for _ in range(size)]
    bodies = list(state.link_bodies())
    # Per link and coordinate: force and moment about the origin that a unit acceleration of the coordinate needs.
    carried: list[dict[int, tuple[Vector, Vector]]] = [{} for _ in links]

    def meet(needs: dict[int, tuple[Vector, Vector]], signal: _Signal, part: int, axis: Vector, own: Any) -> None:
        """Add an elementary joint along ``axis``, which feels the force (part 0) or the moment (part 1) of each."""
        gains = {i: g for i, g in signal.gains.items() if i < size}
        if not gains:
            return
        felt = {j: dot(axis, need[part]) for j, need in needs.items()}
        itself = dot(axis, own[part])
        for i, gain in gains.items():
            for j, value in felt.items():
                mass[i][j] = mass[i][j] + gain * value
                mass[j][i] = mass[j][i] + gain * value
            for j, other in gains.items():
                mass[i][j] = mass[i][j] + (gain * other) * itself
        for i, gain in gains.items():
            need = tuple(scale(gain, v) for v in own)
            needs[i] = _both(add, needs[i], need) if i in needs else need

    for k in reversed(range(len(links))):
        if not active[k]:
            continue
        link, at, body, needs = links[k], state.moved[k], bodies[k], carried[k]
        for item, (cosine, sine, signal) in zip(reversed(link.turns), reversed(at.turns), strict=True):
            axis = unit(item.axis)
            meet(needs, signal, 1, axis, (cross(axis, body.first), column(body.second, item.axis)))

            def back(v: Vector, item: Any = item, cosine: Any = cosine, sine: Any = sine) -> Vector:
                return apply(matrix(item.rotation), turn(item.axis, cosine, sine, v))

            second = apply_symmetric(matrix(item.rotation), turn_symmetric(item.axis, cosine, sine, body.second))
            body = _Inertia(body.mass, back(body.first), second)
            needs = {j: (back(f), back(n)) for j, (f, n) in needs.items()}
        for slide, signal in zip(link.slides, at.slides, strict=True):
            axis = _direction(slide)
            meet(needs, signal, 0, axis, (scale(body.mass, axis), cross(body.first, axis)))
        if link.parent < 0 or not active[link.parent]:
            continue
        r = at.offset
        moment = add(body.first, scale(0.5 * body.mass, r))  # halves the cross terms: 2 r.h + m r.r = 2 r.(h + m r/2)
        second = add_symmetric(body.second, parallel_axis(r, scale(2.0, moment)))
        body = _Inertia(body.mass, add(body.first, scale(body.mass, r)), second)
        turned = _Inertia(body.mass, apply(matrix(link.rotation), body.first), apply_symmetric(matrix(link.rotation), body.second))
        bodies[link.parent] = _join(bodies[link.parent], turned)
        above = carried[link.parent]
        for j, (f, n) in needs.items():
            need = (apply(matrix(link.rotation), f), apply(matrix(link.rotation), add(n, cross(r, f))))
            above[j] = _both(add, above[j], need) if j in above else need
    return mass


def _both(function: Any, a: Any, b: Any) -> Any:
    return function(a[0], b[0]), function(a[1], b[1])


def _matrix(state: _State, mass: list[list[Any]]) -> jax.Array:
    flat = state.stack([entry for row in mass for entry in row])
    return flat.reshape(*state.shape, state.free, state.free)


def _solve(state: _State, right: Sequence[Any]) -> jax.Array:
    """Accelerations (..., D) of generalised forces at rest, without gravity."""
    mass = _composite_bodies(state)
    if state.free <= _UNROLLED:
        return state.stack(_eliminate(mass, right))
    factor = jax.scipy.linalg.cho_factor(_matrix(state, mass))
    return jax.scipy.linalg.cho_solve(factor, state.stack(right)[..., None])[..., 0]


def _eliminate(mass: list[list[Any]], right: Sequence[Any]) -> list[Any]:
    """Solve ``mass @ x = right``, mass = L^T D L, from the last coordinate to the first; ZERO entries stay out."""
    mass, x, size = [list(row) for row in mass], list(right), len(right)
    inverse, factors = [ZERO] * size, {}
    for k in reversed(range(size)):
        inverse[k] = 1.0 / mass[k][k]
        before = [i for i in range(k) if mass[k][i] is not ZERO]
        for i in before:
            factors[k, i] = mass[k][i] * inverse[k]
            for j in before:
                if j <= i:
                    mass[i][j] = mass[i][j] - factors[k, i] * mass[k][j]
            x[i] = x[i] - factors[k, i] * x[k]
    for k in range(size):
        x[k] = x[k] * inverse[k]
        for i in range(k):
            if (k, i) in factors:
                x[k] = x[k] - factors[k, i] * x[i]
    return x
