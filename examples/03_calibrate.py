"""Calibrate a person from plain arrays: names, times, angles, EMG and moments, no files of ours.

    python examples/03_calibrate.py [--out FOLDER]

The same in a file is ``asset:demo/study.toml``, which ``nms-gym calibrate`` takes; ``configs/README.md`` has its keys.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import calibration
import nms_gym

CHANNELS = {"biceps": ["BIClong", "BICshort"], "triceps_long": ["TRIlong"], "triceps_lateral": ["TRIlat", "TRImed"]}


def recording(name: str) -> nms_gym.Recording:
    """Load your own arrays here; this one is shipped, and made up."""
    with np.load(nms_gym.asset_path(f"demo/recording/{name}.npz")) as a:
        return nms_gym.make_recording(
            name,
            time=a["time"],  # (T,) s
            coordinates=list(a["coordinates"]),
            q=a["q"],  # (T, D) rad
            moments=a["moments"],  # (T, D) N·m, from inverse dynamics
            channels=list(a["channels"]),
            emg_time=a["emg_time"],  # (E,) s
            emg=a["raw_emg"],  # (E, C) any unit
            synthetic=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for calibrated.png and what nms-gym calibrate writes")
    out = parser.parse_args().out

    study = calibration.make_study(
        "demo",
        model="asset:arm",
        coordinates=["r_shoulder_elev", "r_elbow_flex"],
        channels=CHANNELS,
        passive_muscles=["BRA"],
        groups={"biceps": ["BIClong", "BICshort"], "triceps": ["TRIlong", "TRIlat", "TRImed"]},
        trials=[recording(name) for name in ("reach_1", "reach_2", "reach_3")],
        train=["reach_1", "reach_2"],  # of reach_3 nothing is said: it is held out
        emg=calibration.EmgRecipe("raw", baseline=0.02),
        dt=0.01,
    )
    outcome = calibration.calibrate(study)

    fit = outcome.result
    print(f"{fit.status.name.lower()}: cost {fit.start_cost:.0f} -> {fit.cost:.1f} in {fit.iterations} iterations")
    for row in outcome.rows:
        if row["split"] == "held-out":
            print(f"held out: {row['coordinate']:16s} {row['set']:12s} R2 {row['r2']:6.2f}, RMSE {row['rmse']:.2f} N·m")
    for muscle, *values in zip(
        study.model.muscles, study.start.optimal_fiber_length, fit.params.optimal_fiber_length, strict=True
    ):
        print(f"{muscle:10s} optimal fiber length {values[0]:.4f} -> {values[1]:.4f} m")

    if out is not None:
        calibration.write_results(out, study, outcome, report=False)  # report=True for a page with everything
        figure = Figure(figsize=(9, 4), layout="constrained")
        prediction = calibration.predict(outcome.subject, [study.trials["reach_3"]])[0]
        segment = prediction.segment
        for k, axis in enumerate(figure.subplots(2, 1, sharex=True)):
            axis.plot(segment.time, segment.measured[:, k], "k", label="measured")
            axis.plot(segment.time, prediction.output.moments[:, k], label="calibrated on two other trials")
            axis.set(ylabel=f"{segment.coordinates[k]}, N·m")
        axis.legend(), axis.set(xlabel="time, s")
        figure.savefig(out / "calibrated.png", dpi=120)


if __name__ == "__main__":
    main()
