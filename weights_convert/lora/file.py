"""Reading of LoRA files, with all names and shapes checked before any value is read."""

import functools
import itertools
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxinv.checks import shown
from jaxinv.files.json_fields import parse_json
from weights_convert.errors import WeightsError, as_weights_errors
from weights_convert.lora.names import Layer, split_name
from weights_convert.reader import (
    StoredTensor,
    file_metadata,
    open_file,
    read_tensor,
    refuse_pickle,
    require_floats,
)

_METADATA = "lora_adapter_metadata"  # where diffusers stores PEFT's settings
# Settings of PEFT under which the change of a weight is another one.
_OTHER_KINDS = ("use_dora", "use_rslora", "use_qalora", "lora_bias", "fan_in_fan_out")
_MAX_ALPHA = 1e6
_CONVERSION = (
    "safetensors.torch.save_file(torch.load(path, weights_only=True), "
    "'lora.safetensors')"
)


class LowRank(NamedTuple):
    """The low-rank change of one layer, not yet read.

    Attributes:
        file: The file that holds it.
        down: The factor A.
        up: The factor B.
        alpha: Number that, divided by the rank, multiplies the product.
    """

    file: Path
    down: StoredTensor
    up: StoredTensor
    alpha: float

    def change(self) -> np.ndarray:
        """Return (alpha / r) B A, shaped (outputs, inputs, ...), in float32."""
        down, up = (
            read_tensor(self.file, tensor).astype(np.float32)
            for tensor in (self.down, self.up)
        )
        rank = len(down)
        product = up.reshape(-1, rank) @ down.reshape(rank, -1)
        product *= np.float32(self.alpha / rank)
        return product.reshape(len(up), *down.shape[1:])


def read_lora(
    file: str | os.PathLike[str],
    names: Mapping[str, tuple[Layer, ...]],
    shapes: Mapping[Layer, tuple[int, ...]],
) -> dict[Layer, LowRank]:
    """Open a LoRA file and match its tensors with a model's layers.

    Args:
        file: A safetensors file.
        names: The layer or layers of each name, from
            :func:`weights_convert.lora.names.layer_names`.
        shapes: Shape of each layer's weight in PyTorch's layout.

    Returns:
        The changes, without values, which are read later.

    Raises:
        WeightsError: If the file is missing, broken or a pickle; if a tensor has no
            place in the model, another shape, or lacks its counterpart; or if the file
            holds another kind of change.
    """
    file = Path(file)
    refuse_pickle(file, _CONVERSION)
    found: dict[Layer, dict[str, StoredTensor]] = {}
    for tensor in open_file(file):
        try:
            name, role = split_name(tensor.name)
        except WeightsError as error:
            raise WeightsError(f"{file}: {error}") from None
        if name not in names:
            parts = ", ".join(sorted({layer.part for layer, *_ in names.values()}))
            raise WeightsError(
                f"{file}: tensor {shown(tensor.name)} of shape {tensor.shape} has no "
                f"place in this model: no dense layer or convolution of its {parts} "
                "has this name"
            )
        require_floats(file, tensor)
        for layer, piece in _pieces(file, tensor, role, names[name], shapes):
            roles = found.setdefault(layer, {})
            if role in roles:
                raise WeightsError(
                    f"{file}: tensors {shown(roles[role].name)} and "
                    f"{shown(tensor.name)} belong to the same layer"
                )
            roles[role] = piece
    if not found:
        raise WeightsError(f"{file} holds no tensors")
    alphas = _Alphas(file)
    return {
        layer: _low_rank(file, roles, shapes[layer], alphas.of(layer.part, roles))
        for layer, roles in found.items()
    }


def _pieces(
    file: Path,
    tensor: StoredTensor,
    role: str,
    layers: Sequence[Layer],
    shapes: Mapping[Layer, tuple[int, ...]],
) -> Iterator[tuple[Layer, StoredTensor]]:
    """Yield the part of a tensor that belongs to each of the layers of its name.

    Layers that are one in the file share its inputs, so A and alpha are theirs all.
    """
    if len(layers) == 1 or role != "B":
        yield from ((layer, tensor) for layer in layers)
        return
    ends = list(itertools.accumulate(shapes[layer][0] for layer in layers))
    if tensor.shape[:1] != (ends[-1],):
        raise WeightsError(
            f"{file}: tensor {shown(tensor.name)} has shape {tensor.shape}, but the "
            f"model's layers have {ends[-1]} outputs"
        )
    for layer, end in zip(layers, ends, strict=True):
        rows = slice(end - shapes[layer][0], end)
        yield (
            layer,
            tensor._replace(
                shape=(rows.stop - rows.start, *tensor.shape[1:]),
                read=functools.partial(_rows, tensor, rows),
            ),
        )


