"""What a reader should know of a calibration, and what to do about each.

The limits below are conventions of this report, chosen to point a reader at what deserves a look. They are no test of
significance, and a model may be good enough for one question with numbers that are too poor for another. How long a
fiber and how strained a tendon may be is the study's to say (``Penalties``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from calibration.fitting import Status
from calibration.report.evidence import Evidence, Fitted, Score
from calibration.report.names import joint_name, number, percent, plural, share, some
from calibration.uncertainty.analysis import BandSet
from nms_gym.model.parameters import KINDS
from nms_gym.model.trained_range import Departure

GOOD_R2, FAIR_R2 = 0.8, 0.6
OVERFIT_GAP = 0.1
WORSE_BY = 0.005
FAR_SDS = 2.0
FAR_TOLERANCES = 2.0
LAG, LAG_GAIN = 0.015, 0.02
OFFSET_SHARE = 0.5
SIZE_RANGE = (0.75, 1.33)
SIZE_R = 0.85
SATURATED, SATURATED_SHARE = 0.97, 0.05
SILENT = 0.02
LEVEL_RATIO, LEVEL_DIFFERENCE = 2.0, 0.05
UNDRIVEN_SHARE = 0.25
LEAKED_SHARE = 0.02
UNSOLVED = 1e-6
SAME_COST = 0.01
NEAR_BOUND = 0.1
FAR_POSTERIOR, ANOTHER_POSTERIOR = 0.1, 0.5
PUBLISHED_DELAY = (0.010, 0.100)
"""s; Buchanan et al. 2004 (10.1123/jab.20.4.367)"""
TIMING = (
    "electromechanical_delay",
    "filter_time_constant_1",
    "filter_time_constant_2",
    "activation_time_constant",
    "deactivation_time_constant",
)

Level = Literal["problem", "caution", "note"]
LEVELS: tuple[Level, ...] = ("problem", "caution", "note")


@dataclass(frozen=True)
class Finding:
    """Something a reader should know, and what to do about it."""

    level: Level
    text: str
    advice: str = ""


def where(score: Score) -> str:
    """Joint and set of windows."""
    return f"{joint_name(score.coordinate)}, {score.windows.label}"


def sentence(text: str) -> str:
    """With a capital and one full stop."""
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _solver(evidence: Evidence) -> list[Finding]:
    result = evidence.result
    if result is None:
        return []
    found = []
    if result.status is Status.NOT_FINITE:
        found.append(
            Finding(
                "problem", "No start of the solver had a finite cost.", sentence(result.status.value.split(": ")[-1])
            )
        )
    elif result.status is not Status.CONVERGED:
        found.append(
            Finding(
                "caution",
                f"The solver did not converge: {result.status.value}.",
                "Run the calibration again with a higher iteration limit, or check in section 7 that the cost has "
                "levelled off.",
            )
        )
    costs = result.costs[np.isfinite(result.costs)]
    if len(costs) > 1:
        near = int(np.sum(costs <= (1 + SAME_COST) * costs.min()))
        text = (
            f"{near} of {len(result.costs)} starts ended within {percent(SAME_COST)} of the lowest cost"
            f" ({costs.min():.4g} to {costs.max():.4g})"
        )
        if near == 1:
            found.append(
                Finding(
                    "caution",
                    f"{text}: there are local minima, and the one shown may not be the lowest.",
                    "Use more starts, or tighter priors, until several starts agree.",
                )
            )
        else:
            found.append(Finding("note", f"{text}."))
    elif len(result.costs) == 1:
        found.append(
            Finding(
                "note",
                "Only one start was used; local minima cannot be seen.",
                "Use several starts to see whether they agree.",
            )
        )
    return found


def _validation(evidence: Evidence) -> list[Finding]:
    found = []
    if not evidence.held_out:
        found.append(
            Finding(
                "problem",
                "No held-out data with measured moments exist.",
                "Keep some windows, better a whole trial at another speed or on another day, out of the fit, and "
                "report on them.",
            )
        )
    for windows in evidence.sets:
        if windows.held_out and windows.shared_with_training > LEAKED_SHARE:
            found.append(
                Finding(
                    "problem",
                    f"{percent(windows.shared_with_training)} of the samples of held-out set “{windows.label}” "
                    "are in the training windows too: it is not held out.",
                    f"Remove the training windows from “{windows.label}”.",
                )
            )
    if not evidence.calibrated:
        return found
    overfit, worse = [], []
    for s in evidence.held_out:
        train = evidence.training_score(s.coordinate)
        if train is not None and train.after.r2 - s.after.r2 > OVERFIT_GAP:
            overfit.append(f"{where(s)} ({number(train.after.r2)} → {number(s.after.r2)})")
        if s.before is not None and s.after.r2 < s.before.r2 - WORSE_BY:
            worse.append(f"{where(s)} ({number(s.before.r2)} → {number(s.after.r2)})")
    if worse:
        found.append(
            Finding(
                "problem",
                f"Calibration made held-out predictions worse (R² uncalibrated → calibrated): {some(worse)}.",
                "Where calibration made things worse, compare that recording with the training one first (EMG "
                "amplitude, electrode placement, sign and filter of the moments); then fit fewer parameters or tighten "
                "the priors.",
            )
        )
    if overfit:
        found.append(
            Finding(
                "problem",
                f"Held-out R² is lower than training R² by more than {OVERFIT_GAP:g}, a sign of overfitting or of "
                f"recordings that differ: {some(overfit)}.",
                "Train on more varied windows (several speeds or tasks), free fewer parameters, or tighten the priors.",
            )
        )
    return found


def _agreement(evidence: Evidence) -> list[Finding]:
    found = []
    offset, size, late = [], [], []
    for s in evidence.scores:
        if s.offset**2 > OFFSET_SHARE * s.after.rmse**2 and s.after.r2 < 1 - 1e-3:
            offset.append(f"{where(s)} ({number(s.offset, 1)} N·m)")
        if s.after.r > SIZE_R and not SIZE_RANGE[0] <= s.size <= SIZE_RANGE[1]:
            size.append(f"{where(s)} (× {number(s.size)}, r {number(s.after.r)})")
    for c in evidence.coordinates:
        lag, gain = evidence.lag(c)
        if abs(lag) >= LAG - 1e-9 and gain > LAG_GAIN:
            late.append(f"{joint_name(c)} {abs(1000 * lag):.0f} ms {'late' if lag > 0 else 'early'}")
    if offset:
        found.append(
            Finding(
                "caution",
                f"Most of the remaining error is a constant offset: {some(offset)}.",
                "For a constant offset, check missing muscles, passive joint moments and the zero of the moments.",
            )
        )
    if size:
        found.append(
            Finding(
                "caution",
                f"The shape is right but the size is not (spread predicted over measured): {some(size)}.",
                "Where only the size is wrong, check that EMG is normalised to the same reference in all recordings.",
            )
        )
    if late:
        found.append(
            Finding(
                "caution",
                f"Shifting the prediction in time would improve it: {some(late)}.",
                "For a time shift, check the synchronisation of EMG and motion, and free the delay and the activation "
                "filter.",
            )
        )
    return found


def _parameters(evidence: Evidence) -> list[Finding]:
    found = []
    bound = [f for f in evidence.fitted if f.at_bound]
    if bound:
        found.append(
            Finding(
                "caution",
                f"{len(bound)} of {len(evidence.fitted)} fitted values ended at a bound: "
                f"{some([f'{KINDS[f.kind].label} ({f.label})' for f in bound])}.",
                "At a bound the data ask for more than was allowed. Check the muscle set, the channel map and the "
                "start values of those muscles before widening a bound.",
            )
        )
    far = [f for f in evidence.fitted if f.sds is not None and abs(f.sds) > FAR_SDS and not f.at_bound]
    if far:
        far.sort(key=lambda f: -abs(f.sds or 0.0))
        listing = [f"{KINDS[f.kind].label} ({f.label}, {number(f.sds, 1)} sd)" for f in far]
        found.append(
            Finding(
                "caution",
                f"{plural(len(far), 'fitted value')} moved more than {FAR_SDS:g} prior standard deviations: "
                f"{some(listing, 5)}.",
                "Ask of every value that moved far whether it is plausible for this person, or makes up for something "
                "missing.",
            )
        )
    return found


def _maximal(evidence: Evidence) -> list[Finding]:
    """Maximal contractions that the fitted person misses by much."""
    rows = [r for r in evidence.maximal if abs(r["calibrated"] - r["measured"]) > FAR_TOLERANCES * r["tolerance"]]
    if not rows:
        return []
    listing = [
        f"{joint_name(r['coordinate'])} at {r['pose']} ({number(r['measured'], 1)} measured, "
        f"{number(r['calibrated'], 1)} N·m of the model)"
        for r in rows
    ]
    return [
        Finding(
            "caution",
            f"{len(rows)} of {plural(len(evidence.maximal), 'maximal moment')} are missed by more than "
            f"{FAR_TOLERANCES:g} tolerances: {some(listing, 4)}.",
            "For maximal moments that are missed, check the sign and zero of the angles, whether gravity was taken "
            "off, whether the study has all muscles that pull that way, and bounds and priors of strength. Where the "
            "effort was not maximal, say so by its activation.",
        )
    ]


def _unheld(evidence: Evidence) -> list[Finding]:
    """Combinations that the data leave to the prior: strength against gain, balances of antagonists."""
    analysis = evidence.analysis
    loose = [] if analysis is None else [c for c in analysis.identifiability.combinations if not c.held]
    if not loose:
        return []
    listing = [f"{c.name} (± {percent(c.prior_sd)} before the fit, ± {percent(c.sd)} after it)" for c in loose]
    return [
        Finding(
            "note",
            f"Hardly known, since the recordings leave it to the prior: {some(listing, 4)}.",
            "Where strength is not told from gain, or antagonists are not told apart, EMG-driven predictions are "
            "none the worse, but whatever excites the muscles itself, a policy or a stimulator, acts on a person who "
            "may be stronger or weaker by as much. Add moments of maximal contractions ([[dynamometer]]), or normalise "
            "the EMG to them (mvc_trials).",
        )
    ]


def _timing(evidence: Evidence) -> list[Finding]:
    """Delays and time constants that end near a bound, or where nobody has measured any."""
    near, unusual = [], []
    for f in evidence.fitted:
        if f.kind not in TIMING:
            continue
        value, low, high = (1000 * x for x in _in_unit(f))
        of = f.label if f.label != "all" else f"all {KINDS[f.kind].axis}s"
        text = f"{KINDS[f.kind].label} ({of}) {number(value, 0)} ms"
        if _near_bound(f):
            near.append(f"{text}, allowed {number(low, 0)} to {number(high, 0)} ms")
        if f.kind == "electromechanical_delay" and not PUBLISHED_DELAY[0] <= value / 1000 <= PUBLISHED_DELAY[1]:
            unusual.append(text)
    advice = (
        "Delay and filter are seen together only, and a shared one makes up for channels that differ: look at the "
        "synchronisation of EMG and motion first, then free a delay per channel, or fix the filter at a published "
        "value. Do not trust such a fit at another speed before it was tested there."
    )
    found = []
    if near:
        text = f"Delays or time constants ended within {percent(NEAR_BOUND)} of a bound: {some(near)}."
        found.append(Finding("caution", text, advice))
    if unusual:
        low, high = (number(1000 * x, 0) for x in PUBLISHED_DELAY)
        text = f"Outside the {low} to {high} ms that are published (Buchanan et al. 2004): {some(unusual)}."
        found.append(Finding("caution", text, advice))
    return found


def _in_unit(f: Fitted) -> tuple[float, float, float]:
    """Value and bounds in the kind's unit; the mean of members that started differently."""
    scale = float(f.start.mean()) if f.relative else 1.0
    return float(f.value.mean()), scale * f.low, scale * f.high


