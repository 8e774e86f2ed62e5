"""Safetensors files: finding them and reading them through NumPy.

A component's folder holds one file, or several with an index. Tensors are memory-mapped
and read one at a time, so that a model is never in memory twice.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from jaxinv.checks import Length, one_line, shown
from jaxinv.files import json_fields
from jaxinv.files.folders import check_regular, model_root
from jaxinv.files.json_fields import check_field, naming, parse_json
from jaxinv.models.registry import ComponentConfig, component_config
from weights_convert.errors import WeightsError, as_weights_errors
from weights_convert.quantized import (
    refuse_gguf,
    refuse_quantized_config,
    refuse_quantized_tensors,
)

_STEMS = ("diffusion_pytorch_model", "model")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


# Size of the length of a header, and limit on that length. The largest published
# headers have a few hundred kB.
_PREFIX = 8
_MAX_HEADER = 8 * 2**20
_SHOWN = 300  # limit on the characters shown of the reading library's errors
_Index = Annotated[
    dict[Annotated[str, Length(1, 1000)], Annotated[str, Length(1, 255)]],
    Length(1, 100_000),
]
# The bits of the exponent, which are all set for NaN and infinity.
_EXPONENTS = {"float16": 0x7C00, "bfloat16": 0x7F80}


#: A command that writes safetensors, to be followed by the names of both files.
#: The weights can be inside of "state_dict" (Stable Diffusion) or "ema" (LaVie).
CONVERSION = (
    'python -c "import sys, torch, safetensors.torch as s; d = torch.load(sys.argv[1], '
    "weights_only=True, map_location='cpu'); d = d.get('state_dict', d.get('ema', d)); "
    "s.save_file({k: v.contiguous().clone() for k, v in d.items() "
    'if torch.is_tensor(v)}, sys.argv[2])"'
)


class StoredTensor(NamedTuple):
    """A tensor in a file.

    Attributes:
        name: The name of the weight, which is usually the name in the file.
        shape: The shape, in PyTorch's layout.
        dtype: The data type.
        read: Function that returns the values.
        original: The name in the file, if ``name`` is another.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]
    original: str | None = None

    @property
    def shown(self) -> str:
        """The name in the file, for messages."""
        return shown(self.name if self.original is None else self.original)


@as_weights_errors()
def read_json(path: Path, max_bytes: int = json_fields.MAX_BYTES) -> dict[str, Any]:
    """Read a JSON object in a model's folder, which links must not leave.

    Raises:
        WeightsError: If the file is missing or is not a JSON object.
    """
    root = model_root(path.parent)
    return json_fields.read_json(path, root=root, max_bytes=max_bytes)


@as_weights_errors()
def read_config(folder: Path) -> ComponentConfig:
    """Read a component's configuration.

    Raises:
        WeightsError: If the file is missing, or the model is not implemented.
    """
    path = folder / "config.json"
    with naming(path):
        data = read_json(path)
        refuse_quantized_config(data)
        return component_config(data)


def open_tensors(folder: Path, variant: str | None = None) -> list[StoredTensor]:
    """Open all tensors of a component without reading them.

    Args:
        folder: The component's folder.
        variant: See :func:`weights_convert.load_component`.

    Returns:
        All tensors in the component's files.

    Raises:
        WeightsError: If there is no safetensors file, a file is broken, or a tensor is
            stored twice or in an unsupported data type.
    """
    tensors: dict[str, StoredTensor] = {}
    root = model_root(folder)
    for file in weight_files(folder, variant):
        if file.suffix == ".json":
            continue
        for tensor in open_file(file, root):
            if tensor.name in tensors:
                name = shown(tensor.name)
                raise WeightsError(f"{file}: tensor {name} is stored twice")
            tensors[tensor.name] = tensor
    return list(tensors.values())


def open_file(file: Path, root: Path | None = None) -> list[StoredTensor]:
    """Open all tensors of one safetensors file without reading them.

    Args:
        file: The file.
        root: The folder that links must not leave, from
            :func:`jaxinv.files.folders.model_root`; None for a file that the user
            named.

    Raises:
        WeightsError: If the file is missing, broken, quantized, or names a tensor
            twice.
    """
    try:
        check_regular(file, root)
        refuse_gguf(file)
        _check_header(file)
        handle = safe_open(file, framework="numpy")
        names = list(handle.keys())
    except (FileNotFoundError, ValueError) as error:
        raise WeightsError(str(error)) from None
    except (SafetensorError, OSError) as error:
        raise WeightsError(_broken(file, error)) from error
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
    refuse_quantized_tensors(file, ((each.name, each.dtype) for each in tensors))
    return tensors


