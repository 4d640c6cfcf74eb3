"""Conditions: identity at severity 0, effects on muscles and moments, gradients, batches, precision, bad input."""

from __future__ import annotations

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from models import ARM, arm_model, arm_params

from nms_gym._assets import asset_path
from nms_gym.conditions import (
    CONDITIONS,
    compose,
    conditions_from_spec,
    contracture,
    electromechanical_delay,
    make_condition,
    paresis,
    sarcopenia,
    spasticity,
    tendon_compliance,
    tendon_transfer,
    weakness,
)
from nms_gym.conditions.drive import CEILING_SHARPNESS, add_drive, below_ceiling, cocontraction
from nms_gym.errors import InputError
from nms_gym.files.model_file import read_model_file
from nms_gym.model.condition import HEALTHY
from nms_gym.model.forward import excited_step, initial_state, kinematics_at
from nms_gym.model.parameters import make_params
from nms_gym.model.structure import NmsModel, Settings
from nms_gym.muscle.geometry import lengths_and_moment_arms, select_paths
from nms_gym.muscle.hill import MuscleParams
from nms_gym.muscle.tendon import initial_fiber

DT = 0.005
MUSCLES = ARM.muscles
FLEXORS, EXTENSORS = ["BIClong", "BICshort", "BRA"], ["TRIlong", "TRIlat", "TRImed"]


def arm(**settings):
    model = arm_model(**settings)
    return model, arm_params(model, passive_fiber_strain_at_one_norm_force=0.6)


MODEL, PARAMS = arm()
POSE = {"r_elbow_flex": 1.2}

# Every condition once, with the options it cannot do without.
OPTIONS: dict[str, dict] = {
    "weakness": {"muscles": FLEXORS},
    "sarcopenia": {},
    "contracture": {"muscles": ["BRA"]},
    "tendon_compliance": {"strain_change": 1.0},
    "electromechanical_delay": {"increase": 0.05},
    "electrode_loss": {"channels": ["BRA"]},
    "paresis": {"muscles": FLEXORS, "gain_loss": 0.2, "ceiling_loss": 0.8},
    "cocontraction": {"groups": [[FLEXORS, EXTENSORS]], "floor": 0.1},
    "spasticity": {"muscles": FLEXORS},
    "fatigue": {"joint": "elbow", "initial": 0.3},
    "tendon_transfer": {"donor": "BRA", "recipient": "TRIlat", "pose": POSE},
}
GRADED = [name for name in CONDITIONS if name != "tendon_transfer"]
STEPWISE = ["paresis", "cocontraction", "spasticity", "fatigue"]


def test_every_condition_is_exercised():
    assert set(OPTIONS) == set(CONDITIONS)


def flexions(q_elbow):
    """Poses (T, 2): shoulder at 0.3 rad, elbow as given."""
    return jnp.stack([jnp.full(len(q_elbow), 0.3), jnp.asarray(q_elbow)], axis=1)


def simulate(model, params, condition, excitation, q, dt=DT):
    """Outputs over time of the arm moved along ``q (T, 2)`` and excited with ``(T, M)``, under a condition."""
    model, params = condition.prepare(model, params)
    kinematics = jax.vmap(kinematics_at, (None, 0, 0))(model, q, jnp.gradient(q, dt, axis=0))
    history = jnp.broadcast_to(excitation[0], (model.settings.history_length(dt), excitation.shape[1]))
    start = initial_state(model, params, history, kinematics.lengths[0], dt, condition=condition)

    def step(state, sample):
        return excited_step(model, params, state, *sample, dt, condition=condition)

    return jax.lax.scan(step, start, (excitation, kinematics))[1]


run = jax.jit(lambda params, condition, e, q: simulate(MODEL, params, condition, e, q))
place = jax.jit(lengths_and_moment_arms)
settle = jax.jit(initial_fiber, static_argnums=(0, 1))


def run_with(condition, e, q):
    """Simulation with the parameters that a condition makes; one compilation for all that do nothing else."""
    return run(condition.prepare(MODEL, PARAMS)[1], HEALTHY, e, q)


