"""Figures of a report as PNG bytes. Matplotlib is imported when one is drawn, and its global state stays as it was."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from calibration.report.evidence import Evidence, Fitted, Run, WindowSet
from calibration.report.names import joint_name, number, plural
from nms_gym.model.parameters import KINDS

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


def draw(evidence: Evidence) -> dict[str, list[Picture]]:
    """All figures by section of the report."""
    with drawing():
        pictures = {
            "moments": [*_mean_moments(evidence), *_moment_series(evidence)],
            "excitations": _excitations(evidence),
            "fibers": _fibers(evidence),
            "parameters": _parameters(evidence),
            "convergence": _convergence(evidence),
        }
    return pictures


# --- shared -------------------------------------------------------------


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


def _few_ticks(ax: Axes, x: int = 4, y: int = 4, prune: Literal["both"] | None = None) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(x, prune=prune))
    ax.yaxis.set_major_locator(MaxNLocator(y))


def _chosen(windows: Sequence[Run], limit: int) -> list[Run]:
    """Evenly spread over the recording."""
    if len(windows) <= limit:
        return list(windows)
    return [windows[i] for i in np.linspace(0, len(windows) - 1, limit).round().astype(int)]


def _normalised(time: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``(T, n)`` at 0 to 100 % of the window: ``(POINTS, n)``."""
    phase = (time - time[0]) / (time[-1] - time[0])
    grid = np.linspace(0.0, 1.0, POINTS)
    return np.stack([np.interp(grid, phase, column) for column in values.T], axis=1)


def _band(ax: Axes, curves: np.ndarray, color: str, dashed: bool = False) -> None:
    """Mean and standard deviation of ``curves (n, POINTS)``."""
    x = np.linspace(0, 100, POINTS)
    mean, sd = curves.mean(axis=0), curves.std(axis=0)
    ax.fill_between(x, mean - sd, mean + sd, color=color, alpha=0.18, linewidth=0)
    ax.plot(x, mean, color=color, linestyle=(0, (4, 2)) if dashed else "-")


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


# --- moments ------------------------------------------------------------


def _mean_moments(evidence: Evidence) -> list[Picture]:
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
                    _band(ax, np.array(kept), color, dashed)
                    measured = measured or what == "measured"
            ax.axhline(0, color="#b5bcc4", linewidth=0.7, zorder=1)
            _few_ticks(ax)
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
    return None if values is None else _normalised(run.time, values[:, k : k + 1])[:, 0]


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


def _moment_series(evidence: Evidence) -> list[Picture]:
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
                _few_ticks(ax, x=4 if len(runs) > 2 else 10, prune="both" if len(runs) > 1 else None)
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


# --- excitations --------------------------------------------------------


def _by_channel(evidence: Evidence) -> list[tuple[int, str]]:
    """Driven muscles with what drives each, channel by channel; those that only synergies drive come last."""
    model = evidence.model
    weights = np.asarray(model.channel_weights)
    driven = [i for i, m in enumerate(model.muscles) if m not in model.passive_muscles]
    main = {i: int(np.argmax(np.abs(weights[i]))) if np.any(weights[i]) else len(weights[i]) for i in driven}
    labels = {}
    for i in driven:
        sources = [model.channels[c] for c in np.flatnonzero(weights[i])]
        labels[i] = " + ".join(
            (f"EMG {' + '.join(sources)}",) * bool(sources)
            + ("synergies",) * (model.muscles[i] in model.synergy_muscles)
        )
    order = sorted(driven, key=lambda i: (main[i], len(np.flatnonzero(weights[i])), i))
    return [(i, labels[i]) for i in order]


