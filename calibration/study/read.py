"""A study in one TOML file, read into the arguments of ``make_study``.

Every key is known (``schema.TABLES``), every name is checked against the files, and paths are relative to the TOML file
(``${NAME}`` takes an environment variable). ``examples/configs/README.md`` lists the keys; ``examples/configs`` holds
one study per public data set.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calibration.problem import Free, Penalties
from calibration.study.build import Study, default_priors, make_study
from calibration.study.checks import at, is_kind, names_of
from calibration.study.dynamometer import Dynamometer, read_dynamometer
from calibration.study.emg import EmgRecipe
from calibration.study.keys import Folder, read_keys, study_path
from calibration.study.model import Say
from calibration.study.options import SolverOptions
from calibration.study.passive import read_passive
from calibration.study.synergies import EMG_DRIVEN, SynergyPlan
from calibration.study.trial_files import TrialFiles
from calibration.study.validation import ValidationPlan
from nms_gym.errors import InputError, near
from nms_gym.model.structure import Settings
from nms_gym.muscle.families import curves_from_record
from nms_gym.muscle.tabulated import Tabulated
from nms_gym.recording.ceinms import read_ceinms_subject
from nms_gym.recording.documents import read_toml


def read_study(
    path: str | os.PathLike[str],
    *,
    emg_reference: Mapping[str, float] | None = None,
    say: Say = lambda _: None,
) -> Study:
    """Read a study and everything it names.

    Args:
        path: of the TOML file; "asset:demo/study.toml" is the shipped one.
        emg_reference: channel -> what counts as 1 where the study normalises to its own recordings ("session",
            "all_trials"), instead of their largest value: a person's parameters suit the reference they were
            calibrated with.
        say: told what is going on, for files that take a while.

    Raises:
        InputError: anything that cannot be used, with file, name, value and what to do.
    """
    return make_study(**study_arguments(path), emg_reference=emg_reference, say=say)


def study_arguments(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Arguments of ``make_study`` from a TOML file; understood before the first recording is read, so that a misspelt
    key shows at once.

    Raises:
        InputError: see ``read_study``.
    """
    file = study_path(path)
    keys = read_keys(str(file), read_toml(file), "study")
    folder = Folder(file.parent)

    def of(cls: Any, name: str) -> Any:
        """A class of options from a table of its fields."""
        values = read_keys(f"{file} [{name}]", keys[name], name)
        with at(f"{file} [{name}]"):
            return cls(**{key: value for key, value in values.items() if value is not None})

    def in_folder(plan: SynergyPlan) -> SynergyPlan:
        found = folder.optional(plan.profiles, f"{file} [synergies]: profiles")
        return dataclasses.replace(plan, profiles=None if found is None else str(found))

    name = keys["name"] or file.stem
    output = folder.path(keys["output"] or f"nms-gym-out/{name}", f"{file}: output", must_exist=False)
    if str(path).startswith("asset:"):
        output = None  # beside the caller, not in the installed package
    model = read_keys(f"{file} [model]", keys["model"], "model")
    place = f"{file} [model]: file"
    emg = EmgRecipe() if keys["emg"] is None else of(EmgRecipe, "emg")
    trials = [TrialFiles(f"{file} [[trials]] {i + 1}", t, folder) for i, t in enumerate(keys["trials"])]

    def maximal(name: str | Path) -> str | Path:
        if name in {t.name for t in trials}:
            return name
        return folder.path(str(name), f"{file} [emg]: mvc_trials, which names no trial but")

    return {
        "name": name,
        "model": model["file"] if model["file"].startswith("asset:") else folder.path(model["file"], place),
        "coordinates": keys["coordinates"],
        "channels": _channels(f"{file} [channels]", keys["channels"]),
        "trials": trials,
        "train": {t.name: t.train for t in trials},
        "held_out": {t.name: t.held_out for t in trials},
        "muscles": model["muscles"],
        "passive_muscles": model["passive_muscles"],
        "columns": model["columns"],
        "paths": folder.optional(model["paths"], f"{file} [model]: paths"),
        "dt": keys["dt"],
        "lead_in": keys["lead_in"],
        "settings": _settings(f"{file} [settings]", keys["settings"], folder),
        "emg": dataclasses.replace(emg, mvc_trials=tuple(maximal(name) for name in emg.mvc_trials)),
        "synergies": EMG_DRIVEN if keys["synergies"] is None else in_folder(of(SynergyPlan, "synergies")),
        "groups": {k: names_of(f"{file} [groups]: {k}", v) for k, v in keys["groups"].items()},
        "start": _start(f"{file} [start]", keys["start"], folder),
        "free": _free(str(file), keys["free"], default_priors(emg)),
        "penalties": of(Penalties, "penalties"),
        "validation": of(ValidationPlan, "validation"),
        "solver": of(SolverOptions, "solver"),
        "passive": [read_passive(f"{file} [[passive]] {i + 1}", t, folder) for i, t in enumerate(keys["passive"])],
        "dynamometer": [
            _dynamometer(f"{file} [[dynamometer]] {i + 1}", t, folder) for i, t in enumerate(keys["dynamometer"])
        ],
        "targets": {t.name: t.targets for t in trials if t.targets},
        "output": output,
        "where": str(file),
    }


