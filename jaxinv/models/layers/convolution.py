r"""A convolution whose derivatives are fast on CPUs, too.

XLA's CPU compiler turns a convolution into a matrix product only if its kernel is laid
out as (height, width, in, out); inside of a loop it does not bring others into that
form. The derivative of a convolution by its input has in and out exchanged: in the
loops of decoder inversion, of reversible and of implicit gradients it then takes ten
times as long as the convolution itself. So on CPUs the derivative is written here as
what it is, one matrix product for each pixel of the kernel,

    dy = sum_ij shift_ij(dx) K_ij,

which is transposed and vectorised into matrix products again. The convolution itself,
and derivatives on accelerators, are XLA's own.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

Padding = tuple[tuple[int, int], ...]
_LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv_general_dilated(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k l c d"],
    strides: tuple[int, int],
    padding: Padding,
    **options: Any,
) -> Float[Array, "b m n d"]:
    """As ``jax.lax.conv_general_dilated``, for what this library's layers need of it.

    Args:
        x: images.
        kernel: the kernel.
        strides: of the window.
        padding: before and after, of height and width.
        **options: what ``flax.nnx.Conv`` passes on; all but ``precision`` must have the
            value of a plain convolution.

    Returns:
        The convolved images.

    Raises:
        ValueError: for dilations, feature groups or other dimension numbers.
    """
    dilations = [options.get(f"{side}_dilation") or (1,) for side in ("lhs", "rhs")]
    plain = all(d == 1 for dilation in dilations for d in dilation)
    numbers = options.get("dimension_numbers") or _LAYOUT
    layout = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, _LAYOUT)
    groups = options.get("feature_group_count", 1) * options.get("batch_group_count", 1)
    if not plain or groups != 1 or numbers not in (_LAYOUT, layout):
        raise ValueError(
            "only convolutions without dilation and groups are written, of images "
            f"(b, h, w, c) and kernels (h, w, in, out); got {options}"
        )
    pads = tuple((int(before), int(after)) for before, after in padding)
    return _conv(x, kernel, tuple(strides), pads, options.get("precision"))


def _lax(x: Array, kernel: Array, strides: Any, padding: Any, precision: Any) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=_LAYOUT, precision=precision
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _conv(x: Array, kernel: Array, strides: Any, padding: Any, precision: Any) -> Array:
    return _lax(x, kernel, strides, padding, precision)


def _jvp(
    strides: Any,
    padding: Any,
    precision: Any,
    primals: tuple[Array, Array],
    tangents: tuple[Any, Any],
) -> tuple[Array, Any]:
    x, kernel = primals
    dx, dkernel = tangents
    y = _conv(x, kernel, strides, padding, precision)
    dy: Any = jnp.zeros_like(y)
    if not isinstance(dx, SymbolicZero):
        options = {"strides": strides, "padding": padding, "precision": precision}
        dy = jax.lax.platform_dependent(
            dx,
            kernel,
            cpu=functools.partial(_shifted, **options),
            default=functools.partial(_lax, **options),
        )
    if not isinstance(dkernel, SymbolicZero):
        dy = dy + _lax(x, dkernel, strides, padding, precision)
    return y, dy


_conv.defjvp(_jvp, symbolic_zeros=True)


def _shifted(
    x: Array, kernel: Array, strides: Any, padding: Any, precision: Any
) -> Array:
    """The convolution as a sum of matrix products."""
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = (
        (size - window) // stride + 1
        for size, window, stride in zip(
            padded.shape[1:3], kernel.shape[:2], strides, strict=True
        )
    )
    batch, _, _, channels = x.shape
    total = None
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            piece = jax.lax.slice(
                padded,
                (0, i, j, 0),
                (
                    batch,
                    i + strides[0] * (rows - 1) + 1,
                    j + strides[1] * (columns - 1) + 1,
                    channels,
                ),
                (1, *strides, 1),
            )
            # Of 16 bits the sum is rounded once, as the convolution's is.
            term = jnp.matmul(
                piece,
                kernel[i, j],
                precision=precision,
                preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
            )
            total = term if total is None else total + term
    assert total is not None
    return total.astype(x.dtype)
