"""Calibrations that CEINMS's files describe, with CEINMS's own model or ours.

CEINMS (Pizzolato et al. 2015, 10.1016/j.jbiomech.2015.09.021) anneals. Here a muscle's parameters move only its own
force, so six derivatives, one per kind of parameter, give the Jacobian of every torque, and some hundred damped
Gauss-Newton steps (``levenberg_marquardt``) do what takes annealing 140,000 evaluations.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from calibration.ceinms.model import (
    KINDS,
    MAX_RHO,
    CeinmsFrames,
    CeinmsModel,
    CeinmsParams,
    ceinms_derivatives,
    ceinms_forward,
    ceinms_objective,
    ceinms_params,
    ceinms_structure,
    make_frames,
    subject_params,
)
from calibration.fitting import Status, fit
from calibration.problem import Free, Layout, Penalties, Problem, make_layout, params_at
from calibration.residuals import Quadratic
from calibration.solvers import levenberg_marquardt
from calibration.solvers.levenberg_marquardt import Search
from calibration.validation import Metrics, compare
from nms_gym._pytree import replace
from nms_gym.errors import InputError, listed, near
from nms_gym.files.ceinms import calibrated_ceinms_subject, ceinms_model
from nms_gym.model.parameters import NmsParams
from nms_gym.model.replay import make_segment
from nms_gym.recording.ceinms import CeinmsExcitations, CeinmsSubject, load_ceinms_trial, read_ceinms_trial
from nms_gym.recording.ceinms_calibration import (
    CEINMS_PARAMETERS,
    CeinmsCalibration,
    CeinmsFree,
    CeinmsStep,
    read_ceinms_calibration,
)
from nms_gym.recording.trial import Trial

# ---------------------------------------------------------------------------------------------- the problem

# Prior standard deviations, in log units but for the shape factor: half of what CEINMS's customary ranges span for the
# lengths and strengths, and next to nothing known about filter and shape.
PRIOR_SD: Mapping[str, float] = {
    "filter_time_constant_1": 1.0,
    "filter_time_constant_2": 1.0,
    "shape_factor": 1.0,
    "optimal_fiber_length": 0.05,
    "tendon_slack_length": 0.05,
    "pennation_at_optimal": 0.1,
    "max_contraction_velocity": 0.2,
    "max_isometric_force": 0.5,
}
# Torques this close, in standard deviations, make the prior weak beside them; fibers stay inside CEINMS's range.
WEAK = Penalties(moment_tolerance=0.05, fiber_length_range=(0.52, 1.48), fiber_length_tolerance=0.005)


def ceinms_problem(
    calibration: CeinmsCalibration,
    subject: CeinmsSubject,
    excitations: CeinmsExcitations,
    recordings: Sequence[Trial],
    *,
    step: int = 0,
    penalties: Penalties = WEAK,
) -> Problem:
    """What a calibration file leaves free, as a problem for our own model: curves through the subject's points.

    Muscles that share a value keep the proportions they start with, where CEINMS makes them equal; and where muscles
    that start differently have an absolute range, all get the part of it that is reached by a common factor.

    Args:
        calibration: from ``read_ceinms_calibration``.
        subject: the uncalibrated one.
        excitations: the excitation generator.
        recordings: the trials, from ``load_ceinms_trial``.
        step: which of ``calibration.steps``.
        penalties: of the problem.

    Raises:
        InputError: the step names a joint or muscle that the subject lacks, groups muscles in two ways, or has a range
            without the start in it; see also ``Problem``.
    """
    chosen = calibration.steps[step]
    where = f"{calibration.path}: step {step + 1}"
    strange = [dof for dof in chosen.dofs if dof not in subject.dofs]
    if strange:
        raise InputError(f"{where}: no joint {listed(strange)} in {subject.path}; {near(strange[0], subject.dofs)}")
    dt = _emg_step(recordings)
    tendon = "rigid" if calibration.tendon == "stiff" else "elastic"
    model, start = ceinms_model(subject, excitations, dt=dt, tendon=tendon)
    groups: dict[str, tuple[str, ...]] = {}
    for free in chosen.free:
        groups |= {"+".join(group): group for group in free.groups}
    return Problem(
        model=model,
        start=start,
        segments=tuple(make_segment(model, trial, coordinates=chosen.dofs) for trial in recordings),
        free=tuple(_free(free, chosen, subject, start, dt, where) for free in chosen.free),
        groups=groups,
        penalties=penalties,
    )


def _emg_step(recordings: Sequence[Trial]) -> float:
    """s; the interval that filter coefficients belong to."""
    if not recordings:
        raise InputError("nothing to calibrate on: no trial; give at least one")
    steps = [float(trial.emg_time[1] - trial.emg_time[0]) for trial in recordings]
    if max(steps) - min(steps) > 1e-6:
        raise InputError(
            f"trials have EMG every {min(steps):g} to {max(steps):g} s; CEINMS's filter needs one interval"
        )
    return round(steps[0], 9)


def _free(free: CeinmsFree, step: CeinmsStep, subject: CeinmsSubject, start: NmsParams, dt: float, where: str) -> Free:
    """One parameter of the file in our terms."""
    where = f"{where}: parameter {free.name!r}"
    names = subject.muscle_names
    grouped = [muscle for group in free.groups for muscle in group]
    strange = [muscle for muscle in grouped if muscle not in names]
    if strange:
        raise InputError(f"{where}: no muscle {listed(strange)} in {subject.path}; {near(strange[0], names)}")
    crossing = [m for m in names if any(m in subject.dofs[dof] for dof in step.dofs)]
    only = tuple(m for m in crossing if not grouped or m in grouped)
    if not only:
        raise InputError(f"{where}: its muscles cross none of {listed(step.dofs)}; name others")
    kind, relative = CEINMS_PARAMETERS[free.name], free.name != "shapeFactor"
    ranges = []
    for name in only:
        muscle = subject.muscles[names.index(name)]
        value = _ceinms_value(free.name, muscle)
        ends = sorted(bound if free.absolute else bound * value for bound in free.bounds)
        if not ends[0] - 1e-12 <= value <= ends[1] + 1e-12:
            raise InputError(
                f"{where}: {name!r} starts at {value:g}, outside its range {ends[0]:g} to {ends[1]:g}; widen the range "
                "or change the subject"
            )
        if free.name in ("c1", "c2"):
            if not -1 < ends[0] < ends[1] < 0:
                raise InputError(f"{where}: range {ends[0]:g} to {ends[1]:g}; allowed between -1 and 0, both excluded")
            # A coefficient nearer to -1 is a slower filter.
            ends = [float(np.log(-value) / np.log(-end)) for end in reversed(ends)]
        elif relative:
            ends = [end / value for end in ends]
        ranges.append(ends)
    low, high = max(ends[0] for ends in ranges), min(ends[1] for ends in ranges)
    if relative:
        low, high = min(low, 1.0), max(high, 1.0)
    share = {"single": "each", "global": "all", "muscleGroups": "groups"}[free.share]
    return Free(kind, (low, high), PRIOR_SD[kind], relative, share, only)


def _ceinms_value(name: str, muscle: Any) -> float:
    kinds = {"c1": "c1", "c2": "c2", "strengthCoefficient": "strength_coefficient"}
    return float(getattr(muscle, kinds.get(name, CEINMS_PARAMETERS[name])))


# ---------------------------------------------------------------------------------------------- calibration

# Least iterations of one start with a stiff and with an elastic tendon, and how much a unit of f counts beside the
# prior: from a regularised to an almost free fit. A strong prior first brings every start into one valley.
ITERATIONS = {False: 240, True: 145}
FIRST_WEIGHT, LAST_WEIGHT, RAMP = 100.0, 1e6, 0.4
# One after another, the tendon slack lengths are mirrored at their start: a long tendon that hangs slack and a short
# one are two valleys, and no derivative leads from one to the other. Every so many iterations, until this part of them,
# which by default are as many as it takes for all muscles; kept if f grows by no more than this part.
FLIP_EVERY, FLIPPED, FLIP_TOLERANCE = 4, 0.8, 0.02
# A fiber pays 100 rho^2 from rho = 0.5 on, a jump. Instead: BARRIER^2 (rho - 0.498)^2 from 0.498 on.
BARRIER, MARGIN = 150.0, 0.002
# A search has converged when f fell by less than this part of it in its last so many iterations.
SETTLED, SETTLED_DECREASE = 10, 1e-3
# Spread of the starting points, in prior standard deviations; the first start is the subject itself.
SPREAD = 0.1
# Damping by the geometric mean of each entry's own curvature and the largest, this part of it: pure Marquardt scaling
# lets entries that hardly matter run to their bounds.
SCALE = 0.1
# Compiles in a third of the time and runs as fast: the kernels are many and small.
COMPILER = {
    "xla_backend_optimization_level": 1,
    "xla_cpu_use_fusion_emitters": False,
    "xla_llvm_disable_expensive_passes": True,
}


@dataclass(frozen=True)
class CeinmsFit:
    """A calibration that CEINMS's files describe, done.

    Attributes:
        subject: with the calibrated parameters; of the last step that was finite.
        params: the same in our terms.
        muscles: names of the muscles in ``params``.
        status: how the last step ended; nothing of a fit that is not finite is of use.
        dt: s, between samples of EMG.
        layout: what was free; of the last step.
        z: (P,) prior standard deviations from the start; of the last step.
        all_z: (starts, P).
        costs: (starts,) CEINMS's f with the barrier instead of the penalty (model "ceinms"), or the cost of ``fit``.
        history: (iterations, starts) of the same.
        scores: of the trials fitted and held out, where some were; see ``score_trials``.
    """

    subject: CeinmsSubject
    params: NmsParams
    muscles: tuple[str, ...]
    status: Status
    dt: float
    layout: Layout
    z: np.ndarray
    all_z: np.ndarray
    costs: np.ndarray
    history: np.ndarray
    scores: tuple[TrialScore, ...] = ()


def calibrate_ceinms(
    calibration: str | os.PathLike[str] | CeinmsCalibration,
    subject: CeinmsSubject,
    excitations: CeinmsExcitations,
    *,
    model: Literal["ceinms", "nms_gym"] = "ceinms",
    starts: int = 1,
    seed: int | None = None,
    iterations: int | None = None,
    weight: float = LAST_WEIGHT,
    penalties: Penalties = WEAK,
    recordings: Sequence[Trial] | None = None,
    held_out: Sequence[Trial | str | os.PathLike[str]] = (),
) -> CeinmsFit:
    """Calibrate what a CEINMS calibration file says, on the trials that it names. In float64, whatever JAX's setting.

    Args:
        calibration: the file, or what ``read_ceinms_calibration`` made of it.
        subject: the uncalibrated one.
        excitations: the excitation generator.
        model: "ceinms" fits CEINMS's own model to its own objective; "nms_gym" fits ours with the same curves, ranges
            and groups (``ceinms_problem``, ``calibration.fitting.fit``).
        starts: solutions sought side by side; the best wins.
        seed: of the starts. None: the first is the subject itself and the others are drawn around it.
        iterations: of the model per start; by default 240 with a stiff tendon, 145 with an elastic one, more where
            that does not reach the slack lengths of all muscles, and what ``fit`` does by itself for "nms_gym".
        weight: of f beside the prior, at the end. 1e6 finds the least f, 1e3 stays near the subject.
        penalties: of the problem, for "nms_gym".
        recordings: instead of the trials that the file names.
        held_out: trials to score beside the fitted ones, see ``divide_trials``; one of those to fit is left out of the
            fit.

    Raises:
        InputError: an unknown model, no start or iteration, or files that do not fit together.
    """
    if model not in ("ceinms", "nms_gym"):
        raise InputError(f"no model {model!r}; use 'ceinms' or 'nms_gym'")
    for name, value in (
        ("starts", starts),
        ("iterations", 1 if iterations is None else iterations),
        ("weight", weight),
    ):
        if not value > 0:
            raise InputError(f"{name} is {value}; it must be positive")
    if not isinstance(calibration, CeinmsCalibration):
        calibration = read_ceinms_calibration(calibration)
    if calibration.activation != "exponential":
        raise InputError(
            f"{calibration.path}: activation {calibration.activation!r}; only 'exponential' can be computed"
        )
    recordings, unseen = divide_trials(calibration, subject, excitations, held_out, recordings)
    _emg_step([*recordings, *unseen])
    start, result = subject, None
    for i, step in enumerate(calibration.steps):
        problem = ceinms_problem(calibration, subject, excitations, recordings, step=i, penalties=penalties)
        layout, dt = make_layout(problem), _emg_step(recordings)
        if model == "nms_gym":
            found = fit(problem, starts=starts, seed=seed or 0, max_iterations=iterations)
            params, z, all_z, costs, history = found.params, found.z, found.all_z, found.costs, found.history
            status = found.status
        else:
            structure = ceinms_structure(subject, calibration.tendon, calibration.path)
            frames = tuple(make_frames(trial, subject, excitations, step.dofs) for trial in recordings)
            z0 = _starting_points(layout, starts, seed)
            schedule = _schedule(layout, iterations or _enough(layout, structure.elastic), weight)
            with jax.enable_x64(True):
                search = _make_search(layout, structure, dt)
                all_z, history = map(np.asarray, search(problem.start, frames, z0, *schedule))
                winner = int(np.argmin(np.where(np.isfinite(history[-1]), history[-1], np.inf)))
                z = all_z[winner]
                params = jax.tree.map(np.asarray, _at(layout, problem.start, z))
            costs, status = history[-1], _status(history[:, winner], z)
        if status is not Status.NOT_FINITE:
            subject = calibrated_ceinms_subject(subject, params, subject.muscle_names, dt=dt)
        result = CeinmsFit(subject, params, subject.muscle_names, status, dt, layout, z, all_z, costs, history)
        if status is Status.NOT_FINITE:
            break
    assert result is not None  # the reader lets no file without steps through
    if not unseen or result.status is Status.NOT_FINITE:
        return result
    people = {"uncalibrated": start, "calibrated": result.subject}
    scores = score_trials(people, excitations, recordings, unseen, calibration.tendon, calibration.path)
    return replace(result, scores=scores)


def divide_trials(
    calibration: CeinmsCalibration,
    subject: CeinmsSubject,
    excitations: CeinmsExcitations,
    held_out: Sequence[Trial | str | os.PathLike[str]] = (),
    recordings: Sequence[Trial] | None = None,
) -> tuple[tuple[Trial, ...], tuple[Trial, ...]]:
    """The trials to fit and those held out.

    Args:
        calibration: whose trials are fitted.
        subject: whose muscles and joints are wanted.
        excitations: the excitation generator.
        held_out: recordings; names of trials that the calibration has (that of their folder, or the file as it is named
            there), which are then not fitted; or ``inputData`` files, found from here or from the calibration file.
        recordings: instead of the trials that the file names; ``held_out`` may name these.

    Raises:
        InputError: a name that is no trial and no file, or of several; nothing is left to fit.
    """

    def load(file: Path) -> Trial:
        return load_ceinms_trial(read_ceinms_trial(file), subject, excitations)

    home = Path(calibration.path).parent
    fitted: dict[Any, Path | Trial]
    if recordings is None:
        fitted = {t.resolve(): t for t in calibration.trials}
        names = [(t.resolve().parent.name, t.name, str(t), os.path.relpath(t, home)) for t in calibration.trials]
    else:
        fitted = dict(enumerate(recordings))
        names = [(t.name,) for t in recordings]
    unseen: list[Path | Trial] = []
    for wanted in held_out:
        if isinstance(wanted, Trial):
            unseen.append(wanted)
            continue
        found = [key for key, known in zip(fitted, names, strict=True) if str(wanted) in known]
        if len(found) > 1:
            raise InputError(
                f"held-out trial {str(wanted)!r}: {len(found)} trials have this name; give the file's path"
            )
        files = [path for path in (Path(wanted), home / wanted) if path.is_file()]
        if not found and files and files[0].resolve() in fitted:
            found = [files[0].resolve()]
        if not (found or files):
            advice = near(str(wanted), [name[0] for name in names])
            raise InputError(f"held-out trial {str(wanted)!r} is no file and no trial of {calibration.path}; {advice}")
        unseen.append(fitted[found[0]] if found else files[0])
    left = [trial for trial in fitted.values() if not any(trial is other for other in unseen)]
    if not left:
        raise InputError(
            f"{calibration.path}: nothing to calibrate on: no trial that is not held out; give at least one"
        )
    seen, rest = (tuple(t if isinstance(t, Trial) else load(t) for t in trials) for trials in (left, unseen))
    return seen, rest


def _status(history: np.ndarray, z: np.ndarray) -> Status:
    """How a search ended, from its f ``(iterations,)`` and its last point."""
    if not (np.isfinite(history[-1]) and np.isfinite(z).all()):
        return Status.NOT_FINITE
    before = history[-1 - SETTLED] if len(history) > SETTLED else np.inf
    return Status.CONVERGED if before - history[-1] <= SETTLED_DECREASE * history[-1] else Status.MAX_ITERATIONS


def _starting_points(layout: Layout, starts: int, seed: int | None) -> np.ndarray:
    draws = SPREAD * np.random.default_rng(seed or 0).standard_normal((starts, layout.size))
    if seed is None:
        draws[0] = 0.0
    return np.clip(draws, 0.9 * layout.low, 0.9 * layout.high)


def _schedule(layout: Layout, iterations: int, weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Weight of f, and which entry to flip (or -1), of every iteration."""
    ramp = max(int(RAMP * iterations), 1)
    weights = np.append(np.geomspace(min(FIRST_WEIGHT, weight), weight, ramp), np.full(iterations - ramp, weight))
    flips = np.full(iterations, -1, np.int32)
    chosen = _slack_lengths(layout)
    places = np.arange(ramp, int(FLIPPED * iterations), FLIP_EVERY)
    count = min(len(places), len(chosen))
    flips[places[:count]] = chosen[:count]
    return weights, flips


