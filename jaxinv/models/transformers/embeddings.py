"""Embeddings of the time and the pooled text, and patches of a latent."""

import jax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxinv.models.layers.basic import (
    LayerFactory,
    TimestepEmbedding,
    sinusoidal_embedding,
)

_WAVES = 256  # size of the sinusoidal embeddings


class TimeTextEmbedding(nnx.Module):
    """The sum of vectors for the time, the pooled text and, if any, the guidance.

    Args:
        features: Size of the vectors.
        pooled_features: Size of the pooled text.
        guidance: Whether the guidance scale is an input.
        make: Layer factory.
    """

    def __init__(
        self,
        features: int,
        *,
        pooled_features: int,
        guidance: bool = False,
        make: LayerFactory,
    ):
        def network(size: int) -> TimestepEmbedding:
            return TimestepEmbedding(size, features, activation=jax.nn.silu, make=make)

        self.timestep_embedder = network(_WAVES)
        self.guidance_embedder = network(_WAVES) if guidance else None
        self.text_embedder = network(pooled_features)

    def __call__(
        self,
        timestep: Float[Array, ""] | float,
        pooled: Float[Array, " p"],
        guidance: Float[Array, ""] | float | None = None,
    ) -> Float[Array, " d"]:
        """Return the vector that blocks are modulated by.

        Args:
            timestep: Time, 0 to 1000.
            pooled: Vector of the whole text, in the compute dtype.
            guidance: The guidance scale times 1000, if it is an input.
        """
        vector = self.timestep_embedder(waves(timestep, pooled.dtype))
        if self.guidance_embedder is not None and guidance is not None:
            vector = vector + self.guidance_embedder(waves(guidance, pooled.dtype))
        return vector + self.text_embedder(pooled)


def waves(number: Float[Array, ""] | float, dtype: DTypeLike) -> Float[Array, " w"]:
    """Return the sinusoidal embedding of a time or guidance, cosines first."""
    found = sinusoidal_embedding(number, _WAVES, flip_sin_to_cos=True, freq_shift=0)
    return found.astype(dtype)


def patches(x: Float[Array, "h w c"], size: int) -> Float[Array, "h2 w2 p p c"]:
    """Cut a map into square patches; height and width are multiples of ``size``."""
    h, w, c = x.shape
    return x.reshape(h // size, size, w // size, size, c).transpose(0, 2, 1, 3, 4)


def joined_patches(x: Float[Array, "h2 w2 p p c"]) -> Float[Array, "h w c"]:
    """Undo :func:`patches`."""
    rows, columns, size, _, c = x.shape
    return x.transpose(0, 2, 1, 3, 4).reshape(rows * size, columns * size, c)
