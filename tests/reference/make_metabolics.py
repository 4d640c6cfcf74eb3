"""Write metabolics.json: OpenSim's muscle powers, stiffnesses and metabolic probes in random states.

``python make_metabolics.py`` with the ``opensim`` package (4.6 was used). Three DeGrooteFregly2016 muscles between
ground and a slider, with rigid and with elastic tendons, put into random states; the parts of the metabolic rate come
from probes with only that part switched on.
"""

import json
from pathlib import Path

import numpy as np
import opensim as osim

# F0 N, optimal fiber length m, slack length m, pennation rad, maximum velocity 1/s, slow-twitch fraction
MUSCLES = {
    "vasti": (3000.0, 0.10, 0.20, 0.08, 10.0, 0.45),
    "soleus": (3549.0, 0.05, 0.25, 0.436, 8.0, 0.8),
    "biceps": (600.0, 0.12, 0.22, 0.0, 12.0, 0.5),
}
STATES = 20
MASS = 2.0

osim.Logger.setLevelString("off")


def build(rigid):
    model = osim.Model()
    body = osim.Body("mass", MASS, osim.Vec3(0), osim.Inertia(0))
    model.addBody(body)
    joint = osim.SliderJoint("slider", model.getGround(), body)
    joint.updCoordinate().setName("x")
    model.addJoint(joint)
    for name, (f0, lopt, slack, pennation, speed, _) in MUSCLES.items():
        m = osim.DeGrooteFregly2016Muscle()
        m.setName(name)
        m.set_max_isometric_force(f0)
        m.set_optimal_fiber_length(lopt)
        m.set_tendon_slack_length(slack)
        m.set_pennation_angle_at_optimal(pennation)
        m.set_max_contraction_velocity(speed)
        m.set_fiber_damping(0.1 if rigid else 0.0)  # OpenSim's explicit tendon dynamics allow none
        m.set_ignore_tendon_compliance(rigid)
        if not rigid:
            m.set_tendon_compliance_dynamics_mode("explicit")
        m.addNewPathPoint("origin", model.getGround(), osim.Vec3(0))
        m.addNewPathPoint("insertion", body, osim.Vec3(0))
        model.addForce(m)
    flags = {
        osim.Bhargava2004MuscleMetabolicsProbe: ("activation", "maintenance", "shortening", "mechanical_work"),
        osim.Umberger2010MuscleMetabolicsProbe: ("activation_maintenance", "shortening", "mechanical_work"),
    }
    probes = {}
    for kind, parts in flags.items():
        for part in ("total", *parts):
            probe = kind()
            probe.setName(f"{kind.__name__[:8].lower()}_{part}")
            probe.set_report_total_metabolics_only(False)
            for each in parts:
                getattr(probe, f"set_{each}_rate_on")(part in ("total", each))
            if part != "total":
                probe.set_forbid_negative_total_power(False)
                probe.set_enforce_minimum_heat_rate_per_muscle(False)
            for name, row in MUSCLES.items():
                heat = (40.0, 133.0, 74.0, 111.0) if "Bhargava" in kind.__name__ else ()  # its defaults
                probe.addMuscle(name, row[-1], *heat)
            model.addProbe(probe)
            probes[probe.getName()] = probe
    model.finalizeConnections()
    return model, probes


def table(rigid, seed):
    model, probes = build(rigid)
    probes = {name: model.getProbeSet().get(name) for name in probes}
    state = model.initSystem()
    x = model.getCoordinateSet().get("x")
    rng = np.random.default_rng(seed)
    rows = []
    for name, (_, lopt, slack, pennation, speed, _) in MUSCLES.items():
        m = osim.DeGrooteFregly2016Muscle.safeDownCast(model.getMuscles().get(name))
        kept = 0
        while kept < STATES:
            length, force = rng.uniform(0.55, 1.5), rng.uniform(0.05, 0.9)
            width = np.sin(pennation)
            along = lopt * np.sqrt(length**2 - width**2)
            stretched = slack * (1.0 if rigid else 1.0 + 0.049 * np.log(1.0 + 5 * force) / np.log(6.0))
            velocity = rng.uniform(-0.9, 0.9) * speed * lopt
            x.setValue(state, along + stretched)
            x.setSpeedValue(state, velocity * (1.0 if rigid else 0.2))
            excitation, activation = rng.uniform(0, 1), rng.uniform(0.02, 1)
            m.setActivation(state, activation)
            if not rigid:
                m.setStateVariableValue(state, "normalized_tendon_force", force)
            model.realizeVelocity(state)
            controls = model.updControls(state)
            m.setControls(osim.Vector(1, excitation), controls)
            model.setControls(state, controls)
            model.realizeReport(state)
            if abs(m.getNormalizedFiberVelocity(state)) > 0.95:
                continue  # force and length drawn for the elastic tendon ask for an impossible velocity
            kept += 1
            row = {
                "muscle": name,
                "excitation": m.getControl(state),
                "activation": m.getActivation(state),
                "musculotendon_velocity": m.getLengtheningSpeed(state),
                "tendon_force": m.getTendonForce(state),
                "fiber_length": m.getNormalizedFiberLength(state),
                "fiber_velocity": m.getNormalizedFiberVelocity(state),
                "tendon_strain": m.getTendonStrain(state),
                "pennation": m.getPennationAngle(state),
                "active_force": m.getActiveFiberForce(state),
                "passive_force": m.getPassiveFiberForce(state),
                "active_power": m.getFiberActivePower(state),
                "passive_power": m.getFiberPassivePower(state),
                "tendon_power": m.getTendonPower(state),
                "musculotendon_power": m.getMusclePower(state),
                "fiber_stiffness": m.getFiberStiffness(state),
                "fiber_stiffness_along_tendon": m.getFiberStiffnessAlongTendon(state),
                "tendon_stiffness": m.getTendonStiffness(state),
                "musculotendon_stiffness": m.getMuscleStiffness(state),
                "tendon_energy": m.getTendonPotentialEnergy(state),
            }
            index = list(MUSCLES).index(name)
            row |= {p: probe.getProbeOutputs(state)[index + 2] for p, probe in probes.items()}
            rows.append({k: v if isinstance(v, str) else float(f"{v:.12g}") for k, v in row.items()})
    columns = {k: [row[k] for row in rows] for k in rows[0]}
    if rigid:
        del columns["tendon_stiffness"]  # infinite
    return columns


result = {
    "provenance": f"OpenSim {osim.GetVersion()}: DeGrooteFregly2016Muscle, Bhargava2004MuscleMetabolicsProbe and "
    "Umberger2010MuscleMetabolicsProbe with their defaults, written by make_metabolics.py; SI units, lengths and "
    "velocities of the fiber normalised; passive_force includes damping; probes in W per muscle, without basal rate",
    "muscles": {
        name: dict(
            zip(
                (
                    "max_isometric_force",
                    "optimal_fiber_length",
                    "tendon_slack_length",
                    "pennation_at_optimal",
                    "max_contraction_velocity",
                    "slow_twitch_fraction",
                ),
                row,
                strict=True,
            )
        )
        for name, row in MUSCLES.items()
    },
    "rigid": table(True, 0),
    "elastic": table(False, 1),
}
target = Path(__file__).with_name("metabolics.json")
target.write_text(json.dumps(result) + "\n", encoding="utf-8")
print(target, target.stat().st_size)
