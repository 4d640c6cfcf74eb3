"""Muscles and skeleton together: against OpenSim, order of accuracy, stability at control steps, derivatives."""

from __future__ import annotations

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import REFERENCE
from jax.flatten_util import ravel_pytree

from nms_gym._assets import asset_path
from nms_gym.conditions import compose, make_condition
from nms_gym.errors import InputError
from nms_gym.files.model_file import read_model_file
from nms_gym.files.moving import moving_model
from nms_gym.model.forward import initial_state, kinematics_at, neuromuscular_step
from nms_gym.model.rollout import Surroundings, initial_motion, motion_step, rollout
from nms_gym.model.structure import Settings
from nms_gym.skeleton.dynamics import BaseMotion, ExternalForces, inverse_dynamics
from nms_gym.skeleton.passive import make_passive

ARM = ("r_shoulder_elev", "r_elbow_flex")
LEG = ("hip_flexion_r", "knee_angle_r", "ankle_angle_r")


@functools.cache
def file(name):
    return read_model_file(asset_path(f"{name}/model.json"))


def settings(**changes):
    return Settings(**{"activation": "first_order", "max_delay": 0.01, **changes})


def run(model, params, q, channels, dt, **options):
    """Output of a rollout from rest, with NumPy leaves."""
    start = initial_motion(model, params, jnp.asarray(q), jnp.zeros(len(q)), dt)
    compiled = jax.jit(lambda start, channels: rollout(model, params, start, channels, dt, **options)[1])
    return jax.tree.map(np.asarray, compiled.lower(start, channels).compile()(start, channels))


# ---- against OpenSim ----


@pytest.mark.parametrize(("integrator", "dt"), [("bdf2", 0.005), ("backward_euler", 0.01)])
def test_arm_moves_as_in_opensim(integrator, dt):
    """One second, elbow over 95 degrees, elastic tendons. What remains is mostly the error of the fitted paths."""
    truth = json.loads((REFERENCE / "arm_motion.json").read_text(encoding="utf-8"))
    assert tuple(truth["coordinates"]) == ARM
    still = {"activation_time_constant": 1e-4, "deactivation_time_constant": 1e-4, "shape_factor": 0.0}
    model, params = moving_model(
        file("arm"), ARM, settings=settings(integrator=integrator), start={**still, "fiber_damping": 0.01}
    )
    for muscle, values in truth["parameters"].items():
        for kind, value in values.items():
            assert getattr(params, kind)[model.muscles.index(muscle)] == pytest.approx(value, abs=1e-6)
    mean, amplitude, frequency, phase = np.array([truth["waves"][m] for m in model.muscles]).T

    def activation(t):
        return mean + amplitude * np.sin(2 * np.pi * (frequency * np.asarray(t)[..., None] + phase))

    end = dt * np.arange(1, round(1.0 / dt) + 1)
    start = initial_motion(
        model, params, jnp.asarray(truth["q"][0]), jnp.zeros(2), dt, channels=jnp.asarray(activation(0.0))
    )
    out = jax.jit(lambda s, c: rollout(model, params, s, c, dt)[1])(start, activation(end))
    every = round(0.02 / dt)
    error = np.degrees(np.asarray(out.q)[every - 1 :: every] - truth["q"][1:])
    assert np.sqrt(np.mean(error**2, axis=0)).max() < 3.2
    order = [model.muscles.index(m) for m in truth["waves"]]
    miss = np.asarray(out.muscles.tendon_force)[every - 1 :: every][:, order] - truth["tendon_force"][1:]
    strength = np.asarray(params.max_isometric_force)[order]
    assert np.sqrt(np.mean((miss / strength) ** 2, axis=0)).max() < 0.005
    assert np.ptp(np.degrees(truth["q"]), axis=0)[1] > 90


# ---- accuracy and stability ----


def levels(seed, steps, muscles, dt, scale=1.0):
    """Random excitations, constant over tenths of a second: (steps, muscles)."""
    table = np.clip(np.random.default_rng(seed).uniform(-0.3, 0.7, (100, muscles)), 0, 1) * scale
    return jnp.asarray(table[((np.arange(steps) + 0.5) * dt / 0.1).astype(int)])


