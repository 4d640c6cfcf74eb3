"""What the documentation shows, run as it stands: every snippet of the README, every numbered example.

Each runs in a process and an empty folder of its own, with the packages that the tests use: an installed wheel will do.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import EXAMPLES, REPOSITORY

import nms_gym

if not EXAMPLES.is_dir():
    pytest.skip(f"no examples at {EXAMPLES}: they are not part of the wheel", allow_module_level=True)

PAGES = (REPOSITORY / "README.md", EXAMPLES / "README.md")
PACKAGES = str(Path(nms_gym.__file__).parents[1])
SHELL = f"""\
set -eu
python() {{ '{sys.executable}' "$@"; }}
nms-gym() {{ python -m nms_gym.cli "$@"; }}
"""
NUMBERED = sorted(EXAMPLES.glob("[0-9][0-9]_*.py"))
OTHERS = {
    "cohort_two_processes.py": "tests/calibration/test_cohort.py",
    "build_assets.py": "needs OpenSim's models; tests/files read what it made",
    "build_demo.py": "makes the shipped demo anew",
    "build_trials.py": "makes the shipped trials anew",
}
"""examples without a number -> where they are tested, or why they are not"""


class Snippet(NamedTuple):
    """A block of code of a page."""

    page: str
    line: int
    language: str
    code: str
    not_run: str
    """why not, as the comment ``<!-- not run: ... -->`` above it says; or nothing"""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def snippets(page: Path) -> list[Snippet]:
    """Blocks of Python and shell; other languages show what is written, not what is done."""
    text = page.read_text(encoding="utf-8")
    pattern = r"^(?:<!-- not run: ([^\n]+) -->\n)?```(python|bash)\n(.*?)^```$"
    found = []
    for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, match.start()) + 1
        name = page.relative_to(REPOSITORY).as_posix()
        found.append(Snippet(name, line, match[2], match[3], match[1] or ""))
    return found


SNIPPETS = [snippet for page in PAGES for snippet in snippets(page)]


def run(*command: str, folder: Path) -> str:
    """Standard output of a program; it must end well."""
    # As from a shell: pytest's workers set the width of the terminal.
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    environment |= {"PYTHONPATH": PACKAGES, "JAX_PLATFORMS": "cpu", "MPLBACKEND": "agg"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_the_pages_have_snippets():
    """So that a change of their form does not empty the tests below."""
    assert sum(s.language == "python" and not s.not_run for s in SNIPPETS) >= 3
    assert sum(s.language == "bash" and not s.not_run for s in SNIPPETS) >= 2


def test_snippets_use_public_names_only():
    for snippet in SNIPPETS:
        if snippet.language == "python":
            for module in re.findall(
                r"^\s*(?:from|import) ((?:nms_gym|calibration)[.\w]*)", snippet.code, re.MULTILINE
            ):
                assert module in ("nms_gym", "calibration"), f"{snippet}: {module}"


@pytest.mark.slow
@pytest.mark.parametrize("snippet", [s for s in SNIPPETS if not s.not_run], ids=str)
def test_snippet(snippet, tmp_path):
    if snippet.language == "python":
        run(sys.executable, "-c", snippet.code, folder=tmp_path)
        return
    # Examples are where their page is; what is written lands in this folder.
    run("bash", "-c", SHELL + re.sub(r"\bpython (?=\S+\.py)", f"python {EXAMPLES}/", snippet.code), folder=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("script", NUMBERED, ids=lambda path: path.stem)
def test_numbered_example(script, tmp_path):
    """It prints something, draws where it says so, and leaves the folder that it runs in alone."""
    draws = "--out" in script.read_text(encoding="utf-8")
    (tmp_path / "here").mkdir()
    arguments = ("--out", str(tmp_path / "out")) if draws else ()
    printed = run(sys.executable, str(script), *arguments, folder=tmp_path / "here")
    assert len(printed.splitlines()) >= 3
    assert not list((tmp_path / "here").iterdir())
    if draws:
        pictures = list((tmp_path / "out").glob("*.png"))
        assert len(pictures) == 1
        assert pictures[0].read_bytes().startswith(b"\x89PNG")


def test_numbered_examples_are_short_complete_and_listed():
    assert [int(path.name[:2]) for path in NUMBERED] == list(range(1, 9))
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert path in NUMBERED or path.name in OTHERS, f"{path.name} is run by no test"
        assert path.name in index
    for path in NUMBERED:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 90, path.name
