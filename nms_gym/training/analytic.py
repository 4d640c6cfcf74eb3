"""Analytic policy gradient: Adam on the derivative of the return through muscles, skeleton and reward.

Short-horizon actor-critic (Xu et al. 2022, ICLR, arXiv:2204.07137): many episodes go on side by side; each improvement
plays a window of a few dozen steps of all of them, differentiates the window's rewards plus what a learned value says
of its end, and fits the value to TD(lambda) targets of the window. Short windows keep gradients of long episodes from
exploding, and the value sees past their end. Departures: the policy's noise is given and fades out instead of being
learned, the value is in units of a reward per step, and episodes start at different phases, so that a window sees all
of them. With a window as long as the episode it is the plain gradient of the return.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from nms_gym._compilation import fast_compilation
from nms_gym._pytree import pytree, replace
from nms_gym.envs.task import Task, describe
from nms_gym.errors import InputError
from nms_gym.files.policy import MOST_SEEN, Layers, Shape, Weights, in_box, normalised, perceptron, squashed

SHAPE = Shape("tanh", "tanh")
SIGNED = "torque:"
"""how the names of actions begin that push both ways"""


@dataclass(frozen=True)
class AnalyticSettings:
    """Of the analytic policy gradient.

    Raises:
        InputError: a number out of its range.
    """

    episodes: int = 64
    """played side by side"""
    window: int = 32
    """most steps that are differentiated at once"""
    hidden: tuple[int, ...] = (64, 64)
    """units of the hidden layers, of policy and value each"""
    learning_rate: float = 3e-3
    """of the policy; falls to 0 over the training along a cosine"""
    value_learning_rate: float = 2e-3
    discount: float = 0.97
    """per step"""
    trace: float = 0.95
    """lambda of the value's targets"""
    value_epochs: int = 16
    """times that the value is fitted to a window's targets"""
    noise: float = 0.3
    """standard deviation of the policy's noise before the squash, at the beginning; falls to 0 along the training"""
    largest_gradient: float = 1.0
    """norm to which the policy's gradient is clipped"""
    first_action: float = -0.5
    """before the squash, of excitations and stimulations: a little, so that they have an effect, and a gradient, from
    the first step; torques begin at 0"""

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "episodes": (1, 1e6), "window": (1, 1e5), "learning_rate": (0, 1), "value_learning_rate": (0, 1),
            "discount": (0, 0.9999), "trace": (0, 1), "value_epochs": (0, 100), "noise": (0, 3),
            "largest_gradient": (1e-6, 1e6), "first_action": (-3, 3),
        }  # fmt: skip
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise InputError(f"{name} is {value!r}; use a number from {low:g} to {high:g}")
        for name in ("episodes", "window", "value_epochs"):
            if not isinstance(getattr(self, name), int):
                raise InputError(f"{name} is {getattr(self, name)!r}; use a whole number")
        layers = self.hidden if isinstance(self.hidden, tuple) else ()
        if not layers or not all(isinstance(n, int) and 1 <= n <= 4096 for n in layers):
            raise InputError(f"hidden is {self.hidden!r}; give the units of at least one layer, such as (64, 64)")


@pytree
class Learning:
    """Everything that goes on from one improvement to the next: what a checkpoint holds."""

    actor: Layers
    critic: Layers
    actor_memory: Any
    critic_memory: Any
    count: Array
    """observations that mean and spread are of"""
    mean: Array
    """(O,)"""
    squares: Array
    """(O,) sum of squared distances from the mean"""
    worlds: Any
    """state of every episode (N, ...)"""
    observation: Array
    """(N, O)"""
    windows_left: Array
    """(N,) of every episode before the next one starts"""
    over: Array
    """(N,) whether it has ended before"""
    key: Array
    """(2,) uint32 of the random numbers to come"""
    iteration: Array