def drive(condition, excitation, x=None, v=None, dt=DT):
    """Excitations (T, M) as they leave a condition, for given fiber lengths and velocities."""
    excitation = jnp.asarray(excitation)
    x = jnp.ones_like(excitation) if x is None else x
    v = jnp.zeros_like(excitation) if v is None else v

    def step(state, sample):
        return condition.step(state, *sample, dt)

    return jax.lax.scan(step, condition.init(x[0], dt), (excitation, x, v))[1]


def signals(dtype=np.float64, steps=60):
    """Excitations with exact zeros and ones, fiber lengths and velocities across the reflex's threshold."""
    rng = np.random.default_rng(1)
    e = rng.uniform(0, 1, (steps, len(MUSCLES)))
    e[:10], e[20:30] = 0.0, 1.0
    x = rng.uniform(0.7, 1.4, e.shape)
    v = rng.uniform(-0.3, 0.3, e.shape)
    return tuple(jnp.asarray(a.astype(dtype)) for a in (e, x, v))


# ---- severity 0, precision, batches ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", GRADED)
def test_severity_zero_changes_no_bit(name, dtype):
    condition = make_condition(name, MODEL, **OPTIONS[name], severity=0.0)
    params = make_params(MODEL, ARM.parameters, dtype)
    model, same = condition.prepare(MODEL, params)
    assert model is MODEL
    for kind, before, after in zip(
        dataclasses.fields(params), jax.tree.leaves(params), jax.tree.leaves(same), strict=True
    ):
        assert after.dtype == dtype, kind.name
        np.testing.assert_array_equal(before, after, kind.name)
    e, x, v = signals(dtype)
    out = jax.jit(drive)(condition, e, x, v)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, e)


def test_numpy_parameters_stay_numpy():
    _, old = sarcopenia(MODEL).prepare(MODEL, PARAMS)
    assert isinstance(old.max_isometric_force, np.ndarray)


@pytest.mark.parametrize("name", STEPWISE)
def test_single_precision_stays_single_and_close(name):
    condition = make_condition(name, MODEL, **OPTIONS[name], severity=0.7)
    # A step of double precision must not leak either.
    run_drive = jax.jit(lambda c, e, x, v: drive(c, e, x, v, np.float64(DT)))
    single, double = (run_drive(condition, *signals(t)) for t in (np.float32, np.float64))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, double, atol=2e-6)
    assert np.max(np.abs(double - signals()[0])) > 0.05


def test_precision_without_x64():
    with jax.enable_x64(False):
        for name in GRADED:
            condition = make_condition(name, MODEL, **OPTIONS[name], severity=0.5)
            _, params = condition.prepare(MODEL, make_params(MODEL, ARM.parameters, np.float32))
            assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params)), name


@pytest.mark.parametrize("name", GRADED)
def test_a_batch_of_severities_is_a_vmap(name):
    severities = jnp.array([0.0, 0.25, 0.5])
    e, x, v = signals(steps=20)

    def result(severity):
        condition = make_condition(name, MODEL, **OPTIONS[name], severity=severity)
        return drive(condition, e, x, v) if name in STEPWISE else condition.prepare(MODEL, PARAMS)[1]

    batch = jax.jit(jax.vmap(result))(severities)
    for i, severity in enumerate([0.0, 0.25, 0.5]):
        alone = result(severity)
        for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-12, atol=1e-14)


# ---- parameters ----


def changed(params):
    """Kinds whose leaves differ from the healthy ones."""
    return {
        f.name
        for f in dataclasses.fields(PARAMS)
        if not np.array_equal(getattr(params, f.name), getattr(PARAMS, f.name))
    }


