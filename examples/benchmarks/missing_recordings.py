"""The recordings that ``missing_channels.py`` withholds channels of, and the signals of other people by muscle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

from calibration.excitations.expected import Stretch
from calibration.excitations.gait_timing import Walk, electrode_name, learn_profiles
from nms_gym.model.replay import Replay, Segment
from nms_gym.model.structure import Settings
from nms_gym.recording.storage import read_table

# Electrodes of files whose EMG is used without a model, by the muscle that a leg model would name.
UF3_MUSCLES = {
    "AddMag": "addmag",
    "AddLong": "addlong",
    "GlutMaxLat": "glmax2",
    "GlutMed": "glmed",
    "Iliopsoas": "iliacus",
    "Sartorius": "sart",
    "SemiMemb": "semimem",
    "SemiTend": "semiten",
    "BicFemLong": "bflh",
    "BicFemShort": "bfsh",
    "RecFem": "recfem",
    "TenFascLat": "tfl",
    "Gracilis": "grac",
    "VastMed": "vasmed",
    "VastLat": "vaslat",
    "VastInt": "vasint",
    "GasMed": "gasmed",
    "TibAnt": "tibant",
    "TibPost": "tibpost",
    "ExtHalLong": "ehl",
    "FlexHalLong": "fhl",
    "PeroneusLong": "perlong",
    "Sol": "soleus",
    "ExtDigLong": "edl",
    "FlexDigLong": "fdl",
}
KUL_MUSCLES = {
    "PerB_l": "perbrev",
    "TA_l": "tibant",
    "PerL_l": "perlong",
    "GM_l": "gasmed",
    "Sol_l": "soleus",
    "VL_l": "vaslat",
    "VM_l": "vasmed",
    "AddL_l": "addlong",
    "RF_l": "recfem",
    "TFL_l": "tfl",
    "GluMed_l": "glmed",
    "HamL_l": "bflh",
    "HamM_l": "semimem",
}
# s in which kul_walk's left leg was recorded without gaps.
KUL_WINDOW = (0.3, 3.2)


@dataclass(frozen=True)
class Recording:
    """A person's stretch of gait, all channels."""

    name: str
    channels: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    """channels that are withheld together"""
    muscles: tuple[str, ...]
    drives: np.ndarray
    """(M, C)"""
    parameters: dict[str, np.ndarray]
    fit: Segment
    later: Segment | None
    """another stretch of the same person, that nothing is fitted to"""

    @property
    def subject(self) -> str:
        """Who it is: the data set's folder."""
        return self.name.split()[0]


def segment(
    name: str,
    time_: np.ndarray,
    emg: tuple[np.ndarray, np.ndarray],
    arrays: dict[str, Any],
    window: tuple[float, float],
) -> Segment:
    """Samples of the window and up to 0.2 s before it; ``arrays`` has lengths, velocities, arms, moments, names."""
    inside = (time_ >= window[0] - 0.2 - 1e-9) & (time_ <= window[1] + 1e-9)
    t = time_[inside]
    dt = float(np.median(np.diff(t)))
    history = Settings().history_length(dt)
    grid = np.clip(np.concatenate([t[0] + dt * np.arange(1 - history, 0), t]), emg[0][0], emg[0][-1])
    replay = Replay(
        coordinates=tuple(arrays["names"]),
        dt=np.asarray(dt),  # type: ignore[arg-type]
        excitations=np.maximum(PchipInterpolator(emg[0], np.maximum(emg[1], 0.0), axis=0)(grid), 0.0),  # type: ignore[arg-type]
        lengths=arrays["lengths"][inside],
        velocities=arrays["velocities"][inside],
        moment_arms=arrays["arms"][inside],
    )
    return Segment(name, replay, t, t >= window[0] - 1e-9, arrays["moments"][inside])


