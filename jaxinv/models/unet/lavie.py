"""LaVie's base UNet: Stable Diffusion whose blocks attend to other frames, too.

    residual blocks:  convolutions of every frame ("pseudo-3D"), norms over all frames
    transformers:     x += attn1(norm1(x)); x += attn2(norm2(x), text)   in every frame
                      x += attn_temp(norm_temp(x))                       across frames
                      x += ff(norm3(x))

The temporal attention of one position knows the time between two frames twice: from a
learned bias of the logits that depends on i - j, and from a rotation of queries and
keys by angles proportional to their frame's number. Attributes have the names of the
published code (github.com/Vchitect/LaVie, base/models).

References:
    Wang et al., "LaVie: High-Quality Video Generation with Cascaded Latent Diffusion
    Models", 2023, section 3.1. https://arxiv.org/abs/2309.15103
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from jaxinv.models.layers.attention import (
    Attention,
    BasicTransformerBlock,
    Transformer2DModel,
    dot_product_attention,
)
from jaxinv.models.layers.basic import LayerFactory
from jaxinv.models.layers.remat import PRODUCT, rematerialized
from jaxinv.models.unet.blocks import BlockFactory
from jaxinv.models.unet.condition import UNetCondition
from jaxinv.models.unet.config import UNet2DConditionConfig
from jaxinv.models.unet.lavie_config import ROTATED
from jaxinv.models.unet.unet import UNet2DConditionModel

_BUCKETS = 32
_MAX_DISTANCE = 32  # frames


class RelativePositionBias(nnx.Module):
    """A learned bias of attention's logits for every distance in time.

    Args:
        heads: Number of heads.
        make: Layer factory.

    References:
        Raffel et al., "Exploring the Limits of Transfer Learning with a Unified
        Text-to-Text Transformer", 2019, section 2.1. https://arxiv.org/abs/1910.10683
    """

    def __init__(self, heads: int, *, make: LayerFactory):
        self.relative_attention_bias = make.embedding(_BUCKETS, heads)

    def __call__(self, frames: int) -> Float[Array, "n f f"]:
        """Return the bias of every head, query and key."""
        bias = self.relative_attention_bias(jnp.asarray(distance_buckets(frames)))
        return jnp.moveaxis(bias, -1, 0)


def distance_buckets(frames: int) -> Int[np.ndarray, "f f"]:
    """Return the bucket of every query's distance to every key.

    Half of the buckets are for keys that come later. Short distances have a bucket
    each; longer ones share buckets of logarithmic width.
    """
    half = _BUCKETS // 2
    exact = half // 2
    number = np.arange(frames)
    back = number[:, None] - number[None, :]
    distance = np.abs(back)
    # float32 and truncation decide which bucket a distance on the border has.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    scaled = ratio / np.float32(math.log(_MAX_DISTANCE / exact)) * (half - exact)
    far = np.minimum(exact + scaled.astype(np.int64), half - 1)
    return half * (back < 0) + np.where(distance < exact, distance, far)


class RotaryEmbedding(nnx.Module):
    """Rotation of pairs of features by angles proportional to the frame's number.

    Args:
        features: Number of features that are rotated; the rest of a head is kept.
        make: Layer factory.

    References:
        Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding",
        2021, equation 34. https://arxiv.org/abs/2104.09864
    """

    def __init__(self, features: int, *, make: LayerFactory):
        self.freqs = make.constant(1e4 ** (-np.arange(0, features, 2) / features))

    def __call__(self, x: Float[Array, "f n d"]) -> Float[Array, "f n d"]:
        """Rotate the pairs (0, 1), (2, 3), ... of every head."""
        wide = jnp.promote_types(x.dtype, jnp.float32)
        frequencies = self.freqs[...].astype(wide)
        angles = jnp.arange(x.shape[0], dtype=wide)[:, None, None] * frequencies
        size = 2 * frequencies.shape[0]
        rotated, kept = x[..., :size].astype(wide), x[..., size:]
        first, second = rotated[..., ::2], rotated[..., 1::2]
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        pairs = jnp.stack(
            [first * cos - second * sin, second * cos + first * sin], axis=-1
        )
        pairs = pairs.reshape(*x.shape[:-1], size).astype(x.dtype)
        return jnp.concatenate([pairs, kept], axis=-1)


class TemporalAttention(Attention):
    """Attention of the frames of one position to each other.

    Args:
        features: Size of the vectors.
        heads: Number of heads.
        upcast: Whether to compute the attention itself in float32.
        make: Layer factory.
    """

    def __init__(self, features: int, *, heads: int, upcast: bool, make: LayerFactory):
        super().__init__(features, heads=heads, upcast=upcast, kind="frames", make=make)
        self.time_rel_pos_bias = RelativePositionBias(heads, make=make)
        self.rotary_emb = RotaryEmbedding(ROTATED, make=make)

    def attend(
        self,
        query: Float[Array, "f n d"],
        key: Float[Array, "f n d"],
        value: Float[Array, "f n d"],
    ) -> Float[Array, "f n d"]:
        """Return the values of all heads, averaged with the attention's weights."""
        return dot_product_attention(
            self.rotary_emb(query),
            self.rotary_emb(key),
            value,
            bias=self.time_rel_pos_bias(query.shape[0]),
            upcast=self.upcast,
            implementation=self.implementation,
            hook=self.hook,
        )


