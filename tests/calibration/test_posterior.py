"""Laplace posterior: against rejection, closed forms, NUTS, and people whose parameters are known."""

from __future__ import annotations

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import THREE_CHANNELS, arm_model, arm_params
from scipy import stats
from scipy.special import expit

from calibration.cohort import fit_cohort
from calibration.problem import DEFAULT_FREE, Free, Penalties, make_layout
from calibration.residuals import Quadratic, make_data, make_objective
from calibration.synthetic import Errors, make_person
from calibration.uncertainty.bands import bands, by_name, intervals, to_record
from calibration.uncertainty.draws import checked_sample, params_batch, sample
from calibration.uncertainty.posterior import (
    BLOCKS,
    Mode,
    Noise,
    Posterior,
    correlation_time,
    expand,
    laplace,
    laplace_cohort,
    left_out,
    make_blocks,
    make_modes,
    measure_noise,
)
from calibration.uncertainty.truncated_normal import log_box_probability, sample_box
from calibration.validation import float64
from nms_gym.errors import InputError
from nms_gym.files.posterior import load_people, save_people

MODEL = arm_model(THREE_CHANNELS, tendon="rigid")
START = arm_params(MODEL)
FREE = (
    DEFAULT_FREE["max_isometric_force"],
    Free("emg_gain", (0.3, 3.0), 0.3),
    dataclasses.replace(DEFAULT_FREE["electromechanical_delay"], share="all"),
)
MOTION = {"middle": (0.2, 1.1), "reach": (0.4, 0.6), "seconds": 1.5}
PENALTIES = Penalties(moment_tolerance=0.1)


COUNT = 12


@pytest.fixture(scope="module")
def everyone():
    """Twelve people, and the first once more with hardly an error; calibrations, posteriors of both kinds of noise."""
    made = [make_person(MODEL, START, FREE, seed=s, penalties=PENALTIES, **MOTION) for s in range(COUNT)]
    made.append(make_person(MODEL, START, FREE, seed=0, penalties=PENALTIES, errors=Errors(0.005, 6.0, 0.0), **MOTION))
    problems = [p.problem for p in made]
    results = fit_cohort(problems, precision="float64", starts=2)
    return made, results, laplace_cohort(problems, results), laplace_cohort(problems, results, noise="assumed")


@pytest.fixture(scope="module")
def people(everyone):
    """The twelve, their calibrations and posteriors."""
    return tuple(part[:COUNT] for part in everyone[:3])


# ---- normals in a box ----


@pytest.mark.parametrize("mean", [(0.5, -0.8, 1.0), (2.5, 0.0, 0.0)], ids=["inside", "outside"])
def test_draws_and_probability_are_those_of_rejection(mean):
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((3, 3))
    precision = factor @ factor.T + 0.3 * np.eye(3)
    low, high = np.array([-1.0, -0.5, -5.0]), np.array([1.0, 3.0, 1.2])
    free = rng.multivariate_normal(mean, np.linalg.inv(precision), 1_000_000)
    kept = free[((free > low) & (free < high)).all(axis=1)]
    drawn = sample_box(np.array(mean), precision, low, high, 8000, rng)
    assert (drawn >= low).all()
    assert (drawn <= high).all()
    np.testing.assert_allclose(drawn.mean(axis=0), kept.mean(axis=0), atol=0.03)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(kept.T), atol=0.03)
    np.testing.assert_allclose(
        np.quantile(drawn, [0.05, 0.95], axis=0), np.quantile(kept, [0.05, 0.95], axis=0), atol=0.06
    )
    probability = np.exp(log_box_probability(np.array(mean), precision, low, high, rng, 20_000))
    assert probability == pytest.approx(len(kept) / len(free), rel=0.03)