def test_old_muscle_has_the_published_parameters():
    _, old = sarcopenia(MODEL).prepare(MODEL, PARAMS)
    np.testing.assert_allclose(old.max_isometric_force / PARAMS.max_isometric_force, 0.7, rtol=1e-12)
    np.testing.assert_allclose(old.max_contraction_velocity / PARAMS.max_contraction_velocity, 0.8, rtol=1e-12)
    np.testing.assert_allclose(old.passive_fiber_strain_at_one_norm_force, 0.5, rtol=1e-12)
    np.testing.assert_allclose(old.deactivation_time_constant / PARAMS.deactivation_time_constant, 1.2, rtol=1e-12)
    assert changed(old) == {
        "max_isometric_force",
        "max_contraction_velocity",
        "passive_fiber_strain_at_one_norm_force",
        "deactivation_time_constant",
    }
    _, half = sarcopenia(MODEL, severity=0.5, muscles=["BRA"]).prepare(MODEL, PARAMS)
    np.testing.assert_allclose(half.max_contraction_velocity / PARAMS.max_contraction_velocity, [1, 1, 1, 1, 1, 0.9])


def test_plain_muscle_parameters_will_do():
    plain = MuscleParams(**{f.name: getattr(PARAMS, f.name) for f in dataclasses.fields(MuscleParams)})
    _, old = sarcopenia(MODEL).prepare(MODEL, plain)
    assert type(old) is MuscleParams
    np.testing.assert_allclose(old.max_isometric_force, 0.7 * plain.max_isometric_force)
    _, late = electromechanical_delay(MODEL, increase=0.01).prepare(MODEL, plain)
    assert late is plain


STEPS = 160
BENT = flexions(np.full(STEPS, 1.2))


def constant(excitation):
    return jnp.asarray(np.tile(np.asarray(excitation, float), (STEPS, 1)))


FULL_FLEXION = constant(np.isin(MUSCLES, FLEXORS))
# Half a second at rest in the middle of the range, then a flexion at 3 rad/s.
FLEXING = flexions(0.8 + 3.0 * np.clip(DT * np.arange(STEPS) - 0.5, 0, 0.3))


def test_weakness_scales_moments():
    healthy = run_with(HEALTHY, FULL_FLEXION, FLEXING)
    weak = run_with(weakness(MODEL, severity=0.4), FULL_FLEXION, FLEXING)
    np.testing.assert_allclose(weak.moments, 0.6 * healthy.moments, rtol=1e-10)
    assert healthy.moments[90, 1] > 10
    no_flexors = run_with(weakness(MODEL, muscles=FLEXORS), FULL_FLEXION, FLEXING)
    np.testing.assert_allclose(no_flexors.tendon_force[:, 3:], 0, atol=1e-12)
    np.testing.assert_allclose(no_flexors.tendon_force[:, :3], healthy.tendon_force[:, :3], rtol=1e-12)


def test_old_muscle_loses_more_power_than_strength():
    """At 120 deg/s Thelen's old adults lose over 40 % of power with 30 % of strength."""
    healthy, old = (run_with(c, FULL_FLEXION, FLEXING).moments[:, 1] for c in (HEALTHY, sarcopenia(MODEL)))
    assert old[95] / healthy[95] == pytest.approx(0.7, abs=0.03)
    assert old[150] / healthy[150] < 0.63


def test_compliant_tendons_stretch_more():
    # Held still, each tendon carries nearly the same force at twice the strain.
    stiff, soft = (run_with(c, FULL_FLEXION, BENT) for c in (HEALTHY, tendon_compliance(MODEL, strain_change=1.0)))
    flexor = np.isin(MUSCLES, FLEXORS)
    np.testing.assert_allclose((soft.tendon_force / stiff.tendon_force)[-1, flexor], 1, atol=0.15)
    np.testing.assert_allclose((soft.tendon_strain / stiff.tendon_strain)[-1, flexor], 2, atol=0.25)


def test_contracture_resists_a_passive_joint():
    short = contracture(MODEL, severity=0.25, muscles=["BRA", "BIClong"])
    out = [run_with(c, constant(np.zeros(6)), flexions(np.full(STEPS, 0.1))) for c in (HEALTHY, short)]
    assert out[1].moments[-1, 1] > out[0].moments[-1, 1] + 1.0
    assert 1.1 < out[1].fiber_length[-1, -1] / out[0].fiber_length[-1, -1] < 1 / 0.75 + 0.01


