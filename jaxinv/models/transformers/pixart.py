"""The transformer of PixArt-alpha and PixArt-Sigma, for one sample.

    x    = patches(sample) + positions           one token per patch of the latent
    time = MLP(waves(timestep)) [+ MLP(waves(size, aspect ratio))]
    six  = linear(silu(time))                    shared by all blocks
    x    = block(x; table + six, text)           self-attention, text, network
    out  = linear(norm(x) (1 + scale) + shift)

Each block adds a table of its own to the six vectors that shift, scale and gate its
parts. Text vectors that pad are left out of the attention by a mask.

The published networks predict a variance as well, in the second half of their output
channels. Samplers use the first half, and only that is returned.

References:
    Chen et al. 2023, "PixArt-alpha: Fast Training of Diffusion Transformer for
    Photorealistic Text-to-Image Synthesis", arXiv:2310.00426, Section 2.3.
    Chen et al. 2024, "PixArt-Sigma", arXiv:2403.04692.
    diffusers 0.42, ``models/transformers/pixart_transformer_2d.py``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxinv.models.layers.attention import Implementation, dot_product_attention
from jaxinv.models.layers.basic import LayerFactory, Model, TimestepEmbedding, gelu_tanh
from jaxinv.models.layers.hook import Kind, LayerHook
from jaxinv.models.layers.remat import Remat, rematerialized
from jaxinv.models.layers.stack import Stack
from jaxinv.models.transformers.blocks import FeedForward, modulated
from jaxinv.models.transformers.embeddings import joined_patches, waves
from jaxinv.models.transformers.inputs import check_condition
from jaxinv.models.transformers.pixart_config import PixArtTransformerConfig
from jaxinv.models.transformers.sd3 import position_table

_WAVES = 256  # size of the sinusoidal embeddings
_MASKED = -10_000.0  # added to the products of vectors that pad, as in diffusers
_EPSILON = 1e-6  # of the last norm


class PixArtCondition(NamedTuple):
    """The inputs of a :class:`~jaxinv.models.PixArtTransformer2DModel` for one sample.

    Attributes:
        text: Text vectors, (l, d).
        mask: 1 for each of them that counts, 0 for those that pad, (l,).
        resolution: Height and width of the image in pixels, (2,), of models that read
            its size.
        aspect_ratio: Height divided by width, (), of these models.
    """

    text: Float[Array, "l d"]
    mask: Float[Array, " l"]
    resolution: Float[Array, " 2"] | None = None
    aspect_ratio: Float[Array, ""] | None = None


class PixArtTransformer2DModel(Model):
    """A transformer of latent tokens that attends to text and predicts noise.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> config = PixArtTransformerConfig(
        ...     sample_size=8, num_layers=2, attention_head_dim=8,
        ...     num_attention_heads=2, cross_attention_dim=16, caption_channels=6)
        >>> make = lambda: PixArtTransformer2DModel(config, rngs=nnx.Rngs(0))
        >>> condition = PixArtCondition(jnp.ones((3, 6)), jnp.ones(3))
        >>> x = jnp.ones((8, 12, 4))
        >>> jax.eval_shape(lambda: make()(x, 500.0, condition)).shape
        (8, 12, 4)
    """

    def build(self, config: PixArtTransformerConfig, make: LayerFactory) -> None:
        """Make the layers."""
        features = config.features
        self.pos_embed = PatchProjection(config, make)
        self.adaln_single = SharedModulation(features, sized=config.sized, make=make)
        self.caption_projection = (
            None
            if config.caption_channels is None
            else TextProjection(config.caption_channels, features, make=make)
        )
        self.transformer_blocks = Stack(
            [None] * config.num_layers,
            lambda kind, make: PixArtBlock(config, make),
            make,
        )
        self.norm_out = make.layer_norm(features, epsilon=_EPSILON, affine=False)
        self.scale_shift_table = _table(2, features, make)
        self.proj_out = make.linear(features, config.patch_size**2 * config.outputs)

    def __call__(
        self,
        sample: Float[Array, "h w c"],
        timestep: Float[Array, ""] | float,
        condition: PixArtCondition,
    ) -> Float[Array, "h w c"]:
        """Predict noise, or what the network was trained for, without a variance.

        Args:
            sample: One noisy latent, whose height and width are multiples of
                ``patch_size``.
            timestep: Model time.
            condition: Text vectors and their mask.

        Returns:
            The prediction, in the dtype of ``sample``.

        Raises:
            ValueError: If the latent or the condition has another shape.
        """
        config: PixArtTransformerConfig = self.config
        config.check_latent(sample.shape)
        sizes: dict[str, tuple[int, ...]] = {"resolution": (2,), "aspect_ratio": ()}
        check_condition(
            condition,
            PixArtCondition,
            text=("l", config.text_features),
            mask=("l",),
            **sizes if config.sized else {},
        )
        time = self.adaln_single.emb(timestep, condition, self.dtype)
        six = self.adaln_single.linear(jax.nn.silu(time)).reshape(6, -1)
        text = condition.text.astype(self.dtype)
        if self.caption_projection is not None:
            text = self.caption_projection(text)
        bias = ((1 - condition.mask) * _MASKED)[None, None]
        x = self.pos_embed(sample.astype(self.dtype))
        rows, columns, features = x.shape
        x = self.transformer_blocks(x.reshape(-1, features), six, text, bias)
        shift, scale = self.scale_shift_table[...].astype(self.dtype) + time
        x = self.proj_out(modulated(self.norm_out(x), shift, scale))
        size = config.patch_size
        x = joined_patches(x.reshape(rows, columns, size, size, -1))
        return x[..., : config.in_channels].astype(sample.dtype)


class PatchProjection(nnx.Module):
    """A token for each patch of a latent: a projection of the patch plus a position."""

    def __init__(self, config: PixArtTransformerConfig, make: LayerFactory):
        size = config.patch_size
        self.base = config.sample_size // size
        self.scale = config.position_scale
        self.proj = make.conv(
            config.in_channels,
            config.features,
            kernel=size,
            stride=size,
            padding=(0, 0),
        )

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 d"]:
        """Return the tokens of a latent, by row and column."""
        x = self.proj(x)
        rows, columns, features = x.shape
        table = position_table((rows, columns), self.base, features, self.scale)
        return (x + table).astype(x.dtype)


class SharedModulation(nnx.Module):
    """The time's vector, and the layer that makes six vectors for all blocks of it."""

    def __init__(self, features: int, *, sized: bool, make: LayerFactory):
        self.emb = TimeSizeEmbedding(features, sized=sized, make=make)
        self.linear = make.linear(features, 6 * features)


