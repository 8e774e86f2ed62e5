r"""diffusers' IPNDMScheduler: iPNDM on the grid of Dance Diffusion.

The first level is pure noise, where diffusers divides the data prediction's numerator,
which is zero, by 1e-8: the first step is ``x' = sigma' e``.

References:
    Liu et al. 2022, arXiv:2202.09778, Eq. 12; diffusers' ``IPNDMScheduler``.
"""

import numpy as np

from jaxinv.diffusion.grid import TimeGrid
from jaxinv.samplers.adams import ADAMS_BASHFORTH
from jaxinv.samplers.table import SamplerTable, from_rows


def ipndm_diffusers(grid: TimeGrid) -> SamplerTable:
    """Return iPNDM of order 4 on :func:`jaxinv.diffusion.dance_diffusion.ipndm_grid`.

    Args:
        grid: The grid.
    """
    n = grid.num_steps
    k = min(n, len(ADAMS_BASHFORTH))
    a, noise = np.zeros((n, k)), np.zeros((n, k))
    # From pure noise, only the noise goes on.
    noise[-1, 0] = grid.tau[n - 1]
    for i in range(1, n):
        weights = ADAMS_BASHFORTH[min(k, n + 1 - i) - 1]
        a[i - 1, 0] = 1
        noise[i - 1, : len(weights)] = (grid.tau[i - 1] - grid.tau[i]) * weights
    zeros = np.zeros_like(a)
    return from_rows(grid, a, zeros, name="ipndm_diffusers", order=2, noise=noise)
