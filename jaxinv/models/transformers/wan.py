r"""The transformer of Wan's text-to-video models, for one video.

    x    = conv(sample)                      a token is 1x2x2 pixels of the latent
    text = MLP(text vectors)
    e    = MLP(waves(timestep)),   c = linear(silu(e)),   six vectors
    x    = block(x; text, c)
    out  = untokens(linear(norm(x) (1 + scale) + shift)),  [shift, scale] = table + e

Every block adds a table of its own to the six vectors, which shift, scale and gate its
attention and its position-wise network:

    x <- x + gate_1 * attention(norm(x) (1 + scale_1) + shift_1)
    x <- x + attention(norm(x), text)
    x <- x + gate_2 * network(norm(x) (1 + scale_2) + shift_2)

Positions (frame, row, column) enter through rotations of the queries and keys of the
first attention. Queries and keys of all heads together are divided by their root mean
square.

Attributes have diffusers' names, so that weights map by rule (see ``weights_convert``).

References:
    Wan Team, "Wan: Open and Advanced Large-Scale Video Generative Models", 2025.
    https://arxiv.org/abs/2503.20314 (Section 4.2)
    diffusers 0.42, ``models/transformers/transformer_wan.py``.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxinv.models.layers.attention import Implementation, dot_product_attention
from jaxinv.models.layers.basic import (
    LayerFactory,
    Model,
    ShapesOnly,
    TimestepEmbedding,
    gelu_tanh,
    sinusoidal_embedding,
)
from jaxinv.models.layers.hook import Kind, LayerHook
from jaxinv.models.layers.remat import Remat, rematerialized
from jaxinv.models.layers.rotary import Rotary, grid_rotary, rotated
from jaxinv.models.layers.stack import Stack
from jaxinv.models.transformers.blocks import FeedForward, modulated
from jaxinv.models.transformers.wan_config import WanTransformer3DConfig


class WanTransformer3DModel(Model):
    """A transformer of latent tokens that attend to text, for a flow's velocity.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> config = WanTransformer3DConfig(num_attention_heads=2, num_layers=2,
        ...     attention_head_dim=12, in_channels=4, out_channels=4, text_dim=6,
        ...     ffn_dim=32)
        >>> make = lambda: WanTransformer3DModel(config, rngs=nnx.Rngs(0))
        >>> x, text = jnp.ones((3, 4, 6, 4)), jnp.ones((5, 6))
        >>> jax.eval_shape(lambda: make()(x, 500.0, text)).shape  # no computation
        (3, 4, 6, 4)
    """

    def build(self, config: WanTransformer3DConfig, make: LayerFactory) -> None:
        """Make the layers."""
        features, patch = config.features, config.patch_size
        self.patch_embedding = make.conv_3d(
            config.in_channels, features, patch, stride=patch
        )
        self.condition_embedder = _ConditionEmbedding(config, make)

        def block(_: str, make: LayerFactory) -> WanTransformerBlock:
            return WanTransformerBlock(config, make)

        self.blocks = Stack(["block"] * config.num_layers, block, make)
        self.norm_out = make.layer_norm(features, epsilon=config.eps, affine=False)
        self.proj_out = make.linear(features, math.prod(patch) * config.channels_out)
        self.scale_shift_table = _table(2, features, make)

    def __call__(
        self,
        sample: Float[Array, "f h w c"],
        timestep: Float[Array, ""] | float,
        condition: Float[Array, "l d"],
    ) -> Float[Array, "f h w k"]:
        """Predict the velocity, noise less data.

        Args:
            sample: One noisy latent, whose sides are multiples of ``patch_size``.
            timestep: 1000 times the flow's time.
            condition: Text vectors.

        Returns:
            The prediction, in the dtype of ``sample``.

        Raises:
            ValueError: If the latent or the text has another shape.
        """
        config = self.config
        config.check_latent(sample.shape)
        if jnp.ndim(condition) != 2 or condition.shape[-1] != config.text_dim:
            raise ValueError(
                f"the condition must be text vectors of shape (l, {config.text_dim}), "
                f"got {jnp.shape(condition)}"
            )
        x = self.patch_embedding(sample.astype(self.dtype))
        grid = x.shape[:3]
        time, six, text = self.condition_embedder(
            timestep, condition.astype(self.dtype)
        )
        rotary = grid_rotary(grid, config.axes)
        x = x.reshape(-1, config.features)
        x = self.blocks(x, text, six, rotary)
        shift, scale = _shifted(self.scale_shift_table, time)
        x = modulated(self.norm_out(x), shift, scale).astype(self.dtype)
        x = self.proj_out(x)
        return _joined(x, grid, config.patch_size).astype(sample.dtype)


class _ConditionEmbedding(nnx.Module):
    """Embeddings of the time and of the text vectors."""

    def __init__(self, config: WanTransformer3DConfig, make: LayerFactory):
        features = config.features
        self.waves = config.freq_dim
        self.time_embedder = TimestepEmbedding(
            config.freq_dim, features, activation=jax.nn.silu, make=make
        )
        self.time_proj = make.linear(features, 6 * features)
        self.text_embedder = TimestepEmbedding(
            config.text_dim, features, activation=gelu_tanh, make=make
        )

    def __call__(
        self, timestep: Float[Array, ""] | float, text: Float[Array, "l d"]
    ) -> tuple[Float[Array, " d"], Float[Array, "6 d"], Float[Array, "l d"]]:
        """Return the time's vector, the six for all blocks, and the text's tokens."""
        waves = sinusoidal_embedding(
            timestep, self.waves, flip_sin_to_cos=True, freq_shift=0
        )
        time = self.time_embedder(waves.astype(text.dtype))
        six = self.time_proj(jax.nn.silu(time)).reshape(6, -1)
        return time, six, self.text_embedder(text)


class WanAttention(nnx.Module):
    """Attention of tokens to each other, or to the text.

    Args:
        features: Size of the tokens and of the text's.
        heads: Number of heads.
        epsilon: Added to the mean squares of queries and keys.
        kind: What the layer attends to.
        make: Layer factory.

    The attribute ``implementation`` is set by :func:`jaxinv.models.with_options`,
    ``hook`` by :func:`jaxinv.models.with_hook`.
    """

    def __init__(
        self,
        features: int,
        *,
        heads: int,
        epsilon: float,
        kind: Kind,
        make: LayerFactory,
    ):
        self.heads = heads
        self.implementation: Implementation = None
        self.kind = kind
        self.hook: LayerHook | None = None
        self.to_q = make.linear(features, features)
        self.to_k = make.linear(features, features)
        self.to_v = make.linear(features, features)
        self.norm_q = make.rms_norm(features, epsilon=epsilon)
        self.norm_k = make.rms_norm(features, epsilon=epsilon)
        self.to_out = nnx.List([make.linear(features, features)])

    def __call__(
        self,
        x: Float[Array, "l c"],
        text: Float[Array, "k c"] | None = None,
        rotary: Rotary | None = None,
    ) -> Float[Array, "l c"]:
        """Let every token attend to the text, or to all tokens."""
        context = x if text is None else text
        query, key, value = (
            y.reshape(y.shape[0], self.heads, -1)
            for y in (
                self.norm_q(self.to_q(x)),
                self.norm_k(self.to_k(context)),
                self.to_v(context),
            )
        )
        if rotary is not None:
            query, key = rotated(query, rotary), rotated(key, rotary)
        y = dot_product_attention(
            query, key, value, implementation=self.implementation, hook=self.hook
        )
        return self.to_out[0](y.reshape(x.shape))


class WanTransformerBlock(nnx.Module):
    """Attention, attention to the text, and a position-wise network."""

    def __init__(self, config: WanTransformer3DConfig, make: LayerFactory):
        features, epsilon = config.features, config.eps

        def attention(kind: Kind) -> WanAttention:
            heads = config.num_attention_heads
            return WanAttention(
                features, heads=heads, epsilon=epsilon, kind=kind, make=make
            )

        self.remat: Remat = "none"
        self.norm1 = make.layer_norm(features, epsilon=epsilon, affine=False)
        self.attn1 = attention("self")
        self.attn2 = attention("cross")
        self.norm2 = (
            make.layer_norm(features, epsilon=epsilon)
            if config.cross_attn_norm
            else None
        )
        self.ffn = FeedForward(features, inner=config.ffn_dim, make=make)
        self.norm3 = make.layer_norm(features, epsilon=epsilon, affine=False)
        self.scale_shift_table = _table(6, features, make)

    @rematerialized
    def __call__(
        self,
        x: Float[Array, "l d"],
        text: Float[Array, "k d"],
        six: Float[Array, "6 d"],
        rotary: Rotary,
    ) -> Float[Array, "l d"]:
        """Return the tokens after the block.

        Args:
            x: Tokens of the latent.
            text: Tokens of the text.
            six: Vectors of the time.
            rotary: Rotations of the tokens.
        """
        dtype = x.dtype
        shift1, scale1, gate1, shift2, scale2, gate2 = _shifted(
            self.scale_shift_table, six
        )
        y = modulated(self.norm1(x), shift1, scale1).astype(dtype)
        x = (x + gate1 * self.attn1(y, rotary=rotary)).astype(dtype)
        y = x if self.norm2 is None else self.norm2(x)
        x = x + self.attn2(y, text)
        y = modulated(self.norm3(x), shift2, scale2).astype(dtype)
        return (x + gate2 * self.ffn(y)).astype(dtype)


def _table(rows: int, features: int, make: LayerFactory) -> nnx.Param:
    """Return a table with PyTorch's shape, in which samples have an axis."""
    draw: Any = nnx.initializers.normal(features**-0.5)
    draw = ShapesOnly.initial if isinstance(make.rngs, ShapesOnly) else draw
    return nnx.Param(draw(make.rngs.params(), (1, rows, features), make.param_dtype))


def _shifted(table: nnx.Param, vectors: Float[Array, "*n d"]) -> Float[Array, "n d"]:
    """Return the rows of a table plus the time's vectors, in float32 at least."""
    rows = table[...][0]
    wide = jnp.promote_types(jnp.promote_types(rows.dtype, vectors.dtype), jnp.float32)
    return rows.astype(wide) + vectors.astype(wide)


def _joined(
    x: Float[Array, "l n"], grid: tuple[int, ...], patch: tuple[int, ...]
) -> Float[Array, "f h w c"]:
    """Return the latent of tokens whose features are pixels, channels innermost."""
    x = x.reshape(*grid, *patch, -1).transpose(0, 3, 1, 4, 2, 5, 6)
    sizes = [n * size for n, size in zip(grid, patch, strict=True)]
    return x.reshape(*sizes, -1)
