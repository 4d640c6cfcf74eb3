"""Passive trials: relaxed joints moved slowly, whose moments only passive tissue explains.

They tell fiber from tendon length where walking cannot: measured on the person, or from the literature (Silder et al.
2007, 10.1016/j.jbiomech.2006.12.017, as the NMSM Pipeline ships them). Each pose is taken at rest: no excitation, no
speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from calibration.study.keys import Folder, read_keys
from nms_gym.errors import InputError, listed, near
from nms_gym.model.replay import Replay, Segment
from nms_gym.model.structure import NmsModel
from nms_gym.muscle.geometry import check_domain, lengths_and_moment_arms
from nms_gym.recording.npz import names_of, read_npz

# s between poses: long enough for every fiber to come to rest.
POSE_STEP = 10.0


@dataclass(frozen=True, eq=False)
class PassiveRecording:
    """Passive trials as arrays, by name; an axis of trials may come before the others.

    Raises:
        InputError: neither joint angles nor muscle tables.
    """

    name: str
    coordinates: tuple[str, ...]
    """K names"""
    moments: np.ndarray
    """(T, K) N·m; not a number where unknown"""
    q: np.ndarray | None = None
    """(T, K) rad, for a model with muscle paths"""
    muscles: tuple[str, ...] = ()
    """M names"""
    lengths: np.ndarray | None = None
    """(T, M) m"""
    moment_arms: np.ndarray | None = None
    """(T, K, M) m"""
    where: str = ""
    """for messages; by default by its name"""

    def __post_init__(self) -> None:
        if not self.where:
            object.__setattr__(self, "where", f"passive recording {self.name!r}")
        tables = bool(self.muscles) and self.lengths is not None and self.moment_arms is not None
        if self.q is None and not tables:
            raise InputError(
                f"{self.where}: give 'q' (for a model with muscle paths), or 'muscles', 'lengths', 'moment_arms'"
            )


def read_passive(where: str, table: Any, folder: Folder) -> PassiveRecording:
    """One ``[[passive]]`` table: an .npz file and what its arrays are."""
    keys = read_keys(where, table, "passive")
    file = folder.path(keys.pop("file"), f"{where}: file")
    roles = {role: key for role, key in keys.items() if key is not None}
    stored = read_npz(file, roles.values())
    for key in roles.values():
        if key not in stored:
            raise InputError(f"{where}: {file} has no array {key!r}; {near(key, stored)}")
    arrays: dict[str, Any] = {role: stored[key] for role, key in roles.items()}
    for role in ("coordinates", "muscles"):
        if role in arrays:
            arrays[role] = names_of(arrays[role], f"{where}: {file}: {role}")
    return PassiveRecording(file.stem, where=where, **arrays)


def passive_segments(source: PassiveRecording, model: NmsModel, coordinates: Sequence[str]) -> tuple[Segment, ...]:
    """The trials that have moments of ``coordinates``, ready to calibrate; NaN where not known.

    Raises:
        InputError: a muscle or coordinate is missing, an array is of the wrong shape, or no trial has a moment.
    """
    joints = list(source.coordinates)
    missing = [c for c in coordinates if c not in joints]
    if missing:
        raise InputError(f"{source.where}: no passive moments of {listed(missing)}; there are {listed(joints)}")
    columns = [joints.index(c) for c in coordinates]
    moments = _trials(source, "moments", 2)[..., columns]
    if source.lengths is not None:
        names = list(source.muscles)
        absent = [m for m in model.muscles if m not in names]
        if absent:
            raise InputError(f"{source.where}: no muscle {listed(absent)}; {near(absent[0], names)}")
        rows = [names.index(m) for m in model.muscles]
        lengths = _trials(source, "lengths", 2)[..., rows]
        arms = _trials(source, "moment_arms", 3)[:, :, columns][..., rows]
    else:
        lengths, arms = _from_paths(source, model, joints, _trials(source, "q", 2), coordinates)
    if not (moments.shape[:2] == lengths.shape[:2] == arms.shape[:2]):
        raise InputError(
            f"{source.where}: moments {moments.shape}, lengths {lengths.shape} and moment arms {arms.shape} differ in "
            "their trials or samples"
        )
    found = [
        _segment(f"{source.name} {i + 1}", model, coordinates, m, length, arm)
        for i, (m, length, arm) in enumerate(zip(moments, lengths, arms, strict=True))
        if np.isfinite(m).any()
    ]
    if not found:
        raise InputError(f"{source.where}: {source.name} has no passive moment of {listed(coordinates)}")
    return tuple(found)


def _trials(source: PassiveRecording, role: str, axes: int) -> np.ndarray:
    """An array with a leading trial axis, float64."""
    array = np.asarray(getattr(source, role), float)
    if array.ndim == axes:
        array = array[None]
    if array.ndim != axes + 1:
        raise InputError(f"{source.where}: {role} has shape {array.shape}; expected {axes} axes, or trials before them")
    return array


def _from_paths(
    source: PassiveRecording, model: NmsModel, joints: list[str], q: np.ndarray, coordinates: Sequence[str]
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
        dt=np.asarray(POSE_STEP),
        excitations=np.zeros((history - 1 + len(lengths), len(model.channels))),
        lengths=lengths,
        velocities=np.zeros_like(lengths),
        moment_arms=arms,
    )
    time = POSE_STEP * np.arange(len(lengths))
    return Segment(name, replay, time, np.ones(len(time), bool), moments)
