r"""The loop of decoder inversion, which all methods share.

The result is the best iterate by image misfit. The first iterate is E(x), so that no
method returns a worse latent than the encoder. A method is stopped if the misfit no
longer decreases, because the unknown error of the latent may then increase again.

Misfits are measured without squares that could leave the range of float32
(:mod:`jaxinv.norms`): misfits of ``c x`` are c times the misfits of x.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinv.checks import figures, verdict
from jaxinv.decoder_inversion.method import Method
from jaxinv.decoder_inversion.problem import Problem
from jaxinv.loops import Loop
from jaxinv.norms import norm, relative


class DecoderInversion(NamedTuple):
    """A latent with its certificate.

    Attributes:
        latent: The best iterate.
        residual: Root mean square misfit of its decoding, in units of the image, shape
            () (8-bit rounding of the range 0 to 1 has the error 0.0011).
        encoder_residual: The residual of E(x), shape ().
        latent_change: ``|z[k] - z[k-1]| / |z[k]|`` of the last iterate, shape ().
        iterations: Number of iterations, shape ().
        best_iteration: Iteration of the latent, shape (); 0 for E(x).
        num_decodes: Evaluations of the decoder, shape ().
        num_encodes: Evaluations of the encoder, shape ().
        num_products: Products with the decoder's Jacobian or its transpose, shape ();
            an upper bound for Gauss-Newton.
        converged: Whether the residual is at most the tolerance, shape (). If not, the
            decoder may be unable to produce the image. Convergence does not imply an
            exact latent: several latents can decode to nearly the same image.
        history: The residual of every iterate, shape (iterations + 1,); NaN after the
            method stopped.
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

    def __repr__(self) -> str:
        """Return the verdict in one line, without the arrays."""
        return (
            f"DecoderInversion: {verdict(self.converged)}, "
            f"residual {figures(self.residual, '.2g')} "
            f"(encoder {figures(self.encoder_residual, '.2g')}), "
            f"{figures(self.iterations)} iterations"
        )


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


# A relative decrease of the misfit by less than this does not count.
_PROGRESS = 1e-3


def whole(problem: Problem, method: Method, tolerance: float | None) -> Loop:
    """Return the loop from E(x), which evaluates its last iterate at the end.

    Args:
        problem: The problem to solve.
        method: The method.
        tolerance: Largest residual of a converged result; None for the default of
            :meth:`jaxinv.decoder_inversion.problem.Problem.tolerance`.

    Returns:
        A loop whose result is the best iterate, a :class:`DecoderInversion`.
    """

    def finish(carry: _Carry) -> DecoderInversion:
        decoded = problem.decoded(carry.z)
        return _found(
            problem, method, _seen(problem, method, carry, decoded), tolerance
        )

    return Loop(
        begin=lambda: _begin(problem, method),
        running=lambda carry: _running(method, carry),
        advance=lambda carry: _stepped(problem, method, carry)[1],
        finish=finish,
    )


def in_lanes(problem: Problem, method: Method, tolerance: float | None) -> Loop:
    """Return the loop of :func:`whole` with one more iteration for the last iterate.

    Evaluations at the end would run in all lanes, so this loop has none there. The
    iterate after the last one is dropped.
    """

    def advance(state: tuple[_Carry, Array]) -> tuple[_Carry, Array]:
        carry, _ = state
        goes_on = _running(method, carry)
        seen, moved = _stepped(problem, method, carry)
        carry = jax.tree.map(lambda a, b: jnp.where(goes_on, a, b), moved, seen)
        return carry, ~goes_on

    return Loop(
        begin=lambda: (_begin(problem, method), jnp.array(False)),
        running=lambda state: ~state[1],
        advance=advance,
        finish=lambda state: _found(problem, method, state[0], tolerance),
    )


def _begin(problem: Problem, method: Method) -> _Carry:
    """Return the carry at E(x), which is not decoded yet."""
    dtype = problem.latent.dtype
    infinite, zero = jnp.array(jnp.inf, dtype), jnp.zeros((), jnp.int32)
    return _Carry(
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


def _running(method: Method, carry: _Carry) -> Bool[Array, ""]:
    """Return whether to make another iterate; the last one is only evaluated."""
    return (carry.k < method.iterations) & ~carry.stop


def _stepped(problem: Problem, method: Method, carry: _Carry) -> tuple[_Carry, _Carry]:
    """Return the carry after evaluating its iterate, and the carry of the next one."""
    decoded, after, memory = method.step(problem, carry.k, carry.z, carry.memory)
    seen = _seen(problem, method, carry, decoded)
    change = relative(after - carry.z, after)
    # A method may step back from an iterate whose decoding overflows.
    stop = seen.stop | ~jnp.all(jnp.isfinite(after))
    moved = seen._replace(
        k=seen.k + 1, z=after, memory=memory, change=change, stop=stop
    )
    return seen, moved


def _seen(
    problem: Problem, method: Method, carry: _Carry, decoded: Float[Array, "*image"]
) -> _Carry:
    """Return the carry after its iterate was decoded."""
    dtype = problem.latent.dtype
    misfit = problem.misfit(decoded)
    residual = (norm(misfit) / misfit.size**0.5).astype(dtype)
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


def _found(
    problem: Problem, method: Method, last: _Carry, tolerance: float | None
) -> DecoderInversion:
    """Return the result after evaluating the last iterate."""
    decodes, encodes, products = method.count.times(last.k)
    return DecoderInversion(
        latent=last.best,
        residual=last.lowest,
        encoder_residual=last.history[0],
        latent_change=last.change,
        iterations=last.k,
        best_iteration=last.best_k,
        num_decodes=decodes + 1,
        num_encodes=encodes + 1,
        num_products=products,
        converged=last.lowest <= problem.tolerance(tolerance),
        history=last.history,
    )
