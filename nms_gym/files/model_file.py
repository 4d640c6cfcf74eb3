"""Models in our own format: versioned JSON with muscle parameters, polynomial paths and a skeleton, by name.

This is what ships as an asset and what the path fitting writes; no OpenSim is needed to read it. It holds what
anatomy gives and calibration starts from. What belongs to one person's recordings (gains, delays, posteriors) is in
the subject file instead.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nms_gym.anatomy import MUSCLE_LIMITS, Multibody, OsimModel, moving_part, part_problems
from nms_gym.errors import InputError, listed, near
from nms_gym.files.muscle_points import check_points, points_from_json, points_to_json
from nms_gym.files.skeleton import skeleton_from_json, skeleton_to_json
from nms_gym.muscle.geometry import PolynomialPaths, SpanGroup, select_paths
from nms_gym.muscle.metabolics import DEFAULTS as METABOLIC_DEFAULTS
from nms_gym.muscle.metabolics import LIMITS as METABOLIC_LIMITS
from nms_gym.muscle.path_points import MusclePoints, points_from_osim
from nms_gym.recording.documents import read_json
from nms_gym.recording.storage import atomic_path

FORMAT = "nms_gym.model"
VERSION = 1

# Parameters of every muscle and their units; names as in OpenSim, where pennation is pennation_angle_at_optimal.
PARAMETERS = {
    "max_isometric_force": "N",
    "optimal_fiber_length": "m",
    "tendon_slack_length": "m",
    "pennation_at_optimal": "rad",
    "max_contraction_velocity": "optimal fiber lengths per second",
}
# Coefficients are metres over coordinates in [-1, 1]; the eleventh digit is below an atom.
_DIGITS = 10


@dataclass(frozen=True)
class ModelFile:
    """A musculoskeletal model: muscles, their paths over some coordinates, and the bones that those move.

    Attributes:
        name: short name.
        source: where the numbers come from (model, file, address) and what was changed.
        citation: whom to cite.
        licence: licence of the parameters.
        coordinates: D names.
        coordinate_range: (D, 2) rad, range of motion of the joints (the domain of ``paths`` may be narrower).
        muscles: M names.
        parameters: name of each entry of ``PARAMETERS`` -> muscle -> value, as ``make_params`` takes them: a model with
            its muscles in another order gets the right ones. For a model with fewer muscles, ``select`` those first.
        paths: polynomial surfaces over the same coordinates and muscles in the same order, or None.
        skeleton: bodies and joints for dynamics, from which ``make_skeleton`` builds; it may have more coordinates
            (a pelvis, toes). None when the file has none.
        muscle_points: muscle -> (body, (x, y, z) m) from origin to insertion, to draw it; muscles may lack.
        specific_tension: N/m^2 with which the strengths were made (``NmsModel.specific_tension``); a file that does not
            say has OpenSim's default.
    """

    name: str
    source: str
    citation: str
    licence: str
    coordinates: tuple[str, ...]
    coordinate_range: np.ndarray
    muscles: tuple[str, ...]
    parameters: Mapping[str, Mapping[str, float]]
    paths: PolynomialPaths | None
    skeleton: Multibody | None = None
    muscle_points: MusclePoints = field(default_factory=dict)
    specific_tension: float = METABOLIC_DEFAULTS["specific_tension"]

    def select(
        self,
        muscles: Sequence[str] | None = None,
        coordinates: Sequence[str] | None = None,
        held_at: Mapping[str, float] | None = None,
    ) -> ModelFile:
        """Some of the muscles over some of the coordinates, in the order given.

        Coordinates left out are held still at ``held_at[name]`` rad or 0 as far as paths go. The skeleton keeps them
        all: lock them at the same values when building from it.

        Raises:
            InputError: an unknown or repeated name, or a value held outside the domain of the paths.
        """
        muscles = self.muscles if muscles is None else tuple(muscles)
        coordinates = self.coordinates if coordinates is None else tuple(coordinates)
        for name in muscles:
            _position(self.muscles, name, f"model {self.name!r}", "muscle")
        columns = [_position(self.coordinates, name, f"model {self.name!r}", "coordinate") for name in coordinates]
        model = ModelFile(
            name=self.name,
            source=self.source,
            citation=self.citation,
            licence=self.licence,
            coordinates=coordinates,
            coordinate_range=np.asarray(self.coordinate_range)[columns],
            muscles=muscles,
            parameters={kind: {m: values[m] for m in muscles} for kind, values in self.parameters.items()},
            paths=None if self.paths is None else select_paths(self.paths, muscles, coordinates, held_at),
            skeleton=self.skeleton,
            muscle_points={name: self.muscle_points[name] for name in muscles if name in self.muscle_points},
            specific_tension=self.specific_tension,
        )
        check_model(model, f"model {self.name!r}")
        return model


def model_from_osim(
    osim: OsimModel,
    muscles: Sequence[str],
    coordinates: Sequence[str],
    *,
    paths: PolynomialPaths | None = None,
    source: str | None = None,
    citation: str | None = None,
    licence: str = "as the OpenSim model",
    specific_tension: float = METABOLIC_DEFAULTS["specific_tension"],
) -> ModelFile:
    """Muscle parameters, coordinate ranges, skeleton and path points of an OpenSim model, with fitted paths or none.

    The skeleton is the part that the coordinates move, and what lies between that and the ground.

    Args:
        osim: the model, from ``read_osim``.
        muscles: M names.
        coordinates: D names.
        paths: surfaces over the same muscles and coordinates, from ``fit_paths``.
        source: default: the model's name and file.
        citation: default: the publications that the model names, else its credits.
        licence: licence of the parameters.
        specific_tension: N/m^2 with which the strengths were made; OpenSim models do not say.

    Raises:
        InputError: an unknown name, or parameters that make no sense.
    """
    found = [osim.muscle(name) for name in muscles]
    for muscle in found:
        if muscle.problem:
            raise InputError(muscle.problem)
    bones = moving_part(osim, coordinates)
    skeleton = None if part_problems(bones) else bones
    model = ModelFile(
        name=osim.name,
        source=source or f"OpenSim model {osim.name!r}, {Path(osim.path).name}",
        citation=citation or osim.publications or osim.credits,
        licence=licence,
        coordinates=tuple(coordinates),
        coordinate_range=np.array([osim.coordinate(name).range for name in coordinates], dtype=float),
        muscles=tuple(muscles),
        parameters={key: {muscle.name: float(getattr(muscle, key)) for muscle in found} for key in PARAMETERS},
        paths=paths,
        skeleton=skeleton,
        muscle_points=points_from_osim(osim, muscles, [body.name for body in bones.bodies]),
        specific_tension=specific_tension,
    )
    check_model(model, osim.path)
    return model


def check_model(model: ModelFile, where: str) -> None:
    """Check names, shapes and values of a model.

    Raises:
        InputError: beginning with ``where``, naming muscle or coordinate, the value and what was allowed.
    """
    for kind, names in (("muscle", model.muscles), ("coordinate", model.coordinates)):
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated or not names:
            raise InputError(
                f"{where}: {kind} names repeat: {listed(repeated)}" if repeated else f"{where}: no {kind}s"
            )
    ranges = np.asarray(model.coordinate_range, dtype=float)
    if ranges.shape != (len(model.coordinates), 2):
        raise InputError(f"{where}: coordinate_range has shape {ranges.shape}, expected ({len(model.coordinates)}, 2)")
    for name, (low, high) in zip(model.coordinates, ranges, strict=True):
        _check_range(low, high, f"{where}: range of coordinate {name!r}")

    expected, found = set(PARAMETERS), set(model.parameters)
    if expected != found:
        raise InputError(
            f"{where}: muscle parameters missing: {listed(sorted(expected - found))}; "
            f"unknown: {listed(sorted(found - expected))}"
        )
    for parameter, unit in PARAMETERS.items():
        values = model.parameters[parameter]
        if set(values) != set(model.muscles):
            raise InputError(
                f"{where}: {parameter} must have one value per muscle; missing: "
                f"{listed(m for m in model.muscles if m not in values)}; no muscle of the model: "
                f"{listed(m for m in values if m not in model.muscles)}"
            )
        for muscle in model.muscles:
            value, (low, high) = values[muscle], MUSCLE_LIMITS[parameter]
            no_tendon = parameter == "tendon_slack_length" and value == 0.0
            if not (low <= value <= high or no_tendon):
                raise InputError(
                    f"{where}: muscle {muscle!r}: {parameter} is {value:g} {unit}; allowed {low:g} to {high:g}"
                )
    check_specific_tension(model.specific_tension, where)
    if model.paths is not None:
        _check_paths(model.paths, model, where)
    if model.skeleton is not None:
        bones = tuple(coordinate.name for coordinate in model.skeleton.coordinates)
        for name in model.coordinates:
            _position(bones, name, f"{where}: skeleton", "coordinate")
    bodies = None if model.skeleton is None else [body.name for body in model.skeleton.bodies]
    check_points(model.muscle_points, model.muscles, bodies, where)


def check_specific_tension(value: Any, where: str) -> float:
    """A specific tension that muscles can have, N/m^2.

    Raises:
        InputError: it is none.
    """
    low, high = METABOLIC_LIMITS["specific_tension"]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise InputError(f"{where}: specific_tension is {value!r} N/m^2; allowed {low:g} to {high:g}, such as 0.25e6")
    return float(value)


def _check_paths(paths: PolynomialPaths, model: ModelFile, where: str) -> None:
    for kind, mine, theirs in (
        ("muscles", model.muscles, paths.muscles),
        ("coordinates", model.coordinates, paths.coordinates),
    ):
        if mine != theirs:
            raise InputError(
                f"{where}: the paths do not have the {kind} of the model in the same order; only in the model: "
                f"{listed([n for n in mine if n not in theirs])}; only in the paths: "
                f"{listed([n for n in theirs if n not in mine])}"
            )
    domain = np.asarray(paths.domain, dtype=float)
    if domain.shape != (len(paths.coordinates), 2):
        raise InputError(
            f"{where}: domain of the paths has shape {domain.shape}, expected ({len(paths.coordinates)}, 2)"
        )
    for name, (low, high) in zip(paths.coordinates, domain, strict=True):
        _check_range(low, high, f"{where}: path domain of coordinate {name!r}")
    owners = [index for group in paths.groups for index in group.muscles]
    for index, muscle in enumerate(paths.muscles):
        if owners.count(index) != 1:
            raise InputError(f"{where}: muscle {muscle!r} has {owners.count(index)} paths; it must have one")
    for group, array in zip(paths.groups, paths.coefficients, strict=True):
        array = np.asarray(array, dtype=float)
        count = math.comb(len(group.coordinates) + group.degree, group.degree)
        for row, index in zip(array, group.muscles, strict=True):
            muscle = paths.muscles[index]
            if row.shape != (count,):
                raise InputError(
                    f"{where}: path of muscle {muscle!r} has {row.size} coefficients; degree {group.degree} over "
                    f"{len(group.coordinates)} coordinates has {count}"
                )
            if not np.all(np.isfinite(row)):
                raise InputError(f"{where}: path of muscle {muscle!r} has coefficients that are not finite")
            if row[0] <= 0:
                raise InputError(
                    f"{where}: path of muscle {muscle!r} is {row[0]:g} m long at the middle of its domain; "
                    "lengths must be positive"
                )


def _check_range(low: float, high: float, what: str) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"{what} is {low:g} to {high:g} rad; it must be finite and increasing")


def write_model_file(path: str | os.PathLike[str], model: ModelFile) -> None:
    """Write a model, checked, whole or not at all.

    Raises:
        InputError: the model is inconsistent, see ``check_model``, or the folder cannot be written.
    """
    check_model(model, str(path))
    muscles = [
        {"name": name, **{key: _short(model.parameters[key][name]) for key in PARAMETERS}} for name in model.muscles
    ]
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "name": model.name,
        "source": model.source,
        "citation": model.citation,
        "licence": model.licence,
        "units": {"coordinates": "rad", **PARAMETERS, "path coefficients": "m", "specific_tension": "N/m^2"},
        "specific_tension": _short(model.specific_tension),
        "coordinates": [
            {"name": name, "range": [_short(v) for v in row]}
            for name, row in zip(model.coordinates, np.asarray(model.coordinate_range), strict=True)
        ],
        "muscles": muscles,
        "paths": None if model.paths is None else paths_to_json(model.paths, _short),
    }
    if model.skeleton is not None:
        document["skeleton"] = skeleton_to_json(model.skeleton)
    if model.muscle_points:
        document["muscle_points"] = points_to_json(model.muscle_points)
    with atomic_path(path) as temporary:
        temporary.write_text(_layout(document), encoding="utf-8")


def paths_to_json(paths: PolynomialPaths, number: Callable[[Any], float] = float) -> dict[str, Any]:
    """Paths as plain JSON; ``number`` says how many digits are kept, by default all."""
    return {
        "note": "length = sum c_e x^e, x in [-1, 1] over the domain; terms by total degree, then by coordinate",
        "domain": {
            name: [number(v) for v in row]
            for name, row in zip(paths.coordinates, np.asarray(paths.domain), strict=True)
        },
        "groups": [
            {
                "coordinates": [paths.coordinates[k] for k in group.coordinates],
                "degree": group.degree,
                "coefficients": {
                    paths.muscles[index]: [number(c) for c in row]
                    for index, row in zip(group.muscles, np.asarray(array), strict=True)
                },
            }
            for group, array in zip(paths.groups, paths.coefficients, strict=True)
        ],
    }


def _short(value: Any) -> float:
    return float(f"{float(value):.{_DIGITS}g}")


def _layout(value: Any, indent: int = 0) -> str:
    """JSON with lists of numbers, and whatever fits, on one line: readable, and diffs stay small."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    flat = isinstance(value, list) and not any(isinstance(item, (dict, list)) for item in value)
    if not isinstance(value, (dict, list)) or flat or len(line) + indent <= 110:
        return line
    pad = " " * (indent + 1)
    if isinstance(value, dict):
        items = [f"{pad}{json.dumps(key)}: {_layout(item, indent + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + "\n" + " " * indent + "}"
    items = [pad + _layout(item, indent + 1) for item in value]
    return "[\n" + ",\n".join(items) + "\n" + " " * indent + "]"


