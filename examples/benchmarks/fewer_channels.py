"""Fewer channels: what a calibration still finds out about people, and predicts, when electrodes are missing.

    NMS_GYM_DATA=DIR python examples/benchmarks/fewer_channels.py [--json FILE] [--quick]

The question of Hambly et al. 2025, on synthetic people whose parameters are known: the shipped right leg at knee and
ankle (17 muscles, 9 channels), parameters drawn from the calibration's prior by fixed seeds. They walk as a subject
of ``ceinms_rt_lowerlimb`` did, with that subject's EMG, since what a withheld channel can be told from are the others,
and random signals have nothing in common. Each is calibrated on two strides at 3.6 km/h and predicted on another one
and on one at 4.5 km/h. Moments carry 3 % of low-passed noise, and the EMG that the calibration sees is 10 % off.

Channels are withheld one after the other in an order by a fixed seed. Muscles that lose their channel are passive
(EMG-driven), follow synergies of those left with one prior for all weights (hybrid), or with the prior that
``calibration.excitations.expected`` makes (expected; kept, at a tenth of its spread). Errors of parameters are in prior
standard deviations, over all muscles and the channels that are left; a parameter that nothing can move counts as it
started. An expected prior has the average spread over people, so that one program solves them all.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np

# A script beside this one is named like the package; Python would find it first.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

PEOPLE, QUICK_PEOPLE = 16, 8
ORDERS, QUICK_ORDERS = 1, 1
COUNTS, QUICK_COUNTS = (1, 2, 4, 6, 8), (2, 6)
DRAWS, LEVEL = 500, 0.9
SYNERGIES = 4
GAIN = 0.5
SEED = 0
# Of a stride at 100 Hz: a whole one at 3.6 km/h, a little more at 4.5.
SAMPLES = 115
DRIVES = {
    "soleus_r": ("soleus_r",),
    "med_gas_r": ("gasmed_r",),
    "lat_gas_r": ("gaslat_r",),
    "tib_ant_r": ("tibant_r", "edl_r", "ehl_r"),
    "semimem_r": ("semimem_r", "semiten_r"),
    "bifemlh_r": ("bflh_r", "bfsh_r"),
    "vas_lat_r": ("vaslat_r", "vasint_r"),
    "rect_fem_r": ("recfem_r",),
    "vas_med_r": ("vasmed_r",),
}
JOINTS = ("knee_angle_r", "ankle_angle_r")
# Of the recording, in the order of the leg's; its knee bends the other way.
ANGLES = {"hip_flexion_r": 1, "hip_adduction_r": 1, "hip_rotation_r": 1, "knee_angle_r": -1, "ankle_angle_r": 1}
UNSEEN = ("other stride", "other speed")
# mode -> tightness of an expected prior; none for a flat one.
MODES: dict[str, float | None] = {"EMG-driven": None, "hybrid": None, "expected": 1.0}


def leg() -> tuple[Any, Any, dict[str, tuple[str, ...]]]:
    """Model, start and groups of muscles that share a channel."""
    from nms_gym._assets import asset_path
    from nms_gym.files.model_file import read_model_file
    from nms_gym.model.parameters import make_params
    from nms_gym.model.structure import NmsModel, Settings

    muscles = tuple(m for driven in DRIVES.values() for m in driven)
    file = read_model_file(asset_path("right_leg/model.json")).select(muscles)
    weights = np.array([[float(m in driven) for driven in DRIVES.values()] for m in muscles])
    model = NmsModel(muscles, JOINTS, tuple(DRIVES), Settings(tendon="rigid"), weights, file.paths)
    start = make_params(model, {**file.parameters, "emg_gain": np.full(len(DRIVES), GAIN)})
    return model, start, {c: m for c, m in DRIVES.items() if len(m) > 1}


class Walks:
    """Strides of the recording at two speeds."""

    def __init__(self, root: Path, coordinates: Sequence[str]) -> None:
        self.coordinates = tuple(coordinates)
        folder = root / "ceinms_rt_lowerlimb"
        self.files = {speed: dict(np.load(folder / f"{speed}_0-30s.npz")) for speed in ("walk36", "walk45")}
        emg = {speed: self._emg(speed) for speed in self.files}
        largest = np.max([e.max(axis=0) for e in emg.values()], axis=0)
        self.emg = {speed: e / largest for speed, e in emg.items()}

    def _emg(self, speed: str) -> np.ndarray:
        d = self.files[speed]
        return np.maximum(d["emg"][:, [list(d["emg_channels"]).index(c) for c in DRIVES]], 0.0)

    def clean(self, speed: str) -> np.ndarray:
        """Strides that the data set calls clean, without the first and the last."""
        return np.flatnonzero(self.files[speed]["strides"][:, 2] > 0)[1:-1]

    def trial(self, speed: str, stride: int) -> Any:
        """A stride, from 0.3 s before it; all are cut to one length."""
        from nms_gym.recording.trial import Trial

        d = self.files[speed]
        t = d["time"]
        begin = int(np.searchsorted(t, d["strides"][stride][0]))
        rows, before = slice(begin - 30, begin + SAMPLES), slice(begin - 60, begin + SAMPLES)
        columns = [list(d["dofs"]).index(c) for c in ANGLES]
        signs = np.array(list(ANGLES.values()), float)
        return Trial(
            name=f"{speed} {stride}",
            time=t[rows],
            coordinates=self.coordinates,
            q=d["q"][rows][:, columns] * signs,
            qd=d["qd"][rows][:, columns] * signs,
            channels=tuple(DRIVES),
            emg_time=t[before],
            emg=self.emg[speed][before],
            synthetic=True,
        )

    def of_person(self, seed: int) -> list[Any]:
        """Two strides to fit, another, and one at the other speed."""
        rng = np.random.default_rng([SEED, seed])
        chosen = rng.permutation(self.clean("walk36"))[:3]
        return [
            *(self.trial("walk36", int(i)) for i in chosen),
            self.trial("walk45", int(rng.choice(self.clean("walk45")))),
        ]


def make_people(count: int) -> list[Any]:
    from calibration.problem import Penalties, default_free
    from calibration.synthetic import make_person

    model, start, groups = leg()
    assert model.paths is not None
    walks = Walks(Path(os.environ["NMS_GYM_DATA"]), model.paths.coordinates)
    options: dict[str, Any] = {"penalties": Penalties(moment_tolerance=0.1), "groups": groups}
    return [
        make_person(model, start, default_free(model), seed=i, trials=walks.of_person(i), **options)
        for i in range(count)
    ]


def of_model(model: Any, segment: Any, left: Sequence[int]) -> Any:
    """The segment for a model with the channels left, and its synergies' commands."""
    given = np.asarray(segment.replay.excitations)[:, list(left)]
    if model.synergies is not None:
        given = np.concatenate([given, model.synergies.commands(given)], axis=1)
    return dataclasses.replace(
        segment, replay=dataclasses.replace(segment.replay, excitations=given), channels=model.channels
    )


