"""One recorded trial with named axes, checked once, on one uniform time grid."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nms_gym.errors import InputError, listed, near, seconds, shown
from nms_gym.recording.muscle_analysis import MuscleAnalysis
from nms_gym.recording.npz import names_of, number_of, read_npz, text_of
from nms_gym.recording.sampling import SAME_TIME, low_pass, on_uniform_times, resample, sampling_step
from nms_gym.recording.storage import TRANSLATION_ENDINGS, Table, atomic_path, require_radians, require_unique

FORMAT = "nms_gym.trial"
VERSION = 1

# Limits no human joint or muscle reaches; beyond them a unit is wrong (N·mm, mm, cm).
MAX_MOMENT = 2000.0  # N·m
MAX_LENGTH = 3.0  # m
MAX_MOMENT_ARM = 0.5  # m
MAX_ENVELOPE = 10.0  # of the normalising reference
# Filtering leaves envelopes slightly negative (1.6 % of the maximum in published ones); raw EMG is negative
# half of the time.
UNDERSHOOT = 0.1
# EMG samples kept after the end of the motion, so that interpolation there has both sides.
EMG_AFTER = 3


@dataclass(frozen=True)
class Trial:
    """A recorded trial: motion on one uniform grid, EMG envelopes on their own.

    Attributes:
        name: of the trial.
        time: (T,) s, uniform.
        coordinates: D names; q: (T, D) rad (m for translations); qd: (T, D) rad/s.
        channels: C names; emg_time: (E,) s, uniform, may start before time[0] (a delay looks back);
            emg: (E, C) envelopes, >= 0.
        moment_coordinates: K names; moments: (T, K) N·m measured, or None.
        muscles: M names; lengths: (T, M) m, velocities: (T, M) m/s, positive lengthening, moment_arms:
            (T, K, M) m, -d(length)/dq; all None when the trial brings no muscle tables.
        sources: file name -> SHA-256 of what the trial was read from.
        synthetic: True when made by a model instead of recorded.

    Raises:
        InputError: a shape does not fit the names.
    """

    name: str
    time: np.ndarray
    coordinates: tuple[str, ...]
    q: np.ndarray
    qd: np.ndarray
    channels: tuple[str, ...]
    emg_time: np.ndarray
    emg: np.ndarray
    moment_coordinates: tuple[str, ...] = ()
    moments: np.ndarray | None = None
    muscles: tuple[str, ...] = ()
    lengths: np.ndarray | None = None
    velocities: np.ndarray | None = None
    moment_arms: np.ndarray | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    synthetic: bool = False

    def __post_init__(self) -> None:
        t, d, c = len(self.time), len(self.coordinates), len(self.channels)
        k, m = len(self.moment_coordinates), len(self.muscles)
        expected = {
            "q": (t, d),
            "qd": (t, d),
            "emg": (len(self.emg_time), c),
            "moments": (t, k),
            "lengths": (t, m),
            "velocities": (t, m),
            "moment_arms": (t, k, m),
        }
        for name, shape in expected.items():
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise InputError(
                    f"trial {self.name!r}: {name} has shape {value.shape}; expected {shape} from its times and names"
                )
        tables = [self.lengths is None, self.velocities is None, self.moment_arms is None]
        if any(tables) != all(tables):
            raise InputError(f"trial {self.name!r}: lengths, velocities and moment_arms come together or not at all")

    @property
    def dt(self) -> float:
        """Step of the motion grid, s."""
        return float((self.time[-1] - self.time[0]) / (len(self.time) - 1))

    def window(self, start: float, stop: float) -> Trial:
        """The part from ``start`` to ``stop`` (s, both included).

        EMG from before ``start`` is kept, because a delay and a filter look back.

        Raises:
            InputError: the window is empty, shorter than two samples, or reaches beyond the trial.
        """
        slack = SAME_TIME * self.dt
        inside = np.flatnonzero((self.time >= start - slack) & (self.time <= stop + slack))
        if len(inside) < 2:
            raise InputError(
                f"trial {self.name!r}: the window {seconds(start)} to {seconds(stop)} s holds {len(inside)} samples;"
                f" expected at least 2 within {seconds(self.time[0])} to {seconds(self.time[-1])} s"
            )
        if start < self.time[0] - self.dt or stop > self.time[-1] + self.dt:
            raise InputError(
                f"trial {self.name!r}: the window {seconds(start)} to {seconds(stop)} s reaches beyond the recording,"
                f" {seconds(self.time[0])} to {seconds(self.time[-1])} s"
            )
        rows = slice(int(inside[0]), int(inside[-1]) + 1)
        motion = {
            name: getattr(self, name)[rows]
            for name in ("time", "q", "qd", "moments", "lengths", "velocities", "moment_arms")
            if getattr(self, name) is not None
        }
        last = int(np.searchsorted(self.emg_time, self.time[rows][-1])) + EMG_AFTER
        return dataclasses.replace(self, emg_time=self.emg_time[:last], emg=self.emg[:last], **motion)

    def resampled(self, dt: float) -> Trial:
        """The same motion at steps of ``dt`` s from the same start (EMG keeps its own grid).

        Raises:
            InputError: ``dt`` is not positive or longer than the trial.
        """
        duration = self.time[-1] - self.time[0]
        if not 0 < dt <= duration:
            raise InputError(
                f"trial {self.name!r}: dt is {dt!r} s; allowed: above 0 and up to its duration, {duration:.6g} s"
            )
        grid = self.time[0] + dt * np.arange(int(duration / dt + SAME_TIME) + 1)
        motion = {}
        for name in ("q", "qd", "moments", "lengths", "velocities", "moment_arms"):
            value = getattr(self, name)
            if value is not None:
                flat = value.reshape(len(value), -1)
                moved = resample(self.time, flat, grid, f"trial {self.name!r}, {name}")
                motion[name] = moved.reshape(len(grid), *value.shape[1:])
        return dataclasses.replace(self, time=grid, **motion)

    def with_emg(
        self,
        emg_time: np.ndarray,
        emg: np.ndarray,
        channels: Sequence[str] | None = None,
        *,
        trim: bool = False,
    ) -> Trial:
        """The same motion with other envelopes.

        Args:
            emg_time: (E,) s.
            emg: (E, C).
            channels: C names; default the present ones.
            trim: cut the motion to where there is EMG instead of raising.

        Raises:
            InputError: see ``make_trial``.
        """
        names = self.channels if channels is None else tuple(channels)
        table = Table(f"trial {self.name!r}, EMG", names, np.asarray(emg_time), np.asarray(emg))
        trial = self
        if trim:
            start, stop = max(self.time[0], emg_time[0]), min(self.time[-1], emg_time[-1])
            trial = self.window(start, stop)
        grid, values = _emg(table, trial.time)
        return check_trial(dataclasses.replace(trial, channels=names, emg_time=grid, emg=values))

    def velocity_mismatch(self) -> dict[str, float]:
        """max over time of \\|v + sum_k r_k qd_k\\| (m/s) by muscle; empty without muscle tables.

        Lengths, moment arms and motion of one model satisfy dl/dt = -sum_k r_k dq_k/dt. A mismatch is no
        error: it is expected where a muscle crosses coordinates that are not among ``moment_coordinates``,
        and tells of mixed-up tables or filters where it does not.
        """
        if self.moment_arms is None or self.velocities is None:
            return {}
        if not set(self.moment_coordinates) <= set(self.coordinates):
            return {}
        qd = self.qd[:, [self.coordinates.index(name) for name in self.moment_coordinates]]
        rate = -np.einsum("tkm,tk->tm", self.moment_arms, qd)
        worst = np.abs(self.velocities - rate).max(axis=0)
        return {name: float(value) for name, value in zip(self.muscles, worst, strict=True)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trial as a versioned ``.npz`` (no pickles), replaced in one step.

        Raises:
            InputError: the name does not end in ``.npz``, or its folder is missing.
        """
        if Path(path).suffix != ".npz":
            raise InputError(f"{path}: a trial is saved as .npz; give the name that ending")
        arrays: dict[str, Any] = {"format": np.array(FORMAT), "version": np.array(VERSION)}
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if value is None:
                continue
            if entry.name == "sources":
                arrays["sources"] = np.array(json.dumps(dict(value), sort_keys=True))
            elif isinstance(value, tuple):
                arrays[entry.name] = np.array(value, dtype=np.str_)
            else:
                arrays[entry.name] = np.asarray(value)
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            np.savez_compressed(stream, **arrays)


