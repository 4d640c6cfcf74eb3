"""What was measured of single muscles: as targets of a calibration, through a study, and what it makes identifiable."""

from __future__ import annotations

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import THREE_CHANNELS, arm_model, arm_params, reach

from calibration.cohort import fit_cohort
from calibration.cross_validation import cross_validate
from calibration.fitting import cost_by_block, fit
from calibration.problem import Free, Penalties, Problem, Target, make_layout
from calibration.residuals import make_data, make_objective
from calibration.solvers.batch import make_batches
from calibration.study.build import make_study
from calibration.study.calibrate import calibrate
from calibration.study.keys import Folder
from calibration.study.predict import score
from calibration.study.read import study_arguments
from calibration.study.results import write_predictions, write_results
from calibration.study.trial_files import TrialFiles
from calibration.synthetic import make_person, with_targets
from calibration.uncertainty.identifiability import identifiability
from calibration.uncertainty.posterior import laplace_cohort
from calibration.validation import evaluate, evaluate_targets
from nms_gym.errors import InputError
from nms_gym.files.subject import load_subject
from nms_gym.model.replay import make_segment

MODEL = arm_model(THREE_CHANNELS, tendon="rigid")
START = arm_params(MODEL)
FREE = (
    Free("optimal_fiber_length", (0.8, 1.25), 0.1),
    Free("tendon_slack_length", (0.8, 1.25), 0.05),
    Free("max_isometric_force", (0.3, 3.0), 0.3),
)
MEASURED = ("TRIlong", "TRIlat")  # pennate: of a muscle that is not, pennation says nothing


@pytest.fixture(scope="module")
def person():
    motion = {"middle": (0.2, 1.1), "reach": (0.4, 0.6), "seconds": 1.0}
    return make_person(MODEL, START, FREE, seed=1, penalties=Penalties(moment_tolerance=0.1), **motion)


@pytest.fixture(scope="module")
def imaged(person):
    """The same person's problem with ultrasound, and pennation, of two muscles."""
    measured = {"fiber_lengths": MEASURED, "pennation": MEASURED}
    return with_targets(person, measured, {"fiber_lengths": 0.003, "pennation": 0.03})


@pytest.fixture(scope="module")
def results(person, imaged):
    return fit_cohort([person.problem, imaged], precision="float64")


def problem_of(*targets, model=MODEL, **changes):
    segments = (make_segment(model, reach(model.channels, 0), start=0.2),)
    return Problem(model, arm_params(model), segments, FREE, targets=(targets,), **changes)


STEPS = len(problem_of().segments[0].time)


def target(quantity="fiber_lengths", muscle="BRA", values=None, tolerance=0.003):
    return Target(quantity, muscle, np.full(STEPS, 0.1) if values is None else np.asarray(values), tolerance)


def test_two_imaged_muscles_are_known_better(person, imaged, results):
    """Ultrasound tells the slack length of muscles it sees, pennation their fiber length; others learn little."""
    reports = [identifiability(p) for p in laplace_cohort([person.problem, imaged], results)]
    without, with_ = ({k.name: k.sd for k in report.parameters} for report in reports)
    for muscle in MEASURED:
        assert with_[f"tendon_slack_length:{muscle}"] < 0.25 * without[f"tendon_slack_length:{muscle}"]
        assert with_[f"optimal_fiber_length:{muscle}"] < 0.6 * without[f"optimal_fiber_length:{muscle}"]
    assert with_["tendon_slack_length:BICshort"] > 0.7 * without["tendon_slack_length:BICshort"]
    assert reports[1].determined >= reports[0].determined + 2
    for name, z, truth in zip(results[1].layout.names, results[1].z, person.z, strict=True):
        if name in {f"tendon_slack_length:{m}" for m in MEASURED}:
            assert abs(z - truth) < 4 * with_[name]


