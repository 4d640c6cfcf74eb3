"""Whatever is in a file, it is read or there is one ``InputError``: no other exception, no hang, bounded memory.

Every reader starts from a small valid file, which is then changed: bytes, lines, words, and the parts of documents and
archives. ``NMS_GYM_FUZZ=10000 pytest tests/test_fuzz.py -m slow`` tries that many files per reader;
``NMS_GYM_FUZZ_SEED`` chooses others.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import signal
import struct
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import ceinms_files
import numpy as np
import pytest
from helpers import REFERENCE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calibration.study.read import study_arguments
from calibration.uncertainty.discrepancy import Corrections, Discrepancy, load_corrections, save_corrections
from nms_gym._assets import asset_path
from nms_gym.errors import LONGEST_MESSAGE, InputError
from nms_gym.files.inspection import describe
from nms_gym.files.model_file import read_model_file
from nms_gym.files.policy import Policy, Shape, Weights, load_policy, save_policy
from nms_gym.files.posterior import load_people, save_people
from nms_gym.files.prediction import load_quantities, write_quantities
from nms_gym.files.subject import load_subject
from nms_gym.model.parameters import make_params
from nms_gym.model.quantities import Quantities, Quantity
from nms_gym.model.structure import NmsModel, Settings
from nms_gym.recording.arrays import read_arrays
from nms_gym.recording.ceinms import load_ceinms_trial, read_ceinms_excitations, read_ceinms_subject, read_ceinms_trial
from nms_gym.recording.ceinms_calibration import read_ceinms_calibration
from nms_gym.recording.external_loads import read_external_loads
from nms_gym.recording.function_based_paths import read_function_based_paths
from nms_gym.recording.muscle_analysis import read_muscle_analysis
from nms_gym.recording.nmsm import read_osimx
from nms_gym.recording.osim import read_osim
from nms_gym.recording.storage import read_coordinates, read_labels, read_moments, read_table, read_tables
from nms_gym.recording.trial import Trial, load_trial

# Files per reader in the suite, and in the long run that is asked for.
FEW, MANY = 40, int(os.environ.get("NMS_GYM_FUZZ", "0"))
SEED = os.environ.get("NMS_GYM_FUZZ_SEED", "0")
# s for one file, far more than any of these small ones takes; bytes that all of them together may ask for.
PATIENCE, MEMORY = 20, 3 * 2**30

MODEL = NmsModel(("a", "b"), (), ("x",), Settings(), np.array([[1.0], [0.0]]))
PERSON = make_params(MODEL, {"max_isometric_force": 500.0, "optimal_fiber_length": 0.1, "tendon_slack_length": 0.2})
KEYS = {"time": "time", "coordinates": "joints", "q": "q", "channels": "channels", "emg": "emg", "moments": "moments"}
GEOMETRY = {
    "muscles": "muscles",
    "lengths": "lengths",
    "moment_arms": "arms",
    "moment_arm_axes": "time,coordinate,muscle",
}

# --- valid files --------------------------------------------------------

STO = "walk\nversion=1\nnRows=4\nnColumns=4\ninDegrees=no\nendheader\ntime\tknee\thip_moment\t/j/hip/value\n" + "".join(
    f"{t / 100}\t{0.1 * t}\t{-t}\t{0.01 * t}\n" for t in range(4)
)
CSV = 'time,"soleus, left",hip\ns,uV,deg\n' + "".join(f"{t / 1000},{t},{-t / 3}\n" for t in range(5))
DELSYS = 'Label: 7\nX [s],"A: EMG [V]",X [s],"B: ACC [G]"\n0,1,0,5\n0.001,2,0.007,6\n0.002,3,,\n'
NEXUS = (
    "Devices\n1000\n,,Plate - Force,,EMG\nFrame,Sub Frame,Fx,Fx,Sol\n,,N,N,V\n1,0,1,2,3\n1,1,1,2,3\n\n"
    "Trajectories\n100\n,,p:LASI\nFrame,Sub Frame,X\n,,mm\n1,0,4\n2,0,5\n"
)
LOADS = (
    "<OpenSimDocument><ExternalLoads><objects><ExternalForce name='r'><applied_to_body>foot</applied_to_body>"
    "<force_expressed_in_body>ground</force_expressed_in_body><force_identifier>f</force_identifier>"
    "<point_identifier>p</point_identifier><torque_identifier>m</torque_identifier></ExternalForce></objects>"
    "<datafile>loads.sto</datafile></ExternalLoads></OpenSimDocument>"
)
LOADS_TABLE = (
    "endheader\n"
    + "\t".join(["time", *(f"{k}{a}" for k in "fpm" for a in "xyz")])
    + "\n"
    + "".join(f"{t / 100}\t0\t{400 * (t > 1)}\t0\t{'0.1' if t > 1 else 'NaN'}\t0\t0\t0\t0\t0\n" for t in range(5))
)
PATHS = (
    "<FunctionBasedPathSet><objects><FunctionBasedPath name='m'><coordinate_paths>/j/a /j/b</coordinate_paths>"
    "<length_function><MultivariatePolynomialFunction><dimension>2</dimension><order>1</order>"
    "<coefficients>0.1 0.2 0.3</coefficients></MultivariatePolynomialFunction></length_function></FunctionBasedPath>"
    "</objects></FunctionBasedPathSet>"
)
OSIMX = (
    "<NMSMPipelineDocument><OsimxModel name='m'><RCNLMuscleSet><RCNLMuscle name='a'><electromechanical_delay>0.5"
    "</electromechanical_delay><activation_time_constant>1.5</activation_time_constant></RCNLMuscle></RCNLMuscleSet>"
    "</OsimxModel></NMSMPipelineDocument>"
)
CALIBRATION = (
    "<calibration><algorithm><simulatedAnnealing><T>200000</T></simulatedAnnealing></algorithm><NMSmodel><type><openLoop/>"
    "</type><tendon><stiff/></tendon><activation><exponential/></activation></NMSmodel><calibrationSteps><step><dofs>knee"
    "</dofs><objectiveFunction><minimizeTorqueError/></objectiveFunction><parameterSet><parameter><name>c1</name><global/>"
    "<absolute><range>-0.9 -0.1</range></absolute></parameter></parameterSet></step></calibrationSteps><trialSet>a.xml"
    "</trialSet></calibration>"
)
CEINMS_TABLE = "endheader\ntime\ta\tb\tx\ty\n" + "".join(f"{t / 10}\t0.3\t0.3\t0.1\t0.2\n" for t in range(21))
ARMS_TABLE = CEINMS_TABLE.replace("\t0.3\t0.3", "\t0.03\t0.03")
METRICS = {"format": "nms_gym.metrics", "rows": [{"split": "train", "segment": "s", "rmse": 1.5, "r2": None}]}


def trial_bytes() -> bytes:
    time = np.arange(6) / 100
    trial = Trial("t", time, ("knee",), np.zeros((6, 1)), np.zeros((6, 1)), ("x",), time, np.full((6, 1), 0.5))
    geometry = {"muscles": ("a",), "lengths": np.full((6, 1), 0.3), "velocities": np.zeros((6, 1))}
    arms = {"moment_coordinates": ("knee",), "moments": np.ones((6, 1)), "moment_arms": np.full((6, 1, 1), 0.03)}
    return bytes_of(lambda path: Trial(**{**vars(trial), **geometry, **arms, "sources": {"a": "b"}}).save(path))


def arrays_bytes() -> bytes:
    time, one = np.arange(6) / 100, np.ones((6, 1))
    names = {"joints": np.array(["knee"]), "channels": np.array(["x"]), "muscles": np.array(["a", "b"])}
    tables = {"q": one, "emg": one, "moments": one, "lengths": np.ones((6, 2)), "arms": np.zeros((6, 1, 2))}
    return bytes_of(lambda path: np.savez(path, time=time, **names, **tables))


def prediction_bytes(folder: Path) -> bytes:
    names = {"coordinate": ("knee",), "muscle": ("a", "b")}
    values = {
        "moments": Quantity("moments", "N·m", ("time", "coordinate"), np.ones((5, 1))),
        "forces": Quantity("forces", "N", ("time", "muscle"), np.ones((5, 2))),
    }
    return write_quantities(folder, Quantities("t", np.arange(5.0), names, values), "t", "npz")[0].read_bytes()


def people_bytes() -> bytes:
    people = type(PERSON)(**{kind: np.stack([leaf] * 3) for kind, leaf in vars(PERSON).items()})
    return bytes_of(lambda path: save_people(path, MODEL, people, PERSON))


def corrections_bytes() -> bytes:
    points, names = np.zeros((4, 2)), np.array(["r"] * 4)
    found = Discrepancy(
        ("knee",), ("p", "q"), np.ones(2), points, names, np.zeros((4, 1)), np.ones(1), np.ones(1), 0.5, np.arange(4)
    )
    return bytes_of(lambda path: save_corrections(path, Corrections(found, PERSON, np.zeros((3, 4, 1)))))


def policy_bytes() -> bytes:
    one = np.ones(1, np.float32)
    layers = ((np.ones((2, 3), np.float32), np.zeros(3, np.float32)), (np.ones((3, 1), np.float32), one))
    weights = Weights(np.zeros(2, np.float32), np.ones(2, np.float32), layers)
    policy = Policy(weights, Shape(), "t", ("a", "b"), ("c",), -one, one, training={"seed": 1})
    return bytes_of(lambda path: save_policy(path, policy))


def bytes_of(write: Callable[[Path], Any]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        write(path)
        return path.read_bytes()


# --- readers ------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """A reader, the file that is changed, and how."""

    file: str
    kind: str
    """"text", "json", "xml", "npz" or "toml": what is known of its structure"""
    content: bytes
    read: Callable[[Path], Any]
    beside: tuple[tuple[str, str], ...] = ()
    """other files that it needs"""


def table_readers(path: Path) -> None:
    """All that is done with a table; each may refuse."""
    read_tables(path, may_lack=True)
    for read in (
        read_table,
        read_labels,
        lambda p: read_coordinates(p, ["knee", "hip"]),
        lambda p: read_moments(p, ["hip"]),
    ):
        with suppress(InputError):
            read(path)
    list(describe(path))


def both(read: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A reader, and ``inspect``, which must not know better."""

    def run(path: Path) -> None:
        with suppress(InputError):
            list(describe(path))
        read(path)

    return run


