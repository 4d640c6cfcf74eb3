"""Channels drive muscles by name; positions mean nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import load_arrays

from nms_gym.errors import InputError
from nms_gym.excitation.channels import ChannelMap

MUSCLES = ("vas_int", "soleus", "vas_med", "psoas", "vas_lat")
CHANNELS = ("VM", "SOL", "VL")
THREE = {"VL": ["vas_lat", "vas_int"], "VM": ["vas_med", "vas_int"], "SOL": ["soleus"]}


def test_weights_by_hand():
    expected = [
        [0.5, 0, 0.5],
        [0, 1, 0],
        [1, 0, 0],
        [0, 0, 0],
        [0, 0, 1],
    ]
    mapping = ChannelMap.from_channels(THREE)
    np.testing.assert_array_equal(mapping.weights(CHANNELS, MUSCLES), expected)
    assert mapping.undriven(MUSCLES) == ("psoas",)
    assert mapping.channels == ("VL", "VM", "SOL")
    assert mapping.unused((*CHANNELS, "TA")) == ("TA",)


def test_weighted_mean_and_plain_sum():
    mean = ChannelMap.from_channels({"VL": {"vas_int": 3.0}, "VM": {"vas_int": 1.0}})
    np.testing.assert_allclose(mean.weights(CHANNELS, ("vas_int",)), [[0.25, 0, 0.75]], rtol=1e-15)
    summed = ChannelMap.from_muscles({"vas_int": {"VL": 3.0, "VM": 1.0}})
    np.testing.assert_array_equal(summed.weights(CHANNELS, ("vas_int",)), [[1, 0, 3]])


def test_channel_order_of_the_file_does_not_matter(data):
    """The recording whose published calibrations drove muscles by the position of the channel."""
    folder = data("uf3_right_leg")
    mapping = ChannelMap.from_channels(json.loads((folder / "emg_map.json").read_text())["channel_to_muscles"])
    arrays = load_arrays(folder / "gait.npz")
    channels, emg = [str(name) for name in arrays["emg_names"]], arrays["emg"].astype(float)
    muscles = [str(name) for name in arrays["muscles"]]
    expected = emg @ mapping.weights(channels, muscles).T
    np.testing.assert_array_equal(mapping.weights(channels, muscles), arrays["emg_to_muscle"])
    assert mapping.undriven(muscles) == ("iliacus_r",)
    rng = np.random.default_rng(0)
    for _ in range(5):
        order = rng.permutation(len(channels))
        shuffled = [channels[i] for i in order]
        np.testing.assert_array_equal(emg[:, order] @ mapping.weights(shuffled, muscles).T, expected)
    # A file with more channels, in another order.
    everything = [str(name) for name in arrays["emg_all_names"]]
    assert set(mapping.unused(everything)) == set(everything) - set(channels)
    for row, muscle in zip(mapping.weights(everything, muscles), muscles, strict=True):
        drives = [name for name, weight in zip(everything, row, strict=True) if weight]
        assert drives == [
            c for c in channels if muscle in dict(mapping.drives) and dict(mapping.drives)[muscle][0][0] == c
        ]


@pytest.mark.parametrize(
    ("channels", "fragments"),
    [
        ({"SOL": []}, ["'SOL'", "mapped to nothing"]),
        ({}, ["empty"]),
        ({"SOL": ["soleus", "soleus"]}, ["'SOL'", "'soleus'", "more than once"]),
        ({"SOL": {"soleus": 0.0}}, ["'SOL'", "'soleus'", "0.0", "above 0"]),
        ({"SOL": {"soleus": float("nan")}}, ["nan"]),
    ],
)
def test_bad_maps_are_refused(channels, fragments):
    with pytest.raises(InputError) as error:
        ChannelMap.from_channels(channels)
    for fragment in fragments:
        assert fragment in str(error.value)


def test_unknown_names_list_near_ones():
    mapping = ChannelMap.from_channels({"SOL_R": ["soleus"]})
    with pytest.raises(InputError, match=r"no EMG channel 'SOL_R'; did you mean 'SOL'\? There are 'VM', 'SOL', 'VL'"):
        mapping.weights(CHANNELS, MUSCLES)
    mapping = ChannelMap.from_channels({"SOL": ["soleus_r"]})
    with pytest.raises(InputError, match="'SOL' drives unknown muscle 'soleus_r'; did you mean 'soleus'"):
        mapping.weights(CHANNELS, MUSCLES)
    with pytest.raises(InputError, match="has no channel"):
        ChannelMap.from_muscles({"soleus": {}})
    with pytest.raises(InputError, match="more than once"):
        ChannelMap.from_channels(THREE).weights(("SOL", "SOL", "VM", "VL"), MUSCLES)
