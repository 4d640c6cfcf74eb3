"""The report of a calibration: one self-contained HTML file that a colleague can judge in two minutes, and its figures.

Everything is computed and drawn in memory first and written last, so a report is complete or absent.
"""

from __future__ import annotations

import base64
import importlib.metadata
import importlib.resources
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from calibration.cross_validation import CrossValidation
from calibration.excitations.synergies import Synergies
from calibration.fitting import CalibrationResult
from calibration.problem import Penalties
from calibration.report.analysis import analysis_tables, band_pictures, synergy_table, validation_tables
from calibration.report.drawing import Picture
from calibration.report.evidence import Evidence, collect
from calibration.report.figures import draw
from calibration.report.findings import FAR_SDS, undriven_shares
from calibration.report.names import joint_name, percent
from calibration.report.tables import (
    all_parameters,
    cards,
    channel_table,
    facts,
    fitted_row,
    maximal_table,
    metrics_table,
    muscle_table,
    readable,
    settings_table,
    targets_table,
    unmeasured,
    versions,
    windows_table,
)
from calibration.report.verdict import judge, next_steps
from calibration.uncertainty.analysis import LEVEL, Analysis
from nms_gym.errors import InputError
from nms_gym.files.subject import Subject
from nms_gym.model.replay import Segment
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
    targets: Sequence[Mapping[str, Any]] = (),
    maximal: Sequence[Mapping[str, Any]] = (),
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
        targets: of what was measured of single muscles, rows of ``validation.tabulate_targets``; adds a table.
        maximal: moments of maximal contractions, rows of ``validation.tabulate_maximal``; adds a table.

    Returns:
        Path of the HTML file.

    Raises:
        InputError: no window at all, a window with other muscles than the subject's, a held-out set named like the
            training windows, or a folder that cannot be written. Nothing is written then.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise InputError(f"{target}: the report needs a folder, this is a file; give another name")
    evidence = collect(subject, train, held_out, result, penalties, analysis, maximal)
    pictures = draw(evidence)
    pictures["uncertainty"] = [] if analysis is None else band_pictures(analysis)
    pictures["motion"] = list(films)
    page = _page(evidence, pictures, notes, analysis, synergies, validation, targets)
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


def write_metrics(
    path: str | Path,
    rows: Iterable[Mapping[str, Any]],
    *,
    emg_reference: str | None = None,
    bands: Sequence[Mapping[str, Any]] = (),
    trained_range: Sequence[Mapping[str, Any]] = (),
    targets: Sequence[Mapping[str, Any]] = (),
    maximal: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write metrics rows (from ``validation.tabulate``) as versioned JSON, replaced in one step.

    What is not a finite number becomes null.

    Args:
        path: of the file.
        rows: of metrics.
        emg_reference: what counted as full excitation, in words; left out where nobody says.
        bands: rows of ``BandSet.rows``; left out where there are none.
        trained_range: how far each set of windows leaves what the fit has seen, rows of ``study.ranges.RangeCheck``;
            left out where nobody looked.
        targets: of what was measured of single muscles, rows of ``validation.tabulate_targets``; left out where there
            are none.
        maximal: moments of maximal contractions, rows of ``validation.tabulate_maximal``; left out where there are
            none.

    Raises:
        InputError: the ending is not ``.json``, the folder is missing, or a row holds something JSON cannot.
    """
    if Path(path).suffix != ".json":
        raise InputError(f"{path}: metrics are saved as .json; give the name that ending")
    record: dict[str, Any] = {"format": METRICS_FORMAT, "version": METRICS_VERSION}
    if emg_reference is not None:
        record["emg_reference"] = emg_reference
    tables = {"bands": bands, "trained_range": trained_range, "targets": targets, "maximal_moments": maximal}
    for name, given in {"rows": list(rows), **tables}.items():
        if given or name == "rows":
            record[name] = [_plain(dict(row)) for row in given]
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
    targets: Sequence[Mapping[str, Any]],
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
        facts=facts(evidence),
        cards=cards(evidence),
        joints=metrics_table(evidence),
        unmeasured=unmeasured(evidence),
        targets=targets_table(targets),
        maximal=maximal_table(evidence.maximal),
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
        muscles=muscle_table(evidence),
        channels=channel_table(evidence),
        passive=evidence.model.passive_muscles,
        undriven={joint_name(c): percent(s) for c, s in undriven_shares(evidence).items()},
        fiber_range=evidence.penalties.fiber_length_range,
        far_sds=FAR_SDS,
        fitted=[fitted_row(f) for f in evidence.fitted],
        at_bound=sum(f.at_bound for f in evidence.fitted),
        all_parameters=all_parameters(evidence),
        windows=windows_table(evidence),
        settings=settings_table(evidence),
        versions=versions(),
        calibration={str(k): readable(v) for k, v in evidence.subject.calibration.items()},
        notes=list(notes),
        analysis=None if analysis is None else analysis_tables(analysis),
        level=percent(LEVEL),
        validation=None if validation is None else validation_tables(validation),
        synergies=synergy_table(evidence.model, evidence.subject.params, synergies),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
