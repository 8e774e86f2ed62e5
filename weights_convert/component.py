"""Loading and saving of one component in a diffusers folder."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from safetensors.numpy import save_file

from jaxinv.files.atomic import atomic_folder, write_json
from jaxinv.mesh import ShardingRule, sharding_function
from jaxinv.models import CLIPTextConfig, T5Config
from jaxinv.models.parameters import parameters, with_parameters
from jaxinv.models.registry import Component, ComponentConfig, abstract_component
from jaxinv.paths import stacked_axes
from weights_convert.errors import WeightsError
from weights_convert.reader import (
    StoredTensor,
    open_tensors,
    read_config,
    read_tensor,
    require_floats,
)
from weights_convert.rules import (
    canonical_name,
    from_torch,
    tensor_names,
    to_torch,
    torch_shape,
)


def load_component(
    folder: str | os.PathLike,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    sharding: ShardingRule | None = None,
    variant: str | None = None,
) -> Component:
    """Load a model from a folder that diffusers or transformers saved.

    The model is built without values and filled tensor by tensor: nothing is
    initialized at random or held twice.

    Args:
        folder: A folder with ``config.json`` and safetensors (one file, or several with
            an index; a ``.fp16`` variant is used if there is no plain one).
        dtype: Data type of the computation.
        param_dtype: Data type of the parameters, independent of the stored type.
        sharding: Placement of the parameters; see :func:`jaxinv.load`.
        variant: Which weights to read if there are several: ``"fp16"`` for
            ``*.fp16.safetensors``. Folders without it are read from the plain files.

    Returns:
        The model that ``config.json`` names.

    Raises:
        WeightsError: If the model is not implemented, a file is broken or a pickle, or
            a tensor is missing, not used, or has the wrong shape.

    Example:
        ::

            unet = load_component("stable-diffusion-v1-5/unet", dtype=jnp.bfloat16)
    """
    folder = Path(folder)
    return filled_component(
        folder,
        read_config(folder),
        open_tensors(folder, variant),
        dtype=dtype,
        param_dtype=param_dtype,
        sharding=sharding,
    )


def filled_component(
    where: Path,
    config: ComponentConfig,
    tensors: Iterable[StoredTensor],
    *,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
    sharding: ShardingRule | None,
) -> Component:
    """Build a model without values, and fill it tensor by tensor.

    Args:
        where: The folder or file, for messages.
        config: Configuration of the model.
        tensors: Its tensors, which have current names.
        dtype: See :func:`load_component`.
        param_dtype: See :func:`load_component`.
        sharding: See :func:`load_component`.

    Returns:
        The model.

    Raises:
        WeightsError: If a tensor is missing, not used, or has the wrong shape.
    """
    module = abstract_component(config, dtype=dtype, param_dtype=param_dtype)
    wanted = parameters(module)
    place = None if sharding is None else sharding_function(sharding)
    values = {}
    for path, found in match_tensors(where, config, wanted, tensors).items():
        value = _read(where, path, found, wanted[path])
        values[path] = jax.device_put(value, place and place(path, value.shape))
    return with_parameters(module, values)


def _read(
    where: Path,
    path: str,
    tensors: Sequence[StoredTensor],
    wanted: jax.ShapeDtypeStruct,
) -> np.ndarray:
    """Read a parameter from its tensors, one per block if it is stacked."""

    def block(tensor: StoredTensor) -> np.ndarray:
        value = from_torch(path, read_tensor(where, tensor))
        return _cast(where, tensor, value, wanted.dtype)

    if not stacked_axes(path):
        return block(tensors[0])
    stacked = np.empty(wanted.shape, wanted.dtype)
    for i, tensor in enumerate(tensors):
        stacked[i] = block(tensor)
    return stacked


def _cast(
    folder: Path, tensor: StoredTensor, value: np.ndarray, dtype: np.dtype
) -> np.ndarray:
    """Return finite values in another data type, in which they must stay finite."""
    with np.errstate(over="ignore"):
        cast = value.astype(dtype, order="C")
    if cast.dtype.itemsize < value.dtype.itemsize and not np.isfinite(cast).all():
        raise WeightsError(
            f"{folder}: tensor {tensor.shown} has values too large for {dtype}: "
            "load it with param_dtype=float32 or bfloat16"
        )
    return cast


def match_tensors(
    folder: Path,
    config: ComponentConfig,
    wanted: Mapping[str, jax.ShapeDtypeStruct],
    tensors: Iterable[StoredTensor],
) -> dict[str, list[StoredTensor]]:
    """Match every parameter with its tensors, and every tensor with a parameter.

    Args:
        folder: The folder or file, for messages.
        config: Configuration of the model.
        wanted: Its parameters by path.
        tensors: The tensors.

    Returns:
        The tensors of each parameter: one, or one per block if it is stacked.

    Raises:
        WeightsError: If a tensor is missing, not used, or has the wrong shape.
    """
    names = {path: tensor_names(path, config) for path in wanted}
    shapes = {
        name: torch_shape(path, wanted[path].shape)
        for path, ours in names.items()
        for name in ours
    }
    found: dict[str, StoredTensor] = {}
    tensors = list(tensors)
    everything = {tensor.name for tensor in tensors}
    for tensor in tensors:
        name = canonical_name(tensor.name, config, everything)
        if name is None:
            continue
        if name not in shapes:
            raise WeightsError(
                f"{folder}: tensor {tensor.shown} of shape {tensor.shape} has no "
                f"place in {type(config).__name__.removesuffix('Config')} with this "
                "config.json"
            )
        if name in found:
            raise WeightsError(
                f"{folder}: tensors {found[name].shown} and "
                f"{tensor.shown} are the same weight"
            )
        if tensor.shape != shapes[name]:
            raise WeightsError(
                f"{folder}: tensor {tensor.shown} has shape {tensor.shape}, but "
                f"config.json requires {shapes[name]}"
            )
        require_floats(folder, tensor)
        found[name] = tensor
    missing = [name for name in shapes if name not in found]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise WeightsError(
            f"{folder}: tensor {missing[0]!r} of shape {shapes[missing[0]]} "
            f"is missing{more}"
        )
    return {path: [found[name] for name in ours] for path, ours in names.items()}


def save_component(
    module: Component, folder: str | os.PathLike, *, dtype: DTypeLike | None = None
) -> None:
    """Write a model in the format of diffusers or transformers.

    Args:
        module: The model.
        folder: The target, which must not exist or must be empty. It appears only when
            it is complete.
        dtype: Data type to store; that of the parameters if None.

    Raises:
        FileExistsError: If the folder has content.
        OSError: If it cannot be written.
    """
    config = module.config
    tensors = {}
    for path, value in parameters(module).items():
        array = np.asarray(value)
        blocks = array if stacked_axes(path) else [array]
        for name, block in zip(tensor_names(path, config), blocks, strict=True):
            tensors[name] = np.ascontiguousarray(to_torch(path, block), dtype)
    stem = (
        "model"
        if isinstance(config, CLIPTextConfig | T5Config)
        else "diffusion_pytorch_model"
    )
    with atomic_folder(folder) as partial:
        write_json(partial / "config.json", config.to_dict(), indent=2)
        # transformers refuses files that do not name the framework of their layout.
        save_file(tensors, partial / f"{stem}.safetensors", metadata={"format": "pt"})
