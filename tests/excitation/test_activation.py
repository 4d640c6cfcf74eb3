"""Delay, activation dynamics and shape against CEINMS's recursion, OpenSim, NumPy formulas and finite differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import load_arrays
from scipy.integrate import solve_ivp

from nms_gym.excitation import activation as act

DT = 0.005


def scan(step, start, inputs):
    """Every result of ``step(state, input) -> state``."""

    def body(state, value):
        state = step(state, value)
        return state, state

    return jax.lax.scan(body, start, inputs)[1]


def filter_series(excitation, tau1, tau2, dt):
    """The second-order filter from rest at zero."""
    zero = jnp.zeros(excitation.shape[1])
    return scan(lambda state, e: act.second_order_step(e, *state, tau1, tau2, dt), (zero, zero), excitation)[0]


def ceinms(excitation, c1, c2):
    """``alpha e - beta1 u1 - beta2 u2`` by hand (Lloyd & Besier 2003, eq. 1, and CEINMS's ExponentialActivation)."""
    beta1, beta2 = c1 + c2, c1 * c2
    alpha = 1 + beta1 + beta2
    u1 = u2 = 0.0
    result = []
    for e in excitation:
        u = alpha * e - beta1 * u1 - beta2 * u2
        u1, u2 = u, u1
        result.append(u)
    return np.array(result)


# ---- second-order filter ----


def test_recursive_filter_is_the_ceinms_recursion():
    e = np.random.default_rng(0).uniform(size=(300, 3))
    c1, c2 = np.array([-0.5, -0.03, -0.9]), np.array([-0.5, -0.7, -0.95])
    tau1, tau2 = (act.ceinms_time_constant(c, 0.001) for c in (c1, c2))
    zero = jnp.zeros(3)
    ours = scan(
        lambda state, e: (act.recursive_step(e, *state, tau1, tau2, 0.001), state[0]), (zero, zero), jnp.asarray(e)
    )[0]
    for m in range(3):
        np.testing.assert_allclose(ours[:, m], ceinms(e[:, m], c1[m], c2[m]), rtol=0, atol=1e-13)


def test_ceinms_coefficients_round_trip():
    c = np.linspace(-0.99, -0.01, 50)
    for dt in (0.001, 0.01):
        tau = act.ceinms_time_constant(c, dt)
        np.testing.assert_allclose(tau, -dt / np.log(-c), rtol=1e-14)
        np.testing.assert_allclose(act.ceinms_coefficient(tau, dt), c, rtol=1e-13)
    # C = -exp(-1) is one sampling interval.
    assert float(act.ceinms_time_constant(-np.exp(-1.0), 0.001)) == pytest.approx(0.001, rel=1e-14)


LAGS = (0.020, 0.035)


def smooth(t):
    """Contractions at 2 Hz, from rest."""
    return 0.5 - 0.5 * np.cos(4 * np.pi * np.maximum(t, 0.0))


@pytest.mark.parametrize(("dt", "worst"), [(0.001, 6e-6), (0.002, 3e-5), (0.005, 1.5e-4), (0.010, 6e-4)])
def test_response_does_not_change_with_the_step(dt, worst):
    """Against two lags in series, solved by SciPy; the recursion is late or early by a step."""
    t = dt * np.arange(1, round(1.0 / dt) + 1)

    def rates(time, u):
        return [(smooth(time) - u[0]) / LAGS[0], (u[0] - u[1]) / LAGS[1]]

    exact = solve_ivp(rates, (0, 1.0), [0, 0], t_eval=t, rtol=1e-10, atol=1e-12).y[1]
    taus = (jnp.asarray([tau]) for tau in LAGS)
    ours = np.asarray(filter_series(jnp.asarray(smooth(t))[:, None], *taus, dt))[:, 0]
    assert np.abs(ours - exact).max() < worst
    recursive = ceinms(smooth(t), *(-np.exp(-dt / tau) for tau in LAGS))
    assert np.abs(recursive - exact).max() > 3.5 * dt


@pytest.mark.parametrize("dt", [0.001, 0.002, 0.005, 0.010, 0.05])
@pytest.mark.parametrize("taus", [LAGS, (0.020, 0.020), (0.0014, 0.4)])
def test_slow_signals_come_later_by_both_time_constants(dt, taus):
    """After a start, a ramp is the same ramp, later by tau1 + tau2, at every step; a constant is itself."""
    ramp = dt * jnp.arange(round(30 * max(taus) / dt) + 5)[:, None]
    response = np.asarray(filter_series(ramp, *(jnp.asarray([tau]) for tau in taus), dt))
    np.testing.assert_allclose(ramp[-3:] - response[-3:], sum(taus), rtol=1e-9)
    held = act.second_order_step(jnp.full(1, 0.3), jnp.full(1, 0.3), jnp.full(1, 0.3), *taus, dt)
    np.testing.assert_allclose(np.concatenate(held), 0.3, rtol=1e-14)


def test_a_step_of_excitation_does_not_overshoot():
    for tau1, tau2 in (LAGS, (0.020, 0.020), (0.001, 0.001)):
        for dt in (0.001, 0.01, 0.1):
            taus = jnp.asarray([tau1]), jnp.asarray([tau2])
            response = np.asarray(filter_series(jnp.ones((2000, 1)), *taus, dt))[:, 0]
            assert response[0] > 0
            assert response[-1] == pytest.approx(1.0, abs=1e-12)
            assert np.all(np.diff(response) > -1e-14)


@pytest.mark.parametrize("dt", [1e-4, 0.0019, 0.0021, 0.005, 0.1])  # short steps have a series of their own
def test_gradients_of_the_second_order_filter(dt):
    """By excitation, both states and both time constants; float32 keeps five digits."""
    at = [np.array([0.7]), np.array([0.2]), np.array([0.25]), np.array([0.020]), np.array([0.021])]

    def total(*given):
        result, memory = act.second_order_step(*given, dt)
        return jnp.sum(result) + 0.3 * jnp.sum(memory)

    slopes = jax.grad(total, argnums=tuple(range(5)))(*map(jnp.asarray, at))
    for k, slope in enumerate(slopes):
        h = 1e-6 * at[k]
        up, down = (total(*(a + s * h * (i == k) for i, a in enumerate(at))) for s in (1, -1))
        assert float(slope[0]) == pytest.approx(float(up - down) / (2 * h[0]), rel=1e-5, abs=1e-8)
    short = [jnp.asarray(a, jnp.float32) for a in at]
    assert float(total(*short)) == pytest.approx(float(total(*at)), rel=1e-5)
    for a, b in zip(jax.grad(total, argnums=tuple(range(5)))(*short), slopes, strict=True):
        assert a.dtype == jnp.float32
        assert float(a[0]) == pytest.approx(float(b[0]), rel=1e-3, abs=1e-4)


# ---- first-order dynamics ----


def excitation_profile(profile, table, dt):
    """OpenSim's excitation at multiples of ``dt``: linear between the samples; the step rises and falls within 1 ms."""
    t = dt * np.arange(round(table[-1, 0] / dt) + 1)
    if profile == "step":
        return np.interp(t, [0, 0.2, 0.201, 0.7, 0.701, 2], [0.01, 0.01, 1, 1, 0.01, 0.01])
    return np.interp(t, table[:, 0], table[:, 1])


@pytest.mark.parametrize("profile", ["step", "ramp", "bursts"])
def test_first_order_dynamics_are_opensims(data, profile):
    """DeGrooteFregly2016Muscle of OpenSim 4.6: 15 and 60 ms, sharpness 0.1; our error is that of a held excitation."""
    table = load_arrays(data("truth_muscle") / "forward_sims.npz")[f"dgf__soleus_like__{profile}"]

    def error(parts):
        dt = DT / parts
        e = jnp.asarray(excitation_profile(profile, table, dt))
        series = scan(lambda a, u: act.first_order_step(u, a, 0.015, 0.060, dt, 0.1), table[0, 2], e[1:])
        return np.abs(np.asarray(series)[parts - 1 :: parts] - table[1:, 2]).max()

    errors = [error(parts) for parts in (1, 4, 16, 64)]
    assert errors[0] < 0.015
    assert errors[2] < 0.3 * errors[1] or profile == "step"
    assert errors[3] < 1.5e-3
    assert np.all(np.diff(errors[1:]) < 0)


@pytest.mark.parametrize("sharpness", [0.1, 10.0])
@pytest.mark.parametrize(("start", "e"), [(0.05, 1.0), (0.9, 0.02)])
def test_first_order_step_is_second_order_accurate(sharpness, start, e):
    def rate(_, a):
        f, z = 0.5 * np.tanh(sharpness * (e - a)), 0.5 + 1.5 * a
        return ((f + 0.5) / (0.015 * z) + (0.5 - f) * z / 0.060) * (e - a)

    exact = solve_ivp(rate, (0, 0.04), [start], rtol=1e-12, atol=1e-13).y[0, -1]

    def error(steps):
        series = scan(
            lambda a, _: act.first_order_step(jnp.asarray(e), a, 0.015, 0.060, 0.04 / steps, sharpness),
            jnp.asarray(start),
            jnp.zeros(steps),
        )
        return abs(float(series[-1]) - exact)

    coarse, fine = error(40), error(80)
    assert coarse < 2e-3
    assert 3.0 < coarse / fine < 5.5
    assert error(8) < 0.03


def test_first_order_step_never_overshoots():
    """Whatever the step, activation ends between where it was and the excitation."""
    rng = np.random.default_rng(1)
    e, a = jnp.asarray(rng.uniform(size=4000)), jnp.asarray(rng.uniform(size=4000))
    for dt in (0.001, 0.01, 0.1, 10.0):
        new = act.first_order_step(e, a, 0.015, 0.060, dt)
        low, high = jnp.minimum(e, a), jnp.maximum(e, a)
        assert bool(jnp.all((new >= low - 1e-15) & (new <= high + 1e-15)))
    np.testing.assert_allclose(act.first_order_step(e, a, 0.015, 0.060, 10.0), e, rtol=0, atol=1e-12)


# ---- shape factor ----


@pytest.mark.parametrize("shape", [-15.0, -3.0, -0.5, -1e-2, 1e-2, 2.0])
def test_shape_is_lloyd_and_besiers(shape):
    u = np.linspace(0.0, 1.0, 101)
    expected = (np.exp(shape * u) - 1) / (np.exp(shape) - 1)
    np.testing.assert_allclose(act.shaped(u, jnp.asarray(shape)), expected, rtol=1e-12, atol=1e-13)


def test_shape_tends_to_the_identity_with_its_derivative():
    """At A = 0 the value is u and the derivative with respect to A is (u^2 - u) / 2, by Taylor's expansion."""
    u = jnp.linspace(0.0, 1.0, 21)
    slope = jax.vmap(jax.grad(act.shaped, argnums=1), (0, None))
    np.testing.assert_allclose(act.shaped(u, jnp.asarray(0.0)), u, rtol=0, atol=1e-16)
    np.testing.assert_allclose(slope(u, 0.0), (u**2 - u) / 2, rtol=0, atol=1e-15)
    # Across the seam between series and formula, |A| = 0.001, neither value nor derivative jumps.
    for seam in (-1e-3, 1e-3):
        below, above = seam * (1 - 1e-9), seam * (1 + 1e-9)
        np.testing.assert_allclose(act.shaped(u, below), act.shaped(u, above), rtol=0, atol=1e-12)
        np.testing.assert_allclose(slope(u, below), slope(u, above), rtol=0, atol=1e-9)
    # Central differences of an evaluation that keeps its digits, away from the limit.
    for shape in (-2.0, 0.7):
        h = 1e-6
        differences = (act.shaped(u, shape + h) - act.shaped(u, shape - h)) / (2 * h)
        np.testing.assert_allclose(slope(u, shape), differences, rtol=0, atol=1e-9)


# ---- saturation ----


def test_saturation_is_a_smooth_minimum():
    x = np.linspace(-1.0, 3.0, 401)
    y = np.asarray(act.saturate(jnp.asarray(x)))
    np.testing.assert_allclose(y[x <= 0.75], x[x <= 0.75], rtol=0, atol=1e-6)
    assert np.all(y < 1.0 + 1e-15)
    assert np.abs(y - np.minimum(x, 1.0)).max() <= np.log(2) / act.SATURATION_SHARPNESS + 1e-12
    slopes = jax.vmap(jax.grad(act.saturate))(jnp.asarray([0.0, 1.0, 1.1]))
    # A clip's gradient above one would be zero, and a gain too high would never come down.
    np.testing.assert_allclose(slopes, [1.0, 0.5, 1 / (1 + np.exp(5.0))], rtol=1e-6)


# ---- delay ----

LENGTH = 9


def read(signal, delay, dt=DT):
    """A function of time read ``delay`` seconds ago from its last samples."""
    history = signal(-dt * np.arange(LENGTH))[:, None]
    return float(act.delayed(jnp.asarray(history), jnp.asarray([delay]), dt)[0])


def test_delay_is_exact_at_the_samples():
    values = np.random.default_rng(2).uniform(size=LENGTH)
    for steps in range(LENGTH - 2):
        got = act.delayed(jnp.asarray(values)[:, None], jnp.asarray([steps * DT]), DT)
        assert float(got[0]) == pytest.approx(values[steps], abs=1e-14)


def test_delay_of_low_polynomials_is_exact():
    """Keys's kernel reproduces parabolas; his boundary does so too, for delays below one step."""
    for delay in np.linspace(0, (LENGTH - 3) * DT, 61):
        assert read(lambda t: 0.3 + 7.0 * t, delay) == pytest.approx(0.3 - 7.0 * delay, abs=1e-13)
        assert read(lambda t: t**2 * 1e3, delay) == pytest.approx(delay**2 * 1e3, abs=1e-12)


def test_delay_of_a_sine_converges_fast():
    def error(dt):
        delays = np.linspace(2 * dt, 4 * dt, 41)
        return max(abs(read(lambda t: np.sin(30 * t), d, dt) - np.sin(-30 * d)) for d in delays)

    assert error(0.005) < 3e-4
    assert error(0.005) / error(0.0025) > 7  # third order


def test_delay_weights_sum_to_one():
    delays = jnp.linspace(0, (LENGTH - 3) * DT, 200)
    weights = act.delay_weights(delays, DT, LENGTH)
    assert weights.shape == (LENGTH, 200)
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, rtol=0, atol=1e-14)


