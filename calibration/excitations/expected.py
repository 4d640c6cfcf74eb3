"""Excitations of muscles that were not recorded, as expected before any moment is fitted.

Moments alone do not say which of several muscles works, so a calibration needs to know beforehand what a muscle without
a channel is likely to do. Three things say so, none of which needs a signal of that muscle:

* **neighbours**: muscles that move the same joints in the same directions are active together. How alike two muscles
  are is the cosine between their mean moment arms over all coordinates, so it follows from the geometry of any model;
* **effort**: the activations of least sum of squares that make the measured moments (static optimisation, Crowninshield
  & Brand 1981, 10.1016/0021-9290(81)90035-X), with isometric strengths;
* **timing**, where the motion is gait: when each leg muscle is on in normal walking, as published
  (``gait_timing.ON_OFF``) or, which is better, as other people's EMG has it (``gait_timing.learn_profiles``).

They meet in one Gaussian process over muscles ("universal kriging", Matheron 1969; Rasmussen & Williams 2006, chapter
2.7): a muscle's standardised signal is ``b_1 timing + b_2 effort + deviation``, deviations correlate as muscles are
alike, and the recorded channels tell the coefficients ``b`` and the deviations. Where the recorded channels do not
follow timing or effort, ``b`` stays small, so neither is trusted further than the person bears it out.

``synthesise`` gives the excitations and their uncertainty; ``weight_prior`` turns them into the prior mean and standard
deviation of synergy weights; ``with_prior`` does both for a model that ``synergies.py`` has prepared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import nnls

from calibration.excitations.gait_timing import (
    LEAST_AGREEMENT,
    PERIODS,
    PHASES,
    TIMING_WIDTH,
    GaitCycle,
    at_phase,
    electrode_name,
    fit_gait_cycle,
    standardised,
    timing_profile,
)
from calibration.problem import DEFAULT_FREE, Free
from nms_gym.errors import InputError, listed
from nms_gym.model.parameters import NmsParams, make_params
from nms_gym.model.replay import Segment
from nms_gym.model.structure import NmsModel


@dataclass(frozen=True)
class ExcitationPrior:
    """How much the three sources count. Chosen by withholding channels of other people than those that the benchmark
    reports (``examples/benchmarks/missing_channels.py``); results change little within a factor of two of each."""

    similarity_scale: float = 0.2
    """one minus cosine at which the correlation of two muscles' deviations has fallen to a quarter"""
    noise: float = 0.15
    """variance of a recorded signal that no other muscle shares, over its own"""
    timing_sd: float = 0.3
    """prior standard deviation of the coefficient of published timing; 0 leaves it out"""
    timing_width: float = TIMING_WIDTH
    """per cent of the gait cycle by which published bursts are blurred"""
    effort_sd: float = 0.2
    """prior standard deviation of the coefficient of effort; 0 leaves it out"""
    effort_tolerance: float = 0.22
    """error of a moment, in its standard deviations, that effort weighs like an activation of 1"""
    effort_blur: float = 0.05
    """s"""
    effort_lead: float = 0.075
    """s by which excitation leads force"""
    tightness: float = 0.1
    """part of the expected excitation's standard deviation that a fit to moments may use: while the muscles' lengths
    and strengths are not known, moments mislead more than they tell"""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value, positive = getattr(self, f.name), f.name in _POSITIVE
            if not (value > 0 or (value == 0 and not positive)):
                raise InputError(f"{f.name} is {value}; it must be {'positive' if positive else '0 or more'}")


# Periods of a stretch shorter than a cycle, over that of the longest stretch.
SHORT_PERIODS = (0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15)
_POSITIVE = ("similarity_scale", "noise", "timing_width", "effort_tolerance", "tightness")


