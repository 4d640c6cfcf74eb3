"""Metabolic rates against OpenSim's probes, the size of the smoothing, floors, names and derivatives."""

from __future__ import annotations

import dataclasses
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest
from helpers import REFERENCE
from jax.flatten_util import ravel_pytree

from nms_gym.errors import InputError
from nms_gym.muscle import metabolics
from nms_gym.muscle.curves import DeGrooteFregly2016
from nms_gym.muscle.metabolics import Bhargava2004, MetabolicParams, Umberger2010

CURVES = DeGrooteFregly2016()
TABLES = json.loads((REFERENCE / "metabolics.json").read_text(encoding="utf-8"))
MODELS = {"bhargava": Bhargava2004, "umberger": Umberger2010}
# Names of OpenSim's parts and ours.
PARTS = {
    "bhargava": {
        "activation": "activation",
        "maintenance": "maintenance",
        "shortening": "shortening_lengthening",
        "mechanical_work": "mechanical_work",
        "total": "total",
    },
    "umberger": {
        "activation_maintenance": "activation",
        "shortening": "shortening_lengthening",
        "mechanical_work": "mechanical_work",
        "total": "total",
    },
}

rate = jax.jit(metabolics.metabolic_rate, static_argnums=(0, 1))


class Result(NamedTuple):
    """What the functions read of an output."""

    tendon_force: jax.Array
    fiber_length: jax.Array
    fiber_velocity: jax.Array
    tendon_strain: jax.Array


def sharp(kind):
    """The model with its switches hardly rounded, as OpenSim has it."""
    model = MODELS[kind]()
    hard = {f.name: 1e9 for f in dataclasses.fields(model) if f.name.endswith("sharpness")}
    if kind == "umberger":
        hard["smallest_excitation"] = 1e-12
    return dataclasses.replace(model, **hard)


def muscles(rows, fiber_damping=0.1):
    """Muscle and metabolic parameters of rows (F0, lopt, slack, pennation, vmax, slow-twitch fraction)."""
    rows = np.asarray(rows, dtype=float)
    same = jnp.ones(len(rows))
    metabolic = MetabolicParams(jnp.asarray(1 - rows[:, 5]), 0.25e6 * same, 1059.7 * same)
    return models.muscles(rows[:, :5], fiber_damping=fiber_damping), metabolic


def output(x, v):
    return Result(jnp.zeros_like(x), x, v, jnp.zeros_like(x))


@pytest.fixture(scope="module", params=["rigid", "elastic"])
def opensim(request):
    """OpenSim's table, and the arguments of ``metabolic_rate`` in its states."""
    table = {k: np.asarray(v) for k, v in TABLES[request.param].items()}
    rows = [list(TABLES["muscles"][name].values()) for name in table["muscle"]]
    params, metabolic = muscles(rows, 0.1 if request.param == "rigid" else 0.0)
    out = output(jnp.asarray(table["fiber_length"]), jnp.asarray(table["fiber_velocity"]))
    return table, (CURVES, params, metabolic, table["excitation"], table["activation"], out)


