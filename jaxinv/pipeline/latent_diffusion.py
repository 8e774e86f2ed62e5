r"""A latent diffusion model: autoencoder, text encoder, tokenizer, UNet and schedule.

The diffusion runs on latents, to which the autoencoder maps images
(:mod:`jaxinv.pipeline.latents`). This module only joins the parts. Samplers and
inverses receive a denoiser, a callable pytree ``(z, t) -> f`` with the prompt filled
in; the numerical core does not depend on prompts or autoencoders.

As everywhere in this library, each function takes one sample, channels last. The
pipeline is a pytree whose leaves are the parameters: pass it through ``jax.jit``, and
apply ``jax.vmap`` to its methods.

References:
    Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models",
    arXiv:2112.10752.
"""

import dataclasses
import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinv.checks import AtLeastOne, checked
from jaxinv.decoder_inversion import DecoderInversion, Method, invert_decoder
from jaxinv.diffusion.denoiser import Denoiser, as_denoiser, conditioned, guided
from jaxinv.diffusion.diffusers_config import read_scheduler_config
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.inversion import InversionResult, invert
from jaxinv.models import CLIPTextModel, UNet2DConditionModel
from jaxinv.pipeline.conditions import Condition, PromptedModel, as_in_diffusers
from jaxinv.pipeline.latents import (
    Autoencoder,
    Image,
    batch_hint,
    check_image,
    check_size,
    decode,
    encode,
)
from jaxinv.pipeline.scheduler import pipeline_request, pipeline_sampler
from jaxinv.samplers.table import SamplerTable
from jaxinv.sampling.sample import sample
from jaxinv.sampling.state import SamplerState

TextVectors = Float[Array, "l d"]


