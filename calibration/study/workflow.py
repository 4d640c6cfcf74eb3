"""From a study to a saved person: fit, validate, and write the results."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.cross_validation import CrossValidation, cross_validate, with_prior_strength
from calibration.excitations.assisted import Assistance, assist
from calibration.fitting import CalibrationResult, Progress, Status, fit, polished
from calibration.study.build import Study
from calibration.study.checks import at, require_file_name
from calibration.study.model import Say
from calibration.uncertainty.analysis import Analysis, analyse
from calibration.uncertainty.posterior import Interval
from calibration.validation import compare, predict_segment, tabulate
from nms_gym.errors import InputError
from nms_gym.files.posterior import save_people
from nms_gym.files.subject import Subject, save_subject
from nms_gym.model.forward import NmsOutput
from nms_gym.model.parameters import NmsParams, entries
from nms_gym.model.replay import Segment, make_segment
from nms_gym.model.structure import NmsModel
from nms_gym.recording.storage import write_table
from nms_gym.recording.trial import Trial

if TYPE_CHECKING:
    from calibration.report.figures import Picture


@dataclass(frozen=True)
class Outcome:
    """A calibrated person and how they came about."""

    subject: Subject
    result: CalibrationResult
    rows: Sequence[dict[str, Any]]
    """metrics, see ``validation.tabulate``; empty when not evaluated"""
    analysis: Analysis | None = None
    """how sure it is; None when not asked for, or interrupted"""
    validation: CrossValidation | None = None
    """what was left out in turn; None when the study does not ask for it"""


def calibrate(
    study: Study,
    *,
    progress: Callable[[Progress], None] | None = None,
    evaluate: bool = True,
    posterior: int = 0,
    say: Say = lambda _: None,
) -> Outcome:
    """Fit a study's training windows and score training and held-out ones, before and after.

    Args:
        study: from ``read_study``.
        progress: see ``fit``.
        evaluate: whether to score; without it the outcome has no rows.
        posterior: people to draw from the posterior; 0 leaves uncertainty and identifiability out.
        say: told what is going on after the fit.

    Raises:
        InputError: the problem cannot be solved from this start.
        KeyboardInterrupt: interrupted before the first iteration; later, the best so far is the outcome.
    """
    validated, plan = None, study.validation
    if plan.by is not None:
        say(f"leaving out every {plan.by} in turn, at {len(plan.strengths)} prior strengths")
        problem = study.problem
        with at(f"study {study.name!r} [validation]"):
            labels = plan.labels(problem.segments)
            validated = cross_validate(problem, labels, strengths=plan.strengths, precision="float32")
        study = dataclasses.replace(study, free=with_prior_strength(problem, validated.strength).free)
    result = fit(study.problem, progress=progress, **study.fit_options)
    if study.polish and result.status is not Status.INTERRUPTED:
        result = polished(study.problem, result, progress=progress)
    if not len(result.history):
        # Stopped before the first iteration: there is nothing worth keeping.
        raise KeyboardInterrupt
    if result.status is Status.NOT_FINITE:
        raise InputError(f"study {study.name!r}: {result.status.value}")
    rows = tabulate(study.model, study.start, result.params, study.train, study.held_out) if evaluate else []
    analysis = None
    if posterior and result.status is not Status.INTERRUPTED:
        say("working out how sure this is")
        analysis = analyse(study, result, samples=posterior)
    subject = make_subject(study, result, rows, analysis)
    if validated is not None:
        record = {"by": plan.by, "strength": validated.strength, "choices": validated.choice_rows()}
        subject = dataclasses.replace(subject, calibration={**subject.calibration, "cross_validation": record})
    return Outcome(subject, result, rows, analysis, validated)


def make_subject(
    study: Study, result: CalibrationResult, rows: Sequence[dict[str, Any]], analysis: Analysis | None = None
) -> Subject:
    """The calibrated person, with what a reader of the file needs to judge them."""
    bounds, prior_sd = _bounds_and_priors(study.model, study.start, result)
    extra: dict[str, Any] = {}
    if analysis is not None:
        known = analysis.identifiability
        extra = {
            "cost_by_block": {name: list(costs) for name, costs in analysis.blocks.items()},
            "determined_directions": known.determined,
            "solutions": len(analysis.posterior.modes),
        }
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
            "emg_reference": study.emg_reference.kind,
            "training_windows": [s.name for s in study.train],
            "held_out_windows": {name: [s.name for s in segments] for name, segments in study.held_out.items()},
            **extra,
        },
        posterior={} if analysis is None else by_kind(analysis.intervals),
        metrics=list(rows),
        sources=study.sources,
        emg_normalisation=study.emg_reference.values,
        skeleton=study.skeleton,
        muscle_points=study.muscle_points,
        synthetic=any(t.synthetic for t in study.trials.values()),
    )


def by_kind(rows: Sequence[Interval]) -> dict[str, dict[str, dict[str, float]]]:
    """Posterior mean, sd and interval by kind and entry, as a subject file has them."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for i in rows:
        found.setdefault(i.kind, {})[i.name] = {"mean": i.mean, "sd": i.sd, "low": i.low, "high": i.high}
    return found


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


