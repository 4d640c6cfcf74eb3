"""Every key of a study's TOML file, once: what it may be, its default and unit, and what it means.

Reading takes types, defaults and the names in its messages from here (``keys.read_keys``), and
``examples/configs/README.md`` is written from here (``study_reference``). Defaults are those of the classes that the
tables become, or of the table of parameter kinds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from calibration.problem import Penalties
from calibration.study.dynamometer import TOLERANCE, Dynamometer
from calibration.study.emg import FILTERS, MVC_GAIN_SD, NORMALISATIONS, EmgRecipe
from calibration.study.options import SolverOptions
from calibration.study.synergies import MODES, PRIORS, SynergyPlan
from calibration.study.validation import WAYS, ValidationPlan
from nms_gym.excitation.emg import AMPLITUDES
from nms_gym.model.quantities import MUSCLE_OUTPUTS, QUANTITIES
from nms_gym.model.structure import Settings
from nms_gym.recording.arrays import AXES, ROLES

REQUIRED: Any = ...


@dataclass(frozen=True)
class Key:
    """One key."""

    name: str
    kind: str
    """what it may be, one of ``keys``'s: "text", "number", "names", ..."""
    default: Any
    """``REQUIRED``, or None where nothing happens without it"""
    text: str
    unit: str = ""
    shown: str = ""
    """the default in words, where the value does not say it"""


@dataclass(frozen=True)
class Table:
    """One table."""

    header: str
    text: str
    keys: tuple[Key, ...] = ()
    any_key: str = ""
    """what a key stands for in a table whose keys are names"""


def _of(cls: Any, name: str, text: str, unit: str = "", kind: str = "", shown: str = "") -> Key:
    """A key that is a field of a class: its default, and from that its kind."""
    default = next(f.default for f in dataclasses.fields(cls) if f.name == name)
    if not kind:
        kinds = {bool: "true or false", int: "whole number", float: "number", str: "text"}
        kind = kinds.get(type(default), "numbers")
    return Key(name, kind, default, text, unit, shown)


def _choice(words: Any) -> str:
    return ", ".join(f'"{word}"' for word in words)


_PATH = "relative to the study file; `${NAME}` takes an environment variable"

