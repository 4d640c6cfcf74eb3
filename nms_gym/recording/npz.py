"""Arrays in ``.npz`` files from anywhere: what a small file asks for is looked at before any of it is unpacked."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np

from nms_gym.errors import InputError, listed, shown

# Recordings shrink to a tenth or so. What unpacks to more than this many times its size on disk was made to fill
# memory, as soon as it is more than a recording has, and nothing may be larger than the last.
RATIO, SMALL, LARGEST = 100, 2**28, 2**32
# Arrays of a file, and names of an axis: more than any recording or person has.
MOST_ARRAYS, MOST_NAMES = 10_000, 100_000
# Entries along the axis of an array that has none in all, such as EMG without channels.
MOST_EMPTY = 10**8
# Numbers, text, dates and truth values; pickled objects and records are not among them.
KINDS = "biufcUSmM"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(path: str | os.PathLike[str], wanted: Iterable[str] | None = None) -> dict[str, np.ndarray | None]:
    """Arrays of an ``.npz`` file by name; None for those not ``wanted``, so that an error can list what there is.

    Raises:
        InputError: no such file, or not an archive of plain arrays (pickled objects, encryption and other compression
            are refused), or one that unpacks to far more than it is.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: {'this is a folder; give a file' if file.is_dir() else 'no such file'}")
    chosen = None if wanted is None else set(wanted)
    try:
        with file.open("rb") as stream:
            if stream.read(6) == b"\x93NUMPY":
                raise InputError(f"{file}: a single array; expected an .npz file with named arrays")
            with zipfile.ZipFile(stream) as archive:
                members = _members(archive, file)
                read = {name: member for name, member in members.items() if chosen is None or name in chosen}
                _check_size(file, sum(member.file_size for member in read.values()))
                return {name: _array(archive, members[name], file, name) if name in read else None for name in members}
    except InputError:
        raise
    # Damaged archives and headers make zipfile and NumPy raise whatever they meet.
    except Exception as error:
        reason = f"{type(error).__name__}: {shown(str(error), 200)}"
        raise InputError(
            f"{file}: not a readable .npz file without pickled objects ({reason}); copy or save it again"
        ) from error


def _members(archive: zipfile.ZipFile, file: Path) -> dict[str, zipfile.ZipInfo]:
    """By the names of arrays. What is no array, which other programs add, is left out."""
    members: dict[str, zipfile.ZipInfo] = {}
    infos = archive.infolist()
    if len(infos) > MOST_ARRAYS:
        raise InputError(f"{file}: it holds {len(infos)} files; expected at most {MOST_ARRAYS} arrays")
    for info in infos:
        if not info.filename.endswith(".npy"):
            continue
        name = info.filename.removesuffix(".npy")
        if name in members:
            raise InputError(f"{file}: two arrays are named {shown(name)}; every name must be unique")
        if info.flag_bits & 0x1:
            raise InputError(f"{file}: array {shown(name)} is encrypted; save the file without a password")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(
                f"{file}: array {shown(name)} has compression {info.compress_type}; save it with numpy.savez or "
                "numpy.savez_compressed"
            )
        members[name] = info
    if not members:
        found = listed((info.filename for info in infos), 6)
        raise InputError(f"{file}: not a readable .npz file: it holds no arrays (.npy); there are {found}")
    return members


def _check_size(file: Path, unpacked: int) -> None:
    stored = file.stat().st_size
    limit = min(max(SMALL, RATIO * stored), max(LARGEST, 2 * stored))
    if unpacked > limit:
        raise InputError(
            f"{file}: it has {stored} bytes and unpacks to {unpacked}, more than the {limit} that are read of such a "
            "file; leave out what is not needed, or save it without compression"
        )


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, file: Path, name: str) -> np.ndarray:
    what = f"{file}: array {shown(name)}"
    with archive.open(info) as stream:
        shape, fortran, dtype = _header(stream, what)
        if dtype.hasobject or dtype.kind not in KINDS:
            held = "pickled objects" if dtype.hasobject else f"{shown(str(dtype))}"
            raise InputError(f"{what} holds {held}; expected numbers or text: save it again without")
        if not all(isinstance(n, int) and 0 <= n <= MOST_EMPTY * 1000 for n in shape):
            raise InputError(f"{what} has the shape {shown(shape)}; save it again")
        count = math.prod(shape)
        expected = count * dtype.itemsize
        if not expected and max(shape, default=0) > (MOST_EMPTY if dtype.itemsize else MOST_NAMES):
            raise InputError(f"{what} is empty, yet has the shape {shown(shape)}; save it again")
        if expected != info.file_size - stream.tell():
            raise InputError(
                f"{what} has the shape {shown(shape)} of {dtype}, {expected} bytes, but the file has "
                f"{info.file_size - stream.tell()}; copy or save it again"
            )
        if not expected:
            return np.zeros(shape, dtype)
        # A bytearray, unlike bytes, gives an array that may be changed.
        flat = np.frombuffer(bytearray(stream.read(expected)), dtype=dtype, count=count)
    array = flat.reshape(shape, order="F" if fortran else "C")
    if dtype.kind == "U":
        codes = flat.view(np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes <= 0xDFFF))).any():
            raise InputError(f"{what} is damaged: it holds text with characters that do not exist; save it again")
    return array


def _header(stream: IO[bytes], what: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise InputError(f"{what} has a header of version {version}; save it again without named fields")
    return _HEADERS[version](stream)


def text_of(array: np.ndarray | None) -> str:
    """A text kept as an array without axes; "" for anything else."""
    return str(array) if array is not None and array.shape == () and array.dtype.kind == "U" else ""


def number_of(array: np.ndarray | None) -> int | None:
    """A whole number kept as an array without axes; None for anything else."""
    return int(array) if array is not None and array.shape == () and array.dtype.kind in "iu" else None


def names_of(array: np.ndarray | None, what: str) -> tuple[str, ...]:
    """Names kept as a row of text.

    Raises:
        InputError: anything else; ``what`` begins the message.
    """
    if array is None or array.ndim != 1 or (array.dtype.kind != "U" and len(array)) or len(array) > MOST_NAMES:
        found = "missing" if array is None else f"of type {array.dtype} and shape {shown(array.shape)}"
        raise InputError(f"{what} is {found}; expected a row of at most {MOST_NAMES} names (text)")
    return tuple(str(name) for name in array)
