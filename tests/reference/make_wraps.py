"""Write wraps.osim and wraps.json: OpenSim's lengths of paths over surfaces of every kind, of a made-up model.

Run in an environment with the ``opensim`` package (4.6 was used): ``python make_wraps.py``. A body turns about one
point by three angles; muscles run from the ground to it over spheres, ellipsoids (each method, several quadrants) and
tori, alone, together, on part of the path, and with conditional and moving points. ``lengths`` are those of the paths
that OpenSim draws, straight lines and arcs added up: where two surfaces are on, its ``getLength`` may contradict them.
"""

import json
from pathlib import Path

import numpy as np
import opensim as osim

HERE = Path(__file__).resolve().parent
rng = np.random.default_rng(11)
osim.Logger.setLevelString("off")

FRAMES = {"ground": "/ground", "arm": "/bodyset/arm"}
wraps: dict[str, list[str]] = {"ground": [], "arm": []}
muscles: dict[str, str] = {}


def text(values):
    return " ".join(f"{v:.4f}" for v in np.atleast_1d(values))


def surface(name, kind, sizes, quadrant="all", body="ground", center=None, turn=(0, 0, 0), active="true"):
    center = rng.uniform(-0.01, 0.01, 3) if center is None else center
    rows = "".join(f"<{tag}>{text(value)}</{tag}>" for tag, value in sizes.items())
    wraps[body].append(
        f'<Wrap{kind} name="{name}"><active>{active}</active><quadrant>{quadrant}</quadrant>'
        f"<xyz_body_rotation>{text(np.array(turn) + rng.uniform(-0.5, 0.5, 3))}</xyz_body_rotation>"
        f"<translation>{text(center)}</translation>{rows}</Wrap{kind}>"
    )


def fixed(name, body, at):
    return (
        f'<PathPoint name="{name}"><socket_parent_frame>{FRAMES[body]}</socket_parent_frame>'
        f"<location>{text(at)}</location></PathPoint>"
    )


def origin():
    return np.array([-0.13, 0.0, 0.0]) + rng.uniform(-0.03, 0.03, 3)


def insertion():
    return np.array([0.13, 0.0, 0.0]) + rng.uniform(-0.03, 0.03, 3)


def muscle(name, uses, middle="", points=None):
    points = points or fixed("a", "ground", origin()) + middle + fixed("b", "arm", insertion())
    rows = "".join(
        f'<PathWrap name="w{i}"><wrap_object>{wrap}</wrap_object><method>{method}</method><range>{span}</range>'
        "</PathWrap>"
        for i, (wrap, method, span) in enumerate(uses)
    )
    muscles[name] = (
        f'<Thelen2003Muscle name="{name}"><max_isometric_force>100</max_isometric_force>'
        "<optimal_fiber_length>0.1</optimal_fiber_length><tendon_slack_length>0.1</tendon_slack_length>"
        f"<GeometryPath><PathPointSet><objects>{points}</objects></PathPointSet>"
        f"<PathWrapSet><objects>{rows}</objects></PathWrapSet></GeometryPath></Thelen2003Muscle>"
    )


ALL = "-1 -1"
for name, quadrant in {"sphere": "all", "sphere_y": "y", "sphere_minus_z": "-z"}.items():
    surface(name, "Sphere", {"radius": 0.04}, quadrant)
    muscle(name, [(name, "hybrid", ALL)])
AXES = {"long": (0.03, 0.045, 0.06), "flat": (0.05, 0.02, 0.05), "round": (0.04, 0.04, 0.04)}
for method in ("hybrid", "midpoint", "axial"):
    for shape, axes in AXES.items():
        surface(f"{method}_{shape}", "Ellipsoid", {"dimensions": axes})
        muscle(f"{method}_{shape}", [(f"{method}_{shape}", method, ALL)])
for quadrant in ("x", "-y", "z"):
    name = f"ellipsoid_{quadrant.replace('-', 'minus_')}"
    surface(name, "Ellipsoid", {"dimensions": (0.05, 0.03, 0.04)}, quadrant, body="arm")
    muscle(name, [(name, "hybrid", ALL)])
for k in range(3):
    # The hole lies across the path.
    sizes = {"inner_radius": 0.012, "outer_radius": 0.045}
    surface(f"torus_{k}", "Torus", sizes, center=(-0.03, 0.02 * k, 0.01), turn=(0, np.pi / 2, 0))
    muscle(f"torus_{k}", [(f"torus_{k}", "hybrid", ALL)])
