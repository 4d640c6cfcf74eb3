"""What measurements of single muscles tell a calibration beside joint moments, of people whose parameters are known.

    python examples/benchmarks/targets.py [--json FILE] [--quick]

Synthetic people (arm, 6 muscles with elastic tendons, 4 channels), as in ``calibration_recovery.py``: drawn from the
prior, two recordings of 3 s, EMG 10 % off, moments with 3 % noise. They are calibrated on the moments alone, and again
where two muscles, long head of biceps and brachialis, were measured too: fiber lengths as by ultrasound, or tendon
forces. Rows are medians over people: how wide the posterior is, and how far the solution
is from the truth, both over the prior standard deviation (so 1 is "nothing was learned"), of the parameters of the two
measured muscles and of the others.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import common
import numpy as np

# A script beside this one is named like the package; Python would find it first.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

SUBJECTS, QUICK_SUBJECTS = 16, 3
MUSCLES = ("BIClong", "BRA")
NOISE = {"fiber_lengths": 0.003, "tendon_forces": 20.0}
"""m, N: tolerances, too"""
MEASURED: dict[str, tuple[str, ...]] = {
    "moments alone": (),
    "fiber lengths": ("fiber_lengths",),
    "tendon forces": ("tendon_forces",),
}
KINDS = ("optimal_fiber_length", "tendon_slack_length", "max_isometric_force", "emg_gain")


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
    model = NmsModel(arm.muscles, arm.coordinates, tuple(drives), Settings(tendon="elastic"), weights, arm.paths)
    start = make_params(model, arm.parameters)
    motion = {"middle": (0.2, 1.1), "reach": (0.4, 0.6)}
    penalties = Penalties(moment_tolerance=0.1)
    return [
        make_person(model, start, default_free(model), seed=seed, penalties=penalties, **motion)
        for seed in range(count)
    ]


def belongs(name: str) -> bool:
    """Whether an entry "kind:muscle or channel" is one of the measured muscles'."""
    return name.split(":")[1] in (*MUSCLES, "biceps", "brachialis")


def rows_of(label: str, people: list[Any], results: list[Any], posteriors: list[Any]) -> list[dict[str, Any]]:
    """Posterior standard deviation and error by kind, apart for the measured muscles and the others."""
    names = results[0].layout.names
    sd = np.array([np.sqrt(np.diag(p.best.covariance)) for p in posteriors])
    error = np.abs([r.z - p.z for r, p in zip(results, people, strict=True)])
    rows = []
    for kind in KINDS:
        row: dict[str, Any] = {"measured": label, "parameter": kind}
        for who, mine in (("measured", True), ("others", False)):
            columns = [i for i, n in enumerate(names) if n.startswith(f"{kind}:") and belongs(n) is mine]
            row[f"sd_{who}"] = float(np.median(sd[:, columns]))
            row[f"error_{who}"] = float(np.median(error[:, columns]))
        rows.append(row)
    return rows


def main() -> None:
    options = common.arguments(__doc__).parse_args()
    from calibration.cohort import fit_cohort
    from calibration.fitting import Status
    from calibration.synthetic import with_targets
    from calibration.uncertainty.identifiability import identifiability
    from calibration.uncertainty.posterior import laplace_cohort
    from calibration.validation import evaluate

    people = make_people(QUICK_SUBJECTS if options.quick else SUBJECTS)
    parameters, known = [], []
    for label, quantities in MEASURED.items():
        measured = dict.fromkeys(quantities, MUSCLES)
        problems = [with_targets(p, measured, NOISE, seed=i) if measured else p.problem for i, p in enumerate(people)]
        wall, cpu = time.perf_counter(), time.process_time()
        results = fit_cohort(problems, precision="float32")
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        posteriors = laplace_cohort(problems, results)
        reports = [identifiability(p) for p in posteriors]
        unseen = [
            [m.rmse for m in evaluate(p.problem.model, r.params, p.unseen)]
            for p, r in zip(people, results, strict=True)
        ]
        parameters += rows_of(label, people, results, posteriors)
        known.append(
            {
                "measured": label,
                "converged": sum(r.status is Status.CONVERGED for r in results),
                "determined": float(np.median([r.determined for r in reports])),
                "effective": float(np.median([r.effective for r in reports])),
                "of": len(reports[0].parameters),
                **{
                    f"unseen_rmse_{c}": float(x)
                    for c, x in zip(people[0].problem.coordinates, np.median(unseen, axis=0), strict=True)
                },
                "fit_s": wall,
                "fit_cpu_s": cpu,
            }
        )
        print(known[-1], flush=True)
    print(f"\n{len(people)} synthetic people; measured: {', '.join(MUSCLES)}\n")
    for rows in (parameters, known):
        header = list(rows[0])
        print(common.table(header, [[row[key] for key in header] for row in rows]) + "\n")
    print(common.machine())
    common.write(options.json, {"subjects": len(people), "noise": NOISE, "parameters": parameters, "known": known})


if __name__ == "__main__":
    main()
