"""Differentiable EMG-informed neuromusculoskeletal models as Gymnasium environments.

Every public name is listed in ``__init__.pyi`` and loaded when it is first used: importing the package is quick,
silent, and loads neither JAX nor Gymnasium.
"""

from typing import Any

import lazy_loader

from nms_gym._registration import register_when_loaded as _register_when_loaded

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("nms-gym")
    return _load(name)


_register_when_loaded()
