"""The command line: ``nms-gym demo``, ``calibrate``, ``predict``, ``export``, ``calibrate-ceinms``, ``inspect``,
``fit-paths``, ``inverse-dynamics``, ``play``, ``environments``, ``reference``.

The application layer: it may import everything, and nothing imports it. Bad input ends in one line on stderr and exit
code 2. Heavy imports wait until a command needs them, so that ``--help`` is quick.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from nms_gym import cli_environments
from nms_gym._console import OutputOption, console, done, say
from nms_gym.errors import InputError, listed

if TYPE_CHECKING:
    from calibration.study.calibrate import Outcome
    from calibration.study.ranges import RangeCheck
    from calibration.study.read import Study
    from calibration.uncertainty.analysis import BandSet
    from nms_gym.files.subject import Subject
    from nms_gym.model.parameters import NmsParams
    from nms_gym.recording.osim import OsimModel

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Personalise EMG-driven musculoskeletal models, predict joint moments, and act on them in Gymnasium.",
)
INTERRUPTED = 130  # what a shell reports after Ctrl-C


def main() -> None:
    """Entry point of ``nms-gym``."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = app(standalone_mode=False)
    except (InputError, OSError) as error:  # OSError: a full disk, a file that may not be read
        print(f"nms-gym: {error}", file=sys.stderr)
        sys.exit(2)
    except typer.Exit as done:
        code = done.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        # Typer's own usage errors carry their exit code and message; anything else is a defect and keeps its traceback.
        if hasattr(error, "exit_code") and hasattr(error, "show"):
            error.show()  # type: ignore[attr-defined]
            sys.exit(error.exit_code)  # type: ignore[attr-defined]
        raise
    if code == INTERRUPTED:  # Typer itself turns Ctrl-C into this code
        print("nms-gym: interrupted", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    damaged = re.match(r"Error reading persistent compilation cache entry for '([\w.<>-]+)'", str(message))
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if damaged and folder:
        # A killed process left half a file. JAX compiles anew but keeps what there is, and would say so for ever.
        for path in Path(folder).glob(f"{damaged[1]}-*-cache"):
            path.unlink(missing_ok=True)
        message = f"a damaged file of the compilation cache in {folder} is replaced ({damaged[1]})"
    print(f"nms-gym: warning: {message}", file=sys.stderr)


@app.callback()
def _setup() -> None:
    """Use JAX's compilation cache: the second run of a study starts in a fraction of the time."""
    # Through the environment, which JAX reads when it is imported: no command pays for what it does not use.
    folder = os.environ.get("NMS_GYM_CACHE_DIR")
    if folder is None:
        try:
            base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
            folder = str(Path(base) / "nms-gym" / "jax")
        except RuntimeError:  # a user without a home, as in a container: compiled anew each time
            folder = ""
    # By machine, because XLA loads code that was compiled for another processor. It also compares tuning hints as if
    # they were processor features and warns at length about its own files, hence the log level; failures still raise.
    if folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(folder) / platform.node()))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


@app.command()
def demo(
    output: OutputOption = None,
    report: Annotated[bool, typer.Option(help="Write the HTML report.")] = True,
) -> None:
    """Run the whole path on the shipped synthetic recording.

    Processes raw EMG, calibrates an arm on two trials, predicts a third that the fit never saw, puts the calibrated
    person into two Gymnasium environments, films one, and writes a report.
    """
    import numpy as np

    from calibration.study.read import read_study
    from nms_gym._assets import asset_path

    began = time.perf_counter()
    folder = output or Path("nms-gym-out") / "demo"
    console.print(
        "[bold]NMS Gym demo[/bold]: a [bold]synthetic[/bold] arm, 2 joints, 6 muscles, 3 raw EMG channels, 3 trials"
    )
    study = read_study(asset_path("demo/study.toml"), say=say)
    outcome, written = _calibrate(study, folder, report=False, posterior=64)

    import gymnasium

    import nms_gym  # noqa: F401  registers the environments
    from nms_gym.envs.policies import film
    from nms_gym.envs.rendering import play_environment

    say("stepping nms_gym/MomentTracking-v0 with the calibrated person on the held-out trial")
    held_out = next(iter(study.held_out))
    env = gymnasium.make(
        "nms_gym/MomentTracking-v0", subject=str(written[0]), trial=str(folder / "trials" / f"{held_out}.npz")
    )
    low = np.asarray(env.action_space.low)  # type: ignore[attr-defined]
    policies = {"no help from the action": lambda _: low, "random action": lambda _: env.action_space.sample()}
    for label, policy in policies.items():
        env.action_space.seed(0)
        rewards = [reward for reward, _ in play_environment(env, policy)][1:]
        console.print(f"  {label}: {len(rewards)} steps, return {sum(rewards):.1f}")
    names = (env.get_wrapper_attr("observation_names"), env.get_wrapper_attr("action_names"))
    console.print(f"  observation of {len(names[0])} numbers, action drives {listed(names[1])}")
    env.close()

    say("playing nms_gym/ElbowAssist-v0: the same person, weak and late, helped by a motor at the elbow")
    env = gymnasium.make("nms_gym/ElbowAssist-v0", subject=str(written[0]), render_mode="rgb_array")
    filmed = film(env, folder / "elbow_assist.gif", fps=12.5).files
    written += filmed
    if report:
        from calibration.report.drawing import Picture
        from calibration.study.results import write_study_report

        title = "nms_gym/ElbowAssist-v0: a motor helps where the person's own EMG is too weak and too late"
        caption = "Muscles by activation, the target dashed, the motor's torque as an arrow; its policy is scripted."
        picture = Picture("elbow_assist", title, caption, filmed[0].read_bytes(), "gif")
        written.append(write_study_report(folder, study, outcome, [picture]))
    done(written, began)


