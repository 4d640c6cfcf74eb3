"""Which EMG channel drives which muscle, by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nms_gym.errors import InputError, listed, near
from nms_gym.recording.storage import require_unique


@dataclass(frozen=True)
class ChannelMap:
    """Each driven muscle with its channels and their weights, all by name.

    Attributes:
        drives: (muscle, ((channel, weight), ...)) in the order first named; weights are final, that is, a
            muscle's excitation is the sum of weight times channel.
    """

    drives: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]

    @classmethod
    def from_channels(cls, channels: Mapping[str, Sequence[str] | Mapping[str, float]]) -> ChannelMap:
        """From channel -> muscles, or channel -> {muscle: weight}.

        A muscle with several channels takes their weighted mean: with ``{"vas_lat": ["vas_lat_r",
        "vas_int_r"], "vas_med": ["vas_med_r", "vas_int_r"]}``, vas_int_r gets half of each.

        Raises:
            InputError: a channel drives no muscle, names one twice, or a weight is not positive and finite.
        """
        found: dict[str, dict[str, float]] = {}
        _require_some(channels, "channel")
        for channel, muscles in channels.items():
            if isinstance(muscles, str):
                muscles = [muscles]
            if not muscles:
                raise InputError(
                    f"channel {channel!r} is mapped to nothing; give the muscles it drives, or leave it out"
                )
            require_unique(list(muscles), "muscles", f"channel {channel!r}")
            weights = muscles if isinstance(muscles, Mapping) else dict.fromkeys(muscles, 1.0)
            for muscle, weight in weights.items():
                _require_weight(muscle, channel, weight)
                found.setdefault(muscle, {})[channel] = float(weight)
        drives = []
        for muscle, weights in found.items():
            total = math.fsum(weights.values())
            drives.append((muscle, tuple((channel, weight / total) for channel, weight in weights.items())))
        return cls(tuple(drives))

    @classmethod
    def from_muscles(cls, muscles: Mapping[str, Mapping[str, float]]) -> ChannelMap:
        """From muscle -> {channel: weight}, weights summed as they are (as in CEINMS excitation files).

        Raises:
            InputError: a muscle has no channel, or a weight is not positive and finite.
        """
        _require_some(muscles, "muscle")
        for muscle, weights in muscles.items():
            if not weights:
                raise InputError(
                    f"muscle {muscle!r} has no channel; give {{channel: weight}}, or leave it out to be undriven"
                )
            for channel, weight in weights.items():
                _require_weight(muscle, channel, weight)
        return cls(
            tuple(
                (muscle, tuple((channel, float(weight)) for channel, weight in weights.items()))
                for muscle, weights in muscles.items()
            )
        )

    @property
    def channels(self) -> tuple[str, ...]:
        """Channels that drive something, in the order first named."""
        return tuple(dict.fromkeys(channel for _, inputs in self.drives for channel, _ in inputs))

    @property
    def muscles(self) -> tuple[str, ...]:
        """Muscles that are driven, in the order first named."""
        return tuple(muscle for muscle, _ in self.drives)

    def weights(self, channels: Sequence[str], muscles: Sequence[str]) -> np.ndarray:
        """(M, C) float64 so that excitation = weights @ envelopes, in the order of ``muscles`` and
        ``channels``.

        Rows of undriven muscles are 0. Rows of ``from_channels`` sum to 1.

        Raises:
            InputError: a channel or muscle of this map is not among those given (near names are listed), or a
                name is given twice.
        """
        require_unique(channels, "channels", "EMG")
        require_unique(muscles, "muscles", "model")
        unknown = [name for name in self.channels if name not in channels]
        if unknown:
            raise InputError(f"no EMG channel {listed(unknown)}; {near(unknown[0], channels)}")
        unknown = [name for name in self.muscles if name not in muscles]
        if unknown:
            sources = listed(channel for channel, _ in dict(self.drives)[unknown[0]])
            raise InputError(f"channel {sources} drives unknown muscle {listed(unknown)}; {near(unknown[0], muscles)}")
        weights = np.zeros((len(muscles), len(channels)))
        row = {name: i for i, name in enumerate(muscles)}
        column = {name: i for i, name in enumerate(channels)}
        for muscle, inputs in self.drives:
            for channel, weight in inputs:
                weights[row[muscle], column[channel]] = weight
        return weights

    def undriven(self, muscles: Sequence[str]) -> tuple[str, ...]:
        """Those of ``muscles`` that no channel drives."""
        return tuple(name for name in muscles if name not in self.muscles)

    def unused(self, channels: Sequence[str]) -> tuple[str, ...]:
        """Those of ``channels`` that drive nothing."""
        return tuple(name for name in channels if name not in self.channels)


def _require_some(mapping: Mapping[str, object], what: str) -> None:
    if not mapping:
        raise InputError(f"the {what} map is empty: no muscle would be driven; name at least one {what}")


def _require_weight(muscle: str, channel: str, weight: float) -> None:
    if not (isinstance(weight, int | float) and math.isfinite(weight) and weight > 0):
        raise InputError(
            f"the weight of channel {channel!r} for muscle {muscle!r} is {weight!r}; expected a number above 0"
        )
