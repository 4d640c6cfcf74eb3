"""``ElbowAssist``: a motor at the elbow helps a person whose own EMG is too weak, too late and co-contracting.

The person's recorded EMG drives the muscles, through the subject's gains and delays and through the impairment. The
target is the motion of the same recording: what the person did without impairment. The action is the torque of the
device, which is limited, slow and late itself. The reward asks for the motion with the least torque: help as needed.
Success: a root mean square error below 6 degrees. An episode lasts 4 s from anywhere in the recording.
"""

from __future__ import annotations

from nms_gym.envs.actuation import motor_of
from nms_gym.envs.device import MotorOptions
from nms_gym.envs.follow import Follow, make_follow
from nms_gym.envs.options import HangingArm, TimeOptions, builds
from nms_gym.envs.person import ImpairedPersonOptions, load_limb, typical_impairment
from nms_gym.envs.recordings import RecordedEpisode, ReplayOptions
from nms_gym.envs.sources import OWN, SourceOptions


@builds("ElbowAssist")
def make_elbow_assist(
    person: ImpairedPersonOptions = ImpairedPersonOptions(),
    sources: SourceOptions = SourceOptions(),
    posture: HangingArm = HangingArm(),
    replay: ReplayOptions = ReplayOptions(trial=("lift_1", "lift_2", "lift_3"), random_start=True),
    episode: RecordedEpisode = RecordedEpisode(seconds=4.0),
    motor: MotorOptions = MotorOptions(),
    time: TimeOptions = TimeOptions(),
) -> Follow:
    """Help an impaired elbow."""
    limb = load_limb(
        person,
        ["r_elbow_flex"],
        held=posture.held(),
        sources=sources,
        default_source=OWN,
        condition=typical_impairment,
        time=time,
    )
    return make_follow(
        "ElbowAssist",
        limb,
        motor_of(limb, motor),
        replay=replay,
        seconds=episode.seconds,
        stiffness=15.0,
        damping=1.0,
        width=8.0,
        tolerance=6.0,
    )
