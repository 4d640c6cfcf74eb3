"""OpenSim's external loads: which columns of a table are forces on which body, and their values over time.

Sources: OpenSim's Simulation/Model/{ExternalLoads,ExternalForce}.cpp and Common/Storage.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from scipy.interpolate import make_interp_spline

from nms_gym.errors import InputError, listed, near, seconds
from nms_gym.recording.named_files import named_file
from nms_gym.recording.sampling import SAME_TIME, low_pass, on_uniform_times, sampling_step
from nms_gym.recording.storage import read_labels, read_table
from nms_gym.recording.xml import xml_root, xml_text_or

# A point of application says nothing while its force is below this part of the largest: force plates compute it by
# dividing by the force, and files hold hundreds of metres there.
LOADED = 0.01
# Beyond any force, moment or point of application, also of one that means nothing.
MOST = 1e9


@dataclass(frozen=True)
class ExternalLoads:
    """N forces on bodies over time, everything in the ground frame.

    Attributes:
        path: where they came from, for messages.
        bodies: N names; a body may occur more than once.
        time: (T,) s.
        force: (T, N, 3) N.
        point: (T, N, 3) m, where the force acts.
        torque: (T, N, 3) N·m, free torque beside the force.
    """

    path: str
    bodies: tuple[str, ...]
    time: np.ndarray
    force: np.ndarray
    point: np.ndarray
    torque: np.ndarray

    def on(self, bodies: Sequence[str]) -> ExternalLoads:
        """Only the loads on these bodies."""
        kept = [i for i, name in enumerate(self.bodies) if name in bodies]
        names = tuple(self.bodies[i] for i in kept)
        return replace(
            self, bodies=names, force=self.force[:, kept], point=self.point[:, kept], torque=self.torque[:, kept]
        )

    def at(self, time: np.ndarray, cutoff: float | None = None) -> ExternalLoads:
        """The same loads at other times, by cubic splines as OpenSim evaluates them.

        What is filtered and interpolated is the force and its moment about the ground's origin, which vanish together
        when contact ends; the point is not, because it jumps there. The point returned is the recorded one, held
        while the force is below ``LOADED`` of its maximum, and the torque is what makes up the moment. Departure from
        OpenSim, which interpolates force and point separately: none at the recorded times, smaller errors between.

        Args:
            time: (G,) s, within the recording.
            cutoff: low-pass cut-off in Hz (zero-lag Butterworth, order 2 forwards and backwards). OpenSim never
                filters loads; choose the cut-off of the coordinates to avoid spurious moments at impact (Kristianslund
                et al. 2012, doi:10.1016/j.jbiomech.2011.12.011).

        Raises:
            InputError: ``time`` reaches beyond the recording, the recording has gaps, or the cut-off is not possible.
        """
        time = np.asarray(time, dtype=np.float64)
        step = sampling_step(self.time, self.path)
        slack = SAME_TIME * step
        if time[0] < self.time[0] - slack or time[-1] > self.time[-1] + slack:
            raise InputError(
                f"{self.path}: covers {seconds(self.time[0])} to {seconds(self.time[-1])} s, but loads are needed from "
                f"{seconds(time[0])} to {seconds(time[-1])} s; choose a time window inside"
            )
        shape = (len(time), len(self.bodies), 3)
        wrench = np.concatenate([self.force, np.cross(self.point, self.force) + self.torque], axis=2)
        samples, flat = self.time, wrench.reshape(len(self.time), -1)
        if cutoff is not None:
            samples, flat, step = on_uniform_times(samples, flat, self.path)
            flat = low_pass(flat, step, cutoff, self.path)
        spline = make_interp_spline(samples, flat, k=3 if len(samples) > 3 else 1, axis=0)
        wrench = spline(np.clip(time, samples[0], samples[-1])).reshape(shape[0], shape[1], 6)
        force, moment = wrench[..., :3], wrench[..., 3:]
        point = np.zeros(shape)
        size = np.linalg.norm(self.force, axis=2)
        for n in range(shape[1]):
            loaded = size[:, n] > LOADED * size[:, n].max()
            if loaded.any():
                for k in range(3):
                    point[:, n, k] = np.interp(time, self.time[loaded], self.point[loaded, n, k])
        return ExternalLoads(self.path, self.bodies, time, force, point, moment - np.cross(point, force))


def read_external_loads(path: str | Path, data: str | Path | None = None) -> ExternalLoads:
    """Read an ``ExternalLoads`` file and the table that it names.

    Args:
        path: the XML file.
        data: the table of forces; default the file's ``<datafile>``, looked for from the folder of the XML file, then
            from the working folder, and last beside the XML file under its bare name.

    Returns:
        The loads at the table's own times, as recorded. Where there is next to no force, a point of application that is
        no number is held, and a free torque that is none is zero.

    Raises:
        InputError: a file is missing or damaged; a load is expressed in a body other than ground, has a force but no
            point, or names columns that the table does not have three of.
    """
    path = Path(path)
    root = xml_root(path, "the external loads")
    loads = root if root.tag == "ExternalLoads" else root.find("ExternalLoads")
    if loads is None:
        raise InputError(f"{path}: no <ExternalLoads> inside; expected OpenSim's external loads (.xml)")
    elements = [e for e in loads.iter("ExternalForce") if _text(e, "isDisabled") != "true"]
    elements = [e for e in elements if _text(e, "appliesForce") != "false"]
    if not elements:
        raise InputError(f"{path}: there is no enabled <ExternalForce>; older layouts: save it again with OpenSim 4")
    table_path = _data_file(path, _text(loads, "datafile")) if data is None else Path(data)
    labels = read_labels(table_path)
    found = [_columns(element, labels, f"{path}: load {element.get('name', '')!r}", table_path) for element in elements]
    columns = list(dict.fromkeys(c for kinds in found for c in kinds if c))
    # Dividing by the force gives no number where there is none; a load without a force has nothing to divide by.
    divided = [c for kinds in found if kinds[0] for c in kinds[3:] if c]
    forces = {c for kinds in found for c in kinds[:3]}
    table = read_table(table_path, columns, may_lack=[c for c in divided if c not in forces])

    def values(kind: int) -> np.ndarray:
        """(T, N, 3); zero where a load has no such columns."""
        picked = [
            table.select(kinds[kind : kind + 3]) if kinds[kind] else np.zeros((len(table.time), 3)) for kinds in found
        ]
        return np.stack(picked, axis=1)

    for label, column in zip(table.labels, table.data.T, strict=True):
        if np.nanmax(np.abs(column), initial=0.0) > MOST:
            row = int(np.nanargmax(np.abs(column)))
            raise InputError(
                f"{table_path}: {label!r} is {column[row]:.6g} at time {seconds(table.time[row])} s; "
                "expected N, m or N·m, "
                f"within {MOST:g}"
            )
    force, point, torque = values(0), values(3), values(6)
    for n, element in enumerate(elements):
        what = f"{table_path}: load {element.get('name', '')!r}"
        _fill_unloaded(what, table.time, force[:, n], point[:, n], torque[:, n])
    bodies = tuple(_text(element, "applied_to_body").rsplit("/", 1)[-1] for element in elements)
    return ExternalLoads(str(table_path), bodies, table.time, force, point, torque)


def _fill_unloaded(what: str, time: np.ndarray, force: np.ndarray, point: np.ndarray, torque: np.ndarray) -> None:
    """Put numbers where ``point`` and ``torque`` (T, 3) of one load lack them and ``force`` is next to none: the point
    is held, the torque nothing.

    Raises:
        InputError: there is a force where the point or the torque is missing.
    """
    size = np.linalg.norm(force, axis=1)
    loaded = (size > LOADED * size.max()) if size.any() else np.zeros(len(size), dtype=bool)
    for name, values in (("point of application", point), ("free torque", torque)):
        lacking = np.isnan(values)
        bad = np.flatnonzero(lacking.any(axis=1) & loaded)
        if bad.size:
            row = int(bad[0])
            raise InputError(
                f"{what}: the {name} is no number at {seconds(time[row])} s, where the force is "
                f"{size[row]:.6g} N; that is "
                f"possible below {LOADED:.0%} of its largest ({size.max():.6g} N) only; fill the gap or cut the rows"
            )
        for k in range(3):
            held = values is point and loaded.any()
            fill = np.interp(time, time[loaded], values[loaded, k]) if held else np.zeros(len(time))
            values[lacking[:, k], k] = fill[lacking[:, k]]


def _data_file(path: Path, name: str) -> Path:
    if not name:
        raise InputError(f"{path}: names no <datafile>; add one, or say which table holds the forces")
    return named_file(path, name)


def _text(element: Element, tag: str) -> str:
    text = xml_text_or(element, tag, "")
    return "" if text.lower() == "unassigned" else text


def _columns(element: Element, labels: Sequence[str], what: str, table: Path) -> list[str]:
    """Labels of force x, y, z, point x, y, z and torque x, y, z; empty ones for what the load does not have."""
    if not _text(element, "applied_to_body"):
        raise InputError(f"{what} has no <applied_to_body>; name the body that it acts on")
    for tag in ("force_expressed_in_body", "point_expressed_in_body"):
        frame = _text(element, tag).rsplit("/", 1)[-1]
        if frame not in ("", "ground"):
            raise InputError(f"{what}: <{tag}> is {frame!r}; only loads expressed in ground can be read")
    names = {kind: _text(element, f"{kind}_identifier") for kind in ("force", "point", "torque")}
    if not names["force"] and not names["torque"]:
        raise InputError(f"{what} has neither a <force_identifier> nor a <torque_identifier>")
    if bool(names["force"]) != bool(names["point"]):
        raise InputError(
            f"{what} has a <{'force' if names['force'] else 'point'}_identifier> alone; a force needs its point, "
            "and a point its force"
        )
    columns: list[str] = []
    for kind, prefix in names.items():
        columns += _triple(prefix, labels, f"{what}: <{kind}_identifier>", table) if prefix else [""] * 3
    return columns


def _triple(prefix: str, labels: Sequence[str], what: str, table: Path) -> list[str]:
    """The three columns that begin with ``prefix`` (Storage::getColumnIndicesForIdentifier), in the order x, y, z."""
    found = [label for label in labels if label.startswith(prefix)]
    by_axis = {label[-1:].lower(): label for label in found}
    for axes in ("xyz", "123"):
        if len(found) == 3 and set(by_axis) == set(axes):
            return [by_axis[axis] for axis in axes]
    hint = f"found {listed(found)}" if found else near(prefix, labels)
    raise InputError(f"{what} is {prefix!r}: {table} must have three such columns, ending in x, y and z; {hint}")
