r"""The whole trajectory at once: exact inversion at any order, parallel in time.

The unknown is ``U = (u[1], ..., u[N])``, all states except the data, and the equations
are all rows of the sampler's table (:mod:`jaxinv.inversion.row_residuals`). A *sweep*

1. evaluates the model at every state of the current guess, in one batched call;
2. computes the residuals R of all rows, which are also the certificate;
3. takes a quasi-Newton step of bounded length for all rows together. The model of each
   level's Jacobian is built from measurements of the last m sweeps
   (:mod:`jaxinv.inversion.trajectory_secants`).

Earlier states are not approximated, so the method works for samplers of any order.

A sweep costs N evaluations, which can run in parallel. Rows near the data converge
first. With ``chunk`` set, levels are evaluated in chunks (bounded memory), and chunks
below which every row has met the tolerance are not evaluated again (a moving window).

If the residual stagnates, two more sweeps measure the rounding of the rows
(:mod:`jaxinv.solvers.rounding`), below which no trajectory is more exact. If it grows,
or does not improve for long, the iteration restarts from the
best trajectory so far, with an empty history and smaller steps. Samples that do not
converge are left to Newton's method on the same equations
(:mod:`jaxinv.inversion.trajectory_newton`).

References:
    Shih et al. 2023, arXiv:2305.16317, and Tang et al. 2024, arXiv:2402.09970 (whole
    trajectories in the other direction, for parallel sampling); Fang & Saad 2009 (the
    quasi-Newton method).
"""

import dataclasses
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.checks import AtLeastOne, Positive, Tolerance, Whole, checked
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.inversion.levels import evaluate_levels, number_of_calls
from jaxinv.inversion.naive import Naive
from jaxinv.inversion.row_residuals import (
    default_row_rtol,
    gaussian_sizes,
    level_norms,
    norms_after,
    per_level,
    residuals,
)
from jaxinv.inversion.stages import Solved, Stage, Task
from jaxinv.inversion.trajectory_secants import (
    Secants,
    forget,
    newton_step,
    no_secants,
    record,
)
from jaxinv.loops import Loop
from jaxinv.norms import at_least_tiny
from jaxinv.samplers.table import SamplerTable
from jaxinv.solvers.rounding import ROUNDINGS, beside, rounding_of

# Sweeps continue to this fraction of the tolerance, unless this many do not improve it.
AIM, FLOOR_SWEEPS = 0.4, 3

# Rounding is measured after this many sweeps without a better trajectory, if the best
# one has so small an error: less than networks of 16 bits can lose.
STAGNANT_SWEEPS, COARSEST = 5, 2.0**-4

# A solution close to the states of sampling is found quickly or does not exist.
REFINING_SWEEPS = 40


