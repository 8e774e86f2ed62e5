"""A whole pipeline: a diffusers folder, or a hub name, to an Orbax checkpoint."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxinv import checkpoint
from weights_convert.component import load_component
from weights_convert.errors import WeightsError
from weights_convert.reader import read_json, stored_dtype

COMPONENTS = ("unet", "vae", "text_encoder")
COPIED = ("tokenizer", "scheduler")
# Parts of published pipelines that generation and inversion do without.
SKIPPED = ("safety_checker", "feature_extractor", "image_encoder")

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def convert(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    *,
    dtype: DTypeLike | None = None,
    force: bool = False,
) -> Path:
    """Converts a diffusers pipeline to a checkpoint that JAX reads directly.

    Args:
        src: A pipeline folder (with ``model_index.json``), or a name on the Hugging
            Face hub such as ``"org/model"``.
        dst: The checkpoint's folder; see :mod:`jaxinv.checkpoint` for its layout. It
            appears only when it is complete.
        dtype: Data type to store; the one in ``src`` if None.
        force: Whether a ``dst`` that exists may be replaced.

    Returns:
        The folder that was written.

    Raises:
        WeightsError: If the pipeline is not supported, incomplete or broken.
        FileExistsError: If ``dst`` has content and ``force`` is false.
        OSError: If ``dst`` cannot be written.
    """
    with checkpoint.atomic_folder(dst, overwrite=force) as partial:
        source = _local_folder(os.fspath(src))
        index = read_json(source / "model_index.json")
        _check_index(source, index)
        for name in COMPONENTS:
            folder = source / name
            stored = jnp.dtype(stored_dtype(folder) if dtype is None else dtype)
            module = load_component(folder, param_dtype=stored)
            checkpoint.save_component(module, partial / name)
        for name in COPIED:
            shutil.copytree(source / name, partial / name)
        checkpoint.write_json(partial / "model_index.json", index)
        checkpoint.write_json(partial / checkpoint.MARKER, checkpoint.FORMAT)
    return Path(dst)


def _check_index(source: Path, index: dict[str, Any]) -> None:
    """Checks that the pipeline consists of the parts that are known here."""
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list) or entry[:1] == [None]:
            continue
        if name not in COMPONENTS + COPIED + SKIPPED:
            raise WeightsError(
                f"{source}: component {name!r} ({entry[-1]}) is not implemented"
            )
    for name in COMPONENTS + COPIED:
        if not (source / name).is_dir():
            raise WeightsError(f"{source}: folder {name!r} is missing")


def _local_folder(src: str) -> Path:
    """Returns the pipeline's folder, after downloading it if it is a hub name."""
    if Path(src).is_dir():
        return Path(src)
    if not _HUB_NAME.fullmatch(src):
        raise WeightsError(f"{src} is neither a folder nor a name on the hub")
    return _download(src)


def _download(name: str) -> Path:
    """Downloads the parts of a pipeline that are needed, and no pickles."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        files = huggingface_hub.HfApi().list_repo_files(name)
        return Path(
            huggingface_hub.snapshot_download(name, allow_patterns=wanted_files(files))
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise WeightsError(f"{name} cannot be downloaded: {error}") from error


def wanted_files(files: list[str]) -> list[str]:
    """Returns which of a hub repository's files a pipeline needs.

    Configurations and vocabularies, and one set of safetensors per component: the plain
    one, or the half-precision variant where there is no plain one.

    Args:
        files: Paths of all files in the repository.

    Returns:
        Paths of the files to download.
    """
    wanted = ["model_index.json"]
    for folder in COMPONENTS + COPIED:
        inside = [f for f in files if re.fullmatch(rf"{folder}/[^/]+", f)]
        wanted += [f for f in inside if f.endswith((".json", ".txt"))]
        weights = [f for f in inside if f.endswith(".safetensors")]
        plain = [f for f in weights if not re.search(r"\.(fp16|non_ema)[.-]", f)]
        half = [f for f in weights if re.search(r"\.fp16[.-]", f)]
        wanted += plain or half
    return wanted
