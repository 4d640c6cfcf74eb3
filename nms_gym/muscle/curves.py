"""Normalised muscle curves.

Lengths are normalised by ``optimal_fiber_length`` (fiber) or ``tendon_slack_length`` (tendon), velocities by
``max_contraction_velocity * optimal_fiber_length`` (positive lengthening), forces by ``max_isometric_force``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import jax.numpy as jnp
from jax import Array


class Curves(Protocol):
    """A muscle family: four curves and the inverse of the tendon's, elementwise and smooth on the whole line."""

    @property
    def name(self) -> str:
        """The family's name in files."""
        ...

    @property
    def defaults(self) -> Mapping[str, float]:
        """Muscle parameters of the family's source, by name, for what a model does not say."""
        ...

    saturates_damping: ClassVar[bool]
    """whether the damping of a shortening fiber takes away no more than it pulls, where the tendon is rigid"""

    def active_force_length(self, length: Array) -> Array:
        """Active force multiplier at a normalised fiber length."""
        ...

    def force_velocity(self, velocity: Array) -> Array:
        """Force multiplier at a normalised fiber velocity."""
        ...

    def passive_force_length(self, length: Array, strain: Array) -> Array:
        """Passive fiber force; ``strain`` is ``passive_fiber_strain_at_one_norm_force``."""
        ...

    def tendon_force(self, length: Array, strain: Array) -> Array:
        """Tendon force at a normalised tendon length; ``strain`` is ``tendon_strain_at_one_norm_force``."""
        ...

    def tendon_length(self, force: Array, strain: Array) -> Array:
        """Inverse of ``tendon_force``; continued smoothly where no length gives the force."""
        ...


@dataclass(frozen=True)
class DeGrooteFregly2016:
    """Curves of De Groote et al. 2016 (10.1007/s10439-016-1591-9), as OpenSim's DeGrooteFregly2016Muscle has them.

    The constants are OpenSim's (``DeGrooteFregly2016Muscle.h``), which departs from the paper's supplement where its
    curves miss their key points: the exponents of the active curve are squared (a typo there), its first amplitude
    makes the curve 1 at optimal length, the force-velocity constants make it 0 at -1 and 1 at 0, the passive curve
    is shifted to 0 at length 0.2, and the tendon curve (c2 = 1, c3 = 0.2; paper 0.995, 0.25) is 0 at slack length
    and 1 at ``tendon_strain_at_one_norm_force`` (paper: kT = 35). Verified against OpenSim 4.6 in
    ``tests/test_curves.py``.
    """

    saturates_damping: ClassVar[bool] = False
    name: str = "DeGrooteFregly2016"
    # Three Gaussians: amplitude, centre, width, slope of the width (paper eq. S1).
    b1: tuple[float, ...] = (0.8150671134243542, 1.055033428970575, 0.162384573599574, 0.063303448465465)
    b2: tuple[float, ...] = (0.433004984392647, 0.716775413397760, -0.029947116970696, 0.200356847296188)
    b3: tuple[float, ...] = (0.1, 1.0, 0.353553390593274, 0.0)
    # Force-velocity (paper eq. S3).
    d1: float = -0.3211346127989808
    d2: float = -8.149
    d3: float = -0.374
    d4: float = 0.8825327733249912
    # Passive force-length (paper eq. S2).
    k_pe: float = 4.0
    min_length: float = 0.2
    # Tendon force-length (paper eq. S4).
    c1: float = 0.200
    c2: float = 1.0
    c3: float = 0.200

    @property
    def defaults(self) -> Mapping[str, float]:
        """OpenSim's strains."""
        return {"passive_fiber_strain_at_one_norm_force": 0.6, "tendon_strain_at_one_norm_force": 0.049}

    def active_force_length(self, length: Array) -> Array:
        """Sum of three Gaussians of variable width; 1 at 1."""

        def gaussian(b: tuple[float, ...]) -> Array:
            width = b[2] + b[3] * length
            # The second width is zero near length 0.15, where the curve and its slope are zero; the small constant
            # keeps 0 * inf out of the derivative and changes the multiplier by less than 1e-10 elsewhere.
            return b[0] * jnp.exp(-0.5 * (length - b[1]) ** 2 / (width**2 + 1e-12))

        return gaussian(self.b1) + gaussian(self.b2) + gaussian(self.b3)

    def force_velocity(self, velocity: Array) -> Array:
        """``d1 asinh(d2 v + d3) + d4``, the paper's logarithm written without cancellation; 0 at -1, 1 at 0."""
        z = self.d2 * velocity + self.d3
        # asinh is odd. XLA's own is several times slower on a CPU: it guards against overflow, impossible here.
        one = jnp.ones_like(z)
        side = jnp.where(z < 0.0, -one, one)
        return self.d1 * side * jnp.log(side * z + jnp.sqrt(z * z + 1.0)) + self.d4

    def passive_force_length(self, length: Array, strain: Array) -> Array:
        """Exponential; 0 at length 0.2, 1 at ``1 + strain``."""
        offset = jnp.exp(self.k_pe * (self.min_length - 1.0) / strain)
        return (jnp.exp(self.k_pe * (length - 1.0) / strain) - offset) / (math.exp(self.k_pe) - offset)

    def _tendon_stiffness(self, strain: Array) -> Array:
        return math.log((1.0 + self.c3) / self.c1) / (1.0 + strain - self.c2)

    def tendon_force(self, length: Array, strain: Array) -> Array:
        """``c1 exp(kT (l - c2)) - c3``; 0 at 1, 1 at ``1 + strain``, tending to -0.2 in a slack tendon."""
        return self.c1 * jnp.exp(self._tendon_stiffness(strain) * (length - self.c2)) - self.c3

    def tendon_length(self, force: Array, strain: Array) -> Array:
        """Inverse of ``tendon_force``; below -0.18, near the asymptote, its logarithm goes on along its tangent."""
        y = force + self.c3
        y_min = 0.1 * self.c3
        above = y > y_min
        logarithm = jnp.log(jnp.where(above, y, y_min)) + jnp.where(above, 0.0, (y - y_min) / y_min)
        return (logarithm - math.log(self.c1)) / self._tendon_stiffness(strain) + self.c2