def require_folder(folder: Path) -> None:
    """Raise ``InputError`` unless results can go to ``folder``, which need not exist yet; to ask before a long fit."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        what = "is not a folder" if not place.is_dir() else "may not be written to"
        raise InputError(f"{folder}: results cannot go there: {place} {what}; choose another output folder")


def make_folder(folder: Path) -> None:
    """Make ``folder`` and its parents, or raise ``InputError``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot make the output folder: {error.strerror or error}") from error


def write_results(folder: Path, study: Study, outcome: Outcome, *, report: bool = True) -> list[Path]:
    """Write ``subject.json``, ``metrics.json``, ``trials/*.npz``, ``posterior.npz`` (when drawn) and the report; each
    file whole or not at all.

    Returns:
        What was written, the subject first.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    from calibration.report.write import write_metrics

    make_folder(folder / "trials")
    written = [folder / "subject.json", folder / "metrics.json"]
    save_subject(written[0], outcome.subject)
    write_metrics(written[1], outcome.rows, emg_reference=study.emg_reference.kind)
    for name, trial in study.trials.items():
        written.append(folder / "trials" / f"{name}.npz")
        trial.save(written[-1])
    if outcome.analysis is not None:
        written.append(folder / "posterior.npz")
        save_people(written[-1], study.model, outcome.analysis.people)
    if report:
        written.append(write_study_report(folder, study, outcome))
    return written


def write_study_report(folder: Path, study: Study, outcome: Outcome, films: Sequence[Picture] = ()) -> Path:
    """The report of a calibration, perhaps with films of the person in an environment.

    Raises:
        InputError: the folder cannot be written to.
    """
    from calibration.report.write import write_report

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
    )


@dataclass(frozen=True)
class Prediction:
    """What a saved person's model says about one recording."""

    trial: str
    segment: Segment
    output: NmsOutput


def predict(
    subject: Subject, trials: Sequence[Trial], *, assistance: Assistance | None = None, say: Say = lambda _: None
) -> list[Prediction]:
    """Predict whole recordings with a saved person.

    Args:
        subject: the person.
        trials: recordings.
        assistance: how far excitations may leave the recorded ones to meet the measured moments (see ``assisted``);
            by default not at all.
        say: told what is going on.

    Raises:
        InputError: two trials of one name, a recording that does not suit the person (see ``make_segment``), or a
            prediction that is not finite.
    """
    # The joints the person was calibrated for; all of the recording's when that is not known.
    coordinates = subject.calibration.get("coordinates") or None
    predictions: list[Prediction] = []
    for trial in trials:
        require_file_name(trial.name, f"trial {trial.name!r}")
        if trial.name in [p.trial for p in predictions]:
            raise InputError(f"two trials are called {trial.name!r}; predict them one by one, into two folders")
        say(f"predicting {trial.name}")
        segment = make_segment(subject.model, trial, coordinates=coordinates)
        if assistance is None:
            output = predict_segment(subject.model, subject.params, segment)
        else:
            output = assist(subject.model, subject.params, segment, assistance).output
        if not np.isfinite(output.moments).all():
            raise InputError(f"trial {trial.name!r}: the predicted moments are not finite; check the recording's units")
        predictions.append(Prediction(trial.name, segment, output))
    return predictions


def write_predictions(
    folder: Path, subject: Subject, predictions: Sequence[Prediction]
) -> tuple[list[Path], list[dict[str, Any]]]:
    """Write moments, tendon forces, excitations and activations as OpenSim storage files, and metrics where moments
    were measured.

    Returns:
        What was written, and the rows of ``metrics.json``.

    Raises:
        InputError: the folder cannot be made.
    """
    from calibration.report.write import write_metrics

    make_folder(folder)
    written: list[Path] = []
    rows: list[dict[str, Any]] = []
    for p in predictions:
        measured, out = p.segment.measured, p.output
        for what, labels, values in (
            ("moments", [f"{c}_moment" for c in p.segment.coordinates], out.moments),
            ("tendon_forces", subject.model.muscles, out.tendon_force),
            ("excitations", subject.model.muscles, out.excitation),
            ("activations", subject.model.muscles, out.activation),
        ):
            written.append(folder / f"{p.trial}_{what}.sto")
            write_table(written[-1], labels, p.segment.time, np.asarray(values), name=f"{p.trial} {what}")
        if measured is not None:
            for k, c in enumerate(p.segment.coordinates):
                metrics = compare(c, np.asarray(out.moments)[:, k], measured[:, k])
                rows.append(metrics.row(set="predicted", split="", segment=p.trial))
    if rows:
        written.append(folder / "metrics.json")
        write_metrics(written[-1], rows)
    return written, rows
