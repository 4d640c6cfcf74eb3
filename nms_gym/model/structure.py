"""What a model is made of: names, settings, who drives whom, muscle paths and skeleton. Nothing here can be fitted."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nms_gym._pytree import Leaf, pytree, static
from nms_gym.errors import InputError, listed
from nms_gym.excitation.activation import ActivationKind
from nms_gym.excitation.synergies import SynergyBasis
from nms_gym.muscle.curves import Curves, DeGrooteFregly2016
from nms_gym.muscle.geometry import PolynomialPaths
from nms_gym.muscle.metabolics import DEFAULTS as METABOLIC_DEFAULTS
from nms_gym.muscle.tendon import Integrator, TendonKind
from nms_gym.skeleton.skeleton import Skeleton


@dataclass(frozen=True)
class Settings:
    """How the equations are solved. Part of a subject: parameters fitted with one choice do not suit another."""

    tendon: Literal["rigid", "elastic", "mixed"] = "elastic"
    """"mixed": rigid for ``NmsModel.rigid_tendons``, elastic for the others"""
    integrator: Integrator = "bdf2"
    tendon_iterations: int = 12
    """at most so many for an elastic tendon; usually two or three do, and ``examples/benchmarks/stress.py`` never needs
    more than this"""
    activation: ActivationKind = "second_order"
    """"recursive" is the second-order filter as CEINMS has it, up to a step earlier, so that it changes with the step:
    that of CEINMS subjects' models, and of people saved before subject files of version 2"""
    max_delay: float = 0.15
    """s; the longest electromechanical delay that the excitation history can hold"""
    curves: Curves = dataclasses.field(default_factory=DeGrooteFregly2016)

    def __post_init__(self) -> None:
        allowed = {
            "tendon": ("rigid", "elastic", "mixed"),
            "integrator": ("bdf2", "backward_euler"),
            "activation": ("second_order", "recursive", "first_order"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise InputError(f"{name} is {getattr(self, name)!r}; use one of {listed(values)}")
        if not 1 <= self.tendon_iterations <= 50:
            raise InputError(f"tendon_iterations is {self.tendon_iterations}; use 1 to 50 (default 12)")
        if not 0 < self.max_delay <= 1:
            raise InputError(f"max_delay is {self.max_delay} s; use more than 0 and at most 1 s")

    def history_length(self, dt: float) -> int:
        """Samples of excitation to keep so that ``max_delay`` can be interpolated at step ``dt``."""
        return max(math.ceil(self.max_delay / dt - 1e-9) + 3, 4)


@pytree
class NmsModel:
    """Structure: names, settings, who drives whom, and muscle paths where joint angles are to be used."""

    muscles: tuple[str, ...] = static()
    coordinates: tuple[str, ...] = static()
    """joints whose moments are computed; with ``paths``, also the joints whose angles ``neuromuscular_step`` takes"""
    channels: tuple[str, ...] = static()
    settings: Settings = static()
    channel_weights: Leaf
    """(M, C); what each channel contributes to each muscle's excitation; a row of zeros is a passive muscle"""
    paths: PolynomialPaths | None = None
    skeleton: Skeleton | None = None
    """what moves when moments act; needed by ``rollout`` only"""
    rigid_tendons: tuple[str, ...] = static(default=())
    """muscles whose tendon is rigid when ``settings.tendon`` is "mixed" (``tendon.rigid_by_rule`` chooses them)"""
    synergies: SynergyBasis | None = None
    """turns recorded envelopes into commands; its commands are channels too, next to one another"""
    synergy_pairs: tuple[tuple[str, str], ...] = static(default=())
    """(muscle, command) for every weight of ``NmsParams.synergy_weight``; a muscle that also has a recorded channel
    gets a residual excitation this way, which may be negative"""
    specific_tension: float = static(default=METABOLIC_DEFAULTS["specific_tension"])
    """N/m^2, maximum isometric force over physiological cross section, with which the model's strengths were made; what
    muscles weigh and so their metabolic rate depend on it, moments do not. Default: that of OpenSim's probes"""

    @property
    def tendons(self) -> TendonKind | tuple[TendonKind, ...]:
        """The kind of all tendons, or of each muscle's where they differ."""
        kind = self.settings.tendon
        if kind != "mixed":
            return kind
        kinds: list[TendonKind] = ["rigid" if muscle in self.rigid_tendons else "elastic" for muscle in self.muscles]
        return tuple(kinds)

    @property
    def commands(self) -> tuple[str, ...]:
        """Channels that are synergy commands."""
        return () if self.synergies is None else self.synergies.command_names

    @property
    def recorded_channels(self) -> tuple[str, ...]:
        """Channels that a recording must have: those that drive a muscle, and those that commands are found from."""
        return tuple(c for c in self.channels if c not in self.commands)

    @property
    def recorded_muscles(self) -> tuple[str, ...]:
        """Muscles that a channel drives directly."""
        driven = np.any(np.asarray(self.channel_weights) != 0, axis=1)
        return tuple(m for m, d in zip(self.muscles, driven, strict=True) if d)

    @property
    def synergy_muscles(self) -> tuple[str, ...]:
        """Muscles that synergies excite, in the model's order."""
        paired = {muscle for muscle, _ in self.synergy_pairs}
        return tuple(m for m in self.muscles if m in paired)

    def sources(self, muscle: str) -> tuple[str, ...]:
        """Channels and synergy commands that excite a muscle."""
        row = np.asarray(self.channel_weights)[self.muscles.index(muscle)]
        channels = tuple(c for c, w in zip(self.channels, row, strict=True) if w != 0)
        return channels + tuple(c for m, c in self.synergy_pairs if m == muscle)

    @property
    def passive_muscles(self) -> tuple[str, ...]:
        """Muscles that nothing drives."""
        driven = {*self.recorded_muscles, *self.synergy_muscles}
        return tuple(m for m in self.muscles if m not in driven)