def test_derivative_with_respect_to_delay():
    history = jnp.asarray(np.random.default_rng(3).uniform(size=LENGTH))[:, None]

    def value(delay):
        return act.delayed(history, jnp.asarray([delay]), DT)[0]

    slope = jax.jit(jax.grad(value))
    h = 1e-8
    for delay in (0.3 * DT, 1.5 * DT, 2.999 * DT, 4.2 * DT):
        differences = (float(value(delay + h)) - float(value(delay - h))) / (2 * h)
        assert float(slope(delay)) == pytest.approx(differences, rel=1e-5, abs=1e-5)
    # Continuous at the samples, where it is the central difference of the neighbours; so at exactly a sample too.
    values = np.asarray(history)[:, 0]
    for steps in range(1, LENGTH - 3):
        central = (values[steps + 1] - values[steps - 1]) / (2 * DT)
        for delay in (steps * DT - 1e-10, steps * DT, steps * DT + 1e-10):
            assert float(slope(delay)) == pytest.approx(central, rel=1e-5)
    # No delay at all: the slope of the parabola through the last three samples, from 3 e0 - 3 e1 + e2 one step ahead.
    assert float(slope(0.0)) == pytest.approx((values[1] - (3 * values[0] - 3 * values[1] + values[2])) / (2 * DT))


