"""The rules that map PyTorch's tensors to parameters and back.

Modules have the attribute names of diffusers and transformers, so a parameter's path is
the tensor's name except for its last part:

    =============  ==============  =========================
    layer          tensor          parameter
    =============  ==============  =========================
    convolution    weight (OIHW)   kernel (HWIO)
    dense          weight (O, I)   kernel (I, O)
    normalization  weight          scale
    embedding      weight          embedding
    Fourier        weight          frequencies
    any            bias            bias
    =============  ==============  =========================

Identical blocks are stacked (:mod:`jaxinv.paths`): one parameter holds the tensors of
all blocks along its first axis. The functions here translate one block of it.

The exceptions:

* Autoencoders and UNets of pixels saved by early versions of diffusers name the
  projections of their attention ``query``, ``key``, ``value`` and ``proj_attn``.
* The text encoder's tensors are published with the prefix ``text_model.``, except for
  its projection. Recent versions of transformers omit the prefix of encoders without
  projection. Both are read; the prefix is written, because all versions read it.
* The table of relative positions that all blocks of T5 share belongs to the first
  block's tensors. Its token embeddings are also published as
  ``encoder.embed_tokens.weight``; where both names occur they are one tensor, and
  ``shared.weight`` counts, as in transformers.
* Constants that are stored with the weights, such as the embedding ``pe`` of frames in
  motion modules, keep their names, and so do the tables and norms of Wan
  (``scale_shift_table``, ``gamma``).
* Convolutions of videos have a third axis of space: OIDHW and DHWIO.
* PixArt's ``caption_projection.y_embedding``, the vectors of an absent text in
  training, is not used by diffusers, nor here.
* ``position_ids`` is a buffer that counts from zero, not a weight.
"""

import re
from collections.abc import Collection

import numpy as np

from jaxinv.models import (
    AutoencoderKLConfig,
    CLIPTextConfig,
    PixArtTransformerConfig,
    T5Config,
    UNet2DConfig,
)
from jaxinv.models.parameters import parameters
from jaxinv.models.registry import ComponentConfig, abstract_component
from jaxinv.paths import members, stacked_axes

_LEAVES = dict.fromkeys(("kernel", "scale", "embedding", "frequencies"), "weight") | {
    "bias": "bias"
}
_LEGACY_ATTENTION = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}
_LEGACY_NAME = re.compile(r"(.*attentions\.\d+)\.(query|key|value|proj_attn)\.(\w+)")
_CLIP_PREFIX = "text_model."
_CLIP_PROJECTION = "text_projection"
_T5_TABLE = "encoder.relative_attention_bias"
_T5_TABLE_IN_TORCH = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"
_T5_TOKENS, _T5_TOKENS_AGAIN = "shared.weight", "encoder.embed_tokens.weight"
_PIXART_ABSENT_TEXT = "caption_projection.y_embedding"
_BUFFERS = ("embeddings.position_ids",)

# Axes of a kernel in terms of PyTorch's axes, by number of dimensions.
_FROM_TORCH = {5: (2, 3, 4, 1, 0), 4: (2, 3, 1, 0), 2: (1, 0)}
_TO_TORCH = {5: (4, 3, 0, 1, 2), 4: (3, 2, 0, 1), 2: (1, 0)}


def tensor_names(path: str, config: ComponentConfig) -> tuple[str, ...]:
    """Return the names of a parameter's tensors, one per block if it is stacked.

    Args:
        path: The parameter's path.
        config: Configuration of the model that it belongs to.

    Returns:
        The names, in the order of the blocks.
    """
    return tuple(tensor_name(member, config) for member in members(path))


def tensor_name(path: str, config: ComponentConfig) -> str:
    """Return the name under which PyTorch stores a parameter.

    Args:
        path: The path of the parameter, or of one block of it.
        config: Configuration of the model that it belongs to.

    Returns:
        The tensor's name.
    """
    module, dot, leaf = path.rpartition(".")
    if isinstance(config, T5Config) and module == _T5_TABLE:
        module = _T5_TABLE_IN_TORCH
    clip = isinstance(config, CLIPTextConfig) and module != _CLIP_PROJECTION
    prefix = _CLIP_PREFIX if clip else ""
    return f"{prefix}{module}{dot}{_LEAVES.get(leaf, leaf)}"


def canonical_name(
    name: str, config: ComponentConfig, others: Collection[str] = ()
) -> str | None:
    """Return a tensor's current name, or None for what is not a weight of its own.

    Args:
        name: The tensor's name.
        config: Configuration of the model that it belongs to.
        others: Names of all tensors of the model.

    Returns:
        The name; None for buffers, and for the second name of a tensor that has two.
    """
    if isinstance(config, T5Config) and name == _T5_TOKENS_AGAIN:
        return None if _T5_TOKENS in others else _T5_TOKENS
    if isinstance(config, CLIPTextConfig):
        if name == f"{_CLIP_PROJECTION}.weight":
            return name
        name = _CLIP_PREFIX + name.removeprefix(_CLIP_PREFIX)
        return None if name.endswith(_BUFFERS) else name
    if isinstance(config, PixArtTransformerConfig) and name == _PIXART_ABSENT_TEXT:
        return None
    legacy = _LEGACY_NAME.fullmatch(name)
    if legacy and isinstance(config, AutoencoderKLConfig | UNet2DConfig):
        return f"{legacy[1]}.{_LEGACY_ATTENTION[legacy[2]]}.{legacy[3]}"
    return name


def torch_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape in which PyTorch stores a parameter, or one block of it.

    Args:
        path: The parameter's path.
        shape: The parameter's shape, with the axis of its blocks if it is stacked.
    """
    shape = shape[stacked_axes(path) :]
    return tuple(shape[axis] for axis in _axes(path, len(shape), _TO_TORCH))


def from_torch(path: str, tensor: np.ndarray) -> np.ndarray:
    """Return a tensor in the layout of the parameter at ``path``, or of one block."""
    return tensor.transpose(_axes(path, tensor.ndim, _FROM_TORCH))


def to_torch(path: str, value: np.ndarray) -> np.ndarray:
    """Return the parameter at ``path``, or one block of it, in PyTorch's layout."""
    return value.transpose(_axes(path, value.ndim, _TO_TORCH))


def tensor_shapes(config: ComponentConfig) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a model's tensors in PyTorch.

    The model is built abstractly, without allocating memory.

    Args:
        config: Configuration of the model.

    Returns:
        Shapes in PyTorch's layout by current tensor name.

    Example:
        >>> from jaxinv.models import UNet2DConditionConfig
        >>> shapes = tensor_shapes(UNet2DConditionConfig.sd15())
        >>> shapes["conv_in.weight"]
        (320, 4, 3, 3)
    """
    wanted = parameters(abstract_component(config))
    return {
        name: torch_shape(path, x.shape)
        for path, x in wanted.items()
        for name in tensor_names(path, config)
    }


def _axes(path: str, ndim: int, table: dict[int, tuple[int, ...]]) -> tuple[int, ...]:
    """Return the permutation of a parameter's axes; only kernels have one."""
    return table[ndim] if path.endswith(".kernel") else tuple(range(ndim))
