"""The commands about environments: play one, train a policy for one, judge policies, write their pages."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from nms_gym._console import OutputOption, console, done, say
from nms_gym.errors import InputError

NameArgument = Annotated[
    str, typer.Argument(metavar="ID", help="Such as ElbowReach-v0; nms-gym play list names them all.")
]
SubjectOption = Annotated[Path | None, typer.Option(help="A calibrated person (.json); default: the shipped one.")]
TrialOption = Annotated[str | None, typer.Option(help="A recording (.npz), or the name of a shipped one.")]
OptionOption = Annotated[
    list[str] | None,
    typer.Option("--option", help="Any option of the environment as name=JSON, such as tendon='\"rigid\"'."),
]
PosteriorOption = Annotated[
    bool, typer.Option("--posterior", help="Draw a person of the calibration's posterior at every reset.")
]


def play(
    name: NameArgument,
    policy: Annotated[
        str, typer.Option(help="baseline, random, lowest or zero; or a trained policy's file (.npz).")
    ] = "baseline",
    subject: SubjectOption = None,
    trial: TrialOption = None,
    option: OptionOption = None,
    seed: Annotated[int, typer.Option(help="Of the episode.")] = 0,
    fps: Annotated[float, typer.Option(help="Frames per second, in real time.")] = 25.0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Film to write: .gif, or .mp4 (needs nms-gym[video]).")
    ] = None,
) -> None:
    """Play one episode of an environment and film it: bones, muscles coloured by activation, devices, moments.

    Writes the film and its last picture (.png), and prints the return.
    """
    from nms_gym.envs import TASKS
    from nms_gym.envs.gymnasium_env import NmsEnv
    from nms_gym.envs.policies import film
    from nms_gym.envs.rendering import record
    from nms_gym.envs.task import describe
    from nms_gym.files.folder import make_folder, require_folder
    from nms_gym.files.policy import load_policy

    began = time.perf_counter()
    if name == "list":
        for known in TASKS:
            console.print(f"nms_gym/{known}", markup=False)
        return
    trained = load_policy(policy) if policy.endswith(".npz") else None
    options = task_options(option, subject, trial)
    if trained is not None:
        options = {**trained.options, **options}
    path = output or Path("nms-gym-out") / "play" / f"{_short(name)}.gif"
    require_folder(path.parent)
    env = NmsEnv(name, render_mode="rgb_array", **options)
    say(f"playing {name} with the {policy} policy, {env.task.horizon} steps of {1000 * env.dt:g} ms")
    if trained is not None:
        names = describe(env.task)
        trained.require(names.observation_names, names.action_names, name, names.action_units)
    make_folder(path.parent)
    filmed = (
        film(env, path, policy, seed, fps) if trained is None else record(env, trained.act, path, seed=seed, fps=fps)
    )
    console.print(f"  return {filmed.total:.1f}")
    done(filmed.files, began)


def train(
    name: NameArgument,
    algorithm: Annotated[str, typer.Option("--algorithm", "--algo", help="apg, ppo, sac or sb3-ppo.")] = "apg",
    subject: SubjectOption = None,
    posterior: PosteriorOption = False,
    trial: TrialOption = None,
    condition: Annotated[
        str | None, typer.Option(help='What impairs the person, as JSON: \'[{"name": "weakness", "severity": 0.3}]\'.')
    ] = None,
    option: OptionOption = None,
    setting: Annotated[
        list[str] | None, typer.Option("--setting", help="Of the algorithm, as name=JSON, such as window=50.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Of all environments together; default: by algorithm.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    episodes: Annotated[int, typer.Option(help="Held-out episodes that policies are judged on.")] = 64,
    success: Annotated[float | None, typer.Option(help="Stop when this part of the episodes succeeds.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many points without a better one.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in the output folder.")] = False,
    output: OutputOption = None,
) -> None:
    """Train a policy for an environment, on a person of your own if you like.

    **apg** differentiates the return through muscles and skeleton; **ppo** and **sac** are brax's, **sb3-ppo** is
    Stable-Baselines3's. Writes policy.npz (play it with `nms-gym play ID --policy FILE`), the learning curve
    (curve.csv, curve.png), training.json, and for apg a checkpoint that `--resume` goes on from.
    """
    from nms_gym.files.folder import make_folder, require_folder
    from nms_gym.training.run import STEPS
    from nms_gym.training.run import train as learn

    began = time.perf_counter()
    folder = output or Path("nms-gym-out") / "train" / _short(name)
    require_folder(folder)
    options = task_options(option, subject, trial)
    if posterior:
        options["posterior"] = True
    if condition is not None:
        options["condition"] = _json("--condition", condition)
    settings = dict(_pair("--setting", text) for text in setting or ())
    say(f"training {name} by {algorithm}, {steps or STEPS.get(algorithm, 0):,} steps; Ctrl-C ends it")
    make_folder(folder)
    columns = (
        TextColumn("  {task.completed:,.0f}/{task.total:,.0f} steps"), BarColumn(), TextColumn("{task.description}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        shown = bar.add_task("compiling", total=steps or STEPS.get(algorithm, 1))

        def progress(point: Any, total: int) -> None:
            row = point.score
            text = f"return {row['return']:.2f}, success {row['success']:.0%}"
            bar.update(shown, completed=min(point.steps, total), description=text)
            console.print(f"  {point.steps:>10,} steps {point.seconds:7.1f} CPU s   {text}", markup=False)

        trained = learn(
            name, algorithm=algorithm, steps=steps, seed=seed, out=folder, resume=resume, settings=settings,
            episodes=episodes, success=success, patience=patience, progress=progress, **options,
        )  # fmt: skip
    _score_table(dict(trained.policy.scores))
    done(trained.files, began)


def evaluate(
    name: NameArgument,
    policy: Annotated[
        list[str], typer.Option("--policy", help="A trained policy's file (.npz); may be given several times.")
    ],
    subject: SubjectOption = None,
    posterior: PosteriorOption = False,
    trial: TrialOption = None,
    option: OptionOption = None,
    episodes: Annotated[int, typer.Option(help="Held-out episodes, the same for all.")] = 128,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the scores to this .json file.")] = None,
) -> None:
    """Judge trained policies on an environment, beside doing nothing, random actions and the scripted policy.

    All play the same episodes; differences to the first policy come with a paired 95 % interval.
    """
    from nms_gym.envs import make_task
    from nms_gym.envs.task import describe
    from nms_gym.files.policy import load_policy
    from nms_gym.recording.storage import atomic_path
    from nms_gym.training.judging import Judge, paired_difference

    loaded = {path: load_policy(path) for path in policy}
    options = task_options(option, subject, trial)
    if posterior:
        options["posterior"] = True
    task = make_task(name, **{**next(iter(loaded.values())).options, **options})
    names = describe(task)
    for each in loaded.values():
        each.require(names.observation_names, names.action_names, name, names.action_units)
    judge = Judge(task, episodes)
    scores = {path: judge.policy(each) for path, each in loaded.items()} | judge.simple()
    first = scores[policy[0]]
    rows = {}
    for label, score in scores.items():
        rows[label] = score.row()
        if label != policy[0]:
            rows[label]["difference"], rows[label]["low"], rows[label]["high"] = paired_difference(score, first)
    _score_table(rows)
    if output is not None:
        with atomic_path(output) as temporary:
            record = {"task": name, "options": options, "episodes": episodes, "scores": rows}
            temporary.write_text(json.dumps(record, indent=1, default=str), encoding="utf-8")


def environments(
    output: OutputOption = None,
    only: Annotated[list[str] | None, typer.Option(help="Ids; default: all.")] = None,
) -> None:
    """Write a page with a picture for every environment: action, observation, reward, options, simple policies."""
    from nms_gym.files.folder import make_folder
    from nms_gym.pages.environments import write_pages

    began = time.perf_counter()
    folder = output or Path("nms-gym-out") / "environments"
    make_folder(folder)
    done(write_pages(folder, only or (), say), began)


COMMANDS = (play, train, evaluate, environments)


def task_options(option: list[str] | None, subject: Path | None, trial: str | None) -> dict[str, Any]:
    """Options of a task from what was given on the command line."""
    options = dict(_pair("--option", text) for text in option or ())
    return options | {k: str(v) for k, v in (("subject", subject), ("trial", trial)) if v is not None}


def _pair(what: str, text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    return name, _json(f"{what} {text!r}", value)


def _json(what: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what}: expected name=JSON, such as tendon='\"rigid\"' ({error})") from error


def _short(name: str) -> str:
    return name.split("/")[-1].replace(":", "_")


def _score_table(scores: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("policy")
    paired = any("difference" in row for row in scores.values())
    for column in ("return", "sd", "success", *(["minus the first, 95 % interval"] if paired else [])):
        table.add_column(column, justify="right")
    for label, row in scores.items():
        cells = [f"{row['return']:.2f}", f"{row['sd']:.2f}", f"{row['success']:.0%}"]
        if "difference" in row:
            cells.append(f"{row['difference']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})")
        table.add_row(label, *cells)
    console.print(table)
