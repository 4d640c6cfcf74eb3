"""A saved person: a model with its parameters, where they came from and how well they predict, in readable JSON.

The file names everything: muscles, channels, units, every parameter by name with its value and, where there are any,
the value before calibration, its bounds and its prior. Nothing is matched by position. Muscle paths are part of the
file, so it needs no other. Numbers survive writing and reading bit for bit in float64.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nms_gym._assets import asset_path
from nms_gym.anatomy import Multibody
from nms_gym.errors import InputError, listed, near
from nms_gym.excitation.synergies import SynergyBasis, make_basis
from nms_gym.files.model_file import check_specific_tension, paths_from_json, paths_to_json
from nms_gym.files.muscle_points import check_points, points_from_json, points_to_json
from nms_gym.files.skeleton import skeleton_from_json, skeleton_to_json
from nms_gym.model.parameters import KINDS, PARAMETER_KINDS, NmsParams, entries, make_params
from nms_gym.model.structure import NmsModel, Settings
from nms_gym.model.trained_range import TrainedRange, range_from_json, range_to_json
from nms_gym.muscle.families import curves_from_record, curves_to_record
from nms_gym.muscle.geometry import PolynomialPaths
from nms_gym.muscle.metabolics import DEFAULTS as METABOLIC_DEFAULTS
from nms_gym.muscle.path_points import MusclePoints
from nms_gym.recording.documents import read_json
from nms_gym.recording.storage import atomic_path, require_unique

FORMAT = "nms_gym.subject"
VERSION = 2
# Up to version 1, "second_order" activation was what is called "recursive" now.
READABLE = (1, VERSION)

LINE_WIDTH = 110

Named = Mapping[str, Mapping[str, Any]]
"""parameter kind -> entry name -> something"""


@dataclass(frozen=True)
class Subject:
    """A person's model and parameters, with provenance.

    Attributes:
        name: of the person or the demo.
        model: structure.
        params: leaves ``(M,)`` or ``(C,)``; NumPy float64 when loaded, so that nothing is lost outside x64.
        start: parameters before calibration; None for a subject that was never calibrated.
        bounds: kind -> {entry: (low, high)} of what was free; may be incomplete.
        prior_sd: kind -> {entry: standard deviation} of what had a prior; may be incomplete.
        posterior: kind -> {entry: {"mean", "sd", "low", "high"}} of what was free, 90 % interval; may be incomplete.
        calibration: facts for the record, plain JSON: solver, status, cost, windows, what was held out.
        metrics: rows with the keys set ("uncalibrated" or "calibrated"), split ("train" or "held-out"), segment,
            coordinate, rmse (N·m), nrmse, r2, r.
        sources: file name -> SHA-256 of what the subject was made from.
        emg_normalisation: channel -> value of the envelope, in the recording's unit, that became 1.
        synthetic: True when made up or fitted to data that a model made.
        skeleton: bodies and joints of the model file, for closed-loop simulation (``rollout.moving_model``); None where
            the study's model has none.
        muscle_points: muscle -> (body, (x, y, z) m) from origin to insertion, to draw it; muscles may lack.
        trained: what the fit has seen of EMG and motion; None for a subject that was never calibrated, or in an older
            file.
    """

    name: str
    model: NmsModel
    params: NmsParams
    start: NmsParams | None = None
    bounds: Named = field(default_factory=dict)
    prior_sd: Named = field(default_factory=dict)
    posterior: Named = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    emg_normalisation: Mapping[str, float] = field(default_factory=dict)
    synthetic: bool = False
    skeleton: Multibody | None = None
    muscle_points: MusclePoints = field(default_factory=dict)
    trained: TrainedRange | None = None


# --- where they are -----------------------------------------------------


def resolve_subject(name_or_path: str | os.PathLike[str] | None = None) -> Path:
    """Path of a subject file; None is the shipped demo subject.

    Raises:
        InputError: no such file.
    """
    path = asset_path("demo/subject.json") if name_or_path is None else Path(name_or_path)
    if not path.is_file():
        raise InputError(
            f"no subject file {str(path)!r}; give the path of a file that a calibration wrote, or leave it out for the "
            "shipped demo subject"
        )
    return path


def demo_trials() -> dict[str, Path]:
    """The shipped synthetic trials of the demo by name; empty when there are none."""
    return _shipped("demo")


def _shipped(folder: str) -> dict[str, Path]:
    try:
        files = sorted(asset_path(folder).glob("*.npz"))
    except InputError:
        return {}
    return {path.stem: path for path in files if path.stem != "posterior"}


def resolve_trial(name_or_path: str | os.PathLike[str] | None = None) -> Path:
    """Path of a trial file: a path, the name of a shipped trial, or None for the first of the demo by name.

    Raises:
        InputError: no such file and no such shipped trial.
    """
    shipped = demo_trials()
    if name_or_path is None:
        if not shipped:
            raise InputError("no demo trial is installed; give the path of a trial (.npz)")
        return next(iter(shipped.values()))
    shipped |= _shipped("trials")
    path = Path(name_or_path)
    if path.is_file():
        return path
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    raise InputError(
        f"no trial {str(name_or_path)!r}: neither a file nor a shipped trial ({listed(shipped, 20)}); give the path of "
        "a .npz that Trial.save wrote"
    )


def default_subject() -> Subject:
    """The shipped demo subject (synthetic)."""
    return load_subject(resolve_subject())


# --- writing ------------------------------------------------------------


def save_subject(path: str | os.PathLike[str], subject: Subject) -> None:
    """Write a subject file, replaced in one step.

    Args:
        path: ending in ``.json``.
        subject: what to write.

    Raises:
        InputError: the ending, the folder or a name is wrong, or a parameter is not a number it can be.
    """
    if Path(path).suffix != ".json":
        raise InputError(f"{path}: a subject is saved as .json; give the name that ending")
    record = _subject_record(subject)
    try:
        text = _dump(record)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}: the subject holds something JSON cannot ({error}); use plain numbers and names"
        ) from error
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _subject_record(subject: Subject) -> dict[str, Any]:
    model = subject.model
    where = f"subject {subject.name!r}"
    for what, names in (("muscles", model.muscles), ("channels", model.channels), ("coordinates", model.coordinates)):
        require_unique(names, what, where)
    check_points(subject.muscle_points, model.muscles, _bodies(subject.skeleton), where)
    # A file without points, or without a range, is what it was before there were any.
    points = {"muscle_points": points_to_json(subject.muscle_points)} if subject.muscle_points else {}
    trained = {} if subject.trained is None else {"trained_range": range_to_json(subject.trained)}
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": subject.name,
        "synthetic": bool(subject.synthetic),
        "settings": _settings_record(model.settings),
        "coordinates": list(model.coordinates),
        "muscles": list(model.muscles),
        "channels": list(model.channels),
        "channel_weights": {
            muscle: {c: float(w) for c, w in zip(model.channels, row, strict=True) if w != 0}
            for muscle, row in zip(model.muscles, np.asarray(model.channel_weights), strict=True)
        },
        "emg_normalisation": _plain(subject.emg_normalisation),
        "parameters": _parameter_record(subject),
        "calibration": _plain(subject.calibration),
        "metrics": [_plain(row) for row in subject.metrics],
        "sources": _plain(subject.sources),
        **trained,
        "rigid_tendons": list(model.rigid_tendons),
        "specific_tension": check_specific_tension(model.specific_tension, where),
        "synergies": _synergy_record(model),
        "paths": None if model.paths is None else paths_to_json(model.paths),
        "skeleton": None if subject.skeleton is None else skeleton_to_json(subject.skeleton),
        **points,
    }


def _bodies(skeleton: Multibody | None) -> list[str] | None:
    return None if skeleton is None else [body.name for body in skeleton.bodies]


def _synergy_record(model: NmsModel) -> dict[str, Any] | None:
    """Vectors by command and channel, and the commands of every muscle that has any."""
    basis = model.synergies
    if basis is None:
        return None
    vectors = np.asarray(basis.vectors, float)
    return {
        "signed": basis.signed,
        "tasks": dict(basis.tasks),
        "vectors": {
            command: {channel: float(v) for channel, v in zip(basis.channels, column, strict=True)}
            for command, column in zip(basis.names, vectors.T, strict=True)
        },
        "muscles": {m: [c for muscle, c in model.synergy_pairs if muscle == m] for m in model.synergy_muscles},
    }


def _settings_record(settings: Settings) -> dict[str, Any]:
    record = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    return record | {"curves": curves_to_record(settings.curves)}


def _parameter_record(subject: Subject) -> dict[str, Any]:
    where = f"subject {subject.name!r}"
    values = _checked(subject.model, subject.params, where)
    starts = None if subject.start is None else _checked(subject.model, subject.start, f"{where}, start")
    for what, named in (
        ("bounds", subject.bounds),
        ("prior_sd", subject.prior_sd),
        ("posterior", subject.posterior),
    ):
        for kind, given in named.items():
            names = entries(subject.model, kind)
            strange = [name for name in given if name not in names]
            if strange:
                raise InputError(f"{where}: {what} of {kind} name {listed(strange)}; {near(strange[0], names)}")
    record = {}
    for kind in PARAMETER_KINDS:
        rows = {}
        for i, name in enumerate(entries(subject.model, kind)):
            row: dict[str, Any] = {"value": float(getattr(values, kind)[i])}
            if starts is not None:
                row["start"] = float(getattr(starts, kind)[i])
            if name in subject.bounds.get(kind, {}):
                low, high = subject.bounds[kind][name]
                row["bounds"] = [float(low), float(high)]
            if name in subject.prior_sd.get(kind, {}):
                row["prior_sd"] = float(subject.prior_sd[kind][name])
            if name in subject.posterior.get(kind, {}):
                row["posterior"] = {k: float(v) for k, v in subject.posterior[kind][name].items()}
            rows[name] = row
        record[kind] = {"unit": KINDS[kind].unit, "entries": rows}
    return record


def _checked(model: NmsModel, params: NmsParams, where: str) -> NmsParams:
    """The same as NumPy float64 leaves, once ``make_params`` has found nothing wrong with them."""
    return _made(model, {kind: np.asarray(getattr(params, kind), dtype=np.float64) for kind in PARAMETER_KINDS}, where)


def _made(model: NmsModel, values: Mapping[str, Any], where: str) -> NmsParams:
    try:
        return make_params(model, values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _plain(value: Any) -> Any:
    """The same with Python's own numbers, lists and dicts; a number that is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (np.ndarray, jax.Array)):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _dump(value: Any, indent: int = 0) -> str:
    """JSON laid out for people: a parameter or a metrics row is a line, and so is what fits and is not nested."""
    flat = json.dumps(value, allow_nan=False, ensure_ascii=False)
    row = isinstance(value, dict) and ("value" in value or "rmse" in value)
    if row or not value or not isinstance(value, (dict, list)):
        return flat
    items = list(value.values()) if isinstance(value, dict) else value
    nested = any(isinstance(item, (dict, list)) for item in items)
    if not nested and len(flat) + indent <= LINE_WIDTH:
        return flat
    if isinstance(value, list) and not nested:
        return _wrapped([json.dumps(item, allow_nan=False, ensure_ascii=False) for item in items], indent)
    lines = [_dump(item, indent + 2) for item in items]
    if isinstance(value, dict):
        keys = (json.dumps(str(key), ensure_ascii=False) for key in value)
        lines = [f"{key}: {line}" for key, line in zip(keys, lines, strict=True)]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    pad = " " * (indent + 2)
    return opening + "\n" + ",\n".join(pad + line for line in lines) + "\n" + " " * indent + closing


