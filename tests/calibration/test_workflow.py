"""From a study to a saved person: the same numbers every time, in files that say where they came from."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from helpers import REPOSITORY

from calibration.fitting import Status
from calibration.study import calibrate as calibrating
from calibration.study import predict as predicting
from calibration.study.calibrate import calibrate
from calibration.study.predict import predict, score
from calibration.study.read import Study, read_study
from calibration.study.results import write_predictions, write_results
from nms_gym._assets import asset_path
from nms_gym.errors import InputError
from nms_gym.files.folder import require_folder
from nms_gym.files.subject import load_subject
from nms_gym.model.parameters import PARAMETER_KINDS
from nms_gym.model.trained_range import departures
from nms_gym.recording.trial import load_trial

STUDY = """\
name = "short"
coordinates = ["r_elbow_flex"]
dt = 0.01
[model]
file = "asset:arm"
passive_muscles = ["BRA"]
[settings]
tendon = "rigid"
[emg]
kind = "envelope"
[channels]
biceps = ["BIClong", "BICshort"]
triceps_long = ["TRIlong"]
triceps_lateral = ["TRIlat", "TRImed"]
[free.max_isometric_force]
bounds = [0.5, 2.0]
prior_sd = 0.3
share = "all"
[free.electromechanical_delay]
bounds = [0.0, 0.1]
prior_sd = 0.02
[solver]
starts = 2
max_iterations = 7
tolerance = 0
[[trials]]
trial = "reach_1.npz"
train = true
[[trials]]
trial = "reach_3.npz"
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """1.2 s of two shipped trials; two kinds of parameter free."""
    folder = tmp_path_factory.mktemp("study")
    for name in ("reach_1", "reach_3"):
        load_trial(asset_path(f"demo/{name}.npz")).window(0.0, 1.2).save(folder / f"{name}.npz")
    (folder / "study.toml").write_text(STUDY)
    return read_study(folder / "study.toml")


@pytest.fixture(scope="module")
def outcome(study):
    return calibrate(study)


def test_one_seed_gives_one_result(study, outcome):
    again = calibrate(study, evaluate=False)
    for kind in PARAMETER_KINDS:
        np.testing.assert_array_equal(getattr(again.result.params, kind), getattr(outcome.result.params, kind))
    np.testing.assert_array_equal(again.result.history, outcome.result.history)
    assert again.rows == []


def test_rows_are_what_the_predictions_are_worth(study, outcome):
    held_out = study.held_out["reach_3"][0]
    (p,) = predict(outcome.subject, [study.trials["reach_3"]])
    held_out = held_out.without_lead_in()
    error = np.asarray(p.output.moments)[:, 0] - held_out.measured[:, 0]
    (row,) = [r for r in outcome.rows if r["split"] == "held-out" and r["set"] == "calibrated"]
    assert row["r2"] == pytest.approx(
        1 - np.sum(error**2) / np.sum((held_out.measured - held_out.measured.mean()) ** 2)
    )
    assert row["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)))


def test_bounds_and_priors_are_in_the_unit_of_the_parameter(study, outcome):
    subject = outcome.subject
    for i, muscle in enumerate(study.model.muscles):
        strength = study.start.max_isometric_force[i]
        low, high = subject.bounds["max_isometric_force"][muscle]
        assert (low, high) == pytest.approx((0.5 * strength, 2.0 * strength))
        assert subject.prior_sd["max_isometric_force"][muscle] == pytest.approx(0.3 * strength)
    for channel in study.model.channels:
        assert subject.bounds["electromechanical_delay"][channel] == pytest.approx((0.0, 0.1), abs=1e-12)
        assert subject.prior_sd["electromechanical_delay"][channel] == pytest.approx(0.02)
    assert set(subject.bounds) == {"max_isometric_force", "electromechanical_delay"}
    # What was not free did not move, and what was shared moved alike.
    np.testing.assert_array_equal(subject.params.optimal_fiber_length, study.start.optimal_fiber_length)
    ratio = np.asarray(subject.params.max_isometric_force) / study.start.max_isometric_force
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-12)
    assert ratio[0] != 1.0


def test_results_read_back(study, outcome, tmp_path):
    written = write_results(tmp_path / "a" / "b", study, outcome, report=False)
    assert [p.name for p in written] == ["subject.json", "metrics.json", "reach_1.npz", "reach_3.npz"]
    subject = load_subject(written[0])
    for kind in PARAMETER_KINDS:
        np.testing.assert_array_equal(getattr(subject.params, kind), getattr(outcome.result.params, kind))
        np.testing.assert_array_equal(getattr(subject.start, kind), getattr(study.start, kind))
    assert subject.calibration["training_windows"] == ["reach_1 0.00-1.20 s"]
    assert subject.calibration["coordinates"] == ["r_elbow_flex"]
    assert subject.calibration["emg_reference"] == json.loads(written[1].read_text())["emg_reference"] == "none"
    assert subject.sources == study.sources
    assert subject.synthetic  # the shipped trials are
    rows = json.loads(written[1].read_text())["rows"]
    assert rows == [dict(row) for row in outcome.rows]
    for name, trial in study.trials.items():
        np.testing.assert_array_equal(load_trial(tmp_path / "a" / "b" / "trials" / f"{name}.npz").emg, trial.emg)


def test_an_interrupted_fit_is_a_result(study, outcome):
    def stop(progress):
        raise KeyboardInterrupt

    stopped = calibrate(study, progress=stop)
    assert stopped.result.status is Status.INTERRUPTED
    assert stopped.subject.calibration["status"] == "INTERRUPTED"
    assert outcome.result.cost <= stopped.result.cost < stopped.result.start_cost
    assert np.isfinite([row["rmse"] for row in stopped.rows]).all()


