"""Evaluations of the model at many levels of a trajectory, together or in chunks."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinv.checks import AtLeastOne
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.samplers.table import SamplerTable
from jaxinv.sampling.sample import evaluate


def evaluate_levels(
    table: SamplerTable,
    denoise: Denoiser,
    states: Float[Array, "n *shape"],
    outputs: Float[Array, "n *shape"],
    lowest: Int[Array, ""],
    chunk: AtLeastOne | None,
) -> tuple[Float[Array, "n *shape"], Int[Array, ""], Int[Array, ""]]:
    """Evaluate the model at all levels above ``lowest``.

    Args:
        table: The table.
        denoise: The denoiser.
        states: ``u[1] .. u[N]``.
        outputs: Known outputs, which are kept for levels that are not evaluated.
        lowest: Levels up to this one keep their outputs (only with ``chunk``).
        chunk: Number of levels per call; None for one call of all levels.

    Returns:
        The outputs, the number of evaluations, and the number of calls.
    """
    n = states.shape[0]

    def call(levels: Array, y: Array) -> Array:
        return jax.vmap(lambda i, y: evaluate(table, denoise, i, y))(levels, y)

    calls, evals = number_of_calls(n, lowest, chunk)
    if chunk is None or chunk >= n:
        return call(jnp.arange(1, n + 1), states), evals, calls
    # Chunks start at the noise end, so that only the last one, near the data, overlaps.

    def body(c: Array, outputs: Array) -> Array:
        begin = jnp.maximum(n - (c + 1) * chunk, 0)
        y = jax.lax.dynamic_slice_in_dim(states, begin, chunk)
        f = call(begin + 1 + jnp.arange(chunk), y)
        return jax.lax.dynamic_update_slice_in_dim(outputs, f, begin, 0)

    return jax.lax.fori_loop(0, calls, body, outputs), evals, calls


def number_of_calls(
    n: int, lowest: Int[Array, ""], chunk: int | None
) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """Return the number of calls of :func:`evaluate_levels`, and of its evaluations."""
    one = jnp.ones((), jnp.int32)
    if chunk is None or chunk >= n:
        return one, n * one
    calls = (n - lowest + chunk - 1) // chunk
    return calls, calls * chunk
