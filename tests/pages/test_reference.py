"""The reference page names everything that the code has, its figures exist, and the shipped copy is up to date."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys

import matplotlib
import numpy as np
import pytest
from helpers import EXAMPLES
from matplotlib import image

from nms_gym import cli
from nms_gym.excitation import activation
from nms_gym.model.parameters import KINDS
from nms_gym.muscle import derived, metabolics
from nms_gym.muscle.families import FAMILIES
from nms_gym.pages import reference

SHIPPED = EXAMPLES / "reference"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page's text and its folder."""
    folder = tmp_path_factory.mktemp("reference")
    before = dict(matplotlib.rcParams)
    files = reference.write_reference(folder)
    assert dict(matplotlib.rcParams) == before
    assert set(files) == set(folder.iterdir())
    return files[0].read_text(encoding="utf-8"), folder


def test_every_name_is_on_the_page(written):
    page, _ = written
    for name, make in FAMILIES.items():
        assert f"### {name}\n" in page
        for field in dataclasses.fields(make()):  # type: ignore[arg-type]
            assert field.name == "name" or f"| `{field.name}` |" in page, (name, field.name)
    for kind in KINDS:
        assert f"| `{kind}` | {KINDS[kind].unit} |" in page
    for name in metabolics.METABOLIC_MODELS:
        assert f"**`{name}`**" in page
    for module in (activation, derived, metabolics):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                assert f"**`{name}(" in page, name
    for curve in ("active_force_length", "force_velocity", "passive_force_length", "tendon_force", "tendon_length"):
        assert page.count(f"- `{curve}`: ") >= len(FAMILIES)
    # Texts are there, not only names: a departure, a note under a field, a source.
    assert "a typo there" in page
    assert "excitation per unit of the envelope" in page
    assert "[10.1016/j.jbiomech.2008.03.024](https://doi.org/10.1016/j.jbiomech.2008.03.024)" in page
    assert "``" not in re.sub(r"```.*?```", "", page, flags=re.DOTALL)


def test_values_on_the_page_are_the_curves(written):
    """Slopes by central differences, values at two key points by hand."""
    page, _ = written
    lines = page.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| curve | at |"))
    table = [line.split(" | ") for line in lines[start : lines.index("", start)]]
    column = [name.rstrip(" |") for name in table[0]].index("DeGrooteFregly2016")
    cells = {(row[1], row[column].rstrip(" |")) for row in table[2:]}
    assert {("1", "1 (0.16)"), ("0", "1 (2.451)"), ("1.049", "1 (43.88)")} <= cells
    assert len(table) == 2 + sum(len(curve.keys) for curve in reference.CURVES)
    family = FAMILIES["DeGrooteFregly2016"]()
    for curve in reference.CURVES:
        x, value, slope = reference.sampled(family, curve)
        assert len(x) == reference.POINTS + len(curve.keys)
        grid = slice(0, reference.POINTS)
        expected = np.gradient(value[grid], x[grid], edge_order=2)
        np.testing.assert_allclose(slope[grid], expected, rtol=0, atol=0.01 * np.abs(expected).max())


def test_every_figure_is_linked_and_drawn(written):
    page, folder = written
    links = re.findall(r"!\[.*?\]\((.*?)\)", page)
    assert set(links) == {p.name for p in folder.glob("*.png")}
    assert len(links) == len(FAMILIES) + 3
    for name in links:
        pixels = image.imread(folder / name)
        assert pixels.shape[1] == 1000
        # Something is drawn in every third of the figure.
        assert all((part[..., :3].min(axis=-1) < 0.7).mean() > 0.005 for part in np.array_split(pixels, 3, axis=1))
    assert sum(p.stat().st_size for p in folder.iterdir()) < 400_000


def test_the_shipped_page_is_current(written):
    page, folder = written
    again = "run nms-gym reference -o examples/reference"
    assert (SHIPPED / reference.PAGE).read_text(encoding="utf-8") == page, again
    assert {p.name for p in SHIPPED.iterdir()} == {p.name for p in folder.iterdir()}, again


def test_command_writes_into_a_new_folder(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(reference, "write_reference", lambda folder: asked.append(folder) or [folder / "README.md"])
    monkeypatch.setattr(sys, "argv", ["nms-gym", "reference", "-o", str(tmp_path / "new" / "page")])
    monkeypatch.setattr("os.environ", {})
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert asked == [tmp_path / "new" / "page"]
    assert asked[0].is_dir()


def test_markdown_of_a_docstring():
    doc = """Line with ``code`` and 10.1016/0021-9290(95)00025-9.

Args:
    curves: the family,
        continued.

Returns:
    A thing.
    Two lines.

After: text."""
    assert reference._markdown(doc).splitlines() == [
        "Line with `code` and [10.1016/0021-9290(95)00025-9](https://doi.org/10.1016/0021-9290(95)00025-9).",
        "",
        "*Args*",
        "",
        "- `curves`: the family,",
        "  continued.",
        "",
        "*Returns*",
        "",
        "A thing.",
        "Two lines.",
        "",
        "After: text.",
    ]
