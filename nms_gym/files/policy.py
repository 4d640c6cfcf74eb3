"""A trained policy: what it sees, what it answers, where it comes from; a file that NumPy alone can read and use.

A policy is a multilayer perceptron on normalised observations. What every trainer here learns is one of these, so that
it can be judged, filmed, streamed and exported alike.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nms_gym.errors import InputError, listed
from nms_gym.recording.npz import read_npz
from nms_gym.recording.storage import atomic_path

FORMAT = "nms-gym-policy"
VERSION = 1
ACTIVATIONS = ("tanh", "swish", "relu")
SQUASHES = ("tanh", "clip")
# Normalised observations are clipped here: further away nothing was seen in training.
MOST_SEEN = 10.0

Layers = tuple[tuple[Any, Any], ...]
"""weights ``(inputs, outputs)`` and biases ``(outputs,)`` of every layer"""


class Weights(NamedTuple):
    """The numbers of a policy; a pytree of NumPy or JAX arrays."""

    mean: Any
    """(O,) subtracted from the observation"""
    sd: Any
    """(O,) that the rest is divided by"""
    layers: Layers


class Shape(NamedTuple):
    """What its numbers mean; hashable."""

    activation: str = "tanh"
    """of the hidden layers: tanh, swish or relu"""
    squash: str = "tanh"
    """how the last layer is brought into [-1, 1]: tanh or clip"""


def normalised(observation: Any, mean: Any, sd: Any) -> Any:
    """Observations ``(..., O)`` in standard deviations of training, clipped to ``MOST_SEEN``."""
    mean, sd = (_along(x, observation) for x in (mean, sd))
    return ((observation - mean) / sd).clip(-MOST_SEEN, MOST_SEEN)


def perceptron(layers: Layers, values: Any, activation: str) -> Any:
    """``values (..., I)`` through all layers, the last one linear. NumPy in, NumPy out; JAX in, JAX out."""
    xp = values.__array_namespace__()
    bend = {
        "tanh": xp.tanh,
        "swish": lambda x: x / (1.0 + xp.exp(-x)),
        "relu": lambda x: xp.maximum(x, 0.0),
    }[activation]
    for i, (weights, bias) in enumerate(layers):
        values = values @ weights
        values = values + _along(bias, values)
        values = bend(values) if i < len(layers) - 1 else values
    return values


def squashed(values: Any, squash: str) -> Any:
    """The last layer's values in [-1, 1]."""
    return values.__array_namespace__().tanh(values) if squash == "tanh" else values.clip(-1.0, 1.0)


def in_box(symmetric: Any, low: Any, high: Any) -> Any:
    """Actions between ``low`` and ``high`` from ones in [-1, 1]."""
    low, high = (_along(x, symmetric) for x in (low, high))
    return low + 0.5 * (symmetric + 1.0) * (high - low)


def _along(row: Any, values: Any) -> Any:
    """A row repeated over the leading axes of values: JAX may be told to refuse to do so by itself."""
    return values.__array_namespace__().broadcast_to(row, values.shape)


def answer(weights: Weights, shape: Shape, observation: Any, low: Any, high: Any) -> Any:
    """Action ``(..., A)`` to an observation ``(..., O)``, in NumPy or JAX; deterministic."""
    seen = normalised(observation, weights.mean, weights.sd)
    return in_box(squashed(perceptron(weights.layers, seen, shape.activation), shape.squash), low, high)


@dataclass(frozen=True, eq=False)
class Policy:
    """A policy and what must be known to use it.

    Raises:
        InputError: sizes that do not fit, or numbers that are not finite.
    """

    weights: Weights
    shape: Shape
    task: str
    """id it was trained on, or what the task is called"""
    observation_names: tuple[str, ...]
    action_names: tuple[str, ...]
    action_low: np.ndarray
    """(A,) lowest action"""
    action_high: np.ndarray
    options: Mapping[str, Any] = field(default_factory=dict)
    """of the task"""
    action_units: str = ""
    """what an action of this policy is"""
    subject: Mapping[str, str] = field(default_factory=dict)
    """name and SHA-256 of the person's file; empty for a task without one"""
    training: Mapping[str, Any] = field(default_factory=dict)
    """algorithm, seed, steps, seconds, version of this package"""
    scores: Mapping[str, Any] = field(default_factory=dict)
    """of the policy and of simple ones on the same episodes"""

    def __post_init__(self) -> None:
        sizes = [len(self.observation_names), *(len(np.asarray(b)) for _, b in self.weights.layers)]
        shapes = [np.shape(w) for w, _ in self.weights.layers]
        expected = list(itertools.pairwise(sizes))
        if shapes != expected or sizes[-1] != len(self.action_names):
            raise InputError(
                f"policy of {self.task}: layers of {shapes} for {sizes[0]} observations and "
                f"{len(self.action_names)} actions; expected {expected}"
            )
        for what, array, size in (
            ("mean", self.weights.mean, sizes[0]),
            ("sd", self.weights.sd, sizes[0]),
            ("action_low", self.action_low, sizes[-1]),
            ("action_high", self.action_high, sizes[-1]),
        ):
            if np.shape(array) != (size,):
                raise InputError(f"policy of {self.task}: {what} has shape {np.shape(array)}; expected ({size},)")
        numbers = [self.weights.mean, self.weights.sd, *(x for pair in self.weights.layers for x in pair)]
        if not all(np.isfinite(x).all() for x in numbers) or not (np.asarray(self.weights.sd) > 0).all():
            raise InputError(f"policy of {self.task}: its numbers are not all finite, or a scale is not above 0")
        if self.shape.activation not in ACTIVATIONS or self.shape.squash not in SQUASHES:
            raise InputError(
                f"policy of {self.task}: activation and squash are {tuple(self.shape)}; there are "
                f"{listed(ACTIVATIONS)} and {listed(SQUASHES)}"
            )

    def act(self, observation: Any) -> np.ndarray:
        """Action ``(A,)`` to an observation ``(O,)``, or ``(n, A)`` to ``(n, O)``; float32, NumPy.

        Raises:
            InputError: an observation of another size.
        """
        seen = np.asarray(observation, np.float32)
        if seen.shape[-1:] != (len(self.observation_names),):
            raise InputError(
                f"policy of {self.task}: observation of shape {seen.shape}; expected {len(self.observation_names)} "
                "numbers"
            )
        return np.asarray(answer(self.weights, self.shape, seen, self.action_low, self.action_high), np.float32)

    def require(self, observation_names: Sequence[str], action_names: Sequence[str], where: str) -> None:
        """Refuse a task that shows or takes something else, or in another order.

        Raises:
            InputError: by name, what differs.
        """
        for what, mine, theirs in (
            ("observation", self.observation_names, tuple(observation_names)),
            ("action", self.action_names, tuple(action_names)),
        ):
            if mine == theirs:
                continue
            lacking, extra = [n for n in mine if n not in theirs], [n for n in theirs if n not in mine]
            parts = [
                f"{where} lacks {listed(lacking)}" if lacking else "",
                f"the policy does not know {listed(extra)}" if extra else "",
                "" if lacking or extra else "their order differs",
            ]
            raise InputError(
                f"policy of {self.task} does not fit {where} in its {what}s: {'; '.join(p for p in parts if p)}. Make "
                f"the task as it was trained on: options {json.dumps(dict(self.options))}"
            )


