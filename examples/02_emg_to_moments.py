"""From raw EMG and joint angles to joint moments, with an arm that knows nothing of the person yet.

    python examples/02_emg_to_moments.py [--out FOLDER]

The recording is the shipped synthetic one. ``03_calibrate.py`` goes on from here.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

import calibration
import nms_gym

CHANNELS = {"biceps": ["BIClong", "BICshort"], "triceps_long": ["TRIlong"], "triceps_lateral": ["TRIlat", "TRImed"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for moments.png")
    out = parser.parse_args().out

    # What was recorded, as plain arrays: joint angles and moments at 200 Hz, raw EMG at 1 kHz.
    recorded = dict(np.load(nms_gym.asset_path("demo/recording/reach_1.npz")))
    joints = [str(name) for name in recorded["coordinates"]]

    # Raw EMG to envelopes: 30 Hz high-pass, rectification, 6 Hz low-pass, each channel's largest value becomes 1.
    channels = [str(name) for name in recorded["channels"]]
    envelopes = nms_gym.process_emg(recorded["emg_time"], recorded["raw_emg"], channels, step=0.01)
    for name, largest in envelopes.reference.items():
        print(f"EMG {name:16s} largest envelope {largest:.3f} mV")

    # One checked recording, everything on one grid of 10 ms.
    trial = nms_gym.make_recording(
        "reach_1",
        time=recorded["time"],
        coordinates=joints,
        q=recorded["q"],
        moments=recorded["moments"],
        channels=channels,
        emg=envelopes.emg,
        emg_time=envelopes.time,
        synthetic=True,
    ).trial(dt=0.01)

    # A model: the arm's muscles and paths, and which channel drives which muscle. BRA has no channel: it is passive.
    arm = nms_gym.read_model_file(nms_gym.asset_path("arm/model.json"))
    drives = nms_gym.ChannelMap.from_channels(CHANNELS)
    model = nms_gym.NmsModel(
        muscles=arm.muscles,
        coordinates=arm.coordinates,
        channels=drives.channels,
        settings=nms_gym.Settings(tendon="rigid"),
        channel_weights=drives.weights(drives.channels, arm.muscles),
        paths=arm.paths,
    )
    params = nms_gym.make_params(model, {**arm.parameters, "emg_gain": 0.7})

    # The stretch of the recording that counts, and the model over it.
    segment = nms_gym.make_segment(model, trial, coordinates=joints, start=1.0, stop=7.0)
    output = jax.jit(nms_gym.predict_moments)(model, params, segment.replay)
    figure = Figure(figsize=(9, 4), layout="constrained")
    for k, (axis, joint) in enumerate(zip(figure.subplots(2, 1, sharex=True), joints, strict=True)):
        predicted, measured = np.asarray(output.moments)[segment.scored, k], segment.measured[segment.scored, k]
        score = calibration.compare(joint, predicted, measured)
        print(f"{joint:16s} RMSE {score.rmse:5.2f} N·m, R2 {score.r2:6.2f}, correlation {score.r:.2f}")
        axis.plot(segment.time, segment.measured[:, k], "k", label="measured")
        axis.plot(segment.time, output.moments[:, k], label="uncalibrated")
        axis.set(ylabel=f"{joint}, N·m")
    axis.legend(), axis.set(xlabel="time, s")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True), figure.savefig(out / "moments.png", dpi=120)


if __name__ == "__main__":
    main()