@dataclass(frozen=True)
class Analytic:
    """A trainer for one kind of task: ``begin`` a learning, ``improve`` it, take its ``weights``. Sizes only; the task
    itself is an argument, so that one compiled program serves all people."""

    settings: AnalyticSettings
    iterations: int
    """in all: learning rate and noise fall over them"""
    horizon: int
    """steps of an episode"""
    low: tuple[float, ...]
    """(A,) lowest action"""
    high: tuple[float, ...]

    @property
    def windows(self) -> int:
        """Of an episode."""
        return math.ceil(self.horizon / self.settings.window)

    @property
    def steps(self) -> int:
        """Of a window."""
        return math.ceil(self.horizon / self.windows)

    @property
    def steps_per_iteration(self) -> int:
        """Of all episodes together."""
        return self.settings.episodes * self.steps

    @functools.cached_property
    def _optimizers(self) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
        s = self.settings
        schedule = optax.cosine_decay_schedule(s.learning_rate, max(self.iterations, 1))
        actor = optax.chain(optax.clip_by_global_norm(s.largest_gradient), optax.adam(schedule))
        return actor, optax.adam(s.value_learning_rate)

    def begin(self, task: Task, seed: int) -> Learning:
        """A learning that has learned nothing."""
        s = self.settings
        names = describe(task).action_names
        first_action = np.array([0.0 if n.startswith(SIGNED) else s.first_action for n in names], np.float32)
        observations = len(task.observation_bounds[0])
        init, key = jax.random.split(jax.random.key(seed))
        actor_key, critic_key = jax.random.split(init)
        actor = make_layers(actor_key, (observations, *s.hidden, len(names)), last=0.1)
        actor = (*actor[:-1], (actor[-1][0], jnp.asarray(first_action)))
        critic = make_layers(critic_key, (observations, *s.hidden, 1), last=0.1)
        actor_optimizer, critic_optimizer = self._optimizers
        keys = jax.random.split(key, s.episodes + 1)
        reset = jax.jit(lambda task, keys: jax.vmap(task.reset)(keys), compiler_options=fast_compilation())
        worlds, first = reset(task, keys[1:])
        phases = np.arange(s.episodes) % self.windows
        return Learning(
            actor=actor,
            critic=critic,
            actor_memory=actor_optimizer.init(actor),
            critic_memory=critic_optimizer.init(critic),
            # As if as many had been seen with a spread of 1: episodes may all begin alike.
            count=jnp.float32(s.episodes),
            mean=jnp.zeros(observations, jnp.float32),
            squares=jnp.full(observations, s.episodes, jnp.float32),
            worlds=worlds,
            observation=first.observation,
            windows_left=jnp.asarray(self.windows - phases, jnp.int32),
            over=jnp.zeros(s.episodes, bool),
            key=jax.random.key_data(keys[0]),
            iteration=jnp.int32(0),
        )

    def weights(self, learning: Learning) -> Weights:
        """The policy so far."""
        return Weights(learning.mean, _sd(learning.count, learning.squares), learning.actor)

    def improve(self, task: Task, learning: Learning) -> tuple[Learning, dict[str, Array]]:
        """Play a window, improve policy and value; and numbers on how it went. Traced."""
        s, n = self.settings, self.settings.episodes
        low, high = (jnp.asarray(bound, jnp.float32) for bound in (self.low, self.high))
        noise_key, reset_key, next_key = jax.random.split(jax.random.wrap_key_data(learning.key), 3)
        left = 1.0 - learning.iteration / self.iterations
        noise = s.noise * left * jax.random.normal(noise_key, (self.steps, n, len(low)), jnp.float32)

        # Whose time is up starts anew.
        fresh = learning.windows_left == 0
        began, first = jax.vmap(task.reset)(jax.random.split(reset_key, n))

        def anew(new: Array, old: Array) -> Array:
            return jnp.where(fresh.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        worlds, observation, over = jax.tree.map(
            anew,
            (began, first.observation, jnp.zeros(n, bool)),
            (learning.worlds, learning.observation, learning.over),
        )
        count, mean, squares = _seen(learning, observation)
        sd = _sd(count, squares)

        def play(actor: Layers) -> tuple[Array, Any]:
            @functools.partial(jax.checkpoint, prevent_cse=False)
            def advance(carry: Any, noise: Array) -> tuple[Any, Any]:
                worlds, observation, over = carry
                answer = squashed(
                    perceptron(actor, normalised(observation, mean, sd), SHAPE.activation) + noise, "tanh"
                )
                worlds, out = jax.vmap(task.step)(worlds, in_box(answer, low, high))
                reward = jnp.where(over, 0.0, out.reward)
                ended = over | out.terminated | out.truncated
                kept = (observation, out.observation, reward, over, out.terminated, ended)
                return (worlds, out.observation, ended), kept

            (world, last, ended), kept = jax.lax.scan(advance, (worlds, observation, over), noise)
            _, _, reward, was_over, terminated, _ = kept
            discounts = s.discount ** jnp.arange(self.steps, dtype=jnp.float32)
            objective = discounts @ reward
            if self.windows > 1:
                # What comes after the window is worth what the value says, unless the task itself has ended, or time
                # was up before: time that is up with the window says nothing of what would have come.
                after = s.discount**self.steps * self._value(learning.critic, last, mean, sd)
                dead = was_over[-1] | jnp.any(terminated & ~was_over, axis=0)
                objective = objective + jnp.where(dead, 0.0, after)
            return -jnp.mean(objective) / self.steps, (world, last, ended, kept)

        (loss, (world, last, ended, kept)), gradient = jax.value_and_grad(play, has_aux=True)(learning.actor)
        norm = optax.global_norm(gradient)
        fine = jnp.isfinite(norm) & jnp.isfinite(loss)
        actor_optimizer, _ = self._optimizers
        updates, memory = actor_optimizer.update(
            jax.tree.map(lambda g: jnp.where(fine, g, 0.0), gradient), learning.actor_memory, learning.actor
        )
        actor = optax.apply_updates(learning.actor, updates)
        critic, critic_memory, miss = self._fit_value(learning, kept, mean, sd)
        rewards, was_over = kept[2], kept[3]
        played = jnp.maximum(jnp.sum(~was_over), 1)
        # A state that has become infinite ends its episode.
        broken = ~jnp.isfinite(last).all(axis=1)
        left_over = jnp.where(fresh, self.windows, learning.windows_left) - 1
        return replace(
            learning,
            actor=actor,
            critic=critic,
            actor_memory=memory,
            critic_memory=critic_memory,
            count=count,
            mean=mean,
            squares=squares,
            worlds=world,
            observation=jnp.where(broken[:, None], 0.0, last),
            windows_left=jnp.where(broken, 0, left_over),
            over=ended | broken,
            key=jax.random.key_data(next_key),
            iteration=learning.iteration + 1,
        ), {
            "reward": jnp.sum(rewards) / played,
            "gradient_norm": norm,
            "value_error": miss,
            "skipped": (~fine).astype(jnp.float32),
        }

    def _value(self, critic: Layers, observation: Array, mean: Array, sd: Array) -> Array:
        """Discounted sum of the rewards to come ``(...)``; the network gives rewards per step."""
        rate = perceptron(critic, normalised(observation, mean, sd), SHAPE.activation)[..., 0]
        return rate / (1 - self.settings.discount)

    def _fit_value(self, learning: Learning, kept: Any, mean: Array, sd: Array) -> tuple[Layers, Any, Array]:
        """The value after some steps towards TD(lambda) targets of the window, and its relative error before."""
        s = self.settings
        before, after, reward, was_over, terminated, ended = jax.lax.stop_gradient(kept)
        following = jnp.where(terminated, 0.0, self._value(learning.critic, after, mean, sd))

        def back(target: Array, at: Any) -> tuple[Array, Array]:
            reward, following, ended = at
            # Past a window's or an episode's end only the value knows.
            ahead = jnp.where(ended, following, (1 - s.trace) * following + s.trace * target)
            target = reward + s.discount * ahead
            return target, target

        _, targets = jax.lax.scan(back, following[-1], (reward, following, ended), reverse=True)
        unit = 1 - s.discount
        counted = (~was_over & jnp.isfinite(targets)).astype(jnp.float32)
        targets = jnp.where(counted > 0, targets, 0.0)

        def miss(critic: Layers) -> Array:
            error = jnp.where(counted > 0, unit * (self._value(critic, before, mean, sd) - targets), 0.0)
            return jnp.sum(counted * error**2) / jnp.maximum(jnp.sum(counted), 1.0)

        def step(carry: Any, _: None) -> tuple[Any, Array]:
            critic, memory = carry
            value, gradient = jax.value_and_grad(miss)(critic)
            updates, memory = self._optimizers[1].update(gradient, memory, critic)
            return (optax.apply_updates(critic, updates), memory), value

        begin = (learning.critic, learning.critic_memory)
        if not s.value_epochs:
            return *begin, miss(learning.critic)
        (critic, memory), values = jax.lax.scan(step, begin, None, length=s.value_epochs)
        return critic, memory, values[0]


def make_layers(key: Array, sizes: tuple[int, ...], last: float) -> Layers:
    """Layers of random weights, of variance one over the inputs (LeCun), the last one's times ``last``."""
    keys = jax.random.split(key, len(sizes) - 1)
    layers = [
        (jax.random.normal(k, (i, o), jnp.float32) / math.sqrt(i), jnp.zeros(o, jnp.float32))
        for k, i, o in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]
    weights, bias = layers[-1]
    return (*layers[:-1], (last * weights, bias))


def _seen(learning: Learning, observation: Array) -> tuple[Array, Array, Array]:
    """Count, mean and squares with these observations ``(N, O)`` counted in (Chan, Golub & LeVeque 1983)."""
    fresh = jnp.float32(len(observation))
    mean = jnp.mean(observation, axis=0)
    total = learning.count + fresh
    away = mean - learning.mean
    squares = learning.squares + fresh * jnp.var(observation, axis=0)
    return (
        total,
        learning.mean + away * fresh / total,
        squares + away**2 * learning.count * fresh / total,
    )


def _sd(count: Array, squares: Array) -> Array:
    # What never changes in training is not blown up when it does later.
    return jnp.maximum(jnp.sqrt(squares / count), 1.0 / (10.0 * MOST_SEEN))
