"""Where things are, for tests of any folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent
REFERENCE = TESTS / "reference"
EXAMPLES = REPOSITORY / "examples"


def load_arrays(path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz``, and the file closed: an open one that is found later fails some other test."""
    with np.load(path, allow_pickle=False) as file:
        return dict(file)
