"""What the page shows of the evidence in facts, cards and tables."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from calibration.report.evidence import Evidence, Fitted
from calibration.report.findings import FAIR_R2, FAR_SDS, GOOD_R2
from calibration.report.names import joint_name, number, plural, share, significant
from nms_gym.model.parameters import KINDS, kinds_on
from nms_gym.model.structure import NmsModel


def facts(evidence: Evidence) -> list[tuple[str, str]]:
    """What was done, for the header: (label, text)."""
    model, result = evidence.model, evidence.result
    s = model.settings
    driven = len(model.muscles) - len(model.passive_muscles)
    facts = [
        (
            "Model",
            f"{plural(len(model.muscles), 'muscle')} ({driven} driven by EMG, {len(model.passive_muscles)} passive), "
            f"{plural(len(model.channels), 'EMG channel')}",
        ),
        ("Joints judged", ", ".join(joint_name(c) for c in evidence.coordinates)),
        ("Recordings", ", ".join(sorted(evidence.subject.sources)) or "not named in the subject"),
        ("Training data", _amount(evidence, held_out=False) or "none given"),
        ("Held-out data", _amount(evidence, held_out=True) or "none exists"),
        ("Equations", f"{s.tendon} tendon, {_words(s.integrator)}, {_words(s.activation)} activation, {s.curves.name}"),
    ]
    if evidence.subject.calibration.get("emg_reference"):
        facts.append(("EMG reference", evidence.subject.calibration["emg_reference"]))
    if s.tendon == "mixed":
        facts.append(("Rigid tendons", ", ".join(model.rigid_tendons) or "none"))
    if result is not None:
        ends = result.status.value
        facts += [
            ("Solver", f"{_words(result.solver)}, {plural(len(result.costs), 'start')}: {ends}"),
            (
                "Cost",
                f"{result.start_cost:.4g} before, {result.cost:.4g} after {plural(result.iterations, 'iteration')}",
            ),
            ("Time", f"{result.run_seconds:.1f} s to solve, {result.compile_seconds:.1f} s to compile"),
        ]
    elif "status" in evidence.subject.calibration:
        facts.append(("Solver", readable(evidence.subject.calibration["status"])))
    return facts


_WORDS = {
    "lm": "Levenberg–Marquardt",
    "bdf2": "BDF2",
    "backward_euler": "backward Euler",
    "second_order": "second-order",
    "recursive": "second-order, CEINMS's recursion",
    "first_order": "first-order",
}


def _words(name: str) -> str:
    return _WORDS.get(name, name)


def _amount(evidence: Evidence, held_out: bool) -> str:
    parts = []
    for s in evidence.sets:
        if s.held_out == held_out:
            seconds = sum(r.duration for r in s.runs)
            parts.append(f"{s.label + ': ' if held_out else ''}{plural(len(s.runs), 'window')}, {seconds:.1f} s")
    return "; ".join(parts)


def cards(evidence: Evidence) -> list[dict[str, str]]:
    """Per joint, the lowest held-out R2, beside training and uncalibrated."""
    cards = []
    for c in evidence.coordinates:
        held = [s for s in evidence.held_out if s.coordinate == c and math.isfinite(s.after.r2)]
        train = evidence.training_score(c)
        if not held and train is None:
            continue
        worst = min(held, key=lambda s: s.after.r2) if held else None
        before = worst.before if worst is not None else None
        cards.append(
            {
                "joint": joint_name(c),
                "coordinate": c,
                "r2": number(worst.after.r2) if worst else "none",
                "rmse": number(worst.after.rmse, 1) if worst else "",
                "set": worst.windows.label if worst else "no held-out data",
                "train": number(train.after.r2) if train else "–",
                "before": number(before.r2) if before else "–",
                "tone": "none" if worst is None else _tone(worst.after.r2),
            }
        )
    return cards


def _tone(r2: float) -> str:
    return "good" if r2 >= GOOD_R2 else "caution" if r2 >= FAIR_R2 else "bad"


def targets_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Errors of what was measured of single muscles, before and after side by side, from ``tabulate_targets``."""
    shown: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("segment", "quantity", "muscle"))
        entry = shown.setdefault(
            key,
            {
                "set": row["segment"],
                "held_out": row["split"] == "held-out",
                "quantity": row["quantity"].replace("_", " "),
                "muscle": row["muscle"],
                "unit": row["unit"],
                "tolerance": significant(row["tolerance"], 3),
                "samples": row["samples"],
            },
        )
        entry[row["set"]] = significant(row["rmse"], 3)
    return list(shown.values())


