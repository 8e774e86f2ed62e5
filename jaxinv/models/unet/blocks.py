"""The down, mid and up blocks of UNets.

One class serves a block with and without attention: ``attentions`` is empty where
diffusers' ``DownBlock2D``, ``UNetMidBlock2D`` and ``UpBlock2D`` have none. Attention is
a spatial transformer that looks at a context (text), or an attention block of the
positions alone, whose context is None.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxinv.models.config import per_block
from jaxinv.models.layers.attention import Attention, Transformer2DModel
from jaxinv.models.layers.basic import Downsample2D, LayerFactory, Upsample2D
from jaxinv.models.layers.resnet import ResnetBlock2D

#: How a block changes the size: by a convolution or by a residual block.
Resampling = Literal["conv", "resnet"]


class BlockFactory(NamedTuple):
    """Factory of the residual blocks and spatial transformers of one UNet.

    Attributes:
        make: Layer factory.
        time_features: Size of the time embedding.
        groups: Groups of the normalizations.
        epsilon: Added to the variances of the residual blocks.
        activation: Non-linearity of the residual blocks.
        time_scale_shift: How the time embedding enters.
        use_linear_projection: Kind of the transformers' projections.
        upcast_attention: Whether attention is computed in float32.
    """

    make: LayerFactory
    time_features: int
    groups: int
    epsilon: float
    activation: Callable[[Array], Array]
    time_scale_shift: str
    use_linear_projection: bool = False
    upcast_attention: bool = False

    def resnet(
        self,
        in_channels: int,
        out_channels: int,
        output_scale: float = 1.0,
        resample: Literal["down", "up"] | None = None,
    ) -> ResnetBlock2D:
        """Return a residual block that is conditioned on time."""
        return ResnetBlock2D(
            in_channels,
            out_channels,
            time_features=self.time_features,
            groups=self.groups,
            epsilon=self.epsilon,
            activation=self.activation,
            time_scale_shift=self.time_scale_shift,
            output_scale=output_scale,
            resample=resample,
            make=self.make,
        )

    def transformer_class(self) -> type[Transformer2DModel]:
        """Return the class of the transformers."""
        return Transformer2DModel

    def transformers(
        self, channels: int, spec: "TransformerSpec | AttentionSpec | None", number: int
    ) -> nnx.List[Transformer2DModel | Attention]:
        """Return the attention after each of ``number`` residual blocks, if any."""
        if spec is None:
            return nnx.List([])
        if isinstance(spec, AttentionSpec):
            return nnx.List([self.attention(channels, spec) for _ in range(number)])
        depths = per_block("transformer_layers_per_block", spec.num_layers, number)
        return nnx.List(
            [
                self.transformer_class()(
                    channels,
                    heads=spec.heads,
                    num_layers=depth,
                    context_features=spec.context_features,
                    groups=self.groups,
                    use_linear_projection=self.use_linear_projection,
                    only_cross_attention=spec.only_cross_attention,
                    upcast_attention=self.upcast_attention,
                    make=self.make,
                )
                for depth in depths
            ]
        )

    def attention(self, channels: int, spec: "AttentionSpec") -> Attention:
        """Return an attention block of the positions, without a context."""
        return Attention(
            channels,
            heads=spec.heads,
            use_bias=True,
            norm_groups=spec.norm_groups,
            epsilon=self.epsilon,
            residual=True,
            output_scale=spec.output_scale,
            make=self.make,
        )


class AttentionSpec(NamedTuple):
    """Settings of attention blocks without a context that differ between blocks.

    Attributes:
        heads: Number of attention heads.
        norm_groups: Groups of the normalization of the input, or None for none.
        output_scale: Divisor of the outputs.
    """

    heads: int
    norm_groups: int | None
    output_scale: float = 1.0


class TransformerSpec(NamedTuple):
    """Settings of spatial transformers that differ between blocks.

    Attributes:
        heads: Number of attention heads.
        num_layers: Number of transformer blocks, for all layers or for each.
        context_features: Size of the text vectors.
        only_cross_attention: Whether self-attention looks at the text.
    """

    heads: int
    num_layers: int | tuple[int, ...]
    context_features: int
    only_cross_attention: bool = False


class Block(nnx.Module):
    """Base of down and up blocks: residual blocks, each with optional attention."""

    resnets: nnx.List[ResnetBlock2D]
    attentions: Any  # an nnx.List of Transformer2DModel or of Attention

    def layer(
        self,
        i: int,
        x: Float[Array, "h w c"],
        time: Float[Array, " d"],
        context: Float[Array, "l e"] | None,
    ) -> Float[Array, "h w c2"]:
        """Apply residual block ``i`` and the attention that follows it."""
        x = self.resnets[i](x, time)
        return self.attentions[i](x, context) if self.attentions else x


class DownBlock(Block):
    """Residual blocks, each with optional attention, followed by downsampling.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        num_layers: Number of residual blocks.
        transformer: Settings of the transformers, or None for no attention.
        downsample_padding: Padding of the downsampling, or None for no downsampling.
        resampling: Kind of the downsampling; only a convolution has a padding.
        blocks: Block factory.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_layers: int,
        transformer: TransformerSpec | AttentionSpec | None,
        downsample_padding: int | None,
        resampling: Resampling = "conv",
        blocks: BlockFactory,
    ):
        self.resnets = nnx.List(
            [
                blocks.resnet(in_channels if i == 0 else out_channels, out_channels)
                for i in range(num_layers)
            ]
        )
        self.attentions = blocks.transformers(out_channels, transformer, num_layers)
        layers: list[Downsample2D | ResnetBlock2D] = []
        if downsample_padding is not None and resampling == "resnet":
            layers = [blocks.resnet(out_channels, out_channels, resample="down")]
        elif downsample_padding is not None:
            layers = [
                Downsample2D(out_channels, padding=downsample_padding, make=blocks.make)
            ]
        self.downsamplers = nnx.List(layers)

    def __call__(
        self,
        x: Float[Array, "h w c"],
        time: Float[Array, " d"],
        context: Float[Array, "l e"] | None,
    ) -> tuple[Float[Array, "h2 w2 c2"], list[Float[Array, "..."]]]:
        """Return the output and all states that the up path uses as skips."""
        skips = []
        for i in range(len(self.resnets)):
            x = self.layer(i, x, time, context)
            skips.append(x)
        for downsampler in self.downsamplers:
            if isinstance(downsampler, ResnetBlock2D):
                x = downsampler(x, time)
            else:
                x = downsampler(x)
            skips.append(x)
        return x, skips