def loads_of(table: Path) -> None:
    read_external_loads(table.with_suffix(".xml"))


def analysis_of(lengths: Path) -> None:
    read_muscle_analysis(lengths.parent, ["knee"])


def ceinms_trial(path: Path) -> None:
    subject = read_ceinms_subject(path.parent / "subject.xml")
    excitations = read_ceinms_excitations(path.parent / "excitations.xml")
    load_ceinms_trial(read_ceinms_trial(path.parent / "trial.xml"), subject, excitations)


@pytest.fixture(scope="module")
def readers(tmp_path_factory) -> dict[str, Reader]:
    folder = tmp_path_factory.mktemp("valid")
    ceinms = (
        ("subject.xml", ceinms_files.SUBJECT),
        ("excitations.xml", ceinms_files.EXCITATIONS),
        ("trial.xml", ceinms_files.TRIAL),
        ("emg.sto", CEINMS_TABLE),
        ("ma.sto", ARMS_TABLE),
        ("in/lmt.sto", CEINMS_TABLE),
    )
    recordings = tuple((f"recording/reach_{i}.npz", "not opened here") for i in (1, 2, 3))
    analysis = (("w_Length.sto", CEINMS_TABLE), ("w_MomentArm_knee.sto", ARMS_TABLE))

    def text(file: str, kind: str, content: str, read: Callable[[Path], Any], beside: Any = ()) -> Reader:
        others = tuple((name, other) for name, other in beside if name != file)
        return Reader(file, kind, content.encode(), read, others)

    return {
        "sto": text("a.sto", "text", STO, table_readers),
        "csv": text("a.csv", "text", CSV, table_readers),
        "delsys": text("a.csv", "text", DELSYS, table_readers),
        "nexus": text("a.csv", "text", NEXUS, table_readers),
        "loads": text("loads.xml", "xml", LOADS, read_external_loads, [("loads.sto", LOADS_TABLE)]),
        "loads table": text("loads.sto", "text", LOADS_TABLE, loads_of, [("loads.xml", LOADS)]),
        "muscle analysis": text("w_Length.sto", "text", CEINMS_TABLE, analysis_of, analysis),
        "function paths": text("a.xml", "xml", PATHS, read_function_based_paths),
        "osimx": text("a.osimx", "xml", OSIMX, both(read_osimx)),
        "ceinms subject": text("subject.xml", "xml", ceinms_files.SUBJECT, ceinms_trial, ceinms),
        "ceinms excitations": text("excitations.xml", "xml", ceinms_files.EXCITATIONS, ceinms_trial, ceinms),
        "ceinms trial": text("trial.xml", "xml", ceinms_files.TRIAL, ceinms_trial, ceinms),
        "ceinms table": text("emg.sto", "text", CEINMS_TABLE, ceinms_trial, ceinms),
        "ceinms calibration": text("a.xml", "xml", CALIBRATION, read_ceinms_calibration),
        "osim": Reader("a.osim", "xml", (REFERENCE / "geometry.osim").read_bytes(), both(read_osim)),
        "subject": Reader("a.json", "json", asset_path("demo/subject.json").read_bytes(), both(load_subject)),
        "model": Reader("a.json", "json", asset_path("arm/model.json").read_bytes(), both(read_model_file)),
        "metrics": text("a.json", "json", json.dumps(METRICS), lambda p: list(describe(p))),
        "study": Reader("study.toml", "text", asset_path("demo/study.toml").read_bytes(), study_arguments, recordings),
        "trial": Reader("a.npz", "npz", trial_bytes(), both(load_trial)),
        "arrays": Reader("a.npz", "npz", arrays_bytes(), both(lambda p: read_arrays(p, {**KEYS, **GEOMETRY}))),
        "prediction": Reader("a.npz", "npz", prediction_bytes(folder), both(load_quantities)),
        "people": Reader("a.npz", "npz", people_bytes(), both(lambda p: load_people(p, MODEL, PERSON))),
        "discrepancy": Reader("a.npz", "npz", corrections_bytes(), both(lambda p: load_corrections(p, PERSON))),
        "policy": Reader("a.npz", "npz", policy_bytes(), both(load_policy)),
    }  # fmt: skip


