"""Personalise, then train: does a controller trained on the calibrated person serve the patient better?

    python examples/benchmarks/personalisation.py [--json FILE] [--quick] [--seeds N]

Twelve hidden patients (``personalisation_patients.py``) are recorded, calibrated and controlled. Nothing of them is
known but the recordings: raw EMG with noise, motion, and moments with 5 % noise. Controllers are trained on

* ``generic``: the model as published, with a delay of 30 ms;
* ``session``: the person calibrated on EMG that is normalised to the session's own maximum, gain and strength free;
* ``posterior``: everybody who fits as well, one at random in every episode;
* ``maximal``: calibrated with maximal efforts (EMG normalised to them, gain fixed, their moments fitted) and a
  recording of light ones;
* ``oracle``: the hidden person.

and tested on the hidden patient, all on the same episodes. Tasks:

* ``reach``: ElbowReach, by feedback; forgiving, since feedback takes out what the model has wrong;
* ``reach, EMG``: the same with actions in units of EMG, which act through the calibrated gains;
* ``loaded``: as ``reach`` with 2 kg in the hand of a weak arm;
* ``assist``: ElbowAssist, a motor helps muscles that the patient's own EMG drives, impaired as by default;
* ``stimulate``: FesElbow, stimulation follows an angle with little charge, 4 s;
* ``feed-forward``: excitations found by gradient through the rollout, played without feedback: degrees off in the end.

The person is an argument of the compiled program, and one batch trains all of them at once. Differences are against
``generic``, paired by patient (seeds and episodes averaged); their intervals are bootstrapped over the patients.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np

# Scripts beside this one are named like the package; Python would find them first.
HERE = Path(__file__).resolve().parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE] + [str(HERE), str(HERE.parent)]

PATIENTS, QUICK_PATIENTS = 12, 3
EPISODES, RESAMPLES = 32, 4000
LOAD = 2.0
LONGEST_DELAY = 0.2
"""s, that the programs remember"""
PEOPLE = ("generic", "session", "posterior", "maximal")
"""who is trained on and has the calibration's muscle curves; the oracle has the patient's"""
ROWS = (*PEOPLE, "oracle")
HEADER = ["task", "trained on", "return (degrees)", "success", "against generic (95 %)", "patients better"]


@dataclass(frozen=True)
class Study:
    """One task of the study."""

    name: str
    id: str
    iterations: int
    options: dict[str, Any]
    person: str = "arm"
    """whose file: with a load in the hand or not"""
    settings: tuple[tuple[str, Any], ...] = ()


FAST = (("episodes", 16), ("window", 25), ("hidden", (32, 32)), ("learning_rate", 5e-3))
STUDIES = (
    Study("assist", "ElbowAssist-v0", 80, {"seconds": 2.0}),
    Study("reach", "ElbowReach-v0", 100, {}),
    Study("reach, EMG", "ElbowReach-v0", 100, {"action_units": "emg"}),
    Study("loaded", "ElbowReach-v0", 100, {}, "loaded"),
    Study("stimulate", "FesElbow-v0", 80, {"seconds": 4.0}),
)


# --- people ----------------------------------------------------------------------------------------------------------


def files_of(patients: Sequence[Any], folder: Path) -> tuple[dict[str, dict[str, list[dict[str, Any]]]], list[Any]]:
    """Kind of body -> who -> options of an environment for each patient; and rows on the calibrations."""
    import personalisation_patients as made

    model, params, skeleton, _ = made.generic()
    params = made.dataclasses.replace(
        params, electromechanical_delay=np.full(len(model.channels), made.POPULATION_DELAY)
    )
    found = made.calibrated(patients)
    options: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for body, load in (("arm", 0.0), ("loaded", LOAD)):
        carried = made.loaded(skeleton, load)
        nobody = made.save_person(folder, f"{body}-generic", model, params, carried)
        options[body] = {"generic": [nobody] * len(patients)}
        for name, source, crowd in (("session", "session", 0), ("posterior", "session", 1), ("maximal", "maximal", 0)):
            options[body][name] = [
                made.save_person(
                    folder, f"{body}-{name}-{p.seed}", model, found[source][i][0], carried,
                    found[source][i][1] if crowd else None,
                )
                for i, p in enumerate(patients)
            ]  # fmt: skip
        # EMG is in units of a maximal effort, which is less than all of the muscle.
        options[body]["oracle"] = [
            made.save_person(
                folder, f"{body}-oracle-{p.seed}", p.model,
                made.dataclasses.replace(p.params, emg_gain=np.full(len(p.model.channels), p.effort)),
                made.loaded(p.skeleton, load),
            )
            for p in patients
        ]  # fmt: skip
    rows = [
        [
            p.seed, p.effort, 1e3 * float(p.params.electromechanical_delay[0]), made.strength_error(params, p.params),
            *(made.strength_error(found[k][i][0], p.params) for k in found),
        ]
        for i, p in enumerate(patients)
    ]  # fmt: skip
    return options, rows


def stacked(tasks: Sequence[Any]) -> Any:
    """Tasks of several people as one, float32, with a leading axis; what differs in nothing but numbers."""
    import jax
    import jax.numpy as jnp

    from nms_gym.envs.task import as_dtype

    delay = LONGEST_DELAY
    assert all(t.limb.model.settings.max_delay <= delay for t in tasks)

    def alike(task: Any) -> Any:
        model = task.limb.model
        settings = _replace(model.settings, max_delay=delay)
        task = _replace(task, limb=_replace(task.limb, model=_replace(model, settings=settings), undelayed=False))
        if not hasattr(task.actuation, "commands"):
            return task
        # Gains are numbers by now: what the units are called would only compile the same program again.
        return _replace(task, actuation=_replace(task.actuation, action_units="excitation"))

    alike_tasks = [alike(t) for t in tasks]
    return as_dtype(jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *alike_tasks), jnp.float32)


def _replace(thing: Any, **changes: Any) -> Any:
    from nms_gym._pytree import replace

    return replace(thing, **changes)


# --- training and testing -------------------------------------------------------------------------------------------


def trained(study: Study, tasks: Any, count: int, seed: int, iterations: int) -> Any:
    """Policies ``(count, ...)``, one for each person; one compiled program improves all of them at once."""
    import jax

    from nms_gym.training.analytic import Analytic, AnalyticSettings

    first = jax.tree.map(lambda x: x[0], tasks)
    bounds = [tuple(np.asarray(b, float).tolist()) for b in first.action_bounds]
    trainer = Analytic(AnalyticSettings(**{**dict(FAST), **dict(study.settings)}), iterations, first.horizon, *bounds)
    learning, improve = begun(trainer, tasks, count, seed), improver(trainer)
    for _ in range(iterations):
        learning, numbers = improve(tasks, learning)
    assert np.isfinite(np.asarray(numbers["reward"])).all()
    return jax.vmap(trainer.weights)(learning)


@functools.cache
def improver(trainer: Any) -> Any:
    import jax

    from nms_gym._compilation import fast_compilation

    return jax.jit(jax.vmap(trainer.improve), compiler_options=fast_compilation())


def begun(trainer: Any, tasks: Any, count: int, seed: int) -> Any:
    """The same first policy and the same random numbers for everybody."""
    import jax
    import jax.numpy as jnp

    one = trainer.begin(jax.tree.map(lambda x: x[0], tasks), seed)
    learning = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), one)
    # Everybody begins as themselves: episodes with no window left start anew.
    return _replace(learning, windows_left=jnp.zeros_like(learning.windows_left))


def scores(policies: Any, tasks: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean return and success ``(K, N)`` of K policies for each of N people, on the same episodes."""
    import jax

    low, high = (np.asarray(b, np.float32) for b in jax.tree.map(lambda x: x[0], tasks).action_bounds)
    returns, success = scorer()(policies, tasks, low, high)
    return np.asarray(returns, float), np.asarray(success, float)


