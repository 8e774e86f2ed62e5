r"""The variational autoencoder of Wan, for one video.

All convolutions are causal in time: an output depends on its own frame and on earlier
ones. A video is encoded in chunks, its first frame alone and then four at a time, and a
latent is decoded frame by frame. Every convolution over time keeps the last frames that
it saw as its *past* and takes up there, so that the chunks together are one causal
convolution of the whole video, with zeros before its start:

    y[t] = sum_i K[i] x[t - 2 + i],    i = 0, 1, 2.

Only the two layers that change the number of frames treat the first frame differently:

* halving leaves frame 0 as it is, and then maps frames 2j-2, 2j-1 and 2j to frame j;
* doubling leaves frame 0 as it is, and maps frame j > 0 to two frames, with a zero in
  place of frame 0 in its past.

A video of ``4 n + 1`` frames thus has a latent of ``n + 1``. The first chunk is
computed alone; the other chunks are steps of ``jax.lax.scan``, which carries the pasts.
The memory of both networks does not grow with the number of frames. That of a
reverse-mode derivative does, by the pasts of each chunk, although each chunk is
recomputed.

References:
    Wan Team, "Wan: Open and Advanced Large-Scale Video Generative Models", 2025.
    https://arxiv.org/abs/2503.20314 (Section 4.1)
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from jaxinv.callables import LAYER
from jaxinv.models.autoencoders.kl import DiagonalGaussian
from jaxinv.models.autoencoders.wan_config import CHUNK, AutoencoderKLWanConfig
from jaxinv.models.autoencoders.wan_layers import (
    AttentionBlock,
    Frames,
    Past,
    Resample,
    ResidualBlock,
    RMSNorm,
    causal,
    through,
)
from jaxinv.models.layers.basic import LayerFactory, Model


class MidBlock(nnx.Module):
    """Two residual blocks with attention between them."""

    def __init__(self, channels: int, make: LayerFactory):
        self.resnets = nnx.List(
            [ResidualBlock(channels, channels, make) for _ in range(2)]
        )
        self.attentions = nnx.List([AttentionBlock(channels, make)])

    def __call__(self, x: Frames, past: Past) -> tuple[Frames, Past]:
        """Apply the blocks to a chunk."""
        first, last = self.resnets
        return through((first, self.attentions[0], last), x, past)


class UpBlock(nnx.Module):
    """Residual blocks, followed by upsampling except in the last block."""

    def __init__(
        self, in_channels: int, out_channels: int, layers: int, make: LayerFactory
    ):
        widths = [in_channels] + [out_channels] * (layers - 1)
        self.resnets = nnx.List(
            [ResidualBlock(width, out_channels, make) for width in widths]
        )
        self.upsamplers: nnx.List = nnx.List([])

    def __call__(self, x: Frames, past: Past) -> tuple[Frames, Past]:
        """Apply the layers to a chunk."""
        return through((*self.resnets, *self.upsamplers), x, past)


class _Ends(nnx.Module):
    """A network's first and last layers, with the blocks between them."""

    def _ends(
        self, channels: tuple[int, int], first: int, last: int, make: LayerFactory
    ) -> None:
        self.conv_in = make.conv_3d(channels[0], first, (3, 3, 3), padding=1)
        self.norm_out = RMSNorm(last, 3, make)
        self.conv_out = make.conv_3d(last, channels[1], (3, 3, 3), padding=1)

    def blocks(self) -> Sequence[Callable[..., Any]]:
        raise NotImplementedError

    def __call__(self, x: Frames, past: Past) -> tuple[Frames, Past]:
        """Apply the network to a chunk."""

        def first(x: Frames, past: Past) -> tuple[Frames, Past]:
            return causal(self.conv_in, x, past)

        def last(x: Frames, past: Past) -> tuple[Frames, Past]:
            return causal(self.conv_out, jax.nn.silu(self.norm_out(x)), past)

        return through((first, *map(_named, self.blocks()), last), x, past)


def _named(layer: Callable[..., Any]) -> Callable[..., Any]:
    """Return a layer whose output has the name of those that may be stored alone."""

    def call(x: Frames, past: Past) -> tuple[Frames, Past]:
        x, past = layer(x, past)
        return checkpoint_name(x, LAYER), past

    return call


