"""Noisy EMG: what a calibration loses to the chance in its EMG, and what better amplitude estimates give back.

    python examples/benchmarks/noisy_emg.py [--json FILE] [--quick]

Synthetic people (arm, 6 muscles, 4 channels) are drawn from the calibration's prior by fixed seeds. Each has two
recordings of 6 s to fit and one that is never fitted: smooth motion, bursts of excitation, moments
of the model with 3 % of low-passed noise. Their raw EMG (2 kHz) is Gaussian noise with the spectrum of surface EMG
(Stulen & De Luca 1981), times the excitation, over white measurement noise of 1 % of the maximum and a little hum.
A contraction of 3 s at full excitation gives the reference. Muscles are never quite at rest, as in the shipped demo (5
% of the time below 2 % of the maximum): "floor" takes the noise from the quietest stretches and so takes activity for
noise; "rest" takes it from 3 s of relaxed muscles. Moments have a tolerance of 0.1; "tolerance 0.2" says that the
model's errors are larger, as those that come from the EMG are.

The same people are calibrated from the exact excitations and from each estimate of them; nothing
else differs. Errors of the parameters are in prior standard deviations, root mean square; those of the moments are
medians over people of the root mean square over the unseen recording, with the same estimator's EMG, against the
measured moments. "closed" is the fraction of the gap between rectified, 6 Hz, and exact that an estimate closes.

``--tune`` runs other people (seeds from 1000), on whom the rows with other cut-offs and tolerances were chosen.
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
import numpy as np
from scipy.signal import butter, sosfiltfilt

# A script beside this one is named like the package; Python would find it first.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

PEOPLE, QUICK_PEOPLE, TUNING_SEED = 16, 8, 1000
SECONDS, LEAD, RAW_STEP, MODEL_STEP = 6.0, 0.5, 0.0005, 0.01
DRIVES = {"triceps_long": "TRIlong", "triceps": "TRIlat TRImed", "biceps": "BIClong BICshort", "brachialis": "BRA"}
MIDDLE, REACH = np.array([0.2, 1.1]), np.array([0.4, 0.6])
MEASUREMENT_NOISE, HUM, MOMENT_NOISE, RELAXED = 0.01, 0.002, 0.03, 0.002
TOLERANCE = 0.1
BASE = {"high_pass": 20.0, "notch": 50.0}
FLOOR, WHITE, POWER = {"noise_floor": True}, {"whiten": True}, {"amplitude": "power"}
REST = {"noise_floor": True, "rest": True}
ESTIMATORS: Mapping[str, Mapping[str, Any] | None] = {
    "exact": None,
    "rectified, 6 Hz": {},
    "rectified, floor": FLOOR,
    "power, floor": {**POWER, **FLOOR},
    "whitened power, floor": {**WHITE, **POWER, **FLOOR},
    "whitened": WHITE,
    "rectified, rest": REST,
    "power, rest": {**POWER, **REST},
    "whitened rectified, rest": {**WHITE, **REST},
    "whitened power, rest": {**WHITE, **POWER, **REST},
    "rectified, 4 Hz": {"low_pass": 4.0},
    "whitened power, rest, 4 Hz": {**WHITE, **POWER, **REST, "low_pass": 4.0},
    "rectified, 6 Hz, tolerance 0.2": {"tolerance": 0.2},
    "whitened power, rest, tolerance 0.2": {**WHITE, **POWER, **REST, "tolerance": 0.2},
}
LESS, MORE = ("rectified, 6 Hz", "exact")
"""between which the gap is"""


@dataclass(frozen=True)
class Recording:
    """One made-up recording."""

    time: np.ndarray
    """(T,) s, of the model"""
    q: np.ndarray
    raw_time: np.ndarray
    """(R,) s"""
    excitation: np.ndarray
    """(R, C)"""
    raw: np.ndarray
    """(R, C) EMG in units of its amplitude at full excitation"""


@dataclass(frozen=True)
class Person:
    """A person whose parameters are known."""

    z: np.ndarray
    params: Any
    recordings: tuple[Recording, ...]
    moments: tuple[np.ndarray, ...]
    """(T, K) of each recording, as measured"""
    maximum: np.ndarray
    """(R', C) raw EMG of the contraction that gives the reference"""
    relaxed: np.ndarray
    """(R', C) raw EMG of relaxed muscles"""


def smooth(rng: np.random.Generator, steps: int, step: float, cutoff: float, columns: int) -> np.ndarray:
    """Low-passed noise of unit standard deviation, ``(steps, columns)``."""
    margin = round(2 / (cutoff * step))
    noise = rng.standard_normal((steps + 2 * margin, columns))
    low = sosfiltfilt(butter(2, cutoff, fs=1 / step, output="sos"), noise, axis=0)
    return (low / low.std(axis=0))[margin:-margin]


def carrier(rng: np.random.Generator, steps: int, columns: int, low: float = 60.0, high: float = 120.0) -> np.ndarray:
    """Noise of unit power, spectrum ``f^2 / ((f^2 + low^2) (f^2 + high^2)^2)`` (Stulen & De Luca 1981, Hz)."""
    f = np.fft.rfftfreq(steps, RAW_STEP)
    magnitude = f / (np.sqrt(f**2 + low**2) * (f**2 + high**2))
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal((steps, columns)), axis=0) * magnitude[:, None], steps, axis=0)
    return noise / noise.std(axis=0)


