"""MomentTracking: the task reproduces the model, the shells reproduce the task, and Gymnasium's rules are kept."""

from __future__ import annotations

import dataclasses
import functools
import json
import subprocess
import sys

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import nms_gym  # registers the environments
from nms_gym.envs import register
from nms_gym.envs.actuation import MuscleOptions
from nms_gym.envs.gymnasium_env import NmsEnv
from nms_gym.envs.moment_tracking import TrackingOptions, moment_tracking_task, with_params
from nms_gym.envs.packing import Packing
from nms_gym.envs.recordings import RecordingOptions
from nms_gym.envs.sources import params_for, with_action_channels
from nms_gym.envs.task import play_actions
from nms_gym.envs.vector_env import NmsVectorEnv
from nms_gym.errors import InputError
from nms_gym.files.subject import Subject, save_subject
from nms_gym.model.parameters import PARAMETER_KINDS, make_params
from nms_gym.model.replay import make_segment, predict_moments
from nms_gym.model.structure import NmsModel, Settings
from nms_gym.muscle.geometry import PolynomialPaths, SpanGroup, lengths_and_moment_arms
from nms_gym.recording.trial import Trial

ID = "nms_gym/MomentTracking-v0"
MUSCLES = ("flexor", "extensor", "deep", "silent")
COORDINATES = ("elbow", "shoulder")
CHANNELS = ("FLEX", "EXT")
DT = 0.01
DEEP = TrackingOptions(actuated=["deep"])

run, predict = jax.jit(play_actions), jax.jit(predict_moments)


def make_paths() -> PolynomialPaths:
    # l = l0 - r q + curvature; moment arms of 2 to 5 cm that vary with the angle.
    both = np.array([[0.30, -0.04, -0.02, 0.004, 0.002, 0.003], [0.32, 0.03, 0.03, -0.003, 0.001, 0.002]])
    one = np.array([[0.28, -0.03, 0.002], [0.31, 0.025, 0.003]])
    return PolynomialPaths(
        coefficients=(both, one),
        domain=np.array([[-1.0, 1.0], [-1.2, 1.2]]),
        muscles=MUSCLES,
        coordinates=COORDINATES,
        groups=(SpanGroup((0, 1), (0, 1), 2), SpanGroup((2, 3), (0,), 2)),
    )


def make_subject(**settings) -> Subject:
    model = NmsModel(
        muscles=MUSCLES,
        coordinates=COORDINATES,
        channels=CHANNELS,
        settings=Settings(**settings),
        channel_weights=np.array([[1.0, 0.0], [0.1, 0.9], [0.0, 0.0], [0.0, 0.0]]),
        paths=make_paths(),
    )
    params = make_params(
        model,
        {
            "max_isometric_force": np.array([800.0, 1100.0, 500.0, 300.0]),
            "optimal_fiber_length": np.array([0.10, 0.11, 0.08, 0.12]),
            "tendon_slack_length": np.array([0.20, 0.21, 0.20, 0.19]),
            "pennation_at_optimal": np.array([0.05, 0.2, 0.1, 0.3]),
            "shape_factor": np.array([-0.5, -1.5, -1.0, -0.2]),
            "emg_gain": np.array([0.9, 1.2]),
            "electromechanical_delay": np.array([0.034, 0.051]),
        },
        dtype=np.float64,
    )
    return Subject("test arm", model, jax.tree.map(np.asarray, params), synthetic=True)


