"""A person's limb that muscles move: model, parameters, joint limits and impairments, one control step at a time.

``Limb`` is what the tasks with a moving skeleton share. It can hold one person or many of whom a reset draws one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import pytree, replace, static
from nms_gym.anatomy import Multibody
from nms_gym.envs.rendering.scene import Body, Scene, Strip
from nms_gym.model.condition import Condition
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


@dataclass(frozen=True, eq=False)
class Look:
    """What pictures need of a limb, and physics does not. Equal to every other, so that it never matters to JAX."""

    skeleton: Multibody
    held: Mapping[str, float]
    muscle_points: MusclePoints

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Look)

    def __hash__(self) -> int:
        return hash(Look)


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
    look: Look = static()
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
    immediate: bool = static()
    """no channel has a delay, so none is remembered"""

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
    ) -> LimbState:
        """At rest in the muscles: activation settled at ``channels (C,)`` (None: silence), fibers in equilibrium."""
        params = self.params_of(person)
        motion = initial_motion(
            self.model, params, q, qd, self.dt, channels=channels, base=base, condition=self.condition
        )
        if self.immediate:
            history = motion.muscles.excitation_history[:0]
            motion = replace(motion, muscles=replace(motion.muscles, excitation_history=history))
        return LimbState(motion, person)

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
    ) -> tuple[LimbState, MotionOutput]:
        """One control step: ``at(i)`` gives channels ``(C,)`` and surroundings of its physical step ``i``.

        Returns the state and what the last physical step put out.
        """
        if self.frame_skip == 1:
            return self.step(state, *at(jnp.int32(0)))
        state, out = jax.lax.scan(
            lambda state, i: self.step(state, *at(i)), state, jnp.arange(self.frame_skip, dtype=jnp.int32)
        )
        return state, jax.tree.map(lambda leaf: leaf[-1], out)

    def moment_arms(self, q: Any) -> np.ndarray:
        """Moment arms ``(D, M)`` m about the free coordinates; NumPy, for the time a task is built."""
        model = self.model
        assert model.paths is not None
        with jax.enable_x64(True):
            _, arms = lengths_and_moment_arms(model.paths, np.asarray(q, float))
        rows = [model.coordinates.index(name) for name in self.coordinates]
        return np.asarray(arms)[rows]

    def strength(self, q: Any) -> np.ndarray:
        """N·m of every muscle at full force in a pose ``(D,)``: ``(D, M)``; for the time a task is built."""
        return self.moment_arms(q) * np.asarray(self.params.max_isometric_force)

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
        skeleton=limb.look.skeleton,
        coordinates=limb.coordinates,
        held=limb.look.held,
        muscle_points={m: p for m, p in limb.look.muscle_points.items() if m in limb.muscles},
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
