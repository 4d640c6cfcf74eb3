"""Tables of numbers over time: OpenSim ``.sto``/``.mot``, delimited text and CSV.

Columns are found by name, never by position. OpenSim writes a coordinate's value as
``/jointset/hip_r/hip_flexion_r/value``; asking for ``hip_flexion_r`` finds it.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nms_gym.errors import InputError, listed, near, seconds, shown
from nms_gym.recording.delimited import GAPS, Block, is_number, read_blocks, without_unit

# Endings of OpenSim's path-style labels; "value" is the coordinate itself and wins for a bare name.
STATES = ("value", "speed", "acceleration", "activation", "fiber_length", "normalized_tendon_force")
# OpenSim names the translations of a free joint so; every other coordinate counts as an angle.
TRANSLATION_ENDINGS = ("_tx", "_ty", "_tz")


class TableWarning(UserWarning):
    """Rows of a table were left out."""


class UnitsWarning(UserWarning):
    """The numbers of a file sit oddly with the units its header states."""


@dataclass(frozen=True)
class Table:
    """Columns over time.

    Attributes:
        path: where it came from, for messages.
        labels: column names without the time column, as written in the file.
        time: (T,) s, strictly increasing.
        data: (T, n) float64.
        in_degrees: what the header says; False when it is silent.
        units_stated: whether the header said anything about degrees.
        units: of each column, as the file states them ("" where it is silent); empty where it states none.
    """

    path: str
    labels: tuple[str, ...]
    time: np.ndarray
    data: np.ndarray
    in_degrees: bool = False
    units_stated: bool = False
    units: tuple[str, ...] = ()

    def index(self, name: str) -> int:
        """Position of the column ``name`` in ``data``.

        An exact label wins; then a path-style one ending in ``/name``, ``/name/value`` or ``/name/<state>``; then one
        that is ``name`` with a unit in brackets.

        Raises:
            InputError: no such column (near names are listed), or several fit.
        """
        exact = [i for i, label in enumerate(self.labels) if label == name]
        for wanted in (f"/{name}", f"/{name}/value"):
            if not exact:
                exact = [i for i, label in enumerate(self.labels) if label.endswith(wanted)]
        if not exact:
            exact = [i for i, label in enumerate(self.labels) if coordinate_name(label) == name]
        if not exact:
            exact = [i for i, label in enumerate(self.labels) if without_unit(label)[0] == name]
        if len(exact) == 1:
            return exact[0]
        if exact:
            found = listed(f"{self.labels[i]} (column {i + 2})" for i in exact)
            raise InputError(f"{self.path}: {name!r} fits several columns: {found}; give the full label")
        short = [coordinate_name(label) for label in self.labels]
        raise InputError(f"{self.path}: no column {shown(name)}; {near(name, short)}")

    def has(self, name: str) -> bool:
        """Whether there is a column ``name``, or several that fit."""
        return any(name in (label, coordinate_name(label), without_unit(label)[0]) for label in self.labels)

    def column(self, name: str) -> np.ndarray:
        """(T,) values of one column; see ``index`` for how it is found and what is raised."""
        return self.data[:, self.index(name)]

    def select(self, names: Sequence[str]) -> np.ndarray:
        """(T, len(names)) values in the order asked for; see ``index`` for what is raised."""
        return self.data[:, [self.index(name) for name in names]]

    def renamed(self, names: Sequence[str]) -> Table:
        """The columns ``names``, in that order, labelled by exactly those names."""
        units = tuple(self.units[self.index(name)] for name in names) if self.units else ()
        return replace(self, labels=tuple(names), data=self.select(names), units=units)


def coordinate_name(label: str) -> str:
    """Short name of a path-style label: ``/jointset/hip_r/hip_flexion_r/value`` gives ``hip_flexion_r``."""
    parts = [part for part in label.split("/") if part]
    if not label.startswith("/") or not parts:
        return label
    return parts[-2] if len(parts) > 1 and parts[-1] in STATES else parts[-1]


def require_unique(names: Sequence[str], what: str, where: str) -> None:
    """Raise ``InputError`` when a name occurs twice."""
    double = sorted({name for name in names if list(names).count(name) > 1})
    if double:
        raise InputError(f"{where}: {what} named more than once: {listed(double)}; every name must be unique")


# --- reading ------------------------------------------------------------


def read_table(
    path: str | os.PathLike[str], columns: Sequence[str] | None = None, *, may_lack: Sequence[str] = ()
) -> Table:
    """Read a ``.sto``, ``.mot``, ``.csv`` or plain text table.

    Everything up to a line ``endheader`` is header: ``key=value`` (or ``key value``) lines in any order
    and spelling, blank lines and free text. Row and column counts of the header are ignored: they are often
    wrong. Without ``endheader`` the table starts at the first line that has a time label. Cells are separated
    by tabs and blanks, or by commas or semicolons. ``delimited`` says which other layouts are known.

    Args:
        path: the file.
        columns: read and check only these (in this order, kept under their labels in the file); default all.
        may_lack: labels of columns that are NaN where the file has no number, instead of an error.

    Raises:
        InputError: file missing, empty or without a time column; a column is missing; a row has too few or
            too many cells; a cell is no finite number (file, line, time, column and text are named); time
            repeats with other numbers, or runs backwards; columns are asked for together that have times of their own.

    Warns:
        TableWarning: rows were left out: some repeat the row before, or channels end at different samples.
    """
    groups, header = _groups(path)
    file = str(path)
    everything = [(group, i) for group in groups for i in range(len(group.labels))]
    if columns is not None:
        bare = Table(file, tuple(group.labels[i] for group, i in everything), np.empty(0), np.empty((0, 0)))
        everything = [everything[bare.index(name)] for name in columns]
    if not everything:
        raise InputError(f"{file}: there is no column beside 'time'")
    used = list({id(group): group for group, _ in everything}.values())
    if len(used) > 1:
        parts = "; ".join(f"{listed(group.labels, 4)} every {group.step:.6g} s" for group in used)
        raise InputError(f"{file}: these columns have times of their own: {parts}; name columns that share theirs")
    return _read_group(file, used[0], [i for _, i in everything], header, may_lack)


def read_tables(path: str | os.PathLike[str], *, may_lack: bool = False) -> tuple[Table, ...]:
    """Every column of a file, as one table for each set of times: programs write several rates into one file.

    Args:
        path: the file.
        may_lack: NaN where a number is missing, instead of an error; columns of words are left out with a warning.

    Raises:
        InputError: see ``read_table``.
    """
    groups, header = _groups(path)
    kept = [_with_numbers(str(path), group) if may_lack else list(range(len(group.labels))) for group in groups]
    if not any(kept):
        raise InputError(f"{path}: there is no column of numbers beside 'time'")
    return tuple(
        _read_group(str(path), group, columns, header, group.labels if may_lack else ())
        for group, columns in zip(groups, kept, strict=True)
        if columns
    )


def _with_numbers(file: str, group: _Group) -> list[int]:
    """The columns that are not words throughout; some programs write activities and markers beside the numbers."""
    words = [
        i
        for i, (block, column) in enumerate(group.places)
        if not any(is_number(row[column]) or row[column].lower() in GAPS for row in block.rows)
    ]
    if words:
        warnings.warn(
            f"{file}: {listed(group.labels[i] for i in words)} holds words instead of numbers; left out",
            TableWarning,
            stacklevel=3,
        )
    return [i for i in range(len(group.labels)) if i not in words]


@dataclass(frozen=True)
class _Group:
    """Columns that share their times, maybe of several blocks."""

    time: np.ndarray
    labels: tuple[str, ...]
    units: tuple[str, ...]
    places: tuple[tuple[Block, int], ...]

    @property
    def step(self) -> float:
        """Median step, s; NaN for a single row."""
        return float(np.median(np.diff(self.time))) if len(self.time) > 1 else math.nan


def _groups(path: str | os.PathLike[str]) -> tuple[list[_Group], list[str]]:
    """The columns of a file by their times, and its header lines."""
    file = str(path)
    header, blocks = read_blocks(path)
    groups: list[_Group] = []
    for block in blocks:
        time = block.scale * _numbers(block, [(block.time, block.time_label)], file, None)[:, 0]
        group = _Group(time, block.labels, block.units, tuple((block, i) for i in block.columns))
        for n, other in enumerate(groups):
            count = min(len(time), len(other.time))
            # Channels of one device end a few samples apart.
            close = abs(len(time) - len(other.time)) <= max(2, count // 100) and count > 1
            if close and np.abs(time[:count] - other.time[:count]).max() <= 1e-3 * abs(other.step):
                if len(time) != len(other.time):
                    warnings.warn(
                        f"{file}: {listed(group.labels, 4)} and {listed(other.labels, 4)} have {len(time)} and "
                        f"{len(other.time)} rows; the first {count} are read",
                        TableWarning,
                        stacklevel=4,
                    )
                groups[n] = _Group(
                    other.time[:count],
                    other.labels + group.labels,
                    other.units + group.units,
                    other.places + group.places,
                )
                break
        else:
            groups.append(group)
    return groups, header


def _read_group(file: str, group: _Group, kept: Sequence[int], header: Sequence[str], may_lack: Sequence[str]) -> Table:
    """The columns ``kept`` of a group, checked."""
    labels = tuple(group.labels[i] for i in kept)
    units = tuple(group.units[i] for i in kept)
    in_degrees, stated = _angle_units(header, file)
    if not stated and any(units):
        angles = {unit.lower().rstrip("s") for unit in units} & {"deg", "degree", "°", "rad", "radian"}
        stated, in_degrees = bool(angles), bool(angles & {"deg", "degree", "°"})
    time = group.time
    data = np.empty((len(time), len(kept)))
    by_block: dict[int, list[int]] = {}
    for n, i in enumerate(kept):
        by_block.setdefault(id(group.places[i][0]), []).append(n)
    for positions in by_block.values():
        block = group.places[kept[positions[0]]][0]
        cells = [(group.places[kept[n]][1], labels[n]) for n in positions]
        lack = {label for _, label in cells if label in may_lack}
        data[:, positions] = _numbers(block, cells, file, time, lack)[: len(time)]
    lines = group.places[kept[0]][0].lines
    time, data = _without_repeats(file, time, data, lines)
    return Table(file, labels, time, data, in_degrees, stated, units if any(units) else ())


def _without_repeats(
    file: str, time: np.ndarray, data: np.ndarray, lines: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Strictly increasing times: a row that says again what the row before says is left out, with a warning.

    OpenSim's own tools (RRA, CMC) write the last time twice.
    """
    same = np.zeros(len(time), dtype=bool)
    equal = (data[1:] == data[:-1]) | (np.isnan(data[1:]) & np.isnan(data[:-1]))
    same[1:] = (np.diff(time) == 0) & equal.all(axis=1)
    kept = np.flatnonzero(~same)
    _check_time(time[kept], file, [lines[int(i)] for i in kept])
    if same.any():
        dropped = [lines[int(i)] for i in np.flatnonzero(same)]
        text = ", ".join(map(str, dropped[:6])) + (f" and {len(dropped) - 6} more" if len(dropped) > 6 else "")
        warnings.warn(
            f"{file}: line {text} repeats time and numbers of the line before "
            f"({seconds(time[same][0], 9)} s); left out",
            TableWarning,
            stacklevel=4,
        )
    return time[kept], data[kept]


