r"""Stochastic samplers, as tables of deterministic steps plus given noises.

A step to the noise level tau' can keep a part of the noise and replace the rest: the
predicted noise e has the weight ``down`` and fresh noise z the weight ``up``, with
``down^2 + up^2 = tau'^2``. DDPM's posterior, k-diffusion's ancestral Euler steps and
the first-order SDE solver of DPM-Solver++ are all

    y' = D + down e + up z,     down = tau'^2 / tau,   up = tau' sqrt(1 - (tau'/tau)^2),

and differ in their grids. Once the noises z are given (:meth:`.with_noises`), the
sampler is deterministic, and is inverted like any other.
"""

from typing import Annotated

import numpy as np
from jaxtyping import Float, Int

from jaxinv.checks import Range, checked
from jaxinv.diffusion.grid import TimeGrid
from jaxinv.samplers.exponential import (
    SecondOrder,
    divided_differences,
    lowered_last,
    multistep_orders,
)
from jaxinv.samplers.table import SamplerTable, from_predictions

Eta = Annotated[float, Range(0, 1)]


@checked
def ancestral(grid: TimeGrid, eta: Eta = 1.0) -> SamplerTable:
    """Return the ancestral sampler: DDPM, and DDIM with noise.

    ``y[i-1] = D[i] + down e[i] + up z[i]`` with ``up = eta tau[i-1] sqrt(1 -
    (tau[i-1]/tau[i])^2)`` and ``down^2 = tau[i-1]^2 - up^2``.

    Args:
        grid: The noise levels of a VP or VE schedule.
        eta: Share of the noise; 0 is :func:`jaxinv.ddim`, 1 is DDPM with the smaller of
            its two variances, and k-diffusion's ancestral Euler.

    Returns:
        A stochastic table with a memory of one state; see ``with_noises``. It is
        deterministic, and takes no noises, where none is added: for an eta of 0, and
        for one step to ``tau = 0``.

    Raises:
        ValueError: For a flow, or eta outside of [0, 1].

    References:
        Ho et al. 2020, arXiv:2006.11239, Eq. 6 and 7; Song et al. 2021,
        arXiv:2010.02502, Eq. 12 and 16; k-diffusion's ``sample_euler_ancestral``.
    """
    _check_family("ancestral", grid)
    up = eta * full_noise(grid)
    down = np.sqrt(np.maximum(grid.tau[:-1] ** 2 - up**2, 0))
    name = "ancestral" if eta == 1 else f"ancestral({eta:g})"
    return renewing(grid, up, down, name=name)


def full_noise(grid: TimeGrid) -> Float[np.ndarray, "n"]:
    """Return the standard deviation of DDPM's posterior, in the unit of y."""
    after, ratio = grid.tau[:-1], grid.tau[:-1] / grid.tau[1:]
    return after * np.sqrt(np.maximum((1 - ratio) * (1 + ratio), 0))


def renewing(
    grid: TimeGrid,
    up: Float[np.ndarray, "n"],
    down: Float[np.ndarray, "n"],
    *,
    name: str,
) -> SamplerTable:
    """Return the sampler that renews a part of the noise of every level.

    Args:
        grid: The noise levels.
        up: Standard deviation of the new noise of levels 0 .. N - 1, in the unit of y.
        down: Weight of the predicted noise there.
        name: The sampler's name.
    """
    data = np.ones((len(up), 1))
    return from_predictions(grid, data, down[:, None], name=name, order=1, added=up)


@checked
def sde_dpm_solver(
    grid: TimeGrid,
    order: int = 2,
    *,
    second_order: SecondOrder = "midpoint",
    lower_order_final: bool = True,
    euler_at_final: bool = False,
) -> SamplerTable:
    r"""Return SDE-DPM-Solver++, multistep, of order 1 to 3.

    With ``h = lambda[i-1] - lambda[i]``, and the data prediction interpolated as in
    :func:`jaxinv.dpmpp_2m`,

        y[i-1] = (tau[i-1]/tau[i]) e^{-h} y[i] + (1 - e^{-2h}) D + w_1 D' + w_2 D''
                 + tau[i-1] sqrt(1 - e^{-2h}) z.

    Args:
        grid: The noise levels of a VP or VE schedule.
        order: 1 (then this is :func:`ancestral`) to 3.
        second_order: Weight of the first difference: ``"exact"``, its integral (with
            order 3 always), or ``"midpoint"``, ``(1 - e^{-2h}) / 2``.
        lower_order_final: See :func:`jaxinv.dpmpp_2m`.
        euler_at_final: See :func:`jaxinv.dpmpp_2m`.

    Returns:
        A stochastic table with a memory of ``order`` states; see ``with_noises``. Its
        order is that of the deterministic part.

    Raises:
        ValueError: For a flow or another order.

    References:
        Lu et al. 2022, "DPM-Solver++", arXiv:2211.01095, Section 6 and Eq. 18;
        diffusers' ``DPMSolverMultistepScheduler`` with ``"sde-dpmsolver++"``.
    """
    _check_family("sde_dpm_solver", grid)
    if order not in (1, 2, 3):
        raise ValueError(f"sde_dpm_solver has the orders 1 to 3, got {order!r}")
    last = lowered_last(grid, few=lower_order_final, always=euler_at_final)
    orders = multistep_orders(grid, order, last=last)
    data, noise = sde_rows(grid, orders, second_order)
    return from_predictions(
        grid,
        data,
        noise,
        name=f"sde_dpm_solver_{order}",
        order=order,
        added=full_noise(grid),
    )


def sde_rows(
    grid: TimeGrid, orders: Int[np.ndarray, "n"], second_order: SecondOrder
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Return the weights of data and noise predictions in rows of given orders.

    The derivatives of D are those of diffusers: the second is a divided difference over
    the three levels, without the factor of 2.
    """
    n, k = grid.num_steps, int(orders.max())
    data, noise = np.zeros((n, k)), np.zeros((n, k))
    data[:, 0] = 1
    with np.errstate(invalid="ignore"):
        noise[:, 0] = grid.tau[:-1] ** 2 / grid.tau[1:]
    for i in (np.flatnonzero(orders > 1) + 1).tolist():
        nodes = grid.log_snr[i : i + orders[i - 1]]
        h = grid.log_snr[i - 1] - nodes[0]
        if not np.isfinite(nodes).all():
            # Differences that reach pure noise vanish.
            nodes = nodes[np.isfinite(nodes)]
        if len(nodes) < 2:
            continue
        decay = -np.expm1(-2 * h)
        first, second = 1 - decay / (2 * h), (decay - 2 * h) / (2 * h) ** 2 - 0.5
        if orders[i - 1] == 2 and second_order == "midpoint":
            first = decay / 2
        # Differences in units of h.
        at = (nodes - nodes[0]) / h
        difference = divided_differences(at)
        weights = first * difference[1]
        if len(nodes) == 3:
            # D' at the newest level, from both differences.
            weights = weights + (second - first * at[1]) * difference[2]
        data[i - 1, : len(weights)] += weights
    return data, noise


def _check_family(name: str, grid: TimeGrid) -> None:
    if grid.family == "flow":
        raise ValueError(f"{name} is defined for VP and VE schedules, not for flows")