@pytest.mark.parametrize("tendon", ["elastic", "rigid"])
def test_error_falls_with_the_step(tendon):
    model, params = moving_model(file("arm"), ARM, settings=settings(tendon=tendon))
    passive = make_passive(file("arm").skeleton, ARM)
    ends = {}
    for dt in (0.000625, 0.0025, 0.005, 0.01):
        steps = round(0.4 / dt)
        out = run(model, params, (0.0, 0.6), levels(1, steps, 6, dt, 0.5), dt, passive=passive)
        ends[dt] = np.degrees(out.q[round(0.1 / dt) - 1 :: round(0.1 / dt)])
    errors = [np.abs(ends[dt] - ends[0.000625]).max() for dt in (0.0025, 0.005, 0.01)]
    assert errors[2] < 1.5
    assert errors[0] < 0.7 * errors[1] < 0.5 * errors[2]


def bang_bang(steps, muscles, every):
    """All muscles between 0 and 1, in two halves that alternate."""
    on = (np.arange(steps)[:, None] // every + np.arange(muscles)) % 2
    return jnp.asarray(on, float)


@pytest.mark.parametrize("dt", [0.005, 0.01])
@pytest.mark.parametrize("tendon", ["elastic", "rigid"])
def test_leg_is_stable_under_full_excitation(tendon, dt):
    """40 muscles on a leg with toes of 0.2 kg: two seconds, all of them switching between nothing and everything."""
    names = (*LEG, "mtp_angle_r")
    model, params = moving_model(file("right_leg"), names, settings=settings(tendon=tendon))
    passive = make_passive(file("right_leg").skeleton, names)
    steps = round(2.0 / dt)
    out = run(model, params, (0.2, 0.6, 0.0, 0.0), bang_bang(steps, 40, round(0.15 / dt)), dt, passive=passive)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out))
    low, high = np.array([file("right_leg").skeleton.coordinate(c).range for c in names]).T
    assert (out.q > low - 0.8).all()
    assert (out.q < high + 0.8).all()
    assert np.abs(out.qd).max() < 60
    assert np.ptp(out.q, axis=0)[1] > 0.5


# ---- consistency ----


def small_case(tendon="elastic", steps=8, **options):
    model, params = moving_model(file("arm"), ARM, settings=settings(tendon=tendon), start={"shape_factor": -0.5})
    dt = 0.01
    start = initial_motion(model, params, jnp.asarray((0.1, 0.9)), jnp.asarray((0.5, -1.0)), dt, **options)
    return model, params, start, levels(3, steps, 6, 0.05), dt


def test_rollout_is_the_step_repeated():
    model, params, start, channels, dt = small_case()
    model = dataclasses.replace(model, settings=settings(max_delay=0.05, integrator="bdf2"))
    params = dataclasses.replace(params, electromechanical_delay=np.full(6, 0.023))
    start = initial_motion(model, params, start.q, start.qd, dt)
    step = jax.jit(lambda state, channels: motion_step(model, params, state, channels, dt))
    outs, state = [], start
    for row in channels:
        state, out = step(state, row)
        outs.append(out)
    end, together = jax.jit(lambda: rollout(model, params, start, channels, dt))()
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(end), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(np.stack([o.moments for o in outs]), together.moments, rtol=1e-8, atol=1e-8)


def test_held_still_it_is_the_neuromuscular_step():
    """A skeleton too heavy to move: moments are those of the muscles alone, at that pose."""
    model, params, start, channels, dt = small_case()
    skeleton = model.skeleton
    heavy = dataclasses.replace(skeleton, inertia=np.asarray(skeleton.inertia) + 1e9 * np.eye(3), gravity=np.zeros(3))
    model = dataclasses.replace(model, skeleton=heavy)
    start = initial_motion(model, params, start.q, jnp.zeros(2), dt)
    _, out = jax.jit(lambda: rollout(model, params, start, channels, dt))()
    still = kinematics_at(model, start.q, jnp.zeros(2))
    state = initial_state(model, params, jnp.zeros((model.settings.history_length(dt), 6)), still.lengths, dt)
    for k, row in enumerate(channels):
        state, expected = neuromuscular_step(model, params, state, row, still, dt)
        np.testing.assert_allclose(out.moments[k], expected.moments, rtol=1e-6, atol=1e-6)
    assert np.abs(out.moments).max() > 1


