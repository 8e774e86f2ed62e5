r"""Rotary position embeddings of tokens on a grid.

A head of size d has d / 2 pairs of features. Each axis of the grid owns some of them,
and turns the pair k of its own d_a / 2 by the angle

    position * theta^(-2k / d_a)

so that products of queries and keys depend on differences of positions.

References:
    Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding",
    arXiv:2104.09864, Eq. 34.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Rotary(NamedTuple):
    """Cosines and sines of all angles, float32.

    Attributes:
        cos: One per token and pair of features, (l, d / 2).
        sin: The same for sines.
    """

    cos: Float[Array, "l p"]
    sin: Float[Array, "l p"]


def grid_rotary(
    shape: Sequence[int], dims: Sequence[int], theta: float = 10_000.0
) -> Rotary:
    """Return the rotations of the tokens of a grid, counted from 0 along each axis.

    Args:
        shape: Length of each axis. Tokens are in row-major order.
        dims: Number of features of each axis, all even. Their sum is a head's size.
        theta: Base of the frequencies.

    Returns:
        Rotations of all tokens. Angles are computed in float64.
    """
    tables = []
    for axis, (length, dim) in enumerate(zip(shape, dims, strict=True)):
        frequencies = theta ** -(np.arange(0, dim, 2, dtype=np.float64) / dim)
        angles = np.arange(length)[:, None] * frequencies
        # One row per position of this axis: constants of a program stay small.
        place = [1] * len(shape) + [dim // 2]
        place[axis] = length
        tables.append(angles.reshape(place))

    def joined(function: np.ufunc) -> Float[Array, "l p"]:
        parts = [
            jnp.broadcast_to(
                jnp.asarray(function(table), jnp.float32), (*shape, table.shape[-1])
            )
            for table in tables
        ]
        return jnp.concatenate(parts, axis=-1).reshape(-1, sum(dims) // 2)

    return Rotary(joined(np.cos), joined(np.sin))


def unrotated(length: int, rotary: Rotary) -> Rotary:
    """Return rotations that follow ``length`` tokens at the origin (of the text).

    Args:
        length: Number of tokens before those of ``rotary``, which are not turned.
        rotary: Rotations of the tokens after them.
    """
    before = jnp.zeros((length, rotary.cos.shape[1]), rotary.cos.dtype)
    return Rotary(
        jnp.concatenate([before + 1, rotary.cos]),
        jnp.concatenate([before, rotary.sin]),
    )


def rotated(x: Float[Array, "l n d"], rotary: Rotary) -> Float[Array, "l n d"]:
    """Return queries or keys with their pairs of neighboring features turned.

    The result has the dtype of ``x`` and is computed in float32 at least.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    even, odd = wide[..., ::2], wide[..., 1::2]
    cos, sin = (y[:, None, :] for y in rotary)
    turned = jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)
