"""Figures of a report by section."""

from __future__ import annotations

from calibration.report.drawing import Picture, drawing
from calibration.report.evidence import Evidence
from calibration.report.moment_figures import mean_moments, moment_series
from calibration.report.muscle_figures import excitations, fibers
from calibration.report.parameter_figures import convergence, parameters


def draw(evidence: Evidence) -> dict[str, list[Picture]]:
    """All figures by section of the report."""
    with drawing():
        pictures = {
            "moments": [*mean_moments(evidence), *moment_series(evidence)],
            "excitations": excitations(evidence),
            "fibers": fibers(evidence),
            "parameters": parameters(evidence),
            "convergence": convergence(evidence),
        }
    return pictures
