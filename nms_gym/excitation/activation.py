"""From an excitation channel to muscle activation: gain, delay, dynamics, nonlinearity. All of it can be calibrated."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array

ActivationKind = Literal["second_order", "recursive", "first_order"]

# How sharply a muscle switches between activation and deactivation, per unit of excitation minus activation.
# De Groote et al. 2016 print 0.1 (and so does OpenSim 4.6's class), which averages both rates; OpenSim's documentation
# now advises 10.
SWITCH_SHARPNESS = 10.0
# How sharply excitation saturates at 1. At 1 itself the excitation is lowered by 0.7 / SATURATION_SHARPNESS.
SATURATION_SHARPNESS = 50.0


def saturate(excitation: Array) -> Array:
    """Smooth minimum of ``excitation`` and 1, exact to 1e-6 below 0.75.

    CEINMS clips instead, and a clip has no gradient above 1, so a gain that is too high would never come down.
    """
    k = SATURATION_SHARPNESS
    return excitation - jnp.logaddexp(0.0, k * (excitation - 1.0)) / k


def delay_weights(delay: Array, dt: Array | float, length: int) -> Array:
    """Weights that read a signal ``delay`` seconds ago from its last ``length`` samples.

    Cubic convolution (Keys 1981, 10.1109/TASSP.1981.1163711): exact at the samples, with a derivative that is
    continuous in ``delay``. The sample after the newest one, which delays below one step would need, is Keys' own
    boundary extrapolation ``3 e[0] - 3 e[1] + e[2]``, so nothing is read from the future.

    Args:
        delay: ``(C,)`` s, from 0 to ``(length - 3) * dt``.
        dt: sample interval, s.
        length: samples kept, at least 4.

    Returns:
        ``(length, C)``; row ``j`` weighs the sample ``j`` steps ago. Columns sum to 1.
    """
    delay = jnp.asarray(delay)
    lag = jnp.arange(-1, length, dtype=delay.dtype)[:, None]
    x = jnp.abs(delay[None, :] / dt - lag)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    w = jnp.where(x < 1.0, near, jnp.where(x < 2.0, far, 0.0))
    boundary = jnp.zeros((length, 1), w.dtype).at[:3, 0].set(jnp.asarray([3.0, -3.0, 1.0], w.dtype))
    return w[1:] + boundary * w[:1]


def delayed(history: Array, delay: Array, dt: Array | float) -> Array:
    """The newest sample's delayed value, from ``history (L, C)`` with the newest sample first. Returns ``(C,)``."""
    return jnp.sum(delay_weights(delay, dt, history.shape[0]) * history, axis=0)


def delayed_series(signal: Array, delay: Array, dt: Array | float, length: int) -> Array:
    """``delayed`` for every sample of ``signal (length - 1 + T, C)`` at once. Returns ``(T, C)``."""
    # 32-bit indices: wider ones make a program traced in one precision unusable in the other (JAX 0.10).
    newest = np.arange(length - 1, signal.shape[0], dtype=np.int32)[:, None]
    histories = signal[newest - np.arange(length, dtype=np.int32)[None, :]]
    return jnp.einsum("tlc,lc->tc", histories, delay_weights(delay, dt, length))


