"""Reading a data set: every file that is wrong is said to be, and nothing hangs."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxinv.scale.jobs.manifest import Manifest, Row
from jaxinv.scale.jobs.reading import read_row, read_rows

SIZE = (8, 8)


def picture(path, size=SIZE, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def truncated(path):
    picture(path, (64, 64))
    path.write_bytes(path.read_bytes()[:2000])


def huge(path):
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT")


def not_finite(path):
    Image.fromarray(np.full(SIZE, np.nan, np.float32)).save(path, "TIFF")


def unreadable(path):
    # Nobody may read it, root neither: it is its own target.
    path.symlink_to(path.name)


PLANTED = {
    "empty": (lambda path: path.write_bytes(b""), "not an image"),
    "truncated": (truncated, "damaged"),
    "text": (lambda path: path.write_text("not a picture"), "not an image"),
    "huge": (huge, "too large"),
    "not_finite": (not_finite, "NaN or infinite"),
    "missing": (lambda path: None, "no such image"),
    "dangling": (lambda path: path.symlink_to("gone"), "link to a file"),
    "pipe": (os.mkfifo, "is a pipe"),
    "folder": (lambda path: path.mkdir(), "folder"),
    "unreadable": (unreadable, "cannot be read"),
    "other_size": (lambda path: picture(path, (8, 9)), "is 9x8 and tiny works at 8x8"),
    "long_name": (lambda path: None, "name too long"),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_what_cannot_be_read_is_a_reason_and_not_an_exception(tmp_path, kind):
    plant, reason = PLANTED[kind]
    name = "a" * 300 if kind == "long_name" else "a.png"
    plant(tmp_path / name)
    manifest = Manifest(tmp_path, [Row(name, "", "", 1.0)])
    reading = read_row(manifest, 0, SIZE, "tiny", False)
    assert reading.pixels is None
    assert reason.lower() in reading.failure.lower()
    # Failures of one kind are counted together, wherever the files are.
    assert str(tmp_path) not in reading.failure


def test_images_come_in_order_whatever_is_between_them(tmp_path):
    good = {}
    names = [f"{index:02d}.png" for index in range(40)]
    plants = [plant for plant, _ in PLANTED.values()]
    for index, name in enumerate(names):
        if index % 3:
            good[index] = picture(tmp_path / name, seed=index)
        else:
            plants[index // 3 % (len(plants) - 1)](tmp_path / name)
    manifest = Manifest(tmp_path, [Row(name, "", "", 1.0) for name in names])
    wanted = np.arange(5, 40)
    readings = list(read_rows(manifest, wanted, SIZE, "tiny"))
    assert [reading.index for reading in readings] == wanted.tolist()
    for reading in readings:
        assert (reading.failure is None) == (reading.index in good)
        if reading.failure is None:
            np.testing.assert_array_equal(reading.pixels, good[reading.index])


def test_what_reading_changed_is_said(tmp_path):
    picture(tmp_path / "a.png", (16, 24))
    manifest = Manifest(tmp_path, [Row("a.png", "", "", 1.0)])
    (reading,) = read_rows(manifest, np.arange(1), SIZE, "tiny", resize=True)
    assert reading.pixels.shape == (8, 8, 3)
    assert reading.changes == ("center-crop 24x16 to 16x16 and resample to 8x8",)


def test_nothing_to_read_is_nothing(tmp_path):
    manifest = Manifest(tmp_path, [Row("a.png", "", "", 1.0)])
    assert list(read_rows(manifest, np.arange(0), SIZE, "tiny")) == []
