"""Stable Diffusion 1 and 2, and every model with the same parts.

References:
    Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models",
    arXiv:2112.10752.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Array, Float

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
        return latent_image_size(where, unet, vae)

    def encode(
        self, pipe: "Pipeline", prompt: str, *, negative: bool, **options: Any
    ) -> Float[Array, "l d"]:
        """Return the vectors of the text encoder's last layer, normalized."""
        return encode_text(
            pipe.text_encoders[0], pipe.tokenize(prompt)
        ).last_hidden_state