def load_trial(path: str | os.PathLike[str]) -> Trial:
    """Read a trial that ``Trial.save`` wrote.

    Raises:
        InputError: file missing, not such a file, of a newer version, or its content fails the checks.
    """
    head = read_npz(path, ("format", "version"))
    if text_of(head.get("format")) != FORMAT:
        raise InputError(f"{path}: not a trial file (no format {FORMAT!r}); make one with Trial.save")
    version = head.get("version")
    if number_of(version) != VERSION:
        found = version if version is None or not version.shape else f"of shape {version.shape}"
        raise InputError(f"{path}: trial file version {found}; this program reads version {VERSION}")
    arrays = read_npz(path, [entry.name for entry in dataclasses.fields(Trial)])
    values: dict[str, object] = {}
    for entry in dataclasses.fields(Trial):
        value = arrays.get(entry.name)
        if value is not None:
            try:
                values[entry.name] = _field(entry.name, value)
            except (ValueError, TypeError, RecursionError) as error:
                raise InputError(f"{path}: {entry.name} is malformed ({error}); save the trial again") from error
    missing = [e.name for e in dataclasses.fields(Trial) if e.name not in values and _required(e)]
    if missing:
        raise InputError(f"{path}: trial file lacks {listed(missing)}; save it again")
    return check_trial(Trial(**values))  # type: ignore[arg-type]


