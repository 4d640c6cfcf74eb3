"""A study's model: muscles and parameters from wherever they are, and the start of a calibration."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.study.keys import Folder, Keys, at, is_kind
from nms_gym._assets import asset_path
from nms_gym.anatomy import Multibody
from nms_gym.errors import InputError, listed, near
from nms_gym.excitation.channels import ChannelMap
from nms_gym.files.model_file import PARAMETERS, read_model_file
from nms_gym.model.parameters import PARAMETER_KINDS, NmsParams, make_params
from nms_gym.model.structure import NmsModel, Settings
from nms_gym.muscle.geometry import PolynomialPaths
from nms_gym.muscle.path_points import MusclePoints, points_from_osim
from nms_gym.muscle.tendon import rigid_by_rule
from nms_gym.recording.osim import read_osim
from nms_gym.skeleton.files import part


@dataclass(frozen=True)
class MuscleParameters:
    """Muscles with their parameters from wherever the study has them; paths, skeleton and path points if any."""

    where: str
    muscles: tuple[str, ...]
    values: Mapping[str, Mapping[str, float]]
    """parameter kind -> muscle -> value"""
    paths: PolynomialPaths | None
    skeleton: Multibody | None
    passive: tuple[str, ...]
    """muscles that nothing is to drive"""
    muscle_points: MusclePoints


def read_parameters(
    keys: Keys,
    folder: Folder,
    channels: ChannelMap,
    coordinates: tuple[str, ...],
    synergy_muscles: tuple[str, ...] = (),
) -> MuscleParameters:
    """The muscles chosen: by default those with a channel, those that synergies drive and those named passive; and the
    bones that move."""
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
    muscles = chosen or tuple(dict.fromkeys(channels.muscles + synergy_muscles + passive))
    paths = skeleton = None
    points: MusclePoints = {}
    with at(str(path)):
        if path.suffix == ".json":
            source = read_model_file(path).select(muscles=muscles)
            values, paths, skeleton = source.parameters, source.paths, source.skeleton
            points = source.muscle_points
        elif path.suffix == ".osim":
            osim = read_osim(path)
            values = {kind: {m: getattr(osim.muscle(m), kind) for m in muscles} for kind in PARAMETERS}
            known = {c.name for c in osim.coordinates}
            if known.issuperset(coordinates):
                skeleton = part(osim, coordinates)
                points = points_from_osim(osim, muscles, [body.name for body in skeleton.bodies])
        elif path.suffix == ".csv":
            values = _parameter_table(path, muscles, columns)
        else:
            raise InputError("expected an .osim model, a .json model file or a .csv of parameters")
    if columns and path.suffix != ".csv":
        raise InputError(f"{keys.where}: columns is for a .csv, but file is {text!r}; remove it")
    if paths_file is not None:
        paths = read_model_file(paths_file).select(muscles=muscles).paths
    return MuscleParameters(str(path), muscles, values, paths, skeleton, passive, points)


def _parameter_table(path: Path, muscles: Sequence[str], columns: Mapping[str, Any]) -> dict[str, dict[str, float]]:
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
        kind: {m: _cell(table[m][column], column, m) for m in muscles}
        for kind, column in columns.items()
        if kind != "muscle"
    }


def _cell(text: str | None, column: str, muscle: str) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise InputError(f"column {column!r} of muscle {muscle!r} is {text!r}; expected a number") from None


def make_start(
    files: MuscleParameters,
    coordinates: tuple[str, ...],
    channels: ChannelMap,
    settings: Settings,
    start: Keys,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[NmsModel, NmsParams]:
    """The model, and the parameters that a calibration starts from; ``say`` is told which tendons are rigid and why."""
    paths = files.paths
    known = coordinates if paths is None else paths.coordinates
    for c in coordinates:
        if c not in known:
            raise InputError(f"{files.where}: its muscle paths have no coordinate {c!r}; {near(c, known)}")
    with at(files.where):
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
        if not all(is_kind(v, float) for v in numbers):
            raise InputError(f"{start.where}: {kind} is {value!r}; expected a number, or {{ name = number, ... }}")
    with at(f"{files.where}, {start.where}" if overrides else files.where):
        params = make_params(model, {**files.values, **overrides})
    if settings.tendon == "mixed":
        rule = rigid_by_rule(params, model.muscles)
        say(rule.text)
        rigid = tuple(m for m, kind in zip(model.muscles, rule.tendon, strict=True) if kind == "rigid")
        model = dataclasses.replace(model, rigid_tendons=rigid)
    return model, params