class TemporalTransformerBlock(BasicTransformerBlock):
    """A transformer block with an attention across frames before the last sublayer.

    Args:
        features: Size of the vectors.
        heads: Number of heads of all attentions.
        upcast_attention: Whether attention is computed in float32.
        make: Layer factory.
        **options: Options of :class:`BasicTransformerBlock`.
    """

    def __init__(
        self,
        features: int,
        *,
        heads: int,
        upcast_attention: bool,
        make: LayerFactory,
        **options: Any,
    ):
        super().__init__(
            features,
            heads=heads,
            upcast_attention=upcast_attention,
            make=make,
            **options,
        )
        self.norm_temp = make.layer_norm(features)
        self.attn_temp = TemporalAttention(
            features, heads=heads, upcast=upcast_attention, make=make
        )

    def attend(
        self, x: Float[Array, "f l c"], context: Float[Array, "k d"]
    ) -> Float[Array, "f l c"]:
        """Apply the attentions within each frame, then the one across frames."""
        within = super().attend
        x = jax.vmap(lambda frame: within(frame, context))(x)
        y = self.norm_temp(x)
        return x + jax.vmap(self.attn_temp, in_axes=1, out_axes=1)(y)


class Transformer3DModel(Transformer2DModel):
    """Transformer blocks over the positions and the frames of a video."""

    block = TemporalTransformerBlock

    @rematerialized
    def __call__(
        self, x: Float[Array, "f h w c"], context: Float[Array, "k d"]
    ) -> Float[Array, "f h w c"]:
        """Mix positions and frames with each other and with the context."""
        y = checkpoint_name(self.proj_in(jax.vmap(self.norm)(x)), PRODUCT)
        y = y.reshape(x.shape[0], -1, x.shape[-1])
        for block in self.transformer_blocks:
            y = block(y, context)
        return self.proj_out(y.reshape(x.shape)) + x


class _LaVieBlockFactory(BlockFactory):
    """Factory whose transformers see all frames."""

    def transformer_class(self) -> type[Transformer2DModel]:
        return Transformer3DModel


class LaVieUNet(UNet2DConditionModel):
    """A UNet for videos, conditioned on a timestep and one text for all frames.

    The residual blocks are those of the image model on an array of frames: their
    convolutions see one frame, their normalizations all of them.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxinv.models import LaVieUNetConfig
        >>> config = LaVieUNetConfig(
        ...     down_block_types=("CrossAttnDownBlock3D",),
        ...     up_block_types=("CrossAttnUpBlock3D",), block_out_channels=(32,),
        ...     layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
        ...     attention_head_dim=1)
        >>> make = lambda: LaVieUNet(config, rngs=nnx.Rngs(0))
        >>> x, text = jnp.ones((5, 8, 8, 4)), jnp.ones((5, 8))  # five frames
        >>> jax.eval_shape(lambda: make()(x, 500.0, text)).shape  # nothing is computed
        (5, 8, 8, 4)
    """

    factory: Any = _LaVieBlockFactory

    @property
    def image_config(self) -> UNet2DConditionConfig:
        """Settings of the image model that this model extends to videos."""
        image: UNet2DConditionConfig = self.config.image_config
        return image

    def build(self, config: Any, make: LayerFactory) -> None:
        """Make the layers of a :class:`~jaxinv.models.LaVieUNetConfig`."""
        super().build(config.image_config, make)

    def __call__(
        self,
        sample: Float[Array, "f h w c"],
        timestep: Float[Array, ""] | float,
        condition: Float[Array, "l d"] | UNetCondition,
    ) -> Float[Array, "f h w k"]:
        """Predict the noise.

        Args:
            sample: The noisy latents of all frames; the model was trained on 16.
            timestep: Model time, 0 to 999; may be fractional.
            condition: Text vectors, for all frames.

        Returns:
            The prediction, in the dtype of ``sample``.

        Raises:
            ValueError: If the sample is not a video.
        """
        if sample.ndim != 4:
            raise ValueError(
                f"expected latents (frames, h, w, c), got shape {sample.shape}"
            )
        return super().__call__(sample, timestep, condition)
