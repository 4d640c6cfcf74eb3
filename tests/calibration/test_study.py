"""Studies in TOML: every key means what it says, and whatever is wrong with one is said in one clear line."""

from __future__ import annotations

import dataclasses
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers import EXAMPLES, REFERENCE

from calibration.problem import DEFAULT_FREE, default_free
from calibration.study.emg import MVC_GAIN_SD
from calibration.study.read import read_study
from nms_gym._assets import asset_path
from nms_gym.errors import InputError
from nms_gym.files.model_file import read_model_file
from nms_gym.recording.storage import UnitsWarning, write_table
from nms_gym.recording.trial import Trial

CONFIGS = sorted((EXAMPLES / "configs").glob("*.toml"))
DURATION = 1.5  # s of each recording that is kept

HEAD = """\
name = "short"
coordinates = ["r_shoulder_elev", "r_elbow_flex"]
dt = 0.01

[model]
file = "asset:arm"
passive_muscles = ["BRA"]

[settings]
tendon = "rigid"

[emg]
kind = "raw"
baseline = 0.02

[channels]
biceps = ["BIClong", "BICshort"]
triceps_long = ["TRIlong"]
triceps_lateral = ["TRIlat", "TRImed"]

[groups]
biceps = ["BIClong", "BICshort"]

[solver]
starts = 2
max_iterations = 6
"""
TRIAL = """
[[trials]]
name = "{name}"
{role}
[trials.arrays]
file = "{name}.npz"
time = "time"
coordinates = "coordinates"
q = "q"
channels = "channels"
emg_time = "emg_time"
emg = "raw_emg"
moments = "moments"
"""
STUDY = (
    HEAD
    + TRIAL.format(name="reach_1", role="train = true")
    + TRIAL.format(name="reach_2", role="train = [[0.2, 0.7]]\nheld_out = [[0.7, 1.4]]")
    + TRIAL.format(name="reach_3", role="held_out = true")
)


def recording(name: str) -> dict[str, np.ndarray]:
    """The start of a shipped demo recording."""
    with np.load(asset_path(f"demo/recording/{name}.npz")) as file:
        arrays = {key: file[key] for key in file.files}
    motion, emg = arrays["time"] <= DURATION, arrays["emg_time"] <= DURATION + 0.2
    return arrays | {
        "time": arrays["time"][motion],
        "q": arrays["q"][motion],
        "moments": arrays["moments"][motion],
        "emg_time": arrays["emg_time"][emg],
        "raw_emg": arrays["raw_emg"][emg],
    }


def write_study(folder: Path, *replacements: tuple[str, str], **arrays) -> Path:
    """The study and its recordings in ``folder``, text replaced, and arrays of reach_1 changed."""
    text = STUDY
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    for name in ("reach_1", "reach_2", "reach_3"):
        changed = recording(name)
        if name == "reach_1":
            changed |= arrays
        np.savez(folder / f"{name}.npz", **{k: v for k, v in changed.items() if v is not None})
    (folder / "study.toml").write_text(text, encoding="utf-8")
    return folder / "study.toml"


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as error:
        _ = read_study(path).problem
    return str(error.value)


# --- what the keys mean -------------------------------------------------


def test_a_study_is_read_as_written(tmp_path):
    study = read_study(write_study(tmp_path))
    assert study.model.muscles == ("BIClong", "BICshort", "TRIlong", "TRIlat", "TRImed", "BRA")
    assert study.model.passive_muscles == ("BRA",)
    assert study.model.channels == ("biceps", "triceps_long", "triceps_lateral")
    assert study.output == tmp_path / "nms-gym-out" / "short"
    assert [s.name for s in study.train] == ["reach_1 0.00-1.50 s", "reach_2 0.20-0.70 s"]
    assert list(study.held_out) == ["reach_2, other windows", "reach_3"]
    assert all(t.dt == pytest.approx(0.01) for t in study.trials.values())
    assert tuple(f.kind for f in study.free) == tuple(f.kind for f in default_free(study.model))
    assert study.fit_options["starts"] == 2
    assert study.fit_options["max_iterations"] == 6
    assert set(study.sources) == {"reach_1.npz", "reach_2.npz", "reach_3.npz"}
    arm = read_model_file(asset_path("arm/model.json"))
    assert study.start.max_isometric_force[-1] == arm.parameters["max_isometric_force"]["BRA"]


def test_synergies_validation_and_passive_trials(tmp_path):
    """The tables reach the problem: commands, freedom of weights, what is left out, and passive moments."""
    passive = """
[[passive]]
file = "passive.npz"
coordinates = "coordinates"
moments = "moments"
q = "q"
"""
    path = write_study(
        tmp_path,
        ('passive_muscles = ["BRA"]\n', '[synergies]\nnumber = 2\nweight = 0.2\nmuscles = ["BRA"]\n'),
        ("[solver]", '[validation]\nby = "trial"\nstrengths = [1, 2.5]\n[penalties]\neffort_tolerance = 0.3\n[solver]'),
    )
    path.write_text(path.read_text(encoding="utf-8") + passive, encoding="utf-8")
    poses = recording("reach_2")
    np.savez(
        tmp_path / "passive.npz", q=poses["q"][::40], moments=poses["moments"][::40], coordinates=poses["coordinates"]
    )
    study = read_study(path)
    assert study.model.synergy_muscles == ("BRA",)
    assert study.model.commands == ("synergy_1", "synergy_2")
    assert study.synergies is not None
    assert study.synergies.total_vaf > 0.8
    assert "synergy_weight" in [f.kind for f in study.free]
    np.testing.assert_array_equal(study.start.synergy_weight, [0.2, 0.2])
    assert study.validation.by == "trial"
    assert study.validation.strengths == (1.0, 2.5)
    assert study.validation.labels(study.train) == ("reach_1", "reach_2")
    problem = study.problem
    assert problem.penalties.effort_tolerance == 0.3
    assert len(problem.passive) == 1
    assert problem.passive[0].coordinates == problem.coordinates
    # Only the training windows were looked at: another held-out trial changes no synergy.
    again = read_study(
        write_study(
            tmp_path,
            ('passive_muscles = ["BRA"]\n', '[synergies]\nnumber = 2\nmuscles = ["BRA"]\n'),
            ('name = "reach_3"\nheld_out = true', 'name = "reach_3"\nheld_out = [[0.1, 0.4]]'),
        )
    )
    np.testing.assert_array_equal(again.model.synergies.vectors, study.model.synergies.vectors)


