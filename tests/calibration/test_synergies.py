"""Synergies: extraction, what they excite, their part of the objective, their file, and their environment."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import arm_model, arm_params, reach

from calibration.excitations.synergies import add_synergies, extract, vaf, without_residuals
from calibration.fitting import cost_by_block, fit
from calibration.problem import DEFAULT_FREE, Free, Penalties, Problem, make_layout, params_at
from calibration.residuals import make_data, make_objective
from nms_gym.envs.gymnasium_env import NmsEnv
from nms_gym.envs.moment_tracking import moment_tracking_task
from nms_gym.envs.sources import SourceOptions
from nms_gym.envs.task import play_actions
from nms_gym.errors import InputError
from nms_gym.excitation import activation as act
from nms_gym.excitation.synergies import make_basis
from nms_gym.files.subject import Subject, load_subject, save_subject
from nms_gym.model.forward import muscle_excitation
from nms_gym.model.parameters import entries, make_params
from nms_gym.model.replay import make_segment, predict_moments

# BRA has no channel.
CHANNELS = ("TRI", "BIC", "BSH")
DRIVEN = ({"TRIlong": 1.0, "TRIlat": 1.0, "TRImed": 1.0}, {"BIClong": 1.0}, {"BICshort": 1.0})
MIXING = np.array([[0.9, 0.1, 0.2], [0.05, 0.8, 0.5]])
GROUPS = {"triceps": ("TRIlong", "TRIlat", "TRImed"), "biceps": ("BIClong", "BICshort")}


arm = partial(arm_model, dict(zip(CHANNELS, DRIVEN, strict=True)))
# Mixtures of two commands.
recording = partial(reach, CHANNELS, seconds=0.5, mixing=MIXING)


def hybrid(residuals=False, only=False, **settings):
    """Model, start, tracked weights: two synergies of two recordings."""
    model = arm(**settings)
    found = extract([recording(0).emg, recording(1).emg], CHANNELS, number=2)
    return add_synergies(model, arm_params(model), found.basis, residuals=residuals, only=only)


# ---- extraction ----


def test_recovers_what_the_channels_are_made_of():
    """Exact mixtures of two commands are explained by two synergies, with the same vectors up to scale and order."""
    rng = np.random.default_rng(4)
    truth = np.array([[1.0, 0.0, 0.6, 0.1], [0.0, 0.8, 0.2, 0.9]])
    # Separable: each command is alone at some time, and one channel belongs to each, so the factors are unique.
    h = np.abs(rng.standard_normal((400, 2))) * (rng.random((400, 2)) < 0.6)
    found = extract([h[:200] @ truth, h[200:] @ truth], "abcd")
    assert len(found.basis.names) == 2
    assert found.total_vaf > 0.9999
    assert found.vaf_by_count[0] < 0.9
    vectors = np.asarray(found.basis.vectors)
    shape = vectors / vectors.max(axis=0)
    expected = (truth / truth.max(axis=1, keepdims=True)).T
    order = [0, 1] if np.abs(shape - expected).max() < 0.05 else [1, 0]
    np.testing.assert_allclose(shape[:, order], expected, atol=0.02)
    commands = found.basis.commands(h @ truth)
    assert commands.min() >= 0
    assert commands.max(axis=0) == pytest.approx(1.0, abs=1e-6)  # scaled to the largest
    np.testing.assert_allclose(commands @ vectors.T, h @ truth, atol=0.02)


def test_number_by_rule_and_by_wish():
    rng = np.random.default_rng(0)
    e = np.abs(rng.standard_normal((300, 5)))
    strict = extract([e], "abcde", total_vaf=0.999)
    loose = extract([e], "abcde", total_vaf=0.6, channel_vaf=0.0)
    assert len(strict.basis.names) == 5 > len(loose.basis.names)
    assert list(strict.vaf_by_count) == sorted(strict.vaf_by_count)
    assert len(extract([e], "abcde", number=3).basis.names) == 3
    again = extract([e], "abcde", number=3)
    np.testing.assert_array_equal(again.basis.vectors, extract([e], "abcde", number=3).basis.vectors)  # seeded


def test_vaf_by_hand():
    total, each = vaf(np.array([[1.0, 2.0], [1.0, 0.0]]), np.array([[1.0, 1.0], [0.0, 0.0]]))
    assert total == pytest.approx(1 - 2 / 6)
    np.testing.assert_allclose(each, [0.5, 0.75])


def test_principal_components_explain_at_least_as_much():
    """Singular vectors are the best of any rank, so no non-negative factors explain more (Eckart & Young 1936)."""
    e = np.abs(np.random.default_rng(2).standard_normal((200, 5)))
    pca, nmf = (extract([e], "abcde", number=2, method=m) for m in ("pca", "nmf"))
    assert pca.total_vaf > nmf.total_vaf
    assert pca.basis.signed
    assert np.asarray(pca.basis.vectors).min() < 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number": 4}, "number is 4; expected 1 to 3"),
        ({"number": 0}, "number is 0; expected 1 to 3"),
        ({"method": "ica"}, "method is 'ica'"),
        ({"envelopes": []}, "nothing to extract from"),
        ({"envelopes": [np.array([[1.0, -0.1, 1.0]])]}, "'BIC' is -0.1 at row 0"),
        ({"envelopes": [np.array([[1.0, 0.0, 1.0], [1.0, 0.0, 0.5]])]}, "'BIC' is silent"),
        ({"envelopes": [np.ones((4, 2))]}, "2 columns, but 3 channels"),
    ],
)
def test_what_cannot_be_extracted(options, message):
    given = {"envelopes": [recording().emg], **options}
    envelopes = given.pop("envelopes")
    with pytest.raises(InputError, match=message):
        extract(envelopes, CHANNELS, **given)


@pytest.mark.parametrize(
    ("names", "vectors", "message"),
    [
        (("s",), np.ones((2, 1)), "expected \\(3, 1\\)"),
        (("s",), np.array([[1.0], [-0.2], [0.0]]), "'BIC' in 's' is -0.2; expected 0 or more"),
        (("s", "t"), np.array([[1.0, 0], [1, 0], [1, 0]]), "synergy 't' has no weight"),
        (("s", "s"), np.ones((3, 2)), "more than once"),
        (("s", "t", "u", "v"), np.ones((3, 4)), "4 synergies of 3 channels"),
    ],
)
def test_bases_that_are_refused(names, vectors, message):
    with pytest.raises(InputError, match=message):
        make_basis(names, CHANNELS, vectors)


# ---- excitation ----


def test_excitation_by_hand():
    """Recorded muscles keep their EMG; the others get the saturated sum of weights times commands."""
    model, start, _ = hybrid()
    assert model.channels == (*CHANNELS, "synergy_1", "synergy_2")
    assert model.synergy_muscles == ("BRA",)
    assert model.passive_muscles == ()
    assert entries(model, "synergy_weight") == ("BRA:synergy_1", "BRA:synergy_2")
    params = dataclasses.replace(start, synergy_weight=np.array([0.3, 0.2]), emg_gain=np.array([0.5, 1, 1, 1, 1.0]))
    u = np.asarray(muscle_excitation(model, params, jnp.asarray([0.4, 0.3, 0.2, 0.5, 1.0])))
    np.testing.assert_allclose(u, [0.2, 0.2, 0.2, 0.3, 0.2, 0.35], atol=1e-6)
    strong = dataclasses.replace(params, synergy_weight=np.array([3.0, 3.0]))
    assert float(muscle_excitation(model, strong, jnp.ones(5))[5]) == pytest.approx(1.0, abs=1e-6)


def test_residuals_stay_in_range_and_can_be_taken_away():
    model, start, _ = hybrid(residuals=True)
    rng = np.random.default_rng(0)
    for scale in (0.1, 3.0):
        params = dataclasses.replace(start, synergy_weight=scale * rng.standard_normal(len(start.synergy_weight)))
        u = np.asarray(muscle_excitation(model, params, jnp.asarray(rng.random((50, 5)))))
        recorded_or_positive = u[:, :5]
        assert recorded_or_positive.min() >= 0
        assert recorded_or_positive.max() <= 1
    plain = without_residuals(model, params)
    names = entries(model, "synergy_weight")
    kept = [w for n, w in zip(names, plain.synergy_weight, strict=True) if n.startswith("BRA")]
    assert np.all(np.array(kept) != 0)
    assert np.count_nonzero(plain.synergy_weight) == len(kept)


def test_gradient_of_excitation():
    """Forward and reverse mode against central differences, at zero and saturation too; nothing is stuck at zero."""
    for residuals, signed in ((False, False), (True, False), (True, True)):
        model, start, _ = hybrid(residuals=residuals)
        model = dataclasses.replace(model, synergies=dataclasses.replace(model.synergies, signed=signed))
        rng = np.random.default_rng(1)

        def total(w, h, model=model, start=start):
            return jnp.sum(
                jnp.sin(jnp.arange(6.0) + 3 * muscle_excitation(model, dataclasses.replace(start, synergy_weight=w), h))
            )

        for weights, channels in (
            (rng.random(len(start.synergy_weight)) * 0.3, rng.random(5)),
            (np.zeros(len(start.synergy_weight)), rng.random(5)),
            (np.full(len(start.synergy_weight), 0.6), np.ones(5)),  # saturated
        ):
            w, h = jnp.asarray(weights), jnp.asarray(channels)
            reverse = jax.grad(total)(w, h)
            forward = jax.jacfwd(total)(w, h)
            step = 1e-6
            numeric = [(total(w.at[i].add(step), h) - total(w.at[i].add(-step), h)) / (2 * step) for i in range(len(w))]
            np.testing.assert_allclose(reverse, numeric, rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(forward, reverse, rtol=1e-10, atol=1e-12)
            assert np.all(np.abs(np.asarray(reverse)) > 1e-6) or weights[0] == 0.6


def test_commands_of_a_segment_come_from_its_emg():
    """The replay's commands are the non-negative least-squares ones of the interpolated envelopes."""
    model, _, _ = hybrid()
    trial = recording(5)
    whole = make_segment(model, trial, lead_in=0.0)
    part = make_segment(model, trial, start=0.2, lead_in=0.05)
    history = model.settings.history_length(trial.dt)
    expected = model.synergies.commands(trial.emg)
    np.testing.assert_allclose(whole.replay.excitations[history - 1 :, 3:], expected, atol=1e-9)
    np.testing.assert_allclose(part.replay.excitations[-20:], whole.replay.excitations[-20:], atol=1e-12)