class MidBlock(nnx.Module):
    """A residual block, followed by others, each with optional attention before it.

    Args:
        channels: Channels in and out.
        transformer: Settings of the transformer, or None for no attention.
        num_layers: Number of residual blocks after the first; by default one with
            attention and none without.
        output_scale: Divisor of the outputs of the residual blocks.
        blocks: Block factory.
    """

    def __init__(
        self,
        channels: int,
        *,
        transformer: TransformerSpec | AttentionSpec | None,
        num_layers: int | None = None,
        output_scale: float,
        blocks: BlockFactory,
    ):
        if num_layers is None:
            num_layers = 0 if transformer is None else 1
        self.attentions: Any = blocks.transformers(channels, transformer, num_layers)
        self.resnets = nnx.List(
            [
                blocks.resnet(channels, channels, output_scale)
                for _ in range(1 + num_layers)
            ]
        )

    def __call__(
        self,
        x: Float[Array, "h w c"],
        time: Float[Array, " d"],
        context: Float[Array, "l e"] | None,
    ) -> Float[Array, "h w c"]:
        """Apply the block."""
        x = self.resnets[0](x, time)
        for i in range(len(self.resnets) - 1):
            if self.attentions:
                x = self.attentions[i](x, context)
            x = self.resnets[i + 1](x, time)
        return x


class UpBlock(Block):
    """Residual blocks with one skip each and attention, followed by upsampling.

    Args:
        in_channels: Channels of the state from below.
        out_channels: Channels of the output.
        skip_channels: Channels of the last skip (those of the next finer block).
        num_layers: Number of residual blocks.
        transformer: Settings of the transformers, or None for no attention.
        upsample: Whether the block ends with upsampling.
        resampling: Kind of the upsampling.
        blocks: Block factory.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        skip_channels: int,
        num_layers: int,
        transformer: TransformerSpec | AttentionSpec | None,
        upsample: bool,
        resampling: Resampling = "conv",
        blocks: BlockFactory,
    ):
        widths = [in_channels] + [out_channels] * (num_layers - 1)
        skips = [out_channels] * (num_layers - 1) + [skip_channels]
        self.resnets = nnx.List(
            [
                blocks.resnet(width + skip, out_channels)
                for width, skip in zip(widths, skips, strict=True)
            ]
        )
        self.attentions = blocks.transformers(out_channels, transformer, num_layers)
        layers: list[Upsample2D | ResnetBlock2D] = []
        if upsample and resampling == "resnet":
            layers = [blocks.resnet(out_channels, out_channels, resample="up")]
        elif upsample:
            layers = [Upsample2D(out_channels, make=blocks.make)]
        self.upsamplers = nnx.List(layers)

    def __call__(
        self,
        x: Float[Array, "h w c"],
        time: Float[Array, " d"],
        context: Float[Array, "l e"] | None,
        skips: list[Float[Array, "h w s"]],
        size: tuple[int, int] | None,
    ) -> Float[Array, "h2 w2 c2"]:
        """Consume ``skips`` from the last to the first, then upsample to ``size``."""
        for i in range(len(self.resnets)):
            x = jnp.concatenate([x, skips[-1 - i]], axis=-1)
            x = self.layer(i, x, time, context)
        for upsampler in self.upsamplers:
            if isinstance(upsampler, ResnetBlock2D):
                x = upsampler(x, time, size=size)
            else:
                x = upsampler(x, size)
        return x
