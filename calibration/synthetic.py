"""Synthetic people with known parameters, for studies of what a calibration recovers and how sure it may be.

Parameters are drawn from the calibration's own prior, inside its bounds; joint motion and EMG are smooth and random;
the moments are those of the model, and what is recorded of them is wrong in the ways that recordings are: moments carry
low-passed noise, and the EMG that the calibration sees is not the one that drove the muscles. The latter is a model
error: no parameters explain it, it is correlated over time, and a posterior that takes it for white noise is too sure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from scipy.signal import butter, sosfiltfilt

from calibration.problem import Free, Penalties, Problem, Target, make_layout, params_at
from calibration.uncertainty.truncated_normal import sample_box
from calibration.validation import float64, predict_segment
from nms_gym.model.parameters import NmsParams
from nms_gym.model.quantities import MUSCLE_OUTPUTS
from nms_gym.model.replay import Segment, make_segment
from nms_gym.model.structure import NmsModel
from nms_gym.recording.trial import Trial

# Tolerances of the size of the errors below.
PENALTIES = Penalties(moment_tolerance=0.1)


@dataclass(frozen=True)
class Errors:
    """What is wrong with the recordings."""

    moment_noise: float = 0.03
    """of each moment's standard deviation, low-passed at ``moment_bandwidth`` Hz"""
    moment_bandwidth: float = 6.0
    emg_noise: float = 0.1
    """of the envelope, slowly varying (``emg_bandwidth`` Hz): electrodes, crosstalk, the muscle not seen"""
    emg_bandwidth: float = 1.0


@dataclass(frozen=True)
class SyntheticPerson:
    """A person whose parameters are known."""

    problem: Problem
    """what a calibration is given"""
    z: np.ndarray
    """(P,) the truth, in prior standard deviations"""
    params: NmsParams
    """the truth"""
    unseen: tuple[Segment, ...]
    """recordings like the training ones, of other motions"""
    true: tuple[Segment, ...]
    """the unseen ones without any error: the EMG that drove the muscles, and the moments they made"""
    true_training: tuple[Segment, ...]
    """the training ones without any error"""


def make_person(
    model: NmsModel,
    start: NmsParams,
    free: Sequence[Free],
    *,
    seed: int,
    middle: Sequence[float] = (),
    reach: Sequence[float] = (),
    training: int = 2,
    unseen: int = 1,
    seconds: float = 3.0,
    dt: float = 0.01,
    penalties: Penalties = PENALTIES,
    errors: Errors = Errors(),
    trials: Sequence[Trial] = (),
    groups: Mapping[str, tuple[str, ...]] | None = None,
    truth: NmsModel | None = None,
    drawn: Sequence[Free] | None = None,
) -> SyntheticPerson:
    """Draw a person and their recordings; the same for the same seed.

    Args:
        model: with muscle paths.
        start: the uncalibrated person, center of the prior.
        free: what is drawn, and later calibrated.
        seed: of everything.
        middle: rad, of every coordinate of the paths; the motion stays within ``middle`` +- ``reach``.
        reach: rad.
        training: recordings to calibrate on.
        unseen: recordings to predict.
        seconds: length of each.
        dt: s.
        penalties: of the problem.
        errors: of the recordings.
        trials: motions and envelopes that the person performs in place of random ones, the ``training`` ones first;
            ``middle``, ``reach``, ``unseen`` and ``seconds`` are not used then. Their measured moments are not, either.
        groups: of the problem.
        truth: the structure that makes the recordings, where that is not the calibration's: other curves, say.
        drawn: what the person is drawn from, where that is not what is calibrated: wider priors, say, or a value for
            each where the calibration has one for all. Then ``z`` is of those, and no truth in the calibration's.
    """
    rng = np.random.default_rng(seed)
    assert model.paths is not None
    center, span = np.asarray(middle, float), np.asarray(reach, float)
    names = model.paths.coordinates
    if trials:
        dt = trials[0].dt
    else:
        trials = [
            _motion(names, model.channels, center, span, f"motion {i + 1}", seconds, dt, rng)
            for i in range(training + unseen)
        ]
    # A problem needs some measured moments; which ones does not matter for the prior and its bounds.
    segments = [make_segment(model, trial) for trial in trials]
    blank = [dataclasses.replace(s, measured=np.tile(s.time[:, None], (1, len(model.coordinates)))) for s in segments]
    problem = Problem(model, start, tuple(blank[:training]), tuple(free), dict(groups or {}), penalties)
    layout = make_layout(problem if drawn is None else dataclasses.replace(problem, free=tuple(drawn)))
    own = model if truth is None else truth
    z = sample_box(np.zeros(layout.size), layout.prior_precision, layout.low, layout.high, 1, rng)[0]
    with jax.enable_x64(True):
        params = jax.tree.map(np.asarray, params_at(layout, float64(start), jax.numpy.asarray(z)))

    recorded, clean = [], []
    for trial, segment in zip(trials, blank, strict=True):
        moments = predict_segment(own, params, segment).moments
        noise = errors.moment_noise * moments.std(axis=0) * _colored(moments.shape, errors.moment_bandwidth, dt, rng)
        factor = 1.0 + errors.emg_noise * _colored(trial.emg.shape, errors.emg_bandwidth, dt, rng)
        seen = dataclasses.replace(trial, emg=trial.emg * np.maximum(factor, 0.0))
        settled = segment.time >= segment.time[0] + 0.3
        recorded.append(dataclasses.replace(make_segment(model, seen), measured=moments + noise, scored=settled))
        clean.append(dataclasses.replace(segment, measured=moments, scored=settled))
    return SyntheticPerson(
        problem=dataclasses.replace(problem, segments=tuple(recorded[:training])),
        z=z,
        params=params,
        unseen=tuple(recorded[training:]),
        true=tuple(clean[training:]),
        true_training=tuple(clean[:training]),
    )


