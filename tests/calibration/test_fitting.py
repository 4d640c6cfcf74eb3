"""Calibration of a synthetic person and of a real one, scored on stretches that were never fitted."""

from __future__ import annotations

import dataclasses
import json
from contextlib import contextmanager

import jax
import numpy as np
import pytest
from helpers import load_arrays
from models import ARM, arm_model, arm_params

from calibration.fitting import Progress, Status, _make_loop, fit, polished, starting_points
from calibration.problem import Free, Penalties, Problem, make_layout, params_at
from calibration.residuals import make_data, make_objective
from calibration.validation import compare, evaluate, predict_segment, tabulate
from nms_gym.errors import InputError
from nms_gym.model.parameters import make_params
from nms_gym.model.replay import make_segment
from nms_gym.model.structure import NmsModel, Settings
from nms_gym.recording.arrays import read_arrays
from nms_gym.recording.trial import Trial, make_trial

MODEL = arm_model(
    {
        "TRI": {"TRIlong": 1.0, "TRImed": 0.5},
        "TRIlat": {"TRIlat": 1.0, "TRImed": 0.5},
        "BIC": {"BIClong": 1.0, "BRA": 0.5},
        "BICshort": {"BICshort": 1.0, "BRA": 0.5},
    }
)
# Bounds so wide that none is met.
FREE = (
    Free("max_isometric_force", (0.2, 5.0), 0.2),
    Free("optimal_fiber_length", (0.5, 2.0), 0.1),
    Free("tendon_slack_length", (0.7, 1.4), 0.04),
    Free("shape_factor", (-6.0, 2.0), 0.75, relative=False),
    Free("emg_gain", (0.05, 20.0), 0.5),
    Free("electromechanical_delay", (0.0, 0.13), 0.02, relative=False, share="all"),
)


def reach(seed, seconds, truth=None):
    """Smooth random reaches and channels at 100 Hz; moments of the model with parameters ``truth``, and 2 % noise."""
    rng = np.random.default_rng(seed)
    t = 0.01 * np.arange(round(seconds / 0.01) + 1)

    def smooth(count, fastest):
        rate, phase = rng.uniform(0.3, fastest, (5, count)), rng.uniform(0, 2 * np.pi, (5, count))
        return np.sin(2 * np.pi * rate * t[:, None, None] + phase).sum(axis=1) / 3

    # Shoulder and elbow where no fiber is stretched beyond the working range that a calibration expects.
    q = np.array([0.2, 1.1]) + np.array([0.4, 0.6]) * np.tanh(smooth(2, 0.8))
    trial = Trial(
        name=f"reach{seed}",
        time=t,
        coordinates=ARM.coordinates,
        q=q,
        qd=np.gradient(q, t, axis=0),
        channels=MODEL.channels,
        emg_time=t,
        emg=1 / (1 + np.exp(1.0 - 3 * smooth(4, 2.0))),
        synthetic=True,
    )
    if truth is None:
        return trial
    moments = predict_segment(MODEL, truth, make_segment(MODEL, trial)).moments
    noise = 0.02 * moments.std(axis=0) * rng.standard_normal(moments.shape)
    return dataclasses.replace(trial, moment_coordinates=ARM.coordinates, moments=moments + noise)


@pytest.fixture(scope="module")
def person():
    """Problem (start parameters of the model file, 3 s), truth, and a held-out recording."""
    rng = np.random.default_rng(3)

    def off(kind, sd):
        values = np.array([ARM.parameters[kind][m] for m in MODEL.muscles])
        return values * np.exp(sd * rng.standard_normal(len(values)))

    truth = make_params(
        MODEL,
        {
            **ARM.parameters,
            "max_isometric_force": off("max_isometric_force", 0.15),
            "optimal_fiber_length": off("optimal_fiber_length", 0.08),
            "tendon_slack_length": off("tendon_slack_length", 0.03),
            # Not among the free.
            "pennation_at_optimal": {m: 1.1 * v for m, v in ARM.parameters["pennation_at_optimal"].items()},
            "shape_factor": [-1.5, -1.2, -1.0, -1.2, -1.8, -0.8],
            "emg_gain": [0.6, 0.8, 0.6, 0.7],
            "electromechanical_delay": 0.06,
        },
    )
    train, held_out = reach(1, 3.0, truth), reach(2, 3.0, truth)
    start = arm_params(MODEL)
    problem = Problem(MODEL, start, (make_segment(MODEL, train, start=0.2),), FREE)
    return problem, truth, (make_segment(MODEL, held_out, start=0.2),)


