"""Stable-Baselines3's PPO on ``NmsVectorEnv``. The library is no dependency: pip install stable-baselines3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nms_gym.errors import InputError
from nms_gym.files.policy import Shape, Weights, in_box

SB3_SHAPE = Shape("tanh", "clip")
ENVIRONMENTS, STEPS_OF_A_ROLLOUT = 64, 32
DEFAULTS = {
    "n_steps": STEPS_OF_A_ROLLOUT, "batch_size": 512, "n_epochs": 4, "learning_rate": 1e-3, "gamma": 0.97,
    "ent_coef": 1e-3, "policy_kwargs": {"net_arch": [64, 64], "log_std_init": -0.5},
}  # fmt: skip


def sb3_vec_env(task: Any, count: int, seed: int | None = None, **options: Any) -> Any:
    """``NmsVectorEnv`` as Stable-Baselines3 wants it: actions in [-1, 1], and a ``terminal_observation``.

    Args:
        task: what ``NmsVectorEnv`` takes.
        count: environments side by side, compiled together.
        seed: of the first reset.
        options: of the task.

    Raises:
        InputError: Stable-Baselines3 is not installed.
    """
    try:
        from gymnasium import spaces
        from stable_baselines3.common.vec_env import VecEnv  # type: ignore[import-not-found]
    except ImportError as missing:
        raise InputError(
            f"stable_baselines3 cannot be imported ({missing}): pip install stable-baselines3"
        ) from missing

    from nms_gym.envs.vector_env import NmsVectorEnv

    class Adapter(VecEnv):
        def __init__(self) -> None:
            self.inner = NmsVectorEnv(count, task, autoreset_mode="SameStep", **options)
            box: Any = self.inner.single_action_space
            self.low, self.high = box.low, box.high
            super().__init__(count, self.inner.single_observation_space, spaces.Box(-1.0, 1.0, box.shape, np.float32))
            self.first_seed = seed

        def reset(self) -> Any:
            observations, _ = self.inner.reset(seed=self.first_seed)
            self.first_seed = None
            return observations

        def step_async(self, actions: Any) -> None:
            self.actions = in_box(np.clip(actions, -1.0, 1.0), self.low, self.high)

        def step_wait(self) -> Any:
            observations, rewards, terminated, truncated, infos = self.inner.step(self.actions)
            done = terminated | truncated
            each: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
            for i in np.flatnonzero(done):
                each[i]["terminal_observation"] = infos["final_obs"][i]
                each[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
                if "success" in infos["final_info"]:
                    each[i]["is_success"] = bool(infos["final_info"]["success"][i])
            return observations, rewards.astype(np.float32), done, each

        def seed(self, seed: int | None = None) -> Any:
            self.first_seed = seed
            return [seed] * self.num_envs

        def close(self) -> None:
            self.inner.close()

        def get_attr(self, attr_name: str, indices: Any = None) -> Any:
            return [getattr(self.inner, attr_name)] * len(list(self._get_indices(indices)))

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            raise AttributeError("environments that are compiled together have no attributes of their own")

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any:
            raise AttributeError("environments that are compiled together have no methods of their own")

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> Any:
            return [False] * len(list(self._get_indices(indices)))

    return Adapter()


def learn(
    task: Any, steps: int, seed: int, points: int, settings: Mapping[str, Any], note: Callable[..., bool]
) -> None:
    """Train, and note the policy ``points + 1`` times; ends when ``note`` says so."""
    environments = sb3_vec_env(task, ENVIRONMENTS, seed)
    import torch  # type: ignore[import-not-found]
    from stable_baselines3 import PPO  # type: ignore[import-not-found]
    from stable_baselines3.common.callbacks import BaseCallback  # type: ignore[import-not-found]
    from stable_baselines3.common.vec_env import VecNormalize  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    env = VecNormalize(environments, norm_reward=False)
    model = PPO("MlpPolicy", env, seed=seed, device="cpu", **{**DEFAULTS, **settings})

    def weights() -> Weights:
        def numbers(layer: Any) -> tuple[np.ndarray, np.ndarray]:
            return layer.weight.detach().numpy().T, layer.bias.detach().numpy()

        hidden = [m for m in model.policy.mlp_extractor.policy_net if hasattr(m, "weight")]
        statistics = env.obs_rms
        return Weights(
            np.asarray(statistics.mean, np.float32),
            np.sqrt(np.asarray(statistics.var, np.float32) + env.epsilon),
            tuple(numbers(layer) for layer in (*hidden, model.policy.action_net)),
        )

    noted = [0]

    class Note(BaseCallback):
        def _on_rollout_start(self) -> None:
            self.go_on = True
            if self.num_timesteps * points >= noted[0] * steps:
                noted[0] += 1
                self.go_on = note(self.num_timesteps, weights(), {})

        def _on_step(self) -> bool:
            return self.go_on

    try:
        model.learn(steps, callback=Note())
        note(model.num_timesteps, weights(), {})
    finally:
        env.close()
