"""Makes the environments known to Gymnasium when, and only when, Gymnasium is loaded.

Importing Gymnasium takes several times as long as everything that ``import nms_gym`` needs, and who calibrates never
needs it. So the ids are registered at once where Gymnasium is loaded already, else as soon as it is.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

REGISTRATION = "gymnasium.envs.registration"


class _WhenLoaded:
    """A finder of one module, that runs ``register`` after it was loaded, and is gone then."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec that others find, with a loader that registers when it is done."""
        if name != REGISTRATION:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _register()

        loader.exec_module = exec_module
        return spec


def _register() -> None:
    from nms_gym.envs import register

    register()


def register_when_loaded() -> None:
    """Register now, or when Gymnasium is imported."""
    if REGISTRATION in sys.modules:
        _register()
    elif not any(isinstance(finder, _WhenLoaded) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenLoaded())
