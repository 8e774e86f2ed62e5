"""Saving models as Orbax checkpoints and restoring them, also in shards.

A component (UNet, autoencoder, text encoder) is a folder::

    unet/config.json    diffusers' configuration, names the class
    unet/params/        Orbax checkpoint: one array for each parameter path

and a pipeline, as ``python -m weights_convert SRC DST`` writes it, is::

    DST/jaxinv.json        {"format": "jaxinv-checkpoint", "version": 1}
    DST/model_index.json   as in the diffusers folder it came from
    DST/unet/              components
    DST/vae/
    DST/text_encoder/
    DST/tokenizer/         copied unchanged
    DST/scheduler/         copied unchanged

Parameters are read straight into the sharding that is asked for: no device and no host
ever holds more than its part.
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.typing import DTypeLike

from jaxinv.models.parameters import parameters, with_parameters
from jaxinv.models.registry import Component, abstract_component, component_config
from jaxinv.sharding import ShardingRule, sharding_function

MARKER = "jaxinv.json"
FORMAT = {"format": "jaxinv-checkpoint", "version": 1}


def is_checkpoint(folder: str | os.PathLike) -> bool:
    """Returns whether a folder is a pipeline in the layout described above."""
    return (Path(folder) / MARKER).is_file()


def save_component(module: Component, folder: str | os.PathLike) -> None:
    """Writes a model as ``folder/config.json`` and ``folder/params``.

    Args:
        module: The model.
        folder: Where to write; it must not exist, or be empty.

    Raises:
        FileExistsError: If the folder has content.
        OSError: If it cannot be written.
    """
    with atomic_folder(folder) as partial:
        write_json(partial / "config.json", module.config.to_dict())
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(partial.absolute() / "params", parameters(module))


def load_component(
    folder: str | os.PathLike,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    sharding: ShardingRule | None = None,
) -> Component:
    """Restores a model that :func:`save_component` wrote.

    Args:
        folder: A component's folder.
        dtype: Data type of the computation.
        param_dtype: Data type of the parameters, whatever they are stored in.
        sharding: Where the parameters go: a mesh, for
            :func:`jaxinv.sharding.parameter_rule` on it, one sharding for all of them,
            a mapping from parameter paths, or a function of a parameter's path and
            shape. The first local device if None.

    Returns:
        The model.

    Raises:
        ValueError: If the folder is no such checkpoint, or does not match its
            configuration.

    Example:
        In two parts, on all devices::

            unet = load_component("sd15/unet", sharding=jaxinv.sharding.make_mesh(2))
    """
    folder = Path(folder).absolute()
    if not (folder / "config.json").is_file() or not (folder / "params").is_dir():
        raise ValueError(
            f"{folder} is no jaxinv component: it needs config.json and params/"
        )
    try:
        config = component_config(json.loads((folder / "config.json").read_text()))
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error
    module = abstract_component(config, dtype=dtype, param_dtype=param_dtype)
    wanted = parameters(module)

    with ocp.StandardCheckpointer() as checkpointer:
        _check_shapes(folder, wanted, checkpointer.metadata(folder / "params"))
        place = sharding_function(sharding)
        target = {
            path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(path, x.shape))
            for path, x in wanted.items()
        }
        values = checkpointer.restore(folder / "params", target)
    return with_parameters(module, values)


def _check_shapes(folder: Path, wanted: Mapping[str, Any], metadata: Any) -> None:
    """Compares a checkpoint with the model that its configuration describes."""
    tree = getattr(metadata, "item_metadata", metadata)
    stored = {path: tuple(tree[path].shape) for path in tree}
    for path in sorted(wanted.keys() | stored.keys()):
        expected = tuple(wanted[path].shape) if path in wanted else None
        if expected != stored.get(path):
            raise ValueError(
                f"{folder}: parameter {path!r}: the configuration asks for shape "
                f"{expected}, the checkpoint holds {stored.get(path)}"
            )


def write_json(path: Path, data: Any) -> None:
    """Writes JSON as diffusers does: sorted and indented."""
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")


@contextlib.contextmanager
def atomic_folder(
    folder: str | os.PathLike, *, overwrite: bool = False
) -> Iterator[Path]:
    """Makes a folder appear only when it is complete.

    Yields a fresh folder beside the wanted one. It is renamed at the end, or removed if
    anything was raised.

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
        raise FileExistsError(f"{folder} exists and is no folder")
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
