"""A study: which model, recordings, channels, windows and freedom, checked and made ready to fit.

``make_study`` builds one from Python objects and plain arrays; ``read.read_study`` reads a TOML file into the same
arguments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from calibration.excitations.synergies import Synergies
from calibration.problem import DEFAULT_FREE, Free, MaximalMoments, Penalties, Problem, default_free
from calibration.study.checks import at, require_file_name
from calibration.study.dynamometer import Dynamometer, maximal_moments
from calibration.study.emg import (
    MVC_GAIN_CORRELATION,
    MVC_GAIN_SD,
    EmgRecipe,
    EmgReference,
    Times,
    make_envelopes,
    read_maximal,
)
from calibration.study.gains import limit_gains
from calibration.study.model import ModelSource, Say, make_start, read_parameters
from calibration.study.options import SolverOptions
from calibration.study.passive import PassiveRecording, passive_segments
from calibration.study.paths import with_fitted_paths
from calibration.study.recordings import Source, Window, Windows, cut_windows, source_of, windows_by_trial
from calibration.study.synergies import EMG_DRIVEN, SynergyPlan, drive, expected
from calibration.study.targets import GivenTargets, SegmentTargets, cut_targets, require_trials, require_use
from calibration.study.validation import ValidationPlan
from nms_gym.anatomy import Multibody
from nms_gym.errors import InputError, listed, near, shown
from nms_gym.excitation.channels import ChannelMap
from nms_gym.model.parameters import NmsParams
from nms_gym.model.replay import Segment, make_segment
from nms_gym.model.structure import NmsModel, Settings
from nms_gym.muscle.path_points import MusclePoints
from nms_gym.recording.arrays import Recording
from nms_gym.recording.storage import Table
from nms_gym.recording.trial import Trial


@dataclass(frozen=True)
class Study:
    """A study read and ready: what ``calibrate`` works on."""

    name: str
    output: Path
    """folder for the results"""
    model: NmsModel
    start: NmsParams
    trials: Mapping[str, Trial]
    """as checked and processed, by name"""
    train: tuple[Segment, ...]
    """training windows"""
    held_out: Mapping[str, tuple[Segment, ...]]
    """sets of held-out windows by their label"""
    free: tuple[Free, ...]
    groups: Mapping[str, tuple[str, ...]]
    penalties: Penalties
    fit_options: Mapping[str, Any]
    """arguments of ``fit``"""
    emg_reference: EmgReference
    skeleton: Multibody | None
    muscle_points: MusclePoints
    """to draw the muscles; empty where the model has none"""
    sources: Mapping[str, str]
    """file name -> SHA-256"""
    passive: tuple[Segment, ...] = ()
    """motions of relaxed muscles"""
    tracked: np.ndarray | None = None
    """(M, C) channels whose EMG is followed, not obeyed (mode synergy_only)"""
    synergies: Synergies | None = None
    validation: ValidationPlan = field(default_factory=ValidationPlan)
    polish: bool = False
    """whether Levenberg-Marquardt goes on where the solver ended"""
    lead_in: float = 0.2
    """s before each window in which the model settles"""
    train_windows: tuple[Window, ...] = ()
    """what ``train`` was cut from"""
    held_out_windows: Mapping[str, tuple[Window, ...]] = field(default_factory=dict)
    """what ``held_out`` was cut from"""
    targets: SegmentTargets = ()
    """what was measured of single muscles on each training window; empty where nothing was"""
    held_out_targets: Mapping[str, SegmentTargets] = field(default_factory=dict)
    """the same on held-out windows"""
    maximal: MaximalMoments | None = None
    """moments of maximal contractions; None where there are none"""

    def cut(
        self, model: NmsModel, coordinates: Sequence[str] | None = None
    ) -> tuple[tuple[Segment, ...], dict[str, tuple[Segment, ...]]]:
        """Training windows and held-out sets of another model, such as a saved person's.

        Raises:
            InputError: a trial lacks what the model needs; see ``make_segment``.
        """

        def cut(windows: Sequence[Window]) -> tuple[Segment, ...]:
            return cut_segments(model, coordinates, windows, self.lead_in)

        return cut(self.train_windows), {label: cut(w) for label, w in self.held_out_windows.items()}

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
                targets=self.targets,
                maximal=self.maximal,
            )


def make_study(
    name: str,
    *,
    model: ModelSource,
    coordinates: Sequence[str],
    channels: Mapping[str, Sequence[str] | Mapping[str, float]],
    trials: Sequence[Trial | Recording | Source],
    train: Windows = (),
    held_out: Windows = (),
    muscles: Sequence[str] = (),
    passive_muscles: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    paths: ModelSource | None = None,
    dt: float | None = None,
    lead_in: float = 0.2,
    settings: Settings | None = None,
    emg: EmgRecipe | None = None,
    emg_reference: Mapping[str, float] | None = None,
    synergies: SynergyPlan = EMG_DRIVEN,
    groups: Mapping[str, Sequence[str]] | None = None,
    start: Mapping[str, Any] | None = None,
    free: Sequence[Free | str] | None = None,
    penalties: Penalties | None = None,
    validation: ValidationPlan | None = None,
    solver: SolverOptions | None = None,
    passive: Sequence[PassiveRecording] = (),
    targets: GivenTargets | None = None,
    dynamometer: Sequence[Dynamometer] = (),
    output: str | Path | None = None,
    where: str | None = None,
    say: Say = lambda _: None,
) -> Study:
    """Build a study. Everything is matched by name, nothing by position; files are needed only where named.

    Args:
        name: of the study and of the person.
        model: a ``ModelFile``, "asset:arm", "asset:right_leg", or the path of an .osim, .json or .csv.
        coordinates: joints whose measured moments are fitted.
        channels: EMG channel -> muscles it drives, or -> {muscle: weight}.
        trials: from ``make_recording`` (plain arrays), ``make_trial`` or ``load_trial``.
        train: trials that are fitted, by name; or trial -> windows [(start, stop), ...] in s, or True for all of it.
        held_out: likewise, what validates; a trial of which nothing is said is held out.
        muscles: of the model; by default those that a channel or synergies drive, and the passive ones.
        passive_muscles: that nothing drives but that act passively.
        columns: of a .csv of parameters: parameter kind (and "muscle") -> column.
        paths: a model file whose muscle paths are used, where the model has none.
        dt: s, step of model and trials; by default the kinematics' own.
        lead_in: s before each window in which the model settles.
        settings: of the equations.
        emg: how the EMG becomes envelopes; by default it is taken for envelopes as it is.
        emg_reference: channel -> what counts as 1 where the study normalises to its own recordings ("session",
            "all_trials"), instead of their largest value.
        synergies: of muscles without EMG; by default none: EMG-driven.
        groups: name -> muscles or channels that share one value where ``Free.share`` is "groups".
        start: parameter kind -> scalar or {name: value} to start from instead of the model's; "file": an .osimx.
        free: kinds that may change, by name or as ``Free``; by default ``default_free(model)``. Where the EMG is
            normalised to maximal contractions, kinds by name and by default have gains within ``MVC_GAIN_SD`` of 1.
        penalties: how errors are weighed.
        validation: what is left out in turn.
        solver: how the problem is solved.
        passive: moments of relaxed muscles.
        targets: what was measured of single muscles, such as fiber lengths by ultrasound: trial -> quantity (see
            ``nms_gym.model.quantities.MUSCLE_OUTPUTS``) -> muscle -> (times in s, values, tolerance), in the quantity's
            unit. It is interpolated between measurements; where values are not numbers nothing was measured.
        dynamometer: moments of maximal contractions; with them strength is told from the gains of the EMG.
        output: folder for the results; by default "nms-gym-out/NAME".
        where: names the study in messages; by default by its name.
        say: told what is going on.

    Raises:
        InputError: anything that cannot be used, with name, value and what to do.
    """
    where = f"study {name!r}" if where is None else where
    require_file_name(name, where)
    if lead_in < 0:
        raise InputError(f"{where}: lead_in is {lead_in:g} s; expected 0 or more")
    if not trials:
        raise InputError(f"{where}: no [[trials]]; at least one recording is needed")
    sources = [source_of(trial) for trial in trials]
    names = [source.name for source in sources]
    for i, source in enumerate(sources):
        require_file_name(source.name, source.where)
        if source.name in names[:i]:
            raise InputError(f"{source.where}: two trials are called {source.name!r}; give each its own name")
    fitted = windows_by_trial(train, names, f"{where}: train")
    unseen = windows_by_trial(held_out, names, f"{where}: held_out")
    measured = targets or {}
    require_trials(measured, names, where)
    solver = SolverOptions() if solver is None else solver

    with at(f"{where} [channels]"):
        drives = ChannelMap.from_channels(channels)
    driven_too = [m for m in passive_muscles if m in drives.muscles]
    if driven_too:
        raise InputError(
            f"{where} [model]: passive_muscles has {listed(driven_too)}, which a channel drives; remove it"
        )
    wanted = tuple(muscles) or tuple(dict.fromkeys((*drives.muscles, *synergies.muscles, *passive_muscles)))
    files = read_parameters(model, wanted, coordinates, columns=columns, paths=paths, where=f"{where} [model]")
    used = [_used(fitted.get(n, ()), unseen.get(n, () if n in fitted else None)) for n in names]
    files = with_fitted_paths(files, sources, used, coordinates, lead_in, say, dynamometer)
    equations = Settings() if settings is None else settings
    structure, params = make_start(files, coordinates, drives, equations, start or {}, f"{where} [start]", say)
    shared = {label: tuple(members) for label, members in (groups or {}).items()}
    _check_groups(shared, structure.muscles + structure.channels, f"{where} [groups]")

    recorded = [source.read_emg(drives.channels) for source in sources]
    recipe = EmgRecipe() if emg is None else emg
    default = default_priors(recipe)
    chosen_free = None if free is None else _free(free, default, where)
    tables = dict(zip(names, recorded, strict=True))
    maximal = [_maximal(trial, tables, drives, f"{where} [emg]") for trial in recipe.mvc_trials]
    still = windows_by_trial(recipe.rest, names, f"{where} [emg]: rest")
    envelopes, reference = make_envelopes(
        recorded,
        recipe,
        f"{where} [emg]",
        train=[fitted.get(label, ()) for label in names],
        rest=[still.get(label, ()) for label in names] if still else (),
        known=emg_reference,
        maximal=maximal,
    )
    say(f"EMG reference: {reference.kind}")
    read: dict[str, Trial] = {}
    for source, envelope in zip(sources, envelopes, strict=True):
        say(f"reading trial {source.name}")
        with at(source.where):
            read[source.name] = source.read(structure, coordinates, envelope, dt)
    training, validating = cut_windows(sources, read, fitted, unseen)

    def segments(model: NmsModel, windows: Sequence[Window]) -> tuple[Segment, ...]:
        return cut_segments(model, coordinates, windows, lead_in)

    place = f"{where} [synergies]"
    seen = segments(structure, training) if synergies.mode != "emg_driven" else ()
    driven = drive(synergies, structure, params, seen, passive_muscles, place)
    structure, seen = driven.model, segments(driven.model, training)
    params, kinds = expected(
        synergies,
        driven,
        seen,
        tuple(default[f.kind] for f in default_free(structure)) if chosen_free is None else chosen_free,
        place,
    )
    if recipe.limit_trials:
        heavier = [_named(trial, names, envelopes, f"{where} [emg]: limit_trials") for trial in recipe.limit_trials]
        kinds = limit_gains(kinds, structure, params, heavier, f"{where} [emg]", say)
    validated = {label: segments(structure, windows) for label, windows in validating.items()}
    with at(where):
        fitted_targets = cut_targets(measured, structure, training, seen)
        unseen_targets = {n: cut_targets(measured, structure, validating[n], s) for n, s in validated.items()}
        require_use(measured, training, (fitted_targets, *unseen_targets.values()))
    return Study(
        name=name,
        output=Path("nms-gym-out") / name if output is None else Path(output),
        model=structure,
        start=params,
        trials=read,
        train=seen,
        held_out=validated,
        free=kinds,
        groups=shared,
        penalties=Penalties() if penalties is None else penalties,
        fit_options=solver.fit_options,
        emg_reference=reference,
        skeleton=files.skeleton,
        muscle_points=files.muscle_points,
        passive=tuple(s for p in passive for s in passive_segments(p, structure, coordinates)),
        tracked=driven.tracked,
        synergies=driven.synergies,
        validation=ValidationPlan() if validation is None else validation,
        polish=solver.polish,
        lead_in=lead_in,
        train_windows=tuple(training),
        held_out_windows={label: tuple(windows) for label, windows in validating.items()},
        targets=fitted_targets,
        held_out_targets=unseen_targets,
        maximal=maximal_moments(dynamometer, structure),
        sources=_sources(read.values()),
    )


def cut_segments(
    model: NmsModel, coordinates: Sequence[str] | None, windows: Sequence[Window], lead_in: float
) -> tuple[Segment, ...]:
    """Windows ready to run with a model."""
    return tuple(
        make_segment(model, w.trial, coordinates=coordinates, start=w.start, stop=w.stop, lead_in=lead_in)
        for w in windows
    )


def _used(*windows: Times) -> Times:
    """All windows together; None for the whole trial."""
    if any(times is None for times in windows):
        return None
    return tuple(window for times in windows for window in times or ())


def default_priors(emg: EmgRecipe) -> Mapping[str, Free]:
    """What a kind of parameter is free to do where nobody says: EMG over its maximum is excitation, within
    ``MVC_GAIN_SD``, so that gains leave the strength to be told."""
    gain = dataclasses.replace(DEFAULT_FREE["emg_gain"], prior_sd=MVC_GAIN_SD, correlation=MVC_GAIN_CORRELATION)
    return {**DEFAULT_FREE, **({"emg_gain": gain} if emg.normalise == "mvc" else {})}


def _free(free: Sequence[Free | str], default: Mapping[str, Free], where: str) -> tuple[Free, ...]:
    if not free:
        raise InputError(f"{where}: free is empty; name the parameters to calibrate, or leave it out")
    for kind in free:
        if isinstance(kind, str) and kind not in default:
            raise InputError(f"{where}: free: unknown parameter {kind!r}; {near(kind, default)}")
    return tuple(default[kind] if isinstance(kind, str) else kind for kind in free)


def _named(trial: str, names: Sequence[str], envelopes: Sequence[Table], where: str) -> Table:
    if trial not in names:
        raise InputError(f"{where}: no trial {shown(trial)}; {near(trial, names)}")
    return envelopes[names.index(trial)]


def _maximal(trial: str | Path, recorded: Mapping[str, Table], drives: ChannelMap, where: str) -> Table:
    """EMG of a maximal contraction: a trial's, or that of a file."""
    if trial in recorded:
        return recorded[str(trial)]
    if not Path(trial).is_file():
        raise InputError(
            f"{where}: mvc_trials: no trial {shown(str(trial))}, and no such file; {near(str(trial), recorded)}"
        )
    return read_maximal(trial, drives.channels)


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
