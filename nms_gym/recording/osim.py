"""Read an OpenSim model: bodies, joints, coordinates, couplings, muscles and their paths.

Only what geometry and muscle dynamics need is kept. Constraints, forces and actuators that are left out are listed in
``OsimModel.skipped``; controllers, markers and display are not. Defaults of properties that a file leaves out are
OpenSim's (the constructors named beside ``_DEFAULTS``), and a ``<defaults>`` section is honoured before them.

One odd part does not refuse a model: a body, joint, coupling, wrap or muscle that cannot be used says why in its
``problem``, and is refused where it is used.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar
from xml.etree.ElementTree import Element, SubElement

import numpy as np

from nms_gym.anatomy import (
    IDENTITY,
    MUSCLE_LIMITS,
    ZERO,
    Body,
    Coordinate,
    Coupler,
    Frame,
    Function,
    Joint,
    Linear,
    Multivariate,
    Muscle,
    OsimModel,
    PathPoint,
    PathWrap,
    PiecewiseLinear,
    Polynomial,
    Scaled,
    SimmSpline,
    Skipped,
    TransformAxis,
    Unknown,
    Wrap,
    body_fixed_xyz,
    monomial_order,
)
from nms_gym.errors import InputError, listed, near
from nms_gym.recording.osim_layout import has_connectors, is_old, update_connectors, update_old
from nms_gym.recording.xml import xml_integer, xml_numbers, xml_root, xml_text_or

T = TypeVar("T")

# ---------------------------------------------------------------------------------------------- the reader

# Model/Muscle.cpp, Muscle::constructProperties.
_DEFAULTS: Mapping[str, float] = {
    "max_isometric_force": 1000.0,
    "optimal_fiber_length": 0.1,
    "tendon_slack_length": 0.2,
    "pennation_angle_at_optimal": 0.0,
    "max_contraction_velocity": 10.0,
}
# The OpenSim classes whose speed is another property: 1/time_scale (Actuators/{Delp1990,Schutte1993,Zajac1989}
# Muscle_Deprecated: velocities are normalised by optimal length over time_scale), or Vmax (Thelen2003MuscleV1).
_SPEEDS: Mapping[str, Callable[[float], float]] = {"time_scale": lambda s: 1.0 / s, "Vmax": float}
# m/s^2. Jupiter's is 25; what is far above it is in mm.
_STRONGEST_GRAVITY = 100.0
# kg m^2. Some hundred times a whole person's: what is above is in kg mm^2.
_LARGEST_INERTIA = 1000.0
# Actuators do nothing by themselves; other forces that are left out change the dynamics.
_ACTUATORS = ("Actuator", "Controller", "Motor")
_MUSCLES = ("Muscle", "Muscle_Deprecated")
# OpenSim's own, Actuators/RegisterTypes_osimActuators.cpp.
_KNOWN_MUSCLES = (
    "Thelen2003Muscle",
    "Millard2012EquilibriumMuscle",
    "Millard2012AccelerationMuscle",
    "DeGrooteFregly2016Muscle",
    "RigidTendonMuscle",
    "Thelen2003Muscle_Deprecated",
    "Thelen2003MuscleV1",
    "Schutte1993Muscle_Deprecated",
    "Delp1990Muscle_Deprecated",
    "Schutte1993Muscle",
    "Delp1990Muscle",
    "Zajac1989Muscle",
    "Zajac1989Muscle_Deprecated",
    "ContDerivMuscle_Deprecated",
)
_FORCES = ("Force", "Actuator", "Ligament", "Ligament1991", "Spring", "Device")
_PROPERTIES: Mapping[str, str] = {
    "max_isometric_force": "max_isometric_force",
    "optimal_fiber_length": "optimal_fiber_length",
    "tendon_slack_length": "tendon_slack_length",
    "pennation_at_optimal": "pennation_angle_at_optimal",
    "max_contraction_velocity": "max_contraction_velocity",
}
# What each joint class means as six transform axes: indices into (rx, ry, rz, tx, ty, tz), in coordinate order.
# SimbodyEngine/{Pin,Slider,Universal,Ball,Gimbal,Free,Planar}Joint.h; ball and free joints use body-fixed x-y-z
# angles in OpenSim (their systems are set to Euler angles), verified in tests against OpenSim's own transforms.
_SIMPLE_JOINTS: Mapping[str, tuple[int, ...]] = {
    "WeldJoint": (),
    "PinJoint": (2,),
    "SliderJoint": (3,),
    "UniversalJoint": (0, 1),
    "BallJoint": (0, 1, 2),
    "GimbalJoint": (0, 1, 2),
    "FreeJoint": (0, 1, 2, 3, 4, 5),
    "PlanarJoint": (2, 3, 4),
}


def read_osim(path: str | Path) -> OsimModel:
    """Read an ``.osim`` file of OpenSim 4, or of an older layout.

    Raises InputError for a missing or damaged file, one that is no model, lengths in another unit than metres, gravity
    that cannot be, joints that leave a body unconnected, and names that repeat. Parts that cannot be used (a joint or
    function class that is not known, references to names that do not exist, lengths, forces, masses or radii that
    cannot be) have a ``problem`` and are refused where they are used.
    """
    return _Reader(xml_root(path, "the model"), str(path)).model()


class _Reader:
    """Holds the document while it is read: the file's name for messages and the tables for references."""

    def __init__(self, root: Element, path: str):
        self.path = path
        model = root.find("Model") if root.tag == "OpenSimDocument" else None
        if model is None:
            raise InputError(f"{path}: not an OpenSim model: expected <OpenSimDocument> with a <Model> inside")
        if is_old(root.get("Version", "").strip(), model):
            update_old(root, model)
        elif has_connectors(model):
            update_connectors(model)
        self.xml = model
        units = xml_text_or(model, "length_units", "meters")
        if units.lower() not in ("meters", "metres", "meter", "metre", "m", "unassigned"):
            raise InputError(f"{path}: <length_units> is {units[:40]!r}; only meters can be read")
        self.frames: dict[str, Frame] = {}
        self.wraps: dict[str, Wrap] = {}
        self.skipped: list[Skipped] = []
        self.components = list(_components(model))
        self.defaults = {
            element.tag: element
            for section in (*root.findall("defaults"), *model.findall("defaults"))
            for element in section
        }

    def fail(self, message: str) -> InputError:
        return InputError(f"{self.path}: {message}")

    # -- elements and numbers

    def flag(self, element: Element, tag: str, default: bool) -> bool:
        return xml_text_or(element, tag, "true" if default else "false").lower() in ("true", "1")

    def numbers(
        self, element: Element, tag: str, what: str, count: int | None, default: tuple[float, ...] | None = None
    ) -> np.ndarray:
        if default is not None and not xml_text_or(element, tag, ""):
            return np.array(default, dtype=float)
        return np.array(xml_numbers(element, tag, f"{self.path}: {what}", count))

    def number(self, element: Element, tag: str, what: str, default: float) -> float:
        return float(self.numbers(element, tag, what, 1, (default,))[0])

    def parts(self, *tags: str) -> list[tuple[str, Element]]:
        """(Absolute path, element) of every component whose tag is one of these."""
        return [(path, element) for path, element in self.components if element.tag in tags]

    def attempt(self, build: Callable[[], T], failed: Callable[[str], T]) -> T:
        """What ``build`` gives, or ``failed(why not)``: one odd part does not refuse the model."""
        try:
            return build()
        except InputError as error:
            return failed(str(error))

    def named(self, element: Element) -> str:
        name = element.get("name", "").strip()
        if not name:
            raise self.fail(f"a <{element.tag}> has no name")
        return name

    # -- the model, in order of reference

    def model(self) -> OsimModel:
        body_parts = self.parts("Body")
        bodies = tuple(self.body(element) for _, element in body_parts)
        if not bodies:
            raise self.fail("the model has no bodies")
        self.require_distinct("body", [body.name for body in bodies])
        gravity = self.numbers(self.xml, "gravity", "the model", 3, (0, -9.80665, 0))
        if not np.linalg.norm(gravity) <= _STRONGEST_GRAVITY:
            raise self.fail(
                f"<gravity> is {' '.join(f'{g:g}' for g in gravity)} m/s^2; allowed are at most "
                f"{_STRONGEST_GRAVITY:g}: is the model in mm?"
            )
        self.collect_frames(body_parts)
        self.collect_wraps()
        joint_parts = self.joint_parts()
        self.coordinate_names = self.name_coordinates(joint_parts)
        joints = self.order(tuple(self.joint(path, element) for path, element in joint_parts), bodies)
        couplers = self.couplers(joints)
        coordinates = self.coordinates(joint_parts, joints, couplers)
        names = {coordinate.name for coordinate in coordinates}
        muscles = tuple(self.muscle(path, element, names) for path, element in self.components if _is_muscle(element))
        self.require_distinct("muscle", [muscle.name for muscle in muscles])
        self.list_skipped(joints)
        return OsimModel(
            name=self.xml.get("name", Path(self.path).stem),
            path=self.path,
            credits=xml_text_or(self.xml, "credits", ""),
            publications=xml_text_or(self.xml, "publications", ""),
            gravity=gravity,
            bodies=bodies,
            joints=joints,
            coordinates=coordinates,
            couplers=couplers,
            wraps=tuple(self.wraps.values()),
            muscles=muscles,
            skipped=tuple(self.skipped),
        )

    def require_distinct(self, what: str, names: Iterable[str]) -> None:
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise self.fail(f"two {what} objects are called {name!r}; names must differ")
            seen.add(name)

    def body(self, element: Element) -> Body:
        name = self.named(element)
        what = f"body {name!r}"

        def build() -> Body:
            mass = self.number(element, "mass", what, 0.0)
            center = self.numbers(element, "mass_center", what, 3, (0, 0, 0))
            xx, yy, zz, xy, xz, yz = self.numbers(element, "inertia", what, 6, (0, 0, 0, 0, 0, 0))
            body = Body(name, mass, center, np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]))
            if mass < 0.0:
                problem = f"mass of {what} is {mass:g} kg; it must not be negative"
            else:
                problem = _impossible_inertia(body)
            return dataclasses.replace(body, problem=f"{self.path}: {problem}") if problem else body

        return self.attempt(build, lambda problem: Body(name, 0.0, np.zeros(3), np.zeros((3, 3)), problem))

    # -- frames

    def collect_frames(self, bodies: Iterable[tuple[str, Element]]) -> None:
        """Fill ``frames``: every body and frame under its absolute path, resolved to its base body."""
        eye, zero = np.eye(3), np.zeros(3)
        self.frames["/ground"] = Frame("ground", eye, zero)
        self.frames.update({path: Frame(self.named(element), eye, zero) for path, element in bodies})
        self.stations = {path: element for path, element in self.components if element.find("location") is not None}
        self.pending = dict(self.parts("PhysicalOffsetFrame", "StationDefinedFrame"))
        self.odd_frames: dict[str, str] = {}
        while self.pending:
            before = len(self.pending)
            for path, element in list(self.pending.items()):
                build = self.offset_frame if element.tag == "PhysicalOffsetFrame" else self.station_frame
                try:
                    found = build(path, element)
                except InputError as error:
                    self.odd_frames[path] = str(error)
                    del self.pending[path]
                    continue
                if found is not None:
                    self.frames[path] = found
                    del self.pending[path]
            if len(self.pending) == before:
                break
        for path, element in self.pending.items():
            self.odd_frames[path] = (
                f"{self.path}: frame {path!r} refers to {self.references(element)}, which is not a body or frame of "
                "the model"
            )

    def references(self, element: Element) -> str:
        sockets = [child for child in element if child.tag.startswith("socket_")]
        return listed((child.text or "").strip() for child in sockets)

    def offset_frame(self, path: str, element: Element) -> Frame | None:
        base = self.find_frame(xml_text_or(element, "socket_parent", ""), path)
        if base is None:
            return None
        rotation = body_fixed_xyz(self.numbers(element, "orientation", f"frame {path!r}", 3, (0, 0, 0)))
        return _compose(base, rotation, self.numbers(element, "translation", f"frame {path!r}", 3, (0, 0, 0)))

    def station_frame(self, path: str, element: Element) -> Frame | None:
        """A StationDefinedFrame: one axis from point a to b, one normal to the plane of a, b and c.

        Simulation/Model/StationDefinedFrame.cpp.
        """
        what = f"frame {path!r}"
        points = []
        for socket in ("point_a", "point_b", "point_c", "origin_point"):
            reference = xml_text_or(element, f"socket_{socket}", "")
            found = next((p for p in _candidates(reference, path) if p in self.stations), None)
            if found is None:
                raise self.fail(f"<socket_{socket}> of {what} is {reference!r}, which is no station of the model")
            station = self.stations[found]
            base = self.find_frame(xml_text_or(station, "socket_parent_frame", ".."), found)
            if base is None:
                return None
            location = self.numbers(station, "location", f"station {found!r}", 3, (0, 0, 0))
            points.append((base.body, base.rotation @ location + base.translation))
        bodies = {body for body, _ in points}
        if len(bodies) != 1:
            raise self.fail(f"{what} is defined by stations of {listed(sorted(bodies))}; they must be of one body")
        a, b, c, origin = (point for _, point in points)
        along, normal = b - a, np.cross(b - a, c - a)
        if min(np.linalg.norm(along), np.linalg.norm(normal)) < 1e-12:
            raise self.fail(f"the stations of {what} lie on one line; they must span a plane")
        axes = {}
        for tag, vector, default in (("ab_axis", along, "+x"), ("ab_x_ac_axis", normal, "+y")):
            text = xml_text_or(element, tag, default).lower()
            if text.lstrip("+-") not in ("x", "y", "z"):
                raise self.fail(f"<{tag}> of {what} is {text!r}; allowed are +x, -x, +y, -y, +z and -z")
            sign = -1.0 if text.startswith("-") else 1.0
            axes["xyz".index(text[-1])] = sign * vector / np.linalg.norm(vector)
        if len(axes) != 2:
            raise self.fail(f"<ab_axis> and <ab_x_ac_axis> of {what} are the same axis; they must differ")
        third = ({0, 1, 2} - set(axes)).pop()
        axes[third] = np.cross(axes[(third + 1) % 3], axes[(third + 2) % 3])
        return Frame(points[0][0], np.stack([axes[k] for k in range(3)], axis=1), origin)

    def find_frame(self, reference: str, owner: str) -> Frame | None:
        """The frame at ``reference`` as written inside the component at ``owner``; None when there is none (yet)."""
        for candidate in _candidates(reference, owner):
            if candidate in self.frames:
                return self.frames[candidate]
            if candidate in self.odd_frames:
                raise InputError(self.odd_frames[candidate])
            if candidate in self.pending:  # defined, but not resolved yet
                return None
        return None

    def frame(self, element: Element, tag: str, owner: str, what: str) -> Frame:
        reference = xml_text_or(element, tag, "")
        found = self.find_frame(reference, owner)
        if found is None:
            bodies = [key.rsplit("/", 1)[-1] for key in self.frames]
            raise self.fail(
                f"<{tag}> of {what} is {reference!r}, which is not a body or frame of the model; "
                f"{near(reference.rsplit('/', 1)[-1], bodies)}"
            )
        return found

    # -- joints and coordinates

    def joint_parts(self) -> list[tuple[str, Element]]:
        """Joints, with the FreeJoints that OpenSim adds for bodies that no joint connects."""
        found = [
            (path, element)
            for path, element in self.components
            if element.tag.endswith("Joint") and element.find("socket_parent_frame") is not None
        ]
        children: set[str] = set()
        for path, element in found:
            children.add(self.nearest_frame(element, "socket_child_frame", path).body)
        for path, body in self.parts("Body"):
            name = self.named(body)
            if name not in children:
                joint = Element("FreeJoint", {"name": f"free_{name}"})
                for side, frame in (("parent", "/ground"), ("child", path)):
                    SubElement(joint, f"socket_{side}_frame").text = frame
                held = SubElement(joint, "coordinates")
                for i in range(6):
                    SubElement(held, "Coordinate", {"name": f"free_{name}_coord_{i}"})
                found.append((f"/jointset/free_{name}", joint))
        self.require_distinct("joint", [self.named(element) for _, element in found])
        return found

    def name_coordinates(self, joints: Iterable[tuple[str, Element]]) -> dict[str, tuple[str, ...]]:
        """Names of each joint's coordinates; OpenSim's own where the file leaves them out.

        Those are ``_coord_0`` and so on for every joint (Joint::constructCoordinate), so that the joint's name is put
        before where they would repeat.
        """
        found: dict[str, tuple[str, ...]] = {}
        left: list[tuple[str, int]] = []
        for _, element in joints:
            joint = self.named(element)
            count = len(_SIMPLE_JOINTS.get(element.tag, ()))
            held = element.findall("coordinates/Coordinate")
            names = [c.get("name", "").strip() for c in held] or [""] * count
            left += [(joint, i) for i, name in enumerate(names) if not name]
            found[joint] = tuple(names)
        labels = [f"_coord_{i}" for _, i in left]
        for joint, i in left:
            label = f"_coord_{i}"
            label = label if labels.count(label) == 1 else joint + label
            found[joint] = (*found[joint][:i], label, *found[joint][i + 1 :])
        self.require_distinct("coordinate", [name for names in found.values() for name in names])
        return found

    def joint(self, path: str, element: Element) -> Joint:
        name = self.named(element)
        what = f"joint {name!r}"
        coordinates = self.coordinate_names[name]

        def build() -> Joint:
            for label, held in zip(coordinates, element.findall("coordinates/Coordinate"), strict=False):
                self.coordinate_numbers(label, held)
            return Joint(
                name=name,
                class_name=element.tag,
                parent=self.frame(element, "socket_parent_frame", path, what),
                child=self.frame(element, "socket_child_frame", path, what),
                coordinates=coordinates,
                axes=self.axes(element, what, coordinates),
            )

        def failed(problem: str) -> Joint:
            parent, child = (self.nearest_frame(element, f"socket_{s}_frame", path) for s in ("parent", "child"))
            still = tuple(TransformAxis(np.eye(3)[k % 3], (), ZERO) for k in range(6))
            return Joint(name, element.tag, parent, child, coordinates, still, problem)

        return self.attempt(build, failed)

    def nearest_frame(self, element: Element, tag: str, owner: str) -> Frame:
        """The frame of an odd joint, or that of its body, so that what hangs on the joint is known."""
        reference = xml_text_or(element, tag, "")
        parts = dict(self.parts("PhysicalOffsetFrame", "StationDefinedFrame"))
        for _ in range(len(parts) + 1):  # from an odd frame to its parent's
            found = self.attempt(lambda r=reference, o=owner: self.find_frame(r, o), lambda _: None)
            if found is not None:
                return found
            path = next((p for p in _candidates(reference, owner) if p in parts), "")
            above = path.rsplit("/", 1)[0]
            if not path or above in self.frames:
                return self.frames.get(above, Frame(reference.rsplit("/", 1)[-1], np.eye(3), np.zeros(3)))
            reference, owner = xml_text_or(parts[path], "socket_parent", ""), path
        return Frame(reference.rsplit("/", 1)[-1], np.eye(3), np.zeros(3))

    def axes(self, element: Element, what: str, coordinates: tuple[str, ...]) -> tuple[TransformAxis, ...]:
        if self.flag(element, "reverse", False):
            raise self.fail(f"{what} is reversed (<reverse>true), which is not supported; swap its parent and child")
        if element.tag == "CustomJoint":
            return self.spatial_transform(element, what, coordinates)
        if element.tag not in _SIMPLE_JOINTS:
            raise self.fail(
                f"{what} is a {element.tag}, which is not supported; supported are CustomJoint, "
                f"{', '.join(_SIMPLE_JOINTS)}"
            )
        slots = _SIMPLE_JOINTS[element.tag]
        if len(coordinates) != len(slots):
            raise self.fail(f"{element.tag} {what} has {len(coordinates)} coordinates; expected {len(slots)}")
        return tuple(
            TransformAxis(np.eye(3)[slot % 3], (coordinates[slots.index(slot)],), IDENTITY)
            if slot in slots
            else TransformAxis(np.eye(3)[slot % 3], (), ZERO)
            for slot in range(6)
        )

    def spatial_transform(self, element: Element, what: str, names: tuple[str, ...]) -> tuple[TransformAxis, ...]:
        found = element.findall("SpatialTransform/TransformAxis")
        if len(found) != 6:
            raise self.fail(
                f"SpatialTransform of {what} has {len(found)} axes; expected 3 rotations, 3 translations. If the file "
                "is older than OpenSim 2, open it in OpenSim 4 and save it again"
            )
        axes = []
        for index, item in enumerate(found):
            label = f"axis {item.get('name', index + 1)!r} of {what}"
            used = tuple(xml_text_or(item, "coordinates", "").split())
            for name in used:
                if name not in names:
                    raise self.fail(
                        f"{label} uses coordinate {name!r}, which the joint does not have ({listed(names)})"
                    )
            axis = self.numbers(item, "axis", label, 3)
            norm = float(np.linalg.norm(axis))
            if norm == 0.0:
                raise self.fail(f"<axis> of {label} is zero; a direction is needed")
            elements = [child for child in item if child.tag not in ("coordinates", "axis")]
            nested = [child for wrapper in elements if wrapper.tag == "function" for child in wrapper]
            functions = nested or [child for child in elements if child.tag != "function"]
            if functions:
                function = self.function(functions[0], label, len(used))
            elif used:
                raise self.fail(f"{label} uses {listed(used)} but has no function")
            else:
                function = ZERO
            axes.append(TransformAxis(axis / norm, used, function))
        for part in (axes[:3], axes[3:]):
            if abs(np.linalg.det(np.array([axis.axis for axis in part]))) < 1e-6:
                raise self.fail(f"the three axes of {what} lie in one plane; they must be independent")
        return tuple(axes)

    def order(self, joints: tuple[Joint, ...], bodies: tuple[Body, ...]) -> tuple[Joint, ...]:
        """Joints sorted so that a parent body is placed before its children; a joint that closes a loop is skipped."""
        names = {body.name for body in bodies}
        by_child: dict[str, Joint] = {}
        for joint in joints:
            if joint.child.body in by_child or joint.child.body not in names:
                touched = (joint.parent.body, joint.child.body)
                self.skipped.append(Skipped("loop", joint.class_name, joint.name, touched, joint.coordinates))
            else:
                by_child[joint.child.body] = joint
        placed, ordered, waiting = {"ground"}, [], list(by_child.values())
        while waiting:
            ready = [joint for joint in waiting if joint.parent.body in placed]
            if not ready:
                raise self.fail(
                    f"joint {waiting[0].name!r} hangs on no body that is connected to the ground; connect it (a "
                    "FreeJoint to ground, for instance)"
                )
            ordered += ready
            placed |= {joint.child.body for joint in ready}
            waiting = [joint for joint in waiting if joint not in ready]
        return tuple(ordered)

    def coordinates(
        self, parts: Iterable[tuple[str, Element]], joints: tuple[Joint, ...], couplers: tuple[Coupler, ...]
    ) -> tuple[Coordinate, ...]:
        by_name = {joint.name: joint for joint in joints}
        coupled = {coupler.dependent: coupler.independent[0] for coupler in couplers}
        found = []
        for _, part in parts:
            joint = by_name.get(self.named(part))
            if joint is None:  # it closes a loop
                continue
            held = part.findall("coordinates/Coordinate")
            for i, name in enumerate(joint.coordinates):
                element = held[i] if i < len(held) else Element("Coordinate")
                found.append(self.coordinate(name, element, joint, coupled.get(name)))
        return tuple(found)

    def coordinate(self, name: str, element: Element, joint: Joint, coupled_to: str | None) -> Coordinate:
        # What is wrong with its numbers is said by the joint that has it.
        low, high, default = self.attempt(lambda: self.coordinate_numbers(name, element), lambda _: (-10.0, 10.0, 0.0))
        return Coordinate(
            name=name,
            joint=joint.name,
            motion=_motion(name, joint),
            range=(low, high),
            default=default,
            locked=self.flag(element, "locked", False),
            coupled_to=coupled_to,
        )

    def coordinate_numbers(self, name: str, element: Element) -> tuple[float, float, float]:
        """Range and default; a range that falls is left for whoever needs one to refuse."""
        what = f"coordinate {name!r}"
        # SimbodyEngine/Coordinate.cpp: the default range, which also stands for one without end.
        try:
            low, high = (float(word) for word in xml_text_or(element, "range", "-10 10").split())
        except ValueError:
            low, high = self.numbers(element, "range", what, 2)
        low, high = (v if math.isfinite(v) else end for v, end in ((low, -10.0), (high, 10.0)))
        return float(low), float(high), self.number(element, "default_value", what, 0.0)

    def couplers(self, joints: tuple[Joint, ...]) -> tuple[Coupler, ...]:
        """Enforced couplings; one whose coordinates are not known is listed as skipped."""
        names = {name for joint in joints for name in joint.coordinates}
        found: dict[str, Coupler] = {}
        for _, element in self.parts("CoordinateCouplerConstraint"):
            if not self.flag(element, "isEnforced", True):
                continue
            coupler = self.coupler(element)
            used = (coupler.dependent, *coupler.independent)
            strange = [name for name in used if name not in names]
            if strange:
                reason = f"it refers to coordinate {strange[0]!r}; {near(strange[0], names)}"
            elif not coupler.independent or coupler.dependent in coupler.independent:
                reason = "it makes a coordinate depend on nothing but itself"
            elif coupler.dependent in found:
                reason = f"{coupler.dependent!r} follows constraint {found[coupler.dependent].name!r} already"
            else:
                found[coupler.dependent] = coupler
                continue
            known = tuple(name for name in used if name in names)
            self.skipped.append(Skipped("constraint", element.tag, coupler.name, (), known, reason))
        return tuple(found.values())

    def coupler(self, element: Element) -> Coupler:
        name = element.get("name", "")
        what = f"constraint {name!r}"
        independent = tuple(
            word.rsplit("/", 1)[-1] for word in xml_text_or(element, "independent_coordinate_names", "").split()
        )
        dependent = xml_text_or(element, "dependent_coordinate_name", "").rsplit("/", 1)[-1]

        def build() -> Function:
            functions = [child for wrapper in element.findall("coupled_coordinates_function") for child in wrapper]
            if not functions:
                raise self.fail(f"{what} has no function")
            function = self.function(functions[0], what, len(independent))
            scale = self.number(element, "scale_factor", what, 1.0)
            return function if scale == 1.0 else Scaled(scale, function)

        return Coupler(name, dependent, independent, self.attempt(build, Unknown))

    def function(self, element: Element, what: str, arguments: int) -> Function:
        """An OpenSim Function of ``arguments`` variables."""
        kind = element.tag
        if kind == "Constant":
            return Linear((self.number(element, "value", what, 0.0),))
        if kind == "MultiplierFunction":
            inner = [child for wrapper in element.findall("function") for child in wrapper]
            if not inner:
                raise self.fail(f"MultiplierFunction of {what} has no function inside")
            return Scaled(self.number(element, "scale", what, 1.0), self.function(inner[0], what, arguments))
        if kind == "LinearFunction":
            values = self.numbers(element, "coefficients", what, max(arguments, 1) + 1)
            return Linear(tuple(values.tolist())) if arguments else Linear((float(values[-1]),))
        if kind == "MultivariatePolynomialFunction":
            return self.multivariate(element, what, arguments)
        if arguments != 1:
            raise self.fail(
                f"{kind} of {what} has {arguments} variables; only LinearFunction and MultivariatePolynomialFunction "
                "may have other than one"
            )
        if kind == "PolynomialFunction":
            return Polynomial(tuple(self.numbers(element, "coefficients", what, None).tolist()))
        if kind in ("SimmSpline", "NaturalCubicSpline", "PiecewiseLinearFunction"):
            x, y = (self.numbers(element, tag, what, None) for tag in ("x", "y"))
            if x.size != y.size or x.size < 2:
                raise self.fail(
                    f"{kind} of {what} has {x.size} x and {y.size} y values; it needs as many of each, at least 2"
                )
            if np.any(np.diff(x) <= 0.0):
                at = int(np.argmax(np.diff(x) <= 0.0))
                raise self.fail(f"x of the {kind} of {what} does not rise: {x[at]} is followed by {x[at + 1]}")
            knots = tuple(x.tolist()), tuple(y.tolist())
            return PiecewiseLinear(*knots) if kind == "PiecewiseLinearFunction" else SimmSpline(*knots)
        raise self.fail(
            f"{what} uses a {kind}, which is not supported; supported are Constant, LinearFunction, "
            "PolynomialFunction, MultivariatePolynomialFunction, SimmSpline, NaturalCubicSpline, "
            "PiecewiseLinearFunction, MultiplierFunction"
        )

    def multivariate(self, element: Element, what: str, arguments: int) -> Multivariate:
        where = f"{self.path}: MultivariatePolynomialFunction of {what}"
        coefficients = self.numbers(element, "coefficients", f"MultivariatePolynomialFunction of {what}", None)
        dimension, order = (xml_integer(element, tag, where) for tag in ("dimension", "order"))
        if dimension != arguments:
            raise InputError(f"{where} has dimension {dimension}, but it is of {arguments} coordinates")
        count = math.comb(dimension + order, order) if 0 <= order <= 20 and dimension <= 10 else 0
        if len(coefficients) != count:
            raise InputError(
                f"{where} has {len(coefficients)} coefficients; dimension {dimension} and order {order} need {count}"
            )
        return Multivariate(tuple(coefficients.tolist()), monomial_order(dimension, order))

    # -- wraps, muscles

    def collect_wraps(self) -> None:
        """Fill ``wraps``; of two with one name the first counts, as PathWrap::connectToModelAndPath finds it."""
        for path, element in self.components:
            if not (element.tag.startswith("Wrap") or "/wrapobjectset/" in path):
                continue
            owner = path.rsplit("/", 1)[0].removesuffix("/wrapobjectset")
            name = self.named(element)

            def build(element: Element = element, path: str = path, owner: str = owner) -> Wrap:
                frame = self.find_frame(owner, path)
                if frame is None:
                    raise self.fail(f"wrap object {element.get('name')!r} is in no body or frame of the model")
                return self.wrap(element, frame)

            wrap = self.attempt(build, lambda problem, name=name, tag=element.tag: _odd_wrap(name, tag, problem))
            self.wraps.setdefault(name, wrap)

    def wrap(self, element: Element, frame: Frame) -> Wrap:
        name = self.named(element)
        what = f"wrap object {name!r}"
        kind = element.tag.removeprefix("Wrap").lower()
        quadrant = xml_text_or(element, "quadrant", "all").lower().lstrip("+")
        if quadrant not in ("all", "x", "-x", "y", "-y", "z", "-z"):
            raise self.fail(f"<quadrant> of {what} is {quadrant!r}; allowed are all, x, -x, y, -y, z, -z")
        local = _compose(
            frame,
            body_fixed_xyz(self.numbers(element, "xyz_body_rotation", what, 3, (0, 0, 0))),
            self.numbers(element, "translation", what, 3, (0, 0, 0)),
        )
        radius = length = 0.0
        dimensions: tuple[float, ...] = ()
        if kind == "cylinder":
            radius, length = (self.number(element, tag, what, 1.0) for tag in ("radius", "length"))
            dimensions = (radius, length)
        elif kind == "ellipsoid":
            dimensions = tuple(self.numbers(element, "dimensions", what, 3, (1, 1, 1)).tolist())
        elif kind == "sphere":
            dimensions = (self.number(element, "radius", what, 1.0),)
        elif kind == "torus":
            dimensions = tuple(self.number(element, tag, what, 1.0) for tag in ("inner_radius", "outer_radius"))
        if dimensions and min(dimensions) <= 0.0:
            raise self.fail(f"{what} has a dimension of {min(dimensions)} m; all must be above 0")
        return Wrap(
            name=name,
            kind=kind,
            body=local.body,
            rotation=local.rotation,
            translation=local.translation,
            quadrant=quadrant,
            active=self.flag(element, "active", True),
            radius=radius,
            length=length,
            dimensions=dimensions,
        )

    def muscle(self, owner: str, element: Element, coordinates: set[str]) -> Muscle:
        name = self.named(element)
        path = element.find("GeometryPath")
        path = path if path is not None else element.find("path/GeometryPath")
        problem = path_problem = ""
        values = {}
        for kind, tag in _PROPERTIES.items():
            try:
                values[kind] = self.property(element, tag, name)
            except InputError as error:
                values[kind], problem = math.nan, problem or str(error)
        if not values["max_contraction_velocity"] > 0.0:
            values["max_contraction_velocity"] = self.speed(element, name, values["max_contraction_velocity"])
        for kind, value in values.items():
            low, high = MUSCLE_LIMITS[kind]
            if kind == "tendon_slack_length" and value == 0.0:  # a muscle without tendon
                continue
            if not low <= value <= high and not problem:
                problem = (
                    f"{self.path}: {_PROPERTIES[kind]} of muscle {name!r} ({element.tag}) is {value:g}; allowed "
                    f"{low:g} to {high:g}"
                )
        if element.tag not in _KNOWN_MUSCLES and not problem:
            template = self.defaults.get(element.tag)
            for tag in ("max_isometric_force", "optimal_fiber_length", "tendon_slack_length"):
                if element.find(tag) is None and (template is None or template.find(tag) is None):
                    problem = (
                        f"{self.path}: muscle {name!r} is a {element.tag}, which is not known here, and the file does "
                        f"not give its {tag}"
                    )
        points: tuple[PathPoint, ...] = ()
        wraps: tuple[PathWrap, ...] = ()
        path_class = "GeometryPath"
        if path is None:
            others = [child.tag for child in element.iter() if child.tag.endswith("Path")]
            path_class = others[0] if others else "none"
        else:
            try:
                points, wraps = self.geometry_path(owner, path, name, coordinates)
            except InputError as error:
                path_problem = str(error)
        return Muscle(
            name=name,
            class_name=element.tag,
            **values,
            points=points,
            wraps=wraps,
            path_class=path_class,
            problem=problem,
            path_problem=path_problem,
        )

    def property(self, element: Element, tag: str, muscle: str) -> float:
        """A number of a muscle: its own, else that of the ``<defaults>`` of its class, else OpenSim's."""
        value = _DEFAULTS[tag]
        template = self.defaults.get(element.tag)
        if template is not None:
            value = self.number(template, tag, f"<defaults> of {element.tag}", value)
        return self.number(element, tag, f"muscle {muscle!r}", value)

    def speed(self, element: Element, muscle: str, given: float) -> float:
        """Optimal lengths per second of a class that has it in another property, else as given."""
        for tag, speed in _SPEEDS.items():
            for holder in (element, self.defaults.get(element.tag)):
                if holder is not None and holder.find(tag) is not None:
                    value = self.number(holder, tag, f"muscle {muscle!r}", 0.0)
                    if value > 0.0:
                        return speed(value)
        return given

    def geometry_path(
        self, owner: str, path: Element, muscle: str, coordinates: set[str]
    ) -> tuple[tuple[PathPoint, ...], tuple[PathWrap, ...]]:
        points = tuple(
            self.point(item, owner, muscle, coordinates)
            for items in path.findall("PathPointSet/objects")
            for item in items
        )
        if len(points) < 2:
            raise self.fail(f"the path of muscle {muscle!r} has {len(points)} points; it needs at least 2")
        uses = [item for items in path.findall("PathWrapSet/objects") for item in items]
        return points, tuple(self.path_wrap(item, muscle, len(points)) for item in uses)

    def point(self, element: Element, owner: str, muscle: str, coordinates: set[str]) -> PathPoint:
        name = element.get("name", "")
        what = f"path point {name!r} of muscle {muscle!r}"
        frame = self.frame(element, "socket_parent_frame", owner, what)
        if element.tag == "MovingPathPoint":
            names, functions = [], []
            for axis in "xyz":
                names.append(self.socket_coordinate(element, f"socket_{axis}_coordinate", what, coordinates))
                inner = [child for wrapper in element.findall(f"{axis}_location") for child in wrapper]
                if not inner:
                    raise self.fail(f"{what} has no {axis}_location function")
                functions.append(self.function(inner[0], what, 1 if inner[0].tag != "Constant" else 0))
            return PathPoint(name, frame.body, np.zeros(3), "moving", tuple(names), None, tuple(functions), frame)
        location = frame.rotation @ self.numbers(element, "location", what, 3, (0, 0, 0)) + frame.translation
        if element.tag == "ConditionalPathPoint":
            coordinate = self.socket_coordinate(element, "socket_coordinate", what, coordinates)
            low, high = self.numbers(element, "range", what, 2)
            if low > high:
                raise self.fail(f"<range> of {what} is {low} {high}; the first number must be the smaller")
            return PathPoint(name, frame.body, location, "conditional", (coordinate,), (float(low), float(high)))
        if element.tag != "PathPoint":
            raise self.fail(f"{what} is a {element.tag}; known are PathPoint, ConditionalPathPoint, MovingPathPoint")
        return PathPoint(name, frame.body, location, "fixed")

    def socket_coordinate(self, element: Element, tag: str, what: str, coordinates: set[str]) -> str:
        name = xml_text_or(element, tag, "").rsplit("/", 1)[-1]
        if name not in coordinates:
            raise self.fail(f"<{tag}> of {what} is {name!r}; {near(name, coordinates)}")
        return name

    def path_wrap(self, element: Element, muscle: str, count: int) -> PathWrap:
        name = xml_text_or(element, "wrap_object", "").rsplit("/", 1)[-1]
        what = f"path wrap {name!r} of muscle {muscle!r}"
        if name not in self.wraps:
            raise self.fail(f"muscle {muscle!r} wraps over {name!r}, which does not exist; {near(name, self.wraps)}")
        start, end = self.numbers(element, "range", what, 2, (-1, -1))
        # Wrap/PathWrap: indices from 1; anything below 1 means the first or the last point.
        first = 0 if start < 1 else int(start) - 1
        last = count - 1 if end < 1 else int(end) - 1
        if not 0 <= first < last < count:
            raise self.fail(f"<range> of {what} is {start:g} {end:g}; the path has points 1 to {count}")
        return PathWrap(self.wraps[name], first, last, xml_text_or(element, "method", "hybrid"))

    # -- what is left out

    def list_skipped(self, joints: tuple[Joint, ...]) -> None:
        """Constraints, forces and actuators that are not modelled, with the bodies and coordinates they name."""
        coordinates = {name for joint in joints for name in joint.coordinates}
        bodies: dict[str, str] = {}  # what a part may name: a frame, a body, or a contact geometry -> its body
        for path, frame in self.frames.items():
            bodies[path] = bodies[path.rsplit("/", 1)[-1]] = frame.body
        for path, element in self.components:
            if "/contactgeometryset/" in path or element.tag.startswith("Contact"):
                held = [xml_text_or(element, tag, "") for tag in ("socket_frame", "body_name")]
                found = next(
                    (bodies[key] for text in held for key in (text, text.rsplit("/", 1)[-1]) if key in bodies), ""
                )
                bodies[path] = bodies[path.rsplit("/", 1)[-1]] = found
        for path, element in self.components:
            if element.tag == "CoordinateCouplerConstraint" or (_is_muscle(element) and element.tag in _KNOWN_MUSCLES):
                continue
            member = path.rsplit("/", 2)[-2] if path.count("/") > 1 else ""
            if _is_muscle(element):
                kind = "muscle class"
                acts = self.flag(element, "appliesForce", True)
            elif element.tag.endswith("Constraint") or member == "constraintset":
                kind = "constraint"
                acts = self.flag(element, "isEnforced", True)
            elif member == "forceset" or (member != "objects" and element.tag.endswith(_FORCES)):
                kind = "actuator" if any(word in element.tag for word in _ACTUATORS) else "force"
                acts = self.flag(element, "appliesForce", True) and not self.flag(element, "isDisabled", False)
            else:
                continue
            if not acts:
                continue
            words = {word for part in element.iter() for word in (part.text or "").split()}
            ends = {word.rsplit("/", 1)[-1] for word in words}
            touched = sorted({bodies[word] for word in words | ends if word in bodies} - {"ground", ""})
            name = element.get("name", "").strip()
            self.skipped.append(Skipped(kind, element.tag, name, tuple(touched), tuple(sorted(ends & coordinates))))


