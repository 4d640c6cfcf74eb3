"""How far windows leave what a person's fit has seen, in rows for files and in words for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nms_gym.files.subject import Subject
from nms_gym.model.replay import Segment
from nms_gym.model.trained_range import Departures, departures, saturation

SATURATED = 0.05
"""fraction of saturated samples of a muscle that is worth saying"""


@dataclass(frozen=True)
class RangeCheck:
    """A set of windows against what the fit has seen."""

    split: str
    """"train", "held-out", or "" for a recording that is merely predicted"""
    label: str
    departures: Departures | None
    """None for a person whose file does not say what the fit has seen"""
    saturated: Mapping[str, float]
    """muscle -> fraction of samples at which EMG asks for more than full excitation"""

    @property
    def saturating(self) -> dict[str, float]:
        """The muscles of which that is worth saying, the worst first."""
        rows = sorted(self.saturated.items(), key=lambda item: -item[1])
        return {muscle: part for muscle, part in rows if part > SATURATED}

    def row(self) -> dict[str, Any]:
        """For ``metrics.json``."""
        found = self.departures
        return {
            "split": self.split,
            "segment": self.label,
            "outside": None if found is None else [asdict(d) | {"leaves": d.leaves} for d in found.rows],
            "not_recorded": [] if found is None else list(found.not_recorded),
            "not_trained": [] if found is None else list(found.not_trained),
            "saturated": dict(self.saturated),
        }


def check_range(subject: Subject, split: str, label: str, segments: Sequence[Segment]) -> RangeCheck:
    """A set of windows, cut with the person's model, against what the person's fit has seen."""
    trained = subject.trained
    return RangeCheck(
        split,
        label,
        None if trained is None else departures(trained, segments),
        saturation(subject.model, subject.params, segments),
    )


def check_sets(
    subject: Subject, train: Sequence[Segment], held_out: Mapping[str, Sequence[Segment]]
) -> tuple[RangeCheck, ...]:
    """``check_range`` of training windows and of every held-out set; of those that exist."""
    labelled = [("train", "training windows", train), *(("held-out", name, s) for name, s in held_out.items())]
    return tuple(check_range(subject, split, label, s) for split, label, s in labelled if s)
