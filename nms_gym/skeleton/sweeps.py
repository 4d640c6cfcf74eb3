"""The recursions over a tree: Newton-Euler, composite bodies, and the solution with the mass matrix.

Sources. Inverse dynamics: recursive Newton-Euler (Luh, Walker, Paul 1980, doi 10.1115/1.3149599); mass matrix:
composite rigid bodies (Walker, Orin 1982, doi 10.1115/1.3139699); both as in Featherstone, Rigid Body Dynamics
Algorithms (2008, doi 10.1007/978-1-4899-7560-7), chapters 5 and 6, in link axes, about the origin of each link; gravity
as an acceleration of the ground (section 5.3). Factorisation from the tips to the root, which keeps the zeros of
branches (section 6.5).

Departure: an elementary joint's displacement is a function of coordinates, s' = G q', so its force projects as G^T, and
the composite-body sweep carries one force per coordinate instead of one per elementary joint. That yields G^T M G
directly, and a joint of six axes driven by one coordinate costs little more than a hinge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from nms_gym.skeleton.components import (
    NOWHERE,
    ZERO,
    Vector,
    add,
    apply,
    apply_back,
    apply_symmetric,
    column,
    cross,
    dot,
    on_axis,
    parallel_axis,
    scale,
    split,
    sub,
    times,
    turn_symmetric,
    unit,
)
from nms_gym.skeleton.kinematics import Inertia, Signal, State

_UNROLLED = 12  # coordinates up to which the mass matrix is factorised component by component
_ONE_LOOP = 3  # coordinates up to which that happens in one loop with everything before it

Wrench = tuple[Vector, Vector]
"""force and moment about a link's origin"""


def newton_euler(state: State) -> list[Any]:
    """Generalised forces, one component per free coordinate, at the state's qdd (ZERO where it has none)."""
    links, active = state.links, state.active()
    motion: list[tuple[Vector, Vector, Vector]] = []  # angular velocity and acceleration, acceleration of the origin
    for link in links:
        before = motion[link.parent] if link.parent >= 0 else (NOWHERE, NOWHERE, sub(NOWHERE, state.gravity))
        w, dw, a = (apply_back(link.rotation, v) for v in before)
        a = add(a, add(cross(dw, link.offset), cross(w, cross(w, link.offset))))
        for slide in link.slides:
            a = add(a, scale(state.acceleration(slide.signal), slide.direction))
            a = add(a, cross(w, scale(2.0 * slide.signal.rate, slide.direction)))
        for item in link.turns:
            w, dw, a = (item.outward(v) for v in (w, dw, a))
            spin = on_axis(item.axis, item.signal.rate)
            dw = add(add(dw, on_axis(item.axis, state.acceleration(item.signal))), cross(w, spin))
            w = add(w, spin)
        motion.append(state.store((w, dw, a)))
    result = [ZERO] * state.free
    forces: list[Wrench] = [(sub(NOWHERE, f), sub(NOWHERE, n)) for f, n in state.loads()]
    inertias = state.inertias()
    for k in reversed(range(len(links))):
        if not active[k]:
            continue
        link, body, (w, dw, a) = links[k], inertias[k], motion[k]
        f = add(scale(body.mass, a), add(cross(dw, body.first), cross(w, cross(w, body.first))))
        n = add(times(body.second, dw), add(cross(w, times(body.second, w)), cross(body.first, a)))
        f, n = _sum(forces[k], (f, n))
        for item in reversed(link.turns):
            _project(result, item.signal, n[item.axis])
            f, n = item.inward(f), item.inward(n)
        for slide in link.slides:
            _project(result, slide.signal, dot(f, slide.direction))
        if link.parent >= 0 and active[link.parent]:
            n = add(n, cross(link.offset, f))
            passed = apply(link.rotation, f), apply(link.rotation, n)
            forces[link.parent] = state.store(_sum(forces[link.parent], passed))
    return result


def _project(result: list[Any], signal: Signal, force: Any) -> None:
    for i, gain in signal.gains.items():
        if i < len(result):
            result[i] = result[i] + gain * force


def _sum(a: Wrench, b: Wrench) -> Wrench:
    return add(a[0], b[0]), add(a[1], b[1])


