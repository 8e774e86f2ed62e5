"""Configuration of the tiny autoencoder, in diffusers' vocabulary."""

import dataclasses
from typing import Annotated, Any, Literal

from jaxinv.checks import Range
from jaxinv.models.config import (
    Activation,
    Blocks,
    Channels,
    Factor,
    ModelConfig,
    Shift,
    check_num_layers,
)

_Widths = Annotated[tuple[Channels, ...], Blocks]
_Numbers = Annotated[tuple[Annotated[int, Range(0, 64)], ...], Blocks]


@dataclasses.dataclass(frozen=True)
class AutoencoderTinyConfig(ModelConfig):
    """Settings of an :class:`~jaxinv.models.AutoencoderTiny`, as in ``config.json``.

    Attributes:
        in_channels: Channels of the images that are encoded.
        out_channels: Channels of the images that are decoded.
        encoder_block_out_channels: Channels of the encoder, per stage; every stage but
            the first downsamples.
        decoder_block_out_channels: Channels of the decoder, per stage.
        act_fn: Activation within the blocks.
        upsample_fn: ``nearest``.
        latent_channels: Channels of the latent.
        upsampling_scaling_factor: 2.
        num_encoder_blocks: Residual blocks of the encoder, per stage.
        num_decoder_blocks: Residual blocks of the decoder, per stage.
        latent_magnitude: Stored but not used: how latents were stored as bytes.
        latent_shift: Stored but not used.
        force_upcast: Stored but not used.
        scaling_factor: Diffusion latents are ``(raw - shift_factor) * scaling_factor``.
        shift_factor: See ``scaling_factor``; None for 0.
        block_out_channels: Stored but not used: channels of the decoder.
        pooled_blocks: Whether the blocks of the lowest resolution add a branch over
            statistics of the whole image (only in the tiny autoencoder of FLUX.2;
            diffusers has no such option).
    """

    class_name = "AutoencoderTiny"

    in_channels: Channels = 3
    out_channels: Channels = 3
    encoder_block_out_channels: _Widths = (64, 64, 64, 64)
    decoder_block_out_channels: _Widths = (64, 64, 64, 64)
    act_fn: Activation = "relu"
    upsample_fn: Literal["nearest"] = "nearest"
    latent_channels: Channels = 4
    upsampling_scaling_factor: Literal[2] = 2
    num_encoder_blocks: _Numbers = (1, 3, 3, 3)
    num_decoder_blocks: _Numbers = (3, 3, 3, 1)
    latent_magnitude: float = 3
    latent_shift: float = 0.5
    force_upcast: bool = False
    scaling_factor: Factor = 1.0
    shift_factor: Shift | None = 0.0
    block_out_channels: _Widths | None = None
    pooled_blocks: bool = False

    def __post_init__(self):
        """Check that the options describe a model that can be built."""
        super().__post_init__()
        for side in ("encoder", "decoder"):
            channels = getattr(self, f"{side}_block_out_channels")
            blocks = getattr(self, f"num_{side}_blocks")
            if len(channels) != len(blocks):
                raise ValueError(
                    f"num_{side}_blocks has {len(blocks)} values, but "
                    f"{side}_block_out_channels describes {len(channels)} stages"
                )
            if len(set(channels)) > 1:
                raise ValueError(
                    f"{side}_block_out_channels: stages of different widths are not "
                    f"implemented, got {channels}"
                )
        check_num_layers(sum(self.num_encoder_blocks + self.num_decoder_blocks))
        down, up = len(self.num_encoder_blocks), len(self.num_decoder_blocks)
        if down != up:
            raise ValueError(f"the encoder has {down} stages and the decoder {up}")

    @property
    def downsampling_factor(self) -> int:
        """Image height over latent height."""
        return 2 ** (len(self.encoder_block_out_channels) - 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the ``config.json`` that diffusers reads."""
        options = super().to_dict()
        if not self.pooled_blocks:
            del options["pooled_blocks"]
        return options