def _near_bound(f: Fitted) -> bool:
    position, low, high = np.log([f.position, f.low, f.high]) if f.relative else (f.position, f.low, f.high)
    return bool(f.at_bound or min(position - low, high - position) < NEAR_BOUND * (high - low))


def _posterior(evidence: Evidence) -> list[Finding]:
    """Bands whose middle is not the fit: their people are others than the one that was fitted."""
    analysis = evidence.analysis
    if analysis is None:
        return []
    far, worst = [], 0.0
    for bands in analysis.bands:
        for c in bands.bands[0].coordinates if bands.bands else ():
            away = _away_from_fit(evidence, bands, c, len(analysis.draws))
            scores = [s for s in evidence.scores if s.windows.label == bands.label and s.coordinate == c]
            own = scores[0] if scores else evidence.training_score(c)
            if own is not None and away > FAR_POSTERIOR * own.after.rmse:
                worst = max(worst, away / own.after.rmse)
                where = f"{joint_name(c)}, {bands.label}"
                far.append(f"{where} ({number(away, 1)} N·m, the fit's RMSE is {number(own.after.rmse, 1)} N·m)")
    if not far:
        return []
    problem = worst > ANOTHER_POSTERIOR
    others = (
        "Bands, intervals and the people of posterior.npz are about others than the person that was fitted: do not use "
        "them for domain randomisation."
        if problem
        else "Bands and the people of posterior.npz are centred beside the fit, by as much as is said above."
    )
    return [
        Finding(
            "problem" if problem else "caution",
            f"The middle of the posterior is far from the fit (more than {percent(FAR_POSTERIOR)} of its RMSE): "
            f"{some(far, 6)}.",
            f"{others} Free fewer parameters, tighten the priors, or use more starts, until both agree.",
        )
    ]


