"""Many people of one subject: parameters that fit the same data about as well, in a file that anybody can read."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from nms_gym.errors import InputError, listed
from nms_gym.model.parameters import KINDS, PARAMETER_KINDS, NmsParams, default_of, entries
from nms_gym.model.structure import NmsModel
from nms_gym.recording.storage import atomic_path

FORMAT = "nms-gym-posterior"
VERSION = 1


def save_people(path: str | os.PathLike[str], model: NmsModel, people: NmsParams) -> None:
    """Write parameters of many people ``(n, ...)`` to an ``.npz``, with the names of the entries of every kind."""
    arrays: dict[str, Any] = {kind: np.asarray(getattr(people, kind), float) for kind in PARAMETER_KINDS}
    arrays |= {f"names of {kind}": np.array(entries(model, kind), dtype=str) for kind in PARAMETER_KINDS}
    arrays |= {"format": np.array(FORMAT), "version": np.array(VERSION)}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def load_people(path: str | os.PathLike[str], model: NmsModel) -> NmsParams:
    """Read what ``save_people`` wrote, matched to the model's entries by name.

    A file may be older than a kind of parameter, which then is at its default.

    Raises:
        InputError: not such a file, of another version, or an entry of the model is missing.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            stored = dict(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable file of posterior draws ({error})") from error
    found = (str(stored.get("format", "")), int(stored.get("version", 0)))
    if found != (FORMAT, VERSION):
        raise InputError(f"{path}: format and version are {found}; this program reads {(FORMAT, VERSION)}")
    leaves: dict[str, Any] = {}
    count = len(stored.get(PARAMETER_KINDS[0], ()))
    for kind in PARAMETER_KINDS:
        if KINDS[kind].files_may_lack and kind not in stored:
            leaves[kind] = np.full((count, len(entries(model, kind))), default_of(model, kind))
            continue
        have = [str(n) for n in stored.get(f"names of {kind}", ())]
        missing = [n for n in entries(model, kind) if n not in have]
        if missing or kind not in stored:
            what = listed(missing) if missing else "this kind of parameter"
            raise InputError(f"{path}: {kind} lacks {what}; draw again from this subject's posterior")
        leaves[kind] = stored[kind][:, [have.index(n) for n in entries(model, kind)]]
    return NmsParams(**leaves)
