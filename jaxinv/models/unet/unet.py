"""The text-conditional UNet of Stable Diffusion 1, 2 and XL, for one sample.

    time  = embedding of the timestep and of added conditions (unet.time)
    x     = conv_in(sample)
    down:   residual (+ attention) blocks, downsampling; every state is a skip
    mid:    residual, attention, residual
    up:     residual (+ attention) blocks that each concatenate one skip, upsampling
    out   = conv_out(act(norm(x)))

Attributes have diffusers' names, so that weights map by rule (see ``weights_convert``).

References:
    Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models",
    2022. https://arxiv.org/abs/2112.10752
"""

from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from jaxinv.models.config import per_block
from jaxinv.models.layers.basic import (
    LayerFactory,
    Model,
    activation,
)
from jaxinv.models.unet.blocks import (
    BlockFactory,
    DownBlock,
    MidBlock,
    TransformerSpec,
    UpBlock,
)
from jaxinv.models.unet.condition import UNetCondition
from jaxinv.models.unet.config import UNet2DConditionConfig
from jaxinv.models.unet.time import added_embedding, time_embedding, time_vector


class UNet2DConditionModel(Model):
    """A UNet conditioned on a timestep and a sequence of text vectors.

    The module is a pytree: pass it as an argument to jitted or vmapped functions.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> config = UNet2DConditionConfig(
        ...     down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        ...     up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ...     block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        ...     cross_attention_dim=8, attention_head_dim=2)
        >>> make = lambda: UNet2DConditionModel(config, rngs=nnx.Rngs(0))
        >>> x, text = jnp.ones((8, 8, 4)), jnp.ones((5, 8))
        >>> jax.eval_shape(lambda: make()(x, 500.0, text)).shape  # nothing is computed
        (8, 8, 4)
    """

    # The parts that networks for videos make differently.
    factory: Any = BlockFactory
    down_block: Any = DownBlock
    mid: Any = MidBlock
    up_block: Any = UpBlock

    @property
    def image_config(self) -> UNet2DConditionConfig:
        """Settings of the network for one image."""
        return self.config

    def build(self, config: UNet2DConditionConfig, make: LayerFactory) -> None:
        """Make the layers."""
        channels = config.block_out_channels
        n = len(channels)
        act = activation(config.act_fn)
        self.activation = act

        self.conv_in = make.conv(
            config.in_channels, channels[0], kernel=config.conv_in_kernel
        )
        self.time_embedding = time_embedding(config, make)
        self.add_embedding = added_embedding(config, make)

        blocks = self.factory(
            make=make,
            time_features=config.time_features,
            groups=config.norm_num_groups,
            epsilon=config.norm_eps,
            activation=act,
            time_scale_shift=config.resnet_time_scale_shift,
            use_linear_projection=config.use_linear_projection,
            upcast_attention=bool(config.upcast_attention),
        )
        layers = per_block("layers_per_block", config.layers_per_block, n)
        down_specs, mid_spec, up_specs = _transformer_specs(config)

        self.down_blocks = nnx.List(
            [
                self.down_block(
                    channels[max(i - 1, 0)],
                    channels[i],
                    num_layers=layers[i],
                    transformer=down_specs[i],
                    downsample_padding=config.downsample_padding if i < n - 1 else None,
                    blocks=blocks,
                )
                for i in range(n)
            ]
        )
        self.mid_block = (
            None
            if config.mid_block_type is None
            else self.mid(
                channels[-1],
                transformer=mid_spec,
                output_scale=config.mid_block_scale_factor,
                blocks=blocks,
            )
        )
        self.up_blocks = nnx.List(
            [
                self.up_block(
                    channels[min(i + 1, n - 1)],
                    channels[i],
                    skip_channels=channels[max(i - 1, 0)],
                    num_layers=layers[i] + 1,
                    transformer=up_specs[n - 1 - i],
                    upsample=i > 0,
                    blocks=blocks,
                )
                for i in reversed(range(n))
            ]
        )
        self.conv_norm_out = make.group_norm(
            config.norm_num_groups, channels[0], epsilon=config.norm_eps
        )
        self.conv_out = make.conv(
            channels[0], config.out_channels, kernel=config.conv_out_kernel
        )

    def __call__(
        self,
        sample: Float[Array, "h w c"],
        timestep: Float[Array, ""] | float,
        condition: Float[Array, "l d"] | UNetCondition,
    ) -> Float[Array, "h w k"]:
        """Predict noise, velocity or data, depending on how the model was trained.

        Args:
            sample: One noisy latent. Any size works; models are trained on multiples of
                ``2 ** (blocks - 1)``.
            timestep: Model time, 0 to 999 for Stable Diffusion; may be fractional.
            condition: Text vectors, alone or with other inputs.

        Returns:
            The prediction, in the dtype of ``sample``.

        Raises:
            ValueError: If the condition lacks an input that the configuration asks for,
                has one that it does not, or one of another shape.
        """
        config = self.image_config
        if not isinstance(condition, UNetCondition):
            condition = UNetCondition(condition)
        time = time_vector(self, config, timestep, condition)
        context = condition.text.astype(self.dtype)
        x = sample.astype(self.dtype)
        if config.center_input_sample:
            x = 2 * x - 1

        x = self.conv_in(x)
        skips = [x]
        for down in self.down_blocks:
            x, states = down(x, time, context)
            skips += states
        if self.mid_block is not None:
            x = self.mid_block(x, time, context)
        for up in self.up_blocks:
            taken = len(up.resnets)
            skips, own = skips[:-taken], skips[-taken:]
            # Downsampling rounds odd sizes up: return to the size of the skip.
            size = skips[-1].shape[-3:-1] if skips else None
            x = up(x, time, context, own, size)
        return self.output(x).astype(sample.dtype)

    def output(self, x: Float[Array, "h w c"]) -> Float[Array, "h w k"]:
        """Return the prediction from the last state."""
        return self.conv_out(self.activation(self.conv_norm_out(x)))


def _transformer_specs(
    config: UNet2DConditionConfig,
) -> tuple[
    list[TransformerSpec | None], TransformerSpec | None, list[TransformerSpec | None]
]:
    """Return the attention settings of the down, mid and up blocks."""
    n = len(config.block_out_channels)
    heads = config.heads
    context = per_block("cross_attention_dim", config.cross_attention_dim, n)
    only_cross = per_block("only_cross_attention", config.only_cross_attention, n)
    down_depth = per_block(
        "transformer_layers_per_block", config.transformer_layers_per_block, n
    )
    up_depth = config.reverse_transformer_layers_per_block
    up_depth = down_depth[::-1] if up_depth is None else up_depth
    up_depth = per_block("reverse_transformer_layers_per_block", up_depth, n)

    down = [
        TransformerSpec(heads[i], down_depth[i], context[i], only_cross[i])
        if config.down_block_types[i] == "CrossAttnDownBlock2D"
        else None
        for i in range(n)
    ]
    up = [
        TransformerSpec(heads[-1 - i], up_depth[i], context[-1 - i], only_cross[-1 - i])
        if config.up_block_types[i] == "CrossAttnUpBlock2D"
        else None
        for i in range(n)
    ]
    mid = None
    if config.mid_block_type == "UNetMidBlock2DCrossAttn":
        # The mid block has one layer: it uses the first of the last block's values.
        depth = down_depth[-1]
        depth = depth[0] if isinstance(depth, tuple) else depth
        mid = TransformerSpec(heads[-1], depth, context[-1])
    return down, mid, up
