r"""A diffusion model: its network, with what makes its condition and its data.

Text encoders turn prompts into the network's condition
(:mod:`jaxinv.pipeline.families`), and an autoencoder maps images to the latents on
which the diffusion runs (:mod:`jaxinv.pipeline.latents`). Models of pixels have
neither. This module only joins the parts. Samplers and inverses receive a denoiser, a
callable pytree ``(z, t) -> f`` with the prompt filled in; the numerical core does not
depend on prompts or autoencoders.

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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxinv.checks import AtLeastOne, Range, checked, shown
from jaxinv.decoder_inversion import DecoderInversion, Method, invert_decoder
from jaxinv.diffusion.denoiser import (
    ConditionalModel,
    Denoiser,
    conditioned,
    guided,
)
from jaxinv.diffusion.diffusers_config import read_scheduler_config
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.inversion import InversionResult, invert
from jaxinv.models import ControlledUNet, ControlNetModel
from jaxinv.pipeline.conditions import (
    Condition,
    PromptedModel,
    as_in_diffusers,
    with_negative,
)
from jaxinv.pipeline.families.controlnet import check_controlnet, controlled_family
from jaxinv.pipeline.families.family import Family
from jaxinv.pipeline.latents import (
    Autoencoder,
    Image,
    check_image,
    check_latent,
    check_size,
    decode,
    encode,
)
from jaxinv.pipeline.scheduler import pipeline_request, pipeline_sampler
from jaxinv.pipeline.text import num_chunks, token_ids
from jaxinv.samplers.table import SamplerTable
from jaxinv.sampling.sample import sample
from jaxinv.sampling.state import SamplerState

#: A prompt as text, or as what ``encode_prompt`` returns.
Prompt: TypeAlias = str | PyTree


class ImageInversion(NamedTuple):
    """The noise of an image, with a certificate for each of the two inversions.

    Attributes:
        decoder: Inversion of the decoder, from image to latent.
        sampler: Inversion of the sampler, from latent to noise.
    """

    decoder: DecoderInversion
    sampler: InversionResult

    @property
    def noise(self) -> Float[Array, "*f h w c"]:
        """The noise."""
        return self.sampler.noise

    @property
    def state(self) -> Float[Array, "*f h w c"] | SamplerState:
        """Noise or state, for :meth:`Pipeline.generate` to make the image."""
        return self.sampler.state


class MergedLora(NamedTuple):
    """Record of a LoRA file that was added to a model's parameters.

    Attributes:
        file: The file's name.
        sha256: Digest of the file, hexadecimal.
        scale: The scale with which it was added.
    """

    file: str
    sha256: str
    scale: float


class AddedWord(NamedTuple):
    """Record of a word that textual inversion added to a model's vocabulary.

    Attributes:
        token: The word.
        sha256: Digest of its file, hexadecimal.
    """

    token: str
    sha256: str


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Pipeline:
    """A diffusion model with its encoders; made by :func:`jaxinv.load`.

    Attributes:
        network: Map from ``(z, t, condition)`` to noise (or velocity, or data).
        vae: The autoencoder; None for models of pixels.
        text_encoders: Maps from token ids to text vectors.
        tokenizers: For each text encoder, a map from a prompt to token ids: any
            callable with the interface of transformers' tokenizers (static).
        family: What the condition consists of (static).
        schedule: Noise levels and prediction type (static).
        image_size: (height, width) of the images in pixels (static): those of training,
            or of :meth:`at_size`.
        name: Origin of the model, for reports (static).
        scheduler: The JSON text of the model's ``scheduler_config.json`` (static).
        pipeline: Class of the diffusers pipeline that the folder names (static).
        flags: Options of the folder's ``model_index.json`` that are on (static).
        frames: Number of frames of a video (static); None for images.
        chunks: Number of chunks that a prompt is read in (static); see
            :meth:`with_chunks`.
        lora: The LoRA files in the parameters, from :func:`jaxinv.merge_lora` (static).
        words: The words of textual inversion in the vocabulary, from
            :func:`jaxinv.add_textual_inversion` (static).
    """

    network: Any
    vae: Autoencoder | None
    text_encoders: tuple[Any, ...]
    tokenizers: tuple[Any, ...] = dataclasses.field(metadata={"static": True})
    family: Family = dataclasses.field(metadata={"static": True})
    schedule: NoiseSchedule = dataclasses.field(metadata={"static": True})
    image_size: tuple[int, int] = dataclasses.field(metadata={"static": True})
    name: str = dataclasses.field(metadata={"static": True})
    scheduler: str = dataclasses.field(default="{}", metadata={"static": True})
    pipeline: str = dataclasses.field(
        default="StableDiffusionPipeline", metadata={"static": True}
    )
    flags: frozenset[str] = dataclasses.field(
        default=frozenset(), metadata={"static": True}
    )
    frames: int | None = dataclasses.field(default=None, metadata={"static": True})
    chunks: int = dataclasses.field(default=1, metadata={"static": True})
    lora: tuple[MergedLora, ...] = dataclasses.field(
        default=(), metadata={"static": True}
    )
    words: tuple[AddedWord, ...] = dataclasses.field(
        default=(), metadata={"static": True}
    )

    def __repr__(self) -> str:
        """Return the model's name, sizes and number of parameters."""
        count = sum(math.prod(getattr(x, "shape", ())) for x in jax.tree.leaves(self))
        height, width = self.image_size
        return (
            f"Pipeline: {self.name} ({self.family}), {width}x{height} pixels, latents "
            f"{self.latent_shape}, {count / 1e6:.3g} million parameters"
        )

    @property
    def factor(self) -> int:
        """Ratio of image height to latent height, and of the widths."""
        return 1 if self.vae is None else self.vae.config.downsampling_factor

    @property
    def latent_channels(self) -> int:
        """Number of channels of latents."""
        if self.vae is not None:
            return self.vae.config.latent_channels
        return self.network.config.in_channels

    @property
    def image_channels(self) -> int:
        """Number of channels of images."""
        return self.latent_channels if self.vae is None else 3

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape (h, w, c) of the latent of an image of ``image_size``.

        That of a video of ``frames`` frames is (f, h, w, c).
        """
        return self.latent_shape_of(self.image_size)

    def latent_shape_of(self, image_size: tuple[int, int]) -> tuple[int, ...]:
        """Return the shape of the latent of an image or video of another size."""
        rows, columns = (each // self.factor for each in image_size)
        frames = () if self.frames is None else (self.frames,)
        return *frames, rows, columns, self.latent_channels

    @checked
    def at_size(self, image_size: tuple[int, int]) -> "Pipeline":
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
    def at_frames(self, frames: AtLeastOne) -> "Pipeline":
        """Return this model for videos of another number of frames.

        Args:
            frames: Number of frames; 16 by default, as in training.

        Returns:
            The model with another ``frames``, and so another ``latent_shape``.

        Raises:
            ValueError: If the model makes images, or its network takes fewer frames.

        Example:
            ::

                pipe = ji.load("animatediff").at_frames(24).at_size((384, 512))
        """
        self.family.check_frames(self.network, frames)
        return dataclasses.replace(self, frames=frames)

    @checked
    def with_controlnet(
        self, controlnets: ControlNetModel | Sequence[ControlNetModel]
    ) -> "Pipeline":
        """Return this model with ControlNets.

        Their control images are arguments of :meth:`denoiser`; see
        :mod:`jaxinv.pipeline.families.controlnet`. :func:`jaxinv.load` has them as an
        option, ``controlnet``.

        Args:
            controlnets: One or several, from :func:`weights_convert.load_component`,
                in place of those that the model has.

        Returns:
            The model with another network and family.

        Raises:
            ValueError: If there is none, if one does not fit the model, or if
                ControlNets of such a model are not implemented.
        """
        family = controlled_family(self.family)
        single = isinstance(controlnets, ControlNetModel)
        nets: Any = [controlnets] if single else controlnets
        if not nets:
            raise ValueError("controlnets must name at least one ControlNet")
        unet = self.network
        unet = unet.unet if isinstance(unet, ControlledUNet) else unet
        vae = self.vae.config if self.vae is not None else None
        for each in nets:
            check_controlnet("", unet.config, vae, each.config)
        network = ControlledUNet(unet, nets)
        return dataclasses.replace(self, network=network, family=family)

    @checked
    def with_chunks(self, chunks: Annotated[int, Range(1, 64)]) -> "Pipeline":
        """Return this model with longer prompts.

        A text encoder reads so many tokens, usually 77. In n chunks it reads n times as
        many, and the network attends to n times as many vectors: all prompts and
        negative prompts of the model then have the same length. Models were trained on
        one chunk.

        Args:
            chunks: Number of chunks; see :meth:`num_chunks`.

        Returns:
            The model with other ``chunks``.

        Raises:
            ValueError: If the number is not from 1 to 64, or if the model has no text
                encoder.

        Example:
            >>> import jaxinv as ji
            >>> pipe = ji.load("emoji64")
            >>> prompt = " ".join(["red", "cat"] * 20)
            >>> pipe.with_chunks(pipe.num_chunks(prompt)).tokenize(prompt).shape
            (48,)
        """
        if not self.text_encoders:
            raise ValueError(f"{self.name} has no text encoder, and so no prompts")
        return dataclasses.replace(self, chunks=chunks)

    @checked
    def num_chunks(self, prompt: str) -> int:
        """Return the number of chunks in which a prompt is read whole.

        Args:
            prompt: The text.

        Returns:
            The least number for :meth:`with_chunks`; 1 without text encoder.

        Raises:
            ValueError: If the prompt is not a string.
        """
        lengths = [each.config.max_position_embeddings for each in self.text_encoders]
        pairs = zip(self.tokenizers, lengths, strict=True)
        return max((num_chunks(*pair, prompt) for pair in pairs), default=1)

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
        *_, rows, columns, _ = pipe.latent_shape
        request = pipeline_request(
            self.pipeline, config, num_steps, (rows, columns), request
        )
        return pipeline_sampler(self.schedule, config, num_steps, request)

    @checked
    def encode(self, image: Image) -> Float[Array, "*f h w c"]:
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
        check_image(image, self.factor, self.image_channels, self.frames)
        return encode(self.vae, image)

    @checked
    def decode(self, latent: Float[Array, "*f h w c"]) -> Float[Array, "*f H W k"]:
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
        self, latent: Float[Array, "*f h w c"]
    ) -> Float[Array, "*f H W k"]:
        """Decode a latent to an image without clipping, which is differentiable.

        Args:
            latent: A latent (h, w, c) from :meth:`encode` or sampling.

        Returns:
            The image (factor h, factor w, 3), mostly within [0, 1].

        Raises:
            ValueError: If the latent has another shape or dtype.
        """
        check_latent(latent, self.latent_channels, self.frames)
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
        check_image(image, self.factor, self.image_channels, self.frames)
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
        noise: Float[Array, "*f h w c"] | SamplerState,
    ) -> Float[Array, "*f H W k"]:
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
    def tokenize(self, prompt: str, encoder: int = 0) -> Int[np.ndarray, " l"]:
        """Convert a prompt to token ids, padded to a text encoder's length.

        Args:
            prompt: The text. A text that is too long is cut, with a warning.
            encoder: Number of the text encoder, from 0.

        Returns:
            The ids, int32; those of all ``chunks`` in order.

        Raises:
            ValueError: If the prompt is not a string, or the model has no such text
                encoder.
        """
        if not 0 <= encoder < len(self.text_encoders):
            raise ValueError(
                f"{self.name} has {len(self.text_encoders)} text encoders, and none of "
                f"number {encoder}"
            )
        longest = self.text_encoders[encoder].config.max_position_embeddings
        return token_ids(self.tokenizers[encoder], longest, prompt, self.chunks)

    @checked
    def encode_prompt(
        self, prompt: str, *, negative: bool = False, **options: Any
    ) -> PyTree:
        """Convert a prompt to what the network takes as its condition.

        Args:
            prompt: The text; the empty string means "no prompt".
            negative: Whether it is a negative prompt. Some models encode an empty one
                as zeros.
            **options: Options of the family, such as SDXL's ``target_size``.

        Returns:
            One vector per token, (l, d), or a pytree with more than that.

        Raises:
            ValueError: If the prompt is not a string, or if an option is not one of the
                family's.
        """
        self.family.check_options(options)
        return self.family.encode(self, prompt, negative=negative, **options)

    @checked
    def denoiser(
        self,
        prompt: Prompt | None = None,
        negative_prompt: Prompt = "",
        guidance_scale: float | Float[Array, ""] = 1.0,
        **options: Any,
    ) -> Denoiser:
        """Return the model with a prompt filled in, for samplers and inverses.

        Args:
            prompt: The text, or its encoding from :meth:`encode_prompt`. Models without
                a text encoder take none.
            negative_prompt: The same for the prompt from which guidance pushes away.
            guidance_scale: Weight s of classifier-free guidance, one number. As in
                diffusers' pipelines, a scale of at most 1 gives the conditional model,
                evaluated once per call. Above 1 (and if a caller's ``jax.jit`` or
                ``jax.vmap`` hides the number) there are two evaluations, in one batched
                call. :func:`jaxinv.guided` is the formula without this rule, which
                gives the unconditional model at 0.
            **options: Options of :meth:`encode_prompt`, for both prompts as texts.

        Returns:
            A callable pytree ``(z, t) -> f``. Neither text nor scale is part of the
            compiled program: changing them does not compile again.

        Raises:
            ValueError: If a prompt is neither text nor an encoding, if it is missing,
                if the scale is not one finite number, or if an option is not one of the
                family's.
        """
        found = self._condition(prompt, negative_prompt, guidance_scale, options)
        if found.negative_prompt is None:
            model: Denoiser = conditioned(self.network, found.prompt)
        else:
            model = guided(self.network, *as_in_diffusers(found))
        return self.family.denoiser(self, model)  # type: ignore[return-value]

    @checked
    def conditional_denoiser(self, *, guided: bool = True) -> ConditionalModel:
        """Return the model with its condition as an argument, for batches.

        Args:
            guided: Whether any condition has a guidance scale above 1. If not, only the
                prompt of a condition has an effect, and the model is evaluated once per
                call instead of twice.

        Returns:
            A callable pytree ``(z, t, condition) -> f``; see :meth:`condition`. Samples
            with a scale of at most 1 use the conditional model alone.
        """
        guided = guided and self.family.has_negative(self)
        model = PromptedModel(self.network, guided)
        return self.family.denoiser(self, model)  # type: ignore[return-value]

    @checked
    def condition(
        self,
        prompt: Prompt | None = None,
        negative_prompt: Prompt = "",
        guidance_scale: float | Float[Array, ""] = 1.0,
        **options: Any,
    ) -> Condition:
        """Return the condition of one sample; stack conditions with ``jax.tree.map``.

        Args:
            prompt: See :meth:`denoiser`.
            negative_prompt: See :meth:`denoiser`.
            guidance_scale: See :meth:`denoiser`.
            **options: See :meth:`denoiser`.

        Returns:
            The condition of one sample. Without guidance its scale is 1 and its
            negative prompt is the prompt.

        Raises:
            ValueError: If :meth:`denoiser` raises it.
        """
        found = self._condition(prompt, negative_prompt, guidance_scale, options)
        return as_in_diffusers(with_negative(found))

    def _condition(
        self, prompt: Any, negative_prompt: Any, guidance_scale: Any, options: Any
    ) -> Condition:
        """Return a condition as the family makes it; see :meth:`Family.condition`."""
        scale = _one_scale(guidance_scale)
        self.family.check_options(options)
        alone = not self.family.has_negative(self)
        alone |= isinstance(scale, float) and scale <= 1
        if not self.family.guidable and isinstance(scale, float) and scale > 1:
            raise ValueError(
                f"{self.family} has no classifier-free guidance: guidance_scale must "
                f"be at most 1, got {scale}"
            )
        for given, kind in ((prompt, ""), (negative_prompt, "negative_")):
            lost = [name for name in options if name.startswith(kind)]
            if lost and not isinstance(given, str | None):
                raise ValueError(
                    f"{', '.join(lost)} would have no effect on a prompt that is "
                    "encoded already: pass options to encode_prompt"
                )
        empty = negative_prompt is None or isinstance(negative_prompt, str)
        if not self.family.guidable and not (empty and not negative_prompt):
            raise ValueError(
                f"{self.family} has no classifier-free guidance, and so no negative "
                f"prompt, got {shown(negative_prompt)}"
            )
        positive = self._encoded(prompt, False, options)
        negative = None if alone else self._encoded(negative_prompt, True, options)
        return self.family.condition(self, positive, negative, scale)

    def _encoded(
        self, prompt: Any, negative: bool, options: Mapping[str, Any]
    ) -> PyTree:
        if prompt is None and self.text_encoders:
            raise ValueError(
                f"a prompt must be given to {self.name}; '' is the empty one"
            )
        if prompt is None or isinstance(prompt, str):
            return self.family.encode(self, prompt or "", negative=negative, **options)
        leaves = jax.tree.leaves(prompt)
        if not leaves or not all(isinstance(x, jax.Array | np.ndarray) for x in leaves):
            raise ValueError(
                "a prompt must be a string, or what encode_prompt() returns; got "
                f"{type(prompt).__name__}"
            )
        if self.text_encoders and np.ndim(leaves[0]) != 2:
            raise ValueError(
                "a prompt must be a string, or what encode_prompt() returns, with "
                f"vectors (l, d); got {type(prompt).__name__} of shape "
                f"{leaves[0].shape}"
            )
        return jax.tree.map(jnp.asarray, prompt)


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
