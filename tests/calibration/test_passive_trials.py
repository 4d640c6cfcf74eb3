"""Passive trials: what is read, how poses become moments at rest, and what is refused."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calibration.study.keys import Folder
from calibration.study.passive import passive_segments, read_passive
from calibration.validation import predict_segment
from nms_gym.errors import InputError
from nms_gym.files.subject import default_subject
from nms_gym.muscle.curves import DeGrooteFregly2016
from nms_gym.muscle.geometry import lengths_and_moment_arms

SUBJECT = default_subject()
MODEL = SUBJECT.model
JOINTS = MODEL.coordinates


def write(folder, **changes):
    q = np.stack([np.linspace(-0.5, 1.0, 12), np.linspace(0.3, 2.0, 12)], axis=1)
    moments = np.stack([np.full(12, np.nan), np.linspace(-1.0, 1.0, 12)], axis=1)
    arrays = {"dofs": np.array(JOINTS), "q": q, "moment": moments, **changes}
    np.savez(folder / "passive.npz", **arrays)
    return q, moments


TABLE = {"file": "passive.npz", "coordinates": "dofs", "moments": "moment", "q": "q"}


def read(folder, table=None, coordinates=JOINTS, model=MODEL):
    return passive_segments(read_passive("[[passive]] 1", dict(table or TABLE), Folder(folder)), model, coordinates)


def test_poses_at_rest(tmp_path):
    """The model's moments on a passive trial are its statics: no activation, no velocity, from OpenSim's curves."""
    q, moments = write(tmp_path)
    (segment,) = read(tmp_path)
    np.testing.assert_array_equal(segment.measured, moments)
    rigid = dataclasses.replace(MODEL, settings=dataclasses.replace(MODEL.settings, tendon="rigid"))
    found = predict_segment(rigid, SUBJECT.params, segment)
    assert np.abs(found.excitation).max() < 1e-15
    # Rigid statics by hand: fiber length from the constant thickness, passive curve, cosine.
    p, curves = SUBJECT.params, DeGrooteFregly2016()
    lengths, arms = jax.vmap(lengths_and_moment_arms, in_axes=(None, 0))(MODEL.paths, jnp.asarray(q))
    along = np.asarray(lengths) - p.tendon_slack_length
    thickness = p.optimal_fiber_length * np.sin(p.pennation_at_optimal)
    fiber = np.sqrt(along**2 + thickness**2)
    strain = jnp.broadcast_to(jnp.asarray(p.passive_fiber_strain_at_one_norm_force), fiber.shape)
    passive = np.asarray(curves.passive_force_length(jnp.asarray(fiber / p.optimal_fiber_length), strain))
    expected = np.einsum("tkm,tm->tk", np.asarray(arms), p.max_isometric_force * passive * along / fiber)
    np.testing.assert_allclose(found.moments, expected, atol=1e-6 * np.abs(expected).max())
    assert np.abs(expected).max() > 0.01


def test_elastic_fibers_come_to_rest(tmp_path):
    """Between poses there is time enough: a pose's moment does not depend on the poses before it."""
    q, _ = write(tmp_path)
    (forward,) = read(tmp_path)
    write(tmp_path, q=q[::-1].copy())
    (backward,) = read(tmp_path)
    a, b = (predict_segment(MODEL, SUBJECT.params, s).moments for s in (forward, backward))
    np.testing.assert_allclose(a, b[::-1], atol=2e-3 * np.abs(a).max())


def test_tables_and_trials(tmp_path):
    """Several trials with their own muscle tables, in another order than the model's; no moments, no trial."""
    _, moments = write(tmp_path)
    (whole,) = read(tmp_path)
    names = MODEL.muscles[::-1]
    lengths, arms = np.asarray(whole.replay.lengths)[:, ::-1], np.asarray(whole.replay.moment_arms)[:, :, ::-1]
    write(
        tmp_path,
        moment=np.stack([moments, np.full_like(moments, np.nan)]),
        muscles=np.array(names),
        l=np.stack([lengths, lengths]),
        r=np.stack([arms, arms]),
    )
    table = {k: v for k, v in TABLE.items() if k != "q"} | {"muscles": "muscles", "lengths": "l", "moment_arms": "r"}
    (segment,) = read(tmp_path, table)
    np.testing.assert_allclose(segment.replay.lengths, whole.replay.lengths, atol=0)
    np.testing.assert_allclose(segment.replay.moment_arms, whole.replay.moment_arms, atol=0)


@pytest.mark.parametrize(
    ("changes", "table", "message"),
    [
        ({}, {"q": "angles"}, "has no array 'angles'"),
        ({"dofs": np.array(["knee", "hip"])}, {}, "no passive moments of"),
        ({"moment": np.full((12, 2), np.nan)}, {}, "has no passive moment of"),
        ({"moment": np.zeros((11, 2))}, {}, "differ in their trials or samples"),
        ({"moment": np.zeros(12)}, {}, "expected 2 axes"),
        ({"q": np.full((12, 2), 5.0)}, {}, "5"),
    ],
)
def test_what_cannot_be_read(tmp_path, changes, table, message):
    write(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        read(tmp_path, {**TABLE, **table})


def test_a_source_of_geometry_is_needed(tmp_path):
    write(tmp_path)
    with pytest.raises(InputError, match="give 'q'"):
        read(tmp_path, {k: v for k, v in TABLE.items() if k != "q"})
    with pytest.raises(InputError, match="no muscle paths"):
        read(tmp_path, model=dataclasses.replace(MODEL, paths=None))
