"""Direct path geometry against OpenSim, SciPy and hand-computed lengths."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import REFERENCE, load_arrays
from scipy.optimize import root

from nms_gym.errors import InputError
from nms_gym.muscle.paths import (
    muscles_crossing,
    sample_paths,
)
from nms_gym.recording.osim import read_osim

MODELS = {
    "rajagopal_walk_subject": "rajagopal_walk/original/subject_walk_scaled.osim",
    "gait2392_subj06": "ceinms_rt_lowerlimb/gait2392_scaled_estimate_subj06.osim",
}


@pytest.fixture(scope="module")
def geometry():
    return read_osim(REFERENCE / "geometry.osim")


@pytest.fixture(scope="module")
def rajagopal(data):
    return read_osim(data("rajagopal_walk") / "original" / "subject_walk_scaled.osim")


def compare(data, name):
    """Errors in mm of length (N, M) and of the worst moment arm (N, M) over the truth's poses."""
    folder, _, file = MODELS[name].partition("/")
    model = read_osim(data(folder) / file)
    truth = load_arrays(data("truth_geometry") / f"{name}.npz")
    muscles, dofs = ([str(x) for x in truth[key]] for key in ("muscles", "dofs"))
    lengths, arms = sample_paths(model, muscles, dofs, truth["q"])
    assert np.all(np.isfinite(lengths))
    assert np.all(np.isfinite(arms))
    length_error = 1e3 * np.abs(lengths - truth["lmt"])
    arm_error = 1e3 * np.abs(arms - np.swapaxes(truth["ma"], 1, 2)).max(axis=1)
    return model, truth, muscles, dofs, length_error, arm_error


# ---------------------------------------------------------------------------------------------- the truth tables


def test_gait2392_is_opensims_to_the_truth_files_precision(data):
    # Fixed, conditional and moving points only: nothing to approximate. The truth is stored in float32.
    model, truth, muscles, dofs, length_error, arm_error = compare(data, "gait2392_subj06")
    assert length_error.max() < 1e-4
    assert arm_error.max() < 1e-3
    crossing = muscles_crossing(model, dofs)
    for i, muscle in enumerate(muscles):
        assert [muscle in crossing[dof] for dof in dofs] == list(truth["spans"][i]), muscle


@pytest.mark.slow
def test_rajagopal_matches_opensim(data):
    model, truth, muscles, dofs, length_error, arm_error = compare(data, "rajagopal_walk_subject")
    length = {m: (np.median(length_error[:, i]), np.percentile(length_error[:, i], 95)) for i, m in enumerate(muscles)}
    arm = {m: (np.median(arm_error[:, i]), np.percentile(arm_error[:, i], 95)) for i, m in enumerate(muscles)}
    for muscle in muscles:
        assert length[muscle][0] < 0.1, (muscle, length[muscle])
        assert arm[muscle][0] < 0.3, (muscle, arm[muscle])
        if muscle != "gaslat_r":  # OpenSim's length with two cylinders contradicts its moment arm, which we match
            assert length[muscle][1] < 0.3, (muscle, length[muscle])
        if muscle != "glmax1_r":  # OpenSim's moment arm contradicts its length there: see the test of slopes
            assert arm[muscle][1] < 0.85, (muscle, arm[muscle])
    assert arm["glmax1_r"][1] < 1.7
    assert arm["gaslat_r"][1] < 0.4
    straight = [m for m in muscles if not model.muscle(m).wraps]
    assert len(straight) == 19
    assert max(length[m][1] for m in straight) < 1e-4
    assert max(arm[m][1] for m in straight) < 1e-4
    crossing = muscles_crossing(model, dofs)
    for i, muscle in enumerate(muscles):
        if muscle == "gaslat_r":  # OpenSim's unconverged wraps make it depend on the hip, which it does not touch
            assert [dof for dof in dofs if muscle in crossing[dof]] == ["knee_angle_r", "ankle_angle_r"]
        else:
            assert [muscle in crossing[dof] for dof in dofs] == list(truth["spans"][i]), muscle


