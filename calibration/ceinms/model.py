"""CEINMS's own model and objective, differentiable.

The equations are those of github.com/CEINMS/CEINMS (Pizzolato et al. 2015, 10.1016/j.jbiomech.2015.09.021), to
rounding; the derivatives are exact, but for the jumps of the objective. With elastic tendons each frame's fiber length
is the root of a force balance whose velocity looks back over three frames; its derivatives follow from the balance
itself by a linear recursion.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import Leaf, pytree, replace
from nms_gym.errors import InputError, listed
from nms_gym.excitation.activation import ceinms_coefficient, shaped
from nms_gym.model.parameters import NmsParams
from nms_gym.muscle.splines import CONSTANT, Points, Spline, evaluate_all, make_spline
from nms_gym.recording.ceinms import CURVE_NAMES, CeinmsExcitations, CeinmsSubject
from nms_gym.recording.trial import Trial

# NMSmodel/ceinms/MTU.h and ElasticTendon_BiSec.cpp: the fiber is sought between these optimal lengths, a frame without
# a root in between costs as much as 100 rho^2 at rho = 1, and a fiber beyond rho = 0.5 pays 100 rho^2.
FIBER_RANGE = (0.2, 2.0)
NO_ROOT_PENALTY = 100.0
PENALTY, MAX_RHO = 100.0, 0.5
# Normalised velocity is limited to this before it reaches the force-velocity curve and the damping.
MAX_VELOCITY = 1.0
# Newton steps, bisections where these leave the bracket; a bracket of 1.8 optimal lengths shrinks below 1e-12 in 41.
ROOT_ITERATIONS = 60
# A Newton step this short, in optimal lengths, leaves an error of its square times some hundreds.
ROOT_TOLERANCE = 1e-7
ROOT_EDGE = 1e-6


@pytree
class CeinmsFrames:
    """One trial as CEINMS sees it; E samples of EMG, T frames, K joints, M muscles."""

    excitations: Array
    """(E, M) mixed and clipped"""
    rows: Array
    """(T,) int32: the sample of the filtered excitations that each frame takes"""
    lengths: Array
    """(T, M) m"""
    moment_arms: Array
    """(T, K, M) m"""
    measured: Array
    """(T, K) N·m"""
    backward: Array
    """(T, 4) 1/s: slope, at its last point, of the polynomial through the last four points (fewer at the start)"""
    slope: Array
    """(T, T) 1/s: slopes at its knots of the cubic spline through a value per frame"""


@pytree
class CeinmsParams:
    """Parameters of every muscle, ``(M,)`` each."""

    c1: Array
    c2: Array
    shape_factor: Array
    max_isometric_force: Array
    """N, strength coefficient included"""
    optimal_fiber_length: Array
    """m"""
    tendon_slack_length: Array
    """m"""
    pennation_at_optimal: Array
    """rad"""
    max_contraction_velocity: Array
    """optimal fiber lengths per second"""
    fiber_damping: Array
    optimal_fiber_length_change: Array


@dataclass(frozen=True)
class CeinmsModel:
    """What CEINMS computes with: structure, hashable, nothing traced."""

    elastic: bool
    curves: tuple[Points, Points, Points, Points]
    """active and passive force-length, force-velocity, tendon force-strain"""


@pytree
class CeinmsOutput:
    """What CEINMS computes from one trial."""

    activation: Array
    """(T, M)"""
    fiber_length: Array
    """(T, M) m"""
    force: Array
    """(T, M) N, along the tendon"""
    moments: Array
    """(T, K) N·m"""
    no_root: Leaf
    """(T, M) bool: no fiber length balances the tendon, which is then taken as stiff"""


# ---------------------------------------------------------------------------------------------- curves


@functools.lru_cache(maxsize=8)
def _splines(curves: tuple[Points, ...]) -> tuple[Spline, ...]:
    """CEINMS's curves are constant outside their points."""
    return tuple(make_spline(points, settle=CONSTANT) for points in curves)


