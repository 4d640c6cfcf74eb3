"""A study's synergies: which mode, how many, and which muscles they drive."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from calibration.excitations.expected import ExcitationPrior, with_prior
from calibration.excitations.gait_timing import read_profiles
from calibration.excitations.synergies import CHANNEL_VAF, TOTAL_VAF, Synergies, add_synergies, extract
from calibration.problem import DEFAULT_FREE, Free
from calibration.study.checks import at
from nms_gym.errors import InputError, listed
from nms_gym.model.parameters import NmsParams
from nms_gym.model.replay import Segment
from nms_gym.model.structure import NmsModel

# What weights of muscles without a channel are expected to be: all alike, or as ``excitations/expected.py`` works out.
PRIORS = ("flat", "expected")
MODES = ("emg_driven", "synergy_hybrid", "synergy_only")


@dataclass(frozen=True)
class SynergyPlan:
    """The ``[synergies]`` table. Without one, a study is EMG-driven.

    Raises:
        InputError: an unknown mode or prior, or a number out of its range.
    """

    mode: str = "synergy_hybrid"
    """one of ``MODES``"""
    number: int | None = None
    method: str = "nmf"
    total_vaf: float = TOTAL_VAF
    channel_vaf: float = CHANNEL_VAF
    restarts: int = 10
    seed: int = 0
    muscles: tuple[str, ...] = ()
    """that synergies drive; all without a channel that are not named passive when empty"""
    residuals: bool = False
    tasks: Mapping[str, str] = field(default_factory=dict)
    """trial -> task, where weights differ between tasks; the person's where empty"""
    weight: float = 0.1
    """that every synthesised muscle starts from, per command, where the prior is flat"""
    prior: str = "flat"
    tightness: float = 1.0
    """how closely the fit keeps to an expected prior, in its own standard deviations; small keeps the expected signals
    whatever the moments say"""
    gait: bool = False
    """whether timing of muscles in gait may be part of what is expected"""
    profiles: str | None = None
    """file with other people's activity over the gait cycle (``gait_timing.read_profiles``), in place of published
    timing; used with ``gait``"""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"mode is {self.mode!r}; use one of {listed(MODES)}")
        if self.prior not in PRIORS:
            raise InputError(f"prior is {self.prior!r}; use one of {listed(PRIORS)}")
        for name, low, high in (("total_vaf", 0.0, 1.0), ("channel_vaf", 0.0, 1.0), ("weight", 0.0, 1.0)):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} is {getattr(self, name):g}; expected {low:g} to {high:g}")
        for trial, task in self.tasks.items():
            if not isinstance(task, str) or not task:
                raise InputError(f"the task of {trial!r} is {task!r}; expected a name in quotes")
        if self.profiles is not None and not (self.gait and self.prior == "expected"):
            raise InputError('profiles are timing in gait, which is only used with prior = "expected" and gait = true')
        if not self.tightness > 0:
            raise InputError(f"tightness is {self.tightness:g}; expected a number above 0")
        if self.restarts < 0 or self.seed < 0:
            raise InputError(f"restarts is {self.restarts}, seed {self.seed}; expected 0 or more")


EMG_DRIVEN = SynergyPlan(mode="emg_driven")


@dataclass(frozen=True)
class Driven:
    """A model with synergies, and where they came from."""

    model: NmsModel
    start: NmsParams
    tracked: np.ndarray | None
    synergies: Synergies | None


def drive(
    plan: SynergyPlan,
    model: NmsModel,
    start: NmsParams,
    windows: Sequence[Segment],
    passive: Sequence[str],
    where: str,
) -> Driven:
    """Extract synergies from the training windows' envelopes and let them drive the muscles of the plan.

    Args:
        plan: of the study.
        model: EMG-driven.
        start: its parameters.
        windows: training windows of that model; nothing else is looked at.
        passive: muscles that are to stay without excitation.
        where: for messages.

    Raises:
        InputError: see ``extract`` and ``add_synergies``.
    """
    if plan.mode == "emg_driven":
        return Driven(model, start, None, None)
    with at(where):
        muscles = plan.muscles or tuple(m for m in model.passive_muscles if m not in passive)
        found = extract(
            [np.asarray(w.replay.excitations) for w in windows],
            model.channels,
            number=plan.number,
            method=plan.method,  # type: ignore[arg-type]
            total_vaf=plan.total_vaf,
            channel_vaf=plan.channel_vaf,
            restarts=plan.restarts,
            seed=plan.seed,
        )
        options: dict[str, Any] = {"residuals": plan.residuals, "only": plan.mode == "synergy_only"}
        basis = dataclasses.replace(found.basis, tasks=tuple(plan.tasks.items()))
        model, start, tracked = add_synergies(model, start, basis, muscles=muscles, weight=plan.weight, **options)
    return Driven(model, start, tracked, found)


def expected(
    plan: SynergyPlan, driven: Driven, windows: Sequence[Segment], free: tuple[Free, ...], where: str
) -> tuple[NmsParams, tuple[Free, ...]]:
    """Start and freedom with the prior of the plan: unchanged where it is flat.

    Raises:
        InputError: see ``excitations.expected.with_prior``.
    """
    if plan.prior == "flat" or driven.synergies is None:
        return driven.start, free
    with at(where):
        prior = ExcitationPrior(tightness=plan.tightness)
        weights = next((f for f in free if f.kind == "synergy_weight"), DEFAULT_FREE["synergy_weight"])
        known = None if plan.profiles is None else read_profiles(plan.profiles)
        start, weights, _ = with_prior(
            driven.model, driven.start, windows, prior, gait=plan.gait, free=weights, profiles=known
        )
    return start, tuple(weights if f.kind == "synergy_weight" else f for f in free)