@dataclass(frozen=True)
class Stretch:
    """What is known of a stretch of a recording; ``stretch_of`` takes it from a segment."""

    time: np.ndarray
    """(T,) s, evenly spaced"""
    envelopes: np.ndarray
    """(T, C) excitation by each recorded channel, 0 or more"""
    moment_arms: np.ndarray
    """(T, K, M) m"""
    moments: np.ndarray | None = None
    """(T, K) N·m measured; without them effort is left out"""
    period: float | None = None
    """s of a gait cycle; when None it is searched for: near that of the longest stretch where this is shorter than a
    cycle"""


@dataclass(frozen=True)
class Synthesis:
    """Expected excitation of every muscle."""

    excitation: tuple[np.ndarray, ...]
    """(T, M) per window, 0 or more, in the unit of the envelopes; what the neighbours would say of a recorded one"""
    sd: np.ndarray
    """(M,) standard deviation of what is expected, over time"""
    coefficients: Mapping[str, float]
    """of "timing" and "effort", as far as they were used"""
    cycles: tuple[GaitCycle | None, ...]
    """per window; None where timing was not used"""


def function_signatures(moment_arms: np.ndarray) -> np.ndarray:
    """What muscles do, ``(M, K)``: mean moment arms ``(T, K, M)`` over each coordinate's largest, of unit length."""
    mean = moment_arms.mean(axis=0)
    largest = np.abs(mean).max(axis=1, keepdims=True)
    return _unit((mean / np.where(largest > 0, largest, 1.0)).T)


def effort_pattern(moment_arms: np.ndarray, strength: np.ndarray, moments: np.ndarray, tolerance: float) -> np.ndarray:
    """Activations ``(T, M)`` of least squared effort for measured moments, each moment in its standard deviations.

    Args:
        moment_arms: ``(T, K, M)`` m.
        strength: ``(M,)`` N, along the tendon.
        moments: ``(T, K)`` N·m.
        tolerance: see ``ExcitationPrior.effort_tolerance``.
    """
    spread = moments.std(axis=0)
    used = spread > 0
    capacity = moment_arms[:, used] * strength / spread[used, None]
    wanted = moments[:, used] / spread[used]
    count = len(strength)
    ridge, zeros = tolerance * np.eye(count), np.zeros(count)
    return np.array(
        [nnls(np.vstack([a, ridge]), np.concatenate([m, zeros]))[0] for a, m in zip(capacity, wanted, strict=True)]
    )


