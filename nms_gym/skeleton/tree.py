"""Forward kinematics of an OpenSim joint tree in JAX: generalised coordinates to body transforms.

The structure (which body hangs on which, which coordinate drives which axis) is static; every number is a leaf, in
the dtype of the coordinates. Masses, centres of mass and inertias ride along for dynamics.

Sources: OpenSim's Simulation/SimbodyEngine/{CustomJoint,SpatialTransform,CoordinateCouplerConstraint}.cpp,
Simbody's MobilizedBody::FunctionBased (rotations about the first three axes one after the other, each in the frame
the one before left; translations in the parent frame).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nms_gym import anatomy as read
from nms_gym._pytree import pytree, static
from nms_gym.errors import InputError, listed
from nms_gym.skeleton.functions import JointFunction, as_dtype, build_function, function_value
from nms_gym.skeleton.functions import SplineFunction as SplineFunction
from nms_gym.skeleton.functions import simm_spline as simm_spline

# ---------------------------------------------------------------------------------------------- the tree


@pytree
class JointAxis:
    """One rotation or translation: unit direction (3,), displacement as a function of coordinates."""

    direction: Any
    function: JointFunction
    coordinates: tuple[int, ...] = static()


@pytree
class TreeJoint:
    """Joint between bodies ``parent`` and ``child`` (indices into ``Tree.bodies``), frames fixed in each."""

    parent_rotation: Any  # (3, 3) joint frame in the parent body
    parent_translation: Any  # (3,)
    child_rotation: Any  # (3, 3) joint frame in the child body
    child_translation: Any  # (3,)
    rotations: tuple[JointAxis, ...]
    translations: tuple[JointAxis, ...]
    parent: int = static()
    child: int = static()
    name: str = static()


@pytree
class TreeCoupler:
    """``q[dependent] = function(q[independent])``."""

    function: JointFunction
    dependent: int = static()
    independent: tuple[int, ...] = static()


@pytree
class Tree:
    """Joint tree. Body 0 is the ground; C coordinates in the file's order, dependent ones included.

    Leaves: default (C,) rad or m; mass (B,) kg; mass_center (B, 3) m; inertia (B, 3, 3) kg m^2 about the centre of
    mass, in body axes (zero for the ground); gravity (3,) m/s^2. Joints are ordered from the ground outwards.
    """

    default: Any
    joints: tuple[TreeJoint, ...]
    couplers: tuple[TreeCoupler, ...]
    mass: Any
    mass_center: Any
    inertia: Any
    gravity: Any
    bodies: tuple[str, ...] = static()
    coordinates: tuple[str, ...] = static()


def build_tree(model: read.Multibody, bodies: Iterable[str] | None = None, used: Iterable[str] | None = None) -> Tree:
    """The tree of ``model``, or only the part that carries ``bodies`` (and everything between them and the ground).

    With ``bodies``, couplings of coordinates that neither move that part nor are ``used`` are left out.

    Raises InputError for an unknown body, for couplings that depend on each other in a circle, and for a joint or
    coupling that is needed and cannot be computed. Leaves are NumPy float64; ``forward_kinematics`` brings them to the
    dtype of the coordinates.
    """
    by_child = {joint.child.body: joint for joint in model.joints}
    wanted = set(by_child) if bodies is None else _with_ancestors(model, by_child, bodies)
    joints = [joint for joint in model.joints if joint.child.body in wanted]
    for joint in joints:
        if joint.problem:
            raise InputError(joint.problem)
    couplers = model.couplers
    if bodies is not None:
        needed = {name for joint in joints for name in joint.coordinates}.union(used or ())
        for _ in model.couplers:  # a chain of couplings is at most this long
            needed |= {name for c in model.couplers if c.dependent in needed for name in c.independent}
        couplers = tuple(coupler for coupler in couplers if coupler.dependent in needed)
    names = ("ground", *(joint.child.body for joint in joints))
    index = {name: i for i, name in enumerate(names)}
    coordinates = tuple(coordinate.name for coordinate in model.coordinates)
    column = {name: i for i, name in enumerate(coordinates)}
    parts = [model.body(name) for name in names[1:]]
    zero, zeros = np.zeros((1, 3)), np.zeros((1, 3, 3))

    def axes(items: Sequence[read.TransformAxis]) -> tuple[JointAxis, ...]:
        return tuple(
            JointAxis(item.axis, build_function(item.function), tuple(column[name] for name in item.coordinates))
            for item in items
            if item.function != read.ZERO
        )

    return Tree(
        default=np.array([coordinate.default for coordinate in model.coordinates]),
        joints=tuple(
            TreeJoint(
                parent_rotation=joint.parent.rotation,
                parent_translation=joint.parent.translation,
                child_rotation=joint.child.rotation,
                child_translation=joint.child.translation,
                rotations=axes(joint.axes[:3]),
                translations=axes(joint.axes[3:]),
                parent=index[joint.parent.body],
                child=index[joint.child.body],
                name=joint.name,
            )
            for joint in joints
        ),
        couplers=tuple(
            TreeCoupler(
                build_function(coupler.function),
                column[coupler.dependent],
                tuple(column[name] for name in coupler.independent),
            )
            for coupler in ordered_couplers(model, couplers)
        ),
        mass=np.array([0.0, *(body.mass for body in parts)]),
        mass_center=np.concatenate([zero, *(body.mass_center[None] for body in parts)]),
        inertia=np.concatenate([zeros, *(body.inertia[None] for body in parts)]),
        gravity=model.gravity,
        bodies=names,
        coordinates=coordinates,
    )


def _with_ancestors(model: read.Multibody, by_child: dict[str, read.Joint], bodies: Iterable[str]) -> set[str]:
    wanted: set[str] = set()
    for name in bodies:
        if name != "ground":
            model.body(name)
        while name != "ground":
            wanted.add(name)
            name = by_child[name].parent.body
    return wanted


def ordered_couplers(model: read.Multibody, couplers: Sequence[read.Coupler] | None = None) -> list[read.Coupler]:
    """Couplers, by default all, so that each independent coordinate is set before it is used."""
    waiting, ordered = list(model.couplers if couplers is None else couplers), []
    while waiting:
        pending = {coupler.dependent for coupler in waiting}
        ready = [coupler for coupler in waiting if not pending & set(coupler.independent)]
        if not ready:
            raise InputError(
                f"{model.path}: the constraints {listed(c.name for c in waiting)} couple their coordinates in a "
                "circle; remove one of them"
            )
        ordered += ready
        waiting = [coupler for coupler in waiting if coupler not in ready]
    return ordered


def coordinate_columns(model: read.Multibody, coordinates: Sequence[str]) -> tuple[int, ...]:
    """Indices of ``coordinates`` among all of the model's, checked to be known, independent and distinct.

    Raises InputError for an unknown or repeated name, and for a coordinate that a constraint makes dependent.
    """
    column = {coordinate.name: i for i, coordinate in enumerate(model.coordinates)}
    for name in coordinates:
        found = model.coordinate(name)
        if found.coupled_to is not None:
            raise InputError(
                f"{model.path}: coordinate {name!r} follows {found.coupled_to!r} through a constraint and cannot be "
                f"chosen freely; use {found.coupled_to!r}, whose moment arms include it"
            )
    if len(set(coordinates)) != len(coordinates):
        raise InputError(f"{model.path}: a coordinate is named twice among {listed(coordinates)}")
    return tuple(column[name] for name in coordinates)


# ---------------------------------------------------------------------------------------------- kinematics


def full_pose(tree: Tree, columns: Sequence[int], q: jax.Array) -> jax.Array:
    """All coordinates (C,): ``q`` (D,) at ``columns``, couplings resolved, the others at their defaults."""
    q = jnp.asarray(q)
    pose = jnp.asarray(tree.default, q.dtype).at[jnp.array(tuple(columns), dtype=int)].set(q)
    return resolve_couplings(tree, pose)


def resolve_couplings(tree: Tree, pose: jax.Array) -> jax.Array:
    """``pose`` (C,) with every dependent coordinate replaced by its function of the independent ones."""
    pose = jnp.asarray(pose)
    for coupler in tree.couplers:
        independent = jnp.stack([pose[i] for i in coupler.independent])
        pose = pose.at[coupler.dependent].set(function_value(coupler.function, independent))
    return pose


def forward_kinematics(tree: Tree, pose: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Transforms of all bodies to ground for one pose (C,); ``jax.vmap`` for more.

    Returns rotation (B, 3, 3) and translation (B, 3) in m: ``x_ground = rotation[b] @ x_body + translation[b]``.
    Couplings are not resolved here: pass ``full_pose`` or ``resolve_couplings`` output.
    """
    pose = jnp.asarray(pose)
    tree = as_dtype(tree, pose.dtype)
    rotation: list[Any] = [jnp.eye(3, dtype=pose.dtype)] * len(tree.bodies)
    translation: list[Any] = [jnp.zeros(3, dtype=pose.dtype)] * len(tree.bodies)
    for joint in tree.joints:
        turn, shift = joint_transform(joint, pose)
        r = rotation[joint.parent] @ joint.parent_rotation
        p = translation[joint.parent] + rotation[joint.parent] @ joint.parent_translation
        p = p + r @ shift
        r = r @ turn @ joint.child_rotation.T
        rotation[joint.child] = r
        translation[joint.child] = p - r @ joint.child_translation
    return jnp.stack(rotation), jnp.stack(translation)


