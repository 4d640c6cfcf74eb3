"""Files that other files name: written on another computer, maybe with a path of its own."""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath

from nms_gym.errors import InputError, shown

# No system has longer names of files and folders.
LONGEST_NAME = 255


def usable_name(name: str) -> bool:
    """Whether a file can have this path at all."""
    return bool(name) and "\x00" not in name and all(len(part) <= LONGEST_NAME for part in re.split(r"[\\/]", name))


def named_file(source: Path, name: str) -> Path:
    """The file that ``source`` names.

    Looked for as written, from the folder of ``source`` and then from the working folder (Windows's separators are
    understood), and last under its bare name beside ``source``: an absolute path is that of the computer where
    ``source`` was written. The first place, where it is in none of them, so that reading it says what is missing.

    Raises:
        InputError: no name at all, or none of a file.
    """
    name = name.strip()
    if not usable_name(name):
        raise InputError(f"{source}: names a file {shown(name)}; give the name of one")
    plain = Path(name.replace("\\", "/"))
    bare = PureWindowsPath(name).name
    places = [source.parent / name, source.parent / plain, Path(name), plain, source.parent / bare]
    for place in places:
        try:
            if bare and place.is_file():
                return place
        except OSError as error:  # longer than this system has, as a whole
            raise InputError(f"{source}: names a file {shown(name)}: {error.strerror}") from error
    return source.parent / plain
