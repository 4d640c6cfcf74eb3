"""Read OpenSim's ``FunctionBasedPathSet``: muscle lengths as plain polynomials in the joint coordinates.

``nms_gym.muscle.geometry.paths_from_polynomials`` turns what is read here into surfaces. Such a file says neither
over which range of motion it was fitted nor how well, so that reading one warns.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import numpy as np

from nms_gym.anatomy import monomial_order
from nms_gym.errors import InputError, near
from nms_gym.recording.storage import require_unique
from nms_gym.recording.xml import xml_integer, xml_numbers, xml_root, xml_text_or

# Highest total degree; OpenSim fits up to 9.
MOST_ORDER = 20


class FunctionBasedPathWarning(UserWarning):
    """Function-based paths are to be checked against the geometry they were fitted to."""


@dataclass(frozen=True, eq=False)
class PlainPolynomial:
    """Length of one muscle, ``l(q) = sum_p coefficients[p] prod_k q_k ** exponents[p, k]`` in m, q in rad.

    Attributes:
        muscle: name.
        coordinates: names, one per column of ``exponents``.
        exponents: (P, d) int.
        coefficients: (P,).
    """

    muscle: str
    coordinates: tuple[str, ...]
    exponents: np.ndarray
    coefficients: np.ndarray


def read_function_based_paths(
    path: str | os.PathLike[str], muscles: Sequence[str] | None = None
) -> tuple[PlainPolynomial, ...]:
    """Lengths from a ``FunctionBasedPathSet`` file.

    Only the length functions are read: moment arms follow from them, ``r = -dl/dq``, and separate moment-arm
    functions, which OpenSim permits, could contradict them.

    Args:
        path: XML file with ``FunctionBasedPath`` objects whose ``length_function`` is a
            ``MultivariatePolynomialFunction``.
        muscles: names to read, in this order; None reads all.

    Warns:
        FunctionBasedPathWarning: always.

    Raises:
        InputError: not such a file, an unknown muscle, another function class, or a wrong number of coefficients.
    """
    file, root = str(path), xml_root(path)
    elements = {_last(element.get("name", "")): element for element in root.iter("FunctionBasedPath")}
    if not elements:
        raise InputError(f"{file}: no FunctionBasedPath in it; expected OpenSim's FunctionBasedPathSet")
    require_unique([_last(e.get("name", "")) for e in root.iter("FunctionBasedPath")], "paths", file)
    for name in muscles or ():
        if name not in elements:
            raise InputError(f"{file}: no path for muscle {name!r}; {near(name, list(elements))}")
    result = tuple(_polynomial(name, elements[name], file) for name in (elements if muscles is None else muscles))
    warnings.warn(
        f"{file}: function-based paths do not say where they are valid. OpenSim's published set for walking is 12 to "
        "23 mm off in length for some muscles and is metres wrong outside walking; its moment arms are good in "
        "walking poses only. Prefer fitting the paths from the .osim model",
        FunctionBasedPathWarning,
        stacklevel=2,
    )
    return result


def _last(path: str) -> str:
    return path.strip().rstrip("/").split("/")[-1]


def _polynomial(muscle: str, element: Element, file: str) -> PlainPolynomial:
    coordinates = tuple(_last(name) for name in xml_text_or(element, "coordinate_paths", "").split())
    where = f"{file}: path of {muscle!r}"
    if not coordinates:
        raise InputError(f"{where} names no coordinates")
    require_unique(coordinates, "coordinates", where)
    holder = element.find("length_function")
    function = None if holder is None else holder.find("MultivariatePolynomialFunction")
    if function is None:
        found = "nothing" if holder is None or not len(holder) else holder[0].tag
        raise InputError(f"{where}: length_function is {found}; only MultivariatePolynomialFunction can be read")
    dimension, order = (xml_integer(function, tag, where) for tag in ("dimension", "order"))
    coefficients = np.array(xml_numbers(function, "coefficients", where))
    if dimension != len(coordinates):
        raise InputError(f"{where}: dimension is {dimension}, but it names {len(coordinates)} coordinates")
    count = math.comb(dimension + order, order) if 0 <= order <= MOST_ORDER else 0
    if len(coefficients) != count:
        raise InputError(
            f"{where}: {len(coefficients)} coefficients; dimension {dimension} and order {order} need {count}"
        )
    return PlainPolynomial(muscle, coordinates, np.array(monomial_order(dimension, order)), coefficients)
