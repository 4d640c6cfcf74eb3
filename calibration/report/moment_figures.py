"""Figures of joint moments: means over windows of a kind, and whole windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from calibration.report.drawing import (
    AFTER,
    BEFORE,
    MAX_SETS,
    MAX_WINDOWS,
    MEASURED,
    WIDTH,
    Picture,
    band,
    few_ticks,
    new_figure,
    normalised,
    png,
    short,
)
from calibration.report.evidence import Evidence, Run, WindowSet
from calibration.report.names import joint_name, number, plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _chosen(windows: Sequence[Run], limit: int) -> list[Run]:
    """Evenly spread over the recording."""
    if len(windows) <= limit:
        return list(windows)
    return [windows[i] for i in np.linspace(0, len(windows) - 1, limit).round().astype(int)]


def _moment_legend(figure: Figure, evidence: Evidence, measured: bool, band: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=MEASURED, label="measured")] if measured else []
    if evidence.calibrated:
        handles.append(Line2D([], [], color=BEFORE, linestyle=(0, (4, 2)), label="uncalibrated"))
    handles.append(
        Line2D([], [], color=AFTER, label="calibrated" if evidence.calibrated else "predicted (not calibrated)")
    )
    title = "mean ± 1 SD" if band else None
    figure.legend(handles=handles, loc="outside upper center", ncols=4, title=title, title_fontsize=8.5)


def _set_title(windows: WindowSet, width: int = 40) -> str:
    return f"HELD OUT · {short(windows.label, width)}" if windows.held_out else short(windows.label, width).capitalize()


def _set_color(windows: WindowSet) -> str:
    return "#8a5a00" if windows.held_out else "#4a5058"


def _shown_sets(evidence: Evidence) -> tuple[list[WindowSet], str]:
    shown = list(evidence.sets[:MAX_SETS])
    left = len(evidence.sets) - len(shown)
    return shown, f" {plural(left, 'more held-out set')} not drawn; the table has all." if left else ""


def mean_moments(evidence: Evidence) -> list[Picture]:
    """Every joint on every set of like windows, averaged over their duration."""
    shown, left = _shown_sets(evidence)
    sets = [s for s in shown if s.alike]
    if not sets:
        return []
    joints = evidence.coordinates
    figure = new_figure(0.6 + 1.95 * len(joints), width=WIDTH if len(sets) > 1 else 6.5)
    axes = figure.subplots(len(joints), len(sets), squeeze=False, sharex=True, sharey="row")
    measured = False
    for column, windows in enumerate(sets):
        axes[0, column].set_title(
            f"{_set_title(windows, 26)}\n{plural(len(windows.runs), 'window')}",
            color=_set_color(windows),
            fontweight="bold",
        )
        for row, c in enumerate(joints):
            ax = axes[row, column]
            runs = [r for r in windows.runs if c in r.coordinates]
            if not runs:
                ax.set_axis_off()
                continue
            layers = [("measured", MEASURED, False), ("before", BEFORE, True), ("after", AFTER, False)]
            for what, color, dashed in layers:
                curves = [_curve(r, c, what) for r in runs]
                kept = [x for x in curves if x is not None and np.isfinite(x).all()]
                if kept:
                    band(ax, np.array(kept), color, dashed)
                    measured = measured or what == "measured"
            ax.axhline(0, color="#b5bcc4", linewidth=0.7, zorder=1)
            few_ticks(ax)
            _corner_r2(ax, evidence, windows, c)
    for row, c in enumerate(joints):
        axes[row, 0].set_ylabel(f"{short(joint_name(c), 24)}\nmoment (N·m)")
        bottom, top = axes[row, 0].get_ylim()
        axes[row, 0].set_ylim(bottom, top + 0.13 * (top - bottom))  # room for R² above the curves
    for ax in axes[-1]:
        ax.set_xlabel("window (%)")
        ax.set_xlim(0, 100)
    _moment_legend(figure, evidence, measured, band=True)
    return [
        Picture(
            "moments_mean",
            "Moments over the window, averaged",
            "Every window stretched to 0–100 % of its duration; line: mean, band: ± 1 SD over the windows of the set. "
            f"Numbers: R² of the {'calibrated' if evidence.calibrated else 'predicted'} moments over all samples of "
            f"the set. Moments are positive along the coordinate.{left}",
            png(figure),
        )
    ]


def _curve(run: Run, coordinate: str, what: str) -> np.ndarray | None:
    k = run.coordinates.index(coordinate)
    if what == "measured":
        values = run.measured
    else:
        out = run.before if what == "before" else run.after
        values = None if out is None else np.asarray(out.moments)
    return None if values is None else normalised(run.time, values[:, k : k + 1])[:, 0]


def _corner_r2(ax: Axes, evidence: Evidence, windows: WindowSet, coordinate: str) -> None:
    for s in evidence.scores:
        if s.windows is windows and s.coordinate == coordinate:
            box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5}
            ax.annotate(
                f"R² {number(s.after.r2)}",
                (1, 1),
                xytext=(-4, -4),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="right",
                va="top",
                fontsize=8,
                color=AFTER,
                bbox=box,
            )


def moment_series(evidence: Evidence) -> list[Picture]:
    """Moments over time, window by window, one figure per set."""
    sets, left = _shown_sets(evidence)
    held_out_first = int(evidence.sets[0].held_out)
    pictures = []
    for i, windows in enumerate(sets):
        runs = _chosen(windows.runs, MAX_WINDOWS)
        joints = [c for c in evidence.coordinates if any(c in r.coordinates for r in windows.runs)]
        figure = new_figure(0.75 + 1.75 * len(joints))
        axes = figure.subplots(len(joints), len(runs), squeeze=False, sharey="row", sharex="col")
        for column, run in enumerate(runs):
            axes[0, column].set_title(
                short(run.name, max(22, 90 // len(runs))), fontsize=7.5, color=_set_color(windows)
            )
            for row, c in enumerate(joints):
                ax = axes[row, column]
                if c not in run.coordinates:
                    ax.set_axis_off()
                    continue
                k = run.coordinates.index(c)
                if run.measured is not None:
                    ax.plot(run.time, run.measured[:, k], color=MEASURED)
                if run.before is not None:
                    ax.plot(
                        run.time,
                        np.asarray(run.before.moments)[:, k],
                        color=BEFORE,
                        linestyle=(0, (4, 2)),
                        linewidth=1.2,
                    )
                ax.plot(run.time, np.asarray(run.after.moments)[:, k], color=AFTER)
                ax.axhline(0, color="#b5bcc4", linewidth=0.7, zorder=1)
                few_ticks(ax, x=4 if len(runs) > 2 else 10, prune="both" if len(runs) > 1 else None)
                ax.set_xlim(run.time[0], run.time[-1])
        for row, c in enumerate(joints):
            axes[row, 0].set_ylabel(f"{short(joint_name(c), 24)}\nmoment (N·m)")
        for ax in axes[-1]:
            ax.set_xlabel("time (s)")
        _moment_legend(figure, evidence, any(r.measured is not None for r in runs), band=False)
        note = "" if any(r.measured is not None for r in windows.runs) else " No measured moments: predictions only."
        if len(runs) < len(windows.runs):
            note += f" {len(runs)} of {len(windows.runs)} windows drawn, evenly spread; metrics use all."
        pictures.append(
            Picture(
                f"moments_held_out_{i + held_out_first}" if windows.held_out else "moments_training",
                f"Moments over time: {'held-out set “' + windows.label + '”' if windows.held_out else windows.label}",
                f"Time of the recording; the lead-in is not drawn.{note}{left if i == len(sets) - 1 else ''}",
                png(figure),
            )
        )
    return pictures
