"""Uniform time grids: interpolation, anti-aliasing, zero-lag filters, derivatives of recorded signals."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.signal import butter, sosfiltfilt

from nms_gym.errors import InputError, seconds

# Times agree when they differ by less than this part of a sampling step: files round their times.
SAME_TIME = 1e-3


def sampling_step(time: np.ndarray, where: str) -> float:
    """Median step (s) of strictly increasing times (T,).

    Raises:
        InputError: fewer than two samples, times that do not increase or are not finite, a step over 0.5 s
            (milliseconds?), or a gap of more than 3 steps and 0.05 s.
    """
    time = np.asarray(time, dtype=np.float64)
    if time.ndim != 1 or len(time) < 2:
        raise InputError(f"{where}: {time.size} time samples; at least 2 are needed")
    if not np.isfinite(time).all():
        raise InputError(f"{where}: time holds a number that is not finite at sample {_first(~np.isfinite(time))}")
    steps = np.diff(time)
    if (steps <= 0).any():
        i = _first(steps <= 0)
        raise InputError(
            f"{where}: time runs backwards or repeats at sample {i + 1}: {seconds(time[i], 9)} s, then"
            f" {seconds(time[i + 1], 9)} s; expected strictly increasing times"
        )
    step = float(np.median(steps))
    if step > 0.5:
        raise InputError(f"{where}: the time step is {step:.4g}; expected seconds (are these milliseconds?)")
    widest = int(np.argmax(steps))
    if steps[widest] > max(3 * step, 0.05):
        raise InputError(
            f"{where}: nothing was recorded from {seconds(time[widest])} to {seconds(time[widest + 1])} s (the usual"
            f" step is {step:.6g} s); cut the trial there or fill the gap"
        )
    return step


def on_uniform_times(time: np.ndarray, data: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray, float]:
    """The same signals on exactly uniform times: (times (N,), data (N, n), step).

    Rows are kept as they are when the times are uniform but for rounding, otherwise interpolated by cubic
    splines at the median step.

    Raises:
        InputError: see ``sampling_step``.
    """
    step = sampling_step(time, where)
    even = np.linspace(time[0], time[-1], len(time))
    even_step = (time[-1] - time[0]) / (len(time) - 1)
    if np.abs(time - even).max() <= 0.05 * step:
        return even, data, float(even_step)
    grid = time[0] + step * np.arange(int((time[-1] - time[0]) / step + SAME_TIME) + 1)
    return grid, _interpolate(time, data, grid, 3), step


def low_pass(data: np.ndarray, step: float, cutoff: float, where: str, order: int = 2) -> np.ndarray:
    """Zero-lag Butterworth low-pass along axis 0.

    ``order`` is that of the filter designed; it runs forwards and backwards, so order 2 is the "4th-order
    zero-lag" of gait analysis (Winter 2009, Biomechanics and Motor Control of Human Movement, section
    2.2.4.4), without his cut-off correction: attenuation at ``cutoff`` is 6 dB. The ends are extended by odd
    reflection over one period of the cut-off.

    Raises:
        InputError: cut-off not between 0 and the Nyquist frequency, or too few samples.
    """
    nyquist = 0.5 / step
    if not 0 < cutoff < nyquist:
        raise InputError(
            f"{where}: low-pass cut-off {cutoff:g} Hz; allowed: above 0 and below half the sampling rate,"
            f" {nyquist:g} Hz"
        )
    if len(data) < 3:
        raise InputError(f"{where}: {len(data)} samples are too few to filter")
    pad = min(len(data) - 1, max(3 * order, round(1 / (cutoff * step))))
    return sosfiltfilt(butter(order, cutoff, fs=1 / step, output="sos"), data, axis=0, padtype="odd", padlen=pad)


def resample(
    time: np.ndarray, data: np.ndarray, grid: np.ndarray, where: str, *, derivative: int = 0, degree: int = 3
) -> np.ndarray:
    """Signals (T, n) at the uniform times ``grid`` (G,), by splines through the samples.

    Where the grid meets the samples, the samples are returned unchanged. When its step is more than 1.5 times
    theirs, frequencies above 0.8 of the new Nyquist frequency are removed first (zero-lag Butterworth), so
    that nothing aliases.

    Args:
        time: (T,) s.
        data: (T, n).
        grid: (G,) s, within the range of ``time`` but for rounding.
        where: what this is, for messages.
        derivative: 1 returns the time derivative instead.
        degree: of the spline; lowered when there are too few samples.

    Raises:
        InputError: see ``sampling_step``; the grid reaches more than one step beyond the samples.
    """
    even, data, step = on_uniform_times(np.asarray(time, dtype=np.float64), np.asarray(data, dtype=np.float64), where)
    if grid[0] < even[0] - step or grid[-1] > even[-1] + step:
        raise InputError(
            f"{where}: covers {seconds(even[0])} to {seconds(even[-1])} s, but {seconds(grid[0])} to "
            f"{seconds(grid[-1])} s is needed"
        )
    new_step = (grid[-1] - grid[0]) / (len(grid) - 1) if len(grid) > 1 else step
    if new_step > 1.5 * step:
        data = low_pass(data, step, 0.4 / new_step, where, order=4)
    nearest = np.clip(np.rint((grid - even[0]) / step).astype(int), 0, len(even) - 1)
    if not derivative and np.abs(even[nearest] - grid).max() <= SAME_TIME * step:
        return data[nearest]
    return _interpolate(even, data, np.clip(grid, even[0], even[-1]), degree, derivative)


def _interpolate(time: np.ndarray, data: np.ndarray, grid: np.ndarray, degree: int, derivative: int = 0) -> np.ndarray:
    degree = min(degree, len(time) - 1)
    degree -= 1 - degree % 2  # odd degrees need no choice of extra knots
    spline = make_interp_spline(time, data, k=max(degree, 1), axis=0)
    return spline(grid, nu=derivative)


def _first(mask: np.ndarray) -> int:
    return int(np.flatnonzero(mask)[0])


def without_full_turns(angles: np.ndarray) -> np.ndarray:
    """Angles (T, ...) in rad over time without jumps of full turns, and with their median within half a turn of 0.

    Inverse kinematics may leave a joint full turns off. What still is beyond a full turn (a marker was lost) is brought
    within half a one.
    """
    turn = 2 * np.pi
    angles = np.unwrap(angles, axis=0)
    angles = angles - turn * np.round(np.median(angles, axis=0) / turn)
    return np.where(np.abs(angles) > turn, angles - turn * np.round(angles / turn), angles)
