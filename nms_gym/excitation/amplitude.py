"""What the amplitude of raw EMG can be estimated from: its color, its noise floor, and how sure the estimate is.

Surface EMG at constant force is Gaussian noise whose standard deviation is the amplitude wanted, over the noise of
amplifier and skin, which adds in power. Neighbouring samples of colored noise say much the same; whitening makes them
independent, so that the same smoothing averages over more of them (Clancy & Hogan 1994, 10.1109/10.284927).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_toeplitz
from scipy.ndimage import uniform_filter1d
from scipy.signal import lfilter

WHITENING_ORDER = 6
# Whitened is EMG of this amplitude, over that of the active stretches, together with the noise: a filter for strong EMG
# alone amplifies whatever noise lies beside its band and drowns the weak (Clancy & Farry 2000, 10.1109/10.844217).
WHITENED_AT = 0.03
# Quiet is the least of the mean powers over this time (s); active what exceeds this quantile of them.
POWER_WINDOW, QUIET_QUANTILE, ACTIVE_QUANTILE = 0.3, 0.05, 0.75
# Correlations of surface EMG last a few ms; longer lags add the chance of their estimate alone.
LONGEST_LAG = 0.05


@dataclass(frozen=True)
class Conditioning:
    """What recordings say about each channel's EMG once filtered, from ``excitation.emg.emg_conditioning``.

    Attributes:
        channels: C names.
        whitening: (C, P + 1) prediction-error filter that keeps the power of the active stretches; (C, 1) ones where
            the EMG is not whitened.
        noise_power: (C,) squared unit of the signal, after whitening; 0 where no floor is wanted.
        bandwidth: (C,) Hz, statistical, after whitening: ``statistical_bandwidth``.
    """

    channels: tuple[str, ...]
    whitening: np.ndarray
    noise_power: np.ndarray
    bandwidth: np.ndarray

    def of(self, channels: Sequence[str]) -> Conditioning:
        """The same for these channels, in this order."""
        rows = [self.channels.index(name) for name in channels]
        return Conditioning(tuple(channels), self.whitening[rows], self.noise_power[rows], self.bandwidth[rows])


def estimate(
    channels: Sequence[str],
    records: Sequence[tuple[np.ndarray, np.ndarray]],
    step: float,
    *,
    whiten: bool,
    noise_floor: bool,
    zero_lag: bool,
    rest: Sequence[np.ndarray] = (),
) -> Conditioning:
    """Whitening filter, noise floor and statistical bandwidth of each channel, from all records together.

    Args:
        channels: C names.
        records: (T, C) EMG after its high-pass, mean removed, and (T,) bool which of its samples have a say.
        step: s.
        whiten: whether to; else the filter is the identity.
        noise_floor: whether to; else the noise is 0.
        zero_lag: how the whitening filter will be run.
        rest: (T', C) likewise filtered EMG of relaxed muscles, whose power is the noise; without, the noise is that of
            the quietest stretches of the records, somewhat less than it is where they rest and too much where they
            never do.
    """
    active, quiet = _among(records, step, ACTIVE_QUANTILE, 1.0), _among(records, step, 0.0, 2 * QUIET_QUANTILE)
    whitening = np.ones((len(channels), 1))
    if whiten:
        values = [x for x, _ in records]
        loud = autocorrelation(values, active, WHITENING_ORDER)
        noise = (
            autocorrelation(rest, [np.ones(x.shape, bool) for x in rest], WHITENING_ORDER)
            if rest
            else autocorrelation(values, quiet, WHITENING_ORDER)
        )
        loaded = loud + (1 / WHITENED_AT**2 - 1) * noise
        whitening = np.array([prediction_error_filter(r) for r in loaded.T])
        records = [(whitened(x, whitening, zero_lag), counted) for x, counted in records]
        # Power where active stays as it was, so that the unit keeps its meaning.
        kept = autocorrelation([x for x, _ in records], active, 0)
        scale = np.sqrt(loud[0] / kept[0])
        whitening = whitening * scale[:, None]
        records = [(x * scale, counted) for x, counted in records]
    correlation = autocorrelation([x for x, _ in records], active, max(1, round(LONGEST_LAG / step)))
    bandwidth = np.array([statistical_bandwidth(r, step) for r in correlation.T])
    noise = np.zeros(len(channels))
    if noise_floor:
        if rest:
            resting = [whitened(x, whitening, zero_lag) for x in rest]
            noise = np.mean(np.concatenate(resting) ** 2, axis=0)
        else:
            power = np.concatenate([_moving_power(x, step)[counted] for x, counted in records])
            noise = np.quantile(power, QUIET_QUANTILE, axis=0)
    return Conditioning(tuple(channels), whitening, noise, bandwidth)


def autocorrelation(records: Sequence[np.ndarray], counted: Sequence[np.ndarray], lags: int) -> np.ndarray:
    """(lags + 1, C) mean products of samples (T, C) that far apart, over the counted ones (T, C); biased, as
    Yule-Walker needs."""
    kept = [np.where(use, x, 0.0) for x, use in zip(records, counted, strict=True)]
    count = np.maximum(sum(use.sum(axis=0) for use in counted), 1)
    sums = [sum((x[: len(x) - k] * x[k:]).sum(axis=0) for x in kept) for k in range(lags + 1)]
    return np.array(sums) / count


def prediction_error_filter(correlation: np.ndarray) -> np.ndarray:
    """(P + 1,) FIR filter that whitens a signal of this autocorrelation (P + 1,) and keeps its power (Yule-Walker)."""
    taps = np.concatenate([[1.0], -solve_toeplitz(correlation[:-1], correlation[1:])])
    left = correlation @ taps / correlation[0]
    return taps / math.sqrt(max(left, 1e-6))


def statistical_bandwidth(correlation: np.ndarray, step: float) -> float:
    """Hz: ``(integral of S)^2 / integral of S^2`` of the one-sided spectrum S; half the sampling rate where white.

    Twice this is the number of independent samples per second (Bendat & Piersol 2010).

    Args:
        correlation: (L + 1,) autocorrelation at lags 0, 1, ...
        step: s.
    """
    rho = correlation / correlation[0]
    return float(1.0 / (2.0 * step * (1.0 + 2.0 * np.sum(rho[1:] ** 2))))


def whitened(values: np.ndarray, whitening: np.ndarray, zero_lag: bool) -> np.ndarray:
    """EMG (T, C) through its prediction-error filters (C, P + 1); with ``zero_lag`` through their magnitudes alone."""
    if whitening.shape[1] == 1:
        return values * whitening[:, 0]
    if not zero_lag:
        return np.stack([lfilter(taps, 1.0, x) for taps, x in zip(whitening, values.T, strict=True)], axis=1)
    # A transform wraps round: reflect at the ends, or the last samples speak to the first.
    pad = min(len(values) - 1, 256)
    long = np.pad(values, ((pad, pad), (0, 0)), mode="reflect")
    gain = np.abs(np.fft.rfft(whitening, len(long), axis=1)).T
    return np.fft.irfft(np.fft.rfft(long, axis=0) * gain, len(long), axis=0)[pad : pad + len(values)]


def smoothing_bandwidth(low_pass: float, order: int, zero_lag: bool) -> float:
    """Hz: width of the ideal low-pass that passes as much white noise as this Butterworth filter; its effective
    window lasts 1 / (2 times this) seconds."""
    x = math.pi / (2 * order)
    return low_pass * x / math.sin(x) * ((1 - 1 / (2 * order)) if zero_lag else 1.0)


def without_noise(power: np.ndarray, noise_power: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Amplitude ``sqrt(max(power - noise_power, 0))``, smooth where they meet.

    Args:
        power: (..., C) mean square of signal and noise.
        noise_power: (C,) of the noise alone.
        spread: (C,) relative standard error of the power, which says how far from zero the bend may reach.
    """
    excess = power - noise_power
    return np.sqrt(0.5 * (excess + np.hypot(excess, noise_power * spread)))


def amplitude_standard_error(
    amplitude: np.ndarray,
    *,
    bandwidth: np.ndarray | float,
    low_pass: float,
    order: int = 4,
    zero_lag: bool = True,
    noise_power: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Standard error of an EMG amplitude, from how many independent samples the smoothing averages over.

    Power smoothed to ``Bh`` Hz has the relative variance ``2 Bh / B`` where the EMG's statistical bandwidth is ``B``
    (Bendat & Piersol 2010, chapter 8; Hogan & Mann 1980, 10.1109/TBME.1980.326652). The amplitude's follows to first
    order, ``amplitude sqrt(Bh / (2 B))`` without noise; at rest it is about what the amplitude itself is. That of
    rectified EMG is nearly the same for colored noise, 7 % more for white. What the floor is off by is not in it.

    Args:
        amplitude: (..., C) root mean square amplitude, or in units of a reference; less the noise floor.
        bandwidth: (C,) Hz, ``Conditioning.bandwidth``.
        low_pass: Hz, as the amplitude was smoothed; likewise ``order`` and ``zero_lag``.
        order: of the filter.
        zero_lag: whether it ran both ways.
        noise_power: (C,) that was subtracted, in the squared unit of the amplitude.

    Returns:
        (..., C) in the unit of the amplitude.
    """
    spread = np.sqrt(2 * smoothing_bandwidth(low_pass, order, zero_lag) / np.asarray(bandwidth, float))
    # without_noise backwards: 2 A^2 = x + sqrt(x^2 + e^2) gives x = A^2 - e^2 / (4 A^2).
    bend = (np.asarray(noise_power, float) * spread) ** 2
    square = np.maximum(np.square(amplitude), np.finfo(float).tiny)
    excess = square - bend / (4 * square)
    root = np.maximum(np.sqrt(excess**2 + bend), np.finfo(float).tiny)
    slope = (1 + excess / root) / (4 * np.sqrt(square))
    return np.maximum(excess + noise_power, 0.0) * spread * slope


def rectified_power(mean: np.ndarray) -> np.ndarray:
    """Power of Gaussian noise whose mean magnitude this is."""
    return 0.5 * math.pi * np.square(mean)


def _moving_power(values: np.ndarray, step: float) -> np.ndarray:
    size = min(max(1, round(POWER_WINDOW / step)), len(values))
    # Running sums leave a rounding error that can be below zero.
    return np.maximum(uniform_filter1d(values**2, size, axis=0, mode="reflect"), 0.0)


def _among(records: Sequence[tuple[np.ndarray, np.ndarray]], step: float, low: float, high: float) -> list[np.ndarray]:
    """(T, C) bool of each record: where a channel's moving power is between two of its quantiles over all records."""
    powers = [_moving_power(x, step) for x, _ in records]
    every = np.concatenate([p[use] for p, (_, use) in zip(powers, records, strict=True)])
    least, most = np.quantile(every, (low, high), axis=0)
    return [(p >= least) & (p <= most) & use[:, None] for p, (_, use) in zip(powers, records, strict=True)]
