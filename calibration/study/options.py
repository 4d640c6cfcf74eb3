"""How a study's problem is solved: the options of ``fit``, checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from calibration.fitting import SOLVERS
from nms_gym.errors import InputError, listed


@dataclass(frozen=True)
class SolverOptions:
    """The ``[solver]`` table; see ``fit`` for what each option does."""

    name: str = "lm"
    starts: int = 4
    max_iterations: int | None = None
    learning_rate: float = 0.05
    tolerance: float = 1e-4
    seed: int = 0
    polish: bool = False
    """whether Levenberg-Marquardt goes on where another solver ended"""

    def __post_init__(self) -> None:
        if self.name not in SOLVERS:
            raise InputError(f"name is {self.name!r}; use one of {listed(SOLVERS)}")
        least = {"starts": 1, "max_iterations": 1, "learning_rate": 1e-9, "tolerance": 0, "seed": 0}
        for option, low in least.items():
            value = getattr(self, option)
            if value is not None and value < low:
                raise InputError(f"{option} is {value}; expected at least {low}")
        if self.polish and self.name == "lm":
            raise InputError("polish is Levenberg-Marquardt after another solver; name one, or leave it out")

    @property
    def fit_options(self) -> dict[str, Any]:
        """As ``fit`` takes them."""
        names = ("starts", "max_iterations", "learning_rate", "tolerance", "seed")
        return {"solver": self.name, **{name: getattr(self, name) for name in names}}
