"""A study in one TOML file: which model, recordings, channels, windows and freedom; read, checked and made ready to
fit.

Every key is known, every name is checked against the files, and paths are relative to the TOML file (``${NAME}`` takes
an environment variable). The README describes the keys; ``examples/configs`` holds one study per public data set.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from calibration.excitations.synergies import Synergies
from calibration.fitting import SOLVERS
from calibration.problem import DEFAULT_FREE, Free, Penalties, Problem, default_free
from calibration.study.keys import Folder, Keys, at, from_table, names_of, numbers, read_toml, require_file_name
from calibration.study.model import make_start, read_parameters
from calibration.study.passive import passive_segments, read_passive
from calibration.study.recordings import EmgReference, TrialReader, Window, cut_windows, make_envelopes, read_recipe
from calibration.study.synergies import drive, expected, read_plan
from calibration.study.validation import ValidationPlan, read_validation
from nms_gym.anatomy import Multibody
from nms_gym.errors import InputError, listed, near
from nms_gym.excitation.channels import ChannelMap
from nms_gym.model.parameters import NmsParams
from nms_gym.model.replay import Segment, make_segment
from nms_gym.model.structure import NmsModel, Settings
from nms_gym.muscle.families import curves_from_record
from nms_gym.muscle.path_points import MusclePoints
from nms_gym.muscle.tabulated import Tabulated
from nms_gym.recording.ceinms import read_ceinms_subject
from nms_gym.recording.trial import Trial

Say = Callable[[str], None]


@dataclass(frozen=True)
class Study:
    """A study read and ready: what ``nms-gym calibrate`` works on."""

    name: str
    output: Path
    model: NmsModel
    start: NmsParams
    trials: Mapping[str, Trial]
    train: tuple[Segment, ...]
    held_out: Mapping[str, tuple[Segment, ...]]
    free: tuple[Free, ...]
    groups: Mapping[str, tuple[str, ...]]
    penalties: Penalties
    fit_options: Mapping[str, Any]
    emg_reference: EmgReference
    skeleton: Multibody | None
    muscle_points: MusclePoints
    """to draw the muscles; empty where the model has none"""
    sources: Mapping[str, str]
    passive: tuple[Segment, ...] = ()
    """motions of relaxed muscles"""
    tracked: np.ndarray | None = None
    """(M, C) channels whose EMG is followed, not obeyed (mode synergy_only)"""
    synergies: Synergies | None = None
    validation: ValidationPlan = field(default_factory=ValidationPlan)
    polish: bool = False
    """whether Levenberg-Marquardt goes on where the solver ended"""

    @property
    def problem(self) -> Problem:
        """The calibration problem of the training windows.

        Raises:
            InputError: there is none to solve; see ``Problem``.
        """
        with at(f"study {self.name!r}"):
            return Problem(
                self.model,
                self.start,
                self.train,
                self.free,
                self.groups,
                self.penalties,
                tracked=self.tracked,
                passive=self.passive,
            )


def read_study(
    path: str | os.PathLike[str],
    *,
    emg_reference: Mapping[str, float] | None = None,
    say: Say = lambda _: None,
) -> Study:
    """Read a study and everything it names.

    Args:
        path: of the TOML file.
        emg_reference: channel -> what counts as 1 where the study normalises to its own recordings ("session",
            "all_trials"), instead of their largest value: a person's parameters suit the reference they were
            calibrated with.
        say: told what is going on, for files that take a while.

    Raises:
        InputError: anything that cannot be used, with file, name, value and what to do.
    """
    file = Path(path)
    keys = Keys(str(file), read_toml(file))
    folder = Folder(file.parent)

    # All that the study says is understood before the first recording is read: a misspelt key shows at once.
    name = keys.take("name", str, file.stem)
    require_file_name(name, keys.where)
    output = folder.path(keys.take("output", str, f"nms-gym-out/{name}"), f"{file}: output", must_exist=False)
    coordinates = keys.names("coordinates")
    dt = keys.take("dt", float, None)
    lead_in = keys.take("lead_in", float, 0.2)
    if lead_in < 0:
        raise InputError(f"{file}: lead_in is {lead_in:g} s; expected 0 or more")
    channels = _channels(keys.table("channels"))
    plan = read_plan(keys.table("synergies", {"mode": "emg_driven"}))
    settings = _settings(keys.table("settings", {}), folder)
    recipe = read_recipe(keys.table("emg", {"kind": "envelope"}))
    free = _free(keys)
    groups = {k: names_of(f"{file} [groups]: {k}", v) for k, v in keys.take("groups", dict, {}).items()}
    penalties = from_table(Penalties, keys.table("penalties", {}))
    solver = keys.table("solver", {})
    polish = solver.take("polish", bool, False)
    options = _solver(solver)
    if polish and options["solver"] == "lm":
        raise InputError(
            f"{solver.where}: polish is Levenberg-Marquardt after another solver; name one, or leave it out"
        )
    model_keys, start_keys, trial_tables = keys.table("model"), keys.table("start", {}), keys.take("trials", list)
    passive_tables = keys.take("passive", list, [])
    validation = read_validation(keys.table("validation", {}))
    keys.finish()
    if not trial_tables:
        raise InputError(f"{file}: no [[trials]]; at least one recording is needed")
    passive = [read_passive(f"{file} [[passive]] {i + 1}", t, folder) for i, t in enumerate(passive_tables)]
    readers = [TrialReader(f"{file} [[trials]] {i + 1}", t, folder) for i, t in enumerate(trial_tables)]
    for i, reader in enumerate(readers):
        if reader.name in [r.name for r in readers[:i]]:
            raise InputError(f"{reader.where}: two trials are called {reader.name!r}; give each its own name")

    files = read_parameters(model_keys, folder, channels, coordinates, plan.muscles)
    model, start = make_start(files, coordinates, channels, settings, start_keys, say)
    _check_groups(groups, model.muscles + model.channels, f"{file} [groups]")
    recorded = [r.read_emg(channels.channels) for r in readers]
    envelopes, reference = make_envelopes(
        recorded, recipe, f"{file} [emg]", train=[r.train for r in readers], known=emg_reference
    )
    say(f"EMG reference: {reference.kind}")
    trials: dict[str, Trial] = {}
    for reader, emg in zip(readers, envelopes, strict=True):
        say(f"reading trial {reader.name}")
        with at(reader.where):
            trials[reader.name] = reader.read(model, coordinates, emg, dt)
    train, held_out = cut_windows(readers, trials)

    def segments(model: NmsModel, windows: Sequence[Window]) -> tuple[Segment, ...]:
        return tuple(
            make_segment(model, w.trial, coordinates=coordinates, start=w.start, stop=w.stop, lead_in=lead_in)
            for w in windows
        )

    driven = drive(plan, model, start, segments(model, train) if plan.mode != "emg_driven" else (), files.passive)
    model, training = driven.model, segments(driven.model, train)
    start, free = expected(plan, driven, training, default_free(model) if free is None else free)

    return Study(
        name=name,
        output=output,
        model=model,
        start=start,
        trials=trials,
        train=training,
        held_out={label: segments(model, windows) for label, windows in held_out.items()},
        free=free,
        groups=groups,
        penalties=penalties,
        fit_options=options,
        emg_reference=reference,
        skeleton=files.skeleton,
        muscle_points=files.muscle_points,
        passive=tuple(s for p in passive for s in passive_segments(p, model, coordinates)),
        tracked=driven.tracked,
        synergies=driven.synergies,
        validation=validation,
        polish=polish,
        sources=_sources(trials.values()),
    )


def _check_groups(groups: Mapping[str, Sequence[str]], names: Sequence[str], where: str) -> None:
    for label, members in groups.items():
        for member in members:
            if member not in names:
                raise InputError(f"{where}: {label} names {member!r}, no muscle or channel; {near(member, names)}")


def _sources(trials: Iterable[Trial]) -> dict[str, str]:
    """File name -> SHA-256; files of one name in several trials get the trial's name too."""
    sources: dict[str, str] = {}
    for trial in trials:
        for file, digest in trial.sources.items():
            sources[file if sources.get(file, digest) == digest else f"{trial.name}: {file}"] = digest
    return sources


