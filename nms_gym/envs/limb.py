"""A person's limb that muscles move: model, parameters, joint limits and impairments, one control step at a time.

``Limb`` is what the tasks with a moving skeleton share. It can hold one person or many of whom a reset draws one.
``nms_gym.envs.person`` makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import pytree, replace, static
from nms_gym.anatomy import Multibody
from nms_gym.envs.rendering.scene import Body, Scene, Strip
from nms_gym.envs.trained import TrainedLimits
from nms_gym.model.condition import Condition
from nms_gym.model.forward import muscle_activation
from nms_gym.model.parameters import PARAMETER_KINDS, NmsParams, entries
from nms_gym.model.rollout import (
    NOTHING,
    MotionOutput,
    MotionState,
    Surroundings,
    initial_motion,
    motion_step,
)
from nms_gym.model.structure import NmsModel
from nms_gym.muscle.geometry import lengths_and_moment_arms
from nms_gym.muscle.path_points import MusclePoints
from nms_gym.skeleton.kinematics import BaseMotion
from nms_gym.skeleton.passive import PassiveMoments


@pytree
class LimbState:
    """What evolves of a limb."""

    motion: MotionState
    person: Array
    """int32; who of ``Limb.people``"""


@pytree
class LimbOutput:
    """What a control step, or a start, shows of a limb besides its motion."""

    excitation: Array
    """(M,) as it reaches the muscle"""
    activation: Array
    """(M,)"""
    fiber_length: Array
    """(M,) over optimal fiber length"""
    moments: Array
    """(D,) N·m, of the muscles"""

    def info(self) -> dict[str, Array]:
        """By name, for a step's info."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, eq=False)
class Appearance:
    """What pictures need of a limb, and physics does not. Equal to every other, so that it never matters to JAX."""

    skeleton: Multibody
    held: Mapping[str, float]
    muscle_points: MusclePoints

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Appearance)

    def __hash__(self) -> int:
        return hash(Appearance)