def composite_bodies(state: State) -> list[list[Any]]:
    """The mass matrix's lower triangle, row by row; entries of coordinates on different branches are ZERO."""
    links, active = state.links, state.active()
    mass = [[ZERO] * (i + 1) for i in range(state.free)]
    bodies = state.inertias()
    # Per link and coordinate: what a unit acceleration of the coordinate needs beyond the link's inward joint.
    needs: list[dict[int, Wrench]] = [{} for _ in links]

    def gather(i: int, j: int, value: Any) -> None:
        mass[max(i, j)][min(i, j)] = mass[max(i, j)][min(i, j)] + value

    def meet(need: dict[int, Wrench], signal: Signal, part: int, axis: Vector, own: Wrench) -> None:
        """Pass an elementary joint along ``axis``, which feels force (part 0) or moment (part 1); it needs ``own``."""
        gains = {i: gain for i, gain in signal.gains.items() if i < state.free}
        felt = {j: dot(axis, wrench[part]) for j, wrench in need.items()} if gains else {}
        itself = dot(axis, own[part])
        for i, gain in gains.items():
            for j, value in felt.items():
                gather(i, j, (2.0 * gain if i == j else gain) * value)
            for j, other in gains.items():
                if j <= i:
                    gather(i, j, (gain * other) * itself)
        for i, gain in gains.items():
            scaled = scale(gain, own[0]), scale(gain, own[1])
            need[i] = _sum(need[i], scaled) if i in need else scaled

    for k in reversed(range(len(links))):
        if not active[k]:
            continue
        link, body, need = links[k], bodies[k], needs[k]
        for item in reversed(link.turns):
            axis = unit(item.axis)
            meet(need, item.signal, 1, axis, (cross(axis, body.first), column(body.second, item.axis)))
            second = turn_symmetric(item.axis, item.cosine, item.sine, body.second)
            body = Inertia(body.mass, item.inward(body.first), apply_symmetric(item.rotation, second))
            need = {j: (item.inward(f), item.inward(n)) for j, (f, n) in need.items()}
        for slide in link.slides:
            d = slide.direction
            meet(need, slide.signal, 0, d, (scale(body.mass, d), cross(body.first, d)))
        if link.parent < 0 or not active[link.parent]:
            continue
        # About the parent's origin, r before this one: I + (2 r.h + m r.r) 1 - ..., in which 2 h + m r is shared.
        r = link.offset
        shift = parallel_axis(r, add(scale(2.0, body.first), scale(body.mass, r)))
        moved = Inertia(body.mass, add(body.first, scale(body.mass, r)), body.second).plus(
            Inertia(ZERO, NOWHERE, shift)
        )
        moved = Inertia(moved.mass, apply(link.rotation, moved.first), apply_symmetric(link.rotation, moved.second))
        bodies[link.parent] = state.store(bodies[link.parent].plus(moved))
        above = needs[link.parent]
        for j, (f, n) in need.items():
            passed = apply(link.rotation, f), apply(link.rotation, add(n, cross(r, f)))
            above[j] = state.store(_sum(above[j], passed) if j in above else passed)
    return mass


def full_matrix(state: State, lower: list[list[Any]]) -> jax.Array:
    """Array (..., D, D) from the lower triangle."""
    size = range(state.free)
    flat = state.stack([lower[max(i, j)][min(i, j)] for i in size for j in size])
    return flat.reshape(*state.shape, state.free, state.free)


def accelerations(state: State, right: Sequence[Any]) -> jax.Array:
    """Accelerations (..., D) by generalised forces ``right`` alone: the solution with the mass matrix."""
    mass = composite_bodies(state)
    if state.added is not None:
        size = state.free
        mass = [[entry + state.added[i * size + j] for j, entry in enumerate(row)] for i, row in enumerate(mass)]
    if state.free > _UNROLLED:
        factor = jax.scipy.linalg.cho_factor(full_matrix(state, mass))
        return jax.scipy.linalg.cho_solve(factor, state.stack(right)[..., None])[..., 0]
    if state.free <= _ONE_LOOP:
        return state.stack(eliminate(mass, right))
    # Both sides divided by the trace: as quotients they are stored. Otherwise each pivot, itself a quotient and
    # therefore stored, would be preceded by a mass matrix of its own, and so would each use of the solution.
    places = [(i, j) for i, row in enumerate(mass) for j, entry in enumerate(row) if entry is not ZERO]
    trace = sum(row[-1] for row in mass)
    *scaled, trace = split(state.quotients([*(mass[i][j] for i, j in places), trace * trace], trace))
    for (i, j), entry in zip(places, scaled, strict=True):
        mass[i][j] = entry
    return state.stack(eliminate(mass, split(state.quotients(right, trace))))


def eliminate(lower: list[list[Any]], right: Sequence[Any]) -> list[Any]:
    """Solve ``M x = right`` for M = L^T D L given by its lower triangle, from the last row up; ZERO stays out."""
    mass, x = [list(row) for row in lower], list(right)
    inverse, factors = {}, {}
    for k in reversed(range(len(x))):
        inverse[k] = 1.0 / mass[k][k]
        before = [i for i in range(k) if mass[k][i] is not ZERO]
        for i in before:
            factors[k, i] = mass[k][i] * inverse[k]
            for j in before[: before.index(i) + 1]:
                mass[i][j] = mass[i][j] - factors[k, i] * mass[k][j]
            x[i] = x[i] - factors[k, i] * x[k]
    for k in range(len(x)):
        known = sum((factors[k, i] * x[i] for i in range(k) if (k, i) in factors), ZERO)
        x[k] = x[k] * inverse[k] - known
    return x
