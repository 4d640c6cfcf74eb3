"""A study in one TOML file: which model, recordings, channels, windows and freedom; read, checked and made ready to
fit.

Every key is known, every name is checked against the files, and paths are relative to the TOML file (``${NAME}`` takes
an environment variable). The README describes the keys; ``examples/configs`` holds one study per public data set.
"""

from __future__ import annotations

import csv
import dataclasses
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
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
from nms_gym.model_file import PARAMETERS, ModelFile, read_model_file
from nms_gym.muscle.geometry import PolynomialPaths
from nms_gym.recording.arrays import read_arrays
from nms_gym.recording.muscle_analysis import read_muscle_analysis
from nms_gym.recording.osim import read_osim
from nms_gym.recording.storage import Table, read_coordinates, read_labels, read_moments, read_table
from nms_gym.recording.trial import Trial, load_trial, make_trial
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
    normalise: str | None = None
    """"trial", "session", "mvc" or "none"; by default "session" for raw EMG and "none" for envelopes"""
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
        """The calibration problem of the training windows."""
        return Problem(self.model, self.start, self.train, self.free, self.groups, self.penalties)


class _Keys:
    """A TOML table whose keys are taken one by one; what is left over at the end was misspelt."""

    def __init__(self, where: str, table: Any) -> None:
        if not isinstance(table, Mapping):
            raise InputError(f"{where}: expected a table of keys, found {table!r}")
        self.where, self._table, self._known = where, dict(table), []

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
        self._known.append(key)
        if key not in self._table:
            if default is ...:
                raise InputError(f"{self.where}: {key!r} is missing; it is required")
            return default
        value = self._table.pop(key)
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if float in kinds and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            expected = " or ".join(k.__name__ for k in kinds)
            raise InputError(f"{self.where}: {key} is {value!r}; expected {expected}")
        return value

    def table(self, key: str, default: Any = ...) -> _Keys:
        return _Keys(f"{self.where} [{key}]", self.take(key, dict, default))

    def rest(self) -> dict[str, Any]:
        taken, self._table = self._table, {}
        return taken

    def finish(self) -> None:
        if self._table:
            wrong = next(iter(self._table))
            raise InputError(f"{self.where}: unknown key {wrong!r}; {near(wrong, self._known)}")


def read_study(path: str | os.PathLike[str], *, say: Say = lambda _: None) -> Study:
    """Read a study and everything it names.

    Args:
        path: of the TOML file.
        say: told what is going on, for files that take a while.

    Raises:
        InputError: anything that cannot be used, with file, name, value and what to do.
    """
    file = Path(path)
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot read the study: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not a TOML file: {error}") from error
    keys = _Keys(str(file), document)
    where = _Folder(file.parent)

    name = keys.take("name", str, file.stem)
    output = where.path(keys.take("output", str, f"nms-gym-out/{name}"), must_exist=False)
    coordinates = _names(keys, "coordinates")
    dt = keys.take("dt", float, None)
    lead_in = keys.take("lead_in", float, 0.2)
    channels = ChannelMap.from_channels(keys.take("channels", dict))
    settings = _settings(keys.table("settings", {}))
    recipe = _recipe(keys.table("emg", {"kind": "envelope"}))
    files, moving = _model(keys.table("model"), where, channels)
    trial_tables = keys.take("trials", list)
    if not trial_tables:
        raise InputError(f"{file}: no [[trials]]; at least one recording is needed")

    readers = [_TrialReader(f"{file} [[trials]] {i + 1}", t, where) for i, t in enumerate(trial_tables)]
    envelopes, references = _envelopes([r.read_emg(channels.channels) for r in readers], recipe)
    model, start = _subject(files, moving, coordinates, channels, settings, keys.table("start", {}))
    trials: dict[str, Trial] = {}
    train: list[Segment] = []
    held_out: dict[str, list[Segment]] = {}
    for reader, emg in zip(readers, envelopes, strict=True):
        say(f"reading trial {reader.name}")
        trial = reader.read(model, coordinates, emg, dt)
        if trial.name in trials:
            raise InputError(f"{reader.where}: two trials are called {trial.name!r}; give each its own name")
        trials[trial.name] = trial
        for role, window in reader.windows(trial):
            start_s, stop_s = window
            segment = make_segment(model, trial, coordinates=coordinates, start=start_s, stop=stop_s, lead_in=lead_in)
            if role == "train":
                train.append(segment)
            else:
                held_out.setdefault(trial.name, []).append(segment)
    free, groups = _free(keys, model)
    penalties = _dataclass(Penalties, keys.table("penalties", {}))
    options = _solver(keys.table("solver", {}))
    keys.finish()
    return Study(
        name=name,
        output=output,
        model=model,
        start=start,
        trials=trials,
        train=tuple(train),
        held_out={f"{n}, other windows" if _also(train, n) else n: tuple(s) for n, s in held_out.items()},
        free=free,
        groups=groups,
        penalties=penalties,
        fit_options=options,
        emg_normalisation=references,
        sources={k: v for t in trials.values() for k, v in t.sources.items()},
    )