def test_delay_is_checked_against_the_history():
    _, late = electromechanical_delay(MODEL, increase=0.04, channels=["BRA"], severity=0.5).prepare(MODEL, PARAMS)
    np.testing.assert_allclose(late.electromechanical_delay, [0.03] * 5 + [0.05], rtol=1e-12)
    with pytest.raises(InputError, match=r"'TRIlong' becomes 0.17 s; the history holds 0.15 s"):
        electromechanical_delay(MODEL, increase=0.14).prepare(MODEL, PARAMS)


# ---- drive ----


def test_paresis_limits_full_effort():
    e = jnp.linspace(0, 1, 11)
    half = paresis(MODEL, severity=0.4)
    np.testing.assert_allclose(drive(half, jnp.tile(e[:, None], (1, 6)))[:, 0], 0.6 * e, atol=1e-12)
    ceiling = paresis(MODEL, severity=0.4, gain_loss=0, ceiling_loss=1)
    out = drive(ceiling, jnp.tile(e[:, None], (1, 6)))[:, 0]
    np.testing.assert_allclose(out, jnp.minimum(e, 0.6), atol=0.7 / CEILING_SHARPNESS)
    assert jnp.all(drive(paresis(MODEL), jnp.ones((2, 6))) == 0)


def test_ceiling_and_added_drive_stay_in_range():
    e, c = jnp.meshgrid(jnp.linspace(0, 1, 101), jnp.linspace(0, 1, 101))
    low = below_ceiling(e, c)
    assert jnp.all(low >= -0.7 / CEILING_SHARPNESS)
    assert jnp.all(low <= jnp.minimum(e, c) + 0.7 / CEILING_SHARPNESS)
    more = add_drive(e, 10 * c)
    assert jnp.all((more >= e) & (more <= 1))
    assert add_drive(jnp.asarray(0.0), jnp.asarray(1e-4)) == pytest.approx(1e-4, rel=1e-4)


def test_cocontraction_spreads_the_mean_of_the_opposing_group():
    condition = cocontraction(MODEL, groups=[[FLEXORS, ["TRIlong", "TRIlat"]]], severity=0.3, floor=0.1)
    e = np.array([0.1, 0.0, 0.2, 0.3, 0.9, 0.6])
    out = drive(condition, jnp.asarray(e)[None])[0]
    to_extensors, to_flexors = 0.3 * (0.6 + 0.1), 0.3 * (0.05 + 0.1)
    extra = np.array([to_extensors, to_extensors, 0, to_flexors, to_flexors, to_flexors])
    np.testing.assert_allclose(out, 1 - (1 - e) * np.exp(-extra), rtol=1e-12)


def test_cocontraction_stiffens_the_joint_and_weakens_the_moment():
    """A quick extension of 1 degree meets more resistance (short-range stiffness), around a smaller moment."""
    e = constant(0.6 * np.isin(MUSCLES, FLEXORS))
    extended = flexions(1.2 - np.deg2rad(1.0) * (np.arange(STEPS) >= STEPS - 2))
    condition = cocontraction(MODEL, groups=[[FLEXORS, EXTENSORS]])
    net, resistance = [], []
    for excitation in (e, drive(condition, e)):
        moments = run_with(HEALTHY, excitation, extended).moments[:, 1]
        net.append(moments[-3])
        resistance.append(moments[-1] - moments[-3])
    assert 0 < net[1] < 0.9 * net[0]
    assert resistance[1] > 1.2 * resistance[0] > 0


# ---- spasticity ----


