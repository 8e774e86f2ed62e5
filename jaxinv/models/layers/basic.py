"""The layers that all models share, for one sample in channels-last layout.

Everything takes ``(h, w, c)`` or ``(l, d)`` arrays with no batch axis. Convolutions pad
explicitly as PyTorch does (XLA's ``SAME`` pads a stride-2 convolution on the other
side). Normalisation statistics are computed in at least float32, over one sample.

A :class:`LayerFactory` carries the compute dtype, the parameter dtype and the random
stream, so that model code states shapes only.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxinv.models.layers.convolution import conv_general_dilated


class GroupNorm(nnx.Module):
    """Group normalisation of one sample over its spatial axes.

    ``nnx.GroupNorm`` takes the first axis for a batch; here there is none. Channel sums
    are formed first and combined into groups afterwards, so that the reduction over
    positions runs along contiguous channels. The variance is the two-pass one.

    References:
        Wu & He, "Group Normalization", 2018. https://arxiv.org/abs/1803.08494
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        *,
        epsilon: float,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
    ):
        if num_channels % num_groups:
            raise ValueError(
                f"{num_channels} channels cannot be split into {num_groups} groups"
            )
        self.num_groups = num_groups
        self.epsilon = epsilon
        self.dtype = dtype
        self.scale = nnx.Param(jnp.ones((num_channels,), param_dtype))
        self.bias = nnx.Param(jnp.zeros((num_channels,), param_dtype))

    def __call__(self, x: Float[Array, "*space c"]) -> Float[Array, "*space c"]:
        """Normalises each group of channels over all positions."""
        stats_dtype = jnp.promote_types(x.dtype, jnp.float32)
        space = tuple(range(x.ndim - 1))

        def group_mean(values):
            means = jnp.mean(values, axis=space).reshape(self.num_groups, -1).mean(1)
            return jnp.repeat(means, values.shape[-1] // self.num_groups)

        centred = x.astype(stats_dtype)
        centred = centred - group_mean(centred)
        inverse_std = jax.lax.rsqrt(group_mean(jnp.square(centred)) + self.epsilon)
        scale = inverse_std * self.scale[...].astype(stats_dtype)
        y = centred * scale + self.bias[...].astype(stats_dtype)
        return y.astype(self.dtype)


class LayerFactory(NamedTuple):
    """Makes layers that share one compute dtype, parameter dtype and random stream.

    Attributes:
        dtype: Data type that activations are computed in.
        param_dtype: Data type that parameters are stored in.
        rngs: Random streams for initialisation.
    """

    dtype: jnp.dtype
    param_dtype: jnp.dtype
    rngs: nnx.Rngs

    def conv(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        padding: tuple[int, int] | None = None,
        use_bias: bool = True,
    ) -> nnx.Conv:
        """A square convolution; ``padding`` is (before, after), half by default."""
        padding = (kernel // 2, kernel // 2) if padding is None else padding
        return nnx.Conv(
            in_channels,
            out_channels,
            (kernel, kernel),
            strides=(stride, stride),
            padding=(padding, padding),
            use_bias=use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            conv_general_dilated=conv_general_dilated,
            rngs=self.rngs,
        )

    def linear(
        self, in_features: int, out_features: int, *, use_bias: bool = True
    ) -> nnx.Linear:
        """A dense layer."""
        return nnx.Linear(
            in_features,
            out_features,
            use_bias=use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            rngs=self.rngs,
        )

    def embedding(self, num_embeddings: int, features: int) -> nnx.Embed:
        """A table of vectors."""
        return nnx.Embed(
            num_embeddings,
            features,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            rngs=self.rngs,
        )

    def layer_norm(self, features: int, *, epsilon: float = 1e-5) -> nnx.LayerNorm:
        """Layer normalisation over the last axis."""
        return nnx.LayerNorm(
            features,
            epsilon=epsilon,
            use_fast_variance=False,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            rngs=self.rngs,
        )

    def group_norm(
        self, num_groups: int, num_channels: int, *, epsilon: float
    ) -> GroupNorm:
        """Group normalisation over the spatial axes."""
        return GroupNorm(
            num_groups,
            num_channels,
            epsilon=epsilon,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )


class Placeholder(nnx.Module):
    """Stands for a layer without parameters, so that indices stay diffusers'."""


class Downsample2D(nnx.Module):
    """Halves height and width with a strided 3x3 convolution.

    Args:
        channels: Number of channels in and out.
        padding: 1 pads all sides. 0 pads one row below and one column to the right,
            which is how the autoencoder was trained.
        make: Layer factory.
    """

    def __init__(self, channels: int, *, padding: int, make: LayerFactory):
        pad = (0, 1) if padding == 0 else (padding, padding)
        self.conv = make.conv(channels, channels, stride=2, padding=pad)

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c"]:
        """Returns an array of half the size, rounded up."""
        return self.conv(x)


class Upsample2D(nnx.Module):
    """Doubles height and width by repetition, then convolves."""

    def __init__(self, channels: int, *, make: LayerFactory):
        self.conv = make.conv(channels, channels)

    def __call__(
        self, x: Float[Array, "h w c"], size: tuple[int, int] | None = None
    ) -> Float[Array, "h2 w2 c"]:
        """Returns an array of twice the size, or of ``size`` (h, w) if given."""
        size = (2 * x.shape[0], 2 * x.shape[1]) if size is None else size
        return self.conv(nearest(x, size))


def nearest(x: Float[Array, "h w c"], size: tuple[int, int]) -> Float[Array, "..."]:
    """Nearest-neighbour resize: output i takes input floor(i * old / new)."""
    h, w, c = x.shape
    if size == (2 * h, 2 * w):
        x = jnp.broadcast_to(x[:, None, :, None, :], (h, 2, w, 2, c))
        return x.reshape(2 * h, 2 * w, c)
    rows, columns = (
        np.arange(n) * old // n for n, old in zip(size, (h, w), strict=True)
    )
    return x[rows][:, columns]


class TimestepEmbedding(nnx.Module):
    """A two-layer network on top of the sinusoidal embedding of the timestep."""

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        activation: Callable[[Array], Array],
        make: LayerFactory,
    ):
        self.linear_1 = make.linear(in_features, features)
        self.activation = activation
        self.linear_2 = make.linear(features, features)

    def __call__(self, x: Float[Array, " n"]) -> Float[Array, " d"]:
        """Returns the embedding that residual blocks are conditioned on."""
        return self.linear_2(self.activation(self.linear_1(x)))


def sinusoidal_embedding(
    timestep: Float[Array, ""] | float,
    dim: int,
    *,
    flip_sin_to_cos: bool,
    freq_shift: float,
    max_period: float = 10_000.0,
) -> Float[Array, " dim"]:
    """Embeds a (possibly fractional) timestep into sines and cosines.

    Args:
        timestep: Scalar model time.
        dim: Number of features.
        flip_sin_to_cos: Cosines first if true.
        freq_shift: Shift of the denominator of the frequencies' exponent.
        max_period: Longest period.

    Returns:
        Features, at least float32.

    References:
        Ho et al., "Denoising Diffusion Probabilistic Models", 2020.
        https://arxiv.org/abs/2006.11239
    """
    half = dim // 2
    # The exponent is rounded to float32 on purpose: at t = 999 the phase is sensitive
    # to the last bit of the frequency, and networks were trained with these roundings.
    exponent = np.float32(-math.log(max_period)) * np.arange(half, dtype=np.float32)
    frequencies = np.exp(exponent / np.float32(half - freq_shift))
    timestep = jnp.asarray(timestep)
    phase = timestep.astype(jnp.promote_types(timestep.dtype, jnp.float32))
    phase = phase * frequencies
    parts = [jnp.sin(phase), jnp.cos(phase)]
    if flip_sin_to_cos:
        parts.reverse()
    return jnp.pad(jnp.concatenate(parts), (0, dim % 2))


def quick_gelu(x: Array) -> Array:
    """The sigmoid approximation of GELU that OpenAI's CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: Array) -> Array:
    """GELU with the exact error function, PyTorch's default."""
    return jax.nn.gelu(x, approximate=False)


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "mish": jax.nn.mish,
    "gelu": gelu,
    "relu": jax.nn.relu,
    "quick_gelu": quick_gelu,
}


def activation(name: str) -> Callable[[Array], Array]:
    """Looks an activation up by the name that PyTorch configurations use.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in _ACTIVATIONS:
        known = ", ".join(sorted(_ACTIVATIONS))
        raise ValueError(f"activation {name!r} is not implemented (known: {known})")
    return _ACTIVATIONS[name]
