"""Train a policy on a task: learn, judge, keep the best, write everything down, go on after a kill.

trained = nms_gym.train("ElbowReach-v0", subject="out/subject.json", out="out/reach")
trained.policy.act(observation)
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nms_gym._compilation import fast_compilation
from nms_gym.envs import make_task
from nms_gym.envs.task import Task, as_dtype, describe
from nms_gym.errors import InputError, listed, near
from nms_gym.files.folder import make_folder
from nms_gym.files.policy import Policy, Shape, Weights, save_policy
from nms_gym.recording.storage import atomic_path
from nms_gym.training.analytic import SHAPE, Analytic, AnalyticSettings
from nms_gym.training.checkpoint import load_checkpoint, save_checkpoint
from nms_gym.training.judging import CHOICE_SEED, Judge, rows

ALGORITHMS: dict[str, str] = {
    "apg": "our own: the return differentiated through muscles and skeleton (short-horizon actor-critic)",
    "ppo": 'brax\'s proximal policy optimisation (pip install "nms-gym[brax]")',
    "sac": 'brax\'s soft actor-critic (pip install "nms-gym[brax]")',
    "sb3-ppo": "Stable-Baselines3's PPO on NmsVectorEnv (pip install stable-baselines3)",
}
STEPS = {"apg": 1_000_000, "ppo": 1_000_000, "sac": 300_000, "sb3-ppo": 500_000}
"""of the environments together, where nobody says"""


@dataclass(frozen=True)
class Point:
    """Of a learning curve."""

    steps: int
    """of the environments together"""
    seconds: float
    """CPU, of the learning, compiling included"""
    score: dict[str, float]
    """``Score.row`` on the judge's episodes"""
    numbers: dict[str, float] = field(default_factory=dict)
    """of the trainer: norm of the gradient, error of the value, ..."""

    def row(self) -> dict[str, float]:
        """All in one, for tables and files."""
        return {"steps": self.steps, "cpu_seconds": self.seconds, **self.score, **self.numbers}


@dataclass(frozen=True)
class Trained:
    """Outcome of ``train``."""

    policy: Policy
    """the best of the curve"""
    curve: tuple[Point, ...]
    simple: dict[str, dict[str, float]]
    """rows of policies that need no training, on the episodes that ``policy.scores`` is of"""
    files: tuple[Path, ...]
    """that were written; none without ``out``"""


def train(
    task: Any = "ElbowReach-v0",
    *,
    algorithm: str = "apg",
    steps: int | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    episodes: int = 64,
    points: int = 12,
    success: float | None = None,
    patience: int | None = None,
    progress: Callable[[Point, int], None] | None = None,
    **options: Any,
) -> Trained:
    """Learn a policy.

    Args:
        task: an id, a task, or a function that builds one, as for ``make_task``.
        algorithm: one of ``ALGORITHMS``.
        steps: of all environments together; by default ``STEPS``.
        seed: of everything random; the same seed gives the same policy on the same machine.
        out: folder for policy.npz, curve.csv, curve.png, training.json and, for "apg", checkpoint.npz.
        resume: go on from ``out/checkpoint.npz`` where there is one, as if nothing had happened ("apg" only).
        settings: of the algorithm: fields of ``AnalyticSettings`` for "apg", arguments of brax's or
            Stable-Baselines3's trainer for the others.
        episodes: that policies are judged on, which no training sees: as many to choose the best of the curve by, and
            as many others to score it and the simple policies on.
        points: of the learning curve: how often the policy is judged.
        success: end when the policy succeeds in this part of the episodes.
        patience: end when this many points in a row were no better than the best before.
        progress: called with every point and the steps in all.
        options: of the task, such as ``subject``, ``posterior``, ``condition``.

    Raises:
        InputError: no such algorithm, task, option or setting; nothing to resume; a trainer that is not installed.
    """
    if algorithm not in ALGORITHMS:
        raise InputError(f"no algorithm {algorithm!r}; {near(algorithm, ALGORITHMS)}")
    if resume and (out is None or algorithm != "apg"):
        raise InputError("resume needs out, the folder of the training to go on with, and algorithm 'apg'")
    for name, value, least in (("episodes", episodes, 1), ("points", points, 1), ("steps", steps or 1, 1)):
        if value < least:
            raise InputError(f"{name} is {value}; at least {least} is needed")
    made = make_task(task, **options)
    folder = None if out is None else Path(out)
    if folder is not None:
        make_folder(folder)
    keeper = _Keeper(
        task=made,
        name=task if isinstance(task, str) else type(made).__name__,
        options=options,
        algorithm=algorithm,
        seed=seed,
        total=steps or STEPS[algorithm],
        judge=Judge(made, episodes, CHOICE_SEED),
        test=(test := Judge(made, episodes)),
        simple=rows(test.simple()),
        folder=folder,
        success=success,
        patience=patience,
        progress=progress,
    )
    trainer = {"apg": _train_analytic, "sb3-ppo": _train_sb3}.get(algorithm, _train_brax)
    trainer(keeper, made, dict(settings or {}), points, resume)
    return keeper.finish()


