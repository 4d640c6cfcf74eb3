"""A study in one TOML file: which model, recordings, channels, windows and freedom; read, checked and made ready to
fit.

Every key is known, every name is checked against the files, and paths are relative to the TOML file (``${NAME}`` takes
an environment variable). The README describes the keys; ``examples/configs`` holds one study per public data set.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from calibration.fit import SOLVERS
from calibration.problem import DEFAULT_FREE, DEFAULT_KINDS, Free, Penalties, Problem
from nms_gym._assets import asset_path
from nms_gym.errors import InputError, listed, near
from nms_gym.excitation.channels import ChannelMap
from nms_gym.excitation.emg import process_emg, remove_baseline
from nms_gym.model import PARAMETER_KINDS, NmsModel, NmsParams, Settings, make_params
from nms_gym.model_file import PARAMETERS, read_model_file
from nms_gym.muscle.geometry import PolynomialPaths
from nms_gym.recording.arrays import read_arrays
from nms_gym.recording.muscle_analysis import read_muscle_analysis
from nms_gym.recording.osim import read_osim
from nms_gym.recording.storage import Table, read_coordinates, read_moments, read_table, require_unique
from nms_gym.recording.trial import UNDERSHOOT, Trial, load_trial, make_trial
from nms_gym.replay import Segment, make_segment

Say = Callable[[str], None]


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
    """"trial", "session", "mvc" or "none"; a study's default is "session" for raw EMG and "none" for envelopes"""
    mvc: Mapping[str, float] = field(default_factory=dict)
    """channel -> reference value, for normalise = "mvc" """
    baseline: float | None = None
    """quantile taken for each channel's resting level in each trial and subtracted; off when absent"""


@dataclass(frozen=True)
class Study:
    """A study read and ready: what ``nms-gym calibrate`` works on."""

    name: str
    output: Path
    model: NmsModel
    start: NmsParams
    trials: Mapping[str, Trial]
    train: tuple[Segment, ...]
    held_out: Mapping[str, tuple[Segment, ...]]
    free: tuple[Free, ...]
    groups: Mapping[str, tuple[str, ...]]
    penalties: Penalties
    fit_options: Mapping[str, Any]
    emg_normalisation: Mapping[str, float]
    sources: Mapping[str, str]

    @property
    def problem(self) -> Problem:
        """The calibration problem of the training windows.

        Raises:
            InputError: there is none to solve; see ``Problem``.
        """
        with _at(f"study {self.name!r}"):
            return Problem(self.model, self.start, self.train, self.free, self.groups, self.penalties)


# What a study's author calls the types of TOML.
TYPE_NAMES = {
    str: "text in quotes",
    float: "a finite number",
    int: "a whole number",
    bool: "true or false",
    list: "a list [...]",
    dict: "a table of keys",
}


class _Keys:
    """A TOML table whose keys are taken one by one; what is left over at the end was misspelt."""

    def __init__(self, where: str, table: Any) -> None:
        if not isinstance(table, Mapping):
            raise InputError(f"{where} is {table!r}; expected {TYPE_NAMES[dict]}")
        self.where, self._table, self._known = where, dict(table), []

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
        self._known.append(key)
        if key not in self._table:
            if default is ...:
                raise InputError(f"{self.where}: {key!r} is missing; it is required. {near(key, list(self._table))}")
            return default
        value = self._table.pop(key)
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not any(_is(value, k) for k in kinds):
            expected = " or ".join(TYPE_NAMES[k] for k in kinds)
            raise InputError(f"{self.where}: {key} is {value!r}; expected {expected}")
        return float(value) if kinds == (float,) else value

    def names(self, key: str, default: Any = ...) -> tuple[str, ...]:
        names = self.take(key, list, default)
        if names is None:
            return ()
        return _names(f"{self.where}: {key}", names)

    def table(self, key: str, default: Any = ...) -> _Keys:
        return _Keys(f"{self.where} [{key}]", self.take(key, dict, default))

    def rest(self) -> dict[str, Any]:
        taken, self._table = self._table, {}
        return taken

    def finish(self) -> None:
        if self._table:
            wrong = next(iter(self._table))
            raise InputError(f"{self.where}: unknown key {wrong!r}; {near(wrong, self._known)}")


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, kind)


