r"""Norms that neither underflow nor overflow.

Squares leave the range of float32 for numbers well inside it, from 1e-19 and 1e19 on.
Norms here therefore divide the numbers by a power of two close to the largest of them
and multiply the result by it. Both operations are exact: where no square would leave
the range, the result equals ``sqrt(sum(x * x))`` bit for bit.

References:
    Blue 1978, "A Portable Fortran Program to Find the Euclidean Norm of a Vector", ACM
    Trans. Math. Softw. 4(1).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Mask of the exponent: a power of two has neither sign nor mantissa.
_EXPONENT = {32: (jnp.uint32, 0x7F80_0000), 64: (jnp.uint64, 0x7FF0_0000_0000_0000)}


def power_of_two(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return the largest power of two that is at most ``|x|``.

    Args:
        x: float32 or float64.

    Returns:
        The exact powers: 0 for zero and subnormal numbers, infinity for infinity and
        NaN.
    """
    kind, mask = _EXPONENT[jnp.finfo(x.dtype).bits]
    bits = jax.lax.bitcast_convert_type(x, kind) & kind(mask)
    return jax.lax.bitcast_convert_type(bits, x.dtype)


def norm(
    x: Float[Array, "..."], axis: int | tuple[int, ...] | None = None
) -> Float[Array, "..."]:
    """Return the Euclidean norm over some axes.

    Args:
        x: float32 or float64, any shape.
        axis: The axes to sum over; None for all.

    Returns:
        The norms; infinity or NaN if an element is.
    """
    unit = _unit(jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0))
    scaled = x / unit
    length = jnp.sqrt(jnp.sum(scaled * scaled, axis=axis))
    return length * jnp.reshape(unit, length.shape)


def tree_norm(tree: Any) -> Float[Array, ""]:
    """Return the Euclidean norm of all arrays of a pytree together."""
    leaves = jax.tree.leaves(tree)
    largest = [jnp.max(jnp.abs(leaf), initial=0) for leaf in leaves]
    unit = _unit(jnp.max(jnp.stack(largest)))
    squares = [jnp.sum((leaf / unit) ** 2) for leaf in leaves]
    return unit * jnp.sqrt(sum(squares))


def relative(
    error: Float[Array, "*shape"], reference: Float[Array, "*shape"]
) -> Float[Array, ""]:
    """Return the norm of an error relative to the norm of a reference.

    Args:
        error: The error.
        reference: The exact value.

    Returns:
        ``|error| / |reference|``: 0 if both are zero.
    """
    return norm(error) / at_least_tiny(norm(reference))


def at_least_tiny(length: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return a norm, with zero replaced by the smallest normal number, for division."""
    return jnp.maximum(length, jnp.finfo(length.dtype).tiny)


def natural_unit(x: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Return the unit in which an array has values of order one.

    Args:
        x: float32 or float64.

    Returns:
        1 for an array that is zero, not finite, or has a root mean square between
        1 / 1024 and 1024; else the power of two closest to the root mean square.
    """
    size = norm(x) / float(max(x.size, 1)) ** 0.5
    # The power of two with the smaller ratio to it.
    unit = power_of_two(size * 2**0.5)
    ordinary = (size >= 2.0**-10) & (size <= 2.0**10)
    usable = (unit > 0) & jnp.isfinite(unit)
    return jnp.where(ordinary | ~usable, 1, unit).astype(x.dtype)


def _unit(largest: Array) -> Array:
    """Return a power of two to divide by, or 1 where there is none."""
    unit = power_of_two(largest)
    return jnp.where((unit > 0) & jnp.isfinite(unit), unit, 1).astype(largest.dtype)
