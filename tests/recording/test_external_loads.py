"""External loads: columns found by name, wrenches kept whatever the point of application says."""

from __future__ import annotations

import numpy as np
import pytest

from nms_gym.errors import InputError
from nms_gym.recording.external_loads import ExternalLoads, read_external_loads
from nms_gym.recording.storage import write_table

XML = """<?xml version="1.0" encoding="UTF-8" ?>
<OpenSimDocument Version="40000"><ExternalLoads name="loads"><objects>
<ExternalForce name="right"><applied_to_body>/bodyset/calcn_r</applied_to_body>
<force_expressed_in_body>ground</force_expressed_in_body><point_expressed_in_body>/ground</point_expressed_in_body>
<force_identifier>r_v</force_identifier><point_identifier>r_p</point_identifier>
<torque_identifier>r_m</torque_identifier></ExternalForce>
<ExternalForce name="twist"><applied_to_body>hand</applied_to_body><force_identifier /><point_identifier />
<torque_identifier>t_</torque_identifier></ExternalForce>
<ExternalForce name="off"><isDisabled>true</isDisabled><applied_to_body>head</applied_to_body></ExternalForce>
</objects><datafile>loads.mot</datafile></ExternalLoads></OpenSimDocument>
"""
# z before y: columns go by the end of their names, not by their place.
LABELS = ("r_vx", "r_vz", "r_vy", "r_px", "r_py", "r_pz", "r_mx", "r_my", "r_mz", "t_1", "t_2", "t_3")


@pytest.fixture
def folder(tmp_path):
    time = 0.01 * np.arange(101)
    contact = (time > 0.3) & (time < 0.7)
    push = np.where(contact, np.sin(np.pi * (time - 0.3) / 0.4) ** 2, 0.0)
    zero = 0 * time
    data = [50 * push, -20 * push, 700 * push, np.where(contact, 0.1 + 0.2 * time, 300.0), zero]
    data += [np.where(contact, -0.1, -500.0), zero, 3 * push, zero, 1 + zero, 2 * time, 3 * time]
    write_table(tmp_path / "loads.mot", LABELS, time, np.stack(data, axis=1))
    (tmp_path / "loads.xml").write_text(XML)
    return tmp_path


def moment(loads):
    """About the ground's origin."""
    return np.cross(loads.point, loads.force) + loads.torque


def test_columns_are_found_by_name(folder):
    loads = read_external_loads(folder / "loads.xml")
    assert loads.bodies == ("calcn_r", "hand")
    np.testing.assert_allclose(loads.force[50, 0], [50, 700, -20])
    np.testing.assert_allclose(loads.point[50, 0], [0.2, 0, -0.1])
    np.testing.assert_allclose(loads.torque[50], [[0, 3, 0], [1, 1, 1.5]])
    np.testing.assert_array_equal(loads.force[:, 1], 0)
    assert loads.on(["hand"]).bodies == ("hand",)
    np.testing.assert_array_equal(loads.on(["hand"]).torque[:, 0], loads.torque[:, 1])


def test_the_wrench_survives_points_that_mean_nothing(folder):
    loads = read_external_loads(folder / "loads.xml")
    same = loads.at(loads.time)
    np.testing.assert_allclose(same.force, loads.force, atol=1e-9)
    np.testing.assert_allclose(moment(same), moment(loads), atol=1e-9)
    # Where the foot is loaded the point is the recorded one, elsewhere it stays near the foot.
    np.testing.assert_allclose(same.point[40:60, 0], loads.point[40:60, 0], atol=1e-12)
    assert np.abs(same.point).max() < 0.3
    assert np.abs(loads.point).max() > 400
    # Between samples nothing of those hundreds of metres leaks into the moment: the torque stays that of the plate.
    between = loads.at(np.linspace(0, 1, 777))
    assert np.abs(between.torque[:, 0]).max() < 3.01
    expected = np.interp(0.495, loads.time, 700 * np.sin(np.pi * (loads.time - 0.3) / 0.4) ** 2)
    assert loads.at(np.array([0.495, 0.5])).force[0, 0, 1] == pytest.approx(expected, rel=1e-2)