def reduced(person: Any, left: list[int], mode: str) -> tuple[Any, tuple[Any, ...]]:
    """What is calibrated when only the channels ``left`` are known, and its unseen segments."""
    from calibration.excitations.expected import ExcitationPrior, with_prior
    from calibration.excitations.synergies import add_synergies, extract
    from calibration.problem import Problem, default_free
    from nms_gym.model.parameters import entries, make_params

    full, whole = person.problem.model, person.problem.start
    names = tuple(full.channels[i] for i in left)
    model = dataclasses.replace(full, channels=names, channel_weights=np.asarray(full.channel_weights)[:, left])
    values = {
        kind: np.asarray(leaf)[left] if entries(full, kind) == full.channels else leaf
        for kind, leaf in vars(whole).items()
    }
    start = make_params(model, values)
    if mode != "EMG-driven":
        envelopes = [np.asarray(s.replay.excitations)[:, left] for s in person.problem.segments]
        basis = extract(envelopes, names, number=min(SYNERGIES, len(left)), restarts=1).basis
        model, start, _ = add_synergies(model, start, basis)
    segments = tuple(of_model(model, s, left) for s in person.problem.segments)
    free = default_free(model)
    tightness = MODES[mode]
    if tightness is not None:
        weights = next(f for f in free if f.kind == "synergy_weight")
        start, weights, _ = with_prior(
            model, start, segments, ExcitationPrior(tightness=tightness), gait=True, free=weights
        )
        free = tuple(weights if f.kind == "synergy_weight" else f for f in free)
    groups = {c: m for c, m in person.problem.groups.items() if c in names or mode != "EMG-driven"}
    problem = Problem(model, start, segments, free, {**person.problem.groups, **groups}, person.problem.penalties)
    return problem, tuple(of_model(model, s, left) for s in person.unseen)


