r"""Algorithm 2: inversion of samplers with a longer memory, as published.

A row of such a sampler needs earlier states ``y[i+1], ...``, which are not yet known to
an inverse that starts from the data. Algorithm 2 estimates them. Per step, from
``y[i-1]``:

1. *estimate* ``y[i], y[i+1], ...`` by naive DDIM inversion in sub-steps of at most ten
   training timesteps,

       y <- y + (tau_q - tau_p) f(x_p, t_q)        from level p to level q;

2. evaluate the model at the estimates, and *freeze* the step's high-order term there:
   the row applied to the estimates, less Euler's (DDIM's) step,

       H = sum_j (a[i,j] y[i+j] + b[i,j] f[i+j])  -  (y[i] + (tau[i-1] - tau[i]) f[i]);

3. *solve* the remaining implicit equation in the state x, from the estimate of x[i],

       scale[i-1] (y[i] + (tau[i-1] - tau[i]) f[i] + H) = x[i-1],

   by the forward step method with step size ``10 / t[i-1]``, or another solver.

H keeps its estimated value, so the solved equation differs from the sampler's row: a
vanishing residual here does not make the inverse exact. It is a baseline;
:mod:`jaxinv.inversion.trajectory` solves the rows themselves.

The paper leaves three details open. In this module

* sub-steps are uniform in the timestep (:mod:`jaxinv.inversion.substeps`);
* ``10 / t[i-1]`` is limited to 1, its value for the first step, so that it remains
  meaningful at levels below 10;
* rows of first order (the sampler's first, and its last if the order is lowered) have
  no high-order term, and are solved from one naive step.

It follows the paper rather than the authors' code where they differ:

* the code's sub-steps are always ten timesteps and overshoot unless 10 divides
  ``1000 / N``; here they end at the grid's level;
* the code does not halve the step size in rows of second order; here it is halved in
  all rows;
* for the grid's levels and for unsolved steps see :mod:`jaxinv.inversion.algorithm_1`.

References:
    Hong et al. 2024, "On Exact Inversion of DPM-Solvers", arXiv:2311.18387,
    Algorithm 2.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.checks import Positive, checked
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.inversion.algorithm_1 import AlgorithmSteps, one_step, without_residuals
from jaxinv.inversion.stages import Solved, Stage, Task
from jaxinv.inversion.substeps import count_of, fine_naive, index_of
from jaxinv.norms import norm
from jaxinv.samplers.table import SamplerTable
from jaxinv.sampling.sample import apply_row, evaluate
from jaxinv.solvers import ForwardStep, Solution, Solver


@checked
@dataclasses.dataclass(frozen=True)
class Algorithm2(Stage):
    """The published inversion of samplers with a longer memory.

    Attributes:
        schedule: The model's schedule, because sub-steps visit levels between the
            grid's.
        substep: Largest sub-step of the naive inversion, in training timesteps.
        solver: Solver of the implicit equations. For a
            :class:`~jaxinv.solvers.ForwardStep`, the published step sizes replace
            ``rho``.
    """

    schedule: NoiseSchedule
    substep: Positive = 10.0
    solver: Solver = ForwardStep.paper

    def solve(self, task: Task) -> Solved:
        """Walk up the grid; see :class:`jaxinv.inversion.stages.Stage`.

        Residuals of the rows are not measured; those of the solved equations would be
        too small.
        """
        table, denoise, start = task[:3]  # always the first stage
        return without_residuals(
            table, algorithm_2(table, denoise, table.scale[0] * start, self)
        )


def algorithm_2(
    table: SamplerTable,
    denoise: Denoiser,
    x0: Float[Array, "*shape"],
    settings: Algorithm2,
) -> AlgorithmSteps:
    """Invert every step of a sampler with a memory, as published.

    Args:
        table: The table, in the dtype of the states.
        denoise: The denoiser.
        x0: The data.
        settings: The schedule and the settings of the solver.

    Returns:
        The states with the cost of each step.
    """
    table = jax.tree.map(jnp.asarray, table)
    n, k = table.a.shape
    index = index_of(settings.schedule, jnp.asarray(table.model_time))
    ages = jnp.arange(k, dtype=jnp.int32)

    def step(x_after: Array, i: Array) -> tuple[Array, AlgorithmSteps]:
        u_after = x_after / table.scale[i - 1]
        # The number of states that the row uses; further states have no weight.
        weighs = (table.a[i - 1] != 0) | (table.b[i - 1] != 0)
        used = jnp.max(jnp.where(weighs, ages + 1, 1))

        def estimate(u: Array, j: Array) -> tuple[Array, tuple[Array, Array, Array]]:
            """Return the state j levels above the row's, and its output."""
            fine = count_of(index[i + j] - index[i + j - 1], settings.substep)
            needed = (j < used) & (used > 1)
            substeps = jnp.where(needed, fine, jnp.where(j == 0, 1, 0))
            u = fine_naive(settings.schedule, table, denoise, index, i + j, u, substeps)
            o = jax.lax.cond(
                needed,
                lambda u: evaluate(table, denoise, i + j, u),
                jnp.zeros_like,
                u,
            )
            return u, (u, o, substeps + needed)

        def euler(u: Array, o: Array) -> Array:
            of_u, of_o = table.ode.euler[i - 1]
            return of_u * u + of_o * o

        _, (us, os, spent) = jax.lax.scan(estimate, u_after, ages)
        high = apply_row(table, i, us, os) - euler(us[0], os[0])
        frozen = jnp.where(used > 1, high, 0)

        def residual(x: Array) -> Array:
            u = x / table.scale[i]
            after = euler(u, evaluate(table, denoise, i, u)) + frozen
            return table.scale[i - 1] * after - x_after

        solution = _solve(
            settings.solver,
            residual,
            table.scale[i] * us[0],
            rho=10 / jnp.maximum(index[i - 1], 10),
            slope=table.ode.euler[i - 1, 0] * table.scale[i - 1] / table.scale[i],
            reference=norm(x_after),
        )
        return solution.value, one_step(solution, jnp.sum(spent))

    return jax.lax.scan(step, x0, jnp.arange(1, n + 1, dtype=jnp.int32))[1]


def _solve(
    solver: Solver,
    residual: Callable[[Array], Array],
    guess: Array,
    *,
    rho: Array,
    slope: Array,
    reference: Array,
) -> Solution:
    if isinstance(solver, ForwardStep):
        return solver.with_step_size(residual, guess, rho=rho, reference=reference)
    return solver(residual, guess, slope=slope, reference=reference)