def test_the_fit_goes_to_the_targets(person, imaged, results):
    """Errors of what was measured fall to its noise; the block of the cost is their sum of squares."""
    after = evaluate_targets(MODEL, results[1].params, imaged.segments, imaged.targets)
    before = evaluate_targets(MODEL, results[0].params, imaged.segments, imaged.targets)
    assert [(t.quantity, t.muscle) for t in after[:2]] == [("fiber_lengths", m) for m in MEASURED]
    for a, b in zip(after, before, strict=True):
        assert a.rmse < 1.5 * a.tolerance
        assert a.samples == sum(s.scored.sum() for s in imaged.segments)
        if a.quantity == "fiber_lengths":
            assert a.rmse < b.rmse
    blocks = cost_by_block(imaged, results[1].z)
    independent = 2 * imaged.penalties.moment_bandwidth * 0.01
    expected = sum(0.5 * independent * t.samples * (t.rmse / t.tolerance) ** 2 for t in after if t.unit == "m")
    assert blocks["target_fiber_lengths"] == pytest.approx(expected, rel=1e-6)
    assert "target_fiber_lengths" not in cost_by_block(person.problem, results[0].z)


def test_gradient_of_the_block_by_finite_differences():
    """Lengths by ultrasound, strain, force and pennation with elastic tendons, against central differences."""
    model = arm_model(THREE_CHANNELS)
    problem = problem_of(
        target(),
        target("tendon_strains", "TRIlat", np.full(STEPS, 0.02), 0.01),
        target("tendon_forces", "BIClong", np.linspace(50, 200, STEPS), 30.0),
        target("pennation", "TRIlong", np.full(STEPS, 0.2), 0.05),
        model=model,
    )
    layout = make_layout(problem)
    given = jax.tree.map(jnp.asarray, (model, make_data(problem), problem.start))
    blocks = make_objective(layout, problem.penalties).blocks

    @jax.jit
    def cost(z):
        return sum(x for name, x in blocks(*given, z).items() if name.startswith("target_"))

    z = jnp.asarray(np.random.default_rng(0).uniform(-0.3, 0.3, layout.size))
    gradient = np.asarray(jax.jit(jax.grad(cost))(z))
    h = 1e-5
    differences = [(cost(z + h * e) - cost(z - h * e)) / (2 * h) for e in jnp.eye(layout.size)]
    np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-6 * np.abs(gradient).max())
    moved = [n for n, g in zip(layout.names, gradient, strict=True) if abs(g) > 1e-9]
    assert {n.split(":")[1] for n in moved} == {"BRA", "TRIlat", "BIClong", "TRIlong"}


def test_what_is_left_out_leaves_its_targets_out(imaged):
    """A fold without a recording has neither its moments nor its targets: it is the problem of the other recording."""
    found = cross_validate(imaged, strengths=(1.0,))
    one = dataclasses.replace(imaged, segments=imaged.segments[:1], targets=imaged.targets[:1])
    alone = evaluate(MODEL, fit(one, starts=1).params, one.segments)
    folds = [f for f in found.folds if f.left_out == imaged.segments[1].name]
    for fold, metrics in zip(folds, alone, strict=True):
        assert fold.coordinate == metrics.coordinate
        assert fold.train == pytest.approx(metrics.rmse, rel=1e-4)