surface("off", "Ellipsoid", {"dimensions": AXES["long"]}, active="false")
muscle("inactive", [("off", "hybrid", ALL)])
surface("part", "Sphere", {"radius": 0.03}, center=(-0.05, 0.0, 0.0))
muscle("on_part", [("part", "hybrid", "2 3")], middle=fixed("m", "ground", (-0.1, 0.02, 0.03)))
switched = "".join(
    f'<ConditionalPathPoint name="c{i}"><socket_parent_frame>/ground</socket_parent_frame>'
    f"<location>{text((-0.07, 0.03 * i, 0.05))}</location><socket_coordinate>/jointset/joint/{coordinate}"
    f"</socket_coordinate><range>{low} {high}</range></ConditionalPathPoint>"
    for i, (coordinate, low, high) in enumerate([("first", -0.3, 0.9), ("second", -0.9, 0.1)])
)
surface("under", "Ellipsoid", {"dimensions": (0.03, 0.04, 0.035)})
muscle("conditional", [("under", "hybrid", ALL)], middle=switched)
moving = (
    '<MovingPathPoint name="m"><socket_parent_frame>/bodyset/arm</socket_parent_frame>'
    + "".join(f"<socket_{axis}_coordinate>/jointset/joint/second</socket_{axis}_coordinate>" for axis in "xyz")
    + "<x_location><SimmSpline><x>-1 -0.5 0 0.5 1</x><y>0.09 0.1 0.1 0.11 0.1</y></SimmSpline></x_location>"
    "<y_location><LinearFunction><coefficients>0.02 0.01</coefficients></LinearFunction></y_location>"
    "<z_location><Constant><value>0.01</value></Constant></z_location></MovingPathPoint>"
)
surface("slid", "Sphere", {"radius": 0.035})
muscle("moving", [("slid", "hybrid", ALL)], middle=moving)
surface("pair_a", "Sphere", {"radius": 0.03}, center=(-0.06, 0.02, 0.0))
surface("pair_b", "Ellipsoid", {"dimensions": (0.025, 0.03, 0.035)}, body="arm", center=(0.06, 0.02, 0.0))
muscle("pair", [("pair_a", "hybrid", ALL), ("pair_b", "hybrid", ALL)])

coordinates = "".join(f'<Coordinate name="{name}"/>' for name in ("first", "second", "third"))
sets = {body: f"<WrapObjectSet><objects>{''.join(rows)}</objects></WrapObjectSet>" for body, rows in wraps.items()}
path = HERE / "wraps.osim"
path.write_text(
    '<?xml version="1.0" encoding="UTF-8" ?>\n<OpenSimDocument Version="40600"><Model name="wraps">'
    f'<Ground name="ground">{sets["ground"]}</Ground>\n<BodySet><objects><Body name="arm"><mass>1</mass>'
    f"<mass_center>0 0 0</mass_center><inertia>1 1 1 0 0 0</inertia>{sets['arm']}</Body></objects></BodySet>\n"
    '<JointSet><objects><GimbalJoint name="joint"><socket_parent_frame>/ground</socket_parent_frame>'
    "<socket_child_frame>/bodyset/arm</socket_child_frame>"
    f"<coordinates>{coordinates}</coordinates></GimbalJoint></objects></JointSet>\n"
    "<ForceSet><objects>\n" + "\n".join(muscles.values()) + "\n</objects></ForceSet></Model></OpenSimDocument>\n"
)

model = osim.Model(str(path))
q = np.round(rng.uniform(-0.7, 0.7, (200, 3)), 3)
lengths = np.empty((len(q), len(muscles)))
for n, pose in enumerate(q):
    # Set up afresh: OpenSim's wraps remember the previous pose.
    state = model.initSystem()
    for name, value in zip(("first", "second", "third"), pose, strict=True):
        model.getCoordinateSet().get(name).setValue(state, float(value), False)
    model.realizePosition(state)
    for m, name in enumerate(muscles):
        geometry = osim.GeometryPath.safeDownCast(model.getMuscles().get(name).getPath())
        geometry.getLength(state)  # which makes OpenSim lay the path
        points = geometry.getCurrentPath(state)
        total, before, over = 0.0, None, None
        for i in range(points.getSize()):
            point = points.get(i)
            place, wrap = point.getLocationInGround(state).to_numpy(), point.getWrapObject()
            wrap = wrap.getName() if wrap else ""
            if before is not None:
                straight = float(np.linalg.norm(place - before))
                arc = osim.PathWrapPoint.safeDownCast(point)
                total += max(straight, arc.getWrapLength(state)) if wrap and wrap == over else straight
            before, over = place, wrap
        lengths[n, m] = total
result = {
    "provenance": f"OpenSim {osim.GetVersion()}, made-up model wraps.osim, both written by make_wraps.py",
    "coordinates": ["first", "second", "third"],
    "muscles": list(muscles),
    "q": q.tolist(),
    "lengths": np.round(lengths, 7).tolist(),
}
(HERE / "wraps.json").write_text(json.dumps(result) + "\n")
