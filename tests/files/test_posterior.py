"""Files of many people: an older one than a kind of parameter still loads."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from nms_gym.errors import InputError
from nms_gym.files.posterior import load_people, save_people
from nms_gym.model.parameters import make_params
from nms_gym.model.structure import NmsModel, Settings

MODEL = NmsModel(
    muscles=("biceps", "triceps"),
    coordinates=(),
    channels=("BIC",),
    settings=Settings(),
    channel_weights=np.array([[1.0], [0.0]]),
)
NEEDED = {"max_isometric_force": 500.0, "optimal_fiber_length": 0.1, "tendon_slack_length": 0.2}


def save_without(path, *kinds):
    """Three people, in a file that has never heard of ``kinds``."""
    one = make_params(MODEL, {**NEEDED, "emg_gain": 0.7, "minimum_activation": 0.02})
    save_people(path, MODEL, jax.tree.map(lambda leaf: np.stack([leaf] * 3), one))
    with np.load(path) as file:
        kept = {key: value for key, value in file.items() if key.removeprefix("names of ") not in kinds}
    np.savez(path, **kept)


def test_a_file_older_than_a_kind_of_parameter(tmp_path):
    save_without(tmp_path / "people.npz", "minimum_activation")
    people = load_people(tmp_path / "people.npz", MODEL)
    np.testing.assert_array_equal(people.minimum_activation, np.zeros((3, 2)))
    np.testing.assert_array_equal(people.emg_gain, np.full((3, 1), 0.7))


@pytest.mark.parametrize("kind", ["tendon_slack_length", "shape_factor"])
def test_what_files_always_had_must_be_there(tmp_path, kind):
    save_without(tmp_path / "people.npz", kind)
    with pytest.raises(InputError, match=f"{kind} lacks 'biceps', 'triceps'"):
        load_people(tmp_path / "people.npz", MODEL)
