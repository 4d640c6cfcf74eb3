"""The ``[[trials]]`` of a study's TOML file: recordings in files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibration.study.checks import is_kind, names_of, require_file_name
from calibration.study.keys import Folder, read_keys
from calibration.study.recordings import OfRecording, OfTrial
from calibration.study.targets import MuscleSeries
from nms_gym.errors import InputError
from nms_gym.model.structure import NmsModel
from nms_gym.recording.arrays import Arrays, Recording, read_arrays
from nms_gym.recording.muscle_analysis import read_muscle_analysis
from nms_gym.recording.sampling import without_full_turns
from nms_gym.recording.storage import Table, coordinate_name, read_coordinates, read_labels, read_moments, read_table
from nms_gym.recording.trial import Trial, load_trial


class TrialFiles:
    """One ``[[trials]]`` table; a ``recordings.Source``. Its files are read when they are asked for."""

    def __init__(self, where: str, table: Any, folder: Folder) -> None:
        keys = read_keys(where, table, "trials")
        self.where = where
        files = {
            key: folder.optional(keys[key], f"{where}: {key}")
            for key in ("trial", "kinematics", "moments", "emg", "muscle_analysis")
        }
        self.file, self.kinematics, self.moments, self.emg, self.geometry = files.values()
        self.arrays = None if keys["arrays"] is None else _arrays(f"{where} [arrays]", keys["arrays"], folder)
        self.prefix = keys["muscle_analysis_prefix"]
        self.q_cutoff, self.moment_cutoff = keys["q_cutoff"], keys["moment_cutoff"]
        self.trim, self.synthetic = keys["trim"], keys["synthetic"]
        motion = [p for p in (self.file, self.kinematics, self.arrays and self.arrays[0]) if p is not None]
        self.name = keys["name"] or (motion[0].stem if motion else "")
        self.train, self.held_out = _times(where, "train", keys["train"]), _times(where, "held_out", keys["held_out"])
        if len(motion) != 1:
            raise InputError(
                f"{where}: give exactly one of 'kinematics', 'arrays' or 'trial' as the source of the motion"
            )
        self.targets = {
            quantity: _target(f"{where} [targets.{quantity}]", table, folder)
            for quantity, table in keys["targets"].items()
        }
        require_file_name(self.name, where)
        unused = [k for k in ("moments", "emg", "q_cutoff", "moment_cutoff") if getattr(self, k) is not None]
        if self.file is not None and (unused or self.geometry is not None or self.trim):
            raise InputError(
                f"{where}: 'trial' is a whole recording, ready made; remove the other files, cut-offs and 'trim', or "
                "give 'kinematics' instead"
            )
        if self.file is None and self.emg is None and (self.arrays is None or "emg" not in self.arrays[1]):
            raise InputError(f"{where}: no EMG; give 'emg', a file, or 'emg' among the arrays")

    def read_emg(self, channels: Sequence[str]) -> Table:
        """The channels that are mapped, in that order, as recorded."""
        if self.file is not None:
            return OfTrial(load_trial(self.file), str(self.file)).read_emg(channels)
        if self.emg is not None:
            return read_table(self.emg, columns=channels).renamed(channels)
        assert self.arrays is not None
        return OfRecording(Recording(self.name, read_arrays(*self.arrays)), self.where).read_emg(channels)

    def recorded(self, coordinates: Sequence[str]) -> Table | None:
        """Those of the coordinates that its motion holds; None where it brings its own muscle lengths."""
        if self.file is not None:
            return OfTrial(load_trial(self.file), str(self.file)).recorded(coordinates)
        if self.geometry is not None:
            return None
        if self.arrays is not None:
            return OfRecording(Recording(self.name, read_arrays(*self.arrays)), self.where).recorded(coordinates)
        assert self.kinematics is not None
        held = {coordinate_name(label) for label in read_labels(self.kinematics)}
        return read_coordinates(self.kinematics, tuple(c for c in coordinates if c in held))

    def read(self, model: NmsModel, coordinates: Sequence[str], emg: Table, dt: float | None) -> Trial:
        """The trial with its envelopes."""
        if self.file is not None:
            stored = load_trial(self.file)
            named = dataclasses.replace(stored, name=self.name, synthetic=stored.synthetic or self.synthetic)
            return OfTrial(named, str(self.file)).read(model, coordinates, emg, dt)
        if self.arrays is not None:
            arrays = read_arrays(*self.arrays)
        else:
            assert self.kinematics is not None
            wanted = model.paths.coordinates if model.paths is not None and self.geometry is None else model.coordinates
            arrays = Arrays(_upright(read_coordinates(self.kinematics, wanted)))
        if self.geometry is not None:
            geometry = read_muscle_analysis(self.geometry, coordinates, model.muscles, prefix=self.prefix)
            arrays = dataclasses.replace(arrays, geometry=geometry)
        if self.moments is not None:
            arrays = dataclasses.replace(arrays, moments=read_moments(self.moments, coordinates))
        recording = Recording(self.name, arrays, self.q_cutoff, self.moment_cutoff, self.trim, self.synthetic)
        return OfRecording(recording, self.where).read(model, coordinates, emg, dt)


def _upright(table: Table) -> Table:
    """Angles that are full turns off brought back, where the file says its unit; else so large values are a unit
    mistaken, which is left to be found."""
    off = np.abs(table.data).max(axis=0, initial=0.0) > 2 * np.pi
    if not (table.units_stated and off.any()):
        return table
    data = table.data.copy()
    data[:, off] = without_full_turns(data[:, off])
    return dataclasses.replace(table, data=data)


def _target(where: str, table: Any, folder: Folder) -> dict[str, MuscleSeries]:
    """Muscle -> its series, from a file with a column per muscle."""
    keys = read_keys(where, table, "target")
    file, columns = folder.path(keys["file"], f"{where}: file"), keys["columns"]
    read = read_table(file, columns=None if columns is None else tuple(columns.values()))
    muscles = read.labels if columns is None else tuple(columns)
    return {m: (read.time, read.data[:, i], keys["tolerance"]) for i, m in enumerate(muscles)}


def _arrays(where: str, table: Any, folder: Folder) -> tuple[Path, dict[str, Any]]:
    """An .npz file and what its arrays are, from ``[trials.arrays]``."""
    keys = read_keys(where, table, "arrays")
    file = folder.path(keys.pop("file"), f"{where}: file")
    roles = {role: value for role, value in keys.items() if value is not None}
    for role, value in roles.items():
        if not isinstance(value, str):
            names_of(f"{where}: {role}", value)
    return file, roles


def _times(where: str, key: str, given: Any) -> bool | tuple[tuple[float, float], ...]:
    """Windows in s; True for all of the trial."""
    if isinstance(given, bool):
        return given
    if not all(isinstance(w, list) and len(w) == 2 and all(is_kind(x, float) for x in w) for w in given):
        raise InputError(f"{where}: {key} is {given!r}; expected true, or windows [[start, stop], ...] in s")
    return tuple((float(a), float(b)) for a, b in given)
