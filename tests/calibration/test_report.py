"""The report of a calibration: its numbers, its verdict, and that it is written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from calibration.fitting import Status, fit
from calibration.problem import DEFAULT_FREE, Free, Penalties, Problem
from calibration.report.evidence import collect
from calibration.report.names import joint_name, number, share, significant
from calibration.report.verdict import judge
from calibration.report.write import write_metrics, write_report
from calibration.uncertainty.analysis import BandSet
from calibration.uncertainty.bands import Band
from calibration.uncertainty.identifiability import Combination
from calibration.validation import compare, evaluate, predict_segment, tabulate
from nms_gym.errors import InputError
from nms_gym.files.subject import Subject
from nms_gym.model.parameters import KINDS, PARAMETER_KINDS, make_params
from nms_gym.model.replay import Replay, Segment
from nms_gym.model.structure import NmsModel, Settings
from nms_gym.model.trained_range import trained_range

DT = 0.01
MUSCLES = ("flexor", "extensor", "two_joint")
COORDINATES = ("knee_angle_r", "ankle_angle_r")
CHANNELS = ("emg flexor", "emg extensor")
ARMS = np.array([[0.04, -0.03, 0.02], [0.0, 0.03, -0.04]])
PARAMETERS = {
    "max_isometric_force": [900.0, 700.0, 800.0],
    "optimal_fiber_length": [0.10, 0.09, 0.08],
    "tendon_slack_length": [0.20, 0.18, 0.22],
    "pennation_at_optimal": [0.1, 0.0, 0.2],
}
FREE = (
    # A bound that the truth lies beyond.
    Free("max_isometric_force", (0.9, 1.1), 0.3),
    DEFAULT_FREE["emg_gain"],
    dataclasses.replace(DEFAULT_FREE["electromechanical_delay"], share="all"),
)

VOID = {"meta", "br", "img", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that tags nest, and collects what a reader sees and what a browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.words, self.links, self.images = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.links += [v for k, v in attrs if k in ("href", "src", "action", "data") and v]
        if tag == "img":
            self.images.append(values)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    def rows(self, table_class: str, source: str) -> list[list[str]]:
        table = re.search(rf'<table class="{table_class}">(.*?)</table>', source, re.S).group(1)
        rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.S)
        return [[re.sub(r"<[^>]+>", "", c).strip() for c in re.findall(r"<td[^>]*>(.*?)</td>", r, re.S)] for r in rows]


def _model(tendon: str = "rigid", passive: bool = True) -> NmsModel:
    weights = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0] if passive else [0.5, 0.5]])
    return NmsModel(
        muscles=MUSCLES,
        coordinates=COORDINATES,
        channels=CHANNELS,
        settings=Settings(tendon=tendon),
        channel_weights=weights,  # type: ignore[arg-type]
    )


def _segment(model: NmsModel, phase: float, truth=None, *, seconds: float = 0.8, noise: float = 0.5) -> Segment:
    """A made-up movement, its moments those of the ``truth``; its time starts at ``phase``."""
    time = phase + DT * np.arange(round(seconds / DT))
    angle = 0.3 * np.sin(2 * np.pi * time[:, None] / 0.8 + np.array([0.0, 0.7]))
    rate = np.gradient(angle, DT, axis=0)
    start = np.array([0.28, 0.26, 0.285])
    history = model.settings.history_length(DT)
    grid = time[0] + DT * np.arange(1 - history, len(time))
    emg = 0.15 + 0.5 * np.clip(np.sin(2 * np.pi * grid[:, None] / 0.8 + np.array([0.0, 2.5])), 0, 1) ** 2
    replay = Replay(
        coordinates=COORDINATES,
        dt=np.asarray(DT),  # type: ignore[arg-type]
        excitations=emg,  # type: ignore[arg-type]
        lengths=start - angle @ ARMS,  # type: ignore[arg-type]
        velocities=-rate @ ARMS,  # type: ignore[arg-type]
        moment_arms=np.repeat(ARMS[None], len(time), axis=0),  # type: ignore[arg-type]
    )
    segment = Segment(
        f"trial {phase:.1f}",
        replay,
        time,
        np.arange(len(time)) >= 10,
        None,
        channels=model.channels,
        moving=COORDINATES,
        q=angle,
        qd=rate,
    )
    if truth is None:
        return segment
    moments = predict_segment(model, truth, segment).moments
    random = np.random.default_rng(round(10 * phase))
    return dataclasses.replace(segment, measured=moments + noise * random.standard_normal(moments.shape))


@pytest.fixture(scope="module")
def study():
    model = _model()
    start = make_params(model, PARAMETERS)
    truth = make_params(model, PARAMETERS | {"max_isometric_force": [1800.0, 720.0, 780.0], "emg_gain": [1.0, 1.2]})
    train = [_segment(model, p, truth) for p in (0.0, 1.1, 2.3)]
    held_out = {"later strides": [_segment(model, p, truth) for p in (4.0, 5.2, 6.1)]}
    result = fit(Problem(model, start, tuple(train), free=FREE), starts=2, max_iterations=8)
    subject = Subject(
        name="Test & <b>subject</b>", model=model, params=result.params, start=start, sources={"walk.sto": "0f" * 32}
    )
    return subject, train, held_out, result


@pytest.fixture(scope="module")
def report(study, tmp_path_factory):
    subject, train, held_out, result = study
    folder = tmp_path_factory.mktemp("reports") / "new" / "out"
    pose = {"coordinate": COORDINATES[0], "pose": "at <b>ease</b>", "measured": 51.25, "tolerance": 5.0}
    path = write_report(
        folder,
        subject=subject,
        train=train,
        held_out=held_out,
        result=result,
        notes=["A <note> to keep."],
        maximal=[pose | {"uncalibrated": 80.0, "calibrated": 52.0}],
    )
    return path, path.read_text(encoding="utf-8")


def _png_pixels(content: bytes) -> tuple[int, int, int]:
    """Width, height, number of distinct bytes of a PNG's decompressed image, decoded here by hand."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(content[i : i + 4]) for i in (16, 20))
    at, data = 8, b""
    while at < len(content):
        size, kind = int.from_bytes(content[at : at + 4]), content[at + 4 : at + 8]
        data += content[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += 12 + size
    return width, height, len(set(zlib.decompress(data)))


def test_maximal_moments_have_a_table(report):
    _, text = report
    table = text.split("<h3>Maximal moments</h3>")[1].split("</table>")[0]
    assert "at &lt;b&gt;ease" in table
    for value in ("51.2", "80.0", "52.0"):
        assert value in table


def test_page_is_complete_and_loads_nothing_from_outside(report):
    path, text = report
    page = Page(text)
    assert path.name == "report.html"
    assert not re.search(r"https?://|//cdn|@import|url\(", text)
    assert "<script" not in text
    for link in page.links:
        assert link.startswith(("#", "data:image/png;base64,")), link
        if link.startswith("#"):
            assert f'id="{link[1:]}"' in text
    assert all(image["alt"] for image in page.images)
    assert len(text) < 3_000_000
    # Names are text, never markup.
    assert "Test & <b>subject</b>" in page.text
    assert "A <note> to keep." in page.text
    assert "<b>subject" not in text
    assert "0f" * 32 in page.text
    assert "SYNTHETIC" not in page.text


def test_metrics_table_has_the_numbers_of_evaluate(study, report):
    subject, train, held_out, _ = study
    rows = [r for r in Page(report[1]).rows("metrics", report[1]) if r]
    expected = []
    for k in range(len(COORDINATES)):
        for segments in (train, *held_out.values()):
            for name, params in (("uncalibrated", subject.start), ("calibrated", subject.params)):
                m = evaluate(subject.model, params, segments)[k]
                numbers = [f"{m.rmse:.2f}", f"{100 * m.nrmse:.1f}", f"{m.r2:.2f}", f"{m.r:.2f}", str(m.samples)]
                expected.append([name, *(n.replace("-", "−") for n in numbers)])
    assert rows == expected
    assert 'class="held' in report[1]
    # And metrics.json, made from these, has the same numbers.
    tabulated = tabulate(subject.model, subject.start, subject.params, train, held_out)
    scores = [m for s in collect(subject, train, held_out, None).scores for m in (s.before, s.after)]
    assert sorted(row["rmse"] for row in tabulated) == sorted(m.rmse for m in scores if m is not None)


def test_figures_are_files_and_embedded(report):
    path, text = report
    files = sorted(p.stem for p in (path.parent / "figures").glob("*.png"))
    names = {"moments_mean", "moments_training", "moments_held_out_1", "excitations", "fibers", "parameters"}
    assert set(files) == names | {"convergence"}
    assert len(Page(text).images) == len(files)
    for name in files:
        width, height, values = _png_pixels((path.parent / "figures" / f"{name}.png").read_bytes())
        assert width >= 700
        assert height >= 200
        assert values > 20, f"{name} is blank"
    assert not list(path.parent.rglob(".*"))


def test_parameters_at_their_bound_are_flagged(study, report):
    result = study[3]
    page = Page(report[1])
    assert "max_isometric_force:flexor" in result.at_bounds
    assert f"{len(result.at_bounds)} ended at a bound" in page.text
    assert "Maximum isometric force (flexor)" in page.text
    evidence = collect(*study[:3], result)
    by_name = {f"{f.kind}:{f.label}": f for f in evidence.fitted}
    assert {n for n, f in by_name.items() if f.at_bound} == set(result.at_bounds)
    flexor = by_name["max_isometric_force:flexor"]
    assert (flexor.low, flexor.high) == pytest.approx((0.9, 1.1))
    assert flexor.position == pytest.approx(1.1, rel=1e-6)
    assert flexor.value == pytest.approx(900 * 1.1, rel=1e-6)
    delay = by_name["electromechanical_delay:all"]
    assert (delay.low, delay.high, delay.origin) == pytest.approx((0.0, 0.13, 0.03))
    assert delay.position == pytest.approx(float(study[0].params.electromechanical_delay[0]))
    assert delay.prior == pytest.approx((0.01, 0.05))
    assert delay.members == CHANNELS


def test_start_is_recovered_when_the_subject_has_none(study):
    subject, train, held_out, result = study
    evidence = collect(dataclasses.replace(subject, start=None), train, held_out, result)
    assert evidence.start is not None
    for kind in PARAMETER_KINDS:
        np.testing.assert_allclose(getattr(evidence.start, kind), getattr(subject.start, kind), rtol=1e-6)


def test_without_a_result_bounds_come_from_the_subject(study, tmp_path):
    subject, train, held_out, _ = study
    value = float(subject.params.max_isometric_force[0])
    known = dataclasses.replace(
        subject,
        bounds={"max_isometric_force": {"flexor": (810.0, value), "extensor": (630.0, 5000.0)}},
        prior_sd={"max_isometric_force": {"flexor": 270.0}},
        calibration={"status": "CONVERGED", "windows": ["a", "b"], "cost": 12.5},
    )
    evidence = collect(known, train, held_out, None)
    assert [(f.label, f.at_bound) for f in evidence.fitted] == [("flexor", True), ("extensor", False)]
    assert evidence.fitted[0].prior == pytest.approx((0.7, 1.3))
    assert evidence.fitted[0].sds == pytest.approx((value - 900) / 270)
    text = Page(write_report(tmp_path, subject=known, train=train, held_out=held_out).read_text("utf-8")).text
    assert "CONVERGED" in text
    assert "No record of the solver was given" in text


def test_passive_muscles_are_named(study, report):
    text = Page(report[1]).text
    assert "Passive, because nothing drives them (1): two_joint" in text
    force = np.asarray(study[0].params.max_isometric_force)
    ankle = 0.04 * force[2] / (0.04 * force[2] + 0.03 * force[1])
    assert f"Ankle (right) {100 * ankle:.0f} %" in text
    assert "Muscles without a channel, which act passively here" in text


def test_no_held_out_data_is_said_loudly(study, tmp_path):
    subject, train, _, result = study
    text = write_report(tmp_path, subject=subject, train=train, held_out={}, result=result).read_text("utf-8")
    page = Page(text)
    assert "Not validated: no held-out data exist." in page.text
    assert "none exists" in page.text
    assert 'class="alarm"' in text
    assert "Do not judge this calibration" in page.text
    assert 'class="verdict bad"' in text


def test_windows_without_measured_moments_are_drawn_not_scored(study, tmp_path):
    subject, train, held_out, result = study
    unmeasured = _segment(subject.model, 8.0)
    path = write_report(
        tmp_path, subject=subject, train=train, held_out={**held_out, "new": [unmeasured]}, result=result
    )
    text = Page(path.read_text("utf-8")).text
    assert "no measured moments: new (1 of 1 window)" in text
    assert "No measured moments: predictions only." in text
    assert len(collect(subject, train, {"new": [unmeasured]}, result).scores) == len(COORDINATES)
    only = Page(
        write_report(
            tmp_path / "only",
            subject=dataclasses.replace(subject, start=None),
            train=[],
            held_out={"new": [unmeasured]},
        ).read_text("utf-8")
    ).text
    assert "nothing to compare with" in only
    assert "never calibrated" in only


def test_elastic_passive_free_and_many_windows(study, tmp_path):
    """Another shape of everything: elastic tendon, no passive muscle, more windows and sets than drawn, odd names."""
    model = dataclasses.replace(_model("elastic", passive=False), channels=("emg $1", "x_{2}$ <i>"))
    start = make_params(model, PARAMETERS)
    windows = [_segment(model, 1.0 * i, start, noise=1.0) for i in range(8)]
    sets = {f"set {i}": [windows[i], windows[7]] for i in range(6)}
    subject = Subject(name="$", model=model, params=start, start=start, synthetic=True)
    path = write_report(tmp_path, subject=subject, train=windows, held_out=sets)
    page = Page(path.read_text("utf-8"))
    assert "SYNTHETIC" in page.text
    assert "5 of 8 windows drawn" in page.text
    assert "2 more held-out sets not drawn" in page.text
    assert "Every muscle is driven by a recorded channel" in page.text
    assert "is not held out" in page.text
    strain = max(predict_segment(model, start, w).tendon_strain[w.scored].max() for w in windows)
    assert number(100 * strain, 1) in page.text


def _findings(subject, train, held_out, result=None) -> str:
    verdict, findings = judge(collect(subject, train, held_out, result))
    return f"{verdict.headline} {verdict.text} " + " ".join(f.text for f in findings)


def _shifted(segment: Segment, change) -> Segment:
    assert segment.measured is not None
    return dataclasses.replace(segment, measured=change(segment.measured))


def _measured_by(subject: Subject, params, segments) -> list[Segment]:
    """The segments, as if the model with ``params`` had been measured."""
    return [dataclasses.replace(s, measured=predict_segment(subject.model, params, s).moments) for s in segments]


def test_good_predictions_get_a_good_verdict(study):
    subject, train, held_out, result = study
    perfect = {name: _measured_by(subject, subject.params, segments) for name, segments in held_out.items()}
    train = _measured_by(subject, subject.params, train)
    verdict, findings = judge(collect(subject, train, perfect, result))
    assert verdict.headline == "Predicts unseen data well."
    assert "R² 1.00" in verdict.text
    assert not [f for f in findings if f.level == "problem"]


def test_limits_of_fibers_and_tendons_are_the_study_s_own(study, tmp_path):
    subject, train, held_out, _ = study
    own = Penalties(fiber_length_range=(0.9, 1.1), max_tendon_strain=0.045)
    text = write_report(tmp_path, subject=subject, train=train, held_out=held_out, penalties=own).read_text("utf-8")
    page = Page(text)
    assert "leave the working range 0.9–1.1" in page.text
    assert "Time outside 0.9–1.1" in page.text
    assert "shaded: working range 0.9–1.1" in page.text
    assert "0.5–1.5" not in page.text
    lengths = np.concatenate(
        [np.asarray(r.after.fiber_length) for s in collect(subject, train, held_out, None).sets for r in s.runs]
    )
    assert ((lengths > 0.5) & (lengths < 1.5)).all()  # nothing leaves the usual range
    assert "leave the working range" not in _findings(subject, train, held_out)
    outside = ((lengths < 0.9) | (lengths > 1.1)).any(axis=0)
    for muscle, leaves in zip(MUSCLES, outside, strict=True):
        assert bool(re.search(rf'class="flag"><td><code>{muscle}</code>', text)) == leaves
    # The tendon's limit, of the same person with tendons that stretch.
    elastic = dataclasses.replace(subject, model=_model("elastic"), start=None)
    strain = max(predict_segment(elastic.model, elastic.params, w).tendon_strain[w.scored].max() for w in train)
    for limit, said in ((0.5 * strain, True), (2.0 * strain, False)):
        _, findings = judge(collect(elastic, train, {}, None, Penalties(max_tendon_strain=float(limit))))
        assert any(f"Tendon strain exceeds {100 * limit:g} %" in f.text for f in findings) == said


def test_overfit_and_worse_than_uncalibrated_are_problems(study):
    subject, train, held_out, result = study
    uncalibrated = {"other": _measured_by(subject, subject.start, held_out["later strides"])}
    text = _findings(subject, train, uncalibrated, result)
    assert "Calibration made held-out predictions worse" in text
    reversed_sign = {"other": [_shifted(s, lambda m: -m) for s in held_out["later strides"]]}
    text = _findings(subject, train, reversed_sign, result)
    assert "Held-out R² is lower than training R²" in text
    assert "poorly" in text


def test_offset_size_lag_and_leak_are_named(study):
    subject, train, held_out, _ = study
    exact = _measured_by(subject, subject.params, held_out["later strides"])
    assert "offset" not in _findings(subject, train, {"x": exact})
    assert "constant offset: Knee (right), x (−7.0 N·m)" in _findings(
        subject, [], {"x": [_shifted(s, lambda m: m + np.array([7.0, 0.0])) for s in exact]}
    )
    assert "Ankle (right), x (× 0.50, r 1.00)" in _findings(
        subject, [], {"x": [_shifted(s, lambda m: m * np.array([1.0, 2.0])) for s in exact]}
    )
    # The measurement three samples earlier: the prediction is 30 ms late.
    late = [_shifted(s, lambda m: np.vstack([m[3:], np.repeat(m[-1:], 3, axis=0)])) for s in exact]
    assert re.search(r"Shifting the prediction in time.*Knee \(right\) 30 ms late", _findings(subject, [], {"x": late}))
    assert "100 % of the samples of held-out set “x” are in the training windows too" in _findings(
        subject, train, {"x": train}
    )
    assert "training windows too" not in _findings(subject, train, held_out)


def test_fibers_and_excitations_out_of_range_are_named(study):
    subject, train, _, _ = study
    # Nothing leaves the range at the start; a fiber a third as long does.
    assert "working range" not in _findings(subject, train, {})
    short = dataclasses.replace(
        subject.params, optimal_fiber_length=np.asarray(subject.params.optimal_fiber_length) * np.array([1, 1, 0.5])
    )
    out = np.concatenate([predict_segment(subject.model, short, s).fiber_length[s.scored] for s in train])[:, 2]
    text = _findings(dataclasses.replace(subject, params=short), train, {})
    assert f"two_joint ({out.min():.2f}–{out.max():.2f}, {share(float(((out < 0.5) | (out > 1.5)).mean()))}" in text
    loud = dataclasses.replace(subject.params, emg_gain=np.array([9.0, 1.0]))
    assert "at its ceiling more than 5 % of the time in: flexor" in _findings(
        dataclasses.replace(subject, params=loud), train, {}
    )
    silent = dataclasses.replace(subject.params, emg_gain=np.array([1.0, 1e-3]))
    assert "Excitation never exceeds 0.02 in: extensor" in _findings(
        dataclasses.replace(subject, params=silent), train, {}
    )


def test_other_emg_level_in_a_held_out_set_is_named(study):
    subject, train, held_out, _ = study

    def fainter(s: Segment) -> Segment:
        emg = np.asarray(s.replay.excitations) * np.array([0.3, 1.0])
        return dataclasses.replace(s, replay=dataclasses.replace(s.replay, excitations=emg))

    faint = {"faint": [fainter(s) for s in held_out["later strides"]]}
    assert re.search(r"Mean excitation in a held-out set.*flexor, faint", _findings(subject, train, faint))
    assert "Mean excitation" not in _findings(subject, train, held_out)


def test_held_out_windows_that_leave_what_the_fit_has_seen_are_named(study):
    subject, train, held_out, _ = study
    seen = dataclasses.replace(subject, trained=trained_range(train))
    assert "has seen" not in _findings(seen, train, held_out)

    def faster(s: Segment) -> Segment:
        emg = np.asarray(s.replay.excitations) * np.array([1.5, 1.0])
        return dataclasses.replace(s, replay=dataclasses.replace(s.replay, excitations=emg), qd=2.0 * s.qd)

    running = {"running": [faster(s) for s in held_out["later strides"]]}
    text = _findings(seen, train, running)
    assert re.search(r"Held-out windows leave the EMG and motion that the fit has seen: “running”: .*speed of", text)
    assert re.search(r"EMG of emg flexor \d+ % of the samples, by up to 0.50 × the largest in training", text)
    assert re.search(r"speed of Ankle \(right\) \d+ % of the samples, by up to 0.5\d × the width", text)
    assert "EMG of emg extensor" not in text
    assert "angle of" not in text
    assert "has seen" not in _findings(subject, train, running)  # of an older file nobody knows
    assert "has seen" not in _findings(seen, [faster(s) for s in train], held_out)  # it is about held-out windows


def test_saturation_says_where_and_whether_the_gain_is_at_its_bound(study):
    subject, train, _, _ = study
    loud = dataclasses.replace(
        subject,
        params=dataclasses.replace(subject.params, emg_gain=np.array([5.0, 1.0])),
        bounds={"emg_gain": {"emg flexor": (0.1, 5.0), "emg extensor": (0.1, 5.0)}},
    )
    emg = np.concatenate([np.asarray(s.replay.excitations)[-len(s.time) :][s.scored, 0] for s in train])
    text = _findings(loud, train, {})
    said = re.search(r"of the time in: flexor \((\d+) % of training windows, gain at its bound\)\.", text)
    assert said is not None
    assert int(said[1]) == pytest.approx(100 * np.mean(5.0 * emg >= 1.0), abs=4)


def test_delays_and_time_constants_near_a_bound_or_beyond_what_is_published_are_named(study):
    subject, train, held_out, result = study
    assert "Delays or time constants ended" not in _findings(subject, train, held_out)
    late = dataclasses.replace(subject.params, electromechanical_delay=np.full(2, 0.122))
    slow = dataclasses.replace(late, filter_time_constant_1=np.full(3, 0.075))
    bounds = {
        "electromechanical_delay": dict.fromkeys(CHANNELS, (0.0, 0.13)),
        "filter_time_constant_1": dict.fromkeys(MUSCLES, (0.005, 0.080)),
    }
    text = _findings(dataclasses.replace(subject, params=slow, bounds=bounds), train, held_out)
    assert "Electromechanical delay (emg flexor) 122 ms, allowed 0 to 130 ms" in text
    assert "Activation filter, time constant 1 (flexor) 75 ms, allowed 5 to 80 ms" in text
    assert re.search(r"Outside the 10 to 100 ms that are published .*: Electromechanical delay \(emg flexor\)", text)
    # One shared by all channels is named as such.
    far = (0.122 - 0.03) / 0.02
    i = result.layout.names.index("electromechanical_delay:all")
    moved = dataclasses.replace(result, z=np.where(np.arange(len(result.z)) == i, far, result.z))
    text = _findings(dataclasses.replace(subject, params=late), train, held_out, moved)
    assert "Electromechanical delay (all channels) 122 ms, allowed 0 to 130 ms" in text


@pytest.mark.parametrize(("off", "level"), [(0.0, None), (0.3, "caution"), (2.0, "problem")])
def test_a_posterior_whose_middle_is_not_the_fit_is_named(study, off, level):
    """The middle of few noisy draws misses the fit by itself; that alone is no finding."""
    subject, train, held_out, result = study
    evidence = collect(subject, train, held_out, result)
    n, random = 50, np.random.default_rng(1)

    def band(run) -> Band:
        fit = np.asarray(run.after.moments)
        rmse = np.array([evidence.training_score(c).after.rmse for c in COORDINATES])
        draws = fit + off * rmse + rmse * random.standard_normal((n, *fit.shape))
        low, median, high = np.quantile(draws, (0.05, 0.5, 0.95), axis=0)
        return Band(run.name, 0.9, COORDINATES, run.time, median, low, high, median, draws.std(axis=0), True)

    sets = tuple(
        BandSet(s.label, s.held_out, tuple(band(r) for r in s.runs), tuple(r.measured for r in s.runs), {}, {}, 1)
        for s in evidence.sets
    )
    analysis = SimpleNamespace(bands=sets, draws=np.zeros((n, 1)), identifiability=SimpleNamespace(combinations=()))
    _, findings = judge(dataclasses.replace(evidence, analysis=analysis))
    found = [f for f in findings if "The middle of the posterior is far from the fit" in f.text]
    assert bool(found) == (level is not None)
    if level is not None:
        (finding,) = found
        assert finding.level == level
        rmse = evidence.training_score(COORDINATES[0]).after.rmse
        assert f"the fit's RMSE is {number(rmse, 1)} N·m" in finding.text
        assert "Knee (right), training windows" in finding.text


def test_what_is_hardly_known_and_missed_maximal_moments_are_named(study):
    """Strength against gain where the data leave it to the prior; contractions that the person misses by much."""
    subject, train, held_out, result = study
    row = {"coordinate": COORDINATES[0], "pose": "60°", "measured": 50.0, "tolerance": 5.0, "uncalibrated": 80.0}
    rows = [row | {"calibrated": 58.0}, row | {"pose": "90°", "calibrated": 62.0}]
    evidence = collect(subject, train, held_out, result, maximal=rows)
    known = (Combination("strength against gain", 0.2, 0.19), Combination("balance of antagonists, knee", 0.2, 0.05))
    analysis = SimpleNamespace(bands=(), identifiability=SimpleNamespace(combinations=known))
    _, findings = judge(dataclasses.replace(evidence, analysis=analysis))
    (unknown,) = [f for f in findings if "leave it to the prior" in f.text]
    assert "strength against gain (± 20 % before the fit, ± 19 % after it)" in unknown.text
    assert "balance" not in unknown.text
    assert "[[dynamometer]]" in unknown.advice
    (missed,) = [f for f in findings if "maximal moments are missed" in f.text]
    assert missed.text.startswith("1 of 2 maximal moments")
    assert "Knee (right) at 90° (50.0 measured, 62.0 N·m of the model)" in missed.text


def test_rows_of_bands_have_coverage_and_half_widths():
    time = np.arange(4.0)
    zero = np.zeros((4, 1))
    band = Band("a", 0.9, ("knee",), time, zero, zero - 1, zero + 3, zero, zero, True)
    unmeasured = BandSet("fast", True, (band, band), (None, None), {}, {"knee": 2.0}, 2)
    (row,) = unmeasured.rows()
    assert row == {"split": "held-out", "segment": "fast", "coordinate": "knee", "level": 0.9, "coverage": None,
                   "half_width": 2.0, "windows": 2}  # fmt: skip
    assert dataclasses.replace(unmeasured, coverage={"knee": 0.5}).rows()[0]["coverage"] == 0.5


def test_solver_troubles_are_named(study, tmp_path):
    subject, train, held_out, result = study
    stopped = dataclasses.replace(result, status=Status.MAX_ITERATIONS, costs=np.array([10.0, 20.0]))
    text = _findings(subject, train, held_out, stopped)
    assert "did not converge" in text
    assert "1 of 2 starts ended within 1 % of the lowest cost (10 to 20)" in text
    # A failed fit still gives a page, which says so first.
    broken = [
        dataclasses.replace(s, replay=dataclasses.replace(s.replay, lengths=np.asarray(s.replay.lengths) * np.nan))
        for s in train
    ]
    failed = dataclasses.replace(
        result, status=Status.NOT_FINITE, costs=result.costs * np.nan, history=result.history * np.nan
    )
    page = Page(
        write_report(tmp_path, subject=subject, train=broken, held_out={}, result=failed).read_text(encoding="utf-8")
    )
    assert "The calibration failed." in page.text


def test_nothing_is_written_when_something_fails(study, tmp_path, monkeypatch):
    subject, train, held_out, result = study
    write = {"subject": subject, "train": train, "held_out": held_out, "result": result}
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "report.html").write_text("old")

    def fail(*_):
        raise RuntimeError("broken template")

    with monkeypatch.context() as patch:
        patch.setattr("calibration.report.write._page", fail)
        with pytest.raises(RuntimeError, match="broken template"):
            write_report(folder, **write)
    assert [p.name for p in folder.iterdir()] == ["report.html"]

    # The disk fills up at the third file: what was there stays, and nothing is added.
    done = []

    def full(path, content):
        done.append(path)
        if len(done) == 3:
            raise OSError("no space left")
        with open(path, "wb") as stream:
            stream.write(content)

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_bytes", full)
        with pytest.raises(OSError, match="no space left"):
            write_report(folder, **write)
    assert len(done) == 3
    assert (folder / "report.html").read_text() == "old"
    assert not [p for p in folder.rglob("*") if p.is_file() and p.name != "report.html"]