# ---------------------------------------------------------------------------------------------- small helpers


def _components(model: Element) -> Iterator[tuple[str, Element]]:
    """(Absolute path, element) of everything that OpenSim takes for a component, wherever it stands.

    Members of a set are at owner/setname/name, those of ``<components>`` and of a joint's ``<frames>`` at owner/name.
    """
    waiting: list[tuple[str, Element]] = [("", model)]
    while waiting:
        owner, element = waiting.pop()
        found: list[tuple[str, Element]] = []
        for child in element:
            if child.tag == "Ground":
                found.append(("/ground", child))
            elif child.tag in ("frames", "components"):
                found += [(f"{owner}/{part.get('name', '').strip()}", part) for part in child]
            elif child.tag.endswith("Set"):
                base = f"{owner}/{child.tag.lower()}"
                parts = [part for objects in child.findall("objects") for part in objects]
                found += [(f"{base}/{part.get('name', '').strip()}", part) for part in parts]
        yield from found
        waiting += reversed(found)


def _is_muscle(element: Element) -> bool:
    """A muscle by its class, or one of a plug-in by what it has."""
    if element.tag.endswith(_MUSCLES):
        return True
    return all(element.find(tag) is not None for tag in ("optimal_fiber_length", "max_isometric_force"))


def _impossible_inertia(body: Body) -> str:
    """Why no body has this inertia; empty when one may.

    A moment above the sum of the others is impossible too, but common: models that move in a plane leave the other
    moments small, and OpenSim takes them.
    """
    low, _, high = (float(v) for v in np.linalg.eigvalsh(body.inertia))
    text = f"inertia of body {body.name!r} has principal moments from {low:.4g} to {high:.4g} kg m^2"
    if low < -1e-9 * abs(high):
        return f"{text}; none may be negative"
    if high > _LARGEST_INERTIA:
        return f"{text}; allowed are at most {_LARGEST_INERTIA:g}: is it in kg mm^2?"
    return ""


