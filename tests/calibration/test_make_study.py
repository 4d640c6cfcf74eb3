"""Studies from plain arrays: the same as from TOML, bit for bit; one builder, one list of keys."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import EXAMPLES

from calibration.problem import DEFAULT_FREE, Penalties, make_layout
from calibration.study.build import Study, make_study
from calibration.study.calibrate import calibrate
from calibration.study.emg import FILTERS, EmgRecipe
from calibration.study.options import SolverOptions
from calibration.study.passive import PassiveRecording
from calibration.study.read import read_study, study_arguments
from calibration.study.reference import study_reference
from calibration.study.schema import TABLES
from calibration.study.synergies import SynergyPlan
from calibration.study.validation import ValidationPlan
from nms_gym._assets import asset_path
from nms_gym.errors import InputError
from nms_gym.files.model_file import read_model_file
from nms_gym.model.parameters import PARAMETER_KINDS
from nms_gym.model.structure import Settings
from nms_gym.recording.arrays import Recording, make_recording
from nms_gym.recording.trial import load_trial

DEMO = "asset:demo/study.toml"
CHANNELS = {"biceps": ["BIClong", "BICshort"], "triceps_long": ["TRIlong"], "triceps_lateral": ["TRIlat", "TRImed"]}
GROUPS = {"biceps": ["BIClong", "BICshort"], "triceps": ["TRIlong", "TRIlat", "TRImed"]}
JOINTS = ("r_shoulder_elev", "r_elbow_flex")


def reach(name: str, factor: float = 1.0) -> Recording:
    """A recording of the demo as a user has it: names and arrays; its EMG ``factor`` times as strong."""
    with np.load(asset_path(f"demo/recording/{name}.npz")) as a:
        return make_recording(
            name,
            time=a["time"],
            coordinates=list(a["coordinates"]),
            q=a["q"],
            channels=list(a["channels"]),
            emg_time=a["emg_time"],
            emg=factor * a["raw_emg"],
            moments=a["moments"],
            synthetic=True,
        )


def demo(**changes) -> Study:
    """The demo's study from Python."""
    arguments = {
        "model": "asset:arm",
        "coordinates": JOINTS,
        "channels": CHANNELS,
        "trials": [reach(name) for name in ("reach_1", "reach_2", "reach_3")],
        "train": ["reach_1", "reach_2"],
        "passive_muscles": ["BRA"],
        "groups": GROUPS,
        "emg": EmgRecipe("raw", baseline=0.02),
        "dt": 0.01,
        **changes,
    }
    return make_study("demo", **arguments)


def same(a: Study, b: Study) -> None:
    """Everything that a calibration sees, bit for bit."""
    for study in (a.trials, a.held_out):
        assert list(study) == list(b.trials if study is a.trials else b.held_out)
    pairs = [(a.model, b.model), (a.start, b.start), (a.emg_reference.values, b.emg_reference.values)]
    windows = zip(
        (*a.train, *(s for part in a.held_out.values() for s in part)),
        (*b.train, *(s for part in b.held_out.values() for s in part)),
        strict=True,
    )
    for x, y in windows:
        assert x.name == y.name
        pairs += [(x.replay, y.replay), (x.measured, y.measured), (x.scored, y.scored)]
    for x, y in pairs:
        assert jax.tree.structure(x) == jax.tree.structure(y)
        for one, other in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
            np.testing.assert_array_equal(one, other)
    assert (a.free, a.groups, a.penalties, a.fit_options) == (b.free, b.groups, b.penalties, b.fit_options)
    assert (a.validation, a.polish, a.name, a.output) == (b.validation, b.polish, b.name, b.output)


def test_the_demo_from_arrays_is_calibrated_as_from_toml():
    from_arrays, from_toml = demo(), read_study(DEMO)
    same(from_arrays, from_toml)
    assert from_arrays.output == Path("nms-gym-out") / "demo"
    short = {"starts": 1, "max_iterations": 8}
    results = [
        calibrate(dataclasses.replace(study, fit_options={**study.fit_options, **short}), evaluate=False).result
        for study in (from_arrays, from_toml)
    ]
    assert results[0].cost == results[1].cost < results[0].start_cost
    for kind in PARAMETER_KINDS:
        np.testing.assert_array_equal(getattr(results[0].params, kind), getattr(results[1].params, kind))


