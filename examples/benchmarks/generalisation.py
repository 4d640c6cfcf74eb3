"""Moments that no fit has seen: the model, what it leaves unexplained, and bands.

    NMS_GYM_DATA=DIR python examples/benchmarks/generalisation.py [--json FILE] [--quick]

Every study of real recordings that has held-out windows, EMG-driven and, where muscles lack EMG, synergy-hybrid; fits
across speeds in both directions. Of each set of windows and joint: R2 and RMSE

* uncalibrated,
* calibrated, the median over five starts' seeds,
* calibrated with the discrepancy (``calibration.fit_discrepancy``),
* of its simplest rival: the same Gaussian process on the same inputs without any muscle, given the measured moments,

and the coverage and half-width of 90 % bands. These rows are not all unseen by what made them: length scales of 2 and 3
standard deviations were looked at on rajagopal_walk, rajagopal_hip and ceinms_rt_walk, where 1.5 to 3 do alike, and the
noise's prior was put in after rajagopal_hip showed that one stride cannot tell noise from discrepancy.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
from studies import STUDIES, as_it_is, emg_driven, swapped

# A script of this folder is named like the package; Python would find it first.
HERE = Path(__file__).resolve().parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE]

CASES: tuple[tuple[str, Callable[[str], str], str], ...] = (
    ("ceinms_rt_walk", as_it_is, "EMG-driven"),
    ("rajagopal_walk", as_it_is, "EMG-driven"),
    ("rajagopal_hip", emg_driven, "EMG-driven"),
    ("rajagopal_hip", as_it_is, "synergy-hybrid"),
    ("nmsm_multi_trial", emg_driven, "EMG-driven"),
    ("nmsm_multi_trial", lambda text: swapped(emg_driven(text)), "EMG-driven, swapped"),
    ("nmsm_multi_trial", as_it_is, "synergy-hybrid"),
    ("nmsm_multi_trial", swapped, "synergy-hybrid, swapped"),
)
QUICK = CASES[:2]
SEEDS, QUICK_SEEDS = 5, 1
DRAWS = 100


def without_muscles(study: Any, segments: Sequence[Any]) -> Any:
    """The rival: what the discrepancy would be if the model predicted nothing, on the uncalibrated activations."""
    from calibration.uncertainty.discrepancy import discrepancy_inputs, learn
    from calibration.validation import predict_segment

    def inputs(segment: Any) -> tuple[tuple[str, ...], np.ndarray]:
        return discrepancy_inputs(study.model, segment, predict_segment(study.model, study.start, segment))

    names = inputs(study.train[0])[0]
    found = learn(
        study.train,
        names,
        [inputs(s)[1][s.scored] for s in study.train],
        [s.measured[s.scored] for s in study.train],
    )
    predicted = np.concatenate([found.mean(inputs(s)[1], s.recording)[s.scored] for s in segments])
    return predicted, np.concatenate([s.measured[s.scored] for s in segments])


def rows(name: str, change: Callable[[str], str], mode: str, seeds: int) -> list[dict[str, Any]]:
    """One study: a row per set of windows and joint."""
    from calibration.fitting import fit
    from calibration.study.read import read_study
    from calibration.uncertainty.analysis import analyse
    from calibration.validation import compare, evaluate

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.toml"
        file.write_text(change((STUDIES / f"{name}.toml").read_text(encoding="utf-8")), encoding="utf-8")
        study = read_study(file)
    began = time.process_time()
    results = [fit(study.problem, **{**study.fit_options, "seed": seed}) for seed in range(seeds)]
    fit_s = (time.process_time() - began) / seeds
    middle = sorted(results, key=lambda r: r.cost)[seeds // 2]
    began = time.process_time()
    analysis = analyse(study.problem, middle, study.held_out, samples=DRAWS)
    analysis_s = time.process_time() - began
    corrected = {(r["segment"], r["coordinate"]): r for r in analysis.corrected}
    found = []
    for bands, segments in zip(analysis.bands, (study.train, *study.held_out.values()), strict=True):
        before = evaluate(study.model, study.start, segments)
        after = [evaluate(study.model, r.params, segments) for r in results]
        predicted, measured = without_muscles(study, segments)
        for k, c in enumerate(study.problem.coordinates):
            rival = compare(c, predicted[:, k], measured[:, k])
            both = corrected[bands.label, c]
            found.append(
                {
                    "study": name,
                    "mode": mode,
                    "windows": bands.label,
                    "joint": c,
                    "uncalibrated_r2": before[k].r2,
                    "calibrated_r2": float(np.median([a[k].r2 for a in after])),
                    "with_discrepancy_r2": both["r2"],
                    "no_muscles_r2": rival.r2,
                    "calibrated_rmse": float(np.median([a[k].rmse for a in after])),
                    "with_discrepancy_rmse": both["rmse"],
                    "no_muscles_rmse": rival.rmse,
                    "coverage_90": bands.coverage.get(c),
                    "half_width": bands.half_width[c],
                    "fit_cpu_s": fit_s,
                    "analysis_cpu_s": analysis_s,
                    "effective_draws": analysis.trust.effective,
                }
            )
    return found


def main() -> None:
    options = common.arguments(__doc__).parse_args()
    found: list[dict[str, Any]] = []
    for case in QUICK if options.quick else CASES:
        found += rows(*case, QUICK_SEEDS if options.quick else SEEDS)
        header = [k for k in found[0] if k not in ("fit_cpu_s", "analysis_cpu_s", "effective_draws")]
        new = [r for r in found if (r["study"], r["mode"]) == (case[0], case[2])]
        print(common.table(header, [[r[k] for k in header] for r in new]), flush=True)
        print(
            f"\nfit {new[0]['fit_cpu_s']:.1f} CPU s, analysis {new[0]['analysis_cpu_s']:.1f} CPU s, both with "
            f"compiling; effective draws {new[0]['effective_draws']:.1f} of {DRAWS}\n",
            flush=True,
        )
    print(common.machine())
    common.write(options.json, {"rows": found})


if __name__ == "__main__":
    main()
