"""Images from files, ahead of the engine: Grain's threads read while it computes.

Whatever is wrong with a file is a value here, not an exception: one picture that cannot
be read must not end the reading of a million others.

Memory: eight threads read; pictures of more than 4 million pixels are decoded one at a
time.
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
_AHEAD = 64  # images read and not yet asked for
_LARGE = 2**22  # pixels; larger pictures are decoded one at a time: 0.1 GB each


class Reading(NamedTuple):
    """An image of the manifest, or why there is none.

    Attributes:
        index: row of the manifest.
        pixels: 8-bit RGB values of the model's size; None if there is a failure.
        changes: what altered the picture; see :func:`jaxinv.files.images.read_image`.
        failure: the reason, with "the file" in place of the path; None if all is well.
        digest: SHA-256 of the file that was read; None if it could not be.
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
    """Reads one image.

    Args:
        manifest: All images.
        index: Which one.
        size: The model's (height, width).
        model: The model's name, for messages.
        resize: Whether images of another size are cropped and resampled.
        max_pixels: Larger pictures are failures.
        one_at_a_time: Entered while a picture of more than 4 million pixels is decoded:
            a lock that all threads share bounds their memory.

    Returns:
        The image or the reason why there is none; nothing is raised.
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
    """Reads images ahead of whoever takes them, in threads.

    Args:
        manifest: All images.
        indices: The rows that are wanted.
        size: The model's (height, width).
        model: The model's name, for messages.
        resize: Whether images of another size are cropped and resampled.
        max_pixels: Larger pictures are failures.

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