def _slack_lengths(layout: Layout) -> list[int]:
    return [i for i, kind in enumerate(layout.kinds) if kind == "tendon_slack_length"]


def _enough(layout: Layout, elastic: bool) -> int:
    """Iterations by default: as many as it takes to mirror the slack length of every muscle."""
    mirrored = math.ceil(FLIP_EVERY * len(_slack_lengths(layout)) / (FLIPPED - RAMP))
    return max(ITERATIONS[elastic], mirrored + FLIP_EVERY)


def _at(layout: Layout, start: NmsParams, z: np.ndarray) -> NmsParams:
    """``params_at`` in NumPy: one operation at a time would compile each."""
    move = np.append(z * layout.sd, 0.0)
    changed = {
        kind: np.asarray(getattr(start, kind)) * np.exp(move[rows])
        if layout.relative[kind]
        else np.asarray(getattr(start, kind)) + move[rows]
        for kind, rows in layout.index.items()
    }
    return replace(start, **changed)


@functools.lru_cache(maxsize=8)
def _make_search(layout: Layout, model: CeinmsModel, dt: float) -> Callable[..., Any]:
    """Compiled: ``(start, trials, z0 (starts, P), weights (iterations,))`` to where starts end, and f on the way."""
    data = make_ceinms_quadratic(layout, model, dt)
    low, high = layout.low, layout.high

    def iterate(start: Any, trials: Any, state: tuple[Array, ...], weight: Array, flip: Array) -> tuple[Array, ...]:
        """A step of ``levenberg_marquardt`` with a damping of our own: it keeps the step bold where half of what the
        model promised comes true, which piecewise cubic curves and a barrier do even near the minimum."""
        z, f, slope, curvature, damping, growth = state
        eye = jnp.eye(layout.size, dtype=z.dtype)
        # Before the first evaluation f is infinite: stay, and accept what is found there.
        gradient = jnp.where(jnp.isfinite(f), weight * slope + z, 0.0)
        matrix = weight * curvature + eye
        own = jnp.diag(matrix)
        damped = matrix + jnp.diag(damping * SCALE * jnp.sqrt(own * jnp.max(own)))
        flipping = flip >= 0
        allowed = jnp.where(flipping, 1.0 + FLIP_TOLERANCE, 1.0)
        at = Quadratic(allowed * 0.5 * (weight * f + z @ z), gradient, damped)
        flipped = jnp.clip(jnp.where(jnp.arange(layout.size) == flip, -z, z), low, high)

        def quadratic(z: Array) -> Quadratic:
            z = jnp.where(flipping, flipped, z)
            q = data(start, trials, z)
            return Quadratic(0.5 * (weight * q.cost + z @ z), q.gradient, q.matrix)

        before = replace(levenberg_marquardt.begin(z), at=at, damping=jnp.zeros_like(f))
        after: Search = levenberg_marquardt.iterate(quadratic, jnp.asarray(low), jnp.asarray(high), 0.0, before)
        moved, gained = after.z - z, at.cost - after.at.cost
        accepted = gained > 0
        z = jnp.where(accepted, jnp.where(flipping, flipped, after.z), z)
        promised = -(gradient @ moved + 0.5 * moved @ matrix @ moved)
        ratio = gained / jnp.where(promised > 0, promised, 1.0)
        lower = jnp.where(ratio > 0.5, 1.0 / 3.0, jnp.where(ratio > 0.2, 0.7, 1.5))
        f = jnp.where(accepted, (2.0 * after.at.cost - z @ z) / weight, f)
        lower, growth = jnp.where(flipping, 1.0, lower), jnp.where(flipping, 1.0, growth)
        return (
            z,
            f,
            jnp.where(accepted, after.at.gradient, slope),
            jnp.where(accepted, after.at.matrix, curvature),
            jnp.clip(damping * jnp.where(accepted, lower, growth), 1e-9, 1e12),
            jnp.where(accepted | flipping, 2.0, 2.0 * growth),
        )

    def search(start: Any, trials: Any, z0: Array, weights: Array, flips: Array) -> tuple[Array, Array]:
        one = jnp.ones(z0.shape[:1], z0.dtype)
        nothing = jnp.zeros((*z0.shape, layout.size), z0.dtype)
        state = (z0, jnp.inf * one, jnp.zeros_like(z0), nothing, 1e-2 * one, 2.0 * one)

        def step(state: tuple[Array, ...], given: tuple[Array, Array]) -> tuple[tuple[Array, ...], Array]:
            state = jax.vmap(iterate, in_axes=(None, None, 0, None, None))(start, trials, state, *given)
            return state, state[1]

        state, history = jax.lax.scan(step, state, (weights, flips))
        return state[0], history

    return jax.jit(search, compiler_options=COMPILER)


