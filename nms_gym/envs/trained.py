"""Whether a step is where a calibrated person's fit has seen anything: limits of EMG and motion as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import Array

from nms_gym._pytree import Leaf, pytree
from nms_gym.model.trained_range import QUANTITIES, TrainedRange


@pytree
class TrainedLimits:
    """Limits of channels, angles and speeds, in this order; entry by entry of what a task shows."""

    lower: tuple[Leaf, ...]
    """(C,), (D,), (D,)"""
    upper: tuple[Leaf, ...]
    weight: tuple[Leaf, ...]
    """of 1 in all, the same for every entry that the fit has seen; 0 for the others"""

    def outside(self, emg: Any, q: Any, qd: Any) -> Array:
        """Fraction of the entries outside: of ``(..., C)`` envelopes and ``(..., D)`` rad and rad/s, ``(...)``.

        It has no slope: no gradient goes through it.
        """
        parts = zip((emg, q, qd), self.lower, self.upper, self.weight, strict=True)
        channels, angles, speeds = (((x < low) | (x > high)) @ weight for x, low, high, weight in parts)
        return channels + angles + speeds


def trained_limits(
    trained: TrainedRange | None, channels: Sequence[str], coordinates: Sequence[str]
) -> TrainedLimits | None:
    """Limits by name; None where EMG drives nothing, or nobody knows what the fit has seen of it."""
    if trained is None or not set(channels) & set(trained.emg):
        return None
    lower, upper, known = [], [], []
    for quantity, names in zip(QUANTITIES, (channels, coordinates, coordinates), strict=True):
        have = getattr(trained, quantity)
        pairs = [trained.limits(quantity, n) if n in have else (-np.inf, np.inf) for n in names]
        low, high = np.reshape(pairs, (-1, 2)).T
        lower.append(low)
        upper.append(high)
        known.append(np.array([float(n in have) for n in names]))
    total = sum(k.sum() for k in known)
    return TrainedLimits(tuple(lower), tuple(upper), tuple(k / total for k in known))
