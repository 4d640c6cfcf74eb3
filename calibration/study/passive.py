"""Passive trials: relaxed joints moved slowly, whose moments only passive tissue explains.

They tell fiber from tendon length where walking cannot: measured on the person, or from the literature (Silder et al.
2007, 10.1016/j.jbiomech.2006.12.017, as the NMSM Pipeline ships them). Each pose is taken at rest: no excitation, no
speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from calibration.study.keys import Folder, Keys
from nms_gym.errors import InputError, listed, near
from nms_gym.model.replay import Replay, Segment
from nms_gym.model.structure import NmsModel
from nms_gym.muscle.geometry import check_domain, lengths_and_moment_arms

# s between poses: long enough for every fiber to come to rest.
POSE_STEP = 10.0


@dataclass(frozen=True)
class PassiveFile:
    """One ``[[passive]]`` table: an .npz file and what its arrays are. A leading trial axis is optional."""

    where: str
    file: Path
    roles: dict[str, str]


def read_passive(where: str, table: Any, folder: Folder) -> PassiveFile:
    """A table's keys, checked; the file is read when the model is known."""
    keys = Keys(where, table)
    file = folder.path(keys.take("file", str), f"{where}: file")
    roles = {"coordinates": keys.take("coordinates", str), "moments": keys.take("moments", str)}
    for role in ("q", "muscles", "lengths", "moment_arms"):
        name = keys.take(role, str, None)
        if name is not None:
            roles[role] = name
    keys.finish()
    tables = {"muscles", "lengths", "moment_arms"}
    if "q" not in roles and not tables <= set(roles):
        raise InputError(f"{where}: give 'q' (for a model with muscle paths), or 'muscles', 'lengths', 'moment_arms'")
    return PassiveFile(where, file, roles)


def passive_segments(source: PassiveFile, model: NmsModel, coordinates: Sequence[str]) -> tuple[Segment, ...]:
    """The trials of a file that have moments of ``coordinates``, ready to calibrate; NaN where not known.

    Raises:
        InputError: an array, muscle or coordinate is missing or of the wrong shape, or no trial has a moment.
    """
    try:
        with np.load(source.file, allow_pickle=False) as stored:
            for name in source.roles.values():
                if name not in stored.files:
                    raise InputError(f"{source.where}: {source.file} has no array {name!r}; {near(name, stored.files)}")
            arrays = {role: stored[name] for role, name in source.roles.items()}
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{source.where}: {source.file} is no readable .npz file ({error})") from error
    joints = [str(c) for c in arrays["coordinates"]]
    missing = [c for c in coordinates if c not in joints]
    if missing:
        raise InputError(f"{source.where}: no passive moments of {listed(missing)}; the file has {listed(joints)}")
    columns = [joints.index(c) for c in coordinates]
    moments = _trials(source, arrays, "moments", 2)[..., columns]
    if "lengths" in arrays:
        names = [str(m) for m in arrays["muscles"]]
        absent = [m for m in model.muscles if m not in names]
        if absent:
            raise InputError(f"{source.where}: no muscle {listed(absent)} in {source.file}; {near(absent[0], names)}")
        rows = [names.index(m) for m in model.muscles]
        lengths = _trials(source, arrays, "lengths", 2)[..., rows]
        arms = _trials(source, arrays, "moment_arms", 3)[:, :, columns][..., rows]
    else:
        lengths, arms = _from_paths(source, model, joints, _trials(source, arrays, "q", 2), coordinates)
    if not (moments.shape[:2] == lengths.shape[:2] == arms.shape[:2]):
        raise InputError(
            f"{source.where}: moments {moments.shape}, lengths {lengths.shape} and moment arms {arms.shape} differ in "
            "their trials or samples"
        )
    found = [
        _segment(f"{source.file.stem} {i + 1}", model, coordinates, m, length, arm)
        for i, (m, length, arm) in enumerate(zip(moments, lengths, arms, strict=True))
        if np.isfinite(m).any()
    ]
    if not found:
        raise InputError(f"{source.where}: {source.file} has no passive moment of {listed(coordinates)}")
    return tuple(found)


def _trials(source: PassiveFile, arrays: dict[str, Any], role: str, axes: int) -> np.ndarray:
    """An array with a leading trial axis, float64."""
    array = np.asarray(arrays[role], float)
    if array.ndim == axes:
        array = array[None]
    if array.ndim != axes + 1:
        raise InputError(f"{source.where}: {role} has shape {array.shape}; expected {axes} axes, or trials before them")
    return array


def _from_paths(
    source: PassiveFile, model: NmsModel, joints: list[str], q: np.ndarray, coordinates: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    if model.paths is None:
        raise InputError(f"{source.where}: the model has no muscle paths; give 'muscles', 'lengths' and 'moment_arms'")
    missing = [c for c in model.paths.coordinates if c not in joints]
    if missing:
        raise InputError(f"{source.where}: q lacks {listed(missing)}, which the muscle paths need")
    q = q[..., [joints.index(c) for c in model.paths.coordinates]]
    for trial in q:
        check_domain(model.paths, trial, source=source.where)
    with jax.enable_x64(True):
        over = jax.vmap(jax.vmap(lengths_and_moment_arms, in_axes=(None, 0)), in_axes=(None, 0))
        lengths, arms = jax.tree.map(np.asarray, over(model.paths, q))
    return lengths, arms[:, :, [model.paths.coordinates.index(c) for c in coordinates]]


def _segment(
    name: str, model: NmsModel, coordinates: Sequence[str], moments: np.ndarray, lengths: np.ndarray, arms: np.ndarray
) -> Segment:
    history = model.settings.history_length(POSE_STEP)
    replay = Replay(
        coordinates=tuple(coordinates),
        dt=np.asarray(POSE_STEP),  # type: ignore[arg-type]
        excitations=np.zeros((history - 1 + len(lengths), len(model.channels))),  # type: ignore[arg-type]
        lengths=lengths,  # type: ignore[arg-type]
        velocities=np.zeros_like(lengths),  # type: ignore[arg-type]
        moment_arms=arms,  # type: ignore[arg-type]
    )
    time = POSE_STEP * np.arange(len(lengths))
    return Segment(name, replay, time, np.ones(len(time), bool), moments)