def make_trial(samples=40, tables=False) -> Trial:
    time = 1.0 + DT * np.arange(samples)
    q = np.stack([0.5 * np.sin(4 * time), 0.6 * np.cos(3 * time)], axis=1)
    qd = np.stack([2.0 * np.cos(4 * time), -1.8 * np.sin(3 * time)], axis=1)
    emg_time = np.arange(time[0] - 0.3, time[-1] + 0.02, 0.002)
    emg = np.stack([0.4 + 0.35 * np.sin(9 * emg_time), 0.3 + 0.29 * np.cos(7 * emg_time)], axis=1)
    trial = Trial(
        name="made up",
        time=time,
        coordinates=COORDINATES,
        q=q,
        qd=qd,
        channels=CHANNELS,
        emg_time=emg_time,
        emg=emg,
        moment_coordinates=COORDINATES,
        moments=np.stack([8 * np.sin(5 * time), 5 * np.cos(6 * time)], axis=1),
        synthetic=True,
    )
    if not tables:
        return trial
    # Not the model's own geometry, and in another order than the model's muscles.
    lengths, arms = jax.vmap(lengths_and_moment_arms, in_axes=(None, 0))(make_paths(), jnp.asarray(q))
    lengths, arms = np.asarray(lengths) + 0.003, np.asarray(arms) * 1.1
    return dataclasses.replace(
        trial,
        muscles=MUSCLES[::-1],
        lengths=lengths[:, ::-1].copy(),
        velocities=-np.einsum("td,tdm->tm", qd, arms)[:, ::-1].copy(),
        moment_arms=arms[:, :, ::-1].copy(),
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Keyword arguments of environments on a saved subject and trial."""
    folder = tmp_path_factory.mktemp("files")
    save_subject(folder / "subject.json", make_subject())
    make_trial(tables=True).save(folder / "trial.npz")
    return {"trial": str(folder / "trial.npz"), "subject": str(folder / "subject.json")}


def episode(env, actions=None, seed=3):
    """Everything an episode returns; random actions by default."""
    env.action_space.seed(seed)
    observation, info = env.reset(seed=seed)
    records = [(observation, 0.0, False, False, info)]
    for k in range(10_000):
        records.append(env.step(env.action_space.sample() if actions is None else actions[k]))
        if records[-1][2] or records[-1][3]:
            return records
    raise AssertionError("the episode does not end")


def assert_equal(a, b, where=""):
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype, where
        np.testing.assert_array_equal(a, b, err_msg=where)
    else:
        assert a == b or (a != a and b != b), where


# --- the task against the model ------------------------------------------


@pytest.mark.parametrize("tables", [False, True], ids=["paths", "tables"])
@pytest.mark.parametrize(
    "settings",
    [
        {"tendon": "elastic", "integrator": "bdf2"},
        {"tendon": "elastic", "integrator": "backward_euler", "activation": "first_order"},
        {"tendon": "rigid"},
    ],
    ids=lambda settings: "-".join(settings.values()),
)
def test_recorded_excitations_reproduce_predict_moments(tmp_path, settings, tables):
    subject, trial = make_subject(**settings), make_trial(tables=tables)
    save_subject(tmp_path / "subject.json", subject)
    trial.save(tmp_path / "trial.npz")
    paths = {"trial": str(tmp_path / "trial.npz"), "subject": str(tmp_path / "subject.json")}
    env = NmsEnv(**paths, start=1.05, stop=1.3, precision="float64")
    records = episode(env, np.zeros((100, 2)))
    # The reference is the subject's own model, which knows nothing of action channels.
    segment = make_segment(subject.model, trial, start=1.05, stop=1.3, lead_in=0.0)
    expected = predict(subject.model, subject.params, segment.replay)
    assert len(records) - 1 == len(segment.time) == 26
    moments = np.array([info["moments"] for *_, info in records[1:]])
    assert np.abs(expected.moments).max() > 1.0
    np.testing.assert_allclose(moments, expected.moments, rtol=0, atol=1e-9)
    excitation = np.array([info["excitation"] for *_, info in records[1:]])
    np.testing.assert_allclose(excitation, expected.excitation, rtol=0, atol=1e-12)
    np.testing.assert_array_equal([info["sample"] for *_, info in records[1:]], np.arange(26))
    assert moments.dtype == np.float64


def test_task_without_actions_reproduces_predict_moments():
    subject, trial = make_subject(tendon="rigid"), make_trial(tables=True)
    task = moment_tracking_task(subject, trial, tracking=TrackingOptions(actuated=[]))
    _, infos = run(task, jnp.zeros((task.horizon, 0)))
    segment = make_segment(subject.model, trial, lead_in=0.0)
    expected = predict(subject.model, subject.params, segment.replay).moments
    np.testing.assert_allclose(infos["moments"], expected, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(infos["reward_effort"], 0.0)
    assert task.drive["deep"] == "passive"


def test_a_trial_may_bring_no_joint_angles():
    trial = make_trial(tables=True)
    trial = dataclasses.replace(trial, coordinates=(), q=trial.q[:, :0], qd=trial.qd[:, :0])
    task = moment_tracking_task(make_subject(), trial)
    assert not [name for name in task.observation_names if name.startswith(("angle", "speed"))]
    _, first = jax.eval_shape(lambda task: task.reset_at(jnp.int32(0), jnp.int32(0)), task)
    assert first.observation.shape == (len(task.observation_names),) == task.observation_bounds[0].shape


def test_an_action_is_an_undelayed_excitation_of_its_muscle_only():
    task = moment_tracking_task(make_subject(tendon="rigid"), make_trial(tables=True), tracking=DEEP)
    assert task.drive == {
        "flexor": "recorded: FLEX",
        "extensor": "recorded: FLEX, EXT",
        "deep": "action",
        "silent": "passive",
    }
    actions = np.random.default_rng(0).uniform(0, 0.7, (task.horizon, 1))
    _, still = run(task, jnp.zeros_like(actions))
    _, moved = run(task, jnp.asarray(actions))
    excitation = np.asarray(moved["excitation"])
    np.testing.assert_allclose(excitation[:, 2], actions[:, 0], atol=1e-6)
    np.testing.assert_array_equal(excitation[:, 3], 0.0)
    np.testing.assert_array_equal(excitation[:, :2], still["excitation"][:, :2])
    np.testing.assert_array_equal(moved["activation"][:, [0, 1, 3]], still["activation"][:, [0, 1, 3]])
    # "deep" crosses the elbow alone.
    np.testing.assert_array_equal(moved["moments"][:, 1], still["moments"][:, 1])
    assert np.abs(moved["moments"][:, 0] - still["moments"][:, 0]).max() > 0.5


def test_reward_is_what_is_documented():
    trial = make_trial(tables=True)
    task = moment_tracking_task(make_subject(tendon="rigid"), trial, muscles=MuscleOptions(effort_weight=0.3))
    actions = np.random.default_rng(1).uniform(0, 1, (task.horizon, 2))
    rewards, infos = run(task, jnp.asarray(actions))
    assert trial.moments is not None
    error = (np.asarray(infos["moments"]) - trial.moments) / trial.moments.std(axis=0)
    np.testing.assert_allclose(rewards, -(error**2).mean(axis=1) - 0.3 * (actions**2).mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(infos["error"], infos["moments"] - trial.moments, rtol=1e-12)
    np.testing.assert_array_equal(infos["measured"], trial.moments)
    np.testing.assert_allclose(infos["time"], trial.time - trial.time[0], atol=1e-12)
    assert np.abs(infos["residual"]).max() < 1e-8


def test_observation_is_what_its_names_say(files):
    env = NmsEnv(**files, precision="float64", start=1.14)
    trial, names = make_trial(), env.observation_names
    assert trial.moments is not None
    records = episode(env)
    assert env.observation_space.shape == (len(names),)
    values = [dict(zip(names, record[0].tolist(), strict=True)) for record in records]
    scale = trial.moments[14:].std(axis=0)
    for k in (0, 1, 7, 25):
        info = records[k][4]
        expected = {"phase": k / 26}
        for i, c in enumerate(COORDINATES):
            expected[f"angle:{c}"] = trial.q[14 + k, i]
            expected[f"speed:{c}"] = trial.qd[14 + k, i] / 10
            for suffix, ahead in (("", 0), ("+20ms", 2), ("+50ms", 5)):
                expected[f"target:{c}{suffix}"] = trial.moments[min(14 + k + ahead, 39), i] / scale[i]
            expected[f"moment:{c}"] = info["moments"][i] / scale[i]
        for i, m in enumerate(MUSCLES):
            expected[f"activation:{m}"] = info["activation"][i]
        found = {name: value for name, value in values[k].items() if not name.startswith("fiber_length")}
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert values[-1]["phase"] == 1.0


def test_reset_is_rest(files):
    """Before the first step: the moments of fibers in equilibrium, which the first step hardly moves."""
    env = NmsEnv(**files, precision="float64")
    _, info = env.reset(seed=0)
    first = env.step(np.zeros(2))[4]
    assert info["sample"] == first["sample"] == 0
    assert np.abs(info["moments"]).max() > 1.0
    np.testing.assert_allclose(info["moments"], first["moments"], rtol=0.2)
    np.testing.assert_array_equal(info["measured"], first["measured"])


# --- gradients ------------------------------------------------------------

# Kinds that cannot matter: the tendon's strain when it is rigid, the time constants of the other activation model.
UNUSED = {
    "rigid": {"tendon_strain_at_one_norm_force"},
    "elastic": set(),
    "second_order": {"activation_time_constant", "deactivation_time_constant"},
    "first_order": {"filter_time_constant_1", "filter_time_constant_2"},
}


@pytest.mark.parametrize(
    ("tendon", "activation"), [("elastic", "second_order"), ("elastic", "first_order"), ("rigid", "second_order")]
)
def test_gradients_of_the_return(tendon, activation):
    subject = make_subject(tendon=tendon, activation=activation, tendon_iterations=7)
    task = moment_tracking_task(
        subject,
        make_trial(20, tables=True),
        tracking=DEEP,
        muscles=MuscleOptions(effort_weight=0.1),
    )
    actions = jnp.asarray(np.random.default_rng(2).uniform(0.1, 0.9, (20, 1)))

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def differentiated(params, actions):
        return play_actions(with_params(task, subject.model, params), actions)[0].sum()

    def total(params, actions):
        return differentiated(params, actions)[0]  # one program instead of two: compiling is what takes time

    params = jax.tree.map(jnp.asarray, subject.params)
    by_params, by_actions = differentiated(params, actions)[1]
    for kind in PARAMETER_KINDS:
        value, gradient = getattr(params, kind), getattr(by_params, kind)
        # This subject has no synergies; test_synergies has their weights.
        used = kind not in UNUSED[tendon] | UNUSED[activation] | {"synergy_weight"}
        assert bool(jnp.any(gradient != 0)) == used, kind
        for i in range(len(value)):
            step = 1e-5 * max(abs(float(value[i])), 1e-3)
            high, low = (dataclasses.replace(params, **{kind: value.at[i].add(s)}) for s in (step, -step))
            difference = (total(high, actions) - total(low, actions)) / (2 * step)
            largest = float(jnp.abs(gradient).max())
            np.testing.assert_allclose(gradient[i], difference, rtol=1e-5, atol=1e-5 * largest, err_msg=kind)
    for k in (0, 11, 19):
        high, low = (actions.at[k, 0].add(s) for s in (1e-5, -1e-5))
        difference = (total(params, high) - total(params, low)) / 2e-5
        assert float(difference) != 0.0
        np.testing.assert_allclose(by_actions[k, 0], difference, rtol=1e-5)


def test_gradient_ascent_improves_the_return():
    task = moment_tracking_task(
        make_subject(tendon="rigid"), make_trial(tables=True), muscles=MuscleOptions(effort_weight=0.0)
    )
    value = jax.jit(jax.value_and_grad(lambda actions: play_actions(task, actions)[0].sum()))
    actions = jnp.full((task.horizon, 2), 0.3)
    first, _ = value(actions)
    for _ in range(20):
        _, gradient = value(actions)
        actions = jnp.clip(actions + 0.1 * gradient / jnp.abs(gradient).max(), 0.0, 1.0)
    assert value(actions)[0] > first + 1.0


# --- Gymnasium's rules ------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"random_start": True, "symmetric_action": True, "precision": "float64"}])
def test_check_env(files, options):
    env = gymnasium.make(ID, **files, **options, disable_env_checker=True)
    check_env(env.unwrapped)
    env.close()
    env.close()


def test_the_demo_is_the_default():
    env = gymnasium.make(ID, disable_env_checker=True).unwrapped
    assert isinstance(env, NmsEnv)
    assert "action" in env.drive.values()
    check_env(env)


def test_identical_seeds_give_identical_episodes(files):
    env = gymnasium.make(ID, **files, random_start=True)
    first, again = episode(env), episode(env)
    assert_equal(first, again)
    assert_equal(first, episode(gymnasium.make(ID, **files, random_start=True)))
    starts = {env.reset(seed=seed)[1]["sample"] for seed in range(30)}
    assert len(starts) > 5
    assert max(starts) <= 19


def test_random_start_continues_like_any_episode(files):
    """From a random phase, what is produced soon agrees with the episode from the beginning."""
    env = NmsEnv(**files, random_start=True, precision="float64")
    whole = NmsEnv(**files, precision="float64")
    reference = [record[4] for record in episode(whole, np.zeros((100, 2)))][1:]
    infos = [record[4] for record in episode(env, np.zeros((100, 2)), seed=5)][1:]
    assert infos[0]["sample"] > 3
    assert infos[-1]["sample"] == 39
    last = reference[-1]["moments"]
    np.testing.assert_allclose(infos[-1]["moments"], last, atol=0.1)
    np.testing.assert_array_equal(infos[0]["excitation"], reference[infos[0]["sample"]]["excitation"])


def test_types_and_spaces(files):
    env = NmsEnv(**files)
    for observation, reward, terminated, truncated, info in episode(env):
        assert env.observation_space.contains(observation)
        assert type(reward) is float
        assert type(terminated) is type(truncated) is bool
        assert info["moments"].dtype == np.float32
    assert np.isfinite(env.observation_space.low).all()
    # The process runs in float64; the environment does not.
    assert env.task.params.max_isometric_force.dtype == np.float32
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(env.action_space.sample())


def test_float32_follows_float64(files):
    single, double = (NmsEnv(**files, precision=p) for p in ("float32", "float64"))
    for a, b in zip(episode(single), episode(double), strict=True):
        np.testing.assert_allclose(a[4]["moments"], b[4]["moments"], atol=2e-3)


def test_symmetric_actions_are_the_same_task(files):
    plain, symmetric = NmsEnv(**files), NmsEnv(**files, symmetric_action=True)
    assert symmetric.action_space.low.tolist() == [-1.0, -1.0]
    actions = np.random.default_rng(0).integers(0, 9, (100, 2)).astype(np.float32) / 8  # exact in binary
    for a, b in zip(episode(plain, actions), episode(symmetric, 2 * actions - 1), strict=True):
        np.testing.assert_allclose(a[1], b[1], rtol=1e-6)


def test_actions_are_clipped_and_checked(files):
    env = NmsEnv(**files)
    env.reset(seed=0)
    over = env.step(np.array([7.0, -3.0]))
    env.reset(seed=0)
    assert_equal(over, env.step(np.array([1.0, 0.0], dtype=np.float32)))
    with pytest.raises(InputError, match="not finite"):
        env.step(np.array([np.nan, 0.0]))
    with pytest.raises(InputError, match="shape"):
        env.step(np.zeros(3))


def test_spec_survives_json(files):
    env = gymnasium.make(ID, **files, actuated=["silent"], coordinates=["elbow"], start=1.1, stop=1.3)
    assert env.spec is not None
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert_equal(episode(env), episode(again))
    assert json.loads(env.spec.to_json())["kwargs"]["actuated"] == ["silent"]
    assert again.unwrapped.coordinates == ("elbow",)  # type: ignore[attr-defined]
    assert again.unwrapped.action_names == ("silent",)  # type: ignore[attr-defined]


def test_environments_of_one_structure_share_programs(files):
    first, second = NmsEnv(**files), NmsEnv(**files, effort_weight=1.0)
    assert first._programs is second._programs
    assert first._programs is not NmsEnv(**files, actuated=["deep"])._programs


def test_packing_is_exact():
    task = moment_tracking_task(make_subject(), make_trial(tables=True))
    for large in (4096, 10):
        packing = Packing.of(task, large)
        parts = packing.pack(task)
        assert (len(parts) > 1) == (large == 10)
        assert_equal(
            [np.asarray(x) for x in jax.tree.leaves(packing.unpack(parts))],
            [np.asarray(x) for x in jax.tree.leaves(task)],
        )


def test_render(files):
    env = gymnasium.make(ID, **files, render_mode="rgb_array")
    env.reset(seed=0)
    blank = env.render()
    for _ in range(20):
        env.step(env.action_space.sample())
    frame = env.render()
    assert isinstance(blank, np.ndarray)
    assert isinstance(frame, np.ndarray)
    assert frame.dtype == np.uint8
    assert frame.ndim == 3
    assert frame.shape == (*blank.shape[:2], 3)
    assert (frame != blank).any()
    env.close()
    env.close()


# --- many at once -----------------------------------------------------------

N = 9  # more than are restarted in one go when not all are


def aligned(infos, num_envs):
    """Infos with every number as float64: Gymnasium's own vector environments choose their dtypes by Python type."""
    plain = {}
    for key, value in infos.items():
        if key.endswith("drive"):
            continue
        if key == "final_obs":
            plain[key] = [None if x is None else x.tolist() for x in value]
        elif isinstance(value, dict):
            plain[key] = aligned(value, num_envs)
        else:
            assert len(value) == num_envs
            plain[key] = np.asarray(value, dtype=np.float64)
    return plain


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP], ids=lambda mode: mode.value)
@pytest.mark.parametrize("random_start", [False, True], ids=["fixed", "random"])
def test_vector_environment_equals_single_ones(files, mode, random_start):
    options = {**files, "random_start": random_start, "precision": "float64", "stop": 1.2}
    many = gymnasium.make_vec(
        ID, N, vectorization_mode="vector_entry_point", autoreset_mode=mode, info="all", **options
    )
    singles = gymnasium.make_vec(ID, N, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, **options)
    assert isinstance(many, NmsVectorEnv)
    assert many.metadata["autoreset_mode"] is mode
    assert many.single_action_space == singles.single_action_space
    assert many.observation_space == singles.observation_space
    for seed in (7, None):
        pairs = [(many.reset(seed=seed), singles.reset(seed=seed))]
        many.action_space.seed(1)
        for _ in range(90):
            actions = many.action_space.sample()
            pairs.append((many.step(actions), singles.step(actions)))
        ends = 0
        for (a, b), (c, d) in [((x[0], x[-1]), (y[0], y[-1])) for x, y in pairs]:
            np.testing.assert_allclose(a, c, rtol=1e-6, atol=1e-6)
            assert many.observation_space.contains(a)
            b, d = aligned(b, N), aligned(d, N)
            ends += "final_obs" in b
            assert b.keys() == d.keys()
            for key in b:
                if key == "final_obs":
                    assert [x is None for x in b[key]] == [x is None for x in d[key]]
                    for x, y in zip(b[key], d[key], strict=True):
                        assert x == (y if y is None else pytest.approx(y, rel=1e-6, abs=1e-6))
                elif key == "final_info":
                    assert b[key].keys() == d[key].keys()
                    for inner in b[key]:
                        np.testing.assert_allclose(b[key][inner], d[key][inner], rtol=1e-9, atol=1e-9)
                else:
                    np.testing.assert_allclose(b[key], d[key], rtol=1e-9, atol=1e-9, err_msg=key)
        for x, y in pairs[1:]:
            np.testing.assert_allclose(x[1], y[1], rtol=1e-9)
            assert x[1].dtype == y[1].dtype == np.float64
            for flags in (2, 3):
                assert_equal(x[flags], y[flags])
        assert (ends > 0) == (mode is AutoresetMode.SAME_STEP)
        assert any(x[3].any() for x, _ in pairs[1:])


