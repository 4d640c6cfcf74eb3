"""Hidden patients of the personalisation study: who they are, what is recorded, and what calibrations make of it.

Nothing of the hidden person but the recordings reaches a calibration, or a training of anyone but the oracle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import noisy_emg as emg
import numpy as np

HAND = ("r_ulna_radius_hand", np.array([0.0, -0.30, 0.09]))
"""body and m, where a load is held"""
POPULATION_DELAY = 0.03
FLEXORS = ("biceps", "brachialis")
EXTENSORS = ("triceps", "triceps_long")
CHAIN = {**emg.BASE, **emg.WHITE, **emg.POWER, **emg.REST}
"""the best estimate of amplitude in noisy_emg.py"""
MOMENT_NOISE, LEAST_NOISE = 0.05, 0.15
"""of the standard deviation, and N·m"""
LIGHT = 0.2
"""part of the usual excitation in a recording of light efforts: where arms are held"""
TOLERANCE = 0.2
PEOPLE = 8
"""of a posterior"""


@dataclass(frozen=True)
class Patient:
    """Who is hidden, and what was recorded."""

    seed: int
    model: Any
    params: Any
    skeleton: Any
    effort: float
    """part of full excitation that a maximal effort reaches: paresis"""
    recordings: tuple[Any, ...]
    """two to fit, maximal efforts and light ones, of ``noisy_emg``"""
    moments: tuple[np.ndarray, ...]
    reference: tuple[np.ndarray, np.ndarray]
    """(C,) excitation that is 1 of the EMG normalised to maximal efforts, and to the two recordings' own maximum"""
    envelopes: tuple[Any, ...]
    """(time, EMG over that of maximal efforts) of each recording"""
    maximum: np.ndarray
    """raw EMG of a maximal effort, and"""
    relaxed: np.ndarray


def generic() -> tuple[Any, Any, Any, Any]:
    """Model, parameters, skeleton and muscle points of nobody in particular."""
    from nms_gym._assets import asset_path
    from nms_gym.files.model_file import read_model_file
    from nms_gym.model.structure import Settings

    model, params = emg.arm()
    file = read_model_file(asset_path("arm/model.json"))
    # Room for the longest delay that a calibration may find, and an impairment's on top.
    model = dataclasses.replace(model, settings=Settings(tendon="rigid", max_delay=0.2))
    return model, params, file.skeleton, file.muscle_points


def heavier(skeleton: Any, factor: float) -> Any:
    """All masses and inertias times ``factor``."""
    bodies = [dataclasses.replace(b, mass=factor * b.mass, inertia=factor * b.inertia) for b in skeleton.bodies]
    return dataclasses.replace(skeleton, bodies=tuple(bodies))


def loaded(skeleton: Any, mass: float) -> Any:
    """With a point mass (kg) in the hand."""
    name, place = HAND

    def added(body: Any) -> Any:
        if body.name != name:
            return body
        total = body.mass + mass
        center = (body.mass * body.mass_center + mass * place) / total

        def moved(m: float, at: np.ndarray) -> np.ndarray:
            d = at - center
            return m * (d @ d * np.eye(3) - np.outer(d, d))

        inertia = body.inertia + moved(body.mass, body.mass_center) + moved(mass, place)
        return dataclasses.replace(body, mass=total, mass_center=center, inertia=inertia)

    return dataclasses.replace(skeleton, bodies=tuple(added(b) for b in skeleton.bodies))


def hidden_person(seed: int) -> tuple[Any, Any, Any, float]:
    """Model, parameters, skeleton and greatest effort.

    Millard's curves, moment arms by 12 %, fibers by 8 %, each muscle 30 to 60 % weaker, inertia by 15 %, a delay of 30
    to 70 ms, other filters and shapes, efforts of 60 to 100 %.
    """
    from nms_gym.muscle.families import FAMILIES

    rng = np.random.default_rng([seed, 7])
    model, params, skeleton, _ = generic()
    assert model.paths is not None
    count = len(model.muscles)
    arms = rng.uniform(0.88, 1.12, count)
    coefficients = []
    for group, block in zip(model.paths.groups, model.paths.coefficients, strict=True):
        # The first monomial is the length in the middle; all others bend it, and moment arms are its slopes.
        scaled = np.array(block, float)
        scaled[:, 1:] *= arms[list(group.muscles), None]
        coefficients.append(scaled)
    model = dataclasses.replace(
        model,
        paths=dataclasses.replace(model.paths, coefficients=tuple(coefficients)),
        settings=dataclasses.replace(model.settings, curves=FAMILIES["Millard2012"]()),
    )
    filters = rng.uniform(0.015, 0.03)
    truth = dataclasses.replace(
        params,
        max_isometric_force=params.max_isometric_force * rng.uniform(0.4, 0.7, count),
        optimal_fiber_length=params.optimal_fiber_length * rng.uniform(0.92, 1.08, count),
        electromechanical_delay=np.full(len(model.channels), rng.uniform(0.03, 0.07)),
        filter_time_constant_1=np.full(count, filters),
        filter_time_constant_2=np.full(count, filters),
        shape_factor=rng.uniform(-1.5, 0.0, count),
        emg_gain=np.ones(len(model.channels)),
    )
    return model, truth, heavier(skeleton, rng.uniform(0.85, 1.15)), rng.uniform(0.6, 1.0)


