"""What impairs a person, or was done to one: transforms of model, parameters and excitations; see ``condition``."""

from nms_gym.conditions.common import Composed, compose
from nms_gym.conditions.drive import cocontraction, paresis
from nms_gym.conditions.fatigue import FATIGUE_CONSTANTS, fatigue
from nms_gym.conditions.parameters import (
    contracture,
    electrode_loss,
    electromechanical_delay,
    sarcopenia,
    tendon_compliance,
    weakness,
)
from nms_gym.conditions.reflex import spasticity
from nms_gym.conditions.registry import CONDITIONS, conditions_from_spec, make_condition
from nms_gym.conditions.surgery import tendon_transfer
from nms_gym.model.condition import Condition

__all__ = [
    "CONDITIONS",
    "FATIGUE_CONSTANTS",
    "Composed",
    "Condition",
    "cocontraction",
    "compose",
    "conditions_from_spec",
    "contracture",
    "electrode_loss",
    "electromechanical_delay",
    "fatigue",
    "make_condition",
    "paresis",
    "sarcopenia",
    "spasticity",
    "tendon_compliance",
    "tendon_transfer",
    "weakness",
]
