r"""Stepwise inversion of first-order samplers: one implicit solve per step.

From the data end upward, the state before a step is the root of

    R(x[i]) = step_i(x[i]) - x[i-1] = 0,

an implicit equation, because the model is evaluated at the unknown. The first guess
extrapolates the model's outputs along the trajectory found so far, and costs nothing.

References:
    Hong et al. 2024, "On Exact Inversion of DPM-Solvers", arXiv:2311.18387,
    Algorithm 1.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxinv.denoiser import Denoiser
from jaxinv.inversion.stages import Solved
from jaxinv.samplers.table import LinearMultistep
from jaxinv.sampling import apply_row, evaluate
from jaxinv.solvers import Anderson, Solution, Solver
from jaxinv.solvers.common import norm


@dataclasses.dataclass(frozen=True)
class Stepwise:
    """Solve step by step, each with the same implicit solver.

    Attributes:
        solver: a value of :mod:`jaxinv.solvers`.
    """

    solver: Solver = dataclasses.field(default_factory=Anderson)

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
        x0 = table.scale[0] * start
        zeros = jnp.zeros_like(x0)

        def step(
            carry: tuple[Array, Array, Array], i: Array
        ) -> tuple[tuple[Array, Array, Array], tuple[Array, Solution]]:
            x_after, f1, f2 = carry
            a, b = table.a[i - 1, 0], table.b[i - 1, 0]
            y_after = x_after / table.scale[i - 1]
            guess = table.scale[i] * (y_after - b * _extrapolate(table, i, f1, f2)) / a
            solution = self.solver(
                lambda x: _step(table, denoise, i, x) - x_after,
                guess,
                slope=a * table.scale[i - 1] / table.scale[i],
                reference=norm(x_after),
            )
            x = solution.value
            # The row itself gives the model's output at the solution: no evaluation.
            f = (y_after - a * x / table.scale[i]) / jnp.where(b == 0, 1, b)
            f = jnp.where(b == 0, f1, f)
            certificate = solution._replace(value=zeros[:0])
            return (x, f, jnp.where(i == 1, f, f1)), (x / table.scale[i], certificate)

        steps = jnp.arange(1, table.num_steps + 1)
        states, done = jax.lax.scan(step, (x0, zeros, zeros), steps)[1]
        evals = jnp.sum(done.num_evals)
        return Solved(
            states,
            done.residual,
            done.iterations,
            evals,
            evals,
            jnp.all(done.converged),
        )


def _step(table: LinearMultistep, denoise: Denoiser, i: Array, x: Array) -> Array:
    """One step of a one-state sampler, in the state x: ``x[i] -> x[i-1]``."""
    y = x / table.scale[i]
    f = evaluate(table, denoise, i, y)
    return table.scale[i - 1] * apply_row(table, i, y[None], f[None])


def _extrapolate(table: LinearMultistep, i: Array, f1: Array, f2: Array) -> Array:
    """The model's output at level i from those at i - 1 and i - 2, in log tau.

    Before there are two, the last one; before there is one, zero, which makes the
    state after the step the first guess.
    """
    log_tau = jnp.log(table.tau)
    last = log_tau[i - 1] - log_tau[i - 2]
    weight = (log_tau[i] - log_tau[i - 1]) / last
    usable = (i > 2) & jnp.isfinite(weight)
    return f1 + jnp.where(usable, weight, 0) * (f1 - f2)
