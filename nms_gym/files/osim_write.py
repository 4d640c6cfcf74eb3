"""Write calibrated muscle parameters into a copy of an OpenSim model: those numbers change, every other byte stays.

The document is parsed twice: by ``read_osim``, which refuses what a model has no business to hold (entities), and by
expat for the byte positions of the elements to be replaced. Writing the parsed tree back would lose the layout of the
file and whatever a parser drops.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from xml.parsers import expat

import numpy as np

from nms_gym.errors import InputError, listed, near
from nms_gym.recording.osim import read_osim
from nms_gym.recording.storage import atomic_path

if TYPE_CHECKING:
    from nms_gym.model.parameters import NmsParams
    from nms_gym.model.structure import NmsModel

# Our kinds of parameter as OpenSim spells them: Model/Muscle.cpp, constructProperties.
_EVERY_MUSCLE: Mapping[str, str] = {
    "max_isometric_force": "max_isometric_force",
    "optimal_fiber_length": "optimal_fiber_length",
    "tendon_slack_length": "tendon_slack_length",
    "pennation_at_optimal": "pennation_angle_at_optimal",
    "max_contraction_velocity": "max_contraction_velocity",
}
_OWN: Mapping[str, Mapping[str, str]] = {
    # Actuators/DeGrooteFregly2016Muscle.h
    "DeGrooteFregly2016Muscle": {
        "fiber_damping": "fiber_damping",
        "passive_fiber_strain_at_one_norm_force": "passive_fiber_strain_at_one_norm_force",
        "tendon_strain_at_one_norm_force": "tendon_strain_at_one_norm_force",
        "activation_time_constant": "activation_time_constant",
        "deactivation_time_constant": "deactivation_time_constant",
    },
    # Actuators/Millard2012EquilibriumMuscle.h; its strains sit in curve objects with more parameters of their own.
    "Millard2012EquilibriumMuscle": {
        "fiber_damping": "fiber_damping",
        "activation_time_constant": "activation_time_constant",
        "deactivation_time_constant": "deactivation_time_constant",
    },
    # Actuators/Thelen2003Muscle.h
    "Thelen2003Muscle": {
        "passive_fiber_strain_at_one_norm_force": "FmaxMuscleStrain",
        "tendon_strain_at_one_norm_force": "FmaxTendonStrain",
        "activation_time_constant": "activation_time_constant",
        "deactivation_time_constant": "deactivation_time_constant",
    },
}
# A strain means the same only where the curve through it does.
_FAMILY_OF_STRAINS: Mapping[str, str] = {"DeGrooteFregly2016Muscle": "DeGrooteFregly2016"}
# Our families of curves as OpenSim's classes. Those of other families have none.
_CLASSES: Mapping[str, str] = {
    "DeGrooteFregly2016": "DeGrooteFregly2016Muscle",
    "Millard2012": "Millard2012EquilibriumMuscle",
}
# What every muscle class has, beside its parameters: Simulation/Model/{Force,PathActuator,Muscle}.
_SHARED = (
    "GeometryPath",
    "path",
    "appliesForce",
    "isDisabled",
    "min_control",
    "max_control",
    "optimal_force",
    "ignore_activation_dynamics",
    "default_activation",
    "components",
)
# The curves of OpenSim's Millard muscles; written whole, because ours are its defaults at our strains.
_MILLARD_CURVES = (
    "ActiveForceLengthCurve",
    "ForceVelocityCurve",
    "FiberForceLengthCurve",
    "TendonForceLengthCurve",
)
_POSITIVE = ("max_isometric_force", "optimal_fiber_length", "tendon_slack_length", "max_contraction_velocity")


@dataclass(frozen=True)
class OsimWriting:
    """What ``write_osim`` did.

    Attributes:
        changed: muscle -> {our kind: value} whose number in the file is new.
        left_out: muscle -> kinds that its OpenSim class has no property for.
        turned: muscle -> the class that it had in the file, where it has another one now.
        muscle_class: that of all muscles written, where they were made to be of one.
    """

    changed: Mapping[str, Mapping[str, float]]
    left_out: Mapping[str, tuple[str, ...]]
    turned: Mapping[str, str] = field(default_factory=dict)
    muscle_class: str = ""


def osim_class(model: NmsModel) -> str:
    """The OpenSim class whose curves are those of ``model``.

    Raises:
        InputError: there is none: OpenSim would move another person.
    """
    curves = model.settings.curves
    if curves.name not in _CLASSES or curves != type(curves)():
        which = (
            f"{curves.name!r} curves" if curves.name not in _CLASSES else f"{curves.name!r} curves with own constants"
        )
        raise InputError(
            f"this person's muscles have {which}, which no muscle class of OpenSim has: the file would move otherwise "
            f"than the person does. Calibrate with {listed(_CLASSES)} to export"
        )
    return _CLASSES[curves.name]


def export_osim(
    path: str | os.PathLike[str], original: str | os.PathLike[str], model: NmsModel, params: NmsParams
) -> OsimWriting:
    """``write_osim`` of a person, so that OpenSim moves the copy as ``model`` does.

    Muscles become of the class whose equations are the person's (``osim_class``), whatever they were: a Thelen muscle
    with a De Groote-Fregly muscle's parameters would pull otherwise. Tendons become rigid or elastic as the person's
    are. Paths, and muscles that the person lacks, stay.

    Raises:
        InputError: see ``write_osim`` and ``osim_class``.
    """
    muscle_class = osim_class(model)
    kinds = model.tendons
    rigid = dict.fromkeys(model.muscles, kinds == "rigid")
    if isinstance(kinds, tuple):
        rigid = {muscle: kind == "rigid" for muscle, kind in zip(model.muscles, kinds, strict=True)}
    strains = {
        muscle: (float(passive), float(tendon))
        for muscle, passive, tendon in zip(
            model.muscles,
            np.asarray(params.passive_fiber_strain_at_one_norm_force, float),
            np.asarray(params.tendon_strain_at_one_norm_force, float),
            strict=True,
        )
    }
    return _write(path, original, osim_values(model, params), _Target(muscle_class, rigid, strains))


@dataclass(frozen=True)
class _Target:
    """What all muscles written are to be: their class, whose tendon is rigid, and strains at one norm force."""

    muscle_class: str
    rigid: Mapping[str, bool]
    strains: Mapping[str, tuple[float, float]]


def osim_values(model: NmsModel, params: NmsParams) -> dict[str, dict[str, float]]:
    """Muscle -> {kind: value} of everything in ``params`` that some OpenSim muscle has a property for.

    Strains are left out unless the curves are De Groote and Fregly's, activation time constants unless the activation
    is first-order: elsewhere the numbers mean something else.
    """
    kinds = [*_EVERY_MUSCLE, "fiber_damping"]
    if model.settings.curves.name in _FAMILY_OF_STRAINS.values():
        kinds += ["passive_fiber_strain_at_one_norm_force", "tendon_strain_at_one_norm_force"]
    if model.settings.activation == "first_order":
        kinds += ["activation_time_constant", "deactivation_time_constant"]
    columns = {kind: np.asarray(getattr(params, kind), float) for kind in kinds}
    return {m: {kind: float(column[i]) for kind, column in columns.items()} for i, m in enumerate(model.muscles)}


def write_osim(
    path: str | os.PathLike[str], original: str | os.PathLike[str], values: Mapping[str, Mapping[str, float]]
) -> OsimWriting:
    """Write a copy of an OpenSim model with other muscle parameters.

    A property that a muscle leaves to its default is added to it. Numbers are written so that reading gives them back
    exactly; a number that is the file's already stays as it is spelled. Muscles are matched by name; those that
    ``values`` does not name stay as they are.

    Args:
        path: of the new ``.osim``; replaced in one go, and only when everything is in order.
        original: the ``.osim`` to copy.
        values: muscle -> {kind: value} in the names and units of ``NmsParams``, such as ``osim_values`` gives. Strains
            are written to De Groote-Fregly and Thelen muscles as given: they mean different curves.

    Raises:
        InputError: the original cannot be read; a muscle is not in it; a value is not finite or not positive.
    """
    return _write(path, original, values, None)


def _write(
    path: str | os.PathLike[str],
    original: str | os.PathLike[str],
    values: Mapping[str, Mapping[str, float]],
    target: _Target | None,
) -> OsimWriting:
    source = str(original)
    model = read_osim(source)
    classes = {muscle.name: muscle.class_name for muscle in model.muscles}
    strange = [name for name in values if name not in classes]
    if strange:
        raise InputError(f"{source}: no muscle {listed(strange)}; {near(strange[0], classes)}")
    data = Path(source).read_bytes()
    if b"\0" in data:
        raise InputError(f"{source}: only UTF-8 and other encodings of single bytes can be copied; save it as UTF-8")
    places = _places(data, classes)
    edits: list[tuple[int, int, bytes]] = []
    changed: dict[str, dict[str, float]] = {}
    left_out: dict[str, tuple[str, ...]] = {}
    turned: dict[str, str] = {}
    for name, wanted in values.items():
        muscle_class = classes[name] if target is None else target.muscle_class
        tags = {**_EVERY_MUSCLE, **_OWN.get(muscle_class, {})}
        if target is not None:
            edits += _into_class(name, places[name], classes[name], target, tags.values())
            if classes[name] != muscle_class:
                turned[name] = classes[name]
        left_out[name] = tuple(kind for kind in wanted if kind not in tags)
        for kind, value in wanted.items():
            if not math.isfinite(value) or (kind in _POSITIVE and value <= 0):
                raise InputError(f"{path}: {kind} of {name!r} is {value:g}; expected a finite, positive number")
            if kind not in tags:
                continue
            text, place = repr(float(value)), places[name]
            element = f"<{tags[kind]}>{text}</{tags[kind]}>".encode()
            if tags[kind] in place.empty and tags[kind] not in place.properties:
                edits.append((*place.empty[tags[kind]], element))
            elif tags[kind] not in place.properties:
                edits.append((place.end, place.end, element + b"\n"))
            elif _same(data[slice(*place.properties[tags[kind]])], value):
                continue
            else:
                edits.append((*place.properties[tags[kind]], text.encode()))
            changed.setdefault(name, {})[kind] = float(value)
    with atomic_path(path) as temporary:
        temporary.write_bytes(_edited(data, edits))
        read_osim(temporary)
    return OsimWriting(
        changed,
        {name: kinds for name, kinds in left_out.items() if kinds},
        turned,
        "" if target is None else target.muscle_class,
    )


def _into_class(
    name: str, place: _Place, old: str, target: _Target, own: Iterable[str]
) -> list[tuple[int, int, bytes]]:
    """Edits that make a muscle one of the target's class: its tags, what that class does not have, and its curves."""
    edits: list[tuple[int, int, bytes]] = []
    new = target.muscle_class
    kept = {*_SHARED, *own}
    if old == new:
        # Properties that scale or bound what ours has no parameter for go back to OpenSim's defaults.
        kept |= set(place.spans) - {*_MILLARD_CURVES, "active_force_width_scale", "ignore_passive_fiber_force"}
    else:
        for at in (place.begin + 1, place.end + 2):
            edits.append((at, at + len(old), new.encode()))
    kept.discard("ignore_tendon_compliance")
    for tag, (start, end) in place.spans.items():
        if tag not in kept and not tag.startswith("socket_"):
            edits.append((start, end, b""))
    added = f"<ignore_tendon_compliance>{str(target.rigid[name]).lower()}</ignore_tendon_compliance>\n"
    if new == "Millard2012EquilibriumMuscle":
        curves = zip(_MILLARD_CURVES[2:], target.strains[name], strict=True)
        strain = "strain_at_one_norm_force"
        added += "".join(f'<{curve} name="">\n<{strain}>{value!r}</{strain}>\n</{curve}>\n' for curve, value in curves)
    edits.append((place.end, place.end, added.encode()))
    return edits


