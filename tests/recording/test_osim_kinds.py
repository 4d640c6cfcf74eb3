"""Kinds of OpenSim files that are met in public: each is read, and what cannot be used is named and no more.

Lengths and moment arms are OpenSim 4.6's own for the same files.
"""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from helpers import REFERENCE

from nms_gym.anatomy import NotModelledWarning, not_modelled
from nms_gym.errors import InputError
from nms_gym.files.inspection import describe
from nms_gym.files.model_file import check_model, model_from_osim
from nms_gym.model.parameters import make_params
from nms_gym.model.structure import NmsModel, Settings
from nms_gym.muscle.path_fitting import direct_sampler
from nms_gym.muscle.paths import path_sampler, sample_paths
from nms_gym.recording.osim import read_osim
from nms_gym.skeleton.recorded_motion import agreement, moments_of_motion, read_motion
from nms_gym.skeleton.skeleton import make_skeleton

TWO_LINK = (REFERENCE / "two_link.osim").read_text()
# Length and moment arm of the flexor at the knee angles.
KNEE = np.array([[-1.5], [-0.8], [0.0]])
FLEXOR = np.array([0.2761762, 0.3220753, 0.36])
FLEXOR_ARM = np.array([-0.0645281, -0.0614490, -0.03])


def written(tmp_path, text, name="model.osim", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def put(old, new, text=TWO_LINK):
    assert old in text, f"{old!r} is not in the file"
    return text.replace(old, new, 1)


def assert_geometry(path):
    model = read_osim(path)
    assert model.problems == ()
    lengths, arms = sample_paths(model, ["flexor"], ["knee_flex"], KNEE)
    assert lengths[:, 0] == pytest.approx(FLEXOR, abs=1e-6)
    assert arms[:, 0, 0] == pytest.approx(FLEXOR_ARM, abs=1e-6)
    return model


def listing_of(path):
    return "\n".join([title + "\n" + "\n".join(" ".join(row) for row in rows) for title, _, rows in describe(path)])


# -- the reader is no stricter than OpenSim's own

CONTACT = """<HuntCrossleyForce name="heel"><HuntCrossleyForce::ContactParametersSet><objects>
<HuntCrossleyForce::ContactParameters><geometry>ball floor</geometry></HuntCrossleyForce::ContactParameters>
</objects></HuntCrossleyForce::ContactParametersSet></HuntCrossleyForce>"""
FORCES = '<ForceSet name="forceset">\n\t\t\t<objects>'


@pytest.mark.parametrize(
    ("change", "encoding"),
    [
        (lambda text: put(FORCES, FORCES + CONTACT, text), "utf-8"),
        (
            lambda text: put("<length_units>", "<credits>M\xfcller & S\xf6hne &c; R&D</credits><length_units>", text),
            "cp1252",
        ),
        (lambda text: put("<length_units>", "<!-- cut out -- see below -- --><length_units>", text), "utf-8"),
        (lambda text: "\n  \n" + text, "utf-8"),
        (lambda text: text.replace('encoding="UTF-8"', 'encoding="UTF-16"'), "utf-16"),
        (lambda text: put("meters", "Unassigned", put("<force_units>N", "<force_units>Unassigned", text)), "utf-8"),
        (lambda text: put("<length_units>", "<credits>a\x00b\x0cc</credits><length_units>", text), "utf-8"),
    ],
    ids=["colons", "bytes_and_ampersands", "comment", "leading_blanks", "utf-16", "unassigned", "control_characters"],
)
def test_what_opensim_reads_is_read(tmp_path, change, encoding):
    assert_geometry(written(tmp_path, change(TWO_LINK), encoding=encoding))


def test_entities_stay_refused_however_the_file_is_damaged(tmp_path):
    bomb = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aa">]><OpenSimDocument>&a; & &b;</OpenSimDocument>'
    with pytest.raises(InputError, match=r"model\.osim"):
        read_osim(written(tmp_path, bomb))


def test_bodies_and_muscles_are_found_wherever_they_stand(tmp_path):
    muscle = re.search(
        r"<Millard2012EquilibriumMuscle name=\"flexor\">.*?</Millard2012EquilibriumMuscle>", TWO_LINK, re.S
    )
    body = re.search(r"<Body name=\"shank\">.*?</Body>", TWO_LINK, re.S)
    text = TWO_LINK.replace(muscle[0], "").replace(body[0], "")
    text = put("<length_units>", f"<components>{muscle[0]}{body[0]}</components><length_units>", text)
    assert_geometry(written(tmp_path, text.replace("/bodyset/shank", "/shank")))
    text = TWO_LINK.replace(muscle[0], "")
    nested = f'<ComponentSet name="componentset"><objects>{muscle[0]}</objects></ComponentSet><length_units>'
    assert_geometry(written(tmp_path, put("<length_units>", nested, text)))


def test_coordinates_and_joints_that_a_file_leaves_to_opensim_have_its_names(tmp_path):
    text = re.sub(r"<coordinates>.*?</coordinates>", "", TWO_LINK, flags=re.S)
    model = read_osim(written(tmp_path, text))
    assert [c.name for c in model.coordinates] == ["hip_coord_0", "knee_coord_0"]
    lengths, _ = sample_paths(model, ["flexor"], ["knee_coord_0"], KNEE)
    assert lengths[:, 0] == pytest.approx(FLEXOR, abs=1e-6)
    one = put('<coordinates>\n\t\t\t\t\t\t<Coordinate name="knee_flex">', "<coordinates><Coordinate>")
    assert [c.name for c in read_osim(written(tmp_path, one)).coordinates] == ["hip_flex", "_coord_0"]
    loose = put("</Body>", '</Body><Body name="loose"><mass>1</mass></Body>')
    model = read_osim(written(tmp_path, loose))
    assert [c.name for c in model.coordinates][2:] == [f"free_loose_coord_{i}" for i in range(6)]


STATIONS = """<Body name="thigh"><components>
<Station name="po"><socket_parent_frame>..</socket_parent_frame><location>0 0 0</location></Station>
<Station name="px"><socket_parent_frame>..</socket_parent_frame><location>0.1 0 0</location></Station>
<Station name="py"><socket_parent_frame>/bodyset/thigh</socket_parent_frame><location>0.02 0.1 0</location></Station>
<StationDefinedFrame name="axes"><ab_axis>{0}</ab_axis><ab_x_ac_axis>{1}</ab_x_ac_axis>
<socket_point_a>../po</socket_point_a><socket_point_b>../px</socket_point_b><socket_point_c>../py</socket_point_c>
<socket_origin_point>../po</socket_origin_point></StationDefinedFrame></components>"""


@pytest.mark.parametrize(
    ("along", "normal", "rotation"),
    [
        ("+x", "+z", np.eye(3)),
        ("+y", "+z", [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]),
        ("-x", "+y", [[-1, 0, 0], [0, 0, 1], [0, 1, 0]]),
    ],
)
def test_station_defined_frames_are_frames(tmp_path, along, normal, rotation):
    text = put('<Body name="thigh">', STATIONS.format(along, normal))
    text = put("<socket_child_frame>thigh_offset<", "<socket_child_frame>/bodyset/thigh/axes<", text)
    model = read_osim(written(tmp_path, text))
    frame = model.joints[0].child
    assert frame.body == "thigh"
    assert frame.rotation == pytest.approx(np.array(rotation, float))
    if along == "+x":
        assert_geometry(tmp_path / "model.osim")


def test_a_station_frame_that_is_none_is_refused_where_it_is_used(tmp_path):
    text = put('<Body name="thigh">', STATIONS.format("+x", "+x"))
    text = put("<socket_child_frame>thigh_offset<", "<socket_child_frame>/bodyset/thigh/axes<", text)
    model = read_osim(written(tmp_path, text))
    with pytest.raises(InputError, match=r"ab_axis.*same axis"):
        sample_paths(model, ["flexor"], ["knee_flex"], KNEE)


# -- one odd part never refuses the whole model


def deprecated(class_name, speed):
    text = TWO_LINK.replace("Millard2012EquilibriumMuscle", class_name)
    return text.replace(
        "<max_isometric_force>800<",
        f"<max_contraction_velocity>0</max_contraction_velocity>{speed}<max_isometric_force>800<",
    )


@pytest.mark.parametrize(
    ("class_name", "speed", "expected"),
    [
        ("Schutte1993Muscle_Deprecated", "<time_scale>0.1</time_scale>", 10.0),
        ("Delp1990Muscle_Deprecated", "<time_scale>0.125</time_scale>", 8.0),
        ("Thelen2003Muscle_Deprecated", "<Vmax>12</Vmax>", 12.0),
    ],
)
def test_speed_of_classes_that_keep_it_elsewhere(tmp_path, class_name, speed, expected):
    model = assert_geometry(written(tmp_path, deprecated(class_name, speed)))
    assert model.muscle("flexor").max_contraction_velocity == pytest.approx(expected)


def test_a_muscle_without_speed_is_refused_when_it_makes_force_and_not_before(tmp_path):
    path = written(tmp_path, deprecated("Schutte1993Muscle_Deprecated", ""))
    model = read_osim(path)
    assert "max_contraction_velocity of muscle 'flexor' (Schutte1993Muscle_Deprecated) is 0" in model.problems[0]
    lengths, _ = sample_paths(model, ["flexor"], ["knee_flex"], KNEE)
    assert lengths[:, 0] == pytest.approx(FLEXOR, abs=1e-6)
    model_from_osim(model, ["biart"], ["knee_flex"])
    with pytest.raises(InputError, match="max_contraction_velocity of muscle 'flexor'"):
        model_from_osim(model, ["flexor"], ["knee_flex"])
    assert "max_contraction_velocity of muscle 'flexor'" in listing_of(path)


def test_a_muscle_without_tendon_is_rigid(tmp_path):
    text = put("<tendon_slack_length>0.25<", "<tendon_slack_length>0<")
    model = assert_geometry(written(tmp_path, text))
    file = model_from_osim(model, ["flexor", "biart"], ["knee_flex"])
    check_model(file, "model")
    assert file.parameters["tendon_slack_length"]["flexor"] == 0.0

    def params(tendon):
        structure = NmsModel(file.muscles, ("knee_flex",), file.muscles, Settings(tendon=tendon), np.eye(2), None)
        return make_params(structure, file.parameters)

    assert params("rigid").tendon_slack_length[0] == pytest.approx(0.0, abs=2e-5)
    with pytest.raises(InputError, match=r"tendon_slack_length of 'flexor' is 0 m.*rigid"):
        params("elastic")


@pytest.mark.parametrize(
    ("pose", "expected"),
    [((0.0, 0.0), 0.2597195), ((0.5, -1.0), 0.2654211), ((-0.4, -0.3), 0.2625469)],
)
def test_a_coupler_of_two_coordinates(pose, expected):
    model = read_osim(REFERENCE / "multivariate_coupler.osim")
    lengths, _ = sample_paths(model, ["vasti"], ["hip_flex", "knee_flex"], np.array([pose]))
    assert lengths[0, 0] == pytest.approx(expected, abs=1e-6)


def test_a_joint_or_coupler_that_cannot_be_computed_stops_only_what_hangs_on_it(tmp_path):
    text = (REFERENCE / "multivariate_coupler.osim").read_text()
    odd = text.replace("MultivariatePolynomialFunction", "ExpressionFunction")
    exotic = r'<ScapulothoracicJoint name="pf">\1</ScapulothoracicJoint>'
    joint = re.sub(r'<PinJoint name="pf">(.*?)</PinJoint>', exotic, text, flags=re.S)
    for changed, words in ((odd, ["ExpressionFunction", "'pat_con'"]), (joint, ["ScapulothoracicJoint", "'pf'"])):
        model = read_osim(written(tmp_path, changed))
        lengths, _ = sample_paths(model, ["flexor"], ["knee_flex"], KNEE)
        assert lengths[:, 0] == pytest.approx(FLEXOR, abs=1e-6)
        for used in (
            lambda model=model: path_sampler(model, ["vasti"], ["knee_flex"]),
            lambda model=model: make_skeleton(model, ["knee_flex"]),
        ):
            with pytest.raises(InputError) as caught:
                used()
            assert all(word in str(caught.value) for word in words)


def test_numbers_of_a_coordinate_that_are_none_stop_only_its_joint(tmp_path):
    text = put("<range>-1.2 1.2</range>", "<range>-1.2 high</range>")
    model = read_osim(written(tmp_path, text))
    assert "<range>" in model.problems[0]
    assert "'hip_flex'" in model.problems[0]
    with pytest.raises(InputError, match="hip_flex"):
        path_sampler(model, ["flexor"], ["knee_flex"])
    endless = read_osim(written(tmp_path, put("<range>-1.2 1.2</range>", "<range>-Inf Inf</range>")))
    assert endless.coordinate("hip_flex").range == (-10.0, 10.0)
    falling = read_osim(written(tmp_path, put("<range>-1.2 1.2</range>", "<range>1.2 -1.2</range>")))
    with pytest.raises(InputError, match="hip_flex"):
        model_from_osim(falling, ["biart"], ["hip_flex"])


# -- nothing is dropped without a word

CONSTRAINT = """<ConstraintSet name="constraintset"><objects><PointConstraint name="foot_on_step">
<socket_body_1>/ground</socket_body_1><socket_body_2>/bodyset/shank</socket_body_2></PointConstraint></objects></ConstraintSet>
<ForceSet name="forceset">"""
PLUGIN = """<WindForce name="wind"><body>shank</body></WindForce><LeagueMuscle name="odd"><GeometryPath name="path">
<PathPointSet><objects><PathPoint name="a"><socket_parent_frame>/bodyset/thigh</socket_parent_frame></PathPoint>
<PathPoint name="b"><socket_parent_frame>/bodyset/shank</socket_parent_frame></PathPoint>
</objects></PathPointSet></GeometryPath>
</LeagueMuscle>"""


def test_constraints_forces_and_unknown_muscles_are_listed_and_warned_of(tmp_path):
    text = put('<ForceSet name="forceset">', CONSTRAINT, put(FORCES, FORCES + PLUGIN))
    path = written(tmp_path, text)
    model = read_osim(path)
    listing = listing_of(path)
    for words in (
        "constraint 'foot_on_step' (PointConstraint)",
        "force 'wind' (WindForce)",
        "muscle 'odd' (LeagueMuscle)",
    ):
        assert words in listing, listing
    assert "is a LeagueMuscle, which is not known here" in listing
    with pytest.warns(NotModelledWarning, match=r"constraint 'foot_on_step' \(PointConstraint\) is not modelled"):
        direct_sampler(model, ["flexor"], ["knee_flex"])
    assert [part.name for part in not_modelled(model, ["knee_flex"], ("force",))] == ["wind"]
    disabled = written(tmp_path, text.replace("</socket_body_2>", "</socket_body_2><isEnforced>false</isEnforced>"))
    assert not_modelled(read_osim(disabled), ["knee_flex"]) == ()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "<optimal_fiber_length>0.1",
            "<optimal_fiber_length>1e-9</optimal_fiber_length><x>",
            ["optimal_fiber_length", "'flexor'", "1e-09"],
        ),
        ("<inertia>0.05", "<inertia>-0.05", ["inertia", "'shank'", "negative"]),
        ("<inertia>0.05", "<inertia>50000", ["inertia", "'shank'", "mm^2"]),
        ("<mass>3<", "<mass>-3<", ["mass", "'shank'", "-3"]),
    ],
)
def test_what_no_body_or_muscle_can_be_is_named_and_refused_when_used(tmp_path, old, new, words):
    text = put(old, new).replace("<x>0000000000000001</optimal_fiber_length>", "")
    path = written(tmp_path, text)
    model = read_osim(path)
    assert all(word in model.problems[0] for word in words), model.problems
    assert all(word in listing_of(path) for word in words)
    lengths, _ = sample_paths(model, ["flexor"], ["knee_flex"], KNEE)
    assert lengths[:, 0] == pytest.approx(FLEXOR, abs=1e-6)
    used = (
        (lambda: make_skeleton(model, ["knee_flex"]))
        if "shank" in text and "shank" in str(words)
        else (lambda: model_from_osim(model, ["flexor"], ["knee_flex"]))
    )
    with pytest.raises(InputError) as caught:
        used()
    assert all(word in str(caught.value) for word in words)