def read_model_file(path: str | os.PathLike[str]) -> ModelFile:
    """Read and check a model.

    Raises:
        InputError: no such file, not JSON, another format or a newer version, missing or inconsistent entries.
    """
    where = str(path)
    document = read_json(path, "model file")
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise InputError(f'{where}: not a model file: "format" is {found!r}, expected {FORMAT!r}')
    if document.get("version") != VERSION:
        raise InputError(
            f"{where}: model file version {document.get('version')!r}; this nms-gym reads version {VERSION}. "
            "Update nms-gym, or rebuild the model"
        )
    try:
        coordinates = tuple(str(entry["name"]) for entry in document["coordinates"])
        muscles = tuple(str(entry["name"]) for entry in document["muscles"])
        model = ModelFile(
            name=str(document["name"]),
            source=str(document["source"]),
            citation=str(document["citation"]),
            licence=str(document["licence"]),
            coordinates=coordinates,
            coordinate_range=np.array([entry["range"] for entry in document["coordinates"]], dtype=float),
            muscles=muscles,
            parameters={
                key: {name: float(entry[key]) for name, entry in zip(muscles, document["muscles"], strict=True)}
                for key in PARAMETERS
            },
            paths=paths_from_json(document["paths"], muscles, coordinates, where),
            skeleton=None if document.get("skeleton") is None else skeleton_from_json(document["skeleton"], where),
            muscle_points=points_from_json(document.get("muscle_points"), where),
            specific_tension=document.get("specific_tension", METABOLIC_DEFAULTS["specific_tension"]),
        )
    except KeyError as error:
        raise InputError(f"{where}: entry {error.args[0]!r} is missing") from error
    except (TypeError, AttributeError, ValueError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: malformed entry: {error}") from error
    check_model(model, where)
    return model


def paths_from_json(
    entry: Any, muscles: tuple[str, ...], coordinates: tuple[str, ...], where: str
) -> PolynomialPaths | None:
    """Paths from ``paths_to_json``, in the order of ``muscles`` and ``coordinates``; None stays None.

    Raises:
        InputError: a name or coefficient is missing or too many.
    """
    if entry is None:
        return None
    missing = [name for name in coordinates if name not in entry["domain"]]
    if missing:
        raise InputError(f"{where}: the path domain lacks coordinates {listed(missing)}")
    groups, arrays = [], []
    for item in entry["groups"]:
        span = tuple(_position(coordinates, name, where, "coordinate") for name in item["coordinates"])
        if list(span) != sorted(set(span)):
            raise InputError(
                f"{where}: coordinates {listed(item['coordinates'])} of a group must follow the model's order"
            )
        names = tuple(item["coefficients"])
        degree = item["degree"]
        if not isinstance(degree, int) or not 0 <= degree <= 20:
            raise InputError(f"{where}: degree of a path is {degree!r}; it must be a whole number, 0 to 20")
        groups.append(SpanGroup(tuple(_position(muscles, name, where, "muscle") for name in names), span, degree))
        rows = [np.array(item["coefficients"][name], dtype=float) for name in names]
        count = math.comb(len(span) + degree, degree)
        for name, row in zip(names, rows, strict=True):
            if row.shape != (count,):
                raise InputError(
                    f"{where}: path of muscle {name!r} has {row.size} coefficients; degree {degree} over "
                    f"{len(span)} coordinates has {count}"
                )
        arrays.append(np.stack(rows))
    return PolynomialPaths(
        coefficients=tuple(arrays),
        domain=np.array([entry["domain"][name] for name in coordinates], dtype=float),
        muscles=muscles,
        coordinates=coordinates,
        groups=tuple(groups),
    )


def _position(names: tuple[str, ...], name: str, where: str, kind: str) -> int:
    if name not in names:
        raise InputError(f"{where}: no {kind} {name!r}; {near(name, names)}")
    return names.index(name)