def test_reflex_comes_late_and_grows_with_what_exceeds_the_threshold():
    dt, delay, gain, threshold, mu, speed = 0.005, 0.0325, 5.0, 1.0, 1.5, 0.08
    condition = spasticity(
        MODEL, gain=gain, threshold=threshold, velocity_sensitivity=mu, delay=delay, severity=0.8, muscles=["BRA"]
    )
    t = dt * np.arange(120)
    # Fibers one step ago: still until 0, then lengthening at a tenth of an optimal length each second times ten.
    previous = t - dt
    x = 0.7 + speed * 10 * np.clip(previous - 0.1, 0, None)
    v = speed * (previous > 0.1)
    out = drive(condition, np.full((120, 6), 0.2), *(jnp.tile(jnp.asarray(a)[:, None], (1, 6)) for a in (x, v)), dt)
    np.testing.assert_array_equal(out[:, :5], 0.2)
    felt = t - delay
    beyond = np.clip(0.7 + 0.8 * np.clip(felt - 0.1, 0, None) + mu * speed * (felt > 0.1) - threshold, 0, None)
    expected = 1 - 0.8 * np.exp(-0.8 * gain * beyond)
    onset = 0.1 + (threshold - 0.7 - mu * speed) / 0.8 + delay
    settled = np.abs(t - onset) > 0.04  # away from the rounding of the threshold
    np.testing.assert_allclose(out[settled, 5], expected[settled], atol=2e-3)
    np.testing.assert_allclose(out[t < onset - 0.06, 5], 0.2, atol=1e-3)
    assert expected[-1] > 0.5


def test_fast_stretch_meets_a_catch_and_slow_stretch_does_not():
    """Passive extension from 130 to 50 degrees, where the tonic threshold is not reached, at 40 and at 200 deg/s."""
    t = DT * np.arange(500)
    resistance = {}
    for speed in (40.0, 200.0):
        q = flexions(np.deg2rad(130.0 - np.clip(speed * (t - 0.2), 0, 80.0)))
        healthy, spastic = (
            run(PARAMS, spasticity(MODEL, muscles=FLEXORS, severity=s), jnp.zeros((500, 6)), q).moments[:, 1]
            for s in (0.0, 1.0)
        )
        resistance[speed] = np.asarray(spastic - healthy)
    slow, fast = resistance.values()
    assert fast.max() > 1.5
    assert fast.max() > 5 * slow.max()
    # It comes while the muscle is stretched, or just after, and lets go.
    assert 0.3 < t[np.argmax(fast)] < 0.2 + 80 / 200 + 0.1
    assert fast[-1] < 0.1 * fast.max()
    np.testing.assert_allclose(fast[t < 0.2], 0, atol=1e-6)


def test_reflex_needs_a_delay_of_one_step():
    with pytest.raises(InputError, match=r"shorter than the step of 0\.05 s"):
        spasticity(MODEL).init(jnp.ones(6), 0.05)


# ---- tendon transfer ----


@pytest.mark.parametrize("tendon", ["elastic", "rigid"])
def test_transferred_muscle_has_the_path_and_the_tension_asked_for(tendon):
    healthy, params = arm(tendon=tendon)
    transfer = tendon_transfer(healthy, donor="BRA", recipient="TRIlat", pose=POSE, fiber_length=0.9, activation=0.3)
    model, tight = transfer.prepare(healthy, params)
    assert model.muscles == MUSCLES
    donor, recipient = MUSCLES.index("BRA"), MUSCLES.index("TRIlat")
    others = np.array([i for i in range(6) if i != donor])
    for pose in flexions(np.linspace(0.1, 2.2, 5)):
        for before, after in zip(place(healthy.paths, pose), place(model.paths, pose), strict=True):
            np.testing.assert_allclose(after[..., others], before[..., others], rtol=1e-13, atol=1e-15)
            np.testing.assert_allclose(after[..., donor], before[..., recipient], rtol=1e-13, atol=1e-15)
        assert place(healthy.paths, pose)[1][1, donor] > 0 > place(model.paths, pose)[1][1, donor]
    np.testing.assert_array_equal(tight.tendon_slack_length[others], params.tendon_slack_length[others])
    # The equilibrium, found by bisection, has the fiber length asked for.
    lengths, _ = place(model.paths, BENT[0])
    fiber = settle(tendon, healthy.settings.curves, tight, jnp.full(6, 0.3), lengths)
    assert fiber.length[donor] == pytest.approx(0.9, abs=1e-9)