def make_ceinms_quadratic(layout: Layout, model: CeinmsModel, dt: float) -> Callable[..., Quadratic]:
    """``(start, trials, z)`` to f with a barrier instead of the penalty, half its gradient, and half its Gauss-Newton
    matrix, over z. Pure: jit, batch.

    f is the mean over trials. The rho of the barrier is that of ``ceinms_objective``; a frame without a root costs
    nothing here.
    """
    colors = np.arange(layout.colors.max() + 1)
    seeds = np.equal.outer(colors, layout.colors).astype(float)
    picks = np.einsum("cp,pm->cmp", seeds, layout.moves)
    kinds = tuple(kind for kind in KINDS if CEINMS_PARAMETERS.get(kind, kind) in layout.index)

    def quadratic(start: NmsParams, trials: tuple[CeinmsFrames, ...], z: Array) -> Quadratic:
        def at(z: Array) -> CeinmsParams:
            return ceinms_params(params_at(layout, start, z), dt)

        def along(seed: Array) -> tuple[CeinmsParams, CeinmsParams]:
            return jax.jvp(at, (z,), (seed,))

        pick = jnp.asarray(picks, z.dtype)
        params, moved = jax.vmap(along, out_axes=(None, 0))(jnp.asarray(seeds, z.dtype))
        change = jnp.stack([getattr(moved, kind) for kind in kinds], axis=1)
        l0, d_l0 = params.optimal_fiber_length, moved.optimal_fiber_length
        f, gradient, matrix = jnp.zeros((), z.dtype), jnp.zeros_like(z), jnp.zeros((len(z), len(z)), z.dtype)
        for frames in trials:
            out, in_length, in_force = ceinms_derivatives(model, params, frames, kinds)
            part = 1.0 / (len(trials) * len(frames.lengths))
            scale = jnp.sqrt(part / jnp.var(frames.measured, axis=0, ddof=1))
            arms = frames.moment_arms * scale[None, :, None]
            error = jnp.einsum("tkm,tm->tk", arms, out.force) - frames.measured * scale[None]
            d_force = jnp.einsum("ckm,tkm->tcm", change, in_force)
            jacobian = jnp.einsum("tkm,tcm,cmp->tkp", arms, d_force, pick, optimize=[(0, 1), (0, 1)])
            jacobian = jacobian.reshape(-1, len(z))
            normal = out.fiber_length / l0[None]
            d_normal = jnp.einsum("ckm,tkm->tcm", change, in_length) / l0[None, None]
            d_normal = d_normal - normal[:, None] * (d_l0 / l0[None])[None]
            strength = BARRIER * part**0.5
            beyond = strength * jnp.maximum(jnp.abs(normal - 1.0) - (MAX_RHO - MARGIN), 0.0)
            d_beyond = jnp.where(beyond > 0, strength * jnp.sign(normal - 1.0), 0.0)[:, None] * d_normal
            slope = jnp.einsum("tcm,tm->cm", d_beyond, beyond)
            pairs = jnp.einsum("tcm,tdm->cdm", d_beyond, d_beyond)
            f = f + jnp.sum(error**2) + jnp.sum(beyond**2)
            gradient = gradient + jacobian.T @ error.ravel() + jnp.einsum("cm,cmp->p", slope, pick)
            matrix = matrix + jacobian.T @ jacobian
            matrix = matrix + jnp.einsum("cmp,cmq->pq", pick, jnp.einsum("cdm,dmq->cmq", pairs, pick))
        return Quadratic(f, gradient, matrix)

    return quadratic