def test_synergy_only_tracks_the_emg(tmp_path):
    path = write_study(tmp_path, ("[solver]", '[synergies]\nmode = "synergy_only"\nnumber = 2\n[solver]'))
    study = read_study(path)
    assert study.model.recorded_muscles == ()
    assert study.model.passive_muscles == ("BRA",)
    assert study.tracked is not None
    np.testing.assert_array_equal(study.tracked[:, :3].any(axis=1), [True] * 5 + [False])
    assert study.problem.tracked_weights.shape == (6, 5)


def test_expected_prior_of_weights(tmp_path):
    """A prior from neighbours and effort: other starts than the flat one, and a spread for every weight."""
    path = write_study(
        tmp_path,
        ('passive_muscles = ["BRA"]\n', '[synergies]\nnumber = 2\nprior = "expected"\nmuscles = ["BRA"]\n'),
    )
    study = read_study(path)
    (weights,) = (f for f in study.free if f.kind == "synergy_weight")
    assert [name for name, _ in weights.own_sd] == ["BRA:synergy_1", "BRA:synergy_2"]
    assert not np.allclose(study.start.synergy_weight, 0.1)
    assert (study.start.synergy_weight >= 0).all()


def test_profiles_of_a_study_lie_beside_it(tmp_path):
    expected = '[synergies]\nnumber = 2\nprior = "expected"\ngait = true\nprofiles = "walk.csv"\nmuscles = ["BRA"]\n'
    path = write_study(tmp_path, ('passive_muscles = ["BRA"]\n', expected))
    with pytest.raises(InputError, match=r"\[synergies\]: profiles"):
        read_study(path)
    rows = [f"{percent},{percent % 50}" for percent in range(0, 100, 5)]
    (tmp_path / "walk.csv").write_text("\n".join(["time,soleus", *rows]))
    assert read_study(path).model.commands == ("synergy_1", "synergy_2")
    (tmp_path / "walk.csv").write_text("\n".join(["time,sole", *rows]))
    with pytest.raises(InputError, match="'sole' is no leg muscle"):
        read_study(path)


def test_session_normalisation_looks_only_at_the_training_windows(tmp_path):
    plain = read_study(write_study(tmp_path))
    whole, part = plain.trials["reach_1"], plain.trials["reach_2"]
    trained = np.concatenate([whole.emg, part.emg[(part.emg_time >= 0.2) & (part.emg_time <= 0.7)]])
    # The motion ends before the EMG does, so a maximum may lie just outside what a trial keeps.
    assert (trained.max(axis=0) <= 1 + 1e-12).all()
    assert (trained.max(axis=0) > 0.9).all()
    assert plain.emg_reference.kind == "largest value in the training windows"
    # What is held out has no say: a held-out recording five times as strong changes nothing of the others.
    louder = recording("reach_3")
    np.savez(tmp_path / "reach_3.npz", **{**louder, "raw_emg": 5.0 * louder["raw_emg"]})
    changed = read_study(tmp_path / "study.toml")
    assert changed.emg_reference == plain.emg_reference
    np.testing.assert_array_equal(changed.trials["reach_2"].emg, plain.trials["reach_2"].emg)
    assert changed.trials["reach_3"].emg.max() > 3.0


def test_a_held_out_window_has_no_say_either(tmp_path):
    path = write_study(tmp_path, ("train = true", "held_out = true"))
    trial = read_study(path).trials["reach_2"]
    counted = trial.emg[(trial.emg_time >= 0.2) & (trial.emg_time <= 0.7)]
    np.testing.assert_allclose(counted.max(axis=0), 1.0)
    assert trial.emg.max() > 1.05


def test_normalisation_to_all_trials_spans_what_is_held_out(tmp_path):
    study = read_study(write_study(tmp_path, ('kind = "raw"', 'kind = "raw"\nnormalise = "all_trials"')))
    largest = np.max([t.emg.max(axis=0) for t in study.trials.values()], axis=0)
    assert (largest <= 1 + 1e-12).all()
    assert (largest > 0.9).all()
    assert "held-out ones included" in study.emg_reference.kind


def test_normalisation_to_the_trial_takes_each_by_itself(tmp_path):
    own = read_study(write_study(tmp_path, ('kind = "raw"', 'kind = "raw"\nnormalise = "trial"')))
    for trial in own.trials.values():
        assert (trial.emg.max(axis=0) > 0.9).all()


def test_a_session_without_training_windows_has_no_reference(tmp_path):
    text = STUDY.replace("train = true", "held_out = true").replace("train = [[0.2, 0.7]]\n", "")
    write_study(tmp_path)
    (tmp_path / "study.toml").write_text(text, encoding="utf-8")
    assert re.search(
        r"\[emg\]: normalise is 'session'.*training window.*'mvc' or 'all_trials'", refusal(tmp_path / "study.toml")
    )
    # A saved person brings their own.
    known = {"biceps": 0.3, "triceps_long": 0.4, "triceps_lateral": 0.5}
    assert read_study(tmp_path / "study.toml", emg_reference=known).emg_reference.values == known


