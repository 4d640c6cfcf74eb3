"""``AnkleTracking``: sitting, with the foot free, follow a target angle of the ankle.

The hip is held at 70 degrees, the knee at 60. 11 muscles cross the ankle; the foot is light (0.015 kg m^2) and the
Achilles tendon stiff. The target is the sum of two sinusoids: 4 to 8 degrees at 0.4 to 0.8 Hz and 2 to 4 degrees at 1
to 1.6 Hz, about -5 to -15 degrees. Success: a root mean square error below 3 degrees. An episode lasts 4 s.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from nms_gym.envs.follow import Follow
from nms_gym.envs.follow_making import follower_limb, make_follow
from nms_gym.envs.recordings import Names
from nms_gym.envs.targets import make_waves

EFFORT_WEIGHT = 0.1


def make_ankle_tracking(
    subject: str | os.PathLike[str] | None = None,
    posterior: bool | str | os.PathLike[str] = False,
    condition: Sequence[Mapping[str, Any] | str] | None = None,
    sources: Mapping[str, str] | str | None = None,
    trial: Names | None = None,
    emg_noise: float = 0.0,
    tendon: str | None = None,
    hip: float = 1.22,
    knee: float = 1.05,
    seconds: float = 4.0,
    effort_weight: float = EFFORT_WEIGHT,
    symmetric_action: bool = False,
    dt: float = 0.01,
    frame_skip: int = 1,
) -> Follow:
    """Follow an angle of the ankle, seated.

    Args:
        subject: path of a subject file with the joint ``ankle_angle_r``; by default the shipped right leg.
        posterior: True, or a path, to draw a person of the calibration's posterior at every reset.
        condition: what ails the person, for example ``[{"name": "weakness", "severity": 0.3}]``.
        sources: muscle -> "policy", "recorded", "synergy" or "passive"; by default all "policy".
        trial: recording whose EMG is replayed on muscles with the source "recorded".
        emg_noise: relative standard deviation of that EMG, drawn anew at every sample.
        tendon: "rigid" or "elastic" instead of the subject's.
        hip: rad, flexion at which the thigh is held.
        knee: rad, flexion at which the shank is held.
        seconds: of an episode.
        effort_weight: of the mean squared excitation in the reward.
        symmetric_action: actions from -1 (no excitation) to 1 instead of from 0 to 1.
        dt: s, of a physical step.
        frame_skip: physical steps per control step.

    Raises:
        InputError: a file, name or option cannot be used.
    """
    limb = follower_limb(
        subject,
        "right_leg",
        posterior,
        ("ankle_angle_r",),
        locked={"hip_flexion_r": hip, "knee_angle_r": knee},
        sources=sources,
        condition=condition,
        tendon=tendon,
        dt=dt,
        frame_skip=frame_skip,
    )
    waves = make_waves((-15, -5), [(4, 8), (2, 4)], [(0.4, 0.8), (1.0, 1.6)], [(0, 360), (0, 360)])
    return make_follow(
        limb,
        "AnkleTracking",
        trial=trial,
        waves=waves,
        seconds=seconds,
        stiffness=30.0,
        damping=1.0,
        width=5.0,
        tolerance=3.0,
        effort_weight=effort_weight,
        emg_noise=emg_noise,
        symmetric_action=symmetric_action,
    )