# ---------------------------------------------------------------------------------------------- scores

_objective = jax.jit(
    lambda model, params, frames: (ceinms_objective(model, params, frames), ceinms_forward(model, params, frames)),
    static_argnums=0,
)


@dataclass(frozen=True)
class CeinmsScore:
    """What CEINMS would say of a subject on a trial: f with its jumps, and how each joint's torque agrees."""

    objective: float
    joints: tuple[Metrics, ...]

    @property
    def rmse(self) -> Mapping[str, float]:
        """Joint -> root mean square error, N·m."""
        return {joint.coordinate: joint.rmse for joint in self.joints}

    @property
    def r2(self) -> Mapping[str, float]:
        """Joint -> 1 - squared error over variance."""
        return {joint.coordinate: joint.r2 for joint in self.joints}


@dataclass(frozen=True)
class TrialScore:
    """A subject on a trial, by CEINMS's own model."""

    trial: str
    held_out: bool
    person: str
    """"uncalibrated" or "calibrated\""""
    score: CeinmsScore

    def rows(self) -> list[dict[str, Any]]:
        """A row of metrics per joint, as calibrations of ours have them."""
        split = "held-out" if self.held_out else "train"
        labels = {"set": self.person, "split": split, "segment": self.trial, "objective": self.score.objective}
        return [joint.row(**labels) for joint in self.score.joints]


