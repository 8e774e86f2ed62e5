"""Configurations of models in the original layout, from names and shapes of tensors.

The number of blocks, their channels, layers and depths, and the size of the text
vectors are visible in the shapes. The rest is a convention of the three generations
of Stable Diffusion (:class:`Generation`), which diffusers takes from a repository of
each: the number of attention heads, activations, image sizes and scale of the latents.

References:
    diffusers 0.42, ``loaders/single_file_utils.py`` (``infer_diffusers_model_type``)
    and the configurations that its default repositories hold.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Shapes = Mapping[str, tuple[int, ...]]

# Added time ids of SDXL are embedded in this many numbers each.
_TIME_ID_FEATURES = 256
# Width of an attention head since Stable Diffusion 2, and of all CLIP text encoders.
_HEAD_WIDTH = 64
# Stable Diffusion 2 reads the penultimate of OpenCLIP's 24 layers: diffusers drops the
# last one, and so has files of 23 layers without it.
_SD2_TEXT_LAYERS = 23


class Generation(NamedTuple):
    """What the tensors of a generation of Stable Diffusion do not show.

    Attributes:
        name: Its name, for messages.
        pixels: Height and width of the images it was trained on.
        scaling_factor: Scale of the latents.
        heads: Number of attention heads; None for heads of 64 channels.
        upcast_attention: Whether attention is computed in float32; None is no.
    """

    name: str
    pixels: int
    scaling_factor: float = 0.18215
    heads: int | None = None
    upcast_attention: bool | None = False


SD1 = Generation("Stable Diffusion 1", 512, heads=8)
SD2 = Generation("Stable Diffusion 2", 768, upcast_attention=True)
SDXL = Generation(
    "Stable Diffusion XL", 1024, scaling_factor=0.13025, upcast_attention=None
)
#: SDXL's architecture, trained in latents of unit variance.
PLAYGROUND = SDXL._replace(name="Playground v2.5", scaling_factor=0.5)


def unet_generation(shapes: Shapes) -> Generation:
    """Return the generation of a UNet in the original layout, SD1 if it has no tensors.

    SDXL's embeds pooled text vectors, and projections are dense since Stable Diffusion
    2. (diffusers looks at the size of the text vectors, which is 1024 in Stable
    Diffusion 2.)

    Args:
        shapes: Shapes of its tensors by original names without prefix.
    """
    if "label_emb.0.0.weight" in shapes:
        return SDXL
    dense = any(
        name.endswith(".proj_in.weight") and len(shape) == 2
        for name, shape in shapes.items()
    )
    return SD2 if dense else SD1


def unet_config(shapes: Shapes, generation: Generation) -> dict[str, Any]:
    """Return the ``config.json`` of a UNet in the original layout.

    Args:
        shapes: Shapes of its tensors by original names without prefix.
        generation: The generation, which gives the number of heads and the image size.

    Returns:
        The configuration in diffusers' vocabulary.

    Raises:
        KeyError: If a tensor is missing that every such UNet has.
    """
    down = _down_blocks(shapes)
    up = _up_blocks(shapes)
    channels = tuple(block[0].channels for block in down)
    pooled = shapes.get("label_emb.0.0.weight")
    time_features = shapes["time_embed.0.weight"][0]
    depths = tuple(_depths(block) for block in down)
    if down[-1][0].depth is None and "middle_block.1.proj_in.weight" in shapes:
        # The middle has the depth that the last block would have.
        middle = _count(shapes, "middle_block.1.transformer_blocks.", ".norm1.weight")
        depths = (*depths[:-1], middle)
    up_depths = tuple(_depths(block) for block in up)
    config = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": generation.pixels // 8,
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "down_block_types": _types(down, "DownBlock2D"),
        "up_block_types": _types(up, "UpBlock2D"),
        "block_out_channels": channels,
        "layers_per_block": _once([len(block) for block in down]),
        "cross_attention_dim": shapes[_first(shapes, ".attn2.to_k.weight")][1],
        "attention_head_dim": generation.heads
        or _once([max(c // _HEAD_WIDTH, 1) for c in channels]),
        "use_linear_projection": len(shapes[_first(shapes, ".proj_in.weight")]) == 2,
        "upcast_attention": generation.upcast_attention,
        "transformer_layers_per_block": _once(depths),
    }
    if up_depths != depths[::-1]:
        config["reverse_transformer_layers_per_block"] = up_depths
    if "middle_block.1.proj_in.weight" not in shapes:
        config["mid_block_type"] = "UNetMidBlock2D"
    if time_features != 4 * channels[0]:
        config["time_embedding_dim"] = time_features
    if pooled:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": _TIME_ID_FEATURES,
            "projection_class_embeddings_input_dim": pooled[1],
        }
    return config


class _Layer(NamedTuple):
    """A residual block: its channels, and the depth of its transformer (None: none)."""

    channels: int
    depth: int | None


def _down_blocks(shapes: Shapes) -> list[list[_Layer]]:
    blocks: list[list[_Layer]] = [[]]
    for i in itertools.count(1):
        if f"input_blocks.{i}.0.op.weight" in shapes:
            blocks.append([])
        elif f"input_blocks.{i}.0.out_layers.3.weight" in shapes:
            blocks[-1].append(_layer(shapes, f"input_blocks.{i}"))
        else:
            return _filled(blocks, "input_blocks")
    raise AssertionError


def _up_blocks(shapes: Shapes) -> list[list[_Layer]]:
    blocks: list[list[_Layer]] = [[]]
    for i in itertools.count():
        at = f"output_blocks.{i}"
        if f"{at}.0.out_layers.3.weight" not in shapes:
            return _filled(blocks, "output_blocks")
        blocks[-1].append(_layer(shapes, at))
        if {f"{at}.1.conv.weight", f"{at}.2.conv.weight"} & shapes.keys():
            blocks.append([])
    raise AssertionError


def _layer(shapes: Shapes, at: str) -> _Layer:
    depth = None
    if f"{at}.1.proj_in.weight" in shapes:
        depth = _count(shapes, f"{at}.1.transformer_blocks.", ".norm1.weight")
    return _Layer(shapes[f"{at}.0.out_layers.3.weight"][0], depth)


def _filled(blocks: list[list[_Layer]], name: str) -> list[list[_Layer]]:
    if not all(blocks):
        raise KeyError(f"{name} without a residual block")
    return blocks


def _types(blocks: list[list[_Layer]], plain: str) -> tuple[str, ...]:
    return tuple(
        plain if block[0].depth is None else f"CrossAttn{plain}" for block in blocks
    )


def _depths(block: list[_Layer]) -> Any:
    """Return the depths of a block's transformers; 1 for a block without."""
    return _once([1 if layer.depth is None else layer.depth for layer in block])