def maximal_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Moments of maximal contractions, measured beside the model's, from ``tabulate_maximal``."""
    numbers = ("measured", "tolerance", "uncalibrated", "calibrated")
    return [
        {"joint": joint_name(row["coordinate"]), "pose": row["pose"], **{n: number(row[n], 1) for n in numbers}}
        for row in rows
    ]


def metrics_table(evidence: Evidence) -> list[dict[str, Any]]:
    """Joints, in each its sets of windows, in each its rows."""
    joints = []
    for c in evidence.coordinates:
        sets = []
        for s in evidence.scores:
            if s.coordinate != c:
                continue
            rows = [("uncalibrated", s.before)] if s.before is not None else []
            rows.append(("calibrated" if evidence.calibrated else "not calibrated", s.after))
            sets.append(
                {
                    "label": s.windows.label,
                    "held_out": s.windows.held_out,
                    "rows": [
                        {
                            "name": name,
                            "rmse": number(m.rmse),
                            "nrmse": number(100 * m.nrmse, 1),
                            "r2": number(m.r2),
                            "r": number(m.r),
                            "samples": m.samples,
                        }
                        for name, m in rows
                        if m is not None
                    ],
                }
            )
        if sets:
            joints.append(
                {"name": joint_name(c), "coordinate": c, "sets": sets, "rows": sum(len(s["rows"]) for s in sets)}
            )
    return joints


def unmeasured(evidence: Evidence) -> list[str]:
    """Sets with windows that could not be scored."""
    found = []
    for s in evidence.sets:
        without = sum(r.measured is None for r in s.runs)
        if without:
            found.append(f"{s.label} ({without} of {plural(len(s.runs), 'window')})")
    return found


def muscle_table(evidence: Evidence) -> list[dict[str, Any]]:
    """Every muscle: channels, fiber lengths, tendon strain, excitation and force."""
    model = evidence.model
    length, strain = evidence.pooled("fiber_length"), evidence.pooled("tendon_strain")
    excitation, force = evidence.pooled("excitation"), evidence.pooled("tendon_force")
    weights = np.asarray(model.channel_weights)
    low, high = evidence.penalties.fiber_length_range
    rows = []
    for i, m in enumerate(model.muscles):
        channels = [model.channels[c] for c in np.flatnonzero(weights[i])]
        channels += ["synergies"] * (m in model.synergy_muscles)
        rows.append(
            {
                "muscle": m,
                "channels": " + ".join(channels),
                "low": number(length[:, i].min()),
                "median": number(float(np.median(length[:, i]))),
                "high": number(length[:, i].max()),
                "outside": bool((length[:, i] < low).any() or (length[:, i] > high).any()),
                "share": share(float(((length[:, i] < low) | (length[:, i] > high)).mean())),
                "strain": number(100 * strain[:, i].max(), 1) if model.settings.tendon != "rigid" else "–",
                "overstrained": bool(strain[:, i].max() > evidence.penalties.max_tendon_strain),
                "excitation": number(excitation[:, i].max()),
                "force": number(force[:, i].max(), 0),
            }
        )
    return rows


