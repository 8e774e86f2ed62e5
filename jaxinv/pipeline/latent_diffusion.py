r"""A latent diffusion model: autoencoder, text encoder, tokenizer, UNet and schedule.

The diffusion runs on latents, which the autoencoder makes of images
(:mod:`jaxinv.pipeline.latents`). This module joins the parts and nothing else. What it
hands to samplers and inverses is a denoiser, a callable pytree ``(z, t) -> f`` with the
prompt filled in; the numerical core knows nothing of prompts, and nothing of
autoencoders.

As everywhere here, each function takes one sample, channels last. The pipeline is a
pytree whose leaves are the parameters: pass it through ``jax.jit``, ``jax.vmap`` its
methods.

References:
    Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models",
    arXiv:2112.10752.
"""

import dataclasses
import math
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinv.checks import checked
from jaxinv.decoder_inversion import DecoderInversion, Method, invert_decoder
from jaxinv.diffusion.denoiser import Denoiser, as_denoiser, conditioned, guided
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.inversion import InversionResult, invert
from jaxinv.models import CLIPTextModel, UNet2DConditionModel
from jaxinv.pipeline.conditions import Condition, PromptedModel, as_pipelines_do
from jaxinv.pipeline.latents import (
    Autoencoder,
    Image,
    batch_hint,
    check_image,
    decode,
    encode,
)
from jaxinv.samplers.table import LinearMultistep
from jaxinv.sampling.sample import sample
from jaxinv.sampling.state import SamplerState

TextVectors = Float[Array, "l d"]


