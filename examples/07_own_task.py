"""A task of one's own in one file: pull with a given moment at an elbow that is held still (an isometric contraction).

``nms_gym.envs.task.Task`` says what a task must have; names, pictures and a scripted policy may be left out.
"""

import importlib.util

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

import nms_gym.envs.task as nms
from nms_gym.envs import register_task
from nms_gym.files.subject import default_subject
from nms_gym.model.forward import Kinematics, excited_step, initial_state, kinematics_at
from nms_gym.model.parameters import NmsParams
from nms_gym.model.structure import NmsModel


@nms.pytree
class Pull:
    model: NmsModel
    params: NmsParams
    held: Kinematics  # in the pose that is held
    strongest: jax.Array  # N·m, of the targets
    dt: float = nms.static(default=0.01)  # s per step
    horizon: int = nms.static(default=100)  # steps per episode

    @property
    def action_bounds(self):  # an excitation for every muscle
        return np.zeros(len(self.model.muscles)), np.ones(len(self.model.muscles))

    @property
    def observation_bounds(self):  # these groups have bounds of their own, to which ``observe`` clips
        return nms.bounds_of(["moment", "target"] + ["activation"] * len(self.model.muscles))

    def reset(self, key):
        silence = jnp.zeros((3, len(self.model.channels)), self.strongest.dtype)  # newest sample first
        muscles = initial_state(self.model, self.params, silence, self.held.lengths, self.dt)
        target, zero = nms.uniform(key, -self.strongest, self.strongest), jnp.zeros_like(self.strongest)
        return self.returned((muscles, target, jnp.int32(0)), zero, muscles.filtered, zero)

    def step(self, state, action):
        muscles, target, count = state
        muscles, out = excited_step(self.model, self.params, muscles, action, self.held, self.dt)
        moment = out.moments[self.model.coordinates.index("r_elbow_flex")]
        reward = nms.closeness(moment - target, 0.1 * self.strongest) - 0.1 * jnp.mean(action**2)
        return self.returned((muscles, target, count + 1), moment, out.activation, reward)

    def returned(self, state, moment, activation, reward):
        _, target, count = state
        groups = {"moment": moment / self.strongest, "target": target / self.strongest, "activation": activation}
        info = {"moment": moment, "success": jnp.abs(moment - target) < 0.1 * self.strongest}
        return state, nms.Step(nms.observe(groups), reward, jnp.bool_(False), count >= self.horizon, info)


def make_pull(degrees: float = 60.0, strongest: float = 10.0) -> Pull:
    person = default_subject()
    pose = np.array([np.radians(degrees) if c == "r_elbow_flex" else 0.0 for c in person.model.coordinates])
    model = nms.replace(person.model, settings=nms.replace(person.model.settings, tendon="rigid"))  # compiles sooner
    return Pull(model, person.params, kinematics_at(model, pose, 0.0 * pose), np.asarray(strongest))


register_task("own/Pull-v0", make_pull)

if __name__ == "__main__":
    env, many = gymnasium.make("own/Pull-v0", degrees=90.0), gymnasium.make_vec("own/Pull-v0", 3)
    env.reset(seed=0), many.reset(seed=0)
    print("Gymnasium:", env.step(env.action_space.sample())[1], "and", many.step(many.action_space.sample())[1])
    if importlib.util.find_spec("brax"):
        from nms_gym.envs.brax_env import BraxEnv

        own = BraxEnv(make_pull)
        print("brax:", jax.jit(own.step)(own.reset(jax.random.key(0)), jnp.zeros(own.action_size)).reward)
    task, excitations = nms.as_dtype(make_pull(), jnp.float32), jnp.full((100, 6), 0.1)
    gradient = jax.jit(jax.grad(lambda u: nms.play_actions(task, u)[0].sum()))(excitations)
    print("return per unit of excitation of each muscle:", gradient.sum(axis=0))
