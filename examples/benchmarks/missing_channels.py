"""Channels that were recorded, withheld and synthesised.

    NMS_GYM_DATA=DIR python examples/benchmarks/missing_channels.py [--json FILE] [--quick] [--tuning]

``k`` channels are withheld (one that duplicates another goes with it), the person is calibrated on the moments without
them, and what the calibrated model excites their muscles with is compared with what was recorded. All one-channel
subsets, 30 three-channel ones and 15 of each other size up to 8, from a fixed seed (``--quick``: k = 1 and 3, the first
10 of the same three-channel subsets). ``--tuning`` runs the recordings that the method's few numbers
(``calibration.excitations.expected.ExcitationPrior``) were chosen by, withholding their channels; scores of the
reported ones did not count.

Rows, all scored alike on the fitted stretch and on a later one that nothing is fitted to:

* added channels: what an EMG-driven study of recordings from ``calibration.excitations.expected_channels`` does: the
  signals expected from neighbours and other people's profiles stand in for the channels, with gains to calibrate. This
  is the row to quote;
* expected: ``calibration.excitations.expected.synthesise`` with other people's profiles, before any moment is fitted
  (published timing: with on and off from a book instead; its parts: neighbours, + effort, + timing). Effort needs
  measured moments: a later stretch has none;
* synergy weights: what ``[synergies] number = 5, prior = "expected", tightness = 0.1, gait = true`` of a study does,
  with ``profiles``: synergy weights start from the expected signals and keep close to them;
* mean, neighbour, timing, neighbour + timing, other people, others' profiles, neighbour + others' profiles: the
  baselines (``missing_baselines.Rivals``), as they are;
* calibrated mean, ...: as added channels, with a baseline's signals. Muscles that nobody recorded are excited as in
  added channels in all of these;
* plain: synergy weights start equal, with one prior for all;
* silent: the muscles of withheld channels stay passive;
* ideal weights, ideal mixture: what the best non-negative weights of the synergies, or of the recorded channels, could
  reach if the withheld signal were known.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import jax
import numpy as np
from scipy.optimize import nnls

# Beside this script lies one named like the package; Python would find it first.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from missing_baselines import BASELINES
from missing_recordings import OtherPerson, Recording, other_people, reported, tuning
from missing_study import FITTED, METHOD, STAND_IN, SYNERGIES, Study, batched

SEED = 0
# The simplest rival worth its name: two lines.
RIVAL = "neighbour + timing"


def subsets(recording: Recording, k: int, limit: int) -> list[tuple[int, ...]]:
    """Which of the recording's groups are withheld: all where k is 1, else 30 (k = 3) or 15, by a seed per k."""
    every = list(itertools.combinations(range(len(recording.groups)), k))
    if k == 1:
        return every
    chosen = np.random.default_rng([SEED, k]).permutation(len(every))[: 30 if k == 3 else 15]
    return [every[i] for i in chosen[:limit]]