def _away_from_fit(evidence: Evidence, bands: BandSet, coordinate: str, draws: int) -> float:
    """N·m, root mean square between the middle of what the model says of the people and of the fit, of one joint."""
    runs = {r.name: r for s in evidence.sets if s.label == bands.label for r in s.runs}
    squares = [np.zeros(1)]
    for band in bands.bands:
        if (run := runs.get(band.segment)) is not None:
            k = band.coordinates.index(coordinate)
            fit = np.asarray(run.after.moments)[:, run.coordinates.index(coordinate)]
            # The median of n draws misses by itself: sqrt(pi / 2 n) of their spread.
            squares.append((band.model[:, k] - fit) ** 2 - 0.5 * np.pi * band.model_sd[:, k] ** 2 / draws)
    return float(np.sqrt(max(np.mean(np.concatenate(squares[1:] or squares)), 0.0)))


def _ranges(evidence: Evidence) -> list[Finding]:
    """Held-out windows where nothing like them was in the training windows."""
    left = []
    for windows in evidence.sets:
        if windows.held_out and windows.departures is not None and windows.departures.leaving:
            leaving = windows.departures.leaving
            rows = [f"{_quantity(d)} {share(d.outside)} of the samples, {_excess(d)}" for d in leaving]
            left.append(f"“{windows.label}”: {some(rows, 4)}")
    if not left:
        return []
    return [
        Finding(
            "caution",
            f"Held-out windows leave the EMG and motion that the fit has seen: {'; '.join(left)}.",
            "Where windows leave the trained range, the prediction is an extrapolation: add windows of that task or "
            "speed to the training ones, and do not use the subject there before it was tested.",
        )
    ]


