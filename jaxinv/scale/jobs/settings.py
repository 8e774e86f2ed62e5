"""What makes a job's results what they are: settings, weights, rows.

Two starts with the same description give the same results, so the second may go on
where the first was stopped; any difference means another job.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

import jaxinv
from jaxinv.files.digests import file_digests
from jaxinv.loading.load import loaded_files
from jaxinv.scale.jobs.folder import FORMAT
from jaxinv.scale.jobs.manifest import Manifest


def describe_job(
    manifest: Manifest,
    settings: Mapping[str, Any],
    shape: tuple[int, ...],
    chunk_rows: int | None,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """The description of a job: what ``job.json`` holds.

    Args:
        manifest: The images.
        settings: Everything else that changes results.
        shape: Of a row of the array.
        chunk_rows: Of the array; None for a job that keeps none.
        about: What is good to know and may differ in a later start.

    Returns:
        What JSON can hold.
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
            "jaxinv": jaxinv.__version__,
            "jax": jax.__version__,
            **about,
        },
    }


def model_fingerprint(folder: Path, variant: str | None = None) -> str:
    """SHA-256 of everything that is read of a model: configurations and weights.

    It is made of the contents, whatever the dates of the files are, and wherever links
    lead to them. Neither the model's name nor its place are part of it, nor files that
    are not read, such as the same weights in another format.

    Args:
        folder: In diffusers' layout, or written by ``jaxinv convert``.
        variant: As of :func:`jaxinv.load`.

    Returns:
        The digest, hexadecimal. It costs one reading of the files, several at a time,
        and their SHA-256: 1.5 GB for each second of a core were measured, on CPUs that
        have instructions for it.

    Raises:
        ValueError: If a part of the model has no weights.
        OSError: If a file cannot be read.
    """
    files = loaded_files(folder, variant)
    digest = hashlib.sha256()
    for name, content in zip(files, file_digests(files.values()), strict=True):
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()
