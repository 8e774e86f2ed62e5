"""Layers shared by all models, for one sample in channels-last layout.

Inputs are ``(h, w, c)`` or ``(l, d)`` arrays without a batch axis. Convolutions pad
explicitly as PyTorch does (XLA's ``SAME`` pads a stride-2 convolution on the other
side). Normalization statistics are computed in at least float32, over one sample.

A :class:`LayerFactory` holds the compute dtype, the parameter dtype and the random
stream, so that model code only states shapes.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxinv.models.layers.convolution import conv_frames, conv_general_dilated


class GroupNorm(nnx.Module):
    """Group normalization of one sample over its spatial axes.

    ``nnx.GroupNorm`` treats the first axis as a batch, which does not exist here.
    Channel sums are computed first and then combined into groups, so that the reduction
    over positions runs along contiguous channels. The variance takes two passes.

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
        scale_init: Callable[..., Any] = nnx.initializers.ones,
        bias_init: Callable[..., Any] = nnx.initializers.zeros,
        rngs: Any = None,
    ):
        if num_channels % num_groups:
            raise ValueError(
                f"{num_channels} channels cannot be split into {num_groups} groups"
            )
        self.num_groups = num_groups
        self.epsilon = epsilon
        self.dtype = dtype
        del rngs  # nothing is drawn
        self.scale = nnx.Param(scale_init(None, (num_channels,), param_dtype))
        self.bias = nnx.Param(bias_init(None, (num_channels,), param_dtype))

    def __call__(self, x: Float[Array, "*space c"]) -> Float[Array, "*space c"]:
        """Normalize each group of channels over all positions."""
        stats_dtype = jnp.promote_types(x.dtype, jnp.float32)
        space = tuple(range(x.ndim - 1))

        def group_mean(values):
            means = jnp.mean(values, axis=space).reshape(self.num_groups, -1).mean(1)
            return jnp.repeat(means, values.shape[-1] // self.num_groups)

        centered = x.astype(stats_dtype)
        centered = centered - group_mean(centered)
        inverse_std = jax.lax.rsqrt(group_mean(jnp.square(centered)) + self.epsilon)
        scale = inverse_std * self.scale[...].astype(stats_dtype)
        y = centered * scale + self.bias[...].astype(stats_dtype)
        return y.astype(self.dtype)


class ShapesOnly:
    """A replacement for ``nnx.Rngs`` with which parameters are shapes without values.

    Tracing initializers, as ``nnx.eval_shape`` does, takes a second for a small UNet.
    """

    def params(self) -> None:
        """Return no key: nothing is drawn."""

    @staticmethod
    def initial(_key: None, shape: Any, dtype: DTypeLike) -> jax.ShapeDtypeStruct:
        """Return a shape, in place of an initializer's values."""
        # An initializer makes no 64-bit numbers unless JAX has them.
        return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(dtype))