def autoencoder_config(
    shapes: Shapes, generation: Generation, latents: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the ``config.json`` of an autoencoder in the original layout.

    Args:
        shapes: Shapes of its tensors by original names without prefix.
        generation: The generation, which gives the scale of the latents.
        latents: The options ``latents_mean`` and ``latents_std`` if the file has them.

    Returns:
        The configuration in diffusers' vocabulary.

    Raises:
        KeyError: If a tensor is missing that every such autoencoder has.
    """
    blocks = _count(shapes, "encoder.down.", ".block.0.conv1.weight")
    if not blocks:
        raise KeyError("encoder.down.0.block.0.conv1.weight")
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "down_block_types": ("DownEncoderBlock2D",) * blocks,
        "up_block_types": ("UpDecoderBlock2D",) * blocks,
        "block_out_channels": tuple(
            shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(blocks)
        ),
        "layers_per_block": _count(shapes, "encoder.down.0.block.", ".conv1.weight"),
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "sample_size": generation.pixels,
        "scaling_factor": generation.scaling_factor,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        "mid_block_add_attention": "encoder.mid.attn_1.q.weight" in shapes,
        **latents,
    }


def clip_config(shapes: Shapes) -> dict[str, Any]:
    """Return the ``config.json`` of OpenAI's text encoder, with transformers' names.

    Raises:
        KeyError: If a tensor is missing that every such encoder has.
    """
    vocabulary, width = shapes["embeddings.token_embedding.weight"]
    return _text_config(
        shapes["embeddings.position_embedding.weight"][0],
        vocabulary,
        width,
        intermediate_size=shapes["encoder.layers.0.mlp.fc1.weight"][0],
        num_hidden_layers=_count(shapes, "encoder.layers.", ".mlp.fc1.weight"),
        hidden_act="quick_gelu",
        projection_dim=width,
    )


def open_clip_config(shapes: Shapes, *, projected: bool) -> dict[str, Any]:
    """Return the ``config.json`` of OpenCLIP's text encoder in its own names.

    Args:
        shapes: Shapes of its tensors by original names without prefix.
        projected: Whether the pooled vector is projected (SDXL); without, it is Stable
            Diffusion 2's encoder, which ends before the last layer.

    Raises:
        KeyError: If a tensor is missing that every such encoder has.
    """
    vocabulary, width = shapes["token_embedding.weight"]
    layers = _count(shapes, "transformer.resblocks.", ".mlp.c_fc.weight")
    config = _text_config(
        shapes["positional_embedding"][0],
        vocabulary,
        width,
        intermediate_size=shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
        num_hidden_layers=layers if projected else min(layers, _SD2_TEXT_LAYERS),
        hidden_act="gelu",
        projection_dim=shapes["text_projection"][1] if projected else 512,
    )
    if projected:
        config["architectures"] = ["CLIPTextModelWithProjection"]
    return config


def _text_config(
    positions: int, vocabulary: int, width: int, **options: Any
) -> dict[str, Any]:
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_attention_heads": max(width // _HEAD_WIDTH, 1),
        "max_position_embeddings": positions,
        "bos_token_id": 0,
        "eos_token_id": 2,
        **options,
    }


def _count(shapes: Shapes, before: str, after: str) -> int:
    """Return how many consecutive numbers from 0 have a tensor of this name."""
    return next(i for i in itertools.count() if f"{before}{i}{after}" not in shapes)


def _first(shapes: Shapes, end: str) -> str:
    """Return the first name that ends so."""
    found = next((name for name in shapes if name.endswith(end)), None)
    if found is None:
        raise KeyError(f"*{end}")
    return found


def _once(values: Sequence[Any]) -> Any:
    """Return the value that all are, otherwise the tuple of them."""
    return values[0] if len(set(values)) == 1 else tuple(values)
