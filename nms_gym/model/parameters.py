"""What can be fitted: every kind of parameter, in one table.

A kind is declared once, as a field of ``MuscleParams`` (mechanics, ``muscle/hill.py``) or ``NmsParams`` (neural drive,
here). ``KINDS`` is the table of both: axis, unit, label, default, limits, and what a calibration may do. Adding a kind
is one field and the equation that uses it: files, bounds, priors, reports and the reference page follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._parameter import Axis, ParameterKind, kinds_of, parameter
from nms_gym._pytree import pytree
from nms_gym.errors import InputError, listed
from nms_gym.model.structure import NmsModel
from nms_gym.muscle.hill import MuscleParams


@pytree
class NmsParams(MuscleParams):
    """Everything that calibration can fit. Muscle leaves ``(M,)``, channel leaves ``(C,)``.

    Field defaults. Filter: C1 = C2 = -0.5 at 1 kHz in CEINMS's examples is 1.4 ms, which is no filter at all; 20 ms and
    critically damped gives the twitch time of 20 to 40 ms that Lloyd & Besier's bounds allow. Delay: 30 ms, in the
    middle of the 10 to 100 ms that Buchanan et al. 2004 report. Shape factor: CEINMS's bounds -3..0, weakly curved.
    """

    filter_time_constant_1: Array = parameter(
        "s",
        "Activation filter, time constant 1",
        limits=(1e-5, 2.0),
        default=0.020,
        bounds=(0.25, 4.0),
        prior_sd=0.4,
        correlation=0.8,
        free=True,
        needs=("activation", ("second_order", "recursive")),
    )
    """s, ``(M,)``; first pole of the second-order filter"""
    filter_time_constant_2: Array = parameter(
        "s",
        "Activation filter, time constant 2",
        limits=(1e-5, 2.0),
        default=0.020,
        bounds=(0.25, 4.0),
        prior_sd=0.4,
        correlation=0.8,
        needs=("activation", ("second_order", "recursive")),
    )
    """s, ``(M,)``; second pole of the second-order filter"""
    activation_time_constant: Array = parameter(
        "s",
        "Activation time constant",
        limits=(1e-4, 2.0),
        default=0.015,
        bounds=(0.4, 2.5),
        prior_sd=0.3,
        share="all",
        free=True,
        needs=("activation", ("first_order",)),
    )
    """s, ``(M,)``; of first-order activation dynamics"""
    deactivation_time_constant: Array = parameter(
        "s",
        "Deactivation time constant",
        limits=(1e-4, 2.0),
        default=0.060,
        bounds=(0.4, 2.5),
        prior_sd=0.3,
        share="all",
        needs=("activation", ("first_order",)),
    )
    """s, ``(M,)``; of first-order activation dynamics"""
    shape_factor: Array = parameter(
        "1",
        "EMG shape factor A",
        limits=(-20.0, 20.0),
        default=-0.5,
        bounds=(-3.0, 0.0),
        prior_sd=0.75,
        relative=False,
        share="groups",
        free=True,
    )
    """``(M,)``; the A of Lloyd & Besier, 0 is linear"""
    minimum_activation: Array = parameter(
        "1",
        "Minimum activation",
        limits=(0.0, 0.5),
        default=0.0,
        bounds=(0.0, 0.1),
        prior_sd=0.02,
        relative=False,
        files_may_lack=True,
    )
    """``(M,)``; activation of a muscle without excitation, 0 for none"""
    emg_gain: Array = parameter(
        "1",
        "EMG gain",
        axis="channel",
        limits=(0.0, 1e6),
        default=1.0,
        bounds=(0.1, 5.0),
        prior_sd=0.5,
        free=True,
        neutral=1.0,
    )
    """``(C,)``; excitation per unit of the envelope"""
    electromechanical_delay: Array = parameter(
        "s",
        "Electromechanical delay",
        axis="channel",
        limits=(0.0, 1.0),
        default=0.030,
        bounds=(0.0, 0.13),
        prior_sd=0.02,
        relative=False,
        correlation=0.8,
        free=True,
        neutral=0.0,
    )
    """s, ``(C,)``"""
    synergy_weight: Array = parameter(
        "1",
        "Synergy weight",
        axis="synergy_pair",
        limits=(-10.0, 10.0),
        default=0.0,
        bounds=(0.0, 1.5),
        prior_sd=0.15,
        relative=False,
        share="groups",
        free=True,
        needs=("synergies", ("yes",)),
    )
    """``(U,)``; excitation of a muscle per unit of a command, in the order of ``NmsModel.synergy_pairs``"""


KINDS: Mapping[str, ParameterKind] = kinds_of(NmsParams)
PARAMETER_KINDS: tuple[str, ...] = tuple(KINDS)


def kinds_on(axis: Axis) -> tuple[str, ...]:
    """Names of the kinds whose entries are muscles, channels or synergy pairs."""
    return tuple(name for name, kind in KINDS.items() if kind.axis == axis)


NEUTRAL_CHANNEL: Mapping[str, float] = {name: k.neutral for name, k in KINDS.items() if k.neutral is not None}
"""parameters of a channel that carries an excitation itself: it arrives as it is"""


def known_kind(name: str) -> ParameterKind:
    """A kind by name.

    Raises:
        InputError: no such kind.
    """
    if name not in KINDS:
        raise InputError(f"no parameter {name!r}; there are {listed(KINDS, 30)}")
    return KINDS[name]


def entries(model: NmsModel, kind: str) -> tuple[str, ...]:
    """Names of the entries of a parameter kind: muscles, channels, or pairs ``muscle:command``.

    Raises:
        InputError: no such kind.
    """
    axis = known_kind(kind).axis
    if axis == "synergy_pair":
        return tuple(f"{muscle}:{command}" for muscle, command in model.synergy_pairs)
    return model.channels if axis == "channel" else model.muscles


def default_of(model: NmsModel, kind: str) -> float | None:
    """What a kind of parameter is where nobody says: its muscle family's default, else the table's; None for none."""
    return model.settings.curves.defaults.get(kind, known_kind(kind).default)


def limits_of(model: NmsModel, kind: str) -> tuple[float, float]:
    """Lowest and highest value that an entry of a kind of parameter can have."""
    low, high = known_kind(kind).limits
    if kind == "electromechanical_delay":
        high = model.settings.max_delay  # an older sample is not in the history
    return low, high


def has_effect(model: NmsModel, kind: str) -> bool:
    """Whether a kind of parameter does anything under the model's settings."""
    needs = known_kind(kind).needs
    if needs is None:
        return True
    setting, values = needs
    if setting == "synergies":
        return bool(model.synergy_pairs)
    return getattr(model.settings, setting) in values