@pytest.mark.slow
def test_moment_arms_are_the_derivative_of_opensims_lengths(rajagopal):
    """Over cylinders, where OpenSim's moment arms are not: central differences of its own lengths, 16 poses."""
    reference = json.loads((REFERENCE / "rajagopal_slopes.json").read_text())
    q = np.array(reference["q"])
    lengths, arms = sample_paths(rajagopal, reference["muscles"], reference["coordinates"], q)
    assert 1e3 * np.abs(lengths - reference["lengths"]).max() < 0.3
    error = 1e3 * np.abs(arms + np.array(reference["slopes"])).max(axis=1)
    assert np.all(np.median(error, axis=0) < 0.2)
    # Poses 10 to 12 are where OpenSim's moment arm of glmax1 errs most (3.4 to 4.2 mm), 13 to 15 psoas (1.6 to 2.7).
    names = reference["muscles"]
    assert error[10:13, names.index("glmax1_r")].max() < 1.4
    assert error[13:16, names.index("psoas_r")].max() < 0.6


def test_knee_moment_arms_include_the_patella(rajagopal):
    muscles, knee = ["vasint_r", "recfem_r"], np.array([[0.6], [1.2]])
    _, arms = sample_paths(rajagopal, muscles, ["knee_angle_r"], knee)
    step = 1e-5
    above, _ = sample_paths(rajagopal, muscles, ["knee_angle_r"], knee + step)
    below, _ = sample_paths(rajagopal, muscles, ["knee_angle_r"], knee - step)
    np.testing.assert_allclose(arms[:, 0], -(above - below) / (2 * step), atol=1e-8)
    assert np.all(arms < -0.02)  # they extend the knee; with the patella left behind they would hardly act
    assert "vasint_r" in muscles_crossing(rajagopal, ["knee_angle_r"])["knee_angle_r"]


# ---------------------------------------------------------------------------------------------- made-up geometry


def test_cylinders_on_every_side_and_points_of_every_kind(geometry):
    """OpenSim's lengths and moment arms to 1e-8 wherever these two of its results agree with each other."""
    reference = json.loads((REFERENCE / "geometry.json").read_text())
    muscles, angles = reference["muscles"], np.array(reference["angles"])
    lengths, arms = sample_paths(geometry, muscles, ["crank_angle"], angles[:, None])
    arms = arms[:, 0]
    length, arm, slope = (np.array(reference[key]) for key in ("lengths", "moment_arms", "slopes"))
    agree = np.abs(arm + slope) < 1e-4
    assert agree.mean() > 0.9
    np.testing.assert_allclose(lengths[agree], length[agree], atol=1e-8)
    np.testing.assert_allclose(arms[agree], arm[agree], atol=1e-8)
    # More than half a turn on the constrained side: OpenSim's moment arm is right, its length is not.
    cylinders = [i for i, name in enumerate(muscles) if name not in ("plain", "pair")]
    np.testing.assert_allclose(arms[:, cylinders], arm[:, cylinders], atol=1e-8)
    assert np.count_nonzero(~agree[:, cylinders]) == 26
    # A moving point in an offset frame: OpenSim's length is right, its moment arm forgets the frame's rotation.
    plain = muscles.index("plain")
    np.testing.assert_allclose(lengths[:, plain], length[:, plain], atol=1e-8)
    np.testing.assert_allclose(arms[:, plain], -slope[:, plain], atol=1e-6)
    # Two cylinders at once: OpenSim is too short by up to a centimetre, and stops iterating early.
    pair = muscles.index("pair")
    np.testing.assert_allclose(arms[:, pair], arm[:, pair], atol=1e-3)
    assert np.all(lengths[:, pair] > length[:, pair] - 1e-7)


def test_conditional_points_switch_with_opensims_margin(geometry):
    # The point is on the path in [-0.5, 0.8], widened by 1e-5 as in OpenSim; the path is longer through it.
    q = np.array([-0.5 - 2e-5, -0.5 - 0.5e-5, 0.8 + 0.5e-5, 0.8 + 2e-5])[:, None]
    lengths, _ = sample_paths(geometry, ["plain"], ["crank_angle"], q)
    assert lengths[1, 0] - lengths[0, 0] > 0.03
    assert lengths[2, 0] - lengths[3, 0] > 0.03


OSIM = """<OpenSimDocument Version="40600"><Model name="made"><Ground name="ground"><WrapObjectSet><objects>{ground}
</objects></WrapObjectSet></Ground><BodySet><objects><Body name="arm"><mass>1</mass><WrapObjectSet><objects>{arm}
</objects></WrapObjectSet></Body></objects></BodySet><JointSet><objects><{joint} name="joint">
<socket_parent_frame>/ground</socket_parent_frame><socket_child_frame>/bodyset/arm</socket_child_frame>
<coordinates><Coordinate name="q"/></coordinates></{joint}></objects></JointSet><ForceSet><objects>{muscles}</objects>
</ForceSet></Model></OpenSimDocument>"""
MUSCLE = """<Thelen2003Muscle name="{name}"><GeometryPath><PathPointSet><objects>{points}</objects></PathPointSet>
<PathWrapSet><objects>{uses}</objects></PathWrapSet></GeometryPath></Thelen2003Muscle>"""


