"""Videos as files: animated images or folders of frames, in bounded memory.

A video is written as an animated PNG, which keeps every 8-bit value and every frame.
"""

import io
import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxinv.files.atomic import open_atomically
from jaxinv.files.image_reading import (
    MAX_PIXELS,
    ReadImage,
    damaged,
    opened,
    read_image,
    to_uint8,
)

_MILLISECONDS = 125  # for one frame: 8 frames a second, as AnimateDiff is shown
_MODES = ("RGB", "RGBA", "P", "L", "LA", "1")


def read_video(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> ReadImage:
    """Read the frames of an animated image, or of a folder of images, as 8-bit RGB.

    Transparent pixels are composited on white. Durations of frames are not read.

    Args:
        path: An animated PNG, WebP, GIF or AVIF, a TIFF with several pages, an image
            (a video of one frame), or a folder of images, in the order of their names.
        max_pixels: Limit on the number of pixels of all frames together.

    Returns:
        The pixels (f, h, w, 3) and the list of changes.

    Raises:
        FileNotFoundError: If the file does not exist, or the folder is empty.
        ValueError: If a file is not an image, frames differ in size, or there are more
            pixels than ``max_pixels``.
    """
    path = Path(path)
    return _folder(path, max_pixels) if path.is_dir() else _file(path, max_pixels)


def write_video(
    path: str | os.PathLike[str], video: UInt8[np.ndarray, "f h w 3"] | np.ndarray
) -> None:
    """Write a video atomically as an animated PNG of 8 frames a second.

    Args:
        path: Target file, with the suffix ``.png``.
        video: Shape (f, h, w, 3), ``uint8`` or floats in [0, 1].

    Raises:
        ValueError: If the suffix is not ``.png``.
        OSError: If the file cannot be written.
    """
    check_video_suffix(path)
    video = np.asarray(video)
    pixels = video if video.dtype == np.uint8 else to_uint8(video)
    frames = [Image.fromarray(frame) for frame in pixels]
    encoded = io.BytesIO()
    # Pillow joins equal frames unless they are blended differently. Without
    # transparency both ways of blending replace what was there.
    frames[0].save(
        encoded,
        "PNG",
        save_all=True,
        append_images=frames[1:],
        duration=_MILLISECONDS,
        loop=0,
        blend=[i % 2 for i in range(len(frames))],
    )
    with open_atomically(path) as file:
        file.write(encoded.getvalue())


def check_video_suffix(path: str | os.PathLike[str]) -> None:
    """Raise ValueError unless a video can be written to a file of this name."""
    suffix = Path(path).suffix
    if suffix.lower() != ".png":
        raise ValueError(
            f"{path}: a video is written as an animated PNG; use .png instead of "
            f"{suffix or 'no suffix'!r}"
        )


def _file(path: Path, max_pixels: int) -> ReadImage:
    """Read the frames of one file."""
    with opened(path, max_pixels) as image:
        number = getattr(image, "n_frames", 1)
        if number == 1:
            read = read_image(path, max_pixels)
            return ReadImage(read.pixels[None], read.changes)
        _check_total(path, number, image.width * image.height, max_pixels)
        frames: list[np.ndarray] = []
        seen_through = False
        for i in range(number):
            try:
                image.seek(i)
                image.load()
                frame = image.convert("RGBA")
            except Exception as error:  # decoders raise anything at all
                raise damaged(path, error) from None
            if image.mode not in _MODES:
                raise ValueError(
                    f"{path} has frames of mode {image.mode}; expected 8-bit colors"
                )
            if frames and frame.size != frames[0].shape[1::-1]:
                raise ValueError(f"{path} has frames of different sizes")
            seen_through |= bool(np.asarray(frame)[..., 3].min() < 255)
            white = Image.new("RGBA", frame.size, "white")
            frames.append(
                np.asarray(Image.alpha_composite(white, frame).convert("RGB"))
            )
    changes = ("composited transparent pixels on white",) if seen_through else ()
    return ReadImage(np.stack(frames), changes)


def _folder(path: Path, max_pixels: int) -> ReadImage:
    """Read the frames of a folder of images."""
    files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    if not files:
        raise FileNotFoundError(f"no such video: the folder {path} is empty")
    frames: list[np.ndarray] = []
    changes: dict[str, None] = {}
    for file in files:
        read = read_image(file, max_pixels)
        if frames and read.pixels.shape != frames[0].shape:
            raise ValueError(
                f"{file} has another size than {files[0].name}: all frames of a video "
                "have one size"
            )
        _check_total(path, len(files), read.pixels[..., 0].size, max_pixels)
        frames.append(read.pixels)
        changes |= dict.fromkeys(read.changes)
    return ReadImage(np.stack(frames), tuple(changes))


def _check_total(path: Path, frames: int, pixels: int, max_pixels: int) -> None:
    """Raise ValueError if all frames together have too many pixels."""
    if frames * pixels > max_pixels:
        raise ValueError(
            f"{path} is too large: {frames} frames of {pixels:,} pixels are more than "
            f"{max_pixels:,}"
        )
