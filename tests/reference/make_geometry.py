"""Write geometry.osim and geometry.json: OpenSim's own transforms, lengths and moment arms of a made-up model.

Run in an environment with the ``opensim`` package (4.6 was used): ``python make_geometry.py``. The model has one joint
of each supported class, every function class, moving and conditional points, cylinders with each quadrant, and pairs of
cylinders. The wraps lie in the plane of their pin joint: there OpenSim's contact points are the exact ones.
"""

import json
import re
from pathlib import Path

import numpy as np
import opensim as osim

HERE = Path(__file__).resolve().parent
rng = np.random.default_rng(7)
osim.Logger.setLevelString("off")

model = osim.Model()
model.setName("geometry")


def vec(x):
    return osim.Vec3(*(float(v) for v in np.round(x, 4)))


def body(name):
    made = osim.Body(name, 1.5, vec(rng.uniform(-0.1, 0.1, 3)), osim.Inertia(0.02, 0.03, 0.04, 0.001, 0.002, 0.003))
    model.addBody(made)
    return made


def offsets():
    return [vec(rng.uniform(-0.2, 0.2, 3)) for _ in range(2)]


# A chain with one joint of each class.
parent = model.getGround()
for kind in ("Free", "Ball", "Gimbal", "Universal", "Planar", "Slider", "Pin", "Weld"):
    child = body(f"after_{kind.lower()}")
    joint = getattr(osim, f"{kind}Joint")(kind.lower(), parent, *offsets(), child, *offsets())
    for i in range(joint.numCoordinates()):
        joint.upd_coordinates(i).setName(f"{kind.lower()}_{i}")
    model.addJoint(joint)
    parent = child

# A custom joint that uses every function class, and a coupled one behind it.
transform = osim.SpatialTransform()


def axis(i, function, names, direction=None):
    item = transform.updTransformAxis(i)
    function.this.disown()  # the axis takes it over without telling Python
    item.setFunction(function)
    coordinates = osim.ArrayStr()
    for name in names:
        coordinates.append(name)
    item.setCoordinateNames(coordinates)
    if direction is not None:
        item.setAxis(vec(direction))


def knots(cls, x, y):
    function = cls()
    for a, b in zip(x, y, strict=True):
        function.addPoint(a, b)
    return function


def vector(values):
    made = osim.Vector(len(values), 0.0)
    for i, value in enumerate(values):
        made.set(i, value)
    return made


axis(0, osim.LinearFunction(1.0, 0.0), ["bend"], (0.6, 0.0, 0.8))
axis(1, knots(osim.SimmSpline, (-1.0, -0.4, 0.1, 0.5, 1.2), (0.2, -0.1, 0.05, 0.3, 0.1)), ["bend"], (0.0, 1.0, 0.0))
axis(2, osim.PolynomialFunction(vector([0.3, -0.2, 0.1, 0.05])), ["twist"], (0.8, 0.0, -0.6))
axis(3, knots(osim.PiecewiseLinearFunction, (-0.5, 0.2, 0.9), (0.0, 0.03, -0.02)), ["twist"], (1, 0, 0))
inner = knots(osim.SimmSpline, (-1.0, 0.3, 1.0), (0.02, 0.05, 0.01))
inner.this.disown()
axis(4, osim.MultiplierFunction(inner, 1.7), ["bend"], (0, 1, 0))
axis(5, osim.LinearFunction(0.04, 0.01), ["bend"], (0, 0, 1))
custom_body = body("custom")
model.addJoint(osim.CustomJoint("custom", parent, *offsets(), custom_body, *offsets(), transform))
follower = body("follower")
pin = osim.PinJoint("follow", custom_body, *offsets(), follower, *offsets())
pin.updCoordinate().setName("follows")
model.addJoint(pin)
coupler = osim.CoordinateCouplerConstraint()
coupler.setName("couple")
names = osim.ArrayStr()
names.append("bend")
coupler.setIndependentCoordinateNames(names)
coupler.setDependentCoordinateName("follows")
coupler.setFunction(osim.PolynomialFunction(vector([0.5, 0.3, 0.1])))
model.addConstraint(coupler)

# A planar crank with cylinders.
crank = body("crank")
pin = osim.PinJoint(
    "crank_pin", model.getGround(), vec((0, 0, 0)), vec((0, 0, 0)), crank, vec((0, 0, 0)), vec((0, 0, 0))
)
pin.updCoordinate().setName("crank_angle")
model.addJoint(pin)


def muscle(name):
    made = osim.Thelen2003Muscle(name, 500.0, 0.1, 0.15, 0.1)
    model.addForce(made)
    return made


def cylinder(name, owner, center, radius, quadrant, tilt=0.0):
    wrap = osim.WrapCylinder()
    wrap.setName(name)
    wrap.set_radius(radius)
    wrap.set_length(1.0)
    wrap.set_quadrant(quadrant)
    wrap.set_translation(vec(center))
    wrap.set_xyz_body_rotation(vec((0, 0, tilt)))
    owner.addWrapObject(wrap)
    return wrap


def planar_point():
    angle, distance = rng.uniform(-np.pi, np.pi), rng.uniform(0.08, 0.25)
    return vec((distance * np.cos(angle), distance * np.sin(angle), 0.0))


