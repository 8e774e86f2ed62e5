"""Attacks on images that a watermark should survive.

Each function maps 8-bit pixels to 8-bit pixels of the same size, with Pillow. What is
random has a seed, by default the image's checksum: results are reproducible, and
different images are treated differently.
"""

import functools
import io
import zlib
from collections.abc import Callable, Mapping
from typing import Annotated

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

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
        seed: Seed of the noise; the image's checksum if None.

    Returns:
        The image, clipped.
    """
    noise = _generator(pixels, seed).standard_normal(pixels.shape)
    return _rounded(pixels + 255 * std * noise)


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


@checked
def median(pixels: Pixels, size: Annotated[int, Range(3, 99)]) -> Pixels:
    """Replace every pixel by the median of a square of an odd size around it."""
    if size % 2 == 0:
        raise ValueError(f"the size of a median must be odd, got {size}")
    return np.array(Image.fromarray(pixels).filter(ImageFilter.MedianFilter(size)))


@checked
def resize(pixels: Pixels, share: Annotated[float, Range(0, 1, above=True)]) -> Pixels:
    """Reduce an image to a share of its height and width, and enlarge it again."""
    height, width, _ = pixels.shape
    small = (max(1, round(share * width)), max(1, round(share * height)))
    image = Image.fromarray(pixels).resize(small, Image.Resampling.BICUBIC)
    return np.array(image.resize((width, height), Image.Resampling.BICUBIC))


@checked
def mask(
    pixels: Pixels,
    share: Annotated[float, Range(0, 1, above=True)],
    count: Annotated[int, Range(1, 10_000)],
    seed: int | None = None,
) -> Pixels:
    """Cover an image with black rectangles.

    Args:
        pixels: The image.
        share: Largest side of a rectangle, as a fraction of the image's. The smallest
            is half of it.
        count: Number of rectangles, which may overlap.
        seed: Seed of sizes and places; the image's checksum if None.

    Returns:
        The image.
    """
    rng = _generator(pixels, seed)
    covered = pixels.copy()
    size = np.array(pixels.shape[:2])
    most = np.maximum((share * size).astype(int), 1)
    for _ in range(count):
        sides = rng.integers(np.maximum(most // 2, 1), most + 1)
        top, left = rng.integers(0, size - sides + 1)
        covered[top : top + sides[0], left : left + sides[1]] = 0
    return covered


@checked
def overlay(
    pixels: Pixels,
    strokes: Annotated[int, Range(1, 10_000)],
    width: Annotated[int, Range(1, 1_000)],
    seed: int | None = None,
) -> Pixels:
    """Draw strokes of random colors over an image.

    Args:
        pixels: The image.
        strokes: Number of strokes, each of 3 to 8 points that are at most a quarter of
            the image apart.
        width: Width of a stroke in pixels.
        seed: Seed of colors and places; the image's checksum if None.

    Returns:
        The image.
    """
    rng = _generator(pixels, seed)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    size = np.array(image.size)
    step = int(min(size)) // 4
    for _ in range(strokes):
        points = [rng.integers(0, size)]
        for _ in range(rng.integers(2, 8)):
            move = rng.integers(-step, step + 1, 2)
            points.append(np.clip(points[-1] + move, 0, size - 1))
        color = tuple(int(value) for value in rng.integers(0, 256, 3))
        draw.line([(int(x), int(y)) for x, y in points], fill=color, width=width)
    return np.array(image)


@checked
def adaptive_noise(
    pixels: Pixels,
    intensity: Annotated[float, Range(0, 1)] = 0.5,
    seed: int | None = None,
) -> Pixels:
    """Add the kind of noise that is least visible in an image.

    Dark images (mean below 80) get Gaussian noise, of standard deviation 40 times the
    intensity. Of the others, those with many edges (mean absolute difference of
    neighbors, across and down, above 30) get 0.15 times the intensity of their pixels
    white or black; those with texture (mean standard deviation of 5x5 pixels above 20)
    get noise in proportion to the values, half the intensity; the rest gets Poisson
    noise.

    Args:
        pixels: The image.
        intensity: Strength of the noise, at most 1.
        seed: Seed of the noise; the image's checksum if None.

    Returns:
        The image.

    References:
        MarkDiffusion, github.com/THU-BPM/MarkDiffusion
        (``evaluation/tools/image_editor.py``, ``AdaptiveNoiseInjection``). Its Poisson
        noise has the variance of the value over the number of gray values, a power of
        two; here the number is 256.
    """
    rng = _generator(pixels, seed)
    values = pixels.astype(np.float64)
    gray = values.mean(2)
    if gray.mean() < 80:
        return _rounded(values + 40 * intensity * rng.standard_normal(pixels.shape))
    edges = np.abs(np.diff(gray, axis=0)).mean() + np.abs(np.diff(gray, axis=1)).mean()
    if edges > 30:
        drawn = rng.random(gray.shape)[..., None]
        part = 0.075 * intensity
        salted = np.where(drawn > 1 - part, 255, pixels)
        return np.where(drawn < part, 0, salted).astype(np.uint8)
    rows, columns = (5 * (n // 5) for n in gray.shape)
    tiles = gray[:rows, :columns].reshape(rows // 5, 5, columns // 5, 5)
    if rows and columns and tiles.std((1, 3)).mean() > 20:
        factor = 1 + 0.5 * intensity * rng.standard_normal(pixels.shape)
        return _rounded(values * factor)
    blend = min(0.8, 1.5 * intensity)
    noisy = rng.poisson(values * 256) / 256
    return _rounded((1 - blend) * values + blend * noisy)


def _generator(pixels: Pixels, seed: int | None) -> np.random.Generator:
    if seed is None:
        seed = zlib.crc32(np.ascontiguousarray(pixels).tobytes())
    return np.random.default_rng(seed)


def _rounded(values: np.ndarray) -> Pixels:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


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

#: The attacks of MarkDiffusion on single images that need no network, with its default
#: parameters, two that others test, and JPEG and rotation as strong as in RingID's
#: paper (arXiv:2404.14055, Table 1). Sizes in pixels are not scaled to the image.
TOOLKIT_ATTACKS: Mapping[str, Callable[[Pixels], Pixels]] = {
    "none": lambda pixels: pixels,
    "JPEG 95": functools.partial(jpeg, quality=95),
    "JPEG 50": functools.partial(jpeg, quality=50),
    "JPEG 25": functools.partial(jpeg, quality=25),
    "rotation 30": functools.partial(rotate, degrees=30.0),
    "rotation 75": functools.partial(rotate, degrees=75.0),
    "crop 0.8": functools.partial(crop_and_rescale, share=0.8),
    "blur 2": functools.partial(blur, radius=2.0),
    "noise 0.1": functools.partial(gaussian_noise, std=0.1),
    "brightness 1.2": functools.partial(brightness, factor=1.2),
    "mask 0.1": functools.partial(mask, share=0.1, count=5),
    "overlay": functools.partial(overlay, strokes=10, width=5),
    "adaptive noise": functools.partial(adaptive_noise, intensity=0.5),
    "median 3": functools.partial(median, size=3),
    "resize 0.5": functools.partial(resize, share=0.5),
}