def file_metadata(file: Path) -> dict[str, str]:
    """Return the texts that a safetensors file stores beside its tensors.

    Args:
        file: A file that :func:`open_file` has opened, and so checked.
    """
    with safe_open(file, framework="numpy") as handle:
        return handle.metadata() or {}


def refuse_pickle(file: Path, conversion: str) -> None:
    """Raise WeightsError for a pickle, by its name, without opening it.

    Args:
        file: The file.
        conversion: The way to convert it with PyTorch.
    """
    if file.suffix in _PICKLES:
        raise WeightsError(
            f"{file} is a pickle, which can run code when it is opened, and is "
            f"refused. Convert it with PyTorch: {conversion}"
        )


def _check_header(file: Path) -> None:
    """Raise ValueError for a header of unreasonable size or with duplicate names.

    The library that reads the header checks everything else.
    """
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(_PREFIX), "little")
        if length > _MAX_HEADER:
            raise ValueError(_broken(file, f"its header has {length:,} bytes"))
        header = stream.read(length)
    if len(header) < length:
        raise ValueError(_broken(file, f"its header has {length:,} bytes"))
    try:
        parse_json(header, file)
    except ValueError as error:
        raise ValueError(_broken(file, str(error).removeprefix(f"{file} "))) from None


def _broken(file: Path, reason: object) -> str:
    said = one_line(reason, _SHOWN)
    return f"{file} is truncated or corrupt ({said}); download it again"


def read_tensor(folder: Path, tensor: StoredTensor) -> np.ndarray:
    """Read the values of a tensor, which must be finite.

    Args:
        folder: The component's folder, for the message.
        tensor: A tensor of floating-point numbers.

    Raises:
        WeightsError: If a value is NaN or infinite.
    """
    value = tensor.read()
    require_finite(f"{folder}: tensor {tensor.shown}", value)
    return value


def require_finite(what: str, value: np.ndarray) -> None:
    """Raise WeightsError if an array holds NaN or infinities."""
    if value.dtype.name in _EXPONENTS:
        # NumPy's own test is ten times slower in 16 bits.
        exponent = np.uint16(_EXPONENTS[value.dtype.name])
        bad = value.view(np.uint16) & exponent == exponent
    else:
        bad = ~np.isfinite(value)
    if bad.any():
        number = int(np.count_nonzero(bad))
        raise WeightsError(
            f"{what} has {number} of {value.size} values that are NaN or infinite: "
            "these weights are damaged or come from a training that diverged"
        )


def require_floats(folder: Path, tensor: StoredTensor) -> None:
    """Raise WeightsError unless a tensor holds floating-point numbers."""
    if tensor.dtype not in _FLOATS:
        raise WeightsError(
            f"{folder}: tensor {tensor.shown} is stored as {tensor.dtype}; "
            f"only {', '.join(_FLOATS)} are supported"
        )


def stored_dtype(folder: Path) -> str:
    """Return the data type in which a component is stored, or float32 if mixed."""
    names = {_FLOATS[t.dtype] for t in open_tensors(folder) if t.dtype in _FLOATS}
    return names.pop() if len(names) == 1 else "float32"


def has_variant(folder: Path, variant: str) -> bool:
    """Return whether a component is stored in a variant, such as ``"fp16"``."""
    return _standard_files(folder, f".{variant}") is not None


@as_weights_errors()
def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """Return the files that a component's weights are read from.

    Args:
        folder: The component's folder.
        variant: See :func:`weights_convert.load_component`.

    Returns:
        The files with tensors, followed by the index that names them, if any.

    Raises:
        WeightsError: If there are no files, or the choice is ambiguous.
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
    for pickle in pickles:
        refuse_pickle(
            pickle,
            "load the model with diffusers' or transformers' from_pretrained(...) and "
            "write it with save_pretrained(..., safe_serialization=True)",
        )
    for file in sorted(folder.glob("*.gguf")):
        refuse_gguf(file)
    raise WeightsError(f"{folder} does not hold a *.safetensors file")


def _standard_files(folder: Path, infix: str) -> list[Path] | None:
    """Return a component's files with the names that diffusers uses."""
    for stem in _STEMS:
        file = folder / f"{stem}{infix}.safetensors"
        if file.exists() or file.is_symlink():
            return [file]
        for index in (
            folder / f"{stem}.safetensors.index{infix}.json",
            folder / f"{stem}{infix}.safetensors.index.json",
        ):
            if index.exists() or index.is_symlink():
                return [*_indexed_files(index), index]
    return None


def _indexed_files(index: Path) -> list[Path]:
    """Return the files that an index lists."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index} has no weight_map")
    with naming(index):
        check_field("weight_map", weight_map, _Index)
    names = sorted(set(weight_map.values()))
    if any(Path(name).name != name or name == ".." for name in names):
        raise WeightsError(f"{index} points outside its folder")
    return [index.parent / name for name in names]
