"""One step of the fiber: rigid and elastic tendons, or some of each, behind one signature.

A step takes the muscle's state, the new activation and musculotendon length and velocity, and returns the new state and
the tendon force. With an elastic tendon the new fiber length solves force equilibrium implicitly, so steps of 5 to 10
ms are stable whatever the stiffness. The equation is written as a difference of normalised tendon lengths,

    tendon_length(force along the tendon of the fiber)  -  (l_MT - l_opt w) / l_slack  =  0,

the inverse tendon curve being a logarithm: the residual is well scaled in slack and taut tendons alike, and grows with
``w`` on any step short enough. Iterations do not meet the derivatives; one last step, whose denominator is held
constant, carries the implicit-function derivative and leaves the value where it was.

The iterations are Halley's (third order), ``w -= n / (1 - n r'' / (2 r'))`` with Newton's step ``n = r / r'``, inside a
bracket. The residual is steep where the fiber stops and flat where it lengthens or shortens fast, so a jump of
activation sends Newton's method far past the root, while the second derivative, which costs no further exponential,
sees the bend. A muscle stops iterating where it has arrived, and a step ends with the last one: two or three iterations
in most motions; all that the stress set needs (``examples/benchmarks/stress.py``) are 4 (De Groote and Fregly) and 12
(Millard).

The tendon curve of De Groote and Fregly is -0.2 in the limit of a slack tendon: a fiber that shortens fast into a slack
tendon gives a small push (to 0.03 of its maximum force in stress tests), and a musculotendon too short for its slack
tendon and shortest fiber, which is a wrong parameter rather than a state, up to 0.2, with a residual that tells.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import pytree
from nms_gym.errors import InputError, listed
from nms_gym.muscle import hill
from nms_gym.muscle.curves import Curves
from nms_gym.muscle.hill import MuscleParams

TendonKind = Literal["rigid", "elastic"]
Tendon = TendonKind | tuple[TendonKind, ...]
"""One kind for all muscles, or one per muscle."""
Integrator = Literal["bdf2", "backward_euler"]

VELOCITY_WEIGHTS: dict[str, tuple[float, ...]] = {"bdf2": (1.5, -2.0, 0.5), "backward_euler": (1.0, -1.0)}
"""what the fiber length at the end of a step, one step and two steps earlier weigh in the velocity there, times dt"""

# Halvings that find an equilibrium; they reach the last bit of a bracket a few fiber lengths, or velocities, wide.
BISECTIONS = 52
# An iteration that finds a residual this small (or, in float32, near rounding) is the last: it leaves about its cube.
NEAR = 2e-5


@pytree
class FiberState:
    """What a fiber remembers; every leaf ``(M,)``, normalised by optimal fiber length."""

    along_tendon: Array
    """fiber length along the tendon, ``w``"""
    length: Array
    """fiber length, ``x``"""
    previous_length: Array
    """fiber length one step earlier (BDF2, and the next step's first guess)"""


@pytree
class FiberOutput:
    """Result of one fiber step; every leaf ``(M,)``."""

    tendon_force: Array
    """N"""
    fiber_length: Array
    """over ``optimal_fiber_length``"""
    fiber_velocity: Array
    """over ``max_contraction_velocity * optimal_fiber_length``, positive lengthening"""
    tendon_strain: Array
    residual: Array
    """what the implicit equation missed by, in tendon slack lengths; zero for a rigid tendon"""


# An implicit equation for one unknown per muscle, with all else it depends on passed apart so that it can be frozen.
Residual = Callable[[Array, Any], Array]


@pytree
class Inputs:
    """All that the equilibrium of a fiber depends on, besides its own unknown length."""

    params: MuscleParams
    state: FiberState | None
    activation: Array
    musculotendon_length: Array
    dt: Array | float


def _slope(function: Callable[[Array], Any], w: Array) -> tuple[Any, Any]:
    """Value and derivative of an elementwise function."""
    return jax.jvp(function, (w,), (jnp.ones_like(w),))


def _positive(slope: Array) -> Array:
    """A slope fit to divide by: the residual's is positive near a root of a stable step."""
    return jnp.maximum(slope, 1e-6)


def _halley(residual: Residual, frozen: Any, w: Array) -> tuple[Array, Array]:
    """Residual at ``w``, and Halley's next ``w``."""
    (r, slope), (_, bend) = _slope(lambda w: _slope(lambda w: residual(w, frozen), w), w)
    newton = r / _positive(slope)
    # Limits for guesses so poor that the second derivative says nothing about the root.
    return r, w - newton / jnp.clip(1.0 - 0.5 * newton * bend / _positive(slope), 0.5, 2.0)


def _root(residual: Residual, frozen: Any, guess: Array, low: Array, high: Array, iterations: int) -> Array:
    """Root of an increasing ``residual`` between ``low`` and ``high``, in at most so many iterations."""
    near = max(NEAR, 1000 * float(jnp.finfo(guess.dtype).eps))

    def far(search: tuple[Array, ...]) -> Array:
        return jnp.any(jnp.abs(search[1]) > near) & (search[0] < iterations)

    def improve(search: tuple[Array, ...]) -> tuple[Array, ...]:
        count, before, w, low, high = search
        r, step = _halley(residual, frozen, w)
        high, low = jnp.where(r > 0, w, high), jnp.where(r > 0, low, w)
        # Halve the bracket where the step leaves it, or leaps to and fro; but never as the last iteration.
        leaps = (r * before < 0) & (jnp.abs(r) > 0.5 * jnp.abs(before))
        good = (step >= low) & (step <= high) & ~leaps
        r, step = jnp.where(good, r, jnp.inf), jnp.where(good, step, 0.5 * (low + high))
        done = jnp.abs(before) <= near
        return count + 1, jnp.where(done, before, r), jnp.where(done, w, step), low, high

    start = (jnp.int32(0), jnp.full_like(guess, jnp.inf), jnp.clip(guess, low, high), low, high)
    return jax.lax.while_loop(far, improve, start)[2]


def _in_one_row(search: Callable[..., Array]) -> Callable[..., Array]:
    """``search(frozen, guess, ...)`` whose batch axes join the muscles' axis when it is mapped over.

    XLA's CPU loops vectorise only the last axis; with 6 muscles this halves the time of a whole closed-loop step.
    """
    search = jax.custom_batching.custom_vmap(search)

    @search.def_vmap  # type: ignore[attr-defined]
    def _(count: int, batched: Any, *arguments: Any) -> tuple[Array, bool]:
        muscles = arguments[1].shape[-1]

        def row(x: Any, is_batched: bool) -> Array:
            x = jnp.asarray(x)
            if not is_batched:
                return jnp.broadcast_to(x, (count, muscles)).ravel() if x.ndim else x
            return (x if x.ndim == 2 else jnp.broadcast_to(x[:, None], (count, muscles))).ravel()

        return search(*jax.tree.map(row, arguments, tuple(batched))).reshape(count, muscles), True

    return search


def _bisect(residual: Residual, frozen: Any, low: Array, high: Array) -> Array:
    """A root of ``residual`` between ``low``, where it is negative, and ``high``, where it is positive."""

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        above = residual(middle, frozen) > 0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    low, high = jax.lax.fori_loop(0, BISECTIONS, halve, (low, high))
    return 0.5 * (low + high)


def _with_implicit_derivative(residual: Residual, inputs: Any, w: Array) -> tuple[Array, Array]:
    """A root ``w``, now with the derivative of the root with respect to ``inputs``, and the residual there."""
    w, frozen = jax.lax.stop_gradient((w, inputs))
    slope = _slope(lambda w: residual(w, frozen), w)[1]
    r = residual(w, inputs)
    return w - (r - jax.lax.stop_gradient(r)) / _positive(slope), r


def _bracket(params: MuscleParams, musculotendon_length: Array) -> tuple[Array, Array]:
    """Bounds on ``w``: the shortest fiber, and a fiber so long that the tendon would be at half its slack length."""
    low = hill.shortest(params)
    high = (musculotendon_length - 0.5 * params.tendon_slack_length) / params.optimal_fiber_length
    return jnp.broadcast_to(low, high.shape), jnp.maximum(high, low + 0.01)


def _by_kind(
    tendon: tuple[TendonKind, ...], step: Callable[..., Any], params: MuscleParams, arguments: tuple[Any, ...]
) -> Any:
    """``step(kind, params, *arguments)`` of the muscles of each kind, put together in the order of the muscles."""
    muscles = params.max_isometric_force.shape[-1]
    if len(tendon) != muscles or not set(tendon) <= {"rigid", "elastic"}:
        raise InputError(
            f"tendon has {len(tendon)} kinds, {listed(tendon)}; use 'rigid' or 'elastic' per muscle ({muscles})"
        )
    kinds = sorted(set(tendon))
    if len(kinds) == 1:
        return step(kinds[0], params, *arguments)
    # Whoever extends MuscleParams may have leaves that do not follow the muscles; the step needs none of them.
    own = MuscleParams(**{f.name: jnp.asarray(getattr(params, f.name)) for f in dataclasses.fields(MuscleParams)})
    places = [np.array([i for i, kind in enumerate(tendon) if kind == wanted]) for wanted in kinds]
    parts = [
        step(kind, *jax.tree.map(lambda x, place=place: _take(x, place), (own, *arguments)))
        for kind, place in zip(kinds, places, strict=True)
    ]
    order = np.argsort(np.concatenate(places))
    return jax.tree.map(lambda *leaves: _take(jnp.concatenate(leaves, axis=-1), order), *parts)


def _take(values: Array, index: np.ndarray) -> Array:
    # 32-bit indices: wider ones make a program traced in one precision unusable in the other (JAX 0.10).
    return values.at[..., index.astype(np.int32)].get(mode="promise_in_bounds")


def initial_fiber(
    tendon: Tendon, curves: Curves, params: MuscleParams, activation: Array, musculotendon_length: Array
) -> FiberState:
    """State of a fiber at rest (zero fiber velocity) in equilibrium with its tendon.

    Where the descending limb allows several equilibria, bisection picks one of them. A musculotendon shorter than its
    slack tendon and shortest fiber has none: the fiber starts at its shortest.
    """
    if not isinstance(tendon, str):
        return _by_kind(
            tendon, lambda kind, *of: initial_fiber(kind, curves, *of), params, (activation, musculotendon_length)
        )
    if tendon == "rigid":
        w = _rigid_along_tendon(params, musculotendon_length)
    else:
        w = _in_equilibrium(curves, params, activation, musculotendon_length)[0]
    x = hill.fiber_length(params, w)
    return FiberState(along_tendon=w, length=x, previous_length=x)


def _in_equilibrium(
    curves: Curves,
    params: MuscleParams,
    activation: Array,
    musculotendon_length: Array,
    musculotendon_velocity: Array | None = None,
) -> tuple[Array, Array]:
    """Fiber length along an elastic tendon in equilibrium with it, and what the equation missed by, in slack lengths.
    The tendon keeps its length: the fiber rests, or takes all of the musculotendon's velocity, m/s."""

    def residual(w: Array, given: tuple[Inputs, Array | None]) -> Array:
        inputs, velocity = given
        x = hill.fiber_length(inputs.params, w)
        v = jnp.zeros_like(x) if velocity is None else _carried(inputs.params, w, x, velocity)
        return _mismatch(curves, inputs, w, x, v)

    inputs = Inputs(params, None, activation, musculotendon_length, 0.0), musculotendon_velocity
    frozen = jax.lax.stop_gradient(inputs)
    w = _bisect(residual, frozen, *_bracket(frozen[0].params, frozen[0].musculotendon_length))
    return _with_implicit_derivative(residual, inputs, w)


def _carried(params: MuscleParams, w: Array, x: Array, musculotendon_velocity: Array) -> Array:
    """Normalised velocity of a fiber of constant thickness, which lengthens by cos(pennation) of what its projection
    does, behind a tendon that keeps its length."""
    return (w / x) * musculotendon_velocity / (params.max_contraction_velocity * params.optimal_fiber_length)


def steady_fiber(
    tendon: Tendon,
    curves: Curves,
    params: MuscleParams,
    activation: Array,
    musculotendon_length: Array,
    musculotendon_velocity: Array,
) -> FiberOutput:
    """Fibers of constant activation in equilibrium with tendons that keep their length: isometric contractions, and the
    peak of isokinetic ones, where force, and so the tendon, does not change.

    Args:
        tendon: "rigid", "elastic", or one of them per muscle.
        curves: the muscle family.
        params: ``(M,)`` leaves.
        activation: ``(M,)``.
        musculotendon_length: ``(M,)`` m.
        musculotendon_velocity: ``(M,)`` m/s; all of it is the fiber's.

    Raises:
        InputError: ``tendon`` does not have one kind per muscle (raised while tracing).
    """
    arguments = (activation, musculotendon_length, musculotendon_velocity)
    if not isinstance(tendon, str):
        return _by_kind(tendon, lambda kind, *of: steady_fiber(kind, curves, *of), params, arguments)
    if tendon == "rigid":
        force, _, x, v = rigid_fiber(curves, params, *arguments)
        return FiberOutput(force, x, v, jnp.zeros_like(x), jnp.zeros_like(x))
    w, missed = _in_equilibrium(curves, params, *arguments)
    x = hill.fiber_length(params, w)
    v = _carried(params, w, x, musculotendon_velocity)
    force = params.max_isometric_force * hill.force_along_tendon(curves, params, activation, w, x, v)
    return FiberOutput(force, x, v, hill.tendon_length(params, musculotendon_length, w) - 1.0, missed)


def _mismatch(curves: Curves, given: Inputs, w: Array, x: Array, v: Array) -> Array:
    """Tendon length that would carry the fiber's force, minus the length the tendon has; in slack lengths."""
    force = hill.force_along_tendon(curves, given.params, given.activation, w, x, v)
    taut = curves.tendon_length(force, given.params.tendon_strain_at_one_norm_force)
    return taut - hill.tendon_length(given.params, given.musculotendon_length, w)


def _rigid_along_tendon(params: MuscleParams, musculotendon_length: Array) -> Array:
    """``w`` with the tendon at slack length, smoothly kept above the shortest fiber (exact to 1e-8 from 0.15 above)."""
    w = (musculotendon_length - params.tendon_slack_length) / params.optimal_fiber_length
    low, k = hill.shortest(params), 100.0
    return low + jnp.logaddexp(0.0, k * (w - low)) / k


def rigid_fiber(
    curves: Curves,
    params: MuscleParams,
    activation: Array,
    musculotendon_length: Array,
    musculotendon_velocity: Array,
) -> tuple[Array, Array, Array, Array]:
    """Tendon force (N), length along the tendon, fiber length and velocity of a fiber that its musculotendon moves.

    All ``(M,)``; lengths and velocity normalised.
    """
    w = _rigid_along_tendon(params, musculotendon_length)
    x = hill.fiber_length(params, w)
    v = _carried(params, w, x, musculotendon_velocity)
    force = hill.rigid_fiber_force(curves, params, activation, x, v) * (w / x)
    return params.max_isometric_force * force, w, x, v


def fiber_step(
    tendon: Tendon,
    integrator: Integrator,
    iterations: int,
    curves: Curves,
    params: MuscleParams,
    state: FiberState,
    activation: Array,
    musculotendon_length: Array,
    musculotendon_velocity: Array,
    dt: Array | float,
) -> tuple[FiberState, FiberOutput]:
    """Advance every fiber by ``dt``.

    Args:
        tendon: "rigid" (fiber length follows the musculotendon), "elastic" (fiber length is solved for), or a tuple
            with one of them per muscle; only the elastic ones are solved.
        integrator: of the elastic tendon: "bdf2" (second order; for calibration) or "backward_euler".
        iterations: the most that the elastic tendon may take.
        curves: the muscle family.
        params: ``(M,)`` leaves.
        state: from ``initial_fiber`` or the last step.
        activation: ``(M,)`` at the end of the step.
        musculotendon_length: ``(M,)`` m, at the end of the step.
        musculotendon_velocity: ``(M,)`` m/s; only the rigid tendon uses it.
        dt: s.

    Returns:
        The state and the output at the end of the step.

    Raises:
        InputError: ``tendon`` does not have one kind per muscle (raised while tracing).
    """
    if not isinstance(tendon, str):
        return _by_kind(
            tendon,
            lambda kind, params, state, activation, length, velocity: fiber_step(
                kind, integrator, iterations, curves, params, state, activation, length, velocity, dt
            ),
            params,
            (state, activation, musculotendon_length, musculotendon_velocity),
        )
    f0 = params.max_isometric_force
    if tendon == "rigid":
        force, w, x, v = rigid_fiber(curves, params, activation, musculotendon_length, musculotendon_velocity)
        new = FiberState(along_tendon=w, length=x, previous_length=state.length)
        return new, FiberOutput(force, x, v, jnp.zeros_like(x), jnp.zeros_like(x))

    def velocity(x: Array, given: Inputs) -> Array:
        past: Any = given.state
        lengths = (x, past.length, past.previous_length)
        change = sum(weight * length for weight, length in zip(VELOCITY_WEIGHTS[integrator], lengths, strict=False))
        return change / (given.dt * given.params.max_contraction_velocity)

    def residual(w: Array, given: Inputs) -> Array:
        x = hill.fiber_length(given.params, w)
        return _mismatch(curves, given, w, x, velocity(x, given))

    inputs = Inputs(params, state, activation, musculotendon_length, dt)
    frozen = jax.lax.stop_gradient(inputs)
    low, high = _bracket(frozen.params, frozen.musculotendon_length)
    # Whoever extends MuscleParams may have leaves that do not follow the muscles; the search needs none of them.
    own = {f.name: getattr(frozen.params, f.name) for f in dataclasses.fields(MuscleParams)}
    given = dataclasses.replace(frozen, params=MuscleParams(**own))
    search = _in_one_row(lambda of, guess, low, high: _root(residual, of, guess, low, high, iterations))
    w = search(given, _guess(integrator, frozen.state), low, high)
    w, miss = _with_implicit_derivative(residual, inputs, w)
    x = hill.fiber_length(params, w)
    lt = hill.tendon_length(params, musculotendon_length, w)
    force = f0 * curves.tendon_force(lt, params.tendon_strain_at_one_norm_force)
    new = FiberState(along_tendon=w, length=x, previous_length=state.length)
    return new, FiberOutput(force, x, velocity(x, inputs), lt - 1.0, miss)


def _guess(integrator: Integrator, past: Any) -> Array:
    """``w`` of a fiber that goes on shortening as it did, or stops lengthening.

    Of the two, the shorter: the residual bends down, and iterations that come from below do not leap.
    """
    change = past.length - past.previous_length
    stop = change / 3.0 if integrator == "bdf2" else 0.0
    return past.along_tendon + jnp.minimum(change, stop) * past.length / past.along_tendon


def equilibrium_velocity(
    curves: Curves, params: MuscleParams, activation: Array, fiber_length: Array, musculotendon_length: Array
) -> Array:
    """Fiber velocity at which a fiber of given length balances its tendon (Millard et al. 2013, 10.1115/1.4023390).

    Solves ``a fl(x) fv(v) + fp(x) + damping v = ft(l_T) / cos(pennation)`` for ``v``. The left side grows with ``v``
    wherever ``damping`` is positive, so there is one solution, between 0 and where damping alone would carry what is
    missing at rest. Derivatives are those of the implicit function.

    Args:
        curves: the muscle family.
        params: ``(M,)`` leaves; ``fiber_damping`` must be positive (a passive fiber without damping has no velocity).
        activation: ``(M,)``
        fiber_length: ``(M,)`` over ``optimal_fiber_length``.
        musculotendon_length: ``(M,)`` m.

    Returns:
        ``(M,)`` over ``max_contraction_velocity * optimal_fiber_length``, positive lengthening.
    """

    def residual(v: Array, given: tuple[MuscleParams, Array, Array, Array]) -> Array:
        params, activation, x, musculotendon_length = given
        w = hill.along_tendon(params, x)
        lt = hill.tendon_length(params, musculotendon_length, w)
        tendon = curves.tendon_force(lt, params.tendon_strain_at_one_norm_force)
        return hill.fiber_force(curves, params, activation, x, v) - tendon * (x / w)

    inputs = (params, activation, fiber_length, musculotendon_length)
    frozen = jax.lax.stop_gradient(inputs)
    still = jnp.zeros_like(fiber_length * musculotendon_length)
    missing = -residual(still, frozen) / _positive(frozen[0].fiber_damping)
    # Without activation the solution is the end of this bracket itself; leave it some room.
    v = _bisect(residual, frozen, jnp.minimum(missing, 0.0) - 0.01, jnp.maximum(missing, 0.0) + 0.01)
    return _with_implicit_derivative(residual, inputs, v)[0]


# ---- which tendons may be rigid; which fibers were not solved ----


@dataclass(frozen=True)
class RigidRule:
    """Which muscles may have a rigid tendon, and why."""

    tendon: tuple[TendonKind, ...]
    """as ``fiber_step`` takes it"""
    stretch: tuple[float, ...]
    """tendon stretch at maximum isometric force over optimal fiber length, per muscle"""
    text: str
    """the rule, and a line per muscle"""


def rigid_by_rule(params: MuscleParams, muscles: Sequence[str], largest_stretch: float = 0.025) -> RigidRule:
    """Rigid tendons for muscles whose tendon stretches little compared with their fibers.

    The stretch at maximum isometric force is ``tendon_strain_at_one_norm_force * tendon_slack_length /
    optimal_fiber_length``. It decides the error: in simulations with slack-to-fiber ratios of 0.2 to 8 and tendon
    strains of 0.033 to 0.1 (lengths swinging by 0.15 optimal fiber lengths at 1.5 Hz under steps, ramps and bursts of
    excitation), a rigid tendon erred by 0.8 to 1.05 times the stretch, in units of maximum isometric force (RMS), for
    stretches up to 0.1 (``test_the_stretch_tells_the_error_of_a_rigid_tendon``). Zajac 1989 (Crit Rev Biomed Eng
    17:359-411) calls a musculotendon of slack-to-fiber ratio 1 stiff, and Millard et al. 2013 (10.1115/1.4023390)
    find a rigid tendon to match an elastic one where the tendon is short; ratio 1 is a stretch of 0.049 at OpenSim's
    strain of 4.9 %. Our default is half of that.

    Args:
        params: ``(M,)`` leaves.
        muscles: their M names.
        largest_stretch: of a rigid tendon; about the RMS error of force to put up with, in maximum isometric forces.

    Raises:
        InputError: as many names as muscles are needed; ``largest_stretch`` must not be negative.
    """
    ratio = np.asarray(params.tendon_slack_length) / np.asarray(params.optimal_fiber_length)
    stretch = np.asarray(params.tendon_strain_at_one_norm_force) * ratio
    if len(muscles) != len(stretch):
        raise InputError(f"{len(muscles)} names for {len(stretch)} muscles; there are {listed(muscles)}")
    if not largest_stretch >= 0:
        raise InputError(f"largest_stretch is {largest_stretch}; use 0 (all elastic) or more, such as 0.025")
    tendon: tuple[TendonKind, ...] = tuple("rigid" if x <= largest_stretch else "elastic" for x in stretch)
    lines = [
        f"A tendon is rigid where it stretches by at most {largest_stretch:g} optimal fiber lengths at maximum "
        "isometric force (strain at that force x slack length / optimal fiber length). That is also about the RMS "
        "error of force that a rigid tendon causes, in maximum isometric forces.",
        *(
            f"{name}: slack-to-fiber ratio {r:.2f}, stretch {x:.3f}: {kind}"
            for name, r, x, kind in zip(muscles, ratio, stretch, tendon, strict=True)
        ),
    ]
    return RigidRule(tendon, tuple(float(x) for x in stretch), "\n".join(lines))


def unsolved(residual: Array, tolerance: float | None = None) -> Array:
    """Where the fiber equation was not solved: a mask of the shape of ``residual``. Not a number counts as unsolved.

    Args:
        residual: of ``FiberOutput``, in tendon slack lengths.
        tolerance: 1e-6 in float64 and 1e-3 in float32 unless told.
    """
    if tolerance is None:
        tolerance = 1e-6 if residual.dtype == jnp.float64 else 1e-3
    return ~(jnp.abs(residual) <= tolerance)


def unsolved_report(residual: Any, muscles: Sequence[str], tolerance: float | None = None) -> str:
    """A sentence that names the muscles whose equation was not solved in a run ``(T, M)``; empty if there are none."""
    residual = np.asarray(residual)
    bad = np.asarray(unsolved(jnp.asarray(residual), tolerance)).reshape(-1, residual.shape[-1])
    worst = np.abs(residual).reshape(bad.shape).max(axis=0)
    found = [
        f"{name} ({bad[:, i].sum()} of {len(bad)} steps, {worst[i]:.1e})"
        for i, name in enumerate(muscles)
        if bad[:, i].any()
    ]
    if not found:
        return ""
    return (
        f"The fiber equation was not solved in {', '.join(found)} (worst residual in tendon slack lengths). Use more "
        "iterations or a smaller time step, or check tendon slack and optimal fiber length against the muscle's path."
    )