@app.command()
def calibrate(
    study_file: Annotated[
        Path,
        typer.Argument(metavar="STUDY.toml", help="What to fit to what; asset:demo/study.toml is the shipped one."),
    ],
    output: OutputOption = None,
    solver: Annotated[
        str | None, typer.Option(help="lm, adam, adabelief, lion or rmsprop; overrides the study.")
    ] = None,
    starts: Annotated[int | None, typer.Option(help="Solutions sought side by side; overrides the study.")] = None,
    report: Annotated[bool, typer.Option(help="Write the HTML report.")] = True,
    posterior: Annotated[
        int,
        typer.Option(help="People to draw from the posterior, for bands and intervals; 0 saves the time."),
    ] = 200,
) -> None:
    """Fit a person to the training windows of a study and score windows and trials that the fit never saw.

    Writes subject.json, metrics.json, trials/*.npz, posterior.npz, discrepancy.npz and report.html. Ctrl-C ends the fit
    and keeps the best so far.
    """
    import dataclasses

    from calibration.study.read import read_study

    began = time.perf_counter()
    study = read_study(study_file, say=say)
    if starts is not None and starts < 1:
        raise InputError(f"--starts is {starts}; at least 1 is needed")
    options = {k: v for k, v in (("solver", solver), ("starts", starts)) if v is not None}
    study = dataclasses.replace(study, fit_options={**study.fit_options, **options})
    if posterior < 0 or posterior == 1:
        raise InputError(f"--posterior is {posterior}; use 2 or more people, or 0 to leave it out")
    _, written = _calibrate(study, output or study.output, report=report, posterior=posterior)
    done(written, began)


def _calibrate(study: Study, folder: Path, *, report: bool, posterior: int = 0) -> tuple[Outcome, list[Path]]:
    from calibration.study.calibrate import calibrate as run
    from calibration.study.ranges import check_sets
    from calibration.study.results import write_results
    from nms_gym.files.folder import require_folder

    require_folder(folder)
    model, joints = study.model, study.problem.coordinates
    how = f"{model.settings.tendon} tendon, {study.fit_options['solver']}, {study.fit_options['starts']} starts"
    say(
        f"calibrating {len(model.muscles)} muscles on {len(study.train)} windows of {listed(joints)} ({how}); compiling"
    )
    if model.passive_muscles:
        console.print(f"  nothing drives {listed(model.passive_muscles, 50)}: passive", markup=False)
    if study.synergies is not None:
        found = study.synergies
        console.print(
            f"  {len(model.commands)} synergies explain {100 * found.total_vaf:.0f} % of the envelopes ({found.rule}), "
            f"and drive {listed(model.synergy_muscles, 50)}",
            markup=False,
        )
    with _progress() as update:
        outcome = run(study, progress=update, posterior=posterior, say=say)
    r = outcome.result
    console.print(
        f"  {r.status.value}; cost {r.start_cost:.4g} -> {r.cost:.4g}; {r.iterations} iterations; "
        f"compiling {r.compile_seconds:.1f} s, fitting {r.run_seconds:.2f} s"
    )
    _metrics_table(outcome.rows)
    _worse_lines(outcome.rows)
    _targets_lines(outcome.targets)
    if outcome.analysis is not None:
        _bands_lines(outcome.analysis.bands)
    _range_lines(check_sets(outcome.subject, (), study.held_out))
    if not study.held_out:
        console.print("  [yellow]held-out windows: none exists; the numbers above measure fit, not prediction[/yellow]")
    if r.at_bounds:
        console.print(f"  [yellow]at a bound[/yellow]: {escape(listed(r.at_bounds))}")
    say("writing results" + (" and report" if report else ""))
    return outcome, write_results(folder, study, outcome, report=report)


