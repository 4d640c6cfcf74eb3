"""A study's model: muscles and parameters from wherever they are, and the start of a calibration."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration.study.checks import at
from nms_gym._assets import asset_path
from nms_gym.anatomy import Multibody, OsimModel, moving_part, part_problems
from nms_gym.errors import InputError, listed, near
from nms_gym.excitation.channels import ChannelMap
from nms_gym.files.model_file import PARAMETERS, ModelFile, read_model_file
from nms_gym.model.parameters import KINDS, PARAMETER_KINDS, NmsParams, make_params
from nms_gym.model.structure import NmsModel, Settings
from nms_gym.muscle.geometry import PolynomialPaths
from nms_gym.muscle.metabolics import DEFAULTS as METABOLIC_DEFAULTS
from nms_gym.muscle.path_points import MusclePoints, points_from_osim
from nms_gym.muscle.tendon import rigid_by_rule
from nms_gym.recording.nmsm import read_osimx
from nms_gym.recording.osim import read_osim

Say = Callable[[str], None]
ModelSource = ModelFile | str | os.PathLike[str]
"""a model file read already, "asset:NAME", or the path of an .osim, .json or .csv"""

# Of an .osimx: the Pipeline's own nonlinearity is another function than our shape factor.
NOT_OURS = ("activation_nonlinearity",)


@dataclass(frozen=True)
class MuscleParameters:
    """Muscles with their parameters from wherever the study has them; paths, skeleton and path points if any."""

    where: str
    muscles: tuple[str, ...]
    values: Mapping[str, Mapping[str, float]]
    """parameter kind -> muscle -> value"""
    paths: PolynomialPaths | None
    skeleton: Multibody | None
    muscle_points: MusclePoints
    specific_tension: float = METABOLIC_DEFAULTS["specific_tension"]
    """N/m^2"""
    osim: OsimModel | None = None
    """where they are from, if that is an OpenSim model"""


def read_parameters(
    model: ModelSource,
    muscles: Sequence[str],
    coordinates: Sequence[str],
    *,
    columns: Mapping[str, Any] | None = None,
    paths: ModelSource | None = None,
    where: str = "model",
) -> MuscleParameters:
    """The muscles chosen, and the bones that move.

    Args:
        model: where they are.
        muscles: that are wanted.
        coordinates: of the study.
        columns: of a .csv: parameter kind (and "muscle") -> column.
        paths: a model file whose muscle paths replace the model's.
        where: for messages.

    Raises:
        InputError: no such file, muscle or column, or a value that is no number.
    """
    muscles, chosen = tuple(muscles), None
    path = None if isinstance(model, ModelFile) else _path(model)
    if columns and (path is None or path.suffix != ".csv"):
        raise InputError(f"{where}: columns is for a .csv, but file is {str(path or 'a model file')!r}; remove it")
    place = f"model {model.name!r}" if isinstance(model, ModelFile) else str(path)
    skeleton, points, tension, osim = None, {}, METABOLIC_DEFAULTS["specific_tension"], None
    with at(place):
        if isinstance(model, ModelFile) or (path is not None and path.suffix == ".json"):
            source = (model if isinstance(model, ModelFile) else read_model_file(_path(model))).select(muscles=muscles)
            values, chosen, skeleton = source.parameters, source.paths, source.skeleton
            points, tension = source.muscle_points, source.specific_tension
        elif path is not None and path.suffix == ".osim":
            osim = read_osim(path)
            for m in muscles:
                if osim.muscle(m).problem:
                    raise InputError(osim.muscle(m).problem.removeprefix(f"{path}: "))
            values = {kind: {m: getattr(osim.muscle(m), kind) for m in muscles} for kind in PARAMETERS}
            known = {c.name for c in osim.coordinates}
            if known.issuperset(coordinates):
                bones = moving_part(osim, coordinates)
                skeleton = None if part_problems(bones) else bones
                points = points_from_osim(osim, muscles, [body.name for body in bones.bodies])
        elif path is not None and path.suffix == ".csv":
            values = _parameter_table(path, muscles, columns or {})
        else:
            raise InputError("expected an .osim model, a .json model file or a .csv of parameters")
    if paths is not None:
        other = paths if isinstance(paths, ModelFile) else read_model_file(_path(paths))
        chosen = other.select(muscles=muscles).paths
    return MuscleParameters(place, muscles, values, chosen, skeleton, points, tension, osim)


def _path(model: str | os.PathLike[str]) -> Path:
    text = str(model)
    return asset_path(f"{text.removeprefix('asset:')}/model.json") if text.startswith("asset:") else Path(text)


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
    coordinates: Sequence[str],
    channels: ChannelMap,
    settings: Settings,
    start: Mapping[str, Any],
    where: str,
    say: Say = lambda _: None,
) -> tuple[NmsModel, NmsParams]:
    """The model, and the parameters that a calibration starts from.

    Args:
        files: muscles with their parameters.
        coordinates: of the study.
        channels: which drive which muscles.
        settings: of the equations.
        start: parameter kind -> scalar, {name: value}, or values in the model's order, which replace those of the
            files by name; and "file", an .osimx.
        where: of ``start``, for messages.
        say: told which tendons are rigid and why, and what an .osimx gives.

    Raises:
        InputError: an unknown name, or a value that nothing can have.
    """
    paths = files.paths
    known = tuple(coordinates) if paths is None else paths.coordinates
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
        channel_weights=weights,
        paths=paths,
        specific_tension=files.specific_tension,
    )
    given = {kind: value for kind, value in start.items() if kind != "file"}
    for kind in given:
        if kind not in PARAMETER_KINDS:
            raise InputError(f"{where}: unknown parameter {kind!r}; {near(kind, PARAMETER_KINDS)}")
    layers: list[Mapping[str, Any]] = [files.values]
    if start.get("file") is not None:
        with at(where):
            layers.append(osimx_values(start["file"], model, say))
    layers.append(given)
    with at(f"{files.where}, {where}" if start else files.where):
        params = make_params(model, _merged(layers))
    if settings.tendon == "mixed":
        rule = rigid_by_rule(params, model.muscles)
        say(rule.text)
        rigid = tuple(m for m, kind in zip(model.muscles, rule.tendon, strict=True) if kind == "rigid")
        model = dataclasses.replace(model, rigid_tendons=rigid)
    return model, params


def _merged(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Values of later layers over those of earlier ones, entry by entry where both are by name."""
    found: dict[str, Any] = {}
    for layer in layers:
        for kind, value in layer.items():
            below = found.get(kind)
            found[kind] = {**below, **value} if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return found