def test_a_normal_far_outside_its_box_has_the_tail_of_the_closed_form():
    drawn = sample_box(np.array([6.0]), np.eye(1), np.array([-1.0]), np.array([2.0]), 5000, np.random.default_rng(1))
    exact = stats.truncnorm(-7.0, -4.0, loc=6.0)
    assert drawn.mean() == pytest.approx(exact.mean(), abs=0.01)
    assert stats.kstest(drawn[:, 0], exact.cdf).pvalue > 1e-3
    log_probability = log_box_probability(
        np.array([6.0]), np.eye(1), np.array([-1.0]), np.array([2.0]), np.random.default_rng(0)
    )
    assert log_probability == pytest.approx(stats.norm.logcdf(-4.0), abs=1e-6)


def test_strong_correlations_do_not_slow_the_draws():
    """Condition number 1e6; the narrow box is met all the time."""
    direction = np.array([1.0, 1.0]) / np.sqrt(2)
    precision = np.eye(2) + 1e6 * np.outer(direction, direction)
    box = np.array([0.5, 0.5])
    drawn = sample_box(np.zeros(2), precision, -box, box, 4000, np.random.default_rng(2))
    # Along the valley x = -y a standard normal, cut where the coordinates reach 0.5.
    cut = np.sqrt(0.5)
    along = (drawn[:, 0] - drawn[:, 1]) / np.sqrt(2)
    assert along.std() == pytest.approx(stats.truncnorm(-cut, cut).std(), rel=0.04)
    assert (drawn @ direction).std() == pytest.approx(1e-3, rel=0.1)


# ---- noise ----


def test_correlation_time_of_an_autoregressive_process():
    rng = np.random.default_rng(3)
    series = []
    for _ in range(10):
        x = np.zeros(4000)
        for t in range(1, len(x)):
            x[t] = 0.8 * x[t - 1] + rng.standard_normal()
        series.append(x)
    assert correlation_time(series) == pytest.approx(1.8 / 0.2, rel=0.1)
    assert correlation_time([rng.standard_normal(20_000)]) == pytest.approx(1.0, abs=0.1)
    assert correlation_time([np.zeros(10)]) == 1.0


def test_noise_is_corrected_for_what_the_parameters_took():
    """White errors left by a linear fit of p of N samples have (N - p) / N of the noise's variance."""
    rng = np.random.default_rng(4)
    samples, parameters, sigma = 200, 40, 2.0
    design = rng.standard_normal((samples, parameters))
    errors = []
    for _ in range(100):
        noise = sigma * rng.standard_normal(samples)
        errors.append(noise - design @ np.linalg.lstsq(design, noise, rcond=None)[0])
    matrix = np.stack([design.T @ design * 100, np.eye(parameters)])
    at = Quadratic(np.zeros(2), np.zeros((2, parameters)), matrix)  # type: ignore[arg-type]
    levels = [measure_noise(("knee",), [e[:, None]], [e[:, None]], np.array([[10.0]]), at)[0] for e in errors]
    assert np.median([n.independent for n in levels]) == pytest.approx(samples, rel=0.1)
    assert levels[0].taken == pytest.approx(parameters, rel=0.01)
    assert np.median([n.sd**2 for n in levels]) == pytest.approx(sigma**2, rel=0.1)
    # A squared error counted 100 where the noise says 1 / 4. The correlation time never comes out below 1, so the scale
    # errs on the side of less certainty.
    assert 390 < np.median([n.scale for n in levels]) < 500


def test_a_block_that_is_left_out_is_predicted_by_a_fit_to_the_rest():
    """One step from the solution is the whole way where the model is linear; what bounds hold stays."""
    rng = np.random.default_rng(6)
    design, weight = rng.standard_normal((2, 30, 1, 4)), np.full((2, 30, 1), 1.5)
    measured = rng.standard_normal((2, 30, 1)) + 2.0
    blocks = make_blocks(np.ones((2, 30), bool), 0.05)
    assert blocks.max() + 1 == BLOCKS
    free = np.array([True, True, False, True])
    jacobian = design * free

    def solved(counts):
        rows, y = jacobian[counts][:, 0], measured[counts][:, 0]
        return np.linalg.solve(1.5**2 * rows.T @ rows + np.eye(4), 1.5**2 * rows.T @ y)

    z = solved(np.ones((2, 30), bool))
    errors = jacobian @ z - measured
    whole = 1.5**2 * np.einsum("stkp,stkq->pq", jacobian, jacobian) + np.eye(4)
    found = np.asarray(left_out(errors, jacobian, weight, whole, blocks, BLOCKS + 1))
    for block in range(BLOCKS):
        rest = solved(blocks != block)
        np.testing.assert_allclose(found[blocks == block], (jacobian @ rest - measured)[blocks == block], rtol=1e-9)
    assert np.sum(found**2) > 1.01 * np.sum(errors**2)