def _odd_wrap(name: str, tag: str, problem: str) -> Wrap:
    kind = tag.removeprefix("Wrap").lower()
    return Wrap(name, kind, "ground", np.eye(3), np.zeros(3), "all", True, problem=problem)


def _compose(base: Frame, rotation: np.ndarray, translation: np.ndarray) -> Frame:
    return Frame(base.body, base.rotation @ rotation, base.rotation @ translation + base.translation)


def _candidates(reference: str, owner: str) -> list[str]:
    """Absolute paths that ``reference`` may mean: as written, then from the owner upwards, then a body's name."""
    if reference.startswith("/"):
        return [reference]
    parts = [part for part in owner.split("/") if part]
    words = [word for word in reference.split("/") if word]
    while words and words[0] == "..":
        words = words[1:]
        parts = parts[:-1]
    if not words:
        return ["/" + "/".join(parts)]
    tail = "/".join(words)
    above = ["/" + "/".join([*parts[:depth], tail]) for depth in range(len(parts), -1, -1)]
    return [*above, f"/bodyset/{tail}", f"/componentset/{tail}"]


def _motion(name: str, joint: Joint) -> str:
    """How OpenSim classes a coordinate: by the axis that it drives one to one.

    SimbodyEngine/CustomJoint.cpp: a knee angle that also feeds translation splines is rotational; a coordinate that
    only enters non-linear functions is coupled. The left hip's angles, with a slope of -1, are rotational too.
    """

    def one_to_one(axis: TransformAxis) -> bool:
        linear = axis.function if isinstance(axis.function, Linear) else None
        return axis.coordinates == (name,) and linear is not None and abs(linear.coefficients[0]) == 1.0

    direct = [one_to_one(axis) for axis in joint.axes]
    if any(direct[:3]):
        return "rotational"
    return "translational" if any(direct[3:]) else "coupled"