def test_a_known_emg_reference_replaces_the_session_maximum(tmp_path):
    path = write_study(tmp_path)
    plain = read_study(path)
    doubled = read_study(path, emg_reference={c: 2 * v for c, v in plain.emg_reference.values.items()})
    assert doubled.emg_reference.kind == "that of the saved person"
    for name, trial in plain.trials.items():
        np.testing.assert_allclose(doubled.trials[name].emg, trial.emg / 2, rtol=1e-12)
    with pytest.raises(InputError, match=r"study.toml \[emg\].*'triceps_long'"):
        read_study(path, emg_reference={"biceps": 1.0, "triceps_lateral": 1.0})


def test_mvc_normalisation_divides_by_the_given_values(tmp_path):
    plain = read_study(write_study(tmp_path, ('kind = "raw"', 'kind = "raw"\nnormalise = "none"')))
    mvc = "mvc = { biceps = 0.5, triceps_long = 0.25, triceps_lateral = 2 }"
    divided = read_study(write_study(tmp_path, ('kind = "raw"', f'kind = "raw"\nnormalise = "mvc"\n{mvc}')))
    for name, trial in plain.trials.items():
        np.testing.assert_allclose(divided.trials[name].emg * [0.5, 0.25, 2.0], trial.emg, rtol=1e-12, atol=1e-15)


def test_mvc_trials_and_files_give_the_reference_and_gains_stay_near_one(tmp_path):
    """A trial by name, or a file beside the study that holds some of the channels."""
    write_study(tmp_path)
    time = np.arange(2000) / 1000
    noise = np.random.default_rng(0).standard_normal((2000, 2))
    lines = ["time,biceps,other"] + [f"{t:.3f},{a:.6f},{b:.6f}" for t, (a, b) in zip(time, noise, strict=True)]
    (tmp_path / "mvc.csv").write_text("\n".join(lines), encoding="utf-8")
    given = 'kind = "raw"\nnormalise = "mvc"\nmvc_trials = ["reach_3", "mvc.csv"]'
    study = read_study(write_study(tmp_path, ('kind = "raw"', given)))
    values = study.emg_reference.values
    assert values["biceps"] == pytest.approx(np.sqrt(2 / np.pi), rel=0.2)
    assert values["biceps"] > values["triceps_long"] > 0
    gains = {f.kind: f for f in study.free}["emg_gain"]
    assert gains == dataclasses.replace(DEFAULT_FREE["emg_gain"], prior_sd=MVC_GAIN_SD, correlation=0.5)
    for free, sd in (("{}", MVC_GAIN_SD), ("{ prior_sd = 0.5 }", 0.5), ("{ bounds = [0.5, 2] }", MVC_GAIN_SD)):
        text = f"[free]\nemg_gain = {free}\n[settings]"
        (stated,) = read_study(write_study(tmp_path, ('kind = "raw"', given), ("[settings]", text))).free
        assert stated.prior_sd == sd
    with pytest.raises(InputError, match=r"mvc_trials, which names no trial but: no such file.*reach_4"):
        read_study(write_study(tmp_path, ('kind = "raw"', given.replace("reach_3", "reach_4"))))


def test_free_as_list_table_and_default_of_first_order_activation(tmp_path):
    as_list = read_study(write_study(tmp_path, ("dt = 0.01", 'dt = 0.01\nfree = ["emg_gain", "shape_factor"]')))
    assert as_list.free == (DEFAULT_FREE["emg_gain"], DEFAULT_FREE["shape_factor"])
    details = '[free.emg_gain]\nbounds = [0.5, 2]\nprior_sd = 0.25\nshare = "all"\nonly = ["biceps"]\n\n[settings]'
    (free,) = read_study(write_study(tmp_path, ("[settings]", details))).free
    assert (free.bounds, free.prior_sd, free.share, free.only) == ((0.5, 2.0), 0.25, "all", ("biceps",))
    first = read_study(write_study(tmp_path, ("[settings]", '[settings]\nactivation = "first_order"')))
    kinds = [f.kind for f in first.free]
    assert "activation_time_constant" in kinds
    assert "filter_time_constant_1" not in kinds
    assert first.problem.coordinates == ("r_shoulder_elev", "r_elbow_flex")


def test_start_values_penalties_and_settings_arrive(tmp_path):
    more = (
        "[start]\nemg_gain = { biceps = 0.7 }\nshape_factor = -1\n\n"
        "[penalties]\nfiber_length_range = [0.4, 1.6]\n\n[settings]\nmax_delay = 0.2"
    )
    study = read_study(write_study(tmp_path, ("[settings]", more)))
    np.testing.assert_array_equal(study.start.emg_gain, [0.7, 1.0, 1.0])
    np.testing.assert_array_equal(study.start.shape_factor, -np.ones(6))
    assert study.penalties.fiber_length_range == (0.4, 1.6)
    assert study.model.settings.max_delay == 0.2
    assert study.model.settings.tendon == "rigid"


def test_parameters_from_a_csv_equal_those_of_the_model_file(tmp_path):
    arm = read_model_file(asset_path("arm/model.json"))
    rows = ["name,F0,lopt,lts", *(f"{m},{arm.parameters['max_isometric_force'][m]!r},0.1,0.2"
                                  for m in arm.muscles)]  # fmt: skip
    (tmp_path / "muscles.csv").write_text("\n".join(rows))
    columns = (
        'file = "muscles.csv"\npaths = "arm.json"\ncolumns = { muscle = "name", max_isometric_force = "F0", '
        'optimal_fiber_length = "lopt", tendon_slack_length = "lts" }'
    )
    (tmp_path / "arm.json").write_bytes(asset_path("arm/model.json").read_bytes())
    study = read_study(write_study(tmp_path, ('file = "asset:arm"', columns)))
    expected = [arm.parameters["max_isometric_force"][m] for m in study.model.muscles]
    np.testing.assert_array_equal(study.start.max_isometric_force, expected)
    np.testing.assert_array_equal(study.start.optimal_fiber_length, np.full(6, 0.1))


