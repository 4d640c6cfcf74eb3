"""Which defaults predict what they were not fitted to, chosen for every recording by the others.

    NMS_GYM_DATA=DIR python examples/benchmarks/defaults.py [--json FILE] [--quick]

A row is a candidate on a recording: how far moments are expected to be off (``moment_tolerance``), whether delay and
filter are shared by all channels or a channel's own, shrunk to their common mean (``correlation``), and whether optimal
fiber length depends on activation. Its error is that of moments which no fit has seen, squared over the variance of the
measured ones, mean over joints:

* of recordings with other strides or speeds, what the study holds out (nmsm_multi_trial from either speed to the
  other),
* of elbow_synthetic, three recordings made by other software, each from the other two,
* of kul_walk and uf3_right_leg, one stride each, four blocks of time, each from the other three. That says less than
  another stride would, and asks for more: a part of the gait cycle that was not seen.

No recording may choose what is then reported of it. So the last table has for every recording the candidate that is
best on all the *others*: the least geometric mean of errors relative to the first candidate's.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
from studies import STUDIES, as_it_is, emg_driven, swapped

# A script of this folder is named like the package; Python would find it first.
HERE = Path(__file__).resolve().parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE]

BLOCKS = 4
Candidate = tuple[float, tuple[float | None, bool]]
# Recordings and studies of them: what changes its text, and how much is left out at a time: of one stride blocks
# between two times, whole recordings, or what the study holds out.
CASES: tuple[tuple[str, str, Callable[[str], str], tuple[float, float] | str], ...] = (
    ("rajagopal_walk", "rajagopal_walk", as_it_is, "held out"),
    ("elbow_synthetic", "elbow_synthetic", as_it_is, "recordings"),
    ("ceinms_rt_lowerlimb", "ceinms_rt_walk", as_it_is, "held out"),
    ("uf3_right_leg", "uf3_right_leg", as_it_is, (0.5, 1.6)),
    ("nmsm_multi_trial", "nmsm_multi_trial", emg_driven, "held out"),
    ("nmsm_multi_trial, swapped", "nmsm_multi_trial", lambda text: swapped(emg_driven(text)), "held out"),
    ("kul_walk", "kul_walk", emg_driven, (1.2, 2.3)),
)
# Tolerance; the correlation of channels' own delay and filter, None where all share one; whether optimal fiber length
# depends on activation.
CANDIDATES: tuple[Candidate, ...] = (
    (0.3, (None, False)),
    (0.1, (None, False)),
    (0.3, (0.8, False)),
    (0.1, (0.8, False)),
    (0.1, (0.8, True)),
)
QUICK = CASES[:2]


def windows(text: str, leaving: tuple[float, float] | str) -> str:
    """The study with everything to train on where parts of it are left out in turn."""
    if leaving == "held out":
        return text
    if leaving == "recordings":
        return text.replace("held_out = true", "train = true")
    edges = np.round(np.linspace(*leaving, BLOCKS + 1), 3)
    blocks = [[float(a), float(b)] for a, b in itertools.pairwise(edges)]
    text = re.sub(r"^held_out = .*\n", "", text, flags=re.MULTILINE)
    return re.sub(r"^train = .*$", f"train = {blocks}", text, flags=re.MULTILINE)


def changed(problem: Any, tolerance: float, correlation: float | None, length_change: bool) -> Any:
    """The study's problem with the candidate's parameters in place of its own of those kinds."""
    from calibration.problem import DEFAULT_FREE

    free = {f.kind: f for f in problem.free}
    for kind in ("electromechanical_delay", "filter_time_constant_1"):
        if kind in free:
            own = {"share": "all"} if correlation is None else {"share": "each", "correlation": correlation}
            free[kind] = dataclasses.replace(free[kind], **{"correlation": 0.0, **own})
    free.pop("optimal_fiber_length_change", None)
    if length_change:
        free["optimal_fiber_length_change"] = DEFAULT_FREE["optimal_fiber_length_change"]
    penalties = dataclasses.replace(problem.penalties, moment_tolerance=tolerance)
    return dataclasses.replace(problem, free=tuple(free.values()), penalties=penalties)


def unseen_error(problem: Any, unseen: Sequence[Any], fit_options: dict[str, Any]) -> tuple[float, float]:
    """Of what was not fitted, and of what was. Without ``unseen``, each segment is left out in turn."""
    from calibration.fitting import fit
    from calibration.validation import predict_segment

    def error(params: Any, segments: Sequence[Any]) -> float:
        measured = np.concatenate([s.measured[s.scored] for s in segments])
        predicted = [np.asarray(predict_segment(problem.model, params, s).moments)[s.scored] for s in segments]
        return float(np.mean((np.concatenate(predicted) - measured) ** 2 / variance(segments)))

    def variance(segments: Sequence[Any]) -> np.ndarray:
        # Of blocks, the whole stride's: a block's own may be next to nothing.
        pool = segments if unseen else problem.segments
        return np.concatenate([s.measured[s.scored] for s in pool]).var(axis=0)

    if unseen:
        params = fit(problem, **fit_options).params
        return error(params, unseen), error(params, problem.segments)
    found = []
    for segment in problem.segments:
        others = tuple(s for s in problem.segments if s is not segment)
        params = fit(dataclasses.replace(problem, segments=others), **fit_options).params
        found.append((error(params, [segment]), error(params, others)))
    out, fitted = np.mean(found, axis=0)
    return float(out), float(fitted)


def rows(case: tuple[str, str, Callable[[str], str], Any], candidates: Sequence[Candidate]) -> Iterator[dict[str, Any]]:
    """One study: a row per candidate."""
    from calibration.study.read import read_study

    recording, name, change, leaving = case
    text = windows(change((STUDIES / f"{name}.toml").read_text(encoding="utf-8")), leaving)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.toml"
        file.write_text(text, encoding="utf-8")
        study = read_study(file)
    unseen = [s for segments in study.held_out.values() for s in segments] if leaving == "held out" else []
    for tolerance, (correlation, length_change) in candidates:
        began = time.process_time()
        problem = changed(study.problem, tolerance, correlation, length_change)
        out, fitted = unseen_error(problem, unseen, dict(study.fit_options))
        yield {
            "recording": recording,
            "moment_tolerance": tolerance,
            "delay and filter": "shared" if correlation is None else f"own, correlated {correlation:g}",
            "length change": "free" if length_change else "fixed",
            "unseen": out,
            "fitted": fitted,
            "CPU s": time.process_time() - began,
        }


def main() -> None:
    options = common.arguments(__doc__).parse_args()
    candidates = CANDIDATES
    found: list[dict[str, Any]] = []
    for case in QUICK if options.quick else CASES:
        for row in rows(case, candidates):
            if not found:
                print("| " + " | ".join(row) + " |\n" + "|" + "---|" * len(row), flush=True)
            print("| " + " | ".join(f"{x:.3g}" if isinstance(x, float) else x for x in row.values()) + " |", flush=True)
            found.append(row)
    keys = ("moment_tolerance", "delay and filter", "length change")
    names = list(dict.fromkeys(row["recording"] for row in found))
    error = np.array([[r["unseen"] for r in found if r["recording"] == n] for n in names])
    relative = np.log(error / error[:, :1])
    labels = [tuple(r[k] for k in keys) for r in found if r["recording"] == names[0]]
    chosen = []
    for recording in dict.fromkeys(n.split(",")[0] for n in names):
        others = [i for i, n in enumerate(names) if n.split(",")[0] != recording]
        mean = np.exp(relative[others].mean(axis=0))
        best = int(np.argmin(mean))
        chosen.append([recording, *labels[best], float(mean[best])])
    header = ["recording", *keys, "error of the others, relative to the first candidate"]
    print("\nbest on all others:\n\n" + common.table(header, chosen))
    print(common.machine())
    common.write(options.json, {"rows": found, "chosen": chosen})


if __name__ == "__main__":
    main()
