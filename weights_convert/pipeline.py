"""A whole pipeline: a diffusers folder, or a hub name, to an Orbax checkpoint."""

import os
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxinv import checkpoint
from jaxinv.files.folders import check_inside, files_below, model_root
from jaxinv.models.supported import check_components, check_index
from weights_convert.component import load_component
from weights_convert.download import COMPONENTS, COPIED, HUB_NAME, download, one_line
from weights_convert.errors import WeightsError
from weights_convert.reader import read_config, read_json, stored_dtype


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
        _check(source, index)
        for name in COMPONENTS:
            folder = source / name
            stored = jnp.dtype(stored_dtype(folder) if dtype is None else dtype)
            module = load_component(folder, param_dtype=stored)
            checkpoint.save_component(module, partial / name)
        for name in COPIED:
            _copy_files(source / name, partial / name, model_root(source))
        checkpoint.write_json(partial / "model_index.json", index)
        checkpoint.write_json(partial / checkpoint.MARKER, checkpoint.FORMAT)
    return Path(dst)


def _copy_files(source: Path, target: Path, root: Path) -> None:
    """Copies a folder's files, and those that links within the model lead to."""
    for path in files_below(source, root):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def _check(source: Path, index: dict[str, Any]) -> None:
    """Checks that the pipeline consists of the parts that are known here."""
    try:
        check_index(source / "model_index.json", index)
        root = model_root(source)
        for name in COMPONENTS + COPIED:
            check_inside(source / name, root)
            if not (source / name).is_dir():
                raise WeightsError(f"{source}: folder {name!r} is missing")
        for name in COPIED:
            for _ in files_below(source / name, root):
                pass  # refuses what must not be copied, before anything is converted
        configs = (read_config(source / name) for name in COMPONENTS)
        check_components(source, *configs)
    except ValueError as error:
        raise WeightsError(str(error)) from None


def _local_folder(src: str) -> Path:
    """Returns the pipeline's folder, after downloading it if it is a hub name."""
    if Path(src).is_dir():
        return Path(src)
    if not HUB_NAME.fullmatch(src):
        raise WeightsError(f"{src} is neither a folder nor a name on the hub")
    try:
        return download(src)
    except Exception as error:  # the hub's errors have no base class in common
        raise WeightsError(f"{src} cannot be downloaded: {one_line(error)}") from error