class ImageInversion(NamedTuple):
    """The noise of an image, with a certificate for each half of the way.

    Attributes:
        decoder: image to latent.
        sampler: latent to noise.
    """

    decoder: DecoderInversion
    sampler: InversionResult

    @property
    def noise(self) -> Float[Array, "h w c"]:
        """The noise."""
        return self.sampler.noise

    @property
    def state(self) -> Float[Array, "h w c"] | SamplerState:
        """What :meth:`LatentDiffusion.generate` makes the image from again."""
        return self.sampler.state


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LatentDiffusion:
    """A text-to-image latent diffusion model; made by :func:`jaxinv.load`.

    Attributes:
        unet: predicts noise (or velocity, or data) from ``(z, t, text vectors)``.
        vae: the autoencoder.
        text_encoder: turns token ids into text vectors.
        tokenizer: turns a prompt into token ids; any callable with the interface of
            transformers' tokenizers (static).
        schedule: noise levels and prediction type (static).
        image_size: (height, width) that the model was trained on, pixels (static).
        name: where the model came from, for reports (static).
    """

    unet: UNet2DConditionModel
    vae: Autoencoder
    text_encoder: CLIPTextModel
    tokenizer: Any = dataclasses.field(metadata={"static": True})
    schedule: NoiseSchedule = dataclasses.field(metadata={"static": True})
    image_size: tuple[int, int] = dataclasses.field(metadata={"static": True})
    name: str = dataclasses.field(metadata={"static": True})

    def __repr__(self) -> str:
        """Return its name, sizes and number of parameters."""
        count = sum(math.prod(getattr(x, "shape", ())) for x in jax.tree.leaves(self))
        height, width = self.image_size
        return (
            f"LatentDiffusion: {self.name}, {width}x{height} pixels, latents "
            f"{self.latent_shape}, {count / 1e6:.3g} million parameters"
        )

    @property
    def factor(self) -> int:
        """Image height over latent height, and the same for the widths."""
        return self.vae.config.downsampling_factor

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (h, w, c) of the latent of an image of ``image_size``."""
        height, width = self.image_size
        channels = self.vae.config.latent_channels
        return height // self.factor, width // self.factor, channels

    @checked
    def encode(self, image: Image) -> Float[Array, "h w c"]:
        """Turns an image into the latent that the diffusion runs on.

        The latent is the mean of the encoder's posterior: the same image always gives
        the same latent.

        Args:
            image: (h, w, 3), floats in [0, 1] or ``uint8``. Any height and width that
                are multiples of ``factor``; the model knows ``image_size`` best.

        Returns:
            The latent (h / factor, w / factor, c), shifted and scaled.

        Raises:
            ValueError: If the image has another shape, dtype, range, or NaNs. Under
                ``jax.jit`` and ``jax.vmap`` only shape and dtype are known and checked.
        """
        check_image(image, self.factor)
        return encode(self.vae, image)

    @checked
    def decode(self, latent: Float[Array, "h w c"]) -> Float[Array, "fh fw 3"]:
        """Turns a latent into an image, clipped to [0, 1].

        Args:
            latent: (h, w, c), as :meth:`encode` and sampling give it.

        Returns:
            The image (factor h, factor w, 3). Autoencoders overshoot black and white a
            little; see :meth:`decode_unclipped` for what they say.

        Raises:
            ValueError: If the latent has another shape or dtype.
        """
        return jnp.clip(self.decode_unclipped(latent), 0, 1)

    @checked
    def decode_unclipped(
        self, latent: Float[Array, "h w c"]
    ) -> Float[Array, "fh fw 3"]:
        """Turns a latent into an image without clipping: smooth, so differentiable.

        Args:
            latent: (h, w, c), as :meth:`encode` and sampling give it.

        Returns:
            The image (factor h, factor w, 3), mostly within [0, 1].

        Raises:
            ValueError: If the latent has another shape or dtype.
        """
        channels = self.vae.config.latent_channels
        shape, dtype = jnp.shape(latent), jnp.result_type(latent)
        if len(shape) != 3 or shape[-1] != channels:
            raise ValueError(
                f"expected one latent of shape (h, w, {channels}), got {shape}"
                + batch_hint(shape)
            )
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f"expected a latent of floats, got {dtype}")
        return decode(self.vae, latent)

    @checked
    def invert_decoder(
        self, image: Image, method: str | Method = "anderson", **options: Any
    ) -> DecoderInversion:
        """Finds the latent that decodes to an image; more than encoding it.

        Args:
            image: As for :meth:`encode`.
            method: Name or value; see :func:`jaxinv.invert_decoder`.
            **options: As of :func:`jaxinv.invert_decoder`.

        Returns:
            The latent with its certificate.

        Raises:
            ValueError: As :meth:`encode` and :func:`jaxinv.invert_decoder`.
        """
        check_image(image, self.factor)
        return invert_decoder(
            jax.tree_util.Partial(encode, self.vae),
            jax.tree_util.Partial(decode, self.vae),
            image,
            method,
            **options,
        )

    @checked
    def invert(
        self,
        image: Image,
        sampler: LinearMultistep,
        denoise: Denoiser,
        *,
        decoder: str | Method = "anderson",
        **options: Any,
    ) -> ImageInversion:
        """Finds the noise of an image: decoder inversion, then sampler inversion.

        Args:
            image: As for :meth:`encode`.
            sampler: The sampler that the image was made with, or is to be made with.
            denoise: From :meth:`denoiser`.
            decoder: How the decoder is inverted; ``"encoder"`` for the encoder alone.
            **options: As of :func:`jaxinv.invert`.

        Returns:
            The noise with both certificates.

        Raises:
            ValueError: As :meth:`invert_decoder` and :func:`jaxinv.invert`.
        """
        latent = self.invert_decoder(image, decoder)
        return ImageInversion(
            latent, invert(sampler, denoise, latent.latent, **options)
        )

    @checked
    def generate(
        self,
        sampler: LinearMultistep,
        denoise: Denoiser,
        noise: Float[Array, "h w c"] | SamplerState,
    ) -> Float[Array, "fh fw 3"]:
        """Makes an image from noise: the way back of :meth:`invert`.

        Args:
            sampler: The sampler.
            denoise: From :meth:`denoiser`.
            noise: Noise of ``latent_shape``, or ``state`` of an inversion.

        Returns:
            The image, clipped to [0, 1].

        Raises:
            ValueError: As :func:`jaxinv.sample`.
        """
        return self.decode(sample(sampler, denoise, noise))

    @checked
    def tokenize(self, prompt: str) -> Int[np.ndarray, " l"]:
        """Turns a prompt into token ids, padded to the text encoder's length.

        Args:
            prompt: The text. What does not fit is cut off, with a warning.

        Returns:
            The ids, int32.

        Raises:
            ValueError: If the prompt is not a string.
        """
        longest = self.text_encoder.config.max_position_embeddings
        length = min(longest, self.tokenizer.model_max_length)
        ids = self.tokenizer(
            prompt, padding="max_length", max_length=length, truncation=True
        )["input_ids"]
        needed = len(self.tokenizer(prompt)["input_ids"])
        if needed > length:
            warnings.warn(
                f"the prompt has {needed} tokens and the text encoder reads {length}: "
                "the rest has no effect",
                stacklevel=2,
            )
        return np.asarray(ids, np.int32)

    @checked
    def encode_prompt(self, prompt: str) -> TextVectors:
        """Turns a prompt into the vectors that the UNet attends to.

        Args:
            prompt: The text; the empty string stands for "no prompt".

        Returns:
            One vector per token, (l, d).

        Raises:
            ValueError: If the prompt is not a string.
        """
        return _encode_prompt(self.text_encoder, self.tokenize(prompt))

    @checked
    def denoiser(
        self,
        prompt: str | TextVectors,
        negative_prompt: str | TextVectors = "",
        guidance_scale: float | Float[Array, ""] = 1.0,
    ) -> Denoiser:
        """The model with a prompt filled in: what samplers and inverses take.

        Args:
            prompt: The text, or what :meth:`encode_prompt` made of it.
            negative_prompt: What guidance pushes away from, likewise.
            guidance_scale: Weight s of classifier-free guidance, one number. As in
                diffusers' pipelines, at most 1 is no guidance, and the prompt counts:
                the conditional model alone, evaluated once per call. Above 1 (and
                where a caller's ``jax.jit`` or ``jax.vmap`` hides the number) there are
                two evaluations, in one batched call. The formula without this rule,
                unconditional at 0, is :func:`jaxinv.guided`.

        Returns:
            A callable pytree ``(z, t) -> f``. Neither text nor scale is part of the
            compiled program: changing them does not compile again.

        Raises:
            ValueError: If a prompt is neither text nor an array of its shape, or the
                scale is not one finite number.
        """
        scale = _one_scale(guidance_scale)
        if isinstance(scale, float) and scale <= 1:
            model: Denoiser = conditioned(self.unet, self._vectors(prompt))
        else:
            condition = self.condition(prompt, negative_prompt, scale)
            model = guided(self.unet, *condition)
        return as_denoiser(model, self.schedule)

    @checked
    def conditional_denoiser(self, *, guided: bool = True) -> PromptedModel:
        """The model with its prompt as an argument: what batches take.

        Args:
            guided: Whether any condition has a guidance scale above 1. If not, only the
                prompt of a condition counts, and the model is evaluated once per call,
                not twice.

        Returns:
            A callable pytree ``(z, t, condition) -> f``; see :meth:`condition`. Each
            sample whose scale is at most 1 gets the conditional model alone.
        """
        return PromptedModel(self.unet, self.schedule, guided)

    @checked
    def condition(
        self,
        prompt: str | TextVectors,
        negative_prompt: str | TextVectors = "",
        guidance_scale: float | Float[Array, ""] = 1.0,
    ) -> Condition:
        """What differs from sample to sample; stack them with ``jax.tree.map``.

        Args:
            prompt: As of :meth:`denoiser`.
            negative_prompt: Likewise.
            guidance_scale: As of :meth:`denoiser`: at most 1 is no guidance, and the
                prompt counts.

        Returns:
            The condition of one sample. Without guidance its scale is 1 and its
            negative prompt is the prompt.

        Raises:
            ValueError: As :meth:`denoiser`.
        """
        scale = _one_scale(guidance_scale)
        condition = Condition(
            self._vectors(prompt),
            self._vectors(negative_prompt),
            jnp.asarray(scale, float),
        )
        return as_pipelines_do(condition)

    def _vectors(self, prompt: str | TextVectors) -> TextVectors:
        if isinstance(prompt, str):
            return self.encode_prompt(prompt)
        if not isinstance(prompt, jax.Array | np.ndarray) or np.ndim(prompt) != 2:
            raise ValueError(
                "a prompt must be a string, or an array (l, d) from encode_prompt(); "
                f"got {type(prompt).__name__}"
                + (f" of shape {prompt.shape}" if hasattr(prompt, "shape") else "")
            )
        return jnp.asarray(prompt)


@jax.jit
def _encode_prompt(text_encoder: CLIPTextModel, ids: Int[Array, " l"]) -> TextVectors:
    return text_encoder(ids).last_hidden_state


def _one_scale(guidance_scale: Any) -> Any:
    """Return the number, or what a caller's jit will make a number of."""
    if np.ndim(guidance_scale) != 0:
        raise ValueError(
            "guidance_scale must be one number, got an array of shape "
            f"{np.shape(guidance_scale)}; for one per sample, use jax.vmap"
        )
    if isinstance(guidance_scale, jax.core.Tracer):
        return guidance_scale
    scale = float(guidance_scale)
    if not math.isfinite(scale):
        raise ValueError(f"guidance_scale must be finite, got {scale}")
    return scale
