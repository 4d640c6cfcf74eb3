"""Can the rewards be learned? Short trainings beside simple policies, by ``examples/train.py`` in a process each:

    taskset -c 1 python examples/benchmarks/training.py [--quick] [--json FILE] [--out FOLDER]

``apg`` is the analytic policy gradient, ``ppo`` that of brax. All are judged on the same 64 held-out episodes. CPU
seconds are those of the learning, compiling included; ``whole process`` has imports and judging as well.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from common import arguments, table, write

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
# id, algorithm, steps, and those of --quick
RUNS = (
    ("ElbowReach-v0", "apg", 1_000_000, 300_000),
    ("ElbowReach-v0", "ppo", 800_000, 300_000),
    ("ElbowAssist-v0", "apg", 1_000_000, 400_000),
    ("KneeExtension-v0", "apg", 1_000_000, 600_000),
)


def children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--out", type=Path, help="keep curves and results here")
    given = parser.parse_args()
    rows, results = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for name, algorithm, steps, few in RUNS:
            out = (given.out or Path(scratch)) / f"{name}-{algorithm}"
            before = children_cpu_seconds()
            steps = str(few if given.quick else steps)
            subprocess.run(
                [sys.executable, str(TRAIN), name, "--algorithm", algorithm, "--steps", steps, "--out", str(out)],
                check=True,
            )
            result = json.loads((out / "result.json").read_text(encoding="utf-8"))
            result["process_cpu_seconds"] = children_cpu_seconds() - before
            results.append(result)
            last = result["curve"][-1]
            policies = (
                f"{each['return']:.0f} ({each['success']:.0%})" for each in (*result["policies"].values(), last)
            )
            seconds = f"{last['cpu_seconds']:.0f}", f"{result['process_cpu_seconds']:.0f}"
            rows.append([name, *policies, algorithm, f"{last['steps']:,}", *seconds])
    header = ["id", "random", "nothing", "scripted", "trained", "by", "steps", "CPU s", "whole process"]
    print("return (success) over 64 held-out episodes")
    print(table(header, rows))
    write(given.json, {"runs": results})


if __name__ == "__main__":
    main()
