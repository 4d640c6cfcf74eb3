"""Synthetic people who perform given motions."""

from __future__ import annotations

import dataclasses

import numpy as np
from models import THREE_CHANNELS, arm_model, arm_params

from calibration.problem import Free, Penalties
from calibration.synthetic import make_person
from nms_gym.recording.trial import Trial

MODEL = arm_model(THREE_CHANNELS, tendon="rigid")
START = arm_params(MODEL, shape_factor=0.0)
FREE = (Free("emg_gain", (0.3, 3.0), 0.3),)


def trial(name: str, rate: float) -> Trial:
    time = 0.01 * np.arange(120)
    assert MODEL.paths is not None
    q = np.array([0.2, 1.1]) + 0.3 * np.sin(2 * np.pi * rate * time)[:, None]
    emg = 0.5 + 0.4 * np.sin(2 * np.pi * rate * time[:, None] + np.arange(len(MODEL.channels)))
    return Trial(
        name=name,
        time=time,
        coordinates=MODEL.paths.coordinates,
        q=q,
        qd=np.gradient(q, time, axis=0),
        channels=MODEL.channels,
        emg_time=time,
        emg=emg,
    )


def test_people_perform_the_motions_that_are_given():
    """The first to fit, the last unseen; the true EMG is the given one, the one that is seen is not."""
    given = [trial("slow", 0.7), trial("slower", 0.5), trial("fast", 1.3)]
    person = make_person(MODEL, START, FREE, seed=1, trials=given, penalties=Penalties(moment_tolerance=0.1))
    assert [s.name.split()[0] for s in (*person.problem.segments, *person.unseen)] == ["slow", "slower", "fast"]
    (true,), (seen,) = person.true, person.unseen
    count = len(given[2].time)
    np.testing.assert_allclose(true.replay.excitations[-count:], given[2].emg, atol=1e-6)
    assert np.abs(np.asarray(seen.replay.excitations)[-count:] - given[2].emg).max() > 0.02
    assert true.measured is not None
    assert np.isfinite(true.measured).all()
    assert (true.measured.std(axis=0) > 0).all()


def test_people_whom_the_model_does_not_suit():
    """Recordings made by another structure, and from a wider prior; the problem keeps the calibration's."""
    given = [trial("slow", 0.7), trial("fast", 1.3)]
    wider = (dataclasses.replace(FREE[0], prior_sd=2 * FREE[0].prior_sd, bounds=(0.1, 10.0)),)
    other = dataclasses.replace(MODEL, settings=dataclasses.replace(MODEL.settings, tendon="elastic"))
    plain, wide, elastic = (
        make_person(MODEL, START, FREE, seed=1, training=1, trials=given, **changed)
        for changed in ({}, {"drawn": wider}, {"truth": other})
    )
    assert wide.problem.free == plain.problem.free
    change = [np.log(p.params.emg_gain / START.emg_gain) for p in (plain, wide)]
    assert np.abs(change[0]).max() < np.abs(change[1]).max()
    np.testing.assert_allclose(change[1], 2 * FREE[0].prior_sd * wide.z, rtol=1e-9)
    assert elastic.problem.model is MODEL
    np.testing.assert_array_equal(elastic.z, plain.z)
    assert np.abs(elastic.true[0].measured - plain.true[0].measured).max() > 0.01
