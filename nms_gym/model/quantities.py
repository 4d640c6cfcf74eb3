"""What a prediction says, quantity by quantity, each with its unit and the names along its axes.

``quantities`` turns the output of ``predict_moments`` on a segment into named arrays: all of ``NmsOutput`` (group
"outputs"), and what follows from it by ``muscle/derived.py``, ``muscle/metabolics.py`` and ``muscle/tendon.py``: forces
by origin, powers, work, stiffness of muscles and joints, metabolic rate, co-contraction. ``QUANTITIES`` is the table of
them. ``nms_gym.files.prediction`` writes them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from nms_gym.errors import InputError, listed, near
from nms_gym.model.forward import NmsOutput
from nms_gym.model.parameters import NmsParams
from nms_gym.model.replay import Segment
from nms_gym.model.structure import NmsModel
from nms_gym.muscle import derived, metabolics
from nms_gym.muscle.derived import Derived
from nms_gym.muscle.metabolics import Bhargava2004, HeatModel, MetabolicParams, MetabolicRate
from nms_gym.muscle.tendon import equilibrium_velocity

SMALLEST_ARM = 1e-3
"""m; a muscle whose mean moment arm about a joint is smaller counts for neither side in that joint's co-contraction"""
WORK_PARTS = ("net", "positive", "negative")
CO_CONTRACTION_INDICES: tuple[derived.CoContraction, ...] = ("falconer_winter", "rudolph")


@dataclass(frozen=True)
class Quantity:
    """One quantity of a prediction."""

    name: str
    unit: str
    """SI, "1" for none"""
    axes: tuple[str, ...]
    """of ``values``: "time", "muscle", "coordinate", "part" (of work) or "index" (of co-contraction)"""
    values: np.ndarray


@dataclass(frozen=True)
class Quantities:
    """Quantities of one recording, by name."""

    trial: str
    """name of the recording"""
    time: np.ndarray
    """(T,) s, along every axis "time" """
    names: Mapping[str, tuple[str, ...]]
    """axis -> the names along it, in their order"""
    values: Mapping[str, Quantity]

    def __getitem__(self, name: str) -> np.ndarray:
        """The array of a quantity; its axes are ``values[name].axes``.

        Raises:
            InputError: it is not among them.
        """
        if name not in self.values:
            raise InputError(f"trial {self.trial!r}: no quantity {name!r}; {near(name, self.values)}")
        return self.values[name].values


@dataclass(frozen=True)
class QuantityKind:
    """An entry of ``QUANTITIES``."""

    name: str
    group: str
    unit: str
    axes: tuple[str, ...]
    text: str
    compute: Callable[[_Source], Any]
    lacks: Callable[[_Source], str | None] = lambda _: None
    """why a model or recording does not have it; None where it has"""


