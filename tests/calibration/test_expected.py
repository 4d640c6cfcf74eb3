"""Signals expected of muscles that were not recorded."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize, nnls

from calibration.excitations import gait_timing
from calibration.excitations.expected import (
    ExcitationPrior,
    Stretch,
    effort_pattern,
    function_signatures,
    synthesise,
    weight_prior,
    with_prior,
)
from calibration.excitations.synergies import add_synergies, extract
from nms_gym.errors import InputError
from nms_gym.model.parameters import make_params
from nms_gym.model.replay import Replay, Segment
from nms_gym.model.structure import NmsModel, Settings

MUSCLES = ("soleus_r", "gasmed_r", "tibant_r", "vasmed_r", "vaslat_r", "recfem_r")
# Mean moment arms of coordinates hip, knee, ankle, m.
ARMS = np.array([[0, 0, 0, 0, 0, 0.04], [0, 0.02, 0, -0.04, -0.04, -0.04], [-0.05, -0.05, 0.04, 0, 0, 0]], float)
DRIVES = np.eye(len(MUSCLES))
STRENGTH = np.full(len(MUSCLES), 1000.0)


def cycle(muscle: str, time: np.ndarray, period: float = 1.1, strike: float = 0.25) -> np.ndarray:
    """Published timing itself, as an envelope; interpolation by NumPy."""
    profile = gait_timing.timing_profile(muscle)
    assert profile is not None
    phase = ((time - strike) / period) % 1.0
    return np.interp(phase, (np.arange(gait_timing.PHASES) + 0.5) / gait_timing.PHASES, profile, period=1.0)


def window(envelopes: np.ndarray, time: np.ndarray, arms: np.ndarray = ARMS, **known) -> Stretch:
    return Stretch(time, envelopes, np.broadcast_to(arms, (len(time), *arms.shape)), **known)


def test_published_timing_by_name():
    """Names of three families of models; nothing for muscles of the arm."""
    assert gait_timing.published_name("vas_lat_r") == "vastus lateralis"
    assert gait_timing.published_name("glmax1_l") == "gluteus maximus, upper"
    assert gait_timing.published_name("glmax3_l") == "gluteus maximus, lower"
    assert gait_timing.published_name("bifemsh_r") == "biceps femoris, short head"
    assert gait_timing.published_name("lat_gas_r") == "gastrocnemius"
    assert gait_timing.published_name("gaslat_l") == "gastrocnemius"
    assert gait_timing.published_name("BIClong") is None
    assert gait_timing.timing_profile("TRIlat") is None
    assert set(gait_timing._NAMES.values()) == set(gait_timing.ON_OFF)


def test_profile_has_the_published_share_of_the_cycle():
    """Blurring around the cycle moves activity but keeps its amount: soleus is on for 49 % of it, across foot strike
    the gluteus medius for 34 %."""
    for muscle, share in (("soleus_r", 0.49), ("glmed1_r", 0.34)):
        profile = gait_timing.timing_profile(muscle)
        assert profile is not None
        assert profile.mean() == pytest.approx(share, abs=0.01)
    around = gait_timing.timing_profile("glmed1_r", width=2.0)
    assert around is not None
    assert around[0] == pytest.approx(around[-1], abs=0.05)
    assert around[0] > 0.9
    assert around[gait_timing.PHASES // 2] < 1e-3


def test_a_gait_cycle_finds_period_and_strike():
    time = np.arange(0.0, 2.4, 0.01)
    signals = np.stack([cycle(m, time) for m in MUSCLES], axis=1)
    profiles = np.array([gait_timing.timing_profile(m) for m in MUSCLES])
    found = gait_timing.fit_gait_cycle(time, signals, profiles, list(np.arange(0.9, 1.31, 0.05)), offsets=100)
    assert found.period == pytest.approx(1.1)
    phase = found.phase(np.array([0.25]))[0]
    assert min(phase, 1 - phase) < 0.011
    assert found.agreement > 0.99


def test_signatures_follow_function():
    """Vasti do the same thing; the rectus shares the knee with them, the tibialis opposes the soleus."""
    s = function_signatures(np.broadcast_to(ARMS, (5, *ARMS.shape)))
    cosine = s @ s.T
    i = {m: n for n, m in enumerate(MUSCLES)}
    assert cosine[i["vasmed_r"], i["vaslat_r"]] == pytest.approx(1.0)
    # Rectus: hip 1, knee -1, each over the coordinate's largest; vasti: knee -1.
    assert cosine[i["vasmed_r"], i["recfem_r"]] == pytest.approx(1 / np.sqrt(2))
    assert cosine[i["soleus_r"], i["tibant_r"]] == pytest.approx(-1.0)
    assert cosine[i["soleus_r"], i["vasmed_r"]] == pytest.approx(0.0)


def test_effort_is_the_constrained_minimum():
    """Against SLSQP on the same cost, one sample."""
    rng = np.random.default_rng(3)
    moments = rng.normal(size=(3, 3)) * [10.0, 30.0, 50.0]
    arms = np.broadcast_to(ARMS, (3, *ARMS.shape))
    found = effort_pattern(arms, STRENGTH, moments, 0.3)
    spread = moments.std(axis=0)

    def cost(a: np.ndarray) -> float:
        return float(np.sum(((ARMS @ (a * STRENGTH) - moments[1]) / spread) ** 2) + 0.09 * np.sum(a**2))

    best = minimize(cost, np.full(len(MUSCLES), 0.1), bounds=[(0, None)] * len(MUSCLES), options={"ftol": 1e-14})
    assert cost(found[1]) <= best.fun * (1 + 1e-9)
    np.testing.assert_allclose(found[1], best.x, atol=2e-4)
    assert (found >= 0).all()


def test_a_muscle_follows_its_neighbours():
    """Without the vastus lateralis' channel, its signal is the vastus medialis', not the soleus'."""
    rng = np.random.default_rng(0)
    time = np.arange(0, 1.5, 0.01)
    signals = np.abs(np.stack([np.convolve(rng.normal(size=len(time)), np.ones(15) / 15, "same") for _ in MUSCLES], 1))
    left = [i for i, m in enumerate(MUSCLES) if m != "vaslat_r"]
    found = synthesise([window(signals[:, left], time)], MUSCLES, DRIVES[:, left], STRENGTH, gait=False)
    lost = MUSCLES.index("vaslat_r")
    near = np.corrcoef(found.excitation[0][:, lost], signals[:, MUSCLES.index("vasmed_r")])[0, 1]
    far = np.corrcoef(found.excitation[0][:, lost], signals[:, MUSCLES.index("soleus_r")])[0, 1]
    assert near > 0.8
    assert abs(far) < 0.5
    assert found.coefficients == {}
    # A muscle that moves what no recorded one moves is less certain than one with a twin.
    alone = synthesise([window(signals[:, :2], time)], MUSCLES, DRIVES[:, :2], STRENGTH, gait=False)
    size = alone.sd / alone.excitation[0].std(axis=0).clip(1e-9)
    assert size[MUSCLES.index("recfem_r")] > size[MUSCLES.index("gasmed_r")]


