"""The look-up of cubic splines: several curves at once, and what each rule for the ends means."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.interpolate import CubicSpline

from nms_gym.muscle.splines import CONSTANT, SETTLE, evaluate, evaluate_all, make_spline

RISING = ((0.0, 1.0, 2.0, 4.0), (0.0, 1.0, 8.0, 64.0))  # a cubic, so the spline is that cubic
LINE = ((-1.0, 3.0), (2.0, -2.0))


def test_curves_of_different_length_are_looked_up_together():
    x = jnp.asarray(np.linspace(-0.5, 2.9, 23))
    splines = make_spline(RISING, settle=CONSTANT), make_spline(LINE, settle=CONSTANT)
    both = evaluate_all(splines, jnp.stack([x, x]))
    for found, spline in zip(both, splines, strict=True):
        np.testing.assert_array_equal(found, evaluate(spline, x))
    np.testing.assert_allclose(both[0], np.where(x > 0, x**3, 0.0), atol=1e-12)
    np.testing.assert_allclose(both[1], 2.0 - (x + 1.0), atol=1e-12)


@pytest.mark.parametrize(
    ("settle", "beyond", "slope_beyond"),
    [
        (CONSTANT, 64.0, 0.0),
        ((SETTLE, SETTLE), 64.0 + 48.0 * SETTLE * (1 - math.exp(-0.5 / SETTLE)), 48.0 * math.exp(-0.5 / SETTLE)),
        ((math.inf, math.inf), 64.0 + 0.5 * 48.0, 48.0),
    ],
)
def test_rules_for_the_ends(settle, beyond, slope_beyond):
    spline = make_spline(RISING, settle=settle)
    value, slope = jax.value_and_grad(lambda x: evaluate(spline, x))(jnp.asarray(4.5))
    assert float(value) == pytest.approx(beyond, rel=1e-12)
    assert float(slope) == pytest.approx(slope_beyond, rel=1e-9, abs=1e-15)
    # The last point itself belongs to the curve: its own slope, in forward and reverse.
    for derivative in (jax.grad, jax.jacfwd):
        assert float(derivative(lambda x: evaluate(spline, x))(jnp.asarray(4.0))) == pytest.approx(48.0)


def test_a_spline_through_points_of_no_polynomial():
    rng = np.random.default_rng(3)
    x, y = np.cumsum(rng.uniform(0.5, 1.5, 9)), rng.standard_normal(9)
    at = np.linspace(x[2], x[6], 40)
    spline = make_spline((tuple(x), tuple(y)), settle=CONSTANT)
    # Another end condition is forgotten by the middle within a factor of some tens per point.
    np.testing.assert_allclose(evaluate(spline, jnp.asarray(x)), y, atol=1e-12)
    np.testing.assert_allclose(evaluate(spline, jnp.asarray(at)), CubicSpline(x, y)(at), atol=0.1)
    check_grads(lambda a: evaluate(spline, a), (jnp.asarray(at),), order=1, modes=["fwd", "rev"])