@dataclass
class _Place:
    """Where one muscle's numbers are."""

    properties: dict[str, tuple[int, int]] = field(default_factory=dict)
    """property -> first byte of its text, and the byte after"""
    empty: dict[str, tuple[int, int]] = field(default_factory=dict)
    """the same of whole elements without an end tag"""
    begin: int = 0
    """where the muscle's start tag begins"""
    end: int = 0
    """where the muscle's end tag begins"""
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    """child -> its first byte, and the byte after its end tag"""


def _places(data: bytes, classes: Mapping[str, str]) -> dict[str, _Place]:
    """Byte positions of the direct properties of every muscle in the model's force set."""
    places: dict[str, _Place] = {}
    stack: list[tuple[str, int]] = []
    inside: list[str] = []  # the muscle that the parser is in, at most one
    depth: list[int] = []  # how many elements are around it
    parser = expat.ParserCreate("iso-8859-1")  # in which every byte is a character

    def content(start: int) -> int:
        # An attribute may hold '>', so quotes are stepped over.
        quote = b""
        for i in range(start, len(data)):
            character = data[i : i + 1]
            if quote:
                quote = b"" if character == quote else quote
            elif character in (b'"', b"'"):
                quote = character
            elif character == b">":
                return i + 1
        return len(data)

    def begin(tag: str, attributes: Mapping[str, str]) -> None:
        parents = [name for name, _ in stack]
        name = _own_text(attributes.get("name", "")).strip()
        if not inside and parents[-1:] in (["components"], ["objects"]) and classes.get(name) == tag:
            inside.append(name)
            depth.append(len(parents))
            places[name] = _Place(begin=parser.CurrentByteIndex)
        stack.append((tag, parser.CurrentByteIndex))

    def finish(tag: str) -> None:
        _, start = stack.pop()
        end = parser.CurrentByteIndex
        if not inside:
            return
        if len(stack) == depth[-1]:
            depth.pop()
            places[inside.pop()].end = end
        elif len(stack) == depth[-1] + 1:
            first = content(start)
            places[inside[-1]].spans[tag] = (start, max(first, data.index(b">", end) + 1))
            if data[first - 2 : first] == b"/>":
                places[inside[-1]].empty[tag] = (start, first)
            else:
                places[inside[-1]].properties[tag] = (first, end)

    parser.StartElementHandler, parser.EndElementHandler = begin, finish
    parser.Parse(_same_length(data), True)
    return places