def test_kriging_is_the_conditional_mean():
    """Neighbours alone, against the textbook formula of a conditional Gaussian on the standardised signals."""
    rng = np.random.default_rng(1)
    time = np.arange(0, 1.0, 0.01)
    signals = 1.0 + 0.1 * rng.normal(size=(len(time), 3))
    prior = ExcitationPrior(effort_sd=0.0)
    found = synthesise([window(signals, time)], MUSCLES, DRIVES[:, :3], STRENGTH, prior, gait=False)
    s = ARMS / np.abs(ARMS).max(axis=1, keepdims=True)
    s = s / np.linalg.norm(s, axis=0)
    kernel = (1 + (1 - s.T @ s) / 0.2) ** -2
    z = (signals - signals.mean(axis=0)) / signals.std(axis=0)
    expected = kernel[:, :3] @ np.linalg.inv(kernel[:3, :3] + 0.15 * np.eye(3)) @ z.T
    weight = kernel[:, :3] / kernel[:, :3].sum(axis=1, keepdims=True)
    level, scale = weight @ signals.mean(axis=0), weight @ signals.std(axis=0)
    np.testing.assert_allclose(found.excitation[0], level + expected.T * scale, atol=1e-12)


def test_a_stretch_shorter_than_a_cycle_goes_by_the_longer_one():
    """0.7 s of a cycle of 1.1 s, alone, can only be taken for a shorter cycle."""
    time = np.arange(0.0, 2.4, 0.01)
    signals = np.stack([cycle(m, time) for m in MUSCLES], axis=1)
    for cut in (slice(20, 90), slice(140, 210)):
        short = window(signals[cut], time[cut])
        for order in ([window(signals, time), short], [short, window(signals, time)]):
            found = synthesise(order, MUSCLES, DRIVES, STRENGTH)
            of_short = found.cycles[[w is short for w in order].index(True)]
            assert of_short is not None
            assert of_short.period == pytest.approx(1.1, rel=0.06)
            miss = (of_short.phase(np.array([0.25]))[0] + 0.5) % 1.0 - 0.5
            assert abs(miss) < 0.05
        (alone,) = synthesise([short], MUSCLES, DRIVES, STRENGTH).cycles
        assert alone is None or alone.period < 0.9


