"""Predictions in files: one OpenSim table or CSV per quantity, or one versioned ``.npz`` with the names of its axes.

An ``.npz`` holds every quantity under its name, with "axes of <quantity>" and "unit of <quantity>", the names along
each axis as "names of <axis>", and "time" in s. Numbers survive writing and reading bit for bit.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from nms_gym.errors import InputError, listed
from nms_gym.model.quantities import Quantities, Quantity
from nms_gym.recording.npz import names_of, number_of, read_npz, text_of
from nms_gym.recording.storage import atomic_path, write_table

FORMAT = "nms_gym.prediction"
VERSION = 1

FileFormat = Literal["sto", "csv", "npz"]


def write_quantities(folder: Path, prediction: Quantities, stem: str, file_format: str = "sto") -> list[Path]:
    """Write quantities into ``folder``, each file whole or not at all.

    ``.sto`` and ``.csv`` have one file per quantity, ``<stem>_<quantity>``, with a column per name (``<name>_moment``
    of moments; two names joined by ``_`` where there are two axes). A column that is nowhere finite (the stiffness of a
    rigid tendon) is left out, and a quantity without time (work, co-contraction) is always a ``.csv``. ``npz`` is one
    file, ``<stem>_prediction.npz``; ``load_quantities`` reads it.

    Returns:
        What was written.

    Raises:
        InputError: unknown format, or the folder is missing.
    """
    if file_format not in get_args(FileFormat):
        raise InputError(f"prediction format is {file_format!r}; use one of {listed(get_args(FileFormat))}")
    if file_format == "npz":
        return [_write_npz(folder / f"{stem}_prediction.npz", prediction)]
    written: list[Path] = []
    for name, quantity in prediction.values.items():
        base = folder / f"{stem}_{name}"
        if quantity.axes[0] != "time":
            rows = prediction.names[quantity.axes[0]]
            written.append(base.with_name(base.name + ".csv"))
            _write_csv(written[-1], quantity.axes[0], rows, prediction.names[quantity.axes[1]], quantity.values)
            continue
        labels = _labels(prediction, quantity)
        values = quantity.values.reshape(len(prediction.time), -1)
        finite = np.asarray(np.isfinite(values).any(axis=0))
        if not finite.any():
            continue
        labels, values = [label for label, keep in zip(labels, finite, strict=True) if keep], values[:, finite]
        written.append(base.with_name(f"{base.name}.{file_format}"))
        if file_format == "sto":
            write_table(written[-1], labels, prediction.time, values, name=f"{stem} {name}")
        else:
            _write_csv(written[-1], "time", [repr(float(t)) for t in prediction.time], labels, values)
    return written


def _labels(prediction: Quantities, quantity: Quantity) -> list[str]:
    labels = [""]
    for axis in quantity.axes[1:]:
        labels = [f"{label}_{name}" if label else name for label in labels for name in prediction.names[axis]]
    return [f"{label}_moment" for label in labels] if quantity.name == "moments" else labels


def _write_csv(path: Path, corner: str, rows: Any, columns: Any, values: np.ndarray) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([corner, *columns])
        for row, numbers in zip(rows, values, strict=True):
            writer.writerow([row, *(repr(float(x)) for x in numbers)])


def _write_npz(path: Path, prediction: Quantities) -> Path:
    arrays: dict[str, Any] = {
        "format": np.array(FORMAT),
        "version": np.array(VERSION),
        "trial": np.array(prediction.trial),
        "time": prediction.time,
        "quantities": np.array(list(prediction.values), dtype=np.str_),
    }
    arrays |= {f"names of {axis}": np.array(names, dtype=np.str_) for axis, names in prediction.names.items()}
    for name, quantity in prediction.values.items():
        arrays[name] = quantity.values
        arrays[f"axes of {name}"] = np.array(quantity.axes, dtype=np.str_)
        arrays[f"unit of {name}"] = np.array(quantity.unit)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)
    return path


def load_quantities(path: str | os.PathLike[str]) -> Quantities:
    """Read the ``.npz`` of a prediction.

    Raises:
        InputError: no such file, not a prediction, or of another version.
    """
    head = read_npz(path, ("format", "version"))
    found = (text_of(head.get("format")), number_of(head.get("version")))
    if found != (FORMAT, VERSION):
        raise InputError(f"{path}: format and version are {found}; this program reads {(FORMAT, VERSION)}")
    stored = cast("dict[str, np.ndarray]", read_npz(path))
    axes = {
        key.removeprefix("names of "): names_of(array, f"{path}: {key!r}")
        for key, array in stored.items()
        if key.startswith("names of ")
    }
    try:
        names = names_of(stored["quantities"], f"{path}: 'quantities'")
        values = {name: _quantity(stored, name, axes, str(path)) for name in names}
        time, trial = stored["time"], text_of(stored["trial"])
    except KeyError as error:
        raise InputError(f"{path}: {error.args[0]!r} is missing; predict again") from error
    if time.dtype.kind != "f" or time.ndim != 1 or "muscle" not in axes:
        raise InputError(f"{path}: it has no times or no names of muscles; predict again")
    return Quantities(trial, time, axes, values)


def _quantity(stored: dict[str, np.ndarray], name: str, names: dict[str, tuple[str, ...]], where: str) -> Quantity:
    """One quantity, once its numbers fit the names of its axes."""
    values, axes = stored[name], names_of(stored[f"axes of {name}"], f"{where}: axes of {name!r}")
    sizes = {axis: len(given) for axis, given in names.items()} | {"time": len(np.atleast_1d(stored["time"]))}
    expected = tuple(sizes.get(axis, -1) for axis in axes)
    if values.dtype.kind != "f" or values.shape != expected:
        raise InputError(
            f"{where}: {name!r} has type {values.dtype} and shape {values.shape}; expected numbers along "
            f"{listed(axes)}, {expected}; predict again"
        )
    return Quantity(name, text_of(stored[f"unit of {name}"]), axes, values)