def test_hamstring_to_quadriceps():
    """Muscles of different spans, in groups of their own; one of them is left empty."""
    leg_file = read_model_file(asset_path("right_leg/model.json"))
    names, coordinates = ("semiten_r", "bfsh_r", "vaslat_r"), ("hip_flexion_r", "knee_angle_r")
    paths = select_paths(leg_file.paths, names, coordinates)
    leg = NmsModel(
        muscles=names,
        coordinates=coordinates,
        channels=names,
        settings=Settings(),
        channel_weights=np.eye(3),
        paths=paths,
    )
    params = make_params(leg, leg_file.select(names).parameters)
    pose = {"hip_flexion_r": 0.5, "knee_angle_r": 0.6}
    moved, tight = tendon_transfer(leg, donor="semiten_r", recipient="vaslat_r", pose=pose).prepare(leg, params)
    assert len(moved.paths.groups) == len(paths.groups) - 1
    before, after = (place(m.paths, jnp.array([0.5, 0.6]))[1] for m in (leg, moved))
    assert before[0, 0] < -0.03  # extends the hip
    assert after[0, 0] == 0
    assert before[1, 0] * after[1, 0] < 0
    np.testing.assert_allclose(after[:, 1:], before[:, 1:], rtol=1e-12)
    assert 0 < tight.tendon_slack_length[0] < 0.5


# ---- composition ----


def test_composition_runs_in_order():
    weak_drive = paresis(MODEL, severity=0.5)
    spill = cocontraction(MODEL, groups=[[FLEXORS, EXTENSORS]], severity=0.5)
    e = jnp.asarray(0.8 * np.isin(MUSCLES, FLEXORS))[None]
    np.testing.assert_allclose(drive(compose([weak_drive, spill]), e), drive(spill, drive(weak_drive, e)), rtol=1e-14)
    np.testing.assert_allclose(drive(compose([spill, weak_drive]), e), drive(weak_drive, drive(spill, e)), rtol=1e-14)
    assert not np.allclose(drive(compose([weak_drive, spill]), e), drive(compose([spill, weak_drive]), e))


def test_all_conditions_at_once_from_json():
    spec = json.loads(json.dumps([{"name": name, **options} for name, options in OPTIONS.items()]))
    spec = [{**entry, "severity": 0.2} if entry["name"] in GRADED else entry for entry in spec]
    condition = conditions_from_spec(spec, MODEL)
    assert len(condition.conditions) == len(CONDITIONS)
    out = run(PARAMS, condition, FULL_FLEXION, FLEXING)
    healthy = run_with(conditions_from_spec(None, MODEL), FULL_FLEXION, FLEXING)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(out))
    assert np.max(np.abs(out.residual)) < 1e-6
    assert np.max(np.abs(out.moments - healthy.moments)) > 1


# ---- gradients ----


@pytest.mark.parametrize("name", STEPWISE)
def test_gradients_of_drive_at_every_bend(name):
    """All leaves, forward and reverse, with signals that lie on thresholds and ceilings exactly."""
    condition = make_condition(name, MODEL, **OPTIONS[name], severity=0.5)
    e, x, v = signals(steps=40)
    e = e.at[:, 3].set(0.6 / 0.9)  # on the ceiling of paresis
    x, v = x.at[:, 4].set(1.1), v.at[:, 4].set(0.0)  # on the threshold of the reflex
    weights = jnp.asarray(np.random.default_rng(2).uniform(0.5, 1.0, e.shape))
    dt = 0.05 if name == "fatigue" else DT  # fatigue takes time
    floats = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), condition)
    flat, back = ravel_pytree((floats, e, x, v))

    def cost(flat):
        condition, e, x, v = back(flat)
        return jnp.sum(weights * drive(condition, e, x, v, dt))

    reverse = jax.jit(jax.grad(cost))(flat)
    rng = np.random.default_rng(3)
    directional = jax.jit(lambda d: jax.jvp(cost, (flat,), (d,))[1])
    value = jax.jit(cost)
    size = ravel_pytree(floats)[0].size
    # Each number of the condition alone, then random directions through all signals.
    # A relative change: the delay is small, and its weights have jumps in their second derivative.
    directions = [np.eye(flat.size)[i] * max(abs(flat[i]), 0.01) for i in range(size)] + [
        rng.normal(size=flat.size) * (np.arange(flat.size) >= size) for _ in range(3)
    ]
    h = 1e-6
    for direction in directions:
        d = jnp.asarray(direction)
        difference = (value(flat + h * d) - value(flat - h * d)) / (2 * h)
        np.testing.assert_allclose(reverse @ d, difference, rtol=5e-4, atol=2e-5)
        np.testing.assert_allclose(directional(d), reverse @ d, rtol=1e-9, atol=1e-10)
    named = {
        f.name: getattr(back(reverse)[0], f.name) for f in dataclasses.fields(floats) if not f.metadata.get("static")
    }
    for leaf, slope in named.items():
        assert np.any(np.abs(slope) > 1e-4), f"nothing depends on {leaf}"