def test_blocks_cover_what_counts_and_nothing_else():
    counted = np.zeros((3, 100), bool)
    counted[0, 20:], counted[2, :50] = True, True
    blocks = make_blocks(counted, 0.01)
    assert (blocks >= 0).tolist() == counted.tolist()
    # None shorter than a quarter of a second.
    assert [len(np.unique(b[b >= 0])) for b in blocks] == [3, 0, 2]
    assert sorted(np.unique(blocks[blocks >= 0])) == [0, 1, 2, 3, 4]
    assert np.unique(make_blocks(counted[:1, :30], 0.01)).tolist() == [-1, 0]


def test_noise_of_older_people_is_that_of_the_fit():
    known = Noise("knee", 2.0, 100, 50.0, 10.0, 1.0, 3.0)
    assert (known.unseen, known.excess) == (3.0, pytest.approx(3.0 / (2.0 * np.sqrt(0.8))))
    older = Noise("knee", 2.0, 100, 50.0, 10.0, 1.0)
    assert older.unseen == 2.0
    assert Noise("knee", 0.0, 100, 50.0, 10.0, 1.0, 0.0).excess == 1.0


# ---- the posterior of a quadratic cost is exact ----


def _linear(scale, low=-50.0, high=50.0):
    """Posterior of a linear model with two parameters, expanded away from the optimum."""
    rng = np.random.default_rng(5)
    design, truth = rng.standard_normal((30, 2)), np.array([1.0, -0.5])
    y = design @ truth + rng.standard_normal(30)
    z = np.array([0.3, 0.2])
    residual = design @ z - y
    data = Quadratic(0.5 * residual @ residual, design.T @ residual, design.T @ design)
    prior = Quadratic(0.5 * z @ z, z, np.eye(2))
    parts = jax.tree.map(lambda a, b: np.stack([a, b])[None], data, prior)
    layout = dataclasses.replace(_layout(), low=np.full(2, low), high=np.full(2, high))
    modes = make_modes(layout, z[None], parts, np.array([scale]), np.random.default_rng(0))
    precision = design.T @ design / scale + np.eye(2)
    return layout, modes, np.linalg.solve(precision, design.T @ y / scale), precision


@functools.cache
def _layout():
    free = (Free("emg_gain", (0.1, 9.0), 0.5, only=MODEL.channels[:2]),)
    return make_layout(make_person(MODEL, START, free, seed=0, **MOTION).problem)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_linear_model_has_its_textbook_posterior(scale):
    layout, modes, mean, precision = _linear(scale)
    (mode,) = modes
    np.testing.assert_allclose(mode.center, mean, rtol=1e-10)
    np.testing.assert_allclose(mode.precision, precision, rtol=1e-10)
    assert mode.weight == 1.0
    drawn = sample(Posterior(MODEL, START, layout, modes, ()), 20_000, seed=1)
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=0.02)
    np.testing.assert_allclose(np.cov(drawn.T), np.linalg.inv(precision), atol=0.01)