@functools.cache
def scorer() -> Any:
    import jax
    import jax.numpy as jnp

    from nms_gym._compilation import fast_compilation
    from nms_gym.envs.task import episode_key, play_score
    from nms_gym.files.policy import answer
    from nms_gym.training.analytic import SHAPE
    from nms_gym.training.judging import TEST_SEED

    def one(weights: Any, task: Any, low: Any, high: Any) -> tuple[Any, Any]:
        act = lambda observation, key: answer(weights, SHAPE, observation, low, high)  # noqa: E731
        seeds = jnp.uint32(TEST_SEED) + jnp.arange(EPISODES, dtype=jnp.uint32)
        returns, success = jax.vmap(lambda s: play_score(task, act, episode_key(s)))(seeds)
        return jnp.mean(returns), jnp.mean(success)

    inner = jax.vmap(one, in_axes=(0, 0, None, None))
    return jax.jit(jax.vmap(inner, in_axes=(0, None, None, None)), compiler_options=fast_compilation())


def study_rows(study: Study, options: Any, trials: Any, seeds: Sequence[int], iterations: int) -> dict[str, Any]:
    """Return and success ``(seeds, people, patients)``."""
    import jax

    from nms_gym.envs import make_task

    def made(who: str, kind: str) -> list[Any]:
        given = options[study.person][who]
        replay = [{"trial": t[kind]} if study.id == "ElbowAssist-v0" else {} for t in trials]
        return [make_task(study.id, **g, **r, **study.options) for g, r in zip(given, replay, strict=True)]

    count = len(trials)
    everyone = {who: made(who, "seen") for who in PEOPLE}
    same = study.id != "ElbowAssist-v0"  # without recordings nobody's generic person differs
    if same:
        everyone["generic"] = everyone["generic"][:1]
    guessed = stacked([t for tasks in everyone.values() for t in tasks])
    known, hidden = stacked(made("oracle", "known")), stacked(made("oracle", "test"))
    sizes = [len(tasks) for tasks in everyone.values()]
    found = []
    for seed in seeds:
        weights = trained(study, guessed, sum(sizes), seed, iterations)
        parts = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
        rows = [np.resize(part, count) for part in parts]
        best = trained(study, known, count, seed, iterations)
        policies = jax.tree.map(
            lambda x, y, rows=rows: np.stack([*(np.asarray(x)[r] for r in rows), np.asarray(y)]), weights, best
        )
        found.append(scores(policies, hidden))
    return {"return": np.array([f[0] for f in found]), "success": np.array([f[1] for f in found])}