def _excitations(evidence: Evidence) -> list[Picture]:
    muscles = _by_channel(evidence)
    if not muscles:
        return []
    windows = evidence.sets[0]
    columns = 4 if len(muscles) <= 12 else 6
    rows = math.ceil(len(muscles) / columns)
    figure = new_figure(0.7 + 1.3 * rows)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    first = windows.runs[len(windows.runs) // 2]
    tints = {label: ("#ffffff", "#f4f7fa")[n % 2] for n, label in enumerate(dict.fromkeys(x for _, x in muscles))}
    # Same muscle, other recordings: where these differ, the EMG does, and no parameter can help.
    held_out = [s for s in evidence.sets[1:MAX_SETS] if s.alike] if windows.alike else []
    small = 8.0 if columns == 4 else 7.0
    for ax, (i, label) in zip(axes.flat, muscles, strict=False):
        ax.set_facecolor(tints[label])
        for name, color in (("excitation", EXCITATION), ("activation", AFTER)):
            if windows.alike:
                curves = [
                    _normalised(r.time, np.asarray(getattr(r.after, name))[:, i : i + 1])[:, 0] for r in windows.runs
                ]
                _band(ax, np.array(curves), color)
            else:
                shown = first.time <= first.time[0] + MAX_SERIES_SECONDS
                ax.plot(first.time[shown], np.asarray(getattr(first.after, name))[shown, i], color=color, linewidth=1.2)
        for other, style in zip(held_out, SET_STYLES, strict=False):
            curves = [_normalised(r.time, np.asarray(r.after.excitation)[:, i : i + 1])[:, 0] for r in other.runs]
            x = np.linspace(0, 100, POINTS)
            ax.plot(x, np.mean(curves, axis=0), color=HELD_OUT, linewidth=1.0, linestyle=style)
        ax.set_title(short(evidence.model.muscles[i], 22), fontsize=small + 0.5, fontweight="bold", loc="left", pad=13)
        ax.text(0, 1.05, short(label, 34), transform=ax.transAxes, fontsize=small - 1, color="#6a727b", va="bottom")
        ax.set_ylim(0, 1)
        ax.set_yticks([0, 0.5, 1])
    for ax in axes.flat[len(muscles) :]:
        ax.set_axis_off()
    for n, ax in enumerate(axes.flat):
        if n < len(muscles) <= n + columns:
            ax.set_xlabel("window (%)" if windows.alike else "time (s)", fontsize=8)
            ax.tick_params(labelbottom=True)
    if windows.alike:
        axes[0, 0].set_xlim(0, 100)
        axes[0, 0].set_xticks([0, 50, 100])
    figure.supylabel("fraction of maximum (0–1)", fontsize=9)
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=EXCITATION, label="excitation (after gain and delay)"),
        Line2D([], [], color=AFTER, label="activation"),
    ]
    for other, style in zip(held_out, SET_STYLES, strict=False):
        label = f"mean excitation held out: {short(other.label, 22)}"
        handles.append(Line2D([], [], color=HELD_OUT, linewidth=1.0, linestyle=style, label=label))
    figure.legend(handles=handles, loc="outside upper center", ncols=4 if len(handles) < 5 else 3)
    of = f"the windows of “{windows.label}”" if windows.held_out else "the training windows"
    if windows.alike:
        what = f"Mean ± 1 SD over {of} ({len(windows.runs)}), each stretched to 0–100 %."
    else:
        what = f"{first.name}, one of {of}{'; its first 20 s' if first.duration > MAX_SERIES_SECONDS else ''}."
    return [
        Picture(
            "excitations",
            "Excitation and activation of the driven muscles",
            f"{what} Muscles that share a channel stand side by side on one background.",
            png(figure),
        )
    ]


# --- fibers -------------------------------------------------------------


def _fibers(evidence: Evidence) -> list[Picture]:
    import jax

    model = evidence.model
    count = len(model.muscles)
    elastic = model.settings.tendon != "rigid"
    length, strain = evidence.pooled("fiber_length"), 100 * evidence.pooled("tendon_strain")
    solved = np.isfinite(length).all(axis=1)
    if not solved.any():
        return []
    length, strain = length[solved], strain[solved]
    before = evidence.pooled("fiber_length", after=False) if evidence.calibrated else None
    passive = set(model.passive_muscles)
    body = 0.19 * count + 0.4
    figure = new_figure(body + 1.9, width=WIDTH if elastic else 8.0)
    grid = figure.add_gridspec(
        2, 2 if elastic else 1, height_ratios=[1.1, body], width_ratios=[2.1, 1] if elastic else None
    )
    curve, bars = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
    low, high = evidence.penalties.fiber_length_range
    limits = (min(0.35, length.min() - 0.05), max(1.7, length.max() + 0.05))

    x = np.linspace(*limits, 300)
    with jax.enable_x64(True):
        force = np.asarray(model.settings.curves.active_force_length(jax.numpy.asarray(x)))
    curve.plot(x, force, color="#4a5058")
    curve.fill_between(x, force, where=((x >= low) & (x <= high)).tolist(), color=BAND, linewidth=0)
    curve.set_ylabel("active\nforce / F0")
    curve.set_ylim(0, 1.08)
    curve.set_yticks([0, 1])
    curve.tick_params(labelbottom=False)

    y = np.arange(count)
    bars.axvspan(low, high, color=BAND, alpha=0.6, linewidth=0)
    bars.axvline(1.0, color="#9aa3ad", linewidth=0.8)
    if before is not None:
        bars.hlines(y + 0.3, before.min(axis=0), before.max(axis=0), color=BEFORE, linewidth=1.0)
    flagged = (length.min(axis=0) < low) | (length.max(axis=0) > high)
    colors = [FLAG if f else AFTER for f in flagged]
    bars.hlines(y, length.min(axis=0), length.max(axis=0), color=colors, linewidth=1.4)
    bars.hlines(y, *np.quantile(length, [0.25, 0.75], axis=0), color=colors, linewidth=5)
    bars.scatter(np.median(length, axis=0), y, s=16, color="white", edgecolors=colors, linewidths=1.2, zorder=3)
    bars.set_yticks(y, [short(m, 22) + (" (passive)" if m in passive else "") for m in model.muscles], fontsize=8)
    bars.set_xlabel("fiber length / optimal fiber length")
    for ax in (curve, bars):
        ax.set_xlim(*limits)
    bars.set_ylim(count - 0.4, -0.6)
    bars.grid(axis="y", visible=False)

    if elastic:
        ax = figure.add_subplot(grid[1, 1], sharey=bars)
        peak = strain.max(axis=0)
        limit = 100 * evidence.penalties.max_tendon_strain
        ax.barh(y, peak, height=0.55, color=[FLAG if p > limit else AFTER for p in peak])
        if evidence.calibrated:
            ax.plot(
                100 * evidence.pooled("tendon_strain", after=False).max(axis=0), y, "|", color="#4a5058", markersize=7
            )
        ax.axvline(limit, color=FLAG, linewidth=1, linestyle=(0, (4, 2)))
        ax.set_xlim(min(0.0, float(peak.min())), max(1.1 * limit, 1.1 * float(peak.max())))
        ax.set_xlabel("maximum tendon strain (%)")
        ax.tick_params(labelleft=False)
        ax.grid(axis="y", visible=False)
    _fiber_legend(figure, evidence, elastic)
    caption = (
        f"All counted samples of all windows. Top: active force–length curve; shaded: working range {low:g}–{high:g}. "
        "Below, per muscle: minimum to maximum (line), middle half (thick), median (circle). "
    )
    if elastic:
        caption += f"Right: largest tendon strain; dashed: {limit:g} %."
    else:
        caption += "The tendon is rigid, so there is no tendon strain to show."
    return [
        Picture(
            "fibers", "Working range of the fibers" + (" and tendon strain" if elastic else ""), caption, png(figure)
        )
    ]