def _channels(keys: Keys) -> ChannelMap:
    given = keys.rest()
    for channel, muscles in given.items():
        if isinstance(muscles, list) and muscles:
            names_of(f"{keys.where}: {channel}", muscles)
        elif not isinstance(muscles, str | list | dict):
            raise InputError(f"{keys.where}: {channel} is {muscles!r}; expected a list of the muscles it drives")
    with at(keys.where):
        return ChannelMap.from_channels(given)


def _settings(keys: Keys, folder: Folder) -> Settings:
    """The settings, with the muscle family by name, by its constants, or from a CEINMS subject file."""
    curves = keys.take("curves", (str, dict), Settings().curves.name)
    with at(keys.where):
        if isinstance(curves, str) and curves.endswith(".xml"):
            points: dict[str, Any] = dict(read_ceinms_subject(folder.path(curves, "curves")).curves)
            family = Tabulated(**points)
        else:
            family = curves_from_record(curves, "curves")
        return dataclasses.replace(from_table(Settings, keys, skip=("curves",)), curves=family)


def _free(keys: Keys) -> tuple[Free, ...] | None:
    """What may change: a list of kinds, or a table with details per kind; None when the study does not say."""
    given = keys.take("free", (dict, list), None)
    if given is None:
        return None
    if not given:
        raise InputError(f"{keys.where}: free is empty; name the parameters to calibrate, or leave it out")
    if isinstance(given, list):
        given = {kind: {} for kind in names_of(f"{keys.where}: free", given)}
    return tuple(_free_kind(kind, f"{keys.where} [free.{kind}]", details) for kind, details in given.items())


