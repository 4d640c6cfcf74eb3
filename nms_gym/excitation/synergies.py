"""Synergies: a few commands that many muscles share, and what they excite.

The recorded envelopes are taken as ``E (T, C) = H (T, S) V^T (S, C)`` with non-negative commands ``H`` and vectors
``V`` (d'Avella et al. 2003, 10.1038/nn1010; Tresch et al. 2006, 10.1152/jn.00222.2005). Muscles without a channel are
excited by the same commands with weights of their own, which calibration finds (synergy extrapolation: Ao et al. 2020,
10.3389/fncom.2020.588943). ``calibration.excitations.synergies`` extracts a basis; here it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.optimize import nnls

from nms_gym._pytree import Leaf, pytree, static
from nms_gym.errors import InputError, listed
from nms_gym.excitation.activation import saturate
from nms_gym.recording.storage import require_unique

# Width of the smooth corner at zero of a recorded excitation plus its residual, which may be negative.
FLOOR_WIDTH = 0.01


@pytree
class SynergyBasis:
    """Vectors that turn envelopes of recorded channels into commands."""

    names: tuple[str, ...] = static()
    """S, of the synergies"""
    channels: tuple[str, ...] = static()
    """C, recorded channels that the commands are found from"""
    signed: bool = static()
    """whether vectors and commands may be negative (principal components)"""
    vectors: Leaf
    """(C, S) envelope of each channel per unit of each command"""
    tasks: tuple[tuple[str, str], ...] = static(default=())
    """(recording, task) where muscles have other weights in every task; () where weights are the person's"""

    @property
    def labels(self) -> tuple[str, ...]:
        """Tasks, in the order first named."""
        return tuple(dict.fromkeys(task for _, task in self.tasks))

    @property
    def command_names(self) -> tuple[str, ...]:
        """Channels of the model: one per synergy, or per task and synergy, ``synergy_1@slow``."""
        return tuple(f"{n}@{task}" for task in self.labels for n in self.names) or self.names

    def commands(self, envelopes: np.ndarray, recording: str | None = None) -> np.ndarray:
        """Commands ``(T, S)`` that come nearest to ``envelopes (T, C)``: least squares, sample by sample, without
        negative commands (Lawson & Hanson 1974) unless ``signed``.

        With ``tasks``, ``(T, tasks times S)``: those of the recording's task, and zeros for the others.

        Raises:
            InputError: the recording belongs to no task.
        """
        vectors = np.asarray(self.vectors, float)
        if self.signed:
            found = np.asarray(envelopes, float) @ np.linalg.pinv(vectors).T
        else:
            found = np.array([nnls(vectors, np.maximum(row, 0.0))[0] for row in np.asarray(envelopes, float)])
        if not self.tasks:
            return found
        task = dict(self.tasks).get(recording or "")
        if task is None:
            raise InputError(
                f"recording {recording!r} belongs to no task, and synergy weights are those of a task: "
                f"there are {listed(f'{trial} ({task})' for trial, task in self.tasks)}; name it in [synergies] tasks"
            )
        return np.concatenate([found if task == label else np.zeros_like(found) for label in self.labels], axis=1)


def make_basis(
    names: Sequence[str],
    channels: Sequence[str],
    vectors: np.ndarray,
    *,
    signed: bool = False,
    tasks: Mapping[str, str] | None = None,
) -> SynergyBasis:
    """A checked basis of ``vectors (C, S)``.

    Raises:
        InputError: names repeated, wrong shape, more synergies than channels, a negative weight unless ``signed``, or
            a synergy that has none.
    """
    require_unique(names, "synergies", "synergies")
    require_unique(channels, "channels", "synergies")
    vectors = np.asarray(vectors, float)
    if vectors.shape != (len(channels), len(names)):
        raise InputError(
            f"synergy vectors have shape {vectors.shape}; expected {(len(channels), len(names))}: one row per channel "
            f"({listed(channels)}), one column per synergy ({listed(names)})"
        )
    if len(names) > len(channels):
        raise InputError(f"{len(names)} synergies of {len(channels)} channels; use at most as many as channels")
    bad = ~(np.isfinite(vectors) & (signed | (vectors >= 0)))
    if bad.any():
        c, s = np.argwhere(bad)[0]
        allowed = "a finite number" if signed else "0 or more"
        raise InputError(f"the weight of {channels[c]!r} in {names[s]!r} is {vectors[c, s]:g}; expected {allowed}")
    empty = [n for n, column in zip(names, vectors.T, strict=True) if not column.any()]
    if empty:
        raise InputError(f"synergy {listed(empty)} has no weight on any channel; leave it out")
    pairs = tuple((tasks or {}).items())
    return SynergyBasis(tuple(names), tuple(channels), signed, vectors, pairs)


def synthesised(commands: Array, weights: Array, muscles: np.ndarray, columns: np.ndarray, count: int) -> Array:
    """What synergies add to each muscle's excitation: ``(..., S)`` commands to ``(..., count)``, not yet saturated.

    Args:
        commands: ``(..., S)``.
        weights: ``(U,)``, one per pair of a muscle and a command.
        muscles: ``(U,)`` int32, the pair's muscle.
        columns: ``(U,)`` int32, the pair's command.
        count: number of muscles.
    """
    matrix = jnp.zeros((count, commands.shape[-1]), commands.dtype).at[muscles, columns].set(weights)
    return commands @ matrix.T


def with_synergies(recorded: Array, added: Array, synthetic: Array, residual: Array, signed: bool) -> Array:
    """Excitation ``(..., M)`` of muscles that synergies drive alone (``synthetic``) or beside a channel (``residual``).

    Both stay in [0, 1] by construction: saturated at 1, and with a smooth corner at 0 where a residual, or a command
    that is ``signed``, may pull below. Muscles without synergies keep their recorded excitation untouched. Masks are
    ``(M,)`` bool.
    """

    def above_zero(x: Array) -> Array:
        return 0.5 * (x + jnp.sqrt(x * x + FLOOR_WIDTH**2))

    alone = saturate(above_zero(added) if signed else added)
    return jnp.where(synthetic, alone, jnp.where(residual, saturate(above_zero(recorded + added)), recorded))
