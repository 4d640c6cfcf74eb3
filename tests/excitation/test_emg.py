"""Envelopes against a published recipe, published envelopes and signals whose envelope is known."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import load_arrays

from nms_gym.errors import InputError
from nms_gym.excitation.emg import (
    Envelopes,
    SaturationWarning,
    causal_delay,
    process_emg,
    resample_envelope,
    session_maxima,
)
from nms_gym.recording.sampling import low_pass

# NMSM's documented recipe (data/uf3_right_leg/README.md): 4th-order filters both ways, 40 Hz and 3.5/period Hz.
NMSM = {"high_pass": 40.0, "low_pass": 3.5 / 1.1, "order": 4, "subtract_minimum": True}


@pytest.fixture(scope="module")
def raw(data):
    arrays = load_arrays(data("uf3_right_leg") / "raw_emg.npz")
    return arrays["time"], arrays["emg"].astype(float), [str(n) for n in arrays["names"]], arrays["envelope_standard"]


def correlation(a, b):
    return np.array([np.corrcoef(x, y)[0, 1] for x, y in zip(a.T, b.T, strict=True)])


def noise(seconds=4.0, rate=1000.0, channels=2, seed=0):
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    return time, rng.standard_normal((len(time), channels))


def test_documented_recipe_is_reproduced(raw):
    time, emg, names, expected = raw
    # 12 samples is how far MATLAB's filtfilt extends a 4th-order filter.
    ours = process_emg(time, emg, names, edge_samples=12, **NMSM)
    assert correlation(ours.emg, expected).min() > 0.999999
    np.testing.assert_allclose(ours.emg, expected, atol=1e-3)
    # Our longer reflection changes the ends, and through their peaks the gain, not the course.
    default = process_emg(time, emg, names, **NMSM)
    assert correlation(default.emg[500:-500], expected[500:-500]).min() > 0.999


def test_mean_is_taken_over_time_not_over_channels(raw, data):
    time, emg, names, _ = raw
    together = process_emg(time, emg, names, **NMSM).emg
    for i in (1, 8, 26):
        alone = process_emg(time, emg[:, [i]], [names[i]], **NMSM).emg
        np.testing.assert_allclose(together[:, [i]], alone, atol=1e-12)
    # The published envelopes of this trial subtract the mean over channels instead; the difference is not subtle.
    gait = load_arrays(data("uf3_right_leg") / "gait.npz")
    published = gait["emg_all"][:, [list(gait["emg_all_names"]).index(name) for name in names]]
    rows = np.rint(gait["emg_time"] * 1000).astype(int)
    assert correlation(together[rows], published).min() < 0


def test_constant_offset_and_drift_do_not_matter():
    time, emg = noise()
    plain = process_emg(time, emg, ["a", "b"])
    moved = process_emg(time, emg + np.array([100.0, -3.0]) + 0.5 * np.sin(time)[:, None], ["a", "b"])
    inside = slice(200, -200)
    np.testing.assert_allclose(moved.emg[inside], plain.emg[inside], atol=2e-3)


def test_published_envelopes_of_another_recipe(data):
    """Band-pass 50-500 Hz, rectified, 7.5 Hz, critically damped 15 Hz, from the same counts at 2000 Hz."""
    walk = load_arrays(data("rajagopal_walk") / "walk.npz")
    ours = process_emg(
        walk["raw_time"],
        walk["raw_counts"],
        [str(name) for name in walk["emg_channels"]],
        high_pass=(50.0, 500.0),
        low_pass=6.0,
        order=2,
    )
    inside = (walk["emg_time"] > 0.15) & (walk["emg_time"] < 2.2)  # the published filter ends fall to 0
    nearest = np.rint(walk["emg_time"][inside] * 2000).astype(int)
    r = correlation(ours.emg[nearest], walk["emg"][inside])
    assert r.min() > 0.975  # gluteus maximus; the others exceed 0.99
    assert np.median(r) > 0.993


@pytest.mark.parametrize("zero_lag", [True, False])
def test_envelope_of_a_sine_is_its_mean_magnitude(zero_lag):
    """|A sin| has the mean 2 A / pi, whatever the phase; 3 V offset and 50 Hz are removed."""
    time = np.arange(0, 5, 0.0005)
    amplitude = np.array([1.0, 0.3])
    signal = amplitude * np.sin(2 * np.pi * 120 * time)[:, None] + 3.0
    hum = signal + 0.5 * np.sin(2 * np.pi * 50 * time)[:, None]
    ours = process_emg(time, hum, ["a", "b"], notch=50.0, zero_lag=zero_lag, normalise="none")
    np.testing.assert_allclose(ours.emg[4000:-3000], np.broadcast_to(2 / np.pi * amplitude, (3000, 2)), rtol=0.02)


def test_order_means_the_filter_run_each_way():
    """At the cut-off a Butterworth filter passes 1/sqrt(2); both ways 1/2. An octave above, order 2 passes 1/17."""
    time = np.arange(0, 20, 0.002)
    for ratio, gain in ((1.0, 0.5), (2.0, 1 / (1 + 2.0**4)), (0.5, 1 / (1 + 0.5**4))):
        wave = np.sin(2 * np.pi * 6 * ratio * time)[:, None]
        middle = low_pass(wave, 0.002, 6.0, "test", order=2)[2000:-2000, 0]
        assert abs(np.abs(middle).max() - gain) < 2e-3
        assert np.abs(middle - gain * wave[2000:-2000, 0]).max() < 2e-3  # no lag


@pytest.mark.parametrize(("cutoff", "order"), [(6.0, 4), (4.0, 2)])
def test_causal_variant_lags_by_the_stated_delay(cutoff, order):
    time, carrier = noise(seconds=20, channels=1, seed=3)
    burst = 1.0 + 0.8 * np.sin(2 * np.pi * 0.7 * time)[:, None]
    settings = {"low_pass": cutoff, "order": order, "high_pass": 30.0}
    lag = {}
    for zero_lag in (True, False):
        ours = process_emg(time, burst * carrier, ["a"], zero_lag=zero_lag, **settings).emg[:, 0]
        shifts = np.arange(-50, 200)
        inside = np.arange(1000, len(time) - 1000)
        scores = [np.corrcoef(ours[inside + s], burst[inside, 0])[0, 1] for s in shifts]
        lag[zero_lag] = shifts[int(np.argmax(scores))] * 0.001
    assert abs(lag[False] - lag[True] - causal_delay(cutoff, order)) < 0.012
    assert abs(lag[True]) < 0.02


def test_causal_variant_does_not_look_ahead():
    time, emg = noise()
    emg -= emg.mean(axis=0)
    changed = emg.copy()
    changed[3000:] *= -1.0
    changed[3000:] -= (changed - emg).sum(axis=0) / 1000  # the same mean, which is removed over the whole record
    settings = {"zero_lag": False, "normalise": "none"}
    before, after = (process_emg(time, x, ["a", "b"], **settings).emg for x in (emg, changed))
    np.testing.assert_allclose(after[:3000], before[:3000], atol=1e-12)
    assert np.abs(after[3000:] - before[3000:]).max() > 1e-3


def test_causal_variant_starts_in_steady_state():
    time, emg = noise(seconds=8)
    ours = process_emg(time, emg, ["a", "b"], zero_lag=False, normalise="none").emg
    # A filter started at rest would begin at 0 and need 0.2 s.
    assert (ours[0] > 0.5 * np.sqrt(2 / np.pi)).all()


def test_normalisation_by_trial_session_and_reference():
    time, emg = noise(channels=2)
    names = ["a", "b"]
    own = process_emg(time, emg, names)
    np.testing.assert_allclose(own.emg.max(axis=0), 1.0, rtol=1e-15)
    assert own.emg.min() >= 0
    bare = [process_emg(time, emg * k, names, normalise="none") for k in (1.0, 2.5)]
    swapped = process_emg(time, emg[:, ::-1], names[::-1], normalise="none")
    maxima = session_maxima([*bare, swapped])
    for i, name in enumerate(names):
        assert maxima[name] == pytest.approx(2.5 * bare[0].emg[:, i].max(), rel=1e-12)
    session = process_emg(time, emg[:, ::-1], names[::-1], normalise="session", reference=maxima)
    np.testing.assert_allclose(session.emg.max(axis=0), 0.4, rtol=1e-12)
    mvc = process_emg(time, emg, names, normalise="mvc", reference={"b": 2.0, "a": 4.0, "other": 1.0})
    np.testing.assert_allclose(mvc.emg, bare[0].emg / np.array([4.0, 2.0]), rtol=1e-12)
    assert mvc.reference == {"a": 4.0, "b": 2.0}
    with pytest.raises(InputError, match="no mvc reference for channel 'b'"):
        process_emg(time, emg, names, normalise="mvc", reference={"a": 1.0})
    with pytest.raises(InputError, match=r"reference of channel 'b' is 0\.0"):
        process_emg(time, emg, names, normalise="mvc", reference={"a": 1.0, "b": 0.0})
    with pytest.raises(InputError, match="needs reference="):
        process_emg(time, emg, names, normalise="mvc")
    with pytest.raises(InputError, match="unnormalised"):
        session_maxima([own])
    with pytest.raises(InputError, match="at least one"):
        session_maxima([])


def test_resampling_keeps_the_course_and_does_not_alias():
    time, emg = noise(rate=2000.0)
    fine = process_emg(time, emg, ["a", "b"])
    coarse = process_emg(time, emg, ["a", "b"], step=0.01)
    assert coarse.time[1] - coarse.time[0] == pytest.approx(0.01)
    inside = slice(5, -5)
    expected = fine.emg[np.rint(coarse.time * 2000).astype(int)]
    np.testing.assert_allclose(coarse.emg[inside], expected[inside], atol=2e-3)
    # 90 Hz sampled at 100 Hz would alias to 10 Hz at full amplitude.
    wave = 1.0 + np.sin(2 * np.pi * 90 * time)[:, None]
    _, reduced = resample_envelope(time, wave, 0.01)
    np.testing.assert_allclose(reduced[20:-20], 1.0, atol=0.02)
    with pytest.raises(InputError, match="step is -1"):
        resample_envelope(time, wave, -1.0)


@pytest.mark.parametrize(
    ("change", "settings", "fragments"),
    [
        (lambda t, x: (t, np.where(np.arange(len(t))[:, None] == 7, np.nan, x)), {}, ["'a'", "nan", "0.007 s"]),
        (lambda t, x: (t, x * [1.0, 0.0]), {}, ["'b'", "dead"]),
        (lambda t, x: (t, np.where([True, False], x, np.repeat(x[::4], 4, axis=0))), {}, ["'b'", "dead"]),
        (lambda t, x: (t[:200], x[:200]), {}, ["200 samples", "too short"]),
        (lambda t, x: (t * 20, x), {}, ["high_pass", "30 Hz", "25 Hz"]),
        (lambda t, x: (t, x), {"low_pass": 700.0}, ["low_pass", "700", "500 Hz"]),
        (lambda t, x: (t, x), {"high_pass": (400.0, 30.0)}, ["low < high"]),
        (lambda t, x: (t, x), {"notch": 0.0}, ["notch"]),
        (lambda t, x: (t, x), {"order": 0}, ["order"]),
        (lambda t, x: (t, x), {"normalise": "max"}, ["'max'"]),
        (lambda t, x: (t[::-1], x), {}, ["backwards"]),
        (lambda t, x: (t + 0.2 * (t > 1), x), {}, ["nothing was recorded"]),
        (lambda t, x: (t + 0.02 * (t > 1), x), {}, ["uniform"]),
        (lambda t, x: (t, x[:, :1]), {}, ["shape"]),
    ],
)
def test_unusable_signals_are_refused(change, settings, fragments):
    time, emg = change(*noise())
    with pytest.raises(InputError) as error:
        process_emg(time, emg, ["a", "b"], where="walk.csv", **settings)
    for fragment in ["walk.csv", *fragments]:
        assert fragment in str(error.value)


def test_saturation_is_reported():
    time, emg = noise()
    carrier = np.sin(2 * np.pi * 90 * time)
    with pytest.warns(SaturationWarning, match=r"'b' is saturated.*at 0\.5"):
        process_emg(time, np.column_stack([emg[:, 0], np.clip(carrier, None, 0.5)]), ["a", "b"])


def test_table_goes_on_to_a_trial():
    time, emg = noise()
    ours = process_emg(time, emg, ["a", "b"], step=0.01)
    assert isinstance(ours, Envelopes)
    table = ours.table("walk.csv")
    np.testing.assert_array_equal(table.column("b"), ours.emg[:, 1])
