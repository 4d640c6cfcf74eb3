"""A task as a brax environment, for brax's trainers (PPO, SAC, APG); the one file that imports brax.

    from brax.training.agents.ppo import train as ppo
    act_of, params, metrics = train(ppo.train, BraxEnv("ElbowReach-v0"), num_timesteps=1_000_000, num_envs=256)

``train`` calls a trainer with what every one needs of an environment here. brax's own wrappers start every episode of
an environment from the same first state; ``wrap_for_training`` draws a new one, so that goals, trials and people vary.
brax's ``GymWrapper`` is for the retired ``gym``: use ``NmsEnv`` instead.

Importing this module changes nothing outside of it. brax 0.14 calls a function that JAX 0.10 has no more:
``brax_trainers()`` lends it to JAX while a trainer runs.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import replace
from nms_gym.envs import make_task
from nms_gym.envs.adapter import checked_precision
from nms_gym.envs.task import Step, Task, as_dtype
from nms_gym.errors import InputError
from nms_gym.files.policy import Shape, Weights

try:
    from brax.envs.base import Env, State, Wrapper  # noqa: TID251
    from brax.envs.wrappers import training  # noqa: TID251
except ImportError as missing:
    raise InputError(f'brax cannot be imported ({missing}); install it with: pip install "nms-gym[brax]"') from missing


def _device_put_replicated(tree: Any, devices: Any) -> Any:
    """Every leaf once per device, along a new first axis: what JAX's function of that name did until 0.9."""
    # The name that brax's trainers give the axis: with another one they would be compiled a second time.
    mesh = jax.sharding.Mesh(np.array(devices), ("i",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("i"))

    def put(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        return jax.device_put(jnp.broadcast_to(leaf, (len(devices), *leaf.shape)), sharding)

    return jax.tree.map(put, tree)


@contextlib.contextmanager
def brax_trainers() -> Iterator[None]:
    """A context in which brax's trainers run, whatever the version of JAX; afterwards JAX is as before.

    brax 0.14.2 calls ``jax.device_put_replicated``, which JAX 0.10 has no more (google/brax#671). Where it is missing,
    the module ``jax`` has it inside. Contexts may be nested, but not overlap in several threads.
    """
    with warnings.catch_warnings():
        # Before it was removed, looking for it warned.
        warnings.simplefilter("ignore", DeprecationWarning)
        missing = not hasattr(jax, "device_put_replicated")
    if missing:
        jax.device_put_replicated = _device_put_replicated  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if missing:
            del jax.device_put_replicated  # type: ignore[attr-defined]


def train(trainer: Callable[..., Any], env: BraxEnv, **options: Any) -> Any:
    """Run one of brax's trainers on a task.

    Args:
        trainer: ``brax.training.agents.<name>.train.train``, for example of ppo, sac or apg.
        env: what to train on.
        options: of the trainer; ``episode_length`` and ``wrap_env_fn`` are those of the task unless given.

    Returns:
        What the trainer returns: for brax's own (function from params to a policy, params, metrics).
    """
    with brax_trainers():
        return trainer(env, **{"episode_length": env.episode_length, "wrap_env_fn": wrap_for_training, **options})


class BraxEnv(Env):
    """A task with brax's interface.

    Actions are in [-1, 1], as brax's policies give them: -1 is the task's lowest action and 1 its highest, whatever
    the task's own box; values beyond are clipped. ``State.metrics`` has the numbers of the task's info, as floats;
    ``State.info`` has ``truncation`` and ``time_out``, 1.0 where time is up. brax's evaluation sums metrics over an
    episode: divide ``eval/episode_success`` by the episode's steps.

    ``sys`` is the task, so that a ``randomization_fn`` of brax may batch its leaves.
    """

    def __init__(self, task: Any = "MomentTracking-v0", precision: str = "float32", **options: Any) -> None:
        """Prepare a task.

        Args:
            task: what ``nms_gym.envs.make_task`` takes: the name of an id, a task, or a function that builds one.
            precision: "float32" or "float64". JAX decides what arrays a compiled function may take: with "float64"
                call it inside ``jax.enable_x64(True)``.
            options: of the function that builds the task: see ``nms_gym.envs.builder(task)``.

        Raises:
            InputError: a file, name or option cannot be used, or the task lacks something.
        """
        self._dtype = checked_precision(precision)
        self._x64 = precision == "float64"
        made = make_task(task, **options)
        self._lowest, self._highest = (np.asarray(bound, self._dtype) for bound in made.action_bounds)
        self._size = len(made.observation_bounds[0])
        with jax.enable_x64(self._x64):
            self.sys = as_dtype(made, self._dtype)

    @property
    def task(self) -> Task:
        """The pure task."""
        return self.sys

    def reset(self, rng: Array) -> State:
        """Start an episode.

        Args:
            rng: ``jax.random.key(seed)`` or ``jax.random.PRNGKey(seed)``; the same seed gives the same episode as
                ``task.reset`` and the other adapters, which draw theirs from ``reset(seed=...)``.
        """
        with jax.enable_x64(self._x64):
            state, out = self.sys.reset(typed_key(rng))
            return State(state, out.observation, jnp.asarray(out.reward, self._dtype), *self._done(out))

    def step(self, state: State, action: Array) -> State:
        """One control step; keeps what wrappers have added to info and metrics."""
        with jax.enable_x64(self._x64):
            share = 0.5 * (jnp.clip(jnp.asarray(action, self._dtype), -1.0, 1.0) + 1.0)
            asked = jnp.asarray(self._lowest) + share * (self._highest - self._lowest)
            inner, out = self.sys.step(state.pipeline_state, asked)
            done, metrics, info = self._done(out)
            reward = jnp.asarray(out.reward, self._dtype)
            return State(inner, out.observation, reward, done, state.metrics | metrics, state.info | info)

    def _done(self, out: Step) -> tuple[Array, dict[str, Array], dict[str, Array]]:
        """Whether the episode is over, metrics and info."""
        dtype = self._dtype
        terminated, truncated = jnp.asarray(out.terminated, bool), jnp.asarray(out.truncated, bool)
        time_out = (truncated & ~terminated).astype(dtype)
        metrics = {key: jnp.asarray(value, dtype) for key, value in out.info.items() if jnp.ndim(value) == 0}
        return (terminated | truncated).astype(dtype), metrics, {"truncation": time_out, "time_out": time_out}

    @property
    def episode_length(self) -> int:
        """Steps of the longest episode, for the trainers' argument of that name."""
        return self.sys.horizon

    @property
    def observation_size(self) -> int:
        """Entries of an observation."""
        return self._size

    @property
    def action_size(self) -> int:
        """Entries of an action."""
        return self._lowest.size

    @property
    def backend(self) -> str:
        """Whose physics."""
        return "nms_gym"

    @property
    def dt(self) -> float:
        """Seconds per step."""
        return self.sys.dt


class ResampleWrapper(Wrapper):
    """Starts a new episode, drawn with a new key, in every environment that is done.

    It takes the place of brax's ``AutoResetWrapper`` around batched environments and does the rest as that does: the
    observation that comes with ``done`` is the new episode's first, reward and info are the old one's.
    """

    def reset(self, rng: Array) -> State:
        """Start all; ``rng`` has one key per environment."""
        # brax's wrappers take the shape of a batch from keys in the old format.
        rng = jax.random.key_data(typed_key(rng))
        state = self.env.reset(rng)
        return replace(state, info=state.info | {"reset_key": rng})

    def step(self, state: State, action: Array) -> State:
        """Step all, then start those that are done."""
        info = dict(state.info)
        if "steps" in info:
            info["steps"] = jnp.where(state.done > 0, 0.0, info["steps"]).astype(info["steps"].dtype)
        state = self.env.step(replace(state, done=jnp.zeros_like(state.done), info=info), action)
        # The episode wrapper thinks that an environment that ends in time by itself has failed.
        truncation = state.info["truncation"]
        if "time_out" in state.info:
            truncation = jnp.maximum(truncation, state.info["time_out"]).astype(truncation.dtype)
        state = replace(state, info=state.info | {"truncation": truncation})
        # Outside of vmap this is a branch, so that steps without an end do not pay for a reset.
        return jax.lax.cond(jnp.any(state.done > 0), self._restart, lambda state: state, state)

    def _restart(self, state: State) -> State:
        keys = state.info["reset_key"]
        following = jax.random.key_data(jax.vmap(lambda key: jax.random.split(key)[1])(typed_key(keys)))
        over = state.done > 0

        def new_where_over(new: Array, old: Array) -> Array:
            return jnp.where(over.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        fresh = self.env.reset(following)
        was = (state.pipeline_state, state.obs, keys)
        pipeline, obs, keys = jax.tree.map(new_where_over, (fresh.pipeline_state, fresh.obs, following), was)
        return replace(state, pipeline_state=pipeline, obs=obs, info=state.info | {"reset_key": keys})


def wrap_for_training(
    env: Env,
    episode_length: int = 1000,
    action_repeat: int = 1,
    randomization_fn: Callable[[Any], tuple[Any, Any]] | None = None,
) -> Wrapper:
    """What brax's trainers take as ``wrap_env_fn``: batches, ends and restarts episodes.

    Args:
        env: a ``BraxEnv``, or any environment of brax.
        episode_length: steps after which an episode ends at the latest.
        action_repeat: steps per action; ``frame_skip`` of the task is the better choice.
        randomization_fn: task -> (task with batched leaves, axes), see brax.
    """
    batched = (
        training.VmapWrapper(env)
        if randomization_fn is None
        else training.DomainRandomizationVmapWrapper(env, randomization_fn)
    )
    return ResampleWrapper(training.EpisodeWrapper(batched, episode_length, action_repeat))


def typed_key(key: Array) -> Array:
    """A key, or a batch of keys, in JAX's new format; brax hands on ``(..., 2)`` uint32 of the old one."""
    key = jnp.asarray(key)
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)


# --- policies that others can use ---------------------------------------------

PPO_DEFAULTS: dict[str, Any] = {
    "num_envs": 256, "unroll_length": 10, "batch_size": 64, "num_minibatches": 16, "num_updates_per_batch": 8,
    "learning_rate": 1e-3, "entropy_cost": 1e-3, "discounting": 0.97,
}  # fmt: skip
SAC_DEFAULTS: dict[str, Any] = {
    "num_envs": 64, "batch_size": 256, "grad_updates_per_step": 16, "learning_rate": 1e-3, "discounting": 0.97,
    "min_replay_size": 4096, "max_replay_size": 262144,
}  # fmt: skip
HIDDEN = (64, 64)


class _Ended(Exception):
    """Thrown through brax's trainer, which knows no other way to end early."""


def learn(
    algorithm: str,
    task: Any,
    steps: int,
    seed: int,
    points: int,
    settings: Mapping[str, Any],
    shaped: Callable[[Shape], None],
    note: Callable[[int, Weights, Mapping[str, float]], bool],
) -> None:
    """Train by brax's PPO or SAC with networks that a ``nms_gym.files.policy.Policy`` can hold.

    Args:
        algorithm: "ppo" or "sac".
        task: what ``BraxEnv`` takes.
        steps: of the environments together.
        seed: of the trainer.
        points: how often ``note`` is called, beside once at the beginning; with "sac" it is called at the end only.
        settings: other arguments of the trainer.
        shaped: called once with what the weights mean.
        note: called with steps, policy and brax's own numbers; False ends the training.
    """
    from brax.training.agents.ppo import networks as ppo_networks  # noqa: TID251
    from brax.training.agents.ppo import train as ppo  # noqa: TID251
    from brax.training.agents.sac import networks as sac_networks  # noqa: TID251
    from brax.training.agents.sac import train as sac  # noqa: TID251

    env = BraxEnv(task)
    trainer, defaults, make, sizes, activation = {
        "ppo": (ppo.train, PPO_DEFAULTS, ppo_networks.make_ppo_networks,
                {"policy_hidden_layer_sizes": HIDDEN, "value_hidden_layer_sizes": HIDDEN}, "swish"),
        "sac": (sac.train, SAC_DEFAULTS, sac_networks.make_sac_networks, {"hidden_layer_sizes": HIDDEN}, "relu"),
    }[algorithm]  # fmt: skip
    shaped(Shape(activation, "tanh"))

    def after(step: int, _: Any, params: Any) -> None:
        if not note(int(step), weights_of(params[0], params[1], env.action_size), {}):
            raise _Ended

    options: dict[str, Any] = {"normalize_observations": True}
    if algorithm == "ppo":
        options |= {"num_evals": points + 1, "run_evals": False, "policy_params_fn": after}
    given = {**defaults, **options, "network_factory": functools.partial(make, **sizes), **settings}
    with contextlib.suppress(_Ended):
        _, params, _ = train(trainer, env, num_timesteps=steps, seed=seed, **given)
        # brax's SAC shows nobody its policy before the end.
        if algorithm == "sac":
            after(steps, None, params)


def weights_of(normalizer: Any, policy: Any, actions: int) -> Weights:
    """A brax policy's numbers: its normaliser, and its network without the standard deviations of its noise."""
    layers = policy["params"]
    names = sorted(layers, key=lambda name: int(name.split("_")[-1]))
    found = [(np.asarray(layers[n]["kernel"]), np.asarray(layers[n]["bias"])) for n in names]
    weights, bias = found[-1]
    return Weights(
        np.asarray(normalizer.mean), np.asarray(normalizer.std), (*found[:-1], (weights[:, :actions], bias[:actions]))
    )