def test_a_public_recording_from_arrays_is_the_study_of_its_toml(data, monkeypatch):
    """Muscle tables instead of paths, velocities of their own, and another order of axes."""
    folder = data("elbow_synthetic")
    monkeypatch.setenv("NMS_GYM_DATA", str(folder.parent))
    recordings = []
    for name in ("train_1", "train_2", "train_3"):
        with np.load(folder / f"{name}.npz") as a:
            recordings.append(
                make_recording(
                    name,
                    time=a["time"],
                    coordinates=list(a["dofs"]),
                    q=a["q"],
                    qd=a["qd"],
                    channels=list(a["emg_channels"]),
                    emg=a["emg"],
                    moments=a["moment"],
                    muscles=list(a["muscles"]),
                    lengths=a["lmt"],
                    velocities=a["vmt"],
                    moment_arms=np.swapaxes(a["ma"], 1, 2),
                    synthetic=True,
                )
            )
    study = make_study(
        "elbow_synthetic",
        model="asset:arm",
        coordinates=JOINTS,
        channels={
            "tri_long": ["TRIlong"],
            "tri_lat": ["TRIlat", "TRImed"],
            "biceps": ["BIClong", "BICshort"],
            "brachialis": ["BRA"],
        },
        trials=recordings,
        train=["train_1", "train_2"],
        held_out=["train_3"],
        settings=Settings(tendon="rigid"),
        start={"fiber_damping": 0.01},
        penalties=Penalties(moment_tolerance=0.05),
        output=EXAMPLES / "configs" / "nms-gym-out" / "elbow_synthetic",
    )
    same(study, read_study(EXAMPLES / "configs" / "elbow_synthetic.toml"))


def test_a_model_that_is_read_already_serves_too():
    arm = read_model_file(asset_path("arm/model.json"))
    # Another order of the model's muscles: everything goes by name.
    same(demo(model=arm.select(muscles=arm.muscles[::-1])), demo(model=asset_path("arm/model.json")))


def test_trials_ready_made_and_windows():
    trials = [load_trial(asset_path(f"demo/{name}.npz")) for name in ("reach_1", "reach_3")]
    study = demo(
        trials=trials,
        train={"reach_1": [(0.5, 2.0)]},
        held_out={"reach_1": [(2.0, 3.0)]},
        emg=EmgRecipe(),
        free=["emg_gain"],
    )
    assert [s.name for s in study.train] == ["reach_1 0.50-2.00 s"]
    assert {label: len(s) for label, s in study.held_out.items()} == {"reach_1, other windows": 1, "reach_3": 1}
    assert study.free == (DEFAULT_FREE["emg_gain"],)
    np.testing.assert_array_equal(study.trials["reach_3"].emg, trials[1].emg)