READERS = (
    *("sto", "csv", "delsys", "nexus", "loads", "loads table", "muscle analysis", "function paths", "osimx", "osim"),
    *("ceinms subject", "ceinms excitations", "ceinms trial", "ceinms table", "ceinms calibration"),
    *("subject", "model", "metrics", "study", "trial", "arrays", "prediction", "people", "discrepancy", "policy"),
)

# --- changes ------------------------------------------------------------

WORDS = [
    *("nan", "-nan", "inf", "-1", "0", "1e999", "-1e308", "1e-320", "2.5", "1_000", "0x10", "1,5", "null", "true", "é"),
    *("", " ", "\t", '"', "'", "\x00", "\ufeff", "\u2028", "a b"),
    *("9" * 400, "-" + "9" * 5000, "x" * 20_000, "[" * 3000, "<a>" * 2000),
]
VALUES: tuple[Any, ...] = (
    *(None, True, [], {}, "", "x", -1, 0, 1, 2, 2.5, -1e308, 1e-320, 1e9, 2**40, 10**30, "9" * 400, "NaN"),
    *([[]], [None], ["x", "x"], {"x": 1}, [1, 2, 3], [[[[1]]]]),
)
ARRAYS: tuple[Any, ...] = (
    *(np.zeros(0), np.zeros((0, 3)), np.zeros((10**6, 0)), np.zeros((2,) * 14), np.arange(6)[:, None]),
    *(np.full((3, 1), np.nan), np.full((6, 1), np.inf), np.full((6, 1), 1e300), np.zeros((6, 1), np.float16)),
    *(np.zeros((6, 1), ">f8"), np.array(1), np.array(-1.5), np.array(np.nan), np.array([2**63], np.uint64)),
    *(np.array("x"), np.array(["x", "y"]), np.array([["x"]]), np.array(["x" * 5000]), np.array(["\x00a"])),
    *(np.array([b"x"]), np.array([1j]), np.array([True]), np.array(["2020-01-01"], "M8[D]")),
    np.array([("a", 1)], dtype=[("n", "U1"), ("v", "i4")]),
)
HEADERS = (
    *((b"<f8", b"|O"), (b"<f8", b"<U9999999"), (b"<f8", b"<f2"), (b"<f8", b"[('a','<f8')]"), (b"shape", b"shap")),
    *((b"(", b"(-"), (b"(", b"(9" + b"9" * 17 + b","), (b"(", b"(0, "), (b"{", b"{" * 500)),
    *((b"False", b"True"), (b"NUMPY\x01", b"NUMPY\x03")),
)


