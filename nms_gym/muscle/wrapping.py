"""One straight segment of a muscle path over one surface: does it wrap, how long is it then, where does it touch.

Surfaces are cylinders, spheres, ellipsoids and tori, in their own frame. Everything is NumPy, for N segments at once:
ends are (N, 3) in m. Which segment wraps, on which side, and over which section of the surface is OpenSim's choice, so
that a path is the one that OpenSim draws:

* Cylinder (Simulation/Wrap/WrapCylinder.cpp): the exact geodesic, two tangents and a helix, one straight line on the
  unrolled cylinder.
* Sphere (WrapSphere.cpp): the exact geodesic, two tangents and an arc of a great circle.
* Ellipsoid (WrapEllipsoid.cpp): OpenSim lays the path into a plane through both ends and a third point, which it
  chooses on the surface by one of three methods (``Surface.method``), and follows the plane's section of the ellipsoid.
  So do we, since the true geodesic may be millimetres away: the section is an ellipse, its tangents are in closed form
  and its length is an integral. OpenSim averages its "fan" over 298 points and walks the section in steps of 1 mm; we
  integrate both, so that lengths are smooth.
* Torus (WrapTorus.cpp): a cylinder along the tube, where the straight line is nearest to the tube's middle circle; the
  path keeps to its side of the hole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nms_gym.anatomy import PathWrap, Wrap, body_fixed_xyz

KINDS = ("cylinder", "sphere", "ellipsoid", "torus")
METHODS = ("hybrid", "midpoint", "axial")

# WrapEllipsoid.cpp. A line at less than 45 degrees to all axes is wrapped by the fan alone (MU_BLEND_MIN), one nearly
# along an axis by the axial choice alone (MU_BLEND_MAX); the axial choice fades near the ends of the chord.
_FAN, _AXIAL, _FADE = 0.7073, 0.9, 0.3
_FAN_ENDS = (0.5 / 300, 298.5 / 300)  # what its samples at 1/300 .. 298/300 of the chord stand for
_INSIDE = 1e-4  # of the ellipsoid's implicit function: how far inside an end may be
_ALIGNED = 1e-4  # 1 - cosine of the angle between the ends seen from the centre, below which nothing wraps
_ON_PLANE = 2e-12  # of the mean semi-axis: coordinates below it count as 0
# Nodes and weights of Gauss-Legendre quadrature on [-1/2, 1/2]: per piece of the fan, and along the section.
_FAN_NODES, _FAN_WEIGHTS = (np.asarray(x) / 2 for x in np.polynomial.legendre.leggauss(5))
_ARC_NODES, _ARC_WEIGHTS = (np.asarray(x) / 2 for x in np.polynomial.legendre.leggauss(24))
_NEWTON, _EXACT = 12, 1e-13  # most steps to the nearest point of an ellipsoid, and when they end
_CIRCLE_GRID, _BISECTIONS = 33, 45  # search for the point of a line that is nearest to a circle
_TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Surface:
    """A surface in its own frame.

    ``size`` (3,) in m: radius, half length and 0 of a cylinder; the semi-axes of an ellipsoid or a sphere; radius of
    the tube, radius of its middle circle and 0 of a torus. Paths keep to the side ``sign * x[axis] > 0`` where ``sign``
    is not 0; cylinders are turned so that this is x > 0. ``kind`` is of ``KINDS``, ``method`` of ``METHODS``.
    """

    kind: str
    size: np.ndarray
    axis: int = 0
    sign: int = 0
    method: str = "hybrid"


def surface_of(use: PathWrap) -> tuple[Surface, np.ndarray]:
    """The surface, and the rotation (3, 3) from its frame to the body's."""
    wrap = use.wrap
    sign = 0 if wrap.quadrant == "all" else -1 if wrap.quadrant.startswith("-") else 1
    if wrap.kind == "cylinder":
        size = np.array([wrap.radius, wrap.length / 2, 0.0])
        return Surface("cylinder", size, 0, abs(sign)), wrap.rotation @ _to_positive_x(wrap)
    axis = 0 if sign == 0 else "xyz".index(wrap.quadrant[-1])
    size = np.resize(wrap.dimensions, 3) if wrap.kind == "sphere" else np.array([*wrap.dimensions, 0.0][:3])
    return Surface(wrap.kind, size.astype(float), axis, sign, use.method), wrap.rotation


