"""Who is in the loop: a saved person, perhaps drawn from a posterior, with what drives each muscle and what ails them.

Everything here happens once, when a task is built, with NumPy and names; what comes out is a ``Limb``.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nms_gym._assets import asset_path
from nms_gym._pytree import replace
from nms_gym.conditions import conditions_from_spec
from nms_gym.envs.limb import Limb, Look, pack_params
from nms_gym.envs.task import as_numpy, checked_number
from nms_gym.errors import InputError, listed, near
from nms_gym.files.model_file import read_model_file
from nms_gym.files.posterior import load_people
from nms_gym.files.subject import Subject, load_subject, resolve_subject
from nms_gym.model.parameters import KINDS, NEUTRAL_CHANNEL, PARAMETER_KINDS, NmsParams, make_params
from nms_gym.model.rollout import require_body
from nms_gym.model.structure import NmsModel, Settings
from nms_gym.muscle.geometry import select_paths
from nms_gym.recording.storage import require_unique
from nms_gym.skeleton.passive import PassiveMoments, make_passive
from nms_gym.skeleton.skeleton import make_skeleton

SOURCES = ("recorded", "synergy", "policy", "passive")
ACTION_PREFIX = "action:"
"""Channels that the policy drives are named ``action:<muscle>``."""

# N·m/rad and N·m·s/rad of joint limits. Twice the default of ``make_passive``: here a policy may throw the limb into
# them with every muscle it has, and the step is implicit in them.
LIMIT_STIFFNESS = 600.0
LIMIT_DAMPING = 3.0


def load_person(
    subject: str | os.PathLike[str] | None, default: str | None = None, posterior: bool | str | os.PathLike[str] = False
) -> tuple[Subject, NmsParams | None]:
    """A subject and, if asked for, the people that fit their data about as well.

    Args:
        subject: path of a subject file, or name of a shipped person.
        default: used where ``subject`` is None.
        posterior: True for the ``posterior.npz`` beside the subject file, or the path of such a file.

    Raises:
        InputError: a file is missing, or its people are not of this subject.
    """
    asked = default if subject is None else subject
    if asked is not None and not isinstance(asked, (str, os.PathLike)):
        raise InputError(f"subject is {asked!r}; give the path of a subject file, or leave it out")
    if asked == "right_leg":
        if posterior:
            raise InputError("the shipped right leg was not calibrated, so it has no posterior; use posterior=False")
        return right_leg(), None
    path = resolve_subject(None if asked == "demo_arm" else asked)
    person = load_subject(path)
    if posterior is False or posterior is None:
        return person, None
    file = path.parent / "posterior.npz" if posterior is True else Path(posterior)
    if not file.is_file():
        raise InputError(
            f"no posterior file {str(file)!r}; nms-gym calibrate writes posterior.npz beside subject.json (unless "
            "--posterior 0), or give its path"
        )
    return person, load_people(file, person.model)


# Surface electrodes that a gait laboratory puts on a leg, and what they record.
LEG_CHANNELS = {
    "tibialis_anterior": ("tibant_r",),
    "soleus": ("soleus_r",),
    "gastrocnemius": ("gasmed_r", "gaslat_r"),
    "vasti": ("vaslat_r", "vasmed_r", "vasint_r"),
    "rectus_femoris": ("recfem_r",),
    "hamstrings": ("bflh_r", "semimem_r", "semiten_r"),
    "gluteus_maximus": ("glmax1_r", "glmax2_r", "glmax3_r"),
    "gluteus_medius": ("glmed1_r", "glmed2_r", "glmed3_r"),
}


@functools.cache
def right_leg() -> Subject:
    """The shipped right leg as a person: the published model's parameters, eight EMG channels, not calibrated."""
    file = read_model_file(asset_path("right_leg/model.json"))
    channels = tuple(LEG_CHANNELS)
    model = NmsModel(
        muscles=file.muscles,
        coordinates=file.coordinates,
        channels=channels,
        settings=Settings(integrator="backward_euler", activation="first_order"),
        channel_weights=np.array([[float(m in LEG_CHANNELS[c]) for c in channels] for m in file.muscles]),  # type: ignore[arg-type]
        paths=file.paths,
    )
    params = make_params(model, file.parameters)
    return Subject("right_leg", model, params, skeleton=file.skeleton, muscle_points=file.muscle_points)