class LayerFactory(NamedTuple):
    """Factory of layers with one compute dtype, parameter dtype and random stream.

    Attributes:
        dtype: Data type that activations are computed in.
        param_dtype: Data type that parameters are stored in.
        rngs: Random streams for initialization; or :class:`ShapesOnly`.
    """

    dtype: jnp.dtype
    param_dtype: jnp.dtype
    rngs: nnx.Rngs | ShapesOnly

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
        """Return a square convolution padded by (before, after), half by default."""
        padding = (kernel // 2, kernel // 2) if padding is None else padding
        return nnx.Conv(
            in_channels,
            out_channels,
            (kernel, kernel),
            strides=(stride, stride),
            padding=(padding, padding),
            use_bias=use_bias,
            conv_general_dilated=conv_general_dilated,
            **self._common("kernel", "bias"),
        )

    def conv_3d(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, ...],
        *,
        stride: tuple[int, ...] = (1, 1, 1),
        padding: int = 0,
    ) -> nnx.Conv:
        """Return a convolution over frames, rows and columns.

        ``padding`` is that of rows and columns, on both sides; time is not padded.
        """
        return nnx.Conv(
            in_channels,
            out_channels,
            kernel,
            strides=stride,
            padding=((0, 0), (padding, padding), (padding, padding)),
            conv_general_dilated=conv_frames,
            **self._common("kernel", "bias"),
        )

    def linear(
        self, in_features: int, out_features: int, *, use_bias: bool = True
    ) -> nnx.Linear:
        """Return a dense layer."""
        return nnx.Linear(
            in_features,
            out_features,
            use_bias=use_bias,
            **self._common("kernel", "bias"),
        )

    def embedding(self, num_embeddings: int, features: int) -> nnx.Embed:
        """Return a table of vectors."""
        return nnx.Embed(
            num_embeddings,
            features,
            **self._common("embedding"),
        )

    def layer_norm(
        self, features: int, *, epsilon: float = 1e-5, affine: bool = True
    ) -> nnx.LayerNorm:
        """Return a layer normalization over the last axis, learned if ``affine``."""
        return nnx.LayerNorm(
            features,
            epsilon=epsilon,
            use_scale=affine,
            use_bias=affine,
            use_fast_variance=False,
            **self._common("scale", "bias"),
        )

    def rms_norm(self, features: int, *, epsilon: float = 1e-6) -> nnx.RMSNorm:
        """Return a learned scale over the root of the mean square of the last axis."""
        return nnx.RMSNorm(features, epsilon=epsilon, **self._common("scale"))

    def group_norm(
        self, num_groups: int, num_channels: int, *, epsilon: float
    ) -> GroupNorm:
        """Return a group normalization over the spatial axes."""
        return GroupNorm(
            num_groups,
            num_channels,
            epsilon=epsilon,
            **self._common("scale", "bias"),
        )

    def constant(self, values: np.ndarray) -> nnx.Param:
        """Return numbers that are stored with the weights and are not drawn."""
        if isinstance(self.rngs, ShapesOnly):
            shape = ShapesOnly.initial(None, values.shape, self.param_dtype)
            return nnx.Param(shape)
        return nnx.Param(jnp.asarray(values, self.param_dtype))

    def _common(self, *parameters: str) -> dict[str, Any]:
        """Return the arguments of all layers, including their initializers."""
        options: dict[str, Any] = {
            f"{name}_init": ShapesOnly.initial for name in parameters
        }
        if not isinstance(self.rngs, ShapesOnly):
            options = {}
        return options | {
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
            "rngs": self.rngs,
        }


