"""The tiny autoencoder (TAESD and its relatives), for one image.

This is a distilled, deterministic replacement for the autoencoder of a diffusion model:
residual blocks of three convolutions, without normalization or attention, a few
megabytes in size. Versions exist for the latents of Stable Diffusion 1 and 2, SDXL,
Stable Diffusion 3 and FLUX. They work on the latents of the diffusion model directly.

References:
    Ollin Boer Bohan, "TAESD", https://github.com/madebyollin/taesd (MIT).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxinv.models.autoencoders.tiny_config import AutoencoderTinyConfig
from jaxinv.models.layers.basic import (
    LayerFactory,
    Model,
    Placeholder,
    activation,
    nearest,
)

# Latents beyond this magnitude are squashed before they are decoded.
_LARGEST_LATENT = 3.0
# Constants of the original, in no configuration: width and groups of the pooled branch.
_POOL_EXPANSION, _POOL_GROUPS, _POOL_EPSILON = 4, 4, 1e-5


class _Block(nnx.Module):
    """Three convolutions with a skip connection."""

    def __init__(self, channels: int, act_fn: str, pooled: bool, make: LayerFactory):
        self.activation = activation(act_fn)
        self.conv = nnx.List(
            [
                Placeholder() if i % 2 else make.conv(channels, channels)
                for i in range(5)
            ]
        )
        wide = _POOL_EXPANSION * channels
        self.pool = nnx.List(
            [
                make.conv(channels, wide, kernel=1, use_bias=False),
                make.group_norm(_POOL_GROUPS, wide, epsilon=_POOL_EPSILON),
                Placeholder(),
                make.conv(wide, channels, kernel=1, use_bias=False),
            ]
            if pooled
            else []
        )

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        if len(self.pool):
            branch = jax.nn.relu(self.pool[1](self.pool[0](x)))
            x = x + self.pool[3](branch)
        y = self.conv[0](x)
        for i in (2, 4):
            y = self.conv[i](self.activation(y))
        return jax.nn.relu(y + x)


class EncoderTiny(nnx.Module):
    """Map from an image in [0, 1] to a latent: (h, w, 3) -> (h/f, w/f, c)."""

    def __init__(self, config: AutoencoderTinyConfig, make: LayerFactory):
        layers: list[nnx.Module] = []
        channels, blocks = config.encoder_block_out_channels, config.num_encoder_blocks
        last = len(channels) - 1
        for i, (width, number) in enumerate(zip(channels, blocks, strict=True)):
            layers.append(
                make.conv(width, width, stride=2, padding=(1, 1), use_bias=False)
                if i
                else make.conv(config.in_channels, width)
            )
            pooled = config.pooled_blocks and i == last
            layers += [
                _Block(width, config.act_fn, pooled, make) for _ in range(number)
            ]
        layers.append(make.conv(channels[-1], config.latent_channels))
        self.layers = nnx.List(layers)

    def __call__(self, x: Float[Array, "h w 3"]) -> Float[Array, "h2 w2 c"]:
        """Encode one image."""
        for layer in self.layers:
            x = layer(x)
        return x


class DecoderTiny(nnx.Module):
    """Map from a latent to an image, roughly in [0, 1]: (h, w, c) -> (f h, f w, 3)."""

    def __init__(self, config: AutoencoderTinyConfig, make: LayerFactory):
        channels, blocks = config.decoder_block_out_channels, config.num_decoder_blocks
        last = len(channels) - 1
        layers: list[nnx.Module] = [
            make.conv(config.latent_channels, channels[0]),
            Placeholder(),
        ]
        for i, (width, number) in enumerate(zip(channels, blocks, strict=True)):
            pooled = config.pooled_blocks and i == 0
            layers += [
                _Block(width, config.act_fn, pooled, make) for _ in range(number)
            ]
            if i < last:
                layers += [Placeholder(), make.conv(width, width, use_bias=False)]
            else:
                layers.append(make.conv(width, config.out_channels))
        self.activation = activation(config.act_fn)
        self.layers = nnx.List(layers)

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 3"]:
        """Decode one latent."""
        x = _LARGEST_LATENT * jnp.tanh(x / _LARGEST_LATENT)
        for i, layer in enumerate(self.layers):
            if not isinstance(layer, Placeholder):
                x = layer(x)
            elif i == 1:
                x = self.activation(x)
            else:
                x = nearest(x, (2 * x.shape[0], 2 * x.shape[1]))
        return x


class AutoencoderTiny(Model):
    """A small deterministic autoencoder between images and latents."""

    def build(self, config: AutoencoderTinyConfig, make: LayerFactory) -> None:
        """Make the layers."""
        self.encoder = EncoderTiny(config, make)
        self.decoder = DecoderTiny(config, make)

    def encode(self, image: Float[Array, "h w 3"]) -> Float[Array, "h2 w2 c"]:
        """Encode one image.

        Args:
            image: Pixels in [-1, 1]; height and width multiples of
                ``config.downsampling_factor``.

        Returns:
            The latent (h / f, w / f, c), in the dtype of ``image``.
        """
        x = (image.astype(self.dtype) + 1) / 2
        return self.encoder(x).astype(image.dtype)

    def decode(self, latent: Float[Array, "h w c"]) -> Float[Array, "fh fw 3"]:
        """Decode one latent.

        Args:
            latent: A latent.

        Returns:
            The image, roughly in [-1, 1] (not clipped), in the dtype of ``latent``.
        """
        x = self.decoder(latent.astype(self.dtype))
        return (2 * x - 1).astype(latent.dtype)
