"""Recordings from arrays: given as they are, or kept in ``.npz`` files under names of the user's choice."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nms_gym.errors import InputError, listed, near
from nms_gym.recording.muscle_analysis import MuscleAnalysis
from nms_gym.recording.npz import names_of, read_npz
from nms_gym.recording.storage import Table, require_unique
from nms_gym.recording.trial import Trial, make_trial

# What an array may be; "moment_coordinates" defaults to "coordinates" and "emg_time" to "time".
ROLES = (
    "time",
    "coordinates",
    "q",
    "qd",
    "channels",
    "emg_time",
    "emg",
    "moment_coordinates",
    "moments",
    "muscles",
    "lengths",
    "velocities",
    "moment_arms",
)
AXES = "moment_arm_axes"
AXIS_NAMES = ("time", "muscle", "coordinate")


@dataclass(frozen=True)
class Arrays:
    """The parts of a recording, ready for ``make_trial(name, **vars(arrays))``."""

    kinematics: Table
    speeds: Table | None = None
    emg: Table | None = None
    moments: Table | None = None
    geometry: MuscleAnalysis | None = None


@dataclass(frozen=True)
class Recording:
    """One recording as its tables are, EMG raw or enveloped, and how they are to be put on one grid."""

    name: str
    arrays: Arrays
    q_cutoff: float | None = None
    """Hz, low-pass of the coordinates; none by default"""
    moment_cutoff: float | None = None
    """Hz, low-pass of the moments; none by default"""
    trim: bool = False
    """whether the recording may be cut to the time that every table covers"""
    synthetic: bool = False
    """True when made by a model"""

    def trial(self, emg: Table | None = None, dt: float | None = None) -> Trial:
        """The tables on one grid of ``dt`` s (by default the kinematics' own), with other envelopes where given.

        Raises:
            InputError: see ``make_trial``.
        """
        a = self.arrays
        return make_trial(
            self.name,
            a.kinematics,
            speeds=a.speeds,
            emg=a.emg if emg is None else emg,
            moments=a.moments,
            geometry=a.geometry,
            dt=dt,
            q_cutoff=self.q_cutoff,
            moment_cutoff=self.moment_cutoff,
            trim=self.trim,
            synthetic=self.synthetic,
        )


def make_recording(
    name: str,
    *,
    time: Any,
    coordinates: Sequence[str],
    q: Any,
    qd: Any = None,
    channels: Sequence[str] = (),
    emg: Any = None,
    emg_time: Any = None,
    moments: Any = None,
    moment_coordinates: Sequence[str] | None = None,
    muscles: Sequence[str] = (),
    lengths: Any = None,
    velocities: Any = None,
    moment_arms: Any = None,
    q_cutoff: float | None = None,
    moment_cutoff: float | None = None,
    trim: bool = False,
    synthetic: bool = False,
) -> Recording:
    """A recording from plain arrays, everything matched by name; ``make_recording(...).trial()`` is its trial.

    Args:
        name: of the recording.
        time: (T,) s.
        coordinates: D names.
        q: (T, D) rad (m for translations).
        qd: (T, D) rad/s; by default the derivative of ``q``.
        channels: C names.
        emg: (E, C), raw or envelopes; what a study makes of it is the study's to say.
        emg_time: (E,) s; may start before ``time``; by default ``time``.
        moments: (T, K) N·m, measured.
        moment_coordinates: K names; by default ``coordinates``.
        muscles: M names, of muscle tables that replace a model's paths.
        lengths: (T, M) m.
        velocities: (T, M) m/s; by default the derivative of ``lengths``.
        moment_arms: (T, K, M) m, -d(length)/dq.
        q_cutoff: Hz, low-pass of the coordinates.
        moment_cutoff: Hz, low-pass of the moments.
        trim: cut to the time that every table covers.
        synthetic: True when made by a model.

    Raises:
        InputError: an array is not numeric, or its shape does not fit the names.
    """
    where = f"recording {name!r}"
    given = {
        "time": time,
        "q": q,
        "qd": qd,
        "emg": emg,
        "emg_time": emg_time,
        "moments": moments,
        "lengths": lengths,
        "velocities": velocities,
        "moment_arms": moment_arms,
    }
    arrays = {role: np.asarray(value) for role, value in given.items() if value is not None}
    words = {"coordinates": coordinates, "channels": channels, "muscles": muscles}
    if moment_coordinates is not None:
        words["moment_coordinates"] = moment_coordinates
    arrays |= {role: np.array(list(names), dtype=np.str_) for role, names in words.items()}
    tables = _tables(where, arrays, ("time", "coordinate", "muscle"))
    return Recording(name, tables, q_cutoff, moment_cutoff, trim, synthetic)


def read_arrays(path: str | os.PathLike[str], keys: Mapping[str, str | Sequence[str]]) -> Arrays:
    """Read a recording from an ``.npz`` file (SI units, radians; pickled objects are refused).

    Args:
        path: the file.
        keys: role -> key in the file. Roles: time (T,), coordinates (D names), q (T, D), and optionally qd
            (T, D), channels (C names), emg_time (E,), emg (E, C), moment_coordinates (K names), moments (T,
            K), muscles (M names), lengths (T, M), velocities (T, M), moment_arms (three axes). A role of
            names may also be a list of names. ``moment_arm_axes`` gives the order of the axes of
            moment_arms, such as ``"time,coordinate,muscle"`` or ``"time,muscle,coordinate"``; its
            coordinates are those of moments.

    Raises:
        InputError: the file is missing or no ``.npz``; a role is unknown or a key missing (those in the file
            are listed); an array is not numeric or its shape does not fit the names; the axis order is
            missing.
    """
    file = str(path)
    unknown = [role for role in keys if role not in (*ROLES, AXES)]
    if unknown:
        raise InputError(f"{file}: unknown role {listed(unknown)}; {near(unknown[0], (*ROLES, AXES))}")
    needed = [role for role in ("time", "coordinates", "q") if role not in keys]
    if needed:
        raise InputError(f"{file}: no key given for {listed(needed)}; every recording needs time, coordinates, q")
    stored = read_npz(file, [key for key in keys.values() if isinstance(key, str)])
    arrays = {role: _get(file, stored, role, key) for role, key in keys.items() if role != AXES}
    return _tables(file, arrays, keys.get(AXES))


def _tables(file: str, arrays: Mapping[str, np.ndarray], axes: str | Sequence[str] | None) -> Arrays:
    time = _numbers(file, arrays, "time", ())
    coordinates = _names(file, arrays, "coordinates")
    kinematics = Table(file, coordinates, time, _numbers(file, arrays, "q", (len(time), len(coordinates))))
    speeds = emg = moments = None
    if "qd" in arrays:
        values = _numbers(file, arrays, "qd", (len(time), len(coordinates)))
        speeds = Table(file, coordinates, time, values)
    if "emg" in arrays:
        channels = _names(file, arrays, "channels")
        emg_time = _numbers(file, arrays, "emg_time", ()) if "emg_time" in arrays else time
        emg = Table(file, channels, emg_time, _numbers(file, arrays, "emg", (len(emg_time), len(channels))))
    turned = _names(file, arrays, "moment_coordinates") if "moment_coordinates" in arrays else coordinates
    if "moments" in arrays:
        moments = Table(file, turned, time, _numbers(file, arrays, "moments", (len(time), len(turned))))
    geometry = _geometry(file, arrays, axes, time, turned) if "lengths" in arrays else None
    return Arrays(kinematics, speeds, emg, moments, geometry)


def _geometry(
    file: str,
    arrays: Mapping[str, np.ndarray],
    axes: str | Sequence[str] | None,
    time: np.ndarray,
    coordinates: tuple[str, ...],
) -> MuscleAnalysis:
    muscles = _names(file, arrays, "muscles")
    shape = {"time": len(time), "muscle": len(muscles), "coordinate": len(coordinates)}
    if "moment_arms" not in arrays:
        raise InputError(f"{file}: lengths are given without moment_arms; name the array that holds them")
    order = tuple(part.strip() for part in axes.split(",")) if isinstance(axes, str) else tuple(axes or ())
    if sorted(order) != sorted(AXIS_NAMES):
        raise InputError(
            f"{file}: {AXES} is {axes!r}; expected an order of 'time', 'muscle' and 'coordinate', such as"
            " 'time,coordinate,muscle'"
        )
    arms = _numbers(file, arrays, "moment_arms", tuple(shape[axis] for axis in order))
    velocities = None
    if "velocities" in arrays:
        velocities = _numbers(file, arrays, "velocities", (len(time), len(muscles)))
    return MuscleAnalysis(
        path=file,
        time=time,
        muscles=muscles,
        coordinates=coordinates,
        lengths=_numbers(file, arrays, "lengths", (len(time), len(muscles))),
        velocities=velocities,
        moment_arms=np.transpose(arms, [order.index(axis) for axis in ("time", "coordinate", "muscle")]),
        files=(file,),
    )


def _get(file: str, stored: Mapping[str, np.ndarray | None], role: str, key: str | Sequence[str]) -> np.ndarray:
    if not isinstance(key, str):
        return np.array(list(key), dtype=np.str_)
    value = stored.get(key)
    if value is None:
        raise InputError(f"{file}: no array {key!r} (for {role}); {near(key, list(stored))}")
    return value


def _names(file: str, arrays: Mapping[str, np.ndarray], role: str) -> tuple[str, ...]:
    if role not in arrays:
        raise InputError(f"{file}: no key given for {role!r}, the names of an array that is given")
    names = names_of(arrays[role], f"{file}: {role}")
    require_unique(names, role, file)
    return names


def _numbers(file: str, arrays: Mapping[str, np.ndarray], role: str, shape: tuple[int, ...]) -> np.ndarray:
    value = arrays[role]
    if value.dtype.kind not in "fiu":
        raise InputError(f"{file}: {role} has type {value.dtype}; expected real numbers")
    if shape and value.shape != shape:
        raise InputError(f"{file}: {role} has shape {value.shape}; expected {shape} from its times and names")
    if not shape and value.ndim != 1:
        raise InputError(f"{file}: {role} has shape {value.shape}; expected one row of times")
    return value.astype(np.float64)
