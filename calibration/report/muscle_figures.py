"""Figures of muscles: their excitations, fibers and tendons."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from calibration.report.drawing import (
    AFTER,
    BAND,
    BEFORE,
    EXCITATION,
    FLAG,
    HELD_OUT,
    MAX_SERIES_SECONDS,
    MAX_SETS,
    POINTS,
    SET_STYLES,
    WIDTH,
    Picture,
    band,
    new_figure,
    normalised,
    png,
    short,
)
from calibration.report.evidence import Evidence

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


def excitations(evidence: Evidence) -> list[Picture]:
    """Excitation of every muscle, those of one channel together."""
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
                    normalised(r.time, np.asarray(getattr(r.after, name))[:, i : i + 1])[:, 0] for r in windows.runs
                ]
                band(ax, np.array(curves), color)
            else:
                shown = first.time <= first.time[0] + MAX_SERIES_SECONDS
                ax.plot(first.time[shown], np.asarray(getattr(first.after, name))[shown, i], color=color, linewidth=1.2)
        for other, style in zip(held_out, SET_STYLES, strict=False):
            curves = [normalised(r.time, np.asarray(r.after.excitation)[:, i : i + 1])[:, 0] for r in other.runs]
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


def fibers(evidence: Evidence) -> list[Picture]:
    """Range of every fiber on its force-length curve, and the largest strain of its tendon."""
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
        caption += f"Right: largest tendon strain; dashed: {100 * evidence.penalties.max_tendon_strain:g} %."
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
