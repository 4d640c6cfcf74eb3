"""Strength and gain: what a calibration knows of them from EMG and moments, from maximal contractions, and from both.

    python examples/benchmarks/identification.py [--json FILE] [--quick]

Hidden people (arm, 6 muscles, 4 channels) with raw EMG, motion and moments made as in ``noisy_emg.py``, by fixed seeds.
They are not drawn from the calibration's prior where it matters here: strength varies in common (30 %), by side of the
elbow (20 %) and by muscle (15 %) about the shipped arm's. Nobody's effort is quite maximal: everyone has one between 85
and 100 %, which both the EMG and the dynamometer see and the calibration does not know.

*Session* divides the EMG by its largest value in the fitted recordings, *MVC* by that of a maximal contraction, as
``[emg] mvc_trials`` does, with the tighter prior of the gains that goes with it. *Dynamometer* adds six isometric
maximal moments of the elbow (three angles, both ways; 5 % noise, antagonists at 5 %, neither known to the
calibration), as ``[[dynamometer]]`` does; in the last row the effort was measured, as by twitch interpolation. *Common
factor* gives strengths a prior correlation of 0.6.

Errors are root mean squares over people of the logarithm, in per cent: of the strength of flexors and extensors (sum of
maximum isometric force times moment arm), of their ratio, and of the gains, whose truth is the normalisation's
reference over the EMG at full excitation; "bias" is the mean for both sides. "capacity" is the error of the largest
moments that the person could make, in the same six poses, over their root mean square: what a policy acts on. "inside"
is how many of the true side strengths lie within 90 % intervals (128 of 64 people, so 90 +- 5). "unseen" is the error
of moments in a recording that was not fitted, with its EMG, median over people, N·m.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import noisy_emg
import numpy as np

# A script beside this one is named like the package; Python would find it first.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

PEOPLE, QUICK_PEOPLE = 64, 8
COMMON, SIDE, OWN = 0.3, 0.2, 0.15
LEAST_EFFORT, COACTIVATION, MOMENT_NOISE = 0.85, 0.05, 0.05
ANGLES = (0.7, 1.2, 1.7)
"""rad, of the elbow"""
SHOULDER_ANGLE, INTERVAL = 0.1, 1.645
CORRELATION = 0.6
ROWS: Mapping[str, Mapping[str, Any] | None] = {
    "generic": None,
    "session": {},
    "session, common factor": {"correlation": CORRELATION},
    "MVC": {"mvc": True},
    "session, dynamometer": {"dynamometer": True},
    "MVC, dynamometer": {"mvc": True, "dynamometer": True},
    "MVC, dynamometer, common factor": {"mvc": True, "dynamometer": True, "correlation": CORRELATION},
    "the same, activation measured": {"mvc": True, "dynamometer": True, "correlation": CORRELATION, "activation": True},
}


@dataclass(frozen=True)
class Person:
    """A hidden person and what was recorded of them."""

    params: Any
    segments: Mapping[str, list[Any]]
    """normalisation -> the two recordings that are fitted and the one that is not"""
    gain: Mapping[str, np.ndarray]
    """(C,) the true ones"""
    maximal: Any
    """as measured by the dynamometer, effort and antagonists unknown"""
    informed: Any
    """the same where the effort was measured"""


def contractions(joint: str, coordinates: tuple[str, ...], **changes: Any) -> Any:
    from calibration.study.dynamometer import Dynamometer

    angles = np.tile(ANGLES, 2)
    q = np.stack([angles if c == joint else np.full(6, SHOULDER_ANGLE) for c in coordinates], axis=1)
    directions = np.repeat([1.0, -1.0], 3)
    return Dynamometer(
        "elbow", (joint,) * 6, coordinates, q, **{"moments": np.ones(6), "directions": directions, **changes}
    )


def maximal(model: Any, **changes: Any) -> Any:
    """Contractions of the elbow, ready to calibrate."""
    from calibration.study.dynamometer import maximal_moments

    return maximal_moments([contractions(model.coordinates[1], model.coordinates, **changes)], model)


def sides(model: Any) -> np.ndarray:
    """(2, M) mean moment arm at the elbow of flexors and of extensors, m, zero for the others."""
    arms = maximal(model).moment_arms.mean(axis=0)
    return np.stack([np.maximum(arms, 0.0), np.maximum(-arms, 0.0)])


def make_person(model: Any, start: Any, seed: int, arms: np.ndarray) -> Person:
    import jax

    from calibration.problem import make_layout, params_at
    from calibration.uncertainty.truncated_normal import sample_box
    from calibration.validation import evaluate_maximal, float64, predict_segment

    rng = np.random.default_rng(seed)
    recordings = [noisy_emg.record(rng) for _ in range(3)]
    blank = [noisy_emg.true_segment(model, r) for r in recordings]
    layout = make_layout(noisy_emg.problem_of(model, start, blank[:2]))
    z = sample_box(np.zeros(layout.size), layout.prior_precision, layout.low, layout.high, 1, rng)[0]
    strength = COMMON * rng.standard_normal() + OWN * rng.standard_normal(len(model.muscles))
    strength = strength + SIDE * rng.standard_normal(2) @ (arms > 0)
    with jax.enable_x64(True):
        drawn = jax.tree.map(np.asarray, params_at(layout, float64(start), jax.numpy.asarray(z)))
    truth = dataclasses.replace(
        drawn,
        max_isometric_force=np.asarray(start.max_isometric_force) * np.exp(strength),
        emg_gain=np.ones(len(model.channels)),
    )
    moments = []
    for s in blank:
        exact = predict_segment(model, truth, s).moments
        noise = noisy_emg.smooth(rng, len(exact), noisy_emg.MODEL_STEP, 6.0, exact.shape[1])
        moments.append(exact + noisy_emg.MOMENT_NOISE * exact.std(axis=0) * noise)

    effort = rng.uniform(LEAST_EFFORT, 1.0)
    real = maximal(model, activation=effort, coactivation=COACTIVATION)
    peaks = np.abs(evaluate_maximal(model, truth, real)) * (1 + MOMENT_NOISE * rng.standard_normal(6))
    measured, informed = (maximal(model, moments=peaks, **known) for known in ({}, {"activation": effort}))
    segments, gain = normalised(model, recordings, moments, effort, rng)
    return Person(truth, segments, gain, measured, informed)


def normalised(
    model: Any, recordings: list[Any], moments: list[np.ndarray], effort: float, rng: np.random.Generator
) -> tuple[dict[str, list[Any]], dict[str, np.ndarray]]:
    """Segments and true gains by normalisation, as a study makes them."""
    from calibration.study.emg import EmgRecipe, make_envelopes
    from nms_gym.recording.storage import Table

    names = tuple(noisy_emg.DRIVES)
    still = noisy_emg.RAW_STEP * np.arange(round(4 / noisy_emg.RAW_STEP))

    def held(level: float) -> Table:
        return Table("held", names, still, noisy_emg.raw_emg(rng, np.full((len(still), len(names)), level)))

    tables = [Table(f"recording {i}", names, r.raw_time, r.raw) for i, r in enumerate(recordings)]
    recipe = EmgRecipe("raw", high_pass=20.0, notch=50.0, normalise="none")
    full = np.median(make_envelopes([held(1.0)], recipe, "", train=[None])[0][0].data[100:-100], axis=0)
    attempt, segments, gain = held(effort), {}, {}
    for way, more in (("session", {}), ("mvc", {"mvc_trials": ("attempt",)})):
        made, reference = make_envelopes(
            tables, dataclasses.replace(recipe, normalise=way, **more), "", train=[None, None, ()], maximal=[attempt]
        )
        triples = zip(recordings, made, moments, strict=True)
        segments[way] = [noisy_emg.segment(model, r, t.time, t.data, m) for r, t, m in triples]
        gain[way] = np.array([reference.values[c] for c in names]) / full
    return segments, gain


def problem_of(model: Any, start: Any, person: Person, settings: Mapping[str, Any]) -> Any:
    from calibration.problem import Penalties, Problem, default_free
    from calibration.study.build import default_priors
    from calibration.study.emg import EmgRecipe

    mvc = settings.get("mvc", False)
    measured = person.informed if settings.get("activation") else person.maximal
    changes = {"max_isometric_force": {"correlation": settings.get("correlation", 0.0)}}
    if mvc:
        changes["emg_gain"] = dataclasses.asdict(default_priors(EmgRecipe("raw", normalise="mvc"))["emg_gain"])
    return Problem(
        model,
        start,
        tuple(person.segments["mvc" if mvc else "session"][:2]),
        tuple(dataclasses.replace(f, **changes.get(f.kind, {})) for f in default_free(model)),
        penalties=Penalties(moment_tolerance=noisy_emg.TOLERANCE),
        maximal=measured if settings.get("dynamometer") else None,
    )


def rms(x: Any) -> float:
    return 100 * float(np.sqrt(np.mean(np.square(x))))


def row_of(
    label: str,
    model: Any,
    people: list[Person],
    fitted: list[Any],
    sd: np.ndarray,
    way: str,
    arms: np.ndarray,
) -> dict[str, Any]:
    """Errors of fitted parameters, whose side strengths have posterior standard deviations ``sd (N, 2)``."""
    from calibration.validation import evaluate_maximal

    def strengths(params: Any) -> np.ndarray:
        return np.log(arms @ np.asarray(params.max_isometric_force, float))

    error = np.array([strengths(f) - strengths(p.params) for f, p in zip(fitted, people, strict=True)])
    gains = [np.log(np.asarray(f.emg_gain, float) / p.gain[way]) for f, p in zip(fitted, people, strict=True)]
    full = maximal(model)
    capacity = []
    for f, p in zip(fitted, people, strict=True):
        true = evaluate_maximal(model, p.params, full)
        capacity.append((evaluate_maximal(model, f, full) - true) / np.sqrt(np.mean(true**2)))
    unseen = [noisy_emg.held_out(model, f, p.segments[way][2]).mean() for f, p in zip(fitted, people, strict=True)]
    return {
        "row": label,
        "flexors": rms(error[:, 0]),
        "extensors": rms(error[:, 1]),
        "bias": 100 * float(error.mean()),
        "ratio": rms(error[:, 0] - error[:, 1]),
        "gain": rms(gains),
        "capacity": rms(capacity),
        "inside": 100 * float(np.mean(np.abs(error) < INTERVAL * sd)),
        "sd": 100 * float(np.mean(sd)),
        "unseen": float(np.median(unseen)),
    }


def side_directions(layout: Any, params: Any, arms: np.ndarray) -> np.ndarray:
    """(2, P) derivative of the logarithm of each side's strength by ``z``."""
    share = arms * np.asarray(params.max_isometric_force, float)
    share = share / share.sum(axis=1, keepdims=True)
    by_z = np.zeros((arms.shape[1], layout.size))
    for muscle, column in enumerate(layout.index["max_isometric_force"]):
        by_z[muscle, column] = layout.sd[column]
    return share @ by_z