def second_order_step(
    excitation: Array, filtered: Array, memory: Array, time_constant_1: Array, time_constant_2: Array, dt: Array | float
) -> tuple[Array, Array]:
    """One step of two first-order lags in series, ``1 / ((1 + tau1 s) (1 + tau2 s))``, whatever the step.

    The filter of Lloyd & Besier 2003 (``recursive_step``), critically damped or over-damped, fed with the weighted
    mean ``(1 - r) e + r e1`` of this sample and the last. At every step the poles ``exp(-dt / tau)`` are exact, the
    gain is 1, and ``r``, between 0 and 1, is such that slow signals come later by ``tau1 + tau2``. What is left is
    an error of second order, ``dt^2 / 12`` times the filtered signal's second derivative. No excitation between 0 and 1
    makes it leave 0 to 1.

    At rest both states are the excitation.

    Args:
        excitation: ``(M,)``, this sample.
        filtered: ``(M,)``, result one step ago.
        memory: ``(M,)``, of one step ago: what the past alone has this step come to, over its share in the result.
        time_constant_1: ``(M,)`` s.
        time_constant_2: ``(M,)`` s.
        dt: step, s.

    Returns:
        The result and the new memory.
    """
    x1, x2 = dt / time_constant_1, dt / time_constant_2
    rise1, rise2 = -jnp.expm1(-x1), -jnp.expm1(-x2)
    gain = rise1 * rise2
    late = _lag_of_sampling(x1, rise1) + _lag_of_sampling(x2, rise2)
    now = gain * (1.0 - late)
    result = now * excitation + (1.0 - now) * memory
    p1, p2 = 1.0 - rise1, 1.0 - rise2
    return result, (gain * late * excitation + (p1 + p2) * result - p1 * p2 * filtered) / (1.0 - now)


def _lag_of_sampling(x: Array, rise: Array) -> Array:
    """Steps by which a pole ``exp(-x)`` lags less than the time constant of ``1 / x`` steps: ``1/x - 1/expm1(x)``.

    ``rise`` is ``1 - exp(-x)``. The series for short steps keeps the digits.
    """
    small = x < 0.1
    safe, safe_rise = jnp.where(small, 1.0, x), jnp.where(small, 0.5, rise)
    square = x * x
    series = 0.5 - x * (1.0 / 12.0 - square * (1.0 / 720.0 - square / 30240.0))
    return jnp.where(small, series, 1.0 / safe - (1.0 - safe_rise) / safe_rise)


def recursive_step(
    excitation: Array, u1: Array, u2: Array, time_constant_1: Array, time_constant_2: Array, dt: Array | float
) -> Array:
    """One step of the critically damped or over-damped recursive filter of Lloyd & Besier 2003, as CEINMS has it.

    ``u = alpha e - beta1 u1 - beta2 u2`` (10.1016/S0021-9290(03)00010-1, eq. 1) with poles ``exp(-dt / tau)``. The map
    to CEINMS is exact: ``C1 = -exp(-dt / tau1)``, ``C2 = -exp(-dt / tau2)``, ``beta1 = C1 + C2``, ``beta2 = C1 C2``,
    ``alpha = 1 + beta1 + beta2``. Slow signals come later by about ``tau1 + tau2 - dt``, which changes with the step;
    ``second_order_step`` does not.

    Args:
        excitation: ``(M,)``, this sample.
        u1: ``(M,)``, result one step ago.
        u2: ``(M,)``, result two steps ago.
        time_constant_1: ``(M,)`` s.
        time_constant_2: ``(M,)`` s.
        dt: step, s.
    """
    p1, p2 = jnp.exp(-dt / time_constant_1), jnp.exp(-dt / time_constant_2)
    return (1.0 - p1) * (1.0 - p2) * excitation + (p1 + p2) * u1 - p1 * p2 * u2


def ceinms_coefficient(time_constant: Array, dt: Array | float) -> Array:
    """CEINMS's ``C1`` or ``C2`` for a time constant at a sampling interval."""
    return -jnp.exp(-dt / jnp.asarray(time_constant))


def ceinms_time_constant(coefficient: Array, dt: Array | float) -> Array:
    """Time constant, s, of CEINMS's ``C1`` or ``C2`` (in -1..0, exclusive) at a sampling interval."""
    return -dt / jnp.log(-jnp.asarray(coefficient))


def activation_rate(
    excitation: Array,
    activation: Array,
    tau_activation: Array,
    tau_deactivation: Array,
    sharpness: float = SWITCH_SHARPNESS,
) -> Array:
    """Rate, 1/s, in ``da/dt = rate (e - a)``: De Groote et al. 2016 (10.1007/s10439-016-1591-9), eq. 1.

    ``f = tanh(b (e - a)) / 2``, ``z = 0.5 + 1.5 a``, ``rate = (f + 0.5) / (tau_a z) + (0.5 - f) z / tau_d``, with a
    sharper switch ``b`` than the paper's by default.
    """
    f = 0.5 * jnp.tanh(sharpness * (excitation - activation))
    z = 0.5 + 1.5 * activation
    return (f + 0.5) / (tau_activation * z) + (0.5 - f) * z / tau_deactivation


