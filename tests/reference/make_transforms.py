"""Write transforms.json: OpenSim's body transforms of the published models at random poses.

``python make_transforms.py subject_walk_scaled.osim gait2392_scaled_estimate_subj06.osim`` with the ``opensim`` package
(4.6 was used).
"""

import json
import sys
from pathlib import Path

import numpy as np
import opensim as osim

osim.Logger.setLevelString("off")
rng = np.random.default_rng(0)
models = {}
for path in sys.argv[1:]:
    model = osim.Model(path)
    state = model.initSystem()
    coordinates = model.getCoordinateSet()
    poses = []
    for _ in range(2):
        pose = {}
        for i in range(coordinates.getSize()):
            item = coordinates.get(i)
            if item.getName().endswith("_beta"):  # follows the knee
                continue
            low, high = item.getRangeMin(), item.getRangeMax()
            low, high = (low, high) if high - low < 3.2 else (-1.0, 1.0)
            pose[item.getName()] = round(float(rng.uniform(low, high)), 4)
        for name, value in pose.items():
            coordinates.get(name).setValue(state, value, False)
        model.assemble(state)
        model.realizePosition(state)
        bodies = {}
        for i in range(model.getBodySet().getSize()):
            body = model.getBodySet().get(i)
            at = body.getTransformInGround(state)
            rotation = [[round(at.R().get(r, c), 8) for c in range(3)] for r in range(3)]
            bodies[body.getName()] = {"rotation": rotation, "translation": [round(at.p().get(k), 8) for k in range(3)]}
        poses.append({"pose": pose, "bodies": bodies})
    models[model.getName()] = poses
result = {
    "provenance": f"OpenSim {osim.GetVersion()}; models of opensim-core example3DWalking and CEINMS-RT LowerLimbModel "
    "(both Apache-2.0); written by make_transforms.py",
    "models": models,
}
(Path(__file__).resolve().parent / "transforms.json").write_text(json.dumps(result) + "\n")
