"""What may import what, and that importing changes nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import nms_gym

PACKAGE = Path(nms_gym.__file__).parent
REPOSITORY = PACKAGE.parent
SOURCES = [*PACKAGE.rglob("*.py"), *(REPOSITORY / "calibration").rglob("*.py")]


def imported(path):
    """Every module that a file imports, anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def importers(top, paths):
    return {str(p.relative_to(REPOSITORY)) for p in paths if any(n.split(".")[0] == top for n in imported(p))}


def run(code):
    """A new interpreter's standard output; anything on standard error fails."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_the_search_for_imports_finds_them():
    assert len(SOURCES) > 25
    assert "nms_gym/model.py" in importers("jax", SOURCES)
    assert "calibration/fit.py" in importers("nms_gym", SOURCES)


def test_only_the_command_line_imports_calibration():
    assert importers("calibration", PACKAGE.rglob("*.py")) <= {"nms_gym/cli.py"}


def test_brax_is_imported_in_one_adapter_at_most():
    assert len(importers("brax", SOURCES)) <= 1


def test_recording_and_errors_do_not_import_jax():
    files = [*(PACKAGE / "recording").rglob("*.py"), PACKAGE / "errors.py"]
    assert not importers("jax", files)
    assert not importers("jaxlib", files)


def test_library_never_changes_global_settings():
    """``jax.config.update`` or an assignment to ``jax.config`` nowhere; x64 only as a context."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                assert not ast.unparse(node.func).endswith("config.update"), f"{path}:{node.lineno}"
            targets = getattr(node, "targets", [])
            assert not any("jax.config" in ast.unparse(t) for t in targets), f"{path}:{getattr(node, 'lineno', 0)}"


def test_importing_is_silent_and_changes_no_setting():
    output = run(
        "import sys, logging, warnings, jax\n"
        "before = dict(jax.config.values), list(logging.getLogger().handlers), list(warnings.filters)\n"
        "import nms_gym\n"
        "after = dict(jax.config.values), list(logging.getLogger().handlers), list(warnings.filters)\n"
        "assert before[0] == after[0], {k: v for k, v in after[0].items() if before[0].get(k) != v}\n"
        "assert before[1] == after[1]\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'calibration', 'brax', 'opensim', 'matplotlib', 'optax'}, loaded\n"
    )
    assert output == ""


def test_calibration_is_loaded_with_a_silent_import_too():
    output = run(
        "import jax\n"
        "before = dict(jax.config.values)\n"
        "import calibration.fit, calibration.validation\n"
        "assert dict(jax.config.values) == before\n"
    )
    assert output == ""
