"""Muscle curves of the NMSM Pipeline, and the constant pennation that it assumes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import jax.numpy as jnp
from jax import Array

from nms_gym._pytree import replace
from nms_gym.muscle.curves import DeGrooteFregly2016
from nms_gym.muscle.hill import MuscleParams

Params = TypeVar("Params", bound=MuscleParams)

_TENDON = DeGrooteFregly2016()


@dataclass(frozen=True)
class MeyerFregly2017:
    """Curves of the NMSM Pipeline (Meyer et al. 2017, 10.1371/journal.pone.0179698; rcnl-org/nmsm-core, MATLAB).

    The constants are those of v1.5.0 (2026-01), which brought them close to OpenSim's; ``nmsm_1_4()`` has those in use
    up to v1.4.3, with which everything before was calibrated. The two differ by 0.0006 in active force, 0.0005 in
    force-velocity.

    Departures: NMSM's tendons are rigid, so an elastic one here takes De Groote and Fregly's tendon curve; and NMSM's
    passive curve has no parameter, so here its strain at one norm force (0.6749) can be changed, which stretches the
    curve about optimal length. With ``defaults``, ``constant_pennation`` and a rigid tendon, forces are NMSM's to
    1e-10 (``tests/test_nmsm_parity.py``) where fibers are longer than 0.4 optimal lengths.
    """

    saturates_damping: ClassVar[bool] = False
    name: str = "MeyerFregly2017"
    # Three Gaussians: amplitude, centre, width, slope of the width.
    b1: tuple[float, ...] = (0.8174335195120225, 1.054348561163096, 0.16194288662761705, 0.06381565266097716)
    b2: tuple[float, ...] = (0.43130780147182907, 0.7163004817144202, -0.029060905806803296, 0.19835014521987723)
    b3: tuple[float, ...] = (0.1, 1.0, 0.353553390593274, 0.0)
    # Force-velocity.
    d: tuple[float, ...] = (
        -32.51401019139919,
        22.160392466960214,
        18.7932134796918,
        6.320952269683997,
        -0.27671677680513945,
        8.053304562566995,
    )
    # Passive force-length.
    e: tuple[float, ...] = (0.232000797810576, 12.438535493526128, 1.329470475731338)

    @property
    def defaults(self) -> Mapping[str, float]:
        """The strain that leaves the passive curve as it is; no damping."""
        return {
            "fiber_damping": 0.0,
            "passive_fiber_strain_at_one_norm_force": self._passive_strain,
            "tendon_strain_at_one_norm_force": 0.049,
        }

    @property
    def _passive_strain(self) -> float:
        return math.log(math.expm1(1.0 / self.e[0])) / self.e[1] + self.e[2] - 1.0

    def active_force_length(self, length: Array) -> Array:
        """Sum of three Gaussians of variable width; 1 at 1."""
        return DeGrooteFregly2016(b1=self.b1, b2=self.b2, b3=self.b3).active_force_length(length)

    def force_velocity(self, velocity: Array) -> Array:
        """``d1 + d2 atan(d3 + d4 atan(d5 + d6 v))``; 0 at -1, 1 at 0 (up to v1.4.3 within 5e-4)."""
        d1, d2, d3, d4, d5, d6 = self.d
        return d1 + d2 * jnp.arctan(d3 + d4 * jnp.arctan(d5 + d6 * velocity))

    def passive_force_length(self, length: Array, strain: Array) -> Array:
        """``e1 log(1 + exp(e2 (l - e3)))``, stretched so that it is 1 at ``1 + strain``."""
        e1, e2, e3 = self.e
        return e1 * jnp.logaddexp(0.0, e2 * ((length - 1.0) * (self._passive_strain / strain) + 1.0 - e3))

    def tendon_force(self, length: Array, strain: Array) -> Array:
        """De Groote and Fregly's."""
        return _TENDON.tendon_force(length, strain)

    def tendon_length(self, force: Array, strain: Array) -> Array:
        """Inverse of ``tendon_force``."""
        return _TENDON.tendon_length(force, strain)


def nmsm_1_4() -> MeyerFregly2017:
    """Curves of the NMSM Pipeline up to v1.4.3, whose active constants are those printed by De Groote et al. 2016."""
    return MeyerFregly2017(
        b1=(0.814483478343008, 1.055033428970575, 0.162384573599574, 0.063303448465465),
        b2=(0.433004984392647, 0.716775413397760, -0.029947116970696, 0.200356847296188),
        d=(
            -12.4090551101489,
            9.35818070443882,
            7.93116233095206,
            2.70637350085154,
            -0.274108493130008,
            8.03512618783281,
        ),
    )


def constant_pennation(params: Params) -> Params:
    """Muscles whose pennation does not change with length, as NMSM has them.

    A fiber at a constant angle is a straight one of length ``optimal_fiber_length cos`` and force
    ``max_isometric_force cos``. (Normalised lengths and velocities are the same along the fiber and along the tendon.)
    """
    cosine = jnp.cos(params.pennation_at_optimal)
    return replace(
        params,
        pennation_at_optimal=jnp.zeros_like(cosine),
        optimal_fiber_length=params.optimal_fiber_length * cosine,
        max_isometric_force=params.max_isometric_force * cosine,
    )
