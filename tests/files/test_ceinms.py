"""Models of CEINMS subjects: our forward function beside CEINMS's own torques, and back into files."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ceinms_files import EXAMPLE, EXCITATIONS, SUBJECT, load_example, read

from nms_gym.errors import InputError
from nms_gym.excitation.activation import SATURATION_SHARPNESS, ceinms_coefficient
from nms_gym.files.ceinms import calibrated_ceinms_subject, ceinms_model, write_ceinms_subject
from nms_gym.model.replay import Replay, make_segment, predict_moments
from nms_gym.muscle.tabulated import Tabulated
from nms_gym.muscle.tendon import FiberState, fiber_step
from nms_gym.recording.ceinms import read_ceinms_subject
from nms_gym.skeleton.functions import simm_spline

DT = 0.005
DELAY_ROWS = 3  # 15 ms
EMG_ROWS = 20  # of the file before the first frame
QUICK = {"xla_backend_optimization_level": 0}
predict = jax.jit(predict_moments, compiler_options=QUICK)


@pytest.fixture(scope="module")
def example(data):
    return load_example(data(EXAMPLE))


@pytest.fixture(scope="module")
def calibrated(data, example):
    """Tendon -> (subject with CEINMS's calibrated parameters, CEINMS's torques (T, K))."""
    subject = example[0]
    check = json.loads((data(EXAMPLE) / "forward_check.json").read_text())
    found = {}
    for tendon in ("stiff", "elastic"):
        muscles = []
        for muscle in subject.muscles:
            p = check[tendon]["mtu_parameters"][muscle.name]
            change = {
                "c1": p["c1"],
                "c2": p["c2"],
                "shape_factor": p["shapeFactor"],
                "optimal_fiber_length": p["optimalFibreLength"],
                "tendon_slack_length": p["tendonSlackLength"],
                "strength_coefficient": p["strengthCoefficient"],
            }
            muscles.append(dataclasses.replace(muscle, **change))
        torques = check[tendon]["ceinms_torques_calib"]
        found[tendon] = (
            dataclasses.replace(subject, muscles=tuple(muscles)),
            np.stack([torques[dof] for dof in subject.dofs], axis=1),
        )
    return found


# ---- what CEINMS computes, written here once more from its equations ----


def saturated(e):
    return e - np.logaddexp(0.0, SATURATION_SHARPNESS * (e - 1.0)) / SATURATION_SHARPNESS


def before_saturation(e):
    """What our smooth saturation turns into ``e``."""
    return e - np.log1p(-np.exp(SATURATION_SHARPNESS * (e - 1.0))) / SATURATION_SHARPNESS


def ceinms_activation(subject, excitations, emg, frames):
    """The filter runs from the first EMG row on; its past is reset at the third."""
    e = np.clip(
        emg
        @ np.array([[excitations.muscles[m].get(c, 0.0) for m in subject.muscle_names] for c in excitations.channels]),
        0,
        1,
    )
    c1, c2, a = (np.array([getattr(m, k) for m in subject.muscles]) for k in ("c1", "c2", "shape_factor"))
    u, past = np.zeros_like(e), np.zeros((2, e.shape[1]))
    for k in range(len(e)):
        if k == 2:
            past[:] = (e[0] + e[1]) / 2
        u[k] = (1 + c1 + c2 + c1 * c2) * e[k] - (c1 + c2) * past[0] - c1 * c2 * past[1]
        past = np.stack([u[k], past[0]])
    rows = EMG_ROWS - DELAY_ROWS + np.arange(frames)
    return np.expm1(a * u[rows]) / np.expm1(a)


def stiff_fibers(subject, lengths, time):
    """Fiber lengths (T, M) m, their velocities from a spline over time, and lengths along the tendon."""
    l0, slack, phi = (
        np.array([getattr(m, k) for m in subject.muscles])
        for k in ("optimal_fiber_length", "tendon_slack_length", "pennation_at_optimal")
    )
    along = lengths - slack
    fiber = np.hypot(l0 * np.sin(phi), along)
    velocity = np.stack([simm_spline(time, column)[0] for column in fiber.T], axis=1)
    return fiber, velocity, along


def spline(points, x):
    """Constant outside."""
    knots, y = map(np.asarray, points)
    b, c, d = simm_spline(knots, y)
    x = np.clip(x, knots[0], knots[-1])
    k = np.clip(np.searchsorted(knots, x) - 1, 0, len(knots) - 2)
    h = x - knots[k]
    return y[k] + h * (b[k] + h * (c[k] + h * d[k]))


def ceinms_force(subject, activation, fiber, velocity):
    """N along the tendon, (T, M)."""
    force = np.zeros_like(fiber)
    for i, m in enumerate(subject.muscles):
        a, l0 = activation[:, i], m.optimal_fiber_length
        v = np.clip(velocity[:, i] / (m.max_contraction_velocity * l0), -1, 1)
        active = spline(
            subject.curves["active_force_length_points"],
            fiber[:, i] / (l0 * (1 + m.optimal_fiber_length_change * (1 - a))),
        ) * spline(subject.curves["force_velocity_points"], v)
        passive = spline(subject.curves["passive_force_length_points"], fiber[:, i] / l0)
        cosine = np.cos(np.arcsin(l0 * np.sin(m.pennation_at_optimal) / fiber[:, i]))
        force[:, i] = m.max_isometric_force * m.strength_coefficient * cosine
        force[:, i] *= active * a + passive + m.fiber_damping * v
    return force


def printed_digits(torques):
    """Half a unit of the sixth significant digit, all that CEINMS prints."""
    return 0.5 * 10.0 ** (np.floor(np.log10(np.abs(torques))) - 5)


def ceinms_replay(model, trial, velocities):
    """A recording that starts at the EMG's third row, as CEINMS's filter does, the motion at rest until it begins."""
    rest = EMG_ROWS - DELAY_ROWS - 1
    history = model.settings.history_length(DT)
    emg = np.concatenate([np.mean(trial.emg[:2], axis=0)[None], trial.emg[2:]])
    emg = before_saturation(np.concatenate([np.repeat(emg[:1], history - 1 - DELAY_ROWS, axis=0), emg]))
    frames = rest + len(trial.time)

    def rested(values):
        return np.concatenate([np.repeat(values[:1], rest, axis=0), values])

    return Replay(
        coordinates=model.coordinates,
        dt=np.asarray(DT),
        excitations=emg[: history - 1 + frames],
        lengths=rested(trial.lengths),
        velocities=rested(velocities),
        moment_arms=rested(trial.moment_arms),
    ), rest


# ---- stage by stage ----


def test_forces_from_a_given_activation_are_ceinms(example, calibrated):
    """Curves, pennation, damping and the activation-dependent optimal length, to rounding; then CEINMS's torques."""
    _, excitations, trial = example
    subject, torques = calibrated["stiff"]
    model, params = ceinms_model(subject, excitations, dt=DT, tendon="rigid")
    activation = ceinms_activation(subject, excitations, trial.emg, len(trial.time))
    fiber, velocity, along = stiff_fibers(subject, trial.lengths, trial.time)
    expected = ceinms_force(subject, activation, fiber, velocity)
    rest = jnp.zeros(len(subject.muscles))

    def force(a, length, speed):
        state = FiberState(rest, rest, rest)
        return fiber_step("rigid", "bdf2", 1, model.settings.curves, params, state, a, length, speed, DT)[
            1
        ].tendon_force

    f0 = np.asarray(params.max_isometric_force)
    # Our fibers follow the musculotendon; a fiber lengthens by along / fiber of what it does.
    ours = np.asarray(
        jax.jit(jax.vmap(force), compiler_options=QUICK)(activation, trial.lengths, velocity * fiber / along)
    )
    # A rigid tendon keeps the fiber from its shortest length smoothly: 1e-8 where a fiber comes near it.
    np.testing.assert_allclose(ours / f0, expected / f0, rtol=0, atol=3e-8)
    away = (along / params.optimal_fiber_length > 0.5).all(axis=0)
    assert away.sum() >= 3
    assert np.abs(((ours - expected) / f0)[:, away]).max() < 1e-10
    ours = np.einsum("tkm,tm->tk", trial.moment_arms, ours)
    assert (np.abs(ours - torques) < 1.05 * printed_digits(torques) + 1e-6).all()
    assert np.abs(ours - torques).max() < 5e-4


