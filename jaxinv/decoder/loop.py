r"""The loop of decoder inversion: the same for every method.

Whatever a method does, the best iterate by image misfit comes back. The first iterate
is E(x), so that no method returns a worse one than the encoder; and the latent error,
which nobody knows, may grow again while the misfit stays, so that a method is stopped
when the misfit no longer falls.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinv.decoder.method import Method
from jaxinv.decoder.problem import Problem


class DecoderInversion(NamedTuple):
    """A latent with its certificate.

    Attributes:
        latent: the best iterate.
        residual: shape (). Root of the mean square misfit of its decoding, in units of
            the image (the range 0 to 1 has the quantisation noise 0.0011 in 8 bits).
        encoder_residual: shape (). The same of E(x).
        latent_change: shape (). ``|z[k] - z[k-1]| / |z[k]|`` of the last iterate: how
            much the method still moves.
        iterations: shape (). Iterations run.
        best_iteration: shape (). The one that the latent is of; 0 is the encoder's.
        num_decodes: shape (). Evaluations of the decoder.
        num_encodes: shape (). Evaluations of the encoder.
        num_products: shape (). Products with the decoder's Jacobian or its transpose;
            of Gauss-Newton, at most.
        converged: shape (). Whether the residual is at most the tolerance. If not, the
            image may be none that this decoder can make.
        history: shape (iterations + 1,). The residual of every iterate; NaN where the
            method had stopped.
    """

    latent: Float[Array, "*latent"]
    residual: Float[Array, ""]
    encoder_residual: Float[Array, ""]
    latent_change: Float[Array, ""]
    iterations: Int[Array, ""]
    best_iteration: Int[Array, ""]
    num_decodes: Int[Array, ""]
    num_encodes: Int[Array, ""]
    num_products: Int[Array, ""]
    converged: Bool[Array, ""]
    history: Float[Array, "n+1"]


class _Carry(NamedTuple):
    k: Array
    z: Array
    memory: Any
    best: Array
    lowest: Array
    best_k: Array
    mark: Array
    idle: Array
    change: Array
    history: Array
    stop: Array


# A misfit that falls by less than this share has not fallen.
_PROGRESS = 1e-3


def run(problem: Problem, method: Method, tolerance: float) -> DecoderInversion:
    """Iterate from E(x).

    Args:
        problem: what to solve.
        method: how.
        tolerance: the residual at which an image counts as reached.

    Returns:
        The best iterate.
    """
    dtype = problem.latent.dtype
    infinite, zero = jnp.array(jnp.inf, dtype), jnp.zeros((), jnp.int32)

    def judged(carry: _Carry, decoded: Array) -> _Carry:
        """The carry after its iterate was seen."""
        residual = jnp.sqrt(jnp.mean(problem.misfit(decoded) ** 2)).astype(dtype)
        better = residual < carry.lowest
        falls = residual < (1 - _PROGRESS) * carry.mark
        idle = jnp.where(falls, 0, carry.idle + 1)
        patience = 2**31 - 1 if method.patience is None else method.patience
        return carry._replace(
            best=jnp.where(better, carry.z, carry.best),
            lowest=jnp.where(better, residual, carry.lowest),
            best_k=jnp.where(better, carry.k, carry.best_k),
            mark=jnp.where(falls, residual, carry.mark),
            idle=idle,
            history=carry.history.at[carry.k].set(residual),
            stop=idle >= patience,
        )

    def body(carry: _Carry) -> _Carry:
        decoded, after, memory = method.step(problem, carry.k, carry.z, carry.memory)
        carry = judged(carry, decoded)
        size = jnp.maximum(jnp.linalg.norm(after), jnp.finfo(dtype).tiny)
        change = jnp.linalg.norm(after - carry.z) / size
        # A method may step back from where the decoding overflows, if it can.
        stop = carry.stop | ~jnp.all(jnp.isfinite(after))
        return carry._replace(
            k=carry.k + 1, z=after, memory=memory, change=change, stop=stop
        )

    start = _Carry(
        zero,
        problem.latent,
        method.begin(problem, problem.latent),
        problem.latent,
        infinite,
        zero,
        infinite,
        zero,
        jnp.zeros((), dtype),
        jnp.full((method.iterations + 1,), jnp.nan, dtype),
        jnp.zeros((), bool),
    )
    last = jax.lax.while_loop(
        lambda carry: (carry.k < method.iterations) & ~carry.stop, body, start
    )
    steps = last.k
    last = judged(last, problem.decoded(last.z))
    decodes, encodes, products = method.count.times(steps)
    return DecoderInversion(
        latent=last.best,
        residual=last.lowest,
        encoder_residual=last.history[0],
        latent_change=last.change,
        iterations=steps,
        best_iteration=last.best_k,
        num_decodes=decodes + 1,
        num_encodes=encodes + 1,
        num_products=products,
        converged=last.lowest <= tolerance,
        history=last.history,
    )
