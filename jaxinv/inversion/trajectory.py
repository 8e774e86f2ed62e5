r"""The whole trajectory at once: exact inversion at any order, parallel in time.

The unknown is ``Y = (y[1], ..., y[N])``, all states but the data, and the equations are
all rows of the sampler's table (:mod:`jaxinv.inversion.row_residuals`). A *sweep* is

1. evaluate the model at every state of the current guess, in one batched call;
2. the residuals R of all rows, which are also the certificate;
3. a quasi-Newton step for all rows together, with a model of each level's Jacobian
   built from what the last m sweeps measured at that level
   (:mod:`jaxinv.inversion.trajectory_secants`), its length bounded.

Nothing of the past is approximated, so the order of the sampler does not matter.

A sweep costs N evaluations, of which none waits for another. Rows near the data
converge first. With ``chunk`` set, levels are evaluated in chunks (bounded memory), and
chunks below which every row has met the tolerance are not evaluated again (a window
that moves over time).

Where the residual grows, or does not improve for long, the iteration restarts from the
best trajectory so far, with an empty history and smaller steps. What it leaves is for
Newton's method on the same equations (:mod:`jaxinv.inversion.trajectory_newton`).

References:
    Shih et al. 2023, arXiv:2305.16317, and Tang et al. 2024, arXiv:2402.09970, solve
    for whole trajectories in the other direction, to sample in parallel; Fang & Saad
    2009 for the quasi-Newton method.
"""

import dataclasses
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinv.checks import AtLeastOne, Positive, Tolerance, Whole, checked
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.inversion.naive import Naive
from jaxinv.inversion.row_residuals import (
    default_row_rtol,
    level_norms,
    per_level,
    residuals,
)
from jaxinv.inversion.stages import LoopStage, Solved
from jaxinv.inversion.trajectory_secants import (
    Secants,
    forget,
    newton_step,
    no_secants,
    record,
)
from jaxinv.loops import Loop
from jaxinv.norms import at_least_tiny, norm
from jaxinv.samplers.table import LinearMultistep
from jaxinv.sampling.sample import evaluate

# Sweeps go on to this part of the tolerance, unless so many do not improve on the best.
AIM, FLOOR_SWEEPS = 0.4, 3

# From the states that sampling went through, a solution is near or there is none.
REFINING_SWEEPS = 40


@checked
@dataclasses.dataclass(frozen=True)
class Trajectory(LoopStage):
    """Settings of the whole-trajectory inverse.

    Attributes:
        history: m, how many earlier sweeps are used. Each keeps two trajectories.
            Fewer are used where N m would exceed 2000.
        max_sweeps: at most so many sweeps.
        rtol: relative residual of every row that counts as converged; None for 5e-6
            in float32 and 2.5e-13 in float64. Sweeps go on to 0.4 of that as long as
            they improve the trajectory: what is left then is rounding.
        largest_step: no state changes by more than so many times its size in a sweep,
            and by a tenth of that after each restart. None for 0.3 where the table
            remembers one state, and 3 where it remembers more (measured).
        patience: restart after so many sweeps without a better trajectory.
        growth: restart at once when the residual exceeds the best one by this factor.
        restarts: how often to restart before giving up.
        chunk: evaluate so many levels at a time and skip converged ones; None for all
            levels in one call.
        start: the first trajectory: ``"data"`` grows the data as Gaussian data would
            (no evaluation), ``"naive"`` is DDIM inversion (N evaluations, one after
            the other), ``"known"`` what an earlier stage found (else as ``"data"``).
            Where an earlier stage solved all rows and sampling missed the data all the
            same, it is the trajectory of that sampling, and sweeps go on as long as
            they improve it.
    """

    #: It can start from the states that sampling went through.
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

    def loop(
        self,
        table: LinearMultistep,
        denoise: Denoiser,
        start: Float[Array, "*shape"],
        known: Solved | None,
        active: Bool[Array, ""],
    ) -> Loop:
        """Return the sweeps; see :class:`jaxinv.inversion.stages.LoopStage`."""
        rtol = self._rtol(start)
        aim = jnp.full((), AIM * rtol, start.dtype)
        most = jnp.full((), self.max_sweeps, jnp.int32)
        if known is not None:
            # The rows were solved, and sampling missed the data: to the last digit now.
            aim = jnp.where(known.solved, 0, aim)
            most = jnp.where(known.solved, min(REFINING_SWEEPS, self.max_sweeps), most)

        def begin() -> _State:
            zero = jnp.zeros((), jnp.int32)
            evals = depth = zero
            if self.start == "known" and known is not None:
                guess = known.states
            elif self.start == "naive":
                warm = Naive().solve(table, denoise, start, None, active)
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
            )

        def running(s: _State) -> Array:
            # Until rounding is all that is left, or nothing improves.
            good = (s.best_error <= rtol) & (s.since_best >= FLOOR_SWEEPS)
            return (
                active
                & (s.sweep < most)
                & ~(good | (s.best_error <= aim))
                & (s.restarts <= self.restarts)
            )

        def advance(s: _State) -> _State:
            return _sweep(table, denoise, start, self, aim, s)

        def finish(s: _State) -> Solved:
            solved = s.best_error <= rtol
            return Solved(s.best, s.best_errors, s.iterations, s.evals, s.depth, solved)

        return Loop(
            begin,
            running,
            advance,
            finish,
            # Of the best trajectory, the steps that are solved.
            steps=lambda s: jnp.sum(s.best_errors <= rtol),
        )

    def _rtol(self, start: Array) -> float:
        return default_row_rtol(start.dtype) if self.rtol is None else self.rtol


