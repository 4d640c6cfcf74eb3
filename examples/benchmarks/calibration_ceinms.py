"""Calibration of CEINMS's own files, rigid and elastic: with CEINMS's model, and with ours, beside what CEINMS found.

    NMS_GYM_DATA=DIR python examples/benchmarks/calibration_ceinms.py [--json FILE] [--quick]

Five starts, each a calibration of its own; best, median and worst by CEINMS's objective f. Every f is computed by
CEINMS's model with its jumping penalty; "f ours" is the same sum of torque errors by our model. The next stance (1.415
to 2.300 s) is no part of the files: coordinates at 8 Hz, inverse dynamics by nms_gym, EMG from 0.1 s before, lengths by
the fitted paths of the shipped leg, which are moved by their mean difference to the files' lengths.

Cold: a new process with an empty compilation cache, from its start to the subject file on disk. Warm: the same study
again in that process, files read anew. Times are medians over the starts.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import common
import numpy as np

# A script beside this one is named like the package it measures; Python would find it first.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

DATA = Path(os.environ.get("NMS_GYM_DATA", "."))
EXAMPLE = DATA / "ceinms_format_example"
WALK = DATA / "rajagopal_walk"
NEXT = (1.415, 2.300)
WARM_UP = 0.1
DT = 0.005
TENDONS = {"stiff": "stiff", "elastic": "equilibriumElastic"}
# README of the files: f, CPU seconds, RMSE of knee and ankle on the stride and on the next stance, N·m.
CEINMS: dict[str, dict[str, Any]] = {
    "stiff": {"f": 0.1316, "cpu_s": 22.0, "fit": (5.9, 13.3), "next": (8.2, 17.2)},
    "elastic": {"f": 0.057, "cpu_s": 229.0, "fit": (5.3, 6.5), "next": (8.5, 11.6)},
}
# What is calibrated, with which options of calibrate_ceinms.
FITS: dict[str, dict[str, Any]] = {
    "CEINMS's model": {},
    "CEINMS's model, prior kept": {"weight": 3e3},
    "ours": {"model": "nms_gym"},
}

WORKER = """
import json, sys, time
folder, tendon, seed, out, options = sys.argv[1:6]
from calibration.ceinms.calibrate import calibrate_ceinms
from nms_gym.files.ceinms import write_ceinms_subject
from nms_gym.recording.ceinms import read_ceinms_excitations, read_ceinms_subject
laps = []
for lap in range(3):
    began, cpu = time.perf_counter(), time.process_time()
    subject = read_ceinms_subject(folder + "/uncalibrated.xml")
    excitations = read_ceinms_excitations(folder + "/excitationGenerator.xml")
    fit = calibrate_ceinms(
        folder + "/calibration_" + tendon + ".xml", subject, excitations, seed=int(seed), **json.loads(options)
    )
    write_ceinms_subject(out, fit.subject, calibration="calibration_" + tendon)
    laps.append(dict(at=time.time(), wall=time.perf_counter() - began, cpu=time.process_time() - cpu,
        process_cpu=time.process_time()))
