r"""Explicit inversion: undo the rows of a bidirectional sampler.

A bidirectional row gives its oldest state as easily as its newest
(:mod:`jaxinv.sampling.steps`). A *state* at the data end, k states for a table, is
therefore followed to the noise end without solving equations: one evaluation per row,
exact up to rounding, and sampling from the final state retraces every step.

Real data are one array. The other k - 1 states at the data end are then *generated*, in
one of two ways:

``start="implicit"``
    by implicit steps of DDIM, ``y[i-1] = y[i] - (tau[i] - tau[i-1]) f[i]`` solved for
    y[i]: the stepwise inverse of :mod:`jaxinv.inversion.stepwise` on the first levels;
``start="euler"``
    by Euler's steps, ``y[i] = y[i-1] + (tau[i] - tau[i-1]) f[i-1]``, one evaluation
    each, at the state and the time of the lower level. BELM's repository uses this
    start (except in its interpolation scripts, which omit the model's output in this
    step). It gives the network t = 1 at the data end; here it is the grid's
    ``model_time[0]``.

The accuracy of these states does not affect the round trip, which retraces any states
and ends at the data x[0]. It affects the noise.

The noise end differs. A single array of noise becomes data through *start-up rows*,
which the final states do not satisfy:

    the state (k arrays)      ->  sample  ->  the data, exactly
    its x[N] alone            ->  sample  ->  approximately the data.

The residuals of the start-up rows, the last k - 1, are also part of ``step_residuals``
and ``residual``, and cost one more evaluation. Both results are verified by sampling
and have separate verdicts: ``state_converged`` is for the state and the rows that it
uses, ``converged`` for the single array of noise. If a single array is required,
``strategy="trajectory"`` solves all rows together, including start-up rows.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.callables import Function, check_denoiser
from jaxinv.checks import Tolerance, checked
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.inversion.implicit_gradient import attach_gradient
from jaxinv.inversion.naive import Naive
from jaxinv.inversion.result import InversionResult, wrap_up
from jaxinv.inversion.row_residuals import default_row_rtol
from jaxinv.inversion.stages import Solved, Stage, Task
from jaxinv.inversion.stepwise import Stepwise
from jaxinv.inversion.verification import judge, misfit, perturbed, unverified
from jaxinv.loops import Loop, run
from jaxinv.samplers.table import SamplerTable
from jaxinv.sampling.lossless import Arithmetic, invert_exactly, sample_exactly
from jaxinv.sampling.sample import descend
from jaxinv.sampling.state import SamplerState, state_of
from jaxinv.sampling.steps import Rows, Window, in_dtype
from jaxinv.solvers import Anderson, Solver

Start = Literal["implicit", "euler"]


@checked
@dataclasses.dataclass(frozen=True)
class Explicit(Stage):
    """Explicit inversion, from states at the data end.

    Attributes:
        solver: Solver of the implicit steps that generate these states from one array.
        rtol: Largest relative residual, which is rounding, of rows that count as
            exact; None for 5e-6 in float32 and 2.5e-13 in float64.
        start: Method to generate these states: ``"implicit"``, or ``"euler"`` as
            published for BELM, which needs no solver.
    """

    solver: Solver = dataclasses.field(default_factory=Anderson)
    rtol: Tolerance | None = None
    start: Start = "implicit"

    def loop(self, task: Task) -> Loop:
        """Return the climb; see :class:`jaxinv.inversion.stages.Stage`."""
        table, denoise, start = task[:3]  # always the first stage
        rows = Rows(table, denoise)
        climb = ascent(rows, None, self.rtol)

        def begin() -> tuple[Solved, Any]:
            if self.start == "euler":
                made = euler_states(table, denoise, start)
            else:
                made = first_states(table, denoise, start, self.solver)
            states = jnp.concatenate([start[None], made.states])
            return made, ascent(rows, rows.known(states, 0)).begin()

        def finish(state: tuple[Solved, Any]) -> Solved:
            made, (_, found) = state[0], climb.finish(state[1])
            k = len(made.states)
            return found._replace(
                states=jnp.concatenate([made.states, found.states[k:]]),
                iterations=found.iterations.at[:k].add(made.iterations),
                num_evals=found.num_evals + made.num_evals,
                depth=found.depth + made.depth,
            )

        return climb._replace(
            begin=begin,
            running=lambda state: climb.running(state[1]),
            advance=lambda state: (state[0], climb.advance(state[1])),
            finish=finish,
            steps=lambda state: state[1][0] - 1,
        )


def ascent(rows: Rows, window: Window | None, rtol: float | None = None) -> Loop:
    """Return the loop that undoes all rows.

    Args:
        rows: The rows of a bidirectional sampler.
        window: The first window, at level 0.
        rtol: See :class:`Explicit`.

    Returns:
        A loop whose result is the window at the noise end and the trajectory ``u[1] ..
        u[N]``. It finishes with one evaluation for the start-up rows.
    """

    def begin() -> tuple[Array, Window, Array, Array]:
        assert window is not None
        newest = window.states[0]
        states = jnp.zeros((rows.top, *newest.shape), newest.dtype)
        errors = jnp.zeros((rows.top,), newest.dtype)
        return jnp.ones((), jnp.int32), window, states, errors

    def advance(
        state: tuple[Array, Window, Array, Array],
    ) -> tuple[Array, Window, Array, Array]:
        i, window, states, errors = state
        window, error = rows.up(i, window)
        states = states.at[i - 1].set(window.states[0])
        return i + 1, window, states, errors.at[i - 1].set(error)

    def finish(state: tuple[Array, Window, Array, Array]) -> tuple[Window, Solved]:
        _, window, states, errors = state
        least = default_row_rtol(states.dtype) if rtol is None else rtol
        evals = jnp.full((), rows.undo_evals, jnp.int32)
        all_errors = rows.start_up(window, errors)
        solved = Solved(
            jnp.concatenate([states, window.states[1:]]),
            all_errors,
            jnp.ones_like(all_errors, jnp.int32),
            evals,
            evals,
            jnp.max(all_errors) <= least,
            jnp.max(errors) <= least,
        )
        return window, solved

    return Loop(
        begin,
        running=lambda state: state[0] <= rows.top,
        advance=advance,
        finish=finish,
        length=rows.top,
    )


def unwind(
    sampler: SamplerTable,
    denoise: Denoiser,
    start: SamplerState,
    keep: bool,
    rtol: float | None,
) -> InversionResult:
    """Invert the state of a bidirectional sampler.

    Args:
        sampler: The sampler.
        denoise: The denoiser.
        start: The state at the data end.
        keep: Whether to return the trajectory.
        rtol: Largest relative error of the reconstruction that counts as converged;
            None for no verification.

    Returns:
        The result, with the state at the noise end.
    """
    check_denoiser(denoise, start.values[0])
    rows = Rows(sampler, denoise, start.values.dtype)
    window, solved = run(ascent(rows, rows.resume(start.values, 0)))
    state = state_of(sampler, rows.values(window, rows.top), "noise")
    verified = unverified(solved)
    if rtol is not None:
        scale = jnp.asarray(sampler.init_noise_scale, start.values.dtype)
        fixed, state_x, origin = jax.lax.stop_gradient((state, state.x / scale, start))
        moved = dataclasses.replace(fixed, values=perturbed(fixed.values))
        end, *states = (
            descend(sampler, denoise, start, keep=False)[0]
            for start in (state_x, fixed, moved)
        )
        error = misfit(end[0], origin.x)
        # Resuming from a state takes fewer rows, and an evaluation per inner array.
        n = sampler.num_rows
        evals = n + 2 * (n - 1)
        verified = judge(solved, error, states, origin, rtol, evals=evals)
        verified = jax.lax.stop_gradient(verified)
    return wrap_up(sampler, start.x, solved.states, verified, keep, state)


def first_states(
    table: SamplerTable, denoise: Denoiser, start: Array, solver: Solver
) -> Solved:
    """Return the states ``u[1] .. u[k-1]``, by implicit steps of DDIM from ``u[0]``.

    They are differentiable by the implicit function theorem for every solver.
    """
    ddim = _start_up(table)
    model = denoise if isinstance(denoise, Function) else Function.of(denoise)
    fixed = jax.lax.stop_gradient((ddim, model, start))
    found = Stepwise(solver).solve(Task(*fixed))
    states = attach_gradient(ddim, model, start, found.states)
    return found._replace(states=states)


def euler_states(table: SamplerTable, denoise: Denoiser, start: Array) -> Solved:
    """Return the states ``u[1] .. u[k-1]``, by Euler's steps from ``u[0]``."""
    return Naive("lower").solve(Task(_start_up(table), denoise, start))


