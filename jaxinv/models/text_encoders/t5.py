r"""T5's encoders, for one prompt.

A block is attention and a position-wise network, each residual on an input divided by
its root mean square. Positions enter through a learned number per head and *bucket* of
the relative position j - i, added to the products ``q_i . k_j``, which are not scaled.
With n buckets, n / 2 belong to each sign; half of these hold one distance each, and the
rest grow geometrically up to a largest distance. All blocks of T5 share one table of
these numbers; in UMT5 every block has its own.

In the published tensors T5's table belongs to the first block. Here it belongs to the
encoder, so that all blocks are alike.

Logits, softmax, and the sums of residuals are computed in float32 for every compute
dtype, because sums of T5-XXL exceed float16. The last layer of the position-wise
network computes in float32 where the model computes in float16, as in transformers.

References:
    Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified
    Text-to-Text Transformer", arXiv:1910.10683, Section 2.1.
    Shazeer 2020, "GLU Variants Improve Transformer", arXiv:2002.05202 (T5 1.1).
    Chung et al. 2023, "UniMax", arXiv:2304.09151 (UMT5).
"""

import math

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxinv.models.layers.attention import Implementation, dot_product_attention
from jaxinv.models.layers.basic import LayerFactory, Model, gelu_tanh
from jaxinv.models.layers.remat import Remat, rematerialized
from jaxinv.models.layers.stack import Stack
from jaxinv.models.text_encoders.t5_config import T5Config


class T5Attention(nnx.Module):
    """Multi-head self-attention whose products are not scaled.

    Args:
        config: Shape of the model.
        own_bias: Whether there is a table of numbers per bucket.
        make: Layer factory.
    """

    def __init__(self, config: T5Config, own_bias: bool, make: LayerFactory):
        d, inner = config.d_model, config.num_heads * config.d_kv
        self.heads = config.num_heads
        self.implementation: Implementation = None
        self.q = make.linear(d, inner, use_bias=False)
        self.k = make.linear(d, inner, use_bias=False)
        self.v = make.linear(d, inner, use_bias=False)
        self.o = make.linear(inner, d, use_bias=False)
        self.relative_attention_bias = _bias_table(config, make) if own_bias else None

    def __call__(
        self,
        x: Float[Array, "l d"],
        bias: Float[Array, "#n #l l"],
        buckets: Int[Array, "l l"],
    ) -> Float[Array, "l d"]:
        """Apply attention of every token to all tokens."""
        query, key, value = (
            projection(x).reshape(x.shape[0], self.heads, -1)
            for projection in (self.q, self.k, self.v)
        )
        if self.relative_attention_bias is not None:
            bias = bias + _looked_up(self.relative_attention_bias, buckets)
        y = dot_product_attention(
            query,
            key,
            value,
            bias=bias,
            scale=1.0,
            implementation=self.implementation,
        )
        return self.o(y.reshape(x.shape[0], -1))


class T5LayerSelfAttention(nnx.Module):
    """Attention, residual on a normalized input."""

    def __init__(self, config: T5Config, own_bias: bool, make: LayerFactory):
        self.SelfAttention = T5Attention(config, own_bias, make)
        self.layer_norm = _norm(config, make)

    def __call__(
        self,
        x: Float[Array, "l d"],
        bias: Float[Array, "#n #l l"],
        buckets: Int[Array, "l l"],
    ) -> Float[Array, "l d"]:
        """Apply the layer."""
        y = self.SelfAttention(self.layer_norm(x), bias, buckets)
        return x + y.astype(x.dtype)


class T5Dense(nnx.Module):
    """The position-wise network: ``wo(gelu(wi_0 x) * wi_1 x)``, or ``wo(relu(wi x))``.

    Attributes have the names of transformers' ``T5DenseGatedActDense`` and
    ``T5DenseActDense``.
    """

    def __init__(self, config: T5Config, make: LayerFactory):
        d, inner = config.d_model, config.d_ff
        self.gated = config.feed_forward_proj == "gated-gelu"
        if self.gated:
            self.wi_0 = make.linear(d, inner, use_bias=False)
            self.wi_1 = make.linear(d, inner, use_bias=False)
        else:
            self.wi = make.linear(d, inner, use_bias=False)
        wide = make
        if make.dtype == jnp.float16:
            wide = make._replace(dtype=jnp.dtype(jnp.float32))
        self.wo = wide.linear(inner, d, use_bias=False)

    def __call__(self, x: Float[Array, "l d"]) -> Float[Array, "l d"]:
        """Apply the network to every token."""
        if self.gated:
            return self.wo(gelu_tanh(self.wi_0(x)) * self.wi_1(x))
        return self.wo(nnx.relu(self.wi(x)))


class T5LayerFF(nnx.Module):
    """The position-wise network, residual on a normalized input."""

    def __init__(self, config: T5Config, make: LayerFactory):
        self.DenseReluDense = T5Dense(config, make)
        self.layer_norm = _norm(config, make)

    def __call__(self, x: Float[Array, "l d"]) -> Float[Array, "l d"]:
        """Apply the layer."""
        return x + self.DenseReluDense(self.layer_norm(x)).astype(x.dtype)


