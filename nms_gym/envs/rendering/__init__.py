"""Pictures and films of episodes, drawn without a display."""

from nms_gym.envs.rendering.film import Film, play_environment, record, write_film, write_picture
from nms_gym.envs.rendering.picture import History, draw
from nms_gym.envs.rendering.scene import (
    Body,
    Line,
    Scene,
    Strip,
    angle_strip,
    moment_strip,
    stimulation_strip,
    torque_strip,
)

__all__ = [
    "Body",
    "Film",
    "History",
    "Line",
    "Scene",
    "Strip",
    "angle_strip",
    "draw",
    "moment_strip",
    "play_environment",
    "record",
    "stimulation_strip",
    "torque_strip",
    "write_film",
    "write_picture",
]
