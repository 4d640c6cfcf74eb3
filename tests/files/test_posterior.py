"""Files of many people: an older one than a kind of parameter still loads."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from nms_gym.errors import InputError
from nms_gym.files.inspection import describe
from nms_gym.files.posterior import load_people, person_hash, save_people
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


def crowd(count=3, **changed):
    """``count`` equal people, some of whose values are changed: kind -> (person, entry, value)."""
    one = make_params(MODEL, NEEDED)
    people = jax.tree.map(lambda leaf: np.stack([leaf] * count), one)
    for kind, (person, entry, value) in changed.items():
        getattr(people, kind)[person, entry] = value
    return people


@pytest.mark.parametrize(
    ("kind", "entry", "value", "message"),
    [
        ("max_isometric_force", 1, np.nan, "max_isometric_force of 'triceps' is nan N in person 2 of 3; allowed"),
        ("emg_gain", 0, -0.1, "emg_gain of 'BIC' is -0.1 1 in person 2"),
        ("optimal_fiber_length", 0, 5.0, "optimal_fiber_length of 'biceps' is 5 m"),
        ("electromechanical_delay", 0, 0.9, "allowed 0 to "),
        ("tendon_slack_length", 0, np.inf, "is inf m"),
    ],
)
def test_people_are_checked_as_a_subject_is(tmp_path, kind, entry, value, message):
    path = tmp_path / "people.npz"
    save_people(path, MODEL, crowd(**{kind: (1, entry, value)}))
    with pytest.raises(InputError, match=message) as error:
        load_people(path, MODEL)
    assert "people.npz" in str(error.value)


def test_people_of_another_subject_are_refused(tmp_path):
    path = tmp_path / "people.npz"
    mine = make_params(MODEL, NEEDED)
    theirs = make_params(MODEL, {**NEEDED, "emg_gain": 0.7})
    save_people(path, MODEL, crowd(), mine)
    assert load_people(path, MODEL, mine).emg_gain.shape == (3, 1)
    assert load_people(path, MODEL).emg_gain.shape == (3, 1)
    with pytest.raises(InputError, match=r"drawn for another subject .*use the posterior\.npz that was written with"):
        load_people(path, MODEL, theirs)
    # A file from before there were hashes says nothing.
    save_people(path, MODEL, crowd())
    load_people(path, MODEL, theirs)


def test_the_hash_is_that_of_the_person_not_of_the_file():
    one = make_params(MODEL, NEEDED)
    order = dataclasses.replace(MODEL, muscles=("triceps", "biceps"), channel_weights=MODEL.channel_weights[::-1])
    again = jax.tree.map(np.asarray, make_params(order, NEEDED))
    assert person_hash(MODEL, one) == person_hash(order, again)
    changed = make_params(MODEL, {**NEEDED, "max_isometric_force": np.array([500.0, np.nextafter(500.0, 501.0)])})
    assert person_hash(MODEL, one) != person_hash(MODEL, changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names of emg_gain": np.zeros((10**6, 0))}, "names of emg_gain is of type"),
        ({"emg_gain": np.zeros((3, 2))}, "emg_gain has type"),
        ({"emg_gain": np.array([["a"]] * 3)}, "emg_gain has type"),
        ({"emg_gain": np.float64(1)}, "emg_gain has type"),
        ({"max_isometric_force": np.zeros((0, 2))}, "lacks this kind"),
        ({"names of shape_factor": np.array(["biceps", "biceps"])}, "not unique"),
        ({"version": np.array("1")}, "format and version"),
        ({"version": np.array([1, 1])}, "format and version"),
        ({"format": np.array(["nms-gym-posterior"])}, "format and version"),
    ],
)
def test_malformed_files_are_refused(tmp_path, change, message):
    path = tmp_path / "people.npz"
    save_people(path, MODEL, crowd())
    with np.load(path) as file:
        np.savez(tmp_path / "changed.npz", **{**file, **change})
    with pytest.raises(InputError, match=message):
        load_people(tmp_path / "changed.npz", MODEL)


def test_inspect_lists_people(tmp_path):
    path = tmp_path / "people.npz"
    save_people(path, MODEL, crowd(shape_factor=(0, 1, np.nan)), make_params(MODEL, NEEDED))
    ((title, _, rows),) = describe(path)
    assert title.startswith("people.npz: posterior, 3 people; drawn for the subject ")
    assert ["max_isometric_force", "biceps", "500", "500", "500", "N", ""] in rows
    assert next(row for row in rows if row[:2] == ["shape_factor", "triceps"])[-1] == "1 of 3 not finite"


def test_inspect_lists_arrays_of_any_format(tmp_path):
    np.savez(tmp_path / "a.npz", format=np.array("somebody's"), q=np.zeros((3, 2)))
    ((title, _, rows),) = describe(tmp_path / "a.npz")
    assert title == 'a.npz: arrays of format "somebody\'s"'
    assert ["q", "float64", "3 x 2", ""] in rows
