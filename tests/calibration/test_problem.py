"""Layout of the free parameters, the coloured Jacobian against automatic differentiation, and what is refused."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import ARM, arm_model, arm_params, reach

from calibration.fitting import starting_points
from calibration.problem import (
    DEFAULT_FREE,
    Free,
    Penalties,
    Problem,
    Target,
    default_free,
    make_layout,
    params_at,
)
from calibration.residuals import make_data, make_objective
from nms_gym.errors import InputError
from nms_gym.model.parameters import KINDS, has_effect, make_params
from nms_gym.model.replay import make_segment, padded, predict_moments

CHANNELS = {
    "TRI": {"TRIlong": 1.0, "TRIlat": 1.0, "TRImed": 1.0},
    "BIC": {"BIClong": 1.0, "BRA": 0.5},
    "BSH": {"BICshort": 1.0, "BRA": 0.5},
}
GROUPS = {"triceps": ("TRIlong", "TRIlat", "TRImed"), "biceps": ("BIClong", "BICshort"), "flexors": ("BIC", "BSH")}


arm = partial(arm_model, CHANNELS)
recording = partial(reach, tuple(CHANNELS))


def problem_of(model=None, free=None, **changes):
    model = model or arm()
    segments = (
        make_segment(model, recording(0), start=0.2),
        make_segment(model, recording(1, 0.45), start=0.1, lead_in=0.05),  # of another length
    )
    free = default_free(model) if free is None else free
    given = {"model": model, "start": arm_params(model), "segments": segments, "free": free}
    return Problem(**{**given, "groups": GROUPS, **changes})


# ---- layout ----


def test_sharing():
    free = (
        Free("max_isometric_force", (0.5, 2.0), 0.3, share="groups"),
        Free("optimal_fiber_length", (0.8, 1.2), 0.1, only=("BRA", "TRIlat")),
        Free("filter_time_constant_1", (0.5, 2.0), 0.4, share="all"),
        Free("tendon_slack_length", (0.9, 1.1), 0.05, share="groups", only=("TRIlong", "TRImed", "BRA")),
        Free("emg_gain", (0.1, 5.0), 0.5, share="groups"),
        Free("electromechanical_delay", (0.0, 0.1), 0.02, relative=False, share="all", only=("BIC", "BSH")),
    )
    layout = make_layout(problem_of(free=free))
    assert layout.names == (
        "max_isometric_force:triceps",
        "max_isometric_force:biceps",
        "max_isometric_force:BRA",
        "optimal_fiber_length:BRA",
        "optimal_fiber_length:TRIlat",
        "filter_time_constant_1:all",
        "tendon_slack_length:triceps",
        "tendon_slack_length:BRA",
        "emg_gain:flexors",
        "emg_gain:TRI",
        "electromechanical_delay:all",
    )
    size = layout.size
    assert size == 11
    z = np.random.default_rng(0).standard_normal(size)
    start = problem_of().start
    got = params_at(layout, start, jnp.asarray(z))
    factors = {
        "max_isometric_force": np.exp(0.3 * z[[0, 0, 0, 1, 1, 2]]),
        "optimal_fiber_length": np.exp(0.1 * np.array([0, z[4], 0, 0, 0, z[3]])),
        "filter_time_constant_1": np.exp(0.4 * z[[5] * 6]),
        "tendon_slack_length": np.exp(0.05 * np.array([z[6], 0, z[6], 0, 0, z[7]])),
        "emg_gain": np.exp(0.5 * z[[9, 8, 8]]),
    }
    for field in dataclasses.fields(got):
        before, after = np.asarray(getattr(start, field.name)), np.asarray(getattr(got, field.name))
        if field.name == "electromechanical_delay":
            np.testing.assert_allclose(after, before + 0.02 * np.array([0, z[10], z[10]]), rtol=1e-14)
        else:
            np.testing.assert_allclose(after, before * factors.get(field.name, 1.0), rtol=1e-14, err_msg=field.name)


def test_values_of_a_kind_may_be_correlated_in_the_prior():
    """The prior's part of the cost is that of a common value plus one's own, whatever else is free."""
    r = 0.8
    free = (
        Free("max_isometric_force", (0.5, 2.0), 0.3),
        Free("electromechanical_delay", (0.0, 0.1), 0.02, relative=False, correlation=r),
    )
    problem = problem_of(free=free)
    layout = make_layout(problem)
    rows = [i for i, kind in enumerate(layout.kinds) if kind == "electromechanical_delay"]
    expected = np.eye(layout.size)
    expected[np.ix_(rows, rows)] += r * (1 - np.eye(len(rows)))
    np.testing.assert_allclose(np.linalg.inv(layout.prior_precision), expected, atol=1e-12)
    assert make_layout(problem_of(free=free[:1])) != layout
    with pytest.raises(InputError, match="correlation is 1; use 0"):
        make_layout(problem_of(free=(dataclasses.replace(free[1], correlation=1.0),)))
    # Starts are drawn from that prior, too.
    draws = starting_points(layout, 4000, 0)[1:]
    assert np.corrcoef(draws[:, rows[:2]].T)[0, 1] == pytest.approx(r, abs=0.08)


def test_start_is_zero():
    problem = problem_of()
    layout = make_layout(problem)
    at_start = params_at(layout, problem.start, jnp.zeros(layout.size))
    for ours, theirs in zip(jax.tree.leaves(at_start), jax.tree.leaves(problem.start), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_bounds_in_z_are_bounds_of_the_parameters():
    problem = problem_of(start=make_params(arm(), {**ARM.parameters, "shape_factor": [-1, -2, -0.5, -0.1, -3, -1.5]}))
    layout = make_layout(problem)
    for z, side in ((layout.low, 0), (layout.high, 1)):
        at = params_at(layout, problem.start, jnp.asarray(z))
        for free in problem.free:
            before, after = np.asarray(getattr(problem.start, free.kind)), np.asarray(getattr(at, free.kind))
            limit = before * free.bounds[side] if free.relative else np.full(len(before), free.bounds[side])
            if free.share == "each" or free.relative:
                np.testing.assert_allclose(after, limit, rtol=1e-12, atol=1e-15, err_msg=free.kind)
            else:
                # A common shift stops where the first of the group meets its bound.
                assert np.all(after <= free.bounds[1] + 1e-12)
                assert np.all(after >= free.bounds[0] - 1e-12)
                for members in (("TRIlong", "TRIlat", "TRImed"), ("BIClong", "BICshort"), ("BRA",)):
                    if free.kind == "shape_factor":
                        rows = [ARM.muscles.index(m) for m in members]
                        assert np.abs(after[rows] - limit[rows]).min() < 1e-12


def test_colors_move_disjoint_muscles():
    layout = make_layout(problem_of())
    for color in range(layout.colors.max() + 1):
        assert layout.moves[layout.colors == color].sum(axis=0).max() <= 1
    # Bicep's channels reach two muscles each; a triceps group three.
    row = dict(zip(layout.names, layout.moves, strict=True))
    assert [m for m, moved in zip(ARM.muscles, row["emg_gain:BIC"], strict=True) if moved] == ["BIClong", "BRA"]
    np.testing.assert_array_equal(row["electromechanical_delay:BIC"], row["emg_gain:BIC"])
    assert list(row["max_isometric_force:triceps"]) == [True] * 3 + [False] * 3
    assert layout.colors.max() + 1 < layout.size / 2


def test_equal_problems_have_equal_layouts():
    one, two = make_layout(problem_of()), make_layout(problem_of())
    assert one == two
    assert hash(one) == hash(two)
    tighter = (dataclasses.replace(DEFAULT_FREE["emg_gain"], bounds=(0.5, 2.0)),)
    assert make_layout(problem_of(free=tighter)) != make_layout(problem_of(free=(DEFAULT_FREE["emg_gain"],)))


# ---- the cost and its first-order model ----

# Barriers tight enough to be active everywhere; every kind of sharing; every kind that has an effect.
TIGHT = Penalties(fiber_length_range=(0.95, 1.05), fiber_length_tolerance=0.1, max_tendon_strain=0.01)


def all_free(model):
    shares = {"optimal_fiber_length": "groups", "emg_gain": "each", "pennation_at_optimal": "all"}
    return tuple(
        dataclasses.replace(free, share=shares.get(kind, free.share))
        for kind, free in DEFAULT_FREE.items()
        if has_effect(model, kind)
    )


def measured_muscles(segments, tendon):
    """Something of several muscles, on samples of both segments; numbers that have nothing to do with the model."""
    rng = np.random.default_rng(5)
    given = {
        "fiber_lengths": (("BRA", 0.09, 0.004), ("BIClong", 0.12, 0.01)),
        "pennation": (("TRIlong", 0.2, 0.03),),
        "tendon_forces": (("BRA", 100.0, 20.0),),
        "activations": (("TRIlat", 0.3, 0.1),),
        **({} if tendon == "rigid" else {"tendon_strains": (("TRImed", 0.02, 0.005),)}),
    }

    def values(segment, scale):
        found = scale * rng.uniform(0.8, 1.2, len(segment.time))
        return np.where(rng.uniform(size=len(found)) < 0.4, np.nan, found)

    return tuple(
        tuple(Target(q, m, values(s, scale), sd) for q, muscles in given.items() for m, scale, sd in muscles[: 2 - i])
        for i, s in enumerate(segments)
    )


def of_muscles(params, out, quantity):
    """(T, M) of a quantity, by textbook."""
    x = out.fiber_length
    return {
        "fiber_lengths": x * params.optimal_fiber_length[None],
        "pennation": jnp.arcsin(jnp.sin(params.pennation_at_optimal)[None] / x),
        "tendon_forces": out.tendon_force,
        "activations": out.activation,
        "tendon_strains": out.tendon_strain,
    }[quantity]


def residuals(problem, layout, z):
    """The residual vector as the documentation describes it, and the part of the cost that fibers and tendons make."""
    p, params = problem.penalties, params_at(layout, problem.start, z)
    independent = min(1.0, 2 * p.moment_bandwidth * 0.01)
    low, high = p.fiber_length_range
    longest = max(len(s.time) for s in problem.segments)
    replays = jax.tree.map(lambda *x: np.stack(x), *(padded(s.replay, longest) for s in problem.segments))
    outputs = jax.vmap(predict_moments, (None, None, 0))(problem.model, params, replays)
    result = [jnp.linalg.cholesky(jnp.asarray(layout.prior_precision)).T @ z]
    for i, s in enumerate(problem.segments):
        rows = np.flatnonzero(s.scored)
        x, strain = outputs.fiber_length[i, rows], outputs.tendon_strain[i, rows]
        of_recording = [x.measured[x.scored] for x in problem.segments if x.recording == s.recording]
        sd = p.moment_tolerance * np.concatenate(of_recording).std(axis=0)[None]
        result.append((outputs.moments[i, rows] - s.measured[rows]) / sd)
        result.append(
            jax.nn.softplus((x - high) / p.fiber_length_tolerance)
            + jax.nn.softplus((low - x) / p.fiber_length_tolerance)
        )
        result.append(jax.nn.softplus((strain - p.max_tendon_strain) / p.tendon_strain_tolerance))
    for i, targets in enumerate(problem.targets):
        for t in targets:
            column = problem.model.muscles.index(t.muscle)
            rows = np.flatnonzero(problem.segments[i].scored & np.isfinite(t.values))
            got = of_muscles(params, jax.tree.map(lambda a, i=i: a[i], outputs), t.quantity)[rows, column]
            result.append((got - t.values[rows]) / t.tolerance)
    result = [result[0], *(np.sqrt(independent) * r.ravel() for r in result[1:])]
    barriers = 0.5 * sum(jnp.sum(r**2) for i, r in enumerate(result[1 : 1 + 3 * len(problem.segments)]) if i % 3)
    return jnp.concatenate(result), barriers


@pytest.mark.parametrize("settings", [{}, {"tendon": "rigid", "activation": "first_order"}], ids=["elastic", "rigid"])
def test_coloured_quadratic_is_gauss_newton(settings):
    """Cost, gradient and matrix from one pass per color, against ``jax.jacfwd`` of the whole residual vector."""
    model = arm(**settings)
    free = [dataclasses.replace(f, correlation=0.7) if f.kind == "emg_gain" else f for f in all_free(model)]
    segments = problem_of(model).segments
    targets = measured_muscles(segments, model.settings.tendon)
    problem = problem_of(model, tuple(free), penalties=TIGHT, segments=segments, targets=targets)
    layout = make_layout(problem)
    objective = make_objective(layout, TIGHT)
    given = jax.tree.map(jnp.asarray, (model, make_data(problem), problem.start))
    z = jnp.asarray(np.random.default_rng(2).uniform(-0.5, 0.5, layout.size))

    @jax.jit
    def both(z):
        def with_itself(z):
            r, barriers = residuals(problem, layout, z)
            return r, (r, barriers)

        return jax.jacfwd(with_itself, has_aux=True)(z)

    jacobian, (r, barriers) = jax.tree.map(np.asarray, both(z))
    quadratic = jax.jit(objective.quadratic)(*given, z)
    cost, gradient = jax.jit(jax.value_and_grad(objective.cost, argnums=3))(*given, z)
    assert float(quadratic.cost) == pytest.approx(0.5 * r @ r, rel=1e-9)
    assert float(cost) == pytest.approx(float(quadratic.cost), rel=1e-12)
    scale = np.abs(jacobian.T @ r).max()
    np.testing.assert_allclose(quadratic.gradient, jacobian.T @ r, rtol=1e-9, atol=1e-9 * scale)
    np.testing.assert_allclose(gradient, quadratic.gradient, rtol=1e-9, atol=1e-9 * scale)
    matrix = jacobian.T @ jacobian
    np.testing.assert_allclose(quadratic.matrix, matrix, rtol=1e-9, atol=1e-9 * np.abs(matrix).max())
    # Nothing of it is trivial: every parameter counts, and so do the barriers.
    assert np.abs(jacobian).max(axis=0).min() > 0
    assert np.all(np.abs(np.diag(matrix) - 1) > 1e-9)
    assert barriers > 50


def test_a_light_recording_counts_as_much_as_a_heavy_one():
    """Each recording's errors are measured by its own moments; windows of one recording share them."""
    problem = problem_of()
    one = dataclasses.replace(problem.segments[0], name="walk 0.00-1.00 s")
    heavy = dataclasses.replace(one, name="run 0.00-1.00 s", measured=10.0 * one.measured)
    weight = make_data(dataclasses.replace(problem, segments=(one, heavy))).train.weight
    np.testing.assert_allclose(weight[0], 10.0 * weight[1], rtol=1e-12)
    assert weight[0].max() > 0
    again = dataclasses.replace(heavy, name="walk 2.00-3.00 s")
    weight = make_data(dataclasses.replace(problem, segments=(one, again))).train.weight
    np.testing.assert_array_equal(weight[0], weight[1])