TABLES: Mapping[str, Table] = {
    "study": Table(
        "",
        f"Top of the file. Paths are {_PATH}.",
        (
            Key("name", "text", None, "of the study and of the person", shown="the file's name"),
            Key("coordinates", "names", REQUIRED, "joints whose measured moments are fitted"),
            Key("dt", "number", None, "step of model and trials", "s", "the kinematics' own"),
            Key("lead_in", "number", 0.2, "time before each window in which the model settles", "s"),
            Key("output", "text", None, "folder of the results", shown="`nms-gym-out/<name>`"),
            Key(
                "free",
                "names or table",
                None,
                "kinds of parameter to fit: names, or tables `[free.<kind>]`",
                shown="see `[free]`",
            ),
            Key("model", "table", REQUIRED, "`[model]`"),
            Key("channels", "table", REQUIRED, "`[channels]`"),
            Key("trials", "list", REQUIRED, "`[[trials]]`"),
            Key("settings", "table", {}, "`[settings]`"),
            Key("emg", "table", None, "`[emg]`", shown='`kind = "envelope"`'),
            Key("synergies", "table", None, "`[synergies]`", shown="EMG-driven"),
            Key("groups", "table", {}, "`[groups]`"),
            Key("start", "table", {}, "`[start]`"),
            Key("penalties", "table", {}, "`[penalties]`"),
            Key("validation", "table", {}, "`[validation]`"),
            Key("solver", "table", {}, "`[solver]`"),
            Key("passive", "list", (), "`[[passive]]`"),
            Key("dynamometer", "list", (), "`[[dynamometer]]`"),
        ),
    ),
    "model": Table(
        "[model]",
        "Muscles, their parameters and paths.",
        (
            Key(
                "file",
                "text",
                REQUIRED,
                "an `.osim` model (its paths are fitted over what the recordings reach, and kept for next time), "
                'a `.json` from `nms-gym fit-paths`, `"asset:arm"`, '
                '`"asset:right_leg"`, or a `.csv` with a row per muscle',
            ),
            Key(
                "muscles",
                "names",
                (),
                "muscles of the model",
                shown="those that a channel or synergies drive, and the passive ones",
            ),
            Key("passive_muscles", "names", (), "muscles that nothing drives but that act passively", shown="none"),
            Key("columns", "table", {}, "of a `.csv`: parameter kind (and `muscle`) -> column", shown="none"),
            Key(
                "paths",
                "text",
                None,
                "a `.json` model file whose muscle paths are used, where the model has none and "
                "the trials bring no muscle analysis",
            ),
        ),
    ),
    "settings": Table(
        "[settings]",
        "The equations; part of the person, since parameters of one choice do not suit another.",
        (
            _of(
                Settings,
                "tendon",
                '"elastic", "rigid", or "mixed": rigid where the tendon is too short to matter (the rule is reported)',
            ),
            Key(
                "curves",
                "text or table",
                Settings().curves.name,
                '"DeGrooteFregly2016", "Millard2012", '
                '"MeyerFregly2017" (NMSM), "Tabulated" (CEINMS), a table of one with its constants, or a CEINMS '
                "subject `.xml`",
            ),
            _of(Settings, "integrator", '"bdf2" or "backward_euler", of elastic tendons'),
            _of(
                Settings,
                "activation",
                '"second_order" or "first_order" dynamics; "recursive" is CEINMS\'s second-order filter, '
                "whose delay depends on the step",
            ),
            _of(Settings, "max_delay", "longest electromechanical delay that can be fitted", "s"),
            _of(Settings, "tendon_iterations", "at most so many for an elastic tendon"),
        ),
    ),
    "emg": Table(
        "[emg]",
        "How the EMG becomes envelopes; the same for all trials.",
        (
            Key("kind", "text", REQUIRED, '"raw" or "envelope"'),
            *(
                Key(name, kind, None, f"{text}; of raw EMG only", unit, f"{FILTERS[name]}".lower())
                for name, kind, text, unit in (
                    ("high_pass", "number", "high-pass cut-off", "Hz"),
                    ("low_pass", "number", "low-pass cut-off of its amplitude", "Hz"),
                    ("order", "whole number", "of the Butterworth filters", ""),
                    ("zero_lag", "true or false", "whether they run forwards and backwards", ""),
                    ("notch", "number", "mains frequency to remove", "Hz"),
                    ("amplitude", "text", "what is smoothed, one of " + _choice(AMPLITUDES), ""),
                    ("whiten", "true or false", "whether to whiten it first: less noise of chance", ""),
                    (
                        "noise_floor",
                        "true or false",
                        "whether to subtract the power of its quietest stretches; leave out unless every muscle rests",
                        "",
                    ),
                )
            ),
            Key(
                "rest",
                "table",
                {},
                "trial -> windows in which every recorded muscle is relaxed, `[[start, stop]]`, or true for all of it: "
                "where `whiten` and `noise_floor` measure the noise, better than in the quietest stretches",
                "s",
                "none",
            ),
            Key(
                "normalise",
                "text",
                None,
                "what becomes 1: " + "; ".join(f'"{name}": {words}' for name, words in NORMALISATIONS.items()),
                shown='"session" for raw EMG, "none" for envelopes',
            ),
            Key(
                "mvc",
                "table",
                {},
                'channel -> value at maximum voluntary contraction, for `normalise = "mvc"`',
                "the EMG's",
                "none",
            ),
            Key(
                "mvc_trials",
                "names",
                (),
                'maximal contractions, for `normalise = "mvc"`: trials by name, or files of EMG alone; each channel\'s '
                "reference is the largest of all that have it, and `mvc` goes before",
                shown="none",
            ),
            _of(EmgRecipe, "mvc_window", "over which the envelope's largest mean is taken there", "s"),
            Key(
                "limit_trials",
                "names",
                (),
                "trials whose EMG stands for excitations up to 1, such as heavier tasks: gains stay below "
                "one over each channel's 99th percentile there; their moments are not used, and need not be known",
                shown="none",
            ),
            _of(
                EmgRecipe,
                "baseline",
                "quantile of each channel in each trial that is subtracted as its resting level; "
                "leave out for tonic tasks",
                kind="number",
            ),
            _of(EmgRecipe, "clip", "whether what a filter left of an envelope below zero becomes zero"),
        ),
    ),
    "channels": Table(
        "[channels]",
        "EMG channel -> the muscles it drives, as a list or `{ muscle = weight }`. A muscle with two channels takes "
        "their weighted mean.",
        any_key="channel",
    ),
    "synergies": Table(
        "[synergies]",
        "Muscles without EMG follow synergies of the recorded ones. Without the table the model is EMG-driven.",
        (
            _of(SynergyPlan, "mode", f'one of {_choice(MODES)}; with "synergy_only" all muscles follow them'),
            _of(SynergyPlan, "number", "of synergies", kind="whole number", shown="the least that explains enough"),
            _of(SynergyPlan, "method", '"nmf" or "pca"'),
            _of(SynergyPlan, "total_vaf", "of all channels that the synergies are to explain"),
            _of(SynergyPlan, "channel_vaf", "of each channel that they are to explain"),
            _of(SynergyPlan, "restarts", "of the factorisation"),
            _of(SynergyPlan, "seed", "of the restarts"),
            Key(
                "muscles", "names", (), "that synergies drive", shown="all without a channel that are not named passive"
            ),
            _of(
                SynergyPlan,
                "residuals",
                "whether recorded muscles may leave their EMG; the report shows the moments with and without",
            ),
            Key(
                "tasks",
                "table",
                {},
                "trial -> task, where weights differ between tasks (a name per trial: between trials)",
                shown="none: the person's",
            ),
            _of(SynergyPlan, "weight", "that every driven muscle starts from, per command, with a flat prior"),
            _of(
                SynergyPlan,
                "prior",
                f'one of {_choice(PRIORS)}: "expected" is what synergists, effort and (with `gait`) timing suggest',
            ),
            _of(SynergyPlan, "tightness", "of an expected prior; 0.1 keeps its signals whatever the moments say"),
            _of(SynergyPlan, "gait", "whether timing of muscles in gait may be used"),
            _of(
                SynergyPlan,
                "profiles",
                "file, a table of other people's activity in gait, in place of published timing: `time` is per cent of "
                "the cycle from foot strike, every other column a muscle",
                kind="text",
            ),
        ),
    ),
    "groups": Table(
        "[groups]",
        'Name -> muscles or channels that share one value where `share = "groups"`: by default strength, shape factor '
        "and weight per synergy.",
        any_key="group",
    ),
    "start": Table(
        "[start]",
        "Values to start from other than the model's: parameter kind -> number, or `{ name = number }`. "
        '`file = "result.osimx"` takes those of the NMSM Pipeline, by muscle name.',
        any_key="kind",
    ),
    "free": Table(
        "[free.<kind>]",
        "What is fitted. By default: strength and shape factor (by group), optimal fiber length, tendon slack length, "
        "EMG gain, filter time constants and electromechanical delays (each its own, shrunk to a common one), change "
        "of optimal fiber length with activation, and the weights of synergies. With `[free]`, the kinds listed, each "
        "with these keys; `nms-gym reference` has the defaults of every kind. Where "
        f"EMG is normalised to maximal contractions, the prior of its gain is {MVC_GAIN_SD:g} wide.",
        (
            Key(
                "bounds",
                "numbers",
                None,
                "smallest and largest value: factors of the start where `relative`, else values",
                "1 or the kind's",
                "the kind's",
            ),
            Key(
                "prior_sd", "number", None, "standard deviation of the prior, likewise", "1 or the kind's", "the kind's"
            ),
            Key("relative", "true or false", None, "whether bounds and prior are factors", shown="the kind's"),
            Key("share", "text", None, 'who shares one value: "each", "groups" or "all"', shown="the kind's"),
            Key("only", "names", (), "entries that may change", shown="all"),
            Key(
                "correlation",
                "number",
                None,
                "of the prior between values of this kind: 0 each on its own, near 1 almost shared",
                shown="the kind's",
            ),
        ),
    ),
    "penalties": Table(
        "[penalties]",
        "How errors are weighed; the report shows what each term contributes.",
        (
            _of(
                Penalties,
                "moment_tolerance",
                "expected model error over each moment's standard deviation; smaller trusts the data more",
            ),
            _of(Penalties, "moment_bandwidth", "at which the measured moments were low-passed", "Hz"),
            _of(Penalties, "fiber_length_range", "normalised fiber lengths beyond which a smooth barrier rises"),
            _of(Penalties, "fiber_length_tolerance", "of that barrier"),
            _of(Penalties, "max_tendon_strain", "beyond which a smooth barrier rises"),
            _of(Penalties, "tendon_strain_tolerance", "of that barrier"),
            _of(
                Penalties,
                "effort_tolerance",
                "activation that a muscle which only synergies drive is not expected to exceed by much",
                kind="number",
                shown="off",
            ),
            _of(
                Penalties,
                "emg_tolerance",
                "excitation by which a recorded muscle that synergies drive too may leave its EMG",
                kind="number",
                shown="0.1 where there is one",
            ),
            _of(
                Penalties,
                "group_tolerance",
                "prior standard deviations by which members of a group may differ from their mean",
                kind="number",
                shown="off",
            ),
            _of(
                Penalties,
                "passive_tolerance",
                "expected error of passive moments",
                "N·m",
                kind="number",
                shown="5 where there are passive trials",
            ),
        ),
    ),
    "validation": Table(
        "[validation]",
        "Leaves training windows out in turn, and chooses the strength of the priors by it.",
        (
            _of(ValidationPlan, "by", f"what is left out: {_choice(WAYS)}", kind="text", shown="nothing"),
            Key("speeds", "table", {}, 'trial -> label of its speed or task, for `by = "speed"`', shown="none"),
            Key(
                "strengths",
                "list",
                None,
                "factors on the prior's precision to try",
                shown=", ".join(f"{s:g}" for s in ValidationPlan().strengths),
            ),
        ),
    ),
    "solver": Table(
        "[solver]",
        "How the problem is solved.",
        (
            _of(SolverOptions, "name", '"lm" (Levenberg-Marquardt), or "adam", "adabelief", "lion", "rmsprop"'),
            _of(SolverOptions, "starts", "solutions sought side by side; the best is taken"),
            _of(
                SolverOptions,
                "max_iterations",
                "at most so many",
                kind="whole number",
                shown='60 for "lm", 1000 for the others',
            ),
            _of(SolverOptions, "learning_rate", 'of all but "lm"', "prior sd"),
            _of(SolverOptions, "tolerance", "relative decrease of the cost below which a start is done"),
            _of(SolverOptions, "seed", "of the starts"),
            _of(SolverOptions, "polish", 'whether "lm" goes on where another solver ended'),
        ),
    ),
    "trials": Table(
        "[[trials]]",
        "One table per recording. Its motion comes from `kinematics`, from `[trials.arrays]`, or whole from "
        "`trial`. A trial that says nothing of windows is held out.",
        (
            Key("name", "text", None, "of the trial", shown="the file's name"),
            Key("train", "windows", (), "windows `[[start, stop], ...]` to fit, or `true` for all of it", "s", "none"),
            Key(
                "held_out",
                "windows",
                (),
                "windows to validate on, likewise; they may not overlap with `train`",
                "s",
                "none",
            ),
            Key("kinematics", "text", None, "coordinates over time: `.mot`, `.sto` or `.csv`"),
            Key("moments", "text", None, "measured joint moments, such as `nms-gym inverse-dynamics` writes", "N·m"),
            Key("emg", "text", None, "EMG over time"),
            Key(
                "muscle_analysis",
                "text",
                None,
                "folder of OpenSim's MuscleAnalysis; its lengths and moment arms are used as they are",
            ),
            Key("muscle_analysis_prefix", "text", None, "of the files in that folder", shown="found"),
            Key("arrays", "table", None, "`[trials.arrays]`"),
            Key("trial", "text", None, "a trial that a calibration saved (`trials/*.npz`), instead of all other files"),
            Key("q_cutoff", "number", None, "low-pass of the coordinates", "Hz"),
            Key("moment_cutoff", "number", None, "low-pass of the moments", "Hz"),
            Key("trim", "true or false", False, "whether to cut the trial to the time that all its files cover"),
            Key("synthetic", "true or false", False, "whether a model made the data; reports say so"),
            Key("targets", "table", {}, "`[trials.targets.<quantity>]`"),
        ),
    ),
    "target": Table(
        "[trials.targets.<quantity>]",
        "What was measured of single muscles in the trial, beside the moments: fiber lengths by ultrasound, say. The "
        "quantities are " + ", ".join(f"`{q}` ({QUANTITIES[q].unit})" for q in MUSCLE_OUTPUTS) + ".",
        (
            Key("file", "text", REQUIRED, "time and a column per muscle: `.csv`, `.sto` or `.mot`"),
            Key("tolerance", "number", REQUIRED, "expected error of model and measurement", "the quantity's"),
            Key("columns", "table", None, "muscle -> its column", shown="columns are named like muscles"),
        ),
    ),
    "arrays": Table(
        "[trials.arrays]",
        "An `.npz` file, and which of its arrays is what: role -> key in the file (a role of names may also be a "
        "list). SI units, radians, times first.",
        (
            Key("file", "text", REQUIRED, "the `.npz`"),
            *(
                Key(
                    role, "text or names", REQUIRED if role in ("time", "coordinates", "q") else None, text, unit, shown
                )
                for role, text, unit, shown in (
                    ("time", "(T,)", "s", ""),
                    ("coordinates", "D names", "", ""),
                    ("q", "(T, D) joint angles", "rad", ""),
                    ("qd", "(T, D) joint velocities", "rad/s", "derivative of `q`"),
                    ("channels", "C names", "", ""),
                    ("emg_time", "(E,)", "s", "`time`"),
                    ("emg", "(E, C)", "", ""),
                    ("moment_coordinates", "K names", "", "`coordinates`"),
                    ("moments", "(T, K)", "N·m", ""),
                    ("muscles", "M names", "", ""),
                    ("lengths", "(T, M) musculotendon lengths", "m", ""),
                    ("velocities", "(T, M)", "m/s", "derivative of `lengths`"),
                    ("moment_arms", "three axes", "m", ""),
                    (AXES, 'order of those axes, such as "time,coordinate,muscle"', "", ""),
                )
            ),
        ),
    ),
    "passive": Table(
        "[[passive]]",
        "Moments of relaxed muscles in slow motion, measured or from the literature: an `.npz` file and its arrays, "
        "with an optional axis of trials before the others.",
        (
            Key("file", "text", REQUIRED, "the `.npz`"),
            Key("coordinates", "text", REQUIRED, "K names"),
            Key("moments", "text", REQUIRED, "(T, K), not a number where unknown", "N·m"),
            Key("q", "text", None, "(T, K) joint angles, for a model with muscle paths", "rad"),
            Key("muscles", "text", None, "M names"),
            Key("lengths", "text", None, "(T, M)", "m"),
            Key("moment_arms", "text", None, "(T, K, M)", "m"),
        ),
    ),
    "dynamometer": Table(
        "[[dynamometer]]",
        "Moments of maximal contractions, which tell strength where EMG tells strength times gain: a `.csv` with a row "
        "per contraction. Its columns are `joint` (a coordinate), `moment` (N·m, how large), `direction` (`+` or "
        "`positive`: along the coordinate; `-` or `negative`), perhaps `velocity` of the joint (isokinetic; empty: "
        "isometric) and `tolerance` (N·m), and the angle of every coordinate of the muscle paths, by its name. A label "
        "may end in a unit, `elbow_flex (deg)`. Gravity is expected to be taken off.",
        (
            Key("file", "text", REQUIRED, "the `.csv`"),
            Key("angles", "text", "radians", 'unit of angles and velocities without one: "radians" or "degrees"'),
            Key("tolerance", "number", TOLERANCE, "expected error over the moment, where the file has none"),
            _of(
                Dynamometer,
                "shared",
                "part of these errors' variance that all contractions share: of effort, above all",
            ),
            _of(Dynamometer, "activation", "of the muscles that pull the joint's way; less where it was measured"),
            _of(Dynamometer, "coactivation", "activation of their antagonists"),
        ),
    ),
}
assert {key.name for key in TABLES["arrays"].keys} == {"file", *ROLES, AXES}