def made(tmp_path, muscles, joint="PinJoint", kind="WrapCylinder"):
    """A model with one joint between ground and arm: {muscle: (points, cylinders)}.

    Points are (body, xyz); cylinders (body, radius, length, xyz, rotation, quadrant), the last two optional.
    """
    wraps, blocks = {"ground": "", "arm": ""}, ""
    frame = {"ground": "/ground", "arm": "/bodyset/arm"}
    for name, (points, cylinders) in muscles.items():
        uses = ""
        for i, (body, radius, length, center, *rest) in enumerate(cylinders):
            rotation, quadrant = [*rest, *((0, 0, 0), "all")[len(rest) :]]
            center, rotation = (" ".join(map(str, x)) for x in (center, rotation))
            wraps[body] += (
                f'<{kind} name="{name}_{i}"><radius>{radius}</radius><length>{length}</length>'
                f"<quadrant>{quadrant}</quadrant><translation>{center}</translation>"
                f"<xyz_body_rotation>{rotation}</xyz_body_rotation></{kind}>"
            )
            uses += f'<PathWrap name="w{i}"><wrap_object>{name}_{i}</wrap_object></PathWrap>'
        blocks += MUSCLE.format(
            name=name,
            uses=uses,
            points="".join(
                f'<PathPoint name="p{i}"><socket_parent_frame>{frame[body]}</socket_parent_frame>'
                f"<location>{' '.join(map(str, xyz))}</location></PathPoint>"
                for i, (body, xyz) in enumerate(points)
            ),
        )
    path = tmp_path / "made.osim"
    path.write_text(OSIM.format(joint=joint, muscles=blocks, **wraps))
    return read_osim(path)


def test_lengths_by_hand(tmp_path):
    tangent, angle = np.sqrt(0.1**2 - 0.05**2), np.pi - 2 * np.arccos(0.5)
    helix = np.hypot(2 * tangent + 0.05 * angle, 0.3)
    over = [("ground", (0.1, 0.01, 0.2)), ("arm", (-0.1, 0.01, 0.3))]
    straight = np.hypot(0.2, 0.1)
    muscles = {
        # Half a turn between points left and right of the axis, 0.3 m apart along it.
        "helix": ([("ground", (0.1, 0, 0)), ("arm", (-0.1, 0, 0.3))], [("ground", 0.05, 1.0, (0, 0, 0))], helix),
        # The contacts are near z = 0.25, the end of the cylinder is at 0.15.
        "beyond": (over, [("ground", 0.05, 0.3, (0, 0, 0))], straight),
        "inside": (over, [("ground", 0.11, 1.0, (0, 0, 0))], straight),
        "beside": (over, [("ground", 0.05, 1.0, (0, 0.2, 0))], straight),
    }
    model = made(tmp_path, {name: (points, cylinders) for name, (points, cylinders, _) in muscles.items()})
    lengths, _ = sample_paths(model, list(muscles), ["q"], np.zeros((1, 1)))
    for i, (name, (*_, expected)) in enumerate(muscles.items()):
        assert lengths[0, i] == pytest.approx(expected, rel=1e-12), name


def test_straight_line_by_hand(tmp_path):
    model = made(tmp_path, {"m": ([("ground", (0.1, 0, 0)), ("arm", (0, 0.2, 0))], [])})
    lengths, arms = sample_paths(model, ["m"], ["q"], np.array([[0.0], [np.pi / 2]]))
    np.testing.assert_allclose(lengths[:, 0], [np.hypot(0.1, 0.2), 0.3], rtol=1e-14)
    # At 0 the line from (0.1, 0) to (0, 0.2) passes the origin at 0.1 * 0.2 / length; turning on lengthens it.
    np.testing.assert_allclose(arms[:, 0, 0], [-0.02 / np.hypot(0.1, 0.2), 0.0], atol=1e-15)