def _quantity(d: Departure) -> str:
    return f"EMG of {d.name}" if d.quantity == "emg" else f"{d.quantity} of {joint_name(d.name)}"


def _excess(d: Departure) -> str:
    if not d.excess:
        return "rarely seen in training"
    return f"by up to {number(d.excess)} × the {'largest' if d.quantity == 'emg' else 'width'} in training"


def _muscles(evidence: Evidence) -> list[Finding]:
    found = []
    muscles = evidence.model.muscles
    passive = set(evidence.model.passive_muscles)
    length, strain = evidence.pooled("fiber_length"), evidence.pooled("tendon_strain")
    low, high = evidence.penalties.fiber_length_range
    most = evidence.penalties.max_tendon_strain
    outside = ((length < low) | (length > high)).mean(axis=0)
    listing = [
        f"{m} ({number(length[:, i].min())}–{number(length[:, i].max())}, {share(outside[i])} of the time"
        f"{', passive' if m in passive else ''})"
        for i, m in enumerate(muscles)
        if outside[i] > 0
    ]
    if listing:
        found.append(
            Finding(
                "caution",
                f"Fibers of {plural(len(listing), 'muscle')} leave the working range {low:g}–{high:g}: "
                f"{some(listing, 6)}.",
                "For fibers outside their range, check the musculotendon lengths and start values of optimal fiber and "
                "tendon slack length of those muscles, or let these be fitted.",
            )
        )
    listing = [f"{m} ({percent(strain[:, i].max(), 1)})" for i, m in enumerate(muscles) if strain[:, i].max() > most]
    if listing:
        found.append(
            Finding(
                "caution",
                f"Tendon strain exceeds {100 * most:g} %: {some(listing, 6)}.",
                "For overstrained tendons, check maximum isometric force and tendon slack length of those muscles.",
            )
        )
    residual = np.abs(evidence.pooled("residual")).max(axis=0)
    listing = [m for i, m in enumerate(muscles) if not residual[i] <= UNSOLVED]
    if listing:
        found.append(
            Finding(
                "problem",
                f"The fiber equation was not solved to {UNSOLVED:g} tendon lengths in: {some(listing, 6)}.",
                "Raise tendon_iterations in the settings, or use a smaller time step.",
            )
        )
    return found


