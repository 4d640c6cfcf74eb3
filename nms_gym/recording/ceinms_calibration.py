"""Calibration files of CEINMS 0.9: what to calibrate, within which ranges, with which model and on which trials.

Format: ``cfg/XSD/calibration.xsd`` of github.com/CEINMS/CEINMS (Pizzolato et al. 2015, 10.1016/j.jbiomech.2015.09.021).
The names of parameters, tendons and activations are CEINMS's; ``CEINMS_PARAMETERS`` says what we call them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal
from xml.etree.ElementTree import Element

from nms_gym.errors import InputError, listed, near
from nms_gym.recording.ceinms import ceinms_root
from nms_gym.recording.named_files import named_file
from nms_gym.recording.storage import require_unique
from nms_gym.recording.xml import xml_child, xml_float, xml_numbers, xml_text

# CEINMS's parameter -> ours. A strength coefficient multiplies the maximum isometric force.
CEINMS_PARAMETERS: Mapping[str, str] = MappingProxyType(
    {
        "c1": "filter_time_constant_1",
        "c2": "filter_time_constant_2",
        "shapeFactor": "shape_factor",
        "optimalFibreLength": "optimal_fiber_length",
        "pennationAngle": "pennation_at_optimal",
        "tendonSlackLength": "tendon_slack_length",
        "maxContractionVelocity": "max_contraction_velocity",
        "strengthCoefficient": "max_isometric_force",
    }
)
CeinmsTendon = Literal["stiff", "integrationElastic", "equilibriumElastic"]
CEINMS_TENDONS: tuple[CeinmsTendon, ...] = ("stiff", "integrationElastic", "equilibriumElastic")
ACTIVATIONS = ("exponential", "piecewise")


@dataclass(frozen=True)
class CeinmsFree:
    """One ``parameter``: what may change, who shares one value, and how far.

    Attributes:
        name: CEINMS's, a key of ``CEINMS_PARAMETERS``.
        share: "single" (each muscle its own), "global" (one for all) or "muscleGroups".
        groups: muscles of each group; empty unless ``share`` is "muscleGroups".
        bounds: low and high, as the file has them: values if ``absolute``, else factors of the subject's value.
        absolute: ``absolute`` or ``relativeToSubjectValue``.
    """

    name: str
    share: Literal["single", "global", "muscleGroups"]
    groups: tuple[tuple[str, ...], ...]
    bounds: tuple[float, float]
    absolute: bool


@dataclass(frozen=True)
class CeinmsStep:
    """One ``step``: the joints whose torques are fitted, and what is free meanwhile."""

    dofs: tuple[str, ...]
    objective: str
    free: tuple[CeinmsFree, ...]


@dataclass(frozen=True)
class CeinmsCalibration:
    """A ``calibration``.

    Attributes:
        path: of the file.
        tendon: "stiff", "equilibriumElastic" or "integrationElastic".
        activation: "exponential" or "piecewise".
        steps: in the order of the file.
        trials: ``inputData`` files, located beside the calibration file.
        annealing: settings of CEINMS's simulated annealing, by their names in the file; kept, not used.
    """

    path: str
    tendon: CeinmsTendon
    activation: str
    steps: tuple[CeinmsStep, ...]
    trials: tuple[Path, ...]
    annealing: Mapping[str, float]


def read_ceinms_calibration(path: str | os.PathLike[str]) -> CeinmsCalibration:
    """Read a calibration file.

    Raises:
        InputError: not such a file; an element is missing, unknown or no number; a range that does not grow; a
            parameter, muscle or joint named twice. File, element and value are named.
    """
    file, root = ceinms_root(path, "calibration")
    model = xml_child(root, "NMSmodel", file)
    _choice(xml_child(model, "type", file), ("openLoop",), file)
    tendon = _choice(xml_child(model, "tendon", file), CEINMS_TENDONS, file)
    activation = _choice(xml_child(model, "activation", file), ACTIVATIONS, file)
    steps = tuple(
        _step(element, f"{file}: step {i}")
        for i, element in enumerate(xml_child(root, "calibrationSteps", file).findall("step"), start=1)
    )
    if not steps:
        raise InputError(f"{file}: no <step> in <calibrationSteps>; nothing would be calibrated")
    names = xml_text(root, "trialSet", file).split()
    require_unique(names, "trials", file)
    annealing = root.find("algorithm/simulatedAnnealing")
    return CeinmsCalibration(
        path=file,
        tendon=tendon,  # type: ignore[arg-type]
        activation=activation,
        steps=steps,
        trials=tuple(named_file(Path(path), name) for name in names),
        annealing={
            e.tag: xml_float(e.text or "", f"{file}: <{e.tag}>") for e in (() if annealing is None else annealing)
        },
    )


def _choice(element: Element, allowed: tuple[str, ...], where: str) -> str:
    """The one child of an element, by name."""
    found = [child.tag for child in element]
    if len(found) != 1 or found[0] not in allowed:
        raise InputError(f"{where}: <{element.tag}> holds {listed(found)}; expected one of {listed(allowed)}")
    return found[0]


def _step(element: Element, where: str) -> CeinmsStep:
    dofs = tuple(xml_text(element, "dofs", where).split())
    require_unique(dofs, "joints", where)
    objective = _choice(xml_child(element, "objectiveFunction", where), ("minimizeTorqueError",), where)
    free = tuple(_free(child, where) for child in xml_child(element, "parameterSet", where).findall("parameter"))
    if not free:
        raise InputError(f"{where}: no <parameter> in <parameterSet>; nothing is free")
    require_unique([f.name for f in free], "parameters", where)
    return CeinmsStep(dofs, objective, free)


def _free(element: Element, where: str) -> CeinmsFree:
    name = xml_text(element, "name", where)
    where = f"{where}: parameter {name!r}"
    if name not in CEINMS_PARAMETERS:
        raise InputError(f"{where}; {near(name, CEINMS_PARAMETERS)}")
    tags = [child.tag for child in element if child.tag != "name"]
    shares = [tag for tag in tags if tag in ("single", "global", "muscleGroups")]
    ranges = [tag for tag in tags if tag in ("absolute", "relativeToSubjectValue")]
    if len(shares) != 1 or len(ranges) != 1 or len(tags) != 2:
        raise InputError(
            f"{where}: it holds {listed(tags)}; expected one of 'single', 'global', 'muscleGroups' and one of "
            "'absolute', 'relativeToSubjectValue'"
        )
    groups: tuple[tuple[str, ...], ...] = ()
    if shares[0] == "muscleGroups":
        groups = tuple(
            tuple((e.text or "").split()) for e in xml_child(element, "muscleGroups", where).findall("muscles")
        )
        require_unique([muscle for group in groups for muscle in group], "muscles", where)
        if not groups or not all(groups):
            raise InputError(f"{where}: <muscleGroups> needs <muscles> elements that name muscles")
    bounds = xml_numbers(xml_child(element, ranges[0], where), "range", where)
    if len(bounds) != 2 or not bounds[0] < bounds[1]:
        raise InputError(f"{where}: <range> is {bounds}; expected a low and a higher number")
    return CeinmsFree(name, shares[0], groups, (bounds[0], bounds[1]), ranges[0] == "absolute")  # type: ignore[arg-type]
