"""Configurations of AnimateDiff's UNet and motion adapter, in diffusers' vocabulary."""

import dataclasses
from typing import Annotated, Any, Literal, Self

from jaxinv.checks import Range
from jaxinv.models.config import (
    Activation,
    Blocks,
    Channels,
    Epsilon,
    Factor,
    Groups,
    Heads,
    Layers,
    ModelConfig,
    Size,
    check_num_layers,
    per_block,
)
from jaxinv.models.unet.config import UNet2DConditionConfig

_Down = Literal["DownBlockMotion", "CrossAttnDownBlockMotion"]
_Up = Literal["UpBlockMotion", "CrossAttnUpBlockMotion"]
_Depths = Annotated[tuple[Layers | tuple[Layers, ...], ...], Blocks]
_PerBlock = Annotated[tuple[Layers, ...], Blocks]
_HeadsPerBlock = Annotated[tuple[Heads, ...], Blocks]
_Frames = Channels

# Options for parts that are not implemented here, with the values that turn them off.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_layers": (1,),
    # diffusers reads this option and does not use it.
    "reverse_motion_num_attention_heads": (None,),
}
_ADAPTER_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "conv_in_channels": (None,),  # PIA
    "motion_mid_block_layers_per_block": (1,),
}
# Options of an image model that diffusers leaves out of the video model made of it.
_DROPPED = (
    "center_input_sample",
    "flip_sin_to_cos",
    "freq_shift",
    "mid_block_type",
    "only_cross_attention",
    "resnet_time_scale_shift",
    "time_embedding_dim",
    "conv_in_kernel",
    "conv_out_kernel",
)


@dataclasses.dataclass(frozen=True)
class MotionAdapterConfig(ModelConfig):
    """Settings of a :class:`~jaxinv.models.MotionAdapter`.

    The fields and defaults are those of diffusers' ``config.json``. Options "per block"
    take one value, or one for each down block (up blocks use the reverse).

    Attributes:
        block_out_channels: Channels of the UNet's down blocks.
        motion_layers_per_block: Motion modules per down block (up blocks have one
            more).
        motion_transformer_layers_per_block: Transformer blocks of a motion module, per
            block.
        motion_transformer_layers_per_mid_block: The same in the middle.
        motion_num_attention_heads: Heads of the attention over frames, per block.
        motion_norm_num_groups: Groups of the normalizations.
        motion_max_seq_length: Largest number of frames.
        use_motion_mid_block: Whether there is a motion module in the middle.
    """

    class_name = "MotionAdapter"
    unsupported = _ADAPTER_UNSUPPORTED

    block_out_channels: Annotated[tuple[Channels, ...], Blocks] = (
        320, 640, 1280, 1280,
    )  # fmt: skip
    motion_layers_per_block: Layers | _PerBlock = 2
    motion_transformer_layers_per_block: Layers | _PerBlock = 1
    motion_transformer_layers_per_mid_block: Layers | tuple[Layers] = 1
    motion_num_attention_heads: Heads | _HeadsPerBlock = 8
    motion_norm_num_groups: Groups = 32
    motion_max_seq_length: _Frames = 32
    use_motion_mid_block: bool = True

    def __post_init__(self):
        """Check that the options describe an adapter that can be built."""
        super().__post_init__()
        blocks = len(self.block_out_channels)
        check_motion(
            self.block_out_channels,
            self.motion_num_attention_heads,
            self.motion_norm_num_groups,
        )
        depth_name = "motion_transformer_layers_per_block"
        depths = per_block(depth_name, self.motion_transformer_layers_per_block, blocks)
        layers = per_block(
            "motion_layers_per_block", self.motion_layers_per_block, blocks
        )
        count = sum(
            (2 * n + 1) * depth for n, depth in zip(layers, depths, strict=True)
        )
        check_num_layers(count)

    @classmethod
    def animatediff(cls) -> Self:
        """Return the settings of AnimateDiff's adapters v1.5.2 and v1.5.3."""
        return cls()