class Model(nnx.Module):
    """Base of all models: a module with a configuration and a compute dtype.

    Args:
        config: Shape of the model.
        dtype: Data type of the computation.
        param_dtype: Data type of the parameters.
        rngs: Random streams for the initial parameters.
    """

    def __init__(
        self,
        config: Any,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        make = LayerFactory(jnp.dtype(dtype), jnp.dtype(param_dtype), rngs)
        self.config = config
        self.dtype = make.dtype
        self.build(config, make)

    def build(self, config: Any, make: LayerFactory) -> None:
        """Make the layers; subclasses define it."""
        raise NotImplementedError


class Placeholder(nnx.Module):
    """Placeholder for a layer without parameters, to keep the indices of diffusers."""


class Downsample2D(nnx.Module):
    """A strided 3x3 convolution that halves height and width.

    Args:
        channels: Number of channels in and out.
        padding: 1 pads all sides. 0 pads one row below and one column to the right,
            as the autoencoder was trained.
        make: Layer factory.
    """

    def __init__(self, channels: int, *, padding: int, make: LayerFactory):
        pad = (0, 1) if padding == 0 else (padding, padding)
        self.conv = make.conv(channels, channels, stride=2, padding=pad)

    def __call__(self, x: Float[Array, "*f h w c"]) -> Float[Array, "*f h2 w2 c"]:
        """Return an array of half the size, rounded up."""
        return self.conv(x)


class Upsample2D(nnx.Module):
    """Repetition that doubles height and width, followed by a convolution."""

    def __init__(self, channels: int, *, make: LayerFactory):
        self.conv = make.conv(channels, channels)

    def __call__(
        self, x: Float[Array, "*f h w c"], size: tuple[int, int] | None = None
    ) -> Float[Array, "*f h2 w2 c"]:
        """Return an array of twice the size, or of ``size`` (h, w) if given."""
        h, w = x.shape[-3:-1]
        return self.conv(nearest(x, (2 * h, 2 * w) if size is None else size))


def nearest(x: Float[Array, "*f h w c"], size: tuple[int, int]) -> Float[Array, "..."]:
    """Resize by the nearest neighbor: output i is input ``floor(i * old / new)``."""
    *frames, h, w, c = x.shape
    if size == (2 * h, 2 * w):
        x = jnp.broadcast_to(x[..., :, None, :, None, :], (*frames, h, 2, w, 2, c))
        return x.reshape(*frames, 2 * h, 2 * w, c)
    rows, columns = (
        np.arange(n) * old // n for n, old in zip(size, (h, w), strict=True)
    )
    return x[..., rows, :, :][..., columns, :]


def halved(x: Float[Array, "*f h w c"]) -> Float[Array, "*f h2 w2 c"]:
    """Average 2 by 2 pixels; a last odd row or column is left out."""
    *frames, h, w, c = x.shape
    h, w = h // 2, w // 2
    x = x[..., : 2 * h, : 2 * w, :].reshape(*frames, h, 2, w, 2, c)
    return x.mean((-4, -2))


class FourierFeatures(nnx.Module):
    """Sines and cosines of random multiples of the logarithm of a noise level.

    References:
        Song et al., "Score-Based Generative Modeling through Stochastic Differential
        Equations", 2021, Appendix C. https://arxiv.org/abs/2011.13456
    """

    def __init__(self, number: int, *, scale: float, make: LayerFactory):
        draw: Any = nnx.initializers.normal(scale)
        if isinstance(make.rngs, ShapesOnly):
            draw = ShapesOnly.initial
        self.frequencies = nnx.Param(
            draw(make.rngs.params(), (number,), make.param_dtype)
        )

    def __call__(self, level: Float[Array, ""] | float) -> Float[Array, " d"]:
        """Return the features of a positive noise level, sines first."""
        level = jnp.asarray(level)
        wide = jnp.promote_types(level.dtype, jnp.float32)
        frequencies = self.frequencies[...].astype(wide)
        phase = jnp.log(level.astype(wide)) * frequencies * 2 * np.float32(np.pi)
        return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)])


class TimestepEmbedding(nnx.Module):
    """A two-layer network applied to the sinusoidal embedding of the timestep.

    Args:
        in_features: Size of the sinusoidal embedding.
        features: Size of the output.
        condition_features: Size of a second vector, whose projection is added to the
            sinusoidal embedding; None if there is none.
        activation: Non-linearity between the layers.
        make: Layer factory.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        condition_features: int | None = None,
        activation: Callable[[Array], Array],
        make: LayerFactory,
    ):
        self.linear_1 = make.linear(in_features, features)
        self.activation = activation
        self.linear_2 = make.linear(features, features)
        self.cond_proj = (
            None
            if condition_features is None
            else make.linear(condition_features, in_features, use_bias=False)
        )

    def __call__(
        self, x: Float[Array, " n"], condition: Float[Array, " k"] | None = None
    ) -> Float[Array, " d"]:
        """Return the embedding that residual blocks are conditioned on."""
        if self.cond_proj is not None and condition is not None:
            x = x + self.cond_proj(condition)
        return self.linear_2(self.activation(self.linear_1(x)))


def sinusoidal_embedding(
    timestep: Float[Array, ""] | float,
    dim: int,
    *,
    flip_sin_to_cos: bool,
    freq_shift: float,
    max_period: float = 10_000.0,
) -> Float[Array, " dim"]:
    """Embed a (possibly fractional) timestep into sines and cosines.

    Args:
        timestep: Scalar model time.
        dim: Number of features.
        flip_sin_to_cos: Whether cosines come first.
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
    """Apply the sigmoid approximation of GELU that OpenAI's CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: Array) -> Array:
    """Apply GELU with the exact error function, PyTorch's default."""
    return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: Array) -> Array:
    """Apply GELU with its approximation by a hyperbolic tangent."""
    return jax.nn.gelu(x, approximate=True)


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "mish": jax.nn.mish,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu": jax.nn.relu,
    "quick_gelu": quick_gelu,
}


def activation(name: str) -> Callable[[Array], Array]:
    """Return the activation of a name that configurations have."""
    return _ACTIVATIONS[name]
