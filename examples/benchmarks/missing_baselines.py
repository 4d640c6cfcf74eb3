"""What a few lines make of a channel that was withheld: the rivals of ``calibration.excitations.expected``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from missing_recordings import OtherPerson, Recording, muscle_of, profiles_of
from scipy.optimize import nnls

from calibration.excitations.expected import Stretch, function_signatures
from calibration.excitations.gait_timing import (
    PERIODS,
    PHASES,
    GaitCycle,
    at_phase,
    electrode_name,
    fit_gait_cycle,
    timing_profile,
)

BASELINES = (
    "mean",
    "neighbour",
    "timing",
    "neighbour + timing",
    "other people",
    "others' profiles",
    "neighbour + others' profiles",
)


@dataclass(frozen=True)
class Rivals:
    """Makes the signals of withheld channels from those left; sizes and gait cycles are those of the fitted stretch.

    * mean: of the channels left;
    * neighbour: the channel left whose muscles do most nearly the same (cosine between moment arms, as the prior's
      neighbours are chosen);
    * timing: published on and off of the channel's muscles, with the mean and spread of the channels left;
    * neighbour + timing: the average of both, each standardised, with the neighbour's mean and spread;
    * other people: the channel's muscle regressed on those left (non-negative least squares, everything over its
      standard deviation) on each other person who had it recorded, and averaged over people; the neighbour where
      nobody had;
    * others' profiles: as timing, but with the average profile of the other people where they have one; and with the
      neighbour.
    """

    recording: Recording
    windows: tuple[Stretch, ...]
    """the fitted one first"""
    strength: np.ndarray
    """(M,) N"""
    others: tuple[OtherPerson, ...]

    def signals(self, left: Sequence[int], lost: Sequence[int]) -> list[dict[str, dict[int, np.ndarray]]]:
        """Per window: row, withheld channel, signal ``(T,)``."""
        r, columns = self.recording, list(left)
        share = r.drives * self.strength[:, None]
        share = share / share.sum(axis=0)
        fitted = self.windows[0].envelopes[:, columns]
        level, spread = fitted.mean(axis=0), fitted.std(axis=0)
        profiles = self._profiles(share, {})
        learned = self._profiles(share, self.learned)
        function = share.T @ function_signatures(self.windows[0].moment_arms)
        function = function / np.linalg.norm(function, axis=1, keepdims=True)
        cycles = self._cycles(columns, profiles)
        found = []
        for window, cycle in zip(self.windows, cycles, strict=True):
            given = window.envelopes[:, columns]
            rows: dict[str, dict[int, np.ndarray]] = {name: {} for name in BASELINES}
            for c in lost:
                near = int(np.argmax(function[columns] @ function[c]))
                beside = (given[:, near] - level[near]) / spread[near]
                rows["mean"][c] = given.mean(axis=1)
                rows["neighbour"][c] = given[:, near]
                for name, source in (("timing", profiles), ("others' profiles", learned)):
                    timing = at_phase(_unit(source[[c]]), cycle.phase(window.time))[:, 0]
                    both = (beside + timing) / 2
                    rows[name][c] = np.maximum(level.mean() + spread.mean() * timing, 0.0)
                    rows[f"neighbour + {name}"][c] = np.maximum(level[near] + spread[near] * both, 0.0)
                regressed = self._regressed(given / spread, columns, c)
                rows["other people"][c] = given[:, near] if regressed is None else spread.mean() * regressed
            found.append(rows)
        return found

    @cached_property
    def learned(self) -> dict[str, np.ndarray]:
        """Profiles of the other people."""
        return profiles_of(self.people)

    def _profiles(self, share: np.ndarray, learned: Mapping[str, np.ndarray]) -> np.ndarray:
        found = [learned.get(electrode_name(m) or "", timing_profile(m)) for m in self.recording.muscles]
        return share.T @ _unit(np.array([np.zeros(PHASES) if p is None else p for p in found]))

    def _cycles(self, columns: list[int], profiles: np.ndarray) -> list[GaitCycle]:
        known = [c for c in columns if profiles[c].std() > 0]
        cycles: list[GaitCycle] = []
        for window in self.windows:
            longest = window.time[-1] - window.time[0]
            # A stretch may be shorter than a cycle: it goes by the fitted one's.
            periods = (
                [cycles[0].period * f for f in (0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15)]
                if cycles
                else [p for p in PERIODS if p <= 1.1 * longest]
            )
            cycles.append(fit_gait_cycle(window.time, window.envelopes[:, known], profiles[known], periods))
        return cycles

    def _regressed(self, given: np.ndarray, columns: list[int], channel: int) -> np.ndarray | None:
        wanted = muscle_of(self.recording, channel)
        left: dict[str, list[np.ndarray]] = {}
        for i, c in enumerate(columns):
            label = muscle_of(self.recording, c)
            if label is not None:
                left.setdefault(label, []).append(given[:, i])
        signals = {label: np.mean(s, axis=0) for label, s in left.items()}
        found: dict[str, list[np.ndarray]] = {}
        for person in self.people:
            weights = _weights(person, wanted, tuple(signals))
            if weights:
                made = np.sum([x * signals[m] for m, x in weights.items()], axis=0)
                found.setdefault(person.subject, []).append(made)
        return np.mean([np.mean(s, axis=0) for s in found.values()], axis=0) if found else None

    @property
    def people(self) -> list[OtherPerson]:
        """Everybody else."""
        return [p for p in self.others if p.subject != self.recording.subject]


def _weights(person: OtherPerson, wanted: str | None, left: tuple[str, ...]) -> Mapping[str, float]:
    """Of the muscles left in the wanted one; none where the person lacks it, or all of those left."""
    known = [m for m in left if m in person.signals]
    if wanted not in person.signals or not known:
        return {}
    assert wanted is not None
    solved = nnls(np.stack([person.signals[m] for m in known], axis=1), person.signals[wanted])[0]
    return dict(zip(known, solved, strict=True))


def _unit(profiles: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance over the cycle."""
    centred = profiles - profiles.mean(axis=1, keepdims=True)
    spread = centred.std(axis=1, keepdims=True)
    return centred / np.where(spread > 0, spread, 1.0)
