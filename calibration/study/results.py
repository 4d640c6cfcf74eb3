"""Results in folders: the calibrated person, metrics, trials, posterior and report; and predictions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.report.write import write_metrics, write_report
from calibration.study.build import Study
from calibration.study.calibrate import Outcome
from calibration.study.predict import Prediction, Scored
from calibration.study.ranges import RangeCheck, check_range, check_sets
from calibration.uncertainty.discrepancy import save_corrections
from calibration.validation import compare
from nms_gym.files.folder import make_folder
from nms_gym.files.posterior import save_people
from nms_gym.files.prediction import write_quantities
from nms_gym.files.subject import Subject, save_subject
from nms_gym.model.quantities import Quantity, chosen_quantities, quantities

if TYPE_CHECKING:
    from calibration.report.drawing import Picture


def write_results(folder: Path, study: Study, outcome: Outcome, *, report: bool = True) -> list[Path]:
    """Write ``subject.json``, ``metrics.json``, ``trials/*.npz``, ``posterior.npz`` and
    ``discrepancy.npz`` (when drawn) and the report; each
    file whole or not at all.

    Args:
        folder: made where missing.
        study: that was calibrated.
        outcome: from ``calibrate``.
        report: whether to write ``report.html`` too.

    Returns:
        What was written, the subject first.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    make_folder(folder / "trials")
    written = [folder / "subject.json", folder / "metrics.json"]
    save_subject(written[0], outcome.subject)
    analysis = outcome.analysis
    write_metrics(
        written[1],
        [*outcome.rows, *(() if analysis is None else analysis.corrected)],
        emg_reference=study.emg_reference.kind,
        bands=[] if analysis is None else [row for found in analysis.bands for row in found.rows()],
        trained_range=[check.row() for check in check_sets(outcome.subject, (), study.held_out)],
        targets=outcome.targets,
        maximal=outcome.maximal,
    )
    for name, trial in study.trials.items():
        written.append(folder / "trials" / f"{name}.npz")
        trial.save(written[-1])
    if analysis is not None:
        written.append(folder / "posterior.npz")
        save_people(written[-1], study.model, analysis.people, outcome.subject.params)
        if analysis.corrections is not None:
            written.append(folder / "discrepancy.npz")
            save_corrections(written[-1], analysis.corrections)
    if report:
        written.append(write_study_report(folder, study, outcome))
    return written


def write_study_report(folder: Path, study: Study, outcome: Outcome, films: Sequence[Picture] = ()) -> Path:
    """The report of a calibration, perhaps with films of the person in an environment.

    Raises:
        InputError: the folder cannot be written to.
    """
    return write_report(
        folder,
        subject=outcome.subject,
        train=study.train,
        held_out=study.held_out,
        result=outcome.result,
        analysis=outcome.analysis,
        synergies=study.synergies,
        validation=outcome.validation,
        films=films,
        penalties=study.penalties,
        targets=outcome.targets,
        maximal=outcome.maximal,
    )


def write_predictions(
    folder: Path,
    subject: Subject,
    predictions: Sequence[Prediction],
    *,
    names: Sequence[str] = ("outputs",),
    file_format: str = "sto",
    emg_reference: str | None = None,
    scored: Scored | None = None,
) -> tuple[list[Path], list[dict[str, Any]]]:
    """Write quantities of predictions, and ``metrics.json``: agreement where moments were measured, and how far the
    recordings leave what the fit has seen.

    Args:
        folder: made where missing.
        subject: who was predicted.
        predictions: from ``predict``.
        names: quantities or groups of them, see ``nms_gym.model.quantities``; by default all of ``NmsOutput``, "all"
            adds forces, powers, work, stiffness, metabolic rate, co-contraction.
        file_format: "sto" or "csv", a file per quantity and trial, or "npz", a file per trial; see
            ``write_quantities``.
        emg_reference: what counted as full excitation, in words.
        scored: on a study's windows, from ``score``; its rows come first.

    Returns:
        What was written, and the rows of ``metrics.json``.

    Raises:
        InputError: an unknown quantity or format, a quantity that the person or recording does not have, or the folder
            cannot be made.
    """
    chosen_quantities(names)  # complains before anything is made
    make_folder(folder)
    written: list[Path] = []
    rows: list[dict[str, Any]] = [] if scored is None else list(scored.rows)
    for p in predictions:
        found = quantities(subject.model, subject.params, p.segment, p.output, names)
        if p.corrected is not None:
            added = zip(("moments_with_discrepancy", "standard_deviation_of_moments"), p.corrected, strict=True)
            series = {name: Quantity(name, "N·m", ("time", "coordinate"), values) for name, values in added}
            found = dataclasses.replace(found, values={**found.values, **series})
        written += write_quantities(folder, found, p.trial, file_format)
        measured = p.segment.measured
        if measured is not None:
            for k, c in enumerate(p.segment.coordinates):
                metrics = compare(c, np.asarray(p.output.moments)[:, k], measured[:, k])
                rows.append(metrics.row(set="predicted", split="", segment=p.trial))
                if p.corrected is not None:
                    metrics = compare(c, p.corrected[0][:, k], measured[:, k])
                    rows.append(metrics.row(set="predicted, with discrepancy", split="", segment=p.trial))
    written.append(folder / "metrics.json")
    checks = [*(() if scored is None else scored.ranges), *check_predictions(subject, predictions)]
    write_metrics(
        written[-1],
        rows,
        emg_reference=emg_reference,
        bands=() if scored is None else [row for found in scored.bands for row in found.rows()],
        trained_range=[check.row() for check in checks],
        targets=() if scored is None else scored.targets,
    )
    return written, rows


def check_predictions(subject: Subject, predictions: Sequence[Prediction]) -> tuple[RangeCheck, ...]:
    """How far each recording that was predicted leaves what the fit has seen."""
    return tuple(check_range(subject, "", p.trial, [p.segment]) for p in predictions)
