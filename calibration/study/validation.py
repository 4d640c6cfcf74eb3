"""A study's cross-validation: what is left out in turn, and which prior strengths are tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from calibration.cross_validation import STRENGTHS, by_speed, by_stride, by_trial
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

    def __post_init__(self) -> None:
        if self.by is not None and self.by not in WAYS:
            raise InputError(f"by is {self.by!r}; use one of {listed(WAYS)}")
        if self.speeds and self.by != "speed":
            raise InputError(f"speeds are given, but by is {self.by!r}; use by = 'speed'")
        if not self.strengths or not all(isinstance(s, int | float) and s > 0 for s in self.strengths):
            raise InputError(f"strengths is {list(self.strengths)!r}; expected numbers above 0, such as [0.25, 1, 4]")
        object.__setattr__(self, "strengths", tuple(float(s) for s in self.strengths))
        for trial, speed in self.speeds.items():
            if not isinstance(speed, str):
                raise InputError(f"the speed of {trial!r} is {speed!r}; expected a label in quotes")

    def labels(self, segments: Sequence[Segment]) -> tuple[str, ...]:
        """One per segment; those that share one are left out together."""
        if self.by == "speed":
            return by_speed(segments, self.speeds)
        return by_trial(segments) if self.by == "trial" else by_stride(segments)
