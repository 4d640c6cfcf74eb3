"""Inverse dynamics of recorded motion: a coordinates file in, joint moments out, as OpenSim's InverseDynamicsTool.

Sources: OpenSim's Tools/InverseDynamicsTool.cpp, Common/Signal.cpp (``LowpassIIR``, ``Pad``) and Common/GCVSpline.h.
The coordinates are extended by half their length at each end (odd reflection), low-passed by a third-order Butterworth
filter forwards and backwards, and differentiated as quintic splines through the filtered samples.

Departures: a coordinate that a constraint makes dependent (a patella) follows the constraint, and the
moment of the coordinate that drives it contains its share; OpenSim takes the recorded values of both and reports each
moment as if the constraint were not there. Where a joint has several non-linear functions (the walker knee), OpenSim
4.6 misses a part of the acceleration that goes with the square of the speed: its inverse dynamics then contradicts
finite differences of its own momentum, by 0.7 % at 6 rad/s, which ours matches.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.signal import butter, lfilter, lfiltic

from nms_gym.anatomy import Multibody, moving_part, warn_not_modelled
from nms_gym.errors import InputError, listed, seconds
from nms_gym.recording.external_loads import ExternalLoads
from nms_gym.recording.sampling import SAME_TIME, on_uniform_times, without_full_turns
from nms_gym.recording.storage import coordinate_name, read_coordinates, read_labels, read_moments, write_table
from nms_gym.skeleton.dynamics import BaseMotion, ExternalForces, inverse_dynamics, make_skeleton


class CoordinateWarning(UserWarning):
    """A coordinate of the model is not in the recording and stays at its default."""


@dataclass(frozen=True)
class Motion:
    """C coordinates over time: q (T, C) in rad or m, qd and qdd its derivatives; time (T,) s, uniform."""

    path: str
    coordinates: tuple[str, ...]
    time: np.ndarray
    q: np.ndarray
    qd: np.ndarray
    qdd: np.ndarray

    def select(self, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """q, qd, qdd of these coordinates, in this order."""
        columns = [self.coordinates.index(name) for name in names]
        return self.q[:, columns], self.qd[:, columns], self.qdd[:, columns]

    def window(self, start: float | None, stop: float | None) -> Motion:
        """The part from ``start`` to ``stop`` (s, both included; None: as recorded). InputError below two samples."""
        slack = SAME_TIME * (self.time[1] - self.time[0])
        first = self.time[0] if start is None else start
        last = self.time[-1] if stop is None else stop
        rows = (self.time >= first - slack) & (self.time <= last + slack)
        if rows.sum() < 2:
            raise InputError(
                f"{self.path}: {rows.sum()} samples from {seconds(first)} to {seconds(last)} s; at "
                "least 2 are needed, and the "
                f"recording has {seconds(self.time[0])} to {seconds(self.time[-1])} s"
            )
        return replace(self, time=self.time[rows], q=self.q[rows], qd=self.qd[rows], qdd=self.qdd[rows])


@dataclass(frozen=True)
class JointMoments:
    """Moments (T, D) in N·m (N where a coordinate is a distance), positive in the direction of the coordinate."""

    coordinates: tuple[str, ...]
    time: np.ndarray
    moments: np.ndarray


@dataclass(frozen=True)
class Agreement:
    """How well one coordinate's moment agrees with a reference: R2, and RMSE in its unit."""

    coordinate: str
    r2: float
    rmse: float


