"""What the model leaves unexplained, learned: measured moments = model + discrepancy + noise.

The errors of a calibrated person are not noise. Most of an error is the same in every stride: muscles without EMG,
passive joint tissue, a shape of a curve. Kennedy & O'Hagan (2001, 10.1111/1467-9868.00294) put a Gaussian process
beside the model for it, here one per joint over what the model sees: angles, speeds, activations. Near the recordings
it corrects the prediction; away from them it returns to zero and its standard deviation to the size that the errors
had, so that bands widen where a prediction leaves what was trained on.

Departures from the paper. The person is fitted first and the discrepancy to what is left (a modular fit; Liu, Bayarri &
Berger 2009, 10.1214/09-BA404), so that a flexible correction cannot explain away the person. Of neighbouring samples of
a low-passed moment only some are independent: size and noise are chosen by the marginal likelihood of every n-th sample
(the mean over its n subsets), and the process is conditioned on all samples with n times the noise. The likelihood
knows nothing of how one repetition differs from the next: every window is predicted from the others, and where its
errors are larger than was said, both standard deviations are raised until nine of ten are inside their 90 % band. And
one recording cannot tell how the discrepancy of the next one differs at equal inputs: between recordings it is taken to
be correlated by ``BETWEEN_RECORDINGS`` only.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.spatial.distance import cdist

from calibration.validation import Metrics, compare, predict_people, predict_segment
from nms_gym.errors import InputError, listed
from nms_gym.model.forward import NmsOutput
from nms_gym.model.parameters import NmsParams
from nms_gym.model.replay import Segment
from nms_gym.model.structure import NmsModel
from nms_gym.recording.npz import names_of, number_of, read_npz, text_of
from nms_gym.recording.storage import atomic_path

FORMAT = "nms-gym-discrepancy"
VERSION = 1
# Length scales, in standard deviations of the training samples. Angles and speeds say where in the movement a sample
# is; activations, several and noisier, how it is done.
MOTION_LENGTH, ACTIVATION_LENGTH = 2.0, 3.0
# Samples that a process is conditioned on; a prediction costs as many products per sample.
MOST_POINTS = 400
# Noise over discrepancy variance, what the marginal likelihood chooses from.
NOISE_RATIOS = tuple(float(r) for r in np.geomspace(0.02, 50.0, 24))
# Correlation of the discrepancies of two recordings at equal inputs.
BETWEEN_RECORDINGS = 0.9
# A single window is left out in this many blocks.
BLOCKS = 4
# Part of the errors that should be within this many standard deviations.
LEVEL, NORMAL_QUANTILE = 0.9, 1.6449
# Prior of that ratio, log-normal: median and standard deviation of its logarithm. Independent samples of one stride are
# too far from each other to tell the two apart; what differs between strides is a tenth of what they have in common.
USUAL_RATIO, USUAL_SPREAD = 0.1, 1.0
# An input that hardly varies in training would make every other value infinitely far away.
LEAST_SPREAD = 1e-3


@dataclass(frozen=True)
class Discrepancy:
    """Gaussian processes, one per joint, given the errors of one person on the training windows."""

    coordinates: tuple[str, ...]
    """K joints"""
    inputs: tuple[str, ...]
    """F names: ``angle of``, ``speed of`` every joint, ``activation of`` a muscle of every recorded channel"""
    length: np.ndarray
    """(F,) length scale of each input, in its unit"""
    points: np.ndarray
    """(N, F) inputs of the samples it was given"""
    recordings: np.ndarray
    """(N,) names of the recordings that they are of"""
    errors: np.ndarray
    """(N, K) N·m, measured minus predicted there"""
    sd: np.ndarray
    """(K,) N·m, of the discrepancy where nothing is known"""
    noise: np.ndarray
    """(K,) N·m, of what is left, of one sample"""
    dependent: float
    """samples per independent one"""
    rows: np.ndarray
    """(N,) which of the counted samples of all training windows they are"""

    @functools.cached_property
    def _factors(self) -> tuple[np.ndarray, ...]:
        """Cholesky factors of the covariances of the N samples, lower, by joint."""
        correlation = _correlation(self.points, self.points, self.length) * _alike(self.recordings, self.recordings)
        return tuple(
            cho_factor(s**2 * correlation + self.dependent * n**2 * np.eye(len(correlation)), lower=True)[0]
            for s, n in zip(self.sd, self.noise, strict=True)
        )

    def _covariance_with(self, inputs: np.ndarray, recording: str) -> np.ndarray:
        """(T, N) correlation of samples of a recording with the points."""
        return _correlation(inputs, self.points, self.length) * _alike(np.array([recording]), self.recordings)

    def mean(self, inputs: np.ndarray, recording: str, errors: np.ndarray | None = None) -> np.ndarray:
        """Correction ``(T, K)``, or ``(T, n, K)``, N·m at inputs ``(T, F)``, to be added to the model's moments.

        Args:
            inputs: from ``discrepancy_inputs``.
            recording: that they are of; see ``Segment.recording``.
            errors: (N, K) or (N, n, K) N·m, of another person, or many, at the same samples; by default those it was
                made from.
        """
        given = self.errors if errors is None else errors
        across = self._covariance_with(inputs, recording)
        columns = [
            s**2 * across @ cho_solve((f, True), given[..., k])
            for k, (s, f) in enumerate(zip(self.sd, self._factors, strict=True))
        ]
        return np.stack(columns, axis=-1)

    def spread(self, inputs: np.ndarray, recording: str) -> np.ndarray:
        """Standard deviation ``(T, K)`` N·m of the correction at inputs ``(T, F)``: ``sd`` far from the recordings."""
        across = self._covariance_with(inputs, recording)
        columns = []
        for s, factor in zip(self.sd, self._factors, strict=True):
            explained = np.sum(solve_triangular(factor, s**2 * across.T, lower=True) ** 2, axis=0)
            columns.append(np.sqrt(np.maximum(s**2 - explained, 0.0)))
        return np.stack(columns, axis=1)


def _alike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation between recordings, (len(a), len(b))."""
    return np.where(a[:, None] == b[None, :], 1.0, BETWEEN_RECORDINGS)