def test_two_cylinders_are_a_taut_string(tmp_path):
    """Two skewed cylinders on different bodies: SciPy solves for the four contacts where the string leaves smoothly.

    There the line lies in the tangent plane and climbs along the axis as steeply as the helix it joins.
    """
    start, end = np.array([-0.3, 0.005, 0.02]), np.array([0.3, -0.025, -0.05])
    near = ("ground", 0.06, 1.0, (-0.12, 0.0, 0.0), (0.3, 0.2, 0.0))
    far = ("arm", 0.05, 1.0, (0.13, -0.01, 0.0), (-0.2, 0.1, 0.0))
    model = made(tmp_path, {"m": ([("ground", start), ("arm", end)], [near, far])})
    turned = 0.1

    def taut(q):
        c, s = np.cos(q), np.sin(q)
        spin = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        surfaces = [(np.eye(3), model.wraps[0]), (spin, model.wraps[1])]

        def trace(x):
            nodes, normals, axes, climbs, over = [start], [], [], [], 0.0
            for (turn, wrap), (a0, z0, a1, z1) in zip(surfaces, x.reshape(2, 4), strict=True):
                arc = np.hypot(wrap.radius * (a1 - a0), z1 - z0)
                over += arc
                for angle, z in ((a0, z0), (a1, z1)):
                    normal = np.array([np.cos(angle), np.sin(angle), 0.0])
                    local = wrap.radius * normal + [0, 0, z]
                    nodes.append(turn @ (wrap.rotation @ local + wrap.translation))
                    normals.append(turn @ wrap.rotation @ normal)
                    axes.append(turn @ wrap.rotation[:, 2])
                    climbs.append((z1 - z0) / arc)
            nodes.append(spin @ end)
            lines = [nodes[1] - nodes[0], nodes[3] - nodes[2], nodes[5] - nodes[4]]
            directions = [line / np.linalg.norm(line) for line in lines]
            at = [directions[k] for k in (0, 1, 1, 2)]
            errors = [d @ n for d, n in zip(at, normals, strict=True)]
            errors += [d @ z - climb for d, z, climb in zip(at, axes, climbs, strict=True)]
            return np.array(errors), sum(np.linalg.norm(line) for line in lines) + over

        # Over the top of both, from left to right: angles fall.
        guess = np.array([1.9, 0, 1.5, 0, 1.6, 0, 1.2, 0])
        found = root(lambda x: trace(x)[0], guess, tol=1e-13)
        assert np.abs(found.fun).max() < 1e-12
        assert found.x[0] > found.x[2]
        assert found.x[4] > found.x[6]
        return trace(found.x)[1]

    q = np.array([[turned]])
    lengths, arms = sample_paths(model, ["m"], ["q"], q)
    assert lengths[0, 0] > np.linalg.norm(end - start) + 0.005
    assert lengths[0, 0] == pytest.approx(taut(turned), abs=1e-10)
    step = 1e-5
    difference = -(taut(turned + step) - taut(turned - step)) / (2 * step)
    assert arms[0, 0, 0] == pytest.approx(difference, abs=1e-8)
    assert abs(arms[0, 0, 0]) > 0.05


@pytest.mark.slow
def test_moment_arms_match_differences_of_lengths(rajagopal):
    muscles, coordinates = ["gaslat_r"], ["knee_angle_r", "ankle_angle_r"]  # two cylinders
    q = np.random.default_rng(5).uniform((0.0, -0.5), (1.8, 0.4), (24, 2))
    _, arms = sample_paths(rajagopal, muscles, coordinates, q)
    step = 1e-6
    shifts = step * np.eye(2)
    above, below = (
        sample_paths(rajagopal, muscles, coordinates, np.concatenate(q + sign * shifts[:, None]))[0] for sign in (1, -1)
    )
    difference = ((above - below) / (2 * step)).reshape(2, 24, 1).swapaxes(0, 1)
    np.testing.assert_allclose(-arms, difference, atol=1e-7)
    assert np.all(np.abs(arms).max(axis=(0, 1)) > 0.01)


