r"""Exponential Adams-Bashforth methods: Euler's step plus corrections in log-SNR.

Let ``y = s D + tau e`` with the data prediction D, the noise prediction e and the
signal s (1 for VP and VE, ``1 - t`` for flow matching), and let ``lambda = log(s/tau)``
be half the log-SNR. Variation of constants gives two exact forms of a step of length
``h = lambda[i-1] - lambda[i]`` from level i to level i - 1,

    y[i-1] = tau[i-1]/tau[i] y[i] + s[i-1]   int_0^h exp(u - h) D(lambda[i] + u) du,
    y[i-1] =     s[i-1]/s[i] y[i] - tau[i-1] int_0^h exp(h - u) e(lambda[i] + u) du.

With D (or e) frozen at level i, both are Euler's step, ``s[i-1] D[i] + tau[i-1]
e[i]``. A method of order k interpolates the prediction by a polynomial through the k
newest levels; in Newton's form that adds one correction per order,

    sum_{m=1}^{k-1}  w_m D[i, .., i+m],      w_m = s[i-1] int_0^h exp(u - h) N_m(u) du,
    N_m(u) = prod_{l=0}^{m-1} (u + lambda[i] - lambda[i+l]),

where ``D[i, .., i+m]`` is a divided difference over lambda. The integrals of powers are
the functions :func:`phi`. A level of pure noise has lambda = -inf: differences that
reach it vanish, which is their limit. Since D and e are linear in the state and the
network's output, every such method is a table.

The order of a step is limited by its history: the first is Euler's. A single error of
size ``h^2`` limits the order of the whole trajectory to 2, so a method of order 3 only
reaches its order if the first step is short (of size ``h^1.5`` or less), or if D hardly
changes there, as is the case near pure noise.

References:
    Lu et al. 2022, "DPM-Solver++", arXiv:2211.01095, Eq. 8 (data form).
    Lu et al. 2022, "DPM-Solver", arXiv:2206.00927, Eq. 3.4 (noise form).
    Hochbruck & Ostermann 2010, "Exponential integrators", Acta Numerica 19, 2.5.
"""

import math
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from jaxinv.diffusion.grid import TimeGrid

Prediction = Literal["data", "noise"]
# Weight of the difference in a second-order row: the exact integral, or one of two
# values that agree with it to leading order in h.
SecondOrder = Literal["exact", "midpoint", "linear"]

# diffusers lowers the order of the last steps if there are fewer steps than this.
FEW_STEPS = 15