class _Source:
    """What quantities are computed from; what several need is computed once."""

    def __init__(
        self,
        model: NmsModel,
        params: NmsParams,
        segment: Segment,
        output: NmsOutput,
        heat: HeatModel,
        metabolic: MetabolicParams,
    ) -> None:
        self.model, self.params, self.segment, self.output = model, params, segment, output
        self.heat, self.metabolic, self.replay = heat, metabolic, segment.replay
        self.curves = model.settings.curves

    @functools.cached_property
    def derived(self) -> Derived:
        out = self.output
        compute = jax.jit(derived.derive, static_argnums=(0, 1))
        return compute(self.model.tendons, self.curves, self.params, out.activation, out, self.replay.velocities)

    @functools.cached_property
    def rate(self) -> MetabolicRate:
        out = self.output
        compute = jax.jit(metabolics.metabolic_rate, static_argnums=(0, 1, 7))
        tendons = self.model.tendons
        return compute(
            self.heat, self.curves, self.params, self.metabolic, out.excitation, out.activation, out, tendons
        )

    def work(self, power: Any) -> np.ndarray:
        """``(3, M)``: net, positive and negative."""
        done = derived.work(power, self.replay.dt)
        return np.stack([done.net, done.positive, done.negative])

    def joint_stiffness(self, muscle_stiffness: Any) -> Any:
        paths = self.model.paths
        assert paths is not None
        slopes = jax.jit(jax.vmap(derived.moment_arm_slopes, in_axes=(None, 0)))(paths, self.segment.angles)
        rows = np.array([paths.coordinates.index(c) for c in self.replay.coordinates])
        slopes = slopes[:, rows][:, :, rows]
        return derived.joint_stiffness(self.replay.moment_arms, slopes, self.output.tendon_force, muscle_stiffness)

    def lacks_angles(self) -> str | None:
        """Why the slopes of moment arms are not known."""
        if self.model.paths is None:
            return "the model has no muscle paths, whose slopes it needs (nms-gym fit-paths)"
        return (
            None if self.segment.angles is not None else "the recording lacks joint angles that the muscle paths need"
        )

    def co_contraction(self) -> np.ndarray:
        """``(2, K)``: both indices of the muscles on either side of each joint, by the sign of the mean moment arm."""
        arms = np.mean(np.asarray(self.replay.moment_arms), axis=0)
        found = np.zeros((len(CO_CONTRACTION_INDICES), len(arms)))
        for k, arm in enumerate(arms):
            sides = [
                [m for m, r in zip(self.model.muscles, sign * arm, strict=True) if r > SMALLEST_ARM] for sign in (1, -1)
            ]
            if all(sides):
                for i, method in enumerate(CO_CONTRACTION_INDICES):
                    found[i, k] = derived.co_contraction_of(
                        self.model.muscles, self.output.activation, sides[0], sides[1], method
                    )
        return found

    def equilibrium_velocity(self) -> Any:
        out = self.output
        compute = jax.jit(jax.vmap(equilibrium_velocity, in_axes=(None, None, 0, 0, 0)), static_argnums=0)
        return compute(self.curves, self.params, out.activation, out.fiber_length, self.replay.lengths)


MUSCLE_OUTPUTS: Mapping[str, Callable[[Any, NmsOutput], Any]] = {
    "tendon_forces": lambda _, out: out.tendon_force,
    "excitations": lambda _, out: out.excitation,
    "activations": lambda _, out: out.activation,
    "fiber_lengths": lambda p, out: out.fiber_length * p.optimal_fiber_length,
    "normalised_fiber_lengths": lambda _, out: out.fiber_length,
    "fiber_velocities": lambda p, out: out.fiber_velocity * p.max_contraction_velocity * p.optimal_fiber_length,
    "normalised_fiber_velocities": lambda _, out: out.fiber_velocity,
    "pennation": lambda p, out: derived.pennation(p, out.fiber_length),
    "tendon_lengths": lambda p, out: p.tendon_slack_length * (1.0 + out.tendon_strain),
    "tendon_strains": lambda _, out: out.tendon_strain,
}
"""quantities of a muscle ``(..., M)`` that follow from its parameters and output alone; traceable"""


def _of_muscle(name: str) -> Callable[[_Source], Any]:
    return lambda s: MUSCLE_OUTPUTS[name](s.params, s.output)


def _needs_elastic_tendons(s: _Source) -> str | None:
    return None if s.model.settings.tendon == "elastic" else "it is that of fibers with elastic tendons"