def test_gradients_are_finite_at_kinks(tmp_path):
    one = [("ground", 0.05, 1, (0, 0, 0))]
    model = made(
        tmp_path,
        {
            "touching": ([("ground", (0.1, 0.05, 0)), ("arm", (-0.1, 0.05, 0))], one),
            "on_the_surface": ([("ground", (0.05, 0, 0)), ("arm", (-0.05, 0, 0.1))], one),
            "along_the_axis": ([("ground", (0.1, 0, -0.1)), ("arm", (0.1, 0, 0.1))], one),
            "coinciding": ([("ground", (0.1, 0, 0)), ("arm", (0.1, 0, 0)), ("arm", (0.0, 0.2, 0.0))], one),
            "forced_from_one_point": (
                [("ground", (0.1, 0, 0)), ("arm", (0.1, 0, 0))],
                [("ground", 0.05, 1, (0, 0, 0), (0, 0, 0), "-x")],
            ),
        },
    )
    muscles = [muscle.name for muscle in model.muscles]
    lengths, arms = sample_paths(model, muscles, ["q"], np.zeros((1, 1)))
    assert np.all(np.isfinite(lengths))
    assert np.all(np.isfinite(arms))


def test_translations_have_moment_arms_of_unit_length(tmp_path):
    model = made(tmp_path, {"m": ([("ground", (0, 0, 0)), ("arm", (0.1, 0, 0))], [])}, joint="SliderJoint")
    _, arms = sample_paths(model, ["m"], ["q"], np.array([[0.2]]))
    assert arms[0, 0, 0] == pytest.approx(-1.0)


def test_order_and_subsets_do_not_change_a_muscle(geometry):
    muscles = ["x_1", "plain", "all_2"]  # two groups inside, so that their order is restored
    q = np.array([[0.4], [0.1]])
    lengths, arms = sample_paths(geometry, muscles, ["crank_angle"], q)
    other, other_arms = sample_paths(geometry, ["all_2"], ["bend", "crank_angle"], np.concatenate([q + 1, q], axis=1))
    np.testing.assert_allclose(other[:, 0], lengths[:, 2], rtol=1e-13)
    np.testing.assert_allclose(other_arms[:, 1, 0], arms[:, 0, 2], atol=1e-14)
    np.testing.assert_array_equal(other_arms[:, 0], 0.0)


# ---------------------------------------------------------------------------------------------- refusals


def test_arm26_matches_opensim(data):
    truth = load_arrays(data("truth_geometry") / "arm26.npz")
    model = read_osim(data("arm26_elbow") / "original" / "arm26.osim")
    muscles, dofs = [str(x) for x in truth["muscles"]], [str(x) for x in truth["dofs"]]
    assert any(use.wrap.kind == "ellipsoid" for m in muscles for use in model.muscle(m).wraps)
    lengths, arms = sample_paths(model, muscles, dofs, truth["q"])
    length, arm = 1e3 * np.abs(lengths - truth["lmt"]), 1e3 * np.abs(arms - np.swapaxes(truth["ma"], 1, 2)).max(axis=1)
    # Over two surfaces OpenSim keeps contacts of the sweep before, and counts 5 mm that its path does not have.
    single = [m for m, name in enumerate(muscles) if len(model.muscle(name).wraps) < 2]
    assert len(single) == 5
    assert np.percentile(length[:, single], 95, axis=0).max() < 0.1
    assert np.percentile(arm[:, single], 95, axis=0).max() < 0.5
    assert np.median(length, axis=0).max() < 0.1


def test_bad_requests_are_refused(geometry, tmp_path):
    q = np.zeros((2, 1))
    for muscles, coordinates, values, words in [
        (["plane"], ["crank_angle"], q, r"no muscle 'plane'; did you mean 'plain'"),
        (["plain", "plain"], ["crank_angle"], q, "muscle is named twice"),
        ([], ["crank_angle"], q, "no muscle was asked for"),
        (["plain"], ["crank"], q, r"no coordinate 'crank'; did you mean .*'crank_angle'"),
        (["plain"], ["follows"], q, "use 'bend'"),
        (["plain"], ["crank_angle"], np.zeros(2), r"shape \(2,\); expected \(poses, 1\)"),
        (["plain"], ["crank_angle"], np.array([[0.0], [np.nan]]), r"'crank_angle' is nan in row 1"),
    ]:
        with pytest.raises(InputError, match=words):
            sample_paths(geometry, muscles, coordinates, values)
    points = [("ground", (0.1, 0, 0)), ("arm", (0, 0.2, 0))]
    axial = made(tmp_path, {"m": (points, [("ground", 0.05, 1, (0, 0, 0), (0, 0, 0), "z")])})
    with pytest.raises(InputError, match=r"'m' wraps over cylinder 'm_0' with quadrant 'z'"):
        sample_paths(axial, ["m"], ["q"], q)