def _wrapped(items: list[str], indent: int) -> str:
    """A long list of numbers or names, as many on a line as fit."""
    pad = " " * (indent + 2)
    lines, line = [], pad
    for i, item in enumerate(items):
        item += "" if i == len(items) - 1 else ", "
        if len(line) + len(item) > LINE_WIDTH and line.strip():
            lines.append(line.rstrip())
            line = pad
        line += item
    return "[\n" + "\n".join([*lines, line.rstrip()]) + "\n" + " " * indent + "]"


# --- reading ------------------------------------------------------------


def load_subject(path: str | os.PathLike[str]) -> Subject:
    """Read a subject file that ``save_subject`` wrote. The order of its entries does not matter.

    Raises:
        InputError: file missing, not such a file, of a newer version, incomplete, or with an unknown name or a value
            that nothing can have; says which and what to do.
    """
    record = _read(path)
    where = str(path)
    muscles = _names(record, "muscles", where)
    channels = _names(record, "channels", where)
    coordinates = _names(record, "coordinates", where)
    if not muscles:
        raise InputError(f"{where}: it has no muscles; save the subject again")
    rigid = _names(record, "rigid_tendons", where)
    strange = [name for name in rigid if name not in muscles]
    if strange:
        raise InputError(f"{where}: rigid_tendons name {listed(strange)}; {near(strange[0], muscles)}")
    basis, pairs = _synergies(record.get("synergies"), muscles, channels, where)
    model = NmsModel(
        muscles=muscles,
        coordinates=coordinates,
        channels=channels,
        synergies=basis,
        synergy_pairs=pairs,
        rigid_tendons=rigid,
        settings=_settings(_entry(record, "settings", dict, where), where),
        channel_weights=_weights(_entry(record, "channel_weights", dict, where), muscles, channels, where),
        paths=_paths(record.get("paths"), muscles, coordinates, where),
        # Files from before models said so have the default.
        specific_tension=check_specific_tension(
            record.get("specific_tension", METABOLIC_DEFAULTS["specific_tension"]), where
        ),
    )
    parameters = _entry(record, "parameters", dict, where)
    unknown = [kind for kind in parameters if kind not in PARAMETER_KINDS]
    if unknown:
        raise InputError(f"{where}: no parameter {listed(unknown)}; {near(unknown[0], PARAMETER_KINDS)}")
    # A kind without entries (weights of a subject without synergies), or younger than the file, may be absent.
    kinds = {kind: entries(model, kind) for kind in PARAMETER_KINDS}
    expected = {k: names for k, names in kinds.items() if k in parameters or (names and not KINDS[k].files_may_lack)}
    rows = {kind: _rows(parameters, kind, names, where) for kind, names in expected.items()}
    started = {"start" in row for by_name in rows.values() for row in by_name.values()}
    if started == {True, False}:
        raise InputError(f"{where}: some parameters have a start value and some have none; give all or none")
    metrics = _entry(record, "metrics", list, where)
    if not all(isinstance(row, dict) for row in metrics):
        raise InputError(f"{where}: metrics must be a list of tables; save the subject again")
    skeleton = None if record.get("skeleton") is None else skeleton_from_json(record["skeleton"], where)
    points = points_from_json(record.get("muscle_points"), where)
    check_points(points, muscles, _bodies(skeleton), where)
    return Subject(
        name=_entry(record, "name", str, where),
        model=model,
        params=_params(model, rows, "value", where),
        start=_params(model, rows, "start", where) if started == {True} else None,
        bounds=_collected(rows, "bounds", where),
        prior_sd=_collected(rows, "prior_sd", where),
        posterior=_collected(rows, "posterior", where),
        calibration=_entry(record, "calibration", dict, where),
        metrics=tuple(metrics),
        sources=_entry(record, "sources", dict, where),
        emg_normalisation={
            channel: _number(value, f"{where}: emg_normalisation of {channel!r}")
            for channel, value in _entry(record, "emg_normalisation", dict, where).items()
        },
        synthetic=_entry(record, "synthetic", bool, where),
        skeleton=skeleton,
        muscle_points=points,
        trained=range_from_json(record.get("trained_range"), where),
    )


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    if not Path(path).exists():
        raise InputError(f"{path}: no such subject file")
    record = read_json(path, "subject file")
    found = record.get("format") if isinstance(record, dict) else None
    if found != FORMAT:
        raise InputError(
            f"{path}: its format is {found!r}, not {FORMAT!r}; give a file that save_subject or nms-gym calibrate wrote"
        )
    version = record.get("version")
    if version not in READABLE:
        advice = "update nms-gym" if isinstance(version, int) and version > VERSION else "save the subject again"
        raise InputError(
            f"{path}: subject file version {version!r}; this program reads versions {listed(map(str, READABLE))}; "
            f"{advice}"
        )
    settings = record.get("settings")
    if version == 1 and isinstance(settings, dict) and settings.get("activation") == "second_order":
        record["settings"] = {**settings, "activation": "recursive"}
    return record


