"""Tables are read as written, whatever their header looks like, and bad ones are refused with the place named."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import load_arrays

from nms_gym.errors import InputError
from nms_gym.recording.storage import (
    UnitsWarning,
    coordinate_name,
    read_coordinates,
    read_labels,
    read_moments,
    read_table,
    write_table,
)

ROWS = "0.0\t1.5\t-2\n0.1\t2.5\t3e-2\n"
VALUES = np.array([[1.5, -2.0], [2.5, 0.03]])


@pytest.fixture
def write(tmp_path):
    def _write(text, name="table.sto"):
        path = tmp_path / name
        path.write_bytes(text.encode("utf-8"))
        return path

    return _write


@pytest.mark.parametrize(
    ("text", "name", "degrees"),
    [
        ("a\nnRows=2\nnColumns=3\ninDegrees=yes\nendheader\ntime\tp\tq\n" + ROWS, "a.mot", True),
        ("inDegrees=no\n\n\nversion=1\nname\n\nendheader\n\ntime\tp\tq\n" + ROWS, "a.sto", False),
        ("x\nnRows=99\nnColumns=7\nIn_Degrees = Yes\nENDHEADER\ntime\tp\tq\n" + ROWS, "a.sto", True),
        ("x\nendheader\ntime\t  p\t q\t\n0.0\t  1.5\t  -2\t\n0.1   2.5\t3e-2\t\n", "a.sto", False),
        (
            "Coordinates\ndatacolumns 3\nAngles are in degrees.\nendheader\n time  p  q\n 0 1.5 -2\n 0.1 2.5 3e-2\n",
            "a.mot",
            True,
        ),
        ("inDegrees=no\nAngles are in degrees.\nendheader\ntime\tp\tq\n" + ROWS, "a.mot", False),
        ("x\r\nendheader\r\ntime\tp\tq\r\n" + ROWS.replace("\n", "\r\n"), "a.sto", False),
        ("time,p,q\n0.0,1.5,-2\n0.1,2.5,3e-2\n", "a.csv", False),
        ("# made elsewhere\np;Time;q\n1,5;0,0;-2\n2,5;0,1;3e-2\n", "a.csv", False),
        ('\ufeff"time","p","q"\n0.0,1.5,-2,\n0.1,2.5,3e-2,\n\n', "a.csv", False),
        ("time p q\n" + ROWS, "a.txt", False),
    ],
)
def test_header_and_layout_variants(write, text, name, degrees):
    table = read_table(write(text, name))
    assert table.labels == ("p", "q")
    np.testing.assert_array_equal(table.time, [0.0, 0.1])
    np.testing.assert_array_equal(table.data, VALUES)
    assert table.in_degrees is degrees


def test_labels_with_blanks_between_tabs(write):
    table = read_table(write("endheader\ntime\tleft soleus\tq\n" + ROWS))
    assert table.labels == ("left soleus", "q")


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("endheader\ntime\tp\tq\n0\t1\t2\n0.1\tnan\t2\n", ["line 4", "time 0.1 s", "'p'", "'nan'"]),
        ("endheader\ntime\tp\tq\n0\t1\t2\n0.1\t1\tabc\n", ["line 4", "'q'", "'abc'"]),
        ("endheader\ntime\tp\tq\n0\t1\t2\n0.1\t\t2\n", ["line 4", "'p'", "''"]),
        ("endheader\ntime\tp\tq\n0\t1\tinf\n", ["line 3", "'q'", "'inf'"]),
        ("endheader\ntime\tp\tq\nx\t1\t2\n", ["line 3", "'time'", "'x'"]),
        ("h\nendheader\ntime\tp\n0.2\t1\n0.1\t1\n", ["runs backwards", "0.2 s in line 4", "0.1 s in line 5"]),
        ("h\nendheader\ntime\tp\n0.2\t1\n0.2\t2\n", ["repeats", "0.2 s in line 4"]),
        ("endheader\ntime\tp\tq\n0\t1\t2\n0.1\t1\n", ["line 4 has 2 cells", "3 labels"]),
        ("endheader\ntime\tp\tq\n", ["empty"]),
        ("h\nendheader\n\n", ["empty"]),
        ("", ["empty"]),
        ("endheader\nframe\tp\n1\t2\n", ["no column 'time'", "'frame'"]),
        ("frame,p\n1,2\n", ["endheader", "time"]),
        ("inDegrees=maybe\nendheader\ntime\tp\n1\t2\n", ["inDegrees=maybe", "inDegrees=yes"]),
        ("DataType=Vec3\nendheader\ntime\tp\n1\t2\n", ["DataType=vec3"]),
    ],
)
def test_bad_tables_name_the_place(write, text, fragments):
    path = write(text)
    with pytest.raises(InputError) as error:
        read_table(path)
    for fragment in [path.name, *fragments]:
        assert fragment in str(error.value)


def test_missing_file_lists_its_neighbours(write):
    path = write("endheader\ntime\tp\n0\t1\n", "walk01_ik.mot")
    with pytest.raises(InputError, match=r"walk1_ik\.mot: no such file; did you mean 'walk01_ik\.mot'"):
        read_table(path.with_name("walk1_ik.mot"))
    with pytest.raises(InputError, match="folder"):
        read_table(path.parent / "nowhere" / "a.sto")


def test_binary_file_is_refused(tmp_path):
    path = tmp_path / "a.sto"
    np.savez(path.with_suffix(".npz"), a=np.zeros(3))
    path.with_suffix(".npz").rename(path)
    with pytest.raises(InputError, match="not a text table"):
        read_table(path)


def test_unneeded_columns_may_have_gaps(write):
    path = write("endheader\ntime\tp\tq\n0\t1\tnan\n0.1\t2\t3\n")
    np.testing.assert_array_equal(read_table(path, columns=["p"]).data[:, 0], [1, 2])
    assert read_labels(path) == ("p", "q")


def test_columns_are_found_by_short_and_full_name(write):
    labels = (
        "/jointset/hip_r/hip_flexion_r/value",
        "/jointset/hip_r/hip_flexion_r/speed",
        "/forceset/soleus_r/activation",
        "knee",
        "twice",
        "twice",
    )
    table = read_table(write("endheader\ntime\t" + "\t".join(labels) + "\n0\t1\t2\t3\t4\t5\t6\n"))
    expected = {"hip_flexion_r": 1, "hip_flexion_r/speed": 2, "soleus_r": 3, "knee": 4, labels[1]: 2}
    for name, value in expected.items():
        assert table.column(name)[0] == value
    np.testing.assert_array_equal(table.select(["knee", "hip_flexion_r"]), [[4, 1]])
    assert coordinate_name(labels[0]) == "hip_flexion_r"
    with pytest.raises(InputError, match="did you mean 'hip_flexion_r'"):
        table.column("hip_flexion_l")
    with pytest.raises(InputError, match="several columns"):
        table.column("twice")


def test_written_table_reads_back_bit_for_bit(tmp_path):
    rng = np.random.default_rng(1)
    time, data = (
        np.cumsum(rng.uniform(0.001, 0.02, 50)),
        rng.standard_normal((50, 3)) * 10.0 ** rng.integers(-300, 300, (50, 3)),
    )
    write_table(tmp_path / "a.sto", ["a", "b c", "/d/e/value"], time, data, in_degrees=True)
    table = read_table(tmp_path / "a.sto")
    assert table.labels == ("a", "b c", "/d/e/value")
    assert table.in_degrees
    np.testing.assert_array_equal(table.time, time)
    np.testing.assert_array_equal(table.data, data)
    assert [p.name for p in tmp_path.iterdir()] == ["a.sto"]


def test_refused_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.sto"
    write_table(path, ["a"], np.array([0.0]), np.array([[1.0]]))
    before = path.read_bytes()
    for bad in (
        (["a"], [0.0], [[np.nan]]),
        (["a", "b"], [0.0], [[1.0]]),
        (["a\tb"], [0.0], [[1.0]]),
        (["a"], [0.0, 0.0], [[1.0], [1.0]]),
        (["a", "a"], [0.0], [[1.0, 1.0]]),
    ):
        with pytest.raises(InputError):
            write_table(path, bad[0], np.array(bad[1]), np.array(bad[2]))
    with pytest.raises(InputError, match="does not exist"):
        write_table(tmp_path / "no" / "a.sto", ["a"], np.array([0.0]), np.array([[1.0]]))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.sto"]


def test_degrees_mistaken_for_radians(write):
    body = "endheader\ntime\tknee\tpelvis_tx\n0\t5\t40\n0.1\t60\t50\n"
    for head, says in (("", "does not say"), ("inDegrees=no\n", "says radians")):
        path = write(head + body)
        with pytest.raises(InputError) as error:
            read_coordinates(path, ["knee", "pelvis_tx"])
        for fragment in (path.name, "'knee'", "60", says, "inDegrees=yes"):
            assert fragment in str(error.value)
    read_coordinates(write(body), ["knee"], translations=["knee"])
    assert read_coordinates(write(body), ["knee"], check_units=False).data[1, 0] == 60
    right = read_coordinates(write("inDegrees=yes\n" + body), ["pelvis_tx", "knee"])
    np.testing.assert_allclose(right.data, [[40, np.radians(5)], [50, np.radians(60)]], rtol=1e-15)
    assert not right.in_degrees


def test_radians_mistaken_for_degrees_warn(write):
    path = write("inDegrees=yes\nendheader\ntime\thip\tknee\n0\t0.3\t1\n0.1\t-0.2\t0.1\n")
    with pytest.warns(UnitsWarning, match="inDegrees=no"):
        read_coordinates(path, ["hip", "knee"])


def test_moments_by_coordinate_name(write):
    path = write("endheader\ntime\tknee_moment\tpelvis_tx_force\thip\tother\n0\t1\t2\t3\tnan\n")
    table = read_moments(path, ["hip", "knee", "pelvis_tx"])
    assert table.labels == ("hip", "knee", "pelvis_tx")
    np.testing.assert_array_equal(table.data, [[3, 1, 2]])
    with pytest.raises(InputError, match="no moment of 'ankle'"):
        read_moments(path, ["ankle"])


@pytest.mark.parametrize("trial", ["walk36_0-30s", "walk45_0-30s"])
def test_recorded_tables_match_arrays(data, trial):
    """The arrays beside the files were made from them independently of this reader."""
    folder = data("ceinms_rt_lowerlimb")
    arrays = load_arrays(folder / f"{trial}.npz")
    dofs = [str(name) for name in arrays["dofs"]]
    original = folder / "original" / trial
    q = read_coordinates(original / "ik.sto", dofs)
    np.testing.assert_allclose(q.data, arrays["q_raw"], atol=1e-6)
    np.testing.assert_allclose(q.time, arrays["time"], atol=1e-9)
    np.testing.assert_allclose(read_moments(original / "id.sto", dofs).data, arrays["id_raw"], rtol=1e-6)
    emg = read_table(original / "emgFilt.sto")
    channels = [str(name) for name in arrays["emg_channels"]]
    np.testing.assert_allclose(emg.select(channels), arrays["emg"], atol=1e-6)


def test_path_labels_and_the_column_in_degrees(data):
    path = data("rajagopal_walk") / "original" / "coordinates.sto"
    columns = path.read_text().split("endheader")[1].split("\n", 2)[1].split("\t")
    raw = np.loadtxt(path, skiprows=9)
    q = read_coordinates(path, ["knee_angle_r", "hip_flexion_r", "pelvis_ty"])
    for i, label in enumerate(
        (
            "/jointset/walker_knee_r/knee_angle_r/value",
            "/jointset/hip_r/hip_flexion_r/value",
            "/jointset/ground_pelvis/pelvis_ty/value",
        )
    ):
        np.testing.assert_array_equal(q.data[:, i], raw[:, columns.index(label)])
    with pytest.raises(InputError, match="knee_angle_r_beta"):
        read_coordinates(path, ["knee_angle_r", "knee_angle_r_beta"])


def test_digitised_experiment_is_read(data):
    folder = data("truth_muscle") / "experimental_rat_soleus"
    for name, rows in (("displacement.dat", None), ("force_trial5.dat", 145), ("force_trial1.dat", 65)):
        text = (folder / name).read_text().split("endheader\n")[1].splitlines()
        expected = np.array([[float(cell) for cell in line.split()] for line in text[1:] if line.strip()])
        table = read_table(folder / name)
        np.testing.assert_array_equal(np.column_stack([table.time, table.data]), expected)
        assert rows is None or len(table.time) == rows
