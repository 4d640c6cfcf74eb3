"""EMG-assisted prediction: meets the moments, leaves the EMG no further than it must, and finds what was taken away."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calibration.excitations.assisted import Assistance, assist, corrected
from calibration.validation import predict_segment
from nms_gym.errors import InputError
from nms_gym.files.subject import default_subject, resolve_trial
from nms_gym.model.replay import make_segment, predict_moments, recorded_excitations
from nms_gym.recording.trial import load_trial


@pytest.fixture(scope="module")
def person():
    subject = default_subject()
    segment = make_segment(subject.model, load_trial(resolve_trial()), start=1.0, stop=1.8, lead_in=0.2)
    return subject, segment


@pytest.fixture(scope="module")
def assisted(person):
    subject, segment = person
    return assist(subject.model, subject.params, segment)


def test_meets_the_moments_with_small_corrections(person, assisted):
    subject, segment = person
    plain = predict_segment(subject.model, subject.params, segment)
    rows = segment.scored
    before = np.sqrt(np.mean((plain.moments - segment.measured)[rows] ** 2, axis=0))
    after = np.sqrt(np.mean((assisted.output.moments - segment.measured)[rows] ** 2, axis=0))
    assert assisted.converged
    assert assisted.cost < 0.1 * assisted.start_cost
    assert np.all(after < 0.35 * before)
    change = (assisted.adjusted - assisted.recorded)[rows]
    assert 0.001 < np.sqrt(np.mean(change**2)) < 0.15
    assert assisted.adjusted.min() >= 0
    assert assisted.adjusted.max() <= 1
    # What is reported is what the excitations give.
    with jax.enable_x64(True):
        again = predict_moments(
            subject.model, subject.params, segment.replay, excitation=jnp.asarray(assisted.adjusted)
        )
    np.testing.assert_allclose(assisted.output.moments, again.moments, atol=1e-9)


def test_leaves_right_excitations_alone(person):
    """Where EMG alone explains the moments, nothing is corrected but what the corner at zero rounds off."""
    subject, segment = person
    plain = predict_segment(subject.model, subject.params, segment)
    exact = dataclasses.replace(segment, measured=np.asarray(plain.moments))
    found = assist(subject.model, subject.params, exact)
    assert np.abs(found.adjusted - found.recorded).max() < 0.02
    np.testing.assert_allclose(found.output.moments[segment.scored], plain.moments[segment.scored], atol=0.1)


def test_tolerances_decide_who_gives_way(person, assisted):
    subject, segment = person
    strict = assist(subject.model, subject.params, segment, Assistance(emg_tolerance=0.01, effort_tolerance=0.01))

    def size(found):
        return float(np.sqrt(np.mean((found.adjusted - found.recorded) ** 2)))

    def error(found):
        return float(np.sqrt(np.mean((found.output.moments - segment.measured)[segment.scored] ** 2)))

    assert size(strict) < 0.75 * size(assisted)
    assert error(strict) > 1.5 * error(assisted)


def test_corrections_are_straight_between_nodes_and_differentiable():
    left, part = jnp.array([0, 0, 1, 1]), jnp.array([0.0, 0.5, 0.0, 1.0])
    scale, recorded = jnp.array([0.1, 0.2]), jnp.full((4, 2), 0.4)
    nodes = jnp.array([[1.0, 0.0], [-1.0, 1.0], [2.0, -1.0]])
    found = np.asarray(corrected(recorded, nodes, scale, left, part))
    np.testing.assert_allclose(found[:, 0], [0.5, 0.4, 0.3, 0.6], atol=1e-4)
    np.testing.assert_allclose(found[:, 1], [0.4, 0.5, 0.6, 0.2], atol=2e-4)

    def total(nodes):
        return jnp.sum(jnp.sin(5 * corrected(recorded, nodes, scale, left, part)))

    for at in (nodes, -4.0 * jnp.ones((3, 2)), 6.0 * jnp.ones((3, 2))):  # inside, at 0, at 1
        reverse, forward = jax.grad(total)(at), jax.jacfwd(total)(at)
        step = 1e-6
        for i in range(3):
            for j in range(2):
                up, down = at.at[i, j].add(step), at.at[i, j].add(-step)
                assert float(reverse[i, j]) == pytest.approx(float(total(up) - total(down)) / (2 * step), abs=1e-7)
        np.testing.assert_allclose(forward, reverse, atol=1e-12)
        assert np.abs(np.asarray(reverse)).max() > 1e-4


def test_recorded_excitations_are_those_of_the_prediction(person):
    subject, segment = person
    with jax.enable_x64(True):
        found = recorded_excitations(subject.model, subject.params, segment.replay)
    plain = predict_segment(subject.model, subject.params, segment)
    np.testing.assert_allclose(found, plain.excitation, atol=1e-12)


def test_what_is_refused(person):
    subject, segment = person
    with pytest.raises(InputError, match="no measured moments"):
        assist(subject.model, subject.params, dataclasses.replace(segment, measured=None))
    with pytest.raises(InputError, match="max_iterations is 0"):
        assist(subject.model, subject.params, segment, max_iterations=0)
    with pytest.raises(InputError, match="emg_tolerance is 0"):
        Assistance(emg_tolerance=0)
