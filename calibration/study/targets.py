"""What was measured of single muscles on a study's trials, beside the moments, on the samples of its windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calibration.problem import Target, check_targets
from calibration.study.recordings import Window
from nms_gym.errors import InputError, near
from nms_gym.model.replay import Segment
from nms_gym.model.structure import NmsModel

MuscleSeries = tuple[Any, Any, float]
"""times (s) and values ``(N,)``, and the tolerance in the values' unit"""
GivenTargets = Mapping[str, Mapping[str, Mapping[str, MuscleSeries]]]
"""trial -> quantity -> muscle -> its series"""
SegmentTargets = tuple[tuple[Target, ...], ...]
"""of each segment"""


def require_trials(given: GivenTargets, names: Sequence[str], where: str) -> None:
    """Raise ``InputError`` where a trial is not among ``names``."""
    for trial in given:
        if trial not in names:
            raise InputError(f"{where}: targets: no trial {trial!r}; {near(trial, names)}")


def cut_targets(
    given: GivenTargets, model: NmsModel, windows: Sequence[Window], segments: Sequence[Segment]
) -> SegmentTargets:
    """Targets of each window, interpolated between measurements; none where a window has no measured sample that
    counts. Empty where no trial has any.

    Args:
        given: what was measured.
        model: whose muscles they are.
        windows: of the trials.
        segments: cut from them.

    Raises:
        InputError: what ``Target`` refuses, an unknown muscle, or a series that is none.
    """
    if not given:
        return ()
    return tuple(_of_window(given.get(w.trial.name, {}), w, model, s) for w, s in zip(windows, segments, strict=True))


def _of_window(
    given: Mapping[str, Mapping[str, MuscleSeries]], window: Window, model: NmsModel, segment: Segment
) -> tuple[Target, ...]:
    found = []
    for quantity, muscles in given.items():
        for muscle, series in muscles.items():
            where = f"trial {window.trial.name!r}: target {quantity} of {muscle!r}"
            time, values, tolerance = _checked(series, where)
            Target(quantity, muscle, values, tolerance)  # refuses what is wrong, wherever the window is
            if muscle not in model.muscles:
                raise InputError(f"{where}: the model has no such muscle; {near(muscle, model.muscles)}")
            on_grid = np.interp(segment.time, time, values, left=np.nan, right=np.nan)
            if np.isfinite(on_grid[segment.scored]).any():
                found.append(Target(quantity, muscle, on_grid, tolerance))
    check_targets(model, segment, found)
    return tuple(found)


def _checked(series: MuscleSeries, where: str) -> tuple[np.ndarray, np.ndarray, float]:
    if len(series) != 3:
        raise InputError(f"{where}: give (times, values, tolerance)")
    time, values = (np.asarray(x, float) for x in series[:2])
    if time.ndim != 1 or time.shape != values.shape or not len(time):
        raise InputError(f"{where}: times have shape {time.shape}, values {values.shape}; expected (N,) both")
    if not np.isfinite(time).all() or not (np.diff(time) > 0).all():
        raise InputError(f"{where}: times must be finite and rise")
    return time, values, float(series[2])


def require_use(given: GivenTargets, trained: Sequence[Window], sets: Sequence[SegmentTargets]) -> None:
    """Raise ``InputError`` where a series of a trial with training windows lies outside every window: a slip of its
    clock, most likely."""
    for trial in {w.trial.name for w in trained} & set(given):
        for quantity, muscles in given[trial].items():
            for muscle in muscles:
                if not any((t.quantity, t.muscle) == (quantity, muscle) for s in sets for ts in s for t in ts):
                    raise InputError(
                        f"trial {trial!r}: target {quantity} of {muscle!r} has no sample in any window; check its times"
                    )
