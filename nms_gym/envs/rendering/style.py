"""Colours, fonts and sizes. Colours are told apart by people with any kind of colour vision."""

from __future__ import annotations

from typing import Any

from matplotlib.colors import LinearSegmentedColormap

DPI = 100
SIZE = (960, 540)
"""pixels; even, as video codecs want"""

# From pale blue-grey to deep red. Lightness falls all the way, so that it reads in grey as well.
ACTIVATION = LinearSegmentedColormap.from_list("activation", ["#b9cad9", "#c9aeb0", "#d97b62", "#c8402f", "#8f0d1c"])

# Okabe & Ito 2008, "Color universal design".
BLUE, SKY, GREEN, ORANGE, VERMILION, PURPLE = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7"
INK, SOFT, FAINT = "#1d2733", "#5b6773", "#c9d0d6"

LINES: dict[str, dict[str, Any]] = {
    "actual": {"color": BLUE, "linewidth": 1.7},
    "target": {"color": INK, "linewidth": 1.2, "linestyle": (0, (3.5, 2))},
    "measured": {"color": INK, "linewidth": 1.2},
    "model": {"color": VERMILION, "linewidth": 1.7},
    "device": {"color": GREEN, "linewidth": 1.7},
    "stimulation": {"color": ORANGE, "linewidth": 1.7},
    "other": {"color": PURPLE, "linewidth": 1.7},
}
"""by the style of a line"""

DRIVES = {"recorded": BLUE, "synergy": GREEN, "action": VERMILION, "passive": SOFT}
"""by what drives a muscle"""

BONE, BONE_EDGE = "#e9e4d8", "#8d877a"
FIXED_BONE, FIXED_EDGE = "#efede6", "#aaa59b"
ROOT, ROOT_EDGE = "#e3e1dc", "#a5a19a"
FLESH, FIXED_FLESH = "#f4efec", "#f8f6f4"
POSITIVE, NEGATIVE = GREEN, "#8e3b8a"
"""of a device's torque"""

# Whatever a user has set for his own figures, ours look the same; the context that applies this undoes it at once.
RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.0,
    "mathtext.fontset": "dejavusans",
    "text.color": INK,
    "text.usetex": False,
    "axes.edgecolor": SOFT,
    "axes.facecolor": "white",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.grid": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "axes.xmargin": 0.0,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": False,
    "figure.autolayout": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "xtick.direction": "out",
    "ytick.direction": "out",
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.antialiased": True,
    "path.simplify": True,
    "hatch.color": FIXED_EDGE,
    "hatch.linewidth": 0.6,
    "image.interpolation": "nearest",
}


def drive_kind(text: str) -> str:
    """The first word of what drives a muscle, one of ``DRIVES``."""
    word = text.split(":")[0].split()[0] if text.split() else "passive"
    return word if word in DRIVES else "action"