@contextmanager
def compiling_nothing(problem):
    """Neither another solver nor another program of it; counted, because times say little on a busy machine."""

    def programs():
        loop = _make_loop(make_layout(problem), problem.penalties, "lm", 1e-4, 0.0, 0)
        return _make_loop.cache_info().misses, loop.advance._cache_size()

    before = programs()
    assert before[1] > 0
    yield
    assert programs() == before


@pytest.fixture(scope="module")
def calibrated(person):
    told = []
    result = fit(person[0], starts=2, progress=told.append)
    return result, told


# ---- Levenberg-Marquardt on a synthetic person ----


def test_calibration_predicts_what_it_never_saw(person, calibrated):
    problem, _, held_out = person
    result, _ = calibrated
    before = {m.coordinate: m.r2 for m in evaluate(MODEL, problem.start, held_out)}
    after = {m.coordinate: m.r2 for m in evaluate(MODEL, result.params, held_out)}
    for coordinate in ARM.coordinates:
        assert after[coordinate] > 0.98
        assert before[coordinate] < 0.8
    assert result.status is Status.CONVERGED
    assert result.cost < 0.02 * result.start_cost
    assert result.at_bounds == ()
    # The common delay is well determined.
    np.testing.assert_allclose(result.params.electromechanical_delay, 0.06, atol=0.005)


def test_result_describes_itself(person, calibrated):
    problem, _, _ = person
    result, told = calibrated
    layout = result.layout
    assert layout == make_layout(problem)
    for ours, theirs in zip(
        jax.tree.leaves(result.params), jax.tree.leaves(params_at(layout, problem.start, result.z)), strict=True
    ):
        assert isinstance(ours, np.ndarray)
        assert ours.dtype == np.float64
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)
    assert result.costs.shape == (2,)
    assert result.all_z.shape == (2, layout.size)
    assert result.cost == result.costs.min()  # the best start wins
    np.testing.assert_array_equal(result.z, result.all_z[np.argmin(result.costs)])
    # Cost by iteration never rises, and starts where the start is.
    assert result.history[0, 0] == result.start_cost
    assert np.all(np.diff(result.history, axis=0) <= 0)
    assert result.iterations <= len(result.history)
    # Progress told the same.
    assert all(isinstance(p, Progress) for p in told)
    assert told[-1].cost == result.cost
    assert [p.iteration for p in told] == sorted(p.iteration for p in told)


def test_minimum_is_a_minimum(person, calibrated):
    """The gradient of the documented cost vanishes, relative to the start's; the truth is no better, by the noise."""
    problem, truth, _ = person
    result, _ = calibrated
    layout = result.layout
    objective = make_objective(layout, problem.penalties)
    quadratic = jax.jit(lambda z: objective.quadratic(problem.model, make_data(problem), problem.start, z))
    at, start = quadratic(result.z), quadratic(np.zeros(layout.size))
    assert float(at.cost) == pytest.approx(result.cost, rel=1e-9)
    assert float(start.cost) == pytest.approx(result.start_cost, rel=1e-9)
    assert np.abs(at.gradient).max() < 1e-3 * np.abs(start.gradient).max()
    z = np.zeros(layout.size)
    for kind, index in layout.index.items():
        true, before = np.asarray(getattr(truth, kind)), np.asarray(getattr(problem.start, kind))
        z[index] = np.log(true / before) if layout.relative[kind] else true - before
    at_truth = float(quadratic(z / layout.sd).cost)
    assert result.cost < at_truth < 0.1 * result.start_cost