def test_weights_per_task():
    """Every task has its own commands, silent in the recordings of the others, and so its own weights."""
    model = arm()
    found = extract([recording(0).emg, recording(1).emg], CHANNELS, number=2).basis
    basis = dataclasses.replace(found, tasks=(("reach0", "slow"), ("reach1", "fast"), ("reach2", "slow")))
    model, start, _ = add_synergies(model, arm_params(model), basis)
    assert model.commands == ("synergy_1@slow", "synergy_2@slow", "synergy_1@fast", "synergy_2@fast")
    weights = dict(zip(entries(model, "synergy_weight"), [0.4, 0.1, 0.0, 0.3], strict=True))
    params = make_params(model, {**vars(start), "synergy_weight": weights})
    for name, own in (("reach0", [0.4, 0.1]), ("reach1", [0.0, 0.3]), ("reach2", [0.4, 0.1])):
        trial = recording(int(name[-1]))
        segment = make_segment(model, trial, lead_in=0.0)
        # Without delay, and before saturation bites, the excitation is weights times commands.
        now = dataclasses.replace(params, electromechanical_delay=np.zeros(7))
        rows = segment.replay.excitations[-len(trial.time) :]
        u = np.asarray(muscle_excitation(model, now, jnp.asarray(rows)))[:, 5]
        np.testing.assert_allclose(u, found.commands(trial.emg) @ own, atol=1e-3)
    with pytest.raises(InputError, match=r"'reach5' belongs to no task.*reach0 \(slow\)"):
        make_segment(model, recording(5))


