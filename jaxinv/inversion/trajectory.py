r"""The whole trajectory at once: exact inversion at any order, parallel in time.

The unknown is ``Y = (y[1], ..., y[N])``, all states but the data, and the equations are
all rows of the sampler's table (:mod:`jaxinv.inversion.rows`). A *sweep* is

1. evaluate the model at every state of the current guess, in one batched call;
2. the residuals R of all rows, which are also the certificate;
3. the change d that would remove them if the model's Jacobian were one number per
   level: one small banded system, no model;
4. Anderson mixing over the last m sweeps, with the whole trajectory as one vector:
   ``gamma = argmin |d - sum_j gamma_j dd_j|``,  ``Y <- Y + d - sum_j gamma_j (dY_j +
   dd_j)``, weighted so that states of all noise levels count the same.

Nothing of the past is approximated, so the order of the sampler does not matter. The
number per level is measured as the iteration goes on, ``<dy, df> / <dy, dy>`` over the
last change: it costs nothing, and makes step 3 a diagonal secant method.

A sweep costs N evaluations, of which none waits for another. Rows near the data
converge first. With ``chunk`` set, levels are evaluated in chunks (bounded memory), and
chunks below which every row has met the tolerance are not evaluated again (a window
that moves over time).

Where the residual grows, the iteration restarts from the best trajectory so far with
an empty history. What it leaves is for Newton's method on the same equations
(:mod:`jaxinv.inversion.newton`).

References:
    Walker & Ni 2011, SIAM J. Numer. Anal. 49(4) (Anderson mixing).
    Shih et al. 2023, arXiv:2305.16317, and Tang et al. 2024, arXiv:2402.09970, solve
    for whole trajectories in the other direction, to sample in parallel.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinv.denoiser import Denoiser
from jaxinv.inversion.mixing import minimise
from jaxinv.inversion.naive import Naive
from jaxinv.inversion.rows import (
    approximate_inverse,
    balance,
    default_row_rtol,
    per_level,
    residuals,
)
from jaxinv.inversion.stages import Solved
from jaxinv.samplers.table import LinearMultistep
from jaxinv.sampling import evaluate


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """Settings of the whole-trajectory inverse.

    Attributes:
        history: m, how many earlier sweeps are mixed. Each keeps two trajectories.
        max_sweeps: at most so many sweeps.
        rtol: relative residual of every row at which to stop; None for 2e-6 in float32
            and 1e-13 in float64.
        patience: restart after so many sweeps without a better trajectory.
        growth: restart at once when the residual exceeds the best one by this factor.
        restarts: how often to restart before giving up.
        chunk: evaluate so many levels at a time and skip converged ones; None for all
            levels in one call.
        start: the first trajectory: ``"data"`` grows the data as Gaussian data would
            (no evaluation), ``"naive"`` is DDIM inversion (N evaluations, one after
            the other), ``"known"`` what an earlier stage found (else as ``"data"``).
    """

    history: int = 20
    max_sweeps: int = 100
    rtol: float | None = None
    patience: int = 15
    growth: float = 1e4
    restarts: int = 2
    chunk: int | None = None
    start: Literal["data", "known", "naive"] = "data"

    def solve(
        self,
        table: LinearMultistep,
        denoise: Denoiser,
        start: Float[Array, "*shape"],
        known: Solved | None,
        active: Bool[Array, ""],
    ) -> Solved:
        """Solve all rows together; see :class:`jaxinv.inversion.stages.Stage`."""
        if self.start == "known" and known is not None:
            return _sweeps(table, denoise, start, known.states, self, active)
        if self.start == "data":
            guess = first_guess(table, start)
            return _sweeps(table, denoise, start, guess, self, active)
        warm = Naive().solve(table, denoise, start, None, active)
        found = _sweeps(table, denoise, start, warm.states, self, active)
        return found._replace(
            num_evals=found.num_evals + warm.num_evals, depth=found.depth + warm.depth
        )


class _State(NamedTuple):
    sweep: Array
    states: Array  # the trajectory to be evaluated next
    outputs: Array  # the model at the levels that were evaluated last
    slopes: Array
    past_states: Array  # ring buffers over sweeps
    past_residuals: Array
    filled: Array  # how many entries of the ring buffers are valid
    newest: Array  # where the last one is
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
    variance = jnp.mean(start * start)
    growth = jnp.sqrt((variance + table.tau[1:] ** 2) / (variance + table.tau[0] ** 2))
    return growth.reshape((-1,) + (1,) * start.ndim) * start


def evaluate_levels(
    table: LinearMultistep,
    denoise: Denoiser,
    states: Float[Array, "n *shape"],
    outputs: Float[Array, "n *shape"],
    lowest: Int[Array, ""],
    chunk: int | None,
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


def _sweeps(
    table: LinearMultistep,
    denoise: Denoiser,
    start: Float[Array, "*shape"],
    guess: Float[Array, "n *shape"],
    settings: Trajectory,
    active: Bool[Array, ""],
) -> Solved:
    """Solve all rows of a table together, from a first trajectory."""
    dtype = start.dtype
    n = table.num_steps
    m = min(settings.history, settings.max_sweeps)
    rtol = default_row_rtol(dtype) if settings.rtol is None else settings.rtol
    weights = balance(table)[1:]
    levels = jnp.arange(n)
    infinity = jnp.full((), jnp.inf, dtype)
    zero = jnp.zeros((), jnp.int32)
    buffer = jnp.zeros((n, m + 1, *start.shape), dtype)

    def running(s: _State) -> Array:
        return (
            active
            & (s.sweep < settings.max_sweeps)
            & ~(s.best_error <= rtol)
            & (s.restarts <= settings.restarts)
        )

    def body(s: _State) -> _State:
        outputs, evals, calls = evaluate_levels(
            table, denoise, s.states, s.outputs, s.lowest, settings.chunk
        )
        residual, errors = residuals(table, start, s.states, outputs)
        worst = jnp.max(errors)  # NaN if any is
        better = worst < s.best_error
        best_error = jnp.where(better, worst, s.best_error)
        since_best = jnp.where(better, 0, s.since_best + 1)
        restart = ~(worst <= settings.growth * best_error) | (
            since_best >= settings.patience
        )
        # Rows up to here hold; a model is evaluated above only where chunks allow it.
        holds = errors <= rtol
        lowest = jnp.where(jnp.all(holds), n, jnp.argmin(holds)).astype(zero.dtype)
        lowest = lowest if settings.chunk is not None else zero
        open_levels = per_level(levels >= lowest, residual)

        last = s.past_states[:, s.newest]
        slopes = _secant(table, s, s.states - last, outputs - s.outputs)
        place = (s.newest + 1) % (m + 1)
        past_states = s.past_states.at[:, place].set(s.states)
        past_residuals = s.past_residuals.at[:, place].set(residual)
        filled = jnp.minimum(s.filled + 1, m + 1)

        # Differences to the newest sweep span the same space as successive ones.
        age = (place - jnp.arange(m + 1)) % (m + 1)
        valid = ((age > 0) & (age < filled)).reshape((1, -1) + (1,) * start.ndim)
        d_states = jnp.where(valid, s.states[:, None] - past_states, 0)
        d_residuals = jnp.where(valid, residual[:, None] - past_residuals, 0)
        together = jnp.concatenate([residual[:, None], d_residuals], axis=1)
        together = jnp.where(open_levels[:, None], together, 0)
        steps = approximate_inverse(table, slopes, together)
        step, d_steps = steps[:, 0], steps[:, 1:]
        d_states = jnp.where(open_levels[:, None], d_states, 0)
        gamma = minimise(d_steps, step, weights)
        gamma = gamma.reshape((1, -1) + (1,) * start.ndim)
        mixed = jnp.sum(gamma * (d_states + d_steps), axis=1)
        proposed = s.states + step - mixed

        return _State(
            s.sweep + 1,
            jnp.where(restart, jnp.where(better, s.states, s.best), proposed),
            outputs,
            slopes,
            past_states,
            past_residuals,
            jnp.where(restart, 0, filled),
            place,
            jnp.where(restart, 0, lowest),
            jnp.where(better, s.states, s.best),
            jnp.where(better, errors, s.best_errors),
            best_error,
            jnp.where(restart, 0, since_best),
            s.restarts + restart,
            s.iterations + (levels >= s.lowest),
            s.evals + evals,
            s.depth + calls,
        )

    variance = jnp.mean(start * start)
    initial = _State(
        sweep=zero,
        states=guess,
        outputs=jnp.zeros_like(guess),
        slopes=jnp.asarray(table.tau[1:] / (variance + table.tau[1:] ** 2)),
        past_states=buffer,
        past_residuals=buffer,
        filled=zero,
        newest=zero,
        lowest=zero,
        best=guess,
        best_errors=jnp.full((n,), jnp.inf, dtype),
        best_error=infinity,
        since_best=zero,
        restarts=zero,
        iterations=jnp.zeros((n,), jnp.int32),
        evals=zero,
        depth=zero,
    )
    end = jax.lax.while_loop(running, body, initial)
    return Solved(
        end.best,
        end.best_errors,
        end.iterations,
        end.evals,
        end.depth,
        end.best_error <= rtol,
    )


def _secant(table: LinearMultistep, s: _State, dy: Array, df: Array) -> Array:
    """Half the old slopes, half those along the last change, within safe bounds.

    For a data prediction D with Jacobian D', ``df/dy = (1 - D') / tau``: the bounds
    admit D' from 0 to 3/2 and keep every pivot of the recursion away from zero.
    """
    axes = tuple(range(1, dy.ndim))
    square = jnp.sum(dy * dy, axes)
    measured = jnp.sum(dy * df, axes) / jnp.where(square > 0, square, 1)
    inverse = 1 / table.tau[1:]
    measured = jnp.clip(measured, -0.5 * inverse, inverse)
    usable = (s.filled > 0) & (square > 0) & jnp.isfinite(measured)
    return jnp.where(usable, (s.slopes + measured) / 2, s.slopes)
