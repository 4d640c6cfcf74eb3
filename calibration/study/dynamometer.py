"""Dynamometer: moments of maximal contractions, which tell a person's strength where EMG tells strength times gain.

Muscles that pull the joint's way are taken to be fully active, their antagonists silent, unless the recording says
otherwise; both pull passively too. A contraction is isometric, or isokinetic at the instant of its peak, where force
does not change, so that the fibers carry all of the velocity. What gravity does to limb and lever is expected to be
taken off already, as dynamometers do.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy.linalg import block_diag

from calibration.problem import MaximalMoments
from nms_gym.errors import InputError, listed, near, shown
from nms_gym.model.structure import NmsModel
from nms_gym.muscle.geometry import check_domain, lengths_and_moment_arms
from nms_gym.recording.delimited import is_number, read_lines, without_unit

TOLERANCE = 0.1
"""of the moment, where nobody says: a maximal moment is repeated to 5 to 10 %, and no effort is quite maximal"""
SHARED = 0.5
"""part of the error's variance that contractions of one recording share, where nobody says: effort, above all"""
LEAST_ARM = 1e-3
"""m; muscles with a smaller moment arm do not count as pulling a joint's way"""
MOST_ROWS = 1000
DIRECTIONS = {"+": 1, "positive": 1, "1": 1, "+1": 1, "-": -1, "negative": -1, "-1": -1, "−": -1}
ANGLES = {"degrees": math.pi / 180, "radians": 1.0}
_UNITS = {"deg": "degrees", "degrees": "degrees", "degree": "degrees", "°": "degrees", "rad": "radians"}
_COLUMNS = ("joint", "moment", "direction", "velocity", "tolerance")


@dataclass(frozen=True, eq=False)
class Dynamometer:
    """Maximal contractions as arrays: R of them, each of one joint in a pose of D coordinates.

    Raises:
        InputError: arrays of different lengths, a moment that is not above 0, a direction that is not +1 or -1, a
            tolerance that is not above 0, an activation outside 0 to 1, or what is no finite number.
    """

    name: str
    joints: tuple[str, ...]
    """coordinate whose moment it is, of each"""
    coordinates: tuple[str, ...]
    """columns of ``q``: all that the muscle paths need"""
    q: np.ndarray
    """(R, D) rad"""
    moments: np.ndarray
    """(R,) N·m, how large"""
    directions: np.ndarray
    """(R,) +1 where the moment is along the coordinate, -1 where it is against it"""
    velocities: np.ndarray | None = None
    """(R,) rad/s of the joint, positive along the coordinate; isometric where there are none"""
    tolerance: np.ndarray | float | None = None
    """N·m, expected error of model and measurement, one or (R,); by default ``TOLERANCE`` of the moment"""
    shared: float = SHARED
    """part of the variance of these errors that all contractions have in common"""
    activation: float = 1.0
    """of the muscles that pull the joint's way: voluntary activation, where that was measured"""
    coactivation: float = 0.0
    """activation of their antagonists"""
    where: str = ""
    """for messages; by default by its name"""
    rows: tuple[str, ...] = ()
    """what each is called in messages; by default "contraction 1", ..."""

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("where", self.where or f"dynamometer {self.name!r}")
        put("joints", tuple(self.joints))
        put("coordinates", tuple(self.coordinates))
        count = len(self.joints)
        if not count:
            raise InputError(f"{self.where}: no contraction; give at least one")
        put("rows", self.rows or tuple(f"contraction {i + 1}" for i in range(count)))
        if self.velocities is None:
            put("velocities", np.zeros(count))
        if self.tolerance is None:
            put("tolerance", TOLERANCE * np.abs(np.asarray(self.moments, float)))
        elif np.ndim(self.tolerance) == 0:
            put("tolerance", np.full(count, self.tolerance, float))
        for name in ("moments", "directions", "velocities", "tolerance"):
            self._put_column(name, count)
        q = np.asarray(self.q, float)
        if q.shape != (count, len(self.coordinates)):
            raise InputError(
                f"{self.where}: q has shape {q.shape}; expected {(count, len(self.coordinates))}, a row for each "
                f"contraction, a column for each of {listed(self.coordinates)}"
            )
        put("q", q)
        for i, k in np.argwhere(~np.isfinite(q)).tolist():
            raise InputError(f"{self.place(i, self.coordinates[k])} is {q[i, k]:g}; expected a finite angle")
        if not 0 <= self.shared < 1:
            raise InputError(f"{self.where}: shared is {self.shared:g}; expected 0 (each on its own) to below 1")
        for name, low in (("activation", 0.0), ("coactivation", -1.0)):
            value = getattr(self, name)
            if not (np.isfinite(value) and low < value <= 1 and value >= 0):
                raise InputError(f"{self.where}: {name} is {value:g}; expected {'above 0' if low == 0 else '0'} to 1")

    def _put_column(self, name: str, count: int) -> None:
        values = np.asarray(getattr(self, name), float)
        column = {"moments": "moment", "directions": "direction", "velocities": "velocity"}.get(name, name)
        if values.shape != (count,):
            raise InputError(f"{self.where}: {name} has shape {values.shape}; expected ({count},), one per contraction")
        fits, expected = np.isfinite(values), "a finite number"
        if name in ("moments", "tolerance"):
            fits, expected = fits & (values > 0), "a number above 0, in N·m"
            if name == "moments":
                expected += ": how large it is; the direction says which way"
        elif name == "directions":
            fits, expected = np.abs(values) == 1, "+1 (along the coordinate) or -1"
        if not fits.all():
            i = int(np.argmin(fits))
            raise InputError(f"{self.place(i, column)} is {values[i]:g}; expected {expected}")
        object.__setattr__(self, name, values)

    def place(self, row: int, column: str) -> str:
        """Where a value is, for messages."""
        return f"{self.where}, {self.rows[row]}: {column!r}"