def _to_positive_x(wrap: Wrap) -> np.ndarray:
    """Turn about a cylinder's axis that brings the side the path must keep to onto x > 0."""
    quarter = {"all": 0, "x": 0, "y": 1, "-x": 2, "-y": 3}[wrap.quadrant]
    return np.round(body_fixed_xyz(np.array([0.0, 0.0, quarter * np.pi / 2])))


def candidates(surface: Surface, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Could these segments (N, 3) wrap? Cheap; for choosing among the segments of a path.

    Returns on (N,) bool; must (N,) bool, the path has no choice; and how much longer the wrapped segment is, (N,) m.
    """
    if surface.kind == "ellipsoid":
        on = _cuts(start, end, surface.size, _INSIDE)
        on &= np.abs(1 - _dot(_unit(start), _unit(end))) >= _ALIGNED
        return on, on, np.zeros(len(on))
    if surface.kind == "sphere":
        on = _cuts(start, end, surface.size, 0.0)
        through, must = _sphere_side(surface, start, end)
        section = _Section(start, end, through, surface.size)
        return on, on & must, surface.size[0] * section.scaled_length - _norm(end - start)
    found, a, b, radius, half, constrained, _ = _as_cylinder(surface, start, end)
    on, must, turn, _, _ = _wrap_cylinder(a, b, radius, half, constrained)
    longer = _cylinder_geodesic(a, b, radius, turn) - _norm(end - start)
    return on & found, must & found & (surface.kind == "cylinder"), longer


def wrap(surface: Surface, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of segments that wrap: length (N,) in m on the surface, and the contacts (N, 3) where they meet and leave it."""
    if surface.kind in ("ellipsoid", "sphere"):
        ellipsoid = surface.kind == "ellipsoid"
        through = _third_point(surface, start, end) if ellipsoid else _sphere_side(surface, start, end)[0]
        return _Section(start, end, through, surface.size).arc()
    _, a, b, radius, half, constrained, back = _as_cylinder(surface, start, end)
    _, _, turn, into, out = _wrap_cylinder(a, b, radius, half, constrained)
    length = _cylinder_geodesic(a, b, radius, turn) - _norm(into - a) - _norm(b - out)
    return length, back(into), back(out)


# ---------------------------------------------------------------------------------------------- ellipsoids, spheres


class _Section:
    """Paths from start to end in their planes with a third point, around an ellipsoid on that point's side.

    A plane cuts the ellipsoid in an ellipse; where the ellipsoid is scaled to the unit sphere that is a circle, around
    ``center``, over ``cosine`` and ``sine`` (its radius times unit vectors), clockwise from angle ``first`` through
    ``angle``. ``scaled_length`` is that of both tangents and the arc of the scaled figure.
    """

    def __init__(self, start: np.ndarray, end: np.ndarray, through: np.ndarray, axes: np.ndarray) -> None:
        a, b, c = start / axes, end / axes, through / axes
        normal = _unit(np.cross(b - a, c - a))
        height = _dot(normal, a)[:, None]
        self.axes, self.center = axes, height * normal
        radius = np.sqrt(np.maximum(1 - height**2, 0))
        x = _unit(a - self.center)
        y = np.cross(normal, x)
        last = b - self.center
        t1, t2 = (np.sqrt(np.maximum(_dot(p, p) - radius[:, 0] ** 2, 0)) for p in (a - self.center, last))
        # The third point lies to the left of the line from start to end, so the way around turns clockwise.
        self.cosine, self.sine = radius * x, radius * y
        self.first = -np.arctan2(t1, radius[:, 0])
        second = np.arctan2(_dot(last, y), _dot(last, x)) + np.arctan2(t2, radius[:, 0])
        self.angle = _turn(self.first - second)
        self.scaled_length = t1 + t2 + radius[:, 0] * self.angle

    def at(self, angle: np.ndarray) -> np.ndarray:
        return self.axes * (self.center + np.cos(angle)[:, None] * self.cosine + np.sin(angle)[:, None] * self.sine)

    def arc(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Length, and both contacts."""
        # |d/d(angle)|^2 is quadratic in cosine and sine of the angle.
        p, q = self.axes * self.cosine, self.axes * self.sine
        angles = self.first[:, None] - self.angle[:, None] * (_ARC_NODES + 0.5)
        c, s = np.cos(angles), np.sin(angles)
        square = c**2 * _dot(q, q)[:, None] + s**2 * _dot(p, p)[:, None] - 2 * c * s * _dot(p, q)[:, None]
        length = self.angle * (np.sqrt(np.maximum(square, 0)) @ _ARC_WEIGHTS)
        return length, self.at(self.first), self.at(self.first - self.angle)


def _cuts(start: np.ndarray, end: np.ndarray, axes: np.ndarray, slack: float) -> np.ndarray:
    """Do segments, both of whose ends are outside, pass through the ellipsoid?"""
    a, b = start / axes, end / axes
    outside = (_dot(a, a) >= 1 - slack) & (_dot(b, b) >= 1 - slack)
    line = b - a
    square = np.maximum(_dot(line, line), _TINY)
    along = -_dot(a, line) / square
    nearest = a + along[:, None] * line
    within = 1 - _dot(nearest, nearest)
    reach = np.sqrt(np.maximum(within, 0) / square)
    return outside & (within > 0) & (along - reach > 0) & (along + reach < 1)


def _sphere_side(surface: Surface, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A point in the plane of the great circle, on the side of the path, and whether it must wrap.

    The near side of the line; with a side to keep to and an end beyond it, the other one if its tangents point there.
    """
    radius = surface.size[0]
    line = _unit(end - start)
    near = start - _dot(start, line)[:, None] * line
    # A line through the centre has no near side: any will do.
    aside = np.cross(line, np.where(np.abs(line[:, :1]) < 0.9, [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]))
    near = _unit(np.where((_norm(near) > 1e-6 * radius)[:, None], near, aside))
    if surface.sign == 0:
        return near * radius, np.zeros(len(start), bool)
    off = [surface.sign * p[:, surface.axis] < 0 for p in (start, end)]
    far = _Section(start, end, -near * radius, surface.size)
    pull = far.at(far.first) - start + far.at(far.first - far.angle) - end
    other = (off[0] | off[1]) & (surface.sign * pull[:, surface.axis] >= 0)
    return np.where(other[:, None], -near, near) * radius, ~(off[0] & off[1])


def _third_point(surface: Surface, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Where on the ellipsoid the plane of the path goes through: OpenSim's ``c1``, by the path's method."""
    scale = 3 / surface.size.sum()
    axes, a, b = surface.size * scale, start * scale, end * scale
    line = a - b
    sb, along = b / axes, line / axes
    square = np.maximum(_dot(along, along), _TINY)
    foot = -_dot(sb, along) / square
    reach = np.sqrt(np.maximum(1 - _dot(*[sb + foot[:, None] * along] * 2), 0) / square)
    first, last = b + (foot + reach)[:, None] * line, b + (foot - reach)[:, None] * line
    chord = last - first
    middle = first + 0.5 * chord

    slope = np.abs(_unit(line))
    best = np.argmax(slope, axis=1)
    steep = np.take_along_axis(slope, best[:, None], 1)[:, 0]
    crossing = -first / np.where(np.abs(chord) > _TINY, chord, _TINY)
    t = np.take_along_axis(crossing, best[:, None], 1)[:, 0]
    if surface.method == "hybrid":
        fade = np.clip(np.minimum(t, 1 - t) / _FADE, 0.0, 1.0)
        steep = np.where(steep > _FAN, _FAN + fade * (steep - _FAN), steep)
    share = np.clip((steep - _FAN) / (_AXIAL - _FAN), 0.0, 1.0)  # of the axial choice

    if surface.method == "midpoint":
        c1 = _nearest(middle, axes)
    else:
        flat = np.arange(3) == best[:, None]
        c1 = _nearest_in_plane(np.where(flat, 0, first + t[:, None] * chord), axes, flat)
        fan = np.flatnonzero(share < 1) if surface.method == "hybrid" else np.zeros(0, int)
        if len(fan):
            spread = _nearest(middle[fan] + _fan(first[fan], chord[fan], crossing[fan], axes), axes)
            part = share[fan, None]
            mixed = _nearest(part * c1[fan] + (1 - part) * spread, axes)
            c1[fan] = np.where(part > 0, mixed, spread)
    shorter, other_way = np.zeros(len(start), bool), c1
    if surface.method == "axial":
        # Beyond the chord the axial choice says which plane, and the way around is the shorter one.
        shorter = (t <= 0) | (t >= 1)
        scaled = middle / axes
        normal = _unit(np.cross(along, (c1 - b) / axes))
        other_way = axes * (2 * scaled - _dot(normal, scaled)[:, None] * normal)
    if surface.sign:
        # Onto the side asked for: mirrored, and as far as the fan chose it drawn towards the middle.
        wrong = np.flatnonzero(np.where(c1[:, surface.axis] >= 0, 1, -1) != surface.sign)
        c1[wrong, surface.axis] *= -share[wrong]
        drawn = wrong[share[wrong] < 1]
        c1[drawn] = _nearest(c1[drawn], axes)
        shorter[wrong] = False
    if shorter.any():
        c1[shorter] = other_way[shorter]
    return c1 / scale


def _fan(first: np.ndarray, chord: np.ndarray, crossing: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Mean direction (N, 3) from the chord to the surface. It may turn suddenly where the chord crosses a plane of
    symmetry, so the integral is taken piece by piece."""
    low, high = _FAN_ENDS
    edges = np.empty((len(first), 5))
    edges[:, 0], edges[:, -1] = low, high
    edges[:, 1:-1] = np.sort(np.clip(crossing, low, high), axis=1)
    width = np.diff(edges, axis=1)
    at = (edges[:, :-1, None] + width[..., None] * (_FAN_NODES + 0.5)).reshape(len(first), -1, 1)
    points = (first[:, None] + at * chord[:, None]).reshape(-1, 3)
    blades = _unit(_nearest(points, axes) - points).reshape(len(first), -1, 3)
    return _unit(np.einsum("nk,nki->ni", (width[..., None] * _FAN_WEIGHTS).reshape(len(first), -1), blades))


def _nearest(point: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Nearest points (N, 3) of an ellipsoid; points on a plane of symmetry stay in it, in that of the two shorter axes
    if there is a choice."""
    zero = np.abs(point) <= _ON_PLANE
    longest = np.argmax(np.where(zero, axes, -1.0), axis=1)[:, None]
    return _nearest_in_plane(point, axes, zero & (np.arange(3) == longest))


def _nearest_in_plane(point: np.ndarray, axes: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """Nearest points (N, 3) of an ellipsoid, in the plane of symmetry across the axis that ``flat`` (N, 3) marks.

    Where the nearest point is not unique it is the one on the positive side. The largest root t of ``sum_i (a_i u_i
    / (t +
    a_i^2))^2 = 1``, by Newton's method on the inverse root of that sum (Moré and Sorensen 1983, SIAM J Sci Stat Comput
    4:553-572), from a lower bound, from which it converges.
    """
    u = np.where(flat, 0.0, np.where(np.abs(point) <= _ON_PLANE, 1e-9, point))
    square, weighted = axes * axes, axes * u
    t = np.max(np.where(flat, -np.inf, np.abs(weighted) - square), axis=1)
    for _ in range(_NEWTON):
        below = t[:, None] + square
        part = np.where(flat, 0.0, weighted / np.where(flat, 1.0, below))
        part *= part
        total = part.sum(axis=1)
        step = total / np.maximum((part / np.where(flat, 1.0, below)).sum(axis=1), _TINY) * (np.sqrt(total) - 1)
        t = t + step
        if not (np.abs(step) > _EXACT).any():
            break
    return square * u / np.where(flat, 1.0, t[:, None] + square)


# ---------------------------------------------------------------------------------------------- cylinders, tori


def _as_cylinder(
    surface: Surface, start: np.ndarray, end: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float, bool, Callable[[np.ndarray], np.ndarray]]:
    """Found, start, end, radius, half length and constrained of the cylinder, and the way back to the surface."""
    radius, other = surface.size[:2]
    if surface.kind == "cylinder":
        return np.ones(len(start), bool), start, end, radius, other, surface.sign != 0, lambda x: x
    found, center = _nearest_on_circle(surface, start, end)
    x = -_unit(center)
    y = np.broadcast_to([0.0, 0.0, -1.0], x.shape)
    frame = np.stack([x, y, np.cross(x, y)], axis=1)
    a, b = (np.einsum("nij,nj->ni", frame, p - center) for p in (start, end))
    return found, a, b, radius, np.inf, True, lambda p: center + np.einsum("nij,ni->nj", frame, p)


def _nearest_on_circle(surface: Surface, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) of the torus' middle circle nearest to the lines through start and end, on the side asked for."""
    radius = surface.size[1]
    line = _unit(end - start)
    foot = start - _dot(start, line)[:, None] * line

    def slope(s: np.ndarray) -> np.ndarray:
        """Half the derivative of the squared distance, ``s^2 + foot^2 + R^2 - 2 R rho(s)``."""
        x = foot[:, :2] + s[:, None] * line[:, :2]
        return s - radius * _dot(x, line[:, :2]) / np.maximum(_norm(x), _TINY)

    grid = np.linspace(-radius, radius, _CIRCLE_GRID)  # stationary points are in there, since |d rho / d s| <= 1
    points = foot[:, None] + grid[:, None] * line[:, None]
    distance = grid**2 - 2 * radius * np.sqrt(points[..., 0] ** 2 + points[..., 1] ** 2)
    right = surface.sign * points[..., surface.axis] >= 0
    best = grid[np.argmin(np.where(right, distance, np.inf), axis=1)]
    low, high = best - (grid[1] - grid[0]), best + (grid[1] - grid[0])
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        rising = slope(middle) > 0
        low, high = np.where(rising, low, middle), np.where(rising, middle, high)
    x = foot + ((low + high) / 2)[:, None] * line
    x[:, 2] = 0
    return np.any(right, axis=1), radius * _unit(x)


def _wrap_cylinder(
    start: np.ndarray, end: np.ndarray, radius: float, half_length: float, constrained: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Do segments, in the cylinder's frame, wrap? WrapCylinder.cpp, ``wrapLine``.

    Returns on (N,) bool; must (N,) bool, a straight line through the cylinder; turn (N,), +1 or -1; and the contacts
    (N, 3) where the path meets and leaves the surface.
    """
    a, b = start[:, :2], end[:, :2]
    outside = (_dot(a, a) >= radius**2) & (_dot(b, b) >= radius**2)
    line = b - a
    square = _dot(line, line)
    along = -_dot(a, line) / np.where(square > 0, square, 1)
    nearest = a + along[:, None] * line
    cuts = (square > 0) & (along > 0) & (along < 1) & (_dot(nearest, nearest) < radius**2)
    ccw = np.ones(len(a))
    if constrained:
        one_on_side = (a[:, 0] >= 0) | (b[:, 0] >= 0)
        must = cuts & one_on_side
        crosses_behind = ((a[:, 0] >= 0) != (b[:, 0] >= 0)) & (nearest[:, 0] < 0)
        wraps = outside & (~one_on_side | cuts | crosses_behind)
        # The contacts on the side x > 0.
        (a_ccw, b_ccw), (a_cw, b_cw) = _contacts(start, end, radius, ccw), _contacts(start, end, radius, -ccw)
        a_in, a_in_cw, b_in_cw, b_in = (x[:, 0] >= 0 for x in (a_ccw, a_cw, b_cw, b_ccw))
        wider = _dot(a_ccw[:, :2], b_ccw[:, :2]) < _dot(a_cw[:, :2], b_cw[:, :2])
        neither = np.where(b_in_cw, False, np.where(b_in, True, wider))
        take_ccw = np.where(a_in & a_in_cw, ~b_in_cw, np.where(a_in, True, np.where(a_in_cw, False, neither)))
    else:
        must, wraps = cuts, outside & cuts
        take_ccw = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0] >= 0  # the shorter way round
    turn = np.where(take_ccw, 1.0, -1.0)
    into, out = _contacts(start, end, radius, turn)
    beyond = np.zeros(len(a), bool)
    if np.isfinite(half_length):
        others = _contacts(start, end, radius, -turn)
        far = _dot(into[:, :2], out[:, :2]) < _dot(others[0][:, :2], others[1][:, :2])
        heights = _heights(start, end, into, out, radius, far)
        beyond = (np.abs(heights[0]) > half_length) & (np.abs(heights[1]) > half_length)
    return wraps & ~beyond, must, turn, into, out


def _heights(
    start: np.ndarray, end: np.ndarray, into: np.ndarray, out: np.ndarray, radius: float, far: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How high (N,) OpenSim has both contacts on a cylinder, by which it tells whether they are beyond its ends.

    Not by the geodesic: in the plane of both ends and an apex, the surface's point above the axis' point next to the
    line, where the distances to the axis divide the line; on the side of the line, or with ``far`` on the other.
    """
    apart = [np.hypot(p[:, 0], p[:, 1]) for p in (start, end)]
    middle = start + (apart[0] / np.maximum(apart[0] + apart[1], _TINY))[:, None] * (end - start)
    foot = middle * [0.0, 0.0, 1.0]
    normal = np.cross(start - foot, end - foot)
    aside = _unit(np.stack([-normal[:, 1], normal[:, 0], np.zeros(len(start))], axis=1))
    side = np.where(_dot(middle, aside) >= 0, 1.0, -1.0) * np.where(far, -1.0, 1.0)
    apex = foot + radius * side[:, None] * aside
    plane = np.cross(_unit(start - apex), _unit(end - apex))
    level = np.where(np.abs(plane[:, 2]) > 1e-12, plane[:, 2], np.inf)
    heights = []
    for contact, own, other in ((into, start, end), (out, end, start)):
        height = start[:, 2] - _dot(plane[:, :2], contact[:, :2] - start[:, :2]) / level
        nearer = np.isfinite(level) & (np.abs(height - other[:, 2]) < np.abs(own[:, 2] - other[:, 2]))
        heights.append(np.where(nearer, height, own[:, 2]))
    return heights[0], heights[1]


def _unroll(
    start: np.ndarray, end: np.ndarray, radius: float, turn: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Tangent lengths of start and end seen along the axis, the angle between the contacts, and contact angles."""
    t1, t2 = (np.sqrt(np.maximum(_dot(x[:, :2], x[:, :2]) - radius**2, 0)) for x in (start, end))
    first = np.arctan2(start[:, 1], start[:, 0]) + turn * np.arctan2(t1, radius)
    second = np.arctan2(end[:, 1], end[:, 0]) - turn * np.arctan2(t2, radius)
    return t1, t2, _turn(turn * (second - first)), first, second


def _turn(angle: np.ndarray) -> np.ndarray:
    """In [0, 2 pi), except that rounding just below zero stays there instead of becoming a full turn."""
    slack = 1e-4
    return np.mod(angle + slack, 2 * np.pi) - slack


def _contacts(start: np.ndarray, end: np.ndarray, radius: float, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the geodesics meet and leave the cylinder, (N, 3) each."""
    t1, t2, theta, first, second = _unroll(start, end, radius, turn)
    total = t1 + radius * theta + t2
    slope = (end[:, 2] - start[:, 2]) / np.where(total > 0, total, 1)
    into = np.stack([radius * np.cos(first), radius * np.sin(first), start[:, 2] + slope * t1], axis=1)
    out = np.stack([radius * np.cos(second), radius * np.sin(second), end[:, 2] - slope * t2], axis=1)
    return into, out


def _cylinder_geodesic(start: np.ndarray, end: np.ndarray, radius: float, turn: np.ndarray) -> np.ndarray:
    """Lengths (N,) of tangent, helix and tangent: one straight line on the unrolled cylinder."""
    t1, t2, theta, _, _ = _unroll(start, end, radius, turn)
    return np.hypot(t1 + radius * theta + t2, end[:, 2] - start[:, 2])


# ---------------------------------------------------------------------------------------------- small helpers


def _dot(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.einsum("ni,ni->n", x, y)


def _norm(x: np.ndarray) -> np.ndarray:
    return np.sqrt(_dot(x, x))


def _unit(x: np.ndarray) -> np.ndarray:
    size = _norm(x)[:, None]
    return x / np.where(size > 0, size, 1)
