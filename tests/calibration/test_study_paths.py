"""A study whose model is an OpenSim file: its muscle paths are fitted over what the recordings reach, and kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import REFERENCE

from calibration.study.emg import EmgRecipe, make_envelopes
from calibration.study.model import read_parameters
from calibration.study.paths import with_fitted_paths
from nms_gym.errors import InputError
from nms_gym.muscle.geometry import lengths_and_moment_arms
from nms_gym.muscle.paths import sample_paths
from nms_gym.recording.osim import read_osim
from nms_gym.recording.sampling import without_full_turns
from nms_gym.recording.storage import Table

TIME = np.linspace(0.0, 2.0, 201)


class Recorded:
    """A source of which only the motion counts."""

    name, where = "walk", "here"

    def __init__(self, **columns):
        self.table = Table("walk.mot", tuple(columns), TIME, np.stack(list(columns.values()), axis=1))

    def recorded(self, coordinates):
        return self.table


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "nms-gym" / "paths"


def fitted(source, windows, said, model=REFERENCE / "two_link.osim"):
    files = read_parameters(model, ["flexor", "biart"], ["knee_flex"])
    return with_fitted_paths(files, [source], [windows], ["knee_flex"], 0.2, said.append)


def test_paths_are_fitted_over_the_windows_once_and_kept_by_content(cache, tmp_path):
    hip = 0.4 * np.sin(TIME)
    knee = -0.8 + 0.3 * np.sin(5 * TIME)
    knee[150:] = -40.0  # a marker was lost, after the window
    source, said = Recorded(hip_flex=hip, knee_flex=knee - 2 * math.pi), []
    paths = fitted(source, ((0.5, 1.4),), said).paths
    assert paths.muscles == ("flexor", "biart")
    assert paths.coordinates == ("hip_flex", "knee_flex")
    low, high = np.asarray(paths.domain)[1]
    assert -1.5 < low < -1.1
    assert -0.5 < high < -0.1
    q = np.stack([hip, knee], axis=1)[60:140:20]
    lengths, _ = sample_paths(read_osim(REFERENCE / "two_link.osim"), paths.muscles, paths.coordinates, q)
    for pose, expected in zip(q, lengths, strict=True):
        assert np.asarray(lengths_and_moment_arms(paths, pose)[0]) == pytest.approx(expected, abs=2e-4)
    assert any("fitting the paths of 2 muscles" in text for text in said)

    (kept,) = cache.glob("*.json")
    said.clear()
    again = fitted(source, ((0.5, 1.4),), said).paths
    assert said == ["muscle paths as fitted before to two_link.osim"]
    assert np.asarray(again.coefficients[0]) == pytest.approx(np.asarray(paths.coefficients[0]), abs=1e-9)

    kept.write_text("{ damaged")
    said.clear()
    fitted(source, ((0.5, 1.4),), said)
    assert any("fitting the paths" in text for text in said)
    said.clear()
    fitted(source, ((0.5, 1.4),), said)
    assert said == ["muscle paths as fitted before to two_link.osim"]


def test_a_muscle_without_a_path_is_named_and_nothing_is_fitted_where_lengths_are_recorded(cache, tmp_path):
    text = (
        (REFERENCE / "two_link.osim")
        .read_text()
        .replace("<socket_parent_frame>/bodyset/shank<", "<socket_parent_frame>/bodyset/shin<", 2)
    )
    odd = tmp_path / "odd.osim"
    odd.write_text(text)
    with pytest.raises(InputError, match=r"have no path .*shin.*leave these muscles out"):
        fitted(Recorded(knee_flex=-0.8 + 0.3 * np.sin(TIME)), None, [], odd)
    measured = Recorded(knee_flex=TIME)
    measured.recorded = lambda coordinates: None
    assert fitted(measured, None, []).paths is None
    assert not cache.exists()


def test_full_turns_are_taken_back():
    angle = 0.5 * np.sin(TIME)
    wrapped = np.where(TIME > 1.0, angle - 2 * math.pi, angle)
    assert without_full_turns(np.stack([angle - 4 * math.pi, wrapped], axis=1)) == pytest.approx(
        np.stack([angle, angle], axis=1)
    )


def test_an_envelope_that_undershoots_is_told_from_unrectified_emg():
    rng = np.random.default_rng(0)
    envelope = np.sin(2 * math.pi * TIME) ** 2 - 0.1
    raw = rng.normal(size=len(TIME))

    def made(data, **options):
        table = Table("emg.sto", ("TA",), TIME, data[:, None])
        return make_envelopes([table], EmgRecipe(**options), "here", train=[None])[0][0].data

    with pytest.raises(InputError, match=r"TA.*undershoots.*clip = true"):
        made(envelope)
    clipped = made(envelope, clip=True)
    assert clipped.min() == 0.0
    assert clipped[:, 0] == pytest.approx(np.maximum(envelope, 0.0))
    for options in ({}, {"clip": True}):
        with pytest.raises(InputError, match="unrectified"):
            made(raw, **options)
    with pytest.raises(InputError, match="clip is of envelopes"):
        EmgRecipe(kind="raw", clip=True)