def _angle_units(header: Sequence[str], file: str) -> tuple[bool, bool]:
    """(in degrees, stated) from the header lines."""
    spoken = None
    for line in header:
        text = " ".join(line.strip().lower().split())
        match = re.fullmatch(r"([a-z_ ]+?)\s*[=:\s]\s*(\S+)", text)
        key = re.sub(r"[ _]", "", match.group(1)) if match else ""
        if match and key == "indegrees":
            if match.group(2) not in ("yes", "y", "true", "1", "no", "n", "false", "0"):
                raise InputError(f"{file}: header says {line.strip()!r}; expected inDegrees=yes or =no")
            return match.group(2) in ("yes", "y", "true", "1"), True
        if match and key == "datatype" and match.group(2) != "double":
            raise InputError(f"{file}: DataType={match.group(2)} is no table of numbers; export it as double")
        # Files older than the inDegrees key say it in words.
        if "angles are in degrees" in text:
            spoken = True
        elif "angles are in radians" in text:
            spoken = False
    return bool(spoken), spoken is not None


def _numbers(
    block: Block,
    columns: Sequence[tuple[int, str]],
    file: str,
    time: np.ndarray | None,
    may_lack: Collection[str] = (),
) -> np.ndarray:
    """(T, len(columns)) numbers; NaN only in columns that ``may_lack`` some."""
    places = [i for i, _ in columns]
    try:
        values = np.array([[float(row[i]) for i in places] for row in block.rows], dtype=np.float64)
        if np.isfinite(values).all():
            return values
    except ValueError:
        pass
    values = np.empty((len(block.rows), len(columns)))
    for n, row in enumerate(block.rows):
        for k, (i, label) in enumerate(columns):
            gap = row[i].lower() in GAPS
            try:
                values[n, k] = math.nan if gap else float(row[i])
            except ValueError:
                values[n, k] = math.inf
            if not math.isfinite(values[n, k]) and not (gap and label in may_lack):
                at = "" if time is None or n >= len(time) else f" (time {seconds(time[n])} s)"
                raise InputError(
                    f"{file}: line {block.lines[n]}{at}, column {shown(label)}: found {shown(row[i])}, expected a"
                    " finite number; fill the gap, cut the row or leave the column out"
                )
    return values