def test_timing_supplies_what_no_neighbour_knows():
    """The tibialis anterior has no like; the others walk by the book, so it is expected to."""
    time = np.arange(0.0, 2.4, 0.01)
    signals = np.stack([cycle(m, time) for m in MUSCLES], axis=1)
    left = [i for i, m in enumerate(MUSCLES) if m != "tibant_r"]
    lost = MUSCLES.index("tibant_r")

    def r(gait: bool = True) -> float:
        w = window(signals[:, left], time, period=1.1)
        found = synthesise([w], MUSCLES, DRIVES[:, left], STRENGTH, gait=gait)
        return float(np.corrcoef(found.excitation[0][:, lost], signals[:, lost])[0, 1])

    assert r() > 0.9
    assert r(gait=False) < 0.3


def test_timing_is_left_out_where_the_channels_do_not_follow_it():
    """Six channels that are on all over the cycle, in turn, as in no gait."""
    time = np.arange(0.0, 2.4, 0.01)
    signals = np.stack([1 + np.cos(2 * np.pi * (i + 2) * time / 1.1) for i in range(len(MUSCLES))], axis=1)
    found = synthesise([window(signals, time)], MUSCLES, DRIVES, STRENGTH)
    assert found.cycles == (None,)
    assert found.coefficients == {}


def test_effort_counts_only_where_the_person_bears_it_out():
    """Recorded channels that follow least effort make it count; channels that do not, do not."""
    time = np.arange(0, 2.0, 0.01)
    rng = np.random.default_rng(2)
    moments = np.stack([np.sin(4 * time), np.sin(6 * time + 1), np.sin(5 * time + 2)], axis=1) * [20.0, 40.0, 60.0]
    arms = np.broadcast_to(ARMS, (len(time), *ARMS.shape))
    effort = effort_pattern(arms, STRENGTH, moments, ExcitationPrior().effort_tolerance)
    left, lost = [0, 1, 3, 4, 5], 2  # the tibialis has no neighbour
    prior = ExcitationPrior(effort_blur=0.0, effort_lead=0.0)

    def coefficient(signals: np.ndarray) -> tuple[float, np.ndarray]:
        w = window(signals[:, left], time, moments=moments)
        found = synthesise([w], MUSCLES, DRIVES[:, left], STRENGTH, prior, gait=False)
        return found.coefficients["effort"], found.excitation[0][:, lost]

    followed, signal = coefficient(effort)
    assert followed > 0.1
    assert np.corrcoef(signal, effort[:, lost])[0, 1] > 0.9
    assert abs(coefficient(rng.random((len(time), len(MUSCLES))))[0]) < 0.05


@pytest.mark.parametrize("signed", [False, True])
def test_weight_prior_reproduces_what_is_expected(signed):
    rng = np.random.default_rng(4)
    commands = rng.random((200, 3)) * [1.0, 0.2, 3.0]
    weights = np.array([[0.2, 1.0, 0.0], [0.0, 0.5, 0.1]])
    mean, sd = weight_prior(commands, commands @ weights.T, np.array([0.1, 0.2]), signed=signed, ridge=1e-9)
    np.testing.assert_allclose(mean, weights, atol=1e-6)
    # Independent weights of these standard deviations vary the excitation by sd, over time.
    for one, wanted in zip(sd, (0.1, 0.2), strict=True):
        assert np.sqrt(np.mean((commands**2) @ one**2)) == pytest.approx(wanted)


