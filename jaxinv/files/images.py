"""Images: resized for a model, and written to files."""

import io
import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from jaxinv.files import open_atomically
from jaxinv.files.image_reading import FORMATS, ReadImage, to_uint8


def resize_image(
    pixels: UInt8[np.ndarray, "*f h w 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "*f height width 3"]:
    """Crop an image around its center to an aspect ratio, then resample it.

    Args:
        pixels: 8-bit RGB values of an image, or of all frames of a video.
        size: Wanted (height, width).

    Returns:
        8-bit RGB values of that size.
    """
    if pixels.ndim > 3:
        return np.stack([resize_image(frame, size) for frame in pixels])
    height, width = size
    fitted = ImageOps.fit(
        Image.fromarray(pixels), (width, height), Image.Resampling.LANCZOS
    )
    return np.array(fitted)


def describe_resize(found: tuple[int, int], wanted: tuple[int, int]) -> str:
    """Describe what :func:`resize_image` does between two (height, width) sizes.

    >>> describe_resize((600, 800), (64, 64))
    'center-crop 800x600 to 600x600 and resample to 64x64'
    >>> describe_resize((128, 128), (64, 64))
    'resample 128x128 to 64x64'
    """
    (h, w), (height, width) = found, wanted
    scale = min(h / height, w / width)
    crop = (round(height * scale), round(width * scale))
    start = f"{w}x{h}"
    target = f"resample to {width}x{height}"
    if crop == (h, w):
        return f"resample {start} to {width}x{height}"
    return f"center-crop {start} to {crop[1]}x{crop[0]} and {target}"


def fit_image(
    read: ReadImage,
    path: Path,
    size: tuple[int, int],
    model: str,
    resize: bool,
    factor: int | None = None,
) -> ReadImage:
    """Resize an image to a model's size, but only on request.

    A resized image is another image, so resizing is never silent.

    Args:
        read: The image.
        path: The file of the image, for the message.
        size: The model's (height, width).
        model: The model's name, for the message.
        resize: Whether :func:`resize_image` may change the image.
        factor: Number that divides other sizes that the model takes, for the message;
            None if it takes no others.

    Returns:
        The image, with another entry in ``changes`` if it was resized.

    Raises:
        ValueError: If the image has another size and may not be resized.
    """
    found = read.size
    if found == size:
        return read
    way = describe_resize(found, size)
    if not resize:
        others = "" if factor is None else f" and at multiples of {factor}"
        raise ValueError(
            f"{path} is {found[1]}x{found[0]} and {model} works at "
            f"{size[1]}x{size[0]}{others}; with --resize, it will {way}"
        )
    return ReadImage(resize_image(read.pixels, size), (*read.changes, way))


def write_image(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write an image atomically, in the format of the file's suffix.

    Args:
        path: Target file; ``.png`` keeps every 8-bit value.
        image: Shape (h, w, 3), ``uint8`` or floats in [0, 1].

    Raises:
        ValueError: If the suffix is not an image format.
        OSError: If the file cannot be written.
    """
    image = np.asarray(image)
    pixels = image if image.dtype == np.uint8 else to_uint8(image)
    suffix = image_suffix(path)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, Image.registered_extensions()[suffix])
    with open_atomically(path) as file:
        file.write(encoded.getvalue())


def image_suffix(path: str | os.PathLike[str]) -> str:
    """Return the suffix of an image file, if it is an image format.

    Raises:
        ValueError: If it is not an image format.
    """
    suffix = Path(path).suffix.lower()
    known = Image.registered_extensions()
    if known.get(suffix) not in FORMATS:
        raise ValueError(
            f"{path}: {suffix or 'no suffix'!r} is not an image format; use .png"
        )
    return suffix
