"""AnimateDiff's UNet: Stable Diffusion on every frame, and attention across frames.

    for each residual block (and spatial transformer) of the image model:
        x[i]  = transformer(resnet(x[i], time), text)        for every frame i
        x     = x + proj_out(blocks(proj_in(norm(x))))       across frames

A motion module treats each position as a sequence over frames, to which its two
self-attentions add the sines and cosines of the frame's number. Its normalization is
over all frames. All other layers see one frame at a time. Attributes have diffusers'
names.

References:
    Guo et al., "AnimateDiff: Animate Your Personalized Text-to-Image Diffusion Models
    without Specific Tuning", 2023. https://arxiv.org/abs/2307.04725
"""

from typing import Any, NamedTuple, Self

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxinv.models.config import per_block
from jaxinv.models.layers.attention import BasicTransformerBlock
from jaxinv.models.layers.basic import LayerFactory, Model
from jaxinv.models.layers.remat import Remat, rematerialized
from jaxinv.models.parameters import parameters, with_parameters
from jaxinv.models.unet.blocks import Block, DownBlock, MidBlock, UpBlock
from jaxinv.models.unet.condition import UNetCondition
from jaxinv.models.unet.config import UNet2DConditionConfig
from jaxinv.models.unet.motion_config import (
    MotionAdapterConfig,
    UNetMotionConfig,
    one_depth,
)
from jaxinv.models.unet.unet import UNet2DConditionModel


class SinusoidalPositionalEmbedding(nnx.Module):
    """Sines and cosines of the frame's number, stored with the weights.

    Args:
        features: Size of the vectors.
        max_length: Largest number of frames.
        make: Layer factory.

    References:
        Vaswani et al., "Attention Is All You Need", 2017, section 3.5.
        https://arxiv.org/abs/1706.03762
    """

    def __init__(self, features: int, max_length: int, *, make: LayerFactory):
        frequencies = 1e4 ** (-np.arange(0, features, 2) / features)
        phases = np.arange(max_length)[:, None] * frequencies
        table = np.stack([np.sin(phases), np.cos(phases)], axis=-1)
        self.pe = make.constant(table.reshape(1, max_length, features))

    def __call__(self, x: Float[Array, "f c"]) -> Float[Array, "f c"]:
        """Add the embedding of each frame's number."""
        return x + self.pe[...][0, : x.shape[0]].astype(x.dtype)


class MotionTransformerBlock(BasicTransformerBlock):
    """Two self-attentions and a feed-forward network, over the frames of a position.

    Args:
        features: Size of the vectors.
        heads: Number of heads.
        max_length: Largest number of frames.
        make: Layer factory.
    """

    def __init__(
        self, features: int, *, heads: int, max_length: int, make: LayerFactory
    ):
        self.pos_embed = SinusoidalPositionalEmbedding(features, max_length, make=make)
        super().__init__(
            features,
            heads=heads,
            context_features=features,
            only_cross_attention=False,
            upcast_attention=False,
            make=make,
        )
        self.attn1.kind = self.attn2.kind = "frames"

    def attend(
        self, x: Float[Array, "f c"], context: Float[Array, "k d"]
    ) -> Float[Array, "f c"]:
        """Let frames attend to each other, twice; there is no context."""
        x = x + self.attn1(self.pos_embed(self.norm1(x)))
        return x + self.attn2(self.pos_embed(self.norm2(x)))