def test_padding_and_lead_in_do_not_count():
    """Changing what is not scored changes nothing."""
    problem = problem_of()
    layout = make_layout(problem)
    cost = jax.jit(make_objective(layout, problem.penalties).cost)
    data = make_data(problem)
    z = jnp.zeros(layout.size)
    arguments = jax.tree.map(jnp.asarray, (problem.model, data, problem.start))
    expected = float(cost(*arguments, z))
    for s in problem.segments:
        s.measured[~s.scored] += 1e3
    changed = jax.tree.map(jnp.asarray, (problem.model, make_data(problem), problem.start))
    assert float(cost(*changed, z)) == pytest.approx(expected, rel=1e-13)
    assert np.count_nonzero(data.counted) == sum(s.scored.sum() for s in problem.segments)


# ---- what is refused ----

GAIN = DEFAULT_FREE["emg_gain"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"free": ()}, "nothing is free"),
        ({"free": (Free("emg_gain", (2.0, 0.5), 0.1),)}, "emg_gain of 'TRI': bounds 2 to 0.5"),
        ({"free": (Free("emg_gain", (0.5, 2.0), 0.0),)}, "emg_gain of 'TRI'.*prior sd 0"),
        ({"free": (Free("emg_gain", (1.2, 2.0), 0.1),)}, "emg_gain of 'TRI': relative bounds 1.2 to 2 must.*include 1"),
        (
            {"free": (Free("electromechanical_delay", (0.05, 0.1), 0.02, relative=False),)},
            "electromechanical_delay of 'TRI': the start 0.03 is outside its bounds 0.05 to 0.1 s",
        ),
        ({"free": (DEFAULT_FREE["activation_time_constant"],)}, "activation_time_constant has no effect"),
        ({"free": (Free("strength", (0.5, 2.0), 0.1),)}, "no parameter 'strength'; there are 'max_isometric_force'"),
        ({"free": (GAIN, GAIN)}, "emg_gain is listed twice"),
        ({"free": (dataclasses.replace(GAIN, only=("VL",)),)}, "emg_gain: no entry 'VL'; there are 'TRI', 'BIC'"),
        ({"free": (dataclasses.replace(GAIN, share="some"),)}, "emg_gain: share is 'some'; use 'each'"),
        ({"groups": {"triceps": ("TRIlong", "ANC")}}, "groups name 'ANC', which the model does not have"),
        (
            {"groups": {"a": ("TRIlong", "BRA"), "b": ("BRA", "TRImed")}},
            "group 'b': 'BRA' is in another group already",
        ),
        ({"segments": ()}, "no training window"),
    ],
)
def test_bad_problems_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        problem_of(**changes)