def synthesise(
    windows: Sequence[Stretch],
    muscles: Sequence[str],
    drives: np.ndarray,
    strength: np.ndarray,
    prior: ExcitationPrior | None = None,
    *,
    gait: bool = True,
    efforts: Sequence[np.ndarray] | None = None,
    profiles: Mapping[str, np.ndarray] | None = None,
) -> Synthesis:
    """Expected excitation of every muscle from the channels that were recorded.

    Args:
        windows: stretches of recordings of one person; their channels and muscles are the same.
        muscles: M names; published timing is found by them.
        drives: ``(M, C)`` which channel drives which muscle, in any non-negative weights; no empty column.
        strength: ``(M,)`` N, maximum isometric force along the tendon.
        prior: how much each source counts.
        gait: whether the motion may be gait; if not, published timing is left out. It is also left out where fewer
            than two recorded channels have any, or they do not follow it (``LEAST_AGREEMENT``).
        efforts: ``effort_pattern`` of each window, where it is known already; it does not depend on the channels.
        profiles: other people's activity over the gait cycle (``learn_profiles``, ``read_profiles``), in place of
            published on and off; that stays for the muscles that they lack.

    Raises:
        InputError: no window or no channel, shapes that do not fit, a channel that drives nothing or is constant.
    """
    prior = prior or ExcitationPrior()
    drives = np.asarray(drives, float)
    _check(windows, muscles, drives)
    signals = np.concatenate([w.envelopes for w in windows])
    level, scale = signals.mean(axis=0), signals.std(axis=0)
    if not (scale > 0).all():
        raise InputError(f"channel {int(np.argmin(scale))} is constant; a silent channel says nothing: leave it out")
    # A channel stands for the muscles it drives, by strength.
    share = drives * strength[:, None]
    share = share / share.sum(axis=0)  # (M, C)

    function = function_signatures(np.concatenate([w.moment_arms for w in windows]))
    channel_function = _unit(share.T @ function)
    within = _similarity(channel_function, channel_function, prior.similarity_scale)
    across = _similarity(function, channel_function, prior.similarity_scale)  # (M, C)
    inverse = np.linalg.inv(within + prior.noise * np.eye(len(level)))

    trends: dict[str, tuple[np.ndarray, float]] = {}
    cycles: tuple[GaitCycle | None, ...] = (None,) * len(windows)
    if gait and prior.timing_sd > 0:
        found = _timing(windows, muscles, share, prior, profiles or {})
        if found is not None:
            cycles, timing = found
            trends["timing"] = timing, prior.timing_sd
    if prior.effort_sd > 0:
        effort = _effort(windows, strength, prior, efforts)
        if effort is not None:
            trends["effort"] = effort, prior.effort_sd

    deviation = (signals - level) / scale
    expected = np.zeros((len(signals), len(muscles)))
    coefficients: dict[str, float] = {}
    if trends:
        of_muscles = [standardised(t) for t, _ in trends.values()]
        of_channels = [standardised(t @ share) for t, _ in trends.values()]
        # Generalised least squares with a Gaussian prior; samples count as they are, the average is what matters.
        normal = np.array([[np.mean((a @ inverse) * b) for b in of_channels] for a in of_channels]) * len(level)
        seen = np.array([np.mean((a @ inverse) * deviation) for a in of_channels]) * len(level)
        b = np.linalg.solve(normal + np.diag([sd**-2 for _, sd in trends.values()]), seen)
        coefficients = dict(zip(trends, map(float, b), strict=True))
        expected = sum((c * t for c, t in zip(b, of_muscles, strict=True)), expected)
        deviation = deviation - sum((c * t for c, t in zip(b, of_channels, strict=True)), np.zeros_like(deviation))
    gain = across @ inverse  # (M, C)
    expected = expected + deviation @ gain.T
    variance = np.maximum(1.0 - np.sum(gain * across, axis=1), 0.0) + prior.noise

    # Size has no other source than the neighbours: their average by similarity.
    weight = across / across.sum(axis=1, keepdims=True)
    excitation = np.maximum(weight @ level + expected * (weight @ scale), 0.0)
    ends = np.cumsum([len(w.time) for w in windows])[:-1]
    return Synthesis(tuple(np.split(excitation, ends)), weight @ scale * np.sqrt(variance), coefficients, cycles)


def weight_prior(
    commands: np.ndarray, excitation: np.ndarray, sd: np.ndarray, *, signed: bool = False, ridge: float = 0.03
) -> tuple[np.ndarray, np.ndarray]:
    """Prior of synergy weights whose excitations are as expected.

    Args:
        commands: ``(T, S)``.
        excitation: ``(T, U)`` expected of U muscles, from ``synthesise``.
        sd: ``(U,)`` its standard deviation.
        signed: whether weights may be negative.
        ridge: keeps weights of commands that are alike from growing against each other; relative to the commands.

    Returns:
        Mean ``(U, S)`` by (non-negative) least squares, and standard deviation ``(U, S)``: independent weights of these
        make excitation vary by ``sd``, each command contributing alike.
    """
    count = commands.shape[1]
    size = np.sqrt(np.mean(commands**2, axis=0))
    size = np.where(size > 0, size, np.inf)
    scaled = np.vstack([commands / size, np.sqrt(ridge * len(commands)) * np.eye(count)])
    wanted = np.vstack([excitation, np.zeros((count, excitation.shape[1]))])
    solved = np.linalg.lstsq(scaled, wanted)[0].T if signed else np.array([nnls(scaled, y)[0] for y in wanted.T])
    # A weight of no command keeps a prior that nothing can test.
    spread = sd[:, None] / np.where(np.isfinite(size), size, 1.0) / np.sqrt(count)
    return solved / size, spread