def alike(problems: list[Any]) -> list[Any]:
    """With the average spread of the weights' prior, so that one program solves all."""
    found = [{f.kind: f for f in p.free} for p in problems]
    own = [dict(f["synergy_weight"].own_sd) if "synergy_weight" in f else {} for f in found]
    if not own[0]:
        return problems
    mean = tuple((name, float(np.exp(np.mean([np.log(o[name]) for o in own])))) for name in own[0])
    return [
        dataclasses.replace(
            p, free=tuple(dataclasses.replace(f, own_sd=mean) if f.kind == "synergy_weight" else f for f in p.free)
        )
        for p in problems
    ]


def parameter_rows(people: list[Any], problems: list[Any], results: list[Any], draws: list[np.ndarray]) -> Any:
    """Sums over people, by kind of parameter: squares of errors of the calibrated and of the start, how many, how many
    of them lie in their intervals, and how many intervals there are."""
    from calibration.problem import make_layout

    sums: dict[str, np.ndarray] = {}
    tails = (0.5 - LEVEL / 2, 0.5 + LEVEL / 2)
    for person, problem, result, drawn in zip(people, problems, results, draws, strict=True):
        names = {name: i for i, name in enumerate(result.layout.names)}
        low, high = np.quantile(drawn, tails, axis=0)
        driven = set(problem.model.recorded_muscles)
        for name, truth in zip(make_layout(person.problem).names, person.z, strict=True):
            kind, member = name.split(":", 1)
            if kind == "emg_gain" and member not in problem.model.channels:
                continue
            i = names.get(name)
            error = truth if i is None else result.z[i] - truth
            inside = i is not None and low[i] <= truth <= high[i]
            row = np.array([error**2, truth**2, 1.0, float(inside), float(i is not None)])
            muscles = person.problem.groups.get(member, (member,))
            where = None
            if set(muscles) <= set(problem.model.muscles):
                where = "with a channel" if set(muscles) & driven else "without"
            for key in (kind, "all", *(() if where is None else (where,))):
                sums[key] = sums.get(key, np.zeros(5)) + row
    return {
        key: {
            "rms": float(np.sqrt(s[0] / s[2])),
            "uncalibrated_rms": float(np.sqrt(s[1] / s[2])),
            "coverage_90": float(s[3] / s[4]) if s[4] else None,
        }
        for key, s in sums.items()
    }


def miss(model: Any, params: Any, segment: Any) -> float:
    """RMSE of a segment's moments, N·m, mean of joints."""
    from calibration.validation import predict_segment

    error = (predict_segment(model, params, segment).moments - segment.measured)[segment.scored]
    return float(np.sqrt(np.mean(error**2, axis=0)).mean())


