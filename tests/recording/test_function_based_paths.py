"""OpenSim's function-based paths: its own numbers, and where they hold."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest
from helpers import load_arrays

from nms_gym.errors import InputError
from nms_gym.muscle.geometry import lengths_and_moment_arms, paths_from_polynomials
from nms_gym.recording.function_based_paths import FunctionBasedPathWarning, read_function_based_paths

FILE = "original/subject_walk_scaled_FunctionBasedPathSet.xml"
COORDINATES = ("hip_flexion_r", "hip_adduction_r", "hip_rotation_r", "knee_angle_r", "ankle_angle_r")
DOMAIN = np.radians([[-30, 60], [-30, 20], [-30, 20], [-5, 90], [-40, 30]])
# Computed by OpenSim 4.6 from that file: MultivariatePolynomialFunction calcValue and -calcDerivative, m.
POSE = np.array([0.25, -0.125, 0.0625, 0.75, -0.1875])
OPENSIM = {
    "recfem_r": (0.538317656268, (0.046707162717, -0.018744170835, -0.002717635249, -0.043922597589, 0.0)),
    "glmax1_r": (0.218423696664, (-0.046490146244, -0.028278937272, -0.014304185297, 0.0, 0.0)),
    "gasmed_r": (0.512724769127, (0.0, 0.0, 0.0, 0.023313193517, -0.055265658280)),
    "soleus_r": (0.374997782468, (0.0, 0.0, 0.0, 0.0, -0.053523007462)),
}


def read(path, muscles=None):
    with pytest.warns(FunctionBasedPathWarning, match="do not say where they are valid"):
        return read_function_based_paths(path, muscles)


def evaluate(paths, q):
    return (np.asarray(part) for part in jax.jit(jax.vmap(lambda q: lengths_and_moment_arms(paths, q)))(q))


def test_opensims_own_numbers(data):
    polynomials = read(data("rajagopal_walk") / FILE, tuple(OPENSIM))
    paths = paths_from_polynomials(polynomials, COORDINATES, DOMAIN)
    assert paths.muscles == tuple(OPENSIM)
    length, arm = lengths_and_moment_arms(paths, POSE)
    for i, (expected_length, expected_arms) in enumerate(OPENSIM.values()):
        np.testing.assert_allclose(length[i], expected_length, atol=1e-11)
        np.testing.assert_allclose(arm[:, i], expected_arms, atol=1e-11)


def test_good_moment_arms_in_walking_and_offset_lengths(data):
    """What the warning says, against OpenSim's wrapped paths of the same model."""
    walk = load_arrays(data("rajagopal_walk") / "walk.npz")
    muscles = [str(name) for name in walk["muscles_r"]]
    paths = paths_from_polynomials(read(data("rajagopal_walk") / FILE, muscles), COORDINATES, DOMAIN)
    order = [[str(name) for name in walk["dofs_r"]].index(name) for name in COORDINATES]
    lengths, arms = evaluate(paths, walk["q_r"][:, order].astype(float))
    error = 1e3 * np.abs(arms - walk["ma_r"][:, :, order].transpose(0, 2, 1))
    assert np.median(error) < 0.3
    assert np.quantile(error, 0.95) < 1.5
    offset = dict(zip(muscles, 1e3 * np.median(lengths - walk["lmt_r"], axis=0), strict=True))
    assert {name for name, value in offset.items() if abs(value) > 5} == {"edl_r", "ehl_r", "fhl_r"}
    assert max(offset.values()) < 25


def test_all_muscles_of_both_legs_are_read(data):
    polynomials = read(data("rajagopal_walk") / FILE)
    assert len(polynomials) == 80
    assert {p.muscle[-2:] for p in polynomials} == {"_r", "_l"}


PATH = """<OpenSimDocument Version="40600"><Set_FunctionBasedPath_><objects>
<FunctionBasedPath name="/forceset/m"><coordinate_paths>/jointset/hip/flexion /jointset/knee/angle</coordinate_paths>
<length_function>{function}</length_function></FunctionBasedPath></objects></Set_FunctionBasedPath_></OpenSimDocument>"""
POLYNOMIAL = """<MultivariatePolynomialFunction><coefficients>{coefficients}</coefficients>
<dimension>{dimension}</dimension><order>2</order></MultivariatePolynomialFunction>"""


