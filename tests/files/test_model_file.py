"""The model file: what is written is what is read, and everything else is refused by name."""

from __future__ import annotations

import dataclasses
import importlib
import json

import numpy as np
import pytest
from helpers import EXAMPLES, load_arrays

from nms_gym._assets import asset_path
from nms_gym._pytree import replace
from nms_gym.envs.person import right_leg
from nms_gym.errors import InputError
from nms_gym.files.model_file import PARAMETERS, ModelFile, model_from_osim, read_model_file, write_model_file
from nms_gym.files.moving import moving_model
from nms_gym.model.parameters import make_params
from nms_gym.model.structure import NmsModel, Settings
from nms_gym.muscle.geometry import PolynomialPaths, SpanGroup, lengths_and_moment_arms
from nms_gym.muscle.metabolics import make_metabolic_params, muscle_mass
from nms_gym.recording.osim import read_osim


@pytest.fixture
def model():
    rng = np.random.default_rng(0)
    groups = (SpanGroup((2, 0), (0, 1), 3), SpanGroup((1,), (1,), 4))
    coefficients = tuple(
        np.concatenate([np.full((n, 1), 0.3), 0.01 * rng.normal(size=(n, p - 1))], axis=1) for n, p in ((2, 10), (1, 5))
    )
    names, coordinates = ("biceps", "brachialis", "triceps"), ("shoulder", "elbow")
    domain = np.array([[-1.0, 2.0], [0.0, 2.3]])
    return ModelFile(
        name="arm",
        source="made up",
        citation="nobody",
        licence="CC0",
        coordinates=coordinates,
        coordinate_range=np.array([[-1.5, 3.1], [0.0, 2.2]]),
        muscles=names,
        parameters={
            "max_isometric_force": {"biceps": 600.0, "brachialis": 900.0, "triceps": 800.0},
            "optimal_fiber_length": {"biceps": 0.12, "brachialis": 0.09, "triceps": 0.13},
            "tendon_slack_length": {"biceps": 0.27, "brachialis": 0.05, "triceps": 0.14},
            "pennation_at_optimal": {"biceps": 0.0, "brachialis": 0.1, "triceps": 0.2},
            "max_contraction_velocity": {"biceps": 10.0, "brachialis": 10.0, "triceps": 12.0},
        },
        paths=PolynomialPaths(coefficients, domain, names, coordinates, groups),
    )


def test_round_trip(model, tmp_path):
    file = tmp_path / "model.json"
    write_model_file(file, model)
    again = read_model_file(file)
    for field in ("name", "source", "citation", "licence", "coordinates", "muscles"):
        assert getattr(again, field) == getattr(model, field)
    np.testing.assert_allclose(again.coordinate_range, model.coordinate_range, rtol=1e-9)
    for name in PARAMETERS:
        assert again.parameters[name] == pytest.approx(model.parameters[name], rel=1e-9)
    assert again.paths is not None
    assert again.paths.groups == model.paths.groups
    q = np.array([0.4, 1.1])
    for a, b in zip(lengths_and_moment_arms(again.paths, q), lengths_and_moment_arms(model.paths, q), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)
    # Rewriting what was read changes nothing, and no temporary file stays behind.
    write_model_file(tmp_path / "again.json", again)
    assert (tmp_path / "again.json").read_text() == file.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.json", "model.json"]


def test_the_file_goes_by_names(model, tmp_path):
    file = tmp_path / "model.json"
    write_model_file(file, model)
    document = json.loads(file.read_text())
    document["muscles"].reverse()
    document["coordinates"].reverse()
    # The groups' own coordinate order is that of their coefficients, so those go with it.
    group = document["paths"]["groups"][0]
    assert group["coordinates"] == ["shoulder", "elbow"]
    with pytest.raises(InputError, match="must follow the model's order"):
        read_model_file(_write(tmp_path, document))
    document["coordinates"].reverse()
    again = read_model_file(_write(tmp_path, document))
    assert again.paths is not None
    assert again.muscles == ("triceps", "brachialis", "biceps")
    assert again.parameters == model.parameters
    q = np.array([0.4, 1.1])
    length, arm = lengths_and_moment_arms(again.paths, q)
    expected_length, expected_arm = lengths_and_moment_arms(model.paths, q)
    np.testing.assert_allclose(length, expected_length[::-1], atol=1e-10)
    np.testing.assert_allclose(arm, expected_arm[:, ::-1], atol=1e-10)


