"""``AnkleExo``: an exoskeleton at the ankle helps a person whose own EMG is too weak, too late and co-contracting.

The person sits with the foot free. Recorded EMG of tibialis anterior, soleus and gastrocnemius drives the muscles,
through the subject's gains and delays and through the impairment; ankle muscles without a channel are passive. The
target is the motion of the same recording: what the person did without impairment. The action is the torque of the
device. Nothing touches the ground: this is the open chain of an exercise, or of a foot that drops, not of push-off.
Success: a root mean square error below 4 degrees. An episode lasts 4 s from anywhere in the recording.
"""

from __future__ import annotations

from nms_gym.envs.actuation import motor_of
from nms_gym.envs.device import MotorOptions
from nms_gym.envs.follow import Follow, make_follow
from nms_gym.envs.options import SeatedLeg, TimeOptions, builds
from nms_gym.envs.person import ImpairedPersonOptions, load_limb, typical_impairment
from nms_gym.envs.recordings import RecordedEpisode, ReplayOptions
from nms_gym.envs.sources import OWN, SourceOptions


@builds("AnkleExo")
def make_ankle_exo(
    person: ImpairedPersonOptions = ImpairedPersonOptions(subject="right_leg"),
    sources: SourceOptions = SourceOptions(),
    posture: SeatedLeg = SeatedLeg(),
    replay: ReplayOptions = ReplayOptions(trial=("foot_1", "foot_2", "foot_3"), random_start=True),
    episode: RecordedEpisode = RecordedEpisode(seconds=4.0),
    motor: MotorOptions = MotorOptions(),
    time: TimeOptions = TimeOptions(),
) -> Follow:
    """Help an impaired ankle."""
    limb = load_limb(
        person,
        ["ankle_angle_r"],
        held=posture.held(),
        sources=sources,
        default_source=OWN,
        condition=typical_impairment,
        time=time,
    )
    return make_follow(
        "AnkleExo",
        limb,
        motor_of(limb, motor),
        replay=replay,
        seconds=episode.seconds,
        stiffness=60.0,
        damping=1.5,
        width=5.0,
        tolerance=4.0,
    )
