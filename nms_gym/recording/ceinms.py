"""Subjects, excitation generators and trials in the XML formats of CEINMS 0.9 and CEINMS-RT.

Formats: ``cfg/XSD/subject.xsd``, ``excitationGenerator.xsd`` and ``inputData.xsd`` of github.com/CEINMS/CEINMS
(Pizzolato et al. 2015, 10.1016/j.jbiomech.2015.09.021), and ``NMSmodel.xsd`` with channels as CEINMS-RT has it
(github.com/CEINMS-RT). The names here are OpenSim's; each class says what CEINMS calls them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from nms_gym.errors import InputError, listed, near
from nms_gym.recording.muscle_analysis import MuscleAnalysis
from nms_gym.recording.named_files import named_file
from nms_gym.recording.storage import Table, read_labels, read_moments, read_table, require_unique
from nms_gym.recording.trial import Trial, make_trial
from nms_gym.recording.xml import xml_child, xml_float, xml_number, xml_numbers, xml_root, xml_text

# NMSmodel/ceinms/MTU.h, setParametersToComputeForces; CEINMS-RT has the number in MTU.cpp.
MAX_CONTRACTION_VELOCITY = 10.0

# What CEINMS calls the curves of muscle.tabulated.Tabulated.
CURVE_NAMES = {
    "activeForceLength": "active_force_length_points",
    "passiveForceLength": "passive_force_length_points",
    "forceVelocity": "force_velocity_points",
    "tendonForceStrain": "tendon_force_points",
}


@dataclass(frozen=True)
class CeinmsMuscle:
    """One ``mtu``: parameters as in the file, in SI units and radians.

    Attributes:
        name: of the muscle.
        c1, c2: recursive filter coefficients, -1 to 0 (``c1``, ``c2``; the poles of the filter are ``-c1``, ``-c2``).
        shape_factor: ``shapeFactor``.
        optimal_fiber_length: m, ``optimalFibreLength``.
        pennation_at_optimal: rad, ``pennationAngle``.
        tendon_slack_length: m, ``tendonSlackLength``.
        max_isometric_force: N, ``maxIsometricForce``, before ``strength_coefficient`` multiplies it.
        strength_coefficient: ``strengthCoefficient``.
        max_contraction_velocity: optimal fiber lengths per second, ``maxContractionVelocity``.
        electromechanical_delay: s, ``emDelay``; None in CEINMS-RT, which keeps it in its calibration file.
        optimal_fiber_length_change: ``percentageChange``.
        fiber_damping: ``damping``.
    """

    name: str
    c1: float
    c2: float
    shape_factor: float
    optimal_fiber_length: float
    pennation_at_optimal: float
    tendon_slack_length: float
    max_isometric_force: float
    strength_coefficient: float
    max_contraction_velocity: float
    electromechanical_delay: float | None
    optimal_fiber_length_change: float
    fiber_damping: float


@dataclass(frozen=True)
class CeinmsExcitations:
    """An ``excitationGenerator``: what each muscle's excitation is made of.

    Attributes:
        path: of the file, for messages.
        channels: C input signals, in the order of the file.
        muscles: muscle -> {channel: weight}; a muscle without any is not driven.
    """

    path: str
    channels: tuple[str, ...]
    muscles: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class CeinmsSubject:
    """A ``subject``.

    Attributes:
        path: of the file, for messages.
        muscles: in the order of the file.
        dofs: joint -> the muscles that cross it.
        curves: keyword of ``muscle.tabulated.Tabulated`` -> (x, y); without those that the file lacks.
        channels: the channels of a CEINMS-RT subject; None in CEINMS 0.9, which has a file for them.
    """

    path: str
    muscles: tuple[CeinmsMuscle, ...]
    dofs: Mapping[str, tuple[str, ...]]
    curves: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]
    channels: CeinmsExcitations | None = None

    @property
    def muscle_names(self) -> tuple[str, ...]:
        """Names of ``muscles``."""
        return tuple(muscle.name for muscle in self.muscles)


@dataclass(frozen=True)
class CeinmsTrial:
    """An ``inputData``: the tables of one trial.

    Attributes:
        path: of the file.
        lengths: ``muscleTendonLengthFile``.
        excitations: ``excitationsFile`` (``emgFile`` in older files).
        moment_arms: joint -> ``momentArmsFile``.
        torques: ``externalTorquesFile``, or None.
        window: s, ``startStopTime``, or None.
    """

    path: str
    lengths: Path
    excitations: Path
    moment_arms: Mapping[str, Path] = field(default_factory=dict)
    torques: Path | None = None
    window: tuple[float, float] | None = None


# ---------------------------------------------------------------------------------------------- subject


@dataclass(frozen=True)
class _Dialect:
    """Where things are and how they are spelled."""

    defaults: str
    curve: str
    muscle: str
    dof: str
    dof_muscles: str
    c1: str
    c2: str
    fiber: str
    degrees: bool


_CEINMS = _Dialect(
    "mtuDefault", "curve", "mtuSet/mtu", "dofSet/dof", "mtuNameSet", "c1", "c2", "optimalFibreLength", False
)
_CEINMS_RT = _Dialect(
    "muscleDefault", "Curve", "muscles/muscle", "DoFs/DoF", "muscleSequence", "C1", "C2", "optimalFiberLength", True
)


def read_ceinms_subject(path: str | os.PathLike[str]) -> CeinmsSubject:
    """Read a subject of CEINMS 0.9 or CEINMS-RT, calibrated or not.

    Pennation is in radians in CEINMS 0.9 (or as its ``unit`` says) and in degrees in CEINMS-RT.

    Raises:
        InputError: not such a file; an element is missing or no number; a name occurs twice; a joint or channel names
            a muscle that is not there; a curve has an unknown name. File, muscle and element are named.
    """
    file, root = ceinms_root(path, "subject")
    say = _CEINMS_RT if root.find(_CEINMS_RT.defaults) is not None else _CEINMS
    defaults = xml_child(root, say.defaults, file)
    muscles = tuple(_muscle(element, defaults, say, file) for element in root.findall(say.muscle))
    if not muscles:
        raise InputError(f"{file}: no muscles; expected <{say.muscle.replace('/', '><')}> elements")
    names = [muscle.name for muscle in muscles]
    require_unique(names, "muscles", file)
    dofs: dict[str, tuple[str, ...]] = {}
    for element in root.findall(say.dof):
        name = xml_text(element, "name", file)
        if name in dofs:
            raise InputError(f"{file}: joint {name!r} is there twice; every name must be unique")
        dofs[name] = _known(
            xml_text(element, say.dof_muscles, f"{file}: {name}").split(), names, f"{file}: joint {name!r}"
        )
    if not dofs:
        raise InputError(f"{file}: no joints; expected <{say.dof.replace('/', '><')}> elements")
    curves = {}
    for element in defaults.findall(say.curve):
        name = xml_text(element, "name", file)
        if name not in CURVE_NAMES:
            raise InputError(f"{file}: curve {name!r}; {near(name, CURVE_NAMES)}")
        where = f"{file}: curve {name!r}"
        curves[CURVE_NAMES[name]] = (xml_numbers(element, "xPoints", where), xml_numbers(element, "yPoints", where))
    return CeinmsSubject(file, muscles, dofs, curves, _rt_channels(root, names, file))


def _muscle(element: Element, defaults: Element, say: _Dialect, file: str) -> CeinmsMuscle:
    name = xml_text(element, "name", file)
    where = f"{file}: muscle {name!r}"

    def number(tag: str, default: float | None = None) -> float:
        return xml_number(element, tag, where, default)

    pennation = number("pennationAngle")
    if xml_child(element, "pennationAngle", where).get("unit", "deg" if say.degrees else "rad") == "deg":
        pennation = math.radians(pennation)
    delay = xml_number(defaults, "emDelay", file, math.nan) if say.degrees else xml_number(defaults, "emDelay", file)
    delay = number("emDelay", delay)
    return CeinmsMuscle(
        name=name,
        c1=number(say.c1),
        c2=number(say.c2),
        shape_factor=number("shapeFactor"),
        optimal_fiber_length=number(say.fiber),
        pennation_at_optimal=pennation,
        tendon_slack_length=number("tendonSlackLength"),
        max_isometric_force=number("maxIsometricForce"),
        strength_coefficient=number("strengthCoefficient"),
        max_contraction_velocity=number("maxContractionVelocity", MAX_CONTRACTION_VELOCITY),
        electromechanical_delay=None if math.isnan(delay) else delay,
        optimal_fiber_length_change=xml_number(defaults, "percentageChange", file),
        fiber_damping=number("damping", xml_number(defaults, "damping", file)),
    )


def _rt_channels(root: Element, names: list[str], file: str) -> CeinmsExcitations | None:
    """Channels of CEINMS-RT: a muscle with several of them takes their mean."""
    channels: dict[str, tuple[str, ...]] = {}
    for element in root.findall("Channels/Channel"):
        channel = xml_text(element, "name", file)
        where = f"{file}: channel {channel!r}"
        channels[channel] = _known(xml_text(element, "muscleSequence", where).split(), names, where)
    if not channels:
        return None
    drivers = {m: [c for c, driven in channels.items() if m in driven] for m in names}
    return CeinmsExcitations(file, tuple(channels), {m: dict.fromkeys(c, 1 / len(c)) for m, c in drivers.items() if c})


# ---------------------------------------------------------------------------------------------- excitations


def read_ceinms_excitations(path: str | os.PathLike[str]) -> CeinmsExcitations:
    """Read an excitation generator. Inputs of weight 0 are left out.

    Raises:
        InputError: not such a file; a muscle or a signal named twice; an input that is no signal; a weight that is no
            number of at least 0.
    """
    file, root = ceinms_root(path, "excitationGenerator")
    channels = tuple(xml_text(root, "inputSignals", file).split())
    require_unique(channels, "input signals", file)
    muscles: dict[str, dict[str, float]] = {}
    for element in xml_child(root, "mapping", file).findall("excitation"):
        muscle = element.get("id", "").strip()
        where = f"{file}: excitation {muscle!r}"
        if not muscle or muscle in muscles:
            raise InputError(f"{where}: every excitation needs an id of its own, the name of its muscle")
        weights: dict[str, float] = {}
        for part in element.findall("input"):
            (channel,) = _known([(part.text or "").strip()], channels, where)
            weight = xml_float(part.get("weight", ""), f"{where}, the weight of {channel!r}")
            if weight < 0 or channel in weights:
                raise InputError(f"{where}: input {channel!r} with weight {weight:g}; name it once, with 0 or more")
            weights[channel] = weight
        muscles[muscle] = {channel: weight for channel, weight in weights.items() if weight}
    return CeinmsExcitations(file, channels, muscles)


# ---------------------------------------------------------------------------------------------- trial


def read_ceinms_trial(path: str | os.PathLike[str]) -> CeinmsTrial:
    """Read which tables a trial consists of; their paths are relative to the file's folder.

    Raises:
        InputError: not such a file, an element is missing, or a joint is named twice.
    """
    file, root = ceinms_root(path, "inputData")

    def located(text: str) -> Path:
        return named_file(Path(path), text)

    excitations = "emgFile" if root.find("excitationsFile") is None else "excitationsFile"
    torques, window = root.findtext("externalTorquesFile"), root.findtext("startStopTime")
    arms: dict[str, Path] = {}
    for element in xml_child(root, "momentArmsFiles", file).findall("momentArmsFile"):
        dof = element.get("dofName", "")
        if not dof or dof in arms or not (element.text or "").strip():
            raise InputError(f"{file}: momentArmsFile of joint {dof!r}; give a dofName of its own and a file to each")
        arms[dof] = located(element.text or "")
    return CeinmsTrial(
        path=file,
        lengths=located(xml_text(root, "muscleTendonLengthFile", file)),
        excitations=located(xml_text(root, excitations, file)),
        moment_arms=arms,
        torques=located(torques) if torques and torques.strip() else None,
        window=_pair(xml_numbers(root, "startStopTime", file), file) if window and window.strip() else None,
    )


def _pair(values: tuple[float, ...], file: str) -> tuple[float, float]:
    if len(values) != 2 or values[0] >= values[1]:
        raise InputError(f"{file}: startStopTime is {values}; expected a start and a later stop, in seconds")
    return values[0], values[1]


def load_ceinms_trial(
    trial: CeinmsTrial, subject: CeinmsSubject, excitations: CeinmsExcitations | None = None, *, name: str | None = None
) -> Trial:
    """The tables of a trial, checked, as a recording without joint angles.

    Columns are matched by name. A muscle has a moment arm about the joints of ``subject.dofs`` that it crosses, and 0
    about the others. Muscle velocities are the derivative of a quintic spline through the lengths, where CEINMS takes
    that of a cubic spline through each muscle's fiber lengths.

    Args:
        trial: from ``read_ceinms_trial``.
        subject: whose muscles and joints are wanted.
        excitations: whose channels are wanted; default those of a CEINMS-RT subject, else every column.
        name: of the trial; default the name of its folder.

    Raises:
        InputError: a file or column is missing, the tables disagree on time, or their numbers make no sense.
    """
    dofs, muscles = tuple(subject.dofs), subject.muscle_names
    missing = [dof for dof in dofs if dof not in trial.moment_arms]
    if missing:
        raise InputError(f"{trial.path}: no moment arms about {listed(missing)}; {near(missing[0], trial.moment_arms)}")
    lengths = read_table(trial.lengths, columns=muscles)
    arms = np.zeros((len(lengths.time), len(dofs), len(muscles)))
    for k, (dof, crossing) in enumerate(subject.dofs.items()):
        table = read_table(trial.moment_arms[dof], columns=crossing)
        if table.time.shape != lengths.time.shape or np.abs(table.time - lengths.time).max() > 1e-4:
            raise InputError(f"{table.path}: its times differ from those of {lengths.path}; write both in one analysis")
        arms[:, k, [muscles.index(muscle) for muscle in crossing]] = table.data
    source = excitations or subject.channels
    labels = read_labels(trial.excitations) if source is None else source.channels
    recording = make_trial(
        name or Path(trial.path).resolve().parent.name,
        Table(str(trial.lengths), (), lengths.time, np.zeros((len(lengths.time), 0))),
        emg=read_table(trial.excitations, columns=labels),
        moments=None if trial.torques is None else read_moments(trial.torques, dofs),
        geometry=MuscleAnalysis(str(trial.lengths), lengths.time, muscles, dofs, lengths.data, None, arms),
    )
    return recording if trial.window is None else recording.window(*trial.window)


# ---------------------------------------------------------------------------------------------- names


def ceinms_root(path: str | os.PathLike[str], tag: str) -> tuple[str, Element]:
    """Name of a file for messages, and its root element, which must be a ``tag``. InputError where it is not."""
    root = xml_root(path)
    if root.tag != tag:
        raise InputError(f"{path}: the file is a <{root.tag}>; expected CEINMS's <{tag}>")
    return str(path), root


def _known(names: list[str], allowed: Any, where: str) -> tuple[str, ...]:
    require_unique(names, "names", where)
    strange = [name for name in names if name not in allowed]
    if strange:
        raise InputError(f"{where}: names {listed(strange)}, which the file does not have; {near(strange[0], allowed)}")
    return tuple(names)
