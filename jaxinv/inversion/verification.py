r"""The way back: a plan is run, and what it found is sampled from.

That every row of a table holds to a tolerance does not say where sampling ends. Steps
amplify: what a row is off by at a high noise level can have grown a thousandfold at the
data. So every stage of a plan is followed by the sampler itself, with its own loop,
from the noise that the stage found, and the error of the data that this ends at,

    reconstruction = |sample(noise) - x0| / |x0|,

is measured. A result has *converged* where its rows are solved **and** this error is at
most a tolerance. A sample that has not goes on to the next stage of the plan. Where its
rows were solved and sampling missed the data, the next stage starts from the states
that sampling went through. All of their rows hold as exactly as they can, but for the
last one, which holds all of the error and is now what has to be solved.

The best result is kept: one that has converged before one that has not, then the one
with the smaller reconstruction error. Costs add up, those of the way back included.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxinv.denoiser import Denoiser
from jaxinv.inversion.rows import per_level
from jaxinv.inversion.stages import Solved, Stage, run_stage
from jaxinv.norms import relative
from jaxinv.samplers.table import LinearMultistep
from jaxinv.sampling import descend
from jaxinv.state import SamplerState, state_of

#: From noise, or a state, to all states x of the trajectory, data first.
WayBack = Callable[[Array | SamplerState], Array]


class Verified(NamedTuple):
    """What stages found, and where sampling from it ends.

    Attributes:
        solved: the trajectory, with the cost of everything.
        reconstruction: shape (). Relative error of the data sampled from the noise; NaN
            if that was not tried.
        state_reconstruction: shape (). The same from the state at the noise end.
        converged: shape (). Rows solved, and the reconstruction within the tolerance.
        state_converged: shape (). The same of the state.
        retraced: shape (N, ...). ``y[1] .. y[N]`` of sampling from the noise; None if
            they were not kept.
    """

    solved: Solved
    reconstruction: Float[Array, ""]
    state_reconstruction: Float[Array, ""]
    converged: Bool[Array, ""]
    state_converged: Bool[Array, ""]
    retraced: Float[Array, "n *shape"] | None = None

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
        1e-4 (-80 dB) in float32, 1e-10 in float64.
    """
    return 1e-10 if jnp.finfo(dtype).bits == 64 else 1e-4


def unverified(solved: Solved) -> Verified:
    """Return what stages found without trying the way back."""
    nan = jnp.full_like(solved.errors[0], jnp.nan)
    no = jnp.zeros_like(solved.solved)
    return Verified(with_both(solved), nan, nan, no, no)


def noise_end(
    table: LinearMultistep, states: Float[Array, "n *shape"]
) -> tuple[Float[Array, "*shape"], SamplerState | None]:
    """Return the noise of a trajectory, and the state of a bidirectional sampler.

    Args:
        table: the table, in the dtype of the states.
        states: ``y[1] .. y[N]``.
    """
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
        table: the table, in the dtype of the states.
        x0: the data.
        solved: what they found.
        rtol: largest relative error of the data that counts as converged.
        way_back: samples.

    Returns:
        The same with its reconstruction. The states of the way back are kept where
        ``way_back`` returns all of them.
    """
    n = table.num_steps
    noise, state = noise_end(table, solved.states)
    if state is not None:
        # A state is resumed: fewer steps, and one evaluation for each inner array.
        return verify_both(solved, noise, state, x0, rtol, way_back, evals=n + (n - 1))
    xs = way_back(noise)
    error = relative(xs[0] - x0, x0)
    solved = _paid(with_both(solved), n)
    good = solved.solved & (error <= rtol)
    retraced = None
    if len(xs) > 1:
        retraced = xs[1:] / per_level(jnp.asarray(table.scale)[1:], xs)
    return Verified(solved, error, error, good, good, retraced)


def verify_both(
    solved: Solved,
    noise: Float[Array, "*shape"],
    state: SamplerState,
    given: Float[Array, "*shape"] | SamplerState,
    rtol: float,
    way_back: WayBack,
    *,
    evals: int,
) -> Verified:
    """Sample from both answers of a bidirectional sampler.

    Args:
        solved: what was found.
        noise: the one array of noise.
        state: the state at the noise end.
        given: what was inverted: the data, or a state at the data end.
        rtol: largest relative error of the data that counts as converged.
        way_back: samples; returns x[0] first.
        evals: evaluations of both ways.

    Returns:
        The same with the reconstructions of both.
    """
    solved = _paid(with_both(solved), evals)
    x0 = given.x if isinstance(given, SamplerState) else given
    error = relative(way_back(noise)[0] - x0, x0)
    end = way_back(state)
    if isinstance(given, SamplerState):
        state_error = relative(end - given.values, given.values)
    else:
        state_error = relative(end[0] - x0, x0)
    return Verified(
        solved,
        error,
        state_error,
        solved.solved & (error <= rtol),
        jnp.asarray(solved.state_solved) & (state_error <= rtol),
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
        return verify_in_place(table, denoise, x0, found, rtol, keep=len(plan) > 1)

    best = attempt(plan[0], None, jnp.array(True))
    for stage in plan[1:]:

        def once(
            carry: tuple[Array, Verified], stage: Stage = stage
        ) -> tuple[Array, Verified]:
            active, known = carry
            found = attempt(stage, known, active)
            return jnp.array(False), better_of(known, found)

        # The loop runs once or not at all. A conditional would, in a batch, run always.
        best = jax.lax.while_loop(lambda c: c[0], once, (~best.noise_is_found, best))[1]
    return best


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
        solved=best.solved._replace(
            iterations=known.solved.iterations + found.solved.iterations,
            num_evals=known.solved.num_evals + found.solved.num_evals,
            depth=known.solved.depth + found.solved.depth,
        )
    )


def _before(a: Array, b: Array) -> Array:
    """Whether an error is smaller; any number is smaller than NaN."""
    return (a < b) | (~jnp.isnan(a) & jnp.isnan(b))


def _paid(solved: Solved, evals: int) -> Solved:
    """The same at the cost of some more evaluations, one after the other."""
    return solved._replace(
        num_evals=solved.num_evals + evals, depth=solved.depth + evals
    )


def with_both(solved: Solved) -> Solved:
    """Return what a stage found with a verdict on its state, whatever the stage."""
    if solved.state_solved is not None:
        return solved
    return solved._replace(state_solved=solved.solved)
