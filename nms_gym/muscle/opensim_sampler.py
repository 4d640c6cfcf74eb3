"""Muscle paths sampled from the real OpenSim (optional extra ``opensim``).

It serves models whose wraps our own geometry refuses (ellipsoids, spheres, tori), and verifies ours on the others.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nms_gym.errors import InputError, near

# rad. Half steps of the central differences that stand in where computeMomentArm gives NaN, and how far (m) the two
# may disagree before the pose counts as a jump, which has no moment arm.
_STEPS = (1e-4, 5e-5)
_DISAGREEMENT = 1e-4


def opensim_sampler(
    path: str | os.PathLike[str],
    muscles: Sequence[str],
    coordinates: Sequence[str],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Sampler for ``fit_paths``: ``getLength`` and ``computeMomentArm`` of an ``.osim`` model.

    Coordinates that are not named stay at their defaults; dependent ones follow their constraints. ``computeMomentArm``
    answers NaN where a wrapped path switches; there the moment arm is the central difference of the length, or stays
    NaN (the fit leaves such samples out) if two step sizes disagree, i.e. in a jump.

    Args:
        path: the model.
        muscles: M names.
        coordinates: D names.
        progress: called with (poses done, poses in all).

    Returns:
        function q (N, D) rad -> lengths (N, M) m, moment arms (N, D, M) m.

    Raises:
        InputError: OpenSim is not installed, the model cannot be loaded, or a name is unknown.
    """
    opensim = _import_opensim()
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    try:
        model = opensim.Model(str(path))
        state = model.initSystem()
    except Exception as error:
        raise InputError(f"{path}: OpenSim cannot load this model: {str(error).strip()}") from error
    actors = _named(model.getMuscles(), muscles, "muscle", str(path))
    axes = _named(model.getCoordinateSet(), coordinates, "coordinate", str(path))
    for axis in axes:
        # Otherwise values outside the model's own range are silently moved to its edge, or not set at all.
        axis.setClamped(state, False)
        axis.setLocked(state, False)
    constrained = model.getConstraintSet().getSize() > 0

    def pose(q: np.ndarray) -> None:
        for axis, value in zip(axes, q, strict=True):
            axis.setValue(state, float(value), False)
        if constrained:
            model.assemble(state)
        model.realizePosition(state)

    def lengths_at(q: np.ndarray) -> np.ndarray:
        pose(q)
        return np.array([actor.getLength(state) for actor in actors])

    def sample(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q = np.asarray(q, dtype=float)
        lengths = np.empty((len(q), len(actors)))
        arms = np.empty((len(q), len(axes), len(actors)))
        for n, values in enumerate(q):
            pose(values)
            lengths[n] = [actor.getLength(state) for actor in actors]
            arms[n] = [[actor.computeMomentArm(state, axis) for actor in actors] for axis in axes]
            for k in np.flatnonzero(~np.isfinite(arms[n]).all(axis=1)):
                step = np.eye(len(axes))[k]
                coarse, fine = (
                    -(lengths_at(values + h * step) - lengths_at(values - h * step)) / (2 * h) for h in _STEPS
                )
                agreed = np.where(np.abs(coarse - fine) < _DISAGREEMENT, fine, np.nan)
                arms[n, k] = np.where(np.isfinite(arms[n, k]), arms[n, k], agreed)
            if progress and (n + 1) % 100 == 0:
                progress(n + 1, len(q))
        return lengths, arms

    return sample


def _import_opensim() -> Any:
    try:
        opensim = importlib.import_module("opensim")
    except ImportError as error:
        raise InputError(
            'this needs OpenSim, which is not installed; run: pip install "nms-gym[opensim]" (or fit with our own '
            "geometry, which needs no OpenSim but knows cylinder wraps only)"
        ) from error
    # It logs to a file in the current folder unless told otherwise.
    opensim.Logger.setLevelString("error")
    opensim.Logger.removeFileSink()
    return opensim


def _named(objects: Any, names: Sequence[str], what: str, path: str) -> list[Any]:
    known = [objects.get(i).getName() for i in range(objects.getSize())]
    for name in names:
        if name not in known:
            raise InputError(f"{path}: no {what} {name!r}; {near(name, known)}")
    return [objects.get(known.index(name)) for name in names]
