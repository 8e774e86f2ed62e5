r"""DPM-Solver++ and DPM-Solver, multistep: constructors of tables.

Both are Adams-Bashforth methods in half the log-SNR ``lambda`` (see
:mod:`jaxinv.samplers.exponential`), of the data prediction ``D = y - tau f``
(DPM-Solver++) or of the noise prediction (DPM-Solver). Their first order is
:func:`~jaxinv.samplers.multistep.ddim`.
"""

from jaxinv.grid import TimeGrid
from jaxinv.samplers.exponential import exponential_rows, multistep_orders
from jaxinv.samplers.table import LinearMultistep, from_rows

# diffusers lowers the order of the last steps below this number of steps.
FEW_STEPS = 15


def dpmpp_2m(
    grid: TimeGrid, *, lower_order_final: bool = True, euler_at_final: bool = False
) -> LinearMultistep:
    r"""DPM-Solver++(2M), the sampler most people use.

    With ``h = lambda[i-1] - lambda[i]`` and ``r = (lambda[i] - lambda[i+1]) / h``,

        y[i-1] = e^{-h} y[i] + (1 - e^{-h}) [(1 + 1/(2r)) D[i] - 1/(2r) D[i+1]]

    (times the signal in front of the bracket for flow matching). The first step is of
    first order, and so is a step to ``tau = 0``.

    Args:
        grid: the noise levels.
        lower_order_final: make the last step of first order when there are fewer than
            15 steps, as diffusers does.
        euler_at_final: make it of first order for any number of steps.

    Returns:
        A second-order table with a memory of two states.

    References:
        Lu et al. 2022, "DPM-Solver++", arXiv:2211.01095, Algorithm 2.
    """
    last = _lowered(grid, 2, lower_order_final, euler_at_final)
    a, b = exponential_rows(grid, multistep_orders(grid, 2, last=last))
    return from_rows(grid, a, b, name="dpmpp_2m", order=2)


def dpmpp_3m(
    grid: TimeGrid, *, lower_order_final: bool = True, euler_at_final: bool = False
) -> LinearMultistep:
    r"""DPM-Solver++(3M): the data prediction interpolated over three levels.

    Args:
        grid: the noise levels.
        lower_order_final: when there are fewer than 15 steps, make the last step of
            first and the one before it of second order, as diffusers does.
        euler_at_final: make the last step of first order for any number of steps.

    Returns:
        A third-order table with a memory of three states.

    References:
        Lu et al. 2022, "DPM-Solver++", arXiv:2211.01095, Eq. 8 and 9.
    """
    last = _lowered(grid, 3, lower_order_final, euler_at_final)
    a, b = exponential_rows(grid, multistep_orders(grid, 3, last=last))
    return from_rows(grid, a, b, name="dpmpp_3m", order=3)


def _lowered(
    grid: TimeGrid, order: int, lower_order_final: bool, euler_at_final: bool
) -> tuple[int, ...]:
    """Orders of the last steps, last step first."""
    if lower_order_final and grid.num_steps < FEW_STEPS:
        return (1, 2)
    return (1,) if euler_at_final else ()
