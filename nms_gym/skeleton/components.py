"""Vectors and symmetric matrices as tuples of components, each an array of the batch shape or exactly ``ZERO``.

Multibody recursions on small trees are a few hundred scalar operations. Written per component they are elementwise
over the batch, which XLA fuses into loops, and a component that the structure makes zero (the out-of-plane ones of a
planar chain) is never computed: ``ZERO`` disappears while the program is traced. Formulas stay the textbook's.

Arrays enter and leave by ``split`` and ``join``, each other's transposes. They are primitives so that neither a result
nor a derivative is stacked by concatenation or padding: that gives every component its own index map, and the loop
emitter of XLA's CPU backend (jaxlib 0.10) then evaluates shared terms anew for each use, exponentially often in the
length of a chain. ``join`` is compiled into a sum of masked components, which have one index map.

A vector is ``(x, y, z)``. A symmetric matrix is ``(diagonal, off)`` with ``off[k]`` the entry of the other two indices:
``off = (yz, xz, xy)``. A rotation (3, 3) of ``None`` is the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


class _Zero:
    """A number known to be zero when the program is traced. JAX arrays and floats defer to its operators."""

    __slots__ = ()
    __array_ufunc__ = None

    def __add__(self, other: Any) -> Any:
        return other

    def __sub__(self, other: Any) -> Any:
        return -other

    def __rsub__(self, other: Any) -> Any:
        return other

    def __mul__(self, other: Any) -> Any:
        return self

    def __neg__(self) -> Any:
        return self

    __radd__ = __add__
    __rmul__ = __mul__


ZERO: Any = _Zero()
NOWHERE = (ZERO, ZERO, ZERO)
Vector = tuple[Any, Any, Any]
Symmetric = tuple[Vector, Vector]
Rotation = tuple[Vector, Vector, Vector] | None


_split = Primitive("split_components")
_split.multiple_results = True
_join = Primitive("join_components")


def split(array: jax.Array) -> tuple[jax.Array, ...]:
    """The n components (...) of an array (..., n)."""
    return tuple(_split.bind(array))


def join(components: Sequence[Any], shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Array (*shape, n) of n components, zeros included."""
    places = tuple(i for i, component in enumerate(components) if component is not ZERO)
    if not places:
        return jnp.zeros((*shape, len(components)), dtype)
    filled = [jnp.broadcast_to(jnp.asarray(components[i], dtype), shape) for i in places]
    return _join.bind(*filled, places=places, size=len(components))


@_split.def_impl
def _(array: jax.Array) -> list[jax.Array]:
    return [array[..., i] for i in range(array.shape[-1])]


@_join.def_impl
def _(*components: jax.Array, places: tuple[int, ...], size: int) -> jax.Array:
    joined = jnp.zeros((*components[0].shape, size), components[0].dtype)
    for component, place in zip(components, places, strict=True):
        mask = np.arange(size) == place
        joined = joined + component[..., None] * mask.reshape((1,) * component.ndim + (size,)).astype(joined.dtype)
    return joined


@_split.def_abstract_eval
def _(array: Any) -> list[ShapedArray]:
    return [ShapedArray(array.shape[:-1], array.dtype)] * array.shape[-1]


@_join.def_abstract_eval
def _(*components: Any, places: tuple[int, ...], size: int) -> ShapedArray:
    return ShapedArray((*components[0].shape, size), components[0].dtype)


def _split_transpose(cotangents: Sequence[Any], array: Any) -> list[Any]:
    aval = array.aval
    parts = [ZERO if type(part) is ad.Zero else part for part in cotangents]
    return [join(parts, aval.shape[:-1], aval.dtype)]


def _join_transpose(cotangent: Any, *components: Any, places: tuple[int, ...], size: int) -> list[Any]:
    parts = split(ad.instantiate_zeros(cotangent))
    return [parts[place] for place in places]


def _split_batched(arguments: Sequence[Any], axes: Sequence[Any]) -> tuple[list[Any], list[int]]:
    parts = split(jnp.moveaxis(arguments[0], axes[0], 0))
    return list(parts), [0] * len(parts)


def _join_batched(arguments: Sequence[Any], axes: Sequence[Any], *, places: Any, size: int) -> tuple[Any, int]:
    # What marks an argument that is not mapped differs between versions of JAX; a mapped one has a number.
    mapped = [
        jnp.moveaxis(a, axis, 0) if isinstance(axis, int) else None for a, axis in zip(arguments, axes, strict=True)
    ]
    shape = next(a.shape for a in mapped if a is not None)
    filled = [jnp.broadcast_to(a, shape) if m is None else m for a, m in zip(arguments, mapped, strict=True)]
    return _join.bind(*filled, places=places, size=size), 0


ad.deflinear2(_split, _split_transpose)
ad.deflinear2(_join, _join_transpose)
batching.primitive_batchers[_split] = _split_batched
batching.primitive_batchers[_join] = _join_batched
mlir.register_lowering(_split, mlir.lower_fun(_split.impl, multiple_results=True))
mlir.register_lowering(_join, mlir.lower_fun(_join.impl, multiple_results=False))