# ---------------------------------------------------------------------------------------------- forward


def activations(frames: CeinmsFrames, params: CeinmsParams) -> Array:
    """Filtered and shaped excitations ``(T, M)``.

    The filter starts at zero with the file and once more, after two samples, at their mean, as CEINMS's does.
    """
    b1, b2 = params.c1 + params.c2, params.c1 * params.c2
    gain = 1.0 + b1 + b2
    e = frames.excitations
    u0 = gain * e[0]
    u1 = gain * e[1] - b1 * u0
    past = (e[0] + e[1]) / 2.0

    def step(past: tuple[Array, Array], e: Array) -> tuple[tuple[Array, Array], Array]:
        u = gain * e - b1 * past[0] - b2 * past[1]
        return (u, past[0]), u

    _, u = jax.lax.scan(step, (past, past), e[2:])
    u = jnp.concatenate([u0[None], u1[None], u])[frames.rows]
    return shaped(u, params.shape_factor[None])


def _along(params: CeinmsParams, fiber: Array) -> Array:
    """Fiber length along the tendon; 0 for a fiber shorter than the muscle is thick, which stands upright."""
    thick = params.optimal_fiber_length * jnp.sin(params.pennation_at_optimal)
    square = fiber * fiber - thick * thick
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def _stiff(params: CeinmsParams, lengths: Array) -> Array:
    """Fiber lengths ``(T, M)`` m beside a tendon that does not stretch."""
    thick = params.optimal_fiber_length * jnp.sin(params.pennation_at_optimal)
    return jnp.sqrt((thick * thick)[None] + (lengths - params.tendon_slack_length[None]) ** 2)


def _forces(
    model: CeinmsModel, params: CeinmsParams, a: Array, lengths: Array, fiber: Array, velocity: Array
) -> tuple[Array, Array]:
    """Muscle's force along the tendon and tendon's force, both over ``max_isometric_force``; ``(M,)`` each."""
    l0, slack = params.optimal_fiber_length, params.tendon_slack_length
    v = velocity / (params.max_contraction_velocity * l0)
    # As two selections: jnp.clip halves the slope at its ends.
    v = jnp.where(v > MAX_VELOCITY, MAX_VELOCITY, jnp.where(v < -MAX_VELOCITY, -MAX_VELOCITY, v))
    along = _along(params, fiber)
    normal = fiber / l0
    x = jnp.stack(
        [
            normal / (1.0 + params.optimal_fiber_length_change * (1.0 - a)),
            normal,
            v,
            (lengths - along - slack) / slack,
        ]
    )
    active, passive, speed, tendon = evaluate_all(_splines(model.curves), x)
    return (active * speed * a + passive + params.fiber_damping * v) * (along / fiber), tendon


def _over_frames(model: CeinmsModel, params: CeinmsParams, *given: Array) -> tuple[Array, Array]:
    return jax.vmap(functools.partial(_forces, model, params))(*given)