def stretch_of(model: NmsModel, params: NmsParams, segment: Segment, period: float | None = None) -> Stretch:
    """The counted samples of a segment, with the recorded channels as excitations (gain included)."""
    rows = segment.scored
    length = len(segment.replay.excitations) - len(segment.time)
    columns = [model.channels.index(c) for c in model.recorded_channels]
    gain = np.asarray(params.emg_gain, float)[columns]
    return Stretch(
        time=segment.time[rows],
        envelopes=np.asarray(segment.replay.excitations, float)[length:][rows][:, columns] * gain,
        moment_arms=np.asarray(segment.replay.moment_arms, float)[rows],
        moments=None if segment.measured is None else segment.measured[rows],
        period=period,
    )


def with_prior(
    model: NmsModel,
    start: NmsParams,
    segments: Sequence[Segment],
    prior: ExcitationPrior | None = None,
    *,
    gait: bool = True,
    free: Free = DEFAULT_FREE["synergy_weight"],
    profiles: Mapping[str, np.ndarray] | None = None,
) -> tuple[NmsParams, Free, Synthesis]:
    """Start and prior of a model's synergy weights; weights of residual excitations stay as they are.

    Args:
        model: with synergies (``calibration.excitations.synergies.add_synergies``).
        start: its parameters.
        segments: training stretches, with measured moments or without.
        prior: how much each source counts.
        gait: whether the motion is gait.
        free: what the returned freedom of the weights is made from.
        profiles: see ``synthesise``.

    Returns:
        Start with the expected weights, their freedom with one standard deviation per weight, and what was expected.

    Raises:
        InputError: the model has no muscle that synergies drive alone; see also ``synthesise``.
    """
    alone = [m for m in model.synergy_muscles if m not in model.recorded_muscles]
    if not alone:
        raise InputError("no muscle is driven by synergies alone: there is nothing to synthesise")
    columns = [model.channels.index(c) for c in model.recorded_channels]
    drives = np.asarray(model.channel_weights, float)[:, columns]
    used = drives.any(axis=0)  # a channel may be recorded for the commands only
    strength = np.asarray(start.max_isometric_force, float) * np.cos(np.asarray(start.pennation_at_optimal, float))
    windows = [stretch_of(model, start, s) for s in segments]
    windows = [dataclasses.replace(w, envelopes=w.envelopes[:, used]) for w in windows]
    found = synthesise(windows, model.muscles, drives[:, used], strength, prior, gait=gait, profiles=profiles)
    first = model.channels.index(model.commands[0])
    commands = []
    for s in segments:
        length = len(s.replay.excitations) - len(s.time)
        commands.append(np.asarray(s.replay.excitations, float)[length:, first : first + len(model.commands)][s.scored])
    rows = [model.muscles.index(m) for m in alone]
    assert model.synergies is not None
    mean, sd = weight_prior(
        np.concatenate(commands),
        np.concatenate(found.excitation)[:, rows],
        (prior or ExcitationPrior()).tightness * found.sd[rows],
        signed=model.synergies.signed,
    )
    weights = np.asarray(start.synergy_weight, float).copy()
    own = dict(free.own_sd)
    for i, (muscle, command) in enumerate(model.synergy_pairs):
        if muscle in alone:
            at = alone.index(muscle), model.commands.index(command)
            weights[i] = mean[at] if model.synergies.signed else np.clip(mean[at], *free.bounds)
            own[f"{muscle}:{command}"] = float(sd[at])
    values = {k: weights if k == "synergy_weight" else v for k, v in vars(start).items()}
    return make_params(model, values), dataclasses.replace(free, own_sd=tuple(own.items())), found


