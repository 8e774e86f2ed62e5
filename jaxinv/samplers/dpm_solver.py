r"""DPM-Solver++ and DPM-Solver, multistep: constructors of tables.

Both are Adams-Bashforth methods in half the log-SNR ``lambda`` (see
:mod:`jaxinv.samplers.exponential`), of the data prediction ``D = y - tau f``
(DPM-Solver++) or of the noise prediction (DPM-Solver). Their first order is
:func:`~jaxinv.samplers.multistep.ddim`.
"""

from jaxinv.checks import checked
from jaxinv.diffusion.grid import TimeGrid
from jaxinv.samplers.exponential import (
    exponential_rows,
    lowered_last,
    multistep_orders,
)
from jaxinv.samplers.table import LinearMultistep, from_rows

# What the published third-order row weighs the integral of u^2 with.
PUBLISHED_CURVATURE = 0.5


@checked
def dpmpp_2m(
    grid: TimeGrid, *, lower_order_final: bool = True, euler_at_final: bool = False
) -> LinearMultistep:
    r"""DPM-Solver++(2M), the sampler most people use.

    With ``h = lambda[i-1] - lambda[i]`` and ``r = (lambda[i] - lambda[i+1]) / h``,

        y[i-1] = e^{-h} y[i] + (1 - e^{-h}) [(1 + 1/(2r)) D[i] - 1/(2r) D[i+1]]

    for VP and VE (a flow has ``tau[i-1]/tau[i]`` and ``1 - tau[i-1]/tau[i]`` for the
    two factors). The first step is of first order, and so is a step to ``tau = 0``.

    Args:
        grid: the noise levels.
        lower_order_final: make the last step of first order when there are fewer than
            15 steps, as diffusers does.
        euler_at_final: make it of first order for any number of steps.

    Returns:
        A second-order table with a memory of two states (one, on a grid of one step).

    References:
        Lu et al. 2022, "DPM-Solver++", arXiv:2211.01095, Algorithm 2.
    """
    last = lowered_last(grid, few=lower_order_final, always=euler_at_final)
    a, b = exponential_rows(grid, multistep_orders(grid, 2, last=last))
    return from_rows(grid, a, b, name="dpmpp_2m", order=2)


@checked
def dpmpp_3m(
    grid: TimeGrid, *, lower_order_final: bool = True, euler_at_final: bool = False
) -> LinearMultistep:
    r"""DPM-Solver++(3M): the data prediction interpolated over three levels.

    The parabola through D[i], D[i+1], D[i+2] is integrated exactly, which makes it of
    third order. The published code, and diffusers with it, is of second order: see
    :func:`dpmpp_3m_diffusers`.

    Args:
        grid: the noise levels.
        lower_order_final: when there are fewer than 15 steps, make the last step of
            first and the one before it of second order, as diffusers does.
        euler_at_final: make the last step of first order for any number of steps.

    Returns:
        A third-order table with a memory of three states (of all states, on a grid with
        fewer steps).

    References:
        Lu et al. 2022, "DPM-Solver++", arXiv:2211.01095, Eq. 8 and 9, with three terms.
    """
    last = lowered_last(grid, few=lower_order_final, always=euler_at_final)
    a, b = exponential_rows(grid, multistep_orders(grid, 3, last=last))
    return from_rows(grid, a, b, name="dpmpp_3m", order=3)


@checked
def dpmpp_3m_diffusers(
    grid: TimeGrid, *, lower_order_final: bool = True, euler_at_final: bool = False
) -> LinearMultistep:
    r"""DPM-Solver++(3M) as diffusers steps, for images that were made with it.

    The published code takes the second divided difference for the second derivative,
    which is twice as large. Its last correction is thus half of the exact one, and the
    method is of second order (measured in the tests), with a smaller error than 2M.

    Args:
        grid: the noise levels.
        lower_order_final: as for :func:`dpmpp_3m`.
        euler_at_final: as for :func:`dpmpp_3m`.

    Returns:
        A second-order table with a memory of three states (of all states, on a grid
        with fewer steps).

    References:
        diffusers' ``DPMSolverMultistepScheduler`` with ``solver_order=3``.
    """
    last = lowered_last(grid, few=lower_order_final, always=euler_at_final)
    orders = multistep_orders(grid, 3, last=last)
    a, b = exponential_rows(grid, orders, curvature=PUBLISHED_CURVATURE)
    return from_rows(grid, a, b, name="dpmpp_3m_diffusers", order=2)


@checked
def dpm_solver_2m(
    grid: TimeGrid, *, lower_order_final: bool = True, euler_at_final: bool = False
) -> LinearMultistep:
    r"""DPM-Solver of second order, multistep: the noise prediction e in place of D.

    For a VP model, with h and r as in :func:`dpmpp_2m` and e = f,

        y[i-1] = y[i] - tau[i-1] (e^h - 1) [(1 + 1/(2r)) e[i] - 1/(2r) e[i+1]].

    Third order is ``deis(grid, 3)``, which is the same method with exact integrals.

    Args:
        grid: the noise levels.
        lower_order_final: make the last step of first order when there are fewer than
            15 steps, as diffusers does.
        euler_at_final: make it of first order for any number of steps.

    Returns:
        A second-order table with a memory of two states (one, on a grid of one step).

    References:
        Lu et al. 2022, "DPM-Solver", arXiv:2206.00927, Eq. 3.4, in the multistep form
        of diffusers' ``algorithm_type="dpmsolver"``.
    """
    last = lowered_last(grid, few=lower_order_final, always=euler_at_final)
    orders = multistep_orders(grid, 2, last=last)
    a, b = exponential_rows(grid, orders, prediction="noise")
    return from_rows(grid, a, b, name="dpm_solver_2m", order=2)
