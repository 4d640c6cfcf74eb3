"""Strict arithmetic for every test, quick compiling, and the one place that finds the recordings."""

from __future__ import annotations

import getpass
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

# Compiling takes most of the time. Through the environment, so that programs that tests start do the same, and before
# anything imports JAX.
# What another worker, or another run, has compiled is loaded.
CACHE = os.environ.get("NMS_GYM_TEST_CACHE", str(Path(tempfile.gettempdir()) / f"nms-gym-tests-{getpass.getuser()}"))
os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
# Most programs run briefly: optimising their machine code would take longer than running it. XLA's own passes stay.
OPTIMISED = os.environ.get("NMS_GYM_TEST_OPTIMISED") == "1"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(not OPTIMISED)
# XLA's older code generator for CPUs takes half the time of the newer one, and what it makes is as fast. Later versions
# have none; an unknown flag would end the process.
if not OPTIMISED and tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()


import jax  # noqa: E402
from helpers import REPOSITORY  # noqa: E402

# Tests compare with references to many digits; the library itself never touches this setting.
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="module")
def optimised():
    """For programs that run for long."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", not OPTIMISED)


def find_data(name: str) -> Path:
    """Folder ``name`` of the test recordings, or skip (fail when NMS_GYM_REQUIRE_DATA=1)."""
    root = Path(os.environ.get("NMS_GYM_DATA", REPOSITORY.parent / "shared" / "data"))
    folder = root / name
    if not folder.is_dir():
        reason = f"recordings not found: {folder} (set NMS_GYM_DATA to the folder that holds {name!r})"
        if os.environ.get("NMS_GYM_REQUIRE_DATA") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def data():
    """``data("truth_muscle")`` gives the folder of that data set."""
    return find_data
