"""Inverse dynamics of files against OpenSim's tool: a made-up motion to its printed digits, recordings by R2."""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from helpers import REFERENCE

from nms_gym import cli
from nms_gym.errors import InputError
from nms_gym.recording.external_loads import read_external_loads
from nms_gym.recording.osim import read_osim
from nms_gym.recording.storage import read_moments, read_table, write_table
from nms_gym.skeleton.recorded_motion import (
    CoordinateWarning,
    JointMoments,
    agreement,
    differentiated,
    moments_of_motion,
    read_motion,
    write_joint_moments,
)

GEOMETRY = REFERENCE / "geometry.osim"
LEG = ("hip_flexion_r", "hip_adduction_r", "hip_rotation_r", "knee_angle_r", "ankle_angle_r")


@pytest.fixture(scope="module")
def expected():
    return json.loads((REFERENCE / "inverse_dynamics.json").read_text())["inverse_dynamics"]


@pytest.fixture(scope="module")
def folder(expected, tmp_path_factory):
    """The made-up recording as files."""
    folder = tmp_path_factory.mktemp("recording")
    for name, times, columns in (
        ("ik.mot", "time", "coordinates"),
        ("load.mot", "load_time", "load"),
        ("opensim.sto", "result_time", "moments"),
    ):
        rows = np.stack(list(expected[columns].values()), axis=1)
        labels = [f"{c}_moment" for c in expected[columns]] if columns == "moments" else list(expected[columns])
        write_table(folder / name, labels, np.array(expected[times]), rows, in_degrees=columns == "coordinates")
    (folder / "load.xml").write_text(expected["loads"])
    return folder


@pytest.fixture(scope="module")
def model():
    return read_osim(GEOMETRY)


@pytest.fixture(scope="module")
def motion(folder, model, expected):
    with pytest.warns(CoordinateWarning, match="no column for 'free_0'.*which stay at their defaults"):
        return read_motion(folder / "ik.mot", model, expected["cutoff"])


@pytest.fixture(scope="module")
def loads(folder):
    return read_external_loads(folder / "load.xml")


def test_equals_opensim_to_its_printed_digits(folder, model, motion, loads, expected):
    recorded = tuple(name for name in expected["moments"] if name in motion.coordinates)
    assert len(recorded) == 5
    moments = moments_of_motion(model, motion, recorded, loads=loads)
    for k, name in enumerate(recorded):
        theirs = np.array(expected["moments"][name])
        assert np.ptp(theirs) > 90
        np.testing.assert_allclose(moments.moments[::4, k], theirs, atol=2e-6, err_msg=name)
    assert all(row.r2 > 1 - 1e-12 and row.rmse < 1e-3 for row in agreement(moments, folder / "opensim.sto"))
    # Without the load, or without the filter, it is another motion.
    bare = moments_of_motion(model, motion, recorded)
    assert np.abs(bare.moments - moments.moments).max() > 1


def test_a_part_of_the_coordinates_and_of_the_time(model, motion, loads):
    chosen = ("pin_0", "gimbal_1")
    whole = moments_of_motion(model, motion, loads=loads)
    assert whole.coordinates == motion.coordinates
    part = moments_of_motion(model, motion.window(0.2, 0.5), chosen, loads=loads)
    np.testing.assert_allclose(part.time[[0, -1]], [0.2, 0.5])
    columns = [whole.coordinates.index(name) for name in chosen]
    np.testing.assert_allclose(part.moments, whole.moments[20:51, columns], atol=1e-9)


def test_written_moments_serve_as_moments_of_a_trial(tmp_path, model):
    time = 0.01 * np.arange(5)
    values = np.random.default_rng(0).normal(size=(5, 2))
    write_joint_moments(tmp_path / "id.sto", model, JointMoments(("slider_0", "pin_0"), time, values))
    assert read_table(tmp_path / "id.sto").labels == ("slider_0_force", "pin_0_moment")
    again = read_moments(tmp_path / "id.sto", ["pin_0", "slider_0"])
    np.testing.assert_array_equal(again.data, values[:, ::-1])


def test_derivatives_of_a_smooth_motion():
    step = 0.01
    time = step * np.arange(200)
    q = np.stack([np.sin(3 * time), time**3], axis=1)
    for found, truth in zip(
        differentiated(q, step, "x"),
        (q, np.stack([3 * np.cos(3 * time), 3 * time**2], axis=1), np.stack([-9 * np.sin(3 * time), 6 * time], axis=1)),
        strict=True,
    ):
        np.testing.assert_allclose(found[20:-20], truth[20:-20], atol=1e-6)


def test_the_filter_halves_the_power_twice_at_its_cutoff():
    # A third-order Butterworth filter passes 1 / sqrt(2) at the cut-off, and it runs twice.
    step, cutoff = 0.002, 6.0
    time = step * np.arange(4001)
    wave = np.sin(2 * np.pi * cutoff * time)
    middle = slice(1500, 2500)
    filtered, _, _ = differentiated(wave[:, None], step, "x", cutoff)
    np.testing.assert_allclose(filtered[middle, 0], wave[middle] / 2, atol=1e-3)
    constant, speed, _ = differentiated(np.full((50, 1), 0.7), step, "x", cutoff)
    np.testing.assert_allclose(constant, 0.7, atol=1e-12)
    np.testing.assert_allclose(speed, 0.0, atol=1e-9)