@checked
@dataclasses.dataclass(frozen=True)
class Trajectory(Stage):
    """Settings of the whole-trajectory inverse.

    Attributes:
        history: m, the number of earlier sweeps to use, each of which stores two
            trajectories. It is reduced if N m would exceed 2000.
        max_sweeps: Largest number of sweeps.
        rtol: Largest relative residual of a converged row, unless its rounding is
            larger; None for 5e-6 in float32 and 2.5e-13 in float64. Sweeps continue to
            0.4 of that as long as they improve the trajectory.
        largest_step: Largest change of a state in a sweep, relative to its size; a
            tenth of that after each restart. None for 0.3 for tables with a memory of
            one state, and 3 otherwise (measured).
        patience: Number of sweeps without a better trajectory before a restart.
        growth: Factor of the residual relative to the best one for an immediate
            restart.
        restarts: Largest number of restarts.
        chunk: Number of levels to evaluate at a time, skipping converged ones; None for
            all levels in one call.
        start: The first trajectory: ``"data"`` scales the data like Gaussian data
            (without evaluations), ``"naive"`` is DDIM inversion (N sequential
            evaluations), ``"known"`` is the result of an earlier stage (``"data"``
            without one). If an earlier stage solved all rows but sampling missed the
            data, it is the trajectory of that sampling, and sweeps continue as long as
            they improve it.
    """

    #: Whether the stage can start from the states of sampling.
    refines: ClassVar[bool] = True

    history: AtLeastOne = 20
    max_sweeps: AtLeastOne = 100
    rtol: Tolerance | None = None
    largest_step: Positive | None = None
    patience: AtLeastOne = 30
    growth: Positive = 1e4
    restarts: Whole = 2
    chunk: AtLeastOne | None = None
    start: Literal["data", "known", "naive"] = "data"

    def least_evals(self, table: SamplerTable) -> int:
        """Return the evaluations of a sweep, and of the start."""
        return table.num_rows * (2 if self.start == "naive" else 1)

    def loop(self, task: Task) -> Loop:
        """Return the sweeps; see :class:`jaxinv.inversion.stages.Stage`."""
        table, denoise, start, known, active = task[:5]
        rtol = self._rtol(start)
        aim = jnp.full((), AIM * rtol, start.dtype)
        most = jnp.full((), self.max_sweeps, jnp.int32)
        if known is not None:
            # The rows were solved, but sampling missed the data: solve to the last
            # digit.
            aim = jnp.where(known.solved, 0, aim)
            most = jnp.where(known.solved, min(REFINING_SWEEPS, self.max_sweeps), most)

        def begin() -> _State:
            zero = jnp.zeros((), jnp.int32)
            evals = depth = zero
            if self.start == "known" and known is not None:
                guess = known.states
            elif self.start == "naive":
                warm = Naive().solve(task)
                guess, evals, depth = warm.states, warm.num_evals, warm.depth
            else:
                guess = first_guess(table, start)
            if known is not None:
                guess = jnp.where(known.solved, known.states, guess)
            n = table.num_rows
            return _State(
                sweep=zero,
                states=guess,
                last=guess,
                outputs=jnp.zeros_like(guess),
                comparable=jnp.array(False),
                secants=no_secants(table, start, min(self.history, self.max_sweeps)),
                lowest=zero,
                best=guess,
                best_errors=jnp.full((n,), jnp.inf, start.dtype),
                best_error=jnp.full((), jnp.inf, start.dtype),
                since_best=zero,
                restarts=zero,
                iterations=jnp.zeros((n,), jnp.int32),
                evals=evals,
                depth=depth,
                probes=zero,
                best_residual=jnp.zeros_like(guess),
                plus=jnp.zeros_like(guess),
                rounding=jnp.zeros((n,), start.dtype),
            )

        def solved(s: _State) -> Array:
            return s.best_errors <= jnp.maximum(rtol, ROUNDINGS * s.rounding)

        def wanted(s: _State) -> Array:
            # Until only rounding remains, or nothing improves.
            good = jnp.all(solved(s)) & (s.since_best >= FLOOR_SWEEPS)
            return (
                active
                & (s.sweep < most)
                & ~(good | (s.best_error <= aim))
                & (s.restarts <= self.restarts)
            )

        def affordable(s: _State) -> Array:
            lowest = jnp.where(_probing(s, rtol), 0, s.lowest)
            cost = number_of_calls(table.num_rows, lowest, self.chunk)[1]
            return s.evals + cost <= task.max_evals

        def advance(s: _State) -> _State:
            return _sweep(table, denoise, start, self, aim, _probing(s, rtol), s)

        def finish(s: _State) -> Solved:
            return Solved(
                s.best,
                s.best_errors,
                s.iterations,
                s.evals,
                s.depth,
                jnp.all(solved(s)),
                stopped=wanted(s) & ~affordable(s),
                rounding=s.rounding,
            )

        return Loop(
            begin,
            lambda s: wanted(s) & affordable(s),
            advance,
            finish,
            # The solved steps of the best trajectory.
            steps=lambda s: jnp.sum(solved(s)),
        )

    def _rtol(self, start: Array) -> float:
        return default_row_rtol(start.dtype) if self.rtol is None else self.rtol


class _State(NamedTuple):
    sweep: Array
    states: Array  # the trajectory to evaluate next
    last: Array  # the last evaluated trajectory, and its outputs
    outputs: Array
    comparable: Array  # whether both belong to one run of sweeps
    secants: Secants
    lowest: Array  # levels up to here are converged
    best: Array
    best_errors: Array
    best_error: Array
    since_best: Array
    restarts: Array
    iterations: Array
    evals: Array
    depth: Array
    probes: Array  # sweeps beside the best trajectory, up to 2
    best_residual: Array  # of all rows at the best trajectory, and on one side of it
    plus: Array
    rounding: Array  # of all rows; 0 before it is measured


