"""The arm of ``physics.py``: two links in a horizontal plane, six muscles.

Nijhof & Kouwenhoven 2000 (10.1007/978-1-4612-2104-3_29), with the numbers that MotorNet's ``RigidTendonArm26`` and
``CompliantTendonArm26`` have: musculotendon lengths are quadratic in the joint angles, so that our polynomial paths
hold them exactly. No gravity, no joint limits, no joint damping, the same for every engine.
"""

from __future__ import annotations

import numpy as np

MUSCLES = ("pectoralis", "deltoid", "brachioradialis", "tricepslat", "biceps", "tricepslong")
COORDINATES = ("shoulder", "elbow")

MASSES = (1.82, 1.43)
MASS_CENTERS = (0.135, 0.165)
INERTIAS = (0.051, 0.057)
LENGTHS = (0.309, 0.333)

MAX_ISOMETRIC_FORCE = (838.0, 1207.0, 1422.0, 1549.0, 414.0, 603.0)
OPTIMAL_FIBER_LENGTH = (0.134, 0.140, 0.092, 0.093, 0.137, 0.127)
TENDON_SLACK_LENGTH = {
    "rigid": (0.039, 0.066, 0.172, 0.187, 0.204, 0.217),
    "elastic": (0.070, 0.070, 0.172, 0.187, 0.204, 0.217),
}
# length = constant + sum_k (linear_k + quadratic_k d_k) d_k with d = q - reference
PATH_CONSTANT = {
    "rigid": (0.151, 0.2322, 0.2859, 0.2355, 0.3329, 0.2989),
    "elastic": (0.182, 0.2362, 0.2859, 0.2355, 0.3329, 0.2989),
}
PATH_LINEAR = np.array([[-0.03, 0.03, 0, 0, -0.03, 0.03], [0, 0, -0.014, 0.025, -0.016, 0.03]])
PATH_QUADRATIC = np.array([[0, 0, 0, 0, 0, 0], [0, 0, -4e-3, -2.2e-3, -5.7e-3, -3.2e-3]])
PATH_REFERENCE = np.array([np.pi / 2, 0.0])
RANGE = np.radians([[0, 135], [0, 155]])
ACTIVATION, DEACTIVATION = 0.015, 0.05


def mjcf(dt: float, *, muscles: bool = False, limits: bool = False) -> str:
    """The arm for MuJoCo, MJX and brax, driven by two torques or by six MuJoCo muscles.

    MuJoCo's muscle has a rigid tendon and no series elasticity; its fixed tendons have constant moment arms, so the
    quadratic part of the lengths is left out.
    """
    joint = [f'limited="true" range="{low:.6f} {high:.6f}"' if limits else "" for low, high in np.degrees(RANGE)]
    link = [
        f'<inertial pos="{c} 0 0" mass="{m}" diaginertia="{i} {i} {i}"/>'
        '<geom type="sphere" size="0.01" mass="0" contype="0" conaffinity="0"/>'  # brax needs one
        for m, c, i in zip(MASSES, MASS_CENTERS, INERTIAS, strict=True)
    ]
    if muscles:
        tendons, actuators = "", ""
        for k, name in enumerate(MUSCLES):
            spans = [(c, PATH_LINEAR[d, k]) for d, c in enumerate(COORDINATES) if PATH_LINEAR[d, k]]
            lines = "".join(f'<joint joint="{c}" coef="{r}"/>' for c, r in spans)
            tendons += f'<fixed name="{name}">{lines}</fixed>'
            # A fixed tendon's length is 0 at q = 0: the length range puts the fiber between 0.6 and 1.4 over the range.
            ends = [sum(r * q for (_, r), q in zip(spans, qs, strict=True)) for qs in _corners(len(spans))]
            actuators += (
                f'<muscle tendon="{name}" force="{MAX_ISOMETRIC_FORCE[k]}" range="0.6 1.4" timeconst="{ACTIVATION} '
                f'{DEACTIVATION}" lengthrange="{min(ends):.5f} {max(ends):.5f}"/>'
            )
        drive = f"<tendon>{tendons}</tendon><actuator>{actuators}</actuator>"
    else:
        drive = "<actuator>" + "".join(f'<motor joint="{c}" gear="1"/>' for c in COORDINATES) + "</actuator>"
    return f"""<mujoco><compiler angle="degree" autolimits="false"/>
<option timestep="{dt}" gravity="0 0 0" iterations="1" ls_iterations="1" integrator="Euler">
<flag contact="disable" eulerdamp="disable"/></option>
<worldbody><body name="upper_arm"><joint name="shoulder" type="hinge" axis="0 0 1" {joint[0]}/>{link[0]}
<body name="forearm" pos="{LENGTHS[0]} 0 0"><joint name="elbow" type="hinge" axis="0 0 1" {joint[1]}/>{link[1]}
</body></body></worldbody>{drive}</mujoco>"""


def _corners(count: int) -> list[tuple[float, ...]]:
    top = 2.4
    return [(0.0,), (top,)] if count == 1 else [(a, b) for a in (0.0, top) for b in (0.0, top)]


def drive(steps: int, batch: int, width: int) -> np.ndarray:
    """Excitations (steps, batch, 6) from 0.02 to 0.22, or torques (steps, batch, 2) within 0.5 N·m; float32."""
    uniform = np.random.default_rng(0).random((steps, batch, width))
    return (0.02 + 0.2 * uniform if width == len(MUSCLES) else uniform - 0.5).astype(np.float32)