def _search(
    model: CeinmsModel, params: CeinmsParams, frames: CeinmsFrames, activation: Array
) -> tuple[Array, Array, Array]:
    """Fiber lengths ``(T, M)`` m, frame after frame, their velocities, and whether there is none.

    Newton's method in a shrinking bracket, from where the last three frames point to.
    """
    l0 = params.optimal_fiber_length
    low, high = FIBER_RANGE[0] * l0, FIBER_RANGE[1] * l0

    def frame(past: tuple[Array, Array, Array], given: tuple[Array, ...]) -> tuple[Any, tuple[Array, Array, Array]]:
        a, lengths, backward, stiff = given
        before = backward[1] * past[0] + backward[2] * past[1] + backward[3] * past[2]

        def velocity(fiber: Array) -> Array:
            return backward[0] * fiber + before

        def balance(fiber: Array) -> Array:
            muscle, tendon = _forces(model, params, a, lengths, fiber, velocity(fiber))
            return tendon - muscle

        def unfinished(carry: tuple[Array, ...]) -> Array:
            _, _, _, step, count = carry
            return jnp.any(jnp.abs(step) > ROOT_TOLERANCE * l0) & (count < ROOT_ITERATIONS)

        def improve(carry: tuple[Array, ...]) -> tuple[Array, ...]:
            x, below, above, step, count = carry
            g, slope = jax.jvp(balance, (x,), (jnp.ones_like(x),))
            # The tendon's force falls and the muscle's rises with the fiber's length: right of the root g is negative.
            below, above = jnp.where(g >= 0, x, below), jnp.where(g <= 0, x, above)
            newton = x - g / jnp.where(slope < 0, slope, -1.0)
            # A muscle that is done waits for the others, whose steps need not shrink any more.
            shrinks = jnp.abs(newton - x) < jnp.maximum(0.5 * jnp.abs(step), ROOT_TOLERANCE * l0)
            good = (slope < 0) & (newton >= below) & (newton <= above) & shrinks
            new = jnp.where(good, newton, 0.5 * (below + above))
            return new, below, above, new - x, count + 1

        guess = jnp.clip(3.0 * (past[0] - past[1]) + past[2], low, high)
        start = (guess, low, high, 4.0 * l0, jnp.zeros((), jnp.int32))
        x, below, above, _, _ = jax.lax.while_loop(unfinished, improve, start)
        # Without a change of sign one end of the bracket never moves, and the other comes to it.
        no_root = (above == high) & (x > (1.0 - ROOT_EDGE) * high) | (below == low) & (x < (1.0 + ROOT_EDGE) * low)
        x = jnp.where(no_root, stiff, x)
        return (x, past[0], past[1]), (x, velocity(x), no_root)

    stiff = _stiff(params, frames.lengths)
    return jax.lax.scan(frame, (stiff[0],) * 3, (activation, frames.lengths, frames.backward, stiff))[1]


# Kinds of parameter by how they act: through the activation, in the force balance itself, or as a factor of the force.
_BY_ACTIVATION = ("c1", "c2", "shape_factor")
_IN_BALANCE = (
    "optimal_fiber_length",
    "tendon_slack_length",
    "pennation_at_optimal",
    "max_contraction_velocity",
    "fiber_damping",
    "optimal_fiber_length_change",
)
_FACTOR = "max_isometric_force"
KINDS = (*_BY_ACTIVATION, *_IN_BALANCE, _FACTOR)


def _solved(model: CeinmsModel, params: CeinmsParams, frames: CeinmsFrames) -> tuple[CeinmsOutput, Array]:
    """The outputs, and velocities ``(2, T, M)``: what the balance was solved with, and what the force is taken at."""
    activation = activations(frames, params)
    if model.elastic:
        fiber, velocity, no_root = _search(model, params, frames, activation)
    else:
        fiber = _stiff(params, frames.lengths)
        velocity, no_root = jnp.zeros_like(fiber), jnp.zeros(fiber.shape, bool)
    both = jnp.stack([velocity, frames.slope @ fiber])
    muscle, _ = _over_frames(model, params, activation, frames.lengths, fiber, both[1])
    force = muscle * params.max_isometric_force[None]
    moments = jnp.einsum("tkm,tm->tk", frames.moment_arms, force)
    return CeinmsOutput(activation, fiber, force, moments, no_root), both


