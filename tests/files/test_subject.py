"""Subject files: nothing lost, nothing matched by position, nothing bad let in."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from nms_gym._assets import asset_path
from nms_gym.errors import InputError
from nms_gym.files.model_file import read_model_file
from nms_gym.files.skeleton import skeleton_to_json
from nms_gym.files.subject import (
    Subject,
    default_subject,
    demo_trials,
    load_subject,
    resolve_subject,
    resolve_trial,
    save_subject,
)
from nms_gym.model.parameters import KINDS, PARAMETER_KINDS, make_params
from nms_gym.model.structure import NmsModel, Settings
from nms_gym.model.trained_range import Range, TrainedRange
from nms_gym.muscle.curves import DeGrooteFregly2016
from nms_gym.muscle.geometry import PolynomialPaths, SpanGroup
from nms_gym.muscle.millard import Millard2012
from nms_gym.muscle.tabulated import Tabulated

MUSCLES = ("soleus_r", "tibant_r", "psoas_r")
CHANNELS = ("SO", "TA")
COORDINATES = ("ankle_angle_r", "hip_flexion_r")


class OwnCurves(DeGrooteFregly2016):
    """A family that no file can name."""


def make_subject(seed=0) -> Subject:
    random = np.random.default_rng(seed)
    paths = PolynomialPaths(
        coefficients=(random.uniform(0.2, 0.4, (2, 3)), random.uniform(0.2, 0.4, (1, 3)) / 3.0),
        domain=np.array([[-0.7, 0.5], [-1.0, 2.0]]) / 3.0,
        muscles=MUSCLES,
        coordinates=COORDINATES,
        groups=(SpanGroup((0, 2), (0,), 2), SpanGroup((1,), (1,), 2)),
    )
    model = NmsModel(
        muscles=MUSCLES,
        coordinates=COORDINATES,
        channels=CHANNELS,
        settings=Settings(tendon="rigid", integrator="backward_euler", tendon_iterations=7, max_delay=0.1),
        channel_weights=np.array([[1.0, 0.0], [0.1, 0.9], [0.0, 0.0]]),
        paths=paths,
    )

    def params():
        # Numbers without a short decimal form, as a calibration leaves them.
        return make_params(
            model,
            {
                "max_isometric_force": random.uniform(300, 3000, 3),
                "optimal_fiber_length": random.uniform(0.03, 0.1, 3),
                "tendon_slack_length": random.uniform(0.1, 0.3, 3),
                "pennation_at_optimal": random.uniform(0, 0.4, 3),
                "shape_factor": random.uniform(-3, 0, 3),
                "emg_gain": random.uniform(0.5, 2, 2),
                "electromechanical_delay": random.uniform(0.01, 0.1, 2),
            },
        )

    return Subject(
        name="Ада",
        model=model,
        params=params(),
        start=params(),
        bounds={"emg_gain": {"TA": (0.1, 1 / 3)}, "max_isometric_force": {"psoas_r": (1.0, 1e4)}},
        prior_sd={"max_isometric_force": {"psoas_r": 1 / 7}},
        calibration={"solver": "lm", "cost": np.float64(1 / 3), "windows": ((0.0, 1.0),), "iterations": np.int64(3)},
        metrics=[
            {"set": "calibrated", "split": "held-out", "segment": "s", "coordinate": "ankle_angle_r", "rmse": 1.0,
             "nrmse": 0.1, "r2": 0.9, "r": float("nan")}
        ],
        sources={"walk.mot": "ab" * 32},
        emg_normalisation={"SO": 1 / 7, "MG": 0.2},
        synthetic=True,
        trained=TrainedRange({"SO": Range(1 / 7, 0.9, 0.0, 1.0)}, {"ankle_angle_r": Range(-0.1, 1 / 3, -0.2, 0.4)}, {}),
    )  # fmt: skip


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "subject.json"
    save_subject(path, make_subject())
    return path


def assert_same_params(a, b):
    for kind in PARAMETER_KINDS:
        np.testing.assert_array_equal(np.asarray(getattr(a, kind)), getattr(b, kind), err_msg=kind)


def test_round_trip_loses_nothing(saved):
    subject, again = make_subject(), load_subject(saved)
    assert_same_params(subject.params, again.params)
    assert subject.start is not None
    assert_same_params(subject.start, again.start)
    for name in ("name", "bounds", "prior_sd", "sources", "emg_normalisation", "synthetic", "trained"):
        assert getattr(again, name) == getattr(subject, name), name
    for name in ("muscles", "channels", "coordinates", "settings"):
        assert getattr(again.model, name) == getattr(subject.model, name), name
    np.testing.assert_array_equal(again.model.channel_weights, subject.model.channel_weights)
    assert again.calibration == {"solver": "lm", "cost": 1 / 3, "windows": [[0.0, 1.0]], "iterations": 3}
    assert again.metrics[0]["r"] is None
    assert {k: v for k, v in again.metrics[0].items() if k != "r"} == {
        k: v for k, v in subject.metrics[0].items() if k != "r"
    }
    paths, loaded = subject.model.paths, again.model.paths
    assert paths is not None
    assert loaded is not None
    assert (loaded.muscles, loaded.coordinates, loaded.groups) == (paths.muscles, paths.coordinates, paths.groups)
    np.testing.assert_array_equal(loaded.domain, paths.domain)
    for a, b in zip(loaded.coefficients, paths.coefficients, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_file_from_before_there_were_ranges_has_none(saved, tmp_path):
    record = json.loads(saved.read_text(encoding="utf-8"))
    del record["trained_range"]
    old = tmp_path / "old.json"
    old.write_text(json.dumps(record), encoding="utf-8")
    assert load_subject(old).trained is None
    save_subject(tmp_path / "again.json", load_subject(old))
    assert json.loads((tmp_path / "again.json").read_text(encoding="utf-8")) == record


def test_float64_survives_outside_x64(saved, tmp_path):
    with jax.enable_x64(False):
        loaded = load_subject(saved)
        save_subject(tmp_path / "again.json", loaded)
    assert loaded.params.emg_gain.dtype == np.float64
    assert (tmp_path / "again.json").read_bytes() == saved.read_bytes()


def test_file_is_for_people(saved):
    text = saved.read_text(encoding="utf-8")
    record = json.loads(text)
    assert {kind: table["unit"] for kind, table in record["parameters"].items()} == {
        name: kind.unit for name, kind in KINDS.items()
    }
    assert record["channel_weights"] == {"soleus_r": {"SO": 1.0}, "tibant_r": {"SO": 0.1, "TA": 0.9}, "psoas_r": {}}
    assert record["settings"]["curves"] == "DeGrooteFregly2016"
    assert list(record)[-2:] == ["paths", "skeleton"]
    # One parameter, one line, with all that is known about it.
    force = json.dumps(record["parameters"]["max_isometric_force"]["entries"]["psoas_r"])
    line = next(line for line in text.splitlines() if f'"psoas_r": {force}' in line)
    assert '"start"' in line
    assert '"bounds": [1.0, 10000.0]' in line
    assert '"prior_sd"' in line
    assert max(len(line) for line in text.splitlines()) <= 160


def test_matched_by_name(saved):
    record = json.loads(saved.read_text(encoding="utf-8"))
    for table in record["parameters"].values():
        table["entries"] = dict(reversed(table["entries"].items()))
    for key in ("parameters", "channel_weights"):
        record[key] = dict(reversed(record[key].items()))
    record["paths"]["domain"] = dict(reversed(record["paths"]["domain"].items()))
    record["muscles"].reverse()
    saved.write_text(json.dumps(record), encoding="utf-8")
    subject, again = make_subject(), load_subject(saved)
    assert again.model.muscles == MUSCLES[::-1]
    np.testing.assert_array_equal(again.params.max_isometric_force[::-1], subject.params.max_isometric_force)
    np.testing.assert_array_equal(again.model.channel_weights[::-1], subject.model.channel_weights)
    assert again.model.paths is not None
    assert again.model.paths.span("tibant_r") == ("hip_flexion_r",)
    np.testing.assert_array_equal(again.model.paths.domain, subject.model.paths.domain)  # type: ignore[union-attr]


def entry(record, kind, name):
    return record["parameters"][kind]["entries"][name]


BAD_FILES = {
    "format": (lambda r: r.update(format="nms_gym.model"), "nms_gym.model.*save_subject"),
    "newer": (lambda r: r.update(version=3), "version 3.*update nms-gym"),
    "older": (lambda r: r.update(version=0), "version 0.*save the subject again"),
    "missing muscle": (
        lambda r: r["parameters"]["shape_factor"]["entries"].pop("psoas_r"), "shape_factor.*'psoas_r'"),
    "strange muscle": (
        lambda r: r["parameters"]["shape_factor"]["entries"].update(soleus={"value": 1}), "did you mean 'soleus_r'"),
    "missing kind": (lambda r: r["parameters"].pop("emg_gain"), "'emg_gain' is missing"),
    "unknown kind": (lambda r: r["parameters"].update(emg_gains={}), "did you mean 'emg_gain'"),
    "no weights": (lambda r: r["channel_weights"].pop("psoas_r"), "channel_weights.*psoas_r"),
    "unknown channel": (lambda r: r["channel_weights"]["psoas_r"].update(XX=1.0), "'XX'"),
    "nan": (lambda r: entry(r, "emg_gain", "TA").update(value=float("nan")), "NaN"),
    "infinite": (lambda r: entry(r, "emg_gain", "TA").update(value=1e999), "Infinity"),
    "text": (lambda r: entry(r, "emg_gain", "TA").update(value="1.0"), "emg_gain of 'TA'.*'1.0'"),
    "negative": (
        lambda r: entry(r, "optimal_fiber_length", "psoas_r").update(value=-0.1), "'psoas_r' is -0.1 m"),
    "half a start": (lambda r: entry(r, "emg_gain", "TA").pop("start"), "all or none"),
    "bounds": (lambda r: entry(r, "emg_gain", "TA").update(bounds=[2.0, 1.0]), "low must not exceed"),
    "one bound": (lambda r: entry(r, "emg_gain", "TA").update(bounds=[2.0]), "low, high"),
    "prior": (lambda r: entry(r, "emg_gain", "TA").update(prior_sd=0.0), "prior_sd.*positive"),
    "unit": (lambda r: r["parameters"]["optimal_fiber_length"].update(unit="mm"), "'mm'.*'m'"),
    "setting": (lambda r: r["settings"].update(tendon="stiff"), "tendon is 'stiff'"),
    "unknown setting": (lambda r: r["settings"].update(tendons="rigid"), "'tendons'"),
    "curves": (lambda r: r["settings"].update(curves="Thelen2003"), "Thelen2003.*no family"),
    "twice": (lambda r: r["muscles"].append("psoas_r"), "more than once"),
    "no muscles": (lambda r: r.pop("muscles"), "'muscles' is missing"),
    "path": (lambda r: r["paths"]["groups"].pop(), "tibant_r.*one path"),
    "path domain": (lambda r: r["paths"].pop("domain"), "'domain'"),
    "path numbers": (lambda r: r["paths"]["groups"][0]["coefficients"].update(soleus_r=[1.0]), "coefficients"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused(saved, name):
    spoil, message = BAD_FILES[name]
    record = json.loads(saved.read_text(encoding="utf-8"))
    spoil(record)
    saved.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        load_subject(saved)
    assert str(saved) in str(caught.value)


def test_not_json(tmp_path):
    path = tmp_path / "subject.json"
    with pytest.raises(InputError, match="no such subject file"):
        load_subject(path)
    path.write_text('{"format": "nms_gym.sub')
    with pytest.raises(InputError, match="not a JSON file"):
        load_subject(path)
    path.write_text("[]")
    with pytest.raises(InputError, match="format"):
        load_subject(path)


def test_save_refuses_and_leaves_the_old_file(saved):
    before = saved.read_bytes()
    good = make_subject()
    broken = dataclasses.replace(good.params, emg_gain=np.array([1.0, np.nan]))
    cases = {
        "emg_gain of 'TA'": dataclasses.replace(good, params=broken),
        "start.*emg_gain of 'TA'": dataclasses.replace(good, start=broken),
        "did you mean 'psoas_r'": dataclasses.replace(good, bounds={"shape_factor": {"psoas": (0, 1)}}),
        "no parameter": dataclasses.replace(good, prior_sd={"shape": {}}),
        "no family": dataclasses.replace(
            good, model=dataclasses.replace(good.model, settings=Settings(curves=OwnCurves()))
        ),
        "JSON cannot": dataclasses.replace(good, calibration={"solver": object()}),
    }
    for message, subject in cases.items():
        with pytest.raises(InputError, match=message):
            save_subject(saved, subject)
    with pytest.raises(InputError, match=r"\.json"):
        save_subject(saved.with_suffix(".txt"), good)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_curves_mixed_tendons_and_skeleton_are_kept(tmp_path):
    good = make_subject()
    for curves in (Millard2012(), DeGrooteFregly2016(c3=0.3), Tabulated()):
        settings = Settings(tendon="mixed", curves=curves)
        model = dataclasses.replace(good.model, settings=settings, rigid_tendons=("tibant_r",))
        arm = read_model_file(asset_path("arm/model.json"))
        save_subject(tmp_path / "s.json", dataclasses.replace(good, model=model, skeleton=arm.skeleton))
        again = load_subject(tmp_path / "s.json")
        assert again.model.settings == settings
        assert again.model.tendons == ("elastic", "rigid", "elastic")
        assert again.skeleton is not None
        assert skeleton_to_json(again.skeleton) == skeleton_to_json(arm.skeleton)
    record = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    (tmp_path / "bad.json").write_text(json.dumps(record | {"rigid_tendons": ["tibant"]}), encoding="utf-8")
    with pytest.raises(InputError, match=r"rigid_tendons name 'tibant'.*'tibant_r'"):
        load_subject(tmp_path / "bad.json")


def test_uncalibrated_subject_without_paths(tmp_path):
    subject = make_subject()
    subject = Subject("plain", dataclasses.replace(subject.model, paths=None), subject.params)
    save_subject(tmp_path / "plain.json", subject)
    again = load_subject(tmp_path / "plain.json")
    assert again.start is None
    assert again.model.paths is None
    assert not again.bounds
    assert_same_params(subject.params, again.params)


def test_names_and_paths_are_resolved(saved, tmp_path):
    assert resolve_subject(str(saved)) == saved
    assert resolve_trial(str(saved)) == saved
    with pytest.raises(InputError, match="no subject file"):
        resolve_subject(tmp_path / "nobody.json")
    with pytest.raises(InputError, match="neither a file nor a shipped trial"):
        resolve_trial("nothing")
    shipped = demo_trials()
    for name, path in shipped.items():
        assert resolve_trial(name) == path
    if shipped:
        assert resolve_trial() == next(iter(shipped.values()))
        assert default_subject().synthetic


def test_a_person_from_before_version_2_keeps_the_filter_it_was_fitted_with(tmp_path):
    save_subject(tmp_path / "new.json", make_subject())
    record = json.loads((tmp_path / "new.json").read_text(encoding="utf-8"))
    assert record["settings"]["activation"] == "second_order"
    (tmp_path / "old.json").write_text(json.dumps(record | {"version": 1}), encoding="utf-8")
    old, new = (load_subject(tmp_path / f"{name}.json").model.settings for name in ("old", "new"))
    assert (old.activation, new.activation) == ("recursive", "second_order")
    assert dataclasses.replace(old, activation="second_order") == new


def test_specific_tension_is_part_of_a_person(tmp_path):
    subject = make_subject()
    heavy = dataclasses.replace(subject, model=dataclasses.replace(subject.model, specific_tension=0.6e6))
    save_subject(tmp_path / "new.json", heavy)
    assert load_subject(tmp_path / "new.json").model.specific_tension == 0.6e6
    record = json.loads((tmp_path / "new.json").read_text(encoding="utf-8"))
    del record["specific_tension"]
    (tmp_path / "old.json").write_text(json.dumps(record), encoding="utf-8")
    assert load_subject(tmp_path / "old.json").model.specific_tension == 0.25e6
    (tmp_path / "bad.json").write_text(json.dumps(record | {"specific_tension": 0.6}), encoding="utf-8")
    with pytest.raises(InputError, match=r"specific_tension is 0\.6 N/m"):
        load_subject(tmp_path / "bad.json")


def test_a_file_from_before_minimum_activation_is_a_person_without_one(tmp_path):
    save_subject(tmp_path / "new.json", make_subject())
    record = json.loads((tmp_path / "new.json").read_text(encoding="utf-8"))
    del record["parameters"]["minimum_activation"]
    (tmp_path / "old.json").write_text(json.dumps(record), encoding="utf-8")
    old, new = load_subject(tmp_path / "old.json"), load_subject(tmp_path / "new.json")
    np.testing.assert_array_equal(old.params.minimum_activation, np.zeros(len(MUSCLES)))
    np.testing.assert_array_equal(old.params.shape_factor, new.params.shape_factor)
    assert old.start is not None
    np.testing.assert_array_equal(old.start.minimum_activation, np.zeros(len(MUSCLES)))
    del record["parameters"]["shape_factor"]
    (tmp_path / "old.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(InputError, match="'shape_factor' is missing"):
        load_subject(tmp_path / "old.json")
