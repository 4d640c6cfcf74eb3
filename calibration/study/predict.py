"""What a saved person's model says about recordings, and what that is worth on a study's windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from calibration.excitations.assisted import Assistance, assist
from calibration.problem import check_targets
from calibration.study.build import Study
from calibration.study.checks import require_file_name
from calibration.study.model import Say
from calibration.study.ranges import RangeCheck, check_sets
from calibration.study.targets import SegmentTargets
from calibration.uncertainty.analysis import CORRECTED, BandSet, band_set
from calibration.uncertainty.discrepancy import Corrections, corrected_moments, evaluate_corrected
from calibration.uncertainty.posterior import Noise
from calibration.validation import predict_segment, tabulate, tabulate_targets
from nms_gym.errors import InputError
from nms_gym.files.subject import Subject
from nms_gym.model.forward import NmsOutput
from nms_gym.model.parameters import NmsParams
from nms_gym.model.replay import Segment, make_segment
from nms_gym.model.structure import NmsModel
from nms_gym.recording.trial import Trial


@dataclass(frozen=True)
class Prediction:
    """What a saved person's model says about one recording."""

    trial: str
    segment: Segment
    output: NmsOutput
    corrected: tuple[np.ndarray, np.ndarray] | None = None
    """moments with what the model leaves unexplained and the standard deviation of what would be measured, each
    ``(T, K)`` N·m"""


def predict(
    subject: Subject,
    trials: Sequence[Trial],
    *,
    assistance: Assistance | None = None,
    corrections: Corrections | None = None,
    say: Say = lambda _: None,
) -> list[Prediction]:
    """Predict whole recordings with a saved person, in float64.

    Nothing is written; ``write_predictions`` does, and ``nms_gym.model.quantities.quantities`` gives arrays by name.

    Args:
        subject: the person, from ``load_subject`` or a calibration.
        trials: recordings, whose envelopes have the person's own EMG reference (``read_study(...,
            emg_reference=subject.emg_normalisation)`` processes raw ones so).
        assistance: how far excitations may leave the recorded ones to meet the measured moments (see ``assisted``);
            by default not at all.
        corrections: what the model leaves unexplained, from ``load_corrections``; predictions then have ``corrected``
            moments too.
        say: told what is going on.

    Returns:
        One prediction per recording, of the joints that the person was calibrated for.

    Raises:
        InputError: two trials of one name, a recording that does not suit the person (see ``make_segment``), or a
            prediction that is not finite.
    """
    coordinates = _coordinates(subject)
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
        output = jax.tree.map(lambda x, counts=segment.scored: x[counts], output)
        segment = segment.without_lead_in()
        if not np.isfinite(output.moments).all():
            raise InputError(f"trial {trial.name!r}: the predicted moments are not finite; check the recording's units")
        corrected = None
        if corrections is not None and assistance is None:
            corrected = corrected_moments(subject.model, corrections.discrepancy, segment, output)
        predictions.append(Prediction(trial.name, segment, output, corrected))
    return predictions


@dataclass(frozen=True)
class Scored:
    """What a saved person is worth on a study's windows."""

    rows: Sequence[dict[str, Any]]
    """metrics as a calibration has them, see ``validation.tabulate``; without "uncalibrated" ones of a person whose
    start nobody kept"""
    bands: tuple[BandSet, ...]
    """where people and the noise of their moments are known"""
    ranges: tuple[RangeCheck, ...]
    """how far each set of windows leaves what the fit has seen"""
    targets: Sequence[dict[str, Any]] = ()
    """of what was measured of single muscles, see ``validation.tabulate_targets``"""


def score(
    subject: Subject,
    study: Study,
    *,
    people: NmsParams | None = None,
    corrections: Corrections | None = None,
    say: Say = lambda _: None,
) -> Scored:
    """Score a saved person on the training windows and the held-out sets of a study.

    The person's own model and parameters are used; of the study only its recordings and windows. Nothing is fitted, so
    that "training windows" are those of this study, which need not be those of the person's calibration.

    Args:
        subject: from ``load_subject``.
        study: from ``read_study(..., emg_reference=subject.emg_normalisation)`` or ``make_study``.
        people: parameters ``(n, ...)`` of people that fit about as well, from ``load_people``; adds bands.
        corrections: what the model leaves unexplained, from ``load_corrections``; adds rows, and is in the bands.
        say: told what is going on.

    Raises:
        InputError: the study has no windows, its recordings lack what the person's model needs, or it has measurements
            of a muscle that the model lacks.
    """
    train, held_out = study.cut(subject.model, _coordinates(subject))
    if not (train or held_out):
        raise InputError(f"study {study.name!r} has no training or held-out windows to score {subject.name!r} on")
    start = subject.start
    own = subject.params if start is None else start
    say(f"scoring {subject.name} on {len(train)} training windows and {len(held_out)} held-out sets")
    rows = tabulate(subject.model, own, subject.params, train, held_out)
    if corrections is not None:
        found = corrections.discrepancy
        rows += [
            metrics.row(set=CORRECTED, split=split, segment=label)
            for split, label, segments in (
                ("train", "training windows", train),
                *(("held-out", *s) for s in held_out.items()),
            )
            if segments and all(s.measured is not None for s in segments)
            for metrics in evaluate_corrected(subject.model, subject.params, found, segments)
        ]
    targets = tabulate_targets(
        subject.model, own, subject.params, *_with_targets(subject.model, study, train, held_out)
    )
    noise = moment_noise(subject)
    bands: list[BandSet] = []
    if people is not None and noise:
        say("working out bands")
        sets = [("training windows", False, train), *((name, True, s) for name, s in held_out.items())]
        bands = [band_set(subject.model, people, noise, *one, corrections=corrections) for one in sets if one[2]]
    return Scored(
        _known(rows, start),
        tuple(bands),
        check_sets(subject, train, held_out),
        _known(targets, start),
    )


def _known(rows: Sequence[dict[str, Any]], start: NmsParams | None) -> list[dict[str, Any]]:
    return [row for row in rows if start is not None or row["set"] != "uncalibrated"]


def _with_targets(
    model: NmsModel, study: Study, train: Sequence[Segment], held_out: Mapping[str, Sequence[Segment]]
) -> tuple[tuple[Sequence[Segment], SegmentTargets], dict[str, tuple[Sequence[Segment], SegmentTargets]]]:
    """Windows and what was measured of single muscles on them, which the model must have."""
    unseen = {label: (segments, study.held_out_targets.get(label, ())) for label, segments in held_out.items()}
    sets = ((train, study.targets), *unseen.values())
    for segments, targets in sets:
        for segment, given in zip(segments, targets, strict=bool(targets)):
            check_targets(model, segment, given)
    return sets[0], unseen


def moment_noise(subject: Subject) -> tuple[Noise, ...]:
    """What the person's calibration found of the errors of moments; none where no posterior was drawn, or by an older
    version."""
    rows = subject.calibration.get("moment_noise") or ()
    return tuple(Noise(**row) for row in rows if isinstance(row, Mapping))


def _coordinates(subject: Subject) -> Sequence[str] | None:
    """The joints the person was calibrated for; all of the recording's when that is not known."""
    return subject.calibration.get("coordinates") or None
