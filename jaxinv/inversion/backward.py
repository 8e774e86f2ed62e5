r"""Backward: the inverse of a sampler approximated by the sampler itself.

The ODE of sampling can be followed in both directions. RF-Solver and FireFlow invert by
their own method with the levels in reverse order, from the data to the noise. This
costs what sampling costs, and is wrong by the errors of both directions: the step up
evaluates the model at other states than the step down.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from jaxinv.checks import checked
from jaxinv.diffusion.grid import TimeGrid
from jaxinv.inversion.row_residuals import per_level
from jaxinv.inversion.stages import Solved, Stage, Task
from jaxinv.inversion.walk import measured
from jaxinv.samplers.table import SamplerTable
from jaxinv.samplers.units import in_f
from jaxinv.sampling.sample import descend
from jaxinv.sampling.steps import in_dtype


class _Upwards(TimeGrid):
    """The levels of a grid from data to noise, in place of noise to data."""

    def __post_init__(self) -> None:
        """Do not require increasing levels."""


@checked
@dataclasses.dataclass(frozen=True)
class Backward(Stage):
    """Inversion by sampling from the data to the noise, with the same method.

    Attributes:
        method: The sampler's constructor, for example :func:`jaxinv.fireflow`.
        grid: The grid that it was given.

    Example:
        >>> import jax, jaxinv as ji
        >>> schedule = ji.flow_matching()
        >>> grid = ji.with_midpoints(schedule, ji.time_grid(schedule, 28))
        >>> sampler, denoise = ji.rf_solver(grid), lambda x, t: 0.5 * x
        >>> x0 = jax.random.normal(jax.random.key(0), (4, 4, 3))
        >>> strategy = ji.Backward(ji.rf_solver, grid)
        >>> ji.invert(sampler, denoise, x0, strategy=strategy).reconstruction < 0.01
        Array(True, dtype=bool)

    References:
        Wang et al. 2025, arXiv:2411.04746, and Deng et al. 2025, arXiv:2412.07517.
    """

    method: Callable[[TimeGrid], SamplerTable]
    grid: TimeGrid

    def least_evals(self, table: SamplerTable) -> int:
        """Return all evaluations: one per row up, and one to measure each row."""
        return 2 * table.num_rows

    def solve(self, task: Task) -> Solved:
        """Sample upwards; see :class:`jaxinv.inversion.stages.Stage`."""
        table, n = task.table, task.table.num_rows
        up = self.upwards()
        if table.output is None:
            up = in_f(up)
        if up.output != table.output:
            raise ValueError(
                f"the grid of Backward is for networks that predict {up.output}, but "
                f"{table.name!r} is for {table.output}"
            )
        up = in_dtype(up, task.start.dtype)
        if up.num_rows != n:
            raise ValueError(
                f"Backward inverts a sampler by its own method: {table.name!r} has {n} "
                f"rows, the method has {up.num_rows}"
            )
        start = table.scale[0] * task.start
        xs = jnp.asarray(descend(up, task.denoise, start, keep=True)[1])
        states = xs[::-1][1:] / per_level(jnp.asarray(table.scale)[1:], xs)
        return measured(task, states, jnp.ones((n,), jnp.int32))

    def upwards(self) -> SamplerTable:
        """Return the table from data to noise."""
        grid = self.grid
        return self.method(
            _Upwards(
                grid.tau[::-1],
                grid.scale[::-1],
                grid.model_time[::-1],
                1.0,
                grid.family,
                grid.output,
            )
        )
