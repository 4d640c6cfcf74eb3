"""Moments of maximal contractions: the model's statics, a block of the cost, through a study, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import THREE_CHANNELS, arm_model, arm_params, reach

from calibration.problem import Free, Problem, make_layout, params_at
from calibration.residuals import make_data, make_maximal, make_objective, moments_of, predict_maximal
from calibration.solvers.batch import make_batches
from calibration.study.build import make_study
from calibration.study.calibrate import calibrate
from calibration.study.dynamometer import Dynamometer, maximal_moments, read_dynamometer
from calibration.study.read import study_arguments
from calibration.study.results import write_results
from calibration.validation import evaluate_maximal
from nms_gym.errors import InputError
from nms_gym.model.forward import excited_step, initial_state, kinematics_at
from nms_gym.model.replay import make_segment

MODEL = arm_model(THREE_CHANNELS)
RIGID = arm_model(THREE_CHANNELS, tendon="rigid")
SHOULDER, ELBOW = MODEL.coordinates
FREE = (
    Free("emg_gain", (0.1, 5.0), 0.5),
    Free("max_isometric_force", (0.3, 3.0), 0.3),
    Free("optimal_fiber_length", (0.8, 1.25), 0.1),
    Free("tendon_slack_length", (0.8, 1.25), 0.05),
)
FLEXORS = {"BIClong", "BICshort", "BRA"}


def contractions(**changes):
    """Elbow flexion twice, one of them shortening, and extension."""
    return Dynamometer(
        **{
            "name": "biodex",
            "joints": (ELBOW, ELBOW, ELBOW),
            "coordinates": (ELBOW, SHOULDER),
            "q": np.array([[1.2, 0.1], [1.5, 0.0], [1.4, 0.2]]),
            "moments": np.array([60.0, 50.0, 40.0]),
            "directions": np.array([1, 1, -1]),
            "velocities": np.array([0.0, 1.0, 0.0]),
            **changes,
        }
    )


def problem_of(model=MODEL, **changes):
    maximal = maximal_moments([contractions(**changes)], model)
    segments = (make_segment(model, reach(model.channels, 0), start=0.2),)
    return Problem(model, arm_params(model), segments, FREE, maximal=maximal)


# ---- what the model says of them ----


def test_isometric_moments_are_those_of_a_pose_held_at_full_excitation():
    """The closed form is where the step of every simulation comes to rest, with elastic tendons."""
    maximal = maximal_moments([contractions(velocities=None)], MODEL)
    params, k = arm_params(MODEL), list(MODEL.coordinates).index(ELBOW)

    @jax.jit
    def held(level, q):
        kinematics = kinematics_at(MODEL, q, jnp.zeros(2))
        history = jnp.zeros((MODEL.settings.history_length(0.01), 3))
        state = initial_state(MODEL, params, history, kinematics.lengths, 0.01)
        step = lambda state, _: excited_step(MODEL, params, state, level, kinematics, 0.01)  # noqa: E731
        return jax.lax.scan(step, state, None, length=150)[1].moments[-1]

    poses = contractions().q[:, ::-1]
    with jax.enable_x64(True):
        expected = [float(held(*map(jnp.asarray, row))[k]) for row in zip(maximal.level, poses, strict=True)]
    np.testing.assert_allclose(evaluate_maximal(MODEL, params, maximal), expected, rtol=1e-6)
    assert expected[0] > 30
    assert expected[2] < -20


def test_fibers_carry_the_velocity_of_an_isokinetic_contraction():
    """Shortening weakens, lengthening strengthens; with a rigid tendon it is a simulation's step exactly."""
    speeds = np.array([0.0, 2.0, -2.0])
    given = contractions(q=np.tile([1.4, 0.1], (3, 1)), directions=np.ones(3), velocities=speeds)
    for model in (RIGID, MODEL):
        still, shortening, lengthening = evaluate_maximal(model, arm_params(model), maximal_moments([given], model))
        assert shortening < 0.9 * still
        assert lengthening > 1.1 * still
    params, maximal = arm_params(RIGID), maximal_moments([given], RIGID)
    with jax.enable_x64(True):
        qd = jnp.asarray([2.0 if c == ELBOW else 0.0 for c in RIGID.coordinates])
        kinematics = kinematics_at(RIGID, jnp.asarray([0.1, 1.4]), qd)
        np.testing.assert_allclose(maximal.velocities[1], kinematics.velocities, rtol=1e-9)
        level = jnp.asarray(maximal.level[1])
        state = initial_state(
            RIGID, params, jnp.zeros((RIGID.settings.history_length(10.0), 3)), kinematics.lengths, 10.0
        )
        for _ in range(2):  # activation takes a step to settle
            state, out = excited_step(RIGID, params, state, level, kinematics, 10.0)
    found = evaluate_maximal(RIGID, params, maximal)[1]
    assert found == pytest.approx(float(out.moments[list(RIGID.coordinates).index(ELBOW)]), rel=1e-9)