def test_padding_in_a_batch_does_not_count(imaged):
    """A person with fewer recordings beside one with more, and one without targets in a batch of their own."""
    one = dataclasses.replace(imaged, segments=imaged.segments[:1], targets=imaged.targets[:1])
    layout = make_layout(one)
    cost = jax.jit(make_objective(layout, one.penalties).cost)
    z = jnp.asarray(np.random.default_rng(3).uniform(-0.3, 0.3, layout.size))
    batch, other = make_batches([imaged, one, dataclasses.replace(one, targets=())])
    assert (batch.indices, other.indices) == ((0, 1), (2,))
    padded = jax.tree.map(lambda leaf: jnp.asarray(leaf[1]), (batch.model, batch.data, batch.start))
    alone = jax.tree.map(jnp.asarray, (one.model, make_data(one), one.start))
    assert float(cost(*padded, z)) == pytest.approx(float(cost(*alone, z)), rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(target, "fiber_length"), "target of 'BRA': no quantity 'fiber_length'; did you mean 'fiber_lengths'"),
        (partial(target, tolerance=0.0), "target fiber_lengths of 'BRA': tolerance is 0; .*in m"),
        (partial(target, tolerance=np.nan), "tolerance is nan"),
        (partial(target, values=np.full(STEPS, np.nan)), "no value is a number"),
        (partial(target, values=np.zeros((STEPS, 1))), r"values have shape .*; expected \(T,\)"),
        (lambda: problem_of(target(muscle="BRAC")), "reach0.*no such muscle; did you mean 'BRA'"),
        (lambda: problem_of(target(values=np.zeros(STEPS - 1))), f"{STEPS - 1} values, the segment {STEPS} samples"),
        (lambda: problem_of(target(), target()), "is given twice"),
        (lambda: problem_of(target("tendon_strains")), "tendons are rigid"),
        (lambda: problem_of(target(values=[0.1] + [np.nan] * (STEPS - 1))), "no value after the lead-in"),
        (lambda: dataclasses.replace(problem_of(), targets=((), ())), "targets of 2 segments for 1"),
    ],
)
def test_what_cannot_be_a_target(make, message):
    with pytest.raises(InputError, match=message):
        make()


# ---- studies ----


def study(**changes):
    arguments = {
        "model": "asset:arm",
        "coordinates": MODEL.coordinates,
        "channels": {name: list(muscles) for name, muscles in THREE_CHANNELS.items()},
        "trials": [dataclasses.replace(reach(MODEL.channels, i, 1.0), name=f"reach{i}") for i in range(2)],
        "train": {"reach0": [(0.3, 0.6), (0.6, 0.95)]},
        "settings": MODEL.settings,
        "free": FREE,
        "solver": None,
        **changes,
    }
    return make_study("imaged", **arguments)


TIME = np.arange(0.205, 0.71, 0.03)
LENGTHS = 0.1 + 0.01 * np.sin(TIME)
GIVEN = {"reach0": {"fiber_lengths": {"BRA": (TIME, LENGTHS, 0.004)}}}


def test_a_study_cuts_targets_to_its_windows():
    found = study(targets=GIVEN)
    first, second = found.targets
    assert [str(t) for t in (*first, *second)] == ["target fiber_lengths of 'BRA'"] * 2
    for (t,), segment in zip(found.targets, found.train, strict=True):
        inside = (segment.time >= TIME[0]) & (segment.time <= TIME[-1] + 1e-9)
        assert np.array_equal(np.isfinite(t.values), inside)
        np.testing.assert_allclose(t.values[inside], 0.1 + 0.01 * np.sin(segment.time[inside]), atol=3e-6)
    assert found.held_out_targets == {"reach1": ((),)}
    assert found.problem.targets is found.targets
    # Frames that were lost leave a gap.
    lost = np.where(np.abs(TIME - 0.415) < 0.001, np.nan, LENGTHS)
    (gap,) = study(targets={"reach0": {"fiber_lengths": {"BRA": (TIME, lost, 0.004)}}}).targets[0]
    assert np.isnan(gap.values).sum() > np.isnan(first[0].values).sum()
    assert study().targets == ()