def from_nmsm(
    folder: Path, file: str, duplicates: Sequence[tuple[str, str]] = (), later: str | None = None
) -> Recording:
    d = np.load(folder / file)
    channels = tuple(map(str, d["emg_names"]))
    emg = d["emg_standard" if "emg_standard" in d.files else "emg"].astype(float)
    arrays = {
        "names": tuple(map(str, d["dofs"])),
        "lengths": d["lmt"].astype(float),
        "velocities": d["vmt"].astype(float),
        "arms": d["moment_arm"].astype(float),
        "moments": d["id_moment"].astype(float),
    }
    t = d["time"]
    kinds = {"max_isometric_force": "F0", "optimal_fiber_length": "lopt", "tendon_slack_length": "lts"}
    parameters = {k: d[v] for k, v in {**kinds, "pennation_at_optimal": "penn"}.items()}
    name = folder.name if file == "gait.npz" else f"{folder.name} {file.split('_')[0]}"
    return Recording(
        name,
        channels,
        paired(channels, duplicates),
        tuple(map(str, d["muscles"])),
        d["emg_to_muscle"].astype(float),
        parameters,
        segment(name, t, (d["emg_time"], emg), arrays, (float(t[0]), float(t[-1]))),
        None if later is None else from_nmsm(folder, later, duplicates).fit,
    )


def from_opensim(
    folder: Path, file: str, side: str, windows: Sequence[tuple[float, float]], keys: dict[str, str], every: int
) -> Recording:
    d = np.load(folder / file)
    mapping = common_mapping(folder)
    muscles = tuple(map(str, d["muscles" + side]))
    channels = tuple(map(str, d["emg_channels"]))
    drives = np.zeros((len(muscles), len(channels)))
    for label, driven in mapping.items():
        of = [c.strip() for c in label.split(" (")[0].split("+")]
        for muscle in driven:
            drives[[m[:-2] for m in muscles].index(muscle), [channels.index(c) for c in of]] = 1.0 / len(of)
    arrays = {
        "names": tuple(map(str, d["dofs" + side])),
        "lengths": d["lmt" + side][::every].astype(float),
        "velocities": d["vmt" + side][::every].astype(float),
        "arms": np.swapaxes(d["ma" + side][::every].astype(float), 1, 2),
        "moments": d["id" + side][::every].astype(float),
    }
    kinds = ("max_isometric_force", "optimal_fiber_length", "tendon_slack_length", "pennation_at_optimal")
    cut = [
        segment(
            f"{folder.name} {w[0]:g} s", d["time"][::every], (d[keys["emg_time"]], d["emg"].astype(float)), arrays, w
        )
        for w in windows
    ]
    return Recording(
        f"{folder.name} {file.split('_')[0]}" if side == "" else folder.name,
        channels,
        paired(channels, ()),
        muscles,
        drives,
        {k: d[f"param_{k}{side}"] for k in kinds},
        cut[0],
        cut[1] if len(cut) > 1 else None,
    )


def common_mapping(folder: Path) -> dict[str, list[str]]:
    return json.loads((folder / "emg_mapping.json").read_text())["channels"]


def paired(channels: Sequence[str], duplicates: Sequence[tuple[str, str]]) -> tuple[tuple[int, ...], ...]:
    second = {b for _, b in duplicates}
    partner = dict(duplicates)
    return tuple(
        (i, channels.index(partner[c])) if c in partner else (i,) for i, c in enumerate(channels) if c not in second
    )


def reported(root: Path) -> Iterator[Recording]:
    yield from_opensim(
        root / "rajagopal_walk", "walk.npz", "_r", [(0.267, 1.4115), (1.42, 2.2)], {"emg_time": "emg_time"}, 2
    )
    yield from_nmsm(root / "stroke_gait_left", "gait.npz", [("VastMed_L", "VastLat_L")])


