"""Muscle paths sampled from the real OpenSim (optional extra ``opensim``).

It verifies our own geometry, and serves paths that ours does not know (``FunctionBasedPath``, exotic wraps).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nms_gym.errors import InputError, listed, near

# rad. Half steps of the central differences that stand in where computeMomentArm gives NaN, and how far (m) the two
# may disagree before the pose counts as a jump, which has no moment arm.
_STEPS = (1e-4, 5e-5)
_DISAGREEMENT = 1e-4
# rad or m. How far an assembled coordinate may be from what was asked for.
_AS_ASKED = 1e-4


def opensim_sampler(
    path: str | os.PathLike[str],
    muscles: Sequence[str],
    coordinates: Sequence[str],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Sampler for ``fit_paths``: ``getLength`` and ``computeMomentArm`` of an ``.osim`` model.

    Coordinates that are named move freely, whatever the file locks, clamps or prescribes. Those that are not named stay
    at their defaults; dependent ones follow their constraints. A pose that a constraint does not let the coordinates
    have is NaN. ``computeMomentArm`` answers NaN where a wrapped path switches; there the moment arm is the central
    difference of the length, or stays NaN (the fit leaves such samples out) if two step sizes disagree, i.e. in a jump.

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
        known = model.updCoordinateSet()
        every = [known.get(i) for i in range(known.getSize())]
        constrained = _constraints(opensim, model)
        dependent = {name for names in constrained.values() for name in names}
        # Before the system is made: what the file locks is locked again by every assembly.
        for axis in every:
            axis.set_clamped(False)  # otherwise values outside the model's own range are moved to its edge
            axis.set_prescribed(False)
            axis.set_locked(bool(constrained) and axis.getName() not in (*coordinates, *dependent))
        state = model.initSystem()
    except Exception as error:
        raise InputError(f"{path}: OpenSim cannot load this model: {str(error).strip()}") from error
    actors = _named(model.getMuscles(), muscles, "muscle", str(path))
    axes = _named(model.getCoordinateSet(), coordinates, "coordinate", str(path))

    def pose(q: np.ndarray) -> bool:
        """Whether the model takes this pose."""
        for axis, value in zip(axes, q, strict=True):
            axis.setValue(state, float(value), False)
        if constrained:
            try:
                model.assemble(state)
            except Exception:  # SWIG raises what OpenSim throws as RuntimeError or Exception
                return False
        model.realizePosition(state)
        taken = [axis.getValue(state) for axis in axes]
        return bool(np.allclose(taken, q, rtol=0.0, atol=_AS_ASKED))

    def lengths_at(q: np.ndarray) -> np.ndarray:
        if not pose(q):
            return np.full(len(actors), np.nan)
        return np.array([actor.getLength(state) for actor in actors])

    def sample(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q = np.asarray(q, dtype=float)
        lengths = np.empty((len(q), len(actors)))
        arms = np.empty((len(q), len(axes), len(actors)))
        for n, values in enumerate(q):
            if not pose(values):
                lengths[n], arms[n] = np.nan, np.nan
                continue
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
        if not np.isfinite(lengths).any() and len(q) > 1:
            raise InputError(
                f"{path}: OpenSim takes none of {len(q)} poses of {listed(coordinates)} as asked; its constraints "
                f"({listed(constrained)}) do not let them move so: choose other coordinates or ranges"
            )
        return lengths, arms

    return sample


def _constraints(opensim: Any, model: Any) -> dict[str, tuple[str, ...]]:
    """Enforced constraints, each with the coordinate that it makes dependent, if it is a coupler."""
    found = {}
    constraints = model.getConstraintSet()
    for i in range(constraints.getSize()):
        constraint = constraints.get(i)
        if constraint.get_isEnforced():
            coupler = opensim.CoordinateCouplerConstraint.safeDownCast(constraint)
            found[constraint.getName()] = () if coupler is None else (coupler.getDependentCoordinateName(),)
    return found


def _import_opensim() -> Any:
    try:
        opensim = importlib.import_module("opensim")
    except ImportError as error:
        raise InputError(
            'this needs OpenSim, which is not installed; run: pip install "nms-gym[opensim]" (or fit with our own '
            "geometry, --sampler direct, which needs no OpenSim)"
        ) from error
    # It logs to a file in the current folder unless told otherwise.
    opensim.Logger.setLevelString("off")
    opensim.Logger.removeFileSink()
    return opensim


def _named(objects: Any, names: Sequence[str], what: str, path: str) -> list[Any]:
    known = [objects.get(i).getName() for i in range(objects.getSize())]
    for name in names:
        if name not in known:
            raise InputError(f"{path}: no {what} {name!r}; {near(name, known)}")
    return [objects.get(known.index(name)) for name in names]
