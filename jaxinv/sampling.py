r"""Sampling: from noise to data, with any table.

The loop is written once, for one sample: apply the rows of a
:class:`~jaxinv.samplers.table.LinearMultistep` from the noise end (i = N) to the data
end (i = 1). Use ``jax.vmap`` for more samples.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.compilation import check_denoiser, check_finite, split_callable
from jaxinv.denoiser import Denoiser
from jaxinv.samplers.table import LinearMultistep


def sample(
    sampler: LinearMultistep, denoise: Denoiser, noise: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Turn noise into data.

    Args:
        sampler: the table, from :func:`jaxinv.ddim` and its like.
        denoise: callable pytree ``(x, t) -> f`` on one sample.
        noise: one sample of unit noise, any shape without a batch axis.

    Returns:
        The state ``x[0]`` at the data end, of the noise's shape and dtype.

    Raises:
        ValueError: if the noise is not a finite float32 or float64 array, or the
            denoiser does not map its shape to itself.

    Example:
        A model of data that is always 0 predicts the noise itself:

        >>> import jax, jaxinv as ji
        >>> sampler = ji.ddim(ji.time_grid(ji.scaled_linear(), 20))
        >>> denoise = lambda x, t: x
        >>> noise = jax.random.normal(jax.random.key(0), (4, 4, 3))
        >>> ji.sample(sampler, denoise, noise).shape
        (4, 4, 3)
    """
    return _run(sampler, denoise, noise, keep=False)[0]


def sample_trajectory(
    sampler: LinearMultistep, denoise: Denoiser, noise: Float[Array, "*shape"]
) -> Float[Array, "n+1 *shape"]:
    """Turn noise into data and keep every state.

    Args:
        sampler: the table.
        denoise: callable pytree ``(x, t) -> f`` on one sample.
        noise: one sample of unit noise.

    Returns:
        The states x, data first: index 0 is the sample, index N the (scaled) noise.

    Raises:
        ValueError: as :func:`sample`.
    """
    return _run(sampler, denoise, noise, keep=True)


def _run(
    sampler: LinearMultistep, denoise: Denoiser, noise: Array, *, keep: bool
) -> Array:
    noise = jnp.asarray(noise)
    check_finite(noise, "noise")
    arrays, rebuild = split_callable(denoise)
    return _sample(sampler, arrays, rebuild, noise, keep)


@jax.jit(static_argnames=("rebuild", "keep"))
def _sample(
    sampler: LinearMultistep, arrays: list[Any], rebuild: Any, noise: Array, keep: bool
) -> Array:
    """The states, data first: all of them, or (not ``keep``) only the last, x[0]."""
    denoise = rebuild(arrays)
    check_denoiser(denoise, noise)
    table = in_dtype(sampler, noise.dtype)
    k = table.history
    start = noise * table.init_noise_scale
    # Row j of the history is the state (or output) of j steps ago; the zeros of the
    # table keep what is not there yet out of the sums.
    states = jnp.zeros((k, *noise.shape), noise.dtype)
    states = states.at[0].set(start / table.scale[-1])

    def step(
        carry: tuple[Array, Array], i: Array
    ) -> tuple[tuple[Array, Array], Array | None]:
        states, outputs = carry
        f = evaluate(table, denoise, i, states[0])
        outputs = _push(outputs, f)
        y = apply_row(table, i, states, outputs)
        x = table.scale[i - 1] * y if keep else None
        return (_push(states, y), outputs), x

    steps = jnp.arange(table.num_steps, 0, -1)
    end, xs = jax.lax.scan(step, (states, jnp.zeros_like(states)), steps)
    if xs is None:
        return table.scale[0] * end[0][:1]
    return jnp.concatenate([xs[::-1], start[None]])


def in_dtype(sampler: LinearMultistep, dtype: Any) -> LinearMultistep:
    """The table's coefficients in the dtype of the states."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(dtype), sampler)


def evaluate(table: LinearMultistep, denoise: Denoiser, i: Array, y: Array) -> Array:
    """F at the state ``y[i]``, in the state's dtype whatever the network's is."""
    return denoise(table.scale[i] * y, table.model_time[i]).astype(y.dtype)


def apply_row(table: LinearMultistep, i: Array, states: Array, outputs: Array) -> Array:
    """``y[i-1]`` from the k newest states and outputs, newest first.

    Written as sums of products, not as a matrix product: accelerators may run those in
    reduced precision.
    """
    a, b = table.a[i - 1], table.b[i - 1]
    terms = [a[j] * states[j] + b[j] * outputs[j] for j in range(table.history)]
    return sum(terms[1:], start=terms[0])


def _push(history: Array, newest: Array) -> Array:
    return jnp.concatenate([newest[None], history[:-1]])