def test_the_whole_chain_is_ceinms(example, calibrated):
    """Delay, filter, shape, rigid tendon and moments by ``predict_moments`` alone, to the digits CEINMS prints."""
    _, excitations, trial = example
    subject, torques = calibrated["stiff"]
    model, params = ceinms_model(subject, excitations, dt=DT, tendon="rigid")
    fiber, velocity, along = stiff_fibers(subject, trial.lengths, trial.time)
    replay, rest = ceinms_replay(model, trial, velocity * fiber / along)
    out = predict(model, params, replay)
    activation = ceinms_activation(subject, excitations, trial.emg, len(trial.time))
    np.testing.assert_allclose(out.activation[rest:], activation, rtol=0, atol=1e-12)
    error = np.abs(np.asarray(out.moments)[rest:] - torques)
    assert (error < 1.05 * printed_digits(torques) + 1e-6).all()
    assert error.max() < 5e-4


def test_what_our_own_choices_change(example, calibrated):
    """The same recording as a user loads it: smooth saturation, a settled start, velocities of the musculotendon."""
    _, excitations, trial = example
    subject, torques = calibrated["stiff"]
    model, params = ceinms_model(subject, excitations, dt=DT, tendon="rigid")
    segment = make_segment(model, trial, lead_in=0.0)
    out = predict(model, params, segment.replay)
    error = np.asarray(out.moments) - torques
    assert segment.coordinates == ("knee_angle_r", "ankle_angle_r")
    # The filters of CEINMS's optimum forget over 0.5 s.
    assert np.abs(error).max() < 12.0
    assert np.abs(error[100:]).max() < 0.5
    assert np.sqrt(np.mean(error[100:] ** 2)) < 0.1


