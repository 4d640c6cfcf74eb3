"""What is in a file, as tables to print: (title, header, rows of text)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nms_gym.anatomy import OsimModel
from nms_gym.errors import InputError, listed, seconds, shown
from nms_gym.excitation.emg import DEAD_SHARE, SATURATED_RUN, SATURATED_SAMPLES
from nms_gym.files.model_file import PARAMETERS, read_model_file
from nms_gym.files.policy import FORMAT as POLICY
from nms_gym.files.policy import described, load_policy
from nms_gym.files.posterior import FORMAT as POSTERIOR
from nms_gym.files.posterior import OWNER, read_people
from nms_gym.files.prediction import FORMAT as PREDICTION
from nms_gym.files.prediction import load_quantities
from nms_gym.files.subject import Subject, load_subject
from nms_gym.model.parameters import KINDS, PARAMETER_KINDS, entries
from nms_gym.model.trained_range import TrainedRange
from nms_gym.recording.documents import read_json
from nms_gym.recording.nmsm import read_osimx
from nms_gym.recording.npz import read_npz, text_of
from nms_gym.recording.osim import read_osim
from nms_gym.recording.storage import Table, read_tables
from nms_gym.recording.trial import FORMAT as TRIAL
from nms_gym.recording.trial import load_trial

Listing = tuple[str, Sequence[str], list[list[str]]]


def describe(file: Path) -> Iterable[Listing]:
    """Tables about a file, by its suffix and content.

    Raises:
        InputError: no such file, or none of the kinds known here.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    suffix = file.suffix.lower()
    if suffix == ".osim":
        return _osim(file)
    if suffix == ".osimx":
        return [_osimx(file)]
    if suffix in (".sto", ".mot", ".csv", ".txt"):
        tables = read_tables(file, may_lack=True)
        names = [f" ({i + 1} of {len(tables)})" if len(tables) > 1 else "" for i in range(len(tables))]
        return [_columns(file.name + name, table) for name, table in zip(names, tables, strict=True)]
    if suffix == ".npz":
        return _npz(file)
    if suffix == ".json":
        return _json(file)
    raise InputError(
        f"{file}: cannot inspect a {suffix or 'file without suffix'}; use .osim .osimx .sto .mot .csv .npz or .json"
    )


def _osim(file: Path) -> list[Listing]:
    model = read_osim(file)
    coordinates = [
        [c.name, c.motion, f"{c.range[0]:.4g}", f"{c.range[1]:.4g}", f"{c.default:.4g}", c.coupled_to or ""]
        for c in model.coordinates
    ]
    muscles = [
        [
            m.name,
            m.class_name,
            *(f"{getattr(m, k):.5g}" for k in PARAMETERS),
            f"{m.tendon_slack_length / m.optimal_fiber_length:.2f}" if m.optimal_fiber_length else "-",
            ", ".join(dict.fromkeys(p.body for p in m.points)),
        ]
        for m in model.muscles
    ]
    return [
        (
            f"{file.name}: {model.name}; coordinates (rad, m)",
            ("name", "motion", "low", "high", "default", "follows"),
            coordinates,
        ),
        (
            f"{len(muscles)} muscles (SI units, rad)",
            ("name", "class", *PARAMETERS, "slack/fiber", "bodies"),
            muscles,
        ),
        *_left_out(model),
    ]


def _left_out(model: OsimModel) -> list[Listing]:
    """What is in the file and not modelled, and what cannot be used and is refused where it is."""
    listings: list[Listing] = []
    if model.skipped:
        rows = [[str(part), ", ".join((*part.bodies, *part.coordinates))] for part in model.skipped]
        listings.append((f"{len(rows)} parts that are not modelled", ("part", "acts on"), rows))
    if model.problems:
        rows = [[problem.removeprefix(f"{model.path}: ")] for problem in model.problems]
        listings.append((f"{len(rows)} parts that cannot be used", ("why",), rows))
    return listings


def _osimx(file: Path) -> Listing:
    """What the NMSM Pipeline calibrated; ``[start] file`` of a study takes it."""
    result = read_osimx(file)
    kinds = list(dict.fromkeys(kind for values in result.muscles.values() for kind in values))
    rows = [[m, *(f"{v[k]:.5g}" if k in v else "-" for k in kinds)] for m, v in result.muscles.items()]
    other = f"; not read: {listed(result.other)}" if result.other else ""
    return f"{file.name}: {result.model}, {len(rows)} muscles (SI units){other}", ("name", *kinds), rows