# -- older layouts


def old_layout(text):
    """The two links as OpenSim 3 wrote them: joints inside bodies, bodies named by points."""

    def joint(name, parent, parent_at, child_at, coordinate):
        return f"""<Joint><PinJoint name="{name}"><parent_body>{parent}</parent_body>
<location_in_parent>{parent_at}</location_in_parent><orientation_in_parent>0 0 0</orientation_in_parent>
<location>{child_at}</location><orientation>0 0 0</orientation>
<CoordinateSet><objects><Coordinate name="{coordinate}"><range>-1.9 1.2</range></Coordinate></objects></CoordinateSet>
</PinJoint></Joint>"""

    text = re.sub(r"<JointSet.*?</JointSet>", "", text, flags=re.S)
    text = re.sub(r"<Ground.*?</Ground>", "", text, flags=re.S)
    text = text.replace("40600", "30000")
    text = put(
        '<Body name="thigh">',
        '<Body name="ground"><mass>0</mass><Joint/></Body><Body name="thigh">'
        + joint("hip", "ground", "0 1 0", "0 0 0", "hip_flex"),
        text,
    )
    text = put(
        '<Body name="shank">', '<Body name="shank">' + joint("knee", "thigh", "0 -0.4 0", "0 0 0", "knee_flex"), text
    )
    text = re.sub(
        r"<inertia>(\S+) (\S+) (\S+) .*?</inertia>",
        r"<inertia_xx>\1</inertia_xx><inertia_yy>\2</inertia_yy><inertia_zz>\3</inertia_zz>",
        text,
    )
    return re.sub(r"<socket_parent_frame>/bodyset/(\w+)</socket_parent_frame>", r"<body>\1</body>", text)


