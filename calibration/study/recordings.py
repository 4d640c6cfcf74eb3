"""A study's recordings: EMG recipe, trials and their windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from calibration.study.keys import Folder, Keys, is_kind, names_of, require_file_name
from nms_gym.errors import InputError, listed
from nms_gym.excitation.emg import process_emg, remove_baseline
from nms_gym.model.structure import NmsModel
from nms_gym.recording.arrays import read_arrays
from nms_gym.recording.muscle_analysis import read_muscle_analysis
from nms_gym.recording.storage import Table, read_coordinates, read_moments, read_table
from nms_gym.recording.trial import UNDERSHOOT, Trial, load_trial, make_trial

NORMALISATIONS = {
    "session": "largest value in the training windows",
    "all_trials": "largest value in all trials, held-out ones included",
    "trial": "largest value of each trial by itself",
    "mvc": "maximum voluntary contraction",
    "none": "none",
}
"""``[emg] normalise`` -> what counts as full excitation, in words"""
SAVED_REFERENCE = "that of the saved person"
"""the same where a person's own values are used in place of the recordings'"""


@dataclass(frozen=True)
class EmgReference:
    """What became 1 in a study's envelopes."""

    kind: str
    """in words, see ``NORMALISATIONS``"""
    values: Mapping[str, float]
    """channel -> value in the recording's unit; empty where every trial has its own"""


@dataclass(frozen=True)
class EmgRecipe:
    """How a study's EMG becomes envelopes; ``nms_gym.excitation.emg`` describes the steps."""

    kind: str
    """"raw" or "envelope" """
    high_pass: float = 30.0
    low_pass: float = 6.0
    order: int = 4
    zero_lag: bool = True
    notch: float | None = None
    normalise: str = "none"
    """what becomes 1, one of ``NORMALISATIONS``; a study's default is "session" for raw EMG and "none" for envelopes"""
    mvc: Mapping[str, float] = field(default_factory=dict)
    """channel -> reference value, for normalise = "mvc" """
    baseline: float | None = None
    """quantile taken for each channel's resting level in each trial and subtracted; off when absent"""


def read_recipe(keys: Keys) -> EmgRecipe:
    """The ``[emg]`` table."""
    kind = keys.take("kind", str)
    if kind not in ("raw", "envelope"):
        raise InputError(f"{keys.where}: kind is {kind!r}; use 'raw' or 'envelope'")
    filters = {
        "high_pass": keys.take("high_pass", float, None),
        "low_pass": keys.take("low_pass", float, None),
        "order": keys.take("order", int, None),
        "zero_lag": keys.take("zero_lag", bool, None),
        "notch": keys.take("notch", float, None),
    }
    given = {k: v for k, v in filters.items() if v is not None}
    recipe = EmgRecipe(
        kind,
        normalise=keys.take("normalise", str, "session" if kind == "raw" else "none"),
        mvc=keys.take("mvc", dict, {}),
        baseline=keys.take("baseline", float, None),
        **given,
    )
    keys.finish()
    if kind == "envelope" and given:
        raise InputError(f"{keys.where}: {listed(given)} filters raw EMG only, but kind is 'envelope'; remove it")
    if recipe.normalise not in NORMALISATIONS:
        raise InputError(f"{keys.where}: normalise is {recipe.normalise!r}; use one of {listed(NORMALISATIONS)}")
    if recipe.mvc and recipe.normalise != "mvc":
        raise InputError(f"{keys.where}: mvc is given, but normalise is {recipe.normalise!r}; use normalise = 'mvc'")
    for channel, value in recipe.mvc.items():
        if not is_kind(value, float) or value <= 0:
            raise InputError(f"{keys.where}: mvc of {channel!r} is {value!r}; expected a number above 0")
    return recipe


Times = Sequence[tuple[float, float]] | None
"""windows of a trial, s; None for all of it"""