def ceinms_derivatives(
    model: CeinmsModel, params: CeinmsParams, frames: CeinmsFrames, kinds: tuple[str, ...] = KINDS
) -> tuple[CeinmsOutput, Array, Array]:
    """The outputs of ``ceinms_forward`` and the derivatives of fiber lengths and forces.

    Returns:
        The outputs, and twice ``(T, len(kinds), M)``: entry ``[t, k, m]`` is the derivative of muscle m's fiber length
        (m) and force (N) in its *own* parameter of the k-th kind. It has no others.
    """
    out, velocity = _solved(model, params, frames)
    a, fiber = out.activation, out.fiber_length
    through = tuple(k for k in _BY_ACTIVATION if k in kinds)
    direct = tuple(k for k in _IN_BALANCE if k in kinds)
    nothing, still = jax.tree.map(jnp.zeros_like, params), jnp.zeros_like(a)

    def along(kind: str) -> CeinmsParams:
        return replace(nothing, **{kind: jnp.ones_like(params.c1)})

    def derivatives(function: Any, at: Any, seeds: list[Any]) -> Any:
        """Of a function's ``(T, M)`` results along each seed: ``(T, len(seeds), M)``."""
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *seeds)
        return jax.vmap(lambda seed: jax.jvp(function, at, seed)[1], out_axes=1)(stacked)

    def muscle_and_tendon(*given: Any) -> tuple[Array, Array]:
        return _over_frames(model, given[0], given[1], frames.lengths, given[2], given[3])

    # In activation, fiber length, velocity, and the parameters that act directly.
    seeds: list[Any] = [(nothing, *(jnp.ones_like(a) if i == j else still for j in range(3))) for i in range(3)]
    seeds += [(along(kind), still, still, still) for kind in direct]
    in_activation = jnp.zeros((len(a), 0, a.shape[1]), a.dtype)
    if through:
        in_activation = derivatives(lambda p: activations(frames, p), (params,), [(along(kind),) for kind in through])
    # With a stiff tendon, or without a root, the fiber's length follows from the parameters alone.
    change = jnp.zeros_like(in_activation)
    if direct:
        stiff = derivatives(lambda p: _stiff(p, frames.lengths), (params,), [(along(kind),) for kind in direct])
        change = jnp.concatenate([change, stiff], axis=1)
    if model.elastic:
        # The balance of each frame, solved for the change of its own fiber's length: a linear recursion over frames.
        d_muscle, d_tendon = derivatives(muscle_and_tendon, (params, a, fiber, velocity[0]), seeds)
        slopes, lost = d_tendon - d_muscle, out.no_root[:, None]
        back = frames.backward[:, :, None] * slopes[:, 2:3]
        own = -1.0 / jnp.where(lost, -1.0, slopes[:, 1:2] + back[:, :1])
        push = jnp.concatenate([in_activation * slopes[:, :1], slopes[:, 3:]], axis=1) * own
        push, back = jnp.where(lost, change, push), jnp.where(lost, 0.0, back[:, 1:] * own)

        def step(past: tuple[Array, Array, Array], given: tuple[Array, Array]) -> tuple[Any, Array]:
            push, back = given
            new = push + back[:1] * past[0] + back[1:2] * past[1] + back[2:] * past[2]
            return (new, past[0], past[1]), new

        change = jax.lax.scan(step, (jnp.zeros_like(push[0]),) * 3, (push, back))[1]
    slopes, _ = derivatives(muscle_and_tendon, (params, a, fiber, velocity[1]), seeds)
    in_velocity = (frames.slope @ change.reshape(len(a), -1)).reshape(change.shape)
    force = jnp.concatenate([in_activation * slopes[:, :1], slopes[:, 3:]], axis=1)
    force = (force + change * slopes[:, 1:2] + in_velocity * slopes[:, 2:3]) * params.max_isometric_force[None, None]
    # A factor of the force moves no fiber: in the balance it stands on both sides.
    change = jnp.concatenate([change, still[:, None]], axis=1)
    force = jnp.concatenate([force, (out.force / params.max_isometric_force[None])[:, None]], axis=1)
    rows = (*through, *direct, _FACTOR)
    order = np.array([rows.index(kind) for kind in kinds], np.int32)
    return out, change[:, order], force[:, order]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def ceinms_forward(model: CeinmsModel, params: CeinmsParams, frames: CeinmsFrames) -> CeinmsOutput:
    """Everything that CEINMS computes from one trial; differentiable in ``params``, not in the recording."""
    return _solved(model, params, frames)[0]


