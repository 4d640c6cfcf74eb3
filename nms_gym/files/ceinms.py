"""CEINMS subjects as our models, and our parameters as CEINMS subjects that are written."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from nms_gym.errors import InputError, listed
from nms_gym.excitation.channels import ChannelMap
from nms_gym.model.parameters import NmsParams, make_params
from nms_gym.model.structure import NmsModel, Settings
from nms_gym.muscle.tabulated import Tabulated
from nms_gym.recording.ceinms import CURVE_NAMES, CeinmsExcitations, CeinmsMuscle, CeinmsSubject
from nms_gym.recording.storage import atomic_path

# CEINMS's activation is 0 / 0 at a shape factor of 0; this near to it the curve is straight.
LEAST_SHAPE_FACTOR = -1e-6

# ---------------------------------------------------------------------------------------------- our model


def ceinms_model(
    subject: CeinmsSubject,
    excitations: CeinmsExcitations | None = None,
    *,
    dt: float,
    delay: float | None = None,
    **settings: Any,
) -> tuple[NmsModel, NmsParams]:
    """Our model and parameters with the same equations.

    ``max_isometric_force`` includes the strength coefficient. The filter's time constants are ``-dt / ln(-c)``. What
    differs from CEINMS is written in ``muscle.tabulated.Tabulated`` (curves outside their points), and: excitations
    saturate smoothly before they are mixed (CEINMS clips the mix), an elastic tendon is integrated over time (CEINMS
    solves every frame for itself), and the filter starts settled (CEINMS's starts with the EMG file: at zero, and once
    more, at their mean, after two rows). Without these three and with the muscle velocities of CEINMS's fibers, moments
    with a rigid tendon are CEINMS's to all digits that it prints.

    Args:
        subject: from ``read_ceinms_subject``.
        excitations: from ``read_ceinms_excitations``; default the channels of a CEINMS-RT subject.
        dt: s; the sampling interval that the filter coefficients are meant for, that of the trials in CEINMS.
        delay: s, of every channel; default the file's. CEINMS-RT has it in ``<EMD>`` of its calibration file.
        settings: of ``nms_gym.model.Settings``, such as ``tendon="rigid"``; curves are the subject's.

    Raises:
        InputError: a muscle is driven that the subject lacks; a filter coefficient is not between -1 and 0; muscles on
            one channel have different delays, or no delay is known; a value that no muscle can have.
    """
    source = excitations or subject.channels
    if source is None:
        raise InputError(f"{subject.path}: it has no channels; give the excitation generator too")
    try:
        points: dict[str, Any] = dict(subject.curves)
        curves = Tabulated(**points)
    except InputError as error:
        raise InputError(f"{subject.path}: {error}") from error
    delays = {c: _delay(c, subject, source, delay) for c in source.channels}
    longest = max(delays.values(), default=0.0)
    settings = {
        "max_delay": max(Settings.max_delay, longest),
        "curves": curves,
        "activation": "recursive",
        **settings,
    }
    driven = ChannelMap.from_muscles({m: weights for m, weights in source.muscles.items() if weights})
    model = NmsModel(
        muscles=subject.muscle_names,
        coordinates=tuple(subject.dofs),
        channels=source.channels,
        settings=Settings(**settings),
        channel_weights=driven.weights(source.channels, subject.muscle_names),
    )
    same = (
        "shape_factor",
        "optimal_fiber_length",
        "pennation_at_optimal",
        "tendon_slack_length",
        "max_contraction_velocity",
        "optimal_fiber_length_change",
        "fiber_damping",
    )
    values: dict[str, Any] = {kind: {m.name: getattr(m, kind) for m in subject.muscles} for kind in same}
    values["max_isometric_force"] = {m.name: m.max_isometric_force * m.strength_coefficient for m in subject.muscles}
    values["filter_time_constant_1"] = {m.name: _time_constant(m, "c1", dt, subject.path) for m in subject.muscles}
    values["filter_time_constant_2"] = {m.name: _time_constant(m, "c2", dt, subject.path) for m in subject.muscles}
    values["electromechanical_delay"] = delays
    try:
        return model, make_params(model, {**curves.defaults, **values})
    except InputError as error:
        raise InputError(f"{subject.path}: {error}") from error


def _time_constant(muscle: CeinmsMuscle, coefficient: str, dt: float, path: str) -> float:
    """``excitation.activation.ceinms_time_constant`` in float64."""
    c = getattr(muscle, coefficient)
    if not -1 < c < 0:
        raise InputError(
            f"{path}: {coefficient} of muscle {muscle.name!r} is {c:g}; allowed between -1 and 0, both excluded"
            " (CEINMS calibrates within -0.95 to -0.05)"
        )
    return -dt / math.log(-c)


def _delay(channel: str, subject: CeinmsSubject, source: CeinmsExcitations, delay: float | None) -> float:
    """CEINMS delays muscles, we delay channels."""
    if delay is not None:
        return delay
    driven = [m for m in subject.muscles if source.muscles.get(m.name, {}).get(channel)] or list(subject.muscles)
    found = {m.electromechanical_delay for m in driven}
    if None in found:
        raise InputError(f"{subject.path}: no electromechanical delay (emDelay) in the file; give delay= in seconds")
    if len(found) > 1 and any(source.muscles.get(m.name, {}).get(channel) for m in driven):
        values = listed(f"{m.name}: {m.electromechanical_delay:g} s" for m in driven)
        raise InputError(
            f"{subject.path}: muscles on channel {channel!r} have different emDelay ({values}); a channel has one"
            " delay: make them equal, or give delay="
        )
    return max(d for d in found if d is not None)


# ---------------------------------------------------------------------------------------------- writing


def calibrated_ceinms_subject(
    subject: CeinmsSubject, params: NmsParams, muscles: Sequence[str], *, dt: float
) -> CeinmsSubject:
    """The subject with our parameters in CEINMS's terms, the inverse of ``ceinms_model``.

    A strength coefficient takes up what ``max_isometric_force`` has changed. Filter coefficients belong to ``dt``.
    EMG gains have no place in the file; scale the excitations or their weights by them. A shape factor of 0, where
    CEINMS divides 0 by 0, becomes ``LEAST_SHAPE_FACTOR``, which changes an activation by 1e-7 at most.

    Args:
        subject: whose curves, joints and other values stay.
        params: of a model with these ``muscles``; strains of the curves and first-order time constants are not used.
        muscles: names of the entries of ``params``.
        dt: s, between samples of the EMG that the coefficients are meant for.

    Raises:
        InputError: ``params`` lacks a muscle of the subject.
    """
    missing = [name for name in subject.muscle_names if name not in muscles]
    if missing:
        raise InputError(f"{subject.path}: no parameters for {listed(missing)}; there are {listed(muscles)}")

    def changed(muscle: CeinmsMuscle) -> CeinmsMuscle:
        i = list(muscles).index(muscle.name)

        def value(kind: str) -> float:
            return float(getattr(params, kind)[i])

        shape = value("shape_factor")
        return replace(
            muscle,
            c1=-math.exp(-dt / value("filter_time_constant_1")),
            c2=-math.exp(-dt / value("filter_time_constant_2")),
            shape_factor=LEAST_SHAPE_FACTOR if abs(shape) < abs(LEAST_SHAPE_FACTOR) else shape,
            optimal_fiber_length=value("optimal_fiber_length"),
            pennation_at_optimal=value("pennation_at_optimal"),
            tendon_slack_length=value("tendon_slack_length"),
            strength_coefficient=value("max_isometric_force") / muscle.max_isometric_force,
            max_contraction_velocity=value("max_contraction_velocity"),
            optimal_fiber_length_change=value("optimal_fiber_length_change"),
            fiber_damping=value("fiber_damping"),
        )

    return replace(subject, muscles=tuple(changed(muscle) for muscle in subject.muscles))


def write_ceinms_subject(
    path: str | os.PathLike[str], subject: CeinmsSubject, *, calibration: str | None = None, identity: str = "subject"
) -> None:
    """Write a subject of CEINMS 0.9; ``read_ceinms_subject`` gives back the very same numbers.

    Args:
        path: of the file; replaced in one go.
        subject: a CEINMS-RT subject too, once ``channels`` is None (the excitation generator holds them in CEINMS 0.9)
            and every muscle has a delay.
        calibration: what a calibrated subject was made with, such as the name of its calibration file; None for an
            uncalibrated one.
        identity: ``subjectID`` of an uncalibrated subject.

    Raises:
        InputError: the subject has channels, a muscle no delay or a value that is not finite, or muscles differ in
            ``percentageChange`` or ``damping``, for which the format has one place.
    """
    if subject.channels is not None:
        raise InputError(
            f"{path}: a subject of CEINMS 0.9 has no channels; write them as an excitation generator, and the subject "
            "with channels=None"
        )
    silent = [m.name for m in subject.muscles if m.electromechanical_delay is None]
    if silent:
        raise InputError(f"{path}: no electromechanical_delay of {listed(silent)}; give every muscle one, in seconds")
    for m in subject.muscles:
        for kind in (f.name for f in fields(m) if f.name not in ("name", "electromechanical_delay")):
            if not math.isfinite(getattr(m, kind)):
                raise InputError(f"{path}: {kind} of {m.name!r} is {getattr(m, kind)}; not written: calibrate anew")
    common = {}
    for kind, tag in (("optimal_fiber_length_change", "percentageChange"), ("fiber_damping", "damping")):
        values = {getattr(m, kind) for m in subject.muscles}
        if len(values) != 1:
            raise InputError(
                f"{path}: {kind} differs between muscles ({min(values):g} to {max(values):g}); CEINMS has one <{tag}> "
                "for all: make them equal"
            )
        common[tag] = values.pop()
    delay = float(subject.muscles[0].electromechanical_delay or 0.0)
    root = Element("subject")
    defaults = SubElement(root, "mtuDefault")
    _add(defaults, {"emDelay": delay, **common})
    names = {keyword: name for name, keyword in CURVE_NAMES.items()}
    for keyword, (x, y) in subject.curves.items():
        _add(
            SubElement(defaults, "curve"),
            {"name": names[keyword], "xPoints": " ".join(map(repr, x)), "yPoints": " ".join(map(repr, y))},
        )
    mtus = SubElement(root, "mtuSet")
    for m in subject.muscles:
        own = {} if m.electromechanical_delay == delay else {"emDelay": m.electromechanical_delay}
        _add(
            SubElement(mtus, "mtu"),
            {
                "name": m.name,
                **own,
                "c1": m.c1,
                "c2": m.c2,
                "shapeFactor": m.shape_factor,
                "optimalFibreLength": m.optimal_fiber_length,
                "pennationAngle": m.pennation_at_optimal,
                "tendonSlackLength": m.tendon_slack_length,
                "maxContractionVelocity": m.max_contraction_velocity,
                "maxIsometricForce": m.max_isometric_force,
                "strengthCoefficient": m.strength_coefficient,
            },
        )
    dofs = SubElement(root, "dofSet")
    for dof, muscles in subject.dofs.items():
        _add(SubElement(dofs, "dof"), {"name": dof, "mtuNameSet": " ".join(muscles)})
    information = SubElement(root, "calibrationInfo")
    if calibration is None:
        _add(SubElement(information, "uncalibrated"), {"subjectID": identity, "additionalInfo": "uncalibrated"})
    else:
        start = Path(subject.path).name
        _add(
            SubElement(information, "calibrated"),
            {"startSubjectFile": start, "calibrationSequence": calibration.replace(" ", "_")},
        )
    indent(root)
    with atomic_path(path) as temporary:
        ElementTree(root).write(temporary, encoding="UTF-8", xml_declaration=True)


def _add(element: Element, children: Mapping[str, object]) -> None:
    for tag, value in children.items():
        # repr: the shortest text that reads back as the same number.
        SubElement(element, tag).text = repr(float(value)) if isinstance(value, int | float) else str(value)
