"""``ElbowReach`` and ``ArmReach``: bring a joint, or the hand, to a goal and hold it there with one's own muscles.

| | ElbowReach | ArmReach |
|---|---|---|
| moves | elbow; the shoulder hangs | shoulder and elbow in the sagittal plane |
| goal | an elbow angle | a place of the wrist that the arm can reach |
| success | within 5 degrees for 0.3 s | within 3 cm for 0.3 s |
| reward of a step | closeness, 1 at the goal and 1/2 at 10 degrees | the same, 1/2 at 6 cm |

The reward also has ``-effort_weight`` times the mean squared excitation. An episode lasts 2 s. It starts at rest in a
random pose with a random goal; with a posterior, in a random person.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import pytree, static
from nms_gym.envs.limb import Limb, LimbState, limb_scene
from nms_gym.envs.person import load_person, make_limb
from nms_gym.envs.rendering.scene import Scene, angle_strip
from nms_gym.envs.scripted import excitations_for, spring
from nms_gym.envs.task import (
    SPEED_UNIT,
    Step,
    as_numpy,
    bounds_of,
    checked_flag,
    checked_number,
    closeness,
    draw_index,
    equal_bounds,
    observe,
    steps_of,
    uniform,
)
from nms_gym.errors import InputError, listed
from nms_gym.model.rollout import NOTHING
from nms_gym.skeleton.dynamics import bias_forces, point_positions

EFFORT_WEIGHT = 0.1
HOLD = 0.3
"""s within the tolerance that count as success"""
POSITION_UNIT = 0.1
"""m, of places and distances in the observation"""
# The styloid process of the radius, arm26's marker at the wrist: body and m.
WRIST = ("r_ulna_radius_hand", (-0.0011, -0.23559, 0.0943))


@pytree
class Reach:
    """The task; build it with ``make_elbow_reach`` or ``make_arm_reach``."""

    limb: Limb
    lowest: Array
    """(D,) rad, of starts and goals"""
    highest: Array
    """(D,) rad"""
    strength: Array
    """(D, M) N·m, for the scripted policy"""
    width: Array
    """rad or m, where closeness is 1/2"""
    tolerance: Array
    """rad or m"""
    effort_weight: Array
    lowest_action: Array
    """the action that excites nothing: 0 or -1; full excitation is 1"""
    point: tuple[str, tuple[float, float, float]] | None = static()
    """body and m of what reaches; None where the joints do"""
    horizon: int = static()
    hold_steps: int = static()

    @property
    def dt(self) -> float:
        """Seconds per step."""
        return self.limb.control_dt

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Joints that are free to move."""
        return self.limb.coordinates

    @property
    def muscles(self) -> tuple[str, ...]:
        """Muscles that span a free joint."""
        return self.limb.muscles

    @property
    def action_names(self) -> tuple[str, ...]:
        """Muscles, then synergy commands."""
        return self.limb.actuated + self.limb.commanded

    @property
    def action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """[0, 1] or [-1, 1]."""
        return equal_bounds(float(self.lowest_action), 1.0, len(self.action_names))

    @property
    def drive(self) -> dict[str, str]:
        """Muscle -> what drives it."""
        return dict(self.limb.sources)

    @property
    def observation_names(self) -> tuple[str, ...]:
        """``angle`` (rad), ``speed`` (10 rad/s); ``error``: goal minus angle (rad), or ``position`` of the wrist and
        ``error``: goal minus wrist (0.1 m); ``activation``, normalised ``fiber_length``."""
        joints = self.limb.coordinates
        if self.point is None:
            where: tuple[str, ...] = tuple(f"error:{c}" for c in joints)
        else:
            where = tuple(f"{group}:{axis}" for group in ("position", "error") for axis in "xyz")
        return (
            *(f"angle:{c}" for c in joints),
            *(f"speed:{c}" for c in joints),
            *where,
            *(f"activation:{m}" for m in self.limb.muscles),
            *(f"fiber_length:{m}" for m in self.limb.muscles),
        )

    @property
    def observation_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """By group."""
        return bounds_of(self.observation_names)

    def reset(self, key: Array) -> tuple[ReachState, Step]:
        """A random person, pose and goal."""
        who, pose, aim = jax.random.split(key, 3)
        q = uniform(pose, self.lowest, self.highest)
        wanted = uniform(aim, self.lowest, self.highest)
        limb = self.limb.start(draw_index(who, self.limb.people_count), q, jnp.zeros_like(q))
        goal = wanted if self.point is None else self._place(wanted)
        state = ReachState(limb, jnp.int32(0), goal, jnp.int32(0))
        zero = jnp.zeros_like(q)
        silence = jnp.zeros_like(limb.motion.muscles.filtered)
        shown = (silence, limb.motion.muscles.filtered, limb.motion.muscles.fiber.length, zero)
        return state, self._shown(state, *shown, effort=zero[0], reset=True)

    def step(self, state: ReachState, action: Array) -> tuple[ReachState, Step]:
        """One control step."""
        asked = (action - self.lowest_action) / (1.0 - self.lowest_action)
        muscles, commands = jnp.split(asked, [len(self.limb.actuated)])
        channels = jnp.concatenate([commands, muscles])
        limb, out = self.limb.advance(state.limb, lambda _: (channels, NOTHING))
        near = self._distance(out.q, state.goal) < self.tolerance
        held = jnp.where(near, state.held + 1, 0)
        state = ReachState(limb, state.step + 1, state.goal, held)
        m = out.muscles
        effort = -self.effort_weight * jnp.mean(asked**2)
        return state, self._shown(state, m.excitation, m.activation, m.fiber_length, out.moments, effort=effort)

    def baseline(self, observation: Array) -> Array:
        """A spring from joint or wrist to the goal, pulled by the muscles; ArmReach's also holds the weight."""
        n = len(self.limb.coordinates)
        q, speed = observation[:n], observation[n : 2 * n] * SPEED_UNIT
        if self.point is None:
            moment = spring(observation[2 * n : 3 * n], speed, 15.0, 1.5)
        else:
            assert self.limb.model.skeleton is not None
            pull = 150.0 * POSITION_UNIT * observation[2 * n + 3 : 2 * n + 6]
            moment = jax.jacfwd(self._place)(q).T @ pull - 3.0 * speed
            moment = moment + bias_forces(self.limb.model.skeleton, q, jnp.zeros_like(q))
        asked = excitations_for(self.strength, moment)
        asked = jnp.concatenate([asked, jnp.zeros(len(self.limb.commanded), asked.dtype)])
        return self.lowest_action + (1.0 - self.lowest_action) * asked

    def scene(self) -> Scene:
        """For pictures."""
        ranges = self.limb.shown_ranges()
        strips = [angle_strip(c, i, r, target=self.point is None) for i, (c, r) in enumerate(ranges.items())]
        title = "ElbowReach" if self.point is None else "ArmReach"
        return limb_scene(self.limb, title, self.drive, strips, self.horizon * self.dt, tip=self.point)

    def _place(self, q: Array) -> Array:
        """Where the point is, (3,) m."""
        assert self.point is not None
        assert self.limb.model.skeleton is not None
        return point_positions(self.limb.model.skeleton, q, *self.point)

    def _error(self, q: Array, goal: Array) -> Array:
        return goal - (q if self.point is None else self._place(q))

    def _distance(self, q: Array, goal: Array) -> Array:
        # The tiny part keeps the derivative finite at the goal.
        return jnp.sqrt(jnp.sum(self._error(q, goal) ** 2) + 1e-12)

    def _shown(
        self,
        state: ReachState,
        excitation: Array,
        activation: Array,
        fiber_length: Array,
        moments: Array,
        *,
        effort: Array,
        reset: bool = False,
    ) -> Step:
        motion = state.limb.motion
        error, distance = self._error(motion.q, state.goal), self._distance(motion.q, state.goal)
        goal = closeness(distance, self.width)
        groups = {"angle": motion.q, "speed": motion.qd / SPEED_UNIT}
        if self.point is None:
            groups["error"] = error
        else:
            groups |= {"position": (state.goal - error) / POSITION_UNIT, "error": error / POSITION_UNIT}
        observation = observe(groups | {"activation": activation, "fiber_length": fiber_length})
        zero = jnp.zeros_like(goal)
        info = {
            "time": state.step.astype(motion.q.dtype) * self.dt,
            "success": state.held >= self.hold_steps,
            "distance": distance,
            "reward_goal": zero if reset else goal,
            "reward_effort": effort,
            "person": state.limb.person,
            "q": motion.q,
            "qd": motion.qd,
            "target" if self.point is None else "goal": state.goal,
            "moments": moments,
            "excitation": excitation,
            "activation": activation,
            "fiber_length": fiber_length,
        }
        reward = zero if reset else goal + effort
        return Step(observation, reward, jnp.bool_(False), state.step >= self.horizon, info)


