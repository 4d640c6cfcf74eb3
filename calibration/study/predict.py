"""What a saved person's model says about recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calibration.excitations.assisted import Assistance, assist
from calibration.study.checks import require_file_name
from calibration.study.model import Say
from calibration.validation import predict_segment
from nms_gym.errors import InputError
from nms_gym.files.subject import Subject
from nms_gym.model.forward import NmsOutput
from nms_gym.model.replay import Segment, make_segment
from nms_gym.recording.trial import Trial


@dataclass(frozen=True)
class Prediction:
    """What a saved person's model says about one recording."""

    trial: str
    segment: Segment
    output: NmsOutput


def predict(
    subject: Subject, trials: Sequence[Trial], *, assistance: Assistance | None = None, say: Say = lambda _: None
) -> list[Prediction]:
    """Predict whole recordings with a saved person, in float64.

    Nothing is written; ``write_predictions`` does, and ``nms_gym.model.quantities.quantities`` gives arrays by name.

    Args:
        subject: the person, from ``load_subject`` or a calibration.
        trials: recordings, whose envelopes have the person's own EMG reference (``read_study(...,
            emg_reference=subject.emg_normalisation)`` processes raw ones so).
        assistance: how far excitations may leave the recorded ones to meet the measured moments (see ``assisted``);
            by default not at all.
        say: told what is going on.

    Returns:
        One prediction per recording, of the joints that the person was calibrated for.

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
