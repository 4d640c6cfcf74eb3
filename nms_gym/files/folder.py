"""Folders that results go to."""

from __future__ import annotations

import os
from pathlib import Path

from nms_gym.errors import InputError


def require_folder(folder: Path) -> None:
    """Raise ``InputError`` unless results can go to ``folder``, which need not exist yet; to ask before a long fit."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        what = "is not a folder" if not place.is_dir() else "may not be written to"
        raise InputError(f"{folder}: results cannot go there: {place} {what}; choose another output folder")


def make_folder(folder: Path) -> None:
    """Make ``folder`` and its parents, or raise ``InputError``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot make the output folder: {error.strerror or error}") from error
