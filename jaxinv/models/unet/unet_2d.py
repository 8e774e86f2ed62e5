"""The UNet of pixel-space diffusion, for one sample.

    time  = MLP(features(timestep)) + embedding(condition)
    x     = conv_in(sample)
    down:   residual (+ attention) blocks, downsampling; every state is a skip
    mid:    residual, attention, residual
    up:     residual (+ attention) blocks that each concatenate one skip, upsampling
    out   = conv_out(silu(norm(x)))

Attention is among the positions alone. Attributes have diffusers' names, so that
weights map by rule (see ``weights_convert``).

References:
    Ho et al., "Denoising Diffusion Probabilistic Models", 2020.
    https://arxiv.org/abs/2006.11239
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxinv.models.layers.basic import (
    FourierFeatures,
    LayerFactory,
    Model,
    TimestepEmbedding,
    activation,
    sinusoidal_embedding,
)
from jaxinv.models.unet.blocks import (
    AttentionSpec,
    BlockFactory,
    DownBlock,
    MidBlock,
    Resampling,
    UpBlock,
)
from jaxinv.models.unet.config_2d import UNet2DConfig

#: Standard deviation of the frequencies of ``time_embedding_type="fourier"``.
_FOURIER_SCALE = 16.0


class UNet2DModel(Model):
    """A UNet conditioned on a timestep, and on a class label if it was trained so.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> config = UNet2DConfig(
        ...     down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        ...     up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        ...     block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)
        >>> make = lambda: UNet2DModel(config, rngs=nnx.Rngs(0))
        >>> x = jnp.ones((8, 8, 3))
        >>> jax.eval_shape(lambda: make()(x, 500.0)).shape  # nothing is computed
        (8, 8, 3)
    """

    def build(self, config: UNet2DConfig, make: LayerFactory) -> None:
        """Make the layers."""
        channels = config.block_out_channels
        time_features = config.time_embedding_dim or 4 * channels[0]
        self.conv_in = make.conv(config.in_channels, channels[0])
        self._build_embeddings(config, time_features, make)
        blocks = BlockFactory(
            make=make,
            time_features=time_features,
            groups=config.norm_num_groups,
            epsilon=config.norm_eps,
            activation=activation(config.act_fn),
            time_scale_shift=config.resnet_time_scale_shift,
        )
        self._build_blocks(config, blocks)
        self.conv_norm_out = make.group_norm(
            config.norm_num_groups, channels[0], epsilon=config.norm_eps
        )
        self.conv_out = make.conv(channels[0], config.out_channels)

    def _build_embeddings(
        self, config: UNet2DConfig, features: int, make: LayerFactory
    ) -> None:
        """Make the embeddings of the time and of the condition."""
        width = config.block_out_channels[0]
        features_of_time: nnx.Embed | FourierFeatures | None = None
        if config.time_embedding_type == "learned":
            assert config.num_train_timesteps is not None
            features_of_time = make.embedding(config.num_train_timesteps, width)
        elif config.time_embedding_type == "fourier":
            features_of_time = FourierFeatures(width, scale=_FOURIER_SCALE, make=make)
            width *= 2
        self.time_proj = features_of_time

        def embedding() -> TimestepEmbedding:
            return TimestepEmbedding(width, features, activation=jax.nn.silu, make=make)

        self.time_embedding = embedding()
        of_class: TimestepEmbedding | nnx.Embed | None = None
        if config.class_embed_type == "timestep":
            of_class = embedding()
        elif config.class_embed_type is None and config.num_class_embeds is not None:
            of_class = make.embedding(config.num_class_embeds, features)
        self.class_embedding = of_class

    def _build_blocks(self, config: UNet2DConfig, blocks: BlockFactory) -> None:
        """Make the down, mid and up blocks."""
        channels = config.block_out_channels
        n = len(channels)
        self.down_blocks = nnx.List(
            [
                DownBlock(
                    channels[max(i - 1, 0)],
                    channels[i],
                    num_layers=config.layers_per_block,
                    transformer=_attention(config, kind, channels[i]),
                    downsample_padding=config.downsample_padding if i < n - 1 else None,
                    resampling=_resampling(kind, config.downsample_type),
                    blocks=blocks,
                )
                for i, kind in enumerate(config.down_block_types)
            ]
        )
        self.mid_block = (
            None
            if config.mid_block_type is None
            else MidBlock(
                channels[-1],
                transformer=_mid_attention(config),
                num_layers=1,
                output_scale=config.mid_block_scale_factor,
                blocks=blocks,
            )
        )
        self.up_blocks = nnx.List(
            [
                UpBlock(
                    channels[min(i + 1, n - 1)],
                    channels[i],
                    skip_channels=channels[max(i - 1, 0)],
                    num_layers=config.layers_per_block + 1,
                    transformer=_attention(config, kind, channels[i]),
                    upsample=i > 0,
                    resampling=_resampling(kind, config.upsample_type),
                    blocks=blocks,
                )
                for i, kind in zip(
                    reversed(range(n)), config.up_block_types, strict=True
                )
            ]
        )

    def __call__(
        self,
        sample: Float[Array, "h w c"],
        timestep: Float[Array, ""] | float,
        condition: Int[Array, ""] | Float[Array, "..."] | None = None,
    ) -> Float[Array, "h w k"]:
        """Predict noise, velocity or data, depending on how the model was trained.

        Args:
            sample: One noisy image. Any size works; models are trained on multiples of
                ``2 ** (blocks - 1)``.
            timestep: Model time; may be fractional. The noise level for
                ``time_embedding_type="fourier"``; a table ("learned") is interpolated.
            condition: Class label, or what ``class_embed_type`` says; None for an
                unconditional model.

        Returns:
            The prediction, in the dtype of ``sample``.

        Raises:
            ValueError: If there is no condition and the model has one, or the reverse.
        """
        time = self.embed(timestep, condition)
        x = sample.astype(self.dtype)
        if self.config.center_input_sample:
            x = 2 * x - 1
        x = self.conv_in(x)
        skips = [x]
        for down in self.down_blocks:
            x, states = down(x, time, None)
            skips += states
        if self.mid_block is not None:
            x = self.mid_block(x, time, None)
        for up in self.up_blocks:
            taken = len(up.resnets)
            skips, own = skips[:-taken], skips[-taken:]
            # Downsampling rounds odd sizes: return to the size of the skip.
            size = (skips[-1].shape[0], skips[-1].shape[1]) if skips else None
            x = up(x, time, None, own, size)
        x = self.conv_out(jax.nn.silu(self.conv_norm_out(x)))
        if self.config.time_embedding_type == "fourier":
            x = x / jnp.asarray(timestep, x.dtype)
        return x.astype(sample.dtype)

    def embed(
        self,
        timestep: Float[Array, ""] | float,
        condition: Int[Array, ""] | Float[Array, "..."] | None,
    ) -> Float[Array, " d"]:
        """Return the embedding of the time and the condition."""
        config = self.config
        if config.is_conditional != (condition is not None):
            needs = "a class label" if config.is_conditional else "no condition"
            raise ValueError(f"this UNet2DModel takes {needs}")
        time = self.time_embedding(self._features(timestep).astype(self.dtype))
        if condition is None:
            return time
        if config.class_embed_type == "timestep":
            condition = self._features(condition).astype(self.dtype)
        if self.class_embedding is not None:
            condition = self.class_embedding(jnp.asarray(condition))
        return time + jnp.asarray(condition, self.dtype)

    def _features(self, timestep: Float[Array, ""] | float) -> Float[Array, " n"]:
        """Return the features of a time that are embedded."""
        config, table = self.config, self.time_proj
        if isinstance(table, FourierFeatures):
            return table(timestep)
        if isinstance(table, nnx.Embed):
            timestep = jnp.asarray(timestep, float)
            low = jnp.clip(jnp.floor(timestep), 0, table.num_embeddings - 1)
            high = jnp.minimum(low + 1, table.num_embeddings - 1)
            first, second = (table(i.astype(int)) for i in (low, high))
            return first + (timestep - low).astype(first.dtype) * (second - first)
        return sinusoidal_embedding(
            timestep,
            config.block_out_channels[0],
            flip_sin_to_cos=config.flip_sin_to_cos,
            freq_shift=config.freq_shift,
        )


def _attention(config: UNet2DConfig, kind: str, channels: int) -> AttentionSpec | None:
    """Return the attention settings of a down or up block."""
    if not kind.startswith("Attn"):
        return None
    return AttentionSpec(config.heads(channels), config.norm_num_groups)


def _mid_attention(config: UNet2DConfig) -> AttentionSpec | None:
    """Return the attention settings of the mid block."""
    if not config.add_attention:
        return None
    groups = config.attn_norm_num_groups
    if groups is None and config.resnet_time_scale_shift == "default":
        groups = config.norm_num_groups
    heads = config.heads(config.block_out_channels[-1])
    return AttentionSpec(heads, groups, config.mid_block_scale_factor)


def _resampling(kind: str, with_attention: Resampling) -> Resampling:
    """Return how a block resamples: the option is one of blocks with attention."""
    if kind.startswith("Attn"):
        return with_attention
    return "resnet" if kind.startswith("Resnet") else "conv"