def test_a_model_without_paths(model, tmp_path):
    write_model_file(tmp_path / "model.json", dataclasses.replace(model, paths=None))
    assert read_model_file(tmp_path / "model.json").paths is None


def test_select(model):
    part = model.select(("triceps", "biceps"), ("elbow",), {"shoulder": 0.5})
    assert part.muscles == ("triceps", "biceps")
    assert part.coordinates == ("elbow",)
    assert part.parameters["tendon_slack_length"] == {"triceps": 0.14, "biceps": 0.27}
    np.testing.assert_array_equal(part.coordinate_range, [[0.0, 2.2]])
    length, arm = lengths_and_moment_arms(part.paths, np.array([1.2]))
    whole_length, whole_arm = lengths_and_moment_arms(model.paths, np.array([0.5, 1.2]))
    np.testing.assert_allclose(length, whole_length[np.array([2, 0])], rtol=1e-12)
    np.testing.assert_allclose(arm[0], whole_arm[1][np.array([2, 0])], rtol=1e-12)
    with pytest.raises(InputError, match="model 'arm': no muscle 'bicep'; did you mean 'biceps'"):
        model.select(("bicep",))
    with pytest.raises(InputError, match="no coordinate 'wrist'"):
        model.select(coordinates=("wrist",))
    with pytest.raises(InputError, match="muscle names repeat: 'biceps'"):
        dataclasses.replace(model, paths=None).select(("biceps", "biceps"))


def _parameter(name, value):
    def change(model):
        values = {**model.parameters[name], "brachialis": value}
        return dataclasses.replace(model, parameters={**model.parameters, name: values})

    return change


def _coefficient(index, value):
    def change(model):
        arrays = [array.copy() for array in model.paths.coefficients]
        arrays[1][0, index] = value
        return dataclasses.replace(model, paths=replace(model.paths, coefficients=tuple(arrays)))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_parameter("optimal_fiber_length", 0.0), "'brachialis': optimal_fiber_length is 0 m; allowed 0.0001 to 2"),
        (_parameter("tendon_slack_length", -0.1), "'brachialis': tendon_slack_length is -0.1 m"),
        (_parameter("max_isometric_force", np.nan), "'brachialis': max_isometric_force is nan N"),
        (_parameter("pennation_at_optimal", 20.0), "'brachialis': pennation_at_optimal is 20 rad; allowed 0 to 1.4"),
        (_coefficient(2, np.inf), "path of muscle 'brachialis' has coefficients that are not finite"),
        (_coefficient(0, -0.2), "path of muscle 'brachialis' is -0.2 m long"),
        (
            lambda m: dataclasses.replace(m, muscles=("a", "biceps", "triceps")),
            "max_isometric_force must have one value per muscle; missing: 'a'; no muscle of the model: 'brachialis'",
        ),
        (lambda m: dataclasses.replace(m, muscles=m.muscles[::-1]), "the muscles of the model in the same order"),
        (lambda m: dataclasses.replace(m, paths=replace(m.paths, muscles=("a", "b", "c"))), "the paths: 'a', 'b', 'c'"),
        (lambda m: dataclasses.replace(m, coordinates=("shoulder", "wrist")), "only in the paths: 'elbow'"),
        (lambda m: dataclasses.replace(m, coordinate_range=np.array([[0, 1], [2, 1]])), "'elbow' is 2 to 1 rad"),
        (lambda m: dataclasses.replace(m, coordinate_range=np.zeros((3, 2))), r"shape \(3, 2\)"),
        (lambda m: dataclasses.replace(m, muscles=()), "no muscles"),
        (
            lambda m: dataclasses.replace(m, parameters={"mass": {}}),
            "missing: 'max_contraction.*unknown: 'mass'",
        ),
        (
            lambda m: dataclasses.replace(m, paths=replace(m.paths, groups=(m.paths.groups[0],) * 2)),
            "'biceps' has 2 paths",
        ),
    ],
)
def test_inconsistent_models_are_not_written(model, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        write_model_file(tmp_path / "model.json", change(model))
    assert not list(tmp_path.iterdir())


def _write(folder, document):
    file = folder / "changed.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return file


def _edit(*keys, value=None, remove=False):
    def change(document):
        place = document
        for key in keys[:-1]:
            place = place[key]
        if remove:
            del place[keys[-1]]
        else:
            place[keys[-1]] = value
        return document

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_edit("format", value="other"), "\"format\" is 'other'"),
        (_edit("version", value=2), "version 2; this nms-gym reads version 1"),
        (_edit("version", remove=True), "version None"),
        (_edit("licence", remove=True), "entry 'licence' is missing"),
        (_edit("muscles", 0, "optimal_fiber_length", remove=True), "entry 'optimal_fiber_length' is missing"),
        (_edit("muscles", 0, "optimal_fiber_length", value=-1), "'biceps': optimal_fiber_length is -1 m"),
        (_edit("muscles", 0, "optimal_fiber_length", value="long"), "malformed entry"),
        (_edit("muscles", 0, "name", value="bicep"), "no muscle 'biceps'; did you mean 'bicep'"),
        (_edit("paths", "groups", 0, "coordinates", value=["shoulder", "wrist"]), "no coordinate 'wrist'"),
        (_edit("paths", "groups", 0, "degree", value=4), "has 10 coefficients; degree 4 over 2 coordinates has 15"),
        (_edit("paths", "groups", 0, "degree", value="high"), "degree of a path is 'high'"),
        (_edit("paths", "domain", "elbow", remove=True), "path domain lacks coordinates 'elbow'"),
        (_edit("paths", "groups", value=[]), "'biceps' has 0 paths"),
        (lambda document: "{", "not a JSON file"),
        (lambda document: "[]", "\"format\" is 'list'"),
    ],
)
def test_malformed_files_are_refused(model, tmp_path, change, message):
    write_model_file(tmp_path / "model.json", model)
    file = _write(tmp_path, change(json.loads((tmp_path / "model.json").read_text())))
    with pytest.raises(InputError, match=message) as caught:
        read_model_file(file)
    assert "changed.json" in str(caught.value)


