"""Figures of the fitted parameters and of the solver's way to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.report.drawing import AFTER, BAND, BEFORE, FLAG, WIDTH, Picture, few_ticks, new_figure, png, short
from calibration.report.evidence import Evidence, Fitted
from calibration.report.names import plural
from nms_gym.model.parameters import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


COLUMNS = 3
ROW, HEAD, FOOT = 0.175, 0.42, 0.50  # inches
LABELS = 1.42


def parameters(evidence: Evidence) -> list[Picture]:
    """Every fitted value between its bounds, beside its start and prior."""
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
        few_ticks(ax, 4)
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


def convergence(evidence: Evidence) -> list[Picture]:
    """Cost of every start by iteration."""
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
