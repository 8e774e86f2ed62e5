r"""Newton's method on the whole trajectory, where fixed-point maps do not converge.

The unknown and the equations are those of :mod:`jaxinv.inversion.trajectory`: all rows
of the table. Every row is weighted by the norm of the state that it should reproduce.
The unknown is changed to ``w`` with ``U = U_0 + B w``, where B removes the residuals of
a simple model (:func:`jaxinv.inversion.row_residuals.approximate_inverse`). The
Jacobian with respect to w is then close to minus the identity, and GMRES needs few
products. A product is one forward-mode pass over all levels at once, with the memory of
inference.

If steps have several preimages, with singular Jacobians in between, Newton's line
search still reduces the residual of all rows together. A stepwise solve commits to one
state per step, which may have no predecessor.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array

from jaxinv.checks import AtLeastOne, Tolerance, checked
from jaxinv.inversion.levels import evaluate_levels
from jaxinv.inversion.row_residuals import (
    approximate_inverse,
    default_row_rtol,
    norms_after,
    per_level,
    residuals,
)
from jaxinv.inversion.stages import Solved, Stage, Task
from jaxinv.inversion.trajectory import first_guess
from jaxinv.loops import run
from jaxinv.samplers.table import SamplerTable
from jaxinv.solvers import NewtonKrylov

#: Evaluations of all levels by the shortest solve: the first guess, a product (two),
#: the step, and the errors of the result.
LEAST_CALLS = 5


@checked
@dataclasses.dataclass(frozen=True)
class NewtonTrajectory(Stage):
    """Newton-Krylov on all rows, from the result of an earlier stage.

    Attributes:
        max_iterations: Largest number of Newton steps.
        krylov: Number of Krylov vectors per step, each of the size of a trajectory.
        rtol: Relative residual of every row at which to stop; None for 5e-6 in float32
            and 2.5e-13 in float64.
    """

    max_iterations: AtLeastOne = 6
    krylov: AtLeastOne = 40
    rtol: Tolerance | None = None

    def least_evals(self, table: SamplerTable) -> int:
        """Return the evaluations of a Newton step with one Krylov vector."""
        return LEAST_CALLS * table.num_rows

    def solve(self, task: Task) -> Solved:
        """Solve all rows together; see :class:`jaxinv.inversion.stages.Stage`."""
        table, denoise, start, known, active = task[:5]
        n = table.num_rows
        rtol = default_row_rtol(start.dtype) if self.rtol is None else self.rtol
        guess = first_guess(table, start) if known is None else known.states
        weights = per_level(1 / norms_after(start, guess), guess)
        slopes = jnp.asarray(table.ode.slopes, start.dtype)[1:]
        zero = jnp.zeros((), jnp.int32)

        def states(u: Array) -> Array:
            return guess + approximate_inverse(table, slopes, u / weights)

        def rows(u: Array) -> tuple[Array, Array]:
            y = states(u)
            f = evaluate_levels(table, denoise, y, jnp.zeros_like(y), zero, None)[0]
            return residuals(table, start, y, f)

        # A tolerance on the norm over all rows that is small enough for every row.
        newton = NewtonKrylov(
            max_iterations=self.max_iterations, krylov=self.krylov, rtol=rtol
        )
        calls = jnp.asarray(task.max_evals, jnp.int32) // n
        iteration = newton.loop(
            # Relative to the current states, as in the certificate.
            lambda u: rows(u)[0] / per_level(norms_after(start, states(u)), u),
            jnp.zeros_like(guess),
            slope=jnp.full((), -1, start.dtype),
            # An infinite reference stops inactive samples immediately.
            reference=jnp.where(active, 1, jnp.inf).astype(start.dtype),
            max_evals=calls - 1,  # the last one measures the errors below
        )
        solution = run(iteration)
        errors = rows(solution.value)[1]
        evals = jnp.where(active, solution.num_evals + 1, 0)
        solved = jnp.max(errors) <= rtol
        return Solved(
            states(solution.value),
            errors,
            jnp.full((n,), 1, jnp.int32) * jnp.where(active, solution.iterations, 0),
            evals * n,
            evals,
            solved,
            stopped=~solved & (calls - evals < LEAST_CALLS),
        )
