"""The report's part on uncertainty: tables and figures of an ``Analysis``, and of synergies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calibration.cross_validation import CrossValidation
from calibration.excitations.synergies import Synergies
from calibration.report.drawing import AFTER, MEASURED, Picture, drawing, new_figure, png, short
from calibration.report.names import joint_name, number, percent, significant
from calibration.uncertainty.analysis import Analysis, BandSet
from nms_gym.model.parameters import KINDS, NmsParams
from nms_gym.model.quantities import MUSCLE_OUTPUTS
from nms_gym.model.structure import NmsModel

# Directions and pairs that the report spells out.
MOST_DIRECTIONS, MOST_PAIRS = 6, 8

BLOCK_NAMES = {
    "moments": "Joint moments",
    "passive_moments": "Passive moments",
    "maximal_moments": "Maximal moments",
    "fiber_range": "Fibers outside their range",
    "tendon_strain": "Tendons strained too far",
    "effort": "Effort of synthesised muscles",
    "emg_tracking": "Residual excitations",
    "synergy_reconstruction": "Synergies against EMG",
    "group_similarity": "Differences within groups",
    **{f"target_{name}": f"Measured {name.replace('_', ' ')}" for name in MUSCLE_OUTPUTS},
    "prior": "Distance from the start",
}


def analysis_tables(analysis: Analysis) -> dict[str, Any]:
    """What the template shows of an analysis."""
    known = analysis.identifiability
    return {
        "blocks": [
            {"name": BLOCK_NAMES[name], "before": significant(b, 3), "after": significant(a, 3)}
            for name, (b, a) in analysis.blocks.items()
            if max(a, b) > 1e-9
        ],
        "parameters": len(known.parameters),
        "determined": known.determined,
        "effective": number(known.effective, 1),
        "solutions": len(analysis.posterior.modes),
        "trust": {
            "effective": number(analysis.trust.effective, 0),
            "draws": analysis.trust.draws,
            "shortened": percent(analysis.trust.shortened),
            "step": percent(analysis.trust.step),
        },
        "directions": [
            {"text": d.text, "sd": number(d.sd), "eigenvalue": significant(d.eigenvalue, 2)}
            for d in known.worst[:MOST_DIRECTIONS]
        ],
        "pairs": [
            {"first": p.first, "second": p.second, "correlation": number(p.correlation)}
            for p in known.pairs[:MOST_PAIRS]
        ],
        "combinations": [
            {
                "name": c.name,
                "before": percent(c.prior_sd),
                "after": percent(c.sd),
                "informed": percent(c.informed),
                "held": c.held,
            }
            for c in known.combinations
        ],
        "intervals": [
            {
                "kind": KINDS[i.kind].label,
                "name": i.name,
                "unit": KINDS[i.kind].unit_text or "1",
                "mean": significant(i.mean),
                "sd": significant(i.sd, 2),
                "low": significant(i.low),
                "high": significant(i.high),
            }
            for i in analysis.intervals
        ],
        "coverage": [
            {
                "set": s.label,
                "held_out": s.held_out,
                "joint": joint_name(row["coordinate"]),
                "inside": percent(row["coverage"]),
                "half_width": number(row["half_width"], 1),
            }
            for s in analysis.bands
            for row in s.rows()
            if row["coverage"] is not None
        ],
        "residuals": _agreement(analysis.without_residuals),
        "corrected": _agreement(analysis.corrected),
    }


def _agreement(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Metrics rows as the template shows them."""
    return [
        {
            "set": r["segment"],
            "held_out": r["split"] == "held-out",
            "joint": joint_name(r["coordinate"]),
            "rmse": number(r["rmse"], 1),
            "r2": number(r["r2"]),
        }
        for r in rows
    ]


def band_pictures(analysis: Analysis) -> list[Picture]:
    """Moments with credible bands, one figure per set of windows."""
    with drawing():
        return [_bands(s, i) for i, s in enumerate(analysis.bands) if s.bands]


def _bands(windows: BandSet, index: int) -> Picture:
    joints = windows.bands[0].coordinates
    drawn = new_figure(0.75 + 1.75 * len(joints))
    axes = drawn.subplots(len(joints), len(windows.bands), squeeze=False, sharey="row", sharex="col")
    for column, (band, measured) in enumerate(zip(windows.bands, windows.measured, strict=True)):
        axes[0, column].set_title(short(band.segment, max(22, 90 // len(windows.bands))), fontsize=7.5)
        for row, c in enumerate(joints):
            ax = axes[row, column]
            ax.fill_between(band.time, band.low[:, row], band.high[:, row], color=AFTER, alpha=0.22, linewidth=0)
            ax.plot(band.time, band.median[:, row], color=AFTER, linewidth=1.2)
            if measured is not None:
                ax.plot(band.time, measured[:, row], color=MEASURED, linewidth=1.2)
            if column == 0:
                ax.set_ylabel(f"{short(joint_name(c), 24)}\nmoment (N·m)")
    for ax in axes[-1]:
        ax.set_xlabel("time (s)")
    inside = ", ".join(f"{joint_name(c)} {percent(part)}" for c, part in windows.coverage.items())
    what = f"held-out set “{windows.label}”" if windows.held_out else windows.label
    level = percent(windows.bands[0].level)
    return Picture(
        f"bands_{index}",
        f"{level} bands: {what}",
        f"Blue: median and {level} band of people that fit about as well, model error included; black: measured"
        + (f", inside the band for {inside} of the time." if inside else "."),
        png(drawn),
    )


def synergy_table(model: NmsModel, params: NmsParams, found: Synergies | None) -> dict[str, Any] | None:
    """Who the synergies are made of and whom they drive; None without synergies."""
    basis = model.synergies
    if basis is None:
        return None
    vectors = np.asarray(basis.vectors, float)
    weights = dict(zip(model.synergy_pairs, np.asarray(params.synergy_weight, float), strict=True))
    return {
        "names": basis.names,
        "commands": basis.command_names,
        "rule": "" if found is None else found.rule,
        "total": "" if found is None else percent(found.total_vaf, 1),
        "channels": [
            {
                "name": c,
                "vaf": "–" if found is None else percent(found.channel_vaf[c]),
                "weights": [number(v) for v in row],
            }
            for c, row in zip(basis.channels, vectors, strict=True)
        ],
        "muscles": [
            {
                "name": m,
                "residual": m in model.recorded_muscles,
                "weights": [number(float(weights[m, c])) if (m, c) in weights else "–" for c in basis.command_names],
            }
            for m in model.synergy_muscles
        ],
    }


def validation_tables(validation: CrossValidation) -> dict[str, Any]:
    """Errors by prior strength, and of every fold at the strength that was chosen."""
    return {
        "uncalibrated": percent(validation.uncalibrated),
        "choices": [
            {
                "strength": significant(c.strength, 3),
                "error": percent(c.error, 1),
                "standard_error": percent(c.standard_error, 1),
                "train": percent(c.train, 1),
                "chosen": c.chosen,
            }
            for c in validation.choices
        ],
        "folds": [
            {
                "left_out": f.left_out,
                "joint": joint_name(f.coordinate),
                "train": number(f.train, 1),
                "held_out": number(f.held_out, 1),
                "uncalibrated": number(f.uncalibrated, 1),
            }
            for f in validation.folds
            if f.strength == validation.strength
        ],
    }
