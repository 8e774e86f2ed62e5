"""Readers of pictures and of noise files."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_harness import Reader
from PIL import Image, ImageCms

from jaxinv.files import read_array
from jaxinv.files.image_reading import ReadImage, read_image
from jaxinv.scale.jobs.manifest import read_manifest
from jaxinv.scale.jobs.reading import Reading, read_row

_SUFFIXES = ("png", "jpg", "webp", "avif", "tif", "gif", "bmp", "ppm")
_MAX_PIXELS = 2**20  # a header that says more is refused without being decoded


def _pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)


def _write_picture(suffix: str, folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera that was turned
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    options: dict[str, Any] = {}
    if suffix in ("png", "jpg", "webp", "avif", "tif"):
        options = {"exif": exif, "icc_profile": profile}
    Image.fromarray(_pixels()).save(folder / f"a.{suffix}", **options)


def _write_deep(folder: Path) -> None:
    """A PNG of 16 bits, interlaced, with a palette of text around it."""
    rows = b"".join(b"\0" + bytes(range(6 * 8)) for _ in range(8))
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in (
        (b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)),
        (b"gAMA", struct.pack(">I", 100000)),
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 1000)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        body = name + content
        data += struct.pack(">I", len(content)) + body
        data += struct.pack(">I", zlib.crc32(body))
    (folder / "a.png").write_bytes(data)


def _a_picture(folder: Path, read: ReadImage) -> None:
    assert read.pixels.dtype == np.uint8
    assert read.pixels.ndim == 3
    assert read.pixels.shape[2] == 3
    assert read.pixels.size <= 3 * _MAX_PIXELS
    assert all("\n" not in change for change in read.changes)


def _row(folder: Path) -> Reading:
    manifest = read_manifest(folder / "pictures")
    return read_row(manifest, 0, (16, 16), "a model", True, _MAX_PIXELS)


def _a_row(folder: Path, reading: Reading) -> None:
    if reading.failure is None:
        assert reading.pixels is not None
        assert reading.pixels.shape == (16, 16, 3)
    else:
        assert "\n" not in reading.failure
        assert str(folder) not in reading.failure


def _write_row(folder: Path) -> None:
    (folder / "pictures").mkdir()
    _write_picture("tif", folder / "pictures")


def _an_array(folder: Path, array: np.ndarray) -> None:
    assert array.dtype.kind in "fiu"
    assert array.nbytes <= (folder / "a.npy").stat().st_size


READERS: list[Reader] = [
    *(
        Reader(
            name=f"picture {suffix}",
            make=lambda folder, suffix=suffix: _write_picture(suffix, folder),
            damages={f"a.{suffix}": ("bytes", "bytes", "bytes", "kind")},
            read=lambda folder, suffix=suffix: read_image(
                folder / f"a.{suffix}", _MAX_PIXELS
            ),
            holds=_a_picture,
            follows_links=True,
        )
        for suffix in _SUFFIXES
    ),
    Reader(
        name="picture of 16 bits",
        make=_write_deep,
        damages={"a.png": ("bytes",)},
        read=lambda folder: read_image(folder / "a.png", _MAX_PIXELS),
        holds=_a_picture,
        follows_links=True,
    ),
    Reader(
        name="picture of a job",
        make=_write_row,
        damages={"pictures/a.tif": ("bytes", "kind")},
        read=_row,
        holds=_a_row,
        follows_links=True,
    ),
    Reader(
        name="noise .npy",
        make=lambda folder: np.save(
            folder / "a.npy", np.arange(48, dtype=np.float32).reshape(4, 4, 3)
        ),
        damages={"a.npy": ("bytes", "bytes", "bytes", "kind")},
        read=lambda folder: read_array(folder / "a.npy"),
        holds=_an_array,
        follows_links=True,
    ),
]
