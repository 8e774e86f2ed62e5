"""Layers of Wan's video autoencoder, for one chunk of a video.

Every layer takes a chunk with its *past*, what it keeps of the chunks before, and
returns its output with the past of the next chunk
(:mod:`jaxinv.models.autoencoders.wan`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from jaxinv.models.layers.attention import Implementation, dot_product_attention
from jaxinv.models.layers.basic import (
    LayerFactory,
    Placeholder,
    ShapesOnly,
    nearest,
)
from jaxinv.models.layers.remat import PRODUCT, Remat, rematerialized

Frames = Float[Array, "f h w c"]
#: What a layer keeps of the chunks before: arrays in tuples; None before the first.
Past = Any


class RMSNorm(nnx.Module):
    """Scale the channels of every pixel to the root mean square ``gamma``.

    Args:
        channels: Number of channels.
        axes: Number of axes of length 1 that PyTorch stores ``gamma`` with.
        make: Layer factory.
    """

    def __init__(self, channels: int, axes: int, make: LayerFactory):
        init: Any = nnx.initializers.ones
        init = ShapesOnly.initial if isinstance(make.rngs, ShapesOnly) else init
        shape = (channels,) + (1,) * axes
        self.gamma = nnx.Param(init(None, shape, make.param_dtype))
        self.dtype = make.dtype

    def __call__(self, x: Float[Array, "*space c"]) -> Float[Array, "*space c"]:
        """Normalize over the channels."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        length = jnp.sqrt(jnp.sum(jnp.square(wide), axis=-1, keepdims=True))
        scale = self.gamma[...].reshape(-1).astype(wide.dtype) * x.shape[-1] ** 0.5
        return (wide / jnp.maximum(length, 1e-12) * scale).astype(self.dtype)


def causal(conv: nnx.Conv, x: Frames, past: Past) -> tuple[Frames, Past]:
    """Convolve a chunk with a kernel of three frames.

    Args:
        conv: The convolution, which does not pad time.
        x: The chunk.
        past: The two frames before it; None for zeros.

    Returns:
        As many frames, and the past of the next chunk.
    """
    if past is None:
        past = jnp.zeros((2, *x.shape[1:]), x.dtype)
    seen = jnp.concatenate([past, x])
    return checkpoint_name(conv(seen), PRODUCT), seen[-2:]


def through(
    layers: Sequence[Callable[..., Any]], x: Frames, past: Past
) -> tuple[Frames, Past]:
    """Apply layers in order, each with its own past."""
    pasts = []
    for layer, own in zip(layers, past or (None,) * len(layers), strict=True):
        x, own = layer(x, own)
        pasts.append(own)
    return x, tuple(pasts)


class ResidualBlock(nnx.Module):
    """Two causal convolutions of normalized activations, with a residual."""

    def __init__(self, in_channels: int, out_channels: int, make: LayerFactory):
        self.remat: Remat = "none"
        self.norm1 = RMSNorm(in_channels, 3, make)
        self.conv1 = make.conv_3d(in_channels, out_channels, (3, 3, 3), padding=1)
        self.norm2 = RMSNorm(out_channels, 3, make)
        self.conv2 = make.conv_3d(out_channels, out_channels, (3, 3, 3), padding=1)
        self.conv_shortcut = (
            None
            if in_channels == out_channels
            else make.conv_3d(in_channels, out_channels, (1, 1, 1))
        )

    @rematerialized
    def __call__(self, x: Frames, past: Past) -> tuple[Frames, Past]:
        """Apply the block to a chunk."""
        first, second = past or (None, None)
        y, first = causal(self.conv1, jax.nn.silu(self.norm1(x)), first)
        y, second = causal(self.conv2, jax.nn.silu(self.norm2(y)), second)
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return shortcut + y, (first, second)


class AttentionBlock(nnx.Module):
    """Attention with one head among the pixels of each frame, with a residual."""

    def __init__(self, channels: int, make: LayerFactory):
        self.implementation: Implementation = None
        self.remat: Remat = "none"
        self.norm = RMSNorm(channels, 2, make)
        self.to_qkv = make.conv(channels, 3 * channels, kernel=1)
        self.proj = make.conv(channels, channels, kernel=1)

    @rematerialized
    def __call__(self, x: Frames, past: Past) -> tuple[Frames, Past]:
        """Apply the block to a chunk; it has no past."""
        frames, height, width, channels = x.shape
        qkv = self.to_qkv(self.norm(x)).reshape(frames, -1, 1, 3 * channels)

        def attend(frame: Float[Array, "q 1 c3"]) -> Float[Array, "q 1 c"]:
            query, key, value = jnp.split(frame, 3, axis=-1)
            return dot_product_attention(
                query, key, value, implementation=self.implementation
            )

        y = jax.vmap(attend)(qkv).reshape(frames, height, width, channels)
        return x + self.proj(y), None


class Resample(nnx.Module):
    """Halve or double height and width, and the number of frames if ``time``.

    Args:
        channels: Channels of the input.
        out_channels: Channels of the output.
        up: Whether to double.
        time: Whether to change the number of frames, too.
        make: Layer factory.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        up: bool,
        time: bool,
        make: LayerFactory,
    ):
        self.up = up
        conv = (
            make.conv(channels, out_channels)
            if up
            else make.conv(channels, out_channels, stride=2, padding=(0, 1))
        )
        self.resample = nnx.List([Placeholder(), conv])
        width, stride = (2 * channels, 1) if up else (channels, 2)
        self.time_conv = (
            make.conv_3d(channels, width, (3, 1, 1), stride=(stride, 1, 1))
            if time
            else None
        )

    def __call__(self, x: Frames, past: Past) -> tuple[Frames, Past]:
        """Resample a chunk; the first one, of one frame, keeps its frame."""
        if self.up:
            x, past = self._doubled(x, past)
            h, w = x.shape[1:3]
            return self.resample[1](nearest(x, (2 * h, 2 * w))), past
        return self._halved(self.resample[1](x), past)

    def _doubled(self, x: Frames, past: Past) -> tuple[Frames, Past]:
        if self.time_conv is None:
            return x, None
        if past is None:
            return x, jnp.zeros((2, *x.shape[1:]), x.dtype)
        y, past = causal(self.time_conv, x, past)
        frames, h, w, c = x.shape
        pairs = jnp.moveaxis(y.reshape(frames, h, w, 2, c), 3, 1)
        return pairs.reshape(2 * frames, h, w, c), past

    def _halved(self, x: Frames, past: Past) -> tuple[Frames, Past]:
        if self.time_conv is None:
            return x, None
        if past is None:
            return x, x[-1:]
        return self.time_conv(jnp.concatenate([past, x])), x[-1:]