def read_dynamometer(
    path: str | os.PathLike[str],
    *,
    angles: str = "radians",
    tolerance: float = TOLERANCE,
    shared: float = SHARED,
    activation: float = 1.0,
    coactivation: float = 0.0,
    where: str | None = None,
) -> Dynamometer:
    """Contractions from a table of text, a row each.

    Columns: ``joint``, ``moment`` (N·m, above 0), ``direction`` (``+`` or ``positive``: along the coordinate; ``-`` or
    ``negative``: against it), perhaps ``velocity`` of the joint (empty or 0: isometric) and ``tolerance`` (N·m); every
    other column is the angle of a coordinate. Units may stand in brackets after a label, ``elbow_flex (deg)``.

    Args:
        path: of the file.
        angles: unit of angles and velocities whose label does not say: "radians" or "degrees".
        tolerance: of the moment, where the file has none.
        shared: part of the variance of these errors that all contractions have in common.
        activation: of the muscles that pull the joint's way.
        coactivation: of their antagonists.
        where: names the file in messages.

    Raises:
        InputError: no such file or column, or a cell that is not what it should be, with line and column.
    """
    where = str(path) if where is None else where
    if angles not in ANGLES:
        raise InputError(f"{where}: angles is {shown(angles)}; use {listed(ANGLES)}")
    if not (np.isfinite(tolerance) and tolerance > 0):
        raise InputError(
            f"{where}: tolerance is {tolerance:g}; expected the error as a fraction of the moment, above 0"
        )
    header, units, rows = _table(Path(path), where)
    for needed in _COLUMNS[:3]:
        if needed not in header:
            raise InputError(f"{where}: no column {needed!r}; {near(needed, header)}")
    coordinates = tuple(h for h in header if h not in _COLUMNS)

    def unit(column: str) -> float:
        return ANGLES[_unit(units[column], angles, column, where)]

    def numbers(column: str, empty: float | None = None) -> list[float]:
        what = "a finite number"
        if column not in _COLUMNS:
            what = f"a finite number: columns other than {listed(_COLUMNS)} are angles"
        return [_number(row[column], empty, f"{where}, line {line}: {column!r}", what) for line, row in rows]

    q = np.array([numbers(c) for c in coordinates]).reshape(len(coordinates), len(rows)).T
    scale = np.array([unit(c) for c in coordinates])
    lines = tuple(f"line {line}" for line, _ in rows)
    moments = np.array(numbers("moment"))
    given = np.array(numbers("tolerance", math.nan)) if "tolerance" in header else np.full(len(rows), math.nan)
    velocities = np.array(numbers("velocity", 0.0)) * unit("velocity") if "velocity" in header else None
    for column, k in zip(coordinates, range(len(coordinates)), strict=True):
        wide = np.abs(q[:, k] * scale[k]) > 2 * math.pi
        if wide.any():
            i = int(np.argmax(wide))
            raise InputError(
                f"{where}, {lines[i]}: {column!r} is {q[i, k]:g} rad, more than a full turn; use angles = 'degrees', "
                f"or label the column '{column} (deg)'"
            )
    return Dynamometer(
        name=Path(path).stem,
        joints=tuple(row["joint"] for _, row in rows),
        coordinates=coordinates,
        q=q * scale,
        moments=moments,
        directions=np.array([_direction(row["direction"], f"{where}, line {line}") for line, row in rows]),
        velocities=velocities,
        tolerance=np.where(np.isnan(given), tolerance * np.abs(moments), given),
        shared=shared,
        activation=activation,
        coactivation=coactivation,
        where=where,
        rows=lines,
    )