def test_solutions_count_by_mass_and_repeated_ones_once():
    """A narrow solution of the same height has less mass; a third start at the first is no third solution."""
    layout = dataclasses.replace(_layout(), low=np.full(2, -100.0), high=np.full(2, 100.0))
    points = np.array([[0.0, 0.0], [0.1, 0.0], [20.0, 0.0]])
    wide, narrow = np.eye(2), np.diag([9.0, 4.0])
    zeros = np.zeros((3, 2, 2))
    matrix = np.stack([np.stack([np.zeros((2, 2)), m]) for m in (wide, wide, narrow)])
    parts = Quadratic(np.zeros((3, 2)), zeros, matrix)  # type: ignore[arg-type]
    modes = make_modes(layout, points, parts, np.ones(1), np.random.default_rng(0))
    assert len(modes) == 2
    assert modes[0].weight == pytest.approx(6 / 7, rel=1e-6)
    drawn = sample(Posterior(MODEL, START, layout, modes, ()), 7000, seed=0)
    assert np.mean(drawn[:, 0] > 10) == pytest.approx(1 / 7, abs=0.02)
    # Where the bounds cut a solution in half, half its mass is gone.
    half = dataclasses.replace(layout, low=np.array([0.0, -100.0]))
    modes = make_modes(half, points, parts, np.ones(1), np.random.default_rng(0))
    assert modes[0].weight == pytest.approx(3 / 4, rel=0.02)


# ---- people ----


