"""``AnkleTracking``: sitting, with the foot free, follow a target angle of the ankle.

The hip is held at 70 degrees, the knee at 60. 11 muscles cross the ankle; the foot is light (0.015 kg m^2) and the
Achilles tendon stiff. The target is the sum of two sinusoids: 4 to 8 degrees at 0.4 to 0.8 Hz and 2 to 4 degrees at 1
to 1.6 Hz, about -5 to -15 degrees. Success: a root mean square error below 3 degrees. An episode lasts 4 s.
"""

from __future__ import annotations

from nms_gym.envs.actuation import MuscleOptions, muscles_of
from nms_gym.envs.follow import Follow, make_follow
from nms_gym.envs.options import EpisodeOptions, SeatedLeg, TimeOptions, builds
from nms_gym.envs.person import PersonOptions, load_limb
from nms_gym.envs.recordings import ReplayOptions
from nms_gym.envs.sources import SourceOptions
from nms_gym.envs.targets import make_waves


@builds("AnkleTracking")
def make_ankle_tracking(
    person: PersonOptions = PersonOptions(subject="right_leg"),
    sources: SourceOptions = SourceOptions(),
    posture: SeatedLeg = SeatedLeg(),
    replay: ReplayOptions = ReplayOptions(),
    episode: EpisodeOptions = EpisodeOptions(seconds=4.0),
    muscles: MuscleOptions = MuscleOptions(),
    time: TimeOptions = TimeOptions(),
) -> Follow:
    """Follow an angle of the ankle, seated."""
    limb = load_limb(person, ["ankle_angle_r"], held=posture.held(), sources=sources, actions=muscles, time=time)
    return make_follow(
        "AnkleTracking",
        limb,
        muscles_of(limb, muscles),
        replay=replay,
        waves=make_waves((-15, -5), [(4, 8), (2, 4)], [(0.4, 0.8), (1.0, 1.6)], [(0, 360), (0, 360)]),
        seconds=episode.seconds,
        stiffness=30.0,
        damping=1.0,
        width=5.0,
        tolerance=3.0,
    )
