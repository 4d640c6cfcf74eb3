"""``FesElbow``: electrical stimulation moves a paralysed elbow that tires, with the least charge.

Nothing but surface electrodes over biceps and triceps excites the muscles; the brachialis lies deeper and gets a part
of the biceps's field. The action is the width of the pulses. Stimulated muscle tires: the fatigue condition of the
elbow at ``fatigue_rate`` times the published rates of voluntary contraction, because stimulation recruits the same
motor units at every pulse. The target is a slow wave (0.2 to 0.35 Hz, 20 to 30 degrees about 55 to 65). Success: a root
mean square error below 8 degrees. An episode lasts 8 s.
"""

from __future__ import annotations

from dataclasses import dataclass

from nms_gym._pytree import replace
from nms_gym.envs.actuation import stimulation_of
from nms_gym.envs.device import StimulationOptions
from nms_gym.envs.follow import Follow, make_follow
from nms_gym.envs.options import EpisodeOptions, HangingArm, Options, TimeOptions, builds, option
from nms_gym.envs.person import PersonOptions, load_limb
from nms_gym.envs.sources import DelayOptions, SourceOptions
from nms_gym.envs.targets import make_waves

ELECTRODES: dict[str, dict[str, float]] = {
    "biceps": {"BIClong": 1.0, "BICshort": 1.0, "BRA": 0.3},
    "triceps": {"TRIlong": 1.0, "TRIlat": 1.0, "TRImed": 0.5},
}
"""Electrode -> muscle -> share of the field; choices of this package."""


@dataclass(frozen=True, kw_only=True)
class FatigueOptions(Options):
    """How stimulated muscle tires."""

    fatigue_rate: float = option(4.0, "of the fatigue condition; 0 for muscles that do not tire")


@builds("FesElbow")
def make_fes_elbow(
    person: PersonOptions = PersonOptions(),
    posture: HangingArm = HangingArm(),
    stimulation: StimulationOptions = StimulationOptions(electrodes=ELECTRODES),
    fatigue: FatigueOptions = FatigueOptions(),
    delay: DelayOptions = DelayOptions(),
    episode: EpisodeOptions = EpisodeOptions(seconds=8.0),
    time: TimeOptions = TimeOptions(),
) -> Follow:
    """Move an elbow by stimulation."""
    conditions = list(person.condition or ())
    if fatigue.fatigue_rate:
        conditions.append({"name": "fatigue", "joint": "elbow", "rate": fatigue.fatigue_rate})
    stimulated = sorted({m for shares in stimulation.electrodes.values() for m in shares})
    limb = load_limb(
        replace(person, condition=conditions),
        ["r_elbow_flex"],
        held=posture.held(),
        sources=SourceOptions(sources=dict.fromkeys(stimulated, "policy")),
        default_source="passive",
        actions=delay,
        time=time,
    )
    return make_follow(
        "FesElbow",
        limb,
        stimulation_of(limb, stimulation),
        waves=make_waves((55, 65), [(20, 30)], [(0.2, 0.35)], [(0, 360)]),
        seconds=episode.seconds,
        stiffness=12.0,
        damping=1.0,
        width=10.0,
        tolerance=8.0,
    )
