"""``LegSwing``: swing the leg as in walking, hip, knee and ankle, with 40 muscles and a fixed pelvis.

The target is the swing phase of a recorded trial; the shipped ones are made up from typical joint angles of walking at
three speeds (``examples/build_trials.py``). Hip adduction and rotation are held at 0, and nothing touches the ground.
The episode starts on the target at toe-off, moving. Success: a root mean square error of the three joints below 6
degrees. An episode is as long as the trial: shipped ones last 0.38 to 0.5 s.
"""

from __future__ import annotations

from nms_gym.envs.actuation import MuscleOptions, muscles_of
from nms_gym.envs.follow import Follow, make_follow
from nms_gym.envs.options import TimeOptions, builds
from nms_gym.envs.person import PersonOptions, load_limb
from nms_gym.envs.recordings import RecordedEpisode, ReplayOptions
from nms_gym.envs.sources import SourceOptions


@builds("LegSwing")
def make_leg_swing(
    person: PersonOptions = PersonOptions(subject="right_leg"),
    sources: SourceOptions = SourceOptions(synergies="action"),
    replay: ReplayOptions = ReplayOptions(trial=("swing_slow", "swing_normal", "swing_fast")),
    episode: RecordedEpisode = RecordedEpisode(),
    muscles: MuscleOptions = MuscleOptions(),
    time: TimeOptions = TimeOptions(),
) -> Follow:
    """Follow the joint angles of a swinging leg."""
    limb = load_limb(
        person, ["hip_flexion_r", "knee_angle_r", "ankle_angle_r"], sources=sources, actions=muscles, time=time
    )
    return make_follow(
        "LegSwing",
        limb,
        muscles_of(limb, muscles),
        replay=replay,
        seconds=episode.seconds,
        stiffness=(600.0, 250.0, 100.0),
        damping=(40.0, 12.0, 3.0),
        width=8.0,
        tolerance=6.0,
    )