# ---- what is refused ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"muscles": ["BRB"]}, "'BRB', which the model has not; did you mean 'BRA'"),
        ({"muscles": ["BIClong"]}, "'BIClong', which a channel drives"),
        ({"muscles": []}, "synergies drive nothing"),
        ({"only": True, "residuals": True}, "leaves no residual"),
    ],
)
def test_models_that_cannot_have_synergies(options, message):
    model = arm()
    basis = extract([recording().emg], CHANNELS, number=2).basis
    with pytest.raises(InputError, match=message):
        add_synergies(model, arm_params(model), basis, **options)


@pytest.mark.parametrize(
    ("penalties", "message"),
    [
        (Penalties(effort_tolerance=0.2), "effort_tolerance is 0.2, but no muscle is driven by synergies alone"),
        (Penalties(emg_tolerance=0.1), "emg_tolerance is 0.1, but no recorded muscle is driven by synergies too"),
        (Penalties(group_tolerance=0.5), "group_tolerance is 0.5, but no group has two free values"),
        (Penalties(passive_tolerance=2.0), "passive_tolerance is 2, but there are no passive trials"),
    ],
)
def test_penalties_without_effect_are_refused(penalties, message):
    model = arm()
    segments = (make_segment(model, recording(), start=0.1),)
    with pytest.raises(InputError, match=message):
        Problem(model, arm_params(model), segments, (DEFAULT_FREE["emg_gain"],), {}, penalties)


