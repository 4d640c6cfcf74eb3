"""Recordings with a channel for muscles that had no electrode, as ``expected`` makes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from calibration.excitations.expected import ExcitationPrior, Stretch, synthesise
from nms_gym.errors import InputError, near
from nms_gym.model.parameters import NmsParams
from nms_gym.model.replay import make_segment
from nms_gym.model.structure import NmsModel
from nms_gym.recording.storage import require_unique
from nms_gym.recording.trial import Trial

PREFIX = "expected "


def add_expected_channels(
    model: NmsModel,
    params: NmsParams,
    trials: Sequence[Trial],
    *,
    muscles: Sequence[str] | None = None,
    prior: ExcitationPrior | None = None,
    gait: bool = True,
    profiles: Mapping[str, np.ndarray] | None = None,
) -> list[Trial]:
    """The recordings with a channel ``expected MUSCLE`` for each muscle without one, from neighbours and timing.

    A study of these recordings lets the new channels drive the muscles like recorded ones, with a gain to calibrate.
    Measured moments are not looked at, so that recordings to be predicted get the same kind of signal as those that are
    fitted. Give all of a person's recordings at once: what is strong or weak is told over all of them. One that is to
    be predicted later goes together with those that were fitted.

    Args:
        model: EMG-driven by the channels that were recorded.
        params: of the model; strengths and pennations are used.
        trials: recordings of one person.
        muscles: that get a channel; by default all without one.
        prior: how much each source counts; effort never does here.
        gait: whether the motion may be gait.
        profiles: see ``synthesise``.

    Returns:
        The recordings in their order, in the unit of their envelopes.

    Raises:
        InputError: no recording, a muscle that the model lacks or that has a channel, a model with synergies, a
            recording that does not suit the model; see also ``synthesise``.
    """
    chosen = model.passive_muscles if muscles is None else tuple(muscles)
    require_unique(chosen, "muscles", "expected channels")
    if model.commands:
        raise InputError("expected channels are made for an EMG-driven model; this one has synergies")
    if not chosen:
        raise InputError("every muscle has a channel: there is nothing to synthesise")
    for muscle in chosen:
        if muscle not in model.muscles:
            raise InputError(f"expected channels: the model has no {muscle!r}; {near(muscle, model.muscles)}")
        if muscle in model.recorded_muscles:
            raise InputError(f"expected channels: {muscle!r} has a channel that was recorded; leave it out")
    drives = np.asarray(model.channel_weights, float)
    used = drives.any(axis=0)
    windows = []
    for trial in trials:
        segment = make_segment(model, trial, lead_in=0.0)
        rows = segment.scored
        envelopes = np.asarray(segment.replay.excitations, float)[-len(rows) :][rows]
        windows.append(Stretch(segment.time[rows], envelopes[:, used], np.asarray(segment.replay.moment_arms)[rows]))
    strength = np.asarray(params.max_isometric_force, float) * np.cos(np.asarray(params.pennation_at_optimal, float))
    found = synthesise(windows, model.muscles, drives[:, used], strength, prior, gait=gait, profiles=profiles)
    columns = [model.muscles.index(m) for m in chosen]
    made = []
    for trial, window, excitation in zip(trials, windows, found.excitation, strict=True):
        new = [np.interp(trial.emg_time, window.time, excitation[:, c]) for c in columns]
        names = (*trial.channels, *(PREFIX + m for m in chosen))
        made.append(dataclasses.replace(trial, channels=names, emg=np.column_stack([trial.emg, *new])))
    return made