def test_a_saved_trial_is_a_source_like_any_other(tmp_path):
    first = read_study(write_study(tmp_path))
    for trial in first.trials.values():
        trial.save(tmp_path / f"{trial.name}_saved.npz")
    text = HEAD.replace('kind = "raw"\nbaseline = 0.02', 'kind = "envelope"')
    text += '[[trials]]\ntrial = "reach_1_saved.npz"\ntrain = true\n'
    text += '[[trials]]\ntrial = "reach_3_saved.npz"\nname = "third"\n'
    (tmp_path / "again.toml").write_text(text)
    again = read_study(tmp_path / "again.toml")
    assert list(again.trials) == ["reach_1_saved", "third"]
    assert list(again.held_out) == ["third"]  # says nothing about windows, so it is held out
    np.testing.assert_array_equal(again.trials["third"].emg, first.trials["reach_3"].emg)
    np.testing.assert_array_equal(again.train[0].replay.lengths, first.train[0].replay.lengths)


def test_files_of_one_name_keep_both_hashes(tmp_path):
    path = write_study(tmp_path, ('file = "reach_2.npz"', 'file = "other/reach_1.npz"'))
    (tmp_path / "other").mkdir()
    (tmp_path / "reach_2.npz").rename(tmp_path / "other" / "reach_1.npz")
    sources = read_study(path).sources
    assert set(sources) == {"reach_1.npz", "reach_2: reach_1.npz", "reach_3.npz"}
    assert len(set(sources.values())) == 3


# --- the same recording as OpenSim files --------------------------------


def opensim_files(folder: Path, *, in_degrees: bool = True, **changes) -> Path:
    """reach_1 as .mot and .sto, reach_3 as arrays; ``changes`` replace arrays of the former before they are written."""
    path = write_study(
        folder,
        (
            TRIAL.format(name="reach_1", role="train = true"),
            '\n[[trials]]\nname = "reach_1"\ntrain = true\n'
            'kinematics = "ik.mot"\nmoments = "id.sto"\nemg = "emg.sto"\n',
        ),
    )
    a = recording("reach_1") | changes
    q = np.degrees(a["q"]) if in_degrees else a["q"]
    write_table(folder / "ik.mot", list(a["coordinates"]), a["time"], q, in_degrees=in_degrees)
    # Another order than the study's, and columns that nobody asked for.
    labels = [f"{c}_moment" for c in a["coordinates"][::-1]] + ["pelvis_tx_force"]
    moments = np.hstack([a["moments"][:, ::-1], np.zeros((len(a["time"]), 1))])
    write_table(folder / "id.sto", labels, a["time"], moments)
    write_table(folder / "emg.sto", list(a["channels"]), a["emg_time"], a["raw_emg"].astype(float))
    return path


def test_opensim_files_and_arrays_are_one_route(tmp_path):
    (tmp_path / "files").mkdir()
    from_files = read_study(opensim_files(tmp_path / "files"))
    from_arrays = read_study(write_study(tmp_path))
    a, b = from_files.train[0].replay, from_arrays.train[0].replay
    for name in ("excitations", "lengths", "velocities", "moment_arms"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(from_files.train[0].measured, from_arrays.train[0].measured, rtol=1e-12)


def edited(folder: Path, name: str, change) -> None:
    lines = (folder / name).read_text().splitlines()
    (folder / name).write_text("\n".join(change(lines)) + "\n")


def test_files_with_a_defect_are_refused_by_file_and_column(tmp_path):
    path = opensim_files(tmp_path)

    def gap(lines):
        cells = lines[40].split("\t")
        cells[2] = "nan"
        return [*lines[:40], "\t".join(cells), *lines[41:]]

    edited(tmp_path, "ik.mot", gap)
    assert re.search(r"ik\.mot: line 41 .*'r_elbow_flex'.*'nan'.*finite", refusal(path))
    opensim_files(tmp_path)
    edited(tmp_path, "id.sto", lambda lines: [*lines[:30], lines[31], lines[30], *lines[32:]])
    assert re.search(r"id\.sto: time runs backwards: .* line 31", refusal(path))
    opensim_files(tmp_path)
    edited(tmp_path, "id.sto", lambda lines: [line.replace("r_elbow_flex_moment", "elbow") for line in lines])
    assert re.search(r"id\.sto: no moment of 'r_elbow_flex'", refusal(path))
    opensim_files(tmp_path)
    edited(tmp_path, "emg.sto", lambda lines: [line.replace("triceps_long", "tric_long") for line in lines])
    message = refusal(path)
    assert "emg.sto: no column 'triceps_long'" in message
    assert "'tric_long'" in message  # what the file does have, not only what was found already
    opensim_files(tmp_path)
    edited(tmp_path, "ik.mot", lambda lines: [line.replace("inDegrees=yes", "inDegrees=no") for line in lines])
    message = refusal(path)
    assert "ik.mot: column 'r_shoulder_elev'" in message
    assert "these look like degrees" in message
    opensim_files(tmp_path)
    edited(tmp_path, "emg.sto", lambda lines: lines[:900])
    assert re.search(r"emg\.sto.*EMG.* is shorter than the motion.*trim", refusal(path))


def test_radians_under_a_degrees_header_warn(tmp_path):
    path = opensim_files(tmp_path, in_degrees=False)
    edited(tmp_path, "ik.mot", lambda lines: [line.replace("inDegrees=no", "inDegrees=yes") for line in lines])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UnitsWarning)
        read_study(path)
    assert any("ik.mot" in str(w.message) and "inDegrees=no" in str(w.message) for w in caught)