# ---- objective ----

EVERY = Penalties(
    fiber_length_range=(0.8, 1.1), effort_tolerance=0.2, emg_tolerance=0.1, group_tolerance=0.5, passive_tolerance=0.4
)
FREE = (
    DEFAULT_FREE["max_isometric_force"],
    dataclasses.replace(DEFAULT_FREE["optimal_fiber_length"], only=("TRIlong", "TRIlat", "BRA")),
    DEFAULT_FREE["emg_gain"],
    DEFAULT_FREE["electromechanical_delay"],
    dataclasses.replace(DEFAULT_FREE["synergy_weight"], own_sd=(("BRA:synergy_1", 0.05),)),
)


def problem_of(mode):
    # Rigid tendons compile fast; test_problem has the elastic ones.
    model, start, tracked = hybrid(residuals=mode == "residuals", only=mode == "only", tendon="rigid")
    segments = tuple(make_segment(model, recording(i), start=0.1, lead_in=0.05) for i in (0, 1))
    relaxed = recording(2)
    moments = 0.5 * relaxed.moments
    moments[::7, 1] = np.nan
    passive = make_segment(model, dataclasses.replace(relaxed, emg=np.zeros_like(relaxed.emg)), lead_in=0.0)
    passive = dataclasses.replace(passive, measured=moments)
    penalties = EVERY if mode != "hybrid" else dataclasses.replace(EVERY, emg_tolerance=None)
    return Problem(model, start, segments, FREE, GROUPS, penalties, tracked=tracked, passive=(passive,))


