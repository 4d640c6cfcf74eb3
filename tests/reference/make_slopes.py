"""Write rajagopal_slopes.json: derivatives of OpenSim's own path lengths, by central differences.

``python make_slopes.py subject_walk_scaled.osim rajagopal_walk_subject.npz`` with the ``opensim`` package (4.6 was
used). OpenSim's moment arms come from the forces at its contact points; over cylinders these points are not quite those
of the shortest path, so its moment arms differ from the derivative of its lengths (up to 4.2 mm for glmax1). The
two-cylinder gastrocnemii are left out: their ``getLength`` is wrong.
"""

import json
import sys
from pathlib import Path

import numpy as np
import opensim as osim

STEP = 1e-5
MUSCLES = [
    "addbrev_r",
    "addlong_r",
    "addmagDist_r",
    "addmagIsch_r",
    "addmagMid_r",
    "addmagProx_r",
    "bfsh_r",
    "glmax1_r",
]
MUSCLES += ["glmax2_r", "glmax3_r", "grac_r", "iliacus_r", "psoas_r", "recfem_r", "semimem_r", "semiten_r", "vasmed_r"]

model_path, truth_path = sys.argv[1:]
osim.Logger.setLevelString("off")
truth = np.load(truth_path)
dofs = [str(name) for name in truth["dofs"]]
model = osim.Model(model_path)
state = model.initSystem()
coordinates = model.getCoordinateSet()


def lengths(q):
    for name, value in zip(dofs, q, strict=True):
        coordinates.get(name).setValue(state, float(value), False)
    model.assemble(state)
    model.realizePosition(state)
    return np.array([model.getMuscles().get(name).getLength(state) for name in MUSCLES])


# Poses spread over the ranges, and the ones where OpenSim's moment arms of glmax1 and psoas stray the most.
rows = [*range(0, 2500, 250), 2217, 221, 2162, 992, 959, 1499]
q = np.round(truth["q"][rows], 4)
slopes = []
for pose in q:
    steps = np.eye(len(dofs)) * STEP
    slopes.append([((lengths(pose + step) - lengths(pose - step)) / (2 * STEP)).round(7).tolist() for step in steps])
result = {
    "provenance": f"OpenSim {osim.GetVersion()}, subject_walk_scaled.osim of opensim-core example3DWalking "
    "(Apache-2.0), written by make_slopes.py; slopes[pose][coordinate][muscle] in m/rad",
    "coordinates": dofs,
    "muscles": MUSCLES,
    "q": q.tolist(),
    "lengths": [lengths(pose).round(7).tolist() for pose in q],
    "slopes": slopes,
}
(Path(__file__).resolve().parent / "rajagopal_slopes.json").write_text(json.dumps(result) + "\n")
