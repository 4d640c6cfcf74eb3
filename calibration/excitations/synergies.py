"""Extract synergies from recorded envelopes, and give a model the muscles that they drive."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nms_gym._pytree import replace
from nms_gym.errors import InputError, listed, near
from nms_gym.excitation.synergies import SynergyBasis, make_basis
from nms_gym.model.parameters import NEUTRAL_CHANNEL, NmsParams, kinds_on, make_params
from nms_gym.model.structure import NmsModel
from nms_gym.recording.storage import require_unique

Method = Literal["nmf", "pca"]
PREFIX = "synergy_"

# The number of synergies is the least whose reconstruction explains this much of all channels together and of each:
# Clark et al. 2010 (10.1152/jn.00825.2009) ask for 90 % of each muscle; 75 % of each is Torres-Oviedo & Ting's (2007,
# 10.1152/jn.01360.2006) limit and keeps one noisy channel from asking for a synergy of its own.
TOTAL_VAF, CHANNEL_VAF = 0.90, 0.75


@dataclass(frozen=True)
class Synergies:
    """Synergies of a set of recordings and how well they stand for them."""

    basis: SynergyBasis
    total_vaf: float
    channel_vaf: Mapping[str, float]
    vaf_by_count: tuple[float, ...]
    """total VAF with 1, 2, ... synergies, as far as they were tried"""
    rule: str
    """why so many"""


def vaf(envelopes: np.ndarray, reconstruction: np.ndarray) -> tuple[float, np.ndarray]:
    """Variance accounted for, ``1 - |E - R|^2 / |E|^2`` (uncentred, as is usual for synergies): in total and of each
    channel ``(C,)``; ``(T, C)`` both."""
    error, power = ((envelopes - reconstruction) ** 2).sum(axis=0), (envelopes**2).sum(axis=0)
    return float(1.0 - error.sum() / power.sum()), 1.0 - error / np.maximum(power, 1e-300)


def extract(
    envelopes: Sequence[np.ndarray],
    channels: Sequence[str],
    *,
    number: int | None = None,
    method: Method = "nmf",
    total_vaf: float = TOTAL_VAF,
    channel_vaf: float = CHANNEL_VAF,
    restarts: int = 10,
    seed: int = 0,
) -> Synergies:
    """Synergies that several recordings have in common.

    Args:
        envelopes: one ``(T, C)`` per recording or window, not negative, all in one unit per channel.
        channels: C names.
        number: of synergies; by default the least that reaches ``total_vaf`` and, for every channel, ``channel_vaf``.
        method: "nmf" (non-negative; scikit-learn, coordinate descent), or "pca" (uncentred singular vectors, commands
            and weights of both signs).
        total_vaf: see ``number``.
        channel_vaf: see ``number``.
        restarts: of the NMF, from seeded random starts beside its deterministic one; the best is kept.
        seed: of the restarts.

    Raises:
        InputError: more synergies than channels, fewer than one, a negative or missing value, a silent channel, or
            nothing recorded.
    """
    require_unique(channels, "channels", "synergies")
    if method not in ("nmf", "pca"):
        raise InputError(f"synergies: method is {method!r}; use 'nmf' or 'pca'")
    if not envelopes or not channels:
        raise InputError("synergies: nothing to extract from; give at least one recording and one channel")
    joined = np.concatenate([np.asarray(e, float) for e in envelopes])
    if joined.shape[1] != len(channels):
        raise InputError(f"synergies: envelopes have {joined.shape[1]} columns, but {len(channels)} channels are named")
    if number is not None and not 1 <= number <= len(channels):
        raise InputError(
            f"synergies: number is {number}; expected 1 to {len(channels)}, the number of channels ({listed(channels)})"
        )
    bad = ~(np.isfinite(joined) & (joined >= 0))
    if bad.any():
        t, c = np.argwhere(bad)[0]
        raise InputError(f"synergies: channel {channels[c]!r} is {joined[t, c]:g} at row {t}; expected 0 or more")
    size = np.sqrt((joined**2).mean(axis=0))
    silent = [c for c, s in zip(channels, size, strict=True) if s == 0]
    if silent:
        raise InputError(f"synergies: channel {listed(silent)} is silent; leave it out")
    # Every channel counts alike, however strong it was recorded.
    scaled = joined / size
    tried: list[float] = []
    counts = range(1, len(channels) + 1) if number is None else [number]
    vectors, each = np.empty(0), np.empty(0)
    for count in counts:
        vectors = _vectors(scaled, count, method, restarts, seed)
        commands = _basis(vectors, channels, method).commands(scaled)
        total, each = vaf(scaled, commands @ vectors.T)
        tried.append(total)
        if total >= total_vaf and each.min() >= channel_vaf:
            break
    vectors = vectors * size[:, None]
    # A command of 1 is the largest that these recordings ask for.
    vectors = vectors * np.abs(_basis(vectors, channels, method).commands(joined)).max(axis=0)
    asked = f"the least that explains {100 * total_vaf:.0f} % of all and {100 * channel_vaf:.0f} % of each channel"
    return Synergies(
        basis=_basis(vectors, channels, method),
        total_vaf=tried[-1],
        channel_vaf=dict(zip(channels, map(float, each), strict=True)),
        vaf_by_count=tuple(tried),
        rule=asked if number is None else "as asked",
    )


def _basis(vectors: np.ndarray, channels: Sequence[str], method: Method) -> SynergyBasis:
    names = [f"{PREFIX}{i + 1}" for i in range(vectors.shape[1])]
    return make_basis(names, channels, vectors, signed=method == "pca")


def _vectors(scaled: np.ndarray, count: int, method: Method, restarts: int, seed: int) -> np.ndarray:
    """(C, S), each of unit length, the one that explains most first."""
    if method == "pca":
        _, _, right = np.linalg.svd(scaled, full_matrices=False)
        vectors = right[:count].T
        return vectors * np.where(vectors.sum(axis=0) < 0, -1.0, 1.0)
    # Imported here: scikit-learn takes a second to load, and only those who extract need it.
    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning

    best, least = np.empty(0), np.inf
    for restart in range(restarts + 1):
        start = "nndsvda" if restart == 0 else "random"
        model = NMF(count, init=start, random_state=seed + restart, max_iter=1000, tol=1e-5)  # type: ignore[arg-type]
        with warnings.catch_warnings():
            # A start that is still creeping after 1000 sweeps competes as it is.
            warnings.simplefilter("ignore", ConvergenceWarning)
            commands = model.fit_transform(scaled)
        if model.reconstruction_err_ < least:
            least = float(model.reconstruction_err_)
            length = np.linalg.norm(model.components_, axis=1)
            order = np.argsort(-length * np.linalg.norm(commands, axis=0))
            best = (model.components_ / np.maximum(length, 1e-300)[:, None])[order].T
    return best


def add_synergies(
    model: NmsModel,
    start: NmsParams,
    basis: SynergyBasis,
    *,
    muscles: Sequence[str] | None = None,
    residuals: bool = False,
    only: bool = False,
    weight: float = 0.1,
) -> tuple[NmsModel, NmsParams, np.ndarray | None]:
    """The model with the basis's commands as channels, and muscles that follow them.

    Args:
        model: EMG-driven.
        start: its parameters.
        basis: from ``extract``; its channels must be the model's.
        muscles: that synergies drive; by default all that no channel drives.
        residuals: whether recorded muscles get a residual excitation from the synergies too.
        only: whether recorded muscles are driven by the synergies alone (mode synergy_only); their EMG is then a
            target, no drive.
        weight: that synthesised muscles start from, per command; recorded muscles start from the basis itself.

    Returns:
        Model, start and, with ``only``, the ``(M, C)`` weights of the channels to track.

    Raises:
        InputError: an unknown muscle or channel, one that a channel drives among ``muscles``, nothing to drive, or a
            model that has synergies.
    """
    if model.commands:
        raise InputError(f"the model has synergies already: {listed(model.commands)}")
    unknown = [c for c in basis.channels if c not in model.channels]
    if unknown:
        raise InputError(f"synergies come from channel {listed(unknown)}; {near(unknown[0], model.channels)}")
    if only and residuals:
        raise InputError("synergy_only leaves no residual: its EMG is tracked, not added; set residuals = false")
    chosen = model.passive_muscles if muscles is None else tuple(muscles)
    for muscle in chosen:
        if muscle not in model.muscles:
            raise InputError(f"synergies drive {muscle!r}, which the model has not; {near(muscle, model.muscles)}")
        if muscle in model.recorded_muscles:
            raise InputError(f"synergies are to drive {muscle!r}, which a channel drives; use residuals for that")
    recorded = model.recorded_muscles if only or residuals else ()
    driven = [m for m in model.muscles if m in chosen or m in recorded]
    if not driven:
        raise InputError("synergies drive nothing: every muscle has a channel; name muscles, or use mode 'emg_driven'")
    columns = len(basis.command_names)
    old = np.asarray(model.channel_weights, float)
    weights = np.pad(old, ((0, 0), (0, columns)))
    extended = replace(
        model,
        channels=(*model.channels, *basis.command_names),
        channel_weights=np.zeros_like(weights) if only else weights,
        synergies=basis,
        synergy_pairs=tuple((m, c) for m in driven for c in basis.command_names),
    )
    values: dict[str, Any] = {k: v for k, v in vars(start).items() if k != "synergy_weight"}
    spread = {k: np.full(columns, v) for k, v in NEUTRAL_CHANNEL.items()}
    spread["electromechanical_delay"] = np.full(columns, _typical_delay(start))
    values |= {k: np.concatenate([np.asarray(values[k], float), spread[k]]) for k in kinds_on("channel")}
    # What the synergies make of a muscle's own channels, with the gain the calibration starts from.
    gains = np.asarray(start.emg_gain, float)
    rows = [list(model.channels).index(c) for c in basis.channels]
    own = np.tile((old * gains)[:, rows] @ np.asarray(basis.vectors, float), columns // len(basis.names))
    first = {m: np.full(columns, weight) for m in driven}
    if only:
        first |= {m: own[model.muscles.index(m)] for m in recorded}
    elif residuals:
        first |= {m: np.zeros(columns) for m in recorded}
    values["synergy_weight"] = np.concatenate([first[m] for m in driven])
    return extended, make_params(extended, values), weights if only else None


def _typical_delay(start: NmsParams) -> float:
    delays = np.asarray(start.electromechanical_delay, float)
    return float(np.median(delays)) if delays.size else 0.0


def without_residuals(model: NmsModel, params: NmsParams) -> NmsParams:
    """The same person without residual excitations, to report moments with and without them."""
    residual = np.array([muscle in model.recorded_muscles for muscle, _ in model.synergy_pairs], bool)
    return replace(params, synergy_weight=np.where(residual, 0.0, np.asarray(params.synergy_weight)))