def test_vector_seeds(files):
    options = {**files, "random_start": True, "precision": "float64"}
    env = gymnasium.make_vec(ID, N, **options)  # our own is the default
    assert isinstance(env, NmsVectorEnv)
    first = env.reset(seed=11)
    assert_equal(first, env.reset(seed=list(range(11, 11 + N))))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="2 seeds for 9"):
        env.reset(seed=[1, 2])  # type: ignore[arg-type]
    single = NmsEnv(**options)
    for i in range(N):
        observation, info = single.reset(seed=11 + i)
        np.testing.assert_allclose(first[0][i], observation, rtol=1e-6, atol=1e-6)
        assert first[1]["sample"][i] == info["sample"]
    assert first[1]["drive"]["deep"].tolist() == ["action"] * N


def test_vector_shares_no_arrays(files):
    env = NmsVectorEnv(N, **files, precision="float64", autoreset_mode="SameStep")
    results = [env.reset(seed=0), *(env.step(env.action_space.sample()) for _ in range(41))]

    def arrays(value):
        if isinstance(value, np.ndarray):
            return [value]
        items = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
        return [array for item in items for array in arrays(item)]

    found = [array for result in results for array in arrays(result)]
    assert all(array.flags.writeable for array in found)
    for i, a in enumerate(found[:60]):
        assert not any(np.shares_memory(a, b) for b in found[i + 1 :])


