"""What a fit has seen, how far a recording leaves it, and how much EMG asks for more than full excitation."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from models import arm_model, arm_params, reach

from nms_gym.errors import InputError
from nms_gym.model.replay import make_segment
from nms_gym.model.trained_range import (
    Range,
    TrainedRange,
    departures,
    range_from_json,
    range_to_json,
    saturation,
    trained_range,
)

MODEL = arm_model({"front": {"BIClong": 1.0, "BICshort": 0.5}, "back": {"TRIlong": 1.0}})
TRIAL = reach(MODEL.channels)
SHOULDER, ELBOW = MODEL.coordinates


def changed(trial=TRIAL, **factors):
    """The trial with channels and angles scaled, by name."""
    emg = trial.emg * [factors.get(c, 1.0) for c in trial.channels]
    by = np.array([factors.get(c, 1.0) for c in trial.coordinates])
    return dataclasses.replace(trial, emg=emg, q=trial.q * by, qd=trial.qd * by)


def test_the_range_is_that_of_the_counted_samples():
    segment = make_segment(MODEL, TRIAL, start=0.3, lead_in=0.2)
    seen = trained_range([segment])
    inside = TRIAL.time >= 0.3 - 1e-9
    for i, c in enumerate(TRIAL.channels):
        values = TRIAL.emg[inside, i]  # on one grid with the motion
        expected = (*np.percentile(values, [1, 99]), values.min(), values.max())
        assert dataclasses.astuple(seen.emg[c]) == pytest.approx(expected, abs=1e-9)
    for i, c in enumerate(TRIAL.coordinates):
        assert (seen.angle[c].least, seen.angle[c].most) == (TRIAL.q[inside, i].min(), TRIAL.q[inside, i].max())
        assert (seen.speed[c].least, seen.speed[c].most) == (TRIAL.qd[inside, i].min(), TRIAL.qd[inside, i].max())
    both = trained_range([segment, make_segment(MODEL, changed(back=3.0), name="louder")])
    assert both.emg["back"].most == pytest.approx(3.0 * TRIAL.emg[:, 1].max())


@pytest.mark.parametrize("cut", [lambda trial: trial, lambda trial: make_segment(MODEL, trial)])
def test_what_was_trained_on_stays_inside_and_what_is_larger_does_not(cut):
    seen = trained_range([make_segment(MODEL, TRIAL)])
    same = departures(seen, cut(TRIAL))
    assert {(row.quantity, row.name) for row in same.rows} == {
        *(("emg", c) for c in MODEL.channels),
        *((quantity, c) for quantity in ("angle", "speed") for c in MODEL.coordinates),
    }
    assert (same.leaving, same.not_recorded, same.not_trained) == ((), (), ())
    assert max(row.excess for row in same.rows) == 0.0
    # Twice the envelope: beyond the margin whenever the old one was above half of the limit.
    (louder,) = departures(seen, cut(changed(back=2.0))).leaving
    assert (louder.quantity, louder.name) == ("emg", "back")
    assert louder.excess == pytest.approx(1.0)
    assert louder.outside == pytest.approx(np.mean(2 * TRIAL.emg[:, 1] > seen.limits("emg", "back")[1]))
    assert departures(seen, cut(changed(back=0.0, front=0.1))).leaving == ()  # a muscle at rest is inside


def test_an_excess_of_motion_is_a_multiple_of_the_trained_width():
    seen = TrainedRange({}, {ELBOW: Range(1.0, 2.0, 0.9, 2.1)}, {SHOULDER: Range(0.0, 0.0, 0.0, 0.0)})
    assert seen.limits("angle", ELBOW) == pytest.approx((0.95, 2.05))
    q = np.array([1.0, 2.0, 2.04, 3.3])[:, None] * np.array([0.0, 1.0])
    trial = dataclasses.replace(TRIAL, time=0.01 * np.arange(4), q=q, qd=0 * q, moments=None, moment_coordinates=())
    found = departures(seen, trial)
    elbow, still = found.rows
    assert (elbow.outside, elbow.excess) == (0.25, pytest.approx(1.2 / 1.2))
    assert (still.outside, still.excess, still.leaves) == (0.0, 0.0, False)
    moved = departures(seen, dataclasses.replace(trial, qd=trial.qd + 1.0)).rows[1]
    assert (moved.outside, moved.excess) == (1.0, pytest.approx(10.0))  # a width of nothing counts as 0.1 rad/s


def test_names_that_one_side_lacks_are_said_and_nothing_goes_by_position():
    seen = trained_range([make_segment(MODEL, TRIAL)])
    turned = dataclasses.replace(TRIAL, channels=TRIAL.channels[::-1], emg=TRIAL.emg[:, ::-1])
    assert departures(seen, turned) == departures(seen, TRIAL)
    renamed = dataclasses.replace(TRIAL, channels=("front", "new"), coordinates=(SHOULDER, "knee"))
    found = departures(seen, renamed)
    assert (found.not_recorded, found.not_trained) == (("back", ELBOW), ("new", "knee"))
    assert {row.name for row in found.rows} == {"front", SHOULDER}


def test_saturation_is_the_share_of_samples_that_ask_for_more_than_everything():
    segment = make_segment(MODEL, TRIAL, start=0.1)
    emg = TRIAL.emg[10:]
    params = arm_params(MODEL, emg_gain=[1.0 / np.median(emg[:, 0]), 0.5])
    found = saturation(MODEL, params, [segment])
    assert set(found) == {"BIClong", "BICshort", "TRIlong"}
    assert found["BIClong"] == found["BICshort"] == pytest.approx(0.5, abs=0.02)
    assert found["TRIlong"] == 0.0


def test_it_survives_json_and_an_old_file_has_none():
    seen = trained_range([make_segment(MODEL, TRIAL)])
    record = json.loads(json.dumps(range_to_json(seen)))
    assert range_from_json(record, "file") == seen
    assert range_from_json(None, "file") is None
    with pytest.raises(InputError, match="file: trained_range: version 2; this program reads version 1"):
        range_from_json(record | {"version": 2}, "file")
    record["angle"][ELBOW]["most"] = "wide"
    with pytest.raises(InputError, match=f"trained_range: angle of '{ELBOW}' is .*expected finite low, high"):
        range_from_json(record, "file")
    with pytest.raises(InputError, match="'speed' is None"):
        range_from_json({k: v for k, v in range_to_json(seen).items() if k != "speed"}, "file")