def tuning(root: Path) -> Iterator[Recording]:
    for speed, other in ((1, 2), (2, 1)):
        yield from_nmsm(root / "nmsm_multi_trial", f"speed{speed}_cycle1.npz", later=f"speed{other}_cycle1.npz")
    walks = {"walk36_0-30s.npz": [(7.45, 9.73), (9.73, 12.0)], "walk45_0-30s.npz": [(2.09, 4.11), (4.11, 6.13)]}
    for file, windows in walks.items():
        yield from_opensim(root / "ceinms_rt_lowerlimb", file, "", windows, {"emg_time": "time"}, 1)
    yield from_nmsm(root / "uf3_right_leg", "gait.npz")


def counted(segment: Segment) -> Stretch:
    """All channels over the counted samples, as recorded."""
    rows = segment.scored
    return Stretch(
        segment.time[rows],
        np.asarray(segment.replay.excitations)[-len(rows) :][rows],
        np.asarray(segment.replay.moment_arms)[rows],
        None if segment.measured is None else segment.measured[rows],
    )


@dataclass(frozen=True)
class OtherPerson:
    """EMG of somebody, by the name of what the electrode lies over."""

    subject: str
    time: np.ndarray
    """(T,) s"""
    signals: Mapping[str, np.ndarray]
    """(T,) each, over its own standard deviation"""

    @property
    def walk(self) -> Walk:
        """The same, to learn profiles from."""
        return Walk(self.time, tuple(self.signals), np.stack(list(self.signals.values()), axis=1))


def profiles_of(people: Sequence[OtherPerson]) -> dict[str, np.ndarray]:
    """Average activity over the gait cycle of all these people."""
    subjects = dict.fromkeys(p.subject for p in people)
    return learn_profiles([[p.walk for p in people if p.subject == s] for s in subjects])


def muscle_of(recording: Recording, channel: int) -> str | None:
    """What a channel records, as other data sets would call it: the first of its muscles that it shares with no other
    channel. Vastus intermedius, under the others, only follows them."""
    alone = (recording.drives > 0).sum(axis=1) == 1
    mine = [
        m for m, row, own in zip(recording.muscles, recording.drives, alone, strict=True) if own and row[channel] > 0
    ]
    names = [electrode_name(m) for m in mine]
    return next((n for n in names if n not in (None, "vastus intermedius")), None)


def other_people(root: Path, *, for_tuning: bool) -> list[OtherPerson]:
    """Everybody whose EMG of walking is at hand, each recording by itself; without the reported ones for tuning."""
    recordings = [*([] if for_tuning else reported(root)), *tuning(root)]
    found = [_from_recording(r) for r in recordings if r.subject != "uf3_right_leg"]
    d = np.load(root / "uf3_right_leg" / "raw_emg.npz")
    raw = tuple(map(str, d["names"])), d["envelope_standard"][::10]
    found.append(_person("uf3_right_leg", d["time"][::10], UF3_MUSCLES, *raw))
    table = read_table(root / "kul_walk" / "original" / "EMG_gait.mot")
    rows = (table.time >= KUL_WINDOW[0]) & (table.time <= KUL_WINDOW[1])
    emg = np.maximum(table.data[rows][::10], 0.0)
    found.append(_person("kul_walk", table.time[rows][::10], KUL_MUSCLES, table.labels, emg))
    return found


def _from_recording(r: Recording) -> OtherPerson:
    stretch = counted(r.fit)
    labels = {i: muscle_of(r, i) for i in range(len(r.channels))}
    named = {r.channels[i]: label for i, label in labels.items() if label is not None}
    return _person(r.subject, stretch.time, named, r.channels, stretch.envelopes)


def _person(
    subject: str, time: np.ndarray, muscles: Mapping[str, str], names: Sequence[str], emg: np.ndarray
) -> OtherPerson:
    """Electrodes on one muscle are averaged."""
    columns: dict[str, list[np.ndarray]] = {}
    for electrode, muscle in muscles.items():
        signal = np.asarray(emg[:, list(names).index(electrode)], float)
        label = electrode_name(muscle) or muscle
        if signal.std() > 0:
            columns.setdefault(label, []).append(signal / signal.std())
    return OtherPerson(subject, time, {m: np.mean(s, axis=0) for m, s in columns.items()})