def _channels(where: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
    for channel, muscles in given.items():
        if isinstance(muscles, list) and muscles:
            names_of(f"{where}: {channel}", muscles)
        elif not isinstance(muscles, str | list | dict):
            raise InputError(f"{where}: {channel} is {muscles!r}; expected a list of the muscles it drives")
    return given


def _settings(where: str, table: Any, folder: Folder) -> Settings:
    """The settings, with the muscle family by name, by its constants, or from a CEINMS subject file."""
    values = read_keys(where, table, "settings")
    curves = values.pop("curves")
    with at(where):
        if isinstance(curves, str) and curves.endswith(".xml"):
            points: dict[str, Any] = dict(read_ceinms_subject(folder.path(curves, "curves")).curves)
            family = Tabulated(**points)
        else:
            family = curves_from_record(curves, "curves")
        return Settings(curves=family, **values)


def _start(where: str, given: Mapping[str, Any], folder: Folder) -> dict[str, Any]:
    start = dict(given)
    file = start.pop("file", None)
    for kind, value in start.items():
        numbers = value.values() if isinstance(value, dict) else [value]
        if not all(is_kind(v, float) for v in numbers):
            raise InputError(f"{where}: {kind} is {value!r}; expected a number, or {{ name = number, ... }}")
    if file is None:
        return start
    if not isinstance(file, str):
        raise InputError(f"{where}: file is {file!r}; expected text in quotes, the path of an .osimx")
    return {**start, "file": folder.path(file, f"{where}: file")}


def _dynamometer(where: str, table: Any, folder: Folder) -> Dynamometer:
    keys = read_keys(where, table, "dynamometer")
    file = folder.path(keys["file"], f"{where}: file")
    rest = {name: value for name, value in keys.items() if name != "file"}
    return read_dynamometer(file, **rest, where=f"{where}: {file}")


def _free(where: str, given: Any, defaults: Mapping[str, Free]) -> tuple[Free, ...] | None:
    """What may change: a list of kinds, or a table with details per kind; None when the study does not say."""
    if given is None:
        return None
    if not given:
        raise InputError(f"{where}: free is empty; name the parameters to calibrate, or leave it out")
    if isinstance(given, list):
        given = {kind: {} for kind in names_of(f"{where}: free", given)}
    return tuple(_free_kind(kind, f"{where} [free.{kind}]", details, defaults) for kind, details in given.items())


def _free_kind(kind: str, where: str, details: Any, defaults: Mapping[str, Free]) -> Free:
    if kind not in defaults:
        raise InputError(f"{where}: unknown parameter {kind!r}; {near(kind, list(defaults))}")
    default = defaults[kind]
    given = {name: getattr(default, name) for name in ("bounds", "prior_sd", "relative", "share", "correlation")}
    values = read_keys(where, details, "free", given)
    (low, high), sd = values["bounds"], values["prior_sd"]
    if not low < high:
        raise InputError(f"{where}: bounds are {low:g} to {high:g}; expected low < high")
    if not sd > 0:
        raise InputError(f"{where}: prior_sd is {sd:g}; expected a number above 0")
    return Free(
        kind,
        (low, high),
        sd,
        values["relative"],
        values["share"],
        values["only"] or None,
        correlation=values["correlation"],
    )
