"""What bands are worth on people whom the model does not suit, and as the task departs from what was fitted.

    python examples/benchmarks/departure.py [--json FILE] [--quick]

Synthetic people (arm, 6 muscles, 4 channels) by fixed seeds; no recordings are needed. Each has two recordings of 4 s
to fit: smooth motion, bursts of excitation, moments with 3 % of low-passed noise. The calibration sees EMG that is 10 %
off the one that drove the muscles. People differ from the model in one way each:

* as drawn from the prior,
* *wider than the prior*: twice its standard deviations,
* *other curves*: Millard's (2013) with elastic tendons, fitted with De Groote's (2016) and rigid ones,
* *own delays*: electromechanical delays of 20 ms standard deviation by channel, fitted with one for all,
* *worse EMG*: 25 % off.

All of them then perform what the fit has not seen: a motion like those fitted, one 1.5 and one 2.5 times as fast, one
of 1.5 times the reach, and one with 1.5 times the excitation. A row is the mean over people and joints: error of the
uncalibrated, the calibrated, and the calibrated person with the discrepancy (root mean square over the measured
moments' standard deviation); part of the measured samples inside 90 % bands of the model and its noise alone, and with
the discrepancy; their half-widths, over the standard deviation too; and the part of the samples in which the channel,
angle or speed that leaves what was fitted most is outside its range. Nothing was chosen on these people.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
from scipy.signal import butter, sosfiltfilt

# A script beside this one is named like the package; Python would find it first.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

PEOPLE, QUICK_PEOPLE, DRAWS = 8, 3, 100
SECONDS, DT = 4.0, 0.01
DRIVES = {"triceps_long": "TRIlong", "triceps": "TRIlat TRImed", "biceps": "BIClong BICshort", "brachialis": "BRA"}
MIDDLE, REACH = np.array([0.2, 1.1]), np.array([0.3, 0.45])
# Speed, reach and excitation, over those that were fitted.
TASKS = {
    "alike": (1.0, 1.0, 1.0),
    "1.5 x speed": (1.5, 1.0, 1.0),
    "2.5 x speed": (2.5, 1.0, 1.0),
    "1.5 x reach": (1.0, 1.5, 1.0),
    "1.5 x excitation": (1.0, 1.0, 1.5),
}
KINDS = ("as the prior", "wider than the prior", "other curves", "own delays", "worse EMG")


def smooth(rng: np.random.Generator, cutoff: float, columns: int, speed: float) -> np.ndarray:
    """Low-passed noise of unit standard deviation ``(T, columns)``, played ``speed`` times as fast."""
    steps, margin = round(SECONDS / DT) + 1, round(2 / (cutoff * DT))
    longer = int(np.ceil(steps * speed)) + 1
    noise = rng.standard_normal((longer + 2 * margin, columns))
    low = sosfiltfilt(butter(2, cutoff, fs=1 / DT, output="sos"), noise, axis=0)
    low = (low / low.std(axis=0))[margin:-margin]
    at = speed * np.arange(steps)
    return np.stack([np.interp(at, np.arange(len(low)), x) for x in low.T], axis=1)


def motion(rng: np.random.Generator, name: str, task: tuple[float, float, float]) -> Any:
    """One recording: what the person does, and the EMG that drives the muscles."""
    from nms_gym.recording.trial import Trial

    speed, reach, excitation = task
    time_ = DT * np.arange(round(SECONDS / DT) + 1)
    q = MIDDLE + reach * REACH * np.tanh(smooth(rng, 0.5, 2, speed))
    emg = excitation * (0.01 + 0.55 / (1 + np.exp(-2.5 * (smooth(rng, 0.8, len(DRIVES), speed) - 0.8))))
    return Trial(
        name=name,
        time=time_,
        coordinates=("r_shoulder_elev", "r_elbow_flex"),
        q=q,
        qd=np.gradient(q, time_, axis=0),
        channels=tuple(DRIVES),
        emg_time=time_,
        emg=np.minimum(emg, 1.0),
        synthetic=True,
    )


def arm() -> tuple[Any, Any]:
    """The embedded arm with a channel for each head's group, and its parameters."""
    from nms_gym._assets import asset_path
    from nms_gym.files.model_file import read_model_file
    from nms_gym.model.parameters import make_params
    from nms_gym.model.structure import NmsModel, Settings

    file = read_model_file(asset_path("arm/model.json"))
    weights = np.array([[m in muscles.split() for muscles in DRIVES.values()] for m in file.muscles], float)
    model = NmsModel(file.muscles, file.coordinates, tuple(DRIVES), Settings(tendon="rigid"), weights, file.paths)
    return model, make_params(model, file.parameters)


