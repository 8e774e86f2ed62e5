r"""The way back: a plan is run, and what it found is sampled from.

That every row of a table holds to a tolerance does not say where sampling ends. Steps
amplify: what a row is off by at a high noise level can have grown a thousandfold at the
data. So every stage of a plan is followed by the sampler itself, with its own loop,
from the noise that the stage found, and the error of the data that this ends at,

    reconstruction = |sample(noise) - x0| / |x0|,

is measured. A result has *converged* where its rows are solved **and** this error is at
most a quarter (``MARGIN``) of a tolerance. The rest is for what measuring rounds: in
another precision the same noise leads to data within the tolerance (measured, by
``python -m benchmarks.certificates``). An error that is no small part of the tolerance
(``DOUBTFUL``) may owe its size to retracing roundings: there sampling is repeated from
the noise with its values moved by a unit in their last place, and the larger error of
the two counts.

A sample that has not converged goes on to the next stage of the plan. Where its rows
were solved and sampling missed the data, the next stage starts from the states that
sampling went through. All of their rows hold as exactly as they can, but for the last
one, which holds all of the error and is now what has to be solved.
A stage that can do that (``refines``) is repeated as long as the error falls to a part;
other stages have nothing to add where all rows are solved.

The best result is kept: one that has converged before one that has not, then the one
with the smaller reconstruction error. Costs add up, those of the way back included.
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
from jaxinv.inversion.stages import Solved, Stage, run_stage
from jaxinv.norms import relative
from jaxinv.samplers.table import LinearMultistep
from jaxinv.sampling.sample import descend
from jaxinv.sampling.state import SamplerState, state_of
from jaxinv.sampling.steps import in_dtype

#: The part of the tolerance that the measured error may take.
MARGIN = 0.25

#: From this part of the tolerance on, the way back is tried a second time.
DOUBTFUL = MARGIN / 20

#: A stage is repeated while the reconstruction's error falls by this factor.
GAIN = 0.25

#: From noise, or a state, to all states x of the trajectory, data first.
WayBack = Callable[[Array | SamplerState], Array]


class Verified(NamedTuple):
    """What stages found, and where sampling from it ends.

    Attributes:
        solved: the trajectory, with the cost of everything.
        reconstruction: shape (). Relative error of the data sampled from the noise; NaN
            if that was not tried, infinite if it led beyond all numbers.
        state_reconstruction: shape (). The same from the state at the noise end: the
            larger error of two ways back, one from the state and one from the state
            with its values moved by a unit in their last place.
        converged: shape (). Rows solved, and the reconstruction within the tolerance.
        state_converged: shape (). The same of the state.
        retraced: shape (N, ...). ``y[1] .. y[N]`` of sampling from the noise; None if
            they were not kept.
        stages: shape (). How many stages of the plan ran.
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
        """Whether there is nothing left to do for later stages."""
        untried = jnp.isnan(self.reconstruction) & self.solved.solved
        return self.converged | untried


def default_reconstruction_rtol(dtype: Any) -> float:
    """Return the default tolerance of the reconstruction's relative error.

    Args:
        dtype: floating-point dtype of the states.

    Returns:
        4e-4 (-68 dB) in float32, 4e-10 in float64: measured, the error has to be at
        most 1e-4 (-80 dB), which all of 269 solved inversions of a latent diffusion
        model were (``benchmarks/results/exactness.md``), and is a twentieth of what
        rounding an image to 8 bits costs.
    """
    return 4e-10 if jnp.finfo(dtype).bits == 64 else 4e-4


@jax.jit
def unverified(solved: Solved) -> Verified:
    """Return what stages found without trying the way back."""
    nan = jnp.full_like(solved.errors[0], jnp.nan)
    no = jnp.zeros_like(solved.solved)
    return Verified(with_both(solved), nan, nan, no, no)


# On demand, each jitted function is one small program in place of many.


@jax.jit
def noise_end(
    table: LinearMultistep, states: Float[Array, "n *shape"]
) -> tuple[Float[Array, "*shape"], SamplerState | None]:
    """Return the noise of a trajectory, and the state of a bidirectional sampler.

    Args:
        table: the table.
        states: ``y[1] .. y[N]``.
    """
    table = in_dtype(table, states.dtype)
    k = table.history if table.bidirectional else 1
    xs = per_level(jnp.asarray(table.scale)[-k:], states) * states[-k:]
    noise = xs[-1] / table.init_noise_scale
    return noise, state_of(table, xs, "noise") if table.bidirectional else None