def test_who_pulls_is_active_and_others_are_silent_unless_told():
    maximal = maximal_moments([contractions(activation=0.9, coactivation=0.1)], MODEL)
    for row, strong in ((0, FLEXORS), (2, set(MODEL.muscles) - FLEXORS)):
        assert {m for m, a in zip(MODEL.muscles, maximal.level[row], strict=True) if a == 0.9} == strong
        assert set(maximal.level[row]) == {0.9, 0.1}
    np.testing.assert_array_equal(maximal.moments, [60.0, 50.0, -40.0])
    np.testing.assert_allclose(maximal.tolerance, [6.0, 5.0, 4.0])
    full = evaluate_maximal(MODEL, arm_params(MODEL), maximal_moments([contractions()], MODEL))
    weaker = evaluate_maximal(MODEL, arm_params(MODEL), maximal)
    assert (np.abs(weaker) < 0.95 * np.abs(full)).all()


# ---- as a block of the cost ----


def test_gradient_of_the_block():
    """With elastic tendons, against central differences: strength is in it, gains are not."""
    problem = problem_of()
    layout = make_layout(problem)
    maximal, start = jax.tree.map(jnp.asarray, (make_maximal(problem.maximal), problem.start))
    model = dataclasses.replace(MODEL, paths=None)

    @jax.jit
    def block(z):
        force = predict_maximal(model, params_at(layout, start, z), maximal)
        return 0.5 * jnp.sum((maximal.whitening @ (moments_of(maximal, force) - maximal.measured)) ** 2)

    z = jnp.asarray(np.random.default_rng(0).uniform(-0.3, 0.3, layout.size))
    gradient = np.asarray(jax.jit(jax.grad(block))(z))
    h = 1e-5
    differences = [(block(z + h * e) - block(z - h * e)) / (2 * h) for e in jnp.eye(layout.size)]
    np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-6 * np.abs(gradient).max())
    moved = {n for n, g in zip(layout.names, gradient, strict=True) if abs(g) > 1e-6}
    assert {f"max_isometric_force:{m}" for m in MODEL.muscles} <= moved
    assert not any(n.startswith("emg_gain") for n in moved)


