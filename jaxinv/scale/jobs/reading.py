"""Reading of images ahead of the engine, in Grain's threads.

Faults of a file are values, not exceptions: one unreadable picture must not stop the
reading of a million others.

Eight threads read. To bound memory, pictures of more than 4 million pixels are decoded
one at a time.
"""

import contextlib
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from jaxinv.files.image_reading import MAX_PIXELS, count_pixels, read_image
from jaxinv.files.images import fit_image
from jaxinv.scale.jobs.manifest import Manifest
from jaxinv.scale.jobs.pictures import picture_digest

_THREADS = 8
_AHEAD = 64  # number of images that are read in advance
_LARGE = 2**22  # pixels; larger pictures (0.1 GB each) are decoded one at a time


class Reading(NamedTuple):
    """An image of the manifest, or the reason why it cannot be read.

    Attributes:
        index: Row of the manifest.
        pixels: 8-bit RGB values of the model's size; None for a failure.
        changes: Alterations; see :func:`jaxinv.files.image_reading.read_image`.
        failure: The reason for a failure, with "the file" in place of the path, or
            None.
        digest: SHA-256 of the file, or None if it could not be read.
    """

    index: int  # type: ignore[assignment]  # tuples have a method of that name
    pixels: UInt8[np.ndarray, "h w 3"] | None
    changes: tuple[str, ...]
    failure: str | None
    digest: str | None = None


def read_row(
    manifest: Manifest,
    index: int,
    size: tuple[int, int],
    model: str,
    resize: bool,
    max_pixels: int = MAX_PIXELS,
    one_at_a_time: AbstractContextManager[object] = contextlib.nullcontext(),  # noqa: B008
) -> Reading:
    """Read one image.

    Args:
        manifest: All images.
        index: Row of the image.
        size: The model's (height, width).
        model: The model's name, for messages.
        resize: Whether images of another size are cropped and resampled.
        max_pixels: Limit on the pixels of an image; larger images are failures.
        one_at_a_time: Context for decoding a picture of more than 4 million pixels: a
            lock that all threads share bounds their memory.

    Returns:
        The image or the reason for a failure; nothing is raised.
    """
    path = Path(manifest.root, manifest.rows[index].path)
    digest = picture_digest(path)
    try:
        large = count_pixels(path, max_pixels) > _LARGE
        with one_at_a_time if large else contextlib.nullcontext():
            read = read_image(path, max_pixels)
            read = fit_image(read, path, size, model, resize)
        if picture_digest(path) != digest:
            raise ValueError(f"{path} changed while it was read")
    except Exception as error:  # Pillow's decoders raise anything at all
        known = isinstance(error, ValueError | OSError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        reason = " ".join(reason.replace(str(path), "the file").split())
        return Reading(index, None, (), reason, digest)
    return Reading(index, read.pixels, read.changes, None, digest)


def read_rows(
    manifest: Manifest,
    indices: Int[np.ndarray, " n"],
    size: tuple[int, int],
    model: str,
    resize: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Generator[Reading, None, None]:
    """Read images in advance, in threads.

    Args:
        manifest: All images.
        indices: The rows to read.
        size: The model's (height, width).
        model: The model's name, for messages.
        resize: Whether images of another size are cropped and resampled.
        max_pixels: Limit on the pixels of an image; larger images are failures.

    Yields:
        The images, in the order of the indices.
    """
    import grain

    if len(indices) == 0:
        return
    lock = threading.Lock()
    dataset = grain.MapDataset.source(indices).map(
        lambda index: read_row(
            manifest, int(index), size, model, resize, max_pixels, lock
        )
    )
    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
    yield from dataset.to_iter_dataset(options)