def changed_bytes(rng: random.Random, content: bytes) -> bytes:
    raw = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(raw) + 1)
        size = rng.choice((1, 1, 4, 40))
        match rng.randrange(6):
            case 0:
                raw[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del raw[at : at + size]
            case 2:
                raw[at:at] = bytes(rng.randrange(256) for _ in range(size))
            case 3:
                raw[at:at] = raw[at : at + size] * rng.choice((1, 3, 200))
            case 4:
                del raw[at:]
            case _:
                other = rng.randrange(len(raw) + 1)
                raw[at : at + size] = raw[other : other + size]
    return bytes(raw)


def changed_words(rng: random.Random, content: bytes) -> bytes:
    """Words, cells and lines put elsewhere, twice, out, or exchanged for odd ones."""
    parts = re.split(r"([\s,;<>\"'=\[\]{}:]+)", content.decode("utf-8", "replace"))
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(parts))
        match rng.randrange(5):
            case 0 | 1:
                parts[at] = rng.choice(WORDS)
            case 2:
                del parts[at : at + rng.choice((1, 2, 7))]
            case 3:
                parts[at:at] = parts[at : at + rng.choice((1, 2, 7, 30))]
            case _:
                other = rng.randrange(len(parts)) if parts else 0
                parts[at], parts[other] = parts[other], parts[at]
        parts = parts or [""]
    text = "".join(parts)
    encoding = rng.choice(("utf-8",) * 6 + ("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1"))
    return text.encode(encoding, "replace")