def maximal_efforts(rng: np.random.Generator, like: Any, effort: float) -> Any:
    """A recording of the still arm in a dynamometer: 2 s of flexing, then 2 s of extending as hard as can be."""
    t, names = like.raw_time, list(emg.DRIVES)
    excitation = np.full((len(t), len(names)), 0.01)
    for begin, channels in ((0.8, FLEXORS), (3.4, EXTENSORS)):
        on = np.clip(np.minimum(t - begin, begin + 2.0 - t) / 0.2, 0.0, 1.0)
        for c in names:
            excitation[:, names.index(c)] += (effort if c in channels else 0.05) * on
    q = np.tile(emg.MIDDLE, (len(like.time), 1))
    return emg.Recording(like.time, q, t, excitation, emg.raw_emg(rng, excitation))


def make_patient(seed: int) -> Patient:
    from calibration.validation import predict_segment

    rng = np.random.default_rng([seed, 11])
    model, params, skeleton, effort = hidden_person(seed)
    recordings = [emg.record(rng) for _ in range(2)]
    # Nobody moves with more than a maximal effort.
    recordings = [
        dataclasses.replace(r, excitation=effort * r.excitation, raw=emg.raw_emg(rng, effort * r.excitation))
        for r in recordings
    ]
    recordings.append(maximal_efforts(rng, recordings[0], effort))
    light = emg.record(rng)
    drive = LIGHT * effort * light.excitation
    recordings.append(dataclasses.replace(light, excitation=drive, raw=emg.raw_emg(rng, drive)))
    moments = []
    for r in recordings:
        exact = predict_segment(model, params, emg.true_segment(model, r)).moments
        noise = emg.smooth(rng, len(exact), emg.MODEL_STEP, 6.0, exact.shape[1])
        moments.append(exact + np.maximum(MOMENT_NOISE * exact.std(axis=0), LEAST_NOISE) * noise)
    maximum = emg.raw_emg(rng, np.full((round(3 / emg.RAW_STEP), len(emg.DRIVES)), effort))
    relaxed = emg.raw_emg(rng, np.full_like(maximum, emg.RELAXED))
    made = emg.Person(np.zeros(0), params, tuple(recordings), tuple(moments), maximum, relaxed)
    envelopes = emg.envelopes(made, {k: v for k, v in CHAIN.items() if k not in emg.BASE})
    largest = np.max([e.max(axis=0) for _, e in envelopes[:2]], axis=0)
    full = np.full(len(emg.DRIVES), effort)
    return Patient(
        seed, model, params, skeleton, effort, tuple(recordings), tuple(moments), (full, full * largest),
        tuple(envelopes), maximum, relaxed,
    )  # fmt: skip


def calibrated(patients: Sequence[Patient]) -> dict[str, list[tuple[Any, Any]]]:
    """(parameters, people of the posterior or None) of every patient, by what was known.

    "session": EMG normalised to its own maximum in the two recordings, gain and strength free. "maximal": normalised to
    a maximal effort, the gain fixed at 1, and the moments of maximal and of light efforts fitted with the rest. Gains
    are of EMG over that of maximal efforts, whatever it was normalised to.
    """
    from calibration.cohort import fit_cohort
    from calibration.problem import Penalties, Problem, default_free
    from calibration.uncertainty.draws import params_batch, sample
    from calibration.uncertainty.posterior import laplace_cohort

    model, start, _, _ = generic()
    found = {}
    for name, used, fixed in (("session", 2, ()), ("maximal", 4, ("emg_gain",))):
        free = tuple(f for f in default_free(model) if f.kind not in fixed)
        problems, scales = [], []
        for p in patients:
            scale = p.reference[1] / p.reference[0] if name == "session" else np.ones(len(model.channels))
            segments = [
                emg.segment(model, r, t, e / scale, m)
                for r, m, (t, e) in zip(p.recordings[:used], p.moments, p.envelopes, strict=False)
            ]
            problems.append(Problem(model, start, tuple(segments), free, {}, Penalties(moment_tolerance=TOLERANCE)))
            scales.append(scale)
        results = fit_cohort(problems, precision="float32")
        crowds: list[Any] = [None] * len(results)
        if name == "session":
            posteriors = laplace_cohort(problems, results, precision="float32")
            crowds = [
                params_batch(x, sample(x, PEOPLE, seed=p.seed)) for p, x in zip(patients, posteriors, strict=True)
            ]
        found[name] = [
            (rescaled(result.params, scale), None if people is None else rescaled(people, scale))
            for result, people, scale in zip(results, crowds, scales, strict=True)
        ]
    return found


