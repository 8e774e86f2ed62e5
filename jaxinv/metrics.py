r"""Distances between two arrays, in decibels.

    NMSE = |x - ref|^2 / |ref|^2          PSNR = range^2 / mean((a - b)^2)

The NMSE (normalized mean squared error) in dB is negative for good estimates: lower is
better, and 0 dB is useless. Report the NMSE of the noise and of the reconstruction
separately: several noises can lead to one image, and then a perfect reconstruction can
come from another noise.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxinv.checks import Positive, checked
from jaxinv.norms import norm


@checked
def nmse_db(x: Float[Array, "..."], reference: Float[Array, "..."]) -> Float[Array, ""]:
    """Compute the normalized mean squared error of one sample, in decibels.

    Args:
        x: The estimate, any shape.
        reference: The truth, same shape.

    Returns:
        ``10 log10(|x - reference|^2 / |reference|^2)``; minus infinity for equality.

    Raises:
        ValueError: If the shapes differ.
    """
    return _nmse_db(*_same_shape_floats(x, reference))


@jax.jit
def _nmse_db(x: Array, reference: Array) -> Array:
    return 20 * jnp.log10(norm(jnp.abs(x - reference)) / norm(jnp.abs(reference)))


@checked
def psnr(
    a: Float[Array, "..."],
    b: Float[Array, "..."],
    *,
    data_range: Positive | None = None,
    where: ArrayLike | None = None,
) -> Float[Array, ""]:
    """Compute the peak signal-to-noise ratio of two images, in decibels.

    Args:
        a: An image, any shape.
        b: Another image of the same shape.
        data_range: Difference between the largest and the smallest possible value; by
            default 255 for two 8-bit images and 1 for floats.
        where: Booleans that broadcast to the images and select the pixels to compare,
            such as the part that an edit should keep. All by default.

    Returns:
        ``10 log10(data_range^2 / mean((a - b)^2))``; infinity for equality, NaN if no
        pixel is selected.

    Raises:
        ValueError: If the shapes differ, or if only one of the images has 8 bits.
    """
    if data_range is None:
        eight = [jnp.result_type(x) == jnp.uint8 for x in (a, b)]
        if eight[0] != eight[1]:
            raise ValueError(
                "one image has 8 bits and the other does not: convert both to one "
                "range, or give data_range"
            )
        data_range = 255.0 if eight[0] else 1.0
    a, b = _same_shape_floats(a, b)
    counted = None if where is None else jnp.asarray(where, bool)
    return _psnr(a, b, data_range, counted)


@jax.jit
def _psnr(a: Array, b: Array, data_range: Array, counted: Array | None) -> Array:
    error = jnp.mean(jnp.abs(a - b) ** 2, where=counted)
    return 10 * jnp.log10(data_range**2 / error)


def _same_shape_floats(a: Array, b: Array) -> tuple[Array, Array]:
    if jnp.shape(a) != jnp.shape(b):
        raise ValueError(
            f"expected arrays of equal shape, got {jnp.shape(a)} and {jnp.shape(b)}"
        )
    # Differences of unsigned 8-bit images would wrap around.
    dtype = jnp.promote_types(jnp.result_type(a, b), jnp.float32)
    return jnp.asarray(a, dtype), jnp.asarray(b, dtype)
