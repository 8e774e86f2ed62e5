r"""Algorithms 1 and 2: inversion step by step, as published.

**Algorithm 1** inverts samplers with a memory of one state (DDIM). Per step, from
``x[i-1]``, with the sampler's step F to level i - 1 as a function of the state at i:

1. *start* from the naive inverse, which takes the model's output at ``x[i-1]``, with
   the time of level i, for that at ``x[i]`` (:mod:`jaxinv.inversion.naive`);
2. *solve* ``F(x) = x[i-1]`` by the forward step method, ``x <- x - rho (F(x) -
   x[i-1])``. The published settings are those of :attr:`ForwardStep.paper
   <jaxinv.solvers.ForwardStep>`: rho 0.5 after a linear warm-up over 20 iterations, at
   most 500 of them, until the sum of squares of ``F(x) - x[i-1]`` is below 1e-3, rho
   halved on a plateau of more than 20.

:class:`Algorithm1` differs from ``strategy="stepwise", solver="forward_step"`` in its
start: that extrapolates the model's outputs of the levels below, at no cost.

**Algorithm 2** inverts samplers with a longer memory. A row of one needs the states
before it, ``y[i+1], ...``, which an inverse that walks up from the data has not found
yet. Algorithm 2 estimates them. Per step, from ``y[i-1]``:

1. *estimate* ``y[i], y[i+1], ...`` by naive DDIM inversion in sub-steps of at most ten
   training timesteps,

       y <- y + (tau_q - tau_p) f(x_p, t_q)        from level p to level q;

2. evaluate the model at the estimates, and *freeze* the step's high-order term there:
   what the row makes of the estimates, less what Euler's (DDIM's) step makes of them,

       H = sum_j (a[i,j] y[i+j] + b[i,j] f[i+j])  -  (y[i] + (tau[i-1] - tau[i]) f[i]);

3. *solve* the remaining implicit equation in the state x, from the estimate of x[i],

       scale[i-1] (y[i] + (tau[i-1] - tau[i]) f[i] + H) = x[i-1],

   by the forward step method with step size ``10 / t[i-1]``, or another solver.

H stays as it was estimated, so what is solved is not quite the sampler's row: a
vanishing residual here does not make the inverse exact. It is the baseline. The inverse
that solves the rows themselves is :mod:`jaxinv.inversion.trajectory`.

Readings of our own, where the paper leaves something open:

* sub-steps are uniform in the timestep (:mod:`jaxinv.inversion.substeps`);
* ``10 / t[i-1]`` is capped at 1, its value for the first step, which is what makes
  sense of it at levels below 10;
* rows of first order (the sampler's first, and its last where the order is lowered)
  have no high-order term, and are solved from one naive step.

Where the authors' code disagrees with their paper or with the sampler, this is not the
code:

* the code steps to the timestep ``t - 1000 // N``, which is not where the sampler came
  from unless N divides 1000; here it is the grid's own level;
* its sub-steps are always ten timesteps and overshoot unless 10 divides ``1000 / N``;
  here they end at the grid's level;
* it does not halve the step size in rows of second order; here that is done in all;
* it goes on from the last iterate, converged or not; here from the best by residual,
  which is the last unless the solve failed.

References:
    Hong et al. 2024, "On Exact Inversion of DPM-Solvers", arXiv:2311.18387,
    Algorithms 1 and 2.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinv.checks import Positive, checked
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.inversion.naive import naive_step
from jaxinv.inversion.row_residuals import per_level
from jaxinv.inversion.stages import Solved
from jaxinv.inversion.substeps import count_of, fine_naive, index_of
from jaxinv.norms import norm
from jaxinv.samplers.table import LinearMultistep
from jaxinv.sampling.sample import apply_row, evaluate
from jaxinv.solvers import ForwardStep, Solution, Solver


@checked
@dataclasses.dataclass(frozen=True)
class Algorithm1:
    """The published inversion of samplers with a memory of one state.

    Attributes:
        solver: of the implicit equations; :class:`~jaxinv.solvers.Gradient` for the
            paper's gradient descent.

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

    def solve(
        self,
        table: LinearMultistep,
        denoise: Denoiser,
        start: Array,
        known: Solved | None,
        active: Array,
    ) -> Solved:
        """Walk up the grid; see :class:`jaxinv.inversion.stages.Stage`."""
        del known, active  # always the first stage
        found = algorithm_1(table, denoise, table.scale[0] * start, self)
        return _solved(table, found)._replace(
            errors=found.residuals, solved=jnp.all(found.converged)
        )


@checked
@dataclasses.dataclass(frozen=True)
class Algorithm2:
    """The published inversion of samplers with a longer memory.

    Attributes:
        schedule: the model's schedule: sub-steps visit levels between the grid's.
        substep: longest step of the fine-grained naive inversion, training timesteps.
        solver: of the implicit equations. A :class:`~jaxinv.solvers.ForwardStep` gets
            the published step size of each step in place of its ``rho``.
    """

    schedule: NoiseSchedule
    substep: Positive = 10.0
    solver: Solver = ForwardStep.paper

    def solve(
        self,
        table: LinearMultistep,
        denoise: Denoiser,
        start: Array,
        known: Solved | None,
        active: Array,
    ) -> Solved:
        """Walk up the grid; see :class:`jaxinv.inversion.stages.Stage`.

        The rows' own residuals are not measured: those of the equations that were
        solved would claim too much.
        """
        del known, active  # always the first stage
        return _solved(table, algorithm_2(table, denoise, table.scale[0] * start, self))


