"""Gains that recordings without moments bound."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from calibration.problem import Free
from calibration.study.model import Say
from nms_gym.errors import InputError, listed
from nms_gym.model.parameters import NmsParams
from nms_gym.model.structure import NmsModel
from nms_gym.recording.storage import Table

# Quantile of an envelope that stands for full excitation at most: its largest samples are often artefacts.
LARGEST = 0.99


def limit_gains(
    free: Sequence[Free], model: NmsModel, start: NmsParams, envelopes: Sequence[Table], where: str, say: Say
) -> tuple[Free, ...]:
    """Free parameters whose gains excite no more than fully in recordings that need no moments.

    A fit to light tasks alone may raise a gain until heavier ones saturate. Excitation ends at 1, so the EMG of heavier
    tasks tells how far a gain may go: to one over the ``LARGEST`` quantile of a channel's envelopes, or to its start
    where that is higher.

    Args:
        free: parameters of the calibration.
        model: whose recorded channels are bounded.
        start: the uncalibrated person.
        envelopes: of the recordings, normalised as those that are fitted.
        where: for messages.
        say: told of gains that start above their limit.

    Raises:
        InputError: gains are not free.
    """
    gains = next((f for f in free if f.kind == "emg_gain"), None)
    if gains is None:
        raise InputError(
            f"{where}: limit_trials bounds the gains, but emg_gain is not free; free it, or remove the key"
        )
    largest = np.quantile(np.concatenate([t.select(model.recorded_channels) for t in envelopes]), LARGEST, axis=0)
    limits, above = [], []
    for channel, value in zip(model.recorded_channels, largest.tolist(), strict=True):
        begins = float(np.asarray(start.emg_gain)[model.channels.index(channel)])
        if value > 0 and (gains.only is None or channel in gains.only):
            highest = max(1.0 / value, begins)
            limits.append((channel, highest / begins if gains.relative else highest))
            above += [channel] if begins * value > 1.0 else []
    if above:
        say(f"gains of {listed(above)} start above what the EMG of limit_trials allows, and may not rise")
    return tuple(dataclasses.replace(f, own_high=tuple(limits)) if f is gains else f for f in free)