def test_a_calibration_reports_its_targets(tmp_path):
    read = study(targets={**GIVEN, "reach1": {"activations": {"TRIlat": (TIME, 0 * TIME + 0.3, 0.1)}}})
    read = dataclasses.replace(read, fit_options={"starts": 1, "max_iterations": 4})
    outcome = calibrate(read)
    rows = [(r["set"], r["split"], r["quantity"], r["muscle"]) for r in outcome.targets]
    assert rows == [
        (which, split, q, m)
        for split, q, m in (("train", "fiber_lengths", "BRA"), ("held-out", "activations", "TRIlat"))
        for which in ("uncalibrated", "calibrated")
    ]
    assert outcome.targets[1]["rmse"] < outcome.targets[0]["rmse"]
    write_results(tmp_path, read, outcome)
    written = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert written["targets"] == json.loads(json.dumps(outcome.targets))
    # A saved person is scored alike.
    scored = score(load_subject(tmp_path / "subject.json"), read)
    assert [(r["set"], r["muscle"]) for r in scored.targets] == [(r["set"], r["muscle"]) for r in outcome.targets]
    np.testing.assert_allclose([r["rmse"] for r in scored.targets], [r["rmse"] for r in outcome.targets], rtol=1e-6)
    write_predictions(tmp_path / "again", outcome.subject, [], scored=scored)
    again = json.loads((tmp_path / "again" / "metrics.json").read_text(encoding="utf-8"))
    assert again["targets"] == json.loads(json.dumps(scored.targets))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "What was measured of single muscles" in page


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({"reach5": {}}, "targets: no trial 'reach5'; did you mean"),
        ({"reach0": {"lengths": {"BRA": (TIME, LENGTHS, 0.004)}}}, "no quantity 'lengths'"),
        ({"reach0": {"fiber_lengths": {"BRAX": (TIME, LENGTHS, 0.004)}}}, "trial 'reach0': target .* no such muscle"),
        ({"reach0": {"fiber_lengths": {"BRA": (TIME, LENGTHS[1:], 0.004)}}}, r"expected \(N,\) both"),
        ({"reach0": {"fiber_lengths": {"BRA": (TIME[::-1], LENGTHS, 0.004)}}}, "must be finite and rise"),
        ({"reach0": {"fiber_lengths": {"BRA": (TIME, LENGTHS)}}}, r"give \(times, values, tolerance\)"),
        ({"reach0": {"fiber_lengths": {"BRA": (TIME + 50, LENGTHS, 0.004)}}}, "no sample in any window; check its"),
    ],
)
def test_what_a_study_refuses(targets, message):
    with pytest.raises(InputError, match=message):
        study(targets=targets)


def test_targets_in_a_file(tmp_path):
    """A column per muscle, under its own name or another."""
    lines = ["time,BRA,left biceps"] + [f"{t:.3f},{x:.6f},{2 * x:.6f}" for t, x in zip(TIME, LENGTHS, strict=True)]
    (tmp_path / "us.csv").write_text("\n".join(lines), encoding="utf-8")
    for name in ("walk.mot", "emg.csv"):
        (tmp_path / name).touch()
    trial = {"kinematics": "walk.mot", "emg": "emg.csv"}

    def read(**table):
        return TrialFiles("[[trials]] 1", {**trial, "targets": {"fiber_lengths": table}}, Folder(tmp_path)).targets

    found = read(file="us.csv", tolerance=0.004, columns={"BIClong": "left biceps", "BRA": "BRA"})
    assert list(found) == ["fiber_lengths"]
    assert list(found["fiber_lengths"]) == ["BIClong", "BRA"]
    time, values, tolerance = found["fiber_lengths"]["BIClong"]
    np.testing.assert_allclose(time, TIME, atol=1e-9)
    np.testing.assert_allclose(values, 2 * LENGTHS, atol=2e-6)
    assert tolerance == 0.004
    with pytest.raises(InputError, match=r"\[targets.fiber_lengths\]: 'tolerance' is missing"):
        read(file="us.csv")
    with pytest.raises(InputError, match="biceps"):
        read(file="us.csv", tolerance=0.004, columns={"BIClong": "biceps"})
    assert study_arguments("asset:demo/study.toml")["targets"] == {}
