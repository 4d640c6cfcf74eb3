"""Skeletons as plain JSON: bodies, joints, coordinates and couplings by name.

This is the ``skeleton`` section of a model file. It says what OpenSim's file says, with everything spelled out: offset
frames are resolved to their bodies, every joint is three rotations and then three translations, functions are named by
kind. Numbers keep all their digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nms_gym.anatomy import (
    ZERO,
    Body,
    Coordinate,
    Coupler,
    Frame,
    Function,
    Joint,
    Linear,
    Multibody,
    Multivariate,
    PiecewiseLinear,
    Polynomial,
    Scaled,
    SimmSpline,
    TransformAxis,
    Unknown,
)
from nms_gym.errors import InputError, listed, near

VERSION = 1

_UNITS = {
    "mass": "kg",
    "mass_center": "m, in the body",
    "inertia": "kg m^2 about the mass center: xx, yy, zz, xy, xz, yz",
    "gravity": "m/s^2",
    "translation": "m",
    "coordinates": "rad or m",
}
_MOTIONS = ("rotational", "translational", "coupled")
_EYE = np.eye(3)
_HIGHEST_POWER = 20

# ---------------------------------------------------------------------------------------------- writing


def skeleton_to_json(model: Multibody) -> dict[str, Any]:
    """``model`` as plain JSON; ``skeleton_from_json`` reads it back bit for bit."""
    return {
        "version": VERSION,
        "name": model.name,
        "units": _UNITS,
        "gravity": model.gravity.tolist(),
        "bodies": [
            {
                "name": body.name,
                "mass": body.mass,
                "mass_center": body.mass_center.tolist(),
                "inertia": [float(body.inertia[i, j]) for i, j in _INERTIA],
            }
            for body in model.bodies
        ],
        "coordinates": [
            {
                "name": coordinate.name,
                "joint": coordinate.joint,
                "motion": coordinate.motion,
                "range": list(coordinate.range),
                "default": coordinate.default,
                "locked": coordinate.locked,
            }
            for coordinate in model.coordinates
        ],
        "joints": [
            {
                "name": joint.name,
                "class": joint.class_name,
                "parent": _frame_to_json(joint.parent),
                "child": _frame_to_json(joint.child),
                "rotations": [_axis_to_json(axis) for axis in joint.axes[:3]],
                "translations": [_axis_to_json(axis) for axis in joint.axes[3:]],
            }
            for joint in model.joints
        ],
        "couplers": [
            {
                "name": coupler.name,
                "dependent": coupler.dependent,
                "independent": list(coupler.independent),
                "function": _function_to_json(coupler.function),
            }
            for coupler in model.couplers
        ],
    }


_INERTIA = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


def _frame_to_json(frame: Frame) -> dict[str, Any]:
    turned = {} if np.array_equal(frame.rotation, _EYE) else {"rotation": frame.rotation.tolist()}
    return {"body": frame.body, "translation": frame.translation.tolist(), **turned}


def _axis_to_json(axis: TransformAxis) -> dict[str, Any]:
    if axis.function == ZERO:
        return {"axis": axis.axis.tolist()}
    return {
        "axis": axis.axis.tolist(),
        "coordinates": list(axis.coordinates),
        "function": _function_to_json(axis.function),
    }


def _function_to_json(function: Function) -> dict[str, Any]:
    match function:
        case Linear(coefficients):
            return {"kind": "linear", "coefficients": list(coefficients)}
        case Polynomial(coefficients):
            return {"kind": "polynomial", "coefficients": list(coefficients)}
        case SimmSpline(x, y):
            return {"kind": "spline", "x": list(x), "y": list(y)}
        case PiecewiseLinear(x, y):
            return {"kind": "piecewise linear", "x": list(x), "y": list(y)}
        case Scaled(scale, inner):
            return {"kind": "scaled", "scale": scale, "function": _function_to_json(inner)}
        case Multivariate(coefficients, exponents):
            return {
                "kind": "multivariate",
                "exponents": [list(term) for term in exponents],
                "coefficients": list(coefficients),
            }
        case Unknown(problem):
            raise InputError(problem)


# ---------------------------------------------------------------------------------------------- reading


def skeleton_from_json(entry: Any, where: str) -> Multibody:
    """The skeleton that ``skeleton_to_json`` wrote.

    Args:
        entry: the JSON object.
        where: begins every message; becomes ``path``.

    Raises:
        InputError: naming the object and the value: another version, a missing entry, a name that is unknown or
            repeated, a body without a joint or with two, joints not in order from the ground outwards, numbers that
            are not finite or cannot be (a negative mass, a range that falls, an axis that is no unit vector).
    """
    try:
        if entry["version"] != VERSION:
            raise InputError(
                f"{where}: skeleton version {entry['version']!r}; this nms-gym reads version {VERSION}. Update "
                "nms-gym, or rebuild the model"
            )
        return _skeleton(entry, where)
    except KeyError as error:
        raise InputError(f"{where}: skeleton: entry {error.args[0]!r} is missing") from error
    except (TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: skeleton: malformed entry: {error}") from error


def _skeleton(entry: dict[str, Any], where: str) -> Multibody:
    bodies = tuple(_body(item, f"{where}: body {item['name']!r}") for item in entry["bodies"])
    couplers = tuple(_coupler(item, f"{where}: coupler {item['name']!r}") for item in entry["couplers"])
    coupled_to = {coupler.dependent: coupler.independent[0] for coupler in couplers}
    coordinates = tuple(
        _coordinate(item, coupled_to.get(item["name"]), f"{where}: coordinate {item['name']!r}")
        for item in entry["coordinates"]
    )
    of_joint: dict[str, list[str]] = {}
    for coordinate in coordinates:
        of_joint.setdefault(coordinate.joint, []).append(coordinate.name)
    joints = tuple(
        _joint(item, tuple(of_joint.get(item["name"], ())), f"{where}: joint {item['name']!r}")
        for item in entry["joints"]
    )
    model = Multibody(
        name=str(entry["name"]),
        path=where,
        gravity=_numbers(entry["gravity"], (3,), f"{where}: gravity"),
        bodies=bodies,
        joints=joints,
        coordinates=coordinates,
        couplers=couplers,
    )
    _check_references(model, where)
    return model


def _check_references(model: Multibody, where: str) -> None:
    names = {
        "body": [body.name for body in model.bodies],
        "joint": [joint.name for joint in model.joints],
        "coordinate": [coordinate.name for coordinate in model.coordinates],
    }
    for kind, found in names.items():
        double = sorted({name for name in found if found.count(name) > 1})
        if double:
            raise InputError(f"{where}: {kind} named more than once: {listed(double)}; names must differ")
    placed = ["ground"]
    for joint in model.joints:
        what = f"{where}: joint {joint.name!r}"
        _require(joint.child.body, names["body"], f"{what}: child body")
        _require(joint.parent.body, ["ground", *names["body"]], f"{what}: parent body")
        if joint.parent.body not in placed:
            raise InputError(f"{what} hangs on {joint.parent.body!r}, whose own joint must come before it")
        if joint.child.body in placed:
            raise InputError(f"{what} moves {joint.child.body!r}, which has a joint already; a body has one")
        placed.append(joint.child.body)
    loose = [name for name in names["body"] if name not in placed]
    if loose:
        raise InputError(f"{where}: no joint connects {listed(loose)} to the ground")
    for coordinate in model.coordinates:
        _require(coordinate.joint, names["joint"], f"{where}: coordinate {coordinate.name!r}: joint")
    for coupler in model.couplers:
        for name in (coupler.dependent, *coupler.independent):
            _require(name, names["coordinate"], f"{where}: coupler {coupler.name!r}: coordinate")


def _require(name: str, names: Sequence[str], what: str) -> None:
    if name not in names:
        raise InputError(f"{what} {name!r} does not exist; {near(name, names)}")


def _body(item: dict[str, Any], what: str) -> Body:
    mass = _number(item["mass"], f"{what}: mass")
    if mass < 0:
        raise InputError(f"{what}: mass is {mass:g} kg; it must not be negative")
    inertia = np.zeros((3, 3))
    for (i, j), value in zip(_INERTIA, _numbers(item["inertia"], (6,), f"{what}: inertia"), strict=True):
        inertia[i, j] = inertia[j, i] = value
    return Body(str(item["name"]), mass, _numbers(item["mass_center"], (3,), f"{what}: mass_center"), inertia)


def _coordinate(item: dict[str, Any], coupled_to: str | None, what: str) -> Coordinate:
    low, high = _numbers(item["range"], (2,), f"{what}: range").tolist()
    if low > high:
        raise InputError(f"{what}: range is {low:g} to {high:g}; the first number must be the smaller")
    if item["motion"] not in _MOTIONS:
        raise InputError(f"{what}: motion is {item['motion']!r}; allowed are {listed(_MOTIONS)}")
    return Coordinate(
        name=str(item["name"]),
        joint=str(item["joint"]),
        motion=item["motion"],
        range=(low, high),
        default=_number(item["default"], f"{what}: default"),
        locked=bool(item["locked"]),
        coupled_to=coupled_to,
    )


def _joint(item: dict[str, Any], coordinates: tuple[str, ...], what: str) -> Joint:
    axes = [
        _axis(axis, coordinates, f"{what}: {kind} {index + 1}")
        for kind in ("rotations", "translations")
        for index, axis in enumerate(_items(item[kind], 3, f"{what}: {kind}"))
    ]
    return Joint(
        name=str(item["name"]),
        class_name=str(item["class"]),
        parent=_frame(item["parent"], f"{what}: parent"),
        child=_frame(item["child"], f"{what}: child"),
        coordinates=coordinates,
        axes=tuple(axes),
    )


def _frame(item: dict[str, Any], what: str) -> Frame:
    rotation = _numbers(item["rotation"], (3, 3), f"{what}: rotation") if "rotation" in item else _EYE
    if np.abs(rotation @ rotation.T - _EYE).max() > 1e-6 or np.linalg.det(rotation) < 0:
        raise InputError(f"{what}: rotation is no rotation matrix; its rows must be orthonormal and right-handed")
    return Frame(str(item["body"]), rotation, _numbers(item["translation"], (3,), f"{what}: translation"))


def _axis(item: dict[str, Any], coordinates: tuple[str, ...], what: str) -> TransformAxis:
    axis = _numbers(item["axis"], (3,), f"{what}: axis")
    if abs(np.linalg.norm(axis) - 1) > 1e-6:
        raise InputError(f"{what}: axis has length {np.linalg.norm(axis):g}; a unit vector is needed")
    if "function" not in item:
        return TransformAxis(axis, (), ZERO)
    used = tuple(item["coordinates"])
    for name in used:
        _require(name, coordinates, f"{what}: coordinate")
    return TransformAxis(axis, used, _function(item["function"], len(used), what))


def _coupler(item: dict[str, Any], what: str) -> Coupler:
    independent = tuple(item["independent"])
    if not independent:
        raise InputError(f"{what}: names no independent coordinate; at least one is needed")
    function = _function(item["function"], len(independent), what)
    return Coupler(str(item["name"]), str(item["dependent"]), independent, function)


def _function(item: dict[str, Any], arguments: int, what: str) -> Function:
    kind = item["kind"]
    if kind == "linear":
        coefficients = _numbers(item["coefficients"], (arguments + 1,), f"{what}: coefficients")
        return Linear(tuple(coefficients.tolist()))
    if kind == "scaled":
        return Scaled(_number(item["scale"], f"{what}: scale"), _function(item["function"], arguments, what))
    if kind == "multivariate":
        coefficients = _numbers(item["coefficients"], None, f"{what}: coefficients")
        exponents = _numbers(item["exponents"], (coefficients.size, arguments), f"{what}: exponents")
        if np.any(exponents != np.round(exponents)) or not np.all((exponents >= 0) & (exponents <= _HIGHEST_POWER)):
            raise InputError(f"{what}: exponents must be whole numbers from 0 to {_HIGHEST_POWER}")
        terms = tuple(tuple(int(power) for power in term) for term in exponents)
        return Multivariate(tuple(coefficients.tolist()), terms)
    if kind not in ("polynomial", "spline", "piecewise linear"):
        known = ("linear", "polynomial", "multivariate", "spline", "piecewise linear", "scaled")
        raise InputError(f"{what}: function kind is {kind!r}; known are {listed(known)}")
    if arguments != 1:
        raise InputError(f"{what}: a {kind} function has {arguments} variables; it must have one")
    if kind == "polynomial":
        return Polynomial(tuple(_numbers(item["coefficients"], None, f"{what}: coefficients").tolist()))
    x, y = (_numbers(item[name], None, f"{what}: {name}") for name in ("x", "y"))
    if x.size != y.size or x.size < 2 or np.any(np.diff(x) <= 0):
        raise InputError(f"{what}: {x.size} x and {y.size} y values; needed are at least 2 of each, with x rising")
    return (SimmSpline if kind == "spline" else PiecewiseLinear)(tuple(x.tolist()), tuple(y.tolist()))


def _number(value: Any, what: str) -> float:
    return float(_numbers(value, (), what))


def _numbers(value: Any, shape: tuple[int, ...] | None, what: str) -> np.ndarray:
    """Finite float64 numbers of ``shape``; None: a list of one or more."""
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{what} is {value!r}; expected numbers") from None
    wanted = f"of shape {shape}" if shape else "one finite number" if shape == () else "a list"
    fits = array.shape == shape if shape is not None else array.ndim == 1 and array.size > 0
    if not fits or not np.all(np.isfinite(array)):
        raise InputError(f"{what} is {value!r}; expected finite numbers, {wanted}")
    return array


def _items(value: Any, count: int, what: str) -> list[Any]:
    if not isinstance(value, list) or len(value) != count:
        raise InputError(f"{what}: expected a list of {count}")
    return value
