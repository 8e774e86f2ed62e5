"""The variational autoencoder of latent diffusion models, for one image.

The encoder maps an image in [-1, 1] to a diagonal Gaussian over latents whose sides are
smaller by a power of two; the decoder maps a latent back. Latents here are the raw
outputs of the network. A diffusion model works on
``(latent - shift_factor) * scaling_factor``, which the pipeline applies.

Stable Diffusion 1 and 2 have 4 latent channels and 1x1 convolutions around the latent
(``quant_conv``); Stable Diffusion 3 and FLUX have 16 channels and none.

References:
    Kingma & Welling, "Auto-Encoding Variational Bayes", 2013.
    https://arxiv.org/abs/1312.6114
    Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models",
    2022. https://arxiv.org/abs/2112.10752
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from jaxinv.callables import LAYER
from jaxinv.models.autoencoders.kl_config import AutoencoderKLConfig
from jaxinv.models.layers.attention import Attention
from jaxinv.models.layers.basic import (
    Downsample2D,
    LayerFactory,
    Model,
    Upsample2D,
    activation,
)
from jaxinv.models.layers.resnet import ResnetBlock2D

# A constant of diffusers' autoencoder that no configuration holds.
_EPSILON = 1e-6


class DiagonalGaussian(NamedTuple):
    """A Gaussian with independent components.

    Attributes:
        mean: Mean of each component.
        log_var: Logarithm of the variance of each component, within [-30, 20].
    """

    mean: Float[Array, "*f h w c"]
    log_var: Float[Array, "*f h w c"]

    @property
    def std(self) -> Float[Array, "*f h w c"]:
        """Standard deviation of each component."""
        return jnp.exp(0.5 * self.log_var)

    def mode(self) -> Float[Array, "*f h w c"]:
        """Return the most likely value, which is the mean."""
        return self.mean

    def sample(self, key: PRNGKeyArray) -> Float[Array, "*f h w c"]:
        """Draw one sample.

        Args:
            key: Random key.

        Returns:
            ``mean + std * noise``.
        """
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + self.std * noise


class _Blocks(NamedTuple):
    """Factory of the residual blocks and attention layers of one autoencoder."""

    make: LayerFactory
    groups: int
    activation: Callable[[Array], Array]

    def resnet(self, in_channels: int, out_channels: int) -> ResnetBlock2D:
        return ResnetBlock2D(
            in_channels,
            out_channels,
            time_features=None,
            groups=self.groups,
            epsilon=_EPSILON,
            activation=self.activation,
            make=self.make,
        )

    def resnets(self, in_channels: int, out_channels: int, number: int) -> nnx.List:
        widths = [in_channels] + [out_channels] * (number - 1)
        return nnx.List([self.resnet(width, out_channels) for width in widths])

    def attention(self, channels: int) -> Attention:
        return Attention(
            channels,
            heads=1,
            use_bias=True,
            norm_groups=self.groups,
            epsilon=_EPSILON,
            make=self.make,
        )


class _EncoderBlock(nnx.Module):
    """Residual blocks, followed by downsampling except in the last block."""

    def __init__(self, channels: tuple[int, int], layers: int, last: bool, b: _Blocks):
        self.resnets = b.resnets(*channels, layers)
        self.downsamplers = nnx.List(
            [] if last else [Downsample2D(channels[1], padding=0, make=b.make)]
        )

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c2"]:
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class _DecoderBlock(nnx.Module):
    """Residual blocks, followed by upsampling except in the last block."""

    def __init__(self, channels: tuple[int, int], layers: int, last: bool, b: _Blocks):
        self.resnets = b.resnets(*channels, layers)
        self.upsamplers = nnx.List(
            [] if last else [Upsample2D(channels[1], make=b.make)]
        )

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c2"]:
        for layer in (*self.resnets, *self.upsamplers):
            x = checkpoint_name(layer(x), LAYER)
        return x


class _MidBlock(nnx.Module):
    """Two residual blocks, optionally with attention between them."""

    def __init__(self, channels: int, add_attention: bool, b: _Blocks):
        self.resnets = b.resnets(channels, channels, 2)
        self.attentions = nnx.List([b.attention(channels)] if add_attention else [])

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class Encoder(nnx.Module):
    """Map from an image to the posterior's parameters: (h, w, 3) -> (h/f, w/f, 2c)."""

    def __init__(self, config: AutoencoderKLConfig, make: LayerFactory):
        channels = config.block_out_channels
        last = len(channels) - 1
        b = _Blocks(make, config.norm_num_groups, activation(config.act_fn))
        self.conv_in = make.conv(config.in_channels, channels[0])
        self.down_blocks = nnx.List(
            [
                _EncoderBlock(
                    (channels[max(i - 1, 0)], channels[i]),
                    config.layers_per_block,
                    i == last,
                    b,
                )
                for i in range(len(channels))
            ]
        )
        self.mid_block = _MidBlock(channels[-1], config.mid_block_add_attention, b)
        self.conv_norm_out = make.group_norm(b.groups, channels[-1], epsilon=_EPSILON)
        self.conv_out = make.conv(channels[-1], 2 * config.latent_channels)

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c2"]:
        """Encode one image."""
        x = self.conv_in(x)
        for block in (*self.down_blocks, self.mid_block):
            x = block(x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))


