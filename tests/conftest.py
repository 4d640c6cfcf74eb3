"""Strict arithmetic for every test, and the one place that finds the recordings."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path

import jax
import pytest
from helpers import REPOSITORY

# Tests compare with references to many digits; the library itself never touches this setting.
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compiling takes most of the time: what another worker, or another run, has compiled is loaded.
CACHE = os.environ.get("NMS_GYM_TEST_CACHE", str(Path(tempfile.gettempdir()) / f"nms-gym-tests-{getpass.getuser()}"))
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


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
