"""An electrode came off: what the moments lose, and what synergies and measured moments give back.

    python examples/04_synergies_and_missing_emg.py [--out FOLDER]

An arm is calibrated with all its channels. Then the long head of triceps is withheld, in three ways: the muscle is
passive; it follows synergies of the channels that are left; or measured moments say what it must have done. All scores
are of a trial that no fit has seen. The demo's bursts are drawn apart, the worst case for synergies: real muscles share
more (``benchmarks/README.md``).
"""

import argparse
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

import calibration
import nms_gym
from nms_gym.model.parameters import kinds_on

JOINTS = ("r_shoulder_elev", "r_elbow_flex")
CHANNELS = {"biceps": ["BIClong", "BICshort"], "triceps_long": ["TRIlong"], "triceps_lateral": ["TRIlat", "TRImed"]}
FEWER = {channel: muscles for channel, muscles in CHANNELS.items() if channel != "triceps_long"}


def study(name: str, channels, **options) -> calibration.Study:
    return calibration.make_study(
        name,
        model="asset:arm",
        coordinates=JOINTS,
        channels=channels,
        trials=[nms_gym.load_trial(nms_gym.asset_path(f"demo/reach_{i}.npz")) for i in (1, 2, 3)],
        train=["reach_1", "reach_2"],
        settings=nms_gym.Settings(tendon="rigid"),
        solver=calibration.SolverOptions(starts=2),
        **options,
    )


def by_name(model, params) -> dict[str, dict[str, float]]:
    """A person's parameters for a model that has fewer channels or its muscles in another order."""
    values = {kind: dict(zip(model.muscles, getattr(params, kind), strict=True)) for kind in kinds_on("muscle")}
    for kind in kinds_on("channel"):
        values[kind] = {c: v for c, v in zip(model.channels, getattr(params, kind), strict=True) if c in FEWER}
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for missing.png")
    out = parser.parse_args().out
    full = study("all channels", CHANNELS, passive_muscles=["BRA"])
    fitted = calibration.calibrate(full).subject
    start = by_name(full.model, fitted.params)
    passive = study("passive", FEWER, passive_muscles=["BRA", "TRIlong"], start=start)
    plan = calibration.SynergyPlan(muscles=("TRIlong",), number=2)
    synergies = study("synergies", FEWER, passive_muscles=["BRA"], synergies=plan, start=start, free=["synergy_weight"])
    weighted = calibration.calibrate(synergies).subject  # only the weights of the synergies are fitted anew
    run = jax.jit(nms_gym.predict_moments)
    people = ((full, fitted.params), (passive, passive.start), (synergies, weighted.params))
    outputs = {s.name: (s.model, run(s.model, p, s.held_out["reach_3"][0].replay)) for s, p in people}
    # Excitations moved as little as the measured moments ask for: no prediction, an explanation.
    segment = passive.held_out["reach_3"][0]
    outputs["assisted"] = passive.model, calibration.assist(passive.model, passive.start, segment).output

    figure = Figure(layout="constrained")
    moment, excitation = figure.subplots(2, 1, sharex=True)
    moment.plot(segment.time, segment.measured[:, 1], "k", lw=2, label="measured")
    long_head = {label: np.asarray(o.excitation)[:, m.muscles.index("TRIlong")] for label, (m, o) in outputs.items()}
    for label, (_, output) in outputs.items():
        moments = np.asarray(output.moments)
        scores = [calibration.compare(c, moments[:, k], segment.measured[:, k]).r2 for k, c in enumerate(JOINTS)]
        alike = calibration.compare("TRIlong", long_head[label], long_head["all channels"]).r
        print(f"{label:12s} R2 {scores[0]:5.2f} shoulder, {scores[1]:5.2f} elbow; TRIlong and its EMG: r {alike:.2f}")
        moment.plot(segment.time, moments[:, 1], label=label)
        excitation.plot(segment.time, long_head[label], label=label)
    moment.set(ylabel="elbow moment, N·m"), excitation.set(xlabel="time, s", ylabel="excitation of TRIlong")
    moment.legend()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True), figure.savefig(out / "missing.png", dpi=120)


if __name__ == "__main__":
    main()
