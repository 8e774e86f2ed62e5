"""The first half of a conditional UNet: everything before the up blocks.

    time = embedding of the timestep and of added conditions (unet.time)
    x    = conv_in(sample)
    down:  residual (+ attention) blocks, downsampling; every state is a skip
    mid:   residual, attention, residual

A UNet adds up blocks to it, and a ControlNet one convolution for each of its states.
"""

from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from jaxinv.models.config import per_block
from jaxinv.models.layers.basic import LayerFactory, Model, activation
from jaxinv.models.unet.blocks import (
    BlockFactory,
    DownBlock,
    MidBlock,
    TransformerSpec,
)
from jaxinv.models.unet.config import UNet2DConditionConfig
from jaxinv.models.unet.time import added_embedding, time_embedding


class UNetEncoder(Model):
    """Base of models with the first half of a conditional UNet."""

    # The parts that networks for videos make differently.
    factory: Any = BlockFactory
    down_block: Any = DownBlock
    mid: Any = MidBlock

    @property
    def image_config(self) -> UNet2DConditionConfig:
        """Settings of the network for one image."""
        return self.config

    def build(self, config: UNet2DConditionConfig, make: LayerFactory) -> None:
        """Make the layers."""
        channels = config.block_out_channels
        n = len(channels)
        self.conv_in = make.conv(
            config.in_channels, channels[0], kernel=config.conv_in_kernel
        )
        self.time_embedding = time_embedding(config, make)
        self.add_embedding = added_embedding(config, make)
        blocks = self.blocks(config, make)
        layers = per_block("layers_per_block", config.layers_per_block, n)
        specs, mid_spec = _transformer_specs(config)
        self.down_blocks = nnx.List(
            [
                self.down_block(
                    channels[max(i - 1, 0)],
                    channels[i],
                    num_layers=layers[i],
                    transformer=specs[i],
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

    def blocks(self, config: UNet2DConditionConfig, make: LayerFactory) -> Any:
        """Return the factory of the blocks."""
        return self.factory(
            make=make,
            time_features=config.time_features,
            groups=config.norm_num_groups,
            epsilon=config.norm_eps,
            activation=activation(config.act_fn),
            time_scale_shift=config.resnet_time_scale_shift,
            use_linear_projection=config.use_linear_projection,
            upcast_attention=bool(config.upcast_attention),
        )

    def states(
        self,
        x: Float[Array, "h w c"],
        time: Float[Array, " d"],
        context: Float[Array, "l e"],
    ) -> list[Float[Array, "..."]]:
        """Return the states that the up blocks use.

        Args:
            x: The state after the first convolution.
            time: The time vector.
            context: Text vectors, in the compute dtype.

        Returns:
            The skips in their order, ``x`` being the first one, followed by the state
            after the mid block.
        """
        found = [x]
        for down in self.down_blocks:
            x, skips = down(x, time, context)
            found += skips
        if self.mid_block is not None:
            x = self.mid_block(x, time, context)
        return [*found, x]


def _transformer_specs(
    config: UNet2DConditionConfig,
) -> tuple[list[TransformerSpec | None], TransformerSpec | None]:
    """Return the attention settings of the down blocks and of the mid block."""
    n = len(config.block_out_channels)
    heads = config.heads
    context = per_block("cross_attention_dim", config.cross_attention_dim, n)
    only_cross = per_block("only_cross_attention", config.only_cross_attention, n)
    depths = per_block(
        "transformer_layers_per_block", config.transformer_layers_per_block, n
    )
    down = [
        TransformerSpec(heads[i], depths[i], context[i], only_cross[i])
        if config.down_block_types[i] == "CrossAttnDownBlock2D"
        else None
        for i in range(n)
    ]
    if config.mid_block_type != "UNetMidBlock2DCrossAttn":
        return down, None
    # The mid block has one layer: it uses the first of the last block's values.
    depth = depths[-1][0] if isinstance(depths[-1], tuple) else depths[-1]
    return down, TransformerSpec(heads[-1], depth, context[-1])
