"""``AnkleExo``: an exoskeleton at the ankle helps a person whose own EMG is too weak, too late and co-contracting.

The person sits with the foot free. Recorded EMG of tibialis anterior, soleus and gastrocnemius drives the muscles,
through the subject's gains and delays and through what ails them; ankle muscles without a channel are passive. The
target is the motion of the same recording: what the person did when nothing ailed them. The action is the torque of the
device. Nothing touches the ground: this is the open chain of an exercise, or of a foot that drops, not of push-off.
Success: a root mean square error below 4 degrees. An episode lasts 4 s from anywhere in the recording.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from nms_gym.envs.device import make_actuator
from nms_gym.envs.follow import Follow
from nms_gym.envs.follow_making import follower_limb, impaired, make_follow
from nms_gym.envs.recordings import Names

HELP_WEIGHT = 0.5
TRIALS = ("foot_1", "foot_2", "foot_3")


def make_ankle_exo(
    subject: str | os.PathLike[str] | None = None,
    posterior: bool | str | os.PathLike[str] = False,
    condition: Sequence[Mapping[str, Any] | str] | None = None,
    sources: Mapping[str, str] | str | None = None,
    trial: Names | None = None,
    start: float | None = None,
    stop: float | None = None,
    seconds: float | None = 4.0,
    random_start: bool = True,
    emg_noise: float = 0.0,
    tendon: str | None = None,
    hip: float = 1.22,
    knee: float = 1.05,
    max_torque: float = 8.0,
    max_power: float = 60.0,
    bandwidth: float = 8.0,
    delay: float = 0.01,
    help_weight: float = HELP_WEIGHT,
    dt: float = 0.01,
    frame_skip: int = 1,
) -> Follow:
    """Help an impaired ankle.

    Args:
        subject: path of a subject file with the joint ``ankle_angle_r``; by default the shipped right leg.
        posterior: True, or a path, to draw a person of the calibration's posterior at every reset.
        condition: what ails the person; by default paresis (half of the drive is lost), 40 ms of additional delay and
            co-contraction of antagonists with a fifth of the drive. [] is a healthy person.
        sources: muscle -> "recorded", "synergy" or "passive"; by default the subject's own channels and synergies.
        trial: recording, or several of which a reset draws one: its EMG drives the muscles, its motion is the target.
        start: s, in the recording's time; by default its first sample.
        stop: s; by default its last.
        seconds: of an episode; None for the whole recording.
        random_start: start anywhere in the recording that leaves room for the episode, not at its first sample.
        emg_noise: relative standard deviation of the EMG, drawn anew at every sample.
        tendon: "rigid" or "elastic" instead of the subject's.
        hip: rad, flexion at which the thigh is held.
        knee: rad, flexion at which the shank is held.
        max_torque: N·m, of the device at an action of 1.
        max_power: W, mechanical.
        bandwidth: Hz, of the device's torque.
        delay: s, from action to torque.
        help_weight: of the mean squared torque, over the largest, in the reward.
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
        otherwise="recorded",
        condition=impaired if condition is None else condition,
        tendon=tendon,
        dt=dt,
        frame_skip=frame_skip,
    )
    device = make_actuator(
        1, max_torque=max_torque, max_power=max_power, bandwidth=bandwidth, delay=delay, dt=limb.control_dt
    )
    return make_follow(
        limb,
        "AnkleExo",
        trial=trial,
        default_trial=TRIALS,
        start=start,
        stop=stop,
        seconds=seconds,
        random_start=random_start,
        device=device,
        stiffness=60.0,
        damping=1.5,
        width=5.0,
        tolerance=4.0,
        help_weight=help_weight,
        emg_noise=emg_noise,
    )
