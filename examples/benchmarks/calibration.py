"""Calibration: time and accuracy, uncalibrated and held-out rows beside every fit.

    NMS_GYM_DATA=DIR python examples/benchmarks/calibration.py [--json FILE] [--quick]

Cold: a new process with an empty compilation cache, from its start to the subject file on disk, scoring and report left
out. Warm: the same study again in that process (files read anew, nothing compiled). Medians over the repetitions.

* Real walking (``ceinms_rt_walk``): cold and warm time of each solver.
* Every public data set: windows that were fitted, other strides, another speed; "none exists" where there is no second
  window. EMG-driven and synergy-hybrid calibration of one person side by side, each direction of a fit across speeds.
* The problem of the CEINMS files, beside CEINMS's own result (``calibration_ceinms.py``).
* Recovery of 64 synthetic people in one batch (``calibration_recovery.py``).
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import calibration_ceinms
import common
from studies import STUDIES, as_it_is, emg_driven, swapped

# This script is named like the package it measures; Python would find itself first.
HERE = Path(__file__).resolve().parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE]

# The study that is timed, with each solver; the others are scored only.
TIMED = "ceinms_rt_walk"


# (study, what is changed in its text, how the row is called)
SCORED: tuple[tuple[str, Callable[[str], str], str], ...] = (
    (TIMED, as_it_is, "EMG-driven"),
    ("rajagopal_walk", as_it_is, "EMG-driven"),
    ("rajagopal_hip", emg_driven, "EMG-driven"),
    ("rajagopal_hip", as_it_is, "synergy-hybrid"),
    ("nmsm_multi_trial", emg_driven, "EMG-driven, passive trials"),
    ("nmsm_multi_trial", as_it_is, "synergy-hybrid, passive trials"),
    ("nmsm_multi_trial", lambda text: swapped(emg_driven(text)), "EMG-driven, passive trials, swapped"),
    ("nmsm_multi_trial", swapped, "synergy-hybrid, passive trials, swapped"),
    ("stroke_gait_left", emg_driven, "EMG-driven, no residuals"),
    ("stroke_gait_left", as_it_is, "synergy-hybrid, no residuals"),
    ("elbow_synthetic", as_it_is, "EMG-driven"),
    ("uf3_right_leg", as_it_is, "EMG-driven"),
)
QUICK = (TIMED, "rajagopal_hip")

WORKER = """
import sys, time
study_file, out, solver, starts = sys.argv[1:5]
import dataclasses, json, resource
from calibration.study.read import read_study
from calibration.study.calibrate import calibrate
from nms_gym.files.subject import save_subject
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


def scored(name: str, change: Callable[[str], str], label: str) -> list[dict[str, Any]]:
    """Metrics rows of a study, changed, and the CPU seconds of its fit (compiling included)."""
    from calibration.study.calibrate import calibrate
    from calibration.study.read import read_study

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.toml"
        file.write_text(change((STUDIES / f"{name}.toml").read_text(encoding="utf-8")), encoding="utf-8")
        read = read_study(file)
    began = time.process_time()
    outcome = calibrate(read, evaluate=False)
    seconds = time.process_time() - began
    from calibration.validation import tabulate

    rows = tabulate(read.model, read.start, outcome.result.params, read.train, read.held_out)
    if not read.held_out:
        rows += [
            {"set": "calibrated", "split": "held-out", "segment": "none exists", "coordinate": c}
            for c in read.problem.coordinates
        ]
    return [{"study": name, "mode": label, **row, "fit_cpu_s": seconds} for row in rows]


def means(rows: list[dict[str, Any]]) -> list[list[Any]]:
    """Mean RMSE over joints of every study, mode, set and window."""
    groups: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        if "rmse" in row:
            groups.setdefault(tuple(row[k] for k in ("study", "mode", "split", "segment", "set")), []).append(
                row["rmse"]
            )
    return [[*key, statistics.mean(values)] for key, values in groups.items()]


def recovery(quick: bool) -> dict[str, Any]:
    """64 synthetic people, in a process of their own: compiling counts."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "recovery.json"
        script = [sys.executable, str(HERE / "calibration_recovery.py"), "--json", str(out), *["--quick"] * quick]
        print(subprocess.run(script, capture_output=True, text=True, check=True).stdout)
        return json.loads(out.read_text())


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

    chosen = [s for s in SCORED if not options.quick or s[0] in QUICK]
    rows = [row for study in chosen for row in scored(*study)]
    keys = ["study", "mode", "split", "segment", "coordinate", "set", "rmse", "nrmse", "r2", "r"]
    print("\n" + common.table(keys, [[row.get(k, "-") for k in keys] for row in rows]))
    print("\nMean over joints; fits that reach the same error differ on data that they did not see\n")
    print(common.table(["study", "mode", "split", "segment", "set", "rmse"], means(rows)))
    if not options.quick:
        print(
            "\nstroke_gait_left, published (NMSM Pipeline, 590 s): mean RMSE 2.45 N·m with residual excitations added "
            "to the EMG, 6.27 without them"
        )
    ceinms = calibration_ceinms.run(options.quick)
    print("\n" + calibration_ceinms.table(ceinms) + "\n")
    people = recovery(options.quick)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1e6
    print(f"\n{common.machine()}\npeak memory {peak:.2f} GB")
    common.write(
        options.json,
        {"times": times, "accuracy": rows, "ceinms": ceinms, "recovery": people, "peak_memory_gb": peak},
    )


if __name__ == "__main__":
    main()
