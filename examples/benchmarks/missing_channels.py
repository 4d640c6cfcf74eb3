"""Channels that were recorded, withheld and synthesised.

    NMS_GYM_DATA=DIR python examples/benchmarks/missing_channels.py [--json FILE] [--quick] [--tuning]

``k`` channels are withheld (one that duplicates another goes with it), the person is calibrated on the moments without
them, and what the calibrated model excites their muscles with is compared with what was recorded. All one-channel
subsets, 30 three-channel ones and 15 of each other size up to 8, from a fixed seed (``--quick``: k = 1 and 3, the first
10 of the same three-channel subsets). ``--tuning`` runs the recordings that the method's few numbers
(``calibration.excitations.expected.ExcitationPrior``) were chosen by, withholding their channels; scores of the
reported ones did not count.

Rows, all scored alike:

* expected: ``calibration.excitations.expected.synthesise``, before any moment is fitted (its parts: neighbours,
  + effort, + timing);
* calibrated channels: the expected signals stand in for the channels; gains, muscles and a residual by synergies are
  fitted to the moments;
* calibrated weights: synergy weights start from the expected signals, with their prior;
* plain: synergy weights start equal, with one prior for all;
* mean: the average of the recorded channels;
* ideal weights, ideal mixture: what the best non-negative weights of the synergies, or of the recorded channels, could
  reach if the withheld signal were known.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import nnls

# Beside this script lies one named like the package; Python would find it first.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from calibration.excitations.expected import ExcitationPrior, Stretch, effort_pattern, synthesise, weight_prior
from calibration.excitations.synergies import extract
from calibration.problem import Layout, Problem, default_free, make_layout, params_at
from calibration.residuals import Quadratic, make_data, make_objective
from calibration.solvers import levenberg_marquardt
from nms_gym.excitation.synergies import FLOOR_WIDTH, make_basis
from nms_gym.model.parameters import KINDS, NmsParams, make_params
from nms_gym.model.replay import Replay, Segment, predict_moments
from nms_gym.model.structure import NmsModel, Settings

SEED = 0
SYNERGIES = 5
GAIN = 0.5
ITERATIONS = 12
CHUNK = 15
FITTED = ("calibrated channels", "calibrated weights", "plain", "silent")
# What is reported as the method's own: the better of the two on the tuning recordings.
METHOD = "calibrated channels"


@dataclass(frozen=True)
class Recording:
    """A person's stretch of gait, all channels."""

    name: str
    channels: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    """channels that are withheld together"""
    muscles: tuple[str, ...]
    drives: np.ndarray
    """(M, C)"""
    parameters: dict[str, np.ndarray]
    fit: Segment
    later: Segment | None


def segment(
    name: str,
    time_: np.ndarray,
    emg: tuple[np.ndarray, np.ndarray],
    arrays: dict[str, Any],
    window: tuple[float, float],
) -> Segment:
    """Samples of the window and up to 0.2 s before it; ``arrays`` has lengths, velocities, arms, moments, names."""
    inside = (time_ >= window[0] - 0.2 - 1e-9) & (time_ <= window[1] + 1e-9)
    t = time_[inside]
    dt = float(np.median(np.diff(t)))
    history = Settings().history_length(dt)
    grid = np.clip(np.concatenate([t[0] + dt * np.arange(1 - history, 0), t]), emg[0][0], emg[0][-1])
    replay = Replay(
        coordinates=tuple(arrays["names"]),
        dt=np.asarray(dt),  # type: ignore[arg-type]
        excitations=np.maximum(PchipInterpolator(emg[0], np.maximum(emg[1], 0.0), axis=0)(grid), 0.0),  # type: ignore[arg-type]
        lengths=arrays["lengths"][inside],
        velocities=arrays["velocities"][inside],
        moment_arms=arrays["arms"][inside],
    )
    return Segment(name, replay, t, t >= window[0] - 1e-9, arrays["moments"][inside])