def make_limb(
    subject: Subject,
    coordinates: Sequence[str],
    *,
    people: NmsParams | None = None,
    locked: Mapping[str, float] | None = None,
    prescribed: Sequence[str] = (),
    muscles: Sequence[str] | None = None,
    sources: Mapping[str, str] | str | None = None,
    otherwise: str = "policy",
    synergies: str = "recorded",
    condition: Sequence[Mapping[str, Any] | str] | Callable[[NmsModel], Any] | None = None,
    tendon: str | None = None,
    dt: float = 0.01,
    frame_skip: int = 1,
) -> Limb:
    """The limb that some coordinates move.

    Args:
        subject: with muscle paths and a skeleton.
        coordinates: D that are free to move.
        people: parameters ``(N, ...)`` of those whom a reset draws from; None for the subject alone.
        locked: rad, where other coordinates stand; the others are at their default.
        prescribed: coordinates whose motion will be given.
        muscles: by default all that span a free coordinate.
        sources: what drives which muscle, by name or for all: "recorded", "synergy", "policy" or "passive".
        otherwise: for muscles that ``sources`` does not name: "policy", or "recorded" for the subject's own channels
            and synergies where there are any (the other muscles are passive then).
        synergies: who gives synergy commands, "recorded" or "action".
        condition: what ails the person, as ``conditions_from_spec`` takes it, or a function of the model that says so.
        tendon: "rigid" or "elastic" instead of the subject's.
        dt: s, of a physical step; 0.001 to 0.02.
        frame_skip: physical steps per control step.

    Raises:
        InputError: no skeleton or paths, an unknown name, or an option that cannot be.
    """
    checked_number(dt, "dt", 1e-3, 0.02, "s")
    if isinstance(frame_skip, bool) or not isinstance(frame_skip, int) or not 1 <= frame_skip <= 100:
        raise InputError(f"frame_skip is {frame_skip!r}; use a whole number from 1 to 100")
    if synergies not in ("recorded", "action"):
        raise InputError(f"synergies is {synergies!r}; use 'recorded' or 'action'")
    for name, value in (locked or {}).items():
        checked_number(value, f"the angle of {name!r}", -2 * math.pi, 2 * math.pi, "rad")
    where = f"subject {subject.name!r}"
    if subject.skeleton is None or subject.model.paths is None:
        missing = "skeleton" if subject.model.paths is not None else "muscle paths"
        raise InputError(
            f"{where} has no {missing}, so nothing can move; calibrate with a model that has both (an .osim file after "
            "nms-gym fit-paths, or asset:arm, asset:right_leg)"
        )
    known = [c.name for c in subject.skeleton.coordinates]
    for name in (*coordinates, *prescribed, *(locked or {})):
        if name not in known:
            raise InputError(
                f"{where} has no coordinate {name!r}, which this task moves or holds; {near(name, known)}. Choose a "
                "subject with that joint"
            )
    kept = [c for c in subject.model.paths.coordinates if c in (*coordinates, *prescribed)]
    held = {
        c.name: float((locked or {}).get(c.name, c.default))
        for c in subject.skeleton.coordinates
        if c.name not in kept and c.coupled_to is None
    }
    spanned = [m for m in subject.model.muscles if set(subject.model.paths.span(m)) & set(coordinates)]
    if muscles is not None:
        require_unique(muscles, "muscles", "muscles")
        for name in muscles:
            if name not in spanned:
                raise InputError(
                    f"muscles names {name!r}, which does not move {listed(coordinates)}; {near(name, spanned)}"
                )
        spanned = [m for m in spanned if m in muscles]
    if not spanned:
        raise InputError(f"{where}: no muscle spans {listed(coordinates)}")
    model, pick = _arranged(
        subject.model, spanned, kept, held, _sources(subject.model, spanned, sources, otherwise), synergies
    )
    if tendon is not None:
        model = replace(model, settings=replace(model.settings, tendon=tendon))
    model = replace(model, skeleton=make_skeleton(subject.skeleton, coordinates, prescribed=prescribed, locked=held))
    require_body(model)

    spec = condition(model) if callable(condition) else condition
    conditions = conditions_from_spec(spec, model)
    everyone = [subject.params] if people is None else each_of(people)
    prepared = [conditions.prepare(model, pick(one)) for one in everyone]
    model, params = prepared[0]
    delays = np.max([np.max(np.asarray(p.electromechanical_delay), initial=0.0) for _, p in prepared])
    immediate = bool(delays < 1e-9)
    settings = replace(model.settings, max_delay=max(float(delays), 1e-6))
    names = model.channels
    commanded = model.commands if synergies == "action" else ()
    recorded = tuple(c for c in names if not c.startswith(ACTION_PREFIX) and c not in commanded)
    passive = make_passive(subject.skeleton, coordinates, stiffness=LIMIT_STIFFNESS, limit_damping=LIMIT_DAMPING)
    return Limb(
        model=replace(model, settings=settings),
        params=params,
        people=None if people is None else pack_params(stacked_params([p for _, p in prepared])),  # type: ignore[arg-type]
        passive=_within_paths(passive, model),
        condition=as_numpy(conditions),
        look=Look(subject.skeleton, held, subject.muscle_points),
        recorded=recorded,
        commanded=commanded,
        actuated=tuple(c.removeprefix(ACTION_PREFIX) for c in names if c.startswith(ACTION_PREFIX)),
        sources=tuple(drive_of(model, synergies).items()),
        dt=float(dt),
        frame_skip=frame_skip,
        immediate=immediate,
    )