# --- what is refused ----------------------------------------------------

ARM_CSV = (
    'file = "m.csv"\ncolumns = { max_isometric_force = "F0", optimal_fiber_length = "l", tendon_slack_length = "s" }'
)
BAD_STUDIES = {
    # id: (what is replaced, by what, what the message must say besides the study's file name)
    "not TOML": ("[settings]", "[settings", "not a TOML file.*line"),
    "misspelt top key": ("dt = 0.01", "dtt = 0.01", "unknown key 'dtt'.*'dt'"),
    "misspelt required key": ("coordinates = [", "coordinate = [", "'coordinates' is missing.*'coordinate'"),
    "misspelt table": ("[settings]", "[setings]", "unknown key 'setings'.*'settings'"),
    "misspelt trial key": ("train = true", "tran = true", r"\[\[trials\]\] 1: unknown key 'tran'.*'train'"),
    "misspelt role": ('emg = "raw_emg"', 'egm = "raw_emg"', r"\[arrays\]: unknown key 'egm'; did you mean 'emg'"),
    "unknown role": ('emg = "raw_emg"', 'emg = "raw_emg"\nqdd = "q"', r"\[arrays\]: unknown key 'qdd'.*'qd'"),
    "no EMG": ('emg = "raw_emg"', "", "no EMG; give 'emg'"),
    "name no text": ('name = "short"', "name = 3", "name is 3; expected text"),
    "name no file": ('name = "short"', 'name = "a/b"', "'a/b' cannot be that of a file"),
    "coordinates no list": (
        'coordinates = ["r_shoulder_elev", "r_elbow_flex"]',
        'coordinates = "r_elbow_flex"',
        "coordinates is 'r_elbow_flex'; expected a list",
    ),
    "coordinate twice": ('"r_shoulder_elev", "r_elbow_flex"]', '"r_elbow_flex", "r_elbow_flex"]', "more than once"),
    "unknown coordinate": ('"r_elbow_flex"]', '"r_elbow"]', "model.json.* no coordinate 'r_elbow'.*'r_elbow_flex'"),
    "no finite dt": ("dt = 0.01", "dt = nan", "dt is nan; expected a finite number"),
    "negative dt": ("dt = 0.01", "dt = -0.01", r"\[\[trials\]\] 1.*-0.01.*positive"),
    "dt a switch": ("dt = 0.01", "dt = true", "dt is True; expected a finite number"),
    "negative lead-in": ("dt = 0.01", "dt = 0.01\nlead_in = -0.1", "lead_in is -0.1 s"),
    "unknown setting": ('tendon = "rigid"', 'tendno = "rigid"', r"\[settings\]: unknown key 'tendno'"),
    "unknown tendon": ('tendon = "rigid"', 'tendon = "stiff"', r"\[settings\]: tendon is 'stiff'.*'rigid'"),
    "setting of a wrong type": ('tendon = "rigid"', "tendon_iterations = 2.5", "tendon_iterations is 2.5.*whole"),
    "unknown asset": ('"asset:arm"', '"asset:leg"', "asset 'leg/model.json' not found"),
    "missing model": ('"asset:arm"', '"arm.osim"', r"\[model\]: file: no such file.*arm.osim"),
    "unset variable": ('"asset:arm"', '"${NMS_GYM_NOWHERE}/a.osim"', "variable NMS_GYM_NOWHERE is not set; set it"),
    "model of no known kind": ('"asset:arm"', '"reach_1.npz"', "expected an .osim model, a .json"),
    "unknown muscle of a channel": ('["TRIlong"]', '["TRIlonk"]', "no muscle 'TRIlonk'.*'TRIlong'"),
    "unknown passive muscle": ('["BRA"]', '["BRAC"]', "no muscle 'BRAC'.*'BRA'"),
    "passive muscle with a channel": ('["BRA"]', '["TRIlong"]', "passive_muscles has 'TRIlong', which a channel"),
    "muscles without one that is driven": ('passive_muscles = ["BRA"]', 'muscles = ["BRA"]', "unknown muscle"),
    "channel mapped to nothing": ('["TRIlong"]', "[]", r"\[channels\]: channel 'triceps_long' is mapped to nothing"),
    "channel mapped to a number": ('["TRIlong"]', "3", r"\[channels\]: triceps_long is 3; expected a list"),
    "channel mapped to numbers": ('["TRIlong"]', "[3]", r"\[channels\]: triceps_long is \[3\]; expected a list"),
    "negative weight": ('["TRIlong"]', "{ TRIlong = -1 }", "weight of channel 'triceps_long'.*-1"),
    "unknown channel": ("triceps_long =", "tric_long =", "no column 'tric_long'.*'triceps_long'"),
    "group of an unknown muscle": ('= ["BIClong", "BICshort"]\n\n[sol', '= ["BIC"]\n\n[sol', "'BIC'.*'BIClong'"),
    "group no list": (
        '= ["BIClong", "BICshort"]\n\n[sol',
        '= "BIClong"\n\n[sol',
        "biceps is 'BIClong'; expected a list",
    ),
    "unknown free parameter": ("dt = 0.01", 'dt = 0.01\nfree = ["gain"]', "unknown parameter 'gain'"),
    "free of numbers": ("dt = 0.01", "dt = 0.01\nfree = [1]", r"free is \[1\]; expected a list of names"),
    "nothing free": ("dt = 0.01", "dt = 0.01\nfree = []", "free is empty; name the parameters"),
    "crossed bounds": (
        "[settings]",
        "[free.emg_gain]\nbounds = [2, 0.5]\n[settings]",
        "bounds are 2 to 0.5.*low < high",
    ),
    "one bound": ("[settings]", "[free.emg_gain]\nbounds = [2]\n[settings]", r"bounds is \[2\]; expected 2 numbers"),
    "bounds without the start": ("[settings]", "[free.emg_gain]\nbounds = [2, 3]\n[settings]", "must .* include 1"),
    "zero prior": ("[settings]", "[free.emg_gain]\nprior_sd = 0\n[settings]", "prior_sd is 0; expected"),
    "unknown share": ("[settings]", '[free.emg_gain]\nshare = "some"\n[settings]', "share is 'some'"),
    "unknown entry": ("[settings]", '[free.emg_gain]\nonly = ["bi"]\n[settings]', "no entry 'bi'"),
    "a kind without effect": ("dt = 0.01", 'dt = 0.01\nfree = ["activation_time_constant"]', "has no effect"),
    "unknown penalty": ("[solver]", "[penalties]\nmoment = 1\n[solver]", "unknown key 'moment'"),
    "penalty of words": (
        "[solver]",
        '[penalties]\nfiber_length_range = ["a", "b"]\n[solver]',
        "fiber_length_range is .*expected 2 numbers",
    ),
    "crossed penalty": (
        "[solver]",
        "[penalties]\nfiber_length_range = [1.5, 0.5]\n[solver]",
        r"\[penalties\]: fiber_length_range is",
    ),
    "unknown synergy mode": (
        "[solver]",
        '[synergies]\nmode = "hybrid"\n[solver]',
        r"\[synergies\]: mode is 'hybrid'; use one of 'emg_driven', 'synergy_hybrid', 'synergy_only'",
    ),
    "more synergies than channels": (
        'passive_muscles = ["BRA"]\n',
        '[synergies]\nnumber = 4\nmuscles = ["BRA"]\n',
        "number is 4; expected 1 to 3",
    ),
    "synergies that drive nothing": ("[solver]", "[synergies]\nnumber = 2\n[solver]", "synergies drive nothing"),
    "synergies for a recorded muscle": (
        "[solver]",
        '[synergies]\nmuscles = ["TRIlong"]\n[solver]',
        "'TRIlong', which a channel drives",
    ),
    "prior that is not tight at all": ("[solver]", "[synergies]\ntightness = 0\n[solver]", "tightness is 0; expected"),
    "profiles of gait that nothing uses": (
        "[solver]",
        '[synergies]\nprofiles = "study.toml"\nprior = "expected"\n[solver]',
        "gait = true",
    ),
    "unknown prior of synergies": ("[solver]", '[synergies]\nprior = "good"\n[solver]', "prior is 'good'; use one of"),
    "penalty without effect": (
        "[solver]",
        "[penalties]\neffort_tolerance = 0.1\n[solver]",
        "effort_tolerance is 0.1, but no muscle is driven by synergies alone",
    ),
    "unknown way of leaving out": (
        "[solver]",
        '[validation]\nby = "day"\n[solver]',
        "by is 'day'; use one of 'stride'",
    ),
    "speeds for nothing": (
        "[solver]",
        '[validation]\nby = "trial"\nspeeds = { reach_1 = "slow" }\n[solver]',
        "speeds are given, but by is 'trial'",
    ),
    "strength of zero": (
        "[solver]",
        "[validation]\nstrengths = [0]\n[solver]",
        r"strengths is \[0\]; expected numbers",
    ),
    "passive trials without geometry": (
        "[[trials]]",
        '[[passive]]\nfile = "reach_1.npz"\ncoordinates = "coordinates"\nmoments = "moments"\n[[trials]]',
        r"\[\[passive\]\] 1: give 'q'",
    ),
    "polish of itself": ("[solver]", "[solver]\npolish = true", "polish is Levenberg-Marquardt after another solver"),
    "unknown solver": ("[solver]", '[solver]\nname = "sgd"', r"\[solver\]: name is 'sgd'.*'lm'"),
    "no starts": ("starts = 2", "starts = 0", "starts is 0; expected at least 1"),
    "no iterations": ("max_iterations = 6", "max_iterations = 0", "max_iterations is 0; expected at least 1"),
    "negative seed": ("starts = 2", "seed = -1", "seed is -1; expected at least 0"),
    "unknown start value": ("[solver]", "[start]\ngain = 1\n[solver]", r"\[start\]: unknown parameter 'gain'"),
    "start value of words": (
        "[solver]",
        '[start]\nemg_gain = "much"\n[solver]',
        "emg_gain is 'much'; expected a number",
    ),
    "start value of nobody": ("[solver]", "[start]\nemg_gain = { bi = 1 }\n[solver]", r"\[start\]: emg_gain: .*'bi'"),
    "zero length": (
        "[solver]",
        "[start]\noptimal_fiber_length = 0\n[solver]",
        "optimal_fiber_length of 'BIClong' is 0 m",
    ),
    "negative length": ("[solver]", "[start]\ntendon_slack_length = -1\n[solver]", "tendon_slack_length .* is -1 m"),
    "unknown EMG kind": ('kind = "raw"', 'kind = "rectified"', r"\[emg\]: kind is 'rectified'; use 'raw'"),
    "unknown normalisation": (
        'kind = "raw"',
        'kind = "raw"\nnormalise = "max"',
        "normalise is 'max'; use one of 'session'",
    ),
    "filter of envelopes": ('kind = "raw"', 'kind = "envelope"\nlow_pass = 6', "'low_pass' filters raw EMG only"),
    "raw taken for envelopes": ('kind = "raw"', 'kind = "envelope"', "reach_1.*'biceps'.*unrectified"),
    "cut-off above Nyquist": ('kind = "raw"', 'kind = "raw"\nlow_pass = 600', "low_pass cut-off 600 Hz"),
    "mvc of another channel": (
        'kind = "raw"',
        'kind = "raw"\nnormalise = "mvc"\nmvc = { biceps = 1 }',
        "no mvc reference of channel 'triceps_long'",
    ),
    "mvc of nothing": ('kind = "raw"', 'kind = "raw"\nnormalise = "mvc"\nmvc = { biceps = 0 }', "'biceps' is 0"),
    "mvc unused": ('kind = "raw"', 'kind = "raw"\nmvc = { biceps = 1 }', "mvc is given, but normalise is 'session'"),
    "missing recording": ('file = "reach_1.npz"', 'file = "r1.npz"', r"\[arrays\]: file: no such file.*r1.npz"),
    "missing array": ('q = "q"', 'q = "angles"', "reach_1.npz: no array 'angles'"),
    "array role of a number": ('q = "q"', "q = 3", r"\[arrays\]: q is 3; expected text in quotes, or a list"),
    "array file unnamed": ('file = "reach_1.npz"\n', "", "'file' is missing"),
    "two trials of one name": ('name = "reach_2"', 'name = "reach_1"', "two trials are called 'reach_1'"),
    "trial name no file": ('name = "reach_2"', 'name = "../reach"', "cannot be that of a file"),
    "two sources of motion": (
        "train = true",
        'train = true\nkinematics = "reach_1.npz"',
        "exactly one of 'kinematics'",
    ),
    "trial with other files": ("train = true", 'trial = "reach_1.npz"', "exactly one of"),
    "empty window": ("[[0.2, 0.7]]", "[[0.7, 0.7]]", "reach_2.*window 0.7 to 0.7 s is empty"),
    "window backwards": ("[[0.2, 0.7]]", "[[0.7, 0.2]]", "reach_2.*window 0.7 to 0.2 s is empty"),
    "window of a few samples": ("[[0.2, 0.7]]", "[[0.2, 0.22]]", "holds 3 samples.*widen"),
    "window outside": ("[[0.7, 1.4]]", "[[0.7, 7]]", "window 0.7 to 7 s .*not inside .*1.5 s"),
    "window of words": ("[[0.2, 0.7]]", '[["a", 0.7]]', r"train is .*expected true, or windows"),
    "window not nested": ("[[0.2, 0.7]]", "[0.2, 0.7]", r"train is .*expected true, or windows"),
    "overlapping windows": ("[[0.2, 0.7]]", "[[0.2, 0.8]]", "0.2 to 0.8 s .*0.7 to 1.4 s .*overlap"),
    "overlap in one file read twice": (
        'file = "reach_3.npz"',
        'file = "reach_1.npz"',
        "'reach_1' and held-out window .* of 'reach_3' overlap",
    ),
    "nothing to train on": ("train = true", "held_out = true", None),
    "trials no list": (STUDY[len(HEAD) :], "\n[trials]\n", "trials is .*expected a list"),
    "no trials": (STUDY[len(HEAD) :], "", "'trials' is missing"),
    "columns of a model file": ('"asset:arm"', '"asset:arm"\ncolumns = { muscle = "m" }', "columns is for a .csv"),
}


