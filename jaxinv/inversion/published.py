r"""Algorithm 2: inversion of high-order samplers as published, step by step.

A row of a sampler with a memory needs the states before it, ``y[i+1], ...``, which an
inverse that walks up from the data has not found yet. Algorithm 2 estimates them. Per
step, from ``y[i-1]``:

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

* a timestep is an index into the schedule's training levels. Sub-steps are uniform in
  it, as few as make each at most ten. For the published (VP) schedules it is the
  model's time, and log tau is linear between indices; flow matching and VE, to which
  the formulas carry over in the coordinate y, have their own times and linear tau;
* ``10 / t[i-1]`` is capped at 1, its value for the first step, which is what makes
  sense of it at levels below 10;
* rows of first order (the sampler's first, and its last where the order is lowered)
  have no high-order term, and are solved from one naive step.

References:
    Hong et al. 2024, "On Exact Inversion of DPM-Solvers", arXiv:2311.18387,
    Algorithm 2.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinv.denoiser import Denoiser
from jaxinv.inversion.rows import per_level
from jaxinv.inversion.stages import Solved
from jaxinv.norms import norm
from jaxinv.samplers.table import Coefficients, LinearMultistep
from jaxinv.sampling import apply_row, evaluate
from jaxinv.schedule import NoiseSchedule
from jaxinv.solvers import ForwardStep, Solution, Solver


@dataclasses.dataclass(frozen=True)
class Algorithm2:
    """Settings of the published algorithm.

    Attributes:
        schedule: the model's schedule: sub-steps visit levels between the grid's.
        substep: longest step of the fine-grained naive inversion, training timesteps.
        solver: of the implicit equations. A :class:`~jaxinv.solvers.ForwardStep` gets
            the published step size of each step in place of its ``rho``.
    """

    schedule: NoiseSchedule
    substep: float = 10.0
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
        found = algorithm_2(table, denoise, table.scale[0] * start, self)
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


class Published(NamedTuple):
    """What Algorithm 2 found, step by step.

    Attributes:
        states: shape (N, ...). The states ``x[1] .. x[N]``.
        residuals: shape (N,). Relative residuals of the equations with the frozen term,
            which are not those of the table's rows.
        iterations: shape (N,). Solver iterations.
        num_evals: shape (N,). Evaluations of the model: sub-steps, estimates, solver.
        converged: shape (N,). Whether each equation met the solver's tolerance.
    """

    states: Float[Array, "n *shape"]
    residuals: Float[Array, "n"]
    iterations: Int[Array, "n"]
    num_evals: Int[Array, "n"]
    converged: Bool[Array, "n"]


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
    index = _index(settings.schedule, jnp.asarray(table.model_time))
    ages = jnp.arange(k, dtype=jnp.int32)

    def step(x_after: Array, i: Array) -> tuple[Array, Published]:
        y_after = x_after / table.scale[i - 1]
        # How many states the row uses; further ones have no weight.
        weighs = (table.a[i - 1] != 0) | (table.b[i - 1] != 0)
        used = jnp.max(jnp.where(weighs, ages + 1, 1))

        def estimate(y: Array, j: Array) -> tuple[Array, tuple[Array, Array, Array]]:
            """The state j levels before the row's, and the model's output there."""
            fine = _count(index[i + j] - index[i + j - 1], settings.substep)
            needed = (j < used) & (used > 1)
            substeps = jnp.where(needed, fine, jnp.where(j == 0, 1, 0))
            y = _fine_naive(settings, table, denoise, index, i + j, y, substeps)
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
        return solution.value, Published(
            solution.value,
            solution.residual,
            solution.iterations,
            jnp.sum(spent) + solution.num_evals,
            solution.converged,
        )

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


def _fine_naive(
    settings: Algorithm2,
    table: LinearMultistep,
    denoise: Denoiser,
    index: Array,
    i: Array,
    y: Array,
    substeps: Array,
) -> Array:
    """From level i - 1 to level i in so many naive steps (none: y as it is)."""

    def level(m: Array) -> tuple[Array, Array, Array]:
        """Scale, tau and model time after m sub-steps: at both ends the grid's own."""
        part = m.astype(y.dtype) / jnp.maximum(substeps, 1).astype(y.dtype)
        at = index[i - 1] + part * (index[i] - index[i - 1])
        scale, tau, time = _level(settings.schedule, at)

        def choose(values: Coefficients, inner: Array) -> Array:
            upper = jnp.where(m == substeps, values[i], inner)
            return jnp.where(m == 0, values[i - 1], upper)

        return (
            choose(table.scale, scale),
            choose(table.tau, tau),
            choose(table.model_time, time),
        )

    def step(m: Array, y: Array) -> Array:
        scale, tau, _ = level(m)
        _, tau_next, time_next = level(m + 1)
        f = denoise(scale * y, time_next).astype(y.dtype)
        return y + (tau_next - tau) * f

    return jax.lax.fori_loop(jnp.zeros_like(substeps), substeps, step, y)


def _count(distance: Array, longest: float) -> Array:
    """As few sub-steps as make each at most so long.

    The tolerance is the rounding of times up to 1000: 20 / 10 stays two sub-steps.
    """
    tolerance = 2000 * jnp.finfo(distance.dtype).eps / longest
    return jnp.maximum(jnp.ceil(distance / longest - tolerance), 1).astype(jnp.int32)


def _index(schedule: NoiseSchedule, times: Array) -> Array:
    """Where model times lie among the training levels, fractional."""
    known = jnp.asarray(schedule.model_times, times.dtype)
    return jnp.interp(times, known, jnp.arange(len(known), dtype=times.dtype))


def _level(schedule: NoiseSchedule, at: Array) -> tuple[Array, Array, Array]:
    """Scale, tau and model time at a fractional index."""
    indices = jnp.arange(schedule.num_train_timesteps, dtype=at.dtype)
    time = jnp.interp(at, indices, jnp.asarray(schedule.model_times, at.dtype))
    taus = jnp.asarray(schedule.taus, at.dtype)
    if schedule.family == "vp":
        tau = jnp.exp(jnp.interp(at, indices, jnp.log(taus)))
        return 1 / jnp.sqrt(1 + tau**2), tau, time
    tau = jnp.interp(at, indices, taus)
    return jnp.ones_like(tau), tau, time
