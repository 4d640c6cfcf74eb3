"""Reading recordings needs no JAX: found out by importing, in a new interpreter."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys

import pytest
from helpers import REPOSITORY

from nms_gym import recording

MODULES = [f"nms_gym.recording.{module.name}" for module in pkgutil.iter_modules(recording.__path__)]
HEAVY = ("jax", "jaxlib", "optax", "brax", "matplotlib")
ABOVE = ("excitation", "skeleton", "muscle", "model", "conditions", "files", "envs", "pages", "cli")


def loaded_by(*names):
    """The modules that a new interpreter holds after importing these."""
    code = f"import sys; import {', '.join(names)}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def door():
    """What ``import nms_gym`` alone loads."""
    return loaded_by("nms_gym")


def unwanted(modules, door):
    """JAX and the like at all, and what is built on recordings beyond what the package itself loads."""
    above = tuple(f"nms_gym.{name}" for name in ABOVE)
    return {m for m in modules if m.split(".")[0] in HEAVY or (m.startswith(above) and m not in door)}


def test_recording_loads_neither_jax_nor_what_is_built_on_it(door):
    loaded = loaded_by("nms_gym.anatomy", "nms_gym.errors", *MODULES)
    assert len(MODULES) > 10
    assert set(MODULES) <= loaded
    assert not unwanted(loaded, door)


def test_the_search_would_find_it(door):
    assert {"jax", "nms_gym.skeleton.tree"} <= unwanted(loaded_by("nms_gym.skeleton.tree"), door)


def test_reading_loads_nothing_later(door, tmp_path):
    """No import waits inside a reader: a model, a subject and a trial are read, and JAX is still not there."""
    code = (
        "import sys, ceinms_files, pathlib; from helpers import REFERENCE; from nms_gym._assets import asset_path\n"
        "from nms_gym.recording.osim import read_osim; from nms_gym.recording.trial import load_trial\n"
        "read_osim(REFERENCE / 'geometry.osim'); load_trial(asset_path('demo/reach_1.npz'))\n"
        "ceinms_files.read(pathlib.Path(sys.argv[1]), ceinms_files.SUBJECT)\n"
        "print('\\n'.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=True,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"},
    )
    assert not unwanted(done.stdout.split(), door)
