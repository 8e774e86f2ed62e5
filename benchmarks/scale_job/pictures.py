"""Pictures for jobs: good ones, all different, and every kind of bad one."""

import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: With this guidance scale, which float32 does not hold, no output is finite.
OVERFLOWING = {"prompt": "red heart", "guidance": 1e39}


def write_picture(path: Path, size: int, seed: int) -> None:
    """Write a smooth random picture as PNG."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    smooth.save(path)


def write_pictures(folder: Path, size: int, count: int) -> None:
    """Write pictures that are all different, 0000.png and on."""
    folder.mkdir(parents=True)
    for index in range(count):
        write_picture(folder / f"{index:04d}.png", size, index)


class Bad(NamedTuple):
    """A kind of file that must fail.

    Attributes:
        plant: Makes one, given a path and the model's image size.
        reason: What the record must say.
        row: What the manifest says of it besides its path.
    """

    plant: Callable[[Path, int], Any]
    reason: str
    row: Mapping[str, Any] = {}


def _truncated(path: Path, size: int) -> None:
    write_picture(path, size, seed=0)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _huge(path: Path, size: int) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    path.write_bytes(SIGNATURE + chunk + struct.pack(">I", 9) + b"IDAT")


def _nan(path: Path, size: int) -> None:
    values = np.full((size, size), 0.5, np.float32)
    values[size // 2] = np.nan
    Image.fromarray(values).save(path, "TIFF")


def _forbidden(path: Path, size: int) -> None:
    write_picture(path, size, seed=0)
    path.chmod(0)


BAD = {
    "truncated PNG": Bad(_truncated, "damaged"),
    "empty file": Bad(lambda path, _: path.touch(), "not an image"),
    "text named .png": Bad(
        lambda path, _: path.write_text("not a picture\n"), "not an image"
    ),
    "PNG header of 60000 x 60000": Bad(_huge, "too large"),
    "link to a missing file": Bad(
        lambda path, _: path.symlink_to("gone"), "a link to a file that does not exist"
    ),
    "link to itself": Bad(
        lambda path, _: path.symlink_to(path.name), "too many levels of symbolic links"
    ),
    "folder": Bad(lambda path, _: path.mkdir(), "is a folder"),
    "FIFO": Bad(lambda path, _: os.mkfifo(path), "a pipe"),
    "TIFF with NaN": Bad(_nan, "NaN or infinite"),
    "wrong size": Bad(
        lambda path, size: write_picture(path, size + 8, seed=0), "works at"
    ),
    "missing file": Bad(lambda path, _: None, "no such image"),
    "inversion overflows (guidance 1e39)": Bad(
        lambda path, size: write_picture(path, size, seed=0),
        "overflowed",
        OVERFLOWING,
    ),
}
FORBIDDEN = "permission denied"
if os.geteuid() != 0:  # root may read everything
    BAD[FORBIDDEN] = Bad(_forbidden, "permission denied")


def write_job(
    folder: Path, size: int, count: int, bad: int, different: int, seed: int = 0
) -> tuple[Path, list[str | int]]:
    """Write a manifest of good and bad pictures in random order, and these.

    Args:
        folder: For the pictures; the manifest lies in it.
        size: Of the model's images.
        count: rows.
        bad: Of them, all kinds in turn.
        different: Different good pictures; the other good ones are hard links.
        seed: Of the order.

    Returns:
        The manifest, and what each row is: a kind of ``BAD``, or the number of the
        different picture.
    """
    write_pictures(folder / "different", size, different)
    order = np.random.default_rng(seed).permutation(count)
    rows: list[str] = [""] * count
    what: list[str | int] = [0] * count
    kinds: Sequence[str] = list(BAD)
    for number, index in enumerate(order):
        path = folder / f"{index // 1000:02d}" / f"{index:06d}.png"
        path.parent.mkdir(exist_ok=True)
        row: dict[str, Any] = {"path": str(path.relative_to(folder))}
        if number < bad:
            kind = kinds[number % len(kinds)]
            BAD[kind].plant(path, size)
            row |= BAD[kind].row
            what[index] = kind
        else:
            picture = number % different
            os.link(folder / "different" / f"{picture:04d}.png", path)
            what[index] = picture
        rows[index] = json.dumps(row)
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(f"{row}\n" for row in rows))
    return manifest, what
