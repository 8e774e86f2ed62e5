r"""LMS, DEIS and iPNDM: Adams-Bashforth methods of the model output.

All extrapolate f (the noise prediction of a VP model) from its last k values. LMS and
DEIS integrate the extrapolation exactly on the given grid, LMS a polynomial in ``tau``,
DEIS in log-SNR; iPNDM uses the textbook coefficients of even steps on every grid.
"""

import numpy as np

from jaxinv.checks import checked
from jaxinv.diffusion.grid import TimeGrid
from jaxinv.samplers.bidirectional import polynomial_row, table_of_rows
from jaxinv.samplers.exponential import (
    check_order,
    exponential_rows,
    lowered_last,
    multistep_orders,
)
from jaxinv.samplers.table import SamplerTable, from_predictions, from_rows

# Newest output first: Hairer, Norsett & Wanner, III.1, Table 1.1.
ADAMS_BASHFORTH = (
    np.array([1.0]),
    np.array([3.0, -1.0]) / 2,
    np.array([23.0, -16.0, 5.0]) / 12,
    np.array([55.0, -59.0, 37.0, -9.0]) / 24,
)


@checked
def deis(
    grid: TimeGrid, order: int = 2, *, lower_order_final: bool = True
) -> SamplerTable:
    """Return DEIS, which interpolates the noise prediction in ``log(sigma / alpha)``.

    This is the variant of diffusers ("logrho"): the polynomial through the last
    ``order`` noise predictions is a polynomial in ``log(sigma / alpha)`` and is
    integrated exactly, ``y[i-1] = y[i] + int e d(sigma / alpha)`` for a VP model. Since
    that variable is minus half the log-SNR, DEIS is the exponential Adams-Bashforth
    method in its noise form.

    Args:
        grid: The noise levels.
        order: 1 (then this is DDIM) to 3.
        lower_order_final: Whether the last step has first order and the step before it
            at most second order if there are fewer than 15 steps, as in diffusers.

    Returns:
        A table of this order with a memory of ``order`` states (fewer on a grid with
        fewer steps).

    Raises:
        ValueError: For another order.

    References:
        Zhang & Chen 2023, "Fast Sampling of Diffusion Models with Exponential
        Integrator", arXiv:2204.13902, Eq. 14 and 15; interpolation in log rho: the
        authors' code and diffusers' ``DEISMultistepScheduler``.
    """
    check_order("deis", order, 3)
    orders = multistep_orders(
        grid, order, last=lowered_last(grid, few=lower_order_final)
    )
    rows = exponential_rows(grid, orders, prediction="noise", second_order="exact")
    return from_predictions(grid, *rows, name=f"deis_{order}", order=order)


@checked
def lms(grid: TimeGrid, order: int = 4) -> SamplerTable:
    """Return the linear multistep method of k-diffusion: Adams-Bashforth in ``tau``.

    The polynomial through the last ``order`` values of f is integrated exactly on the
    given grid; the first steps use fewer.

    Args:
        grid: The noise levels.
        order: 1 (then this is DDIM) to 4.

    Returns:
        A table of this order with a memory of ``order`` states (fewer on a grid with
        fewer steps).

    Raises:
        ValueError: For another order.

    References:
        Hairer, Norsett & Wanner 1993, III.5, Eq. 5.4; k-diffusion's ``sample_lms`` and
        diffusers' ``LMSDiscreteScheduler``.
    """
    check_order("lms", order, 4)
    n, k = grid.num_steps, min(order, grid.num_steps)
    rows = [
        polynomial_row(grid, i, [0], range(min(k, n + 1 - i))) for i in range(n, 0, -1)
    ]
    return table_of_rows(grid, rows, k, name=f"lms_{order}", order=order)


@checked
def ipndm(grid: TimeGrid, order: int = 4) -> SamplerTable:
    """Return iPNDM: Adams-Bashforth with the constant coefficients of even steps.

    ``y[i-1] = y[i] + (tau[i-1] - tau[i]) sum_j c[j] f[i+j]`` with c = (1), (3, -1)/2,
    (23, -16, 5)/12 or (55, -59, 37, -9)/24; the first steps use fewer outputs.

    These coefficients are exact for even steps in ``tau``, where a row of k outputs has
    order k. On other smoothly varying grids (log-SNR, Karras) successive steps differ
    by ``O(h^2)``, and orders 3 and 4 drop to 2; :func:`deis` keeps its order there.

    Args:
        grid: The noise levels.
        order: 1 (then this is DDIM) to 4.

    Returns:
        A table with a memory of ``order`` states (fewer on a grid with fewer steps).
        Its ``order`` is 2 for orders 3 and 4 unless the steps are even.

    Raises:
        ValueError: For another order.

    References:
        Zhang & Chen 2023, arXiv:2204.13902, Appendix H.2; Liu et al. 2022, "Pseudo
        Numerical Methods for Diffusion Models on Manifolds", arXiv:2202.09778, Eq. 9
        and 12.
    """
    check_order("ipndm", order, len(ADAMS_BASHFORTH))
    steps = np.diff(grid.tau)
    b = np.zeros((grid.num_steps, min(order, grid.num_steps)))
    for i, step in enumerate(steps):
        k = min(order, len(steps) - i)
        b[i, :k] = -step * ADAMS_BASHFORTH[k - 1]
    a = np.zeros_like(b)
    a[:, 0] = 1.0
    even = np.allclose(steps, steps[0], rtol=1e-6)
    return from_rows(
        grid, a, b, name=f"ipndm_{order}", order=order if even else min(order, 2)
    )