def _rows(tensor: StoredTensor, rows: slice) -> np.ndarray:
    return tensor.read()[rows]


def _low_rank(
    file: Path,
    roles: Mapping[str, StoredTensor],
    shape: tuple[int, ...],
    alpha: float | None,
) -> LowRank:
    """Return the change of one layer after a check of all shapes."""
    for role, other in (("A", "B"), ("B", "A")):
        if role not in roles:
            given = next(roles[name] for name in (other, "alpha") if name in roles)
            raise WeightsError(
                f"{file}: tensor {shown(given.name)} has no counterpart (the factor "
                f"{role} of the same layer)"
            )
    down, up = roles["A"], roles["B"]
    rank = down.shape[0] if down.shape else 0
    for tensor, wanted in (
        (down, (rank, *shape[1:])),
        (up, (shape[0], rank, *[1] * (len(shape) - 2))),
    ):
        if rank < 1 or _without_ones(tensor.shape) != _without_ones(wanted):
            text = str(wanted) if rank else f"(rank, {str(shape[1:])[1:]}"
            raise WeightsError(
                f"{file}: tensor {shown(tensor.name)} has shape {tensor.shape}, but "
                f"the model's layer requires {text}"
            )
    return LowRank(file, down, up, float(rank) if alpha is None else alpha)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without trailing ones: a 1x1 convolution is a dense layer."""
    last = max((i for i, n in enumerate(shape) if i < 2 or n != 1), default=-1)
    return shape[: last + 1]


class _Alphas:
    """The numbers alpha of a file: tensors of their own, or PEFT's settings."""

    def __init__(self, file: Path):
        self.file = file
        self.settings = _peft_settings(file)

    def of(self, part: str, roles: Mapping[str, StoredTensor]) -> float | None:
        """Return a layer's alpha, or None if it is the rank."""
        if "alpha" in roles:
            tensor = roles["alpha"]
            if math.prod(tensor.shape) != 1:
                raise WeightsError(
                    f"{self.file}: tensor {shown(tensor.name)} has shape "
                    f"{tensor.shape}, but is one number"
                )
            return float(read_tensor(self.file, tensor).reshape(()))
        for key in _OTHER_KINDS:
            if self.settings.get(f"{part}.{key}"):
                raise WeightsError(
                    f"{self.file}: {key} of the file's {_METADATA} is not implemented"
                )
        name = split_name(next(iter(roles.values())).name)[0].removeprefix(f"{part}.")
        patterns = self.settings.get(f"{part}.alpha_pattern") or {}
        for pattern, alpha in patterns.items():
            if _matches(pattern, name):
                return self._number(alpha)
        alpha = self.settings.get(f"{part}.lora_alpha")
        return None if alpha is None else self._number(alpha)

    def _number(self, alpha: Any) -> float:
        number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
        if not number or not abs(alpha) <= _MAX_ALPHA:
            raise WeightsError(
                f"{self.file}: lora_alpha of the file's {_METADATA} must be a number "
                f"up to {_MAX_ALPHA:g}, got {shown(alpha)}"
            )
        return float(alpha)


def _matches(pattern: str, name: str) -> bool:
    """Return whether a pattern of PEFT, without regular expressions, fits a layer."""
    if pattern.startswith("^"):
        return pattern[1:] in (name, name.removeprefix("text_model."))
    return f".{name}".endswith(f".{pattern}")


@as_weights_errors()
def _peft_settings(file: Path) -> Mapping[str, Any]:
    """Return PEFT's settings that diffusers stores with a LoRA; usually none."""
    text = file_metadata(file).get(_METADATA)
    settings = {} if text is None else parse_json(text, file)
    patterns = [
        pattern
        for key, value in (settings.items() if isinstance(settings, dict) else [])
        if key.endswith(".alpha_pattern") and value
        for pattern in (value if isinstance(value, dict) else [value])
    ]
    if not isinstance(settings, dict) or not all(
        isinstance(p, str) and re.fullmatch(r"\^?[\w.]+", p) for p in patterns
    ):
        raise ValueError(
            f"{file}: {_METADATA} is not an object whose alpha_pattern maps names of "
            "layers to numbers"
        )
    return settings
