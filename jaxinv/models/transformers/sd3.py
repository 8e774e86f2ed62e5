"""The transformer of Stable Diffusion 3 and 3.5, for one sample.

    x    = patches(sample) + positions          one token per patch of the latent
    text = linear(text vectors)
    time = MLP(waves(timestep)) + MLP(pooled text)
    x, text = block(x, text; time)              joint blocks; the last changes x alone
    out  = joined(linear(norm(x; time)))

Positions are sines and cosines of the column and of the row. The published models store
them as a table for a larger image, of which a latent takes the center: the middle of an
image has the same positions whatever its size.

Attributes have diffusers' names, so that weights map by rule (see ``weights_convert``).

References:
    Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image
    Synthesis", arXiv:2403.03206, Figure 2.
    diffusers 0.42, ``models/transformers/transformer_sd3.py``.
"""

from typing import Any, NamedTuple

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxinv.models.layers.basic import LayerFactory, Model, ShapesOnly
from jaxinv.models.layers.stack import Stack
from jaxinv.models.transformers.blocks import (
    AdaLayerNormContinuous,
    JointTransformerBlock,
)
from jaxinv.models.transformers.embeddings import TimeTextEmbedding, joined_patches
from jaxinv.models.transformers.inputs import check_condition
from jaxinv.models.transformers.sd3_config import SD3TransformerConfig

_LONGEST_WAVE = 10_000.0


class SD3Condition(NamedTuple):
    """The inputs of a :class:`~jaxinv.models.SD3Transformer2DModel` for one sample.

    Attributes:
        text: Text vectors that the latent's tokens attend to, (l, d).
        pooled: Vector of the whole text, (p,).
    """

    text: Float[Array, "l d"]
    pooled: Float[Array, " p"]


class SD3Transformer2DModel(Model):
    """A transformer of latent and text tokens that predicts a flow's velocity.

    The module is a pytree: pass it as an argument to jitted or vmapped functions.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> config = SD3TransformerConfig(
        ...     sample_size=8, in_channels=4, out_channels=4, num_layers=2,
        ...     attention_head_dim=8, num_attention_heads=2, caption_projection_dim=16,
        ...     joint_attention_dim=6, pooled_projection_dim=5, pos_embed_max_size=8)
        >>> make = lambda: SD3Transformer2DModel(config, rngs=nnx.Rngs(0))
        >>> condition = SD3Condition(text=jnp.ones((3, 6)), pooled=jnp.ones(5))
        >>> x = jnp.ones((8, 12, 4))
        >>> jax.eval_shape(lambda: make()(x, 500.0, condition)).shape
        (8, 12, 4)
    """

    def build(self, config: SD3TransformerConfig, make: LayerFactory) -> None:
        """Make the layers."""
        features = config.features
        self.pos_embed = PatchEmbed(config, make)
        self.time_text_embed = TimeTextEmbedding(
            features, pooled_features=config.pooled_projection_dim, make=make
        )
        self.context_embedder = make.linear(config.joint_attention_dim, features)
        last = config.num_layers - 1
        self.transformer_blocks = Stack(
            [
                BlockKind(dual=i in config.dual_attention_layers, last=i == last)
                for i in range(config.num_layers)
            ],
            lambda kind, make: JointTransformerBlock(
                features,
                heads=config.num_attention_heads,
                qk_norm=config.qk_norm is not None,
                dual=kind.dual,
                context_pre_only=kind.last,
                make=make,
            ),
            make,
        )
        self.norm_out = AdaLayerNormContinuous(features, make=make)
        self.proj_out = make.linear(
            features, config.patch_size**2 * config.latent_outputs
        )

    def __call__(
        self,
        sample: Float[Array, "h w c"],
        timestep: Float[Array, ""] | float,
        condition: SD3Condition,
    ) -> Float[Array, "h w k"]:
        """Predict the velocity of a flow, noise less data.

        Args:
            sample: One noisy latent, whose height and width are multiples of
                ``patch_size``, at most ``patch_size * pos_embed_max_size``.
            timestep: The flow's time, 0 to 1000.
            condition: Text vectors.

        Returns:
            The prediction, in the dtype of ``sample``.

        Raises:
            ValueError: If the latent or the condition has another shape.
        """
        config = self.config
        config.check_latent(sample.shape)
        check_condition(
            condition,
            SD3Condition,
            text=("l", config.joint_attention_dim),
            pooled=(config.pooled_projection_dim,),
        )
        text, pooled = (each.astype(self.dtype) for each in condition)
        time = self.time_text_embed(timestep, pooled)
        x = self.pos_embed(sample.astype(self.dtype))
        rows, columns, features = x.shape
        carry = x.reshape(-1, features), self.context_embedder(text)
        x, _ = self.transformer_blocks(carry, time)
        x = self.proj_out(self.norm_out(x, time))
        size = config.patch_size
        x = joined_patches(x.reshape(rows, columns, size, size, -1))
        return x.astype(sample.dtype)