class AnimateDiffTransformer3D(nnx.Module):
    """A motion module: transformer blocks over frames, with a residual.

    Args:
        channels: Channels of the feature maps.
        heads: Number of attention heads.
        num_layers: Number of transformer blocks.
        max_length: Largest number of frames.
        groups: Number of groups of the normalization.
        make: Layer factory.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        num_layers: int,
        max_length: int,
        groups: int,
        make: LayerFactory,
    ):
        self.remat: Remat = "none"
        self.norm = make.group_norm(groups, channels, epsilon=1e-6)
        self.proj_in = make.linear(channels, channels)
        self.transformer_blocks = nnx.List(
            [
                MotionTransformerBlock(
                    channels, heads=heads, max_length=max_length, make=make
                )
                for _ in range(num_layers)
            ]
        )
        self.proj_out = make.linear(channels, channels)

    @rematerialized
    def __call__(self, x: Float[Array, "f h w c"]) -> Float[Array, "f h w c"]:
        """Mix the frames at every position."""
        y = self.proj_in(self.norm(x)).reshape(x.shape[0], -1, x.shape[-1])
        for block in self.transformer_blocks:
            y = jax.vmap(lambda z, b=block: b(z, z), in_axes=1, out_axes=1)(y)
        return self.proj_out(y.reshape(x.shape)) + x


class MotionSpec(NamedTuple):
    """Settings of the motion modules of one block.

    Attributes:
        channels: Channels of the block.
        heads: Number of attention heads.
        depths: Transformer blocks of each module.
        max_length: Largest number of frames.
        groups: Groups of the normalizations.
    """

    channels: int
    heads: int
    depths: tuple[int, ...]
    max_length: int
    groups: int

    def modules(self, make: LayerFactory) -> nnx.List[AnimateDiffTransformer3D]:
        """Make the motion modules."""
        return nnx.List(
            [
                AnimateDiffTransformer3D(
                    self.channels,
                    heads=self.heads,
                    num_layers=depth,
                    max_length=self.max_length,
                    groups=self.groups,
                    make=make,
                )
                for depth in self.depths
            ]
        )


class _MotionBlock(Block):
    """A block whose layers see one frame, each followed by a motion module."""

    motion_modules: nnx.List[AnimateDiffTransformer3D]

    def layer(self, i: int, x: Array, time: Array, context: Array | None) -> Array:
        """Apply layer ``i`` to every frame, then its motion module to all of them."""
        layer = super().layer
        x = jax.vmap(lambda frame: layer(i, frame, time, context))(x)
        return self.motion_modules[i](x)


class MotionDownBlock(_MotionBlock, DownBlock):
    """A down block with motion modules (``CrossAttnDownBlockMotion`` and the plain)."""


class MotionUpBlock(_MotionBlock, UpBlock):
    """An up block with motion modules (``CrossAttnUpBlockMotion`` and the plain)."""


class MotionMidBlock(MidBlock):
    """The mid block, with a motion module after its attention if there is one."""

    motion_modules: nnx.List[AnimateDiffTransformer3D] | None = None

    def __call__(
        self,
        x: Float[Array, "f h w c"],
        time: Float[Array, " d"],
        context: Float[Array, "l e"] | None,
    ) -> Float[Array, "f h w c"]:
        """Apply the block."""
        first, second = self.resnets
        x = jax.vmap(lambda y: self.attentions[0](first(y, time), context))(x)
        if self.motion_modules is not None:
            x = self.motion_modules[0](x)
        return jax.vmap(lambda y: second(y, time))(x)


def motion_specs(
    channels: tuple[int, ...],
    heads: int | tuple[int, ...],
    down_depths: tuple[tuple[int, ...], ...],
    up_depths: tuple[tuple[int, ...], ...],
    mid_depth: int | None,
    *,
    max_length: int,
    groups: int,
) -> tuple[list[MotionSpec], MotionSpec | None, list[MotionSpec]]:
    """Return the settings of the motion modules of the down, mid and up blocks."""
    every = per_block("motion_num_attention_heads", heads, len(channels))

    def specs(channels, heads, depths):
        return [
            MotionSpec(c, h, d, max_length, groups)
            for c, h, d in zip(channels, heads, depths, strict=True)
        ]

    mid = None
    if mid_depth is not None:
        mid = MotionSpec(channels[-1], every[-1], (mid_depth,), max_length, groups)
    return (
        specs(channels, every, down_depths),
        mid,
        specs(channels[::-1], every[::-1], up_depths),
    )


class MotionAdapter(Model):
    """AnimateDiff's motion modules alone, as they are published.

    Joined with an image model they are a :class:`UNetMotionModel`
    (:meth:`UNetMotionModel.from_unet2d`).
    """

    def build(self, config: MotionAdapterConfig, make: LayerFactory) -> None:
        """Make the layers."""
        n = len(config.block_out_channels)
        layers = per_block("layers", config.motion_layers_per_block, n)
        depths = per_block("depths", config.motion_transformer_layers_per_block, n)
        pairs = list(zip(depths, layers, strict=True))
        down, mid, up = motion_specs(
            config.block_out_channels,
            config.motion_num_attention_heads,
            tuple((depth,) * number for depth, number in pairs),
            tuple((depth,) * (number + 1) for depth, number in pairs[::-1]),
            one_depth(config.motion_transformer_layers_per_mid_block)
            if config.use_motion_mid_block
            else None,
            max_length=config.motion_max_seq_length,
            groups=config.motion_norm_num_groups,
        )
        self.down_blocks = nnx.List([_MotionModules(spec, make) for spec in down])
        self.mid_block = None if mid is None else _MotionModules(mid, make)
        self.up_blocks = nnx.List([_MotionModules(spec, make) for spec in up])


class _MotionModules(nnx.Module):
    """The motion modules of one block."""

    def __init__(self, spec: MotionSpec, make: LayerFactory):
        self.motion_modules = spec.modules(make)


class UNetMotionModel(UNet2DConditionModel):
    """A UNet for videos, conditioned on a timestep and one text for all frames.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> config = UNetMotionConfig(
        ...     down_block_types=("CrossAttnDownBlockMotion",),
        ...     up_block_types=("CrossAttnUpBlockMotion",), block_out_channels=(8,),
        ...     layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
        ...     num_attention_heads=2, motion_num_attention_heads=2)
        >>> make = lambda: UNetMotionModel(config, rngs=nnx.Rngs(0))
        >>> x, text = jnp.ones((5, 8, 8, 4)), jnp.ones((5, 8))  # five frames
        >>> jax.eval_shape(lambda: make()(x, 500.0, text)).shape  # nothing is computed
        (5, 8, 8, 4)
    """

    down_block: Any = MotionDownBlock
    mid: Any = MotionMidBlock
    up_block: Any = MotionUpBlock

    @property
    def image_config(self) -> UNet2DConditionConfig:
        """Settings of the layers that are applied to each frame."""
        return self.config.image_config

    def build(self, config: Any, make: LayerFactory) -> None:
        """Make the layers of a :class:`UNetMotionConfig`."""
        super().build(config.image_config, make)
        down_depths, up_depths = config.motion_depths
        down, mid, up = motion_specs(
            config.block_out_channels,
            config.motion_num_attention_heads,
            down_depths,
            up_depths,
            one_depth(config.temporal_transformer_layers_per_mid_block)
            if config.use_motion_mid_block
            else None,
            max_length=config.motion_max_seq_length,
            groups=config.norm_num_groups,
        )
        for block, spec in zip(self.down_blocks, down, strict=True):
            block.motion_modules = spec.modules(make)
        if mid is not None and self.mid_block is not None:
            self.mid_block.motion_modules = mid.modules(make)
        for block, spec in zip(self.up_blocks, up, strict=True):
            block.motion_modules = spec.modules(make)

    def __call__(
        self,
        sample: Float[Array, "f h w c"],
        timestep: Float[Array, ""] | float,
        condition: Float[Array, "l d"] | UNetCondition,
    ) -> Float[Array, "f h w k"]:
        """Predict noise, velocity or data, depending on how the model was trained.

        Args:
            sample: The noisy latents of all frames.
            timestep: Model time, 0 to 999 for Stable Diffusion; may be fractional.
            condition: Text vectors, for all frames.

        Returns:
            The prediction, in the dtype of ``sample``.

        Raises:
            ValueError: If there are more frames than the model was built for.
        """
        longest = self.config.motion_max_seq_length
        if sample.ndim != 4 or sample.shape[0] > longest:
            raise ValueError(
                f"expected latents (frames, h, w, c) of at most {longest} frames "
                f"(motion_max_seq_length), got shape {sample.shape}"
            )
        return super().__call__(sample, timestep, condition)

    def output(self, x: Float[Array, "f h w c"]) -> Float[Array, "f h w k"]:
        """Return the prediction from the last state."""
        return self.conv_out(jax.nn.silu(jax.vmap(self.conv_norm_out)(x)))

    @classmethod
    def from_unet2d(cls, unet: UNet2DConditionModel, adapter: MotionAdapter) -> Self:
        """Join an image model with motion modules.

        Args:
            unet: The image model.
            adapter: The motion modules; their arrays are shared, not copied.

        Returns:
            The video model. It computes in the image model's dtype.

        Raises:
            ValueError: If the two do not fit.
        """
        # Imported here: the registry imports this module.
        from jaxinv.models.registry import abstract_component

        config = UNetMotionConfig.join(unet.config, adapter.config)
        module: Any = abstract_component(config, dtype=unet.dtype)
        joined: Self = with_parameters(module, parameters(unet) | parameters(adapter))
        return joined
