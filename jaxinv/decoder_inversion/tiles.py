r"""Large images: networks evaluated tile by tile, blended where tiles overlap.

The memory is that of one tile for any size of the image. The result differs from that
of the network on the whole image, because attention and normalization only see one
tile. It is a different autoencoder, close to the original: to invert an image, use the
tiles with which it was decoded.
"""

import dataclasses
from collections.abc import Callable
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class tilewise:  # noqa: N801
    """A network for images or latents, applied to overlapping square tiles.

    The tiles are evenly spaced. Where they overlap, their results are averaged with
    weights that decrease linearly from each tile's center to its borders. Tiles are
    evaluated sequentially; the reverse pass recomputes each. An input of at most one
    tile is passed to the network unchanged.

    Args:
        network: Callable pytree on (h, w, c), an encoder or a decoder.
        tile: Height and width of a tile, in pixels of the *input*: for a decoder of
            factor 8, ``64`` are 512 pixels of the image (static).
        overlap: Smallest overlap of neighbors, in pixels of the input (static); a
            quarter of the tile if None.

    Raises:
        ValueError: For a tile or overlap out of range, or (when called) a tile or input
            that is not a multiple of the network's factor.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxinv.decoder_inversion import tilewise
        >>> enlarge = lambda z: jnp.repeat(jnp.repeat(z, 8, 0), 8, 1)
        >>> tilewise(enlarge, tile=16)(jnp.ones((40, 24, 3))).shape
        (320, 192, 3)
    """

    network: Callable[[Array], Array]
    tile: int = dataclasses.field(metadata={"static": True})
    overlap: int | None = dataclasses.field(default=None, metadata={"static": True})

    def __post_init__(self) -> None:
        """Check the sizes."""
        if self.tile < 1:
            raise ValueError(f"tile must be at least 1 pixel, got {self.tile}")
        if self.overlap is not None and not 0 <= self.overlap < self.tile:
            raise ValueError(
                f"overlap must be at least 0 and less than the tile ({self.tile}), "
                f"got {self.overlap}"
            )

    def __call__(self, whole: Float[Array, "h w c"]) -> Float[Array, "fh fw d"]:
        """Apply the network to an image or a latent."""
        if whole.ndim != 3:
            raise ValueError(f"expected shape (h, w, c), got {whole.shape}")
        height, width, channels = whole.shape
        if max(height, width) <= self.tile:
            return self.network(whole)
        tile = (min(self.tile, height), min(self.tile, width))
        one = jax.ShapeDtypeStruct((*tile, channels), whole.dtype)
        made = jax.eval_shape(self.network, one)
        # The outputs of one and two tiles determine the factor.
        two = jax.ShapeDtypeStruct((2 * tile[0], *one.shape[1:]), whole.dtype)
        more = jax.eval_shape(self.network, two)
        ratio = Fraction(more.shape[0] - made.shape[0], tile[0])
        size = tuple(n * ratio for n in whole.shape[:2])
        wanted = (*(n * ratio for n in tile), *made.shape[2:])
        if made.ndim != 3 or made.shape != wanted:
            raise ValueError(
                f"the network maps a tile {one.shape} to {made.shape}: the tile must "
                "be a multiple of its factor"
            )
        factor = ratio.denominator
        divides = not (height % factor or width % factor)
        if not divides or jax.eval_shape(self.network, whole).shape[:2] != size:
            raise ValueError(
                f"height and width must be multiples of {factor}, got {height} and "
                f"{width}"
            )
        overlap = self.tile // 4 if self.overlap is None else self.overlap
        if self.tile - overlap < factor:
            raise ValueError(
                f"tiles of {self.tile} with an overlap of {overlap} cannot be placed "
                f"at multiples of {factor}: the overlap must be smaller"
            )
        corners = [
            _starts(size, piece, min(overlap, piece - 1), factor)
            for size, piece in zip((height, width), tile, strict=True)
        ]
        places = np.stack(np.meshgrid(*corners, indexing="ij"), -1).reshape(-1, 2)
        rows, columns = (_ramp(n) for n in made.shape[:2])
        dtype = jnp.promote_types(made.dtype, jnp.float32)
        weight = jnp.asarray((rows[:, None] * columns[None, :])[..., None], dtype)

        network = self.network

        def add(
            carry: tuple[Array, Array], place: Array
        ) -> tuple[tuple[Array, Array], None]:
            total, weights = carry
            piece = jax.lax.dynamic_slice(whole, (*place, 0), one.shape)
            at = (*(place * ratio.numerator // factor), 0)
            total = _add_at(total, at, weight * jax.checkpoint(network)(piece))
            return (total, _add_at(weights, at, weight)), None

        start = (
            jnp.zeros((int(size[0]), int(size[1]), made.shape[2]), dtype),
            jnp.zeros((int(size[0]), int(size[1]), 1), dtype),
        )
        (total, weights), _ = jax.lax.scan(add, start, jnp.asarray(places))
        return (total / weights).astype(made.dtype)


def _add_at(total: Array, at: tuple[Array | int, ...], piece: Array) -> Array:
    there = jax.lax.dynamic_slice(total, at, piece.shape)
    return jax.lax.dynamic_update_slice(total, there + piece, at)


def _starts(size: int, tile: int, overlap: int, factor: int) -> np.ndarray:
    """Return first pixels of evenly spaced tiles, multiples of the factor."""
    free = (size - tile) // factor
    stride = max((tile - overlap) // factor, 1)
    count = -(-free // stride) + 1
    return np.round(np.linspace(0, free, count)).astype(int) * factor


def _ramp(size: int) -> np.ndarray:
    """Return positive weights of a tile's pixels along one axis, a symmetric ramp."""
    return np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1)) / size
