"""Who is in the loop: a saved person, perhaps drawn from a posterior, and the limb of theirs that a task moves.

Everything here happens once, when a task is built, with NumPy and names; what comes out is a ``Limb``.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nms_gym._assets import asset_path
from nms_gym._pytree import replace
from nms_gym.conditions import conditions_from_spec
from nms_gym.envs.limb import Appearance, Limb, pack_params
from nms_gym.envs.options import Options, TimeOptions, option
from nms_gym.envs.sources import (
    ACTION_PREFIX,
    ActionChannels,
    ActionOptions,
    DelayOptions,
    SourceOptions,
    chosen_sources,
    driven_model,
    params_for,
    sources_in_words,
    warn_strength_unknown,
)
from nms_gym.envs.task import as_numpy
from nms_gym.envs.trained import trained_limits
from nms_gym.errors import InputError, listed, near
from nms_gym.files.model_file import read_model_file
from nms_gym.files.posterior import load_people
from nms_gym.files.subject import Subject, load_subject, resolve_subject
from nms_gym.model.parameters import NmsParams, make_params
from nms_gym.model.rollout import require_body
from nms_gym.model.structure import NmsModel, Settings
from nms_gym.muscle.geometry import lengths_and_moment_arms, select_paths
from nms_gym.skeleton.passive import PassiveMoments, make_passive
from nms_gym.skeleton.skeleton import make_skeleton

# N·m/rad and N·m·s/rad of joint limits. Twice the default of ``make_passive``: here a policy may throw the limb into
# them with every muscle it has, and the step is implicit in them.
LIMIT_STIFFNESS = 600.0
LIMIT_DAMPING = 3.0

SHIPPED = ("demo_arm", "right_leg")
Conditions = Sequence[Mapping[str, Any] | str]


@dataclass(frozen=True, kw_only=True)
class PersonOptions(Options):
    """Who it is, and what impairs them."""

    subject: str | os.PathLike[str] = option(
        "demo_arm",
        "path of a subject file whose model has the joints that the task is about, or a shipped person: "
        '"demo_arm" (synthetic) or "right_leg" (a published model)',
    )
    posterior: bool | str | os.PathLike[str] = option(
        False,
        "True (the ``posterior.npz`` beside the subject file) or the path of such a file, to draw a person of the "
        "calibration's posterior at every reset",
    )
    condition: Conditions | None = option(
        None, 'what impairs the person, for example ``[{"name": "weakness", "severity": 0.3}]``'
    )
    tendon: str | None = option(None, '"rigid" or "elastic" instead of the subject\'s')


@dataclass(frozen=True, kw_only=True)
class ImpairedPersonOptions(PersonOptions):
    """Somebody who needs help."""

    condition: Conditions | None = option(
        None,
        "what impairs the person; by default paresis (half of the drive is lost), 40 ms of additional delay and "
        "co-contraction of antagonists with a fifth of the drive; [] is a healthy person",
    )


def load_person(options: PersonOptions) -> tuple[Subject, NmsParams | None]:
    """A subject and, if asked for, the people that fit their data about as well.

    Raises:
        InputError: a file is missing, or its people are not of this subject.
    """
    asked, posterior = options.subject, options.posterior
    if not isinstance(asked, (str, os.PathLike)):
        raise InputError(f"subject is {asked!r}; give the path of a subject file, or leave it out")
    shipped = asked == "right_leg"
    path = resolve_subject(None if asked == "demo_arm" else asked) if not shipped else Path()
    person = right_leg() if shipped else load_subject(path)
    people = None
    if posterior is not False:
        if shipped:
            raise InputError("the shipped right leg was not calibrated, so it has no posterior; use posterior=False")
        file = path.parent / "posterior.npz" if posterior is True else Path(posterior)
        if not file.is_file():
            raise InputError(
                f"no posterior file {str(file)!r}; nms-gym calibrate writes posterior.npz beside subject.json (unless "
                "--posterior 0), or give its path"
            )
        people = load_people(file, person.model, person.params)
    if options.tendon is not None:
        settings: Any = replace(person.model.settings, tendon=options.tendon)
        person = replace(person, model=replace(person.model, settings=settings))
    return person, people


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
    weights: Any = np.array([[float(m in LEG_CHANNELS[c]) for c in channels] for m in file.muscles])
    model = NmsModel(
        muscles=file.muscles,
        coordinates=file.coordinates,
        channels=channels,
        settings=Settings(integrator="backward_euler", activation="first_order"),
        channel_weights=weights,
        paths=file.paths,
        specific_tension=file.specific_tension,
    )
    params = make_params(model, file.parameters)
    return Subject("right_leg", model, params, skeleton=file.skeleton, muscle_points=file.muscle_points)


def typical_impairment(model: NmsModel) -> list[dict[str, Any]]:
    """What impairs the people whom devices help by default: half of the drive is lost, 40 ms more delay, and
    antagonists contract with a fifth of the drive. A choice of this package, not of a patient.

    Agonists and antagonists are told apart by the sign of their moment arm about the first joint, in its middle.
    """
    assert model.paths is not None
    assert model.skeleton is not None
    with jax.enable_x64(True):
        middle = np.asarray(model.paths.domain, float).mean(axis=1)
        arms = np.asarray(lengths_and_moment_arms(model.paths, middle)[1])
    row = arms[model.coordinates.index(model.skeleton.coordinates[0])]
    groups = [[m for m, r in zip(model.muscles, row, strict=True) if sign * r > 0] for sign in (1, -1)]
    found: list[dict[str, Any]] = [
        {"name": "paresis", "severity": 0.5},
        {"name": "electromechanical_delay", "increase": 0.04},
    ]
    return [*found, {"name": "cocontraction", "severity": 0.2, "groups": [groups]}] if all(groups) else found


def load_limb(
    person: PersonOptions,
    coordinates: Sequence[str],
    *,
    condition: Conditions | Callable[[NmsModel], Conditions] | None = None,
    **options: Any,
) -> Limb:
    """``make_limb`` of a person; ``condition`` is what impairs them where ``person`` does not say.

    Warns:
        StrengthUnknownWarning: the policy excites muscles of a person of one's own whose strength is not known.
    """
    subject, people = load_person(person)
    asked = condition if person.condition is None else person.condition
    limb = make_limb(subject, coordinates, people=people, condition=asked, **options)
    warn_of_strength(person, subject, limb.actuated, options.get("actions"))
    return limb


def warn_of_strength(
    person: PersonOptions, subject: Subject, actuated: Sequence[str], actions: DelayOptions | None
) -> None:
    """``warn_strength_unknown`` of somebody whom the user brings; what is shipped is an example to try things on."""
    if person.subject not in SHIPPED and isinstance(actions, ActionOptions):
        warn_strength_unknown(subject, actuated, actions.action_units)


def action_channels(subject: Subject, actions: DelayOptions) -> ActionChannels:
    """How a policy's actions reach the muscles of a person: late only if a calibration says how late."""
    units = actions.action_units if isinstance(actions, ActionOptions) else "excitation"
    return ActionChannels(units, actions.action_delay and subject.start is not None)


