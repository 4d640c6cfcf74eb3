"""What drives each muscle: its own recorded channels, synergies, the policy, or nothing.

Here a subject's model is given the channels that this asks for. Channels that the policy drives are named
``action:<muscle>``; parameters follow their names into the new model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from nms_gym._pytree import replace
from nms_gym.envs.options import Options, choice, option
from nms_gym.errors import InputError, listed, near
from nms_gym.model.parameters import NEUTRAL_CHANNEL, PARAMETER_KINDS, NmsParams, entries
from nms_gym.model.structure import NmsModel
from nms_gym.recording.storage import require_unique

SOURCES = ("recorded", "synergy", "policy", "passive")
OWN = "own"
"""all channels and synergies that the subject has for a muscle"""
ACTION_PREFIX = "action:"


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


def params_for(model: NmsModel, given: NmsModel, params: NmsParams) -> NmsParams:
    """Parameters of ``given``, as ``model`` orders them, by name; what the policy excites has gain 1 and no delay.

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
        actions = [n for n in names if n not in have and n.startswith(ACTION_PREFIX) and kind in NEUTRAL_CHANNEL]
        missing = [n for n in names if n not in have and n not in actions]
        if missing:
            raise InputError(f"{kind} lacks {listed(missing)}; it has {listed(have, 30)}")
        rows = np.array([have.index(n) if n in have else len(have) + actions.index(n) for n in names], np.int32)
        neutral = np.full(len(actions), NEUTRAL_CHANNEL.get(kind, 0.0))
        if isinstance(leaf, Tracer):
            leaves[kind] = jnp.concatenate([leaf, neutral.astype(leaf.dtype)])[rows]
        else:
            leaves[kind] = np.concatenate([np.asarray(leaf, float), neutral])[rows]
    return NmsParams(**leaves)


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