def make_one(kind: str, seed: int) -> tuple[Any, dict[str, Any]]:
    """A person of a kind: the problem of the fit, and a stretch of every task."""
    from calibration.problem import DEFAULT_FREE, default_free
    from calibration.synthetic import Errors, make_person
    from nms_gym.muscle.millard import Millard2012

    model, start = arm()
    rng = np.random.default_rng([seed, 1])
    fitted = [motion(rng, f"motion {i + 1}", TASKS["alike"]) for i in range(2)]
    trials = [*fitted, *(motion(rng, name, task) for name, task in TASKS.items())]
    truth: Any = None
    free = default_free(model)
    wider = 2.0 if kind == "wider than the prior" else 1.0
    if kind == "other curves":
        settings = dataclasses.replace(model.settings, tendon="elastic", curves=Millard2012())
        truth = dataclasses.replace(model, settings=settings)
    drawn = free
    if kind == "own delays":
        delay = dataclasses.replace(DEFAULT_FREE["electromechanical_delay"], share="each", prior_sd=0.02)
        drawn = tuple(delay if f.kind == delay.kind else f for f in free)
    person = make_person(
        model,
        start,
        free,
        seed=seed,
        trials=trials,
        errors=Errors(emg_noise=0.25 if kind == "worse EMG" else 0.1),
        truth=truth,
        drawn=tuple(dataclasses.replace(f, prior_sd=wider * f.prior_sd) for f in drawn),
    )
    return person.problem, dict(zip(TASKS, person.unseen, strict=True))


def rows(kind: str, people: int) -> list[dict[str, Any]]:
    """Means over people of a kind, by task."""
    from calibration.cohort import fit_cohort
    from calibration.uncertainty.bands import bands
    from calibration.uncertainty.discrepancy import evaluate_corrected, fit_discrepancy, make_corrections
    from calibration.uncertainty.draws import checked_sample, params_batch
    from calibration.uncertainty.posterior import laplace_cohort
    from calibration.validation import evaluate
    from nms_gym.model.trained_range import departures, trained_range

    began = time.process_time()
    made = [make_one(kind, seed) for seed in range(people)]
    problems = [problem for problem, _ in made]
    results = fit_cohort(problems)
    posteriors = laplace_cohort(problems, results)
    found: dict[str, list[dict[str, float]]] = {}
    for seed, ((problem, unseen), result, posterior) in enumerate(zip(made, results, posteriors, strict=True)):
        draws, _ = checked_sample(problem, posterior, DRAWS, seed)
        crowd = params_batch(posterior, draws)
        excess = [n.excess for n in posterior.noise]
        learned = fit_discrepancy(problem.model, result.params, problem.segments, excess=excess)
        corrections = make_corrections(learned, problem.model, result.params, crowd, problem.segments)
        trained = trained_range(problem.segments)
        for task, segment in unseen.items():
            spread = segment.measured[segment.scored].std(axis=0)
            (plain,) = bands(problem.model, crowd, [segment], noise=posterior.noise)
            (whole,) = bands(problem.model, crowd, [segment], corrections=corrections)
            before, after = (evaluate(problem.model, p, [segment]) for p in (problem.start, result.params))
            both = evaluate_corrected(problem.model, result.params, learned, [segment])
            found.setdefault(task, []).append(
                {
                    "uncalibrated": relative(before, spread),
                    "calibrated": relative(after, spread),
                    "with discrepancy": relative(both, spread),
                    "inside, model": float(plain.coverage(segment.measured, segment.scored).mean()),
                    "half-width, model": half_width(plain, segment, spread),
                    "inside, with discrepancy": float(whole.coverage(segment.measured, segment.scored).mean()),
                    "half-width, with discrepancy": half_width(whole, segment, spread),
                    "outside the range": max((d.outside for d in departures(trained, segment).rows), default=0.0),
                }
            )
    cpu = time.process_time() - began
    mean = {task: {k: float(np.mean([row[k] for row in each])) for k in each[0]} for task, each in found.items()}
    return [{"people": kind, "task": task, **row, "CPU s": cpu} for task, row in mean.items()]


def relative(metrics: Any, spread: np.ndarray) -> float:
    return float(np.mean([m.rmse for m in metrics] / spread))


def half_width(band: Any, segment: Any, spread: np.ndarray) -> float:
    return float(np.mean((band.high - band.low)[segment.scored].mean(axis=0) / (2 * spread)))


def main() -> None:
    options = common.arguments(__doc__).parse_args()
    people = QUICK_PEOPLE if options.quick else PEOPLE
    found: list[dict[str, Any]] = []
    for kind in KINDS:
        new = rows(kind, people)
        if not found:
            print("| " + " | ".join(new[0]) + " |\n" + "|" + "---|" * len(new[0]))
        for row in new:
            print("| " + " | ".join(f"{x:.2g}" if isinstance(x, float) else x for x in row.values()) + " |", flush=True)
        found += new
    print(f"\n{people} people of each kind, {DRAWS} draws")
    print(common.machine())
    common.write(options.json, {"people": people, "rows": found})


if __name__ == "__main__":
    main()
