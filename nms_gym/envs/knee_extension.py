"""``KneeExtension``: sitting, extend the knee and bend it again, following a target angle.

The thigh is held at 70 degrees of hip flexion, the ankle at 0; the shank swings against gravity. 13 muscles cross the
knee, the quadriceps lift it. The target goes from a drawn bent angle (70 to 90 degrees) to a drawn extended one (10 to
30 degrees) and back every 2 to 3.3 s. Success: a root mean square error below 5 degrees. An episode lasts 4 s.
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


def make_knee_extension(
    subject: str | os.PathLike[str] | None = None,
    posterior: bool | str | os.PathLike[str] = False,
    condition: Sequence[Mapping[str, Any] | str] | None = None,
    sources: Mapping[str, str] | str | None = None,
    trial: Names | None = None,
    emg_noise: float = 0.0,
    tendon: str | None = None,
    hip: float = 1.22,
    seconds: float = 4.0,
    effort_weight: float = EFFORT_WEIGHT,
    symmetric_action: bool = False,
    dt: float = 0.01,
    frame_skip: int = 1,
) -> Follow:
    """Follow an angle of the knee, seated.

    Args:
        subject: path of a subject file with the joint ``knee_angle_r``; by default the shipped right leg.
        posterior: True, or a path, to draw a person of the calibration's posterior at every reset.
        condition: what ails the person, for example ``[{"name": "weakness", "severity": 0.3}]``.
        sources: muscle -> "policy", "recorded", "synergy" or "passive"; by default all "policy".
        trial: recording whose EMG is replayed on muscles with the source "recorded".
        emg_noise: relative standard deviation of that EMG, drawn anew at every sample.
        tendon: "rigid" or "elastic" instead of the subject's.
        hip: rad, flexion at which the thigh is held.
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
        ("knee_angle_r",),
        locked={"hip_flexion_r": hip},
        sources=sources,
        condition=condition,
        tendon=tendon,
        dt=dt,
        frame_skip=frame_skip,
    )
    waves = make_waves((45, 55), [(25, 35)], [(0.3, 0.5)], [(90, 90)])
    return make_follow(
        limb,
        "KneeExtension",
        trial=trial,
        waves=waves,
        seconds=seconds,
        stiffness=150.0,
        damping=10.0,
        width=8.0,
        tolerance=5.0,
        effort_weight=effort_weight,
        emg_noise=emg_noise,
        symmetric_action=symmetric_action,
    )
