r"""Tables of the multistep DPM-Solver++ and DPM-Solver.

Both are Adams-Bashforth methods in half the log-SNR ``lambda`` (see
:mod:`jaxinv.samplers.exponential`), of the data prediction ``D = y - tau f``
(DPM-Solver++) or of the noise prediction (DPM-Solver). Their first-order version is
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

# Factor on the integral of u^2 in the published third-order row.
PUBLISHED_CURVATURE = 0.5


@checked
def dpmpp_2m(
    grid: TimeGrid, *, lower_order_final: bool = True, euler_at_final: bool = False
) -> LinearMultistep:
    r"""Return DPM-Solver++(2M), the most widely used sampler.

    With ``h = lambda[i-1] - lambda[i]`` and ``r = (lambda[i] - lambda[i+1]) / h``,

        y[i-1] = e^{-h} y[i] + (1 - e^{-h}) [(1 + 1/(2r)) D[i] - 1/(2r) D[i+1]]

    for VP and VE (a flow has ``tau[i-1]/tau[i]`` and ``1 - tau[i-1]/tau[i]`` for the
    two factors). The first step is of first order, and so is a step to ``tau = 0``.

    Args:
        grid: The noise levels.
        lower_order_final: Whether the last step has first order if there are fewer than
            15 steps, as in diffusers.
        euler_at_final: Whether the last step always has first order.

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
    r"""Return DPM-Solver++(3M), which interpolates the data prediction over 3 levels.

    The parabola through D[i], D[i+1], D[i+2] is integrated exactly, which gives third
    order. The published code and diffusers have second order: see
    :func:`dpmpp_3m_diffusers`.

    Args:
        grid: The noise levels.
        lower_order_final: Whether the last step has first and the step before it second
            order if there are fewer than 15 steps, as in diffusers.
        euler_at_final: Whether the last step always has first order.

    Returns:
        A third-order table with a memory of three states (fewer on a grid with fewer
        steps).

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
    r"""Return DPM-Solver++(3M) as implemented by diffusers, to invert its images.

    The published code uses the second divided difference as the second derivative,
    which is twice as large. Its last correction is therefore half the exact one, and
    the method has second order (measured in the tests), with a smaller error than 2M.

    Args:
        grid: The noise levels.
        lower_order_final: See :func:`dpmpp_3m`.
        euler_at_final: See :func:`dpmpp_3m`.

    Returns:
        A second-order table with a memory of three states (fewer on a grid with fewer
        steps).

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
    r"""Return the second-order multistep DPM-Solver, with the noise prediction e.

    For a VP model, with h and r as in :func:`dpmpp_2m` and e = f,

        y[i-1] = y[i] - tau[i-1] (e^h - 1) [(1 + 1/(2r)) e[i] - 1/(2r) e[i+1]].

    For third order use ``deis(grid, 3)``, the same method with exact integrals.

    Args:
        grid: The noise levels.
        lower_order_final: Whether the last step has first order if there are fewer than
            15 steps, as in diffusers.
        euler_at_final: Whether the last step always has first order.

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
