"""Options of ids: each declared once, explained and checked; parameters follow names into a task's model."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nms_gym._pytree import replace
from nms_gym.envs import TASKS, builder, make_task
from nms_gym.envs.options import Options, TaskBuilder, builds, choice, flag, number, option
from nms_gym.envs.sources import (
    OWN,
    ActionChannels,
    StrengthUnknownWarning,
    chosen_sources,
    driven_model,
    params_for,
)
from nms_gym.envs.task import describe
from nms_gym.errors import InputError
from nms_gym.files.subject import load_subject, resolve_subject, save_subject
from nms_gym.model.parameters import KINDS, PARAMETER_KINDS, entries


@dataclass(frozen=True, kw_only=True)
class Motor(Options):
    torque: float = number(8.0, "of the motor", 0.0, 10.0, "N·m")
    side: str = choice("left", "where it is", ("left", "right"))


@dataclass(frozen=True, kw_only=True)
class Trial(Options):
    seconds: float | None = option(4.0, "s, of an episode", none="all of it")
    still: bool = flag(False, "nothing moves")


@builds("Toy")
def make_toy(motor: Motor = Motor(torque=5.0), trial: Trial = Trial()) -> tuple[Motor, Trial]:
    """Turn."""
    return motor, trial


def test_flat_keywords_become_groups():
    assert make_toy() == (Motor(torque=5.0), Trial())
    assert make_toy(side="right", still=True) == (Motor(torque=5.0, side="right"), Trial(still=True))
    # None is the default of the id, unless an option says what it means.
    assert make_toy(torque=None, seconds=None) == (Motor(torque=5.0), Trial(seconds=None))


def test_what_is_declared_is_documented():
    assert {name: o.default for name, o in make_toy.options.items()} == {
        "torque": 5.0, "side": "left", "seconds": 4.0, "still": False
    }  # fmt: skip
    assert str(inspect.signature(make_toy)) == "(*, torque=5.0, side='left', seconds=4.0, still=False)"
    text = inspect.getdoc(make_toy) or ""
    assert text.startswith("Turn.\n\nArgs:\n    torque: N·m, of the motor.\n")
    assert "    seconds: s, of an episode; None for all of it.\n" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"torqe": 1.0}, "Toy has no option 'torqe'; did you mean 'torque'"),
        ({"torque": 11.0}, "torque is 11.0 N·m; use a number from 0 to 10 N·m"),
        ({"torque": True}, "torque is True"),
        ({"side": "top"}, "side is 'top'; use one of 'left', 'right'"),
        ({"still": 1}, "still is 1; use True or False"),
    ],
)
def test_what_is_not_allowed(options, message):
    with pytest.raises(InputError, match=message):
        make_toy(**options)


def test_an_option_belongs_to_one_group():
    def make(a: Motor = Motor(), b: Motor = Motor()):
        """Twice."""

    with pytest.raises(TypeError, match="'torque' is an option of two groups"):
        TaskBuilder("Twice", make)


@pytest.mark.parametrize("name", TASKS)
def test_every_id_explains_its_options(name):
    build = builder(name)
    assert set(inspect.signature(build).parameters) == build.options.keys() >= {"subject", "posterior", "condition"}
    for key, o in build.options.items():
        assert len(o.meaning) > 5, key
        assert not o.meaning.endswith("."), key
        assert f"    {key}: {o.meaning}.\n" in inspect.getdoc(build), key


def test_none_is_the_shipped_person():
    assert make_task("KneeExtension-v0", subject=None, seconds=None).horizon == 400
    assert make_task("ElbowAssist-v0", seconds=None, random_start=False, trial="lift_1").horizon > 400


@pytest.mark.parametrize("option", [{"start": 0.5}, {"random_start": True}])
def test_options_of_a_recording_that_drives_nothing(option):
    with pytest.raises(InputError, match=f"{next(iter(option))} is of recorded EMG, but that drives no muscle"):
        make_task("KneeExtension-v0", **option)


# --- parameters by name -------------------------------------------------------


@pytest.fixture(scope="module")
def arm():
    return load_subject(resolve_subject())


def shuffled(model, seed):
    """The same model with muscles and channels in another order."""
    rng = np.random.default_rng(seed)
    rows, columns = (rng.permutation(len(names)) for names in (model.muscles, model.channels))
    return replace(
        model,
        muscles=tuple(model.muscles[i] for i in rows),
        channels=tuple(model.channels[i] for i in columns),
        channel_weights=np.asarray(model.channel_weights)[rows][:, columns],
        paths=None,
    )


def test_parameters_go_by_name(arm):
    other = shuffled(arm.model, 3)
    assert other.muscles != arm.model.muscles
    assert other.channels != arm.model.channels
    found = params_for(other, arm.model, arm.params)
    for kind in PARAMETER_KINDS:
        before = dict(zip(entries(arm.model, kind), np.asarray(getattr(arm.params, kind)), strict=True))
        assert dict(zip(entries(other, kind), getattr(found, kind), strict=True)) == before, kind
    again = params_for(arm.model, other, found)
    jax.tree.map(np.testing.assert_array_equal, again, arm.params)


def test_channels_of_the_policy_are_neutral_and_others_keep_theirs(arm):
    sources = chosen_sources(arm.model, arm.model.muscles, {"BIClong": "policy", "TRIlong": "passive"}, OWN)
    model = driven_model(arm.model, sources, "recorded")
    assert model.channels == ("biceps", "triceps_lateral", "action:BIClong")
    params = params_for(model, arm.model, arm.params)
    for kind, neutral in (("emg_gain", 1.0), ("electromechanical_delay", 0.0)):
        own = np.asarray(getattr(arm.params, kind))[[arm.model.channels.index(c) for c in model.channels[:2]]]
        np.testing.assert_array_equal(getattr(params, kind), [*own, neutral])
    # Traced, too.
    gain = jax.jacfwd(lambda gain: params_for(model, arm.model, replace(arm.params, emg_gain=gain)).emg_gain)
    expected = [[float(c == d) for d in arm.model.channels] for c in model.channels]
    np.testing.assert_array_equal(gain(jnp.asarray(arm.params.emg_gain)), expected)


def test_actions_in_units_of_emg_act_through_the_gain_and_delay_of_the_muscles_own_channels(arm):
    """Each muscle of the demo has one channel, but the brachialis, which has none."""
    model = driven_model(arm.model, dict.fromkeys(arm.model.muscles, "policy"), "recorded")
    own = dict(zip(arm.model.channels, np.asarray(arm.params.emg_gain), strict=True))
    delay = float(arm.params.electromechanical_delay[0])
    assert delay > 0.02
    emg = params_for(model, arm.model, arm.params, ActionChannels("emg", True))
    gains = dict(zip(model.channels, emg.emg_gain, strict=True))
    assert gains["action:BIClong"] == gains["action:BICshort"] == own["biceps"]
    assert gains["action:TRIlat"] == own["triceps_lateral"]
    assert gains["action:BRA"] == 1.0
    np.testing.assert_allclose(emg.electromechanical_delay, delay, rtol=1e-12)
    true = params_for(model, arm.model, arm.params, ActionChannels("excitation", True))
    assert set(np.asarray(true.emg_gain)) == {1.0}
    np.testing.assert_allclose(true.electromechanical_delay, delay, rtol=1e-12)
    with pytest.raises(InputError, match="action_units is 'mV'; use one of 'excitation', 'emg'"):
        ActionChannels("mV")


def test_two_channels_of_a_muscle_share_its_action(arm):
    weights = np.zeros_like(np.asarray(arm.model.channel_weights))
    weights[0, :2] = 0.5, 0.25
    given = replace(arm.model, channel_weights=weights)
    delays = np.array([0.02, 0.05, 0.08])
    params = replace(arm.params, electromechanical_delay=delays)
    model = driven_model(given, dict.fromkeys(given.muscles, "policy"), "recorded")
    found = params_for(model, given, params, ActionChannels("emg", True))
    assert found.emg_gain[0] == pytest.approx(weights[0] @ arm.params.emg_gain)
    assert found.electromechanical_delay[0] == pytest.approx(0.03)
    np.testing.assert_allclose(found.electromechanical_delay[1:], 0.05)
    np.testing.assert_array_equal(found.emg_gain[1:], 1.0)


def test_tasks_delay_actions_of_calibrated_people_and_say_their_units(arm, tmp_path):
    def delays(name, **options):
        return np.asarray(make_task(name, **options).limb.params.electromechanical_delay)

    own = float(arm.params.electromechanical_delay[0])
    for name in ("ElbowReach-v0", "FesElbow-v0"):
        np.testing.assert_allclose(delays(name), own, rtol=1e-12)
        assert not delays(name, action_delay=False).any()
    assert not delays("KneeExtension-v0").any()  # nobody calibrated the shipped leg
    save_subject(tmp_path / "uncalibrated.json", replace(arm, start=None, bounds={}))
    assert not delays("ElbowReach-v0", subject=tmp_path / "uncalibrated.json").any()
    task = make_task("MomentTracking-v0")
    assert float(task.params.electromechanical_delay[-1]) == pytest.approx(own)
    assert not make_task("MomentTracking-v0", action_delay=False).params.electromechanical_delay[-1]
    assert describe(make_task("ElbowReach-v0", action_units="emg")).action_units == "emg"
    assert describe(task).action_units == "excitation"
    assert describe(make_task("FesElbow-v0")).action_units.startswith("stimulation")
    assert describe(make_task("ElbowAssist-v0")).action_units.startswith("torque")


def test_a_policy_on_muscles_of_unknown_strength_is_warned_of(arm, tmp_path):
    mine = {"subject": str(tmp_path / "mine.json")}
    save_subject(tmp_path / "mine.json", arm)
    with pytest.warns(StrengthUnknownWarning, match=r"(?s)gain of 'biceps'.*'BIClong'.*action_units='emg'") as found:
        make_task("ElbowReach-v0", **mine)
    assert len(found) == 1
    # Nothing to say (warnings are errors here): other units, no muscle of the policy's has a channel, a motor.
    make_task("ElbowReach-v0", **mine, action_units="emg")
    make_task("ElbowReach-v0", **mine, sources={m: "passive" for m in arm.model.muscles if m != "BRA"})
    make_task("MomentTracking-v0", **mine)
    make_task("ElbowAssist-v0", **mine)
    free = dict(arm.bounds)
    for known in (
        replace(arm, bounds={k: v for k, v in free.items() if k != "emg_gain"}),
        replace(arm, bounds={k: v for k, v in free.items() if k != "max_isometric_force"}),
        replace(arm, calibration={**arm.calibration, "strength_data": ["r_elbow_flex"]}),
    ):
        save_subject(tmp_path / "mine.json", known)
        make_task("ElbowReach-v0", **mine)


def test_parameters_of_somebody_else(arm):
    fewer = replace(arm.params, max_isometric_force=np.ones(2))
    with pytest.raises(InputError, match=r"max_isometric_force has shape \(2,\); expected \(6,\)"):
        params_for(arm.model, arm.model, fewer)
    stranger = replace(arm.model, muscles=("stranger", *arm.model.muscles[1:]), paths=None)
    first = next(kind for kind in PARAMETER_KINDS if KINDS[kind].axis == "muscle")
    with pytest.raises(InputError, match=f"{first} lacks 'stranger'"):
        params_for(stranger, arm.model, arm.params)
