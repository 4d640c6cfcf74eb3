"""Fit polynomial surfaces to muscle paths sampled from a geometric model.

Lengths and moment arms are fitted *together*, one least-squares problem per muscle: a fit to lengths alone leaves
moment arms several times worse, because differentiation magnifies what the lengths hide. Samples fill the whole
range of motion and a margin around it; a fit to one movement is metres wrong outside it.

Wrapped paths can jump, and a polynomial that chases a jump rings everywhere else, so the residuals are weighted by
Huber's function (iteratively reweighted least squares, Huber 1964, Ann Math Stat 35:73-101). Where a sampler's
lengths contradict its moment arms (OpenSim 4.6's ``getLength`` over two cylinders is shorter than its own path) the
moment arms are trusted and lengths give the constant only. Whatever the fit cannot follow is measured on samples of
its own and reported muscle by muscle, with the reason.

Samples come from ``direct_sampler`` (this package's own geometry) or from ``opensim_sampler`` (the real OpenSim).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular
from scipy.stats import qmc

from nms_gym.anatomy import OsimModel, warn_not_modelled
from nms_gym.errors import InputError
from nms_gym.muscle.geometry import PolynomialPaths, SpanGroup, monomials
from nms_gym.muscle.paths import path_sampler

# q (N, D) rad -> lengths (N, M) m and moment arms (N, D, M) m; NaN where the path has no answer.
Sampler = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
# What is being done, steps done, steps in all.
Progress = Callable[[str, int, int], None]

# m. A coordinate belongs to a muscle's span if its moment arm exceeds this anywhere.
SPAN_THRESHOLD = 1e-4
# m, median and 95th percentile: what a fit should reach on samples that it has not seen.
LENGTH_TARGET = (0.2e-3, 1.0e-3)
ARM_TARGET = (0.5e-3, 3.0e-3)
# Errors of this size weigh the same in the joint fit: the targets' medians.
_LENGTH_SCALE, _ARM_SCALE = LENGTH_TARGET[0], ARM_TARGET[0]
# Huber's tuning constant (95 % efficient on Gaussian residuals), the MAD's factor, and the scaled residual below
# which nothing is treated as a jump.
_HUBER, _MAD, _SMALL = 1.345, 1.4826, 0.3
# Reweighting ends when a pass changes the fit by less than this (RMS, in units of the scales), 0.2 to 0.5 um.
_REWEIGHTINGS, _SETTLED = 15, 1e-3
# m. A moment arm that changes by more than this within a quarter of a degree has jumped.
_JUMP = 1e-3
# Poses at which sampled moment arms are compared with differences of lengths, the step in rad, and how many poses are
# sampled between two reports of progress.
_CHECKED, _CHECK_STEP, _BATCH = 9, 1e-3, 512


@dataclass(frozen=True)
class MuscleFit:
    """How well one muscle was fitted, on samples that the fit had not seen, within the range asked for.

    Errors are (median, 95th percentile, maximum) in m; ``arm_error`` is that of the coordinate with the largest
    95th percentile, ``worst_coordinate`` (empty for a muscle without a span).
    """

    muscle: str
    span: tuple[str, ...]
    degree: int
    length_error: tuple[float, float, float]
    arm_error: tuple[float, float, float]
    worst_coordinate: str
    reason: str = ""

    @property
    def good(self) -> bool:
        """Whether the targets are met."""
        return (
            self.length_error[0] < LENGTH_TARGET[0]
            and self.length_error[1] < LENGTH_TARGET[1]
            and self.arm_error[0] < ARM_TARGET[0]
            and self.arm_error[1] < ARM_TARGET[1]
        )


@dataclass(frozen=True)
class FitReport:
    """One ``MuscleFit`` per muscle, and how many poses were fitted to and held out."""

    muscles: tuple[MuscleFit, ...]
    samples: int
    held_out: int

    @property
    def poor(self) -> tuple[MuscleFit, ...]:
        """Muscles that miss the targets, each with its reason."""
        return tuple(fit for fit in self.muscles if not fit.good)

    def table(self) -> str:
        """A text table in mm, muscles that miss the targets marked and explained below."""
        lines = [f"{'muscle':16s} degree  length median   p95    max   arm median   p95    max  span"]
        for fit in self.muscles:
            length = "  ".join(f"{1e3 * e:6.3f}" for e in fit.length_error)
            arm = "  ".join(f"{1e3 * e:6.3f}" for e in fit.arm_error)
            mark = " " if fit.good else "*"
            lines.append(f"{mark}{fit.muscle:15s} {fit.degree:6d}  {length}  {arm}  {', '.join(fit.span)}")
        lines.append(f"mm, on {self.held_out} held-out poses; fitted to {self.samples}")
        lines += [f"* {fit.muscle}: {fit.reason}" for fit in self.poor]
        return "\n".join(lines)


def direct_sampler(model: OsimModel, muscles: Sequence[str], coordinates: Sequence[str]) -> Sampler:
    """Samples from this package's own path geometry; see ``nms_gym.muscle.paths.sample_paths``.

    Warns:
        NotModelledWarning: constraints that hold what ``coordinates`` move.
    """
    warn_not_modelled(model, coordinates, ("constraint", "loop"))
    return path_sampler(model, muscles, coordinates)


def only(sampler: Sampler, muscles: Sequence[str], kept: Sequence[str]) -> Sampler:
    """A sampler of some of the muscles of another, in the order of ``kept``."""
    columns = [list(muscles).index(name) for name in kept]

    def sample(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lengths, arms = sampler(q)
        return lengths[..., columns], arms[..., columns]

    return sample


def ranges_of_motion(poses: Sequence[np.ndarray], margin: float = 0.1, least: float = math.radians(5.0)) -> np.ndarray:
    """(D, 2) what recorded poses (N, D) reach, widened on both sides by ``margin`` of it, and by ``least`` rad (or m)
    at least.
    """
    every = np.concatenate(poses)
    low, high = every.min(axis=0), every.max(axis=0)
    wider = np.maximum(margin * (high - low), least)
    return np.stack([low - wider, high + wider], axis=1)


def contradictions(
    sampler: Sampler, muscles: Sequence[str], coordinates: Sequence[str], ranges: Any, seed: int = 0
) -> dict[str, str]:
    """Muscles whose sampled lengths do not change as their sampled moment arms say, each with the reason.

    A few poses inside ``ranges`` (D, 2), lengths differenced about each: a sampler that moves no joint, or another one,
    shows here. Errors of some millimetres, where a path jumps or where OpenSim miscounts a length, do not.

    Raises:
        InputError: bad ranges.
    """
    muscles, coordinates = tuple(muscles), tuple(coordinates)
    ranges = np.asarray(ranges, dtype=float)
    _check_settings(coordinates, ranges, None, 64, 16, 0.0)
    q = _poses(_seeded(qmc.LatinHypercube, len(coordinates), seed), _CHECKED, ranges)
    steps = np.eye(len(coordinates)) * _CHECK_STEP
    around = np.concatenate([q, *(q + sign * step for step in steps for sign in (1, -1))])
    lengths, arms = _sample(sampler, around, muscles, least=0.0)
    arms, lengths = arms[: len(q)], lengths.reshape(-1, len(q), len(muscles))
    found: dict[str, str] = {}
    for k, name in enumerate(coordinates):
        slopes = -(lengths[1 + 2 * k] - lengths[2 + 2 * k]) / (2 * _CHECK_STEP)
        for index, muscle in enumerate(muscles):
            usable = np.isfinite(slopes[:, index]) & np.isfinite(arms[:, k, index])
            if muscle in found or not usable.any():
                continue
            slope, arm = slopes[usable, index], arms[usable, k, index]
            off, size = np.median(np.abs(slope - arm)), np.median(np.maximum(np.abs(slope), np.abs(arm)))
            if size > _JUMP and off > 0.5 * size:
                found[muscle] = (
                    f"muscle {muscle!r}: its sampled moment arm about {name!r} contradicts its sampled lengths, "
                    f"{1e3 * arm[0]:.1f} mm where the lengths change by {1e3 * slope[0]:.1f} mm per radian"
                )
    return found


def fit_paths(
    sampler: Sampler,
    muscles: Sequence[str],
    coordinates: Sequence[str],
    ranges: Any,
    *,
    degree: int | None = None,
    samples: int = 2048,
    held_out: int = 1024,
    margin_deg: float = 5.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[PolynomialPaths, FitReport]:
    """Fit one polynomial surface per muscle.

    Args:
        sampler: the paths to fit to, columns in the order of ``muscles`` and ``coordinates``.
        muscles: M names.
        coordinates: D names.
        ranges: (D, 2) rad, the range of motion that matters.
        degree: total degree for all muscles; None tries 5 and 6 (up to 8 for muscles over at most two coordinates)
            and takes, per set of coordinates, the lowest with errors below half the targets, else the best.
        samples: poses fitted to; scrambled Sobol points over the ranges widened by the margin (a power of two
            fills best).
        held_out: further poses, inside the ranges, on which the report's errors are measured.
        margin_deg: how far the domain of the surfaces reaches beyond the ranges, on either side.
        seed: of the two sets of poses; the same seed gives the same coefficients.
        progress: called with (what, done, total).

    Returns:
        the surfaces, whose domain is ``ranges`` with the margin, and the errors.

    Raises:
        InputError: bad ranges or settings, or a sampler that returns wrong shapes or hardly any finite values, or
            moment arms that contradict its lengths (``contradictions``).
    """
    muscles, coordinates = tuple(muscles), tuple(coordinates)
    ranges = np.asarray(ranges, dtype=float)
    _check_settings(coordinates, ranges, degree, samples, held_out, margin_deg)
    tell = progress or (lambda what, done, total: None)

    margin = math.radians(margin_deg)
    domain = ranges + np.array([-margin, margin])
    fit_q = _poses(_seeded(qmc.Sobol, len(coordinates), seed), samples, domain)
    test_q = _poses(_seeded(qmc.LatinHypercube, len(coordinates), seed + 1), held_out, ranges)
    odd = contradictions(sampler, muscles, coordinates, ranges, seed)
    if odd:
        raise InputError("; ".join(list(odd.values())[:4]) + ": the sampler does not move these joints as asked")

    def sample(q: np.ndarray, done: int) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for start in range(0, len(q), _BATCH):
            tell("sampling", done + start, samples + held_out)
            parts.append(_sample(sampler, q[start : start + _BATCH], muscles, least=0.0))
        lengths, arms = (np.concatenate(values) for values in zip(*parts, strict=True))
        return _sample(lambda _: (lengths, arms), q, muscles)

    fit_data = sample(fit_q, 0)
    test_data = sample(test_q, samples)
    tell("sampling", samples + held_out, samples + held_out)

    spans: dict[tuple[int, ...], list[int]] = {}
    largest = np.nanmax(np.abs(np.concatenate([fit_data[1], test_data[1]])), axis=0)
    for index in range(len(muscles)):
        span = tuple(int(k) for k in np.flatnonzero(largest[:, index] > SPAN_THRESHOLD))
        spans.setdefault(span, []).append(index)

    groups, arrays, fits = [], [], {}
    done = 0
    for span in sorted(spans, key=lambda span: (-len(span), span)):
        members = spans[span]
        tell("fitting", done, len(muscles))
        chosen, coefficients, errors, contradicted = _fit_group(
            fit_q, fit_data, test_q, test_data, domain, span, members, degree
        )
        groups.append(SpanGroup(tuple(members), span, chosen))
        arrays.append(coefficients)
        for row, index in enumerate(members):
            length, arm, worst = errors[row]
            fit = MuscleFit(
                muscle=muscles[index],
                span=tuple(coordinates[k] for k in span),
                degree=chosen,
                length_error=length,
                arm_error=arm,
                worst_coordinate=coordinates[worst] if span else "",
            )
            if not fit.good:
                if row in contradicted:
                    reason = (
                        "sampled lengths contradict the sampled moment arms (95th percentile "
                        f"{1e3 * length[1]:.1f} mm); the moment arms are trusted"
                    )
                else:
                    reason = _explain(sampler, index, worst, coordinates, ranges, span, chosen)
                fit = MuscleFit(**{**fit.__dict__, "reason": reason})
            fits[index] = fit
        done += len(members)
    tell("fitting", len(muscles), len(muscles))

    paths = PolynomialPaths(
        coefficients=tuple(arrays),
        domain=domain,
        muscles=muscles,
        coordinates=coordinates,
        groups=tuple(groups),
    )
    report = FitReport(tuple(fits[index] for index in range(len(muscles))), samples, held_out)
    return paths, report


def path_errors(
    paths: PolynomialPaths, q: np.ndarray, lengths: np.ndarray, moment_arms: np.ndarray
) -> dict[str, tuple[tuple[float, float, float], tuple[float, float, float], str]]:
    """Errors of fitted surfaces against samples.

    Args:
        paths: the surfaces.
        q: (N, D) rad, inside the domain.
        lengths: (N, M) m.
        moment_arms: (N, D, M) m; NaN samples are left out.

    Returns:
        per muscle: length error and moment-arm error, each (median, 95th percentile, maximum) in m, the second for
        the coordinate where its 95th percentile is largest, and the name of that coordinate.
    """
    result = {}
    domain = np.asarray(paths.domain, dtype=float)
    for group, array in zip(paths.groups, paths.coefficients, strict=True):
        design = _design(q, domain, group.coordinates, group.degree)
        for row, index in zip(np.asarray(array), group.muscles, strict=True):
            length, arm, worst = _errors(design, row, group.coordinates, lengths[:, index], moment_arms[..., index])
            result[paths.muscles[index]] = (length, arm, paths.coordinates[worst])
    return {muscle: result[muscle] for muscle in paths.muscles}


def _check_settings(
    coordinates: tuple[str, ...],
    ranges: np.ndarray,
    degree: int | None,
    samples: int,
    held_out: int,
    margin_deg: float,
) -> None:
    if ranges.shape != (len(coordinates), 2):
        raise InputError(f"ranges have shape {ranges.shape}; expected ({len(coordinates)}, 2), rad")
    for name, (low, high) in zip(coordinates, ranges, strict=True):
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise InputError(f"range of {name!r} is {low:g} to {high:g} rad; it must be finite and increasing")
        if high - low > 4 * math.pi:
            raise InputError(f"range of {name!r} is {low:g} to {high:g}; these look like degrees, radians are expected")
    if degree is not None and not 1 <= degree <= 12:
        raise InputError(f"degree is {degree}; allowed are 1 to 12")
    if samples < 64 or held_out < 16:
        raise InputError(f"samples={samples}, held_out={held_out}; at least 64 and 16 are needed")
    if not 0 <= margin_deg <= 45:
        raise InputError(f"margin_deg is {margin_deg:g}; allowed are 0 to 45 degrees")


def _seeded(engine: Any, dimensions: int, seed: int) -> qmc.QMCEngine:
    # SciPy 1.15 renamed `seed` to `rng`; it still takes the old name, which is the only one that 1.13 knows.
    return engine(dimensions, seed=seed)


def _poses(engine: qmc.QMCEngine, count: int, box: np.ndarray) -> np.ndarray:
    # Sobol points come in powers of two; the first `count` of them still fill the box.
    unit = (
        engine.random_base2(math.ceil(math.log2(count)))[:count]
        if isinstance(engine, qmc.Sobol)
        else engine.random(count)
    )
    return box[:, 0] + (box[:, 1] - box[:, 0]) * unit


def _sample(
    sampler: Sampler, q: np.ndarray, muscles: tuple[str, ...], least: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Samples of the right shapes, of which at least a share ``least`` is finite per muscle."""
    lengths, arms = (np.asarray(values, dtype=float) for values in sampler(q))
    expected = (len(q), len(muscles)), (len(q), q.shape[1], len(muscles))
    if (lengths.shape, arms.shape) != expected:
        raise InputError(
            f"the sampler returned lengths {lengths.shape} and moment arms {arms.shape}; expected {expected[0]} and "
            f"{expected[1]}"
        )
    for index, muscle in enumerate(muscles):
        finite = np.isfinite(lengths[:, index]) & np.isfinite(arms[:, :, index]).all(axis=1)
        if finite.mean() < least:
            raise InputError(
                f"muscle {muscle!r}: only {finite.sum()} of {len(q)} sampled poses have a length and moment arms; "
                "narrow the ranges"
            )
        lowest = lengths[np.isfinite(lengths[:, index]), index].min(initial=np.inf)
        if lowest <= 0:
            raise InputError(f"muscle {muscle!r}: sampled length {lowest:g} m is not positive")
    return lengths, arms


