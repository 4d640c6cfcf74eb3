"""Quantities of a prediction: what each is, by other means, and how a model that lacks one says so."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from calibration.validation import predict_segment
from nms_gym._assets import asset_path
from nms_gym.errors import InputError
from nms_gym.files.prediction import load_quantities, write_quantities
from nms_gym.files.subject import default_subject
from nms_gym.model.quantities import GROUPS, QUANTITIES, chosen_quantities, quantities
from nms_gym.model.replay import make_segment
from nms_gym.muscle import derived
from nms_gym.muscle.geometry import lengths_and_moment_arms
from nms_gym.muscle.metabolics import Umberger2010
from nms_gym.recording.storage import read_table
from nms_gym.recording.trial import load_trial

SUBJECT = default_subject()
TRIAL = load_trial(asset_path("demo/reach_1.npz")).window(0.0, 1.0)


@pytest.fixture(scope="module")
def predicted():
    """Segment, output, and everything that can be said of it."""
    segment = make_segment(SUBJECT.model, TRIAL)
    output = predict_segment(SUBJECT.model, SUBJECT.params, segment)
    return segment, output, quantities(SUBJECT.model, SUBJECT.params, segment, output, ["all"])


def test_all_of_the_output_is_there_with_its_axes(predicted):
    segment, output, found = predicted
    assert list(found.values) == list(QUANTITIES)
    sizes = {"time": len(segment.time), **{axis: len(names) for axis, names in found.names.items()}}
    for name, quantity in found.values.items():
        assert quantity.values.shape == tuple(sizes[axis] for axis in quantity.axes), name
        assert np.isfinite(quantity.values).all(), name
    for name, leaf in (
        ("moments", output.moments),
        ("tendon_forces", output.tendon_force),
        ("excitations", output.excitation),
        ("activations", output.activation),
        ("normalised_fiber_lengths", output.fiber_length),
        ("normalised_fiber_velocities", output.fiber_velocity),
        ("tendon_strains", output.tendon_strain),
        ("equilibrium_residuals", output.residual),
    ):
        np.testing.assert_array_equal(found[name], leaf)


def test_lengths_forces_and_powers_agree_with_each_other(predicted):
    segment, _, found = predicted
    along = found["fiber_lengths"] * np.cos(found["pennation"])
    np.testing.assert_allclose(along + found["tendon_lengths"], found["musculotendon_lengths"], atol=1e-6)
    force = sum(found[f"{part}_fiber_forces"] for part in ("active", "passive", "damping"))
    np.testing.assert_allclose(force * np.cos(found["pennation"]), found["tendon_forces"], atol=1e-3)
    np.testing.assert_allclose(
        np.einsum("tkm,tm->tk", found["moment_arms"], found["tendon_forces"]), found["moments"], rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(found["fiber_powers"] + found["tendon_powers"], found["musculotendon_powers"], atol=2e-2)
    step = float(segment.replay.dt)
    net = np.trapezoid(found["fiber_powers"], dx=step, axis=0)
    np.testing.assert_allclose(found["fiber_work"][0], net, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found["fiber_work"][1] - found["fiber_work"][2], net, atol=1e-9)


def test_joint_stiffness_is_minus_the_slope_of_the_moment(predicted):
    """Held activation and velocity; the moment at a pose a little further, muscles stretched by their stiffness."""
    segment, _, found = predicted
    paths, t, h = SUBJECT.model.paths, 40, 1e-5
    q, force, k = segment.angles[t], found["tendon_forces"][t], found["musculotendon_stiffness"][t]
    with jax.enable_x64(True):
        here, _ = lengths_and_moment_arms(paths, q)

        def moment(angles):
            lengths, arms = lengths_and_moment_arms(paths, angles)
            return np.asarray(arms) @ (force + k * np.asarray(lengths - here))

        slopes = np.stack([(moment(q + h * e) - moment(q - h * e)) / (2 * h) for e in np.eye(len(q))], axis=1)
    np.testing.assert_allclose(found["joint_stiffness"][t], -slopes, rtol=1e-5, atol=1e-6)


def test_metabolic_rates_add_up_and_follow_the_model(predicted):
    segment, output, found = predicted
    parts = (
        "activation_heat",
        "maintenance_heat",
        "shortening_lengthening_heat",
        "mechanical_work_rates",
        "floor_heat",
    )
    np.testing.assert_allclose(sum(found[p] for p in parts), found["metabolic_rates"], rtol=1e-12, atol=1e-12)
    stronger = dataclasses.replace(SUBJECT.model, specific_tension=0.5e6)  # half the mass, half the heat of activation
    light = quantities(stronger, SUBJECT.params, segment, output, ["activation_heat"])
    np.testing.assert_allclose(2 * light["activation_heat"], found["activation_heat"], rtol=1e-12)
    other = quantities(SUBJECT.model, SUBJECT.params, segment, output, ["metabolics"], metabolic_model=Umberger2010())
    assert (other["maintenance_heat"] == 0).all()
    assert (found["maintenance_heat"] > 0).any()


def test_co_contraction_is_of_the_sides_of_a_joint(predicted):
    _, output, found = predicted
    elbow = found.names["coordinate"].index("r_elbow_flex")
    flexors, extensors = ("BIClong", "BICshort", "BRA"), ("TRIlong", "TRIlat", "TRImed")
    for i, method in enumerate(found.names["index"]):
        expected = derived.co_contraction_of(SUBJECT.model.muscles, output.activation, flexors, extensors, method)
        assert found["co_contraction"][i, elbow] == pytest.approx(float(expected), rel=1e-6)


def test_the_equilibrium_velocity_is_the_one_that_was_stepped(predicted):
    """The implicit step ends in equilibrium, so both velocities are one up to the residual."""
    _, _, found = predicted
    np.testing.assert_allclose(found["equilibrium_velocities"], found["normalised_fiber_velocities"], atol=1e-3)


def test_names_groups_and_what_is_lacking(predicted):
    segment, output, _ = predicted
    assert set(chosen_quantities(["all"])) == set(QUANTITIES)
    assert chosen_quantities(["metabolics", "moments"]) == {
        "moments": True,
        **{name: False for name, kind in QUANTITIES.items() if kind.group == "metabolics"},
    }
    assert {kind.group for kind in QUANTITIES.values()} == set(GROUPS)
    with pytest.raises(InputError, match="no quantity 'moment'; did you mean 'moments'"):
        chosen_quantities(["moment"])
    blind = dataclasses.replace(segment, angles=None)
    some = quantities(SUBJECT.model, SUBJECT.params, blind, output, ["stiffness"])
    assert "joint_stiffness" not in some.values
    assert "musculotendon_stiffness" in some.values
    with pytest.raises(InputError, match="joint_stiffness cannot be computed: the recording lacks joint angles"):
        quantities(SUBJECT.model, SUBJECT.params, blind, output, ["joint_stiffness"])
    rigid = dataclasses.replace(SUBJECT.model, settings=dataclasses.replace(SUBJECT.model.settings, tendon="rigid"))
    with pytest.raises(InputError, match="equilibrium_velocities cannot be computed"):
        quantities(rigid, SUBJECT.params, segment, output, ["equilibrium_velocities"])
    with pytest.raises(InputError, match="no quantity 'torque'"):
        some["torque"]


def test_files_hold_what_was_computed(predicted, tmp_path):
    _, _, found = predicted
    (archive,) = write_quantities(tmp_path, found, "reach_1", "npz")
    again = load_quantities(archive)
    assert (again.trial, again.names) == (found.trial, found.names)
    np.testing.assert_array_equal(again.time, found.time)
    for name, quantity in found.values.items():
        assert (again.values[name].unit, again.values[name].axes) == (quantity.unit, quantity.axes)
        np.testing.assert_array_equal(again[name], quantity.values)
    for kind in ("sto", "csv"):
        written = {p.stem: p for p in write_quantities(tmp_path, found, "reach_1", kind)}
        assert set(written) == {f"reach_1_{name}" for name in found.values}
        moments = read_table(written["reach_1_moments"])
        assert moments.labels == ("r_shoulder_elev_moment", "r_elbow_flex_moment")
        np.testing.assert_array_equal(moments.data, found["moments"])
        arms = read_table(written["reach_1_moment_arms"])
        np.testing.assert_array_equal(arms.column("r_elbow_flex_BRA"), found["moment_arms"][:, 1, -1])
        lines = written["reach_1_fiber_work"].read_text().splitlines()
        assert lines[0] == "part," + ",".join(SUBJECT.model.muscles)
        assert [line.split(",")[0] for line in lines[1:]] == ["net", "positive", "negative"]


def test_rigid_tendons_are_infinitely_stiff_and_left_out_of_tables(tmp_path):
    rigid = dataclasses.replace(
        SUBJECT.model,
        settings=dataclasses.replace(SUBJECT.model.settings, tendon="mixed"),
        rigid_tendons=("BRA",),
    )
    segment = make_segment(rigid, TRIAL)
    output = predict_segment(rigid, SUBJECT.params, segment)
    found = quantities(rigid, SUBJECT.params, segment, output, ["tendon_stiffness"])
    assert np.isinf(found["tendon_stiffness"][:, rigid.muscles.index("BRA")]).all()
    (table,) = write_quantities(tmp_path, found, "reach_1", "sto")
    assert read_table(table).labels == tuple(m for m in rigid.muscles if m != "BRA")


def test_what_is_no_prediction_is_refused(predicted, tmp_path):
    _, _, found = predicted
    with pytest.raises(InputError, match="prediction format is 'mat'; use one of 'sto', 'csv', 'npz'"):
        write_quantities(tmp_path, found, "reach_1", "mat")
    with pytest.raises(InputError, match="format and version are"):
        load_quantities(asset_path("demo/reach_1.npz"))