def save_policy(path: str | os.PathLike[str], policy: Policy) -> Path:
    """Write a policy: an ``.npz`` of its arrays, and a JSON text with the rest."""
    record = {
        f.name: getattr(policy, f.name)
        for f in fields(policy)
        if f.name not in ("weights", "shape", "action_low", "action_high")
    }
    record |= {"format": FORMAT, "version": VERSION, "shape": policy.shape._asdict()}
    arrays: dict[str, np.ndarray] = {
        "record": np.array(json.dumps(record, default=_plain, indent=1)),
        "mean": np.asarray(policy.weights.mean, np.float32),
        "sd": np.asarray(policy.weights.sd, np.float32),
        "action_low": np.asarray(policy.action_low, np.float32),
        "action_high": np.asarray(policy.action_high, np.float32),
    }
    for i, (weights, bias) in enumerate(policy.weights.layers):
        arrays[f"weights_{i}"], arrays[f"bias_{i}"] = np.asarray(weights, np.float32), np.asarray(bias, np.float32)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return Path(path)


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return str(value)
    raise TypeError(f"{value!r} cannot be written as JSON")


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """Read what ``save_policy`` wrote; needs NumPy only.

    Raises:
        InputError: not such a file, of another version, damaged, or its arrays do not fit together.
    """
    stored = read_npz(path)
    try:
        record = json.loads(str(stored["record"]))
        kind = record["format"], record["version"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: no policy; nms-gym train writes them") from error
    if kind != (FORMAT, VERSION):
        raise InputError(f"{path}: format and version are {kind}; this program reads {(FORMAT, VERSION)}")
    try:
        count = sum(name.startswith("weights_") for name in stored)
        layers = tuple((_numbers(stored[f"weights_{i}"]), _numbers(stored[f"bias_{i}"])) for i in range(count))
        return Policy(
            weights=Weights(_numbers(stored["mean"]), _numbers(stored["sd"]), layers),
            shape=Shape(**record["shape"]),
            action_low=_numbers(stored["action_low"]),
            action_high=_numbers(stored["action_high"]),
            observation_names=tuple(map(str, record["observation_names"])),
            action_names=tuple(map(str, record["action_names"])),
            **{k: record[k] for k in ("task", "options", "action_units", "subject", "training", "scores")},
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__}: {error}); train again") from error


def _numbers(array: np.ndarray | None) -> np.ndarray:
    return np.asarray(array, np.float32)


def summary(policy: Policy) -> list[tuple[str, str]]:
    """Rows for people: what, value."""
    sizes = [len(policy.observation_names), *(len(b) for _, b in policy.weights.layers)]
    rows = [
        ("task", policy.task),
        ("options", json.dumps(dict(policy.options)) if policy.options else "default"),
        ("network", f"{' - '.join(map(str, sizes))}, {policy.shape.activation}"),
        ("actions", f"{policy.action_units}: {', '.join(policy.action_names)}" if policy.action_units else
         ", ".join(policy.action_names)),
    ]  # fmt: skip
    rows += [(f"subject {k}", v) for k, v in policy.subject.items()]
    for name, value in policy.training.items():
        rows.append((f"training {name}", f"{value:,.6g}" if isinstance(value, (int, float)) else str(value)))
    for name, score in policy.scores.items():
        rows.append((f"score, {name}", _score_text(score)))
    return rows


def _score_text(score: Any) -> str:
    return f"return {score['return']:.2f} ± {score['sd']:.2f}, success {score['success']:.0%}"