def test_elastic_tendons_stay_close_to_ceinms(example, calibrated):
    """CEINMS solves each frame for itself and takes forces from a spline's velocity; we integrate (BDF2)."""
    _, excitations, trial = example
    subject, torques = calibrated["elastic"]
    model, params = ceinms_model(subject, excitations, dt=DT)
    replay, rest = ceinms_replay(model, trial, np.zeros_like(trial.lengths))
    out = predict(model, params, replay)
    error = np.asarray(out.moments)[rest:] - torques
    assert np.sqrt(np.mean(error**2, axis=0)) == pytest.approx([0.34, 0.49], abs=0.02)
    assert float(np.abs(out.residual).max()) < 1e-6
    # The spread of what is compared.
    assert torques.std(axis=0).min() > 25


def test_gradients_reach_every_parameter(example):
    subject, excitations, trial = example
    model, params = ceinms_model(subject, excitations, dt=DT)
    segment = make_segment(model, trial, stop=0.4)

    def loss(params):
        return jnp.mean((predict_moments(model, params, segment.replay).moments - segment.measured) ** 2)

    value, gradient = jax.jit(jax.value_and_grad(loss), compiler_options=QUICK)(params)
    assert np.isfinite(value)
    idle = {"activation_time_constant", "deactivation_time_constant", "synergy_weight"}  # of which it has none
    for kind in dataclasses.fields(gradient):
        leaf = np.asarray(getattr(gradient, kind.name))
        assert np.isfinite(leaf).all(), kind.name
        assert (np.abs(leaf) > 0).any() != (kind.name in idle), kind.name


# ---- models ----


def test_model_of_a_subject(example):
    subject, excitations, _ = example
    model, params = ceinms_model(subject, excitations, dt=DT)
    # The files hold the points of the manual.
    assert model.settings.curves == Tabulated()
    assert model.settings.tendon == "elastic"
    np.testing.assert_allclose(ceinms_coefficient(params.filter_time_constant_1, DT), -0.5, rtol=1e-14)
    assert params.electromechanical_delay.tolist() == [0.015] * 8
    assert params.optimal_fiber_length_change.tolist() == [0.15] * 12
    assert (
        params.tendon_strain_at_one_norm_force[0] == model.settings.curves.defaults["tendon_strain_at_one_norm_force"]
    )
    assert model.channel_weights.sum(axis=1).tolist() == [1.0] * 12
    assert model.passive_muscles == ()


def test_real_time_subject(data):
    """CEINMS-RT: degrees, channels inside, no delay, no tendon curve."""
    folder = data("ceinms_rt_lowerlimb") / "original"
    subject = read_ceinms_subject(folder / "subjectCalibrated.xml")
    assert len(subject.muscles) == 92
    assert subject.muscles[0].pennation_at_optimal == pytest.approx(np.radians(8), abs=1e-8)
    assert "tendon_force_points" not in subject.curves
    assert subject.channels.muscles["vas_int_r"] == {"vas_med_r": 0.5, "vas_lat_r": 0.5}
    with pytest.raises(InputError, match="no electromechanical delay"):
        ceinms_model(subject, dt=0.01)
    model, params = ceinms_model(subject, dt=0.01, delay=0.1)
    assert model.coordinates == ("ankle_angle_r", "knee_angle_r", "hip_flexion_r")
    assert params.electromechanical_delay.tolist() == [0.1] * 9
    assert params.fiber_damping[0] == 0.5
    i = model.muscles.index("soleus_r")
    assert params.max_isometric_force[i] == pytest.approx(
        subject.muscles[i].max_isometric_force * subject.muscles[i].strength_coefficient
    )
    assert len(model.passive_muscles) == 92 - 11


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<c1>-0.5</c1>", "<c1>0.5</c1>", "c1 of muscle 'a' is 0.5"),
        ("<name>b</name><emDelay>0.02", "<name>b</name><emDelay>0.05", "channel 'x' have different emDelay"),
        ("<optimalFibreLength>0.1", "<optimalFibreLength>100", "optimal_fiber_length of 'a' is 100 m"),
        (
            "</damping>\n",
            "</damping><curve><name>tendonForceStrain</name><xPoints>0 1</xPoints><yPoints>0 0.5</yPoints></curve>",
            "does not grow through force 1",
        ),
    ],
)
def test_subjects_that_make_no_model(tmp_path, old, new, message):
    subject = read(tmp_path, SUBJECT, old, new)
    with pytest.raises(InputError, match=message) as raised:
        ceinms_model(subject, read(tmp_path, EXCITATIONS), dt=0.005)
    assert "file.xml" in str(raised.value)