def _fiber_legend(figure: Figure, evidence: Evidence, elastic: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=AFTER, linewidth=3, label="calibrated" if evidence.calibrated else "predicted")]
    handles.append(Line2D([], [], color=FLAG, linewidth=3, label="outside its range"))
    if evidence.calibrated:
        handles.append(Line2D([], [], color=BEFORE, linewidth=1, label="uncalibrated"))
        if elastic:
            handles.append(
                Line2D([], [], color="#4a5058", marker="|", linestyle="none", markersize=8, label="uncalibrated strain")
            )
    figure.legend(handles=handles, loc="outside upper center", ncols=4)


# --- parameters ---------------------------------------------------------

COLUMNS = 3
ROW, HEAD, FOOT = 0.175, 0.42, 0.50  # inches
LABELS = 1.42


def _parameters(evidence: Evidence) -> list[Picture]:
    if not evidence.fitted:
        return []
    panels: dict[str, list[Fitted]] = {}
    for f in evidence.fitted:
        panels.setdefault(f.kind, []).append(f)
    heights = [0.0] * COLUMNS
    places: list[tuple[str, int, float]] = []
    for kind, rows in sorted(panels.items(), key=lambda item: -len(item[1])):
        column = int(np.argmin(heights))
        places.append((kind, column, heights[column]))
        heights[column] += HEAD + ROW * len(rows) + FOOT
    legend = 0.3
    total = legend + max(heights)
    figure = new_figure(total, constrained=False)
    width = WIDTH / COLUMNS
    for kind, column, top in places:
        rows = panels[kind]
        height = ROW * len(rows)
        left, bottom = column * width + LABELS, total - legend - top - HEAD - height
        ax = figure.add_axes((left / WIDTH, bottom / total, (width - LABELS - 0.2) / WIDTH, height / total))
        _forest(ax, kind, rows)
    _forest_legend(figure, evidence)
    fixed = sum(kind not in panels for kind in KINDS)
    return [
        Picture(
            "parameters",
            "Fitted parameters against bounds and prior",
            "Light bar: allowed range; dark bar: prior ± 1 sd around the start (vertical line); dot: calibrated value, "
            "orange at a bound; small circles: where the other starts of the solver ended (far apart: the data do not "
            f"pin the value down). Ratios are on a logarithmic axis. Not fitted: {plural(fixed, 'kind')} of parameter.",
            png(figure),
        )
    ]


