"""What the data tell apart: hand-made posteriors with known answers, and a person with a trade-off by construction."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from models import THREE_CHANNELS, arm_model, arm_params

from calibration.cohort import fit_cohort
from calibration.problem import Free, Penalties, make_layout
from calibration.synthetic import make_person
from calibration.uncertainty.identifiability import identifiability
from calibration.uncertainty.posterior import Mode, Posterior, laplace

MODEL = arm_model(THREE_CHANNELS, tendon="rigid")
# Without a curved activation a gain and a strength differ in passive forces and saturation only.
START = arm_params(MODEL, shape_factor=0.0)
FREE = (
    Free("max_isometric_force", (0.3, 3.0), 0.3, only=("BRA",)),
    Free("emg_gain", (0.3, 3.0), 0.3, only=("triceps", "brachialis")),
)
MOTION = {"middle": (0.2, 1.1), "reach": (0.4, 0.6), "seconds": 1.5}


@pytest.fixture(scope="module")
def person():
    return make_person(MODEL, START, FREE, seed=1, penalties=Penalties(moment_tolerance=0.1), **MOTION)


@pytest.fixture(scope="module")
def result(person):
    return fit_cohort([person.problem], precision="float64")[0]


def made(person, data, z=(0.0, 0.0, 0.0)):
    """A posterior with this precision from the data, and the prior's identity."""
    layout = make_layout(person.problem)
    assert layout.names == ("max_isometric_force:BRA", "emg_gain:triceps", "emg_gain:brachialis")
    mode = Mode(1.0, 0.0, np.array(z), np.array(z), np.array(data, float), np.eye(3))
    return Posterior(MODEL, START, layout, (mode,), ())


def test_data_that_see_only_a_sum(person):
    """Data on strength + gain with precision 99 in each: the sum is known, the difference is the prior's."""
    report = identifiability(made(person, [[99, 0, 99], [0, 3, 0], [99, 0, 99]]))
    best, middle, worst = report.directions
    assert best.eigenvalue == pytest.approx(198)
    assert middle.eigenvalue == pytest.approx(3)
    assert worst.eigenvalue == pytest.approx(0, abs=1e-9)
    assert worst.sd == pytest.approx(1)
    assert report.worst == (worst,)
    assert set(dict(worst.coefficients)) == {"max_isometric_force:BRA", "emg_gain:brachialis"}
    assert sorted(dict(worst.coefficients).values()) == pytest.approx([-np.sqrt(0.5), np.sqrt(0.5)])
    assert worst.text in (
        "0.71 max_isometric_force:BRA - 0.71 emg_gain:brachialis",
        "0.71 emg_gain:brachialis - 0.71 max_isometric_force:BRA",
    )
    assert middle.text == "1.00 emg_gain:triceps"
    assert report.determined == 2
    assert report.effective == pytest.approx(198 / 199 + 3 / 4)
    # Half of each one's variance is the known sum's, half the unknown difference's.
    informed = {k.name: k.informed for k in report.parameters}
    assert informed["max_isometric_force:BRA"] == pytest.approx(1 - (1 + 1 / 199) / 2)
    assert informed["emg_gain:triceps"] == pytest.approx(3 / 4)
    (pair,) = report.pairs
    assert {pair.first, pair.second} == {"max_isometric_force:BRA", "emg_gain:brachialis"}
    assert pair.correlation == pytest.approx(-(1 - 1 / 199) / (1 + 1 / 199))


def test_strength_against_gain_is_named(person):
    """Where the data see only their product, what is left is the prior's; a dynamometer sees the strength alone."""
    product = np.array([[99, 0, 99], [0, 3, 0], [99, 0, 99]])
    strength = np.diag([99, 0, 0])
    blind, told = (
        identifiability(made(person, data), problem=person.problem).combinations
        for data in (product, product + strength)
    )
    (c,) = blind
    assert c.name == "strength against gain"
    assert c.prior_sd == pytest.approx(0.3 * np.sqrt(0.5))
    assert c.sd == pytest.approx(c.prior_sd)
    assert c.informed == pytest.approx(0, abs=1e-9)
    assert not c.held
    assert told[0].held
    assert told[0].sd < 0.2 * c.sd
    assert identifiability(made(person, product)).combinations == ()


def test_balance_of_antagonists_is_named(person):
    """Both sides of the elbow free, and data that see one side minus the other, or their sum."""
    free = (Free("max_isometric_force", (0.3, 3.0), 0.3, only=("BRA", "TRImed")),)
    problem = dataclasses.replace(person.problem, free=free)
    layout = make_layout(problem)
    for data, held in ((np.ones((2, 2)), False), (np.array([[1, -1], [-1, 1]]), True)):
        mode = Mode(1.0, 0.0, np.zeros(2), np.zeros(2), 99.0 * data, np.eye(2))
        posterior = Posterior(MODEL, START, layout, (mode,), ())
        report = identifiability(posterior, problem=problem)
        (c,) = [c for c in report.combinations if c.name.endswith("elbow_flex")]
        assert c.name.startswith("balance of antagonists")
        assert c.held is held
    assert report.to_record()["combinations"][-1]["held"] is True


def test_no_data_leave_everything_to_the_prior(person):
    report = identifiability(made(person, np.zeros((3, 3))))
    assert report.determined == 0
    assert report.effective == 0
    assert report.pairs == ()
    assert [k.informed for k in report.parameters] == [0, 0, 0]
    assert len(report.worst) == 3


def test_bounds_are_named(person):
    layout = make_layout(person.problem)
    report = identifiability(made(person, np.eye(3), z=(layout.low[0], 0.0, layout.high[2])))
    assert [k.at_bound for k in report.parameters] == ["lower", "", "upper"]
    assert report.at_bounds == ("max_isometric_force:BRA", "emg_gain:brachialis")


def test_rows_are_plain_json(person):
    report = identifiability(made(person, [[99, 0, 99], [0, 3, 0], [99, 0, 99]]))
    record = json.loads(json.dumps(report.to_record(), allow_nan=False))
    assert [row["name"] for row in record["parameters"]] == list(make_layout(person.problem).names)
    assert list(report.rows()[0]) == ["name", "informed", "sd", "estimate", "at_bound"]
    assert record["directions"][0]["eigenvalue"] == pytest.approx(198)
    assert record["pairs"][0]["correlation"] < -0.9


def test_strength_and_gain_of_one_muscle_trade_off_in_a_person(person, result):
    """Brachialis has a channel of its own: its strength and its gain make the same moments until it saturates."""
    report = identifiability(laplace(person.problem, result))
    assert report.pairs[0].correlation < -0.7
    assert {report.pairs[0].first, report.pairs[0].second} == {"max_isometric_force:BRA", "emg_gain:brachialis"}
    least = dict(report.directions[-1].coefficients)
    assert set(least) == {"max_isometric_force:BRA", "emg_gain:brachialis"}
    assert least["max_isometric_force:BRA"] * least["emg_gain:brachialis"] < 0
    informed = {k.name: k.informed for k in report.parameters}
    assert informed["emg_gain:triceps"] > informed["max_isometric_force:BRA"]


def test_twice_the_data_are_twice_the_precision(person, result):
    """The same recording twice: eigenvalues double, at the noise that the penalties assume."""
    segments = person.problem.segments
    twice = dataclasses.replace(person.problem, segments=segments + segments)
    reports = [identifiability(laplace(problem, result, noise="assumed")) for problem in (person.problem, twice)]
    once, double = ([d.eigenvalue for d in r.directions] for r in reports)
    np.testing.assert_allclose(double, 2 * np.array(once), rtol=1e-6)
