"""Windows of a recording on the model's grid: names, history, lead-in, and what is refused."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from models import ARM, arm_model, arm_params

from nms_gym.errors import InputError
from nms_gym.model.replay import make_segment, padded, predict_moments, replay_history
from nms_gym.recording.trial import Trial

SHOULDER, ELBOW = ARM.coordinates
CHANNELS = ("TRI", "BIC")
DT = 0.01
DRIVEN = (dict.fromkeys(ARM.muscles[:3], 1.0), dict.fromkeys(ARM.muscles[3:], 1.0))
MODEL = arm_model(dict(zip(CHANNELS, DRIVEN, strict=True)), max_delay=0.1)
HISTORY = MODEL.settings.history_length(DT)


def angles(t):
    """Shoulder and elbow, and their derivatives, at times (T,)."""
    q = np.column_stack([0.3 + 0.4 * np.sin(3 * t), 1.0 + 0.5 * np.sin(4 * t)])
    return q, np.column_stack([1.2 * np.cos(3 * t), 2.0 * np.cos(4 * t)])


def envelope(t):
    """Two channels that are linear in time, so that interpolation is exact."""
    return np.column_stack([0.2 + 0.05 * t, 0.9 - 0.07 * t])


def recording(**changes):
    """2 s at 100 Hz, moments of both joints, EMG at 200 Hz from 1 s before."""
    time, emg_time = DT * np.arange(201) + 5.0, 0.005 * np.arange(620) + 4.0
    q, qd = angles(time)
    trial = Trial(
        name="reach",
        time=time,
        coordinates=(SHOULDER, ELBOW),
        q=q,
        qd=qd,
        channels=CHANNELS,
        emg_time=emg_time,
        emg=envelope(emg_time),
        moment_coordinates=(SHOULDER, ELBOW),
        moments=np.column_stack([np.sin(time), np.cos(time)]),
    )
    return dataclasses.replace(trial, **changes)


def with_tables(trial):
    """The same with made-up muscle tables that say where each number came from."""
    t, m = len(trial.time), len(ARM.muscles)
    lengths = 0.2 + 0.001 * np.arange(m) + 1e-5 * np.arange(t)[:, None]
    arms = 0.01 * np.arange(1, 3)[None, :, None] + 0.001 * np.arange(m) + 1e-6 * np.arange(t)[:, None, None]
    return dataclasses.replace(trial, muscles=ARM.muscles, lengths=lengths, velocities=-lengths, moment_arms=arms)


def test_window_and_lead_in():
    segment = make_segment(MODEL, recording(), start=5.5, stop=6.0, lead_in=0.2)
    np.testing.assert_allclose(segment.time, 5.3 + DT * np.arange(71), atol=1e-12)
    np.testing.assert_array_equal(segment.scored, segment.time > 5.499)
    np.testing.assert_allclose(segment.measured, np.column_stack([np.sin(segment.time), np.cos(segment.time)]))
    assert segment.coordinates == ARM.coordinates
    assert segment.name == "reach 5.50-6.00 s"
    assert float(segment.replay.dt) == pytest.approx(DT)
    # Before the motion, as far back as the EMG goes, muscles set out from standstill.
    early = make_segment(MODEL, recording(), start=5.05, stop=5.5, lead_in=0.2)
    np.testing.assert_allclose(early.time, 4.85 + DT * np.arange(66), atol=1e-12)
    assert early.scored.sum() == 46
    moving = make_segment(MODEL, recording(), start=5.05, stop=5.5, lead_in=0.05)
    for name in ("lengths", "velocities", "moment_arms"):
        np.testing.assert_allclose(
            getattr(early.replay, name)[15:], getattr(moving.replay, name), rtol=1e-12, atol=1e-15
        )
    assert np.abs(early.replay.velocities[0]).max() < 0.01 * np.abs(moving.replay.velocities[0]).max()
    np.testing.assert_allclose(
        early.replay.velocities[0:15],
        np.exp(-(0.15 - DT * np.arange(15))[:, None] / 0.03) * moving.replay.velocities[:1],
    )
    rate = np.gradient(early.replay.lengths[:16], DT, axis=0)[1:-1]
    assert np.abs(rate - early.replay.velocities[1:15]).max() < 0.03 * np.abs(rate).max()
    np.testing.assert_array_equal(early.measured[:16], np.tile(moving.measured[:1], (16, 1)))
    np.testing.assert_array_equal(early.angles[15:], moving.angles)
    counted = early.without_lead_in()
    np.testing.assert_array_equal(counted.time, early.time[20:])
    assert counted.scored.all()
    np.testing.assert_array_equal(counted.replay.excitations, early.replay.excitations[20:])
    trial = recording()
    late = dataclasses.replace(trial, emg_time=trial.emg_time[191:], emg=trial.emg[191:])  # from 4.955 s
    assert make_segment(MODEL, late, lead_in=0.2).time[0] == pytest.approx(4.96)
    whole = make_segment(MODEL, recording(), lead_in=0.0)
    assert len(whole.time) == 201
    assert whole.scored.all()


def test_history_reaches_back_before_the_motion():
    """EMG recorded before the first sample of motion is used; before its own first sample, that is held."""
    segment = make_segment(MODEL, recording(), lead_in=0.0)
    times = segment.time[0] + DT * np.arange(1 - HISTORY, len(segment.time))
    assert segment.replay.excitations.shape == (HISTORY - 1 + 201, 2)
    np.testing.assert_allclose(segment.replay.excitations, envelope(times), rtol=0, atol=1e-12)
    newest_first = replay_history(segment.replay)
    np.testing.assert_allclose(newest_first, envelope(5.0 - DT * np.arange(HISTORY)), rtol=0, atol=1e-12)

    trial = recording()
    late = dataclasses.replace(trial, emg_time=trial.emg_time[190:], emg=trial.emg[190:])  # from 4.95 s
    held = make_segment(MODEL, late, lead_in=0.0).replay.excitations
    np.testing.assert_allclose(held, envelope(np.maximum(times, 4.95)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("tendon", ["elastic", "rigid"])
def test_emg_before_the_motion_warms_up(tendon):
    """EMG that starts 0.3 s before the motion: from a still posture, as if the recording itself had begun with it; and
    in the midst of a motion, near to what a recording of all of it gives, where a start from rest is not."""
    model = dataclasses.replace(MODEL, settings=dataclasses.replace(MODEL.settings, tendon=tendon))
    params = arm_params(model, filter_time_constant_1=0.05, filter_time_constant_2=0.05)
    predict = jax.jit(predict_moments)

    def bursts(time, slow):
        t = time - 5.0
        emg_time = 0.005 * np.arange(round((t[-1] + 0.4) / 0.005)) - 0.3
        q, qd = angles(5.0 + slow(t))
        emg = np.column_stack([0.5 + 0.45 * np.sin(12 * emg_time), 0.3 + 0.25 * np.cos(9 * emg_time)])
        qd = qd * np.gradient(slow(t), DT)[:, None]
        return recording(
            time=time, q=q, qd=qd, moments=np.zeros_like(q), emg_time=5.0 + emg_time, emg=emg, channels=CHANNELS
        )

    def moments(trial, lead_in=0.2):
        segment = make_segment(model, trial, start=5.0, lead_in=lead_in)
        return np.asarray(predict(model, params, segment.replay).moments)[segment.scored]

    time = DT * np.arange(-20, 61) + 5.0
    held = bursts(time, lambda t: np.maximum(t, 0.0))
    held.qd[:21] = 0.0
    cut = dataclasses.replace(held, time=time[20:], q=held.q[20:], qd=held.qd[20:], moments=held.moments[20:])
    np.testing.assert_allclose(moments(cut), moments(held), rtol=0, atol=1e-9)
    moving = bursts(time, lambda t: t)
    late = dataclasses.replace(moving, time=time[20:], q=moving.q[20:], qd=moving.qd[20:], moments=moving.moments[20:])
    true = moments(moving)
    warm, cold = (np.abs(moments(late, lead_in) - true).max() for lead_in in (0.2, 0.0))
    print(f"{tendon}: largest error of a moment, warmed up {warm:.2f}, started at rest {cold:.2f} N·m")
    assert warm < 0.15 * cold


def test_envelopes_between_samples_never_go_negative():
    trial = recording()
    spikes = np.zeros_like(trial.emg)
    spikes[::7] = 1.0
    excitations = make_segment(MODEL, dataclasses.replace(trial, emg=spikes), dt=0.003).replay.excitations
    assert excitations.min() >= 0
    assert excitations.max() < 1 + 1e-12


def test_order_of_everything_in_the_file_is_irrelevant():
    trial = with_tables(recording())
    expected = make_segment(MODEL, trial)
    flipped = dataclasses.replace(
        trial,
        channels=trial.channels[::-1],
        emg=trial.emg[:, ::-1],
        coordinates=trial.coordinates[::-1],
        q=trial.q[:, ::-1],
        qd=trial.qd[:, ::-1],
        moment_coordinates=trial.moment_coordinates[::-1],
        moments=trial.moments[:, ::-1],
        muscles=trial.muscles[::-1],
        lengths=trial.lengths[:, ::-1],
        velocities=trial.velocities[:, ::-1],
        moment_arms=trial.moment_arms[:, ::-1, ::-1],
    )
    bare = {"muscles": (), "lengths": None, "velocities": None, "moment_arms": None}
    for ours, theirs in (
        (make_segment(MODEL, flipped), expected),
        (
            make_segment(MODEL, dataclasses.replace(flipped, **bare)),
            make_segment(MODEL, dataclasses.replace(trial, **bare)),
        ),
    ):
        np.testing.assert_array_equal(ours.measured, theirs.measured)
        for name in ("excitations", "lengths", "velocities", "moment_arms"):
            np.testing.assert_array_equal(getattr(ours.replay, name), getattr(theirs.replay, name), err_msg=name)


def test_tables_of_the_recording_win_over_paths():
    trial = with_tables(recording())
    segment = make_segment(MODEL, trial, coordinates=[ELBOW], start=5.5)
    rows = slice(30, None)
    np.testing.assert_array_equal(segment.replay.lengths, trial.lengths[rows])
    np.testing.assert_array_equal(segment.replay.velocities, trial.velocities[rows])
    np.testing.assert_array_equal(segment.replay.moment_arms, trial.moment_arms[rows, 1:])
    assert segment.coordinates == (ELBOW,)
    np.testing.assert_array_equal(segment.measured, trial.moments[rows, 1:])
    without_paths = make_segment(dataclasses.replace(MODEL, paths=None), trial, start=5.5)
    np.testing.assert_array_equal(without_paths.replay.lengths, trial.lengths[rows])


def test_paths_give_lengths_velocities_and_moment_arms():
    """Velocities and moment arms against differences of the lengths."""
    segment = make_segment(MODEL, recording(), lead_in=0.0)
    lengths = segment.replay.lengths
    assert lengths.dtype == np.float64
    assert np.all((lengths > 0.05) & (lengths < 0.6))
    rate = np.gradient(lengths, DT, axis=0)[1:-1]
    assert np.abs(rate - segment.replay.velocities[1:-1]).max() < 5e-3 * np.abs(rate).max()
    _, qd = angles(segment.time)
    np.testing.assert_allclose(
        segment.replay.velocities, -np.einsum("tk,tkm->tm", qd, segment.replay.moment_arms), rtol=0, atol=1e-14
    )
    # Biceps flex the elbow, triceps extend it.
    elbow = segment.replay.moment_arms[:, 1].mean(axis=0)
    assert all((elbow[i] > 0) == (not name.startswith("TRI")) for i, name in enumerate(ARM.muscles))


def test_moments_are_optional():
    trial = recording(moments=None, moment_coordinates=())
    segment = make_segment(MODEL, trial)
    assert segment.measured is None
    assert segment.coordinates == ARM.coordinates
    partly = recording(moment_coordinates=(ELBOW,), moments=recording().moments[:, 1:])
    assert make_segment(MODEL, partly).coordinates == (ELBOW,)


def test_another_step():
    segment = make_segment(MODEL, recording(), start=5.5, stop=6.0, lead_in=0.1, dt=0.005)
    np.testing.assert_allclose(np.diff(segment.time), 0.005, rtol=1e-9)
    np.testing.assert_allclose(segment.measured[:, 0], np.sin(segment.time), rtol=0, atol=1e-7)
    assert len(segment.replay.excitations) == len(segment.time) + MODEL.settings.history_length(0.005) - 1
    q, _ = angles(segment.time)
    coarse = make_segment(MODEL, recording(), start=5.5, stop=6.0, lead_in=0.1)
    np.testing.assert_allclose(segment.replay.lengths[::2], coarse.replay.lengths, rtol=0, atol=1e-9)
    assert len(q) == len(segment.replay.lengths)


def test_padding_repeats_the_last_sample():
    replay = make_segment(MODEL, recording(), start=6.5).replay
    longer = padded(replay, len(replay.lengths) + 7)
    for name in ("excitations", "lengths", "velocities", "moment_arms"):
        before, after = getattr(replay, name), getattr(longer, name)
        np.testing.assert_array_equal(after[: len(before)], before)
        np.testing.assert_array_equal(after[len(before) :], np.repeat(before[-1:], 7, axis=0))


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ({"start": 6.0, "stop": 5.5}, r"'reach': window 6 to 5.5 s is empty or not inside .* 5 to 7 s"),
        ({"start": 6.0, "stop": 6.0}, "window 6 to 6 s is empty"),
        ({"start": 4.0, "stop": 6.0}, "window 4 to 6 s .* not inside"),
        ({"start": 6.0, "stop": 9.0}, "window 6 to 9 s .* not inside"),
        ({"start": 6.0, "stop": 6.03}, "holds 4 samples of 0.01 s; at least 5"),
        ({"start": float("nan")}, "window nan to 7 s"),
    ],
)
def test_bad_windows(window, message):
    with pytest.raises(InputError, match=message):
        make_segment(MODEL, recording(), **window)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"channels": ("TRI", "DELT")}, r"'reach': no EMG channel 'BIC'; it has 'TRI', 'DELT'"),
        (lambda t: {"coordinates": (SHOULDER, "wrist")}, rf"kinematics lack '{ELBOW}'.* it has '{SHOULDER}', 'wrist'"),
        (lambda t: {"q": np.degrees(t.q)}, r"trial 'reach': coordinate '.*' reaches"),
        (lambda t: {"emg_time": t.emg_time[:400], "emg": t.emg[:400]}, r"EMG ends at 5.995 s, before the motion's 7 s"),
    ],
)
def test_what_the_recording_lacks_is_named(change, message):
    trial = recording()
    with pytest.raises(InputError, match=message):
        make_segment(MODEL, dataclasses.replace(trial, **change(trial)))


def test_missing_muscle_is_named():
    trial = with_tables(recording())
    keep = [i for i, m in enumerate(ARM.muscles) if m != "BRA"]
    fewer = dataclasses.replace(
        trial,
        muscles=tuple(ARM.muscles[i] for i in keep),
        lengths=trial.lengths[:, keep],
        velocities=trial.velocities[:, keep],
        moment_arms=trial.moment_arms[:, :, keep],
    )
    with pytest.raises(InputError, match="'reach': its muscle analysis lacks 'BRA'; it has 'TRIlong'"):
        make_segment(MODEL, fewer)


def test_missing_coordinate_and_paths_are_named():
    with pytest.raises(InputError, match=f"coordinates 'wrist' cannot be computed; the model has '{SHOULDER}'"):
        make_segment(MODEL, recording(), coordinates=["wrist"])
    with pytest.raises(InputError, match="has no muscle lengths and moment arms, and the model has no muscle paths"):
        make_segment(dataclasses.replace(MODEL, paths=None), recording())