def test_rigid_tendons_have_no_strain():
    model = arm(tendon="rigid")
    assert tuple(kind for kind in KINDS if not has_effect(model, kind)) == (
        "tendon_strain_at_one_norm_force",
        "activation_time_constant",
        "deactivation_time_constant",
        "synergy_weight",
    )
    with pytest.raises(InputError, match=r"tendon_strain_at_one_norm_force has no effect .*tendon='rigid'"):
        problem_of(model, (DEFAULT_FREE["tendon_strain_at_one_norm_force"],))


def test_a_bound_beyond_the_excitation_that_is_kept_is_named():
    model = arm()
    short = dataclasses.replace(model, settings=dataclasses.replace(model.settings, max_delay=0.05))
    with pytest.raises(InputError, match=r"electromechanical_delay.*0\.13.*0\.05.*max_delay"):
        problem_of(short)


def test_parameters_that_cannot_move_are_named():
    model = arm()
    still = make_params(model, {**ARM.parameters, "fiber_damping": 0.0})
    with pytest.raises(InputError, match=r"fiber_damping.*start is 0"):
        problem_of(free=(DEFAULT_FREE["fiber_damping"],), start=still)
    nobody = dataclasses.replace(DEFAULT_FREE["max_isometric_force"], only=())
    with pytest.raises(InputError, match="only"):
        problem_of(free=(nobody,))