def read_motion(path: str | Path, model: Multibody, cutoff: float | None = None) -> Motion:
    """Every independent coordinate of ``model`` that a recording holds, with its derivatives.

    Args:
        path: ``.mot``, ``.sto`` or ``.csv``, in degrees or radians as its header says.
        model: decides which columns are coordinates, and which of them are angles.
        cutoff: low-pass cut-off in Hz; None for data that are smooth already.

    Raises:
        InputError: see ``read_coordinates``; no column is a coordinate of the model, fewer than 6 samples, gaps, or a
            cut-off that is not possible.

    Warns:
        CoordinateWarning: coordinates of the model, not locked, are missing: they stay at their defaults.
    """
    labels = {coordinate_name(label) for label in read_labels(path)}
    independent = [c for c in model.coordinates if c.coupled_to is None]
    names = tuple(c.name for c in independent if c.name in labels)
    if not names:
        raise InputError(
            f"{path}: no column is a coordinate of {model.path}, which has {listed(c.name for c in independent)}"
        )
    missing = [c.name for c in independent if c.name not in labels and not c.locked]
    if missing:
        warnings.warn(
            f"{path}: no column for {listed(missing)}, which stay at their defaults", CoordinateWarning, stacklevel=2
        )
    lengths = [name for name in names if model.coordinate(name).motion != "rotational"]
    table = read_coordinates(path, names, translations=lengths)
    where = str(path)
    time, q, step = on_uniform_times(table.time, table.data, where)
    if len(time) < 6:
        raise InputError(f"{where}: {len(time)} samples; at least 6 are needed to differentiate twice")
    return Motion(where, names, time, *differentiated(q, step, where, cutoff))


def recorded_poses(
    path: str | Path,
    model: Multibody,
    coordinates: Sequence[str],
    start: float | None = None,
    end: float | None = None,
) -> np.ndarray:
    """Poses (N, D) of a coordinates file between two times, rad and m; angles that are full turns off are brought back.

    Raises:
        InputError: see ``read_coordinates``; no sample between these times.
    """
    lengths = [name for name in coordinates if model.coordinate(name).motion != "rotational"]
    table = read_coordinates(path, tuple(coordinates), translations=lengths)
    first = table.time[0] if start is None else start
    last = table.time[-1] if end is None else end
    rows = (table.time >= first - 1e-9) & (table.time <= last + 1e-9)
    if not rows.any():
        raise InputError(
            f"{path}: no samples from {seconds(first)} to {seconds(last)} s; the recording has "
            f"{seconds(table.time[0])} to "
            f"{seconds(table.time[-1])} s"
        )
    poses = table.data[rows].copy()
    angles = [k for k, name in enumerate(coordinates) if name not in lengths]
    poses[:, angles] = without_full_turns(poses[:, angles])
    return poses