def test_second_fit_of_the_layout_does_not_compile(person, calibrated):
    """Other data of the same shape, another start: the compiled solver is there already."""
    problem, truth, _ = person
    first, _ = calibrated
    other = (make_segment(MODEL, reach(5, 3.0, truth), start=0.2),)
    with compiling_nothing(problem):
        second = fit(dataclasses.replace(problem, segments=other), starts=2, max_iterations=60)
    assert second.cost != first.cost


def test_polishing_reaches_the_bottom(person, calibrated):
    """A few steps of gradient descent, then Levenberg-Marquardt: as low as Levenberg-Marquardt alone."""
    best = calibrated[0].cost
    rough = fit(person[0], solver="adam", starts=1, learning_rate=0.2, max_iterations=25)
    result = polished(person[0], rough)
    assert rough.cost > 1.05 * best
    assert result.cost == pytest.approx(best, rel=1e-2)
    assert result.solver == "adam, lm"
    assert result.start_cost == rough.start_cost
    assert len(result.history) >= len(rough.history) + result.iterations - rough.iterations > len(rough.history)
    with pytest.raises(InputError, match=r"initial has shape \(1, 2\); expected \(starts, "):
        fit(person[0], initial=np.zeros((1, 2)))
    # As many free values, but of other names: by position they would land on the wrong muscles.
    layout = dataclasses.replace(rough.layout, names=rough.layout.names[::-1])
    with pytest.raises(InputError, match="belongs to another problem"):
        polished(person[0], dataclasses.replace(rough, layout=layout))


def test_adam_comes_close(person):
    """The cost is the harder for descent the smaller the tolerance."""
    problem = dataclasses.replace(person[0], penalties=Penalties(moment_tolerance=0.3))
    best = fit(problem, starts=2).cost
    result = fit(problem, solver="adam", starts=1, learning_rate=0.2, max_iterations=400)
    assert result.solver == "adam"
    assert result.cost < 1.05 * best
    assert result.cost == pytest.approx(np.nanmin(result.history), rel=1e-12)


def test_starts(person):
    layout = make_layout(person[0])
    points = starting_points(layout, 200, seed=1)
    np.testing.assert_array_equal(points[0], 0)
    assert np.all((points >= layout.low) & (points <= layout.high))
    assert np.all(points[1:].std(axis=0) > 0.2)
    np.testing.assert_array_equal(points, starting_points(layout, 200, seed=1))
    assert np.abs(points - starting_points(layout, 200, seed=2)).max() > 0.1


# ---- a box too small, and endings other than success ----

BOX = (
    Free("emg_gain", (0.9, 1.1), 0.5),
    Free("electromechanical_delay", (0.02, 0.04), 0.02, relative=False, share="all"),
)
# One limit for all, because compiled solvers are kept by it too.
FEW = {"starts": 2, "max_iterations": 20}


@pytest.mark.parametrize("solver", ["lm", "adam"])
def test_bounds_are_respected_and_reported(person, solver):
    """Both solvers stop at the bounds, and say so."""
    problem, _, _ = person
    result = fit(dataclasses.replace(problem, free=BOX), solver=solver, **FEW)
    gain = result.params.emg_gain / np.asarray(problem.start.emg_gain)
    assert np.all((gain > 0.9 - 1e-9) & (gain < 1.1 + 1e-9))
    assert np.all((result.all_z >= result.layout.low) & (result.all_z <= result.layout.high))
    np.testing.assert_allclose(result.params.electromechanical_delay, 0.04, atol=1e-6)
    assert "electromechanical_delay:all" in result.at_bounds
    assert result.cost < result.start_cost
    # Twenty-five steps of Adam are too few, and it says so.
    assert result.status is (Status.CONVERGED if solver == "lm" else Status.MAX_ITERATIONS)
    assert "max_iterations" in Status.MAX_ITERATIONS.value


