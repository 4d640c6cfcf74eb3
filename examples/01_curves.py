"""From excitation to force: the curves of one muscle, and its answer to a burst of excitation.

    python examples/01_curves.py [--out FOLDER]

Every curve is a plain function of JAX arrays; ``nms-gym reference`` plots and cites them all.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import nms_gym
from nms_gym.muscle.families import FAMILIES

STEP, STRAIN = 0.01, {"passive": 0.6, "tendon": 0.049}


def sampled(curves, x: jax.Array) -> tuple[jax.Array, ...]:
    """Force at fiber lengths ``x`` and full activation, and a value of each curve."""
    return (
        curves.active_force_length(x) + curves.passive_force_length(x, STRAIN["passive"]),
        curves.active_force_length(jnp.array(0.8)),
        curves.passive_force_length(jnp.array(1.4), STRAIN["passive"]),
        curves.force_velocity(jnp.array(-0.3)),
        curves.tendon_force(jnp.array(1.03), STRAIN["tendon"]),
    )


def isometric(model: nms_gym.NmsModel, params: nms_gym.NmsParams, excitations: np.ndarray) -> nms_gym.NmsOutput:
    """The muscles in one pose, excited for as long as ``excitations (T,)`` says; outputs have a leading time axis."""
    pose = nms_gym.kinematics_at(model, jnp.array([0.0, 1.0]), jnp.zeros(2))
    silence = jnp.zeros((model.settings.history_length(STEP), len(model.channels)))
    start = nms_gym.initial_state(model, params, silence, pose.lengths, STEP)

    def step(state, excitation):
        channels = jnp.full(len(model.channels), excitation)
        return nms_gym.neuromuscular_step(model, params, state, channels, pose, STEP)

    return jax.lax.scan(step, start, jnp.asarray(excitations))[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for curves.png")
    out = parser.parse_args().out
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    lengths, burst, twitch = figure.subplots(1, 3)

    x = np.linspace(0.3, 1.8, 151)
    print("family                at length 0.8: active  passive at 1.4  at shortening speed 0.3  tendon at strain 0.03")
    for name, family in FAMILIES.items():
        curves = family()
        total, *values = jax.jit(sampled, static_argnums=0)(curves, x)
        lengths.plot(x, total, label=name)
        print(f"{name:20s}", *(f"{float(value):18.3f}" for value in values))
    lengths.set(xlabel="fiber length / optimal", ylabel="force / maximum, full activation", ylim=(0, 2))

    arm = nms_gym.read_model_file(nms_gym.asset_path("arm/model.json"))
    time = STEP * np.arange(60)
    pulse = np.where((time >= 0.05) & (time < 0.25), 1.0, 0.0)
    for tendon in ("rigid", "elastic"):
        settings = nms_gym.Settings(tendon=tendon)
        model, params = nms_gym.moving_model(arm, ("r_shoulder_elev", "r_elbow_flex"), settings=settings)
        output = jax.jit(isometric)(model, params, pulse)
        i = model.muscles.index("BRA")
        burst.plot(time, output.tendon_force[:, i], label=f"BRA, {tendon} tendon")
        peak = int(jnp.argmax(output.tendon_force[:, i]))
        print(f"{tendon:8s}tendon: the force of BRA peaks at {time[peak]:.2f} s, {output.tendon_force[peak, i]:.0f} N")
    twitch.plot(time, pulse, label="excitation")
    twitch.plot(time, output.activation[:, i], label="activation")
    twitch.plot(time, output.fiber_length[:, i], label="fiber length / optimal, elastic")
    burst.set(xlabel="time, s", ylabel="tendon force, N"), twitch.set(xlabel="time, s")
    lengths.legend(fontsize=7), burst.legend(fontsize=7), twitch.legend(fontsize=7)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True), figure.savefig(out / "curves.png", dpi=120)


if __name__ == "__main__":
    main()
