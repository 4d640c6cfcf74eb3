"""``FesElbow``: electrical stimulation moves a paralysed elbow that tires, with the least charge.

Nothing but surface electrodes over biceps and triceps excites the muscles; the brachialis lies deeper and gets a part
of the biceps's field. The action is the width of the pulses. Stimulated muscle tires: the fatigue condition of the
elbow at ``fatigue_rate`` times the published rates of voluntary contraction, because stimulation recruits the same
motor units at every pulse. The target is a slow wave (0.2 to 0.35 Hz, 20 to 30 degrees about 55 to 65). Success: a root
mean square error below 8 degrees. An episode lasts 8 s.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from nms_gym.envs.device import checked_fields, make_stimulator
from nms_gym.envs.follow import Follow
from nms_gym.envs.follow_making import follower_limb, make_follow
from nms_gym.envs.targets import make_waves

CHARGE_WEIGHT = 0.3
ELECTRODES: dict[str, dict[str, float]] = {
    "biceps": {"BIClong": 1.0, "BICshort": 1.0, "BRA": 0.3},
    "triceps": {"TRIlong": 1.0, "TRIlat": 1.0, "TRImed": 0.5},
}
"""Electrode -> muscle -> share of the field; choices of this package."""


def make_fes_elbow(
    subject: str | os.PathLike[str] | None = None,
    posterior: bool | str | os.PathLike[str] = False,
    condition: Sequence[Mapping[str, Any] | str] | None = None,
    electrodes: Mapping[str, Mapping[str, float]] | None = None,
    tendon: str | None = None,
    shoulder: float = 0.0,
    seconds: float = 8.0,
    current: float = 0.04,
    pulse_rate: float = 30.0,
    threshold: float = 100e-6,
    saturation: float = 300e-6,
    max_width: float = 400e-6,
    fatigue_rate: float = 4.0,
    charge_weight: float = CHARGE_WEIGHT,
    symmetric_action: bool = False,
    dt: float = 0.01,
    frame_skip: int = 1,
) -> Follow:
    """Move an elbow by stimulation.

    Args:
        subject: path of a subject file with the joint ``r_elbow_flex``; by default the shipped synthetic person.
        posterior: True, or a path, to draw a person of the calibration's posterior at every reset.
        condition: what ails the muscles besides fatigue, for example ``[{"name": "sarcopenia"}]``.
        electrodes: electrode -> muscle -> share of its field, 0 to 1; muscles of no electrode are passive.
        tendon: "rigid" or "elastic" instead of the subject's.
        shoulder: rad, elevation at which the upper arm is held.
        seconds: of an episode.
        current: A, of the pulses.
        pulse_rate: pulses per s.
        threshold: s, width at which the first motor units answer.
        saturation: s, width at which all do.
        max_width: s, width at an action of 1.
        fatigue_rate: of the fatigue condition; 0 for muscles that do not tire.
        charge_weight: of the charge, over the largest possible, in the reward.
        symmetric_action: actions from -1 (no pulses) to 1 instead of from 0 to 1.
        dt: s, of a physical step.
        frame_skip: physical steps per control step.

    Raises:
        InputError: a file, name or option cannot be used.
    """
    fields = ELECTRODES if electrodes is None else checked_fields(electrodes)
    stimulated = sorted({m for shares in fields.values() for m in shares})
    ailments = list(condition or ())
    if fatigue_rate:
        ailments.append({"name": "fatigue", "joint": "elbow", "rate": fatigue_rate})
    limb = follower_limb(
        subject,
        "demo_arm",
        posterior,
        ("r_elbow_flex",),
        locked={"r_shoulder_elev": shoulder},
        sources=dict.fromkeys(stimulated, "policy"),
        otherwise="passive",
        condition=ailments,
        tendon=tendon,
        dt=dt,
        frame_skip=frame_skip,
    )
    stimulator = make_stimulator(
        limb.muscles,
        fields,
        threshold=threshold,
        saturation=saturation,
        max_width=max_width,
        current=current,
        rate=pulse_rate,
    )
    return make_follow(
        limb,
        "FesElbow",
        waves=make_waves((55, 65), [(20, 30)], [(0.2, 0.35)], [(0, 360)]),
        seconds=seconds,
        stimulator=stimulator,
        electrodes=tuple(fields),
        stiffness=12.0,
        damping=1.0,
        width=10.0,
        tolerance=8.0,
        charge_weight=charge_weight,
        symmetric_action=symmetric_action,
    )