def _field(name: str, value: np.ndarray) -> object:
    """A field of a trial from its stored array."""
    if name == "sources":
        sources = json.loads(text_of(value))
        if not isinstance(sources, dict) or not all(isinstance(text, str) for text in sources.values()):
            raise ValueError(f"expected file names with hashes, found {shown(sources)}")
        return sources
    if name == "name":
        if value.shape or value.dtype.kind != "U":
            raise ValueError(f"expected a text, found {value.dtype} of shape {value.shape}")
        return str(value)
    if name == "synthetic":
        if value.shape or value.dtype.kind != "b":
            raise ValueError(f"expected true or false, found {value.dtype} of shape {value.shape}")
        return bool(value)
    if name in ("coordinates", "channels", "moment_coordinates", "muscles"):
        return names_of(value, "it")
    if value.dtype.kind not in "fiu" or value.ndim == 0:
        raise ValueError(f"expected numbers along time, found {value.dtype} of shape {value.shape}")
    return value


def _required(entry: dataclasses.Field) -> bool:
    return entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING


def make_trial(
    name: str,
    kinematics: Table,
    *,
    speeds: Table | None = None,
    emg: Table | None = None,
    moments: Table | None = None,
    geometry: MuscleAnalysis | None = None,
    dt: float | None = None,
    q_cutoff: float | None = None,
    moment_cutoff: float | None = None,
    trim: bool = False,
    synthetic: bool = False,
) -> Trial:
    """Put tables on one grid and check that they belong together.

    The grid starts at a sample of the kinematics; where the step is theirs, their samples are kept as they
    are. Velocities are the derivative of a quintic spline through the (filtered) coordinates, muscle
    velocities without a file the derivative of one through the lengths.

    Args:
        name: of the trial.
        kinematics: coordinates in rad, from ``read_coordinates`` or ``read_arrays``.
        speeds: coordinate velocities (rad/s), same labels; used only without ``q_cutoff``.
        emg: envelopes by channel; may start before the kinematics.
        moments: by coordinate name, from ``read_moments``.
        geometry: muscle lengths and moment arms, from ``read_muscle_analysis``; its coordinates become
            ``moment_coordinates`` when there are no moments.
        dt: step of the grid, s; default the median step of the kinematics.
        q_cutoff: low-pass (Hz, zero-lag, 2nd order each way) of the coordinates; default none: most are
            filtered.
        moment_cutoff: the same for the moments.
        trim: cut the trial to the time that every table covers. Otherwise a table that does not cover the
            kinematics is an error.
        synthetic: True when the data were made by a model.

    Raises:
        InputError: tables do not cover the same time; names are repeated or missing; a number is not finite;
            an angle looks like degrees, a moment like N·mm, a length or moment arm like mm or is not
            positive; an envelope is negative (unrectified); a cut-off is not below half the sampling rate.
    """
    if kinematics.in_degrees:
        raise InputError(f"{kinematics.path}: angles are in degrees; read the file with read_coordinates")
    where = kinematics.path
    _check_angles(where, kinematics.time, kinematics.labels, kinematics.data)
    times, q, step = on_uniform_times(kinematics.time, kinematics.data, where)
    spans = [(where, times[0], times[-1], step)]
    for other in (moments, geometry, speeds):
        if other is not None:
            spans.append((other.path, other.time[0], other.time[-1], sampling_step(other.time, other.path)))
    start, stop = _common_span(spans, trim=trim)
    if emg is not None:
        start, stop = _emg_span(emg, where, start, stop, trim=trim)
    slack = SAME_TIME * step
    first = int(np.searchsorted(times, start - slack))
    grid_step = step if dt is None else dt
    if not grid_step > 0 or stop - times[first] < grid_step:
        raise InputError(
            f"trial {name!r}: {seconds(start)} to {seconds(stop)} s holds fewer than two steps of {grid_step!r} s;"
            " choose a positive dt shorter than the trial"
        )
    grid = times[first] + grid_step * np.arange(int((stop - times[first]) / grid_step + SAME_TIME) + 1)

    if q_cutoff is not None:
        q = low_pass(q, step, q_cutoff, where)
    qd = _speeds(kinematics, speeds, grid) if q_cutoff is None else None
    if qd is None:
        qd = resample(times, q, grid, where, derivative=1, degree=5)
    q = resample(times, q, grid, where, degree=5)

    measured, moment_coordinates = None, ()
    if moments is not None:
        moment_coordinates = tuple(moments.labels)
        _check_moments(moments.path, moments.time, moments.labels, moments.data)
        moment_times, values, moment_step = on_uniform_times(moments.time, moments.data, moments.path)
        if moment_cutoff is not None:
            values = low_pass(values, moment_step, moment_cutoff, moments.path)
        measured = resample(moment_times, values, grid, moments.path)
    tables: dict[str, np.ndarray] = {}
    if geometry is not None:
        moment_coordinates = moment_coordinates or tuple(geometry.coordinates)
        tables = _geometry(geometry, moment_coordinates, grid)
    emg_time, envelopes, channels = grid, np.zeros((len(grid), 0)), ()
    if emg is not None:
        channels = tuple(emg.labels)
        emg_time, envelopes = _emg(emg, grid)
    return check_trial(
        Trial(
            name=name,
            time=grid,
            coordinates=tuple(kinematics.labels),
            q=q,
            qd=qd,
            channels=channels,
            emg_time=emg_time,
            emg=envelopes,
            moment_coordinates=moment_coordinates,
            moments=measured,
            muscles=() if geometry is None else tuple(geometry.muscles),
            **tables,
            sources=file_hashes(_files(kinematics, speeds, emg, moments, geometry)),
            synthetic=synthetic,
        )
    )


