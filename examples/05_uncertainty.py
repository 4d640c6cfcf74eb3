"""How sure a calibration is: intervals of parameters, what the recordings cannot tell apart, bands on unseen moments.

    python examples/05_uncertainty.py [--out FOLDER]

A fit gives one person; the posterior gives all who explain the training windows about as well. ``nms-gym calibrate``
writes 200 of them to ``posterior.npz``, from which environments draw.
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

import calibration
import nms_gym


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for bands.png")
    out = parser.parse_args().out

    study = calibration.read_study(nms_gym.asset_path("demo/study.toml"))
    analysis = calibration.calibrate(study, posterior=64).analysis

    print("parameter                                      start   90 % interval after the fit")
    shown = ("max_isometric_force", "optimal_fiber_length", "emg_gain")
    for i in analysis.intervals:
        if i.kind in shown and (i.name.startswith("BIC") or i.name == "biceps"):
            print(f"{i.kind + ' of ' + i.name:42s} {i.start:9.4f}   {i.low:.4f} to {i.high:.4f} {i.unit}")

    known = analysis.identifiability
    print(f"the recordings determine {known.determined} of {len(known.parameters)} combinations of parameters")
    print(
        "hardly told apart:", *(f"{p.first} and {p.second} ({p.correlation:+.2f})" for p in known.pairs[:2]), sep="\n  "
    )
    print("least known:", *(direction.text for direction in known.worst[:2]), sep="\n  ")

    # Bands that measured moments should lie in. They cannot know what is wrong with the model in every trial alike.
    for windows in analysis.bands:
        inside = ", ".join(f"{joint} {share:.0%}" for joint, share in windows.coverage.items())
        print(f"90 % bands hold of the measured moments, {windows.label}: {inside}")

    if out is not None:
        held_out = next(windows for windows in analysis.bands if windows.held_out)
        band, measured = held_out.bands[0], held_out.measured[0]
        figure = Figure(figsize=(9, 4), layout="constrained")
        for k, axis in enumerate(figure.subplots(2, 1, sharex=True)):
            axis.fill_between(band.time, band.low[:, k], band.high[:, k], alpha=0.4, label="90 % band")
            axis.plot(band.time, measured[:, k], "k", lw=1, label="measured, not fitted")
            axis.set(ylabel=f"{band.coordinates[k]}, N·m")
        axis.legend(), axis.set(xlabel="time, s")
        out.mkdir(parents=True, exist_ok=True)
        figure.savefig(out / "bands.png", dpi=120)


if __name__ == "__main__":
    main()