def test_strength_and_gain_are_told_apart():
    """The coloured Jacobian is that of the block; with it strength and gain are known better than by moments alone."""
    problem = problem_of(RIGID, tolerance=1.0)
    layout = make_layout(problem)
    objective = make_objective(layout, problem.penalties)
    model, data, start = jax.tree.map(jnp.asarray, (RIGID, make_data(problem), problem.start))
    quadratic = jax.jit(lambda data, z: objective.quadratic(model, data, start, z))
    z = jnp.asarray(np.random.default_rng(0).uniform(-0.3, 0.3, layout.size))
    silent = dataclasses.replace(data, maximal=dataclasses.replace(data.maximal, whitening=jnp.zeros((3, 3))))
    with_, without = quadratic(data, z), quadratic(silent, z)
    block = jax.value_and_grad(lambda z: objective.blocks(model, data, start, z)["maximal_moments"])
    value, gradient = jax.jit(block)(z)
    np.testing.assert_allclose(with_.gradient - without.gradient, gradient, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(with_.cost - without.cost, value, rtol=1e-9)
    known, before = (np.sqrt(np.diag(np.linalg.inv(np.asarray(x.matrix)))) for x in (with_, without))
    better = dict(zip(layout.names, known / before, strict=True))
    assert better["emg_gain:triceps"] < 0.6
    assert better["emg_gain:biceps"] < 0.8
    assert max(better.values()) < 1 + 1e-9


def test_an_effort_that_is_not_maximal_is_one_error_not_many():
    """The block is the negative log density of errors that all contractions share in part, whichever way they pull."""
    maximal = maximal_moments([contractions(shared=0.5), contractions(shared=0.0)], RIGID)
    errors = np.array([6.0, 5.0, -4.0])  # one tolerance too much, all of them
    covariance = maximal.covariance
    assert (covariance[:3, 3:] == 0).all()
    shared, own = (errors @ np.linalg.solve(c, errors) for c in (covariance[:3, :3], covariance[3:, 3:]))
    assert own == pytest.approx(3.0)
    assert shared == pytest.approx(3 / (1 + 2 * 0.5))
    whitening = make_data(dataclasses.replace(problem_of(RIGID), maximal=maximal)).maximal.whitening
    np.testing.assert_allclose(whitening.T @ whitening @ covariance, np.eye(6), atol=1e-12)


def test_padding_in_a_batch_does_not_count():
    """People with more and fewer contractions share a program; who has none is in a batch of their own."""
    problem = problem_of(RIGID)
    first = {f.name: getattr(problem.maximal, f.name)[:1] for f in dataclasses.fields(problem.maximal)}
    first["covariance"] = first["covariance"][:, :1]
    one = dataclasses.replace(problem, maximal=dataclasses.replace(problem.maximal, **first))
    batch, other = make_batches([problem, one, dataclasses.replace(one, maximal=None)])
    assert (batch.indices, other.indices) == ((0, 1), (2,))
    layout = make_layout(one)
    block = jax.jit(make_objective(layout, one.penalties).blocks)
    z = jnp.full(layout.size, 0.1)
    padded = jax.tree.map(lambda leaf: jnp.asarray(leaf[1]), (batch.model, batch.data, batch.start))
    alone = jax.tree.map(jnp.asarray, (one.model, make_data(one), one.start))
    assert float(block(*padded, z)["maximal_moments"]) == pytest.approx(
        float(block(*alone, z)["maximal_moments"]), rel=1e-12
    )
    fewer = dataclasses.replace(one.maximal, level=one.maximal.level[:, :5])
    with pytest.raises(InputError, match="maximal moments are of 5 muscles, the model has 6"):
        dataclasses.replace(one, maximal=fewer)


# ---- files and studies ----

HEADER = f"joint,direction,moment,velocity,{SHOULDER} (deg),{ELBOW} (deg)\n"
ROWS = f"{ELBOW},+,60,,5.73,68.75\n{ELBOW},negative,40,0,0,80\n"


def write(folder, text=HEADER + ROWS, name="biodex.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_of_contractions(tmp_path):
    found = read_dynamometer(write(tmp_path))
    assert found.joints == (ELBOW, ELBOW)
    assert found.coordinates == (SHOULDER, ELBOW)
    np.testing.assert_allclose(found.q, np.radians([[5.73, 68.75], [0, 80]]))
    np.testing.assert_array_equal(found.directions, [1, -1])
    np.testing.assert_array_equal(found.velocities, [0, 0])
    np.testing.assert_allclose(found.tolerance, [6, 4])
    # Semicolons, decimal commas, a tolerance in the file, and units by the table.
    text = f"joint;direction;moment;velocity;{ELBOW};tolerance\n{ELBOW};-;40,5;-60;80;\n{ELBOW};-;40,5;;80;3,5\n"
    other = read_dynamometer(write(tmp_path, text), angles="degrees", tolerance=0.2)
    np.testing.assert_allclose(other.moments, 40.5)
    np.testing.assert_allclose(other.velocities, [-math.pi / 3, 0])
    np.testing.assert_allclose(other.q, np.radians([[80], [80]]))
    np.testing.assert_allclose(other.tolerance, [8.1, 3.5])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("joint,", "point,", r"biodex.csv: no column 'joint'"),
        ("+,60", "+,-60", r"line 2: 'moment' is -60; expected a number above 0, in N·m: how large it is"),
        ("+,60", "+,0", r"line 2: 'moment' is 0"),
        ("+,60", "+,nan", r"line 2: 'moment' is 'nan'; expected a finite number"),
        ("+,60", "up,60", r"line 2: 'direction' is 'up'; use \+ or positive"),
        ("negative,40,0", "negative,40,fast", r"line 3: 'velocity' is 'fast'"),
        ("68.75", "inf", rf"line 2: '{ELBOW}' is 'inf'"),
        ("(deg)", "(grad)", r"column .* is in 'grad'; use deg or rad"),
        ("velocity", "note", r"line 2: 'note' is ''; expected a finite number: columns other than 'joint'"),
        (f"{SHOULDER} (deg)", f"{ELBOW}", "two columns are called"),
        ("0,80", "0,80,7", r"line 3: 7 cells; expected 6"),
        (ROWS, "", "0 rows; expected a row per contraction, 1 to 1000"),
        (ROWS, ROWS * 600, "1200 rows"),
        (f"{ELBOW} (deg)", f"{ELBOW} (rad)", "is 68.75 rad, more than a full turn; use angles = 'degrees'"),
        (f"{ELBOW},+", "elbow,+", rf"line 2: 'joint' is 'elbow'; .*{ELBOW}"),
        ("68.75", "175", r"line 2: coordinate .* reaches 175.0 deg; the muscle paths are fitted for"),
        (f"{SHOULDER} (deg)", "hip", rf"no angle of '{SHOULDER}', which the muscle paths need"),
        (f"{ELBOW},+", f'"{ELBOW},+', "not a readable table"),
    ],
)
def test_what_a_table_cannot_be(tmp_path, old, new, message):
    assert old in HEADER + ROWS
    file = write(tmp_path, (HEADER + ROWS).replace(old, new))
    with pytest.raises(InputError, match=message) as caught:
        maximal_moments([read_dynamometer(file)], MODEL)
    assert "biodex.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"moments": np.ones(2)}, r"moments has shape \(2,\); expected \(3,\)"),
        ({"q": np.ones((3, 1))}, r"q has shape \(3, 1\); expected \(3, 2\)"),
        ({"q": np.full((3, 2), np.nan)}, f"contraction 1: '{ELBOW}' is nan"),
        ({"directions": np.array([1, 0, 1])}, "contraction 2: 'direction' is 0"),
        ({"tolerance": 0.0}, "contraction 1: 'tolerance' is 0"),
        ({"activation": 0.0}, "activation is 0; expected above 0 to 1"),
        ({"shared": 1.0}, "shared is 1; expected 0 "),
        ({"coactivation": 1.5}, "coactivation is 1.5; expected 0 to 1"),
        ({"joints": ()}, "no contraction"),
    ],
)
def test_what_contractions_cannot_be(changes, message):
    with pytest.raises(InputError, match=rf"dynamometer 'biodex'.*{message}"):
        contractions(**changes)


