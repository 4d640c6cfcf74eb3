"""A page per environment: what moves, action, observation, reward, success, options, what simple policies reach."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nms_gym.envs import NAMESPACE, TASKS, builder, follow, make_task
from nms_gym.envs.follow import Follow
from nms_gym.envs.gymnasium_env import NmsEnv
from nms_gym.envs.policies import POLICIES, policy, score
from nms_gym.envs.rendering import play_environment, write_picture
from nms_gym.envs.task import OBSERVATION_BOUNDS, Task
from nms_gym.recording.storage import atomic_path

UNITS = {
    "phase": "1, of the episode",
    "angle": "rad",
    "speed": "10 rad/s",
    "target": "1, over the standard deviation of the measured moment",
    "moment": "1, over the same",
    "error": "rad (0.1 m for a place)",
    "position": "0.1 m",
    "activation": "1",
    "fiber_length": "1, over optimal fiber length",
    "torque": "1, over the device's largest",
    "stimulation": "1, over the largest pulse width",
    "emg": "1, envelope over its reference",
}
MARK = "<!-- scores -->"
"""what follows is measured and may differ between machines"""


def write_pages(
    folder: str | os.PathLike[str], names: Sequence[str] = (), progress: Callable[[str], None] = print
) -> list[Path]:
    """Write ``README.md``, and a page and a picture for every id (or those named), into a folder that exists.

    Raises:
        InputError: no such id, or the folder cannot be written.
    """
    chosen = [name.removeprefix(f"{NAMESPACE}/") for name in names] or list(TASKS)
    written = []
    for name in chosen:
        progress(name)
        stem = name.removesuffix("-v0")
        written += [_picture(Path(folder) / f"{stem}.png", name), Path(folder) / f"{stem}.md"]
        _write(written[-1], f"{page(name)}\n{MARK}\n{scores(make_task(name))}")
    index = Path(folder) / "README.md"
    _write(index, contents())
    return [index, *written]


def contents() -> str:
    """The list of all environments."""
    rows = ["# Environments", "", "Made by `nms-gym environments -o examples/environments`.", ""]
    rows += ["| id | what it asks for |", "|---|---|"]
    for name in TASKS:
        summary = (inspect.getdoc(builder(name)) or "").splitlines()[0]
        rows.append(f"| [{NAMESPACE}/{name}]({name.removesuffix('-v0')}.md) | {summary} |")
    own = "A task of one's own, in one file, runs in the same adapters: [07_own_task.py](../07_own_task.py)."
    return "\n".join([*rows, "", own, ""])


def page(name: str) -> str:
    """Everything about one environment that does not have to be measured, as Markdown."""
    build, task = builder(name), make_task(name)
    stem = name.removesuffix("-v0")
    text = inspect.getdoc(sys.modules[build.__module__]) or ""
    parts = [f"# {NAMESPACE}/{name}", f"![{stem}]({stem}.png)", _plain(text)]
    if isinstance(task, Follow):
        shared = (inspect.getdoc(follow) or "").split("They share:\n\n")[1]
        parts.append(_plain(shared))
    low, high = task.action_bounds
    action = [f"## Action, {_numbers(low)}", "", "| name | from | to |", "|---|---|---|"]
    action += [f"| {n} | {a:g} | {b:g} |" for n, a, b in zip(task.action_names, low, high, strict=True)]
    seen: dict[str, list[str]] = {}
    for entry in task.observation_names:
        group, _, rest = entry.partition(":")
        seen.setdefault(group, []).append(rest)
    observation = [f"## Observation, {_numbers(task.observation_names)}", "", "In this order; values are clipped."]
    observation += ["", "| group | of | unit | from | to |", "|---|---|---|---|---|"]
    for group, of in seen.items():
        a, b = OBSERVATION_BOUNDS[group]
        observation.append(f"| {group} | {', '.join(o for o in of if o)} | {UNITS[group]} | {a:g} | {b:g} |")
    episode = [
        "## Episode",
        "",
        f"{task.horizon} steps of {1000 * task.dt:g} ms, then truncated; never terminated. `info` has `success`,",
        "`time`, the parts of the reward (`reward_...`), and arrays for `env.muscles` and `env.coordinates`.",
    ]
    drive = ["## What drives each muscle by default", ""]
    by_source: dict[str, list[str]] = {}
    for muscle, source in task.drive.items():
        by_source.setdefault(source, []).append(muscle)
    drive += [f"- {source}: {', '.join(muscles)}" for source, muscles in by_source.items()]
    for block in (action, observation, episode, drive, _options(build)):
        parts.append("\n".join(block))
    return "\n\n".join(parts) + "\n"


def scores(task: Task) -> str:
    """Returns and success of the simple policies, as Markdown."""
    rows = ["## Simple policies, 64 episodes", "", "| policy | return, mean (sd) | success |", "|---|---|---|"]
    excites_nothing = bool((task.action_bounds[0] >= 0).all())
    for name, meaning in POLICIES.items():
        if name == "zero" and excites_nothing:  # the same as the lowest
            continue
        found = score(task, policy(task, name))
        mean, sd = found.returns.mean(), found.returns.std()
        rows.append(f"| {name}: {meaning} | {mean:.1f} ({sd:.1f}) | {100 * found.success:.0f} % |")
    return "\n".join([*rows, ""])


def _picture(path: Path, name: str) -> Path:
    """The scripted policy after two thirds of an episode."""
    env = NmsEnv(name, render_mode="rgb_array")
    act = jax.jit(make_task(name).baseline)
    episode = play_environment(env, lambda observation: np.asarray(act(observation)), seed=1)
    for _ in range(1 + max(2 * env.task.horizon // 3, 1)):
        next(episode)
    frame = env.render()
    env.close()
    assert frame is not None
    return write_picture(path, frame)


def _options(build: Any) -> list[str]:
    rows = ["## Options of `gymnasium.make`", "", "| option | default | meaning |", "|---|---|---|"]
    rows += [f"| `{name}` | `{o.default!r}` | {_plain(o.meaning)}. |" for name, o in build.options.items()]
    rows.append('| `precision` | `"float32"` | or "float64", of the computation. |')
    rows.append('| `render_mode` | `None` | or "rgb_array". |')
    return rows


def _numbers(entries: Any) -> str:
    return f"{len(entries)} number{'' if len(entries) == 1 else 's'}"


def _plain(text: str) -> str:
    return text.replace("``", "`").strip()


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
