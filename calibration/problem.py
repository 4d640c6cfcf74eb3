"""What a calibration may change: free parameters by name, their bounds, priors and sharing, as one vector.

The vector ``z`` has one entry per group of muscles or channels that share a value. It is measured in prior standard
deviations from the start: ``z = 0`` is the uncalibrated person, the Gaussian prior is a standard normal in every
entry, and every entry has the same scale, which is what both solvers want. Entries of one kind may be correlated in the
prior: a delay per channel, say, shrunk to a common one. Lengths, strengths and times are multiplied by ``exp(sd z)``,
the others (delay, shape factor) are shifted by ``sd z``. Bounds are a box in ``z``; solvers project onto it, so a
parameter at its bound can leave again, which a squashing function would prevent.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym.errors import InputError, listed, near
from nms_gym.model.parameters import KINDS, PARAMETER_KINDS, NmsParams, entries, has_effect
from nms_gym.model.quantities import MUSCLE_OUTPUTS, QUANTITIES
from nms_gym.model.replay import Segment
from nms_gym.model.structure import NmsModel


@dataclass(frozen=True)
class Free:
    """One kind of parameter that may change.

    ``bounds`` and ``prior_sd`` of a ``relative`` kind are factors of the start (0.85 to 1.15; 0.05), of the others
    values in the kind's unit. ``share`` says who gets one common factor or shift: "each" entry its own, "all" one for
    all, or "groups" for the problem's groups. ``own_sd`` gives single entries a prior of their own, ``own_high`` an
    upper bound of their own; who share a value take the tightest.
    """

    kind: str
    bounds: tuple[float, float]
    prior_sd: float
    relative: bool = True
    share: str = "each"
    only: tuple[str, ...] | None = None
    own_sd: tuple[tuple[str, float], ...] = ()
    """(entry, standard deviation) where it is not ``prior_sd``"""
    own_high: tuple[tuple[str, float], ...] = ()
    """(entry, upper bound) where that is lower than that of ``bounds``"""
    correlation: float = 0.0
    """of the prior between any two values of this kind: 0 leaves them on their own, near 1 they are almost shared. It
    is the part of the prior variance that belongs to their common mean (a random effect; Gelman et al. 2013, chapter 5)
    """


# Priors tighter than CEINMS's and NMSM's customary limits; the table of kinds has them. Tolerance, shrunk delays and
# filters were chosen on recordings other than those whose results are reported (examples/benchmarks/defaults.py).
DEFAULT_FREE: dict[str, Free] = {
    name: Free(name, kind.bounds, kind.prior_sd, kind.relative, kind.share, correlation=kind.correlation)
    for name, kind in KINDS.items()
}


BY_DEFAULT: tuple[Free, ...] = (Free("by default", (1.0, 1.0), 0.0),)
"""stands for ``default_free(model)`` of whichever model it is"""


def default_free(model: NmsModel) -> tuple[Free, ...]:
    """What is fitted when nobody says: CEINMS's choice, with gains instead of trust in the EMG's normalisation."""
    return tuple(DEFAULT_FREE[name] for name, kind in KINDS.items() if kind.free and has_effect(model, name))


@dataclass(frozen=True)
class Penalties:
    """How errors are weighed. Everything is in standard deviations, so the cost is a negative log posterior."""

    moment_tolerance: float = 0.1
    """expected model error, as a fraction of each measured moment's standard deviation in its recording"""
    moment_bandwidth: float = 6.0
    """Hz; moments low-passed here hold this many times two independent samples per second"""
    fiber_length_range: tuple[float, float] = (0.5, 1.5)
    """normalised fiber lengths beyond which a smooth barrier rises"""
    fiber_length_tolerance: float = 0.05
    max_tendon_strain: float = 0.10
    tendon_strain_tolerance: float = 0.01
    effort_tolerance: float | None = None
    """activation that a muscle which only synergies drive is expected not to exceed by much; off when None"""
    emg_tolerance: float | None = None
    """excitation; how far a recorded muscle that synergies drive too may be from its EMG: 0.1 where there is one"""
    group_tolerance: float | None = None
    """prior standard deviations by which members of a group may differ from their mean; off when None"""
    passive_tolerance: float | None = None
    """N·m; expected error of passive moments: 5 where there are passive trials"""

    def __post_init__(self) -> None:
        low, high = self.fiber_length_range
        if not 0 < low < 1 < high:
            raise InputError(
                f"fiber_length_range is {self.fiber_length_range}; use (low, high) with 0 < low < 1 < high"
            )
        for name in (f.name for f in dataclasses.fields(self) if f.name != "fiber_length_range"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be positive")


@dataclass(frozen=True, eq=False)
class Target:
    """A measured quantity of one muscle on a segment, beside the moments: fiber lengths from ultrasound, say.

    Raises:
        InputError: unknown quantity, values that are no series or hold no number, a tolerance that is not positive.
    """

    quantity: str
    """one of ``MUSCLE_OUTPUTS``"""
    muscle: str
    values: np.ndarray
    """(T,) on the segment's samples, in the quantity's unit; not a number where it was not measured"""
    tolerance: float
    """expected error, of model and measurement, in the quantity's unit"""

    def __post_init__(self) -> None:
        if self.quantity not in MUSCLE_OUTPUTS:
            raise InputError(
                f"target of {self.muscle!r}: no quantity {self.quantity!r}; {near(self.quantity, MUSCLE_OUTPUTS)}"
            )
        values = np.asarray(self.values, float)
        object.__setattr__(self, "values", values)
        if values.ndim != 1:
            raise InputError(f"{self}: values have shape {values.shape}; expected (T,), a value per sample")
        if not np.isfinite(values).any():
            raise InputError(f"{self}: no value is a number; leave it out where it was not measured")
        if not (np.isfinite(self.tolerance) and self.tolerance > 0):
            raise InputError(
                f"{self}: tolerance is {self.tolerance:g}; give the expected error, above 0, in {self.unit}"
            )

    def __str__(self) -> str:
        return f"target {self.quantity} of {self.muscle!r}"

    @property
    def unit(self) -> str:
        """Of values and tolerance."""
        return QUANTITIES[self.quantity].unit


@dataclass(frozen=True, eq=False)
class MaximalMoments:
    """Joint moments of maximal contractions, as a dynamometer measures them: R of them, each in a pose that is held, or
    passed at a constant speed. ``calibration.study.dynamometer`` makes them.

    Muscles that pull the joint's way are at ``level``, whatever their EMG: this is what tells strength from gain.
    """

    labels: tuple[str, ...]
    """of each, in words"""
    joints: tuple[str, ...]
    """coordinate whose moment it is"""
    moments: np.ndarray
    """(R,) N·m, positive along the coordinate"""
    tolerance: np.ndarray
    """(R,) N·m, expected error of model and measurement"""
    covariance: np.ndarray
    """(R, R) N^2·m^2 of these errors: an effort that is not quite maximal lowers all of a session"""
    level: np.ndarray
    """(R, M) activation of every muscle"""
    lengths: np.ndarray
    """(R, M) m"""
    velocities: np.ndarray
    """(R, M) m/s"""
    moment_arms: np.ndarray
    """(R, M) m, of the joint"""


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each entry of ``z`` goes. NumPy, fixed before anything is traced; equal layouts share compiled solvers."""

    names: tuple[str, ...]
    """of the P entries, "kind:group" """
    kinds: tuple[str, ...]
    """kind of each entry"""
    sd: np.ndarray
    """(P,) prior standard deviations, in log units for relative kinds"""
    low: np.ndarray
    """(P,) lower bounds in z"""
    high: np.ndarray
    """(P,) upper bounds in z"""
    index: Mapping[str, np.ndarray]
    """kind -> (entries,) which z moves it; P where it is fixed"""
    relative: Mapping[str, bool]
    prior_precision: np.ndarray
    """(P, P) of the prior in z: the identity where no kind is correlated"""
    moves: np.ndarray
    """(P, M) bool: whose force an entry can change"""
    colors: np.ndarray
    """(P,) int: entries of one color move disjoint muscles, so one derivative pass serves them all"""

    @property
    def size(self) -> int:
        """P."""
        return len(self.names)

    @functools.cached_property
    def _key(self) -> tuple[object, ...]:
        arrays = (self.sd, self.low, self.high, self.prior_precision, self.moves, self.colors, *self.index.values())
        return (self.names, tuple(self.relative.items()), tuple(self.index), tuple(a.tobytes() for a in arrays))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@dataclass(frozen=True)
class Problem:
    """A person to calibrate: model, start, what is free, on which stretches of which recordings.

    Raises:
        InputError: nothing free, unknown kinds or names, bounds crossed or not around the start, a kind that these
            settings do not use, segments without measured moments or with different coordinates or steps.
    """

    model: NmsModel
    start: NmsParams
    segments: tuple[Segment, ...]
    free: tuple[Free, ...] = BY_DEFAULT
    """by default ``default_free(model)``"""
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """named groups of muscles or channels that share, where ``Free.share`` is "groups" """
    penalties: Penalties = Penalties()
    tracked: np.ndarray | None = None
    """(M, C) channels whose EMG the excitation should follow where it does not drive the muscle (mode synergy_only)"""
    passive: tuple[Segment, ...] = ()
    """motions of relaxed muscles with their passive moments; not a number where a moment is not known"""
    targets: tuple[tuple[Target, ...], ...] = ()
    """what was measured of single muscles, beside the moments, on each of the segments"""
    maximal: MaximalMoments | None = None
    """moments of maximal contractions; None where there are none"""

    def __post_init__(self) -> None:
        if self.free is BY_DEFAULT:
            object.__setattr__(self, "free", default_free(self.model))
        if not self.segments:
            raise InputError("nothing to calibrate on: no training window; give at least one")
        first = self.segments[0]
        for s in (*self.segments, *self.passive):
            if s.measured is None:
                raise InputError(f"{s.name}: no measured moments of {listed(s.coordinates)}; calibration needs them")
            if s.coordinates != first.coordinates:
                raise InputError(
                    f"{s.name} has moments of {listed(s.coordinates)}, {first.name} of others; use the same"
                )
        for s in self.segments:
            assert s.measured is not None
            if abs(float(s.replay.dt) - float(first.replay.dt)) > 1e-9:
                raise InputError(
                    f"{s.name} has a step of {float(s.replay.dt):g} s, {first.name} {float(first.replay.dt):g} s; "
                    "give all trials one dt"
                )
            for k, c in enumerate(s.coordinates):
                if float(np.std(s.measured[s.scored, k])) < 1e-9:
                    raise InputError(f"{s.name}: the measured moment of {c!r} is constant; leave that coordinate out")
        self._check_targets()
        if self.maximal is not None and self.maximal.level.shape[1] != len(self.model.muscles):
            raise InputError(
                f"maximal moments are of {self.maximal.level.shape[1]} muscles, the model has "
                f"{len(self.model.muscles)}; make them with this model"
            )
        layout = make_layout(self)
        self._require_effect(layout)

    def _check_targets(self) -> None:
        if self.targets and len(self.targets) != len(self.segments):
            raise InputError(
                f"targets of {len(self.targets)} segments for {len(self.segments)}; give each its own, () where "
                "nothing was measured"
            )
        for segment, targets in zip(self.segments, self.targets, strict=bool(self.targets)):
            check_targets(self.model, segment, targets)

    def _require_effect(self, layout: Layout) -> None:
        """Refuse a penalty that was asked for and can do nothing."""
        p, model = self.penalties, self.model
        synthetic = set(model.synergy_muscles) - set(model.recorded_muscles)
        idle = {
            "effort_tolerance": ("no muscle is driven by synergies alone", not synthetic),
            "emg_tolerance": ("no recorded muscle is driven by synergies too", not self.tracked_weights.any()),
            "group_tolerance": ("no group has two free values of one kind", not len(group_rows(self, layout))),
            "passive_tolerance": ("there are no passive trials", not self.passive),
        }
        for name, (why, nothing) in idle.items():
            if getattr(p, name) is not None and nothing:
                raise InputError(f"penalties: {name} is {getattr(p, name):g}, but {why}: it has no effect; remove it")

    @property
    def tracked_weights(self) -> np.ndarray:
        """(M, C) what each muscle's excitation should follow: its channels where synergies drive it too."""
        if self.tracked is not None:
            return np.asarray(self.tracked, float)
        weights = np.asarray(self.model.channel_weights, float)
        return weights * np.isin(self.model.muscles, self.model.synergy_muscles)[:, None]

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Joints whose moments are fitted."""
        return self.segments[0].coordinates


def check_targets(model: NmsModel, segment: Segment, targets: Sequence[Target]) -> None:
    """Raise ``InputError`` unless a segment can have these targets."""
    seen: set[tuple[str, str]] = set()
    for t in targets:
        where = f"{segment.name}: {t}"
        if t.muscle not in model.muscles:
            raise InputError(f"{where}: the model has no such muscle; {near(t.muscle, model.muscles)}")
        if (t.quantity, t.muscle) in seen:
            raise InputError(f"{where} is given twice; average the measurements, or keep one")
        seen.add((t.quantity, t.muscle))
        if t.quantity == "tendon_strains" and model.settings.tendon == "rigid":
            raise InputError(f"{where}: tendons are rigid, their strain is 0; use tendon = 'elastic'")
        if len(t.values) != len(segment.time):
            raise InputError(
                f"{where} has {len(t.values)} values, the segment {len(segment.time)} samples, lead-in included; "
                "give one for each, not a number where it was not measured"
            )
        if not np.isfinite(t.values[segment.scored]).any():
            raise InputError(f"{where} has no value after the lead-in, where samples count; leave it out")


def make_layout(problem: Problem) -> Layout:
    """Lay the free parameters out as one vector, and color it. Checks everything that was asked for."""
    model = problem.model
    names: list[str] = []
    kinds: list[str] = []
    sd: list[float] = []
    low: list[float] = []
    high: list[float] = []
    moves: list[np.ndarray] = []
    index: dict[str, np.ndarray] = {}
    drives = (np.asarray(model.channel_weights) != 0) | (problem.tracked_weights != 0)  # (M, C)
    for muscle, command in model.synergy_pairs:
        drives[model.muscles.index(muscle), model.channels.index(command)] = True
    for free in problem.free:
        if free.kind in index:
            raise InputError(f"{free.kind} is listed twice among the free parameters")
        if not has_effect(model, free.kind):
            raise InputError(
                f"{free.kind} has no effect with activation={model.settings.activation!r}, "
                f"tendon={model.settings.tendon!r} and {len(model.commands)} synergies; leave it out of the free "
                "parameters"
            )
        longest = model.settings.max_delay
        if free.kind == "electromechanical_delay" and free.bounds[1] > longest + 1e-12:
            raise InputError(
                f"electromechanical_delay: upper bound {free.bounds[1]:g} s, but the settings keep only {longest:g} s "
                "of excitation; raise max_delay or lower the bound"
            )
        all_names = entries(model, free.kind)
        start = np.asarray(getattr(problem.start, free.kind), dtype=float)
        index[free.kind] = np.full(len(all_names), -1, np.int32)  # narrow: see activation.delayed_series
        own_sd, own_high = dict(free.own_sd), dict(free.own_high)
        for label, members in _groups(problem, free, all_names):
            rows = [all_names.index(m) for m in members]
            axis = KINDS[free.kind].axis
            if axis == "channel":
                touched = drives[:, rows].any(axis=1)
            elif axis == "synergy_pair":
                touched = np.isin(model.muscles, [model.synergy_pairs[r][0] for r in rows])
            else:
                touched = np.isin(model.muscles, members)
            highest = min(free.bounds[1], *(own_high.get(m, free.bounds[1]) for m in members))
            one = dataclasses.replace(
                free,
                prior_sd=min(own_sd.get(m, free.prior_sd) for m in members),
                bounds=_signed(free, rows, model) or (free.bounds[0], highest),
            )
            z_low, z_high = _box(one, label, start[rows])
            index[free.kind][rows] = len(names)
            names.append(f"{free.kind}:{label}")
            kinds.append(free.kind)
            sd.append(one.prior_sd)
            low.append(z_low)
            high.append(z_high)
            moves.append(touched)
    if not names:
        raise InputError("nothing is free: name at least one kind of parameter to calibrate")
    for rows in index.values():
        rows[rows < 0] = len(names)
    return Layout(
        names=tuple(names),
        kinds=tuple(kinds),
        sd=np.array(sd),
        low=np.array(low),
        high=np.array(high),
        index=index,
        relative={f.kind: f.relative for f in problem.free},
        prior_precision=_prior_precision(kinds, {f.kind: f.correlation for f in problem.free}),
        moves=np.array(moves),
        colors=_color(np.array(moves)),
    )


def _prior_precision(kinds: Sequence[str], correlation: Mapping[str, float]) -> np.ndarray:
    """``(P, P)`` inverse of the prior's correlation matrix: blocks by kind, one correlation in each."""
    precision = np.eye(len(kinds))
    for kind, r in correlation.items():
        if not 0 <= r < 1:
            raise InputError(f"{kind}: correlation is {r:g}; use 0 (values on their own) to below 1 (almost shared)")
        rows = [i for i, k in enumerate(kinds) if k == kind]
        # Inverse of (1 - r) I + r 11' (Sherman-Morrison).
        own = np.eye(len(rows)) - r / (1 + r * (len(rows) - 1))
        precision[np.ix_(rows, rows)] = own / (1 - r)
    return precision


def _signed(free: Free, rows: Sequence[int], model: NmsModel) -> tuple[float, float] | None:
    """Bounds of weights that may also take away, of residual excitations and signed commands: as far below 0 as
    above."""
    if free.kind != "synergy_weight" or model.synergies is None:
        return None
    residual = any(model.synergy_pairs[r][0] in model.recorded_muscles for r in rows)
    return (-free.bounds[1], free.bounds[1]) if residual or model.synergies.signed else None


def _groups(problem: Problem, free: Free, names: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
    """Which entries share one value: (label, members)."""
    model = problem.model
    chosen = names if free.only is None else free.only
    unknown = [n for n in chosen if n not in names]
    if not chosen:
        raise InputError(f"{free.kind}: 'only' names nothing; name entries of {listed(names, 50)}, or leave it out")
    if unknown:
        raise InputError(f"{free.kind}: no entry {listed(unknown)}; there are {listed(names, 50)}")
    for where, own in (("own_sd", free.own_sd), ("own_high", free.own_high)):
        strange = [n for n, _ in own if n not in chosen]
        if strange:
            raise InputError(f"{free.kind}: {where} names {listed(strange)}; there are {listed(chosen, 50)}")
    if free.kind == "emg_gain" and free.only is None:
        # The gain of a command is that of all its weights at once: nothing could tell them apart.
        chosen = model.recorded_channels
    if free.share == "each":
        return [(n, (n,)) for n in chosen]
    if free.share == "all":
        return [("all", tuple(chosen))]
    if free.share != "groups":
        raise InputError(f"{free.kind}: share is {free.share!r}; use 'each', 'all' or 'groups'")
    groups = problem.groups
    if free.kind == "synergy_weight":
        # Muscles of a group have a common weight per command.
        groups = {f"{g}:{c}": [f"{m}:{c}" for m in members] for g, members in groups.items() for c in model.commands}
    result, taken = [], set()
    for label, members in groups.items():
        inside = tuple(m for m in members if m in chosen)
        twice = taken & set(inside)
        if twice:
            raise InputError(f"group {label!r}: {listed(sorted(twice))} is in another group already")
        taken |= set(inside)
        if inside:
            result.append((label, inside))
    known = set(model.muscles) | set(model.channels)
    strange = [m for members in problem.groups.values() for m in members if m not in known]
    if strange:
        raise InputError(f"groups name {listed(strange)}, which the model does not have")
    return result + [(n, (n,)) for n in chosen if n not in taken]


def _box(free: Free, label: str, start: np.ndarray) -> tuple[float, float]:
    """Bounds of a group in z."""
    low, high = free.bounds
    where = f"{free.kind} of {label!r}"
    if not (low < high and free.prior_sd > 0):
        raise InputError(f"{where}: bounds {low:g} to {high:g}, prior sd {free.prior_sd:g}; need low < high and sd > 0")
    if free.relative:
        if not (0 < low <= 1 <= high):
            raise InputError(f"{where}: relative bounds {low:g} to {high:g} must be positive and include 1, the start")
        if not start.any():
            raise InputError(f"{where}: the start is 0, and no factor moves it; use relative = false, or leave it out")
        return float(np.log(low) / free.prior_sd), float(np.log(high) / free.prior_sd)
    outside = start[(start < low - 1e-12) | (start > high + 1e-12)]
    if outside.size:
        raise InputError(
            f"{where}: the start {outside[0]:g} is outside its bounds {low:g} to {high:g} "
            f"{KINDS[free.kind].unit}; move one of them"
        )
    return float((low - start.min()) / free.prior_sd), float((high - start.max()) / free.prior_sd)


def group_rows(problem: Problem, layout: Layout) -> np.ndarray:
    """(R, P) differences from the mean of their group, of entries of one kind that have a value of their own."""
    rows = []
    for kind in layout.index:
        names = entries(problem.model, kind)
        for members in problem.groups.values():
            mine = {int(layout.index[kind][names.index(m)]) for m in members if m in names} - {layout.size}
            if len(mine) > 1:
                mean = np.isin(np.arange(layout.size), list(mine)) / len(mine)
                rows += [np.eye(layout.size)[i] - mean for i in sorted(mine)]
    return np.array(rows).reshape(len(rows), layout.size)


def _color(moves: np.ndarray) -> np.ndarray:
    """Greedy: entries of one color move disjoint muscles (Curtis, Powell & Reid 1974, 10.1093/imamat/13.1.117)."""
    colors = np.zeros(len(moves), int)
    taken: list[np.ndarray] = []
    for i, mine in enumerate(moves):
        for c, others in enumerate(taken):
            if not (others & mine).any():
                taken[c] = others | mine
                colors[i] = c
                break
        else:
            colors[i] = len(taken)
            taken.append(mine.copy())
    return colors


def params_at(layout: Layout, start: NmsParams, z: Array) -> NmsParams:
    """Parameters of a point ``z (P,)``; traced."""
    padded = jnp.concatenate([z * jnp.asarray(layout.sd, z.dtype), jnp.zeros(1, z.dtype)])
    leaves = {kind: jnp.asarray(getattr(start, kind), z.dtype) for kind in PARAMETER_KINDS}
    for kind, rows in layout.index.items():
        move = padded[rows]
        leaves[kind] = leaves[kind] * jnp.exp(move) if layout.relative[kind] else leaves[kind] + move
    return NmsParams(**leaves)
