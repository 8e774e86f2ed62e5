"""Attacks on images that a watermark should survive.

Each function maps 8-bit pixels to 8-bit pixels of the same size, with Pillow.
"""

import functools
import io
import zlib
from collections.abc import Callable, Mapping
from typing import Annotated

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageFilter

from jaxinv.checks import Range, checked

Pixels = UInt8[np.ndarray, "h w 3"]


@checked
def jpeg(pixels: Pixels, quality: Annotated[int, Range(1, 95)]) -> Pixels:
    """Compress and decompress an image.

    Args:
        pixels: The image.
        quality: 1 to 95.

    Returns:
        The image.
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file).convert("RGB"))


@checked
def gaussian_noise(pixels: Pixels, std: float, seed: int | None = None) -> Pixels:
    """Add Gaussian noise.

    Args:
        pixels: The image.
        std: Standard deviation, in units of the whole range.
        seed: Seed of the noise; by default the image's checksum, so that the result is
            reproducible and different images get different noises.

    Returns:
        The image, clipped.
    """
    if seed is None:
        seed = zlib.crc32(np.ascontiguousarray(pixels).tobytes())
    noise = np.random.default_rng(seed).standard_normal(pixels.shape)
    return np.clip(np.round(pixels + 255 * std * noise), 0, 255).astype(np.uint8)


@checked
def blur(pixels: Pixels, radius: float) -> Pixels:
    """Blur an image with a Gaussian whose radius is in pixels."""
    return np.array(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


@checked
def crop_and_rescale(
    pixels: Pixels, share: Annotated[float, Range(0, 1, above=True)]
) -> Pixels:
    """Crop the center of an image and enlarge it to the original size.

    Args:
        pixels: The image.
        share: Fraction of height and width that is kept, at most 1.

    Returns:
        The image.
    """
    height, width, _ = pixels.shape
    margin = (1 - share) / 2
    box = (margin * width, margin * height, (1 - margin) * width, (1 - margin) * height)
    image = Image.fromarray(pixels)
    return np.array(image.resize((width, height), Image.Resampling.BICUBIC, box=box))


@checked
def rotate(pixels: Pixels, degrees: float) -> Pixels:
    """Rotate an image about its center, filling the corners with the mean color."""
    fill = tuple(round(float(c)) for c in pixels.mean((0, 1)))
    turned = Image.fromarray(pixels).rotate(
        degrees, Image.Resampling.BICUBIC, fillcolor=fill
    )
    return np.array(turned)


@checked
def brightness(pixels: Pixels, factor: float) -> Pixels:
    """Multiply all values by a factor and clip them."""
    return np.array(ImageEnhance.Brightness(Image.fromarray(pixels)).enhance(factor))


#: The attacks used in evaluations, by name.
ATTACKS: Mapping[str, Callable[[Pixels], Pixels]] = {
    "none": lambda pixels: pixels,
    "JPEG 90": functools.partial(jpeg, quality=90),
    "JPEG 75": functools.partial(jpeg, quality=75),
    "JPEG 50": functools.partial(jpeg, quality=50),
    "JPEG 25": functools.partial(jpeg, quality=25),
    "noise 0.05": functools.partial(gaussian_noise, std=0.05),
    "blur 1": functools.partial(blur, radius=1.0),
    "crop 0.9": functools.partial(crop_and_rescale, share=0.9),
    "rotation 5": functools.partial(rotate, degrees=5.0),
    "brightness 1.3": functools.partial(brightness, factor=1.3),
}
