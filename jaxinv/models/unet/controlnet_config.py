"""Configuration of a ControlNet, in diffusers' vocabulary."""

import dataclasses
from typing import Annotated, Any, ClassVar, Literal, Self

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
)
from jaxinv.models.unet.config import UNet2DConditionConfig

_Down = Literal["DownBlock2D", "CrossAttnDownBlock2D"]
_Mid = Literal["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"]


@dataclasses.dataclass(frozen=True)
class ControlNetConfig(ModelConfig):
    """Settings of a :class:`~jaxinv.models.ControlNetModel`.

    The fields and defaults are those of diffusers' ``config.json``. Most are those of
    the UNet that the ControlNet is made for; see
    :class:`~jaxinv.models.UNet2DConditionConfig`.

    Attributes:
        in_channels: Channels of the latents.
        conditioning_channels: Channels of the control image.
        flip_sin_to_cos: See the UNet.
        freq_shift: See the UNet.
        down_block_types: See the UNet.
        mid_block_type: ``UNetMidBlock2DCrossAttn`` or ``UNetMidBlock2D``.
        only_cross_attention: See the UNet.
        block_out_channels: See the UNet.
        layers_per_block: Residual blocks per down block.
        downsample_padding: See the UNet.
        mid_block_scale_factor: See the UNet.
        act_fn: See the UNet.
        norm_num_groups: See the UNet.
        norm_eps: See the UNet.
        cross_attention_dim: Size of the text vectors.
        transformer_layers_per_block: Transformer blocks per spatial transformer, per
            block.
        attention_head_dim: Number of attention heads, per block; see the UNet.
        num_attention_heads: Number of attention heads, per block; takes precedence.
        use_linear_projection: See the UNet.
        addition_embed_type: See the UNet.
        addition_time_embed_dim: See the UNet.
        projection_class_embeddings_input_dim: See the UNet.
        upcast_attention: See the UNet.
        resnet_time_scale_shift: See the UNet.
        controlnet_conditioning_channel_order: ``rgb``, or ``bgr`` for networks that
            read the channels of a control image in the reverse order.
        conditioning_embedding_out_channels: Channels of the layers that embed the
            control image. Each after the first halves its height and width.
    """

    class_name = "ControlNetModel"
    unsupported: ClassVar = {
        "addition_embed_type_num_heads": (64, None),
        "class_embed_type": (None,),
        "encoder_hid_dim": (None,),
        "encoder_hid_dim_type": (None,),
        "global_pool_conditions": (False, None),
        "num_class_embeds": (None,),
    }

    in_channels: Channels = 4
    conditioning_channels: Channels = 3
    flip_sin_to_cos: bool = True
    freq_shift: Annotated[float, Range(-1e3, 1e3)] = 0
    down_block_types: Annotated[tuple[_Down, ...], Blocks] = (
        "CrossAttnDownBlock2D",
    ) * 3 + ("DownBlock2D",)
    mid_block_type: _Mid = "UNetMidBlock2DCrossAttn"
    only_cross_attention: bool | Annotated[tuple[bool, ...], Blocks] = False
    block_out_channels: Annotated[tuple[Channels, ...], Blocks] = (
        320, 640, 1280, 1280,
    )  # fmt: skip
    layers_per_block: Layers = 2
    downsample_padding: Literal[0, 1] = 1
    mid_block_scale_factor: Factor = 1.0
    act_fn: Activation = "silu"
    norm_num_groups: Groups = 32
    norm_eps: Epsilon = 1e-5
    cross_attention_dim: Channels = 1280
    transformer_layers_per_block: Layers | Annotated[tuple[Layers, ...], Blocks] = 1
    attention_head_dim: Heads | Annotated[tuple[Heads, ...], Blocks] = 8
    num_attention_heads: Heads | Annotated[tuple[Heads, ...], Blocks] | None = None
    use_linear_projection: bool = False
    addition_embed_type: Literal["text_time"] | None = None
    addition_time_embed_dim: Channels | None = None
    projection_class_embeddings_input_dim: Channels | None = None
    upcast_attention: bool | None = False
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    controlnet_conditioning_channel_order: Literal["rgb", "bgr"] = "rgb"
    conditioning_embedding_out_channels: Annotated[tuple[Channels, ...], Blocks] = (
        16, 32, 96, 256,
    )  # fmt: skip

    def __post_init__(self):
        """Check that the options describe a model that can be built."""
        super().__post_init__()
        self.image_config  # noqa: B018  # raises for options that do not fit

    @property
    def image_config(self) -> UNet2DConditionConfig:
        """Settings of a UNet whose first half is that of this model."""
        names = {field.name for field in dataclasses.fields(UNet2DConditionConfig)}
        shared: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name in names
        }
        shared["up_block_types"] = tuple(
            kind.replace("Down", "Up") for kind in self.down_block_types[::-1]
        )
        return UNet2DConditionConfig(**shared)

    @property
    def downsampling_factor(self) -> int:
        """Ratio of the control image's height to that of the latent."""
        return 2 ** (len(self.conditioning_embedding_out_channels) - 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the ``config.json`` that diffusers reads."""
        values = super().to_dict()
        for key in ("attention_head_dim", "num_attention_heads"):
            values[key] = self.image_config.to_dict()[key]
        return values

    @classmethod
    def sd15(cls) -> Self:
        """Return the settings of ControlNets of Stable Diffusion 1.5."""
        return cls(cross_attention_dim=768)

    @classmethod
    def sdxl(cls) -> Self:
        """Return the settings of ControlNets of Stable Diffusion XL."""
        unet = UNet2DConditionConfig.sdxl()
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(
            **{
                field.name: getattr(unet, field.name)
                for field in dataclasses.fields(unet)
                if field.name in names
            }
        )