def test_ctrl_c_before_the_first_iteration_is_no_result(study, outcome, monkeypatch):
    nothing = dataclasses.replace(outcome.result, status=Status.NOT_FINITE, history=np.empty((0, 2)))
    monkeypatch.setattr(calibrating, "fit", lambda *_, **__: nothing)
    with pytest.raises(KeyboardInterrupt):
        calibrate(study)
    failed = dataclasses.replace(outcome.result, status=Status.NOT_FINITE)
    monkeypatch.setattr(calibrating, "fit", lambda *_, **__: failed)
    with pytest.raises(InputError, match="study 'short': no start has a finite cost: check lengths"):
        calibrate(study)


def test_progress_counts_up_to_the_end(study):
    seen = []
    calibrate(study, progress=seen.append, evaluate=False)
    assert [p.iteration for p in seen] == sorted(p.iteration for p in seen)
    assert seen[-1].iteration >= seen[-1].max_iterations == 7
    assert seen[-1].cost <= seen[0].cost


def test_the_elbow_alone_is_predicted_where_the_elbow_alone_was_fitted(study, outcome):
    (p,) = predict(outcome.subject, [study.trials["reach_1"]])
    assert p.segment.coordinates == ("r_elbow_flex",)
    assert np.asarray(p.output.moments).shape == (121, 1)


def test_predictions_that_are_no_numbers_are_refused(study, outcome, monkeypatch):
    real = predicting.predict_segment

    def broken(*arguments):
        output = real(*arguments)
        return dataclasses.replace(output, moments=output.moments * np.nan)

    monkeypatch.setattr(predicting, "predict_segment", broken)
    with pytest.raises(InputError, match="'reach_1': the predicted moments are not finite"):
        predict(outcome.subject, [study.trials["reach_1"]])


def test_predictions_without_measured_moments_have_no_scores_but_say_how_far_they_leave_training(
    study, outcome, tmp_path
):
    trial = study.trials["reach_3"]
    louder = dataclasses.replace(trial, moments=None, moment_coordinates=(), emg=3.0 * trial.emg)
    written, rows = write_predictions(
        tmp_path / "p", outcome.subject, predict(outcome.subject, [louder]), emg_reference="as asked"
    )
    assert rows == []
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == sorted(p.name for p in written)
    record = json.loads((tmp_path / "p" / "metrics.json").read_text())
    assert (record["rows"], record["emg_reference"]) == ([], "as asked")
    (check,) = record["trained_range"]
    assert (check["split"], check["segment"], check["not_recorded"]) == ("", "reach_3", [])
    leaving = {row["name"] for row in check["outside"] if row["quantity"] == "emg" and row["leaves"]}
    assert leaving == {row.name for row in departures(outcome.subject.trained, louder).leaving if row.quantity == "emg"}
    assert leaving
    assert set(check["saturated"]) == set(outcome.subject.model.recorded_muscles)


def test_the_subject_keeps_what_the_training_windows_hold(study, outcome, tmp_path):
    written = write_results(tmp_path, study, outcome, report=False)
    trained, (window,) = load_subject(written[0]).trained, study.train
    assert set(trained.emg) == set(study.model.channels)
    assert set(trained.angle) == set(trained.speed) == set(study.model.coordinates)
    trial = study.trials["reach_1"]
    elbow = trial.coordinates.index("r_elbow_flex")
    assert trained.angle["r_elbow_flex"].most == trial.q[:, elbow].max()
    assert trained.speed["r_elbow_flex"].least == trial.qd[:, elbow].min()
    assert departures(trained, window).leaving == ()
    record = json.loads(written[1].read_text())
    (check,) = record["trained_range"]  # held-out windows only: training ones are inside
    assert (check["split"], check["segment"]) == ("held-out", "reach_3")
    assert "bands" not in record


def test_a_saved_person_is_scored_on_a_study_as_its_calibration_was(study, outcome):
    scored = score(outcome.subject, study)
    assert [dict(row) for row in scored.rows] == [dict(row) for row in outcome.rows]
    assert [(check.split, check.label) for check in scored.ranges] == [
        ("train", "training windows"),
        ("held-out", "reach_3"),
    ]
    assert scored.bands == ()
    newcomer = dataclasses.replace(outcome.subject, start=None)
    assert {row["set"] for row in score(newcomer, study).rows} == {"calibrated"}
    empty = dataclasses.replace(study, train_windows=(), held_out_windows={})
    with pytest.raises(InputError, match="study 'short' has no training or held-out windows to score 'short' on"):
        score(outcome.subject, empty)


def test_a_folder_is_judged_without_being_made(tmp_path):
    require_folder(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is not a folder; choose another output folder"):
        require_folder(tmp_path / "file" / "b")


@pytest.mark.slow
def test_walking_calibrated_on_one_stride_predicts_the_next_stance(data, monkeypatch):
    monkeypatch.setenv("NMS_GYM_DATA", str(data("rajagopal_walk").parent))
    outcome = calibrate(read_study(REPOSITORY / "examples" / "configs" / "rajagopal_walk.toml"))
    r2 = {(r["coordinate"], r["set"]): r["r2"] for r in outcome.rows if r["split"] == "held-out"}
    assert len(r2) == 4
    # Measured: 0.93 and 0.66.
    assert r2["ankle_angle_r", "calibrated"] > max(0.85, r2["ankle_angle_r", "uncalibrated"])
    assert r2["knee_angle_r", "calibrated"] > max(0.5, r2["knee_angle_r", "uncalibrated"])
