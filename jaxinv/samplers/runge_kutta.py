r"""Runge-Kutta methods of order 2: Heun's, and the midpoint rule of k-diffusion.

Both evaluate the model twice per step from level i to level i - 1. The first evaluation
is that of Euler's method, and its state is a stage of the table
(:mod:`jaxinv.samplers.table`). A step to ``tau = 0``, where a model is not defined, is
Euler's.
"""

from jaxinv.checks import checked
from jaxinv.diffusion.grid import TimeGrid
from jaxinv.samplers.table import Levels, SamplerTable, Weights, from_evaluations


@checked
def heun(grid: TimeGrid) -> SamplerTable:
    """Return Heun's method: the trapezoidal rule with Euler's step as a predictor.

    ``p = y[i] + d f[i],  y[i-1] = y[i] + d/2 (f[i] + f(p, tau[i-1]))``

    with ``d = tau[i-1] - tau[i]``.

    Args:
        grid: The noise levels.

    Returns:
        A second-order table with two rows for each step, and one for a last step to
        ``tau = 0``.

    References:
        Karras et al. 2022, arXiv:2206.00364, Algorithm 1, in the coordinates of
        :mod:`jaxinv.diffusion.schedule`; diffusers' ``HeunDiscreteScheduler``.
    """
    which, rows, stages = [grid.num_steps], list[Weights](), set[int]()
    for i in range(grid.num_steps, 0, -1):
        start, step = len(rows), grid.tau[i - 1] - grid.tau[i]
        rows.append({start: (1.0, step)})
        which.append(i - 1)
        if grid.tau[i - 1] > 0:
            stages.add(start + 1)
            rows.append({start + 1: (0.0, step / 2), start: (1.0, step / 2)})
            which.append(i - 1)
    levels = Levels.of(grid, which[::-1])
    return from_evaluations(levels, rows, name="heun", order=2, stages=stages)


@checked
def kdpm2(grid: TimeGrid) -> SamplerTable:
    """Return the midpoint rule, with every second level of a grid as the midpoint.

    ``p = y[i] + (tau[i-1] - tau[i]) f[i],  y[i-2] = y[i] + (tau[i-2] - tau[i]) f(p)``

    If the midpoints halve the steps in log-SNR, as on grids uniform in it, the order is
    2. An odd number of levels leaves one for a last step, which is Euler's.

    Args:
        grid: The noise levels of all evaluations: of N for a method of N calls.

    Returns:
        A second-order table with two rows for each of ``(N + 1) // 2`` steps, one for a
        last step if N is odd.

    References:
        Karras et al. 2022, arXiv:2206.00364, Algorithm 2 without noise; k-diffusion's
        ``sample_dpm_2`` and diffusers' ``KDPM2DiscreteScheduler``.
    """
    n, tau = grid.num_steps, grid.tau
    rows, stages = list[Weights](), set[int]()
    for i in range(n, 1, -2):
        start = len(rows)
        stages.add(start + 1)
        rows.append({start: (1.0, tau[i - 1] - tau[i])})
        rows.append({start + 1: (0.0, tau[i - 2] - tau[i]), start: (1.0, 0.0)})
    if n % 2:
        rows.append({n - 1: (1.0, tau[0] - tau[1])})
    return from_evaluations(grid, rows, name="kdpm2", order=2, stages=stages)