def _columns(title: str, table: Table) -> Listing:
    step = np.median(np.diff(table.time)) if len(table.time) > 1 else float("nan")
    head = (
        f"{title}: {len(table.time)} rows, {seconds(table.time[0])} to {seconds(table.time[-1])} s, step {step:.6g} s"
        f"{', degrees' if table.in_degrees else ''}"
    )
    units = table.units or [""] * len(table.labels)
    rows = [
        [name, *_range_of(x), unit, _remark(x)] for name, x, unit in zip(table.labels, table.data.T, units, strict=True)
    ]
    header = ("column", "min", "mean", "max", "unit", "")
    if not table.units:
        header, rows = (*header[:4], ""), [[*row[:4], row[5]] for row in rows]
    return head, header, rows


def _range_of(x: np.ndarray) -> list[str]:
    x = x[np.isfinite(x)]
    return [f"{v:.5g}" for v in (x.min(), x.mean(), x.max())] if len(x) else ["-"] * 3


def _remark(x: np.ndarray) -> str:
    """What is odd about the numbers of a column."""
    gaps = int(np.isnan(x).sum())
    if gaps:
        return f"{gaps} of {len(x)} missing"
    if np.ptp(x) == 0:
        return "constant"
    for extreme in (x.max(), x.min()):
        at_limit = x == extreme
        runs = np.convolve(at_limit, np.ones(SATURATED_RUN), "valid") == SATURATED_RUN
        # A force plate says 0 as long as nobody is on it.
        if extreme != 0 and runs.any() and at_limit.sum() >= SATURATED_SAMPLES:
            return f"saturated? {int(at_limit.sum())} rows at {extreme:.5g}"
    same = (np.diff(x) == 0) & (x[1:] != 0)
    return f"dead? {same.mean():.0%} of the rows repeat the one before" if same.mean() > DEAD_SHARE else ""


def _npz(file: Path) -> list[Listing]:
    """A file of ours, or the names of any other arrays, for ``[trials.arrays]`` of a study."""
    kind = text_of(read_npz(file, ("format",)).get("format"))
    if kind == TRIAL:
        return _trial(file)
    if kind == PREDICTION:
        return [_prediction(file)]
    if kind == POSTERIOR:
        return _people(file)
    if kind == POLICY:
        return [(f"{file.name}: policy", ("", ""), described(load_policy(file)))]
    rows = []
    for name, value in read_npz(file).items():
        assert value is not None  # all are wanted
        text = listed(value.ravel()[:7].tolist(), 6) if value.dtype.kind == "U" else ""
        rows.append([name, str(value.dtype), " x ".join(map(str, value.shape)) or "scalar", text])
    what = f"arrays of format {shown(kind)}" if kind else "arrays, no trial file"
    return [(f"{file.name}: {what}", ("name", "type", "shape", "text"), rows)]


def _people(file: Path) -> list[Listing]:
    """People that fit the same data about as well: where each entry lies among them."""
    stored = read_people(file)
    rows, count = [], 0
    for kind in (k for k in PARAMETER_KINDS if k in stored):
        values, count = stored[kind], len(stored[kind])
        for name, x in zip(stored[f"names of {kind}"], values.T, strict=True):
            fine = x[np.isfinite(x)]
            low, middle, high = np.quantile(fine, (0.05, 0.5, 0.95)) if len(fine) else (np.nan,) * 3
            remark = f"{len(x) - len(fine)} of {len(x)} not finite" if len(fine) < len(x) else ""
            rows.append([kind, str(name), f"{low:.5g}", f"{middle:.5g}", f"{high:.5g}", KINDS[kind].unit, remark])
    owner = text_of(stored.get(OWNER))
    whose = f"drawn for the subject {owner[:12]}" if owner else "it does not say whose"
    header = ("kind", "name", "5 %", "median", "95 %", "unit", "")
    return [(f"{file.name}: posterior, {count} people; {whose}", header, rows)]


def _trial(file: Path) -> list[Listing]:
    t = load_trial(file)
    label = f"{t.name}{' (synthetic)' if t.synthetic else ''}"
    listings = [_columns(f"{label}: coordinates (rad, m)", Table(str(file), t.coordinates, t.time, t.q))]
    if t.moments is not None:
        listings.append(_columns("measured moments (N·m)", Table(str(file), t.moment_coordinates, t.time, t.moments)))
    listings.append(_columns("EMG envelopes", Table(str(file), t.channels, t.emg_time, t.emg)))
    if t.lengths is not None:
        listings.append(_columns("musculotendon lengths (m)", Table(str(file), t.muscles, t.time, t.lengths)))
    return listings