def _excitations(evidence: Evidence) -> list[Finding]:
    found = []
    model = evidence.model
    driven = [i for i, m in enumerate(model.muscles) if m not in model.passive_muscles]
    excitation = evidence.pooled("excitation")
    full = _saturated(evidence, driven)
    silent = [m for i in driven for m in [model.muscles[i]] if np.quantile(excitation[:, i], 0.99) < SILENT]
    if full:
        found.append(
            Finding(
                "caution",
                f"Excitation is at its ceiling more than {percent(SATURATED_SHARE)} of the time in: {some(full)}.",
                "For saturated excitations, check the EMG normalisation: was the reference contraction maximal? What "
                "is above full excitation is lost: a gain at its bound asks for a stronger muscle instead.",
            )
        )
    if silent:
        found.append(
            Finding(
                "caution",
                f"Excitation never exceeds {SILENT:g} in: {some(silent)}.",
                "For silent muscles, check the channel map and the electrodes.",
            )
        )
    differing = _differing_levels(evidence, driven)
    if differing:
        found.append(
            Finding(
                "caution",
                f"Mean excitation in a held-out set is more than {LEVEL_RATIO:g} times higher or lower than in "
                f"training (training → held-out): {some(differing, 6)}.",
                "Where excitation levels differ between recordings, look for a noise floor or lost contact in the raw "
                "EMG, and normalise all recordings to one reference, unless the task explains the difference.",
            )
        )
    undriven = [
        f"{joint_name(c)} {percent(part)}" for c, part in undriven_shares(evidence).items() if part > UNDRIVEN_SHARE
    ]
    if undriven:
        found.append(
            Finding(
                "caution",
                "Muscles without a channel, which act passively here, hold much of the strength (maximum isometric "
                f"force × mean moment arm): {some(undriven)}.",
                "Where much strength has no channel, map more muscles to channels of their neighbours or synergists.",
            )
        )
    return found


def _saturated(evidence: Evidence, driven: list[int]) -> list[str]:
    """Muscles whose excitation is at its ceiling, with the set where it is most often."""
    model = evidence.model
    bound = {m for f in evidence.fitted if f.kind == "emg_gain" and f.at_bound for m in f.members}
    found = []
    for i in driven:
        muscle = model.muscles[i]
        shares = {}
        for s in evidence.sets:
            excitation = np.concatenate([np.asarray(r.after.excitation)[:, i] for r in s.runs])
            shares[s.label] = max(float((excitation > SATURATED).mean()), s.saturated.get(muscle, 0.0))
        worst = max(shares, key=lambda label: shares[label])
        if shares[worst] > SATURATED_SHARE:
            gain = ", gain at its bound" if bound & set(model.sources(muscle)) else ""
            found.append(f"{muscle} ({percent(shares[worst])} of {worst}{gain})")
    return found


def _differing_levels(evidence: Evidence, driven: list[int]) -> list[str]:
    """Muscles whose EMG is on another level than in training."""
    means = [np.concatenate([np.asarray(r.after.excitation) for r in s.runs]).mean(axis=0) for s in evidence.sets]
    if evidence.sets[0].held_out:
        return []
    found = []
    for windows, mean in zip(evidence.sets[1:], means[1:], strict=True):
        for i in driven:
            low, high = sorted((float(means[0][i]), float(mean[i])))
            if high - low > LEVEL_DIFFERENCE and high > LEVEL_RATIO * low:
                name = evidence.model.muscles[i]
                found.append(f"{name}, {windows.label} ({number(means[0][i])} → {number(mean[i])})")
    return found


def undriven_shares(evidence: Evidence) -> dict[str, float]:
    """Share of each joint's strength, F0 times mean absolute moment arm, that no channel drives."""
    model = evidence.model
    passive = np.array([m in model.passive_muscles for m in model.muscles])
    force = np.asarray(evidence.subject.params.max_isometric_force, np.float64)
    shares = {}
    for c in evidence.coordinates:
        arms = np.concatenate(
            [
                np.abs(r.moment_arms[:, r.coordinates.index(c)])
                for s in evidence.sets
                for r in s.runs
                if c in r.coordinates
            ]
        )
        strength = force * arms.mean(axis=0)
        if strength.sum() > 0:
            shares[c] = float(strength[passive].sum() / strength.sum())
    return shares


def all_findings(evidence: Evidence) -> list[Finding]:
    """Everything that was found, the worst first."""
    findings = [
        *_solver(evidence),
        *_validation(evidence),
        *_ranges(evidence),
        *_posterior(evidence),
        *_excitations(evidence),
        *_agreement(evidence),
        *_parameters(evidence),
        *_maximal(evidence),
        *_unheld(evidence),
        *_timing(evidence),
        *_muscles(evidence),
    ]
    return sorted(findings, key=lambda f: LEVELS.index(f.level))
