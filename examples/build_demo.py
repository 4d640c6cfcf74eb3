"""Rebuild the shipped demo: a synthetic recording, and the person calibrated on it.

    python examples/build_demo.py [--out assets/demo]

The recording is made up: smooth arm movements, bursts of excitation, and the moments that the arm model gives with
*other* parameters than it ships with (strengths by about 20 %, fiber lengths 8 %, tendons 3 %, another delay and
filter), at 1 kHz, plus noise. Raw EMG is noise modulated by the excitations, over a noise floor. The brachialis works
but has no channel, as a deep muscle would. Motion and excitation are drawn apart, so the moments are not those that
would cause the motion.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.signal import butter, sosfiltfilt

from calibration.study.calibrate import calibrate
from calibration.study.read import read_study
from calibration.validation import predict_segment
from nms_gym._assets import asset_path
from nms_gym.files.model_file import read_model_file
from nms_gym.files.posterior import save_people
from nms_gym.files.subject import save_subject
from nms_gym.model.parameters import make_params
from nms_gym.model.replay import make_segment
from nms_gym.model.structure import NmsModel, Settings
from nms_gym.recording.storage import atomic_path
from nms_gym.recording.trial import Trial

SEED = 20260101
DURATION, MOTION_STEP, RAW_STEP = 8.0, 0.005, 0.001
CHANNELS = {"biceps": ("BIClong", "BICshort"), "triceps_long": ("TRIlong",), "triceps_lateral": ("TRIlat", "TRImed")}
WITHOUT_CHANNEL = "BRA"

STUDY = """\
# The shipped demo: a synthetic arm. Made by examples/build_demo.py; see there for how.
name = "demo"
coordinates = ["r_shoulder_elev", "r_elbow_flex"]
dt = 0.01

[model]
file = "asset:arm"
passive_muscles = ["BRA"]        # it has no channel

[emg]
kind = "raw"                     # 1 kHz; high-pass 30 Hz, rectify, low-pass 6 Hz, normalise to the training maximum
baseline = 0.02

[channels]
biceps = ["BIClong", "BICshort"]
triceps_long = ["TRIlong"]
triceps_lateral = ["TRIlat", "TRImed"]

[groups]
biceps = ["BIClong", "BICshort"]
triceps = ["TRIlong", "TRIlat", "TRImed"]

