"""Configuration of Stable Diffusion 3's transformer, in diffusers' vocabulary."""

import dataclasses
from typing import Annotated, Literal, Self

from jaxinv.checks import Length, Range
from jaxinv.models.config import Channels, Heads, Layers, ModelConfig, Pixels
from jaxinv.models.transformers.inputs import check_latent

_Numbers = tuple[Annotated[int, Range(0, 2**16)], ...]


@dataclasses.dataclass(frozen=True)
class SD3TransformerConfig(ModelConfig):
    """Settings of a :class:`~jaxinv.models.SD3Transformer2DModel`.

    The fields and defaults are those of diffusers' ``config.json``.

    Attributes:
        sample_size: Height and width of the latents that the model was trained on.
        patch_size: Latent pixels along each side of a token.
        in_channels: Channels of the input.
        num_layers: Number of blocks; the last one leaves out what it would do to the
            text.
        attention_head_dim: Features of an attention head.
        num_attention_heads: Number of attention heads.
        joint_attention_dim: Size of the text vectors.
        caption_projection_dim: Size of the projected text vectors; all features of the
            heads.
        pooled_projection_dim: Size of the vector of the whole text.
        out_channels: Channels of the output; those of the input if None.
        pos_embed_max_size: Tokens along each side of the stored table of positions, of
            which a latent takes the center; None for a table that is not stored and
            that is made for each latent's size.
        dual_attention_layers: Numbers of the blocks with a second attention, among the
            tokens of the latent alone.
        qk_norm: ``rms_norm`` if queries and keys are normalized.
    """

    class_name = "SD3Transformer2DModel"

    sample_size: Pixels = 128
    patch_size: Annotated[int, Range(1, 64)] = 2
    in_channels: Channels = 16
    num_layers: Layers = 18
    attention_head_dim: Channels = 64
    num_attention_heads: Heads = 18
    joint_attention_dim: Channels = 4096
    caption_projection_dim: Channels = 1152
    pooled_projection_dim: Channels = 2048
    out_channels: Channels | None = 16
    pos_embed_max_size: Annotated[int, Range(1, 2**12)] | None = 96
    dual_attention_layers: Annotated[_Numbers, Length(0, 1000)] = ()
    qk_norm: Literal["rms_norm"] | None = None

    def __post_init__(self):
        """Check that the options describe a model that can be built."""
        super().__post_init__()
        if self.features % 4:
            raise ValueError(
                f"attention_head_dim={self.attention_head_dim} times "
                f"num_attention_heads={self.num_attention_heads} must be a multiple of "
                "4: sines and cosines of rows and of columns"
            )
        if self.caption_projection_dim != self.features:
            raise ValueError(
                f"caption_projection_dim={self.caption_projection_dim} must be "
                f"{self.features}, the features of all heads (attention_head_dim times "
                "num_attention_heads)"
            )
        if self.patch_size > self.sample_size:
            raise ValueError(
                f"patch_size={self.patch_size} is larger than the latents "
                f"(sample_size={self.sample_size})"
            )

    @property
    def features(self) -> int:
        """Size of the vectors of tokens and text in the blocks."""
        return self.attention_head_dim * self.num_attention_heads

    @property
    def latent_outputs(self) -> int:
        """Channels of the output."""
        return self.in_channels if self.out_channels is None else self.out_channels

    def check_latent(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless the network takes latents of a shape."""
        patch, longest = self.patch_size, self.pos_embed_max_size
        check_latent(shape, (patch, patch), self.in_channels)
        height, width, _ = shape
        if longest is not None and max(height, width) > patch * longest:
            raise ValueError(
                f"height and width of a latent must be at most {patch * longest} "
                f"(patch_size times pos_embed_max_size={longest}), got {height} and "
                f"{width}"
            )

    @classmethod
    def sd3_medium(cls) -> Self:
        """Return the settings of ``stabilityai/stable-diffusion-3-medium``."""
        return cls(
            num_layers=24,
            num_attention_heads=24,
            caption_projection_dim=1536,
            pos_embed_max_size=192,
        )

    @classmethod
    def sd35_medium(cls) -> Self:
        """Return the settings of ``stabilityai/stable-diffusion-3.5-medium``."""
        return cls(
            num_layers=24,
            num_attention_heads=24,
            caption_projection_dim=1536,
            pos_embed_max_size=384,
            dual_attention_layers=tuple(range(13)),
            qk_norm="rms_norm",
        )

    @classmethod
    def sd35_large(cls) -> Self:
        """Return the settings of ``stabilityai/stable-diffusion-3.5-large``."""
        return cls(
            num_layers=38,
            num_attention_heads=38,
            caption_projection_dim=2432,
            pos_embed_max_size=192,
            qk_norm="rms_norm",
        )
