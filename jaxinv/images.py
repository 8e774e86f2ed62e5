"""Images: whatever people have, as 8-bit RGB, and back into files.

Reading turns anything Pillow understands into one thing, 8-bit RGB, and says what it
had to change on the way (transparency composited on white, 16 bits reduced to 8, ...),
because the inversion of an altered picture is not the inversion of the picture.
"""

import io
import os
import stat
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxinv.files import open_atomically

_ORIENTATION = 0x0112  # the EXIF tag; 1 means upright
# What Pillow's many decoders raise on damaged files.
_DAMAGED = (
    OSError,
    SyntaxError,
    EOFError,
    ValueError,
    struct.error,
    zlib.error,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    NotImplementedError,
)


class ReadImage(NamedTuple):
    """An image file's pixels, and what had to be changed to get them.

    Attributes:
        pixels: 8-bit RGB values, shape (h, w, 3).
        changes: One sentence for everything that altered the picture; empty if nothing.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    changes: tuple[str, ...]


def read_image(path: str | os.PathLike[str]) -> ReadImage:
    """Reads an image file as 8-bit RGB.

    The camera's orientation tag is applied, transparent pixels are composited on white,
    and of an animation the first frame is taken.

    Args:
        path: A file in any format that Pillow reads.

    Returns:
        The pixels and the list of changes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not an image, is damaged, has values that are not
            finite, or is unreasonably large (by its header: nothing is decoded).
    """
    path = Path(path)
    _check_readable(path)
    try:
        with Image.open(path) as image:
            _check_size(image, path)
            read = _to_rgb(image)
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not an image that can be read") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large an image: {error}") from None
    except PermissionError:
        raise ValueError(f"{path} may not be read (permission denied)") from None
    except _DAMAGED as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} is damaged: {reason}") from None
    if read is None:
        raise ValueError(f"{path} has values that are NaN or infinite")
    return read


def _check_readable(path: Path) -> None:
    """Raises unless there is a regular file: reading a pipe could wait for ever."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        dangling = path.is_symlink()
        reason = ": a link to a file that does not exist" if dangling else ""
        raise FileNotFoundError(f"no such image: {path}{reason}") from None
    except PermissionError:
        raise ValueError(f"{path} may not be read (permission denied)") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if stat.S_ISDIR(mode):
        raise ValueError(f"{path} is a folder, not an image")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} is not a file (but a pipe, socket or device)")


def _check_size(image: Image.Image, path: Path) -> None:
    # Pillow only warns of what is between its limit and twice that, and warnings cannot
    # be turned into errors in one thread alone.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise Image.DecompressionBombError(
            f"{image.width}x{image.height} are more than {limit} pixels"
        )


def _to_rgb(image: Image.Image) -> ReadImage | None:
    """The picture; None if it has values that are not finite."""
    changes = []
    if getattr(image, "n_frames", 1) > 1:
        changes.append(f"took the first of {image.n_frames} frames")  # type: ignore[attr-defined]
    upright = ImageOps.exif_transpose(image)
    if image.getexif().get(_ORIENTATION, 1) != 1:
        changes.append("turned as its orientation tag says")
    if upright.mode.startswith(("I", "F")):
        return _reduce_depth(upright, changes)
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        if np.asarray(rgba)[..., 3].min() < 255:
            changes.append("composited transparent pixels on white")
        white = Image.new("RGBA", rgba.size, "white")
        upright = Image.alpha_composite(white, rgba)
    elif upright.mode not in ("RGB", "L", "P", "1"):
        changes.append(f"converted from {upright.mode} to RGB")
    return ReadImage(np.array(upright.convert("RGB")), tuple(changes))


def _reduce_depth(image: Image.Image, changes: list[str]) -> ReadImage | None:
    """Greyscale of more than 8 bits; Pillow's own conversion would clip it at 255."""
    values = np.asarray(image).astype(np.float64)
    if not np.all(np.isfinite(values)):
        return None
    if image.mode.startswith("F"):
        scale = 1.0 if values.max(initial=0.0) <= 1.0 else 255.0
    else:
        scale = 65535.0
    if clipped := int(np.sum((values < 0) | (values > scale))):
        changes.append(f"clipped {clipped} pixels outside of 0 to {scale:g}")
    grey = to_uint8(values / scale)
    changes.append(f"reduced mode {image.mode} to 8 bits")
    return ReadImage(np.repeat(grey[..., None], 3, axis=-1), tuple(changes))


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


def to_uint8(image: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Rounds values in [0, 1] to 8 bits; values outside are clipped.

    >>> to_uint8(np.array([0.0, 0.5, 1.2])).tolist()
    [0, 128, 255]
    """
    return np.round(np.clip(np.asarray(image, np.float64), 0, 1) * 255).astype(np.uint8)


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
    if suffix not in known or known[suffix] not in Image.SAVE:
        raise ValueError(
            f"{path}: {suffix or 'no ending'!r} is no image format to write; use .png"
        )
    return suffix
