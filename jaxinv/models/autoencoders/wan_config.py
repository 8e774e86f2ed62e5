"""Configuration of Wan's video autoencoder, in diffusers' vocabulary."""

import dataclasses
from typing import Annotated, Any, ClassVar, Self

from jaxinv.checks import Length, Range
from jaxinv.models.config import (
    Blocks,
    Channels,
    Layers,
    ModelConfig,
    check_num_layers,
)

#: Frames that diffusers encodes at a time after the first one, for every configuration.
CHUNK = 4

_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip
_PerChannel = Annotated[tuple[float, ...], Length(1, 2**16)]


@dataclasses.dataclass(frozen=True)
class AutoencoderKLWanConfig(ModelConfig):
    """Settings of an :class:`~jaxinv.models.AutoencoderKLWan`, as in ``config.json``.

    The defaults are those of Wan 2.1. The autoencoder of Wan 2.2's 5B model
    (``is_residual``, ``patch_size``) is not implemented.

    Attributes:
        base_dim: Channels of the first block of the encoder, before ``dim_mult``.
        decoder_base_dim: The same of the decoder; None for ``base_dim``.
        z_dim: Channels of the latent.
        dim_mult: Multiples of the channels, per block; all blocks but the last halve
            height and width.
        num_res_blocks: Residual blocks per encoder block (decoder blocks: one more).
        temperal_downsample: Which blocks also halve the number of frames (diffusers'
            spelling).
        dropout: Stored but not used: inference has no dropout.
        latents_mean: Diffusion latents are ``(raw - latents_mean) / latents_std``; one
            number per channel.
        latents_std: See ``latents_mean``.
        in_channels: Channels of the videos that are encoded.
        out_channels: Channels of the videos that are decoded.
        scale_factor_temporal: Frames per frame of the latent.
        scale_factor_spatial: Height of a video over height of its latent.
    """

    class_name = "AutoencoderKLWan"
    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {
        "attn_scales": ((), None),
        "is_residual": (False, None),
        "patch_size": (None,),
    }

    base_dim: Channels = 96
    decoder_base_dim: Channels | None = None
    z_dim: Channels = 16
    dim_mult: Annotated[tuple[Layers, ...], Blocks] = (1, 2, 4, 4)
    num_res_blocks: Layers = 2
    temperal_downsample: Annotated[tuple[bool, ...], Length(0, 16)] = (
        False,
        True,
        True,
    )
    dropout: Annotated[float, Range(0, 1)] = 0.0
    latents_mean: _PerChannel = _MEAN
    latents_std: _PerChannel = _STD
    in_channels: Channels = 3
    out_channels: Channels = 3
    scale_factor_temporal: int = 4
    scale_factor_spatial: int = 8

    def __post_init__(self):
        """Check that the options describe a model that can be built."""
        super().__post_init__()
        blocks = len(self.dim_mult)
        check_num_layers(blocks * (2 * self.num_res_blocks + 1))
        if len(self.temperal_downsample) != blocks - 1:
            raise ValueError(
                f"temperal_downsample must have {blocks - 1} values, one per block of "
                f"dim_mult but the last, got {len(self.temperal_downsample)}"
            )
        for name, actual in (
            ("scale_factor_temporal", 2 ** sum(self.temperal_downsample)),
            ("scale_factor_spatial", self.downsampling_factor),
        ):
            if getattr(self, name) != actual:
                raise ValueError(
                    f"{name}={getattr(self, name)} does not fit dim_mult and "
                    f"temperal_downsample, which give {actual}"
                )
        if self.scale_factor_temporal != CHUNK:
            raise ValueError(
                f"temperal_downsample={list(self.temperal_downsample)} is not "
                "implemented: two of its values must be true, because videos are "
                f"encoded in chunks of {CHUNK} frames"
            )
        for name in ("latents_mean", "latents_std"):
            if len(getattr(self, name)) != self.z_dim:
                raise ValueError(
                    f"{name} must have {self.z_dim} numbers (z_dim), got "
                    f"{len(getattr(self, name))}"
                )
        if not min(self.latents_std) > 0:
            raise ValueError(f"latents_std must be positive, got {self.latents_std}")
        for name in ("base_dim", "decoder_base_dim"):
            for multiple in self.dim_mult[1:]:
                if (getattr(self, name) or self.base_dim) * multiple % 2:
                    raise ValueError(
                        f"{name} times each of dim_mult must be even, because the "
                        "decoder halves its channels when it upsamples, got "
                        f"{getattr(self, name) or self.base_dim} times {multiple}"
                    )

    @property
    def downsampling_factor(self) -> int:
        """Height of a video over height of its latent."""
        return 2 ** (len(self.dim_mult) - 1)

    @property
    def latent_channels(self) -> int:
        """Channels of the latent."""
        return self.z_dim

    @staticmethod
    def check_frames(frames: int) -> None:
        """Raise ValueError unless videos of this many frames can be encoded."""
        if frames < 1 or frames % CHUNK != 1:
            raise ValueError(
                f"the number of frames must be 1 more than a multiple of {CHUNK} (1, "
                f"{1 + CHUNK}, {1 + 2 * CHUNK}, ...), got {frames}: the autoencoder "
                f"encodes the first frame alone and then {CHUNK} at a time"
            )

    @staticmethod
    def latent_frames(frames: int) -> int:
        """Return the number of frames of the latent of a video."""
        return (frames - 1) // CHUNK + 1

    @classmethod
    def wan21(cls) -> Self:
        """Return the settings of Wan 2.1 (480 by 832 pixels, 81 frames)."""
        return cls()
