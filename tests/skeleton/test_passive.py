"""Passive joint moments: OpenSim's limit force, published double exponentials, energy, and gradients at the kinks."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import REFERENCE

from nms_gym._assets import asset_path
from nms_gym._pytree import replace
from nms_gym.errors import InputError
from nms_gym.files.model_file import read_model_file
from nms_gym.skeleton.passive import (
    CEILING,
    JointLimits,
    exponential_moments,
    limit_energy,
    limit_moments,
    make_passive,
    passive_moments,
)

SAGITTAL = ("hip_flexion_r", "knee_angle_r", "ankle_angle_r")


@pytest.fixture(scope="module")
def leg():
    skeleton = read_model_file(asset_path("right_leg/model.json")).skeleton
    assert skeleton is not None
    return skeleton


@pytest.fixture(scope="module")
def limits():
    """Two unlike joints."""
    return JointLimits(
        lower=np.array([-0.4, 0.0]),
        upper=np.array([1.2, 2.3]),
        lower_stiffness=np.array([300.0, 120.0]),
        upper_stiffness=np.array([200.0, 400.0]),
        damping=np.array([1.5, 0.7]),
        transition=np.array([0.17, 0.09]),
    )


def test_limits_are_those_of_opensim():
    reference = json.loads((REFERENCE / "inverse_dynamics.json").read_text())["limit_force"]
    upper, stiff_up, lower, stiff_low, damping, transition = reference["settings"]
    turn = np.pi / 180
    limits = JointLimits(
        *(np.array([x]) for x in (lower * turn, upper * turn, stiff_low / turn, stiff_up / turn)),
        damping=np.array([damping / turn]),
        transition=np.array([transition * turn]),
    )
    rows = np.array(reference["rows"])
    q, qd = np.radians(rows[:, :1]), rows[:, 1:2]
    np.testing.assert_allclose(limit_moments(limits, q, qd)[:, 0], rows[:, 2], atol=1e-11)
    np.testing.assert_allclose(limit_energy(limits, q)[:, 0], rows[:, 3], atol=1e-12)
    assert np.count_nonzero(rows[:, 2]) > 15


def test_nothing_acts_within_the_range(limits):
    inside = np.linspace([-0.4, 0.0], [1.2, 2.3], 9)
    assert np.all(np.asarray(limit_moments(limits, inside, inside)) == 0)
    assert np.all(np.asarray(limit_energy(limits, inside)) == 0)
    # Damping comes with depth: at twice the speed the same spring and twice the loss.
    deep = jnp.array([1.3, -0.05])
    still, slow, fast = (limit_moments(limits, deep, v * jnp.ones(2)) for v in (0.0, 1.0, 2.0))
    np.testing.assert_allclose(fast - still, 2 * (slow - still), rtol=1e-12)
    assert np.all(np.asarray(slow - still) < 0)


def test_the_limit_torque_is_the_slope_of_its_energy(limits):
    q = jnp.array(np.linspace([-0.9, -0.4], [1.7, 2.7], 131))
    slope = jax.jit(jax.grad(lambda q: jnp.sum(limit_energy(limits, q))))(q)
    np.testing.assert_allclose(limit_moments(limits, q, jnp.zeros_like(q)), -slope, atol=1e-11)
    assert np.abs(np.asarray(slope)).max() > 50


def anderson(q):
    """The thesis's equation as others wrote it out for OpenSim (knee flexion positive)."""
    hip = -2.44 * np.exp(5.05 * (q[0] - 1.81)) + 1.51 * np.exp(-21.88 * (q[0] + 0.47))
    knee = 6.09 * np.exp(-33.94 * (q[1] + 0.13)) - 11.03 * np.exp(-11.33 * (2.40 - q[1]))
    ankle = -2.03 * np.exp(38.11 * (q[2] - 0.52)) + 0.18 * np.exp(-12.12 * (q[2] + 0.74))
    return np.array([hip, knee, ankle])


def riener_edrich(q):
    """Equations of the paper: degrees, plantarflexion positive."""
    h, k, a = np.degrees(q) * [1, 1, -1]
    hip = np.exp(1.4655 - 0.0034 * k - 0.0750 * h) - np.exp(1.3403 - 0.0226 * k + 0.0305 * h) + 8.072
    knee = np.exp(1.800 - 0.0460 * a - 0.0352 * k + 0.0217 * h) - np.exp(-3.971 - 0.0004 * a + 0.0495 * k - 0.0128 * h)
    knee += -4.820 + np.exp(2.220 - 0.150 * k)
    ankle = np.exp(2.1016 - 0.0843 * a - 0.0176 * k) - np.exp(-7.9763 + 0.1949 * a + 0.0008 * k) - 1.792
    return np.array([hip, knee, -ankle])