# --- without feedback -----------------------------------------------------------------------------------------------

GOALS, KNOTS, SECONDS, END, STEPS, SEVERAL = 6, 8, 1.0, 0.2, 60, 3


def feed_forward(options: Any, seeds: Sequence[int]) -> np.ndarray:
    """Degrees off in the last ``END`` s ``(seeds, people, patients)``: a mean over goals."""
    import jax
    import jax.numpy as jnp
    import optax

    from nms_gym._compilation import fast_compilation
    from nms_gym.envs import make_task
    from nms_gym.envs.task import episode_key, play_actions

    def made(who: str) -> list[Any]:
        return [make_task("ElbowReach-v0", **o, seconds=SECONDS) for o in options["arm"][who]]

    count = len(options["arm"]["oracle"])

    def first(task: Any, people: int) -> Any:
        return _replace(task, limb=_replace(task.limb, people=task.limb.people[..., :people, :]))

    def error(task: Any, knots: Any, key: Any) -> tuple[Any, Any]:
        at = jnp.linspace(0.0, KNOTS - 1.0, task.horizon)
        u = jax.vmap(lambda column: jnp.interp(at, jnp.arange(KNOTS, dtype=at.dtype), column), 1, 1)(
            jax.nn.sigmoid(knots)
        )
        _, info = play_actions(task, u, key)
        miss = jnp.degrees(info["q"][:, 0] - info["target"][:, 0])
        return miss[-round(END / task.dt) :], u

    def found(task: Any, keys: Any) -> Any:
        """Excitations of every goal, the best on average over the people that the person may be."""

        def cost(knots: Any, key: Any) -> Any:
            def of(row: Any) -> Any:
                one = _replace(task, limb=_replace(task.limb, people=row[None]))
                end, u = error(one, knots, key)
                return jnp.mean(jnp.sqrt(end**2 + 1.0)) + 0.5 * jnp.mean(u**2)

            return jnp.mean(jax.vmap(of)(task.limb.people))

        adam = optax.adam(optax.cosine_decay_schedule(0.2, STEPS))
        begin = jnp.full((len(keys), KNOTS, len(task.action_names)), -2.0)

        def step(carry: Any, _: Any) -> tuple[Any, None]:
            knots, memory = carry
            gradient = jax.vmap(jax.grad(cost))(knots, keys)
            size = jnp.sqrt(jnp.sum(gradient**2, axis=(1, 2), keepdims=True))
            gradient = jnp.where(jnp.isfinite(size), gradient / jnp.maximum(size, 1e-6), 0.0)
            updates, memory = adam.update(gradient, memory)
            return (optax.apply_updates(knots, updates), memory), None

        return jax.lax.scan(step, (begin, adam.init(begin)), None, length=STEPS)[0][0]

    def off(task: Any, knots: Any, keys: Any) -> Any:
        return jnp.mean(jax.vmap(lambda k, key: jnp.mean(jnp.abs(error(task, k, key)[0])))(knots, keys))

    quick = fast_compilation()
    solve = jax.jit(jax.vmap(found, in_axes=(0, None)), compiler_options=quick)
    test = jax.jit(jax.vmap(off, in_axes=(0, 0, None)), compiler_options=quick)
    single = stacked([t for who in ("session", "maximal") for t in made(who)] + made("generic")[:1])
    single, crowd, hidden = (
        first(tasks, n)
        for tasks, n in ((single, 1), (stacked(made("posterior")), SEVERAL), (stacked(made("oracle")), 1))
    )
    rows = []
    for seed in seeds:
        keys = jnp.stack([episode_key(jnp.uint32(1000 * seed + i)) for i in range(GOALS)])
        one = np.asarray(solve(single, keys))
        found_by = {
            "generic": np.repeat(one[-1:], count, axis=0),
            "session": one[:count],
            "posterior": np.asarray(solve(crowd, keys)),
            "maximal": one[count : 2 * count],
            "oracle": np.asarray(solve(hidden, keys)),
        }
        rows.append([np.asarray(test(hidden, found_by[who], keys)) for who in ROWS])
    return np.array(rows, float)


