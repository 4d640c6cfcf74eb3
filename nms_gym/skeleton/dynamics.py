"""Inverse and forward dynamics of a skeleton, differentiable, unrolled into elementwise arithmetic on components.

All functions take arrays (..., D) in the order of ``skeleton.coordinates``, rad and m, with any leading axes, and
compute in the dtype of q. Generalised forces are N m for angles, N for distances. With prescribed coordinates ``base``
gives their motion. External forces are in ground; a body that nothing moves passes them to the ground.

Equations and their sources are in ``sweeps.py``. All functions raise InputError for arrays of another length than the
skeleton's coordinates, a missing ``base``, and external forces on a body that the skeleton lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from nms_gym.skeleton.components import add, apply, matrix, vector
from nms_gym.skeleton.functions import as_dtype
from nms_gym.skeleton.kinematics import BaseMotion, ExternalForces, State
from nms_gym.skeleton.skeleton import Skeleton, make_skeleton
from nms_gym.skeleton.sweeps import accelerations, composite_bodies, full_matrix, newton_euler

__all__ = [
    "BaseMotion",
    "ExternalForces",
    "Skeleton",
    "bias_forces",
    "forward_dynamics",
    "inverse_dynamics",
    "kinetic_energy",
    "make_skeleton",
    "mass_matrix",
    "point_positions",
    "potential_energy",
]


def inverse_dynamics(
    skeleton: Skeleton,
    q: jax.Array,
    qd: jax.Array,
    qdd: jax.Array,
    *,
    external: ExternalForces | None = None,
    base: BaseMotion | None = None,
) -> jax.Array:
    """Generalised forces (..., D) that the joints must produce for the motion, external forces accounted for.

    A dependent coordinate's share is included in the coordinate that drives it (OpenSim's tool lists it apart).
    """
    return _inverse(*_arrays(skeleton, q, qd, qdd, external, base))


def bias_forces(
    skeleton: Skeleton,
    q: jax.Array,
    qd: jax.Array,
    *,
    external: ExternalForces | None = None,
    base: BaseMotion | None = None,
) -> jax.Array:
    """Inverse dynamics (..., D) at zero acceleration: velocity products, gravity, base motion, external forces."""
    return _inverse(*_arrays(skeleton, q, qd, None, external, base))


def mass_matrix(skeleton: Skeleton, q: jax.Array, *, base: BaseMotion | None = None) -> jax.Array:
    """Mass matrix (..., D, D), symmetric and positive definite."""
    return _mass(*_arrays(skeleton, q, base))


def forward_dynamics(
    skeleton: Skeleton,
    q: jax.Array,
    qd: jax.Array,
    torque: jax.Array,
    *,
    external: ExternalForces | None = None,
    base: BaseMotion | None = None,
    added_inertia: jax.Array | None = None,
) -> jax.Array:
    """Accelerations (..., D) under generalised forces ``torque`` (..., D), gravity and external forces.

    ``added_inertia`` (..., D, D), symmetric, is added to the mass matrix: the armature of a drive, or dt times a
    damping matrix for a step that is implicit in the speeds.
    """
    return _forward(*_arrays(skeleton, q, qd, torque, external, base, added_inertia))


def _arrays(skeleton: Skeleton, q: Any, *others: Any) -> Any:
    """All arguments as JAX arrays in the precision of q."""
    q = jnp.asarray(q)
    return as_dtype((skeleton, q, *others), q.dtype)


def _along(function: Callable[..., jax.Array], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
    """``function`` and its derivative along the tangents that are not zero by structure."""
    leaves, structure = jax.tree.flatten(primals)
    moving = [(i, t) for i, t in enumerate(structure.flatten_up_to(tangents)) if type(t) is not SymbolicZero]

    def of_moving(*values: Any) -> jax.Array:
        changed = list(leaves)
        for (i, _), value in zip(moving, values, strict=True):
            changed[i] = value
        return function(*jax.tree.unflatten(structure, changed))

    return jax.jvp(of_moving, tuple(leaves[i] for i, _ in moving), tuple(t for _, t in moving))


def _in_parts(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """``function(..., in_parts=False)``; its derivative is that of ``in_parts=True``, whose loops stay short."""

    def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
        return _along(partial(function, in_parts=True), primals, tangents)

    whole = jax.custom_jvp(partial(function, in_parts=False))
    whole.defjvp(rule, symbolic_zeros=True)
    return whole


def _inverse_dynamics(
    skeleton: Skeleton, q: Any, qd: Any, qdd: Any, external: Any, base: Any, *, in_parts: bool
) -> jax.Array:
    state = State(skeleton, q, qd, qdd, base=base, external=external, in_parts=in_parts)
    return state.stack(newton_euler(state))


def _mass_matrix(skeleton: Skeleton, q: Any, base: Any, *, in_parts: bool) -> jax.Array:
    state = State(skeleton, q, base=base, in_parts=in_parts)
    return full_matrix(state, composite_bodies(state))


_inverse, _mass = _in_parts(_inverse_dynamics), _in_parts(_mass_matrix)


@jax.custom_jvp
def _forward(skeleton: Skeleton, q: Any, qd: Any, torque: Any, external: Any, base: Any, added: Any) -> jax.Array:
    state = State(skeleton, q, qd, base=base, external=external, torque=torque, added=added)
    bias = newton_euler(state)
    return accelerations(state, [state.torque[i] - bias[i] for i in range(state.free)])


def _forward_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[jax.Array, jax.Array]:
    """Inverse dynamics of the result is the torque whatever the arguments, so M dqdd = dtorque - dID at constant qdd.

    This is the derivative of the solution without differentiating the mass matrix and its factorisation.
    """
    qdd = _forward(*primals)

    def excess(skeleton: Skeleton, q: Any, qd: Any, torque: Any, external: Any, base: Any, added: Any) -> jax.Array:
        extra = 0.0 if added is None else jnp.sum(added * qdd[..., None, :], axis=-1)
        return torque - extra - _inverse(skeleton, q, qd, qdd, external, base)

    _, change = _along(excess, primals, tangents)
    skeleton, q, _, _, _, base, added = primals
    state = State(skeleton, q, base=base, torque=change, added=added)
    return qdd, accelerations(state, state.torque)


_forward.defjvp(_forward_jvp, symbolic_zeros=True)


def kinetic_energy(skeleton: Skeleton, q: jax.Array, qd: jax.Array, *, base: BaseMotion | None = None) -> jax.Array:
    """Kinetic energy (...) in J of all moving bodies."""
    state = State(skeleton, q, qd, base=base)
    return state.stack([state.kinetic_energy()])[..., 0]


def potential_energy(skeleton: Skeleton, q: jax.Array, *, base: BaseMotion | None = None) -> jax.Array:
    """Potential energy (...) in J of all moving bodies in gravity, zero at the ground's origin."""
    state = State(skeleton, q, base=base)
    return state.stack([state.potential_energy()])[..., 0]


def point_positions(
    skeleton: Skeleton, q: jax.Array, body: str, point: Any, *, base: BaseMotion | None = None
) -> jax.Array:
    """Position (..., 3) m in ground of ``point`` (3,) m fixed in ``body``; InputError for a body that is not there."""
    state = State(skeleton, q, base=base)
    placement = as_dtype(skeleton.placement(body), state.dtype)
    local = apply(matrix(placement.rotation), vector(jnp.asarray(point, state.dtype)))
    pose = state.pose(placement.link)
    return state.stack(add(pose.origin, pose.to_ground(add(local, vector(placement.translation)))))
