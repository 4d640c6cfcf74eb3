"""``LegSwing``: swing the leg as in walking, hip, knee and ankle, with 40 muscles and a fixed pelvis.

The target is the swing phase of a recorded trial; the shipped ones are made up from typical joint angles of walking at
three speeds (``examples/build_trials.py``). Hip adduction and rotation are held at 0, and nothing touches the ground.
The episode starts on the target at toe-off, moving. Success: a root mean square error of the three joints below 6
degrees. An episode is as long as the trial: shipped ones last 0.38 to 0.5 s.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from nms_gym.envs.follow import Follow
from nms_gym.envs.follow_making import follower_limb, make_follow
from nms_gym.envs.recordings import Names

EFFORT_WEIGHT = 0.1
SWINGS = ("swing_slow", "swing_normal", "swing_fast")


def make_leg_swing(
    subject: str | os.PathLike[str] | None = None,
    posterior: bool | str | os.PathLike[str] = False,
    condition: Sequence[Mapping[str, Any] | str] | None = None,
    sources: Mapping[str, str] | str | None = None,
    synergies: str = "action",
    trial: Names | None = None,
    start: float | None = None,
    stop: float | None = None,
    emg_noise: float = 0.0,
    tendon: str | None = None,
    effort_weight: float = EFFORT_WEIGHT,
    symmetric_action: bool = False,
    dt: float = 0.01,
    frame_skip: int = 1,
) -> Follow:
    """Follow the joint angles of a swinging leg.

    Args:
        subject: path of a subject file with hip, knee and ankle; by default the shipped right leg.
        posterior: True, or a path, to draw a person of the calibration's posterior at every reset.
        condition: what ails the person, for example ``[{"name": "weakness", "severity": 0.3}]``.
        sources: muscle -> "policy", "recorded", "synergy" or "passive"; by default all "policy".
        synergies: who commands the synergies of muscles with that source: "action", or "recorded".
        trial: recording with the motion to follow, or several of which a reset draws one; by default shipped ones.
        start: s, in the recording's time; by default its first sample.
        stop: s; by default its last.
        emg_noise: relative standard deviation of replayed EMG, drawn anew at every sample.
        tendon: "rigid" or "elastic" instead of the subject's.
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
        ("hip_flexion_r", "knee_angle_r", "ankle_angle_r"),
        sources=sources,
        synergies=synergies,
        condition=condition,
        tendon=tendon,
        dt=dt,
        frame_skip=frame_skip,
    )
    return make_follow(
        limb,
        "LegSwing",
        trial=trial,
        default_trial=SWINGS,
        start=start,
        stop=stop,
        stiffness=(600.0, 250.0, 100.0),
        damping=(40.0, 12.0, 3.0),
        width=8.0,
        tolerance=6.0,
        effort_weight=effort_weight,
        emg_noise=emg_noise,
        symmetric_action=symmetric_action,
    )