class _State(NamedTuple):
    sweep: Array
    states: Array  # the trajectory to be evaluated next
    last: Array  # the one that was evaluated last, and the outputs there
    outputs: Array
    comparable: Array  # whether the two belong to one run of sweeps
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


def first_guess(
    table: LinearMultistep, start: Float[Array, "*shape"]
) -> Float[Array, "n *shape"]:
    """The trajectory of ``y[0]`` for normally distributed data: it only grows.

    For data of variance s^2 the ODE has the solution ``y(tau) ~ sqrt(s^2 + tau^2)``.
    """
    size = norm(start) / float(start.size) ** 0.5
    tau = jnp.asarray(table.tau, start.dtype)
    growth = jnp.hypot(size, tau[1:]) / at_least_tiny(jnp.hypot(size, tau[0]))
    return growth.reshape((-1,) + (1,) * start.ndim) * start


def evaluate_levels(
    table: LinearMultistep,
    denoise: Denoiser,
    states: Float[Array, "n *shape"],
    outputs: Float[Array, "n *shape"],
    lowest: Int[Array, ""],
    chunk: AtLeastOne | None,
) -> tuple[Float[Array, "n *shape"], Int[Array, ""], Int[Array, ""]]:
    """The model at all levels above ``lowest``.

    Args:
        table: the table.
        denoise: the denoiser.
        states: ``y[1] .. y[N]``.
        outputs: what is known of the outputs; kept for the levels not evaluated.
        lowest: levels up to this one keep their outputs (with ``chunk`` only).
        chunk: levels per call; None for one call of all.

    Returns:
        The outputs, the number of evaluations, and the number of calls.
    """
    n = states.shape[0]

    def call(levels: Array, y: Array) -> Array:
        return jax.vmap(lambda i, y: evaluate(table, denoise, i, y))(levels, y)

    one = jnp.ones((), jnp.int32)
    if chunk is None or chunk >= n:
        return call(jnp.arange(1, n + 1), states), n * one, one
    # Counted from the noise end, so that only the last call, near the data, overlaps.
    calls = (n - lowest + chunk - 1) // chunk

    def body(c: Array, outputs: Array) -> Array:
        begin = jnp.maximum(n - (c + 1) * chunk, 0)
        y = jax.lax.dynamic_slice_in_dim(states, begin, chunk)
        f = call(begin + 1 + jnp.arange(chunk), y)
        return jax.lax.dynamic_update_slice_in_dim(outputs, f, begin, 0)

    return jax.lax.fori_loop(0, calls, body, outputs), calls * chunk, calls


def _sweep(
    table: LinearMultistep,
    denoise: Denoiser,
    start: Float[Array, "*shape"],
    settings: Trajectory,
    aim: Array,
    s: _State,
) -> _State:
    """Evaluate the model at all levels, and move all states."""
    n = table.num_rows
    largest = settings.largest_step
    if largest is None:
        largest = 0.3 if table.history == 1 else 3.0
    levels = jnp.arange(n)
    zero = jnp.zeros((), jnp.int32)
    # Sizes of unit noise: a state may move by a part of that even where it is zero.
    typical = jnp.asarray(table.tau[1:]) * float(start.size) ** 0.5

    outputs, evals, calls = evaluate_levels(
        table, denoise, s.states, s.outputs, s.lowest, settings.chunk
    )
    residual, errors = residuals(table, start, s.states, outputs)
    worst = jnp.max(errors)  # NaN if any is
    better = worst < s.best_error
    best = jnp.where(better, s.states, s.best)
    best_error = jnp.where(better, worst, s.best_error)
    since_best = jnp.where(better, 0, s.since_best + 1)
    restart = ~(worst <= settings.growth * best_error) | (
        since_best >= settings.patience
    )
    # Rows up to here hold; a model is evaluated above only where chunks allow it.
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

    return _State(
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
        evals=s.evals + evals,
        depth=s.depth + calls,
    )