@ceinms_forward.defjvp
def _ceinms_forward_jvp(model: CeinmsModel, primals: Any, tangents: Any) -> tuple[CeinmsOutput, Any]:
    params, frames = primals
    moved = jnp.stack([getattr(tangents[0], kind) for kind in KINDS])
    out, in_length, in_force = ceinms_derivatives(model, params, frames)
    force = jnp.einsum("tkm,km->tm", in_force, moved)
    return out, CeinmsOutput(
        activation=jax.jvp(lambda p: activations(frames, p), (params,), (tangents[0],))[1],
        fiber_length=jnp.einsum("tkm,km->tm", in_length, moved),
        force=force,
        moments=jnp.einsum("tkm,tm->tk", frames.moment_arms, force),
        no_root=np.zeros(out.no_root.shape, jax.dtypes.float0),
    )


def ceinms_objective(model: CeinmsModel, params: CeinmsParams, frames: CeinmsFrames) -> Array:
    """CEINMS's f of one trial, with its jumps.

    ``MinTorqueError.cpp`` adds a trial's penalty to the error of every joint that is calibrated, so f counts it once
    per joint.
    """
    out = ceinms_forward(model, params, frames)
    variance = jnp.var(frames.measured, axis=0, ddof=1)
    rho = jnp.abs(out.fiber_length / params.optimal_fiber_length[None] - 1.0)
    penalty = jnp.where(rho > MAX_RHO, PENALTY * rho**2, 0.0) + jnp.where(out.no_root, NO_ROOT_PENALTY, 0.0)
    error = jnp.sum((out.moments - frames.measured) ** 2, axis=0)
    return (jnp.sum(error / variance) + len(variance) * jnp.sum(penalty)) / len(frames.lengths)


# ---------------------------------------------------------------------------------------------- from files


def backward_weights(time: np.ndarray) -> np.ndarray:
    """``CeinmsFrames.backward`` of frames at ``time (T,)`` s."""
    weights = np.zeros((len(time), 4))
    for n in (2, 3, 4):
        # Frame k has n points behind it; slope at 0 of the polynomial through them: Vandermonde's second row inverted.
        frames = np.arange(n - 1, n if n < 4 else len(time))
        t = time[frames[:, None] - np.arange(n)] - time[frames, None]
        powers = np.moveaxis(t[..., None] ** np.arange(n), -1, 1)
        weights[frames, :n] = np.linalg.solve(powers, np.broadcast_to(np.eye(n)[1], (len(frames), n))[..., None])[
            ..., 0
        ]
    return weights


def spline_slopes(time: np.ndarray) -> np.ndarray:
    """``CeinmsFrames.slope`` of frames at ``time (T,)`` s: ``skeleton.functions.simm_spline`` as a matrix."""
    n, h = len(time), np.diff(time)
    secant = np.diff(np.eye(n), axis=0) / h[:, None]
    second = np.diff(secant, axis=0) / (time[2:] - time[:-2])[:, None]
    third = np.diff(second, axis=0) / (time[3:] - time[:-3])[:, None]
    # Unknowns are second derivatives over 6; at the ends the third derivative is that of the cubic through four points.
    diagonal = np.concatenate([-h[:1], 2.0 * (h[:-1] + h[1:]), -h[-1:]])
    right = np.concatenate([third[:1] * h[0] ** 2, np.diff(secant, axis=0), -third[-1:] * h[-1] ** 2])
    sigma = np.linalg.solve(np.diag(diagonal) + np.diag(h, 1) + np.diag(h, -1), right)
    inner = secant - h[:, None] * (sigma[1:] + 2.0 * sigma[:-1])
    return np.concatenate([inner, secant[-1:] + h[-1] * (sigma[-2:-1] + 2.0 * sigma[-1:])])