def raw_emg(rng: np.random.Generator, excitation: np.ndarray) -> np.ndarray:
    steps, columns = excitation.shape
    hum = np.sin(2 * np.pi * (50 * RAW_STEP * np.arange(steps)[:, None] + rng.uniform(0, 1, columns)))
    noise = MEASUREMENT_NOISE * rng.standard_normal(excitation.shape)
    return carrier(rng, steps, columns) * excitation + noise + HUM * hum


def record(rng: np.random.Generator) -> Recording:
    raw_time = np.round(np.arange(-LEAD, SECONDS + LEAD, RAW_STEP), 6)
    every = round(MODEL_STEP / RAW_STEP)
    drive = smooth(rng, len(raw_time), RAW_STEP, 0.8, len(DRIVES))
    excitation = 0.005 + 0.75 / (1 + np.exp(-2.5 * (drive - 0.9)))
    rows = slice(round(LEAD / RAW_STEP), round((LEAD + SECONDS) / RAW_STEP) + 1, every)
    q = MIDDLE + REACH * np.tanh(smooth(rng, len(raw_time), RAW_STEP, 0.6, len(MIDDLE)))
    return Recording(raw_time[rows], q[rows], raw_time, excitation, raw_emg(rng, excitation))


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


def segment(model: Any, recording: Recording, emg_time: np.ndarray, emg: np.ndarray, moments: Any) -> Any:
    """What a calibration sees of a recording, with this EMG."""
    from nms_gym.model.replay import make_segment
    from nms_gym.recording.trial import Trial

    trial = Trial(
        name="synthetic",
        time=recording.time,
        coordinates=model.paths.coordinates,
        q=recording.q,
        qd=np.gradient(recording.q, recording.time, axis=0),
        channels=model.channels,
        emg_time=emg_time,
        emg=emg,
        synthetic=True,
    )
    made = make_segment(model, trial, coordinates=model.coordinates, start=0.0, stop=SECONDS)
    measured = np.tile(made.time[:, None], (1, len(model.coordinates))) if moments is None else moments
    return dataclasses.replace(made, measured=measured, scored=made.time >= 0.3)


def true_segment(model: Any, recording: Recording, moments: Any = None) -> Any:
    # Every tenth sample: 5 ms, as the estimates have.
    return segment(model, recording, recording.raw_time[::10], recording.excitation[::10], moments)


def problem_of(model: Any, start: Any, segments: list[Any], tolerance: float = TOLERANCE) -> Any:
    from calibration.problem import Penalties, Problem, default_free

    return Problem(model, start, tuple(segments), default_free(model), {}, Penalties(moment_tolerance=tolerance))


def make_person(model: Any, start: Any, seed: int) -> Person:
    import jax

    from calibration.problem import make_layout, params_at
    from calibration.uncertainty.truncated_normal import sample_box
    from calibration.validation import float64, predict_segment

    rng = np.random.default_rng(seed)
    recordings = tuple(record(rng) for _ in range(3))
    blank = [true_segment(model, r) for r in recordings]
    layout = make_layout(problem_of(model, start, blank[:2]))
    z = sample_box(np.zeros(layout.size), layout.prior_precision, layout.low, layout.high, 1, rng)[0]
    with jax.enable_x64(True):
        truth = jax.tree.map(np.asarray, params_at(layout, float64(start), jax.numpy.asarray(z)))
    moments = []
    for s in blank:
        exact = predict_segment(model, truth, s).moments
        noise = smooth(rng, len(exact), MODEL_STEP, 6.0, exact.shape[1])
        moments.append(exact + MOMENT_NOISE * exact.std(axis=0) * noise)
    maximum = raw_emg(rng, np.ones((round(3 / RAW_STEP), len(DRIVES))))
    relaxed = raw_emg(rng, np.full_like(maximum, RELAXED))
    return Person(z, truth, recordings, tuple(moments), maximum, relaxed)


