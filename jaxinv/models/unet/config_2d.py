"""Configuration of the UNet of pixel-space diffusion, in diffusers' vocabulary."""

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

_Down = Literal["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"]
_Up = Literal["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"]


@dataclasses.dataclass(frozen=True)
class UNet2DConfig(ModelConfig):
    """Settings of a :class:`~jaxinv.models.UNet2DModel`.

    The fields and defaults are those of diffusers' ``config.json``. The blocks of
    NCSN++ (``SkipDownBlock2D`` and the like) are not implemented.

    Attributes:
        sample_size: Height and width of the images the model was trained on.
        in_channels: Channels of the input.
        out_channels: Channels of the output; twice the input's for models that also
            predict a variance.
        center_input_sample: Whether inputs in [0, 1] are mapped to [-1, 1] first.
        time_embedding_type: ``positional`` (sines and cosines), ``fourier`` (of random
            multiples of the logarithm of the noise level) or ``learned`` (a table).
        time_embedding_dim: Size of the time embedding; four times the first block's
            channels if None.
        freq_shift: Shift of the positional embedding's frequencies.
        flip_sin_to_cos: Whether cosines come first in it.
        down_block_types: ``DownBlock2D``, ``AttnDownBlock2D`` or
            ``ResnetDownsampleBlock2D``, per block.
        mid_block_type: ``UNetMidBlock2D`` or None.
        up_block_types: ``UpBlock2D``, ``AttnUpBlock2D`` or ``ResnetUpsampleBlock2D``,
            from the bottom up.
        block_out_channels: Channels, per block.
        layers_per_block: Residual blocks per down block (up blocks have one more).
        mid_block_scale_factor: Divisor of the outputs of the middle's layers.
        downsample_padding: 1, or 0 for padding below and to the right only.
        downsample_type: ``conv`` or ``resnet``, of blocks with attention.
        upsample_type: ``conv`` or ``resnet``, of blocks with attention.
        dropout: Stored but not used: inference has no dropout.
        act_fn: Activation function of the residual blocks.
        attention_head_dim: Channels of an attention head; all of them if None.
        norm_num_groups: Groups of the group normalizations.
        attn_norm_num_groups: Groups of the normalization of the middle's attention. If
            None, it has ``norm_num_groups``, and there is none with ``scale_shift``.
        norm_eps: Added to the variances of the normalizations.
        resnet_time_scale_shift: ``default`` or ``scale_shift``.
        add_attention: Whether the middle has attention.
        class_embed_type: What the condition is: None for a label in
            ``num_class_embeds``, if that is given; ``timestep`` for a number that is
            embedded as the time is; ``identity`` for a vector that is added to the time
            embedding.
        num_class_embeds: Number of labels, or None for an unconditional model.
        num_train_timesteps: Size of the table of ``time_embedding_type="learned"``.
    """

    class_name = "UNet2DModel"

    sample_size: Size | None = None
    in_channels: Channels = 3
    out_channels: Channels = 3
    center_input_sample: bool = False
    time_embedding_type: Literal["positional", "fourier", "learned"] = "positional"
    time_embedding_dim: Channels | None = None
    freq_shift: Annotated[float, Range(-1e3, 1e3)] = 0
    flip_sin_to_cos: bool = True
    down_block_types: Annotated[tuple[_Down, ...], Blocks] = (
        "DownBlock2D",
    ) + ("AttnDownBlock2D",) * 3  # fmt: skip
    mid_block_type: Literal["UNetMidBlock2D"] | None = "UNetMidBlock2D"
    up_block_types: Annotated[tuple[_Up, ...], Blocks] = ("AttnUpBlock2D",) * 3 + (
        "UpBlock2D",
    )
    block_out_channels: Annotated[tuple[Channels, ...], Blocks] = (224, 448, 672, 896)
    layers_per_block: Layers = 2
    mid_block_scale_factor: Factor = 1.0
    downsample_padding: Literal[0, 1] = 1
    downsample_type: Literal["conv", "resnet"] = "conv"
    upsample_type: Literal["conv", "resnet"] = "conv"
    dropout: Annotated[float, Range(0, 1)] = 0.0
    act_fn: Activation = "silu"
    attention_head_dim: Heads | None = 8
    norm_num_groups: Groups = 32
    attn_norm_num_groups: Groups | None = None
    norm_eps: Epsilon = 1e-5
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    add_attention: bool = True
    class_embed_type: Literal["timestep", "identity"] | None = None
    num_class_embeds: Channels | None = None
    num_train_timesteps: Annotated[int, Range(1, 2**20)] | None = None

    def __post_init__(self):
        """Check that the options describe a model that can be built."""
        super().__post_init__()
        for name in ("down_block_types", "up_block_types"):
            per_block(name, getattr(self, name), len(self.block_out_channels))
        check_num_layers((2 * self.layers_per_block + 1) * len(self.block_out_channels))
        for channels, attends in zip(
            self.block_out_channels, self._attends(), strict=True
        ):
            if channels % self.norm_num_groups:
                raise ValueError(
                    f"a block of {channels} channels cannot have "
                    f"norm_num_groups={self.norm_num_groups} groups"
                )
            if attends and channels % (self.attention_head_dim or 1):
                raise ValueError(
                    f"a block of {channels} channels cannot be split into heads of "
                    f"attention_head_dim={self.attention_head_dim}"
                )
        last = self.block_out_channels[-1]
        if last % (self.attn_norm_num_groups or 1):
            raise ValueError(
                f"the middle's {last} channels cannot have "
                f"attn_norm_num_groups={self.attn_norm_num_groups} groups"
            )
        self._check_time()

    def _attends(self) -> list[bool]:
        """Return which blocks have attention on the way down, up or at the end."""
        types = zip(self.down_block_types, self.up_block_types[::-1], strict=True)
        found = [any(kind.startswith("Attn") for kind in pair) for pair in types]
        if self.mid_block_type is not None and self.add_attention:
            found[-1] = True
        return found

    def _check_time(self) -> None:
        """Check the options of the time embedding."""
        half = self.block_out_channels[0] // 2
        positional = self.time_embedding_type == "positional"
        if positional and self.freq_shift >= max(half, 1):
            raise ValueError(
                f"freq_shift={self.freq_shift!r} must be less than the {half} "
                "frequencies of the timestep embedding (half of block_out_channels[0])"
            )
        if self.time_embedding_type == "learned" and self.num_train_timesteps is None:
            raise ValueError(
                "time_embedding_type='learned' needs the size of its table, "
                "num_train_timesteps"
            )
        if self.class_embed_type == "timestep" and not positional:
            raise ValueError(
                "class_embed_type='timestep' is implemented for "
                "time_embedding_type='positional' only"
            )

    @property
    def is_conditional(self) -> bool:
        """Whether the network is given a condition."""
        return self.class_embed_type is not None or self.num_class_embeds is not None

    def heads(self, channels: int) -> int:
        """Return the number of attention heads of a block."""
        return channels // (self.attention_head_dim or channels)

    @classmethod
    def ddpm_cifar10(cls) -> Self:
        """Return the settings of ``google/ddpm-cifar10-32``."""
        return cls(
            sample_size=32,
            block_out_channels=(128, 256, 256, 256),
            down_block_types=("DownBlock2D", "AttnDownBlock2D") + ("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2 + ("AttnUpBlock2D", "UpBlock2D"),
            **_DDPM,
        )

    @classmethod
    def ddpm_256(cls) -> Self:
        """Return the settings of ``google/ddpm-celebahq-256`` and ``-cat-256``.

        The other models of 256 pixels (church, bedroom) and the ``-ema-`` ones have
        them, too.
        """
        return cls(
            sample_size=256,
            block_out_channels=(128, 128, 256, 256, 512, 512),
            down_block_types=("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
            **_DDPM,
        )


# What the published models of Ho et al. 2020 have in common.
_DDPM: dict[str, Any] = {
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
