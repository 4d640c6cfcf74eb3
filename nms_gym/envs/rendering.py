"""A picture of an episode so far, drawn without a display: moments over time, and what excites each muscle now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nms_gym.envs.moment_tracking import MomentTracking

DPI = 80
COLOURS = {"recorded": "tab:blue", "action": "tab:orange", "passive": "lightgrey"}


class History:
    """What ``draw`` needs of an episode, gathered from the infos of its steps."""

    def __init__(self, task: MomentTracking) -> None:
        self.coordinates = task.coordinates
        self.muscles = task.model.muscles
        self.drive = task.drive
        self.time = np.asarray(task.time, dtype=float)
        self.measured = np.asarray(task.measured, dtype=float)
        self.samples: list[int] = []
        self.moments: list[np.ndarray] = []
        self.excitation = np.zeros(len(self.muscles))

    def start(self, info: Mapping[str, Any]) -> None:
        """Forget the last episode; take over the excitation at rest."""
        self.samples, self.moments = [], []
        self.excitation = np.array(info["excitation"], dtype=float)

    def add(self, info: Mapping[str, Any]) -> None:
        """Take over one step."""
        self.samples.append(int(info["sample"]))
        self.moments.append(np.array(info["moments"], dtype=float))
        self.excitation = np.array(info["excitation"], dtype=float)


def draw(history: History) -> np.ndarray:
    """An RGB picture, ``(H, W, 3)`` uint8."""
    rows = len(history.coordinates)
    # Figure and canvas by hand: pyplot would keep them and choose a backend for the whole process.
    figure = Figure(figsize=(9.0, max(2.0 * rows, 0.16 * len(history.muscles) + 1.0, 3.0)), dpi=DPI, layout="tight")
    canvas = FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows, 2, width_ratios=(2, 1))
    produced = np.array(history.moments).reshape(-1, rows)
    time = history.time[history.samples]
    for row, coordinate in enumerate(history.coordinates):
        axes = figure.add_subplot(grid[row, 0])
        axes.plot(history.time, history.measured[:, row], color="black", linewidth=1.0, label="measured")
        axes.plot(time, produced[:, row], color="tab:red", linewidth=1.5, label="model")
        axes.set_ylabel(f"{coordinate}\n(N·m)", fontsize=8)
        axes.tick_params(labelsize=7)
        if row == 0:
            axes.legend(loc="upper right", fontsize=7)
        if row == rows - 1:
            axes.set_xlabel("time (s)", fontsize=8)
    axes = figure.add_subplot(grid[:, 1])
    kinds = [history.drive[muscle].split(":")[0] for muscle in history.muscles]
    axes.barh(range(len(kinds)), history.excitation, color=[COLOURS[kind] for kind in kinds])
    labels = [f"{m} (passive)" if k == "passive" else m for m, k in zip(history.muscles, kinds, strict=True)]
    axes.set_yticks(range(len(kinds)), labels, fontsize=6)
    axes.invert_yaxis()
    axes.set_xlim(0.0, 1.0)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_title("excitation: recorded (blue), action (orange)", fontsize=8)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
