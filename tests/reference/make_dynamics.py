"""Write dynamics.json: mass matrices, inverse dynamics and accelerations of published models by OpenSim.

``python make_dynamics.py <folder of the data sets>`` with the ``opensim`` package (4.6 was used). States are random,
nothing here was recorded; muscles and actuators are removed.

Mass matrix and ``simbody`` inverse dynamics are those of the open tree, projected onto the independent coordinates
(the patella's generalised force joins the knee's that drives it). ``acceleration`` is that of the constrained system,
every other coordinate locked and the pelvis on a prescribed function of time.

``lagrange`` is the same inverse dynamics from Lagrange's equations, with OpenSim's mass matrix and potential energy
differentiated numerically. The two differ where three rotations of a joint depend on one coordinate (the Rajagopal
knee) and it moves: Simbody's MobilizedBody::FunctionBased (CacheInfo::buildHdot, MobilizedBodyImpl.h) takes coordinate
i for what drives rotation i, which loses rate2 * rate3 * (axis3 x axis2) of the angular acceleration. The case
``two_rotations`` therefore removes the knee's third rotation.
"""

import json
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import opensim

LEG = ["hip_flexion_r", "hip_adduction_r", "hip_rotation_r", "knee_angle_r", "ankle_angle_r", "mtp_angle_r"]
PELVIS = ["pelvis_tilt", "pelvis_list", "pelvis_rotation", "pelvis_tx", "pelvis_ty", "pelvis_tz"]
PATELLA = {"knee_angle_r_beta": "knee_angle_r"}
WALK = "rajagopal_walk/original/subject_walk_scaled.osim"
CASES = {
    "leg": (WALK, LEG, [], PATELLA),
    "two_rotations": (WALK, LEG, PELVIS, PATELLA),
    "arm": ("arm26_elbow/original/arm26.osim", ["r_shoulder_elev", "r_elbow_flex"], [], {}),
}
KNOTS = np.arange(13) * 0.174533  # of the patella's splines
STATES = 8


def load(path, two_rotations):
    if two_rotations:
        text = path.read_text()
        start = text.index('<CustomJoint name="walker_knee_r">')
        start = text.index('<TransformAxis name="rotation3">', start)
        end = text.index("</TransformAxis>", start)
        axis = re.search("<axis>.*?</axis>", text[start:end]).group(0)
        still = f'<TransformAxis name="rotation3">{axis}<Constant name="function"><value>0</value></Constant>'
        with tempfile.NamedTemporaryFile("w", suffix=".osim") as file:
            file.write(text[:start] + still + text[end:])
            file.flush()
            model = opensim.Model(file.name)
    else:
        model = opensim.Model(str(path))
    model.updForceSet().clearAndDestroy()
    model.updControllerSet().clearAndDestroy()
    return model


class Tree:
    """The open tree of a model, seen through some of its coordinates."""

    def __init__(self, model, moving, follows):
        self.model, self.follows = model, follows
        self.state = model.initSystem()
        coordinates = model.getCoordinateSet()
        self.names = [coordinates.get(i).getName() for i in range(coordinates.getSize())]
        self.moving = moving
        self.project = np.zeros((self.state.getNU(), len(moving)))
        for name in self.names:
            self.state.setU(opensim.Vector(self.state.getNU(), 0.0))
            coordinates.get(name).setSpeedValue(self.state, 1.0)
            leader = follows.get(name, name)
            if leader in moving:
                self.project[:, moving.index(leader)] += self.state.getU().to_numpy()

    def place(self, q, qd):
        place(self.model, self.state, self.follows, dict(zip(self.moving, zip(q, qd, strict=True), strict=True)))
        self.model.realizeVelocity(self.state)

    def mass_matrix(self, q):
        self.place(q, 0 * q)
        matrix = opensim.Matrix()
        self.model.getMatterSubsystem().calcM(self.state, matrix)
        return self.project.T @ matrix.to_numpy() @ self.project

    def potential_energy(self, q):
        self.place(q, 0 * q)
        self.model.realizeDynamics(self.state)
        return self.model.calcPotentialEnergy(self.state)

    def simbody(self, q, qd, qdd):
        self.place(q, qd)
        udot = opensim.Vector.createFromMat(self.project @ qdd)
        return self.project.T @ opensim.InverseDynamicsSolver(self.model).solve(self.state, udot).to_numpy()

    def lagrange(self, q, qd, qdd):
        slopes = [slope(lambda s, i=i: self.mass_matrix(q + s * np.eye(len(q))[i])) for i in range(len(q))]
        gravity = [slope(lambda s, i=i: self.potential_energy(q + s * np.eye(len(q))[i])) for i in range(len(q))]
        change = sum(rate * matrix for rate, matrix in zip(qd, slopes, strict=True)) @ qd
        return self.mass_matrix(q) @ qdd + change - 0.5 * np.array([qd @ m @ qd for m in slopes]) + gravity