def solved(people: list[Any], left: list[int], mode: str) -> dict[str, Any]:
    """One row: everybody with these channels, in this mode."""
    from calibration.cohort import fit_cohort
    from calibration.fitting import Status
    from calibration.uncertainty.draws import sample
    from calibration.uncertainty.posterior import laplace_cohort

    begin, cpu = time.perf_counter(), time.process_time()
    pairs = [reduced(person, left, mode) for person in people]
    problems = alike([problem for problem, _ in pairs])
    results = fit_cohort(problems, precision="float32")
    posteriors = laplace_cohort(problems, results)
    draws = [sample(posterior, DRAWS, seed) for seed, posterior in enumerate(posteriors)]
    moments = {
        name: {
            who: float(np.median([miss(p.model, value, unseen[i]) for p, value, (_, unseen) in rows]))
            for who, rows in {
                "calibrated": [(p, r.params, x) for p, r, x in zip(problems, results, pairs, strict=True)],
                "uncalibrated": [(p, p.start, x) for p, x in zip(problems, pairs, strict=True)],
            }.items()
        }
        for i, name in enumerate(UNSEEN)
    }
    return {
        "withheld": len(DRIVES) - len(left),
        "mode": mode,
        "channels": [list(DRIVES)[i] for i in left],
        "parameters": parameter_rows(people, problems, results, draws),
        "moments": moments,
        "converged": sum(r.status is Status.CONVERGED for r in results),
        "compile_s": results[0].compile_seconds,
        "run_s": results[0].run_seconds,
        "wall_s": time.perf_counter() - begin,
        "cpu_s": time.process_time() - cpu,
    }


def averaged(rows: list[dict[str, Any]], withheld: int, mode: str, *keys: str) -> float | str:
    """Over orders."""
    found = []
    for row in rows:
        if (row["withheld"], row["mode"]) == (withheld, mode):
            value: Any = row
            for key in keys:
                value = None if value is None else value.get(key)
            if value is not None:
                found.append(value)
    return float(np.mean(found)) if found else "-"


def print_rows(rows: list[dict[str, Any]]) -> None:
    cases = list(dict.fromkeys((row["withheld"], row["mode"]) for row in rows))
    kinds = list(dict.fromkeys(key for row in rows for key in row["parameters"]))
    head = ["withheld", "mode"]
    print("Parameters, errors in prior standard deviations:\n")
    known = rows[0]["parameters"]
    first = [0, "uncalibrated", *(known[kind]["uncalibrated_rms"] if kind in known else "-" for kind in kinds)]
    cells = [first, *([k, m, *(averaged(rows, k, m, "parameters", kind, "rms") for kind in kinds)] for k, m in cases)]
    print(common.table([*head, *kinds], cells) + "\n")
    print("Of the 90 % intervals, how many hold the truth:\n")
    cells = [[k, m, *(averaged(rows, k, m, "parameters", kind, "coverage_90") for kind in kinds)] for k, m in cases]
    print(common.table([*head, *kinds], cells) + "\n")
    print("Moments never fitted, RMSE in N·m, mean of joints, median over people:\n")
    which = [(name, who) for name in UNSEEN for who in ("uncalibrated", "calibrated")]
    cells = [[k, m, *(averaged(rows, k, m, "moments", name, who) for name, who in which)] for k, m in cases]
    print(common.table([*head, *(f"{name}, {who}" for name, who in which)], cells) + "\n", flush=True)


def main() -> None:
    options = common.arguments(__doc__).parse_args()
    began = time.perf_counter()
    people = make_people(QUICK_PEOPLE if options.quick else PEOPLE)
    made = time.perf_counter() - began
    rows = [solved(people, list(range(len(DRIVES))), "EMG-driven")]
    for order in range(QUICK_ORDERS if options.quick else ORDERS):
        gone = np.random.default_rng([SEED, 100 + order]).permutation(len(DRIVES))
        for k in QUICK_COUNTS if options.quick else COUNTS:
            left = sorted(set(range(len(DRIVES))) - set(gone[:k].tolist()))
            rows += [solved(people, left, mode) for mode in MODES]
            print(f"{k} withheld, order {order}: {rows[-1]['wall_s']:.1f} s per mode", file=sys.stderr, flush=True)
    print(f"{len(people)} synthetic people, float32, one start; making them {made:.1f} s\n")
    print_rows(rows)
    total = {key: sum(row[key] for row in rows) for key in ("compile_s", "run_s", "wall_s", "cpu_s")}
    print(f"{len(rows)} batches: " + ", ".join(f"{key} {value:.0f}" for key, value in total.items()))
    print(common.machine())
    common.write(options.json, {"people": len(people), "seed": SEED, "times": total, "rows": rows})


if __name__ == "__main__":
    main()