class BlockKind(NamedTuple):
    """What distinguishes the blocks of one transformer.

    Attributes:
        dual: Whether the latent's tokens have a second attention, among themselves.
        last: Whether it is the last block, which changes no text.
    """

    dual: bool
    last: bool


class PatchEmbed(nnx.Module):
    """A token for each patch of a latent: a projection of the patch plus a position.

    Args:
        config: Settings of the transformer.
        make: Layer factory.
    """

    def __init__(self, config: SD3TransformerConfig, make: LayerFactory):
        size, longest = config.patch_size, config.pos_embed_max_size
        self.base = config.sample_size // size
        self.longest = longest
        self.proj = make.conv(
            config.in_channels,
            config.features,
            kernel=size,
            stride=size,
            padding=(0, 0),
        )
        self.pos_embed = (
            None
            if longest is None
            else make.constant(_stored_table(longest, self.base, config.features, make))
        )

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 d"]:
        """Return the tokens of a latent, by row and column."""
        x = self.proj(x)
        return (x + self._positions(*x.shape)).astype(x.dtype)

    def _positions(self, rows: int, columns: int, features: int) -> Any:
        """Return the table of a latent: the center of the stored one, if there is."""
        longest = self.longest
        if longest is None or self.pos_embed is None:
            return position_table((rows, columns), self.base, features)
        top, left = (longest - rows) // 2, (longest - columns) // 2
        table = self.pos_embed[...].reshape(longest, longest, features)
        return table[top : top + rows, left : left + columns]


def _stored_table(
    longest: int, base: int, features: int, make: LayerFactory
) -> Float[np.ndarray, "1 n d"]:
    """Return the table of a model; up to a gigabyte, so without values for shapes."""
    shape = 1, longest**2, features
    if isinstance(make.rngs, ShapesOnly):
        return np.broadcast_to(np.float32(0), shape)
    return position_table((longest, longest), base, features).reshape(shape)


def position_table(
    size: tuple[int, int], base: int, features: int, scale: float = 1.0
) -> Float[np.ndarray, "h w d"]:
    """Return sines and cosines of the columns, then of the rows, of a grid.

    Args:
        size: (height, width) of the grid. It spans ``base`` units whatever its size.
        base: Height and width of the grid of training.
        features: Number of features, a multiple of 4.
        scale: Divisor of the positions.

    Returns:
        The table, float32.

    References:
        diffusers 0.42, ``get_2d_sincos_pos_embed``.
    """
    quarter = features // 4
    frequencies = _LONGEST_WAVE ** -(np.arange(quarter) / quarter)

    def waves(count: int) -> np.ndarray:
        # Positions are rounded to float32, as those of training were.
        places = np.arange(count, dtype=np.float32) / np.float32(count / base)
        places = places / np.float32(scale)
        phase = np.multiply.outer(places.astype(np.float64), frequencies)
        return np.concatenate([np.sin(phase), np.cos(phase)], -1).astype(np.float32)

    by_row, by_column = map(waves, size)
    shape = (*size, features // 2)
    halves = (
        np.broadcast_to(by_column[None], shape),
        np.broadcast_to(by_row[:, None], shape),
    )
    return np.concatenate(halves, axis=-1)