GRADED_IN_MOTION = [
    "weakness",
    "sarcopenia",
    "contracture",
    "tendon_compliance",
    "paresis",
    "cocontraction",
    "spasticity",
]


def test_moments_depend_on_every_severity():
    """Through the whole simulation, forward and reverse, where nobody is ill and where all of it comes together."""
    t = DT * np.arange(50)
    q = flexions(1.8 - 7.5 * np.clip(t - 0.02, 0, 0.2))
    e = jnp.asarray(np.tile(0.4 * np.isin(MUSCLES, FLEXORS), (len(t), 1)))

    def cost(severities):
        named = zip(GRADED_IN_MOTION, severities, strict=True)
        condition = compose(make_condition(name, MODEL, **OPTIONS[name], severity=s) for name, s in named)
        return jnp.mean(simulate(MODEL, PARAMS, condition, e, q).moments[:, 1])

    count, h = len(GRADED_IN_MOTION), 1e-5
    values = jax.jit(jax.vmap(cost))
    forward, reverse = (jax.jit(derivative(cost)) for derivative in (jax.jacfwd, jax.grad))
    for severity in (0.0, 0.3):
        at = jnp.full(count, severity)
        up, down = values(at[None] + h * jnp.concatenate([jnp.eye(count), -jnp.eye(count)])).reshape(2, count)
        difference = (up - down) / (2 * h)
        np.testing.assert_allclose(forward(at), difference, rtol=1e-5)
        np.testing.assert_allclose(reverse(at), difference, rtol=1e-5)
        for name, slope in zip(GRADED_IN_MOTION, difference, strict=True):
            assert abs(slope) > 0.02, name


def test_gradient_of_a_transfer():
    def slack(x, activation, angle):
        transfer = tendon_transfer(
            MODEL, donor="BRA", recipient="TRIlat", pose={"r_elbow_flex": angle}, fiber_length=x, activation=activation
        )
        return transfer.prepare(MODEL, PARAMS)[1].tendon_slack_length[MUSCLES.index("BRA")]

    at, h = (0.9, 0.3, 1.2), 1e-6
    value = jax.jit(slack)
    reverse = jax.jit(jax.grad(slack, (0, 1, 2)))(*at)
    forward = jax.jit(jax.jacfwd(slack, (0, 1, 2)))(*at)
    for i in range(3):
        up, down = (tuple(a + sign * h * (k == i) for k, a in enumerate(at)) for sign in (1, -1))
        difference = (value(*up) - value(*down)) / (2 * h)
        np.testing.assert_allclose([reverse[i], forward[i]], difference, rtol=1e-5)
        assert abs(difference) > 1e-5


