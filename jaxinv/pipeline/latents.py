r"""Conversion of one image to a latent and back, by an autoencoder (E, D).

    z = (E(2 image - 1) - shift) * scaling,    image = (D(z / scaling + shift) + 1) / 2

The functions do not check their arguments; :class:`jaxinv.LatentDiffusion` and the
engine of jobs check images first.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, UInt8

from jaxinv.models import AutoencoderKL, AutoencoderTiny, DiagonalGaussian

Image = Float[Array, "h w 3"] | UInt8[Array, "h w 3"] | np.ndarray
Autoencoder = AutoencoderKL | AutoencoderTiny


@jax.jit
def encode(vae: Autoencoder, image: Image) -> Float[Array, "h w c"]:
    """Encode an image without checks; see :meth:`LatentDiffusion.encode`."""
    pixels = jnp.asarray(image)
    if pixels.dtype == jnp.uint8:
        pixels = pixels.astype(jnp.float32) / 255
    encoded = vae.encode(2 * pixels - 1)
    latent = encoded.mode() if isinstance(encoded, DiagonalGaussian) else encoded
    return (latent - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


@jax.jit
def decode(vae: Autoencoder, latent: ArrayLike) -> Float[Array, "fh fw 3"]:
    """Decode a latent without checks or clipping."""
    raw = jnp.asarray(latent) / vae.config.scaling_factor
    return (vae.decode(raw + (vae.config.shift_factor or 0.0)) + 1) / 2


def batch_hint(shape: tuple[int, ...]) -> str:
    """Return a hint for errors if a batch was given instead of one sample."""
    return " (no batch axis: use jax.vmap for more than one)" if len(shape) > 3 else ""


def check_size(size: tuple[int, ...], factor: int) -> None:
    """Raise ValueError unless (height, width) are positive multiples of the factor."""
    height, width = size
    if height < 1 or width < 1 or height % factor or width % factor:
        raise ValueError(
            f"height and width of an image must be multiples of {factor}, "
            f"got {height} and {width}"
        )


def check_image(image: Any, factor: int) -> None:
    """Raise ValueError unless the image can be encoded; tracers' values are skipped."""
    shape, dtype = jnp.shape(image), jnp.result_type(image)
    if len(shape) != 3 or shape[-1] != 3:
        hint = batch_hint(shape)
        if len(shape) == 3 and shape[0] == 3:
            hint = " (channels come last: use jnp.moveaxis(image, 0, -1))"
        raise ValueError(f"expected one image of shape (h, w, 3), got {shape}{hint}")
    check_size(shape[:2], factor)
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