def test_missing_file_and_folder(model, tmp_path):
    with pytest.raises(InputError, match="cannot read model file"):
        read_model_file(tmp_path / "none.json")
    with pytest.raises(InputError, match="does not exist"):
        write_model_file(tmp_path / "none" / "model.json", model)


# ------------------------------------------------------------------------------------------- shipped models


@pytest.mark.parametrize(
    ("asset", "truth", "count"), [("arm", "arm26", 6), ("right_leg", "rajagopal_walk_subject", 40)]
)
def test_shipped_parameters_are_the_published_ones(data, asset, truth, count):
    model = read_model_file(asset_path(f"{asset}/model.json"))
    reference = load_arrays(data("truth_geometry") / f"{truth}.npz")
    muscles = [str(name) for name in reference["muscles"]]
    assert len(model.muscles) == count
    order = [muscles.index(name) for name in model.muscles]
    for name in PARAMETERS:
        values = [model.parameters[name][muscle] for muscle in model.muscles]
        np.testing.assert_allclose(values, reference[f"param_{name}"][order], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("asset", ["arm", "right_leg"])
def test_shipped_models_carry_their_licence_and_stay_small(asset):
    file = asset_path(f"{asset}/model.json")
    assert file.stat().st_size < 400_000
    assert (file.parent / "LICENSE").is_file()
    text = (file.parent / "ATTRIBUTION.md").read_text()
    model = read_model_file(file)
    assert model.licence.split(",")[0] in text + (file.parent / "LICENSE").read_text()
    assert model.source
    assert model.citation


def test_model_from_an_opensim_file(data):
    osim = read_osim(data("arm26_elbow") / "original" / "arm26.osim")
    model = model_from_osim(osim, ("BRA", "TRIlat"), ("r_elbow_flex",))
    assert model.parameters["max_isometric_force"] == {"BRA": 987.26, "TRIlat": 624.3}
    np.testing.assert_allclose(model.coordinate_range, [[0.0, 2.26892803]])
    assert "Holzbaur" in model.citation
    assert model.paths is None
    # The elbow moves the forearm; the rest is what carries it.
    assert model.skeleton is not None
    assert [body.name for body in model.skeleton.bodies] == ["base", "r_humerus", "r_ulna_radius_hand"]
    with pytest.raises(InputError, match="BRAA"):
        model_from_osim(osim, ("BRAA",), ("r_elbow_flex",))


def test_the_skeleton_comes_along(tmp_path):
    arm = read_model_file(asset_path("arm/model.json"))
    assert arm.skeleton is not None
    again = dataclasses.replace(arm, skeleton=None)
    write_model_file(tmp_path / "model.json", again)
    assert "skeleton" not in json.loads((tmp_path / "model.json").read_text())
    assert read_model_file(tmp_path / "model.json").skeleton is None  # as files from before
    write_model_file(tmp_path / "model.json", arm)
    assert (tmp_path / "model.json").read_text() == asset_path("arm/model.json").read_text()
    assert arm.select(("BRA",), ("r_elbow_flex",)).skeleton is arm.skeleton
    bones = dataclasses.replace(arm.skeleton, coordinates=arm.skeleton.coordinates[:1])
    with pytest.raises(InputError, match="skeleton: no coordinate 'r_elbow_flex'"):
        write_model_file(tmp_path / "model.json", dataclasses.replace(arm, skeleton=bones))
    document = json.loads(asset_path("arm/model.json").read_text())
    document["skeleton"]["bodies"][1]["mass"] = -1
    with pytest.raises(InputError, match=r"changed\.json: body 'r_humerus': mass is -1 kg"):
        read_model_file(_write(tmp_path, document))


@pytest.mark.parametrize("name", ["arm", "right_leg"])
def test_shipped_skeletons_are_rebuilt_from_the_published_models(data, tmp_path, name, monkeypatch):
    folder = data("arm26_elbow").parent
    data("rajagopal_walk")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    build_assets = importlib.import_module("build_assets")
    shipped = asset_path(f"{name}/model.json").read_text()
    (tmp_path / name).mkdir()
    shipped_model = read_model_file(asset_path(f"{name}/model.json"))
    bare = dataclasses.replace(shipped_model, skeleton=None, specific_tension=0.3e6)
    write_model_file(tmp_path / name / "model.json", bare)
    arguments = ["--data", str(folder), "--out", str(tmp_path), "--only", name, "--skeleton-only"]
    assert build_assets.main(arguments) == 0
    assert (tmp_path / name / "model.json").read_text() == shipped


# ------------------------------------------------------------------------------------------- specific tension


def test_the_shipped_leg_weighs_what_a_leg_weighs():
    """Rajagopal et al. 2016: 60 N/cm^2. Two legs of an adult of 85 kg have 17 kg of muscle, and at 25 N/cm^2 had 41."""
    model, params = moving_model(read_model_file(asset_path("right_leg/model.json")), ["knee_angle_r"])
    assert model.specific_tension == right_leg().model.specific_tension == 0.6e6
    tension = {"specific_tension": model.specific_tension}
    mass = float(muscle_mass(params, make_metabolic_params(model.muscles, tension)).sum())
    assert 2 * mass == pytest.approx(16.9, abs=0.05)
    assert 2 * float(muscle_mass(params, make_metabolic_params(model.muscles)).sum()) == pytest.approx(40.6, abs=0.1)


def test_specific_tension_is_kept_and_checked(model, tmp_path):
    file = tmp_path / "model.json"
    write_model_file(file, dataclasses.replace(model, specific_tension=0.5e6))
    assert read_model_file(file).select(["biceps"]).specific_tension == 0.5e6
    document = json.loads(file.read_text())
    del document["specific_tension"]
    assert read_model_file(_write(tmp_path, document)).specific_tension == 0.25e6  # OpenSim's probes
    for wrong in (60, "0.6 MPa", None, True):
        with pytest.raises(InputError, match=r"specific_tension is .*; allowed 10000 to 1e\+07"):
            read_model_file(_write(tmp_path, document | {"specific_tension": wrong}))


# ------------------------------------------------------------------------------------------- values by name


def _model_of(muscles):
    return NmsModel(
        muscles=tuple(muscles),
        coordinates=(),
        channels=tuple(muscles),
        settings=Settings(),
        channel_weights=np.eye(len(muscles)),
    )


def test_a_model_in_another_order_gets_the_right_values(model):
    """A study orders muscles by channel; the file's order says nothing about that."""
    params = make_params(_model_of(("triceps", "biceps", "brachialis")), model.parameters)
    np.testing.assert_array_equal(params.max_isometric_force, [800.0, 600.0, 900.0])
    np.testing.assert_array_equal(params.pennation_at_optimal, [0.2, 0.0, 0.1])


def test_a_model_with_fewer_muscles_takes_a_selection(model):
    few = _model_of(("triceps", "biceps"))
    params = make_params(few, model.select(("biceps", "triceps")).parameters)
    np.testing.assert_array_equal(params.tendon_slack_length, [0.14, 0.27])
    with pytest.raises(InputError, match=r"max_isometric_force: no entry 'brachialis'.*'triceps', 'biceps'"):
        make_params(few, model.parameters)


def test_a_model_with_a_muscle_that_the_file_lacks_is_refused(model):
    with pytest.raises(InputError, match="max_isometric_force: missing 'anconeus'"):
        make_params(_model_of((*model.muscles, "anconeus")), model.parameters)