class T5Block(nnx.Module):
    """Attention and the position-wise network."""

    def __init__(self, config: T5Config, own_bias: bool, make: LayerFactory):
        self.remat: Remat = "none"
        self.layer = nnx.List(
            [T5LayerSelfAttention(config, own_bias, make), T5LayerFF(config, make)]
        )

    @rematerialized
    def __call__(
        self,
        x: Float[Array, "l d"],
        bias: Float[Array, "#n #l l"],
        buckets: Int[Array, "l l"],
    ) -> Float[Array, "l d"]:
        """Apply the block."""
        return self.layer[1](self.layer[0](x, bias, buckets))


class T5Stack(nnx.Module):
    """The blocks and what surrounds them.

    Args:
        config: Shape of the model.
        own_bias: Whether every block has its own table of numbers per bucket.
        make: Layer factory.
    """

    def __init__(self, config: T5Config, own_bias: bool, make: LayerFactory):
        self.heads = config.num_heads
        self.relative_attention_bias = None if own_bias else _bias_table(config, make)
        self.block = Stack(
            [own_bias] * config.num_layers,
            lambda own, make: T5Block(config, own, make),
            make,
        )
        self.final_layer_norm = _norm(config, make)

    def __call__(
        self,
        x: Float[Array, "l d"],
        attention_mask: Bool[Array, " l"] | None,
        buckets: Int[Array, "l l"],
    ) -> Float[Array, "l d"]:
        """Apply all blocks and the last normalization."""
        wide = jnp.promote_types(x.dtype, jnp.float32)
        bias = jnp.zeros((1, 1, len(x)), wide)
        if attention_mask is not None:
            bias = jnp.where(attention_mask, bias, jnp.finfo(wide).min / 2)
        if self.relative_attention_bias is not None:
            bias = bias + _looked_up(self.relative_attention_bias, buckets)
        return self.final_layer_norm(self.block(x.astype(wide), bias, buckets))


class T5EncoderModel(Model):
    """T5's encoder, whose blocks share one table of relative positions."""

    own_bias = False

    def build(self, config: T5Config, make: LayerFactory) -> None:
        """Make the layers."""
        self.shared = make.embedding(config.vocab_size, config.d_model)
        self.encoder = T5Stack(config, self.own_bias, make)

    def __call__(
        self,
        input_ids: Int[Array, " l"],
        attention_mask: Bool[Array, " l"] | None = None,
    ) -> Float[Array, "l d"]:
        """Encode one prompt.

        Args:
            input_ids: Token ids of any number.
            attention_mask: The tokens that others attend to, usually those that do not
                pad; None for all. At least one must be true.

        Returns:
            The last layer after its normalization, in the compute dtype. Vectors of
            tokens outside of the mask are computed, too.
        """
        config: T5Config = self.config
        buckets = relative_position_buckets(
            len(input_ids),
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
        )
        mask = None if attention_mask is None else attention_mask.astype(bool)
        return self.encoder(self.shared(input_ids), mask, jnp.asarray(buckets))


class UMT5EncoderModel(T5EncoderModel):
    """UMT5's encoder, each of whose blocks has a table of relative positions."""

    own_bias = True


def relative_position_buckets(
    length: int, num_buckets: int, max_distance: int
) -> Int[np.ndarray, "l l"]:
    """Return the bucket of every pair of positions.

    A distance r = abs(j - i) below e = ``num_buckets / 4`` has its own bucket. From
    there on, bucket ``e + floor(e log(r / e) / log(max_distance / e))`` counts, up to
    ``2 e - 1``. Buckets of j > i are ``2 e`` higher.

    Args:
        length: Number of positions.
        num_buckets: Number of buckets, a multiple of 4.
        max_distance: Distance from which on the last bucket counts.

    Returns:
        The bucket of query i and key j, int32.
    """
    positions = np.arange(length)
    relative = positions[None, :] - positions[:, None]
    distance, exact = np.abs(relative), num_buckets // 4
    # In float32, as trained: the logarithm of an exact power can round below it.
    ratio = np.maximum(distance, 1).astype(np.float32) / np.float32(exact)
    scaled = np.log(ratio) / np.float32(math.log(max_distance / exact))
    far = exact + (scaled * np.float32(exact)).astype(np.int32)
    far = np.minimum(far, 2 * exact - 1)
    buckets = np.where(distance < exact, distance, far) + 2 * exact * (relative > 0)
    return buckets.astype(np.int32)


def _bias_table(config: T5Config, make: LayerFactory) -> nnx.Embed:
    return make.embedding(config.relative_attention_num_buckets, config.num_heads)


def _looked_up(table: nnx.Embed, buckets: Int[Array, "l l"]) -> Float[Array, "n l l"]:
    """Return the numbers of all pairs of positions, at least in float32."""
    values = table.embedding[...]
    wide = jnp.promote_types(values.dtype, jnp.float32)
    return jnp.moveaxis(values.astype(wide)[buckets], -1, 0)


def _norm(config: T5Config, make: LayerFactory) -> nnx.RMSNorm:
    return make.rms_norm(config.d_model, epsilon=config.layer_norm_epsilon)
