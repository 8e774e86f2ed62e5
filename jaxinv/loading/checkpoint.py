"""Orbax checkpoints of models: saving, and restoring with any sharding.

A component (UNet, autoencoder, text encoder) is a folder::

    unet/config.json    diffusers' configuration, which names the class
    unet/params/        Orbax checkpoint: one array for each parameter path
    unet/digests.json   SHA-256 of the files in params/; missing in older checkpoints

and a pipeline, written by ``jaxinv convert SRC DST``, is::

    DST/jaxinv.json        {"format": "jaxinv-checkpoint", "version": 1}
    DST/model_index.json   as in the diffusers folder it came from
    DST/unet/              components
    DST/vae/
    DST/text_encoder/
    DST/tokenizer/         copied unchanged
    DST/scheduler/         copied unchanged

Parameters are read directly into the requested sharding: no device and no host ever
holds more than its part.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxinv.checks import one_line, shown
from jaxinv.files.atomic import atomic_folder, write_json
from jaxinv.files.digests import check_digests, write_digests
from jaxinv.files.folders import files_below, model_root
from jaxinv.files.json_fields import naming, read_json
from jaxinv.mesh import ShardingRule, sharding_function
from jaxinv.models.parameters import parameters, with_parameters
from jaxinv.models.registry import Component, abstract_component, component_config

MARKER = "jaxinv.json"
DIGESTS = "digests.json"
FORMAT = {"format": "jaxinv-checkpoint", "version": 1}
# Files of Orbax that hold JSON, and their size limit: one lists every parameter.
_METADATA = ("_METADATA", "_CHECKPOINT_METADATA", "_sharding")
_MAX_METADATA = 16 * 2**20
_SHOWN = 200  # limit on the characters shown of Orbax's errors


def is_checkpoint(folder: str | os.PathLike) -> bool:
    """Return whether a folder is a pipeline in the layout described above."""
    return (Path(folder) / MARKER).is_file()


def check_marker(folder: Path) -> None:
    """Raise ValueError unless a pipeline was written in the current format.

    Args:
        folder: A folder for which :func:`is_checkpoint` is true.
    """
    found = read_json(folder / MARKER, root=model_root(folder))
    if found != FORMAT:
        raise ValueError(
            f"{folder / MARKER} names an unsupported format: expected {FORMAT}, got "
            f"{shown(found)}"
        )


def save_component(module: Component, folder: str | os.PathLike) -> None:
    """Write a model as ``folder/config.json`` and ``folder/params``.

    Args:
        module: The model.
        folder: The target, which must not exist or must be empty.

    Raises:
        FileExistsError: If the folder has content.
        OSError: If it cannot be written.
    """
    with atomic_folder(folder) as partial:
        write_json(partial / "config.json", module.config.to_dict(), indent=2)
        with _checkpointer() as checkpointer:
            checkpointer.save(partial.absolute() / "params", parameters(module))
        write_digests(partial / "params", partial / DIGESTS)


def load_component(
    folder: str | os.PathLike,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    sharding: ShardingRule | None = None,
) -> Component:
    """Restore a model that :func:`save_component` wrote.

    Args:
        folder: A component's folder.
        dtype: Data type of the computation.
        param_dtype: Data type of the parameters, independent of the stored type.
        sharding: Placement of the parameters: a mesh, for
            :func:`jaxinv.mesh.parameter_rule` on it, one sharding for all of them,
            a mapping from parameter paths, or a function of a parameter's path and
            shape. The first local device if None.

    Returns:
        The model.

    Raises:
        ValueError: If the folder is not such a checkpoint, or does not match its
            configuration.

    Example:
        To divide a model into two parts on all devices::

            unet = load_component("sd15/unet", sharding=jaxinv.mesh.make_mesh(2))
    """
    folder = Path(folder).absolute()
    path = folder / "config.json"
    if not path.exists() or not (folder / "params").is_dir():
        raise ValueError(
            f"{folder} is not a jaxinv component: it needs config.json and params/"
        )
    root = model_root(folder)
    with naming(path):
        config = component_config(read_json(path, root=root))
    _check_files(folder / "params", root)
    if os.path.lexists(folder / DIGESTS):
        check_digests(folder / "params", folder / DIGESTS, root)
    module = abstract_component(config, dtype=dtype, param_dtype=param_dtype)
    wanted = parameters(module)

    place = sharding_function(sharding)
    target = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(name, x.shape))
        for name, x in wanted.items()
    }
    with _checkpointer() as checkpointer:
        with _reading(folder):
            metadata = checkpointer.metadata(folder / "params")
            stored = _stored_shapes(metadata)
        _check_shapes(folder, wanted, stored)
        with _reading(folder):
            values = checkpointer.restore(folder / "params", target)
    _check_values(folder, target, values)
    return with_parameters(module, values)


def _checkpointer() -> Any:
    import orbax.checkpoint  # takes a second, and is not needed for diffusers' folders

    return orbax.checkpoint.StandardCheckpointer()


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Convert all errors of Orbax to a ValueError that names the checkpoint.

    Damaged metadata reaches its code unchecked, so the errors have no common class.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{folder / 'params'} is damaged: Orbax cannot read it "
            f"({type(error).__name__}: {one_line(error, _SHOWN)})"
        ) from None


def _check_files(params: Path, root: Path) -> None:
    """Refuse files that must not be opened, and metadata that is not bounded JSON."""
    for path in files_below(params, root):
        if path.name in _METADATA:
            read_json(path, root=root, max_bytes=_MAX_METADATA)


def _stored_shapes(metadata: Any) -> dict[str, tuple[int, ...]]:
    tree = getattr(metadata, "item_metadata", metadata)
    return {str(path): tuple(tree[path].shape) for path in tree}


def _check_values(
    folder: Path, target: Mapping[str, Any], values: Mapping[str, Any]
) -> None:
    """Raise ValueError unless all arrays were read and are finite."""
    for path, wanted in target.items():
        value = values.get(path)
        if not isinstance(value, jax.Array) or value.shape != wanted.shape:
            raise ValueError(
                f"{folder / 'params'} is damaged: the array for {path!r} is missing"
            )
        # On the host, because compiling a check for each of many shapes takes longer.
        for shard in value.addressable_shards:
            if shard.replica_id == 0 and not np.isfinite(np.asarray(shard.data)).all():
                raise ValueError(
                    f"{folder}: parameter {path!r} has values that are NaN or "
                    "infinite: the checkpoint is damaged, or the numbers are too large "
                    f"for {value.dtype}"
                )


def _check_shapes(
    folder: Path, wanted: Mapping[str, Any], stored: Mapping[str, tuple[int, ...]]
) -> None:
    """Compare a checkpoint with the model that its configuration describes."""
    for path in sorted(wanted.keys() | stored.keys()):
        expected = tuple(wanted[path].shape) if path in wanted else None
        if expected != stored.get(path):
            raise ValueError(
                f"{folder}: parameter {path!r}: the configuration asks for shape "
                f"{expected}, the checkpoint holds {stored.get(path)}"
            )