def _prediction(file: Path) -> Listing:
    found = load_quantities(file)
    rows = [[q.name, q.unit, " x ".join(q.axes), *_range_of(q.values.ravel())[::2]] for q in found.values.values()]
    head = f"{found.trial}: prediction, {len(found.time)} times; muscles {listed(found.names['muscle'], 50)}"
    return head, ("quantity", "unit", "axes", "min", "max"), rows


def _json(file: Path) -> list[Listing]:
    document = read_json(file)
    kind = document.get("format") if isinstance(document, dict) else None
    if kind == "nms_gym.model":
        model = read_model_file(file)
        rows = [[m, *(f"{model.parameters[k][m]:.5g}" for k in PARAMETERS)] for m in model.muscles]
        ranges = [
            [c, f"{low:.4g}", f"{high:.4g}"]
            for c, (low, high) in zip(model.coordinates, model.coordinate_range, strict=True)
        ]
        return [
            (f"{model.name}: {model.source} ({model.licence})", ("coordinate", "low rad", "high rad"), ranges),
            (f"{len(rows)} muscles (SI units, rad)", ("name", *PARAMETERS), rows),
        ]
    if kind == "nms_gym.metrics":
        rows = document.get("rows")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError(f"{file}: 'rows' is no list of tables; write the metrics again")
        return [_scores(file.name, rows)]
    if kind != "nms_gym.subject":
        raise InputError(
            f"{file}: format {kind!r}; can inspect 'nms_gym.subject', 'nms_gym.model' and 'nms_gym.metrics'"
        )
    return _subject(load_subject(file))


def _subject(subject: Subject) -> list[Listing]:
    start = subject.start or subject.params
    rows = []
    for which, kind in KINDS.items():
        names = entries(subject.model, which)
        before, after = (np.asarray(getattr(p, which), float) for p in (start, subject.params))
        for name, a, b in zip(names, before, after, strict=True):
            if a != b:
                low, high = subject.bounds.get(which, {}).get(name, (float("nan"),) * 2)
                near = min(b - low, high - b) < 1e-3 * (high - low)
                rows.append([which, name, f"{a:.5g}", f"{b:.5g}", kind.unit, "at bound" if near else ""])
    facts = [[k, str(v)] for k, v in subject.calibration.items() if not isinstance(v, dict | list)]
    passive = ", ".join(subject.model.passive_muscles) or "none"
    return [
        (
            f"{subject.name}{' (synthetic)' if subject.synthetic else ''}: {len(subject.model.muscles)} muscles, "
            f"{len(subject.model.channels)} channels; passive: {passive}",
            ("calibration", ""),
            facts,
        ),
        _scores("validation", subject.metrics),
        ("parameters that moved", ("kind", "name", "start", "calibrated", "unit", ""), rows),
        *([] if subject.trained is None else [_trained(subject.trained)]),
    ]


def _trained(trained: TrainedRange) -> Listing:
    """What the fit has seen; what lies beyond it was never tested."""
    shown = {"emg": (1.0, "-"), "angle": (np.pi / 180, "deg"), "speed": (np.pi / 180, "deg/s")}
    rows = [
        [quantity, name, *(f"{x / unit:.3g}" for x in (of.least, of.low, of.high, of.most)), label]
        for quantity, (unit, label) in shown.items()
        for name, of in getattr(trained, quantity).items()
    ]
    return "range of what was fitted", ("quantity", "name", "least", "1 %", "99 %", "most", "unit"), rows


def _scores(title: str, rows: Iterable[Mapping[str, Any]]) -> Listing:
    """Rows of metrics; a number that a file lacks or has as null shows as "-"."""
    names = ("split", "segment", "coordinate", "set")
    cells = [[str(row.get(n, "")) for n in names] + [_digits(row, "rmse", 2), _digits(row, "r2", 3)] for row in rows]
    return title, ("split", "windows", "joint", "parameters", "RMSE N·m", "R2"), cells


def _digits(row: Mapping[str, Any], key: str, digits: int) -> str:
    value = row.get(key)
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "-"