def _design(q: np.ndarray, domain: np.ndarray, span: tuple[int, ...], degree: int) -> list[np.ndarray]:
    """Matrices (N, P) that give the length and the moment arm about each coordinate of the span."""
    low, high = domain[list(span)].T if span else (np.zeros(0), np.zeros(0))
    half = (high - low) / 2
    x = (q[:, list(span)] - (low + high) / 2) / half
    exponents = monomials(len(span), degree)
    powers = x[:, :, None] ** np.arange(degree + 1)
    slopes = np.arange(degree + 1) * np.concatenate([np.zeros_like(powers[..., :1]), powers[..., :-1]], axis=2)
    factor = [powers[:, k, exponents[:, k]] for k in range(len(span))]
    matrices = [math.prod(factor[1:], start=factor[0]) if span else np.ones((len(q), 1))]
    for k in range(len(span)):
        slope = slopes[:, k, exponents[:, k]] / half[k]
        matrices.append(-math.prod(factor[:k] + factor[k + 1 :], start=slope))
    return matrices


def _fit_group(
    fit_q: np.ndarray,
    fit_data: tuple[np.ndarray, np.ndarray],
    test_q: np.ndarray,
    test_data: tuple[np.ndarray, np.ndarray],
    domain: np.ndarray,
    span: tuple[int, ...],
    members: list[int],
    degree: int | None,
) -> tuple[int, np.ndarray, list[tuple], set[int]]:
    """Coefficients for the muscles of one span, at the degree that serves all of them."""
    if not span:
        degrees: Sequence[int] = (0,)
    elif degree is not None:
        degrees = (degree,)
    else:
        degrees = (5, 6, 7, 8) if len(span) <= 2 else (5, 6)
    best = None
    for candidate in degrees:
        design = _design(fit_q, domain, span, candidate)
        if design[0].shape[1] * 4 > len(fit_q) * len(design):
            raise InputError(
                f"{len(fit_q)} samples are too few for degree {candidate} over {len(span)} coordinates; take more"
            )
        test_design = _design(test_q, domain, span, candidate)
        rows, errors, contradicted = [], [], set()
        fits = _fit_muscles(design, span, [(fit_data[0][:, m], fit_data[1][:, :, m]) for m in members])
        for place, (index, (row, contradiction)) in enumerate(zip(members, fits, strict=True)):
            rows.append(row)
            if contradiction:
                contradicted.add(place)
            errors.append(_errors(test_design, row, span, test_data[0][:, index], test_data[1][:, :, index]))
        # The muscle farthest from its targets decides, but one that no degree can follow must not raise it for all.
        scores = np.array([_score(length, arm) for length, arm, _ in errors])
        result = (candidate, np.stack(rows), errors, contradicted)
        if best is None or np.minimum(scores, 3).mean() < 0.9 * np.minimum(best[0], 3).mean():
            best = (scores, result)
        if scores.max() < 0.5:
            break
    assert best is not None
    return best[1]


