"""Rebuild the shipped models: parameters and skeletons of the published OpenSim models, paths fitted by our own tool.

    python examples/build_assets.py --data DIR --out assets [--only arm] [--skeleton-only]

DIR holds ``arm26_elbow/original/arm26.osim`` and ``rajagopal_walk/original/subject_walk_scaled.osim``. The arm has
ellipsoid wraps, so that its samples come from the real OpenSim (``pip install "nms-gym[opensim]"``); the leg needs no
OpenSim. Prints the fit errors on held-out poses, muscles that miss the targets with their reason. With
``--skeleton-only`` the shipped paths and muscle parameters stay as they are and only the skeleton and the points that
muscles are drawn through are read again, in a second and without OpenSim.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nms_gym.anatomy import moving_part
from nms_gym.errors import InputError, listed
from nms_gym.files.model_file import model_from_osim, read_model_file, write_model_file
from nms_gym.muscle.opensim_sampler import opensim_sampler
from nms_gym.muscle.path_fitting import direct_sampler, fit_paths
from nms_gym.muscle.path_points import points_from_osim
from nms_gym.recording.osim import read_osim


@dataclass(frozen=True)
class Asset:
    """A model to ship; ``ranges`` in degrees, the paths' domain reaches 5 degrees further on either side."""

    osim: str
    ranges: dict[str, tuple[float, float]]
    muscles_ending: str
    uses_opensim: bool
    name: str
    source: str
    citation: str
    licence: str
    specific_tension: float


ASSETS = {
    "arm": Asset(
        osim="arm26_elbow/original/arm26.osim",
        ranges={"r_shoulder_elev": (-60, 120), "r_elbow_flex": (0, 130)},
        muscles_ending="",
        uses_opensim=True,
        name="arm26",
        source="arm26.osim, https://github.com/opensim-org/opensim-models (Models/Arm26, commit 20a888b); "
        "changed: muscle paths replaced by polynomial surfaces fitted to OpenSim 4.6",
        citation="Holzbaur KRS, Murray WM, Delp SL (2005) A model of the upper extremity for simulating "
        "musculoskeletal surgery and analyzing neuromuscular control. Ann Biomed Eng 33:829-840",
        licence="CC BY 3.0, https://creativecommons.org/licenses/by/3.0/",
        specific_tension=0.25e6,  # the default; nothing published for this model
    ),
    "right_leg": Asset(
        osim="rajagopal_walk/original/subject_walk_scaled.osim",
        ranges={
            "hip_flexion_r": (-30, 75),
            "hip_adduction_r": (-25, 20),
            "hip_rotation_r": (-25, 25),
            "knee_angle_r": (0, 110),
            "ankle_angle_r": (-35, 25),
        },
        muscles_ending="_r",
        uses_opensim=False,
        name="right_leg",
        source="subject_walk_scaled.osim, https://github.com/opensim-org/opensim-core "
        "(OpenSim/Examples/Moco/example3DWalking, commit 0435b08), right leg; changed: muscle paths replaced by "
        "polynomial surfaces",
        citation="Rajagopal A et al. (2016) IEEE Trans Biomed Eng 63:2068-2079, doi:10.1109/TBME.2016.2586891; "
        "Lai AKM, Arnold AS, Wakeling JM (2017) Ann Biomed Eng 45:2762-2774, doi:10.1007/s10439-017-1920-7; "
        "Uhlrich SD et al. (2022) Sci Rep 12, doi:10.1038/s41598-022-13386-9",
        licence="Apache-2.0",
        specific_tension=0.6e6,  # Rajagopal et al. 2016: 60 N/cm^2
    ),
}


def add_skeleton(name: str, data: Path, out: Path) -> None:
    """Read the skeleton and the muscles' points again and leave everything else in the model file as it is."""
    file = out / name / "model.json"
    model = read_model_file(file)
    osim = read_osim(data / ASSETS[name].osim)
    skeleton = moving_part(osim, model.coordinates)
    points = points_from_osim(osim, model.muscles, [body.name for body in skeleton.bodies])
    tension = ASSETS[name].specific_tension
    write_model_file(
        file, dataclasses.replace(model, skeleton=skeleton, muscle_points=points, specific_tension=tension)
    )
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


def build(name: str, data: Path, out: Path) -> None:
    asset = ASSETS[name]
    osim = read_osim(data / asset.osim)
    coordinates = tuple(asset.ranges)
    muscles = tuple(muscle.name for muscle in osim.muscles if muscle.name.endswith(asset.muscles_ending))
    sample = opensim_sampler if asset.uses_opensim else None
    sampler = sample(data / asset.osim, muscles, coordinates) if sample else direct_sampler(osim, muscles, coordinates)
    ranges = np.radians(list(asset.ranges.values()))

    def progress(what: str, done: int, total: int) -> None:
        print(f"\r{name}: {what} {done}/{total}   ", end="", file=sys.stderr, flush=True)

    paths, report = fit_paths(sampler, muscles, coordinates, ranges, samples=4096, progress=progress)
    print(file=sys.stderr)
    print(report.table())
    model = model_from_osim(
        osim,
        muscles,
        coordinates,
        paths=paths,
        source=asset.source,
        citation=asset.citation,
        licence=asset.licence,
        specific_tension=asset.specific_tension,
    )
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    write_model_file(folder / "model.json", model)
    print(f"{folder / 'model.json'}: {(folder / 'model.json').stat().st_size / 1000:.0f} kB\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the published models")
    parser.add_argument("--out", type=Path, default=Path("assets"), help="where to write (default: assets)")
    parser.add_argument("--only", help=f"one of {listed(ASSETS)}")
    parser.add_argument("--skeleton-only", action="store_true", help="keep the fitted paths, renew the rest")
    options = parser.parse_args(arguments)
    make = add_skeleton if options.skeleton_only else build
    try:
        if options.only and options.only not in ASSETS:
            raise InputError(f"--only {options.only!r}: there are {listed(ASSETS)}")
        for name in [options.only] if options.only else ASSETS:
            make(name, options.data, options.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
