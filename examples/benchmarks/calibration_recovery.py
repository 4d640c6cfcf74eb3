"""Recovery: what a calibration finds out about people whose parameters are known, and whether it knows how sure it is.

    [NMS_GYM_DATA=DIR] python examples/benchmarks/calibration_recovery.py [--json FILE] [--quick]

64 synthetic people (arm, 6 muscles, 4 channels, 30 free parameters) are drawn from the calibration's prior by a fixed
seed; no recordings are needed. Each has two recordings of 3 s to fit and one that is never fitted. The EMG that the
calibration sees is 10 % off the one that drove the muscles, slowly varying, and moments carry 3 % of low-passed noise:
the former is an error of the model that no parameters explain, so that coverage is not right by construction, and the
noise level is not told to the calibration. All are solved in one batch in float32; then one alone. With the data at
hand, ``elbow_synthetic`` (made by OpenSim with undisclosed parameters) is fitted on two trials and predicted on the
third.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import common
import numpy as np

# A script beside this one is named like the package; Python would find it first.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

SUBJECTS, QUICK_SUBJECTS = 64, 16
DRAWS, BAND_DRAWS, LEVEL = 500, 200, 0.9
STUDY = Path(__file__).resolve().parents[1] / "configs" / "elbow_synthetic.toml"


def make_people(count: int) -> list[Any]:
    """Synthetic people with the embedded arm; person i is the same however many there are."""
    from calibration.problem import Penalties, default_free
    from calibration.synthetic import make_person
    from nms_gym._assets import asset_path
    from nms_gym.files.model_file import read_model_file
    from nms_gym.model.parameters import make_params
    from nms_gym.model.structure import NmsModel, Settings

    arm = read_model_file(asset_path("arm/model.json"))
    drives = {"triceps_long": "TRIlong", "triceps": "TRIlat TRImed", "biceps": "BIClong BICshort", "brachialis": "BRA"}
    weights = np.array([[m in muscles.split() for muscles in drives.values()] for m in arm.muscles], float)
    model = NmsModel(arm.muscles, arm.coordinates, tuple(drives), Settings(tendon="rigid"), weights, arm.paths)
    start = make_params(model, arm.parameters)
    free = default_free(model)
    # A posture and a reach in which no fiber is stretched beyond its working range.
    motion = {"middle": (0.2, 1.1), "reach": (0.4, 0.6)}
    penalties = Penalties(moment_tolerance=0.1)
    return [make_person(model, start, free, seed=seed, penalties=penalties, **motion) for seed in range(count)]


def timed(problems: list[Any]) -> tuple[list[Any], dict[str, float]]:
    """Results, and seconds of the first call, compiling included, and of the second."""
    from calibration.cohort import fit_cohort

    times, results = {}, []
    for lap in ("cold", "warm"):
        wall, cpu = time.perf_counter(), time.process_time()
        results = fit_cohort(problems, precision="float32")
        times[f"{lap}_s"], times[f"{lap}_cpu_s"] = time.perf_counter() - wall, time.process_time() - cpu
    return results, times


def parameter_rows(people: list[Any], results: list[Any], draws: list[np.ndarray]) -> list[dict[str, Any]]:
    """Errors in prior standard deviations, and coverage, by kind of parameter and over all."""
    truth, found = np.array([p.z for p in people]), np.array([r.z for r in results])
    mean = np.array([d.mean(axis=0) for d in draws])
    tails = (0.5 - LEVEL / 2, 0.5 + LEVEL / 2)
    low, high = np.array([np.quantile(d, tails, axis=0) for d in draws]).transpose(1, 0, 2)
    inside, width = (truth >= low) & (truth <= high), np.array([d.std(axis=0) for d in draws])
    kinds = np.array(results[0].layout.kinds)
    rows = []
    for kind in (*dict.fromkeys(results[0].layout.kinds), "all"):
        mine = (kinds == kind) | (kind == "all")
        rows.append(
            {
                "parameter": kind,
                "uncalibrated_rms": float(np.sqrt(np.mean(truth[:, mine] ** 2))),
                "calibrated_rms": float(np.sqrt(np.mean((found - truth)[:, mine] ** 2))),
                "posterior_mean_rms": float(np.sqrt(np.mean((mean - truth)[:, mine] ** 2))),
                "posterior_sd": float(np.sqrt(np.mean(width[:, mine] ** 2))),
                "coverage_90": float(inside[:, mine].mean()),
            }
        )
    return rows


def moment_rows(people: list[Any], results: list[Any], posteriors: list[Any], draws: list[Any]) -> list[dict[str, Any]]:
    """Errors on the unseen recordings, medians over people, and coverage of the bands, means, by joint.

    Bands with noise are held against the moments measured; bands of the parameters alone against the moments that the
    true EMG made, from the true EMG.
    """
    from calibration.uncertainty.bands import bands
    from calibration.uncertainty.draws import params_batch
    from calibration.validation import predict_segment

    errors: dict[str, list[Any]] = {"uncalibrated": [], "calibrated": [], "truth": []}
    measured_inside, true_inside = [], []
    for person, result, posterior, drawn in zip(people, results, posteriors, draws, strict=True):
        (segment,), (true,), model = person.unseen, person.true, person.problem.model
        for name, params in zip(errors, (person.problem.start, result.params, person.params), strict=True):
            error = (predict_segment(model, params, segment).moments - segment.measured)[segment.scored]
            spread = segment.measured[segment.scored].std(axis=0)
            errors[name].append((np.sqrt(np.mean(error**2, axis=0)), 1 - np.mean(error**2, axis=0) / spread**2))
        crowd = params_batch(posterior, drawn[:BAND_DRAWS])
        (predictive,) = bands(model, crowd, person.unseen, level=LEVEL, noise=posterior.noise)
        (credible,) = bands(model, crowd, person.true, level=LEVEL)
        measured_inside.append(predictive.coverage(segment.measured, segment.scored))
        true_inside.append(credible.coverage(true.measured, true.scored))
    rows = []
    for k, coordinate in enumerate(people[0].problem.coordinates):
        row: dict[str, Any] = {"coordinate": coordinate}
        for name, pairs in errors.items():
            row[f"{name}_rmse"] = float(np.median([rmse[k] for rmse, _ in pairs]))
            row[f"{name}_r2"] = float(np.median([r2[k] for _, r2 in pairs]))
        row["coverage_90_measured"] = float(np.mean([c[k] for c in measured_inside]))
        row["coverage_90_true_emg"] = float(np.mean([c[k] for c in true_inside]))
        rows.append(row)
    return rows


def elbow() -> list[dict[str, Any]]:
    """Two trials fitted, the third predicted, with bands."""
    from calibration.fitting import fit
    from calibration.study.read import read_study
    from calibration.uncertainty.bands import bands
    from calibration.uncertainty.draws import params_batch, sample
    from calibration.uncertainty.posterior import laplace
    from calibration.validation import tabulate

    study = read_study(STUDY)
    result = fit(study.problem, **study.fit_options)
    posterior = laplace(study.problem, result)
    crowd = params_batch(posterior, sample(posterior, BAND_DRAWS))
    rows = tabulate(study.model, study.start, result.params, study.train, study.held_out)
    for segments in study.held_out.values():
        for band, segment in zip(
            bands(study.model, crowd, segments, level=LEVEL, noise=posterior.noise), segments, strict=True
        ):
            assert segment.measured is not None
            inside = dict(zip(band.coordinates, band.coverage(segment.measured, segment.scored), strict=True))
            width = dict(zip(band.coordinates, np.mean(band.high - band.low, axis=0), strict=True))
            for row in rows:
                if row["split"] == "held-out" and row["set"] == "calibrated":
                    row["coverage_90_measured"] = float(inside[row["coordinate"]])
                    row["band_width"] = float(width[row["coordinate"]])
    return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
    header = list(dict.fromkeys(key for row in rows for key in row))
    print(common.table(header, [[row.get(key, "-") for key in header] for row in rows]) + "\n")


def main() -> None:
    options = common.arguments(__doc__).parse_args()
    from calibration.fitting import Status
    from calibration.uncertainty.draws import sample
    from calibration.uncertainty.posterior import laplace_cohort

    began = time.perf_counter()
    people = make_people(QUICK_SUBJECTS if options.quick else SUBJECTS)
    problems = [person.problem for person in people]
    made = time.perf_counter() - began
    results, together = timed(problems)
    # Another number of subjects is another program, so this one compiles too.
    _, alone = timed(problems[:1])
    began = time.perf_counter()
    posteriors = laplace_cohort(problems, results)
    draws = [sample(posterior, DRAWS, seed) for seed, posterior in enumerate(posteriors)]
    posterior_s = time.perf_counter() - began

    times = [{"subjects": len(people), **together}, {"subjects": 1, **alone}]
    for row in times:
        row["cold_s_per_subject"], row["warm_s_per_subject"] = (
            row[f"{x}_s"] / row["subjects"] for x in ("cold", "warm")
        )
    converged = sum(r.status is Status.CONVERGED for r in results)
    parameters, moments = parameter_rows(people, results, draws), moment_rows(people, results, posteriors, draws)
    scales = np.array([[n.scale for n in posterior.noise] for posterior in posteriors])
    print(f"{len(people)} synthetic people, float32, Levenberg-Marquardt, one start; {converged} converged\n")
    print_rows(times)
    print(f"posteriors and {DRAWS} draws each: {posterior_s:.1f} s; making the people: {made:.1f} s\n")
    print("Parameters, in prior standard deviations:\n")
    print_rows(parameters)
    print("Moments of the recordings never fitted (RMSE in N·m, medians over people):\n")
    print_rows(moments)
    elbow_rows = elbow() if "NMS_GYM_DATA" in os.environ else []
    if elbow_rows:
        print("elbow_synthetic: two trials fitted, the third predicted:\n")
        print_rows(elbow_rows)
    print(common.machine())
    common.write(
        options.json,
        {
            "subjects": len(people),
            "converged": converged,
            "times": times,
            "posterior_s": posterior_s,
            "noise_scale_median": float(np.median(scales)),
            "parameters": parameters,
            "moments": moments,
            "elbow_synthetic": elbow_rows,
        },
    )


if __name__ == "__main__":
    main()
