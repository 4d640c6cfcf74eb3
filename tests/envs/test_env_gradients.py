"""The return of every id can be differentiated by actions and by the person's parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nms_gym._pytree import replace
from nms_gym.envs import TASKS, make_task
from nms_gym.envs.task import as_dtype, play_actions
from nms_gym.model.parameters import PARAMETER_KINDS

QUICK = {"xla_backend_optimization_level": 0}
DIRECTIONS = 24
STEPS = (1e-4, 1e-6)  # of central differences: one is enough where the return is smooth at that scale
SECONDS = 1.0
# Parameters that are often 0: what a direction moves them by, where others move in proportion to their value.
LEAST = {"optimal_fiber_length_change": 0.05, "pennation_at_optimal": 0.05, "shape_factor": 0.1}
# The others take up to half a minute each to compile.
QUICKEST = ("MomentTracking-v0", "ElbowReach-v0", "ElbowAssist-v0")
IDS = [pytest.param(name, marks=pytest.mark.slow if name not in QUICKEST else ()) for name in TASKS]


def unused(task, model):
    """Kinds of parameters that cannot matter."""
    found = {"synergy_weight"} if not model.synergy_pairs else set()
    s = model.settings
    if s.activation == "first_order":
        found |= {"filter_time_constant_1", "filter_time_constant_2"}
    else:
        found |= {"activation_time_constant", "deactivation_time_constant"}
    if set(model.tendons if isinstance(model.tendons, tuple) else (model.tendons,)) == {"rigid"}:
        found.add("tendon_strain_at_one_norm_force")
    if hasattr(task, "limb") and task.limb.undelayed:
        found.add("electromechanical_delay")
    return found


@pytest.fixture(scope="module", params=IDS)
def measured(request):
    """Gradient, forward derivatives and central differences along random directions."""
    name = request.param
    task = as_dtype(make_task(name), jnp.float64)
    model, params = (task.limb.model, task.limb.params) if hasattr(task, "limb") else (task.model, task.params)
    rng = np.random.default_rng(5)
    low, high = task.action_bounds
    steps = min(round(SECONDS / task.dt), task.horizon)
    # Away from the ends: an action at a bound is clipped by adapters, and an excitation there is saturated.
    fraction = rng.uniform(0.1, 0.6, (steps, len(low)))
    actions = jnp.asarray(low + fraction * (high - low), float)

    def total(x):
        actions, params = x
        changed = (
            replace(task, limb=replace(task.limb, params=params))
            if hasattr(task, "limb")
            else replace(task, params=params)
        )
        return play_actions(changed, actions)[0].sum()

    def direction(part):
        scale = {
            kind: np.maximum(np.abs(np.asarray(getattr(params, kind))), LEAST.get(kind, 0.0))
            for kind in PARAMETER_KINDS
        }
        draw = [rng.standard_normal(actions.shape)] + [rng.standard_normal(v.shape) * v for v in scale.values()]
        keep = [part == "actions"] + [part == "params"] * len(scale)
        draw = [d * k for d, k in zip(draw, keep, strict=True)]
        return draw[0], replace(params, **dict(zip(scale, draw[1:], strict=True)))

    drawn = [direction(part) for part in ("actions",) * DIRECTIONS + ("params",) * DIRECTIONS]
    directions = jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)
    point = (actions, params)

    # One program for forward derivatives at the point and values beside it.
    shifts = np.array([0.0] + [sign * h for h in STEPS for sign in (1.0, -1.0)])
    spread = [jnp.asarray(x) for x in np.meshgrid(np.arange(2 * DIRECTIONS), shifts, indexing="ij")]

    def beside(row, shift):
        direction = jax.tree.map(lambda d: d[row], directions)
        return jax.jvp(total, (jax.tree.map(lambda x, d: x + shift * d, point, direction),), (direction,))

    value, gradient = jax.jit(jax.value_and_grad(total), compiler_options=QUICK)(point)
    values, slopes = jax.jit(jax.vmap(beside), compiler_options=QUICK)(*(x.ravel() for x in spread))
    values, slopes = (np.asarray(x).reshape(2 * DIRECTIONS, -1) for x in (values, slopes))
    forward, differences = slopes[:, 0], (values[:, 1::2] - values[:, 2::2]) / (2 * np.array(STEPS))
    reverse = sum(
        jnp.sum((g[None] * d).reshape(len(d), -1), axis=1)
        for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(directions), strict=True)
        if g.size
    )
    return name, task, model, value, gradient, np.asarray(reverse), forward, differences


def test_reverse_equals_central_differences(measured):
    """Along at least 20 directions each of actions and parameters, at least 90 % to 1 %."""
    name, _, _, value, _, reverse, _, differences = measured
    assert np.isfinite(value)
    assert np.isfinite(reverse).all()
    for part, rows in (("actions", slice(0, DIRECTIONS)), ("parameters", slice(DIRECTIONS, None))):
        wanted, found = reverse[rows], differences[rows]
        error = np.abs(found - wanted[:, None]) / np.maximum(np.abs(wanted)[:, None], 1e-6 * np.abs(wanted).max())
        best = error.min(axis=1)
        print(
            f"{name:18s} {part:10s} {np.mean(best < 0.01):.0%} within 1 %, median {np.median(best):.1e}, "
            f"worst {best.max():.1e}; by step {dict(zip(STEPS, np.mean(error < 0.01, axis=0).tolist(), strict=True))}"
        )
        for i in np.flatnonzero(best >= 0.01):
            print(f"    direction {i}: reverse {wanted[i]:.6g}, differences {found[i]}")
        assert len(best) >= 20
        assert np.mean(best < 0.01) >= 0.9
        assert np.abs(wanted).min() > 0


def test_reverse_equals_forward(measured):
    name, _, _, _, _, reverse, forward, _ = measured
    for rows in (slice(0, DIRECTIONS), slice(DIRECTIONS, None)):
        scale = np.abs(forward[rows]).max()
        print(f"{name} reverse against forward: {np.abs(reverse[rows] - forward[rows]).max() / scale:.1e}")
        np.testing.assert_allclose(reverse[rows], forward[rows], rtol=1e-8, atol=1e-8 * scale)


def test_gradients_are_not_zero_where_they_matter(measured):
    name, task, model, _, gradient, *_ = measured
    by_actions, by_params = gradient
    zero = {kind for kind in PARAMETER_KINDS if not np.any(np.asarray(getattr(by_params, kind)))}
    assert zero == unused(task, model), name
    # Every muscle counts, and every action does at some time.
    assert np.all(np.asarray(by_params.max_isometric_force) != 0)
    assert np.all(np.any(np.asarray(by_actions) != 0, axis=0))
    # After the end of a trial that is shorter than the longest nothing counts.
    counted = np.flatnonzero(np.any(np.asarray(by_actions) != 0, axis=1))[-1] + 1
    assert counted >= 0.7 * len(by_actions)
    assert np.mean(np.asarray(by_actions)[:counted] != 0) > 0.9
