"""From a study to a saved person: fit, validate, and write the results, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration.config import Study
from calibration.fit import CalibrationResult, Progress, Status, fit
from calibration.validation import tabulate
from nms_gym.errors import InputError
from nms_gym.model import NmsModel, NmsParams, entries
from nms_gym.subject import Subject, save_subject


@dataclass(frozen=True)
class Outcome:
    """A calibrated person and how they came about."""

    subject: Subject
    result: CalibrationResult
    rows: Sequence[dict[str, Any]]
    """metrics, see ``validation.tabulate``; empty when not evaluated"""


def calibrate(study: Study, *, progress: Callable[[Progress], None] | None = None, evaluate: bool = True) -> Outcome:
    """Fit a study's training windows and score training and held-out ones, before and after.

    Args:
        study: from ``read_study``.
        progress: see ``fit``.
        evaluate: whether to score; without it the outcome has no rows.

    Raises:
        InputError: the problem cannot be solved from this start.
    """
    result = fit(study.problem, progress=progress, **study.fit_options)
    if result.status is Status.NOT_FINITE:
        raise InputError(f"study {study.name!r}: {result.status.value}")
    rows = tabulate(study.model, study.start, result.params, study.train, study.held_out) if evaluate else []
    return Outcome(make_subject(study, result, rows), result, rows)


def make_subject(study: Study, result: CalibrationResult, rows: Sequence[dict[str, Any]]) -> Subject:
    """The calibrated person, with what a reader of the file needs to judge them."""
    bounds, prior_sd = _bounds_and_priors(study.model, study.start, result)
    return Subject(
        name=study.name,
        model=study.model,
        params=result.params,
        start=study.start,
        bounds=bounds,
        prior_sd=prior_sd,
        calibration={
            "solver": result.solver,
            "status": result.status.name,
            "cost": result.cost,
            "uncalibrated_cost": result.start_cost,
            "iterations": result.iterations,
            "starts": len(result.costs),
            "at_bounds": list(result.at_bounds),
            "coordinates": list(study.train[0].coordinates),
            "training_windows": [s.name for s in study.train],
            "held_out_windows": {name: [s.name for s in segments] for name, segments in study.held_out.items()},
        },
        metrics=list(rows),
        sources=study.sources,
        emg_normalisation=study.emg_normalisation,
        synthetic=any(t.synthetic for t in study.trials.values()),
    )


def _bounds_and_priors(
    model: NmsModel, start: NmsParams, result: CalibrationResult
) -> tuple[dict[str, dict[str, tuple[float, float]]], dict[str, dict[str, float]]]:
    """Bounds and prior standard deviations of what was free, by kind and name, in the kind's unit."""
    layout = result.layout
    bounds: dict[str, dict[str, tuple[float, float]]] = {}
    prior_sd: dict[str, dict[str, float]] = {}
    for kind, index in layout.index.items():
        values = np.asarray(getattr(start, kind), float)
        bounds[kind], prior_sd[kind] = {}, {}
        for name, value, i in zip(entries(model, kind), values, index, strict=True):
            if i == layout.size:
                continue
            sd, low, high = layout.sd[i], layout.sd[i] * layout.low[i], layout.sd[i] * layout.high[i]
            if layout.relative[kind]:
                bounds[kind][name] = (float(value * np.exp(low)), float(value * np.exp(high)))
                prior_sd[kind][name] = float(value * sd)
            else:
                bounds[kind][name] = (float(value + low), float(value + high))
                prior_sd[kind][name] = float(sd)
    return bounds, prior_sd


def write_results(folder: Path, study: Study, outcome: Outcome, *, report: bool = True) -> list[Path]:
    """Write ``subject.json``, ``metrics.json``, ``trials/*.npz`` and the report. Each file is written whole or not at all.

    Returns:
        What was written, the subject first.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    from calibration.report import write_metrics, write_report

    try:
        (folder / "trials").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot make the output folder: {error.strerror or error}") from error
    written = [folder / "subject.json", folder / "metrics.json"]
    save_subject(written[0], outcome.subject)
    write_metrics(written[1], outcome.rows)
    for name, trial in study.trials.items():
        written.append(folder / "trials" / f"{name}.npz")
        trial.save(written[-1])
    if report:
        written.append(
            write_report(
                folder, subject=outcome.subject, train=study.train, held_out=study.held_out, result=outcome.result
            )
        )
    return written