def _also(train: Sequence[Segment], trial: str) -> bool:
    return any(s.name.startswith(f"{trial} ") for s in train)


@dataclass(frozen=True)
class _Folder:
    """Paths of a study: relative to its file, with environment variables."""

    base: Path

    def path(self, text: str, *, must_exist: bool = True) -> Path:
        missing = [v for v in re.findall(r"\$\{?(\w+)\}?", text) if v not in os.environ]
        if missing:
            raise InputError(
                f"path {text!r} needs the environment variable {missing[0]}; set it, or write the path out"
            )
        path = self.base / os.path.expandvars(text)
        if must_exist and not path.exists():
            raise InputError(f"{path}: no such file or folder (paths are relative to the study file)")
        return path


def _names(keys: _Keys, key: str, default: Any = ...) -> tuple[str, ...]:
    names = keys.take(key, list, default)
    if names is None:
        return ()
    if not names or not all(isinstance(n, str) for n in names):
        raise InputError(f"{keys.where}: {key} is {names!r}; expected a list of names")
    return tuple(names)


def _settings(keys: _Keys) -> Settings:
    return _dataclass(Settings, keys, skip=("curves",))


def _dataclass(cls: Any, keys: _Keys, skip: tuple[str, ...] = ()) -> Any:
    """A dataclass of plain numbers and strings from a table of the same keys."""
    values = {}
    for f in dataclasses.fields(cls):
        if f.name in skip:
            continue
        kind = (list,) if isinstance(f.default, tuple) else (type(f.default),)
        value = keys.take(f.name, kind, None)
        if value is not None:
            values[f.name] = tuple(float(v) for v in value) if isinstance(f.default, tuple) else value
    keys.finish()
    try:
        return cls(**values)
    except InputError as error:
        raise InputError(f"{keys.where}: {error}") from error


def _recipe(keys: _Keys) -> EmgRecipe:
    recipe = EmgRecipe(
        kind=keys.take("kind", str),
        high_pass=keys.take("high_pass", float, 30.0),
        low_pass=keys.take("low_pass", float, 6.0),
        order=keys.take("order", int, 4),
        zero_lag=keys.take("zero_lag", bool, True),
        notch=keys.take("notch", float, None),
        normalise=keys.take("normalise", str, None),
        mvc=keys.take("mvc", dict, {}),
        baseline=keys.take("baseline", float, None),
    )
    keys.finish()
    if recipe.kind not in ("raw", "envelope"):
        raise InputError(f"{keys.where}: kind is {recipe.kind!r}; use 'raw' or 'envelope'")
    if recipe.normalise not in (None, "trial", "session", "mvc", "none"):
        raise InputError(f"{keys.where}: normalise is {recipe.normalise!r}; use 'trial', 'session', 'mvc' or 'none'")
    return recipe