def check_trial(trial: Trial) -> Trial:
    """Return ``trial`` when its names are unique, its numbers finite and its units plausible.

    Raises:
        InputError: naming the trial, column, time, value and what was expected.
    """
    where = f"trial {trial.name!r}"
    for what, names in (
        ("coordinates", trial.coordinates),
        ("channels", trial.channels),
        ("moment coordinates", trial.moment_coordinates),
        ("muscles", trial.muscles),
    ):
        require_unique(names, what, where)
    for what, time in (("motion", trial.time), ("EMG", trial.emg_time)):
        step = sampling_step(time, f"{where}, {what}")
        uneven = np.abs(time - np.linspace(time[0], time[-1], len(time))).max()
        if uneven > 0.05 * step:
            raise InputError(f"{where}, {what}: times deviate by {uneven:.3g} s from uniform steps; use make_trial")
    _check_angles(where, trial.time, trial.coordinates, trial.q)
    _require_finite(where + ", qd", trial.time, trial.coordinates, trial.qd)
    _check_envelopes(where, trial.emg_time, trial.channels, trial.emg)
    if trial.moments is not None:
        _check_moments(where, trial.time, trial.moment_coordinates, trial.moments)
    if trial.lengths is not None and trial.moment_arms is not None:
        table = MuscleAnalysis(
            path=where,
            time=trial.time,
            muscles=trial.muscles,
            coordinates=trial.moment_coordinates,
            lengths=trial.lengths,
            velocities=trial.velocities,
            moment_arms=trial.moment_arms,
        )
        _check_geometry(table)
    return trial


def file_hashes(paths: Iterable[str | os.PathLike[str]]) -> dict[str, str]:
    """File name -> SHA-256 of its bytes, for those that are files; a repeated name gets its folder too."""
    hashes: dict[str, str] = {}
    for path in dict.fromkeys(Path(p) for p in paths):
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            name = path.name
            if hashes.get(name, digest) != digest:
                name = f"{path.parent.name}/{name}"
            hashes[name] = digest
    return hashes


def _files(*parts: Table | MuscleAnalysis | None) -> list[str]:
    files: list[str] = []
    for part in parts:
        if isinstance(part, MuscleAnalysis):
            files.extend(part.files)
        elif part is not None:
            files.append(part.path)
    return files


