r"""Exponential Adams-Bashforth methods: Euler's step plus corrections in log-SNR.

Write ``y = s D + tau e`` with the data prediction D, the noise prediction e and the
signal s (1 for VP and VE, ``1 - t`` for flow matching), and let ``lambda = log(s/tau)``
be half the log-SNR. Variation of constants gives two exact forms of a step of length
``h = lambda[i-1] - lambda[i]`` from level i to level i - 1,

    y[i-1] = tau[i-1]/tau[i] y[i] + s[i-1]   int_0^h exp(u - h) D(lambda[i] + u) du,
    y[i-1] =     s[i-1]/s[i] y[i] - tau[i-1] int_0^h exp(h - u) e(lambda[i] + u) du.

With D (or e) frozen at level i, both are Euler's step, ``y[i] + (tau[i-1] - tau[i])
f[i]``. A method of order k interpolates the prediction by a polynomial through the k
newest levels; in Newton's form that adds one correction per order,

    sum_{m=1}^{k-1}  w_m D[i, .., i+m],      w_m = s[i-1] int_0^h exp(u - h) N_m(u) du,
    N_1 = u,  N_2 = u (u + lambda[i] - lambda[i+1]),

where ``D[i, .., i+m]`` is a divided difference over lambda. A level of pure noise has
lambda = -inf: differences that reach it vanish, which is their limit. Since D and e are
linear in y and f, every such method is a table.

References:
    Lu et al. 2022, "DPM-Solver++", arXiv:2211.01095, Eq. 8 (data form).
    Lu et al. 2022, "DPM-Solver", arXiv:2206.00927, Eq. 3.4 (noise form).
    Hochbruck & Ostermann 2010, "Exponential integrators", Acta Numerica 19, 2.5.
"""

import math
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from jaxinv.grid import TimeGrid

Prediction = Literal["data", "noise"]
# How a second-order row weighs its difference: the exact integral, or one of two values
# that agree with it to leading order in h.
SecondOrder = Literal["exact", "midpoint", "linear"]


def exponential_rows(
    grid: TimeGrid,
    orders: Int[np.ndarray, "n"],
    *,
    prediction: Prediction = "data",
    second_order: SecondOrder = "midpoint",
    curvature: float = 1.0,
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Coefficients of the method with a given order at every step.

    Args:
        grid: the noise levels.
        orders: shape (N,). Order of the step to level i - 1 at index i - 1, 1 to 3.
        prediction: what is interpolated.
        second_order: weight of the difference in rows of order 2.
        curvature: factor on the integral of ``u^2`` in rows of order 3; 1 is exact.

    Returns:
        The tables a and b, shape (N, k) each with k the largest order.
    """
    n, k = grid.num_steps, int(orders.max())
    tau, signal, log_snr = grid.tau, grid.signal, grid.log_snr
    a, b = np.zeros((n, k)), np.zeros((n, k))
    a[:, 0] = 1.0
    b[:, 0] = tau[:-1] - tau[1:]
    for i in range(1, n + 1):
        order = int(orders[i - 1])
        h = log_snr[i - 1] - log_snr[i]
        if order == 1 or h == 0:
            continue
        nodes = log_snr[i : i + order]
        if prediction == "data":
            factor, decay = signal[i - 1], -h
        else:
            factor, decay = -tau[i - 1], h
        first = h**2 * phi(2, decay)
        if order == 2 and second_order == "midpoint":
            first = h**2 / 2 * phi(1, decay)
        elif order == 2 and second_order == "linear":
            first = h**2 / 2
        moments = [0.0, first]
        if order == 3:
            square = curvature * 2 * h**3 * phi(3, decay)
            gap = nodes[0] - nodes[1]
            moments.append(square + gap * first if np.isfinite(gap) else 0.0)
        weights = factor * np.asarray(moments) @ divided_differences(nodes)
        levels, s = tau[i : i + order], signal[i : i + order]
        # The prediction is linear: D = y - tau f, e = (1 - s) / tau y + s f.
        data = prediction == "data"
        a[i - 1, :order] += weights * (1.0 if data else (1 - s) / levels)
        b[i - 1, :order] += weights * (-levels if data else s)
    return a, b


def multistep_orders(
    grid: TimeGrid, order: int, *, last: tuple[int, ...] = ()
) -> Int[np.ndarray, "n"]:
    """The order of every step: as much as history allows, lowered at the data end.

    A step to ``tau = 0`` has infinite length in log-SNR and is of order 1, whatever
    ``last`` says.

    Args:
        grid: the noise levels.
        order: nominal order.
        last: caps on the last steps, ``last[0]`` for the step to level 0.

    Returns:
        shape (N,). Index i - 1 for the step to level i - 1.
    """
    n = grid.num_steps
    orders = np.minimum(order, n - np.arange(n))
    caps = np.asarray(last[:n], int)
    orders[: len(caps)] = np.minimum(orders[: len(caps)], caps)
    if grid.tau[0] == 0:
        orders[0] = 1
    return orders


def phi(k: int, z: float) -> float:
    """The exponential integrators' ``phi_k(z) = int_0^1 e^((1-u)z) u^(k-1)/(k-1)! du``.

    By its series near 0, where the recurrence ``phi_k = (phi_{k-1} - 1/(k-1)!) / z``
    cancels.
    """
    if abs(z) < 1:
        return sum(z**j / math.factorial(j + k) for j in range(20))
    value = math.exp(z)
    for j in range(k):
        value = (value - 1 / math.factorial(j)) / z
    return value


def divided_differences(nodes: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k k"]:
    """Row m weighs k values to their divided difference over nodes 0 .. m.

    Nodes at minus infinity are allowed at the end: their differences are 0.
    """
    k = len(nodes)
    table = np.eye(k)
    rows = [table[0]]
    for m in range(1, k):
        gaps = nodes[:-m] - nodes[m:]
        table = (table[:-1] - table[1:]) / gaps[:, None]
        rows.append(table[0])
    return np.stack(rows)
