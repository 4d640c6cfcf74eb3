"""From a study to a calibrated person: fit, score, and how sure it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibration.cross_validation import CrossValidation, cross_validate, with_prior_strength
from calibration.fitting import CalibrationResult, Progress, Status, fit, polished
from calibration.study.build import Study
from calibration.study.checks import at
from calibration.study.emg import NORMALISATIONS
from calibration.study.model import Say
from calibration.uncertainty.analysis import Analysis, analyse
from calibration.uncertainty.bands import Interval
from calibration.validation import tabulate, tabulate_maximal, tabulate_targets
from nms_gym.errors import InputError
from nms_gym.files.subject import Subject
from nms_gym.model.parameters import NmsParams, entries
from nms_gym.model.structure import NmsModel
from nms_gym.model.trained_range import trained_range


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
    targets: Sequence[dict[str, Any]] = ()
    """metrics of what was measured of single muscles, see ``validation.tabulate_targets``"""
    maximal: Sequence[dict[str, Any]] = ()
    """maximal moments, measured and the model's, see ``validation.tabulate_maximal``"""


def calibrate(
    study: Study,
    *,
    progress: Callable[[Progress], None] | None = None,
    evaluate: bool = True,
    posterior: int = 0,
    say: Say = lambda _: None,
) -> Outcome:
    """Fit a study's training windows and score training and held-out ones, before and after.

    Where the study asks for validation, training windows are left out in turn first, which chooses the strength of the
    priors. Nothing is written; ``write_results`` does.

    Args:
        study: from ``make_study`` or ``read_study``.
        progress: see ``fit``.
        evaluate: whether to score; without it the outcome has no rows.
        posterior: people to draw from the posterior; 0 leaves uncertainty and identifiability out.
        say: told what is going on before and after the fit.

    Returns:
        The person as ``Outcome.subject``, the fit, its scores, and how sure it is.

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
        analysis = analyse(study.problem, result, study.held_out, samples=posterior)
    subject = make_subject(study, result, rows, analysis)
    if validated is not None:
        record = {"by": plan.by, "strength": validated.strength, "choices": validated.choice_rows()}
        subject = dataclasses.replace(subject, calibration={**subject.calibration, "cross_validation": record})
    if not evaluate:
        return Outcome(subject, result, rows, analysis, validated)
    maximal = tabulate_maximal(study.model, study.start, result.params, study.maximal)
    return Outcome(subject, result, rows, analysis, validated, _targets(study, result.params), maximal)


def _targets(study: Study, params: NmsParams) -> list[dict[str, Any]]:
    held_out = {label: (segments, study.held_out_targets.get(label, ())) for label, segments in study.held_out.items()}
    return tabulate_targets(study.model, study.start, params, (study.train, study.targets), held_out)


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
            "combinations": known.combination_rows(),
            "solutions": len(analysis.posterior.modes),
            "moment_noise": [dataclasses.asdict(n) for n in analysis.posterior.noise],
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
            "strength_data": strength_data(study),
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
        trained=trained_range(study.train),
    )


def strength_data(study: Study) -> list[str]:
    """What tells the person's strength from the gains of the EMG, in words; empty where nothing does."""
    joints = () if study.maximal is None else dict.fromkeys(study.maximal.joints)
    found = [f"maximal moments of {joint}" for joint in joints]
    mvc = NORMALISATIONS["mvc"]
    return found + ([f"EMG over its {mvc}"] if study.emg_reference.kind == mvc else [])


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
