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
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import Leaf, pytree, static
from nms_gym.envs.actuation import Effect, MuscleOptions, Muscles, muscles_of
from nms_gym.envs.limb import Limb, LimbOutput, LimbState, limb_scene
from nms_gym.envs.options import EpisodeOptions, HangingArm, TimeOptions, builds
from nms_gym.envs.person import PersonOptions, load_limb
from nms_gym.envs.rendering.scene import Scene, angle_strip
from nms_gym.envs.scripted import spring
from nms_gym.envs.sources import SourceOptions
from nms_gym.envs.task import (
    SPEED_UNIT,
    Step,
    as_numpy,
    bounds_of,
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
    actuation: Muscles
    lowest: Leaf
    """(D,) rad, of starts and goals"""
    highest: Leaf
    """(D,) rad"""
    width: Leaf
    """rad or m, where closeness is 1/2"""
    tolerance: Leaf
    """rad or m"""
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
        return self.actuation.action_names

    @property
    def action_units(self) -> str:
        """What an action is."""
        return self.actuation.action_units

    @property
    def action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """[0, 1] or [-1, 1]."""
        return equal_bounds(float(self.actuation.lowest_action), 1.0, len(self.action_names))

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
            *self.actuation.observation_names,
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
        limb, out = self.limb.start(draw_index(who, self.limb.people_count), q, jnp.zeros_like(q))
        goal = wanted if self.point is None else self._place(wanted)
        state = ReachState(limb, jnp.int32(0), goal, jnp.int32(0))
        return state, self._result(state, out, self.actuation.start()[1], reset=True)

    def step(self, state: ReachState, action: Array) -> tuple[ReachState, Step]:
        """One control step."""
        _, effect = self.actuation.act((), action, state.limb.motion.qd, self.dt)
        limb, out = self.limb.advance(state.limb, lambda _: (effect.channels, NOTHING))
        near = self._distance(limb.motion.q, state.goal) < self.tolerance
        held = jnp.where(near, state.held + 1, 0)
        state = ReachState(limb, state.step + 1, state.goal, held)
        return state, self._result(state, out, effect)

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
        return self.actuation.action_for(moment)

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

    def _result(self, state: ReachState, out: LimbOutput, effect: Effect, *, reset: bool = False) -> Step:
        motion = state.limb.motion
        error, distance = self._error(motion.q, state.goal), self._distance(motion.q, state.goal)
        goal = closeness(distance, self.width)
        groups = {"angle": motion.q, "speed": motion.qd / SPEED_UNIT}
        if self.point is None:
            groups["error"] = error
        else:
            groups |= {"position": (state.goal - error) / POSITION_UNIT, "error": error / POSITION_UNIT}
        observation = observe(groups | self.actuation.observed(effect, out))
        zero = jnp.zeros_like(goal)
        info = {
            "time": state.step.astype(motion.q.dtype) * self.dt,
            "success": state.held >= self.hold_steps,
            "distance": distance,
            "reward_goal": zero if reset else goal,
            "reward_effort": effect.cost,
            "person": state.limb.person,
            "q": motion.q,
            "qd": motion.qd,
            "target" if self.point is None else "goal": state.goal,
        }
        info |= out.info()
        reward = zero if reset else goal + effect.cost
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


@builds("ElbowReach")
def make_elbow_reach(
    person: PersonOptions = PersonOptions(),
    sources: SourceOptions = SourceOptions(synergies="action"),
    posture: HangingArm = HangingArm(),
    episode: EpisodeOptions = EpisodeOptions(seconds=2.0),
    muscles: MuscleOptions = MuscleOptions(),
    time: TimeOptions = TimeOptions(),
) -> Reach:
    """Bring the elbow to an angle and hold it."""
    limb = load_limb(person, ["r_elbow_flex"], held=posture.held(), sources=sources, actions=muscles, time=time)
    ranges = {"r_elbow_flex": (15.0, 110.0)}
    return _make(limb, muscles, episode, ranges, width=math.radians(10), tolerance=math.radians(5))


@builds("ArmReach")
def make_arm_reach(
    person: PersonOptions = PersonOptions(),
    sources: SourceOptions = SourceOptions(synergies="action"),
    episode: EpisodeOptions = EpisodeOptions(seconds=2.0),
    muscles: MuscleOptions = MuscleOptions(),
    time: TimeOptions = TimeOptions(),
) -> Reach:
    """Bring the wrist to a place and hold it there."""
    ranges = {"r_shoulder_elev": (-20.0, 60.0), "r_elbow_flex": (20.0, 110.0)}
    limb = load_limb(person, list(ranges), sources=sources, actions=muscles, time=time)
    return _make(limb, muscles, episode, ranges, width=0.06, tolerance=0.03, point=WRIST)


def _make(
    limb: Limb,
    muscles: MuscleOptions,
    episode: EpisodeOptions,
    degrees: Mapping[str, tuple[float, float]],
    *,
    width: float,
    tolerance: float,
    point: Any = None,
) -> Reach:
    """The task, with NumPy float64 leaves; starts and goals of each coordinate lie between two angles."""
    if limb.recorded:
        raise InputError(
            f"sources asks for recorded channels ({listed(limb.recorded)}), but this task replays no recording; use "
            "'policy', 'passive' or 'synergy'"
        )
    low, high = np.radians([degrees[c] for c in limb.coordinates]).T
    leaves: Any = (low, high, width, tolerance)
    return as_numpy(
        Reach(
            limb,
            muscles_of(limb, muscles, 0.5 * (low + high)),
            *leaves,
            point=point,
            horizon=steps_of(episode.seconds, limb.control_dt),
            hold_steps=steps_of(HOLD, limb.control_dt),
        )
    )