def exponential_rows(
    grid: TimeGrid,
    orders: Int[np.ndarray, "n"],
    *,
    prediction: Prediction = "data",
    second_order: SecondOrder = "midpoint",
    curvature: float = 1.0,
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Return the weights of the predictions, with a given order at every step.

    Args:
        grid: The noise levels.
        orders: Order of the step to level i - 1 at index i - 1, 1 to 3, shape (N,).
        prediction: The prediction to interpolate.
        second_order: Weight of the difference in rows of order 2.
        curvature: Factor on the integral of ``u^2`` in rows of order 3; 1 is exact.

    Returns:
        The weights of the data and the noise predictions in ``y[i-1]``, shape (N, k)
        each, where k is the largest order.
    """
    n, k = grid.num_steps, int(orders.max())
    data, noise = np.zeros((n, k)), np.zeros((n, k))
    # Euler's step.
    data[:, 0], noise[:, 0] = grid.signal[:-1], grid.tau[:-1]
    corrected = data if prediction == "data" else noise
    for i in (np.flatnonzero(orders > 1) + 1).tolist():
        order = orders[i - 1]
        corrected[i - 1, :order] += corrections(
            grid,
            np.arange(i, i + order),
            i - 1,
            prediction=prediction,
            second_order=second_order,
            curvature=curvature,
        )
    return data, noise


def corrections(
    grid: TimeGrid,
    nodes: Int[np.ndarray, "m"],
    target: int,
    *,
    prediction: Prediction = "data",
    second_order: SecondOrder = "midpoint",
    curvature: float = 1.0,
) -> Float[np.ndarray, "m"]:
    """Return what a step of higher order adds to Euler's step.

    The nodes may lie before the start of the step (multistep methods), inside of it
    (singlestep methods) or at its end (correctors).

    Args:
        grid: The noise levels.
        nodes: Levels at which the prediction is known, at least 2; the first is the
            start of the step.
        target: The level at the end of the step.
        prediction: See :func:`exponential_rows`.
        second_order: Weight of the difference of two nodes.
        curvature: Factor on the integral of ``u^2`` with three nodes.

    Returns:
        The weights of the prediction at the nodes.
    """
    order, log_snr = len(nodes), grid.log_snr[nodes]
    h = grid.log_snr[target] - log_snr[0]
    if prediction == "data":
        factor, exponent = grid.signal[target], -h
    else:
        factor, exponent = -grid.tau[target], h
    powers = [
        math.factorial(m) * h ** (m + 1) * phi(m + 1, exponent) for m in range(order)
    ]
    if order == 2 and second_order == "midpoint":
        powers[1] = h**2 / 2 * phi(1, exponent)
    elif order == 2 and second_order == "linear":
        powers[1] = h**2 / 2
    elif order == 3:
        powers[2] *= curvature
    weights = np.zeros(order)
    for m, difference in enumerate(divided_differences(log_snr)[1:], start=1):
        newton = np.polynomial.polynomial.polyfromroots(log_snr[:m] - log_snr[0])
        weights += factor * (newton @ powers[: m + 1]) * difference
    return weights


def multistep_orders(
    grid: TimeGrid, order: int, *, last: tuple[int, ...] = ()
) -> Int[np.ndarray, "n"]:
    """Return the order of every step, limited by history and lowered at the data end.

    A step to ``tau = 0`` has infinite length in log-SNR and always order 1; so has a
    step of length zero, ``tau[0] = tau[1]``.

    Args:
        grid: The noise levels.
        order: Nominal order.
        last: Limits for the last steps, ``last[0]`` for the step to level 0.

    Returns:
        The orders, shape (N,), with index i - 1 for the step to level i - 1.
    """
    n = grid.num_steps
    orders = np.minimum(order, n - np.arange(n))
    caps = np.asarray(last[:n], int)
    orders[: len(caps)] = np.minimum(orders[: len(caps)], caps)
    if grid.tau[0] in (0, grid.tau[1]):
        orders[0] = 1
    return orders


def lowered_last(grid: TimeGrid, *, few: bool, always: bool = False) -> tuple[int, ...]:
    """Return the orders of the last steps, lowered as in diffusers, last step first.

    Args:
        grid: The noise levels.
        few: Whether to lower the last two if there are fewer than 15 steps.
        always: Whether to lower the last for any number of steps.
    """
    if few and grid.num_steps < FEW_STEPS:
        return (1, 2)
    return (1,) if always else ()


def check_order(name: str, order: int, largest: int) -> None:
    """Raise ValueError unless a constructor has this order."""
    if order not in range(1, largest + 1):
        raise ValueError(
            f"{name} has the orders 1 to {largest}, got {order!r}; higher orders are "
            "unstable at the step sizes of a sampler"
        )


def phi(k: int, z: float) -> float:
    """Compute ``phi_k(z) = int_0^1 e^((1-u)z) u^(k-1)/(k-1)! du``.

    The series is used near 0, where the recurrence ``phi_k = (phi_{k-1} - 1/(k-1)!) /
    z`` cancels.
    """
    if abs(z) < 1:
        return sum(z**j / math.factorial(j + k) for j in range(20))
    value = math.exp(z)
    for j in range(k):
        value = (value - 1 / math.factorial(j)) / z
    return value


def divided_differences(nodes: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k k"]:
    """Return weights whose row m gives the divided difference over nodes 0 .. m.

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