@dataclasses.dataclass(frozen=True)
class UNetMotionConfig(ModelConfig):
    """Settings of a :class:`~jaxinv.models.UNetMotionModel`.

    The fields and defaults are those of diffusers' ``config.json``. Options "per block"
    take one value, or one for each down block (up blocks use the reverse).

    Attributes:
        sample_size: Height and width of the latents the model was trained on.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        down_block_types: ``DownBlockMotion`` or ``CrossAttnDownBlockMotion``, per
            block.
        up_block_types: ``UpBlockMotion`` or ``CrossAttnUpBlockMotion``, from the bottom
            up.
        block_out_channels: Channels, per block.
        layers_per_block: Residual blocks per down block (up blocks have one more).
        downsample_padding: 1, or 0 for padding below and to the right only.
        mid_block_scale_factor: Divisor of the outputs of residual blocks in the middle.
        act_fn: Activation function, except before the last convolution (SiLU).
        norm_num_groups: Groups of all group normalizations.
        norm_eps: Added to the variances of the residual blocks' normalizations.
        cross_attention_dim: Size of the text vectors, per block.
        transformer_layers_per_block: Transformer blocks per spatial transformer; per
            block, or per block and layer.
        reverse_transformer_layers_per_block: The same for the up blocks, in their own
            order; the reverse of the above if None.
        temporal_transformer_layers_per_block: Transformer blocks per motion module; per
            block, or per block and layer.
        reverse_temporal_transformer_layers_per_block: The same for the up blocks.
        transformer_layers_per_mid_block: Transformer blocks of the spatial transformer
            in the middle; those of the last block if None.
        temporal_transformer_layers_per_mid_block: Those of the motion module there.
        use_linear_projection: Dense or convolutional projections.
        num_attention_heads: Heads of the spatial attention, per block.
        motion_max_seq_length: Largest number of frames.
        motion_num_attention_heads: Heads of the attention over frames, per block.
        use_motion_mid_block: Whether there is a motion module in the middle.
        addition_embed_type: ``text_time`` (SDXL) or None; this and the following three
            as in :class:`~jaxinv.models.UNet2DConditionConfig`.
        addition_time_embed_dim: See there.
        projection_class_embeddings_input_dim: See there.
        time_cond_proj_dim: See there.
    """

    class_name = "UNetMotionModel"
    unsupported = _UNSUPPORTED

    sample_size: Size | None = None
    in_channels: Channels = 4
    out_channels: Channels = 4
    down_block_types: Annotated[tuple[_Down, ...], Blocks] = (
        "CrossAttnDownBlockMotion",
    ) * 3 + ("DownBlockMotion",)
    up_block_types: Annotated[tuple[_Up, ...], Blocks] = ("UpBlockMotion",) + (
        "CrossAttnUpBlockMotion",
    ) * 3
    block_out_channels: Annotated[tuple[Channels, ...], Blocks] = (
        320, 640, 1280, 1280,
    )  # fmt: skip
    layers_per_block: Layers | _PerBlock = 2
    downsample_padding: Literal[0, 1] = 1
    mid_block_scale_factor: Factor = 1.0
    act_fn: Activation = "silu"
    norm_num_groups: Groups = 32
    norm_eps: Epsilon = 1e-5
    cross_attention_dim: Channels | Annotated[tuple[Channels, ...], Blocks] = 1280
    transformer_layers_per_block: Layers | _Depths = 1
    reverse_transformer_layers_per_block: _Depths | None = None
    temporal_transformer_layers_per_block: Layers | _Depths = 1
    reverse_temporal_transformer_layers_per_block: Layers | _Depths | None = None
    transformer_layers_per_mid_block: Layers | tuple[Layers] | None = None
    temporal_transformer_layers_per_mid_block: Layers | tuple[Layers] = 1
    use_linear_projection: bool = False
    num_attention_heads: Heads | _HeadsPerBlock = 8
    motion_max_seq_length: _Frames = 32
    motion_num_attention_heads: Heads | _HeadsPerBlock = 8
    use_motion_mid_block: bool = True
    addition_embed_type: Literal["text_time"] | None = None
    addition_time_embed_dim: Channels | None = None
    projection_class_embeddings_input_dim: Channels | None = None
    time_cond_proj_dim: Annotated[int, Range(4, 2**16)] | None = None

    def __post_init__(self):
        """Check that the options describe a model that can be built."""
        super().__post_init__()
        image = self.image_config
        channels = self.block_out_channels
        check_motion(channels, self.motion_num_attention_heads, self.norm_num_groups)
        down, up = self.motion_depths
        check_num_layers(sum(map(sum, down)) + sum(map(sum, up)))
        last = image.transformer_layers_per_block
        last = last[-1] if isinstance(last, tuple) else last
        # The mid block of the image model has the depth of the last block.
        own = last[0] if isinstance(last, tuple) else last
        wanted = self.transformer_layers_per_mid_block
        if wanted is None:
            wanted = 1 if isinstance(last, tuple) else last
        if one_depth(wanted) != own:
            raise ValueError(
                f"transformer_layers_per_mid_block={wanted} is not implemented: the "
                f"middle must be as deep as the last block, {own}"
            )

    @property
    def image_config(self) -> UNet2DConditionConfig:
        """Settings of the layers that are applied to each frame."""
        names = {field.name for field in dataclasses.fields(UNet2DConditionConfig)}
        shared = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name in names
        }
        for name in ("down_block_types", "up_block_types"):
            shared[name] = tuple(
                kind.replace("Motion", "2D") for kind in getattr(self, name)
            )
        return UNet2DConditionConfig(**shared)

    @property
    def context_widths(self) -> set[int]:
        """Sizes of the text vectors that the blocks with attention use."""
        return self.image_config.context_widths

    @property
    def motion_depths(
        self,
    ) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
        """Transformer blocks of every motion module, of the down and the up blocks."""
        n = len(self.block_out_channels)
        name = "temporal_transformer_layers_per_block"
        down = per_block(name, self.temporal_transformer_layers_per_block, n)
        up = self.reverse_temporal_transformer_layers_per_block
        if up is None and any(isinstance(depth, tuple) for depth in down):
            raise ValueError(f"{name} with a value per layer also needs reverse_{name}")
        up = down[::-1] if up is None else per_block(f"reverse_{name}", up, n)
        layers = per_block("layers_per_block", self.layers_per_block, n)
        return (
            _per_layer(name, down, layers),
            _per_layer(f"reverse_{name}", up, tuple(k + 1 for k in layers[::-1])),
        )

    @classmethod
    def animatediff(cls) -> Self:
        """Return the settings of AnimateDiff's adapter v1.5.2 on Stable Diffusion 1."""
        return cls.join(UNet2DConditionConfig.sd15(), MotionAdapterConfig.animatediff())

    @classmethod
    def join(cls, unet: UNet2DConditionConfig, adapter: MotionAdapterConfig) -> Self:
        """Return the settings of an image model with the motion modules of an adapter.

        Args:
            unet: Settings of the image model.
            adapter: Settings of the adapter.

        Raises:
            ValueError: If they do not fit, or if the image model has an option that
                the video model lacks.
        """
        defaults = {f.name: f.default for f in dataclasses.fields(unet)}
        for name in _DROPPED:
            if getattr(unet, name) != defaults[name]:
                raise ValueError(
                    f"a UNet with {name}={getattr(unet, name)!r} cannot be joined with "
                    "a motion adapter: UNetMotionModel has no such option"
                )
        n = len(unet.block_out_channels)
        ours = per_block("layers_per_block", unet.layers_per_block, n)
        for name, wanted, found in (
            ("block_out_channels", unet.block_out_channels, adapter.block_out_channels),
            (
                "motion_layers_per_block",
                ours,
                per_block("motion_layers_per_block", adapter.motion_layers_per_block, n)
                if len(adapter.block_out_channels) == n
                else None,
            ),
            (
                "motion_norm_num_groups",
                unet.norm_num_groups,
                adapter.motion_norm_num_groups,
            ),
        ):
            if wanted != found:
                raise ValueError(
                    f"the motion adapter does not fit the UNet: its {name} is {found}, "
                    f"the UNet needs {wanted}"
                )
        names = {field.name for field in dataclasses.fields(cls)}
        shared = {
            field.name: getattr(unet, field.name)
            for field in dataclasses.fields(unet)
            if field.name in names
        }
        for name in ("down_block_types", "up_block_types"):
            shared[name] = tuple(
                kind.replace("2D", "Motion") for kind in getattr(unet, name)
            )
        return cls(
            **shared
            | {
                "num_attention_heads": unet.num_attention_heads
                or unet.attention_head_dim,
                "motion_max_seq_length": adapter.motion_max_seq_length,
                "motion_num_attention_heads": adapter.motion_num_attention_heads,
                "use_motion_mid_block": adapter.use_motion_mid_block,
                "temporal_transformer_layers_per_block": (
                    adapter.motion_transformer_layers_per_block
                ),
                "temporal_transformer_layers_per_mid_block": (
                    adapter.motion_transformer_layers_per_mid_block
                ),
            }
        )


def check_motion(
    block_out_channels: tuple[int, ...], heads: int | tuple[int, ...], groups: int
) -> None:
    """Raise ValueError for motion modules that cannot be built."""
    name = "motion_num_attention_heads"
    every = per_block(name, heads, len(block_out_channels))
    for channels, number in zip(block_out_channels, every, strict=True):
        if channels % number or channels % groups or channels % 2:
            raise ValueError(
                f"motion modules of {channels} channels cannot have {number} attention "
                f"heads ({name}), {groups} groups and as many sines as cosines"
            )


def one_depth(value: int | tuple[int]) -> int:
    """Return the depth of the one transformer in the middle."""
    return value[0] if isinstance(value, tuple) else value


def _per_layer(
    name: str, depths: tuple[Any, ...], layers: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    """Return a depth for each layer of each block."""
    found = []
    for depth, number in zip(depths, layers, strict=True):
        each = depth if isinstance(depth, tuple) else (depth,) * number
        if len(each) != number:
            raise ValueError(
                f"{name} has {len(each)} values for a block of {number} layers"
            )
        found.append(each)
    return tuple(found)