# ---- bad input ----


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "paresis"}, "give a list such as"),
        ("paresis", "give a list such as"),
        ([3], r"conditions\[0\] is 3; give a name, or a mapping"),
        ([{"severity": 1}], r"conditions\[0\] has no 'name'; there are 'weakness'"),
        ([{"name": "weakness", "model": 1}], "the model is given apart"),
        ([{"name": "pareses"}], "no condition 'pareses'; did you mean 'paresis'"),
        (
            ["weakness", {"name": "paresis", "gain": 1}],
            r"conditions\[1\]: .*no option 'gain'; it has 'severity', 'muscles'",
        ),
        (["fatigue"], "condition 'fatigue' needs 'joint'; its options are"),
        ([{"name": "fatigue", "joint": "elbows"}], "no fatigue constants for joint 'elbows'; did you mean 'elbow'"),
        ([{"name": "paresis", "severity": 1.2}], "severity is 1.2; give one number from 0 to 1"),
        ([{"name": "paresis", "severity": "0.5"}], "severity is '0.5'; give one number"),
        ([{"name": "paresis", "severity": True}], "severity is True; give one number"),
        ([{"name": "paresis", "severity": float("nan")}], "severity is nan; give one number"),
        ([{"name": "paresis", "severity": [0.1, 0.2]}], "for a batch, use vmap"),
        ([{"name": "paresis", "muscles": "BRA"}], "'BRA' is not a list of names; there are 'TRIlong'"),
        ([{"name": "paresis", "muscles": []}], "is not a list of names"),
        ([{"name": "paresis", "muscles": ["BICLong"]}], "no muscle 'BICLong'; did you mean 'BIClong'"),
        ([{"name": "paresis", "muscles": ["BRA", "BRA"]}], "muscle 'BRA' is named twice"),
        ([{"name": "electrode_loss", "channels": ["EMG"]}], "no channel 'EMG'; There are 'TRIlong'"),
        ([{"name": "contracture", "severity": 0.6}], "severity of contracture is 0.6; give one number from 0 to 0.5"),
        ([{"name": "tendon_compliance", "strain_change": -1}], "strain_change is -1; give one number from -0.8 to 4"),
        ([{"name": "electromechanical_delay", "increase": 0.2}], "from 0 to 0.15"),
        ([{"name": "spasticity", "delay": 0.2}], "from 0 to 0.1"),
        ([{"name": "cocontraction", "groups": [["BRA"]]}], r"\['BRA'\] is not a pair"),
        ([{"name": "cocontraction", "groups": "BRA"}], "give a list of pairs"),
        ([{"name": "cocontraction", "groups": [[["BRA"], ["BRA"]]]}], "'BRA' is in both opposing groups"),
        (
            [{"name": "tendon_transfer", "donor": "BRA", "recipient": "BRA", "pose": POSE}],
            "muscle 'BRA' is named twice",
        ),
        (
            [{"name": "tendon_transfer", "donor": "BRA", "recipient": "TRIlong", "pose": POSE}],
            "pose lacks 'r_shoulder_elev', which 'TRIlong' spans",
        ),
        (
            [{"name": "tendon_transfer", "donor": "BRA", "recipient": "TRIlat", "pose": {"r_elbow_flex": 3.0}}],
            "'r_elbow_flex' reaches 171.9 deg",
        ),
        (
            [{"name": "tendon_transfer", "donor": "BRA", "recipient": "TRIlat", "pose": {"elbow": 1.0}}],
            "no coordinate 'elbow'",
        ),
    ],
)
def test_bad_specifications_are_named(spec, message):
    with pytest.raises(InputError, match=message):
        conditions_from_spec(spec, MODEL)


def test_impossible_operations_are_refused():
    bare = dataclasses.replace(MODEL, paths=None)
    with pytest.raises(InputError, match="needs a model with muscle paths"):
        tendon_transfer(bare, donor="BRA", recipient="TRIlat", pose=POSE)
    _, huge = make_condition("weakness", MODEL).prepare(MODEL, PARAMS)
    huge = dataclasses.replace(huge, optimal_fiber_length=PARAMS.optimal_fiber_length * 10)
    with pytest.raises(InputError, match=re.escape("'BRA' cannot be transferred to the path of 'TRIlat'")):
        tendon_transfer(MODEL, donor="BRA", recipient="TRIlat", pose=POSE).prepare(MODEL, huge)
