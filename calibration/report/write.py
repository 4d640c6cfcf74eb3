"""The report of a calibration: one self-contained HTML file that a colleague can judge in two minutes, and its figures.

Everything is computed and drawn in memory first and written last, so a report is complete or absent.
"""

from __future__ import annotations

import base64
import importlib.metadata
import importlib.resources
import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from calibration.cross_validation import CrossValidation
from calibration.excitations.synergies import Synergies
from calibration.fitting import CalibrationResult
from calibration.problem import Penalties
from calibration.report.analysis import analysis_tables, band_pictures, synergy_table, validation_tables
from calibration.report.evidence import Evidence, Fitted, collect
from calibration.report.figures import Picture, draw
from calibration.report.names import joint_name, number, percent, plural, share, significant
from calibration.report.verdict import (
    FAIR_R2,
    FAR_SDS,
    GOOD_R2,
    judge,
    next_steps,
    undriven_shares,
)
from calibration.uncertainty.analysis import LEVEL, Analysis
from nms_gym.errors import InputError
from nms_gym.files.subject import Subject
from nms_gym.model.parameters import KINDS, kinds_on
from nms_gym.model.replay import Segment
from nms_gym.model.structure import NmsModel
from nms_gym.recording.storage import atomic_path

METRICS_FORMAT = "nms_gym.metrics"
METRICS_VERSION = 1