def small_model(channels: int = 5) -> tuple[NmsModel, Segment]:
    """Five muscles with a channel; a sixth channel drives nothing."""
    time = np.arange(0, 1.2, 0.01)
    signals = np.stack([cycle(m, time, period=1.15) for m in MUSCLES], axis=1)[:, :channels]
    history = Settings().history_length(0.01)
    model = NmsModel(
        muscles=MUSCLES,
        coordinates=("hip", "knee", "ankle"),
        channels=tuple(f"emg {m}" for m in MUSCLES[:channels]),
        settings=Settings(tendon="rigid"),
        channel_weights=DRIVES[:, :channels] * (np.arange(channels) < 5),  # type: ignore[arg-type]
    )
    replay = Replay(
        coordinates=model.coordinates,
        dt=np.asarray(0.01),  # type: ignore[arg-type]
        excitations=np.concatenate([np.repeat(signals[:1], history - 1, axis=0), signals]),  # type: ignore[arg-type]
        lengths=np.full((len(time), 6), 0.3),  # type: ignore[arg-type]
        velocities=np.zeros((len(time), 6)),  # type: ignore[arg-type]
        moment_arms=np.broadcast_to(ARMS, (len(time), *ARMS.shape)),  # type: ignore[arg-type]
    )
    moments = np.stack([np.sin(5 * time), np.cos(5 * time), np.sin(3 * time)], axis=1)
    return model, Segment("walk", replay, time, time >= 0.1, moments)


@pytest.mark.parametrize("channels", [5, 6])
def test_prior_of_a_model(channels):
    """Start and freedom of every weight of the one muscle that has no channel, by name."""
    model, segment = small_model(channels)
    start = make_params(
        model,
        {
            "max_isometric_force": 1000.0,
            "optimal_fiber_length": 0.1,
            "tendon_slack_length": 0.2,
            "pennation_at_optimal": 0.0,
            "emg_gain": 0.5,
        },
    )
    basis = extract([np.asarray(segment.replay.excitations)], model.channels, number=3, restarts=1).basis
    model, start, _ = add_synergies(model, start, basis)
    commands = basis.commands(np.asarray(segment.replay.excitations))
    replay = segment.replay
    extended = Replay(
        coordinates=replay.coordinates,
        dt=replay.dt,
        excitations=np.concatenate([np.asarray(replay.excitations), commands], axis=1),  # type: ignore[arg-type]
        lengths=replay.lengths,
        velocities=replay.velocities,
        moment_arms=replay.moment_arms,
    )
    segment = Segment(segment.name, extended, segment.time, segment.scored, segment.measured)
    params, free, found = with_prior(model, start, [segment])
    assert [name for name, _ in free.own_sd] == [f"recfem_r:{c}" for c in model.commands]
    assert all(sd > 0 for _, sd in free.own_sd)
    scored = commands[-len(segment.time) :][segment.scored]
    wanted = found.excitation[0][:, MUSCLES.index("recfem_r")]
    # As near as non-negative weights of these commands come; the ridge costs next to nothing.
    missed = np.linalg.norm(scored @ np.asarray(params.synergy_weight) - wanted)
    assert missed <= 1.02 * nnls(scored, wanted)[1]
    # Envelopes count with their gain: a gain of 0.5 halves what is expected.
    assert wanted.max() < 0.75
    with pytest.raises(InputError, match="nothing to synthesise"):
        with_prior(small_model()[0], start, [segment])


def test_bad_input_is_named():
    time = np.arange(0, 1, 0.01)
    signals = np.random.default_rng(0).random((100, 2))
    good = window(signals, time)
    with pytest.raises(InputError, match="timing_width is 0"):
        ExcitationPrior(timing_width=0.0)
    with pytest.raises(InputError, match="effort_sd is -1"):
        ExcitationPrior(effort_sd=-1.0)
    with pytest.raises(InputError, match="at least one window"):
        synthesise([], MUSCLES, DRIVES[:, :2], STRENGTH)
    with pytest.raises(InputError, match="5 rows; expected 6"):
        synthesise([good], MUSCLES, DRIVES[:5, :2], STRENGTH)
    with pytest.raises(InputError, match="drives no muscle"):
        synthesise([good], MUSCLES, DRIVES[:, :2] * [1, 0], STRENGTH)
    with pytest.raises(InputError, match=r"envelopes.*\(100, 2\); expected \(100, 3\)"):
        synthesise([good], MUSCLES, DRIVES[:, :3], STRENGTH)
    with pytest.raises(InputError, match="channel 1 is constant"):
        synthesise([window(signals * [1, 0], time)], MUSCLES, DRIVES[:, :2], STRENGTH)