def make_params(model: NmsModel, values: Mapping[str, Any], dtype: Any = None) -> NmsParams:
    """Parameters from values per kind; scalars are spread over all entries, missing kinds take the muscle
    family's ``defaults`` or the table's.

    Args:
        model: whose muscles and channels the entries follow.
        values: kind -> scalar, array in the model's order, or mapping by name (complete, or added to the default).
        dtype: of JAX leaves; by default they are NumPy's float64, and JAX takes them in the precision it runs in.

    Raises:
        InputError: unknown kind or name, wrong length, or a value that nothing can have (muscle and value named).
    """
    unknown = set(values) - set(KINDS)
    if unknown:
        raise InputError(f"no parameter {listed(sorted(unknown))}; there are {listed(KINDS, 30)}")
    leaves = {}
    for kind, known in KINDS.items():
        names = entries(model, kind)
        default = default_of(model, kind)
        given = values.get(kind, default)
        if isinstance(given, Mapping):
            strange = set(given) - set(names)
            missing = [n for n in names if n not in given] if known.default is None else []
            if strange or missing:
                raise InputError(
                    f"{kind}: {'no entry ' + listed(sorted(strange)) if strange else 'missing ' + listed(missing)}"
                    f"; the model has {listed(names, 50)}"
                )
            given = [given.get(n, default) for n in names]
        if given is None:
            raise InputError(f"{kind} is required: one value per muscle")
        array = np.asarray(given, dtype=float)
        if array.ndim == 0:
            array = np.full(len(names), float(array))
        if array.shape != (len(names),):
            raise InputError(f"{kind} has shape {array.shape}; expected ({len(names)},), one per {listed(names)}")
        if kind == "tendon_slack_length":
            array = _tendons(array, model)
        low, high = limits_of(model, kind)
        bad = ~((array >= low) & (array <= high))
        if bad.any():
            i = int(np.argmax(bad))
            hint = "raise max_delay" if kind == "electromechanical_delay" else "check its file and units (SI, radians)"
            raise InputError(
                f"{kind} of {names[i]!r} is {array[i]:g} {known.unit}; allowed {low:g} to {high:g}: {hint}"
            )
        leaves[kind] = array if dtype is None else jnp.asarray(array, dtype=dtype)
    return NmsParams(**leaves)


def _tendons(lengths: np.ndarray, model: NmsModel) -> np.ndarray:
    """Slack lengths (M,) in which muscles without a tendon (0) have the shortest that is allowed, if they are rigid.

    Raises:
        InputError: tendons are elastic, and one that has no length cannot stretch.
    """
    none = lengths == 0.0
    if none.any() and model.settings.tendon == "elastic":
        raise InputError(
            f"tendon_slack_length of {listed(np.asarray(model.muscles)[none].tolist())} is 0 m: a muscle without "
            'tendon needs tendon = "rigid" or "mixed" in the settings, or a length above 0'
        )
    return np.where(none, KINDS["tendon_slack_length"].limits[0], lengths)