def score_trials(
    people: Mapping[str, CeinmsSubject],
    excitations: CeinmsExcitations,
    fitted: Sequence[Trial],
    held_out: Sequence[Trial],
    tendon: str,
    path: str = "calibration",
) -> tuple[TrialScore, ...]:
    """``score_ceinms`` of subjects by name ("uncalibrated", "calibrated") on the trials fitted, then those held out."""
    return tuple(
        TrialScore(trial.name, unseen, person, score_ceinms(subject, excitations, trial, tendon, path))
        for unseen, trials in ((False, fitted), (True, held_out))
        for trial in trials
        for person, subject in people.items()
    )


def score_ceinms(
    subject: CeinmsSubject, excitations: CeinmsExcitations, recording: Trial, tendon: str, path: str = "calibration"
) -> CeinmsScore:
    """f and agreement of a subject on one trial by CEINMS's own model; ``tendon`` as in calibration files."""
    model = ceinms_structure(subject, tendon, path)
    frames = make_frames(recording, subject, excitations)
    with jax.enable_x64(True):
        f, out = _objective(model, subject_params(subject), frames)
        predicted, measured = np.asarray(out.moments).T, np.asarray(frames.measured).T
    return CeinmsScore(float(f), tuple(map(compare, subject.dofs, predicted, measured)))