def _score(length: tuple[float, float, float], arm: tuple[float, float, float]) -> float:
    return max(
        length[0] / LENGTH_TARGET[0],
        length[1] / LENGTH_TARGET[1],
        arm[0] / ARM_TARGET[0],
        arm[1] / ARM_TARGET[1],
    )


def _fit_muscles(
    design: list[np.ndarray], span: tuple[int, ...], data: list[tuple[np.ndarray, np.ndarray]]
) -> list[tuple[np.ndarray, bool]]:
    """Robust joint fits that share their design; per muscle the coefficients, and whether lengths were overruled."""
    # Orthonormal columns make the reweighted normal equations well conditioned.
    count = len(design[0])
    stacked = np.concatenate([design[0] / _LENGTH_SCALE, *(matrix / _ARM_SCALE for matrix in design[1:])])
    orthonormal, triangle = np.linalg.qr(stacked)
    results = []
    for lengths, arms in data:
        target = np.concatenate([lengths / _LENGTH_SCALE, *(arms[:, k] / _ARM_SCALE for k in span)])
        row = solve_triangular(triangle, _robust(orthonormal, target, np.ones(len(target))))
        length_error, arm_error, _ = _errors(design, row, span, lengths, arms)
        contradicted = False
        if span and _score(length_error, arm_error) >= 1:
            # Would the moment arms alone be smooth? A light weight on the lengths keeps the constant determined.
            light = np.concatenate([np.full(count, 1e-6), np.ones(len(target) - count)])
            alone = solve_triangular(triangle, _robust(orthonormal, target, light))
            alone[0] += np.nanmedian(lengths - design[0] @ alone)
            length_error, arm_error, _ = _errors(design, alone, span, lengths, arms)
            # Then lengths that differ are lengths that no path with these moment arms could have.
            contradicted = length_error[1] > LENGTH_TARGET[1] and arm_error[1] < 0.5 * ARM_TARGET[1]
            if contradicted:
                row = alone
        results.append((row, contradicted))
    return results


