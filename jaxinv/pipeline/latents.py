r"""Conversion of one image to a latent and back, by an autoencoder (E, D).

    z = (E(2 image - 1) - shift) / scale,    image = (D(z scale + shift) + 1) / 2

with ``scale = 1 / scaling_factor`` and ``shift = shift_factor``, one number each, or
``scale = latents_std / scaling_factor`` and ``shift = latents_mean``, one number per
channel (Playground v2.5, and Wan, without ``scaling_factor``).
Models of pixels have no autoencoder: their z is 2 image - 1. Videos are encoded and
decoded frame by frame, so that the memory needed does not grow with their length.
Autoencoders of videos (Wan) take them whole, and bound the memory themselves.

The functions do not check their arguments; :class:`jaxinv.Pipeline` and the
engine of jobs check images first.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, UInt8

from jaxinv.decoder_inversion import framewise
from jaxinv.models import (
    AutoencoderKL,
    AutoencoderKLWan,
    AutoencoderTiny,
    DiagonalGaussian,
)

Image = Float[Array, "*f h w k"] | UInt8[Array, "*f h w k"] | np.ndarray
Autoencoder = AutoencoderKL | AutoencoderTiny | AutoencoderKLWan


@jax.jit
def encode(vae: Autoencoder | None, image: Image) -> Float[Array, "*f h w c"]:
    """Encode an image or a video, without checks.

    See :meth:`Pipeline.encode`.
    """
    pixels = floats(image)
    if vae is None:
        return 2 * pixels - 1
    if pixels.ndim > 3 and not isinstance(vae, AutoencoderKLWan):
        return framewise(jax.tree_util.Partial(encode, vae))(pixels)
    encoded = vae.encode(2 * pixels - 1)
    latent = encoded.mode() if isinstance(encoded, DiagonalGaussian) else encoded
    shift, factor = _normalization(vae, latent.dtype)
    return (latent - shift) * factor


def floats(image: Image) -> Float[Array, "*f h w k"]:
    """Return an image's values in [0, 1]."""
    pixels = jnp.asarray(image)
    return pixels.astype(jnp.float32) / 255 if pixels.dtype == jnp.uint8 else pixels


@jax.jit
def decode(vae: Autoencoder | None, latent: ArrayLike) -> Float[Array, "*f H W k"]:
    """Decode the latent of an image or a video, without checks or clipping."""
    latents = jnp.asarray(latent)
    if vae is None:
        return (latents + 1) / 2
    if latents.ndim > 3 and not isinstance(vae, AutoencoderKLWan):
        return framewise(jax.tree_util.Partial(decode, vae))(latents)
    shift, factor = _normalization(vae, latents.dtype)
    return (vae.decode(latents / factor + shift) + 1) / 2


def _normalization(vae: Autoencoder, dtype: Any) -> tuple[Any, Any]:
    """Return what is subtracted from an encoder's output, and what multiplies it."""
    config = vae.config
    mean, std = (getattr(config, f"latents_{name}", None) for name in ("mean", "std"))
    if mean is None or std is None:
        return config.shift_factor or 0.0, config.scaling_factor
    factor = getattr(config, "scaling_factor", 1.0) / np.asarray(std)
    return jnp.asarray(mean, dtype), jnp.asarray(factor, dtype)


def _check_shape(
    kind: str, shape: tuple[int, ...], channels: int, frames: int | None
) -> None:
    """Raise ValueError unless a shape is that of one image, latent or video."""
    ndim = 3 if frames is None else 4
    if len(shape) == ndim and shape[-1] == channels:
        return
    axes = f"(h, w, {channels})" if frames is None else f"(frames, h, w, {channels})"
    hint = ""
    if len(shape) > ndim:
        hint = " (no batch axis: use jax.vmap for more than one)"
    elif len(shape) == ndim and shape[-3] == channels:
        hint = f" (channels come last: use jnp.moveaxis({kind}, -3, -1))"
    raise ValueError(f"expected one {kind} of shape {axes}, got {shape}{hint}")


def check_latent(latent: Any, channels: int, frames: int | None = None) -> None:
    """Raise ValueError unless a latent can be decoded."""
    _check_shape("latent", jnp.shape(latent), channels, frames)
    if not jnp.issubdtype(jnp.result_type(latent), jnp.floating):
        raise ValueError(f"expected a latent of floats, got {jnp.result_type(latent)}")


def check_size(size: tuple[int, ...], factor: int) -> None:
    """Raise ValueError unless (height, width) are positive multiples of the factor."""
    height, width = size
    if height < 1 or width < 1 or height % factor or width % factor:
        raise ValueError(
            f"height and width of an image must be multiples of {factor}, "
            f"got {height} and {width}"
        )


def check_image(
    image: Any, factor: int, channels: int = 3, frames: int | None = None
) -> None:
    """Raise ValueError unless an image, or a video, can be encoded.

    The values of tracers are not checked.

    Args:
        image: The image, or the video if ``frames`` is not None.
        factor: Ratio of image height to latent height.
        channels: Number of its channels.
        frames: None for an image.
    """
    if not isinstance(image, jax.Array | np.ndarray):
        raise ValueError(
            f"expected an image as an array, got a value of type {type(image).__name__}"
        )
    shape, dtype = jnp.shape(image), jnp.result_type(image)
    _check_shape("image" if frames is None else "video", shape, channels, frames)
    check_size(shape[-3:-1], factor)
    if dtype != jnp.uint8 and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"expected an image of floats in [0, 1] or uint8, got {dtype}")
    if isinstance(image, jax.core.Tracer) or dtype == jnp.uint8:
        return
    values = np.asarray(image)
    if not np.all(np.isfinite(values)):
        bad = int(np.sum(~np.isfinite(values)))
        raise ValueError(
            f"the image must be finite, but {bad} of its {values.size} values are NaN "
            "or infinite"
        )
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        hint = "map [-1, 1] with (image + 1) / 2" if high <= 1 else "divide by 255"
        raise ValueError(
            f"image values must lie in [0, 1], but they go from {low:.4g} to "
            f"{high:.4g}: {hint}, or clip"
        )
