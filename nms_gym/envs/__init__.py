"""Gymnasium environments, registered by name; nothing heavy is imported before one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nms_gym.envs.task import Task

NAMESPACE = "nms_gym"

# id -> the function that builds its task, as text: nothing is imported before it is needed.
TASKS: dict[str, str] = {
    "MomentTracking-v0": "nms_gym.envs.moment_tracking:make_moment_tracking",
    "ElbowReach-v0": "nms_gym.envs.reach:make_elbow_reach",
    "ArmReach-v0": "nms_gym.envs.reach:make_arm_reach",
    "KneeExtension-v0": "nms_gym.envs.knee_extension:make_knee_extension",
    "AnkleTracking-v0": "nms_gym.envs.ankle_tracking:make_ankle_tracking",
    "LegSwing-v0": "nms_gym.envs.leg_swing:make_leg_swing",
    "ElbowAssist-v0": "nms_gym.envs.elbow_assist:make_elbow_assist",
    "AnkleExo-v0": "nms_gym.envs.ankle_exo:make_ankle_exo",
    "FesElbow-v0": "nms_gym.envs.fes_elbow:make_fes_elbow",
}


def register() -> None:
    """Make the ids known to Gymnasium; ``import nms_gym`` calls it. Does nothing the second time.

    Gymnasium 1.x looks for no entry points, so the package has to be imported before ``gymnasium.make``, or named in
    the id: ``gymnasium.make("nms_gym:nms_gym/ElbowReach-v0")``.
    """
    from gymnasium.envs import registration

    for name in TASKS:
        if f"{NAMESPACE}/{name}" not in registration.registry:
            registration.register(
                id=f"{NAMESPACE}/{name}",
                entry_point="nms_gym.envs.gymnasium_env:NmsEnv",
                vector_entry_point="nms_gym.envs.vector_env:NmsVectorEnv",
                kwargs={"task": name},
            )


def make_task(name: str, **options: Any) -> Task:
    """A task by the name of its id, for one's own training loop: pure ``reset`` and ``step``, NumPy float64 leaves.

    Bring it to JAX arrays of a precision with ``nms_gym.envs.task.as_dtype`` before jitting or mapping anything.

    Args:
        name: such as "ElbowReach-v0", with or without "nms_gym/".
        options: those of the task; see its builder (``builder(name)``) or its page.

    Raises:
        InputError: no such task or option, or an option cannot be used.
    """
    import inspect

    from nms_gym.errors import InputError, listed, near

    build = builder(name)
    allowed = inspect.signature(build).parameters
    for option in options:
        if option not in allowed:
            raise InputError(f"{name} has no option {option!r}; {near(option, allowed)} (it has {listed(allowed, 30)})")
    return build(**options)


def builder(name: str) -> Any:
    """The function that builds a task; its docstring and signature say which options there are.

    Raises:
        InputError: no such task.
    """
    import importlib

    from nms_gym.errors import InputError, near

    key = str(name).removeprefix(f"{NAMESPACE}/")
    if key not in TASKS:
        raise InputError(f"no task {name!r}; {near(key, TASKS)}")
    module, function = TASKS[key].split(":")
    return getattr(importlib.import_module(module), function)