def vector(array: Any) -> Vector:
    """Components of an array (..., 3)."""
    return split(array)  # type: ignore[return-value]


def matrix(array: Any) -> Rotation:
    """Rows of an array (3, 3); None for None."""
    if array is None:
        return None
    flat = split(array.reshape(9))
    return flat[:3], flat[3:6], flat[6:]  # type: ignore[return-value]


def transposed(rotation: Rotation) -> Any:
    """Rows of the transpose, from rows."""
    return None if rotation is None else tuple(zip(*rotation, strict=True))


def symmetric(array: Any) -> Symmetric:
    """Components of an array (3, 3), from its upper triangle."""
    (xx, xy, xz), (_, yy, yz), (_, _, zz) = matrix(array)  # type: ignore[misc]
    return (xx, yy, zz), (yz, xz, xy)


def add(a: Vector, b: Vector) -> Vector:
    """``a + b``."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def sub(a: Vector, b: Vector) -> Vector:
    """``a - b``."""
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def scale(s: Any, a: Vector) -> Vector:
    """``s * a``."""
    return s * a[0], s * a[1], s * a[2]


def dot(a: Vector, b: Vector) -> Any:
    """Inner product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Vector, b: Vector) -> Vector:
    """Vector product."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def unit(axis: int) -> Vector:
    """Unit vector along ``axis``, the one a Python float so that multiplying by it costs nothing."""
    return tuple(1.0 if i == axis else ZERO for i in range(3))  # type: ignore[return-value]


def on_axis(axis: int, value: Any) -> Vector:
    """The vector of length ``value`` along ``axis``."""
    return tuple(value if i == axis else ZERO for i in range(3))  # type: ignore[return-value]


def apply(rotation: Rotation, a: Vector) -> Vector:
    """``rotation @ a``, the rotation given by its rows."""
    if rotation is None:
        return a
    return tuple(dot(row, a) for row in rotation)  # type: ignore[return-value]


def apply_back(rotation: Rotation, a: Vector) -> Vector:
    """``rotation.T @ a``."""
    return apply(transposed(rotation), a)


def turn(axis: int, cosine: Any, sine: Any, a: Vector) -> Vector:
    """``a`` turned about a coordinate axis: from the components in a turned frame to those in the frame before."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    turned = list(a)
    turned[i], turned[j] = cosine * a[i] - sine * a[j], sine * a[i] + cosine * a[j]
    return tuple(turned)  # type: ignore[return-value]


def times(inertia: Symmetric, a: Vector) -> Vector:
    """``inertia @ a``."""
    d, o = inertia
    return (
        d[0] * a[0] + o[2] * a[1] + o[1] * a[2],
        o[2] * a[0] + d[1] * a[1] + o[0] * a[2],
        o[1] * a[0] + o[0] * a[1] + d[2] * a[2],
    )


def column(inertia: Symmetric, axis: int) -> Vector:
    """Column ``axis`` of a symmetric matrix."""
    d, o = inertia
    return ((d[0], o[2], o[1]), (o[2], d[1], o[0]), (o[1], o[0], d[2]))[axis]


def apply_symmetric(rotation: Rotation, inertia: Symmetric) -> Symmetric:
    """``rotation @ inertia @ rotation.T``."""
    if rotation is None:
        return inertia
    half = [times(inertia, row) for row in rotation]
    diagonal = tuple(dot(half[i], rotation[i]) for i in range(3))
    return diagonal, (dot(half[1], rotation[2]), dot(half[0], rotation[2]), dot(half[0], rotation[1]))  # type: ignore[return-value]


def turn_symmetric(axis: int, cosine: Any, sine: Any, inertia: Symmetric) -> Symmetric:
    """A symmetric matrix turned about a coordinate axis, as ``turn`` does with a vector."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    d, o = list(inertia[0]), list(inertia[1])
    difference, mixed = d[i] - d[j], o[axis]
    moved = sine * (sine * difference + 2.0 * cosine * mixed)
    d[i], d[j] = d[i] - moved, d[j] + moved
    o[axis] = cosine * (sine * difference + 2.0 * cosine * mixed) - mixed
    # The entries (axis, i) and (axis, j) turn like a vector; they sit at off[j] and off[i].
    o[j], o[i] = cosine * o[j] - sine * o[i], sine * o[j] + cosine * o[i]
    return tuple(d), tuple(o)  # type: ignore[return-value]


def parallel_axis(r: Vector, s: Vector) -> Symmetric:
    """``(r . s) 1 - (r s' + s r') / 2``: with s = m r, what a point mass m at r adds to an inertia."""
    x, y, z = r[0] * s[0], r[1] * s[1], r[2] * s[2]
    off = tuple(-0.5 * (r[j] * s[k] + r[k] * s[j]) for j, k in ((1, 2), (0, 2), (0, 1)))
    return (y + z, x + z, x + y), off  # type: ignore[return-value]


def add_symmetric(a: Symmetric, b: Symmetric) -> Symmetric:
    """``a + b``."""
    return add(a[0], b[0]), add(a[1], b[1])