def with_sources(
    subject: Subject, people: NmsParams | None, sources: Mapping[str, str] | str
) -> tuple[Subject, NmsParams | None, tuple[str, ...]]:
    """The subject, and the people, with only the channels that ``sources`` leaves to muscles; and the muscles that it
    gives to the policy, which nothing else drives now.

    Raises:
        InputError: an unknown muscle or source, or a source that a muscle does not have.
    """
    model = subject.model
    asked = _sources(model, model.muscles, sources, "recorded")
    quiet = {muscle: "passive" if source == "policy" else source for muscle, source in asked.items()}
    arranged, pick = _arranged(model, model.muscles, model.coordinates, {}, quiet, "recorded")
    if people is not None:
        people = stacked_params([pick(one) for one in each_of(people)])
    arranged = replace(arranged, skeleton=model.skeleton)
    subject = replace(subject, model=arranged, params=pick(subject.params))
    return subject, people, tuple(m for m in model.muscles if asked[m] == "policy")


def drive_of(model: NmsModel, synergies: str) -> dict[str, str]:
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


def _sources(
    model: NmsModel, muscles: Sequence[str], asked: Mapping[str, str] | str | None, otherwise: str
) -> dict[str, str]:
    """What drives each muscle: one of ``SOURCES``, or "own" for all channels and synergies that the subject has."""
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
    fallback = "own" if otherwise == "recorded" else otherwise
    return {muscle: by_name.get(muscle, fallback) for muscle in muscles}


def _arranged(
    model: NmsModel,
    muscles: Sequence[str],
    coordinates: Sequence[str],
    held: Mapping[str, float],
    sources: Mapping[str, str],
    synergies: str,
) -> tuple[NmsModel, Any]:
    """The model of some muscles and coordinates with the channels that the sources ask for, and a function that
    brings the subject's parameters into its order."""
    rows = [model.muscles.index(m) for m in muscles]
    weights = np.asarray(model.channel_weights, float)[rows]
    for row, muscle in zip(weights, muscles, strict=True):
        if sources[muscle] not in ("recorded", "own"):
            row[:] = 0.0
    pairs = [i for i, (m, _) in enumerate(model.synergy_pairs) if sources.get(m) in ("synergy", "own")]
    basis = model.synergies if pairs else None
    commands = () if basis is None else basis.command_names
    needed = set(basis.channels) if basis is not None and synergies == "recorded" else set()
    columns = [
        i
        for i, c in enumerate(model.channels)
        if c in commands or (c not in model.commands and (c in needed or bool(np.any(weights[:, i]))))
    ]
    driven = [i for i, m in enumerate(muscles) if sources[m] == "policy"]
    actions = np.zeros((len(muscles), len(driven)))
    actions[driven, np.arange(len(driven))] = 1.0
    # Recorded channels, then commands, then the policy's: commands that the policy gives sit beside its own.
    columns.sort(key=lambda i: model.channels[i] in commands)
    kept = tuple(model.channels[i] for i in columns)
    paths = model.paths
    if paths is not None:
        spanned = {m: held.get(m, 0.0) for m in paths.coordinates if m not in coordinates}
        paths = select_paths(paths, muscles, coordinates, spanned)
    arranged = NmsModel(
        muscles=tuple(muscles),
        coordinates=tuple(coordinates),
        channels=(*kept, *(ACTION_PREFIX + muscles[i] for i in driven)),
        settings=model.settings,
        channel_weights=np.concatenate([weights[:, columns], actions], axis=1),  # type: ignore[arg-type]
        paths=paths,
        rigid_tendons=tuple(m for m in model.rigid_tendons if m in muscles),
        synergies=basis,
        synergy_pairs=tuple(model.synergy_pairs[i] for i in pairs),
    )

    def pick(params: NmsParams) -> NmsParams:
        leaves = {}
        for kind in PARAMETER_KINDS:
            leaf = np.asarray(getattr(params, kind), float)
            if KINDS[kind].axis == "channel":
                leaf = np.concatenate([leaf[columns], np.full(len(driven), NEUTRAL_CHANNEL[kind])])
            else:
                leaf = leaf[pairs] if KINDS[kind].axis == "synergy_pair" else leaf[rows]
            leaves[kind] = leaf
        return NmsParams(**leaves)

    return arranged, pick


def _within_paths(passive: PassiveMoments, model: NmsModel) -> PassiveMoments:
    """Joint limits that begin where the muscle paths are still what was fitted."""
    assert model.paths is not None
    domain = np.asarray(model.paths.domain, float)
    names = model.paths.coordinates
    lower, upper = np.array(passive.limits.lower), np.array(passive.limits.upper)
    for i, name in enumerate(passive.coordinates):
        if name in names:
            low, high = domain[names.index(name)]
            lower[i], upper[i] = max(lower[i], low), min(upper[i], high)
    return replace(passive, limits=replace(passive.limits, lower=lower, upper=upper))


def each_of(people: NmsParams) -> list[NmsParams]:
    """Parameters of each of the people ``(N, ...)``."""
    return [jax.tree.map(lambda x, i=i: x[i], people) for i in range(len(np.asarray(people.emg_gain)))]


def stacked_params(everyone: Sequence[NmsParams]) -> NmsParams:
    """Parameters ``(N, ...)`` from those of N people."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *everyone)