def test_parts_of_the_cost_add_up(people):
    made, results, _ = people
    problem, z = made[0].problem, jnp.asarray(results[0].z)
    layout = make_layout(problem)
    arrays = jax.tree.map(jnp.asarray, float64((problem.model, make_data(problem), problem.start)))
    objective = make_objective(layout, problem.penalties)

    @jax.jit
    def all_at(*args):
        return expand(layout, problem.penalties, *args), objective.quadratic(*args), objective.blocks(*args)

    parts, whole, blocks = all_at(*arrays, z)
    for part, total in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(part.sum(axis=0), total, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(parts.cost[:-1].sum(), blocks["moments"], rtol=1e-9)


def test_draws_are_people_inside_the_bounds_and_repeatable(people):
    _, _, posteriors = people
    posterior = posteriors[0]
    draws = sample(posterior, 300, seed=7)
    assert draws.shape == (300, posterior.layout.size)
    assert (draws >= posterior.layout.low).all()
    assert (draws <= posterior.layout.high).all()
    np.testing.assert_array_equal(draws, sample(posterior, 300, seed=7))
    crowd = params_batch(posterior, draws)
    assert crowd.max_isometric_force.shape == (300, 6)
    np.testing.assert_array_equal(crowd.shape_factor, np.tile(START.shape_factor, (300, 1)))
    i = posterior.layout.names.index("emg_gain:biceps")
    np.testing.assert_allclose(crowd.emg_gain[:, 1], np.exp(0.3 * draws[:, i]), rtol=1e-12)
    with pytest.raises(InputError, match="at least 1"):
        sample(posterior, 0)


def test_intervals_hold_the_truth_as_often_as_they_say(people):
    """12 people, 10 parameters, EMG errors that the model does not know, and a noise level found from the errors."""
    made, _, posteriors = people
    inside = []
    for person, posterior in zip(made, posteriors, strict=True):
        rows = intervals(posterior, sample(posterior, 400))
        assert len(rows) == posterior.layout.size - 1 + 3  # the delay is common to three channels
        for row in rows:
            names = MODEL.channels if row.kind in ("emg_gain", "electromechanical_delay") else MODEL.muscles
            inside.append(row.low <= getattr(person.params, row.kind)[names.index(row.name)] <= row.high)
    assert 0.78 <= np.mean(inside) <= 0.98


def test_bands_hold_unseen_moments_as_often_as_they_say(people):
    made, _, posteriors = people
    measured, true = [], []
    for person, posterior in zip(made, posteriors, strict=True):
        crowd = params_batch(posterior, sample(posterior, 150))
        (band,) = bands(MODEL, crowd, person.unseen, noise=posterior.noise)
        assert band.predictive
        assert (band.low <= band.median).all()
        measured.append(band.coverage(person.unseen[0].measured, person.unseen[0].scored))
        (narrow,) = bands(MODEL, crowd, person.true)
        true.append(narrow.coverage(person.true[0].measured, person.true[0].scored))
        assert np.mean(narrow.high - narrow.low) < np.mean(band.high - band.low)
    assert 0.82 <= np.mean(measured) <= 0.98
    assert 0.7 <= np.mean(true) <= 0.99
    with pytest.raises(InputError, match="no noise level"):
        bands(MODEL, crowd, person.unseen, noise=posterior.noise[:1])


def test_more_certain_where_errors_are_smaller(everyone):
    """The same person without errors: the achieved noise shrinks the intervals; the assumed one does not know."""
    made, _, achieved, assumed = everyone
    np.testing.assert_array_equal(made[-1].z, made[0].z)
    assert max(n.scale for n in achieved[-1].noise) < 1 < max(n.scale for n in achieved[0].noise)
    for clean, noisy in zip(achieved[-1].noise, achieved[0].noise, strict=True):
        assert clean.sd < 0.7 * noisy.sd
    know, guess = (np.sqrt(np.diag(p[-1].best.covariance)) for p in (achieved, assumed))
    assert (know < guess).all()


# ---- files ----


def test_people_travel_by_name(people, tmp_path):
    _, _, posteriors = people
    crowd = params_batch(posteriors[0], sample(posteriors[0], 5))
    save_people(tmp_path / "people.npz", MODEL, crowd)
    order = [3, 0, 5, 1]
    fewer = dataclasses.replace(
        MODEL, muscles=tuple(MODEL.muscles[i] for i in order), channel_weights=MODEL.channel_weights[order]
    )
    loaded = load_people(tmp_path / "people.npz", fewer)
    np.testing.assert_array_equal(loaded.max_isometric_force, crowd.max_isometric_force[:, order])
    np.testing.assert_array_equal(loaded.emg_gain, crowd.emg_gain)
    strange = dataclasses.replace(MODEL, muscles=(*MODEL.muscles[:5], "soleus_r"))
    with pytest.raises(InputError, match="soleus_r"):
        load_people(tmp_path / "people.npz", strange)
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(InputError, match="format"):
        load_people(tmp_path / "other.npz", MODEL)
    with pytest.raises(InputError, match="no such file"):
        load_people(tmp_path / "none.npz", MODEL)


def test_record_is_plain_json(people):
    _, _, posteriors = people
    draws = sample(posteriors[0], 20)
    record = json.loads(json.dumps(to_record(posteriors[0], draws), allow_nan=False))
    assert np.shape(record["samples"]["emg_gain"]) == (20, 3)
    assert record["names"]["emg_gain"] == list(MODEL.channels)
    assert sum(s["weight"] for s in record["solutions"]) == pytest.approx(1.0)
    rows = by_name(intervals(posteriors[0], draws))
    assert rows["max_isometric_force", "BRA"].unit == "N"
    assert rows["max_isometric_force", "BRA"].prior_sd == pytest.approx(0.3 * 987.26)


def test_results_of_other_problems_are_refused(people):
    made, results, _ = people
    other = dataclasses.replace(made[0].problem, free=FREE[:2])
    with pytest.raises(InputError, match="another problem"):
        laplace(other, results[0])
    lost = dataclasses.replace(results[0], costs=np.full(2, np.inf))
    with pytest.raises(InputError, match="no start"):
        laplace(made[0].problem, lost)


# ---- against a sampler that assumes nothing ----


@pytest.mark.slow
def test_laplace_agrees_with_nuts():
    """NUTS samples the same posterior, bounds included, without the quadratic model (10 parameters)."""
    blackjax = pytest.importorskip("blackjax")
    person = make_person(MODEL, START, FREE, seed=3, penalties=Penalties(moment_tolerance=0.2), **MOTION)
    problem = person.problem
    (result,) = fit_cohort([problem], precision="float64", tolerance=1e-8)
    posterior = laplace(problem, result, noise="assumed")
    layout, cost = result.layout, make_objective(result.layout, problem.penalties).cost
    arrays = jax.tree.map(jnp.asarray, float64((problem.model, make_data(problem), problem.start)))
    low, span = jnp.asarray(layout.low), jnp.asarray(layout.high - layout.low)

    def log_density(free):
        """On the whole line: z is a logistic function of it, and its slope counts."""
        z = low + span * jax.nn.sigmoid(free)
        return jnp.sum(jax.nn.log_sigmoid(free) + jax.nn.log_sigmoid(-free)) - cost(*arrays, z)

    inside = np.clip((result.z - layout.low) / (layout.high - layout.low), 0.01, 0.99)
    # The posterior's own covariance as the metric, so that a trajectory takes a few steps; NUTS corrects for the rest.
    slope = (layout.high - layout.low) * inside * (1 - inside)
    metric = jnp.asarray(posterior.best.covariance / np.outer(slope, slope))
    begin = jnp.asarray(np.log(inside / (1 - inside)))
    kernel = blackjax.nuts(log_density, step_size=0.4, inverse_mass_matrix=metric)

    def step(state, key):
        state, info = kernel.step(key, state)
        return state, (state.position, info.is_divergent)

    @jax.jit
    def run(key):
        return jax.lax.scan(step, kernel.init(begin), jax.random.split(key, 800))[1]

    chain, divergent = run(jax.random.key(0))
    nuts = layout.low + (layout.high - layout.low) * expit(np.asarray(chain[150:]))
    ours = sample(posterior, 4000)
    assert np.mean(np.asarray(divergent)) < 0.02
    sd = nuts.std(axis=0)
    assert np.abs(ours.mean(axis=0) - nuts.mean(axis=0)).max() < 0.35 * sd.max()
    np.testing.assert_allclose((ours.mean(axis=0) - nuts.mean(axis=0)) / sd, 0.0, atol=0.4)
    np.testing.assert_allclose(ours.std(axis=0) / sd, 1.0, atol=0.25)
    # Bands from either agree to a part of their width.
    theirs = bands(MODEL, params_batch(posterior, nuts[::10]), person.unseen)[0]
    mine = bands(MODEL, params_batch(posterior, ours[:200]), person.unseen)[0]
    width = np.mean(theirs.high - theirs.low, axis=0)
    for edge in ("low", "high"):
        assert (np.mean(np.abs(getattr(mine, edge) - getattr(theirs, edge)), axis=0) < 0.2 * width).all()


def test_modes_and_noise_are_values():
    """Frozen: a posterior that is kept cannot change under whoever keeps it."""
    for cls in (Mode, Noise, Posterior):
        assert dataclasses.fields(cls)
        assert cls.__dataclass_params__.frozen


def test_draws_are_held_against_their_true_cost(everyone):
    """A posterior that is ten times too wide, as where a quadratic model misses how a cost rises: its draws do not fit,
    the checked ones do."""
    people, results, posteriors, _ = everyone
    problem, result, posterior = people[0].problem, results[0], posteriors[0]
    layout = posterior.layout
    objective = make_objective(layout, problem.penalties)
    scale = np.array([n.scale for n in posterior.noise])

    def cost(z):
        data = make_data(problem)
        weighed = dataclasses.replace(data.train, weight=data.train.weight / np.sqrt(scale))
        with jax.enable_x64(True):
            arrays = float64((problem.model, dataclasses.replace(data, train=weighed), problem.start))
            return np.array([float(objective.cost(*arrays, jnp.asarray(one))) for one in z])

    bottom = cost(result.z[None])[0]
    honest, trust = checked_sample(problem, posterior, 20, seed=1)
    assert np.all((honest >= layout.low) & (honest <= layout.high))
    assert trust.draws == 20
    assert 1.0 <= trust.effective <= 20.0
    np.testing.assert_array_equal(honest, checked_sample(problem, posterior, 20, seed=1)[0])

    wide = [dataclasses.replace(m, data=m.data / 100, other=m.other / 100, center=m.z) for m in posterior.modes]
    loose = dataclasses.replace(posterior, modes=tuple(wide))
    far = sample(loose, 20, seed=1)
    near, distrust = checked_sample(problem, loose, 20, seed=1)
    assert distrust.shortened > 0.9
    assert distrust.step < 0.6
    assert np.median(cost(near)) - bottom < 0.2 * (np.median(cost(far)) - bottom)
    with pytest.raises(InputError, match="at least 1"):
        checked_sample(problem, posterior, 0)