def test_the_start_outside_its_bounds_is_the_one_named():
    model = arm()
    delays = [0.03] * (len(model.channels) - 1) + [0.14]
    start = make_params(model, {**ARM.parameters, "electromechanical_delay": delays})
    with pytest.raises(InputError, match=r"0\.14 is outside"):
        problem_of(free=(DEFAULT_FREE["electromechanical_delay"],), start=start)


def test_bad_segments_are_named():
    good = problem_of().segments
    with pytest.raises(InputError, match=r"reach0 0.20-0.60 s: no measured moments of"):
        problem_of(segments=(dataclasses.replace(good[0], measured=None),))
    constant = good[0].measured.copy()
    constant[:, 1] = 3.0
    with pytest.raises(InputError, match=f"reach0.*the measured moment of '{ARM.coordinates[1]}' is constant"):
        problem_of(segments=(dataclasses.replace(good[0], measured=constant),))
    other = make_segment(arm(), recording(), coordinates=ARM.coordinates[1:])
    with pytest.raises(InputError, match=r"has moments of .* of others; use the same"):
        problem_of(segments=(good[0], other))
    finer = make_segment(arm(), recording(), dt=0.005)
    with pytest.raises(InputError, match=r"has a step of 0.005 s, .* 0.01 s; give all trials one dt"):
        problem_of(segments=(good[0], finer))


@pytest.mark.parametrize(
    "values", [{"fiber_length_range": (1.2, 1.5)}, {"moment_tolerance": 0.0}, {"tendon_strain_tolerance": -1.0}]
)
def test_bad_penalties_are_named(values):
    with pytest.raises(InputError, match=next(iter(values))):
        Penalties(**values)