def _check_time(time: np.ndarray, file: str, line_numbers: Sequence[int]) -> None:
    bad = np.flatnonzero(np.diff(time) <= 0)
    if bad.size:
        i = int(bad[0])
        what = "repeats" if time[i + 1] == time[i] else "runs backwards"
        raise InputError(
            f"{file}: time {what}: {seconds(time[i], 9)} s in line {line_numbers[i]}, then "
            f"{seconds(time[i + 1], 9)} s in"
            f" line {line_numbers[i + 1]}; expected strictly increasing times; remove or reorder these rows"
        )


# --- coordinates and moments --------------------------------------------


def read_coordinates(
    path: str | os.PathLike[str],
    names: Sequence[str],
    *,
    translations: Sequence[str] | None = None,
    check_units: bool = True,
) -> Table:
    """Joint coordinates in radians (translations in metres, as they are).

    Only the columns asked for are read and checked: OpenSim's coupled ``*_beta`` columns are in degrees in
    some files that state radians.

    Args:
        path: an IK result, ``.mot``, ``.sto`` or ``.csv``.
        names: coordinates, the order of the columns returned.
        translations: which of them are lengths; default those that end in ``_tx``, ``_ty`` or ``_tz``.
        check_units: refuse angles beyond 2 pi rad. Set False for a coordinate that turns full circles.

    Returns:
        Table whose labels are ``names``, ``in_degrees`` False.

    Raises:
        InputError: see ``read_table``; or the file does not say degrees but its values do.

    Warns:
        UnitsWarning: the header says degrees but the values look like radians.
    """
    names = tuple(names)
    require_unique(names, "coordinates", str(path))
    table = read_table(path, columns=names)
    if translations is None:
        translations = [name for name in names if name.endswith(TRANSLATION_ENDINGS)]
    angles = [i for i, name in enumerate(names) if name not in translations]
    data = table.data.copy()
    if table.in_degrees:
        if check_units:
            _warn_small_degrees(table.path, [names[i] for i in angles], data[:, angles])
        data[:, angles] = np.deg2rad(data[:, angles])
    elif check_units:
        says = "says radians (inDegrees=no)" if table.units_stated else "does not say that angles are in degrees"
        require_radians(table.path, table.time, names, data, angles, f"the header {says}")
    return replace(table, labels=names, data=data, in_degrees=False, units_stated=True)


