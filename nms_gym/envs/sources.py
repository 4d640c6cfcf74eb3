"""What drives each muscle: its own recorded channels, synergies, the policy, or nothing.

Here a subject's model is given the channels that this asks for. Channels that the policy drives are named
``action:<muscle>``; parameters follow their names into the new model, and an action means what ``ActionOptions`` say.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from nms_gym._pytree import replace
from nms_gym.envs.options import Options, choice, flag, option
from nms_gym.errors import InputError, listed, near
from nms_gym.files.subject import Subject
from nms_gym.model.parameters import NEUTRAL_CHANNEL, PARAMETER_KINDS, NmsParams, entries
from nms_gym.model.structure import NmsModel
from nms_gym.recording.storage import require_unique

SOURCES = ("recorded", "synergy", "policy", "passive")
OWN = "own"
"""all channels and synergies that the subject has for a muscle"""
ACTION_PREFIX = "action:"
ACTION_UNITS = ("excitation", "emg")


@dataclass(frozen=True, kw_only=True)
class SourceOptions(Options):
    """What drives which muscle."""

    sources: Mapping[str, str] | str | None = option(
        None,
        'muscle -> "recorded", "synergy", "policy" or "passive", or one of them for all; muscles not named have the '
        "default of the task",
    )
    synergies: str = choice(
        "recorded",
        'who gives the commands of synergies: "recorded" (found from the recorded EMG) or "action"',
        ("recorded", "action"),
    )


class StrengthUnknownWarning(UserWarning):
    """A policy excites muscles of a person of whom only the product of EMG gain and strength is known."""


@dataclass(frozen=True, kw_only=True)
class DelayOptions(Options):
    """When muscles answer to what the policy excites."""

    action_delay: bool = flag(
        True,
        "muscles answer to the action as late as the calibrated person's own do to their EMG (those without a channel: "
        "as their others do on average); False: at once, as those of somebody who was never calibrated",
    )


@dataclass(frozen=True, kw_only=True)
class ActionOptions(DelayOptions):
    """What an action on a muscle is."""

    action_units: str = choice(
        "excitation",
        'what an action on a muscle is: "excitation", the part of full neural excitation; or "emg", the envelope of '
        "the muscle's own channels over its reference, which acts through their calibrated gain (a muscle without a "
        "channel takes excitation)",
        ACTION_UNITS,
    )


@dataclass(frozen=True)
class ActionChannels:
    """How the channels of a policy's actions follow from those of the person.

    Raises:
        InputError: unknown units.
    """

    units: str = "excitation"
    """one of ``ACTION_UNITS``"""
    delayed: bool = False
    """by the muscle's own delay"""

    def __post_init__(self) -> None:
        if self.units not in ACTION_UNITS:
            raise InputError(f"action_units is {self.units!r}; use one of {listed(ACTION_UNITS)}")

    def mixing(self, given: NmsModel, kind: str, muscles: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Weights ``(A, C)`` of the person's own entries, and constants ``(A,)``, whose sum is the action's entry."""
        own = np.asarray(given.channel_weights, float)[[given.muscles.index(m) for m in muscles]]
        constant = np.full(len(muscles), NEUTRAL_CHANNEL[kind])
        if kind == "emg_gain" and self.units == "emg":
            # The same envelope on all of a muscle's channels excites it by the weighted sum of their gains.
            return own, np.where(own.any(axis=1), 0.0, constant)
        if kind == "electromechanical_delay" and self.delayed and given.channels:
            shares = np.where(own.any(axis=1, keepdims=True), np.abs(own), 1.0)
            return shares / shares.sum(axis=1, keepdims=True), np.zeros_like(constant)
        return np.zeros_like(own), constant


NEUTRAL = ActionChannels()
"""excitations arrive as they are, at once"""


def chosen_sources(
    model: NmsModel, muscles: Sequence[str], asked: Mapping[str, str] | str | None, default: str
) -> dict[str, str]:
    """What drives each of ``muscles``: one of ``SOURCES``, or ``OWN``; ``default`` for those that are not named.

    Raises:
        InputError: an unknown muscle or source, or a source that a muscle does not have.
    """
    if asked is not None and not isinstance(asked, (str, Mapping)):
        raise InputError(
            f"sources is {asked!r}; give a mapping such as {{'soleus_r': 'recorded'}}, or one word for all"
        )
    by_name = dict.fromkeys(muscles, asked) if isinstance(asked, str) else dict(asked or {})
    for muscle, source in by_name.items():
        if muscle not in muscles:
            raise InputError(f"sources names {muscle!r}, which this task has not; {near(muscle, muscles)}")
        if source not in SOURCES:
            raise InputError(f"sources: {muscle!r} is driven by {source!r}; use one of {listed(SOURCES)}")
        have = {"recorded": model.recorded_muscles, "synergy": model.synergy_muscles}.get(source, (muscle,))
        if muscle not in have and not isinstance(asked, str):
            raise InputError(f"sources: {muscle!r} has no {source} channel in this subject; {listed(have, 50)} have")
    return {muscle: by_name.get(muscle, default) for muscle in muscles}


def driven_model(model: NmsModel, sources: Mapping[str, str], synergies: str) -> NmsModel:
    """The model with the channels that ``sources`` asks for: recorded ones, then synergy commands, then one per muscle
    that the policy drives."""
    weights = np.asarray(model.channel_weights, float).copy()
    for row, muscle in zip(weights, model.muscles, strict=True):
        if sources[muscle] not in ("recorded", OWN):
            row[:] = 0.0
    pairs = tuple((m, c) for m, c in model.synergy_pairs if sources[m] in ("synergy", OWN))
    basis = model.synergies if pairs else None
    commands = () if basis is None else basis.command_names
    needed = set(basis.channels) if basis is not None and synergies == "recorded" else set()
    columns = [
        i
        for i, c in enumerate(model.channels)
        if c in commands or (c not in model.commands and (c in needed or bool(np.any(weights[:, i]))))
    ]
    # Commands that the policy gives sit beside its own channels.
    columns.sort(key=lambda i: model.channels[i] in commands)
    undriven = replace(
        model,
        channels=tuple(model.channels[i] for i in columns),
        channel_weights=weights[:, columns],
        synergies=basis,
        synergy_pairs=pairs,
    )
    return with_action_channels(undriven, [m for m in model.muscles if sources[m] == "policy"])


def with_action_channels(model: NmsModel, muscles: Sequence[str]) -> NmsModel:
    """The model with one more channel per muscle: weight 1, named ``action:<muscle>``.

    Raises:
        InputError: a muscle is unknown, named twice, or already driven by a channel.
    """
    require_unique(muscles, "actuated muscles", "actuated")
    for muscle in muscles:
        if muscle not in model.muscles:
            raise InputError(f"actuated names {muscle!r}, which the subject has not; {near(muscle, model.muscles)}")
        taken = model.sources(muscle)
        if taken:
            raise InputError(
                f"actuated names {muscle!r}, which recorded channels or synergies already drive ({listed(taken)}); "
                f"choose among the muscles without a channel: {listed(model.passive_muscles, 50)}"
            )
    weights = np.asarray(model.channel_weights)
    columns = np.zeros((len(model.muscles), len(muscles)), weights.dtype)
    for column, muscle in enumerate(muscles):
        columns[model.muscles.index(muscle), column] = 1.0
    channels = (*model.channels, *(ACTION_PREFIX + m for m in muscles))
    return replace(model, channels=channels, channel_weights=np.concatenate([weights, columns], axis=1))


def params_for(model: NmsModel, given: NmsModel, params: NmsParams, actions: ActionChannels = NEUTRAL) -> NmsParams:
    """Parameters of ``given``, as ``model`` orders them, by name; what the policy excites has those that ``actions``
    says, by default gain 1 and no delay.

    Parameters may be traced.

    Raises:
        InputError: parameters are not those of ``given``, or ``model`` has an entry that ``given`` lacks.
    """
    leaves: dict[str, Any] = {}
    for kind in PARAMETER_KINDS:
        leaf, have = getattr(params, kind), entries(given, kind)
        if np.shape(leaf) != (len(have),):
            raise InputError(f"{kind} has shape {np.shape(leaf)}; expected ({len(have)},), one per {listed(have)}")
        names = entries(model, kind)
        new = [n for n in names if n not in have and n.startswith(ACTION_PREFIX) and kind in NEUTRAL_CHANNEL]
        missing = [n for n in names if n not in have and n not in new]
        if missing:
            raise InputError(f"{kind} lacks {listed(missing)}; it has {listed(have, 30)}")
        rows = np.array([have.index(n) if n in have else len(have) + new.index(n) for n in names], np.int32)
        weights, constant = np.zeros((0, len(have))), np.zeros(0)
        if new:
            weights, constant = actions.mixing(given, kind, [n.removeprefix(ACTION_PREFIX) for n in new])
        if isinstance(leaf, Tracer):
            weights, constant = (jnp.asarray(x, leaf.dtype) for x in (weights, constant))
            leaves[kind] = jnp.concatenate([leaf, weights @ leaf + constant])[rows]
        else:
            leaf = np.asarray(leaf, float)
            leaves[kind] = np.concatenate([leaf, weights @ leaf + constant])[rows]
    return NmsParams(**leaves)


def strength_unknown(subject: Subject) -> dict[str, tuple[str, ...]]:
    """Muscle -> its channels, where a calibration fitted both the channels' gain and the muscle's strength to EMG that
    is normalised to itself: then only their product is known. Empty where maximal moments were fitted
    (``calibration["strength_data"]`` of the subject's file names them)."""
    if subject.calibration.get("strength_data"):
        return {}
    gains, strengths = (subject.bounds.get(kind, {}) for kind in ("emg_gain", "max_isometric_force"))
    weights = np.asarray(subject.model.channel_weights)
    found = {}
    for muscle, row in zip(subject.model.muscles, weights, strict=True):
        channels = tuple(c for c, w in zip(subject.model.channels, row, strict=True) if w and c in gains)
        if channels and muscle in strengths:
            found[muscle] = channels
    return found


def warn_strength_unknown(subject: Subject, muscles: Sequence[str], units: str) -> None:
    """Say so where a policy excites muscles of unknown strength in units of excitation.

    Warns:
        StrengthUnknownWarning: once for each call.
    """
    found = {m: channels for m, channels in strength_unknown(subject).items() if m in muscles}
    if units != "excitation" or not found:
        return
    channels = list(dict.fromkeys(c for each in found.values() for c in each))
    warnings.warn(
        f"subject {subject.name!r}: gain of {listed(channels)} and strength of {listed(found, 8)} were both fitted "
        "without maximal moments, so that only their product is known, and a policy that excites these muscles learns "
        "on muscles that may be too strong or too weak. Calibrate with maximal moments (dynamometer or MVC), or with "
        "the gain fixed after an MVC trial; or make the task with action_units='emg', whose actions act through the "
        "fitted gain",
        StrengthUnknownWarning,
        stacklevel=3,
    )


def sources_in_words(model: NmsModel, synergies: str) -> dict[str, str]:
    """What drives each muscle: ``"recorded: <channels>"``, ``"synergy: <commands>"``, both joined by ``" + "``,
    ``"action"``, ``"action by synergy: <commands>"`` or ``"passive"``."""
    found = {}
    for muscle in model.muscles:
        names = model.sources(muscle)
        commands = [c for c in names if c in model.commands]
        actions = [c for c in names if c.startswith(ACTION_PREFIX)]
        recorded = [c for c in names if c not in commands and c not in actions]
        parts = [f"recorded: {', '.join(recorded)}"] if recorded else ["action"] if actions else []
        if commands:
            parts.append(f"{'action by synergy' if synergies == 'action' else 'synergy'}: {', '.join(commands)}")
        found[muscle] = " + ".join(parts) or "passive"
    return found