def write(folder, coefficients="1 2 3 4 5 6", dimension=2):
    file = folder / "paths.xml"
    polynomial = POLYNOMIAL.format(coefficients=coefficients, dimension=dimension)
    file.write_text(PATH.format(function=polynomial))
    return file


def test_the_order_of_coefficients(tmp_path):
    # Powers of the last coordinate count up fastest: 1 + 2 y + 3 y^2 + 4 x + 5 x y + 6 x^2.
    (polynomial,) = read(write(tmp_path))
    assert polynomial.muscle == "m"
    assert polynomial.coordinates == ("flexion", "angle")
    x, y = 0.3, -0.7
    value = np.sum(polynomial.coefficients * np.prod(np.array([x, y]) ** polynomial.exponents, axis=1))
    np.testing.assert_allclose(value, 1 + 2 * y + 3 * y**2 + 4 * x + 5 * x * y + 6 * x**2)


def test_unusable_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="5 coefficients; dimension 2 and order 2 need 6"):
        read_function_based_paths(write(tmp_path, "1 2 3 4 5"))
    with pytest.raises(InputError, match="is 'nan'; expected a finite number"):
        read_function_based_paths(write(tmp_path, "1 2 3 4 5 nan"))
    with pytest.raises(InputError, match="path of 'm': <coefficients> is 'six'; expected a finite number"):
        read_function_based_paths(write(tmp_path, "1 2 3 4 5 six"))
    with pytest.raises(InputError, match="dimension is 3, but it names 2"):
        read_function_based_paths(write(tmp_path, dimension=3))
    with pytest.raises(InputError, match="no path for muscle 'n'; There are 'm'"):
        read_function_based_paths(write(tmp_path), ("n",))
    file = tmp_path / "paths.xml"
    file.write_text(PATH.format(function="<Constant><value>1</value></Constant>"))
    with pytest.raises(InputError, match="length_function is Constant"):
        read_function_based_paths(file)
    file.write_text("<OpenSimDocument/>")
    with pytest.raises(InputError, match="no FunctionBasedPath in it"):
        read_function_based_paths(file)
    file.write_text("<OpenSimDocument>")
    with pytest.raises(InputError, match="not a usable XML file"):
        read_function_based_paths(file)
    file.write_text('<!DOCTYPE x [<!ENTITY a "b">]><OpenSimDocument>&a;</OpenSimDocument>')
    with pytest.raises(InputError, match="not a usable XML file"):
        read_function_based_paths(file)
    with pytest.raises(InputError, match="cannot read"):
        read_function_based_paths(tmp_path / "none.xml")


@pytest.mark.parametrize(("dimension", "order"), [(1, 9), (2, 3), (4, 4), (30, 1), (70, 1), (12, 2)])
def test_small_files_of_many_coordinates_need_little_memory(tmp_path, dimension, order):
    """As many terms as there are coefficients, in the order of OpenSim: counting up with the last fastest."""
    count = math.comb(dimension + order, order)
    (tmp_path / "set.xml").write_text(
        "<FunctionBasedPathSet><objects><FunctionBasedPath name='m'>"
        f"<coordinate_paths>{' '.join(f'/jointset/j/c{i}' for i in range(dimension))}</coordinate_paths>"
        "<length_function><MultivariatePolynomialFunction>"
        f"<dimension>{dimension}</dimension><order>{order}</order>"
        f"<coefficients>{' '.join(['0.1'] * count)}</coefficients>"
        "</MultivariatePolynomialFunction></length_function></FunctionBasedPath></objects></FunctionBasedPathSet>"
    )
    (polynomial,) = read(tmp_path / "set.xml")
    rows = polynomial.exponents
    assert rows.shape == (count, dimension)
    assert rows.sum(axis=1).max() == order
    if dimension <= 4:
        grid = np.indices((order + 1,) * dimension).reshape(dimension, -1).T
        np.testing.assert_array_equal(rows, grid[grid.sum(axis=1) <= order])