def from_nmsm(folder: Path, file: str, duplicates: Sequence[tuple[str, str]] = ()) -> Recording:
    d = np.load(folder / file)
    channels = tuple(map(str, d["emg_names"]))
    emg = d["emg_standard" if "emg_standard" in d.files else "emg"].astype(float)
    arrays = {
        "names": tuple(map(str, d["dofs"])),
        "lengths": d["lmt"].astype(float),
        "velocities": d["vmt"].astype(float),
        "arms": d["moment_arm"].astype(float),
        "moments": d["id_moment"].astype(float),
    }
    t = d["time"]
    kinds = {"max_isometric_force": "F0", "optimal_fiber_length": "lopt", "tendon_slack_length": "lts"}
    parameters = {k: d[v] for k, v in {**kinds, "pennation_at_optimal": "penn"}.items()}
    name = folder.name if file == "gait.npz" else f"{folder.name} {file.split('_')[0]}"
    return Recording(
        name,
        channels,
        paired(channels, duplicates),
        tuple(map(str, d["muscles"])),
        d["emg_to_muscle"].astype(float),
        parameters,
        segment(name, t, (d["emg_time"], emg), arrays, (float(t[0]), float(t[-1]))),
        None,
    )


def from_opensim(
    folder: Path, file: str, side: str, windows: Sequence[tuple[float, float]], keys: dict[str, str], every: int
) -> Recording:
    d = np.load(folder / file)
    mapping = common_mapping(folder)
    muscles = tuple(map(str, d["muscles" + side]))
    channels = tuple(map(str, d["emg_channels"]))
    drives = np.zeros((len(muscles), len(channels)))
    for label, driven in mapping.items():
        of = [c.strip() for c in label.split(" (")[0].split("+")]
        for muscle in driven:
            drives[[m[:-2] for m in muscles].index(muscle), [channels.index(c) for c in of]] = 1.0 / len(of)
    arrays = {
        "names": tuple(map(str, d["dofs" + side])),
        "lengths": d["lmt" + side][::every].astype(float),
        "velocities": d["vmt" + side][::every].astype(float),
        "arms": np.swapaxes(d["ma" + side][::every].astype(float), 1, 2),
        "moments": d["id" + side][::every].astype(float),
    }
    kinds = ("max_isometric_force", "optimal_fiber_length", "tendon_slack_length", "pennation_at_optimal")
    cut = [
        segment(
            f"{folder.name} {w[0]:g} s", d["time"][::every], (d[keys["emg_time"]], d["emg"].astype(float)), arrays, w
        )
        for w in windows
    ]
    return Recording(
        f"{folder.name} {file.split('_')[0]}" if side == "" else folder.name,
        channels,
        paired(channels, ()),
        muscles,
        drives,
        {k: d[f"param_{k}{side}"] for k in kinds},
        cut[0],
        cut[1] if len(cut) > 1 else None,
    )


def common_mapping(folder: Path) -> dict[str, list[str]]:
    return json.loads((folder / "emg_mapping.json").read_text())["channels"]


def paired(channels: Sequence[str], duplicates: Sequence[tuple[str, str]]) -> tuple[tuple[int, ...], ...]:
    second = {b for _, b in duplicates}
    partner = dict(duplicates)
    return tuple(
        (i, channels.index(partner[c])) if c in partner else (i,) for i, c in enumerate(channels) if c not in second
    )


def reported(root: Path) -> Iterator[Recording]:
    yield from_opensim(
        root / "rajagopal_walk", "walk.npz", "_r", [(0.267, 1.4115), (1.42, 2.2)], {"emg_time": "emg_time"}, 2
    )
    yield from_nmsm(root / "stroke_gait_left", "gait.npz", [("VastMed_L", "VastLat_L")])


def tuning(root: Path) -> Iterator[Recording]:
    for speed in (1, 2):
        yield from_nmsm(root / "nmsm_multi_trial", f"speed{speed}_cycle1.npz")
    for file, window in (("walk36_0-30s.npz", (7.45, 9.73)), ("walk45_0-30s.npz", (2.09, 4.11))):
        yield from_opensim(root / "ceinms_rt_lowerlimb", file, "", [window], {"emg_time": "time"}, 1)
    yield from_nmsm(root / "uf3_right_leg", "gait.npz")