@app.command()
def export(
    subject_file: Annotated[Path, typer.Argument(metavar="SUBJECT.json", help="A calibrated person.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .osim or .xml (CEINMS).")],
    original: Annotated[
        Path, typer.Option("--from", help="The OpenSim model or CEINMS subject whose other contents stay.")
    ],
    dt: Annotated[
        float, typer.Option(help="CEINMS: s between samples of its EMG; filter coefficients belong to it.")
    ] = 0.001,
) -> None:
    """Write a person's calibrated muscles into a copy of an OpenSim model or a CEINMS subject.

    In an OpenSim model the muscles become of the class that the person was calibrated with; nothing else of the file
    changes. EMG gains have no place in either: scale the excitations by them.
    """
    from nms_gym.files.ceinms import calibrated_ceinms_subject, write_ceinms_subject
    from nms_gym.files.osim_write import export_osim
    from nms_gym.files.subject import load_subject
    from nms_gym.recording.ceinms import read_ceinms_subject

    subject = load_subject(subject_file)
    if output.suffix != original.suffix or output.suffix not in (".osim", ".xml"):
        raise InputError(f"--output is {output}, --from {original}; both must be .osim, or both CEINMS subjects (.xml)")
    if output.suffix == ".osim":
        written = export_osim(output, original, subject.model, subject.params)
        console.print(f"{len(written.changed)} muscles changed; written to {output}", markup=False)
        if written.turned:
            console.print(
                f"  {len(written.turned)} are {written.muscle_class} now, whose equations the person has; they were "
                f"{listed(sorted(set(written.turned.values())))}",
                markup=False,
                soft_wrap=True,
            )
        left_out = sorted({kind for kinds in written.left_out.values() for kind in kinds})
        if left_out:
            console.print(f"  not in this model's muscle classes, so left out: {listed(left_out)}", markup=False)
    else:
        if not dt > 0:
            raise InputError(f"--dt is {dt:g} s; it must be positive")
        known = read_ceinms_subject(original)
        changed = calibrated_ceinms_subject(known, subject.params, subject.model.muscles, dt=dt)
        write_ceinms_subject(output, changed, calibration=str(subject_file.name))
        console.print(f"{len(changed.muscles)} muscles written to {output}", markup=False)


@app.command("calibrate-ceinms")
def calibrate_ceinms(
    calibration: Annotated[Path, typer.Argument(metavar="CALIBRATION.xml", help="CEINMS's calibration file.")],
    subject_file: Annotated[Path, typer.Argument(metavar="SUBJECT.xml", help="The uncalibrated subject.")],
    excitations: Annotated[Path, typer.Argument(metavar="EXCITATIONS.xml", help="The excitation generator.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Calibrated CEINMS subject (.xml) to write.")],
    model: Annotated[str, typer.Option(help='"ceinms": its own equations and objective; "nms_gym": ours.')] = "ceinms",
    starts: Annotated[int, typer.Option(help="Solutions sought side by side.")] = 1,
    weight: Annotated[
        float, typer.Option(help="Of the objective beside the prior: 1e6 finds the least, 3e3 stays near the subject.")
    ] = 1e6,
    held_out: Annotated[
        list[str] | None,
        typer.Option(
            "--held-out",
            help="Score this trial too, but do not fit it: a trial of the calibration file, or another inputData file. "
            "Give it again for more.",
        ),
    ] = None,
    scores: Annotated[Path | None, typer.Option(help="Write the scores to this .json file.")] = None,
) -> None:
    """Calibrate what a CEINMS calibration file describes, and write the subject in CEINMS's own format.

    Prints CEINMS's objective f, RMSE and R2 before and after, on fitted and held-out trials, computed with CEINMS's own
    equations.
    """
    from calibration.ceinms.calibrate import calibrate_ceinms as run
    from calibration.ceinms.calibrate import divide_trials, score_trials
    from calibration.fitting import Status
    from calibration.report.write import write_metrics
    from nms_gym.files.ceinms import write_ceinms_subject
    from nms_gym.recording.ceinms import read_ceinms_excitations, read_ceinms_subject
    from nms_gym.recording.ceinms_calibration import read_ceinms_calibration

    began = time.perf_counter()
    subject, generator = read_ceinms_subject(subject_file), read_ceinms_excitations(excitations)
    say("calibrating; compiling takes most of it")
    asked = read_ceinms_calibration(calibration)
    recordings, unseen = divide_trials(asked, subject, generator, held_out or ())
    options: Any = {"model": model, "starts": starts, "weight": weight}
    options |= {"recordings": recordings, "held_out": unseen}
    fitted = run(asked, subject, generator, **options)
    if fitted.status is Status.NOT_FINITE:
        raise InputError(f"{calibration}: {fitted.status.value}; nothing was written")
    write_ceinms_subject(output, fitted.subject, calibration=calibration.name)
    people = {"uncalibrated": subject, "calibrated": fitted.subject}
    found = fitted.scores or score_trials(people, generator, recordings, unseen, asked.tendon, asked.path)
    for one in found:
        errors = ", ".join(f"{joint.coordinate} {joint.rmse:.2f} ({joint.r2:.3f})" for joint in one.score.joints)
        where = f"{one.trial}{', held out' if one.held_out else ''}, {one.person}"
        console.print(f"  {where}: f = {one.score.objective:.4f}; RMSE N·m (R2): {errors}", markup=False)
    if scores is not None:
        write_metrics(scores, [row for one in found for row in one.rows()])
    done([output] if scores is None else [output, scores], began)


