"""The verdict in plain words, from the findings, and the next steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from calibration.fitting import Status
from calibration.report.evidence import Evidence
from calibration.report.findings import FAIR_R2, GOOD_R2, Finding, all_findings, sentence, where
from calibration.report.names import joint_name, number, plural


@dataclass(frozen=True)
class Verdict:
    """The paragraph at the top."""

    tone: Literal["good", "caution", "bad"]
    headline: str
    text: str


def judge(evidence: Evidence) -> tuple[Verdict, tuple[Finding, ...]]:
    """Verdict and findings, the worst first."""
    findings = all_findings(evidence)
    return _verdict(evidence, findings), tuple(findings)


def next_steps(evidence: Evidence, findings: tuple[Finding, ...]) -> list[str]:
    """Suggestions, the most urgent first, each once."""
    steps = list(dict.fromkeys(f.advice for f in findings if f.advice))
    if not steps:
        steps.append(
            "Nothing stands out. Use the subject in simulations and environments of tasks like those it was judged on."
        )
    if evidence.held_out:
        steps.append(
            "Before using the subject on another task, speed or day, add a recording of it as a held-out set: this "
            "report vouches only for data like the ones it shows."
        )
    return steps


def _verdict(evidence: Evidence, findings: list[Finding]) -> Verdict:
    held_out = [s for s in evidence.held_out if np.isfinite(s.after.r2)]
    problems = sum(f.level == "problem" for f in findings)
    result = evidence.result
    if result is not None and result.status is Status.NOT_FINITE:
        return Verdict("bad", "The calibration failed.", f"{sentence(result.status.value)} Nothing below can be used.")
    if not evidence.scores:
        return Verdict(
            "bad",
            "Not validated: nothing to compare with.",
            "No held-out data exist, nor any other window with measured moments. The predictions below are only that.",
        )
    if not held_out:
        trained = [
            f"{joint_name(c)} {number(s.after.r2)}"
            for c in evidence.coordinates
            if (s := evidence.training_score(c)) is not None
        ]
        seen = f" On the training windows R² is {', '.join(trained)}; a fit always looks good there." if trained else ""
        return Verdict(
            "bad",
            "Not validated: no held-out data exist.",
            "No window with measured moments was kept out of the fit, so nothing here says how well the model predicts "
            f"data it has not seen.{seen} Do not judge this calibration before it has been tested on other data.",
        )
    worst = {
        c: min((s for s in held_out if s.coordinate == c), key=lambda s: s.after.r2)
        for c in evidence.coordinates
        if any(s.coordinate == c for s in held_out)
    }
    lowest = min(s.after.r2 for s in worst.values())
    parts = []
    for s in worst.values():
        before = f", uncalibrated {number(s.before.r2)}" if s.before is not None and evidence.calibrated else ""
        parts.append(f"{joint_name(s.coordinate)} R² {number(s.after.r2)} (RMSE {number(s.after.rmse, 1)} N·m{before})")
    several = len(dict.fromkeys(s.windows.label for s in held_out)) > 1
    text = (
        f"On data that the fit never saw{', in the worst held-out set' if several else ''}: {'; '.join(parts)}. "
        f"{_gapsentence(evidence)}"
    )
    if not evidence.calibrated:
        text = f"This subject was never calibrated; these are the predictions of its start values. {text}"
    if lowest >= GOOD_R2:
        tone, headline = "good", "Predicts unseen data well."
    elif lowest >= FAIR_R2:
        tone, headline = "caution", "Predicts unseen data moderately well."
    elif max(s.after.r2 for s in worst.values()) >= GOOD_R2:
        tone, headline = "bad", "Predicts part of the unseen data well, and part of it poorly."
    else:
        tone, headline = "bad", "Predicts unseen data poorly."
    if problems:
        tone = "bad" if tone == "bad" else "caution"
        text += (
            f" {plural(problems, 'problem')} {'is' if problems == 1 else 'are'} listed first among the findings below."
        )
        if lowest >= FAIR_R2:
            headline = headline.rstrip(".") + f", with {plural(problems, 'problem')}."
    elif any(f.level == "caution" for f in findings):
        text += " Read the cautions below before using it."
    return Verdict(tone, headline, text.strip())


def _gapsentence(evidence: Evidence) -> str:
    pairs = [(t, s) for s in evidence.held_out if (t := evidence.training_score(s.coordinate)) is not None]
    if not pairs or not evidence.calibrated:
        return ""
    train, held = max(pairs, key=lambda p: p[0].after.r2 - p[1].after.r2)
    gap = train.after.r2 - held.after.r2
    if not gap > 0:
        return "No joint is predicted worse there than on the training windows."
    drop = f"R² {number(train.after.r2)} to {number(held.after.r2)}"
    return f"The largest drop from the training windows is {where(held)}: {drop}."