def verify(
    table: LinearMultistep,
    x0: Float[Array, "*shape"],
    solved: Solved,
    rtol: float,
    way_back: WayBack,
) -> Verified:
    """Sample from what stages found.

    Args:
        table: the table.
        x0: the data.
        solved: what they found.
        rtol: relative error of the data that converged results promise.
        way_back: samples.

    Returns:
        The same with its reconstruction. The states of the way back are kept where
        ``way_back`` returns all of them.
    """
    noise, state = noise_end(table, solved.states)
    xs = way_back(noise)
    error, doubtful = _first_error(xs, x0, solved.solved, rtol)

    def once_more(carry: Any) -> Any:
        _, error = carry
        again = misfit(way_back(nudged(noise))[0], x0)
        return jnp.zeros_like(doubtful), jnp.maximum(error, again)

    if isinstance(doubtful, jax.core.Tracer):
        error = jax.lax.while_loop(lambda c: c[0], once_more, (doubtful, error))[1]
    elif bool(doubtful):
        error = once_more((doubtful, error))[1]
    states: tuple[Array, ...] = ()
    if state is not None:
        moved = dataclasses.replace(state, values=nudged(state.values))
        states = way_back(state), way_back(moved)
    return _judged(table, x0, solved, xs, error, doubtful, states, rtol)


@functools.partial(jax.jit, static_argnames="rtol")
def _first_error(
    xs: Array, x0: Array, solved: Array, rtol: float
) -> tuple[Array, Array]:
    """The error of the first way back, and whether it is near the tolerance."""
    error = misfit(xs[0], x0)
    return error, (error > DOUBTFUL * rtol) & (error <= MARGIN * rtol) & solved


@functools.partial(jax.jit, static_argnames="rtol")
def _judged(
    table: LinearMultistep,
    x0: Array,
    solved: Solved,
    xs: Array,
    error: Array,
    doubtful: Array,
    states: tuple[Array, ...],
    rtol: float,
) -> Verified:
    """The verdict, with the states of the way back where there are all of them."""
    n = table.num_rows
    retraced = None
    if len(xs) > 1:
        scale = jnp.asarray(table.scale, xs.dtype)
        retraced = xs[1:] / per_level(scale[1:], xs)
    # A state is resumed: fewer steps, and one evaluation for each inner array.
    evals = n + jnp.where(doubtful, n, 0) + len(states) * (n - 1)
    verified = judge(solved, error, states, x0, rtol, evals=evals)
    return verified._replace(retraced=retraced)


@jax.jit
def nudged(values: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return values of which each is moved by a unit in its last place.

    Sampling from the very values that were reached can retrace its own roundings. From
    these it shows what the steps make of a difference in the last place.
    """
    signs = jax.random.rademacher(jax.random.key(0), values.shape, values.dtype)
    return values * (1 + jnp.finfo(values.dtype).eps * signs)


def judge(
    solved: Solved,
    error: Float[Array, ""],
    states: Sequence[Float[Array, "k *shape"]],
    given: Float[Array, "*shape"] | SamplerState,
    rtol: float,
    *,
    evals: int | Int[Array, ""],
) -> Verified:
    """Compare where sampling ended with what was inverted.

    Args:
        solved: what stages found.
        error: relative error of the data that the noise led to.
        states: the states that the state at the noise end led to, data side first, on
            each way back from it; none for samplers whose state is the noise.
        given: what was inverted: the data, or a state at the data end.
        rtol: relative error of the data that converged results promise.
        evals: evaluations of the way back, one after the other.

    Returns:
        The same with verdicts.
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
    table: LinearMultistep,
    denoise: Denoiser,
    x0: Float[Array, "*shape"],
    rtol: float | None,
) -> Verified:
    """Run the stages of a plan, each for the samples that still need it.

    Args:
        plan: the stages, at least one.
        table: the table, in the dtype of the states.
        denoise: the denoiser.
        x0: the data.
        rtol: largest relative error of the reconstruction; None to leave the way back
            out.

    Returns:
        The best of what was found, with the cost of all stages.
    """

    def attempt(stage: Stage, known: Verified | None, active: Array) -> Verified:
        before = None if known is None else for_next(known)
        found = run_stage(stage, table, denoise, x0, before, active)
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
            return again, better_of(known, found)

        active = worth_repeating(None, best) if k == 0 else is_needed(stage, best)
        # A loop of mostly no turn. A conditional would, in a batch, run always.
        best = jax.lax.while_loop(lambda c: c[0], once_more, (active, best))[1]
        best = best._replace(stages=jnp.where(active, k + 1, best.stages))
    return best