def _table(path: Path, where: str) -> tuple[list[str], dict[str, str], list[tuple[int, dict[str, str]]]]:
    """Labels without units, their units, and the rows with their line numbers; cells as text."""
    lines = read_lines(path)
    first = next(i for i, line in enumerate(lines) if line.strip())
    delimiter = next((d for d in ("\t", ";", ",") if d in lines[first]), ",")
    try:
        cells = [
            (i + 1, next(csv.reader([line], delimiter=delimiter, strict=True)))
            for i, line in enumerate(lines)
            if line.strip()
        ]
    except csv.Error as error:
        raise InputError(f"{where}: not a readable table ({error})") from error
    labels = [without_unit(label.strip()) for label in cells[0][1]]
    header = [name for name, _ in labels]
    twice = sorted({h for h in header if header.count(h) > 1})
    if twice or "" in header:
        raise InputError(
            f"{where}: {'a column has no label' if '' in header else 'two columns are called ' + listed(twice)}"
        )
    if not 1 < len(cells) <= MOST_ROWS + 1:
        raise InputError(
            f"{where}: {len(cells) - 1} rows; expected a row per contraction, 1 to {MOST_ROWS}: its largest moment, "
            "not the moment over time"
        )
    rows = []
    for line, row in cells[1:]:
        if len(row) != len(header):
            raise InputError(f"{where}, line {line}: {len(row)} cells; expected {len(header)}, as many as labels")
        decimal_comma = delimiter != ","
        rows.append(
            (
                line,
                {
                    h: c.strip().replace(",", ".") if decimal_comma else c.strip()
                    for h, c in zip(header, row, strict=True)
                },
            )
        )
    return header, dict(labels), rows


def _unit(written: str, default: str, column: str, where: str) -> str:
    word = written.removesuffix("/s").removesuffix(" per second").strip().casefold()
    if word and word not in _UNITS:
        raise InputError(f"{where}: column {column!r} is in {shown(written)}; use deg or rad")
    return _UNITS[word] if word else default


def _number(cell: str, empty: float | None, where: str, expected: str) -> float:
    if not cell and empty is not None:
        return empty
    if not is_number(cell) or not math.isfinite(float(cell)):
        raise InputError(f"{where} is {shown(cell)}; expected {expected}")
    return float(cell)