# --- tables ----------------------------------------------------------------------------------------------------------


def summary(name: str, values: np.ndarray, success: np.ndarray | None) -> list[list[Any]]:
    """A row per person trained on: mean, and its difference to the generic one with an interval over patients."""
    by_patient = values.mean(axis=0)
    rng = np.random.default_rng(0)
    count = by_patient.shape[1]
    draws = rng.integers(count, size=(RESAMPLES, count))
    rows = []
    for i, who in enumerate(ROWS):
        difference = by_patient[i] - by_patient[0]
        low, high = np.quantile(difference[draws].mean(axis=1), (0.025, 0.975))
        better = int(np.sum(difference < 0 if success is None else difference > 0))
        shown = "" if i == 0 else f"{difference.mean():+.1f} ({low:+.1f} to {high:+.1f})"
        rate = "" if success is None else f"{success[:, i].mean():.0%}"
        rows.append([name, who, f"{by_patient[i].mean():.1f}", rate, shown, "" if i == 0 else f"{better}/{count}"])
    return rows


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="names of tasks")
    given = parser.parse_args()
    import jax
    import personalisation_patients as made

    count = QUICK_PATIENTS if given.quick else PATIENTS
    seeds = range(1 if given.quick else given.seeds)
    began = time.process_time()
    spent: dict[str, float] = {}
    table: list[list[Any]] = []
    record: dict[str, Any] = {}

    def lap(name: str) -> None:
        spent[name] = time.process_time() - began - sum(spent.values())
        print(f"{name}: {spent[name]:.0f} CPU s", flush=True)

    chosen = given.only or ["feed-forward", *(s.name for s in STUDIES if not given.quick)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        patients = [made.make_patient(seed) for seed in range(count)]
        lap("recordings")
        options, rows = files_of(patients, folder)
        lap("calibration")
        header = ["patient", "effort", "delay, ms", "strength: generic", "session", "maximal"]
        print("Error of strength, root mean square of its logarithm\n" + common.table(header, rows), flush=True)
        record["patients"] = rows
        trials: list[Any] = [{}] * count
        if "assist" in chosen:
            trials = [made.lifts(p, folder) for p in patients]
            lap("lifts")
        with jax.enable_x64(False):
            if "feed-forward" in chosen:
                degrees = feed_forward(options, seeds)
                table += summary("feed-forward, degrees off", degrees, None)
                record["feed-forward"] = degrees.tolist()
                print(common.table(HEADER, table[-5:]), flush=True)
                lap("feed-forward")
            for study in STUDIES:
                if study.name in chosen:
                    iterations = study.iterations // (2 if given.quick else 1)
                    found = study_rows(study, options, trials, seeds, iterations)
                    table += summary(study.name, found["return"], found["success"])
                    record[study.name] = {k: v.tolist() for k, v in found.items()}
                    print(common.table(HEADER, table[-5:]), flush=True)
                    lap(study.name)
    print(f"{count} patients, {len(seeds)} seeds, {EPISODES} episodes each")
    print(common.table(HEADER, table))
    print({k: round(v) for k, v in spent.items()}, f"in all {time.process_time() - began:.0f} CPU s")
    print(common.machine())
    common.write(given.json, {"rows": ROWS, "seeds": len(seeds), "cpu_seconds": spent, **record})


if __name__ == "__main__":
    main()
