"""Fit a person's parameters through the model's own dynamics, and show what the fit is worth.

Every public name is listed in ``__init__.pyi`` and loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