def test_torque_force_and_acceleration_agree():
    """A force at the hand is the torque that inverse dynamics has for it; acceleration belongs to the moments."""
    model, params, start, channels, dt = small_case()
    heavy_pull = jnp.asarray([[[3.0, -20.0, 5.0]]])
    zero = jnp.zeros_like(heavy_pull)
    force = ExternalForces(heavy_pull[0], jnp.asarray([[0.3, -0.4, 0.1]]), zero[0], ("r_ulna_radius_hand",))
    bare = inverse_dynamics(model.skeleton, start.q, start.qd, jnp.zeros(2))
    loaded = inverse_dynamics(model.skeleton, start.q, start.qd, jnp.zeros(2), external=force)
    pushed, out_1 = motion_step(model, params, start, channels[0], dt, Surroundings(external=force))
    torqued, out_2 = motion_step(model, params, start, channels[0], dt, Surroundings(torque=bare - loaded))
    free, _ = motion_step(model, params, start, channels[0], dt)
    np.testing.assert_allclose(pushed.q, torqued.q, rtol=0, atol=1e-12)
    np.testing.assert_allclose(out_1.qdd, out_2.qdd, rtol=0, atol=1e-9)
    assert np.abs(pushed.q - free.q).max() > 1e-4
    # At the pose where mass and bias were taken.
    needed = inverse_dynamics(model.skeleton, start.q, start.qd, out_1.qdd, external=force)
    np.testing.assert_allclose(out_1.moments, needed, rtol=0, atol=1e-8)


def test_prescribed_base_is_felt():
    """An accelerating pelvis swings the leg as gravity tilted by as much does."""
    base = ("pelvis_tx",)
    model, params = moving_model(file("right_leg"), LEG, prescribed=base, settings=settings())
    dt, q = 0.005, jnp.asarray((0.1, 0.3, 0.0))
    rest = jnp.zeros(40)

    def end(gravity, acceleration):
        moved = dataclasses.replace(model, skeleton=dataclasses.replace(model.skeleton, gravity=gravity))
        motion = BaseMotion(jnp.zeros(1), jnp.zeros(1), jnp.asarray([acceleration]))
        start = initial_motion(moved, params, q, jnp.zeros(3), dt, base=motion)
        return motion_step(moved, params, start, rest, dt, Surroundings(base=motion))[0].q

    gravity = np.asarray(model.skeleton.gravity)
    np.testing.assert_allclose(end(gravity, 4.0), end(gravity - [4.0, 0, 0], 0.0), rtol=0, atol=1e-12)
    assert np.abs(end(gravity, 4.0) - end(gravity, 0.0)).max() > 1e-5
    with pytest.raises(InputError, match="pelvis_tx"):
        initial_motion(model, params, q, jnp.zeros(3), dt)


def test_mixed_tendons_follow_their_own_kind():
    model, params, start, channels, dt = small_case()
    stiff = ("TRIlat", "BRA")
    mixed = dataclasses.replace(model, settings=settings(tendon="mixed"), rigid_tendons=stiff)
    start = initial_motion(mixed, params, start.q, start.qd, dt)
    _, out = jax.jit(lambda: rollout(mixed, params, start, channels, dt))()
    rigid = [m in stiff for m in model.muscles]
    np.testing.assert_array_equal(np.asarray(out.muscles.tendon_strain)[:, rigid], 0)
    assert (np.abs(out.muscles.tendon_strain).max(axis=0)[~np.asarray(rigid)] > 1e-3).all()


def test_conditions_act_in_the_loop():
    model, params = moving_model(file("arm"), ARM, settings=settings())
    condition = compose(
        [
            make_condition("weakness", model, severity=0.5, muscles=["BRA"]),
            make_condition("paresis", model, severity=0.7),
        ]
    )
    weak_model, weak = condition.prepare(model, params)
    dt, q = 0.01, jnp.asarray((0.0, 1.0))
    start = initial_motion(weak_model, weak, q, jnp.zeros(2), dt, condition=condition)
    channels = jnp.full((30, 6), 0.4)
    _, out = rollout(weak_model, weak, start, channels, dt, condition=condition)
    _, healthy = rollout(model, params, initial_motion(model, params, q, jnp.zeros(2), dt), channels, dt)
    assert np.all(np.asarray(out.muscles.excitation)[-1] < 0.7 * np.asarray(healthy.muscles.excitation)[-1])
    assert out.q[-1, 1] < healthy.q[-1, 1] - 0.05