class _Keeper:
    """Judges policies while they are learned, keeps the best, writes everything down; its own time counts nothing."""

    def __init__(
        self,
        *,
        task: Task,
        name: str,
        options: Mapping[str, Any],
        algorithm: str,
        seed: int,
        total: int,
        judge: Judge,
        test: Judge,
        simple: dict[str, dict[str, float]],
        folder: Path | None,
        success: float | None,
        patience: int | None,
        progress: Callable[[Point, int], None] | None,
    ) -> None:
        self.description, self.bounds = describe(task), task.action_bounds
        self.name, self.options, self.algorithm, self.seed, self.total = name, dict(options), algorithm, seed, total
        self.judge, self.test, self.simple, self.folder = judge, test, simple, folder
        self.success, self.patience, self.progress = success, patience, progress
        self.shape: Shape = SHAPE
        self.curve: list[Point] = []
        self.best: tuple[float, Weights, Point] | None = None
        self.since_best = 0
        self.spent = 0.0
        self._began = time.process_time()

    def note(self, steps: int, weights: Weights, numbers: Mapping[str, float] | None = None) -> bool:
        """Judge a policy; whether to go on."""
        seconds = self.spent + time.process_time() - self._began
        score = self.judge.weights(weights, self.shape)
        point = Point(int(steps), seconds, score.row(), {k: float(v) for k, v in (numbers or {}).items()})
        self.curve.append(point)
        # A policy whose episodes blow up is worse than any other.
        value = float(score.returns.mean()) if np.isfinite(score.returns).all() else -math.inf
        if self.best is None or value > self.best[0]:
            self.best, self.since_best = (value, jax.tree.map(np.array, weights), point), 0
        else:
            self.since_best += 1
        if self.folder is not None:
            _write_curve(self.folder / "curve.csv", self.curve)
        if self.progress is not None:
            self.progress(point, self.total)
        solved = self.success is not None and point.score["success"] >= self.success
        stuck = self.patience is not None and self.since_best >= self.patience
        self.spent = seconds
        self._began = time.process_time()
        return not (solved or stuck)

    def record(self, done: int) -> dict[str, Any]:
        """What a checkpoint holds beside the learning, as plain JSON."""
        assert self.best is not None
        _, weights, point = self.best
        return {
            "done": done,
            "spent": self.spent,
            "since_best": self.since_best,
            "curve": [asdict(p) for p in self.curve],
            "best": asdict(point),
            "best_weights": jax.tree.map(lambda x: np.asarray(x).tolist(), _plain(weights)),
        }

    def restore(self, record: Mapping[str, Any]) -> int:
        """Go on from a ``record``; how much was done."""
        self.curve = [Point(**p) for p in record["curve"]]
        self.spent, self.since_best = record["spent"], record["since_best"]
        best = Point(**record["best"])
        value = best.score["return"]
        self.best = (value if math.isfinite(value) else -math.inf, _weights_of(record["best_weights"]), best)
        self._began = time.process_time()
        return int(record["done"])

    def finish(self) -> Trained:
        """The best policy, and the files."""
        if self.best is None:
            raise InputError("the trainer ended before it had a policy; give it more steps")
        _, weights, point = self.best
        policy = Policy(
            weights=weights,
            shape=self.shape,
            task=self.name,
            observation_names=self.description.observation_names,
            action_names=self.description.action_names,
            action_low=np.asarray(self.bounds[0], np.float32),
            action_high=np.asarray(self.bounds[1], np.float32),
            options=self.options,
            action_units=self.description.action_units,
            subject=_subject(self.options),
            training={
                "algorithm": self.algorithm,
                "seed": self.seed,
                "steps": point.steps,
                "cpu_seconds": point.seconds,
                "nms_gym": version("nms-gym"),
            },
            scores={"trained": self.test.weights(weights, self.shape).row(), **self.simple},
        )
        files: list[Path] = []
        if self.folder is not None:
            from nms_gym.training.drawing import draw_curve

            record = {
                "task": self.name, "options": self.options, "algorithm": self.algorithm, "seed": self.seed,
                "total_steps": self.total, "scores": policy.scores, "curve": [p.row() for p in self.curve],
            }  # fmt: skip
            files = [save_policy(self.folder / "policy.npz", policy), self.folder / "training.json"]
            with atomic_path(files[1]) as temporary:
                temporary.write_text(json.dumps(record, indent=1, default=str), encoding="utf-8")
            files += [
                self.folder / "curve.csv",
                draw_curve(self.folder / "curve.png", self.name, self.algorithm, self.curve, self.simple),
            ]
        return Trained(policy, tuple(self.curve), self.simple, tuple(files))