def _forest(ax: Axes, kind: str, rows: list[Fitted]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    relative = rows[0].relative
    low, high = min(f.low for f in rows), max(f.high for f in rows)
    if relative:
        ax.set_xscale("log")
        margin = (high / low) ** 0.06
        ax.set_xlim(low / margin, high * margin)
        ticks = [low, 1.0, high]
        ax.xaxis.set_major_locator(FixedLocator(ticks))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"× {v:.3g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
    else:
        margin = 0.06 * (high - low)
        ax.set_xlim(low - margin, high + margin)
        _few_ticks(ax, 4)
    for y, f in enumerate(rows):
        ax.plot([f.low, f.high], [y, y], color=BAND, linewidth=7, solid_capstyle="butt", zorder=1)
        if f.prior is not None:
            inside = np.clip(f.prior, f.low, f.high)
            ax.plot(inside, [y, y], color="#b3c3d1", linewidth=7, solid_capstyle="butt", zorder=2)
        ax.plot([f.origin] * 2, [y - 0.42, y + 0.42], color="#4a5058", linewidth=1.2, zorder=3)
        if len(f.others):
            ax.plot(
                f.others,
                np.full(len(f.others), y),
                "o",
                markersize=3,
                markerfacecolor="none",
                markeredgecolor="#6a727b",
                markeredgewidth=0.6,
                zorder=4,
            )
        ax.plot(
            [f.position], [y], "D" if f.at_bound else "o", markersize=5, color=FLAG if f.at_bound else AFTER, zorder=5
        )
    ax.set_yticks(range(len(rows)), [short(f.label, 18) for f in rows], fontsize=7.5)
    for label, f in zip(ax.get_yticklabels(), rows, strict=True):
        label.set_color(FLAG if f.at_bound else "#1a1a1a")
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.set_title(
        KINDS[kind].label,
        fontweight="bold",
        loc="left",
        x=-LABELS / (WIDTH / COLUMNS - LABELS - 0.2) + 0.03,
        fontsize=9,
    )
    unit = KINDS[kind].unit_text
    ax.set_xlabel(
        "ratio to start" if relative else (f"value ({unit})" if unit else "value (no unit)"), fontsize=8, labelpad=1
    )


def _forest_legend(figure: Figure, evidence: Evidence) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(color=BAND, label="bounds"),
        Patch(color="#b3c3d1", label="prior ± 1 sd"),
        Line2D([], [], color="#4a5058", marker="|", linestyle="none", markersize=9, label="start"),
        Line2D([], [], color=AFTER, marker="o", linestyle="none", markersize=5, label="calibrated"),
        Line2D([], [], color=FLAG, marker="D", linestyle="none", markersize=5, label="at a bound"),
    ]
    if any(len(f.others) for f in evidence.fitted):
        handles.append(
            Line2D(
                [],
                [],
                color="#6a727b",
                marker="o",
                linestyle="none",
                markersize=3.5,
                markerfacecolor="none",
                label="other starts",
            )
        )
    figure.legend(handles=handles, loc="upper center", ncols=6)


# --- convergence --------------------------------------------------------


def _convergence(evidence: Evidence) -> list[Picture]:
    result = evidence.result
    if result is None or not np.isfinite(result.history).any() or not np.isfinite(result.costs).any():
        return []
    from matplotlib.ticker import MaxNLocator

    history = np.where(np.isfinite(result.history), result.history, np.nan)
    costs = np.asarray(result.costs, float)
    winner = int(np.argmin(np.where(np.isfinite(costs), costs, np.inf)))
    figure = new_figure(2.9)
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    for i in range(history.shape[1]):
        if i != winner:
            left.plot(history[:, i], color=BEFORE, linewidth=1, alpha=0.8)
    left.plot(history[:, winner], color=AFTER, linewidth=2)
    left.set_yscale("log")
    left.set_xlabel("iteration")
    left.set_ylabel("cost (log scale)")
    left.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    order = np.argsort(np.where(np.isfinite(costs), costs, np.inf))
    ranked = costs[order]
    right.plot(range(1, len(costs) + 1), ranked, "o", color=BEFORE, markersize=5)
    right.plot([1], ranked[:1], "o", color=AFTER, markersize=6.5)
    right.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    right.set_xlim(0.4, len(costs) + 0.6)
    right.set_xlabel("start, ranked")
    right.set_ylabel("final cost")
    finite = ranked[np.isfinite(ranked)]
    if finite.min() > 0 and finite.max() > 10 * finite.min():
        right.set_yscale("log")
    else:
        # A scale of at least 10 %, so that starts which agree look as if they agree.
        top = max(finite.max(), 1.1 * finite.min(), finite.min() + 1e-9)
        right.set_ylim(finite.min() - 0.05 * (top - finite.min()), top + 0.05 * (top - finite.min()))
        right.ticklabel_format(axis="y", useOffset=False)
    left.set_title("Every start; the chosen one in blue", loc="left")
    right.set_title("Where they ended", loc="left")
    return [
        Picture(
            "convergence",
            "Cost by iteration and start",
            "The cost is half a sum of squares in standard deviations: moment errors, fibers and tendons out of range, "
            "and distance from the prior. The first start is the uncalibrated person, the others are drawn from "
            "the prior.",
            png(figure),
        )
    ]
