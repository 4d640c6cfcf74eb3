"""The commands around training, on a small task; and brax's policies as ours."""

from __future__ import annotations

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_task import Push

from nms_gym.cli import main
from nms_gym.files.policy import Shape, answer, load_policy
from nms_gym.training.run import train

TASK = "training_task:make_push"
SMALL = ("--setting", "hidden=[8]", "--setting", "episodes=8", "--setting", "window=20", "--episodes", "16")


def command(monkeypatch, capsys, *arguments, code=0):
    """What a command prints."""
    monkeypatch.setattr(sys, "argv", ["nms-gym", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert (ended.value.code or 0) == code, printed.err
    return printed.out + printed.err


def test_train_evaluate_and_refuse(monkeypatch, capsys, tmp_path):
    run = functools.partial(command, monkeypatch, capsys)
    out = tmp_path / "push"
    printed = run("train", TASK, "--steps", 20_000, *SMALL, "--option", "mass=2.0", "-o", out)
    assert "trained" in printed
    assert "random" in printed
    policy = load_policy(out / "policy.npz")
    assert policy.options == {"mass": 2.0}
    assert policy.training["steps"] <= 20_000 + 160

    scores = tmp_path / "scores.json"
    printed = run("evaluate", TASK, "--policy", out / "policy.npz", "--episodes", 16, "-o", scores)
    assert "95 %" in printed
    rows = json.loads(scores.read_text())["scores"]
    mine = rows[str(out / "policy.npz")]
    assert mine["return"] == pytest.approx(policy.scores["trained"]["return"], rel=1e-5)
    assert rows["zero"]["low"] <= rows["zero"]["difference"] <= rows["zero"]["high"]

    again = run("train", TASK, "--steps", 20_000, *SMALL, "--option", "mass=2.0", "-o", out, "--resume")
    assert "trained" in again
    for arguments, message in (
        (("train", TASK, "--algo", "pop"), "no algorithm"),
        (("train", TASK, "--setting", "hidden"), "name=JSON"),
        (("train", "Elbow-v0"), "no task"),
        (("evaluate", "ElbowReach-v0", "--policy", out / "policy.npz"), "mass"),
        (("evaluate", TASK, "--policy", scores), "npz"),
    ):
        assert message in run(*arguments, code=2)


def test_a_trained_policy_is_filmed_only_where_it_belongs(monkeypatch, capsys, tmp_path):
    train(Push(), settings={"hidden": [8], "episodes": 8}, steps=1, points=1, episodes=2, out=tmp_path)
    printed = command(monkeypatch, capsys, "play", "ElbowReach-v0", "--policy", tmp_path / "policy.npz", code=2)
    assert "those of ElbowReach-v0 in units of excitation" in " ".join(printed.split())


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_policies_of_brax_answer_as_they_do_there(algorithm):
    pytest.importorskip("brax")
    from brax.training.acme import running_statistics, specs
    from brax.training.agents.ppo import networks as ppo
    from brax.training.agents.sac import networks as sac

    from nms_gym.envs.brax_env import weights_of

    make, infer, activation = {
        "ppo": (ppo.make_ppo_networks, ppo.make_inference_fn, "swish"),
        "sac": (sac.make_sac_networks, sac.make_inference_fn, "relu"),
    }[algorithm]
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):  # brax adds rows to matrices
        networks = make(3, 2, preprocess_observations_fn=running_statistics.normalize)
        seen = jax.random.normal(jax.random.key(1), (20, 3), jnp.float32)
        state = running_statistics.init_state(specs.Array((3,), jnp.dtype("float32")))
        state = running_statistics.update(state, 3.0 * seen + 1.0)
        params = networks.policy_network.init(jax.random.PRNGKey(0))
        act = infer(networks)((state, params), deterministic=True)
        theirs = jax.vmap(lambda o: act(o, jax.random.PRNGKey(2))[0])(seen)
    weights = weights_of(state, params, 2)
    ours = answer(weights, Shape(activation, "tanh"), np.asarray(seen), np.full(2, -1.0), np.full(2, 1.0))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.ptp(ours) > 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "settings", "noted"),
    [
        ("ppo", {"num_envs": 32, "num_minibatches": 4, "batch_size": 8, "num_updates_per_batch": 4}, 3),
        ("sac", {"num_envs": 16, "min_replay_size": 64, "max_replay_size": 4096, "grad_updates_per_step": 2}, 1),
    ],
)
def test_training_by_brax(algorithm, settings, noted):
    pytest.importorskip("brax")
    with jax.numpy_rank_promotion("allow"):
        result = train(Push(), algorithm=algorithm, settings=settings, steps=6_000, points=2, episodes=8)
    assert len(result.curve) == noted
    assert result.policy.training["algorithm"] == algorithm
    assert np.isfinite(result.policy.act([0.1, 0.0, 0.2])).all()