class Published(NamedTuple):
    """What one of the algorithms found, step by step.

    Attributes:
        states: shape (N, ...). The states ``x[1] .. x[N]``.
        residuals: shape (N,). Relative residuals of the equations that were solved; of
            Algorithm 2 with the frozen term: not those of the table's rows.
        iterations: shape (N,). Solver iterations.
        num_evals: shape (N,). Evaluations of the model: sub-steps, estimates, solver.
        converged: shape (N,). Whether each equation met the solver's tolerance.
    """

    states: Float[Array, "n *shape"]
    residuals: Float[Array, "n"]
    iterations: Int[Array, "n"]
    num_evals: Int[Array, "n"]
    converged: Bool[Array, "n"]


def algorithm_1(
    table: LinearMultistep,
    denoise: Denoiser,
    x0: Float[Array, "*shape"],
    settings: Algorithm1,
) -> Published:
    """Invert every step of a sampler with a memory of one state, as published.

    Args:
        table: the table, in the dtype of the states.
        denoise: the denoiser.
        x0: the data.
        settings: how to solve.

    Returns:
        The states with the cost of each step: one evaluation for the start, and those
        of the solver.

    Raises:
        ValueError: for a table with a longer memory.
    """
    if table.history != 1:
        raise ValueError(
            f"Algorithm 1 inverts samplers with a memory of one state; {table.name!r} "
            f"remembers {table.history}: use Algorithm2(schedule), or the exact "
            "strategy 'auto'"
        )
    table = jax.tree.map(jnp.asarray, table)

    def step(x_after: Array, i: Array) -> tuple[Array, Published]:
        def residual(x: Array) -> Array:
            y = x / table.scale[i]
            f = evaluate(table, denoise, i, y)
            return table.scale[i - 1] * apply_row(table, i, y[None], f[None]) - x_after

        y = naive_step(table, denoise, i, x_after / table.scale[i - 1])
        solution = settings.solver(
            residual,
            table.scale[i] * y,
            slope=table.a[i - 1, 0] * table.scale[i - 1] / table.scale[i],
            reference=norm(x_after),
        )
        return solution.value, _of(solution, jnp.ones((), jnp.int32))

    steps = jnp.arange(1, table.num_steps + 1, dtype=jnp.int32)
    return jax.lax.scan(step, x0, steps)[1]


def algorithm_2(
    table: LinearMultistep,
    denoise: Denoiser,
    x0: Float[Array, "*shape"],
    settings: Algorithm2,
) -> Published:
    """Invert every step of a sampler with a memory, as published.

    Args:
        table: the table, in the dtype of the states.
        denoise: the denoiser.
        x0: the data.
        settings: the schedule, and how to solve.

    Returns:
        The states with the cost of each step.
    """
    table = jax.tree.map(jnp.asarray, table)
    n, k = table.a.shape
    index = index_of(settings.schedule, jnp.asarray(table.model_time))
    ages = jnp.arange(k, dtype=jnp.int32)

    def step(x_after: Array, i: Array) -> tuple[Array, Published]:
        y_after = x_after / table.scale[i - 1]
        # How many states the row uses; further ones have no weight.
        weighs = (table.a[i - 1] != 0) | (table.b[i - 1] != 0)
        used = jnp.max(jnp.where(weighs, ages + 1, 1))

        def estimate(y: Array, j: Array) -> tuple[Array, tuple[Array, Array, Array]]:
            """The state j levels before the row's, and the model's output there."""
            fine = count_of(index[i + j] - index[i + j - 1], settings.substep)
            needed = (j < used) & (used > 1)
            substeps = jnp.where(needed, fine, jnp.where(j == 0, 1, 0))
            y = fine_naive(settings.schedule, table, denoise, index, i + j, y, substeps)
            f = jax.lax.cond(
                needed,
                lambda y: evaluate(table, denoise, i + j, y),
                jnp.zeros_like,
                y,
            )
            return y, (y, f, substeps + needed)

        _, (ys, fs, spent) = jax.lax.scan(estimate, y_after, ages)
        euler = ys[0] + (table.tau[i - 1] - table.tau[i]) * fs[0]
        frozen = jnp.where(used > 1, apply_row(table, i, ys, fs) - euler, 0)

        def residual(x: Array) -> Array:
            y = x / table.scale[i]
            f = evaluate(table, denoise, i, y)
            after = y + (table.tau[i - 1] - table.tau[i]) * f + frozen
            return table.scale[i - 1] * after - x_after

        solution = _solve(
            settings.solver,
            residual,
            table.scale[i] * ys[0],
            rho=10 / jnp.maximum(index[i - 1], 10),
            slope=table.scale[i - 1] / table.scale[i],
            reference=norm(x_after),
        )
        return solution.value, _of(solution, jnp.sum(spent))

    return jax.lax.scan(step, x0, jnp.arange(1, n + 1, dtype=jnp.int32))[1]


def _of(solution: Solution, spent: Array) -> Published:
    """One step, with the evaluations that were spent before the solver's."""
    return Published(
        solution.value,
        solution.residual,
        solution.iterations,
        spent + solution.num_evals,
        solution.converged,
    )


def _solved(table: LinearMultistep, found: Published) -> Solved:
    """The trajectory, with no claim about the rows."""
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
