"""What every inverse returns: the noise, and the proof of how exact it is."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int


class InversionResult(NamedTuple):
    """The noise, and the proof of how exact it is.

    A small residual proves the *reconstruction*: the sampler turns this noise into
    this data. Where a step has several preimages, it need not be the noise that once
    made the data; :func:`jaxinv.analysis.step_conditioning` shows which step loses it.

    Attributes:
        noise: unit noise, of the data's shape and dtype: what ``sample`` turns into
            the data.
        state: what ``sample`` needs for an exact round trip. For multistep samplers
            it is the noise, however long their memory: they start from one state.
        trajectory: shape (N + 1, ...). The states x, data first; None unless asked for.
        residual: shape (). The largest of ``step_residuals``.
        step_residuals: shape (N,). ``|step_i(x[i], ...) - x[i-1]| / |x[i-1]|`` for
            i = 1 .. N, all states taken from the trajectory. NaN where it was not
            measured (``naive``; see :func:`certify`).
        iterations: shape (N,). Solver iterations that worked on each step.
        num_evals: shape (). Total evaluations of the denoiser for this sample.
        depth: shape (). How many of them had to wait for one another.
        converged: shape (). Whether every step met the tolerance. If not, this is the
            best that was found.
    """

    noise: Float[Array, "*shape"]
    state: Float[Array, "*shape"]
    trajectory: Float[Array, "n+1 *shape"] | None
    residual: Float[Array, ""]
    step_residuals: Float[Array, "n"]
    iterations: Int[Array, "n"]
    num_evals: Int[Array, ""]
    depth: Int[Array, ""]
    converged: Bool[Array, ""]
