"""Where the parts of a model are in one file, and what else may be there.

A whole model names its parts by prefixes, and a file of one part has none. A file is
read completely: what is not a part's weight must be known to be none (:data:`_STATE`,
:data:`_BUFFERS`), otherwise it is an error.
"""

import re
from pathlib import Path
from typing import NamedTuple

from jaxinv.checks import shown
from weights_convert.errors import WeightsError
from weights_convert.reader import StoredTensor


class Place(NamedTuple):
    """A place of a part in a file.

    Attributes:
        part: The part's name in a diffusers folder.
        prefix: What its tensors begin with.
        marker: A tensor, without prefix, that only this layout of the part has.
        layout: ``original`` (also OpenCLIP's) or ``diffusers`` (also transformers').
    """

    part: str
    prefix: str
    marker: str
    layout: str = "original"


_CLIP = "embeddings.token_embedding.weight"
_OPEN_CLIP = "token_embedding.weight"
_PLACES = tuple(
    Place(part, prefix, marker, layout)
    for part, marker, layout, prefixes in (
        ("unet", "input_blocks.0.0.weight", "original", ("model.diffusion_model.", "")),
        ("unet", "conv_in.weight", "diffusers", ("",)),
        ("vae", "encoder.norm_out.weight", "original",
         ("first_stage_model.", "vae.", "")),
        ("vae", "encoder.conv_norm_out.weight", "diffusers", ("",)),
        ("text_encoder", _CLIP, "diffusers",
         ("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer.",
          "conditioner.embedders.0.transformer.text_model.", "text_model.", "")),
        ("text_encoder", _OPEN_CLIP, "original", ("cond_stage_model.model.", "")),
        ("text_encoder_2", _OPEN_CLIP, "original", ("conditioner.embedders.1.model.",)),
    )
    for prefix in prefixes
)  # fmt: skip

# The state of a training: averages, constants of its schedule, and the autoencoder's
# loss. As in diffusers, averaged weights (EMA) are not used.
_STATE = re.compile(
    r"(first_stage_model\.|vae\.)?(model_ema|loss)\..*|denoiser\.sigmas|(alphas_cumprod"
    r"|betas|log_one_minus|posterior_|sqrt_|logvar|lvlb_weights|global_step|scale_factor"
    r"|edm_mean|edm_std|v_pred|ztsnr)\w*"
)
# What a text encoder's vectors do not depend on.
_BUFFER = re.compile(r"(.*\.)?(position_ids|logit_scale|attn_mask)")
_PROJECTION = re.compile(
    r"(cond_stage_model\.(transformer\.)?)?text_projection(\.weight)?"
)
# Stable Diffusion 2 was trained on OpenCLIP without its last layer.
_LAST_LAYER = re.compile(r"transformer\.resblocks\.23\..*")

_FOLDER_ONLY = ", which is read from a folder in diffusers' layout"
_OTHERS = {
    "SDXL's refiner": r"conditioner\.embedders\.0\.model\.",
    f"a model of Stable Diffusion 3{_FOLDER_ONLY}":
        r"(model\.diffusion_model\.)?joint_blocks\.",
    f"a model of FLUX{_FOLDER_ONLY}": r"(model\.diffusion_model\.)?double_blocks\.",
    "a ControlNet in the original layout": r"control_model\.|input_hint_block\.",
    "a LoRA, which is an addition to a model": r"lora_|.*\.lora_(A|B|up|down)\.",
    "a textual inversion, which is an addition to a text encoder":
        r"emb_params$|clip_[lg]$|string_to_param",
}  # fmt: skip


class Part(NamedTuple):
    """A part of a model in a file.

    Attributes:
        place: Where it is.
        tensors: Its tensors by names without prefix, and without buffers.
    """

    place: Place
    tensors: dict[str, StoredTensor]


def parts(path: Path, tensors: list[StoredTensor]) -> dict[str, Part]:
    """Divide the tensors of a file among the parts of a model.

    Args:
        path: The file, for messages.
        tensors: All of its tensors.

    Returns:
        The parts by name.

    Raises:
        WeightsError: If there is no part, a part is there twice, or a tensor belongs to
            no part.
    """
    names = {tensor.name for tensor in tensors}
    found: dict[str, Part] = {}
    for place in _PLACES:
        if place.prefix + place.marker not in names:
            continue
        if place.part in found:
            before = found[place.part].place
            raise WeightsError(
                f"{path} holds two parts {place.part}: tensors "
                f"{before.prefix + before.marker!r} and {place.prefix + place.marker!r}"
            )
        found[place.part] = Part(place, {})
    _check_kind(path, sorted(names), bool(found))
    for tensor in tensors:
        if _STATE.fullmatch(tensor.name) or _BUFFER.fullmatch(tensor.name):
            continue
        for place, own in found.values():
            if tensor.name.startswith(place.prefix):
                own[tensor.name.removeprefix(place.prefix)] = tensor
                break
        else:
            if not _PROJECTION.fullmatch(tensor.name):
                raise WeightsError(
                    f"{path}: tensor {tensor.shown} belongs to none of the parts "
                    f"{', '.join(found)}"
                )
    return found


def is_unused(name: str) -> bool:
    """Return whether a text encoder without the tensor gives the same text vectors.

    Args:
        name: Name without prefix of a tensor for which the model has no place.
    """
    return bool(_PROJECTION.fullmatch(name) or _LAST_LAYER.fullmatch(name))


def _check_kind(path: Path, names: list[str], found: bool) -> None:
    """Raise WeightsError for what is not a model, or another model."""
    expected = "expected a model in the original layout of Stable Diffusion 1, 2 or XL"
    for kind, pattern in _OTHERS.items():
        name = next((name for name in names if re.match(pattern, name)), None)
        if name is not None:
            raise WeightsError(
                f"{path} holds {kind} (tensor {shown(name)}); {expected}, or a part of "
                "one"
            )
    if not found:
        few = ", ".join(map(shown, names[:3])) or "none"
        raise WeightsError(
            f"{path} holds no known model ({len(names)} tensors, the first are {few}); "
            f"{expected}"
        )
