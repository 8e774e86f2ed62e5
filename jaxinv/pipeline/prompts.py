"""Between the prompts of a pipeline and the conditions that its network takes."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxinv.checks import AtLeastOne, checked, shown
from jaxinv.diffusion.denoiser import (
    ConditionalModel,
    Denoiser,
    conditioned,
    guided,
)
from jaxinv.pipeline.conditions import (
    Condition,
    PromptedModel,
    as_in_diffusers,
    with_negative,
)
from jaxinv.pipeline.families.family import Family
from jaxinv.pipeline.saved_prompts import SavedPrompt, SavedPrompts
from jaxinv.pipeline.text import padded_ids, token_ids

if TYPE_CHECKING:
    from jaxinv.pipeline.pipeline import Pipeline

#: A prompt as text, or as what ``encode_prompt`` returns.
Prompt: TypeAlias = str | PyTree


class PromptMethods:
    """The methods of :class:`jaxinv.Pipeline` that take prompts."""

    network: Any
    text_encoders: tuple[Any, ...]
    tokenizers: tuple[Any, ...]
    family: Family
    name: str
    chunks: int
    prompts: SavedPrompts | None

    @property
    def _whole(self) -> "Pipeline":
        return self  # type: ignore[return-value]

    @property
    def present_text_encoders(self) -> dict[str, Any]:
        """The text encoders that are not None, by their names in diffusers."""
        pairs = zip(self.family.text_encoders, self.text_encoders, strict=True)
        return {part: encoder for part, encoder in pairs if encoder is not None}

    @checked
    def tokenize(
        self, prompt: str, encoder: int = 0, length: AtLeastOne | None = None
    ) -> Int[np.ndarray, " l"]:
        """Convert a prompt to token ids, padded to a text encoder's length.

        Args:
            prompt: The text. A text that is too long is cut, with a warning.
            encoder: Number of the text encoder, from 0.
            length: Number of tokens; by default that of the family's pipeline for T5,
                which reads any number, and CLIP's only one.

        Returns:
            The ids, int32; those of all ``chunks`` in order.

        Raises:
            ValueError: If the prompt is not a string, or the model has no such text
                encoder, or another length is asked of CLIP.
        """
        if not 0 <= encoder < len(self.text_encoders):
            raise ValueError(
                f"{self.name} has {len(self.text_encoders)} text encoders, and none of "
                f"number {encoder}"
            )
        part = list(self.family.text_encoders)[encoder]
        tokenizer, module = self.tokenizers[encoder], self.text_encoders[encoder]
        if module is None:
            raise ValueError(
                f"{self.name} was loaded without {part}, which would read the prompt"
            )
        if part in self.family.prompt_lengths:
            number = length or self.family.prompt_lengths[part]
            return padded_ids(tokenizer, number, prompt)
        longest = module.config.max_position_embeddings
        if length not in (None, longest):
            raise ValueError(f"{part} reads {longest} tokens, not length={length}")
        beside_t5 = bool(self.family.prompt_lengths)
        return token_ids(tokenizer, longest, prompt, self.chunks, beside_t5=beside_t5)

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
            One vector per token, (l, d), or a pytree with more than that. Without text
            encoders, the encoding of that text among the saved ``prompts``.

        Raises:
            ValueError: If the prompt is not a string, or if an option is not one of the
                family's; or if the model has no text encoder, and no such prompt among
                the saved ones.
        """
        self.family.check_options(options)
        if self.text_encoders and not self.present_text_encoders:
            return self._saved(prompt, negative, options)
        return self.family.encode(self._whole, prompt, negative=negative, **options)

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
                gives the unconditional model at 0. Networks that were distilled with
                the scale as an input (LCM, FLUX.1 dev) are given the number as it is,
                1 by default; FLUX's pipeline in diffusers has 3.5.
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
        return self.family.denoiser(self._whole, model)  # type: ignore[return-value]

    @checked
    def conditional_denoiser(self, *, guided: bool = True) -> ConditionalModel:
        """Return the model with its condition as an argument, for batches.

        Args:
            guided: Whether any condition has a guidance scale above 1 (of FLUX, a
                ``true_cfg_scale``). If not, only the prompt of a condition has an
                effect, and the model is evaluated once per call instead of twice.

        Returns:
            A callable pytree ``(z, t, condition) -> f``; see :meth:`condition`. Samples
            with a scale of at most 1 use the conditional model alone.
        """
        self._check_network()
        guided = guided and self.family.has_negative(self._whole)
        model = PromptedModel(self.network, guided)
        return self.family.denoiser(self._whole, model)  # type: ignore[return-value]

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
        self._check_network()
        if isinstance(scale, float):
            self.family.check_guidance(self._whole, scale)
        free, name, options = scale, self.family.scale_option, dict(options)
        if name is not None:
            free = _one_scale(options.pop(name, 1.0), name)
        self.family.check_options(options)
        alone = not self.family.has_negative(self._whole)
        alone |= isinstance(free, float) and free <= 1
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
        found = self.family.condition(self._whole, positive, negative, scale)
        return found if negative is None else found._replace(guidance_scale=free)

    def _check_network(self) -> None:
        """Raise ValueError for a model that only encodes."""
        if is_abstract(self.network):
            raise ValueError(f"{self.name} was loaded without its network")

    def _saved(self, prompt: str, negative: bool, options: Mapping[str, Any]) -> PyTree:
        """Return the saved encoding of a prompt."""
        if self.prompts is None:
            raise ValueError(
                f"{self.name} was loaded without text encoders: pass what "
                "encode_prompt() returned, or load it with prompts= and a file of "
                "jaxinv.save_prompts"
            )
        if options:
            raise ValueError(
                f"{', '.join(options)} would have no effect on saved prompts"
            )
        return self.prompts.find(SavedPrompt(prompt, negative), self._whole)

    def _encoded(
        self, prompt: Any, negative: bool, options: Mapping[str, Any]
    ) -> PyTree:
        if prompt is None and self.text_encoders:
            raise ValueError(
                f"a prompt must be given to {self.name}; '' is the empty one"
            )
        if prompt is None or isinstance(prompt, str):
            return self.encode_prompt(prompt or "", negative=negative, **options)
        leaves = jax.tree.leaves(prompt)
        arrays = all(isinstance(x, jax.Array | np.ndarray) for x in leaves)
        given = jax.tree.map(jnp.asarray, prompt) if arrays else prompt
        fits = isinstance(given, self.family.encoding or object)
        if not leaves or not arrays or not fits:
            raise ValueError(
                "a prompt must be a string, or what encode_prompt() returns for "
                f"{self.family}; got {type(prompt).__name__}"
            )
        if self.text_encoders and np.ndim(leaves[0]) != 2:
            raise ValueError(
                "a prompt must be a string, or what encode_prompt() returns, with "
                f"vectors (l, d); got {type(prompt).__name__} of shape "
                f"{leaves[0].shape}"
            )
        return given


def is_abstract(network: Any) -> bool:
    """Return whether a network's parameters are shapes without values."""
    leaf = next(iter(jax.tree.leaves(network)), None)
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _one_scale(scale: Any, name: str = "guidance_scale") -> Any:
    """Return a scale as a number, or a tracer under a caller's jit."""
    if np.ndim(scale) != 0:
        raise ValueError(
            f"{name} must be one number, got an array of shape "
            f"{np.shape(scale)}; for one per sample, use jax.vmap"
        )
    if isinstance(scale, jax.core.Tracer):
        return scale
    try:
        number = float(scale)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, got {shown(scale)}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}")
    return number
