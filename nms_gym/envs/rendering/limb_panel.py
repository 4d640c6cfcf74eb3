"""The limb: bones, joints, muscles by activation, what a device or electrodes do, and where it should go."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.text import Text

from nms_gym.anatomy import Joint
from nms_gym.envs.rendering import style
from nms_gym.envs.rendering.bones import Shape, shapes
from nms_gym.envs.rendering.muscles import courses, smoothed, spindle
from nms_gym.envs.rendering.pose import Pivot, Pose, posed_body
from nms_gym.envs.rendering.scene import Scene

FACES = {"bone": style.BONE, "flesh": style.FLESH, "root": style.ROOT}
EDGES = {"bone": style.BONE_EDGE, "flesh": "none", "root": style.ROOT_EDGE}


class LimbPanel:
    """Keeps its artists and moves them. ``animated`` are drawn anew in every picture, from the back to the front."""

    def __init__(self, axes: Axes, scene: Scene) -> None:
        assert scene.body is not None
        self.axes, self.scene, self.body = axes, scene, scene.body
        self.limb = posed_body(scene.body)
        grid = self._grid()
        middle = self.limb.poses(np.mean(self._ranges(), axis=1)[None])[0]
        moving = self.limb.moving()
        self.shapes = shapes(self.limb, middle)
        self.courses = [c for c in courses(self.limb) if c.muscle in scene.muscles]
        # What is nearer to the viewer covers what is behind it.
        self.courses.sort(key=lambda c: np.mean([middle.depth(b, x) for b, x in c.places]))
        self.activations = [scene.muscles.index(c.muscle) for c in self.courses]
        self.solid = [s for s in self.shapes if s.body not in moving]
        self.loose = [s for s in self.shapes if s.body in moving]
        self.joints = [j for j in scene.body.skeleton.joints if set(j.coordinates) & set(scene.body.coordinates)]
        self._frame(self.limb.poses(grid))
        self._build(middle)

    # -- what stays

    def _ranges(self) -> list[tuple[float, float]]:
        body = self.body
        paths = body.paths
        domains = {} if paths is None else dict(zip(paths.coordinates, np.asarray(paths.domain), strict=True))
        found = []
        for name in body.coordinates:
            low, high = body.ranges.get(name, domains.get(name, body.skeleton.coordinate(name).range))
            found.append((float(low), float(high)))
        return found

    def _grid(self) -> np.ndarray:
        """Poses (n, D) that span what the picture must hold."""
        ranges = self._ranges()
        steps = 5 if len(ranges) <= 2 else 3
        return np.array(list(itertools.product(*(np.linspace(low, high, steps) for low, high in ranges))))

    def _frame(self, poses: list[Pose]) -> None:
        """Limits that hold what moves, what it hangs on and the muscles in all poses; a metre is as long across as up.

        Fixed bones further up may leave the picture.
        """
        seen = {joint.parent.body for joint in self.joints} | {shape.body for shape in self.loose}
        seen |= {body for c in self.courses for body in c.bodies if body in {s.body for s in self.shapes if s.root}}
        flesh = [p.place(s.body, s.outline) for p in poses for s in self.shapes if s.body in seen]
        points = [
            p.place(b, x) for p in poses[:1] for c in self.courses for b, x in zip(c.bodies, c.points, strict=True)
        ]
        cloud = np.concatenate([*flesh, np.reshape(points, (-1, 2))])
        low, high = cloud.min(axis=0), cloud.max(axis=0)
        box = self.axes.get_window_extent()
        self.metre = 0.92 * float(min(box.width / (high[0] - low[0]), box.height / (high[1] - low[1])))
        half = 0.5 * np.array([box.width, box.height]) / self.metre
        middle = 0.5 * (low + high)
        self.axes.set_xlim(middle[0] - half[0], middle[0] + half[0])
        self.axes.set_ylim(middle[1] - half[1], middle[1] + half[1])
        self.axes.set_axis_off()
        coupled = {coupler.dependent for coupler in self.body.skeleton.couplers}
        solid = {shape.body for shape in self.solid if not shape.root}
        for joint in self.body.skeleton.joints:
            if joint.child.body in solid and set(joint.coordinates) - coupled:
                dot = Line2D(
                    *poses[0].joint(joint)[:, None], marker="o", markersize=5, color=style.FIXED_EDGE, zorder=3
                )
                self.axes.add_line(dot)

    def pixels(self, count: float) -> float:
        """That many pixels, in m."""
        return count / self.metre

    def _patch(self, shape: Shape, pose: Pose, fixed: bool) -> PathPatch:
        face, edge = FACES[shape.kind], EDGES[shape.kind]
        if fixed and shape.kind != "root":
            face, edge = (style.FIXED_FLESH, "none") if shape.kind == "flesh" else (style.FIXED_BONE, style.FIXED_EDGE)
        patch = PathPatch(
            _closed(pose.place(shape.body, shape.outline)),
            facecolor=face,
            edgecolor=edge,
            linewidth=0.9,
            joinstyle="round",
            hatch="////" if shape.kind == "root" else None,
            animated=not fixed,
            zorder=1 if shape.kind == "flesh" else 2,
        )
        self.axes.add_patch(patch)
        return patch

    def _build(self, pose: Pose) -> None:
        """All artists, empty where they move."""
        # Flesh behind all bones.
        self.solid.sort(key=lambda s: s.kind != "flesh")
        self.loose.sort(key=lambda s: s.kind != "flesh")
        for shape in self.solid:
            self._patch(shape, pose, fixed=True)
        self.patches = [self._patch(shape, pose, fixed=False) for shape in self.loose]
        self.ghost = PathPatch(
            Path(np.zeros((1, 2))),
            facecolor="none",
            edgecolor=style.SOFT,
            linewidth=1.0,
            linestyle=(0, (3.5, 2.5)),
            animated=True,
        )
        self.axes.add_patch(self.ghost)
        self.bellies = self._bellies()
        self.muscles = PolyCollection([], linewidths=0.6, edgecolors=style.INK, animated=True)
        self.axes.add_collection(self.muscles, autolim=False)
        self.centres = Line2D([], [], linestyle="none", marker="o", markersize=7.5, animated=True)
        self.centres.set(markerfacecolor="white", markeredgecolor=style.INK, markeredgewidth=1.1)
        self.electrodes = [self._mark("s", 6.5) for _ in self.body.electrodes]
        self.goal = [self._mark("o", 15), self._mark("+", 9)]
        self.goal[0].set(markerfacecolor="none", markeredgecolor=style.INK, markeredgewidth=1.3)
        self.goal[1].set(markeredgecolor=style.INK, markeredgewidth=1.3)
        self.tip = self._mark("o", 5)
        self.tip.set(markerfacecolor=style.BLUE, markeredgecolor="white")
        self.arrows = [PathPatch(Path(np.zeros((1, 2))), linewidth=0.8, animated=True) for _ in self.body.coordinates]
        self.numbers = [Text(0, 0, "", fontsize=8.5, fontweight="bold", animated=True) for _ in self.body.coordinates]
        for artist in (*self.arrows, *self.numbers):
            self.axes.add_artist(artist)
        for number in self.numbers:
            number.set(ha="center", va="center", clip_on=False)
            number.set_bbox({"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "none", "alpha": 0.85})
        self.axes.add_line(self.centres)
        self.animated: list[Artist] = [
            *(p for p in self.patches if p.get_zorder() == 1),
            *(p for p in self.patches if p.get_zorder() == 2),
            self.muscles,
            self.ghost,
            self.centres,
            *self.electrodes,
            *self.goal,
            self.tip,
            *self.arrows,
            *self.numbers,
        ]

    def _mark(self, marker: str, size: float) -> Line2D:
        line = Line2D([], [], linestyle="none", marker=marker, markersize=size, animated=True)
        self.axes.add_line(line)
        return line

    def _bellies(self) -> np.ndarray:
        """Widths (muscles,) m: by the root of strength, as cross-sections go, and thinner where there are many."""
        force = np.array([self.body.strength.get(c.muscle, 1.0) for c in self.courses])
        if not len(force):
            return force
        widest = np.interp(len(force), [6, 40], [13.0, 8.0])
        return self.pixels(widest) * (0.4 + 0.6 * np.sqrt(force / force.max()))

    # -- what moves

    def update(self, info: dict[str, Any]) -> None:
        """Move everything to where the info says."""
        q = np.asarray(info["q"], float)
        target = np.asarray(info["target"], float) if "target" in info else None
        pose, ghost, pivots = self.limb.around(q, target)
        for shape, patch in zip(self.loose, self.patches, strict=True):
            patch.set_path(_closed(pose.place(shape.body, shape.outline)))
        if target is not None:
            outlines = [_closed(ghost.place(s.body, s.outline)) for s in self.loose if s.kind == "bone"]
            self.ghost.set_path(Path.make_compound_path(*outlines))
        self.ghost.set_visible(target is not None)
        arms = self.limb.moment_arms(q)
        lines = [smoothed(course.line(pose, pivots, arms)) for course in self.courses]
        self.muscles.set_verts([spindle(line, belly) for line, belly in zip(lines, self.bellies, strict=True)])
        colours = style.ACTIVATION(np.clip(np.asarray(info["activation"], float)[self.activations], 0.0, 1.0))
        # Edges in a darker shade keep neighbours apart.
        self.muscles.set(facecolors=colours, edgecolors=colours * np.array([0.62, 0.62, 0.62, 1.0]))
        self.centres.set_data(*np.array([pose.joint(joint) for joint in self.joints]).T)
        self._update_electrodes(info, lines)
        self._update_goal(info, pose)
        self._update_device(info, pose, pivots)

    def _update_electrodes(self, info: dict[str, Any], lines: list[np.ndarray]) -> None:
        levels = np.asarray(info.get("stimulation", np.zeros(len(self.electrodes))), float)
        for mark, muscles, level in zip(self.electrodes, self.body.electrodes, levels, strict=True):
            # Two pads, on the bellies of the electrode's muscles.
            on = np.array([line for c, line in zip(self.courses, lines, strict=True) if c.muscle in muscles])
            if not len(on):
                continue
            mark.set_data(*on.mean(axis=0)[[9, 17]].T)
            pale = np.array([1.0, 1.0, 1.0])
            full = np.array([0xE6, 0x9F, 0x00]) / 255
            mark.set(markerfacecolor=tuple(pale + np.clip(level, 0, 1) * (full - pale)), markeredgecolor=style.INK)

    def _update_goal(self, info: dict[str, Any], pose: Pose) -> None:
        if "goal" in info:
            x, y = self.limb.view[:2] @ np.asarray(info["goal"], float)
            for mark in self.goal:
                mark.set_data([x], [y])
        if self.body.tip is not None:
            x, y = pose.place(self.body.tip[0], np.asarray(self.body.tip[1], float))
            self.tip.set_data([x], [y])

    def _update_device(self, info: dict[str, Any], pose: Pose, pivots: dict[str, Pivot]) -> None:
        torques = np.asarray(info.get("device_torque", np.zeros(len(self.arrows))), float)
        shown = "device_torque" in info
        for name, torque, arrow, number in zip(self.body.coordinates, torques, self.arrows, self.numbers, strict=True):
            seen = shown and name in pivots and abs(torque) > 1e-3 * self.body.largest_torque
            arrow.set_visible(seen)
            number.set_visible(seen)
            if seen:
                joint = next(j for j in self.joints if name in j.coordinates)
                self._bend_arrow(arrow, number, pose, joint, pivots[name], float(torque))

    def _bend_arrow(
        self, arrow: PathPatch, number: Text, pose: Pose, joint: Joint, pivot: Pivot, torque: float
    ) -> None:
        """An arc round the joint on its outer side, as long as the torque is large, the way that the torque turns."""
        centre, way = pose.joint(joint), float(np.sign(pivot.rate))
        body = next(b for b in self.body.skeleton.bodies if b.name == joint.child.body)
        parent = self.limb.joints.get(joint.parent.body)
        far = pose.place(body.name, body.mass_center) - centre
        near = pose.joint(parent) - centre if parent is not None else np.array([0.0, 1.0])
        angle, before = np.arctan2(far[1], far[0]), np.arctan2(near[1], near[0])
        # The joint closes on the side that it turns to; half way round the other side there is room.
        middle = angle + way * (0.5 * ((way * (before - angle)) % (2 * np.pi))) + np.pi
        sweep = np.radians(40 + 120 * min(abs(torque) / self.body.largest_torque, 1.0)) * way * np.sign(torque)
        colour = style.POSITIVE if torque > 0 else style.NEGATIVE
        radius, thick, head = self.pixels(33), self.pixels(4.5), self.pixels(9)
        arrow.set_path(_arc_arrow(centre, radius, middle - 0.5 * sweep, sweep, thick, head))
        arrow.set(facecolor=colour, edgecolor="white")
        x, y = centre + self.pixels(72) * np.array([1.1 * np.cos(middle), 0.75 * np.sin(middle)])
        number.set_position((float(x), float(y)))
        number.set(text=f"{torque:+.1f} N·m".replace("-", "\N{MINUS SIGN}"), color=colour)


def _closed(outline: np.ndarray) -> Path:
    return Path(np.concatenate([outline, outline[:1]]), closed=True)


def _arc_arrow(centre: np.ndarray, radius: float, start: float, sweep: float, width: float, head: float) -> Path:
    """A bent arrow from ``start`` over ``sweep`` rad; ``head`` is the length and the width of its tip."""
    way = np.sign(sweep)
    tip = 1.35 * head / radius
    angles = start + np.linspace(0.0, sweep - way * min(tip, 0.6 * abs(sweep)), 24)

    def at(r: float, a: Any) -> np.ndarray:
        return centre + r * np.stack([np.cos(a), np.sin(a)], axis=-1)

    neck = angles[-1]
    outer, inner = at(radius + width / 2, angles), at(radius - width / 2, angles)[::-1]
    point = np.stack([at(radius + head * 0.75, neck), at(radius, start + sweep), at(radius - head * 0.75, neck)])
    return _closed(np.concatenate([outer, point, inner]))