def require_radians(
    path: str,
    time: np.ndarray,
    names: Sequence[str],
    q: np.ndarray,
    angles: Sequence[int] | None = None,
    why: str = "radians are expected",
) -> None:
    """Raise ``InputError`` when an angle in ``q`` (T, D) exceeds 2 pi rad, that is, looks like degrees.

    No joint turns by more than a full turn, and a walking knee in degrees exceeds 6.28 in most frames.
    """
    for i in range(len(names)) if angles is None else angles:
        worst = int(np.argmax(np.abs(q[:, i])))
        if abs(q[worst, i]) > 2 * math.pi:
            raise InputError(
                f"{path}: column {names[i]!r} holds {q[worst, i]:.6g} at time {seconds(time[worst])} s (range"
                f" {q[:, i].min():.4g} to {q[:, i].max():.4g}), but {why}; an angle in radians stays within"
                " +-6.28, so these look like degrees: write inDegrees=yes in the header, or convert them"
            )


def _warn_small_degrees(path: str, names: Sequence[str], q: np.ndarray) -> None:
    # Two or more joints that all stay within 3.2 degrees yet move by more than 0.3: a recording of real
    # motion would have left that band. One lone coordinate (hip rotation, say) can stay within it.
    if len(names) > 1 and np.abs(q).max() < math.pi and np.ptp(q, axis=0).max() > 0.3:
        warnings.warn(
            f"{path}: the header says inDegrees=yes, but no angle of {listed(names)} exceeds"
            f" {np.abs(q).max():.3g}; if these are radians, write inDegrees=no",
            UnitsWarning,
            stacklevel=3,
        )


