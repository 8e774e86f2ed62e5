"""Attention and the spatial transformer of Stable Diffusion's UNet.

Attention is ``softmax(Q K^T / sqrt(d)) V`` through ``jax.nn.dot_product_attention``,
which keeps logits and softmax in float32 for every compute dtype. An option of the
layer selects XLA or cuDNN (:mod:`jaxinv.models.options`).

References:
    Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models",
    2022. https://arxiv.org/abs/2112.10752
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from jaxinv.models.layers.basic import LayerFactory, Placeholder, gelu
from jaxinv.models.layers.flash import flash_attention, flash_takes
from jaxinv.models.layers.hook import Kind, LayerHook
from jaxinv.models.layers.remat import PRODUCT, Remat, rematerialized

Implementation = Literal["xla", "cudnn"] | None


def dot_product_attention(
    query: Float[Array, "q n d"],
    key: Float[Array, "k n d"],
    value: Float[Array, "k n d"],
    *,
    is_causal: bool = False,
    bias: Float[Array, "#n #q k"] | None = None,
    scale: float | None = None,
    upcast: bool = False,
    implementation: Implementation = None,
    hook: LayerHook | None = None,
) -> Float[Array, "q n d"]:
    """Compute dot-product attention with ``n`` heads of size ``d``.

    Args:
        query: One vector per head and query.
        key: One vector per head and key.
        value: One vector per head and key.
        is_causal: Whether query i sees only the keys up to i.
        bias: Added to the scaled products before the softmax; XLA computes it.
        scale: Factor of the products; ``1 / sqrt(d)`` if None.
        upcast: Whether to compute in float32 at least. Without it, the weights are
            rounded to the dtype of ``query`` after the softmax, which is in float32.
        implementation: ``"xla"``, ``"cudnn"``, or None for JAX's own choice (XLA, as of
            JAX 0.10). cuDNN handles 16 bits and certain head sizes
            (:func:`~jaxinv.models.layers.flash.flash_takes`); XLA computes the rest.
            cuDNN ignores ``upcast``: its logits and softmax are float32 anyway, and its
            inputs cannot be.
        hook: Sees and changes the inputs and the weights
            (:mod:`jaxinv.models.layers.hook`). Weights that it asks for are computed
            explicitly, by XLA.

    Returns:
        One vector per head and query, in the dtype of ``query``.
    """
    dtype = query.dtype
    if hook is not None:
        query, key, value = hook.inputs(query, key, value)
    explicit = dtype == jnp.float64 or (hook is not None and hook.sees_weights)
    if explicit and implementation == "cudnn":
        implementation = None
    if implementation == "cudnn":
        if bias is None and scale is None and flash_takes(query.shape[-1], dtype):
            return flash_attention(query, key, value, is_causal)
        implementation = "xla"
    if upcast:
        wide = jnp.promote_types(dtype, jnp.float32)
        query, key, value = (y.astype(wide) for y in (query, key, value))
    if not explicit:
        return jax.nn.dot_product_attention(
            query,
            key,
            value,
            bias=bias,
            scale=scale,
            is_causal=is_causal,
            implementation=implementation,
        ).astype(dtype)
    # JAX's implementation rounds the softmax to float32, also for float64 inputs.
    wide = jnp.promote_types(query.dtype, jnp.float32)
    logits = jnp.einsum("qnd,knd->nqk", query, key, preferred_element_type=wide)
    logits = logits / jnp.sqrt(query.shape[-1]) if scale is None else logits * scale
    if bias is not None:
        logits = logits + bias
    if is_causal:
        visible = jnp.tril(jnp.ones(logits.shape[-2:], bool))
        logits = jnp.where(visible, logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1)
    if hook is not None:
        weights = hook.weights(weights)
    weights = weights.astype(value.dtype)
    return jnp.einsum("nqk,knd->qnd", weights, value).astype(dtype)


class Attention(nnx.Module):
    """Multi-head attention of positions to each other or to a context.

    Args:
        features: Size of the vectors in and out.
        context_features: Size of the context vectors; ``features`` if None.
        heads: Number of heads; must divide ``features``.
        use_bias: Whether query, key and value projections have biases.
        upcast: Whether to compute the attention itself in float32.
        norm_groups: If given, the input is group-normalized and added to the output
            (the attention block of autoencoders and of models of pixels).
        epsilon: Added to the variance of that normalization.
        residual: Whether the input is added to the output; by default, if it is
            normalized.
        output_scale: Divisor of the output.
        kind: What the layer attends to.
        make: Layer factory.

    The attributes ``implementation`` and ``remat`` (for blocks with a residual) are set
    by :func:`jaxinv.models.with_options`, ``hook`` by :func:`jaxinv.models.with_hook`.
    """

    def __init__(
        self,
        features: int,
        *,
        context_features: int | None = None,
        heads: int,
        use_bias: bool = False,
        upcast: bool = False,
        norm_groups: int | None = None,
        epsilon: float = 1e-5,
        residual: bool | None = None,
        output_scale: float = 1.0,
        kind: Kind = "self",
        make: LayerFactory,
    ):
        if features % heads:
            raise ValueError(f"{features} features cannot be split into {heads} heads")
        context_features = features if context_features is None else context_features
        self.heads = heads
        self.upcast = upcast
        self.residual = norm_groups is not None if residual is None else residual
        self.output_scale = output_scale
        self.implementation: Implementation = None
        self.kind = kind
        self.hook: LayerHook | None = None
        self.remat: Remat = "none"
        self.group_norm = (
            None
            if norm_groups is None
            else make.group_norm(norm_groups, features, epsilon=epsilon)
        )
        self.to_q = make.linear(features, features, use_bias=use_bias)
        self.to_k = make.linear(context_features, features, use_bias=use_bias)
        self.to_v = make.linear(context_features, features, use_bias=use_bias)
        self.to_out = nnx.List([make.linear(features, features)])

    @rematerialized
    def __call__(
        self,
        x: Float[Array, "*space c"],
        context: Float[Array, "l d"] | None = None,
    ) -> Float[Array, "*space c"]:
        """Let every position of ``x`` attend to ``context``, or to all of ``x``."""
        given = x
        if self.group_norm is not None:
            x = self.group_norm(x)
        x = x.reshape(-1, x.shape[-1])
        context = x if context is None else context
        query, key, value = (
            y.reshape(y.shape[0], self.heads, -1)
            for y in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        y = self.attend(query, key, value)
        y = self.to_out[0](y.reshape(x.shape)).reshape(given.shape)
        y = y + given if self.residual else y
        return y if self.output_scale == 1 else y / self.output_scale

    def attend(
        self,
        query: Float[Array, "q n d"],
        key: Float[Array, "k n d"],
        value: Float[Array, "k n d"],
    ) -> Float[Array, "q n d"]:
        """Return the values of all heads, averaged with the attention's weights."""
        return dot_product_attention(
            query,
            key,
            value,
            upcast=self.upcast,
            implementation=self.implementation,
            hook=self.hook,
        )