def test_refusals(tmp_path, folder, model, motion, loads):
    with pytest.raises(InputError, match="no column 'twist'"):
        moments_of_motion(model, motion, ["twist"])
    with pytest.raises(InputError, match="'follows' follows 'bend'"):
        moments_of_motion(model, motion, ["follows"])
    with pytest.raises(InputError, match="no coordinate 'pim'"):
        moments_of_motion(model, motion, ["pim"])
    with pytest.raises(InputError, match=r"1 samples from 0\.5 to 0\.5 s; at least 2"):
        motion.window(0.5, 0.5)
    with pytest.raises(InputError, match=r"ik\.mot: low-pass cut-off 60 Hz; .*50 Hz"), pytest.warns(CoordinateWarning):
        read_motion(folder / "ik.mot", model, 60.0)
    with pytest.raises(InputError, match="no body 'after_wield'; did you mean 'after_weld'"):
        moments_of_motion(model, motion, ["pin_0"], loads=replace(loads, bodies=("after_wield",)))
    write_table(tmp_path / "other.mot", ["knee"], np.arange(9) * 0.01, np.zeros((9, 1)))
    with pytest.raises(InputError, match=r"other\.mot: no column is a coordinate of .*geometry\.osim"):
        read_motion(tmp_path / "other.mot", model)
    write_table(tmp_path / "short.mot", ["pin_0"], np.arange(4) * 0.01, np.zeros((4, 1)))
    with pytest.raises(InputError, match="4 samples; at least 6"), pytest.warns(CoordinateWarning):
        read_motion(tmp_path / "short.mot", model)
    late = JointMoments(("pin_0",), np.array([3.0, 3.1]), np.zeros((2, 1)))
    with pytest.raises(InputError, match=r"covers 0 to 0\.8 s, which does not meet 3 to 3\.1 s"):
        agreement(late, folder / "opensim.sto")


def run(*arguments):
    """Exit code of the command line, in this process, where warnings are shown as they are to users."""
    with (
        mock.patch.dict(os.environ),
        mock.patch.object(sys, "argv", ["nms-gym", *map(str, arguments)]),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("default")
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return ended.value.code


def test_command(folder, tmp_path, capsys, expected):
    files = (GEOMETRY, folder / "ik.mot", "--loads", folder / "load.xml")
    options = ("--coordinates", "pin_0,slider_0", "--reference", folder / "opensim.sto", "-o", tmp_path / "new/id.sto")
    assert run("inverse-dynamics", *files, "--cutoff", 6, *options) == 0
    shown = capsys.readouterr()
    assert "loads on 'after_weld'" in shown.out
    assert "pin_0       1.00000" in shown.out
    assert "nms-gym: warning: " in shown.err
    assert "stay at their defaults" in shown.err
    table = read_moments(tmp_path / "new" / "id.sto", ["slider_0"])
    np.testing.assert_allclose(table.data[::4, 0], expected["moments"]["slider_0"], atol=2e-6)
    assert run("inverse-dynamics", *files, "-o", tmp_path / "id.txt") == 2
    assert "expected a file name that ends in .sto" in capsys.readouterr().err
    assert run("inverse-dynamics", *files[:2], "--loads-cutoff", 6) == 2
    assert "--loads-cutoff needs --loads" in capsys.readouterr().err
    assert run("inverse-dynamics", *files, "--coordinates", "pin", "-o", tmp_path / "id.sto") == 2
    assert "no coordinate 'pin'; did you mean 'pin_0'" in capsys.readouterr().err


def test_recorded_elbow_flexion(data):
    folder = data("arm26_elbow") / "original"
    model = read_osim(folder / "arm26.osim")
    motion = read_motion(folder / "arm26_InverseKinematics.mot", model, 6.0)
    rows = agreement(moments_of_motion(model, motion), folder / "arm26_InverseDynamics.sto")
    assert [row.coordinate for row in rows] == ["r_shoulder_elev", "r_elbow_flex"]
    assert all(row.r2 > 0.999999 and row.rmse < 5e-4 for row in rows), rows


def test_recorded_walk(data):
    folder = data("rajagopal_walk")
    model = read_osim(folder / "original" / "subject_walk_scaled.osim")
    loads = read_external_loads(folder / "original" / "grf_walk.xml")
    motion = read_motion(folder / "ik_walk_full.mot", model, 6.0).window(0.2, 2.2)
    moments = moments_of_motion(model, motion, LEG, loads=loads)
    rows = agreement(moments, folder / "id_walk_full.sto")
    # What remains is OpenSim's acceleration of the walker knee, see the module, and the patella in the knee's moment.
    assert all(row.r2 > 0.9999 and row.rmse < 0.2 for row in rows), rows
    # Extensors brake the knee's flexion after foot strike: extension is negative.
    stance = (moments.time > 0.32) & (moments.time < 0.45)
    assert moments.moments[stance, LEG.index("knee_angle_r")].min() < -30
