"""Files that other files name: written on another computer, maybe with a path of its own."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

from nms_gym.errors import InputError, shown

# No system has longer paths.
LONGEST_PATH = 4096


def named_file(source: Path, name: str) -> Path:
    """The file that ``source`` names.

    Looked for as written, from the folder of ``source`` and then from the working folder (Windows's separators are
    understood), and last under its bare name beside ``source``: an absolute path is that of the computer where
    ``source`` was written. The first place, where it is in none of them, so that reading it says what is missing.

    Raises:
        InputError: no name at all, or none of a file.
    """
    name = name.strip()
    if not name or len(name) > LONGEST_PATH or "\x00" in name:
        raise InputError(f"{source}: names a file {shown(name)}; give the name of one")
    plain = Path(name.replace("\\", "/"))
    bare = PureWindowsPath(name).name
    places = [source.parent / name, source.parent / plain, Path(name), plain, source.parent / bare]
    for place in places:
        try:
            if bare and place.is_file():
                return place
        except OSError:  # a name that is too long for this system
            continue
    return source.parent / plain