def make_envelopes(
    tables: Sequence[Table],
    recipe: EmgRecipe,
    where: str,
    *,
    train: Sequence[Times],
    known: Mapping[str, float] | None = None,
) -> tuple[list[Table], EmgReference]:
    """Envelopes of all trials, normalised together where asked, and what they were divided by.

    Args:
        tables: EMG as recorded, one per trial.
        recipe: how it becomes envelopes.
        where: for messages.
        train: training windows of each trial; "session" looks for its largest values in these alone, so that nothing
            held out has a say in what the fit sees.
        known: channel -> value to divide by instead of the largest one of these recordings.
    """
    made = [_envelope(t, recipe) for t in tables]
    labels = made[0].labels
    kind = NORMALISATIONS[recipe.normalise]
    if recipe.normalise == "none":
        return made, EmgReference(kind, dict.fromkeys(labels, 1.0))
    if recipe.normalise == "trial":
        return [_scaled(t, t.data.max(axis=0)) for t in made], EmgReference(kind, {})
    if recipe.normalise == "mvc" or known:
        given = recipe.mvc if recipe.normalise == "mvc" else dict(known or {})
        kind = kind if recipe.normalise == "mvc" else SAVED_REFERENCE
        missing = [c for c in labels if c not in given]
        if missing:
            raise InputError(
                f"{where}: no {recipe.normalise} reference of channel {listed(missing)}; there are {listed(given)}"
            )
        values = np.array([float(given[c]) for c in labels])
    else:
        seen = [t.data for t in made]
        if recipe.normalise == "session":
            seen = _in_windows(made, train)
            if not seen:
                raise InputError(
                    f"{where}: normalise is 'session', but no trial has a training window to take the largest value "
                    "from; add one, or use normalise = 'mvc' or 'all_trials'"
                )
        values = np.max([data.max(axis=0) for data in seen], axis=0)
    return [_scaled(t, values, kind) for t in made], EmgReference(kind, dict(zip(labels, values.tolist(), strict=True)))


def _in_windows(tables: Sequence[Table], train: Sequence[Times]) -> list[np.ndarray]:
    """Samples inside the training windows of each trial that has some."""
    found = []
    for table, windows in zip(tables, train, strict=True):
        if windows is None:
            found.append(table.data)
            continue
        for start, stop in windows:
            inside = table.data[(table.time >= start) & (table.time <= stop)]
            # A window that is empty or outside the recording is reported with the trial, which knows what there is.
            found.append(inside if start < stop and len(inside) else table.data)
    return found


def _envelope(table: Table, recipe: EmgRecipe) -> Table:
    """As recorded, or filtered, with the resting level removed."""
    time, values = table.time, table.data
    if recipe.kind == "raw":
        envelope = process_emg(
            time,
            values,
            table.labels,
            high_pass=recipe.high_pass,
            low_pass=recipe.low_pass,
            order=recipe.order,
            zero_lag=recipe.zero_lag,
            notch=recipe.notch,
            normalise="none",
            step=0.005,
            where=table.path,
        ).table()
        time, values = envelope.time, envelope.data
    else:
        _check_envelope(table)
    if recipe.baseline is not None:
        values = remove_baseline(values, recipe.baseline, table.path)
    return dataclasses.replace(table, time=time, data=values)


def _check_envelope(table: Table) -> None:
    """Before the baseline is taken off: a quantile hides both where a gap is and that a signal was never rectified."""
    for name, x in zip(table.labels, table.data.T, strict=True):
        if not np.isfinite(x).all():
            at = table.time[int(np.argmax(~np.isfinite(x)))]
            raise InputError(f"{table.path}: EMG channel {name!r} has no finite value at time {at:.6g} s; fill the gap")
        if x.min() < -UNDERSHOOT * np.abs(x).max():
            raise InputError(
                f"{table.path}: EMG channel {name!r} goes down to {x.min():.4g}; an envelope is not negative: "
                "this looks unrectified; use kind = 'raw'"
            )


def _scaled(table: Table, reference: np.ndarray, kind: str = "largest value") -> Table:
    # Not "<= 0": a reference taken from a recording with a gap is not a number, and the gap is reported with the trial.
    dead = [c for c, v in zip(table.labels, reference, strict=True) if v <= 0]
    if dead:
        raise InputError(f"{table.path}: EMG channel {listed(dead)} never rises above 0 ({kind}); leave it out")
    return dataclasses.replace(table, data=table.data / reference)


@dataclass(frozen=True)
class Window:
    """A stretch of a trial, s."""

    trial: Trial
    start: float
    stop: float


def cut_windows(
    readers: Sequence[TrialReader], trials: Mapping[str, Trial]
) -> tuple[list[Window], dict[str, list[Window]]]:
    """Training windows, and held-out ones by the label of their set; a trial that says nothing is held out."""

    def windows(reader: TrialReader, given: Sequence[tuple[float, float]] | None) -> list[Window]:
        trial = trials[reader.name]
        whole = [(float(trial.time[0]), float(trial.time[-1]))]
        return [Window(trial, a, b) for a, b in (whole if given is None else given)]

    train = [w for r in readers for w in windows(r, r.train)]
    held_out: dict[str, list[Window]] = {}
    for reader in readers:
        nothing_said = reader.train == () and reader.held_out == ()
        found = windows(reader, None if nothing_said else reader.held_out)
        for b in found:
            for a in train:
                _require_apart(a, b, reader.where)
        if found:
            trained = any(w.trial.name == reader.name for w in train)
            held_out[f"{reader.name}, other windows" if trained else reader.name] = found
    return train, held_out


