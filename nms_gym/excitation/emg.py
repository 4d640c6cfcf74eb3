"""Raw EMG to normalised linear envelopes, offline.

The chain is the field's: remove each channel's mean over time, high-pass, rectify, low-pass, clip at 0,
divide by a reference. ``order`` is the order of each Butterworth filter as designed. A zero-lag filter runs
it forwards and backwards, which doubles the order in effect and puts 6 dB (not 3) at the cut-off: "4th-order
zero-lag" here is what NMSM, CEINMS and most gait papers mean by running a 4th-order filter both ways. Those
who count both passes call it 8th order; for their "4th-order zero-lag" give ``order=2``.

Three options make the amplitude less noisy (``excitation.amplitude``): whitening before the rectifier, power in place
of magnitude, and a noise floor that is subtracted in power, as noise adds.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.signal import butter, iirnotch, sosfilt, sosfilt_zi, sosfiltfilt, tf2sos

from nms_gym.errors import InputError, listed, near, seconds
from nms_gym.excitation.amplitude import (
    Conditioning,
    estimate,
    rectified_power,
    smoothing_bandwidth,
    whitened,
    without_noise,
)
from nms_gym.recording.sampling import SAME_TIME, resample, sampling_step
from nms_gym.recording.storage import Table, require_unique

AMPLITUDES = ("rectified", "power")
NOTCH_QUALITY = 30.0  # bandwidth of the mains notch is its frequency / 30
# A channel that repeats one value over half of the record was not recording.
DEAD_SHARE = 0.5
# A converter at its limit repeats its largest value; three in a row do not happen by chance in a noisy
# signal.
SATURATED_RUN, SATURATED_SAMPLES = 3, 6


class SaturationWarning(UserWarning):
    """A channel sits at the limit of its amplifier in places; its envelope is too low there."""


@dataclass(frozen=True)
class Envelopes:
    """Normalised envelopes.

    Attributes:
        time: (E,) s; channels: C names; emg: (E, C), >= 0, dimensionless when normalised.
        reference: channel -> value that the envelope was divided by (unit of the raw signal).
        recipe: the settings used, for the subject file and the report.
        conditioning: whitening filters and noise floors used, where asked for.
    """

    time: np.ndarray
    channels: tuple[str, ...]
    emg: np.ndarray
    reference: Mapping[str, float]
    recipe: Mapping[str, object] = field(default_factory=dict)
    conditioning: Conditioning | None = None

    def table(self, path: str = "EMG") -> Table:
        """The same as a table for ``make_trial``."""
        return Table(path, self.channels, self.time, self.emg)


def process_emg(
    time: np.ndarray,
    raw: np.ndarray,
    channels: Sequence[str],
    *,
    high_pass: float | tuple[float, float] | None = 30.0,
    low_pass: float = 6.0,
    order: int = 4,
    zero_lag: bool = True,
    notch: float | None = None,
    amplitude: str = "rectified",
    whiten: bool = False,
    noise_floor: bool = False,
    conditioning: Conditioning | None = None,
    normalise: str = "trial",
    reference: Mapping[str, float] | None = None,
    subtract_minimum: bool = False,
    step: float | None = None,
    edge_samples: int | None = None,
    where: str = "EMG",
) -> Envelopes:
    """Raw EMG to envelopes.

    Args:
        time: (T,) s, uniform but for rounding.
        raw: (T, C), any unit.
        channels: C names.
        high_pass: cut-off (Hz) against movement artefact, or (low, high) for a band-pass, or None.
        low_pass: cut-off (Hz) of the envelope.
        order: of each filter as designed (see the top of this file).
        zero_lag: filter forwards and backwards. False filters forwards only, as a streaming system must, and
            delays the envelope by about ``causal_delay(low_pass, order)``; do not add it to the
            electromechanical delay twice.
        notch: mains frequency (Hz) to remove, with bandwidth notch / 30.
        amplitude: what is smoothed: "rectified", the magnitude; or "power", whose root is then taken, the maximum
            likelihood estimate of a constant amplitude, which gives bursts more weight than the rest beside them.
        whiten: make samples independent first, so that smoothing averages over more of them; pays where the EMG was
            sampled well above its band (Clancy & Hogan 1994).
        noise_floor: subtract the power of each channel's quietest stretches. Not for tasks in which a muscle never
            rests: its tonic activity is taken for noise.
        conditioning: whitening filters and noise floors from other recordings, ``emg_conditioning``; default from this
            one, all of it, which no causal system could do.
        normalise: "trial" divides by each channel's largest value here; "session" and "mvc" by ``reference``;
            "none" leaves the unit.
        reference: channel -> value, from ``session_maxima`` or from maximum voluntary contractions processed
            with the same filters.
        subtract_minimum: subtract each channel's smallest value before normalising (NMSM does).
        step: sampling step (s) of the result; default that of the input.
        edge_samples: extend both ends by odd reflection over this many samples before a zero-lag filter, as
            MATLAB's filtfilt does with 3 * order. Default: reflection over one period of the cut-off, odd for
            the high-pass and even for the rectified signal, whose single end samples say nothing.
        where: what this is, for messages.

    Raises:
        InputError: shapes and names disagree; a number is not finite; a gap in time; a cut-off is not below
            half the sampling rate; the record is too short; a channel is dead (constant); a reference is
            missing or not positive; an unknown amplitude, or a conditioning without some channel.

    Warns:
        SaturationWarning: a channel repeats its extreme value.
    """
    raw_step, values = _check_raw(time, raw, channels, where)
    names = tuple(channels)
    if normalise not in ("trial", "session", "mvc", "none"):
        raise InputError(f"{where}: normalise is {normalise!r}; expected 'trial', 'session', 'mvc' or 'none'")
    if normalise in ("session", "mvc") and reference is None:
        raise InputError(f"{where}: normalise={normalise!r} needs reference= (channel -> value); see session_maxima")
    bands = _bands(high_pass, low_pass, notch, raw_step, len(values), order, where)
    _check_channels(np.asarray(time), values, names, where)

    if amplitude not in AMPLITUDES:
        raise InputError(f"{where}: amplitude is {amplitude!r}; allowed: {listed(AMPLITUDES)}")
    values = _filtered(values, bands, raw_step, order, zero_lag, edge_samples)
    if conditioning is not None:
        missing = [name for name in names if name not in conditioning.channels]
        if missing:
            raise InputError(
                f"{where}: the conditioning lacks channel {listed(missing)}; it has {listed(conditioning.channels)}"
            )
        conditioning = conditioning.of(names)
    elif whiten or noise_floor:
        everywhere = np.ones(len(values), bool)
        conditioning = estimate(
            names, [(values, everywhere)], raw_step, whiten=whiten, noise_floor=noise_floor, zero_lag=zero_lag
        )
    if whiten and conditioning is not None:
        values = whitened(values, conditioning.whitening, zero_lag)
    smooth = np.asarray(butter(order, low_pass, fs=1 / raw_step, output="sos"))
    magnitude = np.abs(values) if amplitude == "rectified" else values**2
    envelope = _filter(magnitude, smooth, raw_step, low_pass, order, zero_lag, "even", edge_samples)
    envelope = np.maximum(envelope, 0.0)
    if noise_floor and conditioning is not None:
        power = rectified_power(envelope) if amplitude == "rectified" else envelope
        spread = np.sqrt(2 * smoothing_bandwidth(low_pass, order, zero_lag) / conditioning.bandwidth)
        envelope = without_noise(power, conditioning.noise_power, spread)
    elif amplitude == "power":
        envelope = np.sqrt(envelope)
    if subtract_minimum:
        envelope = envelope - envelope.min(axis=0)
    divisor = _reference(envelope, names, normalise, reference, where)
    envelope = envelope / np.array([divisor[name] for name in names])
    grid = np.asarray(time, dtype=np.float64)
    if step is not None:
        grid, envelope = resample_envelope(grid, envelope, step, where)
    recipe = {
        "high_pass": high_pass,
        "low_pass": low_pass,
        "order": order,
        "zero_lag": zero_lag,
        "notch": notch,
        "amplitude": amplitude,
        "whiten": whiten,
        "noise_floor": noise_floor,
        "normalise": normalise,
        "subtract_minimum": subtract_minimum,
        "sampling_step": raw_step,
    }
    return Envelopes(grid, names, envelope, divisor, recipe, conditioning)


def emg_conditioning(
    records: Sequence[tuple[np.ndarray, np.ndarray]],
    channels: Sequence[str],
    *,
    counted: Sequence[np.ndarray] | None = None,
    rest: Sequence[tuple[np.ndarray, np.ndarray]] = (),
    whiten: bool = True,
    noise_floor: bool = True,
    high_pass: float | tuple[float, float] | None = 30.0,
    low_pass: float = 6.0,
    order: int = 4,
    zero_lag: bool = True,
    notch: float | None = None,
    where: str = "EMG",
) -> Conditioning:
    """Whitening filters and noise floors of a set of recordings, for all of them or for later ones, live ones too.

    The filter is fitted to the loudest quarter of each channel; the floor is the power of its quietest stretches: the
    5th percentile of the mean power over 0.3 s.

    Args:
        records: (time, raw) as ``process_emg`` takes them, with the same channels.
        channels: C names.
        counted: (T,) bool of each record, samples that have a say; default all.
        rest: recordings of relaxed muscles, like ``records``, that give the floor in place of the quietest stretches.
            Where a muscle is never quite at rest in ``records``, only these tell noise from activity.
        whiten: else there is no filter.
        noise_floor: else the noise is 0.
        high_pass: as ``process_emg`` will be given; likewise the other filters.
        low_pass: Hz.
        order: of the filters.
        zero_lag: as ``process_emg`` will be given.
        notch: Hz.
        where: for messages.

    Raises:
        InputError: as ``process_emg``; or records of different sampling rates, or none.
    """
    if not records:
        raise InputError(f"{where}: conditioning needs at least one recording; none was given")
    uses = [np.ones(len(time), bool) for time, _ in records] if counted is None else counted
    steps, found = [], []
    for time, raw in (*records, *rest):
        step, values = _check_raw(time, raw, channels, where)
        bands = _bands(high_pass, low_pass, notch, step, len(values), order, where)
        found.append(_filtered(values, bands, step, order, zero_lag, None))
        steps.append(step)
    if max(steps) > 1.01 * min(steps):
        raise InputError(
            f"{where}: recordings are sampled at {1 / max(steps):g} to {1 / min(steps):g} Hz; whitening and noise"
            " floor need one rate: resample them or process them apart"
        )
    return estimate(
        tuple(channels),
        list(zip(found[: len(records)], uses, strict=True)),
        steps[0],
        whiten=whiten,
        noise_floor=noise_floor,
        zero_lag=zero_lag,
        rest=found[len(records) :],
    )


def session_maxima(trials: Iterable[Envelopes]) -> dict[str, float]:
    """Largest envelope value of each channel over trials processed with ``normalise="none"``.

    Channels are matched by name; a channel missing in some trials takes the others' maximum.

    Raises:
        InputError: no trials; or a trial was normalised already.
    """
    largest: dict[str, float] = {}
    for trial in trials:
        if trial.recipe.get("normalise", "none") != "none":
            raise InputError(
                f"session maxima need unnormalised envelopes (normalise='none'), found"
                f" {trial.recipe['normalise']!r}: trials divided by different values cannot be compared"
            )
        for i, name in enumerate(trial.channels):
            largest[name] = max(largest.get(name, 0.0), float(trial.emg[:, i].max()))
    if not largest:
        raise InputError("session maxima need at least one trial; none was given")
    return largest


def remove_baseline(envelope: np.ndarray, quantile: float, where: str = "EMG") -> np.ndarray:
    """Envelopes (T, C) less each channel's resting level over the record, never below 0.

    Amplifier noise and motion leave an offset that differs from trial to trial and that a model takes for tonic
    activity. Quantile 0 is the minimum, as the NMSM Pipeline subtracts; 0.02 is as good a resting level and ignores
    single outliers. Not for tasks in which a muscle never rests.

    Raises:
        InputError: the quantile is not in 0 to 0.5.
    """
    if not 0 <= quantile <= 0.5:
        raise InputError(f"{where}: baseline quantile is {quantile!r}; allowed: 0 (the minimum) to 0.5 (the median)")
    return np.maximum(envelope - np.quantile(envelope, quantile, axis=0), 0.0)


def resample_envelope(
    time: np.ndarray, envelope: np.ndarray, step: float, where: str = "EMG"
) -> tuple[np.ndarray, np.ndarray]:
    """Envelopes (T, C) at uniform steps from the same start: (times (E,), envelopes (E, C) >= 0).

    Frequencies the new step cannot carry are removed first; see ``recording.sampling.resample``.

    Raises:
        InputError: the step is not positive or longer than the record.
    """
    duration = float(time[-1] - time[0])
    if not 0 < step <= duration:
        raise InputError(f"{where}: step is {step!r} s; allowed: above 0 and up to the duration, {duration:.6g} s")
    grid = time[0] + step * np.arange(int(duration / step + SAME_TIME) + 1)
    return grid, np.maximum(resample(time, envelope, grid, where), 0.0)


def causal_delay(low_pass: float, order: int = 4) -> float:
    """Delay (s) of slow changes through a causal Butterworth low-pass, its group delay at 0 Hz.

    For the analogue filter, 1 / (2 pi low_pass sin(pi / (2 order))): 69 ms at 6 Hz and order 4. The digital
    filter agrees when the sampling rate is far above the cut-off; a 30 Hz high-pass delays the rectified
    signal by nothing of note.
    """
    return 1.0 / (2.0 * math.pi * low_pass * math.sin(math.pi / (2.0 * order)))


# --- checks
# -----------------------------------------------------------------------------------------------------


def _check_raw(time: np.ndarray, raw: np.ndarray, channels: Sequence[str], where: str) -> tuple[float, np.ndarray]:
    """(step, float64 samples)."""
    values = np.asarray(raw, dtype=np.float64)
    if values.ndim != 2 or values.shape != (len(time), len(channels)):
        raise InputError(
            f"{where}: raw EMG has shape {values.shape}; expected {(len(time), len(channels))} from its"
            " times and channel names"
        )
    require_unique(channels, "channels", where)
    step = sampling_step(time, where)
    even = np.linspace(time[0], time[-1], len(time))
    if np.abs(time - even).max() > 0.5 * step:
        raise InputError(
            f"{where}: times deviate by {np.abs(time - even).max():.3g} s from uniform steps of {step:.6g} s;"
            " filters need uniform sampling: samples are missing or the clock drifts"
        )
    if not np.isfinite(values).all():
        row, column = (int(i[0]) for i in np.nonzero(~np.isfinite(values)))
        raise InputError(
            f"{where}: channel {channels[column]!r} is {values[row, column]} at time {seconds(time[row])} s (row"
            f" {row + 1}); a filter spreads one such sample over the record: cut the trial or fill the gap"
        )
    return float((time[-1] - time[0]) / (len(time) - 1)), values


def _bands(
    high_pass: float | tuple[float, float] | None,
    low_pass: float,
    notch: float | None,
    step: float,
    n: int,
    order: int,
    where: str,
) -> list[tuple[np.ndarray, float]]:
    """Filters before rectification, each with its lowest frequency, after checking every cut-off."""
    nyquist = 0.5 / step
    if not (isinstance(order, int) and 1 <= order <= 10):
        raise InputError(f"{where}: filter order is {order!r}; allowed: a whole number from 1 to 10")
    edges = () if high_pass is None else tuple(np.atleast_1d(high_pass).astype(float))
    named = [("high_pass", edge) for edge in edges] + [("low_pass", low_pass)]
    for name, value in named + ([] if notch is None else [("notch", notch)]):
        if not 0 < value < nyquist:
            raise InputError(
                f"{where}: {name} cut-off {value:g} Hz; allowed: above 0 and below half the sampling rate,"
                f" {nyquist:g} Hz; was the signal already reduced to envelopes?"
            )
    if len(edges) > 2 or (len(edges) == 2 and edges[0] >= edges[1]):
        raise InputError(f"{where}: high_pass is {high_pass!r}; expected a cut-off or (low, high) with low < high")
    shortest = 2 / low_pass
    if n * step < shortest:
        raise InputError(
            f"{where}: {n} samples ({n * step:.4g} s) are too short for a {low_pass:g} Hz envelope; at least"
            f" {shortest:.4g} s are needed"
        )
    bands = []
    if notch is not None:
        bands.append((tf2sos(*iirnotch(notch, NOTCH_QUALITY, fs=1 / step)), notch / NOTCH_QUALITY))
    if len(edges) == 2:
        bands.append((butter(order, edges, "bandpass", fs=1 / step, output="sos"), edges[0]))
    elif edges:
        bands.append((butter(order, edges[0], "highpass", fs=1 / step, output="sos"), edges[0]))
    return bands


def _check_channels(time: np.ndarray, values: np.ndarray, channels: Sequence[str], where: str) -> None:
    for i, name in enumerate(channels):
        signal = values[:, i]
        same = np.diff(signal) == 0
        if np.ptp(signal) <= 1e-12 * np.abs(signal).max() or same.mean() > DEAD_SHARE:
            share = 100 * same.mean()
            raise InputError(
                f"{where}: channel {name!r} is dead: it repeats its previous value in {share:.0f} % of"
                f" samples (values {signal.min():.6g} to {signal.max():.6g}); leave the channel out"
            )
        for extreme in (signal.max(), signal.min()):
            at_limit = signal == extreme
            runs = np.convolve(at_limit, np.ones(SATURATED_RUN), "valid") == SATURATED_RUN
            if runs.any() and at_limit.sum() >= SATURATED_SAMPLES:
                first = time[int(np.argmax(runs))]
                warnings.warn(
                    f"{where}: channel {name!r} is saturated: {int(at_limit.sum())} samples sit at"
                    f" {extreme:.6g}, first at {seconds(first)} s; its envelope is too low there",
                    SaturationWarning,
                    stacklevel=3,
                )


def _reference(
    envelope: np.ndarray,
    channels: Sequence[str],
    normalise: str,
    reference: Mapping[str, float] | None,
    where: str,
) -> dict[str, float]:
    if normalise == "none":
        return dict.fromkeys(channels, 1.0)
    if normalise == "trial" or reference is None:
        return {name: float(envelope[:, i].max()) for i, name in enumerate(channels)}
    missing = [name for name in channels if name not in reference]
    if missing:
        raise InputError(f"{where}: no {normalise} reference for channel {listed(missing)};"
                         f" {near(missing[0], list(reference))}")  # fmt: skip
    for name in channels:
        if not (math.isfinite(reference[name]) and reference[name] > 0):
            raise InputError(
                f"{where}: the {normalise} reference of channel {name!r} is {reference[name]!r}; expected"
                " a number above 0, in the unit of the raw signal"
            )
    return {name: float(reference[name]) for name in channels}


# --- filters
# ----------------------------------------------------------------------------------------------------


def _filtered(
    values: np.ndarray,
    bands: Sequence[tuple[np.ndarray, float]],
    step: float,
    order: int,
    zero_lag: bool,
    edge_samples: int | None,
) -> np.ndarray:
    """Raw EMG through the filters before the rectifier, without its mean."""
    # Per channel, over time. A mean over channels would be a common-average reference and mix channels.
    values = values - values.mean(axis=0)
    for sos, frequency in bands:
        values = _filter(values, sos, step, frequency, order, zero_lag, "odd", edge_samples)
    return values - values.mean(axis=0) if zero_lag else values


def _filter(
    values: np.ndarray,
    sos: np.ndarray,
    step: float,
    frequency: float,
    order: int,
    zero_lag: bool,
    reflection: str,
    edge_samples: int | None,
) -> np.ndarray:
    period = max(3 * order, round(1 / (frequency * step)))
    if zero_lag:
        if edge_samples is not None:
            reflection, period = "odd", edge_samples
        pad = min(period, len(values) - 1)
        return sosfiltfilt(sos, values, axis=0, padtype=reflection, padlen=pad)
    # Start as if the mean of the first period had gone on for ever: one end sample of rectified EMG is
    # chance.
    start = sosfilt_zi(sos)[:, :, None] * values[: min(period, len(values))].mean(axis=0)
    filtered, _ = sosfilt(sos, values, axis=0, zi=start)
    return filtered