def first_order_step(
    excitation: Array,
    activation: Array,
    tau_activation: Array,
    tau_deactivation: Array,
    dt: Array | float,
    sharpness: float = SWITCH_SHARPNESS,
) -> Array:
    """One exponential-midpoint step of first-order activation dynamics; second order in ``dt``, never overshoots.

    The rate is frozen at a predicted midpoint, where the equation is linear and is solved exactly.
    """

    def relax(at: Array, time: Array | float) -> Array:
        rate = activation_rate(excitation, at, tau_activation, tau_deactivation, sharpness)
        return excitation + (activation - excitation) * jnp.exp(-rate * time)

    return relax(relax(activation, 0.5 * dt), dt)


def _expm1_over(x: Array) -> Array:
    """``expm1(x) / x`` with its limit 1 at 0; the series keeps the derivative exact there too."""
    small = jnp.abs(x) < 1e-3
    safe = jnp.where(small, 1.0, x)
    return jnp.where(small, 1.0 + x * (0.5 + x * (1.0 / 6.0 + x / 24.0)), jnp.expm1(safe) / safe)


def shaped(u: Array, shape_factor: Array) -> Array:
    """Activation ``(exp(A u) - 1) / (exp(A) - 1)`` (Lloyd & Besier 2003, eq. 2); the identity in the limit A = 0."""
    return u * _expm1_over(shape_factor * u) / _expm1_over(shape_factor)


# ---- NMSM Pipeline ----


def nmsm_step(
    excitation: Array, a1: Array, a2: Array, tau_activation: Array, tau_deactivation: Array, dt: Array | float
) -> Array:
    """One step of the NMSM Pipeline's activation dynamics (Meyer et al. 2017, 10.1371/journal.pone.0179698).

    ``da/dt = (e - a) ((1 / tau_a - 1 / tau_d) e + 1 / tau_d)`` by the second-order backward difference, which is linear
    in the new activation. NMSM has ``tau_d = 4 tau_a``, starts with two zeros, and sets negative results to 0 only
    after the last step; nothing is clipped here.

    Args:
        excitation: ``(M,)``, this sample.
        a1: ``(M,)``, result one step ago.
        a2: ``(M,)``, result two steps ago.
        tau_activation: ``(M,)`` s.
        tau_deactivation: ``(M,)`` s.
        dt: step, s.
    """
    k = 2.0 * dt * ((1.0 / tau_activation - 1.0 / tau_deactivation) * excitation + 1.0 / tau_deactivation)
    return (k * excitation + 4.0 * a1 - a2) / (k + 3.0)


# Meyer et al. 2017, eq. 8, with the digits of NMSM's source.
_NMSM_G1, _NMSM_G2, _NMSM_G3 = 29.280183270562596, 4.107869238218326, 1.000004740962477
_NMSM_G4, _NMSM_G5, _NMSM_G6 = -7.623282868703527, 17.227022969058535, 0.884220539986325


def nmsm_shaped(u: Array, nonlinearity: Array) -> Array:
    """Activation ``(1 - c) u + c (g4 / (g1 (u + g6)^g5 + g2) + g3)`` of Meyer et al. 2017, eq. 8, as NMSM has it.

    The identity for ``nonlinearity`` 0; at 1 an early rise from 4e-8 at ``u = 0`` to 1. Meant for ``u >= 0``; below
    -0.78 the power's base, which must stay positive, is held at 0.1, where its term has long vanished.
    """
    power = jnp.maximum(u + _NMSM_G6, 0.1) ** _NMSM_G5
    steep = _NMSM_G4 / (_NMSM_G1 * power + _NMSM_G2) + _NMSM_G3
    return (1.0 - nonlinearity) * u + nonlinearity * steep