def _envelopes(tables: Sequence[Table], recipe: EmgRecipe) -> tuple[list[Table], dict[str, float]]:
    """Envelopes of all trials, normalised together where asked, and each channel's reference value."""
    made = []
    for t in tables:
        time, values = t.time, t.data
        if recipe.kind == "raw":
            envelope = process_emg(
                time,
                values,
                t.labels,
                high_pass=recipe.high_pass,
                low_pass=recipe.low_pass,
                order=recipe.order,
                zero_lag=recipe.zero_lag,
                notch=recipe.notch,
                normalise="none",
                step=0.005,
                where=t.path,
            ).table()
            time, values = envelope.time, envelope.data
        if recipe.baseline is not None:
            values = remove_baseline(values, recipe.baseline, t.path)
        made.append(dataclasses.replace(t, time=time, data=values))
    how = recipe.normalise or ("session" if recipe.kind == "raw" else "none")
    labels = made[0].labels
    if how == "none":
        return made, dict.fromkeys(labels, 1.0)
    if how == "mvc":
        missing = [c for c in labels if c not in recipe.mvc]
        if missing:
            raise InputError(f"[emg] mvc lacks channel {listed(missing)}; it has {listed(recipe.mvc)}")
        reference = {c: float(recipe.mvc[c]) for c in labels}
    else:
        reference = {c: max(float(t.data[:, i].max()) for t in made) for i, c in enumerate(labels)}
    bad = [c for c, v in reference.items() if not v > 0]
    if bad:
        raise InputError(f"[emg] the reference of channel {listed(bad)} is not positive; the channel is dead")
    scaled = []
    for t in made:
        by = t.data.max(axis=0) if how == "trial" else np.array([reference[c] for c in labels])
        if not (by > 0).all():
            raise InputError(f"{t.path}: channel {labels[int(np.argmin(by))]!r} is 0 throughout; leave it out")
        scaled.append(dataclasses.replace(t, data=t.data / by))
    return scaled, reference


