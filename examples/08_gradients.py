"""Two gradients of a movement: with respect to the excitations that cause it, and to the person's parameters.

    python examples/08_gradients.py [--out FOLDER]

Muscles move the arm's skeleton (``rollout``), and derivatives run through all of it: activation, fibers, skeleton.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import nms_gym

JOINTS, STEP, STEPS = ("r_elbow_flex",), 0.01, 60
GOAL = jnp.radians(jnp.array([95.0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for gradients.png")
    parser.add_argument("--iterations", type=int, default=80)
    given = parser.parse_args()
    arm = nms_gym.read_model_file(nms_gym.asset_path("arm/model.json"))
    # Rigid tendons compile in a third of the time; leave the settings out for elastic ones, which 10 ms steps suit too.
    settings = nms_gym.Settings(tendon="rigid", activation="first_order", max_delay=0.01)
    model, params = nms_gym.moving_model(arm, JOINTS, settings=settings)
    passive = nms_gym.make_passive(arm.skeleton, JOINTS)
    at_rest = jax.jit(lambda q: nms_gym.initial_motion(model, params, q, jnp.zeros(1), STEP))
    start = at_rest(jnp.radians(jnp.array([30.0])))

    def cost(logits, params):
        """Be at the goal, and still, for the last 0.2 s, with little excitation."""
        excitations = jax.nn.sigmoid(logits)
        motion = nms_gym.rollout(model, params, start, excitations, STEP, passive=passive)[1]
        late = motion.q[-20:] - GOAL
        value = 10 * jnp.mean(late**2) + 0.1 * jnp.mean(motion.qd[-20:] ** 2) + 0.05 * jnp.mean(excitations**2)
        return value, (motion.q, excitations)

    # One program for the cost, the movement and both gradients.
    both = jax.jit(jax.value_and_grad(cost, argnums=(0, 1), has_aux=True))
    optimizer = optax.adam(0.2)
    logits = jnp.full((STEPS, len(model.channels)), -3.0)
    memory = optimizer.init(logits)
    for i in range(given.iterations + 1):
        (value, (q, excitations)), (by_logits, by_params) = both(logits, params)
        if i % 20 == 0:
            angles = ", ".join(f"{c} {angle:.0f}" for c, angle in zip(JOINTS, np.degrees(q[-1]), strict=True))
            print(f"iteration {i:3d}: cost {float(value):6.3f}, at the end {angles} degrees")
        updates, memory = optimizer.update(by_logits, memory)
        logits = optax.apply_updates(logits, updates)

    # What the same excitations would cost another person: a derivative per parameter and muscle, at no extra effort.
    for kind in ("tendon_slack_length", "optimal_fiber_length", "max_isometric_force"):
        one_percent = 0.01 * np.asarray(getattr(by_params, kind)) * np.asarray(getattr(params, kind))
        most = int(np.argmax(np.abs(one_percent)))
        print(f"1 % more {kind:20s} matters most in {model.muscles[most]:8s}: cost {one_percent[most]:+.4f}")

    if given.out is not None:
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        motion, drive = figure.subplots(1, 2)
        time = STEP * np.arange(1, STEPS + 1)
        motion.plot(time, np.degrees(q), label=JOINTS), drive.plot(time, excitations, label=model.muscles)
        for goal in np.degrees(GOAL):
            motion.axhline(goal, color="gray", lw=1, ls="--")
        motion.set(xlabel="time, s", ylabel="angle, degrees"), drive.set(xlabel="time, s", ylabel="excitation")
        motion.legend(fontsize=7), drive.legend(fontsize=7)
        given.out.mkdir(parents=True, exist_ok=True)
        figure.savefig(given.out / "gradients.png", dpi=120)


if __name__ == "__main__":
    main()