def agreement(signal: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Correlation (0 where the signal is constant) and RMSE in parts of the recorded maximum."""
    spread = signal.std() * truth.std()
    r = float(np.mean((signal - signal.mean()) * (truth - truth.mean())) / spread) if spread > 1e-12 else 0.0
    return r, float(np.sqrt(np.mean((signal - truth) ** 2)) / truth.max())


def run(recording: Recording, others: tuple[OtherPerson, ...], sizes: Sequence[int], limit: int) -> dict[str, Any]:
    """Every row for every subset of every size."""
    study = Study(recording, others)
    windows = {"fit": (recording.fit, study.window), "later": (recording.later, study.later)}
    wall, cpu = time.perf_counter(), time.process_time()
    records: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    tasks: list[tuple[int, tuple[int, ...], str, dict[str, Any], dict[str, Any]]] = []

    def score(k: int, row: str, stretch: str, signals: Mapping[int, Any]) -> None:
        for channel, signal in signals.items():
            r, rmse = agreement(signal, windows[stretch][1].envelopes[:, channel])  # type: ignore[union-attr]
            name = recording.channels[channel]
            records.append({"k": k, "channel": name, "row": row, "window": stretch, "r": r, "rmse": rmse})

    def miss(k: int, row: str, stretch: str, moments: np.ndarray) -> None:
        s = windows[stretch][0]
        assert s is not None
        error = (moments - s.measured)[s.scored]
        errors.append({"k": k, "row": row, "window": stretch, "rmse": float(np.sqrt(np.mean(error**2, axis=0)).mean())})

    for k in (k for k in sizes if k < len(recording.groups) - 1):
        for subset in subsets(recording, k, limit):
            expected = study.expect(subset)
            parts = {
                "expected": expected,
                "published timing": study.expect(subset, learned=False),
                "neighbours + effort": study.expect(subset, gait=False),
                "neighbours + timing": study.expect(subset, effort=False),
                "neighbours": study.expect(subset, gait=False, effort=False),
            }
            lost = [recording.groups[group][0] for group in subset]  # duplicates count once
            for row, found in parts.items():
                for stretch, signals in zip(windows, found["signals"].values(), strict=False):
                    score(k, row, stretch, {c: study.of_channel(signals, c, expected) for c in lost})
            # What stands in is expected without moments.
            added = study.with_rivals(parts["neighbours + timing"])
            for stretch, rows in zip(windows, added["rivals"].values(), strict=False):
                for row in BASELINES:
                    score(k, row, stretch, {c: rows[row][c] for c in lost})
            used = {row: added if row in STAND_IN else expected for row in FITTED}
            tasks += [(k, subset, row, found, study.item(row, subset, found)) for row, found in used.items()]
            truth = study.window.envelopes
            left = truth[:, expected["left"]]
            commands = tasks[-1][-1]["excitations"][-len(truth) :, -SYNERGIES:]
            score(k, "ideal mixture", "fit", {c: left @ nnls(left, truth[:, c])[0] for c in lost})
            score(k, "ideal weights", "fit", {c: commands @ nnls(commands, truth[:, c])[0] for c in lost})
    nothing = study.with_rivals(study.expect((), effort=False))
    tasks.append((0, (), METHOD, nothing, study.item(METHOD, (), nothing)))
    expecting = time.perf_counter() - wall
    results = batched(study.solve, [task[-1] for task in tasks])
    fitted = [("fit", [item["excitations"] for *_, item in tasks], [x["moments"] for x in results])]
    if recording.later is not None:
        columns = [study.excitations(row, recording.later, expected) for _, _, row, expected, _ in tasks]
        items = [
            {**task[-1], "excitations": x, "z": result["z"]}
            for task, x, result in zip(tasks, columns, results, strict=True)
        ]
        fitted.append(("later", columns, batched(study.replay_later, items)))
    for stretch, columns, moments in fitted:
        segment = windows[stretch][0]
        assert segment is not None
        for (k, subset, row, expected, _), x, m, result in zip(tasks, columns, moments, results, strict=True):
            miss(k, row, stretch, m)
            if row != "silent":
                lost = [recording.groups[group][0] for group in subset]
                score(k, row, stretch, {c: study.signal(row, segment, x, result, c, expected) for c in lost})
    return {
        "name": recording.name,
        "signals": records,
        "moments": errors,
        "held_out": recording.later is not None,
        "calibrations": len(tasks),
        "compile_s": study.compile_seconds,
        "expect_s": expecting,
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
    }


def median(records: Sequence[dict[str, Any]], key: str = "r", **wanted: Any) -> float | None:
    values = [x[key] for x in records if all(x[k] == v for k, v in wanted.items())]
    return float(np.median(values)) if values else None


def summary(results: Sequence[dict[str, Any]], row: str) -> dict[str, float | None]:
    """Of one row: correlation, and moment error over that of the same person with every channel."""
    found: dict[str, float | None] = {}
    for window in ("fit", "later"):
        signals = [x for result in results for x in result["signals"] if x["k"] in (1, 3)]
        found[window] = median(signals, row=row, window=window)
        # A signal by itself moves nobody; what it costs is measured where it stands in for a channel.
        fitted = row if row in FITTED else f"calibrated {row}"
        ratios = []
        for result in results:
            whole = median(result["moments"], "rmse", row=METHOD, k=0, window=window)
            mine = [x["rmse"] for x in result["moments"] if (x["row"], x["window"]) == (fitted, window)]
            counts = [x["k"] in (1, 3) for x in result["moments"] if (x["row"], x["window"]) == (fitted, window)]
            ratios += [m / whole for m, c in zip(mine, counts, strict=True) if c and whole]
        found[f"{window}, moments"] = float(np.median(ratios)) if ratios else None
    return found


def better(pooled: Mapping[str, Mapping[str, float | None]], row: str) -> list[str]:
    """Where a baseline beats the method, in words."""
    lines = []
    for key, ours in pooled[METHOD].items():
        theirs = pooled[row][key]
        if ours is None or theirs is None:
            continue
        wins = theirs < ours if "moments" in key else theirs > ours
        if wins:
            lines.append(f"{row!r} beats {METHOD!r} in {key}: {theirs:.3f} against {ours:.3f}")
    return lines


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--tuning", action="store_true", help="the recordings that the method was chosen on")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    root = Path(os.environ["NMS_GYM_DATA"])
    sizes = (1, 3) if args.quick else tuple(range(1, 9))
    others = tuple(other_people(root, for_tuning=args.tuning))
    limit = 10 if args.quick else 30
    results = [run(r, others, sizes, limit) for r in (tuning if args.tuning else reported)(root)]
    rows = list(dict.fromkeys(x["row"] for result in results for x in result["signals"]))
    for result in results:
        print_tables(result, rows, sizes)
    pooled = {row: summary(results, row) for row in list(dict.fromkeys([*rows, *FITTED]))}
    print("\nPooled over recordings, k = 1 and 3: median r, and moment RMSE over that with nothing withheld, median\n")
    keys = list(next(iter(pooled.values())))
    cells = [[row, *("" if x is None else f"{x:.3f}" for x in found.values())] for row, found in pooled.items()]
    print(common.table(["row", *keys], cells))
    for row in BASELINES:
        for print_better in better(pooled, row):
            print(print_better)
    medians = {
        result["name"]: {
            window: {
                row: {
                    str(k): {key: median(result["signals"], key, row=row, k=k, window=window) for key in ("r", "rmse")}
                    for k in sizes
                }
                for row in rows
            }
            for window in ("fit", "later")[: 1 + result["held_out"]]
        }
        for result in results
    }
    common.write(
        args.json,
        {
            "withheld_median_r": pooled[METHOD]["fit"],
            "method": METHOD,
            "rival_median_r": pooled[RIVAL]["fit"],
            "naive_median_r": pooled["plain"]["fit"],
            "pooled": pooled,
            "medians": medians,
            "quick": args.quick,
            "seed": SEED,
            "recordings": results,
        },
    )


def print_tables(result: dict[str, Any], rows: Sequence[str], sizes: Sequence[int]) -> None:
    header = ["row", *(f"k = {k}" for k in sizes)]

    def numbers(row: str, window: str, k: int) -> str:
        r, rmse = (median(result["signals"], key, row=row, k=k, window=window) for key in ("r", "rmse"))
        return "" if r is None else f"{r:.2f} ({rmse:.2f})"

    for window in ("fit", "later")[: 1 + result["held_out"]]:
        print(f"\n{result['name']}, {window}: median r (RMSE in parts of the recorded maximum)\n")
        cells = [[row, *(numbers(row, window, k) for k in sizes)] for row in rows]
        print(common.table(header, [c for c in cells if any(c[1:])]))
        whole = median(result["moments"], "rmse", row=METHOD, k=0, window=window)
        print(f"\nMoment RMSE, N·m, mean of joints, median over subsets; {whole:.2f} with nothing withheld\n")
        cells = [
            [row, *(median(result["moments"], "rmse", row=row, k=k, window=window) or "" for k in sizes)]
            for row in FITTED
        ]
        print(common.table(header, cells))
    if not result["held_out"]:
        print("\nNo second window exists in this recording: nothing is held out.")
    print(
        f"\n{result['calibrations']} calibrations, compile {result['compile_s']:.1f} s, "
        f"wall {result['wall_s']:.1f} s, CPU {result['cpu_s']:.1f} s"
    )


if __name__ == "__main__":
    main()