@pytest.mark.parametrize(("constants", "published"), [("anderson1999", anderson), ("riener_edrich1999", riener_edrich)])
def test_published_double_exponentials(leg, constants, published):
    passive = make_passive(leg, SAGITTAL, exponential=constants)
    assert passive.exponential is not None
    for q in np.random.default_rng(0).uniform([-0.4, 0.0, -0.6], [1.6, 1.9, 0.5], (40, 3)):
        np.testing.assert_allclose(exponential_moments(passive.exponential, q), published(q), rtol=1e-9, atol=1e-9)
    # They resist at both ends: flexed joints are pushed back to extension and the other way round.
    for k, reach in enumerate(((-0.5, 1.9), (-0.15, 2.4), (-0.8, 0.55))):
        ends = [np.array([0.2, 0.4, 0.0]) for _ in reach]
        for q, value in zip(ends, reach, strict=True):
            q[k] = value
        low, high = (float(exponential_moments(passive.exponential, q)[k]) for q in ends)
        assert low > 0 > high, (constants, k)


def test_constants_by_name_and_by_what_is_left_out(leg):
    # Another order, other coordinates in between, and a mirrored side: the same moments.
    whole = make_passive(leg, SAGITTAL, exponential="riener_edrich1999")
    other = make_passive(
        leg, ("ankle_angle_r", "hip_rotation_r", "knee_angle_r", "hip_flexion_r"), exponential="riener_edrich1999"
    )
    q = np.array([0.3, 0.7, -0.2])
    found = np.asarray(exponential_moments(other.exponential, np.array([q[2], 0.1, q[1], q[0]])))
    np.testing.assert_allclose(found[[3, 2, 0]], exponential_moments(whole.exponential, q), rtol=1e-12)
    assert found[1] == 0.0
    # A coordinate that is not there stays at its default, here 0.
    knee = make_passive(leg, ("knee_angle_r",), exponential="riener_edrich1999")
    expected = exponential_moments(whole.exponential, np.array([0.0, 0.7, 0.0]))[1]
    np.testing.assert_allclose(exponential_moments(knee.exponential, np.array([0.7]))[0], expected, rtol=1e-12)
    # A knee that counts extension (gait2392) has both signs turned.
    turned = dataclasses.replace(
        leg,
        coordinates=tuple(
            dataclasses.replace(c, range=(-2.1, 0.2)) if c.name == "knee_angle_r" else c for c in leg.coordinates
        ),
    )
    extension = make_passive(turned, SAGITTAL, exponential="riener_edrich1999")
    mirror = np.array([1, -1, 1])
    np.testing.assert_allclose(
        exponential_moments(extension.exponential, q * mirror) * mirror,
        exponential_moments(whole.exponential, q),
        rtol=1e-12,
    )


def test_beyond_the_ceiling_moments_grow_along_the_tangent(leg):
    exponential = make_passive(leg, ("ankle_angle_r",), exponential="anderson1999").exponential
    assert exponential is not None
    at = 0.52 + np.log(CEILING / 2.03) / 38.11
    q = jnp.array([[at - 1e-7], [at], [at + 1e-7], [at + 1.0], [3.0]])
    moments = np.asarray(exponential_moments(exponential, q))[:, 0]
    np.testing.assert_allclose(moments[:3], -CEILING, rtol=1e-5)
    assert moments[3] == pytest.approx(-CEILING * (1 + 38.11), rel=1e-9)
    assert np.all(np.isfinite(np.asarray(exponential_moments(exponential, jnp.array([1e3], jnp.float32)))))
    slopes = jax.vmap(jax.grad(lambda q: exponential_moments(exponential, q)[0]))(q[:3])
    np.testing.assert_allclose(slopes[:, 0], -CEILING * 38.11, rtol=1e-5)