def test_single_precision_stays_single():
    model, params, _, channels, dt = small_case()
    narrow = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    start = initial_motion(model, narrow, jnp.asarray((0.1, 0.9), jnp.float32), jnp.zeros(2, jnp.float32), dt)
    passive = make_passive(file("arm").skeleton, ARM)
    end, out = rollout(model, narrow, start, channels.astype(jnp.float32), dt, passive=passive)
    assert {leaf.dtype for leaf in jax.tree.leaves((end, out))} == {np.dtype("float32")}
    start = initial_motion(model, params, jnp.asarray((0.1, 0.9)), jnp.zeros(2), dt)
    wide = rollout(model, params, start, channels, dt, passive=passive)[0]
    np.testing.assert_allclose(end.q, wide.q, rtol=0, atol=1e-4)


# ---- derivatives ----


@pytest.mark.parametrize("tendon", ["elastic", "rigid"])
def test_gradients_match_central_differences(tendon):
    """Forward and reverse, with respect to start, excitations, torque and every parameter; at and beyond a limit."""
    model, params, _, channels, dt = small_case(tendon, steps=5)
    passive = make_passive(file("arm").skeleton, ARM)
    # From the elbow's upper limit outwards, with excitations that rest at 0 and 1.
    channels = channels.at[:, 0].set(0.0).at[:, 1].set(1.0)
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.standard_normal((5, 2)))
    arguments = (params, jnp.asarray((0.1, 2.268)), jnp.asarray((0.5, 2.0)), channels, jnp.asarray((0.5, -0.3)))
    flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, arguments))

    @jax.jit
    def total(flat):
        params, q, qd, channels, torque = unravel(flat)
        start = initial_motion(model, params, q, qd, dt, channels=channels[0])
        torques = Surroundings(torque=jnp.broadcast_to(torque, (len(channels), 2)))
        out = rollout(model, params, start, channels, dt, torques, passive=passive)[1]
        return jnp.sum(weights * out.q) + 1e-3 * jnp.sum(weights * out.moments)

    size = jnp.maximum(jnp.abs(flat), 1e-2)
    gradient = jax.jit(jax.grad(total))(flat) * size
    directions = jnp.asarray(rng.standard_normal((3, len(flat))))
    slope = jax.jit(lambda d: jax.jvp(total, (flat,), (d * size,))[1])
    for direction in directions:
        h = 1e-6
        difference = (total(flat + h * direction * size) - total(flat - h * direction * size)) / (2 * h)
        np.testing.assert_allclose(gradient @ direction, difference, rtol=2e-5, atol=1e-7)
        np.testing.assert_allclose(slope(direction), difference, rtol=2e-5, atol=1e-7)
    named = unravel(gradient)
    unused = {"filter_time_constant_1", "filter_time_constant_2", "synergy_weight"}  # no synergies here
    unused |= {"tendon_strain_at_one_norm_force"} if tendon == "rigid" else set()
    for kind in vars(named[0]):
        assert bool(np.any(np.asarray(getattr(named[0], kind)) != 0)) == (kind not in unused), kind
    assert all((np.asarray(part) != 0).any() for part in named[1:])


def test_refusals_name_what_is_missing():
    arm = file("arm")
    model, params = moving_model(arm, ARM)
    bare = dataclasses.replace(model, skeleton=None)
    with pytest.raises(InputError, match="no skeleton"):
        initial_motion(bare, params, jnp.zeros(2), jnp.zeros(2), 0.01)
    with pytest.raises(InputError, match="no muscle paths"):
        moving_model(dataclasses.replace(arm, paths=None), ARM)
    with pytest.raises(InputError, match="no skeleton"):
        moving_model(dataclasses.replace(arm, skeleton=None), ARM)
    one, values = moving_model(arm, ("r_elbow_flex",), locked={"r_shoulder_elev": 0.3})
    assert one.coordinates == ("r_elbow_flex",)
    strange = dataclasses.replace(model, skeleton=one.skeleton)
    with pytest.raises(InputError, match="r_shoulder_elev"):
        initial_motion(strange, params, jnp.zeros(1), jnp.zeros(1), 0.01)
    assert values.max_isometric_force.shape == (6,)
