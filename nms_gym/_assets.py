"""Where the shipped models and the demo recording are found."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from nms_gym.errors import InputError


def asset_path(name: str) -> Path:
    """Path of an asset, e.g. ``asset_path("arm/model.json")``.

    Looks in the installed package (wheel), then in the ``assets`` folder beside it (checkout, editable install).

    Raises:
        InputError: neither place has it.
    """
    package = Path(str(resources.files("nms_gym")))
    places = (package / "assets" / name, package.parent / "assets" / name)
    for place in places:
        if place.exists():
            return place
    raise InputError(f"asset {name!r} not found; looked in {places[0]} and {places[1]}; reinstall nms-gym")
