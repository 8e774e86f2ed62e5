"""Configuration of the variational autoencoder, in diffusers' vocabulary."""

import dataclasses
from typing import Annotated, Literal, Self

from jaxinv.checks import Length
from jaxinv.models.config import (
    Activation,
    Blocks,
    Channels,
    Factor,
    Groups,
    Layers,
    ModelConfig,
    Shift,
    Size,
    check_num_layers,
    per_block,
)

_Down = Annotated[tuple[Literal["DownEncoderBlock2D"], ...], Blocks]
_Up = Annotated[tuple[Literal["UpDecoderBlock2D"], ...], Blocks]
_PerChannel = Annotated[tuple[float, ...], Length(1, 2**16)]


@dataclasses.dataclass(frozen=True)
class AutoencoderKLConfig(ModelConfig):
    """Settings of an :class:`~jaxinv.models.AutoencoderKL`, as in ``config.json``.

    Attributes:
        in_channels: Channels of the images that are encoded.
        out_channels: Channels of the images that are decoded.
        down_block_types: ``DownEncoderBlock2D``, per block.
        up_block_types: ``UpDecoderBlock2D``, per block.
        block_out_channels: Channels, per block; every block but the last downsamples.
        layers_per_block: Residual blocks per encoder block (decoder blocks: one more).
        act_fn: Activation of the residual blocks.
        latent_channels: Channels of the latent.
        norm_num_groups: Groups of all normalizations.
        sample_size: Height and width of the images the model was trained on.
        scaling_factor: Diffusion latents are ``(raw - shift_factor) * scaling_factor``,
            or ``(raw - latents_mean) * scaling_factor / latents_std``.
        shift_factor: See ``scaling_factor``; None for 0.
        latents_mean: See ``scaling_factor``; one number per channel, or None.
        latents_std: See ``scaling_factor``; one number per channel, or None.
        force_upcast: Whether float16 overflows in this model.
        use_quant_conv: Whether a 1x1 convolution follows the encoder.
        use_post_quant_conv: Whether a 1x1 convolution precedes the decoder.
        mid_block_add_attention: Whether the middle blocks have attention.
    """

    class_name = "AutoencoderKL"

    in_channels: Channels = 3
    out_channels: Channels = 3
    down_block_types: _Down = ("DownEncoderBlock2D",)
    up_block_types: _Up = ("UpDecoderBlock2D",)
    block_out_channels: Annotated[tuple[Channels, ...], Blocks] = (64,)
    layers_per_block: Layers = 1
    act_fn: Activation = "silu"
    latent_channels: Channels = 4
    norm_num_groups: Groups = 32
    sample_size: Size = 32
    scaling_factor: Factor = 0.18215
    shift_factor: Shift | None = None
    latents_mean: _PerChannel | None = None
    latents_std: _PerChannel | None = None
    force_upcast: bool | float = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    def __post_init__(self):
        """Check that the options describe a model that can be built."""
        super().__post_init__()
        for name in ("down_block_types", "up_block_types"):
            per_block(name, getattr(self, name), len(self.block_out_channels))
        check_num_layers(len(self.block_out_channels) * (2 * self.layers_per_block + 1))
        for name in ("latents_mean", "latents_std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.latent_channels:
                raise ValueError(
                    f"{name} must have {self.latent_channels} numbers (latent_channels)"
                    f", got {len(values)}"
                )
        if self.latents_std is not None and not min(self.latents_std) > 0:
            raise ValueError(f"latents_std must be positive, got {self.latents_std}")
        for channels in self.block_out_channels:
            if channels % self.norm_num_groups:
                raise ValueError(
                    f"a block of {channels} channels (block_out_channels) cannot have "
                    f"{self.norm_num_groups} groups (norm_num_groups)"
                )

    @property
    def downsampling_factor(self) -> int:
        """Image height over latent height."""
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def sd15(cls) -> Self:
        """Return the settings of Stable Diffusion 1 (512 pixels)."""
        return cls(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            sample_size=512,
        )

    @classmethod
    def sd21(cls) -> Self:
        """Return the settings of Stable Diffusion 2 (768 pixels)."""
        return dataclasses.replace(cls.sd15(), sample_size=768)

    @classmethod
    def sdxl(cls) -> Self:
        """Return the settings of Stable Diffusion XL (1024 pixels)."""
        return dataclasses.replace(cls.sd15(), sample_size=1024, scaling_factor=0.13025)

    @classmethod
    def sd3(cls) -> Self:
        """Return the settings of Stable Diffusion 3 (16 latent channels)."""
        return dataclasses.replace(
            cls.sd15(),
            latent_channels=16,
            sample_size=1024,
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )

    @classmethod
    def flux(cls) -> Self:
        """Return the settings of FLUX.1 (16 latent channels)."""
        return dataclasses.replace(
            cls.sd3(), scaling_factor=0.3611, shift_factor=0.1159
        )
