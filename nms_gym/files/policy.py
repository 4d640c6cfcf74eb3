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

from nms_gym.errors import InputError, listed, shown
from nms_gym.recording.documents import json_of
from nms_gym.recording.npz import read_npz, text_of
from nms_gym.recording.storage import atomic_path

FORMAT = "nms-gym-policy"
VERSION = 1
ACTIVATIONS = ("tanh", "swish", "relu")
SQUASHES = ("tanh", "clip")
# Normalised observations are clipped here: further away nothing was seen in training.
MOST_SEEN = 10.0

# What a file says beside names and arrays.
RECORD = {
    "task": str, "options": dict, "action_units": str, "subject": dict, "training": dict, "scores": dict, "shape": dict,
}  # fmt: skip

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
        if not self.weights.layers or any(np.ndim(w) != 2 or np.ndim(b) != 1 for w, b in self.weights.layers):
            raise InputError(f"policy of {self.task}: its layers are no matrices with a bias each")
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
        numbers = [*self.weights[:2], self.action_low, self.action_high, *(x for p in self.weights.layers for x in p)]
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

    def require(
        self, observation_names: Sequence[str], action_names: Sequence[str], where: str, action_units: str = ""
    ) -> None:
        """Refuse a task that shows or takes something else, or in another order, or means something else by it.

        Args:
            observation_names: of the task.
            action_names: of the task.
            where: what the task is called.
            action_units: of the task; "" where it does not say.

        Raises:
            InputError: by name, what differs.
        """
        if action_units and self.action_units and action_units != self.action_units:
            raise InputError(
                f"policy of {self.task}: its actions are in units of {self.action_units}, those of {where} in units of "
                f"{action_units}; make the task as it was trained on, or train again. Options: "
                f"{json.dumps(dict(self.options), default=str)}"
            )
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
        "format": np.array(FORMAT),
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
    text = text_of(stored.get("record"))
    if not text:
        raise InputError(f"{path}: no policy; nms-gym train writes them")
    record = json_of(text, path)
    kind = (record.get("format"), record.get("version")) if isinstance(record, dict) else (None, None)
    if kind != (FORMAT, VERSION):
        raise InputError(f"{path}: format and version are {shown(kind)}; this program reads {(FORMAT, VERSION)}")
    wrong = [k for k, known in RECORD.items() if not isinstance(record.get(k), known)]
    names = {k: record.get(k) for k in ("observation_names", "action_names")}
    wrong += [k for k, v in names.items() if not isinstance(v, list) or not all(isinstance(n, str) for n in v)]
    count = sum(name.startswith("weights_") for name in stored)
    layers = [f"{what}_{i}" for i in range(count) for what in ("weights", "bias")]
    arrays = ("mean", "sd", "action_low", "action_high", *layers)
    wrong += [name for name in arrays if (a := stored.get(name)) is None or a.dtype.kind != "f" or not a.ndim]
    if wrong or not count:
        raise InputError(f"{path}: damaged: {listed(wrong or ['weights'], 6)}; train again, or copy the file again")
    shape, given = record["shape"], {name: _numbers(stored[name]) for name in arrays}
    try:
        return Policy(
            weights=Weights(
                given["mean"], given["sd"], tuple((given[f"weights_{i}"], given[f"bias_{i}"]) for i in range(count))
            ),
            shape=Shape(*(str(shape.get(name)) for name in Shape._fields)),
            action_low=given["action_low"],
            action_high=given["action_high"],
            observation_names=tuple(record["observation_names"]),
            action_names=tuple(record["action_names"]),
            **{name: record[name] for name in RECORD if name != "shape"},
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _numbers(array: np.ndarray | None) -> np.ndarray:
    return np.asarray(array, np.float32)


def described(policy: Policy) -> list[list[str]]:
    """Rows for people: what, value."""
    sizes = [len(policy.observation_names), *(len(b) for _, b in policy.weights.layers)]
    actions = ", ".join(policy.action_names)
    rows = [
        ["task", policy.task],
        ["options", json.dumps(dict(policy.options), default=str) if policy.options else "default"],
        ["network", f"{' - '.join(map(str, sizes))}, {policy.shape.activation}"],
        ["observations", ", ".join(policy.observation_names)],
        ["actions", f"{actions} ({policy.action_units})" if policy.action_units else actions],
    ]
    rows += [[f"{what}: {k}", str(v)] for what in ("subject", "training") for k, v in getattr(policy, what).items()]
    return rows + [[f"score: {name}", str(score)] for name, score in policy.scores.items()]
