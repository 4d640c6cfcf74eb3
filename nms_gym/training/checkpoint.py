"""A training on disk: every array of a pytree by its place in it, so that a killed training goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from nms_gym.errors import InputError, listed, shown
from nms_gym.recording.documents import json_of
from nms_gym.recording.npz import read_npz, text_of
from nms_gym.recording.storage import atomic_path

T = TypeVar("T")
FORMAT = "nms-gym-training"
VERSION = 1


def save_checkpoint(path: str | os.PathLike[str], tree: Any, record: Mapping[str, Any]) -> None:
    """Write the arrays of ``tree`` and a JSON ``record``; what was there stays until all is written."""
    leaves = {f"tree{jax.tree_util.keystr(where)}": np.asarray(leaf) for where, leaf in _leaves(tree)}
    text = json.dumps({**record, "format": FORMAT, "version": VERSION})
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, record=np.array(text), **leaves)  # type: ignore[arg-type]


def load_checkpoint(path: str | os.PathLike[str], like: T) -> tuple[T, dict[str, Any]]:
    """What ``save_checkpoint`` wrote, as a tree of the structure of ``like``, and its record.

    Raises:
        InputError: no such file, or it is of another training: an array is missing, or has another shape or type.
    """
    stored = read_npz(path)
    text = text_of(stored.get("record"))
    record = json_of(text, path) if text else None
    if not isinstance(record, dict):
        raise InputError(f"{path}: no checkpoint of a training; remove it to begin anew")
    kind = record.get("format"), record.get("version")
    if kind != (FORMAT, VERSION):
        raise InputError(f"{path}: format and version are {shown(kind)}; this program goes on from {(FORMAT, VERSION)}")
    found, wrong = [], []
    for where, leaf in _leaves(like):
        name = f"tree{jax.tree_util.keystr(where)}"
        array, expected = stored.get(name), np.asarray(leaf)
        if array is None or array.shape != expected.shape or array.dtype != expected.dtype:
            wrong.append(name)
        found.append(array)
    if wrong:
        raise InputError(
            f"{path}: of another training ({listed(wrong, 3)} differ); give its task and settings, or another folder"
        )
    return jax.tree.unflatten(jax.tree.structure(like), found), record


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]
