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
from typing import Annotated, Any, NamedTuple

import jax

from jaxinv.checks import AtLeastOne, Range, checked
from jaxinv.diffusion.diffusers_config import read_scheduler_config
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.files.json_fields import naming
from jaxinv.models import ControlledUNet, ControlNetModel
from jaxinv.pipeline.families.controlnet import check_controlnet, controlled_family
from jaxinv.pipeline.families.family import Family
from jaxinv.pipeline.images import ImageMethods
from jaxinv.pipeline.latents import (
    Autoencoder,
    check_size,
)
from jaxinv.pipeline.prompts import PromptMethods
from jaxinv.pipeline.saved_prompts import SavedPrompts
from jaxinv.pipeline.scheduler import pipeline_request, pipeline_sampler
from jaxinv.pipeline.text import num_chunks
from jaxinv.samplers.table import SamplerTable


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
class Pipeline(ImageMethods, PromptMethods):
    """A diffusion model with its encoders; made by :func:`jaxinv.load`.

    Attributes:
        network: Map from ``(z, t, condition)`` to noise (or velocity, or data).
            Its parameters are abstract in a model that only encodes.
        vae: The autoencoder; None for models of pixels.
        text_encoders: Maps from token ids to text vectors; None for each one that the
            model does without.
        tokenizers: For each text encoder, a map from a prompt to token ids: any
            callable with the interface of transformers' tokenizers (static); None for
            each text encoder that is absent.
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
        prompts: Prompts of :func:`jaxinv.save_prompts`, which are known by their texts;
            None for none (static).
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
    prompts: SavedPrompts | None = dataclasses.field(
        default=None, metadata={"static": True}
    )

    def __repr__(self) -> str:
        """Return the model's name, sizes and number of parameters."""
        count = sum(math.prod(getattr(x, "shape", ())) for x in jax.tree.leaves(self))
        height, width = self.image_size
        return (
            f"Pipeline: {self.name} ({self.family}), {width}x{height} pixels, latents "
            f"{self.latent_shape}, {count / 1e6:.3g} million parameters"
        )

    @checked
    def at_size(self, image_size: tuple[int, int]) -> "Pipeline":
        """Return this model for images of another size.

        Networks take any size; pictures are best near the size of training.

        Args:
            image_size: (height, width) in pixels, multiples of ``factor``.

        Returns:
            The model with another ``image_size``, and so another ``latent_shape``.

        Raises:
            ValueError: If the size is not a multiple of ``factor``, or if the network
                does not take latents of that size.

        Example:
            >>> import jaxinv as ji
            >>> ji.load("emoji64").at_size((64, 96)).latent_shape
            (16, 24, 4)
        """
        check_size(image_size, self.factor)
        *_, rows, columns, _ = self.latent_shape_of(image_size)
        height, width = image_size
        with naming(f"images of {width}x{height} pixels do not fit {self.name}"):
            self.family.check_latent_size(self.network, (rows, columns))
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
        if chunks != self.chunks and self.prompts is not None:
            raise ValueError(
                "chunks would have no effect on saved prompts, which were encoded with "
                f"a number of their own, got {chunks}"
            )
        if chunks > 1 and self.family.prompt_lengths:
            raise ValueError(
                f"{self.family} reads prompts whole, up to a number of tokens: chunks "
                f"must be 1, got {chunks}"
            )
        return dataclasses.replace(self, chunks=chunks)

    @checked
    def num_chunks(self, prompt: str) -> int:
        """Return the number of chunks in which a prompt is read whole.

        Args:
            prompt: The text.

        Returns:
            The least number for :meth:`with_chunks`; 1 without text encoder, and for
            models that do not read in chunks.

        Raises:
            ValueError: If the prompt is not a string.
        """
        if self.family.prompt_lengths:
            return 1
        counts = [
            num_chunks(tokenizer, encoder.config.max_position_embeddings, prompt)
            for tokenizer, encoder in zip(
                self.tokenizers, self.text_encoders, strict=True
            )
            if encoder is not None
        ]
        return max(counts, default=1)

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
        tokens = self.family.num_tokens(self.network, (rows, columns))
        request = pipeline_request(self.pipeline, config, num_steps, tokens, request)
        return pipeline_sampler(self.schedule, config, num_steps, request)
