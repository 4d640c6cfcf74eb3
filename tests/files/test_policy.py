"""A policy is the same in NumPy, in JAX, in its file; and it is refused where it does not belong."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import REPOSITORY

from nms_gym.errors import InputError
from nms_gym.files.inspection import describe
from nms_gym.files.policy import (
    ACTIVATIONS,
    SQUASHES,
    Policy,
    Shape,
    Weights,
    answer,
    described,
    load_policy,
    save_policy,
)


def made(activation="tanh", squash="tanh", **changes):
    rng = np.random.default_rng(0)
    sizes = (3, 5, 4, 2)
    layers = tuple(
        (
            (2 * rng.standard_normal((i, o)) / i**0.5).astype(np.float32),
            (0.3 * rng.standard_normal(o)).astype(np.float32),
        )
        for i, o in itertools.pairwise(sizes)
    )
    given = {
        "weights": Weights(np.array([0.5, -1, 2], np.float32), np.array([1, 0.4, 4], np.float32), layers),
        "shape": Shape(activation, squash),
        "task": "ElbowReach-v0",
        "observation_names": ("angle:elbow", "speed:elbow", "error:elbow"),
        "action_names": ("biceps", "triceps"),
        "action_low": np.array([0.0, 0.1], np.float32),
        "action_high": np.array([1.0, 0.7], np.float32),
        "options": {"tendon": "rigid"},
        "action_units": "excitation",
        "training": {"algorithm": "apg", "seed": 3, "steps": 1000},
        "scores": {"trained": {"return": 1.0, "sd": 0.5, "success": 0.25, "episodes": 4}},
    }
    return Policy(**{**given, **changes})


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("squash", SQUASHES)
def test_file_numpy_and_jax_answer_alike(activation, squash, tmp_path):
    policy = made(activation, squash)
    read = load_policy(save_policy(tmp_path / "policy.npz", policy))
    seen = np.random.default_rng(1).standard_normal((50, 3)).astype(np.float32)
    here = policy.act(seen)
    assert here.shape == (50, 2)
    assert (here >= policy.action_low - 1e-6).all()
    assert (here <= policy.action_high + 1e-6).all()
    assert np.ptp(here, axis=0).max() > 0.1
    np.testing.assert_array_equal(read.act(seen), here)
    np.testing.assert_allclose(read.act(seen[0]), here[0], rtol=1e-5)
    bounds = policy.action_low, policy.action_high
    traced = jax.jit(lambda o: answer(policy.weights, policy.shape, o, *bounds))(jnp.asarray(seen))
    np.testing.assert_allclose(traced, here, atol=1e-5)
    for field in ("task", "options", "observation_names", "action_names", "training", "scores", "shape"):
        assert getattr(read, field) == getattr(policy, field)


def test_answer_by_hand():
    """One hidden unit of each kind, written out."""
    layers = ((np.array([[2.0]], np.float32), np.array([0.5], np.float32)),
              (np.array([[1.5]], np.float32), np.array([-0.2], np.float32)))  # fmt: skip
    one = np.array([1.0], np.float32)
    policy = made(
        weights=Weights(0.3 * one, 2.0 * one, layers), observation_names=("a",), action_names=("b",),
        action_low=0 * one, action_high=2 * one,
    )  # fmt: skip
    hidden = np.tanh(2.0 * (1.1 - 0.3) / 2.0 + 0.5)
    expected = 1.0 + np.tanh(1.5 * hidden - 0.2)
    np.testing.assert_allclose(policy.act([1.1]), [expected], rtol=1e-6)


def test_a_file_is_read_and_used_without_jax(tmp_path):
    path = save_policy(tmp_path / "policy.npz", made())
    code = (
        "import sys; from nms_gym.files.policy import load_policy\n"
        f"p = load_policy({str(path)!r}); print(p.act([0.1, 0.2, 0.3]).tolist())\n"
        "assert 'jax' not in sys.modules"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    ).stdout
    np.testing.assert_allclose(eval(printed), made().act([0.1, 0.2, 0.3]), rtol=1e-6)


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    policy = made()
    policy.require(policy.observation_names, policy.action_names, "ElbowReach-v0")
    policy.require(policy.observation_names, policy.action_names, "ElbowReach-v0", "excitation")
    with pytest.raises(InputError, match="in units of excitation, those of mine in units of emg"):
        policy.require(policy.observation_names, policy.action_names, "mine", "emg")
    with pytest.raises(InputError, match="lacks 'speed:elbow'"):
        policy.require(("angle:elbow", "error:elbow"), policy.action_names, "mine")
    with pytest.raises(InputError, match="does not know 'target:elbow'"):
        policy.require((*policy.observation_names, "target:elbow"), policy.action_names, "mine")
    with pytest.raises(InputError, match="order"):
        policy.require(policy.observation_names[::-1], policy.action_names, "mine")
    with pytest.raises(InputError, match=r"actions: .*'biceps'"):
        policy.require(policy.observation_names, ("triceps",), "mine")
    with pytest.raises(InputError, match="expected 3"):
        policy.act([1.0, 2.0])


def test_what_is_no_policy_is_refused(tmp_path):
    path = tmp_path / "policy.npz"
    with pytest.raises(InputError, match="no such file"):
        load_policy(path)
    np.savez(path, x=np.zeros(3))
    with pytest.raises(InputError, match="no policy"):
        load_policy(path)
    save_policy(path, made())
    stored = dict(np.load(path))
    for change, message in (
        ({"weights_1": None}, "damaged|layers"),
        ({"mean": np.zeros(2, np.float32)}, "mean"),
        ({"sd": np.zeros(3, np.float32)}, "above 0"),
        ({"bias_2": np.full(2, np.nan, np.float32)}, "finite"),
        ({"record": np.array(str(stored["record"]).replace('"version": 1', '"version": 9'))}, "version"),
        ({"record": np.array(str(stored["record"]).replace("tanh", "sine"))}, "activation"),
        ({"record": np.array("{")}, "JSON"),
        ({"record": np.array("[1]")}, "format"),
        ({"weights_0": np.zeros((3, 5), int)}, "weights_0"),
    ):
        np.savez(path, **{k: v for k, v in (stored | change).items() if v is not None})  # type: ignore[arg-type]
        with pytest.raises(InputError, match=message):
            load_policy(path)


def test_what_it_says_of_itself(tmp_path):
    rows = dict(described(made()))
    assert rows["network"] == "3 - 5 - 4 - 2, tanh"
    assert "biceps" in rows["actions"]
    assert "0.25" in rows["score: trained"]
    assert rows["training: seed"] == "3"
    path = save_policy(tmp_path / "policy.npz", made())
    ((title, _, listed),) = describe(path)
    assert title == "policy.npz: policy"
    assert dict(listed) == rows
    with pytest.raises(dataclasses.FrozenInstanceError):
        made().task = "x"  # type: ignore[misc]