@pytest.mark.parametrize("solver", ["lm", "adam"])
def test_data_that_are_not_finite_are_a_status(person, solver):
    problem, _, _ = person
    segment = problem.segments[0]
    broken = dataclasses.replace(segment, measured=segment.measured.copy())
    broken.measured[60, 0] = np.nan
    result = fit(dataclasses.replace(problem, segments=(broken,), free=BOX), solver=solver, **FEW)
    assert result.status is Status.NOT_FINITE
    assert "check lengths" in result.status.value
    for ours, theirs in zip(jax.tree.leaves(result.params), jax.tree.leaves(problem.start), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("solver", ["lm", "adam"])
def test_interruption_keeps_the_best_so_far(person, solver):
    problem, _, _ = person

    def stop(progress):
        raise KeyboardInterrupt

    result = fit(dataclasses.replace(problem, free=BOX), solver=solver, progress=stop, **FEW)
    assert result.status is Status.INTERRUPTED
    assert np.isfinite(result.cost)
    assert result.cost <= result.start_cost
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(result.params))
    assert len(result.history) > 0


def test_bad_requests_are_named(person):
    with pytest.raises(InputError, match="no solver 'sgd'; there are 'lm', 'adam'"):
        fit(person[0], solver="sgd")
    with pytest.raises(InputError, match="starts is 0"):
        fit(person[0], starts=0)


def test_settings_of_jax_are_left_alone(person):
    """The calibration is in float64 and reproduces bit for bit whatever the global setting, which stays as it was."""
    problem = dataclasses.replace(person[0], free=BOX)
    expected = fit(problem, **FEW)
    with jax.enable_x64(False):
        before = jax.config.jax_enable_x64
        result = fit(problem, **FEW)
        metrics = evaluate(MODEL, result.params, person[2])
        assert before is False
        assert jax.config.jax_enable_x64 is False
    assert jax.config.jax_enable_x64 is True
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(result.params))
    np.testing.assert_allclose(result.z, expected.z, rtol=1e-9)
    assert metrics[0].r2 == pytest.approx(evaluate(MODEL, expected.params, person[2])[0].r2, rel=1e-9)


# ---- metrics ----


def test_metrics_by_hand():
    measured, predicted = np.array([0.0, 1.0, 2.0, 5.0]), np.array([1.0, 1.0, 2.0, 3.0])
    m = compare("knee", predicted, measured)
    assert (m.coordinate, m.samples) == ("knee", 4)
    assert m.rmse == pytest.approx(np.sqrt(5 / 4))
    assert m.nrmse == pytest.approx(np.sqrt(5 / 4) / 5)
    assert m.r2 == pytest.approx(1 - 5 / 14)
    assert m.r == pytest.approx(np.corrcoef(measured, predicted)[0, 1])
    assert m.row(set="x")["set"] == "x"
    assert compare("knee", measured * 2 + 1, measured).r == pytest.approx(1.0)
    assert compare("knee", np.full(4, 2.0), measured).r2 == pytest.approx(0.0)
    assert np.isnan(compare("knee", np.full(4, 2.0), measured).r)


def test_table_of_metrics(person, calibrated):
    problem, _, held_out = person
    rows = tabulate(MODEL, problem.start, calibrated[0].params, problem.segments, {"reach2": held_out})
    assert len(rows) == 8
    assert [(r["set"], r["split"], r["segment"]) for r in rows[::2]] == [
        ("uncalibrated", "train", "training windows"),
        ("calibrated", "train", "training windows"),
        ("uncalibrated", "held-out", "reach2"),
        ("calibrated", "held-out", "reach2"),
    ]
    # Only counted samples, and the moments of the prediction.
    segment = held_out[0]
    moments = predict_segment(MODEL, calibrated[0].params, segment).moments[segment.scored, 1]
    rmse = np.sqrt(np.mean((moments - segment.measured[segment.scored, 1]) ** 2))
    assert rows[7]["rmse"] == pytest.approx(rmse, rel=1e-12)
    json.dumps(rows)


def test_nothing_to_evaluate_is_named(person):
    with pytest.raises(InputError, match="no window"):
        evaluate(MODEL, person[0].start, ())
    with pytest.raises(InputError, match="no measured moments"):
        evaluate(MODEL, person[0].start, (dataclasses.replace(person[2][0], measured=None),))


# ---- a real person ----

