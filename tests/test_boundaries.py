"""What may import what, what the public names are, and that importing changes nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import calibration
import nms_gym

PACKAGES = {"nms_gym": Path(nms_gym.__file__).parent, "calibration": Path(calibration.__file__).parent}

# From the bottom up: a layer imports from those above it in this list, and from itself.
LAYERS = (
    {"nms_gym.errors", "nms_gym._parameter", "nms_gym._assets"},
    {"nms_gym._pytree", "nms_gym._compilation"},
    {"nms_gym.anatomy"},
    {"nms_gym.recording"},
    {"nms_gym.excitation", "nms_gym.skeleton"},
    {"nms_gym.muscle"},
    {"nms_gym.model"},
    {"nms_gym.conditions"},
    {"nms_gym.files"},
    {"nms_gym.envs"},
    {"nms_gym.training"},
    {"nms_gym.pages"},
    {"nms_gym._registration", "nms_gym.__init__"},
    {"calibration.problem"},
    {"calibration.residuals"},
    {"calibration.solvers"},
    {"calibration.validation"},
    {"calibration.fitting"},
    {"calibration.cohort", "calibration.cross_validation"},
    {"calibration.excitations", "calibration.uncertainty"},
    {"calibration.synthetic"},
    {"calibration.ceinms", "calibration.report", "calibration.study"},
    {"calibration.__init__"},
    {"nms_gym._console"},
    {"nms_gym.cli_environments"},
    {"nms_gym.cli"},
)
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}


def modules() -> dict[str, Path]:
    """Dotted name -> file, of everything that is shipped."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            if "assets" not in path.relative_to(folder).parts:
                found[".".join((package, *path.relative_to(folder).with_suffix("").parts))] = path
    return found


MODULES = modules()


