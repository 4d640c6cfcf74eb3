"""EMG-assisted prediction: excitations moved as little as the measured moments ask for.

Where the moments of a recording were measured, excitations need not be taken at face value: they may leave the recorded
EMG a little, and those of muscles without EMG may be anything small, if that explains the moments (Sartori, Farina &
Lloyd 2014, 10.1016/j.jbiomech.2014.10.009). CEINMS minimises ``alpha E_moments + beta E_activations + gamma E_EMG``
with weights whose meaning depends on units and on the number of frames; here every term is an error over a tolerance
that says what it means. Departure: the whole stretch is solved at once, through the activation dynamics and the elastic
tendons, not frame by frame.

The result explains the moments it was given: an agreement with them is no validation of the person. Use it for muscle
forces, not to judge a calibration.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from calibration.validation import float64
from nms_gym._compilation import fast_compilation
from nms_gym.errors import InputError
from nms_gym.excitation import activation as act
from nms_gym.excitation.synergies import FLOOR_WIDTH
from nms_gym.model.forward import NmsOutput
from nms_gym.model.parameters import NmsParams
from nms_gym.model.replay import Replay, Segment, predict_moments, recorded_excitations
from nms_gym.model.structure import NmsModel


@dataclass(frozen=True)
class Assistance:
    """What may give way, each a standard deviation."""

    moment_tolerance: float = 0.05
    """error of a moment, over the spread of the measured one"""
    emg_tolerance: float = 0.1
    """excitation; how far a muscle with EMG may be from it"""
    effort_tolerance: float = 0.2
    """excitation of a muscle without EMG or synergies"""
    node_step: float = 0.04
    """s between the points that the corrections run straight through; EMG envelopes hold nothing faster"""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise InputError(f"{name} is {value}; it must be positive")


@dataclass(frozen=True)
class Assisted:
    """An assisted prediction; NumPy, time first, lead-in included."""

    output: NmsOutput
    recorded: np.ndarray
    """(T, M) excitations from EMG and synergies alone"""
    adjusted: np.ndarray
    """(T, M) excitations that were found; what ``output`` was computed from"""
    cost: float
    start_cost: float
    """of the excitations as recorded"""
    iterations: int
    converged: bool


def assist(
    model: NmsModel,
    params: NmsParams,
    segment: Segment,
    assistance: Assistance | None = None,
    *,
    max_iterations: int = 150,
    tolerance: float = 1e-4,
) -> Assisted:
    """Find excitations around the recorded ones that explain a segment's measured moments. Runs in float64.

    Args:
        model: structure.
        params: of the person; nothing of them is changed.
        segment: with measured moments.
        assistance: what may give way.
        max_iterations: of L-BFGS.
        tolerance: relative decrease of the cost over ten iterations below which it ends.

    Raises:
        InputError: no measured moments, or fewer than one iteration.
    """
    if segment.measured is None:
        raise InputError(f"{segment.name}: no measured moments, so nothing tells how excitations should change")
    if max_iterations < 1:
        raise InputError(f"max_iterations is {max_iterations}; at least 1 is needed")
    given = assistance or Assistance()
    dt = float(np.asarray(segment.replay.dt))
    steps = len(segment.time)
    nodes = max(int(np.ceil(steps * dt / given.node_step)) + 1, 2)
    place = np.linspace(0.0, nodes - 1, steps)
    left = np.minimum(place.astype(np.int32), nodes - 2).astype(np.int32)
    part = place - left
    heard = np.isin(model.muscles, (*model.recorded_muscles, *model.synergy_muscles))
    scale = np.where(heard, given.emg_tolerance, given.effort_tolerance)
    sd = segment.measured[segment.scored].std(axis=0)
    weight = segment.scored[:, None] / (given.moment_tolerance * np.maximum(sd, 1e-6))
    with jax.enable_x64(True):
        problem = jax.tree.map(
            jnp.asarray, float64((model, params, segment.replay, segment.measured, weight, scale, part))
        )
        # Corrections are measured in tolerances, per node.
        run = _descent(max_iterations, tolerance)
        found, cost, first, iterations, converged = run(problem, jnp.asarray(left), jnp.zeros((nodes, len(scale))))
        recorded, adjusted, output = _outcome(problem, jnp.asarray(left), found)
    return Assisted(
        output=jax.tree.map(np.asarray, output),
        recorded=np.asarray(recorded),
        adjusted=np.asarray(adjusted),
        cost=float(cost),
        start_cost=float(first),
        iterations=int(iterations),
        converged=bool(converged),
    )


def corrected(recorded: Array, correction: Array, scale: Array, left: Array, part: Array) -> Array:
    """Excitations ``(T, M)`` in [0, 1]: recorded ones plus corrections ``(nodes, M)``, straight between the nodes."""
    added = correction[left] * (1.0 - part)[:, None] + correction[left + 1] * part[:, None]
    total = recorded + added * scale[None, :]
    above_zero = 0.5 * (total + jnp.sqrt(total * total + FLOOR_WIDTH**2))
    return act.saturate(above_zero)


Given = tuple[NmsModel, NmsParams, Replay, Array, Array, Array, Array]


def _cost(problem: Given, left: Array, correction: Array) -> Array:
    model, params, replay, measured, weight, scale, part = problem
    recorded = recorded_excitations(model, params, replay)
    moments = predict_moments(
        model, params, replay, excitation=corrected(recorded, correction, scale, left, part)
    ).moments
    return 0.5 * (jnp.sum(((moments - measured) * weight) ** 2) * _density(part, correction) + jnp.sum(correction**2))


def _density(part: Array, correction: Array) -> float:
    """Nodes per sample: moments count once per node, as the corrections do."""
    return correction.shape[0] / part.shape[0]


@functools.lru_cache(maxsize=8)
def _descent(limit: int, tolerance: float) -> Any:
    solver = optax.lbfgs(memory_size=15)

    @functools.partial(jax.jit, compiler_options=fast_compilation())
    def run(problem: Given, left: Array, start: Array) -> Any:
        cost = functools.partial(_cost, problem, left)
        value_and_grad = optax.value_and_grad_from_state(cost)
        first = cost(start)

        def step(carry: Any) -> Any:
            at, state, history, n = carry
            value, gradient = value_and_grad(at, state=state)
            updates, state = solver.update(gradient, state, at, value=value, grad=gradient, value_fn=cost)
            return optax.apply_updates(at, updates), state, jnp.roll(history, 1).at[0].set(value), n + 1

        def going(carry: Any) -> Any:
            _, _, history, n = carry
            return (n < limit) & ((n < history.size) | (history[-1] - history[0] > tolerance * history[0]))

        history = jnp.full(10, jnp.inf, start.dtype)
        at, _, history, n = jax.lax.while_loop(going, step, (start, solver.init(start), history, 0))
        return at, cost(at), first, n, n < limit

    return run


@jax.jit
def _outcome(problem: Given, left: Array, correction: Array) -> Any:
    model, params, replay, _, _, scale, part = problem
    recorded = recorded_excitations(model, params, replay)
    adjusted = corrected(recorded, correction, scale, left, part)
    return recorded, adjusted, predict_moments(model, params, replay, excitation=adjusted)
