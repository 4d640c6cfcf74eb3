"""Muscle parameters from ``.osimx`` files, in which the NMSM Pipeline keeps what it calibrated beside a model.

Format: nmsm-core, ``src/core/parsing/loadMuscleTendonPersonalization...`` and ``buildMtpOsimxFromOsimxFile`` of
github.com/rcnl-org/nmsm-core (Hammond et al. 2025, 10.1186/s12984-025-01629-5). The file holds an electromechanical
delay ten times, and an activation time constant a hundred times, its value in seconds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from xml.etree.ElementTree import Element

from nms_gym.errors import InputError, listed, near
from nms_gym.recording.xml import xml_float, xml_root, xml_text_or

# Element of the file -> (our name, what its number is divided by to give SI units).
OSIMX_PARAMETERS: Mapping[str, tuple[str, float]] = MappingProxyType(
    {
        "electromechanical_delay": ("electromechanical_delay", 10.0),
        "activation_time_constant": ("activation_time_constant", 100.0),
        "activation_nonlinearity_constant": ("activation_nonlinearity", 1.0),
        "emg_scale_factor": ("emg_gain", 1.0),
        "optimal_fiber_length": ("optimal_fiber_length", 1.0),
        "tendon_slack_length": ("tendon_slack_length", 1.0),
        "max_isometric_force": ("max_isometric_force", 1.0),
    }
)
# A deactivation takes this many activation time constants in the Pipeline (Meyer et al. 2017,
# 10.1371/journal.pone.0179698).
DEACTIVATION_RATIO = 4.0


@dataclass(frozen=True)
class OsimxResult:
    """What an ``.osimx`` file says about the muscles of a model.

    Attributes:
        path: of the file, for messages.
        model: name of the ``OsimxModel``.
        osim: ``associated_osim_model`` as written, or "".
        muscles: muscle -> {parameter: value}, SI units, our names; ``activation_nonlinearity`` is the Pipeline's own
            (0 to 0.35), no shape factor. With ``activation_time_constant`` comes ``deactivation_time_constant``.
        other: sections of the file that were not read, such as joint or contact personalisation.
    """

    path: str
    model: str
    osim: str
    muscles: Mapping[str, Mapping[str, float]]
    other: tuple[str, ...] = ()

    def parameter(self, name: str) -> dict[str, float]:
        """Muscle -> value of one parameter, for the muscles that have it.

        Raises:
            InputError: no muscle has it.
        """
        found = {muscle: values[name] for muscle, values in self.muscles.items() if name in values}
        if not found:
            known = dict.fromkeys(kind for values in self.muscles.values() for kind in values)
            raise InputError(f"{self.path}: no parameter {name!r}; {near(name, known)}")
        return found


def read_osimx(path: str | os.PathLike[str]) -> OsimxResult:
    """Read the muscles of an ``.osimx`` file.

    Raises:
        InputError: no such file, no such document, a muscle without a name or named twice, an unknown element in a
            muscle, a value that is no finite number. File, muscle, element and value are named.
    """
    file, root = str(path), xml_root(path)
    model = root.find("OsimxModel") if root.tag == "NMSMPipelineDocument" else None
    if model is None:
        raise InputError(
            f"{file}: the file is a <{root.tag}>; expected <NMSMPipelineDocument> with an <OsimxModel> inside"
        )
    muscles: dict[str, dict[str, float]] = {}
    for element in model.findall("RCNLMuscleSet/RCNLMuscle"):
        name = element.get("name", "").strip()
        if not name or name in muscles:
            raise InputError(f"{file}: muscle {name!r}: every RCNLMuscle needs a name of its own")
        muscles[name] = _muscle(element, f"{file}: muscle {name!r}")
    if not muscles:
        raise InputError(f"{file}: no <RCNLMuscle> in <RCNLMuscleSet>; there are {listed({e.tag for e in model})}")
    other = tuple(e.tag for e in model if e.tag not in ("RCNLMuscleSet", "associated_osim_model"))
    return OsimxResult(file, model.get("name", ""), xml_text_or(model, "associated_osim_model", ""), muscles, other)


def _muscle(element: Element, where: str) -> dict[str, float]:
    values: dict[str, float] = {}
    for child in element:
        if child.tag not in OSIMX_PARAMETERS:
            raise InputError(f"{where}: <{child.tag}>; {near(child.tag, OSIMX_PARAMETERS)}")
        name, scale = OSIMX_PARAMETERS[child.tag]
        values[name] = xml_float((child.text or "").strip(), f"{where}: <{child.tag}>") / scale
    if "activation_time_constant" in values:
        values["deactivation_time_constant"] = DEACTIVATION_RATIO * values["activation_time_constant"]
    return values