def _subject(options: Mapping[str, Any]) -> dict[str, str]:
    """Name and hash of the person's file."""
    from nms_gym.files.subject import resolve_subject

    asked = options.get("subject")
    if asked in ("demo_arm", "right_leg"):
        return {"name": str(asked)}
    if not isinstance(asked, (str, os.PathLike)):
        return {}
    path = resolve_subject(asked)
    return {"name": str(asked), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _write_curve(path: Path, curve: list[Point]) -> None:
    """Steps, seconds, score and the trainer's numbers, a row per point."""
    table = [point.row() for point in curve]
    names = list(dict.fromkeys(name for row in table for name in row))
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(table)


# --- trainers ------------------------------------------------------------


def _train_analytic(keeper: _Keeper, task: Task, settings: dict[str, Any], points: int, resume: bool) -> None:
    names = AnalyticSettings.__dataclass_fields__
    unknown = [n for n in settings if n not in names]
    if unknown:
        raise InputError(f"apg has no setting {listed(unknown)}; there are {listed(names, 20)}")
    if isinstance(settings.get("hidden"), list):
        settings["hidden"] = tuple(settings["hidden"])
    chosen = AnalyticSettings(**settings)
    bounds = [tuple(np.asarray(bound, float).tolist()) for bound in task.action_bounds]
    per_iteration = Analytic(chosen, 1, task.horizon, *bounds).steps_per_iteration
    iterations = max(math.ceil(keeper.total / per_iteration), 1)
    trainer = Analytic(chosen, iterations, task.horizon, *bounds)
    marks = set(np.linspace(0, iterations, points + 1).round().astype(int).tolist())
    checkpoint = None if keeper.folder is None else keeper.folder / "checkpoint.npz"
    what = json.loads(json.dumps({"task": keeper.name, "options": keeper.options, "seed": keeper.seed,
                                  "settings": asdict(chosen), "iterations": iterations}, default=str))  # fmt: skip
    with jax.enable_x64(False):
        world = as_dtype(task, jnp.float32)
        learning = trainer.begin(world, keeper.seed)
        done = -1
        if resume and checkpoint is not None and checkpoint.is_file():
            learning, record = load_checkpoint(checkpoint, learning)
            if record["what"] != what:
                raise InputError(f"{checkpoint}: of another training ({record['what']}); remove it to begin anew")
            done = keeper.restore(record)
        improve = _compiled(trainer)
        recent: dict[str, list[Any]] = {}
        for i in range(max(done, 0), iterations + 1):
            if i in marks and i > done:
                numbers = {name: float(np.mean(values)) for name, values in recent.items()}
                recent = {}
                go_on = keeper.note(i * per_iteration, trainer.weights(learning), numbers)
                if checkpoint is not None:
                    save_checkpoint(checkpoint, learning, {"what": what, **keeper.record(i)})
                if not go_on:
                    break
            if i < iterations:
                learning, numbers = improve(world, learning)
                for name, value in numbers.items():
                    recent.setdefault(name, []).append(value)


def _plain(weights: Weights) -> dict[str, Any]:
    return {"mean": weights.mean, "sd": weights.sd, "layers": [list(pair) for pair in weights.layers]}


def _weights_of(stored: Mapping[str, Any]) -> Weights:
    numbers = functools.partial(np.asarray, dtype=np.float32)
    return Weights(
        numbers(stored["mean"]), numbers(stored["sd"]), tuple((numbers(w), numbers(b)) for w, b in stored["layers"])
    )


@functools.lru_cache(maxsize=8)
def _compiled(trainer: Analytic) -> Any:
    return jax.jit(trainer.improve, compiler_options=fast_compilation())


def _train_brax(keeper: _Keeper, task: Task, settings: dict[str, Any], points: int, resume: bool) -> None:
    from nms_gym.envs.brax_env import learn

    def shaped(shape: Shape) -> None:
        keeper.shape = shape

    with jax.enable_x64(False):
        learn(keeper.algorithm, task, keeper.total, keeper.seed, points, settings, shaped, keeper.note)


def _train_sb3(keeper: _Keeper, task: Task, settings: dict[str, Any], points: int, resume: bool) -> None:
    from nms_gym.training.sb3 import SB3_SHAPE, learn

    keeper.shape = SB3_SHAPE
    learn(task, keeper.total, keeper.seed, points, settings, keeper.note)