class _TrialReader:
    """One ``[[trials]]`` table."""

    def __init__(self, where: str, table: Any, folder: _Folder) -> None:
        keys = _Keys(where, table)
        self.where = where
        self.file = self._path(keys, folder, "trial")
        arrays = keys.take("arrays", dict, None)
        self.arrays = None
        if arrays is not None:
            arrays = dict(arrays)
            if "file" not in arrays:
                raise InputError(f"{where}: arrays needs 'file', the .npz to read")
            self.arrays = (folder.path(str(arrays.pop("file"))), arrays)
        self.kinematics = self._path(keys, folder, "kinematics")
        self.moments = self._path(keys, folder, "moments")
        self.emg = self._path(keys, folder, "emg")
        self.geometry = self._path(keys, folder, "muscle_analysis")
        self.prefix = keys.take("muscle_analysis_prefix", str, None)
        self.q_cutoff = keys.take("q_cutoff", float, None)
        self.moment_cutoff = keys.take("moment_cutoff", float, None)
        self.trim = keys.take("trim", bool, False)
        self.synthetic = keys.take("synthetic", bool, False)
        first = self.file or self.kinematics or (self.arrays and self.arrays[0])
        self.name = keys.take("name", str, Path(first).stem if first else "")
        self._train = self._windows(keys, "train")
        self._held_out = self._windows(keys, "held_out")
        keys.finish()
        if sum(x is not None for x in (self.file, self.arrays, self.kinematics)) != 1:
            raise InputError(
                f"{where}: give exactly one of 'kinematics', 'arrays' or 'trial' as the source of the motion"
            )
        if self.file is None and self.emg is None and (self.arrays is None or "emg" not in self.arrays[1]):
            raise InputError(f"{where}: no EMG; give 'emg', a file, or 'emg' among the arrays")

    @staticmethod
    def _path(keys: _Keys, folder: _Folder, key: str) -> Path | None:
        text = keys.take(key, str, None)
        return None if text is None else folder.path(text)

    def _windows(self, keys: _Keys, key: str) -> list[tuple[float | None, float | None]]:
        given = keys.take(key, (list, bool), [])
        if isinstance(given, bool):
            return [(None, None)] if given else []
        if not all(isinstance(w, list) and len(w) == 2 and all(isinstance(x, int | float) for x in w) for w in given):
            raise InputError(f"{self.where}: {key} is {given!r}; expected true, or windows [[start, stop], ...] in s")
        return [(float(a), float(b)) for a, b in given]

    def windows(self, trial: Trial) -> list[tuple[str, tuple[float | None, float | None]]]:
        """(role, window); a trial that says nothing is held out as a whole."""
        train, held_out = self._train, self._held_out
        if not train and not held_out:
            held_out = [(None, None)]
        for a, b in ((a, b) for a in train for b in held_out):
            a0, a1 = (trial.time[0] if a[0] is None else a[0]), (trial.time[-1] if a[1] is None else a[1])
            b0, b1 = (trial.time[0] if b[0] is None else b[0]), (trial.time[-1] if b[1] is None else b[1])
            if min(a1, b1) - max(a0, b0) > 1e-9:
                raise InputError(
                    f"{self.where}: training window {a0:g} to {a1:g} s and held-out window {b0:g} to {b1:g} s overlap; "
                    "what the fit saw cannot validate it"
                )
        return [("train", w) for w in train] + [("held-out", w) for w in held_out]

    def read_emg(self, channels: Sequence[str]) -> Table:
        """The channels that are mapped, in that order, as recorded."""
        if self.file is not None:
            trial = load_trial(self.file)
            table = Table(str(self.file), trial.channels, trial.emg_time, trial.emg)
        elif self.emg is not None:
            table = read_table(self.emg, columns=[c for c in channels if c in read_labels(self.emg)] or None)
        else:
            assert self.arrays is not None
            table = read_arrays(*self.arrays).emg
            assert table is not None
        data = table.select(channels)
        return Table(table.path, tuple(channels), table.time, data)

    def read(self, model: NmsModel, coordinates: Sequence[str], emg: Table, dt: float | None) -> Trial:
        """The trial with its envelopes."""
        if self.file is not None:
            trial = dataclasses.replace(load_trial(self.file), name=self.name or load_trial(self.file).name)
            trial = dataclasses.replace(trial, channels=emg.labels, emg_time=emg.time, emg=emg.data)
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


@dataclass(frozen=True)
class _Parameters:
    """Muscles with their parameters from wherever the study has them, and paths if any."""

    muscles: tuple[str, ...]
    values: Mapping[str, np.ndarray]
    paths: PolynomialPaths | None


def _model(keys: _Keys, folder: _Folder, channels: ChannelMap) -> tuple[_Parameters, tuple[str, ...]]:
    """The muscles chosen, and the names of those."""
    text = keys.take("file", str)
    chosen = _names(keys, "muscles", None)
    extra = _names(keys, "passive_muscles", None)
    path = asset_path(f"{text[6:]}/model.json") if text.startswith("asset:") else folder.path(text)
    columns = keys.take("columns", dict, {})
    paths_file = keys.take("paths", str, None)
    keys.finish()
    wanted = chosen or tuple(dict.fromkeys(channels.muscles + extra))
    if path.suffix == ".json":
        source: ModelFile | None = read_model_file(path).select(muscles=wanted)
        assert source is not None
        values, paths = source.parameters, source.paths
    elif path.suffix == ".osim":
        osim = read_osim(path)
        found = [osim.muscle(m) for m in wanted]
        values = {kind: np.array([getattr(m, kind) for m in found]) for kind in PARAMETERS}
        paths = None
    elif path.suffix == ".csv":
        values, paths = _parameter_table(path, wanted, columns), None
    else:
        raise InputError(
            f"{keys.where}: file {text!r}; expected an .osim model, a .json model file or a .csv of parameters"
        )
    if paths_file is not None:
        paths = read_model_file(folder.path(paths_file)).select(muscles=wanted).paths
    return _Parameters(wanted, values, paths), wanted