def residuals_by_block(problem, layout, z):
    """The residual vector of every block, written down anew, segment by segment."""
    p, model = problem.penalties, problem.model
    params = params_at(layout, problem.start, z)
    independent = 2 * p.moment_bandwidth * 0.01
    blocks = {}

    def add(name, value):
        blocks[name] = jnp.concatenate([blocks.get(name, jnp.zeros(0)), jnp.ravel(value)])

    for s in problem.segments:
        out = predict_moments(model, params, s.replay)
        rows = np.flatnonzero(s.scored)
        spread = np.concatenate([x.measured[x.scored] for x in problem.segments if x.recording == s.recording]).std(
            axis=0
        )
        miss = (out.moments - s.measured)[rows] / (p.moment_tolerance * spread)[None, :]
        add("moments", np.sqrt(independent) * miss)
        x, low, high = out.fiber_length[rows], *p.fiber_length_range
        outside = jax.nn.softplus((x - high) / p.fiber_length_tolerance) + jax.nn.softplus(
            (low - x) / p.fiber_length_tolerance
        )
        add("fiber_range", np.sqrt(independent) * outside)
        strain = (out.tendon_strain[rows] - p.max_tendon_strain) / p.tendon_strain_tolerance
        add("tendon_strain", np.sqrt(independent) * jax.nn.softplus(strain))
        alone = [m not in model.recorded_muscles for m in model.muscles]
        add("effort", np.sqrt(independent) * out.activation[rows][:, np.flatnonzero(alone)] / p.effort_tolerance)
        # The delay's own interpolation is checked in test_activation.
        length = s.replay.excitations.shape[0] - len(s.time) + 1
        delayed = act.delayed_series(s.replay.excitations, params.electromechanical_delay, 0.01, length)
        emg = act.saturate(params.emg_gain[None, :] * delayed)[:, :3] @ arm().channel_weights.T
        gap = (out.excitation - emg)[rows][:, :5] / 0.1
        if problem.tracked is not None:
            add("synergy_reconstruction", np.sqrt(independent) * gap)
        elif len(model.synergy_muscles) > 1:
            add("emg_tracking", np.sqrt(independent) * gap)
    for s in problem.passive:
        out = predict_moments(model, params, s.replay)
        for k in range(2):
            rows = np.flatnonzero(np.isfinite(s.measured[:, k]))
            miss = (out.moments[rows, k] - s.measured[rows, k]) / p.passive_tolerance
            add("passive_moments", np.sqrt(10 / len(rows)) * miss)
    named = dict(zip(layout.names, z, strict=True))
    pair = jnp.stack([named["optimal_fiber_length:TRIlong"], named["optimal_fiber_length:TRIlat"]])
    add("group_similarity", (pair - pair.mean()) / p.group_tolerance)
    # With precision L L' the prior is half the square of L' z.
    add("prior", np.linalg.cholesky(layout.prior_precision).T @ z)
    return blocks


@pytest.mark.parametrize("mode", ["hybrid", "residuals", "only"])
def test_every_block_and_the_gauss_newton_matrix(mode):
    """Cost by block, gradient and matrix against the residual vector written down anew and differentiated by JAX."""
    problem = problem_of(mode)
    layout = make_layout(problem)
    objective = make_objective(layout, problem.penalties)
    given = jax.tree.map(jnp.asarray, (problem.model, make_data(problem), problem.start))
    z = jnp.asarray(np.random.default_rng(3).uniform(0.1, 0.6, layout.size))

    @jax.jit
    def both(z):
        def joined(z):
            blocks = residuals_by_block(problem, layout, z)
            return jnp.concatenate(list(blocks.values())), blocks

        return jax.jacfwd(joined, has_aux=True)(z), joined(z)[0]

    (jacobian, blocks), r = jax.tree.map(np.asarray, both(z))
    found = cost_by_block(problem, np.asarray(z))
    expected = {name: 0.5 * float(x @ x) for name, x in blocks.items()}
    assert {n: v for n, v in found.items() if v} == pytest.approx(expected, rel=1e-9)
    assert min(expected.values()) > 1e-12  # every block has an effect here
    quadratic = jax.jit(objective.quadratic)(*given, z)
    assert float(quadratic.cost) == pytest.approx(0.5 * float(r @ r), rel=1e-9)
    np.testing.assert_allclose(quadratic.gradient, jacobian.T @ r, rtol=1e-8, atol=1e-8 * np.abs(jacobian.T @ r).max())
    matrix = jacobian.T @ jacobian
    np.testing.assert_allclose(quadratic.matrix, matrix, rtol=1e-8, atol=1e-8 * np.abs(matrix).max())
    assert np.abs(jacobian).max(axis=0).min() > 1e-6