class Decoder(nnx.Module):
    """Map from a latent to an image: (h, w, c) -> (f h, f w, 3)."""

    def __init__(self, config: AutoencoderKLConfig, make: LayerFactory):
        channels = config.block_out_channels
        last = len(channels) - 1
        b = _Blocks(make, config.norm_num_groups, activation(config.act_fn))
        self.conv_in = make.conv(config.latent_channels, channels[-1])
        self.mid_block = _MidBlock(channels[-1], config.mid_block_add_attention, b)
        self.up_blocks = nnx.List(
            [
                _DecoderBlock(
                    (channels[min(i + 1, last)], channels[i]),
                    config.layers_per_block + 1,
                    i == 0,
                    b,
                )
                for i in reversed(range(len(channels)))
            ]
        )
        self.conv_norm_out = make.group_norm(b.groups, channels[0], epsilon=_EPSILON)
        self.conv_out = make.conv(channels[0], config.out_channels)

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c2"]:
        """Decode one latent."""
        x = self.conv_in(x)
        for block in (self.mid_block, *self.up_blocks):
            x = block(x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))


class AutoencoderKL(Model):
    """A variational autoencoder between images and latents."""

    def build(self, config: AutoencoderKLConfig, make: LayerFactory) -> None:
        """Make the layers."""
        c = config.latent_channels
        self.encoder = Encoder(config, make)
        self.decoder = Decoder(config, make)
        self.quant_conv = (
            make.conv(2 * c, 2 * c, kernel=1) if config.use_quant_conv else None
        )
        self.post_quant_conv = (
            make.conv(c, c, kernel=1) if config.use_post_quant_conv else None
        )

    def encode(self, image: Float[Array, "h w 3"]) -> DiagonalGaussian:
        """Encode one image.

        Args:
            image: Pixels in [-1, 1]; height and width should be multiples of
                ``config.downsampling_factor``.

        Returns:
            The posterior over raw latents (h / f, w / f, c), in the dtype of ``image``.
        """
        moments = self.encoder(image.astype(self.dtype))
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, log_var = jnp.split(moments.astype(image.dtype), 2, axis=-1)
        return DiagonalGaussian(mean, jnp.clip(log_var, -30.0, 20.0))

    def decode(self, latent: Float[Array, "h w c"]) -> Float[Array, "fh fw 3"]:
        """Decode one raw latent.

        Args:
            latent: A raw latent.

        Returns:
            The image, roughly in [-1, 1] (not clipped), in the dtype of ``latent``.
        """
        x = latent.astype(self.dtype)
        if self.post_quant_conv is not None:
            x = self.post_quant_conv(x)
        return self.decoder(x).astype(latent.dtype)
