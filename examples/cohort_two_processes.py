"""A cohort shared by two processes, as two machines would: here both on this one, talking over loopback.

    python examples/cohort_two_processes.py

On real machines, start the worker part once per machine with the first one's address; nothing else changes. CPUs talk
through gloo, GPUs through NCCL.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

PROCESSES = 2


def problems():
    """Five synthetic people; every process makes the same ones."""
    import numpy as np

    from calibration.problem import DEFAULT_FREE
    from calibration.synthetic import make_person
    from nms_gym._assets import asset_path
    from nms_gym.files.model_file import read_model_file
    from nms_gym.model.parameters import make_params
    from nms_gym.model.structure import NmsModel, Settings

    arm = read_model_file(asset_path("arm/model.json"))
    model = NmsModel(
        arm.muscles, arm.coordinates, arm.muscles, Settings(tendon="rigid"), np.eye(len(arm.muscles)), arm.paths
    )
    start = make_params(model, arm.parameters)
    free = [DEFAULT_FREE[kind] for kind in ("max_isometric_force", "electromechanical_delay")]
    motion = {"middle": (0.2, 1.1), "reach": (0.4, 0.6), "seconds": 1.5}
    return [make_person(model, start, free, seed=seed, **motion).problem for seed in range(5)]


def worker(address: str, index: int) -> None:
    """What every process runs."""
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, num_processes=PROCESSES, process_id=index)
    from calibration.cohort import fit_cohort

    results = fit_cohort(problems(), precision="float64", devices=jax.devices())
    print(json.dumps({"process": index, "devices": jax.device_count(), "costs": [r.cost for r in results]}))
    jax.distributed.shutdown()


def main() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    running = [
        subprocess.Popen(
            [sys.executable, __file__, address, str(i)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for i in range(PROCESSES)
    ]
    answers = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
    from calibration.cohort import fit_cohort

    alone = [r.cost for r in fit_cohort(problems(), precision="float64")]
    same = all(abs(a - b) < 1e-6 * b for answer in answers for a, b in zip(answer["costs"], alone, strict=True))
    print(json.dumps({"processes": answers, "alone": alone, "same": same}))
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        worker(sys.argv[1], int(sys.argv[2]))
    else:
        main()
