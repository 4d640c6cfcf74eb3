"""Gymnasium environments, registered by name; nothing heavy is imported before one is made."""

from __future__ import annotations

NAMESPACE = "nms_gym"

# id -> (single environment, vectorised environment), as strings: Gymnasium imports them when one is made.
ENVIRONMENTS: dict[str, tuple[str, str]] = {
    "MomentTracking-v0": (
        "nms_gym.envs.gymnasium_env:MomentTrackingEnv",
        "nms_gym.envs.vector_env:MomentTrackingVectorEnv",
    ),
}


def register() -> None:
    """Make the ids known to Gymnasium; ``import nms_gym`` calls it. Does nothing the second time.

    Gymnasium 1.x looks for no entry points, so the package has to be imported before ``gymnasium.make``, or named in
    the id: ``gymnasium.make("nms_gym:nms_gym/MomentTracking-v0")``.
    """
    from gymnasium.envs import registration

    for name, (entry_point, vector_entry_point) in ENVIRONMENTS.items():
        if f"{NAMESPACE}/{name}" not in registration.registry:
            registration.register(
                id=f"{NAMESPACE}/{name}", entry_point=entry_point, vector_entry_point=vector_entry_point
            )
