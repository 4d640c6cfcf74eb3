"""Envelopes of a study whose recipe whitens raw EMG and takes off its noise floor."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from calibration.study.emg import EmgRecipe, make_envelopes
from nms_gym.errors import InputError
from nms_gym.recording.storage import Table


def raw_table(seed, noise):
    """Three seconds at rest, three at work, with this measurement noise."""
    rng = np.random.default_rng(seed)
    amplitude = np.repeat([0.0, 1.0], 3000)[:, None]
    raw = rng.standard_normal((6000, 2)) * amplitude + noise * rng.standard_normal((6000, 2))
    return Table(f"{seed}.csv", ("a", "b"), np.arange(6000) / 1000, raw)


def test_whitening_and_noise_floor_come_from_training_windows_alone():
    recipe = EmgRecipe("raw", amplitude="power", whiten=True, noise_floor=True)
    fitted, quiet, loud = raw_table(0, 0.05), raw_table(1, 0.05), raw_table(2, 0.3)
    train = [[(0.0, 6.0)], ()]
    one, two = (make_envelopes([fitted, other], recipe, "[emg]", train=train)[0] for other in (quiet, loud))
    np.testing.assert_array_equal(one[0].data, two[0].data)
    assert np.median(one[0].data[100:400]) < 0.5 * 0.05
    # Without training windows, as when a saved person is scored, all recordings have a say.
    known = {"a": 1.0, "b": 1.0}
    alone, _ = make_envelopes([loud], recipe, "[emg]", train=[()], known=known)
    assert np.median(alone[0].data[100:400]) < 0.5 * 0.3


def test_noise_is_measured_where_muscles_are_relaxed():
    """A muscle that is never quite at rest in the training windows: only a window at rest tells noise from activity."""
    recipe = EmgRecipe("raw", amplitude="power", noise_floor=True, rest={"0.csv": [[0.0, 2.5]]})
    rng = np.random.default_rng(3)
    table = raw_table(0, 0.05)
    low = np.where(np.arange(6000) < 3000, 0.0, 0.1)[:, None] * rng.standard_normal((6000, 2))
    table = Table(table.path, table.labels, table.time, low + 0.05 * rng.standard_normal((6000, 2)))
    options = {"train": [[(3.5, 6.0)]], "known": {"a": 1.0, "b": 1.0}}
    by_quiet, by_rest = (
        make_envelopes([table], recipe, "[emg]", rest=rest, **options)[0][0].data[750:1150]
        for rest in ((), [[(0.0, 2.5)]])
    )
    assert np.abs(by_rest.mean(axis=0) - 0.1).max() < 0.01
    assert (by_quiet.mean(axis=0) < 0.08).all()
    with pytest.raises(InputError, match=r"rest: window \(7.0, 8.0\) of 0.csv holds no sample; the EMG is from 0 to"):
        make_envelopes([table], recipe, "[emg]", rest=[[(7.0, 8.0)]], **options)
    with pytest.raises(InputError, match="neither whiten nor noise_floor is true"):
        EmgRecipe("raw", rest={"a": True})


def test_maximal_contractions_give_the_reference():
    """The largest mean over a while, of all recordings that have the channel; a value that is given goes before."""
    rng = np.random.default_rng(5)
    time = np.arange(3000) / 1000
    burst = np.where((time > 1) & (time < 2), 2.0, 0.1)[:, None]
    first = Table("flexion.csv", ("b", "a"), time, burst * rng.standard_normal((3000, 2)) * [1.0, 0.5])
    second = Table("extension.csv", ("a",), time, burst * rng.standard_normal((3000, 1)))
    recipe = EmgRecipe("raw", high_pass=20.0, normalise="mvc", mvc_trials=("flexion", "extension"), baseline=0.5)
    trial = raw_table(0, 0.05)
    options = {"train": [None], "maximal": [first, second]}
    (made,), reference = make_envelopes([trial], recipe, "[emg]", **options)
    assert reference.kind == "maximum voluntary contraction"
    # The mean size of Gaussian EMG of standard deviation 2; its largest sample is a third above.
    expected = 2 * np.sqrt(2 / np.pi)
    for channel in ("a", "b"):
        assert reference.values[channel] == pytest.approx(expected, rel=0.1)
    plain, _ = make_envelopes(
        [trial], dataclasses.replace(recipe, mvc_trials=(), normalise="none"), "[emg]", train=[None]
    )
    np.testing.assert_allclose(made.data * [reference.values[c] for c in made.labels], plain[0].data, rtol=1e-12)
    instant = dataclasses.replace(recipe, mvc_window=0.001, mvc={"b": 7.0})
    _, other = make_envelopes([trial], instant, "[emg]", **options)
    assert other.values["a"] > 1.15 * reference.values["a"]
    assert other.values["b"] == 7.0
    with pytest.raises(InputError, match=r"\[emg\]: no mvc reference of channel 'b'; there are 'a'"):
        make_envelopes([trial], recipe, "[emg]", train=[None], maximal=[second])
    with pytest.raises(
        InputError, match=r"flexion.csv: a maximal contraction of 2.995 s is shorter than mvc_window, 9 s"
    ):
        make_envelopes([trial], dataclasses.replace(recipe, mvc_window=9.0), "[emg]", **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mvc_trials": ("flexion",)}, "mvc_trials is given, but normalise is 'session'"),
        ({"mvc_window": 0.0}, "mvc_window is 0 s"),
        ({"mvc_window": float("nan")}, "mvc_window is nan s"),
    ],
)
def test_what_a_recipe_of_maximal_contractions_cannot_be(changes, message):
    with pytest.raises(InputError, match=message):
        EmgRecipe("raw", **changes)