def test_sharing_bounds_and_own_priors_of_weights():
    """Members of a group share a weight per command; residuals may take away; single weights have their own prior."""
    problem = problem_of("residuals")
    layout = make_layout(problem)
    rows = [i for i, kind in enumerate(layout.kinds) if kind == "synergy_weight"]
    names = [layout.names[i] for i in rows]
    assert "synergy_weight:triceps:synergy_1" in names
    assert "synergy_weight:BRA:synergy_2" in names
    assert len(names) == 2 * 3
    by_name = {layout.names[i]: i for i in rows}
    bra, triceps = by_name["synergy_weight:BRA:synergy_1"], by_name["synergy_weight:triceps:synergy_1"]
    assert layout.sd[bra] == 0.05
    assert layout.sd[triceps] == DEFAULT_FREE["synergy_weight"].prior_sd
    start = float(problem.start.synergy_weight[entries(problem.model, "synergy_weight").index("BRA:synergy_1")])
    assert start + layout.sd[bra] * layout.low[bra] == pytest.approx(0.0)
    assert layout.sd[triceps] * layout.low[triceps] == pytest.approx(-1.5)
    # A command's gain is not free: it is that of all its weights.
    assert [n for n in layout.names if n.startswith("emg_gain")] == [f"emg_gain:{c}" for c in CHANNELS]


def test_finds_the_weights_that_made_the_moments():
    """With only weights free, the fit recovers those that simulated the recording."""
    model, start, _ = hybrid()
    truth = dataclasses.replace(start, synergy_weight=np.array([0.45, 0.12]))
    trials = []
    for i in (0, 1):
        trial = recording(i)
        segment = make_segment(model, trial, lead_in=0.0)
        moments = np.asarray(jax.jit(predict_moments)(model, truth, segment.replay).moments)
        trials.append(dataclasses.replace(trial, moments=moments))
    segments = tuple(make_segment(model, t, lead_in=0.0) for t in trials)
    free = (Free("synergy_weight", (0.0, 1.5), 0.5, relative=False),)
    result = fit(Problem(model, start, segments, free, {}, Penalties(moment_tolerance=0.02)), starts=2)
    np.testing.assert_allclose(result.params.synergy_weight, truth.synergy_weight, atol=0.01)
    assert abs(result.params.synergy_weight - start.synergy_weight).max() > 0.3


# ---- file and environment ----


@pytest.fixture(scope="module")
def subject():
    model, start, _ = hybrid(residuals=True)
    weights = np.random.default_rng(6).uniform(0.02, 0.4, len(start.synergy_weight))
    return Subject("hybrid arm", model, dataclasses.replace(start, synergy_weight=weights), synthetic=True)


def test_subject_file_keeps_tasks(tmp_path):
    model = arm()
    basis = extract([recording(0).emg], CHANNELS, number=2).basis
    basis = dataclasses.replace(basis, tasks=(("reach0", "slow"), ("reach1", "fast")))
    model, start, _ = add_synergies(model, arm_params(model), basis)
    save_subject(tmp_path / "s.json", Subject("two tasks", model, start, synthetic=True))
    again = load_subject(tmp_path / "s.json")
    assert again.model.synergies.tasks == basis.tasks
    assert again.model.synergy_pairs == model.synergy_pairs