@app.command()
def predict(
    subject_file: Annotated[Path, typer.Argument(metavar="SUBJECT.json", help="A calibrated person.")],
    trials: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[TRIAL]...", help="Trials (.npz), or studies (.toml) for all theirs."),
    ] = None,
    study_file: Annotated[
        Path | None, typer.Option("--study", help="Study (.toml) on whose windows the person is scored.")
    ] = None,
    output: OutputOption = None,
    assisted: Annotated[
        bool, typer.Option(help="Let excitations leave the EMG as little as meets the measured moments.")
    ] = False,
    discrepancy: Annotated[
        bool,
        typer.Option(
            help="Write moments with what the model left unexplained in training, from discrepancy.npz beside the "
            "subject, and their standard deviation too."
        ),
    ] = False,
    file_format: Annotated[
        str, typer.Option("--format", help="sto or csv: a file per quantity; npz: a file per trial.")
    ] = "sto",
    names: Annotated[
        str,
        typer.Option(
            "--quantities",
            help="Comma separated: outputs, forces, powers, work, stiffness, metabolics, co_contraction, equilibrium, "
            "all, or single ones such as moments,joint_stiffness.",
        ),
    ] = "outputs",
) -> None:
    """Predict the joint moments of trials with a saved person, or score the person on a study's windows.

    Writes moments, forces, excitations, activations, and lengths and velocities of fibers and tendons, and prints the
    agreement with measured moments where the trial has them, and how far the trial leaves the EMG and motion that the
    fit has seen. With --assisted that agreement is made, not found: use the forces. With --study, training windows and
    held-out sets are scored as a calibration scores them, with the bands of posterior.npz and discrepancy.npz beside
    the subject.
    """
    from calibration.excitations.assisted import Assistance
    from calibration.study.predict import predict as run
    from calibration.study.predict import score
    from calibration.study.read import read_study
    from calibration.study.results import check_predictions, write_predictions
    from calibration.uncertainty.discrepancy import load_corrections
    from nms_gym.files.folder import require_folder
    from nms_gym.files.subject import load_subject
    from nms_gym.model.quantities import chosen_quantities
    from nms_gym.recording.trial import load_trial

    began = time.perf_counter()
    if not (trials or study_file):
        raise InputError("nothing to predict: give trials (.npz), or --study STUDY.toml to score the person on")
    subject = load_subject(subject_file)
    folder = output or Path("nms-gym-out") / f"predict-{Path(subject.name).name}"
    require_folder(folder)
    wanted = _split(names)
    chosen_quantities(wanted)
    if file_format not in ("sto", "csv", "npz"):
        raise InputError(f"--format is {file_format!r}; use sto, csv or npz")

    def read(path: Path) -> Study:
        return read_study(path, emg_reference=subject.emg_normalisation, say=say)

    learned = subject_file.parent / "discrepancy.npz"
    corrections = load_corrections(learned, subject.params) if learned.is_file() else None
    if discrepancy and corrections is None:
        raise InputError(f"{learned}: no such file; calibrate with a posterior, or leave --discrepancy out")
    recordings, references = [], []
    for path in trials or ():
        if path.suffix == ".toml":
            study = read(path)
            recordings += study.trials.values()
            references.append(study.emg_reference.kind)
        else:
            recordings.append(load_trial(path))
            references.append("as in the trial's file")
    scored = None
    if study_file is not None:
        study = read(study_file)
        references.append(study.emg_reference.kind)
        scored = score(subject, study, people=_people_beside(subject_file, subject), corrections=corrections, say=say)
    predictions = run(
        subject,
        recordings,
        assistance=Assistance() if assisted else None,
        corrections=corrections if discrepancy else None,
        say=say,
    )
    own = subject.calibration.get("emg_reference")
    reference = "; ".join(dict.fromkeys(references))
    reference += f" (person: {own})" if own and own != reference else ""
    written, rows = write_predictions(
        folder, subject, predictions, names=wanted, file_format=file_format, emg_reference=reference, scored=scored
    )
    if rows:
        _metrics_table(rows)
        _worse_lines(rows)
    if scored is not None:
        _targets_lines(scored.targets)
        _bands_lines(scored.bands)
    _range_lines([*(() if scored is None else scored.ranges), *check_predictions(subject, predictions)])
    done(written, began)


