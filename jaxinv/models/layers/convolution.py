r"""A convolution with derivatives that are also fast on CPUs.

XLA's CPU compiler turns a convolution into a matrix product only if the kernel is laid
out as (height, width, in, out). Inside a loop it does not transpose other layouts. The
derivative of a convolution by its input exchanges in and out, so that in the loops of
decoder inversion and of gradients through inversion it takes ten times as long as the
convolution itself. On CPUs the derivative is therefore written as one matrix product
for each pixel of the kernel,

    dy = sum_ij shift_ij(dx) K_ij,

whose transpose and batched version are matrix products, too. XLA's own operations
compute the convolution itself and all derivatives on accelerators.

Convolutions of videos are convolutions of images whose channels are those of several
frames. On CPUs they are 2 to 40 times as fast as XLA's convolution with three axes.
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
    strides: tuple[int, ...],
    padding: Padding,
    **options: Any,
) -> Float[Array, "b m n d"]:
    """Convolve like ``jax.lax.conv_general_dilated``, without dilation or groups.

    Args:
        x: Images.
        kernel: The kernel.
        strides: Strides of the window.
        padding: Padding before and after, of height and width.
        **options: Options that ``flax.nnx.Conv`` passes; all but ``precision`` must
            have the values of a plain convolution.

    Returns:
        The convolved images.

    Raises:
        ValueError: For dilations, feature groups or other dimension numbers.
    """
    dilations = [options.get(f"{side}_dilation") or (1,) for side in ("lhs", "rhs")]
    plain = all(d == 1 for dilation in dilations for d in dilation)
    numbers = options.get("dimension_numbers") or _LAYOUT
    layout = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, _LAYOUT)
    groups = options.get("feature_group_count", 1) * options.get("batch_group_count", 1)
    if not plain or groups != 1 or numbers not in (_LAYOUT, layout):
        raise ValueError(
            "only convolutions without dilation and groups are supported, of images "
            f"(b, h, w, c) and kernels (h, w, in, out); got {options}"
        )
    pads = tuple((int(before), int(after)) for before, after in padding)
    return _conv(x, kernel, tuple(strides), pads, options.get("precision"))


def conv_frames(
    x: Float[Array, "b f h w c"],
    kernel: Float[Array, "n k l c d"],
    strides: tuple[int, ...],
    padding: Padding,
    **options: Any,
) -> Float[Array, "b g m o d"]:
    """Convolve videos like :func:`conv_general_dilated`.

    Args:
        x: Videos.
        kernel: The kernel; its first axis is time.
        strides: Strides of the window, along time, height and width.
        padding: Padding before and after, of each axis. Time must not be padded.
        **options: See :func:`conv_general_dilated`.

    Returns:
        The convolved videos.

    Raises:
        ValueError: If time is padded, or for other options.
    """
    if tuple(padding[0]) != (0, 0):
        raise ValueError(f"time must not be padded, got {padding[0]}")
    batch, frames, *size, _ = x.shape
    length, *window, _, features = kernel.shape
    step = strides[0]
    count = (frames - length) // step + 1
    pieces = [x[:, i : i + step * (count - 1) + 1 : step] for i in range(length)]
    images = jnp.concatenate(pieces, axis=-1)
    y = conv_general_dilated(
        images.reshape(batch * count, *size, -1),
        jnp.moveaxis(kernel, 0, 2).reshape(*window, -1, features),
        strides[1:],
        padding[1:],
        **options | {"dimension_numbers": None},
    )
    return y.reshape(batch, count, *y.shape[1:])


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
    """Return the convolution as a sum of matrix products."""
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
            # For 16 bits the sum is rounded once, as in the convolution.
            term = jnp.matmul(
                piece,
                kernel[i, j],
                precision=precision,
                preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
            )
            total = term if total is None else total + term
    assert total is not None
    return total.astype(x.dtype)