def late(muscle: str, time: np.ndarray) -> np.ndarray:
    """Somebody whose vastus lateralis is on in swing, not by the book; the others are."""
    profile = np.roll(gait_timing.timing_profile(muscle), gait_timing.PHASES // 2 if muscle == "vaslat_r" else 0)
    phase = ((time - 0.25) / 1.1) % 1.0
    return np.interp(phase, (np.arange(gait_timing.PHASES) + 0.5) / gait_timing.PHASES, profile, period=1.0)


def walk(muscles: tuple[str, ...], time: np.ndarray, size: float = 1.0) -> gait_timing.Walk:
    return gait_timing.Walk(time, muscles, size * np.stack([late(m, time) for m in muscles], axis=1))


def test_profiles_are_what_others_did_over_the_cycle():
    """Whatever the size of their EMG, and though one of them was recorded twice."""
    time = np.arange(0.0, 3.4, 0.01)
    few = ("soleus_r", "tibant_r", "vaslat_r", "vasmed_r")
    found = gait_timing.learn_profiles([[walk(MUSCLES, time), walk(MUSCLES, time, 7.0)], [walk(few, time, 0.01)]])
    assert set(found) == {gait_timing.electrode_name(m) for m in MUSCLES}
    for muscle in MUSCLES:
        expected = late(muscle, 0.25 + 1.1 * (np.arange(gait_timing.PHASES) + 0.5) / gait_timing.PHASES)
        assert np.corrcoef(found[gait_timing.electrode_name(muscle)], expected)[0, 1] > 0.95


def test_a_muscle_is_expected_when_others_had_it_on():
    """The vastus lateralis, whose neighbours say stance and whom others have on in swing."""
    time = np.arange(0.0, 2.4, 0.01)
    signals = np.stack([late(m, time) for m in MUSCLES], axis=1)
    left = [i for i, m in enumerate(MUSCLES) if m not in ("vaslat_r", "vasmed_r")]
    given = [window(signals[:, left], time)], MUSCLES, DRIVES[:, left], STRENGTH
    learned = gait_timing.learn_profiles([[walk(MUSCLES, np.arange(0.0, 3.4, 0.01))]])
    lost = MUSCLES.index("vaslat_r")
    r = {
        name: np.corrcoef(synthesise(*given, profiles=p).excitation[0][:, lost], signals[:, lost])[0, 1]
        for name, p in (("published", None), ("learned", learned))
    }
    assert r["learned"] > 0.5
    assert r["published"] < 0


def test_one_electrode_lies_over_all_of_a_muscle():
    """Profiles of one model's muscles serve another's."""
    assert (
        gait_timing.electrode_name("glmax3_r") == gait_timing.electrode_name("glut_max1_l") == "gluteus maximus, upper"
    )
    assert gait_timing.electrode_name("perbrev_r") == gait_timing.electrode_name("peroneus longus")
    assert gait_timing.electrode_name("bflh_r") != gait_timing.electrode_name("bfsh_r")
    assert gait_timing.electrode_name("BIClong") is None


def write(path, rows: list[str]):
    path.write_text("\n".join(rows) + "\n")
    return path


def test_profiles_are_read_from_a_table_of_the_cycle(tmp_path):
    rows = ["time,soleus,tibant_r", *(f"{p},{np.sin(2 * np.pi * p / 100) + 5},{p % 50}" for p in range(0, 100, 5))]
    found = gait_timing.read_profiles(write(tmp_path / "profiles.csv", rows))
    assert set(found) == {"soleus", "tibialis anterior"}
    phase = (np.arange(gait_timing.PHASES) + 0.5) / gait_timing.PHASES
    np.testing.assert_allclose(found["soleus"], np.sqrt(2) * np.sin(2 * np.pi * phase), atol=0.03)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["time,soleus", *(f"{p / 100},1" for p in range(0, 100, 5))], "per cent of the gait cycle"),
        (["time,soleus", *(f"{p},1" for p in range(0, 60, 5))], "steps of up to 45"),
        (["time,soleus", *(f"{p},1" for p in range(-20, 100, 5))], "goes from -20"),
        (["time,triceps", *(f"{p},1" for p in range(0, 100, 5))], "'triceps' is no leg muscle"),
        (["time,perlong_r,perbrev_r", *(f"{p},1,2" for p in range(0, 100, 5))], "another column"),
    ],
    ids=["fractions", "half a cycle", "before foot strike", "arm", "twice"],
)
def test_bad_profiles_are_refused(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        gait_timing.read_profiles(write(tmp_path / "profiles.csv", rows))


def test_others_need_muscles_that_tell_the_cycle():
    time = np.arange(0.0, 2.0, 0.01)
    with pytest.raises(InputError, match="one muscle"):
        gait_timing.learn_profiles([[walk(("soleus_r",), time)]])
    with pytest.raises(InputError, match="no leg muscle"):
        gait_timing.learn_profiles([[gait_timing.Walk(time, ("soleus_r", "BRA"), np.ones((len(time), 2)))]])
