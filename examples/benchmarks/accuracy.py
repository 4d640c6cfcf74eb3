"""Muscle and geometry against OpenSim's own numbers.

    NMS_GYM_DATA=DIR python examples/benchmarks/accuracy.py [--json FILE] [--quick]

Forces as a fraction of maximum isometric force, over the tables of ``truth_muscle`` (OpenSim 4.6, De Groote-Fregly
muscles); lengths and moment arms of the shipped models in mm, over the poses of ``truth_geometry``, to which nothing
was fitted.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

from nms_gym._assets import asset_path
from nms_gym.files.model_file import read_model_file
from nms_gym.muscle import hill, tendon
from nms_gym.muscle.curves import DeGrooteFregly2016
from nms_gym.muscle.geometry import lengths_and_moment_arms

CURVES = DeGrooteFregly2016()
STEP = 0.005


def muscles(rows: np.ndarray, damping: float) -> hill.MuscleParams:
    """Muscles of the truth tables: max force, optimal fiber length, slack length, pennation."""
    full = [np.full(len(rows), v) for v in (10.0, damping, 0.6, 0.049, 0.0)]
    return hill.MuscleParams(*(jnp.asarray(x) for x in (*rows.T, *full)))


def statics(folder: Path, kind: tendon.TendonKind) -> np.ndarray:
    file = np.load(folder / f"static_dgf_{kind}.npz")
    table = dict(zip(file["columns"], file["data"].T, strict=True))
    p = muscles(file["param_sets"][table["param_set"].astype(int)], 0.01)
    fiber = tendon.initial_fiber(kind, CURVES, p, jnp.asarray(table["activation"]), jnp.asarray(table["lmt"]))
    still = jnp.zeros(len(table["lmt"]))
    force = hill.force_along_tendon(CURVES, p, table["activation"], fiber.along_tendon, fiber.length, still)
    return np.asarray(abs(force - table["tendon_force"] / p.max_isometric_force))


def simulations(folder: Path, integrator: tendon.Integrator) -> np.ndarray:
    """RMS error of each elastic forward simulation, activation given."""
    file = np.load(folder / "forward_sims.npz")
    labels, errors = list(file["param_labels"]), []
    for name in (k for k in file.files if k.startswith("dgf__")):
        p = muscles(file["param_sets"][[labels.index(name.split("__")[1])]], 0.01)
        given = [jnp.asarray(file[name][:, i : i + 1]) for i in (2, 3, 4)]
        start = tendon.initial_fiber("elastic", CURVES, p, given[0][0], given[1][0])

        def step(state: Any, sample: Any, p: Any = p) -> Any:
            return tendon.fiber_step("elastic", integrator, 5, CURVES, p, state, *sample, STEP)

        out = jax.lax.scan(step, start, [x[1:] for x in given])[1]
        error = (out.tendon_force[:, 0] - file[name][1:, 7]) / p.max_isometric_force[0]
        errors.append(float(jnp.sqrt(jnp.mean(error**2))))
    return np.array(errors)


def paths(folder: Path, truth: str, asset: str) -> list[dict[str, Any]]:
    """Errors of every muscle of a shipped model, mm; moment arms by the worst coordinate."""
    file, model = np.load(folder / f"{truth}.npz"), read_model_file(asset_path(f"{asset}/model.json")).paths
    assert model is not None
    coordinates, names = [str(c) for c in file["dofs"]], [str(m) for m in file["muscles"]]
    q = file["q"][:, [coordinates.index(c) for c in model.coordinates]]
    lengths, arms = jax.jit(jax.vmap(lengths_and_moment_arms, in_axes=(None, 0)))(model, q)
    rows = []
    for i, muscle in enumerate(model.muscles):
        m = names.index(muscle)
        length = abs(np.asarray(lengths)[:, i] - file["lmt"][:, m])
        columns = {c: coordinates.index(c) for c in model.coordinates}
        arm = [abs(np.asarray(arms)[:, k, i] - file["ma"][:, m, j]) for k, j in enumerate(columns.values())]
        worst = max(arm, key=lambda e: np.percentile(e, 95))
        values = [1e3 * float(np.percentile(e, p)) for e in (length, worst) for p in (50, 95)]
        rows.append({"muscle": muscle, "length": values[:2], "moment_arm": values[2:]})
    return rows


def main() -> None:
    options = common.arguments(__doc__).parse_args()
    data = Path(os.environ.get("NMS_GYM_DATA", "../shared/data"))
    with jax.enable_x64(True):
        force = {f"static, {kind} tendon": statics(data / "truth_muscle", kind) for kind in ("rigid", "elastic")}
        for integrator in ("bdf2", "backward_euler"):
            errors = simulations(data / "truth_muscle", integrator)
            force[f"simulation at 5 ms, elastic, {integrator} (RMS each)"] = errors
        models = {
            "right leg": paths(data / "truth_geometry", "rajagopal_walk_subject", "right_leg"),
            "arm": paths(data / "truth_geometry", "arm26", "arm"),
        }
    rows = [
        [name, len(e), float(np.median(e)), float(np.percentile(e, 99)), float(e.max())] for name, e in force.items()
    ]
    print(common.table(["force error / F0", "cases", "median", "99th percentile", "max"], rows) + "\n")
    limits = (0.2, 1.0, 0.5, 3.0)
    for name, fits in models.items():
        values = np.array([[*f["length"], *f["moment_arm"]] for f in fits])
        over = [f["muscle"] for f, v in zip(fits, values, strict=True) if (v >= limits).any()]
        header = [f"{name}, {len(fits)} muscles, mm", "length median", "length p95", "arm median", "arm p95"]
        summary = [["median muscle", *np.median(values, axis=0)], ["worst muscle", *values.max(axis=0)]]
        print(common.table(header, summary))
        print(f"over {limits}: {', '.join(over) or 'none'}\n")
    cases = [dict(zip(("case", "cases", "median", "p99", "max"), row, strict=True)) for row in rows]
    common.write(options.json, {"force": cases, "paths": models})


if __name__ == "__main__":
    main()
