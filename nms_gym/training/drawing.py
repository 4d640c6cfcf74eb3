"""The learning curve as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nms_gym.recording.storage import atomic_path

if TYPE_CHECKING:
    from nms_gym.training.run import Point


def draw_curve(
    path: Path, name: str, algorithm: str, curve: Sequence[Point], simple: Mapping[str, Mapping[str, float]]
) -> Path:
    """Return and success over steps, beside policies that need no training; a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, 2)
    steps = [point.steps for point in curve]
    for axis, what in zip(axes, ("return", "success"), strict=True):
        axis.plot(steps, [point.score[what] for point in curve], "o-", ms=3, label=algorithm)
        if what == "return":
            low, high = ([p.score[what] + sign * p.score["sd"] for p in curve] for sign in (-1, 1))
            axis.fill_between(steps, low, high, alpha=0.15, lw=0)
        for i, (policy, row) in enumerate(simple.items()):
            axis.axhline(row[what], color=f"C{i + 1}", ls="--", lw=1, label=policy)
        axis.set(xlabel="environment steps", ylabel=what)
    axes[1].set_ylim(-0.03, 1.03)
    axes[0].legend(fontsize=8)
    figure.suptitle(name)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    return path