class GEGLU(nnx.Module):
    """A gated linear unit with a GELU gate.

    References:
        Shazeer, "GLU Variants Improve Transformer", 2020.
        https://arxiv.org/abs/2002.05202
    """

    def __init__(self, in_features: int, out_features: int, *, make: LayerFactory):
        self.proj = make.linear(in_features, 2 * out_features)

    def __call__(self, x: Float[Array, "l c"]) -> Float[Array, "l c2"]:
        """Return value times GELU(gate)."""
        value, gate = jnp.split(self.proj(x), 2, axis=-1)
        return value * gelu(gate)


class FeedForward(nnx.Module):
    """Position-wise network of a transformer, four times wider inside."""

    def __init__(self, features: int, *, make: LayerFactory):
        self.net = nnx.List(
            [
                GEGLU(features, 4 * features, make=make),
                Placeholder(),
                make.linear(4 * features, features),
            ]
        )

    def __call__(self, x: Float[Array, "l c"]) -> Float[Array, "l c"]:
        """Apply the network to every position."""
        return self.net[2](self.net[0](x))


class BasicTransformerBlock(nnx.Module):
    """Self-attention, cross-attention and feed-forward, each on a normalized input.

    Args:
        features: Size of the vectors.
        heads: Number of heads of both attentions.
        context_features: Size of the context vectors.
        only_cross_attention: Whether the first attention also looks at the context.
        upcast_attention: Whether attention is computed in float32.
        make: Layer factory.
    """

    def __init__(
        self,
        features: int,
        *,
        heads: int,
        context_features: int,
        only_cross_attention: bool,
        upcast_attention: bool,
        make: LayerFactory,
    ):
        self.only_cross_attention = only_cross_attention
        self.norm1 = make.layer_norm(features)
        self.attn1 = Attention(
            features,
            context_features=context_features if only_cross_attention else None,
            heads=heads,
            upcast=upcast_attention,
            kind="cross" if only_cross_attention else "self",
            make=make,
        )
        self.norm2 = make.layer_norm(features)
        self.attn2 = Attention(
            features,
            context_features=context_features,
            heads=heads,
            upcast=upcast_attention,
            kind="cross",
            make=make,
        )
        self.norm3 = make.layer_norm(features)
        self.ff = FeedForward(features, make=make)

    def __call__(
        self, x: Float[Array, "l c"], context: Float[Array, "k d"]
    ) -> Float[Array, "l c"]:
        """Apply the three residual sublayers."""
        x = self.attend(x, context)
        return x + self.ff(self.norm3(x))

    def attend(
        self, x: Float[Array, "l c"], context: Float[Array, "k d"]
    ) -> Float[Array, "l c"]:
        """Apply both attentions."""
        first_context = context if self.only_cross_attention else None
        x = x + self.attn1(self.norm1(x), first_context)
        return x + self.attn2(self.norm2(x), context)


