"""Many at once is what one at a time is: padding, precision, structure, devices and processes change nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import REPOSITORY
from models import arm_model, arm_params

from calibration.cohort import fit_cohort
from calibration.fitting import Status, fit
from calibration.problem import DEFAULT_FREE, make_layout
from calibration.residuals import make_data, make_objective
from calibration.solvers import batch as batch_module
from calibration.solvers.batch import make_batches
from calibration.synthetic import make_person
from calibration.validation import float64
from nms_gym.errors import InputError

MODEL = arm_model(tendon="rigid")
START = arm_params(MODEL)
FREE = (
    *(DEFAULT_FREE[kind] for kind in ("max_isometric_force", "shape_factor")),
    dataclasses.replace(DEFAULT_FREE["electromechanical_delay"], share="all"),
)


def person(seed, free=FREE, seconds=1.2, training=1, start=START):
    return make_person(
        MODEL, start, free, seed=seed, middle=(0.2, 1.1), reach=(0.4, 0.6), seconds=seconds, training=training
    ).problem


@pytest.fixture(scope="module")
def problems():
    """Unequal lengths and numbers of segments, another start (and so other bounds), and one of another structure."""
    slow = dataclasses.replace(START, electromechanical_delay=np.full(6, 0.05))
    return [person(0), person(1, free=FREE[:1]), person(2, seconds=0.9), person(3, training=2), person(4, start=slow)]


@pytest.fixture(scope="module")
def cohort(problems):
    return fit_cohort(problems, precision="float64", tolerance=1e-8)


def test_batches_follow_structure(problems):
    batches = make_batches(problems)
    assert [b.indices for b in batches] == [(0, 2, 3, 4), (1,)]
    data = batches[0].data
    assert data.train.weight.shape == (4, 2, 121, 2)
    assert not data.train.weight[1, 0, 91:].any()
    assert not data.train.weight[0, 1].any()
    assert not data.counted[0, 1].any()
    assert np.isfinite(data.train.replay.lengths).all()
    # Bounds of the delay are around the start, so they differ.
    delay = batches[0].layouts[0].names.index("electromechanical_delay:all")
    assert batches[0].low[3, delay] < batches[0].low[0, delay]


def test_padding_does_not_change_a_cost(problems):
    batch = make_batches(problems)[0]
    layout = batch.shared_layout
    cost = jax.jit(make_objective(layout, batch.penalties).cost)
    z = jnp.linspace(-1, 1, layout.size)
    for row, i in enumerate(batch.indices[:3]):
        problem = problems[i]
        bare = dataclasses.replace(problem.model, paths=None)
        alone = cost(*jax.tree.map(jnp.asarray, float64((bare, make_data(problem), problem.start))), z)
        own = jax.tree.map(lambda leaf, row=row: jnp.asarray(leaf[row]), (batch.model, batch.data, batch.start))
        np.testing.assert_allclose(cost(*own, z), alone, rtol=1e-12)


def test_each_as_if_alone(problems, cohort):
    """The solver of one problem, on two of different structure."""
    for i in (1, 2):
        alone = fit(problems[i], starts=1, tolerance=1e-8)
        assert cohort[i].cost == pytest.approx(alone.cost, rel=1e-6)
        np.testing.assert_allclose(cohort[i].z, alone.z, atol=2e-3)
        assert cohort[i].start_cost == pytest.approx(alone.start_cost, rel=1e-9)
    for problem, result in zip(problems, cohort, strict=True):
        assert result.layout == make_layout(problem)
        assert result.status is Status.CONVERGED
        assert result.cost < 0.5 * result.start_cost
        assert (np.diff(result.history[:, 0]) <= 1e-12).all()
        assert isinstance(result.params.max_isometric_force, np.ndarray)
        assert result.params.max_isometric_force.shape == (6,)
        fixed = np.asarray(problem.start.optimal_fiber_length)
        np.testing.assert_array_equal(result.params.optimal_fiber_length, fixed)


def test_single_precision_finds_the_same_people(problems, cohort):
    single = fit_cohort([problems[i] for i in (0, 2, 3, 4)], precision="float32", tolerance=1e-6)
    for ours, i in zip(single, (0, 2, 3, 4), strict=True):
        assert ours.z.dtype == np.float64
        np.testing.assert_allclose(ours.z, cohort[i].z, atol=0.05)  # prior standard deviations
        assert ours.cost == pytest.approx(cohort[i].cost, rel=1e-3)
        assert (ours.z >= ours.layout.low).all()
        assert (ours.z <= ours.layout.high).all()


def test_more_people_than_are_worked_on_at_a_time(problems, cohort, monkeypatch):
    """Slots are handed on to the next in line; a limit holds for each of them."""
    monkeypatch.setattr(batch_module, "LEAST_SLOTS", 2)
    some = [problems[i] for i in (0, 2, 3, 4)]
    for ours, i in zip(fit_cohort(some, precision="float64", tolerance=1e-8), (0, 2, 3, 4), strict=True):
        np.testing.assert_allclose(ours.z, cohort[i].z, atol=1e-4)
        assert ours.iterations == cohort[i].iterations
    for ours in fit_cohort(some, precision="float64", tolerance=1e-8, max_iterations=4):
        assert ours.iterations == 4
        assert ours.status is Status.MAX_ITERATIONS
        assert len(ours.history) == 4


def test_interrupt_keeps_the_best_so_far(problems, monkeypatch):
    looked = []

    def interrupted(array):
        looked.append(array)
        if len(looked) == 3:
            raise KeyboardInterrupt
        return np.asarray(array)

    monkeypatch.setattr(batch_module, "gathered", interrupted)
    results = fit_cohort(problems, precision="float64", tolerance=1e-8)
    assert [r.status for r in results] == [Status.INTERRUPTED] * 5
    assert results[0].cost < results[0].start_cost
    # Whose batch had not begun is still at the start.
    np.testing.assert_array_equal(results[1].z, 0.0)
    np.testing.assert_array_equal(results[1].params.max_isometric_force, START.max_isometric_force)


def test_what_cannot_be_solved_is_refused(problems):
    for wrong, message in (
        ({"starts": 0}, "starts is 0"),
        ({"max_iterations": 0}, "max_iterations is 0"),
        ({"precision": "float16"}, "float16"),
    ):
        with pytest.raises(InputError, match=message):
            fit_cohort(problems, **wrong)
    with pytest.raises(InputError, match="no subject"):
        fit_cohort([])


SHARED = """
import json, sys
sys.path.insert(0, "examples")
import jax
from cohort_two_processes import problems
from calibration.cohort import fit_cohort
people = problems()
alone = fit_cohort(people, precision="float64", tolerance=1e-8)
shared = fit_cohort(people, precision="float64", tolerance=1e-8, devices=jax.devices())
print(json.dumps({"devices": len(jax.devices()), "alone": [r.z.tolist() for r in alone],
                  "shared": [r.z.tolist() for r in shared]}))
"""


def _run(arguments, **extra):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY), **extra}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_four_devices_share_five_people():
    """Five do not divide by four: the padding must not show."""
    found = _run(["-c", SHARED], XLA_FLAGS="--xla_force_host_platform_device_count=4")
    assert found["devices"] == 4
    np.testing.assert_allclose(found["shared"], found["alone"], atol=1e-6)


@pytest.mark.slow
def test_two_processes_share_five_people():
    found = _run(["examples/cohort_two_processes.py"])
    assert [answer["devices"] for answer in found["processes"]] == [2, 2]
    assert len(found["alone"]) == 5
    for answer in found["processes"]:
        np.testing.assert_allclose(answer["costs"], found["alone"], rtol=1e-6)
