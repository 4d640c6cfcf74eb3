"""A picture of an episode so far, drawn without a display: the limb, what moves it, and how well it goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from nms_gym.envs.rendering import style
from nms_gym.envs.rendering.limb_panel import LimbPanel
from nms_gym.envs.rendering.scene import Scene
from nms_gym.envs.rendering.strip_panels import RasterPanel, StripPanel

MANY = 16
"""muscles from which on the raster has a column of its own"""


class History:
    """What ``draw`` needs of an episode, gathered from the infos of its steps; keeps the figure between pictures."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        body = scene.body
        limb = ("q", "target", "goal", "activation", "device_torque", "stimulation") if body is not None else ()
        lines = [line.key for strip in scene.strips for line in strip.lines if line.key]
        self.picture: _Picture | None = None
        self._keys = tuple(dict.fromkeys(("excitation", *limb, *lines)))
        self.start({})

    def start(self, info: Mapping[str, Any]) -> None:
        """Forget the last episode; take over how the new one begins."""
        self.first = self._kept(info)
        self.infos: list[dict[str, np.ndarray]] = []
        self.time: list[float] = []
        self.total = 0.0
        self.success = False

    def add(self, info: Mapping[str, Any]) -> None:
        """Take over one step."""
        self.infos.append(self._kept(info))
        self.time.append(float(info["time"]))
        self.total += sum(float(value) for name, value in info.items() if name.startswith("reward_"))
        self.success = bool(info.get("success", False))

    def __getstate__(self) -> dict[str, Any]:
        # A figure is drawn again, and need not be pickled.
        return self.__dict__ | {"picture": None}

    def _kept(self, info: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {key: np.array(info[key], dtype=float) for key in self._keys if key in info}


def draw(history: History) -> np.ndarray:
    """An RGB picture, ``(H, W, 3)`` uint8 with H and W even; that of equal histories is equal."""
    # Undone at once: a user's own settings stay as they are.
    with matplotlib.rc_context(style.RC):
        if history.picture is None:
            history.picture = _Picture(history.scene)
        return history.picture.draw(history)


class _Picture:
    """The figure: what stays is drawn once and kept as pixels, what moves is drawn over it."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        width, height = style.SIZE
        # Figure and canvas by hand: pyplot would keep them and choose a backend for the whole process.
        self.figure = Figure(figsize=(width / style.DPI, height / style.DPI), dpi=style.DPI)
        self.canvas = FigureCanvasAgg(self.figure)
        self.background: Any = None
        self.limb: LimbPanel | None = None
        self._text(24, 20, scene.title, fontsize=11, fontweight="bold", ha="left")
        self.status = self._text(width - 18, 20, "", fontsize=9, ha="right", animated=True, color=style.SOFT)
        self.verdict = self._text(width - 18, 20, "", fontsize=9, ha="right", animated=True, fontweight="bold")
        self._lay_out()

    def _text(self, x: float, y: float, text: str, **how: Any) -> Text:
        """Text at pixels from the left and from the top."""
        width, height = style.SIZE
        return self.figure.text(x / width, 1 - y / height, text, va="center", **how)

    def _axes(self, left: float, top: float, right: float, bottom: float) -> Axes:
        """Axes between pixels from the left and from the top."""
        width, height = style.SIZE
        box = (left / width, 1 - bottom / height, (right - left) / width, (bottom - top) / height)
        return self.figure.add_axes(box)

    def _lay_out(self) -> None:
        """Limb on the left, curves beside it, excitations below them or, if many, in a column of their own."""
        scene = self.scene
        width, height = style.SIZE
        many = len(scene.muscles) > MANY
        label = 12.0 + 5.6 * max((len(m) for m in scene.muscles), default=0) * (0.82 if many else 1.0)
        top, bottom = 62.0, height - (40.0 if scene.body is not None else 64.0)
        right = width - 18.0
        left = 20.0
        if scene.body is not None:
            edge = 440.0 if many else 500.0
            self.limb = LimbPanel(self._axes(8, 40, edge, height - 46), scene)
            self._bar(30, height - 30)
            left = edge
        self.strips: list[StripPanel] = []
        if many:
            raster = (right - (150 if scene.body else 230), right)
            columns = (left + 46, raster[0] - label - 14)
            box = (raster[0], top, raster[1], bottom)
            rows = (top, bottom)
        else:
            columns = (left + max(label, 44), right)
            used = 15.0 * len(scene.muscles) + 26
            box = (columns[0], bottom - used + 26, columns[1], bottom)
            rows = (top, bottom - used - 14)
        self._strips(columns, rows, last=many)
        axes = self._axes(*box)
        self.raster = RasterPanel(axes, scene)
        axes.set_xlabel("time (s)", fontsize=8, labelpad=2)
        if scene.body is None:
            self._bar(24, height - 22)

    def _strips(self, columns: tuple[float, float], rows: tuple[float, float], *, last: bool) -> None:
        count = len(self.scene.strips)
        gap = 26.0
        each = (rows[1] - rows[0] - gap * (count - 1)) / max(count, 1)
        for i, strip in enumerate(self.scene.strips):
            top = rows[0] + i * (each + gap)
            axes = self._axes(columns[0], top, columns[1], top + each)
            self.strips.append(StripPanel(axes, strip, self.scene.time))
            bare = not (last and i == count - 1)
            axes.tick_params(labelbottom=not bare)
            if not bare:
                axes.set_xlabel("time (s)", fontsize=8, labelpad=2)

    def _bar(self, left: float, y: float) -> None:
        """The scale of colours."""
        axes = self._axes(left, y, left + 110, y + 8)
        axes.imshow(np.linspace(0, 1, 110)[None], aspect="auto", cmap=style.ACTIVATION, extent=(0, 1, 0, 1))
        axes.set_yticks([])
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=6.5)
        axes.tick_params(length=2, pad=1.5)
        for spine in axes.spines.values():
            spine.set_visible(False)
        what = "activation (muscles), excitation (bands)" if self.scene.body is not None else "excitation"
        self._text(left + 122, y + 4, what, fontsize=7.5, ha="left", color=style.SOFT)

    # -- one picture

    def draw(self, history: History) -> np.ndarray:
        info = history.infos[-1] if history.infos else history.first
        time = np.array(history.time)
        changed = [panel.update(time, history.infos) for panel in (*self.strips, self.raster)]
        moved: list[Artist] = []
        if self.limb is not None and info:
            self.limb.update(info)
            moved = self.limb.animated
        self._status(history)
        if self.background is None or any(changed):
            self.canvas.draw()
            self.background = self.canvas.copy_from_bbox(self.figure.bbox)
        self.canvas.restore_region(self.background)
        for artist in (*moved, *self.raster.animated, *(a for s in self.strips for a in s.animated)):
            artist.axes.draw_artist(artist)  # type: ignore[union-attr]
        self.figure.draw_artist(self.status)
        self.figure.draw_artist(self.verdict)
        return np.asarray(self.canvas.buffer_rgba())[..., :3].copy()

    def _status(self, history: History) -> None:
        now = history.time[-1] if history.time else self.scene.time[0]
        self.verdict.set_text("✓ success" if history.success else "")
        self.verdict.set_color(style.GREEN)
        text = f"t = {now:.2f} s     return {history.total:.2f}".replace("-", "\N{MINUS SIGN}")
        # The mark has its own place, so that the numbers do not jump when it appears.
        self.status.set_text(text)
        self.status.set_x((style.SIZE[0] - 104) / style.SIZE[0])
