"""What the model leaves unexplained: learned near the recordings, forgotten away from them, and never hidden."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from models import THREE_CHANNELS, arm_model, arm_params

from calibration.fitting import fit
from calibration.problem import DEFAULT_FREE
from calibration.synthetic import Errors, make_person
from calibration.uncertainty.analysis import CORRECTED, analyse
from calibration.uncertainty.discrepancy import (
    BETWEEN_RECORDINGS,
    Corrections,
    Discrepancy,
    corrected_moments,
    discrepancy_inputs,
    evaluate_corrected,
    fit_discrepancy,
    load_corrections,
    save_corrections,
)
from calibration.validation import evaluate, predict_segment
from nms_gym.errors import InputError

MODEL = arm_model(THREE_CHANNELS, tendon="rigid")
START = arm_params(MODEL)
FREE = tuple(DEFAULT_FREE[kind] for kind in ("emg_gain", "max_isometric_force"))
MOTION = {"middle": (0.2, 1.1), "reach": (0.4, 0.6), "seconds": 4.0}


@pytest.fixture(scope="module")
def person():
    """Whose measured moments hold something that no muscle makes: a spring at one joint."""
    made = make_person(MODEL, START, FREE, seed=3, unseen=1, errors=Errors(emg_noise=0.0), **MOTION)

    def sprung(segment):
        angle = segment.q[:, segment.moving.index(segment.coordinates[-1])]
        extra = np.zeros_like(segment.measured)
        extra[:, -1] = 8.0 * np.sin(3.0 * (angle - 1.1))
        return dataclasses.replace(segment, measured=segment.measured + extra)

    problem = dataclasses.replace(made.problem, segments=tuple(map(sprung, made.problem.segments)))
    return dataclasses.replace(made, problem=problem, unseen=tuple(map(sprung, made.unseen)))


@pytest.fixture(scope="module")
def learned(person):
    return fit_discrepancy(person.problem.model, person.params, person.problem.segments)


def test_a_spring_is_learned_and_predicts_an_unseen_motion(person, learned):
    model, params = person.problem.model, person.params
    plain = evaluate(model, params, person.unseen)[-1]
    corrected = evaluate_corrected(model, params, learned, person.unseen)[-1]
    assert corrected.rmse < 0.4 * plain.rmse
    (unseen,) = person.unseen
    moments, sd = corrected_moments(model, learned, unseen, predict_segment(model, params, unseen))
    inside = (np.abs(moments - unseen.measured) < 1.645 * sd)[unseen.scored].mean(axis=0)
    assert (inside > 0.75).all()
    # Beside the simplest rival: a band as wide everywhere, the spread of the errors.
    assert 1.645 * sd[unseen.scored, -1].mean() < 1.645 * plain.rmse


def test_away_from_the_recordings_it_is_zero_and_as_uncertain_as_at_first(learned):
    far = learned.points[:3] + 50.0 * learned.length
    name = str(learned.recordings[0])
    np.testing.assert_allclose(learned.mean(far, name), 0.0, atol=1e-9)
    np.testing.assert_allclose(learned.spread(far, name), np.broadcast_to(learned.sd, (3, len(learned.sd))))
    near = learned.spread(learned.points, name)
    assert (near < learned.sd).all()


def test_another_recording_is_less_certain_than_the_next_stretch_of_the_same(learned):
    same, other = (learned.spread(learned.points, name) for name in (str(learned.recordings[0]), "another"))
    assert (other > same).all()
    # What perfectly known recordings leave open of one more, all equally correlated.
    r, count = BETWEEN_RECORDINGS, len(set(learned.recordings))
    assert (other**2 > (1 - count * r**2 / (1 + (count - 1) * r)) * learned.sd**2 * 0.999).all()


def test_a_process_is_the_textbook_one():
    """One joint, one input, against the closed form of two points."""
    found = Discrepancy(
        coordinates=("elbow",),
        inputs=("angle of elbow",),
        length=np.array([1.0]),
        points=np.array([[0.0], [1.0]]),
        recordings=np.array(["a", "a"]),
        errors=np.array([[1.0], [-2.0]]),
        sd=np.array([2.0]),
        noise=np.array([0.5]),
        dependent=4.0,
        rows=np.arange(2),
    )
    k = 4.0 * np.exp([[0.0, -0.5], [-0.5, 0.0]]) + np.eye(2)  # noise variance 0.25, four times
    across = 4.0 * np.exp([-0.5 * 0.25, -0.5 * 0.25])
    x = np.array([[0.5]])
    np.testing.assert_allclose(found.mean(x, "a"), [[across @ np.linalg.solve(k, [1.0, -2.0])]], rtol=1e-12)
    np.testing.assert_allclose(found.spread(x, "a") ** 2, [[4.0 - across @ np.linalg.solve(k, across)]], rtol=1e-12)
    many = found.mean(x, "a", np.stack([found.errors, 2 * found.errors], axis=1))
    np.testing.assert_allclose(many[:, 1], 2 * many[:, 0])


def test_without_motion_there_is_none(person):
    still = [dataclasses.replace(s, moving=(), q=None, qd=None) for s in person.problem.segments]
    with pytest.raises(InputError, match="lacks angles of"):
        fit_discrepancy(person.problem.model, person.params, still)
    with pytest.raises(InputError, match="no training window"):
        fit_discrepancy(person.problem.model, person.params, [])


def test_analysis_has_it_in_bands_and_rows_and_files_keep_it(person, tmp_path):
    problem = person.problem
    result = fit(problem, starts=1)
    analysis = analyse(problem, result, {"unseen": person.unseen}, samples=24)
    assert analysis.corrections is not None
    joint = problem.coordinates[-1]
    plain = {m.coordinate: m for m in evaluate(problem.model, result.params, person.unseen)}[joint]
    (row,) = [r for r in analysis.corrected if r["split"] == "held-out" and r["coordinate"] == joint]
    assert row["set"] == CORRECTED
    assert row["rmse"] < 0.6 * plain.rmse
    training, unseen = analysis.bands
    assert training.coverage[joint] > 0.85
    assert unseen.coverage[joint] > 0.7
    assert unseen.half_width[joint] > training.half_width[joint]
    json.dumps(unseen.rows())

    save_corrections(tmp_path / "discrepancy.npz", analysis.corrections)
    again = load_corrections(tmp_path / "discrepancy.npz", result.params)
    assert isinstance(again, Corrections)
    np.testing.assert_allclose(again.errors, analysis.corrections.errors, atol=1e-4)
    (segment,) = person.unseen
    _, x = discrepancy_inputs(problem.model, segment, predict_segment(problem.model, result.params, segment))
    asked = x, segment.recording
    ours = analysis.corrections.discrepancy
    np.testing.assert_array_equal(again.discrepancy.mean(*asked), ours.mean(*asked))
    np.testing.assert_array_equal(again.discrepancy.spread(*asked), ours.spread(*asked))
    names = dataclasses.replace(ours, inputs=ours.inputs[::-1])
    with pytest.raises(InputError, match="was learned for"):
        corrected_moments(problem.model, names, segment, predict_segment(problem.model, result.params, segment))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": np.array(9)}, "version"),
        ({"sd": np.array([1.0])}, "wrong size"),
        ({"noise": np.array([np.nan, 1.0])}, "not finite"),
        ({"points": None}, "lacks 'points'"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(learned, person, tmp_path, change, says):
    file = tmp_path / "discrepancy.npz"
    save_corrections(file, Corrections(learned, person.params, np.zeros((2, *learned.errors.shape))))
    with np.load(file) as stored:
        arrays = {**stored, **change}
    np.savez(file, **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(InputError, match=says):
        load_corrections(file, person.params)
