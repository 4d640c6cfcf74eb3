"""Envelopes of a study whose recipe whitens raw EMG and takes off its noise floor."""

from __future__ import annotations

import numpy as np

from calibration.study.emg import EmgRecipe, make_envelopes
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
