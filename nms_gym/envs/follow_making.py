"""Building a ``Follow`` task: what its ids do the same way."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from nms_gym.envs.device import Actuator, Stimulator
from nms_gym.envs.follow import PREVIEW, Follow
from nms_gym.envs.limb import Limb
from nms_gym.envs.person import load_person, make_limb
from nms_gym.envs.recordings import Names, load_trials, make_recordings
from nms_gym.envs.targets import Waves
from nms_gym.envs.task import as_numpy, checked_flag, checked_number, steps_of
from nms_gym.errors import InputError, listed
from nms_gym.model.structure import NmsModel
from nms_gym.muscle.geometry import lengths_and_moment_arms


def follower_limb(
    subject: str | os.PathLike[str] | None,
    default: str,
    posterior: bool | str | os.PathLike[str],
    joints: Sequence[str],
    **options: Any,
) -> Limb:
    """``make_limb`` of a person by file or name."""
    person, people = load_person(subject, default, posterior)
    return make_limb(person, joints, people=people, **options)


def impaired(model: NmsModel) -> list[dict[str, Any]]:
    """What ails the people whom devices help by default: half of the drive is lost, 40 ms more delay, and antagonists
    contract with a fifth of the drive. A choice of this package, not of a patient.

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


def make_follow(
    limb: Limb,
    title: str,
    *,
    trial: Names | None = None,
    default_trial: Names | None = None,
    waves: Waves | None = None,
    prescribed: Sequence[str] = (),
    start: float | None = None,
    stop: float | None = None,
    seconds: float | None = None,
    random_start: bool = False,
    device: Actuator | None = None,
    stimulator: Stimulator | None = None,
    electrodes: Sequence[str] = (),
    stiffness: Any = 50.0,
    damping: Any = 5.0,
    width: float,
    tolerance: float,
    effort_weight: float = 0.0,
    help_weight: float = 0.0,
    charge_weight: float = 0.0,
    emg_noise: float = 0.0,
    symmetric_action: bool = False,
) -> Follow:
    """The task ``title`` of a limb, with NumPy float64 leaves; ``width`` and ``tolerance`` in degrees.

    Raises:
        InputError: a trial or an option cannot be used.
    """
    if device is not None and (limb.actuated or limb.commanded):
        raise InputError(
            "the action is the device's torque, so that sources cannot give muscles to the policy; use 'recorded', "
            "'synergy' or 'passive'"
        )
    if waves is not None and trial is not None and not limb.recorded:
        raise InputError("trial names a recording, but no muscle is driven by its EMG; give some the source 'recorded'")
    if emg_noise and not limb.recorded:
        raise InputError("emg_noise is of recorded EMG, but that drives no muscle; give some the source 'recorded'")
    recordings = None
    if waves is None or limb.recorded:
        if trial is None and default_trial is None:
            raise InputError(f"recorded channels drive muscles ({listed(limb.recorded)}): name a recording in trial")
        recordings = make_recordings(
            limb, load_trials(trial, default_trial or ()), prescribed=prescribed, start=start, stop=stop
        )
    if device is None and stimulator is None and not (limb.actuated or limb.commanded):
        raise InputError("no muscle is driven by the policy; give at least one the source 'policy'")
    control = limb.control_dt
    if recordings is None:
        assert seconds is not None
        horizon, last_start = steps_of(seconds, control), np.zeros(1, np.int32)
    else:
        whole = (np.asarray(recordings.lengths) - 1) // limb.frame_skip
        if whole.min() < 2:
            shortest = recordings.names[int(np.argmin(whole))]
            raise InputError(f"trial {shortest!r} is shorter than two control steps of {control:g} s; use a longer one")

        wanted = int(whole.max()) if seconds is None else steps_of(seconds, control)
        horizon = min(wanted, int(whole.max()))
        if seconds is not None and wanted > whole.max():
            raise InputError(
                f"seconds is {seconds:g} s; the longest recording has {control * whole.max():g} s: shorten it, or use "
                "seconds=None for the whole recording"
            )
        spare = np.maximum(np.asarray(recordings.lengths) - 1 - horizon * limb.frame_skip, 0)
        checked_flag(random_start, "random_start")
        last_start = (spare if random_start else np.zeros_like(spare)).astype(np.int32)
    checked_flag(symmetric_action, "symmetric_action")
    joints = len(limb.coordinates)
    middle = 0.5 * np.sum(limb.limits(), axis=0)
    pose = np.zeros(len(limb.model.coordinates))
    for i, name in enumerate(limb.model.coordinates):
        if name in limb.coordinates:
            pose[i] = middle[limb.coordinates.index(name)]

    def number(value: float, name: str) -> Any:
        return np.asarray(checked_number(value, name, 0.0, 1000.0))

    task = Follow(
        limb=limb,
        title=title,
        recordings=recordings,
        waves=waves,
        device=device,
        stimulator=stimulator,
        strength=limb.strength(pose),  # type: ignore[arg-type]
        stiffness=np.broadcast_to(np.asarray(stiffness, float), (joints,)).copy(),  # type: ignore[arg-type]
        damping=np.broadcast_to(np.asarray(damping, float), (joints,)).copy(),  # type: ignore[arg-type]
        width=np.asarray(math.radians(width)),  # type: ignore[arg-type]
        tolerance=np.asarray(math.radians(tolerance)),  # type: ignore[arg-type]
        effort_weight=number(effort_weight, "effort_weight"),
        help_weight=number(help_weight, "help_weight"),
        charge_weight=number(charge_weight, "charge_weight"),
        emg_noise=np.asarray(checked_number(emg_noise, "emg_noise", 0.0, 3.0)),  # type: ignore[arg-type]
        lowest_action=np.asarray(-1.0 if symmetric_action or device is not None else 0.0),  # type: ignore[arg-type]
        last_start=last_start,  # type: ignore[arg-type]
        preview=tuple(round(ahead / limb.dt) for ahead in PREVIEW),
        horizon=horizon,
        electrodes=tuple(electrodes),
        noisy=emg_noise > 0,
    )
    return as_numpy(task)