def make_frames(
    trial: Trial, subject: CeinmsSubject, excitations: CeinmsExcitations, dofs: Sequence[str] | None = None
) -> CeinmsFrames:
    """A recording as CEINMS sees it: excitations mixed and clipped, rows paired by time.

    ``dofs`` are the joints whose torques are compared; by default the subject's.

    Raises:
        InputError: no moments, lengths or moment arms; a channel is missing; muscles with different delays; the EMG
            ends before the motion.
    """
    if trial.moments is None or trial.lengths is None or trial.moment_arms is None:
        raise InputError(
            f"trial {trial.name!r}: CEINMS needs lengths, moment arms and measured torques; add their files"
        )
    missing = [c for c in excitations.channels if c not in trial.channels]
    if missing:
        raise InputError(f"trial {trial.name!r}: no EMG channel {listed(missing)}; it has {listed(trial.channels, 50)}")
    delays = {m.electromechanical_delay for m in subject.muscles}
    (delay,) = delays if len(delays) == 1 else (None,)
    if delay is None:
        raise InputError(
            f"{subject.path}: CEINMS's model needs one emDelay for all muscles, found {listed(map(str, delays))}"
        )
    columns = [trial.channels.index(c) for c in excitations.channels]
    weights = [[excitations.muscles.get(m, {}).get(c, 0.0) for m in subject.muscle_names] for c in excitations.channels]
    # Times in files are rounded; a nanosecond decides nothing.
    rows = np.searchsorted(trial.emg_time + delay + 1e-9, trial.time)
    if rows[-1] >= len(trial.emg_time):
        raise InputError(f"trial {trial.name!r}: EMG ends at {trial.emg_time[-1]:g} s, before the motion; supply more")
    muscles = [trial.muscles.index(m) for m in subject.muscle_names]
    joints = [trial.moment_coordinates.index(d) for d in dofs or subject.dofs]
    arrays: dict[str, Any] = {
        "excitations": np.clip(trial.emg[:, columns] @ np.array(weights), 0.0, 1.0),
        "rows": rows.astype(np.int32),
        "lengths": trial.lengths[:, muscles],
        "moment_arms": trial.moment_arms[:, joints][:, :, muscles],
        "measured": trial.moments[:, joints],
        "backward": backward_weights(trial.time),
        "slope": spline_slopes(trial.time),
    }
    return CeinmsFrames(**arrays)


def ceinms_structure(subject: CeinmsSubject, tendon: str, path: str) -> CeinmsModel:
    """Curves of a subject, with a kind of tendon as calibration files call it.

    Raises:
        InputError: a curve is missing; a tendon other than "stiff" and "equilibriumElastic".
    """
    if tendon not in ("stiff", "equilibriumElastic"):
        raise InputError(
            f"{path}: <tendon> is {tendon!r}; only 'stiff' and 'equilibriumElastic' are computed as CEINMS does"
        )
    lacking = [name for name, keyword in CURVE_NAMES.items() if keyword not in subject.curves]
    if lacking:
        raise InputError(
            f"{subject.path}: no curve {listed(lacking)}; CEINMS's model needs all of {listed(CURVE_NAMES)}"
        )
    active, passive, velocity, force = (subject.curves[k] for k in CURVE_NAMES.values())
    return CeinmsModel(tendon != "stiff", (active, passive, velocity, force))


def ceinms_params(params: NmsParams, dt: float) -> CeinmsParams:
    """Our parameters as CEINMS's, with filter coefficients for ``dt`` s between samples of EMG; traced."""
    same = {kind: getattr(params, kind) for kind in ("shape_factor", _FACTOR, *_IN_BALANCE)}
    return CeinmsParams(
        c1=ceinms_coefficient(params.filter_time_constant_1, dt),
        c2=ceinms_coefficient(params.filter_time_constant_2, dt),
        **same,
    )


def subject_params(subject: CeinmsSubject) -> CeinmsParams:
    """A subject's parameters, NumPy."""

    def column(kind: str) -> Any:
        return np.array([getattr(m, kind) for m in subject.muscles])

    columns = {kind: column(kind) for kind in KINDS if kind != _FACTOR}
    return CeinmsParams(**columns, max_isometric_force=column(_FACTOR) * column("strength_coefficient"))
