"""A study's recordings, from files or from arrays, and the windows of them that are fitted and held out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from calibration.study.emg import Times
from nms_gym.errors import InputError, near, seconds
from nms_gym.model.structure import NmsModel
from nms_gym.recording.arrays import Recording
from nms_gym.recording.storage import Table
from nms_gym.recording.trial import Trial

Windows = Iterable[str] | Mapping[str, bool | Sequence[tuple[float, float]]]
"""trials by name: all of each, or trial -> ``True`` for all of it, or windows in s"""


class Source(Protocol):
    """Where a trial comes from: its EMG first, so that all trials' can be normalised together, then the rest."""

    @property
    def name(self) -> str:
        """Of the trial."""
        ...

    @property
    def where(self) -> str:
        """For messages."""
        ...

    def read_emg(self, channels: Sequence[str]) -> Table:
        """The channels that are mapped, in that order, as recorded."""
        ...

    def recorded(self, coordinates: Sequence[str]) -> Table | None:
        """Those of the coordinates that it holds, rad and m; None where it brings its own muscle lengths."""
        ...

    def read(self, model: NmsModel, coordinates: Sequence[str], emg: Table, dt: float | None) -> Trial:
        """The trial with these envelopes."""
        ...


@dataclass(frozen=True)
class OfTrial:
    """A trial ready made; its EMG is processed like any other."""

    trial: Trial
    where: str

    @property
    def name(self) -> str:
        """Of the trial."""
        return self.trial.name

    def read_emg(self, channels: Sequence[str]) -> Table:
        """The channels that are mapped."""
        trial = self.trial
        return Table(self.where, trial.channels, trial.emg_time, trial.emg).renamed(channels)

    def recorded(self, coordinates: Sequence[str]) -> Table | None:
        """Of the trial."""
        if self.trial.lengths is not None:
            return None
        return _some(Table(self.where, self.trial.coordinates, self.trial.time, self.trial.q), coordinates)

    def read(self, model: NmsModel, coordinates: Sequence[str], emg: Table, dt: float | None) -> Trial:
        """The trial with these envelopes."""
        trial = dataclasses.replace(self.trial, channels=emg.labels, emg_time=emg.time, emg=emg.data)
        return trial if dt is None or abs(trial.dt - dt) < 1e-9 else trial.resampled(dt)


@dataclass(frozen=True)
class OfRecording:
    """A recording as arrays or tables."""

    recording: Recording
    where: str

    @property
    def name(self) -> str:
        """Of the trial."""
        return self.recording.name

    def read_emg(self, channels: Sequence[str]) -> Table:
        """The channels that are mapped."""
        emg = self.recording.arrays.emg
        if emg is None:
            raise InputError(f"{self.where}: no EMG; give 'channels' and 'emg'")
        return emg.renamed(channels)

    def recorded(self, coordinates: Sequence[str]) -> Table | None:
        """Of the recording."""
        arrays = self.recording.arrays
        return None if arrays.geometry is not None else _some(arrays.kinematics, coordinates)

    def read(self, model: NmsModel, coordinates: Sequence[str], emg: Table, dt: float | None) -> Trial:
        """The trial with these envelopes."""
        return self.recording.trial(emg, dt)


def _some(table: Table, names: Sequence[str]) -> Table:
    """The columns that are among ``names``."""
    columns = [i for i, label in enumerate(table.labels) if label in names]
    return Table(table.path, tuple(table.labels[i] for i in columns), table.time, table.data[:, columns])


def source_of(trial: Trial | Recording | Source) -> Source:
    """A trial's source, whatever it was given as."""
    if isinstance(trial, Trial):
        return OfTrial(trial, f"trial {trial.name!r}")
    return OfRecording(trial, f"recording {trial.name!r}") if isinstance(trial, Recording) else trial


def windows_by_trial(windows: Windows, names: Sequence[str], what: str) -> dict[str, Times]:
    """Trial -> windows, None for all of it; trials without any are left out.

    Raises:
        InputError: a trial that is not among ``names``, or a window that is no pair.
    """
    given = windows if isinstance(windows, Mapping) else dict.fromkeys(windows, True)
    found: dict[str, Times] = {}
    for name, value in given.items():
        if name not in names:
            raise InputError(f"{what}: no trial {name!r}; {near(name, names)}")
        if value is True:
            found[name] = None
        elif value is not False and len(value):
            if any(len(window) != 2 for window in value):
                raise InputError(f"{what}: windows of {name!r} are {value!r}; expected [(start, stop), ...] in s")
            found[name] = tuple((float(a), float(b)) for a, b in value)
    return found


@dataclass(frozen=True)
class Window:
    """A stretch of a trial, s."""

    trial: Trial
    start: float
    stop: float


def cut_windows(
    sources: Sequence[Source],
    trials: Mapping[str, Trial],
    train: Mapping[str, Times],
    held_out: Mapping[str, Times],
) -> tuple[list[Window], dict[str, list[Window]]]:
    """Training windows, and held-out ones by the label of their set; a trial of which nothing is said is held out."""

    def windows(name: str, given: Times) -> list[Window]:
        trial = trials[name]
        whole = [(float(trial.time[0]), float(trial.time[-1]))]
        return [Window(trial, a, b) for a, b in (whole if given is None else given)]

    fitted = [w for s in sources for w in windows(s.name, train.get(s.name, ()))]
    unseen: dict[str, list[Window]] = {}
    for source in sources:
        name = source.name
        found = windows(name, held_out.get(name, () if name in train else None))
        for b in found:
            for a in fitted:
                _require_apart(a, b, source.where)
        if found:
            unseen[f"{name}, other windows" if name in train else name] = found
    return fitted, unseen


def _require_apart(train: Window, held_out: Window, where: str) -> None:
    """Windows of one trial, or of one recording read twice, must not share time."""
    a, b = train.trial, held_out.trial
    same = a.name == b.name or (a.sources and a.sources == b.sources)
    if same and min(train.stop, held_out.stop) - max(train.start, held_out.start) > 1e-9:
        raise InputError(
            f"{where}: training window {seconds(train.start)} to {seconds(train.stop)} s of "
            f"{a.name!r} and held-out window "
            f"{seconds(held_out.start)} to {seconds(held_out.stop)} s of {b.name!r} overlap; what the "
            "fit saw cannot validate it: "
            "move one of them"
        )