crank_muscles = []
for quadrant in ("all", "x", "-x", "y", "-y"):
    for k in range(4):
        name = f"{quadrant.replace('-', 'minus_')}_{k}"
        made = muscle(name)
        made.addNewPathPoint(f"{name}-P1", model.updGround(), planar_point())
        made.addNewPathPoint(f"{name}-P2", crank, planar_point())
        owner = model.updGround() if k < 2 else crank
        wrap = cylinder(f"{name}_wrap", owner, rng.uniform(-0.02, 0.02, 3) * (1, 1, 0), 0.05, quadrant, 0.4)
        osim.GeometryPath.safeDownCast(made.updPath()).addPathWrap(wrap)
        crank_muscles.append(name)
pair = muscle("pair")
pair.addNewPathPoint("pair-P1", model.updGround(), vec((-0.3, 0.1, 0)))
pair.addNewPathPoint("pair-P2", crank, vec((0.3, 0.08, 0)))
osim.GeometryPath.safeDownCast(pair.updPath()).addPathWrap(
    cylinder("pair_near", model.updGround(), (-0.12, 0.13, 0), 0.05, "all")
)
osim.GeometryPath.safeDownCast(pair.updPath()).addPathWrap(cylinder("pair_far", crank, (0.12, 0.12, 0), 0.06, "all"))

# Moving and conditional points, one of them in an offset frame, and a wrap that acts on part of the path.
plain = muscle("plain")
offset = osim.PhysicalOffsetFrame(
    "shifted", crank, osim.Transform(osim.Rotation(0.7, osim.CoordinateAxis(1)), vec((0.05, 0.02, 0.01)))
)
crank.addComponent(offset)
plain.addNewPathPoint("plain-P1", model.updGround(), vec((-0.2, 0.12, 0.02)))
conditional = osim.ConditionalPathPoint()
conditional.setName("plain-P2")
conditional.setParentFrame(model.getGround())
conditional.setLocation(vec((-0.05, 0.16, 0.03)))
conditional.setCoordinate(model.getCoordinateSet().get("crank_angle"))
conditional.setRangeMin(-0.5)
conditional.setRangeMax(0.8)
osim.GeometryPath.safeDownCast(plain.updPath()).updPathPointSet().adoptAndAppend(conditional)
moving = osim.MovingPathPoint()
moving.setName("plain-P3")
moving.setParentFrame(offset)
moving.setXCoordinate(model.getCoordinateSet().get("crank_angle"))
moving.setYCoordinate(model.getCoordinateSet().get("crank_angle"))
moving.setZCoordinate(model.getCoordinateSet().get("crank_angle"))
moving.set_x_location(knots(osim.SimmSpline, (-2.0, -1.0, 0.0, 1.0, 2.0), (0.02, 0.03, 0.01, 0.0, 0.02)))
moving.set_y_location(osim.LinearFunction(0.02, 0.03))
moving.set_z_location(osim.Constant(0.01))
osim.GeometryPath.safeDownCast(plain.updPath()).updPathPointSet().adoptAndAppend(moving)
plain.addNewPathPoint("plain-P4", crank, vec((0.25, 0.02, 0.0)))
crank_muscles.append("plain")

model.finalizeConnections()
state = model.initSystem()
path = HERE / "geometry.osim"
model.printToXML(str(path))
path.write_text(re.sub(r"\n\s*<!--.*?-->", "", path.read_text(), flags=re.S))

model = osim.Model(str(path))
state = model.initSystem()
coordinates = model.getCoordinateSet()


def put(pose):
    for name, value in pose.items():
        coordinates.get(name).setValue(state, float(value), False)
    model.assemble(state)
    model.realizePosition(state)


independent = [coordinates.get(i).getName() for i in range(coordinates.getSize())]
independent.remove("follows")
poses = []
for _ in range(4):
    pose = {name: round(float(rng.uniform(-1.3, 1.3)), 3) for name in independent}
    put(pose)
    transforms = {}
    for i in range(model.getBodySet().getSize()):
        item = model.getBodySet().get(i)
        at = item.getTransformInGround(state)
        rotation = [[round(at.R().get(r, c), 12) for c in range(3)] for r in range(3)]
        transforms[item.getName()] = {"rotation": rotation, "translation": [round(at.p().get(k), 12) for k in range(3)]}
    poses.append({"pose": pose, "bodies": transforms})

angles = np.round(np.linspace(-2.8, 2.8, 29), 4)
lengths, arms, slopes = [], [], []
STEP = 1e-5
for angle in angles:
    # Set up afresh: OpenSim's wraps remember the previous pose.
    state = model.initSystem()
    put({"crank_angle": angle})
    paths = [model.getMuscles().get(name).getPath() for name in [*crank_muscles, "pair"]]
    lengths.append([round(p.getLength(state), 8) for p in paths])
    arms.append([round(p.computeMomentArm(state, coordinates.get("crank_angle")), 8) for p in paths])
    beside = []
    for sign in (1, -1):
        state = model.initSystem()
        put({"crank_angle": angle + sign * STEP})
        paths = [model.getMuscles().get(name).getPath() for name in [*crank_muscles, "pair"]]
        beside.append(np.array([p.getLength(state) for p in paths]))
    slopes.append(np.round((beside[0] - beside[1]) / (2 * STEP), 8).tolist())

result = {
    "provenance": f"OpenSim {osim.GetVersion()}, made-up model geometry.osim, both written by make_geometry.py",
    "poses": poses,
    "angles": angles.tolist(),
    "muscles": [*crank_muscles, "pair"],
    "lengths": lengths,
    "moment_arms": arms,
    "slopes": slopes,
}
(HERE / "geometry.json").write_text(json.dumps(result) + "\n")
