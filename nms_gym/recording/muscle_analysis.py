"""Muscle-tendon lengths and moment arms over time, as OpenSim's MuscleAnalysis (or CEINMS) writes them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nms_gym.errors import InputError, listed, near, seconds
from nms_gym.recording.storage import Table, read_labels, read_table

SUFFIXES = (".sto", ".mot", ".csv")
# "subject_MuscleAnalysis_Length", "MA_Length" and CEINMS's "lmt"; not "..._FiberLength" or
# "..._TendonLength".
LENGTH = re.compile(r"(?P<prefix>.*_|)(?:Length|lmt)", re.IGNORECASE)
VELOCITY = re.compile(r"(?P<prefix>.*_|)(?:Velocity|vmt)", re.IGNORECASE)
MOMENT_ARM = re.compile(r"(?P<prefix>.*_|)MomentArm_(?P<coordinate>.+)", re.IGNORECASE)
CEINMS_MOMENT_ARM = re.compile(r"(?P<prefix>.*_|)ma_(?P<coordinate>.+)", re.IGNORECASE)


@dataclass(frozen=True)
class MuscleAnalysis:
    """Muscle-tendon kinematics over time.

    Attributes:
        path: folder or file it came from, for messages.
        time: (T,) s.
        muscles: M names; coordinates: D names.
        lengths: (T, M) m.
        velocities: (T, M) m/s, positive lengthening; None when no file gives them (``make_trial`` then takes
            the derivative of a spline through the lengths).
        moment_arms: (T, D, M) m, -d(length)/dq.
        files: the files read.
    """

    path: str
    time: np.ndarray
    muscles: tuple[str, ...]
    coordinates: tuple[str, ...]
    lengths: np.ndarray
    velocities: np.ndarray | None
    moment_arms: np.ndarray
    files: tuple[str, ...] = ()


def read_muscle_analysis(
    folder: str | os.PathLike[str],
    coordinates: Sequence[str],
    muscles: Sequence[str] | None = None,
    *,
    prefix: str | None = None,
) -> MuscleAnalysis:
    """Read ``*_Length``, ``*_MomentArm_<coordinate>`` and, if there, ``*_Velocity`` of one trial.

    Also finds ``MA_Length.sto`` and CEINMS's ``lmt.sto`` and ``ma_<coordinate>.sto``. A muscle without a
    column in a moment-arm file does not cross that coordinate: its moment arm is 0 there.

    Args:
        folder: where the files are.
        coordinates: D names, the order returned.
        muscles: M names, the order returned; default all of the length file.
        prefix: start of the file names, needed only when the folder holds several trials.

    Raises:
        InputError: folder, length file, a coordinate's file or a muscle is missing (what exists is listed);
            several trials in the folder; the files disagree on time; see also ``read_table``.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected one with *_Length.sto and *_MomentArm_<coordinate>.sto")
    files = sorted(p for p in root.iterdir() if p.suffix.lower() in SUFFIXES)
    if prefix is not None:
        files = [p for p in files if p.name.startswith(prefix)]
    lengths = _matches(files, LENGTH)
    if not lengths:
        raise InputError(
            f"{root}: no muscle length file ('*_Length.sto' or 'lmt.sto')"
            f"{'' if prefix is None else f' that starts with {prefix!r}'}; there are"
            f" {listed(p.name for p in files)}"
        )
    if len(lengths) > 1:
        raise InputError(
            f"{root}: several muscle analyses: {listed(p.name for p, _ in lengths)}; choose one by prefix="
        )
    length_file, match = lengths[0]
    stem = match["prefix"]
    # "ma_knee_angle_r" only where no file says MomentArm: "MA_" is also a common start of those names.
    named = _matches(files, MOMENT_ARM) or _matches(files, CEINMS_MOMENT_ARM)
    arms = {m["coordinate"]: p for p, m in named if m["prefix"] == stem}
    missing = [name for name in coordinates if name not in arms]
    if missing:
        raise InputError(f"{root}: no moment arm file for {listed(missing)}; there are files for {listed(arms)}")

    table = read_table(length_file)
    names = tuple(muscles) if muscles is not None else tuple(table.labels)
    values = _select(table, names)
    moment_arms = np.zeros((len(table.time), len(coordinates), len(names)))
    read = [length_file]
    for k, coordinate in enumerate(coordinates):
        present = [name for name in names if name in read_labels(arms[coordinate])]
        if not present:
            raise InputError(
                f"{arms[coordinate]}: no column for any of {listed(names)};"
                f" {near(names[0], read_labels(arms[coordinate]))}"
            )
        part = _same_time(read_table(arms[coordinate], columns=present), table)
        moment_arms[:, k, [names.index(name) for name in present]] = part.data
        read.append(arms[coordinate])
    velocities = None
    speeds = [p for p, m in _matches(files, VELOCITY) if m["prefix"] == stem]
    if speeds:
        velocities = _select(_same_time(read_table(speeds[0]), table), names)
        read.append(speeds[0])
    return MuscleAnalysis(
        path=str(root),
        time=table.time,
        muscles=names,
        coordinates=tuple(coordinates),
        lengths=values,
        velocities=velocities,
        moment_arms=moment_arms,
        files=tuple(str(p) for p in read),
    )


def _matches(files: Sequence[Path], pattern: re.Pattern[str]) -> list[tuple[Path, re.Match[str]]]:
    found = ((p, pattern.fullmatch(p.stem)) for p in files)
    return [(p, m) for p, m in found if m]


def _select(table: Table, names: Sequence[str]) -> np.ndarray:
    missing = [name for name in names if name not in table.labels]
    if missing:
        raise InputError(f"{table.path}: no muscle {listed(missing)}; {near(missing[0], table.labels)}")
    return table.select(names)


def _same_time(table: Table, reference: Table) -> Table:
    same = table.time.shape == reference.time.shape
    if not same or np.abs(table.time - reference.time).max() > 1e-4:
        raise InputError(
            f"{table.path}: {len(table.time)} rows from {seconds(table.time[0])} to {seconds(table.time[-1])} s, but"
            f" {reference.path} has {len(reference.time)} from {seconds(reference.time[0])} to"
            f" {seconds(reference.time[-1])} s; write both in one analysis"
        )
    return table