LEG = (
    "soleus",
    "med_gas",
    "lat_gas",
    "tib_ant",
    "semimem",
    "semiten",
    "bifemlh",
    "bifemsh",
    "vas_lat",
    "vas_med",
    "vas_int",
    "rect_fem",
)
LEG_GROUPS = {
    "triceps": ("soleus_r", "med_gas_r", "lat_gas_r"),
    "vasti": ("vas_lat_r", "vas_med_r", "vas_int_r"),
    "hamstrings": ("semimem_r", "semiten_r", "bifemlh_r"),
}


def walking(folder, speed):
    """A walk of the ceinms_rt_lowerlimb data, its EMG without each channel's resting level; its clean strides."""
    file = folder / f"walk{speed}_0-30s.npz"
    roles = {
        "time": "time",
        "coordinates": "dofs",
        "q": "q",
        "qd": "qd",
        "channels": "emg_channels",
        "emg": "emg",
        "moments": "id",
        "muscles": "muscles",
        "lengths": "lmt",
        "velocities": "vmt",
        "moment_arms": "ma",
        "moment_arm_axes": "time,muscle,coordinate",
    }
    trial = make_trial(f"walk{speed}", **vars(read_arrays(file, roles)))
    rest = np.quantile(trial.emg, 0.02, axis=0)
    strides = [
        (start, stop)
        for start, stop, clean in load_arrays(file)["strides"]
        if clean == 1 and start > trial.time[0] + 0.35 and stop < trial.time[-1] - 0.3
    ]
    return dataclasses.replace(trial, emg=np.maximum(trial.emg - rest, 0.0)), strides


@pytest.mark.slow
def test_real_walking(data):
    """Five strides of one speed calibrate; the other strides and another speed are predicted.

    Limits of held-out R2: ankle 0.80, knee 0.70, the project's requirement, and better than uncalibrated.
    """
    folder = data("ceinms_rt_lowerlimb")
    mapping = json.loads((folder / "emg_mapping.json").read_text())["channels"]
    (slow, slow_strides), (fast, fast_strides) = walking(folder, 36), walking(folder, 45)
    muscles = tuple(f"{name}_r" for name in LEG)
    weights = np.zeros((len(muscles), len(slow.channels)))
    for channel, driven in mapping.items():
        names = ("vas_lat_r", "vas_med_r") if "mean" in channel else (channel,)
        for name in driven:
            weights[muscles.index(f"{name}_r"), [slow.channels.index(c) for c in names]] = 1 / len(names)
    model = NmsModel(muscles, ("knee_angle_r", "ankle_angle_r"), slow.channels, Settings(), weights)
    arrays = load_arrays(folder / "walk36_0-30s.npz")
    rows = [list(arrays["muscles"]).index(m) for m in muscles]
    anatomy = ("max_isometric_force", "optimal_fiber_length", "tendon_slack_length", "pennation_at_optimal")
    start = make_params(model, {kind: arrays[f"param_{kind}"][rows] for kind in anatomy})

    def segments(trial, strides):
        return tuple(make_segment(model, trial, start=a, stop=b) for a, b in strides)

    train, other = segments(slow, slow_strides[:5]), segments(slow, slow_strides[5:])
    assert len(other) >= 5
    problem = Problem(model, start, train, groups=LEG_GROUPS)
    result = fit(problem, starts=2)
    assert result.status is Status.CONVERGED
    for held_out in (other, segments(fast, fast_strides)):
        assert len(held_out) >= 5
        before = {m.coordinate: m.r2 for m in evaluate(model, start, held_out)}
        after = {m.coordinate: m.r2 for m in evaluate(model, result.params, held_out)}
        assert after["ankle_angle_r"] >= 0.80
        assert after["knee_angle_r"] >= 0.70
        assert all(after[c] > before[c] + 0.05 for c in after)
    residual = [np.abs(predict_segment(model, result.params, s).residual).max() for s in (*train, *other)]
    assert max(residual) < 1e-6


def test_iteration_limit_of_the_fast_solver_compiles_nothing_new(person, calibrated):
    with compiling_nothing(person[0]):
        again = fit(person[0], starts=2, max_iterations=8)
    assert again.iterations <= 8