def test_subject_file_keeps_everything(tmp_path, subject):
    save_subject(tmp_path / "s.json", subject)
    again = load_subject(tmp_path / "s.json")
    assert again.model.synergy_pairs == subject.model.synergy_pairs
    assert again.model.channels == subject.model.channels
    assert again.model.synergies.channels == CHANNELS
    np.testing.assert_array_equal(again.model.synergies.vectors, subject.model.synergies.vectors)
    np.testing.assert_array_equal(again.params.synergy_weight, subject.params.synergy_weight)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"synergy_1": {"TRI"', '"synergy_9": {"TRI"', "'synergy_9' is no channel of the subject"),
        ('"muscles": {"TRIlong"', '"muscles": {"TRIlang"', "no muscle 'TRIlang'; did you mean 'TRIlong'"),
        ('"signed": false', '"signed": "no"', "'signed' is 'no'"),
    ],
)
def test_damaged_synergies_are_refused(tmp_path, subject, old, new, message):
    save_subject(tmp_path / "s.json", subject)
    text = (tmp_path / "s.json").read_text()
    compact = " ".join(text.split()).replace('{ "', '{"')
    assert old in compact
    (tmp_path / "s.json").write_text(compact.replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        load_subject(tmp_path / "s.json")


def test_environment_reproduces_the_prediction(subject):
    """Synthesised channels beside recorded ones: replayed, and as actions, both equal ``predict_moments``."""
    trial = recording(3)
    segment = make_segment(subject.model, trial, lead_in=0.0)
    expected = np.asarray(jax.jit(predict_moments)(subject.model, subject.params, segment.replay).moments)
    steps = len(trial.time)

    replayed = moment_tracking_task(subject, trial)
    assert replayed.action_names == ()
    _, info = jax.jit(play_actions)(replayed, jnp.zeros((steps, 0)))
    np.testing.assert_allclose(info["moments"], expected, rtol=0, atol=1e-9)

    task = moment_tracking_task(subject, trial, sources=SourceOptions(synergies="action"))
    assert task.action_names == ("synergy_1", "synergy_2")
    assert task.drive["BRA"] == "action by synergy: synergy_1, synergy_2"
    assert task.drive["BIClong"] == "recorded: BIC + action by synergy: synergy_1, synergy_2"
    commands = segment.replay.excitations[-steps:, 3:] / task.command_scale
    _, info = jax.jit(play_actions)(task, jnp.asarray(commands))
    np.testing.assert_allclose(info["moments"], expected, rtol=0, atol=1e-9)
    _, silent = jax.jit(play_actions)(task, jnp.zeros((steps, 2)))
    assert np.abs(np.asarray(silent["moments"]) - expected).max() > 0.5


def test_gradient_of_the_return_with_respect_to_commands(subject):
    task = moment_tracking_task(subject, recording(3), sources=SourceOptions(synergies="action"))
    actions = jnp.asarray(np.random.default_rng(0).uniform(0.2, 0.8, (30, 2)))
    direction = jnp.asarray(np.random.default_rng(1).standard_normal((30, 2)))

    @jax.jit
    def value(actions):
        return jnp.sum(play_actions(task, actions)[0])

    slope = float(jnp.sum(jax.grad(value)(actions) * direction))
    step = 1e-5
    numeric = float(value(actions + step * direction) - value(actions - step * direction)) / (2 * step)
    assert slope == pytest.approx(numeric, rel=1e-6)
    assert abs(slope) > 1e-4


def test_gymnasium_environment_says_who_drives_what(tmp_path, subject):
    save_subject(tmp_path / "s.json", subject)
    recording(3).save(tmp_path / "t.npz")
    files = {"subject": str(tmp_path / "s.json"), "trial": str(tmp_path / "t.npz")}
    env = NmsEnv(**files, synergies="action", precision="float64")
    assert env.action_space.shape == (2,)
    _, info = env.reset(seed=0)
    assert info["drive"]["BRA"] == "action by synergy: synergy_1, synergy_2"
    with pytest.raises(InputError, match=r"synergies='action'"):
        NmsEnv(**files)
    with pytest.raises(InputError, match="has no synergies that the action could command"):
        NmsEnv(synergies="action")
    with pytest.raises(InputError, match="synergies is 'both'"):
        NmsEnv(**files, synergies="both")