@pytest.mark.parametrize("case", list(BAD_STUDIES))
def test_a_bad_study_is_refused_in_one_line(tmp_path, monkeypatch, case):
    old, new, expected = BAD_STUDIES[case]
    monkeypatch.delenv("NMS_GYM_NOWHERE", raising=False)
    path = write_study(tmp_path, (old, new))
    if expected is None:  # no training window at all
        path = write_study(tmp_path, (old, new), ("train = [[0.2, 0.7]]\n", ""))
        expected = "normalise is 'session', but no trial has a training window"
    message = refusal(path)
    assert re.search(expected, message), message
    assert "\n" not in message
    # Where to look: the study, the recording, the model, or the trial by name.
    assert re.search(r"study\.toml|reach_\d|model\.json|study 'short'|asset '", message), message
    assert {p.name for p in tmp_path.iterdir()} == {"study.toml", "reach_1.npz", "reach_2.npz", "reach_3.npz"}


def changed(name: str, change) -> np.ndarray:
    array = recording("reach_1")[name].copy()
    result = change(array)
    return array if result is None else result


def with_gap(array):
    array[20, 1] = np.nan


def swapped(time):
    time[[10, 11]] = time[[11, 10]]


BAD_ARRAYS = {
    "NaN in the motion": ({"q": lambda q: with_gap(q)}, "reach_1.npz.*'r_elbow_flex' is nan at time 0.1 s.*gap"),
    "NaN in the moments": ({"moments": lambda m: with_gap(m)}, "reach_1.npz.*'r_elbow_flex' is nan at time 0.1 s"),
    "NaN in the EMG": ({"raw_emg": lambda e: with_gap(e)}, "reach_1.npz.*'triceps_long' is nan"),
    "time backwards": ({"time": swapped}, "reach_1.npz.*time runs backwards"),
    "EMG time backwards": ({"emg_time": swapped}, "reach_1.npz.*time runs backwards"),
    "time in ms": ({"time": lambda t: 1000 * t}, "reach_1.npz.*milliseconds"),
    "degrees": ({"q": np.degrees}, "reach_1.npz.*'r_.*look like degrees"),
    "N·mm": ({"moments": lambda m: 1000 * m}, "reach_1.npz, moments.*is it in N·mm"),
    "short EMG": ({"emg_time": lambda t: t[:1000], "raw_emg": lambda e: e[:1000]}, "EMG.* is shorter than the motion"),
    "late EMG": ({"emg_time": lambda t: t + 9}, "EMG and motion do not overlap"),
    "dead channel": ({"raw_emg": lambda e: e * [1, 0, 1]}, "reach_1.npz.*'triceps_long' is dead"),
    "shapes disagree": ({"q": lambda q: q[:-3]}, r"reach_1.npz: q has shape \(298, 2\); expected \(301, 2\)"),
    "out of the paths' domain": ({"q": lambda q: q + np.array([0, 2.0])}, "'reach_1'.*'r_elbow_flex'"),
    "constant moment": ({"moments": lambda m: 0 * m}, "measured moment of 'r_shoulder_elev' is constant"),
}