def _robust(orthonormal: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Huber regression of ``target`` on orthonormal columns; rows with NaN are left out."""
    weight = np.where(np.isfinite(target), weight, 0.0)
    target = np.where(np.isfinite(target), target, 0.0)
    huber = np.ones_like(target)
    solution = np.zeros(orthonormal.shape[1])
    for _ in range(_REWEIGHTINGS):
        # With orthonormal columns only the rows whose weight is not one change the normal equations.
        lost = 1.0 - weight * huber
        rows = orthonormal[lost > 0]
        normal = np.eye(len(solution)) - rows.T @ (rows * lost[lost > 0, None])
        previous, solution = solution, np.linalg.solve(normal, orthonormal.T @ ((1.0 - lost) * target))
        if np.linalg.norm(solution - previous) < _SETTLED * math.sqrt(len(target)):
            break
        residual = np.abs(target - orthonormal @ solution)
        spread = max(_HUBER * _MAD * float(np.median(residual[weight > 0.5])), _SMALL)
        huber = np.minimum(1.0, spread / np.maximum(residual, 1e-12))
    return solution


def _errors(
    design: list[np.ndarray], row: np.ndarray, span: tuple[int, ...], lengths: np.ndarray, arms: np.ndarray
) -> tuple[tuple[float, float, float], tuple[float, float, float], int]:
    """Length error, moment-arm error and index of the coordinate with the worst moment arm; arms (N, D).

    Coordinates outside the span count too: there the fit says zero.
    """
    length = _quantiles(np.abs(design[0] @ row - lengths))
    worst, arm = 0, (0.0, 0.0, 0.0)
    for k in range(arms.shape[1]):
        fitted = design[1 + span.index(k)] @ row if k in span else np.zeros(len(lengths))
        error = _quantiles(np.abs(fitted - arms[:, k]))
        if error[1] > arm[1]:
            worst, arm = k, error
    return length, arm, worst


def _quantiles(error: np.ndarray) -> tuple[float, float, float]:
    error = error[np.isfinite(error)]
    return float(np.median(error)), float(np.percentile(error, 95)), float(error.max())


def _explain(
    sampler: Sampler,
    index: int,
    worst: int,
    coordinates: tuple[str, ...],
    ranges: np.ndarray,
    span: tuple[int, ...],
    degree: int,
) -> str:
    """Why a muscle is poor: sweep each coordinate through a few poses and look for a jump of the worst moment arm."""
    if not span:
        return "its length varies although no moment arm exceeds the span threshold"
    jump, gap, where = 0.0, 0.0, ""
    bases = _poses(_seeded(qmc.LatinHypercube, len(coordinates), 0), 4, ranges)
    for k in span:
        low, high = ranges[k]
        sweep = np.linspace(low, high, max(int(math.degrees(high - low) * 4), 2) + 1)
        q = np.repeat(bases, len(sweep), axis=0)
        q[:, k] = np.tile(sweep, len(bases))
        lengths, arms = (values.reshape(len(bases), len(sweep), -1, values.shape[-1]) for values in sampler(q))
        for length, arm, slope in zip(
            lengths[:, :, 0, index], arms[:, :, worst, index], arms[:, :, k, index], strict=True
        ):
            change = np.abs(np.diff(arm))
            if np.isfinite(change).any() and np.nanmax(change) > jump:
                jump = float(np.nanmax(change))
                # What is left of a change in length after the moment arm has accounted for it.
                gap = float(np.nanmax(np.abs(np.diff(length) + 0.5 * (slope[1:] + slope[:-1]) * np.diff(sweep))))
                where = f"{coordinates[k]} = {math.degrees(sweep[int(np.nanargmax(change))]):.0f} deg"
    name = coordinates[worst]
    if jump > _JUMP:
        return (
            f"its path switches (a wrap or via point engages): the moment arm about {name} jumps by "
            f"{1e3 * jump:.1f} mm and the length by {1e3 * gap:.1f} mm, e.g. at {where}; a smooth surface rounds that "
            "off"
        )
    return f"its moment arm about {name} bends more sharply than degree {degree} can follow"
