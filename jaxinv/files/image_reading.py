"""Untrusted image files, read in bounded memory.

Images are converted to 8-bit RGB. The result lists all alterations (transparency
composited on white, 16 bits reduced to 8, an unused color profile, ...), because
inverting an altered image is not inverting the original.

Decoding takes up to 24 bytes of memory per pixel, that is 0.8 GB for ``MAX_PIXELS``.
The size in the file's header is checked before anything is decoded, and all processing
after the decoder works on strips of rows.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from jaxinv.checks import one_line
from jaxinv.files.folders import check_regular

MAX_PIXELS = 2**25
"""Default limit on the pixels of an image: 33.5 million."""

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "PPM")
"""The supported formats, by Pillow's names."""

_ORIENTATION = 0x0112  # the EXIF tag; 1 means upright
_BITS_PER_SAMPLE = 258  # the TIFF tag
_STRIP = 2**20  # pixels converted at a time


class ReadImage(NamedTuple):
    """The pixels of an image file, and how reading altered them.

    Attributes:
        pixels: 8-bit RGB values, shape (h, w, 3); (f, h, w, 3) for a video.
        changes: One phrase for each alteration of the image.
    """

    pixels: UInt8[np.ndarray, "*f h w 3"]
    changes: tuple[str, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        height, width = self.pixels.shape[-3:-1]
        return height, width


def read_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> ReadImage:
    """Read an image file as 8-bit RGB.

    The camera's orientation tag is applied, transparent pixels are composited on white,
    and only the first frame of an animation is read. Color profiles other than sRGB are
    not applied; ``changes`` names them.

    Args:
        path: A PNG, JPEG, WebP, AVIF, TIFF, GIF, BMP or PPM file of any name.
        max_pixels: Limit on the number of pixels in the header. Decoding takes up to 24
            bytes of memory per pixel.

    Returns:
        The pixels and the list of changes.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not such an image, is damaged, has values that are
            not finite, or has more pixels than ``max_pixels``.
    """
    path = Path(path)
    with opened(path, max_pixels) as image:
        try:
            read = _to_rgb(image)
        except MemoryError:
            raise ValueError(
                f"{path} is too large for this machine's memory: "
                f"{image.width}x{image.height} pixels"
            ) from None
        except Exception as error:  # decoders raise anything at all
            raise damaged(path, error) from None
    if read is None:
        raise ValueError(f"{path} has values that are NaN or infinite")
    return read


def count_pixels(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> int:
    """Return the number of pixels that an image file's header states.

    Args:
        path: See :func:`read_image`.
        max_pixels: See :func:`read_image`.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the header shows a file that :func:`read_image` refuses.
    """
    with opened(Path(path), max_pixels) as image:
        return int(image.width * image.height)


def opened(path: Path, max_pixels: int) -> ImageFile.ImageFile:
    """Open an image and check its size without decoding it."""
    try:
        check_regular(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no such image: {error}") from None
    try:
        image = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(
            f"{path} is not an image that can be read; expected one of "
            f"{', '.join(FORMATS)}"
        ) from None
    except Image.DecompressionBombError:
        raise ValueError(
            f"{path} is too large: it has more than {max_pixels:,} pixels"
        ) from None
    except PermissionError:
        raise ValueError(f"{path} cannot be read: permission denied") from None
    except Exception as error:  # plugins raise anything at all
        raise damaged(path, error) from None
    if image.width * image.height > max_pixels:
        image.close()
        raise ValueError(
            f"{path} is too large: {image.width}x{image.height} are more than "
            f"{max_pixels:,} pixels"
        )
    return image


def damaged(path: Path, error: Exception) -> ValueError:
    """Return the error for a file whose decoder failed."""
    reason = one_line(error)
    return ValueError(f"{path} is damaged: {reason}")


def _to_rgb(image: ImageFile.ImageFile) -> ReadImage | None:
    """Return the image, or None if it has values that are not finite."""
    changes = []
    bits = _bits_per_channel(image)
    if getattr(image, "is_animated", False):
        changes.append("used the first of several frames")
    if image.getexif().get(_ORIENTATION, 1) != 1:
        changes.append("rotated according to its orientation tag")
    ImageOps.exif_transpose(image, in_place=True)
    image.load()
    changes += _ignored_colors(image)
    if image.mode.startswith(("I", "F")):
        return _reduce_depth(image, changes)
    if bits > 8:
        changes.append(f"reduced {bits} bits per channel to 8")
    transparent = image.has_transparency_data
    if not transparent and image.mode not in ("RGB", "L", "P", "1"):
        changes.append(f"converted from {image.mode} to RGB")
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    seen_through = False
    for rows, strip in _strips(image):
        if transparent:
            rgba = strip.convert("RGBA")
            seen_through |= bool(np.asarray(rgba.getchannel("A")).min() < 255)
            white = Image.new("RGBA", rgba.size, "white")
            strip = Image.alpha_composite(white, rgba)
        pixels[rows] = np.asarray(strip.convert("RGB"))
    if seen_through:
        changes.append("composited transparent pixels on white")
    return ReadImage(pixels, tuple(changes))


def _strips(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """Yield slices of rows and the part of the image in them."""
    height = max(1, _STRIP // image.width)
    for top in range(0, image.height, height):
        bottom = min(top + height, image.height)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))


def _reduce_depth(image: Image.Image, changes: list[str]) -> ReadImage | None:
    """Convert grayscale of more than 8 bits; Pillow would clip it at 255."""
    scale = 65535.0
    if image.mode.startswith("F"):
        largest = max(np.asarray(strip).max() for _, strip in _strips(image))
        scale = 1.0 if largest <= 1.0 else 255.0
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    clipped = 0
    for rows, strip in _strips(image):
        values = np.asarray(strip).astype(np.float64)
        if not np.all(np.isfinite(values)):
            return None
        clipped += int(np.sum((values < 0) | (values > scale)))
        pixels[rows] = to_uint8(values / scale)[..., None]
    if clipped:
        changes.append(f"clipped {clipped} pixels outside of 0 to {scale:g}")
    changes.append(f"reduced mode {image.mode} to 8 bits")
    return ReadImage(pixels, tuple(changes))


def _bits_per_channel(image: ImageFile.ImageFile) -> int:
    """Return the depth of a file that is opened but not loaded, or 8 if unknown."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,)))  # type: ignore[attr-defined]
    if image.format == "AVIF":
        return _avif_bits(image)
    for tile in image.tile:
        words = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if any(isinstance(word, str) and ";16" in word for word in words):
            return 16
        if image.format == "PPM" and isinstance(words[-1], int) and words[-1] > 255:
            return words[-1].bit_length()
    return 8


def _avif_bits(image: ImageFile.ImageFile) -> int:
    """Return the depth that the box ``av1C`` states (AV1 in ISOBMFF, section 2.3.3)."""
    file = image.fp
    if file is None:
        return 8
    file.seek(0)
    header = file.read(2**16)
    at = header.find(b"av1C")
    if at < 0 or at + 6 >= len(header) or not header[at + 6] & 0x40:
        return 8
    return 12 if header[at + 6] & 0x20 else 10


def _ignored_colors(image: Image.Image) -> list[str]:
    """Return the color information of an image that is not applied."""
    ignored = []
    if profile := image.info.get("icc_profile"):
        name = "".join(filter(str.isprintable, _profile_name(profile)))[:80].strip()
        if "sRGB" not in name:
            ignored.append(f"ignored its color profile ({name or 'unknown'})")
    gamma = image.info.get("gamma")
    if isinstance(gamma, float) and abs(gamma - 1 / 2.2) > 0.01 and not profile:
        ignored.append(f"ignored its gamma of {gamma:g}")
    return ignored


def _profile_name(profile: bytes) -> str:
    """Return the description in a color profile (ICC.1:2022, 7.3 and 10.15).

    Only this tag is read: a library for colors would allocate as much memory as a
    damaged profile states.
    """

    def number(data: bytes, at: int) -> int:
        return int.from_bytes(data[at : at + 4], "big")

    for entry in range(132, 132 + 12 * min(number(profile, 128), 100), 12):
        if profile[entry : entry + 4] != b"desc":
            continue
        start = number(profile, entry + 4)
        tag = profile[start : start + number(profile, entry + 8)]
        if tag[:4] == b"mluc":  # version 4: the first of its languages
            text = tag[number(tag, 24) :][: number(tag, 20)]
            return text.decode("utf-16-be", "replace")
        return tag[12:].split(b"\0")[0].decode("ascii", "replace")
    return ""


def to_uint8(image: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Round values in [0, 1] to 8 bits; values outside are clipped.

    >>> to_uint8(np.array([0.0, 0.5, 1.2])).tolist()
    [0, 128, 255]
    """
    return np.round(np.clip(np.asarray(image, np.float64), 0, 1) * 255).astype(np.uint8)