def envelopes(person: Person, settings: Mapping[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(time, EMG normalised to the maximal contraction) of each recording."""
    from nms_gym.excitation.emg import emg_conditioning, process_emg

    names, chain = tuple(DRIVES), {**BASE, **settings}
    relaxed = chain.pop("rest", False)
    chain.pop("tolerance", None)
    still = RAW_STEP * np.arange(len(person.maximum))
    conditioning = None
    if chain.get("whiten") or chain.get("noise_floor"):
        seen = [(r.raw_time, r.raw) for r in person.recordings[:2]]
        filters = {"whiten": False, "noise_floor": False, **{k: v for k, v in chain.items() if k != "amplitude"}}
        rest = [(still, person.relaxed)] if relaxed else []
        conditioning = emg_conditioning([*seen, (still, person.maximum)], names, rest=rest, **filters)

    def processed(t: np.ndarray, raw: np.ndarray) -> Any:
        return process_emg(t, raw, names, **chain, conditioning=conditioning, normalise="none", step=0.005)

    # The middle: filters' ends are less sure.
    full = np.median(processed(still, person.maximum).emg[100:-100], axis=0)
    found = [processed(r.raw_time, r.raw) for r in person.recordings]
    return [(e.time, e.emg / full) for e in found]


def segments_of(model: Any, person: Person, settings: Mapping[str, Any] | None) -> list[Any]:
    pairs = list(zip(person.recordings, person.moments, strict=True))
    if settings is None:
        return [true_segment(model, r, m) for r, m in pairs]
    found = envelopes(person, settings)
    return [segment(model, r, t, emg, m) for (r, m), (t, emg) in zip(pairs, found, strict=True)]


def emg_errors(model: Any, people: list[Person], found: list[list[Any]]) -> dict[str, float]:
    """Of the estimated excitations where they are low (below 0.1) and above: root mean square."""
    miss: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for person, segments in zip(people, found, strict=True):
        for recording, made in zip(person.recordings, segments, strict=True):
            exact = np.asarray(true_segment(model, recording).replay.excitations)
            error = np.asarray(made.replay.excitations) - exact
            for low in miss:
                miss[low].append(error[(exact < 0.1) == low])
    return {
        f"emg_rms_{'low' if low else 'high'}": float(np.sqrt(np.mean(np.concatenate(x) ** 2)))
        for low, x in miss.items()
    }


def held_out(model: Any, params: Any, unseen: Any) -> np.ndarray:
    from calibration.validation import predict_segment

    error = (predict_segment(model, params, unseen).moments - unseen.measured)[unseen.scored]
    return np.sqrt(np.mean(error**2, axis=0))


def closed(less: float, more: float, value: float) -> float:
    return (less - value) / (less - more)


def with_gaps(rows: list[dict[str, Any]], keys: list[str]) -> list[dict[str, Any]]:
    by_name = {row["emg"]: row for row in rows}
    return [
        {**row, **{f"{key}_closed": closed(by_name[LESS][key], by_name[MORE][key], row[key]) for key in keys}}
        for row in rows
    ]


def print_rows(rows: list[dict[str, Any]]) -> None:
    header = list(dict.fromkeys(key for row in rows for key in row))
    print(common.table(header, [[row.get(key, "-") for key in header] for row in rows]) + "\n", flush=True)


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--tune", action="store_true", help="people for choosing settings")
    options = parser.parse_args()
    from calibration.cohort import fit_cohort
    from calibration.fitting import Status

    count = QUICK_PEOPLE if options.quick else PEOPLE
    first = TUNING_SEED if options.tune else 0
    began = time.perf_counter()
    model, start = arm()
    people = [make_person(model, start, seed) for seed in range(first, first + count)]
    made_s = time.perf_counter() - began
    parameters, moments = [], []
    for name, settings in ESTIMATORS.items():
        began = time.perf_counter()
        found = [segments_of(model, person, settings) for person in people]
        tolerance = (settings or {}).get("tolerance", TOLERANCE)
        results = fit_cohort([problem_of(model, start, s[:2], tolerance) for s in found], precision="float32")
        kinds = np.array(results[0].layout.kinds)
        miss = np.array([r.z - p.z for r, p in zip(results, people, strict=True)])
        row = {kind: float(np.sqrt(np.mean(miss[:, kinds == kind] ** 2))) for kind in dict.fromkeys(kinds.tolist())}
        parameters.append({"emg": name, "all": float(np.sqrt(np.mean(miss**2))), **row})
        rmse = np.array([held_out(model, r.params, s[2]) for r, s in zip(results, found, strict=True)])
        true = np.array(
            [
                held_out(model, r.params, true_segment(model, p.recordings[2], p.moments[2]))
                for r, p in zip(results, people, strict=True)
            ]
        )
        moments.append(
            {
                "emg": name,
                **emg_errors(model, people, found),
                **{f"{c}_rmse": float(np.median(rmse[:, k])) for k, c in enumerate(model.coordinates)},
                "rmse": float(np.median(rmse.mean(axis=1))),
                "rmse_exact_emg": float(np.median(true.mean(axis=1))),
                "converged": sum(r.status is Status.CONVERGED for r in results),
                "seconds": time.perf_counter() - began,
            }
        )
    parameters = with_gaps(parameters, ["all"])
    moments = with_gaps(moments, ["rmse", "rmse_exact_emg"])
    print(f"{count} synthetic people from seed {first}, float32; making them: {made_s:.1f} s\n")
    print("Parameters, errors in prior standard deviations:\n")
    print_rows(parameters)
    print("Unseen moments (N·m), with the estimator's EMG and, rmse_exact_emg, with the exact one:\n")
    print_rows(moments)
    print(common.machine())
    common.write(options.json, {"people": count, "seed": first, "parameters": parameters, "moments": moments})


if __name__ == "__main__":
    main()