class ImageInversion(NamedTuple):
    """The noise of an image, with a certificate for each of the two inversions.

    Attributes:
        decoder: Inversion of the decoder, from image to latent.
        sampler: Inversion of the sampler, from latent to noise.
    """

    decoder: DecoderInversion
    sampler: InversionResult

    @property
    def noise(self) -> Float[Array, "h w c"]:
        """The noise."""
        return self.sampler.noise

    @property
    def state(self) -> Float[Array, "h w c"] | SamplerState:
        """Noise or state, for :meth:`LatentDiffusion.generate` to make the image."""
        return self.sampler.state


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LatentDiffusion:
    """A text-to-image latent diffusion model; made by :func:`jaxinv.load`.

    Attributes:
        unet: Map from ``(z, t, text vectors)`` to noise (or velocity, or data).
        vae: The autoencoder.
        text_encoder: Map from token ids to text vectors.
        tokenizer: Map from a prompt to token ids; any callable with the interface of
            transformers' tokenizers (static).
        schedule: Noise levels and prediction type (static).
        image_size: (height, width) of the images in pixels (static): those of training,
            or of :meth:`at_size`.
        name: Origin of the model, for reports (static).
        scheduler: The JSON text of the model's ``scheduler_config.json`` (static).
        pipeline: Class of the diffusers pipeline that the folder names (static).
    """

    unet: UNet2DConditionModel
    vae: Autoencoder
    text_encoder: CLIPTextModel
    tokenizer: Any = dataclasses.field(metadata={"static": True})
    schedule: NoiseSchedule = dataclasses.field(metadata={"static": True})
    image_size: tuple[int, int] = dataclasses.field(metadata={"static": True})
    name: str = dataclasses.field(metadata={"static": True})
    scheduler: str = dataclasses.field(default="{}", metadata={"static": True})
    pipeline: str = dataclasses.field(
        default="StableDiffusionPipeline", metadata={"static": True}
    )

    def __repr__(self) -> str:
        """Return the model's name, sizes and number of parameters."""
        count = sum(math.prod(getattr(x, "shape", ())) for x in jax.tree.leaves(self))
        height, width = self.image_size
        return (
            f"LatentDiffusion: {self.name}, {width}x{height} pixels, latents "
            f"{self.latent_shape}, {count / 1e6:.3g} million parameters"
        )

    @property
    def factor(self) -> int:
        """Ratio of image height to latent height, and of the widths."""
        return self.vae.config.downsampling_factor

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (h, w, c) of the latent of an image of ``image_size``."""
        height, width = self.image_size
        channels = self.vae.config.latent_channels
        return height // self.factor, width // self.factor, channels

    @checked
    def at_size(self, image_size: tuple[int, int]) -> "LatentDiffusion":
        """Return this model for images of another size.

        Networks take any size; pictures are best near the size of training.

        Args:
            image_size: (height, width) in pixels, multiples of ``factor``.

        Returns:
            The model with another ``image_size``, and so another ``latent_shape``.

        Raises:
            ValueError: If the size is not a multiple of ``factor``.

        Example:
            >>> import jaxinv as ji
            >>> ji.load("emoji64").at_size((64, 96)).latent_shape
            (16, 24, 4)
        """
        check_size(image_size, self.factor)
        return dataclasses.replace(self, image_size=image_size)

    @checked
    def sampler(
        self,
        num_steps: AtLeastOne,
        image_size: tuple[int, int] | None = None,
        scheduler: Mapping[str, Any] | str | Path | None = None,
        **request: Any,
    ) -> SamplerTable:
        """Return the sampler whose steps a diffusers pipeline of this model takes.

        A pipeline passes more to its scheduler than the number of steps. FLUX's passes
        its own noise levels, and FLUX's and SD3's a shift ``mu`` that depends on the
        image size; this function does the same for the model's ``pipeline``.

        Args:
            num_steps: N, as passed to the pipeline.
            image_size: (height, width) of the image in pixels; by default the model's.
            scheduler: The scheduler's configuration, its file or the folder that holds
                it; by default the one in the model's own folder.
            **request: ``sigmas``, ``timesteps`` and ``mu`` in place of the pipeline's;
                see :func:`jaxinv.sampler_from_diffusers`.

        Returns:
            The table.

        Raises:
            ValueError: If :func:`jaxinv.sampler_from_diffusers` raises it; if the
                configuration describes other noise levels, or networks with another
                output, than the model's; if the size is not a multiple of ``factor``;
                or if the scheduler is a flow's and the pipeline is not known.
            FileNotFoundError: If the file does not exist.

        Example:
            >>> import warnings
            >>> import jaxinv as ji
            >>> pipe = ji.load("emoji64")
            >>> with warnings.catch_warnings(action="ignore"):
            ...     pipe.sampler(25, scheduler={"_class_name": "HeunDiscreteScheduler",
            ...         "beta_schedule": "scaled_linear", "beta_start": 0.00085,
            ...         "beta_end": 0.012})
            heun: 25 steps, order 2
        """
        given = json.loads(self.scheduler) if scheduler is None else scheduler
        config = read_scheduler_config(given)
        pipe = self if image_size is None else self.at_size(image_size)
        request = pipeline_request(
            self.pipeline, config, num_steps, pipe.latent_shape[:2], request
        )
        return pipeline_sampler(self.schedule, config, num_steps, request)

    @checked
    def encode(self, image: Image) -> Float[Array, "h w c"]:
        """Encode an image as a latent of the diffusion model.

        The latent is the mean of the encoder's posterior, and so reproducible.

        Args:
            image: (h, w, 3), floats in [0, 1] or ``uint8``. Height and width must be
                multiples of ``factor``; the model was trained on ``image_size``.

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
        """Decode a latent to an image, clipped to [0, 1].

        Args:
            latent: A latent (h, w, c) from :meth:`encode` or sampling.

        Returns:
            The image (factor h, factor w, 3). Autoencoders overshoot black and white a
            little; :meth:`decode_unclipped` returns their output unchanged.

        Raises:
            ValueError: If the latent has another shape or dtype.
        """
        return jnp.clip(self.decode_unclipped(latent), 0, 1)

    @checked
    def decode_unclipped(
        self, latent: Float[Array, "h w c"]
    ) -> Float[Array, "fh fw 3"]:
        """Decode a latent to an image without clipping, which is differentiable.

        Args:
            latent: A latent (h, w, c) from :meth:`encode` or sampling.

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
        """Find a latent whose decoding matches an image.

        Args:
            image: The image; see :meth:`encode`.
            method: Name or value; see :func:`jaxinv.invert_decoder`.
            **options: Options of :func:`jaxinv.invert_decoder`.

        Returns:
            The latent with its certificate.

        Raises:
            ValueError: If :meth:`encode` or :func:`jaxinv.invert_decoder` raises it.
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
        sampler: SamplerTable,
        denoise: Denoiser,
        *,
        decoder: str | Method = "anderson",
        **options: Any,
    ) -> ImageInversion:
        """Find the noise of an image: decoder inversion, then sampler inversion.

        Args:
            image: The image; see :meth:`encode`.
            sampler: The sampler that generated the image, or that shall reproduce it.
            denoise: The denoiser, from :meth:`denoiser`.
            decoder: Method of the decoder inversion; ``"encoder"`` for the encoder
                alone.
            **options: Options of :func:`jaxinv.invert`.

        Returns:
            The noise with both certificates.

        Raises:
            ValueError: If :meth:`invert_decoder` or :func:`jaxinv.invert` raises it.
        """
        latent = self.invert_decoder(image, decoder)
        return ImageInversion(
            latent, invert(sampler, denoise, latent.latent, **options)
        )

    @checked
    def generate(
        self,
        sampler: SamplerTable,
        denoise: Denoiser,
        noise: Float[Array, "h w c"] | SamplerState,
    ) -> Float[Array, "fh fw 3"]:
        """Generate an image from noise, the reverse of :meth:`invert`.

        Args:
            sampler: The sampler.
            denoise: The denoiser, from :meth:`denoiser`.
            noise: Noise of ``latent_shape``, or ``state`` of an inversion.

        Returns:
            The image, clipped to [0, 1].

        Raises:
            ValueError: If :func:`jaxinv.sample` raises it.
        """
        return self.decode(sample(sampler, denoise, noise))

    @checked
    def tokenize(self, prompt: str) -> Int[np.ndarray, " l"]:
        """Convert a prompt to token ids, padded to the text encoder's length.

        Args:
            prompt: The text. A text that is too long is cut, with a warning.

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
                f"the prompt has {needed} tokens, but the text encoder reads only "
                f"{length}: the rest has no effect",
                stacklevel=2,
            )
        return np.asarray(ids, np.int32)

    @checked
    def encode_prompt(self, prompt: str) -> TextVectors:
        """Convert a prompt to the vectors that the UNet attends to.

        Args:
            prompt: The text; the empty string means "no prompt".

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
        """Return the model with a prompt filled in, for samplers and inverses.

        Args:
            prompt: The text, or its vectors from :meth:`encode_prompt`.
            negative_prompt: Text or vectors from which guidance pushes away.
            guidance_scale: Weight s of classifier-free guidance, one number. As in
                diffusers' pipelines, a scale of at most 1 gives the conditional model,
                evaluated once per call. Above 1 (and if a caller's ``jax.jit`` or
                ``jax.vmap`` hides the number) there are two evaluations, in one batched
                call. :func:`jaxinv.guided` is the formula without this rule, which
                gives the unconditional model at 0.

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
        """Return the model with its prompt as an argument, for batches.

        Args:
            guided: Whether any condition has a guidance scale above 1. If not, only the
                prompt of a condition has an effect, and the model is evaluated once per
                call instead of twice.

        Returns:
            A callable pytree ``(z, t, condition) -> f``; see :meth:`condition`. Samples
            with a scale of at most 1 use the conditional model alone.
        """
        return PromptedModel(self.unet, self.schedule, guided)

    @checked
    def condition(
        self,
        prompt: str | TextVectors,
        negative_prompt: str | TextVectors = "",
        guidance_scale: float | Float[Array, ""] = 1.0,
    ) -> Condition:
        """Return the condition of one sample; stack conditions with ``jax.tree.map``.

        Args:
            prompt: See :meth:`denoiser`.
            negative_prompt: See :meth:`denoiser`.
            guidance_scale: See :meth:`denoiser`.

        Returns:
            The condition of one sample. Without guidance its scale is 1 and its
            negative prompt is the prompt.

        Raises:
            ValueError: If :meth:`denoiser` raises it.
        """
        scale = _one_scale(guidance_scale)
        condition = Condition(
            self._vectors(prompt),
            self._vectors(negative_prompt),
            jnp.asarray(scale, float),
        )
        return as_in_diffusers(condition)

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
    """Return the guidance scale as a number, or a tracer under a caller's jit."""
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
