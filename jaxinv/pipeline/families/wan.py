"""Wan 2.1, text to video.

The autoencoder maps whole videos of ``4 n + 1`` frames to latents of ``n + 1``, and the
diffusion is a flow on those. The network attends to the vectors of UMT5; those beyond
the prompt's tokens are zeros.

References:
    Wan Team, "Wan: Open and Advanced Large-Scale Video Generative Models", 2025.
    https://arxiv.org/abs/2503.20314
    diffusers 0.42, ``pipelines/wan/pipeline_wan.py``.
"""

import html
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinv.checks import Range
from jaxinv.files.json_fields import check_field
from jaxinv.models.autoencoders.wan_config import AutoencoderKLWanConfig
from jaxinv.pipeline.families.family import Family
from jaxinv.pipeline.families.fit import check_classes, check_latents
from jaxinv.pipeline.text import T5_TOKENIZERS, encode_tokens

if TYPE_CHECKING:
    from jaxinv.pipeline.pipeline import Pipeline

# Quotes, widths and ligatures that ftfy's fix_text replaces by default.
_PLAIN = str.maketrans(
    dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f", '"')
    | {
        char: unicodedata.normalize("NFKC", char)
        for char in map(chr, (*range(0xFB00, 0xFB07), *range(0xFF01, 0xFFF0)))
    }
)
# Defaults of diffusers' pipeline; the models' configurations state none of them.
_SIZE = (480, 832)
_FRAMES = 81
_TOKENS = 512
_GUIDANCE = 5.0
_LENGTH: Any = Annotated[int, Range(1, 512)]
_LATER = "Wan 2.2 is not implemented"


class Wan(Family):
    """Text-to-video flows in the latents of a causal autoencoder, with UMT5.

    Options of :meth:`jaxinv.Pipeline.denoiser`, as in diffusers' pipeline:

    * ``max_sequence_length``: Number of text vectors, 1 to 512, 512 by default.
    """

    name = "Wan"
    parts: ClassVar = {
        "transformer": ("WanTransformer3DModel",),
        "vae": ("AutoencoderKLWan",),
        "text_encoder": ("UMT5EncoderModel",),
        "tokenizer": T5_TOKENIZERS,
        "scheduler": (),
    }
    optional = ("text_encoder",)
    refused: ClassVar = dict.fromkeys(("boundary_ratio", "expand_timesteps"), _LATER)
    text_encoders: ClassVar = {"text_encoder": "tokenizer"}
    prompt_lengths: ClassVar = {"text_encoder": _TOKENS}
    encoding = jax.Array
    options = frozenset({"max_sequence_length"})

    def check(self, where: Path, configs: Mapping[str, Any]) -> tuple[int, int]:
        """Check channels and the size of text vectors."""
        check_classes(where, configs, self.parts)
        network = configs["transformer"]
        check_latents(where, network, configs["vae"])
        text = configs.get("text_encoder")
        if text is not None and text.d_model != network.text_dim:
            raise ValueError(
                f"{where}: the transformer attends to vectors of size "
                f"{network.text_dim} (text_dim), but the text encoder's have "
                f"{text.d_model} (d_model)"
            )
        return _SIZE

    def frames(self, network: Any) -> int:
        """Return the number of frames of diffusers' pipeline."""
        return _FRAMES

    def check_frames(self, network: Any, frames: int) -> None:
        """Raise ValueError unless the autoencoder and the network take the frames."""
        AutoencoderKLWanConfig.check_frames(frames)
        config = network.config
        latent = AutoencoderKLWanConfig.latent_frames(frames)
        config.check_latent((latent, *config.patch_size[1:], config.in_channels))

    def check_latent_size(self, network: Any, size: tuple[int, int]) -> None:
        """Raise ValueError unless a latent is a whole number of tokens."""
        config = network.config
        config.check_latent((config.patch_size[0], *size, config.in_channels))

    def usual_guidance(self, pipe: "Pipeline") -> float:
        """Return the default of diffusers' pipeline."""
        return _GUIDANCE

    def encode(
        self, pipe: "Pipeline", prompt: str, *, negative: bool, **options: Any
    ) -> Float[Array, "l d"]:
        """Return UMT5's vectors of the prompt, followed by zeros."""
        length = options.get("max_sequence_length", _TOKENS)
        check_field("max_sequence_length", length, _LENGTH)
        ids = pipe.tokenize(cleaned(prompt), 0, length)
        # Tokens are padded on the right, after the last end token.
        ends = np.flatnonzero(ids == pipe.tokenizers[0].eos_token_id)
        mask = np.arange(length) <= ends[-1]
        vectors = encode_tokens(pipe.text_encoders[0], ids, mask)
        return jnp.where(mask[:, None], vectors, 0)


def cleaned(prompt: str) -> str:
    """Return a prompt as Wan reads it.

    HTML entities are replaced, twice, curly quotes become straight, characters of full
    or half width and ligatures become plain ones, and white space becomes single
    blanks. Wan's own code and, where it is installed, diffusers use the package
    ``ftfy`` for that, which also repairs text that was decoded wrongly; here, such text
    stays as it is.

    Example:
        >>> cleaned(" cats &amp;amp;  dogs ")
        'cats & dogs'
    """
    text = html.unescape(html.unescape(prompt)).translate(_PLAIN)
    return " ".join(unicodedata.normalize("NFC", text).split())