def make_limb(
    subject: Subject,
    coordinates: Sequence[str],
    *,
    people: NmsParams | None = None,
    held: Mapping[str, float] | None = None,
    prescribed: Sequence[str] = (),
    sources: SourceOptions = SourceOptions(),
    default_source: str = "policy",
    condition: Conditions | Callable[[NmsModel], Conditions] | None = None,
    actions: DelayOptions = ActionOptions(),
    time: TimeOptions = TimeOptions(),
) -> Limb:
    """The limb that some coordinates move, with all muscles that span one of them.

    Args:
        subject: with muscle paths and a skeleton.
        coordinates: D that are free to move.
        people: parameters ``(N, ...)`` of those whom a reset draws from; None for the subject alone.
        held: rad, where other coordinates stand; the others are at their default.
        prescribed: coordinates whose motion will be given.
        sources: what drives which muscle.
        default_source: of muscles that ``sources`` does not name: one of ``SOURCES``, or "own" for the subject's own
            channels and synergies where there are any (the other muscles are passive then).
        condition: what impairs the person, as ``conditions_from_spec`` takes it, or a function of the model that says
            so.
        actions: what an action on a muscle is, and when it acts.
        time: physical and control steps.

    Raises:
        InputError: no skeleton or paths, or an unknown name.
    """
    held = held or {}
    where = f"subject {subject.name!r}"
    paths, skeleton = subject.model.paths, subject.skeleton
    if skeleton is None or paths is None:
        missing = "skeleton" if paths is not None else "muscle paths"
        raise InputError(
            f"{where} has no {missing}, so nothing can move; calibrate with a model that has both (an .osim file after "
            "nms-gym fit-paths, or asset:arm, asset:right_leg)"
        )
    known = [c.name for c in skeleton.coordinates]
    for name in (*coordinates, *prescribed, *held):
        if name not in known:
            raise InputError(
                f"{where} has no coordinate {name!r}, which this task moves or holds; {near(name, known)}. Choose a "
                "subject with that joint"
            )
    kept = [c for c in paths.coordinates if c in (*coordinates, *prescribed)]
    still = {
        c.name: float(held.get(c.name, c.default))
        for c in skeleton.coordinates
        if c.name not in kept and c.coupled_to is None
    }
    muscles = [m for m in subject.model.muscles if set(paths.span(m)) & set(coordinates)]
    if not muscles:
        raise InputError(f"{where}: no muscle spans {listed(coordinates)}")
    chosen = chosen_sources(subject.model, muscles, sources.sources, default_source)
    model = driven_model(_of_muscles(subject.model, muscles, kept, still), chosen, sources.synergies)
    body = make_skeleton(skeleton, coordinates, prescribed=prescribed, locked=still)
    model = replace(model, skeleton=body)
    require_body(model)

    conditions = conditions_from_spec(condition(model) if callable(condition) else condition, model)
    everyone = [subject.params] if people is None else each_of(people)
    how = action_channels(subject, actions)
    prepared = [conditions.prepare(model, params_for(model, subject.model, one, how)) for one in everyone]
    model, params = prepared[0]
    delays = np.max([np.max(np.asarray(p.electromechanical_delay), initial=0.0) for _, p in prepared])
    settings = replace(model.settings, max_delay=max(float(delays), 1e-6))
    names = model.channels
    commanded = model.commands if sources.synergies == "action" else ()
    passive = make_passive(skeleton, coordinates, stiffness=LIMIT_STIFFNESS, limit_damping=LIMIT_DAMPING)
    packed: Any = None if people is None else pack_params(stacked_params([p for _, p in prepared]))
    recorded = tuple(c for c in names if not c.startswith(ACTION_PREFIX) and c not in commanded)
    return Limb(
        model=replace(model, settings=settings),
        params=params,
        people=packed,
        passive=_within_paths(passive, model),
        condition=as_numpy(conditions),
        appearance=Appearance(skeleton, still, subject.muscle_points),
        trained=trained_limits(subject.trained, recorded, body.coordinates),
        recorded=recorded,
        commanded=commanded,
        actuated=tuple(c.removeprefix(ACTION_PREFIX) for c in names if c.startswith(ACTION_PREFIX)),
        sources=tuple(sources_in_words(model, sources.synergies).items()),
        dt=float(time.dt),
        frame_skip=time.frame_skip,
        undelayed=bool(delays < 1e-9),
    )


def _of_muscles(
    model: NmsModel, muscles: Sequence[str], coordinates: Sequence[str], held: Mapping[str, float]
) -> NmsModel:
    """The model of some muscles over some coordinates, the others held."""
    assert model.paths is not None
    still = {name: held.get(name, 0.0) for name in model.paths.coordinates if name not in coordinates}
    weights: Any = np.asarray(model.channel_weights, float)[[model.muscles.index(m) for m in muscles]]
    return replace(
        model,
        muscles=tuple(muscles),
        coordinates=tuple(coordinates),
        channel_weights=weights,
        paths=select_paths(model.paths, muscles, coordinates, still),
        rigid_tendons=tuple(m for m in model.rigid_tendons if m in muscles),
        synergy_pairs=tuple((m, c) for m, c in model.synergy_pairs if m in muscles),
    )


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
