"""Models that tests of several folders share: the shipped arm, and muscles of OpenSim's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from nms_gym._assets import asset_path
from nms_gym.files.model_file import read_model_file
from nms_gym.model.parameters import NmsParams, make_params
from nms_gym.model.structure import NmsModel, Settings
from nms_gym.muscle.hill import MuscleParams
from nms_gym.recording.trial import Trial

# --- the arm: shoulder and elbow, TRIlong, TRIlat, TRImed, BIClong, BICshort, BRA ---

ARM = read_model_file(asset_path("arm/model.json"))
# A channel drives the muscles named, with these weights.
THREE_CHANNELS = {
    "triceps": {"TRIlong": 1.0, "TRIlat": 1.0, "TRImed": 1.0},
    "biceps": {"BIClong": 1.0, "BICshort": 1.0},
    "brachialis": {"BRA": 1.0},
}


def arm_model(channels: Mapping[str, Mapping[str, float]] | None = None, **settings: Any) -> NmsModel:
    """The arm with these channels; without any, each muscle has one of its own name."""
    channels = {m: {m: 1.0} for m in ARM.muscles} if channels is None else channels
    weights = np.array([[driven.get(m, 0.0) for driven in channels.values()] for m in ARM.muscles])
    return NmsModel(ARM.muscles, ARM.coordinates, tuple(channels), Settings(**settings), weights, ARM.paths)


def arm_params(model: NmsModel, **values: Any) -> NmsParams:
    """Parameters of the model file and defaults, except ``values``."""
    return make_params(model, {**ARM.parameters, **values})


def reach(channels: Sequence[str], seed: int = 0, seconds: float = 0.6, mixing: Any = None) -> Trial:
    """A random reach of the arm at 100 Hz, with moments that have nothing to do with it.

    Channels are smooth, or what ``mixing (commands, channels)`` makes of smooth commands.
    """
    rng = np.random.default_rng(seed)
    t = 0.01 * np.arange(round(seconds / 0.01) + 1)

    def smooth(count: int, rate: Any = None) -> np.ndarray:
        rate = rng.uniform(0.5, 2, count) if rate is None else np.asarray(rate)
        return np.sin(2 * np.pi * rate * t[:, None] + rng.uniform(0, 6, count))

    low, high = ARM.coordinate_range.T
    q = 0.5 * (low + high) + 0.2 * (high - low) * smooth(2, (0.8, 1.1))
    mixing = np.eye(len(channels)) if mixing is None else np.asarray(mixing)
    emg = (0.4 + 0.35 * smooth(len(mixing))) @ mixing
    moments = np.array([8.0, 5.0]) * smooth(2)
    qd = np.gradient(q, t, axis=0)
    return Trial(f"reach{seed}", t, ARM.coordinates, q, qd, tuple(channels), t, emg, ARM.coordinates, moments)


# --- muscles of OpenSim's tables ---


def muscles(rows: Any, **changes: Any) -> MuscleParams:
    """Parameters of rows (F0, lopt, slack, pennation), or (F0, lopt, slack, pennation, vmax); ``changes`` by name."""
    columns = np.atleast_2d(np.asarray(rows, dtype=float)).T
    params = {
        "max_isometric_force": columns[0],
        "optimal_fiber_length": columns[1],
        "tendon_slack_length": columns[2],
        "pennation_at_optimal": columns[3],
        "max_contraction_velocity": columns[4] if len(columns) > 4 else 10.0,
        "fiber_damping": 0.1,
        "passive_fiber_strain_at_one_norm_force": 0.6,
        "tendon_strain_at_one_norm_force": 0.049,
        "optimal_fiber_length_change": 0.0,
        **changes,
    }
    return MuscleParams(**{k: jnp.broadcast_to(jnp.asarray(v), columns.shape[1:]) for k, v in params.items()})


def opensim_table(data: Any, name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns of one of OpenSim's tables by name, and (F0, lopt, slack, pennation) of every row."""
    file = np.load(data("truth_muscle") / f"{name}.npz")
    columns = dict(zip((str(c) for c in file["columns"]), file["data"].T, strict=True))
    return columns, file["param_sets"][columns["param_set"].astype(int)]
