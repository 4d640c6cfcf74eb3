"""How programs are compiled that run for seconds, and would be compiled for minutes."""

from __future__ import annotations

import functools
from typing import Any

import jax


@functools.cache
def fast_compilation() -> dict[str, Any]:
    """Options with which XLA compiles these programs for CPUs a third faster, and they run as fast.

    Empty on other devices, and where the installed XLA does not know them.
    """
    options = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x + 1, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options