def rescaled(params: Any, scale: np.ndarray) -> Any:
    """Gains for an envelope whose unit is ``scale (C,)`` times smaller."""
    return dataclasses.replace(params, emg_gain=np.asarray(params.emg_gain) / scale)


def strength_error(found: Any, truth: Any) -> float:
    """Root mean square of log strength; 0.1 is about 10 %."""
    miss = np.log(np.asarray(found.max_isometric_force) / np.asarray(truth.max_isometric_force))
    return float(np.sqrt(np.mean(miss**2)))


def save_person(folder: Path, name: str, model: Any, params: Any, skeleton: Any, people: Any = None) -> dict[str, str]:
    """Options of an environment for this person, or for all of ``people`` at random: always ``PEOPLE`` of them, so that
    the same compiled program serves everybody."""
    from nms_gym.files.posterior import save_people
    from nms_gym.files.subject import Subject, save_subject

    subject, crowd = folder / f"{name}.json", folder / f"{name}.npz"
    many = {
        f.name: np.tile(np.asarray(getattr(params, f.name), float), (PEOPLE, 1)) for f in dataclasses.fields(params)
    }
    # A start says that the person was calibrated, so that actions have their delay.
    points = generic()[3]
    save_subject(subject, Subject(name, model, params, start=params, skeleton=skeleton, muscle_points=points))
    save_people(crowd, model, dataclasses.replace(params, **many) if people is None else people)
    return {"subject": str(subject), "posterior": str(crowd)}


def lifts(patient: Patient, folder: Path) -> dict[str, list[str]]:
    """Recordings of the patient lifting the forearm, before they were impaired, in units of a maximal effort: "seen"
    are two with estimated EMG, "known" the same with the exact one, "test" a third one, exact."""
    import build_trials

    from nms_gym.envs.options import HangingArm, TimeOptions
    from nms_gym.envs.person import make_limb
    from nms_gym.envs.sources import OWN
    from nms_gym.excitation.emg import emg_conditioning, process_emg
    from nms_gym.files.subject import Subject
    from nms_gym.recording.trial import Trial

    rng = np.random.default_rng([patient.seed, 13])
    channels = patient.model.channels
    subject = Subject("hidden", patient.model, patient.params, skeleton=patient.skeleton)
    time_options = TimeOptions(dt=build_trials.STEP)
    limb = make_limb(subject, ["r_elbow_flex"], held=HangingArm().held(), default_source=OWN, time=time_options)
    muscles = {c: tuple(emg.DRIVES[c].split()) for c in channels}
    chain = {k: v for k, v in CHAIN.items() if k != "rest"}
    still = emg.RAW_STEP * np.arange(len(patient.maximum))
    conditioning = emg_conditioning(
        [*((r.raw_time, r.raw) for r in patient.recordings), (still, patient.maximum)], channels,
        rest=[(still, patient.relaxed)], **{k: v for k, v in chain.items() if k != "amplitude"},
    )  # fmt: skip

    def envelope(t: np.ndarray, raw: np.ndarray) -> Any:
        return process_emg(t, raw, channels, **chain, conditioning=conditioning, normalise="none", step=0.005)

    full = np.median(envelope(still, patient.maximum).emg[100:-100], axis=0)
    found: dict[str, list[str]] = {"seen": [], "known": [], "test": []}
    for i in range(3):
        angle = np.radians(build_trials.smooth_angle(rng, 60.0, 30.0, 1.6 + 0.2 * i))
        drive, q, qd = build_trials.simulate(limb, angle, 15.0, 1.0, muscles)
        time = build_trials.STEP * np.arange(len(q))
        fine = np.arange(-emg.LEAD, time[-1] + emg.LEAD, emg.RAW_STEP)
        dense = np.stack([np.interp(fine, time, column) for column in drive.T], axis=1)
        estimate = envelope(fine, emg.raw_emg(rng, dense))
        kinds = {"test": (time, drive / patient.effort)}
        if i < 2:
            kinds = {"seen": (estimate.time, estimate.emg / full), "known": (time, drive / patient.effort)}
        for kind, (emg_time, values) in kinds.items():
            trial = Trial(
                name=f"lift_{i}", time=time, coordinates=("r_elbow_flex",), q=q, qd=qd, channels=limb.recorded,
                emg_time=emg_time, emg=values, synthetic=True,
            )  # fmt: skip
            path = folder / f"{patient.seed}-{kind}-{i}.npz"
            trial.save(path)
            found[kind].append(str(path))
    return found