def test_the_layout_of_opensim_3_is_read(tmp_path):
    model = assert_geometry(written(tmp_path, old_layout(TWO_LINK)))
    new = read_osim(REFERENCE / "two_link.osim")
    for old_body, body in zip(model.bodies, new.bodies, strict=True):
        assert (old_body.name, old_body.mass) == (body.name, body.mass)
        assert old_body.inertia == pytest.approx(body.inertia)
    assert [j.parent.body for j in model.joints] == ["ground", "thigh"]
    q = np.random.default_rng(0).uniform(-1, 0.1, size=(20, 2))
    for which, expected in zip(
        sample_paths(model, ["flexor", "biart"], ["hip_flex", "knee_flex"], q),
        sample_paths(new, ["flexor", "biart"], ["hip_flex", "knee_flex"], q),
        strict=True,
    ):
        assert which == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "connector",
    [
        r'<connectors><Connector_Frame_ name="\1"><connectee_name>\2</connectee_name></Connector_Frame_></connectors>',
        r"<socket_\1_connectee_name>\2</socket_\1_connectee_name>",
    ],
)
def test_the_layouts_of_pre_releases_are_read(tmp_path, connector):
    text = TWO_LINK.replace("40600", "30512")
    assert_geometry(written(tmp_path, re.sub(r"<socket_(\w+?)>(.*?)</socket_\1>", connector, text)))


