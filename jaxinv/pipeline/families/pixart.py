"""PixArt-Sigma and PixArt-alpha, and every model with the same parts.

The network attends to T5's vectors of the prompt. Tokens that pad are masked, in T5 and
in the network. As in diffusers' pipelines, a prompt is read in lower case and without
blanks around it; their further cleaning of captions (``clean_caption``), which needs
the packages bs4 and ftfy, is not implemented.

The 1024-pixel model of PixArt-alpha also reads the height and the width of the image
and its aspect ratio: those of the pipeline's ``image_size``.

References:
    Chen et al. 2023, "PixArt-alpha", arXiv:2310.00426.
    Chen et al. 2024, "PixArt-Sigma", arXiv:2403.04692.
    diffusers 0.42, ``pipelines/pixart_alpha``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxinv.checks import Range
from jaxinv.files.json_fields import check_field
from jaxinv.models import PixArtCondition
from jaxinv.pipeline.conditions import Condition
from jaxinv.pipeline.families.family import Family
from jaxinv.pipeline.families.fit import check_classes, latent_image_size
from jaxinv.pipeline.families.stable_diffusion import AUTOENCODERS
from jaxinv.pipeline.text import T5_TOKENIZERS, encode_tokens

if TYPE_CHECKING:
    from jaxinv.pipeline.pipeline import Pipeline

_LENGTH = "max_sequence_length"
# Its present name, and that under which the networks were published.
_NETWORKS = ("PixArtTransformer2DModel", "Transformer2DModel")
_GUIDANCE = 4.5  # default of diffusers' pipelines


class PixArt(Family):
    """Text-to-image diffusion in latents, with T5 alone.

    Options of :meth:`jaxinv.Pipeline.denoiser`, as in diffusers' pipeline:

    * ``max_sequence_length``: Number of T5's tokens, 300 by default.
    """

    name = "PixArt"
    parts: ClassVar = {
        "transformer": _NETWORKS,
        "vae": AUTOENCODERS,
        "text_encoder": ("T5EncoderModel",),
        "tokenizer": T5_TOKENIZERS,
        "scheduler": (),
    }
    optional = ("text_encoder",)
    text_encoders: ClassVar = {"text_encoder": "tokenizer"}
    prompt_lengths: ClassVar = {"text_encoder": 300}
    encoding = PixArtCondition
    options = frozenset([_LENGTH])

    def check(self, where: Path, configs: Mapping[str, Any]) -> tuple[int, int]:
        """Check channels and sizes of text vectors."""
        check_classes(where, configs, self.parts)
        network, vae = configs["transformer"], configs["vae"]
        text = configs.get("text_encoder")
        if network.in_channels != vae.latent_channels:
            raise ValueError(
                f"{where}: the {network.class_name} has {network.in_channels} input "
                f"channels (in_channels); the autoencoder's latents have "
                f"{vae.latent_channels}"
            )
        if text is not None and text.hidden_size != network.text_features:
            raise ValueError(
                f"{where}: the {network.class_name} takes text vectors of size "
                f"{network.text_features} (caption_channels), but those of the text "
                f"encoder have {text.hidden_size} (d_model)"
            )
        return latent_image_size(where, network, vae)

    def check_latent_size(self, network: Any, size: tuple[int, int]) -> None:
        """Raise ValueError unless a latent is a whole number of tokens."""
        config = network.config
        config.check_latent((*size, config.in_channels))

    def usual_guidance(self, pipe: "Pipeline") -> float:
        """Return the default of diffusers' pipelines."""
        return _GUIDANCE

    def encode(
        self, pipe: "Pipeline", prompt: str, *, negative: bool, **options: Any
    ) -> PixArtCondition:
        """Return T5's vectors and their mask."""
        length = options.get(_LENGTH)
        check_field(_LENGTH, length, Annotated[int, Range(1, 512)] | None)
        ids = pipe.tokenize(prompt.lower().strip(), 0, length)
        mask = ids != pipe.tokenizers[0].pad_token_id
        text = encode_tokens(pipe.text_encoders[0], ids, mask)
        return PixArtCondition(text, jnp.asarray(mask, jnp.float32))

    def condition(
        self,
        pipe: "Pipeline",
        prompt: PyTree,
        negative_prompt: PyTree,
        guidance_scale: Any,
    ) -> Condition:
        """Return the condition, with the image's size in it where it is read."""

        def filled(condition: PixArtCondition) -> PixArtCondition:
            if not pipe.network.config.sized:
                return condition
            size = np.asarray(pipe.image_size, np.float32)
            return condition._replace(
                resolution=jnp.asarray(size),
                aspect_ratio=jnp.asarray(size[0] / size[1]),
            )

        negative = None if negative_prompt is None else filled(negative_prompt)
        return Condition(filled(prompt), negative, guidance_scale)


class PixArtAlpha(PixArt):
    """PixArt-alpha, whose prompts have 120 tokens by default."""

    name = "PixArt-alpha"
    pipelines = ("PixArtAlphaPipeline",)
    prompt_lengths: ClassVar = {"text_encoder": 120}
