"""OpenSim files of older layouts, rewritten to that of OpenSim 4 before they are read.

Up to version 30500 of the file format a body holds the joint to its parent, and path points, wraps and constraints
name bodies; pre-releases of OpenSim 4 have connectors where sockets are now. Sources: the ``updateFromXMLNode`` of
OpenSim's Body, Joint, Model, Muscle, PathPoint, Constraint and Component classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree.ElementTree import Element, SubElement

# Simulation/RegisterTypes_osimSimulation.cpp and Common/RegisterTypes_osimCommon.cpp, Object::renameType.
_RENAMED = {
    "natCubicSpline": "SimmSpline",
    "MusclePointSet": "PathPointSet",
    "MuscleWrapSet": "PathWrapSet",
    "MusclePoint": "PathPoint",
    "MuscleViaPoint": "ConditionalPathPoint",
    "MovingMusclePoint": "MovingPathPoint",
    "pennation_angle": "pennation_angle_at_optimal",
    "ActuatorSet": "ForceSet",
}
_INERTIA = tuple(f"inertia_{part}" for part in ("xx", "yy", "zz", "xy", "xz", "yz"))
_CONNECTEE = re.compile(r"^(?:connector|socket)_(\w+?)_connectee_name$")


def is_old(version: str, model: Element) -> bool:
    """Whether joints are inside their bodies: the layout of OpenSim 3 and older."""
    if model.find("BodySet/objects/Body/Joint") is not None or model.find("BodySet/objects/Body/joint") is not None:
        return True
    return model.find("JointSet") is None and (not version.isdigit() or int(version) < 30500)


def has_connectors(model: Element) -> bool:
    """Whether a file is from a pre-release of OpenSim 4."""
    return any(e.tag == "connectors" or _CONNECTEE.match(e.tag) for e in model.iter() if isinstance(e.tag, str))


def update_connectors(model: Element) -> None:
    """Sockets for connectors, in place."""
    for element in model.iter():
        for holder in element.findall("connectors"):
            for connector in holder:
                socket = SubElement(element, f"socket_{connector.get('name', '')}")
                socket.text = connector.findtext("connectee_name") or ""
            element.remove(holder)
        match = _CONNECTEE.match(element.tag)
        if match:
            element.tag = f"socket_{match[1]}"


def update_old(root: Element, model: Element) -> None:
    """The layout of OpenSim 4, in place."""
    for element in root.iter():
        element.tag = _RENAMED.get(element.tag, element.tag)
    for element in root.iter():
        _update_part(element)
    bodies = model.find("BodySet/objects")
    if bodies is None:
        return
    joints = SubElement(SubElement(model, "JointSet"), "objects")
    for body in list(bodies):
        if body.get("name") == "ground":
            bodies.remove(body)
            body.tag = "Ground"
            model.append(body)
            continue
        for holder in (*body.findall("Joint"), *body.findall("joint")):
            for joint in holder:
                joints.append(_joint(joint, body.get("name", "")))
            body.remove(holder)


def _update_part(element: Element) -> None:
    """What a path point, muscle, body or constraint was called."""
    if element.tag.endswith("PathPoint"):
        _socket(element, ("body",), "socket_parent_frame", _body_path)
        _socket(element, ("coordinate",), "socket_coordinate", str)
        for axis in "xyz":
            _socket(element, (f"{axis}_coordinate",), f"socket_{axis}_coordinate", str)
    elif element.tag.endswith(("Muscle", "Muscle_Deprecated")) and element.find("GeometryPath") is None:
        sets = [part for tag in ("PathPointSet", "PathWrapSet") for part in element.findall(tag)]
        if sets:
            path = SubElement(element, "GeometryPath")
            for part in sets:
                element.remove(part)
                path.append(part)
    elif element.tag == "Body" and element.find("inertia") is None:
        SubElement(element, "inertia").text = " ".join((element.findtext(tag) or "0").strip() for tag in _INERTIA)
    elif element.tag.endswith("Constraint"):
        disabled = (element.findtext("isDisabled") or "false").strip().lower()
        if element.find("isEnforced") is None:
            SubElement(element, "isEnforced").text = "false" if disabled in ("true", "1") else "true"


def _socket(element: Element, tags: Iterable[str], socket: str, path: object) -> None:
    for tag in tags:
        text = (element.findtext(tag) or "").strip()
        if text and element.find(socket) is None:
            SubElement(element, socket).text = path(text)  # type: ignore[operator]


def _body_path(name: str) -> str:
    return "/ground" if name == "ground" else f"/bodyset/{name}"


def _joint(joint: Element, child: str) -> Element:
    """A joint as OpenSim 4 has it: an offset frame in each body, sockets to them, coordinates as its own."""
    parent = (joint.findtext("parent_body") or "ground").strip()
    frames = SubElement(joint, "frames")
    sides = (
        ("parent", parent, ("location_in_parent",), ("orientation_in_parent",)),
        ("child", child, ("location", "location_in_child"), ("orientation", "orientation_in_child")),
    )
    for side, body, locations, orientations in sides:
        frame = SubElement(frames, "PhysicalOffsetFrame", {"name": f"{side}_{body}_offset"})
        SubElement(frame, "socket_parent").text = _body_path(body)
        SubElement(frame, "translation").text = _first(joint, locations)
        SubElement(frame, "orientation").text = _first(joint, orientations)
        SubElement(joint, f"socket_{side}_frame").text = f"{side}_{body}_offset"
    held = SubElement(joint, "coordinates")
    for coordinate in joint.findall("CoordinateSet/objects/Coordinate"):
        held.append(coordinate)
    return joint


def _first(element: Element, tags: Iterable[str]) -> str:
    return next((text for tag in tags if (text := (element.findtext(tag) or "").strip())), "0 0 0")