class Encoder(_Ends):
    """Map from chunks of a video to moments: 1 frame, then 4, each to 1 frame."""

    def __init__(self, config: AutoencoderKLWanConfig, make: LayerFactory):
        widths = [config.base_dim * multiple for multiple in (1, *config.dim_mult)]
        self._ends((config.in_channels, 2 * config.z_dim), widths[0], widths[-1], make)
        layers: list[nnx.Module] = []
        for i, width in enumerate(widths[1:]):
            for before in [widths[i]] + [width] * (config.num_res_blocks - 1):
                layers.append(ResidualBlock(before, width, make))
            if i < len(config.temperal_downsample):
                time = config.temperal_downsample[i]
                layers.append(Resample(width, width, up=False, time=time, make=make))
        self.down_blocks = nnx.List(layers)
        self.mid_block = MidBlock(widths[-1], make)

    def blocks(self) -> Sequence[Callable[..., Any]]:
        """Return the blocks in order."""
        return *self.down_blocks, self.mid_block


class Decoder(_Ends):
    """Map from frames of a latent to chunks of a video: 1 frame, then 4."""

    def __init__(self, config: AutoencoderKLWanConfig, make: LayerFactory):
        base = config.decoder_base_dim or config.base_dim
        multiples = config.dim_mult[::-1]
        widths = [base * multiple for multiple in (multiples[0], *multiples)]
        self._ends((config.z_dim, config.out_channels), widths[0], widths[-1], make)
        self.mid_block = MidBlock(widths[0], make)
        times = config.temperal_downsample[::-1]
        blocks = []
        for i, width in enumerate(widths[1:]):
            before = widths[i] // 2 if i else widths[i]  # the upsampler halves them
            block = UpBlock(before, width, config.num_res_blocks + 1, make)
            if i < len(times):
                up = Resample(width, width // 2, up=True, time=times[i], make=make)
                block.upsamplers.append(up)
            blocks.append(block)
        self.up_blocks = nnx.List(blocks)

    def blocks(self) -> Sequence[Callable[..., Any]]:
        """Return the blocks in order."""
        return self.mid_block, *self.up_blocks


class AutoencoderKLWan(Model):
    """A variational autoencoder between videos and latents."""

    def build(self, config: AutoencoderKLWanConfig, make: LayerFactory) -> None:
        """Make the layers."""
        c = config.z_dim
        self.encoder = Encoder(config, make)
        self.quant_conv = make.conv_3d(2 * c, 2 * c, (1, 1, 1))
        self.post_quant_conv = make.conv_3d(c, c, (1, 1, 1))
        self.decoder = Decoder(config, make)

    def encode(self, video: Float[Array, "f h w 3"]) -> DiagonalGaussian:
        """Encode one video.

        Args:
            video: Pixels in [-1, 1]; ``4 n + 1`` frames, and height and width should be
                multiples of ``config.downsampling_factor``.

        Returns:
            The posterior over raw latents (n + 1, h / 8, w / 8, c), in the dtype of
            ``video``.

        Raises:
            ValueError: For another number of frames.
        """
        self.config.check_frames(len(video))
        moments = in_chunks(self.encoder, video.astype(self.dtype), CHUNK)
        moments = self.quant_conv(moments).astype(video.dtype)
        mean, log_var = jnp.split(moments, 2, axis=-1)
        return DiagonalGaussian(mean, jnp.clip(log_var, -30.0, 20.0))

    def decode(self, latent: Float[Array, "n h w c"]) -> Float[Array, "f H W 3"]:
        """Decode one raw latent.

        Args:
            latent: A raw latent of n frames.

        Returns:
            The video of ``4 n - 3`` frames, roughly in [-1, 1] (not clipped), in the
            dtype of ``latent``.
        """
        x = self.post_quant_conv(latent.astype(self.dtype))
        return in_chunks(self.decoder, x, 1).astype(latent.dtype)


def in_chunks(
    network: Callable[[Frames, Past], tuple[Frames, Past]], x: Frames, chunk: int
) -> Frames:
    """Apply a causal network to the first frame, and then to chunks in turn.

    Args:
        network: Map from a chunk and its past to a result and the next past.
        x: All frames: 1 more than a multiple of ``chunk``.
        chunk: Number of frames of all chunks but the first.

    Returns:
        All results.
    """
    first, past = network(x[:1], None)
    rest = x[1:].reshape(-1, chunk, *x.shape[1:])
    if not len(rest):
        return first

    @jax.checkpoint
    def step(past: Past, x: Frames) -> tuple[Past, Frames]:
        y, past = network(x, past)
        return past, y

    _, others = jax.lax.scan(step, past, rest)
    return jnp.concatenate([first, others.reshape(-1, *others.shape[2:])])
