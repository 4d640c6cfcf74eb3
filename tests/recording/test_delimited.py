"""Tables as laboratories' programs export them: units, encodings, a time for every channel, frames and sub-frames."""

from __future__ import annotations

import numpy as np
import pytest

from nms_gym.errors import InputError
from nms_gym.recording.delimited import time_scale
from nms_gym.recording.storage import TableWarning, read_coordinates, read_labels, read_table, read_tables

ROWS = "0.0,1.5,-2\n0.1,2.5,3e-2\n"
VALUES = np.array([[1.5, -2.0], [2.5, 0.03]])


@pytest.fixture
def write(tmp_path):
    def _write(text, name="table.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return _write


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
@pytest.mark.parametrize("unit", ["uV", "µV"])
def test_encodings_say_the_same(write, encoding, unit):
    table = read_table(write(f"time,p [{unit}],q\n" + ROWS, encoding=encoding))
    assert table.labels == (f"p [{unit}]", "q")
    assert table.units == (unit, "")
    np.testing.assert_array_equal(table.data, VALUES)
    np.testing.assert_array_equal(table.column("p"), VALUES[:, 0])


def test_letters_of_windows_are_no_line_breaks(write):
    assert read_labels(write("time,p…,q\n" + ROWS, encoding="cp1252")) == ("p…", "q")


@pytest.mark.parametrize(
    ("text", "time", "units"),
    [
        ("time,p,q\ns,uV,uV\n" + ROWS, [0, 0.1], ("uV", "uV")),
        ("time,p,q\n[s],[mV],\n" + ROWS, [0, 0.1], ("mV", "")),
        ("time,p,q\nms,V,V\n" + ROWS, [0, 1e-4], ("V", "V")),
        ("time,p,q\n,N,N·m\n" + ROWS, [0, 0.1], ("N", "N·m")),
        ("time,p,q\nEMG,EMG,ACC\ns,V,g\n" + ROWS, [0, 0.1], ("V", "g")),
        ("Time (ms),p,q\n" + ROWS, [0, 1e-4], ()),
        ('"Time, s","p (V)","q, left"\n' + ROWS, [0, 0.1], ("V", "")),
        ("a;time;q\nV;s;V\n".replace("a", "p") + "1,5;0,0;-2\n2,5;0,1;0,03\n", [0, 0.1], ("V", "V")),
        ("time\tp\tq\ns\tV\tV\n0,0\t1,5\t-2\n0,1\t2,5\t0,03\n", [0, 0.1], ("V", "V")),
        ('time,p,q\n"0,0","1,5","-2"\n"0,1","2,5","0,03"\n', [0, 0.1], ()),
        ('time,"p\n(V)",q\n' + ROWS, [0, 0.1], ("V", "")),
        ("Start time: 10:03, Monday\nSubject, left\n\ntime,p,q\n" + ROWS, [0, 0.1], ()),
        ('"time" "left p" "q"\n0 1.5 -2\n0.1 2.5 3e-2\n', [0, 0.1], ()),
    ],
)
def test_labels_and_units_of_many_programs(write, text, time, units):
    table = read_table(write(text))
    np.testing.assert_allclose(table.time, time, rtol=1e-12)
    np.testing.assert_array_equal(table.data, VALUES)
    assert table.units == units


def test_an_unknown_unit_of_time_is_refused(write):
    with pytest.raises(InputError, match=r"line 2 looks like a row of units.*'frames'"):
        read_table(write("time,p,q\nframes,V,V\n" + ROWS))


def test_words_instead_of_numbers_are_still_refused(write):
    with pytest.raises(InputError, match=r"line 3 .*column 'p': found 's'"):
        read_table(write("time,p,q\n0.0,1,2\n0.1,s,2\n"))
    with pytest.raises(InputError, match="line 2, column 'time': found 'NaN'"):
        read_table(write("time,p,q\nNaN,NaN,NaN\n" + ROWS))
    with pytest.raises(InputError, match="no row follows the labels and units"):
        read_table(write("time,p,q\ns,V,V\n"))


def test_units_row_in_degrees_counts(write):
    table = read_coordinates(write("time,knee,hip\ns,deg,deg\n0,10,20\n0.1,40,60\n"), ["knee", "hip"])
    np.testing.assert_allclose(table.data, np.radians([[10, 20], [40, 60]]))


def test_a_row_that_repeats_the_one_before_is_left_out(write):
    text = "time,p,q\n0,1,2\n0.1,3,4\n0.10,3.0,4\n0.1,3,4\n0.2,5,6\n0.2,5,6\n"
    with pytest.warns(TableWarning, match=r"line 4, 5, 7 repeats"):
        table = read_table(write(text))
    np.testing.assert_array_equal(table.time, [0, 0.1, 0.2])
    np.testing.assert_array_equal(table.data, [[1, 2], [3, 4], [5, 6]])
    with pytest.raises(InputError, match=r"time repeats: 0\.1 s in line 3, then 0\.1 s in line 4"):
        read_table(write("time,p\n0,1\n0.1,3\n0.1,4\n"))


DELSYS = """Label: trial 7
Sampling frequency: 1925.926
X [s],"SOL: EMG 1 [Volts]",X [s],"TA, left: EMG 2 [Volts]",X [s],"SOL: ACC.X 1 [G]"
0,0.1,0,0.3,0,0.91
0.0005,0.2,0.0005,0.4,0.007,0.92
0.001,-0.1,0.001,0.2,0.014,0.93
0.0015,-0.2,0.0015,0.1,{end}
"""


@pytest.mark.parametrize("end", [",", "", "0,0"])
def test_channels_with_times_of_their_own(write, end):
    path = write(DELSYS.format(end=end))
    emg, acceleration = read_tables(path)
    assert emg.labels == ("SOL: EMG 1 [Volts]", "TA, left: EMG 2 [Volts]")
    np.testing.assert_allclose(emg.time, [0, 0.0005, 0.001, 0.0015])
    np.testing.assert_allclose(emg.data[:, 1], [0.3, 0.4, 0.2, 0.1])
    np.testing.assert_allclose(acceleration.time, [0, 0.007, 0.014])
    np.testing.assert_allclose(acceleration.data[:, 0], [0.91, 0.92, 0.93])
    assert acceleration.units == ("G",)
    np.testing.assert_array_equal(read_table(path, ["SOL: ACC.X 1"]).data, acceleration.data)
    with pytest.raises(InputError, match=r"times of their own: .*every 0\.0005 s; .*every 0\.007 s"):
        read_table(path)


def test_channel_times_under_names_of_the_channels(write):
    labels = ("A EMG 1 Time Series (s)", "A EMG 1 (mV)", "B ACC X Time Series (s)", "B ACC X (G)")
    text = "\t".join(labels) + "\n0\t1\t0\t5\n0.1\t2\t0.2\t6\n0.2\t3\t\t\n"
    emg, acceleration = read_tables(write(text, "a.txt"))
    np.testing.assert_array_equal(emg.data[:, 0], [1, 2, 3])
    np.testing.assert_allclose(acceleration.time, [0, 0.2])


def test_the_first_channel_may_be_the_shorter_one(write):
    for mark in ",\t":
        text = mark.join(("X [s]", "a", "X [s]", "b")) + f"\n0{mark}1{mark}0{mark}4\n{mark}{mark}0.1{mark}5\n"
        a, b = read_tables(write(text))
        assert len(a.time) == 1
        np.testing.assert_array_equal(b.data[:, 0], [4, 5])


def test_channels_that_end_a_sample_apart_are_read_together(write):
    rows = [f"{t / 100},{t},{t / 100},{-t}" for t in range(50)]
    rows[-1] = "0.49,49,,"
    path = write("X [s],a,X [s],b\n" + "\n".join(rows) + "\n")
    with pytest.warns(TableWarning, match="first 49"):
        table = read_table(path, ["b", "a"])
    np.testing.assert_array_equal(table.data, [[-t, t] for t in range(49)])


NEXUS = """Devices
2000
,,Imported Plate #1 - Force,,,Imported Plate #2 - Force,,,Trigno - EMG
Frame,Sub Frame,Fx,Fy,Fz,Fx,Fy,Fz,Soleus
,,N,N,N,N,N,N,V
{rows}

Trajectories
100
,,p1:LASI,,,p1:RASI
Frame,Sub Frame,X,Y,Z,X,Y,Z
,,mm,mm,mm,mm,mm,mm
11,0,1,2,3,4,5,6
12,0,1,2,3,,,
"""


def test_frames_and_sub_frames(write):
    rows = "\n".join(f"{11 + i // 20},{i % 20},1,2,{i},4,5,6,{i / 8}" for i in range(40))
    path = write(NEXUS.format(rows=rows))
    devices = read_table(path, ["Soleus", "Imported Plate #1 - Force/Fz"])
    np.testing.assert_allclose(devices.time, 0.1 + np.arange(40) / 2000, rtol=1e-12)
    np.testing.assert_array_equal(devices.data, [[i / 8, i] for i in range(40)])
    assert devices.units == ("V", "N")
    with pytest.raises(InputError, match="several columns"):
        read_table(path, ["Fz"])
    markers = read_table(path, ["p1:LASI/Z"])
    np.testing.assert_allclose(markers.time, [0.1, 0.11])
    with pytest.raises(InputError, match=r"line 53 .*p1:RASI/X"):
        read_table(path, ["p1:RASI/X"])
    assert np.isnan(read_tables(path, may_lack=True)[1].data[1, 3:]).all()
    broken = NEXUS.replace("2000\n", "").format(rows=rows)
    with pytest.raises(InputError, match="no sampling rate"):
        read_table(write(broken), ["Soleus"])


def test_a_time_for_each_channel_with_decimal_commas(write):
    emg, _ = read_tables(write("X [s];a;X [s];b\n0,000;1,5;0,0;7,5\n0,001;2,5;0,5;8,5\n0,002;3,5;;\n"))
    np.testing.assert_allclose(emg.time, [0, 0.001, 0.002])
    np.testing.assert_allclose(emg.data[:, 0], [1.5, 2.5, 3.5])


def test_columns_of_words_beside_the_numbers(write):
    path = write("time,Activity,p,Marker\n0.0,rest,1.5,\n0.1,walk,2.5,\n")
    np.testing.assert_array_equal(read_table(path, ["p"]).data[:, 0], [1.5, 2.5])
    with pytest.raises(InputError, match="column 'Activity': found 'rest'"):
        read_table(path)
    with pytest.warns(TableWarning, match="'Activity' holds words"):
        (table,) = read_tables(path, may_lack=True)
    assert table.labels == ("p", "Marker")


def test_what_is_a_time_label():
    for label in (
        "time",
        "Time",
        "t",
        "TIME (s)",
        "time[s]",
        "X [s]",
        "X[s].1",
        "Time, s",
        "time_s",
        "EMG Time Series (s)",
    ):
        assert time_scale(label) == 1.0, label
    assert time_scale("time (ms)") == 1e-3
    for label in ("frame", "x", "knee (s)", "event", "time of flight (m)", "t" * 10**6):
        assert time_scale(label) is None


@pytest.mark.parametrize(
    "cell", ["9" * 200_000, "x" * 200_000, '"' + "9" * 200_000, "1" * 400], ids=["digits", "letters", "quote", "400"]
)
def test_a_huge_cell_is_refused_in_a_short_message(write, cell):
    with pytest.raises(InputError) as error:
        read_table(write(f"time,a\n0,{cell}\n0.1,2\n"))
    assert len(str(error.value)) < 1000
    with pytest.raises(InputError) as error:
        read_table(write(f"time,{cell}\n0,1\n0.1,2\n"), ["b" * 100_000])
    assert len(str(error.value)) < 3000


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(InputError, match="this is a folder"):
        read_table(tmp_path)
