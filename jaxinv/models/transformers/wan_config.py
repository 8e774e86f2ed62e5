"""Configuration of Wan's transformer, in diffusers' vocabulary."""

import dataclasses
from typing import Annotated, Any, ClassVar, Literal, Self

from jaxinv.checks import Length, Range
from jaxinv.models.config import (
    Channels,
    Epsilon,
    Heads,
    ModelConfig,
    check_num_layers,
)
from jaxinv.models.transformers.inputs import check_latent

_Depth = Annotated[int, Range(0, 128)]
_Patch = Annotated[tuple[Annotated[int, Range(1, 16)], ...], Length(3, 3)]


@dataclasses.dataclass(frozen=True)
class WanTransformer3DConfig(ModelConfig):
    """Settings of a :class:`~jaxinv.models.WanTransformer3DModel`.

    The fields and defaults are those of diffusers' ``config.json``. Models that make
    videos from images (``image_dim``, ``added_kv_proj_dim``, ``pos_embed_seq_len``) are
    not implemented.

    Attributes:
        patch_size: Frames, rows and columns of the latent in a token.
        num_attention_heads: Number of attention heads.
        attention_head_dim: Features of an attention head, an even number.
        in_channels: Channels of the latent.
        out_channels: Channels of the output; ``in_channels`` if None.
        text_dim: Size of the text vectors.
        freq_dim: Size of the sinusoidal embedding of the time, an even number.
        ffn_dim: Size between the layers of the position-wise networks.
        num_layers: Number of blocks.
        cross_attn_norm: Whether tokens are normalized before they attend to the text.
        qk_norm: Queries and keys are divided by the root mean square of all heads.
        eps: Added to the variances of all norms.
        rope_max_seq_len: Largest number of tokens along each axis.
    """

    class_name = "WanTransformer3DModel"
    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = dict.fromkeys(
        ("image_dim", "added_kv_proj_dim", "pos_embed_seq_len"), (None,)
    )

    patch_size: _Patch = (1, 2, 2)
    num_attention_heads: Heads = 40
    attention_head_dim: Channels = 128
    in_channels: Channels = 16
    out_channels: Channels | None = 16
    text_dim: Channels = 4096
    freq_dim: Channels = 256
    ffn_dim: Channels = 13824
    num_layers: _Depth = 40
    cross_attn_norm: bool = True
    qk_norm: Literal["rms_norm_across_heads"] = "rms_norm_across_heads"
    eps: Epsilon = 1e-6
    rope_max_seq_len: Annotated[int, Range(1, 2**16)] = 1024

    def __post_init__(self):
        """Check that the options describe a model that can be built."""
        super().__post_init__()
        check_num_layers(self.num_layers)
        for name in ("attention_head_dim", "freq_dim"):
            if getattr(self, name) % 2:
                raise ValueError(f"{name}={getattr(self, name)} must be even")

    @property
    def features(self) -> int:
        """Size of the network's vectors."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def axes(self) -> tuple[int, int, int]:
        """Features of a head that frame, row and column rotate."""
        size = 2 * (self.attention_head_dim // 6)
        return self.attention_head_dim - 2 * size, size, size

    @property
    def channels_out(self) -> int:
        """Channels of the output."""
        return self.in_channels if self.out_channels is None else self.out_channels

    def check_latent(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless latents of a shape can be cut into tokens."""
        patch = self.patch_size
        check_latent(shape, patch, self.in_channels)
        longest = max(n // size for n, size in zip(shape, patch, strict=False))
        if longest > self.rope_max_seq_len:
            raise ValueError(
                f"a latent of shape {shape} has {longest} tokens along one axis, but "
                f"this model has positions for {self.rope_max_seq_len} "
                "(rope_max_seq_len)"
            )

    @classmethod
    def wan21_1_3b(cls) -> Self:
        """Return the settings of Wan 2.1, text to video, 1.3B."""
        return cls(num_attention_heads=12, ffn_dim=8960, num_layers=30)

    @classmethod
    def wan21_14b(cls) -> Self:
        """Return the settings of Wan 2.1, text to video, 14B."""
        return cls()
