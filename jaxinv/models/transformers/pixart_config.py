"""Configuration of PixArt's transformer, in diffusers' vocabulary."""

import dataclasses
from typing import Annotated, ClassVar, Literal, Self

from jaxinv.checks import Range
from jaxinv.models.config import (
    Channels,
    Epsilon,
    Factor,
    Groups,
    Heads,
    Layers,
    ModelConfig,
    Pixels,
)
from jaxinv.models.transformers.inputs import check_latent


@dataclasses.dataclass(frozen=True)
class PixArtTransformerConfig(ModelConfig):
    """Settings of a :class:`~jaxinv.models.PixArtTransformer2DModel`.

    The fields and defaults are those of diffusers' ``config.json``.

    Attributes:
        num_attention_heads: Number of attention heads.
        attention_head_dim: Features of an attention head.
        in_channels: Channels of the latent.
        out_channels: Channels of the output: those of the latent, or twice as many with
            a variance; those of the latent if None.
        num_layers: Number of blocks.
        dropout: Has no effect.
        norm_num_groups: Has no effect.
        cross_attention_dim: Size of the text vectors that blocks attend to.
        attention_bias: Whether queries, keys and values have biases.
        sample_size: Height and width of the latents that the model was trained on.
        patch_size: Latent pixels along each side of a token.
        activation_fn: Activation of the position-wise networks.
        num_embeds_ada_norm: Has no effect.
        upcast_attention: Whether attention is computed in float32.
        norm_type: The blocks' kind.
        norm_eps: Added to the variances in the blocks.
        interpolation_scale: Divisor of the positions; ``sample_size / 64``, at least 1,
            if None.
        use_additional_conditions: Whether the size of the image and its aspect ratio
            are inputs; those of ``sample_size=128`` if None.
        caption_channels: Size of the text encoder's vectors, which are projected; None
            for no projection.
    """

    class_name = "PixArtTransformer2DModel"
    unsupported: ClassVar = {
        "attention_type": ("default", None),
        "norm_elementwise_affine": (False,),
        # Options of Transformer2DModel, as which the networks were published.
        **dict.fromkeys(
            (
                "double_self_attention",
                "only_cross_attention",
                "use_linear_projection",
            ),
            (False,),
        ),
    }

    num_attention_heads: Heads = 16
    attention_head_dim: Channels = 72
    in_channels: Channels = 4
    out_channels: Channels | None = 8
    num_layers: Layers = 28
    dropout: Annotated[float, Range(0, 1)] = 0.0
    norm_num_groups: Groups = 32
    cross_attention_dim: Channels = 1152
    attention_bias: bool = True
    sample_size: Pixels = 128
    patch_size: Annotated[int, Range(1, 64)] = 2
    activation_fn: Literal["gelu-approximate"] = "gelu-approximate"
    num_embeds_ada_norm: Annotated[int, Range(1, 2**20)] = 1000
    upcast_attention: bool = False
    norm_type: Literal["ada_norm_single"] = "ada_norm_single"
    norm_eps: Epsilon = 1e-6
    interpolation_scale: Factor | None = None
    use_additional_conditions: bool | None = None
    caption_channels: Channels | None = None

    def __post_init__(self):
        """Check that the options describe a model that can be built."""
        super().__post_init__()
        if self.features % 4 or (self.sized and self.features % 3):
            raise ValueError(
                f"attention_head_dim={self.attention_head_dim} times "
                f"num_attention_heads={self.num_attention_heads} must be a multiple of "
                "4, and of 3 for models that read the size of the image"
            )
        if self.caption_channels is not None and (
            self.cross_attention_dim != self.features
        ):
            raise ValueError(
                f"cross_attention_dim={self.cross_attention_dim} must be "
                f"{self.features}, the features of all heads, to which texts are "
                "projected (caption_channels)"
            )
        if self.outputs not in (self.in_channels, 2 * self.in_channels):
            raise ValueError(
                f"out_channels={self.out_channels} must be in_channels="
                f"{self.in_channels}, or twice as many with a variance"
            )
        if self.patch_size > self.sample_size:
            raise ValueError(
                f"patch_size={self.patch_size} is larger than the latents "
                f"(sample_size={self.sample_size})"
            )

    @property
    def features(self) -> int:
        """Size of the vectors of tokens."""
        return self.attention_head_dim * self.num_attention_heads

    @property
    def outputs(self) -> int:
        """Channels of the output, with those of a variance."""
        return self.in_channels if self.out_channels is None else self.out_channels

    @property
    def text_features(self) -> int:
        """Size of the text encoder's vectors."""
        if self.caption_channels is None:
            return self.cross_attention_dim
        return self.caption_channels

    @property
    def sized(self) -> bool:
        """Whether the size of the image and its aspect ratio are inputs."""
        if self.use_additional_conditions is None:
            return self.sample_size == 128
        return self.use_additional_conditions

    @property
    def position_scale(self) -> float:
        """Divisor of the positions."""
        if self.interpolation_scale is None:
            return max(self.sample_size // 64, 1)
        return self.interpolation_scale

    def check_latent(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless a latent of a shape is a whole number of tokens."""
        check_latent(shape, (self.patch_size, self.patch_size), self.in_channels)

    @classmethod
    def sigma_1024(cls) -> Self:
        """Return the settings of ``PixArt-alpha/PixArt-Sigma-XL-2-1024-MS``."""
        return cls(
            interpolation_scale=2,
            use_additional_conditions=False,
            caption_channels=4096,
        )

    @classmethod
    def alpha_1024(cls) -> Self:
        """Return the settings of ``PixArt-alpha/PixArt-XL-2-1024-MS``."""
        return cls(caption_channels=4096)