def _parameter_table(path: Path, muscles: Sequence[str], columns: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Muscle parameters from a CSV with one row per muscle; ``columns`` says which column is which parameter."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    label = columns.get("muscle", "muscle")
    header = list(rows[0]) if rows else []
    wrong = [k for k in columns if k not in ("muscle", *PARAMETER_KINDS)]
    missing = [c for c in (label, *columns.values()) if c not in header]
    if wrong or missing:
        raise InputError(
            f"{path}: no column {listed(missing)}; it has {listed(header)}"
            if missing
            else f"{path}: columns names {listed(wrong)}, no parameter; there are {listed(PARAMETER_KINDS, 20)}"
        )
    table = {row[label]: row for row in rows}
    absent = [m for m in muscles if m not in table]
    if absent:
        raise InputError(f"{path}: no muscle {listed(absent)}; {near(absent[0], list(table))}")
    values: dict[str, np.ndarray] = {}
    for kind, column in columns.items():
        if kind == "muscle":
            continue
        try:
            values[kind] = np.array([float(table[m][column]) for m in muscles])
        except ValueError as error:
            raise InputError(f"{path}: column {column!r}: {error}; expected a number for every muscle") from error
    return values


def _subject(
    files: _Parameters,
    muscles: tuple[str, ...],
    coordinates: tuple[str, ...],
    channels: ChannelMap,
    settings: Settings,
    start: _Keys,
) -> tuple[NmsModel, NmsParams]:
    paths = files.paths
    if paths is not None:
        unknown = [c for c in coordinates if c not in paths.coordinates]
        if unknown:
            raise InputError(
                f"the model's muscle paths have no coordinate {listed(unknown)}; {near(unknown[0], paths.coordinates)}"
            )
    model = NmsModel(
        muscles=muscles,
        coordinates=coordinates if paths is None else paths.coordinates,
        channels=channels.channels,
        settings=settings,
        channel_weights=channels.weights(channels.channels, muscles),  # type: ignore[arg-type]
        paths=paths,
    )
    overrides = {}
    for kind, value in start.rest().items():
        overrides[kind] = value
    unknown = [k for k in overrides if k not in PARAMETER_KINDS]
    if unknown:
        raise InputError(f"{start.where}: unknown parameter {listed(unknown)}; {near(unknown[0], PARAMETER_KINDS)}")
    try:
        return model, make_params(model, {**files.values, **overrides}, dtype=None)
    except InputError as error:
        raise InputError(f"{start.where} or the model file: {error}") from error


def _free(keys: _Keys, model: NmsModel) -> tuple[tuple[Free, ...], dict[str, tuple[str, ...]]]:
    """What may change. Absent: CEINMS's choice (README); a list of kinds, or a table with details per kind."""
    groups = {k: tuple(v) for k, v in keys.take("groups", dict, {}).items()}
    given = keys.take("free", (dict, list), None)
    if given is None:
        kinds = DEFAULT_KINDS
        if model.settings.activation == "first_order":
            kinds = tuple(k if k != "filter_time_constant_1" else "activation_time_constant" for k in kinds)
        return tuple(DEFAULT_FREE[k] for k in kinds), groups
    table = {k: {} for k in given} if isinstance(given, list) else given
    free = []
    for kind, details in table.items():
        if kind not in DEFAULT_FREE:
            raise InputError(f"{keys.where} [free]: unknown parameter {kind!r}; {near(kind, list(DEFAULT_FREE))}")
        default, k = DEFAULT_FREE[kind], _Keys(f"{keys.where} [free.{kind}]", details)
        bounds = k.take("bounds", list, list(default.bounds))
        if len(bounds) != 2 or not all(isinstance(b, int | float) for b in bounds):
            raise InputError(f"{k.where}: bounds is {bounds!r}; expected [low, high]")
        free.append(
            Free(
                kind,
                (float(bounds[0]), float(bounds[1])),
                k.take("prior_sd", float, default.prior_sd),
                k.take("relative", bool, default.relative),
                k.take("share", str, default.share),
                _names(k, "only", None) or None,
            )
        )
        k.finish()
    return tuple(free), groups


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
    return options
