"""Small random transformers of stacked blocks, their separate tensors, and LoRAs."""

import re
from typing import NamedTuple

import jax
import numpy as np

from jaxinv.models import (
    FluxCondition,
    FluxTransformer2DConfig,
    SD3Condition,
    SD3TransformerConfig,
    abstract_component,
)
from jaxinv.models.parameters import parameters, with_parameters

_HEAD, _TEXT, _POOLED = 8, 6, 5


def drawn(seed, dtype=np.float32):
    """Returns a network of a random configuration, with random weights.

    SD3's kinds of blocks are drawn, so that most of its stacks have several runs.
    """
    rng = np.random.default_rng(seed)
    sizes = {
        "attention_head_dim": _HEAD,
        "num_attention_heads": 2,
        "joint_attention_dim": _TEXT,
        "pooled_projection_dim": _POOLED,
        "in_channels": 16,
    }
    if seed % 2:
        config = FluxTransformer2DConfig(
            **sizes,
            num_layers=int(rng.integers(1, 4)),
            num_single_layers=2 * int(rng.integers(1, 3)),
            guidance_embeds=bool(rng.integers(2)),
            axes_dims_rope=(2, 2, 4),
        )
    else:
        depth = int(rng.integers(4, 7))
        config = SD3TransformerConfig(
            **sizes,
            sample_size=8,
            caption_projection_dim=2 * _HEAD,
            num_layers=depth,
            pos_embed_max_size=4,
            dual_attention_layers=tuple(i for i in range(2, depth) if rng.integers(2)),
            qk_norm=[None, "rms_norm"][rng.integers(2)],
        )
    abstract = abstract_component(config, param_dtype=dtype)
    values = {
        path: (0.3 * rng.standard_normal(x.shape, np.float32)).astype(dtype)
        for path, x in parameters(abstract).items()
    }
    return with_parameters(abstract, jax.tree.map(jax.numpy.asarray, values))


def call(model, seed):
    """Returns the output of a network for a random sample and condition."""
    rng = np.random.default_rng(seed)
    text = rng.standard_normal((3, _TEXT), np.float32)
    pooled = rng.standard_normal(_POOLED, np.float32)
    if isinstance(model.config, FluxTransformer2DConfig):
        guidance = np.float32(3) if model.config.guidance_embeds else None
        shape, condition = (4, 4, 4), FluxCondition(text, pooled, guidance)
    else:
        shape, condition = (4, 4, 16), SD3Condition(text, pooled)
    x = rng.standard_normal(shape, np.float32)
    run = jax.jit(lambda model, *given: model(*given))
    return np.asarray(run(model, x, np.float32(300), condition))


def separate(model):
    """Yields PyTorch's name, path, block and tensor for every block of a parameter.

    The block is None if the parameter is not stacked.
    """
    for path, value in parameters(model).items():
        value = np.asarray(value)
        stem, leaf = path.rsplit(".", 1)
        end = "bias" if leaf == "bias" else "weight"
        end = leaf if leaf == "pos_embed" else end

        def torch(block, kernel=leaf == "kernel"):
            if not kernel:
                return block
            return block.T if block.ndim == 2 else np.moveaxis(block, (3, 2), (0, 1))

        run = re.search(r"\.(\d+):(\d+)\.", path)
        if run is None:
            yield f"{stem}.{end}", path, None, torch(value)
            continue
        first, last = int(run[1]), int(run[2])
        assert len(value) == last - first
        for i in range(first, last):
            name = stem[: run.start()] + f".{i}." + stem[run.end() :]
            yield f"{name}.{end}", path, i - first, torch(value[i - first])


class Lora(NamedTuple):
    """A LoRA of one layer: tensors, and the place and change (O, I) of its weight."""

    tensors: dict[str, np.ndarray]
    path: str
    block: int
    change: np.ndarray


def drawn_lora(model, seed, style, *, even=False):
    """Returns a LoRA of one dense layer of one block, named by PEFT or by Kohya.

    With ``even``, the stack has an even number of blocks.
    """
    rng = np.random.default_rng(seed)
    layers = [
        (name, path, block, weight.shape)
        for name, path, block, weight in separate(model)
        if block is not None
        and path.endswith("kernel")
        and not (even and len(parameters(model)[path]) % 2)
    ]
    name, path, block, (outputs, inputs) = layers[rng.integers(len(layers))]
    name, rank = name.removesuffix(".weight"), 2
    down = rng.standard_normal((rank, inputs), np.float32)
    up = rng.standard_normal((outputs, rank), np.float32)
    if style == "peft":
        stem = f"transformer.{name}"
        tensors = {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
        return Lora(tensors, path, block, up @ down)
    stem, alpha = f"lora_transformer_{name.replace('.', '_')}", np.ones((), np.float32)
    tensors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
    return Lora(
        tensors | {f"{stem}.alpha": alpha}, path, block, up @ down * alpha / rank
    )
