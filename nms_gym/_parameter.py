"""What is known of a kind of parameter, said once where its array is declared.

``MuscleParams`` and ``NmsParams`` declare their fields with ``parameter(...)``; ``nms_gym.model.parameters.KINDS`` is
the table of them all, from which defaults, limits, units, labels, what calibration may do, and documentation follow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Axis = Literal["muscle", "channel", "synergy_pair"]


@dataclass(frozen=True)
class ParameterKind:
    """One kind of parameter; an array of it has one entry per name on its axis."""

    name: str
    unit: str
    """SI, "1" for none"""
    label: str
    """for people to read"""
    limits: tuple[float, float]
    """values outside these no muscle or channel can have, whatever a calibration allows"""
    bounds: tuple[float, float]
    """that a calibration keeps by default: factors of the start where ``relative``, else values"""
    prior_sd: float
    """standard deviation of the prior by default: of the logarithm where ``relative``, else in the unit"""
    default: float | None = None
    """where neither model nor user says; None: must be given"""
    axis: Axis = "muscle"
    relative: bool = True
    share: Literal["each", "groups", "all"] = "each"
    """who gets one common factor or shift by default"""
    correlation: float = 0.0
    """of the prior between two entries by default: 0 each on its own, near 1 almost one common value"""
    free: bool = False
    """whether a calibration fits it when nobody says"""
    needs: tuple[str, tuple[str, ...]] | None = None
    """(setting, its values) under which the kind has an effect; setting "synergies" is whether the model has any"""
    files_may_lack: bool = False
    """whether files of people from before the kind existed are read, at a default that changes nothing"""
    neutral: float | None = None
    """of a channel that carries an excitation itself rather than EMG: what leaves it as it is"""

    @property
    def unit_text(self) -> str:
        """The unit for people to read; nothing where there is none."""
        return "" if self.unit == "1" else self.unit.replace("optimal_fiber_length", "fiber lengths")


def parameter(unit: str, label: str, *, limits: tuple[float, float], **known: Any) -> Any:
    """Declare a field of ``MuscleParams`` or ``NmsParams``; ``known`` are the other attributes of ``ParameterKind``."""
    return dataclasses.field(metadata={"parameter": {"unit": unit, "label": label, "limits": limits, **known}})


def kinds_of(cls: Any) -> Mapping[str, ParameterKind]:
    """The table of a class's fields, by name."""
    return {f.name: ParameterKind(name=f.name, **f.metadata["parameter"]) for f in dataclasses.fields(cls)}
