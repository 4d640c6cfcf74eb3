"""Leaving out in one batch is what leaving out one by one is."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from models import THREE_CHANNELS, arm_model, arm_params

from calibration.cross_validation import (
    by_speed,
    by_stride,
    by_trial,
    cross_validate,
    one_standard_error,
    with_prior_strength,
)
from calibration.fitting import fit
from calibration.problem import DEFAULT_FREE, Free, Penalties, make_layout
from calibration.synthetic import make_person
from calibration.validation import evaluate
from nms_gym.errors import InputError

MODEL = arm_model(THREE_CHANNELS, tendon="rigid")
FREE = (
    DEFAULT_FREE["max_isometric_force"],
    Free("emg_gain", (0.1, 9.0), 0.3, own_sd=(("biceps", 0.2),)),
    DEFAULT_FREE["electromechanical_delay"],
)
STRENGTHS = (0.5, 4.0, 200.0)


def elbow_only(segment):
    replay = segment.replay
    return dataclasses.replace(
        segment,
        replay=dataclasses.replace(replay, coordinates=replay.coordinates[1:], moment_arms=replay.moment_arms[:, 1:]),
        measured=segment.measured[:, 1:],
    )


@pytest.fixture(scope="module")
def problem():
    """Four stretches of one joint's moment, of unequal length."""
    person = make_person(
        MODEL, arm_params(MODEL), FREE, seed=2, middle=(0.2, 1.1), reach=(0.4, 0.6), seconds=1.5,
        training=4, penalties=Penalties(moment_tolerance=0.1),
    )  # fmt: skip
    segments = [elbow_only(s) for s in person.problem.segments]
    segments[1] = dataclasses.replace(segments[1], scored=segments[1].scored & (segments[1].time < 1.2))
    return dataclasses.replace(person.problem, segments=tuple(segments))


@pytest.fixture(scope="module")
def validated(problem):
    return cross_validate(problem, ["a", "b", "c", "a"], strengths=STRENGTHS, tolerance=1e-9)


def test_a_fold_is_the_calibration_without_its_segments(problem, validated):
    labels, label, strength = ["a", "b", "c", "a"], "a", 4.0
    kept = tuple(s for s, own in zip(problem.segments, labels, strict=True) if own != label)
    left = tuple(s for s, own in zip(problem.segments, labels, strict=True) if own == label)

    # Every segment is a recording of its own here, weighed by its own spread whoever else is there.
    alone = dataclasses.replace(with_prior_strength(problem, strength), segments=kept)
    result = fit(alone, starts=1, tolerance=1e-9)
    (fold,) = [f for f in validated.folds if f.left_out == label and f.strength == strength]
    assert fold.coordinate == "r_elbow_flex"
    for ours, segments, params in (
        (fold.train, kept, result.params),
        (fold.held_out, left, result.params),
        (fold.uncalibrated, left, problem.start),
    ):
        assert ours == pytest.approx(evaluate(MODEL, params, segments)[0].rmse, rel=1e-3)


def test_what_comes_back(problem, validated):
    assert len(validated.folds) == 3 * len(STRENGTHS)
    assert validated.fits == 9
    assert validated.converged >= 8
    assert [c.strength for c in validated.choices] == list(STRENGTHS)
    assert sum(c.chosen for c in validated.choices) == 1
    assert validated.strength == next(c.strength for c in validated.choices if c.chosen)
    # Calibration helps on what it did not see, and a prior that allows nothing does not.
    assert min(c.error for c in validated.choices) < 0.3 * validated.uncalibrated
    assert validated.choices[-1].train > 1.5 * validated.choices[0].train
    # A stronger prior never fits better.
    train = [c.train for c in validated.choices]
    assert train == sorted(train)
    rows = json.loads(json.dumps([*validated.rows(), *validated.choice_rows()], allow_nan=False))
    assert rows[0]["left_out"] == "a"


def test_single_precision_agrees(problem, validated):
    single = cross_validate(problem, ["a", "b", "c", "a"], strengths=STRENGTHS, precision="float32", tolerance=1e-6)
    ours, theirs = ([f.held_out for f in v.folds] for v in (single, validated))
    np.testing.assert_allclose(ours, theirs, rtol=0.02)
    assert single.strength == validated.strength


def test_strongest_within_one_standard_error():
    errors = np.array([[1.0, 0.8, 0.90, 2.0], [1.0, 1.0, 1.00, 2.0], [1.0, 1.2, 1.25, 2.0]])
    mean, standard, chosen = one_standard_error(errors)
    np.testing.assert_allclose(mean, [1.0, 1.0, 1.05, 2.0])
    # The least mean comes first and has no spread at all, so only ties with it are allowed.
    assert standard[0] == 0
    assert chosen in (0, 1)
    errors[:, 0] += 0.02
    mean, standard, chosen = one_standard_error(errors)
    assert standard[1] == pytest.approx(0.2 / np.sqrt(3))
    assert chosen == 2


def test_prior_strength_scales_precisions_and_keeps_bounds(problem):
    before, after = make_layout(problem), make_layout(with_prior_strength(problem, 4.0))
    np.testing.assert_allclose(after.sd, before.sd / 2)
    np.testing.assert_allclose(after.sd * after.low, before.sd * before.low)
    np.testing.assert_allclose(after.sd * after.high, before.sd * before.high)
    assert before.sd[before.names.index("emg_gain:biceps")] == 0.2


def test_labels(problem):
    segments = [
        dataclasses.replace(s, name=name)
        for s, name in zip(
            problem.segments, ["walk36 1.00-2.10 s", "walk36 2.10-3.00 s", "walk45 0.50-1.00 s", "odd"], strict=True
        )
    ]
    assert by_stride(segments) == tuple(s.name for s in segments)
    assert by_trial(segments) == ("walk36", "walk36", "walk45", "odd")
    assert by_speed(segments[:3], {"walk36": "slow", "walk45": "fast"}) == ("slow", "slow", "fast")
    with pytest.raises(InputError, match="odd"):
        by_speed(segments, {"walk36": "slow", "walk45": "fast"})


def test_what_cannot_be_validated_is_refused(problem):
    with pytest.raises(InputError, match="3 labels for 4"):
        cross_validate(problem, ["a", "b", "c"])
    with pytest.raises(InputError, match="at least two"):
        cross_validate(problem, ["a"] * 4)
    with pytest.raises(InputError, match="above 0"):
        cross_validate(problem, strengths=(0.0, 1.0))
    with pytest.raises(InputError, match="at least one"):
        cross_validate(problem, strengths=())