def _require_apart(train: Window, held_out: Window, where: str) -> None:
    """Windows of one trial, or of one recording read twice, must not share time."""
    a, b = train.trial, held_out.trial
    same = a.name == b.name or (a.sources and a.sources == b.sources)
    if same and min(train.stop, held_out.stop) - max(train.start, held_out.start) > 1e-9:
        raise InputError(
            f"{where}: training window {train.start:g} to {train.stop:g} s of {a.name!r} and held-out window "
            f"{held_out.start:g} to {held_out.stop:g} s of {b.name!r} overlap; what the fit saw cannot validate it: "
            "move one of them"
        )


class TrialReader:
    """One ``[[trials]]`` table."""

    def __init__(self, where: str, table: Any, folder: Folder) -> None:
        keys = Keys(where, table)
        self.where = where
        self.file = folder.optional(keys, "trial")
        self.arrays = _arrays(keys, folder)
        self.kinematics = folder.optional(keys, "kinematics")
        self.moments = folder.optional(keys, "moments")
        self.emg = folder.optional(keys, "emg")
        self.geometry = folder.optional(keys, "muscle_analysis")
        self.prefix = keys.take("muscle_analysis_prefix", str, None)
        self.q_cutoff = keys.take("q_cutoff", float, None)
        self.moment_cutoff = keys.take("moment_cutoff", float, None)
        self.trim = keys.take("trim", bool, False)
        self.synthetic = keys.take("synthetic", bool, False)
        motion = [p for p in (self.file, self.kinematics, self.arrays and self.arrays[0]) if p is not None]
        self.name = keys.take("name", str, motion[0].stem if motion else "")
        self.train = _times(keys, "train")
        self.held_out = _times(keys, "held_out")
        keys.finish()
        if len(motion) != 1:
            raise InputError(
                f"{where}: give exactly one of 'kinematics', 'arrays' or 'trial' as the source of the motion"
            )
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
            trial = load_trial(self.file)
            table: Table | None = Table(str(self.file), trial.channels, trial.emg_time, trial.emg)
        elif self.emg is not None:
            table = read_table(self.emg, columns=channels)
        else:
            assert self.arrays is not None
            table = read_arrays(*self.arrays).emg
        assert table is not None
        return table.renamed(channels)

    def read(self, model: NmsModel, coordinates: Sequence[str], emg: Table, dt: float | None) -> Trial:
        """The trial with its envelopes."""
        if self.file is not None:
            stored = load_trial(self.file)
            trial = dataclasses.replace(
                stored,
                name=self.name,
                channels=emg.labels,
                emg_time=emg.time,
                emg=emg.data,
                synthetic=stored.synthetic or self.synthetic,
            )
            return trial if dt is None or abs(trial.dt - dt) < 1e-9 else trial.resampled(dt)
        speeds = geometry = moments = None
        if self.arrays is not None:
            arrays = read_arrays(*self.arrays)
            kinematics, speeds, geometry, moments = arrays.kinematics, arrays.speeds, arrays.geometry, arrays.moments
        else:
            assert self.kinematics is not None
            wanted = model.paths.coordinates if model.paths is not None and self.geometry is None else model.coordinates
            kinematics = read_coordinates(self.kinematics, wanted)
        if self.geometry is not None:
            geometry = read_muscle_analysis(self.geometry, coordinates, model.muscles, prefix=self.prefix)
        if self.moments is not None:
            moments = read_moments(self.moments, coordinates)
        return make_trial(
            self.name,
            kinematics,
            speeds=speeds,
            emg=emg,
            moments=moments,
            geometry=geometry,
            dt=dt,
            q_cutoff=self.q_cutoff,
            moment_cutoff=self.moment_cutoff,
            trim=self.trim,
            synthetic=self.synthetic,
        )


def _arrays(keys: Keys, folder: Folder) -> tuple[Path, dict[str, Any]] | None:
    """An .npz file and what its arrays are, from ``[trials.arrays]``."""
    given = keys.take("arrays", dict, None)
    if given is None:
        return None
    arrays = Keys(f"{keys.where} [arrays]", given)
    file = folder.path(arrays.take("file", str), f"{arrays.where}: file")
    roles = arrays.rest()
    for role, value in roles.items():
        if not isinstance(value, str):
            names_of(f"{arrays.where}: {role}", value)
    return file, roles


def _times(keys: Keys, key: str) -> tuple[tuple[float, float], ...] | None:
    """Windows in s; None for all of the trial."""
    given = keys.take(key, (list, bool), [])
    if isinstance(given, bool):
        return None if given else ()
    if not all(isinstance(w, list) and len(w) == 2 and all(is_kind(x, float) for x in w) for w in given):
        raise InputError(f"{keys.where}: {key} is {given!r}; expected true, or windows [[start, stop], ...] in s")
    return tuple((float(a), float(b)) for a, b in given)
