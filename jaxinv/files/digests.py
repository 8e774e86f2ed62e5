"""SHA-256 digests of the files of a folder, to detect damage.

Orbax stores no checksum of the values of an array: a bit that flips on disk would
change a weight. This library therefore stores digests next to the files that it writes.
"""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

from jaxinv.checks import Length
from jaxinv.files.atomic import write_json
from jaxinv.files.folders import files_below
from jaxinv.files.json_fields import check_field, naming, read_json

_THREADS = 4  # hashing releases the interpreter's lock
_Digests = dict[Annotated[str, Length(1, 4096)], Annotated[str, Length(64, 64)]]


def write_digests(folder: Path, path: Path) -> None:
    """Write the digests of all files below a folder.

    Args:
        folder: The folder, which must no longer change.
        path: The file to write, outside the folder.

    Raises:
        OSError: If a file cannot be read or written.
    """
    write_json(path, {"sha256": dict(_digests(folder, Path(folder.resolve())))})


def check_digests(folder: Path, path: Path, root: Path) -> None:
    """Raise ValueError unless all files below a folder match their digests.

    All files are read, and hashed at 1.5 GB per second and core.

    Args:
        folder: The folder.
        path: The file that :func:`write_digests` wrote.
        root: The folder that links must not leave.
    """
    content = read_json(path, root=root)
    with naming(path):
        check_field("sha256", content.get("sha256"), _Digests)
    wanted = content["sha256"]
    found = dict(_digests(folder, root))
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            missing = "is missing" if name not in found else "has changed"
            raise ValueError(
                f"{folder / name} {missing} (SHA-256 in {path.name}): the checkpoint "
                "is damaged; convert it again"
            )


def _digests(folder: Path, root: Path) -> Iterator[tuple[str, str]]:
    files = list(files_below(folder, root))
    for file, digest in zip(files, file_digests(files), strict=True):
        yield file.relative_to(folder).as_posix(), digest


def file_digests(files: Iterable[Path]) -> Iterator[str]:
    """Return the SHA-256 of files, hexadecimal, several being read at a time.

    Args:
        files: The files.

    Yields:
        A digest for each.

    Raises:
        OSError: If a file cannot be read.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(_digest, files)


def _digest(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
