"""The original names of tensors, as formulas of diffusers' names.

Stable Diffusion was published as one file, whose names come from the code that trained
it. diffusers renamed the modules and kept the weights. For a UNet of n blocks with
``r[b]`` residual blocks in down block b (up blocks: one more):

    =============================  ==========================================
    diffusers                      original
    =============================  ==========================================
    conv_in                        input_blocks.0.0
    down_blocks.b.resnets.i        input_blocks.(1 + sum(r[:b]) + b + i).0
    down_blocks.b.attentions.i     the same place, .1
    down_blocks.b.downsamplers.0   input_blocks.(1 + sum(r[:b]) + b + r[b]).0
    mid_block                      middle_block.0, .1, .2
    up_blocks.b.resnets.i          output_blocks.(places above + i).0
    up_blocks.b.attentions.i       the same place, .1
    up_blocks.b.upsamplers.0       the block's last place, .1, or .2 after .1
    =============================  ==========================================

Down block b of the autoencoder is ``encoder.down.b``, and up block b is
``decoder.up.(n - 1 - b)``. OpenCLIP keeps queries, keys and values in one tensor and
multiplies by ``text_projection`` from the other side. OpenAI's CLIP has the names of
transformers in both layouts.

References:
    Rombach et al. 2022, arXiv:2112.10752, whose code (``openaimodel.py``, ``model.py``)
    names the modules; Cherti et al. 2022, arXiv:2212.07143 (OpenCLIP).
    diffusers 0.42, ``loaders/single_file_utils.py``.
"""

import re
from typing import NamedTuple

from jaxinv.models import AutoencoderKLConfig, UNet2DConditionConfig
from jaxinv.models.config import per_block
from jaxinv.models.registry import ComponentConfig


class Original(NamedTuple):
    """Where the values of a tensor are in a file of the original layout.

    Attributes:
        name: The name in the file, without the part's prefix.
        third: Which third of the first axis (0, 1, 2), or None for all of it.
        transposed: Whether the axes are exchanged.
    """

    name: str
    third: int | None = None
    transposed: bool = False


_UNET = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_BLOCK = re.compile(
    r"(down_blocks\.|up_blocks\.|mid_block)(\d*)\.([a-z]+)\.(\d+)\.(.+)\.(\w+)"
)
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_OPEN_CLIP_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_CLIP_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def original(name: str, config: ComponentConfig) -> Original:
    """Return where a tensor is in the original layout of its model.

    Args:
        name: The tensor's name in diffusers or transformers.
        config: Configuration of the model that it belongs to; of a text encoder for
            OpenCLIP's layout.

    Raises:
        KeyError: If the original layout has no such tensor.

    Example:
        >>> config = UNet2DConditionConfig.sd15()
        >>> original("down_blocks.1.resnets.0.conv1.weight", config).name
        'input_blocks.4.0.in_layers.2.weight'
    """
    if isinstance(config, UNet2DConditionConfig):
        return Original(_unet(name, config))
    if isinstance(config, AutoencoderKLConfig):
        return Original(_autoencoder(name, len(config.block_out_channels)))
    return _open_clip(name.removeprefix("text_model."))


def _unet(name: str, config: UNet2DConditionConfig) -> str:
    block = _BLOCK.fullmatch(name)
    if block is None:
        module, leaf = name.rsplit(".", 1)
        return f"{_UNET[module]}.{leaf}"
    side, number, kind, index, inner, leaf = block.groups()
    i = int(index)
    if kind == "resnets":
        inner = _UNET_RESNET[inner]
    if side == "mid_block":
        place = 2 * i if kind == "resnets" else 1
        return f"middle_block.{place}.{inner}.{leaf}"
    b, blocks = int(number), len(config.block_out_channels)
    layers = per_block("layers_per_block", config.layers_per_block, blocks)
    if side == "down_blocks.":
        at = 1 + sum(layers[:b]) + b
        if kind == "downsamplers":
            return f"input_blocks.{at + layers[b]}.0.op.{leaf}"
        return f"input_blocks.{at + i}.{int(kind == 'attentions')}.{inner}.{leaf}"
    layers = tuple(each + 1 for each in layers[::-1])
    at = sum(layers[:b])
    if kind == "upsamplers":
        attends = config.up_block_types[b].startswith("CrossAttn")
        return f"output_blocks.{at + layers[b] - 1}.{1 + attends}.{inner}.{leaf}"
    return f"output_blocks.{at + i}.{int(kind == 'attentions')}.{inner}.{leaf}"


def _autoencoder(name: str, blocks: int) -> str:
    network, _, rest = name.partition(".")
    block = _BLOCK.fullmatch(rest)
    if block is None:
        return name.replace("conv_norm_out", "norm_out")
    side, number, kind, index, inner, leaf = block.groups()
    inner = inner.replace("conv_shortcut", "nin_shortcut")
    if side == "mid_block":
        if kind == "attentions":
            return f"{network}.mid.attn_1.{_VAE_ATTENTION[inner]}.{leaf}"
        return f"{network}.mid.block_{int(index) + 1}.{inner}.{leaf}"
    b = int(number)
    at = f"down.{b}" if side == "down_blocks." else f"up.{blocks - 1 - b}"
    module = f"block.{index}" if kind == "resnets" else kind.removesuffix("rs")
    return f"{network}.{at}.{module}.{inner}.{leaf}"


def _open_clip(name: str) -> Original:
    if name == "text_projection.weight":
        return Original("text_projection", transposed=True)
    layer = _CLIP_LAYER.fullmatch(name)
    if layer is None:
        return Original(_OPEN_CLIP_ENDS[name])
    number, inner, leaf = layer.groups()
    at = f"transformer.resblocks.{number}"
    projection = inner.removeprefix("self_attn.")
    if projection in _PROJECTIONS:
        third = _PROJECTIONS.index(projection)
        return Original(f"{at}.attn.in_proj_{leaf}", third)
    return Original(f"{at}.{_OPEN_CLIP[inner]}.{leaf}")