def _common_span(spans: Sequence[tuple[str, float, float, float]], *, trim: bool) -> tuple[float, float]:
    """Time that all tables (path, start, stop, step) cover; the first are the kinematics.

    Half a sample short of the kinematics is rounding; more needs ``trim``.
    """
    kinematics, first, last, step = spans[0]
    start = max(span[1] for span in spans)
    stop = min(span[2] for span in spans)
    for path, begin, end, other in spans[1:]:
        if begin >= last or end <= first:
            raise InputError(
                f"{path} covers {seconds(begin)} to {seconds(end)} s and {kinematics} "
                f"{seconds(first)} to {seconds(last)} s:"
                " they do not"
                " overlap; do they belong to the same trial, and does time start at the same event?"
            )
        late, short = max(0.0, begin - first), max(0.0, last - end)
        if not trim and max(late, short) > 0.5 * max(step, other) + SAME_TIME * step:
            raise InputError(
                f"{path} covers {seconds(begin)} to {seconds(end)} s, but {kinematics} "
                f"{seconds(first)} to {seconds(last)} s:"
                f" {late:.6g} s are missing at the start and {short:.6g} s at the end; trim the trial"
                " (trim = true) or supply the rest"
            )
    # A table may end a rounding error before the kinematics; that must not cost a sample.
    start = first if start - first <= SAME_TIME * step else start
    stop = last if last - stop <= SAME_TIME * step else stop
    return start, stop


def _emg_span(emg: Table, kinematics: str, start: float, stop: float, *, trim: bool) -> tuple[float, float]:
    begin, end = emg.time[0], emg.time[-1]
    step = sampling_step(emg.time, emg.path)
    if begin >= stop or end <= start:
        raise InputError(
            f"{emg.path} covers {seconds(begin)} to {seconds(end)} s and {kinematics} "
            f"{seconds(start)} to {seconds(stop)} s:"
            " EMG and motion do not overlap; do they belong to the same trial?"
        )
    if trim:
        return max(start, begin), min(stop, end)
    late, short = max(0.0, begin - start), max(0.0, stop - end)
    if max(late, short) > step * (1 + SAME_TIME):
        raise InputError(
            f"{emg.path}: EMG covers {seconds(begin)} to {seconds(end)} s and is shorter than the motion ({kinematics},"
            f" {seconds(start)} to {seconds(stop)} s): {late:.6g} s are missing at the start and {short:.6g} s at"
            " the end; trim the trial (trim = true) or supply the rest"
        )
    return start, stop


def _speeds(kinematics: Table, speeds: Table | None, grid: np.ndarray) -> np.ndarray | None:
    if speeds is None:
        return None
    missing = [name for name in kinematics.labels if name not in speeds.labels]
    if missing:
        raise InputError(f"{speeds.path}: no velocity of {listed(missing)}; {near(missing[0], speeds.labels)}")
    values = speeds.select(kinematics.labels)
    _require_finite(speeds.path, speeds.time, kinematics.labels, values)
    return resample(speeds.time, values, grid, speeds.path)


def _geometry(geometry: MuscleAnalysis, coordinates: Sequence[str], grid: np.ndarray) -> dict[str, np.ndarray]:
    missing = [name for name in coordinates if name not in geometry.coordinates]
    if missing:
        raise InputError(
            f"{geometry.path}: no moment arms about {listed(missing)}; there are {listed(geometry.coordinates)}"
        )
    _check_geometry(geometry)
    where, time = geometry.path, geometry.time
    arms = geometry.moment_arms[:, [geometry.coordinates.index(name) for name in coordinates]]
    flat = arms.reshape(len(time), -1)
    tables = {
        "lengths": resample(time, geometry.lengths, grid, where),
        "moment_arms": resample(time, flat, grid, where).reshape(len(grid), len(coordinates), -1),
    }
    if geometry.velocities is None:
        tables["velocities"] = resample(time, geometry.lengths, grid, where, derivative=1, degree=5)
    else:
        tables["velocities"] = resample(time, geometry.velocities, grid, where)
    return tables


