r"""Stepwise inversion of first-order samplers: one implicit solve per step.

From the data end upward, the state before a step is the root of

    R(x[i]) = step_i(x[i]) - x[i-1] = 0,

an implicit equation, because the model is evaluated at the unknown. The first guess
extrapolates the model's outputs along the known part of the trajectory, at no cost.

Levels and the solver's iterations are combined in a single loop.

References:
    Hong et al. 2024, "On Exact Inversion of DPM-Solvers", arXiv:2311.18387,
    Algorithm 1.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinv.checks import checked
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.inversion.stages import Solved, Stage, Task
from jaxinv.inversion.trajectory import first_guess
from jaxinv.loops import Loop
from jaxinv.norms import norm
from jaxinv.samplers.table import SamplerTable
from jaxinv.sampling.steps import slope_of_one_state, step_of_one_state
from jaxinv.solvers import Anderson, Solver
from jaxinv.solvers.iteration import loop_of


class Climb(NamedTuple):
    """The progress of one sample along the grid.

    Attributes:
        i: The level to solve for; N + 1 at the end.
        x_after: The state of the level below.
        f1: The model's output at the level below.
        f2: The model's output two levels below.
        inner: State of the solve at this level.
        states: ``u[1] .. u[N]``, as far as known; above, the first guess of
            :mod:`jaxinv.inversion.trajectory`.
        errors: Relative residuals of the solved steps.
        iterations: Iterations of the solved steps.
        solved: Whether the solved steps met the tolerance.
        rounding: Measured rounding of the solved steps.
        evals: Evaluations of the model by finished solves.
    """

    i: Int[Array, ""]
    x_after: Float[Array, "*shape"]
    f1: Float[Array, "*shape"]
    f2: Float[Array, "*shape"]
    inner: Any
    states: Float[Array, "n *shape"]
    errors: Float[Array, "n"]
    iterations: Int[Array, "n"]
    solved: Bool[Array, "n"]
    rounding: Float[Array, "n"]
    evals: Int[Array, ""]


@checked
@dataclasses.dataclass(frozen=True)
class Stepwise(Stage):
    """Stepwise inversion, with the same implicit solver for each step.

    One iteration is one of the solver's. A finished level is followed directly by the
    next: samples of a batch do not wait for each other at a level.

    Attributes:
        solver: A solver of :mod:`jaxinv.solvers`.
    """

    solver: Solver = dataclasses.field(default_factory=Anderson)

    def loop(self, task: Task) -> Loop:
        """Return the climb; see :class:`jaxinv.inversion.stages.Stage`."""
        table, start = task.table, task.start
        n = table.num_rows

        def level(climb: Climb) -> Loop:
            return _level(self.solver, table, task.denoise, climb)

        def spent(climb: Climb) -> Array:
            return climb.evals + level(climb).finish(climb.inner).num_evals

        def begin() -> Climb:
            x0 = table.scale[0] * start
            zeros = jnp.zeros_like(x0)
            one = jnp.ones((), jnp.int32)
            climb = Climb(
                i=jnp.where(task.active, one, n + 1),
                x_after=x0,
                f1=zeros,
                f2=zeros,
                inner=None,
                states=first_guess(table, start),
                errors=jnp.full((n,), jnp.inf, x0.dtype),
                iterations=jnp.zeros((n,), jnp.int32),
                solved=jnp.zeros((n,), bool),
                rounding=jnp.zeros((n,), x0.dtype),
                evals=jnp.zeros((), jnp.int32),
            )
            return climb._replace(inner=level(climb).begin())

        def advance(climb: Climb) -> Climb:
            # One iteration of the solver, and the next level if it is finished.
            here = level(climb)
            inner = here.advance(climb.inner)
            solution = here.finish(inner)
            i, x = climb.i, solution.value
            # The row gives the model's output at the solution without an evaluation.
            a, b = table.a[i - 1, 0], table.b[i - 1, 0]
            u_after = _target(table, i, climb.x_after)
            f = (u_after - a * x / table.scale[i]) / jnp.where(b == 0, 1, b)
            f = jnp.where(b == 0, climb.f1, f)
            done = ~here.running(inner)

            def put(values: Array, value: Array) -> Array:
                kept = jnp.where(done, value, values[i - 1])
                return values.at[i - 1].set(kept)

            above = climb._replace(
                i=i + 1,
                x_after=x,
                f1=f,
                f2=jnp.where(i == 1, f, climb.f1),
                evals=climb.evals + solution.num_evals,
            )
            above = above._replace(inner=level(above).begin())
            moved = jax.tree.map(
                lambda a, b: jnp.where(done, a, b), above, climb._replace(inner=inner)
            )
            return moved._replace(
                states=put(climb.states, x / table.scale[i]),
                errors=put(climb.errors, solution.residual),
                iterations=put(climb.iterations, solution.iterations),
                solved=put(climb.solved, solution.converged),
                rounding=put(climb.rounding, solution.rounding),
            )

        def finish(climb: Climb) -> Solved:
            return Solved(
                climb.states,
                climb.errors,
                climb.iterations,
                spent(climb),
                spent(climb),
                jnp.all(climb.solved),
                stopped=(climb.i <= n) & (spent(climb) >= task.max_evals),
                rounding=climb.rounding,
            )

        return Loop(
            begin,
            running=lambda climb: (climb.i <= n) & (spent(climb) < task.max_evals),
            advance=advance,
            finish=finish,
            steps=lambda climb: climb.i - 1,
        )


def _level(
    solver: Solver, table: SamplerTable, denoise: Denoiser, climb: Climb
) -> Loop:
    """Return the solve of the implicit equation at a sample's current level."""
    # A finished lane has no level; its result is discarded.
    i = jnp.minimum(climb.i, table.num_rows)
    a, b = table.a[i - 1, 0], table.b[i - 1, 0]
    u_after = _target(table, i, climb.x_after)
    output = _extrapolate(table, i, climb.f1, climb.f2)
    # A row without a weight of the state (all data prediction) gives no guess.
    known = (u_after - b * output) / jnp.where(a == 0, 1, a)
    guess = jnp.where(a == 0, climb.states[i - 1], known)
    return loop_of(
        solver,
        lambda x: step_of_one_state(table, denoise, i, x) - climb.x_after,
        table.scale[i] * guess,
        slope=slope_of_one_state(table, i),
        reference=norm(climb.x_after),
    )


def _target(table: SamplerTable, i: Array, x_after: Array) -> Array:
    """Return the state after a step without its given noise."""
    u = x_after / table.scale[i - 1]
    return u if table.shift is None else u - table.shift[i - 1]


def _extrapolate(table: SamplerTable, i: Array, f1: Array, f2: Array) -> Array:
    """Extrapolate the model's output at level i from i - 1 and i - 2, in log tau.

    With one known output the result is that output; without any it is zero, so that the
    state after the step is the first guess.
    """
    log_tau = jnp.log(table.tau)
    last = log_tau[i - 1] - log_tau[i - 2]
    weight = (log_tau[i] - log_tau[i - 1]) / last
    usable = (i > 2) & jnp.isfinite(weight) & jnp.isfinite(table.tau[i])
    return f1 + jnp.where(usable, weight, 0) * (f1 - f2)