def test_passive_moments_from_arrays():
    q = np.stack([np.linspace(0.0, 1.0, 5), np.linspace(0.3, 2.0, 5)], axis=1)
    moments = np.stack([np.full(5, np.nan), np.linspace(-1.0, 1.0, 5)], axis=1)
    study = demo(passive=[PassiveRecording("slow", JOINTS, moments, q=q)])
    assert [s.name for s in study.problem.passive] == ["slow 1"]
    np.testing.assert_array_equal(study.passive[0].measured, moments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": ["reach_4"]}, "study 'demo': train: no trial 'reach_4'; did you mean"),
        ({"held_out": {"reach_1": [(0.0, 1.0)]}}, "recording 'reach_1': training window .* overlap"),
        ({"held_out": {"reach_3": [(0.0, 1.0, 2.0)]}}, r"windows of 'reach_3' are .*expected \[\(start, stop\)"),
        ({"channels": {**CHANNELS, "deltoid": ["DELT"]}}, "no muscle 'DELT'"),
        ({"groups": {"all": ["BIC"]}}, r"study 'demo' \[groups\]: all names 'BIC'"),
        ({"free": ["gain"]}, "study 'demo': free: unknown parameter 'gain'"),
        ({"free": []}, "free is empty"),
        ({"start": {"gain": 1.0}}, r"study 'demo' \[start\]: unknown parameter 'gain'"),
        ({"start": {"emg_gain": {"bi": 1.0}}}, r"\[start\]: emg_gain: no entry 'bi'"),
        ({"trials": []}, "at least one recording"),
        ({"trials": [reach("reach_1"), reach("reach_1")]}, "two trials are called 'reach_1'"),
        ({"lead_in": -1.0}, "lead_in is -1 s"),
        ({"columns": {"muscle": "m"}}, "columns is for a .csv"),
        ({"passive_muscles": ["TRIlong"]}, "passive_muscles has 'TRIlong', which a channel drives"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        demo(**changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EmgRecipe("envelope", low_pass=6.0), "'low_pass' filters raw EMG only"),
        (lambda: EmgRecipe("envelope", whiten=True), "'whiten' filters raw EMG only"),
        (lambda: EmgRecipe("raw", amplitude="rms"), "amplitude is 'rms'; use one of 'rectified', 'power'"),
        (lambda: SynergyPlan(mode="hybrid"), "mode is 'hybrid'"),
        (lambda: ValidationPlan("day"), "by is 'day'"),
        (lambda: SolverOptions(starts=0), "starts is 0"),
        (lambda: PassiveRecording("slow", JOINTS, np.zeros((3, 2))), "passive recording 'slow': give 'q'"),
        (
            lambda: make_recording("r", time=[0, 1], coordinates=["a"], q=[[0.0]]),
            r"recording 'r': q has shape \(1, 1\)",
        ),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


# --- start values of the NMSM Pipeline ------------------------------------


def test_start_from_an_osimx_goes_by_muscle_name(tmp_path):
    values = {"BIClong": (0.6, 0.15), "BICshort": (0.8, 0.16), "TRIlong": (0.5, 0.17), "SOMEONE": (0.1, 0.1)}
    muscles = "".join(
        f'<RCNLMuscle name="{m}"><electromechanical_delay>0.5</electromechanical_delay>'
        f"<emg_scale_factor>{gain}</emg_scale_factor><optimal_fiber_length>{length}</optimal_fiber_length>"
        "<activation_nonlinearity_constant>0.2</activation_nonlinearity_constant></RCNLMuscle>"
        for m, (gain, length) in values.items()
    )
    file = tmp_path / "found.osimx"
    file.write_text(
        '<?xml version="1.0"?><NMSMPipelineDocument><OsimxModel name="arm"><RCNLMuscleSet>'
        f"{muscles}</RCNLMuscleSet></OsimxModel></NMSMPipelineDocument>"
    )
    said: list[str] = []
    study = demo(start={"file": file, "emg_gain": {"triceps_lateral": 0.9}}, say=said.append)
    plain = demo()
    lengths = dict(zip(study.model.muscles, study.start.optimal_fiber_length, strict=True))
    assert {m: lengths[m] for m in ("BIClong", "BICshort", "TRIlong")} == {
        "BIClong": 0.15,
        "BICshort": 0.16,
        "TRIlong": 0.17,
    }
    untouched = [study.model.muscles.index(m) for m in ("TRIlat", "TRImed", "BRA")]
    np.testing.assert_array_equal(
        np.asarray(study.start.optimal_fiber_length)[untouched], plain.start.optimal_fiber_length[untouched]
    )
    np.testing.assert_allclose(study.start.emg_gain, [0.7, 0.5, 0.9])
    np.testing.assert_allclose(
        study.start.electromechanical_delay, [0.05, 0.05, plain.start.electromechanical_delay[2]]
    )
    assert any("emg_gain of channel biceps: mean of 2 muscles, 0.6 to 0.8" in text for text in said)
    assert any("left out: 'activation_nonlinearity'" in text for text in said)
    file.write_text(file.read_text().replace('name="BIC', 'name="X').replace('name="TRI', 'name="Y'))
    with pytest.raises(InputError, match=r"found.osimx: none of the model's muscles"):
        demo(start={"file": file})


def test_start_file_of_a_toml_is_relative_to_it(tmp_path):
    text = (
        asset_path(DEMO.removeprefix("asset:")).read_text().replace("[solver]", '[start]\nfile = "a.osimx"\n[solver]')
    )
    text = text.replace('"recording/', f'"{asset_path("demo/recording").as_posix()}/')
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(InputError, match=r"\[start\]: file: no such file or folder: .*a.osimx"):
        study_arguments(tmp_path / "study.toml")
    (tmp_path / "a.osimx").write_text("")
    assert study_arguments(tmp_path / "study.toml")["start"] == {"file": tmp_path / "a.osimx"}


# --- the keys -----------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "cls"),
    [
        ("settings", Settings),
        ("emg", EmgRecipe),
        ("synergies", SynergyPlan),
        ("penalties", Penalties),
        ("validation", ValidationPlan),
        ("solver", SolverOptions),
    ],
)
def test_every_option_has_its_key_and_default(table, cls):
    keys = {key.name: key for key in TABLES[table].keys}
    assert set(keys) == {f.name for f in dataclasses.fields(cls)}
    plain = cls()
    for name, key in keys.items():
        if key.default not in (None, ..., {}) and name != "curves":
            assert getattr(plain, name) == key.default, name
    if table == "emg":
        assert EmgRecipe("raw").filters == FILTERS


def test_the_page_of_keys_is_current_and_complete():
    page = (EXAMPLES / "configs" / "README.md").read_text(encoding="utf-8")
    assert page == study_reference(EXAMPLES / "configs"), "nms-gym reference --study-keys -o examples/configs"
    assert json.dumps("asset:arm") in page
    for table in TABLES.values():
        assert table.header in page
        assert table.keys or table.any_key
    for path in (EXAMPLES / "configs").glob("*.toml"):
        assert path.name in page


def test_emg_without_moments_bounds_the_gains():
    """A recording that is neither fitted nor predicted, twice as strong: gains stay below one over what is large."""
    unlabelled = reach("reach_3", factor=2.0)
    heavy = dataclasses.replace(unlabelled, name="heavy", arrays=dataclasses.replace(unlabelled.arrays, moments=None))
    trials = [*(reach(name) for name in ("reach_1", "reach_2", "reach_3")), heavy]
    said: list[str] = []
    recipe = EmgRecipe("raw", baseline=0.02, limit_trials=["heavy"])
    free, bounded = (demo(trials=trials, emg=emg, say=said.append) for emg in (EmgRecipe("raw", baseline=0.02), recipe))
    assert "heavy" not in [s.recording for s in (*bounded.train, *bounded.held_out["reach_3"])]
    channels = bounded.model.recorded_channels
    largest = np.quantile(free.trials["heavy"].emg, 0.99, axis=0)
    rows = [free.trials["heavy"].channels.index(c) for c in channels]
    gains = next(f for f in bounded.free if f.kind == "emg_gain")
    start = bounded.start.emg_gain
    highest = [max(1.0, 1.0 / (largest[r] * g)) for r, g in zip(rows, start, strict=True)]
    assert dict(gains.own_high) == pytest.approx(dict(zip(channels, highest, strict=True)), rel=0.02)
    layouts = [make_layout(study.problem) for study in (free, bounded)]
    for channel, factor in zip(channels, highest, strict=True):
        row = layouts[1].names.index(f"emg_gain:{channel}")
        assert layouts[1].high[row] == pytest.approx(np.log(min(factor, gains.bounds[1])) / gains.prior_sd, abs=0.1)
        assert layouts[1].high[row] <= layouts[0].high[row]
    assert any(layouts[1].high[r] < layouts[0].high[r] for r in range(layouts[1].size))
    with pytest.raises(InputError, match=r"\[emg\]: limit_trials: no trial 'havy'; did you mean 'heavy'"):
        demo(trials=trials, emg=dataclasses.replace(recipe, limit_trials=["havy"]))
    with pytest.raises(InputError, match="limit_trials bounds the gains, but emg_gain is not free"):
        demo(trials=trials, emg=recipe, free=["max_isometric_force"])
