"""Can the rewards be learned? Short trainings beside simple policies, by ``nms-gym train`` in a process each:

    taskset -c 1 python examples/benchmarks/training.py [--quick] [--json FILE] [--out FOLDER] [--seeds N]

``apg`` is the analytic policy gradient, ``ppo`` that of brax. All are scored on the same 64 episodes, of which no
training has seen one and which did not choose the best of the curve either; of several seeds the median, and the least
and the most. CPU seconds are those of the learning, compiling included; ``whole process`` has imports and judging as
well; ``to 90 %`` says when nine of ten episodes succeeded first.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from common import arguments, machine, table, write

# id, algorithm, steps; --quick runs the first with fewer
RUNS = (
    ("ElbowReach-v0", "apg", 300_000),
    ("ElbowReach-v0", "ppo", 800_000),
    ("ArmReach-v0", "apg", 500_000),
    ("ElbowAssist-v0", "apg", 500_000),
    ("FesElbow-v0", "apg", 500_000),
    ("KneeExtension-v0", "apg", 500_000),
    ("AnkleTracking-v0", "apg", 500_000),
    ("AnkleExo-v0", "apg", 300_000),
    ("MomentTracking-v0", "apg", 300_000),
    ("LegSwing-v0", "apg", 200_000),
)
QUICK_STEPS = 100_000
SOLVED = 0.9


def children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(name: str, algorithm: str, steps: int, seed: int, out: Path) -> dict[str, Any]:
    """One training: what it wrote, and the seconds of its process."""
    before = children_cpu_seconds()
    command = [sys.executable, "-m", "nms_gym.cli", "train", name, "--algo", algorithm, "--steps", str(steps)]
    subprocess.run([*command, "--seed", str(seed), "-o", str(out)], check=True, stdout=subprocess.DEVNULL)
    result = json.loads((out / "training.json").read_text(encoding="utf-8"))
    result["process_cpu_seconds"] = children_cpu_seconds() - before
    solved = [p["cpu_seconds"] for p in result["curve"] if p["success"] >= SOLVED]
    result["solved_cpu_seconds"] = solved[0] if solved else None
    return result


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--out", type=Path, help="keep curves and results here")
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    rows, results = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for name, algorithm, full in RUNS[:1] if given.quick else RUNS:
            steps = QUICK_STEPS if given.quick else full
            runs = [
                run(name, algorithm, steps, seed, (given.out or Path(scratch)) / f"{name}-{algorithm}-{seed}")
                for seed in range(given.seeds)
            ]
            results += runs
            simple = [runs[0]["scores"].get(p) for p in ("random", "zero", "baseline")]
            shown = ["" if s is None else f"{s['return']:.0f} ({s['success']:.0%})" for s in simple]
            trained = [r["scores"]["trained"] for r in runs]
            returns = [t["return"] for t in trained]
            text = f"{median(returns):.0f} ({median(t['success'] for t in trained):.0%})"
            spread = f", {min(returns):.0f} to {max(returns):.0f}" if given.seeds > 1 else ""
            solved = [r["solved_cpu_seconds"] for r in runs]
            reached = "" if None in solved else f"{median(solved):.0f}"
            learning = median(r["curve"][-1]["cpu_seconds"] for r in runs)
            process = median(r["process_cpu_seconds"] for r in runs)
            seconds = f"{learning:.0f}", f"{process:.0f}"
            rows.append([name, *shown, text + spread, algorithm, f"{steps:,}", *seconds, reached])
            print(rows[-1], flush=True)
    header = [
        "id",
        "random",
        "nothing",
        "scripted",
        "trained",
        "by",
        "steps",
        "CPU s",
        "whole process",
        "to 90 %, CPU s",
    ]
    print("return (success) over 64 held-out episodes")
    print(table(header, rows))
    print(machine())
    write(given.json, {"runs": results, "seeds": given.seeds})


if __name__ == "__main__":
    main()
