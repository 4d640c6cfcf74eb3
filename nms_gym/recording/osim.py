"""Read an OpenSim 4 model: bodies, joints, coordinates, couplings, muscles and their paths.

Only what geometry and muscle dynamics need is kept; contact, controllers, markers and display are skipped.
Defaults of properties that a file leaves out are OpenSim's (the constructors named beside ``_DEFAULTS``), and a
``<defaults>`` section is honoured before them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from nms_gym.anatomy import (
    IDENTITY,
    ZERO,
    Body,
    Coordinate,
    Coupler,
    Frame,
    Function,
    Joint,
    Linear,
    Muscle,
    OsimModel,
    PathPoint,
    PathWrap,
    PiecewiseLinear,
    Polynomial,
    Scaled,
    SimmSpline,
    TransformAxis,
    Wrap,
    body_fixed_xyz,
)
from nms_gym.errors import InputError, listed, near
from nms_gym.recording.xml import xml_numbers, xml_root, xml_text_or

# ---------------------------------------------------------------------------------------------- the reader

# Model/Muscle.cpp, Muscle::constructProperties.
_DEFAULTS: Mapping[str, float] = {
    "max_isometric_force": 1000.0,
    "optimal_fiber_length": 0.1,
    "tendon_slack_length": 0.2,
    "pennation_angle_at_optimal": 0.0,
    "max_contraction_velocity": 10.0,
}
_OLD_LAYOUT = "open it in OpenSim 4 and save it again, then read the new file"
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
    """Read an ``.osim`` file of OpenSim 4.

    Raises InputError, naming file, object and value, for a missing or damaged file, a layout older than 4, a
    joint or function class that is not supported, references to names that do not exist, and numbers that cannot be
    (lengths, forces, masses, radii).
    """
    return _Reader(xml_root(path, "the model"), str(path)).model()


class _Reader:
    """Holds the document while it is read: the file's name for messages and the tables for references."""

    def __init__(self, root: Element, path: str):
        self.path = path
        model = root.find("Model") if root.tag == "OpenSimDocument" else None
        if model is None:
            raise InputError(f"{path}: not an OpenSim model: expected <OpenSimDocument> with a <Model> inside")
        version = root.get("Version", "")
        old_layout = model.find(".//Body/Joint") is not None or model.find("BodySet/objects/Body/joint") is not None
        if not version.isdigit() or int(version) < 30500 or old_layout:
            raise InputError(
                f"{path}: OpenSim file version {version or 'missing'!r} has the layout of OpenSim 3 or "
                f"older; {_OLD_LAYOUT}"
            )
        if any("connector_" in element.tag or element.tag == "connectors" for element in model.iter()):
            raise InputError(
                f"{path}: OpenSim file version {version} is a pre-release layout (connectors instead "
                f"of sockets); {_OLD_LAYOUT}"
            )
        self.xml = model
        units = xml_text_or(model, "length_units", "meters")
        if units not in ("meters", "m"):
            raise InputError(f"{path}: <length_units> is {units!r}; only meters can be read")
        self.frames: dict[str, Frame] = {}
        self.wraps: dict[str, Wrap] = {}
        self.skipped: list[str] = []
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

    def objects(self, tag: str) -> list[Element]:
        return [element for group in self.xml.findall(f"{tag}/objects") for element in group]

    def named(self, element: Element) -> str:
        name = element.get("name", "").strip()
        if not name:
            raise self.fail(f"a <{element.tag}> has no name")
        return name

    # -- the model, in order of reference

    def model(self) -> OsimModel:
        body_elements = {self.named(element): element for element in self.objects("BodySet")}
        bodies = tuple(self.body(element) for element in body_elements.values())
        if not bodies:
            raise self.fail("the model has no bodies")
        self.collect_frames(body_elements)
        self.collect_wraps()
        joints = self.order(tuple(self.joint(element) for element in self.objects("JointSet")), bodies)
        couplers = tuple(
            self.coupler(element)
            for element in self.objects("ConstraintSet")
            if element.tag == "CoordinateCouplerConstraint" and self.flag(element, "isEnforced", True)
        )
        for element in self.objects("ConstraintSet"):
            if element.tag != "CoordinateCouplerConstraint" and self.flag(element, "isEnforced", True):
                self.skipped.append(f"{element.tag} {element.get('name', '')}".strip())
        coordinates = self.coordinates(joints, couplers)
        names = {coordinate.name for coordinate in coordinates}
        for coupler in couplers:
            for name in (coupler.dependent, *coupler.independent):
                if name not in names:
                    raise self.fail(f"constraint {coupler.name!r} refers to coordinate {name!r}; {near(name, names)}")
        muscles = tuple(
            self.muscle(element, names)
            for element in self.objects("ForceSet")
            if element.tag.endswith(("Muscle", "Muscle_Deprecated"))
        )
        for what, parts in (("body", bodies), ("muscle", muscles), ("coordinate", coordinates)):
            seen: set[str] = set()
            for part in parts:
                if part.name in seen:
                    raise self.fail(f"two {what} objects are called {part.name!r}; names must differ")
                seen.add(part.name)
        return OsimModel(
            name=self.xml.get("name", Path(self.path).stem),
            path=self.path,
            credits=xml_text_or(self.xml, "credits", ""),
            publications=xml_text_or(self.xml, "publications", ""),
            gravity=self.numbers(self.xml, "gravity", "the model", 3, (0, -9.80665, 0)),
            bodies=bodies,
            joints=joints,
            coordinates=coordinates,
            couplers=couplers,
            wraps=tuple(self.wraps.values()),
            muscles=muscles,
            skipped=tuple(self.skipped),
        )

    def body(self, element: Element) -> Body:
        name = self.named(element)
        what = f"body {name!r}"
        mass = self.number(element, "mass", what, 0.0)
        if mass < 0.0:
            raise self.fail(f"mass of {what} is {mass} kg; it must not be negative")
        xx, yy, zz, xy, xz, yz = self.numbers(element, "inertia", what, 6, (0, 0, 0, 0, 0, 0))
        return Body(
            name=name,
            mass=mass,
            mass_center=self.numbers(element, "mass_center", what, 3, (0, 0, 0)),
            inertia=np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]),
        )

    # -- frames

    def collect_frames(self, bodies: Mapping[str, Element]) -> None:
        """Fill ``frames``: every body and offset frame under its absolute path, resolved to its base body."""
        eye, zero = np.eye(3), np.zeros(3)
        self.frames["/ground"] = Frame("ground", eye, zero)
        offsets: dict[str, Element] = {}
        owners = [(f"/bodyset/{name}", element) for name, element in bodies.items()]
        owners += [(f"/jointset/{self.named(e)}", e) for e in self.objects("JointSet")]
        owners += [("/ground", e) for e in self.xml.findall("Ground")]
        for name in bodies:
            self.frames[f"/bodyset/{name}"] = Frame(name, eye, zero)
        for owner, element in owners:
            for frame in element.iter("PhysicalOffsetFrame"):
                offsets[f"{owner}/{self.named(frame)}"] = frame
        for frame in self.xml.findall("ComponentSet/objects/PhysicalOffsetFrame"):
            offsets[f"/componentset/{self.named(frame)}"] = frame
        while offsets:
            progress = False
            for key, element in list(offsets.items()):
                reference = xml_text_or(element, "socket_parent", "")
                base = self.find_frame(reference, key, pending=offsets)
                if base is None:
                    continue
                rotation = body_fixed_xyz(self.numbers(element, "orientation", f"frame {key!r}", 3, (0, 0, 0)))
                translation = self.numbers(element, "translation", f"frame {key!r}", 3, (0, 0, 0))
                self.frames[key] = _compose(base, rotation, translation)
                del offsets[key]
                progress = True
            if not progress:
                key, element = next(iter(offsets.items()))
                raise self.fail(
                    f"frame {key!r} refers to parent {xml_text_or(element, 'socket_parent', '')!r}, "
                    "which is not a body or frame of the model"
                )

    def find_frame(self, reference: str, owner: str, pending: Iterable[str] = ()) -> Frame | None:
        """The frame at ``reference`` as written inside the component at ``owner``; None when there is none."""
        for candidate in _candidates(reference, owner):
            if candidate in self.frames:
                return self.frames[candidate]
            if candidate in pending:  # defined, but not resolved yet
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

    def joint(self, element: Element) -> Joint:
        name = self.named(element)
        what = f"joint {name!r}"
        coordinates = tuple(self.named(c) for c in element.findall("coordinates/Coordinate"))
        if self.flag(element, "reverse", False):
            raise self.fail(f"{what} is reversed (<reverse>true), which is not supported; swap its parent and child")
        owner = f"/jointset/{name}"
        if element.tag == "CustomJoint":
            axes = self.spatial_transform(element, what, coordinates)
        elif element.tag in _SIMPLE_JOINTS:
            slots = _SIMPLE_JOINTS[element.tag]
            if len(coordinates) != len(slots):
                raise self.fail(f"{element.tag} {name!r} has {len(coordinates)} coordinates; expected {len(slots)}")
            axes = tuple(
                TransformAxis(np.eye(3)[slot % 3], (coordinates[slots.index(slot)],), IDENTITY)
                if slot in slots
                else TransformAxis(np.eye(3)[slot % 3], (), ZERO)
                for slot in range(6)
            )
        else:
            raise self.fail(
                f"{what} is a {element.tag}, which is not supported; supported are CustomJoint, "
                f"{', '.join(_SIMPLE_JOINTS)}"
            )
        return Joint(
            name=name,
            class_name=element.tag,
            parent=self.frame(element, "socket_parent_frame", owner, what),
            child=self.frame(element, "socket_child_frame", owner, what),
            coordinates=coordinates,
            axes=axes,
        )

    def spatial_transform(self, element: Element, what: str, names: tuple[str, ...]) -> tuple[TransformAxis, ...]:
        found = element.findall("SpatialTransform/TransformAxis")
        if len(found) != 6:
            raise self.fail(f"SpatialTransform of {what} has {len(found)} axes; expected 3 rotations, 3 translations")
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
        """Joints sorted so that a parent body is placed before its children; loops and orphans are refused."""
        by_child: dict[str, Joint] = {}
        for joint in joints:
            if joint.child.body in by_child:
                raise self.fail(
                    f"body {joint.child.body!r} is the child of joints {by_child[joint.child.body].name!r} "
                    f"and {joint.name!r}; closed loops are not supported"
                )
            by_child[joint.child.body] = joint
        placed, ordered, waiting = {"ground"}, [], list(joints)
        while waiting:
            ready = [joint for joint in waiting if joint.parent.body in placed]
            if not ready:
                raise self.fail(f"joint {waiting[0].name!r} hangs on no body that is connected to the ground")
            ordered += ready
            placed |= {joint.child.body for joint in ready}
            waiting = [joint for joint in waiting if joint not in ready]
        for body in bodies:
            if body.name not in placed:
                raise self.fail(f"body {body.name!r} has no joint; connect it (a FreeJoint to ground, for instance)")
        return tuple(ordered)

    def coordinates(self, joints: tuple[Joint, ...], couplers: tuple[Coupler, ...]) -> tuple[Coordinate, ...]:
        elements = {
            self.named(c): (self.named(e), c)
            for e in self.objects("JointSet")
            for c in e.findall("coordinates/Coordinate")
        }
        uses = {name: _motion(name, joint) for joint in joints for name in joint.coordinates}
        coupled = {coupler.dependent: coupler.independent[0] for coupler in couplers}
        found = []
        for name, (joint_name, element) in elements.items():
            what = f"coordinate {name!r}"
            # SimbodyEngine/Coordinate.cpp: the default range.
            low, high = self.numbers(element, "range", what, 2, (-10, 10))
            if low > high:
                raise self.fail(f"<range> of {what} is {low} {high}; the first number must be the smaller")
            found.append(
                Coordinate(
                    name=name,
                    joint=joint_name,
                    motion=uses[name],
                    range=(float(low), float(high)),
                    default=self.number(element, "default_value", what, 0.0),
                    locked=self.flag(element, "locked", False),
                    coupled_to=coupled.get(name),
                )
            )
        return tuple(found)

    def coupler(self, element: Element) -> Coupler:
        name = element.get("name", "")
        what = f"constraint {name!r}"
        independent = tuple(xml_text_or(element, "independent_coordinate_names", "").split())
        dependent = xml_text_or(element, "dependent_coordinate_name", "")
        functions = [child for wrapper in element.findall("coupled_coordinates_function") for child in wrapper]
        if not independent or not dependent or not functions:
            raise self.fail(f"{what} lacks a coordinate name or its function")
        function = self.function(functions[0], what, len(independent))
        scale = self.number(element, "scale_factor", what, 1.0)
        return Coupler(name, dependent, independent, function if scale == 1.0 else Scaled(scale, function))

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
        if arguments != 1:
            raise self.fail(f"{kind} of {what} has {arguments} variables; only LinearFunction may have other than one")
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
            "PolynomialFunction, SimmSpline, NaturalCubicSpline, PiecewiseLinearFunction, "
            "MultiplierFunction"
        )

    # -- wraps, muscles

    def collect_wraps(self) -> None:
        owners = [("/ground", e) for e in self.xml.findall("Ground")]
        owners += [(f"/bodyset/{self.named(e)}", e) for e in self.objects("BodySet")]
        for owner, element in owners:
            within = {
                id(o): f for f in element.iter("PhysicalOffsetFrame") for o in f.findall("WrapObjectSet/objects/*")
            }
            for item in element.findall(".//WrapObjectSet/objects/*"):
                offset = within.get(id(item))
                frame = self.frames[owner if offset is None else f"{owner}/{self.named(offset)}"]
                wrap = self.wrap(item, frame)
                if wrap.name in self.wraps:
                    raise self.fail(f"two wrap objects are called {wrap.name!r}; names must differ")
                self.wraps[wrap.name] = wrap

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

    def muscle(self, element: Element, coordinates: set[str]) -> Muscle:
        name = self.named(element)
        values = {}
        for tag, value in _DEFAULTS.items():
            template = self.defaults.get(element.tag)
            if template is not None:
                value = self.number(template, tag, f"<defaults> of {element.tag}", value)
            values[tag] = self.number(element, tag, f"muscle {name!r}", value)
        for tag in (
            "max_isometric_force",
            "optimal_fiber_length",
            "tendon_slack_length",
            "max_contraction_velocity",
        ):
            if values[tag] <= 0.0:
                raise self.fail(f"{tag} of muscle {name!r} is {values[tag]}; it must be above 0")
        pennation = values["pennation_angle_at_optimal"]
        if not 0.0 <= pennation < np.pi / 2:
            raise self.fail(
                f"pennation_angle_at_optimal of muscle {name!r} is {pennation} rad; "
                "it must be at least 0 and below pi/2"
            )
        path = element.find("GeometryPath")
        path = path if path is not None else element.find("path/GeometryPath")
        points: tuple[PathPoint, ...] = ()
        wraps: tuple[PathWrap, ...] = ()
        path_class = "GeometryPath"
        if path is None:
            others = [child.tag for child in element.iter() if child.tag.endswith("Path")]
            path_class = others[0] if others else "none"
        else:
            points = tuple(
                self.point(item, name, coordinates) for items in path.findall("PathPointSet/objects") for item in items
            )
            if len(points) < 2:
                raise self.fail(f"the path of muscle {name!r} has {len(points)} points; it needs at least 2")
            wraps = tuple(
                self.path_wrap(item, name, len(points))
                for items in path.findall("PathWrapSet/objects")
                for item in items
            )
        return Muscle(
            name=name,
            class_name=element.tag,
            max_isometric_force=values["max_isometric_force"],
            optimal_fiber_length=values["optimal_fiber_length"],
            tendon_slack_length=values["tendon_slack_length"],
            pennation_at_optimal=pennation,
            max_contraction_velocity=values["max_contraction_velocity"],
            points=points,
            wraps=wraps,
            path_class=path_class,
        )

    def point(self, element: Element, muscle: str, coordinates: set[str]) -> PathPoint:
        name = element.get("name", "")
        what = f"path point {name!r} of muscle {muscle!r}"
        frame = self.frame(element, "socket_parent_frame", f"/forceset/{muscle}", what)
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


# ---------------------------------------------------------------------------------------------- small helpers


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