def test_bad_input_is_refused(study, tmp_path):
    subject, train, _, _ = study
    with pytest.raises(InputError, match="nothing to report on"):
        write_report(tmp_path / "a", subject=subject, train=[], held_out={})
    assert not (tmp_path / "a").exists()
    with pytest.raises(InputError, match="rename it"):
        write_report(tmp_path / "a", subject=subject, train=train, held_out={"training windows": train})
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="needs a folder"):
        write_report(tmp_path / "file", subject=subject, train=train, held_out={})
    other = dataclasses.replace(
        train[0], replay=dataclasses.replace(train[0].replay, lengths=np.ones((len(train[0].time), 2)))
    )
    with pytest.raises(InputError, match="holds 2 muscles"):
        write_report(tmp_path / "b", subject=subject, train=[other], held_out={})


def test_write_metrics(tmp_path):
    rows = [compare("knee", np.zeros(4), np.zeros(4)).row(set="calibrated", n=np.int64(3), x=np.float64(0.1))]
    write_metrics(tmp_path / "metrics.json", rows)
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert (record["format"], record["version"]) == ("nms_gym.metrics", 1)
    assert record["rows"] == [
        {"set": "calibrated", "n": 3, "x": 0.1, "coordinate": "knee", "rmse": 0.0, "nrmse": None, "r2": None, "r": None,
         "samples": 4}
    ]  # fmt: skip
    with pytest.raises(InputError, match="holds something JSON cannot"):
        write_metrics(tmp_path / "metrics.json", [{"a": object()}])
    assert json.loads((tmp_path / "metrics.json").read_text()) == record
    with pytest.raises(InputError, match=r"\.json"):
        write_metrics(tmp_path / "metrics.txt", rows)
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_words():
    assert all(kind.label for kind in KINDS.values())
    assert joint_name("knee_angle_r") == "Knee (right)"
    assert joint_name("hip_flexion_l") == "Hip flexion (left)"
    assert joint_name("r_elbow_flex") == "Elbow flexion (right)"
    assert joint_name("angle") == "Angle"
    assert joint_name("r") == "R"
    assert (number(-0.004), number(-1.25, 1), number(float("nan"))) == ("0.00", "−1.2", "–")
    assert significant(-0.012345) == "−0.01235"
    assert (share(0.0), share(0.004), share(0.5)) == ("0 %", "< 1 %", "50 %")


def testdrawing_leaves_matplotlib_as_it_was_and_importing_loads_none_of_it():
    code = """
import sys, calibration.report.write
assert not {"matplotlib", "jinja2", "PIL"} & set(sys.modules)
import matplotlib
def settings():  # asking for the backend would choose one
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}
matplotlib.rcParams["font.size"] = 3.0
before = settings()
from calibration.report.drawing import drawing
with drawing():
    assert matplotlib.rcParams["font.size"] == 9
assert settings() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert jax.config.jax_enable_x64  # as tests/conftest.py set it
