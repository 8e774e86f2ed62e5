"""Atomic writing of files, and checks of outputs before the computation starts.

A result is written to a temporary file in the same folder, flushed to disk, and renamed
over the target: readers see the old file or the new one.
"""

import contextlib
import json
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.format import (
    MAGIC_PREFIX,
    read_array_header_1_0,
    read_array_header_2_0,
    read_magic,
)
from numpy.lib.format import read_array as read_npy


def write_array(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write one array as a NumPy ``.npy`` file, atomically.

    Args:
        path: Target file.
        array: Any numeric array.

    Raises:
        OSError: If the file cannot be written.
    """
    with open_atomically(path) as file:
        np.save(file, np.asarray(array), allow_pickle=False)


def read_array(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an array that :func:`write_array` wrote.

    The size that the header states is compared with the file before memory is
    allocated.

    Args:
        path: A NumPy ``.npy`` file.

    Returns:
        The array, of the machine's byte order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a ``.npy`` array of real numbers, or is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if not path.is_file():
        raise ValueError(f"{path} is a folder, pipe or device, not a file")
    with open(path, "rb") as file:
        if file.read(len(MAGIC_PREFIX)) != MAGIC_PREFIX:
            raise ValueError(
                f"{path} is not a NumPy array: expected a .npy file, as numpy.save "
                "and 'jaxinv invert' write it"
            )
        file.seek(0)
        shape, dtype = _read_header(file, path)
        if dtype.kind not in "fiu" or dtype.itemsize > 8:
            raise ValueError(
                f"{path} holds an array of type {dtype}, expected real numbers"
            )
        stated = math.prod(shape) * dtype.itemsize
        held = path.stat().st_size - file.tell()
        if min(shape, default=0) < 0 or stated != held:
            raise ValueError(
                f"{path} is damaged: its header states shape {shape} of {dtype}, which "
                f"takes {stated} bytes, and {held} follow"
            )
        file.seek(0)
        array = read_npy(file, allow_pickle=False)
    return np.asarray(array, dtype.newbyteorder("="))


def _read_header(file: BinaryIO, path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and type that a ``.npy`` header states."""
    readers = {(1, 0): read_array_header_1_0, (2, 0): read_array_header_2_0}
    try:
        shape, _, dtype = readers[read_magic(file)](file)
    except Exception as error:  # the header is parsed as Python: anything can be raised
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{path} is damaged: its header: {reason[0]}") from None
    return shape, dtype


def write_json(
    path: str | os.PathLike[str], value: Mapping[str, Any], indent: int | None = None
) -> None:
    """Write a JSON object atomically; see :func:`to_json`.

    Raises:
        OSError: If the file cannot be written.
    """
    with open_atomically(path) as file:
        file.write(to_json(value, indent).encode() + b"\n")


def to_json(value: Mapping[str, Any], indent: int | None = None) -> str:
    """Format a JSON object from Python and array scalars.

    JSON has no NaN and no infinity: they become ``null``.
    With ``indent``, every value has its own line.

    >>> to_json({"a": np.float32(0.5), "b": float("nan")})
    '{"a": 0.5, "b": null}'
    """
    return json.dumps(_plain(value), allow_nan=False, indent=indent)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return os.fspath(value) if isinstance(value, os.PathLike) else value


@contextlib.contextmanager
def open_atomically(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary file for writing that appears only once it is complete on disk.

    Args:
        path: Target file; its folder must exist. An existing file is replaced.

    Yields:
        The file to write to. If the block raises, the target is unchanged.

    Raises:
        OSError: If the file cannot be written.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent or ".")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


@contextlib.contextmanager
def atomic_folder(
    folder: str | os.PathLike, *, overwrite: bool = False
) -> Iterator[Path]:
    """Make a folder appear only when it is complete.

    The context yields a temporary folder next to the target. It is renamed at the end,
    or removed if anything was raised.

    Args:
        folder: The folder to make.
        overwrite: Whether a folder with content may be replaced.

    Yields:
        The folder to write into.

    Raises:
        FileExistsError: If the folder has content and ``overwrite`` is false.
        OSError: If it cannot be written.
    """
    folder = Path(folder).absolute()
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} exists and is not a folder")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise FileExistsError(f"{folder} exists and is not empty")
    folder.parent.mkdir(parents=True, exist_ok=True)
    tag = uuid.uuid4().hex[:8]
    partial = folder.with_name(f".{folder.name}.partial-{tag}")
    partial.mkdir()
    try:
        yield partial
        if folder.is_dir() and any(folder.iterdir()):
            old = folder.with_name(f".{folder.name}.old-{tag}")
            folder.rename(old)
            partial.rename(folder)
            shutil.rmtree(old)
        else:
            partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _umask() -> int:
    # The mask cannot be read without setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_writable_folder(folder: str | os.PathLike[str], *, make: bool = True) -> Path:
    """Check, by writing, that files can be created in a folder.

    Call this before a computation starts.

    Args:
        folder: The folder for results.
        make: Whether to create the folder if it is missing. Otherwise the nearest
            existing folder above it is checked, and nothing is left behind.

    Returns:
        The folder.

    Raises:
        ValueError: If the folder cannot be created or written to.
    """
    folder = place = Path(folder)
    try:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        while not place.exists() and place != place.parent:
            place = place.parent
        with tempfile.TemporaryFile(dir=place):
            pass
    except (FileExistsError, NotADirectoryError):
        what = "it" if place == folder else place
        raise ValueError(f"cannot write to {folder}: {what} is a file") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(f"cannot write to {folder}: {reason}") from None
    return folder


def check_writable_file(path: str | os.PathLike[str], *, make: bool = True) -> Path:
    """Check, by writing, that a file can be created; see :func:`check_writable_folder`.

    Raises:
        ValueError: If it cannot be created, or is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder")
    check_writable_folder(path.parent, make=make)
    return path
