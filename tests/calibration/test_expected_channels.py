"""Channels synthesised for muscles that had no electrode."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from calibration import add_expected_channels, add_synergies, make_study, read_study
from calibration.excitations import gait_timing
from calibration.excitations.synergies import extract
from nms_gym.errors import InputError
from nms_gym.model.parameters import make_params
from nms_gym.model.structure import NmsModel, Settings
from nms_gym.recording.trial import Trial

MUSCLES = ("soleus_r", "gasmed_r", "tibant_r", "vasmed_r", "vaslat_r")
JOINTS = ("knee_angle_r", "ankle_angle_r")
ARMS = np.array([[0, 0.02, 0, -0.04, -0.04], [-0.05, -0.05, 0.04, 0, 0]], float)
CHANNELS = ("sol", "gas", "ta", "vm")


def walked(muscle: str, time: np.ndarray) -> np.ndarray:
    profile = gait_timing.timing_profile(muscle)
    assert profile is not None
    phase = ((time - 0.25) / 1.1) % 1.0
    return np.interp(phase, (np.arange(gait_timing.PHASES) + 0.5) / gait_timing.PHASES, profile, period=1.0)


def trial(name: str, begin: float, end: float, measured: bool = True) -> Trial:
    """Walking; EMG begins 0.3 s before the motion."""
    time, emg_time = np.arange(begin, end, 0.01), np.arange(begin - 0.3, end, 0.005)
    swing = np.sin(2 * np.pi * time / 1.1)
    q = 0.2 + 0.1 * np.stack([swing, -swing], axis=1)
    lengths = 0.35 - q @ ARMS
    return Trial(
        name=name,
        time=time,
        coordinates=JOINTS,
        q=q,
        qd=np.gradient(q, time, axis=0),
        channels=CHANNELS,
        emg_time=emg_time,
        emg=np.stack([walked(m, emg_time) for m in MUSCLES[:4]], axis=1),
        moment_coordinates=JOINTS,
        moments=20.0 * q if measured else None,
        muscles=MUSCLES,
        lengths=lengths,
        velocities=np.gradient(lengths, time, axis=0),
        moment_arms=np.broadcast_to(ARMS, (len(time), *ARMS.shape)),
    )


def leg() -> tuple[NmsModel, object]:
    weights = np.eye(5)[:, :4]
    model = NmsModel(MUSCLES, JOINTS, CHANNELS, Settings(tendon="rigid"), weights)  # type: ignore[arg-type]
    values = {
        "max_isometric_force": 1000.0,
        "optimal_fiber_length": 0.1,
        "tendon_slack_length": 0.25,
        "pennation_at_optimal": 0.1,
    }
    return model, make_params(model, values)


def test_a_muscle_without_electrode_gets_its_neighbours_signal():
    model, params = leg()
    given = [trial("fitted", 0.0, 2.4), trial("short", 3.0, 3.7, measured=False)]
    for made, before in zip(add_expected_channels(model, params, given), given, strict=True):
        assert made.channels == (*CHANNELS, "expected vaslat_r")
        np.testing.assert_array_equal(made.emg[:, :4], before.emg)
        inside = made.emg_time >= before.time[0]
        truth = walked("vaslat_r", made.emg_time)
        assert np.corrcoef(made.emg[inside, 4], truth[inside])[0, 1] > 0.9
        assert (made.emg >= 0).all()


def test_measured_moments_change_nothing():
    """What is fitted and what is predicted get the same signal."""
    model, params = leg()
    with_moments, without = (
        add_expected_channels(model, params, [trial("walk", 0.0, 2.4, measured=m)])[0] for m in (True, False)
    )
    np.testing.assert_array_equal(with_moments.emg, without.emg)


def test_gains_leave_the_unit_of_the_envelopes():
    model, params = leg()
    halved = dataclasses.replace(params, emg_gain=0.5 * np.asarray(params.emg_gain))  # type: ignore[attr-defined, type-var]
    one, other = (add_expected_channels(model, p, [trial("walk", 0.0, 2.4)])[0] for p in (params, halved))
    np.testing.assert_array_equal(one.emg, other.emg)


def test_impossible_wishes_are_refused():
    model, params = leg()
    walk = [trial("walk", 0.0, 2.4)]
    with pytest.raises(InputError, match="no 'vasint_r'"):
        add_expected_channels(model, params, walk, muscles=["vasint_r"])
    with pytest.raises(InputError, match="'soleus_r' has a channel"):
        add_expected_channels(model, params, walk, muscles=["soleus_r"])
    with pytest.raises(InputError, match="more than once"):
        add_expected_channels(model, params, walk, muscles=["vaslat_r", "vaslat_r"])
    with pytest.raises(InputError, match="at least one window"):
        add_expected_channels(model, params, [])
    basis = extract([walk[0].emg], CHANNELS, number=2, restarts=0).basis
    hybrid, start, _ = add_synergies(model, params, basis)
    with pytest.raises(InputError, match="has synergies"):
        add_expected_channels(hybrid, start, walk)
    full = dataclasses.replace(model, channel_weights=np.ones((5, 4)))
    with pytest.raises(InputError, match="every muscle has a channel"):
        add_expected_channels(full, params, walk)


def test_a_study_of_such_recordings_is_driven_by_them():
    """The shipped demo, whose brachialis has no electrode."""
    demo = read_study("asset:demo/study.toml")
    assert demo.model.passive_muscles == ("BRA",)
    trials = add_expected_channels(demo.model, demo.start, list(demo.trials.values()), gait=False)
    drives = {"biceps": ["BIClong", "BICshort"], "triceps_long": ["TRIlong"], "triceps_lateral": ["TRIlat", "TRImed"]}
    study = make_study(
        "with a brachialis",
        model="asset:arm",
        coordinates=["r_shoulder_elev", "r_elbow_flex"],
        channels={**drives, "expected BRA": ["BRA"]},
        trials=trials,
        train=["reach_1", "reach_2"],
        held_out=["reach_3"],
        dt=0.01,
    )
    assert study.model.passive_muscles == ()
    column = study.model.channels.index("expected BRA")
    for segment in (*study.train, *study.held_out["reach_3"]):
        signal = np.asarray(segment.replay.excitations)[:, column]
        assert signal.std() > 0.01
        assert (signal >= 0).all()