def _start_up(table: SamplerTable) -> SamplerTable:
    """Return DDIM on the lowest levels, ``k`` of them."""
    lowest = table.part(0, table.history - 1)
    euler = jnp.asarray(lowest.ode.euler)
    return dataclasses.replace(
        lowest, a=euler[:, :1], b=euler[:, 1:], name="ddim", order=1
    )


def unwind_exactly(
    sampler: SamplerTable,
    denoise: Function,
    start: Float[Array, "*shape"] | SamplerState,
    arithmetic: Arithmetic,
    rtol: float | None,
) -> InversionResult:
    """Invert a bidirectional table in lossless arithmetic.

    Args:
        sampler: The table.
        denoise: The denoiser.
        start: The data, or the state at the data end.
        arithmetic: ``"compensated"`` or ``"bits"``.
        rtol: Largest relative error of the reconstruction that counts as converged;
            None for no verification.

    Returns:
        The result, with the state at the noise end. The residuals of the state's rows
        are zero by construction; ``state_converged=False`` means that a value was out
        of range.
    """
    given = start
    evals, iterations = jnp.zeros((), jnp.int32), None
    if not isinstance(start, SamplerState):
        values, iterations, evals = _made(sampler, denoise, start)
        start = state_of(sampler, values, "data")
    state, fits = invert_exactly(sampler, denoise, start, arithmetic)
    errors = _start_up_errors(sampler, denoise, state.values)
    k, n = sampler.history, sampler.num_rows
    walked = (n + 1 - k) + 2 * (k - 2) + 1
    counts = jnp.ones((n,), jnp.int32)
    if iterations is not None:
        counts = counts.at[: k - 1].add(iterations)
    noise = state.x / jnp.asarray(sampler.init_noise_scale, state.values.dtype)
    total = evals + walked
    good = fits & (jnp.max(errors) <= default_row_rtol(errors.dtype))
    # The states of the trajectory are not stored.
    solved = Solved(errors, errors, counts, total, total, good, fits)
    verified = unverified(solved)
    if rtol is not None:
        known = jax.lax.stop_gradient(denoise)

        def again(start: Array | SamplerState) -> Array:
            start = jax.lax.stop_gradient(start)
            return sample_exactly(sampler, known, start, arithmetic).values

        # Integers retrace exactly, so there is no last place to change.
        x0 = given.x if isinstance(given, SamplerState) else given
        error, states = misfit(again(noise)[0], x0), [again(state)]
        both = n + (k - 2) + (n - 1)
        verified = judge(solved, error, states, given, rtol, evals=both)
        verified = jax.lax.stop_gradient(verified)
    return InversionResult(
        noise=noise,
        state=state,
        trajectory=None,
        residual=jnp.max(errors),
        step_residuals=errors,
        iterations=counts,
        num_evals=verified.solved.num_evals,
        depth=verified.solved.depth,
        converged=verified.converged,
        reconstruction=verified.reconstruction,
        solved=good,
        state_converged=verified.state_converged,
        state_reconstruction=verified.state_reconstruction,
        stages=jnp.ones((), jnp.int32),
        stopped=jnp.zeros((), bool),
        rounding=jnp.zeros_like(verified.reconstruction),
    )


@jax.jit
def _made(
    sampler: SamplerTable, denoise: Function, x0: Array
) -> tuple[Array, Array, Array]:
    """Return the states x at the data end, and the cost of generating them."""
    check_denoiser(denoise, x0)
    table = in_dtype(sampler, x0.dtype)
    made = first_states(table, denoise, x0 / table.scale[0], Anderson())
    scale = jnp.asarray(table.scale)[1 : table.history]
    states = scale.reshape((-1,) + (1,) * x0.ndim) * made.states
    return jnp.concatenate([x0[None], states]), made.iterations, made.num_evals


@jax.jit
def _start_up_errors(sampler: SamplerTable, denoise: Function, values: Array) -> Array:
    """Return the residuals of all steps, which are zero except in start-up rows."""
    rows = Rows(sampler, denoise, values.dtype)
    window = rows.resume(values, rows.top)
    return rows.start_up(window, jnp.zeros((rows.top,), values.dtype))
