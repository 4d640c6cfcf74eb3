"""Forces of a measured muscle, predicted with published parameters; see examples/benchmarks/rat_soleus.py."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from helpers import EXAMPLES

from nms_gym.muscle.millard import Millard2012

# For this import only: the folder has modules of the names of our packages.
sys.path.insert(0, str(EXAMPLES / "benchmarks"))
import rat_soleus

sys.path.remove(str(EXAMPLES / "benchmarks"))

STEP = 0.004


@pytest.fixture(scope="module")
def folder(data):
    return data("truth_muscle") / "experimental_rat_soleus"


@pytest.fixture(scope="module")
def table(folder):
    return rat_soleus.rows(folder, STEP)


@pytest.mark.parametrize(
    ("muscle", "whole", "after_onset"),
    [
        # Millard et al. 2013 report 3.3 to 8.9 % (elastic, damped) and at most 20.9 % (rigid).
        ("Millard2012, elastic", 11.5, 10.0),
        ("Millard2012, rigid", 22.0, 20.9),
        ("DeGrooteFregly2016, elastic", 16.5, 15.0),
        ("DeGrooteFregly2016, rigid", 22.5, 20.9),
    ],
)
def test_six_trials_are_predicted(folder, table, muscle, whole, after_onset):
    errors = np.array([row[2:-1] for row in table if row[0] == f"ours, {muscle}"], float)
    assert errors.shape == (2, 6)
    assert np.all(errors.max(axis=1) < [whole, after_onset])
    # Better than the best constant force in hindsight: its median, for the largest movement.
    time, force = rat_soleus.read(folder / "force_trial6.dat")
    force = force[time >= rat_soleus.ONSET]
    assert errors[1, -1] < 0.6 * 100 * np.abs(force - np.median(force)).mean() / rat_soleus.MEASURED_FORCE


def test_table_names_what_is_published_and_what_is_ours(table):
    assert [row[0].split(",")[0] for row in table] == ["Millard et al. 2013"] * 2 + ["ours"] * 8
    assert {len(row) for row in table} == {3 + len(rat_soleus.AMPLITUDES)}


def test_prediction_has_converged(folder, table):
    """Halving the step changes no trial's error by more than 0.3 % of maximum force."""
    fine = rat_soleus.errors(folder, "elastic", Millard2012(), STEP / 2)
    coarse = [row[2:-1] for row in table if row[0] == "ours, Millard2012, elastic"]
    assert np.abs(np.array(coarse, float) - fine).max() < 0.3