def test_a_published_model_in_the_old_layout(data):
    """Scaled gait2392, its left leg; lengths at a pose as OpenSim 4.6 gives them."""
    model = read_osim(data("kul_walk") / "original" / "ScaledModel.osim")
    assert (len(model.bodies), len(model.coordinates), len(model.muscles)) == (20, 37, 92)
    assert model.problems == ()
    assert sum(body.mass for body in model.bodies) == pytest.approx(70.553070529, abs=1e-6)
    soleus = model.muscle("soleus_l")
    assert soleus.class_name == "Thelen2003Muscle"
    assert [point.body for point in soleus.points] == ["tibia_l", "calcn_l"]
    assert math.isclose(soleus.max_contraction_velocity, 10.0)


def test_the_published_model_gives_the_published_moments_of_a_swing(data):
    """OpenSim's own inverse dynamics of the same recording, left leg in the air."""
    folder = data("kul_walk") / "original"
    model = read_osim(folder / "ScaledModel.osim")
    motion = read_motion(folder / "IK_gait.mot", model, 6.0).window(1.9, 2.2)
    moments = moments_of_motion(model, motion, ["hip_flexion_l", "knee_angle_l"])
    hip, knee = agreement(moments, folder / "ID_gait.sto")
    assert hip.r2 > 0.995
    assert knee.r2 > 0.97
