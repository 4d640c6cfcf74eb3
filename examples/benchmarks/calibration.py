"""Calibration: time and accuracy on real walking, uncalibrated and held-out rows beside the fit.

    NMS_GYM_DATA=DIR python examples/benchmarks/calibration.py [--json FILE] [--quick]

Cold: a new process with an empty compilation cache, from its start to the subject file on disk, scoring and report left
out.
Warm: the same study again in that process (files read anew, nothing compiled). Medians over the repetitions. The
accuracy comes from the same fits: windows that were fitted, other strides, and another speed.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common

# This script is named like the package it measures; Python would find itself first.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

STUDIES = Path(__file__).resolve().parents[1] / "configs"
# The study that is timed, with each solver; the others are scored only.
TIMED = "ceinms_rt_walk"
SCORED = ("rajagopal_walk", "elbow_synthetic", "nmsm_multi_trial", "stroke_gait_left", "uf3_right_leg")

WORKER = """
import sys, time
study_file, out, solver, starts = sys.argv[1:5]
import dataclasses, json, resource
from calibration.config import read_study
from calibration.workflow import calibrate
from nms_gym.subject import save_subject
laps = []
for lap in range(3):
    began, cpu = time.perf_counter(), time.process_time()
    study = read_study(study_file)
    study = dataclasses.replace(study, fit_options={**study.fit_options, "solver": solver, "starts": int(starts)})
    outcome = calibrate(study, evaluate=False)
    save_subject(out, outcome.subject)
    r = outcome.result
    laps.append(dict(at=time.time(), wall=time.perf_counter() - began, cpu=time.process_time() - cpu,
    process_cpu=time.process_time(),
        compile=r.compile_seconds, run=r.run_seconds, iterations=r.iterations, cost=r.cost, status=r.status.name))
print(json.dumps(laps))
"""


def timed(study: Path, solver: str, starts: int) -> dict[str, Any]:
    """One new process with an empty cache: its first run is cold, the median of the others warm."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(Path(folder) / "cache")}
        began = time.time()
        out = subprocess.run(
            [sys.executable, "-c", WORKER, str(study), str(Path(folder) / "subject.json"), solver, str(starts)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    first, *rest = json.loads(out)
    return {
        "cold_s": first["at"] - began,
        "cold_cpu_s": first["process_cpu"],
        "compile_s": first["compile"],
        "run_s": first["run"],
        "warm_s": statistics.median(lap["wall"] for lap in rest),
        "warm_cpu_s": statistics.median(lap["cpu"] for lap in rest),
        "iterations": first["iterations"],
        "cost": first["cost"],
        "status": first["status"],
    }


def scored(study: Path) -> list[dict[str, Any]]:
    from calibration.config import read_study
    from calibration.workflow import calibrate

    read = read_study(study)
    rows = [dict(row) for row in calibrate(read).rows]
    if not read.held_out:
        rows += [
            {"set": "calibrated", "split": "held-out", "segment": "none exists", "coordinate": c}
            for c in read.problem.coordinates
        ]
    return [{"study": read.name, **row} for row in rows]


def main() -> None:
    options = common.arguments(__doc__).parse_args()
    repetitions = 1 if options.quick else 3
    times: dict[str, dict[str, Any]] = {}
    for solver, starts in (("lm", 1), ("lm", 4), ("adam", 1)):
        laps = [timed(STUDIES / f"{TIMED}.toml", solver, starts) for _ in range(repetitions)]
        middle = {k: statistics.median(lap[k] for lap in laps) for k, v in laps[0].items() if not isinstance(v, str)}
        times[f"{solver}, {starts} start{'s' * (starts > 1)}"] = {**middle, "status": laps[0]["status"]}
    header = ["cold_s", "cold_cpu_s", "compile_s", "run_s", "warm_s", "warm_cpu_s", "iterations", "cost"]
    print(f"{TIMED}: elastic tendon, 12 muscles, knee and ankle, 5 strides; medians of {repetitions}\n")
    print(common.table(["solver", *header], [[name, *(float(t[h]) for h in header)] for name, t in times.items()]))

    rows = [row for name in (TIMED, *(() if options.quick else SCORED)) for row in scored(STUDIES / f"{name}.toml")]
    keys = ["study", "split", "segment", "coordinate", "set", "rmse", "nrmse", "r2", "r"]
    print("\n" + common.table(keys, [[row.get(k, "-") for k in keys] for row in rows]))
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1e6
    print(f"\n{common.machine()}\npeak memory {peak:.2f} GB")
    common.write(options.json, {"times": times, "accuracy": rows, "peak_memory_gb": peak})


if __name__ == "__main__":
    main()