def _check(windows: Sequence[Stretch], muscles: Sequence[str], drives: np.ndarray) -> None:
    if not windows or drives.ndim != 2 or not drives.shape[1]:
        raise InputError("nothing to synthesise from: give at least one window and one recorded channel")
    if len(drives) != len(muscles):
        raise InputError(f"drives has {len(drives)} rows; expected {len(muscles)}, one per muscle ({listed(muscles)})")
    empty = np.flatnonzero(~(drives > 0).any(axis=0))
    if empty.size:
        raise InputError(f"channel {int(empty[0])} drives no muscle; leave it out")
    for w in windows:
        length, joints = len(w.time), w.moment_arms.shape[1]
        shapes = {
            "envelopes": (w.envelopes, (length, drives.shape[1])),
            "moment_arms": (w.moment_arms, (length, joints, len(muscles))),
            "moments": (w.moments, (length, joints)),
        }
        for name, (array, shape) in shapes.items():
            if array is not None and array.shape != shape:
                raise InputError(f"{name} of a window have shape {array.shape}; expected {shape}")


def _timing(
    windows: Sequence[Stretch],
    muscles: Sequence[str],
    share: np.ndarray,
    prior: ExcitationPrior,
    learned: Mapping[str, np.ndarray],
) -> tuple[tuple[GaitCycle, ...], np.ndarray] | None:
    """Gait cycles and timing (T, M) on them; muscles without any follow nothing."""
    found = [learned.get(electrode_name(m) or "", timing_profile(m, prior.timing_width)) for m in muscles]
    profiles = np.array([np.zeros(PHASES) if p is None else p for p in found])  # (M, PHASES)
    if learned:
        profiles = standardised(profiles, axis=1)  # published ones are from 0 to 1
    of_channels = share.T @ profiles
    known = of_channels.std(axis=1) > 0
    if known.sum() < 2:
        return None
    # The longest first: a stretch shorter than a gait cycle cannot tell how long one is, and goes by the others.
    found_cycles: dict[int, GaitCycle] = {}
    for i in sorted(range(len(windows)), key=lambda i: windows[i].time[0] - windows[i].time[-1]):
        w, first = windows[i], next(iter(found_cycles.values()), None)
        longest = w.time[-1] - w.time[0]
        if w.period:
            periods = [w.period]
        elif first is not None and longest < first.period:
            periods = [first.period * f for f in SHORT_PERIODS]
        else:
            periods = [p for p in PERIODS if p <= 1.1 * longest] or [longest]
        found_cycles[i] = fit_gait_cycle(w.time, w.envelopes[:, known], of_channels[known], periods)
    cycles = tuple(found_cycles[i] for i in range(len(windows)))
    timing = [at_phase(profiles, c.phase(w.time)) for c, w in zip(cycles, windows, strict=True)]
    if np.mean([c.agreement for c in cycles]) < LEAST_AGREEMENT:
        return None
    return cycles, np.concatenate(timing)


def _effort(
    windows: Sequence[Stretch], strength: np.ndarray, prior: ExcitationPrior, known: Sequence[np.ndarray] | None
) -> np.ndarray | None:
    """Effort pattern (T, M), blurred and brought forward to the excitations that cause it."""
    if any(w.moments is None for w in windows):
        return None
    result = []
    for i, w in enumerate(windows):
        assert w.moments is not None
        given = known[i] if known else effort_pattern(w.moment_arms, strength, w.moments, prior.effort_tolerance)
        dt = float(w.time[1] - w.time[0])
        smooth = (
            gaussian_filter1d(given, prior.effort_blur / dt, axis=0, mode="nearest") if prior.effort_blur else given
        )
        later = np.minimum(np.arange(len(w.time)) + round(prior.effort_lead / dt), len(w.time) - 1)
        result.append(smooth[later])
    return np.concatenate(result)


def _similarity(a: np.ndarray, b: np.ndarray, scale: float) -> np.ndarray:
    """Rational quadratic in one minus cosine: near neighbours count most, far ones still a little."""
    return (1.0 + (1.0 - a @ b.T) / scale) ** -2


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)