class TimeSizeEmbedding(nnx.Module):
    """The time's vector; with those of height, width and aspect ratio added to it."""

    def __init__(self, features: int, *, sized: bool, make: LayerFactory):
        def network(size: int) -> TimestepEmbedding:
            return TimestepEmbedding(_WAVES, size, activation=jax.nn.silu, make=make)

        self.timestep_embedder = network(features)
        self.resolution_embedder = network(features // 3) if sized else None
        self.aspect_ratio_embedder = network(features // 3) if sized else None

    def __call__(
        self,
        timestep: Float[Array, ""] | float,
        condition: PixArtCondition,
        dtype: DTypeLike,
    ) -> Float[Array, " d"]:
        """Return the vector."""
        time = self.timestep_embedder(waves(timestep, dtype))
        if self.resolution_embedder is None or self.aspect_ratio_embedder is None:
            return time
        assert condition.resolution is not None, "check_condition"
        assert condition.aspect_ratio is not None, "check_condition"
        height, width = (
            self.resolution_embedder(waves(number, dtype))
            for number in condition.resolution
        )
        aspect = self.aspect_ratio_embedder(waves(condition.aspect_ratio, dtype))
        return time + jnp.concatenate([height, width, aspect])


class TextProjection(nnx.Module):
    """Two dense layers from the text encoder's vectors to the tokens' size."""

    def __init__(self, in_features: int, features: int, *, make: LayerFactory):
        self.linear_1 = make.linear(in_features, features)
        self.linear_2 = make.linear(features, features)

    def __call__(self, x: Float[Array, "l c"]) -> Float[Array, "l d"]:
        """Project every vector."""
        return self.linear_2(gelu_tanh(self.linear_1(x)))


class PixArtAttention(nnx.Module):
    """Multi-head attention of tokens to one another, or to text vectors.

    The attribute ``implementation`` is set by :func:`jaxinv.models.with_options`,
    ``hook`` by :func:`jaxinv.models.with_hook`.
    """

    def __init__(
        self,
        config: PixArtTransformerConfig,
        context_features: int,
        kind: Kind,
        make: LayerFactory,
    ):
        features, use_bias = config.features, config.attention_bias
        self.heads = config.num_attention_heads
        self.upcast = config.upcast_attention
        self.implementation: Implementation = None
        self.kind = kind
        self.hook: LayerHook | None = None
        self.to_q = make.linear(features, features, use_bias=use_bias)
        self.to_k = make.linear(context_features, features, use_bias=use_bias)
        self.to_v = make.linear(context_features, features, use_bias=use_bias)
        self.to_out = nnx.List([make.linear(features, features)])

    def __call__(
        self,
        x: Float[Array, "l d"],
        context: Float[Array, "k c"],
        bias: Float[Array, "1 1 k"] | None = None,
    ) -> Float[Array, "l d"]:
        """Apply attention, with a bias added to the products."""
        query, key, value = (
            y.reshape(y.shape[0], self.heads, -1)
            for y in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        y = dot_product_attention(
            query,
            key,
            value,
            bias=bias,
            upcast=self.upcast,
            implementation=self.implementation,
            hook=self.hook,
        )
        return self.to_out[0](y.reshape(x.shape))


class PixArtBlock(nnx.Module):
    """Self-attention, attention to the text, and a position-wise network."""

    def __init__(self, config: PixArtTransformerConfig, make: LayerFactory):
        features = config.features
        self.remat: Remat = "none"
        self.scale_shift_table = _table(6, features, make)
        self.norm1 = make.layer_norm(features, epsilon=config.norm_eps, affine=False)
        self.attn1 = PixArtAttention(config, features, "self", make)
        self.attn2 = PixArtAttention(config, config.cross_attention_dim, "cross", make)
        self.norm2 = make.layer_norm(features, epsilon=config.norm_eps, affine=False)
        self.ff = FeedForward(features, make=make)

    @rematerialized
    def __call__(
        self,
        x: Float[Array, "l d"],
        six: Float[Array, "6 d"],
        text: Float[Array, "k c"],
        bias: Float[Array, "1 1 k"],
    ) -> Float[Array, "l d"]:
        """Apply the block."""
        shift, scale, gate, shift_2, scale_2, gate_2 = (
            self.scale_shift_table[...].astype(six.dtype) + six
        )
        y = modulated(self.norm1(x), shift, scale)
        x = x + gate * self.attn1(y, y)
        x = x + self.attn2(x, text, bias)
        return x + gate_2 * self.ff(modulated(self.norm2(x), shift_2, scale_2))


def _table(number: int, features: int, make: LayerFactory) -> nnx.Param:
    """Return vectors that are added to those of the time."""
    return make.constant(np.zeros((number, features), np.float32))
