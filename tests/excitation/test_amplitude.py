"""Amplitude estimates against the statistics of Gaussian noise, and synthetic EMG whose amplitude is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.signal import butter, sosfilt

from nms_gym.errors import InputError
from nms_gym.excitation.amplitude import (
    amplitude_standard_error,
    prediction_error_filter,
    smoothing_bandwidth,
    statistical_bandwidth,
)
from nms_gym.excitation.emg import emg_conditioning, process_emg

RATE = 2000.0
NOISE = 0.01
RECTIFIED: dict[str, Any] = {"normalise": "none"}
WHITENED: dict[str, Any] = {"amplitude": "power", "whiten": True, "noise_floor": True, "normalise": "none"}


def emg(amplitude, seed=0, noise=NOISE, channels=2):
    """Noise of 40 to 140 Hz times the amplitude, and white measurement noise."""
    rng = np.random.default_rng(seed)
    shape = (len(amplitude), channels)
    carrier = sosfilt(butter(1, (40, 140), "bandpass", fs=RATE, output="sos"), rng.standard_normal(shape), axis=0)
    raw = carrier / carrier.std(axis=0) * amplitude[:, None] + noise * rng.standard_normal(shape)
    return np.arange(len(amplitude)) / RATE, raw, [f"c{i}" for i in range(channels)]


def steps(*levels, seconds=3.0):
    return np.repeat(levels, int(seconds * RATE))


def middle(values, part, seconds=3.0):
    """Samples of one level, off its edges."""
    return values[int((part + 0.3) * seconds * RATE) : int((part + 0.7) * seconds * RATE)]


def signal_to_noise(values):
    return (values.mean(axis=0) / values.std(axis=0)).mean()


@pytest.mark.parametrize("zero_lag", [True, False])
@pytest.mark.parametrize("amplitude", ["rectified", "power"])
def test_signal_to_noise_ratio_is_that_of_the_degrees_of_freedom(amplitude, zero_lag):
    """At constant amplitude; white noise, where the root mean square has sqrt(2 N) and the mean magnitude
    sqrt(N / (pi / 2 - 1)) for N independent samples, and here N = B / Bh."""
    time, raw, names = emg(np.zeros(200_000), noise=1.0, channels=4)
    ours = process_emg(time, raw, names, high_pass=None, amplitude=amplitude, zero_lag=zero_lag, normalise="none").emg
    count = 0.5 * RATE / smoothing_bandwidth(6.0, 4, zero_lag)
    expected = np.sqrt(2 * count) if amplitude == "power" else np.sqrt(count / (np.pi / 2 - 1))
    assert signal_to_noise(ours[2000:-2000]) == pytest.approx(expected, rel=0.05)
    scale = 1.0 if amplitude == "power" else np.sqrt(2 / np.pi)
    np.testing.assert_allclose(ours.mean(axis=0), scale, rtol=0.01)


@pytest.mark.parametrize("zero_lag", [True, False])
def test_whitening_raises_the_signal_to_noise_ratio_as_its_standard_error_says(zero_lag):
    time, raw, names = emg(np.ones(200_000), channels=4)
    found = {}
    for whiten in (False, True):
        settings: dict[str, Any] = {"amplitude": "power", "whiten": whiten, "noise_floor": False, "zero_lag": zero_lag}
        about = emg_conditioning([(time, raw)], names, whiten=whiten, noise_floor=False, zero_lag=zero_lag)
        ours = process_emg(time, raw, names, **settings, normalise="none").emg[2000:-2000]
        error = amplitude_standard_error(ours, bandwidth=about.bandwidth, low_pass=6.0, zero_lag=zero_lag)
        assert signal_to_noise(ours) == pytest.approx((ours / error).mean(), rel=0.1)
        found[whiten] = signal_to_noise(ours)
    assert found[True] > 1.5 * found[False]
    plain = process_emg(time, raw, names, zero_lag=zero_lag, normalise="none").emg[2000:-2000]
    assert found[True] > 1.5 * signal_to_noise(plain)


@pytest.mark.parametrize("zero_lag", [True, False])
@pytest.mark.parametrize("level", [0.02, 0.03, 0.05])
def test_noise_floor_takes_the_bias_off_low_amplitudes(level, zero_lag):
    """Measurement noise is 1 % of full amplitude; what is read at 2 to 5 %, over what is read at full."""
    amplitude = steps(0.0, level, 1.0, level, 0.0)
    time, raw, names = emg(amplitude, channels=8)
    read = {}
    for name, settings in (("rectified", RECTIFIED), ("whitened", WHITENED)):
        ours = process_emg(time, raw, names, zero_lag=zero_lag, **settings).emg
        at = np.concatenate([middle(ours, 1), middle(ours, 3)]).mean(axis=0)
        read[name] = (at / middle(ours, 2).mean(axis=0) / level).mean()
    naive = np.hypot(level, NOISE) / level
    assert read["rectified"] == pytest.approx(naive, rel=0.05)
    # The least of many powers is some 10 % less than the noise is; naive would be up to 12 % off.
    assert read["whitened"] == pytest.approx(1.0, abs=0.08)
    if level > 0.02:
        return
    rest = emg(np.zeros(6000), seed=9, channels=8)[:2]
    about = emg_conditioning([(time, raw)], names, rest=[rest], zero_lag=zero_lag)
    ours = process_emg(time, raw, names, zero_lag=zero_lag, conditioning=about, **WHITENED).emg
    at = np.concatenate([middle(ours, 1), middle(ours, 3)]).mean(axis=0)
    assert (at / middle(ours, 2).mean(axis=0) / level).mean() == pytest.approx(1.0, abs=0.05)


def test_rest_is_read_as_near_zero_and_its_error_is_what_it_varies_by():
    time, raw, names = emg(steps(0.0, 1.0, 0.0), channels=4)
    ours = process_emg(time, raw, names, **WHITENED)
    assert ours.conditioning is not None
    floor = np.sqrt(ours.conditioning.noise_power)
    rest = middle(ours.emg, 0)
    assert (rest.mean(axis=0) < 0.45 * floor).all()
    error = amplitude_standard_error(
        rest, bandwidth=ours.conditioning.bandwidth, low_pass=6.0, noise_power=ours.conditioning.noise_power
    )
    said = np.sqrt(np.mean(error**2)) / rest.std(axis=0).mean()
    assert 0.5 < said < 2


def test_noise_floor_of_rectified_emg():
    time, raw, names = emg(steps(0.0, 0.03, 1.0, 0.0), channels=8)
    ours = process_emg(time, raw, names, noise_floor=True, normalise="none").emg
    assert middle(ours, 1).mean() == pytest.approx(0.03, rel=0.06)
    assert middle(ours, 2).mean() == pytest.approx(1.0, rel=0.05)


def test_causal_estimate_does_not_look_ahead():
    before, raw, names = emg(steps(0.0, 1.0, 0.1), seed=1)
    about = emg_conditioning([(before, raw)], names, zero_lag=False)
    time, live, _ = emg(steps(0.0, 0.5, 0.2), seed=2)
    live -= live.mean(axis=0)
    changed = live.copy()
    changed[9000:] = -live[9000:]
    changed[9000:] -= (changed - live).sum(axis=0) / 9000  # the same mean, which is removed over the whole record
    a, b = (process_emg(time, x, names, zero_lag=False, conditioning=about, **WHITENED).emg for x in (live, changed))
    np.testing.assert_allclose(a[:9000], b[:9000], atol=1e-12)
    assert np.abs(a[9000:] - b[9000:]).max() > 1e-4


def test_autoregressive_noise_is_whitened_by_its_own_filter():
    """r_k = a^k: the filter is 1, -a and then zeros, scaled to keep the power; statistical bandwidth in closed form."""
    a = 0.8
    correlation = a ** np.arange(200.0)
    np.testing.assert_allclose(
        prediction_error_filter(correlation[:4]), np.array([1, -a, 0, 0]) / np.sqrt(1 - a**2), atol=1e-12
    )
    assert statistical_bandwidth(correlation, 0.001) == pytest.approx(500 * (1 - a**2) / (1 + a**2), rel=1e-12)


def test_conditioning_goes_by_channel_name_and_errors_say_what_is_allowed():
    time, raw, names = emg(steps(0.0, 1.0), channels=3)
    raw[:, 1] *= 3.0
    about = emg_conditioning([(time, raw)], names)
    one = process_emg(time, raw, names, conditioning=about, **WHITENED).emg
    swapped = process_emg(time, raw[:, ::-1], names[::-1], conditioning=about, **WHITENED).emg
    np.testing.assert_allclose(swapped[:, ::-1], one, rtol=1e-12)
    with pytest.raises(InputError, match=r"amplitude is 'rms'; allowed: 'rectified', 'power'"):
        process_emg(time, raw, names, amplitude="rms")
    with pytest.raises(InputError, match=r"lacks channel 'd'; it has 'c0'"):
        process_emg(time, raw, ["c0", "c1", "d"], conditioning=about, **WHITENED)
    with pytest.raises(InputError, match="1000 to 2000 Hz"):
        emg_conditioning([(time, raw), (2 * time, raw)], names)