def subsets(recording: Recording, k: int, limit: int) -> list[tuple[int, ...]]:
    """Which of the recording's groups are withheld: all where k is 1, else 30 (k = 3) or 15, by a seed per k."""
    every = list(itertools.combinations(range(len(recording.groups)), k))
    if k == 1:
        return every
    chosen = np.random.default_rng([SEED, k]).permutation(len(every))[: 30 if k == 3 else 15]
    return [every[i] for i in chosen[:limit]]


class Study:
    """A recording's model with room for every subset: each muscle has a channel or a synthetic one, and commands.

    One structure, so that all subsets and all rows share one compiled calibration and run in batches: what differs are
    numbers (excitations, who is driven, starts, bounds, precision of the prior).
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = r = recording
        self.bare = [m for m, row in zip(r.muscles, r.drives, strict=True) if not row.any()]
        commands = [f"synergy_{i + 1}" for i in range(SYNERGIES)]
        extra = np.array([[float(m == b) for b in self.bare] for m in r.muscles]).reshape(len(r.muscles), -1)
        self.weights = np.concatenate([r.drives, extra, np.zeros((len(r.muscles), SYNERGIES))], axis=1)
        names = (*r.channels, *(f"expected {m}" for m in self.bare))
        self.model = NmsModel(
            muscles=r.muscles,
            coordinates=r.fit.coordinates,
            channels=(*names, *commands),
            settings=Settings(tendon="rigid"),
            channel_weights=self.weights,  # type: ignore[arg-type]
            synergies=make_basis(commands, names, np.ones((len(names), SYNERGIES))),
            synergy_pairs=tuple((m, c) for m in r.muscles for c in commands),
        )
        gains = np.concatenate([np.full(len(names), GAIN), np.ones(SYNERGIES)])
        self.start = make_params(self.model, {**r.parameters, "emg_gain": gains})
        alone = {
            c: [m for m, row in zip(r.muscles, r.drives[:, i], strict=True) if row == 1]
            for i, c in enumerate(r.channels)
        }
        free = [
            replace(f, bounds=(0.7, 1.3)) if f.kind == "tendon_slack_length" else f for f in default_free(self.model)
        ]
        # The commands' history is in the segment already: it only has to have the right width.
        fit_segment = self.with_columns(r.fit, np.zeros((len(r.fit.replay.excitations), len(self.bare) + SYNERGIES)))
        problem = Problem(
            self.model,
            self.start,
            (fit_segment,),
            free=tuple(free),
            groups={c: tuple(ms) for c, ms in alone.items() if len(ms) > 1},
        )
        self.layout: Layout = make_layout(problem)
        # Recorded muscles follow their EMG exactly: their residual weights are held at 0.
        data = make_data(problem)
        self.data = replace(data, tracked=np.zeros_like(data.tracked))  # type: ignore[arg-type]
        self.strength = r.parameters["max_isometric_force"] * np.cos(r.parameters["pennation_at_optimal"])
        self.window = counted(r.fit)
        self.later = None if r.later is None else replace(counted(r.later), moments=None)
        self.effort = effort_pattern(
            self.window.moment_arms,
            self.strength,
            self.window.moments,  # type: ignore[arg-type]
            ExcitationPrior().effort_tolerance,
        )
        self.problem = problem
        begin = time.perf_counter()
        example = [self.item("plain", (), self.expect(()))] * CHUNK
        self.solve = self.compiled(self.calibration(), example)
        self.replay_later = None
        if r.later is not None:
            items = [{**x, "excitations": self.excitations("plain", r.later, self.expect(()))} for x in example]
            self.replay_later = self.compiled(
                self.prediction(r.later), [{**x, "z": np.zeros(self.layout.size)} for x in items]
            )
        self.compile_seconds = time.perf_counter() - begin

    def with_columns(self, s: Segment, columns: np.ndarray) -> Segment:
        excitations = np.concatenate([np.asarray(s.replay.excitations), columns], axis=1)
        return replace(s, replay=replace(s.replay, excitations=excitations))

    def compiled(self, one: Any, example: list[dict[str, Any]]) -> Any:
        return jax.jit(jax.vmap(one)).lower(jax.tree.map(lambda *x: np.stack(x), *example)).compile()

    def person(self, item: dict[str, Any]) -> tuple[NmsModel, NmsParams]:
        model, start = jax.tree.map(lambda x: jnp.asarray(x, float), (self.model, self.start))
        model = replace(model, channel_weights=item["channel_weights"])
        return model, replace(start, synergy_weight=item["synergy_weight"])

    def calibration(self) -> Any:
        """Levenberg-Marquardt from an item's numbers; the prior of each entry has a precision of its own."""
        objective = make_objective(self.layout, self.problem.penalties)
        data = jax.tree.map(lambda x: jnp.asarray(x, float), self.data)

        def one(item: dict[str, Any]) -> dict[str, Any]:
            model, start = self.person(item)
            replay = replace(data.train.replay, excitations=item["excitations"][None])
            mine = replace(data, train=replace(data.train, replay=replay))
            extra = item["precision"] - 1.0

            def quadratic(z: Any) -> Quadratic:
                q = objective.quadratic(model, mine, start, z)
                return Quadratic(  # type: ignore[call-arg]
                    q.cost + 0.5 * jnp.sum(extra * z * z), q.gradient + extra * z, q.matrix + jnp.diag(extra)
                )

            def step(_: Any, search: Any) -> Any:
                return levenberg_marquardt.iterate(quadratic, item["low"], item["high"], 1e-4, search)

            search = levenberg_marquardt.begin(jnp.zeros(self.layout.size))
            z = jax.lax.fori_loop(0, ITERATIONS, step, search).z
            params = params_at(self.layout, start, z)
            moments = predict_moments(model, params, jax.tree.map(lambda x: x[0], replay)).moments
            return {"z": z, "gain": params.emg_gain, "weight": params.synergy_weight, "moments": moments}

        return one

    def prediction(self, later: Segment) -> Any:
        replay = jax.tree.map(lambda x: jnp.asarray(x, float), later.replay)

        def one(item: dict[str, Any]) -> Any:
            model, start = self.person(item)
            params = params_at(self.layout, start, item["z"])
            return predict_moments(model, params, replace(replay, excitations=item["excitations"])).moments

        return one

    def withheld(self, subset: tuple[int, ...]) -> list[int]:
        return [i for g in subset for i in self.recording.groups[g]]

    def expect(self, subset: tuple[int, ...], gait: bool = True, **prior: float) -> dict[str, Any]:
        """Signals expected of every muscle from the channels that are left, in the recorded channels' unit.

        A later stretch has no measured moments to expect effort from.
        """
        r = self.recording
        left = [i for i in range(len(r.channels)) if i not in self.withheld(subset)]
        given = [replace(w, envelopes=w.envelopes[:, left]) for w in (self.window, self.later) if w is not None]
        person = r.muscles, r.drives[:, left], self.strength
        found = synthesise(given[:1], *person, ExcitationPrior(**prior), gait=gait, efforts=[self.effort])
        signals = {r.fit.name: found.excitation[0]}
        if r.later is not None:
            signals[r.later.name] = synthesise(given, *person, gait=gait).excitation[1]
        driven = (r.drives[:, left] > 0).any(axis=1)
        return {"left": left, "signals": signals, "sd": found.sd, "driven": driven, "basis": None}

    def of_channel(self, signals: np.ndarray, channel: int, expected: dict[str, Any]) -> np.ndarray:
        """Average of the channel's muscles that no other channel drives, by strength: (T, M) to (T,)."""
        share = self.recording.drives[:, channel] * self.strength * ~expected["driven"]
        return signals @ (share / share.sum())

    def synergies(self, left: list[int]) -> Any:
        count = min(SYNERGIES, len(left))
        names = [self.recording.channels[i] for i in left]
        return extract([self.window.envelopes[:, left]], names, number=count, restarts=1).basis

    def excitations(self, row: str, segment: Segment, expected: dict[str, Any]) -> np.ndarray:
        """Every column of the model's channels for a stretch: recorded or expected ones, and commands."""
        r, left = self.recording, expected["left"]
        recorded = np.asarray(segment.replay.excitations)
        if expected["basis"] is None:
            expected["basis"] = self.synergies(left)
        if segment.name not in expected:
            found = expected["basis"].commands(recorded[:, left])
            expected[segment.name] = np.pad(found, ((0, 0), (0, SYNERGIES - found.shape[1])))
        bare = np.zeros((len(recorded), len(self.bare)))
        filled = np.where(np.isin(np.arange(len(r.channels)), left), recorded, 0.0)
        if row == "calibrated channels":
            signal = expected["signals"][segment.name]
            before = len(recorded) - len(signal)
            signal = np.concatenate([np.repeat(signal[:1], before, axis=0), signal])
            for i in set(range(len(r.channels))) - set(left):
                filled[:, i] = self.of_channel(signal, i, expected)
            bare = signal[:, [r.muscles.index(m) for m in self.bare]]
        return np.concatenate([filled, bare, expected[segment.name]], axis=1)

    def item(self, row: str, subset: tuple[int, ...], expected: dict[str, Any]) -> dict[str, Any]:
        """Numbers of one calibration."""
        r, left, driven = self.recording, expected["left"], expected["driven"]
        excitations = self.excitations(row, r.fit, expected)
        signal = expected["signals"][r.fit.name]
        count = len(expected["basis"].names)
        weights = self.weights.copy()
        own = weights[:, left].sum(axis=1, keepdims=True)  # a muscle of two channels follows the one that is left
        weights[:, left] /= np.where(own > 0, own, 1.0)
        lost = np.setdiff1d(np.arange(len(r.channels)), left)
        weights[np.ix_(driven, lost)] = 0.0
        mean, sd = np.zeros((len(r.muscles), SYNERGIES)), np.zeros((len(r.muscles), SYNERGIES))
        commands = excitations[-len(signal) :, -SYNERGIES:][:, :count]
        expected_weights = weight_prior(commands, GAIN * signal, GAIN * ExcitationPrior().tightness * expected["sd"])
        signed = row == "calibrated channels"
        if signed:
            sd[:, :count] = expected_weights[1]
        else:
            weights[~driven] = 0.0
            if row == "calibrated weights":
                mean[:, :count], sd[:, :count] = expected_weights
            elif row == "plain":
                mean[:, :count], sd[:, :count] = 0.1, 0.15
        mean[driven] = sd[driven] = 0.0
        # Muscles that share a value take their average.
        entry = self.layout.index["synergy_weight"].reshape(mean.shape)
        precision = np.ones(self.layout.size)
        low, high = self.layout.low.copy(), self.layout.high.copy()
        for e in np.unique(entry):
            here = np.equal(entry, e)
            start, spread = float(mean[here].mean()), float(sd[here].mean())
            mean[here] = start
            unit = self.layout.sd[e]
            if spread > 0:
                precision[e] = (unit / spread) ** 2
                bound = KINDS["synergy_weight"].bounds[1] / unit
                low[e], high[e] = (-bound, bound) if signed else (-start / unit, bound)
            else:
                low[e] = high[e] = 0.0
        return {
            "excitations": excitations,
            "channel_weights": weights,
            "synergy_weight": mean.ravel(),
            "low": low,
            "high": high,
            "precision": precision,
        }

    def signal(
        self, row: str, segment: Segment, excitations: np.ndarray, result: dict[str, Any], channel: int, expected: Any
    ) -> np.ndarray:
        """Calibrated excitation of a withheld channel's muscles over the counted samples, delay taken off."""
        shown = excitations[-len(segment.time) :][segment.scored]
        added = shown[:, -SYNERGIES:] @ result["weight"].reshape(-1, SYNERGIES).T  # (T, M)
        signal = self.of_channel(added, channel, expected)
        if row == "calibrated channels":
            signal = signal + result["gain"][channel] * shown[:, channel]
            signal = 0.5 * (signal + np.sqrt(signal**2 + FLOOR_WIDTH**2))
        return np.minimum(signal, 1.0) / GAIN