def test_a_model_that_cannot_make_them():
    with pytest.raises(InputError, match="the model has no muscle paths"):
        maximal_moments([contractions()], dataclasses.replace(MODEL, paths=None))


def test_a_study_is_fitted_to_them_and_reports_them(tmp_path):
    file = write(tmp_path, (HEADER + ROWS).replace("+,60", "+,90"))
    study = make_study(
        "strong",
        model="asset:arm",
        coordinates=MODEL.coordinates,
        channels={name: list(muscles) for name, muscles in THREE_CHANNELS.items()},
        trials=[reach(MODEL.channels, i) for i in range(2)],
        train=["reach0"],
        settings=RIGID.settings,
        free=FREE,
        dynamometer=[read_dynamometer(file, tolerance=0.001)],
    )
    study = dataclasses.replace(study, fit_options={"starts": 1, "max_iterations": 4})
    outcome = calibrate(study)
    joints = dict.fromkeys(study.maximal.joints)
    assert outcome.subject.calibration["strength_data"] == [f"maximal moments of {joint}" for joint in joints]
    assert [row["measured"] for row in outcome.maximal] == [90.0, -40.0]
    flexion = outcome.maximal[0]
    assert abs(flexion["calibrated"] - 90.0) < 0.5 * abs(flexion["uncalibrated"] - 90.0)
    write_results(tmp_path, study, outcome, report=False)
    written = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert written["maximal_moments"] == json.loads(json.dumps(outcome.maximal))


def test_a_study_file_names_them(tmp_path):
    write(tmp_path)
    (tmp_path / "emg.csv").touch()
    (tmp_path / "walk.mot").touch()
    text = (
        'coordinates = ["x"]\n[model]\nfile = "asset:arm"\n[channels]\na = ["BRA"]\n'
        '[[trials]]\nkinematics = "walk.mot"\nemg = "emg.csv"\n'
        '[[dynamometer]]\nfile = "biodex.csv"\nactivation = 0.95\n'
    )
    (given,) = study_arguments(write(tmp_path, text, "study.toml"))["dynamometer"]
    assert (given.activation, given.coactivation) == (0.95, 0.0)
    np.testing.assert_array_equal(given.moments, [60, 40])
    with pytest.raises(InputError, match=r"\[\[dynamometer\]\] 1.*angles is 'grad'; use 'degrees', 'radians'"):
        study_arguments(write(tmp_path, f'{text}angles = "grad"\n', "study.toml"))
    with pytest.raises(InputError, match=r"\[\[dynamometer\]\] 1: unknown key 'activaton'"):
        study_arguments(write(tmp_path, text.replace("activation", "activaton"), "study.toml"))
