"""Configuration of LaVie's UNet, in the vocabulary of its published code."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from jaxinv.checks import Range
from jaxinv.models.config import (
    Blocks,
    Channels,
    Epsilon,
    Factor,
    Groups,
    Heads,
    Layers,
    ModelConfig,
    Size,
)
from jaxinv.models.unet.config import UNet2DConditionConfig

#: Features of every head that the temporal attention rotates.
ROTATED = 32

_Down = Literal["DownBlock3D", "CrossAttnDownBlock3D"]
_Up = Literal["UpBlock3D", "CrossAttnUpBlock3D"]

_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "class_embed_type": (None,),
    "dual_cross_attention": (False,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "use_first_frame": (False,),
    "use_relative_position": (False,),
}


@dataclasses.dataclass(frozen=True)
class LaVieUNetConfig(ModelConfig):
    """Settings of a :class:`~jaxinv.models.LaVieUNet`.

    The fields and defaults are those of ``UNet3DConditionModel`` in LaVie's code. It is
    another class than the one of that name in diffusers.

    Attributes:
        sample_size: Height and width of the latents the image model was trained on.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        center_input_sample: Whether inputs in [0, 1] are mapped to [-1, 1] first.
        flip_sin_to_cos: Whether cosines come first in the timestep embedding.
        freq_shift: Shift of the timestep embedding's frequencies.
        down_block_types: ``DownBlock3D`` or ``CrossAttnDownBlock3D``, per block.
        mid_block_type: ``UNetMidBlock3DCrossAttn``.
        up_block_types: ``UpBlock3D`` or ``CrossAttnUpBlock3D``, from the bottom up.
        block_out_channels: Channels, per block.
        layers_per_block: Residual blocks per down block (up blocks have one more).
        downsample_padding: 1.
        mid_block_scale_factor: Divisor of the outputs of residual blocks in the middle.
        act_fn: ``silu`` or its other name ``swish``.
        norm_num_groups: Groups of all group normalizations.
        norm_eps: Added to the variances of the residual blocks' normalizations.
        cross_attention_dim: Size of the text vectors.
        attention_head_dim: Number of attention heads, per block or for all; each head
            has at least 32 features.
        use_linear_projection: Dense or convolutional projections.
        upcast_attention: Whether attention is computed in float32 for every dtype.
        resnet_time_scale_shift: ``default`` or ``scale_shift``.
    """

    class_name = "UNet3DConditionModel"
    unsupported = _UNSUPPORTED
    # The model has no conditions but the text.
    addition_embed_type: ClassVar[None] = None
    time_cond_proj_dim: ClassVar[None] = None

    sample_size: Size | None = None
    in_channels: Channels = 4
    out_channels: Channels = 4
    center_input_sample: bool = False
    flip_sin_to_cos: bool = True
    freq_shift: Annotated[float, Range(-1e3, 1e3)] = 0
    down_block_types: Annotated[tuple[_Down, ...], Blocks] = (
        "CrossAttnDownBlock3D",
    ) * 3 + ("DownBlock3D",)
    mid_block_type: Literal["UNetMidBlock3DCrossAttn"] = "UNetMidBlock3DCrossAttn"
    up_block_types: Annotated[tuple[_Up, ...], Blocks] = ("UpBlock3D",) + (
        "CrossAttnUpBlock3D",
    ) * 3
    block_out_channels: Annotated[tuple[Channels, ...], Blocks] = (
        320, 640, 1280, 1280,
    )  # fmt: skip
    layers_per_block: Layers = 2
    downsample_padding: Literal[1] = 1
    mid_block_scale_factor: Factor = 1.0
    act_fn: Literal["silu", "swish"] = "silu"
    norm_num_groups: Groups = 32
    norm_eps: Epsilon = 1e-5
    cross_attention_dim: Channels = 1280
    attention_head_dim: Heads | Annotated[tuple[Heads, ...], Blocks] = 8
    use_linear_projection: bool = False
    upcast_attention: bool = False
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"

    def __post_init__(self):
        """Check that the options describe a model that can be built."""
        super().__post_init__()
        image = self.image_config
        for channels, heads in zip(image.block_out_channels, image.heads, strict=True):
            if channels // heads < ROTATED:
                raise ValueError(
                    f"attention_head_dim={self.attention_head_dim}: {heads} heads of "
                    f"{channels} channels have {channels // heads} features each, but "
                    f"the temporal attention rotates {ROTATED}"
                )

    @property
    def image_config(self) -> UNet2DConditionConfig:
        """Settings of the image model that this model extends to videos."""
        return UNet2DConditionConfig(
            **{
                field.name: _renamed(getattr(self, field.name), "3D", "2D")
                for field in dataclasses.fields(self)
            }
        )

    @property
    def context_widths(self) -> set[int]:
        """Sizes of the text vectors that the blocks with attention use."""
        return self.image_config.context_widths

    @classmethod
    def from_image(cls, image: UNet2DConditionConfig) -> Self:
        """Return the settings of LaVie's model that starts from an image model.

        LaVie publishes no configuration: its code reads that of Stable Diffusion 1.4.

        Args:
            image: Settings of the image model.

        Raises:
            ValueError: If it has options that LaVie's code lacks.
        """
        values = {
            name: _renamed(value, "2D", "3D")
            for name, value in dataclasses.asdict(image).items()
        }
        known = {field.name for field in dataclasses.fields(cls)}
        found = cls(**{name: values[name] for name in known})
        if dataclasses.replace(found.image_config, dropout=image.dropout) != image:
            raise ValueError(
                "LaVie extends Stable Diffusion 1.4, but this UNet has options that "
                f"LaVie's code lacks: {image}"
            )
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a ``config.json`` that LaVie's class wrote.

        Args:
            data: The parsed JSON.

        Raises:
            ValueError: If an option is unknown, not implemented, or inconsistent.
        """
        if "flip_sin_to_cos" not in data:
            raise ValueError(
                "UNet3DConditionModel is implemented as in LaVie's code, but this "
                "config.json is that of diffusers' class of the same name (no "
                "flip_sin_to_cos), which is not"
            )
        return super().from_dict(data)

    @classmethod
    def lavie(cls) -> Self:
        """Return the settings of LaVie's base model (Stable Diffusion 1.4's)."""
        return cls.from_image(UNet2DConditionConfig.sd15())


def _renamed(value: Any, old: str, new: str) -> Any:
    """Return a value with other names of blocks; numbers as they are."""
    if isinstance(value, str) and value.startswith(("CrossAttn", "Down", "Up", "UNet")):
        return value.replace(old, new)
    if isinstance(value, tuple):
        return tuple(_renamed(each, old, new) for each in value)
    return value
