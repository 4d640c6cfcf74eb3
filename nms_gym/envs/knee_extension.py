"""``KneeExtension``: sitting, extend the knee and bend it again, following a target angle.

The thigh is held at 70 degrees of hip flexion, the ankle at 0; the shank swings against gravity. 13 muscles cross the
knee, the quadriceps lift it. The target goes from a drawn bent angle (70 to 90 degrees) to a drawn extended one (10 to
30 degrees) and back every 2 to 3.3 s. Success: a root mean square error below 5 degrees. An episode lasts 4 s.
"""

from __future__ import annotations

from nms_gym.envs.actuation import MuscleOptions, muscles_of
from nms_gym.envs.follow import Follow, make_follow
from nms_gym.envs.options import EpisodeOptions, SeatedThigh, TimeOptions, builds
from nms_gym.envs.person import PersonOptions, load_limb
from nms_gym.envs.recordings import ReplayOptions
from nms_gym.envs.sources import SourceOptions
from nms_gym.envs.targets import make_waves


@builds("KneeExtension")
def make_knee_extension(
    person: PersonOptions = PersonOptions(subject="right_leg"),
    sources: SourceOptions = SourceOptions(),
    posture: SeatedThigh = SeatedThigh(),
    replay: ReplayOptions = ReplayOptions(),
    episode: EpisodeOptions = EpisodeOptions(seconds=4.0),
    muscles: MuscleOptions = MuscleOptions(),
    time: TimeOptions = TimeOptions(),
) -> Follow:
    """Follow an angle of the knee, seated."""
    limb = load_limb(person, ["knee_angle_r"], held=posture.held(), sources=sources, actions=muscles, time=time)
    return make_follow(
        "KneeExtension",
        limb,
        muscles_of(limb, muscles),
        replay=replay,
        waves=make_waves((45, 55), [(25, 35)], [(0.3, 0.5)], [(90, 90)]),
        seconds=episode.seconds,
        stiffness=150.0,
        damping=10.0,
        width=8.0,
        tolerance=5.0,
    )