print(json.dumps(laps))
"""


def timed(tendon: str, seed: int, out: Path, options: dict[str, Any]) -> dict[str, float]:
    """One new process with an empty cache; its subject is at ``out``."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(Path(folder) / "cache")}
        began = time.time()
        printed = subprocess.run(
            [sys.executable, "-c", WORKER, str(EXAMPLE), tendon, str(seed), str(out), json.dumps(options)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    first, *rest = json.loads(printed)
    return {
        "cold_s": first["at"] - began,
        "cold_cpu_s": first["process_cpu"],
        "warm_s": statistics.median(lap["wall"] for lap in rest),
        "warm_cpu_s": statistics.median(lap["cpu"] for lap in rest),
    }


def next_stance(subject: Any, calibrated_on: Any) -> tuple[Any, dict[str, float]]:
    """The stance after the files' stride as a recording, and by how much (mm) lengths were moved to agree with them."""
    import jax
    from scipy.interpolate import make_interp_spline

    from nms_gym._assets import asset_path
    from nms_gym.files.model_file import read_model_file
    from nms_gym.muscle.geometry import lengths_and_moment_arms
    from nms_gym.recording.external_loads import read_external_loads
    from nms_gym.recording.muscle_analysis import MuscleAnalysis
    from nms_gym.recording.osim import read_osim
    from nms_gym.recording.storage import Table, read_table
    from nms_gym.recording.trial import make_trial
    from nms_gym.skeleton.recorded_motion import CoordinateWarning, moments_of_motion, read_motion

    dofs, muscles = tuple(subject.dofs), subject.muscle_names
    osim = read_osim(WALK / "original" / "subject_walk_scaled.osim")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CoordinateWarning)
        motion = read_motion(WALK / "ik_walk_full.mot", osim, 8.0)
    moments = moments_of_motion(osim, motion, dofs, loads=read_external_loads(WALK / "original" / "grf_walk.xml"))
    paths = read_model_file(asset_path("right_leg/model.json")).paths
    assert paths is not None
    angles = make_interp_spline(motion.time, motion.select(paths.coordinates)[0], k=5)
    geometry = jax.jit(jax.vmap(lengths_and_moment_arms, in_axes=(None, 0)))

    def at(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with jax.enable_x64(True):
            lengths, arms = map(np.asarray, geometry(paths, angles(times)))
        columns = [paths.muscles.index(m) for m in muscles]
        return lengths[:, columns], arms[:, [paths.coordinates.index(d) for d in dofs]][:, :, columns]

    offset = np.mean(at(calibrated_on.time)[0] - calibrated_on.lengths, axis=0)
    times = NEXT[0] + DT * np.arange(round((NEXT[1] - NEXT[0]) / DT) + 1)
    lengths, arms = at(times)
    envelopes = read_table(WALK / "original" / "electromyography.sto", columns=calibrated_on.channels)
    before = np.concatenate([times[0] - DT * np.arange(round(WARM_UP / DT), 0, -1), times])
    emg = np.stack([np.interp(before, envelopes.time, column) for column in envelopes.data.T], axis=1)
    trial = make_trial(
        "next stance",
        Table("next stance", (), times, np.zeros((len(times), 0))),
        emg=Table("next stance", calibrated_on.channels, before, np.maximum(emg, 0.0)),
        moments=Table("next stance", dofs, times, make_interp_spline(moments.time, moments.moments)(times)),
        geometry=MuscleAnalysis("next stance", times, muscles, dofs, lengths - offset, None, arms),
    )
    return trial, dict(zip(muscles, (1e3 * offset).round(3).tolist(), strict=True))


def ours_on(subject: Any, excitations: Any, trial: Any, tendon: str) -> dict[str, Any]:
    """f without the penalty, and RMSE, by our model."""
    from calibration.validation import predict_segment
    from nms_gym.files.ceinms import ceinms_model
    from nms_gym.model.replay import make_segment

    model, params = ceinms_model(subject, excitations, dt=DT, tendon="rigid" if tendon == "stiff" else "elastic")
    segment = make_segment(model, trial, lead_in=0.0)
    assert segment.measured is not None
    error = predict_segment(model, params, segment).moments - segment.measured
    squares = np.mean(error**2, axis=0)
    return {
        "f": float(np.sum(squares / segment.measured.var(axis=0, ddof=1))),
        "rmse": dict(zip(segment.coordinates, np.sqrt(squares).tolist(), strict=True)),
    }


def run(quick: bool = False) -> dict[str, Any]:
    """Rows of the table: uncalibrated, CEINMS's own, and best, median and worst of the starts of each fit."""
    from calibration.ceinms.calibrate import score_ceinms
    from nms_gym.recording.ceinms import (
        load_ceinms_trial,
        read_ceinms_excitations,
        read_ceinms_subject,
        read_ceinms_trial,
    )

    uncalibrated = read_ceinms_subject(EXAMPLE / "uncalibrated.xml")
    excitations = read_ceinms_excitations(EXAMPLE / "excitationGenerator.xml")
    stride = load_ceinms_trial(read_ceinms_trial(EXAMPLE / "calib" / "trial.xml"), uncalibrated, excitations)
    following, moved = next_stance(uncalibrated, stride)

    def row(tendon: str, fit: str, which: str, subject: Any, times: dict[str, float]) -> dict[str, Any]:
        on = {"fit": stride, "next": following}
        scores = {name: score_ceinms(subject, excitations, trial, TENDONS[tendon]) for name, trial in on.items()}
        ours = {name: ours_on(subject, excitations, trial, tendon) for name, trial in on.items()}
        result: dict[str, Any] = {"tendon": tendon, "fit": fit, "start": which, "f": scores["fit"].objective}
        result["f ours"] = ours["fit"]["f"]
        # A fit is judged by the model it was made with.
        for name in on:
            rmse = ours[name]["rmse"] if fit == "ours" else scores[name].rmse
            result |= {f"{name} {dof.split('_')[0]}": value for dof, value in rmse.items()}
        return {**result, **times}

    rows = []
    for tendon, theirs in CEINMS.items():
        rows.append(row(tendon, "uncalibrated", "-", uncalibrated, {}))
        names = ("fit knee", "fit ankle", "next knee", "next ankle")
        errors = dict(zip(names, (*theirs["fit"], *theirs["next"]), strict=True))
        rows.append(
            {
                "tendon": tendon,
                "fit": "CEINMS (C++)",
                "start": "-",
                "f": theirs["f"],
                **errors,
                "warm_cpu_s": theirs["cpu_s"],
            }
        )
        for fit, options in FITS.items():
            found = []
            with tempfile.TemporaryDirectory() as folder:
                for seed in range(3 if quick else 5):
                    file = Path(folder) / f"{seed}.xml"
                    times = timed(tendon, seed, file, options)
                    found.append(row(tendon, fit, "", read_ceinms_subject(file), times))
            found.sort(key=lambda r: r["f ours" if fit == "ours" else "f"])
            chosen = {"best": found[0], "median": found[len(found) // 2], "worst": found[-1]}
            middle = {key: statistics.median(r[key] for r in found) for key in found[0] if key.endswith("_s")}
            rows += [{**r, **middle, "start": name} for name, r in chosen.items()]
    return {"rows": rows, "lengths_moved_mm": moved}


HEADER = (
    *("tendon", "fit", "start", "f", "f ours", "fit knee", "fit ankle", "next knee", "next ankle"),
    *("cold_cpu_s", "cold_s", "warm_cpu_s", "warm_s"),
)


def table(results: dict[str, Any]) -> str:
    """Markdown of what ``run`` returns."""
    return common.table(list(HEADER), [[row.get(key, "-") for key in HEADER] for row in results["rows"]])


def main() -> None:
    options = common.arguments(__doc__).parse_args()
    results = run(options.quick)
    print(table(results))
    print(f"\n{common.machine()}")
    common.write(options.json, results)


if __name__ == "__main__":
    main()
