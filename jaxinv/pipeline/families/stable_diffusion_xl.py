"""Stable Diffusion XL, and every model with the same parts.

The network attends to the penultimate layers of two text encoders, side by side. Its
time is joined by the second encoder's pooled vector and by six numbers in pixels: the
size of the original image, the top left corner of its crop, and the size wanted. Turbo,
Lightning, SSD-1B and Playground have these parts, too.

Where ``model_index.json`` sets ``force_zeros_for_empty_prompt``, as it does for the
base model, an empty negative prompt is not encoded: its vectors are zeros.

References:
    Podell et al. 2023, "SDXL: Improving Latent Diffusion Models for High-Resolution
    Image Synthesis", arXiv:2307.01952.
    diffusers 0.42, ``pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl.py``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.checks import Range
from jaxinv.files.json_fields import check_field
from jaxinv.models import UNetCondition
from jaxinv.pipeline.families.fit import (
    check_classes,
    check_latents,
    check_text,
    latent_image_size,
)
from jaxinv.pipeline.families.stable_diffusion import (
    AUTOENCODERS,
    TOKENIZERS,
    StableDiffusion,
)
from jaxinv.pipeline.text import encode_text

if TYPE_CHECKING:
    from jaxinv.pipeline.pipeline import Pipeline

_ZEROS = "force_zeros_for_empty_prompt"
_Pixels = Annotated[int, Range(1, 2**20)]
_Place = Annotated[int, Range(-(2**20), 2**20)]
# Options of a prompt, with their types. Those of the negative prompt have a prefix.
_OPTIONS: dict[str, Any] = {
    "prompt_2": str | None,
    "original_size": tuple[_Pixels, _Pixels] | None,
    "crops_coords_top_left": tuple[_Place, _Place] | None,
    "target_size": tuple[_Pixels, _Pixels] | None,
}
_SIZES = tuple(_OPTIONS)[1:]


class StableDiffusionXL(StableDiffusion):
    """Text-to-image diffusion in latents, with two text encoders and image sizes.

    Options of :meth:`jaxinv.Pipeline.denoiser`, as in diffusers' pipeline:

    * ``prompt_2``, ``negative_prompt_2``: Texts for the second encoder; by default
      those for the first.
    * ``original_size``, ``crops_coords_top_left``, ``target_size``: (height, width) and
      (top, left) in pixels; by default the pipeline's ``image_size`` and (0, 0).
    * ``negative_original_size``, ``negative_crops_coords_top_left``,
      ``negative_target_size``: The same for the negative prompt; by default those of
      the prompt.

    An empty negative prompt is diffusers' None. For the vectors of the empty text, pass
    their encoding, ``pipe.encode_prompt("")``.
    """

    name = "Stable Diffusion XL"
    parts: ClassVar = {
        "unet": ("UNet2DConditionModel",),
        "vae": AUTOENCODERS,
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer": TOKENIZERS,
        "tokenizer_2": TOKENIZERS,
        "scheduler": (),
    }
    flags: ClassVar = {_ZEROS: True}
    refused: ClassVar = {
        "requires_aesthetics_score": "this is SDXL's refiner, which changes images"
    }
    text_encoders: ClassVar = {
        "text_encoder": "tokenizer",
        "text_encoder_2": "tokenizer_2",
    }
    sized_prompts = True
    options = frozenset([*_OPTIONS, *(f"negative_{name}" for name in _OPTIONS)])

    def check(self, where: Path, configs: Mapping[str, Any]) -> tuple[int, int]:
        """Check channels, and sizes of text vectors and pooled vectors."""
        check_classes(where, configs, self.parts)
        unet, vae = configs["unet"], configs["vae"]
        first, second = configs["text_encoder"], configs["text_encoder_2"]
        check_latents(where, unet, vae)
        check_text(where, unet.context_widths, first.hidden_size + second.hidden_size)
        if unet.addition_embed_type != "text_time":
            raise ValueError(
                f"{where}: the UNet takes no pooled text and image sizes "
                "(addition_embed_type must be 'text_time', got "
                f"{unet.addition_embed_type!r})"
            )
        if unet.pooled_width != second.projection_dim:
            raise ValueError(
                f"{where}: the UNet takes a pooled text vector of size "
                f"{unet.pooled_width} (projection_class_embeddings_input_dim less 6 "
                "addition_time_embed_dim), but the second text encoder's has "
                f"{second.projection_dim} (projection_dim)"
            )
        lengths = [text.max_position_embeddings for text in (first, second)]
        if lengths[0] != lengths[1]:
            raise ValueError(
                f"{where}: the text encoders must read equally many tokens, got "
                f"{lengths[0]} and {lengths[1]} (max_position_embeddings)"
            )
        return latent_image_size(where, unet, vae)

    def encode(
        self, pipe: "Pipeline", prompt: str, *, negative: bool, **options: Any
    ) -> UNetCondition:
        """Return the vectors of both encoders, the pooled one, and image sizes."""
        _check_types(options)
        prefix = "negative_" if negative else ""
        second = options.get(f"{prefix}prompt_2") or prompt
        outputs = [
            encode_text(encoder, pipe.tokenize(text, number), pipe.chunks)
            for number, (encoder, text) in enumerate(
                zip(pipe.text_encoders, (prompt, second), strict=True)
            )
        ]
        vectors = [output.penultimate_hidden_state for output in outputs]
        lengths = [len(each) for each in vectors]
        if lengths[0] != lengths[1]:
            raise ValueError(
                f"the tokenizers of {pipe.name} must give equally many tokens, got "
                f"{lengths[0]} and {lengths[1]} (model_max_length)"
            )
        text = jnp.concatenate(vectors, axis=-1)
        pooled = outputs[1].pooled
        if negative and not prompt and not second and _ZEROS in pipe.flags:
            text, pooled = jnp.zeros_like(text), jnp.zeros_like(pooled)
        return UNetCondition(text, pooled, _time_ids(pipe, options, negative))


def _check_types(options: Mapping[str, Any]) -> None:
    """Raise ValueError unless options have their types."""
    for name, value in options.items():
        value = tuple(value) if isinstance(value, list) else value
        check_field(name, value, _OPTIONS[name.removeprefix("negative_")])


def _time_ids(
    pipe: "Pipeline", options: Mapping[str, Any], negative: bool
) -> Float[Array, " 6"]:
    """Return original size, crop and target size, in pixels."""
    apart = {name: options.get(f"negative_{name}") for name in _SIZES}
    given = {name: options.get(name) for name in _SIZES}
    if any(value is not None for value in apart.values()):
        if apart["original_size"] is None or apart["target_size"] is None:
            raise ValueError(
                "negative_original_size and negative_target_size must be given "
                "together: as in diffusers, one alone has no effect"
            )
        given = apart if negative else given
    defaults = pipe.image_size, (0, 0), pipe.image_size
    sizes = [given[name] or own for name, own in zip(_SIZES, defaults, strict=True)]
    return jnp.asarray([number for size in sizes for number in size], jnp.float32)