def _emg(table: Table, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Envelopes on their own uniform grid: undershoot clipped, all before the motion kept, little after."""
    values = np.asarray(table.data, dtype=np.float64)
    if values.shape != (len(table.time), len(table.labels)):
        raise InputError(f"{table.path}: EMG has shape {values.shape}; expected {(len(table.time), len(table.labels))}")
    _require_finite(f"{table.path}, EMG", table.time, table.labels, values)
    lowest, highest = values.min(axis=0), np.abs(values).max(axis=0)
    for i, name in enumerate(table.labels):
        if lowest[i] < -UNDERSHOOT * highest[i]:
            row = int(np.argmin(values[:, i]))
            raise InputError(
                f"{table.path}: EMG channel {name!r} is {lowest[i]:.6g} at time {seconds(table.time[row])} s"
                " (its largest"
                f" magnitude is {highest[i]:.6g}); an envelope is not negative: this looks unrectified;"
                " process it (process_emg) first"
            )
    values = np.maximum(values, 0.0)
    _check_envelopes(table.path, table.time, table.labels, values)
    grid, values, step = on_uniform_times(np.asarray(table.time, dtype=np.float64), values, table.path)
    if grid[0] > time[0] + step * (1 + SAME_TIME) or grid[-1] < time[-1] - step * (1 + SAME_TIME):
        raise InputError(
            f"{table.path}: EMG covers {seconds(grid[0])} to {seconds(grid[-1])} s, but the motion "
            f"{seconds(time[0])} to"
            f" {seconds(time[-1])} s; trim the trial (trim = true) or supply the rest"
        )
    last = int(np.searchsorted(grid, time[-1])) + EMG_AFTER
    return grid[:last], np.maximum(values[:last], 0.0)


def _check_angles(where: str, time: np.ndarray, names: Sequence[str], q: np.ndarray) -> None:
    _require_finite(f"{where}, coordinates", time, names, q)
    angles = [i for i, name in enumerate(names) if not name.endswith(TRANSLATION_ENDINGS)]
    require_radians(where, time, names, q, angles)


def _check_envelopes(where: str, time: np.ndarray, names: Sequence[str], emg: np.ndarray) -> None:
    _require_finite(f"{where}, EMG", time, names, emg)
    expected = "a normalised envelope", "process and normalise it"
    _require_range(f"{where}, EMG", time, names, emg, (0.0, MAX_ENVELOPE), *expected)


def _check_moments(where: str, time: np.ndarray, names: Sequence[str], moments: np.ndarray) -> None:
    _require_finite(f"{where}, moments", time, names, moments)
    allowed = (-MAX_MOMENT, MAX_MOMENT)
    _require_range(f"{where}, moments", time, names, moments, allowed, "N·m", "is it in N·mm?")


def _check_geometry(table: MuscleAnalysis) -> None:
    where, time, names = table.path, table.time, table.muscles
    _require_finite(f"{where}, lengths", time, names, table.lengths)
    if table.velocities is not None:
        _require_finite(f"{where}, velocities", time, names, table.velocities)
    expected = "a positive length in m", "is it in mm or cm, or the wrong file?"
    positive = float(np.finfo(np.float64).tiny)
    _require_range(f"{where}, lengths", time, names, table.lengths, (positive, MAX_LENGTH), *expected)
    for k, coordinate in enumerate(table.coordinates):
        arms, place = table.moment_arms[:, k], f"{where}, moment arms about {coordinate!r}"
        _require_finite(place, time, names, arms)
        allowed = (-MAX_MOMENT_ARM, MAX_MOMENT_ARM)
        _require_range(place, time, names, arms, allowed, "m", "is it in mm or cm?")


def _require_finite(where: str, time: np.ndarray, names: Sequence[str], values: np.ndarray) -> None:
    if np.isfinite(values).all():
        return
    row, column = (int(i[0]) for i in np.nonzero(~np.isfinite(values)))
    raise InputError(
        f"{where}: {names[column]!r} is {values[row, column]} at time {seconds(time[row])} s (row {row + 1});"
        " expected a finite number; fill the gap or cut the trial"
    )


def _require_range(
    where: str,
    time: np.ndarray,
    names: Sequence[str],
    values: np.ndarray,
    allowed: tuple[float, float],
    what: str,
    advice: str,
) -> None:
    low, high = allowed
    outside = (values < low) | (values > high)
    if not outside.any():
        return
    row, column = (int(i[0]) for i in np.nonzero(outside))
    limits = f"above 0 and up to {high:g}" if 0 < low < 1e-300 else f"{low:g} to {high:g}"
    raise InputError(
        f"{where}: {names[column]!r} is {values[row, column]:.6g} at time {seconds(time[row])} s; expected {what},"
        f" {limits}; {advice}"
    )
