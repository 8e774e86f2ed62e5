"""Untrusted folders: only regular files, and no links that leave the folder.

A model's folder may come from anywhere, and its files are read, copied and shown. Links
within the folder are followed; the Hugging Face cache consists of them::

    models--owner--name/snapshots/<revision>/unet/config.json -> ../../../blobs/<hash>

Links that leave the folder (``tokenizer/extra.txt -> /etc/passwd``) are never followed.
Pipes and devices are refused before they are opened, because opening a pipe without a
writer blocks forever.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

# Parts that may lie in the model's own folder, and their configurations.
_FLAT = {"unet": "config.json", "scheduler": "scheduler_config.json"}

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def model_root(folder: str | os.PathLike[str]) -> Path:
    """Return the folder that links in a model, or in a part of one, must not leave.

    Args:
        folder: The folder of a model or of one of its parts. The folder itself may be a
            link, because the user names it.

    Returns:
        A resolved path: the repository's folder with ``snapshots`` and ``blobs`` in a
        Hugging Face cache, the pipeline's folder for a part of a pipeline, otherwise
        ``folder``.
    """
    real = Path(os.path.realpath(folder))
    for parent in real.parents:
        if parent.name == "snapshots" and (parent.parent / "blobs").is_dir():
            return parent.parent
    whole = (real / "model_index.json").exists()
    part = not whole and (real.parent / "model_index.json").is_file()
    return real.parent if part else real


def part_folder(folder: Path, part: str) -> Path:
    """Return the folder of a part: its own, or the model's if the part lies there.

    diffusers' pipelines look for a part without a folder in the model's, where
    ``google/ddpm-*`` have their network and scheduler.

    Args:
        folder: The model's folder.
        part: A part of its ``model_index.json``.
    """
    own = folder / part
    if own.is_dir() or part not in _FLAT:
        return own
    return folder if (folder / _FLAT[part]).is_file() else own


def check_inside(path: str | os.PathLike[str], root: Path) -> None:
    """Raise ValueError if a path leaves a folder through a link.

    Args:
        path: A file or folder below the folder; it need not exist.
        root: The folder, from :func:`model_root`.
    """
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(root):
        raise ValueError(
            f"{path} is a link that leads out of the model's folder {root}: replace it "
            "by a copy"
        )


def check_regular(path: str | os.PathLike[str], root: Path | None = None) -> None:
    """Raise unless a path is a regular file, without opening it.

    Args:
        path: The file, or a link to it.
        root: The folder that links must not leave, from :func:`model_root`; None for
            files that the user named.

    Raises:
        FileNotFoundError: If the path does not exist, or is a link to nothing.
        ValueError: If the path is not a file, or is a link out of ``root``.
    """
    if root is not None:
        check_inside(path, root)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        link = os.path.islink(path)
        what = "is a link to a file that does not exist" if link else "is missing"
        raise FileNotFoundError(f"{path} {what}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{path} cannot be read: {reason.lower()}") from None
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise ValueError(f"{path} is {kind}; expected a file")


def read_regular(
    path: str | os.PathLike[str], max_bytes: int, root: Path | None = None
) -> bytes:
    """Return the content of a regular file of bounded size.

    Args:
        path: The file.
        max_bytes: The largest size allowed.
        root: See :func:`check_regular`.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the path is not a file, leaves ``root``, is too large, or cannot
            be read.
    """
    check_regular(path, root)
    try:
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(f"{path} cannot be read: {reason}") from None
    if len(data) > max_bytes:
        raise ValueError(f"{path} is larger than {max_bytes:,} bytes")
    return data


def files_below(folder: Path, root: Path) -> Iterator[Path]:
    """List the regular files of a folder and its subfolders.

    Args:
        folder: The folder; it may be a link.
        root: The folder that links must not leave, from :func:`model_root`.

    Yields:
        The files sorted by name; linked files have the names of the links.

    Raises:
        ValueError: If an entry is neither a file nor a folder, or is a link out of
            ``root``, to a folder that contains it, or to nothing.
        OSError: If a folder cannot be listed.
    """
    yield from _files_below(folder, root, ())


def _files_below(folder: Path, root: Path, above: tuple[str, ...]) -> Iterator[Path]:
    check_inside(folder, root)
    real = os.path.realpath(folder)
    if real in above:
        raise ValueError(f"{folder} is a link to a folder that contains it")
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files_below(path, root, (*above, real))
        else:
            check_regular(path, root)
            yield path