def imported(path: Path, *, late: bool = True) -> set[str]:
    """Modules, and names in them, that a file imports; without ``late`` those at its top level only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checked_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for statement in branch.body
        for node in ast.walk(statement)
    }
    names: set[str] = set()
    for node in ast.walk(tree) if late else tree.body:
        if id(node) in checked_only:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found = {f"{node.module}.{alias.name}" for alias in node.names}
            # ``from package import module`` asks nothing of the package itself.
            names |= found if found <= set(MODULES) else {str(node.module), *found}
    return names


def depends_on(path: Path, *, late: bool = True) -> set[str]:
    """Our own modules that a file imports."""
    return {n for n in imported(path, late=late) if n in MODULES or f"{n}.__init__" in MODULES}


def layer_of(module: str) -> str:
    """The entry of ``LAYERS`` that a module belongs to."""
    parts = module.split(".")
    return ".".join(parts[:2]) if len(parts) > 1 else f"{module}.__init__"


def importers(top: str) -> set[str]:
    return {name for name, path in MODULES.items() if any(n.split(".")[0] == top for n in imported(path))}


def run(code: str, *, cwd: Path) -> str:
    """A new interpreter's standard output; anything on standard error fails."""
    # Where the packages are; this process's own path may have folders with modules of the same names.
    places = [str(folder.parent) for folder in PACKAGES.values()]
    command = [sys.executable, "-W", "error", "-c", f"import sys; sys.path[:0] = {places!r}\n{code}"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


# ---- who imports whom ----


def test_the_search_for_imports_finds_them():
    assert len(MODULES) > 100
    assert "nms_gym.model.forward" in importers("jax")
    assert "calibration.fitting" in importers("nms_gym")
    assert "nms_gym.model.structure" in depends_on(MODULES["nms_gym.model.forward"])


def test_every_module_has_its_layer():
    missing = {layer_of(name) for name in MODULES} - set(HEIGHT)
    assert not missing


def test_no_module_imports_upward():
    """Late imports count too; only the command line reaches everything."""
    wrong = []
    for name, path in MODULES.items():
        own = HEIGHT[layer_of(name)]
        for other in depends_on(path):
            if other in ("nms_gym", "calibration"):
                continue  # a name of the package is found by the module that has it
            if HEIGHT[layer_of(other)] > own:
                wrong.append(f"{name} -> {other}")
    assert not wrong, "\n".join(sorted(wrong))


def test_no_cycle_between_modules():
    """Counting what is imported when a module is loaded."""
    graph = {}
    for name, path in MODULES.items():
        own = name.removesuffix(".__init__")
        graph[own] = {n for n in depends_on(path, late=False) if n != own}
    order: list[str] = []
    trail: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        trail.append(name)
        for other in sorted(graph[name]):
            visit(other)
        trail.pop()
        order.append(name)

    for name in sorted(graph):
        visit(name)
    assert len(order) == len(graph)


def test_only_the_command_line_imports_calibration():
    assert {n for n in importers("calibration") if n.startswith("nms_gym")} <= {"nms_gym.cli"}


def test_brax_is_imported_in_one_adapter():
    assert importers("brax") == {"nms_gym.envs.brax_env"}


def test_library_never_changes_global_settings():
    """``jax.config.update`` or an assignment to ``jax.config`` nowhere; x64 only as a context."""
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                assert not ast.unparse(node.func).endswith("config.update"), f"{path}:{node.lineno}"
            targets = getattr(node, "targets", [])
            assert not any("jax.config" in ast.unparse(t) for t in targets), f"{path}:{getattr(node, 'lineno', 0)}"


# ---- the front door ----


def test_importing_is_silent_light_and_changes_no_setting(tmp_path):
    output = run(
        "import logging, os, warnings\n"
        "before = list(logging.getLogger().handlers), list(warnings.filters), dict(os.environ)\n"
        "import nms_gym, calibration\n"
        "assert before == (list(logging.getLogger().handlers), list(warnings.filters), dict(os.environ))\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'jax', 'gymnasium', 'brax', 'opensim', 'matplotlib', 'optax', 'scipy'}, loaded\n"
        "ours = {name for name in sys.modules if name.startswith(('nms_gym.', 'calibration.'))}\n"
        "assert ours == {'nms_gym._registration'}, ours\n",
        cwd=tmp_path,
    )
    assert output == ""


@pytest.mark.parametrize("order", ["nms_gym, gymnasium", "gymnasium, nms_gym"])
def test_gymnasium_knows_the_environments_whichever_is_imported_first(order, tmp_path):
    output = run(
        f"import {order}\n"
        "print(len([i for i in gymnasium.registry if i.startswith('nms_gym/')]), len(sys.meta_path))\n"
        "from importlib.machinery import PathFinder\n"
        "assert all(type(f).__module__ != 'nms_gym._registration' for f in sys.meta_path)\n",
        cwd=tmp_path,
    )
    assert int(output.split()[0]) == len(nms_gym.TASKS)


def test_using_everything_changes_no_setting_of_jax(tmp_path):
    output = run(
        "import jax\n"
        "before, names = dict(jax.config.values), set(dir(jax))\n"
        "import nms_gym, calibration\n"
        "for package in (nms_gym, calibration):\n"
        "    for name in package.__all__: getattr(package, name)\n"
        "changed = {k for k, v in before.items() if jax.config.values[k] != v}\n"
        "assert not changed, changed\n"
        "assert set(dir(jax)) >= names\n"
        "assert 'brax' not in sys.modules\n",
        cwd=tmp_path,
    )
    assert output == ""


@pytest.mark.parametrize("package", [nms_gym, calibration])
def test_public_names(package):
    """Each is there, documented, no module (which would hide the name once it is imported), and found by completion."""
    for name in package.__all__:
        value = getattr(package, name)
        assert not isinstance(value, ModuleType), name
        assert name in dir(package)
        if callable(value):
            assert value.__doc__, name
    assert {name for name in MODULES if name.count(".") == 1} & {
        f"{package.__name__}.{name}" for name in package.__all__
    } == set()


def test_the_public_names_are_these():
    """A change here is a change of the interface: say it in the changelog."""
    assert sorted(nms_gym.__all__) == PUBLIC["nms_gym"].split()
    assert sorted(calibration.__all__) == PUBLIC["calibration"].split()


def test_version():
    assert nms_gym.__version__.count(".") == 2


PUBLIC = {
    "nms_gym": """
        ChannelMap Condition InputError Judge Kinematics ModelFile NmsEnv NmsModel NmsOutput NmsParams NmsState
        NmsVectorEnv Policy Recording Replay Segment Settings Step Subject Surroundings TASKS Task Trained
        TrainedRange Trial as_dtype asset_path builder compose departures episode_key film fit_paths
        initial_motion initial_state kinematics_at load_people load_policy load_quantities load_subject
        load_trial make_condition make_metabolic_params make_params make_passive make_recording make_segment
        make_skeleton make_task make_trial metabolic_rate model_from_osim motion_step moving_model
        neuromuscular_step play_actions play_policy predict_moments process_emg quantities read_model_file
        read_osim read_osimx register_task rigid_by_rule rollout saturation save_policy save_subject train
        trained_range write_model_file write_osim write_quantities
    """,
    "calibration": """
        Assistance CalibrationResult DEFAULT_FREE Discrepancy Dynamometer EmgRecipe Free Outcome PassiveRecording
        Penalties
        Posterior Prediction Problem Progress Scored SolverOptions Status Study Synergies SynergyPlan Target
        ValidationPlan add_expected_channels add_synergies assist bands calibrate calibrate_ceinms compare
        corrected_moments cross_validate default_free fit fit_cohort fit_discrepancy identifiability intervals laplace
        load_corrections make_study predict read_dynamometer read_study sample score tabulate write_predictions
        write_results
    """,
}