[solver]
starts = 4
"""

TRIAL = """
[[trials]]
name = "{name}"
synthetic = true
{role} = true
[trials.arrays]
file = "recording/{name}.npz"
time = "time"
coordinates = "coordinates"
q = "q"
channels = "channels"
emg_time = "emg_time"
emg = "raw_emg"
moments = "moments"
"""


def smooth(rng: np.random.Generator, steps: int, step: float, cutoff: float, columns: int) -> np.ndarray:
    """Low-passed noise of unit standard deviation, ``(steps, columns)``."""
    noise = rng.standard_normal((steps, columns))
    low = sosfiltfilt(butter(2, cutoff, fs=1 / step, output="sos"), noise, axis=0)
    return low / low.std(axis=0)


def excitations(rng: np.random.Generator, time: np.ndarray) -> dict[str, np.ndarray]:
    """Bursts of three drives and a brachialis that follows the biceps in part, 0 to 0.8."""
    drive = smooth(rng, len(time), RAW_STEP, 0.8, 4)
    bursts = 0.02 + 0.75 / (1 + np.exp(-2.5 * (drive - 0.9)))
    signals = dict(zip(CHANNELS, bursts.T, strict=False))
    return {**signals, WITHOUT_CHANNEL: 0.6 * signals["biceps"] + 0.4 * bursts[:, 3]}


def record(name: str, seed: int, truth: tuple[NmsModel, object]) -> dict[str, np.ndarray]:
    """One made-up trial."""
    rng = np.random.default_rng(seed)
    lead = 0.5
    time = np.arange(-lead, DURATION + 0.25, RAW_STEP)
    q = np.radians([35.0, 60.0]) + np.radians([15.0, 25.0]) * np.clip(
        smooth(rng, len(time), RAW_STEP, 0.5, 2), -1.9, 1.9
    )
    q = sosfiltfilt(butter(2, 3.0, fs=1 / RAW_STEP, output="sos"), q, axis=0)
    u = excitations(rng, time)
    model, params = truth
    trial = Trial(
        name=name,
        time=time,
        coordinates=model.coordinates,
        q=q,
        qd=np.gradient(q, RAW_STEP, axis=0),
        channels=tuple(u),
        emg_time=time,
        emg=np.stack(list(u.values()), axis=1),
        synthetic=True,
    )
    moments = predict_segment(model, params, make_segment(model, trial, lead_in=0.0)).moments  # type: ignore[arg-type]
    rows = np.flatnonzero((time >= -1e-9) & (time <= DURATION + 1e-9))[:: round(MOTION_STEP / RAW_STEP)]
    noise = smooth(rng, len(rows), MOTION_STEP, 6.0, moments.shape[1])
    moments = moments[rows] + 0.05 * moments[rows].std(axis=0) * noise
    # Surface EMG: noise between 20 and 450 Hz whose amplitude follows the excitation, in mV, over an amplifier's floor.
    carrier = sosfiltfilt(
        butter(2, (20, 450), "bandpass", fs=1 / RAW_STEP, output="sos"),
        rng.standard_normal((len(time), len(CHANNELS))),
        axis=0,
    )
    amplitude = np.stack([u[c] for c in CHANNELS], axis=1) * np.array([1.2, 0.8, 1.0])
    raw = carrier / carrier.std(axis=0) * amplitude + 0.01 * rng.standard_normal(carrier.shape)
    return {
        "synthetic": np.array(True),
        "time": np.round(time[rows], 6),
        "coordinates": np.array(model.coordinates),
        "q": np.round(q[rows], 6),
        "moments": np.round(moments, 4),
        "channels": np.array(list(CHANNELS)),
        "emg_time": np.round(time, 6),
        "raw_emg": np.round(raw, 4).astype(np.float32),
    }


def true_person() -> tuple[NmsModel, object]:
    """The arm with other parameters than it ships with."""
    arm = read_model_file(asset_path("arm/model.json"))
    rng = np.random.default_rng(SEED)
    channels = (*CHANNELS, WITHOUT_CHANNEL)
    drives = {**CHANNELS, WITHOUT_CHANNEL: (WITHOUT_CHANNEL,)}
    weights = np.array([[float(m in drives[c]) for c in channels] for m in arm.muscles])
    assert arm.paths is not None
    model = NmsModel(arm.muscles, arm.paths.coordinates, channels, Settings(), weights, arm.paths)  # type: ignore[arg-type]
    spread = {"max_isometric_force": 0.2, "optimal_fiber_length": 0.08, "tendon_slack_length": 0.03}
    changed = {
        kind: np.array([values[m] for m in arm.muscles])
        * np.exp(spread.get(kind, 0.0) * rng.standard_normal(len(arm.muscles)))
        for kind, values in arm.parameters.items()
    }
    params = make_params(
        model,
        {
            **changed,
            "electromechanical_delay": 0.05,
            "filter_time_constant_1": 0.025,
            "filter_time_constant_2": 0.025,
            "shape_factor": -1.0,
        },
    )
    return model, params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("assets") / "demo")
    out = parser.parse_args().out
    (out / "recording").mkdir(parents=True, exist_ok=True)
    truth = true_person()
    text = STUDY
    for i, (name, role) in enumerate((("reach_1", "train"), ("reach_2", "train"), ("reach_3", "held_out"))):
        arrays = record(name, SEED + 1 + i, truth)
        with atomic_path(out / "recording" / f"{name}.npz") as temporary:
            np.savez_compressed(temporary, **arrays)
        text += TRIAL.format(name=name, role=role)
    (out / "study.toml").write_text(text, encoding="utf-8")
    study = read_study(out / "study.toml")
    outcome = calibrate(study, posterior=64)
    assert outcome.analysis is not None
    save_subject(out / "subject.json", outcome.subject)
    save_people(out / "posterior.npz", study.model, outcome.analysis.people, outcome.subject.params)
    for name, trial in study.trials.items():
        trial.save(out / f"{name}.npz")
    for row in outcome.rows:
        print(row["segment"], row["coordinate"], row["set"], f"R2 {row['r2']:.3f} RMSE {row['rmse']:.2f} N·m")
    for path in sorted(out.rglob("*.*")):
        print(path, path.stat().st_size // 1000, "kB")


if __name__ == "__main__":
    main()