def _probing(s: _State, rtol: float) -> Array:
    """Return whether the next sweep measures rounding, beside the best trajectory."""
    stagnates = (s.since_best >= STAGNANT_SWEEPS) & (s.best_error <= COARSEST)
    return stagnates & (s.probes < 2) & (s.best_error > rtol)


def first_guess(
    table: SamplerTable, start: Float[Array, "*shape"]
) -> Float[Array, "n *shape"]:
    """Return the trajectory of ``u[0]`` for normally distributed data, a scaling.

    Where u is ``signal D + noise e``, the ODE has for data of variance s^2 the solution
    ``u ~ sqrt(s^2 signal^2 + noise^2)``.
    """
    sizes = gaussian_sizes(table, start)[1]
    growth = sizes[1:] / at_least_tiny(sizes[0])
    return growth.reshape((-1,) + (1,) * start.ndim) * start


def _sweep(
    table: SamplerTable,
    denoise: Denoiser,
    start: Float[Array, "*shape"],
    settings: Trajectory,
    aim: Array,
    probing: Array,
    s: _State,
) -> _State:
    """Evaluate the model at all levels, and move all states.

    A sweep that is ``probing`` evaluates beside the best trajectory, and moves nothing.
    """
    n = table.num_rows
    largest = settings.largest_step
    if largest is None:
        largest = 0.3 if table.history == 1 else 3.0
    levels = jnp.arange(n)
    zero = jnp.zeros((), jnp.int32)
    # Sizes of unit noise: a state that is zero may change by a fraction of that.
    typical = jnp.asarray(table.ode.noise[1:]) * float(start.size) ** 0.5

    side = jnp.where(s.probes == 0, 1, -1).astype(start.dtype)
    states = jnp.where(probing, beside(s.best, s.best_error, side), s.states)
    outputs, evals, calls = evaluate_levels(
        table,
        denoise,
        states,
        s.outputs,
        jnp.where(probing, 0, s.lowest),
        settings.chunk,
    )
    s = s._replace(evals=s.evals + evals, depth=s.depth + calls)
    residual, errors = residuals(table, start, states, outputs)
    probed = _probed(start, residual, s)
    worst = jnp.max(errors)  # NaN if any error is NaN
    better = worst < s.best_error
    best = jnp.where(better, s.states, s.best)
    best_error = jnp.where(better, worst, s.best_error)
    since_best = jnp.where(better, 0, s.since_best + 1)
    restart = ~(worst <= settings.growth * best_error) | (
        since_best >= settings.patience
    )
    # Rows up to here are solved; with chunks, the model is only evaluated above.
    holds = errors <= aim
    lowest = jnp.where(jnp.all(holds), n, jnp.argmin(holds)).astype(zero.dtype)
    lowest = lowest if settings.chunk is not None else zero

    d_states = jnp.where(s.comparable, s.states - s.last, 0)
    secants = record(table, s.secants, d_states, outputs - s.outputs)
    step = newton_step(table, secants, residual, levels >= lowest)
    sizes = jnp.hypot(level_norms(s.states), typical)
    allowed = largest * 0.1**s.restarts * sizes
    length = level_norms(step)
    shorten = jnp.where(length > allowed, allowed / length, 1)
    proposed = s.states + per_level(shorten, step) * step

    moved = s._replace(
        sweep=s.sweep + 1,
        states=jnp.where(restart, best, proposed),
        last=s.states,
        outputs=outputs,
        comparable=~restart,
        secants=forget(secants, restart),
        lowest=jnp.where(restart, 0, lowest),
        best=best,
        best_errors=jnp.where(better, errors, s.best_errors),
        best_error=best_error,
        since_best=jnp.where(restart, 0, since_best),
        restarts=s.restarts + restart,
        iterations=s.iterations + (levels >= s.lowest),
        best_residual=jnp.where(better, residual, s.best_residual),
    )
    return jax.tree.map(lambda a, b: jnp.where(probing, a, b), probed, moved)


def _probed(start: Array, residual: Array, s: _State) -> _State:
    """Return the state after a sweep beside the best trajectory."""
    axes = tuple(range(1, residual.ndim))
    size = rounding_of(s.best_residual, s.plus, residual, axes)
    return s._replace(
        probes=s.probes + 1,
        iterations=s.iterations + 1,
        plus=jnp.where(s.probes == 0, residual, s.plus),
        rounding=jnp.where(
            s.probes == 1, size / norms_after(start, s.best), s.rounding
        ),
    )