def _correlation(a: np.ndarray, b: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Squared exponential, (len(a), len(b))."""
    return np.exp(-0.5 * cdist(a / length, b / length, "sqeuclidean"))


def discrepancy_inputs(model: NmsModel, segment: Segment, output: NmsOutput) -> tuple[tuple[str, ...], np.ndarray]:
    """What a discrepancy depends on: names and ``(T, F)`` values at every sample, lead-in included.

    Raises:
        InputError: the recording lacks the motion of a joint whose moments are compared.
    """
    missing = [c for c in segment.coordinates if c not in segment.moving]
    if missing or segment.q is None or segment.qd is None:
        raise InputError(
            f"{segment.name}: the recording lacks angles of {listed(missing)}, which the model's "
            "discrepancy depends on; add them to the recording, or leave the discrepancy out"
        )
    weights = np.asarray(model.channel_weights, float)
    muscles = [int(np.argmax(weights[:, model.channels.index(c)])) for c in model.recorded_channels]
    names = [f"{what} of {c}" for what in ("angle", "speed") for c in segment.coordinates]
    names += [f"activation of {model.muscles[m]}" for m in muscles]
    columns = [segment.moving.index(c) for c in segment.coordinates]
    motion = [segment.q[:, columns], segment.qd[:, columns]]
    return tuple(names), np.concatenate([*motion, np.asarray(output.activation)[:, muscles]], axis=1)


def fit_discrepancy(
    model: NmsModel,
    params: NmsParams,
    segments: Sequence[Segment],
    *,
    moment_bandwidth: float = 6.0,
    excess: Sequence[float] | float = 1.0,
) -> Discrepancy:
    """Learn what a person's model leaves unexplained on training windows.

    Args:
        model: structure.
        params: the calibrated person.
        segments: training windows, with measured moments.
        moment_bandwidth: Hz; moments low-passed here hold this many times two independent samples per second.
        excess: by which errors of stretches that were not fitted are larger than those of ``segments``, a value or one
            per joint: ``Noise.excess``. Without it the parameters are taken to have fitted none of the errors away.

    Raises:
        InputError: no window, or one without measured moments or motion.
    """
    if not segments:
        raise InputError("no training window to learn a discrepancy from")
    inputs, errors = [], []
    names: tuple[str, ...] = ()
    for s in segments:
        output = predict_segment(model, params, s)
        names, values = discrepancy_inputs(model, s, output)
        inputs.append(values[s.scored])
        errors.append(training_errors(s, np.asarray(output.moments)))
    found = learn(segments, names, inputs, errors, moment_bandwidth=moment_bandwidth)
    return dataclasses.replace(found, sd=found.sd * excess, noise=found.noise * excess)


def learn(
    segments: Sequence[Segment],
    names: tuple[str, ...],
    inputs: Sequence[np.ndarray],
    errors: Sequence[np.ndarray],
    *,
    moment_bandwidth: float = 6.0,
) -> Discrepancy:
    """A discrepancy from errors however they were made.

    Args:
        segments: training windows.
        names: of the F inputs.
        inputs: of every window, its counted samples ``(T, F)``.
        errors: likewise, ``(T, K)`` N·m, measured minus predicted.
        moment_bandwidth: Hz, see ``fit_discrepancy``.
    """
    x, e = np.concatenate(inputs), np.concatenate(errors)
    recordings = np.repeat([s.recording for s in segments], [len(v) for v in errors])
    count = len(segments[0].coordinates)
    least = LEAST_SPREAD * np.maximum(np.abs(x).max(axis=0), 1.0)
    scales = np.where(np.arange(x.shape[1]) < 2 * count, MOTION_LENGTH, ACTIVATION_LENGTH)
    length = np.maximum(x.std(axis=0), least) * scales
    dependent = max(1.0, 1.0 / (2.0 * moment_bandwidth * float(segments[0].replay.dt)))
    sd, noise = np.transpose([_sizes(x, e[:, k], length, round(dependent)) for k in range(count)])
    windows = np.repeat(np.arange(len(segments)), [len(v) for v in errors])
    if len(segments) == 1:
        windows = np.arange(len(x)) * BLOCKS // len(x)
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).round().astype(int))
    found = Discrepancy(
        coordinates=segments[0].coordinates,
        inputs=names,
        length=length,
        points=x[kept],
        recordings=recordings[kept],
        errors=e[kept],
        sd=sd,
        noise=noise,
        # Fewer samples are less dependent.
        dependent=max(1.0, dependent * len(kept) / len(x)),
        rows=kept,
    )
    excess = _left_out(found, windows[kept])
    return dataclasses.replace(found, sd=sd * excess, noise=noise * excess)


def _left_out(found: Discrepancy, windows: np.ndarray) -> np.ndarray:
    """(K,) by what standard deviations must be multiplied, at least 1, for windows predicted from the others."""
    standard = np.empty_like(found.errors)
    for window in np.unique(windows):
        out = windows == window
        rest = dataclasses.replace(
            found, points=found.points[~out], recordings=found.recordings[~out], errors=found.errors[~out]
        )
        asked = found.points[out], str(found.recordings[out][0])
        sd = np.sqrt(rest.spread(*asked) ** 2 + found.noise**2)
        standard[out] = (found.errors[out] - rest.mean(*asked)) / sd
    return np.maximum(np.quantile(np.abs(standard), LEVEL, axis=0) / NORMAL_QUANTILE, 1.0)


@dataclass(frozen=True)
class Corrections:
    """A discrepancy for each of many people: the same processes, given each one's own errors."""

    discrepancy: Discrepancy
    params: NmsParams
    """of the person that it was learned for, whose activations are its inputs"""
    errors: np.ndarray
    """(n, N, K) N·m, measured minus predicted"""

    def drawn(self, model: NmsModel, segment: Segment, moments: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What would be measured ``(n, T, K)`` N·m: moments of the people with a draw of discrepancy and noise, whose
        samples are independent of each other."""
        found = self.discrepancy
        _, inputs = discrepancy_inputs(model, segment, predict_segment(model, self.params, segment))
        # The mean is linear in the errors: all people at once.
        asked = inputs, segment.recording
        mean = found.mean(*asked, self.errors.transpose(1, 0, 2)).transpose(1, 0, 2)
        sd = np.sqrt(found.spread(*asked) ** 2 + found.noise**2)
        return moments + mean + sd * rng.standard_normal(moments.shape)


def make_corrections(
    discrepancy: Discrepancy, model: NmsModel, params: NmsParams, people: NmsParams, segments: Sequence[Segment]
) -> Corrections:
    """The discrepancy of ``params`` for the people ``(n, ...)``, given the windows that it was learned on."""
    errors = np.concatenate(
        [(np.asarray(s.measured) - predict_people(model, people, s))[:, s.scored] for s in segments], axis=1
    )
    return Corrections(discrepancy, params, errors[:, discrepancy.rows])


def save_corrections(path: str | os.PathLike[str], corrections: Corrections) -> None:
    """Write a discrepancy and everyone's errors to an ``.npz``; the person's parameters are the subject file's."""
    arrays: dict[str, Any] = {f.name: np.asarray(getattr(corrections.discrepancy, f.name)) for f in _FIELDS}
    arrays |= {"people": corrections.errors.astype(np.float32)}
    arrays |= {"format": np.array(FORMAT), "version": np.array(VERSION)}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def load_corrections(path: str | os.PathLike[str], params: NmsParams) -> Corrections:
    """Read what ``save_corrections`` wrote.

    Args:
        path: of the file.
        params: of the person, from the subject file beside it.

    Raises:
        InputError: not such a file, of another version, or its arrays do not fit together.
    """
    head = read_npz(path, ("format", "version"))
    kind = (text_of(head.get("format")), number_of(head.get("version")))
    if kind != (FORMAT, VERSION):
        raise InputError(f"{path}: format and version are {kind}; this program reads {(FORMAT, VERSION)}")
    stored = cast("dict[str, np.ndarray]", read_npz(path))
    missing = [name for name in (*(f.name for f in _FIELDS), "people") if name not in stored]
    if missing:
        raise InputError(f"{path}: lacks {listed(missing)}; calibrate again with a posterior")
    texts = {name: names_of(stored[name], f"{path}: {name}") for name in ("coordinates", "inputs")}
    axes = {"points": 2, "people": 3, "dependent": 0}
    wrong = [name for name, count in axes.items() if stored[name].ndim != count]
    wrong += [n for n in _NUMBERS if stored[n].dtype.kind != "f"]
    wrong += [n for n, kinds in (("rows", "iu"), ("recordings", "U")) if stored[n].dtype.kind not in kinds]
    if wrong:
        raise InputError(f"{path}: {listed(wrong)} of the wrong type or number of axes; calibrate again")
    (points, inputs), joints, people = stored["points"].shape, len(texts["coordinates"]), stored["people"]
    shapes = {
        "inputs": (inputs,),
        "length": (inputs,),
        "recordings": (points,),
        "errors": (points, joints),
        "sd": (joints,),
        "noise": (joints,),
        "rows": (points,),
    }
    wrong = [name for name, shape in shapes.items() if np.shape(stored[name]) != shape]
    wrong += [] if people.shape[1:] == (points, joints) else ["people"]
    wrong += [n for n in _NUMBERS if not np.isfinite(stored[n]).all()]
    wrong += [n for n in ("length", "sd", "noise") if (stored[n] < 0).any() or (n == "length" and not stored[n].all())]
    if wrong:
        raise InputError(f"{path}: {listed(wrong)} not finite, negative or of the wrong size; calibrate again")
    found = Discrepancy(
        coordinates=texts["coordinates"],
        inputs=texts["inputs"],
        length=stored["length"],
        points=stored["points"],
        recordings=stored["recordings"],
        errors=stored["errors"],
        sd=stored["sd"],
        noise=stored["noise"],
        dependent=float(stored["dependent"]),
        rows=stored["rows"],
    )
    return Corrections(found, params, people.astype(float))


_FIELDS = dataclasses.fields(Discrepancy)
_NUMBERS = ("length", "points", "errors", "sd", "noise", "dependent", "people")


def corrected_moments(
    model: NmsModel, discrepancy: Discrepancy, segment: Segment, output: NmsOutput
) -> tuple[np.ndarray, np.ndarray]:
    """Moments with the discrepancy added and the standard deviation of what would be measured, each ``(T, K)`` N·m.

    Raises:
        InputError: the recording or the model has other joints or muscles than the discrepancy was learned with.
    """
    names, inputs = discrepancy_inputs(model, segment, output)
    if names != discrepancy.inputs:
        raise InputError(
            f"{segment.name}: the discrepancy was learned for {listed(discrepancy.inputs, 30)}; here there are "
            f"{listed(names, 30)}; use the person's own model and joints"
        )
    asked = inputs, segment.recording
    sd = np.sqrt(discrepancy.spread(*asked) ** 2 + discrepancy.noise**2)
    return np.asarray(output.moments) + discrepancy.mean(*asked), sd


def evaluate_corrected(
    model: NmsModel, params: NmsParams, discrepancy: Discrepancy, segments: Sequence[Segment]
) -> list[Metrics]:
    """``validation.evaluate`` of model and discrepancy together."""
    predicted, measured = [], []
    for s in segments:
        output = predict_segment(model, params, s)
        predicted.append(corrected_moments(model, discrepancy, s, output)[0][s.scored])
        measured.append(np.asarray(s.measured)[s.scored])
    p, m = np.concatenate(predicted), np.concatenate(measured)
    return [compare(c, p[:, k], m[:, k]) for k, c in enumerate(discrepancy.coordinates)]


def training_errors(segment: Segment, moments: np.ndarray) -> np.ndarray:
    """Measured minus predicted ``(N, K)`` N·m over the counted samples."""
    if segment.measured is None:
        raise InputError(f"{segment.name}: no measured moments, so nothing is known of the model's error")
    return (segment.measured - moments)[segment.scored]


def _sizes(x: np.ndarray, e: np.ndarray, length: np.ndarray, every: int) -> tuple[float, float]:
    """Standard deviations of discrepancy and noise, by marginal likelihood; the size has a closed form, the ratio has a
    prior and is searched."""
    total = np.zeros(len(NOISE_RATIOS))
    variance = np.zeros(len(NOISE_RATIOS))
    ratios = np.array(NOISE_RATIOS)
    for first in range(every):
        rows = slice(first, None, every)
        values, vectors = np.linalg.eigh(_correlation(x[rows], x[rows], length))
        power = (vectors.T @ e[rows]) ** 2
        spectrum = np.maximum(values, 0.0)[None, :] + ratios[:, None]
        size = np.mean(power / spectrum, axis=1)
        total -= 0.5 * (np.log(spectrum).sum(axis=1) + len(power) * np.log(size))
        variance += size / every
    prior = -0.5 * (np.log(ratios / USUAL_RATIO) / USUAL_SPREAD) ** 2
    best = int(np.argmax(total / every + prior))
    return float(np.sqrt(variance[best])), float(np.sqrt(variance[best] * ratios[best]))