def _table() -> dict[str, QuantityKind]:
    over_time, joints = ("time", "muscle"), ("time", "coordinate")

    def kind(name: str, group: str, unit: str, text: str, compute: Any, axes: Any = over_time, **more: Any) -> Any:
        return name, QuantityKind(name, group, unit, axes, text, compute, **more)

    matrix: Any = {"axes": ("time", "coordinate", "coordinate"), "lacks": _Source.lacks_angles}
    work: Any = {"axes": ("part", "muscle")}
    return dict(
        [
            kind("moments", "outputs", "N·m", "joint moments of the muscles", lambda s: s.output.moments, joints),
            kind("tendon_forces", "outputs", "N", "tendon force", _of_muscle("tendon_forces")),
            kind("excitations", "outputs", "1", "as it reaches the muscle", _of_muscle("excitations")),
            kind("activations", "outputs", "1", "activation", _of_muscle("activations")),
            kind("fiber_lengths", "outputs", "m", "fiber length", _of_muscle("fiber_lengths")),
            kind(
                "normalised_fiber_lengths",
                "outputs",
                "1",
                "over optimal fiber length",
                _of_muscle("normalised_fiber_lengths"),
            ),
            kind(
                "fiber_velocities",
                "outputs",
                "m/s",
                "fiber velocity, positive lengthening",
                _of_muscle("fiber_velocities"),
            ),
            kind(
                "normalised_fiber_velocities",
                "outputs",
                "1",
                "over maximum contraction velocity",
                _of_muscle("normalised_fiber_velocities"),
            ),
            kind("pennation", "outputs", "rad", "angle between fibers and tendon", _of_muscle("pennation")),
            kind("tendon_lengths", "outputs", "m", "tendon length", _of_muscle("tendon_lengths")),
            kind("tendon_strains", "outputs", "1", "0 for a rigid tendon", _of_muscle("tendon_strains")),
            kind("musculotendon_lengths", "outputs", "m", "of the recorded pose", lambda s: s.replay.lengths),
            kind("musculotendon_velocities", "outputs", "m/s", "positive lengthening", lambda s: s.replay.velocities),
            kind(
                "moment_arms",
                "outputs",
                "m",
                "of the recorded pose",
                lambda s: s.replay.moment_arms,
                ("time", "coordinate", "muscle"),
            ),
            kind(
                "equilibrium_residuals",
                "outputs",
                "tendon slack lengths",
                "what the implicit fiber equation missed by",
                lambda s: s.output.residual,
            ),
            kind("active_fiber_forces", "forces", "N", "along the fiber", lambda s: s.derived.forces.active),
            kind("passive_fiber_forces", "forces", "N", "along the fiber", lambda s: s.derived.forces.passive),
            kind("damping_fiber_forces", "forces", "N", "along the fiber", lambda s: s.derived.forces.damping),
            kind("active_fiber_powers", "powers", "W", "of active force", lambda s: s.derived.powers.active),
            kind("fiber_powers", "powers", "W", "of the whole fiber force", lambda s: s.derived.powers.fiber),
            kind("tendon_powers", "powers", "W", "of the tendon", lambda s: s.derived.powers.tendon),
            kind(
                "musculotendon_powers", "powers", "W", "of fiber and tendon", lambda s: s.derived.powers.musculotendon
            ),
            kind("tendon_energies", "powers", "J", "stored elastically", lambda s: s.derived.tendon_energy),
            kind("fiber_work", "work", "J", "of the fiber", lambda s: s.work(s.derived.powers.fiber), **work),
            kind("tendon_work", "work", "J", "of the tendon", lambda s: s.work(s.derived.powers.tendon), **work),
            kind(
                "musculotendon_work",
                "work",
                "J",
                "of fiber and tendon",
                lambda s: s.work(s.derived.powers.musculotendon),
                **work,
            ),
            kind("fiber_stiffness", "stiffness", "N/m", "along the fiber", lambda s: s.derived.stiffness.fiber),
            kind(
                "tendon_stiffness",
                "stiffness",
                "N/m",
                "infinite for a rigid tendon",
                lambda s: s.derived.stiffness.tendon,
            ),
            kind(
                "musculotendon_stiffness",
                "stiffness",
                "N/m",
                "fiber and tendon in series",
                lambda s: s.derived.stiffness.musculotendon,
            ),
            kind(
                "short_range_stiffness",
                "stiffness",
                "N/m",
                "of attached cross bridges and tendon in series",
                lambda s: s.derived.stiffness.short_range,
            ),
            kind(
                "joint_stiffness",
                "stiffness",
                "N·m/rad",
                "-dM/dq of the muscles, quasi-static",
                lambda s: s.joint_stiffness(s.derived.stiffness.musculotendon),
                **matrix,
            ),
            kind(
                "short_range_joint_stiffness",
                "stiffness",
                "N·m/rad",
                "-dM/dq with short-range stiffness",
                lambda s: s.joint_stiffness(s.derived.stiffness.short_range),
                **matrix,
            ),
            kind("metabolic_rates", "metabolics", "W", "heat and work of the muscle", lambda s: s.rate.total),
            kind("activation_heat", "metabolics", "W", "heat of activation", lambda s: s.rate.activation),
            kind("maintenance_heat", "metabolics", "W", "heat of maintenance", lambda s: s.rate.maintenance),
            kind(
                "shortening_lengthening_heat",
                "metabolics",
                "W",
                "heat of shortening and lengthening",
                lambda s: s.rate.shortening_lengthening,
            ),
            kind("mechanical_work_rates", "metabolics", "W", "of active force", lambda s: s.rate.mechanical_work),
            kind("floor_heat", "metabolics", "W", "added so that a rate is not negative", lambda s: s.rate.floor),
            kind(
                "co_contraction",
                "co_contraction",
                "1",
                "of the activations on either side of a joint, by the sign of the mean moment arm",
                _Source.co_contraction,
                ("index", "coordinate"),
            ),
            kind(
                "equilibrium_velocities",
                "equilibrium",
                "1",
                "fiber velocity that balances fiber and tendon, over maximum contraction velocity",
                _Source.equilibrium_velocity,
                lacks=_needs_elastic_tendons,
            ),
        ]
    )