def write_report(
    folder: str | Path,
    *,
    subject: Subject,
    train: Sequence[Segment],
    held_out: Mapping[str, Sequence[Segment]],
    result: CalibrationResult | None = None,
    notes: Sequence[str] = (),
    analysis: Analysis | None = None,
    synergies: Synergies | None = None,
    validation: CrossValidation | None = None,
    films: Sequence[Picture] = (),
    penalties: Penalties | None = None,
) -> Path:
    """Write ``report.html`` and ``figures/*.png`` into ``folder``, which is made when missing.

    Args:
        folder: of the report; files of an earlier one are replaced.
        subject: judged with its own ``params``, against its ``start``.
        train: windows the fit has seen; may be empty, for a subject tried on other recordings.
        held_out: windows it has not seen, by the name of their set. Windows without measured moments are drawn, not
            scored.
        result: of the fit; adds the solver's status, convergence, and bounds and priors. Without it, bounds and priors
            are the subject's own, taken as values in each kind's unit.
        notes: sentences to show in the provenance.
        analysis: of the fit; adds bands, intervals, what the data determine, and the cost by block.
        synergies: that were extracted for the subject; adds how much they explain.
        validation: what was left out in turn; adds the errors by prior strength.
        films: of the person in an environment; adds a section.
        penalties: of the problem, whose limits of fiber length and tendon strain are shown; by default the usual ones.

    Returns:
        Path of the HTML file.

    Raises:
        InputError: no window at all, a window with other muscles than the subject's, a held-out set named like the
            training windows, or a folder that cannot be written. Nothing is written then.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise InputError(f"{target}: the report needs a folder, this is a file; give another name")
    evidence = collect(subject, train, held_out, result, penalties)
    pictures = draw(evidence)
    pictures["uncertainty"] = [] if analysis is None else band_pictures(analysis)
    pictures["motion"] = list(films)
    page = _page(evidence, pictures, notes, analysis, synergies, validation)
    figures = target / "figures"
    try:
        figures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{figures}: cannot make this folder ({error}); give another one") from error
    files = {figures / f"{p.name}.{p.kind}": p.png for group in pictures.values() for p in group}
    files[target / "report.html"] = page.encode("utf-8")
    # All are on disk before the first takes its place; the page, which is entered first, takes its place last.
    with ExitStack() as stack:
        for path, content in reversed(files.items()):
            stack.enter_context(atomic_path(path)).write_bytes(content)
    return target / "report.html"


def write_metrics(path: str | Path, rows: Iterable[Mapping[str, Any]], *, emg_reference: str | None = None) -> None:
    """Write metrics rows (from ``validation.tabulate``) as versioned JSON, replaced in one step.

    What is not a finite number becomes null.

    Args:
        path: of the file.
        rows: of metrics.
        emg_reference: what counted as full excitation, in words; left out where nobody says.

    Raises:
        InputError: the ending is not ``.json``, the folder is missing, or a row holds something JSON cannot.
    """
    if Path(path).suffix != ".json":
        raise InputError(f"{path}: metrics are saved as .json; give the name that ending")
    record: dict[str, Any] = {"format": METRICS_FORMAT, "version": METRICS_VERSION}
    if emg_reference is not None:
        record["emg_reference"] = emg_reference
    record["rows"] = [_plain(dict(row)) for row in rows]
    try:
        text = json.dumps(record, allow_nan=False, ensure_ascii=False, indent=2)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: a metrics row holds something JSON cannot ({error})") from error
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- the page -----------------------------------------------------------


def _page(
    evidence: Evidence,
    pictures: Mapping[str, Sequence[Picture]],
    notes: Sequence[str],
    analysis: Analysis | None,
    synergies: Synergies | None,
    validation: CrossValidation | None,
) -> str:
    import jinja2

    verdict, findings = judge(evidence)
    source = (
        importlib.resources.files("calibration.report").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    )
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source).render(
        subject=evidence.subject,
        verdict=verdict,
        findings=findings,
        steps=next_steps(evidence, findings),
        held_out=bool(evidence.held_out),
        several_sets=len({s.windows.label for s in evidence.held_out}) > 1,
        calibrated=evidence.calibrated,
        facts=_facts(evidence),
        cards=_cards(evidence),
        joints=_metrics_table(evidence),
        unmeasured=_unmeasured(evidence),
        figures={
            section: [
                {
                    "name": p.name,
                    "title": p.title,
                    "caption": p.caption,
                    "kind": p.kind,
                    "data": base64.b64encode(p.png).decode("ascii"),
                }
                for p in group
            ]
            for section, group in pictures.items()
        },
        muscles=_muscle_table(evidence),
        channels=_channel_table(evidence),
        passive=evidence.model.passive_muscles,
        undriven={joint_name(c): percent(s) for c, s in undriven_shares(evidence).items()},
        fiber_range=evidence.penalties.fiber_length_range,
        far_sds=FAR_SDS,
        fitted=[_fitted_row(f) for f in evidence.fitted],
        at_bound=sum(f.at_bound for f in evidence.fitted),
        all_parameters=_all_parameters(evidence),
        windows=_windows_table(evidence),
        settings=_settings(evidence),
        versions=_versions(),
        calibration={str(k): _readable(v) for k, v in evidence.subject.calibration.items()},
        notes=list(notes),
        analysis=None if analysis is None else analysis_tables(analysis),
        level=percent(LEVEL),
        validation=None if validation is None else validation_tables(validation),
        synergies=synergy_table(evidence.model, evidence.subject.params, synergies),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _facts(evidence: Evidence) -> list[tuple[str, str]]:
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
        facts.append(("Solver", _readable(evidence.subject.calibration["status"])))
    return facts


_WORDS = {
    "lm": "Levenberg–Marquardt",
    "bdf2": "BDF2",
    "backward_euler": "backward Euler",
    "second_order": "second-order",
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


def _cards(evidence: Evidence) -> list[dict[str, str]]:
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


def _metrics_table(evidence: Evidence) -> list[dict[str, Any]]:
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


def _unmeasured(evidence: Evidence) -> list[str]:
    """Sets with windows that could not be scored."""
    found = []
    for s in evidence.sets:
        without = sum(r.measured is None for r in s.runs)
        if without:
            found.append(f"{s.label} ({without} of {plural(len(s.runs), 'window')})")
    return found


def _muscle_table(evidence: Evidence) -> list[dict[str, Any]]:
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


def _channel_table(evidence: Evidence) -> list[dict[str, str]]:
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


def _fitted_row(f: Fitted) -> dict[str, Any]:
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


def _all_parameters(evidence: Evidence) -> dict[str, Any]:
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


def _windows_table(evidence: Evidence) -> list[dict[str, Any]]:
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


def _settings(evidence: Evidence) -> dict[str, str]:
    s = asdict(evidence.model.settings)
    s["curves"] = evidence.model.settings.curves.name
    units = {"max_delay": " s"}
    return {name: f"{value}{units.get(name, '')}" for name, value in s.items()}


def _versions() -> dict[str, str]:
    def version(package: str) -> str:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return "not installed as a package (source checkout)"

    packages = {p: version(p) for p in ("nms-gym", "jax", "jaxlib", "numpy", "scipy")}
    return packages | {"python": platform.python_version(), "platform": platform.platform(terse=True)}


def _readable(value: Any) -> str:
    """A fact of any plain kind in one line."""
    if isinstance(value, Mapping):
        return "; ".join(f"{k}: {_readable(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_readable(v) for v in value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return significant(value, 6) if isinstance(value, float) else str(value)
