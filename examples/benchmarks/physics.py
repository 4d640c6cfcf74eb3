"""Speed of muscles and skeleton per CPU-second, beside MotorNet, brax and MJX.

    python examples/benchmarks/physics.py [--json FILE] [--quick] [--motornet PYTHON | --install-motornet DIR]

A two-link arm with six muscles, 250 control steps of 5 ms, simulated and differentiated (squared distance of the joint
angles from a target, averaged over the trajectory; gradient with respect to every excitation or torque). Each engine
runs in its own process on one core with one thread, in float32; process CPU time counts, which other work on the
machine hardly changes; compiling is timed apart. Then the latency of one step of the 40-muscle right leg.

What each side models is not the same, and where they differ it is the others that do less:

* NMS Gym: six muscles (De Groote-Fregly curves, first-order activation; rigid tendons, or elastic ones by an implicit
  step), polynomial paths, skeleton, coupled linearly implicitly: one solution per control step.
* MotorNet 0.3 (PyTorch, eager): the same arm. Rigid tendons by one Euler step; the compliant tendon by Runge-Kutta 4 at
  0.2 ms, its default (25 in a control step), and at 2.5 ms, the longest step that still follows the motion. Its time is
  linear in steps and its memory grows with them, so the longest of its cases are timed over fewer. MotorNet is GPL-3:
  it is never imported here, but runs in an environment of its own that you make (``--motornet``) or let be made.
* brax ``generalized`` and MJX: the skeleton only, by semi-implicit Euler and two torques; brax refuses muscles, neither
  has tendons with a fiber in series. "NMS Gym, skeleton" is the same task. MJX also runs six MuJoCo muscles (rigid
  tendon, constant moment arms). One solver iteration, which only joint limits need.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import common

HERE = Path(__file__).parent
ENGINES = ("NMS Gym", "MotorNet", "brax", "MJX")
SKELETON, RIGID, ELASTIC = "skeleton, torques", "six muscles, rigid tendons", "six muscles, elastic tendons"
# What of ours stands beside each variant of theirs.
BESIDE = {
    "ReluMuscle, Euler 5 ms": RIGID,
    "RigidTendonHillMuscle, Euler 5 ms": RIGID,
    "CompliantTendonHillMuscle, RK4 0.2 ms": ELASTIC,
    "CompliantTendonHillMuscle, RK4 2.5 ms": ELASTIC,
    "torques, no limits": SKELETON,
    "torques, joint limits": SKELETON,
    "six MuJoCo muscles, no limits": RIGID,
}


def engine(python: str, script: str, asked: dict[str, Any], timeout: float = 3600) -> list[dict[str, Any]]:
    """Results of one engine's process, and the reason why it ended early if it did."""
    command = [python, str(HERE / script), json.dumps(asked)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        output, why = done.stdout, f"exit code {done.returncode}: {' '.join(done.stderr.split())[-200:]}"
        failed = done.returncode != 0
    except subprocess.TimeoutExpired as error:
        output, why, failed = error.stdout or "", f"stopped after {timeout:.0f} s", True
        output = output.decode() if isinstance(output, bytes) else output
    rows = [json.loads(line.removeprefix("RESULT ")) for line in output.splitlines() if line.startswith("RESULT ")]
    return rows + [absent(asked["engine"], "the rest", why)] * failed


def absent(name: str, what: str, why: str) -> dict[str, Any]:
    return {"engine": name, "variant": what, "batch": "-", "direction": "-", "why": why}


def motornet_python(options: Any) -> str | None:
    """Interpreter of MotorNet's environment, which is made on demand."""
    if options.install_motornet:
        folder = options.install_motornet
        python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
        if not python.exists():
            venv.create(folder, with_pip=True)
            # The processor-only build of PyTorch is a tenth of the size; elsewhere than at PyTorch it is not offered.
            wheels = ["--extra-index-url", "https://download.pytorch.org/whl/cpu"]
            subprocess.run([python, "-m", "pip", "install", "--quiet", "torch", "motornet", *wheels], check=True)
        return str(python)
    return options.motornet


def report(rows: list[dict[str, Any]]) -> None:
    """Tables: speed of every case, ratios to ours, and what could not run."""
    timed = [r for r in rows if "cpu_s" in r]
    speed = {(r["engine"], r["variant"], r["batch"], r["direction"]): r for r in timed}

    def both(*case: Any) -> list[dict[str, Any]]:
        return [speed.get((*case, direction), {}) for direction in ("forward", "backward")]

    def ratios(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[Any]:
        pairs = [(a.get("steps_per_cpu_s"), b.get("steps_per_cpu_s")) for a, b in zip(ours, theirs, strict=True)]
        return [a / b if a and b else "-" for a, b in pairs]

    cases = list(dict.fromkeys((r["engine"], r["variant"], r["batch"]) for r in timed if r["direction"] != "latency"))
    lines = []
    for case in cases:
        results = both(*case)
        lines.append([*case, *map(_rate, results), *(" / ".join(_each(results, k)) for k in ("compile_s", "steps"))])
    header = ["engine, one thread", "what", "batch", "forward steps per CPU-s", "backward", "compile s", "steps timed"]
    print(common.table(header, lines) + "\n")
    lines = [
        [BESIDE[variant], f"{name}: {variant}", batch, *ratios(both("NMS Gym", BESIDE[variant], batch), both(*case))]
        for case in cases
        for name, variant, batch in [case]
        if name != "NMS Gym"
    ]
    print(common.table(["NMS Gym", "times as fast as", "batch", "forward", "backward"], lines) + "\n")
    lines = [
        [batch, *ratios(both("NMS Gym", RIGID, batch), both("NMS Gym", ELASTIC, batch))]
        for name, variant, batch in cases
        if (name, variant) == ("NMS Gym", ELASTIC)
    ]
    print(common.table(["batch", "cost of elastic over rigid tendons, forward", "backward"], lines) + "\n")
    header = ["right leg, 40 muscles, elastic", "precision", "wall us p50", "p99", "CPU us p50", "p99"]
    lines = [[r["variant"], r["dtype"], *r["wall_us"], *r["cpu_us"]] for r in timed if r["direction"] == "latency"]
    print(common.table(header, lines) + "\n")
    lines = [[r[k] for k in ("engine", "variant", "batch", "direction", "why")] for r in rows if "why" in r]
    if lines:
        print(common.table(["did not run", "what", "batch", "direction", "why"], lines) + "\n")


def _rate(row: dict[str, Any]) -> str:
    rate = row.get("steps_per_cpu_s")
    if rate is None:
        return "-"
    unit, name = next((u, n) for u, n in ((1e6, " M"), (1e3, " k"), (1, "")) if rate >= u or u == 1)
    return f"{rate / unit:.3g}{name}" + ("" if row["finite"] else " (not finite)")


def _each(rows: list[dict[str, Any]], key: str) -> list[str]:
    return [f"{row[key]:.3g}" if key in row else "-" for row in rows]


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--motornet", metavar="PYTHON", help="interpreter of an environment with MotorNet")
    parser.add_argument("--install-motornet", type=Path, metavar="DIR", help="make such an environment in this folder")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES, help="only these")
    options = parser.parse_args()
    asked = {"repetitions": 3, "batches": [1, 256]} if options.quick else {"repetitions": 7, "batches": [1, 256, 4096]}
    rows: list[dict[str, Any]] = []
    for name in options.engines:
        work = {**asked, "engine": name}
        if name == "NMS Gym":
            rows += engine(sys.executable, "physics_ours.py", work) + engine(sys.executable, "physics_latency.py", work)
        elif name != "MotorNet":
            rows += engine(sys.executable, "physics_brax.py", work)
        elif python := motornet_python(options):
            rows += engine(python, "physics_motornet.py", work)
        else:
            rows.append(
                absent(name, "everything", "no environment with it: --motornet PYTHON or --install-motornet DIR")
            )
    report(rows)
    print(common.machine())
    common.write(options.json, {"rows": rows})


if __name__ == "__main__":
    main()
