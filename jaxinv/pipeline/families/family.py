"""What distinguishes one family of models from another.

All families share :class:`jaxinv.Pipeline`. A family states the parts that it has in a
``model_index.json``, checks that their configurations fit, and turns prompts into what
its network takes as its condition.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import PyTree

from jaxinv.checks import shown
from jaxinv.diffusion.denoiser import ConditionalModel, Denoiser, as_denoiser
from jaxinv.diffusion.diffusers_schedule import schedule_from_diffusers
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.models.registry import Component
from jaxinv.pipeline.conditions import Condition

if TYPE_CHECKING:
    from jaxinv.pipeline.pipeline import Pipeline

#: Latent pixels along each side of a token of SD3's and FLUX's pipelines.
PATCH_SIZE = 2


class Family:
    """A family of models; instances have no state, and all of a class are equal.

    Attributes:
        name: The family's name, for messages.
        parts: The parts of a ``model_index.json`` that a model must have, and the
            implemented classes of each. Those of the scheduler are checked by
            :func:`jaxinv.schedule_from_diffusers`.
        optional: Parts that a folder may do without: ``null`` in its
            ``model_index.json``. A text encoder that is absent needs no tokenizer.
        pipelines: Classes of the diffusers pipelines that alone are of this family;
            empty if the parts say it.
        scheduler: The scheduler's configuration, for families whose folders name
            another one; None for the folder's.
        unused: Further parts that a folder of this family may name and that are not
            read.
        flags: Options of ``model_index.json`` that the family reads, with the values
            that count where there is none.
        refused: Options of ``model_index.json`` that models of the family do not have,
            with what they say of a model.
        text_encoders: The parts that encode prompts, each with its tokenizer's part.
        prompt_lengths: For text encoders that read any number of tokens (T5), the
            default number, to which prompts are padded or cut. Prompts of such a family
            are never read in chunks.
        sized_prompts: Whether what ``encode`` returns depends on the image size.
        encoding: Class of what ``encode`` returns, and so of prompts that are encoded
            already; None if there are several.
        options: Names of the further arguments of :meth:`jaxinv.Pipeline.denoiser`.
        scale_option: The option that is the scale of classifier-free guidance, for
            models to whose networks ``guidance_scale`` is an input (FLUX).
        guidable: Whether there is a negative prompt, and so classifier-free guidance.
    """

    name: ClassVar[str]
    parts: ClassVar[Mapping[str, tuple[str, ...]]]
    optional: ClassVar[tuple[str, ...]] = ()
    pipelines: ClassVar[tuple[str, ...]] = ()
    scheduler: ClassVar[Mapping[str, Any] | None] = None
    unused: ClassVar[tuple[str, ...]] = ()
    flags: ClassVar[Mapping[str, bool]] = {}
    refused: ClassVar[Mapping[str, str]] = {}
    text_encoders: ClassVar[Mapping[str, str]] = {}
    prompt_lengths: ClassVar[Mapping[str, int]] = {}
    sized_prompts: ClassVar[bool] = False
    encoding: ClassVar[type | None] = None
    options: ClassVar[frozenset[str]] = frozenset()
    scale_option: ClassVar[str | None] = None
    guidable: ClassVar[bool] = True

    def __eq__(self, other: object) -> bool:
        """Return whether two families are the same, for ``jax.jit``."""
        return type(self) is type(other)

    def __hash__(self) -> int:
        """Return a hash that fits :meth:`__eq__`."""
        return hash(type(self))

    def __repr__(self) -> str:
        """Return the family's name."""
        return self.name

    @property
    def network_part(self) -> str:
        """The name of the network in diffusers' pipelines."""
        return "transformer" if "transformer" in self.parts else "unet"

    def needed(self, named: Collection[str]) -> tuple[str, ...]:
        """Return the parts that a model has, of those that its folder names.

        Args:
            named: Parts that are not ``null``.

        Returns:
            All of ``parts`` without optional ones that are not named, and without the
            tokenizers of such text encoders.
        """
        absent = {part for part in self.optional if part not in named}
        absent |= {self.text_encoders.get(part, part) for part in absent}
        return tuple(part for part in self.parts if part not in absent)

    def check(self, where: Path, configs: Mapping[str, Any]) -> tuple[int, int]:
        """Return the image size of training, if a model's parts fit one another.

        Args:
            where: The model's folder, for messages.
            configs: The configuration of each part that has weights, without optional
                ones that are absent.

        Returns:
            (height, width) in pixels.

        Raises:
            ValueError: If the parts do not fit.
        """
        raise NotImplementedError

    def schedule(self, scheduler: Mapping[str, Any]) -> NoiseSchedule:
        """Return the schedule of training, from the scheduler's configuration.

        If the shift of a flow depends on the image size, the configuration's fixed
        ``shift`` is used. A shift changes the times of a sampler, but not the process;
        :meth:`jaxinv.Pipeline.sampler` computes the shift for an image size.
        """
        if scheduler.get("use_dynamic_shifting") is True:
            scheduler = {**scheduler, "use_dynamic_shifting": False}
        return schedule_from_diffusers(scheduler)

    def has_negative(self, pipe: "Pipeline") -> bool:
        """Return whether guidance evaluates the network for a negative prompt, too."""
        return self.guidable

    def reads_negative(self, pipe: "Pipeline", guidance_scale: float) -> bool:
        """Return whether a ``guidance_scale`` makes the negative prompt count."""
        weight = self.scale_option is None and self.has_negative(pipe)
        return weight and guidance_scale > 1

    def usual_guidance(self, pipe: "Pipeline") -> float | None:
        """Return the default guidance scale; None for the caller's own default."""
        return None if self.guidable else 1.0

    def check_guidance(self, pipe: "Pipeline", scale: float) -> None:
        """Raise ValueError for a scale above 1 of a model without guidance."""
        if not self.guidable and scale > 1:
            raise ValueError(
                f"{self} has no classifier-free guidance: the guidance scale must be "
                f"at most 1, got {scale:g}"
            )

    def scheduler_config(
        self, pipeline: str, config: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Return a folder's scheduler configuration as a pipeline class reads it."""
        return config

    def network(self, parts: Mapping[str, Component]) -> Component:
        """Return the network of the diffusion, made of a model's parts."""
        return parts[self.network_part]

    def frames(self, network: Component) -> int | None:
        """Return the number of frames of a video by default; None for images."""
        return None

    def check_frames(self, network: Component, frames: int) -> None:
        """Raise ValueError unless the network takes videos of so many frames."""
        raise ValueError(f"{self.name} makes images, which have no frames")

    def check_latent_size(self, network: Component, size: tuple[int, int]) -> None:
        """Raise ValueError unless the network takes latents of a (height, width)."""

    def num_tokens(self, network: Component, size: tuple[int, int]) -> int:
        """Return the number of tokens that shift a sampler's levels (``mu``).

        Args:
            network: The network.
            size: (height, width) of a latent.
        """
        rows, columns = size
        return (rows // PATCH_SIZE) * (columns // PATCH_SIZE)

    def encode(
        self, pipe: "Pipeline", prompt: str, *, negative: bool, **options: Any
    ) -> PyTree:
        """Return what the network takes as its condition for one prompt.

        Args:
            pipe: The model.
            prompt: The text.
            negative: Whether guidance pushes away from it.
            **options: Those of ``options`` that were given.
        """
        raise NotImplementedError

    def condition(
        self,
        pipe: "Pipeline",
        prompt: PyTree,
        negative_prompt: PyTree,
        guidance_scale: Any,
    ) -> Condition:
        """Return the condition of one sample, from prompts that are encoded.

        Families whose networks take the scale as an input fill it in here. If there is
        a negative prompt, the caller fills in the scale of ``scale_option``.

        Args:
            pipe: The model.
            prompt: See :meth:`encode`.
            negative_prompt: The same, or None for no guidance.
            guidance_scale: The scale.

        Returns:
            The condition, whose ``negative_prompt`` is None for no guidance.
        """
        return Condition(prompt, negative_prompt, guidance_scale)

    def denoiser(
        self, pipe: "Pipeline", model: Denoiser | ConditionalModel
    ) -> Denoiser | ConditionalModel:
        """Return a denoiser of a network that may have its condition filled in."""
        return as_denoiser(model, pipe.schedule)

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise ValueError for options that the family does not have."""
        for name in options:
            if name not in self.options:
                own = {self.scale_option} - {None} | self.options
                known = ", ".join(sorted(map(str, own))) or "none"
                raise ValueError(
                    f"{self.name} has no option {shown(name)} (options: {known})"
                )