def changed_json(rng: random.Random, content: bytes) -> bytes:
    document = json.loads(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        holder: Any = document
        key: Any = None
        for _ in range(rng.randrange(1, 9)):
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = rng.choice(keys)
            if not isinstance(holder[key], dict | list) or not holder[key]:
                break
            if rng.random() < 0.15:
                break
            holder, key = holder[key], None
        if key is None:
            continue
        match rng.randrange(5):
            case 0 | 1:
                holder[key] = rng.choice(VALUES)
            case 2:
                del holder[key]
            case 3 if isinstance(holder, dict):
                holder[rng.choice(("x", "", key + "x", *list(holder)[:3]))] = holder.pop(key)
            case _ if isinstance(holder, list):
                holder.insert(key, holder[rng.randrange(len(holder))])
            case _:
                holder["x"] = holder[key]
    return json.dumps(document).encode()


def changed_xml(rng: random.Random, content: bytes) -> bytes:
    root = ElementTree.fromstring(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        elements = list(root.iter())
        one, other = rng.choice(elements), rng.choice(elements)
        match rng.randrange(8):
            case 0 | 1:
                one.text = rng.choice([word for word in WORDS if word.isprintable()])
            case 2 if len(one):
                one.remove(rng.choice(list(one)))
            case 3 if len(one):
                one.append(rng.choice(list(one)))
            case 4 if one not in list(other.iter()):
                one.append(other)
            case 5:
                one.tag = rng.choice(elements).tag
            case 6 if one.attrib:
                one.set(rng.choice(list(one.attrib)), rng.choice(("", "x", "a/b", "9" * 400)))
            case _:
                one.text, other.text = other.text, one.text
        if len(list(root.iter())) > 20_000:
            break
    return ElementTree.tostring(root)


def changed_npz(rng: random.Random, content: bytes) -> bytes:
    """Arrays exchanged, left out, renamed, or with other headers."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for _ in range(rng.choice((1, 1, 2, 4))):
        name = rng.choice(list(members))
        match rng.randrange(7):
            case 0 | 1 | 2:
                stream = io.BytesIO()
                np.save(stream, rng.choice(ARRAYS))
                members[name] = stream.getvalue()
            case 3:
                old, new = rng.choice(HEADERS)
                members[name] = members[name].replace(old, new, 1)
            case 4:
                members[name] = members.pop(rng.choice(list(members)))
            case 5:
                members[name] = changed_bytes(rng, members[name])
            case _:
                members[rng.choice(("x.npy", "q", "names of x.npy", "../x.npy", "é.npy"))] = members[name]
    stream = io.BytesIO()
    with zipfile.ZipFile(
        stream, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    ) as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)
    return stream.getvalue()


STRUCTURES = {"json": changed_json, "xml": changed_xml, "npz": changed_npz}


def changed(reader: Reader, rng: random.Random) -> bytes:
    ways = [changed_bytes, changed_bytes if reader.kind == "npz" else changed_words]
    ways += [STRUCTURES[reader.kind]] * 3 if reader.kind in STRUCTURES else [changed_words]
    return rng.choice(ways)(rng, reader.content)


# --- limits -------------------------------------------------------------


class TookTooLong(BaseException):
    """Not an ``Exception``, so that no reader takes it for a fault of the file."""


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    """What a reader asks for beyond this is a ``MemoryError``, which is no ``InputError``."""
    resource = pytest.importorskip("resource")
    used = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if os.path.exists("/proc") else 0
    )
    if not used:
        pytest.skip("this system does not say how much memory is used")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def strange(readers, tmp_path):
    """Reads changed files; returns how many were read and refused, and what was neither."""

    def run(name: str, count: int, most: int = 5) -> tuple[Counter[str], list[str]]:
        reader = readers[name]
        for beside, text in reader.beside:
            (tmp_path / beside).parent.mkdir(exist_ok=True)
            (tmp_path / beside).write_text(text)
        path = tmp_path / reader.file
        path.write_bytes(reader.content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            reader.read(path)  # as it is, it can be read
            outcomes: Counter[str] = Counter()
            faults: list[str] = []
            for i in range(count):
                seed = f"{SEED} {name} {i}"
                content = changed(reader, random.Random(seed))
                path.write_bytes(content)
                try:
                    with patience(PATIENCE):
                        reader.read(path)
                    outcomes["read"] += 1
                except InputError as error:
                    outcomes["refused"] += 1
                    if len(str(error)) > LONGEST_MESSAGE or not str(error).isprintable():
                        faults.append(f"{seed}: message {str(error)[:200]!r}")
                except BaseException as error:
                    if isinstance(error, KeyboardInterrupt):
                        raise
                    faults.append(f"{seed}: {type(error).__name__}: {str(error)[:200]}")
                if len(faults) >= most:
                    break
        return outcomes, faults

    return run


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers")
@pytest.mark.parametrize("name", READERS)
def test_changed_files_are_read_or_refused(strange, bounded_memory, name):
    outcomes, faults = strange(name, FEW)
    assert not faults, "\n".join(faults)
    assert outcomes["refused"] > FEW // 10


@pytest.mark.slow
@pytest.mark.skipif(not MANY, reason="takes minutes per reader; set NMS_GYM_FUZZ to the number of files")
@pytest.mark.parametrize("name", READERS)
def test_very_many_changed_files(strange, bounded_memory, name, capsys):
    outcomes, faults = strange(name, MANY)
    with capsys.disabled():
        print(f"\n{name}: {outcomes['read']} read, {outcomes['refused']} refused, {len(faults)} faults", end=" ")
    assert not faults, "\n".join(faults)


# --- files from nothing -------------------------------------------------

CELLS = st.one_of(
    st.floats().map(repr),
    st.integers().map(str),
    st.sampled_from([w for w in WORDS if len(w) < 1000]),
    st.text(max_size=8),
)
QUICK = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@QUICK
@given(
    rows=st.lists(st.lists(CELLS, min_size=1, max_size=5), max_size=8),
    labels=st.lists(st.sampled_from(["time", "X [s]", "Frame", "Sub Frame", "hip (deg)", '"a', "t (ms)"]), max_size=5),
    mark=st.sampled_from([",", "\t", ";", " ", "  "]),
    header=st.sampled_from(["", "endheader\n", "inDegrees=yes\nendheader\n", "Devices\n100\n,,a\n"]),
)  # fmt: skip
def test_tables_of_any_cells(tmp_path, rows, labels, mark, header):
    text = header + "\n".join(mark.join(row) for row in [labels, *rows])
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            found = read_tables(path)
        except InputError:
            return
    for table in found:
        assert np.isfinite(table.time).all()
        assert np.isfinite(table.data).all()
        assert (np.diff(table.time) > 0).all()
        assert table.data.shape == (len(table.time), len(table.labels))


DOCUMENTS = st.recursive(
    st.sampled_from(VALUES) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@QUICK
@given(
    document=st.dictionaries(
        st.sampled_from(["muscles", "channels", "settings", "parameters", "rows", "paths", "skeleton", "name"]),
        DOCUMENTS,
    ),
    kind=st.sampled_from(["nms_gym.subject", "nms_gym.model", "nms_gym.metrics", None, 3]),
    version=st.sampled_from([1, 2, "1", None, [1]]),
)
def test_documents_of_any_values(tmp_path, document, kind, version):
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps({**document, "format": kind, "version": version}), encoding="utf-8", errors="surrogatepass"
    )
    for read in (load_subject, read_model_file, lambda p: list(describe(p))):
        with suppress(InputError):
            read(path)


@QUICK
@given(header=st.binary(max_size=60), shape=st.lists(st.integers(-2, 2**64), max_size=4), body=st.binary(max_size=40))
def test_archives_of_any_headers(tmp_path, header, shape, body):
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {(*shape,)!r}}}".encode()
    raw = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + len(header)) + text + header + body
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("format.npy", raw)
    with suppress(InputError):
        list(describe(path))
