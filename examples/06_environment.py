"""An environment in Gymnasium: who drives the muscles, what simple policies reach, and many episodes at once.

    python examples/06_environment.py [--out FOLDER] [--id ElbowAssist-v0]

A motor at the elbow helps a person whose own EMG, impaired, drives the muscles. ``nms-gym environments`` writes a page
for every id; ``nms-gym train`` learns a policy.
"""

import argparse
from pathlib import Path

import gymnasium
import numpy as np
from matplotlib.figure import Figure

import nms_gym  # its environments are known to Gymnasium from here on


def play(env: gymnasium.Env, policy) -> tuple[float, bool]:
    """Return and success of one episode."""
    observation, info = env.reset(seed=0)
    total, over = 0.0, False
    while not over:
        observation, reward, terminated, truncated, info = env.step(policy(observation))
        total, over = total + float(reward), terminated or truncated
    return total, info["success"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for episode.png")
    parser.add_argument("--id", default="ElbowAssist-v0", choices=list(nms_gym.TASKS))
    given = parser.parse_args()

    env = gymnasium.make(f"nms_gym/{given.id}", render_mode="rgb_array")
    _, info = env.reset(seed=0)
    for muscle, source in info["drive"].items():
        print(f"{muscle:12s} driven by {source}")
    shell = env.unwrapped
    print(f"{len(shell.observation_names)} observations, first {', '.join(shell.observation_names[:5])}")
    print(f"action: {', '.join(shell.action_names)} from {env.action_space.low} to {env.action_space.high}")

    env.action_space.seed(0)
    policies = {
        "nothing": lambda _: np.zeros(env.action_space.shape, np.float32),
        "random": lambda _: env.action_space.sample(),
        "scripted": lambda observation: np.asarray(shell.task.baseline(observation)),
    }
    for name, policy in policies.items():
        total, success = play(env, policy)
        print(f"{name:9s} return {total:8.1f}, {'success' if success else 'no success'}")
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        figure = Figure(figsize=(8, 6), layout="constrained")
        axis = figure.subplots()
        axis.imshow(env.render()), axis.axis("off")
        figure.savefig(given.out / "episode.png", dpi=120)
    env.close()

    # Many episodes in one compiled call; each starts anew by itself when it is over.
    envs = gymnasium.make_vec(f"nms_gym/{given.id}", num_envs=64, vectorization_mode="vector_entry_point")
    envs.reset(seed=0)
    total = sum(envs.step(np.zeros(envs.action_space.shape, np.float32))[1] for _ in range(50))
    print(f"64 episodes, 50 steps of nothing: reward {total.mean():.1f} +- {total.std():.1f}")
    envs.close()


if __name__ == "__main__":
    main()
