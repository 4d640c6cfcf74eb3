"""Many people of one subject: parameters that fit the same data about as well, in a file that anybody can read."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np

from nms_gym.errors import InputError, listed, shown
from nms_gym.model.parameters import KINDS, PARAMETER_KINDS, NmsParams, default_of, entries, limits_of
from nms_gym.model.structure import NmsModel
from nms_gym.recording.npz import names_of, number_of, read_npz, text_of
from nms_gym.recording.storage import atomic_path

FORMAT = "nms-gym-posterior"
VERSION = 1
# Name of the array that says whose people they are.
OWNER = "subject"


def person_hash(model: NmsModel, params: NmsParams) -> str:
    """SHA-256 of a person's parameters by name: the same whenever the person is saved, another for anybody else."""
    rows = [
        f"{kind} {name} {float(value)!r}"
        for kind in PARAMETER_KINDS
        for name, value in zip(entries(model, kind), np.asarray(getattr(params, kind), float), strict=True)
        # A kind that older files lack says nothing about a person who has its default.
        if not (KINDS[kind].files_may_lack and value == default_of(model, kind))
    ]
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def save_people(
    path: str | os.PathLike[str], model: NmsModel, people: NmsParams, person: NmsParams | None = None
) -> None:
    """Write parameters of many people ``(n, ...)`` to an ``.npz``, with the names of the entries of every kind.

    Args:
        path: of the file.
        model: whose entries they have.
        people: to write.
        person: parameters of the subject whose people they are; the file is then refused for another.
    """
    arrays: dict[str, Any] = {kind: np.asarray(getattr(people, kind), float) for kind in PARAMETER_KINDS}
    arrays |= {f"names of {kind}": np.array(entries(model, kind), dtype=str) for kind in PARAMETER_KINDS}
    arrays |= {"format": np.array(FORMAT), "version": np.array(VERSION)}
    if person is not None:
        arrays[OWNER] = np.array(person_hash(model, person))
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def load_people(path: str | os.PathLike[str], model: NmsModel, person: NmsParams | None = None) -> NmsParams:
    """Read what ``save_people`` wrote, matched to the model's entries by name.

    A file may be older than a kind of parameter, which then is at its default, and than the hash of its subject.

    Args:
        path: of the file.
        model: of the subject.
        person: the subject's parameters; people of another are refused.

    Raises:
        InputError: not such a file, of another version, an entry of the model is missing, a value is none that a
            subject can have, or the people are another subject's.
    """
    stored = read_people(path)
    owner = text_of(stored.get(OWNER))
    if person is not None and owner and owner != person_hash(model, person):
        raise InputError(
            f"{path}: its people were drawn for another subject (it names {owner[:12]}, this subject is "
            f"{person_hash(model, person)[:12]}); use the posterior.npz that was written with this subject.json"
        )
    leaves: dict[str, Any] = {}
    count = len(stored[PARAMETER_KINDS[0]])
    for kind in PARAMETER_KINDS:
        names = entries(model, kind)
        if KINDS[kind].files_may_lack and kind not in stored:
            leaves[kind] = np.full((count, len(names)), default_of(model, kind))
            continue
        have = names_of(stored[f"names of {kind}"], f"{path}: names of {kind}") if kind in stored else ()
        missing = [n for n in names if n not in have]
        if missing or kind not in stored:
            what = listed(missing) if missing else "this kind of parameter"
            raise InputError(f"{path}: {kind} lacks {what}; draw again from this subject's posterior")
        values = stored[kind][:, [have.index(n) for n in names]]
        low, high = limits_of(model, kind)
        bad = np.argwhere(~((values >= low) & (values <= high)))
        if len(bad):
            row, column = (int(i) for i in bad[0])
            raise InputError(
                f"{path}: {kind} of {names[column]!r} is {values[row, column]:g} {KINDS[kind].unit} in person "
                f"{row + 1} of {count}; allowed {low:g} to {high:g}; draw again from this subject's posterior"
            )
        leaves[kind] = values
    return NmsParams(**leaves)


def read_people(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a file of people: numbers ``(n, entries)`` of every kind, and "names of <kind>".

    Raises:
        InputError: not such a file, of another version, or an array does not fit its names.
    """
    head = read_npz(path, ("format", "version"))
    found = (text_of(head.get("format")), number_of(head.get("version")))
    if found != (FORMAT, VERSION):
        raise InputError(f"{path}: format and version are {found}; this program reads {(FORMAT, VERSION)}")
    stored = {name: array for name, array in read_npz(path).items() if array is not None}
    first = stored.get(PARAMETER_KINDS[0])
    count = len(first) if first is not None and first.ndim else 0
    if not count:
        raise InputError(f"{path}: {PARAMETER_KINDS[0]} lacks this kind of parameter; draw again")
    for kind in PARAMETER_KINDS:
        if kind not in stored:
            continue
        names, values = names_of(stored.get(f"names of {kind}"), f"{path}: names of {kind}"), stored[kind]
        if len(set(names)) != len(names):
            raise InputError(f"{path}: names of {kind} are not unique: {listed(names)}; draw again")
        if values.dtype.kind != "f" or values.shape != (count, len(names)):
            raise InputError(
                f"{path}: {kind} has type {values.dtype} and shape {shown(values.shape)}; expected numbers of shape "
                f"{(count, len(names))}, one row per person; draw again"
            )
    return stored