def _entry(record: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    if key not in record:
        raise InputError(f"{where}: {key!r} is missing; save the subject again")
    value = record[key]
    if not isinstance(value, kind):
        raise InputError(f"{where}: {key!r} is {value!r:.60}; expected a {kind.__name__}")
    return value


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{what} is {value!r:.60}; expected a finite number")
    return float(value)


def _names(record: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    names = _entry(record, key, list, where)
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"{where}: {key!r} must be a list of names")
    require_unique(names, key, where)
    return tuple(names)


def _settings(record: Mapping[str, Any], where: str) -> Settings:
    fields = {f.name: f.type for f in dataclasses.fields(Settings)}
    strange = [name for name in record if name not in fields]
    missing = [name for name in fields if name not in record]
    if strange or missing:
        problem = f"no setting {listed(strange)}" if strange else f"settings lack {listed(missing)}"
        raise InputError(f"{where}: {problem}; there are {listed(fields)}")
    values = dict(record)
    iterations = values["tendon_iterations"]
    if isinstance(iterations, bool) or not isinstance(iterations, int):
        raise InputError(f"{where}: tendon_iterations is {iterations!r}; expected a whole number")
    values["max_delay"] = _number(values["max_delay"], f"{where}: max_delay")
    values["curves"] = curves_from_record(values["curves"], where)
    try:
        return Settings(**values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _weights(record: Mapping[str, Any], muscles: tuple[str, ...], channels: tuple[str, ...], where: str) -> np.ndarray:
    _require_exactly(record, muscles, "channel_weights", "muscle", where)
    weights = np.zeros((len(muscles), len(channels)))
    for i, muscle in enumerate(muscles):
        row = _entry(record, muscle, dict, f"{where}: channel_weights")
        for channel, value in row.items():
            if channel not in channels:
                raise InputError(
                    f"{where}: {muscle!r} is driven by channel {channel!r}, which the subject has not; "
                    f"{near(channel, channels)}"
                )
            weight = _number(value, f"{where}: weight of {channel!r} on {muscle!r}")
            weights[i, channels.index(channel)] = weight
    return weights


def _synergies(
    record: Any, muscles: tuple[str, ...], channels: tuple[str, ...], where: str
) -> tuple[SynergyBasis | None, tuple[tuple[str, str], ...]]:
    """The basis and the pairs of muscle and command; none in a subject without synergies."""
    if record is None:
        return None, ()
    where = f"{where}: synergies"
    if not isinstance(record, dict):
        raise InputError(f"{where} is {record!r:.60}; expected a table of vectors and muscles")
    signed = _entry(record, "signed", bool, where)
    vectors = _entry(record, "vectors", dict, where)
    driven = _entry(record, "muscles", dict, where)
    tasks = _entry(record, "tasks", dict, where)
    recorded = list(next(iter(vectors.values()), {}))
    for command in vectors:
        column = _entry(vectors, command, dict, f"{where}: vectors")
        _require_exactly(column, recorded, f"the vector of {command!r}", "channel", where)
    for channel in recorded:
        if channel not in channels or channel in vectors:
            raise InputError(f"{where}: {channel!r} is no recorded channel of the subject; {near(channel, channels)}")
    values = [[_number(vectors[n][c], f"{where}: {c!r} in {n!r}") for n in vectors] for c in recorded]
    pairs = []
    for muscle, commands in driven.items():
        if muscle not in muscles:
            raise InputError(f"{where}: no muscle {muscle!r}; {near(muscle, muscles)}")
        for command in commands:
            pairs.append((muscle, command))
    try:
        basis = make_basis(
            tuple(vectors), recorded, np.reshape(values, (len(recorded), len(vectors))), signed=signed, tasks=tasks
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    for command in basis.command_names:
        if command not in channels:
            raise InputError(f"{where}: {command!r} is no channel of the subject; {near(command, channels)}")
    for muscle, command in pairs:
        if command not in basis.command_names:
            raise InputError(f"{where}: {muscle!r} has command {command!r}; {near(str(command), basis.command_names)}")
    return basis, tuple(pairs)


def _paths(record: Any, muscles: tuple[str, ...], coordinates: tuple[str, ...], where: str) -> PolynomialPaths | None:
    try:
        paths = paths_from_json(record, muscles, coordinates, where)
    except KeyError as error:
        raise InputError(f"{where}: paths lack {error.args[0]!r}; save the subject again") from error
    except (TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: paths are malformed ({error}); save the subject again") from error
    if paths is not None:
        owners = [index for group in paths.groups for index in group.muscles]
        odd = [muscle for i, muscle in enumerate(muscles) if owners.count(i) != 1]
        if odd:
            raise InputError(f"{where}: muscles {listed(odd)} must have one path each; save the subject again")
    return paths


def _require_exactly(record: Mapping[str, Any], names: Sequence[str], what: str, entry: str, where: str) -> None:
    missing = [name for name in names if name not in record]
    strange = [name for name in record if name not in names]
    if missing:
        raise InputError(f"{where}: {what} lack {entry} {listed(missing)}; add it or save the subject again")
    if strange:
        raise InputError(f"{where}: {what} name {listed(strange)}; {near(strange[0], names)}")


def _rows(parameters: Mapping[str, Any], kind: str, names: tuple[str, ...], where: str) -> dict[str, dict[str, Any]]:
    table = _entry(parameters, kind, dict, f"{where}: parameters")
    unit = _entry(table, "unit", str, f"{where}: {kind}")
    if unit != KINDS[kind].unit:
        raise InputError(f"{where}: {kind} is in {unit!r}; this program reads {KINDS[kind].unit!r}: convert the values")
    rows = _entry(table, "entries", dict, f"{where}: {kind}")
    _require_exactly(rows, names, kind, "entry", where)
    for name in names:
        row = _entry(rows, name, dict, f"{where}: {kind}")
        strange = [key for key in row if key not in ("value", "start", "bounds", "prior_sd", "posterior")]
        if strange or "value" not in row:
            raise InputError(
                f"{where}: {kind} of {name!r} has {listed(row)}; expected value, and may be start, bounds, "
                "prior_sd and posterior"
            )
    return {name: rows[name] for name in names}


def _params(model: NmsModel, rows: Mapping[str, Mapping[str, Any]], key: str, where: str) -> NmsParams:
    values = {
        kind: {name: _number(row[key], f"{where}: {key} of {kind} of {name!r}") for name, row in by_name.items()}
        for kind, by_name in rows.items()
    }
    return _made(model, values, where)


def _collected(rows: Mapping[str, Mapping[str, Any]], key: str, where: str) -> dict[str, dict[str, Any]]:
    """``bounds``, ``prior_sd`` or ``posterior`` of every entry that has it, by kind."""
    found: dict[str, dict[str, Any]] = {}
    for kind, by_name in rows.items():
        for name, row in by_name.items():
            if key not in row:
                continue
            what = f"{where}: {key} of {kind} of {name!r}"
            value: Any = row[key]
            if key == "bounds":
                if not isinstance(value, list) or len(value) != 2:
                    raise InputError(f"{what} is {value!r:.60}; expected [low, high]")
                low, high = (_number(number, what) for number in value)
                if not low <= high:
                    raise InputError(f"{what} is {value!r}; low must not exceed high")
                value = (low, high)
            elif key == "posterior":
                if not isinstance(value, dict) or set(value) != {"mean", "sd", "low", "high"}:
                    raise InputError(f"{what} is {value!r:.60}; expected mean, sd, low and high")
                value = {k: _number(v, what) for k, v in value.items()}
            else:
                value = _number(value, what)
                if not value > 0:
                    raise InputError(f"{what} is {value:g}; expected a positive number")
            found.setdefault(kind, {})[name] = value
    return found
