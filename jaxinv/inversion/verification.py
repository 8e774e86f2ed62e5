r"""Verification: run a plan, and sample from its results.

Small residuals of all rows do not determine where sampling ends. Steps amplify errors:
the error of a row at a high noise level can grow a thousandfold toward the data. After
every stage of a plan the sampler's own loop therefore samples from the recovered noise,
and the error of the resulting data,

    reconstruction = |sample(noise) - x0| / |x0|,

is measured. A result has *converged* if its rows are solved **and** this error is at
most a quarter (``MARGIN``) of a tolerance. The margin allows for rounding: in another
precision the same noise leads to data within the tolerance (measured by ``python -m
benchmarks.certificates``). An error that is a considerable part of the tolerance
(``DOUBTFUL``) may be too small because sampling retraces roundings. Sampling is then
repeated from the noise with values changed by a unit in the last place, or by the
network's rounding if that is larger, and the larger error counts.

A sample that did not converge continues with the next stage of the plan. If its rows
were solved but sampling missed the data, the next stage starts from the states of
sampling. All of their rows are as exact as possible, except for the last row, which has
the whole error and must now be solved. A stage that can do this (``refines``) is
repeated as long as the error decreases by a factor; other stages cannot improve a
result with solved rows. A network that computes in 16 bits has rounding that no stage
can remove (:mod:`jaxinv.solvers.rounding`): where rows are solved to that, no stage
follows, whatever sampling returns.

Every stage stops when the evaluations of the sample, with those of earlier stages and
verifications, reach a limit. A stage is not started without enough for its first
iteration. The verification of the last result is made in any case.

The best result is kept: converged results take precedence, followed by the smaller
reconstruction error. Costs of all stages and of the verification are added.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.inversion.row_residuals import per_level
from jaxinv.inversion.stages import UNLIMITED, Evals, Solved, Stage, Task, run_stage
from jaxinv.norms import relative
from jaxinv.samplers.table import SamplerTable
from jaxinv.sampling.sample import descend
from jaxinv.sampling.state import SamplerState, state_of
from jaxinv.sampling.steps import in_dtype

#: Largest measured error as a fraction of the tolerance.
MARGIN = 0.25

#: Measured error, as a fraction of the tolerance, from which sampling is repeated.
DOUBTFUL = MARGIN / 20

#: A stage is repeated while the reconstruction error decreases by this factor.
GAIN = 0.25

#: Function from noise, or a state, to all states x of the trajectory, data first.
WayBack = Callable[[Array | SamplerState], Array]


class Verified(NamedTuple):
    """The result of stages with its verification.

    Attributes:
        solved: The trajectory, with the total cost.
        reconstruction: Relative error of the data sampled from the noise, shape (); NaN
            without verification, infinite on overflow.
        state_reconstruction: Relative error of the data sampled from the state at the
            noise end, shape (): the larger of two errors, one from the state and one
            from the state with values changed by a unit in the last place.
        converged: Whether rows are solved and the reconstruction is within the
            tolerance, shape ().
        state_converged: The verdict on the state, shape ().
        retraced: ``u[1] .. u[N]`` of sampling from the noise, shape (N, ...); None if
            not kept.
        stages: Number of stages of the plan that ran, shape ().
    """

    solved: Solved
    reconstruction: Float[Array, ""]
    state_reconstruction: Float[Array, ""]
    converged: Bool[Array, ""]
    state_converged: Bool[Array, ""]
    retraced: Float[Array, "n *shape"] | None = None
    stages: Int[Array, ""] | Any = 1

    @property
    def noise_is_found(self) -> Bool[Array, ""]:
        """Whether later stages are not needed."""
        untried = jnp.isnan(self.reconstruction) & self.solved.solved
        return self.converged | untried


def default_reconstruction_rtol(dtype: Any) -> float:
    """Return the default tolerance of the reconstruction's relative error.

    Args:
        dtype: Floating-point dtype of the states.

    Returns:
        4e-4 (-68 dB) in float32, 4e-10 in float64. The measured error must be at most
        1e-4 (-80 dB). All solved inversions of the embedded model satisfy this
        (``benchmarks/results/exactness.md``), and it is a twentieth of the error of
        rounding an image to 8 bits.
    """
    return 4e-10 if jnp.finfo(dtype).bits == 64 else 4e-4


@jax.jit
def unverified(solved: Solved) -> Verified:
    """Return a result without verification."""
    nan = jnp.full_like(solved.errors[0], jnp.nan)
    no = jnp.zeros_like(solved.solved)
    return Verified(with_both(solved), nan, nan, no, no)


# Outside a caller's program, each jitted function is one small program instead of many.


@jax.jit
def noise_end(
    table: SamplerTable, states: Float[Array, "n *shape"]
) -> tuple[Float[Array, "*shape"], SamplerState | None]:
    """Return the noise of a trajectory, and the state of a bidirectional sampler.

    Args:
        table: The table.
        states: ``u[1] .. u[N]``.
    """
    table = in_dtype(table, states.dtype)
    k = table.history if table.bidirectional else 1
    xs = per_level(jnp.asarray(table.scale)[-k:], states) * states[-k:]
    noise = xs[-1] / table.init_noise_scale
    return noise, state_of(table, xs, "noise") if table.bidirectional else None


def verify(
    table: SamplerTable,
    x0: Float[Array, "*shape"],
    solved: Solved,
    rtol: float,
    way_back: WayBack,
) -> Verified:
    """Verify the result of stages by sampling from it.

    Args:
        table: The table.
        x0: The data.
        solved: The result of the stages.
        rtol: Relative error of the data that converged results guarantee.
        way_back: Function that samples.

    Returns:
        The result with its reconstruction. The states of sampling are kept if
        ``way_back`` returns all of them.
    """
    noise, state = noise_end(table, solved.states)
    rounded = solved.limited | solved.coarse
    measured = jnp.asarray(with_both(solved).rounding)
    rounding = jnp.where(rounded, jnp.max(measured), 0)
    xs = way_back(noise)
    error, doubtful = _first_error(xs, x0, solved, rtol)

    def once_more(carry: Any) -> Any:
        _, error = carry
        again = misfit(way_back(perturbed(noise, rounding))[0], x0)
        return jnp.zeros_like(doubtful), jnp.maximum(error, again)

    if isinstance(doubtful, jax.core.Tracer):
        error = jax.lax.while_loop(lambda c: c[0], once_more, (doubtful, error))[1]
    elif bool(doubtful):
        error = once_more((doubtful, error))[1]
    states: tuple[Array, ...] = ()
    if state is not None:
        moved = dataclasses.replace(state, values=perturbed(state.values))
        states = way_back(state), way_back(moved)
    return _judged(table, x0, solved, xs, error, doubtful, states, rtol)


@functools.partial(jax.jit, static_argnames="rtol")
def _first_error(
    xs: Array, x0: Array, solved: Solved, rtol: float
) -> tuple[Array, Array]:
    """Return the error of sampling, and whether it may be too small."""
    error = misfit(xs[0], x0)
    close = (error > DOUBTFUL * rtol) | solved.limited | solved.coarse
    return error, close & (error <= MARGIN * rtol) & solved.solved


@functools.partial(jax.jit, static_argnames="rtol")
def _judged(
    table: SamplerTable,
    x0: Array,
    solved: Solved,
    xs: Array,
    error: Array,
    doubtful: Array,
    states: tuple[Array, ...],
    rtol: float,
) -> Verified:
    """Return the verdict, with the states of sampling if all of them are available."""
    n = table.num_rows
    retraced = None
    if len(xs) > 1:
        scale = jnp.asarray(table.scale, xs.dtype)
        retraced = xs[1:] / per_level(scale[1:], xs)
    # Resuming from a state takes fewer steps, and an evaluation per inner array.
    evals = n + jnp.where(doubtful, n, 0) + len(states) * (n - 1)
    verified = judge(solved, error, states, x0, rtol, evals=evals)
    return verified._replace(retraced=retraced)


@jax.jit
def perturbed(
    values: Float[Array, "*shape"], rounding: Float[Array, ""] | float = 0.0
) -> Float[Array, "*shape"]:
    """Return values that are each changed by a unit in the last place.

    Sampling from the original values can retrace roundings. Sampling from these shows
    how the steps amplify a difference in the last place; or, of a network that computes
    in fewer digits, a difference of its rounding, if that was measured.
    """
    signs = jax.random.rademacher(jax.random.key(0), values.shape, values.dtype)
    size = jnp.maximum(rounding, jnp.finfo(values.dtype).eps)
    return values * (1 + size.astype(values.dtype) * signs)


def judge(
    solved: Solved,
    error: Float[Array, ""],
    states: Sequence[Float[Array, "k *shape"]],
    given: Float[Array, "*shape"] | SamplerState,
    rtol: float,
    *,
    evals: int | Int[Array, ""],
) -> Verified:
    """Compare the results of sampling with the inverted data.

    Args:
        solved: The result of the stages.
        error: Relative error of the data sampled from the noise.
        states: Results of sampling from the state at the noise end, data side first;
            empty for samplers whose state is the noise.
        given: The inverted data, or the state at the data end.
        rtol: Relative error of the data that converged results guarantee.
        evals: Number of sequential evaluations of sampling.

    Returns:
        The result with verdicts.
    """
    solved = with_both(solved)
    solved = solved._replace(
        num_evals=solved.num_evals + evals, depth=solved.depth + evals
    )
    state_error = error
    if states:
        values = given.values if isinstance(given, SamplerState) else given[None]
        found = [misfit(xs[: len(values)], values) for xs in states]
        state_error = jnp.max(jnp.stack(found))
    return Verified(
        solved,
        error,
        state_error,
        solved.solved & (error <= MARGIN * rtol),
        jnp.asarray(solved.state_solved) & (state_error <= MARGIN * rtol),
    )


def run_plan(
    plan: tuple[Stage, ...],
    table: SamplerTable,
    denoise: Denoiser,
    x0: Float[Array, "*shape"],
    rtol: float | None,
    max_evals: Evals = UNLIMITED,
) -> Verified:
    """Run the stages of a plan, each for the samples that still need it.

    Args:
        plan: The stages, at least one.
        table: The table, in the dtype of the states.
        denoise: The denoiser.
        x0: The data.
        rtol: Largest relative error of the reconstruction; None for no verification.
        max_evals: See :func:`jaxinv.invert`.

    Returns:
        The best result, with the cost of all stages.
    """

    def attempt(stage: Stage, known: Verified | None, active: Array) -> Verified:
        before = None if known is None else start_of_next(known)
        task = Task.of(table, denoise, x0, before, active, max_evals)
        found = run_stage(stage, task)
        return verify_in_place(table, denoise, x0, found, rtol, keep=needs_states(plan))

    best = attempt(plan[0], None, jnp.array(True))
    best = best._replace(stages=jnp.ones((), jnp.int32))
    for k, stage in enumerate(plan):
        if k == 0 and not refines(stage):
            continue

        def once_more(
            carry: tuple[Array, Verified], stage: Stage = stage
        ) -> tuple[Array, Verified]:
            active, known = carry
            found = attempt(stage, known, active)
            again = jnp.array(refines(stage)) & worth_repeating(known, found)
            least = stage.least_evals(table)
            return within_limit(better_of(known, found), again, least, max_evals)

        wanted = (
            worth_repeating(None, best) if k == 0 else is_needed(best, refines(stage))
        )
        least = stage.least_evals(table)
        active, best = within_limit(best, wanted, least, max_evals)
        # A loop, usually without iterations: in a batch, a conditional would always
        # run.
        best = jax.lax.while_loop(lambda c: c[0], once_more, (active, best))[1]
        best = best._replace(stages=jnp.where(active, k + 1, best.stages))
    return best


def refines(stage: Stage) -> bool:
    """Return whether a stage can start from the states of sampling."""
    return bool(getattr(stage, "refines", False))


def is_needed(known: Verified, refining: bool | tuple[bool, ...]) -> Bool[Array, "..."]:
    """Return whether later stages of a plan are needed.

    Args:
        known: The result of earlier stages.
        refining: Whether each of these stages :func:`refines`.
    """
    # A stage that does not refine cannot recover what sampling lost, and no stage
    # what rounding hides.
    hopeless = known.solved.solved & ~jnp.asarray(refining) | known.solved.limited
    return ~known.noise_is_found & ~hopeless


def within_limit(
    known: Verified,
    wanted: Bool[Array, "..."],
    least: int | Int[Array, "..."],
    max_evals: Evals,
) -> tuple[Bool[Array, "..."], Verified]:
    """Return which stages can start, and whether any cannot for want of evaluations.

    Args:
        known: The result so far.
        wanted: Whether each stage is needed.
        least: The evaluations without which each is not started.
        max_evals: See :func:`jaxinv.invert`.

    Returns:
        Whether each stage is needed and can start, and the result, ``stopped`` if one
        is needed and cannot.
    """
    solved = known.solved
    enough = max_evals - solved.num_evals >= jnp.asarray(least)
    stopped = jnp.asarray(solved.stopped) | jnp.any(wanted & ~enough)
    return wanted & enough, known._replace(solved=solved._replace(stopped=stopped))


def needs_states(plan: tuple[Stage, ...]) -> bool:
    """Return whether a plan uses the states of sampling."""
    return any(refines(stage) for stage in plan)


def worth_repeating(known: Verified | None, found: Verified) -> Bool[Array, ""]:
    """Return whether a stage that refines should continue from its own verification.

    Args:
        known: The result before the stage; None, or without a reconstruction, if there
            is none.
        found: The result of the stage.
    """
    missed = found.solved.solved & ~found.noise_is_found
    missed &= jnp.isfinite(found.reconstruction) & ~found.solved.limited
    if known is None:
        return missed
    # The error decreases by a factor each time, so this ends.
    first = jnp.isnan(known.reconstruction)
    return missed & (first | (found.reconstruction <= GAIN * known.reconstruction))


def weigh(
    known: Verified | None,
    found: Verified,
    stage: int | Int[Array, ""],
    refining: tuple[bool, ...],
    least: tuple[int, ...],
    max_evals: Evals,
) -> tuple[Verified, Bool[Array, "stages"]]:
    """Compare the result of a stage of a plan with the earlier result.

    Args:
        known: The earlier result; None, or without a reconstruction, if there is none.
        found: The result of the stage.
        stage: The number of the stage in the plan, from 0.
        refining: Whether each stage of the plan :func:`refines`.
        least: The evaluations without which each is not started.
        max_evals: See :func:`jaxinv.invert`.

    Returns:
        The better result; and which stages of the plan should run next: this one, if it
        refines and should continue from its own verification, and later ones.
    """
    again = worth_repeating(known, found)
    best = found if known is None else better_of(known, found)
    best = best._replace(stages=jnp.asarray(stage, jnp.int32) + 1)
    stages = jnp.arange(len(refining))
    again &= jnp.asarray(refining)[stage]
    wanted = jnp.where(stages == stage, again, is_needed(best, refining))
    # The result of a repeated stage decides whether later stages are needed.
    wanted &= (stages == stage) | ((stages > stage) & ~again)
    runs, best = within_limit(best, wanted, jnp.asarray(least), max_evals)
    return best, runs


def verify_in_place(
    table: SamplerTable,
    denoise: Denoiser,
    x0: Float[Array, "*shape"],
    found: Solved,
    rtol: float | None,
    *,
    keep: bool,
) -> Verified:
    """Verify the result of a stage by sampling, as a part of a caller's program.

    Args:
        table: The table, in the dtype of the states.
        denoise: The denoiser.
        x0: The data.
        found: The result of the stage.
        rtol: Largest relative error of the reconstruction; None for no verification.
        keep: Whether later stages may need the states of sampling.
    """
    if rtol is None:
        return unverified(found)

    def way_back(start: Array | SamplerState) -> Array:
        end, xs = descend(table, denoise, start, keep)
        return end[:1] if xs is None else xs

    return verify(table, x0, found, rtol, way_back)


def start_of_next(known: Verified) -> Solved:
    """Return the start of the next stage of a plan."""
    solved, xs = known.solved, known.retraced
    if xs is None:
        return solved
    missed = solved.solved & ~known.converged & jnp.all(jnp.isfinite(xs))
    return solved._replace(states=jnp.where(missed, xs, solved.states))


def better_of(known: Verified, found: Verified) -> Verified:
    """Return the better of two results, with the cost of both.

    Args:
        known: The earlier result.
        found: The result of a later stage.
    """
    better = _before(found.reconstruction, known.reconstruction)
    # Without verification, the worst row decides.
    untried = jnp.isnan(known.reconstruction) & jnp.isnan(found.reconstruction)
    rows = _before(jnp.max(found.solved.errors), jnp.max(known.solved.errors))
    better = jnp.where(untried, rows, better)
    proved = found.converged | known.converged
    better = jnp.where(proved, found.converged & ~known.converged, better)
    best = jax.tree.map(lambda a, b: jnp.where(better, a, b), found, known)
    return best._replace(
        stages=known.stages,
        solved=best.solved._replace(
            iterations=known.solved.iterations + found.solved.iterations,
            num_evals=known.solved.num_evals + found.solved.num_evals,
            depth=known.solved.depth + found.solved.depth,
            stopped=jnp.asarray(known.solved.stopped) | found.solved.stopped,
        ),
    )


@jax.jit
def misfit(
    end: Float[Array, "*shape"], wanted: Float[Array, "*shape"]
) -> Float[Array, ""]:
    """Return the relative error of sampled data, infinite instead of NaN."""
    size = relative(end - wanted, wanted)
    return jnp.where(jnp.isnan(size), jnp.inf, size)


def _before(a: Array, b: Array) -> Array:
    """Return whether an error is smaller, where any number is smaller than NaN."""
    return (a < b) | (~jnp.isnan(a) & jnp.isnan(b))


def with_both(solved: Solved) -> Solved:
    """Return the result of any stage with a verdict on its state, and rounding."""
    if solved.state_solved is None:
        solved = solved._replace(state_solved=solved.solved)
    if solved.rounding is None:
        solved = solved._replace(rounding=jnp.zeros_like(solved.errors))
    return solved