def _direction(cell: str, where: str) -> int:
    if cell.casefold() not in DIRECTIONS:
        raise InputError(
            f"{where}: 'direction' is {shown(cell)}; use + or positive (along the coordinate), - or negative"
        )
    return DIRECTIONS[cell.casefold()]


def maximal_moments(sources: Sequence[Dynamometer], model: NmsModel) -> MaximalMoments | None:
    """The contractions ready to calibrate, all together; None where there are none.

    Raises:
        InputError: the model has no muscle paths, or they lack the joint or need a coordinate that is not given; a pose
            outside the paths' range; no muscle pulls that way.
    """
    if not sources:
        return None
    parts = [_of(source, model) for source in sources]

    def joined(name: str) -> Any:
        values = [part[name] for part in parts]
        if name == "covariance":
            return block_diag(*values)
        return sum(values, ()) if isinstance(values[0], tuple) else np.concatenate(values)

    return MaximalMoments(**{name: joined(name) for name in parts[0]})


def _of(source: Dynamometer, model: NmsModel) -> Mapping[str, Any]:
    paths, where = model.paths, source.where
    if paths is None:
        raise InputError(
            f"{where}: the model has no muscle paths, which give lengths and moment arms in these poses; give [model] "
            "paths"
        )
    missing = [c for c in paths.coordinates if c not in source.coordinates]
    if missing:
        raise InputError(
            f"{where}: no angle of {listed(missing)}, which the muscle paths need; "
            f"{near(missing[0], source.coordinates)}"
        )
    strange = [c for c in source.coordinates if c not in paths.coordinates]
    if strange:
        raise InputError(f"{where}: column {strange[0]!r} is no coordinate; {near(strange[0], paths.coordinates)}")
    for i, joint in enumerate(source.joints):
        if joint not in paths.coordinates:
            raise InputError(f"{source.place(i, 'joint')} is {shown(joint)}; {near(joint, paths.coordinates)}")
    q = source.q[:, [source.coordinates.index(c) for c in paths.coordinates]]
    for i, pose in enumerate(q):
        check_domain(paths, pose, source=f"{where}, {source.rows[i]}")
    joints = np.array([paths.coordinates.index(joint) for joint in source.joints])
    with jax.enable_x64(True):
        lengths, arms = jax.tree.map(np.asarray, jax.vmap(lengths_and_moment_arms, in_axes=(None, 0))(paths, q))
    arms = arms[np.arange(len(q)), joints]
    directions, speed = source.directions[:, None], np.asarray(source.velocities)[:, None]
    pulls = arms * directions > LEAST_ARM
    for i in map(int, np.flatnonzero(~pulls.any(axis=1))):
        raise InputError(
            f"{source.place(i, 'direction')} is {'+' if source.directions[i] > 0 else '-'}, but no muscle of the study "
            f"pulls {source.joints[i]!r} that way; turn the sign, or add the muscles"
        )
    against = arms * directions < -LEAST_ARM
    # Signed like the moments: who tries less is weaker both ways.
    tolerance = source.directions * np.asarray(source.tolerance)
    return {
        "labels": tuple(_label(source, i, paths.coordinates, q) for i in range(len(q))),
        "joints": source.joints,
        "moments": source.directions * source.moments,
        "tolerance": np.asarray(source.tolerance),
        "covariance": np.outer(tolerance, tolerance) * ((1 - source.shared) * np.eye(len(q)) + source.shared),
        "level": np.where(pulls, source.activation, np.where(against, source.coactivation, 0.0)),
        "lengths": lengths,
        # Of the joint alone: r = -dl/dq.
        "velocities": -arms * speed,
        "moment_arms": arms,
    }


def _label(source: Dynamometer, row: int, names: Sequence[str], q: np.ndarray) -> str:
    pose = ", ".join(f"{name} {math.degrees(x):.0f}°" for name, x in zip(names, q[row], strict=True))
    speed = float(np.asarray(source.velocities)[row])
    return pose if speed == 0 else f"{pose}, at {math.degrees(speed):.0f}°/s"
