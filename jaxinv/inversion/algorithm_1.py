r"""Algorithm 1: inversion of samplers with a memory of one state, as published.

Per step, from ``x[i-1]``, with the sampler's step F to level i - 1 as a function of the
state at level i:

1. *start* from the naive inverse, which replaces the model's output at ``x[i]`` by that
   at ``x[i-1]`` with the time of level i (:mod:`jaxinv.inversion.naive`);
2. *solve* ``F(x) = x[i-1]`` by the forward step method, ``x <- x - rho (F(x) -
   x[i-1])``. The published settings are those of :attr:`ForwardStep.paper
   <jaxinv.solvers.ForwardStep>`: rho 0.5 after a linear warm-up over 20 iterations, at
   most 500 iterations, until the sum of squares of ``F(x) - x[i-1]`` is below 1e-3, and
   half of rho after a plateau of more than 20.

:class:`Algorithm1` differs from ``strategy="stepwise", solver="forward_step"`` in its
start: that strategy extrapolates the model's outputs at the levels below, at no cost.

The authors' code steps to the timestep ``t - 1000 // N``, which is not the sampler's
unless N divides 1000; this module uses the grid's level. The code continues from the
last iterate; this module continues from the best by residual, which is the last unless
the solve failed.

References:
    Hong et al. 2024, "On Exact Inversion of DPM-Solvers", arXiv:2311.18387,
    Algorithm 1.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinv.checks import checked
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.inversion.naive import naive_step
from jaxinv.inversion.row_residuals import per_level
from jaxinv.inversion.stages import Solved, Stage, Task
from jaxinv.norms import norm
from jaxinv.samplers.table import SamplerTable
from jaxinv.sampling.steps import slope_of_one_state, step_of_one_state
from jaxinv.solvers import ForwardStep, Solution, Solver


@checked
@dataclasses.dataclass(frozen=True)
class Algorithm1(Stage):
    """The published inversion of samplers with a memory of one state.

    Attributes:
        solver: Solver of the implicit equations; :class:`~jaxinv.solvers.Gradient` for
            the paper's gradient descent.

    Example:
        >>> import jax, jaxinv as ji
        >>> sampler = ji.ddim(ji.time_grid(ji.scaled_linear(), 20))
        >>> x0 = jax.random.normal(jax.random.key(0), (4, 4, 3))
        >>> result = ji.invert(
        ...     sampler, lambda x, t: 0.9 * x, x0, strategy=ji.Algorithm1()
        ... )
        >>> result.step_residuals.shape
        (20,)
    """

    solver: Solver = ForwardStep.paper

    def solve(self, task: Task) -> Solved:
        """Walk up the grid; see :class:`jaxinv.inversion.stages.Stage`."""
        table, denoise, start = task[:3]  # always the first stage
        found = algorithm_1(table, denoise, table.scale[0] * start, self)
        return without_residuals(table, found)._replace(
            errors=found.residuals, solved=jnp.all(found.converged)
        )


class AlgorithmSteps(NamedTuple):
    """The result of Algorithm 1 or 2 for every step.

    Attributes:
        states: The states ``x[1] .. x[N]``, shape (N, ...).
        residuals: Relative residuals of the solved equations, shape (N,). In Algorithm
            2 these have the frozen term, and are not those of the table's rows.
        iterations: Solver iterations, shape (N,).
        num_evals: Evaluations of the model: sub-steps, estimates, solver, shape (N,).
        converged: Whether each equation met the solver's tolerance, shape (N,).
    """

    states: Float[Array, "n *shape"]
    residuals: Float[Array, "n"]
    iterations: Int[Array, "n"]
    num_evals: Int[Array, "n"]
    converged: Bool[Array, "n"]


def algorithm_1(
    table: SamplerTable,
    denoise: Denoiser,
    x0: Float[Array, "*shape"],
    settings: Algorithm1,
) -> AlgorithmSteps:
    """Invert every step of a sampler with a memory of one state, as published.

    Args:
        table: The table, in the dtype of the states.
        denoise: The denoiser.
        x0: The data.
        settings: The settings of the solver.

    Returns:
        The states with the cost of each step: one evaluation for the start, and those
        of the solver.

    Raises:
        ValueError: For a table with a longer memory.
    """
    if table.history != 1:
        raise ValueError(
            f"Algorithm 1 inverts samplers with a memory of one state, but "
            f"{table.name!r} has {table.history}: use Algorithm2(schedule), or the "
            "exact strategy 'auto'"
        )
    table = jax.tree.map(jnp.asarray, table)

    def step(x_after: Array, i: Array) -> tuple[Array, AlgorithmSteps]:
        def residual(x: Array) -> Array:
            return step_of_one_state(table, denoise, i, x) - x_after

        y = naive_step(table, denoise, i, x_after / table.scale[i - 1])
        solution = settings.solver(
            residual,
            table.scale[i] * y,
            slope=slope_of_one_state(table, i),
            reference=norm(x_after),
        )
        return solution.value, one_step(solution, jnp.ones((), jnp.int32))

    steps = jnp.arange(1, table.num_rows + 1, dtype=jnp.int32)
    return jax.lax.scan(step, x0, steps)[1]


def one_step(solution: Solution, spent: Array) -> AlgorithmSteps:
    """Return the result of one step, with evaluations before the solver's."""
    return AlgorithmSteps(
        solution.value,
        solution.residual,
        solution.iterations,
        spent + solution.num_evals,
        solution.converged,
    )


def without_residuals(table: SamplerTable, found: AlgorithmSteps) -> Solved:
    """Return the trajectory without residuals of the rows."""
    scale = per_level(jnp.asarray(table.scale)[1:], found.states)
    evals = jnp.sum(found.num_evals)
    return Solved(
        found.states / scale,
        jnp.full_like(found.residuals, jnp.nan),
        found.iterations,
        evals,
        evals,
        jnp.array(False),
    )