def read_moments(path: str | os.PathLike[str], coordinates: Sequence[str]) -> Table:
    """Joint moments (N·m; N for translations) by coordinate name, from an Inverse Dynamics result.

    The column of a coordinate is ``<coordinate>_moment``, ``<coordinate>_force`` or the bare name.

    Raises:
        InputError: see ``read_table``; or a coordinate has no such column.
    """
    coordinates = tuple(coordinates)
    require_unique(coordinates, "moments", str(path))
    labels = read_labels(path)
    columns = []
    for name in coordinates:
        found = [f"{name}{end}" for end in ("_moment", "_force", "") if f"{name}{end}" in labels]
        if not found:
            raise InputError(
                f"{path}: no moment of {name!r} (looked for '{name}_moment', '{name}_force', {name!r});"
                f" {near(name + '_moment', labels)}"
            )
        columns.append(found[0])
    return replace(read_table(path, columns=columns), labels=coordinates)


def read_labels(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Column labels without time, from a table that may hold gaps elsewhere.

    Raises:
        InputError: file missing or empty, or no label line.
    """
    return tuple(label for block in read_blocks(path)[1] for label in block.labels)


# --- writing ------------------------------------------------------------


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well, and vanishes otherwise.

    Raises:
        InputError: the folder is missing.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise InputError(f"{target}: the folder {str(target.parent)!r} does not exist; create it first")
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=target.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private to the owner; a result gets the permissions a plain open() gives.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(
    path: str | os.PathLike[str],
    labels: Sequence[str],
    time: np.ndarray,
    data: np.ndarray,
    *,
    in_degrees: bool = False,
    name: str = "",
) -> None:
    """Write an OpenSim ``.sto`` table; floats survive reading back bit for bit.

    Args:
        path: target; replaced in one step.
        labels: n column names (no tabs or line breaks), without time.
        time: (T,) s, strictly increasing.
        data: (T, n), finite.
        in_degrees: what the header will say.
        name: first header line; default the file's stem.

    Raises:
        InputError: shapes disagree, a label or number cannot be written, or time does not increase.
    """
    time, data = np.asarray(time, dtype=np.float64), np.asarray(data, dtype=np.float64)
    if time.ndim != 1 or data.shape != (len(time), len(labels)):
        raise InputError(f"{path}: data {data.shape} do not fit {time.shape} times and {len(labels)} labels")
    bad = [label for label in labels if not label.strip() or re.search(r"[\t\r\n]", label)]
    if bad:
        raise InputError(f"{path}: labels must be non-empty, without tabs and line breaks: {listed(bad)}")
    require_unique(labels, "columns", str(path))
    if not (np.isfinite(time).all() and np.isfinite(data).all()):
        raise InputError(f"{path}: refuses to write numbers that are not finite; fill or cut them first")
    if (np.diff(time) <= 0).any():
        raise InputError(f"{path}: refuses to write times that do not increase")
    first = (name or Path(path).stem).splitlines()[0]
    header = [first, "version=1", f"nRows={len(time)}", f"nColumns={len(labels) + 1}"]
    header += [f"inDegrees={'yes' if in_degrees else 'no'}", "endheader", "\t".join(["time", *labels])]
    body = ("\t".join(repr(float(value)) for value in (t, *row)) for t, row in zip(time, data, strict=True))
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join([*header, *body]) + "\n", encoding="utf-8")