def test_delay_step_by_step_is_the_delay_of_the_series():
    rng = np.random.default_rng(4)
    signal, delay = jnp.asarray(rng.uniform(size=(40, 3))), jnp.asarray([0.0, 0.012, 0.03])
    together = act.delayed_series(signal, delay, DT, LENGTH)
    assert together.shape == (40 - LENGTH + 1, 3)
    for k in range(len(together)):
        history = signal[k : k + LENGTH][::-1]
        np.testing.assert_allclose(act.delayed(history, delay, DT), together[k], rtol=0, atol=1e-14)


def test_nothing_is_read_from_the_future():
    """Appending samples does not change what came before."""
    signal = np.random.default_rng(5).uniform(size=(30, 1))
    delay = jnp.asarray([0.3 * DT])
    before = act.delayed_series(jnp.asarray(signal[:20]), delay, DT, LENGTH)
    after = act.delayed_series(jnp.asarray(signal), delay, DT, LENGTH)
    np.testing.assert_array_equal(before, after[: len(before)])


# ---- NMSM Pipeline ----


def nmsm_series(excitation, dt, start=0.0):
    """NMSM's activation of a scalar excitation, 15 and 60 ms, from a constant past."""

    def step(state, e):
        return act.nmsm_step(e, *state, 0.015, 0.060, dt), state[0]

    return np.asarray(scan(step, (jnp.asarray(start), jnp.asarray(start)), jnp.asarray(excitation))[0])


