"""Make arm_motion.json: a forward simulation of arm26 by OpenSim itself, elastic tendons, for tests/test_rollout.py.

    python tests/reference/make_arm_motion.py arm26.osim tests/reference/arm_motion.json

Needs ``pip install "nms-gym[opensim]"``. The muscles are replaced by DeGrooteFregly2016Muscle with the same parameters,
compliant tendons (explicit) and fiber damping 0.01; activations are prescribed, smooth, and follow no dynamics, so that
what is compared is geometry, muscles, tendons and skeleton. Integrated to an accuracy of 1e-9.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import opensim

DURATION, INTERVAL = 1.0, 0.02
START = {"r_shoulder_elev": 0.2, "r_elbow_flex": 0.8}
# Activation of muscle k is mean + amplitude * sin(2 pi (frequency t + phase)).
WAVES = {
    "TRIlong": (0.05, 0.03, 1.0, 0.50),
    "TRIlat": (0.08, 0.05, 1.5, 0.60),
    "TRImed": (0.08, 0.04, 1.5, 0.70),
    "BIClong": (0.07, 0.04, 1.0, 0.00),
    "BICshort": (0.06, 0.04, 1.0, 0.05),
    "BRA": (0.09, 0.05, 1.5, 0.10),
}


def main(model_file: str, out: str) -> None:
    model = opensim.Model(model_file)
    model.finalizeConnections()
    opensim.DeGrooteFregly2016Muscle().replaceMuscles(model, True)
    controller = opensim.PrescribedController()
    controller.setName("waves")
    parameters = {}
    for name, (mean, amplitude, frequency, phase) in WAVES.items():
        muscle = opensim.DeGrooteFregly2016Muscle.safeDownCast(model.updMuscles().get(name))
        muscle.set_ignore_activation_dynamics(True)
        muscle.set_ignore_tendon_compliance(False)
        muscle.set_tendon_compliance_dynamics_mode("explicit")
        muscle.set_fiber_damping(0.01)
        muscle.set_max_contraction_velocity(10.0)
        muscle.set_tendon_strain_at_one_norm_force(0.049)
        muscle.set_passive_fiber_strain_at_one_norm_force(0.6)
        parameters[name] = {
            "max_isometric_force": muscle.get_max_isometric_force(),
            "optimal_fiber_length": muscle.get_optimal_fiber_length(),
            "tendon_slack_length": muscle.get_tendon_slack_length(),
            "pennation_at_optimal": muscle.get_pennation_angle_at_optimal(),
        }
        controller.addActuator(muscle)
        sine = opensim.Sine(amplitude, 2 * np.pi * frequency, 2 * np.pi * phase, mean)
        controller.prescribeControlForActuator(name, sine)
    model.addController(controller)
    state = model.initSystem()
    for name, value in START.items():
        coordinate = model.getCoordinateSet().get(name)
        coordinate.setValue(state, value)
        coordinate.setSpeedValue(state, 0.0)
    model.equilibrateMuscles(state)
    manager = opensim.Manager(model)
    manager.setIntegratorAccuracy(1e-9)
    manager.initialize(state)
    times = np.round(np.arange(0.0, DURATION + INTERVAL / 2, INTERVAL), 6)
    rows, lengths, forces = [], [], []
    for t in times:
        state = manager.integrate(t) if t > 0 else manager.getState()
        model.realizeDynamics(state)
        rows.append([model.getCoordinateSet().get(c).getValue(state) for c in START])
        muscles = [model.getMuscles().get(m) for m in WAVES]
        lengths.append([m.getNormalizedFiberLength(state) for m in muscles])
        forces.append([m.getTendonForce(state) for m in muscles])
    record = {
        "source": f"OpenSim {opensim.GetVersion()}, arm26.osim, by tests/reference/make_arm_motion.py",
        "coordinates": list(START),
        "waves": {k: list(v) for k, v in WAVES.items()},
        "parameters": parameters,
        "time": times.tolist(),
        "q": np.round(rows, 8).tolist(),
        "fiber_length": np.round(lengths, 6).tolist(),
        "tendon_force": np.round(forces, 3).tolist(),
    }
    with open(out, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(record, separators=(",", ":")).replace('],"', '],\n"') + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
