"""Tables become one checked trial; what does not belong together is refused by name."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
from helpers import load_arrays

from nms_gym.errors import InputError
from nms_gym.recording.arrays import read_arrays
from nms_gym.recording.muscle_analysis import MuscleAnalysis, read_muscle_analysis
from nms_gym.recording.storage import Table, read_coordinates, read_moments, read_table
from nms_gym.recording.trial import check_trial, load_trial, make_trial

OPENSIM = {
    "time": "time",
    "coordinates": "dofs",
    "q": "q",
    "qd": "qd",
    "channels": "emg_channels",
    "emg": "emg",
    "moments": "id",
    "muscles": "muscles",
    "lengths": "lmt",
    "velocities": "vmt",
    "moment_arms": "ma",
    "moment_arm_axes": "time,muscle,coordinate",
}
NMSM = {
    **{role: key for role, key in OPENSIM.items() if role != "qd"},
    "channels": "emg_names",
    "emg_time": "emg_time",
    "moments": "id_moment",
    "moment_arms": "moment_arm",
    "moment_arm_axes": "time, coordinate, muscle",
}
SIDED = ("coordinates", "q", "qd", "moments", "muscles", "lengths", "velocities", "moment_arms")
RAJAGOPAL = {
    **{role: f"{key}_r" if role in SIDED else key for role, key in OPENSIM.items()},
    "emg_time": "emg_time",
}
RECORDINGS = {
    "ceinms_rt_lowerlimb/walk36_0-30s.npz": (OPENSIM, 1e-6),
    "rajagopal_walk/walk.npz": (RAJAGOPAL, 0.1),  # the toe joint moves but is not among the five coordinates
    "elbow_synthetic/train_1.npz": ({**OPENSIM, "moments": "moment"}, 1e-12),
    "arm26_elbow/elbow_flex.npz": ({k: v for k, v in OPENSIM.items() if k not in ("channels", "emg")}, 1e-12),
    "nmsm_multi_trial/speed1_cycle1.npz": (NMSM, 2e-4),
    "stroke_gait_left/gait.npz": (NMSM, 0.1),
    "uf3_right_leg/gait.npz": (NMSM, 0.6),  # three of the coordinates these muscles cross
}


def signals(t):
    """Angles of two joints, their derivative, and two muscles with constant moment arms (3 and -2, 0 and 4 cm)."""
    q = np.column_stack([0.5 * np.sin(3 * t), 0.8 + 0.3 * np.cos(5 * t)])
    qd = np.column_stack([1.5 * np.cos(3 * t), -1.5 * np.sin(5 * t)])
    arms = np.array([[0.03, 0.0], [-0.02, 0.04]])  # (coordinate, muscle)
    return q, qd, arms


def parts(step=0.01, stop=2.0):
    t = np.arange(0.0, stop + step / 2, step)
    q, _, arms = signals(t)
    e = np.arange(-0.25, stop + 0.05, 0.002)
    return {
        "kinematics": Table("ik.mot", ("hip", "knee"), t, q),
        "emg": Table("emg.sto", ("TA", "SOL"), e, 0.5 + 0.4 * np.column_stack([np.sin(4 * e), np.cos(4 * e)])),
        "moments": Table("id.sto", ("knee", "hip"), t, np.column_stack([30 * np.sin(t), 10 * np.cos(t)])),
        "geometry": MuscleAnalysis(
            "ma", t, ("soleus", "tibant"), ("hip", "knee"), 0.3 - q @ arms, None, np.broadcast_to(arms, (len(t), 2, 2))
        ),
    }


@pytest.mark.parametrize("name", RECORDINGS)
def test_arrays_of_every_recording(data, name):
    folder, file = name.split("/")
    path = data(folder) / file
    keys, mismatch = RECORDINGS[name]
    trial = make_trial(name, **vars(read_arrays(path, keys)))
    stored = load_arrays(path)
    for role, value in (("q", trial.q), ("moments", trial.moments), ("lengths", trial.lengths)):
        np.testing.assert_array_equal(value, stored[keys[role]].astype(float))
    arms = stored[keys["moment_arms"]].astype(float)
    if keys["moment_arm_axes"].startswith("time,muscle"):
        arms = arms.swapaxes(1, 2)
    np.testing.assert_array_equal(trial.moment_arms, arms)
    assert trial.coordinates == tuple(stored[keys["coordinates"]])
    assert all(type(muscle) is str for muscle in trial.muscles)
    if "emg" in keys:
        emg = np.maximum(stored[keys["emg"]].astype(float), 0)[: len(trial.emg)]
        np.testing.assert_array_equal(trial.emg, emg)
        assert trial.emg_time[0] == stored[keys.get("emg_time", "time")][0]
    assert trial.sources == {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    worst = trial.velocity_mismatch()
    assert set(worst) == set(trial.muscles)
    assert max(worst.values()) < mismatch


def test_opensim_files_give_the_filtered_arrays(data):
    """Raw IK, ID and EMG files through our filters, against arrays filtered elsewhere (6 Hz, 2nd order each way)."""
    folder = data("ceinms_rt_lowerlimb")
    stored = load_arrays(folder / "walk36_0-30s.npz")
    dofs = [str(name) for name in stored["dofs"]]
    original = folder / "original" / "walk36_0-30s"
    trial = make_trial(
        "walk36",
        read_coordinates(original / "ik.sto", dofs),
        emg=read_table(original / "emgFilt.sto"),
        moments=read_moments(original / "id.sto", dofs),
        q_cutoff=6.0,
        moment_cutoff=6.0,
    )
    inside = slice(30, -30)
    np.testing.assert_allclose(trial.q[inside], stored["q"][inside], atol=2e-5)
    np.testing.assert_allclose(trial.qd[inside], stored["qd"][inside], atol=1e-3)
    np.testing.assert_allclose(trial.moments[inside], stored["id"][inside], atol=2e-3)
    np.testing.assert_allclose(trial.emg, np.maximum(stored["emg"], 0), atol=1e-6)
    assert trial.emg.min() == 0
    assert sorted(trial.sources) == ["emgFilt.sto", "id.sto", "ik.sto"]


def test_velocities_are_the_derivatives():
    trial = make_trial("t", **parts())
    _, qd, arms = signals(trial.time)
    np.testing.assert_allclose(trial.qd, qd, atol=1e-5)
    np.testing.assert_allclose(trial.velocities, -qd @ arms, atol=1e-6)
    assert trial.moment_coordinates == ("knee", "hip")
    np.testing.assert_allclose(trial.moment_arms[5], arms[::-1], rtol=1e-12)
    assert max(trial.velocity_mismatch().values()) < 1e-5
    scrambled = dataclasses.replace(trial, moment_arms=trial.moment_arms[:, ::-1])
    assert max(scrambled.velocity_mismatch().values()) > 0.01


def test_grid_of_another_step():
    given = parts()
    trial = make_trial("t", **given, dt=0.004)
    assert trial.dt == pytest.approx(0.004)
    q, qd, _ = signals(trial.time)
    np.testing.assert_allclose(trial.q, q, atol=1e-7)
    np.testing.assert_allclose(trial.qd, qd, atol=1e-5)
    np.testing.assert_allclose(trial.moments[:, 0], 30 * np.sin(trial.time), atol=1e-6)
    # 0.04 s steps carry 12.5 Hz: what is faster goes, what is slower stays.
    fast = dataclasses.replace(
        given["moments"], data=given["moments"].data + 5 * np.sin(2 * np.pi * 40 * np.arange(201) / 100)[:, None]
    )
    coarse = make_trial("t", **{**given, "moments": fast}, dt=0.04)
    np.testing.assert_allclose(coarse.moments[5:-5, 0], 30 * np.sin(coarse.time[5:-5]), atol=0.05)


def test_uneven_times_are_interpolated_and_gaps_refused():
    given = parts()
    rng = np.random.default_rng(2)
    t = given["kinematics"].time + np.append(np.append(0, rng.uniform(-0.003, 0.003, 199)), 0)
    uneven = Table("ik.mot", ("hip", "knee"), t, signals(t)[0])
    trial = make_trial("t", **{**given, "kinematics": uneven})
    np.testing.assert_allclose(np.diff(trial.time), trial.dt, rtol=1e-9)
    np.testing.assert_allclose(trial.q, signals(trial.time)[0], atol=1e-5)
    gap = np.delete(np.arange(201), np.arange(50, 70))
    holed = dataclasses.replace(uneven, time=uneven.time[gap], data=uneven.data[gap])
    with pytest.raises(InputError, match=r"ik\.mot: nothing was recorded from 0\.4"):
        make_trial("t", **{**given, "kinematics": holed})


def test_emg_before_the_motion_is_kept():
    trial = make_trial("t", **parts())
    assert trial.emg_time[0] == pytest.approx(-0.25)
    part = trial.window(0.5, 1.0)
    np.testing.assert_allclose(part.time[[0, -1]], [0.5, 1.0], atol=1e-12)
    assert part.emg_time[0] == trial.emg_time[0]
    assert 1.0 < part.emg_time[-1] < 1.01
    np.testing.assert_array_equal(part.q, trial.q[50:101])
    np.testing.assert_array_equal(part.moment_arms, trial.moment_arms[50:101])
    assert trial.window(0.0, 2.0).q.shape == trial.q.shape


@pytest.mark.parametrize("window", [(0.503, 0.508), (1.0, 0.5), (5.0, 6.0), (1.5, 2.5), (-1.0, 1.0)])
def test_empty_and_outside_windows_are_refused(window):
    with pytest.raises(InputError, match=r"'t'.*window.*0 to 2 s"):
        make_trial("t", **parts()).window(*window)


def test_resampled_trial_follows_the_signals():
    trial = make_trial("t", **parts())
    fine = trial.resampled(0.0025)
    q, qd, arms = signals(fine.time)
    np.testing.assert_allclose(fine.q, q, atol=1e-6)
    np.testing.assert_allclose(fine.qd, qd, atol=1e-4)
    np.testing.assert_allclose(fine.lengths, 0.3 - q @ arms, atol=1e-7)
    np.testing.assert_array_equal(trial.resampled(trial.dt).q, trial.q)
    with pytest.raises(InputError, match="dt is 0"):
        trial.resampled(0)


def test_tables_that_cover_other_times(data):
    given = parts()
    short = given["emg"].time < 1.7
    cut = dataclasses.replace(given["emg"], time=given["emg"].time[short], data=given["emg"].data[short])
    with pytest.raises(InputError) as error:
        make_trial("t", **{**given, "emg": cut})
    for fragment in ("emg.sto", "ik.mot", "-0.25 to 1.698 s", "0 to 2 s", "0.302 s at the end", "trim"):
        assert fragment in str(error.value)
    assert make_trial("t", **{**given, "emg": cut}, trim=True).time[-1] == pytest.approx(1.69)

    late = dataclasses.replace(given["moments"], time=given["moments"].time + 0.5)
    with pytest.raises(InputError, match=r"id\.sto covers 0\.5 to 2\.5 s, but ik\.mot 0 to 2 s: 0\.5 s are missing"):
        make_trial("t", **{**given, "moments": late})
    trimmed = make_trial("t", **{**given, "moments": late}, trim=True)
    np.testing.assert_allclose(trimmed.time[[0, -1]], [0.5, 2.0], atol=1e-9)
    np.testing.assert_allclose(trimmed.moments[:, 0], 30 * np.sin(trimmed.time - 0.5), atol=1e-6)
    for name in ("moments", "emg"):
        apart = dataclasses.replace(given[name], time=given[name].time + 10)
        with pytest.raises(InputError, match="overlap"):
            make_trial("t", **{**given, name: apart}, trim=True)
    # Inverse dynamics that starts and ends 0.2 microseconds early costs no sample.
    early = dataclasses.replace(given["moments"], time=given["moments"].time - 2e-7)
    assert len(make_trial("t", **{**given, "moments": early}).time) == 201

    folder = data("rajagopal_walk")
    ik = read_coordinates(folder / "ik_walk_full.mot", ["knee_angle_r"])
    rra = read_moments(folder / "original" / "id_walk.sto", ["knee_angle_r"])
    full = make_trial("t", ik, moments=read_moments(folder / "id_walk_full.sto", ["knee_angle_r"]))
    part = make_trial("t", ik, moments=rra, trim=True, q_cutoff=6.0)
    # Published moments at 1000 Hz, put on the 100 Hz grid, against the arrays resampled elsewhere.
    stored = load_arrays(folder / "walk.npz")
    column = [str(name) for name in stored["dofs_r"]].index("knee_angle_r")
    rows = np.rint(part.time / 0.005).astype(int)
    inside = slice(5, -5)
    expected = stored["id_rra_r"][rows, column]
    np.testing.assert_allclose(part.moments[inside, 0], expected[inside], atol=0.15)  # kinks are rounded off
    assert len(full.time) == 238


def broken(change):
    given = parts()
    change(given)
    return given


def put(part, field, row, value):
    def change(given):
        array = np.array(getattr(given[part], field))
        array[row] = value
        given[part] = dataclasses.replace(given[part], **{field: array})

    return change


def scale(part, field, factor):
    def change(given):
        given[part] = dataclasses.replace(given[part], **{field: getattr(given[part], field) * factor})

    return change


def rename(part, **fields):
    def change(given):
        given[part] = dataclasses.replace(given[part], **fields)

    return change


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        (put("kinematics", "data", (7, 1), np.nan), ["ik.mot", "'knee'", "nan", "0.07 s"]),
        (put("moments", "data", (7, 0), np.nan), ["id.sto", "'knee'", "nan", "0.07 s"]),
        (put("emg", "data", (7, 1), np.inf), ["emg.sto", "'SOL'", "inf"]),
        (put("geometry", "lengths", (7, 1), np.nan), ["'tibant'", "nan"]),
        (put("geometry", "moment_arms", (7, 0, 1), np.nan), ["moment arm", "0.07 s"]),
        (put("kinematics", "time", 7, 0.055), ["ik.mot", "backwards", "0.06 s", "0.055 s"]),
        (put("geometry", "lengths", (7, 1), 0.0), ["'tibant'", "is 0 ", "0.07 s", "above 0"]),
        (put("geometry", "lengths", (7, 0), -0.3), ["'soleus'", "-0.3", "above 0"]),
        (scale("geometry", "lengths", 1000), ["'soleus'", "mm"]),
        (scale("geometry", "moment_arms", 1000), ["ma, moment arms", "'hip'", "'soleus'", "30", "mm"]),
        (scale("moments", "data", 1000), ["id.sto", "'hip'", "10000", "N·mm"]),
        (scale("kinematics", "data", 57.3), ["ik.mot", "'hip'", "degrees"]),
        (scale("kinematics", "time", 1000), ["ik.mot", "milliseconds"]),
        (scale("emg", "data", 100), ["emg.sto", "'TA'", "normalise"]),
        (put("emg", "data", slice(0, 9), -0.4), ["emg.sto", "'TA'", "-0.4", "unrectified", "process_emg"]),
        (rename("kinematics", labels=("hip", "hip")), ["'hip'", "more than once"]),
        (rename("emg", labels=("SOL", "SOL")), ["'SOL'", "more than once"]),
        (rename("geometry", muscles=("soleus", "soleus")), ["'soleus'", "more than once"]),
        (rename("geometry", coordinates=("hip", "ankle")), ["'knee'", "'hip', 'ankle'"]),
        (rename("kinematics", in_degrees=True), ["ik.mot", "read_coordinates"]),
    ],
)
def test_bad_data_are_refused(change, fragments):
    with pytest.raises(InputError) as error:
        make_trial("t", **broken(change))
    for fragment in fragments:
        assert fragment in str(error.value)


def test_bad_settings_are_refused():
    with pytest.raises(InputError, match=r"cut-off 60 Hz.*50 Hz"):
        make_trial("t", **parts(), q_cutoff=60.0)
    for dt in (0.0, -0.01, 5.0):
        with pytest.raises(InputError, match="dt"):
            make_trial("t", **parts(), dt=dt)


def test_small_undershoot_is_clipped():
    given = broken(put("emg", "data", (7, 0), -0.02))
    assert make_trial("t", **given).emg[7, 0] == 0


def test_other_envelopes():
    trial = make_trial("t", **parts())
    time = np.arange(-0.1, 2.01, 0.01)
    other = trial.with_emg(time, np.full((len(time), 1), 0.3), ["GAS"])
    assert other.channels == ("GAS",)
    np.testing.assert_array_equal(other.q, trial.q)
    with pytest.raises(InputError, match="EMG covers"):
        trial.with_emg(time[:100], np.full((100, 1), 0.3), ["GAS"])
    cut = trial.with_emg(time[:100], np.full((100, 1), 0.3), ["GAS"], trim=True)
    assert cut.time[-1] == pytest.approx(0.89)
    with pytest.raises(InputError, match="shape"):
        trial.with_emg(time, np.full((len(time), 1), 0.3))


def test_saved_trial_comes_back(tmp_path):
    trial = dataclasses.replace(make_trial("walk é", **parts()), sources={"ik.mot": "ab12"}, synthetic=True)
    trial.save(tmp_path / "trial.npz")
    again = load_trial(tmp_path / "trial.npz")
    for entry in dataclasses.fields(trial):
        ours, theirs = getattr(trial, entry.name), getattr(again, entry.name)
        if isinstance(ours, np.ndarray):
            np.testing.assert_array_equal(theirs, ours)
            assert theirs.dtype == ours.dtype
        else:
            assert theirs == ours
            assert type(theirs) is type(ours)
    bare = make_trial("t", parts()["kinematics"])
    bare.save(tmp_path / "bare.npz")
    again = load_trial(tmp_path / "bare.npz")
    assert (again.moments, again.lengths, again.channels, again.muscles) == (None, None, (), ())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bare.npz", "trial.npz"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "one"}, "version one"),
        ({"sources": "not json"}, "sources is malformed"),
        ({"time": np.array(1.0)}, "time is malformed"),
        ({"q": np.array([["a", "b"]])}, "q is malformed"),
    ],
)
def test_malformed_entries_are_named(tmp_path, change, message):
    make_trial("t", **parts()).save(tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "t.npz", **{**arrays, **change})
    with pytest.raises(InputError, match=message):
        load_trial(tmp_path / "t.npz")


def test_files_that_are_no_archives_are_refused(tmp_path):
    (tmp_path / "empty.npz").write_bytes(b"")
    with (tmp_path / "array.npz").open("wb") as stream:
        np.save(stream, np.zeros(3))
    make_trial("t", **parts()).save(tmp_path / "whole.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:-200])
    for name in ("empty", "array", "cut"):
        with pytest.raises(InputError, match=f"{name}.npz"):
            load_trial(tmp_path / f"{name}.npz")


def test_unreadable_trial_files_are_refused(tmp_path):
    trial = make_trial("t", **parts())
    with pytest.raises(InputError, match="no such file"):
        load_trial(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_text("not a zip")
    with pytest.raises(InputError, match="not a readable"):
        load_trial(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", q=np.zeros(3))
    with pytest.raises(InputError, match="not a trial file"):
        load_trial(tmp_path / "b.npz")
    trial.save(tmp_path / "c.npz")
    with np.load(tmp_path / "c.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "c.npz", **{**arrays, "version": 99})
    with pytest.raises(InputError, match="version 99"):
        load_trial(tmp_path / "c.npz")
    np.savez(tmp_path / "c.npz", **{k: v for k, v in arrays.items() if k != "qd"})
    with pytest.raises(InputError, match="lacks 'qd'"):
        load_trial(tmp_path / "c.npz")
    np.savez(tmp_path / "c.npz", **{**arrays, "q": arrays["q"] * np.nan})
    with pytest.raises(InputError, match="nan"):
        load_trial(tmp_path / "c.npz")
    with pytest.raises(InputError, match=r"\.npz"):
        trial.save(tmp_path / "trial.pkl")


def test_replaced_fields_must_fit():
    trial = make_trial("t", **parts())
    with pytest.raises(InputError, match=r"qd has shape \(3, 2\); expected \(201, 2\)"):
        dataclasses.replace(trial, qd=np.zeros((3, 2)))
    with pytest.raises(InputError, match="come together"):
        dataclasses.replace(trial, velocities=None)
    assert check_trial(dataclasses.replace(trial, name="other")).name == "other"


# --- muscle analysis --------------------------------------------------------------------------------------------


def test_muscle_analysis_folder(data):
    folder = data("nmsm_multi_trial")
    stored = load_arrays(folder / "speed2_cycle1.npz")
    dofs, muscles = [str(n) for n in stored["dofs"]], [str(n) for n in stored["muscles"]]
    rng = np.random.default_rng(0)
    order, turned = rng.permutation(len(muscles)), rng.permutation(len(dofs))
    geometry = read_muscle_analysis(
        folder / "original", [dofs[i] for i in turned], [muscles[i] for i in order], prefix="speed2_cycle1"
    )
    np.testing.assert_allclose(geometry.lengths, stored["lmt"][:, order], atol=1e-7)
    np.testing.assert_allclose(geometry.velocities, stored["vmt"][:, order], atol=1e-7)
    np.testing.assert_allclose(geometry.moment_arms, stored["moment_arm"][:, turned][:, :, order], atol=1e-7)
    ik = read_coordinates(folder / "original" / "speed2_cycle1_IK.sto", dofs)
    derived = make_trial("t", ik, geometry=dataclasses.replace(geometry, velocities=None))
    np.testing.assert_allclose(derived.velocities[3:-3], geometry.velocities[3:-3], atol=1e-4)
    assert len(derived.sources) == 1 + 2 + len(dofs)


def test_ceinms_names_and_absent_muscles(data):
    folder = data("ceinms_format_example") / "calib"
    geometry = read_muscle_analysis(folder, ["ankle_angle_r", "knee_angle_r"])
    assert len(geometry.muscles) == 12
    assert geometry.velocities is None
    ankle = read_table(folder / "ma_ankle_angle_r.sto")
    for i, muscle in enumerate(geometry.muscles):
        expected = ankle.column(muscle) if muscle in ankle.labels else np.zeros(len(ankle.time))
        np.testing.assert_array_equal(geometry.moment_arms[:, 0, i], expected)


def test_muscle_analysis_errors(data, tmp_path):
    folder = data("nmsm_multi_trial") / "original"
    with pytest.raises(InputError, match="several muscle analyses"):
        read_muscle_analysis(folder, ["knee_angle_l"])
    with pytest.raises(InputError, match="no moment arm file for 'knee_angle_r'; there are files for 'ankle_angle_l'"):
        read_muscle_analysis(folder, ["knee_angle_l", "knee_angle_r"], prefix="speed1")
    with pytest.raises(InputError, match="no muscle 'soleus_r'; did you mean 'soleus_l'"):
        read_muscle_analysis(folder, ["knee_angle_l"], ["soleus_r"], prefix="speed1")
    with pytest.raises(InputError, match="no muscle length file"):
        read_muscle_analysis(tmp_path, ["knee_angle_l"])
    with pytest.raises(InputError, match="no such folder"):
        read_muscle_analysis(tmp_path / "no", ["knee_angle_l"])
    head = "endheader\ntime\tsoleus\n"
    (tmp_path / "a_Length.sto").write_text(head + "0\t0.3\n0.1\t0.3\n")
    (tmp_path / "a_FiberLength.sto").write_text("not read")
    (tmp_path / "a_MomentArm_knee.sto").write_text(head + "0\t0.03\n0.2\t0.03\n")
    with pytest.raises(InputError, match=r"a_MomentArm_knee\.sto: 2 rows from 0 to 0\.2 s.*a_Length\.sto"):
        read_muscle_analysis(tmp_path, ["knee"])


# --- arrays -----------------------------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path):
    t = np.arange(0, 1, 0.01)
    path = tmp_path / "walk.npz"
    np.savez(
        path,
        t=t,
        q=np.zeros((100, 2)),
        names=np.array(["hip", "knee"]),
        l=np.full((100, 3), 0.3),
        r=np.zeros((100, 3, 2)),
        words=np.array(["a"] * 100),
        objects=np.array([None, {}], dtype=object),
    )
    return path


KEYS = {"time": "t", "q": "q", "coordinates": "names"}
MUSCLES = {"lengths": "l", "muscles": ["a", "b", "c"], "moment_arms": "r"}


def test_names_may_be_given_instead_of_stored(archive):
    arrays = read_arrays(
        archive, {**KEYS, **MUSCLES, "coordinates": ["p", "q"], "moment_arm_axes": "time,muscle,coordinate"}
    )
    assert arrays.kinematics.labels == ("p", "q")
    assert arrays.geometry is not None
    assert arrays.geometry.moment_arms.shape == (100, 2, 3)


@pytest.mark.parametrize(
    ("keys", "fragments"),
    [
        ({**KEYS, "q": "Q"}, ["'Q' (for q)", "'names'"]),
        ({**KEYS, "moment": "q"}, ["'moment'", "did you mean", "'moments'"]),
        ({"time": "t", "q": "q"}, ["'coordinates'"]),
        ({**KEYS, "coordinates": "t"}, ["names (text)"]),
        ({**KEYS, "coordinates": ["a"]}, ["(100, 2)", "(100, 1)"]),
        ({**KEYS, "coordinates": ["a", "a"]}, ["more than once"]),
        ({**KEYS, "time": "words"}, ["real numbers"]),
        ({**KEYS, "emg": "q"}, ["'channels'"]),
        ({**KEYS, **MUSCLES}, ["moment_arm_axes", "time,coordinate,muscle"]),
        ({**KEYS, **MUSCLES, "moment_arm_axes": "time,muscle"}, ["'time,muscle'"]),
        ({**KEYS, **MUSCLES, "moment_arm_axes": "time,coordinate,muscle"}, ["(100, 3, 2)", "(100, 2, 3)"]),
        ({**KEYS, "lengths": "l", "muscles": ["a", "b", "c"]}, ["without moment_arms"]),
        ({**KEYS, "emg": "objects", "channels": ["a"]}, ["pickle"]),
    ],
)
def test_arrays_that_do_not_fit(archive, keys, fragments):
    with pytest.raises(InputError) as error:
        read_arrays(archive, keys)
    for fragment in ["walk.npz", *fragments]:
        assert fragment in str(error.value)


def test_files_that_are_no_archive(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_arrays(tmp_path / "a.npz", KEYS)
    (tmp_path / "a.npz").write_text("text")
    with pytest.raises(InputError, match="not a readable"):
        read_arrays(tmp_path / "a.npz", KEYS)
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(InputError, match="single array"):
        read_arrays(tmp_path / "a.npy", KEYS)


def test_times_since_1970_can_be_told_apart(tmp_path):
    """Their first ten digits are equal for half a minute."""
    now = 1_700_000_000.0
    values = {name: part for name, part in parts().items() if name in ("kinematics", "emg")}
    values["kinematics"] = dataclasses.replace(values["kinematics"], time=values["kinematics"].time + now)
    values["emg"] = dataclasses.replace(values["emg"], time=values["emg"].time + now + 500.0)
    with pytest.raises(InputError, match=r"1700000499\.7500 to 1700000502\.\d{4} s and .* 1700000000\.0000"):
        make_trial("t", **values)
    (tmp_path / "a.csv").write_text("time,x\n1700000000.125,1\n1700000000.124,2\n")
    with pytest.raises(InputError, match=r"runs backwards: 1700000000\.1250 s in line 2, then 1700000000\.1240 s"):
        read_table(tmp_path / "a.csv")