@pytree
class Limb:
    """Whose muscles move what, and how time passes. Built by ``nms_gym.envs.person.make_limb``.

    Channels come in this order: recorded ones, synergy commands, one per muscle that the policy drives.
    """

    model: NmsModel
    params: NmsParams
    """of the one person, or of the first"""
    people: Array | None
    """``(N, P)`` parameters of everyone, packed; None for one person"""
    passive: PassiveMoments
    condition: Condition
    appearance: Appearance = static()
    recorded: tuple[str, ...] = static()
    """channels that a recording gives, synergy commands included when they come from it"""
    commanded: tuple[str, ...] = static()
    """synergy commands that the policy gives"""
    actuated: tuple[str, ...] = static()
    """muscles that the policy drives"""
    sources: tuple[tuple[str, str], ...] = static()
    """muscle and what drives it, for people to read"""
    dt: float = static()
    """s, of one physical step"""
    frame_skip: int = static()
    """physical steps per control step"""
    undelayed: bool = static()
    """no channel has a delay, so none is remembered"""
    trained: TrainedLimits | None = None
    """of ``recorded``, and of the free coordinates' angles and speeds; None where nobody knows"""

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Joints that are free to move."""
        assert self.model.skeleton is not None
        return self.model.skeleton.coordinates

    @property
    def muscles(self) -> tuple[str, ...]:
        """All muscles that span a free joint."""
        return self.model.muscles

    @property
    def control_dt(self) -> float:
        """s, of one control step."""
        return self.dt * self.frame_skip

    @property
    def people_count(self) -> int:
        """How many people a reset draws from."""
        return 1 if self.people is None else self.people.shape[0]

    def params_of(self, person: Array) -> NmsParams:
        """Parameters of one of the people."""
        if self.people is None:
            return self.params
        return unpack_params(self.model, self.people[person])

    def start(
        self,
        person: Array,
        q: Array,
        qd: Array,
        channels: Array | None = None,
        base: BaseMotion | None = None,
    ) -> tuple[LimbState, LimbOutput]:
        """At rest in the muscles: activation settled at ``channels (C,)`` (None: silence), fibers in equilibrium.

        No moments are shown, which only a step computes.
        """
        params = self.params_of(person)
        motion = initial_motion(
            self.model, params, q, qd, self.dt, channels=channels, base=base, condition=self.condition
        )
        if self.undelayed:
            history = motion.muscles.excitation_history[:0]
            motion = replace(motion, muscles=replace(motion.muscles, excitation_history=history))
        muscles = motion.muscles
        activation = muscle_activation(params, muscles.filtered)
        shown = LimbOutput(muscles.filtered, activation, muscles.fiber.length, jnp.zeros_like(motion.q))
        return LimbState(motion, person), shown

    def step(
        self, state: LimbState, channels: Array, surroundings: Surroundings = NOTHING
    ) -> tuple[LimbState, MotionOutput]:
        """One physical step; channels ``(C,)``."""
        motion, out = motion_step(
            self.model,
            self.params_of(state.person),
            state.motion,
            channels,
            self.dt,
            surroundings,
            passive=self.passive,
            condition=self.condition,
        )
        return LimbState(motion, state.person), out

    def advance(
        self, state: LimbState, at: Callable[[Array], tuple[Array, Surroundings]]
    ) -> tuple[LimbState, LimbOutput]:
        """One control step: ``at(i)`` gives channels ``(C,)`` and surroundings of its physical step ``i``.

        Returns the state and what the last physical step put out.
        """

        def advanced(state: LimbState, i: Array) -> tuple[LimbState, LimbOutput]:
            state, out = self.step(state, *at(i))
            m = out.muscles
            return state, LimbOutput(m.excitation, m.activation, m.fiber_length, out.moments)

        if self.frame_skip == 1:
            return advanced(state, jnp.int32(0))
        state, outs = jax.lax.scan(advanced, state, jnp.arange(self.frame_skip, dtype=jnp.int32))
        return state, jax.tree.map(lambda leaf: leaf[-1], outs)

    def strength(self, q: np.ndarray | None = None) -> np.ndarray:
        """N·m of every muscle at full force: ``(D, M)``; for the time a task is built.

        Args:
            q: ``(D,)`` rad; by default the middle of the joints' ranges. Prescribed coordinates are at 0.
        """
        at = np.mean(self.limits(), axis=0) if q is None else q
        return self.moment_arms(at) * np.asarray(self.params.max_isometric_force)

    def moment_arms(self, q: np.ndarray) -> np.ndarray:
        """Moment arms ``(D, M)`` m about the free coordinates at angles ``(D,)``."""
        model, by_name = self.model, dict(zip(self.coordinates, q, strict=True))
        assert model.paths is not None
        pose = np.array([by_name.get(name, 0.0) for name in model.coordinates])
        with jax.enable_x64(True):
            _, arms = lengths_and_moment_arms(model.paths, pose)
        return np.asarray(arms)[[model.coordinates.index(name) for name in self.coordinates]]

    def shown_ranges(self) -> dict[str, tuple[float, float]]:
        """Coordinate -> lowest and highest angle, rad, for pictures."""
        return {c: (float(a), float(b)) for c, a, b in zip(self.coordinates, *self.limits(), strict=True)}

    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest angle ``(D,)`` rad before the joint limits act."""
        limits = self.passive.limits
        return np.asarray(limits.lower), np.asarray(limits.upper)


def limb_scene(
    limb: Limb, title: str, drive: Mapping[str, str], strips: Sequence[Strip], seconds: float, **body: Any
) -> Scene:
    """The picture of a limb; ``body`` are fields of ``rendering.scene.Body`` beyond those that a limb has."""
    strength = np.asarray(limb.params.max_isometric_force, float)
    shown = Body(
        skeleton=limb.appearance.skeleton,
        coordinates=limb.coordinates,
        held=limb.appearance.held,
        muscle_points={m: p for m, p in limb.appearance.muscle_points.items() if m in limb.muscles},
        strength=dict(zip(limb.muscles, strength.tolist(), strict=True)),
        paths=limb.model.paths,
        **{"ranges": limb.shown_ranges(), **body},
    )
    return Scene(title, limb.muscles, drive, tuple(strips), (0.0, seconds), shown)


def sizes(model: NmsModel) -> tuple[int, ...]:
    """How many entries each parameter kind has, in the order of ``PARAMETER_KINDS``."""
    return tuple(len(entries(model, kind)) for kind in PARAMETER_KINDS)


def pack_params(params: NmsParams) -> Any:
    """``(..., P)`` from leaves ``(..., n)``: one gather finds a person."""
    return np.concatenate([np.asarray(getattr(params, kind)) for kind in PARAMETER_KINDS], axis=-1)


def unpack_params(model: NmsModel, packed: Array) -> NmsParams:
    """The inverse of ``pack_params``."""
    parts = jnp.split(packed, np.cumsum(sizes(model))[:-1].tolist(), axis=-1)
    return NmsParams(**dict(zip(PARAMETER_KINDS, parts, strict=True)))