@pytree
class ReachState:
    """What evolves during an episode."""

    limb: LimbState
    step: Array
    """int32"""
    goal: Array
    """(D,) rad, or (3,) m"""
    held: Array
    """int32; steps within the tolerance without a break"""


def make_elbow_reach(
    subject: str | os.PathLike[str] | None = None,
    posterior: bool | str | os.PathLike[str] = False,
    condition: Sequence[Mapping[str, Any] | str] | None = None,
    sources: Mapping[str, str] | str | None = None,
    tendon: str | None = None,
    shoulder: float = 0.0,
    seconds: float = 2.0,
    effort_weight: float = EFFORT_WEIGHT,
    symmetric_action: bool = False,
    dt: float = 0.01,
    frame_skip: int = 1,
) -> Reach:
    """Bring the elbow to an angle and hold it.

    Args:
        subject: path of a subject file with the joint ``r_elbow_flex``; by default the shipped synthetic person.
        posterior: True, or a path, to draw a person of the calibration's posterior at every reset.
        condition: what ails the person, for example ``[{"name": "weakness", "severity": 0.3}]``.
        sources: muscle -> "policy", "passive" or "synergy" (commanded by the action); by default all "policy".
        tendon: "rigid" or "elastic" instead of the subject's.
        shoulder: rad, elevation at which the upper arm is held.
        seconds: of an episode.
        effort_weight: of the mean squared excitation in the reward.
        symmetric_action: actions from -1 (no excitation) to 1 instead of from 0 to 1.
        dt: s, of a physical step.
        frame_skip: physical steps per control step.

    Raises:
        InputError: a file, name or option cannot be used.
    """
    return _make(
        subject, posterior, ("r_elbow_flex",), {"r_shoulder_elev": shoulder}, None, ((15.0,), (110.0,)),
        (math.radians(10), math.radians(5)), condition, sources, tendon, seconds, effort_weight, symmetric_action,
        dt, frame_skip,
    )  # fmt: skip


