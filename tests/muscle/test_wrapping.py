"""Paths over spheres, ellipsoids and tori: OpenSim's lengths, lengths by hand, and moment arms as their slopes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers import REFERENCE
from scipy.special import ellipeinc

from nms_gym.errors import InputError
from nms_gym.muscle.paths import sample_paths, without_direct_path
from nms_gym.muscle.wrapping import Surface, candidates, wrap
from nms_gym.recording.osim import read_osim


@pytest.fixture(scope="module")
def model():
    return read_osim(REFERENCE / "wraps.osim")


@pytest.fixture(scope="module")
def reference():
    return json.loads((REFERENCE / "wraps.json").read_text())


def without_wraps(model):
    return replace(model, muscles=tuple(replace(muscle, wraps=()) for muscle in model.muscles))


def test_every_kind_of_surface_gives_opensims_lengths(model, reference):
    """200 poses: spheres, ellipsoids by each method and on three sides, tori, parts of paths, switched and moving
    points, and two surfaces at once."""
    muscles, q = reference["muscles"], np.array(reference["q"])
    lengths, _ = sample_paths(model, muscles, reference["coordinates"], q)
    straight, _ = sample_paths(without_wraps(model), muscles, reference["coordinates"], q)
    error = 1e3 * np.abs(lengths - reference["lengths"])
    for m, name in enumerate(muscles):
        assert np.median(error[:, m]) < 0.01, name
        assert np.percentile(error[:, m], 95) < 0.5, name
        assert (np.mean(lengths[:, m] > straight[:, m] + 1e-4) > 0.1) == (name != "inactive"), name
    single = [m for m, name in enumerate(muscles) if name != "pair"]
    assert np.percentile(error[:, single], 99) < 0.1


def test_moment_arms_are_slopes_of_the_lengths(model, reference):
    muscles, coordinates = reference["muscles"], reference["coordinates"]
    q = np.array(reference["q"])[:40]
    _, arms = sample_paths(model, muscles, coordinates, q)
    assert np.isfinite(arms).all()
    step = 1e-4
    for k in range(3):
        above, below = (sample_paths(model, muscles, coordinates, q + s * step * np.eye(3)[k])[0] for s in (1, -1))
        error = np.abs(arms[:, k] + (above - below) / (2 * step))
        assert np.percentile(error, 97) < 1e-5  # elsewhere a surface or a point is switched within the step
    largest = np.abs(arms).max(axis=(0, 1))
    assert (largest > 0.01).all()


def test_a_batch_is_its_poses_one_by_one(model, reference):
    muscles, coordinates = ["pair", "torus_0", "hybrid_flat"], reference["coordinates"]
    q = np.array(reference["q"])[:6]
    together = sample_paths(model, muscles, coordinates, q)
    alone = [sample_paths(model, muscles, coordinates, row[None]) for row in q]
    for k in range(2):
        np.testing.assert_allclose(together[k], np.concatenate([one[k] for one in alone]), atol=1e-9)


def test_an_unknown_method_is_refused(model):
    muscle = model.muscle("hybrid_long")
    odd = replace(muscle, wraps=tuple(replace(use, method="sideways") for use in muscle.wraps))
    odd_model = replace(model, muscles=(odd,))
    with pytest.raises(InputError, match=r"'hybrid_long' wraps over ellipsoid .* by method 'sideways'; .*midpoint"):
        sample_paths(odd_model, ["hybrid_long"], ["first"], np.zeros((1, 1)))
    assert list(without_direct_path(odd_model, ["hybrid_long"], ["first"])) == ["hybrid_long"]


# ---------------------------------------------------------------------------------------------- by hand


def total(surface, start, end):
    start, end = np.array([start], float), np.array([end], float)
    on, _, _ = candidates(surface, start, end)
    assert on[0]
    arc, into, out = wrap(surface, start, end)
    return arc[0] + np.linalg.norm(into - start) + np.linalg.norm(out - end), into[0], out[0]


def test_a_sphere_is_two_tangents_and_a_great_circle():
    rng = np.random.default_rng(0)
    ball = Surface("sphere", np.full(3, 0.05))
    for _ in range(20):
        start, end = rng.normal(size=(2, 3))
        start, end = 0.09 * start / np.linalg.norm(start), 0.12 * end / np.linalg.norm(end)
        between = np.arccos(start @ end / (0.09 * 0.12))
        angle = between - np.arccos(0.05 / 0.09) - np.arccos(0.05 / 0.12)
        if angle > 0:
            tangents = np.sqrt(0.09**2 - 0.05**2) + np.sqrt(0.12**2 - 0.05**2)
            assert total(ball, start, end)[0] == pytest.approx(tangents + 0.05 * angle, rel=1e-10)
        else:
            assert not candidates(ball, start[None], end[None])[0][0]


@pytest.mark.parametrize("method", ["hybrid", "midpoint", "axial"])
def test_in_a_plane_of_symmetry_an_ellipsoid_is_an_ellipse(method):
    """There the section is the geodesic: tangents from (+-d, 0) to an ellipse, and an elliptic integral."""
    a, b, d = 0.04, 0.03, 0.1
    ellipsoid = Surface("ellipsoid", np.array([a, b, 0.05]), method=method)
    length, into, out = total(ellipsoid, (-d, 1e-7, 0), (d, 1e-7, 0))
    x = a * a / d  # the tangent's contact, for an end on the axis
    y = b * np.sqrt(1 - (x / a) ** 2)
    angle = np.arcsin(x / a)  # from the top
    # The arc length from the top through eccentric angle phi: a E(phi | 1 - b^2/a^2).
    expected = 2 * np.hypot(d - x, y) + 2 * a * ellipeinc(angle, 1 - (b / a) ** 2)
    assert length == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose([into, out], [[-x, y, 0], [x, y, 0]], atol=1e-6)


def test_a_side_to_keep_to_sends_the_path_round_the_other_way():
    for kind in ("sphere", "ellipsoid"):
        for sign in (1, -1):
            surface = Surface(kind, np.array([0.05, 0.05, 0.05]), axis=1, sign=sign)
            _, into, out = total(surface, (-0.1, 0.02, 0.001), (0.1, 0.01, 0.002))
            assert sign * into[1] > 0, kind
            assert sign * out[1] > 0, kind


def test_a_torus_keeps_the_path_in_its_hole():
    """The middle circle has radius 0.05, the tube 0.01: a line at x = 0.045 is bent to the side of the hole."""
    ring = Surface("torus", np.array([0.01, 0.05, 0.0]))
    length, into, out = total(ring, (0.045, 0, -0.1), (0.045, 0, 0.1))
    reach = np.hypot(0.005, 0.1)
    angle = np.pi - 2 * np.arccos(0.01 / reach) - 2 * np.arctan(0.005 / 0.1)
    assert length == pytest.approx(2 * np.sqrt(reach**2 - 0.01**2) + 0.01 * angle, rel=1e-9)
    assert max(into[0], out[0]) < 0.045
    # Through the middle of the hole nothing bends it.
    assert not candidates(ring, np.array([[0.0, 0.01, -0.1]]), np.array([[0.0, 0.01, 0.1]]))[0][0]


# ---------------------------------------------------------------------------------------------- the real OpenSim


def test_stored_lengths_are_opensims(model, reference):
    pytest.importorskip("opensim")
    from nms_gym.muscle.opensim_sampler import opensim_sampler

    names = ["sphere", "midpoint_flat", "axial_round", "torus_1", "conditional", "moving"]
    q = np.array(reference["q"])[:20]
    lengths, _ = opensim_sampler(REFERENCE / "wraps.osim", names, reference["coordinates"])(q)
    columns = [reference["muscles"].index(name) for name in names]
    np.testing.assert_allclose(lengths, np.array(reference["lengths"])[:20, columns], atol=1e-4)


@pytest.mark.slow
def test_the_arm_model_matches_opensim(data):
    """MoBL-ARMS' elbow, forearm and wrist: ellipsoids, tori, cylinders, moving and conditional points together."""
    pytest.importorskip("opensim")
    from nms_gym.muscle.opensim_sampler import opensim_sampler

    path = data("models") / "MOBL_ARMS_41_Scaled.osim"
    osim = read_osim(path)
    coordinates = ["elbow_flexion", "pro_sup", "flexion", "deviation"]
    muscles = [
        "BIClong",
        "BICshort",
        "BRA",
        "BRD",
        "ANC",
        "PT",
        "ECRB",
        "ECU",
        "FCR",
        "FCU",
        "PL",
        "FDSL",
        "EDCI",
        "EIP",
    ]
    limits = np.array([osim.coordinate(name).range for name in coordinates])
    q = limits[:, 0] + np.random.default_rng(3).uniform(size=(60, 4)) * (limits[:, 1] - limits[:, 0])
    ours, _ = sample_paths(osim, muscles, coordinates, q)
    theirs, _ = opensim_sampler(path, muscles, coordinates)(q)
    error = 1e3 * np.abs(ours - theirs)
    assert np.median(error, axis=0).max() < 0.1
    assert np.percentile(error, 95, axis=0).max() < 0.5
