"""A recording's model with channels withheld: what is expected of them, and calibrations without them, in batches."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from missing_baselines import BASELINES, Rivals
from missing_recordings import OtherPerson, Recording, counted

from calibration.excitations.expected import ExcitationPrior, effort_pattern, synthesise, weight_prior
from calibration.excitations.synergies import extract
from calibration.problem import Layout, Problem, default_free, make_layout, params_at
from calibration.residuals import Quadratic, make_data, make_objective
from calibration.solvers import levenberg_marquardt
from nms_gym.excitation.synergies import make_basis
from nms_gym.model.parameters import KINDS, NmsParams, make_params
from nms_gym.model.replay import Segment, predict_moments
from nms_gym.model.structure import NmsModel, Settings

SYNERGIES = 5
GAIN = 0.5
ITERATIONS = 12
CHUNK = 15
# Signals stand in for the withheld channels, ours or a baseline's.
# What a study of the recordings of ``add_expected_channels`` does.
METHOD = "added channels"
STAND_IN = {METHOD: None, **{f"calibrated {row}": row for row in BASELINES}}
# What a study with [synergies] number = 5, prior = "expected", tightness = 0.1, gait = true and profiles does.
WEIGHTS = "synergy weights"
FITTED = (*STAND_IN, WEIGHTS, "plain", "silent")


class Study:
    """A recording's model with room for every subset: each muscle has a channel or a synthetic one, and commands.

    One structure, so that all subsets and all rows share one compiled calibration and run in batches: what differs are
    numbers (excitations, who is driven, starts, bounds, precision of the prior).
    """

    def __init__(self, recording: Recording, others: tuple[OtherPerson, ...] = ()) -> None:
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
        self.windows = [w for w in (self.window, self.later) if w is not None]
        self.rivals = Rivals(r, tuple(self.windows), self.strength, others)
        self.profiles = self.rivals.learned
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

    def expect(
        self, subset: tuple[int, ...], gait: bool = True, learned: bool = True, effort: bool = True
    ) -> dict[str, Any]:
        """Signals expected of every muscle from the channels that are left, in the recorded channels' unit.

        A later stretch has no measured moments to expect effort from.
        """
        r = self.recording
        left = [i for i in range(len(r.channels)) if i not in self.withheld(subset)]
        given = [replace(w, envelopes=w.envelopes[:, left]) for w in self.windows]
        person = r.muscles, r.drives[:, left], self.strength
        profiles = self.profiles if learned else None
        options: dict[str, Any] = {"gait": gait, "profiles": profiles}
        names = [s.name for s in (r.fit, r.later) if s is not None]
        # Without effort, as ``add_expected_channels`` does it: all stretches at once.
        unmeasured = [replace(w, moments=None) for w in given]
        found = synthesise(unmeasured, *person, **options)
        signals = dict(zip(names, found.excitation, strict=True))
        if effort:
            found = synthesise(given[:1], *person, efforts=[self.effort], **options)
            signals[r.fit.name] = found.excitation[0]
        driven = (r.drives[:, left] > 0).any(axis=1)
        return {"left": left, "signals": signals, "sd": found.sd, "driven": driven, "basis": None, "rivals": {}}

    def with_rivals(self, expected: dict[str, Any]) -> dict[str, Any]:
        """What the baselines make of every withheld channel beside what is expected: by stretch, row and channel."""
        r, left = self.recording, expected["left"]
        lost = [i for i in range(len(r.channels)) if i not in left]
        names = [s.name for s in (r.fit, r.later) if s is not None]
        return {**expected, "rivals": dict(zip(names, self.rivals.signals(left, lost), strict=True))}

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
        if row in STAND_IN:
            signal, baseline = expected["signals"][segment.name], STAND_IN[row]
            before = len(recorded) - len(signal)
            signal = np.concatenate([np.repeat(signal[:1], before, axis=0), signal])
            for i in set(range(len(r.channels))) - set(left):
                if baseline is None:
                    filled[:, i] = self.of_channel(signal, i, expected)
                else:
                    rival = expected["rivals"][segment.name][baseline][i]
                    filled[:, i] = np.concatenate([np.repeat(rival[:1], before), rival])
            # Muscles that nobody ever recorded are expected to do the same in all of these rows.
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
        # Rows of added channels are EMG-driven: no weight is free.
        if row not in STAND_IN:
            weights[~driven] = 0.0
            if row == WEIGHTS:
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
                low[e], high[e] = -start / unit, bound
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
        if row in STAND_IN:
            signal = signal + result["gain"][channel] * shown[:, channel]
        return np.minimum(signal, 1.0) / GAIN


def batched(function: Any, items: list[dict[str, Any]]) -> list[Any]:
    """All of them, in chunks of one size."""
    results: list[Any] = []
    for i in range(0, len(items), CHUNK):
        part = items[i : i + CHUNK]
        padded = part + part[-1:] * (CHUNK - len(part))
        found = jax.tree.map(np.asarray, function(jax.tree.map(lambda *x: np.stack(x), *padded)))
        results += [jax.tree.map(lambda x, j=j: x[j], found) for j in range(len(part))]
    return results
