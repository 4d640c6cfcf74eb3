"""Rebuild the shipped trials that environments replay: all of them made up, and labelled so.

    python examples/build_trials.py [--out assets/trials]

``lift_*`` (elbow) and ``foot_*`` (ankle): a simulated person follows a smooth angle with a spring-like controller
whose moments are shared out to EMG channels; what the channels were is the EMG, how the limb moved is the motion.
``swing_*``: hip, knee and ankle angles of the swing phase of level walking, smooth curves through typical values to a
few degrees, at three speeds; nobody's measurement, and no EMG.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.ndimage import gaussian_filter1d

from nms_gym.envs.limb import Limb
from nms_gym.envs.options import HangingArm, SeatedLeg, TimeOptions
from nms_gym.envs.person import PersonOptions, load_person, make_limb
from nms_gym.envs.scripted import excitations_for
from nms_gym.envs.sources import OWN
from nms_gym.envs.task import as_dtype
from nms_gym.recording.trial import Trial, check_trial

STEP, DURATION = 0.01, 10.0

# Hip, knee and ankle in degrees over the swing phase, from toe-off to the next contact.
SWING_PHASE = np.array([0.0, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0])
SWING = np.array(
    [
        [0.0, 12.0, 20.0, 26.0, 30.0, 29.0, 27.0],
        [42.0, 58.0, 60.0, 50.0, 25.0, 8.0, 5.0],
        [-16.0, -12.0, -5.0, -1.0, 0.0, 0.0, 0.0],
    ]
)
SWINGS = {"swing_slow": (0.50, 0.9), "swing_normal": (0.43, 1.0), "swing_fast": (0.38, 1.08)}


def smooth_angle(rng: np.random.Generator, center: float, amplitude: float, slowest: float) -> np.ndarray:
    """Degrees over time: an angle that moves between rests, with drawn heights and durations."""
    time = np.arange(0, DURATION + STEP, STEP)
    knots, heights = [0.0], [0.0]
    while knots[-1] < DURATION + slowest:
        knots.append(knots[-1] + rng.uniform(0.6, 1.0) * slowest)
        heights.append(-heights[-1] + rng.uniform(-0.3, 0.3) if heights[-1] else rng.choice([-1.0, 1.0]))
    angle = np.interp(time, knots, np.clip(heights, -1.0, 1.0))
    return center + amplitude * gaussian_filter1d(angle, 0.18 * slowest / STEP)


def simulate(limb: Limb, angle: np.ndarray, stiffness: float, damping: float, channels: dict[str, tuple[str, ...]]):
    """EMG (T, C) of a controller that follows an angle, and the motion (T, 1) that comes of it."""
    order = [[limb.muscles.index(m) for m in channels[c] if m in limb.muscles] for c in limb.recorded]
    strength = limb.strength(np.full(len(limb.coordinates), np.median(angle)))
    able = np.stack([strength[:, rows].sum(axis=1) for rows in order], axis=1)
    with jax.enable_x64(True):
        limb = as_dtype(limb, jnp.float64)
        start, _ = limb.start(jnp.int32(0), jnp.asarray(angle[:1]), jnp.zeros(1), jnp.zeros(len(order)))

        def step(state, target):
            motion = state.motion
            moment = stiffness * (target - motion.q) - damping * motion.qd
            emg = 0.03 + excitations_for(jnp.asarray(able), moment)
            state, out = limb.step(state, emg)
            return state, (emg, out.q, out.qd)

        emg, q, qd = jax.lax.scan(step, start, jnp.asarray(angle)[:, None])[1]
    return np.asarray(emg), np.asarray(q), np.asarray(qd)


def followed(name: str, seed: int, limb: Limb, joint: str, shape: tuple[float, float, float], gains, channels) -> Trial:
    """A trial of a simulated person who follows a drawn angle."""
    rng = np.random.default_rng(seed)
    emg, q, qd = simulate(limb, np.radians(smooth_angle(rng, *shape)), *gains, channels)
    time = STEP * np.arange(len(q))
    return check_trial(
        Trial(
            name=name,
            time=time,
            coordinates=(joint,),
            q=np.round(q, 6),
            qd=np.round(qd, 6),
            channels=limb.recorded,
            emg_time=time,
            emg=np.round(emg, 5),
            synthetic=True,
        )
    )


def swing(name: str, duration: float, size: float) -> Trial:
    """The swing phase in ``duration`` s, hip and knee excursions times ``size``."""
    time = np.arange(0, duration + 1e-9, STEP)
    angles = make_interp_spline(SWING_PHASE, np.radians(SWING).T, k=3)
    scale = np.array([size, size, 1.0])
    phase = np.minimum(time / duration, 1.0)
    return check_trial(
        Trial(
            name=name,
            time=time,
            coordinates=("hip_flexion_r", "knee_angle_r", "ankle_angle_r"),
            q=np.round(angles(phase) * scale, 6),
            qd=np.round(angles.derivative()(phase) * scale / duration, 6),
            channels=(),
            emg_time=time,
            emg=np.zeros((len(time), 0)),
            synthetic=True,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("assets") / "trials")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    trials = [swing(name, *shape) for name, shape in SWINGS.items()]

    person, _ = load_person(PersonOptions(subject="demo_arm"))
    own = {"default_source": OWN, "time": TimeOptions(dt=STEP)}
    arm = make_limb(person, ["r_elbow_flex"], held=HangingArm().held(), **own)
    muscles = {c: tuple(m for m in person.model.muscles if c in person.model.sources(m)) for c in person.model.channels}
    for i in range(3):
        shape = (60.0, 30.0, 1.6 + 0.2 * i)
        trials.append(followed(f"lift_{i + 1}", 11 + i, arm, "r_elbow_flex", shape, (15.0, 1.0), muscles))

    person, _ = load_person(PersonOptions(subject="right_leg"))
    foot = make_limb(person, ["ankle_angle_r"], held=SeatedLeg().held(), **own)
    muscles = {c: tuple(m for m in person.model.muscles if c in person.model.sources(m)) for c in person.model.channels}
    for i in range(3):
        shape = (-5.0, 16.0, 1.2 + 0.2 * i)
        trials.append(followed(f"foot_{i + 1}", 21 + i, foot, "ankle_angle_r", shape, (250.0, 4.0), muscles))

    for trial in trials:
        trial.save(out / f"{trial.name}.npz")
        low, high = np.degrees(trial.q.min(axis=0)), np.degrees(trial.q.max(axis=0))
        emg = np.round(trial.emg.max(axis=0), 2).tolist()
        print(trial.name, trial.coordinates, np.round(low), np.round(high), trial.channels, emg)


if __name__ == "__main__":
    main()
