"""Gymnasium environments, registered by name; nothing heavy is imported before one is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from nms_gym.envs.task import DescribedTask, Task

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
            register_task(f"{NAMESPACE}/{name}", name)


def register_task(id: str, task: Any) -> None:
    """Give a task an id for ``gymnasium.make`` and ``make_vec``, whose other arguments are the task's options.

    Args:
        id: such as "mine/Task-v0".
        task: what ``make_task`` takes. By name as "module:function" the spec of an environment can be written as JSON,
            and other processes (``AsyncVectorEnv``) find the task.
    """
    from gymnasium.envs import registration

    registration.register(
        id=id,
        entry_point="nms_gym.envs.gymnasium_env:NmsEnv",
        vector_entry_point="nms_gym.envs.vector_env:NmsVectorEnv",
        kwargs={"task": task},
    )


@overload
def make_task(task: str, **options: Any) -> DescribedTask: ...


@overload
def make_task(task: Task | Callable[..., Task], **options: Any) -> Task: ...


def make_task(task: Any, **options: Any) -> Any:
    """A task with pure ``reset`` and ``step``, for one's own training loop; what every adapter calls.

    Leaves of shipped tasks are NumPy float64: bring them to JAX arrays of a precision with
    ``nms_gym.envs.task.as_dtype`` before jitting or mapping anything.

    Args:
        task: the name of an id such as "ElbowReach-v0", with or without "nms_gym/"; a function that builds a task,
            also by name as "module:function"; or a task, which is only checked (``nms_gym.envs.task.Task`` says what it
            must have).
        options: of the function that builds the task; see ``builder(task)`` or the task's page.

    Raises:
        InputError: no such task or option, an option cannot be used, or the task lacks something.
    """
    import inspect

    from nms_gym.envs.options import require_known
    from nms_gym.envs.task import checked_task
    from nms_gym.errors import InputError

    if not isinstance(task, str) and not _builds(task):
        if options:
            raise InputError(f"options {sorted(options)} are of no use to a task that is already built")
        return checked_task(task)
    build = builder(task)
    allowed = inspect.signature(build).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in allowed.values()):
        require_known(options, allowed, task if isinstance(task, str) else getattr(task, "__name__", task))
    return checked_task(build(**options))


def builder(task: str | Callable[..., Task]) -> Callable[..., Any]:
    """The function that builds a task; its docstring and signature say which options there are. Of a shipped id it is a
    ``TaskBuilder``, whose ``options`` lists them.

    Args:
        task: as that of ``make_task``, except a built task.

    Raises:
        InputError: no such task, or no such function.
    """
    import importlib

    from nms_gym.errors import InputError, near

    if not isinstance(task, str):
        return task
    key = task.removeprefix(f"{NAMESPACE}/")
    if key not in TASKS and ":" not in key:
        raise InputError(f"no task {task!r}; {near(key, TASKS)}, or give 'module:function'")
    module, function = TASKS.get(key, key).split(":", 1)
    try:
        return getattr(importlib.import_module(module), function)
    except (ModuleNotFoundError, AttributeError) as error:
        if key in TASKS:
            raise
        raise InputError(f"task {task!r}: {error}; give 'module:function' of a function that builds a task") from error


def _builds(task: Any) -> bool:
    return callable(task) and (isinstance(task, type) or not hasattr(task, "reset"))