def counted(segment: Segment) -> Stretch:
    """All channels over the counted samples, as recorded."""
    rows = segment.scored
    return Stretch(
        segment.time[rows],
        np.asarray(segment.replay.excitations)[-len(rows) :][rows],
        np.asarray(segment.replay.moment_arms)[rows],
        None if segment.measured is None else segment.measured[rows],
    )


def batched(function: Any, items: list[dict[str, Any]]) -> list[Any]:
    """All of them, in chunks of one size."""
    results: list[Any] = []
    for i in range(0, len(items), CHUNK):
        part = items[i : i + CHUNK]
        padded = part + part[-1:] * (CHUNK - len(part))
        found = jax.tree.map(np.asarray, function(jax.tree.map(lambda *x: np.stack(x), *padded)))
        results += [jax.tree.map(lambda x, j=j: x[j], found) for j in range(len(part))]
    return results


def agreement(signal: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Correlation (0 where the signal is constant) and RMSE in parts of the recorded maximum."""
    spread = signal.std() * truth.std()
    r = float(np.mean((signal - signal.mean()) * (truth - truth.mean())) / spread) if spread > 1e-12 else 0.0
    return r, float(np.sqrt(np.mean((signal - truth) ** 2)) / truth.max())


def run(recording: Recording, sizes: Sequence[int], limit: int) -> dict[str, Any]:
    """Every row for every subset of every size."""
    study = Study(recording)
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
                "neighbours + effort": study.expect(subset, gait=False),
                "neighbours + timing": study.expect(subset, effort_sd=0.0),
                "neighbours": study.expect(subset, gait=False, effort_sd=0.0),
            }
            lost = [recording.groups[group][0] for group in subset]  # duplicates count once
            for row, found in parts.items():
                signals = found["signals"][recording.fit.name]
                score(k, row, "fit", {c: study.of_channel(signals, c, expected) for c in lost})
            if recording.later is not None:
                signals = expected["signals"][recording.later.name]
                score(k, "expected", "later", {c: study.of_channel(signals, c, expected) for c in lost})
            tasks += [(k, subset, row, expected, study.item(row, subset, expected)) for row in FITTED]
            truth = study.window.envelopes
            left = truth[:, expected["left"]]
            commands = tasks[-1][-1]["excitations"][-len(truth) :, -SYNERGIES:]
            score(k, "mean", "fit", dict.fromkeys(lost, left.mean(axis=1)))
            score(k, "ideal mixture", "fit", {c: left @ nnls(left, truth[:, c])[0] for c in lost})
            score(k, "ideal weights", "fit", {c: commands @ nnls(commands, truth[:, c])[0] for c in lost})
    nothing = study.expect(())
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


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--tuning", action="store_true", help="the recordings that the method was chosen on")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    root = Path(os.environ["NMS_GYM_DATA"])
    sizes = (1, 3) if args.quick else tuple(range(1, 9))
    results = [run(r, sizes, 10 if args.quick else 30) for r in (tuning if args.tuning else reported)(root)]
    rows = list(dict.fromkeys(x["row"] for result in results for x in result["signals"]))
    for result in results:
        print_tables(result, rows, sizes)
    pooled = {
        row: median([x for result in results for x in result["signals"] if x["k"] in (1, 3)], row=row, window="fit")
        for row in rows
    }
    print("\nPooled over recordings, k = 1 and 3\n")
    print(common.table(["row", "median r"], [[row, value] for row, value in pooled.items()]))
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
            "withheld_median_r": pooled[METHOD],
            "method": METHOD,
            "naive_median_r": pooled["plain"],
            "pooled_median_r": pooled,
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
