"""Beside the limb: curves over time, and the excitations of all muscles as bands of colour."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from nms_gym.envs.rendering import style
from nms_gym.envs.rendering.scene import Scene, Strip

COLUMNS = 240
"""of the bands of colour, over an episode"""


class StripPanel:
    """One strip; ``animated`` are drawn anew in every picture."""

    def __init__(self, axes: Axes, strip: Strip, time: tuple[float, float]) -> None:
        self.axes, self.strip = axes, strip
        self.above = 1 + 5 / axes.get_window_extent().height
        axes.set_xlim(*time)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 3, 5, 6, 10], min_n_ticks=3))
        axes.grid(axis="y", color=style.FAINT, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.text(0.0, self.above, strip.label, transform=axes.transAxes, va="bottom", ha="left", fontsize=8)
        self._legend()
        known = [line for line in strip.lines if not line.key]
        for line in known:
            axes.plot(np.asarray(line.time), np.asarray(line.values), **style.LINES[line.style])
        self.fixed = [np.asarray(line.values, float) for line in known]
        self.lines = [line for line in strip.lines if line.key]
        self.curves = [Line2D([], [], **style.LINES[line.style], animated=True) for line in self.lines]
        self.now = [
            Line2D([], [], marker="o", markersize=4.2, color=style.LINES[line.style]["color"], animated=True)
            for line in self.lines
        ]
        for artist in (*self.curves, *self.now):
            artist.set_solid_capstyle("round")
            axes.add_line(artist)
        self.animated: list[Artist] = [*self.curves, *self.now]
        self._limits: tuple[float, float] | None = None
        self.update(np.zeros(0), [])

    def _legend(self) -> None:
        """Names in the colours of their lines, from the right."""
        if len(self.strip.lines) == 1 and self.strip.lines[0].label in ("", "actual"):
            return
        _words(self.axes, {line.label: style.LINES[line.style]["color"] for line in self.strip.lines})

    def update(self, time: np.ndarray, infos: Sequence[Mapping[str, Any]]) -> bool:
        """Show the steps so far; True when the axes have changed."""
        drawn = []
        for line, curve, now in zip(self.lines, self.curves, self.now, strict=True):
            values = [i[line.key] if line.index is None else i[line.key][line.index] for i in infos]
            values = line.scale * np.asarray(values, float).reshape(-1)
            curve.set_data(time, values)
            now.set_data(time[-1:], values[-1:])
            drawn.append(values)
        limits = _limits(self.strip.limits, np.concatenate([*self.fixed, *drawn, np.zeros(0)]))
        if limits == self._limits:
            return False
        self._limits = limits
        self.axes.set_ylim(*limits)
        return True


def _limits(given: tuple[float, float] | None, values: np.ndarray) -> tuple[float, float]:
    """The given limits, widened to hold the values; wide enough to need no change in the next steps."""
    values = values[np.isfinite(values)]
    low, high = given if given is not None else (0.0, 0.0)
    low, high = min(low, values.min(initial=low)), max(high, values.max(initial=high))
    if given is not None and (low, high) == given:
        pad = 0.06 * (high - low)
        return low - pad, high + pad
    # In steps of a fifth of the next power of two: it grows seldom, and the same way whenever it is looked at.
    step = 2.0 ** math.ceil(math.log2(max(high - low, 1e-3))) / 5.0
    return step * math.floor(low / step - 0.15), step * math.ceil(high / step + 0.15)


def _words(axes: Axes, colours: Mapping[str, str]) -> float:
    """A legend of coloured words above the axes, up to their right end; returns where it begins, of their width."""
    box = axes.get_window_extent()
    spot = 1.0
    for word, colour in reversed(list(colours.items())):
        text = axes.text(
            spot,
            1 + 5 / box.height,
            word,
            transform=axes.transAxes,
            va="bottom",
            ha="right",
            fontsize=7.5,
            color=colour,
        )
        spot -= (text.get_window_extent().width + 10) / box.width
    return spot


class RasterPanel:
    """Excitations of all muscles over time; names in the colour of what drives them."""

    def __init__(self, axes: Axes, scene: Scene) -> None:
        self.axes, self.time = axes, scene.time
        count = len(scene.muscles)
        box = axes.get_window_extent()
        row = box.height / max(count, 1)
        self.image = axes.imshow(
            np.zeros((count, COLUMNS, 4), np.uint8),
            extent=(*scene.time, count - 0.5, -0.5),
            aspect="auto",
            interpolation="nearest",
            animated=True,
        )
        axes.set_facecolor("#f3f4f5")
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        size = min(8.0, 0.9 * row * 72 / style.DPI / 1.16)
        axes.set_yticks(range(count), scene.muscles, fontsize=size)
        axes.tick_params(axis="y", length=0, pad=3)
        kinds = [style.drive_kind(scene.drive.get(m, "passive")) for m in scene.muscles]
        for label, kind in zip(axes.get_yticklabels(), kinds, strict=True):
            label.set_color(style.DRIVES[kind])
        for spine in axes.spines.values():
            spine.set_visible(False)
        # White lines part the rows.
        self.grid = axes.hlines(
            np.arange(count - 1) + 0.5, *scene.time, color="white", linewidth=0.8 if row > 7 else 0.4, animated=True
        )
        title = axes.text(0.0, 1 + 5 / box.height, "excitation", transform=axes.transAxes, va="bottom", fontsize=8)
        spot = _words(axes, {kind: style.DRIVES[kind] for kind in style.DRIVES if kind in kinds})
        if spot * box.width < title.get_window_extent().width:  # no room beside the title
            title.set_y(1 + 19 / box.height)
        self.animated: list[Artist] = [self.image, self.grid]

    def update(self, time: np.ndarray, infos: Sequence[Mapping[str, Any]]) -> bool:
        """Show the steps so far; the axes never change."""
        count = self.image.get_array().shape[0]  # type: ignore[union-attr]
        colours = np.zeros((count, COLUMNS, 4), np.uint8)
        if len(time):
            start, stop = self.time
            edges = start + (stop - start) * (np.arange(COLUMNS) + 0.5) / COLUMNS
            step = np.searchsorted(time, edges - 1e-9)
            past = step < len(time)
            first = time[0] - (time[1] - time[0] if len(time) > 1 else 0.0)
            past &= edges > first
            needed, back = np.unique(step[past], return_inverse=True)
            if len(needed):
                values = np.array([np.asarray(infos[i]["excitation"], float) for i in needed])
                colours[:, past] = style.ACTIVATION(np.clip(values, 0, 1), bytes=True)[back].swapaxes(0, 1)
        self.image.set_data(colours)
        return False