def channel_table(evidence: Evidence) -> list[dict[str, str]]:
    """Every channel: what it drives, gain, delay and what its envelope was divided by."""
    model, params = evidence.model, evidence.subject.params
    weights = np.asarray(model.channel_weights)
    return [
        {
            "channel": name,
            "muscles": ", ".join(model.muscles[i] for i in np.flatnonzero(weights[:, c]))
            or ("synergies" if name not in model.commands else ", ".join(_followers(model, name))),
            "gain": number(float(np.asarray(params.emg_gain)[c])),
            "delay": number(1000 * float(np.asarray(params.electromechanical_delay)[c]), 0),
            "reference": significant(evidence.subject.emg_normalisation.get(name)),
        }
        for c, name in enumerate(model.channels)
    ]


def _followers(model: NmsModel, command: str) -> list[str]:
    """Muscles that a command drives."""
    return [m for m, c in model.synergy_pairs if c == command]


def fitted_row(f: Fitted) -> dict[str, Any]:
    """One fitted value beside its start, bounds and prior."""

    def spread(values: np.ndarray) -> str:
        low, high = significant(float(values.min())), significant(float(values.max()))
        return low if low == high else f"{low} … {high}"

    def place(value: float) -> str:
        return ("× " if f.relative else "") + significant(value, 3)

    return {
        "kind": KINDS[f.kind].label,
        "label": f.label,
        "members": ", ".join(f.members) if f.members != (f.label,) else "",
        "unit": KINDS[f.kind].unit_text,
        "start": spread(f.start),
        "value": spread(f.value),
        "change": place(f.position) if f.relative else _signed(f.position - f.origin),
        "bounds": f"{place(f.low)} to {place(f.high)}",
        "prior": "–" if f.prior is None else f"{place(f.prior[0])} to {place(f.prior[1])}",
        "sds": number(f.sds, 1) if f.sds is not None else "–",
        "at_bound": f.at_bound,
        "far": f.sds is not None and abs(f.sds) > FAR_SDS,
    }


def _signed(value: float) -> str:
    """A shift with its sign."""
    return ("+" if value >= 0 else "") + significant(value, 3)


def all_parameters(evidence: Evidence) -> dict[str, Any]:
    """Every muscle parameter in use; those that the fit moved are marked."""
    model, params = evidence.model, evidence.subject.params
    kinds = kinds_on("muscle")
    moved = {(f.kind, m) for f in evidence.fitted for m in f.members}
    return {
        "head": [{"name": KINDS[k].label, "unit": KINDS[k].unit_text} for k in kinds],
        "rows": [
            {
                "muscle": m,
                "values": [
                    {"text": significant(float(np.asarray(getattr(params, k))[i])), "fitted": (k, m) in moved}
                    for k in kinds
                ],
            }
            for i, m in enumerate(model.muscles)
        ],
    }


def windows_table(evidence: Evidence) -> list[dict[str, Any]]:
    """Every window with its times."""
    return [
        {
            "set": s.label,
            "held_out": s.held_out,
            "window": r.name,
            "start": number(float(r.time[0]), 3),
            "stop": number(float(r.time[-1]), 3),
            "samples": len(r.time),
            "step": number(1000 * float(np.median(np.diff(r.time))), 1),
            "measured": r.measured is not None,
        }
        for s in evidence.sets
        for r in s.runs
    ]


def settings_table(evidence: Evidence) -> dict[str, str]:
    """The settings of the model."""
    s = asdict(evidence.model.settings)
    s["curves"] = evidence.model.settings.curves.name
    units = {"max_delay": " s"}
    return {name: f"{value}{units.get(name, '')}" for name, value in s.items()}


def versions() -> dict[str, str]:
    """Of the packages, Python and platform."""

    def version(package: str) -> str:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return "not installed as a package (source checkout)"

    packages = {p: version(p) for p in ("nms-gym", "jax", "jaxlib", "numpy", "scipy")}
    return packages | {"python": platform.python_version(), "platform": platform.platform(terse=True)}


def readable(value: Any) -> str:
    """A fact of any plain kind in one line."""
    if isinstance(value, Mapping):
        return "; ".join(f"{k}: {readable(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(readable(v) for v in value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return significant(value, 6) if isinstance(value, float) else str(value)
