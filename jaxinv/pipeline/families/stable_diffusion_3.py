"""Stable Diffusion 3 and 3.5, and every model with the same parts.

The network attends to one sequence of text vectors. First come the penultimate layers
of two CLIP encoders, side by side and followed by zeros up to the network's size, then
the vectors of T5:

    text = [[clip_1, clip_2, 0], t5],    pooled = [pooled_1, pooled_2]

A model that is loaded without T5 has zeros in place of its vectors, as in diffusers.

References:
    Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image
    Synthesis", arXiv:2403.03206, Section 4 and Appendix B.1.
    diffusers 0.42,
    ``pipelines/stable_diffusion_3/pipeline_stable_diffusion_3.py``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.checks import Range
from jaxinv.files.json_fields import check_field
from jaxinv.models import CLIPTextOutput, SD3Condition
from jaxinv.pipeline.families.family import Family
from jaxinv.pipeline.families.fit import (
    check_classes,
    check_latents,
    latent_image_size,
)
from jaxinv.pipeline.families.stable_diffusion import AUTOENCODERS, TOKENIZERS
from jaxinv.pipeline.text import T5_TOKENIZERS, encode_text, encode_tokens

if TYPE_CHECKING:
    from jaxinv.pipeline.pipeline import Pipeline

_CLIPS = ("text_encoder", "text_encoder_2")
_T5 = "text_encoder_3"
_CLIP_CLASSES = ("CLIPTextModelWithProjection",)
# Options of a prompt, with their types. Those of the negative prompt have a prefix.
_PROMPTS: dict[str, Any] = dict.fromkeys(
    ("prompt_2", "prompt_3", "negative_prompt_2", "negative_prompt_3"), str | None
)
_OPTIONS = _PROMPTS | {"max_sequence_length": Annotated[int, Range(0, 512)]}


class StableDiffusion3(Family):
    """Text-to-image flows in latents, with two CLIP encoders and T5.

    Options of :meth:`jaxinv.Pipeline.denoiser`, as in diffusers' pipeline:

    * ``prompt_2``, ``prompt_3``, ``negative_prompt_2``, ``negative_prompt_3``: Texts
      for the second CLIP encoder and for T5; by default those for the first encoder.
    * ``max_sequence_length``: Number of T5's tokens, 0 to 512, 256 by default. A model
      without T5 has as many zero vectors.
    """

    name = "Stable Diffusion 3"
    parts: ClassVar = {
        "transformer": ("SD3Transformer2DModel",),
        "vae": AUTOENCODERS,
        "text_encoder": _CLIP_CLASSES,
        "text_encoder_2": _CLIP_CLASSES,
        "text_encoder_3": ("T5EncoderModel",),
        "tokenizer": TOKENIZERS,
        "tokenizer_2": TOKENIZERS,
        "tokenizer_3": T5_TOKENIZERS,
        "scheduler": (),
    }
    optional = (_T5,)
    text_encoders: ClassVar = {
        "text_encoder": "tokenizer",
        "text_encoder_2": "tokenizer_2",
        "text_encoder_3": "tokenizer_3",
    }
    prompt_lengths: ClassVar = {_T5: 256}
    encoding = SD3Condition
    options = frozenset(_OPTIONS)

    def check(self, where: Path, configs: Mapping[str, Any]) -> tuple[int, int]:
        """Check channels, and sizes of text vectors and pooled vectors."""
        check_classes(where, configs, self.parts)
        network, vae = configs["transformer"], configs["vae"]
        first, second = (configs[part] for part in _CLIPS)
        check_latents(where, network, vae)
        width = first.hidden_size + second.hidden_size
        if width > network.joint_attention_dim:
            raise ValueError(
                f"{where}: the transformer attends to vectors of size "
                f"{network.joint_attention_dim} (joint_attention_dim), but those of "
                f"the two CLIP encoders have {width} side by side (hidden_size)"
            )
        if _T5 in configs and configs[_T5].d_model != network.joint_attention_dim:
            raise ValueError(
                f"{where}: the transformer attends to vectors of size "
                f"{network.joint_attention_dim} (joint_attention_dim), but T5's have "
                f"{configs[_T5].d_model} (d_model)"
            )
        pooled = first.projection_dim + second.projection_dim
        if pooled != network.pooled_projection_dim:
            raise ValueError(
                f"{where}: the transformer takes a pooled text vector of size "
                f"{network.pooled_projection_dim} (pooled_projection_dim), but those "
                f"of the two CLIP encoders have {pooled} in total (projection_dim)"
            )
        lengths = [text.max_position_embeddings for text in (first, second)]
        if lengths[0] != lengths[1]:
            raise ValueError(
                f"{where}: the CLIP encoders must read equally many tokens, got "
                f"{lengths[0]} and {lengths[1]} (max_position_embeddings)"
            )
        return latent_image_size(where, network, vae)

    def check_latent_size(self, network: Any, size: tuple[int, int]) -> None:
        """Raise ValueError unless the table of positions covers a latent."""
        config = network.config
        config.check_latent((*size, config.in_channels))

    def num_tokens(self, network: Any, size: tuple[int, int]) -> int:
        """Return the number of patches of a latent of a (height, width)."""
        rows, columns = (each // network.config.patch_size for each in size)
        return rows * columns

    def encode(
        self, pipe: "Pipeline", prompt: str, *, negative: bool, **options: Any
    ) -> SD3Condition:
        """Return the vectors of all encoders, and the pooled one."""
        for name, value in options.items():
            check_field(name, value, _OPTIONS[name])
        prefix = "negative_" if negative else ""
        texts = [prompt] + [
            options.get(f"{prefix}prompt_{n}") or prompt for n in (2, 3)
        ]
        outputs = _clip_outputs(pipe, texts)
        clip = jnp.concatenate([x.penultimate_hidden_state for x in outputs], axis=-1)
        width = pipe.network.config.joint_attention_dim
        clip = jnp.pad(clip, ((0, 0), (0, width - clip.shape[-1])))
        length = options.get("max_sequence_length", self.prompt_lengths[_T5])
        text = jnp.concatenate([clip, _t5_vectors(pipe, texts[2], length, width)])
        return SD3Condition(text, jnp.concatenate([x.pooled for x in outputs]))


def _clip_outputs(pipe: "Pipeline", texts: Sequence[str]) -> list[CLIPTextOutput]:
    """Return the outputs of both CLIP encoders, which have equally many vectors."""
    outputs = [
        encode_text(pipe.text_encoders[i], pipe.tokenize(texts[i], i))
        for i in range(len(_CLIPS))
    ]
    lengths = [len(output.last_hidden_state) for output in outputs]
    if lengths[0] != lengths[1]:
        raise ValueError(
            f"the CLIP tokenizers of {pipe.name} must give equally many tokens, got "
            f"{lengths[0]} and {lengths[1]} (model_max_length)"
        )
    return outputs


def _t5_vectors(
    pipe: "Pipeline", prompt: str, length: int, width: int
) -> Float[Array, "l d"]:
    """Return T5's vectors of a prompt; zeros for a model without T5."""
    encoder = pipe.text_encoders[2]
    if encoder is None or length == 0:
        return jnp.zeros((length, width), pipe.network.dtype)
    return encode_tokens(encoder, pipe.tokenize(prompt, 2, length))
