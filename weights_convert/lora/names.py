"""Names of layers in LoRA files.

A tensor's name is the layer's name and the tensor's role in it. Programs write
layers in their own ways:

    ==================  ================================================
    PEFT and diffusers  ``unet.mid_block.attentions.0.proj_in``
    early diffusers     ``unet.....attn1.processor.to_q`` (``to_out``)
    Kohya               ``lora_unet_mid_block_attentions_0_proj_in``
    Kohya, SDXL         ``lora_unet_middle_block_1_proj_in``
    Kohya, FLUX         ``lora_unet_double_blocks_0_img_attn_qkv``
    ComfyUI, FLUX       ``diffusion_model.double_blocks.0.img_attn.qkv``
    ==================  ================================================

and roles as follows:

    ==================  ==============================  ===============
    writer              A, B                            alpha
    ==================  ==============================  ===============
    PEFT                ``.lora_A.weight``, ``lora_B``  in the metadata
    diffusers           ``.lora.down.weight``, ``up``   (none)
    text encoders       ``.lora_linear_layer.down...``  (none)
    early diffusers     ``_lora.down.weight``, ``up``   (none)
    Kohya               ``.lora_down.weight``, ``up``   ``.alpha``
    ==================  ==============================  ===============

Kohya's names cannot be parsed, because its underscores stand for dots and underscores
alike. All names that a model's layers can have are therefore listed, and a file's names
are looked up. For SDXL Kohya uses the names of the original layout
(:mod:`weights_convert.single_file.names`), and for FLUX those of the original code
(:mod:`weights_convert.lora.flux`), some of whose layers are several layers here.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jaxinv.checks import shown
from jaxinv.models import FluxTransformer2DConfig, UNet2DConditionConfig
from jaxinv.models.parameters import parameters
from jaxinv.models.registry import ComponentConfig
from jaxinv.paths import members, stacked_axes
from weights_convert.errors import WeightsError
from weights_convert.lora.flux import original_layers
from weights_convert.rules import tensor_name
from weights_convert.single_file.names import original

# Kohya's prefixes of the parts of a pipeline.
_KOHYA_PREFIXES = {
    "unet": ("lora_unet_",),
    "transformer": ("lora_unet_", "lora_transformer_"),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
    "text_encoder_3": ("lora_te3_",),
}
# Parts whose layers some files name without a prefix.
_NETWORKS = ("unet", "transformer")

# The ends of names, for each role. PEFT may insert an adapter's name.
_ROLES = {
    "A": r"(?:\.lora_A(?:\.\w+)?|\.lora_down|(?:\.|_)lora\.down|"
    r"\.lora_linear_layer\.down)\.weight",
    "B": r"(?:\.lora_B(?:\.\w+)?|\.lora_up|(?:\.|_)lora\.up|"
    r"\.lora_linear_layer\.up)\.weight",
    "alpha": r"\.alpha",
}
_ENDINGS = {role: re.compile(ending + "$") for role, ending in _ROLES.items()}

# Parts of names that show another kind of change.
_REFUSED = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "lora_mid": "LoCon with a third factor",
    "lora_embedding_": "LoRA of embeddings",
    "oft_": "OFT",
    "on_input": "IA3",
    ".diff": "a full difference of weights",
    "lora_A.bias": "LoRA with a bias",
    "lora_B.bias": "LoRA with a bias",
}

# Layers that early versions of diffusers named otherwise: end of today's name, and the
# earlier one.
_EARLIER = {
    "to_out.0": "to_out",
    "q_proj": "to_q",
    "k_proj": "to_k",
    "v_proj": "to_v",
    "out_proj": "to_out",
}


class Layer(NamedTuple):
    """A layer of a pipeline.

    Attributes:
        part: Name of the part, such as ``unet``.
        path: Path of its kernel among the part's parameters.
        block: Its place along the kernel's first axis, if that is stacked.
    """

    part: str
    path: str
    block: int | None = None


def layer_names(modules: Mapping[str, Any]) -> dict[str, tuple[Layer, ...]]:
    """Return the layers of a pipeline by all names that LoRA files give them.

    Args:
        modules: The pipeline's models by their names in diffusers, such as ``unet`` and
            ``text_encoder``.

    Returns:
        Dense layers and convolutions. A name stands for one of them, or for several
        whose outputs one layer has after another.
    """
    found: dict[str, tuple[Layer, ...]] = {}
    for part, module in modules.items():
        for path in parameters(module):
            if not path.endswith(".kernel"):
                continue
            for i, member in enumerate(members(path)):
                layer = Layer(part, path, i if stacked_axes(path) else None)
                for name in _layer_names(part, member, module.config):
                    found[name] = (layer,)
        if isinstance(module.config, FluxTransformer2DConfig):
            for name, own in original_layers(module.config):
                layers = tuple(found[f"{part}.{each}"][0] for each in own)
                kohya = "lora_unet_" + name.replace(".", "_")
                found |= dict.fromkeys((name, f"diffusion_model.{name}", kohya), layers)
    return found


def _layer_names(part: str, path: str, config: ComponentConfig) -> Iterator[str]:
    """Yield all names of one layer."""
    for name in _spellings(path, config):
        yield f"{part}.{name}"
        if part in _NETWORKS:
            yield name
        for prefix in _KOHYA_PREFIXES.get(part, ()):
            yield prefix + name.replace(".", "_")
    for name in _original_names(path, config):
        yield "lora_unet_" + name.replace(".", "_")


def _original_names(path: str, config: ComponentConfig) -> Iterator[str]:
    """Yield the name of a UNet's layer in the original layout, if it has one."""
    if isinstance(config, UNet2DConditionConfig):
        with contextlib.suppress(KeyError):  # LCM's layers were never in that layout
            name = original(tensor_name(path, config), config).name
            yield name.removesuffix(".weight")


def _spellings(path: str, config: ComponentConfig) -> Iterator[str]:
    """Yield the names of a layer, with dots and without the part's name."""
    name = tensor_name(path, config).removesuffix(".weight")
    for full in {name, name.removeprefix("text_model.")}:
        yield full
        for today, earlier in _EARLIER.items():
            if full.endswith(f".{today}"):
                yield full.removesuffix(today) + earlier


def split_name(name: str) -> tuple[str, str]:
    """Split a tensor's name into a layer's name and a role.

    Args:
        name: The name in a file.

    Returns:
        The layer's name, and ``"A"``, ``"B"`` or ``"alpha"``.

    Raises:
        WeightsError: If the name shows no role; for other kinds of changes than LoRA
            the message contains the kind.
    """
    for mark, kind in _REFUSED.items():
        if mark in name:
            raise WeightsError(
                f"tensor {shown(name)} belongs to {kind}, which is not implemented "
                "(implemented: LoRA of dense layers and convolutions)"
            )
    for role, ending in _ENDINGS.items():
        found = ending.search(name)
        if found:
            return name[: found.start()].replace(".processor.", "."), role
    raise WeightsError(
        f"tensor {shown(name)} is not part of a LoRA: its name must end with "
        "lora_A.weight and lora_B.weight, lora_down.weight and lora_up.weight, "
        "lora.down.weight and lora.up.weight, or alpha"
    )
