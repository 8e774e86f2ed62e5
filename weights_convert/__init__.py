"""Conversion of PyTorch weights of diffusers and transformers to Flax modules and back.

PyTorch is not needed: safetensors are read through NumPy. A few rules define the
conversion (:mod:`weights_convert.rules`). It is strict: every tensor is used exactly
once, every parameter is filled, and every shape is checked.
"""

from weights_convert.component import load_component, save_component
from weights_convert.errors import WeightsError
from weights_convert.lavie import load_lavie
from weights_convert.lora import merge_lora
from weights_convert.rules import tensor_shapes
from weights_convert.taesd import load_taesd

__all__ = [
    "WeightsError",
    "load_component",
    "load_lavie",
    "load_taesd",
    "merge_lora",
    "save_component",
    "tensor_shapes",
]
