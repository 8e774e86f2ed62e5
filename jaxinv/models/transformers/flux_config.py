"""Configuration of FLUX.1's transformer, in diffusers' vocabulary."""

import dataclasses
from typing import Annotated, Literal, Self

from jaxinv.checks import Length, Range
from jaxinv.models.config import Channels, Heads, ModelConfig, check_num_layers
from jaxinv.models.transformers.inputs import check_latent

#: Latent pixels along each side of a token.
PATCH = 2
_Depth = Annotated[int, Range(0, 128)]
_AxisSize = Annotated[int, Range(2, 2**12)]


@dataclasses.dataclass(frozen=True)
class FluxTransformer2DConfig(ModelConfig):
    """Settings of a :class:`~jaxinv.models.FluxTransformer2DModel`.

    The fields and defaults are those of diffusers' ``config.json``. Channels are those
    of a token, 2x2 pixels of the latent: a latent of 16 channels has
    ``in_channels=64``.

    Attributes:
        patch_size: 1: tokens are made before the network's first layer.
        in_channels: Channels of a token; a multiple of 4.
        out_channels: Channels of a token of the output; ``in_channels`` if None.
        num_layers: Number of blocks with two streams.
        num_single_layers: Number of blocks with one stream.
        attention_head_dim: Features of an attention head.
        num_attention_heads: Number of attention heads.
        joint_attention_dim: Size of the text vectors.
        pooled_projection_dim: Size of the pooled text vector.
        guidance_embeds: Whether the guidance scale is an input (dev).
        axes_dims_rope: Features of a head that are rotated by the position along each
            of three axes, of which the last two are height and width; even numbers
            whose sum is ``attention_head_dim``.
    """

    class_name = "FluxTransformer2DModel"

    patch_size: Literal[1] = 1
    in_channels: Channels = 64
    out_channels: Channels | None = None
    num_layers: _Depth = 19
    num_single_layers: _Depth = 38
    attention_head_dim: Channels = 128
    num_attention_heads: Heads = 24
    joint_attention_dim: Channels = 4096
    pooled_projection_dim: Channels = 768
    guidance_embeds: bool = False
    axes_dims_rope: Annotated[tuple[_AxisSize, ...], Length(3, 3)] = (16, 56, 56)

    def __post_init__(self):
        """Check that the options describe a model that can be built."""
        super().__post_init__()
        check_num_layers(self.num_layers + self.num_single_layers)
        for name in ("in_channels", "out_channels"):
            value = getattr(self, name)
            if value is not None and value % PATCH**2:
                raise ValueError(
                    f"{name}={value} must be a multiple of {PATCH**2}: a token is "
                    f"{PATCH}x{PATCH} pixels of the latent"
                )
        axes = self.axes_dims_rope
        if sum(axes) != self.attention_head_dim or any(size % 2 for size in axes):
            raise ValueError(
                f"axes_dims_rope={list(axes)} must be even numbers whose sum is "
                f"attention_head_dim={self.attention_head_dim}"
            )

    @property
    def features(self) -> int:
        """Size of the network's vectors."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def latent_channels(self) -> tuple[int, int]:
        """Channels of the latent and of the network's output."""
        given = self.in_channels
        out = given if self.out_channels is None else self.out_channels
        return given // PATCH**2, out // PATCH**2

    def check_latent(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless a latent of a shape is a whole number of tokens."""
        check_latent(shape, (PATCH, PATCH), self.latent_channels[0])

    @classmethod
    def dev(cls) -> Self:
        """Return the settings of FLUX.1 [dev]."""
        return cls(guidance_embeds=True)

    @classmethod
    def schnell(cls) -> Self:
        """Return the settings of FLUX.1 [schnell]."""
        return cls()
