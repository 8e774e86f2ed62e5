r"""DDIM and DPM-Solver++ in the state x, from the formulas of their papers.

With ``x_t = alpha_t x_0 + sigma_t e``, ``lambda = log(alpha / sigma)``, a step from s
to t (less noise), ``h = lambda_t - lambda_s`` and the data prediction
``D_s = (x_s - sigma_s eps(x_s, s)) / alpha_s``, every method here is

    x_t = sigma_t / sigma_s x_s + alpha_t (1 - e^{-h}) D_s + H,

where H, the high-order term, is a combination of differences of data predictions at s
and at the levels before it, ``r, q`` (lambda_r < lambda_s):

    first order (DDIM)   H = 0
    2M                   H = alpha_t (1 - e^{-h}) (h / (2 h_0)) (D_s - D_r)
    3M                   H = alpha_t ((e^{-h} - 1) / h + 1) D'
                             - alpha_t (2 (e^{-h} - 1 + h) / h^2 - 1) D''

with ``h_0 = lambda_s - lambda_r``, ``h_1 = lambda_r - lambda_q`` and the divided
differences ``D'``, ``D''`` in units of h. Scalars are float64. (The published 3M code
has half of the last term, which makes it second order; here it is whole.)

References:
    Song et al. 2021, arXiv:2010.02502, Eq. 12 with sigma = 0.
    Lu et al. 2022, arXiv:2211.01095, Algorithm 2 (2M), Eq. 8 and 9 (3M).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jaxinv import TimeGrid

#: ``eps(x, t, rows=None)``: noise prediction of a batch, or of some of its rows.
Eps = Callable[..., Tensor]


class Level(NamedTuple):
    """One noise level of a variance-preserving model.

    Attributes:
        alpha: Scale of the data.
        sigma: Scale of the noise.
        time: The timestep that the network is given.
    """

    alpha: float
    sigma: float
    time: float

    @property
    def log_snr(self) -> float:
        """Half of the log signal-to-noise ratio, log(alpha / sigma)."""
        return math.log(self.alpha / self.sigma) if self.sigma > 0 else math.inf


def level(tau: float, time: float) -> Level:
    """Return the level of a noise-to-signal ratio ``tau = sigma / alpha``."""
    alpha = 1 / math.sqrt(1 + tau**2)
    return Level(alpha, alpha * tau, time)


def levels(grid: TimeGrid) -> list[Level]:
    """Return the levels of a grid, data first.

    Raises:
        ValueError: If the grid is not one of a variance-preserving schedule.
    """
    if not np.allclose(grid.scale, 1 / np.sqrt(1 + grid.tau**2)):
        raise ValueError("the PyTorch references are for variance-preserving schedules")
    pairs = zip(grid.tau, grid.model_time, strict=True)
    return [level(float(tau), float(time)) for tau, time in pairs]


def step_orders(
    grid: TimeGrid, order: int, *, lower_order_final: bool = True
) -> list[int]:
    """Order of the step to level i - 1, at index i - 1.

    The first steps of the sampler have no history yet. A step that ends without noise,
    at an infinite lambda, is first order.

    Args:
        grid: The noise levels.
        order: Nominal order, 1 to 3.
        lower_order_final: With fewer than 15 steps make the last step first order and
            the one before at most second order, as diffusers does.

    Returns:
        N orders; index 0 is the sampler's last step.
    """
    n = grid.num_steps
    orders = [min(order, n - i + 1) for i in range(1, n + 1)]
    if lower_order_final and n < 15:
        orders = [min(used, i) for i, used in enumerate(orders, 1)]
    if grid.tau[0] == 0:
        orders[0] = 1
    return orders


def data_prediction(x: Tensor, eps: Tensor, at: Level) -> Tensor:
    """Return the data that a noise prediction stands for."""
    return (x - at.sigma * eps) / at.alpha


def decay(target: Level, source: Level) -> float:
    """``e^{-h}``, the ratio of noise-to-signal ratios; 0 for a noiseless target."""
    return (target.sigma / target.alpha) / (source.sigma / source.alpha)


def first_order(x: Tensor, data: Tensor, target: Level, source: Level) -> Tensor:
    """One step of DDIM in terms of the data prediction."""
    gain = target.alpha * (1 - decay(target, source))
    return (target.sigma / source.sigma) * x + gain * data


def high_order(datas: Sequence[Tensor], path: Sequence[Level]) -> Tensor | float:
    """Return the high-order term H of a step.

    Args:
        datas: Data predictions, newest first: at the step's source and before.
        path: Target, source, and the levels before it: one more than ``datas``.

    Returns:
        H, to be added to the first-order step; 0 for one data prediction.
    """
    if len(datas) == 1:
        return 0.0
    target, logs = path[0], [at.log_snr for at in path]
    h, h0 = logs[0] - logs[1], logs[1] - logs[2]
    if h == 0:  # diffusers' linspace grids may end in a step that goes nowhere
        return 0.0
    newest = (h / h0) * (datas[0] - datas[1])
    if len(datas) == 2:
        return target.alpha * (1 - decay(target, path[1])) / 2 * newest
    h1 = logs[2] - logs[3]
    older = (h / h1) * (datas[1] - datas[2])
    first = newest + h0 / (h0 + h1) * (newest - older)
    second = h / (h0 + h1) * (newest - older)
    slope_gain = math.expm1(-h) / h + 1
    curvature_gain = 1 - 2 * (math.expm1(-h) + h) / h**2
    return target.alpha * (slope_gain * first + curvature_gain * second)


@torch.no_grad()
def dpmpp(
    grid: TimeGrid,
    eps: Eps,
    noise: Tensor,
    *,
    order: int,
    lower_order_final: bool = True,
) -> Tensor:
    """DPM-Solver++, multistep: 1, 2M or 3M.

    Args:
        grid: N + 1 noise levels.
        eps: Noise prediction.
        noise: Unit noise, shape (b, c, h, w).
        order: 1 (DDIM), 2 or 3.
        lower_order_final: See :func:`step_orders`.

    Returns:
        All states, data first, shape (N + 1, b, c, h, w).
    """
    points = levels(grid)
    orders = step_orders(grid, order, lower_order_final=lower_order_final)
    states, datas = [noise], []
    for i in range(grid.num_steps, 0, -1):
        x, source, target = states[0], points[i], points[i - 1]
        datas.insert(0, data_prediction(x, eps(x, source.time), source))
        used = orders[i - 1]
        x = first_order(x, datas[0], target, source)
        states.insert(0, x + high_order(datas[:used], points[i - 1 : i + used]))
    return torch.stack(states)


def ddim(grid: TimeGrid, eps: Eps, noise: Tensor) -> Tensor:
    """Deterministic DDIM; all states as of :func:`dpmpp`."""
    return dpmpp(grid, eps, noise, order=1)
