"""Stable Diffusion 1 and 2, and every model with the same parts.

References:
    Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models",
    arXiv:2112.10752.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jax.numpy as jnp
from jaxtyping import PyTree

from jaxinv.models import UNetCondition
from jaxinv.pipeline.conditions import Condition
from jaxinv.pipeline.families.family import Family
from jaxinv.pipeline.families.fit import (
    check_classes,
    check_latents,
    check_text,
    latent_image_size,
)
from jaxinv.pipeline.text import encode_text

if TYPE_CHECKING:
    from jaxinv.pipeline.pipeline import Pipeline

AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")


class StableDiffusion(Family):
    """Text-to-image diffusion in the latents of an autoencoder, with one encoder."""

    name = "Stable Diffusion"
    parts: ClassVar = {
        "unet": ("UNet2DConditionModel",),
        "vae": AUTOENCODERS,
        "text_encoder": ("CLIPTextModel",),
        "tokenizer": TOKENIZERS,
        "scheduler": (),
    }
    text_encoders: ClassVar = {"text_encoder": "tokenizer"}

    def check(self, where: Path, configs: Mapping[str, Any]) -> tuple[int, int]:
        """Check channels and sizes of text vectors."""
        check_classes(where, configs, self.parts)
        unet, vae, text = (configs[p] for p in ("unet", "vae", "text_encoder"))
        check_latents(where, unet, vae)
        check_text(where, unet.context_widths, text.hidden_size)
        if unet.addition_embed_type is not None:
            raise ValueError(
                f"{where}: the UNet also takes pooled text and image sizes "
                f"(addition_embed_type={unet.addition_embed_type!r}), for which "
                "Stable Diffusion XL has a second text encoder"
            )
        return latent_image_size(where, unet, vae)

    def encode(
        self, pipe: "Pipeline", prompt: str, *, negative: bool, **options: Any
    ) -> PyTree:
        """Return the vectors (l, d) of the last layer after its normalization."""
        ids = pipe.tokenize(prompt)
        return encode_text(pipe.text_encoders[0], ids, pipe.chunks).last_hidden_state

    def has_negative(self, pipe: "Pipeline") -> bool:
        """Return whether the guidance scale is not an input of the network (LCM)."""
        return pipe.network.config.time_cond_proj_dim is None

    def condition(
        self,
        pipe: "Pipeline",
        prompt: PyTree,
        negative_prompt: PyTree,
        guidance_scale: Any,
    ) -> Condition:
        """Return the condition; with the scale in it where the network takes it."""
        if self.has_negative(pipe):
            return Condition(prompt, negative_prompt, guidance_scale)
        if not isinstance(prompt, UNetCondition):
            prompt = UNetCondition(prompt)
        scale = jnp.asarray(guidance_scale, jnp.float32)
        return Condition(prompt._replace(guidance=scale), None, jnp.ones(()))
