"""Where things are, for tests of any folder."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent
REFERENCE = TESTS / "reference"
EXAMPLES = REPOSITORY / "examples"
