"""A model that muscles can move, from a model file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nms_gym.errors import InputError
from nms_gym.excitation.channels import ChannelMap
from nms_gym.files.model_file import ModelFile
from nms_gym.model.parameters import NmsParams, make_params
from nms_gym.model.structure import NmsModel, Settings
from nms_gym.skeleton.skeleton import make_skeleton


def moving_model(
    file: ModelFile,
    coordinates: Sequence[str],
    *,
    prescribed: Sequence[str] = (),
    locked: Mapping[str, float] | None = None,
    muscles: Sequence[str] | None = None,
    channels: ChannelMap | None = None,
    settings: Settings | None = None,
    start: Mapping[str, Any] | None = None,
) -> tuple[NmsModel, NmsParams]:
    """A model that muscles can move, and its parameters, from a model file.

    Args:
        file: with paths and a skeleton, for example ``read_model_file(asset_path("arm/model.json"))``.
        coordinates: that are free to move.
        prescribed: coordinates whose motion will be given (a pelvis).
        locked: rad or m; every other coordinate stays there, or at its default.
        muscles: some of the file's; by default all.
        channels: who drives whom; by default every muscle has a channel of its own name, with no delay.
        settings: how the equations are solved; by default backward Euler for the tendon and first-order activation,
            as suits learning.
        start: parameters other than the file's, as ``make_params`` takes them.

    Raises:
        InputError: no paths or skeleton in the file, an unknown name, or a value that cannot be.
    """
    if file.paths is None or file.skeleton is None:
        missing = "muscle paths (nms-gym fit-paths)" if file.paths is None else "skeleton (build it from an .osim)"
        raise InputError(f"model {file.name!r} has no {missing}, so nothing can move it")
    skeleton = make_skeleton(file.skeleton, coordinates, prescribed=prescribed, locked=locked)
    kept = [name for name in file.coordinates if name in (*coordinates, *prescribed)]
    held = {
        name: (locked or {}).get(name, file.skeleton.coordinate(name).default)
        for name in file.coordinates
        if name not in kept
    }
    file = file.select(muscles=muscles, coordinates=kept, held_at=held)
    names = file.muscles if channels is None else channels.channels
    model = NmsModel(
        muscles=file.muscles,
        coordinates=tuple(kept),
        channels=names,
        settings=settings or Settings(integrator="backward_euler", activation="first_order", max_delay=0.01),
        channel_weights=np.eye(len(names)) if channels is None else channels.weights(names, file.muscles),
        paths=file.paths,
        skeleton=skeleton,
        specific_tension=file.specific_tension,
    )
    values = {"electromechanical_delay": 0.0, **file.parameters} if channels is None else file.parameters
    return model, make_params(model, {**values, **(start or {})})
