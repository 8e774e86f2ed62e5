r"""RF-Solver and FireFlow: midpoint methods that were made for rectified flows.

Both take steps from level i to level i - 2 of a grid and evaluate the model at the
level between them, the *midpoint*. With ``h = tau[i-2] - tau[i]``, its part ``m =
tau[i-1] - tau[i]``, and the model's output g at the midpoint,

    RF-Solver:    y[i-2] = y[i] + h f[i] + h^2/2 (g - f[i]) / m,    g at y[i] + m f[i],
    FireFlow:     y[i-2] = y[i] + h g,                        g at y[i] + m g_before.

RF-Solver is a Taylor series whose derivative is a finite difference. If the midpoint is
in the middle, ``m = h/2``, it is the midpoint rule. FireFlow is the midpoint rule with
the last step's g in place of f[i], so that the model is not evaluated at y[i], except
in the first step, which has no last one.

The papers' midpoints lie in the middle of a step of the flow's time, which
:func:`with_midpoints` adds to a grid of steps. On other grids every second level is
taken for a midpoint.

References:
    Wang et al. 2025, "Taming Rectified Flow for Inversion and Editing",
    arXiv:2411.04746; Deng et al. 2025, "FireFlow: Fast Inversion of Rectified Flow for
    Image Semantic Editing", arXiv:2412.07517.
"""

import dataclasses

import numpy as np

from jaxinv.checks import checked
from jaxinv.diffusion.grid import TimeGrid
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.samplers.table import Levels, SamplerTable, Weights, from_evaluations


@checked
def with_midpoints(schedule: NoiseSchedule, grid: TimeGrid) -> TimeGrid:
    """Add the middle of every step of a grid, for midpoint methods.

    Args:
        schedule: The model's schedule, which knows the scales and times of new levels.
        grid: The N steps, noise levels tau.

    Returns:
        A grid of 2 N steps, whose levels of even number are those of ``grid``. A last
        step of length zero has no midpoint; midpoint methods take it for Euler's.

    Example:
        >>> import jaxinv as ji
        >>> schedule = ji.flow_matching(shift=3.0)
        >>> grid = ji.with_midpoints(schedule, ji.time_grid(schedule, 28))
        >>> ji.rf_solver(grid).num_steps, ji.rf_solver(grid).num_rows
        (28, 56)
        >>> ji.fireflow(grid).num_steps, ji.fireflow(grid).num_rows
        (28, 29)
    """
    after = np.flatnonzero(np.diff(grid.tau)) + 1
    middle = (grid.tau[after - 1] + grid.tau[after]) / 2
    return dataclasses.replace(
        grid,
        tau=np.insert(grid.tau, after, middle),
        scale=np.insert(grid.scale, after, schedule.scale(middle)),
        model_time=np.insert(grid.model_time, after, schedule.model_time(middle)),
    )


@checked
def rf_solver(grid: TimeGrid) -> SamplerTable:
    """Return RF-Solver: a Taylor series of order 2, two evaluations per step.

    Args:
        grid: The noise levels of all evaluations, every second one a midpoint
            (:func:`with_midpoints`).

    Returns:
        A second-order table with two rows for each of ``(N + 1) // 2`` steps. If N is
        odd, one level is left for a last step, which is Euler's.

    References:
        Wang et al. 2025, arXiv:2411.04746, Algorithm 1.
    """
    n, tau = grid.num_steps, grid.tau
    rows, stages = list[Weights](), set[int]()
    for i in range(n, 1, -2):
        start, part, step = len(rows), tau[i - 1] - tau[i], tau[i - 2] - tau[i]
        difference = step**2 / 2 / part
        stages.add(start + 1)
        rows.append({start: (1.0, part)})
        rows.append({start + 1: (0.0, difference), start: (1.0, step - difference)})
    if n % 2:
        rows.append({n - 1: (1.0, tau[0] - tau[1])})
    return from_evaluations(grid, rows, name="rf_solver", order=2, stages=stages)


@checked
def fireflow(grid: TimeGrid) -> SamplerTable:
    """Return FireFlow: the midpoint rule with one evaluation per step.

    Its states are the first and the midpoints p. The states in between, which the model
    never sees, are eliminated: with the output g at p, primes for the next step, and
    g_before of the step before, ``p' = p - m g_before + (h + m') g``.

    Args:
        grid: The noise levels, every second one a midpoint (:func:`with_midpoints`).

    Returns:
        A second-order table with a row for each of ``(N + 1) // 2`` steps and one for
        the start. If N is odd, one level is left for a last step, at whose start the
        model is evaluated, as in Euler's method.

    Raises:
        ValueError: For a single level, which is no midpoint.

    References:
        Deng et al. 2025, arXiv:2412.07517, Algorithm 1.
    """
    n, tau = grid.num_steps, grid.tau
    if n < 2:
        raise ValueError("fireflow needs a midpoint: a grid of at least 2 steps, got 1")
    starts = np.arange(n, 0, -2)
    seen, ends = np.maximum(starts - 1, 1), np.maximum(starts - 2, 0)
    step, part = tau[ends] - tau[starts], tau[seen] - tau[starts]
    newest = step + np.append(part[1:], 0)
    rows: list[Weights] = [{0: (1.0, part[0])}]
    rows += [
        {e: (1.0, newest[e - 1]), e - 1: (0.0, -part[e - 1])}
        for e in range(1, len(starts) + 1)
    ]
    levels = Levels.of(grid, [0, *reversed(seen), n])
    return from_evaluations(levels, rows, name="fireflow", order=2, stages={1})
