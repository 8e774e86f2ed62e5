r"""Tables of DPM-Solver++ and DPM-Solver, multistep and singlestep.

Both integrate a polynomial in half the log-SNR ``lambda`` (see
:mod:`jaxinv.samplers.exponential`), which interpolates the data prediction ``D = y -
tau f`` (DPM-Solver++) or the noise prediction (DPM-Solver). The multistep methods take
its nodes from earlier steps, the singlestep methods from stages within the step. The
first-order version is :func:`~jaxinv.samplers.multistep.ddim`.
"""

from collections.abc import Sequence

import numpy as np

from jaxinv.checks import checked
from jaxinv.diffusion.grid import TimeGrid
from jaxinv.samplers.exponential import (
    Prediction,
    SecondOrder,
    corrections,
    exponential_rows,
    lowered_last,
    multistep_orders,
)
from jaxinv.samplers.table import (
    SamplerTable,
    Weights,
    from_evaluations,
    from_predictions,
)

# Factor on the integral of u^2 in the published third-order row.
PUBLISHED_CURVATURE = 0.5


@checked
def dpmpp_2m(
    grid: TimeGrid, *, lower_order_final: bool = True, euler_at_final: bool = False
) -> SamplerTable:
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
    rows = exponential_rows(grid, multistep_orders(grid, 2, last=last))
    return from_predictions(grid, *rows, name="dpmpp_2m", order=2)


@checked
def dpmpp_3m(
    grid: TimeGrid, *, lower_order_final: bool = True, euler_at_final: bool = False
) -> SamplerTable:
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
    rows = exponential_rows(grid, multistep_orders(grid, 3, last=last))
    return from_predictions(grid, *rows, name="dpmpp_3m", order=3)


@checked
def dpmpp_3m_diffusers(
    grid: TimeGrid, *, lower_order_final: bool = True, euler_at_final: bool = False
) -> SamplerTable:
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
    rows = exponential_rows(grid, orders, curvature=PUBLISHED_CURVATURE)
    return from_predictions(grid, *rows, name="dpmpp_3m_diffusers", order=2)


@checked
def dpm_solver_2m(
    grid: TimeGrid, *, lower_order_final: bool = True, euler_at_final: bool = False
) -> SamplerTable:
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
    rows = exponential_rows(grid, orders, prediction="noise")
    return from_predictions(grid, *rows, name="dpm_solver_2m", order=2)


@checked
def dpm_solver_singlestep(
    grid: TimeGrid,
    order: int = 2,
    *,
    prediction: Prediction = "data",
    second_order: SecondOrder = "midpoint",
    lower_order_final: bool = True,
) -> SamplerTable:
    r"""Return the singlestep DPM-Solver++ (or DPM-Solver), of order 1 to 3.

    A step of order k starts at level i, has its stages at levels i - 1 .. i - k + 1,
    each by the method of the next lower order, and ends at level i - k. The number of
    evaluations is N, as for the multistep methods.

    Args:
        grid: The noise levels of all evaluations.
        order: 1 (then this is DDIM) to 3.
        prediction: The interpolated prediction, ``"data"`` or ``"noise"``.
        second_order: Weight of the difference in rows of order 2. The rows of order 3
            interpolate all three evaluations for ``"exact"``, and otherwise, as in
            diffusers, only the first and the last.
        lower_order_final: Whether the remaining steps are taken with lower orders if
            the order does not divide N, and the last step has order 1.

    Returns:
        A table of this order with a memory of ``order`` states.

    Raises:
        ValueError: For another order, or one that does not divide N.

    References:
        Lu et al. 2022, "DPM-Solver", arXiv:2206.00927, Algorithms 1 and 2; "DPM-Solver
        ++", arXiv:2211.01095, Algorithm 1; diffusers' ``DPMSolverSinglestepScheduler``.
    """
    orders = singlestep_orders(grid.num_steps, order, lowered=lower_order_final)
    return singlestep(
        grid,
        orders,
        prediction=prediction,
        second_order=second_order,
        name=f"dpm_solver_singlestep_{order}",
    )


def singlestep_orders(num_steps: int, order: int, *, lowered: bool) -> list[int]:
    """Return the order of each evaluation's row, noise first: 1, 2, 3, 1, 2, 3, ...

    Args:
        num_steps: N.
        order: The order of full steps.
        lowered: See :func:`dpm_solver_singlestep`.

    Raises:
        ValueError: If the order does not divide N, unless it is lowered.
    """
    if order not in (1, 2, 3):
        raise ValueError(
            f"the singlestep DPM-Solver has the orders 1 to 3, got {order!r}"
        )
    if not lowered and num_steps % order:
        raise ValueError(
            f"singlestep methods of order {order} take {order} evaluations a step, "
            f"which do not divide {num_steps}; use lower_order_final or another number "
            "of steps"
        )
    orders = [e % order + 1 for e in range(num_steps)]
    if lowered and order > 1 and num_steps % order == 0:
        orders[-order:] = [*range(1, order), 1]
    return orders


def singlestep(
    grid: TimeGrid,
    orders: Sequence[int],
    *,
    prediction: Prediction,
    second_order: SecondOrder,
    name: str,
) -> SamplerTable:
    """Return a singlestep method from the order of each evaluation's row.

    Args:
        grid: The noise levels of all evaluations.
        orders: The orders, noise first; a row of order 1 begins a step.
        prediction: See :func:`dpm_solver_singlestep`.
        second_order: See :func:`dpm_solver_singlestep`.
        name: The sampler's name.
    """
    n, rows = grid.num_steps, list[Weights]()
    for e, order in enumerate(orders):
        start, target = e - order + 1, n - e - 1
        used = [start, *range(start + 1, e + 1)]
        if order == 3 and second_order != "exact":
            used = [start, e]
        rule: SecondOrder = second_order if order == 2 else "exact"
        weights = np.zeros((4, len(used)))
        if order > 1 and np.isfinite(grid.log_snr[n - start]):
            weights[2 if prediction == "data" else 3] = corrections(
                grid,
                n - np.array(used),
                target,
                prediction=prediction,
                second_order=rule,
            )
        weights[2:, 0] += grid.signal[target], grid.tau[target]
        rows.append(dict(zip(used, map(tuple, weights.T), strict=True)))
    # As in diffusers, every evaluation is one of the N steps.
    return from_evaluations(grid, rows, name=name, order=max(orders))
