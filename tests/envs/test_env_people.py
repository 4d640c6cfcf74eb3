"""Who is in the loop: people of a posterior, impairments, what drives muscles, options that cannot be."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calibration.excitations.synergies import add_synergies
from nms_gym.conditions import CONDITIONS
from nms_gym.envs import TASKS, make_task
from nms_gym.envs.gymnasium_env import NmsEnv
from nms_gym.envs.person import right_leg
from nms_gym.envs.task import as_dtype, episode_key, play_actions
from nms_gym.errors import InputError
from nms_gym.excitation.synergies import make_basis
from nms_gym.files.posterior import save_people
from nms_gym.files.subject import load_subject, resolve_subject, resolve_trial, save_subject
from nms_gym.model.replay import make_segment, recorded_excitations
from nms_gym.recording.trial import load_trial

QUICK = {"xla_backend_optimization_level": 0}
BICEPS, ELBOW = ("BIClong", "BICshort"), "r_elbow_flex"
WHOLE = {"trial": "lift_1", "random_start": False, "condition": []}


def quick(function):
    return jax.jit(function, compiler_options=QUICK)


play = quick(play_actions)


@quick
def excitations(task, actions, key):
    """Excitations (T, M) only: what else a step computes is left out by the compiler where nothing feels it."""
    return play_actions(task, actions, key)[1]["excitation"]


def made(name, **options):
    return as_dtype(make_task(name, **options), jnp.float64)


@pytest.fixture(scope="module")
def arm():
    return load_subject(resolve_subject())


# --- people -------------------------------------------------------------------


@pytest.mark.slow
def test_a_posterior_puts_different_people_in_the_loop(tmp_path, arm):
    """Strength, gain and delay are those of the person whom the reset draws: the reward is that of a task of them."""
    factors = {
        "max_isometric_force": [0.7, 1.0, 1.3],
        "emg_gain": [0.5, 1.0, 0.8],
        "electromechanical_delay": [0.4, 1.0, 0.7],
    }
    people = jax.tree.map(lambda x: np.stack([np.asarray(x)] * 3), arm.params)
    people = dataclasses.replace(
        people,
        **{kind: getattr(people, kind) * np.array(rows)[:, None] for kind, rows in factors.items()},
    )
    save_subject(tmp_path / "subject.json", arm)
    save_people(tmp_path / "posterior.npz", arm.model, people)
    options = {**WHOLE, "seconds": 0.5}
    several = made("ElbowAssist-v0", subject=str(tmp_path / "subject.json"), posterior=True, **options)
    assert several.limb.people_count == 3
    actions, seen = jnp.full((50, 1), 0.1), {}
    for seed in range(12):
        rewards, info = play(several, actions, episode_key(seed))
        who = set(np.asarray(info["person"]).tolist())
        assert len(who) == 1
        seen[who.pop()] = np.asarray(rewards)
    assert seen.keys() == {0, 1, 2}
    assert np.abs(seen[0] - seen[2]).max() > 1e-3
    for i in (0, 2):
        own = jax.tree.map(lambda x, i=i: x[i], people)
        save_subject(tmp_path / f"{i}.json", dataclasses.replace(arm, params=own))
        alone = made("ElbowAssist-v0", subject=str(tmp_path / f"{i}.json"), **options)
        np.testing.assert_allclose(play(alone, actions)[0], seen[i], rtol=1e-9, atol=1e-9)
    # In these units strength need not be known.
    named = {"subject": str(tmp_path / "0.json"), "posterior": str(tmp_path / "posterior.npz"), "action_units": "emg"}
    named = make_task("ElbowReach-v0", **named)
    assert named.limb.people_count == 3


# --- what impairs them --------------------------------------------------------

IMPAIRMENTS = {
    "weakness": {"severity": 0.5},
    "sarcopenia": {},
    "contracture": {"severity": 0.15, "muscles": list(BICEPS)},
    "tendon_compliance": {"strain_change": 0.5},
    "electromechanical_delay": {"increase": 0.05},
    "electrode_loss": {"channels": ["biceps"]},
    "paresis": {"severity": 0.5},
    "cocontraction": {"severity": 0.3, "groups": [[list(BICEPS), ["TRIlong", "TRIlat"]]]},
    "spasticity": {},
    "fatigue": {"joint": "elbow", "initial": 0.9},
    "tendon_transfer": None,
}


@pytest.fixture(scope="module")
def healthy():
    task = made("ElbowAssist-v0", **WHOLE, seconds=0.6)
    return task, jax.tree.map(np.asarray, play(task, jnp.zeros((60, 1))))


def test_every_impairment_is_known():
    assert IMPAIRMENTS.keys() == CONDITIONS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("impairment", [name for name, options in IMPAIRMENTS.items() if options is not None])
def test_every_impairment_changes_the_motion(impairment, healthy):
    _, (_, info) = healthy
    ill = made(
        "ElbowAssist-v0", **{**WHOLE, "condition": [{"name": impairment, **IMPAIRMENTS[impairment]}]}, seconds=0.6
    )
    other, changed = play(ill, jnp.zeros((60, 1)))
    assert np.isfinite(other).all()
    assert np.abs(changed["q"] - info["q"]).max() > 1e-6
    if impairment == "paresis":
        np.testing.assert_allclose(changed["excitation"][0], 0.5 * info["excitation"][0], rtol=1e-6)
        assert np.abs(changed["moments"][:5]).max() < np.abs(info["moments"][:5]).max()
    if impairment == "electrode_loss":
        columns = [ill.muscles.index(m) for m in BICEPS]
        np.testing.assert_allclose(changed["excitation"][:, columns], 0.0, atol=1e-15)
        assert np.abs(info["excitation"][:, columns]).max() > 0.01


@pytest.mark.parametrize("impairment", ["paresis", "cocontraction", "weakness"])
def test_no_severity_is_health(impairment, healthy):
    _, (rewards, info) = healthy
    spec = {"name": impairment, **IMPAIRMENTS[impairment], "severity": 0.0}
    well, shown = play(made("ElbowAssist-v0", **{**WHOLE, "condition": [spec]}, seconds=0.6), jnp.zeros((60, 1)))
    # Another program, whose sums may round otherwise.
    np.testing.assert_allclose(shown["excitation"], info["excitation"], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(well, rewards, rtol=1e-12)


def test_weakness_weakens_the_pull(healthy):
    """Of a muscle that its own moments act on: the same excitation, less than the moment."""
    strong, weak = (
        made("ElbowReach-v0", condition=condition, action_delay=False)
        for condition in ([], [{"name": "weakness", "severity": 0.5}])
    )
    actions = jnp.zeros((3, 6)).at[:, [strong.muscles.index(m) for m in BICEPS]].set(0.8)
    pull = [play(task, actions)[1]["moments"][-1, 0] for task in (strong, weak)]
    passive = [play(task, jnp.zeros((3, 6)))[1]["moments"][-1, 0] for task in (strong, weak)]
    assert pull[0] - passive[0] > 1.0
    # The weak arm accelerates less, so that its muscles are a little faster or slower.
    assert float((pull[1] - passive[1]) / (pull[0] - passive[0])) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("name", TASKS)
def test_every_id_takes_conditions(name):
    ill, well = (make_task(name, condition=c) for c in ([{"name": "weakness", "severity": 0.25}], []))
    a, b = (t.limb.params if hasattr(t, "limb") else t.params for t in (ill, well))
    np.testing.assert_allclose(a.max_isometric_force, 0.75 * b.max_isometric_force, rtol=1e-12)
    with pytest.raises(InputError, match="no condition 'weaknes'; did you mean 'weakness'"):
        make_task(name, condition=["weaknes"])


# --- what drives them ---------------------------------------------------------


def test_sources_are_honoured():
    sources = {"tibant_r": "recorded", "soleus_r": "passive"}
    task = made("AnkleTracking-v0", sources=sources, trial="foot_1", seconds=0.3)
    assert task.drive["tibant_r"] == "recorded: tibialis_anterior"
    assert task.drive["soleus_r"] == "passive"
    assert task.drive["gasmed_r"] == "action"
    assert set(task.action_names) == set(task.muscles) - sources.keys()
    assert "emg:tibialis_anterior" in task.observation_names
    found = [excitations(task, jnp.full((30, 9), a), episode_key(0)) for a in (0.2, 0.7)]
    place = task.muscles.index
    for action, excitation in zip((0.2, 0.7), found, strict=True):
        np.testing.assert_array_equal(excitation[:, place("soleus_r")], 0.0)
        np.testing.assert_allclose(excitation[:, place("gasmed_r")], action, rtol=1e-6)
    np.testing.assert_array_equal(found[0][:, place("tibant_r")], found[1][:, place("tibant_r")])
    assert np.ptp(found[0][:, place("tibant_r")]) > 0
    everyone = made("AnkleTracking-v0", seconds=0.3)
    assert set(everyone.drive.values()) == {"action"}
    order = [everyone.action_names.index(m) for m in everyone.muscles]
    actions = jnp.asarray(np.random.default_rng(0).uniform(0, 0.8, (30, 11)))
    np.testing.assert_allclose(excitations(everyone, actions, episode_key(0)), actions[:, np.array(order)], atol=1e-6)


def with_synergies(subject, seed=0):
    """The subject with two synergies that drive every muscle instead of its channels."""
    rng = np.random.default_rng(seed)
    vectors = rng.uniform(0.1, 1.0, (len(subject.model.channels), 2))
    basis = make_basis(("lift", "lower"), subject.model.channels, vectors)
    model, params, _ = add_synergies(subject.model, subject.params, basis, only=True)
    weights = rng.uniform(0.1, 0.5, np.shape(params.synergy_weight))
    params = dataclasses.replace(params, synergy_weight=weights)
    return dataclasses.replace(subject, model=model, params=params, start=None)


def test_synergy_commands_by_action_drive_the_leg(tmp_path):
    subject = with_synergies(right_leg())
    save_subject(tmp_path / "leg.json", subject)
    options = {"subject": str(tmp_path / "leg.json"), "trial": "swing_fast"}
    task = made("LegSwing-v0", sources="synergy", **options)
    assert task.action_names == subject.model.commands
    driven = subject.model.synergy_muscles
    assert all(task.drive[m].startswith("action by synergy: ") for m in driven if m in task.muscles)
    actions = jnp.asarray(np.random.default_rng(1).uniform(0, 0.8, (8, 2)))
    found = np.asarray(excitations(task, actions, episode_key(0)))
    # Commands have the subject's delay, as where a recording gives them: here whole steps.
    column = subject.model.channels.index(subject.model.commands[0])
    late = round(float(subject.params.electromechanical_delay[column]) / task.dt)
    assert 0 <= late < 4
    weight = dict(zip(subject.model.synergy_pairs, np.asarray(subject.params.synergy_weight), strict=True))
    for m in ("soleus_r", "vasint_r"):
        # Far from saturation an excitation is the weighted sum of the commands.
        expected = sum(weight[m, c] * np.asarray(actions)[:, i] for i, c in enumerate(subject.model.commands))
        np.testing.assert_allclose(found[late:, task.muscles.index(m)], expected[: 8 - late], rtol=0.02, atol=2e-3)
    mixed = make_task("LegSwing-v0", sources={"soleus_r": "synergy", "vasint_r": "passive"}, **options)
    assert mixed.drive["vasint_r"] == "passive"
    assert mixed.drive["tibant_r"] == "action"
    assert mixed.action_names[-2:] == subject.model.commands
    recorded = make_task("ElbowAssist-v0")
    assert set(recorded.drive.values()) >= {"recorded: biceps"}


def test_synergy_commands_by_action_reach_too(tmp_path, arm):
    """As the documentation of ``sources`` says."""
    subject = with_synergies(arm)
    save_subject(tmp_path / "arm.json", subject)
    own = {"subject": str(tmp_path / "arm.json"), "action_units": "emg"}
    task = made("ElbowReach-v0", **own, sources={"TRIlong": "synergy"})
    assert task.action_names[-2:] == subject.model.commands
    count = len(task.action_names)
    assert jax.eval_shape(task.baseline, jnp.zeros(len(task.observation_names))).shape == (count,)
    # Longer than the delay of the commands.
    found = excitations(task, jnp.zeros((20, count)).at[:, -2:].set(0.4), episode_key(0))
    assert float(found[-1, task.muscles.index("TRIlong")]) > 0.05


def test_noise_keeps_the_mean_and_changes_with_the_seed():
    plain, noisy = (made("ElbowAssist-v0", **WHOLE, emg_noise=noise) for noise in (0.0, 0.3))
    emg = quick(jax.vmap(lambda task, key: task.reset(key)[1].info["emg"], in_axes=(None, 0)))
    keys = jax.random.split(jax.random.key(0), 4000)
    clean, found = np.asarray(emg(plain, keys)), np.asarray(emg(noisy, keys))
    assert (clean == clean[0]).all()
    assert (clean[0] > 0).all()
    assert (found > 0).all()
    np.testing.assert_allclose(found.mean(axis=0), clean[0], rtol=4 * 0.3 / np.sqrt(4000))
    np.testing.assert_allclose(np.log(found).std(axis=0), 0.3, rtol=0.06)
    assert len(np.unique(found[:, 0])) > 3990
    np.testing.assert_array_equal(found, emg(noisy, keys))
    some = quick(lambda task, key: play_actions(task, jnp.zeros((20, 1)), key)[1]["emg"])
    first, again, other = (np.asarray(some(noisy, episode_key(seed))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
    ratio = first / np.asarray(some(plain, episode_key(1)))
    assert np.abs(np.corrcoef(ratio[:-1, 0], ratio[1:, 0])[0, 1]) < 0.6  # drawn anew at every sample


def test_recorded_emg_passes_gain_and_delay_of_the_subject(arm):
    """The excitations of ``predict_moments`` on the same recording and grid."""
    task = made("ElbowAssist-v0", **WHOLE, seconds=2.0)
    found = np.asarray(excitations(task, jnp.zeros((200, 1)), episode_key(0)))
    trial = load_trial(resolve_trial("lift_1"))
    still = np.zeros((len(trial.time), 1))
    whole = dataclasses.replace(
        trial,
        coordinates=(*trial.coordinates, "r_shoulder_elev"),
        q=np.concatenate([trial.q, still], axis=1),
        qd=np.concatenate([trial.qd, still], axis=1),
    )
    segment = make_segment(arm.model, whole, start=trial.time[0], stop=trial.time[0] + 2.05, lead_in=0.0, dt=task.dt)
    expected = np.asarray(recorded_excitations(arm.model, arm.params, segment.replay))
    order = [arm.model.muscles.index(m) for m in task.muscles]
    delays = np.asarray(arm.params.electromechanical_delay)
    assert delays.min() > 0.005
    late = int(np.ceil(delays.max() / task.dt)) + 2
    # Step k ends at sample k + 1 of the recording and is excited by it.
    np.testing.assert_allclose(found[late:], expected[late + 1 : 201][:, order], rtol=0, atol=1e-9)
    assert np.ptp(found[late:], axis=0).max() > 0.05


def test_frame_skip_holds_the_action():
    """Control steps of several physical ones: the same motion as single steps with the action held."""
    slow = made("ElbowReach-v0", frame_skip=4, dt=0.005)
    fast = made("ElbowReach-v0", dt=0.005)
    assert slow.dt == 4 * fast.dt
    assert slow.horizon * 4 == fast.horizon
    actions = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (20, 6)))
    a, b = play(slow, actions)[1], play(fast, jnp.repeat(actions, 4, axis=0))[1]
    for key in ("q", "qd", "activation", "fiber_length", "moments", "time"):
        np.testing.assert_allclose(a[key], b[key][3::4], rtol=1e-10, atol=1e-10, err_msg=key)


@pytest.mark.slow
def test_frame_skip_replays_every_sample():
    slow = made("ElbowAssist-v0", **WHOLE, frame_skip=2, dt=0.005, seconds=0.4, delay=0.0, bandwidth=1000.0)
    fast = made("ElbowAssist-v0", **WHOLE, dt=0.005, seconds=0.4, delay=0.0, bandwidth=1000.0)
    a, b = play(slow, jnp.zeros((40, 1)))[1], play(fast, jnp.zeros((80, 1)))[1]
    for key in ("q", "excitation", "target", "sample"):
        np.testing.assert_allclose(a[key], b[key][1::2], rtol=1e-10, atol=1e-10, err_msg=key)


# --- options that cannot be ---------------------------------------------------

BAD = {
    "id": ("ElbowReech-v0", {}, "no task 'ElbowReech-v0'; did you mean 'ElbowReach-v0'"),
    "option": ("ElbowReach-v0", {"efort_weight": 1.0}, "no option 'efort_weight'; did you mean 'effort_weight'"),
    "another's option": ("FesElbow-v0", {"help_weight": 1.0}, "has no option 'help_weight'"),
    "muscle": ("ElbowReach-v0", {"sources": {"BIClonk": "passive"}}, "'BIClonk'.*did you mean 'BIClong'"),
    "source": ("ElbowReach-v0", {"sources": {"BIClong": "magic"}}, "'BIClong' is driven by 'magic'"),
    "any source": ("ElbowReach-v0", {"sources": "magic"}, "magic"),
    "no channel": (
        "AnkleTracking-v0",
        {"sources": {"edl_r": "recorded"}, "trial": "foot_1"},
        "'edl_r' has no recorded",
    ),
    "no synergy": ("LegSwing-v0", {"sources": {"soleus_r": "synergy"}}, "'soleus_r' has no synergy"),
    "no synergies": ("LegSwing-v0", {"sources": "synergy"}, "synerg|policy"),
    "no recording": ("ElbowReach-v0", {"sources": {"BIClong": "recorded"}}, "replays no recording"),
    "unnamed trial": ("AnkleTracking-v0", {"sources": {"tibant_r": "recorded"}}, "name a recording in trial"),
    "all passive": ("ElbowReach-v0", {"sources": "passive"}, "no muscle is driven by the policy"),
    "unused": ("KneeExtension-v0", {"sources": "passive"}, "no muscle is driven by the policy"),
    "joint": ("KneeExtension-v0", {"subject": "demo_arm"}, "no coordinate 'knee_angle_r'"),
    "arm of a leg": ("ElbowReach-v0", {"subject": "right_leg"}, "no coordinate 'r_elbow_flex'"),
    "subject": ("ElbowReach-v0", {"subject": "nobody.json"}, "nobody.json"),
    "posterior": ("ElbowReach-v0", {"posterior": "nowhere.npz"}, "no posterior file 'nowhere.npz'"),
    "no posterior": ("LegSwing-v0", {"posterior": True}, "not calibrated"),
    "trial": ("LegSwing-v0", {"trial": "lift_1"}, "lack 'hip_flexion_r'"),
    "no trial": ("LegSwing-v0", {"trial": "nowhere"}, "no trial 'nowhere'"),
    "no trials": ("LegSwing-v0", {"trial": []}, r"trial is \[\]"),
    "channel": ("ElbowAssist-v0", {"trial": "reach_without"}, "reach_without"),
    "window": ("LegSwing-v0", {"start": 5.0, "stop": 6.0}, "window"),
    "short": ("LegSwing-v0", {"trial": "swing_fast", "start": 0.0, "stop": 0.015}, "window|shorter"),
    "condition": ("ElbowReach-v0", {"condition": [{"name": "paresis", "severety": 1}]}, "severety"),
    "conditions": ("ElbowReach-v0", {"condition": "paresis"}, "conditions are 'paresis'"),
    "dt": ("ElbowReach-v0", {"dt": 0.05}, "dt is 0.05 s; use a number from 0.001 to 0.02"),
    "zero dt": ("ElbowReach-v0", {"dt": 0.0}, "dt is 0"),
    "frame_skip": ("ElbowReach-v0", {"frame_skip": 0}, "frame_skip is 0"),
    "half frame_skip": ("ElbowReach-v0", {"frame_skip": 2.5}, "frame_skip is 2.5"),
    "seconds": ("ElbowReach-v0", {"seconds": -1.0}, "seconds is -1"),
    "nan": ("ElbowReach-v0", {"effort_weight": float("nan")}, "effort_weight is nan"),
    "text": ("ElbowReach-v0", {"effort_weight": "much"}, "effort_weight is 'much'"),
    "negative": ("KneeExtension-v0", {"effort_weight": -1.0}, "effort_weight is -1"),
    "noise": ("ElbowAssist-v0", {"emg_noise": -0.1}, "emg_noise is -0.1"),
    "synergies": ("LegSwing-v0", {"synergies": "both"}, "synergies is 'both'"),
    "tendon": ("ElbowReach-v0", {"tendon": "steel"}, "steel"),
    "shoulder": ("ElbowReach-v0", {"shoulder": float("nan")}, "shoulder"),
    "far shoulder": ("ElbowReach-v0", {"shoulder": 9.0}, "shoulder"),
    "hip": ("KneeExtension-v0", {"hip": "bent"}, "hip"),
    "electrode": ("FesElbow-v0", {"electrodes": {"a": {"BIClonk": 1.0}}}, "BIClonk"),
    "electrodes": ("FesElbow-v0", {"electrodes": {}}, "electrodes"),
    "shares": ("FesElbow-v0", {"electrodes": {"a": "BIClong"}}, "electrodes"),
    "policy beside a device": ("ElbowAssist-v0", {"sources": "policy"}, "device"),
    "list of sources": ("ElbowReach-v0", {"sources": ["BIClong"]}, "sources"),
    "unused trial": ("AnkleTracking-v0", {"trial": "foot_1"}, "trial"),
    "fatigue": ("FesElbow-v0", {"fatigue_rate": -1.0}, "rate"),
    "power": ("AnkleExo-v0", {"max_power": 0.0}, "max_power is 0"),
    "random start": ("ElbowAssist-v0", {"random_start": "yes"}, "random_start"),
    "symmetric": ("ElbowReach-v0", {"symmetric_action": "yes"}, "symmetric_action"),
    "negative delay": ("ElbowAssist-v0", {"delay": -0.01}, "delay is -0.01"),
    "noise of nothing": ("KneeExtension-v0", {"emg_noise": 0.1}, "emg_noise"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options(case):
    name, options, message = BAD[case]
    with pytest.raises(InputError, match=message):
        make_task(name, **options)


def test_a_trial_without_the_channel(tmp_path):
    trial = load_trial(resolve_trial("lift_1"))
    kept = [i for i, c in enumerate(trial.channels) if c != "biceps"]
    lacking = dataclasses.replace(trial, channels=tuple(trial.channels[i] for i in kept), emg=trial.emg[:, kept])
    lacking.save(tmp_path / "lacking.npz")
    with pytest.raises(InputError, match="biceps"):
        make_task("ElbowAssist-v0", trial=str(tmp_path / "lacking.npz"))


def test_a_subject_without_a_body(tmp_path, arm):
    save_subject(tmp_path / "plain.json", dataclasses.replace(arm, skeleton=None, muscle_points={}))
    with pytest.raises(InputError, match="has no skeleton, so nothing can move"):
        make_task("ElbowReach-v0", subject=str(tmp_path / "plain.json"))


def test_a_posterior_of_somebody_else(tmp_path, arm):
    leg = right_leg()
    save_people(tmp_path / "leg.npz", leg.model, jax.tree.map(lambda x: np.asarray(x)[None], leg.params))
    with pytest.raises(InputError, match=r"leg\.npz: max_isometric_force lacks 'BIClong'"):
        make_task("ElbowReach-v0", posterior=str(tmp_path / "leg.npz"))
    with pytest.raises(InputError, match=r"subject\.json: not a readable \.npz"):
        make_task("ElbowReach-v0", posterior=str(resolve_subject()))


def test_environments_pass_bad_options_on():
    with pytest.raises(InputError, match="no option 'num'"):
        NmsEnv(task="ElbowReach-v0", num=3)
    with pytest.raises(InputError, match="no task 'Elbow-v0'"):
        NmsEnv(task="Elbow-v0")
