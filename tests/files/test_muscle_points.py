"""Points that muscles are drawn through: read from OpenSim, carried by model files and subjects."""

import dataclasses
import json

import numpy as np
import pytest

from calibration.study.model import read_parameters
from nms_gym._assets import asset_path
from nms_gym.anatomy import Frame, Linear, PathPoint
from nms_gym.errors import InputError
from nms_gym.files.model_file import model_from_osim, read_model_file, write_model_file
from nms_gym.files.subject import default_subject, load_subject, save_subject
from nms_gym.muscle.path_points import points_from_osim
from nms_gym.recording.osim import read_osim


@pytest.fixture(scope="module")
def arm():
    return read_model_file(asset_path("arm/model.json"))


def test_shipped_points_are_the_published_ones(data, arm):
    osim = read_osim(data("arm26_elbow") / "original" / "arm26.osim")
    assert set(arm.muscle_points) == set(arm.muscles)
    for muscle, path in arm.muscle_points.items():
        points = osim.muscle(muscle).points
        assert [body for body, _ in path] == [point.body for point in points]
        np.testing.assert_allclose([place for _, place in path], [point.location for point in points], atol=1e-10)
    # As the file has them.
    assert arm.muscle_points["BRA"] == (
        ("r_humerus", (0.0068, -0.1739, -0.0036)),
        ("r_ulna_radius_hand", (-0.0032, -0.0239, 0.0009)),
    )
    leg = read_model_file(asset_path("right_leg/model.json"))
    assert set(leg.muscle_points) == set(leg.muscles)


def test_points_from_an_opensim_file(data):
    osim = read_osim(data("rajagopal_walk") / "original" / "subject_walk_scaled.osim")
    model = model_from_osim(osim, ["recfem_r", "soleus_r"], ["ankle_angle_r"])
    # The skeleton of the ankle reaches up to the ground and so does all of the muscle.
    assert [body for body, _ in model.muscle_points["soleus_r"]] == ["tibia_r", "calcn_r"]
    # The patella is not part of it: it hangs on the knee. Of the muscle there remain pelvis and tibia.
    assert [body for body, _ in model.muscle_points["recfem_r"]] == ["pelvis", "tibia_r"]
    assert points_from_osim(osim, ["recfem_r"], ["tibia_r"]) == {}


def test_a_moving_point_is_where_the_default_pose_puts_it(data):
    osim = read_osim(data("arm26_elbow") / "original" / "arm26.osim")
    turned = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    frame = Frame("r_humerus", turned, np.array([0.1, 0.0, 0.0]))
    # At 0.5 rad: x = 2 * 0.5 + 1, y = 0.5, z = 3; turned a quarter and shifted by 0.1.
    functions = (Linear((2.0, 1.0)), Linear((1.0, 0.0)), Linear((0.0, 3.0)))
    moving = PathPoint("p", "r_humerus", np.zeros(3), "moving", ("r_elbow_flex",) * 3, None, functions, frame)
    coordinates = tuple(
        dataclasses.replace(c, default=0.5) if c.name == "r_elbow_flex" else c for c in osim.coordinates
    )
    bra = osim.muscle("BRA")
    changed = dataclasses.replace(bra, points=(moving, bra.points[1]))
    osim = dataclasses.replace(osim, coordinates=coordinates, muscles=(changed,))
    (body, place), _ = points_from_osim(osim, ["BRA"], ["r_humerus", "r_ulna_radius_hand"])["BRA"]
    assert body == "r_humerus"
    np.testing.assert_allclose(place, [-0.5 + 0.1, 2.0, 3.0], rtol=1e-9)


def test_round_trip_and_selection(arm, tmp_path):
    path = tmp_path / "model.json"
    write_model_file(path, arm)
    assert read_model_file(path).muscle_points == arm.muscle_points
    few = arm.select(muscles=["BRA", "TRIlat"])
    assert few.muscle_points == {name: arm.muscle_points[name] for name in ("BRA", "TRIlat")}


def test_older_files_have_no_points(arm, tmp_path):
    document = json.loads(asset_path("arm/model.json").read_text())
    del document["muscle_points"]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(document))
    model = read_model_file(path)
    assert model.muscle_points == {}
    write_model_file(path, model)
    assert "muscle_points" not in json.loads(path.read_text())

    record = json.loads(asset_path("demo/subject.json").read_text())
    del record["muscle_points"]
    path.write_text(json.dumps(record))
    subject = load_subject(path)
    assert subject.muscle_points == {}
    save_subject(path, subject)
    assert "muscle_points" not in json.loads(path.read_text())


BAD = {
    "no table": ([], "expected a table"),
    "unknown muscle": ({"BRAA": [["base", 0, 0, 0], ["base", 0, 0, 1]]}, r"'BRAA'.*did you mean 'BRA'"),
    "no list": ({"BRA": 3}, "expected a list"),
    "no point": ({"BRA": [["base", 0, 0], ["base", 0, 0, 0]]}, r"\[body, x, y, z\]"),
    "unknown body": ({"BRA": [["bas", 0, 0, 0], ["base", 0, 0, 1]]}, r"no body 'bas'.*did you mean 'base'"),
    "one point": ({"BRA": [["base", 0, 0, 0]]}, "two points or more"),
    "null": ({"BRA": [["base", 0, 0, None], ["base", 0, 0, 0]]}, "three finite numbers"),
    "millimetres": ({"BRA": [["base", 0, 0, 74], ["base", 0, 0, 0]]}, "in m, within 10"),
    "no number": ({"BRA": [["base", 0, 0, "x"], ["base", 0, 0, 0]]}, "three finite numbers"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("file", ["arm/model.json", "demo/subject.json"])
def test_bad_points_are_refused(tmp_path, file, name):
    points, message = BAD[name]
    document = json.loads(asset_path(file).read_text())
    document["muscle_points"] = points
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(document))
    read = read_model_file if "model" in file else load_subject
    with pytest.raises(InputError, match=f"bad.json: muscle_points.*{message}"):
        read(path)


def test_subject_carries_points(arm, tmp_path):
    subject = default_subject()
    assert subject.muscle_points == {name: arm.muscle_points[name] for name in subject.model.muscles}
    path = tmp_path / "subject.json"
    save_subject(path, subject)
    assert load_subject(path).muscle_points == subject.muscle_points
    strange = dataclasses.replace(subject, muscle_points={"nobody": subject.muscle_points["BRA"]})
    with pytest.raises(InputError, match="'nobody'"):
        save_subject(path, strange)


@pytest.mark.parametrize("source", ["asset:arm", "osim"])
def test_a_study_reads_points(data, arm, source):
    if source == "osim":
        source = str(data("arm26_elbow") / "original" / "arm26.osim")
    found = read_parameters(source, ["BRA", "BIClong"], ["r_elbow_flex"])
    assert set(found.muscle_points) == {"BRA", "BIClong"}
    assert found.muscle_points["BRA"] == arm.muscle_points["BRA"]
