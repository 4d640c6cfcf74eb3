"""A task small enough to be understood and trained in seconds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from nms_gym.envs.task import Step, pytree, static


@pytree
class Push:
    """A unit mass on a line with friction; the action pushes it either way, to where it should be."""

    mass: float = 1.0
    horizon: int = static(default=40)
    dt: float = static(default=0.05)
    action_names = ("torque:push",)
    action_units = "torque, N·m"
    observation_names = ("position:mass", "speed:mass", "target:mass")
    action_bounds = (np.full(1, -1, np.float32), np.full(1, 1, np.float32))
    observation_bounds = (np.full(3, -10, np.float32), np.full(3, 10, np.float32))

    def reset(self, key):
        target = jax.random.uniform(key, (), jnp.float32, -0.5, 0.5)
        state = {"x": jnp.float32(0), "v": jnp.float32(0), "target": target, "k": jnp.int32(0)}
        return state, self._out(state, jnp.float32(0))

    def step(self, state, action):
        v = state["v"] + self.dt * (6 * action[0] - 2 * state["v"]) / self.mass
        state = {**state, "x": state["x"] + self.dt * v, "v": v, "k": state["k"] + 1}
        return state, self._out(state, 1.0 - 4 * (state["x"] - state["target"]) ** 2)

    def _out(self, state, reward):
        return Step(
            observation=jnp.stack([state["x"], state["v"], state["target"]]),
            reward=reward,
            terminated=jnp.bool_(False),
            truncated=state["k"] >= self.horizon,
            info={"success": jnp.abs(state["x"] - state["target"]) < 0.08},
        )


def make_push(mass: float = 1.0) -> Push:
    """With another mass."""
    return Push(mass=mass)