def slope(function, h=2e-3):
    """Fourth-order central difference at 0."""
    return (8 * (function(h) - function(-h)) - (function(2 * h) - function(-2 * h))) / (12 * h)


def place(model, state, follows, values):
    coordinates = model.getCoordinateSet()
    for i in range(coordinates.getSize()):
        item = coordinates.get(i)
        value, speed = values.get(follows.get(item.getName(), item.getName()), (item.getDefaultValue(), 0.0))
        item.setValue(state, value, False)
        item.setSpeedValue(state, speed)


def acceleration(model, free, prescribed, follows, entry):
    coordinates = model.getCoordinateSet()
    base = dict(zip(prescribed, zip(entry["base_q"], entry["base_qd"], entry["base_qdd"], strict=True), strict=True))
    for i in range(coordinates.getSize()):
        item = coordinates.get(i)
        if item.getName() in base:
            q, qd, qdd = base[item.getName()]
            item.setPrescribedFunction(
                opensim.PolynomialFunction(opensim.Vector.createFromMat(np.array([qdd / 2, qd, q])))
            )
            item.setDefaultIsPrescribed(True)
        elif item.getName() not in (*free, *follows):
            item.setDefaultLocked(True)
    for name in free:
        actuator = opensim.CoordinateActuator(name)
        actuator.setName(f"drive_{name}")
        model.addForce(actuator)
    state = model.initSystem()
    for name, value in zip(free, entry["torque"], strict=True):
        drive = opensim.CoordinateActuator.safeDownCast(model.getForceSet().get(f"drive_{name}"))
        drive.overrideActuation(state, True)
        drive.setOverrideActuation(state, value)
    values = {name: (q, qd) for name, (q, qd, _) in base.items()}
    values |= dict(zip(free, zip(entry["q"], entry["qd"], strict=True), strict=True))
    place(model, state, follows, values)
    model.realizeAcceleration(state)
    for name, (_, _, qdd) in base.items():
        assert abs(coordinates.get(name).getAccelerationValue(state) - qdd) < 1e-9
    return [coordinates.get(name).getAccelerationValue(state) for name in free]


def draw(random, free, prescribed):
    """Random states; the knee on a knot at rest, past the last knot, and otherwise between knots."""
    for i in range(STATES):
        q = random.uniform(-0.6, 0.6, len(free))
        if free == LEG:
            q[3] = random.choice(KNOTS[:-1]) + random.uniform(0.02, 0.15)
            q[3] = {0: KNOTS[4], STATES - 1: 2.2}.get(i, q[3])
        yield {
            "q": q,
            "qd": random.uniform(-3, 3, len(free)) * (i > 0),
            "qdd": random.uniform(-20, 20, len(free)),
            "torque": random.uniform(-20, 20, len(free)),
            "base_q": random.uniform(-0.5, 0.5, len(prescribed)),
            "base_qd": random.uniform(-1, 1, len(prescribed)) * (i > 0),
            "base_qdd": random.uniform(-5, 5, len(prescribed)),
        }


def main(data):
    opensim.Logger.setLevelString("off")
    random = np.random.default_rng(0)
    cases = {}
    for name, (file, free, prescribed, follows) in CASES.items():
        path, two = Path(data) / file, name == "two_rotations"
        tree = Tree(load(path, two), [*free, *prescribed], follows)
        states = []
        for entry in draw(random, free, prescribed):
            q, qd, qdd = (np.concatenate([entry[key], entry[f"base_{key}"]]) for key in ("q", "qd", "qdd"))
            n = len(free)
            entry["mass_matrix"] = tree.mass_matrix(q)[:n, :n]
            entry["simbody"] = tree.simbody(q, qd, qdd)[:n]
            entry["lagrange"] = tree.lagrange(q, qd, qdd)[:n]
            entry["acceleration"] = np.array(acceleration(load(path, two), free, prescribed, follows, entry))
            states.append({key: value.tolist() for key, value in entry.items()})
        cases[name] = {"file": file, "coordinates": free, "prescribed": prescribed, "states": states}
    result = {
        "provenance": f"OpenSim {opensim.GetVersion()}; models of opensim-core example3DWalking (Apache-2.0) and "
        "opensim-models Arm26 (CC BY 3.0); written by make_dynamics.py",
        "cases": cases,
    }
    (Path(__file__).resolve().parent / "dynamics.json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