def _people_beside(subject_file: Path, subject: Subject) -> NmsParams | None:
    """People of the ``posterior.npz`` beside a subject file, where there is one that can be used."""
    from calibration.study.predict import moment_noise
    from nms_gym.files.posterior import load_people

    file = subject_file.parent / "posterior.npz"
    if not file.is_file():
        return None
    if not moment_noise(subject):
        say(f"no bands: {subject_file} does not say how noisy its moments are; calibrate again to have them")
        return None
    return load_people(file, subject.model, subject.params)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help=".osim, .osimx, .sto, .mot, .csv, .npz, .json or .toml")],
) -> None:
    """Say what is in a file: names, ranges, parameters. A study is checked as for a calibration, which is not run."""
    if file.suffix == ".toml":
        from calibration.study.read import read_study

        listings = _study_listings(read_study(file, say=say))
    else:
        from nms_gym.files.inspection import describe

        listings = describe(file)
    for title, header, rows in listings:
        console.print(escape(title), style="italic", soft_wrap=True)
        table = Table(box=None, pad_edge=False)
        for i, name in enumerate(header):
            table.add_column(name, justify="left" if i == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        console.print(table)
        console.print()


def _study_listings(study: Study) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    """What a calibration would do."""
    if study.train:
        _ = study.problem  # complains when there is nothing to solve
    windows = [["train", s.name] for s in study.train]
    windows += [["held-out", s.name] for segments in study.held_out.values() for s in segments]
    free = [[f.kind, f"{f.bounds[0]:g}", f"{f.bounds[1]:g}", f"{f.prior_sd:g}", f.share] for f in study.free]
    drives = [[m, ", ".join(study.model.sources(m)) or "none: passive"] for m in study.model.muscles]
    return [
        (f"{study.name}: {listed(study.model.coordinates, 50)}", ("muscle", "driven by"), drives),
        ("windows", ("use", "recording and time"), windows),
        ("free parameters", ("kind", "low", "high", "prior sd", "share"), free),
    ]


@app.command("fit-paths")
def fit_paths_command(
    model_file: Annotated[Path, typer.Argument(metavar="MODEL.osim", help="An OpenSim model.")],
    coordinates: Annotated[str, typer.Option(help="Joint coordinates, comma separated.")],
    muscles: Annotated[
        str | None, typer.Option(help="Muscles, comma separated; default: all that cross the coordinates.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write (.json).")] = Path("model.json"),
    ranges: Annotated[
        str | None,
        typer.Option(help="Degrees, 'low:high' per coordinate, comma separated; default: the model's ranges."),
    ] = None,
    motion: Annotated[
        list[Path] | None,
        typer.Option(
            help="Recorded coordinates (.mot, .sto or .csv): ranges are what they reach, with a margin. Give it again "
            "for more.",
        ),
    ] = None,
    start: Annotated[float | None, typer.Option(help="First time of --motion that counts, in s.")] = None,
    end: Annotated[float | None, typer.Option(help="Last time of --motion that counts, in s.")] = None,
    sampler: Annotated[
        str, typer.Option(help="direct (our own geometry) or opensim (the real one; needs the extra).")
    ] = "direct",
) -> None:
    """Fit polynomial muscle paths to an OpenSim model and write a model file that needs no OpenSim.

    Muscles that cannot be fitted are left out and listed.
    """
    import math

    from nms_gym.anatomy import moving_part, part_problems
    from nms_gym.files.folder import make_folder, require_folder
    from nms_gym.files.model_file import model_from_osim, write_model_file
    from nms_gym.muscle.path_fitting import contradictions, direct_sampler, fit_paths, only
    from nms_gym.muscle.paths import muscles_crossing, without_direct_path
    from nms_gym.recording.osim import read_osim

    began = time.perf_counter()
    if output.suffix != ".json" or output.is_dir():
        raise InputError(f"--output is {str(output)!r}; expected a file name that ends in .json")
    if sampler not in ("direct", "opensim"):
        raise InputError(f"--sampler is {sampler!r}; use 'direct' or 'opensim'")
    if not motion and (start is not None or end is not None):
        raise InputError("--start and --end are times of --motion; give that too")
    if motion and ranges is not None:
        raise InputError("--ranges and --motion both say over which poses to fit; give one of them")
    require_folder(output.parent)
    osim = read_osim(model_file)
    joints = _split(coordinates)
    if not joints:
        raise InputError("--coordinates is empty; name the joint coordinates, such as r_elbow_flex")
    crossing = muscles_crossing(osim, joints)
    chosen = (
        _split(muscles) if muscles else [m.name for m in osim.muscles if any(m.name in c for c in crossing.values())]
    )
    if not chosen:
        raise InputError(f"{model_file}: no muscle crosses {listed(joints)}; name other --coordinates, or --muscles")
    left_out = {m: problem for m in chosen if (problem := osim.muscle(m).problem or osim.muscle(m).path_problem)}
    limits = _limits(osim, joints, ranges, motion or (), (start, end))

    def require_some() -> list[str]:
        kept = [m for m in chosen if m not in left_out]
        if not kept:
            raise InputError(next(iter(left_out.values())))
        return kept

    kept = require_some()
    if sampler == "direct":
        left_out |= without_direct_path(osim, kept, joints)
        sample = direct_sampler(osim, kept := require_some(), joints)
    else:
        from nms_gym.muscle.opensim_sampler import opensim_sampler

        sample = opensim_sampler(model_file, kept, joints)
    odd = contradictions(sample, kept, joints, limits)
    if odd:
        left_out |= odd
        sample, kept = only(sample, kept, remaining := require_some()), remaining
    shown = ", ".join(
        f"{c} {math.degrees(a):.0f}..{math.degrees(b):.0f} deg"
        if osim.coordinate(c).motion == "rotational"
        else f"{c} {a:.3g}..{b:.3g} m"
        for c, (a, b) in zip(joints, limits, strict=True)
    )
    say(f"fitting {len(kept)} muscles over {shown}")
    with _steps() as update:
        paths, quality = fit_paths(sample, kept, joints, limits, progress=update)
    model = model_from_osim(osim, kept, joints, paths=paths, source=f"{model_file.name}, paths fitted by nms-gym")
    make_folder(output.parent)
    write_model_file(output, model)
    console.print(quality.table(), markup=False, soft_wrap=True)
    if left_out:
        console.print(f"left out: {listed(left_out, 200)}", markup=False, soft_wrap=True)
        for reason in dict.fromkeys(left_out.values()):
            console.print(f"  {reason}", markup=False, soft_wrap=True)
    if quality.poor and ranges is None and not motion:
        console.print(
            "  muscles marked * were fitted over the model's own ranges, which are often wider than any movement: "
            "--motion ik.mot takes what a recording reaches, --ranges what you say",
            markup=False,
            soft_wrap=True,
        )
    if model.skeleton is None:
        why = part_problems(moving_part(osim, joints))
        console.print(f"no skeleton, so no dynamics: {'; '.join(why[:4])}", markup=False, soft_wrap=True)
    done([output], began)


@app.command("inverse-dynamics")
def inverse_dynamics_command(
    model_file: Annotated[Path, typer.Argument(metavar="MODEL.osim", help="An OpenSim model.")],
    motion_file: Annotated[Path, typer.Argument(metavar="MOTION", help="Coordinates over time: .mot, .sto or .csv.")],
    loads_file: Annotated[
        Path | None, typer.Option("--loads", help="External loads (.xml), such as ground reaction forces.")
    ] = None,
    cutoff: Annotated[float | None, typer.Option(help="Low-pass of the coordinates in Hz; default: none.")] = None,
    loads_cutoff: Annotated[float | None, typer.Option(help="Low-pass of the loads in Hz; default: none.")] = None,
    coordinates: Annotated[
        str | None, typer.Option(help="Coordinates wanted, comma separated; default: all that were recorded.")
    ] = None,
    start: Annotated[float | None, typer.Option(help="First time in s.")] = None,
    end: Annotated[float | None, typer.Option(help="Last time in s.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Moments of another program (.sto) to compare with.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Moments to write (.sto).")] = Path("id.sto"),
) -> None:
    """Compute the joint moments of a recorded motion, as OpenSim's Inverse Dynamics does.

    The file written serves as `moments` of a trial in a study, and OpenSim reads it.
    """
    from nms_gym.files.folder import make_folder, require_folder
    from nms_gym.recording.external_loads import read_external_loads
    from nms_gym.recording.osim import read_osim
    from nms_gym.skeleton.recorded_motion import agreement, moments_of_motion, read_motion, write_joint_moments

    began = time.perf_counter()
    if output.suffix != ".sto" or output.is_dir():
        raise InputError(f"--output is {str(output)!r}; expected a file name that ends in .sto")
    if loads_cutoff is not None and loads_file is None:
        raise InputError("--loads-cutoff needs --loads: there are no loads to filter")
    require_folder(output.parent)
    model = read_osim(model_file)
    motion = read_motion(motion_file, model, cutoff).window(start, end)
    loads = None if loads_file is None else read_external_loads(loads_file)
    if loads is not None:
        say(f"loads on {listed(loads.bodies)}")
        loads = loads.at(motion.time, loads_cutoff)
    chosen = list(motion.coordinates) if coordinates is None else _split(coordinates)
    say(f"{len(motion.time)} times from {motion.time[0]:g} to {motion.time[-1]:g} s, {len(chosen)} coordinates")
    moments = moments_of_motion(model, motion, chosen, loads=loads)
    make_folder(output.parent)
    write_joint_moments(output, model, moments)
    if reference is not None:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("coordinate")
        for name in ("R2", "RMSE N·m"):
            table.add_column(name, justify="right")
        for row in agreement(moments, reference):
            table.add_row(escape(row.coordinate), f"{row.r2:.5f}", f"{row.rmse:.4f}")
        console.print(table)
    done([output], began)


for _command in cli_environments.COMMANDS:
    app.command()(_command)


@app.command()
def reference(
    output: OutputOption = None,
    study_keys: Annotated[
        bool,
        typer.Option("--study-keys", help="The keys of a study's TOML file instead, and the studies of the folder."),
    ] = False,
) -> None:
    """Write the reference page: curves, equations, constants, parameters, units, signs and sources, with plots."""
    from calibration.study.reference import write_study_reference
    from nms_gym.files.folder import make_folder
    from nms_gym.pages.reference import write_reference

    began = time.perf_counter()
    folder = output or Path("nms-gym-out") / "reference"
    make_folder(folder)
    done([write_study_reference(folder)] if study_keys else write_reference(folder), began)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _limits(
    osim: OsimModel,
    joints: Sequence[str],
    ranges: str | None,
    motions: Sequence[Path] = (),
    times: tuple[float | None, float | None] = (None, None),
) -> list[tuple[float, float]]:
    """Range of each joint in radians: as asked for, else as recorded, else the model's."""
    import math

    if motions:
        from nms_gym.muscle.path_fitting import ranges_of_motion
        from nms_gym.skeleton.recorded_motion import recorded_poses

        poses = [recorded_poses(path, osim, joints, *times) for path in motions]
        return [(float(low), float(high)) for low, high in ranges_of_motion(poses)]
    limits = [osim.coordinate(c).range for c in joints] if ranges is None else [_range(t) for t in _split(ranges)]
    if len(limits) != len(joints):
        raise InputError(f"--ranges has {len(limits)} entries for {len(joints)} coordinates; give 'low:high' for each")
    for c, (low, high) in zip(joints, limits, strict=True):
        if osim.coordinate(c).motion == "rotational" and not -2 * math.pi <= low < high <= 2 * math.pi:
            raise InputError(
                f"{osim.path}: {c!r} from {math.degrees(low):g} to {math.degrees(high):g} deg is no range to fit over; "
                "give low < high within a turn, by --ranges, or a recording by --motion"
            )
    return limits


def _range(text: str) -> tuple[float, float]:
    """A range in radians from 'low:high' in degrees."""
    import math

    try:
        low, high = (math.radians(float(part)) for part in text.split(":"))
    except ValueError as error:
        raise InputError(f"--ranges: {text!r}; expected 'low:high' in degrees, such as -30:75") from error
    return low, high


def _metrics_table(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("windows", "joint", "parameters"):
        table.add_column(name)
    for name in ("RMSE N·m", "NRMSE", "R2", "r"):
        table.add_column(name, justify="right")
    for row in rows:
        style = "bold" if row["split"] == "held-out" and row["set"] == "calibrated" else None
        table.add_row(
            escape(f"{row['split']}: {row['segment']}" if row["split"] == "held-out" else row["segment"]),
            escape(row["coordinate"]),
            row["set"],
            f"{row['rmse']:.2f}",
            f"{100 * row['nrmse']:.1f} %",
            f"{row['r2']:.3f}",
            f"{row['r']:.3f}",
            style=style,
        )
    console.print(table)


def _worse_lines(rows: Sequence[dict[str, Any]]) -> None:
    """Held-out sets that are predicted worse than without a calibration."""
    from calibration.report.findings import WORSE_BY

    r2 = {(row["segment"], row["coordinate"], row["set"]): row["r2"] for row in rows if row["split"] == "held-out"}
    worse = [
        f"{segment}, {joint}"
        for (segment, joint, which), after in r2.items()
        if which == "calibrated" and after < r2.get((segment, joint, "uncalibrated"), float("-inf")) - WORSE_BY
    ]
    if worse:
        console.print(f"  [yellow]predicted worse than without calibration[/yellow]: {escape('; '.join(worse))}")


def _targets_lines(rows: Sequence[dict[str, Any]]) -> None:
    """How far what was measured of single muscles is from the model's."""
    from calibration.report.tables import targets_table

    for row in targets_table(rows):
        where = f"held-out: {row['set']}" if row["held_out"] else row["set"]
        before = f"{row['uncalibrated']} uncalibrated, " if "uncalibrated" in row else ""
        console.print(
            f"  {row['quantity']} of {row['muscle']} in {row['unit']}, {where}: RMSE {before}{row['calibrated']} "
            f"calibrated; tolerance {row['tolerance']}",
            markup=False,
        )


def _bands_lines(bands: Sequence[BandSet]) -> None:
    """How much of what was measured lies inside the bands."""
    for row in (row for found in bands for row in found.rows() if row["coverage"] is not None):
        where = f"{row['split']}: {row['segment']}" if row["split"] == "held-out" else row["segment"]
        console.print(
            f"  {100 * row['level']:.0f} % bands, {where}, {row['coordinate']}: {100 * row['coverage']:.0f} % inside, "
            f"± {row['half_width']:.1f} N·m",
            markup=False,
        )


def _range_lines(checks: Sequence[RangeCheck]) -> None:
    """What leaves the EMG and motion that the fit has seen, or that nothing does."""
    if not checks:
        return
    if any(check.departures is None for check in checks):
        console.print("  the person's file does not say what EMG and motion its fit has seen; calibrate again to know")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("outside the trained range")
    table.add_column("of")
    for name in ("samples", "farthest beyond it"):
        table.add_column(name, justify="right")
    for check in checks:
        for d in check.departures.leaving if check.departures is not None else ():
            of = "largest" if d.quantity == "emg" else "width"
            beyond = f"{d.excess:.2f} × its {of}" if d.excess else "seen, but rarely"
            label = f"{check.split}: {check.label}" if check.split == "held-out" else check.label
            cells = (label, f"{d.quantity} of {d.name}", f"{100 * d.outside:.0f} %", beyond)
            table.add_row(*(escape(cell) for cell in cells))
    if table.row_count:
        console.print(table)
    elif all(check.departures is not None for check in checks):
        console.print("  everything within the trained range")
    known = [check.departures for check in checks if check.departures is not None]
    for text, names in (
        ("without a trained range", [n for d in known for n in d.not_trained]),
        ("trained on, but not recorded", [n for d in known for n in d.not_recorded]),
    ):
        if names:
            console.print(f"  {text}: {listed(dict.fromkeys(names), 50)}", markup=False)
    for check in checks:
        if check.saturating:
            muscles = ", ".join(f"{muscle} {100 * part:.0f} %" for muscle, part in check.saturating.items())
            console.print(
                f"  {check.label}: EMG asks for more than full excitation in {muscles} of the samples", markup=False
            )


@contextmanager
def _progress() -> Iterator[Any]:
    """A progress bar for a calibration; plain output when nobody watches."""
    columns = (TextColumn("  iteration {task.completed}/{task.total}"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("compiling", total=None)

        def update(p: Any) -> None:
            bar.update(task, completed=min(p.iteration, p.max_iterations), total=p.max_iterations)
            bar.update(task, description=f"cost {p.cost:.4g}")

        yield update


@contextmanager
def _steps() -> Iterator[Any]:
    columns = (TextColumn("  {task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def update(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield update


if __name__ == "__main__":
    main()
