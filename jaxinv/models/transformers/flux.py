r"""The transformer of FLUX.1, for one sample.

    x    = linear(tokens(sample))                 a token is 2x2 pixels of the latent
    text = linear(text vectors)
    c    = MLP(waves(timestep)) + MLP(waves(1000 guidance)) + MLP(pooled text vector)
    x, text = block(x, text; c)                   two streams, as in Stable Diffusion 3
    y    = block([text, x]; c)                    one stream
    out  = untokens(linear(norm(x; c)))           x: the image's part of y

A block of one stream attends and applies its position-wise network side by side:

    y <- y + gate(c) linear([attention(n), gelu(linear(n))]),    n = norm(y; c)

The MLP of the guidance belongs to FLUX.1 [dev], which was distilled with the guidance
scale as an input. Positions enter through rotations of queries and keys: the image's
tokens are at (0, row, column), and all of the text's are at the origin. The network
makes the positions from the size of the latent.

Attributes have diffusers' names, so that weights map by rule (see ``weights_convert``).

References:
    Black Forest Labs, "FLUX.1", 2024. https://github.com/black-forest-labs/flux
    Dehghani et al., "Scaling Vision Transformers to 22 Billion Parameters", 2023,
    Section 2 (parallel layers). https://arxiv.org/abs/2302.05442
    diffusers 0.42, ``models/transformers/transformer_flux.py``.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxinv.models.layers.basic import LayerFactory, Model, gelu_tanh
from jaxinv.models.layers.remat import Remat, rematerialized
from jaxinv.models.layers.rotary import Rotary, grid_rotary, unrotated
from jaxinv.models.layers.stack import Stack
from jaxinv.models.transformers.blocks import (
    AdaLayerNormContinuous,
    AdaLayerNormZero,
    JointAttention,
    JointTransformerBlock,
)
from jaxinv.models.transformers.embeddings import (
    TimeTextEmbedding,
    joined_patches,
    patches,
)
from jaxinv.models.transformers.flux_config import PATCH, FluxTransformer2DConfig
from jaxinv.models.transformers.inputs import check_condition

# Guidance scales are embedded as multiples of 1/1000, as times are.
_GUIDANCE_UNITS = 1000.0
# Width of a block's position-wise network, in widths of a token.
_MLP_RATIO = 4


class FluxCondition(NamedTuple):
    """The inputs of a :class:`~jaxinv.models.FluxTransformer2DModel` for one sample.

    Attributes:
        text: Text vectors of T5, (l, d).
        pooled: Vector of the whole text from CLIP, (p,).
        guidance: Guidance scale, (), of models with ``guidance_embeds`` (dev).
    """

    text: Float[Array, "l d"]
    pooled: Float[Array, " p"]
    guidance: Float[Array, ""] | None = None


class FluxTransformer2DModel(Model):
    """A transformer of text and latent tokens, which predicts a flow's velocity.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> config = FluxTransformer2DConfig(
        ...     in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=8,
        ...     num_attention_heads=2, joint_attention_dim=6, pooled_projection_dim=5,
        ...     axes_dims_rope=(2, 2, 4))
        >>> make = lambda: FluxTransformer2DModel(config, rngs=nnx.Rngs(0))
        >>> condition = FluxCondition(jnp.ones((3, 6)), jnp.ones(5))
        >>> x = jnp.ones((8, 12, 4))
        >>> jax.eval_shape(lambda: make()(x, 500.0, condition)).shape  # no computation
        (8, 12, 4)
    """

    def build(self, config: FluxTransformer2DConfig, make: LayerFactory) -> None:
        """Make the layers."""
        features, heads = config.features, config.num_attention_heads
        self.time_text_embed = TimeTextEmbedding(
            features,
            pooled_features=config.pooled_projection_dim,
            guidance=config.guidance_embeds,
            make=make,
        )
        self.context_embedder = make.linear(config.joint_attention_dim, features)
        self.x_embedder = make.linear(config.in_channels, features)

        def double(_: str, make: LayerFactory) -> JointTransformerBlock:
            return JointTransformerBlock(features, heads=heads, make=make)

        def single(_: str, make: LayerFactory) -> FluxSingleTransformerBlock:
            return FluxSingleTransformerBlock(features, heads=heads, make=make)

        self.transformer_blocks = Stack(["double"] * config.num_layers, double, make)
        self.single_transformer_blocks = Stack(
            ["single"] * config.num_single_layers, single, make
        )
        self.norm_out = AdaLayerNormContinuous(features, make=make)
        _, channels = config.latent_channels
        self.proj_out = make.linear(features, PATCH**2 * channels)

    def __call__(
        self,
        sample: Float[Array, "h w c"],
        timestep: Float[Array, ""] | float,
        condition: FluxCondition,
    ) -> Float[Array, "h w k"]:
        """Predict the velocity, noise less data.

        Args:
            sample: One noisy latent of even height and width.
            timestep: 1000 times the flow's time.
            condition: Text vectors and, for models that take it, the guidance scale.

        Returns:
            The prediction, in the dtype of ``sample``.

        Raises:
            ValueError: If the latent or the condition has another shape, or if the
                condition lacks the guidance scale or has one that the model does not
                take.
        """
        config = self.config
        config.check_latent(sample.shape)
        _check_condition(config, condition)
        rows, columns, _ = (n // PATCH for n in sample.shape)
        guidance = condition.guidance
        if guidance is not None:
            guidance = _GUIDANCE_UNITS * jnp.asarray(guidance)
        time = self.time_text_embed(
            timestep, condition.pooled.astype(self.dtype), guidance
        )
        text = self.context_embedder(condition.text.astype(self.dtype))
        x = self.x_embedder(tokens(sample.astype(self.dtype)))
        length = text.shape[0]
        grid = grid_rotary((1, rows, columns), config.axes_dims_rope)
        rotary = unrotated(length, grid)
        x, text = self.transformer_blocks((x, text), time, rotary)
        both = jnp.concatenate([text, x])
        both = self.single_transformer_blocks(both, time, rotary, text_length=length)
        x = self.proj_out(self.norm_out(both[length:], time))
        return untokens(x, rows, columns).astype(sample.dtype)


class FluxSingleTransformerBlock(nnx.Module):
    """Attention and a position-wise network side by side, for one sequence.

    Args:
        features: Size of the tokens and of the time's vector.
        heads: Number of heads.
        make: Layer factory.
    """

    def __init__(self, features: int, *, heads: int, make: LayerFactory):
        self.remat: Remat = "none"
        inner = _MLP_RATIO * features
        self.norm = AdaLayerNormZero(features, parts=3, make=make)
        self.proj_mlp = make.linear(features, inner)
        self.proj_out = make.linear(features + inner, features)
        self.attn = JointAttention(features, heads=heads, output=False, make=make)
        self.attn.kind = "joint"  # its sequence is the text's and the image's

    @rematerialized
    def __call__(
        self,
        x: Float[Array, "l d"],
        time: Float[Array, " d"],
        rotary: Rotary,
        *,
        text_length: int = 0,
    ) -> Float[Array, "l d"]:
        """Return the tokens of text and image after the block."""
        y, (gate,) = self.norm(x, time)
        attended, _ = self.attn(y, rotary=rotary, text_length=text_length)
        inner = gelu_tanh(self.proj_mlp(y))
        return x + gate * self.proj_out(jnp.concatenate([attended, inner], axis=-1))


def tokens(x: Float[Array, "h w c"]) -> Float[Array, "l n"]:
    """Return one vector per 2x2 pixels of a latent, channels outermost."""
    cut = jnp.moveaxis(patches(x, PATCH), -1, 2)
    return cut.reshape(cut.shape[0] * cut.shape[1], -1)


def untokens(x: Float[Array, "l n"], rows: int, columns: int) -> Float[Array, "h w c"]:
    """Undo :func:`tokens` for a number of rows and columns of tokens."""
    cut = x.reshape(rows, columns, -1, PATCH, PATCH)
    return joined_patches(jnp.moveaxis(cut, 2, -1))


def _check_condition(config: FluxTransformer2DConfig, condition: FluxCondition) -> None:
    """Raise ValueError unless a condition has exactly the inputs of a configuration."""
    guidance: dict[str, tuple[()]] = {"guidance": ()} if config.guidance_embeds else {}
    check_condition(
        condition,
        FluxCondition,
        text=("l", config.joint_attention_dim),
        pooled=(config.pooled_projection_dim,),
        **guidance,
    )
    if not guidance and condition.guidance is not None:
        raise ValueError(
            "the condition has guidance, for which this model has no input "
            "(guidance_embeds is false)"
        )
