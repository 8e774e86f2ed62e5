"""The result of an inversion: the noise with its certificate."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinv.checks import figures, verdict
from jaxinv.inversion.row_residuals import per_level
from jaxinv.inversion.verification import Verified, with_both
from jaxinv.samplers.table import SamplerTable
from jaxinv.sampling.state import SamplerState, state_of


class InversionResult(NamedTuple):
    """The noise of an inversion, with its certificate.

    ``noise`` and ``state`` are two results with separate verdicts: ``reconstruction``
    and ``converged`` belong to ``noise``, ``state_reconstruction`` and
    ``state_converged`` to ``state``. Both are equal for samplers that start from one
    array, that is for all but bidirectional ones. N is the number of rows of the
    sampler's table, which equals its steps (twice for EDICT).

    A verdict proves the *reconstruction*: the sampler generates this data from this
    noise. If a step has several preimages, the noise may not be the original one;
    :func:`jaxinv.analysis.step_conditioning` shows the steps that lose it.

    Attributes:
        noise: Unit noise of the data's shape and dtype, from which ``sample`` generates
            the data.
        state: Argument of ``sample`` for an exact round trip. For multistep samplers it
            is the noise, because they start from one state. For bidirectional samplers
            it is the :class:`~jaxinv.sampling.state.SamplerState` at the noise end.
            After an explicit inversion, their ``noise`` alone only reproduces the data
            approximately, with the error ``reconstruction``.
        trajectory: The states x, data first, shape (N + 1, ...); None unless requested.
        residual: The largest of ``step_residuals``, shape ().
        step_residuals: ``|step_i(x[i], ...) - x[i-1]| / |x[i-1]|`` for i = 1 .. N, with
            all states of the trajectory, shape (N,). NaN if not measured (``naive``;
            see :func:`certify`). After an explicit inversion, the last k - 1 belong to
            the start-up rows, which only ``noise`` depends on.
        iterations: Solver iterations for each step, shape (N,).
        num_evals: Total evaluations of the denoiser for this sample, including the
            verification, shape ().
        depth: Number of sequential evaluations, shape ().
        converged: Verdict on ``noise``, shape (): whether every step is solved and the
            reconstruction is within a quarter of its tolerance. If not, the result is
            the best that was found. Never true without verification.
        reconstruction: ``|sample(noise) - x0| / |x0|``, measured by sampling, shape ();
            NaN with ``verify=False``. Close to the tolerance it is the larger of two
            errors, the second from the noise with values changed by a unit in the last
            place.
        solved: Whether every step that ``noise`` depends on met the solver's tolerance,
            or is as exact as the network's rounding allows, shape (). Steps amplify
            errors: this alone does not prove the reconstruction.
        state_converged: Verdict on ``state``, shape ().
        state_reconstruction: ``|sample(state) - x0| / |x0|``, shape (), over all arrays
            if a state was inverted. For plain floats it is the larger of two errors,
            the second from the state with values changed by a unit in the last place,
            which does not retrace roundings.
        stages: Number of stages of the strategy's plan that this sample needed, shape
            (): ``"auto"`` continues with the next stage if one did not converge.
        stopped: Whether ``max_evals`` ended the inversion before it converged, shape
            (): in stage number ``stages`` of the plan, or before the next.
        rounding: Rounding of the steps' results, relative like ``residual``, shape ():
            the largest that was measured, where solvers stagnated; 0 if none did. About
            1e-3 for networks that compute in 16 bits, which no state solves more
            exactly (:mod:`jaxinv.solvers.rounding`). Of a smooth function that bends
            strongly it is an upper bound.
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
    stopped: Bool[Array, ""]
    rounding: Float[Array, ""]

    def __repr__(self) -> str:
        """Return the verdict in one line, without the arrays."""
        return (
            f"InversionResult: {verdict(self.converged)}, "
            f"reconstruction {figures(self.reconstruction, '.1e')}, "
            f"residual {figures(self.residual, '.1e')}, "
            f"{figures(self.num_evals)} evaluations"
        )


def wrap_up(
    sampler: SamplerTable,
    x0: Float[Array, "*shape"],
    states: Float[Array, "n *shape"],
    verified: Verified,
    keep: bool,
    state: SamplerState | None = None,
) -> InversionResult:
    """Make the result of an inversion.

    Args:
        sampler: The sampler, in the dtype of the states.
        x0: The data.
        states: ``u[1] .. u[N]``.
        verified: Certificate and cost.
        keep: Whether to return the trajectory.
        state: The state at the noise end, if it is not the end of the trajectory.
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
        stopped=jnp.asarray(solved.stopped) & ~verified.noise_is_found,
        rounding=jnp.max(jnp.asarray(with_both(solved).rounding)),
    )