def make_arm_reach(
    subject: str | os.PathLike[str] | None = None,
    posterior: bool | str | os.PathLike[str] = False,
    condition: Sequence[Mapping[str, Any] | str] | None = None,
    sources: Mapping[str, str] | str | None = None,
    tendon: str | None = None,
    seconds: float = 2.0,
    effort_weight: float = EFFORT_WEIGHT,
    symmetric_action: bool = False,
    dt: float = 0.01,
    frame_skip: int = 1,
) -> Reach:
    """Bring the wrist to a place and hold it there.

    Args:
        subject: path of a subject file with the joints of arm26; by default the shipped synthetic person.
        posterior: True, or a path, to draw a person of the calibration's posterior at every reset.
        condition: what ails the person, for example ``[{"name": "weakness", "severity": 0.3}]``.
        sources: muscle -> "policy", "passive" or "synergy" (commanded by the action); by default all "policy".
        tendon: "rigid" or "elastic" instead of the subject's.
        seconds: of an episode.
        effort_weight: of the mean squared excitation in the reward.
        symmetric_action: actions from -1 (no excitation) to 1 instead of from 0 to 1.
        dt: s, of a physical step.
        frame_skip: physical steps per control step.

    Raises:
        InputError: a file, name or option cannot be used.
    """
    return _make(
        subject, posterior, ("r_shoulder_elev", "r_elbow_flex"), {}, WRIST, ((-20.0, 20.0), (60.0, 110.0)),
        (0.06, 0.03), condition, sources, tendon, seconds, effort_weight, symmetric_action, dt, frame_skip,
    )  # fmt: skip


def _make(
    subject: Any, posterior: Any, joints: tuple[str, ...], locked: Mapping[str, float], point: Any, degrees: Any,
    widths: tuple[float, float], condition: Any, sources: Any, tendon: str | None, seconds: float,
    effort_weight: float, symmetric_action: bool, dt: float, frame_skip: int,
) -> Reach:  # fmt: skip
    person, people = load_person(subject, "demo_arm", posterior)
    limb = make_limb(
        person,
        joints,
        people=people,
        locked=locked,
        sources=sources,
        synergies="action",
        condition=condition,
        tendon=tendon,
        dt=dt,
        frame_skip=frame_skip,
    )
    if limb.recorded:
        raise InputError(
            f"sources asks for recorded channels ({listed(limb.recorded)}), but this task replays no recording; use "
            "'policy', 'passive' or 'synergy'"
        )
    low, high = np.radians(np.array(degrees))
    order = [limb.muscles.index(m) for m in limb.actuated]
    checked_flag(symmetric_action, "symmetric_action")
    if not (limb.commanded or limb.actuated):
        raise InputError("no muscle is driven by the policy; give at least one the source 'policy'")
    return as_numpy(
        Reach(
            limb=limb,
            lowest=low,
            highest=high,
            strength=limb.strength(_pose(limb, 0.5 * (low + high)))[:, order],  # type: ignore[arg-type]
            width=np.asarray(widths[0]),  # type: ignore[arg-type]
            tolerance=np.asarray(widths[1]),  # type: ignore[arg-type]
            effort_weight=np.asarray(checked_number(effort_weight, "effort_weight", 0.0, 100.0)),  # type: ignore[arg-type]
            lowest_action=np.asarray(-1.0 if symmetric_action else 0.0),  # type: ignore[arg-type]
            point=point,
            horizon=steps_of(seconds, limb.control_dt),
            hold_steps=steps_of(HOLD, limb.control_dt),
        )
    )


def _pose(limb: Limb, q: np.ndarray) -> np.ndarray:
    """A pose of the paths' coordinates."""
    return np.array([q[limb.coordinates.index(c)] for c in limb.model.coordinates])
