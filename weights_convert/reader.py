"""Finding and reading safetensors files, through NumPy.

A component's folder holds one file, or several with an index. Tensors are memory-mapped
and read one at a time, so that a model is never in memory twice.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from jaxinv.models.registry import ComponentConfig, component_config
from weights_convert.errors import WeightsError

_STEMS = ("diffusion_pytorch_model", "model")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class StoredTensor(NamedTuple):
    """A tensor in a file.

    Attributes:
        name: Its name in the file.
        shape: Its shape, in PyTorch's layout.
        dtype: Its data type.
        read: Reads it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        WeightsError: If the file is missing or is not a JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise WeightsError(f"{path} is not a JSON object")
    return data


def read_config(folder: Path) -> ComponentConfig:
    """Reads a component's configuration.

    Raises:
        WeightsError: If there is none, or it is not implemented.
    """
    path = folder / "config.json"
    try:
        return component_config(read_json(path))
    except WeightsError:
        raise
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{path}: {error}") from error


def open_tensors(folder: Path, variant: str | None = None) -> list[StoredTensor]:
    """Opens all tensors of a component; nothing is read yet.

    Args:
        folder: The component's folder.
        variant: As of :func:`weights_convert.load_component`.

    Returns:
        Every tensor in its files.

    Raises:
        WeightsError: If there is no safetensors file, or one is broken, or a tensor is
            stored twice or in a data type that holds no weights.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in weight_files(folder, variant):
        if file.suffix == ".json":
            continue
        for tensor in open_file(file):
            if tensor.name in tensors:
                raise WeightsError(f"{file}: tensor {tensor.name!r} is stored twice")
            tensors[tensor.name] = tensor
    return list(tensors.values())


def open_file(file: Path) -> list[StoredTensor]:
    """Opens all tensors of one safetensors file; nothing is read yet.

    Raises:
        WeightsError: If it is missing or broken.
    """
    try:
        handle = safe_open(file, framework="numpy")
        names = list(handle.keys())
    except FileNotFoundError:
        raise WeightsError(f"{file} is missing") from None
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{file} is truncated or corrupt ({error}); download it again"
        ) from error
    tensors = []
    for name in names:
        header = handle.get_slice(name)
        tensors.append(
            StoredTensor(
                name=name,
                shape=tuple(header.get_shape()),
                dtype=header.get_dtype(),
                read=functools.partial(handle.get_tensor, name),
            )
        )
    return tensors


def require_floats(folder: Path, tensor: StoredTensor) -> None:
    """Raises WeightsError unless a tensor holds floating-point numbers."""
    if tensor.dtype not in _FLOATS:
        raise WeightsError(
            f"{folder}: tensor {tensor.name!r} is stored as {tensor.dtype}; "
            f"only {', '.join(_FLOATS)} are read"
        )


def stored_dtype(folder: Path) -> str:
    """Returns the data type that a component is stored in; float32 if mixed."""
    names = {_FLOATS[t.dtype] for t in open_tensors(folder) if t.dtype in _FLOATS}
    return names.pop() if len(names) == 1 else "float32"


def has_variant(folder: Path, variant: str) -> bool:
    """Returns whether a component is stored in a variant, such as ``"fp16"``."""
    return _standard_files(folder, f".{variant}") is not None


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """Returns the files that a component's weights are read from.

    Args:
        folder: The component's folder.
        variant: As of :func:`weights_convert.load_component`.

    Returns:
        The files with tensors, and after them the index that names them, if any.

    Raises:
        WeightsError: If there is none, or it is not clear which.
    """
    for infix in ([] if variant is None else [f".{variant}"]) + ["", ".fp16"]:
        found = _standard_files(folder, infix)
        if found is not None:
            return found
    others = sorted(folder.glob("*.safetensors"))
    if len(others) == 1:
        return others
    if others:
        names = ", ".join(file.name for file in others)
        raise WeightsError(
            f"{folder} holds several weight files ({names}); rename the one to use to "
            f"{_STEMS[0]}.safetensors or {_STEMS[1]}.safetensors"
        )
    if not folder.is_dir():
        raise WeightsError(f"{folder} is not a folder")
    pickles = sorted(file for file in folder.iterdir() if file.suffix in _PICKLES)
    if pickles:
        raise WeightsError(
            f"{pickles[0]} is a pickle, which can run code when it is opened, and is "
            "refused. Convert it with PyTorch: load the model in diffusers or "
            "transformers with from_pretrained(...) and write it with "
            "save_pretrained(..., safe_serialization=True)"
        )
    raise WeightsError(f"{folder} holds no *.safetensors file")


def _standard_files(folder: Path, infix: str) -> list[Path] | None:
    """Returns a component's files under the names that diffusers saves them with."""
    for stem in _STEMS:
        file = folder / f"{stem}{infix}.safetensors"
        if file.is_file():
            return [file]
        for index in (
            folder / f"{stem}.safetensors.index{infix}.json",
            folder / f"{stem}{infix}.safetensors.index.json",
        ):
            if index.is_file():
                return [*_indexed_files(index), index]
    return None


def _indexed_files(index: Path) -> list[Path]:
    """Returns the files that an index lists."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index} has no weight_map")
    names = sorted(set(weight_map.values()))
    if any(Path(name).name != name for name in names):
        raise WeightsError(f"{index} points outside its folder")
    return [index.parent / name for name in names]
