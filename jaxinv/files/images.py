"""Images at a model's size, and back into files."""

import io
import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from jaxinv.files import open_atomically
from jaxinv.files.image_reading import FORMATS, ReadImage, to_uint8


def resize_image(
    pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """Crops an image around its centre to another aspect ratio, then resamples it.

    Args:
        pixels: 8-bit RGB values.
        size: Wanted (height, width).

    Returns:
        8-bit RGB values of that size.
    """
    height, width = size
    fitted = ImageOps.fit(
        Image.fromarray(pixels), (width, height), Image.Resampling.LANCZOS
    )
    return np.array(fitted)


def describe_resize(found: tuple[int, int], wanted: tuple[int, int]) -> str:
    """Says what :func:`resize_image` does between two (height, width) sizes.

    >>> describe_resize((600, 800), (64, 64))
    'centre-crop 800x600 to 600x600 and resample to 64x64'
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
    return f"centre-crop {start} to {crop[1]}x{crop[0]} and {target}"


def fit_image(
    read: ReadImage, path: Path, size: tuple[int, int], model: str, resize: bool
) -> ReadImage:
    """Brings an image to a model's size, only if asked to.

    A resized picture is another picture, so this is never done silently.

    Args:
        read: The image.
        path: Where it was read from, for the message.
        size: The model's (height, width).
        model: The model's name, for the message.
        resize: Whether :func:`resize_image` may change the picture.

    Returns:
        The image, with one change more if it was resized.

    Raises:
        ValueError: If the image has another size and may not be resized.
    """
    found = read.pixels.shape[:2]
    if found == size:
        return read
    way = describe_resize(found, size)
    if not resize:
        raise ValueError(
            f"{path} is {found[1]}x{found[0]} and {model} works at "
            f"{size[1]}x{size[0]}; with --resize, it will {way}"
        )
    return ReadImage(resize_image(read.pixels, size), (*read.changes, way))


def write_image(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Writes an image atomically, in the format that the file's name asks for.

    Args:
        path: Target file; ``.png`` keeps every 8-bit value.
        image: Shape (h, w, 3), ``uint8`` or floats in [0, 1].

    Raises:
        ValueError: If the name's ending is not an image format.
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
    """Returns the ending of an image file's name, if images can be written under it.

    Raises:
        ValueError: If it is not an image format's ending.
    """
    suffix = Path(path).suffix.lower()
    known = Image.registered_extensions()
    if known.get(suffix) not in FORMATS:
        raise ValueError(
            f"{path}: {suffix or 'no ending'!r} is no image format to write; use .png"
        )
    return suffix