def _names(where: str, names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise InputError(f"{where} is {names!r}; expected a list of names, each in quotes")
    require_unique(names, "names", where)
    return tuple(names)


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Errors inside say where in the study they come from."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def require_file_name(name: str, where: str) -> None:
    """Raise ``InputError`` unless a trial or study of that name can be a file everywhere."""
    if not re.fullmatch(r'[^\\/:*?"<>|\x00-\x1f]+', name) or not name.strip(" ."):
        raise InputError(f"{where}: the name {name!r} cannot be that of a file; use letters, digits, '_' and '-'")


def read_study(
    path: str | os.PathLike[str],
    *,
    emg_reference: Mapping[str, float] | None = None,
    say: Say = lambda _: None,
) -> Study:
    """Read a study and everything it names.

    Args:
        path: of the TOML file.
        emg_reference: channel -> what counts as 1 where the study normalises to the session, instead of the largest
            value of its own trials: a person's parameters suit the reference they were calibrated with.
        say: told what is going on, for files that take a while.

    Raises:
        InputError: anything that cannot be used, with file, name, value and what to do.
    """
    file = Path(path)
    keys = _Keys(str(file), _document(file))
    folder = _Folder(file.parent)

    # All that the study says is understood before the first recording is read: a misspelt key shows at once.
    name = keys.take("name", str, file.stem)
    require_file_name(name, keys.where)
    output = folder.path(keys.take("output", str, f"nms-gym-out/{name}"), f"{file}: output", must_exist=False)
    coordinates = keys.names("coordinates")
    dt = keys.take("dt", float, None)
    lead_in = keys.take("lead_in", float, 0.2)
    if lead_in < 0:
        raise InputError(f"{file}: lead_in is {lead_in:g} s; expected 0 or more")
    channels = _channels(keys.table("channels"))
    settings = _dataclass(Settings, keys.table("settings", {}), skip=("curves",))
    recipe = _recipe(keys.table("emg", {"kind": "envelope"}))
    free = _free(keys, settings)
    groups = {k: _names(f"{file} [groups]: {k}", v) for k, v in keys.take("groups", dict, {}).items()}
    penalties = _dataclass(Penalties, keys.table("penalties", {}))
    options = _solver(keys.table("solver", {}))
    model_keys, start_keys, trial_tables = keys.table("model"), keys.table("start", {}), keys.take("trials", list)
    keys.finish()
    if not trial_tables:
        raise InputError(f"{file}: no [[trials]]; at least one recording is needed")
    readers = [_TrialReader(f"{file} [[trials]] {i + 1}", t, folder) for i, t in enumerate(trial_tables)]
    for i, reader in enumerate(readers):
        if reader.name in [r.name for r in readers[:i]]:
            raise InputError(f"{reader.where}: two trials are called {reader.name!r}; give each its own name")

    model, start = _subject(_model(model_keys, folder, channels), coordinates, channels, settings, start_keys)
    _check_groups(groups, model.muscles + model.channels, f"{file} [groups]")
    recorded = [r.read_emg(channels.channels) for r in readers]
    envelopes, references = _envelopes(recorded, recipe, f"{file} [emg]", emg_reference)
    trials: dict[str, Trial] = {}
    for reader, emg in zip(readers, envelopes, strict=True):
        say(f"reading trial {reader.name}")
        with _at(reader.where):
            trials[reader.name] = reader.read(model, coordinates, emg, dt)
    train, held_out = _windows(readers, trials)

    def segments(windows: Sequence[_Window]) -> tuple[Segment, ...]:
        return tuple(
            make_segment(model, w.trial, coordinates=coordinates, start=w.start, stop=w.stop, lead_in=lead_in)
            for w in windows
        )

    return Study(
        name=name,
        output=output,
        model=model,
        start=start,
        trials=trials,
        train=segments(train),
        held_out={label: segments(windows) for label, windows in held_out.items()},
        free=free,
        groups=groups,
        penalties=penalties,
        fit_options=options,
        emg_normalisation=references,
        sources=_sources(trials.values()),
    )


def _check_groups(groups: Mapping[str, Sequence[str]], names: Sequence[str], where: str) -> None:
    for label, members in groups.items():
        for member in members:
            if member not in names:
                raise InputError(f"{where}: {label} names {member!r}, no muscle or channel; {near(member, names)}")


def _document(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot read the study: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not a TOML file: {error}; correct it there") from error


def _sources(trials: Iterable[Trial]) -> dict[str, str]:
    """File name -> SHA-256; files of one name in several trials get the trial's name too."""
    sources: dict[str, str] = {}
    for trial in trials:
        for file, digest in trial.sources.items():
            sources[file if sources.get(file, digest) == digest else f"{trial.name}: {file}"] = digest
    return sources


@dataclass(frozen=True)
class _Window:
    """A stretch of a trial, s."""

    trial: Trial
    start: float
    stop: float


def _windows(
    readers: Sequence[_TrialReader], trials: Mapping[str, Trial]
) -> tuple[list[_Window], dict[str, list[_Window]]]:
    """Training windows, and held-out ones by the label of their set; a trial that says nothing is held out."""

    def windows(reader: _TrialReader, given: Sequence[tuple[float, float]] | None) -> list[_Window]:
        trial = trials[reader.name]
        whole = [(float(trial.time[0]), float(trial.time[-1]))]
        return [_Window(trial, a, b) for a, b in (whole if given is None else given)]

    train = [w for r in readers for w in windows(r, r.train)]
    held_out: dict[str, list[_Window]] = {}
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


def _require_apart(train: _Window, held_out: _Window, where: str) -> None:
    """Windows of one trial, or of one recording read twice, must not share time."""
    a, b = train.trial, held_out.trial
    same = a.name == b.name or (a.sources and a.sources == b.sources)
    if same and min(train.stop, held_out.stop) - max(train.start, held_out.start) > 1e-9:
        raise InputError(
            f"{where}: training window {train.start:g} to {train.stop:g} s of {a.name!r} and held-out window "
            f"{held_out.start:g} to {held_out.stop:g} s of {b.name!r} overlap; what the fit saw cannot validate it: "
            "move one of them"
        )


@dataclass(frozen=True)
class _Folder:
    """Paths of a study: relative to its file, with environment variables."""

    base: Path

    def path(self, text: str, what: str, *, must_exist: bool = True) -> Path:
        missing = [v for v in re.findall(r"\$\{?(\w+)\}?", text) if v not in os.environ]
        if missing:
            raise InputError(
                f"{what} is {text!r}: the environment variable {missing[0]} is not set; set it, or write the path out"
            )
        path = self.base / os.path.expandvars(text)
        if must_exist and not path.exists():
            raise InputError(
                f"{what}: no such file or folder: {path}; correct the path (it is relative to the study file)"
            )
        return path

    def optional(self, keys: _Keys, key: str) -> Path | None:
        text = keys.take(key, str, None)
        return None if text is None else self.path(text, f"{keys.where}: {key}")


def _channels(keys: _Keys) -> ChannelMap:
    given = keys.rest()
    for channel, muscles in given.items():
        if isinstance(muscles, list) and muscles:
            _names(f"{keys.where}: {channel}", muscles)
        elif not isinstance(muscles, str | list | dict):
            raise InputError(f"{keys.where}: {channel} is {muscles!r}; expected a list of the muscles it drives")
    with _at(keys.where):
        return ChannelMap.from_channels(given)


def _dataclass(cls: Any, keys: _Keys, skip: tuple[str, ...] = ()) -> Any:
    """A dataclass of plain numbers, strings and tuples of numbers from a table of the same keys."""
    values = {}
    for f in dataclasses.fields(cls):
        if f.name in skip:
            continue
        if isinstance(f.default, tuple):
            values[f.name] = _numbers(keys, f.name, f.default)
        else:
            values[f.name] = keys.take(f.name, type(f.default), f.default)
    keys.finish()
    with _at(keys.where):
        return cls(**values)


def _numbers(keys: _Keys, key: str, default: Sequence[float]) -> tuple[float, ...]:
    """As many numbers as the default has."""
    given = keys.take(key, list, list(default))
    if len(given) != len(default) or not all(_is(v, float) for v in given):
        raise InputError(f"{keys.where}: {key} is {given!r}; expected {len(default)} numbers, such as {list(default)}")
    return tuple(float(v) for v in given)


def _recipe(keys: _Keys) -> EmgRecipe:
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
    if recipe.normalise not in ("trial", "session", "mvc", "none"):
        raise InputError(f"{keys.where}: normalise is {recipe.normalise!r}; use 'trial', 'session', 'mvc' or 'none'")
    if recipe.mvc and recipe.normalise != "mvc":
        raise InputError(f"{keys.where}: mvc is given, but normalise is {recipe.normalise!r}; use normalise = 'mvc'")
    for channel, value in recipe.mvc.items():
        if not _is(value, float) or value <= 0:
            raise InputError(f"{keys.where}: mvc of {channel!r} is {value!r}; expected a number above 0")
    return recipe


def _envelopes(
    tables: Sequence[Table], recipe: EmgRecipe, where: str, known: Mapping[str, float] | None
) -> tuple[list[Table], dict[str, float]]:
    """Envelopes of all trials, normalised together where asked, and each channel's reference value."""
    made = [_envelope(t, recipe) for t in tables]
    labels = made[0].labels
    if recipe.normalise == "none":
        return made, dict.fromkeys(labels, 1.0)
    if recipe.normalise == "trial":
        return [_scaled(t, t.data.max(axis=0)) for t in made], {}
    if recipe.normalise == "mvc" or known:
        given = recipe.mvc if recipe.normalise == "mvc" else dict(known or {})
        missing = [c for c in labels if c not in given]
        if missing:
            raise InputError(
                f"{where}: no {recipe.normalise} reference of channel {listed(missing)}; there are {listed(given)}"
            )
        reference = {c: float(given[c]) for c in labels}
    else:
        reference = {c: max(float(t.data[:, i].max()) for t in made) for i, c in enumerate(labels)}
    return [_scaled(t, np.array([reference[c] for c in labels])) for t in made], reference


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


def _scaled(table: Table, reference: np.ndarray) -> Table:
    # Not "<= 0": a reference taken from a recording with a gap is not a number, and the gap is reported with the trial.
    dead = [c for c, v in zip(table.labels, reference, strict=True) if v <= 0]
    if dead:
        raise InputError(f"{table.path}: EMG channel {listed(dead)} never rises above 0; leave it out")
    return dataclasses.replace(table, data=table.data / reference)


class _TrialReader:
    """One ``[[trials]]`` table."""

    def __init__(self, where: str, table: Any, folder: _Folder) -> None:
        keys = _Keys(where, table)
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


def _arrays(keys: _Keys, folder: _Folder) -> tuple[Path, dict[str, Any]] | None:
    """An .npz file and what its arrays are, from ``[trials.arrays]``."""
    given = keys.take("arrays", dict, None)
    if given is None:
        return None
    arrays = _Keys(f"{keys.where} [arrays]", given)
    file = folder.path(arrays.take("file", str), f"{arrays.where}: file")
    roles = arrays.rest()
    for role, value in roles.items():
        if not isinstance(value, str):
            _names(f"{arrays.where}: {role}", value)
    return file, roles


def _times(keys: _Keys, key: str) -> tuple[tuple[float, float], ...] | None:
    """Windows in s; None for all of the trial."""
    given = keys.take(key, (list, bool), [])
    if isinstance(given, bool):
        return None if given else ()
    if not all(isinstance(w, list) and len(w) == 2 and all(_is(x, float) for x in w) for w in given):
        raise InputError(f"{keys.where}: {key} is {given!r}; expected true, or windows [[start, stop], ...] in s")
    return tuple((float(a), float(b)) for a, b in given)


@dataclass(frozen=True)
class _Parameters:
    """Muscles with their parameters from wherever the study has them, and paths if any."""

    where: str
    muscles: tuple[str, ...]
    values: Mapping[str, np.ndarray]
    paths: PolynomialPaths | None


def _model(keys: _Keys, folder: _Folder, channels: ChannelMap) -> _Parameters:
    """The muscles chosen: by default those with a channel and those named passive."""
    text = keys.take("file", str)
    chosen = keys.names("muscles", None)
    passive = keys.names("passive_muscles", None)
    columns = keys.take("columns", dict, {})
    paths_file = folder.optional(keys, "paths")
    keys.finish()
    driven = [m for m in passive if m in channels.muscles]
    if driven:
        raise InputError(f"{keys.where}: passive_muscles has {listed(driven)}, which a channel drives; remove it")
    if text.startswith("asset:"):
        path = asset_path(f"{text.removeprefix('asset:')}/model.json")
    else:
        path = folder.path(text, f"{keys.where}: file")
    muscles = chosen or tuple(dict.fromkeys(channels.muscles + passive))
    paths = None
    with _at(str(path)):
        if path.suffix == ".json":
            source = read_model_file(path).select(muscles=muscles)
            values, paths = source.parameters, source.paths
        elif path.suffix == ".osim":
            osim = read_osim(path)
            values = {kind: np.array([getattr(osim.muscle(m), kind) for m in muscles]) for kind in PARAMETERS}
        elif path.suffix == ".csv":
            values = _parameter_table(path, muscles, columns)
        else:
            raise InputError("expected an .osim model, a .json model file or a .csv of parameters")
    if columns and path.suffix != ".csv":
        raise InputError(f"{keys.where}: columns is for a .csv, but file is {text!r}; remove it")
    if paths_file is not None:
        paths = read_model_file(paths_file).select(muscles=muscles).paths
    return _Parameters(str(path), muscles, values, paths)


def _parameter_table(path: Path, muscles: Sequence[str], columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Muscle parameters from a CSV with one row per muscle; ``columns`` says which column is which parameter."""
    wrong = [k for k in columns if k not in ("muscle", *PARAMETER_KINDS)]
    if wrong:
        raise InputError(f"columns names {listed(wrong)}, no parameter; {near(wrong[0], PARAMETER_KINDS)}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"not a readable CSV file ({error})") from error
    label = columns.get("muscle", "muscle")
    header = [h for h in rows[0] if h] if rows else []
    missing = [c for c in (label, *columns.values()) if c not in header]
    if missing:
        raise InputError(f"no column {listed(missing)}; it has {listed(header)}")
    table = {row[label]: row for row in rows}
    absent = [m for m in muscles if m not in table]
    if absent:
        raise InputError(f"no muscle {listed(absent)}; {near(absent[0], [m for m in table if m])}")
    return {
        kind: np.array([_cell(table[m][column], column, m) for m in muscles])
        for kind, column in columns.items()
        if kind != "muscle"
    }


def _cell(text: str | None, column: str, muscle: str) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise InputError(f"column {column!r} of muscle {muscle!r} is {text!r}; expected a number") from None


def _subject(
    files: _Parameters, coordinates: tuple[str, ...], channels: ChannelMap, settings: Settings, start: _Keys
) -> tuple[NmsModel, NmsParams]:
    """The model, and the parameters that a calibration starts from."""
    paths = files.paths
    known = coordinates if paths is None else paths.coordinates
    for c in coordinates:
        if c not in known:
            raise InputError(f"{files.where}: its muscle paths have no coordinate {c!r}; {near(c, known)}")
    with _at(files.where):
        weights = channels.weights(channels.channels, files.muscles)
    model = NmsModel(
        muscles=files.muscles,
        coordinates=known,
        channels=channels.channels,
        settings=settings,
        channel_weights=weights,  # type: ignore[arg-type]
        paths=paths,
    )
    overrides = start.rest()
    for kind, value in overrides.items():
        if kind not in PARAMETER_KINDS:
            raise InputError(f"{start.where}: unknown parameter {kind!r}; {near(kind, PARAMETER_KINDS)}")
        numbers = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        if not all(_is(v, float) for v in numbers):
            raise InputError(f"{start.where}: {kind} is {value!r}; expected a number, or {{ name = number, ... }}")
    with _at(f"{files.where}, {start.where}" if overrides else files.where):
        return model, make_params(model, {**files.values, **overrides})


def _free(keys: _Keys, settings: Settings) -> tuple[Free, ...]:
    """What may change. Absent: CEINMS's choice (README); a list of kinds, or a table with details per kind."""
    given = keys.take("free", (dict, list), None)
    if given is None:
        kinds = DEFAULT_KINDS
        if settings.activation == "first_order":
            kinds = tuple(k if k != "filter_time_constant_1" else "activation_time_constant" for k in kinds)
        return tuple(DEFAULT_FREE[k] for k in kinds)
    if not given:
        raise InputError(f"{keys.where}: free is empty; name the parameters to calibrate, or leave it out")
    if isinstance(given, list):
        given = {kind: {} for kind in _names(f"{keys.where}: free", given)}
    return tuple(_free_kind(kind, f"{keys.where} [free.{kind}]", details) for kind, details in given.items())


def _free_kind(kind: str, where: str, details: Any) -> Free:
    if kind not in DEFAULT_FREE:
        raise InputError(f"{where}: unknown parameter {kind!r}; {near(kind, list(DEFAULT_FREE))}")
    keys, default = _Keys(where, details), DEFAULT_FREE[kind]
    low, high = _numbers(keys, "bounds", default.bounds)
    free = Free(
        kind,
        (low, high),
        keys.take("prior_sd", float, default.prior_sd),
        keys.take("relative", bool, default.relative),
        keys.take("share", str, default.share),
        keys.names("only", None) or None,
    )
    keys.finish()
    if not low < high:
        raise InputError(f"{where}: bounds are {low:g} to {high:g}; expected low < high")
    if not free.prior_sd > 0:
        raise InputError(f"{where}: prior_sd is {free.prior_sd:g}; expected a number above 0")
    return free


def _solver(keys: _Keys) -> dict[str, Any]:
    options = {
        "solver": keys.take("name", str, "lm"),
        "starts": keys.take("starts", int, 4),
        "max_iterations": keys.take("max_iterations", int, None),
        "learning_rate": keys.take("learning_rate", float, 0.05),
        "tolerance": keys.take("tolerance", float, 1e-4),
        "seed": keys.take("seed", int, 0),
    }
    keys.finish()
    if options["solver"] not in SOLVERS:
        raise InputError(f"{keys.where}: name is {options['solver']!r}; use one of {listed(SOLVERS)}")
    least = {"starts": 1, "max_iterations": 1, "learning_rate": 1e-9, "tolerance": 0, "seed": 0}
    for name, low in least.items():
        if options[name] is not None and options[name] < low:
            raise InputError(f"{keys.where}: {name} is {options[name]}; expected at least {low}")
    return options