def osimx_values(file: str | os.PathLike[str], model: NmsModel, say: Say = lambda _: None) -> dict[str, Any]:
    """Parameters of an ``.osimx`` (NMSM Pipeline) for a model, by name: kind -> {muscle or channel: value}.

    What the Pipeline has per muscle and this model per channel (gain, delay) is the mean over the muscles that the
    channel drives, weighted as they are driven. The Pipeline's activation nonlinearity is another function than our
    shape factor and is left out.

    Raises:
        InputError: the file cannot be read, or has none of the model's muscles.
    """
    result = read_osimx(file)
    mine = {m: v for m, v in result.muscles.items() if m in model.muscles}
    if not mine:
        raise InputError(f"{file}: none of the model's muscles; {near(model.muscles[0], result.muscles)}")
    kinds = dict.fromkeys(kind for values in mine.values() for kind in values)
    left_out = [kind for kind in kinds if kind in NOT_OURS]
    found: dict[str, Any] = {}
    for kind in (k for k in kinds if k not in NOT_OURS):
        by_muscle = {m: values[kind] for m, values in mine.items() if kind in values}
        if KINDS[kind].axis == "muscle":
            found[kind] = by_muscle
            continue
        weights = np.asarray(model.channel_weights)
        found[kind] = {}
        for i, channel in enumerate(model.channels):
            driven = {m: weights[j, i] for j, m in enumerate(model.muscles) if weights[j, i] > 0 and m in by_muscle}
            if driven:
                values = [by_muscle[m] for m in driven]
                found[kind][channel] = float(np.average(values, weights=list(driven.values())))
                if np.ptp(values) > 1e-6 * max(map(abs, values)):
                    span = f"{min(values):g} to {max(values):g}"
                    say(f"{kind} of channel {channel}: mean of {len(values)} muscles, {span}")
    missing = [m for m in model.muscles if m not in mine]
    say(
        f"start from {Path(file).name}: {listed(found)} of {len(mine)} muscles"
        + (f"; not in it: {listed(missing)}" if missing else "")
        + (f"; left out: {listed(left_out)}" if left_out else "")
    )
    return found