class Transformer2DModel(nnx.Module):
    """Transformer blocks over the positions of a feature map, with a residual.

    Args:
        channels: Channels of the feature map.
        heads: Number of attention heads.
        num_layers: Number of transformer blocks.
        context_features: Size of the context vectors.
        groups: Number of groups of the normalization.
        use_linear_projection: Whether the projections in and out are dense layers
            (SD 2) or 1x1 convolutions (SD 1): the same function, stored differently.
        only_cross_attention: See :class:`BasicTransformerBlock`.
        upcast_attention: See :class:`BasicTransformerBlock`.
        make: Layer factory.
    """

    block: type[BasicTransformerBlock] = BasicTransformerBlock

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        num_layers: int,
        context_features: int,
        groups: int,
        use_linear_projection: bool,
        only_cross_attention: bool = False,
        upcast_attention: bool = False,
        make: LayerFactory,
    ):
        def projection():
            if use_linear_projection:
                return make.linear(channels, channels)
            return make.conv(channels, channels, kernel=1)

        self.remat: Remat = "none"
        self.norm = make.group_norm(groups, channels, epsilon=1e-6)
        self.proj_in = projection()
        self.transformer_blocks = nnx.List(
            [
                self.block(
                    channels,
                    heads=heads,
                    context_features=context_features,
                    only_cross_attention=only_cross_attention,
                    upcast_attention=upcast_attention,
                    make=make,
                )
                for _ in range(num_layers)
            ]
        )
        self.proj_out = projection()

    @rematerialized
    def __call__(
        self, x: Float[Array, "h w c"], context: Float[Array, "k d"]
    ) -> Float[Array, "h w c"]:
        """Mix positions with each other and with the context."""
        y = checkpoint_name(self.proj_in(self.norm(x)), PRODUCT)
        y = y.reshape(-1, x.shape[-1])
        for block in self.transformer_blocks:
            y = block(y, context)
        return self.proj_out(y.reshape(x.shape)) + x
