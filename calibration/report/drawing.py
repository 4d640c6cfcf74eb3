"""What all figures share: style, colors, and PNG bytes. Matplotlib is imported when one is drawn, and its global state
stays as it was."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


WIDTH = 11.0
DPI = 120
MAX_WINDOWS = 5
"""drawn side by side in one figure; metrics use all"""
MAX_SETS = 5
"""of windows, with figures of their own; metrics use all"""
POINTS = 101
"""of a window from 0 to 100 %"""
MAX_SERIES_SECONDS = 20.0

# Colour-blind safe (Okabe & Ito); uncalibrated is also dashed, so that print in grey can be read.
MEASURED, BEFORE, AFTER = "#1a1a1a", "#8a929b", "#0072b2"
HELD_OUT = "#7a4b00"
SET_STYLES = [(0, (4, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (2, 2))]
EXCITATION, FLAG, BAND, GRID = "#e69f00", "#d55e00", "#dfe7ee", "#e6e9ec"

STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa3ad",
    "axes.linewidth": 0.8,
    "xtick.color": "#4a5058",
    "ytick.color": "#4a5058",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.5,
}


@dataclass(frozen=True)
class Picture:
    """One figure: its file name without suffix, caption, and PNG bytes, or those of another ``kind`` of file."""

    name: str
    title: str
    caption: str
    png: bytes
    kind: str = "png"


@contextmanager
def drawing() -> Iterator[None]:
    """Our style over matplotlib's own defaults, whatever the user's matplotlibrc says; put back afterwards."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        for name, value in STYLE.items():
            matplotlib.rcParams[name] = value  # type: ignore[index]
        yield


def new_figure(height: float, width: float = WIDTH, constrained: bool = True) -> Figure:
    """An empty figure, inches, that nothing but ``png`` draws."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained" if constrained else None)
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """A figure as a small PNG."""
    from PIL import Image

    canvas = figure.canvas
    canvas.draw()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")  # type: ignore[attr-defined]
    # A few hues and their blends with white: a palette of 256 holds them, in a third of the bytes.
    stream = io.BytesIO()
    pixels.quantize(256, dither=Image.Dither.NONE).save(stream, format="png", optimize=True, dpi=(DPI, DPI))
    return stream.getvalue()


def short(name: str, width: int = 40) -> str:
    """A name as matplotlib should print it: never as a formula, never longer than there is room for."""
    name = name if len(name) <= width else name[: width - 1] + "…"
    return name.replace("$", r"\$")


def few_ticks(ax: Axes, x: int = 4, y: int = 4, prune: Literal["both"] | None = None) -> None:
    """At most so many intervals on either axis."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(x, prune=prune))
    ax.yaxis.set_major_locator(MaxNLocator(y))


def normalised(time: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``(T, n)`` at 0 to 100 % of the window: ``(POINTS, n)``."""
    phase = (time - time[0]) / (time[-1] - time[0])
    grid = np.linspace(0.0, 1.0, POINTS)
    return np.stack([np.interp(grid, phase, column) for column in values.T], axis=1)


def band(ax: Axes, curves: np.ndarray, color: str, dashed: bool = False) -> None:
    """Mean and standard deviation of ``curves (n, POINTS)``."""
    x = np.linspace(0, 100, POINTS)
    mean, sd = curves.mean(axis=0), curves.std(axis=0)
    ax.fill_between(x, mean - sd, mean + sd, color=color, alpha=0.18, linewidth=0)
    ax.plot(x, mean, color=color, linestyle=(0, (4, 2)) if dashed else "-")
