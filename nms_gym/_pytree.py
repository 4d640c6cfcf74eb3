"""Frozen dataclasses that JAX can trace: arrays are leaves, fields marked ``static()`` are structure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

import jax
import numpy as np

from nms_gym._parameter import parameter

T = TypeVar("T")

if TYPE_CHECKING:

    class Leaf:
        """An array field of a pytree: given as a JAX or NumPy array, used as a JAX array.

        Models are built from NumPy arrays in float64 and become JAX arrays of one precision where a program is traced.
        """

        def __get__(self, instance: object, owner: type) -> jax.Array: ...

        def __set__(self, instance: object, value: jax.Array | np.ndarray) -> None: ...

else:
    Leaf = jax.Array


def static(**kwargs: Any) -> Any:
    """Declare a field that is part of the structure: hashable, compared by value, never traced."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static, parameter, dataclasses.field))
def pytree(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen dataclass and register it as a JAX pytree."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    meta = [f.name for f in fields if f.metadata.get("static")]
    data = [f.name for f in fields if not f.metadata.get("static")]
    return jax.tree_util.register_dataclass(cls, data_fields=data, meta_fields=meta)


def replace(obj: T, **changes: Any) -> T:
    """``dataclasses.replace`` under a name that reads well beside pytrees."""
    return dataclasses.replace(obj, **changes)  # type: ignore[type-var]
