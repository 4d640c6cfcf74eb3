"""Reading OpenSim models: what is found in published files, and what is refused, by name."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import REFERENCE, load_arrays

from nms_gym.anatomy import Linear, Polynomial, Scaled, SimmSpline, body_fixed_xyz
from nms_gym.errors import InputError
from nms_gym.recording.osim import read_osim


@pytest.fixture(scope="module")
def rajagopal(data):
    return read_osim(data("rajagopal_walk") / "original" / "subject_walk_scaled.osim")


@pytest.fixture(scope="module")
def gait2392(data):
    return read_osim(data("ceinms_rt_lowerlimb") / "gait2392_scaled_estimate_subj06.osim")


@pytest.mark.parametrize(
    ("fixture", "file"), [("rajagopal", "rajagopal_walk_subject.npz"), ("gait2392", "gait2392_subj06.npz")]
)
def test_muscle_parameters_are_those_that_opensim_reports(request, data, fixture, file):
    model = request.getfixturevalue(fixture)
    truth = load_arrays(data("truth_geometry") / file)
    for i, name in enumerate(truth["muscles"]):
        muscle = model.muscle(str(name))
        for key in (
            "max_isometric_force",
            "optimal_fiber_length",
            "tendon_slack_length",
            "pennation_at_optimal",
            "max_contraction_velocity",  # absent from the Millard muscles: OpenSim's default
        ):
            assert getattr(muscle, key) == pytest.approx(truth[f"param_{key}"][i], rel=1e-9), (name, key)


def test_rajagopal_structure(rajagopal):
    assert (len(rajagopal.muscles), len(rajagopal.bodies), len(rajagopal.coordinates)) == (80, 22, 33)
    assert sum(body.mass for body in rajagopal.bodies) == pytest.approx(85.27, abs=0.01)
    assert rajagopal.gravity == pytest.approx([0, -9.80665, 0])
    knee, patella = rajagopal.coordinate("knee_angle_r"), rajagopal.coordinate("knee_angle_r_beta")
    assert (knee.motion, knee.coupled_to) == ("rotational", None)
    assert knee.range == pytest.approx((0.0, 2.4434609527920599))
    assert (patella.motion, patella.coupled_to) == ("coupled", "knee_angle_r")
    assert rajagopal.coordinate("pelvis_ty").motion == "translational"
    assert rajagopal.coordinate("pelvis_ty").default == pytest.approx(0.93, abs=1e-6)
    # A slope of -1 on the axis is still an angle, as OpenSim classes it.
    assert rajagopal.coordinate("hip_adduction_l").motion == "rotational"
    (coupler,) = (c for c in rajagopal.couplers if c.dependent == "knee_angle_r_beta")
    assert coupler.independent == ("knee_angle_r",)
    assert coupler.function == Linear((1.0, 0.0))
    (joint,) = (j for j in rajagopal.joints if j.name == "walker_knee_r")
    assert (joint.class_name, joint.parent.body, joint.child.body) == ("CustomJoint", "femur_r", "tibia_r")
    assert isinstance(joint.axes[1].function, Polynomial)
    assert isinstance(joint.axes[3].function, Scaled)
    order = {"ground": -1} | {joint.child.body: i for i, joint in enumerate(rajagopal.joints)}
    assert all(order[joint.parent.body] < order[joint.child.body] for joint in rajagopal.joints)


def test_rajagopal_wraps(rajagopal):
    gaslat = rajagopal.muscle("gaslat_r")
    assert [use.wrap.name for use in gaslat.wraps] == ["GasLat_at_shank_r", "GasLat_at_condyles_r"]
    assert [use.wrap.quadrant for use in gaslat.wraps] == ["-y", "all"]
    assert gaslat.wraps[1].wrap.radius == pytest.approx(0.0262910913512)
    assert gaslat.bodies == ("femur_r", "calcn_r", "tibia_r")
    (psoas,) = rajagopal.muscle("psoas_r").wraps
    assert (psoas.first, psoas.last) == (1, 2)  # <range> 2 3, from 1
    (vasti,) = rajagopal.muscle("vasint_r").wraps
    assert (vasti.first, vasti.last) == (0, 4)  # <range> -1 -1: the whole path


def test_gait2392_points(gait2392):
    semimem = gait2392.muscle("semimem_r").points
    assert [point.kind for point in semimem] == ["fixed", "conditional", "fixed"]
    assert semimem[1].coordinates == ("knee_angle_r",)
    assert semimem[1].range == pytest.approx((-0.558505, 0.174533))
    moving = gait2392.muscle("rect_fem_r").points[-1]
    assert moving.kind == "moving"
    assert moving.coordinates == ("knee_angle_r",) * 3
    x = moving.functions[0]
    assert isinstance(x, Scaled)
    assert x.scale == 0.91
    assert isinstance(x.function, SimmSpline)
    assert (x.function.x[0], x.function.y[0]) == (-2.0944, 0.0155805)


def test_arm26_has_ellipsoids(data):
    model = read_osim(data("arm26_elbow") / "original" / "arm26.osim")
    kinds = {wrap.name: wrap.kind for wrap in model.wraps}
    assert sorted(kinds.values()) == ["cylinder", "cylinder", "ellipsoid", "ellipsoid"]
    assert all(len(w.dimensions) == 3 for w in model.wraps if w.kind == "ellipsoid")
    assert model.muscle("TRIlong").class_name == "Thelen2003Muscle"


def test_every_supported_class_is_read():
    model = read_osim(REFERENCE / "geometry.osim")
    assert {joint.class_name for joint in model.joints} == {
        "FreeJoint", "BallJoint", "GimbalJoint", "UniversalJoint", "PlanarJoint", "SliderJoint", "PinJoint",
        "WeldJoint", "CustomJoint",
    }  # fmt: skip
    assert model.coordinate("twist").motion == "coupled"
    assert model.coordinate("slider_0").motion == "translational"
    assert model.skipped == ()
    body = model.body("crank")
    assert body.inertia == pytest.approx(np.array([[20, 1, 2], [1, 30, 3], [2, 3, 40]]) * 1e-3)


def test_body_fixed_angles_turn_about_x_then_the_new_y_then_the_new_z():
    # 90 degrees about x sends y to z; then 90 degrees about the new y (= z) sends x to y.
    quarter = np.pi / 2
    turned = body_fixed_xyz(np.array([quarter, quarter, 0.0]))
    assert turned @ [1, 0, 0] == pytest.approx([0, 1, 0])
    assert turned @ [0, 1, 0] == pytest.approx([0, 0, 1])


# -- refusals: one small change to a good file each


def changed(tmp_path, old, new, count=1):
    text = (REFERENCE / "geometry.osim").read_text()
    assert old in text, f"{old!r} is not in the file"
    path = tmp_path / "changed.osim"
    path.write_text(text.replace(old, new, count))
    return path


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "<max_isometric_force>500",
            "<max_isometric_force>-500",
            ["max_isometric_force", "'all_0'", "-500", "allowed 1e-06 to 1e+06"],
        ),
        (
            "<tendon_slack_length>0.14999999999999999",
            "<tendon_slack_length>-1",
            ["tendon_slack_length", "'all_0'", "-1"],
        ),
        ("<pennation_angle_at_optimal>0.1", "<pennation_angle_at_optimal>1.6", ["pennation", "'all_0'", "1.6", "1.4"]),
        ("<radius>0.05", "<radius>-0.05", ["'all_0_wrap'", "-0.05", "above 0"]),
        ("<quadrant>all", "<quadrant>up", ["quadrant", "'all_0_wrap'", "'up'", "-y"]),
        (
            "<wrap_object>all_0_wrap",
            "<wrap_object>all_0_rwap",
            ["'all_0_rwap'", "'all_0'", "did you mean", "all_0_wrap"],
        ),
        (
            "<socket_parent_frame>/bodyset/crank<",
            "<socket_parent_frame>/bodyset/crnak<",
            ["socket_parent_frame", "/bodyset/crnak", "did you mean", "'crank'"],
        ),
        ("BallJoint", "EllipsoidJoint", ["'ball'", "EllipsoidJoint", "supported are CustomJoint", "BallJoint"]),
        ("<mass>1.5", "<mass>-1.5", ["mass", "'after_free'", "-1.5"]),
        ("<mass>1.5", "<mass>heavy", ["<mass>", "'after_free'", "'heavy'", "a finite number"]),
        ("<inertia>0.02", "<inertia>nan", ["inertia", "'after_free'", "nan"]),
        ("<dependent_coordinate_name>follows", "<dependent_coordinate_name>folows", ["'folows'", "'follows'"]),
        ("SimmSpline", "GCVSpline", ["GCVSpline", "'custom'", "supported are Constant"]),
        (
            "all_0_wrap</wrap_object>",
            "all_0_wrap</wrap_object><range>1 5</range>",
            ["range", "'all_0_wrap'", "1 5", "points 1 to 2"],
        ),
    ],
)
def test_odd_parts_are_named_and_do_not_refuse_the_model(tmp_path, old, new, words):
    # Class names are replaced in their opening and closing tags, everything else once.
    path = changed(tmp_path, old, new, -1 if old.isalpha() else 1)
    model = read_osim(path)
    assert len(model.muscles) == len(read_osim(REFERENCE / "geometry.osim").muscles)
    found = [*model.problems, *(f"{path}: {part}" for part in model.skipped)]
    assert any(all(word in message for word in words) for message in found), found
    assert all("changed.osim" in message for message in found)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name="geometry">', 'name="geometry"><length_units>mm</length_units>', ["length_units", "'mm'"]),
        ('name="geometry">', 'name="geometry"><gravity>0 -9806.65 0</gravity>', ["gravity", "-9806.65", "mm"]),
        ('name="geometry">', 'name="geometry"><gravity>0 nan 0</gravity>', ["gravity", "nan"]),
        ('<Body name="crank">', '<Body name="after_free">', ["two body objects", "'after_free'"]),
    ],
)
def test_what_is_wrong_with_all_of_a_model_refuses_it(tmp_path, old, new, words):
    path = changed(tmp_path, old, new)
    with pytest.raises(InputError) as caught:
        read_osim(path)
    message = str(caught.value)
    assert "changed.osim" in message
    for word in words:
        assert word in message, (word, message)


def test_damaged_files(tmp_path):
    broken = tmp_path / "broken.osim"
    broken.write_text("<OpenSimDocument><Model>")
    with pytest.raises(InputError, match=r"broken\.osim.*XML"):
        read_osim(broken)
    other = tmp_path / "other.osim"
    other.write_text("<html/>")
    with pytest.raises(InputError, match=r"other\.osim.*not an OpenSim model"):
        read_osim(other)
    with pytest.raises(InputError, match=r"gone\.osim.*cannot read"):
        read_osim(tmp_path / "gone.osim")
    bomb = tmp_path / "bomb.osim"
    bomb.write_text('<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><OpenSimDocument>&b;</OpenSimDocument>')
    with pytest.raises(InputError, match=r"bomb\.osim"):
        read_osim(bomb)


def test_unknown_names_list_near_ones(gait2392):
    with pytest.raises(InputError, match=r"no muscle 'soleus'; did you mean .*'soleus_r'"):
        gait2392.muscle("soleus")
    with pytest.raises(InputError, match=r"no coordinate 'knee_r'; did you mean .*'knee_angle_r'"):
        gait2392.coordinate("knee_r")
    with pytest.raises(InputError, match=r"no body 'spleen'"):
        gait2392.body("spleen")


def test_a_defaults_section_fills_in_what_a_muscle_leaves_out(tmp_path):
    text = (REFERENCE / "geometry.osim").read_text()
    text = text.replace("<max_isometric_force>500</max_isometric_force>", "", 1)
    path = tmp_path / "short.osim"
    path.write_text(text)
    assert read_osim(path).muscle("all_0").max_isometric_force == 1000.0  # OpenSim's own default
    section = (
        '<defaults><Thelen2003Muscle name="default"><max_isometric_force>321</max_isometric_force></Thelen2003Muscle>'
    )
    path.write_text(text.replace("<Model ", f"{section}</defaults><Model ", 1))
    assert read_osim(path).muscle("all_0").max_isometric_force == 321.0
    assert read_osim(path).muscle("all_1").max_isometric_force == 500.0