def _own_text(text: str) -> str:
    """A name as ``read_osim`` has it, of a document that was parsed byte by byte."""
    data = text.encode("iso-8859-1", errors="replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _same_length(data: bytes) -> bytes:
    """The document without what expat refuses and ``read_osim`` mends, every byte still in its place."""

    def blank(found: re.Match[bytes]) -> bytes:
        return re.sub(rb"[^\r\n]", b" ", found[0])

    first = data.find(b"<")
    data = b" " * first + data[first:]
    parts, at = [], 0
    while (start := data.find(b"<!--", at)) >= 0 and (end := data.find(b"-->", start)) >= 0:
        parts += [data[at:start], re.sub(rb"[^\r\n]", b" ", data[start : end + 3])]
        at = end + 3
    data = b"".join([*parts, data[at:]])
    data = re.sub(rb"<\?xml.*?\?>", blank, data, count=1, flags=re.DOTALL)
    data = re.sub(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]", b" ", data)
    data = re.sub(rb"(</?)([A-Za-z_][\w.-]*(?:::?[\w.-]+)+)", lambda m: m[1] + m[2].replace(b":", b"_"), data)
    return re.sub(rb"&(?!(?:amp|lt|gt|quot|apos|#[0-9]+|#x[0-9a-fA-F]+);)", b"+", data)


def _same(text: bytes, value: float) -> bool:
    try:
        return float(text) == float(value)
    except ValueError:
        return False


def _edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    parts, at = [], 0
    for start, end, text in sorted(edits, key=lambda edit: edit[0]):
        parts += [data[at:start], text]
        at = end
    return b"".join([*parts, data[at:]])
