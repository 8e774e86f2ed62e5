"""FLUX.1 [dev] and [schnell], and every model with the same parts.

The network attends to T5's vectors of the prompt, and CLIP's pooled vector of it joins
the time. Dev was distilled with a guidance scale as an input: ``guidance_scale`` is a
number that its network is given, in one evaluation per call, and not a weight of two.
The default of :meth:`jaxinv.Pipeline.denoiser`, 1, is diffusers' ``guidance_scale=1``;
its pipeline's own default is 3.5. Schnell takes no guidance scale, and one above 1 is
refused, where diffusers ignores it.

Classifier-free guidance with a negative prompt is apart from that, as in diffusers: its
scale is ``true_cfg_scale``.

References:
    Black Forest Labs, "FLUX.1", 2024. https://github.com/black-forest-labs/flux
    diffusers 0.42, ``pipelines/flux/pipeline_flux.py``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import jax.numpy as jnp
from jaxtyping import PyTree

from jaxinv.checks import Range
from jaxinv.files.json_fields import check_field
from jaxinv.models import FluxCondition
from jaxinv.pipeline.conditions import Condition
from jaxinv.pipeline.families.family import Family
from jaxinv.pipeline.families.fit import check_classes
from jaxinv.pipeline.families.stable_diffusion import AUTOENCODERS, TOKENIZERS
from jaxinv.pipeline.text import T5_TOKENIZERS, encode_text, encode_tokens

if TYPE_CHECKING:
    from jaxinv.pipeline.pipeline import Pipeline

_CLIP, _T5 = "text_encoder", "text_encoder_2"
_OPTIONS: dict[str, Any] = {
    "prompt_2": str | None,
    "negative_prompt_2": str | None,
    "max_sequence_length": Annotated[int, Range(1, 512)],
}
# Height and width of latents in training: no configuration states it, and it is
# default_sample_size of diffusers' pipeline.
_SAMPLE_SIZE = 128
# Default of diffusers' pipeline, for dev.
_GUIDANCE = 3.5
# Purpose of networks with more than 16 latent channels.
_EXTRA_CHANNELS = {
    32: "latents and those of a control image (Canny, Depth)",
    96: "latents, a mask and those of the masked image (Fill)",
}


class Flux(Family):
    """Text-to-image flows in latents, with CLIP's pooled vector and T5.

    Options of :meth:`jaxinv.Pipeline.denoiser`, as in diffusers' pipeline:

    * ``prompt_2``, ``negative_prompt_2``: Text for T5; by default that for CLIP.
    * ``max_sequence_length``: Number of T5's tokens, 1 to 512, 512 by default.
    * ``true_cfg_scale``: Weight of classifier-free guidance with the negative prompt;
      none up to 1, the default. Above 1 the empty negative prompt counts, too, where
      diffusers ignores the scale unless a negative prompt is given.
    """

    name = "FLUX.1"
    parts: ClassVar = {
        "transformer": ("FluxTransformer2DModel",),
        "vae": AUTOENCODERS,
        _CLIP: ("CLIPTextModel",),
        _T5: ("T5EncoderModel",),
        "tokenizer": TOKENIZERS,
        "tokenizer_2": T5_TOKENIZERS,
        "scheduler": (),
    }
    optional = (_CLIP, _T5)
    text_encoders: ClassVar = {_CLIP: "tokenizer", _T5: "tokenizer_2"}
    prompt_lengths: ClassVar = {_T5: 512}
    encoding = FluxCondition
    options = frozenset(_OPTIONS)
    scale_option = "true_cfg_scale"

    def check(self, where: Path, configs: Mapping[str, Any]) -> tuple[int, int]:
        """Check channels, and sizes of text vectors and pooled vectors."""
        check_classes(where, configs, self.parts)
        network, vae = configs["transformer"], configs["vae"]
        channels = vae.latent_channels
        if network.latent_channels != (channels, channels):
            taken, made = network.latent_channels
            extra = _EXTRA_CHANNELS.get(taken, "")
            raise ValueError(
                f"{where}: the {network.class_name} maps latents of {taken} channels "
                f"(in_channels / 4){f', {extra},' if extra else ''} to {made} "
                f"(out_channels / 4), but the autoencoder's latents have {channels}, "
                "which is all that a text-to-image network takes"
            )
        for part, option, kind in (
            (_T5, "joint_attention_dim", "text vectors"),
            (_CLIP, "pooled_projection_dim", "a pooled text vector"),
        ):
            wanted = getattr(network, option)
            if part in configs and configs[part].hidden_size != wanted:
                raise ValueError(
                    f"{where}: the {network.class_name} takes {kind} of size {wanted} "
                    f"({option}), but those of the {part} have "
                    f"{configs[part].hidden_size}"
                )
        return (_SAMPLE_SIZE * vae.downsampling_factor,) * 2

    def check_latent_size(self, network: Any, size: tuple[int, int]) -> None:
        """Raise ValueError unless a latent is a whole number of tokens."""
        config = network.config
        config.check_latent((*size, config.latent_channels[0]))

    def usual_guidance(self, pipe: "Pipeline") -> float:
        """Return the default of diffusers' pipeline, or 1 for schnell."""
        return _GUIDANCE if pipe.network.config.guidance_embeds else 1.0

    def check_guidance(self, pipe: "Pipeline", scale: float) -> None:
        """Raise ValueError for a scale above 1 of a network that does not take it."""
        if scale > 1 and not pipe.network.config.guidance_embeds:
            raise ValueError(
                f"{pipe.name} was distilled without guidance (guidance_embeds is "
                f"false): the guidance scale must be at most 1, got {scale:g}; "
                f"{self.scale_option} is the scale with a negative prompt"
            )

    def encode(
        self, pipe: "Pipeline", prompt: str, *, negative: bool, **options: Any
    ) -> FluxCondition:
        """Return T5's vectors and CLIP's pooled one, without a guidance scale."""
        for name, value in options.items():
            check_field(name, value, _OPTIONS[name])
        second = options.get("negative_prompt_2" if negative else "prompt_2") or prompt
        clip, t5 = (
            pipe.tokenize(prompt, 0),
            pipe.tokenize(second, 1, options.get("max_sequence_length")),
        )
        return FluxCondition(
            encode_tokens(pipe.text_encoders[1], t5),
            encode_text(pipe.text_encoders[0], clip).pooled,
        )

    def condition(
        self,
        pipe: "Pipeline",
        prompt: PyTree,
        negative_prompt: PyTree,
        guidance_scale: Any,
    ) -> Condition:
        """Return the condition; with the scale in it where the network takes it."""

        def filled(condition: FluxCondition) -> FluxCondition:
            if condition.guidance is not None:
                raise ValueError(
                    "a prompt must come without its guidance, which guidance_scale "
                    f"replaces: pass prompt._replace(guidance=None) to {pipe.name}"
                )
            if not pipe.network.config.guidance_embeds:
                return condition._replace(guidance=None)
            return condition._replace(guidance=jnp.asarray(guidance_scale, jnp.float32))

        negative = None if negative_prompt is None else filled(negative_prompt)
        return Condition(filled(prompt), negative, jnp.ones(()))
