"""Conversion of a diffusers folder to an Orbax checkpoint, which JAX reads directly."""

import os
import shutil
from pathlib import Path

import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxinv.files.atomic import atomic_folder, write_json
from jaxinv.files.folders import files_below, model_root, part_folder
from jaxinv.loading import checkpoint
from jaxinv.loading.find import find_model
from jaxinv.loading.folder import model_index, model_name, read_parts
from weights_convert import load_component
from weights_convert.reader import read_json, stored_dtype


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    dtype: DTypeLike | None = None,
    force: bool = False,
    revision: str | None = None,
) -> Path:
    """Convert a diffusers pipeline to a checkpoint that JAX reads directly.

    Args:
        src: A pipeline folder (with ``model_index.json``), or a name for
            :func:`jaxinv.load`.
        dst: The checkpoint's folder; see :mod:`jaxinv.loading.checkpoint` for its
            layout. It appears only when it is complete.
        dtype: Data type to store; that of ``src`` if None.
        force: Whether an existing ``dst`` may be replaced.
        revision: Branch, tag or commit on the hub.

    Returns:
        The folder that was written.

    Raises:
        ValueError: If the pipeline is not supported, incomplete or broken.
        FileNotFoundError: If the model does not exist.
        FileExistsError: If ``dst`` has content and ``force`` is false.
        OSError: If ``dst`` cannot be written.
    """
    with atomic_folder(dst, overwrite=force) as partial:
        source = find_model(src, revision=revision)
        if source.is_file():
            raise ValueError(
                f"{source} is a model in one file, which jaxinv.load reads as it is; "
                "only folders are converted"
            )
        found = read_parts(source, model_name(os.fspath(src), source)).index
        own = {part: part_folder(source, part) for part in found.classes}
        without = [part for part in found.classes if part not in found.networks]
        copied = [part for part in without if own[part] != source]
        for part in copied:  # refuse files that must not be copied, before converting
            list(files_below(source / part, model_root(source)))
        for part in found.networks:
            stored = stored_dtype(own[part]) if dtype is None else dtype
            module = load_component(own[part], param_dtype=jnp.dtype(stored))
            checkpoint.save_component(module, partial / part)
        for part in copied:
            copy_files(source / part, partial / part, model_root(source))
        if "scheduler" not in copied:  # it lies among the model's other files
            name, target = "scheduler_config.json", partial / "scheduler"
            target.mkdir()
            write_json(target / name, read_json(source / name), indent=2)
        # The new folder may have another name, which said what the model is.
        index = model_index(source)
        if found.pipeline:
            index["_class_name"] = found.pipeline
        write_json(partial / "model_index.json", index, indent=2)
        write_json(partial / checkpoint.MARKER, checkpoint.FORMAT, indent=2)
    return Path(dst)


def copy_files(source: Path, target: Path, root: Path) -> None:
    """Copy a folder's files, following links within the model."""
    for path in files_below(source, root):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