def refines(stage: Stage) -> bool:
    """Return whether a stage can start from the states that sampling went through."""
    return bool(getattr(stage, "refines", False))


def is_needed(stage: Stage, known: Verified) -> Bool[Array, ""]:
    """Return whether a later stage of a plan has something to do.

    Args:
        stage: the stage.
        known: what the stages before it found.
    """
    # More of the same does not bring back what sampling lost.
    hopeless = known.solved.solved & jnp.array(not refines(stage))
    return ~known.noise_is_found & ~hopeless


def needs_states(plan: tuple[Stage, ...]) -> bool:
    """Return whether a plan uses the states of the way back."""
    return any(refines(stage) for stage in plan)


def worth_repeating(known: Verified | None, found: Verified) -> Bool[Array, ""]:
    """Return whether a stage that refines should go on from its own way back.

    Args:
        known: what there was before the stage; None, or without a reconstruction, if
            nothing.
        found: what it found.
    """
    missed = found.solved.solved & ~found.noise_is_found
    missed &= jnp.isfinite(found.reconstruction)
    if known is None:
        return missed
    # The error falls by a factor each time: there is an end.
    first = jnp.isnan(known.reconstruction)
    return missed & (first | (found.reconstruction <= GAIN * known.reconstruction))


def weigh(
    known: Verified | None,
    found: Verified,
    stage: int | Int[Array, ""],
    refining: tuple[bool, ...],
) -> tuple[Verified, Bool[Array, ""], Bool[Array, "stages"]]:
    """Weigh what a stage of a plan found against what was known.

    Args:
        known: what there was before; None, or without a reconstruction, if nothing.
        found: what the stage found.
        stage: its number in the plan, from 0.
        refining: of each stage of the plan, whether it :func:`refines`.

    Returns:
        The better of both; whether a stage that refines should go on from its own way
        back; and which stages of the plan have something to do.
    """
    again = worth_repeating(known, found)
    best = found if known is None else better_of(known, found)
    best = best._replace(stages=jnp.asarray(stage, jnp.int32) + 1)
    # More of the same does not bring back what sampling lost.
    hopeless = best.solved.solved & ~jnp.asarray(refining)
    return best, again, ~best.noise_is_found & ~hopeless


def verify_in_place(
    table: LinearMultistep,
    denoise: Denoiser,
    x0: Float[Array, "*shape"],
    found: Solved,
    rtol: float | None,
    *,
    keep: bool,
) -> Verified:
    """Sample from what a stage found, as a part of a caller's program.

    Args:
        table: the table, in the dtype of the states.
        denoise: the denoiser.
        x0: the data.
        found: what the stage found.
        rtol: largest relative error of the reconstruction; None to leave the way back
            out.
        keep: whether later stages may need the states of the way back.
    """
    if rtol is None:
        return unverified(found)

    def way_back(start: Array | SamplerState) -> Array:
        end, xs = descend(table, denoise, start, keep)
        return end[:1] if xs is None else xs

    return verify(table, x0, found, rtol, way_back)


def for_next(known: Verified) -> Solved:
    """Return what the next stage of a plan starts from."""
    solved, xs = known.solved, known.retraced
    if xs is None:
        return solved
    missed = solved.solved & ~known.converged & jnp.all(jnp.isfinite(xs))
    return solved._replace(states=jnp.where(missed, xs, solved.states))


def better_of(known: Verified, found: Verified) -> Verified:
    """Return the better one of what two stages found, at the cost of both.

    Args:
        known: what there was.
        found: what a later stage made of it.
    """
    better = _before(found.reconstruction, known.reconstruction)
    # Where the way back was not tried, the worst row decides.
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
        ),
    )


@jax.jit
def misfit(
    end: Float[Array, "*shape"], wanted: Float[Array, "*shape"]
) -> Float[Array, ""]:
    """Return the relative error of what sampling led to, infinite where it is NaN."""
    size = relative(end - wanted, wanted)
    return jnp.where(jnp.isnan(size), jnp.inf, size)


def _before(a: Array, b: Array) -> Array:
    """Whether an error is smaller; any number is smaller than NaN."""
    return (a < b) | (~jnp.isnan(a) & jnp.isnan(b))


def with_both(solved: Solved) -> Solved:
    """Return what a stage found with a verdict on its state, whatever the stage."""
    if solved.state_solved is not None:
        return solved
    return solved._replace(state_solved=solved.solved)