def test_missing_channels(tmp_path):
    with pytest.raises(InputError, match="give the excitation generator too"):
        ceinms_model(read(tmp_path, SUBJECT), dt=0.005)


def test_strength_and_settings(tmp_path):
    model, params = ceinms_model(
        read(tmp_path, SUBJECT), read(tmp_path, EXCITATIONS), dt=0.001, tendon="rigid", max_delay=0.1
    )
    assert params.max_isometric_force.tolist() == [150.0, 100.0]
    assert model.settings.max_delay == 0.1


# ---- writing ----


def test_what_is_written_is_read_back(tmp_path, example):
    subject = example[0]
    write_ceinms_subject(tmp_path / "subject.xml", subject, identity="somebody")
    again = read_ceinms_subject(tmp_path / "subject.xml")
    assert dataclasses.replace(again, path=subject.path) == subject
    text = (tmp_path / "subject.xml").read_text()
    assert "<subjectID>somebody</subjectID>" in text
    write_ceinms_subject(tmp_path / "subject.xml", subject, calibration="a calibration.xml")
    text = (tmp_path / "subject.xml").read_text()
    assert "<startSubjectFile>uncalibrated.xml</startSubjectFile>" in text
    assert "<calibrationSequence>a_calibration.xml</calibrationSequence>" in text


def test_delays_that_differ_are_written(tmp_path):
    subject = read(tmp_path, SUBJECT, "<name>b</name><emDelay>0.02", "<name>b</name><emDelay>0.05")
    write_ceinms_subject(tmp_path / "new.xml", subject)
    again = read_ceinms_subject(tmp_path / "new.xml")
    assert [m.electromechanical_delay for m in again.muscles] == [0.02, 0.05]
    assert again.muscles == subject.muscles


def test_our_parameters_as_a_subject(example):
    subject, excitations, _ = example
    model, params = ceinms_model(subject, excitations, dt=DT)
    # Into our terms and back.
    for old, new in zip(
        subject.muscles, calibrated_ceinms_subject(subject, params, model.muscles, dt=DT).muscles, strict=True
    ):
        assert new.name == old.name
        assert dataclasses.astuple(new)[1:] == pytest.approx(dataclasses.astuple(old)[1:], rel=1e-13)
    changed = dataclasses.replace(
        params,
        max_isometric_force=params.max_isometric_force * 1.5,
        filter_time_constant_2=np.full(12, -DT / np.log(0.9)),
    )
    # Muscles are matched by name.
    order = list(reversed(range(12)))
    backwards = jax.tree.map(lambda x: x[order] if x.shape == (12,) else x, changed)
    found = calibrated_ceinms_subject(subject, backwards, model.muscles[::-1], dt=DT)
    assert [m.strength_coefficient for m in found.muscles] == pytest.approx([1.5] * 12)
    assert [m.c2 for m in found.muscles] == pytest.approx([-0.9] * 12)
    assert [m.max_isometric_force for m in found.muscles] == [m.max_isometric_force for m in subject.muscles]
    with pytest.raises(InputError, match="no parameters for 'bfsh_r'"):
        calibrated_ceinms_subject(subject, params, model.muscles[:-1], dt=DT)


def test_subjects_that_the_format_cannot_hold(tmp_path, data):
    subject = read(tmp_path, SUBJECT)
    a, b = subject.muscles
    for change, message in (
        ({"electromechanical_delay": None}, "no electromechanical_delay of 'a'"),
        ({"fiber_damping": 0.2}, "fiber_damping differs between muscles .0.1 to 0.2.*one <damping>"),
        ({"optimal_fiber_length_change": 0.0}, "one <percentageChange>"),
    ):
        odd = dataclasses.replace(subject, muscles=(dataclasses.replace(a, **change), b))
        with pytest.raises(InputError, match=message):
            write_ceinms_subject(tmp_path / "new.xml", odd)
    real_time = read_ceinms_subject(data("ceinms_rt_lowerlimb") / "original" / "subjectCalibrated.xml")
    with pytest.raises(InputError, match="has no channels; write them as an excitation generator"):
        write_ceinms_subject(tmp_path / "new.xml", real_time)
    assert not (tmp_path / "new.xml").exists()
