"""A study's cross-validation: what is left out in turn, and which prior strengths are tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from calibration.cross_validation import STRENGTHS, by_speed, by_stride, by_trial
from calibration.study.keys import Keys, is_kind
from nms_gym.errors import InputError, listed
from nms_gym.model.replay import Segment

WAYS = ("stride", "trial", "speed")


@dataclass(frozen=True)
class ValidationPlan:
    """The ``[validation]`` table. Without one, nothing is left out and the priors are as they stand."""

    by: str | None = None
    """"stride" (a training window), "trial", or "speed" """
    speeds: Mapping[str, str] = field(default_factory=dict)
    """trial -> label of its speed or task, for "speed" """
    strengths: tuple[float, ...] = STRENGTHS
    """factors on the prior's precision"""

    def labels(self, segments: Sequence[Segment]) -> tuple[str, ...]:
        """One per segment; those that share one are left out together."""
        if self.by == "speed":
            return by_speed(segments, self.speeds)
        return by_trial(segments) if self.by == "trial" else by_stride(segments)


def read_validation(keys: Keys) -> ValidationPlan:
    """The table, with every key checked."""
    by = keys.take("by", str, None)
    speeds = keys.take("speeds", dict, {})
    strengths = keys.take("strengths", list, list(STRENGTHS))
    keys.finish()
    if by is not None and by not in WAYS:
        raise InputError(f"{keys.where}: by is {by!r}; use one of {listed(WAYS)}")
    if speeds and by != "speed":
        raise InputError(f"{keys.where}: speeds are given, but by is {by!r}; use by = 'speed'")
    if not strengths or not all(is_kind(s, float) and s > 0 for s in strengths):
        raise InputError(f"{keys.where}: strengths is {strengths!r}; expected numbers above 0, such as [0.25, 1, 4]")
    for trial, speed in speeds.items():
        if not isinstance(speed, str):
            raise InputError(f"{keys.where}: the speed of {trial!r} is {speed!r}; expected a label in quotes")
    return ValidationPlan(by, dict(speeds), tuple(float(s) for s in strengths))
