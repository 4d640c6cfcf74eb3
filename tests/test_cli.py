"""The command line as a user meets it: what it writes, what it prints, and how it refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
from helpers import REFERENCE, REPOSITORY
from rich.console import Console

from calibration.uncertainty.discrepancy import load_corrections
from calibration.validation import predict_segment
from nms_gym import _console, cli, cli_environments
from nms_gym._assets import asset_path
from nms_gym.files.model_file import read_model_file
from nms_gym.files.prediction import load_quantities
from nms_gym.files.subject import load_subject
from nms_gym.model.quantities import QUANTITIES
from nms_gym.model.replay import make_segment
from nms_gym.muscle.geometry import lengths_and_moment_arms
from nms_gym.muscle.paths import sample_paths
from nms_gym.recording.ceinms import read_ceinms_subject
from nms_gym.recording.osim import read_osim
from nms_gym.recording.storage import read_table, write_table
from nms_gym.recording.trial import load_trial

OSIM = REPOSITORY / "tests" / "reference" / "geometry.osim"

STUDY = """\
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
[free]
max_isometric_force = {}
emg_gain = {}
electromechanical_delay = {}
[solver]
starts = 2
max_iterations = 7
tolerance = 0
"""
TRIAL = """
[[trials]]
synthetic = true
ROLE = true
[trials.arrays]
file = "NAME.npz"
time = "time"
coordinates = "coordinates"
q = "q"
channels = "channels"
emg_time = "emg_time"
emg = "raw_emg"
moments = "moments"
"""


class Ran(NamedTuple):
    code: int
    out: str
    err: str


def run(*arguments: object) -> Ran:
    """The command line in this process; the environment that it sets is put back."""
    out, err = io.StringIO(), io.StringIO()
    console = Console(highlight=False, width=160)
    with (
        mock.patch.dict(os.environ),
        mock.patch.object(_console, "console", console),
        mock.patch.object(cli, "console", console),
        mock.patch.object(cli_environments, "console", console),
        mock.patch.object(sys, "argv", ["nms-gym", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main()
    return Ran(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def refused(*arguments: object) -> str:
    """The one line that a refusal prints."""
    result = run(*arguments)
    assert result.code == 2, result
    assert "Traceback" not in result.err
    assert result.err.startswith("nms-gym: ")
    assert result.err.count("\n") == 1
    return result.err


def write_study(folder: Path, seconds: float = 1.5) -> Path:
    text = STUDY
    for name, role in (("reach_1", "train"), ("reach_3", "held_out")):
        with np.load(asset_path(f"demo/recording/{name}.npz")) as file:
            arrays = {key: file[key] for key in file.files}
        motion, emg = arrays["time"] <= seconds, arrays["emg_time"] <= seconds + 0.2
        for key in ("time", "q", "moments"):
            arrays[key] = arrays[key][motion]
        for key in ("emg_time", "raw_emg"):
            arrays[key] = arrays[key][emg]
        np.savez(folder / f"{name}.npz", **arrays)
        text += TRIAL.replace("NAME", name).replace("ROLE", role)
    (folder / "study.toml").write_text(text)
    return folder / "study.toml"


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory) -> tuple[Path, Path, Ran]:
    """(study, results, what was printed) of one calibration through the command line."""
    folder = tmp_path_factory.mktemp("calibrated")
    study = write_study(folder)
    return study, folder / "out", run("calibrate", study, "-o", folder / "out")


def scores(folder: Path) -> dict[tuple[str, str, str], float]:
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    return {(row["segment"], row["coordinate"], row["set"]): row["r2"] for row in rows}


# --- the good path ------------------------------------------------------


def test_calibrate_writes_all_it_promises(calibrated):
    _, folder, ran = calibrated
    assert (ran.code, ran.err) == (0, "")
    written = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.suffix != ".png"}
    assert written == {
        "subject.json",
        "metrics.json",
        "posterior.npz",
        "discrepancy.npz",
        "report.html",
        "trials/reach_1.npz",
        "trials/reach_3.npz",
    }
    assert list((folder / "figures").glob("*.png"))
    assert (folder / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    subject = load_subject(folder / "subject.json")
    assert subject.name == "short"
    assert subject.synthetic
    assert subject.calibration["held_out_windows"] == {"reach_3": ["reach_3 0.00-1.50 s"]}
    assert str((folder / "report.html").resolve()) in ran.out
    assert "nothing drives 'BRA': passive" in ran.out


def test_calibrate_scores_held_out_windows_before_and_after(calibrated):
    _, folder, ran = calibrated
    found = scores(folder)
    assert len(found) == 12  # uncalibrated, calibrated, with discrepancy; two joints, fitted and held out
    for joint in ("r_shoulder_elev", "r_elbow_flex"):
        before, after = (found["reach_3", joint, which] for which in ("uncalibrated", "calibrated"))
        assert after > before
        assert f"{after:.3f}" in ran.out
    assert "held-out: reach_3" in ran.out


def test_predict_writes_what_the_model_says(calibrated, tmp_path):
    _, folder, _ = calibrated
    ran = run("predict", folder / "subject.json", folder / "trials" / "reach_3.npz", "-o", tmp_path / "p")
    assert (ran.code, ran.err) == (0, "")
    subject, trial = load_subject(folder / "subject.json"), load_trial(folder / "trials" / "reach_3.npz")
    segment = make_segment(subject.model, trial)  # EMG from before the motion warms up, and is not in the files
    assert not segment.scored.all()
    expected = predict_segment(subject.model, subject.params, segment)
    for what, labels, values in (
        ("moments", ("r_shoulder_elev_moment", "r_elbow_flex_moment"), expected.moments),
        ("tendon_forces", subject.model.muscles, expected.tendon_force),
        ("activations", subject.model.muscles, expected.activation),
    ):
        table = read_table(tmp_path / "p" / f"reach_3_{what}.sto")
        assert table.labels == labels
        np.testing.assert_array_equal(table.time, trial.time)
        np.testing.assert_array_equal(table.data, values[segment.scored])
    # The same whole recording was the held-out set of the calibration.
    calibration = scores(folder)
    for (_, joint, _), r2 in scores(tmp_path / "p").items():
        assert r2 == pytest.approx(calibration["reach_3", joint, "calibrated"], abs=1e-12)


def test_predict_writes_the_quantities_asked_for_in_the_format_asked_for(calibrated, tmp_path):
    _, folder, _ = calibrated
    person, trial = folder / "subject.json", folder / "trials" / "reach_3.npz"
    ran = run("predict", person, trial, "--format", "npz", "--quantities", "all", "-o", tmp_path / "n")
    assert (ran.code, ran.err) == (0, "")
    found = load_quantities(tmp_path / "n" / "reach_3_prediction.npz")
    # Rigid tendons: their fibers are where the recording has them, and have no equilibrium of their own.
    assert set(QUANTITIES) - set(found.values) == {"equilibrium_velocities"}
    assert found["joint_stiffness"].shape == (len(found.time), 2, 2)
    shown = run("inspect", tmp_path / "n" / "reach_3_prediction.npz")
    assert shown.code == 0
    assert "joint_stiffness" in shown.out
    assert "N·m/rad" in shown.out
    ran = run("predict", person, trial, "--format", "csv", "--quantities", "moments,work", "-o", tmp_path / "c")
    assert ran.code == 0
    assert {p.name for p in (tmp_path / "c").glob("*.csv")} == {
        "reach_3_moments.csv",
        "reach_3_fiber_work.csv",
        "reach_3_tendon_work.csv",
        "reach_3_musculotendon_work.csv",
    }
    np.testing.assert_array_equal(read_table(tmp_path / "c" / "reach_3_moments.csv").data, found["moments"])
    for options, message in ((("--format", "mat"), "--format is 'mat'"), (("--quantities", "x"), "no quantity 'x'")):
        assert message in refused("predict", person, trial, *options, "-o", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_inspect_lists_results_of_the_nmsm_pipeline(tmp_path):
    (tmp_path / "found.osimx").write_text(
        '<?xml version="1.0"?><NMSMPipelineDocument><OsimxModel name="leg"><RCNLMuscleSet><RCNLMuscle name="soleus_r">'
        "<electromechanical_delay>0.5</electromechanical_delay></RCNLMuscle></RCNLMuscleSet></OsimxModel>"
        "</NMSMPipelineDocument>"
    )
    ran = run("inspect", tmp_path / "found.osimx")
    assert (ran.code, ran.err) == (0, "")
    for text in ("leg, 1 muscles", "soleus_r", "electromechanical_delay", "0.05"):
        assert text in ran.out


def test_the_shipped_study_is_inspected_by_its_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    ran = run("inspect", "asset:demo/study.toml")
    assert (ran.code, ran.err) == (0, "")
    assert "reach_3 0.00-8.00 s" in ran.out


def test_predict_on_a_study_keeps_the_reference_of_the_emg(calibrated, tmp_path):
    study, folder, _ = calibrated
    alone = study.read_text()
    start, end = (i.start() for i in re.finditer(r"\[\[trials\]\]", alone))
    (study.parent / "alone.toml").write_text(alone[:start] + alone[end:])
    ran = run("predict", folder / "subject.json", study.parent / "alone.toml", "-o", tmp_path / "p")
    assert ran.code == 0, ran
    calibration = scores(folder)
    for (_, joint, _), r2 in scores(tmp_path / "p").items():
        assert r2 == pytest.approx(calibration["reach_3", joint, "calibrated"], abs=1e-9)


def test_metrics_have_coverage_and_half_widths_of_bands(calibrated):
    _, folder, ran = calibrated
    rows = json.loads((folder / "metrics.json").read_text())["bands"]
    joints = ("r_shoulder_elev", "r_elbow_flex")
    assert [(r["split"], r["segment"], r["coordinate"]) for r in rows] == [
        *(("train", "training windows", c) for c in joints),
        *(("held-out", "reach_3", c) for c in joints),
    ]
    learned = load_corrections(folder / "discrepancy.npz", load_subject(folder / "subject.json").params).discrepancy
    noise = dict(zip(learned.coordinates, learned.noise, strict=True))
    for row in rows:
        assert 0.0 <= row["coverage"] <= 1.0
        # Parameters and discrepancy add to the noise, of which 90 % lies within 1.64 standard deviations.
        assert row["half_width"] > 1.5 * noise[row["coordinate"]]
        assert f"{100 * row['coverage']:.0f} % inside, ± {row['half_width']:.1f} N·m" in ran.out


def test_predict_adds_what_the_model_left_unexplained_when_asked(calibrated, tmp_path):
    _, folder, _ = calibrated
    person, trial = folder / "subject.json", folder / "trials" / "reach_1.npz"
    ran = run(
        "predict", person, trial, "--discrepancy", "--format", "npz", "--quantities", "moments", "-o", tmp_path / "d"
    )
    assert (ran.code, ran.err) == (0, "")
    found = load_quantities(tmp_path / "d" / "reach_1_prediction.npz").values
    names = ("moments_with_discrepancy", "standard_deviation_of_moments", "moments")
    corrected, sd, plain = (found[name].values for name in names)
    assert corrected.shape == sd.shape == plain.shape
    assert (sd > 0).all()
    rows = json.loads((tmp_path / "d" / "metrics.json").read_text())["rows"]
    for row in rows:
        if row["set"] == "predicted":
            (other,) = [r for r in rows if r["set"] != "predicted" and r["coordinate"] == row["coordinate"]]
            assert other["set"] == "predicted, with discrepancy"
            assert other["rmse"] < row["rmse"]  # a trial that it was learned on
    (tmp_path / "subject.json").write_bytes(person.read_bytes())
    assert "discrepancy.npz: no such file" in refused("predict", tmp_path / "subject.json", trial, "--discrepancy")


def test_predict_scores_a_person_on_the_windows_of_a_study(calibrated, tmp_path):
    study, folder, _ = calibrated
    ran = run("predict", folder / "subject.json", "--study", study, "-o", tmp_path / "p")
    assert (ran.code, ran.err) == (0, "")
    assert [p.name for p in (tmp_path / "p").iterdir()] == ["metrics.json"]
    found, first = (json.loads((place / "metrics.json").read_text()) for place in (tmp_path / "p", folder))
    assert found["emg_reference"] == "that of the saved person (person: largest value in the training windows)"
    for kind in ("rows", "bands"):
        assert len(found[kind]) == len(first[kind])
        for again, row in zip(found[kind], first[kind], strict=True):
            assert again.keys() == row.keys()
            for key, value in row.items():
                assert again[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-9)), (kind, key)
    assert found["trained_range"][1] == first["trained_range"][0]
    assert "held-out: reach_3" in ran.out
    assert "90 % bands, held-out: reach_3" in ran.out
    assert "nothing to predict: give trials (.npz), or --study" in refused("predict", folder / "subject.json")


def test_predict_says_what_leaves_the_trained_range(calibrated, tmp_path):
    _, folder, _ = calibrated
    person = folder / "subject.json"
    ran = run("predict", person, folder / "trials" / "reach_1.npz", "-o", tmp_path / "same")
    assert "everything within the trained range" in ran.out
    record = json.loads((tmp_path / "same" / "metrics.json").read_text())
    assert record["emg_reference"] == "as in the trial's file (person: largest value in the training windows)"
    trial = load_trial(folder / "trials" / "reach_1.npz")
    dataclasses.replace(trial, name="loud", emg=trial.emg * 2.0).save(tmp_path / "loud.npz")
    ran = run("predict", person, tmp_path / "loud.npz", "-o", tmp_path / "loud")
    assert "everything within" not in ran.out
    assert re.search(r"loud +emg of biceps +\d+ % +1.00 × its largest", ran.out)
    assert "angle of" not in ran.out
    old = json.loads(person.read_text())
    del old["trained_range"]["emg"]["biceps"]
    (tmp_path / "other.json").write_text(json.dumps(old))
    ran = run("predict", tmp_path / "other.json", tmp_path / "loud.npz", "-o", tmp_path / "other")
    assert "without a trained range: 'biceps'" in ran.out
    del old["trained_range"]
    (tmp_path / "old.json").write_text(json.dumps(old))
    ran = run("predict", tmp_path / "old.json", tmp_path / "loud.npz", "-o", tmp_path / "old")
    assert "does not say what EMG and motion its fit has seen" in ran.out
    assert json.loads((tmp_path / "old" / "metrics.json").read_text())["trained_range"][0]["outside"] is None


def test_solver_and_starts_are_overridden(calibrated, tmp_path):
    study, _, _ = calibrated
    ran = run("calibrate", study, "--solver", "adam", "--starts", 1, "--no-report", "-o", tmp_path / "adam")
    assert (ran.code, ran.err) == (0, "")
    facts = load_subject(tmp_path / "adam" / "subject.json").calibration
    assert (facts["solver"], facts["starts"], facts["status"]) == ("adam", 1, "MAX_ITERATIONS")
    assert facts["cost"] < facts["uncalibrated_cost"]
    assert "rigid tendon, adam, 1 starts" in ran.out
    assert not (tmp_path / "adam" / "report.html").exists()


def test_ctrl_c_keeps_the_best_so_far(calibrated, tmp_path, monkeypatch):
    study, _, _ = calibrated

    @contextlib.contextmanager
    def interrupted():
        def update(progress):
            raise KeyboardInterrupt

        yield update

    monkeypatch.setattr(cli, "_progress", interrupted)
    ran = run("calibrate", study, "--no-report", "-o", tmp_path / "out")
    assert (ran.code, ran.err) == (0, "")
    assert "interrupted" in ran.out
    facts = load_subject(tmp_path / "out" / "subject.json").calibration
    assert facts["status"] == "INTERRUPTED"
    assert facts["cost"] < facts["uncalibrated_cost"]


def test_ctrl_c_before_the_fit_leaves_nothing(calibrated, tmp_path, monkeypatch):
    study, _, _ = calibrated

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("nms_gym.recording.documents.tomllib.loads", stop)
    ran = run("calibrate", study, "-o", tmp_path / "out")
    assert (ran.code, ran.err.strip()) == (130, "nms-gym: interrupted")
    assert list(tmp_path.iterdir()) == []


def test_a_study_without_held_out_windows_says_so(calibrated, tmp_path):
    study, _, _ = calibrated
    text = study.read_text()
    (study.parent / "fit_only.toml").write_text(text[: text.rindex("[[trials]]")])
    ran = run("calibrate", study.parent / "fit_only.toml", "--no-report", "-o", tmp_path / "out")
    assert ran.code == 0, ran
    assert "measure fit, not prediction" in ran.out
    assert {row[0] for row in scores(tmp_path / "out")} == {"training windows"}


def test_brackets_in_names_are_no_markup(calibrated, tmp_path):
    study, _, _ = calibrated
    (study.parent / "odd.toml").write_text(
        study.read_text().replace("synthetic = true", 'synthetic = true\nname = "walk [bold]"', 1)
    )
    ran = run("inspect", study.parent / "odd.toml")
    assert ran.code == 0, ran
    assert "reading trial walk [bold]" in ran.out
    assert "walk [bold] 0.00-1.50 s" in ran.out


# --- inspect ------------------------------------------------------------


def test_inspect_says_what_is_in_each_kind_of_file(calibrated, tmp_path):
    study, folder, _ = calibrated
    run("predict", folder / "subject.json", folder / "trials" / "reach_3.npz", "-o", tmp_path)
    subject = load_subject(folder / "subject.json")
    strength = f"{subject.params.max_isometric_force[0]:.5g}"
    assert subject.trained is not None
    elbow = f"{np.rad2deg(subject.trained.angle['r_elbow_flex'].most):.3g}"
    muscle = read_osim(OSIM).muscles[0]
    for file, expected in (
        (OSIM, (muscle.name, f"{muscle.max_isometric_force:.5g}", "gimbal_0")),
        (tmp_path / "reach_3_moments.sto", ("151 rows, 0 to 1.5 s, step 0.01 s", "r_elbow_flex_moment")),
        (folder / "trials" / "reach_3.npz", ("reach_3 (synthetic)", "measured moments", "triceps_lateral")),
        (study.parent / "reach_1.npz", ("no trial file", "raw_emg", "2201 x 3", "'r_shoulder_elev', 'r_elbow_flex'")),
        (folder / "subject.json", ("6 muscles, 3 channels; passive: BRA", strength, "uncalibrated", "MAX_ITERATIONS")),
        (folder / "subject.json", ("range of what was fitted", elbow, "deg/s")),
        (
            folder / "metrics.json",
            ("reach_3", "held-out", f"{scores(folder)['reach_3', 'r_elbow_flex', 'calibrated']:.3f}"),
        ),
        (asset_path("arm/model.json"), ("arm26", "CC BY", "TRIlong")),
        (study, ("reach_3 0.00-1.50 s", "held-out", "electromechanical_delay", "none: passive")),
    ):
        ran = run("inspect", file)
        assert (ran.code, ran.err) == (0, ""), file
        for text in expected:
            assert text in ran.out, (file, text, ran.out)


def test_inspect_shows_scores_that_a_file_has_as_null(calibrated, tmp_path):
    _, folder, _ = calibrated
    record = json.loads((folder / "subject.json").read_text())
    record["metrics"][0]["r2"] = None  # as written where a moment is constant
    (tmp_path / "subject.json").write_text(json.dumps(record))
    ran = run("inspect", tmp_path / "subject.json")
    assert ran.code == 0, ran


# --- fit-paths ----------------------------------------------------------


def test_fit_paths_writes_a_model_that_follows_the_direct_geometry(tmp_path):
    joint, muscle = "crank_angle", "plain"
    output = tmp_path / "new" / "model.json"
    ran = run("fit-paths", OSIM, "--coordinates", joint, "--muscles", muscle, "--ranges=-20:20", "-o", output)
    assert (ran.code, ran.err) == (0, "")
    model = read_model_file(output)
    assert (model.coordinates, model.muscles) == ((joint,), (muscle,))
    assert model.paths is not None
    assert model.parameters["max_isometric_force"][muscle] == read_osim(OSIM).muscle(muscle).max_isometric_force
    poses = np.radians([[-17.0], [3.0], [19.0]])
    lengths, arms = sample_paths(read_osim(OSIM), [muscle], [joint], poses)
    for q, length, arm in zip(poses, lengths, arms, strict=True):
        fitted_length, fitted_arm = lengths_and_moment_arms(model.paths, q)
        np.testing.assert_allclose(fitted_length, length, atol=2e-4)
        np.testing.assert_allclose(fitted_arm, arm, atol=1e-3)
    assert muscle in ran.out


CRANK = ("--coordinates", "crank_angle")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--coordinates", "no_joint"], "no coordinate 'no_joint'"),
        (["--coordinates", " ,"], "--coordinates is empty; name"),
        (["--coordinates", "bend"], "no muscle crosses 'bend'; name other"),
        ([*CRANK, "--muscles", "plan"], "'plan'; did you mean 'plain'"),
        ([*CRANK, "--ranges=20"], "'20'; expected 'low:high'"),
        (CRANK, "geometry.osim: 'crank_angle' from -572.958 to 572.958 deg"),
        ([*CRANK, "--ranges=20:10"], "'crank_angle' from 20 to 10 deg is no range to fit over; give low < high"),
        ([*CRANK, "--ranges=nan:10"], "'crank_angle' from nan to 10 deg"),
        ([*CRANK, "--ranges=1:2,3:4"], "2 entries for 1 coordinates"),
        ([*CRANK, "--ranges=-9:9", "--sampler", "guess"], "--sampler is 'guess'; use 'direct'"),
        ([*CRANK, "-o", "model.xml"], "'model.xml'; expected a file name that ends in .json"),
        ([*CRANK, "-o", "a.txt/model.json"], "a.txt is not a folder"),
    ],
)
def test_fit_paths_refuses(tmp_path, monkeypatch, options, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("")
    assert expected in refused("fit-paths", OSIM, *options)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_fit_paths_takes_ranges_from_a_recording_and_leaves_out_what_it_cannot_fit(tmp_path):
    text = (REFERENCE / "two_link.osim").read_text()
    model = tmp_path / "model.osim"
    model.write_text(text.replace("<optimal_fiber_length>0.10000000000000001<", "<optimal_fiber_length>1e-9<", 1))
    time = np.linspace(0.0, 1.0, 51)
    motion = tmp_path / "ik.mot"
    knee = np.where(time > 0.8, 3.0, -0.6 + 0.5 * np.sin(6 * time))
    write_table(motion, ["knee_flex"], time, np.degrees(knee[:, None] - 2 * np.pi), in_degrees=True)
    output = tmp_path / "paths.json"
    asked = ("fit-paths", model, "--coordinates", "knee_flex", "--motion", motion, "--end", "0.8", "-o", output)
    ran = run(*asked)
    assert ran.code == 0, ran
    assert "left out: 'flexor'" in ran.out
    assert "optimal_fiber_length of muscle 'flexor'" in ran.out
    fitted = read_model_file(output)
    assert fitted.muscles == ("biart",)
    low, high = np.degrees(fitted.paths.domain)[0]
    # What was reached, a tenth of it more, and the margin of every fit.
    assert low == pytest.approx(np.degrees(-1.1 - 0.1) - 5, abs=0.5)
    assert high == pytest.approx(np.degrees(-0.1 + 0.1) + 5, abs=0.5)
    assert "--ranges and --motion both" in refused(*asked, "--ranges=-9:9")
    assert "'flexor' (Millard2012EquilibriumMuscle) is 1e-09" in refused(*asked, "--muscles", "flexor")


@pytest.mark.filterwarnings("always")
def test_fit_paths_and_inspect_say_which_constraints_are_not_modelled(tmp_path):
    text = (REFERENCE / "two_link.osim").read_text()
    constraint = (
        '<ConstraintSet name="constraintset"><objects><PointConstraint name="foot_on_step">'
        "<socket_body_2>/bodyset/shank</socket_body_2></PointConstraint></objects></ConstraintSet>"
    )
    model = tmp_path / "model.osim"
    model.write_text(text.replace("<length_units>", f"{constraint}<length_units>", 1))
    ran = run("fit-paths", model, "--coordinates", "knee_flex", "-o", tmp_path / "paths.json")
    assert ran.code == 0, ran
    said = "constraint 'foot_on_step' (PointConstraint) is not modelled"
    assert said in ran.err
    assert said in run("inspect", model).out


# --- refusals -----------------------------------------------------------


def bad_study(folder: Path, old: str, new: str) -> Path:
    path = write_study(folder)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('file = "reach_1.npz"', 'file = "gone.npz"', "study.toml.*no such file.*gone.npz.*correct the path"),
        ('moments = "moments"', 'moments = "torques"', "reach_1.npz: no array 'torques'.*There are"),
        ('["TRIlong"]', '["TRIlonk"]', "model.json.*no muscle 'TRIlonk'; did you mean 'TRIlong'"),
        ('"r_elbow_flex"]', '"elbow"]', "model.json.*no coordinate 'elbow'"),
        ('["TRIlong"]', "[]", "'triceps_long' is mapped to nothing; give the muscles"),
        ("train = true", "train = [[1.0, 1.0]]", "window 1 to 1 s is empty.*choose start < stop"),
        ('"asset:arm"', '"${NMS_GYM_NOWHERE}/m.osim"', "NMS_GYM_NOWHERE is not set; set it"),
        ("[solver]", "[start]\noptimal_fiber_length = -0.1\n[solver]", "of 'BIClong' is -0.1 m; allowed"),
        ("train = true", "held_out = true", "no trial has a training window"),
        ("emg_gain = {}", "emg_gian = {}", "unknown parameter 'emg_gian'; did you mean 'emg_gain'"),
    ],
)
def test_calibrate_refuses_in_one_line_and_writes_nothing(tmp_path, old, new, expected):
    (tmp_path / "in").mkdir()
    study = bad_study(tmp_path / "in", old, new)
    message = refused("calibrate", study, "-o", tmp_path / "out")
    assert re.search(expected, message), message
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_an_output_that_cannot_be_is_refused_before_the_fit(calibrated, tmp_path):
    study, folder, _ = calibrated
    (tmp_path / "taken").write_text("mine")
    for out in (tmp_path / "taken", tmp_path / "taken" / "deeper"):
        assert "taken is not a folder; choose another" in refused("calibrate", study, "-o", out)
        trial = folder / "trials" / "reach_3.npz"
        assert "taken is not a folder" in refused("predict", folder / "subject.json", trial, "-o", out)
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "expected"),
    [(["--solver", "sgd"], "no solver 'sgd'; there are 'lm'"), (["--starts", "0"], "starts is 0; at least 1")],
)
def test_bad_overrides_are_refused(calibrated, tmp_path, options, expected):
    assert expected in refused("calibrate", calibrated[0], *options, "-o", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def newer(record):
    record["version"] = 99


def without_name(record):
    del record["muscles"]


def with_negative_length(record):
    record["parameters"]["tendon_slack_length"]["entries"]["BRA"]["value"] = -0.1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (newer, "version 99; this program reads versions '1', '2'; update nms-gym"),
        (without_name, "'muscles' is missing"),
        (with_negative_length, "tendon_slack_length of 'BRA' is -0.1"),
    ],
)
def test_a_bad_subject_file_is_refused(calibrated, tmp_path, change, expected):
    _, folder, _ = calibrated
    record = json.loads((folder / "subject.json").read_text())
    change(record)
    (tmp_path / "subject.json").write_text(json.dumps(record))
    trial = folder / "trials" / "reach_3.npz"
    for command in (("predict", tmp_path / "subject.json", trial, "-o", tmp_path / "out"),
                    ("inspect", tmp_path / "subject.json")):  # fmt: skip
        message = refused(*command)
        assert expected in message
        assert "subject.json" in message
    assert not (tmp_path / "out").exists()


def cut_archive(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("name", "make", "expected"),
    [
        ("gone.npz", None, "gone.npz: no such"),
        ("text.npz", lambda p: p.write_text("no archive"), "text.npz: not a readable .npz"),
        ("raw.npz", lambda p: np.savez(p, q=np.zeros(3)), "raw.npz: not a trial file"),
        ("cut.npz", cut_archive, "cut.npz: not a readable .npz"),
    ],
)
def test_predict_refuses_a_bad_trial(calibrated, tmp_path, name, make, expected):
    _, folder, _ = calibrated
    if make is not None:
        (tmp_path / name).write_bytes((folder / "trials" / "reach_3.npz").read_bytes())
        make(tmp_path / name)
    assert expected in refused("predict", folder / "subject.json", tmp_path / name, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_predict_refuses_two_trials_of_one_name(calibrated, tmp_path):
    _, folder, _ = calibrated
    trial = folder / "trials" / "reach_3.npz"
    assert "two trials are called 'reach_3'" in refused(
        "predict", folder / "subject.json", trial, trial, "-o", tmp_path / "out"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("gone.sto", None, "gone.sto: no such file"),
        ("a.xyz", b"", "cannot inspect a .xyz"),
        ("a.json", b"[1", "a.json: not a JSON file"),
        ("b.json", b"{}", "b.json: format None"),
        ("m.json", b'{"format": "nms_gym.metrics"}', "m.json: 'rows' is no list"),
        ("a.npz", b"", "a.npz: not a readable .npz"),
        ("a.osim", b"<no", "a.osim"),
        ("a.sto", b"time\tx\n0\t1\n0\t2\n", "a.sto: time repeats"),
        ("a.toml", b"= 1", "a.toml: not a TOML file"),
    ],
)
def test_inspect_refuses(tmp_path, name, content, expected):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert expected in refused("inspect", tmp_path / name)


def test_warnings_are_one_line_without_source_code(capsys):
    cli._show_warning(UserWarning("the header says degrees"), UserWarning, "storage.py", 3)
    assert capsys.readouterr().err == "nms-gym: warning: the header says degrees\n"


def test_a_damaged_file_of_the_compilation_cache_is_replaced(tmp_path, monkeypatch, capsys):
    """JAX's own words; it never writes over a file that is there."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    for name in ("jit_step-0a1b-cache", "jit_step_more-0a1b-cache"):
        (tmp_path / name).write_bytes(b"half")
    words = "Error reading persistent compilation cache entry for 'jit_step': error: Error -5 while decompressing data"
    cli._show_warning(UserWarning(words), UserWarning, "compiler.py", 782)
    assert capsys.readouterr().err == (
        f"nms-gym: warning: a damaged file of the compilation cache in {tmp_path} is replaced (jit_step)\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["jit_step_more-0a1b-cache"]


# --- as a program of its own --------------------------------------------


def program(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    # As from a shell: pytest's workers set the width of the terminal, and JAX, once imported, XLA's log level.
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "TF_CPP_MIN_LOG_LEVEL")}
    environment |= {"PYTHONPATH": str(REPOSITORY), "NMS_GYM_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, "-m", "nms_gym.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_program_refuses_with_code_2_and_no_traceback(tmp_path):
    done = program("calibrate", "study.toml", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "nms-gym: study.toml: cannot read the study: No such file or directory\n"
    done = program("calibrat", folder=tmp_path)
    assert done.returncode == 2
    assert "No such command" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_demo_runs_from_start_to_end(tmp_path):
    done = program("demo", "-o", "out", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = scores(tmp_path / "out")
    for joint in ("r_shoulder_elev", "r_elbow_flex"):
        assert found["reach_3", joint, "calibrated"] > max(0.8, found["reach_3", joint, "uncalibrated"])
        assert re.search(rf"held-out: reach_3 +{joint} +calibrated", done.stdout)
    assert re.search(r"random action: \d+ steps, return -", done.stdout)
    assert "action drives 'BRA'" in done.stdout
    assert str(tmp_path / "out" / "report.html") in done.stdout
    assert (tmp_path / "out" / "report.html").is_file()


# --- other people's formats ---------------------------------------------


def test_export_to_opensim(calibrated, tmp_path, data):
    """The arm's muscles go back into arm26 by name; reading it gives the calibrated values."""
    _, folder, _ = calibrated
    original = data("arm26_elbow") / "original" / "arm26.osim"
    ran = run("export", folder / "subject.json", "--from", original, "-o", tmp_path / "mine.osim")
    assert (ran.code, ran.err) == (0, "")
    assert "muscles changed" in ran.out
    person, model = load_subject(folder / "subject.json"), read_osim(tmp_path / "mine.osim")
    for i, muscle in enumerate(person.model.muscles):
        assert model.muscle(muscle).optimal_fiber_length == person.params.optimal_fiber_length[i]
    before = read_osim(original)
    assert model.muscle("BRA").max_isometric_force != before.muscle("BRA").max_isometric_force


def test_export_refuses_another_format(calibrated, tmp_path):
    _, folder, _ = calibrated
    message = refused("export", folder / "subject.json", "--from", "model.osim", "-o", tmp_path / "mine.xml")
    assert "both must be .osim, or both CEINMS subjects" in message


def test_calibrate_ceinms_writes_nothing_that_is_not_finite(tmp_path, data, monkeypatch):
    from calibration.ceinms import calibrate
    from calibration.fitting import Status

    monkeypatch.setattr(calibrate, "calibrate_ceinms", lambda *_, **__: SimpleNamespace(status=Status.NOT_FINITE))
    folder = data("ceinms_format_example")
    files = (folder / f"{name}.xml" for name in ("calibration_stiff", "uncalibrated", "excitationGenerator"))
    message = refused("calibrate-ceinms", *files, "-o", tmp_path / "mine.xml")
    assert re.search(r"calibration_stiff.xml: no start has a finite cost.*nothing was written", message)
    assert not (tmp_path / "mine.xml").exists()


@pytest.mark.slow
def test_calibrate_ceinms(tmp_path, data):
    """From CEINMS's files to a CEINMS subject, with its objective far below the uncalibrated one's 50.09."""
    folder = data("ceinms_format_example")
    files = (folder / f"{name}.xml" for name in ("calibration_stiff", "uncalibrated", "excitationGenerator"))
    again = folder / "calib" / "trial.xml"
    (tmp_path / "next").mkdir()
    text = re.sub(r">(\w+\.sto)<", rf">{again.parent}/\1<", again.read_text())
    (tmp_path / "next" / "trial.xml").write_text(text)
    unseen = ("--held-out", tmp_path / "next" / "trial.xml", "--scores", tmp_path / "scores.json")
    ran = run("calibrate-ceinms", *files, "-o", tmp_path / "mine.xml", *unseen)
    assert (ran.code, ran.err) == (0, "")
    found = [float(x) for x in re.findall(r"f = ([\d.]+)", ran.out)]
    assert found[:2] == found[2:]  # the held-out trial is the fitted one once more
    assert "next, held out, calibrated: f = " in ran.out
    rows = json.loads((tmp_path / "scores.json").read_text())["rows"]
    assert [(r["segment"], r["split"], r["set"]) for r in rows[2:6:2]] == [
        ("calib", "train", "calibrated"),
        ("next", "held-out", "uncalibrated"),
    ]
    assert found[0] == pytest.approx(50.091, abs=1e-3)
    assert found[1] < 0.15
    mine, start = (read_ceinms_subject(p) for p in (tmp_path / "mine.xml", folder / "uncalibrated.xml"))
    assert mine.muscle_names == start.muscle_names


def test_a_user_without_a_home(tmp_path):
    """As in a container that runs under a number nobody has."""
    code = (
        "import pathlib, sys\n"
        "def home(): raise RuntimeError('Could not determine home directory.')\n"
        "pathlib.Path.home = staticmethod(home)\n"
        "from nms_gym.cli import main\n"
        "sys.argv = ['nms-gym', 'inspect', sys.argv[1]]; main()"
    )
    (tmp_path / "a.csv").write_text("time,x\n0,1\n1,2\n")
    unset = ("HOME", "XDG_CACHE_HOME", "NMS_GYM_CACHE_DIR")
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.csv")],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 rows" in done.stdout