def test_nmsm_step_is_second_order_accurate():
    """Against the equation solved by SciPy: da/dt = (e - a) ((1 / tau_a - 1 / tau_d) e + 1 / tau_d)."""

    def excitation(t):
        return 0.5 - 0.45 * np.cos(20 * t) ** 3

    def rate(t, a):
        e = excitation(t)
        return (e - a) * ((1 / 0.015 - 1 / 0.060) * e + 1 / 0.060)

    exact = solve_ivp(rate, (0, 0.4), [0.05], rtol=1e-11, atol=1e-12).y[0, -1]

    def error(steps):
        return abs(nmsm_series(excitation(0.4 * np.arange(1, steps + 1) / steps), 0.4 / steps, 0.05)[-1] - exact)

    assert error(160) < 2e-4
    assert 3.5 < error(640) / error(1280) < 5.0


def test_nmsm_step_holds_a_constant():
    np.testing.assert_allclose(nmsm_series(np.full(50, 0.3), 0.01, 0.3), 0.3, rtol=1e-14)


def test_nmsm_shape_at_its_ends():
    """The identity at nonlinearity 0; a steep rise at 1, from 4e-8 through 0.971 at 0.25 to 1."""
    u = jnp.linspace(0.0, 1.0, 101)
    np.testing.assert_allclose(act.nmsm_shaped(u, jnp.asarray(0.0)[None]), u, rtol=0, atol=1e-15)
    steep = act.nmsm_shaped(jnp.asarray([0.0, 0.25, 0.5, 1.0]), jnp.ones(4))
    np.testing.assert_allclose(steep, [4e-8, 0.971, 0.999, 1.0], rtol=0, atol=6e-4)
    assert abs(float(steep[0]) - 4e-8) < 1e-8
    assert np.all(np.diff(act.nmsm_shaped(u, jnp.full(101, 0.35))) > 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_nmsm_gradients(dtype):
    """By both arguments, below, at and above excitation 0."""

    def stepped(u, a):
        return act.nmsm_step(u, a, 0.5 * a, jnp.asarray(0.015, u.dtype), jnp.asarray(0.060, u.dtype), DT)

    u, other, h = np.array([-1.0, -0.05, 0.0, 0.1, 1.0]), np.full(5, 0.3), 1e-6
    for function in (act.nmsm_shaped, stepped):
        given = jnp.asarray(u, dtype), jnp.asarray(other, dtype)
        reverse = jax.jit(jax.vmap(jax.grad(function, argnums=(0, 1))))(*given)
        forward = jax.jit(jax.vmap(jax.jacfwd(function, argnums=(0, 1))))(*given)
        for k, (back, ahead) in enumerate(zip(reverse, forward, strict=True)):
            up, down = (jax.vmap(function)(u + s * h * (k == 0), other + s * h * (k == 1)) for s in (1, -1))
            assert back.dtype == ahead.dtype == dtype
            np.testing.assert_allclose(back, ahead, rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(back, (up - down) / (2 * h), rtol=1e-4, atol=1e-6)
        assert np.count_nonzero(reverse[0]) == 5


# ---- gradients where excitation is 0, 1 or equals activation ----


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(("e", "a"), [(0.0, 0.0), (1.0, 1.0), (0.5, 0.5), (0.0, 0.7), (1.0, 0.2)])
def test_gradients_at_special_excitations(dtype, e, a):
    def first(e, a):
        return act.first_order_step(e, a, 0.015, 0.060, DT)

    def second(e, a):
        tau = jnp.asarray(0.02, e.dtype)
        return act.second_order_step(e, a, a, tau, tau, DT)[0]

    def recursive(e, a):
        tau = jnp.asarray(0.02, e.dtype)
        return act.recursive_step(e, a, a, tau, tau, DT)

    h = 1e-6
    for step in (first, second, recursive):
        gradient = jax.grad(step, argnums=(0, 1))(jnp.asarray(e, dtype), jnp.asarray(a, dtype))
        for g, (by_e, by_a) in zip(gradient, ((h, 0.0), (0.0, h)), strict=True):
            up, down = (step(jnp.asarray(e + s * by_e), jnp.asarray(a + s * by_a)) for s in (1, -1))
            assert g.dtype == dtype
            assert g > 1e-3  # more excitation now, or activation before, is more activation
            assert float(g) == pytest.approx(float(up - down) / (2 * h), rel=1e-4 if dtype == jnp.float32 else 1e-7)
    by_u, by_shape = jax.grad(act.shaped, argnums=(0, 1))(jnp.asarray(e, dtype), jnp.asarray(-0.5, dtype))
    assert by_u > 0.5
    assert np.isfinite(by_shape)
    assert (by_shape != 0) == (0 < e < 1)  # the curve is pinned at both ends
    assert jax.grad(act.saturate)(jnp.asarray(e, dtype)) > 0.4
