"""Pages of the environments: present, not stale, and made by the command; playing an environment from the shell."""

from __future__ import annotations

import pytest
from helpers import EXAMPLES
from PIL import Image
from typer.testing import CliRunner

from nms_gym.cli import app
from nms_gym.envs import TASKS, make_task
from nms_gym.envs.policies import policy, score
from nms_gym.errors import InputError
from nms_gym.pages.environments import MARK, contents, page

PAGES = EXAMPLES / "environments"


@pytest.mark.parametrize("name", TASKS)
def test_the_committed_page_is_what_the_command_writes(name):
    text = (PAGES / f"{name.removesuffix('-v0')}.md").read_text(encoding="utf-8")
    written, _, measured = text.partition(f"\n{MARK}\n")
    assert written == page(name), "run: nms-gym environments -o examples/environments"
    assert "| baseline" in measured
    assert "| random" in measured
    with Image.open(PAGES / f"{name.removesuffix('-v0')}.png") as picture:
        assert picture.size == (960, 540)


def test_the_list_of_pages_is_complete():
    assert (PAGES / "README.md").read_text(encoding="utf-8") == contents()
    assert all(f"({name.removesuffix('-v0')}.md)" in contents() for name in TASKS)


def test_scripted_beats_random_and_leaves_room():
    task = make_task("ElbowAssist-v0", seconds=1.0)
    scripted, chance = (score(task, policy(task, name), episodes=8) for name in ("baseline", "random"))
    assert scripted.returns.shape == (8,)
    assert scripted.returns.mean() > chance.returns.mean() + 20
    assert scripted.returns.max() < task.horizon
    assert scripted.success == 1.0
    assert score(task, policy(task, "random"), episodes=8).returns == pytest.approx(chance.returns)
    with pytest.raises(InputError, match="did you mean 'random'"):
        policy(task, "rondom")


@pytest.mark.slow
def test_play_films_an_episode(tmp_path):
    options = ["--option", 'tendon="rigid"', "--option", "seconds=0.2", "--policy", "random", "--fps", "20"]
    done = CliRunner().invoke(app, ["play", "nms_gym/ElbowReach-v0", *options, "-o", str(tmp_path / "x" / "reach.gif")])
    assert done.exit_code == 0, done.output
    assert "return" in done.output
    with Image.open(tmp_path / "x" / "reach.gif") as film:
        assert film.n_frames >= 4  # type: ignore[attr-defined]
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["reach.gif", "reach.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["play", "ElbowReech-v0"], "did you mean 'ElbowReach-v0'"),
        (["play", "ElbowReach-v0", "--option", "tendon=rigid"], "name=JSON"),
        (["play", "ElbowReach-v0", "--option", "tendons=1"], "no option 'tendons'; did you mean 'tendon'"),
        (["play", "ElbowReach-v0", "--policy", "best"], "no policy 'best'"),
        (["play", "ElbowReach-v0", "-o", "film.avi"], "gif"),
        (["environments", "--only", "Elbow"], "no task 'Elbow'"),
    ],
)
def test_bad_input_ends_in_one_error(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)
    assert not list(tmp_path.rglob("*.*"))


def test_play_lists_the_ids():
    done = CliRunner().invoke(app, ["play", "list"])
    assert done.output.split() == [f"nms_gym/{name}" for name in TASKS]
