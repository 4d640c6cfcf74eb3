"""Excite the muscles that were not recorded: two simple policies, then gradient ascent through the task itself.

    python examples/moment_tracking.py [--trial TRIAL.npz] [--subject SUBJECT.json] [--iterations 100]

Without arguments it runs on the shipped synthetic demo.
"""

from __future__ import annotations

import argparse

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax

import nms_gym  # noqa: F401  registers the environments
from nms_gym.envs.rendering import play_environment
from nms_gym.envs.task import play_actions


def episode_return(env: gymnasium.Env, policy) -> float:
    return sum(reward for reward, _ in play_environment(env, policy))


def best_actions(task, iterations: int) -> tuple[np.ndarray, list[float]]:
    """Excitations (T, A) found by Adam on their logits, and the returns on the way there."""
    optimizer = optax.adam(0.2)

    @jax.jit
    def improve(logits, state):
        loss, gradient = jax.value_and_grad(lambda x: -play_actions(task, jax.nn.sigmoid(x))[0].sum())(logits)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(logits, updates), state, -loss

    logits = jnp.full((task.horizon, len(task.action_names)), -3.0)
    state, returns = optimizer.init(logits), []
    for _ in range(iterations):
        logits, state, value = improve(logits, state)
        returns.append(float(value))
    return np.asarray(jax.nn.sigmoid(logits)), returns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trial", help="path of a trial, or name of a demo trial")
    parser.add_argument("--subject", help="path of a subject file")
    parser.add_argument("--iterations", type=int, default=100)
    options = parser.parse_args()

    env = gymnasium.make("nms_gym/MomentTracking-v0", trial=options.trial, subject=options.subject)
    shell = env.unwrapped
    for muscle, source in shell.drive.items():
        print(f"{muscle:12s} {source}")
    env.action_space.seed(0)
    policies = {
        "no": lambda _: np.zeros(env.action_space.shape, np.float32),
        "random": lambda _: env.action_space.sample(),
    }
    for name, policy in policies.items():
        print(f"{'return, ' + name + ' excitation:':28s}{episode_return(env, policy):10.2f}")

    actions, returns = best_actions(shell.task, options.iterations)
    print(f"gradient ascent, first/last:{returns[0]:10.2f} {returns[-1]:10.2f}")
    ahead = iter(actions)
    print(f"return, those excitations:  {episode_return(env, lambda _: next(ahead)):10.2f}")
    env.close()


if __name__ == "__main__":
    main()