def test_low_pass_is_zero_lag_and_keeps_the_impulse(folder):
    loads = read_external_loads(folder / "loads.xml")
    smooth = loads.at(loads.time, cutoff=3.0)
    assert np.argmax(smooth.force[:, 0, 1]) == np.argmax(loads.force[:, 0, 1])
    assert smooth.force[:, 0, 1].max() < 0.98 * loads.force[:, 0, 1].max()
    np.testing.assert_allclose(smooth.force.sum(axis=0), loads.force.sum(axis=0), rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(moment(smooth).sum(axis=0), moment(loads).sum(axis=0), rtol=2e-3, atol=0.3)


def test_a_load_that_never_acts_and_a_short_table():
    time = np.array([0.0, 0.1])
    zero = np.zeros((2, 1, 3))
    loads = ExternalLoads("x", ("foot",), time, zero, zero + 99.0, zero + 1.0)
    middle = loads.at(np.array([0.05, 0.06]))
    np.testing.assert_array_equal(middle.point, 0)
    np.testing.assert_allclose(middle.torque, 1)


def _swap(old, new):
    return lambda text: text.replace(old, new)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_swap("<force_expressed_in_body>ground", "<force_expressed_in_body>calcn_r"), "'right': <force_expressed_in"),
        (_swap("/ground<", "/bodyset/toes<"), "<point_expressed_in_body> is 'toes'; only loads expressed in ground"),
        (_swap("r_v<", "r_w<"), "'right': <force_identifier> is 'r_w'.*three such columns, ending in x, y and z"),
        (_swap("r_v<", "r_<"), "<force_identifier> is 'r_'.*found 'r_vx', 'r_vz'"),
        (_swap("<point_identifier>r_p", "<point_identifier>"), "'right' has a <force_identifier> alone"),
        (_swap("<torque_identifier>t_", "<torque_identifier>"), "'twist' has neither a <force_identifier> nor"),
        (_swap("<applied_to_body>hand", "<applied_to_body>"), "'twist' has no <applied_to_body>"),
        (_swap("<datafile>loads.mot", "<datafile>"), "names no <datafile>"),
        (_swap("loads.mot", "lost.mot"), "lost.mot: no such file; did you mean 'loads.mot'"),
        (_swap("ExternalForce", "PrescribedForce"), "no enabled <ExternalForce>"),
        (_swap("ExternalLoads", "Model"), "no <ExternalLoads> inside"),
        (_swap("</objects>", ""), "not a usable XML file"),
    ],
)
def test_refusals(folder, change, message):
    (folder / "changed.xml").write_text(change(XML))
    with pytest.raises(InputError, match=message):
        read_external_loads(folder / "changed.xml")


def test_more_refusals(folder):
    with pytest.raises(InputError, match=r"none\.xml: cannot read the external loads"):
        read_external_loads(folder / "none.xml")
    loads = read_external_loads(folder / "loads.xml", folder / "loads.mot")
    with pytest.raises(InputError, match=r"covers 0 to 1 s, but loads are needed from -0\.1 to 0\.5 s"):
        loads.at(np.array([-0.1, 0.5]))
    with pytest.raises(InputError, match="cut-off 60 Hz"):
        loads.at(loads.time, cutoff=60.0)


def test_recorded_ground_reaction(data):
    loads = read_external_loads(data("rajagopal_walk") / "original" / "grf_walk.xml")
    assert loads.bodies == ("calcn_r", "calcn_l")
    assert np.abs(loads.point).max() > 100
    at = loads.at(0.01 * np.arange(238))
    assert np.abs(at.point).max() < 3
    assert np.abs(at.torque).max() < 10
    # One body weight (85.27 kg) on average over a step, from left to right foot strike.
    step = (at.time > 0.836) & (at.time < 1.4115)
    assert at.force[step, :, 1].sum(axis=1).mean() == pytest.approx(85.27 * 9.81, rel=0.05)


def replaced(folder, old, new):
    path = folder / "loads.xml"
    path.write_text(path.read_text().replace(old, new))
    return path


@pytest.mark.parametrize(
    "name", [r"C:\Users\anyone\trial 3\loads.mot", r"\\server\lab\loads.mot", "/not/there/loads.mot", r".\loads.mot"]
)
def test_a_path_of_another_computer_is_the_file_beside(folder, name):
    expected = read_external_loads(folder / "loads.xml")
    loads = read_external_loads(replaced(folder, "loads.mot", name))
    np.testing.assert_array_equal(loads.force, expected.force)


def test_a_missing_table_is_named(folder):
    path = replaced(folder, "loads.mot", r"C:\data\other.mot")
    with pytest.raises(InputError, match=r"other\.mot"):
        read_external_loads(path)


def with_gaps(folder, rows, columns, gap):
    """The table with ``gap`` in these rows and columns."""
    lines = (folder / "loads.mot").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("time")) + 1
    for row in rows:
        cells = lines[start + row].split("\t")
        for column in columns:
            cells[1 + LABELS.index(column)] = gap
        lines[start + row] = "\t".join(cells)
    (folder / "loads.mot").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("gap", ["NaN", "", "-nan(ind)", "1.#QNAN"])
def test_points_may_lack_where_there_is_no_force(folder, gap):
    expected = read_external_loads(folder / "loads.xml")
    unloaded = np.flatnonzero(~expected.force[:, 0].any(axis=1))
    with_gaps(folder, unloaded, ("r_px", "r_py", "r_pz", "r_my"), gap)
    loads = read_external_loads(folder / "loads.xml")
    assert np.isfinite(loads.point).all()
    np.testing.assert_array_equal(loads.torque[unloaded, 0], 0)
    np.testing.assert_allclose(moment(loads.at(loads.time)), moment(expected.at(loads.time)), atol=1e-9)


def test_points_may_not_lack_under_force(folder):
    with_gaps(folder, [50], ("r_px",), "NaN")
    with pytest.raises(InputError, match=r"'right': the point of application is no number at 0\.5 s.*702"):
        read_external_loads(folder / "loads.xml")


@pytest.mark.parametrize("column", ["r_vy", "t_2"])
def test_forces_and_lone_torques_may_not_lack(folder, column):
    with_gaps(folder, [3], (column,), "NaN")
    with pytest.raises(InputError, match=rf"time 0\.03 s\), column '{column}'"):
        read_external_loads(folder / "loads.xml")