def test_vector_render_and_close(files):
    env = gymnasium.make_vec(ID, N, **files, precision="float64", render_mode="rgb_array")
    env.reset(seed=0)
    for _ in range(45):
        env.step(env.action_space.sample())
    frames = env.render()
    assert frames is not None
    assert [frame.dtype for frame in frames] == [np.uint8] * N
    env.close()
    env.close()
    with pytest.raises(gymnasium.error.ResetNeeded):
        NmsVectorEnv(2, **files).step(np.zeros((2, 2)))


@pytest.mark.slow
def test_asynchronous_vectorisation_in_fresh_processes(files):
    env = gymnasium.make_vec(ID, 2, vectorization_mode="async", vector_kwargs={"context": "spawn"}, **files)
    sync = gymnasium.make_vec(ID, 2, vectorization_mode="sync", **files)
    np.testing.assert_allclose(env.reset(seed=0)[0], sync.reset(seed=0)[0], rtol=1e-6)
    actions = np.full((2, 2), 0.5, np.float32)
    np.testing.assert_allclose(env.step(actions)[0], sync.step(actions)[0], rtol=1e-5, atol=1e-5)
    env.close()


# --- bad input --------------------------------------------------------------

BAD_OPTIONS = {
    "no trial": ({"trial": "nowhere.npz"}, "nowhere.npz"),
    "no subject": ({"subject": "nobody.json"}, "nobody.json"),
    "unknown muscle": ({"actuated": ["deeq"]}, "did you mean 'deep'"),
    "driven muscle": ({"actuated": ["flexor"]}, "'flexor'.*'FLEX'.*'deep', 'silent'"),
    "twice": ({"actuated": ["deep", "deep"]}, "more than once"),
    "nothing": ({"actuated": []}, "'deep', 'silent'.*moment_tracking_task"),
    "not a list": ({"actuated": "deep"}, "list of muscle names"),
    "coordinate": ({"coordinates": ["wrist"]}, "wrist"),
    "window": ({"start": 3.0}, "window"),
    "short window": ({"start": 1.0, "stop": 1.02}, "at least 5"),
    "effort": ({"effort_weight": -1.0}, "effort_weight is -1"),
    "precision": ({"precision": "float16"}, "float16.*float32"),
    "render": ({"render_mode": "ansi"}, "ansi"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
@pytest.mark.parametrize("kind", [NmsEnv, NmsVectorEnv])
def test_bad_options(files, name, kind):
    options, message = BAD_OPTIONS[name]
    with pytest.raises(InputError, match=message):
        kind(**{**files, **options})


def test_bad_vector_options(files):
    with pytest.raises(InputError, match="num_envs is 0"):
        NmsVectorEnv(0, **files)
    with pytest.raises(InputError, match=r"Sometimes.*NextStep"):
        NmsVectorEnv(2, **files, autoreset_mode="Sometimes")


def test_unfit_trials():
    subject, trial = make_subject(), make_trial(tables=True)
    with pytest.raises(InputError, match="no measured moments"):
        moment_tracking_task(subject, dataclasses.replace(trial, moments=None))
    with pytest.raises(InputError, match="EXT"):
        moment_tracking_task(subject, dataclasses.replace(trial, channels=("FLEX", "TRI")))
    driven = dataclasses.replace(subject.model, channel_weights=np.ones((4, 2)))
    task = moment_tracking_task(dataclasses.replace(subject, model=driven), trial)
    assert task.actuation.muscles == ()


def test_action_channels_leave_the_subject_alone():
    subject = make_subject()
    model = with_action_channels(subject.model, ["silent", "deep"])
    params = params_for(model, subject.model, subject.params)
    assert model.channels == (*CHANNELS, "action:silent", "action:deep")
    expected = np.array([[0, 0], [0, 0], [0, 1], [1, 0]])
    np.testing.assert_array_equal(np.asarray(model.channel_weights)[:, 2:], expected)
    np.testing.assert_array_equal(params.emg_gain, [0.9, 1.2, 1.0, 1.0])
    np.testing.assert_array_equal(params.electromechanical_delay, [0.034, 0.051, 0.0, 0.0])
    assert subject.model.channels == CHANNELS
    assert subject.params.emg_gain.shape == (2,)
    task = moment_tracking_task(subject, make_trial(tables=True))
    np.testing.assert_array_equal(
        with_params(task, subject.model, subject.params).params.emg_gain, [0.9, 1.2, 1.0, 1.0]
    )


# --- registration -----------------------------------------------------------


def test_registration_is_silent_and_idempotent(capfd):
    before = dict(gymnasium.registry)
    register()
    assert gymnasium.registry == before
    assert ID in before
    assert nms_gym.__doc__
    assert capfd.readouterr() == ("", "")


def test_importing_loads_nothing_heavy():
    code = (
        "import sys, nms_gym, gymnasium; assert 'nms_gym/MomentTracking-v0' in gymnasium.registry;"
        "bad = {'jax', 'calibration', 'brax', 'matplotlib', 'scipy'} & set(sys.modules); assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_making_one_loads_neither_calibration_nor_brax(files):
    code = (
        f"import sys, gymnasium, nms_gym; e = gymnasium.make('{ID}', **{files!r}); e.reset(seed=0);"
        "bad = {'calibration', 'brax', 'matplotlib.pyplot'} & set(sys.modules); assert not bad, bad;"
        "import jax; assert not jax.config.jax_enable_x64"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_core_needs_no_gymnasium_shell():
    """jit, vmap over keys and params, and a scan, on the pure functions."""
    task = moment_tracking_task(
        make_subject(tendon="rigid"), make_trial(tables=True), window=RecordingOptions(random_start=True)
    )
    keys = jax.random.split(jax.random.key(0), 5)
    states, first = jax.jit(jax.vmap(type(task).reset, in_axes=(None, 0)))(task, keys)
    low, high = task.observation_bounds
    assert first.observation.shape == (5, len(low))
    assert len(set(np.asarray(first.info["sample"]).tolist())) > 1
    step = jax.jit(jax.vmap(type(task).step, in_axes=(None, 0, 0)))
    states, out = step(task, states, jnp.full((5, 2), 0.2))
    assert out.reward.shape == out.terminated.shape == out.truncated.shape == (5,)
    assert bool(np.all((np.asarray(out.observation) >= low) & (np.asarray(out.observation) <= high)))
    np.testing.assert_array_equal(states.sample, out.info["sample"] + 1)