def _free_kind(kind: str, where: str, details: Any) -> Free:
    if kind not in DEFAULT_FREE:
        raise InputError(f"{where}: unknown parameter {kind!r}; {near(kind, list(DEFAULT_FREE))}")
    keys, default = Keys(where, details), DEFAULT_FREE[kind]
    low, high = numbers(keys, "bounds", default.bounds)
    free = Free(
        kind,
        (low, high),
        keys.take("prior_sd", float, default.prior_sd),
        keys.take("relative", bool, default.relative),
        keys.take("share", str, default.share),
        keys.names("only", None) or None,
    )
    keys.finish()
    if not low < high:
        raise InputError(f"{where}: bounds are {low:g} to {high:g}; expected low < high")
    if not free.prior_sd > 0:
        raise InputError(f"{where}: prior_sd is {free.prior_sd:g}; expected a number above 0")
    return free


def _solver(keys: Keys) -> dict[str, Any]:
    options = {
        "solver": keys.take("name", str, "lm"),
        "starts": keys.take("starts", int, 4),
        "max_iterations": keys.take("max_iterations", int, None),
        "learning_rate": keys.take("learning_rate", float, 0.05),
        "tolerance": keys.take("tolerance", float, 1e-4),
        "seed": keys.take("seed", int, 0),
    }
    keys.finish()
    if options["solver"] not in SOLVERS:
        raise InputError(f"{keys.where}: name is {options['solver']!r}; use one of {listed(SOLVERS)}")
    least = {"starts": 1, "max_iterations": 1, "learning_rate": 1e-9, "tolerance": 0, "seed": 0}
    for name, low in least.items():
        if options[name] is not None and options[name] < low:
            raise InputError(f"{keys.where}: {name} is {options[name]}; expected at least {low}")
    return options
