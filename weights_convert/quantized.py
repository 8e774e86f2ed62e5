"""Weights in fewer than 16 bits, which are refused by name.

Inversion is as exact as its network: weights of 4 or 8 bits make another one. Files of
the same models in 16 bits exist for nearly all of them.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxinv.checks import shown
from weights_convert.errors import WeightsError

_GGUF = b"GGUF"
_FP8 = ("F8_E4M3", "F8_E5M2")
# What bitsandbytes adds to the name of a tensor that it quantized, and what programs
# add that scale fp8.
_BITSANDBYTES = (".absmax", ".quant_map", ".nested_absmax", ".SCB")
_SCALED_FP8 = ("scaled_fp8", ".scale_weight")
_INSTEAD = "use the model's file in float16 or bfloat16"


def refuse_gguf(file: Path) -> None:
    """Raise WeightsError for a GGUF file, known by its name or its first bytes."""
    if file.suffix.lower() != ".gguf":
        with open(file, "rb") as stream:
            if stream.read(len(_GGUF)) != _GGUF:
                return
    raise WeightsError(
        f"{file} is a GGUF file, whose quantized weights are not implemented: "
        f"{_INSTEAD} (safetensors)"
    )


def refuse_quantized_tensors(file: Path, dtypes: Iterable[tuple[str, str]]) -> None:
    """Raise WeightsError for tensors that are quantized.

    Args:
        file: The file, for the message.
        dtypes: Names and data types of its tensors.
    """
    for name, dtype in dtypes:
        kind = None
        if dtype in _FP8 or name.endswith(_SCALED_FP8):
            kind = f"fp8 (tensor {shown(name)} is {dtype})"
        elif name.endswith(_BITSANDBYTES) or ".quant_state.bitsandbytes" in name:
            kind = f"4 or 8 bits of bitsandbytes, such as NF4 (tensor {shown(name)})"
        if kind is not None:
            raise WeightsError(
                f"{file} holds weights in {kind}, which is not implemented: {_INSTEAD}"
            )


def refuse_quantized_config(config: Mapping[str, Any]) -> None:
    """Raise ValueError for a ``config.json`` that says that weights are quantized."""
    settings = config.get("quantization_config")
    if settings is None:
        return
    known = settings if isinstance(settings, Mapping) else {}
    method = known.get("quant_method", "unknown method")
    raise ValueError(
        f"quantization_config says that the weights are quantized ({shown(method)}), "
        f"which is not implemented: {_INSTEAD}"
    )
