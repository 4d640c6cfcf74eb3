"""The stress set of ``examples/benchmarks/stress.py``: every fiber is solved, and no value or gradient is lost."""

from __future__ import annotations

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EXAMPLES

from nms_gym.model.structure import Settings
from nms_gym.muscle.curves import DeGrooteFregly2016
from nms_gym.muscle.millard import Millard2012
from nms_gym.muscle.tabulated import Tabulated
from nms_gym.muscle.tendon import unsolved

MUSCLES, STEPS = 400, 60
ITERATIONS = Settings().tendon_iterations


@pytest.fixture
def stress(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES / "benchmarks"))
    return importlib.import_module("stress")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("integrator", ["bdf2", "backward_euler"])
@pytest.mark.parametrize("curves", [DeGrooteFregly2016(), Millard2012(), Tabulated()], ids=lambda curves: curves.name)
def test_everything_is_solved(stress, curves, integrator, dtype):
    """At 1, 5 and 10 ms: residuals below 1e-6 (float32: 1e-3) slack lengths, nothing but numbers, gradients too."""

    @jax.jit
    def run(motion, dt):
        out = stress.simulate(curves, integrator, ITERATIONS, motion, dt)
        total = functools.partial(stress.total, curves, integrator, ITERATIONS)
        return out, jax.grad(lambda motion: total(motion, dt))(motion)

    for dt in stress.STEPS_S:
        motion = stress.stress_set(3, dt, MUSCLES, STEPS, stress.passive_strain(curves), dtype)
        out, gradient = run(motion, jnp.asarray(dt, dtype))
        assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {np.dtype(dtype)}
        assert not np.asarray(unsolved(out.residual)).any(), float(jnp.abs(out.residual).max())
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((out, gradient)))
        assert (np.abs(gradient[0].tendon_slack_length) > 0).all()
    print(f"{curves.name}, {integrator}, {np.dtype(dtype).name}: {3 * MUSCLES} muscles, {3 * MUSCLES * STEPS} steps")


@pytest.mark.slow
def test_gradients_through_the_stress_set(stress):
    """Reverse mode against central differences of a simulation with plenty of iterations, muscle by muscle."""
    curves = DeGrooteFregly2016()
    motion = stress.stress_set(1, 0.005, 64, 60, stress.passive_strain(curves))
    for name, error in stress.gradient_errors(curves, "bdf2", ITERATIONS, motion, 0.005).items():
        assert error.max() < 1e-3, name
        assert np.median(error) < 1e-6, name


def test_too_few_iterations_are_noticed(stress):
    """The check above can fail: one iteration leaves fibers unsolved, and the report names them."""
    curves = DeGrooteFregly2016()
    motion = stress.stress_set(3, 0.01, 20, 20, 0.6)
    out = jax.jit(lambda motion: stress.simulate(curves, "bdf2", 1, motion, 0.01))(motion)
    assert np.asarray(unsolved(out.residual)).any()