@pytest.mark.parametrize("kind", MODELS)
def test_rates_are_opensims(opensim, kind):
    """Without rounding to 1e-6 W/kg in every part; with it, within what the classes say."""
    truth, given = opensim
    mass = np.asarray(metabolics.muscle_mass(*given[1:3]))
    hard, smooth = (rate(model, *given) for model in (sharp(kind), MODELS[kind]()))
    for name, part in PARTS[kind].items():
        expected = truth[f"{kind}_{name}"] / mass
        np.testing.assert_allclose(getattr(hard, part) / mass, expected, rtol=0, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(getattr(smooth, part) / mass, expected, rtol=2e-3, atol=0.7, err_msg=name)
        assert np.abs(expected).max() > 30
    # States are of both kinds: shortening and lengthening, with and without a floor.
    assert (np.asarray(smooth.floor) > mass).any()
    assert (np.asarray(smooth.floor) < 0.01 * mass).any()
    np.testing.assert_allclose(smooth.total, smooth.heat + smooth.mechanical_work, rtol=1e-12)


GRID = np.meshgrid(
    [0.0, 0.005, 0.1, 0.5, 0.5001, 1.0],
    [0.0, 0.1, 0.5, 1.0],
    [0.4, 0.5, 0.9, 0.99, 1.0, 1.01, 1.2, 1.5],
    [-1.0, -0.4, -0.1, -1e-3, 0.0, 1e-3, 0.1, 0.8],
)


@pytest.mark.parametrize(("kind", "worst"), [("bhargava", 0.65), ("umberger", 1.3)])
def test_rounding_at_every_switch(kind, worst):
    """Largest departure from the unrounded model, W/kg, on a grid through all its switches; usually far less."""
    excitation, activation, length, velocity = (jnp.asarray(g.ravel()[:, None]) for g in GRID)
    params, metabolic = muscles([(3000.0, 0.10, 0.20, 0.0, 10.0, 0.5)])
    mass = float(metabolics.muscle_mass(params, metabolic)[0])
    given = (CURVES, params, metabolic, excitation, activation, output(length, velocity))
    hard, smooth = (rate(model, *given) for model in (sharp(kind), MODELS[kind]()))
    error = np.abs(np.asarray(smooth.total - hard.total)) / mass
    assert 0.5 * worst < error.max() < worst
    assert np.median(error) < 0.08
    # Neither negative, nor less heat than a resting muscle gives off, nor absurd.
    assert np.asarray(smooth.total).min() > -1e-9
    assert np.asarray(smooth.heat).min() > metabolics.MINIMUM_HEAT * mass * (1 - 1e-9)
    assert np.asarray(smooth.total).max() / mass < 1400


def test_paper_variant_of_bhargava():
    """``alpha = 0.16 F_iso + 0.18 F`` when shortening and ``0.157 F`` when lengthening, away from the switch."""
    params, metabolic = muscles([(1000.0, 0.1, 0.2, 0.0, 10.0, 0.5)] * 2, fiber_damping=0.0)
    v, a = jnp.asarray([-0.3, 0.3]), jnp.asarray([0.5, 0.5])
    out = output(jnp.ones(2), v)
    ours = rate(Bhargava2004(force_dependent_shortening=True), CURVES, params, metabolic, a, a, out)
    force = 1000 * (0.5 * CURVES.force_velocity(v) + CURVES.passive_force_length(jnp.ones(2), jnp.full(2, 0.6)))
    alpha = np.array([0.16 * 500.0 + 0.18 * force[0], 0.157 * force[1]])
    np.testing.assert_allclose(ours.shortening_lengthening, -alpha * v, rtol=1e-6)


def test_rates_that_can_be_checked_by_hand():
    """A fully excited, isometric muscle at optimal length, and one at rest."""
    params, metabolic = muscles([(1000.0, 0.1, 0.2, 0.0, 10.0, 0.4)] * 2)
    e = jnp.asarray([1.0, 0.0])
    mass = 1000 / 0.25e6 * 1059.7 * 0.1
    np.testing.assert_allclose(metabolics.muscle_mass(params, metabolic), mass)
    active = rate(Bhargava2004(), CURVES, params, metabolic, e, e, output(jnp.ones(2), jnp.zeros(2)))
    np.testing.assert_allclose(active.activation[0], mass * (0.4 * 40 + 0.6 * 133), rtol=1e-9)
    np.testing.assert_allclose(active.maintenance[0], mass * (0.4 * 74 + 0.6 * 111), rtol=0.006)
    np.testing.assert_allclose(active.total[1], mass, rtol=0.08)  # the floor at rest, 0.07 W/kg rounded
    umberger = rate(Umberger2010(), CURVES, params, metabolic, e, e, output(jnp.ones(2), jnp.zeros(2)))
    np.testing.assert_allclose(umberger.activation[0], 1.5 * mass * (25 + 128 * 0.6), rtol=2e-3)
    assert metabolics.basal_rate(75.0) == pytest.approx(90.0)


def test_parameters_by_name():
    names = ("SOL", "TA")
    made = metabolics.make_metabolic_params(names, {"fast_twitch_fraction": {"SOL": 0.2}, "density": 1060.0})
    np.testing.assert_array_equal(made.fast_twitch_fraction, [0.2, 0.5])
    np.testing.assert_array_equal(made.density, [1060.0, 1060.0])
    np.testing.assert_array_equal(made.specific_tension, [0.25e6, 0.25e6])
    for values, message in (
        ({"fast_twitch": 0.5}, "did you mean 'fast_twitch_fraction'"),
        ({"density": {"SOLE": 1.0}}, "did you mean 'SOL'"),
        ({"fast_twitch_fraction": {"TA": 1.2}}, "of 'TA' is 1.2 1; allowed 0 to 1"),
        ({"specific_tension": float("nan")}, "of 'SOL' is nan"),
        ({"specific_tension": 25.0}, "check its unit"),
    ):
        with pytest.raises(InputError, match=message):
            metabolics.make_metabolic_params(names, values)
    assert set(metabolics.METABOLIC_MODELS) == {m().name for m in MODELS.values()}


# ---- derivatives ----

ROWS = [
    (3000.0, 0.10, 0.20, 0.08, 10.0, 0.45),
    (3549.0, 0.05, 0.25, 0.436, 8.0, 0.8),
    (600.0, 0.12, 0.22, 0.0, 12.0, 0),
]
# Excitation, activation, length, velocity of three muscles. Switches: no and full excitation, excitation equal to
# activation, lengths 0.5, 1 and 1.5, velocity 0 and where slow fibers saturate.
STATES = {
    "moving": ([0.3, 0.8, 0.5], [0.2, 0.6, 0.7], [0.8, 1.1, 1.3], [-0.3, 0.02, -0.1]),
    "switches": ([0.0, 1.0, 0.5], [0.0, 1.0, 0.5], [0.5, 1.0, 1.5], [0.0, 0.0, -0.4]),
    "floors": ([0.0, 0.1, 0.0], [0.0, 0.9, 1.0], [1.0, 1.2, 1.0], [0.0, 0.6, 0.05]),
}


@pytest.fixture(scope="module", params=MODELS)
def flat_rate(request):
    """Every part of the rate as a flat function, and its forward and reverse Jacobians."""
    start, unravel = ravel_pytree(muscles(ROWS))
    units = jnp.where(start == 0, 1.0, jnp.abs(start))
    model = MODELS[request.param]()
    if request.param == "bhargava":
        model = dataclasses.replace(model, force_dependent_shortening=True)

    def function(z):
        params, metabolic = unravel(start + units * z[: len(start)])
        e, a, x, v = z[len(start) :].reshape(4, 3)
        return ravel_pytree(metabolics.metabolic_rate(model, CURVES, params, metabolic, e, a, output(x, v)))[0]

    kinds = (function, jax.jacfwd(function), jax.jacrev(function))
    return tuple(map(jax.jit, kinds)), len(start)


@pytest.mark.parametrize("state", STATES)
def test_gradients(flat_rate, state):
    (function, forward, reverse), n = flat_rate
    z = jnp.asarray([*np.zeros(n), *np.ravel(STATES[state])])
    # The narrowest rounding is that of the smallest excitation, 1e-4 wide.
    h = 1e-7
    expected = np.stack([np.asarray(function(z + e) - function(z - e)) / (2 * h) for e in h * np.eye(len(z))], axis=-1)
    forward, reverse = np.asarray(forward(z)), np.asarray(reverse(z))
    scale = 1.0 + np.abs(expected).max(axis=-1, keepdims=True) + np.abs(np.asarray(function(z)))[:, None]
    np.testing.assert_allclose(forward / scale, expected / scale, rtol=0, atol=1e-5)
    np.testing.assert_allclose(reverse / scale, forward / scale, rtol=0, atol=1e-11)
    effects = np.abs(forward).max(axis=0)[n:].reshape(4, 3)
    # Excitation and velocity always matter, even at no excitation and no velocity; but a muscle of fast fibers alone
    # (the last) recruits none at first.
    assert (effects[0, :2] > 1e-3).all()
    assert (effects[3] > 1e-3).all()


def test_precision_and_shape_follow_the_arrays():
    params, metabolic = jax.tree.map(np.asarray, muscles(ROWS))
    e, x = jnp.full((4, 3), 0.5, jnp.float32), jnp.full((4, 3), 1.1, jnp.float32)
    for model in (Bhargava2004(), Umberger2010()):
        out = metabolics.metabolic_rate(model, CURVES, params, metabolic, e, e, output(x, 0.1 * x))
        assert all(leaf.dtype == jnp.float32 and leaf.shape == (4, 3) for leaf in jax.tree.leaves(out))