QUANTITIES: Mapping[str, QuantityKind] = _table()
GROUPS: tuple[str, ...] = tuple(dict.fromkeys(kind.group for kind in QUANTITIES.values()))
"""names that stand for several quantities; "all" stands for every one"""


def chosen_quantities(names: Iterable[str]) -> dict[str, bool]:
    """Quantities that names and groups stand for, in the order of ``QUANTITIES``, and whether each was named itself.

    Raises:
        InputError: a name that is no quantity and no group.
    """
    names = tuple(names)
    known = (*QUANTITIES, *GROUPS, "all")
    for name in names:
        if name not in known:
            raise InputError(f"no quantity {name!r}; {near(name, known)}")
    return {
        name: name in names
        for name, kind in QUANTITIES.items()
        if "all" in names or name in names or kind.group in names
    }


def quantities(
    model: NmsModel,
    params: NmsParams,
    segment: Segment,
    output: NmsOutput,
    names: Sequence[str] = ("outputs",),
    *,
    metabolic_model: HeatModel | None = None,
    metabolic_params: MetabolicParams | None = None,
) -> Quantities:
    """Quantities of a prediction, computed in float64.

    Args:
        model: structure.
        params: parameters that predicted.
        segment: of the recording; the lead-in is included.
        output: of ``predict_moments`` on the segment, ``(T, ...)``.
        names: of ``QUANTITIES``, groups of them ("outputs", "forces", "powers", "work", "stiffness", "metabolics",
            "co_contraction", "equilibrium"), or "all". A quantity that this model or recording cannot have is left out
            of a group, and an error where it is named itself.
        metabolic_model: by default ``Bhargava2004()``.
        metabolic_params: by default those of ``make_metabolic_params`` with the model's specific tension.

    Raises:
        InputError: unknown name, or a quantity named that the model or recording does not have.
    """
    chosen = chosen_quantities(names)
    if metabolic_params is None:
        metabolic_params = metabolics.make_metabolic_params(model.muscles, {"specific_tension": model.specific_tension})
    found: dict[str, Quantity] = {}
    with jax.enable_x64(True):
        numbers = jax.tree.map(lambda x: np.asarray(x, np.float64), (model, params, output, metabolic_params))
        source = _Source(numbers[0], numbers[1], segment, numbers[2], metabolic_model or Bhargava2004(), numbers[3])
        for name, named in chosen.items():
            kind = QUANTITIES[name]
            why = kind.lacks(source)
            if why is None:
                found[name] = Quantity(name, kind.unit, kind.axes, np.asarray(kind.compute(source), np.float64))
            elif named:
                raise InputError(f"{segment.name}: {name} cannot be computed: {why}")
    if not found:
        raise InputError(f"{segment.name}: none of the quantities {listed(names)} can be computed for this model")
    axes = {
        "muscle": model.muscles,
        "coordinate": segment.coordinates,
        "part": WORK_PARTS,
        "index": CO_CONTRACTION_INDICES,
    }
    return Quantities(segment.name, np.asarray(segment.time), axes, found)