def test_gradients_at_limits_and_kinks(leg):
    coordinates = ("hip_flexion_r", "knee_angle_r", "ankle_angle_r", "hip_rotation_r")
    passive = make_passive(leg, coordinates, exponential="riener_edrich1999")
    low, high, width = passive.limits.lower, passive.limits.upper, passive.limits.transition
    poses = [low, high, low - width, high + width, (low + high) / 2, low - 0.4 * width, high + 0.6 * width, high + 0.4]
    q = jnp.array(np.array(poses))
    qd = jnp.array(np.random.default_rng(0).normal(size=q.shape))
    weights = jnp.array(np.random.default_rng(1).normal(size=q.shape))

    def value(limits, exponential, damping, q, qd):
        changed = replace(passive, limits=limits, exponential=exponential, damping=damping)
        return jnp.sum(weights * passive_moments(changed, q, qd))

    point = jax.tree.map(jnp.asarray, (passive.limits, passive.exponential, passive.damping, q, qd))
    reverse = jax.jit(jax.grad(lambda p: value(*p)))(point)
    forward = jax.jit(lambda p, d: jax.jvp(lambda p: value(*p), (p,), (d,))[1])
    plain = jax.jit(lambda p: value(*p))
    leaves, structure = jax.tree.flatten(point)
    gradients = jax.tree.leaves(reverse)
    rng = np.random.default_rng(2)
    for i, leaf in enumerate(leaves):
        # Along one random direction per leaf; a step below the width over which anything bends.
        way = [jnp.zeros_like(x) for x in leaves]
        way[i] = jnp.array(rng.normal(size=leaf.shape))
        direction = jax.tree.unflatten(structure, way)
        h = 1e-5 / max(1.0, float(jnp.abs(leaf).max()) / 100)
        moved = [jax.tree.map(lambda a, b, s=s: a + s * b, point, direction) for s in (h, -h)]
        difference = float(plain(moved[0]) - plain(moved[1])) / (2 * h)
        along = float(jnp.sum(gradients[i] * way[i]))
        assert along == pytest.approx(float(forward(point, direction)), rel=1e-9, abs=1e-9)
        assert along == pytest.approx(difference, rel=2e-5, abs=2e-5), i
        assert np.all(np.isfinite(np.asarray(gradients[i])))
        assert float(jnp.abs(gradients[i]).max()) > 1e-3, i


def test_batches_and_precision(leg):
    passive = make_passive(leg, SAGITTAL, exponential="anderson1999")
    q = jnp.array(np.random.default_rng(0).uniform(-1, 3, (4, 5, 3)))
    whole = passive_moments(passive, q, 0.3 * q)
    rows = jax.vmap(jax.vmap(lambda q: passive_moments(passive, q, 0.3 * q)))(q)
    np.testing.assert_allclose(whole, rows, rtol=1e-12)
    single = passive_moments(passive, q.astype(jnp.float32), 0.3 * q.astype(jnp.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, whole, rtol=1e-4, atol=1e-3)


def test_a_swinging_joint_comes_to_rest_within_its_range(leg):
    # A foot's inertia thrown at the stop with 10 rad/s, semi-implicit Euler at 10 ms: the defaults hold it.
    passive = make_passive(leg, ("ankle_angle_r",))

    def step(state, _):
        q, qd = state
        qd = qd + 0.01 * passive_moments(passive, q, qd) / 0.015
        q = q + 0.01 * qd
        return (q, qd), q

    (_, qd), path = jax.lax.scan(step, (jnp.zeros(1), 10 * jnp.ones(1)), None, 400)
    low, high = leg.coordinate("ankle_angle_r").range
    assert high < float(path.max()) < high + 0.3
    assert float(path[-1, 0]) > low - 0.3
    assert abs(float(qd[0])) < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stiffness": -1.0}, "stiffness of 'hip_flexion_r' is -1; it must be finite and above 0"),
        ({"transition": {"knee_angle_r": 0.0}}, "transition of 'knee_angle_r' is 0; .* above 0"),
        ({"damping": {"knee": 1.0}}, "damping of 'knee': there is no such coordinate"),
        ({"limit_damping": np.inf}, "limit_damping of .* is inf"),
        ({"exponential": "hatze"}, "passive moments 'hatze': there are 'anderson1999', 'riener_edrich1999'"),
    ],
)
def test_refusals(leg, options, message):
    with pytest.raises(InputError, match=message):
        make_passive(leg, SAGITTAL, **options)


def test_refusals_of_coordinates(leg):
    with pytest.raises(InputError, match="no coordinate 'knee'"):
        make_passive(leg, ["knee"])
    with pytest.raises(InputError, match=r"'anderson1999' know 'hip_flexion'.*none of 'pelvis_tilt'"):
        make_passive(leg, ["pelvis_tilt"], exponential="anderson1999")
    empty = dataclasses.replace(
        leg, coordinates=tuple(dataclasses.replace(c, range=(0.0, 0.0)) for c in leg.coordinates)
    )
    with pytest.raises(InputError, match="range of coordinate 'hip_flexion_r' is 0 to 0; a limit needs"):
        make_passive(empty, SAGITTAL)