def differentiated(
    q: np.ndarray, step: float, where: str, cutoff: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q (T, C), low-passed at ``cutoff`` Hz or as it is, with its first and second derivatives.

    Raises:
        InputError: a cut-off that is not between 0 and half the sampling rate.
    """
    samples, pad = q, 0
    if cutoff is not None:
        pad = len(q) // 2
        before, after = 2 * q[0] - q[pad:0:-1], 2 * q[-1] - q[-2 : -2 - pad : -1]
        samples = _low_pass(np.concatenate([before, q, after]), step, cutoff, where)
    # Natural ends (third and fourth derivative zero), as those of Woltring's splines.
    ends = [(3, np.zeros(q.shape[1])), (4, np.zeros(q.shape[1]))]
    times = step * (np.arange(len(samples)) - pad)
    spline = make_interp_spline(times, samples, k=5, bc_type=(ends, ends), axis=0)
    at = step * np.arange(len(q))
    return spline(at), spline(at, 1), spline(at, 2)


def _low_pass(samples: np.ndarray, step: float, cutoff: float, where: str) -> np.ndarray:
    """Third-order Butterworth along axis 0, forwards and backwards, each time from its first three samples unfiltered.

    ``sampling.low_pass`` differs in the start alone; over the padding that fades to 1e-3 of a moment at the ends.
    """
    if not 0 < cutoff < 0.5 / step:
        raise InputError(
            f"{where}: low-pass cut-off {cutoff:g} Hz; allowed: above 0 and below half the sampling rate, "
            f"{0.5 / step:g} Hz"
        )
    b, a = butter(3, cutoff, fs=1 / step)  # type: ignore[misc]  SciPy types its return by an argument
    for _ in range(2):
        start = np.stack([lfiltic(b, a, column[2::-1], column[2::-1]) for column in samples.T], axis=1)
        samples = np.concatenate([samples[:3], lfilter(b, a, samples[3:], axis=0, zi=start)[0]])[::-1]
    return samples


def moments_of_motion(
    model: Multibody,
    motion: Motion,
    coordinates: Sequence[str] | None = None,
    *,
    loads: ExternalLoads | None = None,
) -> JointMoments:
    """Moments that the joints must produce for ``motion``, external loads taken away.

    Only what the chosen coordinates move is computed; the recorded motion of everything between it and the ground (the
    pelvis of a leg) is prescribed.

    Args:
        model: the whole model, from ``read_osim``: a part of one lacks what the pelvis carries.
        motion: from ``read_motion``.
        coordinates: D names; default all that were recorded.
        loads: at their own times; None for none. Filter them beforehand with ``loads.at(motion.time, cutoff)``.

    Raises:
        InputError: a coordinate is unknown, dependent or not recorded; a load acts on an unknown body; the loads do
            not cover the motion.

    Warns:
        NotModelledWarning: constraints, or forces other than muscles (springs, contact), act on what is moved.
    """
    chosen = motion.coordinates if coordinates is None else tuple(coordinates)
    for name in chosen:
        if model.coordinate(name).coupled_to is None and name not in motion.coordinates:
            raise InputError(f"{motion.path}: no column {name!r}, so that its moment cannot be computed")
    warn_not_modelled(model, chosen, ("constraint", "loop", "force"))
    moved = moving_part(model, chosen)
    kept = {coordinate.name for coordinate in moved.coordinates}
    prescribed = tuple(name for name in motion.coordinates if name in kept and name not in chosen)
    skeleton = make_skeleton(moved, chosen, prescribed=prescribed)
    if loads is not None:
        for name in loads.bodies:
            model.body(name)
        loads = loads.at(motion.time).on([body.name for body in moved.bodies])
    with jax.enable_x64(True):
        external = None
        if loads is not None and loads.bodies:
            external = ExternalForces(force=loads.force, point=loads.point, torque=loads.torque, bodies=loads.bodies)
        base = BaseMotion(*motion.select(prescribed)) if prescribed else None
        # Not compiled: one call over all times costs less than compiling for a model that is used once.
        q, qd, qdd = map(jnp.asarray, motion.select(chosen))
        moments = inverse_dynamics(skeleton, q, qd, qdd, external=external, base=base)
    return JointMoments(chosen, motion.time, np.asarray(moments, dtype=np.float64))


def write_joint_moments(path: str | Path, model: Multibody, moments: JointMoments) -> None:
    """Write moments as OpenSim's Inverse Dynamics writes them (``.sto``); ``read_moments`` and OpenSim read it.

    Raises:
        InputError: the file cannot be written.
    """
    labels = [
        f"{name}_{'moment' if model.coordinate(name).motion == 'rotational' else 'force'}"
        for name in moments.coordinates
    ]
    write_table(path, labels, moments.time, moments.moments, name="Inverse Dynamics Generalized Forces")


def agreement(moments: JointMoments, reference: str | Path) -> list[Agreement]:
    """R2 and RMSE against another program's Inverse Dynamics (``.sto``), at its times within those of ``moments``.

    Raises:
        InputError: see ``read_moments``; the reference does not overlap in time.
    """
    table = read_moments(reference, moments.coordinates)
    time = moments.time
    slack = SAME_TIME * (time[-1] - time[0]) / (len(time) - 1)
    rows = (table.time >= time[0] - slack) & (table.time <= time[-1] + slack)
    if rows.sum() < 2:
        raise InputError(
            f"{reference}: covers {seconds(table.time[0])} to {seconds(table.time[-1])} s, which does not meet "
            f"{seconds(time[0])} to {seconds(time[-1])} s"
        )
    spline = make_interp_spline(time, moments.moments, k=3 if len(time) > 3 else 1, axis=0)
    expected = table.data[rows]
    error = spline(np.clip(table.time[rows], time[0], time[-1])) - expected
    spread = ((expected - expected.mean(axis=0)) ** 2).sum(axis=0)
    r2 = 1 - (error**2).sum(axis=0) / np.where(spread > 0, spread, np.nan)
    rmse = np.sqrt((error**2).mean(axis=0))
    return [Agreement(name, float(a), float(b)) for name, a, b in zip(moments.coordinates, r2, rmse, strict=True)]
