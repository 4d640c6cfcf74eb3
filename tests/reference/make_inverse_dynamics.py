"""Write inverse_dynamics.json: inverse dynamics, limit forces and a rate of momentum by OpenSim 4.6.

``python make_inverse_dynamics.py subject_walk_scaled.osim`` with the ``opensim`` package.
Motion and load are made up. The momentum is that of the published model of the Moco example (Apache-2.0), see
assets/right_leg/ATTRIBUTION.md.
"""

import json
import math
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import opensim

LOADS = """<?xml version="1.0" encoding="UTF-8" ?>
<OpenSimDocument Version="40000"><ExternalLoads name="loads"><objects><ExternalForce name="push">
<applied_to_body>after_weld</applied_to_body><force_expressed_in_body>ground</force_expressed_in_body>
<point_expressed_in_body>ground</point_expressed_in_body><force_identifier>f_v</force_identifier>
<point_identifier>f_p</point_identifier><torque_identifier>f_m</torque_identifier></ExternalForce></objects><groups />
<datafile>load.mot</datafile></ExternalLoads></OpenSimDocument>
"""
KEPT = ("free_5_force", "free_0_moment", "ball_2_moment", "gimbal_1_moment", "slider_0_force", "pin_0_moment")


def write(path, time, columns, in_degrees):
    rows = np.column_stack([time, *columns.values()])
    head = f"made up\nversion=1\nnRows={len(time)}\nnColumns={rows.shape[1]}\ninDegrees={in_degrees}\nendheader\n"
    body = "\n".join("\t".join(repr(float(x)) for x in row) for row in rows)
    Path(path).write_text(head + "\t".join(["time", *columns]) + "\n" + body + "\n")


def inverse_dynamics(model):
    noise = 0.2 * np.random.default_rng(0).normal(size=81)
    t = np.arange(81) * 0.01
    q = {
        "free_5": 0.05 * np.sin(5 * t),
        "ball_2": np.degrees(0.4) * np.sin(6 * t + 0.3),
        "gimbal_1": np.degrees(0.5) * np.sin(9 * t),
        "slider_0": 0.03 * np.cos(8 * t),
        "pin_0": np.degrees(0.7) * np.sin(10 * t) + noise,
        "bend": 0 * t,
    }
    q = {name: np.round(values, 6) for name, values in q.items()}
    q["follows"] = np.full(t.size, math.degrees(0.1))  # where the constraint puts it
    at = np.arange(161) * 0.005
    on = (at > 0.2) & (at < 0.55)
    bump = np.where(on, np.sin(np.pi * (at - 0.2) / 0.35) ** 2, 0.0)
    zero = 0 * at
    load = {"f_vx": 20 * bump, "f_vy": 100 * bump, "f_vz": -10 * bump}
    # As in recordings, the point of application is nonsense while nothing touches.
    load |= {"f_px": np.where(on, 0.3 + 0.2 * at, 250.0), "f_py": zero, "f_pz": np.where(on, -0.1 + 0.05 * at, -90.0)}
    load |= {"f_mx": zero, "f_my": 2 * bump, "f_mz": zero}
    load = {name: np.round(values, 6) for name, values in load.items()}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write("ik.mot", t, q, "yes")
        write("load.mot", at, load, "no")
        Path("load.xml").write_text(LOADS)
        tool = opensim.InverseDynamicsTool()
        tool.setModelFileName(str(model))
        tool.setCoordinatesFileName("ik.mot")
        tool.setLowpassCutoffFrequency(6.0)
        tool.setExternalLoadsFileName("load.xml")
        tool.setResultsDir(".")
        tool.setOutputGenForceFileName("id.sto")
        tool.setStartTime(0.0)
        tool.setEndTime(0.8)
        tool.run()
        lines = Path("id.sto").read_text().split("endheader\n")[1].splitlines()
        os.chdir("/")
    labels = lines[0].split("\t")
    data = np.array([[float(x) for x in line.split()] for line in lines[1:]])[::4]
    return {
        "cutoff": 6.0,
        "time": np.round(t, 6).tolist(),
        "coordinates": {name: values.tolist() for name, values in q.items()},
        "loads": LOADS,
        "load_time": np.round(at, 6).tolist(),
        "load": {name: values.tolist() for name, values in load.items()},
        "result_time": data[:, 0].tolist(),
        "moments": {name.rsplit("_", 1)[0]: data[:, labels.index(name)].tolist() for name in KEPT},
    }


def limit_force():
    model = opensim.Model()
    rod = opensim.Body("rod", 1, opensim.Vec3(0, -0.5, 0), opensim.Inertia(0.1, 0.1, 0.1))
    model.addBody(rod)
    joint = opensim.PinJoint("pin", model.getGround(), rod)
    joint.updCoordinate().setName("q")
    model.addJoint(joint)
    # Upper limit and stiffness, lower limit and stiffness, damping, transition; degrees throughout.
    settings = (60.0, 2.0, -20.0, 1.5, 0.05, 8.0)
    model.addForce(opensim.CoordinateLimitForce("q", *settings))
    state = model.initSystem()
    q = model.getCoordinateSet().get(0)
    force = opensim.CoordinateLimitForce.safeDownCast(model.getForceSet().get(0))
    rows = []
    for angle in (-35, -28, -24, -20, -10, 0, 59, 60, 61, 64, 67.9, 68, 75):
        for speed in (0.0, 1.5, -2.0):
            q.setValue(state, math.radians(angle))
            q.setSpeedValue(state, speed)
            model.realizeDynamics(state)
            rows.append([angle, speed, force.calcLimitForce(state), force.getRecordValues(state).get(1)])
    return {"settings": settings, "columns": ["deg", "rad/s", "N m", "J"], "rows": rows}


def momentum_rate(path):
    """d/dt of the momentum at a knee speed of 6 rad/s that does not change, by central differences."""
    model = opensim.Model(path)
    state = model.initSystem()
    coordinates = model.getCoordinateSet()
    mass = model.getTotalMass(state)

    def momentum(angle):
        for i in range(coordinates.getSize()):
            c = coordinates.get(i)
            c.setValue(state, c.getDefaultValue(), False)
            c.setSpeedValue(state, 0)
        for name in ("knee_angle_r", "knee_angle_r_beta"):
            coordinates.get(name).setValue(state, angle, False)
            coordinates.get(name).setSpeedValue(state, 6)
        model.realizeVelocity(state)
        velocity = model.calcMassCenterVelocity(state)
        return mass * np.array([velocity[i] for i in range(3)])

    h = 1e-5
    return [
        {"knee_angle_r": angle, "rate": ((momentum(angle + 6 * h) - momentum(angle - 6 * h)) / (2 * h)).tolist()}
        for angle in (0.6, 1.1)
    ]


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    walker = Path(sys.argv[1]).resolve()
    opensim.Logger.setLevelString("Off")
    document = {
        "provenance": f"tests/reference/{Path(__file__).name}, OpenSim {opensim.GetVersion()}",
        "momentum_rate": momentum_rate(str(walker)),
        "limit_force": limit_force(),
        "inverse_dynamics": inverse_dynamics(here / "geometry.osim"),
    }
    text = json.dumps(document).replace('], "', '],\n"').replace("}, ", "},\n")
    (here / "inverse_dynamics.json").write_text(text + "\n")
