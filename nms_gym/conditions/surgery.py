"""Tendon transfer: a muscle is given another one's path and a new tension."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nms_gym._pytree import pytree, replace, static
from nms_gym.conditions.common import cast, checked, require_names, traced
from nms_gym.errors import InputError, listed
from nms_gym.model.condition import Condition, Params
from nms_gym.model.structure import NmsModel
from nms_gym.muscle import hill
from nms_gym.muscle.curves import Curves
from nms_gym.muscle.geometry import PolynomialPaths, SpanGroup, check_domain, lengths_and_moment_arms
from nms_gym.muscle.hill import MuscleParams
from nms_gym.muscle.tendon import TendonKind


def rerouted(paths: PolynomialPaths, donor: str, recipient: str) -> PolynomialPaths:
    """Paths in which ``donor`` runs as ``recipient`` does; names and order stay."""
    given, taken = paths.muscles.index(donor), paths.muscles.index(recipient)
    groups, coefficients = [], []
    for group, array in zip(paths.groups, paths.coefficients, strict=True):
        members = [(m, place) for place, m in enumerate(group.muscles) if m != given]
        members += [(given, place) for place, m in enumerate(group.muscles) if m == taken]
        if members:
            groups.append(SpanGroup(tuple(m for m, _ in members), group.coordinates, group.degree))
            coefficients.append(array[np.array([place for _, place in members], np.int32)])
    return replace(paths, groups=tuple(groups), coefficients=tuple(coefficients))


@pytree
class TendonTransfer(Condition):
    """``donor`` on the path of ``recipient``, tensioned at a pose."""

    donor: str = static()
    recipient: str = static()
    pose: Array
    """``(D,)`` rad, in the order of the paths' coordinates"""
    fiber_length: Any
    """normalised, of the donor at ``pose``"""
    activation: Any
    """at which the donor has that fiber length"""

    def prepare(self, model: NmsModel, params: Params) -> tuple[NmsModel, Params]:
        """Model with the new path, and parameters with the new tendon slack length of the donor.

        Raises:
            InputError: the donor's fibers are longer than the whole path.
        """
        assert model.paths is not None  # by tendon_transfer
        paths = rerouted(model.paths, self.donor, self.recipient)
        i, kind = model.muscles.index(self.donor), model.tendons
        kind = kind if isinstance(kind, str) else kind[i]
        slack, whole = _tensioned(kind, model.settings.curves, i, paths.muscles.index(self.donor), paths, params, self)
        if not traced(slack) and slack <= 0:
            raise InputError(
                f"{self.donor!r} cannot be transferred to the path of {self.recipient!r}: its fibers alone are longer "
                f"than that, {float(whole):.4f} m at the pose given; choose a shorter fiber_length or another pose"
            )
        others = np.arange(len(model.muscles)) != i
        slack = jnp.where(others, params.tendon_slack_length, slack)
        return replace(model, paths=paths), replace(params, tendon_slack_length=slack)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _tensioned(
    kind: TendonKind,
    curves: Curves,
    muscle: int,
    path: int,
    paths: PolynomialPaths,
    params: MuscleParams,
    transfer: TendonTransfer,
) -> tuple[Array, Array]:
    """Tendon slack length with which a muscle at rest is as long as its path, and that path's length; m."""
    t = cast(transfer, jnp.result_type(params.tendon_slack_length))
    whole = lengths_and_moment_arms(paths, t.pose)[0][path]
    w = hill.along_tendon(params, t.fiber_length)
    tendon = whole - (params.optimal_fiber_length * w)[muscle]
    if kind == "elastic":
        force = hill.force_along_tendon(curves, params, t.activation, w, t.fiber_length, jnp.zeros_like(w))
        tendon = tendon / curves.tendon_length(force, params.tendon_strain_at_one_norm_force)[muscle]
    return tendon, whole


def tendon_transfer(
    model: NmsModel,
    *,
    donor: str,
    recipient: str,
    pose: Mapping[str, float],
    fiber_length: Any = 1.0,
    activation: Any = 0.0,
) -> TendonTransfer:
    """Surgery: ``donor`` takes over the whole path of ``recipient``: its lengths, its moment arms.

    The donor keeps its name, its fibers and its drive; its tendon is cut so that its fibers have ``fiber_length`` at
    ``pose``, as the surgeon's tensioning sets it. Simplification: a real donor keeps its own origin, so its moment arms
    at joints that only one of the two muscles spans are not those of either.

    Args:
        model: with paths.
        donor: muscle that is moved.
        recipient: muscle whose path it gets; it stays where it is.
        pose: rad by coordinate; those that the recipient spans are needed.
        fiber_length: of the donor at the pose, over optimal, 0.3 to 1.5.
        activation: of the donor at which this holds, 0 (passive) to 1.

    Raises:
        InputError: the model has no paths, an unknown muscle or coordinate, a pose that is incomplete or outside the
            domain of the paths, or a number out of range.
    """
    if model.paths is None:
        raise InputError("tendon_transfer needs a model with muscle paths; this one has none")
    require_names([donor, recipient], model.muscles, "muscle")
    paths = model.paths
    if not isinstance(pose, Mapping):
        raise InputError(f"pose is {pose!r}; give a mapping of coordinates to rad")
    if pose:
        require_names(list(pose), paths.coordinates, "coordinate")
    if missing := [name for name in paths.span(recipient) if name not in pose]:
        raise InputError(f"pose lacks {listed(missing)}, which {recipient!r} spans; give it in rad")
    # The recipient does not depend on the others, which may stand anywhere.
    middle = np.asarray(paths.domain, dtype=float).mean(axis=1)
    angles = [
        checked(pose.get(name, value), f"pose of {name!r} (rad)", -2 * math.pi, 2 * math.pi)
        for name, value in zip(paths.coordinates, middle.tolist(), strict=True)
    ]
    if not any(traced(angle) for angle in angles):
        check_domain(paths, angles, source="pose of the tendon transfer")
        stacked: Any = np.array(angles, dtype=float)
    else:
        stacked = jnp.stack([jnp.asarray(angle) for angle in angles])
    return TendonTransfer(
        donor,
        recipient,
        stacked,
        checked(fiber_length, "fiber_length", 0.3, 1.5),
        checked(activation, "activation", 0.0, 1.0),
    )
