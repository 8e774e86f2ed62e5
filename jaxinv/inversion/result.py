"""What every inverse returns: the noise, and the proof of how exact it is."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinv.checks import figures, verdict
from jaxinv.inversion.row_residuals import per_level
from jaxinv.inversion.verification import Verified
from jaxinv.samplers.table import LinearMultistep
from jaxinv.sampling.state import SamplerState, state_of


class InversionResult(NamedTuple):
    """The noise, and the proof of how exact it is.

    ``noise`` and ``state`` are two answers, and each has its own verdict:
    ``reconstruction`` and ``converged`` belong to ``noise``, ``state_reconstruction``
    and ``state_converged`` to ``state``. For samplers that start from one array, which
    are all but the bidirectional ones, both answers are the same. N counts the rows of
    the sampler's table, which are its steps (of EDICT: two for each).

    A verdict proves the *reconstruction*: the sampler turns this noise into this data.
    Where a step has several preimages, it need not be the noise that once made the
    data; :func:`jaxinv.analysis.step_conditioning` shows which step loses it.

    Attributes:
        noise: unit noise, of the data's shape and dtype: what ``sample`` turns into
            the data.
        state: what ``sample`` needs for an exact round trip. For multistep samplers
            it is the noise, however long their memory: they start from one state. For
            bidirectional ones it is their :class:`~jaxinv.sampling.state.SamplerState`
            at the noise end. After an explicit inversion, their ``noise`` alone leads
            to something near the data only: how near is its ``reconstruction``.
        trajectory: shape (N + 1, ...). The states x, data first; None unless asked for.
        residual: shape (). The largest of ``step_residuals``.
        step_residuals: shape (N,). ``|step_i(x[i], ...) - x[i-1]| / |x[i-1]|`` for
            i = 1 .. N, all states taken from the trajectory. NaN where it was not
            measured (``naive``; see :func:`certify`). After an explicit inversion the
            last k - 1 are those of the start-up rows, which ``noise`` alone relies on
            and ``state`` does not.
        iterations: shape (N,). Solver iterations that worked on each step.
        num_evals: shape (). Total evaluations of the denoiser for this sample, those of
            the way back included.
        depth: shape (). How many of them had to wait for one another.
        converged: shape (). Whether the verdict on ``noise`` is good: every step is
            solved, and the reconstruction is within a quarter of its tolerance. If not,
            this is the best that was found. Never true without the way back.
        reconstruction: shape (). ``|sample(noise) - x0| / |x0|``, measured by sampling;
            NaN if that was not tried (``verify=False``). Near the tolerance the larger
            error of two ways back, the second one from the noise with its values moved
            by a unit in their last place.
        solved: shape (). Whether every step that ``noise`` relies on met the tolerance
            of the solver. Steps amplify: this alone proves nothing about the whole way.
        state_converged: shape (). The verdict on ``state``.
        state_reconstruction: shape (). ``|sample(state) - x0| / |x0|``; of all arrays
            of the state, where a state was inverted. For plain floats the larger error
            of two ways back: the second one starts from the state with its values
            moved by a unit in their last place, and so does not retrace roundings.
        stages: shape (). How many stages of the strategy's plan this sample needed:
            ``"auto"`` goes on with the next where the one before did not converge.
    """

    noise: Float[Array, "*shape"]
    state: Float[Array, "*shape"] | SamplerState
    trajectory: Float[Array, "n+1 *shape"] | None
    residual: Float[Array, ""]
    step_residuals: Float[Array, "n"]
    iterations: Int[Array, "n"]
    num_evals: Int[Array, ""]
    depth: Int[Array, ""]
    converged: Bool[Array, ""]
    reconstruction: Float[Array, ""]
    solved: Bool[Array, ""]
    state_converged: Bool[Array, ""]
    state_reconstruction: Float[Array, ""]
    stages: Int[Array, ""]

    def __repr__(self) -> str:
        """Return the verdict in one line, without the arrays."""
        return (
            f"InversionResult: {verdict(self.converged)}, "
            f"reconstruction {figures(self.reconstruction, '.1e')}, "
            f"residual {figures(self.residual, '.1e')}, "
            f"{figures(self.num_evals)} evaluations"
        )


def wrap_up(
    sampler: LinearMultistep,
    x0: Float[Array, "*shape"],
    states: Float[Array, "n *shape"],
    verified: Verified,
    keep: bool,
    state: SamplerState | None = None,
) -> InversionResult:
    """Make the result of an inversion.

    Args:
        sampler: the sampler, in the dtype of the states.
        x0: the data.
        states: ``y[1] .. y[N]``.
        verified: certificate and cost.
        keep: whether to return the trajectory.
        state: the state at the noise end, where it is not the end of the trajectory.
    """
    solved = verified.solved
    scale = jnp.asarray(sampler.scale, x0.dtype)[1:]
    trajectory = jnp.concatenate([x0[None], per_level(scale, states) * states])
    if state is None and sampler.bidirectional:
        state = state_of(sampler, trajectory[-sampler.history :], "noise")
    noise = trajectory[-1] / jnp.asarray(sampler.init_noise_scale, x0.dtype)
    return InversionResult(
        noise=noise,
        state=noise if state is None else state,
        trajectory=trajectory if keep else None,
        residual=jnp.max(solved.errors),
        step_residuals=solved.errors,
        iterations=solved.iterations,
        num_evals=solved.num_evals,
        depth=solved.depth,
        converged=verified.converged,
        reconstruction=verified.reconstruction,
        solved=solved.solved,
        state_converged=verified.state_converged,
        state_reconstruction=verified.state_reconstruction,
        stages=jnp.asarray(verified.stages, jnp.int32),
    )
