"""Adding LoRA files to the parameters of a model."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinv.checks import shown
from jaxinv.models.parameters import parameters, with_parameters
from weights_convert.errors import WeightsError
from weights_convert.lora.file import LowRank, read_lora
from weights_convert.lora.names import Layer, layer_names
from weights_convert.rules import from_torch, torch_shape

#: The changes of a kernel, each with its scale, by block; None if it is not stacked.
_Blocks = dict[int | None, list[tuple[LowRank, float]]]


def merge_lora(
    modules: Mapping[str, Any],
    files: Sequence[tuple[str | os.PathLike[str], float]],
) -> dict[str, Any]:
    """Add LoRA files to the parameters of a pipeline's models.

    The models that are passed stay as they are. To take a LoRA out of merged models,
    merge it again with the negative scale, which restores the parameters to rounding.

    Args:
        modules: The models by their names in diffusers, such as ``{"unet": unet,
            "text_encoder": text_encoder}``. Abstract ones stay as they are.
        files: Safetensors files, each with its scale.

    Returns:
        New models by name. They share the parameters that no file changes. Changes are
        summed over the files in float32 (or the parameters' type if it is wider), and
        the result has the parameters' type and placement.

    Raises:
        WeightsError: If a file is missing, broken or a pickle; if a tensor has no place
            in these models or another shape than its layer; or if a file holds another
            kind of change, such as DoRA. Nothing is computed in these cases.
        ValueError: If a scale is not a finite number.

    Example:
        ::

            merged = merge_lora({"unet": unet}, [("style.safetensors", 0.8)])
            again = merge_lora(merged, [("style.safetensors", -0.8)])
    """
    changes = open_lora(modules, files)
    values = {part: parameters(modules[part]) for part in {x.part for x in changes}}
    kernels: dict[tuple[str, str], _Blocks] = {}
    for (part, path, block), terms in changes.items():
        kernels.setdefault((part, path), {})[block] = terms
    for (part, path), blocks in kernels.items():
        value = values[part][path]
        if isinstance(value, jax.ShapeDtypeStruct):
            continue
        values[part][path] = _changed(f"{part}.{path}", value, blocks)
    return {
        part: with_parameters(module, values[part]) if part in values else module
        for part, module in modules.items()
    }


def open_lora(
    modules: Mapping[str, Any],
    files: Sequence[tuple[str | os.PathLike[str], float]],
) -> dict[Layer, list[tuple[LowRank, float]]]:
    """Open LoRA files and check that they fit a pipeline's models.

    Args:
        modules: The models by their names in diffusers; they may be abstract.
        files: See :func:`merge_lora`.

    Returns:
        The changes of each layer, not yet read, each with its scale.

    Raises:
        WeightsError: See :func:`merge_lora`.
        ValueError: If a scale is not a finite number.
    """
    for file, scale in files:
        if not isinstance(scale, int | float) or not math.isfinite(scale):
            raise ValueError(
                f"the scale of {os.fspath(file)} must be a finite number, got "
                f"{shown(scale)}"
            )
    if not files:
        return {}
    names = layer_names(modules)
    values = {part: parameters(module) for part, module in modules.items()}
    shapes = {
        layer: torch_shape(layer.path, values[layer.part][layer.path].shape)
        for layers in names.values()
        for layer in layers
    }
    changes: dict[Layer, list[tuple[LowRank, float]]] = {}
    for file, scale in files:
        for layer, low_rank in read_lora(file, names, shapes).items():
            changes.setdefault(layer, []).append((low_rank, scale))
    return changes


def _changed(path: str, value: jax.Array, blocks: _Blocks) -> jax.Array:
    """Return a kernel after all its changes, by block if it is stacked."""
    value = jnp.asarray(value)
    shards = value.addressable_shards
    parts = [np.array(shard.data) for shard in shards]
    for block, terms in blocks.items():
        total = np.zeros(torch_shape(path, value.shape), np.float32)
        for low_rank, scale in terms:
            total += np.float32(scale) * low_rank.change().reshape(total.shape)
        change = from_torch(path, total)
        for shard, part in zip(shards, parts, strict=True):
            index: tuple[Any, ...] = shard.index
            if block is not None:
                own = range(value.shape[0])[index[0]]
                if block not in own:
                    continue
                part, index = part[own.index(block)], index[1:]
            with np.errstate(over="ignore"):
                part[...] = (part + change[index]).astype(part.dtype)
            if not np.isfinite(part).all():
                files = ", ".join(str(low_rank.file) for low_rank, _ in terms)
                raise WeightsError(
                    f"{path} has values too large for {part.dtype} after the changes "
                    f"of {files}"
                )
    placed = [jax.device_put(x, s.device) for x, s in zip(parts, shards, strict=True)]
    return jax.make_array_from_single_device_arrays(value.shape, value.sharding, placed)