@pytest.mark.parametrize("case", list(BAD_ARRAYS))
def test_a_bad_recording_is_refused_by_name(tmp_path, case):
    changes, expected = BAD_ARRAYS[case]
    arrays = {name: changed(name, change) for name, change in changes.items()}
    message = refusal(write_study(tmp_path, **arrays))
    assert re.search(expected, message), message


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["muscle,F0,l,s", "BIClong,100,0,0.2"], r"m.csv: .*optimal_fiber_length of 'BIClong' is 0 m; allowed"),
        (["muscle,F0,l,s", "BIClong,100,-0.1,0.2"], r"m.csv: .*optimal_fiber_length of 'BIClong' is -0.1 m"),
        (["muscle,F0,l,s", "BIClong,100,x,0.2"], r"m.csv: column 'l' of muscle 'BIClong' is 'x'; expected a number"),
        (["muscle,F0,l,s", "BIClong,100"], r"m.csv: column 'l' of muscle 'BIClong' is None; expected a number"),
        (["muscle,F0,l,s", "BIClong,100,nan,0.2"], r"m.csv: .*optimal_fiber_length of 'BIClong' is nan m"),
        (["muscle,F0,s", "BIClong,100,0.2"], r"m.csv: no column 'l'; it has 'muscle', 'F0', 's'"),
        (["muscle,F0,l,s", "BIC,100,0.1,0.2"], r"m.csv: no muscle 'BIClong'.*'BIC'"),
        ([""], r"m.csv: no column 'muscle'"),
    ],
)
def test_a_bad_parameter_table_is_refused_by_muscle_and_column(tmp_path, rows, expected):
    text = HEAD.replace('file = "asset:arm"\npassive_muscles = ["BRA"]', ARM_CSV).replace(
        '"BIClong", "BICshort"', '"BIClong"'
    )
    text = re.sub(r"triceps.*\n", "", text) + TRIAL.format(name="reach_1", role="train = true")
    path = write_study(tmp_path)
    path.write_text(text)
    (tmp_path / "m.csv").write_text("\n".join(rows))
    assert re.search(expected, refusal(path)), refusal(path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_a_broken_npz_is_refused(tmp_path, content):
    path = write_study(tmp_path)
    (tmp_path / "reach_1.npz").write_bytes(content)
    assert "reach_1.npz: not a readable .npz" in refusal(path)


def test_a_gap_in_envelopes_is_named_with_its_time(tmp_path):
    raw = recording("reach_1")["raw_emg"]
    envelopes = np.abs(raw)
    envelopes[600, 2] = np.nan
    path = write_study(tmp_path, ('kind = "raw"', 'kind = "envelope"'), raw_emg=envelopes)
    assert re.search(r"reach_1.npz: EMG channel 'triceps_lateral' has no finite value at time 0.1 s", refusal(path))


def test_an_osim_model_without_muscle_tables_says_what_is_missing(tmp_path):
    model = REFERENCE / "geometry.osim"
    from nms_gym.recording.osim import read_osim

    names = [m.name for m in read_osim(model).muscles][:3]
    (tmp_path / "model.osim").write_bytes(model.read_bytes())
    text = HEAD.replace('file = "asset:arm"\npassive_muscles = ["BRA"]', 'file = "model.osim"')
    for old, new in (
        ('["BIClong", "BICshort"]\ntri', f'["{names[0]}"]\ntri'),
        ('["TRIlong"]', f'["{names[1]}"]'),
        ('["TRIlat", "TRImed"]', f'["{names[2]}"]'),
        ('[groups]\nbiceps = ["BIClong", "BICshort"]\n', ""),
    ):
        assert old in text
        text = text.replace(old, new)
    path = write_study(tmp_path)
    path.write_text(text + TRIAL.format(name="reach_1", role="train = true"))
    assert re.search(r"'reach_1' has no muscle lengths .*nms-gym fit-paths", refusal(path))


def test_a_muscle_table_with_a_zero_length_is_refused(tmp_path):
    first = read_study(write_study(tmp_path)).trials["reach_1"]
    lengths = np.full((len(first.time), 1), 0.3)
    lengths[7] = 0.0
    tables = {"muscles": ("BIClong",), "lengths": lengths, "velocities": 0 * lengths,
              "moment_arms": np.full((len(first.time), 2, 1), 0.02)}  # fmt: skip
    Trial(**(vars(first) | tables)).save(tmp_path / "tables.npz")
    path = write_study(tmp_path)
    path.write_text(HEAD.replace('"raw"', '"envelope"') + '[[trials]]\ntrial = "tables.npz"\ntrain = true\n')
    assert re.search(r"'BIClong' is 0 at time 0.07 s; expected a positive length", refusal(path))


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_bytes(b"\xff\xfe\x00")])
def test_an_unreadable_study_is_refused(tmp_path, make):
    path = tmp_path / "study.toml"
    make(path)
    assert re.match(re.escape(str(path)) + ": (cannot read the study|not a TOML file)", refusal(path))


# --- the shipped examples -----------------------------------------------


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.stem)
def test_every_example_study_reads(config, data, monkeypatch):
    needed = sorted(set(re.findall(r"\$\{NMS_GYM_DATA\}/(\w+)", config.read_text(encoding="utf-8"))))
    folders = [data(name) for name in needed]
    monkeypatch.setenv("NMS_GYM_DATA", str(folders[0].parent))
    study = read_study(config)
    assert study.name == config.stem
    assert study.problem.segments
    # What a study says it cannot show, it must not show: only studies with a second stretch hold one out.
    assert bool(study.held_out) == ("held_out" in config.read_text(encoding="utf-8"))
