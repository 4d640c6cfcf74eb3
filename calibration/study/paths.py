"""Muscle paths of a study whose model is an OpenSim file: fitted over what its recordings reach, once.

Fits are kept in the user's cache by the content of the model's file, so that a study starts at once the second time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from calibration.study.checks import at
from calibration.study.dynamometer import Dynamometer
from calibration.study.emg import Times
from calibration.study.model import MuscleParameters, Say
from calibration.study.recordings import Source
from nms_gym.anatomy import OsimModel
from nms_gym.errors import InputError, listed
from nms_gym.files.model_file import model_from_osim, read_model_file, write_model_file
from nms_gym.muscle.geometry import PolynomialPaths
from nms_gym.muscle.path_fitting import direct_sampler, fit_paths, ranges_of_motion
from nms_gym.muscle.paths import muscles_crossing, without_direct_path
from nms_gym.recording.sampling import without_full_turns
from nms_gym.recording.storage import Table

# Of what a cached fit depends on beside its inputs; raised when fits change.
_VERSION = 1


def with_fitted_paths(
    files: MuscleParameters,
    sources: Sequence[Source],
    windows: Sequence[Times],
    coordinates: Sequence[str],
    lead_in: float,
    say: Say,
    held: Sequence[Dynamometer] = (),
) -> MuscleParameters:
    """Muscles with paths fitted over the poses of the recordings, where their model is an OpenSim file without any.

    The paths depend on every coordinate that the muscles cross and all recordings hold; others stay at their defaults.
    Nothing is fitted where every recording brings its own muscle lengths, or the bones do not have ``coordinates``.

    Args:
        files: the muscles chosen.
        sources: the recordings.
        windows: of each that are used, None for all of it.
        coordinates: of the study.
        lead_in: s before each window that count too.
        say: told what is fitted, and how well.
        held: contractions whose poses are reached too.

    Raises:
        InputError: a muscle whose path cannot be computed.
    """
    osim = files.osim
    if osim is None or files.paths is not None:
        return files
    independent = [c.name for c in osim.coordinates if c.coupled_to is None]
    if not set(independent).issuperset(coordinates):
        return files
    recorded = []
    for source, times in zip(sources, windows, strict=True):
        with at(source.where):
            table = source.recorded(independent)
        if table is not None:
            recorded.append((table, times))
    if not recorded:
        return files
    crossing = muscles_crossing(osim, independent)
    spanned = [c for c in independent if c in coordinates or set(crossing[c]) & set(files.muscles)]
    wanted = tuple(c for c in spanned if all(c in table.labels for table, _ in recorded))
    missing = [c for c in coordinates if c not in wanted]
    if missing:  # whoever reads the recording says which has it not
        return files
    refused = without_direct_path(osim, files.muscles, wanted)
    if refused:
        why = next(iter(refused.values()))
        raise InputError(
            f"{files.where}: {len(refused)} of the study's muscles have no path ({listed(refused)}): {why}; or leave "
            "these muscles out, or give [model] paths"
        )
    poses = [_poses(table, times, wanted, osim, lead_in) for table, times in recorded]
    # Whoever lacks a coordinate is refused later.
    poses += [d.q[:, [d.coordinates.index(c) for c in wanted]] for d in held if set(wanted) <= set(d.coordinates)]
    ranges = _whole_degrees(ranges_of_motion(poses))
    return dataclasses.replace(files, paths=_fitted(osim, files.muscles, wanted, ranges, say))


def _poses(table: Table, times: Times, names: Sequence[str], osim: OsimModel, lead_in: float) -> np.ndarray:
    """(N, D) of the windows, full turns off brought back."""
    rows = np.ones(len(table.time), bool)
    if times is not None:
        rows = np.zeros(len(table.time), bool)
        for start, stop in times:
            rows |= (table.time >= start - lead_in - 1e-9) & (table.time <= stop + 1e-9)
    q = table.data[:, [table.labels.index(name) for name in names]][rows if rows.any() else slice(None)]
    angles = [k for k, name in enumerate(names) if osim.coordinate(name).motion == "rotational"]
    q[:, angles] = without_full_turns(q[:, angles])
    return q


def _whole_degrees(ranges: np.ndarray) -> np.ndarray:
    """Widened to whole degrees: another filter of the same recording finds the same fit."""
    degrees = np.degrees(ranges)
    return np.radians(np.stack([np.floor(degrees[:, 0]), np.ceil(degrees[:, 1])], axis=1))


def _fitted(
    osim: OsimModel, muscles: Sequence[str], coordinates: Sequence[str], ranges: np.ndarray, say: Say
) -> PolynomialPaths:
    """From the cache, else fitted and put there."""
    file = _cache_file(osim.path, muscles, coordinates, ranges)
    if file is not None and file.is_file():
        try:
            known = read_model_file(file)
            if known.paths is not None and (known.muscles, known.coordinates) == (tuple(muscles), tuple(coordinates)):
                say(f"muscle paths as fitted before to {Path(osim.path).name}")
                return known.paths
        except InputError:
            pass  # damaged: fitted anew and replaced
    shown = ", ".join(
        f"{name} {math.degrees(low):.0f}..{math.degrees(high):.0f}"
        for name, (low, high) in zip(coordinates, ranges, strict=True)
    )
    say(f"fitting the paths of {len(muscles)} muscles of {Path(osim.path).name} over {shown} deg")

    def progress(what: str, done: int, total: int) -> None:
        if what == "fitting" and 0 < done < total:
            say(f"fitted {done} of {total} muscles")

    paths, report = fit_paths(
        direct_sampler(osim, muscles, coordinates), muscles, coordinates, ranges, progress=progress
    )
    for fit in report.poor:
        say(f"path of {fit.muscle}: moment arms {1e3 * fit.arm_error[1]:.1f} mm off (95th percentile): {fit.reason}")
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_model_file(file, model_from_osim(osim, muscles, coordinates, paths=paths))
        except (OSError, InputError):
            say("the muscle paths could not be kept for next time")
    return paths


def _cache_file(path: str, muscles: Sequence[str], coordinates: Sequence[str], ranges: np.ndarray) -> Path | None:
    """Where a fit is kept; None without a home."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(base) if base else Path.home() / ".cache"
    except RuntimeError:
        return None
    asked = [_VERSION, list(muscles), list(coordinates), [[f"{v:.9g}" for v in row] for row in ranges]]
    digest = hashlib.sha256(Path(path).read_bytes() + json.dumps(asked).encode())
    return folder / "nms-gym" / "paths" / f"{digest.hexdigest()}.json"
