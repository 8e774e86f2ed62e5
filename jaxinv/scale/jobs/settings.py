"""Description of a job: the settings, weights and rows that determine its results.

Two starts with equal descriptions give equal results, so the second may resume the
first; any difference means another job.
"""

import hashlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxinv.files.digests import file_digests
from jaxinv.loading.folder import loaded_files
from jaxinv.scale.jobs.folder import FORMAT
from jaxinv.scale.jobs.manifest import Manifest


def describe_job(
    manifest: Manifest,
    settings: Mapping[str, Any],
    shape: tuple[int, ...],
    chunk_rows: int | None,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the description of a job, for ``job.json``.

    Args:
        manifest: The images.
        settings: All other settings that affect results.
        shape: Shape of a row of the array.
        chunk_rows: Number of rows in a file of the array; None for no array.
        about: Further information, which may differ in a later start.

    Returns:
        Values for JSON.
    """
    return {
        "format": FORMAT,
        "settings": dict(settings),
        "manifest": {
            "rows": len(manifest.rows),
            "sha256": manifest.fingerprint(),
        },
        "noise": None
        if chunk_rows is None
        else {"row_shape": list(shape), "chunk_rows": chunk_rows},
        "about": {
            "root": str(manifest.root.absolute()),
            "jaxinv": _version(),
            "jax": jax.__version__,
            **about,
        },
    }


def _version() -> str | None:
    """Return the version, None in a checkout that is not installed."""
    try:
        return importlib.metadata.version("jaxinv")
    except importlib.metadata.PackageNotFoundError:
        return None


def model_fingerprint(
    folder: Path, variant: str | None = None, *, text_encoders: bool = True
) -> str:
    """Return the SHA-256 of a model's configurations and weights.

    It depends on the contents of the files that are read, not on their dates, links,
    the model's name or location, or on files that are not read, such as the same
    weights in another format.

    Args:
        folder: A folder in diffusers' layout, or written by ``jaxinv convert``; or a
            single file.
        variant: See :func:`jaxinv.load`.
        text_encoders: Whether the text encoders are loaded. The files of those that are
            not need not be there.

    Returns:
        The digest, hexadecimal. The files are read in several threads and hashed at
        1.5 GB per second and core (measured on CPUs with instructions for SHA-256).

    Raises:
        ValueError: If a part of the model has no weights.
        OSError: If a file cannot be read.
    """
    return files_fingerprint(loaded_files(folder, variant, text_encoders=text_encoders))


def files_fingerprint(files: Mapping[str, Path]) -> str:
    """Return the SHA-256 of the contents of files and of the names given to them.

    Raises:
        OSError: If a file cannot be read.
    """
    digest = hashlib.sha256()
    for name, content in zip(files, file_digests(files.values()), strict=True):
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()