def joint_transform(joint: TreeJoint, pose: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rotation (3, 3) and translation (3,) of the child's joint frame in the parent's."""
    turn = jnp.eye(3, dtype=pose.dtype)
    for axis in joint.rotations:
        turn = turn @ about(axis.direction, _displacement(axis, pose))
    shift = jnp.zeros(3, dtype=pose.dtype)
    for axis in joint.translations:
        shift = shift + _displacement(axis, pose) * axis.direction
    return turn, shift


def _displacement(axis: JointAxis, pose: jax.Array) -> jax.Array:
    if not axis.coordinates:
        return function_value(axis.function, jnp.zeros(0, dtype=pose.dtype))
    return function_value(axis.function, jnp.stack([pose[i] for i in axis.coordinates]))


def about(direction: jax.Array, angle: jax.Array) -> jax.Array:
    """Rotation (3, 3) by ``angle`` (rad) about the unit vector ``direction`` (3,): Rodrigues' formula."""
    x, y, z = direction
    zero = jnp.zeros_like(x)
    skew = jnp.stack([jnp.stack([zero, -z, y]), jnp.stack([z, zero, -x]), jnp.stack([-y, x, zero])])
    return jnp.eye(3, dtype=skew.dtype) + jnp.sin(angle) * skew + (1 - jnp.cos(angle)) * (skew @ skew)