def main() -> None:
    options = common.arguments(__doc__).parse_args()
    from calibration.cohort import fit_cohort
    from calibration.fitting import Status
    from calibration.problem import make_layout
    from calibration.uncertainty.posterior import laplace_cohort

    count = QUICK_PEOPLE if options.quick else PEOPLE
    began = time.process_time()
    model, start = noisy_emg.arm()
    arms = sides(model)
    people = [make_person(model, start, seed, arms) for seed in range(count)]
    made_s = time.process_time() - began
    rows = []
    for label, settings in ROWS.items():
        began = time.process_time()
        problems = [problem_of(model, start, p, settings or {}) for p in people]
        layout = make_layout(problems[0])
        if settings is None:
            covariances = [np.linalg.inv(layout.prior_precision)] * count
            fitted, converged = [start] * count, 0
        else:
            results = fit_cohort(problems, precision="float32")
            covariances = [p.best.covariance for p in laplace_cohort(problems, results)]
            fitted = [r.params for r in results]
            converged = sum(r.status is Status.CONVERGED for r in results)
        directions = [side_directions(layout, f, arms) for f in fitted]
        sd = np.array([np.sqrt(np.diag(d @ c @ d.T)) for d, c in zip(directions, covariances, strict=True)])
        way = "mvc" if (settings or {}).get("mvc") else "session"
        row = row_of(label, model, people, fitted, sd, way, arms)
        rows.append({**row, "converged": converged, "cpu_s": time.process_time() - began})
        print(rows[-1], flush=True)
    header = list(rows[0])
    print(f"\n{count} hidden people; making them: {made_s:.1f} CPU s\n")
    print(common.table(header, [[row[key] for key in header] for row in rows]) + "\n")
    print(common.machine())
    common.write(options.json, {"people": count, "made_cpu_s": made_s, "rows": rows})


if __name__ == "__main__":
    main()