def with_targets(
    person: SyntheticPerson,
    measured: Mapping[str, Sequence[str]],
    noise: Mapping[str, float],
    *,
    bandwidth: float = 6.0,
    seed: int = 0,
) -> Problem:
    """The person's problem where quantities of single muscles were measured too, on all training recordings.

    Args:
        person: whose true values they are, made by the EMG that drove the muscles.
        measured: quantity -> muscles.
        noise: quantity -> standard deviation of the error, in its unit; that is its tolerance, too.
        bandwidth: Hz, of the error.
        seed: of the error.
    """
    problem, rng = person.problem, np.random.default_rng(seed)
    targets = []
    for segment in person.true_training:
        out, dt = predict_segment(problem.model, person.params, segment), float(segment.replay.dt)
        given = []
        for quantity, muscles in measured.items():
            values = np.asarray(MUSCLE_OUTPUTS[quantity](person.params, out))
            values = values + noise[quantity] * _colored(values.shape, bandwidth, dt, rng)
            columns = [problem.model.muscles.index(m) for m in muscles]
            given += [Target(quantity, m, values[:, c], noise[quantity]) for m, c in zip(muscles, columns, strict=True)]
        targets.append(tuple(given))
    return dataclasses.replace(problem, targets=tuple(targets))


def _motion(
    coordinates: tuple[str, ...],
    channels: tuple[str, ...],
    middle: np.ndarray,
    reach: np.ndarray,
    name: str,
    seconds: float,
    dt: float,
    rng: np.random.Generator,
) -> Trial:
    """Smooth random motion below 1 Hz and envelopes between 0 and 1 below 2 Hz."""
    time = dt * np.arange(round(seconds / dt) + 1)

    def waves(count: int, fastest: float) -> np.ndarray:
        rate, phase = rng.uniform(0.3, fastest, (5, count)), rng.uniform(0, 2 * np.pi, (5, count))
        return np.sin(2 * np.pi * rate * time[:, None, None] + phase).sum(axis=1) / 3

    q = middle + reach * np.tanh(waves(len(coordinates), 0.8))
    return Trial(
        name=name,
        time=time,
        coordinates=coordinates,
        q=q,
        qd=np.gradient(q, time, axis=0),
        channels=channels,
        emg_time=time,
        emg=1 / (1 + np.exp(1.0 - 3 * waves(len(channels), 2.0))),
        synthetic=True,
    )


def _colored(shape: tuple[int, ...], bandwidth: float, dt: float, rng: np.random.Generator) -> np.ndarray:
    """Noise (T, n) of unit standard deviation below ``bandwidth`` Hz."""
    # Long enough that the filter's ends are cut off.
    margin = round(2.0 / (bandwidth * dt))
    sos = butter(2, min(2.0 * bandwidth * dt, 0.99), output="sos")
    noise = sosfiltfilt(sos, rng.standard_normal((shape[0] + 2 * margin, shape[1])), axis=0)[margin:-margin]
    reference = sosfiltfilt(sos, np.eye(1, 4001, 2000)[0])
    return noise / np.sqrt(np.sum(reference**2))
